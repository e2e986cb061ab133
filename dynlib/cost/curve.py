"""What each value of a knob costs and what it is worth: measured on held-out data, then asked for any budget.

Every mechanism has a knob of its own: a threshold, a capacity, a width, a number of loops. :func:`calibrate` turns it
through its values and writes down, for a request, FLOPs that were counted, seconds and joules, and the quality. The
:class:`CostCurve` that comes back answers what a budget can buy:

- one knob for all requests: the best point that costs no more (:meth:`CostCurve.best`);
- two knobs in turn: of two points with costs a < b, a share (limit − a) / (b − a) of the requests at the dearer one
  costs the limit on average, and is worth what lies on the line between them (:meth:`CostCurve.mix`).

So what can be reached on average is the *concave hull* of the points, and what one knob can reach is their envelope, a
staircase below it.
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dynlib.cost.count import Cost, count
from dynlib.cost.energy import estimate_energy
from dynlib.cost.interval import Interval, interval, wilson
from dynlib.cost.measure import timed
from dynlib.inputs import check_name, check_number, check_tensor, check_whole

Measure = Literal["flops", "seconds", "joules"]
MEASURES = ("flops", "seconds", "joules")
ROUNDING = 1e-9
SLACK = 0.01  # a knob may come back by so much: what a layer chooses changes what the next one sees


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


def calibrate(
    run: Callable[[Any, Any], Any],
    knobs: Sequence[Any],
    batches: Sequence[tuple[Any, Tensor]],
    *,
    quality: Callable[[Any, Tensor], Tensor] | None = None,
    dense: Callable[[Any], Any] | None = None,
    ordered: bool = True,
    repeats: int = 7,
    joules: bool = True,
    name: str = "",
) -> CostCurve:
    """Turn a knob through its values on held-out data, and measure what each costs and what it is worth.

    FLOPs are counted on all batches. Seconds are measured on the largest batch, all knobs in turn so that the machine's
    drift meets them alike: they are a request's share of a batch, and one that comes alone takes longer. Joules are
    those of the largest batches, too: read from a counter where the machine has one, else modelled from FLOPs and bytes
    (:func:`dynlib.cost.estimate_energy`). Nothing is trained, and no gradient is taken. Interrupt it and nothing is
    left half done.

    Args:
        run: ``run(knob, inputs)``, the mechanism at one value of its knob.
        knobs: values in the order of their cost, rising or falling.
        batches: pairs of inputs and targets ``[requests]``; of one request each, where the *dearest* request is to be
            known and not the dearest batch.
        quality: ``quality(outputs, targets)``, a number a request, larger is better; if left out, whether the largest
            of the outputs' last dimension is the target.
        dense: ``dense(inputs)``, the model without the mechanism; if left out, the dearest point stands for it.
        ordered: costs must rise or fall along the knobs. False for what is no line: pairs of two knobs.
        repeats: rounds of the clock; 0 measures no seconds.
        joules: False measures none.
        name: of the mechanism.

    Raises:
        ValueError: if there are no knobs or no batches, a batch has no requests, a quality is not finite or not one
            number a request, or the costs go up and down along the knobs.
    """
    check_whole("repeats", repeats, least=0)
    if len(knobs) == 0:
        raise ValueError("there are no knobs to try: give at least one value")
    if len(batches) == 0 or any(len(targets) == 0 for _, targets in batches):
        raise ValueError("there is nothing to calibrate on: give at least one batch, and requests in each")
    judge = _right if quality is None else quality
    runs: list[tuple[Any, Callable[[Any], Any]]] = [(knob, partial(run, knob)) for knob in knobs]
    if dense is not None:
        runs.append((None, dense))
    steps = len(runs) * (1 + (repeats + 1) * (repeats > 0))  # each is counted; if there is a clock, warmed up and timed
    with torch.no_grad(), tqdm(total=steps, desc=f"calibrating {name}".strip(), leave=False) as bar:
        counted = []
        for _, one in runs:
            counted.append(_measured(one, batches, judge))
            bar.update()
        if ordered:
            _check_order(knobs, [flops for flops, *_ in counted[: len(knobs)]])
        inputs, targets = _largest(batches)
        seconds: list[float | None] = [None] * len(runs)
        if repeats:
            took = timed(*(partial(one, inputs) for _, one in runs), repeats=repeats, warmup=1, each=bar.update)
            seconds = [one / len(targets) for one in took.seconds]
        energies, source = _energies([one for _, one in runs], batches, [cost for *_, cost in counted], joules)
    points = [
        Point(knob, flops, second, energy, worth, most)
        for (knob, _), (flops, most, worth, _), second, energy in zip(runs, counted, seconds, energies, strict=True)
    ]
    last = points.pop() if dense is not None else None
    return CostCurve(points, dense=last, name=name, energy=source)


def _measured(
    run: Callable[[Any], Any], batches: Sequence[tuple[Any, Tensor]], judge: Callable[[Any, Tensor], Tensor]
) -> tuple[float, float, Interval, Cost]:
    """FLOPs a request, those of the dearest batch over them, the quality, and the cost of the largest batches."""
    costs, worth, each = [], [], []
    for inputs, targets in batches:
        said: list[Any] = []
        costs.append(count(lambda: said.append(run(inputs))))  # noqa: B023, it is called at once
        each.append(costs[-1].flops / len(targets))
        quality = judge(said[0], targets)
        check_tensor(quality, "the quality")
        if quality.shape != targets.shape[:1]:
            raise ValueError(
                f"the quality must be one number a request, [{len(targets)}]; got the shape {tuple(quality.shape)}"
            )
        worth.append(quality.detach().double().cpu())
    all_ = torch.cat(worth)
    if not all_.isfinite().all():
        raise ValueError("a quality is NaN or infinite: look at what the model gives, or at how it is judged")
    mean = sum(cost.flops for cost in costs) / len(all_)
    if judge is _right:
        spread = wilson(int(all_.sum()), len(all_))
    else:
        middle = all_.mean().item()
        spread = interval(all_) if len(all_) > 1 else Interval(middle, middle, middle)
    first, *others = [one for one, (_, targets) in zip(costs, batches, strict=True) if len(targets) == _most(batches)]
    return mean, max(each) / mean if mean else 1.0, spread, sum(others, first)


def _energies(
    runs: list[Callable[[Any], Any]], batches: Sequence[tuple[Any, Tensor]], costs: list[Cost], wanted: bool
) -> tuple[list[float | None], str]:
    if not wanted:
        return [None] * len(runs), "not measured"
    inputs, targets = _largest(batches)
    first = estimate_energy(runs[0], inputs)
    if first.source.startswith("measured"):
        read = [first, *(estimate_energy(one, inputs) for one in runs[1:])]
        return [one.joules / len(targets) for one in read], first.source
    requests = sum(len(some) for _, some in batches if len(some) == len(targets))
    return [estimate_energy(cost).joules / requests for cost in costs], first.source


def _largest(batches: Sequence[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    return next(batch for batch in batches if len(batch[1]) == _most(batches))


def _most(batches: Sequence[tuple[Any, Tensor]]) -> int:
    return max(len(targets) for _, targets in batches)


def _right(outputs: Any, targets: Tensor) -> Tensor:
    check_tensor(outputs, "what the mechanism gives")
    if outputs.ndim < 2 or outputs.shape[:-1] != targets.shape:
        raise ValueError(
            f"to be judged by its largest, the outputs must be [{len(targets)}, classes]; got "
            f"{list(outputs.shape)}: give quality=… for another kind"
        )
    return (outputs.argmax(-1) == targets).double()


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


def _check_order(knobs: Sequence[Any], flops: list[float]) -> None:
    rises = flops[-1] >= flops[0]
    for (one, before), (other, after) in pairwise(zip(knobs, flops, strict=True)):
        if (before - after if rises else after - before) > SLACK * max(flops):
            raise ValueError(
                f"the cost goes up and down along the knobs: {before:.4g} FLOPs at {one!r} and {after:.4g} at "
                f"{other!r}, though from {knobs[0]!r} to {knobs[-1]!r} it {'rises' if rises else 'falls'}. Give them "
                "in the order of their cost, or ordered=False where there is none"
            )
