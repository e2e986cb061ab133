"""On small models that think in loops and steps, and on one that looks for needles.

Each is its own backbone. The rival of what stops by itself is the same model with as many loops or steps for everyone.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dynlib.data import chains, linear_regression, needles, sudoku
from dynlib.deciding import setting
from dynlib.mechanisms.interface import Mechanism, Requests, pieces
from dynlib.tokens.colt5 import ConditionalBlock, Router
from dynlib.zoo import load
from dynlib.zoo.chains import ChainReader
from dynlib.zoo.regression import RegressionReader

CHANGES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.0)
QUANTILES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)
HALTS = (-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
CAPACITIES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)
NOISE, QUERIES = 0.5, 6  # as the regression was tested


def prompts(count: int, size: int, seed: int) -> list[tuple[Any, Tensor]]:
    """Pairs of points and values, and points whose values are asked for."""
    some = linear_regression(count, queries=QUERIES, noise=NOISE, split="test", seed=seed)
    return pieces((some.x, some.y, some.queries), some.answers, size)


def explained(said: Tensor, answers: Tensor) -> Tensor:
    """1 − the squared error of a prompt over the variance of its answers, which is the number of features."""
    return 1 - (said.double() - answers).square().mean(1) / 3


def regression_stopping() -> Mechanism:
    """Each prompt stops looping when its state hardly moves any more."""
    model = load("looped_regression")

    def run(change: float, prompt: Any) -> Tensor:
        return model.readout(model.looped.predict(model.embed(*prompt), change=change).state)

    return Mechanism(
        "looped_regression", "stopping", "change", CHANGES, run, _call(model), prompts, "loops", explained, "explained"
    )


def regression_loops() -> Mechanism:
    """As many loops for every prompt."""
    return _loops("looped_regression", load("looped_regression"), prompts, explained, "explained")


def names(count: int, size: int, seed: int) -> list[tuple[Any, Tensor]]:
    """Names, what they point to, and the ends of their chains."""
    some = chains(count, split="test", seed=seed)
    return pieces((some.names, some.points_to), some.ends, size)


def found(logits: Tensor, ends: Tensor) -> Tensor:
    """The share of a sample's names whose end was found."""
    return (logits.argmax(-1) == ends).double().mean(1)


def chains_stopping() -> Mechanism:
    """Each name stops looping when its gate is sure enough."""
    model = load("looped_chains")

    def run(quantile: float, sample: Any) -> Tensor:
        return model.head(model.looped.predict(model.embed(*sample), quantile=quantile, each="token").state)

    return Mechanism(
        "looped_chains", "stopping", "quantile", QUANTILES, run, _call(model), names, "loops", found, "found"
    )


def chains_loops() -> Mechanism:
    """As many loops for every name."""
    return _loops("looped_chains", load("looped_chains"), names, found, "found")


def _loops(
    backbone: str,
    model: RegressionReader | ChainReader,
    requests: Requests,
    quality: Callable[[Tensor, Tensor], Tensor],
    worth: str,
) -> Mechanism:
    def run(loops: int, inputs: Any) -> Tensor:
        return model(*inputs, loops=loops)

    knobs = tuple(range(1, model.looped.loops + 1))
    return Mechanism(backbone, "loops", "loops", knobs, run, _call(model), requests, None, quality, worth)


def puzzles(count: int, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Sudokus of as few clues as can be."""
    some = sudoku(count, 6, split="test", seed=seed)
    return pieces(some.givens.flatten(1), some.solutions.flatten(1), size)


def solved(logits: Tensor, solutions: Tensor) -> Tensor:
    """Whether every digit is right."""
    return (logits.argmax(-1) == solutions).all(1).double()


def sudoku_halting() -> Mechanism:
    """Each puzzle leaves after the first step that takes its answer for right."""
    model = load("sudoku6")

    def run(threshold: float, grids: Tensor) -> Tensor:
        return model.predict(grids, threshold=threshold).logits

    return Mechanism("sudoku6", "halting", "threshold", HALTS, run, model, puzzles, "steps", solved, "solved")


def sudoku_steps() -> Mechanism:
    """As many steps for every puzzle."""
    model = load("sudoku6")

    def run(steps: int, grids: Tensor) -> Tensor:
        return model(grids, steps=steps)

    knobs = (1, 2, 3, 4, 8, model.steps)
    return Mechanism("sudoku6", "steps", "steps", knobs, run, model, puzzles, None, solved, "solved")


def haystacks(count: int, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Sequences of noise with needles, and the value that is asked for."""
    some = needles(count, split="test", seed=seed)
    return pieces(some.tokens, some.labels, size)


def colt5() -> Mechanism:
    """The tokens that a router ranks first go through the heavy branches, all others through the light ones alone."""
    return _conditional("colt5", "learned", "evenly")


def evenly() -> Mechanism:
    """As many tokens at equal distances, and the first one, which asks."""
    return _conditional("evenly", "anchored", None)


def _conditional(name: str, routing: str, rival: str | None) -> Mechanism:
    model = load("needles_colt5")

    def run(capacity: float, tokens: Tensor) -> Tensor:
        keys = min(2 * capacity, 1.0)
        shares = {"capacity": capacity, "query_capacity": capacity, "key_capacity": keys}
        with setting(model, ConditionalBlock, **shares), setting(model, Router, routing=routing):
            return model(tokens)

    def dense(tokens: Tensor) -> Tensor:
        with setting(model, ConditionalBlock, capacity=1.0, query_capacity=1.0, key_capacity=1.0):
            return model(tokens)

    return Mechanism("needles_colt5", name, "capacity", CAPACITIES, run, dense, haystacks, rival)


def _call(model: Any) -> Any:
    return lambda inputs: model(*inputs)


THINKING = {
    "looped_regression": {"stopping": regression_stopping, "loops": regression_loops},
    "looped_chains": {"stopping": chains_stopping, "loops": chains_loops},
    "sudoku6": {"halting": sudoku_halting, "steps": sudoku_steps},
    "needles_colt5": {"colt5": colt5, "evenly": evenly},
}
