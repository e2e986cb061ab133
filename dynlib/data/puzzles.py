"""Puzzles with exactly one solution: Sudoku in three sizes, and mazes. Some take many more steps than others.

A Sudoku is a square of 4, 6 or 9 cells a side; every row, column and box holds each digit once. Three things are known
of every one that is drawn here:

- *it has one solution*, as a search has ruled out all others;
- *how hard it is*: "easy" where time and again some cell has but one digit left; "medium" where one must also see that
  a digit has but one place left in a row, column or box; "hard" where neither is enough, and one must look ahead;
- *how long it takes*: all that is plain to see is filled in at once, again and again, and the rounds are counted.

A maze has walls, a start and a goal; of the ways between them one is the shortest.

Puzzles have symmetries: digits may change names, rows and columns may change places. :func:`augment` draws from them.
Train and test puzzles are told apart by a number that no symmetry changes, so that no puzzle of one split is a copy of
one of the other, whatever the seeds, and however it is augmented.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dynlib.data import solvers
from dynlib.data.drawing import Split, random_of
from dynlib.data.solvers import BOXES, FLOOR, GOAL, PATH, START, WALL
from dynlib.inputs import check_name, check_number, check_tensor, check_whole

Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES = get_args(Difficulty)


_TEST = 4  # one class of symmetric puzzles in so many is for testing
_CHUNK = 512  # puzzles drawn at a time, at most


@dataclass(frozen=True)
class Puzzles:
    """Puzzles and their solutions; ``.flatten(1)`` makes a sequence of tokens of a grid."""

    givens: Int[Tensor, "n size size"]
    """Sudoku: the digits 1 … size, and 0 where one is to be found. Maze: ``FLOOR``, ``WALL``, ``START``, ``GOAL``."""
    solutions: Int[Tensor, "n size size"]
    """The same with nothing left to find: all digits, or the shortest way between start and goal as ``PATH``."""
    difficulty: Int[Tensor, " n"]
    """0 easy, 1 medium, 2 hard. Of a maze: fewer moves than a side is long, fewer than two sides, or more."""
    rounds: Int[Tensor, " n"]
    """In how many rounds a Sudoku fills itself, as far as it does without looking ahead; the moves of a maze."""
    kind: Literal["sudoku", "maze"]

    def __len__(self) -> int:
        return len(self.givens)

    def __getitem__(self, some: slice | Tensor) -> "Puzzles":
        """Some of them: a slice, their numbers, or a mask."""
        givens, solutions, difficulty, rounds = (part[some] for part in self._parts())
        return Puzzles(givens, solutions, difficulty, rounds, self.kind)

    def __add__(self, more: "Puzzles") -> "Puzzles":
        """These and more of their kind and size, one after the other."""
        if (self.kind, self.givens.shape[1:]) != (more.kind, more.givens.shape[1:]):
            ours, theirs = (f"{one.kind} of size {one.givens.shape[-1]}" for one in (self, more))
            raise ValueError(f"puzzles must be of one kind and size to stand together; got {ours} and {theirs}")
        givens, solutions, difficulty, rounds = map(torch.cat, zip(self._parts(), more._parts(), strict=True))
        return Puzzles(givens, solutions, difficulty, rounds, self.kind)

    def _parts(self) -> tuple[Tensor, ...]:
        return self.givens, self.solutions, self.difficulty, self.rounds

    @property
    def vocabulary(self) -> int:
        """How many different tokens there may be in givens and solutions."""
        return self.givens.shape[-1] + 1 if self.kind == "sudoku" else PATH + 1


def sudoku(
    count: int,
    size: int = 4,
    *,
    difficulty: Difficulty | None = None,
    clues: int = 0,
    split: Split = "train",
    seed: int = 0,
) -> Puzzles:
    """Full grids from which digits were taken in random order, each unless the puzzle would be harder than asked for.

    The same seed gives the same bytes, and more puzzles begin with those of fewer. A puzzle may come more than once: of
    size 4 there are few. They are all easy, and differ in their rounds. Not every grid is as likely.

    Args:
        count: how many.
        size: 4, 6 or 9.
        difficulty: of each puzzle. Left out, all that can be taken is taken, and it is as hard as it comes out.
        clues: no more is taken from a puzzle that has so many digits left.
        split: "train" or "test".
        seed: of the draw.

    Raises:
        TypeError: if ``count``, ``size``, ``clues`` or the seed is no int.
        ValueError: if ``count`` is below 1, there is no such size, difficulty or split, ``clues`` are not 0 … size², or
            the seed is not one of 0 … 2³² − 1; or after many puzzles of which hardly any is as asked for.
    """
    rules = solvers.rules(check_whole("size", size))
    wanted = _number(difficulty)
    check_whole("clues", clues, least=0, most=size**2)

    def draw(random: np.random.RandomState, some: int) -> _Drawn:
        drawn = random.randint(2**32, size=(some, size + 2, size**2), dtype=np.uint32).astype(np.int64)
        noise, order = drawn[:, :-1].transpose(1, 2, 0), drawn[:, -1].argsort(1, kind="stable").T
        empty = np.full((size**2, some), rules.full, dtype=np.int16)
        full = solvers.search(empty, rules, limit=1, noise=noise).first
        stays = _take_away(full, order, rules, wanted, clues)
        state = np.where(stays, full, np.int16(rules.full))
        all_singles = solvers.deduce(state, rules)
        hard = np.where(all_singles.done, np.where(solvers.deduce(state, rules, hidden=False).done, 0, 1), 2)
        givens = solvers.to_grids(np.where(stays, full, 0), size)
        return _Drawn(givens, solvers.to_grids(full, size), hard, all_singles.rounds, solvers.sudoku_number(givens))

    return _collect(draw, "sudoku", count, wanted, split, seed)


def mazes(
    count: int,
    size: int = 11,
    *,
    openings: float | int = 0.1,
    difficulty: Difficulty | None = None,
    split: Split = "train",
    seed: int = 0,
) -> Puzzles:
    """Mazes with one shortest way. Start and goal are anywhere; seeds as in :func:`sudoku`.

    The rooms at odd rows and columns are joined in random order until each can be reached from every other in one way;
    then some of the walls that are left open, so that there are detours.

    Args:
        count: how many.
        size: cells a side, outer walls counted: an odd number from 5 on.
        openings: share of the walls left between two rooms that opens, 0 … 1.
        difficulty, split, seed: as in :func:`sudoku`.

    Raises:
        TypeError, ValueError: as :func:`sudoku` does, and for ``openings`` that are no share.
    """
    if check_whole("size", size, least=5) % 2 == 0:
        raise ValueError(f"size must be odd, as rooms and walls take turns; got {size}")
    share, wanted = check_number("openings", openings, least=0, most=1), _number(difficulty)

    def draw(random: np.random.RandomState, some: int) -> _Drawn:
        givens = _dig(random, some, size, share)
        moves, path = solvers.shortest(givens)
        hard = np.where(path.sum((1, 2)) == moves + 1, np.minimum(moves // size, 2), -1)
        solutions = np.where(path & (givens == FLOOR), PATH, givens)
        return _Drawn(givens, solutions, hard, moves, solvers.maze_number(givens))

    return _collect(draw, "maze", count, wanted, split, seed)


def solve_sudoku(givens: Int[Tensor, "n size size"]) -> Int[Tensor, "n size size"]:
    """The solution of each Sudoku, and the proof that it is the only one: a search for a second comes to an end.

    Raises:
        TypeError: if the givens are no tensor of whole numbers.
        ValueError: if they are not [n, size, size] with a size of 4, 6 or 9, hold anything but 0 … size, or one has no
            solution or more than one.
    """
    grids = _check_grids(givens)
    size = grids.shape[-1]
    rules = solvers.rules(size)
    _check_alphabet(grids, size, f"a Sudoku of size {size} holds 0 … {size}, 0 in an empty cell")
    found = solvers.search(solvers.to_state(grids), rules, limit=2)
    _check_one(found.solutions, "solution")
    return torch.from_numpy(solvers.to_grids(found.first, size)).to(givens)


def solve_maze(givens: Int[Tensor, "n size size"]) -> Int[Tensor, "n size size"]:
    """The shortest way of each maze as ``PATH``, and the proof that it is the only one.

    Raises:
        TypeError: if the givens are no tensor of whole numbers.
        ValueError: if they are not [n, size, size], hold anything but floor, walls, one start and one goal each, or a
            maze has no way or several shortest ones.
    """
    grids = _check_grids(givens)
    _check_alphabet(grids, GOAL, f"a maze holds {FLOOR} floor, {WALL} wall, {START} start and {GOAL} goal")
    for name, token in (("start", START), ("goal", GOAL)):
        there = (grids == token).sum((1, 2))
        if (there != 1).any():
            which = int((there != 1).argmax())
            raise ValueError(f"puzzle {which} has {there[which]} cells with a {name}, {token}: it needs one")
    moves, path = solvers.shortest(grids)
    _check_one(np.where(moves < 0, 0, path.sum((1, 2)) - moves), "shortest way")
    return torch.from_numpy(np.where(path & (grids == FLOOR), PATH, grids)).to(givens)


def augment(puzzles: Puzzles, *, generator: torch.Generator | None = None) -> Puzzles:
    """Each puzzle as one of its symmetric copies, drawn at random: as hard as itself, and with one solution.

    Of a Sudoku, digits change names; rows change places within a band of boxes, columns within a stack, and so do bands
    and stacks; where boxes are square, rows and columns change roles. A maze is turned and mirrored.
    """
    both = torch.stack([puzzles.givens, puzzles.solutions])  # [2, n, size, size]
    n, size = both.shape[1:3]
    flip = torch.rand(n, generator=generator) < 0.5
    if puzzles.kind == "maze":
        for dim in (2, 3):
            mirror = torch.rand(n, generator=generator) < 0.5
            both = torch.where(mirror[:, None, None], both.flip(dim), both)
    else:
        height, width = BOXES[size]
        names = torch.rand(n, size, generator=generator).argsort(1) + 1
        names = torch.cat([torch.zeros_like(names[:, :1]), names], dim=1)  # an empty cell stays one
        both = names[torch.arange(n)[:, None, None], both]
        for dim, wide in ((2, height), (3, width)):
            bands = torch.rand(n, size // wide, 1, generator=generator).argsort(1)
            within = torch.rand(n, size // wide, wide, generator=generator).argsort(2)
            lines = (bands * wide + within).flatten(1)
            both = both.gather(dim, (lines[:, :, None] if dim == 2 else lines[:, None]).expand_as(both))
        flip = flip & (height == width)
    both = torch.where(flip[:, None, None], both.transpose(2, 3), both)
    return replace(puzzles, givens=both[0], solutions=both[1])


def puzzle_stream(
    puzzles: Puzzles, *, generator: torch.Generator | None = None
) -> Callable[[int], tuple[Int[Tensor, "n tokens"], Int[Tensor, "n tokens"]]]:
    """A source that never dries up: asked for a number, it draws so many of the puzzles at random, augments them, and
    gives the tokens of givens and solutions.
    """

    def draw(count: int) -> tuple[Tensor, Tensor]:
        drawn = augment(puzzles[torch.randint(len(puzzles), (count,), generator=generator)], generator=generator)
        return drawn.givens.flatten(1), drawn.solutions.flatten(1)

    return draw


class _Drawn(NamedTuple):
    givens: np.ndarray
    solutions: np.ndarray
    difficulty: np.ndarray  # -1 where it is no puzzle
    rounds: np.ndarray
    number: np.ndarray  # the same for all symmetric copies


def _collect(
    draw: Callable[[np.random.RandomState, int], _Drawn],
    kind: Literal["sudoku", "maze"],
    count: int,
    wanted: int | None,
    split: Split,
    seed: int,
) -> Puzzles:
    """Draw until there are enough of the right split and difficulty."""
    check_whole("count", count, least=1)
    # All is drawn puzzle by puzzle.
    random = random_of(split, seed)
    kept, have, seen = [], 0, 0
    while have < count:
        drawn = draw(random, min(max(1 + (count - have) * (seen + 1) // (have + 1), 8), _CHUNK))
        fits = (drawn.number % _TEST == 0) == (split == "test")
        fits &= drawn.difficulty >= 0 if wanted is None else drawn.difficulty == wanted
        kept.append([part[fits] for part in drawn])
        have, seen = have + int(fits.sum()), seen + len(fits)
        if seen >= 8 * _CHUNK and have * 1000 < seen:
            raise ValueError(f"of {seen} puzzles {have} are as asked for: ask for another size, difficulty or clues")
    parts = [torch.from_numpy(np.concatenate(part)[:count].astype(np.int64)) for part in zip(*kept, strict=True)]
    return Puzzles(parts[0], parts[1], parts[2], parts[3], kind)


def _take_away(full: np.ndarray, order: np.ndarray, rules: solvers.Rules, wanted: int | None, clues: int) -> np.ndarray:
    """True in the cells whose digits stay, [cells, n]."""
    stays = np.ones(full.shape, dtype=bool)
    for cells in order:
        which = np.flatnonzero(stays.sum(0) > clues)
        cell, column = cells[which], np.arange(len(which))
        fewer = stays[:, which]
        fewer[cell, column] = False
        state = np.where(fewer, full[:, which], np.int16(rules.full))
        if wanted in (0, 1):
            goes = solvers.deduce(state, rules, hidden=wanted == 1).done
        else:  # the solution stays the only one if no other digit may stand here
            state[cell, column] &= ~full[cell, which]
            goes = solvers.search(state, rules, limit=1).solutions == 0
        stays[cell[goes], which[goes]] = False
    return stays


def _dig(random: np.random.RandomState, n: int, size: int, share: float) -> np.ndarray:
    side = size // 2
    room = np.arange(side**2).reshape(side, side)
    one = np.concatenate([room[:, :-1].ravel(), room[:-1].ravel()])  # the rooms on both sides of each wall
    other = np.concatenate([room[:, 1:].ravel(), room[1:].ravel()])
    noise = random.randint(2**32, size=(n, len(one) + side**2), dtype=np.uint32).astype(np.int64)
    order, row = noise[:, : len(one)].argsort(1, kind="stable"), np.arange(n)
    part = np.tile(room.ravel(), (n, 1))  # rooms that can reach each other have one number
    opens = np.zeros((n, len(one)), dtype=bool)
    for wall in order.T:
        a, b = part[row, one[wall]], part[row, other[wall]]
        opens[row, wall] = a != b
        part = np.where(part == b[:, None], a[:, None], part)
    left = np.where(opens, 2**32, noise[:, : len(one)]).argsort(1, kind="stable")
    opens[row[:, None], left[:, : round(share * (len(one) - side**2 + 1))]] = True
    grid = np.full((n, size, size), WALL)
    grid[:, 1::2, 1::2] = FLOOR
    grid[:, one // side + other // side + 1, one % side + other % side + 1] = np.where(opens, FLOOR, WALL)
    ends = noise[:, len(one) :].argsort(1, kind="stable")
    for token, end in zip((START, GOAL), ends.T, strict=False):
        grid[row, 2 * (end // side) + 1, 2 * (end % side) + 1] = token
    return grid


def _number(difficulty: str | None) -> int | None:
    if difficulty is None:
        return None
    check_name("difficulty", difficulty, DIFFICULTIES)
    return DIFFICULTIES.index(difficulty)


def _check_grids(givens: object) -> np.ndarray:
    check_tensor(givens, "the givens")
    assert isinstance(givens, Tensor)
    if givens.is_floating_point() or givens.is_complex() or givens.dtype == torch.bool:
        raise TypeError(f"a puzzle is whole numbers; got {givens.dtype}: use .long()")
    if givens.ndim != 3 or givens.numel() == 0 or givens.shape[1] != givens.shape[2]:
        raise ValueError(f"puzzles must be [n, size, size], none of them 0; got {tuple(givens.shape)}")
    return givens.cpu().numpy().astype(np.int64)


def _check_alphabet(grids: np.ndarray, most: int, says: str) -> None:
    if grids.min() < 0 or grids.max() > most:
        raise ValueError(f"{says}; got {grids.min()} … {grids.max()}")


def _check_one(solutions: np.ndarray, what: str) -> None:
    if (solutions != 1).any():
        which = int((solutions != 1).argmax())
        many = f"no {what}" if solutions[which] < 1 else f"more than one {what}"
        raise ValueError(f"puzzle {which} has {many}: it must have exactly one")
