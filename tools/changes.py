"""What changed in an exercise since a learner's copy was made: which tasks, and how, cell by cell.

Beside the learner's notebooks, in work/.copied/, `make lab` keeps each exercise as it was when it was copied. One
without such a record tells the same by the checksums that nbgrader left in it, except for the old text of a stub.
"""

import argparse
import difflib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nbformat import NotebookNode

from tools import notebooks
from tools.notebooks import read

PARTS = {
    "task": "text",
    "answer": "what you are given",
    "hints": "hints",
    "check": "check",
    "hidden": "hidden checks",
}


class Change(NamedTuple):
    """A cell that is another than it was; ``before`` is None where it was not there or nobody knows it any more."""

    cell: str
    before: str | None
    now: str | None

    @property
    def task(self) -> str:
        """The task that the cell belongs to, or the cell's own name."""
        task, _, part = self.cell.rpartition("-")
        return task if task and part.rstrip("23456789") in PARTS else self.cell

    @property
    def part(self) -> str:
        """Which part of its task it is."""
        return PARTS.get(self.cell.rpartition("-")[2].rstrip("23456789"), "")


def record(unit: str) -> Path:
    """Where the exercise of a unit is kept as it was when it was copied."""
    return notebooks.WORK / ".copied" / f"{unit}.ipynb"


def remember(unit: str) -> None:
    """Keep today's exercise as what the learner's copy was made from."""
    record(unit).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(notebooks.exercise(unit), record(unit))


def changes(unit: str, path: Path) -> list[Change]:
    """What is new in today's exercise, and not yet in this notebook; nothing where one of them cannot be read."""
    try:
        today, mine = _cells(read(notebooks.exercise(unit))), _cells(read(path))
    except Exception:
        return []
    try:
        in_work = path.resolve() == (notebooks.WORK / unit / f"{unit}.ipynb").resolve()
        was = _cells(read(record(unit))) if in_work else None
    except Exception:  # no record, or a broken one
        was = None
    return list(_by_record(was, mine, today) if was is not None else _by_checksum(mine, today))


def comparable(unit: str, path: Path) -> bool:
    """Whether all that a notebook was given is what the exercise gives today, by the checksums in it."""
    try:
        today, mine = _cells(read(notebooks.exercise(unit))), _cells(read(path))
    except Exception:
        return False
    return all(name in mine and _checksum(mine[name]) == _checksum(cell) for name, cell in today.items())


def _by_record(
    was: Mapping[str, NotebookNode], mine: Mapping[str, NotebookNode], today: Mapping[str, NotebookNode]
) -> Iterator[Change]:
    for name in {**today, **was}:
        before, now, here = (_source(side, name) for side in (was, today, mine))
        if before != now and here != now:
            yield Change(name, before, now)


def _by_checksum(mine: Mapping[str, NotebookNode], today: Mapping[str, NotebookNode]) -> Iterator[Change]:
    known = {Change(name, None, None).task for name in mine}
    for name, cell in today.items():
        old = mine.get(name)
        if old is None:
            if Change(name, None, None).task not in known:  # else the learner took the cell out
                yield Change(name, None, cell.source)
            continue
        if _checksum(old) not in (None, _checksum(cell)) and old.source != cell.source:
            answered = old.metadata.nbgrader.get("solution", False)
            yield Change(name, None if answered else old.source, cell.source)


def _cells(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """The marked cells, by their names; of copies, the first."""
    found: dict[str, NotebookNode] = {}
    for cell in notebook.cells:
        mark = cell.metadata.get("nbgrader", {})
        name = mark.get("grade_id") if isinstance(mark, dict) else None
        if isinstance(name, str) and name:
            found.setdefault(name, cell)
    return found


def _checksum(cell: NotebookNode) -> str | None:
    return cell.metadata.nbgrader.get("checksum")


def _source(cells: Mapping[str, NotebookNode], name: str) -> str | None:
    return cells[name].source if name in cells else None


# In words.


def summary(found: Sequence[Change]) -> str:
    """Which tasks changed, and which of their parts."""
    tasks: dict[str, list[Change]] = {}
    for change in found:
        tasks.setdefault(change.task, []).append(change)
    told = []
    for task, parts in tasks.items():
        if all(change.now is None for change in parts):
            told.append(f"{task} (taken out)")
        elif all(change.before is None and change.part for change in parts) and len(parts) > 1:
            told.append(f"{task} (new)")
        else:
            which = ", ".join(change.part for change in parts if change.part)
            told.append(f"{task} ({which})" if which else task)
    return ", ".join(told)


def difference(found: Sequence[Change]) -> str:
    """The cells one by one, lines that went with a minus, lines that came with a plus."""
    lines = list[str]()
    for change in found:
        before, now = (change.before or "").split("\n"), (change.now or "").split("\n")
        if change.before is None or change.now is None:
            sign, text = ("+", now) if change.before is None else ("-", before)
            lines += ["", f"{change.cell}:", *(f"  {sign} {line}".rstrip() for line in text)]
            continue
        lines += ["", f"{change.cell}:"]
        for line in list(difflib.unified_diff(before, now, lineterm="", n=2))[2:]:
            lines.append("  ..." if line.startswith("@@") else f"  {line[0]} {line[1:]}".rstrip())
    return "\n".join(lines[1:])


def main() -> None:
    """Read the command line and do what it says."""
    from tools.progress import chosen, unit_of  # it takes a while to import, and `make lab` does without

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="units such as 02_gumbel, or paths of notebooks; all of work/ if none")
    try:
        there = chosen(parser.parse_args().names)
    except ValueError as error:
        sys.exit(str(error))
    for name, path in there.items():
        unit = unit_of(path)
        found = changes(unit, path)
        print(f"{name}: {summary(found) if found else 'nothing changed since yours was copied'}")
        if found:
            print(f"\n{difference(found)}\n")
            print(
                f"Your notebook stays as it is. For a new copy, rename the folder work/{unit}, then `make lab`; "
                "or copy what you need."
            )


if __name__ == "__main__":
    main()
