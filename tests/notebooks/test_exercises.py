"""The gates that every exercise and solution passes, and the proof that each of them can close."""

import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbgrader.converters.base import NbGraderException

import tools.exercises
from tests.notebooks import toys
from tests.notebooks.gates import UNIT_GATES, Unit, grade_ids, unit_of
from tools.exercises import release
from tools.notebooks import (
    EXERCISES,
    LECTURES,
    ROOT,
    SOLUTIONS,
    checks_file,
    exercise,
    grade_id,
    is_answer,
    is_check,
    lacking,
    read,
    solution,
    task_of,
    tasks,
    units,
)

GRADE_IDS = Path(__file__).parent / "grade_ids.txt"


def test_the_course_has_units_each_with_a_lecture() -> None:
    assert {"00_start_here", "01_cost", "02_gumbel"} <= set(units())
    assert [name for name in units() if not (LECTURES / f"{name}.ipynb").exists()] == []


@pytest.mark.parametrize("unit", units())
@pytest.mark.parametrize("gate", UNIT_GATES)
def test_a_unit_passes_the_gate(unit: str, gate: str) -> None:
    assert UNIT_GATES[gate](unit_of(unit)) == []


def test_exercises_are_what_nbgrader_makes_of_the_solutions(tmp_path: Path) -> None:
    different = []
    for unit in units():
        made = release(unit, tmp_path)
        names = {file.name for folder in (made.parent, exercise(unit).parent) for file in folder.glob("*.*")}
        if any(_bytes(made.parent / name) != _bytes(exercise(unit).parent / name) for name in names):
            different.append(unit)
    assert different == [], "`make exercises` was not run, or an exercise was edited by hand"
    assert _files(tmp_path) == _files(EXERCISES)


def test_beside_each_notebook_stand_its_checks_and_nothing_else() -> None:
    expected = {f"{unit}/{file}" for unit in units() for file in (f"{unit}.ipynb", checks_file(unit).name)}
    assert _files(SOLUTIONS) == expected
    assert _files(EXERCISES) == expected


def test_grade_ids_are_unique_in_the_course() -> None:
    # Within a notebook nbgrader sees to it; over the course it lets a grade book's column be told by its id.
    ids = Counter(name.split("/")[1] for unit in units() for name in grade_ids(unit, unit_of(unit).source))
    assert [name for name, times in ids.items() if times > 1] == []


def test_grade_ids_are_those_written_down() -> None:
    here = [name for unit in units() for name in grade_ids(unit, unit_of(unit).source)]
    assert here == GRADE_IDS.read_text().split(), (
        "learners' copies and grade books know these ids; if the change is meant, "
        "`python -m tests.notebooks.gates > tests/notebooks/grade_ids.txt`"
    )


@pytest.mark.parametrize("unit", units())
def test_run_all_in_a_released_notebook_goes_to_its_end_and_each_stub_says_a_sentence(
    unit: str, tmp_path: Path
) -> None:
    notebook = read(exercise(unit))
    if reason := lacking(notebook):
        pytest.skip(reason)
    folder = shutil.copytree(exercise(unit).parent, tmp_path / unit)
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    failed = {
        cell.id: (cell, output)
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "error"
    }
    assert [name for name in failed if name.endswith("-check")] == [f"{task}-check" for task in tasks(notebook)]
    for cell, error in failed.values():
        assert "not filled in yet" in error.evalue, f"{cell.id}: {error.ename}: {error.evalue}"
        assert "\n" not in error.evalue
        assert len(error.evalue) < 120
        if is_check(cell):
            assert error.ename == "Unfilled"
            assert error.evalue.startswith(f"{task_of(cell)}: ")
            assert error.traceback == [error.evalue], "a learner sees one sentence and no frames"


# Each gate closes: a toy unit passes all of them, and each way to spoil it stops at the gate that is named.


def _source(change: Callable[[NotebookNode], object]) -> Callable[[NotebookNode, NotebookNode], object]:
    return lambda source, released: change(source)


def _text(name: str, old: str, new: str) -> Callable[[NotebookNode, NotebookNode], object]:
    """Replace text in a cell of the solution."""

    def change(source: NotebookNode, released: NotebookNode) -> None:
        cell = toys.cell_of(source, name)
        assert old in cell.source
        cell.source = cell.source.replace(old, new)

    return change


def _released_text(name: str, old: str, new: str) -> Callable[[NotebookNode, NotebookNode], object]:
    change = _text(name, old, new)
    return lambda source, released: change(released, source)


def _mark(name: str, **values: object) -> Callable[[NotebookNode, NotebookNode], object]:
    """Change nbgrader's marks of a cell of the solution."""
    return _source(lambda source: toys.cell_of(source, name).metadata.nbgrader.update(values))


def _append(name: str, text: str) -> Callable[[NotebookNode, NotebookNode], object]:
    def change(source: NotebookNode, released: NotebookNode) -> None:
        toys.cell_of(source, name).source += f"\n{text}"

    return change


def _rename(name: str, new: str) -> Callable[[NotebookNode, NotebookNode], object]:
    return _source(lambda source: toys.cell_of(source, name).update(id=new))


def _count(source: NotebookNode, released: NotebookNode) -> None:
    toys.cell_of(released, "toys-setup").execution_count = 1


def _without(name: str) -> Callable[[NotebookNode, NotebookNode], object]:
    return _source(lambda source: source.cells.remove(toys.cell_of(source, name)))


def _step(source: NotebookNode, number: int, says: str = "# Hidden checks look at more numbers.\n") -> None:
    cell = nbformat.from_dict(toys.cell_of(source, "double-hidden"))
    cell.id = cell.metadata.nbgrader.grade_id = f"double-hidden{number}"
    cell.source = says + cell.source.split("\n", 1)[1]
    last = max(at for at, there in enumerate(source.cells) if there.id.startswith("double-hidden"))
    source.cells.insert(last + 1, cell)


SPOILERS: list[tuple[str, str, Callable[[NotebookNode, NotebookNode], object]]] = [
    ("well formed", "another kernel", _source(lambda s: s.metadata.kernelspec.update(name="conda-env"))),
    ("well formed", "a version of Python", _source(lambda s: s.metadata.language_info.update(version="3.11"))),
    ("speaking ids", "a random id", _rename("toys-setup", "3f2a9c1e")),
    ("speaking ids", "a number", _rename("toys-setup", "cell-12")),
    ("speaking ids", "a sign", _rename("toys-setup", "toys_setup")),
    ("speaking ids", "twice", _rename("toys-setup", "toys-title")),
    ("plain python", "a magic", _append("toys-setup", "%matplotlib inline")),
    ("plain python", "a shell line", _append("toys-setup", "!ls")),
    ("plain python", "a cell magic", _text("toys-setup", "from", "%%time\nfrom")),
    ("plain python", "an installation", _append("toys-setup", "import subprocess")),
    ("nothing of this machine", "a path", _append("toys-setup", 'here = "/home/ada/course"')),
    ("links lead somewhere", "a missing file", _append("toys-title", "[lecture](../../lectures/99_none.ipynb)")),
    ("links lead somewhere", "outside the course", _append("toys-title", "[a file](../../../elsewhere.md)")),
    ("portable prose", "a directive", _append("toys-title", ":::{note}\nhello\n:::")),
    ("portable prose", "a heading too deep", _text("double-task", "## Task", "#### Task")),
    ("no outputs", "a count", _count),
    ("graded as agreed", "an id of its own", _mark("toys-setup", grade_id="other")),
    ("graded as agreed", "an old schema", _mark("double-check", schema_version=2)),
    ("graded as agreed", "no points", _mark("double-check", points=0)),
    ("graded as agreed", "half a point", _mark("double-check", points=0.5)),
    ("graded as agreed", "a check that learners may change", _mark("double-check", locked=False)),
    ("graded as agreed", "points for an answer", _mark("double-answer", points=1)),
    ("graded as agreed", "a check with another ending", _mark("double-check", grade_id="double-test")),
    ("one of each", "no hidden checks", _without("double-hidden")),
    ("one of each", "a second step and no third", _source(lambda s: [_step(s, 2), _step(s, 4)])),
    ("hidden is hidden", "a step without a comment", _source(lambda s: _step(s, 2, ""))),
    ("one of each", "checks above the answer", _source(lambda s: s.cells.insert(2, s.cells.pop(5)))),
    ("told beforehand", "other points", _mark("double-hidden", points=5)),
    ("told beforehand", "no minutes", _text("double-task", "minutes", "moments")),
    ("told beforehand", "no difficulty", _text("double-task", "difficulty 1", "difficulty 7")),
    ("told beforehand", "no heading", _text("double-task", "## Task 1", "## Doubling")),
    ("told beforehand", "another sum", _append("toys-title", "In all 100 points.")),
    ("hints", "none", _without("double-hints")),
    ("hints", "the last one missing", _text("double-hints", "I pass", "I am through with")),
    ("hints", "open", _text("double-hints", "<details>", "<details open>")),
    ("hints", "no empty line", _text("double-hints", "</summary>\n\nOne", "</summary>\nOne")),
    ("hints", "not closed", _text("double-hints", "One operator.\n\n</details>", "One operator.")),
    ("answers between markers", "no markers", _text("double-answer", "    ### BEGIN SOLUTION\n", "")),
    ("answers between markers", "other markers", _text("double-answer", "### BEGIN SOLUTION", "# BEGIN SOLUTION")),
    ("answers between markers", "no answer", _text("double-answer", "return x + x", "# x + x")),
    ("answers between markers", "no docstring", _released_text("double-answer", '"""Twice x."""\n', "\n")),
    ("answers between markers", "a nameless stub", _released_text("double-answer", '"double: not', '"not')),
    ("answers between markers", "a stub outside", _released_text("double-answer", "    raise", "raise")),
    ("hidden is hidden", "a line outside", _append("double-hidden", "print(double(3))")),
    ("hidden is hidden", "no comment", _text("double-hidden", "# Hidden checks look at other numbers.\n", "")),
    ("hidden is hidden", "in the wrong cell", _append("double-check", "### BEGIN HIDDEN TESTS\nx = 1\n")),
    ("checks speak", "a value at the end", _append("double-check", "double(2)")),
    ("checks speak", "bare asserts", _source(lambda s: toys.cell_of(s, "double-check").update(source="assert True"))),
    ("checks speak", "another task", _text("double-check", 'task("double"', 'task("halve"')),
    ("checks speak", "nowhere to read", _text("double-check", ', read="lecture toys"', "")),
    ("nothing swallowed", "a bare except", _append("double-check", "try:\n    double(1)\nexcept:\n    pass")),
    ("nothing swallowed", "one that takes all", _append("double-check", "try:\n    f()\nexcept Exception:\n    pass")),
    ("nothing swallowed", "suppressed", _append("double-check", "with suppress(Exception):\n    double(1)")),
    ("nothing swallowed", "any error", _append("double-check", 'check.raises("bad", Exception, f, tested="f")')),
    ("nothing leaks", "a marker", _released_text("double-answer", "raise", "### BEGIN SOLUTION\n    raise")),
    ("nothing leaks", "the answer", lambda source, released: _leak(source, released, "double-answer", "toys-title")),
    ("nothing leaks", "a hidden test", lambda source, released: _leak(source, released, "double-hidden", "toys-setup")),
    ("enough tasks", "too few", _source(lambda s: s.update(cells=s.cells[:7]))),
    ("short", "a long check", _released_text("double-check", "from dynlib", "x = 1\nx = 2\nfrom dynlib")),
    ("short", "a long page", lambda source, released: toys.cell_of(released, "toys-title").update(source="a\n" * 450)),
    ("hints first", "hints below", _source(lambda s: s.cells.insert(5, s.cells.pop(4)))),
    ("checks beside", "no file", lambda source, released: " "),
    ("checks beside", "no such function", lambda source, released: CHECKS.replace("def task", "def other")),
    ("checks beside", "a function that says nothing", lambda source, released: CHECKS.replace('"""One number."""', "")),
    ("checks beside", "a name from above", _text("double-check", "import checks_toys\n", "")),
    ("checks beside", "the voice from above", _text("double-hidden", "from dynlib import checks\n", "")),
    ("checks beside", "work in the cell", _text("double-check", "    checks_toys", "    x = 1\n    checks_toys")),
    ("checks beside", "another function", _text("double-hidden", "checks_toys.task(check", "checks_toys.task(checks")),
    ("checks keep quiet", "the answer", lambda source, released: _tell(source, "double-answer")),
    ("checks keep quiet", "a hidden case", lambda source, released: _tell(source, "double-hidden")),
    (
        "checks keep quiet",
        "all errors",
        lambda s, r: f"{CHECKS}    try:\n        x\n    except Exception:\n        x\n",
    ),
    ("enough tasks", "none to predict", _source(lambda s: _everywhere(s, "Predict, then measure", "Give"))),
]


def _leak(source: NotebookNode, released: NotebookNode, name: str, into: str) -> None:
    cell = toys.cell_of(source, name)
    cell.source = cell.source.replace("return x + x", "return (x + x + x + x) / 2  # twice")
    line = next(line for line in cell.source.split("\n") if "return (" in line or "checks_toys.task" in line)
    toys.cell_of(released, into).source += f"\n{line}"


def _tell(source: NotebookNode, name: str) -> str:
    cell = toys.cell_of(source, name)
    cell.source = cell.source.replace("return x + x", "return (x + x + x + x) / 2  # twice")
    line = next(line for line in cell.source.split("\n") if "return (" in line or "checks_toys.task" in line)
    return f"{CHECKS}{line}\n"


def _everywhere(notebook: NotebookNode, old: str, new: str) -> None:
    for cell in notebook.cells:
        cell.source = cell.source.replace(old, new)


CHECKS = '''"""The checks of the toys."""


def task(check, answer, given, expected):
    """One number."""
    check.equal("seen", answer(given), expected, tested=f"{given}")
'''


def _toy() -> tuple[NotebookNode, NotebookNode]:
    """A toy unit in the form of the course: checks in a file, hints above them."""
    source = toys.unit()
    for task in toys.POINTS:
        hints = toys.cell_of(source, f"{task}-hints")
        source.cells.remove(hints)
        source.cells.insert(source.cells.index(toys.cell_of(source, f"{task}-check")), hints)
        for part in ("check", "hidden"):
            cell = toys.cell_of(source, f"{task}-{part}")
            expected, given = toys.EXPECTED[task][:2] if part == "check" else toys.EXPECTED[task][2:]
            block = "import checks_toys\nfrom dynlib import checks\n\nwith checks.task("
            cell.source = cell.source.replace("with checks.task(", block)
            cell.source = re.sub(
                r"check\.equal\(.*", f"checks_toys.task(check, {task}, {given}, {expected})", cell.source
            )
    return source, toys.released(source)


@pytest.mark.parametrize("gate", UNIT_GATES)
def test_a_unit_in_order_passes_the_gate(gate: str) -> None:
    assert UNIT_GATES[gate](Unit("99_toys", *_toy(), CHECKS)) == []


@pytest.mark.parametrize(("gate", "spoil"), [(g, s) for g, _, s in SPOILERS], ids=[f"{g}: {w}" for g, w, _ in SPOILERS])
def test_a_spoiled_unit_is_stopped_by_the_gate(
    gate: str, spoil: Callable[[NotebookNode, NotebookNode], object]
) -> None:
    source, released = _toy()
    checks = spoil(source, released)
    assert UNIT_GATES[gate](Unit("99_toys", source, released, checks if isinstance(checks, str) else CHECKS)) != []


def test_every_gate_is_seen_to_close() -> None:
    assert {gate for gate, _, _ in SPOILERS} == set(UNIT_GATES)


# The tool that makes the exercises.


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of one toy unit, which tools.exercises takes for the course."""
    folder = tmp_path / "course"
    (folder / "solutions" / "99_toys").mkdir(parents=True)
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    nbformat.write(toys.unit(), folder / "solutions" / "99_toys" / "99_toys.ipynb")
    monkeypatch.setattr(tools.exercises, "ROOT", folder)
    return folder


def test_a_release_takes_out_answers_and_hidden_tests_and_names_the_task(course: Path, tmp_path: Path) -> None:
    made = read(release("99_toys", tmp_path / "made"))
    assert UNIT_GATES["nothing leaks"](Unit("99_toys", toys.unit(), made)) == []
    for cell in made.cells:
        if is_answer(cell):
            task = task_of(cell)
            assert f'    raise NotImplementedError("{task}: not filled in yet' in cell.source
            assert re.search(r'^    """', cell.source, re.MULTILINE), "the docstring stays"
            assert toys.RIGHT[task] not in cell.source
        if grade_id(cell).endswith("-hidden"):
            assert cell.source.strip() == "# Hidden checks look at other numbers."
    assert not list(course.glob("gradebook*"))


def test_a_release_lets_run_all_go_on_below_the_first_stub(course: Path, tmp_path: Path) -> None:
    made = read(release("99_toys", tmp_path / "made"))
    tagged = [cell.id for cell in made.cells if "raises-exception" in cell.metadata.get("tags", [])]
    assert tagged == [f"{task}-{part}" for task in toys.POINTS for part in ("answer", "check", "hidden")]
    assert all(cell.metadata.nbgrader for cell in made.cells), "and keeps nbgrader's marks"


def test_a_release_gives_the_same_bytes_twice(course: Path, tmp_path: Path) -> None:
    first = release("99_toys", tmp_path / "made").read_bytes()
    assert release("99_toys", tmp_path / "made").read_bytes() == first
    assert release("99_toys", tmp_path / "again").read_bytes() == first


def test_a_marker_that_is_not_closed_stops_the_release_and_the_old_one_stays(
    course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools.exercises, "EXERCISES", course / "exercises")
    monkeypatch.setattr(sys, "argv", ["exercises", "99_toys"])
    tools.exercises.main()
    before = (course / "exercises" / "99_toys" / "99_toys.ipynb").read_bytes()
    path = course / "solutions" / "99_toys" / "99_toys.ipynb"
    notebook = read(path)
    cell = toys.cell_of(notebook, "double-answer")
    cell.source = cell.source.replace("    ### END SOLUTION", "")
    nbformat.write(notebook, path)
    with pytest.raises(NbGraderException):
        tools.exercises.main()
    assert (course / "exercises" / "99_toys" / "99_toys.ipynb").read_bytes() == before


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not {".ipynb_checkpoints", "__pycache__"} & set(path.parts) and path.name != ".DS_Store"
    }


def test_solutions_and_exercises_differ_only_where_they_should() -> None:
    for unit in units():
        source, released = read(solution(unit)), read(exercise(unit))
        assert [cell.id for cell in source.cells] == [cell.id for cell in released.cells]
        changed = [a.id for a, b in zip(source.cells, released.cells, strict=True) if a.source != b.source]
        assert all(re.search(r"-(answer|hidden[2-9]?)$", name) for name in changed), changed
