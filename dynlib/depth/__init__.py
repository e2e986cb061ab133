"""How many layers: leave early, let the first ones draft for all of them, or run a frozen stack out of order."""

from dynlib.cost.risk_control import learn_then_test
from dynlib.depth.calm import calm_generate
from dynlib.depth.early_exit import MultiExit, exit_loss
from dynlib.depth.painters import looped_parallel, middle_repeat, parallel, reverse, shuffle, skip
from dynlib.depth.self_speculation import self_speculative_generate

__all__ = [
    "MultiExit",
    "calm_generate",
    "exit_loss",
    "learn_then_test",
    "looped_parallel",
    "middle_repeat",
    "parallel",
    "reverse",
    "self_speculative_generate",
    "shuffle",
    "skip",
]
