"""The checks of unit 10. Tokens halt one by one, in plain numbers; a token that has halted is really taken out."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dynlib import checks
from dynlib.backbone import Block
from dynlib.checks import Task, Watched
from dynlib.cost import count
from dynlib.data import cluttered_digits
from dynlib.tokens import AdaptiveViT
from dynlib.zoo import load

EXACT = 1e-10
"""How near a number in float64 has to be."""


WITHOUT = ("dynlib", "scipy", "sklearn")
"""What an answer is written without."""


def _alone(check: Task, *answers: Any, without: Sequence[str] = WITHOUT, likely: str | None = None) -> None:
    check.by_hand(
        "by hand",
        *answers,
        without=without,
        tested="the code of your answer, and of the helpers that it calls",
        likely=likely or "write it with PyTorch alone: you are building it",
    )


class _Calls(TorchFunctionMode):
    """How many of torch's functions are called meanwhile."""

    number = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return function(*args, **(kwargs or {}))


def _one_call(check: Task, name: str, watched: Iterable[Watched], on: str, expected: str, likely: str) -> None:
    most = max(len(block.given) for block in watched)
    says = f"{on}; how often your code calls {'each' if 'layer' in name else 'the'} layer"
    check.true(name, most <= 1, tested=says, expected=expected, got=f"{most} times", likely=likely)


def halves(*rows: Any) -> Tensor:
    """Numbers in float64; those here are sums of halves, quarters, eighths, …, which a computer adds exactly."""
    return torch.tensor(rows, dtype=torch.float64)


def _parts(check: Task, name: str, results: Any, names: str, on: str) -> None:
    """A tuple of tensors, or a list, as many as there are names."""
    number = len(names.split(", "))
    check.true(
        name,
        isinstance(results, tuple | list) and [isinstance(part, Tensor) for part in results] == [True] * number,
        tested=on,
        expected=f"a tuple of {number} tensors: {names}",
        got=type(results).__name__,
        likely=f"return {names}",
    )


def _has_gradient(check: Task, name: str, *parts: Tensor, on: str) -> None:
    check.true(
        name,
        all(part.requires_grad for part in parts),
        tested=on + "; the input asks for a gradient",
        expected="a result with a gradient",
        got="one without",
        likely="no_grad, detach, .data, .item, .tolist and float() cut the way back, and nothing would be learned",
    )


def blocks(depth: int, *, seed: int) -> nn.ModuleList:
    """Transformer layers of 6 features in float64, each with large random weights of its own."""
    generator = torch.Generator().manual_seed(seed)
    made = nn.ModuleList(Block(6, 2, hidden=8) for _ in range(depth)).double().requires_grad_(False)
    for weights in made.parameters():
        weights.normal_(std=0.5, generator=generator)
    return made


class Gossip(nn.Module):
    """A layer whose work is easy to check by hand: to a token's first feature it adds the layer's number, and the mean
    first feature of the tokens that may be seen. A second feature, if there is one, counts the layers. What nobody may
    see has the mean 0 / 0, which is NaN, as a softmax over no keys would be."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor, *, key_mask: Tensor | None = None) -> Tensor:
        seen = torch.ones(x.shape[:2], dtype=torch.bool) if key_mask is None else key_mask
        if seen.dtype != torch.bool or seen.shape != x.shape[:2]:
            raise ValueError(f"key_mask must be bool, [batch, tokens]; got {seen.dtype}, {list(seen.shape)}")
        first = x[..., :1]
        mean = (first * seen[..., None]).sum(1, keepdim=True) / seen.sum(1)[:, None, None]
        return torch.cat([first + self.number + mean, x[..., 1:2] + 1, x[..., 2:]], dim=-1)


# ---- task 1: halting

# Two images of three tokens and four layers; a column is a token, so that the sums grow downwards. The class token of
# the first never has enough, that of the second after layer 3.
SCORES = halves(
    [[0.0625, 0.25, 0.125], [0.125, 0.5, 0.25], [0.0625, 0.125, 0.5], [0.03125, 0.5, 0.0625]],
    [[0.0, 0.875, 0.5], [0.5, 0.5, 0.0625], [0.5, 0.25, 0.0625], [0.25, 0.125, 0.0625]],
)


def halting(
    check: Task,
    answer: Callable[..., Any],
    *,
    cases: Iterable[tuple[Tensor, float]] = ((SCORES, 0.25), (SCORES.flip(0), 0.5), (SCORES.float(), 0.25)),
) -> None:
    """Task 1: scores [batch, layers, tokens] with an epsilon, against one token after the other; then gradients."""
    _alone(check, answer)
    for scores, epsilon in cases:
        h = scores.clone()
        batch, layers, tokens = h.shape
        tolerance = EXACT if h.dtype == torch.float64 else 1e-5
        number, left, shares, at, until = halted = _halted(h, epsilon)
        on = f"scores {list(h.shape)}, epsilon = {epsilon:g}: the sum has to reach {1 - epsilon:g}"
        with check.untouched(
            "h stays",
            tested="the scores that you were given, after the call",
            likely="h[:, -1] = 1 changes what you were given: write into a copy, or treat the last layer apart",
            h=h,
        ):
            results = answer(h, epsilon)
        _parts(check, "three results", results, "depth, remainder, p", on)
        depth, remainder, p = results
        each, whole = (batch, tokens), (batch, layers, tokens)
        squeezed = tuple(size for size in each if size > 1)
        kept = (batch, 1, tokens)
        other_shapes = {
            "h is [batch, layers, tokens]: the layers are dimension 1, and N has one number for each token": (
                (batch, layers),
                whole,
            ),
            "the layers are dimension 1, not dimension 0": ((layers, tokens), whole),
            "p is [batch, layers, tokens], as h is": (each, (batch, tokens, layers)),
            "a dimension of size 1 stays where the layers were: keepdim=True, or a slice": (kept, whole),
            "no squeeze(): a batch of one and a single token are a size of 1, which stays": (squeezed, whole),
        }
        check.equal(
            "shapes",
            [tuple(result.shape) for result in results],
            [each, each, whole],
            tested=on + "; N, R and p",
            likely="one N and one R for each token, one p for each token and layer",
            mistakes={says: [one, one, all_layers] for says, (one, all_layers) in other_shapes.items()},
        )
        check.equal(
            "dtypes",
            [result.dtype for result in results],
            [torch.int64, h.dtype, h.dtype],
            tested=f"N, R and p for scores in {h.dtype}",
            likely="N counts layers, int64; R and p are of the dtype of h",
        )
        column = ", ".join(f"{score:g}" for score in accumulate(h[0, :, 0].tolist()))
        check.equal(
            "N",
            depth,
            number,
            tested=on,
            likely=f"write the sums down: the first token's are {column}; a score of 0 is no halt, a sum of just "
            "1 - epsilon is one, the last score counts as 1 even where it is 0, and nobody goes on after their class "
            "token",
            mistakes=_mistaken_layers(h, epsilon, halted),
        )
        check.close(
            "R",
            remainder,
            left,
            tested=on + f"; the first token has N = {int(number[0, 0])}",
            tolerance=tolerance,
            likely="1 minus the sum of the scores of the layers 1, ..., N - 1",
            mistakes=_mistaken_remainders(h, epsilon, halted),
        )
        check.close(
            "p",
            p,
            shares,
            tested=on + f"; the first token's p is {', '.join(f'{share:g}' for share in shares[0, :, 0].tolist())}",
            tolerance=tolerance,
            likely="h before N, R at N, 0 after: every column sums to one, and N says where p ends, not p > 0",
            mistakes=_mistaken_shares(h, epsilon, halted),
        )
        if layers > 1:  # with one layer nothing depends on its score
            _halting_gradients(check, answer, h, epsilon, at, until, tolerance)
    few, many = (_calls(answer, torch.rand(size, 5, size).double()) for size in (2, 12))
    check.true(
        "all tokens at once",
        many <= 2 * few,
        tested="scores [2, 5, 2] and [12, 5, 12], epsilon = 0.1: how often your code calls a function of torch",
        expected="about as often for 144 tokens as for 4",
        got=f"{few} calls, and {many}",
        likely="no loop over images or tokens: one over the layers may be",
    )


def _calls(answer: Callable[..., Any], h: Tensor) -> int:
    with _Calls() as calls:
        answer(h, 0.1)
    return calls.number


def _image(columns: Sequence[Sequence[float]], limit: float) -> list[tuple[int, float, list[float]]]:
    """N, R and p of the tokens of an image, whose class token comes first and takes the others with it."""
    most = _walk(columns[0], limit)[0]
    return [_walk(column, limit, most) for column in columns]


def _walk(scores: Sequence[float], limit: float, most: int | None = None) -> tuple[int, float, list[float]]:
    """N, R and p of one token that may go through so many layers, or all."""
    spent = 0.0
    for layer, score in enumerate(scores, start=1):
        if layer == (most or len(scores)) or spent + score >= limit:
            break
        spent += score
    return layer, 1 - spent, [*scores[: layer - 1], 1 - spent, *[0.0] * (len(scores) - layer)]


class Halted(NamedTuple):
    """N, R and p of all tokens; and where a layer is the N-th, or one up to it."""

    number: Tensor
    left: Tensor
    shares: Tensor
    at: Tensor
    until: Tensor


def _halted(h: Tensor, epsilon: float) -> Halted:
    walks = [_image(columns, 1 - epsilon) for columns in h.transpose(1, 2).tolist()]
    number = torch.tensor([[n for n, _, _ in image] for image in walks])
    left = torch.tensor([[r for _, r, _ in image] for image in walks], dtype=h.dtype)
    shares = torch.tensor([[p for _, _, p in image] for image in walks], dtype=h.dtype).transpose(1, 2)
    at = F.one_hot(number - 1, h.shape[1]).transpose(1, 2).bool()
    return Halted(number, left, shares, at, at.flip(1).cumsum(1).flip(1).bool())


def _mistaken_layers(h: Tensor, epsilon: float, halted: Halted) -> dict[str, Tensor]:
    limit, last, right, shares = 1 - epsilon, h.shape[1], halted.number, halted.shares
    on_their_own = torch.tensor([[number for number, _, _ in image] for image in _by_themselves(h, epsilon)])
    sums, across = h.cumsum(1), h.cumsum(2)

    def first(enough: Tensor, otherwise: int = last) -> Tensor:
        columns = enough.transpose(1, 2).tolist()
        each = torch.tensor(
            [[next((n for n, e in enumerate(c, 1) if e), otherwise) for c in image] for image in columns]
        )
        return each.minimum(each[:, :1])

    return {
        "each token for itself: none goes on after its class token, token 0, has halted": on_their_own,
        "the class token halts by its own sum, whatever the others do": on_their_own.amin(1, keepdim=True).expand_as(
            right
        ),
        "a token may halt before its class token": on_their_own[:, :1].expand_as(right),
        "of a token's own layer and its class token's the earlier, not the later": on_their_own.maximum(
            on_their_own[:, :1]
        ),
        "the first image's class token stops its own image alone": on_their_own.minimum(on_their_own[:1, :1]),
        "a sum that equals 1 - epsilon is enough: >=, not >": first(sums > limit),
        "layers are counted from 1: the last one at which the sum is still too small is N - 1": right - 1,
        "a token that never reaches 1 - epsilon halts after the last layer, whose score counts as 1": first(
            sums >= limit, 1
        ),
        "one beyond the last layer: whoever still runs there halts there": first(sums >= limit, last + 1),
        "0 for the token that never reaches 1 - epsilon: it halts after the last layer": first(sums >= limit, 0),
        "the limit is 1 - epsilon, not epsilon": first(sums >= epsilon),
        "the limit is 1 - epsilon, with the epsilon that is given, not 1": first(sums >= 1),
        "the limit is 1 - epsilon, with the epsilon that is given, not 0.01": first(sums >= 0.99),
        "one score alone need not reach 1 - epsilon: the sum of the scores up to this layer": first(h >= limit),
        "the sum goes over the layers, dimension 1, not over the tokens": first(across >= limit),
        "those are the layers at which the sum is enough: N is the first of them": ((sums[:, :-1] >= limit).sum(1) + 1),
        "a score of 0 is no halt: N does not follow from where p or h is above 0": (shares > 0).sum(1),
        "N is the layer at which the sum gets there, not the one after it": first(sums - h >= limit),
        "N is the first layer at which the sum is enough, not the one after it": right + 1,
        "the last layer with a True: take the first, argmax does": torch.full_like(right, last),
    }


def _by_themselves(h: Tensor, epsilon: float) -> list[list[tuple[int, float, list[float]]]]:
    """N, R and p of every token of every image, whatever its class token does."""
    return [[_walk(column, 1 - epsilon) for column in image] for image in h.transpose(1, 2).tolist()]


def _mistaken_remainders(h: Tensor, epsilon: float, halted: Halted) -> dict[str, Tensor]:
    at, until = halted.at, halted.until
    own = torch.tensor([[left for _, left, _ in image] for image in _by_themselves(h, epsilon)], dtype=h.dtype)
    ones = torch.cat([h[:, :-1], torch.ones_like(h[:, -1:])], dim=1)  # the last score taken for 1
    spent = (h * (until & ~at)).sum(1)
    just_before = (h * at.roll(-1, 1))[:, :-1].sum(1)
    return {
        "the score at N is in the sum: R = 1 - (sum of the scores before N)": 1 - (h * until).sum(1),
        "the score at N, taken as 1 in the last layer, is in the sum: take those before N alone": (
            1 - (ones * until).sum(1)
        ),
        "that is the score at N: R is what the scores before it left of 1": (h * at).sum(1),
        "that is the score at N, with 1 in the last layer: R is what the scores before it left of 1": (
            (ones * at).sum(1)
        ),
        "what is left of 1 - epsilon: R is what is left of 1": 1 - epsilon - spent,
        "that is the sum of the scores before N: R is 1 minus it": spent,
        "all scores are in the sum: take those before N alone": 1 - h.sum(1),
        "the score just before N is missing from the sum": 1 - spent + just_before,
        "R goes with N: a token that its class token stops has spent less than by itself": own,
    }


def _mistaken_shares(h: Tensor, epsilon: float, halted: Halted) -> dict[str, Tensor]:
    _, _, right, at, until = halted
    own = torch.tensor([[p for _, _, p in image] for image in _by_themselves(h, epsilon)], dtype=h.dtype)
    last = torch.zeros_like(at)
    last[:, -1] = True
    left = (right * at).sum(1, keepdim=True)
    return {
        "at N stands R, not the score: a column has to sum to one": h * until,
        "at N stands R, not the score, nor 1 in the last layer": torch.where(at & last, 1, h * until),
        "after N nothing is left: p is 0 there": torch.where(at, right, h),
        "those are the scores: at N stands R, and 0 after": h,
        "R stands at every layer from N on: once, at N": torch.where(until & ~at, h, left),
        "R is missing at N": h * (until & ~at),
        "R alone: before N stand the scores": right * at,
        "scores divided by their sum are a distribution, but another one": h / h.sum(1, keepdim=True),
        "R stands on top of the score at N: in place of it": right + h * at,
        "p goes with N: a token that its class token stops has its R there, and 0 after": own.transpose(1, 2),
    }


def _halting_gradients(
    check: Task, answer: Callable[..., Any], h: Tensor, epsilon: float, at: Tensor, until: Tensor, tolerance: float
) -> None:
    leaf, before = h.clone().requires_grad_(), (until & ~at).to(h.dtype)
    _, remainder, p = answer(leaf, epsilon)
    _has_gradient(check, "gradient", remainder, p, on="scores " + str(list(h.shape)))
    check.close(
        "gradient of R",
        torch.autograd.grad(remainder.sum(), leaf, retain_graph=True)[0],
        0 - before,
        tested="the sum of all R, differentiated by each score",
        tolerance=tolerance,
        likely="-1 for the scores before N, 0 for the others",
        mistakes={
            "the score at N has no part in R": 0 - until.to(h.dtype),
            "every score of the token has a part in R: those before N alone have": -torch.ones_like(h),
            "the sign: a higher score leaves less": before,
        },
    )
    layer = torch.arange(1, h.shape[1] + 1, dtype=h.dtype).view(1, -1, 1)
    here = (layer * at).sum(1, keepdim=True)
    check.close(
        "gradient of p",
        torch.autograd.grad((layer * p).sum(), leaf)[0],
        before * (layer - here),
        tested="the expected layer, the sum of l * p at layer l, differentiated by each score",
        tolerance=tolerance,
        likely="a score before N takes from R what it gets: l - N",
        mistakes={
            "R inside p has to carry its gradient too: no detach()": before * layer,
            "the scores inside p have to carry their gradient too: no detach()": 0 - before * here,
        },
    )


# ---- task 2: ponder

# N, R and the number of layers. Two images of three tokens; the second token of the first image was never there.
PAID = ((torch.tensor([[3, 0, 4], [1, 2, 5]]), halves([0.625, 0.0, 0.75], [1.0, 0.5, 0.5]), 5),)
# p, target and deviation. Three layers, the third token of the second image is not there; then nobody halts at layer 3,
# in float64 and in float32; then a prior that is 0 in floating point at layers 2 and 3.
HALTS = (
    (
        torch.stack(
            [
                halves([0.5, 0.25, 0.125], [0.25, 0.25, 0.25], [0.25, 0.5, 0.625]),
                halves([1.0, 0.5, 0.0], [0.0, 0.25, 0.0], [0.0, 0.25, 0.0]),
            ]
        ),
        2,
        1.0,
    ),
    (halves([[0.5, 0.25], [0.5, 0.75], [0.0, 0.0]]), 2, 1.0),
    (halves([[0.5, 0.25], [0.5, 0.75], [0.0, 0.0]]).float(), 2, 1.0),
    (halves([[0.25], [0.25], [0.5]]), 1, 0.02),
)


def ponder(
    check: Task,
    ponder_loss: Callable[..., Tensor],
    ponder_gradient: Callable[..., Tensor],
    depth_prior: Callable[..., Tensor],
    depth_prior_loss: Callable[..., Tensor],
    *,
    paid: Iterable[tuple[Tensor, Tensor, int]] = PAID,
    scores: Sequence[Sequence[float]] = ((0.5, 0.25, 0.5), (), (0.25, 0.125, 0.5)),
    priors: Iterable[tuple[int, float, float]] = ((4, 2, 1.0), (5, 2.5, 0.5), (4, 2.25, 0.004)),
    halts: Iterable[tuple[Tensor, float, float]] = HALTS,
) -> None:
    """Task 2: what tokens of some N and R pay, in so many layers; the loss with some tokens' scores moved; priors
    (layers, target, deviation); halting distributions with a target and a deviation."""
    _alone(check, ponder_loss, depth_prior, depth_prior_loss)
    _alone(
        check,
        ponder_gradient,
        without=(*WITHOUT, "torch.autograd", "torch.func", ".backward", ".requires_grad_", ".requires_grad"),
        likely="the gradient is a formula here: which scores have a part in R, and how many tokens share the mean?",
    )
    for depth, remainder, layers in paid:
        _payment(check, ponder_loss, depth.clone(), remainder.clone())
        _slopes(check, ponder_gradient, depth.clone(), layers)
    _differences(check, ponder_gradient, scores)
    for layers, target, deviation in priors:
        _prior(check, depth_prior, layers, target, deviation)
    for p, target, deviation in halts:
        _divergence(check, depth_prior_loss, p.clone(), target, deviation)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _payment(check: Task, answer: Callable[..., Tensor], depth: Tensor, remainder: Tensor) -> None:
    pairs = [
        [(n, r) for n, r in zip(*both, strict=True)] for both in zip(depth.tolist(), remainder.tolist(), strict=True)
    ]
    images = [[n + r for n, r in image if n] for image in pairs]
    there = [(n, r) for image in pairs for n, r in image if n]
    every = [pay for image in images for pay in image]
    few = len(every) <= 6
    on = f"N = {depth.tolist()}, R = {remainder.tolist()}" if few else f"N and R {list(depth.shape)}"
    on += f", R in {remainder.dtype}; {len(every)} tokens are there"
    wrong = {
        "the token of depth 0 was never there: divide by the number of those that are": sum(every) / depth.numel(),
        "the sum: take the mean over the tokens": sum(every),
        "the sum over the tokens, the mean over the images: take the mean over all tokens": sum(every) / len(depth),
        "the mean of the images' means: every token of every image counts the same": _mean(
            [_mean(image) for image in images]
        ),
        "N alone: R is what carries the gradient": _mean([n for n, _ in there]),
        "R alone: a token pays N + R": _mean([r for _, r in there]),
        "N - R: a token pays N + R": _mean([n - r for n, r in there]),
        "N times R: a token pays N + R": _mean([n * r for n, r in there]),
        "the class tokens pay too: do not leave token 0 out": _mean(
            [n + r for image in pairs for n, r in image[1:] if n]
        ),
        "the first image pays too: index 0 of dimension 0 is an image, not the class token": _mean(
            [pay for image in images[1:] for pay in image]
        ),
    }
    with check.untouched(tested=on, depth=depth, remainder=remainder):
        got = answer(depth, remainder)
    tolerance = EXACT if remainder.dtype == torch.float64 else 1e-5
    check.close(
        "ponder",
        got,
        torch.tensor(_mean(every), dtype=remainder.dtype),
        tested=on,
        tolerance=tolerance,
        likely=f"({' + '.join(f'{pay:g}' for pay in every)}) / {len(every)}" if few else "the mean of N + R",
        mistakes={says: torch.tensor(value, dtype=remainder.dtype) for says, value in wrong.items()},
    )
    leaf = remainder.clone().requires_grad_()
    loss = answer(depth, leaf)
    _has_gradient(check, "ponder has a gradient", loss, on=on)
    check.close(
        "gradient by R",
        torch.autograd.grad(loss, leaf)[0],
        torch.tensor([[1 / len(every) if n else 0 for n, _ in image] for image in pairs], dtype=remainder.dtype),
        tested=on + "; the loss, differentiated by each R",
        tolerance=tolerance,
        likely="every token that is there has the same share in the mean, one that is not has none",
    )


def _slopes(check: Task, answer: Callable[..., Tensor], depth: Tensor, layers: int) -> None:
    batch, tokens = depth.shape
    there = sum(n > 0 for image in depth.tolist() for n in image)
    before, until = (torch.zeros(batch, layers, tokens, dtype=torch.float64) for _ in range(2))
    for b in range(batch):
        for k in range(tokens):
            before[b, : max(0, int(depth[b, k]) - 1), k] = 1
            until[b, : int(depth[b, k]), k] = 1
    on = f"N = {depth.tolist()}" if depth.numel() <= 6 else f"N {[batch, tokens]}"
    on += f", {layers} layer{'s' * (layers > 1)}, {there} tokens that are there"
    with check.untouched(tested=on, depth=depth):
        found = answer(depth, layers)
    check.equal(
        "shape of the gradient",
        tuple(found.shape),
        (batch, layers, tokens),
        tested=on,
        likely="[batch, layers, tokens], as the scores are",
        mistakes={"[batch, layers, tokens], as the scores are, not [batch, tokens, layers]": (batch, tokens, layers)},
    )
    every = (depth > 0)[:, None].expand_as(before).double()
    check.close(
        "gradient",
        found,
        0 - before / there,
        tested=on,
        tolerance=EXACT,
        likely=f"R = 1 - (scores before N): each of these scores takes 1 from rho, and 1/{there} from the mean of "
        f"{there}",
        mistakes={
            "the loss is a mean: each token has a share of it": 0 - before,
            "divided by all tokens: one of depth 0 was never there": 0 - before / depth.numel(),
            "the sign: R is 1 minus the scores, a higher score makes a token pay less": before / there,
            "the score at N has no part in R: before N alone": 0 - until / there,
            "the score at N has no part in R, and the loss is a mean": 0 - until,
            "every score of the token: those before N alone have a part in R": 0 - every / there,
            "N has no gradient: do not divide by it": 0 - before / depth.clamp(min=1)[:, None] / there,
            "divided by the images: the mean is over all tokens": 0 - before / batch,
            "divided by the scores as well: the mean is over the tokens alone": 0 - before / there / layers,
        },
    )


def _differences(check: Task, answer: Callable[..., Tensor], scores: Sequence[Sequence[float]]) -> None:
    """The formula against the loss itself, each score moved a little; a token without scores was never there."""
    layers, step = max(map(len, scores)), 1e-4

    def paid(columns: Sequence[Sequence[float]]) -> float:
        return _mean([n + r for n, r, _ in (_walk(column, 0.99) for column in columns if column)])

    found = answer(torch.tensor([[_walk(column, 0.99)[0] if column else 0 for column in scores]]), layers)
    for k, column in enumerate(scores):
        for layer in range(len(column)):
            up, down = ([list(other) for other in scores] for _ in range(2))
            up[k][layer] += step
            down[k][layer] -= step
            check.close(
                "differences of the loss",
                found[0, layer, k].item(),
                (paid(up) - paid(down)) / (2 * step),
                tested=f"{len(scores)} tokens, one of them never there, epsilon = 0.01; token {k}, layer {layer + 1}: "
                f"its score moved by {step:g}",
                tolerance=1e-8,
                likely="what the formula says has to be what happens to the loss",
            )


def _log_prior(layers: int, target: float, deviation: float) -> list[float]:
    """The logarithms of the prior, each from its neighbour's, so far down that they sum to one."""
    steps = ((2 * (target - layer) - 1) / (2 * deviation**2) for layer in range(1, layers))
    weights = list(accumulate(steps, initial=0.0))
    top = max(weights)
    total = top + math.log(sum(math.exp(weight - top) for weight in weights))
    return [weight - total for weight in weights]


def _prior(check: Task, answer: Callable[..., Tensor], layers: int, target: float, deviation: float) -> None:
    places = torch.arange(1, layers + 1, dtype=torch.float64)

    def weights(exponent: Callable[[Tensor], Tensor], at: Tensor = places) -> Tensor:
        return exponent((at - target) / deviation).exp()

    raw = weights(lambda z: -z * z / 2)
    from_zero = weights(lambda z: -z * z / 2, places - 1)
    others = {
        "the exponent is -(l - target)^2 / 2: the half is missing": weights(lambda z: -z * z),
        "the exponent has the square of the distance": weights(lambda z: -z.abs() / 2),
        "the sign of the exponent: the prior peaks at the target": weights(lambda z: z * z / 2),
        "softmax takes the exponential itself: give it the exponents, not the weights": raw.exp(),
        "layers are counted from 1, not from 0": from_zero,
        "the deviation is squared with the distance": weights(lambda z: -z * z * deviation / 2),
        "divide the distance by the deviation, do not multiply": weights(lambda z: -z * z * deviation**4 / 2),
        "the deviation is missing": weights(lambda z: -z * z * deviation**2 / 2),
    }
    check.close(
        "prior" if deviation == 1 else "prior of another width",
        answer(layers, target) if deviation == 1 else answer(layers, target, deviation),
        torch.tensor(_log_prior(layers, target, deviation), dtype=torch.float64).exp(),
        tested=f"{layers} layers, target {target:g}, deviation {deviation:g}: weights "
        f"{', '.join(f'{weight:.4g}' for weight in raw.tolist()[:5])}{', ...' * (layers > 5)} divided by their sum",
        tolerance=EXACT,
        likely="the weights underflow, every one of them is 0 in floating point, and 0 / 0 is NaN: take the softmax of "
        "their exponents"
        if raw.sum() == 0
        else "numbers in float64 that sum to one; the distance to the target is measured in deviations",
        mistakes={
            "not a distribution yet: divide by the sum": raw,
            "the integral of the density is 1, its values do not sum to one: divide by their sum": raw
            / (deviation * math.sqrt(2 * math.pi)),
            "not a distribution yet, and layers are counted from 1": from_zero,
            "that is the logarithm: take its exponential": (raw / raw.sum()).log(),
            "the largest is 1 now: divide by the sum, not by the largest": raw / raw.max(),
            **{says: other / other.sum() for says, other in others.items()},
        },
    )


def _divergence(check: Task, answer: Callable[..., Tensor], p: Tensor, target: float, deviation: float) -> None:
    layers = p.shape[1]
    images = [[column for column in image if sum(column) > 0] for image in p.transpose(1, 2).tolist()]
    each = [column for image in images for column in image]
    mean, log_prior = _mean_of(each, layers), _log_prior(layers, target, deviation)
    tolerance = EXACT if p.dtype == torch.float64 else 1e-5
    on = (
        f"p {list(p.shape)} in {p.dtype}, target {target:g}, deviation {deviation:g}: {len(each)} tokens that are there"
    )
    on += f", whose mean p is {', '.join(f'{share:g}' for share in mean)}" if layers <= 4 else ""
    empty, narrow = min(mean) == 0, min(log_prior) < -700
    with check.untouched(tested=on, p=p):
        got = answer(p, target) if deviation == 1 else answer(p, target, deviation)
    check.close(
        "a narrow prior" if narrow else "0 log 0" if empty else "divergence",
        got,
        torch.tensor(_kl(mean, log_prior), dtype=p.dtype),
        tested=on,
        tolerance=tolerance,
        likely="far from the target the prior is 0 in floating point: take its logarithm by log_softmax, not of its "
        "numbers"
        if narrow
        else "the logarithm of 0 is minus infinity, and 0 times it is NaN: a layer that has nothing adds nothing"
        if empty
        else "the sum over the layers of H (log H - log prior), H the mean p of the tokens, and no small number added "
        "inside the logarithms",
        mistakes={
            says: torch.tensor(value, dtype=p.dtype)
            for says, value in _mistaken_divergences(p, images, target, deviation).items()
        },
    )
    leaf = p.clone().requires_grad_()
    loss = answer(leaf, target, deviation)
    _has_gradient(check, "the divergence has a gradient", loss, on=on)
    (found,) = torch.autograd.grad(loss, leaf)
    check.finite(
        "finite gradient",
        found,
        tested=on,
        likely="the logarithm must not see the 0: clamp H from below inside the logarithm, not the result, and by a "
        "number that is not 0 in its dtype: torch.finfo(H.dtype).tiny",
    )
    # Where H is 0 the slope is minus infinity, and any finite number will do.
    some = [layer for layer, share in enumerate(mean) if share]
    logs = torch.tensor([math.log(mean[layer]) - log_prior[layer] for layer in some], dtype=p.dtype)
    shares = torch.tensor([mean[layer] for layer in some], dtype=p.dtype)
    there = torch.tensor([[sum(column) > 0 for column in image] for image in p.transpose(1, 2).tolist()])

    def for_each(slope: Tensor) -> Tensor:
        return (slope / len(each)).expand(len(each), -1)

    check.close(
        "gradient of the divergence",
        found.transpose(1, 2)[there][:, some],
        for_each(logs + 1),
        tested=on + "; at the layers where tokens halt",
        tolerance=tolerance,
        likely="the gradient flows through H in both places where it stands: no detach()",
        mistakes={
            "the gradient flows through H in both places where it stands: no detach() inside the logarithm": for_each(
                logs
            ),
            "H is divided by the sum of p, which changes with p: divide by the number of tokens, which does not": (
                for_each(logs - (shares * logs).sum())
            ),
        },
    )


def _mean_of(tokens: Sequence[Sequence[float]], layers: int) -> list[float]:
    return [_mean([token[layer] for token in tokens]) for layer in range(layers)]


def _kl(one: Sequence[float], log_other: Sequence[float]) -> float:
    return sum(a * (math.log(a) - b) if a > 0 else a * 0 for a, b in zip(one, log_other, strict=True))


def _mistaken_divergences(
    p: Tensor, images: Sequence[Sequence[list[float]]], target: float, deviation: float
) -> dict[str, float]:
    layers, each = p.shape[1], [column for image in images for column in image]
    mean, log_prior = _mean_of(each, layers), _log_prior(layers, target, deviation)
    right = _kl(mean, log_prior)
    raw = [-0.5 * ((layer - target) / deviation) ** 2 for layer in range(1, layers + 1)]
    rest = _mean_of([column for image in images[1:] for column in image], layers)
    patches = [c for image in p[:, :, 1:].transpose(1, 2).tolist() for c in image if sum(c) > 0]
    by_image = [_mean_of(image, layers) for image in images]
    return {
        "the other way round: the logarithm is of H / prior, weighted by H": _kl(
            [math.exp(b) for b in log_prior], [math.log(a) if a else -math.inf for a in mean]
        ),
        "the sign: a divergence is never negative": -right,
        "the sum over the layers, not the mean": right / layers,
        "divided by the images: H is a mean already": right / len(images),
        "in bits: the natural logarithm": right / math.log(2),
        "the token that was never there does not count: divide by the number of those that are": _kl(
            [share * len(each) / p[:, 0].numel() for share in mean], log_prior
        ),
        "the prior has to sum to one: divide it by its sum": _kl(mean, raw),
        "one divergence for each token: first the mean of p, then one divergence": _mean(
            [_kl(column, log_prior) for column in each]
        ),
        "one divergence for each image: first the mean of p over all tokens of all images": _mean(
            [_kl(image, log_prior) for image in by_image]
        ),
        "the mean of the images' means: every token of every image counts the same": _kl(
            _mean_of(by_image, layers), log_prior
        ),
        "the class tokens count too: do not leave token 0 out": _kl(_mean_of(patches, layers), log_prior),
        "the first image counts too: index 0 of dimension 0 is an image, not the class token": _kl(rest, log_prior),
        "the entropy is missing: log H - log prior, not -log prior alone": -sum(
            a * b for a, b in zip(mean, log_prior, strict=True)
        ),
        "the first image alone": _kl(by_image[0], log_prior),
        "hand the deviation on to the prior": _kl(mean, _log_prior(layers, target, 1.0)),
        "hand the target on to the prior": _kl(mean, _log_prior(layers, 1.0, deviation)),
    }


# ---- task 3: masked_layer


class Masked(NamedTuple):
    """A layer, and the tokens that it gets."""

    block: Callable[..., Tensor]
    x: Tensor
    running: Tensor
    says: str


MASKED = (
    Masked(
        Gossip(0.5),
        halves([1, 2, 4, 10], [2, 4, 6, 8], [3, 5, 7, 9])[..., None],
        torch.tensor([[True, False, True, True], [True, True, True, True], [True, False, False, False]]),
        "tokens (1, 2, 4, 10), (2, 4, 6, 8), (3, 5, 7, 9), of which the 2 of the first and 5, 7 and 9 of the third "
        "have halted; the layer adds 0.5 and the mean of the tokens that it sees",
    ),
    Masked(
        Gossip(0.5),
        halves([1, 2, 6], [3, 4, 11])[..., None],
        torch.tensor([[False, False, False], [True, False, True]]),
        "two images of three tokens; the first is done, in the second the second token has halted",
    ),
)


def masked_layer(check: Task, answer: Callable[..., Tensor], *, cases: Iterable[Masked] = MASKED) -> None:
    """Task 3: a layer on tokens some of which have halted, against the same tokens with these taken out."""
    _alone(check, answer)
    for shared in cases:
        case = shared._replace(x=shared.x.clone(), running=shared.running.clone())
        block, x, running, on = case
        tolerance = EXACT if x.dtype == torch.float64 else 1e-5
        done, halted = ~running.any(1), ~running & running.any(1, keepdim=True)
        right, slopes = _without_halted(case), _slopes_without_halted(case)
        with check.untouched("what you were given stays", tested=on, x=x, running=running):
            found = answer(watched := Watched(block), x, running)
        done_too = "the whole batch in one call, also where some images are done: mask, do not loop over the images"
        _one_call(check, "one call", [watched], on, "once at most", done_too)
        check.equal(
            "shape", tuple(found.shape), tuple(x.shape), tested=on, likely="as x: halted tokens stay where they are"
        )
        check.finite(
            "no NaN",
            found[~done],
            tested=on,
            likely="an image was left without any key: key_mask is True where a token may be seen, that is where it "
            "runs",
        )
        check.finite(
            "an image that is done",
            found[done],
            tested=on,
            likely="0 times NaN is NaN: choose with torch.where, and give a finished image some key, whichever",
        )
        check.equal(
            "an image that is done stays",
            found[done],
            x[done],
            tested=on,
            likely="where nobody runs, x comes out; that its tokens may look at something does not make them run",
        )
        check.equal(
            "halted tokens stay",
            found[halted],
            x[halted],
            tested=on + "; what became of the halted ones",
            likely="where a token has halted, take x, not what the layer made of it: choose, do not add",
            mistakes={says: moved[halted] for says, moved in _mistaken_halted(case).items()},
        )
        check.close(
            "its neighbour runs" if done.any() else "nobody's key",
            found[running],
            right[running],
            tested=on + "; what became of the running ones",
            tolerance=tolerance,
            likely="the images are independent: let nobody look at anything but in the image that is done"
            if done.any()
            else "hand key_mask to the layer: True where a token runs",
            mistakes={says: wrong[running] for says, wrong in _mistaken_keys(case, right).items()},
        )
        loud = torch.where(running[..., None], x, x + 1e6 * checks.normal(*x.shape, seed=7, dtype=x.dtype))
        check.close(
            "halted tokens influence nothing",
            answer(block, loud, running)[running],
            right[running],
            tested=on + "; the halted tokens changed by a million: the running ones",
            tolerance=tolerance,
            likely="key_mask, not a large negative number added or a factor: nobody looks at a halted token",
        )
        _masked_gradients(check, answer, case, slopes)


def _without_halted(case: Masked) -> Tensor:
    """Each running token as it comes out of a layer that got the running tokens of its image and nothing else."""
    rows = []
    for tokens, stays in zip(case.x, case.running.tolist(), strict=True):
        alive = [token for token, runs in enumerate(stays) if runs]
        out = dict(zip(alive, case.block(tokens[None, alive])[0], strict=True)) if alive else {}
        rows.append(torch.stack([out.get(place, token) for place, token in enumerate(tokens)]))
    return torch.stack(rows)


def _slopes_without_halted(case: Masked) -> list[Tensor]:
    """Gradients of what comes out, by x and by the layer's weights."""
    leaf = case.x.clone().requires_grad_()
    out = _without_halted(case._replace(x=leaf))
    return [checks.gradient(out, source) for source in (leaf, *_weights(case.block))]


def _weights(block: Callable[..., Tensor]) -> list[Tensor]:
    return [w for w in block.parameters() if w.requires_grad] if isinstance(block, nn.Module) else []


def _some_key(running: Tensor) -> Tensor:
    """Who may be seen: an image in which nobody runs has all its tokens for keys."""
    return torch.stack([row if row.any() else ~row for row in running])


def _mistaken_halted(case: Masked) -> dict[str, Tensor]:
    block, x, running, _ = case
    keys, zeroed = _some_key(running), x * running[..., None]
    return {
        "the layer moved them: its residual, norms and biases act on whoever stands there, seen or not": block(
            x, key_mask=keys
        ),
        "the layer moved them, and they were seen": block(x),
        "they are gone: a halted token keeps its features": torch.zeros_like(x),
        "set to zero before the layer, they come back through what it adds: take x after the layer": block(
            zeroed, key_mask=keys
        ),
        "set to zero before the layer, they come back through what it adds, and count as zeros in the mean": block(
            zeroed
        ),
        "they count twice: x once": 2 * x,
    }


def _mistaken_keys(case: Masked, right: Tensor) -> dict[str, Tensor]:
    block, x, running, _ = case
    keys = _some_key(running)
    alone = torch.cat([keys[:, :1] & (keys.sum(1) == 1)[:, None], keys[:, 1:]], dim=1)
    seen = "the halted tokens were seen: the layer needs key_mask"
    same = "nothing happened to them: running is True where a token still runs"
    if not running.any(1).all():
        seen = "the halted token was seen: only in an image that is done anybody may be"
        same = "nothing happened to them: the images are independent, and one that is done does not stop its neighbour"
    return {
        seen: block(x),
        "the halted tokens were seen as zeros: a zero is a key too; hand key_mask to the layer": block(
            x * running[..., None]
        ),
        "x came twice: the layer gives x and its update, so no x + ...": x + right,
        "that is the update alone: the layer's output holds x": right - x,
        same: x,
        "the class token is seen too: running has it": block(x, key_mask=alone),
        "the mask is one image's own: not the same for the whole batch": block(
            x, key_mask=keys[:1].expand_as(keys).clone()
        ),
    }


def _masked_gradients(check: Task, answer: Callable[..., Tensor], case: Masked, slopes: Sequence[Tensor]) -> None:
    block, x, running, on = case
    leaf = x.clone().requires_grad_()
    found = answer(block, leaf, running)
    _has_gradient(check, "has a gradient", found, on=on)
    slope = checks.gradient(found, leaf)
    check.finite(
        "no NaN in the gradient",
        slope,
        tested=on + "; the gradient by x",
        likely="torch.where hides the NaN of the finished image, but its gradient is 0 times NaN: let it have keys",
    )
    tolerance = 1e-8 if x.dtype == torch.float64 else 1e-4
    check.close(
        "gradient",
        slope,
        slopes[0],
        tested=on + "; the gradient by x of all outputs, each with a weight of its own",
        tolerance=tolerance,
        likely="a halted token passes the gradient through as it is",
        mistakes={"halted tokens pass the gradient through: no detach()": slopes[0] * running[..., None]},
    )
    for weights, right in zip(_weights(block), slopes[1:], strict=True):
        check.close(
            "gradients of the weights",
            checks.gradient(found, weights),
            right,
            tested=on + f"; the gradient by weights {list(weights.shape)} of the layer",
            tolerance=tolerance,
            likely="no_grad and detach around the layer: it is trained",
        )


# ---- task 4: take_out, put_back


def numbers(*rows: Sequence[float]) -> Tensor:
    """Tokens of two features: a number and its opposite."""
    values = torch.tensor(rows, dtype=torch.float64)
    return torch.stack([values, -values], dim=-1)


TAKEN = (
    (
        numbers([10, 11, 12, 13], [20, 0, 22, 23], [30, 31, 32, 33]),  # a running token may be 0
        torch.tensor([[True, False, False, True], [True, True, False, True], [False, False, False, False]]),
        "tokens (10, 11, 12, 13), (20, 0, 22, 23), (30, 31, 32, 33), of which 10 and 13, 20, 0 and 23, and none run",
    ),
    (
        numbers([40, 41, 42, 43], [50, 51, 52, 53], [60, 61, 62, 63]),
        torch.tensor([[False, False, True, False], [True, False, True, False], [False, True, True, True]]),
        "tokens (40, 41, 42, 43), (50, 51, 52, 53), (60, 61, 62, 63), of which 42, 50 and 52, 61, 62 and 63 run",
    ),
)


def take_out(
    check: Task,
    take: Callable[..., Any],
    put: Callable[..., Tensor],
    *,
    cases: Iterable[tuple[Tensor, Tensor, str]] = TAKEN,
    padding: float = 777.0,
    block: Callable[..., Tensor] | None = None,
) -> None:
    """Task 4: tokens packed and put back, against moving them one by one, with some number in the padding that comes
    back; with a block, also what a layer makes of the packed tokens."""
    _alone(check, take, put)
    for tokens, stays, on in cases:
        x, running = tokens.clone(), stays.clone()
        places = [[k for k, runs in enumerate(row) if runs] for row in running.tolist()]
        packed, valid = _take(check, take, x, running, places, on)
        _take_gradient(check, take, x, running, on)
        new = packed.detach() + 100 * (1 + torch.arange(packed.shape[1], dtype=x.dtype))[:, None]
        new = torch.where(valid[..., None], new, padding)  # what a layer may make of it, padding included
        _put(check, put, x, new, running, places, on + f"; {padding:g} in the padding")
        _put_gradients(check, put, x, packed.detach(), running, places, on)
        if block is not None:
            case = Masked(block, x, running, on)
            check.close(
                "a layer on packed tokens",
                put(x, block(packed, key_mask=valid), running),
                _without_halted(case),
                tested=f"{on}: take out, a transformer layer with valid for its key mask, put back",
                tolerance=EXACT if x.dtype == torch.float64 else 1e-5,
                likely="valid is the mask of the keys: padding is nobody's key",
            )


def _rows(x: Tensor, places: Sequence[Sequence[int]], longest: int, pad: Sequence[int | None] | None = None) -> Tensor:
    """The tokens of each image at some places, cut or padded with zeros, or with a token of the same image."""
    rows = []
    for tokens, chosen, other in zip(x, places, pad or [None] * len(x), strict=True):
        fill = torch.zeros_like(tokens[0]) if other is None else tokens[other]
        rows.append([*(tokens[k] for k in chosen), *[fill] * longest][:longest])
    return torch.stack([torch.stack(row) if row else x[0, :0] for row in rows])


def _take(
    check: Task, answer: Callable[..., Any], x: Tensor, running: Tensor, places: list[list[int]], on: str
) -> tuple[Tensor, Tensor]:
    batch, tokens, dim = x.shape
    lengths, everybody = [len(row) for row in places], sum(map(len, places))
    longest = max(lengths)
    expected = _rows(x, places, longest)
    there = torch.tensor([[True] * n + [False] * (longest - n) for n in lengths], dtype=torch.bool).view(batch, longest)
    with check.untouched("what you were given stays", tested=on, x=x, running=running):
        result = answer(x, running)
    _parts(check, "two results", result, "packed, valid", on)
    packed, valid = result
    check.equal(
        "shape of packed",
        tuple(packed.shape),
        (batch, longest, dim),
        tested=on,
        likely=f"[batch, longest, dim]; in the longest image {longest} tokens run",
        mistakes={
            "padded to all tokens, nothing is saved: cut to the longest image": (batch, tokens, dim),
            "the longest image counts, not the first": (batch, lengths[0], dim),
            "the longest image counts, not the shortest": (batch, min(lengths), dim),
            "all images in one row: each image keeps a row of its own": (everybody, dim),
            "all images in one row: each image keeps a row of its own, padded to the longest": (1, everybody, dim),
            "an image with no token left keeps its row, all padding": (sum(n > 0 for n in lengths), longest, dim),
            "padding is cut away where nobody needs it: cut to the longest image": (batch, everybody, dim),
        },
    )
    check.true(
        "valid is bool",
        valid.dtype == torch.bool and valid.shape == (batch, longest),
        tested=on,
        expected=f"valid {[batch, longest]} of torch.bool",
        got=f"{list(valid.shape)} of {valid.dtype}",
        likely="a mask for the keys of packed: [batch, longest] and bool",
    )
    one_more = torch.tensor([[k <= n for k in range(longest)] for n in lengths]).view(batch, longest)
    check.equal(
        "valid",
        valid,
        there,
        tested=on,
        likely="place j of an image is a token if j is less than the number of its running tokens",
        mistakes={
            "True where there is a token, not where there is padding": ~there,
            "that is running, cut off: after packing, the tokens stand in front": running[:, :longest],
            "places that somebody needs: pack each image on its own, so that its tokens stand in front": running[
                :, running.any(0)
            ],
            "a token may be all 0, and is a token all the same: count running, do not look for zeros": (
                (expected != 0).any(-1)
            ),
            "all True: padding is no token": torch.ones_like(there),
            "one too many: places are counted from 0, so that j < number": one_more,
            "the tokens stand in front, the padding behind": there.flip(1),
        },
    )
    check.equal(
        "packed",
        packed,
        expected,
        tested=f"{on}; x in {x.dtype}",
        likely="the running tokens of each image from left to right, then zeros; a sort has to be stable",
        mistakes=_mistaken_packed(x, running, places, longest, expected),
    )
    return packed, valid


def _mistaken_packed(
    x: Tensor, running: Tensor, places: list[list[int]], longest: int, right: Tensor
) -> dict[str, Tensor]:
    others = [[k for k in range(x.shape[1]) if k not in row] for row in places]
    reversed_rows = [row[::-1] for row in places]
    ahead = [[*off, *on] for off, on in zip(others, places, strict=True)]
    first = [x.new_zeros(longest - len(row), x.shape[2]) for row in places]
    flat = torch.cat([x[image, row] for image, row in enumerate(places)])
    over = torch.cat([flat, flat.new_zeros(len(x) * longest - len(flat), x.shape[2])]).view_as(right)
    return {
        "the first tokens, not the running ones": x[:, :longest],
        "halted tokens are set to zero but still stand where they stood: pack the running ones to the front": (
            (x * running[..., None])[:, :longest]
        ),
        "in the padding stand halted tokens: it has to be 0": _rows(
            x, [[*on, *off] for off, on in zip(others, places, strict=True)], longest
        ),
        "in the padding stands the first token: it has to be 0": _rows(x, places, longest, [0] * len(x)),
        "in the padding stands the last token: it has to be 0": _rows(x, places, longest, [-1] * len(x)),
        "from right to left: tokens keep their order": _rows(x, reversed_rows, longest),
        "the halted tokens are in front: sort running in descending order": _rows(x, ahead, longest),
        "the halted tokens are in front: sort running in descending order, ~running in ascending order": _rows(
            x, [row[: len(on)] for row, on in zip(ahead, places, strict=True)], longest
        ),
        "these are the halted tokens": _rows(x, others, longest),
        "the tokens stand in front, the padding behind": torch.stack(
            [torch.cat([pad, x[image, row]]) for image, (pad, row) in enumerate(zip(first, places, strict=True))]
        ),
        "the tokens of one image ran over into the next: each image has a row of its own": over,
        "another image's tokens: take each from its own image": _rows(x[:1].expand_as(x), places, longest),
    }


def _take_gradient(check: Task, answer: Callable[..., Any], x: Tensor, running: Tensor, on: str) -> None:
    if not running.any():
        return
    leaf = x.clone().requires_grad_()
    packed = answer(leaf, running)[0]
    _has_gradient(check, "take_out has a gradient", packed, on=on)
    check.equal(
        "gradient of take_out",
        torch.autograd.grad(packed.sum(), leaf)[0][..., 0],
        running.to(x.dtype),
        tested=on + "; the sum of packed, by x",
        likely="each running token stands once in packed, a halted one nowhere",
    )


def _put(
    check: Task,
    answer: Callable[..., Tensor],
    x: Tensor,
    new: Tensor,
    running: Tensor,
    places: list[list[int]],
    on: str,
) -> None:
    right = x.clone()
    for image, row in enumerate(places):
        for place, token in enumerate(row):
            right[image, token] = new[image, place]
    with check.untouched("x stays", tested=on, x=x, packed=new, running=running):
        found = answer(x, new, running)
    check.equal(
        "put back",
        found,
        right,
        tested=on + ", what packed holds raised by 100, 200, 300, ... from place to place",
        likely="every running token gets its own features, every halted one keeps those in x"
        + ("; 0 times NaN is NaN: choose, do not multiply" if new.isnan().any() else ""),
        mistakes=_mistaken_home(x, new, running, places, right),
    )


def _mistaken_home(
    x: Tensor, new: Tensor, running: Tensor, places: list[list[int]], right: Tensor
) -> dict[str, Tensor]:
    scattered, front, padded_front, halted, turned, flat = (x.clone() for _ in range(6))
    padded_front[:, : new.shape[1]] = new
    flat[running] = new.flatten(0, 1)[: int(running.sum())]
    for image, on in enumerate(places):
        off = [k for k in range(x.shape[1]) if k not in on]
        order = [*on, *off][: new.shape[1]]
        scattered[image, order] = new[image, : len(order)]
        front[image, : len(on)] = new[image, : len(on)]
        some = min(len(on), len(off))
        halted[image, off[:some]] = new[image, :some]
        turned[image, on[::-1]] = new[image, : len(on)]
    spare = new[-1, -1] if new.numel() else x[0, 0]
    return {
        "the padding came home too: it goes nowhere": torch.where(running[..., None], right, spare),
        "the padding came home too, to halted tokens: it goes nowhere": scattered,
        "the halted tokens are gone: start from x, not from zeros": right * running[..., None],
        "at the front: every token goes where it came from": front,
        "at the front, padding and all: every token goes where it came from": padded_front,
        "into the places of the halted tokens: running is True where a token runs": halted,
        "packed holds the tokens' features, not what to add to them": torch.where(running[..., None], x + right, x),
        "one image's token went to another image, because the padding was counted among the tokens": flat,
        "in reverse: the first of packed is the first that runs": turned,
        "nothing came home": x,
    }


def _put_gradients(
    check: Task,
    answer: Callable[..., Tensor],
    x: Tensor,
    packed: Tensor,
    running: Tensor,
    places: list[list[int]],
    on: str,
) -> None:
    leaf, new = x.clone().requires_grad_(), packed.clone().requires_grad_()
    home = answer(leaf, new, running)
    _has_gradient(check, "put_back has a gradient", home, on=on)
    slopes = torch.autograd.grad(home.sum(), (leaf, new), materialize_grads=True, allow_unused=True)
    longest = packed.shape[1]
    rows = [
        [*(0 if runs else 1 for runs in row), *[1] * len(chosen), *[0] * (longest - len(chosen))]
        for row, chosen in zip(running.tolist(), places, strict=True)
    ]
    check.equal(
        "gradients of put_back",
        torch.cat([slope[..., 0] for slope in slopes], dim=1),
        torch.tensor(rows, dtype=x.dtype),
        tested=on + "; the sum of what comes home, by x and by packed",
        likely="the halted tokens pass it to x, the valid places of packed get it",
    )


# ---- task 5: adaptive_forward


class Stack(NamedTuple):
    """Layers, what the first of them gets, how a token is scored, and epsilon."""

    blocks: Sequence[nn.Module]
    x: Tensor
    score: Callable[[Tensor], Tensor]
    epsilon: float
    says: str
    wrong: dict[str, dict[str, Tensor]] = {}  # noqa: RUF012  (a default that nobody writes to)
    """For N, R and the answer, sentences about known mistakes, each with what it leads to."""


def planned(x: Tensor) -> Tensor:
    """The score that a token has planned for after as many layers as it went through."""
    return x[..., 2:].gather(-1, x[..., 1:2].long())[..., 0]


def from_feature(offset: float) -> Callable[[Tensor], Tensor]:
    """A score that grows with a token's first feature."""
    return lambda x: (0.4 * x[..., 0] + offset).sigmoid()


def plan(says: Tensor, scores: Tensor) -> Tensor:
    """Tokens for :func:`planned`: what a token says, the layers it went through, its scores after 0, 1, 2, … layers."""
    return torch.cat([says[..., None], torch.zeros_like(says)[..., None], scores], dim=-1)


def _layers(rows: str) -> Tensor:
    """Numbers of layers, an image a word."""
    return torch.tensor([[int(digit) for digit in row] for row in rows.split()])


_WRONG_ANSWERS = {
    "halted tokens were seen: the layer's keys are the running tokens": halves(21.25, 59.875, 205 / 12),
    "halted tokens were seen, as zeros: a zero is a key too": halves(17.25, 45.5, 463 / 36),
    "halted tokens were seen, and moved on as if they ran": halves(21.25, 63.375, 18.25),
    "the class token must be seen too, while it runs": halves(23.875, 63.3125, 13.0),
    "that is the class token where it halted: its states are mixed, with p": halves(23.5, 118.0, 23.5),
    "at N stands R, not the score: p has to sum to one": halves(17.1875, 28.875, 9.75),
    "after the last layer the class token's share is R, not its score": halves(20.125, 28.875, 15.625),
    "mix what the layers made of the class token, not what they got": halves(8.25, 30.625, 7.0),
    "the class token's mixture, not the mean of all tokens": halves(19.75, 42.75, 145 / 12),
    "after N the share is 0: a class token that has halted adds nothing more": halves(58.3125, 65.75, 39.125),
    "the class token's mixture, not the mean of all tokens' mixtures": halves(20.3125, 118 / 3, 133 / 12),
    "the mean of the class token's states: they are weighted with p": halves(33.5 / 2, 210 / 4, 39 / 3),
    "R times the class token where it halts, and before that h times it: the states before are missing": (
        halves(0.75 * 23.5, 0.375 * 118.0, 0.5 * 23.5)
    ),
}
# Three images of three tokens, four layers; the score for 0 layers must never be asked for.
_PLAN = halves(
    [[0.375, 0.25, 0.625, 0.5, 0.25], [0.375, 0.875, 0.5, 0.125, 0.25], [0.375, 0.125, 0.25, 0.25, 0.5]],
    [[0.375, 0.125, 0.25, 0.25, 0.0625], [0.375, 0.5, 0.375, 0.25, 0.125], [0.375, 0.25, 0.25, 0.5, 0.125]],
    [[0.375, 0.25, 0.25, 0.25, 0.125], [0.375, 0.75, 0.125, 0.5, 0.25], [0.375, 0.5, 0.125, 0.0625, 0.25]],
)


def _mistaken_plan() -> dict[str, dict[str, Tensor]]:
    """What leads to other N and R in task 1, and what besides."""
    h = _PLAN[..., 1:].transpose(1, 2)
    halted = _halted(h, 0.25)
    left = halted.left
    layers = {
        "score what the layer made of the tokens, not what it got": "323 323 322",
        "every image has its own class token: the others go on when one is done": "212 222 212",
        "a halted token counts no more layers": "444 444 444",
    }
    remainders = {
        "a token that halts with its class token has a remainder too": left * halves([1, 1, 0], [1, 1, 1], [1, 1, 0]),
        "the class token's remainder is its own: each token has one": left[:, :1].expand(3, 3),
        "who is left after the last layer has a remainder too": left * halves([1, 1, 1], [0, 1, 1], [1, 1, 1]),
        "that is what is left after p, nothing: take 1 - sum before you add p to the sum": 0 * left,
        "a token that has halted already halts again, and its remainder is set anew: running & ...": (
            left * halves([0, 0, 0], [1, 0, 0], [0, 0, 0])
        ),
    }
    return {
        "N": _mistaken_layers(h, 0.25, halted) | {says: _layers(rows) for says, rows in layers.items()},
        "R": _mistaken_remainders(h, 0.25, halted) | remainders,
    }


STACKS = (
    Stack(
        [Gossip(1.0), Gossip(2.0), Gossip(4.0), Gossip(8.0)],
        plan(halves([3, 9, 6], [6, 1, 8], [2, 5, -1]), _PLAN),
        planned,
        0.25,
        "three images of three tokens, four layers, epsilon = 0.25; the class tokens' scores are "
        "(0.25, 0.625), (0.125, 0.25, 0.25) and (0.25, 0.25, 0.25) before they halt",
        {**_mistaken_plan(), "answer": _WRONG_ANSWERS},
    ),
)


def adaptive_forward(check: Task, answer: Callable[..., Any], *, cases: Iterable[Stack] = STACKS) -> None:
    """Task 5: stacks of layers, against diaries of tokens that are taken out when they halt; then gradients."""
    _alone(check, answer)
    for shared in cases:
        case = shared._replace(x=shared.x.clone())
        stack, x, score, epsilon, on, wrong = case
        watched = [Watched(block) for block in stack]
        single = x.dtype != torch.float64
        tolerance = 1e-3 if single else EXACT
        with torch.no_grad():
            mixed, number, left = _from_diaries(case)
        with check.untouched("x stays", tested=on, x=x):
            results = answer(watched, x, score, epsilon)
        _parts(check, "three results", results, "answer, depth, remainder", on)
        found, depth, remainder = results
        together = "the whole batch goes through a layer in one call: mask, do not loop over the images"
        _one_call(check, "one call a layer", watched, on, "once at most, for all images together", together)
        batch, tokens, dim = x.shape
        each = (batch, tokens)
        check.equal(
            "shapes",
            [tuple(part.shape) for part in results],
            [(batch, dim), each, each],
            tested=on + f"; x {list(x.shape)}",
            likely="the answer is [batch, dim], N and R are [batch, tokens]",
            mistakes={
                "the answer is the class token's alone: [batch, dim]": [(batch, tokens, dim), each, each],
                "the answer is [batch, dim], without a dimension for the one token": [(batch, 1, dim), each, each],
            },
        )
        check.equal(
            "dtypes",
            [part.dtype for part in results],
            [x.dtype, torch.int64, x.dtype],
            tested=f"the answer, N and R for x in {x.dtype}",
            likely="N counts layers, int64; the others are of the dtype of x",
        )
        check.equal(
            "N",
            depth,
            number,
            tested=on,
            likely="count a layer for each token that runs before it; then see who halts after it",
            mistakes=wrong.get("N"),
        )
        check.close(
            "R",
            remainder,
            left,
            tested=on,
            tolerance=tolerance,
            likely="1 minus the sum of the scores before N, also for a token that halts because its class token does; "
            "sums and R in the dtype of x",
            mistakes=wrong.get("R"),
        )
        check.finite(
            "no NaN",
            found,
            tested=on,
            likely="0 times NaN is NaN: choose with torch.where, and give an image that is done some key",
        )
        check.close(
            "answer",
            found[:, 0],
            mixed[:, 0],
            tested=on + "; the first feature of the answers",
            tolerance=tolerance,
            likely="after each layer add p times the class token: h while it runs, R where it halts, 0 after",
            mistakes=wrong.get("answer"),
        )
        check.close(
            "answer, all features",
            found,
            mixed,
            tested=on + "; all features of the answers",
            tolerance=tolerance,
            likely="p weighs the whole token, all its features",
        )
        if not single:
            _mixture_gradients(check, answer, case)


class _Diary(NamedTuple):
    """What happened to one image: each token's scores while it ran, and the class token's states."""

    scores: list[list[Tensor]]
    states: list[Tensor]


def _diaries(case: Stack) -> list[_Diary]:
    """Image by image: a dict of tokens from which those that have halted are really deleted."""
    diaries = []
    for image in case.x:
        tokens = dict(enumerate(image))
        diary = _Diary([[] for _ in tokens], [])
        for number, block in enumerate(case.blocks, start=1):
            names = list(tokens)
            out = block(torch.stack([tokens[k] for k in names])[None])
            for k, features, h in zip(names, out[0], case.score(out)[0], strict=True):
                tokens[k] = features
                diary.scores[k].append(h)
            diary.states.append(tokens[0])
            sums = {k: sum(map(float, diary.scores[k])) for k in names}
            gone = [k for k in names if number == len(case.blocks) or sums[k] >= 1 - case.epsilon]
            if 0 in gone:
                break
            for k in gone:
                del tokens[k]
        diaries.append(diary)
    return diaries


def _from_diaries(case: Stack) -> tuple[Tensor, Tensor, Tensor]:
    """The answer, N and R."""
    diaries = _diaries(case)
    left = torch.stack([torch.stack([_rest(scores, case.x) for scores in diary.scores]) for diary in diaries])
    answers = torch.stack([_blend(diary, _rest(diary.scores[0], case.x)) for diary in diaries])
    return answers, torch.tensor([[len(scores) for scores in diary.scores] for diary in diaries]), left


def _rest(scores: Sequence[Tensor], x: Tensor) -> Tensor:
    """What the scores but the last leave of 1."""
    rest = x.new_ones(())
    for score in scores[:-1]:
        rest = rest - score
    return rest


def _blend(diary: _Diary, rest: Tensor, *, detached: bool = False) -> Tensor:
    """The class token's states, each times its share, the last one times the rest."""
    shares = [score.detach() if detached else score for score in diary.scores[0][:-1]]
    return torch.stack([share * state for share, state in zip([*shares, rest], diary.states, strict=True)]).sum(0)


def _mixture_gradients(check: Task, answer: Callable[..., Any], case: Stack) -> None:
    stack, x, score, epsilon, on, _ = case
    leaf = x.clone().requires_grad_()
    mixed, _, left = _from_diaries(case._replace(x=leaf))
    found, _, remainder = answer(stack, leaf, score, epsilon)
    _has_gradient(check, "has a gradient", found, *[remainder] * left.requires_grad, on=on)
    slopes = [checks.gradient(part, leaf) for part in (remainder, found)]
    check.finite(
        "no NaN in the gradient",
        *slopes,
        tested=on + "; the gradients of R and of the answer by x",
        likely="torch.where hides a NaN, but its gradient is 0 times NaN: give an image that is done some key",
    )
    check.close(
        "gradient of R",
        slopes[0],
        checks.gradient(left, leaf),
        tested=on + "; all R, each with a weight of its own, differentiated by x",
        tolerance=1e-6,
        likely="each R changes by -1 with every score before N, and not with the others",
    )
    diaries = _diaries(case._replace(x=leaf))
    rests = [_rest(diary.scores[0], leaf) for diary in diaries]
    check.close(
        "gradient of the answer",
        slopes[1],
        checks.gradient(mixed, leaf),
        tested=on + "; the answers, each number with a weight of its own, differentiated by x",
        tolerance=1e-6,
        likely="a score before N moves weight from layer N to its own: p carries a gradient both in h and in R",
        mistakes={
            says: checks.gradient(
                torch.stack(
                    [
                        _blend(diary, rest.detach() if no_rest else rest, detached=no_score)
                        for diary, rest in zip(diaries, rests, strict=True)
                    ]
                ),
                leaf,
            )
            for says, no_rest, no_score in (
                ("R inside p has to carry its gradient too: no detach()", True, False),
                ("h inside p has to carry its gradient too: no detach()", False, True),
                ("p has to carry its gradient: no detach()", True, True),
            )
        },
    )


# ---- task 6: predict, then measure

WORDS = {"deeper": ("digit", "background"), "ink": ("depth", "ink"), "a larger epsilon": ("earlier", "later")}
STAYS, HALTED, LAYERS = 13, 24, 6
LEFT = (20, 5, 19, 6)
DEPTHS = (
    (
        "two images of four patches: digit 3, 2, 6 and 3, background 4 and 2, 1, 2",
        torch.tensor([[3, 4, 2, 6], [2, 1, 2, 3]]),
        torch.tensor([[True, False, True, True], [False, False, False, True]]),
    ),
    (
        "one image of four patches, with fractions as of ink: digit 0.25, 0.75 and 0.125, background 0.5",
        torch.tensor([[0.25, 0.75, 0.5, 0.125]]),
        torch.tensor([[True, True, False, True]]),
    ),
)


def predict(
    check: Task,
    said: Callable[[], Any],
    auc: Callable[..., float],
    *,
    seed: int = 3,
    cases: Iterable[tuple[str, Tensor, Tensor]] = DEPTHS,
) -> None:
    """Task 6: the predictions, beside counted FLOPs, counted rows and 200 images; then ``auc`` of some patches."""
    _alone(check, auc)
    counted = _counted()
    right: dict[str, float | int | str] = {**counted, **_looked_at(seed)}
    check.prediction(
        said(),
        right,
        tested="digits_avit, run and counted: 13 of 37 tokens go through 6 layers, 24 through 2; 20, 5, 19 and 6 "
        "tokens left",
        words=WORDS,
        slips=_slips(),
        likely={
            **dict.fromkeys(counted, "write down how many tokens each layer computes; as a fraction, in code"),
            "deeper": "run the last cell and look at its map: where do the large numbers stand?",
            "ink": "the lecture has the depth's AUC against fragments; is a digit's patch darker than a fragment's?",
            "a larger epsilon": "the limit is 1 - epsilon: a larger epsilon lowers it",
        },
    )
    for what, depth, is_digit in cases:
        _area(check, auc, what, depth.clone(), is_digit.clone())
    for what, is_digit in (("digit", torch.zeros(2, 4)), ("background", torch.ones(2, 4))):
        check.raises(
            "both kinds",
            ValueError,
            partial(auc, torch.arange(8).view(2, 4), is_digit.bool()),
            tested=f"no patch of the {what}",
            likely="there is no pair then, and 0 / 0 is no chance: raise ValueError",
        )


@cache
def _counted() -> dict[str, float]:
    """The numbers of task 6: the rows that digits_avit's layers get, and the FLOPs that are counted."""
    model = load("digits_avit").eval()
    network = AdaptiveViT(model.backbone, gamma=model.gamma, beta=-1e4)  # nobody halts before the mask says so
    layer = model.backbone.blocks[1]
    image = cluttered_digits(1, split="test", seed=3).images
    depth = torch.tensor([LAYERS] * STAYS + [2] * HALTED)
    mask = (torch.arange(LAYERS)[:, None] < depth)[None]
    dense, rows_dense = _watched(partial(model.backbone, image), model)
    _, rows_masked = _watched(partial(network.predict, image, mask=mask, execution="masked"), model)
    gathered, rows_gathered = _watched(partial(network.predict, image, mask=mask), model)
    # what grows with the rows alone; all else but attention is embedding and readout, the same in both
    each = sum(2 * part.weight.numel() for part in layer.modules() if isinstance(part, nn.Linear))
    around = count(model.backbone.embed, image).flops + count(model.backbone.readout, torch.zeros(1, 1, 96)).flops
    attention = [flops - around - rows * each for flops, rows in ((dense, rows_dense), (gathered, rows_gathered))]

    def rows(order: Sequence[int]) -> int:
        def two_at_a_time() -> None:
            for pair in (order[:2], order[2:]):
                tokens = nn.utils.rnn.pad_sequence([torch.zeros(n, 96) for n in pair], batch_first=True)
                layer(tokens)

        return _watched(two_at_a_time, model)[1]

    return {
        "linear, masked": rows_masked / rows_dense,
        "linear, gathered": rows_gathered / rows_dense,
        "attention, gathered": attention[1] / attention[0],
        "rows as they come": rows(LEFT),
        "rows sorted": rows(sorted(LEFT, reverse=True)),
    }


@torch.no_grad()
def _watched(work: Callable[[], Any], model: nn.Module) -> tuple[int, int]:
    """FLOPs of some work, and the token rows that the layers of a model get meanwhile."""
    rows: list[int] = []
    hooks = [
        block.feed_forward.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[:-1].numel()))
        for block in model.backbone.blocks
    ]
    try:
        work()
    finally:
        for hook in hooks:
            hook.remove()
    return count(work).flops, sum(rows)


@cache
def _looked_at(seed: int) -> dict[str, str]:
    """The words of task 6, from 200 images that no layer was trained on."""
    model, images = load("digits_avit"), cluttered_digits(200, split="test", seed=seed)
    with torch.inference_mode():
        depth, shallow = (model(images.images, epsilon=epsilon).depth for epsilon in (model.epsilon, 0.3))
    on_digit = F.max_pool2d(images.masks[:, None].float(), 4).flatten(1) > 0
    wins, ties, pairs = _pairs(depth[:, 1:], on_digit)
    inked = F.max_pool2d(images.images, 4).flatten(1) > 0
    dark = (F.avg_pool2d(images.images, 4).flatten(1) * 256).round()
    by_depth, by_ink = (_pairs(some[inked], on_digit[inked]) for some in (depth[:, 1:], dark))
    return {
        "ink": "ink" if by_ink[0] + by_ink[1] / 2 > by_depth[0] + by_depth[1] / 2 else "depth",
        "deeper": "digit" if wins > pairs - wins - ties else "background",
        "a larger epsilon": "earlier" if shallow.sum() < depth.sum() else "later",
    }


def _slips() -> dict[str, dict[str, float | int | str]]:
    """Known mistakes, token by token: N tokens of which S stay, in L layers; n are left in a layer."""
    S, H, L = STAYS, HALTED, LAYERS
    N = S + H
    left = [N] * 2 + [S] * (L - 2)
    tokens, pairs, squares = L * N, L * N**2, sum(n**2 for n in left)
    gathered = sum(left) / tokens
    return {
        "linear, masked": {
            "that is what counts in the end: a mask throws away what was computed all the same": gathered,
            "that is the share of the tokens that stay: a mask saves nothing": S / N,
            "that is the share of the pairs: a mask saves nothing": squares / pairs,
            "a share of what all tokens in all layers cost, not in percent": 100,
            "nothing is spared, so that the share is not 0": 0,
        },
        "linear, gathered": {
            "nothing is computed for those that are taken out: less than 1": 1,
            "token layers, not a share: divide by 6 * 37": sum(left),
            "all tokens go through the first two layers, those that halt too": S / N,
            "the 24 halt after layer 2: they go through two layers, not one": (L * S + H) / tokens,
            "the 24 halt after layer 2: they go through two layers, not three": (L * S + 3 * H) / tokens,
            "the class token goes through all six as well: 13 do, not 12": (L * (S - 1) + 2 * H) / tokens,
            "37 tokens with the class token: 13 stay, 24 halt": sum(left) / (L * (N - 1)),
            "the linear layers' work grows with the tokens, not with their square": squares / pairs,
            "the mean depth, not a share: divide by the six layers": sum(left) / N,
            "a share, not in percent": 100 * gathered,
            "that is what is saved: the share that is left": 1 - gathered,
            "that counts the two first layers alone": 2 / L,
        },
        "attention, gathered": {
            "halted tokens are neither queries nor keys: the square of the tokens, 13 by 13 and not 13 by 37": gathered,
            "all tokens go through the first two layers": (S / N) ** 2,
            "all 37 keys of the first two layers are left out": (L - 2) * S**2 / pairs,
            "in the first two layers all look at all: 37 by 37, not 13 by 13 and 24 by 24": (L * S**2 + 2 * H**2)
            / pairs,
            "the square of the whole share: sum the squares layer by layer": gathered**2,
            "the class token stays as well: 13 by 13, not 12 by 12": (2 * N**2 + (L - 2) * (S - 1) ** 2) / pairs,
            "the 24 go through two layers, not one": (N**2 + (L - 1) * S**2) / pairs,
            "nothing is computed for those that are taken out: less than 1": 1,
            "pairs, not a share: divide by 6 * 37 * 37": squares,
            "a share, not in percent": 100 * squares / pairs,
            "that is what is saved: the share that is left": 1 - squares / pairs,
        },
        "rows as they come": {
            "the padding is computed too: each pair has twice the rows of its longer image": 50,
            "two at a time: the padding goes to the longer of the two, not to the longest of all": 80,
            "both images of a pair have the rows of the longer one": 39,
            "that is sorted": 52,
            "that pads to the shorter of the two, which loses tokens": 22,
            "the padding alone: with the tokens it pads": 28,
        },
        "rows sorted": {
            "the padding is computed too: each pair has twice the rows of its longer image": 50,
            "that is unsorted: first 20 with 19, then 6 with 5": 78,
            "both images of a pair have the rows of the longer one": 26,
            "two at a time: the padding goes to the longer of the two, not to the longest of all": 80,
            "that pads to the shorter of the two, which loses tokens": 48,
            "the padding alone: with the tokens it pads": 2,
        },
    }


def _pairs(depth: Tensor, is_digit: Tensor) -> tuple[int, int, int]:
    """Pairs of a patch on the digit and one beside it: how often the first is deeper, how often equal, how many."""
    both = list(zip(depth.flatten().tolist(), is_digit.flatten().tolist(), strict=True))
    digit, background = (Counter(d for d, there in both if there == kind) for kind in (True, False))
    ties = sum(n * background[d] for d, n in digit.items())
    wins = sum(n * m for d, n in digit.items() for e, m in background.items() if d > e)
    return wins, ties, digit.total() * background.total()


def _area(check: Task, auc: Callable[..., float], what: str, depth: Tensor, is_digit: Tensor) -> None:
    wins, ties, pairs = _pairs(depth, is_digit)
    right, patches = (wins + ties / 2) / pairs, depth.numel()
    on, beside = depth[is_digit].double().mean().item(), depth[~is_digit].double().mean().item()
    images = [_pairs(*image) for image in zip(depth, is_digit, strict=True)] if depth.ndim == 2 else [(0, 0, 0)]
    alone = [(w + t / 2) / all_of_it if all_of_it else math.nan for w, t, all_of_it in images]
    whole = _pairs(depth.long(), is_digit)
    with check.untouched("depth stays", tested=what, depth=depth, is_digit=is_digit):
        found = auc(depth, is_digit)
    check.close(
        "many patches" if pairs > 2**24 else "auc",
        found,
        right,
        tested=f"{what}: {pairs} pairs",
        tolerance=1e-12,
        likely=f"of {pairs} pairs the digit wins {wins} and ties {ties}; count in whole numbers or float64, for "
        "float32 has seven digits, and compare depths as they are: rounded they tie, and small unsigned numbers run "
        "over when subtracted",
        mistakes={
            "an equal depth counts one half, not nothing": wins / pairs,
            "an equal depth counts one half, not one": (wins + ties) / pairs,
            "the other way round: the chance that the digit goes deeper": 1 - right,
            "equal pairs count one half and stay in the number of pairs": wins / max(1, pairs - ties),
            "that is the number of pairs: divide by all of them": wins + ties / 2,
            "divided by all pairs of any two patches: by those of one of each": (wins + ties / 2) / patches**2,
            "divided by the pairs of different patches: by those of one of each": (wins + ties / 2)
            / math.comb(patches, 2),
            "the pairs within one image: over all pairs, across images too": _mean(alone),
            "the mean depths alone: compare every pair": float(on > beside),
            "the difference of the mean depths: the share of pairs": on - beside,
            "wins minus losses: ties count one half, losses nothing": (2 * wins + ties) / pairs - 1,
            "the first image alone: all of them": alone[0],
            "float32 has seven digits: count in whole numbers, or take the mean in float64": float(torch.tensor(right)),
            "compare depths as they are: cut to whole numbers they tie": (whole[0] + whole[1] / 2) / pairs,
        },
    )
    check.true(
        "a plain number",
        isinstance(found, float),
        tested="the type of the result",
        expected="float",
        got=type(found).__name__,
        likely=".item() makes a number of a tensor",
    )
