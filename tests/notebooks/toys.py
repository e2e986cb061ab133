"""Small notebooks that look like the course's, for the tests of what handles notebooks."""

from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.notebooks import code_digest

POINTS = {"double": 3, "halve": 4, "negate": 2}
"""Points of the tasks of :func:`unit`: one for what the learner sees, the rest for the hidden checks."""

ANSWERS = {
    "double": 'def double(x):\n    """Twice x."""\n    {}',
    "halve": 'def halve(x):\n    """Half of x."""\n    {}',
    "negate": 'def negate(x):\n    """x with the other sign."""\n    {}',
}
RIGHT = {"double": "return x + x", "halve": "return x / 2", "negate": "return -x"}
EXPECTED = {"double": (4, 2, 10, 5), "halve": (4, 8, 6, 12), "negate": (-1, 1, 3, -3)}


def answer(task: str, body: str | None = None) -> str:
    """An answer to a task: the right one if no other body is given."""
    return ANSWERS[task].format((body or RIGHT[task]).replace("\n", "\n    "))


def unit(*names: str, voice: bool = True) -> NotebookNode:
    """A solution notebook with these tasks, all three if none is named.

    With ``voice`` the checks speak through dynlib.checks, else they are bare asserts, which start faster.
    """
    cells = [
        _cell("markdown", "# Toys\n\nThree small tasks.", "toys-title"),
        _cell("code", "from dynlib import checks" if voice else "import math", "toys-setup"),
    ]
    for number, task in enumerate(names or POINTS, start=1):
        seen_expected, seen_input, hidden_expected, hidden_input = EXPECTED[task]
        seen, hidden = _checks(task, "seen", seen_input, seen_expected, voice), ""
        hidden = _checks(task, "hidden", hidden_input, hidden_expected, voice)
        cells += [
            _cell(
                "markdown",
                f"## Task {number} · {task}\n\n*difficulty 1 of 5 · 2 minutes · {POINTS[task]} points*\n\n"
                f"Predict, then measure: `{task}` of a number.",
                f"{task}-task",
            ),
            _cell("code", _marked(answer(task)), f"{task}-answer", solution=True),
            _cell("code", seen, f"{task}-check", points=1),
            _cell(
                "markdown",
                "<details><summary>Hint</summary>\n\nOne operator.\n\n</details>\n"
                "<details><summary>I pass `seen` but fail `hidden`</summary>\n\nOther numbers.\n\n</details>",
                f"{task}-hints",
            ),
            _cell(
                "code",
                f"# Hidden checks look at other numbers.\n### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS",
                f"{task}-hidden",
                points=POINTS[task] - 1,
            ),
        ]
    return new_notebook(cells=cells, metadata=_metadata())


def released(source: NotebookNode) -> NotebookNode:
    """What a learner gets, without nbgrader's help: stubs for answers, hidden checks emptied."""
    notebook = nbformat.from_dict(source)
    for cell in notebook.cells:
        mark = cell.metadata.nbgrader
        task = mark.grade_id.rsplit("-", 1)[0]
        if mark.solution:
            cell.source = answer(task, f'raise NotImplementedError("{task}: not filled in yet")')
        elif mark.grade and mark.grade_id.endswith("-hidden"):
            cell.source = cell.source.split("\n", maxsplit=1)[0]
    return notebook


def answered(notebook: NotebookNode, **bodies: str) -> NotebookNode:
    """The notebook with these bodies as answers, written as a learner writes them."""
    notebook = nbformat.from_dict(notebook)
    for task, body in bodies.items():
        cell_of(notebook, f"{task}-answer").source = answer(task, body)
    return notebook


def cell_of(notebook: NotebookNode, name: str) -> NotebookNode:
    """The cell with this id."""
    return next(cell for cell in notebook.cells if cell.id == name)


def lecture(*code: str, seconds: float = 10, mib: float = 500, executed: bool = True, **declared: Any) -> NotebookNode:
    """A lecture with these code cells."""
    first = (
        "# Toys\n\nIn a minute you will be able to double a number.\n\n"
        f"*2 minutes to read · about {seconds:g} seconds to run*"
    )
    cells = [new_markdown_cell(first, id="toys-title")]
    for number, source in enumerate(code or ("print(1 + 1)",)):
        cell = new_code_cell(source, id=f"toys-step-{chr(ord('a') + number)}")
        if executed:
            cell.outputs, cell.execution_count = [new_output("stream", name="stdout", text="2\n")], number + 1
        cells.append(cell)
    notebook = new_notebook(cells=cells, metadata=_metadata())
    notebook.metadata["dynlib"] = {"seconds": seconds, "mib": mib, "minutes": 2, **declared}
    if executed:
        notebook.metadata.dynlib["executed"] = code_digest(notebook)
    return notebook


def _metadata() -> dict[str, Any]:
    return {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def _cell(kind: str, source: str, name: str, *, solution: bool = False, points: int | None = None) -> NotebookNode:
    mark = {
        "grade": points is not None,
        "grade_id": name,
        "locked": not solution,
        "schema_version": 3,
        "solution": solution,
    }
    if points is not None:
        mark["points"] = points
    make = new_code_cell if kind == "code" else new_markdown_cell
    return make(source, id=name, metadata={"nbgrader": mark})


def _marked(source: str) -> str:
    head, body = source.rsplit("\n", 1)
    return f"{head}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"


def _checks(task: str, name: str, given: float, expected: float, voice: bool) -> str:
    if not voice:
        return f'assert {task}({given}) == {expected}, "{name}: expected {expected}"'
    return (
        f'with checks.task("{task}", read="lecture toys") as check:\n'
        f'    check.equal("{name}", {task}({given}), {expected}, tested="{task}({given})")'
    )
