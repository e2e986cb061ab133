"""A class graded by an array job, one process a submission; then a check is mended, and only whom it touches is graded.

All of it in a copy of the course, by the command that a teacher runs.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.classroom import hostile
from tools.grade import book
from tools.notebooks import ROOT

UNIT = "00_start_here"
WRONG = "def most_ink(images, patch, k):\n    return torch.zeros(len(images), k, dtype=torch.int64)"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(sys.platform == "win32", reason="a kernel is spoken to through sockets of Unix"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course of one unit, without the known wrong answers: what they do is tried elsewhere."""
    place = tmp_path_factory.mktemp("checkout")
    for name in ("tools", "dynlib", f"solutions/{UNIT}", f"exercises/{UNIT}"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "nbgrader_config.py", place)
    return place


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four students: all right, a blank task, a wrong one, and no notebook."""
    place = tmp_path_factory.mktemp("course")
    right = hostile.cell_of(hostile.solved(UNIT), "most-ink-answer").source
    stub = hostile.cell_of(hostile.blank(UNIT), "blank-share-answer").source
    notebooks = {
        "ada": hostile.raw(hostile.solved(UNIT, most_ink=f"import torch._dynamo  # as any optimiser does\n\n{right}")),
        "bo": hostile.raw(hostile.solved(UNIT, blank_share=stub)),
        "cy": hostile.raw(hostile.solved(UNIT, most_ink=WRONG)),
        "di": b"",
    }
    for student, raw in notebooks.items():
        path = place / "submitted" / student / UNIT / f"{UNIT}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_bytes(raw)
    return place


def start(checkout: Path, course: Path, *options: str) -> subprocess.Popen[str]:
    """The command, running."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        [sys.executable, "-m", "tools.grade", str(course), UNIT, "--trust", *options],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "PATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return out


def rows(course: Path) -> dict[str, dict[str, str]]:
    with (course / "grades" / f"{UNIT}.csv").open(newline="") as table:
        return {row["student"]: row for row in csv.DictReader(table)}


def results(course: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((course / "graded" / UNIT).glob("*.json"))}


@pytest.fixture(scope="module")
def gathered(checkout: Path, course: Path) -> str:
    """The class, graded by one process for each index, all at the same time, and gathered; what was said."""
    number = int(said(start(checkout, course, "--count")))
    assert number == 4
    running = [start(checkout, course, f"--index={at}") for at in range(number)]
    lines = [said(process).strip() for process in running]
    assert lines == [
        f"{at}: {who}, {UNIT}: {state}"
        for at, (who, state) in enumerate([("ada", "graded"), ("bo", "graded"), ("cy", "graded"), ("di", "unread")])
    ]
    before = results(course)
    text = said(start(checkout, course))
    assert results(course) == before, "what the processes graded is not graded again"
    return text


def test_what_an_array_job_graded_is_gathered(gathered: str, course: Path) -> None:
    points = {student: (row["state"], row["points"]) for student, row in rows(course).items()}
    assert points == {"ada": ("graded", "5"), "bo": ("graded", "3"), "cy": ("graded", "2"), "di": ("unread", "")}
    assert "1 unread" in gathered
    assert "changed" not in gathered
    assert (course / "feedback" / "ada" / UNIT / f"{UNIT}.html").exists()


@pytest.mark.usefixtures("gathered")
def test_an_index_that_was_graded_is_left_and_one_that_is_none_is_an_error(checkout: Path, course: Path) -> None:
    before = results(course)
    again, beyond = start(checkout, course, "--index=0"), start(checkout, course, "--index=4")
    assert said(again).strip() == f"0: ada, {UNIT}: graded, as it was"
    assert "from 0 to 3" in beyond.communicate(timeout=600)[1]
    assert beyond.returncode == 2
    assert results(course) == before


@pytest.mark.usefixtures("gathered")
def test_a_mended_check_grades_again_whom_it_touches_and_keeps_marks_by_hand(checkout: Path, course: Path) -> None:
    with book.opened(course, []) as opened:
        for grade in opened.find_submission_notebook(UNIT, UNIT, "cy").grades:
            if grade.name == "most-ink-check":
                grade.manual_score = 0.5
        opened.db.commit()
    before = results(course)
    checks = checkout / "solutions" / UNIT / "checks_start_here.py"
    text = checks.read_text()
    place = text.index('    check.close(\n        "shares"')
    mended = '    check.true("mended", False, tested="whether this check was mended", expected="another answer")\n'
    checks.write_text(text[:place] + mended + text[place:])

    lines = [line for line in said(start(checkout, course)).splitlines() if line.startswith("changed")]
    why = "(the checks of blank-share changed)"
    assert lines == [f"changed: {who}, {UNIT}, blank-share: 2 → 0 {why}" for who in ("ada", "cy")]
    after = results(course)
    assert {who for who in after if after[who] != before[who]} == {"ada", "cy"}, "bo's blank answer stays blank"
    points = {student: row["points"] for student, row in rows(course).items()}
    assert points == {"ada": "3", "bo": "3", "cy": "0.5", "di": ""}, "the mark by hand stands"
    assert "Whose points changed" in (course / "grades" / f"{UNIT}.html").read_text()
    feedback = (course / "feedback" / "ada" / UNIT / f"{UNIT}.html").read_text()
    assert "whether this check was mended" in feedback

    table = (course / "grades" / f"{UNIT}.csv").read_bytes()
    assert "changed" not in said(start(checkout, course)), "it is said once"
    assert (course / "grades" / f"{UNIT}.csv").read_bytes() == table
    assert json.loads(results(course)["ada"])["changes"][0]["told"]
