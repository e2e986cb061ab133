"""What a lecture says beside its pictures: tables, means with their intervals in words, results of studies.

Nothing here decides what a page concludes. A sentence about a result that is fixed (read from a study, or computed from
a shipped network on shipped data) is prose, and an assertion beside it holds it. :func:`verdict` is for numbers that
are measured while the reader watches, and may come out otherwise on another machine.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dynlib.cost import Interval, Ratio

if TYPE_CHECKING:
    from IPython.display import Markdown


Spread = Interval | Ratio
"""A number and the interval round it: of a mean, or of a median ratio of times."""


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that every run of a page draws the same numbers."""
    return torch.Generator().manual_seed(seed)


def say(text: str) -> "Markdown":
    """Markdown as a cell shows it: for the sentence whose numbers are measured in this run."""
    from IPython.display import Markdown

    return Markdown(text)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, note: str = "") -> "Markdown":
    """A table, to be the value of a cell. Jupyter, nbconvert and GitHub show it, each in its own colours.

    A column whose cells are all numbers (with their units, signs and intervals) or empty stands at the right. Cells
    may hold Markdown. A ``|`` is escaped; within a formula write ``\\\\vert``.

    Args:
        heads: one a column; may be empty.
        rows: each with as many cells as there are heads.
        note: one sentence below, in italics: what was counted, on what, over how many seeds.

    Raises:
        ValueError: if a row has another number of cells than there are heads.
    """
    return say(markdown_table(heads, rows, note=note))


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, note: str = "") -> str:
    """The same as text."""
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows]
    for number, row in enumerate(cells, start=1):
        if len(row) != len(heads):
            raise ValueError(f"row {number} has {len(row)} cells, and there are {len(heads)} heads: {row}")
    right = [all(map(_is_number, column)) and any(column) for column in zip(*cells, strict=True)] or [False] * len(
        heads
    )
    lines = [
        f"| {' | '.join(head.replace('|', chr(92) + '|') for head in heads)} |",
        f"|{'|'.join('--:' if numbers else ':--' for numbers in right)}|",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]
    return "\n".join(lines) + (f"\n\n*{note}*" if note else "")


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"|–|\**[<>≈×+−±-]?\s*[.\d].{0,40}", cell) is not None


def in_words(spread: Spread, form: str = ".2f") -> str:
    """A number with its interval: ``0.93 ± 0.02`` where that lies evenly round a mean, else ``0.93 (0.88 – 0.96)``.

    Args:
        spread: an ``Interval``, or a ``Ratio`` of times.
        form: how to write a number, as in a format string: ``".1%"``, ``"+.3f"``.

    Raises:
        ValueError: for a format that floats do not know.
    """
    if isinstance(spread, Interval) and math.isclose(spread.high - spread.mean, spread.mean - spread.low, rel_tol=1e-6):
        mean = round(spread.mean, 10)  # a tie is told the same way, whatever the last bit says
        return f"{mean:{form}} ± {spread.half:{form.lstrip('+')}}"
    return f"{spread[0]:{form}} ({spread.low:{form}} – {spread.high:{form}})"


def verdict(gap: Spread, *, zero: float = 0.0, more: str = "yes", less: str = "no", unclear: str = "not clear") -> str:
    """One of three words for a number measured in this run: above ``zero``, below it, or the interval holds both.

    For ratios of times ``zero`` is 1: ``verdict(ratio, zero=1, more="slower", less="faster")``.
    """
    return more if gap.low > zero else less if gap.high < zero else unclear


def study(name: str) -> Any:
    """The results of a study, which took longer than a reader would wait: ``benchmarks/NAME.json``.

    It is looked for in the checkout that dynlib is used from, then in the folder of the notebook and those above it.

    Raises:
        ValueError: if the name is no plain word.
        FileNotFoundError: if it is in none of them; says what to do.
    """
    if not re.fullmatch(r"\w+", name):
        raise ValueError(
            f"name is that of a file in benchmarks/, without its ending, such as 'avit_study'; got {name!r}"
        )
    here = Path.cwd()
    tried = dict.fromkeys([Path(__file__).resolve().parent.parent, here, *here.parents])
    for folder in tried:
        file = folder / "benchmarks" / f"{name}.json"
        if file.is_file():
            return json.loads(file.read_text(encoding="utf-8"))
    there = sorted({file.stem for folder in tried for file in folder.glob("benchmarks/*.json")})
    raise FileNotFoundError(
        f"there is no benchmarks/{name}.json where dynlib is used from, in {here}, nor above it"
        + (f"; there are {', '.join(there)}. " if there else ". ")
        + f"Run the page from a checkout of the course, or make the file with `python -m benchmarks.{name}`."
    )
