"""Real and seeded data, all offline: digits, documentation, maps, puzzles, and points to fit."""

from dynlib.data.chains import Chains, chains
from dynlib.data.digits import ClutteredDigits, Digits, cluttered_digits, digits, hatched_digits
from dynlib.data.kinds import Mixed, kinds, mixed_windows
from dynlib.data.needles import Needles, needles
from dynlib.data.paths import path_cost, shortest_path
from dynlib.data.puzzles import Puzzles, augment, mazes, puzzle_stream, solve_maze, solve_sudoku, sudoku
from dynlib.data.regression import Prompts, least_squares, linear_regression
from dynlib.data.terrain import Terrain, terrain
from dynlib.data.topics import alphabet, decode, encode, text, topics, windows

__all__ = [
    "Chains",
    "ClutteredDigits",
    "Digits",
    "Mixed",
    "Needles",
    "Prompts",
    "Puzzles",
    "Terrain",
    "alphabet",
    "augment",
    "chains",
    "cluttered_digits",
    "decode",
    "digits",
    "encode",
    "hatched_digits",
    "kinds",
    "least_squares",
    "linear_regression",
    "mazes",
    "mixed_windows",
    "needles",
    "path_cost",
    "puzzle_stream",
    "shortest_path",
    "solve_maze",
    "solve_sudoku",
    "sudoku",
    "terrain",
    "text",
    "topics",
    "windows",
]
