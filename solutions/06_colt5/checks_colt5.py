"""The checks of unit 06. Weights are found by bisection, parts of a layer are judged by running them for everybody."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import FeedForward
from dynlib.checks import Task, Watched, gradient, normal
from dynlib.choice import soft_topk
from dynlib.cost import count
from dynlib.tokens import ConditionalAttention, ConditionalFeedForward
from dynlib.tokens.local_attention import local_attention

Case = tuple[Tensor, int, float]
"""Scores, k and epsilon."""

ELSEWHERE = ("dynlib", "scipy", "numpy", "sklearn")
"""What an answer "with PyTorch alone" does without."""


def alone(check: Task, answer: Any) -> None:
    """The answer is written with PyTorch alone."""
    check.by_hand(
        "by hand",
        answer,
        without=ELSEWHERE,
        tested="what your code imports and names",
        likely="write it with torch and math: what dynlib has ready is what you are to build",
    )


class Heavy(nn.Module):
    """The four linear layers of a heavy attention with one head: of dim features it makes queries, keys and values of
    `size` features, and of what was attended to it makes dim features again. Each keeps what it was given."""

    def __init__(self, dim: int, size: int, *, seed: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (Watched(nn.Linear(dim, size)) for _ in range(3))
        self.output = Watched(nn.Linear(size, dim))
        shaken(self, seed=seed)


def shaken(module: nn.Module, *, seed: int) -> Any:
    """The module in float64, all its weights and biases drawn anew, large enough to be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in module.double().parameters():
            weights.normal_(std=0.7, generator=generator)
    return module


def from_the_best(row: list[float]) -> list[int]:
    """The places of a row, the best first, of equals the earlier."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))


def best_of(scores: Tensor, k: int) -> Tensor:
    """True at the k largest of each row."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for chosen, row in zip(mask, scores.tolist(), strict=True):
        chosen[from_the_best(row)[:k]] = True
    return mask


def decide(scores: Tensor, k: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Mask and weights for tasks 2 and 4, with a gradient."""
    mask = best_of(scores, k)
    return mask, soft_topk(scores, k, epsilon) * mask


def same_gradients(
    check: Task,
    found: Tensor,
    expected: Tensor,
    leaves: Mapping[str, Tensor],
    on: str,
    likely: Mapping[str, str],
    mistakes: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """The gradients of a result are those of the right one."""
    for name, leaf in leaves.items():
        check.close(
            f"gradient of {name}",
            gradient(found, leaf),
            gradient(expected, leaf),
            tested=f"the gradient of the sum of all numbers, each times another weight, with respect to {name}: {on}",
            tolerance=1e-8,
            likely=likely.get(name, "autograd must be able to follow everything but the masks"),
            mistakes={**(mistakes or {}).get(name, {}), f"no gradient reaches {name}": torch.zeros_like(leaf)},
        )


# ---- task 1: route

SCORES = torch.tensor(
    [[0.5, 2.0, -1.0, 1.0, 0.25, -0.5, -2.0], [0.3, 0.2, 0.1, 0.0, -0.1, 0.25, 0.15]], dtype=torch.float64
)
EQUALS = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0, 2.0], [0.5] * 6], dtype=torch.float64)
LONG = torch.tensor([[1.0, 0.0] * 12, [0.0, 2.0, 2.0] * 8], dtype=torch.float64)
MANY = normal(2, 16, seed=1, dtype=torch.float64)
LARGE = torch.tensor([[3e4, -3e4, 2.9e4, 3e4, 0.0], [900.0, 901.0, 899.0, 902.0, 900.5]])
ONE_LEADS = torch.tensor([[1000.0, 3.0, 2.0, 0.0], [0.0, -800.0, -801.0, -802.5]], dtype=torch.float64)
NEARBY = torch.tensor(  # z = s / 0.01 are millions, of which float32 knows quarters
    [[29999.0, 30000.998, 30000.994, 30000.99, 29999.5], [20000.998, 3e4, 20000.994, -3e4, 20000.986]]
)


def route(
    check: Task,
    answer: Callable[..., tuple[Tensor, Tensor]],
    *,
    cases: Sequence[Case] = ((SCORES, 3, 0.8),),
    equals: Sequence[Case] = ((EQUALS, 2, 0.8), (LONG, 5, 0.8)),
    small: Case = (MANY, 4, 0.03),
    large: Sequence[Case] = ((LARGE, 3, 1.0), (LARGE.double(), 2, 0.1)),
    leading: Sequence[Case] = ((ONE_LEADS, 2, 1.0), (ONE_LEADS.float(), 2, 1.0)),
    precise: Sequence[Case] = ((NEARBY, 2, 0.01),),
) -> None:
    """Task 1: cases of unequal scores with their gradients, equals, a small epsilon, scores far from each other, and
    large ones in float32 that differ by little."""
    for case in cases:
        _decided(check, answer, *case)
    for scores, k, epsilon in equals:
        _equals(check, answer, scores, k, epsilon)
    scores, k, epsilon = cases[0]
    turned = scores.flip(1)
    check.close(
        "another call",
        answer(turned, k, epsilon)[1],
        bisected(turned, k, epsilon),
        tested="the same scores in the opposite order, in a second call",
        tolerance=1e-9,
        likely="nothing is kept from one call to the next",
    )
    _nobody_and_everybody(check, answer, scores, epsilon)
    _small_epsilon(check, answer, *small)
    check.equal(
        "dtype",
        answer(scores.float(), k, epsilon)[1].dtype,
        torch.float32,
        tested="the weights of scores in float32",
        likely="the weights have the dtype of the scores",
    )
    for scores, k, epsilon in large:
        mask, weights = answer(scores, k, epsilon)
        tested = f"scores up to {scores.abs().max():.0f}, k={k}, epsilon={epsilon:g}, {scores.dtype}"
        check.close(
            "large scores",
            weights,
            bisected(scores.double(), k, epsilon).to(scores.dtype),
            tested=tested,
            tolerance=1e-2,
            likely="exp(30000) is infinite: softmax and logsumexp subtract the largest first, exp alone does not",
        )
        check.equal("mask", mask, best_of(scores, k), tested=tested, likely="exactly k in every row")
    for case in cases:
        _gradient(check, answer, *case)
    for case in large:
        _finite(check, answer, *case)
    for scores, k, epsilon in leading:
        single = scores.dtype == torch.float32
        check.close(
            "gradient where one leads",
            _finite(check, answer, scores, k, epsilon),
            slopes(scores.double(), k, epsilon).to(scores.dtype),
            tested=f"scores of which one leads by far, {scores.tolist()}, k={k}, epsilon={epsilon:g}, {scores.dtype}",
            tolerance=1e-3 if single else 1e-5,
            likely="with the leader held at 1 the others still share k - 1, and move with each other's scores: take a "
            "softmax over the others alone, which takes off the largest of them",
        )
    alone(check, answer)
    for scores, k, epsilon in precise:
        exact, asked = scores.double(), scores.clone().requires_grad_()
        weights = answer(asked, k, epsilon)[1]
        exact = exact - exact.amax(1, keepdim=True)
        told = " and ".join(str([round(score, 3) for score in row]) for row in scores.tolist())
        for what, found, expected in (
            ("weights", weights.detach(), bisected(exact, k, epsilon)),
            ("gradient", gradient(weights, asked), slopes(exact, k, epsilon)),
        ):
            check.close(
                "precision",
                found,
                expected.to(scores.dtype),
                tested=f"the {what} of scores {told}, k={k}, epsilon={epsilon:g}, {scores.dtype}",
                tolerance=1e-3,
                likely=f"s / epsilon is about {scores.abs().max() / epsilon:.0f} here, and float32 does not tell such "
                "numbers apart to a tenth: compute with scores.double(), and give the weights the dtype of the scores "
                "in the end",
            )


def bisected(scores: Tensor, k: int, epsilon: float, *, cut: bool = True) -> Tensor:
    """The weights, sequence by sequence: halve the interval that holds nu until they sum to k."""
    weights = torch.zeros_like(scores)
    for b, row in enumerate(scores.tolist() if k else []):
        low, high = min(row), max(row) + epsilon * math.log(len(row) / k)

        def p(nu: float, row: list[float] = row) -> list[float]:
            return [math.exp(min(0.0, (s - nu) / epsilon)) for s in row]

        for _ in range(100):
            nu = (low + high) / 2
            low, high = (nu, high) if math.fsum(p(nu)) >= k else (low, nu)
        weights[b] = torch.tensor(p(low), dtype=scores.dtype)
    return weights * best_of(scores, k) if cut else weights


def slopes(scores: Tensor, k: int, epsilon: float) -> Tensor:
    """What `gradient` must find, by moving one score after the other a little."""
    found, step = torch.zeros_like(scores), 1e-5 * min(1.0, epsilon)
    loss = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).view_as(scores)
    for place in range(scores.numel()):
        moved = torch.zeros_like(scores)
        moved.view(-1)[place] = step
        high, low = (bisected(scores + sign * moved, k, epsilon) for sign in (1, -1))
        found.view(-1)[place] = ((high - low) * loss).sum() / (2 * step)
    return found


def _decided(check: Task, answer: Callable[..., Any], scores: Tensor, k: int, epsilon: float) -> None:
    on = f"scores {list(scores.shape)}, k={k}, epsilon={epsilon:g}"
    given = scores.clone()
    with check.untouched(tested=on, scores=given):
        found = answer(given, k, epsilon)
    check.true(
        "a pair",
        isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(part, Tensor) for part in found),
        tested=on,
        expected="two tensors, the mask and the weights",
        got=found,
        likely="return mask, weights",
    )
    mask = best_of(scores, k)
    likely = "the mask comes first, then the weights" if found[1].dtype == torch.bool else None
    check.equal(
        "mask",
        found[0],
        mask,
        tested=on,
        likely=likely or "True at the k largest scores of each row, of type bool",
        mistakes=_mistaken_masks(scores, k),
    )
    expected = bisected(scores, k, epsilon)
    nearly = found[1].shape == expected.shape and torch.allclose(found[1].double(), expected, 0, 1e-5)
    check.close(
        "weights",
        found[1].detach(),
        expected,
        tested=on,
        tolerance=1e-9,
        likely="nearly: something on the way is float32, as the .log() of whole numbers is; make it of scores.dtype"
        if nearly
        else "print the weights before the cut: do they sum to k in every row, and is none above 1?",
        mistakes=_mistaken_weights(scores, k, epsilon) if _far(found[1], expected) else None,
    )


def _far(found: Tensor, expected: Tensor) -> bool:
    """Whether it is worth looking for a mistake."""
    return found.shape == expected.shape and not torch.allclose(found.double(), expected, 0, 1e-10)


def _mistaken_masks(scores: Tensor, k: int) -> dict[str, Tensor]:
    batch = torch.zeros(scores.numel(), dtype=torch.bool)
    batch[scores.flatten().topk(len(scores) * k).indices] = True
    mask = best_of(scores, k)
    listed = torch.tensor([from_the_best(row) for row in scores.tolist()]) < k
    return {
        "argsort lists the tokens from the best to the worst; the rank of a token is the argsort of that list": listed,
        "everybody is routed: do you take the k largest along the tokens, dim=1?": torch.ones_like(mask),
        "these are the k smallest": best_of(-scores, k),
        f"k of every sequence, not {len(scores)} k of the whole batch": batch.view_as(mask),
        "one too few: is the k-th largest itself left out?": best_of(scores, max(k - 1, 0)),
        "one too many": best_of(scores, k + 1),
        "True where a token is routed, not where it is not": ~mask,
        "the k largest along the tokens, dim=1, not along the batch": scores >= scores.amax(0, keepdim=True),
    }


def _mistaken_weights(scores: Tensor, k: int, epsilon: float) -> dict[str, Tensor]:
    def held(m: int) -> Tensor:
        """The m best at 1, in every sequence."""
        first = best_of(scores, m)
        share = (k - m) * (scores / epsilon).masked_fill(first, -math.inf).softmax(1)
        return torch.where(first, 1.0, share.clamp(max=1)) * mask

    def search(tried: Callable[[int], int], given: Callable[[int], int], *, of_all: bool = False) -> Tensor:
        """The first m for which the largest of the others, times what is tried, is no more than 1; the m best at 1,
        the others with what is given."""
        rows = []
        for row in z:
            rank = row.argsort(descending=True).argsort()
            for m in range(k):
                rest = row.masked_fill(rank < m, -math.inf).softmax(0)
                among = row.softmax(0) if of_all else rest
                if tried(m) * among.masked_fill(rank < m, 0).max() <= 1:
                    break
            rows.append(torch.where(rank < m, 1.0, given(m) * among))
        return torch.stack(rows) * mask

    if k == 0:
        return {}
    mask, z, right = best_of(scores, k), scores / epsilon, bisected(scores, k, epsilon)
    whole, ones, softmax = bisected(scores, k, epsilon, cut=False), mask.to(scores.dtype), z.softmax(1)
    alone = z.masked_fill(~mask, -math.inf).softmax(1)
    return {
        "not cut: the tokens that are not routed have weight 0": whole,
        "k · softmax is more than 1 for the largest: find the m that are held at 1": k * softmax * ones,
        "k · softmax, neither held at 1 nor cut": k * softmax,
        "what was clipped at 1 must go to the others, or the weights sum to less than k": (
            (k * softmax).clamp(max=1) * ones
        ),
        "what was clipped at 1 must go to the others, and the tokens not routed have weight 0": (k * softmax).clamp(
            max=1
        ),
        "that is the softmax, which sums to 1: the weights sum to k": softmax * ones,
        "the softmax over the routed tokens alone: the others take part, and the weights sum to k": alone,
        "k times the softmax over the routed tokens alone: the others take part in the sum": k * alone,
        "every routed token has weight 1: a gate that is 1 forward is no weight, nor is a smooth top-k of the routed "
        "alone, or a nu at the k-th largest score": ones,
        "after the cut nothing is rescaled: the sum is less than k by what the others held": (
            right * k / right.sum(1, keepdim=True)
        ),
        "divide by epsilon, do not multiply": bisected(scores, k, 1 / epsilon),
        "epsilon is not used": bisected(scores, k, 1.0),
        "a sigmoid looks at one score alone: the weights of a sequence sum to k": torch.sigmoid(z) * ones,
        "a sigmoid of the scores: the weights of a sequence sum to k": torch.sigmoid(scores) * ones,
        "the scores themselves are no weights": scores * ones,
        "m is a number of its own for each sequence, and may be 0: here it is 1 in all of them": held(1),
        "m is the smallest number for which no weight exceeds 1, not always k - 1": held(k - 1),
        "the m best have taken m of the k: the others share k - m, not k": search(lambda m: k, lambda m: k),
        "the others share k - m, not k, in the weights as in the search for m": search(lambda m: k - m, lambda m: k),
        "m is found with k - m as well: that is what the others share": search(lambda m: k, lambda m: k - m),
        "the softmax is over the others alone: those held at 1 take no part in it": (
            search(lambda m: k - m, lambda m: k - m, of_all=True)
        ),
        "the weights lie from the best to the worst: each belongs where its token stands": right.sort(
            1, descending=True
        ).values,
        "the weights lie from the best to the worst, and were cut after that: each belongs where its token stands": (
            whole.sort(1, descending=True).values * ones
        ),
    }


def _equals(check: Task, answer: Callable[..., Any], scores: Tensor, k: int, epsilon: float) -> None:
    mask, weights = answer(scores, k, epsilon)
    border = scores.sort(1, descending=True).values[:, max(k - 1, 0), None]
    tested = f"scores with equals among them, {scores.tolist()}, k={k}"
    check.equal(
        "ties",
        mask,
        best_of(scores, k),
        tested=tested,
        likely="exactly k, of equals the earlier: a stable sort keeps equals in order",
        mistakes={
            "more than k are routed: >= the k-th largest takes all its equals": scores >= border,
            "fewer than k are routed: > the k-th largest leaves out its equals": scores > border,
            "of equals the earlier comes first": best_of(scores.flip(1), k).flip(1),
        },
    )
    check.close(
        "weights of equals",
        weights,
        bisected(scores, k, epsilon),
        tested=tested,
        tolerance=1e-9,
        likely="equals have equal weights before the cut; those that are cut have 0",
    )


def _nobody_and_everybody(check: Task, answer: Callable[..., Any], scores: Tensor, epsilon: float) -> None:
    nobody, none, tokens = answer(scores, 0, epsilon), torch.zeros_like(scores), scores.shape[1]
    for got, expected in zip(nobody, (none.bool(), none), strict=True):
        check.equal(
            "k = 0",
            got.detach(),
            expected,
            tested="k=0",
            likely="nobody is routed, and all weights are 0: log 0 or a division by k makes nan of it",
        )
    everyone = answer(scores, tokens, epsilon)
    for got, expected, likely in zip(
        everyone,
        (~none.bool(), none + 1),
        ("everybody is routed", f"weights of at most 1 that sum to {tokens} are all 1"),
        strict=True,
    ):
        check.close("k = all", got + 0.0, expected + 0.0, tested=f"k={tokens} of {tokens} tokens", likely=likely)


def _small_epsilon(check: Task, answer: Callable[..., Any], scores: Tensor, k: int, epsilon: float) -> None:
    def iterated(steps: int) -> Tensor:
        """The iteration of the paper, stopped after so many steps."""
        b = -scores
        for _ in range(steps):
            a = epsilon * (math.log(k) - ((scores + b) / epsilon).logsumexp(1, keepdim=True))
            b = -(scores + a).relu()
        return ((scores + a + b) / epsilon).exp() * best_of(scores, k)

    check.close(
        "small epsilon",
        answer(scores, k, epsilon)[1],
        bisected(scores, k, epsilon),
        tested=f"{scores.shape[1]} scores, k={k}, epsilon={epsilon:g}",
        likely="an iteration that has not come to its end? The weights before the cut must sum to k",
        mistakes={
            f"the iteration has not come to its end (this is after {steps} steps): small epsilons take hundreds": (
                iterated(steps)
            )
            for steps in (1, 2, 5, 10, 20, 25, 30, 50, 100)
        },
    )


def _finite(check: Task, answer: Callable[..., Any], scores: Tensor, k: int, epsilon: float) -> Tensor:
    """The gradient, which must be finite, as the weights must."""
    asked = scores.clone().requires_grad_()
    weights = answer(asked, k, epsilon)[1]
    found = gradient(weights, asked)
    check.finite(
        "finite gradients",
        weights,
        found,
        tested=f"weights and their gradient: scores up to {scores.abs().max():.0f}, k={k}, epsilon={epsilon:g}, "
        f"{scores.dtype}",
        likely="torch.where hides an infinite value but not the nan of its gradient: exponentiate nothing large in the "
        "branch that is not taken",
    )
    return found


def _gradient(check: Task, answer: Callable[..., Any], scores: Tensor, k: int, epsilon: float) -> None:
    asked = scores.clone().requires_grad_()
    found, expected = gradient(answer(asked, k, epsilon)[1], asked), slopes(scores, k, epsilon)
    check.close(
        "gradient",
        found,
        expected,
        tested="the gradient of a sum of the weights, each times a number of its own, with respect to the scores "
        f"{list(scores.shape)}, k={k}, epsilon={epsilon:g}, against differences",
        tolerance=1e-5,
        likely="compute the weights from the scores with operations that autograd follows; the mask and m need none",
        mistakes=_mistaken_gradients(scores, k, epsilon) if _far(found, expected) else None,
    )


def _mistaken_gradients(scores: Tensor, k: int, epsilon: float) -> dict[str, Tensor]:
    mask, whole = best_of(scores, k), bisected(scores, k, epsilon, cut=False)
    loss = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).view_as(scores)
    leaf = scores.clone().requires_grad_()
    softmax = (leaf / epsilon).softmax(1) * mask
    nu = scores.amin(1, keepdim=True) - epsilon * whole.amin(1, keepdim=True).log()
    spread = epsilon * math.log(scores.shape[1])
    smallest, largest = leaf.amin(1, keepdim=True), leaf.amax(1, keepdim=True)

    def halved(low: Tensor, high: Tensor) -> Tensor:
        """The gradient if nu was found by halving between two bounds, and autograd followed them."""
        part = ((nu - low) / (high - low)).detach()
        return gradient(((leaf - low - part * (high - low)) / epsilon).exp().clamp(max=1) * mask, leaf)

    return {
        "no gradient reaches the scores: detach(), .item(), .data, no_grad or a comparison cut the path": (
            torch.zeros_like(scores)
        ),
        "nu depends on the scores too: as a constant it lets each score move its own weight alone": (
            torch.where(mask & (whole < 1 - 1e-9), whole * loss / epsilon, 0.0)
        ),
        "that is the gradient of a softmax, not of the weights that you gave": gradient(softmax, leaf),
        "that is the gradient of k · softmax, not of the weights that you gave": gradient(k * softmax, leaf),
        **{
            f"nu was found by halving between {begun}: autograd followed these bounds, not nu; take the closed form": (
                halved(low, high)
            )
            for begun, low, high in (
                ("the smallest and the largest score", smallest, largest),
                ("the smallest score and more than the largest", smallest, largest + spread),
                ("less than the smallest and more than the largest score", smallest - spread, largest + spread),
                ("less than the smallest and the largest score", smallest - spread, largest),
            )
        },
    }


# ---- task 2: conditional_feed_forward


def conditional_feed_forward(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    sizes: Iterable[tuple[Sequence[int], Sequence[int], int, int]] = (
        ((6, 6), (3, 3), 6, 4),
        ((7, 4, 5), (3, 1, 0), 7, 4),
        ((6, 3), (0, 0), 6, 4),
    ),
    epsilon: float = 0.7,
    dtype: torch.dtype = torch.float64,
    seed: int = 3,
) -> None:
    """Task 2: batches of sizes (lengths, counts, tokens of a row, dim) against both parts run for everybody, then parts
    that return what they get, and equal tokens."""
    for lengths, counts, tokens, dim in sizes:
        on = f"{len(lengths)} sequences of lengths {list(lengths)} in rows of {tokens} tokens, dim {dim}, "
        on += f"counts {list(counts)}, epsilon={epsilon:g}"
        light, heavy = (Watched(shaken(FeedForward(dim, hidden), seed=hidden).to(dtype)) for hidden in (3, 9))
        x, u = normal(len(lengths), tokens, dim, seed=seed, dtype=dtype), normal(dim, seed=seed + 1, dtype=dtype)
        for row, length in zip(x, lengths, strict=True):
            row[length:] = 2 * u.sign()  # what fills a row up would score higher than any token
        gave: list[Tensor] = []
        light.part.register_forward_hook(lambda _, __, made, gave=gave: gave.extend((made, made.detach().clone())))
        given = Ragged(x, list(lengths), light, heavy, u, list(counts), epsilon)
        lists = list(lengths), list(counts)
        with check.untouched(tested=on, likely=_IN_PLACE, x=x, u=u):
            found = answer(*given._replace(lengths=lists[0], counts=lists[1]))
        check.equal("input untouched", lists, (list(lengths), list(counts)), tested=f"lengths and counts, {on}")
        calls, few = (light.rows, heavy.rows), sum(counts)
        light.part._forward_hooks.clear()
        expected = _light_and_heavy(given).detach()
        check.close(
            "value" if few else "k = 0",
            found.detach(),
            expected,
            tested=on,
            tolerance=1e-9 if dtype == torch.float64 else 1e-5,
            likely="light(x) everywhere; at the routed tokens, their weight times heavy(x) is added"
            if few
            else "a count of 0 is no error and no 1: return what light gave",
            mistakes=_mistaken_parts(given) if few else None,
        )
        _called(check, *calls, x.shape[0] * tokens, few, on)
        check.equal(
            "who is heavy",
            sorted(row for given_rows in heavy.given for row in given_rows.flatten(0, -2).tolist()),
            sorted(x[_ragged(x @ u, given)[0]].tolist()),
            tested=f"the tokens that heavy was given, {on}",
            likely="the largest scores of each sequence, and the tokens as they are",
        )
        check.true(
            "light's result untouched",
            torch.equal(gave[0].detach(), gave[1]),
            tested=f"what light returned, after your function returned: {on}",
            expected="as light made it",
            got="changed",
            likely="out[mask] += … writes into what light returned, which another may still hold: make a new tensor",
        )
        if dtype == torch.float64:
            _gradients_of_parts(check, answer, given, on)
    _idle_parts(check, answer, seed)
    alone(check, answer)


class Ragged(NamedTuple):
    """What conditional_feed_forward is given, in its order."""

    x: Tensor
    lengths: list[int]
    light: Any
    heavy: Any
    u: Tensor
    counts: list[int]
    epsilon: float


def _ragged(scores: Tensor, given: Ragged, epsilon: float | None = None) -> tuple[Tensor, Tensor]:
    """Mask and weights, row by row, with a gradient; False and 0 behind the end of a sequence."""
    masks, weights = [], []
    for row, length, k in zip(scores, given.lengths, given.counts, strict=True):
        mask = best_of(row[None, :length], k)
        smooth = (
            soft_topk(row[None, :length], k, epsilon or given.epsilon) if k else torch.zeros_like(row[None, :length])
        )
        for found, part in ((masks, mask), (weights, smooth * mask)):
            found.append(F.pad(part[0], (0, len(row) - length)))
    return torch.stack(masks), torch.stack(weights)


_IN_PLACE = (
    "index_add_, += or an assignment to x[...] changes what you were given; and what light returned may be x itself"
)


def _light_and_heavy(given: Ragged) -> Tensor:
    """Masked: heavy on all, and most of it thrown away."""
    weights = _ragged(given.x @ given.u, given)[1]
    light, heavy = given.light.part(given.x), given.heavy.part(given.x)
    return light + weights[..., None] * heavy


@torch.no_grad()
def _mistaken_parts(given: Ragged) -> dict[str, Tensor]:
    x, lengths, light, heavy, u, counts, epsilon = given
    light, heavy = light.part, heavy.part
    at, h, s = light(x), heavy(x), x @ u

    def by(scores: Tensor, other: float = epsilon, among: Ragged = given) -> Tensor:
        return at + _ragged(scores, among, other)[1][..., None] * h

    batch, tokens, dim = x.shape
    mask, weights = _ragged(s, given)
    w, on = weights[..., None], mask[..., None]
    full, first = given._replace(lengths=[tokens] * batch), [min(counts[0], length) for length in lengths]
    out_of_order, no_offset, shared = at.clone(), at.clone(), at.clone()
    for b, k in enumerate(counts):
        best = s[b, : lengths[b]].topk(k).indices
        out_of_order[b, mask[b]] += weights[b, best][:, None] * heavy(x[b, best])
        no_offset[0, best] += weights[b, best][:, None] * heavy(x[0, best])
        if k:
            shared[b] += (soft_topk(s[b : b + 1], k, epsilon)[0] * mask[b])[:, None] * h[b]
    there = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    dropped, of_zero = (at + (_ragged(each, full)[1] * there)[..., None] * h for each in (s, s * there))
    far = s.masked_fill(~there, -1e9).view(1, -1)
    whole = decide(far, sum(counts), epsilon)[1].view_as(s)
    return {
        "every routed token gets all of Heavy(x): the weights are missing, or a gate made them 1 forward": at + on * h,
        "the weight multiplies what Heavy gives, not what it gets": at + on * heavy(w * x),
        "x itself is not added: the block around you does that": x + at + w * h,
        "heavy comes on top of light, not in its place": torch.where(on, w * h, at),
        "heavy comes on top of light, not in its place, and times its weight": torch.where(on, h, at),
        "the weight is for the heavy part alone: light has none": torch.where(on, w * (at + h), at),
        "light is missing": w * h,
        "heavy is missing": at,
        "what fills up a row is no token: it is never routed": by(s, among=full),
        "what fills up a row takes no share of the weights: the smooth top-k is over the tokens that are there": shared,
        "what fills up a row was routed with the tokens and dropped after that, so that too few tokens are left: route "
        "scores[b : b + 1, :length]": dropped,
        "a score of 0 is a score as any other: what fills up a row is routed with it, and takes its share of the "
        "weights": of_zero,
        "each sequence has a count of its own: this is the first sequence's for all": by(
            s, among=given._replace(counts=first)
        ),
        "what heavy gave does not come back to the tokens that it was made of: in which order did you gather them, by "
        "score or by place?": out_of_order,
        "all routed tokens come from the first sequence: when flattened, sequence b begins at b · tokens": no_offset,
        "each sequence routes its own count, not the batch their sum": at + whole[..., None] * h,
        "epsilon is not used": by(s, 1.0),
        "a softmax is no smooth top-k: the weights of route": at + on * s.softmax(1)[..., None] * h,
        "a softmax is no smooth top-k, also not with epsilon": at + on * (s / epsilon).softmax(1)[..., None] * h,
        "a sigmoid is no smooth top-k: the weights of route": at + on * s.sigmoid()[..., None] * h,
        "the scores are no weights: take those of route": at + on * s[..., None] * h,
        "the router looks at x, not at what light made of it": by(at @ u),
        "the score is x · u, not divided by the root of dim": by(s / dim**0.5),
        "the score is x · u, a sum over dim and no mean": by(s / dim),
        "the score is x · u, not divided by the length of u": by(s / u.norm()),
        "a norm behind the weights takes them out again": at + on * F.layer_norm(w * h, (dim,)),
    }


def _called(check: Task, light: list[int], heavy: list[int], everybody: int, few: int, on: str) -> None:
    check.equal(
        "light once",
        light,
        [everybody],
        tested=f"how many tokens light got, call by call: {on}",
        likely="one call on all tokens of all sequences, with what fills them up",
    )
    masked = "heavy ran on everybody, and a mask threw most of it away: gather the routed tokens first, x[mask]"
    check.true(
        "heavy rows",
        sum(heavy) == few,
        tested=f"how many tokens heavy got: {on}",
        expected=f"{few} tokens",
        got=heavy,
        likely=masked if sum(heavy) == everybody else None,
    )
    check.true(
        "heavy once",
        len(heavy) == 1 or (few == 0 and not heavy),
        tested=f"how often heavy was called: {on}",
        expected="once",
        got=len(heavy),
        likely="one call with the routed tokens of all sequences, not one for each sequence or token",
    )


def _gradients_of_parts(check: Task, answer: Callable[..., Tensor], given: Ragged, on: str) -> None:
    light, heavy = given.light.part, given.heavy.part
    x, u = given.x.clone().requires_grad_(), given.u.clone().requires_grad_()

    def through(for_light: Tensor, for_heavy: Tensor, for_scores: Tensor) -> Tensor:
        """The result, where each of the three gets x or a detached copy."""
        return light(for_light) + _ragged(for_scores @ u, given)[1][..., None] * heavy(for_heavy)

    fixed = x.detach()
    same_gradients(
        check,
        answer(*given._replace(x=x, u=u)),
        through(x, x, x),
        {"u": u, "x": x, "the heavy part": heavy.expand.weight},
        on,
        {
            "u": "u is reached through the weights alone: they must stand on the path, without detach",
            "x": "x is reached through light, through heavy, and through the scores: none of them is detached",
        },
        {
            "u": {"no gradient reaches u: the weights are its only way": torch.zeros_like(u)},
            "x": {
                "x is reached through the scores too: they are detached": gradient(through(x, x, fixed), x),
                "x is reached through heavy too: it got a detached x": gradient(through(x, fixed, x), x),
                "x is reached through light too: it got a detached x": gradient(through(fixed, x, x), x),
            },
        },
    )


def _idle_parts(check: Task, answer: Callable[..., Tensor], seed: int) -> None:
    """Parts whose results are known, and tokens of which some are equal."""
    x = normal(2, 4, 3, seed=seed + 5, dtype=torch.float64)
    x[..., 0] = torch.tensor([[0.0, 3.0, 6.0, 9.0], [7.0, 1.0, 8.0, 2.0]])
    u = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    told = "where light returns the very tensor that it got"
    doubled = torch.where(best_of(x[..., 0], 2)[..., None], 2 * x, x)
    with check.untouched(tested=f"the tokens that you were given, {told}", likely=_IN_PLACE, x=x):
        found = answer(x, [4, 4], nn.Identity(), nn.Identity(), u, [2, 2], 1e-3)
    tested = f"{told}, and heavy too; the two best of four have weight 1"
    check.close("idle parts", found, doubled, tested=tested)
    same = torch.ones(1, 5, 3, dtype=torch.float64)
    check.close(
        "equal tokens",
        answer(same, [5], nn.Identity(), lambda tokens: 10 * tokens, u, [2], 1.0)[0, :, 0],
        torch.tensor([5.0, 5.0, 1.0, 1.0, 1.0], dtype=torch.float64),
        tested="five equal tokens, two routed: the first two, with weight 2/5; heavy gives ten times what it gets",
        likely="exactly k, of equals the earlier",
    )
    single = answer(x.float(), [4, 3], nn.Identity(), nn.Identity(), u.float(), [2, 1], 1.0)
    check.equal("float32", single.dtype, torch.float32, tested="tokens, router and parts in float32")


# ---- task 3: local_attention


def windowed_attention(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    lengths: Iterable[tuple[int, int]] = ((7, 2), (1, 1), (3, 5), (6, 2), (9, 4), (8, 1)),
    shape: tuple[int, int, int] = (2, 2, 3),
    costs: Iterable[tuple[int, int]] = ((1024, 8), (60, 5), (64, 8)),
    seed: int = 1,
) -> None:
    """Task 3: (tokens, window) against full attention under a mask, for (batch, heads, size); then what it costs."""
    for tokens, window in lengths:
        parts = _queries_keys_values(tokens, shape, seed, torch.float64)
        inputs: Any = dict(zip(("query", "key", "value"), parts, strict=True))
        on = f"{tokens} token{'s' * (tokens > 1)}, {shape[1]} heads of {shape[2]} features, window={window}"
        with check.untouched(
            tested=on, likely="a function whose name ends in _ , or /=, changes what you were given", **inputs
        ):
            found = answer(*parts, window)
        blocks = {"short": tokens // window, "filled": -(-tokens // window)}
        shapes = {name: (*shape[:2], number * window, shape[2]) for name, number in blocks.items()}
        amiss = [name for name in shapes if tokens % window and found.shape == shapes[name]]
        check.close(
            "value" if window < tokens else "a long window",
            found,
            _banded(*parts, window=window),
            tested=on,
            tolerance=1e-9,
            likely=_LIKELY_WINDOWS[amiss[0] if amiss else window < tokens],
            mistakes=_mistaken_windows(*parts, window=window),
        )
        leaves = {name: part.clone().requires_grad_() for name, part in inputs.items()}
        told = dict.fromkeys(inputs, "nan in a row that is cut off still makes nan of the gradient")
        same_gradients(
            check, answer(*leaves.values(), window), _banded(*leaves.values(), window=window), leaves, on, told
        )
    parts = _queries_keys_values(20, (2, 3, 5), seed, torch.float32)
    for name, times, tolerance in (("float32", 1, 1e-5), ("large scores", 5000, 1e-2)):
        asked = [times * parts[0], *parts[1:]]
        check.close(
            name,
            answer(*asked, 4),
            _banded(*(part.double() for part in asked), window=4).float(),
            tested=f"20 tokens, window=4, float32{', scores of some thousands' if times > 1 else ''}",
            tolerance=tolerance,
            likely="softmax subtracts the largest score before exp",
        )
    for tokens, window in costs:
        _costs(check, answer, tokens, window)
    alone(check, answer)


_LIKELY_WINDOWS = {
    "short": "the tokens of the last block, which they do not fill, are missing: there are as many blocks as tokens / "
    "window, rounded up, and the last one is padded",
    "filled": "the last block is filled up: give back the first `tokens` places alone",
    True: "compare with full attention under the mask |i - j| <= window: which token is the first to differ?",
    False: "the last block may be unfilled, and there may be fewer tokens than one window",
}


def _queries_keys_values(tokens: int, shape: tuple[int, int, int], seed: int, dtype: torch.dtype) -> list[Tensor]:
    batch, heads, size = shape
    return [normal(batch, heads, tokens, size, seed=seed + part, dtype=dtype) for part in range(3)]


def _banded(query: Tensor, key: Tensor, value: Tensor, *, window: int) -> Tensor:
    """Everybody with everybody, and a mask."""
    place = torch.arange(query.shape[2])
    far = (place - place[:, None]).abs() > window
    return F.scaled_dot_product_attention(query, key, value, attn_mask=~far)


def _mistaken_windows(q: Tensor, k: Tensor, v: Tensor, *, window: int) -> dict[str, Tensor]:
    tokens, size = q.shape[2:]
    place = torch.arange(tokens)
    apart = place - place[:, None]  # how far key j stands behind query i

    def dense(
        near: Tensor,
        *,
        scale: float = size**-0.5,
        dim: int = -1,
        queries: Tensor = q,
        keys: Tensor = k,
        zeros: Tensor | None = None,
    ) -> Tensor:
        """Everybody with everybody, then a mask; `zeros` counts keys of zeros that are attended to besides."""
        scores = (queries @ keys.mT * scale).masked_fill(~near, -math.inf)
        if zeros is None:
            return scores.softmax(dim).nan_to_num() @ v
        top = scores.amax(-1, keepdim=True).clamp(min=0)
        weights = (scores - top).exp()
        return weights @ v / (weights.sum(-1, keepdim=True) + zeros[:, None] * (-top).exp())

    def blocks(first: int, last: int) -> Tensor:
        """Who sees whom when blocks of the window's size look at those from first to last, without a mask."""
        between = place // window - place[:, None] // window
        return (between >= first) & (between <= last)

    band = apart.abs() <= window
    missing = 2 * window + 1 - band.sum(1)  # places of the window that lie outside the sequence
    in_front = (window - place).clamp(min=0)  # those of them that lie before it
    scores = q @ k.mT * size**-0.5
    return {
        "a token sees to both sides, not only those before it": dense(band & (apart <= 0)),
        "a token sees to both sides, not only those after it": dense(band & (apart >= 0)),
        **{
            f"window={window} is {window} places to each side: this is {other}": dense(apart.abs() <= other)
            for other in (window // 2, window - 1, window + 1)
        },
        f"window={window} is {window} places to each side and the token itself, not {window} before it and "
        f"{window - 1} after it": dense((apart >= -window) & (apart < window)),
        "a block must see its neighbours: a token at its edge looks over it": dense(blocks(0, 0)),
        "a block must see its neighbours, cut to the window": dense(blocks(0, 0) & band),
        "the blocks are right, and the mask is missing: of the three blocks a token sees those in its window": dense(
            blocks(-1, 1)
        ),
        "a block must see the one after it too": dense(blocks(-1, 0) & band),
        "a block must see the one before it too": dense(blocks(0, 1) & band),
        "the padding is attended to: keys of zeros have a score of 0, which is not nothing; set it to -inf": dense(
            band, zeros=missing
        ),
        "the padding in front is attended to: a key counts if its place is 0 or more": dense(band, zeros=in_front),
        "the padding behind is attended to: a key counts if its place is less than the number of tokens": dense(
            band, zeros=missing - in_front
        ),
        "a slice that begins at a negative place counts it from the end: max(0, i - window)": (
            dense(band) * (place >= window)[:, None]
        ),
        "the padding of all three blocks is attended to, and nothing outside the window is masked": dense(
            blocks(-1, 1), zeros=3 * window - blocks(-1, 1).sum(1)
        ),
        "the scores are divided by the root of size": dense(band, scale=1.0),
        "divided by size: take its root": dense(band, scale=1 / size),
        "multiplied by the root of size: divide": dense(band, scale=size**0.5),
        "divided by the root of the number of tokens, not of features": dense(band, scale=tokens**-0.5),
        "divided by the root of the features of all heads: every head has its own": dense(
            band, scale=(q.shape[1] * size) ** -0.5
        ),
        "the softmax is over the keys, the last dimension": dense(band, dim=-2),
        "the ends are joined: the first token must not see the last (torch.roll goes round)": dense(
            band | (apart.abs() >= tokens - window)
        ),
        "that is full attention: the window is missing": dense(band | True),
        "a token sees itself too": dense(band & (apart != 0)),
        "masked scores of 0 are not nothing: set them to -inf before the softmax": (
            scores.masked_fill(~band, 0.0).softmax(-1) @ v
        ),
        "masked after the softmax: the weights no longer sum to 1": scores.softmax(-1) * band @ v,
        "the mean of the values nearby: the scores are not used": band.to(v.dtype) / band.sum(1, keepdim=True) @ v,
        "queries and keys have changed places": dense(band, queries=k, keys=q),
        "there is no softmax": scores * band @ v,
        f"{tokens} tokens do not fill their last block of {window}: it must not stay 0": (
            dense(band) * (place < tokens // window * window)[:, None]
        ),
    }


def _costs(check: Task, answer: Callable[..., Tensor], tokens: int, window: int) -> None:
    """Of one sequence in two heads of four features, in float32."""
    once, twice = (
        count(answer, *_queries_keys_values(number, (1, 2, 4), 7, torch.float32), window)
        for number in (tokens, 2 * tokens)
    )
    compared = once.flops / (4 * 2 * 4 * tokens)
    check.true(
        "cost",
        compared <= 4 * window,
        tested=f"the FLOPs of {tokens} tokens with window={window}, as keys that a token is compared with",
        expected=f"at most {4 * window}",
        got=compared,
        likely="everybody is compared with everybody, and a mask takes most of it away again: masked, not skipped"
        if compared == tokens
        else "a block of `window` queries needs three blocks of keys",
    )
    check.true(
        "grows linearly",
        twice.flops <= 2.1 * once.flops and twice.bytes <= 2.3 * once.bytes,
        tested=f"{2 * tokens} tokens against {tokens}, window={window}",
        expected="about twice the operations and twice the bytes moved",
        got=f"operations times {twice.flops / max(once.flops, 1):.2f}, bytes times {twice.bytes / once.bytes:.2f}",
        likely="something has tokens · tokens entries: the scores, or a mask [tokens, tokens]",
    )


# ---- task 4: routed_attention


def routed_attention(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    sizes: Iterable[tuple[int, int, int, int, int]] = ((2, 6, 2, 3, 4), (2, 6, 2, 3, 3), (2, 6, 0, 3, 4)),
    dim: int = 4,
    epsilon: float = 0.9,
    seed: int = 21,
) -> None:
    """Task 4: sizes (batch, tokens, queries, keys, size of the head) against everything for everybody and a mask."""
    for batch, tokens, queries, keys, size in sizes:
        heavy = Heavy(dim, size, seed=seed - 20)
        x, light = (normal(batch, tokens, dim, seed=seed + part, dtype=torch.float64) for part in (0, 1))
        u_query, u_key = (normal(dim, seed=seed + part, dtype=torch.float64) for part in (9, 20))
        given = Asked(x, light, heavy, u_query, u_key, queries, keys, epsilon)
        on = f"tokens [{batch}, {tokens}, {dim}], {queries} queries and {keys} keys of each sequence, "
        on += f"heads of size {size}, epsilon={epsilon:g}"
        with check.untouched(
            tested=on,
            likely="+=, index_add_ or an assignment to x[...] or light[...] changes what is the caller's",
            x=x,
            light=light,
            u_query=u_query,
            u_key=u_key,
        ):
            found = answer(*given).detach()
        calls = {name: getattr(heavy, name).rows for name in ("query", "key", "value", "output")}
        asking, expected = best_of(x @ u_query, queries), _both_decided(given).detach()
        if queries == 0:
            check.equal("nobody asks", found, light, tested=on, likely="nobody asks, so nothing is added: return light")
            continue
        check.close(
            "value",
            found,
            expected,
            tested=on,
            tolerance=1e-9,
            likely="keys and values of w^kv x at the asked; queries of x at the asking; the result times w^q added "
            "there",
            mistakes=_mistaken_attention(given) if _far(found, expected) else None,
        )
        check.equal(
            "the others",
            found[~asking],
            light[~asking],
            tested=f"the tokens that do not ask: {on}",
            likely="exactly light, bit for bit: adding and taking away again is not nothing",
        )
        for name, each in (("query", queries), ("key", keys), ("value", keys), ("output", queries)):
            check.true(
                "heavy rows",
                sum(calls[name]) == batch * each,
                tested=f"how many tokens heavy.{name} got: {on}",
                expected=f"{batch * each} tokens",
                got=calls[name],
                likely="gather the routed tokens before the linear layers, not after them",
            )
            check.equal(
                "heavy once",
                len(calls[name]),
                1,
                tested=f"how often heavy.{name} was called: {on}",
                likely="one call with the routed tokens of all sequences",
            )
        _gradients_of_attention(check, answer, given, on)
        with torch.no_grad():
            heavy.query.part.weight.mul_(1e4)
            found, expected = answer(*given), _both_decided(given)
        check.close(
            "large scores",
            found,
            expected,
            tested=f"scores of some ten thousands: {on}",
            likely="softmax takes off the largest score of a row before exp",
        )
        single = [part.float() for part in (x, light, heavy, u_query, u_key)]
        check.equal(
            "float32", answer(*single, queries, keys, epsilon).dtype, torch.float32, tested="everything in float32"
        )
    alone(check, answer)


class Asked(NamedTuple):
    """What routed_attention is given, in its order."""

    x: Tensor
    light: Tensor
    heavy: Any
    u_query: Tensor
    u_key: Tensor
    queries: int
    keys: int
    epsilon: float


def _both_decided(given: Asked) -> Tensor:
    """Both decisions, then everything for everybody."""
    w_query = decide(given.x @ given.u_query, given.queries, given.epsilon)[1]
    asked, w_key = decide(given.x @ given.u_key, given.keys, given.epsilon)
    return _for_everybody(given.x, given.light, given.heavy, gate=w_query, asked=asked, of_keys=w_key)


def _for_everybody(
    x: Tensor,
    light: Tensor,
    heavy: Heavy,
    *,
    gate: Tensor,
    asked: Tensor,
    of_keys: Tensor,
    to_query: Tensor | float = 1.0,
    to_key: Tensor | None = None,
    to_value: Tensor | None = None,
    made_key: Tensor | float = 1.0,
    made_value: Tensor | float = 1.0,
    times_scores: Tensor | float = 1.0,
    root: float | None = None,
    among: Tensor | None = None,
    before_output: Tensor | float = 1.0,
    output: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Light plus gate times attention of everybody over the asked; the other arguments are what a mistake changes."""
    wide = [part if isinstance(part, float) else part[..., None] for part in (to_query, made_key, made_value)]
    to_key, to_value = (of_keys if part is None else part for part in (to_key, to_value))
    query, key = heavy.query.part(wide[0] * x), wide[1] * heavy.key.part(to_key[..., None] * x)
    value = wide[2] * heavy.value.part(to_value[..., None] * x)
    scores = query @ key.mT / (root or query.shape[-1]) ** 0.5
    scores = scores * (times_scores if isinstance(times_scores, float) else times_scores[:, None])
    if among is None:
        weights = scores.masked_fill(~asked[:, None], -math.inf).softmax(-1)
    else:  # over the queries
        weights = scores.masked_fill(~among[..., None], -math.inf).softmax(1) * asked[:, None]
    mixed = weights @ value * (before_output if isinstance(before_output, float) else before_output[..., None])
    return light + gate[..., None] * (output or heavy.output.part)(mixed)


@torch.no_grad()
def _mistaken_attention(given: Asked) -> dict[str, Tensor]:
    x, light, heavy, u_query, u_key, queries, keys, epsilon = given
    batch, tokens, dim = x.shape
    asking, w_query = decide(x @ u_query, queries, epsilon)
    asked, w_key = decide(x @ u_key, keys, epsilon)
    size, ones, asks = heavy.query.part.out_features, torch.ones_like(w_key), asking.to(x.dtype)

    def made(**slip: Any) -> Tensor:
        return _for_everybody(x, light, heavy, **{"gate": w_query, "asked": asked, "of_keys": w_key, **slip})

    def routers(for_queries: Tensor, for_keys: Tensor, number: int = keys) -> Tensor:
        return _both_decided(given._replace(u_query=for_queries, u_key=for_keys, keys=number))

    by_score = (x @ u_key).topk(keys, dim=1).indices
    misplaced = torch.zeros_like(w_key).scatter(1, by_score, w_key[asked].view(batch, keys))
    right = made()
    added, place = right - light, asking.nonzero(as_tuple=True)
    best = (x @ u_query).topk(queries, dim=1).indices
    wide = best[..., None].expand(-1, -1, dim)
    in_order_of_score = added.gather(1, wide).flatten(0, 1)
    weighted_by_place = ((made(gate=asks) - light).gather(1, wide).flatten(0, 1)) * w_query[asking][:, None]
    heap, on_heap = (part.reshape(1, batch * tokens, dim) for part in (x, light))
    across: dict[str, Any] = {"gate": w_query.view(1, -1), "asked": asked.view(1, -1), "of_keys": w_key.view(1, -1)}
    return {
        "the weights of the queries are missing: they scale what is added": made(gate=asks),
        "the weight of a query scales the result, not the token that asks": made(gate=asks, to_query=w_query),
        "the weight of a query stands behind heavy.output, whose bias it scales too": (
            made(gate=asks, before_output=w_query)
        ),
        **({"heavy.output is missing": made(output=nn.Identity())} if size == dim else {}),
        "the weights of the keys are missing: they scale the tokens of which keys and values are made": (
            made(of_keys=ones)
        ),
        "keys are made of scaled tokens too, not values alone": made(to_key=ones),
        "values are made of scaled tokens too, not keys alone": made(to_value=ones),
        "scale the tokens, not the keys and values made of them: a bias is not scaled": (
            made(of_keys=ones, made_key=w_key, made_value=w_key)
        ),
        "scale the tokens, not the values made of them, and keys are made of scaled tokens as well": (
            made(to_value=ones, made_value=w_key)
        ),
        "scale the tokens, not the values made of them, so that keys are scaled too": (
            made(of_keys=ones, made_value=w_key)
        ),
        "the weights of the keys scale tokens, not the scores of the attention": (
            made(of_keys=ones, times_scores=w_key)
        ),
        "all tokens are asked: keys and values are the routed alone": made(asked=ones.bool(), of_keys=ones),
        "a token that is not routed is no key: scaled to 0, it still makes a key of the bias and takes its share of "
        "the softmax": made(asked=ones.bool()),
        "everybody asks: the routed queries alone get something added": made(gate=ones),
        "the queries have their own router, u_query": routers(u_key, u_key),
        "the keys have their own router, u_key": routers(u_query, u_query),
        "the two routers have changed places": routers(u_key, u_query),
        "a query has the weight that its own router gave it, not that of the keys": made(gate=w_key * asks),
        "`keys` tokens are asked, not `queries`": routers(u_query, u_key, queries),
        "the weights of the keys scale the tokens that are asked, not those that ask: keep x for the queries": (
            made(to_query=w_key)
        ),
        "a query attends to keys of its own sequence, not of the whole batch": (
            _for_everybody(heap, on_heap, heavy, **across).view_as(x)
        ),
        "epsilon is not used by the router of the keys": made(of_keys=decide(x @ u_key, keys, 1.0)[1]),
        "epsilon is not used by the router of the queries": made(gate=decide(x @ u_query, queries, 1.0)[1]),
        "the scores are divided by the root of size, not of the number of keys": made(root=float(keys)),
        "the scores are divided by the root of size": made(root=1.0),
        "the scores are divided by the root of the features of a query, which need not be dim": made(root=float(dim)),
        "the softmax is over the keys, the last dimension, not over the queries": made(among=asking),
        "x itself is not added: the block around you does that": right + asks[..., None] * x,
        "heavy comes on top of light, not in its place": torch.where(asking[..., None], added, light),
        "what light gave is missing": added,
        "nothing was added to light": light,
        "the result is not at the places of the queries: in which order did you gather them, by score or by place?": (
            light.index_put(place, in_order_of_score, accumulate=True)
        ),
        "the queries were gathered from the best to the worst (topk), and their results are put back in the order of "
        "the mask, which is that of place: one order for both": (
            light.index_put(place, weighted_by_place, accumulate=True)
        ),
        "light is scaled too: the weights of the queries are for what heavy adds": (
            torch.where(asking[..., None], w_query[..., None] * light + added, light)
        ),
        "the weights of the keys are not those of their tokens: one by score, the other by place?": (
            made(of_keys=misplaced)
        ),
    }


def _gradients_of_attention(check: Task, answer: Callable[..., Tensor], given: Asked, on: str) -> None:
    leaves = {name: getattr(given, name).clone().requires_grad_() for name in ("u_query", "u_key", "x")}
    given = given._replace(**leaves)
    leaves |= {f"heavy.{name}": getattr(given.heavy, name).part.weight for name in ("query", "key", "value", "output")}
    likely = {
        "u_query": "its weights must stand on the path of what is added at the queries, without detach",
        "u_key": "its weights must stand on the path of keys and values, without detach",
    }
    same_gradients(check, answer(*given), _both_decided(given), leaves, on, likely)


# ---- task 5: affordable


class Layer(NamedTuple):
    """One conditional layer: what affordable is given, and how many tokens it routes."""

    tokens: int
    dim: int
    heads: int
    light_heads: int
    window: int
    light: int
    heavy: int
    queries: int = 0
    keys: int = 0
    routed: int = 0

    def routing(self, k: int) -> "Layer":
        """The same with k tokens that ask, 2 k that are asked, and k that get the heavy feed-forward part."""
        return self._replace(queries=k, keys=2 * k, routed=k)


def affordable(
    check: Task,
    answer: Callable[..., int],
    *,
    sizes: Sequence[Sequence[int]] = (
        (480, 30, 6, 2, 6, 17, 50),
        (40, 30, 6, 2, 15, 17, 50),
        (2048, 64, 8, 2, 32, 128, 1023),
    ),
) -> None:
    """Task 5: sizes, the first seven of `Layer`, against the FLOPs that are counted in real layers."""
    alone(check, answer)
    for layer in (Layer(*one) for one in sizes):
        cost, most = _measured_costs(layer), layer.tokens // 2
        options = dict(zip(Layer._fields[2:7], layer[2:7], strict=True))
        on = f"{layer.tokens} tokens of dim {layer.dim}, " + ", ".join(f"{name}={is_}" for name, is_ in options.items())

        def ask(budget: int, layer: Layer = layer, options: dict[str, int] = options) -> Any:
            try:
                return answer(budget, layer.tokens, layer.dim, **options)
            except ValueError:
                return _REFUSED

        short = 3 * layer.window > layer.tokens
        cases = [
            ("a short sequence" if short else "value", cost(m) + cost(0) // 50, None) for m in (most // 2, most // 5)
        ]
        cases += [("to the last FLOP", cost(m) - less, None) for m in (1, most // 3, most) for less in (0, 1)]
        cases += [
            ("nobody routed", cost(0), "the light parts and the routers cost exactly this: 0, and no error"),
            ("all that fits", 3 * cost(most), "2 k tokens are asked, and there are no more than `tokens`"),
        ]
        for name, budget, likely in cases:
            found = ask(budget)
            check.true(
                "an int",
                type(found) is int or found == _REFUSED,
                tested="the type of the result",
                expected="int",
                got=type(found).__name__,
                likely="a number of tokens is a whole one: // gives one, / gives a float",
            )
            right = max(m for m in range(most + 1) if cost(m) <= budget)
            named = None if found == right else _miscount(layer, cost, ask)
            check.equal(
                name,
                found,
                right,
                tested=f"a budget of {budget:,} FLOPs, {on}",
                likely=named or likely or _LIKELY_COST[name],
            )
        check.raises(
            "too dear",
            ValueError,
            partial(answer, cost(0) - 1, layer.tokens, layer.dim, **options),
            tested=f"a budget of {cost(0) - 1:,} FLOPs, one less than the layer costs with nobody routed, {on}",
            likely="where not even k = 0 fits there is no answer: raise ValueError",
        )
    wide = Layer(*sizes[0])
    cost, more = _measured_costs(wide), 17 * 10**12
    some = range(1, wide.tokens // 2 + 1, max(1, wide.tokens // 10))
    for widened, k, less in product(("light", "heavy"), some, (0, 1)):
        options = dict(zip(Layer._fields[2:7], wide[2:7], strict=True))
        options[widened] += more
        budget = cost(k) + 4 * {"light": wide.tokens, "heavy": k}[widened] * wide.dim * more - less
        check.equal(
            "whole numbers",
            answer(budget, wide.tokens, wide.dim, **options),
            k - less,
            tested=f"a budget of {budget:,} FLOPs, {wide.tokens} tokens of dim {wide.dim}, "
            + ", ".join(f"{name}={is_}" for name, is_ in options.items()),
            likely="somewhere there is a float, which does not hold every whole number beyond 2^53: / and a root give "
            "one, // does not, and neither do + and * of whole numbers",
        )


_REFUSED = "ValueError, as if not even 0 tokens fitted"
_LIKELY_COST = {
    "value": "[a, b] times [b, c] is 2 a b c: write one line for every product of the list",
    "a short sequence": "no token meets more keys than there are: min(3 · window, tokens)",
    "to the last FLOP": "at most: a budget that is met exactly is kept; whole numbers alone, no floating point",
}


@cache
def _measured_costs(layer: Layer) -> Callable[[int], int]:
    """What the layer costs with m routed tokens. Its parts grow with m or with m²: three counts tell how."""
    none, one, two = (_counted(layer.routing(m)) for m in (0, 1, 2))
    curve = (two - 2 * one + none) // 2
    return lambda m: none + m * (one - none - curve) + m * m * curve


def _miscount(layer: Layer, cost: Callable[[int], int], ask: Callable[[int], Any]) -> str | None:
    """The mistake in the account that the answer makes, told by budgets which that account meets to the last FLOP."""
    most = layer.tokens // 2
    totals: dict[str, list[int]] = {}
    for k in range(most + 1):
        for says, off in _miscounted(cost(k), layer.routing(k)).items():
            totals.setdefault(says, []).append(cost(k) + off)
    totals = {says: total for says, total in totals.items() if total != list(map(cost, range(most + 1)))}

    def makes(mistake: list[int]) -> bool:
        """Whether the answer gives what this account gives."""
        for k in (most, most // 2, most // 3):
            for budget in (mistake[k], mistake[k] - 1):
                fits = [m for m in range(most + 1) if mistake[m] <= budget]
                if ask(budget) != (fits[-1] if fits else _REFUSED):
                    return False
        return True

    return next((says for says, mistake in totals.items() if makes(mistake)), None)


def _counted(layer: Layer) -> int:
    """What runs in the two conditional parts of a layer."""
    attention = ConditionalAttention(layer.dim, layer.heads, window=layer.window, light_heads=layer.light_heads)
    feed_forward = ConditionalFeedForward(layer.dim, light=layer.light, heavy=layer.heavy)
    x = torch.zeros(1, layer.tokens, layer.dim)
    with torch.no_grad():
        attended = count(attention, x, queries=layer.queries, keys=layer.keys).flops
        return attended + count(feed_forward, x, k=layer.routed).flops


def _product(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def _miscounted(right: int, layer: Layer) -> dict[str, int]:
    """By how much the result of a mistake differs from the right one."""
    tokens, dim, heads, light_heads, window, light, heavy, queries, keys, routed = layer
    size = dim // heads
    few, many = light_heads * size, dim - light_heads * size
    router, seen = _product(tokens, dim, 1), min(3 * window, tokens)
    # one linear layer or one product, where it is forgotten
    to_light, to_heavy, to_asked = _product(tokens, dim, few), _product(queries, dim, many), _product(keys, dim, many)
    in_light, in_heavy = _product(tokens, few, seen), _product(queries, many, keys)
    of_light, of_heavy = _product(tokens, dim, light), _product(routed, dim, heavy)

    def saw(number: int) -> int:
        return 2 * _product(tokens, few, number) - 2 * in_light

    def ask(asking: int, asked: int) -> int:
        more = 2 * (_product(asking, dim, many) + _product(asked, dim, many) + _product(asking, many, asked))
        return more - 2 * (to_heavy + to_asked + in_heavy)

    def split(light_width: int, heavy_width: int) -> int:
        """Other widths of the two branches."""
        of_one = 4 * _product(tokens, dim, 1) + 2 * _product(tokens, 1, seen)
        of_other = 2 * (_product(queries, dim, 1) + _product(keys, dim, 1) + _product(queries, 1, keys))
        return (light_width - few) * of_one + (heavy_width - many) * of_other

    quarter = heads // 4 * size
    return {
        "a multiply-add counts as two": -right // 2,
        "the routers are missing: three scores per token": -3 * router,
        "there are three routers: of queries, of keys, and of the feed-forward part": -2 * router,
        "there are three routers, and you have two": -router,
        "in blocks, a token meets 3 · window keys; that only 2 · window + 1 are near enough makes it no cheaper": (
            saw(2 * window + 1)
        ),
        "a block meets itself and its two neighbours, 3 · window keys": saw(min(window, tokens)),
        "a block meets itself and both its neighbours, 3 · window keys, not 2": saw(2 * window),
        "3 · window keys, not to each side": saw(6 * window),
        "that is full attention in the light branch: a token meets 3 · window keys": saw(tokens),
        "no token meets more keys than there are tokens: min(3 · window, tokens)": saw(3 * window),
        "gathered, not masked: the heavy parts run for the routed tokens alone": (
            ask(tokens, tokens) + 2 * _product(tokens - routed, dim, heavy)
        ),
        "the heavy feed-forward part runs for the routed tokens alone": 2 * _product(tokens - routed, dim, heavy),
        "only the routed queries ask": ask(tokens, keys),
        "only the routed keys are asked": ask(queries, tokens),
        "keys and values are made for the 2 k tokens that are asked, not for the k that ask": 2 * (to_heavy - to_asked),
        "2 k tokens are asked, not k: twice as many keys and values are made, and a query meets all of them": (
            ask(queries, queries)
        ),
        "the heavy branch needs keys and values, two layers": -to_asked,
        "heavy.output runs for the queries alone": _product(tokens - queries, dim, many),
        "the way back from the heads to dim is missing in both branches": -to_light - to_heavy,
        "the way back from the light heads to dim is missing": -to_light,
        "the way back from the heavy heads to dim is missing": -to_heavy,
        "attention has two products: scores, and weights times values": -in_light - in_heavy,
        "the light attention has two products: scores, and weights times values": -in_light,
        "the heavy attention has two products: scores, and weights times values": -in_heavy,
        "a feed-forward part has two linear layers": -of_light - of_heavy,
        "the heavy feed-forward part has two linear layers": -of_heavy,
        "the light feed-forward part has two linear layers": -of_light,
        "a multiply-add of the routers counts as two as well": -3 * router // 2,
        "a score is a product of dim features with dim others: 2 · dim for each token and router": (
            3 * router // dim - 3 * router
        ),
        "the light branch makes queries, keys and values: three times L": -2 * to_light,
        "`light` and `heavy` are numbers of hidden features already, no multiples of dim": (
            2 * (dim - 1) * (of_light + of_heavy)
        ),
        "the heads share dim, they do not multiply it: each has dim / heads features": split(dim, dim),
        "the sizes of the heads add up to the branch: not once more times the heads": (
            2 * (light_heads - 1) * in_light + 2 * (heads - light_heads - 1) * in_heavy
        ),
        "light_heads says how many heads are light, whatever the paper's quarter": split(quarter, dim - quarter),
        "the light branch has light_heads, the heavy one the rest: not the other way round": split(many, few),
        "light runs for all tokens, the routed too": -2 * _product(routed, dim, light),
    }


# ---- task 6: predict, then measure


def predict(
    check: Task,
    answer: Callable[[], Any],
    concentration: Callable[..., float],
    *,
    tokens: int = 64,
    dim: int = 16,
    shapes: Iterable[tuple[int, int]] = ((2, 6), (3, 8)),
    seed: int = 7,
) -> None:
    """Task 6: what was said beside what is counted and measured, on layers of this size; then the concentration, on
    small masks and on random ones of these shapes."""
    check.prediction(
        answer(),
        _measured(tokens, dim, seed),
        tested=f"weights counted on the 16 equals, FLOPs of layers for {tokens} tokens of dim {dim}, gradients of 12 "
        "scores",
        words=dict.fromkeys(("scores far apart", "scores of the unrouted", "weights before a norm"), ("some", "none")),
        slips=_SLIPS,
        likely={
            **dict.fromkeys(_SLIPS, "take numbers, 16 tokens or 64, and write down what is computed for them"),
            "sum of equals": "write down the 16 weights before the cut, then strike out those of tokens not routed",
            "scores far apart": (
                "the best are saturated, the others have weights of next to nothing: what changes if a score moves?"
            ),
            "scores of the unrouted": (
                "nu depends on all scores: a token that is not routed but comes near takes weight from those that are"
            ),
            "weights before a norm": "a norm divides by the length: of a token and of half of it it makes the same",
        },
    )
    _concentration(check, concentration, shapes, seed)


_SLIPS: dict[str, dict[str, float | int | str]] = {
    "sum of equals": {
        "that is the sum before the cut: the twelve of the 16 that are not routed lose theirs": 4,
        "that is one weight: four are left": 0.25,
        "the weights of four equals are not 1 each, and they are not a softmax over four either": 0.75,
        "that is what was cut: give what is left": 3,
        "all 16 share the sum of 4": 16,
    },
    "break-even share": {
        "at a sixteenth it costs three quarters of the usual": 1 / 16,
        "the light part costs half of the usual already: the other half is left for the heavy part": 1 / 4,
        "heavy has 16 · dim where the usual has 4 · dim: half of the FLOPs are an eighth of the tokens": 1 / 2,
        "a share, not a factor": 8,
        "a share, not in percent": 12.5,
        "the light part runs for the routed tokens as well": 1 / 7,
    },
    "share of pairs": {
        "both shares count: so many ask, and each of them meets so many": 1 / 16,
        "both shares count: a sixteenth of the tokens ask an eighth": 1 / 8,
        "they multiply": 1 / 16 + 1 / 8,
        "a share, not a factor": 128,
        "keys are an eighth, not a sixteenth": 1 / 256,
        "queries are a sixteenth, not an eighth": 1 / 64,
        "for one head: three quarters of the heads are another matter": 3 / 4 / 128,
    },
    "light growth": {
        "that is full attention: every token still sees one window": 4,
        "the tokens double, though each of them sees no more": 1,
    },
    "heavy growth": {
        "queries and keys are shares of the sequence: both double": 2,
        "both are shares of the sequence, so that both grow": 1,
        "two factors of two, not three": 8,
    },
}


def _measured(tokens: int, dim: int, seed: int) -> dict[str, float | str]:
    """Every prediction, measured: FLOPs of real layers, and gradients that arrive or do not."""

    def pairs(asking: int, asked: int) -> int:
        return count(torch.matmul, torch.zeros(asking, dim), torch.zeros(dim, asked)).flops

    def within_windows(number: int) -> int:
        return count(local_attention, *torch.zeros(3, 1, 1, number, 4), 2).flops

    def word(found: Tensor) -> str:
        return "none" if found.abs().max() < 1e-6 else "some"

    x, one = torch.zeros(tokens, dim), torch.zeros(1, dim)
    usual, light = (count(FeedForward(dim, times * dim), x).flops for times in (4, 2))
    each = count(FeedForward(dim, 16 * dim), one).flops
    few, many = tokens // 16, tokens // 8
    scores = torch.arange(12, dtype=torch.float64).view(1, 12).requires_grad_()
    mask, weights = decide(scores, 4, 2.0)
    x, u = normal(1, 12, 8, seed=seed, dtype=torch.float64), normal(8, seed=seed + 1, dtype=torch.float64)
    on, of_x = decide(x @ u.requires_grad_(), 4, 4.0)
    normed = F.layer_norm(of_x[on][:, None] * x[on], (8,), eps=0.0)
    return {
        "sum of equals": decide(torch.zeros(1, 16, dtype=torch.float64), 4, 1.0)[1].sum().item(),
        "break-even share": next(k for k in range(tokens) if light + k * each >= usual) / tokens,
        "share of pairs": pairs(few, many) / pairs(tokens, tokens),
        "light growth": within_windows(2 * tokens) / within_windows(tokens),
        "heavy growth": pairs(2 * few, 2 * many) / pairs(few, many),
        "scores far apart": word(gradient(decide(scores, 4, 0.005)[1], scores)),
        "scores of the unrouted": word(gradient(weights, scores)[~mask]),
        "weights before a norm": word(gradient(normed, u)),
    }


def _concentration(check: Task, answer: Callable[..., float], shapes: Iterable[tuple[int, int]], seed: int) -> None:
    """On two small pairs of masks, then on random ones, then none, all and everybody."""
    routed = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]).bool()
    needles = torch.tensor([[1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()
    unequal = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]).bool()
    _concentrated(check, answer, "concentration", routed, needles, "4 needles, 5 routed, 3 of them needles")
    told = "the same routed; one sequence holds three needles, the other one"
    _concentrated(check, answer, "unequal sequences", routed, unequal, told)
    for shape in shapes:
        routed, needles = (normal(*shape, seed=seed + part) > 0.3 for part in (0, 10))
        routed[0, 0] = needles[0, -1] = True
        _concentrated(check, answer, "other masks", routed, needles, f"random masks {list(shape)}")
    some = torch.tensor([[True, False, False, True]])
    _concentrated(check, answer, "none found", some, ~some, "no needle is routed")
    _concentrated(check, answer, "everybody", some | True, some, "everybody is routed")
    _concentrated(check, answer, "all found", some, some, "the needles, half of the tokens, are the routed")


def _concentrated(
    check: Task, answer: Callable[..., float], name: str, routed: Tensor, needles: Tensor, told: str
) -> None:
    with check.untouched(tested=told, routed=routed, needles=needles):
        found = answer(routed, needles)
    check.true(
        "a plain number",
        type(found) is float,
        tested="the type of the result",
        expected="float",
        got=type(found).__name__,
        likely=".item() makes a number of a tensor",
    )
    places = [(b, i) for b in range(len(routed)) for i in range(routed.shape[1])]
    taken, marked = ([place for place in places if mask[place]] for mask in (routed, needles))
    both, tokens = len(set(taken) & set(marked)), len(places)
    hit, base = both / len(taken), len(marked) / tokens
    agree = sum(bool(routed[place] == needles[place]) for place in places)
    in_row = [(routed & needles)[b].sum().item() for b in range(len(routed))]
    shares = [both_here / max(row.sum().item(), 1) for both_here, row in zip(in_row, routed, strict=True)]
    ratios = [share * row.numel() / max(row.sum().item(), 1) for share, row in zip(shares, needles, strict=True)]
    check.close(
        name,
        found,
        hit / base,
        tested=f"{tokens} tokens in {len(routed)} sequences: {told}",
        tolerance=1e-6,
        likely=f"({both} / {len(taken)}) / ({len(marked)} / {tokens})",
        mistakes={
            "the share of the routed that are needles: divide by the share of all tokens that are": hit,
            "the share of the needles that are routed: here it is the share of the routed that are needles": (
                both / len(marked)
            ),
            "the share of the needles that are routed, where the share of the routed that are needles is asked for": (
                both / len(marked) / base
            ),
            "upside down: the share among the routed, divided by the share among all": base / hit if hit else math.inf,
            "a needle that is routed counts, noise that is not routed does not": agree / tokens / base,
            "compared with the tokens that are not routed: compare with all of them": (
                hit * (tokens - len(taken)) / max(len(marked) - both, 1)
            ),
            "a number of needles, not a share": float(both),
            "the share of all tokens that are both: divide by the routed alone, then by the share of needles": (
                both / tokens
            ),
            "divided by the share of tokens that are routed: by the share that are needles": (
                hit / (len(taken) / tokens)
            ),
            "divided by the number of needles: by their share of all tokens": hit / len(marked),
            "the difference of the two shares: their ratio": hit - base,
            "tokens count, not sequences: take the batch as one heap, no mean of ratios": sum(ratios) / len(ratios),
            "tokens count, not sequences: take the batch as one heap, no mean of shares": (
                sum(shares) / len(shares) / base
            ),
        },
    )
