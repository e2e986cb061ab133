"""Make what is graded out of what was handed in: the teacher's notebook, with the learner's answers in it.

Putting the cells in order is done by ``restored`` of nbgrader_config.py, as nbgrader and ``make progress`` do it, so
that all three come to the same points. Here is what stands before it, reading whatever was handed in, and beside it,
the sentences for a teacher about what was done to the notebook.
"""

import ast
import contextlib
import copy
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import nbformat
from nbformat import NotebookNode

from tools.grade.exports import MIB, Unreadable
from tools.notebooks import grade_id, is_answer, is_check, read, solution, task_of, units
from tools.progress import grader

LINES = 40_000
"""Lines of code beyond which a notebook is no learner's."""
CELLS = 1_000


@dataclass
class Cleaned:
    """A notebook ready to run.

    Attributes:
        cells: the teacher's and the learner's, in order.
        notes: what was done to the notebook, and changes nothing.
        blank: the tasks whose answer is still the stub, or nothing.
    """

    cells: list[NotebookNode]
    notes: list[str] = field(default_factory=list)
    blank: set[str] = field(default_factory=set)


def clean(raw: bytes, unit: str) -> Cleaned:
    """The notebook that is run for a submission.

    Raises:
        Unreadable: if it is no notebook, or another unit's.
    """
    notes: list[str] = []
    cells = _cells(_parsed(raw, notes), notes)
    marked = [cell for cell in read(solution(unit)).cells if grade_id(cell)]
    _belongs(cells, marked, unit)
    notes += _differences(cells, marked)
    blank = _blank(cells, marked)
    return Cleaned(grader()["restored"](copy.deepcopy(cells), marked), notes, blank)


# Reading


def _parsed(raw: bytes, notes: list[str]) -> dict[str, Any]:
    text = _decoded(raw, notes)
    if not text.strip():
        raise Unreadable("the file is empty")
    if re.search(r"^<{7} ", text, re.M) and re.search(r"^>{7} ", text, re.M):
        return _merged(text, notes)
    return _json(text)


def _decoded(raw: bytes, notes: list[str]) -> str:
    marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"{\0": "utf-16-le", b"\0{": "utf-16-be"}
    encodings = ("utf-8-sig", "cp1252")
    if raw[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        encodings = ("utf-32",)
    elif raw[:2] in marks:
        encodings = (marks[raw[:2]],)
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "utf-8-sig":
            notes.append(f"the file is written in {encoding}")
        return text
    raise Unreadable("the file is no text")


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):  # half a character, of which nothing can be written
            found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the file is no notebook: {str(error)[:100]}") from None
    if not isinstance(found, dict):
        raise Unreadable("the file is no notebook: it holds no cells")
    return found


def _merged(text: str, notes: list[str]) -> dict[str, Any]:
    """A file with the marks of a merge that was not finished: read if both sides hold the same code."""
    sides = []
    for half in _halves(text):
        try:
            sides.append(_json(half))
        except Unreadable:
            sides.append({})
    code = [
        [_source(cell) for cell in side.get("cells", []) if isinstance(cell, dict) and cell.get("cell_type") == "code"]
        for side in sides
    ]
    if not code[0] or code[0] != code[1]:
        raise Unreadable("a merge was not finished (<<<<<<<), and its two sides hold different code")
    notes.append("a merge was not finished (<<<<<<<); its two sides hold the same code")
    return sides[0]


def _halves(text: str) -> tuple[str, str]:
    """Both sides of a merge: lines outside the marks belong to both; what stood there before, behind |, to none."""
    sides: tuple[list[str], list[str]] = [], []
    at = "both"
    for line in text.split("\n"):
        if at == "both" and line.startswith("<<<<<<< "):
            at = "first"
        elif at == "first" and line.startswith("|||||||"):
            at = "before"
        elif at in ("first", "before") and line == "=======":
            at = "second"
        elif at == "second" and line.startswith(">>>>>>> "):
            at = "both"
        else:
            for side, name in zip(sides, ("first", "second"), strict=True):
                if at in ("both", name):
                    side.append(line)
    return "\n".join(sides[0]), "\n".join(sides[1])


def _cells(found: dict[str, Any], notes: list[str]) -> list[NotebookNode]:
    """The cells, made anew from what they must have; outputs, tags, attachments and all else stay behind."""
    version = found.get("nbformat")
    if isinstance(version, int) and 0 < version < 4:
        notes.append(f"an old format, nbformat {version}")
        try:
            found = nbformat.convert(nbformat.from_dict(found), 4)
        except Exception as error:
            raise Unreadable(f"nbformat {version} cannot be read: {type(error).__name__}") from None
    elif version != 4:
        notes.append(f"nbformat is {str(version)[:20]} and not 4")
    there = found.get("cells")
    if not isinstance(there, list):
        raise Unreadable("the file is no notebook: it holds no cells")
    if len(there) > 20 * CELLS:
        raise Unreadable(f"{len(there)} cells, more than {CELLS}")
    cells, strange, outputs = [], 0, 0
    for cell in there:
        source = _source(cell)
        if not isinstance(cell, dict) or source is None or cell.get("cell_type") not in ("code", "markdown", "raw"):
            strange += 1
            continue
        metadata = cell.get("metadata")
        mark = metadata.get("nbgrader") if isinstance(metadata, dict) else None
        kept = {"nbgrader": dict(mark)} if isinstance(mark, dict) else {}
        name = cell.get("id") if isinstance(cell.get("id"), str) else ""
        plain = source.encode("utf-8", "replace").decode()
        cells.append(NotebookNode(cell_type=cell["cell_type"], source=plain, id=name, metadata=NotebookNode(kept)))
        if "nbgrader" in kept:
            cells[-1].metadata["nbgrader"] = nbformat.from_dict(kept["nbgrader"])
        with contextlib.suppress(RecursionError):  # nested as deeply as it could be read
            outputs += len(json.dumps(cell.get("outputs", []), default=str))
    if strange:
        notes.append(f"{strange} cells that are none, left out")
    if outputs > MIB:
        notes.append(f"{outputs / MIB:.0f} MiB of output, left out")
    if len(cells) > CELLS or sum(cell.source.count("\n") + 1 for cell in cells) > LINES:
        raise Unreadable(f"{len(cells)} cells, more than {CELLS}, or more than {LINES} lines")
    _kernel(found.get("metadata"), notes)
    return cells


def _source(cell: Any) -> str | None:
    source = cell.get("source", cell.get("input")) if isinstance(cell, dict) else None
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        return "".join(source)
    return source if isinstance(source, str) else None


def _kernel(metadata: Any, notes: list[str]) -> None:
    kernel = metadata.get("kernelspec") if isinstance(metadata, dict) else None
    name = kernel.get("name") if isinstance(kernel, dict) else None
    if name not in (None, "python3"):
        notes.append(f"another kernel, {str(name)[:40]!r}; python3 was used")


def _belongs(cells: list[NotebookNode], marked: list[NotebookNode], unit: str) -> None:
    """Raise if nothing of the unit is in the notebook."""
    mark = grader()["mark"]
    tasks = {grade_id(cell) for cell in marked if is_answer(cell) or is_check(cell)}
    there = {name for cell in cells for name in (mark(cell).get("grade_id", ""), cell.id)}
    texts = {cell.source.strip() for cell in marked if cell.cell_type == "markdown"}
    if tasks & there or any(cell.source.strip() in texts for cell in cells):
        return
    other = next((name for name in units() if name != unit and _tasks(name) & there), "")
    raise Unreadable(f"not the notebook of {unit}" + (f", but of {other}" if other else ": none of its tasks is in it"))


@cache
def _tasks(unit: str) -> set[str]:
    return {grade_id(cell) for cell in read(solution(unit)).cells if is_answer(cell) or is_check(cell)}


# What was done to it


def _differences(cells: list[NotebookNode], marked: list[NotebookNode]) -> list[str]:
    mark, without_hidden = grader()["mark"], grader()["_without_hidden"]
    known = {grade_id(cell): cell for cell in marked}
    found: list[str] = []
    names = [name for cell in cells if isinstance(name := mark(cell).get("grade_id", ""), str) and name]
    copies = [name for name, times in Counter(names).items() if times > 1 and name in known]
    gone = [name for name, cell in known.items() if name not in names and cell.cell_type == "code"]
    unknown = sorted(set(names) - set(known))
    retyped, edited, marks = [], [], []
    for cell in cells:
        name = mark(cell).get("grade_id", "")
        if name not in known:
            continue
        ours = known[name]
        if cell.cell_type != ours.cell_type:
            retyped.append(name)
        elif not is_answer(ours) and without_hidden(cell.source) != without_hidden(ours.source):
            edited.append(name)
        theirs, here = mark(cell), mark(ours)
        if any(theirs.get(key) != here.get(key) for key in ("points", "grade", "solution", "locked")):
            marks.append(name)
    order = [name for name in dict.fromkeys(names) if name in known]
    if order != [name for name in known if name in order]:
        found.append("cells stand in another order")
    conflict = [name for cell in cells if (name := mark(cell).get("grade_id", "")) and "<<<<<<< " in cell.source]
    for what, which in (
        ("there more than once", copies),
        ("deleted or renamed", gone),
        ("marks of no cell of the unit", unknown),
        ("changed to another type", retyped),
        ("locked, and edited", edited),
        ("points or other marks changed", marks),
        ("holds the marks of a merge", conflict),
    ):
        if which:
            which = list(dict.fromkeys(which))
            shown = ", ".join(name[:40] for name in which[:6]) + (
                f" and {len(which) - 6} more" if len(which) > 6 else ""
            )
            found.append(f"{what}: {shown}")
    return found


def _blank(cells: list[NotebookNode], marked: list[NotebookNode]) -> set[str]:
    """Tasks without an answer: all stubs stand, or nothing, and no other cell of code could be one."""
    mark, known = grader()["mark"], {grade_id(cell) for cell in marked}
    if any(
        cell.cell_type == "code" and cell.source.strip() and mark(cell).get("grade_id") not in known for cell in cells
    ):
        return set()
    answers = {task_of(cell): "" for cell in marked if is_answer(cell)}
    stubs = dict.fromkeys(answers, 0)
    for cell in marked:
        if is_answer(cell):
            stubs[task_of(cell)] += cell.source.count("### BEGIN SOLUTION")
    for cell in cells:
        name = mark(cell).get("grade_id", "")
        task = name.removesuffix("-answer")
        if task in answers and name.endswith("-answer"):
            answers[task] += f"{cell.source}\n"
    return {task for task, text in answers.items() if not text.strip() or _standing(text, task) >= stubs[task] > 0}


def _standing(text: str, task: str) -> int:
    """How many stubs an answer comes to: in the last function of a name, behind no condition and no return."""
    start = f"{task}: not filled in yet"
    try:
        whole = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return len(re.findall(rf'^\s*raise NotImplementedError\("{re.escape(start)}', text, re.M))
    functions = {node.name: node for node in whole.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    last = [node for node in whole.body if functions.get(getattr(node, "name", ""), node) is node]
    found = 0
    for node in ast.walk(ast.Module(last, [])):
        for line in node.body if isinstance(node, ast.Module | ast.FunctionDef) else []:
            if isinstance(line, ast.Return | ast.Raise):
                found += isinstance(line, ast.Raise) and f"NotImplementedError('{start}" in ast.unparse(line)
                break
    return found
