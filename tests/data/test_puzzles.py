"""Puzzles against enumeration, a plain backtracking search, and networkx; and that the splits stay apart."""

import hashlib
from itertools import permutations, product

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor

from dynlib.data import solvers
from dynlib.data.puzzles import Puzzles, augment, mazes, puzzle_stream, solve_maze, solve_sudoku, sudoku
from dynlib.data.solvers import BOXES, FLOOR, GOAL, PATH, START, WALL

FIELDS = ("givens", "solutions", "difficulty", "rounds")
DRAWS = {
    "4": lambda **more: sudoku(**({"count": 40, "size": 4} | more)),
    "6": lambda **more: sudoku(**({"count": 20, "size": 6} | more)),
    "9": lambda **more: sudoku(**({"count": 4, "size": 9} | more)),
    "maze": lambda **more: mazes(**({"count": 40, "size": 9} | more)),
}
EMPTY = torch.zeros(1, 4, 4, dtype=torch.int64)


@pytest.fixture(scope="module")
def drawn() -> dict[str, Puzzles]:
    return {name: draw() for name, draw in DRAWS.items()}


@pytest.fixture(scope="module")
def all_of_four() -> np.ndarray:
    """Every Sudoku of size 4, by trying all rows, two and two: [288, 4, 4]."""
    rows = list(permutations(range(1, 5)))
    pairs = [pair for pair in product(rows, repeat=2) if len({*pair[0][:2], *pair[1][:2]}) == 4]
    return np.array([top + low for top, low in product(pairs, repeat=2) if right(np.array(top + low))])


def right(grid: np.ndarray) -> bool:
    """Whether every row, column and box holds each digit once."""
    size = len(grid)
    height, width = BOXES[size]
    boxes = [grid[r : r + height, c : c + width].ravel() for r in range(0, size, height) for c in range(0, size, width)]
    return all(len(set(unit)) == size and min(unit) == 1 and max(unit) == size for unit in [*grid, *grid.T, *boxes])


def solutions_of(grid: list[list[int]]) -> int:
    """How many solutions a Sudoku has, by backtracking: cell after cell, digit after digit."""
    size = len(grid)
    height, width = BOXES[size]
    for r, c in product(range(size), repeat=2):
        if grid[r][c] == 0:
            top, left = r - r % height, c - c % width
            seen = set(grid[r]) | {row[c] for row in grid}
            seen |= {grid[i][j] for i in range(top, top + height) for j in range(left, left + width)}
            found = 0
            for digit in set(range(1, size + 1)) - seen:
                grid[r][c] = digit
                found += solutions_of(grid)
            grid[r][c] = 0
            return found
    return 1


def graph_of(maze: Tensor) -> tuple[nx.Graph, tuple[int, int], tuple[int, int]]:
    free = [tuple(cell) for cell in (maze != WALL).nonzero().tolist()]
    graph = nx.Graph()
    graph.add_nodes_from(free)
    for r, c in free:
        graph.add_edges_from(((r, c), other) for other in ((r + 1, c), (r, c + 1)) if other in graph)
    start, goal = (tuple((maze == token).nonzero()[0].tolist()) for token in (START, GOAL))
    return graph, start, goal


def digest(puzzles: Puzzles) -> str:
    return hashlib.sha256(b"".join(getattr(puzzles, field).numpy().tobytes() for field in FIELDS)).hexdigest()[:16]


def same(one: Puzzles, other: Puzzles, count: int | None = None) -> bool:
    return all(torch.equal(getattr(one, field)[:count], getattr(other, field)[:count]) for field in FIELDS)


# Drawing


@pytest.mark.parametrize(
    ("name", "bytes_"),
    [("4", "d367dda6b4687321"), ("6", "ddee8ade943400d2"), ("9", "5fc57b4c7325a074"), ("maze", "4818d520ec00b952")],
)
def test_the_bytes_are_those_they_have_always_been(name, bytes_, drawn):
    assert digest(drawn[name]) == bytes_


@pytest.mark.parametrize("name", ["4", "maze"])
def test_the_same_seed_gives_the_same_bytes_and_each_other_seed_others(name, drawn):
    assert same(DRAWS[name](), drawn[name])
    others = [DRAWS[name](seed=seed, split=split) for seed in (1, 2, 2**32 - 1) for split in ("train", "test")]
    assert len({digest(puzzles) for puzzles in [*others, drawn[name]]}) == 7


@pytest.mark.parametrize(("name", "count"), [("4", 1), ("4", 39), ("4", 900), ("6", 3), ("maze", 7), ("maze", 700)])
def test_more_puzzles_begin_with_those_of_fewer(name, count, drawn):
    other = DRAWS[name](count=count)
    assert len(other) == count
    assert same(other, drawn[name], min(count, len(drawn[name])))


def test_drawing_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    augment(sudoku(3), generator=torch.Generator().manual_seed(0))
    mazes(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_frozen_puzzle_cannot_be_exchanged(drawn):
    with pytest.raises(AttributeError):
        drawn["4"].givens = drawn["4"].solutions


# Sudoku


@pytest.mark.parametrize("name", ["4", "6", "9"])
def test_every_sudoku_keeps_the_rules_and_its_givens(name, drawn):
    puzzles = drawn[name]
    assert puzzles.vocabulary == int(name) + 1
    for givens, solution in zip(puzzles.givens.numpy(), puzzles.solutions.numpy(), strict=True):
        assert right(solution)
        assert ((givens == 0) | (givens == solution)).all()
        assert (givens == 0).any()


@pytest.mark.parametrize("name", ["4", "6"])
def test_every_sudoku_has_one_solution_and_none_without_any_of_its_digits(name, drawn):
    for givens in drawn[name].givens[: 20 if name == "4" else 5]:
        assert solutions_of(givens.tolist()) == 1
        for r, c in givens.nonzero().tolist():
            fewer = givens.clone()
            fewer[r, c] = 0
            assert solutions_of(fewer.tolist()) > 1 or name == "6"  # of size 6 that takes backtracking too long
            if name == "6":
                with pytest.raises(ValueError, match="more than one solution"):
                    solve_sudoku(fewer[None])


@pytest.mark.parametrize("name", ["4", "6", "9"])
def test_the_solver_finds_what_was_hidden(name, drawn):
    assert torch.equal(solve_sudoku(drawn[name].givens), drawn[name].solutions)
    assert torch.equal(solve_sudoku(drawn[name].givens.int()), drawn[name].solutions.int())
    assert torch.equal(solve_sudoku(drawn[name].solutions), drawn[name].solutions)


def test_the_search_counts_all_solutions(all_of_four):
    assert len(all_of_four) == 288
    found = solvers.search(solvers.to_state(EMPTY.numpy()), solvers.rules(4), limit=1000)
    assert found.solutions.tolist() == [288]
    torch.manual_seed(0)
    some = np.where(torch.rand(60, 4, 4).numpy() < 0.25, all_of_four[:240:4], 0)
    many = solvers.search(solvers.to_state(some), solvers.rules(4), limit=1000).solutions
    assert many.tolist() == [((some_ == 0) | (some_ == all_of_four)).all((1, 2)).sum() for some_ in some]
    assert many.min() < 2 < many.max()


def test_every_sudoku_of_size_four_is_easy(all_of_four):
    # up to the names of the digits there are 12 grids; of each all 2¹⁶ puzzles, and how many of the 288 fit them
    cells = np.arange(16)
    puzzles = np.arange(2**16)
    for grid in all_of_four[(all_of_four[:, 0] == [1, 2, 3, 4]).all(1)].reshape(12, 16):
        agree = (all_of_four.reshape(-1, 16) == grid) @ (1 << cells)
        fits = sum(((puzzles & one == puzzles).astype(int) for one in agree), np.zeros(2**16, dtype=int))
        one = puzzles[fits == 1]
        left = (one[:, None] >> cells & 1) * grid
        deduced = solvers.deduce(solvers.to_state(left.reshape(-1, 4, 4)), solvers.rules(4), hidden=False)
        assert deduced.done.all()
        assert (solvers.to_grids(deduced.state, 4) == grid.reshape(4, 4)).all()


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_the_difficulty_is_what_is_needed_to_solve_it(difficulty):
    puzzles = sudoku(8, 6, difficulty=difficulty)
    state, rules = solvers.to_state(puzzles.givens.numpy()), solvers.rules(6)
    naked, all_ = solvers.deduce(state, rules, hidden=False), solvers.deduce(state, rules)
    level = ("easy", "medium", "hard").index(difficulty)
    assert (naked.done == (level == 0)).all()
    assert (all_.done == (level < 2)).all()
    assert not all_.broken.any()
    assert (puzzles.difficulty == level).all()
    assert puzzles.rounds.tolist() == all_.rounds.tolist()
    guesses = solvers.search(state, rules, limit=2).guesses
    assert ((guesses > 0) == (level == 2)).all()


def test_deductions_are_those_of_a_slow_reference():
    puzzles = sudoku(6, 6, difficulty="hard")
    rules = solvers.rules(6)
    fast = solvers.deduce(solvers.to_state(puzzles.givens.numpy()), rules)
    for number, givens in enumerate(puzzles.givens.flatten(1).tolist()):
        may = [{digit} if digit else set(range(1, 7)) for digit in givens]
        changed = True
        while changed:
            before = [set(one) for one in may]
            for unit in rules.units.tolist():
                for cell in unit:
                    may[cell] -= {d for other in unit if other != cell and len(may[other]) == 1 for d in may[other]}
                for digit in range(1, 7):
                    places = [cell for cell in unit if digit in may[cell]]
                    if len(places) == 1:
                        may[places[0]] = {digit}
            changed = before != may
        bits = [sum(1 << digit - 1 for digit in one) for one in may]
        assert fast.state[:, number].tolist() == bits


@pytest.mark.parametrize(
    ("rows", "seen_by_naked_singles"),
    [
        (["1030", "0004", "0002", "0000"], True),  # no digit is left for the last cell of the first row
        (["1010", "0000", "0000", "0000"], True),  # a digit twice
        (["0010", "4000", "0004", "0000"], False),  # no place for the 4 in the first row
        (["0000", "0034", "0300", "0400"], False),  # one cell would have to be the 3 and the 4 of the first row
    ],
)
def test_a_contradiction_that_is_plain_to_see_is_seen(rows, seen_by_naked_singles):
    state = solvers.to_state(np.array([[[int(cell) for cell in row] for row in rows]]))
    naked, both = (solvers.deduce(state, solvers.rules(4), hidden=hidden) for hidden in (False, True))
    assert naked.broken.tolist() == [seen_by_naked_singles]
    assert both.broken.tolist() == [True]
    assert not naked.done
    assert not both.done
    assert solvers.search(state, solvers.rules(4), limit=2).solutions.tolist() == [0]


def test_a_puzzle_of_few_steps_takes_few_rounds():
    solution = sudoku(1).solutions
    one = solution.clone()
    one[0, 2, 1] = 0
    assert solvers.deduce(solvers.to_state(one.numpy()), solvers.rules(4)).rounds.tolist() == [1]
    assert solvers.deduce(solvers.to_state(solution.numpy()), solvers.rules(4)).rounds.tolist() == [0]
    assert len(sudoku(300).rounds.unique()) >= 3


def test_no_more_is_taken_away_than_asked_for():
    assert (sudoku(30, clues=9).givens > 0).sum((1, 2)).tolist() == [9] * 30
    fewer = (sudoku(30).givens > 0).sum((1, 2))
    assert fewer.min() == 4  # no Sudoku of size 4 has fewer
    assert fewer.max() < 9


# Mazes


def test_every_maze_has_one_shortest_way_and_the_solution_is_it(drawn):
    for maze, solution, moves in zip(
        drawn["maze"].givens, drawn["maze"].solutions, drawn["maze"].rounds.tolist(), strict=True
    ):
        graph, start, goal = graph_of(maze)
        ways = list(nx.all_shortest_paths(graph, start, goal))
        assert len(ways) == 1
        assert len(ways[0]) == moves + 1
        expected = maze.clone()
        for cell in ways[0][1:-1]:
            expected[cell] = PATH
        assert torch.equal(solution, expected)
        assert nx.is_connected(graph)
    assert drawn["maze"].vocabulary == 5
    assert torch.equal(solve_maze(drawn["maze"].givens), drawn["maze"].solutions)


def test_without_openings_a_maze_is_a_tree_and_with_all_of_them_a_grid():
    for maze in mazes(20, 9, openings=0).givens:
        assert nx.is_tree(graph_of(maze)[0])
    rooms = torch.zeros(9, 9, dtype=torch.bool)
    rooms[1:-1, 1:-1] = True
    rooms[::2, ::2] = False  # pillars
    for maze in mazes(20, 9, openings=1).givens:
        assert torch.equal(maze != WALL, rooms)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_the_difficulty_of_a_maze_is_how_long_its_way_is(difficulty):
    level = ("easy", "medium", "hard").index(difficulty)
    puzzles = mazes(10, 11, difficulty=difficulty)
    assert (puzzles.rounds // 11).clamp(max=2).tolist() == [level] * 10
    assert puzzles.difficulty.tolist() == [level] * 10


# Symmetries


@pytest.mark.parametrize("name", DRAWS)
def test_an_augmented_puzzle_is_one_with_its_solution_and_as_hard(name, drawn):
    puzzles = drawn[name]
    before = puzzles.givens.clone()
    copies = augment(puzzles, generator=torch.Generator().manual_seed(0))
    solve = solve_maze if name == "maze" else solve_sudoku
    assert torch.equal(solve(copies.givens), copies.solutions)
    assert (copies.givens != puzzles.givens).flatten(1).any(1).float().mean() > 0.5
    assert torch.equal(puzzles.givens, before)
    assert torch.equal(copies.givens.flatten(1).eq(0).sum(1), before.flatten(1).eq(0).sum(1))
    if name == "maze":
        assert torch.equal(solvers_moves(copies.givens), puzzles.rounds)
    else:
        deduced = solvers.deduce(solvers.to_state(copies.givens.numpy()), solvers.rules(int(name)))
        assert deduced.rounds.tolist() == puzzles.rounds.tolist()


def solvers_moves(mazes_: Tensor) -> Tensor:
    return torch.from_numpy(solvers.shortest(mazes_.numpy())[0])


@pytest.mark.parametrize("name", DRAWS)
def test_a_part_of_the_puzzles_and_the_rest_are_all_of_them(name, drawn):
    puzzles = drawn[name]
    mask = torch.arange(len(puzzles)) % 3 == 0
    assert same(puzzles[:3] + puzzles[3:], puzzles)
    assert same(puzzles[mask], puzzles[mask.nonzero()[:, 0]])
    assert same(puzzles[mask] + puzzles[~mask], puzzles[torch.cat([mask.nonzero(), (~mask).nonzero()])[:, 0]])
    assert len(puzzles[:0]) == 0


def test_puzzles_of_two_kinds_do_not_stand_together(drawn):
    for one, other in (("4", "6"), ("9", "maze")):
        with pytest.raises(ValueError, match=f"one kind and size.*of size {one}"):
            drawn[one] + drawn[other]


@pytest.mark.parametrize("name", DRAWS)
def test_a_stream_gives_copies_of_its_puzzles_with_their_solutions_and_never_ends(name, drawn):
    puzzles = drawn[name]
    size, solve = puzzles.givens.shape[-1], solve_maze if name == "maze" else solve_sudoku
    number = solvers.maze_number if name == "maze" else solvers.sudoku_number
    draw, again = (puzzle_stream(puzzles, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    known, met = set(number(puzzles.givens.numpy()).tolist()), set()
    for count in (1, 3, 4 * len(puzzles)):
        givens, solutions = draw(count)
        assert givens.shape == solutions.shape == (count, size**2)
        assert torch.equal(solve(givens.view(-1, size, size)).flatten(1), solutions)
        assert all(map(torch.equal, (givens, solutions), again(count)))
        met |= set(number(givens.view(-1, size, size).numpy()).tolist())
    assert met <= known
    assert len(met) > len(known) / 2


def test_all_symmetric_copies_come_up():
    solution = sudoku(1).solutions
    copies = augment(many(solution, "sudoku", 60_000), generator=torch.Generator().manual_seed(0)).givens
    expected = set()
    swaps = [(0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2), (1, 0, 3, 2)]
    orders = [list(swap) for swap in swaps] + [list(swap[2:] + swap[:2]) for swap in swaps]
    for rows, columns, names in product(orders, orders, permutations(range(1, 5))):
        grid = torch.tensor([0, *names])[solution[0]][rows][:, columns]
        expected |= {tuple(grid.flatten().tolist()), tuple(grid.T.flatten().tolist())}
    assert set(map(tuple, copies.flatten(1).tolist())) == expected
    maze = mazes(1, 7).givens
    turned = augment(many(maze, "maze", 300), generator=torch.Generator().manual_seed(0)).givens
    eight = [torch.rot90(one, k) for one in (maze[0], maze[0].T) for k in range(4)]
    assert set(map(tuple, turned.flatten(1).tolist())) == {tuple(one.flatten().tolist()) for one in eight}


def many(grid: Tensor, kind: str, count: int) -> Puzzles:
    zeros = torch.zeros(count, dtype=torch.int64)
    return Puzzles(grid.expand(count, -1, -1), grid.expand(count, -1, -1), zeros, zeros, kind)


def test_rows_and_columns_do_not_change_roles_where_boxes_are_not_square(drawn):
    for seed in range(5):
        copies = augment(drawn["6"], generator=torch.Generator().manual_seed(seed))
        for grid in copies.solutions.numpy():
            assert right(grid)


@pytest.mark.parametrize("name", DRAWS)
def test_symmetric_copies_share_a_number_and_others_do_not(name, drawn):
    number = solvers.maze_number if name == "maze" else solvers.sudoku_number
    of = number(drawn[name].givens.numpy())
    for seed in range(5):
        copies = augment(drawn[name], generator=torch.Generator().manual_seed(seed))
        assert number(copies.givens.numpy()).tolist() == of.tolist()
    if name != "4":
        assert len(set(of.tolist())) == len(of)


def test_the_numbers_of_size_four_are_its_classes_of_symmetric_puzzles():
    puzzles = sudoku(60, clues=5).givens
    swaps = [(0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2), (1, 0, 3, 2)]
    orders = [list(swap) for swap in swaps] + [list(swap[2:] + swap[:2]) for swap in swaps]

    def canonical(grid: np.ndarray) -> tuple[int, ...]:
        found = []
        for one, rows, columns in product((grid, grid.T), orders, orders):
            cells, names = one[rows][:, columns].ravel().tolist(), {0: 0}
            found.append(tuple(names.setdefault(cell, len(names)) for cell in cells))
        return min(found)

    classes = [canonical(grid) for grid in puzzles.numpy()]
    numbers = solvers.sudoku_number(puzzles.numpy()).tolist()
    assert len(set(classes)) == len(set(numbers)) == len(set(zip(classes, numbers, strict=True))) > 10


@pytest.mark.parametrize(("name", "count"), [("4", 300), ("6", 40), ("maze", 100)])
def test_no_puzzle_of_one_split_is_a_copy_of_one_of_the_other(name, count):
    number = solvers.maze_number if name == "maze" else solvers.sudoku_number
    seen = {
        split: {n for seed in (0, 7) for n in number(DRAWS[name](count=count, split=split, seed=seed).givens.numpy())}
        for split in ("train", "test")
    }
    assert seen["train"]
    assert seen["test"]
    assert not seen["train"] & seen["test"]


# Bad input


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"count": 0}, "count must be at least 1; got 0"),
        ({"size": 5}, "size 4, 6, 9; got 5"),
        ({"difficulty": "evil"}, "difficulty must be one of 'easy', 'medium', 'hard'; got 'evil'"),
        ({"clues": 17}, "clues must be 0 … 16; got 17"),
        ({"split": "validation"}, "'train' or 'test'; got 'validation'"),
        ({"seed": -1}, "seed must be one of .* got -1"),
        ({"difficulty": "hard"}, "of .* puzzles 0 are as asked for: ask for another size"),
    ],
)
def test_impossible_draws_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        sudoku(**({"count": 1} | arguments))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"count": 0}, "count must be at least 1"),
        ({"size": 3}, "size must be at least 5; got 3"),
        ({"size": 8}, "size must be odd, as rooms and walls take turns; got 8"),
        ({"openings": 1.5}, "openings must be 0 … 1; got 1.5"),
        ({"difficulty": "long"}, "difficulty must be one of"),
    ],
)
def test_impossible_mazes_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        mazes(**({"count": 1} | arguments))


def broken(row: int, column: int, value: int) -> Tensor:
    puzzles = torch.cat([sudoku(1).solutions] * 2)
    puzzles[1, row, column] = value
    return puzzles


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("givens", "error", "says"),
    [
        (EMPTY, ValueError, "puzzle 0 has more than one solution: it must have exactly one"),
        (broken(0, 0, int(broken(0, 0, 0)[0, 0, 1])), ValueError, "puzzle 1 has no solution"),
        (broken(0, 0, 5), ValueError, "a Sudoku of size 4 holds 0 … 4, 0 in an empty cell; got 1 … 5"),
        (broken(0, 0, -1), ValueError, "got -1 … 4"),
        (EMPTY[0], ValueError, r"must be \[n, size, size\], none of them 0; got \(4, 4\)"),
        (EMPTY[:, :3], ValueError, r"got \(1, 3, 4\)"),
        (EMPTY[:0], ValueError, r"got \(0, 4, 4\)"),
        (EMPTY[:, :2, :2], ValueError, "a Sudoku has size 4, 6, 9; got 2"),
        (EMPTY.float(), TypeError, "whole numbers; got torch.float32"),
        ([[0]], TypeError, "givens must be a tensor; got list"),
    ],
)
def test_what_is_no_sudoku_is_refused(givens, error, says):
    with pytest.raises(error, match=says):
        solve_sudoku(givens)


def maze_of(*rows: str) -> Tensor:
    return torch.tensor([[[" #SG*".index(mark) for mark in row] for row in rows]])


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("givens", "says"),
    [
        (maze_of("S#G", " # ", " # "), "puzzle 0 has no shortest way"),
        (maze_of("S  ", "   ", "  G"), "puzzle 0 has more than one shortest way"),
        (maze_of("S  ", "   ", "   "), "puzzle 0 has 0 cells with a goal, 3: it needs one"),
        (maze_of("SS ", "   ", "  G"), "puzzle 0 has 2 cells with a start, 2: it needs one"),
        (maze_of("S*G", "   ", "   "), "holds 0 floor, 1 wall, 2 start and 3 goal; got 0 … 4"),
    ],
)
def test_what_is_no_maze_is_refused(givens, says):
    with pytest.raises(ValueError, match=says):
        solve_maze(givens)


def test_a_maze_may_have_its_goal_beside_its_start():
    assert torch.equal(solve_maze(maze_of("SG ", "###", "   ")), maze_of("SG ", "###", "   "))
    assert tuple(range(5)) == (FLOOR, WALL, START, GOAL, PATH)
