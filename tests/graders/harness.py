"""Run a task's checks in this process on any answer: right, wrong, blank or broken.

The answers lie in ``answers/NN_name.py``, each under a line that says what it is::

    # %% wrong: gumbel-max | the noise is added after the softmax | killed by: law
    # %% right: gumbel-max | by exponential races

Below stands the answer, or how it differs from another: from the teacher's, or from one further up that stands there in
full, named by what it says. Lines that begin with ``-`` are taken out, those with ``+`` put in their place; lines
without a sign stay and say where. Each hunk, to the next ``# …``, must be found exactly once::

    # %% wrong: gumbel-max | the smallest in place of the largest | killed by: law
    # edit of: by exponential races
    # -    return times.argmin(dim)
    # +    return times.argmax(dim)
"""

import contextlib
import io
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import matplotlib as mpl
from nbformat import NotebookNode

from dynlib.checks import CheckFailed, Unfilled
from tools.notebooks import exercise, grade_id, is_answer, is_check, read, solution, task_of, tasks, units

ANSWERS = Path(__file__).parent / "answers"
HEADER = re.compile(
    r"^# %% (?P<kind>wrong|right): (?P<task>[\w-]+) \| (?P<says>[^|\n]+?)(?: \| killed by: (?P<check>[^|\n]+))?$",
    re.MULTILINE,
)

EDIT = re.compile(r"\A# edit of: (?P<base>[^\n]+)\n(?P<hunks>(?:#[^\n]*\n?)+)\Z")
TEACHERS = "the teacher's"
"""What an edit of the solution names as its base."""

mpl.use("agg")
sys.path.extend(str(solution(unit).parent) for unit in units())  # the checks lie beside the notebooks


class Answer(NamedTuple):
    """One submission to one task."""

    unit: str
    task: str
    right: bool
    says: str
    check: str | None
    """The check that must stop a wrong answer."""
    code: str


class Outcome(NamedTuple):
    """What a check cell made of an answer."""

    cell: str
    stopped_by: str | None
    """The check's name, 'unfilled', or the class of another error; None if the cell passed."""
    message: str


def answers(unit: str) -> list[Answer]:
    """The answers written down for a unit, in the order of the file."""
    text = (ANSWERS / f"{unit}.py").read_text()
    heads = list(HEADER.finditer(text))
    strange = [line for line in text.split("\n") if line.startswith("# %%") and not HEADER.match(line)]
    if strange:
        raise ValueError(f"{unit}.py: cannot read the line {strange[0]!r}")
    ends = [head.start() for head in heads[1:]] + [len(text)]
    found: list[Answer] = []
    whole: dict[tuple[str, str], str] = {}  # the answers that stand in full, by task and what they say
    for head, end in zip(heads, ends, strict=True):
        right, check = head["kind"] == "right", head["check"]
        if right == (check is not None):
            raise ValueError(
                f"{unit}.py: a wrong answer names the check that kills it, a right one does not: {head[0]}"
            )
        task, says, code = head["task"], head["says"], text[head.end() : end].strip() + "\n"
        if edit := EDIT.match(code):
            base = source_of(unit, task) if edit["base"] == TEACHERS else whole.get((task, edit["base"]))
            if base is None:
                raise ValueError(f"{unit}.py: {task}: no answer {edit['base']!r} stands in full above {says!r}")
            code = edited(base, edit["hunks"], f"{unit}.py, {task}, {says}")
        else:
            whole[task, says] = code
        found.append(Answer(unit, task, right, says, check, code))
    return found


def edited(base: str, hunks: str, name: str) -> str:
    """The code of ``base`` with the lines of some hunks taken out and put in.

    Raises:
        ValueError: if a line begins with none of the signs, the lines that a hunk takes out or keeps are not found, or
            found more than once, or a hunk changes nothing.
    """
    lines = [line.rstrip() for line in base.split("\n")]
    for hunk in _hunks(hunks, name):
        old = [text for sign, text in hunk if sign != "+"]
        new = [text for sign, text in hunk if sign != "-"]
        places = [at for at in range(len(lines) - len(old) + 1) if old and lines[at : at + len(old)] == old]
        if len(places) != 1 or old == new:
            shown = "\n".join(old)
            raise ValueError(f"{name}: these lines must be found once and changed; found {len(places)} times:\n{shown}")
        lines[places[0] : places[0] + len(old)] = new
    return "\n".join(lines)


def _hunks(text: str, name: str) -> list[list[tuple[str, str]]]:
    """The signed lines of each hunk."""
    hunks: list[list[tuple[str, str]]] = [[]]
    for line in text.rstrip("\n").split("\n"):
        sign, rest = line[2:3] or " ", line[3:].rstrip()
        if line == "# …":
            hunks.append([])
        elif line[:2] not in ("#", "# ") or sign not in "+- ":
            raise ValueError(f"{name}: an edit's lines begin with '# -', '# +' or '#  '; got {line!r}")
        else:
            hunks[-1].append((sign, rest))
    return hunks


@cache
def teacher(unit: str) -> NotebookNode:
    """The solution notebook of a unit."""
    return read(solution(unit))


def source_of(unit: str, task: str, *, released: bool = False) -> str:
    """The answer cell of a task: the teacher's, or the stub that a student gets."""
    notebook = read(exercise(unit)) if released else teacher(unit)
    cells = [cell for cell in notebook.cells if is_answer(cell) and task_of(cell) == task]
    if len(cells) != 1:
        raise ValueError(f"{unit}: the task {task} must have one answer cell; it has {len(cells)}")
    return cells[0].source


@cache
def _before(unit: str, task: str) -> dict[str, Any]:
    """The names that stand when a learner comes to a task: all cells above it but the checks, with right answers."""
    space: dict[str, Any] = {"__name__": "__main__"}
    for cell in teacher(unit).cells:
        if is_answer(cell) and task_of(cell) == task:
            return space
        if cell.cell_type == "code" and not is_check(cell):
            _execute(cell.source, space)
    raise ValueError(f"{unit} has no task {task}; it has {', '.join(tasks(teacher(unit)))}")


def run(unit: str, task: str, code: str, *, to_the_end: bool = True) -> list[Outcome]:
    """Put ``code`` into the answer cell of a task and run its checks, as a notebook would: a cell that fails does not
    keep the next from running. Not ``to_the_end``, the first check that fails is the last that is run."""
    space = dict(_before(unit, task))
    with contextlib.suppress(BaseException):  # a broken answer leaves its names undefined, and the checks say so
        _execute(code, space)
    outcomes, reached = [], False
    last = [cell for cell in teacher(unit).cells if is_check(cell) and task_of(cell) == task][-1]
    for cell in teacher(unit).cells:
        if is_answer(cell) and task_of(cell) == task:
            reached = True
        elif reached and is_check(cell) and task_of(cell) == task:
            outcomes.append(_check(cell, space))
            if outcomes[-1].stopped_by is not None and not to_the_end:
                break
        elif reached and cell.cell_type == "code" and not is_check(cell):
            with contextlib.suppress(Exception):
                _execute(cell.source, space)
        if cell is last:
            break
    return outcomes


def left_behind(unit: str, task: str) -> set[str]:
    """The names that the visible checks of a task add to the learner's, or give another value."""
    space = dict(_before(unit, task))
    _execute(source_of(unit, task), space)
    before = dict(space)
    check = next(cell for cell in tasks(teacher(unit))[task] if is_check(cell))
    _execute(check.source, space)
    return {name for name, value in space.items() if name not in before or before[name] is not value}


def stopped_by(outcomes: list[Outcome]) -> str | None:
    """The first check that stopped an answer; None if it passed them all."""
    return next((outcome.stopped_by for outcome in outcomes if outcome.stopped_by is not None), None)


def interpreting() -> contextlib.AbstractContextManager[object]:
    """A block in which ``@triton.jit`` makes a kernel for Triton's interpreter, whatever loaded Triton before."""
    return patch.dict(os.environ, TRITON_INTERPRET="1")


def _check(cell: NotebookNode, space: dict[str, Any]) -> Outcome:
    try:
        _execute(cell.source, space)
    except CheckFailed as failed:
        return Outcome(grade_id(cell), failed.check, str(failed))
    except Unfilled as blank:
        return Outcome(grade_id(cell), "unfilled", str(blank))
    except Exception as error:
        return Outcome(grade_id(cell), type(error).__name__, str(error))
    return Outcome(grade_id(cell), None, "")


def _execute(source: str, space: dict[str, Any]) -> None:
    with interpreting(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(source, "<answer>", "exec"), space)
