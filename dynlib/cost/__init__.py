"""What a computation costs: counted operations, parameters and bytes, measured seconds, measured or modelled joules.

And what a budget buys: a knob's :class:`CostCurve`, a :class:`Budget` for one request, a :class:`Governor` for a day.

A multiply-add is two FLOPs, everywhere.
"""

from dynlib.cost.budget import Budget, BudgetLoss
from dynlib.cost.calibration import calibrate
from dynlib.cost.count import Cost, Share, count
from dynlib.cost.curve import CostCurve, Mix, Point
from dynlib.cost.energy import Energy, estimate_energy
from dynlib.cost.governor import Governor
from dynlib.cost.interval import Interval, interval, wilson
from dynlib.cost.measure import Peak, Ratio, Timing, machine_peak, timed
from dynlib.cost.risk_control import Certificate, learn_then_test
from dynlib.cost.stream import Outcome, Request, day, foreseen, rehearse

__all__ = [
    "Budget",
    "BudgetLoss",
    "Certificate",
    "Cost",
    "CostCurve",
    "Energy",
    "Governor",
    "Interval",
    "Mix",
    "Outcome",
    "Peak",
    "Point",
    "Ratio",
    "Request",
    "Share",
    "Timing",
    "calibrate",
    "count",
    "day",
    "estimate_energy",
    "foreseen",
    "interval",
    "learn_then_test",
    "machine_peak",
    "rehearse",
    "timed",
    "wilson",
]
