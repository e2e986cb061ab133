"""How many layers: leave early, let the first draft for all, run a frozen stack out of order, or loop a few of them."""

from dynlib.cost.risk_control import learn_then_test
from dynlib.depth.calm import calm_generate
from dynlib.depth.early_exit import MultiExit, exit_loss
from dynlib.depth.looped import ExitGate, Looped, exit_distribution, gated_loss, window_loss
from dynlib.depth.painters import looped_parallel, middle_repeat, parallel, reverse, shuffle, skip
from dynlib.depth.recursion import TinyRecursiveModel
from dynlib.depth.self_speculation import self_speculative_generate
from dynlib.depth.supervision import EMA, Supervision, deep_supervision, empty_slots, stablemax_cross_entropy

__all__ = [
    "EMA",
    "ExitGate",
    "Looped",
    "MultiExit",
    "Supervision",
    "TinyRecursiveModel",
    "calm_generate",
    "deep_supervision",
    "empty_slots",
    "exit_distribution",
    "exit_loss",
    "gated_loss",
    "learn_then_test",
    "looped_parallel",
    "middle_repeat",
    "parallel",
    "reverse",
    "self_speculative_generate",
    "shuffle",
    "skip",
    "stablemax_cross_entropy",
    "window_loss",
]
