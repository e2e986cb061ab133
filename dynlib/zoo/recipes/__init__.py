"""How each backbone of the zoo is built, trained and tested: a file a family. ``python -m dynlib.zoo`` runs these.

A family is loaded when one of its backbones is asked for, and with it the mechanism that it is made of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from torch import Tensor, nn

Numbers = dict[str, int | float]

FAMILIES = {
    "digits_vit": "digits",
    "topics_lm": "topics",
    "digits_exits": "exits",
    "topics_exits": "exits",
    "topics_small": "small",
    "topics_mod": "mixtures",
    "digits_avit": "avit",
    "needles_colt5": "needles",
    "topics_matformer": "matformer",
    "looped_regression": "looped",
    "looped_chains": "looped",
    "sudoku4": "puzzles",
    "sudoku6": "puzzles",
    "digits_acm": "acm",
    "digits_transmitter": "transmitter",
    "digits_acm_exits": "pairs",
    "topics_matformer_mod": "pairs",
}
"""The file of each backbone's recipe."""

LARGE = {"sudoku9": "puzzles"}
"""The same of those that do not ship, as they want a GPU: ``python -m dynlib.zoo train sudoku9 --device cuda``."""


class Learner(Protocol):
    """A model with more that training goes on from, itself a module."""

    average: nn.Module
    """What ships of it."""

    def follow(self, step: int) -> object:
        """Called after each step of the optimizer."""


@dataclass(frozen=True)
class Recipe:
    """All that decides a backbone's weights."""

    build: Callable[..., nn.Module]
    config: dict[str, Any]
    """Arguments of ``build``."""
    loss: Callable[[nn.Module], Callable[[int], Tensor]]
    """Model, or learner, to loss by step, for :func:`dynlib.training.train`."""
    evaluate: Callable[[nn.Module], Numbers]
    """Model to its figures on held-out data."""
    training: Numbers
    """Arguments of :func:`dynlib.training.train`."""
    start: str | None = None
    """The backbone whose weights it starts from; random ones if None."""
    begin: Callable[[nn.Module, nn.Module], None] | None = None
    """What puts that backbone, the second argument, into the model, the first; if None, they have the same weights."""
    learner: Callable[[nn.Module], Learner] | None = None
    """Makes of the model what is trained in its place, a module."""
    end: Callable[[nn.Module], None] | None = None
    """What is done to the trained model, in place."""


def recipe(name: str) -> Recipe:
    """The recipe of a backbone.

    Raises:
        ValueError: if there is none of that name.
    """
    files = FAMILIES | LARGE
    if name not in files:
        raise ValueError(f"no backbone {name!r} is trained here; there are {', '.join(map(repr, files))}")
    return import_module(f"{__name__}.{files[name]}").RECIPES[name]
