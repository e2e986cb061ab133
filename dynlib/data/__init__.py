"""Real and seeded data, all offline: digits to see, documentation to read, maps to cross, puzzles to solve."""

from dynlib.data.digits import ClutteredDigits, Digits, cluttered_digits, digits
from dynlib.data.kinds import Mixed, kinds, mixed_windows
from dynlib.data.needles import Needles, needles
from dynlib.data.puzzles import Puzzles, augment, mazes, puzzle_stream, solve_maze, solve_sudoku, sudoku
from dynlib.data.terrain import Terrain, path_cost, shortest_path, terrain
from dynlib.data.topics import alphabet, decode, encode, text, topics, windows

__all__ = [
    "ClutteredDigits",
    "Digits",
    "Mixed",
    "Needles",
    "Puzzles",
    "Terrain",
    "alphabet",
    "augment",
    "cluttered_digits",
    "decode",
    "digits",
    "encode",
    "kinds",
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
