"""The points as tables: for a teacher, and as Canvas and Moodle import them; the same bytes for the same grades.

A grade that is not there is an empty field, and never a 0: a submission that could not be read, and one with a task
that a person must look at first.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.grade.book import Mark, Marks
from tools.grade.exports import safe_name
from tools.grade.files import write
from tools.grade.room import points
from tools.grade.rules import Late


class Row(NamedTuple):
    """One student's grade in one unit.

    Attributes:
        state: "graded", "tampered", "unread", or "missing", who handed nothing in.
        points: in all, what was taken off for lateness included; None if there is no grade yet.
        tasks: points of each task; None where a person must look first.
        why: what stands in the way of a grade, and what else a teacher should know.
    """

    student: str
    name: str
    state: str
    points: float | None
    tasks: dict[str, float | None]
    why: str
    result: dict[str, Any] | None


def rows(
    unit: str, results: Sequence[dict[str, Any]], people: Sequence[dict[str, str]], marks: Marks, late: Late
) -> list[Row]:
    """The grades of a unit, one for each student of the class list and of the submissions, by name."""
    by_student = {result["student"]: result for result in results if result["unit"] == unit}
    listed = {row["student"]: row for row in people}
    group_of = {row["student"]: row["group"] for row in people if row.get("group")}
    found = []
    for student in sorted({*by_student, *listed}):
        result, note = by_student.get(student), ""
        if result is None and student in group_of:
            mates = [m for m, group in group_of.items() if group == group_of[student] and m in by_student]
            whole = safe_name(group_of[student])  # as Moodle calls a group's submission
            mates += [whole] if whole in by_student and whole not in listed else []
            if len(mates) == 1:
                result, note = by_student[mates[0]], f"handed in by {mates[0]}"
            elif mates:
                note = f"several of the group handed in ({', '.join(mates)}): whose counts?"
        found.append(_row(student, listed.get(student, {}).get("name", ""), result, note, marks, late))
    return found


def _row(student: str, name: str, result: dict[str, Any] | None, note: str, marks: Marks, late: Late) -> Row:
    if result is None:
        return Row(student, name, "missing", None, {}, note or "nothing was handed in", None)
    name = name or result["name"]
    if result["state"] == "unread":
        return Row(student, name, "unread", None, {}, result["why"], result)
    book = marks.get((result["unit"], result["student"]), {})
    tasks: dict[str, float | None] = {}
    for task, found in result["tasks"].items():
        scores = [_score(book.get(cell), got) for cell, got in found["cells"].items()]
        tasks[task] = None if None in scores else sum(score for score in scores if score is not None)
    open_tasks = [task for task, got in tasks.items() if got is None]
    got = sum(got or 0.0 for got in tasks.values())
    total = None if open_tasks else round(got - late.off(result, got), 2)
    told = [note, f"tampered, a person must look: {', '.join(open_tasks)}" if open_tasks else "", late.says(result)]
    told += [result["why"]] if result["why"] else []
    state = "tampered" if open_tasks else "graded"
    return Row(student, name, state, total, tasks, "; ".join(text for text in told if text), result)


def _score(mark: Mark | None, got: float | None) -> float | None:
    """A person's points count, where a person gave some."""
    if mark is None:
        return got
    score = mark.manual if mark.manual is not None else got
    return None if score is None else score + mark.extra


def plain(unit: str, found: Iterable[Row]) -> str:
    """For a teacher: all that is known, a column for each task."""
    tasks = list(dict.fromkeys(task for task, _ in points(unit).values()))
    head = ["student", "name", "state", "points", "most", *tasks, "why"]
    most = sum(value for _, value in points(unit).values())
    return _table(
        head, ([r.student, r.name, r.state, r.points, most, *(r.tasks.get(t) for t in tasks), r.why] for r in found)
    )


def canvas(unit: str, found: Iterable[Row], people: Sequence[dict[str, str]]) -> str:
    """For Canvas's import of grades: the students that have a number there, and a grade.

    An empty field could take away a grade that somebody gave in Canvas by hand, so who has none here is left out.
    """
    numbers = {row["student"]: row.get("canvas", "") for row in people}
    most = sum(value for _, value in points(unit).values())
    lines: list[list[Any]] = [["    Points Possible", "", "", "", "", most]]
    for row in found:
        number = numbers.get(row.student) or (
            row.result["number"] if row.result and row.result["origin"] == "canvas" else ""
        )
        if number and row.points is not None:
            lines.append([row.name or row.student, number, "", "", "", row.points])
    return _table(["Student", "ID", "SIS User ID", "SIS Login ID", "Section", unit], lines)


def moodle(unit: str, found: Iterable[Row], people: Sequence[dict[str, str]]) -> str:
    """For Moodle's grading worksheet, by the participant's number, and for its import of grades, by e-mail.

    The worksheet is refused without the column of when a grade was changed last, and leaves an empty grade alone.
    """
    listed = {row["student"]: row for row in people}
    most = sum(value for _, value in points(unit).values())
    lines = []
    for row in found:
        person = listed.get(row.student, {})
        number = person.get("moodle") or (
            row.result["number"] if row.result and row.result["origin"] == "moodle" else ""
        )
        if number or person.get("email"):
            identifier = f"Participant {number}" if number else ""
            lines.append([identifier, row.name or row.student, person.get("email", ""), row.points, most, ""])
    head = ["Identifier", "Full name", "Email address", "Grade", "Maximum Grade", "Last modified (grade)"]
    return _table(head, lines)


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    place = io.StringIO()
    writer = csv.writer(place, lineterminator="\n")
    writer.writerow(head)
    for line in lines:
        writer.writerow([_field(value) for value in line])
    return place.getvalue()


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text  # a spreadsheet would compute it


def put(course: Path, unit: str, found: Sequence[Row], people: Sequence[dict[str, str]]) -> list[Path]:
    """Write the tables of a unit; those of Canvas and Moodle where a student comes from there."""
    tables = {f"{unit}.csv": plain(unit, found), f"{unit}-canvas.csv": canvas(unit, found, people)}
    tables[f"{unit}-moodle.csv"] = moodle(unit, found, people)
    made = []
    for name, text in tables.items():
        if text.count("\n") > (2 if name.endswith("-canvas.csv") else 1):
            write(course / "grades" / name, text)
            made.append(course / "grades" / name)
    return made
