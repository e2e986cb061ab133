"""A day under the governor: what a decision takes, and the quality against a fixed knob and against foresight.

The curve is that of early exits by FLOPs, with the accuracies of ``digits_exits`` on its card, and the days are drawn:
:mod:`dynlib.cost.stream`. A FLOP costs a nanojoule there; only ratios matter.
"""

from functools import partial
from statistics import mean

import torch

from benchmarks.race import milliseconds
from benchmarks.table import Case, Row
from dynlib.cost import Governor, timed
from dynlib.cost.curve import CostCurve, Point
from dynlib.cost.interval import Interval
from dynlib.cost.stream import AlwaysAt, day, foreseen, rehearse
from dynlib.zoo import card

EXPECTED, SHARES = 1000, (0.3, 0.5)  # requests, and the budget as a share of what the whole model would spend


def cases(*, quick: bool = False) -> list[Case]:
    """Two budgets."""
    return [(f"governor, {share:g} of the energy", partial(_measure, share, quick)) for share in SHARES]


def _curve() -> CostCurve:
    figures, config = card("digits_exits")["figures"], card("digits_exits")["config"]
    layers = range(1, config["depth"] + 1)
    quality = [figures[f"test_accuracy_after_layer_{layer}"] for layer in layers]
    return CostCurve(
        [
            Point(layer, 1e6 * layer, None, 1e-3 * layer, Interval(right, right, right), 1.0)
            for layer, right in zip(layers, quality, strict=True)
        ]
    )


def _measure(share: float, quick: bool) -> Row:
    curve, expected = _curve(), 50 if quick else EXPECTED
    budget = share * expected * curve.points[-1].cost("joules")
    within = [point for point in curve.points if point.cost("joules") * expected <= budget]
    fixed = max(within, key=lambda point: point.cost("joules"))
    gaps, plain, over, refused = [], [], 0, 0
    for seed in range(3 if quick else 40):
        draw = torch.Generator().manual_seed(seed)
        requests = day(expected, generator=draw)
        ours = rehearse(Governor(curve, budget, expected=expected), requests, budget, generator=draw)
        always = rehearse(AlwaysAt(fixed, budget), requests, budget, generator=draw)
        best = foreseen(curve, requests, budget).quality
        gaps.append(ours.quality / best)
        plain.append(always.quality / best)
        over += ours.overspent
        refused += ours.refused
    governor = Governor(curve, budget, expected=expected)

    def decide() -> None:
        point = governor.choose(0.5)
        governor.spend(0.0 if point is None else 1e-12)

    seconds = timed(decide, repeats=15).seconds[0]
    return Row(
        mechanism=f"governor, {share:g} of the energy of the whole model",
        size=f"{len(gaps)} days of about {expected} requests, six exits",
        peer="one who knows the day",
        quality=f"{mean(gaps):.4f} of its accuracy (the best fixed exit {mean(plain):.4f})",
        note=f"{over} days overspent, {refused} requests refused; a decision takes {milliseconds(seconds)}, which is "
        "the governor's whole cost.",
    )
