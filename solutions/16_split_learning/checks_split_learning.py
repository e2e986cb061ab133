"""The checks of unit 16. What crosses between three parts is held against one network with a rounding in its middle;
groups and sizes are known beforehand or tried one by one; messages are packed and weighed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib import checks
from dynlib.backbone import Block
from dynlib.checks import Task
from dynlib.cost import count
from dynlib.edge import Compression, double_compress

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
WITHOUT = ("dynlib", "numpy", "scipy", "sklearn")
"""What an answer does without."""


# ---- task 1: three_parts

Parts = tuple[int, tuple[int, int, int, int], torch.dtype]
"""Samples; features of the inputs, of both cuts, classes; the dtype."""

PARTS: tuple[Parts, ...] = (
    (4, (3, 5, 4, 3), torch.float64),
    (3, (2, 4, 4, 2), torch.float64),
    (1, (3, 2, 3, 4), torch.float64),
    (6, (3, 4, 3, 5), torch.float32),
)
_CROSSINGS = ("activations up", "activations down", "gradient up", "gradient down")


class _Rounded(torch.autograd.Function):
    """A link in one network: both ways the numbers are those of float16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: list[Tensor]) -> Tensor:
        ctx.seen = seen
        return x.half().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.seen.append(gradients[0])
        return gradients[0].half().to(gradients[0].dtype), None


def three_parts(check: Task, answer: Callable[..., float], *, cases: Iterable[Parts] = PARTS, seed: int = 0) -> None:
    """Task 1: what crosses, in which order; the loss; gradients of all three parts, of this step alone."""
    check.by_hand(
        "by hand", answer, without=WITHOUT, tested="what the code of three_parts uses", likely="PyTorch alone"
    )
    for number, (samples, sizes, dtype) in enumerate(cases):
        on = f"{samples} samples, features {sizes}, {dtype}"
        draw = 20 * seed + 10 * number
        parts = [_part(*pair, seed=draw + at, dtype=dtype) for at, pair in enumerate(pairwise(sizes))]
        inputs = checks.normal(samples, sizes[0], seed=draw + 5, dtype=dtype)
        labels = (3 * checks.normal(samples, sizes[3], seed=draw + 6, dtype=dtype)).softmax(-1)
        right = _one_network(parts, inputs, labels)
        hard = F.one_hot(labels.argmax(-1), sizes[3]).to(dtype)
        of_hard = _one_network(parts, inputs, hard)["crossed"]
        for part in parts:
            for parameter in part.parameters():
                parameter.grad = torch.ones_like(parameter)
        crossed: list[tuple[str, Tensor]] = []
        watched = [checks.Watched(part) for part in parts]

        def link(way: str, crossed: list[tuple[str, Tensor]] = crossed) -> Callable[[Tensor], Tensor]:
            def send(given: Tensor) -> Tensor:
                check.true(
                    "crossings",
                    isinstance(given, Tensor),
                    tested=f"what is sent {way}",
                    expected="a tensor",
                    got=f"{given}",
                    likely="the .grad of what arrived is empty: call requires_grad_() on what *arrived*, before the "
                    "part runs on it",
                )
                crossed.append((way, given.detach().clone()))
                return given.detach().half().to(given.dtype)

            return send

        with check.untouched(tested=on, inputs=inputs, labels=labels):
            loss = answer(*watched, inputs, labels, link("up"), link("down"))
        check.equal(
            "crossings",
            tuple(way for way, _ in crossed),
            ("up", "down", "up", "down"),
            tested=f"the calls of up and down: {on}",
            likely="activations up and down, then the gradient at the second cut up, and that at the first down",
        )
        for name, (_, tensor), expected, other in zip(_CROSSINGS, crossed, right["crossed"], of_hard, strict=True):
            check.close(
                name,
                tensor,
                expected,
                tested=on,
                tolerance=100 * TOLERANCE[dtype],
                likely=_LIKELY[name],
                mistakes={
                    **_mistaken_crossings(expected, samples),
                    "labels are rows that sum to one: F.cross_entropy takes them as they are": other,
                },
            )
        check.equal(
            "once",
            tuple(len(part.given) for part in watched),
            (1, 1, 1),
            tested=f"how often each part runs: {on}",
            likely="keep what a part gives: it is sent, and backward() goes on from it later",
        )
        check.true(
            "a float",
            isinstance(loss, float),
            tested=on,
            expected="the loss, a float",
            got=type(loss).__name__,
            likely="loss.item()",
        )
        check.close(
            "the loss",
            loss,
            right["loss"],
            tested=on,
            tolerance=TOLERANCE[dtype],
            likely="F.cross_entropy takes rows of labels as they are, and gives the mean over the batch",
        )
        for name, part, gradients in zip(("first", "middle", "last"), parts, right["gradients"], strict=True):
            for parameter, gradient in zip(part.parameters(), gradients, strict=True):
                found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                check.close(
                    f"gradients of {name}",
                    found,
                    gradient,
                    tested=on,
                    tolerance=100 * TOLERANCE[dtype],
                    likely="what arrived over the link is what backward() of this part goes on from",
                    mistakes={
                        "what stood in .grad before is still in it: clear all three parts first": gradient + 1,
                        "nothing arrives: backward() of this part has not run": torch.zeros_like(gradient),
                        "these are the old numbers: backward() of this part has not run": torch.ones_like(gradient),
                    },
                )


_LIKELY = {
    "activations up": "what goes up first is first(inputs)",
    "activations down": "middle runs on what arrived, and what it gives goes down",
    "gradient up": "the gradient of the loss with respect to what arrived at the client; last runs on what arrived",
    "gradient down": "the gradient at what arrived at the server, gone on from the gradient that arrived there",
}


def _mistaken_crossings(right: Tensor, samples: int) -> dict[str, Tensor]:
    return {
        "the loss is the mean over the batch, and this belongs to its sum": right * samples,
        "the gradient is divided by the batch twice: the loss is a mean already": right / samples,
        "zeros: nothing went back to here": torch.zeros_like(right),
        "the sign is turned: a gradient is sent as it is, and the step is the optimizer's": -right,
    }


def _part(size: int, to: int, *, seed: int, dtype: torch.dtype) -> nn.Sequential:
    part = nn.Sequential(nn.Linear(size, 6), nn.Tanh(), nn.Linear(6, to)).to(dtype)
    with torch.no_grad():
        for at, parameter in enumerate(part.parameters()):
            parameter.copy_(checks.normal(*parameter.shape, seed=7 * seed + at, dtype=dtype) / 1.5)
    return part


def _one_network(parts: Sequence[nn.Module], inputs: Tensor, labels: Tensor) -> dict[str, Any]:
    back: list[Tensor] = []
    x = parts[0](inputs)
    z = parts[1](_Rounded.apply(x, back))
    logits = parts[2](_Rounded.apply(z, back))
    loss = -(labels * (logits - logits.logsumexp(-1, keepdim=True))).sum() / len(inputs)
    weights = [list(part.parameters()) for part in parts]
    flat = iter(torch.autograd.grad(loss, [weight for some in weights for weight in some]))
    gradients = [[next(flat) for _ in some] for some in weights]
    return {"loss": loss.item(), "crossed": [x.detach(), z.detach(), *back], "gradients": gradients}


# ---- task 2: group_step

Grouping = tuple[str, Tensor, Tensor, tuple[int, ...]]
"""The check's name, samples, centres, and the groups that come out."""


def _column(*numbers: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(numbers, dtype=dtype)[:, None]


GROUPINGS: tuple[Grouping, ...] = (
    ("nearest", _column(0, 1, 9, 8, 2), _column(1, 8), (0, 0, 1, 1, 0)),
    ("nearest", torch.tensor([[3.0, 4.0], [6.0, 0.0]]), torch.tensor([[0.0, 0.0], [8.0, 4.0]]), (0, 1)),
    ("nearest", _column(2, 0, 4), _column(0, 4), (0, 0, 1)),
    ("nobody left out", _column(1, -1.5, 6, 8.5, 10), _column(0, 9, 99), (0, 0, 2, 1, 1)),
    ("nobody left out", _column(0, 0.5, 20), _column(0, 15, 99), (0, 2, 1)),
    ("nobody left out", _column(5, 0, 1, 2), _column(90, 1, 70), (0, 2, 1, 1)),
    ("nobody left out", _column(3, 3, 3, dtype=torch.float32), _column(3, 3, 3, dtype=torch.float32), (1, 2, 0)),
)
_GROUP = {
    "nearest": "the nearest centre, of equally near ones the first",
    "nobody left out": "each empty group, in the order of their numbers, takes the farthest sample that is not alone",
    "of equals": "of equals the first. Above 25 rows torch.cdist multiplies matrices, and equal distances differ a "
    "little: plain differences, or compute_mode='donot_use_mm_for_euclid_dist'",
}


def group_step(
    check: Task,
    answer: Callable[..., tuple[Tensor, Tensor]],
    *,
    cases: Iterable[Grouping] = GROUPINGS,
    large: tuple[int, int, int] = (40, 3, 6),
    seed: int = 0,
) -> None:
    """Task 2: groups that are known, none of them empty; the means; then many samples."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of group_step uses", likely="PyTorch alone")
    for name, x, centres, expected in [*cases, *_many(*large, seed=seed)]:
        on = f"{list(x.shape)} samples, {len(centres)} centres, {x.dtype}"
        on += f", x = {x.tolist()}, centres = {centres.tolist()}" if x.numel() < 13 else ""
        with check.untouched(tested=on, x=x, centres=centres):
            found = answer(x, centres)
        check.true(
            "two tensors",
            isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(part, Tensor) for part in found),
            tested=on,
            expected="the groups and the new centres",
            got=type(found).__name__,
        )
        of, means = found
        check.equal(
            name,
            of,
            torch.tensor(expected),
            tested=on,
            likely=_GROUP[name],
            mistakes=_mistaken_groups(x, centres),
        )
        check.finite(
            "no NaN",
            means,
            tested=on,
            likely="a group without a sample has no mean: fill it before the means are taken",
        )
        rows = [
            torch.stack([x[i] for i, group in enumerate(expected) if group == j]).mean(0) for j in range(len(centres))
        ]
        check.close(
            "the means",
            means,
            torch.stack(rows),
            tested=on,
            tolerance=TOLERANCE[x.dtype],
            likely="the mean of all samples of the group, those that were moved included",
            mistakes={"the centres have not moved": centres},
        )


def _many(samples: int, features: int, groups: int, *, seed: int) -> list[Grouping]:
    """Samples that lie about centres which stand apart: who is nearest to which is known."""
    corners = 10 * torch.eye(groups, max(features, groups), dtype=torch.float64)
    expected = [(5 * i + seed) % groups for i in range(samples)]
    x = (
        corners[expected]
        + checks.normal(samples, corners.shape[1], seed=seed + 3, dtype=torch.float64).clamp(-2, 2) / 3
    )
    twice = 9 + checks.normal(groups, 5, seed=seed + 5, dtype=torch.float64).repeat(30 // groups + 1, 1)
    of = (groups, groups + 1, *range(2, groups), *(i % groups for i in range(groups, len(twice))))
    return [
        *(("nearest", x.to(dtype), corners.to(dtype), tuple(expected)) for dtype in (torch.float64, torch.float32)),
        ("of equals", twice, twice[: groups + 2], of),
    ]


def _mistaken_groups(x: Tensor, centres: Tensor) -> dict[str, Tensor]:
    by_hand = [[float(((sample - centre) ** 2).sum()) for centre in centres] for sample in x]
    first = [row.index(min(row)) for row in by_hand]
    last = [len(row) - 1 - row[::-1].index(min(row)) for row in by_hand]
    far = [row.index(max(row)) for row in by_hand]
    angle = (x @ centres.T).argmax(1)

    def filled(far: Callable[[int, int, list[int]], Any], *, alone: bool = False, turned: bool = False) -> Tensor:
        of = first.copy()
        for empty in sorted(set(range(len(centres))) - set(first), reverse=turned):
            free = [i for i in range(len(x)) if alone or of.count(of[i]) > 1]
            of[max(free, key=lambda i: far(i, empty, of))] = empty
        return torch.tensor(of)

    def away(i: int, *_: Any) -> float:
        return min(by_hand[i])

    of_its_centre = "farthest from the centre that it *went to*, not from another one"
    return {
        "somebody is left out: each empty group takes a sample": torch.tensor(first),
        "of equally near centres the first": torch.tensor(last),
        "the nearest centre, not the farthest": torch.tensor(far),
        "nearest by distance, not by the scalar product": angle,
        "of equally far samples the first": filled(lambda i, *_: (away(i), i)),
        "a sample that is alone in its group stays there, and sizes are counted anew after each move": filled(
            away, alone=True
        ),
        "empty groups in the order of their numbers": filled(away, turned=True),
        "the farthest sample of all that are not alone, whatever the size of its group": filled(
            lambda i, _, of: (of.count(of[i]), away(i))
        ),
        "the farthest sample, not the nearest": filled(lambda i, *_: -away(i)),
        of_its_centre: filled(lambda i, empty, _: by_hand[i][empty]),
        f"{of_its_centre} (here: the largest of all distances)": filled(lambda i, *_: max(by_hand[i])),
        f"{of_its_centre} (here: nearest to the empty one)": filled(lambda i, empty, _: -by_hand[i][empty]),
    }


# ---- task 3: compress

Batch = tuple[str, Tensor, Tensor, Tensor, tuple[int, ...], int, int]
"""The check's name, x, attention, labels, groups, k, classes."""


def some_batch(
    batch: int,
    tokens: int,
    dim: int,
    of: tuple[int, ...],
    *,
    k: int,
    seed: int,
    dtype: torch.dtype = torch.float64,
    classes: int = 4,
) -> Batch:
    """Samples whose class token looks at itself least, with a class that nobody has."""
    x = checks.normal(batch, tokens, dim, seed=seed, dtype=dtype)
    attention = (2 * checks.normal(batch, tokens, seed=seed + 1, dtype=dtype)).softmax(-1)
    attention[:, 0] = attention[:, 1:].amin(1) / 3
    labels = torch.tensor([(5 * i + seed) % (classes - 1) for i in range(batch)])
    return "the tokens", x, attention, labels, of, k, classes


def ties(batch: int, tokens: int, *, k: int) -> Batch:
    """Attention in three sizes, exact in binary, the same in all samples."""
    x = checks.normal(batch, tokens, 2, seed=tokens, dtype=torch.float64)
    attention = torch.tensor([1.0 / 2 ** (3 + token % 3) for token in range(tokens)], dtype=torch.float64)
    return "ties", x, attention.repeat(batch, 1), torch.zeros(batch, dtype=torch.int64), (0,) * batch, k, 2


BATCHES: tuple[Batch, ...] = (
    some_batch(5, 6, 3, (0, 1, 0, 0, 1), k=3, seed=1),
    some_batch(4, 5, 2, (2, 0, 1, 2), k=1, seed=4),
    some_batch(3, 4, 2, (0, 0, 0), k=4, seed=8),
    some_batch(6, 7, 3, (1, 1, 0, 1, 2, 0), k=5, seed=11, dtype=torch.float32),
    ties(3, 30, k=8),
)


def compress(
    check: Task, answer: Callable[..., tuple[Tensor, Tensor, Tensor]], *, cases: Iterable[Batch] = BATCHES
) -> None:
    """Task 3: which tokens; labels whose rows sum to one; activations; gradients."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of compress uses", likely="PyTorch alone")
    for name, x, attention, labels, of, k, classes in cases:
        groups = max(of) + 1
        on = f"x {list(x.shape)}, groups {of}, k = {k}, {classes} classes, {x.dtype}"
        members = [[i for i, group in enumerate(of) if group == j] for j in range(groups)]
        given, seen = x.clone().requires_grad_(), attention.clone().requires_grad_()
        with check.untouched(tested=on, x=given, attention=seen, labels=labels):
            found = answer(given, seen, labels, torch.tensor(of), groups, k, classes)
        check.true(
            "three tensors",
            isinstance(found, tuple | list) and len(found) == 3 and all(isinstance(part, Tensor) for part in found),
            tested=on,
            expected="activations, labels, and the numbers of the tokens",
            got=type(found).__name__,
        )
        h, y, kept = found
        places = [_most_attended(attention, some, k) for some in members]
        check.equal(
            name,
            kept,
            torch.tensor(places),
            tested=f"the numbers of the tokens: {on}",
            likely=_TOKENS[name],
            mistakes=_mistaken_tokens(attention, members, k),
        )
        hot = [[sum(int(labels[i]) == c for i in some) / len(some) for c in range(classes)] for some in members]
        rows = torch.tensor(hot, dtype=x.dtype)
        check.close(
            "the labels",
            y,
            rows,
            tested=on,
            tolerance=TOLERANCE[x.dtype],
            likely="the mean of the one-hot labels of the group: the share of each class, so that the row sums to one",
            mistakes={
                "a row sums to one: these are counts, divide by the group's size": rows
                * torch.tensor([len(some) for some in members])[:, None],
                "a group may hold several classes: these are the labels of one of its samples": F.one_hot(
                    torch.stack([labels[some[0]] for some in members]), classes
                ).to(x.dtype),
                "the mean, not the most frequent class alone": F.one_hot(rows.argmax(1), classes).to(x.dtype),
            },
        )
        expected = torch.stack(
            [
                torch.stack([sum((x[i, t] for i in some), 0 * x[0, 0]) / len(some) for t in row])
                for some, row in zip(members, places, strict=True)
            ]
        )
        check.close(
            "the activations",
            h,
            expected,
            tested=on,
            tolerance=TOLERANCE[x.dtype],
            likely="the mean over the samples of the group, of those tokens, in the order of their numbers",
            mistakes={
                "the mean over the group: these are sums": expected
                * torch.tensor([len(some) for some in members])[:, None, None],
                "the first k tokens, whatever was kept": torch.stack([x[some].mean(0)[:k] for some in members]),
                "the mean over the group: this is one of its samples": torch.stack(
                    [x[some[0]][row] for some, row in zip(members, places, strict=True)]
                ),
                "each group keeps tokens of its own: these are those of the first group": torch.stack(
                    [x[some].mean(0)[places[0]] for some in members]
                ),
                "the mean of the group is over its samples, not over the whole batch": expected
                * torch.tensor([len(some) / len(x) for some in members])[:, None, None].to(x.dtype),
            },
        )
        weights = checks.normal(*expected.shape, seed=3, dtype=x.dtype)
        right = torch.zeros_like(x)
        for j, some in enumerate(members):
            for i, (at, token) in product(some, enumerate(places[j])):
                right[i, token] = weights[j, at] / len(some)
        check.close(
            "gradients",
            _gradient_of(h, given, weights),
            right,
            tested=f"the gradient of x: {on}",
            tolerance=100 * TOLERANCE[x.dtype],
            likely="no .data, no detach() of x, no torch.tensor(…)",
        )
        check.equal(
            "none for the attention",
            bool(_gradient_of(h, seen, weights).any()),
            False,
            tested=on,
            likely="detach the attention: it chooses, and is not trained by what it chose",
        )


_TOKENS = {
    "the tokens": "0 in front, then the k − 1 others on which the mean attention of the group is largest, in order",
    "ties": "of equals the earlier: sort(dim=1, descending=True, stable=True), each argument by its name",
}


def _gradient_of(result: Tensor, source: Tensor, weights: Tensor) -> Tensor:
    if not result.requires_grad:
        return torch.zeros_like(source)
    (found,) = torch.autograd.grad((result * weights).sum(), source, allow_unused=True, retain_graph=True)
    return torch.zeros_like(source) if found is None else found


def _look(attention: Tensor, some: Sequence[int], token: int) -> float:
    return sum(float(attention[i, token]) for i in some) / len(some)


def _most_attended(attention: Tensor, some: Sequence[int], k: int) -> list[int]:
    """Place after place, the best of what is left."""
    chosen = [0]
    while len(chosen) < k:
        chosen.append(
            max((t for t in range(attention.shape[1]) if t not in chosen), key=lambda t: _look(attention, some, t))
        )
    return sorted(chosen)


def _mistaken_tokens(attention: Tensor, members: Sequence[Sequence[int]], k: int) -> dict[str, Tensor]:
    tokens = attention.shape[1]

    def falling(some: Sequence[int], sign: float = -1.0) -> list[int]:
        return sorted(range(1, tokens), key=lambda t: sign * _look(attention, some, t))

    everybody = range(len(attention))
    wrong = {
        "in the order of their numbers: these lie in the order of their attention": [
            [0, *falling(some)[: k - 1]] for some in members
        ],
        "the class token takes part in the choice, and may fall out: it is kept always, whoever looks at it": [
            sorted(sorted(range(tokens), key=lambda t: -_look(attention, some, t))[:k]) for some in members
        ],
        "k tokens besides the class token: it is one of the k": [sorted([0, *falling(some)[:k]]) for some in members],
        "places among the tokens without the class token are one too small": [
            sorted([0, *(t - 1 for t in falling(some)[: k - 1])]) for some in members
        ],
        "the least attended are thrown away, not kept": [sorted([0, *falling(some, 1.0)[: k - 1]]) for some in members],
        "each group chooses for itself: these are the tokens of the whole batch": [
            sorted([0, *falling(everybody)[: k - 1]]) for _ in members
        ],
        "the mean attention of the group, not that of its first sample": [
            sorted([0, *falling(some[:1])[: k - 1]]) for some in members
        ],
        "the first tokens, whatever the attention": [list(range(k)) for _ in members],
    }
    return {
        says: torch.tensor(rows)
        for says, rows in wrong.items()
        if rows != [_most_attended(attention, some, k) for some in members]
    }


# ---- task 4: expand

Expanding = tuple[int, tuple[int, ...], int, int, torch.dtype]
"""Features, the group of each sample, tokens, k, the dtype."""

EXPANDING: tuple[Expanding, ...] = (
    (2, (0, 1, 0), 5, 3, torch.float64),
    (3, (1, 1, 2, 0, 1), 5, 3, torch.float64),
    (1, (0, 0), 3, 3, torch.float64),
    (2, (0, 1, 1, 1), 6, 1, torch.float32),
)


def expand(
    check: Task, answer: Callable[..., Tensor], *, cases: Iterable[Expanding] = EXPANDING, seed: int = 0
) -> None:
    """Task 4: sample by sample and token by token."""
    check.by_hand(
        "by hand",
        answer,
        without=(*WITHOUT, "torch.autograd", ".backward"),
        tested="what the code of expand uses",
        likely="write the gradient out: divide, put to its places, give each sample its group's",
    )
    for number, (dim, of, tokens, k, dtype) in enumerate(cases):
        groups = max(of) + 1
        draw = torch.Generator().manual_seed(50 * seed + number)
        kept = torch.stack([torch.randperm(tokens, generator=draw)[:k] for _ in range(groups)])
        gradient = checks.normal(groups, k, dim, seed=60 * seed + number, dtype=dtype)
        on = f"gradient {list(gradient.shape)}, groups {of}, {tokens} tokens, {dtype}"
        expected = torch.zeros(len(of), tokens, dim, dtype=dtype)
        for i, group in enumerate(of):
            for at, token in enumerate(kept[group].tolist()):
                expected[i, token] = gradient[group, at] / sum(other == group for other in of)
        size = torch.tensor([sum(other == group for other in of) for group in of])[:, None, None]
        packed = torch.zeros_like(expected)
        packed[:, :k] = gradient[list(of)] / size
        of_first = torch.zeros_like(expected)
        of_first[:, kept[0]] = gradient[list(of)] / size
        with check.untouched(tested=on, gradient=gradient, kept=kept):
            found = answer(gradient, torch.tensor(of), kept, tokens)
        check.close(
            "the gradient",
            found,
            expected,
            tested=on,
            tolerance=1e-12 if dtype == torch.float64 else 1e-6,
            likely="that of the group over the group's size, at the tokens that the group kept, else 0",
            mistakes={
                "each of |C| samples has 1/|C| of the mean, so its gradient is divided by the size": expected * size,
                "over the size of the sample's own group, not over the batch": expected * size / len(of),
                "over the size of the sample's own group, not over the number of groups": expected * size / groups,
                "over the size of the sample's own group, not over the number of tokens": expected * size / k,
                "the size once, not twice": expected / size,
                "the gradient stands at the tokens in kept, not at the first k": packed,
                "each group has kept tokens of its own: these are the first group's": of_first,
            },
        )


# ---- task 5: sizes

Sizing = tuple[str, tuple[int, int, int, int, int], tuple[int, int] | None]
"""The check's name; batch, tokens, dim, classes, r; the pair, if it is known without a search."""

SIZINGS: tuple[Sizing, ...] = (
    ("the pair", (4, 4, 2, 1, 1), (4, 4)),
    ("the pair", (64, 37, 64, 10, 4), None),
    ("the pair", (64, 37, 64, 10, 100), None),
    ("just fits", (12, 8, 1, 6, 5), (3, 2)),
    ("just fits", (16, 10, 2, 3, 4), None),
    ("of equals", (2, 4, 5, 1, 2), (2, 2)),
    ("of equals", (4, 4, 2, 2, 5), (1, 3)),
    ("the pair", (128, 17, 96, 10, 16), None),
)


def sizes(
    check: Task,
    answer: Callable[..., tuple[int, int]],
    *,
    cases: Iterable[Sizing] = SIZINGS,
    short: Iterable[tuple[int, int, int, int, int]] = ((2, 2, 1, 50, 9),),
) -> None:
    """Task 5: pairs that fit, and to which no other pair is superior; then limits that nothing keeps."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of sizes uses", likely="plain Python")
    for name, numbers, known in cases:
        batch, tokens, dim, classes, r = numbers
        on = f"B = {batch}, n = {tokens}, dim {dim}, {classes} classes, r = {r}"
        pair = answer(*numbers)
        good = isinstance(pair, tuple | list) and len(pair) == 2 and all(type(each) is int for each in pair)
        check.true("two ints", good, tested=on, expected="T and k, two ints", got=pair, likely="//, not /; int(…)")
        groups, k = pair
        check.true(
            "in range",
            1 <= groups <= batch and 1 <= k <= tokens,
            tested=on,
            expected=f"T of 1 … {batch} and k of 1 … {tokens}",
            got=tuple(pair),
            likely="T is of the samples, and k of the tokens",
        )
        limit = (4 * batch * tokens * dim + 8 * batch) / r
        weight = 4 * (groups * k * dim + groups * classes)
        check.true(
            "fits",
            weight <= limit,
            tested=on,
            expected=f"a message of at most {limit:g} bytes",
            got=f"T = {groups}, k = {k}: {weight} bytes",
            likely=_slipped(pair, numbers) or "do the labels count, T rows of float32?",
        )
        best = known or _search(numbers)
        check.equal(
            name,
            tuple(pair),
            best,
            tested=on,
            likely=_slipped(pair, numbers) or "the pair whose smaller share is largest, then T · k, then T",
        )
    for numbers in short:
        check.raises(
            "out of reach",
            ValueError,
            lambda numbers=numbers: answer(*numbers),  # type: ignore[misc]
            tested="B = {}, n = {}, dim {}, {} classes, r = {}: one token of one group is too much".format(*numbers),
            likely="raise ValueError where no pair fits",
        )


def _largest(numbers: tuple[int, int, int, int, int], groups: int) -> int:
    """The largest k that fits beside T groups; 0 if none does."""
    batch, tokens, dim, classes, r = numbers
    left = (4 * batch * tokens * dim + 8 * batch) // (4 * r) - groups * classes
    return max(min(left // (groups * dim), tokens), 0)


def _search(numbers: tuple[int, int, int, int, int]) -> tuple[int, int]:
    """For each T only the largest k can be it."""
    batch, tokens = numbers[:2]
    best, pair = (-1.0, 0), (0, 0)
    for groups in range(batch, 0, -1):
        k = _largest(numbers, groups)
        worth = (min(groups / batch, k / tokens), groups * k)
        if k > 0 and worth > best:
            best, pair = worth, (groups, k)
    return pair


def _slipped(pair: Sequence[int], numbers: tuple[int, int, int, int, int]) -> str | None:
    batch, tokens, dim, classes, r = numbers
    ours = tuple(pair)
    right = _search(numbers)
    share, theirs = (min(one[0] * tokens, one[1] * batch) for one in (pair, right))
    if share == theirs and pair[1] <= _largest(numbers, pair[0]):
        larger = pair[0] * pair[1] < right[0] * right[1]
        return (
            f"with the same smaller share there is a pair with a larger T{' · k' if larger else ', T · k being equal'}"
        )
    every = [(groups, k) for groups in range(1, batch + 1) for k in [_largest(numbers, groups)] if k > 0]
    whole = 4 * batch * tokens * dim

    def best(fits: Callable[[int, int], bool]) -> tuple[int, ...]:
        found = [
            (min(g / batch, k / tokens), g * k, g, k)
            for g, k in product(range(1, batch + 1), range(1, tokens + 1))
            if fits(g, k)
        ]
        return max(found)[2:] if found else ()

    quarter, half = max(round(batch * r**-0.25), 1), max(round(tokens * r**-0.5), 1)
    wrong = {
        "the root was taken twice of the samples: T/B is about r^−½, and here it is r^−¼": (quarter, half),
        "rounded roots need not fit, and may leave room: try the pairs": (max(round(batch * r**-0.5), 1), half),
        "1/r of all, not of each: 1/r of the samples and 1/r of the tokens is 1/r²": (
            max(batch // r, 1),
            max(tokens // r, 1),
        ),
        "the largest T · k may be all samples and hardly a token: the smaller share counts first": max(
            every, key=lambda pair: (pair[0] * pair[1], pair[0]), default=()
        ),
    }
    if ours in wrong.values() or batch * tokens > 3000:
        return _the_only(wrong, ours)
    tried = {
        "a message of exactly 1/r fits": best(lambda g, k: 4 * g * (k * dim + classes) * r < whole + 8 * batch),
        "the labels of a message are T rows of float32, and weigh something": best(
            lambda g, k: 4 * g * k * dim * r <= whole + 8 * batch
        ),
        "without compression there are labels, too: 8 bytes a sample": best(
            lambda g, k: 4 * g * (k * dim + classes) * r <= whole
        ),
        "without compression a label is an int64, 8 bytes": best(
            lambda g, k: 4 * g * (k * dim + classes) * r <= whole + 4 * batch
        ),
        "the labels of a message are float32, 4 bytes a number": best(
            lambda g, k: 4 * g * (k * dim + 2 * classes) * r <= whole + 8 * batch
        ),
        "a row of labels is one for each group, not for each token": best(
            lambda g, k: 4 * g * k * (dim + classes) * r <= whole + 8 * batch
        ),
        "the labels of a group are one number for each class, not one int64": best(
            lambda g, k: (4 * g * k * dim + 8 * g) * r <= whole + 8 * batch
        ),
    }
    return _the_only(tried, ours)


def _the_only(slips: Mapping[str, tuple[int, ...]], ours: tuple[int, ...]) -> str | None:
    """The slip that gives this pair; None where two give it, for nobody knows which it was."""
    found = [says for says, one in slips.items() if one == ours]
    return found[0] if len(found) == 1 else None


# ---- task 6: predict, then measure


def predict(check: Task, answer: Callable[[], dict[str, Any]], *, seed: int = 3) -> None:
    """Task 6: predictions about messages, packed and weighed."""
    check.prediction(
        answer(),
        _measured(seed),
        tested="64 images, 37 tokens of 64 numbers, 10 classes",
        slips=_SLIPS,
        likely=_USUALLY,
        unit="bytes, shares",
    )


@cache
def _measured(seed: int) -> dict[str, float | int | str]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 37, 64, generator=draw, requires_grad=True)
    attention = torch.rand(64, 37, generator=draw)
    labels = torch.randint(10, (64,), generator=draw)

    def weigh(*tensors: Tensor) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def both(compression: Compression) -> tuple[int, int]:
        message, sent = compression.pack(x, attention, labels, 10, draw)
        gradient = compression.pack_gradient(torch.zeros_like(message.carried))
        wire = message.wire[:1] if compression.kind == "double" else message.wire
        return weigh(*wire, sent), weigh(*gradient)

    dense, sparse, bits = (
        both(how) for how in (Compression(), Compression("top_k", 1 / 16), Compression("quantise", bits=4))
    )
    double = double_compress(x, attention, labels, samples=16, tokens=9, classes=10, generator=draw)
    block = Block(64, 4)
    linear = [block.attention.query_key_value, block.attention.output, block.feed_forward]
    few, many = (sum(count(part, tokens).flops for part in linear) for tokens in (double.carried.detach(), x.detach()))
    share = round(256 * (1 / 256) ** 0.5) * round(256 * (1 / 256) ** 0.25) / 256**2
    return {
        "up, all": dense[0],
        "down, all": dense[1],
        "up, top-k 1/16": sparse[0],
        "down, top-k 1/16": sparse[1],
        "up, 4 bits": bits[0],
        "up, T = 16, k = 9": double.nbytes,
        "down, T = 16, k = 9": weigh(double.carried),
        "share, T = B c^½ and k = n c^¼": share,
        "FLOPs of the server's linear layers, T = 16, k = 9": few / many,
    }


_USUALLY = {
    "up, all": "images, times tokens, times numbers, times 4 bytes; and the labels, 8 bytes each",
    "down, all": "as many numbers come back as went up, and no labels",
    "up, top-k 1/16": "148 numbers of each image, 4 bytes each and 2 for its place; and the labels",
    "down, top-k 1/16": "a gradient for each number that was sent, and the server knows where they were",
    "up, 4 bits": "half a byte a number; two float32 a token; the labels",
    "up, T = 16, k = 9": "16 · 9 tokens of 64 float32, and 16 rows of 10 float32",
    "down, T = 16, k = 9": "a gradient for each number of the activations",
    "share, T = B c^½ and k = n c^¼": "T/B · k/n",
    "FLOPs of the server's linear layers, T = 16, k = 9": "the tokens that arrive, as a share of all",
}
_SLIPS: dict[str, dict[str, float | int | str]] = {
    "up, all": {
        "the labels go up, too": 64 * 37 * 64 * 4,
        "bytes, not numbers: 4 of them for a float32": 64 * 37 * 64 + 64,
        "labels are int64 here, 8 bytes each": 64 * 37 * 64 * 4 + 64 * 4,
        "without compression the labels are numbers of classes, not rows": 64 * 37 * 64 * 4 + 64 * 10 * 4,
    },
    "down, all": {
        "no labels come back": 64 * 37 * 64 * 4 + 64 * 8,
        "bytes, not numbers": 64 * 37 * 64,
        "a gradient for every number that went up, not one for each image": 64 * 4,
    },
    "up, top-k 1/16": {
        "each number goes with its place, 2 bytes more": 64 * 148 * 4 + 64 * 8,
        "a place is an int16, 2 bytes": 64 * 148 * 8 + 64 * 8,
        "the labels go up, too": 64 * 148 * 6,
        "the places weigh something, and so do the labels": 64 * 148 * 4,
    },
    "down, top-k 1/16": {
        "the server has the places already: they do not come back": 64 * 148 * 6,
        "only what was sent gets a gradient": 64 * 37 * 64 * 4,
    },
    "up, 4 bits": {
        "each token has a smallest number and a step, which are not quantised": 64 * 37 * 64 // 2 + 64 * 8,
        "the labels go up, too": 64 * 37 * 64 // 2 + 64 * 37 * 8,
        "two float32 for each token: a smallest number and a step": 64 * 37 * 64 // 2 + 64 * 37 * 4 + 64 * 8,
        "the codes, the scales and the labels": 64 * 37 * 64 // 2,
        "two float32 for each token, not for each image": 64 * 37 * 64 // 2 + 64 * 8 + 64 * 8,
    },
    "up, T = 16, k = 9": {
        "the labels go up, too: a row for each group": 16 * 9 * 64 * 4,
        "a label is a row of 10 float32 here": 16 * 9 * 64 * 4 + 16 * 8,
        "there are as many labels as groups": 16 * 9 * 64 * 4 + 64 * 10 * 4,
        "as many labels as groups, and each a row": 16 * 9 * 64 * 4 + 64 * 8,
        "the class token is one of the k": 16 * 10 * 64 * 4 + 16 * 10 * 4,
    },
    "down, T = 16, k = 9": {
        "labels get no gradient": 16 * 9 * 64 * 4 + 16 * 10 * 4,
        "the gradient comes back by groups; the client gives it to the samples": 64 * 9 * 64 * 4,
        "only what was sent gets a gradient": 64 * 37 * 64 * 4,
    },
    "share, T = B c^½ and k = n c^¼": {
        "that is what was asked for; T/B · k/n is something else here": 1 / 256,
        "T/B · k/n, a product": 1 / 4 + 1 / 16,
        "tokens that are sent, as a share": 64 * 16,
        "T = B c^½, not B c^¼": 1 / 16,
    },
    "FLOPs of the server's linear layers, T = 16, k = 9": {
        "fewer samples, and fewer tokens of each": 16 / 64,
        "fewer tokens, and fewer samples": 9 / 37,
        "a share, not in percent": 100 * 16 * 9 / (64 * 37),
        "linear layers take as many FLOPs as there are tokens, not their square": (16 * 9 / (64 * 37)) ** 2,
    },
}
