"""Grade a folder of submissions: python -m tools.grade COURSE UNIT…

COURSE is a folder with submitted/ as nbgrader lays it out, or with zips of Canvas or Moodle in it; or a zip; or one
notebook. What was graded before is kept, unless it was handed in again or its checks changed.
"""

import argparse
import contextlib
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy.exc import SAWarning
from tqdm import tqdm

from tools.grade import batch, book, mistakes, pages, similar, tables, walls
from tools.grade.intake import class_list, gather
from tools.grade.rules import Late
from tools.grade.sandbox import Limits
from tools.notebooks import ROOT, lacking, read, solution, units


def main(given: Sequence[str] | None = None) -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m tools.grade", description=__doc__)
    parser.add_argument("course", type=Path, help="the folder, zip or notebook")
    parser.add_argument("units", nargs="+", help="such as 02_gumbel")
    parser.add_argument("--jobs", type=int, default=1, help="submissions at a time; each takes a core (default: 1)")
    parser.add_argument("--trust", action="store_true", help="grade without a sandbox: you know all who handed in")
    parser.add_argument("--sandbox", choices=list(walls.KINDS), default="", help="this one, not the first that works")
    parser.add_argument("--every", action="store_true", help="grade again what was graded before")
    parser.add_argument(
        "--cell-seconds", type=int, default=Limits().cell, help="that a cell may run (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=int,
        default=Limits().total,
        help="that all cells may run, and then the checks (default: %(default)s)",
    )
    parser.add_argument(
        "--memory", type=int, default=Limits().mib, help="MiB that a notebook may use (default: %(default)s)"
    )
    parser.add_argument("--count", action="store_true", help="print how many submissions there are, for an array job")
    parser.add_argument("--index", type=int, help="grade one of them alone, from 0; without --index all come back")
    asked = parser.parse_args(given)
    try:
        return run(asked)
    except (ValueError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def run(asked: argparse.Namespace) -> int:
    """Grade, and give back."""
    for unit in asked.units:
        if unit not in units():
            raise ValueError(f"there is no unit {unit}; there are {', '.join(units())}")
        if reason := lacking(read(solution(unit))):
            raise ValueError(f"{unit} cannot be graded: {reason}")
    if asked.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {asked.jobs}")
    if sys.platform == "win32":
        raise ValueError("on Windows, grade in WSL: the kernel is spoken to through sockets of Unix")
    course = asked.course if asked.course.is_dir() else asked.course.with_name(f"{asked.course.stem}.graded")
    if course.resolve().is_relative_to(ROOT):
        raise ValueError("grade in a folder of its own: never in the checkout of the course")
    submissions, told = gather(asked.course, asked.units)
    people = class_list(course if asked.course.is_dir() else asked.course.parent)
    course.mkdir(exist_ok=True)
    place = course / "graded"
    if asked.count:
        for unit in sorted({submission.unit for submission in submissions if submission.raw}):
            mistakes.known(unit, place)
        print(len(submissions))
        return 0
    behind = walls.TRUST if asked.trust else walls.find(asked.sandbox)
    if behind is None:
        none = f"{asked.sandbox} is not there, or keeps nothing in; without --sandbox the first that works is taken"
        raise ValueError("\n".join([none if asked.sandbox else walls.NONE_FOUND, *walls.faults(asked.sandbox)]))
    limits = Limits()._replace(cell=asked.cell_seconds, total=asked.seconds, mib=asked.memory)
    if swept := walls.sweep():
        print(f"what a killed grader left behind was ended and removed: {swept}", file=sys.stderr)
    if asked.index is not None:
        if not 0 <= asked.index < len(submissions):
            raise ValueError(f"--index must be from 0 to {len(submissions) - 1}, got {asked.index}")
        with alone(course, but_for_others=True):
            chosen = submissions[asked.index]
            was = "" if batch.grade_one(chosen, place, behind, limits=limits, every=asked.every) else ", as it was"
            state = (batch.load(place, chosen.unit, chosen.student) or {"state": "not graded"})["state"]
            print(f"{asked.index}: {chosen.student}, {chosen.unit}: {state}{was}")
        return 0
    warnings.filterwarnings("ignore", category=SAWarning)  # nbgrader's models
    # nbgrader calls alembic by its bare name
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with alone(course):
        with tqdm(total=0, desc="grading", unit="notebook", leave=False, disable=None) as bar:

            def say(what: str, done: int, of: int, names: Sequence[str]) -> None:
                bar.total = of
                if what == "running":
                    bar.set_postfix_str(", ".join(names)[:60])
                else:
                    bar.n = done
                bar.refresh()

            batch.grade(submissions, place, behind, limits=limits, jobs=asked.jobs, every=asked.every, told=say)
        marks = give_back(course, asked.units, people, told)
        for unit in asked.units:
            batch.tell(place, unit, lambda change: print(said_of(change, marks)))
    return 0


def said_of(change: batch.Change, marks: book.Marks) -> str:
    """A line about points that changed."""
    before, after = ("no points yet" if value is None else f"{value:g}" for value in (change.before, change.after))
    cells = marks.get((change.unit, change.student), {})
    by_hand = any(mark.manual is not None for name, mark in cells.items() if name.rsplit("-", 1)[0] == change.task)
    stays = "; the mark by hand stays" if by_hand else ""
    return f"changed: {change.student}, {change.unit}, {change.task}: {before} → {after} ({change.why}){stays}"


def give_back(course: Path, names: Sequence[str], people: list[dict[str, str]], told: Sequence[str]) -> book.Marks:
    """Grade book, tables and pages, from the results that lie there; what stands in the book."""
    everything = [
        result
        for unit in units()
        for path in sorted((course / "graded" / unit).glob("*.json"))
        if (result := batch.load(course / "graded", unit, path.stem)) is not None
    ]
    late = Late(course, everything)
    results = [result for result in everything if result["unit"] in names]
    with book.opened(course, names) as opened:
        book.enter(opened, course, results, people, late)
        marks = book.marks(opened, names)
    for unit in names:
        found = tables.rows(unit, results, people, marks, late)
        files = tables.put(course, unit, found, people)
        page = pages.put(course, unit, found, told, late, similar.of_unit(course / "graded", unit))
        states = Counter(row.state for row in found)
        print(f"{unit}: {', '.join(f'{count} {state}' for state, count in sorted(states.items())) or 'nobody'}")
        for row in found:
            if row.state in ("tampered", "unread"):
                print(f"  {row.state}: {row.student}: {row.why}")
        print(f"  {', '.join(str(path) for path in [*files, page])}; feedback/<student>/{unit}/{unit}.html")
    for line in told:
        print(f"  note: {line}")
    return marks


@contextlib.contextmanager
def alone(course: Path, *, but_for_others: bool = False) -> Iterator[None]:
    """A block that no other process is in at the same time, for the same course; or none but others of its kind."""
    if os.name == "nt":
        yield
        return
    import fcntl

    (course / "graded").mkdir(parents=True, exist_ok=True)
    with (course / "graded" / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if but_for_others else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{course} is being graded already, by another process") from None
        yield


if __name__ == "__main__":
    sys.exit(main())
