"""How many layers: leave early when the answer is there, or run a frozen stack otherwise than in order."""

from dynlib.cost.risk_control import learn_then_test
from dynlib.depth.calm import calm_generate
from dynlib.depth.early_exit import MultiExit, exit_loss
from dynlib.depth.painters import looped_parallel, middle_repeat, parallel, reverse, shuffle, skip

__all__ = [
    "MultiExit",
    "calm_generate",
    "exit_loss",
    "learn_then_test",
    "looped_parallel",
    "middle_repeat",
    "parallel",
    "reverse",
    "shuffle",
    "skip",
]
