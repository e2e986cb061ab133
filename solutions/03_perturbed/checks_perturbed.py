"""The checks of unit 03. Thresholds are found by halving, laws by going through all that can happen, and the noise that
an answer drew is read off what it asks the solver."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlib import checks
from dynlib.checks import Task

# ---- all tasks

RULED_OUT = ("dynlib", "checks_perturbed", "numpy", "scipy", "sklearn", "entmax", "jaxopt")


def _by_hand(check: Task, *answers: Callable[..., Any]) -> None:
    check.by_hand(
        "by hand",
        *answers,
        without=RULED_OUT,
        tested="what your code imports, names and calls",
        likely="write it with PyTorch and Python's own library alone",
    )


@contextmanager
def _as_it_was(check: Task, tested: str, **inputs: Tensor) -> Iterator[None]:
    """A block that changes neither the inputs nor how torch is set."""
    dtype = torch.get_default_dtype()
    with check.untouched(tested=tested, **inputs):
        yield
    check.true(
        "torch as it was",
        torch.is_grad_enabled() and torch.get_default_dtype() == dtype,
        tested=f"grad mode and default dtype after your code ran; {tested}",
        expected=f"grad mode on, {dtype}",
        got=f"grad mode {'on' if torch.is_grad_enabled() else 'off'}, {torch.get_default_dtype()}",
        likely="with torch.no_grad(): puts the mode back at its end; set_grad_enabled and set_default_dtype do not",
    )


# ---- task 1: sparsemax

ROWS = torch.tensor(
    [
        [0.5, 2.0, 0.0, 1.4],  # two of the four get a weight
        [0.1, 0.0, -0.1, 0.2],  # all four
        [0.3, 0.1, 0.2, -0.4],  # three
        [3.0, -1.0, 0.5, 1.0],  # one
        [-5.0, -5.2, -4.9, -5.5],  # three, and every logit is below 0
    ],
    dtype=torch.float64,
)
SPARSE = (
    ("value", ROWS, -1),
    ("along dim", checks.normal(2, 3, 5, seed=1), 1),
    ("along dim", ROWS, 0),
    ("along dim", checks.normal(2, 3, 5, seed=4).transpose(0, 2), -2),
    ("ties", torch.tensor([[1.0, 0.0, 1.0], [2.0, 2.0, 2.0]]), -1),
    ("one row", ROWS[0], 0),
    ("a common number", torch.tensor([[200.0, 199.5, 199.25, -200.0], [-9000.1, -9000.6, -9000.3, -8999.7]]), -1),
    ("mixed magnitudes", torch.tensor([[0.0, -800.0, -801.0, 0.25], [1000.0, 3.0, 2.0, 0.0]]), -1),
    ("impossible choices", torch.tensor([[0.25, -math.inf, 1.0, 0.5]]), -1),
    ("many logits", (2 * checks.normal(1, 30, seed=6, dtype=torch.float64)).round() / 100, -1),
)


def sparsemax(check: Task, answer: Callable[..., Tensor], *, cases: Iterable[tuple[str, Tensor, int]] = SPARSE) -> None:
    """Task 1: the check's name, logits, and the dimension; values and gradients."""
    _by_hand(check, answer)
    for name, given, dim in cases:
        logits, exact = given.clone(), given.dtype == torch.float64
        on = f"logits {logits.tolist() if logits.numel() < 9 else list(logits.shape)}, {logits.dtype}, dim={dim}"
        expected = _along(by_halving, logits, dim)
        with _as_it_was(check, on, logits=logits):
            try:
                found = answer(logits, dim=dim)
            except (RuntimeError, IndexError) as error:
                if not logits.isinf().any():
                    raise
                told = f"{type(error).__name__}: {error}"
                check.true("runs", False, tested=on, expected="weights", got=told, likely=_INFINITE)
        moved = logits.movedim(dim, -1)
        check.equal(
            "shape",
            tuple(found.shape),
            tuple(logits.shape),
            tested=on,
            mistakes={"dim was moved to the end and not back": tuple(moved.shape)},
        )
        slips = {says: p.movedim(-1, dim) for says, p in _mistaken_weights(moved, expected.movedim(dim, -1)).items()}
        if moved.shape != logits.shape or not torch.equal(moved, logits):
            slips["that is dim=-1: dim makes no difference in your function"] = _along(by_halving, logits, -1)
        check.close(
            name,
            found,
            expected,
            tested=f"{on}; against halving the gap in which the threshold lies",
            tolerance=1e-10 if exact else 1e-6,
            likely=_COUNTED if found.isinf().any() else _SPARSE.get(name, _SPARSE["value"]),
            mistakes=slips,
        )
        _slopes_of_sparsemax(check, answer, logits, dim, expected, on)
    _two_in_turn(check, answer)


def by_halving(row: list[float]) -> list[float]:
    """The threshold lies between the largest logit - 1 and the largest: halve that gap until it is found."""
    low, high = max(row) - 1, max(row)
    for _ in range(80):
        middle = (low + high) / 2
        total = sum(max(z - middle, 0.0) for z in row)
        low, high = (middle, high) if total > 1 else (low, middle)
    return [z - high if z - high > 1e-15 else 0.0 for z in row]


def _along(make: Callable[[list[float]], list[float]], logits: Tensor, dim: int) -> Tensor:
    moved = logits.detach().double().movedim(dim, -1)
    made = torch.tensor([make(row) for row in moved.reshape(-1, moved.shape[-1]).tolist()], dtype=torch.float64)
    return made.view(moved.shape).movedim(-1, dim).to(logits.dtype)


_INFINITE = "a row that holds -inf has the mean -inf, and less that all is NaN: subtract the largest, not the mean"
_COUNTED = (
    "an infinite weight: with >= the entries of -inf are counted too, since -inf >= -inf is true, and tau falls to "
    "-inf: count with >"
)
_SPARSE = {
    "value": "sort downwards; the support is the largest k with 1 + k z_(k) > z_(1) + … + z_(k), and its k makes tau",
    "along dim": "sort, sum, count and gather all run along dim",
    "ties": "equal logits get equal weights, and all of them count",
    "impossible choices": "-inf times 0 is NaN: pick with gather or where, do not multiply by a mask",
    "a common number": "the sums of large numbers are rounded: subtract the largest logit of the row first",
    "one row": "logits [n], with no batch: dim counts the dimensions that are there",
    "mixed magnitudes": "subtract the largest logit of each row, not of all of them",
    "many logits": "the same rule for any number of logits, also where many of them are equal",
}


def _mistaken_weights(rows: Tensor, expected: Tensor) -> dict[str, Tensor]:
    """Along the last dimension."""
    n, near = rows.shape[-1], (1 + rows - rows.amax(-1, keepdim=True)).clamp_min(0)
    return {
        "that is softmax": rows.softmax(-1),
        "these are the right weights in sorted order: subtract tau from the logits as they came": expected.sort(
            dim=-1, descending=True
        ).values,
        "tau is taken over all n logits: sort downwards, and mind the factor k where you count the support": (
            rows - (rows.sum(-1, keepdim=True) - 1) / n
        ).clamp_min(0),
        "that is one-hot: weight 1 for the largest": torch.eye(n, dtype=rows.dtype)[rows.argmax(-1)],
        "the weights are divided by their sum: no, subtract one number from all logits": (
            (rows.clamp_min(0) / rows.clamp_min(0).sum(-1, keepdim=True)).nan_to_num()
        ),
        "max(0, 1 + z - largest), divided by its sum: each row has a threshold of its own, from its sum": (
            near / near.sum(-1, keepdim=True)
        ),
    }


def _slopes_of_sparsemax(
    check: Task, answer: Callable[..., Tensor], logits: Tensor, dim: int, expected: Tensor, on: str
) -> None:
    """Gradients, through a function in front of the logits, against central differences."""
    source = logits.clone().requires_grad_()
    weights = answer(source * 1, dim=dim)
    check.true(
        "has a gradient",
        weights.requires_grad,
        tested="whether a gradient can flow through the weights",
        expected="requires_grad=True",
        got=weights.requires_grad,
        likely="detach(), no_grad() or .tolist() between logits and weights",
    )
    arriving = checks.normal(*logits.shape, seed=2, dtype=logits.dtype)
    (got,) = torch.autograd.grad((weights * arriving).sum(), source, allow_unused=True)
    n, step = logits.shape[dim], 1e-6  # on the support all is linear
    moved, g = (t.double().movedim(dim, -1).reshape(-1, n) for t in (logits, arriving))

    def slope(row: list[float], place: int, direction: list[float]) -> float:
        ways = [[z + sign * step * (i == place) for i, z in enumerate(row)] for sign in (1, 0, -1)]
        up, here, down = (sum(p * g for p, g in zip(by_halving(way), direction, strict=True)) for way in ways)
        on_threshold = abs(up - 2 * here + down) > 1e-3 * step  # a kink: the slopes on both sides are right
        return math.nan if on_threshold else (up - down) / (2 * step)

    slopes = [[slope(row, i, way) for i in range(n)] for row, way in zip(moved.tolist(), g.tolist(), strict=True)]
    shape = logits.movedim(dim, -1).shape
    want = torch.tensor(slopes, dtype=logits.dtype).view(shape).movedim(-1, dim)
    got = torch.zeros_like(logits) if got is None else got
    want = torch.where(want.isnan(), got, want)
    held, mean = (expected > 0).to(logits), (expected * arriving).sum(dim, keepdim=True)
    largest = logits == logits.amax(dim, keepdim=True)
    by_largest = largest * (held * arriving).sum(dim, keepdim=True) / largest.sum(dim, keepdim=True)
    check.close(
        "gradient",
        got,
        want,
        tested=f"the gradient, against central differences; {on}",
        tolerance=1e-8 if logits.dtype == torch.float64 else 1e-5,
        likely="on the support it is g minus the mean of g over the support, elsewhere 0; -inf times 0 is NaN",
        mistakes={
            "tau moves with the logits too: do not detach it": arriving * held,
            "tau moves with the largest logit alone: the rest of it is detached, as when a gap below it is halved; "
            "take tau from the sum over the support, with its graph": held * arriving - by_largest,
            "no gradient reaches the logits": torch.zeros_like(logits),
            "the weights are divided by their sum: with a tau that moves with the logits they need no such thing": (
                (arriving - mean) * held
            ),
            "the mean of g is over all n: over the support alone": (arriving - arriving.mean(dim, keepdim=True)) * held,
            "that is the gradient of a softmax": expected * (arriving - mean),
        },
    )


def _two_in_turn(check: Task, answer: Callable[..., Tensor]) -> None:
    """Two calls with logits of one shape, then their gradients; the last dimension where none is named."""
    sources = [checks.normal(3, 5, seed=seed, dtype=torch.float64).requires_grad_() for seed in (8, 9)]
    arriving = checks.normal(3, 5, seed=10, dtype=torch.float64)
    for source, weights in [(source, answer(source)) for source in sources]:
        expected = _along(by_halving, source, -1)
        held = (expected > 0).double()
        slope = held * (arriving - (arriving * held).sum(-1, keepdim=True) / held.sum(-1, keepdim=True))
        (got,) = torch.autograd.grad((weights * arriving).sum(), source, allow_unused=True)
        for told, what, right in (("weights", weights.detach(), expected), ("gradient", got, slope)):
            check.close(
                "two calls in turn",
                what,
                right,
                tested=f"the {told} of two calls with other logits [3, 5], dim left out, both made before the first "
                "gradient is asked for",
                tolerance=1e-8,
                likely="what a call keeps for its gradient belongs to that call: ctx.save_for_backward, no list and no "
                "dictionary outside the function; dim is -1 where it is left out",
            )


# ---- task 2: leave_one_out and score_function_loss

REWARDS = (
    torch.tensor([1.0, 2.0, 6.0, -3.0]),
    torch.tensor([2.0, 2.0, 5.0]),
    torch.tensor([[1.0, 10.0], [2.0, 20.0], [6.0, -30.0]]),
)
LOSSES = (
    (torch.tensor([-0.5, -1.0, -2.0, -0.25]), REWARDS[0], torch.tensor([0.5, 3.0, 1.0, -1.0])),
    (torch.tensor([-0.5, -1.0, -2.0, -0.25]), REWARDS[0], 1.5),
    (torch.tensor([[-0.5, -1.0], [-2.0, -0.25]]).double(), REWARDS[0].view(2, 2).double(), None),
)
OUTCOMES = ((torch.tensor([0.2, 1.0, -0.7]), torch.tensor([10.0, 12.0, 7.0]), 3),)


def leave_one_out(
    check: Task,
    answer: Callable[[Tensor], Tensor],
    score_function_loss: Callable[..., Tensor],
    *,
    rewards: Iterable[Tensor] = REWARDS,
    losses: Iterable[tuple[Tensor, Tensor, Any]] = LOSSES,
    outcomes: Iterable[tuple[Tensor, Tensor, int]] = OUTCOMES,
) -> None:
    """Task 2: rewards; log-probabilities with rewards and a baseline, or None; and, to go through all that can happen,
    logits with what each choice earns and a number of samples."""
    _by_hand(check, answer, score_function_loss)
    for given in rewards:
        _baseline(check, answer, given.clone())
    check.raises(
        "one sample",
        ValueError,
        lambda: answer(torch.ones(1, 3)),
        tested="rewards [1, 3]: there are no others",
        likely="0 / 0 is NaN, and training goes on with it: raise ValueError if m < 2",
    )
    for log_prob, reward, baseline in losses:
        _loss(check, score_function_loss, log_prob.clone(), reward.clone(), baseline)
    for logits, earned, samples in outcomes:
        _unbiased(check, answer, score_function_loss, logits.double().requires_grad_(), earned.double(), samples)


def _exact(numbers: Tensor) -> float:
    return 1e-10 if numbers.dtype == torch.float64 else 1e-6


def _baseline(check: Task, answer: Callable[[Tensor], Tensor], rewards: Tensor) -> None:
    m, flat = len(rewards), rewards.ndim == 1
    others = torch.stack([torch.stack([rewards[j] for j in range(m) if j != i]).mean(0) for i in range(m)])
    on = f"the rewards {rewards.tolist() if rewards.numel() < 9 else list(rewards.shape)}, {rewards.dtype}"
    with _as_it_was(check, on, rewards=rewards):
        found = answer(rewards)
    slips = {
        "the mean of all: a sample's own reward is in its baseline, and the gradient shrinks to (m - 1) / m": (
            rewards.mean(0).expand_as(rewards)
        ),
        "the sum of the others is divided by m: there are m - 1 of them": others * (m - 1) / m,
        "the sum of the others: take their mean": others * (m - 1),
        "that is the reward minus the baseline: give the baseline": rewards - others,
        "that is the mean of all but the first": others[:1].expand_as(rewards),
    }
    if not flat:
        last = rewards.shape[-1]
        slips |= {
            "you leave out along the last dimension": (rewards.sum(-1, keepdim=True) - rewards) / max(last - 1, 1),
            "you leave out of all numbers": (rewards.sum() - rewards) / (rewards.numel() - 1),
            "you take a reward from the sum of all problems: sum(0)": (rewards.sum() - rewards) / (m - 1),
            "the number of others is m - 1, and m is the length of the first dimension, not numel()": (
                (rewards.sum(0) - rewards) / (rewards.numel() - 1)
            ),
        }
    check.close(
        "baseline" if flat else "first dimension",
        found,
        others,
        tested=on,
        tolerance=_exact(rewards),
        likely="for each sample the mean reward of the others"
        if flat
        else "samples lie along the first dimension, and problems do not mix",
        mistakes=slips,
    )


def _loss(check: Task, answer: Callable[..., Tensor], log_prob: Tensor, reward: Tensor, baseline: Any) -> None:
    shape, n = log_prob.shape, log_prob.numel()
    b = torch.zeros(shape) if baseline is None else torch.as_tensor(baseline)
    b = b.to(reward.dtype).expand(shape).clone()
    pushes = [one - other for one, other in zip(reward.flatten().tolist(), b.flatten().tolist(), strict=True)]
    value = -sum(push * p for push, p in zip(pushes, log_prob.flatten().tolist(), strict=True)) / n
    on = f"{n} samples {list(shape)} with rewards and log-probabilities, "
    on += "no baseline" if baseline is None else "baselines" if isinstance(baseline, Tensor) else f"baseline={baseline}"
    inputs = [log_prob.requires_grad_(), reward.clone().requires_grad_()]
    if isinstance(baseline, Tensor):
        baseline = baseline.clone().requires_grad_()
        inputs.append(baseline)
    told = [] if baseline is None else [baseline]
    with _as_it_was(check, on, log_prob=inputs[0], reward=inputs[1]):
        loss = answer(inputs[0], inputs[1], *told)
    check.true(
        "a tensor",
        isinstance(loss, Tensor),
        tested=on,
        expected="a tensor with a graph",
        got=loss,
        likely=".item() takes the graph away: what is minimised stays a tensor",
    )
    check.equal("one number", tuple(loss.shape), (), tested=on, likely="the mean over all of them")
    p, push = log_prob.detach(), reward - b
    check.close(
        "value",
        loss.detach(),
        torch.tensor(value, dtype=reward.dtype),
        tested=on,
        tolerance=_exact(reward),
        likely="-mean((reward - baseline) log_prob)",
        mistakes={
            "the sign: the optimiser minimises, and a larger reward is better": torch.tensor(-value).to(p),
            "that is the sum over the samples: take the mean": torch.tensor(n * value).to(p),
            "the baseline is missing": -(reward * p).mean(),
            "the baseline is added: subtract it": -((reward + b) * p).mean(),
            "the advantages are divided by their standard deviation: that is another gradient": (
                -(push / push.std() * p).mean()
            ),
            "the brackets: subtract the baseline from the reward, then multiply by log_prob": -(reward * p - b).mean(),
            "the log-probabilities have become probabilities": -(push * p.exp()).mean(),
        },
    )
    check.true(
        "has a gradient",
        loss.requires_grad,
        tested="whether a gradient can flow through the loss",
        expected="requires_grad=True",
        got=loss.requires_grad,
        likely="detach the advantage alone, not log_prob",
    )
    got = torch.autograd.grad(loss, inputs, allow_unused=True)
    check.close(
        "gradient",
        torch.zeros_like(p) if got[0] is None else got[0],
        torch.tensor(pushes, dtype=p.dtype).view(shape) / -n,
        tested=f"the gradient that reaches log_prob: minus the advantage, over {n}; {on}",
        tolerance=_exact(reward),
        likely="log_prob has to stand in the loss once, without detach()",
    )
    for name, reached in zip(("no gradient of the reward", "no gradient of the baseline"), got[1:], strict=False):
        check.true(
            name,
            reached is None or not reached.any(),
            tested="a reward and a baseline that come with a gradient",
            expected="none of it is used",
            got=reached,
            likely="detach (reward - baseline): how the reward came about is not part of the estimate",
        )


def _unbiased(
    check: Task,
    answer: Callable[[Tensor], Tensor],
    score_function_loss: Callable[..., Tensor],
    logits: Tensor,
    earned: Tensor,
    m: int,
) -> None:
    """All that can happen, with its probability. No statistics."""
    (exact,) = torch.autograd.grad((logits.softmax(0) * earned).sum(), logits)
    mean = torch.zeros_like(exact)
    for drawn in itertools.product(range(len(logits)), repeat=m):
        z = torch.tensor(drawn)
        chances = logits.log_softmax(0)[z]
        loss = score_function_loss(chances, earned[z], answer(earned[z]))
        mean -= chances.sum().exp().item() * torch.autograd.grad(loss, logits)[0]
    check.close(
        "unbiased",
        mean,
        exact,
        tested=f"the mean gradient over all {len(logits) ** m} outcomes of {m} samples, against that of the expected "
        "reward",
        tolerance=1e-10,
        mistakes={
            "the gradient shrinks to (m - 1) / m: a sample's own reward is in its baseline": exact * (m - 1) / m,
            "the gradient points the wrong way": -exact,
        },
    )


# ---- task 3: subset_marginals

LOG_WEIGHTS = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64).log()
SUBSETS = (
    ("law", LOG_WEIGHTS, 2),
    ("law", LOG_WEIGHTS.float(), 2),
    ("other k", LOG_WEIGHTS, 1),
    ("other k", LOG_WEIGHTS, 3),
    ("k = 0", LOG_WEIGHTS, 0),
    ("k = n", LOG_WEIGHTS, 4),
    ("one thing", LOG_WEIGHTS[3:], 1),
    ("other weights", torch.tensor([5.0, 1.0, 3.0, 0.5], dtype=torch.float64).log(), 2),
    ("large weights", LOG_WEIGHTS + 800, 2),
    ("mixed magnitudes", torch.tensor([5.0, 800.0, -800.0, 799.0, 0.0], dtype=torch.float64), 3),
    ("never chosen", torch.tensor([0.5, -math.inf, 1.0, -0.5]), 2),
    ("beside a huge weight", torch.tensor([0.0, 25.0, -1.5, -20.0, 1.0], dtype=torch.float64), 2),
    ("many things", math.log(3) * (torch.arange(60) % 4 < 2), 30),
)


def subset_marginals(
    check: Task, answer: Callable[[Tensor, int], Tensor], *, cases: Iterable[tuple[str, Tensor, int]] = SUBSETS
) -> None:
    """Task 3: the check's name, log-weights and k; where there are too many sets, the weights are of two sizes."""
    _by_hand(check, answer)
    for name, given, k in cases:
        s, n = given.clone(), len(given)
        on = f"log-weights {[round(x, 3) for x in s.tolist()] if n < 9 else f'[{n}], of two sizes'}, {s.dtype}, k = {k}"
        few = math.comb(n, k) < 10_000
        right = by_enumeration(s.tolist(), k) if few else of_two_sizes(s.tolist(), k)
        if not few:  # a list of them would fill the memory before any clock could stop it
            check.by_hand(
                "many things",
                answer,
                without=("itertools.combinations", "torch.combinations"),
                tested=f"your code, before it is run on {math.comb(n, k):.0e} sets: {k} of {n} things",
                likely="you go through all sets: a list of them has no room; count them, in n steps of k numbers",
            )
        with _as_it_was(check, on, log_weights=s):
            found = answer(s, k)
        check.equal(
            "dtype",
            getattr(found, "dtype", type(found)),
            s.dtype,
            tested=on,
            likely="compute in what you like, and convert at the end: .to(log_weights.dtype)",
        )
        slips = _mistaken_marginals(s.double(), k, right) if name in ("law", "other k") and n < 6 else {}
        plain = float(s.abs().max()) < 100 and n < 100
        near = found.shape == right.shape and bool((found.double() - right).abs().max() < 1e-3)
        tolerance = 1e-9 if s.dtype == torch.float64 else 1e-3 if not plain else 1e-5 if few else 1e-4
        check.close(
            name,
            found,
            right.to(s.dtype),
            tested=f"{on}; against {'all sets' if few else 'counting how many of each size are chosen'}",
            tolerance=tolerance,
            likely=_ROUNDED
            if near
            else _ALL_NAN
            if found.isnan().all()
            else _NAN
            if found.isnan().any()
            else _SUBSETS.get(name, _SUBSETS["other k"]),
            mistakes={says: wrong.to(s.dtype) for says, wrong in slips.items()},
        )
        barred = s == -math.inf
        check.true(
            "never chosen",
            not found[barred].any(),
            tested=on,
            expected="probability 0, exactly, where a log-weight is -inf",
            got=found,
            likely="a weight of 0, no small one: logaddexp and logsumexp take -inf as it is",
        )
        if s.dtype == torch.float64 and k:
            some = right > 0
            check.close(
                name,
                found[some].log(),
                right[some].log(),
                tested=f"the logarithms of the probabilities; {on}",
                tolerance=tolerance,
                likely=_SUBSETS["beside a huge weight"],
            )


def by_enumeration(log_weights: Sequence[float], k: int) -> Tensor:
    """Go through all sets."""
    n, sets = len(log_weights), list(itertools.combinations(range(len(log_weights)), k))
    logs = [sum(log_weights[i] for i in chosen) for chosen in sets]
    weights = [math.exp(log - max(logs)) for log in logs]
    holds = [math.fsum(w for w, chosen in zip(weights, sets, strict=True) if i in chosen) for i in range(n)]
    return torch.tensor(holds, dtype=torch.float64) / math.fsum(weights)


def of_two_sizes(log_weights: Sequence[float], k: int) -> Tensor:
    """Weights of two sizes only: how many of the large ones are chosen follows from counting, one is as likely as
    another."""
    small, large = sorted(set(log_weights))
    many, n = log_weights.count(large), len(log_weights)
    ways = [math.comb(many, j) * math.comb(n - many, k - j) * math.exp((large - small) * j) for j in range(k + 1)]
    mean = math.fsum(j * way for j, way in enumerate(ways)) / math.fsum(ways)
    shares = {large: mean / many, small: (k - mean) / (n - many)}
    return torch.tensor([shares[x] for x in log_weights], dtype=torch.float64)


def one_after_another(log_weights: Sequence[float], k: int) -> Tensor:
    """The other law: draw one, put it aside, draw the next among the rest (Gumbel noise and top-k)."""
    w, shares = [math.exp(x) for x in log_weights], [0.0] * len(log_weights)
    for order in itertools.permutations(range(len(w)), k):
        left, p = sum(w), 1.0
        for i in order:
            p, left = p * w[i] / left, left - w[i]
        shares = [share + p * (i in order) for i, share in enumerate(shares)]
    return torch.tensor(shares, dtype=torch.float64)


_ROUNDED = (
    "right to a few digits, and float32 has seven of them: sum in float64, and make no small probability as the "
    "difference of two larger ones"
)
_NAN = (
    "NaN: -inf minus -inf is NaN, and so is the gradient of logaddexp(-inf, -inf). If you differentiate log e_k, let "
    "the empty places hold a large negative number, -1e30, in place of -inf"
)
_ALL_NAN = (
    "NaN everywhere. exp(800) is inf and exp(-800) is 0, and a ratio of these is NaN: logarithms all the way, as it is "
    "not enough to take off the largest. With a log-weight of -inf it may be -inf minus -inf, or logaddexp's gradient"
)
_SUBSETS = {
    "law": "P(i in S) = w_i e_{k-1}(all but i) / e_k(all): j of the others before i, k - 1 - j after it",
    "other k": "j of those before i and k - 1 - j of those after it, for every j from 0 to k - 1",
    "large weights": "exp overflows: keep e_j as logarithms, add with torch.logaddexp or logsumexp",
    "small weights": "exp underflows to 0: stay in logarithms",
    "many things": "the sets cannot be gone through, and no formula of the single weights is exact: count them",
    "other weights": "nothing may be kept from an earlier call: the weights are others",
    "mixed magnitudes": "where the weights are far apart exp(s - largest) underflows, and a difference of nearly "
    "equal numbers has no digits left: stay in logarithms, and never subtract",
    "beside a huge weight": "a difference of two nearly equal numbers: go from the left and from the right, and never "
    "subtract",
    "never chosen": "-inf minus -inf is NaN",
}


def _mistaken_marginals(s: Tensor, k: int, right: Tensor) -> dict[str, Tensor]:
    n, w = len(s), s.exp()

    def total(sets: Iterable[tuple[int, ...]]) -> Tensor:
        return torch.stack([w[list(chosen)].prod() for chosen in sets]).sum()

    every = total(itertools.combinations(range(n), k))
    others = [total(itertools.combinations([j for j in range(n) if j != i], k)) for i in range(n)] if k < n else [every]
    return {
        "that is the law of Gumbel noise and top-k, one after another: not this one": one_after_another(s.tolist(), k),
        "those are the logarithms of the probabilities: take exp": right.log(),
        "the weight of i itself is missing": right / w,
        "k softmax(s): those are no probabilities, one of them is above 1": k * s.softmax(0),
        "k softmax(s), cut at 1: those are no probabilities that sum to k": (k * s.softmax(0)).clamp_max(1),
        "e_{k-1} is that of all things: i itself must not be among the others": w
        * total(itertools.combinations(range(n), k - 1))
        / every,
        "a thing is taken twice: compute the new e_j from the old e_{j-1}": right
        * every
        / total(itertools.combinations_with_replacement(range(n), k)),
        "softmax(s): that is k = 1": s.softmax(0),
        "sigmoid(s): coins on their own, which do not know of k": s.sigmoid(),
        "sigmoid(s), scaled to sum to k: coins on their own do not become a set of k so": s.sigmoid()
        * k
        / s.sigmoid().sum(),
        "that is e_{k-1} of the others without w_i": (right / w) / (right / w).sum() * k,
        "these are the probabilities not to be in S": 1 - right,
        "the others are k, not k - 1": w * torch.stack(others) / every,
        "the probabilities sum to k, not to 1": right / k,
    }


# ---- tasks 4 and 5: any solver at all


class Problems(NamedTuple):
    """So many problems of n scores, tried with a solver that takes the ``chosen`` largest of each."""

    b: int
    n: int
    samples: int
    sigma: float
    chosen: int = 1
    dtype: torch.dtype = torch.float64

    def solve(self, scores: Tensor) -> Tensor:
        """Ones at the largest scores of each row."""
        return torch.zeros_like(scores).scatter(-1, scores.topk(self.chosen).indices, 1.0)

    def __str__(self) -> str:
        which = "the largest" if self.chosen == 1 else f"the {self.chosen} largest"
        of = f"{self.b} problems of {self.n} scores, {self.dtype}"
        return f"solver: {which}; {of}, {self.samples} samples, sigma = {self.sigma:g}"


class Asked:
    """A solver that notes what it is asked, and whether it was asked with a graph."""

    def __init__(self, solver: Callable[[Tensor], Tensor]) -> None:
        self.solver = solver
        self.scores: list[Tensor] = []

    def __call__(self, scores: Tensor) -> Tensor:
        self.scores.append(scores)
        return self.solver(scores)


class Read(NamedTuple):
    """What was read off the solver's scores."""

    rows: Tensor  # [samples, b, n]
    noise: Tensor
    vertices: Tensor


def apart(b: int, n: int, dtype: torch.dtype) -> Tensor:
    """Problems told apart by 1000 more in all scores of each next one, which changes no solution."""
    return checks.normal(b, n, seed=b, dtype=dtype) + 1000.0 * torch.arange(b, dtype=dtype)[:, None]


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def _read(check: Task, asked: Asked, theta: Tensor, problems: Problems) -> Read:
    """Looks at what the solver was asked; from the rows, in any order, the noise of each problem."""
    b, n, samples, sigma, chosen, _ = problems
    check.equal(
        "one call",
        len(asked.scores),
        1,
        tested=f"how often the solver is called; {problems}",
        mistakes={
            "once for every sample: stack the samples and call it once": samples,
            "once for every problem: all problems go in one call": b,
            "once for every sample of every problem: all go in one call": samples * b,
            "once is enough: value and gradient are made of the same answers, and none is asked for without noise": 2,
            "the solver was not asked at all": 0,
        },
        likely="the solver gets all samples of all problems at once",
    )
    (given,) = asked.scores
    check.equal(
        "rows",
        tuple(given.shape),
        (samples * b, n),
        tested=f"what the solver is given; {problems}",
        likely="one row for every sample of every problem: reshape(samples * b, n)",
        mistakes={
            "samples and problems are to become rows: reshape(samples * b, n)": (samples, b, n),
            "problems and samples are to become rows: reshape(samples * b, n)": (b, samples, n),
            "one row a problem, without noise, is a perceptron: draw noise for each sample": (b, n),
        },
    )
    check.true(
        "no graph for the solver",
        not given.requires_grad,
        tested="the scores that the solver is given, for a theta that requires a gradient",
        expected="requires_grad=False",
        got=given.requires_grad,
        likely="theta.detach(), or torch.no_grad(), for the solver's scores: a solver may be any program",
    )
    check.equal(
        "dtype",
        given.dtype,
        theta.dtype,
        tested=f"the dtype of the solver's scores; {problems}",
        likely="torch.randn gives float32 unless it is told dtype=theta.dtype; .float() loses digits",
    )
    whose = (given[:, None] - theta.detach()).abs().sum(-1).argmin(1)
    rows = [given[whose == problem] for problem in range(b)]
    check.equal(
        "rows of each problem",
        [len(some) for some in rows],
        [samples] * b,
        tested=f"how many of the rows are about each problem; {problems}",
        likely="every problem is asked M times: expand theta to [M, b, n]",
    )
    scores = torch.stack(rows, dim=1)
    noise = (scores - theta.detach()) / sigma
    check.true(
        "noise of its own",
        b == 1 or float((noise[:, 0] - noise[:, 1]).abs().max()) > 1e-6,
        tested="the noise of the first two problems of one call",
        expected="different numbers",
        got=noise[0, :2],
        likely="one [M, n] of noise for the whole batch: draw [M, b, n]",
    )
    check.true(
        "new noise for each sample",
        samples == 1 or float((noise[0] - noise[1]).abs().max()) > 1e-6,
        tested="the noise of the first two samples of one call",
        expected="different numbers",
        got=noise[:2, 0],
        likely="one [b, n] of noise for all samples: draw [M, b, n]",
    )
    best = [[_best(row, chosen) for row in of] for of in scores.tolist()]
    vertices = torch.tensor([[[float(i in some) for i in range(n)] for some in of] for of in best], dtype=theta.dtype)
    return Read(scores, noise, vertices)


def _best(row: list[float], chosen: int) -> tuple[int, ...]:
    """Of all sets of so many places, that with the largest sum."""
    return max(itertools.combinations(range(len(row)), chosen), key=lambda some: sum(row[i] for i in some))


def _generator(check: Task, call: Callable[[torch.Generator | None], Tensor]) -> None:
    """The same seed, the same draws; nothing of the global generator where one is given; and a generator goes on."""
    torch.rand(1)  # a state that no seed gives at once
    before = torch.get_rng_state()
    first, again = (call(seeded(5)).detach() for _ in range(2))
    check.equal(
        "generator",
        again,
        first,
        tested="two calls with generators of the same seed",
        likely="the noise does not come from the generator that was given",
    )
    check.true(
        "global generator",
        torch.equal(before, torch.get_rng_state()),
        tested="torch's global generator, before and after calls with another one",
        expected="its state untouched",
        likely="some of the noise still comes from the global generator, or the function seeds it",
    )
    one = seeded(11)
    check.true(
        "the generator goes on",
        not torch.equal(call(one), call(one)),
        tested="two calls with one generator object",
        expected="different draws",
        likely="use the generator itself, not a fresh one with its seed",
    )
    check.true(
        "new draws in each call",
        not torch.equal(call(None), call(None)),
        tested="two calls without a generator",
        expected="different draws",
        likely="nothing is seeded inside the function",
    )
    kept = []
    for _ in range(2):
        torch.manual_seed(3)
        kept.append(call(None).detach())
    check.equal(
        "torch's generator",
        kept[1],
        kept[0],
        tested="torch.manual_seed(3) and a call without a generator, twice",
        likely="the noise comes from torch, not from `random` or the clock",
    )


ARGMAX = (Problems(3, 4, 7, 0.5), Problems(3, 4, 7, 2.0, 2))


def perturbed_argmax(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    cases: Iterable[Problems] = ARGMAX,
    noise: Iterable[tuple[int, float]] = (),
) -> None:
    """Task 4: problems of every kind, the law of two scores, generators; the noise of so many samples at a sigma."""
    _by_hand(check, answer)
    done = [(problems, *_value_of_argmax(check, answer, problems)) for problems in cases]  # all before any gradient
    # Of two scores the first wins where sigma (Z_2 - Z_1) < gap: with probability Phi(gap / (sigma √2)).
    gap, draws = torch.tensor(3.0, dtype=torch.float64), 20_000
    pair, two = torch.stack([gap, gap * 0])[None], Problems(1, 2, draws, 2.0)
    won = answer(two.solve, pair, samples=draws, sigma=2.0)[0, 0]
    counts = torch.stack([draws * won, draws * (1 - won)]).round().long()

    def chance(x: Tensor) -> Tensor:
        return torch.stack([torch.special.ndtr(x), torch.special.ndtr(-x)])

    check.frequencies(
        "law",
        torch.repeat_interleave(torch.arange(2), counts.clamp_min(0)),
        chance(gap / (2 * math.sqrt(2))),
        tested="the scores 3, 0 with sigma = 2 and 20,000 samples: how often the first and the second wins (χ² test)",
        likely="theta + sigma Z with independent standard normal Z",
        mistakes={
            "the second never wins: there is no noise, or the same for all the scores of a row, or noise that ends, as "
            "torch.rand's does: torch.randn": torch.tensor([1.0, 0.0]),
            "that is sigma = 1: multiply the noise by sigma": chance(gap / math.sqrt(2)),
            "that is noise sigma² Z": chance(gap / (4 * math.sqrt(2))),
            "that is noise sqrt(sigma) Z": chance(gap / 2),
            "that is noise Z / sigma": chance(gap * math.sqrt(2)),
            "that is Gumbel noise: normal noise here": torch.stack([gap / 2, -gap / 2]).sigmoid(),
        },
    )
    for problems, source, mean, asked, read in done:
        _gradient_of_argmax(check, problems, source, mean, asked, read)
    theta = apart(3, 4, torch.float64).requires_grad_()
    _generator(check, lambda generator: answer(Problems(3, 4, 50, 1.0).solve, theta, samples=50, generator=generator))
    with torch.no_grad():
        total = answer(two.solve, theta).sum().item()
    check.close("under no_grad", total, 3.0, tested="a call in no_grad(): the sum of three rows of weights")
    plain = answer(two.solve, theta.detach())
    check.true("nothing to learn", not plain.requires_grad, tested="a theta without gradient", expected="no gradient")
    for samples, sigma in noise:
        _noise(check, answer, samples, sigma)


def _value_of_argmax(
    check: Task, answer: Callable[..., Tensor], problems: Problems
) -> tuple[Tensor, Tensor, Asked, Read]:
    b, n, samples, sigma, chosen, dtype = problems
    source = apart(b, n, dtype).requires_grad_()
    theta, asked = source * 1, Asked(problems.solve)
    with _as_it_was(check, str(problems), theta=theta):
        mean = answer(asked, theta, samples=samples, sigma=sigma)
    check.equal("shape", tuple(mean.shape), (b, n), tested=str(problems))
    read = _read(check, asked, theta, problems)
    _, noise, vertices = read
    check.equal("dtype", mean.dtype, dtype, tested=f"the dtype of the result; {problems}")
    tolerance = 1e-8 if dtype == torch.float64 else 1e-4
    plain = theta.detach()
    carries = (vertices * (noise * plain).sum(-1, keepdim=True)).mean(0) / sigma
    check.close(
        "value" if chosen == 1 else "another solver",
        mean.detach(),
        vertices.mean(0),
        tested=f"the mean of the answers to what you asked, problem by problem; {problems}",
        tolerance=tolerance,
        likely="take the answers apart in the order in which the rows were put together: [M, b, n] both times",
        mistakes={
            "that is the answer without noise": problems.solve(plain),
            "the sum over the samples: take the mean": vertices.sum(0),
            "the answers are scaled by sigma": vertices.mean(0) * sigma,
            "that carries the gradient and is not the value: add it to the mean, minus itself detached": carries,
            "what carries the gradient is still in the value: take it off again, detached": vertices.mean(0) + carries,
        },
    )
    return source, mean, asked, read


def _gradient_of_argmax(
    check: Task, problems: Problems, source: Tensor, mean: Tensor, asked: Asked, read: Read
) -> None:
    b, n, samples, sigma, _, dtype = problems
    _, noise, vertices = read
    plain, tolerance = source.detach(), 1e-8 if dtype == torch.float64 else 1e-4
    check.true(
        "has a gradient",
        mean.requires_grad,
        tested="whether a gradient can flow through the result",
        expected="requires_grad=True",
        got=mean.requires_grad,
        likely="the answers have no gradient: give them one, with an autograd function or a zero that carries it",
    )
    arriving = checks.normal(b, n, seed=b + 10, dtype=dtype)
    got, again = (
        torch.zeros_like(plain) if slope is None else slope
        for first in (True, False)
        for slope in torch.autograd.grad((mean * arriving).sum(), source, allow_unused=True, retain_graph=first)
    )
    expected = torch.zeros_like(plain)
    for m, i in itertools.product(range(samples), range(b)):
        expected[i] += (vertices[m, i] @ arriving[i]) * noise[m, i] / (sigma * samples)
    own = torch.einsum("mbn,bn->bn", vertices * noise, arriving) / (sigma * samples)
    check.close(
        "gradient",
        got,
        expected,
        tested=f"the gradient at theta for the noise that you drew; {problems}",
        tolerance=tolerance,
        likely="asked twice for one gradient it gives two: backwards you draw new noise; keep that of the forward pass"
        if not torch.equal(got, again)
        else "for each problem 1/(sigma M) sum_m <y_m, g> Z_m: a number for each sample, times the noise "
        "that this very answer saw: draw once",
        mistakes={
            "sigma is forgotten, or it hides in the noise: <y_m, g> Z_m / sigma, with Z and not sigma Z": expected
            * sigma,
            "divided by sigma twice": expected / sigma,
            "you multiply by sigma: divide by it": expected * sigma**2,
            "the sum over the samples: divide by M": expected * samples,
            "the sign is turned": -expected,
            "no gradient reaches theta": torch.zeros_like(plain),
            "g passes through as if the solver were the identity": arriving,
            "y and Z have changed places: <y_m, g> is the number, Z_m is what it multiplies": torch.einsum(
                "mbn,bn,mbk->bk", noise, arriving, vertices
            )
            / (sigma * samples),
            "y and Z are multiplied score by score: <y_m, g> is one number, a sum over the scores": own,
            "<y_m, g> is summed over the problems too: each has its own": torch.einsum(
                "mbn,bn,mck->ck", vertices, arriving, noise
            )
            / (sigma * samples),
            "averaged over the problems: each has its own gradient": expected / b,
        },
    )
    check.equal(
        "no call in backward",
        len(asked.scores),
        1,
        tested="how often the solver was called, the backward pass included",
        likely="keep noise and answers of the forward pass",
    )


def _noise(check: Task, answer: Callable[..., Tensor], samples: int, sigma: float) -> None:
    """The noise itself, as the solver sees it, of two problems of three scores."""
    theta, asked = (
        torch.tensor([[0.5, 0.0, -0.5], [1000.5, 1000.0, 999.5]]),
        Asked(Problems(2, 3, samples, sigma).solve),
    )
    answer(asked, theta, samples=samples, sigma=sigma)
    (rows,) = asked.scores
    one, other = (((rows[(rows[:, 0] > 500) == far] - theta[int(far)]) / sigma) for far in (False, True))
    edges = torch.tensor([-1.5, -0.5, 0.5, 1.5])
    shares = torch.cat([torch.zeros(1), torch.special.ndtr(edges), torch.ones(1)]).diff()
    place, beside, half = (
        torch.bucketize(one.contiguous(), edges),
        torch.bucketize(other[:, 0].contiguous(), edges),
        samples // 2,
    )
    both = torch.outer(shares, shares).flatten()
    check.frequencies(
        "normal noise",
        place,
        shares,
        tested=f"{place.numel()} numbers of your noise: how many are below -1.5, -0.5, 0.5, 1.5 (χ² test)",
        likely="torch.randn",
    )
    first = place[:, 0]
    pairs = {
        "independent scores": (
            first,
            place[:, 1],
            "the first two scores of a row",
            "one number of noise for every score",
        ),
        "independent problems": (first, beside, "two problems", "every problem has its own noise"),
        "independent samples": (first[:half], first[half : 2 * half], "two samples", "every sample has its own noise"),
    }
    for name, (a, b, of, likely) in pairs.items():
        tested = f"{len(a)} pairs: the noise of {of} (χ² test)"
        check.frequencies(name, a * 5 + b, both, tested=tested, likely=likely)
    check.frequencies(
        "independent samples",
        first[0 : 2 * half : 2] * 5 + first[1 : 2 * half : 2],
        both,
        tested=f"{half} pairs: the noise of two samples that follow each other (χ² test)",
        likely="every sample has its own noise: not that of the last one with the sign turned",
    )


FENCHEL = (Problems(3, 4, 5, 1.5), Problems(3, 4, 5, 0.5, 2))
MAXIMA = ((20_000, 2.0), (20_000, 0.5))


def fenchel_young(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    cases: Iterable[Problems] = FENCHEL,
    slopes: Iterable[tuple[float, int]] = (),
    maxima: Iterable[tuple[int, float]] = MAXIMA,
    noise: Iterable[tuple[int, float]] = (),
) -> None:
    """Task 5: problems of every kind, generators; finite differences at a sigma under a seed; the mean of the maxima
    over so many samples at a sigma; the noise of so many samples."""
    _by_hand(check, answer)
    done = [_value_of_fenchel_young(check, answer, problems) for problems in cases]  # all before any gradient
    for ask_gradient in done:
        ask_gradient()
    solve, theta = Problems(3, 4, 1, 1.0).solve, apart(3, 4, torch.float64).requires_grad_()
    target = _targets(Problems(3, 4, 1, 1.0))
    _generator(check, lambda generator: answer(solve, theta, target, generator=generator))
    with torch.no_grad():
        shape = tuple(answer(solve, theta, target).shape)
    check.equal("under no_grad", shape, (3,), tested="a call in no_grad()")
    for sigma, seed in slopes:
        _slopes_of_fenchel_young(check, answer, sigma, seed)
    for samples, sigma in maxima:
        _mean_of_maxima(check, answer, samples, sigma)
    for samples, sigma in noise:
        _noise(check, lambda solver, theta, **how: answer(solver, theta, 0 * theta, **how), samples, sigma)


def _targets(problems: Problems) -> Tensor:
    """One solution for each problem, or the mean of two where several are chosen."""
    sets = list(itertools.combinations(range(problems.n), problems.chosen))
    target = torch.zeros(problems.b, problems.n, dtype=problems.dtype)
    for i in range(problems.b):
        picked = [sets[(2 + 3 * i) % len(sets)]] if problems.chosen == 1 else [sets[i], sets[-1 - i]]
        for some in picked:
            target[i, list(some)] += 1 / len(picked)
    return target


def _value_of_fenchel_young(check: Task, answer: Callable[..., Tensor], problems: Problems) -> Callable[[], None]:
    """Looks at the value, and gives what looks at the gradient."""
    b, n, samples, sigma, chosen, dtype = problems
    source, target = apart(b, n, dtype).requires_grad_(), _targets(problems)
    theta, asked = source * 1, Asked(problems.solve)
    with _as_it_was(check, str(problems), theta=theta, target=target):
        loss = answer(asked, theta, target, samples=samples, sigma=sigma)
    check.equal(
        "shape",
        tuple(loss.shape),
        (b,),
        tested=str(problems),
        mistakes={"one number for each problem: no sum or mean over the batch": ()},
    )
    rows, noise, vertices = _read(check, asked, theta, problems)
    check.equal("dtype", loss.dtype, dtype, tested=f"the dtype of the loss; {problems}")
    plain, mean, tolerance = theta.detach(), vertices.mean(0), 1e-8 if dtype == torch.float64 else 1e-4
    at_target, best = (plain * target).sum(-1), (vertices * rows).sum(-1)
    value = best.mean(0) - at_target
    off = (mean - target).square().sum(-1)
    check.close(
        "value" if chosen == 1 else "another solver",
        loss.detach(),
        value,
        tested=f"the loss for the noise that you drew; {problems}",
        tolerance=tolerance,
        likely="the mean over the samples of <y_m, theta + sigma Z_m>, minus <theta, target>: sums over all scores, "
        "whatever the solver",
        mistakes={
            "the sign: F comes first, <theta, y> is subtracted": -value,
            "<theta, y> is added: subtract it": value + 2 * at_target,
            "that is the squared distance of the mean answer to y: its gradient is not their difference": off,
            "half the squared distance of the mean answer to y: its gradient is something else": off / 2,
            "that is the maximum without noise (a perceptron): the solver has to see theta + sigma Z": (
                (problems.solve(plain) * plain).sum(-1) - at_target
            ),
            "the noise is missing in the maximum: <y_m, theta + sigma Z_m>, not <y_m, theta>": (
                (mean * plain).sum(-1) - at_target
            ),
            "sigma is missing in the maximum: <y_m, theta + sigma Z_m>": (
                (vertices * (plain + noise)).sum(-1).mean(0) - at_target
            ),
            "<theta, y> is not subtracted": value + at_target,
            "the sum over the samples: take the mean": best.sum(0) - at_target,
            "the example is scored with noise too: <theta, y> without it": (best - (rows * target).sum(-1)).mean(0),
            "the mean over the n scores: <·,·> is a sum": value / n,
        },
    )
    check.true(
        "has a gradient",
        loss.requires_grad,
        tested="whether a gradient can flow through the loss",
        expected="requires_grad=True",
        got=loss.requires_grad,
        likely="theta has to stand in the loss without detach()",
    )
    return partial(
        _gradient_of_fenchel_young, check, problems, loss, source, target, asked, Read(rows, noise, vertices)
    )


def _gradient_of_fenchel_young(
    check: Task, problems: Problems, loss: Tensor, source: Tensor, target: Tensor, asked: Asked, read: Read
) -> None:
    b, _, samples, sigma, _, dtype = problems
    _, noise, vertices = read
    plain, mean, tolerance = source.detach(), vertices.mean(0), 1e-8 if dtype == torch.float64 else 1e-4
    weights = torch.linspace(1, -2, b, dtype=dtype)
    (got,) = torch.autograd.grad((loss * weights).sum(), source, allow_unused=True)
    expected = weights[:, None] * (mean - target)
    through = torch.einsum("mbn,bn,mbk->bk", vertices, plain, noise) / (sigma * samples)
    check.close(
        "gradient",
        torch.zeros_like(plain) if got is None else got,
        expected,
        tested=f"the gradient at theta when {[round(w, 2) for w in weights.tolist()]} arrives; {problems}",
        tolerance=tolerance,
        likely="mean(y_m) - target: the vertices are constants",
        mistakes={
            "the sign is turned": -expected,
            "that is minus the target: F has a gradient too, the mean of the vertices": -weights[:, None] * target,
            "that is the mean of the vertices: <theta, target> has a gradient too": weights[:, None] * mean,
            "the gradient goes through the perturbed argmax as well: its answers are constants here": expected
            + weights[:, None] * through,
            "that is the answer without noise, minus the target": weights[:, None] * (problems.solve(plain) - target),
        },
    )
    check.equal(
        "one call",
        len(asked.scores),
        1,
        tested="how often the solver was called, the backward pass included",
        likely="keep the answers of the forward pass",
    )


def _slopes_of_fenchel_young(
    check: Task, answer: Callable[..., Tensor], sigma: float, seed: int, step: float = 1e-6
) -> None:
    """The gradient belongs to the value, under one seed."""
    problems = Problems(2, 4, 20, sigma)
    theta, target = checks.normal(2, 4, seed=seed, dtype=torch.float64).requires_grad_(), _targets(problems)

    def total(scores: Tensor) -> Tensor:
        return answer(problems.solve, scores, target, samples=20, sigma=sigma, generator=seeded(seed)).sum()

    (got,) = torch.autograd.grad(total(theta), theta)
    slopes = torch.zeros(2, 4, dtype=torch.float64)
    for i, j in itertools.product(range(2), range(4)):
        nudge = torch.zeros(2, 4, dtype=torch.float64)
        nudge[i, j] = step
        slopes[i, j] = (total(theta + nudge) - total(theta - nudge)).item() / (2 * step)
    check.close(
        "finite differences",
        got,
        slopes,
        tested="the gradient against central differences of your own loss, the same seed each time",
        likely="value and gradient do not belong together, or the noise changes from call to call in spite of the seed",
    )


def _mean_of_maxima(check: Task, answer: Callable[..., Tensor], samples: int, sigma: float) -> None:
    """The mean of the largest of three normal numbers, which is above the largest of the means."""
    many = answer(
        Problems(1, 3, samples, sigma).solve, torch.zeros(1, 3), torch.eye(3)[:1], samples=samples, sigma=sigma
    )
    centre = 3 / (2 * math.sqrt(math.pi))
    spread = math.sqrt(1 + math.sqrt(3) / (2 * math.pi) - centre**2)  # its standard deviation
    error = 4.9 * spread / math.sqrt(samples)  # one in a million is further off
    other = {
        "sigma is forgotten: the noise is sigma Z": 1.0,
        "the noise is sigma Z, not sigma² Z": sigma**2,
        "the noise is sigma Z, not Z / sigma": 1 / sigma,
        "the noise is sigma Z, not Z times the root of sigma": math.sqrt(sigma),
        "there is no noise in the maximum": 0.0,
    }
    slips = (says for says, scale in other.items() if abs(many.item() - scale * centre) <= scale * error)
    check.true(
        "mean of the maxima",
        abs(many.item() - sigma * centre) < sigma * error,
        tested=f"three scores 0, sigma = {sigma:g}, {samples} samples: sigma times the mean of the largest of three "
        "normal numbers",
        expected=f"{sigma * centre:.4f} within 4.9 standard errors",
        got=many.item(),
        likely=next(slips, "standard normal noise, independent from score to score"),
    )


# ---- task 6: predict, then measure

WORD = "distance as sigma halves"
GRADIENTS = (
    (torch.tensor([[1.0, 0.0], [5.0, 4.0], [5.0, 2.0], [1.0, -2.0]]), 0.65),
    (torch.tensor([[0.0], [2.0]]), 0.5),
    (torch.ones(3, 2), 0.1),
)


def predict(
    check: Task,
    answer: Callable[[], dict[str, Any]],
    needed_samples: Callable[[Tensor, float], int],
    *,
    gradients: Iterable[tuple[Tensor, float]] = GRADIENTS,
    scores: tuple[float, ...] = (1.0, 0.0, -0.5),
) -> None:
    """Task 6: predictions, counted over all pairs and measured with unequal scores; then gradients and errors."""
    _by_hand(check, needed_samples)
    right = _measured(scores)
    check.prediction(
        answer(),
        right,
        tested="two of four with weights 1, 2, 3, 5; M when sigma halves, at theta = 0; a distance",
        words={WORD: ("rises", "falls", "stays")},
        slips=_slips_of_predictions(right),
        likely=_PREDICTED,
        tolerance=1e-3,
    )
    for some, error in gradients:
        _needed(check, needed_samples, some.clone(), error)


@cache
def _measured(scores: tuple[float, ...]) -> dict[str, float | str]:
    pairs = list(itertools.permutations((1, 2, 3, 5), 2))
    laws: dict[str, list[float]] = {
        "heaviest in the k-subset law": [a * b for a, b in pairs],
        "heaviest with Gumbel noise": [a / 11 * b / (11 - a) for a, b in pairs],
    }
    found: dict[str, float | str] = {}
    for name, law in laws.items():
        found[name] = sum(w for w, pair in zip(law, pairs, strict=True) if 5 in pair) / sum(law)
    noise, solve = checks.normal(20_000, 3, seed=7, dtype=torch.float64), Problems(1, 3, 1, 1.0).solve
    theta, push = torch.tensor(scores, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    far, through, direct = {}, {}, {}
    for sigma in (1.0, 0.5):
        answers = solve(sigma * noise)
        through[sigma] = ((answers @ push)[:, None] * noise / sigma).var(0).sum().item()
        direct[sigma] = answers.var(0).sum().item()
        far[sigma] = (solve(theta + sigma * noise).mean(0) - solve(theta[None])).norm().item()
    found["samples for perturbed argmax"] = through[0.5] / through[1.0]
    found["samples for Fenchel-Young"] = direct[0.5] / direct[1.0]
    found[WORD] = "rises" if far[0.5] > 1.1 * far[1.0] else "falls" if far[1.0] > 1.1 * far[0.5] else "stays"
    return found


_PAIRS = "write down the pairs that hold it; in the second law it is the first or the second of a pair"
_PREDICTED = {
    "heaviest in the k-subset law": _PAIRS,
    "heaviest with Gumbel noise": _PAIRS,
    "samples for perturbed argmax": "which power of sigma stands in the gradient?",
    "samples for Fenchel-Young": "which power of sigma stands in the gradient?",
    WORD: "less noise changes fewer answers: what does the mean of the answers come close to?",
}


def _slips_of_predictions(right: dict[str, Any]) -> dict[str, dict[str, float | int | str]]:
    subset, gumbel = right["heaviest in the k-subset law"], right["heaviest with Gumbel noise"]
    return {
        "heaviest in the k-subset law": {
            "that is the law of Gumbel noise: here a set has the product of its weights": gumbel,
            "k · 5/11 is not it: write down the six sets of two and their products": 10 / 11,
            "5/11 is the chance in a single draw: two are drawn": 5 / 11,
            "5/6 is a coin on its own: here exactly two come up": 5 / 6,
            "1/2 is the share of sets that hold it: they are not equally likely": 1 / 2,
            "a set of two has the product of its two weights, not their sum": 21 / 33,
            "that is the probability that it is not among them": 1 - subset,
            "a number from 0 to 1, not in percent": 100 * subset,
        },
        "heaviest with Gumbel noise": {
            "that is the k-subset law: here one is drawn, then another among the rest": subset,
            "that is the probability that it is not among them": 1 - gumbel,
            "a number from 0 to 1, not in percent": 100 * gumbel,
            "5/11 is the chance to be first: it may also be second": 5 / 11,
            "that is the chance to be second: it may also be first": gumbel - 5 / 11,
            "k · 5/11 counts as if the first were put back": 10 / 11,
            "5/11 + 6/11 · 5/11: in the second draw the first is gone, 5 is out of less than 11": 5 / 11
            + 6 / 11 * 5 / 11,
        },
        "samples for perturbed argmax": {
            "the gradient doubles, and its variance, which M divides, grows by the square of that": 2.0,
            "the gradient holds 1 / sigma: halving sigma lets it scatter more": 0.25,
            "1/2 the noise is twice the gradient, not half of it": 0.5,
            "at theta = 0 the answers are the same for every sigma; look at the factor before the sum": 1.0,
            "the square of the square: the variance grows by (1 / sigma)²": 16.0,
            "sigma stands in the gradient as 1 / sigma, not as its root": math.sqrt(2),
        },
        "samples for Fenchel-Young": {
            "that is the perturbed argmax: the gradient of this loss has no 1 / sigma": 4.0,
            "there is no sigma in mean(y_m) - y, and at theta = 0 the answers are the same for every sigma": 2.0,
            "at theta = 0 the answers do not become more alike when sigma falls: argmax(sigma Z) = argmax(Z)": 0.5,
            "at theta = 0 the scatter of mean(y_m) - y does not fall with sigma": 0.25,
            "a factor of M: when nothing changes, it is not 0": 0.0,
        },
    }


def _needed(check: Task, answer: Callable[[Tensor, float], int], gradients: Tensor, error: float) -> None:
    rows, r = gradients.tolist(), len(gradients)
    centre = [sum(row[part] for row in rows) / r for part in range(gradients.shape[1])]
    variance = sum((x - mean) ** 2 for row in rows for x, mean in zip(row, centre, strict=True)) / r
    parts, length = len(centre), sum(x * x for row in rows for x in row) / r
    on = f"{r} gradients of {parts} parts, mean squared distance to their mean {variance:.4g}, error at most {error:g}"
    with _as_it_was(check, on, gradients=gradients):
        found = answer(gradients, error)
    check.true(
        "a whole number",
        type(found) is int,
        tested=on,
        expected="int",
        got=found,
        likely="math.ceil of a plain number: .item() makes one of a tensor",
    )
    slips: dict[str, float] = {
        "rounded down, the error is a little above what is allowed: round up": int(variance / error**2),
        "a whole number: round up with math.ceil": variance / error**2,
        "int(x) + 1 is one too many where x is a whole number: math.ceil": int(variance / error**2) + 1,
        "variance / error: the standard error is a root, so its square belongs under the variance": math.ceil(
            variance / error
        ),
        "the mean over the parts too: sum over the parts of the gradient": math.ceil(variance / parts / error**2),
        "divided by r - 1: it is the mean over the r gradients": math.ceil(variance * r / max(r - 1, 1) / error**2),
        "the mean over the parts, divided by r - 1: sum over the parts, mean over the r gradients": math.ceil(
            variance * r / max(r - 1, 1) / parts / error**2
        ),
        "the squared length of the gradients: subtract their mean first": math.ceil(length / error**2),
        "the root of the variance over the square of the error: root both or none": math.ceil(
            math.sqrt(variance) / error**2
        ),
        "the root of the variance over the error: that is the root of what is asked": math.ceil(
            math.sqrt(variance) / error
        ),
    }
    one = variance / error**2 <= 1
    check.equal(
        "one is enough" if one else "needed samples",
        found,
        max(1, math.ceil(variance / error**2)),
        tested=on,
        likely="1 at least" if one else "the least M with variance / M <= error², a whole number",
        mistakes={} if one else slips,
    )
