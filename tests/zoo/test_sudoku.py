"""The tiny models for Sudoku: what they train on, how they are measured, and what the shipped ones solve."""

import math

import pytest
import torch

from dynlib.data import sudoku
from dynlib.depth import TinyRecursiveModel
from dynlib.depth.recursion import Solved
from dynlib.zoo import card, load
from dynlib.zoo.recipes import puzzles as recipes
from dynlib.zoo.recipes import recipe
from dynlib.zoo.recipes.puzzles import CLUES, TEST, sudoku_figures, sudoku_mix

SHIPPED = {"sudoku4": 4, "sudoku6": 6}


def test_the_puzzles_come_in_equal_parts_by_their_clues():
    for size, all_clues in CLUES.items():
        mix = sudoku_mix(size, 3, "test")
        assert len(mix) == 3 * len(all_clues)
        for clues, part in zip(all_clues, mix.givens.flatten(1).split(3), strict=True):
            given = (part > 0).sum(1)
            assert (given == clues).all() if clues else (given < size**2 / 2).all()


def test_a_training_draws_its_puzzles_from_the_pool_in_copies():
    torch.manual_seed(0)
    made = recipe("sudoku4")
    training = recipes.sudoku_training(made.build(**made.config), size=4, count=50, batch=32)
    made.loss(training)(0)
    training.follow(0)
    puzzles, answers = training.slots.puzzles.view(-1, 4, 4), training.slots.answers.view(-1, 4, 4)
    assert len(puzzles) == 32
    assert ((puzzles == 0) | (puzzles == answers)).all()
    given = set((puzzles > 0).sum((1, 2)).tolist())
    assert given >= {6, 7, 8}
    assert int(training.drawn) == 32


class Half(TinyRecursiveModel):
    """Solves the first half of the puzzles from the second step on, and is sure of the first quarter at once."""

    def __init__(self, size: int) -> None:
        super().__init__(vocabulary=size + 1, length=size**2, dim=4, heads=1, steps=3)
        test = sudoku_mix(size, 20, "test")
        self.known = {tuple(one): number for number, one in enumerate(test.givens.flatten(1).tolist())}
        self.answers = test.solutions.flatten(1)

    def predict(self, puzzles, *, threshold=0.0, **_):
        numbers = torch.tensor([self.known[tuple(one)] for one in puzzles.tolist()])
        early = (numbers < len(self.answers) // 4) & (threshold is not None)
        answers = torch.where((numbers < len(self.answers) // 2)[:, None] & ~early[:, None], self.answers[numbers], 0)
        steps = torch.where(early, 1, 3)
        return Solved(answers, answers[..., None].float(), steps, steps.float())


def test_the_figures_are_shares_of_solved_puzzles_by_clues_and_with_halting(monkeypatch):
    monkeypatch.setattr(recipes, "TEST", 20)
    model = Half(6)
    figures = sudoku_figures(model, size=6)
    assert len(model.known) == figures["test_puzzles"] == 60
    assert figures["test_solved"] == 0.5
    assert figures["test_solved_of_as_few_clues_as_can_be"] == 1
    assert figures["test_solved_of_12_clues"] == 0.5
    assert figures["test_solved_of_14_clues"] == 0
    assert figures["test_solved_when_halted"] == 0.25
    assert figures["test_steps_when_halted"] == 2.5


@pytest.mark.parametrize(("name", "size"), SHIPPED.items())
def test_a_shipped_model_solves_as_many_as_its_card_says(name, size):
    """Other puzzles of the test split: five standard deviations of a difference of two shares."""
    count, said, model = 60, card(name)["figures"], load(name)
    for clues in CLUES[size]:
        test = sudoku(count, size, clues=clues, split="test", seed=10_000)
        solved = model.predict(test.givens.flatten(1), threshold=None)
        got = (solved.answers == test.solutions.flatten(1)).all(1).double().mean().item()
        share = said[f"test_solved_of_{f'{clues}_clues' if clues else 'as_few_clues_as_can_be'}"]
        spread = math.sqrt(max(share * (1 - share), 0.01) * (1 / count + 1 / TEST))
        assert abs(got - share) <= 5 * spread, (clues, share, got)
    assert said["test_solved"] > 0.95


@torch.no_grad()
def test_the_shipped_model_gets_better_from_step_to_step_and_is_sure_of_what_is_right():
    test = sudoku(100, 6, split="test", seed=10_001)
    logits, halting = load("sudoku6").trace(test.givens.flatten(1), steps=8)
    right = (logits.argmax(-1) == test.solutions.flatten(1)).all(-1)
    share = right.double().mean(1)
    assert share[0] < share[1] < share[7]
    assert right[halting > 0].double().mean() > 0.9
    assert (halting > 0)[right].double().mean() > 0.9
