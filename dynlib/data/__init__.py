"""Real and seeded data, all of it offline: digits and clutter to see, documentation to read, maps to cross."""

from dynlib.data.digits import ClutteredDigits, Digits, cluttered_digits, digits
from dynlib.data.kinds import Mixed, kinds, mixed_windows
from dynlib.data.needles import Needles, needles
from dynlib.data.terrain import Terrain, path_cost, shortest_path, terrain
from dynlib.data.topics import alphabet, decode, encode, text, topics, windows

__all__ = [
    "ClutteredDigits",
    "Digits",
    "Mixed",
    "Needles",
    "Terrain",
    "alphabet",
    "cluttered_digits",
    "decode",
    "digits",
    "encode",
    "kinds",
    "mixed_windows",
    "needles",
    "path_cost",
    "shortest_path",
    "terrain",
    "text",
    "topics",
    "windows",
]
