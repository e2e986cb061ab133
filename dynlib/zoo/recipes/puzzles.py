"""Tiny recursive models that solve Sudoku: two small ones, and one of 9x9 that is to be trained on a GPU."""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dynlib.data import Puzzles, puzzle_stream, sudoku
from dynlib.data.drawing import Split
from dynlib.depth import Supervision, TinyRecursiveModel
from dynlib.zoo.recipes import Numbers, Recipe

CLUES = {4: (0, 6, 7, 8), 6: (0, 12, 14), 9: (0,)}
"""By size: how many clues the puzzles have, as many of each; 0 where every digit is taken away that can be."""
TEST = 500  # held-out puzzles of each number of clues


def tiny_sudoku(*, size: int, **config: int) -> TinyRecursiveModel:
    """A tiny network that fills in a Sudoku, and improves its own answer again and again until it is sure."""
    return TinyRecursiveModel(vocabulary=size + 1, length=size**2, mixer="mlp", **config)


@cache
def sudoku_mix(size: int, count: int, split: Split) -> Puzzles:
    """So many puzzles of each number of clues, one number after the other."""
    first, *others = (sudoku(count, size, clues=clues, split=split, seed=clues) for clues in CLUES[size])
    return sum(others, first)


def sudoku_training(model: nn.Module, *, size: int, count: int, batch: int) -> Supervision:
    """Deep supervision of a model on augmented copies of ``count`` puzzles of each number of clues."""
    assert isinstance(model, TinyRecursiveModel)
    generator = torch.Generator()
    fresh = puzzle_stream(sudoku_mix(size, count, "train"), generator=generator)
    return Supervision(model, batch, fresh, decay=0.99, generator=generator)


def sudoku_loss(training: nn.Module) -> Callable[[int], Tensor]:
    """Loss by step; besides where training stands, its puzzles depend on the step's number alone."""
    assert isinstance(training, Supervision)

    def loss(step: int) -> Tensor:
        training.options["generator"].manual_seed(step)
        return training.loss(step)

    return loss


@torch.no_grad()
def sudoku_figures(model: nn.Module, *, size: int) -> Numbers:
    """Shares of held-out puzzles that are solved: every digit right. With all steps, by the number of clues; and where
    each leaves as soon as q is above 0, with the mean of the steps that it has had.
    """
    assert isinstance(model, TinyRecursiveModel)
    test, device = sudoku_mix(size, TEST, "test"), model.position.device
    puzzles, answers = (grids.flatten(1).to(device) for grids in (test.givens, test.solutions))
    right, steps = {}, torch.zeros(0)
    for threshold in (None, 0.0):
        solved = [model.predict(part, threshold=threshold) for part in tqdm(puzzles.split(50), leave=False)]
        right[threshold] = (torch.cat([one.answers for one in solved]) == answers).all(1).double().cpu()
        steps = torch.cat([one.steps for one in solved]).double()
    figures: Numbers = {"test_solved": right[None].mean().item()}
    for clues, of_these in zip(CLUES[size], right[None].view(-1, TEST).mean(1).tolist(), strict=True):
        figures[f"test_solved_of_{clues or 'as_few'}_clues{'' if clues else '_as_can_be'}"] = of_these
    return figures | {
        "test_solved_when_halted": right[0.0].mean().item(),
        "test_steps_when_halted": steps.mean().item(),
        "test_puzzles": len(test),
    }


def _recipe(size: int, count: int, batch: int, config: dict[str, int], training: Numbers) -> Recipe:
    return Recipe(
        build=tiny_sudoku,
        config={"size": size, **config},
        learner=partial(sudoku_training, size=size, count=count, batch=batch),
        loss=sudoku_loss,
        evaluate=partial(sudoku_figures, size=size),
        training=training,
    )


RECIPES = {
    "sudoku4": _recipe(
        4,
        2000,
        32,
        {"dim": 32, "hidden": 64, "depth": 2, "n": 3, "T": 2, "steps": 8},
        {"steps": 1500, "lr": 3e-3, "weight_decay": 0.1},
    ),
    "sudoku6": _recipe(
        6,
        8000,
        32,
        {"dim": 48, "hidden": 96, "depth": 2, "n": 3, "T": 2, "steps": 16},
        {"steps": 6000, "lr": 3e-3, "weight_decay": 0.1},
    ),
    "sudoku9": _recipe(
        9,
        20_000,
        256,
        {"dim": 256, "depth": 2, "n": 6, "T": 3, "steps": 16},
        {"steps": 40_000, "lr": 5e-4, "weight_decay": 0.1},
    ),
}
