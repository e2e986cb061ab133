"""The gates that every lecture passes, the proof that each can close, and what `make lectures` does."""

import os
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_output

import tools.lectures
import tools.notebooks
from tests.notebooks import toys
from tests.notebooks.gates import LECTURE_GATES, Lecture, lecture_of
from tools.notebooks import LECTURES, code_digest, lectures, read

PICTURE = new_output(
    "display_data",
    data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"},
    metadata={"image/png": {"alt": "A line that rises."}},
)
SLIDER = "widgets.interact(show, x=widgets.IntSlider(continuous_update=False))"


@pytest.mark.parametrize("path", lectures(), ids=lambda path: path.stem)
@pytest.mark.parametrize("gate", LECTURE_GATES)
def test_a_lecture_passes_the_gate(path: Path, gate: str) -> None:
    assert LECTURE_GATES[gate](lecture_of(path)) == []


COURSE = [
    "start_here",
    "cost",
    "gumbel",
    "perturbed",
    "early_exit",
    "painters",
    "colt5",
    "mixture_of_depths",
    "experts",
    "matformer",
    "avit",
    "looped",
    "recursion",
    "acm",
    "kernel",
    "communication",
    "split_learning",
    "one_budget",
    "claims",
]
"""All units in their order; some are to come."""


def test_lectures_have_the_numbers_that_the_course_gives_them() -> None:
    assert {path.stem for path in lectures()} <= {f"{number:02d}_{name}" for number, name in enumerate(COURSE)}


def _fold(cell: NotebookNode, hidden: bool = True) -> None:
    cell.metadata.update(jupyter={"source_hidden": hidden}, tags=["hide-input"] if hidden else [])


def _toy() -> Lecture:
    notebook = toys.lecture("print(1 + 1)", SLIDER, "show(2)")
    for cell in notebook.cells[1:]:
        cell.outputs = [nbformat.from_dict(PICTURE)]
    for cell in notebook.cells[2:]:
        _fold(cell)
    return Lecture(LECTURES / "99_toys.ipynb", notebook, 1000)


def _code(source: str, *, digest: bool = True) -> Callable[[NotebookNode], object]:
    """Put other code into the first code cell."""

    def change(notebook: NotebookNode) -> None:
        notebook.cells[1].source = source
        if digest:
            notebook.metadata.dynlib["executed"] = code_digest(notebook)

    return change


def _first(old: str, new: str) -> Callable[[NotebookNode], object]:
    def change(notebook: NotebookNode) -> None:
        assert old in notebook.cells[0].source
        notebook.cells[0].source = notebook.cells[0].source.replace(old, new)

    return change


def _output(kind: str, **values: object) -> Callable[[NotebookNode], object]:
    return lambda notebook: notebook.cells[1].outputs.append(new_output(kind, **values))


SPOILERS: list[tuple[str, str, Callable[[NotebookNode], object]]] = [
    ("well formed", "another kernel", lambda n: n.metadata.kernelspec.update(name="conda-env")),
    ("speaking ids", "a random id", lambda n: n.cells[1].update(id="3f2a9c1e")),
    ("plain python", "a magic", _code("%matplotlib inline")),
    ("plain python", "an installation", _code("!pip install torch")),
    ("nothing of this machine", "in the code", _code('open("/home/ada/data.txt")')),
    ("nothing of this machine", "in an output", _output("stream", name="stdout", text="saved in /home/ada/x")),
    ("nothing of this machine", "in a value", _output("execute_result", data={"text/plain": "'/tmp/x'"})),
    ("nothing of this machine", "in an error", _output("error", ename="E", evalue="", traceback=["/Users/ada/x"])),
    ("links lead somewhere", "a missing file", _first("# Toys", "# Toys\n\n[next](98_none.ipynb)")),
    ("portable prose", "a directive", _first("# Toys", "# Toys\n\n:::{note}\n:::\n")),
    ("executed", "code changed since", _code("print(2)", digest=False)),
    ("executed", "a cell left out", lambda n: n.cells[1].update(execution_count=None)),
    ("no errors", "an error", _output("error", ename="E", evalue="", traceback=[])),
    ("no errors", "a warning", _output("stream", name="stderr", text="UserWarning")),
    ("no errors", "an error that never came", lambda n: n.cells[1].metadata.update(tags=["raises-exception"])),
    ("pictures in words", "none", lambda n: n.cells[1].outputs[0].metadata.clear()),
    ("pictures in words", "hardly any", lambda n: n.cells[1].outputs[0].metadata["image/png"].update(alt="A plot.")),
    ("declared", "nothing", lambda n: n.metadata.pop("dynlib")),
    ("declared", "too long", lambda n: n.metadata.dynlib.update(seconds=61)),
    ("declared", "too much", lambda n: n.metadata.dynlib.update(mib=2049)),
    ("declared", "no minutes", lambda n: n.metadata.dynlib.pop("minutes")),
    ("first screen", "no title", _first("# Toys", "Toys")),
    ("first screen", "no promise", _first("you will be able to", "we")),
    ("first screen", "other minutes", _first("2 minutes", "7 minutes")),
    ("first screen", "no seconds", _first("about 10 seconds", "not long")),
    ("first screen", "more seconds than declared", _first("10 seconds", "100 seconds")),
    ("one style", "a plain plot", _code("plt.plot([1, 2])")),
    ("widgets with twins", "no widget", lambda n: n.cells.pop(2)),
    ("widgets with twins", "a slider that hurries", _code("widgets.FloatSlider()")),
    ("widgets with twins", "an abbreviation", _code("widgets.interact(show, x=(0, 5))")),
    ("widgets with twins", "no twin", lambda n: [cell.update(outputs=[]) for cell in n.cells[1:]]),
    ("folded alike", "for Jupyter alone", lambda n: n.cells[2].metadata.pop("tags")),
    ("folded alike", "for pages alone", lambda n: n.cells[3].metadata.pop("jupyter")),
    ("mostly mechanism", "a long cell", _code("x = 1\n\n" * 16)),
    ("mostly mechanism", "long in all", lambda n: _many(n, 11, "x = 1\n" * 25)),
    ("mostly mechanism", "code first", lambda n: n.cells[1].update(outputs=[])),
    ("mostly mechanism", "a picture", _code("with plotting.figure('What to see.') as axes:\n    axes.plot(x)")),
    ("mostly mechanism", "a table", _code("page.table(['a'], [[1]])")),
    ("mostly mechanism", "an open widget", lambda n: _fold(n.cells[2], False)),
    ("stands once", "an interval", _code("def interval(values):\n    return values")),
    ("stands once", "a study", _code("study = json.loads(file.read_text())")),
    ("stands once", "the topics", _code("text = '\\n\\n'.join(topics('test').values())")),
    ("stands once", "a table", _code("rows = ['| a | b |', '|---|---|']")),
    ("stands once", "bare axes", _code("axes.set(xticks=[], yticks=[])")),
    ("words follow numbers", "a choice", _code("print('better' if a < b else 'worse')")),
]


def _many(notebook: NotebookNode, times: int, source: str) -> None:
    for number in range(times):
        cell = deepcopy(notebook.cells[1])
        cell.update(id=f"more-code-{number}", source=source)
        notebook.cells.append(cell)


AT_THE_LIMIT: list[tuple[str, Callable[[NotebookNode], object]]] = [
    ("mostly mechanism", _code("x = 1\n\n" * 15)),
    ("mostly mechanism", lambda n: _many(n, 9, "x = 1\n" * 27)),  # and the first cell's one line
    ("mostly mechanism", lambda n: [n.cells[2].update(source="x = 1\n" * 300), n.cells[1].update(source="pass")]),
    (
        "words follow numbers",
        lambda n: n.cells[1].update(source="w = 'yes' if a else 'no'", metadata={"tags": ["live"]}),
    ),
]


@pytest.mark.parametrize("gate", LECTURE_GATES)
def test_a_lecture_in_order_passes_the_gate(gate: str) -> None:
    assert LECTURE_GATES[gate](_toy()) == []


@pytest.mark.parametrize(("gate", "spoil"), [(g, s) for g, _, s in SPOILERS], ids=[f"{g}: {w}" for g, w, _ in SPOILERS])
def test_a_spoiled_lecture_is_stopped_by_the_gate(gate: str, spoil: Callable[[NotebookNode], object]) -> None:
    lecture = _toy()
    spoil(lecture.notebook)
    assert LECTURE_GATES[gate](lecture) != []


@pytest.mark.parametrize(("gate", "change"), AT_THE_LIMIT)
def test_what_is_just_allowed_passes_the_gate(gate: str, change: Callable[[NotebookNode], object]) -> None:
    lecture = _toy()
    change(lecture.notebook)
    assert LECTURE_GATES[gate](lecture) == []


def test_a_large_file_is_stopped() -> None:
    assert LECTURE_GATES["small enough"](_toy()._replace(size=600_001)) != []


def test_every_gate_is_seen_to_close() -> None:
    assert {gate for gate, _, _ in SPOILERS} | {"small enough"} == set(LECTURE_GATES)


# make lectures


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that tools.lectures takes for the course's lectures, with one that was never executed."""
    (tmp_path / "lectures").mkdir()
    for module in (tools.lectures, tools.notebooks):
        monkeypatch.setattr(module, "LECTURES", tmp_path / "lectures")
    monkeypatch.setattr(tools.lectures, "ROOT", tmp_path)
    nbformat.write(
        toys.lecture("import os", "print(6 * 7, os.getcwd())", executed=False), tmp_path / "lectures" / "99_toys.ipynb"
    )
    return tmp_path / "lectures"


def _make_lectures(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lectures", *arguments])
    tools.lectures.main()


def test_a_lecture_is_executed_again_only_when_its_code_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "99_toys.ipynb"
    _make_lectures(monkeypatch)
    made = read(path)
    assert made.cells[2].outputs[0].text.split() == ["42", os.fspath(folder)]
    assert [cell.execution_count for cell in made.cells[1:]] == [1, 2]
    lecture = Lecture(path, made, path.stat().st_size)
    assert [LECTURE_GATES[gate](lecture) for gate in ("well formed", "executed", "no errors", "declared")] == [[]] * 4
    assert "execution" not in made.cells[2].metadata
    assert "widgets" not in made.metadata

    first = path.read_bytes()
    _make_lectures(monkeypatch)
    assert path.read_bytes() == first, "nothing changed"

    made.cells[0].source += "\n\nOne sentence more."
    made.cells[2].outputs[0].text = "kept"
    nbformat.write(made, path)
    _make_lectures(monkeypatch, "99_toys")
    assert read(path).cells[2].outputs[0].text == "kept", "prose does not count as code"

    made.cells[2].source = "print(6 * 8)"
    nbformat.write(made, path)
    _make_lectures(monkeypatch, "99_toys")
    assert read(path).cells[2].outputs[0].text == "48\n"
    assert capsys.readouterr().out.count("99_toys.ipynb") == 2


def test_a_lecture_that_fails_is_left_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "99_toys.ipynb"
    nbformat.write(toys.lecture("1 / 0", executed=False), path)
    before = path.read_bytes()
    with pytest.raises(CellExecutionError):
        _make_lectures(monkeypatch)
    assert path.read_bytes() == before
