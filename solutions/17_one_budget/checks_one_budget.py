"""The checks of unit 17. A hull is found by trying every pair of points, a schedule is held against what was allowed so
far, a price against the plans just below and above it, a loss is added up exit by exit in plain Python, what is
predicted is counted on a network, and a policy lives through days."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from dynlib import checks
from dynlib.backbone import Block
from dynlib.checks import Task
from dynlib.cost import CostCurve, Governor, Interval, Point, Request, count, day, foreseen
from dynlib.deciding import setting
from dynlib.width import AdaptiveComputationModule

WITHOUT = ("dynlib", "numpy", "scipy")
"""What an answer does without."""


# ---- task 1: hull

Measured = tuple[str, Sequence[float], Sequence[float]]
"""The check's name, costs and qualities; whole numbers, quarters and the like, which floats hold exactly."""


NANO = 2.0**-30
"""About a billionth, which floats hold exactly."""


def points_at_random(number: int, *, seed: int) -> Measured:
    """Points scattered round a curve that bends, in any order, on a grid so coarse that some agree."""
    draw = torch.Generator().manual_seed(seed)
    costs = torch.randint(1, 60, (number,), generator=draw).double()
    noise = torch.randint(-6, 7, (number,), generator=draw)
    qualities = (8 * costs.sqrt()).round() + noise
    return "points in any order", costs.tolist(), qualities.tolist()


HULLS: tuple[Measured, ...] = (
    ("one point", [2.0], [0.5]),
    ("beaten points", [1.0, 2.0, 3.0, 4.0], [0.5, 0.25, 0.75, 0.625]),
    ("under a line", [1.0, 2.0, 4.0, 5.0], [0.0, 0.25, 2.0, 2.25]),
    ("under a line", [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 1.5, 1.75, 5.0]),
    ("on a line", [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.5, 1.0, 1.0625, 1.25]),
    ("equal points", [1.0, 3.0, 1.0, 3.0, 2.0, 4.0], [0.5, 1.5, 0.5, 1.5, 1.25, 1.5]),
    points_at_random(25, seed=1),
    points_at_random(40, seed=2),
    ("small joules", [n * NANO for n in range(1, 6)], [0.25, 0.5, 0.53125, 0.875, 1.0]),
)
_HULL = {
    "one point": "a single point is its own hull: [0]",
    "beaten points": "a point goes where another costs no more and is at least as good, and where the cost rises the "
    "quality must",
    "under a line": "a point goes where the line between two others passes above it; after one has gone, look at the "
    "one before it again",
    "on a line": "a point on the line between two others goes, too: where the slopes are equal, `<=`",
    "equal points": "of points that cost the same and are worth the same the first one stays",
    "points in any order": "sort by cost first, and give places in the lists that came in",
    "small joules": "a request may cost billionths of a joule: compare the products as they are, with no 10⁻⁹ added",
}


def hull(
    check: Task, answer: Callable[..., Any], *, cases: Iterable[Measured] = HULLS, many: int = 5000, seed: int = 0
) -> None:
    """Task 1: which points stay; then thousands of them, in little time."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of hull uses", likely="Python alone")
    for name, costs, qualities in cases:
        given = [*costs], [*qualities]
        on = f"costs {_few(costs)}, qualities {_few(qualities)}"
        found = answer(*given)
        check.true(
            "input untouched",
            given == ([*costs], [*qualities]),
            tested=on,
            expected="both lists as they were given",
            got="a list that was changed",
            likely="list.sort() sorts in place: sorted(…) makes a new list",
        )
        right = _by_pairs(costs, qualities)
        check.equal(
            name, _places(found), right, tested=on, likely=_HULL[name], mistakes=_mistaken_hulls(costs, qualities)
        )
    draw = torch.Generator().manual_seed(seed + 9)
    x = (torch.randperm(many, generator=draw) + 1).double()
    costs, qualities = x.tolist(), (x * (2 * many + 1 - x)).tolist()  # all of them lie on the hull
    begun = time.thread_time()
    found = answer(costs, qualities)
    took = time.thread_time() - begun
    on = f"{many} points on a parabola, in any order"
    check.equal("many points", len(found), many, tested=f"how many stay: {on}", likely="all of them are on the hull")
    check.true(
        "little time",
        took < 1.0,
        tested=on,
        expected="an end within a second",
        got=f"{took:.1f} s",
        likely="sort once, then go through the points once: what was dropped does not come back",
    )


def _by_pairs(costs: Sequence[float], qualities: Sequence[float], *, lines: bool = True, on: bool = True) -> Any:
    """Every point against every other, and against every line between two others; exactly."""
    at = [(Fraction(c), Fraction(q)) for c, q in zip(costs, qualities, strict=True)]

    def beaten(i: int) -> bool:
        c, q = at[i]
        return any(
            other[0] <= c and other[1] >= q and (other != at[i] or j < i) for j, other in enumerate(at) if j != i
        )

    stay = [i for i in range(len(at)) if not beaten(i)]

    def below(i: int) -> bool:
        c, q = at[i]
        for j in stay:
            for k in stay:
                (low, less), (high, more) = at[j], at[k]
                if low < c < high:
                    line = less + (more - less) * (c - low) / (high - low)
                    if line > q or (on and line == q):
                        return True
        return False

    if lines:
        stay = [i for i in stay if not below(i)]
    return tuple(sorted(stay, key=lambda i: at[i][0]))


def _mistaken_hulls(costs: Sequence[float], qualities: Sequence[float]) -> dict[str, tuple[int, ...]]:
    right = _by_pairs(costs, qualities)
    everyone = sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i]))
    lower = _by_pairs([-c for c in costs], [-q for q in qualities])
    alike = {i: max(j for j in everyone if (costs[j], qualities[j]) == (costs[i], qualities[i])) for i in everyone}
    some = [i for i in range(len(costs)) if qualities[i] > 0]
    above = _by_pairs([costs[i] for i in some], [qualities[i] for i in some])
    wrong = {
        "a point on the line between two others goes, too: where the slopes are equal, `<=`": _by_pairs(
            costs, qualities, on=False
        ),
        "that is the envelope: no single point beats these, but two in turn do": _by_pairs(
            costs, qualities, lines=False
        ),
        "the cheapest point, the best of its cost, always stays, whatever its quality: do not begin from a best of 0": (
            tuple(some[i] for i in above)
        ),
        "the cheapest comes first": right[::-1],
        "these are all points, by their cost": tuple(everyone),
        "in the order of their cost, not of their places": tuple(sorted(right)),
        "that is the hull from below: the best for the money is asked for": lower[::-1],
        "places in the lists as they came, not after sorting": tuple(everyone.index(i) for i in right),
        "of equal points the first one stays": tuple(alike[i] for i in right),
    }
    return {says: places for says, places in wrong.items() if places != right}


def _places(found: Any) -> Any:
    return tuple(found.tolist()) if isinstance(found, Tensor) else found


def _few(numbers: Sequence[float]) -> str:
    shown = ", ".join(f"{number:g}" for number in numbers[:8])
    return f"[{shown}{', …' if len(numbers) > 8 else ''}]"


# ---- task 2: schedule

Scheduling = tuple[str, Sequence[float], float, int]
"""The check's name, what each knob costs, the limit of a request on average, how many requests."""

SCHEDULES: tuple[Scheduling, ...] = (
    ("two knobs", [1.0, 2.0], 1.25, 9),
    ("two of several", [0.5, 1.0, 2.0, 4.0], 2.75, 17),
    ("two of several", [0.5, 1.0, 2.0, 4.0], 0.625, 12),
    ("one knob", [1.0, 2.0, 4.0], 2.0, 5),
    ("one knob", [1.0, 2.0, 4.0], 1.0, 4),
    ("more than enough", [1.0, 2.0, 4.0], 4.0, 3),
    ("more than enough", [1.0, 2.0], 50.0, 3),
    ("rounding", [0.1, 0.2, 0.4], 0.13, 20),
    ("rounding", [1.0, 2.0], 4 / 3, 9),
    ("rounding", [1.0, 2.0], 1.49999, 4),
    ("small joules", [1e-9, 2e-9, 4e-9], 1.25e-9, 9),
    ("no requests", [1.0, 2.0], 1.5, 0),
)
ROUNDING = Fraction(1, 10**9)
"""In requests."""
_SCHEDULE = {
    "two knobs": "after t requests no more than t times the limit is spent, and what is saved waits until it pays for "
    "the dear knob",
    "two of several": "the two knobs next to the limit: the dearest that costs no more, and the one after it",
    "one knob": "a limit of a knob's own cost buys that knob, always; also of the cheapest's",
    "more than enough": "a limit of the dearest's cost buys it for all, and so does more",
    "rounding": "3 · 0.1 is not 0.3 in floats, and three thirds may be less than 1: allow 10⁻⁹ requests, neither less "
    "nor more",
    "small joules": "the rounding is of 10⁻⁹ requests, not joules: here a whole request costs no more",
    "no requests": "an empty list",
}


def schedule(check: Task, answer: Callable[..., Any], *, cases: Iterable[Scheduling] = SCHEDULES) -> None:
    """Task 2: who gets which knob, held against what was allowed so far; then a limit that buys nothing."""
    check.by_hand(
        "by hand", answer, without=(*WITHOUT, "random", "torch.rand"), tested="what the code of schedule uses"
    )
    for name, costs, limit, requests in cases:
        on = f"knobs that cost {_few(costs)}, {limit:g} a request, {requests} requests"
        given = [*costs]
        try:
            found = _places(answer(given, limit, requests))
        except (IndexError, ValueError) as error:
            told = f"{type(error).__name__}: {error}"
            check.true(name, False, tested=on, expected="a list of places", got=told, likely=_SCHEDULE[name])
        check.equal("input untouched", tuple(given), tuple(costs), tested=on)
        check.equal("how many", len(found), requests, tested=on, likely="one place in costs for each request")
        check.true(
            "places",
            all(isinstance(place, int) and 0 <= place < len(costs) for place in found),
            tested=on,
            expected=f"places in costs, ints 0 … {len(costs) - 1}",
            got=_few_places(found),
        )
        if limit >= costs[-1] or limit in costs:
            knob = max(place for place, cost in enumerate(costs) if cost <= limit)
            check.equal(name, tuple(found), (knob,) * requests, tested=on, likely=_SCHEDULE[name])
            continue
        exact, per = [Fraction(cost) for cost in costs], Fraction(limit)
        low = max(place for place, cost in enumerate(exact) if cost <= per)
        step = exact[low + 1] - exact[low]
        spent = Fraction(0)
        for t, place in enumerate(found, 1):
            spent += exact[place]
            check.true(
                "never ahead",
                spent <= t * per + step * ROUNDING,
                tested=f"the first {t} of {on}",
                expected=f"no more than {float(t * per):g} spent",
                got=f"{float(spent):g}: knobs {_few_places(found[:t])}",
                likely=_SCHEDULE[name]
                if name in ("rounding", "small joules")
                else "the dear knob waits until what was saved pays for it",
            )
            allowed, often = math.floor(t * (per - exact[low]) / step + ROUNDING), sum(p == low + 1 for p in found[:t])
            check.true(
                name,
                place in (low, low + 1) and often == allowed,
                tested=f"the first {t} of {on}",
                expected=f"knobs {low} and {low + 1} alone, {low + 1} so often: {allowed}",
                got=f"knobs {_few_places(found[:t])}, {low + 1} so often: {often}",
                likely=_SCHEDULE[name]
                if place not in (low, low + 1) or name == "rounding"
                else f"the right two knobs, but {float(t * per):g} may be spent by now, and that pays for more of the "
                "dear one: what is left over counts for the next",
            )
    check.raises(
        "no knob so cheap",
        ValueError,
        lambda: answer([1.0, 2.0], 0.5, 3),
        tested="knobs that cost 1 and 2, 0.5 a request",
        likely="say so: raise ValueError(…) where the limit is below the cheapest",
    )


def _few_places(places: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, places[:12]))}{', …' if len(places) > 12 else ''}]"


# ---- task 3: price

Pricing = tuple[str, Mapping[str, Sequence[tuple[float, float]]], Mapping[str, int], float]
"""The check's name, of each kind the points (cost, quality), of each kind the requests, the budget for all."""

EASY = ((1.0, 0.8), (2.0, 0.9), (4.0, 0.95), (6.0, 0.956))
HARD = ((1.0, 0.3), (2.0, 0.5), (4.0, 0.62), (6.0, 0.66))
PRICES: tuple[Pricing, ...] = (
    ("one kind", {"any": EASY}, {"any": 10}, 30.0),
    ("one kind", {"any": EASY}, {"any": 10}, 40.0),
    ("enough for all", {"any": HARD}, {"any": 3}, 18.0),
    ("two kinds", {"easy": EASY, "hard": HARD}, {"easy": 10, "hard": 10}, 50.0),
    ("two kinds", {"easy": EASY, "hard": HARD}, {"easy": 30, "hard": 5}, 60.0),
    ("two kinds", {"easy": EASY, "hard": HARD}, {"easy": 2, "hard": 30}, 130.0),
    ("points in any order", {"odd": ((4.0, 0.62), (3.0, 0.4), (1.0, 0.3), (5.0, 0.55), (2.0, 0.5))}, {"odd": 4}, 13.0),
    ("points in any order", {"odd": ((3.0, 0.1), (1.0, 0.3), (2.0, 0.31), (4.0, 0.9))}, {"odd": 4}, 12.0),
    ("between equals", {"any": ((1.0, 0.25), (1.3, 0.3), (3.5, 0.34))}, {"any": 10}, 13.0),
    ("nobody came", {"easy": EASY, "hard": HARD}, {"easy": 0, "hard": 7}, 28.0),
    ("small joules", {"any": tuple((c * 1e-9, q) for c, q in HARD)}, {"any": 100}, 3e-7),
)
_PRICE = {
    "one kind": "the price at which the plan just fits: the slope of the step that the budget does not pay for all",
    "enough for all": "where the best knobs of all fit, nothing has a price: 0",
    "two kinds": "one price for both kinds, and the requests of each count",
    "points in any order": "each kind takes the point of the largest quality − price · cost, whatever the order; "
    "points under the hull are never taken",
    "between equals": "at the slope itself two points are worth the same, and rounding decides between them: try each "
    "slope a billionth above it",
    "nobody came": "a kind with no requests costs nothing",
    "small joules": "prices are qualities for joules: where a request costs a billionth, a price is a billion. Find "
    "the interval's end: double it until the plan fits",
}


def price(check: Task, answer: Callable[..., Any], *, cases: Iterable[Pricing] = PRICES) -> None:
    """Task 3: the least price at which the plan fits, held against the plans just below and above it."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of price uses", likely="Python alone")
    for name, curves, counts, budget in cases:
        given = {kind: [*points] for kind, points in curves.items()}, dict(counts)
        on = f"{_told(curves, counts)}, a budget of {budget:g}"
        found = answer(*given, budget)
        check.true(
            "input untouched",
            given == ({kind: [*points] for kind, points in curves.items()}, dict(counts)),
            tested=on,
            expected="curves and counts as they were given",
            got="a dict or a list that was changed",
        )
        right = _by_halving(curves, counts, budget)
        check.close(
            name,
            found,
            right,
            tested=on,
            tolerance=1e-6 * min(1.0, right) if right else 1e-6,
            likely="nearly: a millionth of the price itself is asked for, so halve until the interval is so short"
            if isinstance(found, float) and right and math.isclose(found, right, rel_tol=1e-3)
            else _PRICE[name],
            mistakes=_mistaken_prices(curves, counts, budget),
        )
    check.raises(
        "not enough for anything",
        ValueError,
        lambda: answer({"any": [*EASY]}, {"any": 10}, 9.0),
        tested="ten requests, the cheapest knob costs 1, a budget of 9",
        likely="no price makes it fit: raise ValueError(…)",
    )


def _told(curves: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    return "; ".join(f"{counts[kind]} × {kind} {_pairs(points)}" for kind, points in curves.items())


def _pairs(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"({cost:g}, {worth:g})" for cost, worth in points)


def _spent(curves: Mapping[str, Any], counts: Mapping[str, int], at: float) -> float:
    """What the plan costs at a price; of equals the cheaper."""
    total = 0.0
    for kind, points in curves.items():
        _, less = max((worth - at * cost, -cost) for cost, worth in points)
        total -= counts[kind] * less
    return total


def _by_halving(curves: Mapping[str, Any], counts: Mapping[str, int], budget: float) -> float:
    if _spent(curves, counts, 0.0) <= budget:
        return 0.0
    low, high = 0.0, 1.0
    while _spent(curves, counts, high) > budget:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _spent(curves, counts, middle) > budget else (low, middle)
    return high


def _mistaken_prices(curves: Mapping[str, Any], counts: Mapping[str, int], budget: float) -> dict[str, float]:
    right = _by_halving(curves, counts, budget)
    everyone = sum(counts.values())

    def other(counts: Mapping[str, int], budget: float) -> float | None:
        fits = sum(counts[kind] * min(cost for cost, _ in points) for kind, points in curves.items()) <= budget
        return _by_halving(curves, counts, budget) if fits else None

    steps = [
        (other[1] - one[1]) / (other[0] - one[0])
        for points in curves.values()
        for one in points
        for other in points
        if other[0] > one[0]
    ]
    ways = {
        "the requests of each kind count; a kind takes its largest quality − λ · cost, no ratio": other(
            dict.fromkeys(counts, 1), budget
        ),
        "the budget is for all requests, not for one": other(counts, budget * everyone),
        "each kind counts alike here: its requests are to be counted": other(
            dict.fromkeys(counts, 1), budget / max(1, everyone) * len(counts)
        ),
        "just below this price the plan costs too much, and at it, too: of equals the cheaper is taken": None,
        "that is the next lower price, at which the plan costs too much": max(
            (step for step in steps if 0 <= step < right * (1 - 1e-9)), default=None
        ),
        "a smaller price would do": min((step for step in steps if step > right * (1 + 1e-9)), default=None),
        "that is cost for quality; the price is quality for cost": 1 / right if right else None,
    }
    return {says: at for says, at in ways.items() if at is not None and not math.isclose(at, right, rel_tol=1e-5)}


# ---- task 4: at_most_loss

Losing = tuple[str, int, Sequence[float], float, float, float, float, torch.dtype]
"""The check's name, requests, costs of the exits, target, λ, ρ, how far logits spread, the dtype."""

LOSSES: tuple[Losing, ...] = (
    ("expected cost", 1, (0.25, 1.0), 0.5, 1.0, 4.0, 1.0, torch.float64),
    ("expected cost", 3, (0.2, 0.4, 0.7, 1.0), 0.3, 2.0, 10.0, 1.0, torch.float64),
    ("over the target", 5, (0.5, 0.6, 1.0), 0.2, 0.0, 5.0, 1.0, torch.float64),
    ("under the target", 4, (0.1, 0.2, 0.3), 0.8, 0.0, 5.0, 1.0, torch.float64),
    ("under the target", 4, (0.1, 0.2, 0.3), 0.8, 9.0, 5.0, 1.0, torch.float64),
    ("under the target", 4, (0.1, 0.2, 0.3), 0.8, 1.5, 5.0, 1.0, torch.float64),
    ("one exit", 3, (0.7,), 0.4, 0.5, 3.0, 1.0, torch.float64),
    ("large logits", 4, (0.2, 0.5, 1.0), 0.4, 1.0, 4.0, 200.0, torch.float32),
    ("large logits", 4, (0.2, 0.5, 1.0), 0.4, 1.0, 4.0, 200.0, torch.float64),
)
_LOSS = {
    "expected cost": "a request leaves at exit k if it did not before and says so there; who never says so goes to the "
    "end. C is the mean over the requests",
    "over the target": "where C is above the target, max(0, λ + ρ (C − b)) is what stands in the brackets",
    "under the target": "where λ + ρ (C − b) is below 0 the loss is −λ² / 2ρ, without a gradient",
    "one exit": "with one exit there are no logits: C is its cost",
    "large logits": "a sigmoid of 200 is 1: log(1 − p) and division by 1 − p are infinite there, products are not, and "
    "nothing need be cut off",
}
RATE = 0.25


def at_most_loss(
    check: Task, answer: Callable[..., Any], *, cases: Iterable[Losing] = LOSSES, seed: int = 0, rate: float = RATE
) -> None:
    """Task 4: the loss, its gradient, the miss, and λ after the step."""
    check.by_hand(
        "by hand", answer, without=WITHOUT, tested="what the code of at_most_loss uses", likely="PyTorch alone"
    )
    for number, (name, requests, exits, target, multiplier, weight, size, dtype) in enumerate(cases):
        logits = size * checks.normal(requests, len(exits) - 1, seed=100 * seed + number, dtype=dtype)
        costs = torch.tensor(exits, dtype=dtype)
        on = (
            f"{requests} requests, exits that cost {_few(exits)}, target {target:g}, λ = {multiplier:g}, ρ = {weight:g}"
            f", {dtype}"
        )
        mine = logits.clone().requires_grad_()
        with check.untouched(tested=on, logits=logits, costs=costs):
            found = answer(logits, costs, target, multiplier, weight, rate)
        check.equal("three results", len(found), 3, tested=on, likely="return loss, miss, multiplier")
        loss, miss, moved = answer(mine, costs, target, multiplier, weight, rate)
        ours = logits.double().requires_grad_()
        spent = _expected(ours, exits)
        right, new = _charged(spent, target, multiplier, weight, rate)
        near = 1e-9 if dtype == torch.float64 else 1e-5
        for what, got in (("miss", miss), ("λ", moved)):
            check.true(
                "plain numbers",
                isinstance(got, float) and not isinstance(got, bool),
                tested=f"{what}: {on}",
                expected="a float, which no gradient passes through",
                got=type(got).__name__,
                likely="tensor.item()",
            )
        check.close(
            name,
            miss,
            spent.item() - target,
            tested=f"the miss: {on}",
            tolerance=near,
            likely="C − b: above 0 where too much is spent. " + _LOSS[name],
            mistakes=_mistaken_miss(logits.double(), exits, target),
        )
        check.close(
            name,
            loss.detach() if isinstance(loss, Tensor) else loss,
            right.detach().to(dtype),
            tested=f"the loss: {on}",
            tolerance=10 * near,
            likely=_LOSS[name],
            mistakes={
                says: way.detach().to(dtype)
                for says, way in _mistaken_losses(_each(ours, exits), target, multiplier, weight, rate).items()
            },
        )
        check.close(
            "λ afterwards",
            moved,
            new,
            tested=f"{on}, η = {rate:g}",
            tolerance=10 * near,
            likely="max(0, λ + η ρ (C − b)): up where too much is spent, down where too little, and never below 0",
            mistakes=_mistaken_multipliers(miss, multiplier, weight, rate),
        )
        check.close(
            "gradients",
            checks.gradient(loss, mine),
            checks.gradient(right, ours).to(dtype),
            tested=f"of the logits: {on}",
            tolerance=100 * near,
            likely="the loss stays a tensor, made of the probabilities; λ and the miss are numbers. nan: the logarithm "
            "of 1 − σ(ℓ) is −∞ where ℓ is large, so multiply the probabilities",
        )


def _each(logits: Tensor, exits: Sequence[float]) -> Tensor:
    """What each request costs, exit by exit."""
    each = []
    for row in logits:
        cost = 0 * row.sum()
        goes_on: Any = 1.0
        for cost_here, logit in zip(exits, row, strict=False):
            cost = cost + goes_on * torch.sigmoid(logit) * cost_here
            goes_on = goes_on * torch.sigmoid(-logit)
        each.append(cost + goes_on * exits[-1])
    return torch.stack(each)


def _expected(logits: Tensor, exits: Sequence[float]) -> Tensor:
    return _each(logits, exits).mean()


def _charged(spent: Tensor, target: float, multiplier: float, weight: float, rate: float) -> tuple[Tensor, float]:
    gap = spent - target
    pull = multiplier + weight * gap
    loss = (pull * pull - multiplier**2) / (2 * weight) if pull.item() > 0 else 0 * gap - multiplier**2 / (2 * weight)
    return loss, max(0.0, multiplier + rate * weight * gap.item())


def _mistaken_miss(logits: Tensor, exits: Sequence[float], target: float) -> dict[str, float]:
    if len(exits) == 1:
        return {}
    p = logits.sigmoid()
    spent = _expected(logits, exits).item()
    told = torch.tensor(exits, dtype=torch.float64)
    before = torch.cat([torch.ones_like(p[:, :1]), 1 - p[:, :-1]], 1)
    wrong = {
        "the miss may be below 0: nothing is cut off": max(0.0, spent - target),
        "b − C: the sign is turned": target - spent,
        "that is C, and the miss is C − b": spent,
        "who never says so goes to the last exit, and costs what that one costs": (
            (before.cumprod(1) * p) @ told[:-1]
        ).mean()
        - target,
        "a request that left before does not leave again: multiply by all 1 − p before": (
            (p @ told[:-1]) + (1 - p[:, -1]) * told[-1]
        ).mean()
        - target,
        "a sigmoid of each logit: a request may leave at each exit or go on, it does not choose among them": (
            torch.cat([logits, torch.zeros_like(logits[:, :1])], 1).softmax(1) @ told
        ).mean()
        - target,
        "a large logit means leave, not go on": _expected(-logits, exits).item() - target,
        "the mean over the requests, no sum": len(logits) * spent - target,
        "only the exit before is asked; all before it are to be": (
            (torch.cat([before * p, (1 - p[:, -1:])], 1)) @ told
        ).mean()
        - target,
    }
    return {says: float(way) for says, way in wrong.items() if abs(float(way) - spent + target) > 1e-6}


def _mistaken_losses(each: Tensor, target: float, multiplier: float, weight: float, rate: float) -> dict[str, Tensor]:
    spent = each.mean()
    gap = spent - target
    pull = multiplier + weight * gap
    right, new = _charged(spent, target, multiplier, weight, rate)
    wrong = {
        "spending less than the target is no miss here: that is the loss that pulls from both sides": multiplier * gap
        + weight / 2 * gap**2,
        "the bracket is of the mean C, not of each request": _charged_each(each - target, multiplier, weight),
        "− λ² is missing": pull.clamp_min(0) ** 2 / (2 * weight),
        "all of it over 2ρ": (pull.clamp_min(0) ** 2 - multiplier**2) / weight,
        "over 2ρ, not times": (pull.clamp_min(0) ** 2 - multiplier**2) * weight / 2,
        "the loss takes λ as it came, not as it is afterwards": ((new + weight * gap).clamp_min(0) ** 2 - new**2)
        / (2 * weight),
        "max(0, …) is round λ + ρ (C − b), not round C − b": multiplier * gap.clamp_min(0)
        + weight / 2 * gap.clamp_min(0) ** 2,
    }
    return {says: way for says, way in wrong.items() if abs(way.item() - right.item()) > 1e-5}


def _charged_each(gaps: Tensor, multiplier: float, weight: float) -> Tensor:
    return ((multiplier + weight * gaps).clamp_min(0) ** 2 - multiplier**2).mean() / (2 * weight)


def _mistaken_multipliers(miss: float, multiplier: float, weight: float, rate: float) -> dict[str, float]:
    step = rate * weight * miss
    right = max(0.0, multiplier + step)
    wrong = {
        "η · ρ times the miss, not η alone": max(0.0, multiplier + rate * miss),
        "λ is never below 0: max(0, …) round all of it": multiplier + step,
        "up where too much is spent: + η ρ (C − b)": max(0.0, multiplier - step),
        "max(0, …) is round all of it: λ falls where too little is spent": multiplier + max(0.0, step),
    }
    return {says: way for says, way in wrong.items() if abs(way - right) > 1e-6}


# ---- task 5: predict, then measure

WORDS = {"the product, where both spare the easy half": ("too low", "right", "too high")}


def predict(check: Task, answer: Callable[[], dict[str, Any]], *, seed: int = 3) -> None:
    """Task 5: predictions about two knobs, counted on a network of this seed."""
    check.prediction(
        answer(),
        _shares(seed),
        tested="4 blocks, dim 64, 16 tokens, 256 neurons as four learners",
        words=WORDS,
        slips=_SLIPS,
        likely=_USUALLY,
    )


@cache
def _shares(seed: int) -> dict[str, float | str]:
    """Counted, request by request."""
    torch.manual_seed(seed)
    blocks = torch.nn.ModuleList(Block(64, heads=4) for _ in range(4)).eval()
    for block in blocks:
        block.feed_forward = AdaptiveComputationModule(64, 256, learners=4, least=1, gate=8).eval()
    x = torch.randn(1, 16, 64)

    def forward(layers: int, attends: bool) -> Tensor:
        y = x
        for block in list(blocks)[:layers]:
            if attends:
                y = y + block.attention(block.norm1(y))
            y = y + block.feed_forward(block.norm2(y))
        return y

    def flops(layers: int = 4, learners: int = 4, *, attends: bool = True) -> int:
        with torch.no_grad(), setting(blocks, AdaptiveComputationModule, fixed=learners):
            return count(lambda: forward(layers, attends)).flops

    whole = flops()
    easy_exits, easy_learners = flops(layers=1), flops(learners=1)
    same = (flops(1, 1) + whole) / (2 * whole)
    product = (easy_exits + whole) * (easy_learners + whole) / (2 * whole) ** 2
    return {
        "the feed-forward layers' share": flops(attends=False) / whole,
        "two of four layers": flops(layers=2) / whole,
        "two of four learners": flops(learners=2) / whole,
        "two layers, two learners": flops(2, 2) / whole,
        "two learners, no attention": flops(learners=2, attends=False) / whole,
        "both spare the easy half": same,
        "each spares another half": (easy_exits + easy_learners) / (2 * whole),
        "the product, where both spare the easy half": "too low" if product < same else "too high",
    }


_USUALLY = {
    "the feed-forward layers' share": "a token takes 8·64² FLOPs in attention's four products, 4·16·64 in scores and "
    "mixing, and 4·64·256 in the feed-forward layer",
    "two of four layers": "all layers cost the same",
    "two of four learners": "half of the feed-forward layer; attention stays",
    "two layers, two learners": "in each layer that runs, half of the feed-forward layer is left",
    "two learners, no attention": "what is left is half of the feed-forward layers",
    "both spare the easy half": "an easy request runs one layer with one learner, a hard one everything; the mean",
    "each spares another half": "one half runs one layer with all learners, the other all layers with one learner",
    "the product, where both spare the easy half": "the product of the two means, against the mean of the products",
}
_F = 4 * 64 * 256 / (8 * 64**2 + 4 * 16 * 64 + 4 * 64 * 256)
_SLIPS: dict[str, dict[str, float | int | str]] = {
    "the feed-forward layers' share": {
        "scores and mixing take FLOPs, too: 4·16·64 a token": 2 / 3,
        "that is attention's share": 1 - _F,
        "a share, not in percent": 100 * _F,
        "attention has four products, and the feed-forward layer two of four times the size": 4 * 64**2 / (8 * 64**2),
    },
    "two of four layers": {"a share, not in percent": 50, "that many layers, not a share": 2},
    "two of four learners": {
        "attention stays": 0.5,
        "that is what is saved": _F / 2,
        "that is what the feed-forward layers cost": _F,
    },
    "two layers, two learners": {
        "attention stays, in the layers that run": 0.25,
        "shares multiply here; savings do not add up": max(0.0, 0.5 + (1 - _F / 2) - 1),
        "that is what is saved": 1 - (1 - _F / 2) / 2,
    },
    "two learners, no attention": {
        "these two touch different parts: what they save adds up, and shares do not multiply": _F * (1 - _F / 2),
        "all learners": _F,
        "attention is left out": 1 - _F / 2,
    },
    "both spare the easy half": {
        "that is the product of the two means: the easy requests pay the smaller share twice over": 0.625
        * (1 - 0.375 * _F),
        "one learner of four is a quarter of the feed-forward layer, not of the block; attention stays": 0.53125,
        "that is the easy ones alone": (1 - 0.75 * _F) / 4,
        "that is the exits alone": 0.625,
    },
    "each spares another half": {
        "one learner of four is a quarter of the feed-forward layer, not of the block; attention stays": 0.25,
        "that is the product of the two means": 0.625 * (1 - 0.375 * _F),
        "that is the half that both spare": ((1 - 0.75 * _F) / 4 + 1) / 2,
    },
    "the product, where both spare the easy half": {
        "the hard requests pay in full in both; the mean of products is above the product of means": "too high",
        "it would be right if who is spared by one said nothing about the other": "right",
    },
}


# ---- task 6: govern

Curves = dict[str, list[tuple[float, float, float]]]
"""Of each kind its knobs: what one costs on average, what it is worth, how many times its cost it may take."""

Days = tuple[Curves, float, float, Sequence[int], bool]
"""The curves, joules for each request expected, requests expected, the seeds of the days, whether all take the most."""

KINDS: Curves = {
    "easy": [(1.0, 0.8, 1.5), (2.0, 0.9, 1.5), (4.0, 0.95, 1.4), (6.0, 0.956, 1.2)],
    "hard": [(1.0, 0.3, 1.5), (2.0, 0.5, 1.5), (4.0, 0.62, 1.4), (6.0, 0.66, 1.2)],
}
OTHERS: Curves = {
    "easy": [(1.0, 0.8, 1.5), (2.0, 0.9, 1.5), (4.0, 0.95, 1.4)],
    "hard": [(1.0, 0.3, 1.5), (1.5, 0.41, 1.5), (2.0, 0.5, 1.5), (4.0, 0.62, 1.4), (6.0, 0.66, 1.2)],
}
SEEN: tuple[Days, ...] = (
    (KINDS, 1.9, 60, range(12), False),
    (OTHERS, 2.6, 60, range(20, 32), False),
    (KINDS, 2.2, 40, range(40, 44), True),
)
ABOVE = 0.005
"""How far above a simple policy is better than it."""
STEPS = {"near the reference": -0.25, "at the reference": -0.1, "above the reference": 0.08}
"""How far above the reference a policy must be, in what separates that from one who knows the day."""

Policy = Callable[..., int | None]


def govern(check: Task, answer: Policy, *, days: Iterable[Days] = SEEN, step: str = "") -> None:
    """Task 6: no day is overspent; the mean quality against that of simple policies, or one step up to the reference
    and beyond it, over all the days."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of govern uses", likely="Python alone")
    found: list[tuple[float, float, float]] = []  # of each kind of days: yours, the reference, who knows the day
    for place, (curves, each, expected, seeds, most) in enumerate(days, 1):
        budget = each * expected
        streams = [_stream(curves, expected, seed, most) for seed in seeds]
        on = f"{len(streams)} days of about {expected:g} requests, {each:g} joules for each expected one"
        mine = fmean(_lived(answer, stream, curves, budget, expected, check, on) for stream in streams)
        others = {
            "best fixed knob": max(_mean(_at(k), streams, curves, budget, expected) for k in range(_longest(curves))),
            "even shares": _mean(_even, streams, curves, budget, expected),
            "reference": fmean(
                _lived(_Reference(curves, budget, expected), s, curves, budget, expected) for s in streams
            ),
            "who knows the day": fmean(_foreseen(curves, stream, budget) for stream in streams),
        }
        print(f"days {place}: yours {mine:.3f} · " + " · ".join(f"{name} {q:.3f}" for name, q in others.items()))
        if most:
            continue
        found.append((mine, others["reference"], others["who knows the day"]))
        for name, other, why in (
            ("better than a fixed knob", "best fixed knob", "one knob for all leaves joules over, or runs out of them"),
            ("better than even shares", "even shares", "an easy request and a hard one are not worth the same joules"),
        ):
            check.true(
                name,
                mine >= others[other] + ABOVE,
                tested=f"the mean quality: {on}",
                expected=f"at least {others[other] + ABOVE:.3f}: {others[other]:.3f} and {ABOVE:g} more",
                got=f"{mine:.3f}",
                likely=f"{why}: look for one price at which what is left lasts for what is to come, by the forecast in "
                "the morning and more and more by the rate of the day",
            )
        _goes_down(check, answer, curves, expected)
    if step:
        mine, reference, best = map(fmean, zip(*found, strict=True))
        way = (mine - reference) / (best - reference)
        print(f"all days: {way:+.0%} of the way from the reference ({reference:.4f}) to who knows the day ({best:.4f})")
        check.true(
            step,
            way >= STEPS[step],
            tested=f"the mean quality over {len(found)} kinds of days",
            expected=f"{STEPS[step]:+.0%} or more of the way from the reference, {reference:.4f}, to one who knows the "
            f"day, {best:.4f}",
            got=f"{way:+.0%}: {mine:.4f}, {mine - reference:+.4f} from the reference",
            likely="how many are to come? Between the forecast and what has come so far. What if fewer come, or more?",
        )


def _goes_down(check: Task, answer: Policy, curves: Curves, expected: float) -> None:
    """With the last request, what is left pays for a knob, and for no dearer one."""
    for kind, points in curves.items():
        for cost, _, most in points:
            left = 1.001 * cost * most
            place = answer(kind, 1.0, left, dict.fromkeys(curves, 20), {k: [*v] for k, v in curves.items()}, expected)
            check.true(
                "a cheaper knob",
                place is not None,
                tested=f"the end of the day, a request of the kind {kind!r}, {left:.4g} J left, knobs {points}",
                expected="a knob: one is paid for",
                got="None",
                likely="where the chosen knob is not paid for, go down to a cheaper one; refuse where there is none",
            )


def _longest(curves: Curves) -> int:
    return max(map(len, curves.values()))


def _stream(curves: Curves, expected: float, seed: int, most: bool) -> list[tuple[float, str, float]]:
    """Requests of a day: when, of which kind, and where between least and most its cost lies, 0 … 1."""
    draw = torch.Generator().manual_seed(seed)
    requests = day(expected, kinds=dict.fromkeys(curves, 1.0), generator=draw)
    where = torch.rand(len(requests), generator=draw).tolist()
    return [(now, str(kind), 1.0 if most else at) for (now, kind), at in zip(requests, where, strict=True)]


def _lived(
    policy: Policy,
    stream: Sequence[tuple[float, str, float]],
    curves: Curves,
    budget: float,
    expected: float,
    check: Task | None = None,
    on: str = "",
) -> float:
    """A day: the mean quality. With a voice, what the policy says is judged, and that nothing is overspent."""
    left, worth, seen = budget, 0.0, dict.fromkeys(curves, 0)
    for now, kind, at in stream:
        seen[kind] += 1
        told = {one: [*points] for one, points in curves.items()}
        place = policy(kind, now, left, dict(seen), told, expected)
        if place is None:
            continue
        if check is not None:
            check.true(
                "a knob or None",
                isinstance(place, int) and not isinstance(place, bool) and 0 <= place < len(curves[kind]),
                tested=on,
                expected=f"a place in curves[kind], an int 0 … {len(curves[kind]) - 1}, or None",
                got=place,
            )
        cost, quality, most = curves[kind][place]
        if check is not None:
            check.true(
                "never overspends",
                cost * most <= left + 1e-9,
                tested=f"a request at {now:.3f} with {left:.3f} J left: {on}",
                expected="a knob whose dearest request is paid for, or None",
                got=f"knob {place}, which may take {cost * most:.3f} J",
                likely="cost · most, not cost: go down to a cheaper knob, and refuse where none is cheap enough",
            )
        left -= cost * (1 + (most - 1) * (2 * at - 1))
        worth += quality
    return worth / max(1, len(stream))


def _mean(policy: Policy, streams: Sequence[Any], curves: Curves, budget: float, expected: float) -> float:
    return fmean(_lived(policy, stream, curves, budget, expected) for stream in streams)


def _at(knob: int) -> Policy:
    def policy(kind: str, now: float, left: float, seen: Any, curves: Curves, expected: float) -> int | None:
        place = min(knob, len(curves[kind]) - 1)
        cost, _, most = curves[kind][place]
        return place if cost * most <= left else None

    return policy


def _even(kind: str, now: float, left: float, seen: Any, curves: Curves, expected: float) -> int | None:
    share = left / (1 + (1 - now) * (expected + sum(seen.values())) / (1 + now))
    knobs = [k for k, (cost, _, most) in enumerate(curves[kind]) if cost * most <= left and (cost <= share or k == 0)]
    return max(knobs, default=None)


class _Reference:
    """dynlib's Governor, as the task's policy."""

    def __init__(self, curves: Curves, budget: float, expected: float) -> None:
        self.governor = Governor(_as_curves(curves), budget, expected=expected)
        self.owes = False

    def __call__(self, kind: str, now: float, left: float, *_: Any) -> int | None:
        if self.owes:
            self.governor.spend(self.governor.left - left)
        point = self.governor.choose(now, kind)
        self.owes = point is not None
        return None if point is None else point.knob


def _as_curves(curves: Curves) -> dict[str, CostCurve]:
    return {
        kind: CostCurve([Point(k, c, c, c, Interval(q, q, q), most) for k, (c, q, most) in enumerate(points)])
        for kind, points in curves.items()
    }


def _foreseen(curves: Curves, stream: Sequence[tuple[float, str, float]], budget: float) -> float:
    return foreseen(_as_curves(curves), [Request(now, kind) for now, kind, _ in stream], budget).quality
