"""Where the notebooks lie, and how their tasks are marked.

A task is a set of cells that share the front of their nbgrader id: ``gumbel-max-answer`` holds the answer,
``gumbel-max-check`` the checks that the learner sees, ``gumbel-max-hidden`` those that only the teacher's version has;
``gumbel-max-hidden2``, ``-hidden3``, … more of them, where a task has points in steps.
"""

import hashlib
import re
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent
LECTURES, EXERCISES, SOLUTIONS, WORK = (ROOT / name for name in ("lectures", "exercises", "solutions", "work"))

HIDDEN = re.compile(r"^[^\n]*BEGIN HIDDEN TESTS.*?END HIDDEN TESTS[^\n]*$", re.MULTILINE | re.DOTALL)


def lectures() -> list[Path]:
    """The lectures, in the order of the course."""
    return sorted(LECTURES.glob("*.ipynb"))


def units() -> list[str]:
    """The units that have tasks, in the order of the course."""
    return sorted(folder.name for folder in SOLUTIONS.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def solution(unit: str) -> Path:
    """The teacher's notebook of a unit."""
    return SOLUTIONS / unit / f"{unit}.ipynb"


def exercise(unit: str) -> Path:
    """The student's notebook of a unit, as released."""
    return EXERCISES / unit / f"{unit}.ipynb"


def checks_file(unit: str) -> Path:
    """The checks of a unit: they stand beside the teacher's notebook, and go along with the student's."""
    return SOLUTIONS / unit / f"checks_{unit.split('_', maxsplit=1)[1]}.py"


def read(path: Path) -> NotebookNode:
    """A notebook, with its format checked."""
    return nbformat.read(path, as_version=4)


def lacking(notebook: NotebookNode) -> str | None:
    """What a notebook needs and is not installed here, in a sentence; None if it can run."""
    needs = any(
        re.search(r"^import triton\b", cell.source, re.M) for cell in notebook.cells if cell.cell_type == "code"
    )
    if needs and find_spec("triton") is None:
        return "Triton is not installed here, and its kernels cannot be tried: it is there for Linux alone"
    return None


def grade_id(cell: NotebookNode) -> str:
    """The cell's nbgrader id, or nothing."""
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def is_answer(cell: NotebookNode) -> bool:
    """A learner writes here."""
    return bool(cell.metadata.get("nbgrader", {}).get("solution", False))


def is_check(cell: NotebookNode) -> bool:
    """Points are given here."""
    return bool(cell.metadata.get("nbgrader", {}).get("grade", False))


def task_of(cell: NotebookNode) -> str:
    """The task that a graded cell or an answer belongs to."""
    return re.sub(r"-(answer|check|hidden\d?)$", "", grade_id(cell))


def tasks(notebook: NotebookNode) -> dict[str, list[NotebookNode]]:
    """The cells of each task, tasks in order of appearance."""
    found: dict[str, list[NotebookNode]] = defaultdict(list)
    for cell in notebook.cells:
        if is_answer(cell) or is_check(cell):
            found[task_of(cell)].append(cell)
    return dict(found)


def code_digest(notebook: NotebookNode) -> str:
    """A digest of the code alone: outputs belong to the code that has the digest noted beside them."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()
