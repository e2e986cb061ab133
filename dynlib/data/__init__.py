"""Real and seeded data, all of it offline: digits and cluttered digits to see, documentation to read."""

from dynlib.data.digits import ClutteredDigits, Digits, cluttered_digits, digits
from dynlib.data.topics import alphabet, decode, encode, topics, windows

__all__ = [
    "ClutteredDigits",
    "Digits",
    "alphabet",
    "cluttered_digits",
    "decode",
    "digits",
    "encode",
    "topics",
    "windows",
]
