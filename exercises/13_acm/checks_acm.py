"""The checks of unit 13. Prefixes are added up neuron by neuron, a gate's gradient is that of a sum over its choices
written out, targets are found by walking up one token's errors, losses are added up in plain Python, and what is
predicted is counted on a module."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dynlib import checks
from dynlib.backbone import FeedForward
from dynlib.checks import Task
from dynlib.cost import count
from dynlib.deciding import setting
from dynlib.width import AdaptiveComputationModule, acmize

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
WITHOUT = ("dynlib", "numpy", "scipy")
"""What an answer does without."""

Size = tuple[int, int, int, int, torch.dtype]
"""Features in and out, neurons of a learner, learners, the dtype."""


def _module(size: Size, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """W, b and V."""
    dim, out, each, learners, dtype = size
    shapes = ((learners * each, dim), (learners * each,), (learners * each, out))
    w, b, v = (checks.normal(*shape, seed=7 * seed + part, dtype=dtype) for part, shape in enumerate(shapes))
    return w, b, v


def _learner(
    token: Tensor, w: Tensor, b: Tensor, v: Tensor, neurons: Iterable[int], function: Callable[..., Tensor] = F.gelu
) -> Tensor:
    """What some neurons give for one token, one after the other."""
    row = token.new_zeros(v.shape[1])
    for j in neurons:
        row = row + function((w[j] * token).sum() + b[j]) * v[j]
    return row


def _by_neuron(
    z: Tensor, w: Tensor, b: Tensor, v: Tensor, many: Sequence[int], function: Callable[..., Tensor] = F.gelu
) -> Tensor:
    """The first many[i] neurons for token i."""
    rows = [_learner(token, w, b, v, range(n), function) for token, n in zip(z, many, strict=True)]
    return torch.stack(rows) if rows else z.new_zeros(0, v.shape[1])


# ---- task 1: prefixes

PREFIXES: tuple[tuple[Size, int], ...] = (
    ((3, 3, 4, 1, torch.float64), 2),
    ((3, 5, 2, 4, torch.float64), 3),
    ((5, 2, 3, 3, torch.float64), 1),
    ((4, 4, 2, 5, torch.float32), 4),
)
"""Modules, and how many tokens each gets."""


def prefixes(
    check: Task, answer: Callable[..., Tensor], *, cases: Iterable[tuple[Size, int]] = PREFIXES, seed: int = 0
) -> None:
    """Task 1: values, products that run, gradients; then no tokens at all."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of prefixes uses", likely="PyTorch alone")
    for number, (size, tokens) in enumerate(cases):
        dim, out, each, learners, dtype = size
        z = checks.normal(tokens, dim, seed=97 + 10 * seed + number, dtype=dtype)
        w, b, v = _module(size, seed=10 * seed + number)
        on = f"{tokens} tokens of {dim} features to {out}, {learners} learners of {each} neurons, {dtype}"
        expected = torch.stack([_by_neuron(z, w, b, v, [k * each] * tokens) for k in range(1, learners + 1)])
        with check.untouched(tested=on, z=z, expand=w, bias=b, contract=v):
            found = answer(z, w, b, v, learners)
        name = "one learner" if learners == 1 else "every prefix"
        check.close(
            name,
            found,
            expected,
            tested=on,
            tolerance=TOLERANCE[dtype],
            likely="place k − 1 holds the sum of learners 1 … k, and h(z, 0) is not asked for; learner n is the rows "
            "(n − 1) · each … n · each − 1",
            mistakes=_mistaken_prefixes(z, w, b, v, learners, expected),
        )
        with FlopCounterMode(display=False) as counter:
            answer(z, w, b, v, learners)
        most = 2 * tokens * learners * each * (dim + out)
        check.true(
            "products",
            counter.get_total_flops() <= most,
            tested=on,
            expected=f"at most {most} FLOPs of matrix products: what h(z, N) alone takes",
            got=counter.get_total_flops(),
            likely="each learner runs once: add up what the learners give, do not begin again for each k",
        )
        inputs = [part.clone().requires_grad_() for part in (z, w, b, v)]
        ours = tuple(part.clone().requires_grad_() for part in (z, w, b, v))
        mine = answer(*inputs, learners)
        right = torch.stack(
            [_by_neuron(ours[0], ours[1], ours[2], ours[3], [k * each] * tokens) for k in range(1, learners + 1)]
        )
        for which, theirs, own in zip(("z", "W", "b", "V"), inputs, ours, strict=True):
            check.close(
                "gradients",
                checks.gradient(mine, theirs),
                checks.gradient(right, own),
                tested=f"the gradient of {which}: {on}",
                tolerance=100 * TOLERANCE[dtype],
                likely="learner 1 is part of every prefix and learns from all of them: nothing is detached",
            )
    shape = tuple(answer(torch.zeros(0, 3), *_module((3, 5, 2, 4, torch.float32), seed=1), 4).shape)
    check.equal("no tokens", shape, (4, 0, 5), tested="z [0, 3], four learners, five features out")


def _mistaken_prefixes(
    z: Tensor, w: Tensor, b: Tensor, v: Tensor, learners: int, right: Tensor
) -> dict[str, Tensor | float]:
    each, none = len(w) // learners, torch.zeros_like(right[:1])
    alone = right.diff(dim=0, prepend=none)
    many = torch.arange(1, learners + 1, dtype=right.dtype)[:, None, None]
    added = (b[:, None] * v).unflatten(0, (learners, each)).sum(1).cumsum(0)[:, None]  # by biases that no GELU bends
    strided = [j for n in range(learners) for j in range(n, len(w), learners)]
    spread = [w[strided], b[strided], v[strided]]

    def every(z: Tensor, w: Tensor, b: Tensor, v: Tensor, function: Callable[..., Tensor] = F.gelu) -> Tensor:
        rows = [_by_neuron(z, w, b, v, [k * each] * len(z), function) for k in range(1, learners + 1)]
        return torch.stack(rows)

    return {
        "these are the learners one by one: add them up along the first dimension": alone,
        "the sums begin at the last learner: h(z, k) is the first k": alone.flip(0).cumsum(0),
        "these are the prefixes from N down to 1": right.flip(0),
        "a sum, not a mean over the learners": right / many,
        "all places hold h(z, N): += writes into what was kept": right[-1:].expand_as(right),
        "the first entry is h(z, 1): h(z, 0), which is zeros, does not stand here": torch.cat([none, right[:-1]]),
        "a learner is consecutive rows of W; these are every N-th": every(z, spread[0], spread[1], spread[2]),
        "b is missing, before the function": every(z, w, 0 * b, v),
        "b stands inside GELU": every(z, w, 0 * b, v) + added,
        "the function is GELU, not ReLU": every(z, w, b, v, F.relu),
        "GELU itself, not its approximation by tanh": every(z, w, b, v, lambda x: F.gelu(x, approximate="tanh")),
        "GELU is missing between the two products": every(z, w, b, v, lambda x: x),
    }


# ---- task 2: gate_gradient

Gating = tuple[str, int, int, int, int, float, float, torch.dtype]
"""The check's name, tokens, features, learners, the fewest learners, τ, how far the logits spread, the dtype."""

GATINGS: tuple[Gating, ...] = (
    ("the formula", 1, 2, 3, 0, 1.0, 1.0, torch.float64),
    ("the formula", 4, 3, 2, 0, 1.0, 2.0, torch.float64),
    ("temperature", 5, 3, 4, 0, 0.8, 1.0, torch.float64),
    ("temperature", 5, 3, 4, 0, 2.5, 1.0, torch.float64),
    ("none is not allowed", 5, 2, 4, 1, 0.8, 1.0, torch.float64),
    ("large logits", 6, 2, 4, 0, 0.05, 60.0, torch.float32),
    ("float32", 5, 3, 4, 1, 0.8, 1.0, torch.float32),
)
_GATE = {
    "the formula": "of one token: p = softmax((logits + noise) / τ) is what u's gradient is taken from, and choice j "
    "switches on the learners 1 … j, all of them",
    "temperature": "τ divides logits and noise before the softmax, and so the gradient once more",
    "none is not allowed": "with N choices for N learners the first choice means one learner, not none",
    "large logits": "torch.softmax takes off the largest logit before the exponential",
    "float32": "the result has the dtype of the logits",
}


def gate_gradient(
    check: Task, answer: Callable[..., Tensor], *, cases: Iterable[Gating] = GATINGS, seed: int = 0
) -> None:
    """Task 2: against the gradient of what the gate's choice, relaxed, makes of a token."""
    check.by_hand(
        "by hand",
        answer,
        without=(*WITHOUT, "torch.autograd", "torch.func", ".backward", ".requires_grad_"),
        tested="what the code of gate_gradient uses",
        likely="the derivative on paper, then PyTorch's sums and softmax",
    )
    for number, (name, tokens, dim, learners, least, tau, size, dtype) in enumerate(cases):
        start = 50 * seed + 5 * number
        logits = size * checks.normal(tokens, learners + 1 - least, seed=start, dtype=dtype)
        drawn = torch.Generator().manual_seed(start + 1)
        uniform = torch.rand(logits.shape, generator=drawn, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        noise = -(-uniform.log()).log().to(dtype)
        parts = checks.normal(learners, tokens, dim, seed=start + 2, dtype=dtype)
        slope = checks.normal(tokens, dim, seed=start + 3, dtype=dtype)
        on = f"{tokens} tokens, {learners} learners, {logits.shape[1]} choices, τ = {tau:g}, {dtype}"
        with check.untouched(tested=on, logits=logits, noise=noise, learners=parts, slope=slope):
            found = answer(logits, noise, tau, parts, slope)
        expected = _relaxed(logits, noise, tau, parts, slope)
        check.close(
            name,
            found,
            expected.to(dtype),
            tested=on,
            tolerance={torch.float64: 1e-9, torch.float32: 1e-4}[dtype],
            likely=_GATE[name],
            mistakes=_mistaken_gates(logits, noise, tau, parts, slope, expected),
        )


def _relaxed(
    logits: Tensor,
    noise: Tensor,
    tau: float,
    parts: Tensor,
    slope: Tensor,
    *,
    runs: Callable[[int, int], bool] | None = None,
) -> Tensor:
    """By autograd: y of a choice that is p, choice by choice and learner by learner."""
    leaf = logits.double().requires_grad_()
    least = len(parts) + 1 - logits.shape[1]
    p = ((leaf + noise) / tau).softmax(-1)
    total = 0 * leaf.sum()  # of a gate that switches nothing
    for choice in range(logits.shape[1]):
        for n, part in enumerate(parts.double(), start=1):
            if n <= choice + least if runs is None else runs(n, choice + least):
                total = total + (p[:, choice, None] * part * slope).sum()
    (found,) = torch.autograd.grad(total, leaf)
    return found


def _mistaken_gates(
    logits: Tensor, noise: Tensor, tau: float, parts: Tensor, slope: Tensor, right: Tensor
) -> dict[str, Tensor]:
    least = len(parts) + 1 - logits.shape[1]
    k = (logits + noise).argmax(-1) + least
    ran = (torch.arange(1, len(parts) + 1)[:, None] <= k)[..., None]
    p = ((logits + noise).double() / tau).softmax(-1)
    worth = (parts * slope).double().sum(-1).T  # of each learner alone
    sums = torch.cat([torch.zeros_like(worth[:, :1]), worth.cumsum(1)], 1)[:, least:]
    chosen = F.one_hot(k - least, logits.shape[1]).to(sums)
    wrong = {
        "learners that did not run count, too: what they would have given is what the gate learns from": _relaxed(
            logits, noise, tau, parts * ran, slope
        ),
        "choice j switches on the learners 1 … j; here it is learner j alone": _relaxed(
            logits, noise, tau, parts, slope, runs=lambda n, k: n == k
        ),
        "choice j switches on the learners up to j; here it is those from j on": _relaxed(
            logits, noise, tau, parts, slope, runs=lambda n, k: n >= k
        ),
        "choice j switches on j learners; here one fewer": _relaxed(
            logits, noise, tau, parts, slope, runs=lambda n, k: n < k
        ),
        "choice j switches on j learners; here one more": _relaxed(
            logits, noise, tau, parts, slope, runs=lambda n, k: n <= k + 1
        ),
        "the noise is missing: the choice was drawn with it, and so is p": _relaxed(
            logits, 0 * noise, tau, parts, slope
        ),
        "the gradient has another factor 1 / τ, from inside the softmax": tau * right,
        "τ is inside the softmax, too": _relaxed(logits, noise, 1.0, parts, slope) / tau,
        "τ is missing": _relaxed(logits, noise, 1.0, parts, slope),
        "the sign is turned": -right,
        "softmax's derivative has a second part: all p add up to one, what one wins the others lose": p * sums / tau,
        "that is the gradient of p, but the mean is taken of the choice that was drawn": p
        * (sums - (chosen * sums).sum(1, keepdim=True))
        / tau,
        "these are the values of the choices; each still goes through the softmax": sums,
        "a sum over the tokens' losses, no mean": right / len(right),
    }
    return {says: each.to(logits.dtype) for says, each in wrong.items()}


# ---- task 3: gate_targets

Targeting = tuple[str, Sequence[Sequence[float]], float, int]
"""The check's name, of each token its errors d(least), …, d(N), the threshold, the fewest learners."""


def tokens_at_random(tokens: int, choices: int, threshold: float, least: int, *, seed: int) -> Targeting:
    """Errors that fall, mostly."""
    steps = 0.5 + 0.7 * torch.rand(tokens, choices, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return "the first that stops", steps.cumprod(1).tolist(), threshold, least


TARGETS: tuple[Targeting, ...] = (
    (
        "the first that stops",
        [(1.0, 0.5, 0.48, 0.1, 0.01, 0.009), (0.2, 0.02, 0.019, 0.001, 0.002, 0.0009), (1.0, 0.5, 0.2, 0.9, 0.1, 0.05)],
        0.8,
        0,
    ),
    ("all help", [(1.0, 0.5, 0.2, 0.1), (1.0, 0.7, 0.5, 0.3)], 0.8, 0),
    ("none helps", [(1.0, 0.9, 0.1), (1.0, 2.0, 3.0)], 0.8, 0),
    ("one at least", [(1.0, 0.5, 0.49), (1.0, 0.95, 0.2), (1.0, 0.5, 0.25)], 0.8, 1),
    ("equality", [(8.0, 4.0, 2.0, 0.5), (8.0, 3.0, 1.5, 0.5)], 0.5, 0),
    ("no error", [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.5, 0.0)], 0.8, 0),
    ("one choice", [(1.0,), (0.5,)], 0.8, 1),
    tokens_at_random(40, 5, 1 / 1.2, 0, seed=1),
    tokens_at_random(40, 4, 0.95, 1, seed=2),
)
_TARGET = {
    "the first that stops": "walk up from the fewest learners and stop at the first k after which one more leaves "
    "d(k + 1) ≥ θ d(k), whatever comes later",
    "all help": "where every step helps the token gets all N learners: argmax over a row of zeros says 0",
    "none helps": "where the first step does not help the token gets the fewest that are allowed, not all of them",
    "one at least": "the first row is d(least): where that is d(1), the smallest answer is 1",
    "equality": "a step that leaves exactly θ d(k) does not help: ≥",
    "no error": "0 ≥ θ · 0: where nothing is left to mend, one more does not help. A quotient would be 0 / 0",
    "one choice": "with one row there is nothing to choose: the fewest are all",
}


def gate_targets(
    check: Task, answer: Callable[..., Tensor], *, cases: Iterable[Targeting] = TARGETS, shape: Sequence[int] = (2, 3)
) -> None:
    """Task 3: tokens one by one; then tokens of more dimensions, and none."""
    check.by_hand(
        "by hand", answer, without=WITHOUT, tested="what the code of gate_targets uses", likely="PyTorch alone"
    )
    for name, tokens, threshold, least in cases:
        errors = torch.tensor(tokens, dtype=torch.float64).T.contiguous()
        first = [f"{d:g}" for d in tokens[0]]
        on = f"{len(tokens)} tokens, the first with errors {', '.join(first)}; θ = {threshold:g}, least = {least}"
        with check.untouched(tested=on, errors=errors):
            found = answer(errors, threshold, least)
        check.equal(
            name,
            found,
            torch.tensor([_walked(one, threshold) + least for one in tokens]),
            tested=on,
            likely=_TARGET[name],
            mistakes=_mistaken_targets(errors, tokens, threshold, least),
        )
    _, tokens, threshold, least = tokens_at_random(math.prod(shape), 4, 0.8, 0, seed=5)
    errors = torch.tensor(tokens, dtype=torch.float32).T.reshape(4, *shape)
    check.equal(
        "more dimensions",
        answer(errors, threshold, least),
        torch.tensor([_walked(one, threshold) for one in torch.tensor(tokens).tolist()]).view(*shape),
        tested=f"errors {[4, *shape]}, float32",
        likely="choices lie along dimension 0; all others are tokens",
    )
    many = torch.rand(5, 200_000, generator=torch.Generator().manual_seed(6)).cumprod(0)
    start = time.process_time()
    answer(many, 0.8, 0)
    spent = time.process_time() - start
    check.true(
        "in time",
        spent < 2,
        tested="200,000 tokens, five choices",
        expected="a second of computing at most",
        got=f"{spent:.1f} s",
        likely="compare all steps of all tokens at once, and no token by itself",
    )
    empty = answer(torch.zeros(3, 0), 0.8, 1)
    check.equal("no tokens", tuple(empty.shape), (0,), tested="errors [3, 0]", likely="no token, no target")


def _walked(errors: Sequence[float], threshold: float) -> int:
    """Up the errors of one token, counted from the first of them."""
    for choice, (now, then) in enumerate(pairwise(errors)):
        if then >= threshold * now:
            return choice
    return len(errors) - 1


def _counted(helps: Tensor, least: int) -> Tensor:
    """Targets by another rule of what helps."""
    first = [next((place for place, one in enumerate(row) if not one), len(row)) for row in helps.T.tolist()]
    return torch.tensor(first) + least


def _mistaken_targets(
    errors: Tensor, tokens: Sequence[Sequence[float]], threshold: float, least: int
) -> dict[str, Tensor]:
    last, right = len(errors) - 1, torch.tensor([_walked(one, threshold) for one in tokens])
    helps = torch.tensor([[b < threshold * a for a, b in pairwise(one)] for one in tokens]).view(len(tokens), last).T
    steps = torch.arange(1, last + 1)[:, None]
    wrong = {
        "where every step helps the token gets all learners; argmax over zeros gives 0": (
            torch.where(right == last, 0, right) + least
        ),
        "where the first step does not help the token gets the fewest, not all": (
            torch.where(right == 0, last, right) + least
        ),
        "a step that leaves exactly θ d(k) does not help any more: ≥": _counted(
            errors[1:] <= threshold * errors[:-1], least
        ),
        "that is the k after: the step that does not help is left out": (right + 1).clamp_max(last) + least,
        "k counts from `least`, which the first row stands for"
        if least
        else "that is one too few: the last step that helps is taken": (right - 1).clamp_min(0) + least,
        "these are places among the choices; the first of them is `least` learners": right,
        "steps after the first that does not help are counted, too: whatever comes later does not matter": helps.sum(0)
        + least,
        "the first step that does not help ends it, not the last that helps": (
            (helps * steps).amax(0) if last else right
        )
        + least,
        "θ is missing: a step that leaves less is not yet one that helps": _counted(errors[1:] < errors[:-1], least),
        "each step against the error before it, not against the first": _counted(
            errors[1:] < threshold * errors[:1], least
        ),
        "the smallest error is not asked for, but the first step that does not pay": errors.argmin(0) + least,
    }
    return {says: one.long() for says, one in wrong.items()}


# ---- task 4: acm_losses

Losing = tuple[int, float, tuple[tuple[int, int, int, int], ...]]
"""Images, β, and of each module: tokens of an image, learners, the fewest of them, the cost of a learner."""

LOSINGS: tuple[Losing, ...] = (
    (3, 0.4, ((3, 4, 0, 1),)),
    (3, 0.75, ((2, 2, 0, 5), (2, 2, 0, 1000))),
    (4, 0.25, ((5, 4, 0, 300), (3, 3, 1, 2000), (1, 2, 1, 10))),
)
_PARTS = ("budget", "entropy", "diversity")


def acm_losses(
    check: Task, answer: Callable[..., Sequence[Tensor]], *, cases: Iterable[Losing] = LOSINGS, seed: int = 0
) -> None:
    """Task 4: the three losses and their gradients; probabilities that are zero."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of acm_losses uses", likely="PyTorch alone")
    tried = []
    for number, case in enumerate(cases):
        images, budget, kinds = case
        modules = _modules(images, kinds, seed=20 * seed + number)
        on = f"{images} images, β = {budget:g}, modules (tokens, N, least, cost): {', '.join(map(str, kinds))}"
        given = {f"{what}_{m}": part for m, one in enumerate(modules) for what, part in zip("kp", one[:2], strict=True)}
        with check.untouched("input untouched", tested=on, likely=None, **given):
            found = answer(modules, budget)
        _three(check, found, on)
        right = _added_up(modules, budget)
        for name, mine, expected in zip(_PARTS, found, right, strict=True):
            check.close(
                name,
                mine,
                torch.tensor(expected, dtype=torch.float64),
                tested=on,
                tolerance=1e-9,
                likely=_LOSS[name],
                mistakes=_mistaken_losses(modules, budget)[name],
            )
        tried.append((modules, budget, on))
    for modules, budget, on in tried:
        _loss_gradients(check, answer, modules, budget, on)
    for name, rare, likely in (
        ("0 log 0", 0.0, "0 log 0 is 0: torch.xlogy, or clamp before the logarithm"),
        ("rare choices", 1e-8, "clamp far below what may occur: 1e-300 is a float64, too"),
    ):
        chances = torch.tensor([rare, 1 - 3 * rare, rare, rare], dtype=torch.float64)
        leaf = chances.expand(2, 3, 4).clone().requires_grad_()
        entropy = answer([(torch.ones(2, 3, dtype=torch.float64), leaf, 4, 1)], 0.25)[1]
        expected = sum(a * math.log(a) for a in chances.tolist() if a) / math.log(4)
        on = f"probabilities {rare:g}, {1 - 3 * rare:.8g}, {rare:g}, {rare:g} of all tokens"
        check.close(
            name, entropy, torch.tensor(expected, dtype=torch.float64), tested=on, tolerance=1e-9, likely=likely
        )
        check.finite(name, checks.gradient(entropy, leaf), tested=f"the gradient: {on}", likely="clamp, then log")


_LOSS = {
    "budget": "work done over work possible, Σ k · cost / Σ N · cost, both added up over all modules before they are "
    "divided; then |… − β|",
    "entropy": "a is the mean of the probabilities over images and tokens; Σ a log a over log J, J the number of "
    "choices; then the mean over the modules",
    "diversity": "r is an image's mean of k / N; −2 times the mean of |r_i − r_m| over pairs of two different images; "
    "then the mean over the modules",
}


def _three(check: Task, found: Any, on: str) -> None:
    check.true(
        "three losses",
        isinstance(found, tuple | list) and len(found) == 3,
        tested=on,
        expected="the budget's, the entropy's and the diversity's loss, in this order",
        got=type(found).__name__,
        likely="return budget_loss, entropy_loss, diversity_loss",
    )


def _modules(
    images: int, kinds: Sequence[tuple[int, int, int, int]], *, seed: int
) -> list[tuple[Tensor, Tensor, int, int]]:
    made = []
    for m, (tokens, learners, least, cost) in enumerate(kinds):
        logits = checks.normal(images, tokens, learners + 1 - least, seed=100 * seed + m, dtype=torch.float64)
        logits = logits + checks.normal(images, 1, learners + 1 - least, seed=100 * seed + m + 50, dtype=torch.float64)
        k = logits.argmax(-1).double() + least
        made.append((k, logits.softmax(-1), learners, cost))
    return made


def _loss_gradients(
    check: Task,
    answer: Callable[..., Sequence[Tensor]],
    modules: Sequence[tuple[Tensor, Tensor, int, int]],
    budget: float,
    on: str,
) -> None:
    leaves = [(k.clone().requires_grad_(), p.clone().requires_grad_(), n, cost) for k, p, n, cost in modules]
    ours = [(k.clone().requires_grad_(), p.clone().requires_grad_(), n, cost) for k, p, n, cost in modules]
    for name, which, mine, right in zip(
        _PARTS, (0, 1, 0), answer(leaves, budget), _added_up(ours, budget, graph=True), strict=True
    ):
        for m in range(len(modules)):
            theirs, own = leaves[m][which], ours[m][which]
            assert isinstance(theirs, Tensor)
            assert isinstance(own, Tensor)
            got, tested = checks.gradient(mine, theirs), f"of the {name} loss, in module {m + 1}: {on}"
            likely = (
                "a root has an infinite slope at 0, where two images have the same r: abs(), and clamp before a log"
            )
            check.finite("gradients", got, tested=tested, likely=likely)
            check.close(
                "gradients",
                got,
                checks.gradient(right, own),
                tested=tested,
                tolerance=1e-8,
                likely="k and the probabilities carry the gate's gradient: no .item(), no .round(), no detach()",
            )


def _added_up(modules: Sequence[tuple[Any, Any, int, int]], budget: float, *, graph: bool = False) -> list[Any]:
    """The three losses, token by token and pair by pair."""
    zero = torch.zeros((), dtype=torch.float64)
    done, possible = zero, 0
    entropies, spreads = [], []
    for k, p, learners, cost in modules:
        images, tokens = k.shape
        possible += images * tokens * learners * cost
        for row in k.flatten():
            done = done + row * cost
        shares = [sum(p[i, t, j] for i in range(images) for t in range(tokens)) / k.numel() for j in range(p.shape[2])]
        entropies.append(sum(a * a.log() for a in shares) / math.log(p.shape[2]))
        b = [sum(k[i, t] for t in range(tokens)) / tokens / learners for i in range(images)]
        pairs = [(b[i] - b[m]).abs() for i in range(images) for m in range(i)]
        spreads.append(-2 * sum(pairs, start=zero) / len(pairs))
    three = [
        (done / possible - budget).abs(),
        sum(entropies, start=zero) / len(modules),
        sum(spreads, start=zero) / len(modules),
    ]
    return three if graph else [one.item() for one in three]


def _mistaken_losses(modules: Sequence[tuple[Tensor, Tensor, int, int]], budget: float) -> dict[str, dict[str, float]]:
    right = _added_up(modules, budget)
    many = len(modules)

    def share(weight: Callable[[int, int, int], tuple[float, float]]) -> float:
        pairs = [(k.sum().item(), k.numel(), *weight(n, cost, p.shape[2])) for k, p, n, cost in modules]
        return abs(sum(k * up for k, _, up, _ in pairs) / sum(t * down for _, t, _, down in pairs) - budget)

    def entropy(one: Callable[[Tensor], Tensor], base: Callable[[Tensor], float]) -> float:
        return sum((one(p) / base(p)).item() for _, p, _, _ in modules) / many

    def logs(p: Tensor) -> float:
        return math.log(p.shape[2])

    def mean_first(p: Tensor) -> Tensor:
        return torch.special.xlogy(*(2 * [p.flatten(0, 1).mean(0)])).sum()

    def spread(b: Callable[[Tensor, int], Tensor], pairs: Callable[[int], float]) -> float:
        gaps = []
        for k, _, n, _ in modules:
            own = b(k, n)
            gaps.append(-2 * (own[:, None] - own).abs().sum().item() / pairs(len(own)))
        return sum(gaps) / many

    def off(n: int) -> float:
        return max(n * (n - 1), 1)

    def hard(p: Tensor) -> Tensor:
        a = F.one_hot(p.argmax(-1), p.shape[2]).double().flatten(0, 1).mean(0)
        return torch.special.xlogy(a, a).sum()

    images = len(modules[0][0])
    each = [abs(k.mean().item() / n - budget) for k, _, n, _ in modules]
    return {
        "budget": {
            "a learner of one module costs more than one of another: weigh k and N with the cost": share(
                lambda n, cost, j: (1, n)
            ),
            "N learners are all the work there is, not N + 1 choices": share(lambda n, cost, j: (cost, cost * (n + 1))),
            "N learners are all the work there is, not J choices": share(lambda n, cost, j: (cost, cost * j)),
            "one share of all modules together, not the mean of each one's distance": sum(each) / many,
            "one share of all modules together, not the mean of their shares": abs(
                sum(k.mean().item() / n for k, _, n, _ in modules) / many - budget
            ),
            "a distance, whichever side it lies on: the absolute value": _signed(modules, budget),
            "below the budget counts, too: the absolute value": max(_signed(modules, budget), 0.0),
            "the distance, not its square": right[0] ** 2,
            "the share's distance from β, not the share": share(lambda n, cost, j: (cost, cost * n))
            if budget == 0
            else _signed(modules, 0.0),
        },
        "entropy": {
            "the sign is turned: minimising this would leave all tokens with one choice": -right[1],
            "divide by log J, so that −1 is the best there is": entropy(mean_first, lambda p: 1.0),
            "log of N is not log of J, the number of choices": sum(
                mean_first(p).item() / math.log(max(n, 2)) for _, p, n, _ in modules
            )
            / many,
            "first the mean over images and tokens, then the entropy: each token may be sure of itself": entropy(
                lambda p: torch.special.xlogy(p, p).sum(-1).mean(), logs
            ),
            "first the mean over images, too: this is the entropy of each image": entropy(
                lambda p: torch.special.xlogy(p.mean(1), p.mean(1)).sum(-1).mean(), logs
            ),
            "the mean of the probabilities, not of what was chosen": entropy(hard, logs),
            "the mean over the modules, not the sum": right[1] * many,
        },
        "diversity": {
            "the sign is turned: minimising this would make all images alike": -right[2],
            "an image is not paired with itself: divide by the pairs of different ones": right[2]
            * (images - 1)
            / images,
            "half of it: the factor 2, or each pair is counted once and divided by both": right[2] / 2,
            "pairs within each module, then the mean over the modules": _pooled(modules),
            "the mean over all pairs, not their sum": right[2] * images * (images - 1) / 2,
            "k / N, a share: N is missing": spread(lambda k, n: k.mean(1), off),
            "pairs of images, not of tokens": spread(lambda k, n: (k / n).flatten(), off),
            "the absolute value, not the square": _squared(modules),
            "the mean over the modules, not the sum": right[2] * many,
        },
    }


def _signed(modules: Sequence[tuple[Tensor, Tensor, int, int]], budget: float) -> float:
    done = sum(k.sum().item() * cost for k, _, _, cost in modules)
    return done / sum(k.numel() * n * cost for k, _, n, cost in modules) - budget


def _squared(modules: Sequence[tuple[Tensor, Tensor, int, int]]) -> float:
    found = []
    for k, _, n, _ in modules:
        b = (k / n).mean(1)
        found.append(-2 * (b[:, None] - b).square().sum().item() / (len(b) * (len(b) - 1)))
    return sum(found) / len(found)


def _pooled(modules: Sequence[tuple[Tensor, Tensor, int, int]]) -> float:
    b = torch.stack([(k / n).mean(1) for k, _, n, _ in modules]).mean(0)
    return -2 * (b[:, None] - b).abs().sum().item() / (len(b) * (len(b) - 1))


# ---- task 5: run_learners

Running = tuple[Size, Sequence[int]]
"""A module, and k of each token."""

RUNNINGS: tuple[Running, ...] = (
    ((3, 3, 2, 3, torch.float64), (3, 3, 3)),
    ((3, 5, 2, 3, torch.float64), (2, 2)),
    ((3, 4, 2, 4, torch.float64), (1, 4, 2, 4, 3, 1)),
    ((4, 2, 3, 4, torch.float64), (0, 3, 0, 1, 4)),
    ((2, 2, 2, 3, torch.float64), (0, 0)),
    ((3, 3, 2, 4, torch.float32), (2, 4, 0, 1, 3, 3, 2, 1, 4, 0, 2, 3)),
)
_RUN = {
    "all learners": "the last learner runs, too: learners 1 … k, k included",
    "one number": "learners 1 … k, of equal k for all",
    "each its own": "token i runs its own k[i], and its result stands in row i",
    "no learners": "at k = 0 a token gets zeros",
}


class _Products(TorchDispatchMode):
    """How many matrix products run."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.number += name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "_addmm_activation")
        return function(*args, **(kwargs or {}))


def run_learners(
    check: Task, answer: Callable[..., Tensor], *, cases: Iterable[Running] = RUNNINGS, seed: int = 0
) -> None:
    """Task 5: values, what runs, in how many products, gradients; then no tokens at all."""
    check.by_hand(
        "by hand", answer, without=WITHOUT, tested="what the code of run_learners uses", likely="PyTorch alone"
    )
    for number, (size, each_k) in enumerate(cases):
        dim, out, each, learners, dtype = size
        z = checks.normal(len(each_k), dim, seed=77 + 10 * seed + number, dtype=dtype)
        w, b, v = _module(size, seed=10 * seed + number)
        k = torch.tensor(each_k)
        on = f"{learners} learners of {each} neurons, k = {list(each_k)}, {dtype}"
        kinds = {*each_k}
        name = "no learners" if 0 in kinds else "each its own"
        if len(kinds) == 1 and 0 not in kinds:
            name = "all learners" if kinds == {learners} else "one number"
        many = [one * each for one in each_k]
        expected = _by_neuron(z, w, b, v, many)
        with check.untouched(tested=on, z=z, k=k, expand=w, bias=b, contract=v):
            found = answer(z, k, w, b, v, learners)
        check.close(
            name,
            found,
            expected,
            tested=on,
            tolerance=TOLERANCE[dtype],
            likely=_RUN[name],
            mistakes=_mistaken_runs(z, w, b, v, each_k, each, learners),
        )
        with FlopCounterMode(display=False) as counter:
            answer(z, k, w, b, v, learners)
        most = 2 * each * (dim + out) * sum(each_k)
        check.true(
            "FLOPs",
            counter.get_total_flops() <= most,
            tested=on,
            expected=f"at most {most} FLOPs of matrix products: 2 · each · (dim + out) for each learner",
            got=counter.get_total_flops(),
            likely="learners that a token did not choose are computed and thrown away",
        )
        inputs = [part.clone().requires_grad_() for part in (z, w, b, v)]
        ours = [part.clone().requires_grad_() for part in (z, w, b, v)]
        mine, right = answer(inputs[0], k, *inputs[1:], learners), _by_neuron(ours[0], ours[1], ours[2], ours[3], many)
        for which, theirs, own in zip(("z", "W", "b", "V"), inputs, ours, strict=True):
            check.close(
                "gradients",
                checks.gradient(mine, theirs),
                checks.gradient(right, own),
                tested=f"the gradient of {which}: {on}",
                tolerance=100 * TOLERANCE[dtype],
                likely="no .data, no detach(): write into a tensor that you made",
            )
    w, b, v = _module((3, 3, 2, 4, torch.float32), seed=3)
    tokens = checks.normal(60, 3, seed=4)
    k = torch.arange(60) % 5
    with torch.no_grad(), _Products() as products:
        answer(tokens, k, w, b, v, 4)
    check.true(
        "few products",
        products.number <= 8,
        tested="60 tokens, four learners, all k from 0 to 4",
        expected="at most 8 matrix products, two for each learner",
        got=products.number,
        likely="all tokens that run a learner go through it together, or all tokens of one k",
    )
    with torch.no_grad():
        shape = tuple(answer(tokens[:0], k[:0], w, b, v, 4).shape)
    check.equal(
        "no tokens", shape, (0, 3), tested="z [0, 3]: nobody there", likely="begin with zeros of the right shape"
    )


def _mistaken_runs(
    z: Tensor, w: Tensor, b: Tensor, v: Tensor, each_k: Sequence[int], each: int, learners: int
) -> dict[str, Tensor]:
    def run(many: Sequence[int], w: Tensor = w, b: Tensor = b, v: Tensor = v) -> Tensor:
        return _by_neuron(z, w, b, v, [k * each for k in many])

    right = run(each_k)
    falling = sorted(range(len(each_k)), key=lambda i: -each_k[i])
    rising = sorted(range(len(each_k)), key=lambda i: each_k[i])
    most = max(each_k)
    back = torch.empty_like(right)
    back[falling] = right
    return {
        "of the tokens with the most learners the last one is missing: range(1, most) ends before it": run(
            [min(k, most - 1) for k in each_k]
        ),
        "the last of a token's learners is missing: k learners, learner k included": run(
            [max(k - 1, 0) for k in each_k]
        ),
        "one learner more than k ran": run([min(k + 1, learners) for k in each_k]),
        "at k = 0 nothing runs: one learner did": run([max(k, 1) for k in each_k]),
        "at k = 0 a token gets zeros, and not itself": torch.where(
            torch.tensor(each_k)[:, None] > 0, right, z if z.shape == right.shape else right
        ),
        "the last k learners ran, not the first": run(each_k, w.flip(0), b.flip(0), v.flip(0)),
        "the results lie in the order of falling k: put them back": right[falling],
        "the results lie in the order of rising k: put them back": right[rising],
        "the order was applied twice: y[order] = …, not y = …[order]": right[falling][falling],
        "every token ran as many as the one with the most": run([most] * len(each_k)),
        "every token ran as many as the first": run([each_k[0]] * len(each_k)),
        "the bias is missing, before GELU": run(each_k, b=0 * b),
        "a sum of learners, not their mean": right / torch.tensor(each_k, dtype=z.dtype).clamp_min(1)[:, None],
    }


# ---- task 6: predict, then measure

WORDS = {
    "FLOPs of masked at half the learners, a token": ("half as many", "a few more than half", "as many as with all"),
}


def predict(check: Task, answer: Callable[[], dict[str, Any]], *, seed: int = 3) -> None:
    """Task 6: predictions about two modules, counted on modules of this seed."""
    check.prediction(
        answer(),
        _measured(seed),
        tested="dim 64, hidden 256, four learners, gate of 8; a linear layer of 64 to 192 features",
        words=WORDS,
        slips=_SLIPS,
        likely=_USUALLY,
    )


@cache
def _measured(seed: int) -> dict[str, float | str]:
    """Counted on modules."""
    torch.manual_seed(seed)
    dense = FeedForward(64).eval()
    layer = AdaptiveComputationModule(64, 256, least=0, gate=8).eval()
    z = torch.randn(48, 64)

    def flops(part: nn.Module, x: Tensor = z) -> int:
        return count(part, x).flops

    asked = flops(layer.gate, z[:1])
    whole = flops(dense, z[:1])
    at_fixed = {}
    for k in range(5):
        with setting(layer, AdaptiveComputationModule, fixed=k):
            at_fixed[k] = flops(layer, z[:1])
    learner = at_fixed[2] - at_fixed[1]
    assert at_fixed[4] == whole == 4 * learner
    masked = []
    for k in (2, 4):
        with setting(layer, AdaptiveComputationModule, fixed=k, execution="masked"):
            masked.append(flops(layer, z[:1]))
    converted = acmize(nn.Linear(64, 192), learners=4)
    saved = 1 - (asked + 2 * learner) / whole
    word = "as many as with all" if masked[0] == masked[1] else "half as many"
    return {
        "choices of the gate": layer.gate[-1].out_features,
        "FLOPs of the gate, a token": asked,
        "FLOPs at k = 3, a token": asked + at_fixed[3],
        "FLOPs saved at half the learners": saved,
        "the break-even share": (whole - asked) / whole,
        "neurons in the place of the linear layer": converted.hidden,
        "FLOPs of masked at half the learners, a token": word,
    }


_USUALLY = {
    "choices of the gate": "0, 1, …, N where none is allowed",
    "FLOPs of the gate, a token": "two products, 64 to 8 and 8 to one logit for each choice; a multiply-add is two",
    "FLOPs at k = 3, a token": "the gate, and three learners of 64 neurons: to them and from them",
    "FLOPs saved at half the learners": "of the dense layer's FLOPs: one less the learners' half, less the gate",
    "the break-even share": "the gate and the learners together cost what the dense layer does",
    "neurons in the place of the linear layer": "d·e products a token before; H (d + e) of the learners together",
    "FLOPs of masked at half the learners, a token": "what does masked execution compute?",
}
_GATE_FLOPS, _DENSE = 2 * (64 * 8 + 8 * 5), 2 * 2 * 64 * 256
_SLIPS: dict[str, dict[str, float | int | str]] = {
    "choices of the gate": {
        "0 learners is a choice, too": 4,
        "the neurons of the gate are not its choices": 8,
    },
    "FLOPs of the gate, a token": {
        "a multiply-add is two FLOPs": 64 * 8 + 8 * 5,
        "0 learners is a choice, too: five logits": 2 * (64 * 8 + 8 * 4),
        "the second product is missing": 2 * 64 * 8,
        "biases and GELU are not counted": 2 * (64 * 8 + 8 * 5) + 13,
    },
    "FLOPs at k = 3, a token": {
        "the gate runs, too": 3 * _DENSE // 4,
        "a multiply-add is two FLOPs": 3 * _DENSE // 8 + _GATE_FLOPS // 2,
        "a learner has two products: to its neurons and from them": 3 * _DENSE // 8 + _GATE_FLOPS,
        "that is all four": _DENSE + _GATE_FLOPS,
    },
    "FLOPs saved at half the learners": {
        "the gate runs, too": 0.5,
        "that is what is left, and not what is saved": 0.5 + _GATE_FLOPS / _DENSE,
        "the gate takes from what is saved": 0.5 + _GATE_FLOPS / _DENSE,
        "a share, not in percent": 100 * (0.5 - _GATE_FLOPS / _DENSE),
    },
    "the break-even share": {
        "with all learners it costs more than the dense layer: the gate comes on top": 1.0,
        "that is the gate's share of the dense FLOPs": _GATE_FLOPS / _DENSE,
        "a share, not in percent": 100 * (1 - _GATE_FLOPS / _DENSE),
        "a share of all learners, not a number of them": 4 * (1 - _GATE_FLOPS / _DENSE),
    },
    "neurons in the place of the linear layer": {
        "that would cost four times as much: d·e = H (d + e)": 192,
        "d·e = H (d + e): from 64 features and to 192": 64,
        "that is one learner; all four together": 12,
        "a multiply-add is two on both sides: d·e = H (d + e)": 96,
        "both products of a learner: d + e for each neuron": 256,
    },
    "FLOPs of masked at half the learners, a token": {
        "masked execution runs all learners and multiplies by zero": "half as many",
        "masked execution runs all learners, chosen or not": "a few more than half",
    },
}
