"""What a computation costs: counted operations, parameters and bytes, measured seconds, measured or modelled joules.

A multiply-add is two FLOPs, everywhere.
"""

from dynlib.cost.count import Cost, Share, count
from dynlib.cost.energy import Energy, estimate_energy
from dynlib.cost.interval import Interval, interval, wilson
from dynlib.cost.measure import Peak, Ratio, Timing, machine_peak, timed
from dynlib.cost.risk_control import Certificate, learn_then_test

__all__ = [
    "Certificate",
    "Cost",
    "Energy",
    "Interval",
    "Peak",
    "Ratio",
    "Share",
    "Timing",
    "count",
    "estimate_energy",
    "interval",
    "learn_then_test",
    "machine_peak",
    "timed",
    "wilson",
]
