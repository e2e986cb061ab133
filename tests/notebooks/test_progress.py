"""`make progress` grades any notebook that a learner leaves in work/, and `make lab` never overwrites one."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbgrader.utils import compute_checksum

import tools.notebooks
import tools.progress
import tools.work
from tests.notebooks import toys
from tools.progress import Points, bar, chosen, grade, notes, report

FULL = {task: (float(points), float(points)) for task, points in toys.POINTS.items()}
NAME = "99_toys"


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of one toy unit with three tasks, whose checks are bare asserts, and an empty work/."""
    monkeypatch.setattr(tools.progress, "GRACE", 2)
    monkeypatch.setattr(tools.notebooks, "SOLUTIONS", tmp_path / "solutions")
    monkeypatch.setattr(tools.notebooks, "EXERCISES", tmp_path / "exercises")
    monkeypatch.setattr(tools.notebooks, "WORK", tmp_path / "work")
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
    assert results["halve"].reason == "your answer stopped with SyntaxError: '(' was never closed (line 1)"


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


@pytest.mark.parametrize(
    "hides",
    [
        "get_ipython().showtraceback = lambda *args, **kwargs: None",
        "get_ipython().set_custom_exc((Exception,), lambda *args, **kwargs: None)",
        "get_ipython()._showtraceback = lambda *args, **kwargs: None",
        "get_ipython().display_pub.publish = get_ipython().displayhook.send = print",
    ],
)
def test_an_error_that_is_not_shown_is_one_all_the_same(course: Path, hides: str) -> None:
    notebook = blank(double="return 3 * x", halve="return x / 2", negate="return -x")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(hides))
    results = grade(put(course, notebook))
    assert points(results) == FULL | {"double": (0, 3)}
    assert results["double"].reason == "seen: expected 4"


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
    died = "the kernel died in the cell 'halve-check': out of memory, or ended by os._exit or a signal?"
    assert results["halve"].reason == results["negate"].reason == died


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


STRANGE = toys.strange(toys.released(toys.unit(voice=False, above=True)))
SAYS = {
    "split in the middle of the function": {
        "double": "your answer stopped with SyntaxError: 'return' outside function (line 1); your answer stands in 2"
    },
    "an older answer pasted below": {"double": "your answer stands in 2 cells, which ran in their order"},
    "an answer deleted": {"double": "the cell 'double-answer' is not there"},
    "checks = []": {
        "halve": "the name 'checks' is used again in the cell that begins `checks = []`",
        "negate": "the name 'checks' is used again in the cell that begins `checks = []`",
    },
    "the name of the answer used again": {
        "halve": "the name 'halve' is used again in the cell that begins `halve = 0.5`"
    },
    "exit() in an answer": {"halve": "exit() and quit() end the kernel"},
    "sys.exit() in an answer": {"halve": "SystemExit"},
    "os._exit in a cell": {"halve": "the cell that begins `import os; os._exit(0)`", "negate": "os._exit"},
}


# Both graders restore and run with the same code: those that the test of nbgrader runs are not all run again.
@pytest.mark.parametrize("name", [name for name in STRANGE if name not in toys.BY_NBGRADER or name in SAYS])
def test_what_learners_do_to_a_notebook_brings_the_points_that_were_earned(course: Path, name: str) -> None:
    put(course, toys.unit(voice=False, above=True), where="solutions")
    notebook, expected = STRANGE[name]
    results = grade(put(course, notebook))
    assert {task: found.got for task, found in results.items()} == expected, results
    for task, says in SAYS.get(name, {}).items():
        assert says in results[task].reason
    for found in results.values():
        assert "delete" not in found.reason, "JupyterLab deletes no copy of an answer: the advice cannot be followed"
        assert bool(found.reason) == (found.got < found.most)


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("torch = None", "torch"),
        ("del torch", "torch"),
        ("for torch in range(3):\n    pass", "torch"),
        ("import math as torch", "torch"),
        ("if True:\n    def halve(x): ...", "halve"),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as torch:\n    pass", "torch"),
        ("%time\nwith open('x', 'w') as torch:\n    pass", "torch"),
        ("(sum := 3)", "sum"),
    ],
)
def test_a_name_that_is_used_again_is_named_with_its_cell(cell: str, name: str) -> None:
    cells = [
        _code("import torch", "setup"),
        _code("def halve(x):\n    return torch.add(x, sum([x]))", "halve-answer", solution=True),
        _code("import torch\nnew = torch.nn", None),
        _code(cell, None),
        _code("def other(torch):\n    sum = torch", None),
        _code("halve(2)", "halve-check", grade=True, points=1),
    ]
    found = tools.progress._used_again("halve", [cells[1]], 5, cells)
    assert {used: place.source for used, place in found.items()} == {name: cell}


def test_a_cell_that_is_nested_too_deeply_to_be_read_uses_no_name_again() -> None:
    cells = [_code("import torch", "setup"), _code("torch = " + "-" * 9000 + "1", None)]
    assert tools.progress._used_again("halve", cells[:1], 1, cells) == {}


def _code(source: str, name: str | None, **marks: object) -> NotebookNode:
    told = {"grade_id": name, "locked": "solution" not in marks, **marks}
    return nbformat.v4.new_code_cell(source, metadata={} if name is None else {"nbgrader": told})


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
    monkeypatch.chdir(course)
    (course / "lectures").mkdir()
    for name in (NAME, "other"):
        nbformat.write(toys.lecture(), course / "lectures" / f"{name}.ipynb")
    monkeypatch.setattr(sys, "argv", ["progress", *arguments])
    with pytest.raises(SystemExit, match=says):
        tools.progress.main()


def test_a_notebook_is_found_by_unit_by_path_and_by_folder(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(course)
    here = put(course, solved())
    other = course / "elsewhere" / "my copy.ipynb"
    other.parent.mkdir()
    nbformat.write(solved(), other)
    nbformat.write(toys.lecture(), course / "work" / "scratch.ipynb")
    nbformat.write(toys.lecture(), course / "elsewhere" / "scratch.ipynb")
    for name in (NAME, f"{NAME}/", f"work/{NAME}", f"work/{NAME}/{NAME}.ipynb", str(here), "work"):
        assert {label: path.resolve() for label, path in chosen([name]).items()} == {NAME: here}, name
    for name in ("elsewhere/my copy.ipynb", "elsewhere"):
        assert chosen([name]) == {"elsewhere/my copy.ipynb": Path("elsewhere/my copy.ipynb")}
    assert list(chosen([NAME, "elsewhere", str(here), NAME])) == [NAME, "elsewhere/my copy.ipynb"]
    assert tools.progress.unit_of(other) == NAME, "its tasks say where a renamed notebook belongs"


def test_a_notebook_elsewhere_is_run_with_the_modules_beside_it_alone(course: Path) -> None:
    notebook = blank(**toys.RIGHT | {"double": "import beside\nreturn beside.double(x)"})
    halve = "from pathlib import Path\nassert {p.name for p in Path().iterdir()} == {'beside.py'}\nreturn x / 2"
    path = course / "downloads" / "my copy.ipynb"
    (path.parent / "deep").mkdir(parents=True)
    (path.parent / "film.bin").write_bytes(b"0" * 100)
    (path.parent / "beside.py").write_text("def double(x):\n    return x + x\n")
    nbformat.write(toys.answered(notebook, halve=halve), path)
    assert points(grade(path)) == FULL


def test_the_teachers_checks_are_used_and_no_file_of_the_learners_stands_in_for_a_package(course: Path) -> None:
    source = toys.beside()
    put(course, source, where="solutions")
    teachers = course / "solutions" / NAME / "checks_toys.py"
    teachers.write_text(toys.CHECKS)
    notebook = toys.answered(toys.released(source), **toys.RIGHT | {"negate": "import beside\nreturn beside.negate(x)"})
    wrong = toys.answered(notebook, double="return 0", halve="return 0")
    rewrite = f"%%writefile checks_toys.py\n{toys.BLIND}"
    wrong.cells.insert(0, nbformat.v4.new_code_cell(rewrite))
    path = put(course, wrong)
    (path.parent / "checks_toys.py").write_text(toys.BLIND)
    (path.parent / "beside.py").write_text("def negate(x):\n    return -x\n")
    (path.parent / "dynlib").mkdir()
    for name in ("checks.py", "torch.py", "dynlib/__init__.py", "dynlib/checks.py", "ipykernel_launcher.py", "json.py"):
        (path.parent / name).write_text("raise SystemExit('this is not the package')")
    before = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    assert points(grade(path)) == FULL | {"double": (0, 3), "halve": (0, 4)}
    assert {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()} == before


def test_the_notes_say_what_is_old_and_what_stands_in_for_a_package(course: Path) -> None:
    notebook = solved()
    for cell in notebook.cells:
        cell.metadata.nbgrader.checksum = compute_checksum(cell)
    put(course, notebook, where="exercises")
    path = put(course, notebook)
    toys.cell_of(notebook, "double-answer").source = "the learner's"
    for marks in (None, {}, {"grade_id": "q1", "checksum": "1", "grade": True}, "none"):
        notebook.cells.append(nbformat.v4.new_code_cell("x = 1", metadata={"nbgrader": marks}))
    assert notes(put(course, notebook)) == []
    newer = solved()
    for cell in newer.cells:
        cell.source += "\nnew" if cell.id in ("halve-check", "negate-task", "negate-hints") else ""
        cell.metadata.nbgrader.checksum = compute_checksum(cell)
    put(course, newer, where="exercises")
    (course / "solutions" / NAME / "checks_toys.py").write_text("pass")
    (path.parent / "checks_toys.py").write_text("another")
    (path.parent / "dynlib").mkdir()
    for name in ("dynlib/checks.py", "torch.py", "json.py", "helpers.py"):
        (path.parent / name).write_text("")
    told = notes(path)
    assert told[0] == (
        "made from an older exercise ('halve' and 1 more changed since), and graded by the tasks and checks of today: "
        f"make changes {NAME}"
    )
    assert [note.split()[0] for note in told] == ["made", "checks_toys.py", "dynlib", "json.py", "torch.py"]
    assert "is used" in told[1]
    assert "`make lab` brings it back" in told[1]
    table = report({NAME: {"double": Points(1, 1)}}, {NAME: told}).splitlines()
    assert table[1] == f"  note: {told[0]}"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932", "latin-1", "utf-8"])
def test_the_table_can_be_written_whatever_the_terminal_takes(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    print(report({"01_one": {"a": Points(1, 2, "got ε … \ud800"), "b": Points(2, 2)}}), flush=True)
    table = written.getvalue().decode(encoding).splitlines()
    assert table[0].endswith("3 of 4 points")
    assert table[1].startswith("  a                          part     1/2  got ")
    assert ("█" in table[0]) == (encoding == "utf-8")
    assert ("#" in table[0]) == (encoding != "utf-8")


def test_blank_tasks_and_repeated_reasons_take_one_word() -> None:
    tasks = {
        "one": Points(0, 1, "one: not filled in yet, write your answer"),
        "two": Points(0, 1, "the kernel died"),
        "three": Points(0, 1, "the kernel died"),
        "four": Points(1, 2, "four: not filled in yet"),
    }
    assert [line.split(maxsplit=1)[1] for line in report({"01": tasks}).splitlines()[1:]] == [
        "blank    0/1",
        "not yet  0/1  the kernel died",
        "not yet  0/1  as above",
        "part     1/2  four: not filled in yet",
    ]


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
        monkeypatch.setattr(tools.notebooks, name, folder)
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
    assert found == {"01_one/01_one.ipynb", "01_one/notes.md", "02_two/02_two.ipynb", ".copied/02_two.ipynb"}
    assert capsys.readouterr().out == "1 new exercise in work/: that is where you work.\n"
    (tmp_path / "exercises" / "02_two" / "02_two.ipynb").write_text("a newer release")
    tools.work.main()
    assert (tmp_path / "work" / "02_two" / "02_two.ipynb").read_text() == "released 02_two/02_two.ipynb"
    assert capsys.readouterr().out == ""


def test_check_files_in_work_are_brought_up_to_date_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, folder in (("ROOT", tmp_path), ("EXERCISES", tmp_path / "exercises"), ("WORK", tmp_path / "work")):
        monkeypatch.setattr(tools.notebooks, name, folder)
    ours, mine = (tmp_path / place / "01_one" for place in ("exercises", "work"))
    ours.mkdir(parents=True)
    files = ("01_one.ipynb", "checks_one.py", "helpers.py")
    for name in files:
        (ours / name).write_text(f"released {name}")
    tools.work.main()
    assert capsys.readouterr().out == "1 new exercise in work/: that is where you work.\n"
    for name in (*files, "checks_mine.py", "notes.md"):
        (mine / name).write_text(f"my {name}")
    for _ in range(2):
        tools.work.main()
    told = "brought up to date in work/: checks_one.py. Your own files stay as they are.\n"
    assert capsys.readouterr().out == told, "said once"
    found = {file.name: file.read_text().split()[0] for file in mine.iterdir()}
    expected = {"checks_one.py": "released"}
    assert found == dict.fromkeys((*files, "checks_mine.py", "notes.md"), "my") | expected
    (mine / "checks_one.py").unlink()
    tools.work.main()
    assert (mine / "checks_one.py").read_text() == "released checks_one.py"
    assert capsys.readouterr().out == told
