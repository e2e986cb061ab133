"""`make progress` grades any notebook that a learner leaves in work/, and `make lab` never overwrites one."""

import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

import tools.notebooks
import tools.progress
import tools.work
from tests.notebooks import toys
from tools.progress import Points, bar, grade, report

FULL = {task: (float(points), float(points)) for task, points in toys.POINTS.items()}
NAME = "99_toys"


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of one toy unit with three tasks, whose checks are bare asserts, and an empty work/."""
    monkeypatch.setattr(tools.progress, "GRACE", 2)
    monkeypatch.setattr(tools.notebooks, "SOLUTIONS", tmp_path / "solutions")
    monkeypatch.setattr(tools.progress, "WORK", tmp_path / "work")
    put(tmp_path, toys.unit(voice=False), where="solutions")
    return tmp_path


def put(course: Path, notebook: NotebookNode, name: str = NAME, where: str = "work") -> Path:
    path = course / where / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def blank(**bodies: str) -> NotebookNode:
    """The released notebook, with these answers filled in."""
    return toys.answered(toys.released(toys.unit(voice=False)), **bodies)


def solved() -> NotebookNode:
    return blank(**toys.RIGHT)


def points(results: dict[str, Points]) -> dict[str, tuple[float, float]]:
    return {task: (found.got, found.most) for task, found in results.items()}


def test_a_solved_notebook_brings_every_point_without_a_word(course: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results = grade(put(course, solved()))
    assert capfd.readouterr() == ("", "")
    assert points(results) == FULL
    assert not any(found.reason for found in results.values())


def test_one_right_answer_brings_its_points_and_the_others_say_why_not(course: Path) -> None:
    results = grade(put(course, blank(halve="return x / 2", negate="return x")))
    assert points(results) == FULL | {"double": (0, 3), "negate": (0, 2)}
    assert results["double"].reason == "double: not filled in yet"
    assert results["negate"].reason == "seen: expected -1"


def test_an_answer_that_only_the_hidden_checks_see_through_brings_a_part(course: Path) -> None:
    results = grade(put(course, blank(double="return 4")))
    assert points(results)["double"] == (1, 3)
    assert results["double"].reason == "hidden: expected 10"


def test_a_syntax_error_costs_its_own_task_alone(course: Path) -> None:
    notebook = solved()
    toys.cell_of(notebook, "halve-answer").source = "def halve(x:\n    return x / 2"
    results = grade(put(course, notebook))
    assert points(results) == FULL | {"halve": (0, 4)}
    assert results["halve"].reason == "name 'halve' is not defined"


def test_the_reason_is_the_first_line_that_the_learner_saw(course: Path) -> None:
    source = toys.unit("double", "halve")
    put(course, source, where="solutions")
    notebook = toys.answered(toys.released(source), double="return 3 * x")
    results = grade(put(course, notebook))
    assert results["double"].reason == "double: the check 'seen' did not pass"
    assert results["halve"].reason == "halve: not filled in yet"


def test_warnings_and_progress_bars_of_a_right_answer_cost_nothing(course: Path) -> None:
    source = toys.unit("double")
    put(course, source, where="solutions")
    noisy = (
        'import sys, warnings\nfrom tqdm import tqdm\nwarnings.warn("deprecated")\nprint("here", file=sys.stderr)\n'
        "return sum(x for _ in tqdm(range(2)))"
    )
    assert points(grade(put(course, toys.answered(toys.released(source), double=noisy)))) == {"double": (3, 3)}


def test_the_learners_own_cells_may_stand_between_and_fail(course: Path) -> None:
    notebook = solved()
    notebook.cells.insert(3, nbformat.v4.new_code_cell("1 / 0"))
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("My notes."))
    notebook.cells.append(nbformat.v4.new_code_cell("print('done')"))
    assert points(grade(put(course, notebook))) == FULL


def test_deleted_checks_count_all_the_same(course: Path) -> None:
    notebook = blank(double="return 3 * x", halve="return x / 2", negate="return -x")
    notebook.cells = [cell for cell in notebook.cells if not cell.id.endswith(("-check", "-hidden"))]
    assert points(grade(put(course, notebook))) == FULL | {"double": (0, 3)}


def test_edited_checks_are_not_believed(course: Path) -> None:
    notebook = blank(double="return 3 * x")
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            cell.source = "100"
            cell.metadata.nbgrader.points = 100
    assert points(grade(put(course, notebook))) == {task: (0, most) for task, (_, most) in FULL.items()}


def test_a_deleted_answer_is_an_unfilled_one(course: Path) -> None:
    notebook = solved()
    notebook.cells.remove(toys.cell_of(notebook, "double-answer"))
    assert points(grade(put(course, notebook))) == FULL | {"double": (0, 3)}


def test_a_cell_that_hangs_is_stopped_and_the_rest_runs(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.progress, "CELL_SECONDS", 2)
    notebook = solved()
    toys.cell_of(notebook, "double-answer").source = "while True:\n    pass"
    assert points(grade(put(course, notebook))) == FULL | {"double": (0, 3)}


def test_a_check_that_hangs_is_stopped_and_says_so(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.progress, "CELL_SECONDS", 2)
    results = grade(put(course, blank(**toys.RIGHT | {"double": "while True:\n    pass"})))
    assert points(results) == FULL | {"double": (0, 3)}
    assert results["double"].reason == "a cell ran for more than 2 s"


def test_a_cell_that_will_not_be_stopped_ends_the_notebook(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.progress, "CELL_SECONDS", 2)
    stubborn = (
        "while True:\n    try:\n        while True:\n            pass\n    except KeyboardInterrupt:\n        pass"
    )
    results = grade(put(course, blank(**toys.RIGHT | {"halve": stubborn})))
    assert points(results) == {"double": (3, 3), "halve": (0, 4), "negate": (0, 2)}
    assert (
        results["halve"].reason == results["negate"].reason == "a cell ran for more than 2 s and could not be stopped"
    )


def test_an_answer_that_takes_the_first_interrupt_is_stopped_by_the_second(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools.progress, "CELL_SECONDS", 2)
    once = "try:\n    while True:\n        pass\nexcept KeyboardInterrupt:\n    return 2 * x"
    results = grade(put(course, blank(**toys.RIGHT | {"double": once})))
    assert points(results) == FULL | {"double": (0, 3)}, "an answer that comes too late brings nothing"


@pytest.mark.parametrize("death", ["import os\nos._exit(1)", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"])
def test_a_kernel_that_dies_keeps_what_was_earned_before(course: Path, death: str) -> None:
    results = grade(put(course, blank(**toys.RIGHT | {"halve": death})))
    assert points(results) == {"double": (3, 3), "halve": (0, 4), "negate": (0, 2)}
    assert results["halve"].reason == "the kernel died while the notebook ran (out of memory?)"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_text("{not json"), "the notebook cannot be read"),
        (lambda path: path.write_text('{"cells": 3}'), "the notebook cannot be read"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "the notebook cannot be read"),
        (lambda path: path.write_text(""), "the notebook cannot be read"),
    ],
    ids=["cut off", "no notebook", "no text", "empty"],
)
def test_a_file_that_is_no_notebook_brings_nothing_and_a_sentence(
    course: Path, spoil: Callable[[Path], object], says: str
) -> None:
    path = put(course, solved())
    spoil(path)
    results = grade(path)
    assert points(results) == {task: (0, most) for task, (_, most) in FULL.items()}
    assert all(found.reason.startswith(says) and "\n" not in found.reason for found in results.values())


def test_a_cell_that_is_there_twice_is_named(course: Path) -> None:
    notebook = solved()
    notebook.cells.append(nbformat.from_dict(toys.cell_of(notebook, "double-answer") | {"id": "copied"}))
    results = grade(put(course, notebook))
    assert points(results) == {task: (0, most) for task, (_, most) in FULL.items()}
    assert "'double-answer' is there twice, delete one of the two" in results["double"].reason


def test_every_unit_in_work_is_graded_whatever_happens_to_another_and_nothing_is_written(
    course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("98_more", "97_none"):
        put(course, toys.unit("double", voice=False), name, where="solutions")
    put(course, toys.answered(toys.released(toys.unit("double", voice=False)), double="return x + x"), "98_more")
    broken = put(course, solved())
    broken.write_text("{")
    before = {path: path.read_bytes() for path in course.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", ["progress"])
    tools.progress.main()
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["98_more", "double", NAME, "double", "halve", "negate", "all"]
    assert table[0].endswith("3 of 3 points")
    assert table[2].endswith("0 of 9 points")
    assert table[-1].endswith("3 of 12 points")
    assert "97_none" not in "".join(table)
    assert {path: path.read_bytes() for path in course.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "says"), [((), "`make lab` puts the exercises there"), (("98_none",), f"there are {NAME}")]
)
def test_nothing_to_grade_is_said_in_a_sentence(
    course: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["progress", *arguments])
    with pytest.raises(SystemExit, match=says):
        tools.progress.main()


def test_the_table_has_a_line_per_task_and_a_bar_per_unit() -> None:
    results = {
        "01_one": {"half": Points(1, 2, "because"), "none": Points(0, 1, "stub")},
        "02_two": {"all": Points(1, 1)},
    }
    assert report(results).splitlines() == [
        f"{'01_one':<28} {'█' * 7}{'·' * 13} 1 of 3 points",
        f"  {'half':<26} part     1/2  because",
        f"  {'none':<26} not yet  0/1  stub",
        f"{'02_two':<28} {'█' * 20} 1 of 1 points",
        f"  {'all':<26} done     1/1",
        f"{'all together':<28} {'█' * 10}{'·' * 10} 2 of 4 points",
    ]


def test_a_bar_is_full_only_when_every_point_is_there() -> None:
    assert bar(0.0) == "·" * 20
    assert bar(1.0) == "█" * 20
    assert "·" in bar(0.99), "99 points of 100 are not all"
    assert "█" in bar(0.01), "one point of 100 is not nothing"


def test_the_learners_files_are_never_overwritten_and_missing_ones_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, folder in (("ROOT", tmp_path), ("EXERCISES", tmp_path / "exercises"), ("WORK", tmp_path / "work")):
        monkeypatch.setattr(tools.work, name, folder)
    for name in ("01_one/01_one.ipynb", "02_two/02_two.ipynb", "02_two/.ipynb_checkpoints/02_two-checkpoint.ipynb"):
        path = tmp_path / "exercises" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"released {name}")
    mine = tmp_path / "work" / "01_one" / "01_one.ipynb"
    mine.parent.mkdir(parents=True)
    mine.write_text("")  # even an empty file is the learner's
    (mine.parent / "notes.md").write_text("notes")
    tools.work.main()
    assert mine.read_text() == ""
    assert (tmp_path / "work" / "02_two" / "02_two.ipynb").read_text() == "released 02_two/02_two.ipynb"
    found = {
        path.relative_to(tmp_path / "work").as_posix() for path in (tmp_path / "work").rglob("*") if path.is_file()
    }
    assert found == {"01_one/01_one.ipynb", "01_one/notes.md", "02_two/02_two.ipynb"}
    assert capsys.readouterr().out == "1 new exercise in work/: that is where you work.\n"
    (tmp_path / "exercises" / "02_two" / "02_two.ipynb").write_text("a newer release")
    tools.work.main()
    assert (tmp_path / "work" / "02_two" / "02_two.ipynb").read_text() == "released 02_two/02_two.ipynb"
    assert capsys.readouterr().out == ""
