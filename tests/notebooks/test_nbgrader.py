"""A teacher's whole way with nbgrader: release, collect, grade, feedback, export, in a course folder of its own."""

import csv
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbgrader.api import Gradebook

from tests.graders.harness import answers, run
from tests.notebooks import toys
from tools.notebooks import ROOT, exercise, is_answer, is_check, read, solution, task_of, tasks

TOYS = "99_toys"
REAL = "00_start_here"
STRANGE, BESIDE = "98_strange", "97_beside"
NOISY = (
    'import sys, warnings\nfrom tqdm import tqdm\nwarnings.warn("deprecated")\nprint("here", file=sys.stderr)\n'
    "return sum(x for _ in tqdm(range(2)))"
)

Expected = dict[str, dict[str, float]]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_submission_gets_the_points_it_earned_in_the_grade_book_and_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nbgrader calls alembic by its bare name: a teacher activates the environment.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    course = tmp_path / "course"
    _write(toys.unit(), course / "solutions" / TOYS / f"{TOYS}.ipynb")
    shutil.copytree(solution(REAL).parent, course / "solutions" / REAL)
    shutil.copy(ROOT / "nbgrader_config.py", course)
    _write(toys.unit(voice=False, above=True), course / "solutions" / STRANGE / f"{STRANGE}.ipynb")
    _write(toys.beside(), course / "solutions" / BESIDE / f"{BESIDE}.ipynb")
    (course / "solutions" / BESIDE / "checks_toys.py").write_text(toys.CHECKS)

    nbgrader(course, "generate_assignment", "--assignment=*")
    released = read(course / "exercises" / TOYS / f"{TOYS}.ipynb")
    assert (course / "exercises" / REAL / f"{REAL}.ipynb").read_bytes() == exercise(REAL).read_bytes()

    expected = {
        TOYS: hand_in_toys(course, released),
        REAL: hand_in_real(course),
        STRANGE: hand_in_strange(course),
        BESIDE: hand_in_beside(course),
    }
    nbgrader(course, "autograde", "--assignment=*")
    nbgrader(course, "generate_feedback", "--assignment=*")
    nbgrader(course, "export", "--to", "grades.csv")

    found = {unit: grade_book(course, unit) for unit in expected}
    assert found == expected

    with (course / "grades.csv").open() as table:
        rows = {(row["assignment"], row["student_id"]): row for row in csv.DictReader(table)}
    for unit, students in expected.items():
        most = sum(students["correct"].values())
        for student, points in students.items():
            row = rows[unit, student]
            assert float(row["score"]) == sum(points.values()), row
            assert float(row["max_score"]) == most, row
            page = (course / "feedback" / student / unit / f"{unit}.html").read_text()
            if unit not in (TOYS, REAL):
                continue  # where there is no voice, feedback is a traceback
            told = "did not pass" in page or "not filled in yet" in page
            assert told == (sum(points.values()) < most), f"{student}'s feedback says what is missing, and only that"


def hand_in_toys(course: Path, released: NotebookNode) -> Expected:
    """Hand in what can happen to a notebook besides right and wrong answers; the points that each must bring."""
    full = {task: float(points) for task, points in toys.POINTS.items()}

    # Right, with warnings and a progress bar on stderr, and a cell of the student's own that fails.
    noisy = toys.answered(released, **toys.RIGHT | {"double": NOISY})
    noisy.cells.insert(2, nbformat.v4.new_code_cell("1 / 0", id="my-own-cell"))

    # A right answer whose check is gone; one that only the hidden checks see through, with the hidden cell gone and the
    # other made to pass; a task of which nothing is left.
    tampered = toys.answered(released, double=toys.RIGHT["double"], halve="return 4")
    for name in ("double-hidden", "halve-check"):
        toys.cell_of(tampered, name).source = "100"
        toys.cell_of(tampered, name).metadata.nbgrader.points = 100
    for name in ("double-check", "halve-hidden", "negate-answer", "negate-check", "negate-hidden"):
        tampered.cells.remove(toys.cell_of(tampered, name))

    submissions = {
        "correct": (noisy, full),
        "wrong": (
            toys.answered(released, double="return 3 * x", halve="return 4", negate="return -x"),
            {"double": 0.0, "halve": 1.0, "negate": full["negate"]},
        ),
        "tampered": (tampered, {"double": full["double"], "halve": 1.0, "negate": 0.0}),
    }
    for student, (notebook, _) in submissions.items():
        _write(notebook, course / "submitted" / student / TOYS / f"{TOYS}.ipynb")
    return {student: points for student, (_, points) in submissions.items()}


def hand_in_strange(course: Path) -> Expected:
    """Hand in what learners do to a notebook in an editor, where nbgrader has a way of its own to go wrong."""
    submissions = toys.strange(read(course / "exercises" / STRANGE / f"{STRANGE}.ipynb"))
    submissions = {re.sub(r"\W+", "-", name): submissions[name] for name in toys.BY_NBGRADER}
    submissions["correct"] = toys.strange(read(course / "exercises" / STRANGE / f"{STRANGE}.ipynb"))["another folder"]
    for student, (notebook, _) in submissions.items():
        _write(notebook, course / "submitted" / student / STRANGE / f"{STRANGE}.ipynb")
    return {student: points for student, (_, points) in submissions.items()}


def hand_in_beside(course: Path) -> Expected:
    """Hand in files beside the notebook that would lift the grade: other checks, and namesakes of packages."""
    assert (course / "exercises" / BESIDE / "checks_toys.py").read_text() == toys.CHECKS, "the checks are handed out"
    released = read(course / "exercises" / BESIDE / f"{BESIDE}.ipynb")
    right = {task: float(points) for task, points in toys.POINTS.items()}
    honest = toys.answered(released, **toys.RIGHT | {"double": "return 0"})
    rewriting = nbformat.from_dict(honest)
    rewriting.cells.insert(0, nbformat.v4.new_code_cell(f"%%writefile checks_toys.py\n{toys.BLIND}"))
    submissions = {
        "correct": toys.answered(released, **toys.RIGHT),
        "honest": honest,
        "blind": nbformat.from_dict(honest),
        "rewriting": rewriting,
    }
    for student, notebook in submissions.items():
        _write(notebook, course / "submitted" / student / BESIDE / f"{BESIDE}.ipynb")
    beside = course / "submitted" / "blind" / BESIDE
    (beside / "checks_toys.py").write_text(toys.BLIND)
    (beside / "dynlib").mkdir()
    for name in ("torch.py", "ipykernel_launcher.py", "json.py", "dynlib/__init__.py"):
        (beside / name).write_text("raise SystemExit('this is not the package')")
    return {student: right | ({} if student == "correct" else {"double": 0.0}) for student in submissions}


def hand_in_real(course: Path) -> Expected:
    """Hand in a unit of the course: the solution, a wrong answer and a broken one in the last task, the blank."""
    source, blank = read(solution(REAL)), read(exercise(REAL))
    most: dict[str, float] = defaultdict(float)
    for cell in filter(is_check, source.cells):
        most[task_of(cell)] += cell.metadata.nbgrader.points
    last = list(tasks(source))[-1]
    right = nbformat.from_dict(blank)
    for cell, answer in zip(right.cells, source.cells, strict=True):
        if is_answer(cell):
            cell.source = "\n".join(line for line in answer.source.split("\n") if " SOLUTION" not in line)

    def answered(code: str) -> NotebookNode:
        notebook = nbformat.from_dict(right)
        next(cell for cell in notebook.cells if is_answer(cell) and task_of(cell) == last).source = code
        return notebook

    # The harness judges in this process, without nbgrader: both must come to the same points for each check.
    wrong = [answer for answer in answers(REAL) if not answer.right and answer.task == last][-1]
    brought = {outcome.cell: outcome.stopped_by is None for outcome in run(REAL, last, wrong.code)}
    some = sum(cell.metadata.nbgrader.points for cell in source.cells if brought.get(cell.id))
    assert some < most[last]

    submissions = {
        "correct": (right, dict(most)),
        "blank": (blank, dict.fromkeys(most, 0.0)),
        "wrong": (answered(wrong.code), most | {last: float(some)}),
        "broken": (answered("def answer(:\n    pass"), most | {last: 0.0}),
    }
    for student, (notebook, _) in submissions.items():
        _write(notebook, course / "submitted" / student / REAL / f"{REAL}.ipynb")
    return {student: points for student, (_, points) in submissions.items()}


def grade_book(course: Path, unit: str) -> Expected:
    """The points of each student for each task, from the data base."""
    found: Expected = {}
    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        for submission in book.assignment_submissions(unit):
            points: dict[str, float] = defaultdict(float)
            for grade in submission.notebooks[0].grades:
                assert not grade.needs_manual_grade
                points[grade.name.rsplit("-", 1)[0]] += grade.score
            found[submission.student.id] = dict(points)
    return found


def nbgrader(course: Path, *arguments: str) -> None:
    """Run nbgrader in the course folder, as a teacher does, without the settings of whoever runs the tests."""
    home = course.parent / "home"
    home.mkdir(exist_ok=True)
    places = {name: str(home / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("nbgrader")), *arguments],
        cwd=course,
        env={**os.environ, "HOME": str(home), "IPYTHONDIR": str(home / "ipython"), **places},
        capture_output=True,
        text=True,
        timeout=500,
    )
    if ran.returncode:
        pytest.fail(f"nbgrader {' '.join(arguments)}\n{ran.stdout}\n{ran.stderr}")


def _write(notebook: NotebookNode, path: Path) -> None:
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)
