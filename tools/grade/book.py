"""nbgrader's grade book: points go in, and what a person decided there comes out and is never written over."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from nbgrader.api import Gradebook, MissingEntry
from nbgrader.preprocessors import ComputeChecksums, SaveCells

from tools.grade.files import write
from tools.grade.rules import Late, moment
from tools.notebooks import grade_id, is_check, read, solution


class Mark(NamedTuple):
    """What stands in the grade book for a check cell."""

    auto: float | None
    manual: float | None
    extra: float


Marks = dict[tuple[str, str], dict[str, Mark]]
"""For each unit and student, the mark of each check cell."""


@contextmanager
def opened(course: Path, units: Sequence[str]) -> Iterator[Any]:
    """The grade book of a course, with these units in it."""
    address = f"sqlite:///{course.resolve() / 'gradebook.db'}"
    for unit in units:
        _know(address, unit)
    with Gradebook(address, "") as book:
        yield book


def _know(address: str, unit: str) -> None:
    """See to it that the book has the cells of a unit, as nbgrader's own release puts them there.

    nbgrader lets no check come or go once there are submissions. So the unit is then taken out and put in anew, and
    what a person decided goes along.
    """
    cells = {
        grade_id(cell): float(cell.metadata.nbgrader.points) for cell in read(solution(unit)).cells if is_check(cell)
    }
    decided: dict[tuple[str, str], Decided] = {}
    with Gradebook(address, "") as book:
        try:
            notebook = book.find_notebook(unit, unit)
            known = {cell.name: cell.max_score for cell in notebook.grade_cells}
        except MissingEntry:
            notebook, known = None, {}
        if known == cells:
            return
        due = notebook.assignment.duedate if notebook is not None else None
        if notebook is not None and set(known) != set(cells):
            decided = _decided(notebook)
            book.remove_assignment(unit)
        book.update_or_create_assignment(unit, duedate=due)
    resources = {"nbgrader": {"assignment": unit, "notebook": unit, "db_url": address}}
    marked, _ = ComputeChecksums().preprocess(read(solution(unit)), resources)
    SaveCells().preprocess(marked, resources)
    if decided:
        with Gradebook(address, "") as book:
            _decide(book, unit, decided)


class Decided(NamedTuple):
    """What a person put into the book for a cell."""

    score: float | None
    extra: float | None
    comment: str | None


def _decided(notebook: Any) -> dict[tuple[str, str], Decided]:
    """What persons decided, by student and cell."""
    found = {}
    for submitted in notebook.submissions:
        comments = {comment.name: comment.manual_comment for comment in submitted.comments}
        scores = {grade.name: (grade.manual_score, grade.extra_credit) for grade in submitted.grades}
        for name in {*comments, *scores}:
            one = Decided(*scores.get(name, (None, None)), comments.get(name))
            if one != Decided(None, None, None):
                found[submitted.student.id, name] = one
    return found


def _decide(book: Any, unit: str, decided: dict[tuple[str, str], Decided]) -> None:
    for (student, name), one in sorted(decided.items()):
        book.update_or_create_submission(unit, student)
        notebook = book.find_submission_notebook(unit, unit, student)
        grades = {grade.name: grade for grade in notebook.grades}
        comments = {comment.name: comment for comment in notebook.comments}
        if name in grades:
            grades[name].manual_score, grades[name].extra_credit = one.score, one.extra
        elif one.score is not None or one.extra:
            print(f"{student}, {unit}: the mark by hand is gone with its check {name}: {one.score}", file=sys.stderr)
        if name in comments:
            comments[name].manual_comment = one.comment
    book.db.commit()


def enter(
    book: Any, course: Path, results: Sequence[dict[str, Any]], people: Sequence[dict[str, str]], late: Late
) -> None:
    """Put what was graded into the book; whom it has no grade for is left as they are."""
    for row in people:
        first, _, last = row.get("name", "").rpartition(" ")
        book.update_or_create_student(
            row["student"], first_name=first or None, last_name=last or None, email=row.get("email") or None
        )
    for result in results:
        if result["state"] == "unread":
            continue
        unit, student = result["unit"], result["student"]
        book.update_or_create_student(student)
        at = moment(result["when"])
        book.update_or_create_submission(unit, student, timestamp=_naive(at))
        notebook = book.find_submission_notebook(unit, unit, student)
        points = {name: got for task in result["tasks"].values() for name, got in task["cells"].items()}
        for grade in notebook.grades:
            if grade.name in points:
                grade.auto_score = points[grade.name]
                grade.needs_manual_grade = grade.auto_score is None and grade.manual_score is None
        book.db.commit()
        notebook.late_submission_penalty = late.off(result, notebook.score) or None
        book.db.commit()
        _hand_over(course, unit, student)


def _naive(at: datetime | None) -> datetime | None:
    return None if at is None else at.astimezone(tz=None).replace(tzinfo=None)


def _hand_over(course: Path, unit: str, student: str) -> None:
    """The notebook that ran, where nbgrader's formgrader looks for it."""
    source = course / "graded" / unit / f"{student}.ipynb"
    target = course / "autograded" / student / unit / f"{unit}.ipynb"
    if source.exists() and (not target.exists() or target.read_bytes() != source.read_bytes()):
        write(target, source.read_bytes())


def marks(book: Any, units: Sequence[str]) -> Marks:
    """What stands in the book."""
    found: Marks = {}
    for unit in units:
        for submission in book.assignment_submissions(unit):
            cells = found.setdefault((unit, submission.student.id), {})
            for notebook in submission.notebooks:
                for grade in notebook.grades:
                    cells[grade.name] = Mark(grade.auto_score, grade.manual_score, grade.extra_credit or 0.0)
    return found
