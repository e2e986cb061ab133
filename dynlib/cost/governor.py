"""Spend a budget over requests to come: how many, how hard and when is not known, and it must never be overspent.

A phone has so many joules until the evening. Requests come; each has a *kind* that can be told beforehand (how hard it
is, who asks; or all are of one kind), and each kind has a :class:`dynlib.cost.CostCurve`. If all was known, the best
plan would maximise Σ quality with Σ cost ≤ budget. Its solution has a *price* λ, quality for cost, the same for all:

    knob of a request = argmax over the knobs of its kind of  quality − λ · cost,

and λ is the least at which the budget lasts. The :class:`Governor` finds the price anew at each request, from what is
left and from what it expects to come:

- how many: a forecast before the day, N₀ with a relative deviation s, and what has come so far. Requests come in
  clumps of m, one of which says as much as one that comes alone. With a gamma law for the rate, shape a₀ = s⁻² and
  a₀ / N₀ for its unit, n requests seen while a part F of the day passed give

      rate = (a₀ + n / m) / (a₀ / N₀ + F / m),
      still to come: μ = (1 − F) · rate,    σ² = m μ + (1 − F)² · rate / (a₀ / N₀ + F / m),

  and it plans for μ + c σ: to be caught without energy costs more than to have some left;
- of which kinds: as those that have come;
- that no request costs more than ``most`` times what its point costs on average: where what is left would not pay for
  that, a cheaper knob is taken, and where none is cheap enough the request is refused.

The knobs of a curve are few, and so are the prices at which a choice changes. Of the two between which what is left
lasts, the lower one is taken so often that on average it lasts exactly.

So it cannot overspend, as long as ``most`` holds: it is counted in FLOPs, and a clock or a counter of joules may jump
further. Where a request took more than that, what is left can fall below 0, and all that follow are refused.

The price of the linear program is textbook (from memory; nothing of it was looked up here); the forecast is the
gamma–Poisson one.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise

from dynlib.cost.curve import CostCurve, Measure, Point
from dynlib.inputs import check_number, check_scale

Profile = Callable[[float], float]
"""The share of a day's requests that have come by a time, rising from 0 to 1."""


class Governor:
    """Chooses a knob for each request, so that the budget lasts for the day.

    For each request: ``point = governor.choose(now, kind)``, then run the mechanism at ``point.knob``, then
    ``governor.spend(joules)`` with what it really took. A point of None means that nothing more can be paid for.

    Args:
        curves: a curve, or one for each kind of request.
        budget: what may be spent, in ``measure``.
        expected: N₀, how many requests are expected in all.
        spread: s, the forecast's relative standard deviation: at 0.2 two of three days are within 20 %.
        until: when the day ends; it begins at 0.
        profile: when in the day requests come; evenly if left out.
        clump: m, how many requests come together, seen from one of them; 1 if each comes on its own.
        caution: c, for how many standard deviations more than expected it plans.
        measure: of the budget: "joules", "flops" or "seconds".

    Raises:
        TypeError: if something is not of its type.
        ValueError: if there are no curves, a number is not positive and finite, or a cost was not measured.
    """

    def __init__(
        self,
        curves: CostCurve | Mapping[Hashable, CostCurve],
        budget: float | int,
        *,
        expected: float | int,
        spread: float | int = 0.2,
        until: float | int = 1.0,
        profile: Profile | None = None,
        clump: float | int = 10.0,
        caution: float | int = 0.2,
        measure: Measure = "joules",
    ) -> None:
        kinds = by_kind(curves)
        for name, value in (("budget", budget), ("expected", expected), ("spread", spread), ("until", until)):
            check_scale(name, value)
        self.caution = check_number("caution", caution, least=0)
        self.clump = check_number("clump", clump, least=1)
        self.measure: Measure = measure
        self._hulls = {kind: curve.hull(measure) for kind, curve in kinds.items()}
        prices = sorted({0.0, *(price for hull in self._hulls.values() for price in slopes(hull, measure))})
        # what each kind costs at each price
        self._costs = {price: {kind: self._at(price, kind).cost(measure) for kind in self._hulls} for price in prices}
        self.budget, self.left, self.until = float(budget), float(budget), float(until)
        self._shape, self._unit = spread**-2, spread**-2 / expected
        self._profile = profile
        self._now = 0.0
        self._owed = False
        self._carried = 0.0
        self.seen: Counter[Hashable] = Counter()
        """How many requests of each kind have come."""
        self.refused = 0
        """How many of them could not be paid for."""

    @property
    def spent(self) -> float:
        """So far."""
        return self.budget - self.left

    def to_come(self, now: float | int) -> float:
        """How many more requests it plans for, μ + c σ, and no fewer than none.

        Raises:
            TypeError, ValueError: if ``now`` is no time of the day, 0 … ``until``, or the profile gives no share.
        """
        check_number("now", now, least=0, most=self.until)
        passed = now / self.until
        if self._profile is not None:
            passed = check_number("what the profile gives", self._profile(now), least=0, most=1)
        unit = self._unit + passed / self.clump
        rate = (self._shape + self.seen.total() / self.clump) / unit
        mean = (1 - passed) * rate
        deviation = math.sqrt(self.clump * mean + (1 - passed) ** 2 * rate / unit)
        return max(0.0, mean + self.caution * deviation)

    def choose(self, now: float | int, kind: Hashable = None) -> Point | None:
        """The point for a request that comes now; None where what is left does not pay for any.

        Args:
            now: the time, 0 … ``until``, not before that of the last request.
            kind: which curve is this request's; left out where there is only one.

        Raises:
            RuntimeError: if what the last request took was not said.
            TypeError, ValueError: if there is no such time or kind.
        """
        if self._owed:
            raise RuntimeError("what the last request took is not known: call spend(…) before the next one")
        if kind not in self._hulls:
            raise ValueError(f"there is no curve for the kind {kind!r}: there are {', '.join(map(repr, self._hulls))}")
        to_come = self.to_come(now)
        if now < self._now:
            raise ValueError(f"time runs forward: it is {now}, and the last request came at {self._now}")
        self._now = now
        self.seen[kind] += 1
        hull = self._hulls[kind]
        point = self._at(self._dithered(self.left / (1 + to_come)), kind)
        for one in reversed(hull[: hull.index(point) + 1]):
            if one.cost(self.measure) * one.most <= self.left:
                self._owed = True
                return one
        self.refused += 1
        return None

    def prices(self, allowance: float | int) -> tuple[float, float, float]:
        """The two prices between which a request costs ``allowance`` on average, over the kinds that have come.

        Returns:
            the price at which it costs no more, the next lower one, at which it costs more, and the share of requests
            at the lower one with which the allowance is met. Where it is met at price 0, or at none: twice the nearest
            price, and 0.
        """
        often = {kind: (self.seen[kind] + 1) / (self.seen.total() + len(self._hulls)) for kind in self._hulls}
        lower, more = 0.0, math.inf
        for price, costs in self._costs.items():
            cost = sum(share * costs[kind] for kind, share in often.items())
            if cost <= allowance:
                return price, lower, (allowance - cost) / (more - cost)
            lower, more = price, cost
        return lower, lower, 0.0

    def _dithered(self, allowance: float | int) -> float:
        # one of the two prices, so often that on average the allowance is met
        price, lower, share = self.prices(allowance)
        self._carried += share
        if self._carried >= 1:
            self._carried -= 1
            return lower
        return price

    def spend(self, cost: float | int) -> None:
        """Say what the last request took, in the budget's measure.

        Raises:
            RuntimeError: if there is no request that was not paid for.
            TypeError, ValueError: if it is NaN, infinite or negative.
        """
        if not self._owed:
            raise RuntimeError("there is nothing to pay for: each request is chosen for, then paid for, once")
        self.left -= check_number("the cost", cost, least=0)
        self._owed = False

    def _at(self, price: float, kind: Hashable) -> Point:
        hull = self._hulls[kind]
        worth_it = sum(slope > price for slope in slopes(hull, self.measure))  # slopes fall
        return hull[worth_it]


def by_kind(curves: CostCurve | Mapping[Hashable, CostCurve]) -> Mapping[Hashable, CostCurve]:
    """Curves by the kind of a request, None where there is one for all.

    Raises:
        ValueError: if there is none.
    """
    if not isinstance(curves, CostCurve | Mapping):
        raise TypeError(f"give a curve, or a dictionary of them by kind; got {type(curves).__name__}")
    kinds: dict[Hashable, CostCurve] = dict(curves) if isinstance(curves, Mapping) else {None: curves}
    if not kinds:
        raise ValueError("there are no curves: give one for each kind of request")
    return kinds


def slopes(hull: Sequence[Point], measure: Measure) -> list[float]:
    """Quality for cost, from each point of a hull to the next."""
    return [
        (dear.quality.mean - cheap.quality.mean) / (dear.cost(measure) - cheap.cost(measure))
        for cheap, dear in pairwise(hull)
    ]
