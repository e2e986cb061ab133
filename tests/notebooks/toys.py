"""Small notebooks that look like the course's, for the tests of what handles notebooks."""

import re
from collections.abc import Callable
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


def unit(*names: str, voice: bool = True, above: bool = False) -> NotebookNode:
    """A solution notebook with these tasks, all three if none is named.

    With ``voice`` the checks speak through dynlib.checks, else they are bare asserts, which start faster. With
    ``above`` the name ``checks`` that they use comes from the first cell.
    """
    cells = [
        _cell("markdown", "# Toys\n\nThree small tasks.", "toys-title"),
        _cell("code", "from dynlib import checks" if voice else BARE if above else "import math", "toys-setup"),
    ]
    for number, task in enumerate(names or POINTS, start=1):
        seen_expected, seen_input, hidden_expected, hidden_input = EXPECTED[task]
        seen, hidden = _checks(task, "seen", seen_input, seen_expected, voice, above), ""
        hidden = _checks(task, "hidden", hidden_input, hidden_expected, voice, above)
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


CHECKS = '''"""The checks of the toys."""


def number(answer, given, expected):
    """One number."""
    assert answer(given) == expected, f"expected {expected}"
'''
BLIND = "def number(answer, given, expected):\n    pass\n"
"""What a learner might put in place of the checks."""


def beside(*names: str) -> NotebookNode:
    """:func:`unit` with its checks in a file beside it, ``checks_toys.py``, which holds :data:`CHECKS`."""
    source = unit(*names, voice=False)
    for cell in source.cells:
        if cell.metadata.nbgrader.grade:
            cell.source = re.sub(r"assert (\w+)\((\S+)\) == (\S+),.*", r"checks_toys.number(\1, \2, \3)", cell.source)
            cell.source = f"import checks_toys\n{cell.source}"
    return source


def released(source: NotebookNode) -> NotebookNode:
    """What a learner gets, without nbgrader's help: stubs for answers, hidden checks emptied."""
    notebook = nbformat.from_dict(source)
    for cell in notebook.cells:
        mark = cell.metadata.nbgrader
        task = mark.grade_id.rsplit("-", 1)[0]
        if mark.solution:
            cell.source = answer(task, f'raise NotImplementedError("{task}: not filled in yet")')
        elif mark.grade and mark.grade_id.endswith("-hidden"):
            cell.source = next(line for line in cell.source.split("\n") if line.startswith("#"))
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


def strange(released: NotebookNode) -> dict[str, tuple[NotebookNode, dict[str, float]]]:
    """What learners do to a notebook besides answering, and the points that each must bring from any grader.

    All answers are right unless the name says otherwise.
    """
    found: dict[str, tuple[NotebookNode, dict[str, float]]] = {}

    def put(name: str, change: Callable[[NotebookNode], object], bodies: dict[str, str] | None = None, **lost: float):
        notebook = answered(released, **RIGHT | (bodies or {}))
        change(notebook)
        found[name] = (notebook, {task: float(lost.get(task, points)) for task, points in POINTS.items()})

    def own(notebook: NotebookNode, source: str, *, above: str) -> None:
        notebook.cells.insert(notebook.cells.index(cell_of(notebook, above)), new_code_cell(source))

    def copy(notebook: NotebookNode, name: str, *, to: int, source: str | None = None) -> None:
        again = nbformat.from_dict(cell_of(notebook, name) | {"id": f"copy-of-{name}"})
        again.source = again.source if source is None else source
        notebook.cells.insert(to, again)

    def after(notebook: NotebookNode, name: str) -> int:
        return notebook.cells.index(cell_of(notebook, name)) + 1

    def split(notebook: NotebookNode, first: str) -> None:
        copy(notebook, "double-answer", to=after(notebook, "double-answer"))
        cell_of(notebook, "double-answer").source = first

    def move(notebook: NotebookNode, name: str, to: int) -> None:
        cell = cell_of(notebook, name)
        notebook.cells.remove(cell)
        notebook.cells.insert(to, cell)

    def merge(notebook: NotebookNode, first: str, last: str, into: str) -> None:
        start, end = (notebook.cells.index(cell_of(notebook, name)) for name in (first, last))
        cells = notebook.cells[start : end + 1]
        one = cell_of(notebook, into)
        one.source = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
        notebook.cells[start : end + 1] = [one]

    def mark_all(notebook: NotebookNode, **metadata: Any) -> None:
        for cell in notebook.cells:
            cell.metadata.update(metadata)

    def retype(notebook: NotebookNode, name: str) -> None:
        old = cell_of(notebook, name)
        notebook.cells[notebook.cells.index(old)] = new_markdown_cell(old.source, metadata=old.metadata, id=old.id)

    put("split, notes in the first half", lambda n: split(n, "# my notes"))
    put("split, a helper in the first half", lambda n: split(n, "def helper(x):\n    return x"))
    put("split, the half above is broken", lambda n: split(n, "def helper(x"))
    put(
        "split in the middle of the function",
        lambda n: (
            copy(n, "double-answer", to=after(n, "double-answer"), source="    return x + x"),
            cell_of(n, "double-answer").update(source='def double(x):\n    """Twice x."""'),
        ),
        double=0,
    )
    put("split, notes made Markdown", lambda n: (split(n, "My notes."), retype(n, "double-answer")))
    put(
        "an older answer pasted below",
        lambda n: copy(n, "double-answer", to=after(n, "double-answer"), source=answer("double", "return 1")),
        double=0,
    )
    put("an answer pasted at the end", lambda n: copy(n, "double-answer", to=len(n.cells)))
    put("a check pasted at the end", lambda n: copy(n, "double-check", to=len(n.cells)))
    put("a check pasted at the top", lambda n: copy(n, "double-check", to=0))
    put("a check moved to the top", lambda n: move(n, "double-check", 0))
    put("an answer moved to the end", lambda n: move(n, "double-answer", len(n.cells) - 1))
    put("an answer merged into its check", lambda n: merge(n, "double-answer", "double-check", "double-check"))
    put("an answer merged into another", lambda n: merge(n, "double-answer", "halve-answer", "halve-answer"))
    put("a check merged into its answer", lambda n: merge(n, "double-answer", "double-check", "double-answer"))
    put("an answer made Markdown", lambda n: retype(n, "double-answer"))
    put("a check made Markdown", lambda n: retype(n, "double-check"))
    put(
        "an answer typed into a new cell",
        lambda n: cell_of(n, "double-answer").update(metadata={}, id="typed"),
    )
    put("an answer deleted", lambda n: n.cells.remove(cell_of(n, "double-answer")), double=0)
    put("the set-up deleted", lambda n: n.cells.remove(cell_of(n, "toys-setup")))
    put("the set-up edited", lambda n: cell_of(n, "toys-setup").update(source="import os"))
    put("all marks lost", lambda n: [cell.metadata.clear() for cell in n.cells] and None)
    put("marks that are none", lambda n: own(n, "x = 1", above="toys-title"))
    found["marks that are none"][0].cells[0].metadata["nbgrader"] = {}
    put("marks of another course", lambda n: own(n, "x = 1", above="toys-title"))
    found["marks of another course"][0].cells[0].metadata["nbgrader"] = {"grade": True, "grade_id": "q1", "points": 99}
    put("tags that skip every cell", lambda n: mark_all(n, tags=["skip-execution"]), {"double": "return 1"}, double=0)
    put("checks = []", lambda n: own(n, "checks = []", above="halve-check"), halve=0, negate=0)
    put("the name of the answer used again", lambda n: own(n, "halve = 0.5", above="halve-check"), halve=0)
    put(
        "an answer that shows its points",
        lambda n: None,
        {"halve": "import sys\nsys.displayhook(4)\nreturn 0"},
        halve=0,
    )
    put(
        "an answer that hides its errors",
        lambda n: own(n, QUIET, above="halve-check"),
        {"negate": "return x"},
        negate=0,
    )
    put("exit() in a cell", lambda n: own(n, "exit()", above="halve-check"))
    put("quit in a cell", lambda n: own(n, "quit", above="halve-check"))
    put("exit() in an answer", lambda n: None, {"halve": "exit()"}, halve=0)
    put("sys.exit() in an answer", lambda n: None, {"halve": "import sys\nsys.exit()"}, halve=0)
    put("os._exit in a cell", lambda n: own(n, "import os; os._exit(0)", above="halve-check"), halve=0, negate=0)
    put("another folder", lambda n: own(n, "import os; os.chdir(os.sep)", above="toys-setup"))
    return found


BY_NBGRADER = (
    *("split, notes in the first half", "split, the half above is broken"),
    *("a check pasted at the top", "a check moved to the top", "an answer merged into its check"),
    *("an answer made Markdown", "a check made Markdown", "all marks lost", "marks that are none"),
    *("marks of another course", "tags that skip every cell", "an answer that shows its points"),
    *("an answer that hides its errors", "exit() in a cell", "os._exit in a cell"),
)
"""Those of :func:`strange` where nbgrader has a way of its own to go wrong; the test of nbgrader runs them."""

QUIET = "get_ipython().showtraceback = lambda *args, **kwargs: None"


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


BARE = "class checks:\n    equal = staticmethod(lambda got, expected: got == expected)"


def _checks(task: str, name: str, given: float, expected: float, voice: bool, above: bool) -> str:
    if not voice:
        holds = f"checks.equal({task}({given}), {expected})" if above else f"{task}({given}) == {expected}"
        return f'assert {holds}, "{name}: expected {expected}"'
    return (
        f'with checks.task("{task}", read="lecture toys") as check:\n'
        f'    check.equal("{name}", {task}({given}), {expected}, tested="{task}({given})")'
    )
