"""What changed in an exercise since it was copied is told by task, and shown line by line."""

import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbgrader.utils import compute_checksum

import tools.changes
import tools.notebooks
import tools.progress
import tools.work
from tests.notebooks import toys
from tools.changes import changes, difference, record, summary

UNIT = "99_toys"


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of one toy exercise, of which the learner has no copy yet."""
    for name in ("EXERCISES", "SOLUTIONS", "WORK"):
        monkeypatch.setattr(tools.notebooks, name, tmp_path / name.lower())
    monkeypatch.setattr(tools.notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(tools.progress, "WORK", tmp_path / "work")
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "solutions", toys.unit(voice=False))
    put(tmp_path / "exercises", exercise())
    return tmp_path


def exercise(**texts: str) -> NotebookNode:
    """The released notebook, with other texts in some of its cells; a name is written with _ for -."""
    notebook = toys.released(toys.unit(voice=False))
    for name, text in texts.items():
        toys.cell_of(notebook, name.replace("_", "-")).source = text
    for cell in notebook.cells:
        cell.metadata.nbgrader.checksum = compute_checksum(cell)
    return notebook


def put(folder: Path, notebook: NotebookNode) -> Path:
    path = folder / UNIT / f"{UNIT}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def copied(course: Path) -> Path:
    """The learner's copy, answered."""
    tools.work.main()
    mine = tools.notebooks.WORK / UNIT / f"{UNIT}.ipynb"
    nbformat.write(toys.answered(nbformat.read(mine, 4), **toys.RIGHT), mine)
    return mine


def with_a_new_task(notebook: NotebookNode) -> NotebookNode:
    for part in ("task", "answer", "check"):
        cell = nbformat.from_dict(toys.cell_of(notebook, f"double-{part}"))
        cell.id = cell.metadata.nbgrader.grade_id = f"triple-{part}"
        notebook.cells.append(cell)
    return notebook


def without_a_task(notebook: NotebookNode) -> NotebookNode:
    notebook.cells = [cell for cell in notebook.cells if not cell.id.startswith("double-")]
    return notebook


STUB = toys.answer("double", 'raise NotImplementedError("double: not filled in yet")')


@pytest.mark.parametrize("recorded", [True, False], ids=["with a record", "without"])
@pytest.mark.parametrize(
    ("newer", "says"),
    [
        (lambda: exercise(double_task="Another text."), "double (text)"),
        (lambda: exercise(double_answer=STUB + "\n    # more"), "double (what you are given)"),
        (lambda: exercise(double_task="Another.", double_check="1", halve_hints="One"), "double (text, check), halve"),
        (lambda: exercise(toys_setup="import cmath"), "toys-setup"),
        (lambda: with_a_new_task(exercise()), "triple (new)"),
    ],
    ids=["a text", "a stub", "three parts", "the set-up", "a new task"],
)
def test_what_changed_is_told_by_task(
    course: Path, newer: Callable[[], NotebookNode], says: str, recorded: bool
) -> None:
    mine = copied(course)
    if not recorded:
        record(UNIT).unlink()
    assert changes(UNIT, mine) == [], "answers are no changes of the course"
    before = mine.read_bytes()
    put(course / "exercises", newer())
    assert summary(changes(UNIT, mine)).startswith(says)
    assert mine.read_bytes() == before


def test_a_task_that_was_taken_out_is_told(course: Path) -> None:
    mine = copied(course)
    put(course / "exercises", without_a_task(exercise()))
    assert summary(changes(UNIT, mine)) == "double (taken out)"


def test_what_the_learner_took_over_or_out_is_no_news(course: Path) -> None:
    mine = copied(course)
    put(course / "exercises", exercise(double_task="Another text.", halve_hints="Another hint."))
    notebook = nbformat.read(mine, 4)
    toys.cell_of(notebook, "double-task").source = "Another text."
    nbformat.write(notebook, mine)
    assert summary(changes(UNIT, mine)) == "halve (hints)"
    record(UNIT).unlink()
    notebook.cells = [cell for cell in notebook.cells if cell.id not in ("halve-hints", "negate-check")]
    nbformat.write(notebook, mine)
    assert changes(UNIT, mine) == []


def test_a_copy_of_before_there_were_records_gets_one_only_if_it_is_of_today(course: Path) -> None:
    mine = copied(course)
    record(UNIT).unlink()
    tools.work.main()
    assert record(UNIT).exists()
    record(UNIT).unlink()
    newer = put(course / "exercises", exercise(double_task="Another text."))
    tools.work.main()
    assert not record(UNIT).exists()
    newer.unlink()
    tools.work.main()
    assert changes(UNIT, mine) == []


@pytest.mark.parametrize("broken", ["", "{", '{"cells": 3}'])
def test_a_file_that_is_no_notebook_stops_nothing(
    course: Path, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = copied(course)
    put(course / "exercises", exercise(double_task="Another text."))
    record(UNIT).write_text(broken)
    assert summary(changes(UNIT, mine)) == "double (text)", "by the checksums"
    mine.write_text(broken)
    assert changes(UNIT, mine) == []
    tools.work.main()
    assert mine.read_text() == broken


def test_the_update_and_the_start_say_it_in_a_few_lines(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied(course)
    tools.work.main()
    assert capsys.readouterr().out == "1 new exercise in work/: that is where you work.\n"
    put(course / "exercises", exercise(double_task="Another text."))
    tools.work.main()
    assert capsys.readouterr().out.splitlines() == [
        "Changed since you copied them; your notebooks stay as they are:",
        f"  {UNIT}: double (text)",
        f"To see how: make changes {UNIT}",
    ]
    tools.work.main(["--brief"])
    assert capsys.readouterr().out == f"changed since you copied them: {UNIT}. `make changes {UNIT}` shows how.\n"


def test_a_folder_that_was_renamed_for_a_new_copy_begins_anew(course: Path) -> None:
    mine = copied(course)
    put(course / "exercises", exercise(double_task="Another text."))
    mine.parent.rename(mine.parent.with_name("old"))
    tools.work.main()
    assert changes(UNIT, mine) == []
    assert summary(changes(UNIT, mine.parent.with_name("old") / mine.name)) == "double (text)"


def test_the_difference_is_shown_line_by_line(
    course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = copied(course)
    old = toys.cell_of(exercise(), "double-task").source
    put(course / "exercises", with_a_new_task(exercise(double_task=old.replace("Predict, then", "Guess, then"))))
    shown = difference(changes(UNIT, mine)).splitlines()
    assert shown[0] == "double-task:"
    assert "  - Predict, then measure: `double` of a number." in shown
    assert "  + Guess, then measure: `double` of a number." in shown
    assert "triple-answer:" in shown
    assert "  + def double(x):" in shown
    capsys.readouterr()
    for names in ([UNIT], [], [str(mine)]):
        monkeypatch.setattr(sys, "argv", ["changes", *names])
        tools.changes.main()
        told = capsys.readouterr().out
        assert told.startswith(f"{UNIT}: double (text), triple (new)\n\ndouble-task:\n")
        assert "Your notebook stays as it is." in told
    monkeypatch.setattr(sys, "argv", ["changes", "98_none"])
    with pytest.raises(SystemExit, match="there is no unit 98_none"):
        tools.changes.main()
