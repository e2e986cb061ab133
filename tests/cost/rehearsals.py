"""A thousand days under the governor, in a Python of their own: checking every type would take minutes.

``python -m tests.cost.rehearsals`` prints, day by day, the governor's quality, the oracle's, whether more was spent
than there was, and what was left of the budget.
"""

import json
import math

import torch

from dynlib.cost import CostCurve, Governor, Point, day, foreseen, rehearse
from dynlib.cost.interval import Interval


def curve(qualities: list[float], joules: list[float], most: float = 1.5) -> CostCurve:
    points = zip(qualities, joules, strict=True)
    return CostCurve([Point(n, j * 1e9, j, j, Interval(q, q, q), most) for n, (q, j) in enumerate(points)])


EXITS = curve([0.48, 0.65, 0.78, 0.81, 0.82], [1.0, 2.0, 3.0, 4.0, 6.0])
KINDS = {
    "easy": curve([0.8, 0.9, 0.95, 0.956], [1.0, 2.0, 4.0, 6.0]),
    "hard": curve([0.3, 0.5, 0.62, 0.66], [1.0, 2.0, 4.0, 6.0]),
}
CASES = [(EXITS, 1.8), (EXITS, 3.0), (KINDS, 2.1), (KINDS, 3.6)]
EXPECTED = 200


def rehearsed(case: int, seed: int) -> tuple[float, float, bool, float]:
    """The governor's quality, the oracle's, whether it overspent, and what it left."""
    curves, each = CASES[case]
    draw = torch.Generator().manual_seed(seed)
    kinds = dict.fromkeys(curves, 1.0) if isinstance(curves, dict) else None
    stream = day(EXPECTED, kinds=kinds, generator=draw)
    budget = each * EXPECTED
    governor = Governor(curves, budget, expected=EXPECTED)
    mine = rehearse(governor, stream, budget, generator=draw)
    assert math.isclose(governor.spent, mine.spent)
    assert governor.refused == mine.refused
    return mine.quality, foreseen(curves, stream, budget).quality, mine.overspent, governor.left / budget


if __name__ == "__main__":
    print(json.dumps([rehearsed(seed % len(CASES), seed) for seed in range(1000)]))
