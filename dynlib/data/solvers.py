"""Solvers for many puzzles at once: Sudoku by deduction and search, mazes by a flood.

A Sudoku is a *state*: the digits that may still stand in each cell, the digit d as the bit ``1 << d - 1``. States are
[cells, n], the puzzles last, so that a step is one operation on all of them; what becomes of a puzzle depends on itself
alone. A state is *done* when every cell has one digit and none is there twice, and *broken* when a cell has none
left, a unit (a row, column or box) has a digit twice, or nowhere a place for one.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""The sizes of a Sudoku, and rows and columns of a box."""

FLOOR, WALL, START, GOAL, PATH = range(5)
"""What may be in a cell of a maze; ``PATH`` only in its solution, between start and goal."""


class Rules(NamedTuple):
    """Which cells belong together in a Sudoku of one size."""

    size: int
    units: np.ndarray
    """The cells of each row, column and box, [3 size, size]."""
    of: np.ndarray
    """The row, the column and the box of each cell, as places in ``units``, [3, cells]."""
    full: int
    """All digits."""


class Deduced(NamedTuple):
    """What can be said without looking ahead."""

    state: np.ndarray
    broken: np.ndarray
    """[n], where it contradicts itself."""
    rounds: np.ndarray
    """[n], how many rounds changed something."""

    @property
    def done(self) -> np.ndarray:
        """[n], where that is the solution."""
        return ~self.broken & (self.state & (self.state - 1) == 0).all(0)


class Found(NamedTuple):
    """What a search came to."""

    solutions: np.ndarray
    """[n], how many there are; no more were looked for than the limit."""
    first: np.ndarray
    """[cells, n], one of them."""
    guesses: np.ndarray
    """[n], how often a digit was tried."""


@lru_cache
def rules(size: int) -> Rules:
    """The rules of a size.

    Raises:
        ValueError: if there is no such size.
    """
    if size not in BOXES:
        raise ValueError(f"a Sudoku has size {', '.join(map(str, BOXES))}; got {size}")
    height, width = BOXES[size]
    row, column = np.divmod(np.arange(size**2), size)
    of = np.stack([row, size + column, 2 * size + row // height * height + column // width])
    units = np.stack([np.flatnonzero((of == unit).any(0)) for unit in range(3 * size)])
    return Rules(size, units, of, 2**size - 1)


def to_state(grids: np.ndarray) -> np.ndarray:
    """[n, size, size] digits, 0 where there is none, to a state in which an empty cell may be anything."""
    cells = grids.reshape(len(grids), -1).T.astype(np.int16)
    return np.where(cells > 0, np.int16(1) << np.maximum(cells - 1, 0), np.int16(rules(grids.shape[-1]).full))


def to_grids(state: np.ndarray, size: int) -> np.ndarray:
    """The digits [n, size, size] of a state in which every cell has one digit, or none: 0."""
    return (np.log2(np.maximum(state, 1)).astype(np.int64) + (state > 0)).T.reshape(-1, size, size)


def deduce(state: np.ndarray, rules: Rules, *, hidden: bool = True) -> Deduced:
    """Fill in all that is plain to see, round after round, until nothing changes.

    A cell that has one digit left takes it from all in its row, column and box ("naked single"); a digit that has one
    place left in a unit stands there ("hidden single"), unless ``hidden`` is False. All cells at once in every round.
    """
    state = state.copy()
    broken, rounds = np.zeros(state.shape[1], dtype=bool), np.zeros(state.shape[1], dtype=np.int64)
    live = np.arange(state.shape[1])
    while len(live):
        before = state[:, live]
        after, broken[live] = _round(before, rules, hidden)
        state[:, live] = after
        live = live[(after != before).any(0) & ~broken[live]]
        rounds[live] += 1
    return Deduced(state, broken, rounds)


def _round(state: np.ndarray, rules: Rules, hidden: bool) -> tuple[np.ndarray, np.ndarray]:
    single = state & (state - 1) == 0
    used, twice = _in_units(np.where(single, state, 0), rules)
    state = np.where(single, state, state & ~_around(used, rules))
    broken = (twice != 0).any(0) | (state == 0).any(0)
    if hidden:
        some, more = _in_units(state, rules)
        only = state & _around(some & ~more, rules)  # the digits that have no other place
        state = np.where(only != 0, only, state)
        broken |= (some != rules.full).any(0) | (only & (only - 1) != 0).any(0)
    return state, broken


def _in_units(state: np.ndarray, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """Of each unit, the digits that some of its cells have, and those that more than one has: [units, n]."""
    some = np.zeros((len(rules.units), state.shape[1]), dtype=state.dtype)
    more = np.zeros_like(some)
    for cells in rules.units.T:
        here = state[cells]
        more |= some & here
        some |= here
    return some, more


def _around(units: np.ndarray, rules: Rules) -> np.ndarray:
    """What the three units of each cell have, together."""
    row, column, box = rules.of
    return units[row] | units[column] | units[box]


def search(state: np.ndarray, rules: Rules, *, limit: int, noise: np.ndarray | None = None) -> Found:
    """Depth first, each puzzle at a state of its own and all in step, to ``limit`` solutions or the proof of fewer.

    Deduce; in the cell with the fewest digits left suppose one of them; and if that comes to nothing, that it is not.

    Args:
        state: where to start, [cells, n].
        rules: of the size.
        limit: how many solutions of a puzzle are enough, from 1 on.
        noise: [size + 1, cells, n] whole numbers from 0 to below 2³²: the digit with the most goes first in a cell, and
            of cells with as few digits that with the least in the last row. Left out, the first cell and digit.
    """
    n = state.shape[1]
    noise = np.broadcast_to(np.int64(0) if noise is None else noise, (rules.size + 1, rules.size**2, n))
    solutions, guesses, first = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64), np.zeros_like(state)
    owner = np.arange(n)  # the puzzle that a state on the stack belongs to; the last ones are the next ones
    while len(owner):
        whose, last = np.unique(owner[::-1], return_index=True)
        top = len(owner) - 1 - last
        deduced = deduce(state[:, top], rules)
        state, owner = np.delete(state, top, axis=1), np.delete(owner, top)
        done = deduced.done
        new = done & (solutions[whose] == 0)
        first[:, whose[new]] = deduced.state[:, new]
        solutions[whose[done]] += 1
        going = ~done & ~deduced.broken
        having, whose = deduced.state[:, going], whose[going]
        left = np.bitwise_count(having).astype(np.int64)
        cell, column = (np.where(left > 1, left << 32, 2**62) + noise[-1][:, whose]).argmin(0), np.arange(len(whose))
        there = having[cell, column] >> np.arange(rules.size)[:, None] & 1
        guess = (1 << np.where(there > 0, noise[:-1, cell, whose], -1).argmax(0)).astype(state.dtype)
        guesses[whose] += 1
        without = having.copy()
        without[cell, column] &= ~guess
        having[cell, column] = guess
        state, owner = np.concatenate([state, without, having], axis=1), np.concatenate([owner, whose, whose])
        wanted = solutions[owner] < limit
        state, owner = state[:, wanted], owner[wanted]
    return Found(solutions, first, guesses)


def sudoku_number(grids: np.ndarray) -> np.ndarray:
    """A number [n] that all symmetric copies of a puzzle share, and few others do (all full grids do).

    The cells with a digit are coloured, and each colour mixed with the sums of the colours in its row, column and box,
    and of its digit, again and again; the number is the sum of the colours, without the order of the cells.
    """
    size = grids.shape[-1]
    cells, (_, units, of, _) = grids.reshape(len(grids), -1), rules(size)
    colour = (cells > 0).astype(np.uint64)
    for _ in range(4):
        mixed = _mix(colour)
        row, column, box = mixed[:, units].sum(2)[:, of].swapaxes(0, 1)
        digit = np.zeros_like(mixed)
        for one in range(1, size + 1):
            where = cells == one
            digit += where * (where * mixed).sum(1, keepdims=True, dtype=np.uint64)
        colour = mixed + _mix(row) + _mix(column) + _mix(_mix(box)) + _mix(_mix(_mix(digit)))
    return (_mix(colour).sum(1) >> np.uint64(33)).astype(np.int64)


def _mix(value: np.ndarray) -> np.ndarray:
    """Shift, xor and multiply: numbers that are close come out far apart."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ value >> np.uint64(shift)) * np.uint64(factor)
    return value ^ value >> np.uint64(31)


def maze_number(grids: np.ndarray) -> np.ndarray:
    """A number [n] that a maze shares with itself turned and mirrored, and with hardly any other."""
    weight = _mix(np.arange(grids[0].size, dtype=np.uint64)).reshape(grids.shape[1:])
    both = (grids, grids.swapaxes(1, 2))
    copies = [one[:, ::down, ::across] for one in both for down in (1, -1) for across in (1, -1)]
    sums = np.stack([_mix((_mix(copy.astype(np.uint64)) * weight).sum((1, 2))) for copy in copies])
    return (sums.sum(0) >> np.uint64(33)).astype(np.int64)


def shortest(grids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The moves [n] of the shortest ways from start to goal, -1 if there is none; True in all cells of all of them.

    A cell is on a shortest way if its distances from both ends add up to the moves. If one way is the shortest, these
    cells are one more than its moves; if several are, they are more.
    """
    ends = [grids == token for token in (START, GOAL)]
    near, far = (_flood(grids != WALL, end) for end in ends)
    moves = near[ends[1]]
    cells = (near >= 0) & (far >= 0) & (near + far == moves[:, None, None])
    return moves, cells & (moves >= 0)[:, None, None]


def _flood(free: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Distances from the start, move by move; -1 where none leads."""
    distance, front, step = np.where(start, 0, -1), start, 0
    while front.any():
        step += 1
        wide = np.zeros_like(front)
        wide[:, 1:] |= front[:, :-1]
        wide[:, :-1] |= front[:, 1:]
        wide[:, :, 1:] |= front[:, :, :-1]
        wide[:, :, :-1] |= front[:, :, 1:]
        front = wide & free & (distance < 0)
        distance[front] = step
    return distance
