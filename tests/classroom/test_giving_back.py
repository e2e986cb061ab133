"""What is done is done once, what a mended check touches is done again, and grades come back as others can import."""

import copy
import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.classroom import hostile
from tools.grade import batch, book, pages, room, sandbox, tables, walls
from tools.grade.files import write
from tools.grade.intake import Submission, class_list
from tools.grade.mistakes import Mistake, name_of, named, probes
from tools.grade.rules import Late, moment

UNIT = "00_start_here"
POINTS = room.points(UNIT)
TASKS = list(dict.fromkeys(task for task, _ in POINTS.values()))


def result(student: str, state: str = "graded", **got: float | None) -> dict[str, Any]:
    """A result's file, as a submission leaves it: full points where no others are given."""
    tasks: dict[str, Any] = {}
    for cell, (task, most) in POINTS.items():
        had = tasks.setdefault(task, {"most": 0.0, "cells": {}, "why": "", "says": [], "check": "", "mistake": ""})
        share = got.get(task.replace("-", "_"), 1.0)
        had["cells"][cell] = None if share is None else share * most
        had["most"] += most
        had["got"] = None if share is None else sum(had["cells"].values())
        had["state"] = "tampered" if share is None else "done" if share == 1 else "not yet"
    head = batch._head(Submission(student, UNIT))
    return head | {
        "state": state,
        "why": "the file is empty" if state == "unread" else "",
        "tasks": {} if state == "unread" else tasks,
        "look": [],
        "seconds": 1.5,
    }


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# Once


def test_what_was_graded_is_not_graded_again_unless_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    submission = Submission("ada", UNIT, b"{}")
    old = result("ada") | {"handed_in": batch._handed_in(submission)}
    assert batch.again(None, submission) == "new"
    assert batch.again(old, submission) == ""
    assert batch.again(old, Submission("ada", UNIT, b"{ }")) == "handed in again"
    assert batch.again(old | {"unfinished": True}, submission) == "it had not come to its end"
    assert batch.again(old, submission, every=True) == "asked for"
    monkeypatch.setattr(batch, "digests", lambda unit: old["checks"] | {TASKS[0]: "another"})
    assert batch.again(old, submission) == f"the checks of {TASKS[0]} changed"
    old["tasks"][TASKS[0]]["state"] = "blank"
    assert batch.again(old, submission) == "", "a blank answer stays blank, whatever its checks are"


def test_what_is_known_anew_of_a_submission_stands_in_its_result_without_grading_it_again(tmp_path: Path) -> None:
    notebook = hostile.raw(hostile.blank(UNIT))
    noted = Submission("ada", UNIT, notebook, notes=["timestamp.txt could not be read"])
    batch.grade([noted], tmp_path, walls.TRUST)
    old = batch.load(tmp_path, UNIT, "ada")
    known = replace(noted, notes=[], when="2026-11-20T10:00:00+00:00")
    batch.grade([known], tmp_path, walls.TRUST)
    new = batch.load(tmp_path, UNIT, "ada")
    assert old is not None
    assert new is not None
    assert old["notes"] == ["timestamp.txt could not be read", *new["notes"]]
    assert new["when"] == known.when
    changed = {"notes", "noted before", "when"}
    assert {key: new[key] for key in new.keys() - changed} == {key: old[key] for key in old.keys() - changed}


def test_a_mended_check_touches_its_own_task_alone() -> None:
    found = batch._parts(
        "A = 1\n\ndef helper(x):\n    return x + A\n\ndef one(c):\n    helper(c)\n\ndef two(c):\n    pass\n"
    )
    parts = {part.name: part for part in found}
    assert set(parts) == {"A", "helper", "one", "two"}
    assert "helper" in parts["one"].uses
    assert "A" in parts["helper"].uses
    assert "helper" not in parts["two"].uses
    assert set(batch.digests(UNIT)) == set(TASKS)
    assert len(set(batch.digests(UNIT).values())) == len(TASKS)


def test_whose_points_changed_is_said_task_by_task() -> None:
    old, new = result("ada", blank_share=0.0), result("ada")
    assert batch.compared(None, new, "new") == []
    (change,) = batch.compared(old, new, "the checks changed")
    assert (change.student, change.task, change.before, change.after) == ("ada", "blank-share", 0.0, 2.0)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b.json", "new")
    with pytest.raises(TypeError):
        write(tmp_path / "a" / "b.json", 3)  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]
    assert (tmp_path / "a" / "b.json").read_text() == "new"


def test_half_a_result_is_none(tmp_path: Path) -> None:
    (tmp_path / UNIT).mkdir()
    batch.file_of(tmp_path, UNIT, "ada").write_text('{"student"')
    assert batch.load(tmp_path, UNIT, "ada") is None


@pytest.mark.parametrize("content", [b"", b"[]", hostile.raw(hostile.blank("01_cost"))])
def test_what_cannot_be_read_is_a_line_and_no_zero(tmp_path: Path, content: bytes) -> None:
    found = batch.graded(batch.Job(Submission("ada", UNIT, content), tmp_path, walls.TRUST, sandbox.Limits(), []))
    assert (found["state"], found["tasks"]) == ("unread", {})
    assert found["why"]


def test_a_blank_notebook_is_an_earned_zero_and_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "run", None)
    raw = hostile.raw(hostile.blank(UNIT))
    found = batch.graded(batch.Job(Submission("ada", UNIT, raw), tmp_path, walls.TRUST, sandbox.Limits(), []))
    assert {task: had["got"] for task, had in found["tasks"].items()} == dict.fromkeys(TASKS, 0.0)
    assert {had["state"] for had in found["tasks"].values()} == {"blank"}
    assert nbformat.read(tmp_path / UNIT / "ada.ipynb", 4).cells


# Misconceptions


def mistake(says: str, check: str, **refused: str) -> Mistake:
    told = {cell.replace("_", "-"): f"t: the check '{text}' did not pass" for cell, text in refused.items()}
    return Mistake("t", says, check, "pass", told, 0.1)


def test_a_misconception_is_named_by_what_its_check_says() -> None:
    known = [mistake("one", "law", t_check="law"), mistake("two", "law", t_hidden="law"), mistake("three", "shape")]
    assert named("t: the check 'law' did not pass\n  got 3") == "law"
    assert name_of(known, "t", "t-check", "t: the check 'law' did not pass") == "one"
    assert name_of(known, "t", "t-check", "t: the check 'law' did not pass, otherwise") == "", "two could be meant"
    assert name_of(known, "t", "t-check", "t: the check 'shape' did not pass") == "three"


def test_every_check_is_asked_about_wrong_answers_that_it_refuses() -> None:
    known = [mistake(f"{at}", "law", t_check="law", t_hidden="law") for at in range(9)]
    known += [mistake("another", "shape", t_check="shape"), mistake("stopped by a stub", "x")]
    asked = probes(known)
    for cell in ("t-check", "t-hidden"):
        assert sum(cell in probe.refused_by for probe in asked) >= 2
    assert len(asked) <= 4
    assert all(probe.refused_by for probe in asked)


# Late days


def test_late_days_are_free_first_and_cost_then(tmp_path: Path) -> None:
    (tmp_path / "course.toml").write_text(
        f"[due]\n{UNIT} = 2026-11-01T12:00:00+00:00\n[late]\nfree_days = 1\noff_per_day = 0.1\n"
    )
    on_time = result("ada") | {"when": "2026-11-01 12:00:00 UTC"}
    late = result("bo") | {"when": "2026-11-03 11:00:00.5 UTC"}
    rules = Late(tmp_path, [on_time, late])
    assert (rules.days(on_time), rules.off(on_time, 5), rules.says(on_time)) == ((0, 0), 0.0, "")
    assert (rules.days(late), rules.off(late, 5)) == ((2, 1), 0.5)
    assert rules.says(late) == "2 days late, 1 of them free; 10 % of the points off"
    assert "not known" in rules.says(result("cy") | {"late": True})


@pytest.mark.parametrize("text", ["[due]\nx = 3", "[dues]\n", "[late]\ndays = 3", "[due"])
def test_rules_that_are_none_are_errors(tmp_path: Path, text: str) -> None:
    (tmp_path / "course.toml").write_text(text)
    with pytest.raises(ValueError, match=r"course\.toml"):
        Late(tmp_path, [])


def test_a_time_is_read_as_nbgrader_writes_it() -> None:
    assert moment("2015-02-02 15:58:23.948203 UTC") == moment("2015-02-02T15:58:23.948203+00:00")
    assert moment("2015-02-02 15:58:23.948203 GMT") == moment("2015-02-02 15:58:23.948203 UTC")
    assert moment("2015-02-02 15:58:23.948203 +0100") == moment("2015-02-02 14:58:23.948203 UTC")
    assert moment("2015-02-02 15:58:23.948203 CET") is None, "a name that several zones have"
    assert moment("yesterday") is None
    assert moment("0001-01-01T00:00:00+14:00") is None, "no zone could count in it"


# Tables, pages and the grade book


@pytest.fixture
def course(tmp_path: Path) -> Path:
    (tmp_path / "students.csv").write_text(
        "student,name,email,canvas,moodle,group\n"
        "ada,Ada Lovelace,ada@x.org,11,21,\nbo,,,12,22,\ncy,=1+1,,13,23,\ndi,,,14,24,\n"
        "em,,,15,25,pair\nfe,,,16,26,pair\n"
    )
    return tmp_path


RESULTS = [
    result("ada"),
    result("bo", "tampered", blank_share=None),
    result("cy", "unread"),
    result("em", blank_share=0.0),
]


def give_back(course: Path) -> dict[str, bytes]:
    people = class_list(course)
    late = Late(course, RESULTS)
    with book.opened(course, [UNIT]) as opened:
        book.enter(opened, course, RESULTS, people, late)
        marks = book.marks(opened, [UNIT])
    found = tables.rows(UNIT, RESULTS, people, marks, late)
    tables.put(course, UNIT, found, people)
    pages.put(course, UNIT, found, ["x.zip: <b>"], late)
    return {path.name: path.read_bytes() for path in sorted((course / "grades").iterdir())}


@pytest.fixture
def path_to_alembic(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import sys

    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("path_to_alembic")
def test_grades_come_back_and_what_a_person_decided_stays(course: Path) -> None:
    first = give_back(course)
    assert give_back(course) == first, "the same bytes twice"
    rows = {row["student"]: row for row in table(first[f"{UNIT}.csv"].decode())}
    assert {name: (row["state"], row["points"]) for name, row in rows.items()} == {
        "ada": ("graded", "5"),
        "bo": ("tampered", ""),
        "cy": ("unread", ""),
        "di": ("missing", ""),
        "em": ("graded", "3"),
        "fe": ("graded", "3"),
    }
    assert rows["fe"]["why"] == "handed in by em"
    assert rows["cy"]["name"] == "'=1+1", "no spreadsheet computes a student's name"

    canvas = table(first[f"{UNIT}-canvas.csv"].decode())
    assert canvas[0]["Student"].strip() == "Points Possible"
    points = {row["ID"]: row[UNIT] for row in canvas[1:]}
    assert points == {"11": "5", "15": "3", "16": "3"}, "no empty field takes away a grade that Canvas has"
    assert list(canvas[0])[:5] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    moodle = table(first[f"{UNIT}-moodle.csv"].decode())
    assert moodle[0] == {
        "Identifier": "Participant 21",
        "Full name": "Ada Lovelace",
        "Email address": "ada@x.org",
        "Grade": "5",
        "Maximum Grade": "5",
        "Last modified (grade)": "",
    }
    assert {row["Identifier"]: row["Grade"] for row in moodle}["Participant 22"] == "", "not yet, and no 0"

    with book.opened(course, [UNIT]) as opened:
        assert opened.find_submission(UNIT, "ada").score == 5
        assert opened.find_submission(UNIT, "bo").needs_manual_grade
        for grade in opened.find_submission_notebook(UNIT, UNIT, "bo").grades:
            if grade.name.startswith("blank-share"):
                grade.manual_score = 0.5
        opened.db.commit()
    rows = {row["student"]: row for row in table(give_back(course)[f"{UNIT}.csv"].decode())}
    assert (rows["bo"]["state"], rows["bo"]["points"]) == ("graded", "4")
    with book.opened(course, [UNIT]) as opened:
        scores = {grade.manual_score for grade in opened.find_submission_notebook(UNIT, UNIT, "bo").grades}
    assert scores == {None, 0.5}


def test_what_a_group_of_moodle_handed_in_counts_for_its_members(tmp_path: Path) -> None:
    people = [{"student": name, "moodle": number, "group": "Team A"} for name, number in (("bo", "18"), ("cy", "19"))]
    team = result("Team-A") | {"origin": "moodle", "number": "", "name": "Team A"}
    found = tables.rows(UNIT, [team], people, {}, Late(tmp_path, [team]))
    assert {row.student: (row.points, row.why) for row in found} == {
        "Team-A": (5, ""),
        "bo": (5, "handed in by Team-A"),
        "cy": (5, "handed in by Team-A"),
    }
    grades = {row["Identifier"]: row["Grade"] for row in table(tables.moodle(UNIT, found, people))}
    assert grades == {"Participant 18": "5", "Participant 19": "5"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("path_to_alembic")
def test_a_check_that_comes_or_goes_takes_no_mark_by_hand_with_it(
    course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_back(course)
    stays, goes = (name for name in POINTS if name.startswith("most-ink"))
    with book.opened(course, [UNIT]) as opened:
        for grade in opened.find_submission_notebook(UNIT, UNIT, "em").grades:
            if grade.name in (stays, goes):
                grade.manual_score = 0.5
        for comment in opened.find_submission_notebook(UNIT, UNIT, "em").comments:
            if comment.name == "most-ink-answer":
                comment.manual_comment = "see me"
        opened.db.commit()
    mended = book.read(book.solution(UNIT))
    hostile.cell_of(mended, goes).metadata.nbgrader["grade_id"] = "most-ink-more"
    monkeypatch.setattr(book, "read", lambda _: copy.deepcopy(mended))
    give_back(course)
    assert f"em, {UNIT}: the mark by hand is gone with its check {goes}: 0.5" in capsys.readouterr().err
    with book.opened(course, [UNIT]) as opened:
        notebook = opened.find_submission_notebook(UNIT, UNIT, "em")
        assert {grade.name: grade.manual_score for grade in notebook.grades if grade.name.startswith("most-ink")} == {
            stays: 0.5,
            "most-ink-more": None,
        }
        assert "see me" in {comment.manual_comment for comment in notebook.comments}
        assert opened.find_submission(UNIT, "ada").score == 5 - POINTS[goes][1], "the others are there too"


def test_points_that_changed_are_said_once_and_stay_on_the_page(course: Path, tmp_path: Path) -> None:
    place = tmp_path / "graded"
    for share in (0.0, 1.0, 1.0):
        batch._keep(place, result("ada", blank_share=share), "the checks of blank-share changed")
    told: list[batch.Change] = []
    batch.tell(place, UNIT, told.append)
    batch.tell(place, UNIT, told.append)
    assert [(change.student, change.before, change.after) for change in told] == [("ada", 0.0, 2.0)]
    kept = batch.load(place, UNIT, "ada")
    assert kept is not None
    late = Late(course, [kept])
    (row, *_) = tables.rows(UNIT, [kept], [], {}, late)
    page = pages.teacher(UNIT, [row], [])
    assert "0 → 2<td>the checks of blank-share changed" in page


def test_an_error_that_nobody_thought_of_is_a_line_about_one_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("never seen")

    monkeypatch.setattr(room, "run", broken)
    raw = hostile.raw(hostile.solved(UNIT))
    found = batch.graded(batch.Job(Submission("ada", UNIT, raw), tmp_path, walls.TRUST, sandbox.Limits(), []))
    assert (found["state"], found["unfinished"]) == ("unread", True)
    assert "never seen" in found["why"]


def test_text_of_a_students_own_is_no_markup_for_the_teachers_formgrader() -> None:
    own = nbformat.v4.new_markdown_cell("<script>alert(1)</script> if a < b", id="own")
    (cell,) = batch._notebook([own]).cells
    assert cell.source == "&lt;script>alert(1)&lt;/script> if a &lt; b"


def test_a_change_in_the_voice_touches_the_tasks_that_use_it() -> None:
    source = "class Task:\n    def __init__(self):\n        pass\n\n    def equal(self, x):\n        return same(x)\n"
    source += "    def mean(self, x):\n        pass\n\ndef same(x):\n    'A text.'\n    return x  # and a comment\n"
    parts = {part.name: part for part in batch._parts(source)}
    assert set(parts) == {"Task", "equal", "mean", "same"}
    assert "same" in parts["equal"].uses
    assert "equal" not in parts["Task"].text, "a method is a part of its own"
    assert parts["same"].text == "def same(x):\n    return x", "texts and comments judge nobody"


def test_a_page_shows_nothing_as_markup_that_a_student_wrote(course: Path) -> None:
    own = result("ada", blank_share=0.0)
    own["tasks"]["blank-share"]["says"] = ["<script>alert(1)</script>"]
    own["notes"] = ["the notebook is called <img src=x>"]
    late = Late(course, [own])
    (row,) = tables.rows(UNIT, [own], [], {}, late)
    for page in (pages.feedback(UNIT, row, late), pages.teacher(UNIT, [row], ["<b>"])):
        assert "<script" not in page
        assert "<img" not in page
        assert "<b>" not in page


def test_what_a_hidden_check_says_is_its_name_and_nothing_of_its_cases() -> None:
    said = "blank-share: the check 'value' did not pass\n  tested a secret\n  got 3"
    name = next(cell for cell in POINTS if cell in room.hidden_cells(UNIT))
    task = POINTS[name][0]
    told = json.dumps(batch._hidden_says(UNIT, task, name, said, []))
    assert "secret" not in told
    assert "got 3" not in told
    forged = f"{task}: the check 'the secret is 42' did not pass"
    assert "42" not in json.dumps(batch._hidden_says(UNIT, task, name, forged, []))
