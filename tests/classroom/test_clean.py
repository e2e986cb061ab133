"""What a notebook is made into before it runs: which tasks are blank, and what could not be written down."""

import json
from pathlib import Path

import nbformat
import pytest

from tests.classroom import hostile
from tools.grade.clean import clean
from tools.grade.files import write

UNIT = "02_gumbel"
TASK = "straight-through"
STUB = 'raise NotImplementedError("straight-through: not filled in yet, write your answer in place of this line")'
HEAD = "def straight_through(hard, soft):\n"


def blank_with(source: str, unit: str = UNIT, task: str = TASK) -> set[str]:
    notebook = hostile.solved(unit, **{task.replace("-", "_"): source})
    return clean(hostile.raw(notebook), unit).blank


@pytest.mark.parametrize(
    "source",
    [
        f"{HEAD}    # {STUB}\n    return hard + soft - soft.detach()",
        f"{HEAD}    return hard + soft - soft.detach()\n    {STUB}",
        f'{HEAD}    """{STUB}"""\n    return hard',
        "def straight_through(hard, soft)\n    return hard",
        f"{HEAD}    if hard is None:\n        {STUB}\n    return hard",
        f"{HEAD}    {STUB}\n\n{HEAD}    return hard",
        "straight_through = lambda hard, soft: hard",
    ],
)
def test_an_answer_that_leaves_the_stub_where_it_does_nothing_is_no_blank(source: str) -> None:
    assert TASK not in blank_with(source)


@pytest.mark.parametrize(
    "source", ["", " \n", f"{HEAD}    {STUB}", f"{HEAD}    x = 1\n    {STUB}", f"def f(:\n    {STUB}"]
)
def test_the_stub_alone_is_blank(source: str) -> None:
    assert blank_with(source) == {TASK}


def test_a_task_of_several_functions_is_blank_when_none_is_written() -> None:
    unit, task = "10_avit", "ponder"
    stubs = hostile.cell_of(hostile.blank(unit), f"{task}-answer").source
    stub = f'raise NotImplementedError("{task}: not filled in yet, write your answer in place of this line")'
    assert stubs.count(stub) == 4
    assert blank_with(stubs, unit, task) == {task}
    assert blank_with(stubs.replace(stub, "return depth", 1), unit, task) == set()


@pytest.mark.parametrize("where", ["mark", "version", "source", "emoji"])
def test_half_a_character_is_no_end_of_the_class(where: str) -> None:
    notebook = json.loads(hostile.raw(hostile.solved(UNIT)))
    half = "\ud800"
    cell = {"cell_type": "code", "metadata": {"nbgrader": {"grade_id": half}}, "source": "1"}
    if where == "mark":
        notebook["cells"].append(cell)
    elif where == "version":
        notebook["nbformat"] = half
    else:
        notebook["cells"].append({**cell, "metadata": {}, "source": half if where == "source" else "# \U0001f600"})
    cleaned = clean(json.dumps(notebook).encode(), UNIT)
    assert not cleaned.blank
    json.dumps(cleaned.notes, ensure_ascii=False).encode()
    nbformat.writes(nbformat.v4.new_notebook(cells=cleaned.cells), version=4).encode()
    assert where != "emoji" or any("\U0001f600" in one.source for one in cleaned.cells)


def test_what_cannot_be_written_is_a_question_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write(file, json.dumps({"why": "opens /\udcff"}, ensure_ascii=False))
    assert json.loads(file.read_text(encoding="utf-8")) == {"why": "opens /?"}
