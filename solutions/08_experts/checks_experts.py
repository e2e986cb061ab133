"""The checks of exercise 08: experts in one call, their balance, an even hash, a layer cut into experts, predictions.

References are written slowly: a choice, a token, a feature at a time. Nothing in here is the answer to a task.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib import checks
from dynlib.backbone import FeedForward
from dynlib.checks import Task
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.width import MixtureOfExperts, load_balancing_loss, router_z_loss

ALONE = "PyTorch alone, as the first cell asks: the layer and the losses of dynlib are what is built here"


def _near(dtype: torch.dtype, fine: float) -> float:
    return {torch.float64: fine, torch.float32: 1e-5}.get(dtype, 3e-2)


# ---- task 1: all experts in one call


class Crowd(NamedTuple):
    """Tokens that ask for experts."""

    experts: int
    x: Tensor
    chosen: Tensor
    weight: Tensor
    room: int
    spoilt: Sequence[int]


def crowd(
    tokens: int,
    experts: int,
    k: int,
    room: int,
    *,
    seed: int,
    dtype: torch.dtype = torch.float64,
    only: Sequence[int] | None = None,
    spoilt: Sequence[int] = (),
    strided: bool = False,
) -> Crowd:
    """Seeded tokens with unequal weights, which ask for ``only`` some experts, or for all; ``spoilt`` ones hold NaN."""
    some = list(range(experts)) if only is None else list(only)
    ranks = checks.normal(tokens, len(some), seed=seed).argsort(dim=1)
    chosen = torch.tensor(some)[ranks[:, :k]]
    x = checks.normal(tokens, 5, seed=seed + 1, dtype=dtype)
    if strided:
        x = checks.normal(5, tokens, seed=seed + 1, dtype=dtype).T
    x[list(spoilt)] = math.nan
    kind = torch.float32 if dtype == torch.bfloat16 else dtype
    weight = checks.normal(tokens, k, seed=seed + 2, dtype=kind).abs() + 0.1
    return Crowd(experts, x, chosen, weight, room, tuple(spoilt))


class _Experts:
    """What runs all experts at once, and keeps what it was given. What it makes of zeros is far from zero."""

    def __init__(self, experts: int, dim: int, dtype: torch.dtype) -> None:
        self.maps = checks.normal(experts, dim, dim, seed=experts + 7, dtype=dtype)
        self.shifts = checks.normal(experts, 1, dim, seed=experts + 8, dtype=dtype) + 5
        self.given: list[Tensor] = []

    def __call__(self, places: Tensor) -> Tensor:
        self.given.append(places.detach().clone())
        return self.alone(places, slice(None))

    def alone(self, x: Tensor, which: Any) -> Tensor:
        """Some experts, each for some rows; a row has no part in what another one gets."""
        rows = (x.unsqueeze(-2) * self.maps[which].unsqueeze(-3)).sum(-1) if x.ndim == 3 else self.maps[which] @ x
        return torch.tanh(rows) + (self.shifts[which] if x.ndim == 3 else self.shifts[which][0])


def _who(case: Crowd, order: str = "choice, token") -> list[list[tuple[int, int]]]:
    """For each expert the pairs (token, choice) that find a place, in the order of the places."""
    tokens, k = case.chosen.shape
    pairs = [(t, c) for c in range(k) for t in range(tokens)]
    if order == "token, choice":
        pairs = [(t, c) for t in range(tokens) for c in range(k)]
    elif order == "last first":
        pairs.reverse()
    elif order == "heaviest first":
        pairs.sort(key=lambda pair: -case.weight[pair].item())
    asking: list[list[tuple[int, int]]] = [[] for _ in range(case.experts)]
    for pair in pairs:
        asking[int(case.chosen[pair])].append(pair)
    if order == "room for each choice":
        return [[p for c in range(k) for p in [q for q in row if q[1] == c][: case.room]] for row in asking]
    return [row[: case.room] for row in asking]


def _kept(case: Crowd, order: str = "choice, token") -> Tensor:
    kept = torch.zeros(case.chosen.shape, dtype=torch.bool)
    for row in _who(case, order):
        for pair in row:
            kept[pair] = True
    return kept


def _sum(case: Crowd, run: _Experts, order: str = "choice, token", weight: Tensor | None = None) -> Tensor:
    """The result, a pair at a time."""
    weight = case.weight if weight is None else weight
    rows = [torch.zeros_like(case.x[0]) for _ in case.x]
    for number, row in enumerate(_who(case, order)):
        for token, choice in row:
            made = run.alone(case.x[token], number)
            rows[token] = rows[token] + (weight[token, choice] * made).to(case.x.dtype)
    return torch.stack(rows)


CROWDS = (
    crowd(8, 4, 2, 3, seed=1),
    crowd(10, 3, 2, 2, seed=2),
    crowd(9, 4, 2, 4, seed=3, only=(0, 2)),
    crowd(6, 5, 2, 9, seed=4),
    crowd(8, 4, 2, 2, seed=5, spoilt=(2,)),
)


def batched_experts(
    check: Task, answer: Callable[..., tuple[Tensor, Tensor]], *, cases: Iterable[Crowd] = CROWDS
) -> None:
    """Task 1: what the experts get and give, who is dropped, gradients, NaN, and that they are called once."""
    check.by_hand("by hand", answer, without=("dynlib",), tested="the code of batched_experts", likely=ALONE)
    for case in cases:
        tokens, k = case.chosen.shape
        on = (
            f"{tokens} tokens, {k} of {case.experts} experts each, room for {case.room}, {case.x.dtype}"
            + (f", NaN in {', '.join(map(str, case.spoilt))}" if case.spoilt else "")
            + f"; chosen {case.chosen.tolist() if tokens < 10 else '…'}"
        )
        run, x, weight = _Experts(case.experts, 5, case.x.dtype), case.x.clone(), case.weight.clone()
        if not x.is_contiguous() or not case.x.is_contiguous():
            x = case.x
        x.requires_grad_(not case.spoilt)
        weight.requires_grad_(not case.spoilt)
        with check.untouched(tested=on, x=x, chosen=case.chosen, weight=weight):
            got = answer(run, case.experts, x, case.chosen, weight, case.room)
        check.true(
            "two results",
            isinstance(got, tuple) and len(got) == 2,
            tested=on,
            expected="(y, kept)",
            got=type(got).__name__,
            likely="give back the sum and the mask, in this order",
        )
        y, kept = got
        check.equal(
            "one call",
            [list(places.shape) for places in run.given],
            [[case.experts, case.room, 5]],
            tested=f"the shapes that run was called with: {on}",
            likely="call run once, with room places for each of all experts, whether they are used or not",
        )
        check.equal(
            "who is kept",
            kept,
            _kept(case),
            tested=on,
            likely="first choices before second ones, then the earlier token, and only so many as there are places",
            mistakes={
                "all first choices come before all second ones: here tokens come one after the other": _kept(
                    case, "token, choice"
                ),
                "the earlier token comes first: here the last": _kept(case, "last first"),
                "the order decides, not the weight": _kept(case, "heaviest first"),
                "first and second choices share the places of an expert": _kept(case, "room for each choice"),
                "True is who found a place": ~_kept(case),
            },
        )
        places = torch.zeros(case.experts, case.room, 5, dtype=case.x.dtype)
        for number, row in enumerate(_who(case)):
            for at, (token, _) in enumerate(row):
                places[number, at] = case.x[token]
        check.equal(
            "spoils nobody" if case.spoilt else "the places",
            run.given[0].nan_to_num(1234.5),
            places.nan_to_num(1234.5),
            tested=f"what run was called with: {on}",
            likely="a product with zeros makes NaN of NaN: write the rows where they belong"
            if case.spoilt
            else "in each row of places those who ask, in their order, from the first place on, and zeros behind them; "
            "tokens as they are, weighted afterwards",
        )
        expected = _sum(case, run)
        near = _near(case.x.dtype, 1e-10)
        if case.spoilt:
            bad = expected.isnan().any(dim=1)
            check.close(
                "spoils nobody",
                y.detach()[~bad],
                expected[~bad],
                tested=on,
                tolerance=near,
                likely="a token that holds NaN, kept or dropped, has no part in what others get: 0 · NaN is NaN",
            )
            check.equal("spoils nobody", y.isnan().any(dim=1), bad, tested=on, likely="dropped tokens get zeros")
            continue
        all_of_it = crowd_with(case, room=tokens * k)
        shares = _kept(case) * case.weight
        share = shares / shares.sum(1, keepdim=True).clamp(min=1e-9)
        check.close(
            "the result",
            y.detach(),
            expected,
            tested=on,
            tolerance=near,
            likely="each expert's result times the weight of that choice, summed over those that kept the token",
            mistakes={
                "multiply with the weights": _sum(case, run, weight=torch.ones_like(case.weight)),
                "the weights stay as they are when an expert is missing": _sum(case, run, weight=share),
                "who was dropped gets nothing from that expert": _sum(all_of_it, run),
                "a token that is dropped by all gets zeros, not itself": expected
                + case.x * ~_kept(case).any(1, keepdim=True),
                "the weights are those of the choices, not of the tokens next to them": _sum(
                    case, run, weight=case.weight.flip(1)
                ),
            },
        )
        if case.x.dtype == torch.float64:
            again = case._replace(x=case.x.clone().requires_grad_(), weight=case.weight.clone().requires_grad_())
            right = _sum(again, run)
            for name, ours, theirs in (("x", x, again.x), ("weight", weight, again.weight)):
                check.close(
                    "gradients",
                    checks.gradient(y, ours),
                    checks.gradient(right, theirs),
                    tested=f"the gradient of {name}: {on}",
                    tolerance=1e-9,
                    likely="a tensor of values that was made new, .detach() or .data cuts the gradient off",
                )


def crowd_with(case: Crowd, *, room: int) -> Crowd:
    """The same tokens with other room."""
    return case._replace(room=room)


# ---- task 2: the balance of a whole model


class Routers(NamedTuple):
    """Logits of some layers, and who is there."""

    layers: list[Tensor]
    k: int
    present: Tensor


def routers(
    experts: Sequence[int],
    k: int,
    *,
    seed: int,
    batch: int = 3,
    tokens: int = 7,
    large: float = 1.0,
    favour: float = 0.0,
    absent: float = 5.0,
    dtype: torch.dtype = torch.float64,
) -> Routers:
    """Seeded logits, ``large`` times normal, with a leaning to one expert; ``absent`` stands where no token is."""
    layers = []
    present = checks.normal(batch, tokens, seed=seed) > -0.4
    present[0, 0] = True
    for number, size in enumerate(experts):
        logits = large * checks.normal(batch, tokens, size, seed=seed + number + 1, dtype=torch.float64)
        logits[..., number % size] += favour
        logits[~present] = absent - 0.1 * torch.arange(size, dtype=torch.float64)  # no ties there either
        layers.append(logits.to(dtype))
    return Routers(layers, k, present)


ROUTERS = (
    routers((4,), 1, seed=1),
    routers((4,), 1, seed=6, large=0.3, favour=4.0),
    routers((4, 4), 2, seed=2, favour=1.5),
    routers((5, 3), 2, seed=3),
    routers((4, 4, 4), 2, seed=4, large=1000.0),
    routers((4, 6), 2, seed=5, absent=math.nan),
    routers((3,), 1, seed=7, dtype=torch.float32),
)


def _rows(logits: Tensor, present: Tensor | None) -> list[list[float]]:
    flat = logits.detach().double().flatten(0, 1).tolist()
    there = [True] * len(flat) if present is None else present.flatten().tolist()
    return [row for row, is_there in zip(flat, there, strict=True) if is_there]


def _shares(rows: list[list[float]], k: int) -> list[float]:
    """f, a choice at a time."""
    f = [0.0] * len(rows[0])
    for row in rows:
        for i in sorted(range(len(row)), key=lambda i: -row[i])[:k]:
            f[i] += 1 / (len(rows) * k)
    return f


def _chances(rows: list[list[float]], k: int, *, renormalised: bool = True) -> list[float]:
    """P, a token at a time; of the k largest alone, which sum to 1 or, not ``renormalised``, to less."""
    mean = [0.0] * len(rows[0])
    for row in rows:
        parts = [math.exp(value - max(row)) for value in row]
        some = sorted(range(len(row)), key=lambda i: -row[i])[:k]
        whole = sum(parts[i] for i in some) if renormalised else sum(parts)
        for i in some:
            mean[i] += parts[i] / whole / len(rows)
    return mean


def _even(rows: list[list[float]], k: int, *, counted: list[list[float]] | None = None) -> float:
    """N Σ f P; f of other rows if they are given."""
    return _dot(_shares(counted or rows, k), _chances(rows, len(rows[0])))


def _dot(f: list[float], p: list[float]) -> float:
    return len(f) * sum(a * b for a, b in zip(f, p, strict=True))


def _slips(rows: list[list[float]], k: int) -> dict[str, float]:
    """What known mistakes make of one layer."""
    experts = len(rows[0])
    f, p, pooled = (
        _shares(rows, k),
        _chances(rows, experts),
        [sum(each) / len(rows) for each in zip(*rows, strict=True)],
    )
    return {
        "who is never asked has a share of 0, and a place in f: minlength": experts if max(f) > 1 - 1e-9 else math.nan,
        "f is a share of all choices, and sums to 1: divide by k": k * _dot(f, p),
        "P is the mean of the probabilities over all experts, not of a softmax over the chosen ones": _dot(
            f, _chances(rows, k)
        ),
        "P is of all experts: those that are not chosen have a probability, too": _dot(
            f, _chances(rows, k, renormalised=False)
        ),
        "P is a mean of probabilities: with f twice there is nothing that has a gradient": _dot(f, f),
        "f counts the choices: here P stands twice": _dot(p, p),
        "first the softmax of each token, then the mean": _dot(f, _chances([pooled], experts)),
        "times the number of experts": _dot(f, p) / experts,
        "all k choices count for f, not the first alone": _dot(_shares(rows, 1), p),
    }


def balance_loss(
    check: Task, answer: Callable[[list[Tensor], int, Tensor], Tensor], *, cases: Iterable[Routers] = ROUTERS
) -> None:
    """Task 2: the value, layer by layer, over those who are there, and its gradient."""
    check.by_hand("by hand", answer, without=("dynlib",), tested="the code of balance_loss", likely=ALONE)
    ring = torch.arange(6.0)[:, None].add(torch.arange(6.0)).remainder(6).mul(3.0)[None]  # each is first once
    for k in (1, 2, 3):
        alone = sum(_chances(ring[0].tolist(), k, renormalised=False))
        check.close(
            "even is one",
            answer([ring.double(), ring.double().flip(1)], k, torch.ones(1, 6, dtype=torch.bool)),
            1.0,
            tested=f"two layers of six experts, each asked for equally often, k = {k}",
            tolerance=1e-6,
            likely="equal shares and equal probabilities, 1/6 each: six times a sum of six products",
            mistakes={
                "times N, the number of experts": 1 / 6,
                "the mean over the layers, not their sum": 2.0 if k == 1 else math.nan,
                "f is a share of all choices, and there are k of each token": float(k),
                "P is of all experts: those that are not chosen have a probability, too": alone,
            },
        )
    for layers, k, present in cases:
        experts = ", ".join(str(logits.shape[-1]) for logits in layers)
        lost = int((~present).sum())
        on = f"layers of {experts} experts, k = {k}, {present.numel()} tokens of which {lost} are not there"
        given = [logits.clone().requires_grad_() for logits in layers]
        names: dict[str, Any] = {f"layer {number}": logits for number, logits in enumerate(given, start=1)}
        with check.untouched(tested=on, present=present, **names):
            got = answer(given, k, present)
        rows = [_rows(logits, present) for logits in layers]
        right = sum(_even(part, k) for part in rows) / len(rows)
        clean = all(bool(logits.isfinite().all()) for logits in layers)
        if not clean:
            why = "take those who are there first: NaN · 0 is NaN"
        elif isinstance(got, Tensor) and got.dtype != layers[0].dtype:
            why = "of the dtype of the logits"
        elif max(abs(value) for part in rows for row in part for value in row) > 300:
            why = "logits are large here: eʳ overflows, and the smaller probabilities are all 0, so ask by the logits"
        else:
            why = "for each layer N times the sum of f · P, then the mean over the layers"
        told = [_slips(part, k) for part in rows]
        mistakes = {says: sum(each[says] for each in told) / len(told) for says in told[0]}
        mistakes["the mean over the layers, not their sum"] = right * len(rows)
        mistakes["P is the mean over those who are there, not over all places"] = right * (1 - lost / present.numel())
        if clean:
            whole = [_rows(logits, None) for logits in layers]
            mistakes["tokens that are not there do not count"] = sum(_even(p, k) for p in whole) / len(whole)
            mistakes["tokens that are not there do not count for f either"] = sum(
                _even(p, k, counted=q) for p, q in zip(rows, whole, strict=True)
            ) / len(rows)
            mistakes["tokens that are not there do not count for P either"] = sum(
                _even(q, k, counted=p) for p, q in zip(rows, whole, strict=True)
            ) / len(rows)
        if len({len(p[0]) for p in rows}) == 1 and len(rows) > 1:
            mistakes["each layer has f and P of its own: pooled, two collapses look even"] = _even(
                [row for part in rows for row in part], k
            )
        name = "who is not there" if not clean else "the value"
        check.close(
            name,
            got.detach() if isinstance(got, Tensor) else got,
            torch.tensor(right, dtype=layers[0].dtype),
            tested=on,
            tolerance=_near(layers[0].dtype, 1e-6),
            likely=why,
            mistakes={says: torch.tensor(value, dtype=layers[0].dtype) for says, value in mistakes.items()},
        )
        check.true(
            "gradient",
            got.requires_grad,
            tested=on,
            expected="a result with a gradient",
            got="one without",
            likely="f counts and has no gradient; P must keep its own: no detach() and no no_grad()",
        )
        slopes = [torch.autograd.grad(got, logits, allow_unused=True, retain_graph=True)[0] for logits in given]
        for number, (logits, slope) in enumerate(zip(layers, slopes, strict=True), start=1):
            found = torch.zeros_like(logits) if slope is None else slope
            check.close(
                "gradient",
                found.masked_fill(~present[..., None], 0.0),
                _slope(logits, k, present) / len(layers),
                tested=f"layer {number} of {on}",
                tolerance=_near(layers[0].dtype, 1e-6),
                likely="f counts and has no gradient; P has that of its softmax",
            )
            check.finite("gradient", found, tested=f"layer {number} of {on}", likely="take those who are there first")


def _slope(logits: Tensor, k: int, present: Tensor) -> Tensor:
    """dL/dr of one layer by the rule of the softmax: N/T · p_j (f_j − Σ f_i p_i), a token at a time."""
    slope = torch.zeros_like(logits, dtype=torch.float64)
    places = [tuple(place) for place in present.nonzero().tolist()]
    experts = logits.shape[-1]
    f = [0.0] * experts
    for place in places:
        row = logits[place].tolist()
        for i in sorted(range(experts), key=lambda i: -row[i])[:k]:
            f[i] += 1 / (k * len(places))
    for place in places:
        row = logits[place].double().tolist()
        parts = [math.exp(value - max(row)) for value in row]
        p = [part / sum(parts) for part in parts]
        mean = sum(a * b for a, b in zip(f, p, strict=True))
        slope[place] = torch.tensor(
            [experts / len(places) * p[j] * (f[j] - mean) for j in range(experts)], dtype=torch.float64
        )
    return slope.to(logits.dtype)


# ---- task 3: an even hash

HASHES = (
    (torch.tensor([5, 1, 9, 2, 2, 7]), 3),
    (torch.tensor([4, 4, 4, 4, 4]), 2),
    (torch.tensor([0, 3, 0, 8, 0, 1, 1]), 4),
    (torch.arange(40).remainder(7), 5),
    (torch.tensor([100, 1, 1, 1, 1, 1, 1]), 3),
    (torch.tensor([2**25 - 1, 2**25, 1, 1, 1, 1]), 2),
)


def _follows(table: Tensor, order: Iterable[int], loads: Tensor, experts: int, *, any_equal: bool = False) -> bool:
    """Whether a table is what the rule gives in this order with these loads; or in any order of equals."""
    so_far, left = [0] * experts, list(order)
    while left:
        first = so_far.index(min(so_far))
        equal = [token for token in left if loads[token] == loads[left[0]]] if any_equal else left[:1]
        token = next((token for token in equal if int(table[token]) == first), None)
        if token is None:
            return False
        left.remove(token)
        so_far[first] += int(loads[token])
    return True


def _slip(table: Tensor, ranked: list[int], counts: Tensor, experts: int) -> str:
    """Which known mistake a table is, if any."""
    if int(counts.max()) > 2**24:
        return "float32 holds whole numbers up to 2²⁴: sort and add them as int64"
    if _follows(table, ranked, counts, experts, any_equal=True):
        return "of equally frequent tokens the smaller number comes first: a sort that is stable keeps their order"
    if _follows(table, reversed(ranked), counts, experts) or _follows(
        table, counts.argsort(stable=True).tolist(), counts, experts
    ):
        return "from the most frequent down: here from the rarest up"
    if _follows(table, range(len(counts)), counts, experts):
        return "from the most frequent down: here in the order of the vocabulary"
    if _follows(table, ranked, torch.ones_like(counts), experts):
        return "by how often the tokens of an expert occur, not by how many they are"
    if _follows(table[torch.tensor(ranked).argsort()], ranked, counts, experts):
        return "the table is read by the token, not by its rank: table[token]"
    if _follows(table, [token for token in ranked if counts[token]], counts, experts):
        return "a token that never occurs goes to the expert with least as well, and changes no load"
    return "from the most frequent down, each to the expert whose tokens so far occur least often in all"


def balanced_hash(
    check: Task, answer: Callable[[Tensor, int], Tensor], *, cases: Iterable[tuple[Tensor, int]] = HASHES
) -> None:
    """Task 3: looked at token by token, from the most frequent down: was there an expert with less?"""
    check.by_hand("by hand", answer, without=("dynlib",), tested="the code of balanced_hash", likely=ALONE)
    for counts, experts in cases:
        size = len(counts)
        on = f"counts {counts.tolist() if size < 9 else f'of {size} tokens'}, {experts} experts"
        with check.untouched(tested=on, counts=counts):
            got = answer(counts, experts)
        check.true(
            "whole numbers",
            isinstance(got, Tensor) and got.dtype == torch.int64 and got.shape == counts.shape,
            tested=on,
            expected=f"int64 [{size}]",
            got=f"{got.dtype} {list(got.shape)}" if isinstance(got, Tensor) else type(got).__name__,
            likely="one expert for each token of the vocabulary",
        )
        check.true(
            "experts that are there",
            bool(((got >= 0) & (got < experts)).all()),
            tested=on,
            expected=f"numbers from 0 to {experts - 1}",
            got=got,
        )
        ranked, slip = sorted(range(size), key=lambda token: (-int(counts[token]), token)), ""
        for name in ("the least loaded", "ties"):
            so_far = [0] * experts
            for token in ranked:
                mine, least = int(got[token]), min(so_far)
                first = so_far.index(least)
                check.true(
                    name,
                    so_far[mine] == least if name == "the least loaded" else mine == first,
                    tested=f"token {token}, which occurs {int(counts[token])} times: {on}",
                    expected=f"expert {first}: the first of those with {least}",
                    got=f"expert {mine}, with {so_far[mine]}",
                    likely=(slip := slip or _slip(got, ranked, counts, experts))
                    if name == "the least loaded" or int(counts.max()) > 2**24
                    else "of equal experts the smaller number, of equally frequent tokens the smaller number first",
                )
                so_far[mine] += int(counts[token])


# ---- task 4: a layer cut into experts

SPLITS = ((3, 6, 2, 1, 1, torch.float64), (4, 12, 3, 2, 2, torch.float64), (5, 8, 4, 1, 3, torch.float64))


def _dense(dim: int, hidden: int, seed: int, dtype: torch.dtype) -> FeedForward:
    layer = FeedForward(dim, hidden).to(dtype)
    for number, weight in enumerate(layer.parameters()):
        weight.data = checks.normal(*weight.shape, seed=seed + 5 * number, dtype=dtype)
    return layer


def split_up(
    check: Task,
    answer: Callable[[FeedForward, int, int], Sequence[Tensor]],
    *,
    cases: Iterable[tuple[int, int, int, int, int, torch.dtype]] = SPLITS,
    refused: Iterable[tuple[int, int, int]] = ((6, 4, 1), (6, 0, 1), (6, 2, 0), (6, -2, 1), (6, 2, -1)),
) -> None:
    """Task 4: shapes, the sum over one copy of every slice, whichever copies, memory, and what is refused."""
    check.by_hand("by hand", answer, without=("dynlib",), tested="the code of split_up", likely=ALONE)
    for dim, hidden, slices, copies, seed, dtype in cases:
        layer = _dense(dim, hidden, seed, dtype)
        on = f"dim {dim}, {hidden} hidden features, {slices} slices, {copies} copies, {dtype}"
        parts: dict[str, Any] = {"W₁": layer.expand.weight, "b₁": layer.expand.bias}
        parts |= {"W₂": layer.contract.weight, "b₂": layer.contract.bias}
        with check.untouched(tested=on, **parts):
            got = answer(layer, slices, copies)
        experts, own = slices * copies, hidden // slices
        shapes = [[experts, own, dim], [experts, own], [experts, dim, own], [experts, dim]]
        check.equal(
            "four parts",
            [list(part.shape) for part in got],
            shapes,
            tested=on,
            likely="a slice is rows of W₁, elements of b₁ and columns of W₂; b₂ is there for every expert",
        )
        check.true(
            "plain tensors",
            all(part.dtype == dtype and part.grad_fn is None and not isinstance(part, nn.Parameter) for part in got),
            tested=on,
            expected=f"four tensors of {dtype} without a history",
            got=", ".join(f"{part.dtype}{'' if part.grad_fn is None else ' with a grad_fn'}" for part in got),
            likely="torch.no_grad(), or .detach(); and no other dtype",
        )
        first, first_bias, second, second_bias = (part.clone() for part in got)
        x = checks.normal(4, dim, seed=seed + 30, dtype=dtype)
        with torch.no_grad():
            whole = layer(x)
            made = torch.stack(
                [F.gelu(x @ first[i].T + first_bias[i]) @ second[i].T + second_bias[i] for i in range(experts)]
            )
            silent = layer.contract.bias
        dealt = layer.contract.weight.detach().reshape(slices, dim, own)
        rows = torch.equal(second[:slices], dealt) or torch.equal(second[:slices], slices * dealt)
        lone = bool((second_bias == 0).all(dim=1).any())
        generator = torch.Generator().manual_seed(seed)
        for turn in range(copies + 1):
            picks = [turn] * slices if turn < copies else torch.randint(copies, (slices,), generator=generator).tolist()
            some = torch.stack([made[copy * slices + part] for part, copy in enumerate(picks)])
            total = some.sum(0)
            other = torch.stack([made[part * copies + copy] for part, copy in enumerate(picks)]).sum(0) / slices
            if copies > 1 and torch.allclose(other, whole, rtol=1e-4, atol=1e-4):
                why = "expert number copy · s + slice: here slice · c + copy"
            elif rows:
                why = (
                    "a slice has columns of W₂, not rows of it cut anew: cut dim 1, then bring the slices to the front"
                )
            else:
                why = "each feature once; W₂ makes up for the weight of 1 / s, and b₂ is added s times with it"
            check.close(
                "the dense layer",
                total / slices,
                whole,
                tested=f"copies {picks} of the slices: {on}",
                tolerance=_near(dtype, 1e-10) * max(1.0, float(slices)),
                likely=why,
                mistakes={
                    "the weight of 1 / s shrinks what the slices add up to: W₂ of a slice is s times as large": (
                        whole - silent
                    )
                    / slices
                    + silent,
                    "b₂ is added by s experts, each weighted by 1 / s: it stays as it is": whole
                    + (slices - 1) * silent,
                    "b₂ stands in every expert, whole: here some have none"
                    if lone
                    else "b₂ is added by s experts, each weighted by 1 / s: do not divide it": whole
                    - silent * (slices - 1) / slices,
                    "W₂ of a slice is s times as large, however many copies there are: one of them runs": copies
                    * (whole - silent)
                    + silent,
                    "b₂ is missing": whole - silent,
                },
            )
        for part in got:
            check.true(
                "memory of its own",
                all(step or size == 1 for step, size in zip(part.stride(), part.shape, strict=True)),
                tested=on,
                expected="as many numbers in memory as there are",
                got="experts that share memory with each other",
                likely="expand makes one row look like many: .clone() makes them many",
            )
        before = [part.detach().clone() for part in parts.values()]
        with torch.no_grad():
            for part in got:
                part.add_(1.0)
        check.true(
            "memory of its own",
            all(torch.equal(old, now) for old, now in zip(before, parts.values(), strict=True)),
            tested=f"after writing into the result: {on}",
            expected="the layer as it was",
            got="the layer changed",
            likely="a view shares its memory with the layer: .clone()",
        )
    for hidden, slices, copies in refused:
        check.raises(
            "refused",
            ValueError,
            lambda h=hidden, s=slices, c=copies: answer(_dense(3, h, 1, torch.float64), s, c),  # type: ignore[misc]
            tested=f"{hidden} hidden features, {slices} slices, {copies} copies",
            likely="s must divide h, and both s and c be at least 1",
        )


# ---- task 5: predict, then measure

WORDS = {
    "a bias of 1 on every expert": ("the choice", "the weights", "nothing"),
    "k = 1, softmax after top-k": ("zero", "not zero"),
}
DIM, EXPERTS, HIDDEN, TOKENS = 96, 16, 192, 300


def predict(check: Task, answer: Callable[[], dict[str, Any]], *, seed: int = 2) -> None:
    """Task 5: predictions, counted and measured on layers of this seed."""
    said = answer()
    if isinstance(said, dict):  # so near that it looks like the right number, rounded
        check.true(
            "parameters held",
            said.get("parameters held") != 16 * _ONE,
            tested="your prediction 'parameters held': 16 experts of 192 hidden features, dim 96",
            expected="another value; it is shown once you have said it",
            got=said.get("parameters held"),
            likely="the router holds parameters, too: a vector of 96 for each of 16 experts",
        )
    check.prediction(
        said,
        _measured(seed),
        tested="16 experts of 192 hidden features, 2 of them for each of 300 tokens of dim 96",
        words=WORDS,
        slips=_SLIPS,
        likely=_USUALLY,
        tolerance={"z-loss": 1e-5, "dropped": 1e-6, "balancing loss": 1e-4},
    )


@cache
def _measured(seed: int) -> dict[str, float | str]:
    """What comes out: counted, and run."""
    torch.manual_seed(seed)
    layer, dense = MixtureOfExperts(DIM, EXPERTS, k=2, hidden=HIDDEN), FeedForward(DIM, 2 * HIDDEN)
    x = torch.randn(TOKENS, DIM)
    router = sum(weight.numel() for weight in layer.router.parameters())
    held = sum(weight.numel() for weight in layer.parameters())
    one = (held - router) // EXPERTS
    routing = 2 * DIM * EXPERTS * TOKENS
    with torch.no_grad():
        whole, gathered = count(dense, x).flops, count(layer, x).flops - routing
        with setting(layer, MixtureOfExperts, execution="masked"):
            masked = count(layer, x).flops - routing
        with record(layer, MixtureOfExperts) as records:
            layer(x[:1])
        met = len(records[""][0].chosen.unique())
    return {
        "parameters held": held,
        "parameters met by one token": met * one + router,
        "FLOPs of the experts": gathered / whole,
        "FLOPs masked": masked / whole,
        **_crowded(seed),
        "a bias of 1 on every expert": _bias(seed),
        "k = 1, softmax after top-k": _trap(seed),
    }


def _crowded(seed: int) -> dict[str, float]:
    """All tokens ask for the same two experts, equally."""
    torch.manual_seed(seed)
    layer = MixtureOfExperts(DIM, EXPERTS, k=2, hidden=HIDDEN, capacity=1.25)
    x = torch.ones(TOKENS, DIM)
    with torch.no_grad():
        layer.router.weight.fill_(-1.0)
        layer.router.weight[[3, 7]] = 1.0
        with record(layer, MixtureOfExperts) as records:
            layer(x)
        kept = records[""][0].kept
        leaning = load_balancing_loss(records).item()
        layer.router.weight.zero_()
        with record(layer, MixtureOfExperts) as silent:
            layer(x)
    return {
        "room": int(kept.sum()) // 2,
        "dropped": 1 - kept.double().mean().item(),
        "balancing loss": leaning,
        "z-loss": router_z_loss(silent).item(),
    }


def _bias(seed: int) -> str:
    p = checks.normal(TOKENS, EXPERTS, seed=seed).softmax(dim=-1)
    before, after = p.topk(2).indices, (p + 1).topk(2).indices
    if not torch.equal(before, after):
        return "the choice"
    return "nothing" if torch.equal(p.gather(1, before), p.gather(1, after)) else "the weights"


def _trap(seed: int) -> str:
    slopes = []
    for renormalise in (True, False):
        torch.manual_seed(seed)
        layer = MixtureOfExperts(DIM, EXPERTS, k=1, hidden=HIDDEN, renormalise=renormalise).double()
        layer(checks.normal(9, DIM, seed=seed, dtype=torch.float64)).square().sum().backward()
        slope = layer.router.weight.grad
        slopes.append(0.0 if slope is None else slope.abs().max().item())
    return "zero" if slopes[0] < 1e-9 * slopes[1] else "not zero"  # a weight divided by itself leaves a rounding error


_ONE = 96 * 192 + 192 + 192 * 96 + 96
_USUALLY = {
    "parameters held": "sixteen experts of two matrices and two biases, and a router of a vector for each",
    "parameters met by one token": "two experts, and the whole router, which every token goes through",
    "FLOPs of the experts": "two experts of 192 hidden features against one layer of 384",
    "FLOPs masked": "sixteen experts of 192 hidden features against one layer of 384",
    "room": "the even share of all choices, times 1.25, rounded up",
    "dropped": "two experts have room, and 600 choices come",
    "balancing loss": "f is 1/2 for two experts, P too, and there are 16",
    "z-loss": "the square of log Σ e⁰ over sixteen experts",
    "a bias of 1 on every expert": "it is added for the choice alone, and to all alike",
    "k = 1, softmax after top-k": "the softmax of one number is 1",
}
_SLIPS: dict[str, dict[str, float | int | str]] = {
    "parameters held": {
        "the router holds parameters too": 16 * _ONE,
        "each expert has two biases": 16 * 2 * 96 * 192 + 16 * 96,
        "all experts are held, not two": 2 * _ONE + 16 * 96,
        "both matrices of an expert count": 16 * (96 * 192 + 192 + 96) + 16 * 96,
    },
    "parameters met by one token": {
        "the token goes through the whole router as well": 2 * _ONE,
        "each token asks for two experts": _ONE + 16 * 96,
        "of the router all sixteen vectors are used: it must compare": 2 * _ONE + 2 * 96,
        "all experts are held, and two of them met": 16 * _ONE + 16 * 96,
    },
    "FLOPs of the experts": {
        "each token runs two experts": 0.5,
        "the dense layer is twice as wide as an expert": 2.0,
        "asked is a share of the dense layer's FLOPs, not of all experts'": 1 / 8,
        "sixteen are held, two run": 8.0,
    },
    "FLOPs masked": {
        "an expert is half as wide as the dense layer": 16.0,
        "masked runs every expert for every token": 1.0,
    },
    "room": {
        "each token has two choices": 24,
        "rounded up": 46,
        "the even share, times the capacity factor": 38,
        "times 1.25": 37.5,
        "a whole number: rounded up": 46.875,
    },
    "dropped": {
        "what finds no place: one minus what does": 2 * 47 / 600,
        "there are 600 choices and two experts with room": 1 - 47 / 600,
        "a share, not in percent": 100 * (1 - 2 * 47 / 600),
        "a share of the choices, not their number": 600 - 2 * 47,
    },
    "balancing loss": {
        "one expert for all would give 16; here there are two": 16.0,
        "times the number of experts": 0.5,
        "even loads give 1, these are not even": 1.0,
        "f sums to 1 over the choices: it is 1/2 for each": 16.0 * 2 * 1 * 0.5,
    },
    "z-loss": {
        "the logarithm of a sum of sixteen ones is not 0": 0.0,
        "squared": math.log(16),
        "the natural logarithm": 16.0,
    },
}
