"""Eight kinds of text in one alphabet of bytes, to see what a network does with input that is not all of one kind.

Two are real, and come with every Python: the prose of :func:`dynlib.data.topics` and the source of its library. Six are
drawn from laws of their own, always the same ones: tables of measurements, sums, a log, a genome, and two invented
languages, which share their letters and hardly a word. A law is drawn once; the splits are two draws from it.
"""

import itertools
import random
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from dynlib.data.drawing import Split
from dynlib.data.topics import encode, text, windows

TRAIN_MODULES = (
    "argparse",
    "ast",
    "bdb",
    "calendar",
    "configparser",
    "contextlib",
    "copy",
    "csv",
    "dataclasses",
    "difflib",
    "dis",
    "enum",
    "ftplib",
    "functools",
    "gettext",
    "imaplib",
    "inspect",
    "ipaddress",
    "locale",
    "optparse",
    "pdb",
    "pickle",
    "platform",
    "pprint",
    "random",
    "shutil",
    "smtplib",
    "socket",
    "socketserver",
    "statistics",
    "subprocess",
    "tarfile",
    "tempfile",
    "threading",
    "tokenize",
    "traceback",
    "typing",
    "uuid",
)
"""Modules of the standard library, each in one file from Python 3.11 on, whose source is trained on."""

TEST_MODULES = ("bisect", "cmd", "fractions", "heapq", "queue", "sched", "shlex", "textwrap")
"""Those whose source is tested with."""

CHARACTERS = {"train": 150_000, "test": 20_000}
"""How much is drawn of each invented kind. Of the real kinds there is as much as there is."""


def kinds(split: Split = "train") -> dict[str, str]:
    """The names of the kinds, in order, and the text of each.

    Raises:
        ValueError: for a split of another name.
        FileNotFoundError: if this Python comes without the source of its library.
    """
    if split not in CHARACTERS:
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    return {name: write(split) for name, write in _WRITERS.items()}


class Mixed(NamedTuple):
    """Stretches of text, each of one kind.

    Attributes:
        tokens: bytes, [count, length].
        kind: of which kind each is: its place among the names of :func:`kinds`, [count].
    """

    tokens: Int[Tensor, "count length"]
    kind: Int[Tensor, " count"]


def mixed_windows(split: Split, count: int, length: int, *, generator: torch.Generator | None = None) -> Mixed:
    """``count`` stretches of ``length`` bytes, each from a random place of a random kind, all kinds alike.

    Raises:
        ValueError: for a split of another name, or stretches that do not fit into the text of a kind.
        FileNotFoundError: as :func:`kinds`.
    """
    texts = _encoded(split)
    if count < 1:
        raise ValueError(f"need count >= 1; got {count}")
    shortest = min(map(len, texts))
    if not 1 <= length <= shortest:  # for every kind, not for those alone that are drawn
        raise ValueError(f"need 1 <= length <= {shortest}, as long as the shortest kind; got a length of {length}")
    kind = torch.randint(len(texts), (count,), generator=generator)
    tokens = [windows(texts[number], 1, length, generator=generator)[0] for number in kind.tolist()]
    return Mixed(torch.stack(tokens), kind)


@cache
def _encoded(split: Split) -> list[Tensor]:
    return [encode(part) for part in kinds(split).values()]


def _prose(split: Split) -> str:
    return text(split)


def _python(split: Split) -> str:
    return "\n\n".join(_source(name) for name in (TRAIN_MODULES if split == "train" else TEST_MODULES))


def _source(module: str) -> str:
    file = Path(sysconfig.get_path("stdlib")) / f"{module}.py"
    if not file.is_file():
        raise FileNotFoundError(
            f"this Python has no {file}: use one that comes with the source of its library, as those of python.org, "
            "conda and most systems do"
        )
    return file.read_text(encoding="utf-8")


def _tables(split: Split) -> str:
    """A station a line, a block a day: each reading is near the last one of that station."""
    law, draw = random.Random("tables"), random.Random(f"tables, {split}")
    stations = [f"{law.choice('ABCDEF')}{law.randrange(100, 1000)}" for _ in range(12)]
    usual = {station: [law.uniform(-5, 25), law.uniform(960, 1030), law.uniform(20, 95)] for station in stations}
    now = {station: list(values) for station, values in usual.items()}
    lines: list[str] = []
    for day in itertools.count(draw.randrange(300)):
        lines.append(f"day {day:4d}     temp  pressure  humid")
        for station in stations:
            values = now[station]
            for at, (mean, spread) in enumerate(zip(usual[station], (1.5, 3.0, 5.0), strict=True)):
                values[at] += 0.2 * (mean - values[at]) + draw.gauss(0, spread)
            lines.append(f"{station}  {values[0]:12.1f}  {values[1]:8.1f}  {max(0.0, min(100.0, values[2])):5.0f}")
        if len(lines) * 34 > CHARACTERS[split]:
            return _of_size("\n".join(lines), split)
    raise AssertionError


def _sums(split: Split) -> str:
    """Sums and differences with their results."""
    draw = random.Random(f"sums, {split}")
    lines: list[str] = []
    while len(lines) * 13 < 1.5 * CHARACTERS[split]:
        a, b = draw.randrange(1000), draw.randrange(1000)
        lines.append(f"{a}+{b}={a + b}" if draw.random() < 0.5 else f"{a}-{b}={a - b}")
    return _of_size("\n".join(lines), split)


def _log(split: Split) -> str:
    """What a server writes: a time that goes on, and one of some messages with numbers in them."""
    law, draw = random.Random("log"), random.Random(f"log, {split}")
    parts = [f"{law.choice(('auth', 'disk', 'http', 'mail', 'net', 'queue'))}{number}" for number in range(12)]
    said = {part: [law.choice(_MESSAGES) for _ in range(3)] for part in parts}
    seconds, size = draw.randrange(80_000), 0
    lines: list[str] = []
    while size < CHARACTERS[split]:
        seconds += draw.randrange(1, 90)
        part = draw.choice(parts)
        level, message = draw.choices(said[part], (6, 3, 1))[0]
        clock = f"{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        lines.append(f"[{clock}] {level:5} {part}: {message.format(draw.randrange(256), draw.randrange(1, 5000))}")
        size += len(lines[-1]) + 1
    return _of_size("\n".join(lines), split)


_MESSAGES = (
    ("INFO", "request from 10.0.0.{} served in {} ms"),
    ("INFO", "user {} logged in, session {}"),
    ("INFO", "wrote {} blocks, {} free"),
    ("INFO", "worker {} took job {}"),
    ("WARN", "10.0.0.{} answers slowly, {} ms"),
    ("WARN", "retry {} of job {}"),
    ("WARN", "cache at {} %, {} entries dropped"),
    ("ERROR", "connection to 10.0.0.{} lost after {} ms"),
    ("ERROR", "checksum of block {} differs, {} expected"),
    ("ERROR", "no space for job {}, {} bytes short"),
)


def _genome(split: Split) -> str:
    """Four letters; each depends on the five before it."""
    law, draw = random.Random("genome"), random.Random(f"genome, {split}")
    weights = {}
    for before in itertools.product("ACGT", repeat=5):
        weights["".join(before)] = [law.random() ** 3 for _ in "ACGT"]
    letters = list("ACGTA")
    while len(letters) < CHARACTERS[split]:
        letters += draw.choices("ACGT", weights["".join(letters[-5:])])
    return _of_size("\n".join("".join(line) for line in _batched(letters, 60)), split)


def _language(name: str) -> Callable[[Split], str]:
    """Words made of a language's own syllables; each word has a few that may follow it."""

    def write(split: Split) -> str:
        law, draw = random.Random(name), random.Random(f"{name}, {split}")
        syllables = [
            law.choice("bdfgklmnprstv") + law.choice("aeiou") + law.choice(("", "", "n", "r")) for _ in range(40)
        ]
        words = sorted({"".join(law.choices(syllables, k=law.choice((1, 2, 2, 3)))) for _ in range(300)})
        after = {word: law.sample(words, 6) for word in words}
        word, size, said = words[0], 0, []
        while size < CHARACTERS[split]:
            word = draw.choices(after[word], (8, 4, 3, 2, 1, 1))[0]
            said.append(word)
            size += len(word) + 1
        lines = [" ".join(line) for line in _batched(said, 12)]
        return _of_size("\n".join(lines), split)

    return write


def _batched(parts: list[str], size: int) -> list[list[str]]:
    return [parts[start : start + size] for start in range(0, len(parts), size)]


def _of_size(written: str, split: Split) -> str:
    return written[: CHARACTERS[split]]


_WRITERS: dict[str, Callable[[Split], str]] = {
    name: cache(write)
    for name, write in {
        "prose": _prose,
        "python": _python,
        "tables": _tables,
        "sums": _sums,
        "log": _log,
        "genome": _genome,
        "language A": _language("language A"),
        "language B": _language("language B"),
    }.items()
}
