"""What the values of a knob cost and what they are worth, as a curve that says what any budget buys.

Each :class:`Point` is one value of a knob, measured by :func:`dynlib.cost.calibrate`. The :class:`CostCurve` of them
answers what a budget can buy:

- one knob for all requests: the best point that costs no more (:meth:`CostCurve.best`);
- two knobs in turn: of two points with costs a < b, a share (limit − a) / (b − a) of the requests at the dearer one
  costs the limit on average, and is worth what lies on the line between them (:meth:`CostCurve.mix`).

So what can be reached on average is the *concave hull* of the points, and what one knob can reach is their envelope, a
staircase below it.
"""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dynlib.cost.interval import Interval
from dynlib.inputs import check_name, check_number

Measure = Literal["flops", "seconds", "joules"]
MEASURES = ("flops", "seconds", "joules")
ROUNDING = 1e-9


class Point(NamedTuple):
    """One value of a knob, for one request on average."""

    knob: Any
    """As the mechanism takes it: a number, a name, a tuple of them; None for the dense model."""
    flops: float
    """Counted."""
    seconds: float | None
    """Measured, None if it was not."""
    joules: float | None
    """Measured or modelled; see :attr:`CostCurve.energy`."""
    quality: Interval
    """The mean over the requests, larger is better, with its 95 % interval: Wilson's for a share of right answers."""
    most: float
    """FLOPs of the dearest batch over the mean of all, at least 1: how far one request can lie above the average."""

    def cost(self, measure: Measure = "flops") -> float:
        """In FLOPs, seconds or joules.

        Raises:
            ValueError: if it was not measured, or there is no such measure.
        """
        check_name("measure", measure, MEASURES)
        cost = getattr(self, measure)
        if cost is None:
            raise ValueError(f"{measure} were not measured: calibrate again with them, or ask for flops")
        return float(cost)


class Mix(NamedTuple):
    """Two points, and how often the dearer one."""

    cheap: Point
    dear: Point
    share: float
    """Of the requests that get the dearer knob, 0 … 1."""

    def cost(self, measure: Measure = "flops") -> float:
        """On average."""
        return (1 - self.share) * self.cheap.cost(measure) + self.share * self.dear.cost(measure)

    @property
    def quality(self) -> float:
        """On average."""
        return (1 - self.share) * self.cheap.quality.mean + self.share * self.dear.quality.mean


class CostCurve:
    """The points of a knob, in the order in which they were given, and the dense model beside them.

    Args:
        points: at least one.
        dense: the model without the mechanism; the dearest point if left out.
        name: of the mechanism, for pictures and messages.
        energy: a sentence that says where the joules come from.

    Raises:
        ValueError: if there are no points, or a cost or quality is not finite, or a cost not positive.
    """

    def __init__(
        self, points: Sequence[Point], *, dense: Point | None = None, name: str = "", energy: str = "not measured"
    ) -> None:
        if not points:
            raise ValueError("a curve needs one point or more: calibrate at the values that the knob may have")
        self.points = tuple(points)
        self.dense = max(self.points, key=lambda point: point.flops) if dense is None else dense
        self.name, self.energy = name, energy
        for point in (*self.points, self.dense):
            _check_point(point)

    def __repr__(self) -> str:
        shares = [point.flops / self.dense.flops for point in self.points]
        return (
            f"CostCurve({self.name or 'a knob'}: {len(shares)} points, {min(shares):.0%} to {max(shares):.0%} of the "
            "dense FLOPs)"
        )

    def share(self, point: Point | Mix, measure: Measure = "flops") -> float:
        """A point's cost over the dense model's.

        Raises:
            ValueError: if it was not measured, of one of the two.
        """
        return point.cost(measure) / self.dense.cost(measure)

    def envelope(self, measure: Measure = "flops") -> tuple[Point, ...]:
        """The points that no other beats, from the cheapest on: cost and quality both rise."""
        found: list[Point] = []
        for point in sorted(self.points, key=lambda one: (one.cost(measure), -one.quality.mean)):
            if not found or point.quality.mean > found[-1].quality.mean:
                found.append(point)
        return tuple(found)

    def hull(self, measure: Measure = "flops") -> tuple[Point, ...]:
        """The points of the envelope above which no line between two others passes: each more costs more than before.

        The slopes from one to the next, quality for cost, fall.
        """
        found: list[Point] = []
        for point in self.envelope(measure):
            while len(found) > 1 and _slope(found[-2], found[-1], measure) <= _slope(found[-1], point, measure):
                found.pop()
            found.append(point)
        return tuple(found)

    def best(self, limit: float | int, measure: Measure = "flops") -> Point:
        """The point of the highest quality that costs at most ``limit`` a request, on average.

        Raises:
            ValueError: if no point costs so little; the message says what the least is.
        """
        limit = self._limit(limit, measure)
        return [point for point in self.envelope(measure) if point.cost(measure) <= limit][-1]

    def mix(self, limit: float | int, measure: Measure = "flops") -> Mix:
        """The two points, and how often each, that give the most quality for ``limit`` a request on average.

        Raises:
            ValueError: as :meth:`best`.
        """
        limit = self._limit(limit, measure)
        hull = self.hull(measure)
        for cheap, dear in pairwise(hull):
            low, high = cheap.cost(measure), dear.cost(measure)
            if limit < high:
                return Mix(cheap, dear, max(0.0, (limit - low) / (high - low)))
        return Mix(hull[-1], hull[-1], 0.0)

    def quality(self, limit: float | int, measure: Measure = "flops") -> float:
        """What ``limit`` a request buys on average: the hull, read between its points.

        Raises:
            ValueError: as :meth:`best`.
        """
        return self.mix(limit, measure).quality

    def _limit(self, limit: float | int, measure: Measure) -> float:
        check_number("the limit", limit, least=0)
        least = min(self.points, key=lambda point: point.cost(measure))
        limit = limit * (1 + ROUNDING)  # so that a point's own share of the dense cost buys that point
        if limit < least.cost(measure):
            raise ValueError(
                f"no knob costs so little: the least is {least.cost(measure):.6g} {measure} a request, at "
                f"{least.knob!r}, {self.share(least, measure):.1%} of the dense model; the limit was {limit:.6g}"
            )
        return limit

    def save(self, path: str | Path) -> None:
        """Write a JSON file, whole or not at all.

        Raises:
            TypeError: if a knob is something else than a finite number, a name, or a tuple of them.
        """
        path = Path(path)
        try:
            text = json.dumps(self.plain(), indent=1, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            knobs = [point.knob for point in self.points]
            raise TypeError(f"knobs must be finite numbers, names, or tuples of them; got {knobs}: {error}") from error
        beside = path.with_name(f"{path.name}.part")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "CostCurve":
        """Read what :meth:`save` wrote; a list, as a pair of two knobs, is a tuple.

        Raises:
            ValueError: if the file is something else.
        """
        try:
            return cls.of(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:  # bytes that are no text, too
            raise ValueError(f"{path} holds no cost curve: {error}") from error

    def plain(self) -> dict[str, Any]:
        """What a JSON file keeps of it, alone or among others."""
        return {
            "name": self.name,
            "energy": self.energy,
            "dense": self.dense._asdict(),
            "points": [point._asdict() for point in self.points],
        }

    @classmethod
    def of(cls, plain: Any) -> "CostCurve":
        """The curve of which :meth:`plain` is the content, also after it was in a file.

        Raises:
            ValueError: if it is something else.
        """
        try:
            dense, *points = (
                Point(**{**one, "knob": _tupled(one["knob"]), "quality": Interval(*one["quality"])})
                for one in (plain["dense"], *plain["points"])
            )
            return cls(points, dense=dense, name=plain["name"], energy=plain["energy"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is not what a curve is made of: {error}") from error

    def plot(self, axes: Any, measure: Measure = "flops", **style: Any) -> None:
        """Draw the points with their intervals and the hull on matplotlib axes, in shares of the dense cost."""
        x = [self.share(point, measure) for point in self.points]
        y = [point.quality.mean for point in self.points]
        arms = [[q.mean - q.low for *_, q, _ in self.points], [q.high - q.mean for *_, q, _ in self.points]]
        style = {"label": self.name or None, "marker": "o", "linestyle": "none", **style}
        line = axes.errorbar(x, y, arms, **style)
        hull = self.hull(measure)
        axes.plot(
            [self.share(point, measure) for point in hull],
            [point.quality.mean for point in hull],
            color=line[0].get_color(),
            linewidth=1,
        )


def _tupled(knob: Any) -> Any:
    return tuple(map(_tupled, knob)) if isinstance(knob, list) else knob


def _slope(one: Point, other: Point, measure: Measure) -> float:
    return (other.quality.mean - one.quality.mean) / (other.cost(measure) - one.cost(measure))


def _check_point(point: Point) -> None:
    for measure in MEASURES:
        cost = getattr(point, measure)
        if cost is None and measure == "flops":
            raise ValueError(f"FLOPs are always counted, and there are none at {point.knob!r}")
        if cost is not None and not (math.isfinite(cost) and cost > 0):
            raise ValueError(f"a cost must be positive and finite; got {cost} {measure} at {point.knob!r}")
    mean, low, high = point.quality
    if not (math.isfinite(mean) and -math.inf < low <= mean <= high < math.inf):
        raise ValueError(f"a quality must be finite, and within its interval; got {tuple(point.quality)}")
    check_number("most", point.most, least=1 - 1e-9)
