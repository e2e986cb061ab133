"""Submissions as a class hands them in: honest, strange, broken and hostile, and what each must come to."""

import io
import json
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from tools.notebooks import exercise, grade_id, is_answer, is_check, read, solution, task_of


@cache
def _released(unit: str) -> str:
    return exercise(unit).read_text(encoding="utf-8")


@cache
def _answers(unit: str) -> dict[str, str]:
    return {task_of(cell): cell.source for cell in read(solution(unit)).cells if is_answer(cell)}


def blank(unit: str) -> NotebookNode:
    """The notebook as released."""
    return nbformat.reads(_released(unit), as_version=4)


def solved(unit: str, **answers: str) -> NotebookNode:
    """The notebook with the right answers, but for those given; the names of tasks with ``_`` for ``-``."""
    notebook = blank(unit)
    for cell in notebook.cells:
        if is_answer(cell):
            task = task_of(cell)
            cell.source = answers.get(task.replace("-", "_"), _answers(unit)[task])
    return notebook


def raw(notebook: NotebookNode | dict[str, Any]) -> bytes:
    """The bytes of a notebook, valid or not."""
    return json.dumps(notebook, indent=1).encode()


def cell_of(notebook: NotebookNode, name: str) -> NotebookNode:
    """The cell with this nbgrader id."""
    return next(cell for cell in notebook.cells if grade_id(cell) == name)


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip of these files."""
    place = io.BytesIO()
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return place.getvalue()


class Case(NamedTuple):
    """A submission, and what it must come to."""

    name: str
    make: Callable[[], bytes]
    outcome: str
    """"full" points, "part" of them, "none", "unread", a line and no grade, or "tampered", marked for a person."""
    note: str = ""
    """What the notes or the reasons must say."""


def tidy(unit: str) -> list[Case]:
    """What happens to honest notebooks besides answering; every one holds all right answers."""
    first = next(iter(_answers(unit)))
    found: list[Case] = []

    def put(name: str, note: str, change: Callable[[NotebookNode], object], outcome: str = "full") -> None:
        def make() -> bytes:
            notebook = solved(unit)
            change(notebook)
            return raw(notebook)

        found.append(Case(name, make, outcome, note))

    def twice(notebook: NotebookNode, name: str) -> None:
        again = nbformat.from_dict(cell_of(notebook, name) | {"id": "again"})
        notebook.cells.insert(notebook.cells.index(cell_of(notebook, name)) + 1, again)

    def metadata(**changes: Any) -> Callable[[NotebookNode], object]:
        return lambda notebook: notebook.metadata.update(changes)

    def rename(notebook: NotebookNode) -> None:
        cell_of(notebook, f"{first}-answer").metadata.nbgrader["grade_id"] = "mine"

    def retype(notebook: NotebookNode) -> None:
        cell = cell_of(notebook, f"{first}-check")
        cell.cell_type = "markdown"
        cell.pop("outputs", None), cell.pop("execution_count", None)

    def points(notebook: NotebookNode) -> None:
        for cell in notebook.cells:
            if is_check(cell):
                cell.metadata.nbgrader["points"] = 1000

    def flood(notebook: NotebookNode) -> None:
        output = nbformat.v4.new_output("stream", name="stdout", text="x" * 100 + "\n")
        cell_of(notebook, f"{first}-answer").outputs = [nbformat.from_dict(output) for _ in range(30_000)]

    def backwards(notebook: NotebookNode) -> None:
        check = cell_of(notebook, f"{first}-check")
        notebook.cells.remove(check)
        notebook.cells.insert(0, check)

    put("as it should be", "", lambda n: None)
    put("a copied answer", "there more than once", lambda n: twice(n, f"{first}-answer"))
    put("a copied check", "there more than once", lambda n: twice(n, f"{first}-check"))
    put("a deleted check", "deleted or renamed", lambda n: n.cells.remove(cell_of(n, f"{first}-check")))
    put(
        "a deleted set-up",
        "deleted or renamed",
        lambda n: n.cells.remove(next(c for c in n.cells if c.cell_type == "code" and not is_check(c))),
    )
    put("a renamed answer", "deleted or renamed", rename)
    put("a check made Markdown", "another type", retype)
    put("a check at the top", "another order", backwards)
    put("points of its own", "points or other marks", points)
    put("a check that is empty", "locked, and edited", lambda n: cell_of(n, f"{first}-check").update(source="pass"))
    put("another kernel", "another kernel", metadata(kernelspec={"name": "ir", "display_name": "R", "language": "R"}))
    put("a kernel that is no name", "", metadata(kernelspec=3))
    put("megabytes of output", "MiB of output", flood)
    put("cells of its own", "", lambda n: n.cells.insert(3, new_code_cell("import math\nnotes = 'mine'")))
    put("text of its own", "", lambda n: n.cells.insert(3, new_markdown_cell("# notes")))
    put("nbformat 4.0", "", lambda n: n.update(nbformat_minor=0))
    put(
        "marks of another course",
        "marks of no cell",
        lambda n: n.cells.insert(
            0, new_code_cell("1", metadata={"nbgrader": {"grade": True, "grade_id": "q1", "points": 99}})
        ),
    )
    put("marks that are none", "", lambda n: n.cells.insert(0, new_code_cell("1", metadata={"nbgrader": ["x"]})))
    put("all marks lost", "", lambda n: [cell.metadata.clear() for cell in n.cells] and None)
    put(
        "cells that are none",
        "cells that are none",
        lambda n: n.cells.extend([3, None, {"cell_type": "code"}, {"source": "x"}]),
    )
    put("half a letter in a text", "", lambda n: n.cells.append(new_markdown_cell("\ud800")))
    put("skipping tags", "", lambda n: [cell.metadata.update(tags=["skip-execution"]) for cell in n.cells] and None)

    def third() -> bytes:
        notebook = solved(unit)
        cells = []
        for cell in notebook.cells:
            old = {"cell_type": cell.cell_type, "metadata": cell.metadata}
            code = {"input": cell.source, "outputs": [], "language": "python", "collapsed": False, "prompt_number": 1}
            cells.append(old | (code if cell.cell_type == "code" else {"source": cell.source}))
        return raw({"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": cells}]})

    def merge(other: str) -> Callable[[], bytes]:
        def make() -> bytes:
            text = raw(solved(unit)).decode()
            at = text.index('"metadata"')
            line = text.rindex("\n", 0, at) + 1
            if other:
                line = text.rindex("\n", 0, text.index('"cell_type": "code"')) + 1
            end = text.index("\n", line) + 1
            mine = text[line:end]
            theirs = mine.replace('"code"', other) if other else mine
            return f"{text[:line]}<<<<<<< HEAD\n{mine}=======\n{theirs}>>>>>>> main\n{text[end:]}".encode()

        return make

    found += [
        Case("nbformat 3", third, "full", "an old format"),
        Case("a merge of the same", merge(""), "full", "a merge was not finished"),
        Case("a merge of two", merge('"raw"'), "unread", "different code"),
        Case("with a byte order mark", lambda: b"\xef\xbb\xbf" + raw(solved(unit)), "full"),
        Case("in UTF-16", lambda: raw(solved(unit)).decode().encode("utf-16"), "full", "utf-16"),
        Case("lines of Windows", lambda: raw(solved(unit)).replace(b"\n", b"\r\n"), "full"),
        Case("nothing filled in", lambda: raw(blank(unit)), "none"),
        Case("an empty file", lambda: b"", "unread", "empty"),
        Case("no JSON", lambda: b"Here is my homework.", "unread", "no notebook"),
        Case("half a file", lambda: raw(solved(unit))[:2000], "unread", "no notebook"),
        Case("a list", lambda: b"[1, 2]", "unread", "no cells"),
        Case("cells that are a number", lambda: b'{"nbformat": 4, "cells": 3}', "unread", "no cells"),
        Case("brackets without end", lambda: b"[" * 200_000, "unread", "no notebook"),
        Case("a picture", lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "unread", "the file is no"),
        Case(
            "no cell of the unit",
            lambda: raw(nbformat.v4.new_notebook(cells=[new_code_cell("1")])),
            "unread",
            "not the notebook of",
        ),
        Case("too many cells", lambda: raw(_many(unit)), "unread", "cells"),
    ]
    return found


def _many(unit: str) -> NotebookNode:
    notebook = solved(unit)
    notebook.cells += [new_code_cell("1", id=f"c{number}") for number in range(1200)]
    return notebook
