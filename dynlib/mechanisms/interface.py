"""What all mechanisms have in common: one is run at a value of its knob, on requests whose answers are known."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlib.cost.calibration import calibrate
from dynlib.cost.curve import CostCurve, Point
from dynlib.inputs import check_whole

Requests = Callable[[int, int, int], list[tuple[Any, Tensor]]]


class Mechanism(NamedTuple):
    """A mechanism on a trained backbone."""

    backbone: str
    name: str
    knob: str
    """What its knob is called; of a pair of two, both: "threshold, price"."""
    knobs: tuple[Any, ...]
    """Values from the cheapest to the dearest; all pairs, where there are two knobs."""
    run: Callable[[Any, Any], Tensor]
    """``run(knob, inputs)``, logits, or what the quality is read from."""
    dense: Callable[[Any], Tensor]
    """The model without the mechanism."""
    requests: Requests
    """``requests(count, size, seed)``, ``count`` held-out requests in batches of ``size``; others for another seed."""
    rival: str | None = None
    """The trivial one on the same backbone, which has to be beaten."""
    quality: Callable[[Tensor, Tensor], Tensor] | None = None
    """``quality(outputs, targets)``, a number a request; whether the largest logit is the right one if None."""
    worth: str = "right"
    """What the quality is a share of, in a word."""

    @property
    def pair(self) -> bool:
        """Whether it has two knobs, whose values have no one order."""
        return isinstance(self.knobs[0], tuple)

    def judge(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The quality of each request."""
        return (outputs.argmax(-1) == targets).double() if self.quality is None else self.quality(outputs, targets)

    def calibrate(
        self, count: int = 1000, *, size: int = 250, alone: int = 64, trial: int = 0, **options: Any
    ) -> CostCurve:
        """Its curve on held-out data, where ``alone`` requests come each on its own, to see what the dearest takes.

        Args:
            count: requests in batches.
            size: of a batch at most.
            alone: requests in batches of one.
            trial: first so many other requests at all knobs, by their FLOPs alone. Of knobs that cost the same, to an
                eighth of what lies between the cheapest and the dearest, the best goes on, and the cheapest of all.
                For pairs of knobs, of which there are many. 0 keeps all.
            options: of :func:`dynlib.cost.calibrate`.
        """
        check_whole("size", size, least=1)
        batches = self.requests(check_whole("count", count, least=1), min(count, size), 1)
        batches += self.requests(check_whole("alone", alone, least=1), 1, 2)
        known: dict[str, Any] = {"quality": self.quality, "ordered": not self.pair, "name": title(self)}
        knobs = self.knobs
        if check_whole("trial", trial, least=0):
            tried = calibrate(self.run, knobs, self.requests(trial, trial, 4), repeats=0, joules=False, **known)
            stay = {point.knob for point in _best_of_each_cost(tried.points)}
            knobs = tuple(knob for knob in knobs if knob in stay)
        return calibrate(self.run, knobs, batches, **{**known, "dense": self.dense, **options})


def _best_of_each_cost(points: Sequence[Point], bands: int = 8) -> list[Point]:
    cheapest, dearest = (end(points, key=lambda point: point.flops) for end in (min, max))
    found = {-1: cheapest}
    for point in sorted(points, key=lambda point: (point.flops, -point.quality.mean)):
        band = int(bands * (point.flops - cheapest.flops) / (dearest.flops - cheapest.flops or 1.0) * (1 - 1e-9))
        if band not in found or point.quality.mean > found[band].quality.mean:
            found[band] = point
    return [*found.values()]


def title(made: Mechanism) -> str:
    """What its curve is called."""
    return f"{made.name} on {made.backbone}"


def named(knob: Any) -> str:
    """A value of a knob as it is printed; a pair with a comma."""
    if isinstance(knob, tuple):
        return ", ".join(map(named, knob))
    return f"{knob:g}" if isinstance(knob, float | int) else str(knob)


def pieces(inputs: Any, targets: Tensor, size: int) -> list[tuple[Any, Tensor]]:
    """Requests in batches of ``size``; the inputs are a tensor, or a tuple of several."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    cut = list(zip(*(part.split(size) for part in parts), strict=True))
    given = cut if isinstance(inputs, tuple) else [part for (part,) in cut]
    return list(zip(given, targets.split(size), strict=True))


def drawn(seed: int) -> torch.Generator:
    """Random numbers of a seed."""
    return torch.Generator().manual_seed(seed)
