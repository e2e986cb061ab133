"""How nbgrader turns solutions/ into exercises/, and how it grades.

A teacher who wants nbgrader's own commands copies this file into a course folder: classroom/README.md says how. `make
progress` restores and runs a learner's notebook with the same two functions, so that both come to the same points.
"""

import os
import threading
import time
from collections import defaultdict
from typing import Any

import nbformat
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    Execute,
    IncludeHeaderFooter,
    LimitOutput,
    LockCells,
    NbGraderPreprocessor,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
    SaveCells,
)
from nbgrader.utils import compute_checksum
from traitlets import Float, Unicode


class NamedStubs(ClearSolutions):
    """Clears solutions and leaves a stub that names its task."""

    def preprocess_cell(self, cell, resources, cell_index):
        """Replace the answer of one cell."""
        task = cell.metadata.get("nbgrader", {}).get("grade_id", "").removesuffix("-answer")
        self.code_stub = {
            "python": f'raise NotImplementedError("{task}: not filled in yet, write your answer in place of this line")'
        }
        return super().preprocess_cell(cell, resources, cell_index)


class RunOn(NbGraderPreprocessor):
    """Tags what stands below the first stub, so that "Run All" goes on behind an error to the tasks that follow.

    A learner's JupyterLab looks at the tag; grading does not.
    """

    def preprocess(self, nb, resources):
        """Tag the cells of code from the first answer on."""
        first = next((at for at, cell in enumerate(nb.cells) if mark(cell).get("solution")), len(nb.cells))
        for cell in nb.cells[first:]:
            if cell.cell_type == "code":
                cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), "raises-exception"})
        return nb, resources


def mark(cell: NotebookNode) -> dict[str, Any]:
    """nbgrader's marks of a cell; none if they are no marks."""
    found = cell.metadata.get("nbgrader", {})
    return found if isinstance(found, dict) and isinstance(found.get("grade_id", ""), str) else {}


def part_of(cell: NotebookNode) -> str:
    """The id of the marked cell that this one is, or was split or copied from; nothing for the learner's own."""
    return mark(cell).get("grade_id") or cell.metadata.get("dynlib", {}).get("part_of", "")


def restored(submitted: list[NotebookNode], source: list[NotebookNode]) -> list[NotebookNode]:
    """The cells of a submission as they are graded, whatever was done to them.

    - What is locked (the set-up and the checks) is as the teacher has it. Where a learner changed the text of such a
      cell, or merged an answer into it, their text runs in front of it.
    - A check runs once, and below its answer: at its place; else right after the answer; else at the end.
    - The parts of a split answer, and copies of it, run where they stand, in their order.
    - All else is the learner's own, and runs where it stands. Tags and other marks of cells mean nothing.

    Args:
        submitted: the learner's cells.
        source: the teacher's marked cells, in order. The text of an answer among them is not used.
    """
    known = {mark(cell)["grade_id"]: cell for cell in source if mark(cell).get("grade_id")}
    places: dict[str, list[int]] = defaultdict(list)
    for at, cell in enumerate(submitted):
        if mark(cell).get("grade_id") in known:
            places[mark(cell)["grade_id"]].append(at)
    answers = {name: cell for name, cell in known.items() if mark(cell).get("solution")}
    # The one that counts of a locked cell that is there several times: what a copy has is a new id.
    counts = {
        name: next((at for at in found if submitted[at].get("id") == name), found[0])
        for name, found in places.items()
        if name not in answers
    }
    counts |= {
        name: next((at for at in places[name] if submitted[at].cell_type == "code"), places[name][0])
        for name in answers
        if places[name]
    }

    cells: list[NotebookNode] = []
    for at, cell in enumerate(submitted):
        name = mark(cell).get("grade_id", "")
        if counts.get(name) != at:
            cells.append(_plain(cell, name if name in known else ""))
        elif name in answers:
            cells.append(_like(answers[name], cell.source))
        else:
            text = _without_hidden(known[name].source)
            if cell.cell_type == known[name].cell_type == "code" and _without_hidden(cell.source) != text:
                cells.append(_plain(cell))
            cells.append(_like(known[name], known[name].source))
    for name, teacher in known.items():
        if mark(teacher).get("grade"):
            _below_its_answer(cells, name, teacher)
    first = next((at for at, cell in enumerate(source) if mark(cell).get("solution")), 0)
    setup = [cell for cell in source[:first] if cell.cell_type == "code" and mark(cell)["grade_id"] not in counts]
    cells = [_like(cell, cell.source) for cell in setup if not mark(cell).get("grade")] + cells
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # ids of copies may be there twice
    return cells


def _below_its_answer(cells: list[NotebookNode], name: str, teacher: NotebookNode) -> None:
    """See to it that a check is there, and below a part of its answer if there is one."""
    task = name.rsplit("-", 1)[0]
    here = next((at for at, cell in enumerate(cells) if mark(cell).get("grade_id") == name), None)
    parts = [at for at, cell in enumerate(cells) if part_of(cell) == f"{task}-answer" and cell.cell_type == "code"]
    if here is not None and (not parts or parts[0] < here):
        return
    check = cells.pop(here) if here is not None else _like(teacher, teacher.source)
    if not parts:
        cells.append(check)
        return
    below = parts[-1] - (here is not None)  # it stood above all parts
    while below + 1 < len(cells) and part_of(cells[below + 1]).rsplit("-", 1)[0] == task:
        below += 1  # behind the task's checks that are there
    cells.insert(below + 1, check)


def _plain(cell: NotebookNode, name: str = "") -> NotebookNode:
    make = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
    return make(cell.source, metadata={"dynlib": {"part_of": name}} if name else {})


def _like(teacher: NotebookNode, source: str) -> NotebookNode:
    make = nbformat.v4.new_code_cell if teacher.cell_type == "code" else nbformat.v4.new_markdown_cell
    cell = make(source, metadata={"nbgrader": dict(mark(teacher)) | {"cell_type": teacher.cell_type}})
    cell.metadata.nbgrader.setdefault("checksum", compute_checksum(cell))
    return cell


def _without_hidden(source: str) -> str:
    lines, hidden = [], False
    for line in source.split("\n"):
        hidden = hidden or "BEGIN HIDDEN TESTS" in line
        if not hidden and line.strip():
            lines.append(line.rstrip())
        hidden = hidden and "END HIDDEN TESTS" not in line
    return "\n".join(lines)


PREPARE = '''
def _prepare():
    """Nothing that a learner's folder or cells hold stands in for a package or for the teacher's checks."""
    import importlib, os, pathlib, sys

    try:
        import dynlib
    except ImportError:
        pass  # a course may do without
    sys.path.append(os.getcwd())  # last, so that torch.py beside the notebook does not stand in for torch
    for file in sorted(pathlib.Path().glob("checks_*.py")):
        try:
            importlib.import_module(file.stem)
        except Exception:
            pass  # said where it is imported

    def stay():
        raise RuntimeError("exit() and quit() end the kernel: take them out")

    get_ipython().ask_exit = stay


_prepare()
del _prepare
'''


class Run(Execute):
    """Runs a submission to its end, whatever its cells do.

    A cell that hangs is stopped, one that will not be stopped ends the run, and so does one that kills the kernel: the
    checks that were reached before keep their points. A graded cell fails by an error alone: not by what it prints, nor
    can it give itself points by showing a number.

    Attributes:
        seconds: that each cell took, by its place, of those that came to their end.
        reason: why the run did not come to its end, or nothing.
    """

    grace = Float(5, help="Seconds that an interrupted cell has to end; then its kernel is stopped.").tag(config=True)
    skip_cells_with_tag = Unicode("").tag(config=True)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra_arguments = [
            "--InteractiveShellApp.ignore_cwd=True",
            f"--IPKernelApp.exec_lines={PREPARE}",
            "--IPKernelApp.log_level=ERROR",  # what a kernel tells about itself is not a learner's matter
            *self.extra_arguments,
        ]
        self.error_on_timeout = {}  # an interrupted cell is waited for, that the next one finds a kernel at rest
        self.startup_timeout = 180
        self.seconds, self.reason = {}, ""

    def setup_kernel(self, **options):
        """A kernel that does not look for its own parts in the learner's folder."""
        return super().setup_kernel(env=os.environ | {"PYTHONSAFEPATH": "1"}, **options)

    def preprocess(self, nb, resources=None, km=None):
        """Run all cells."""
        self.seconds, self.reason = {}, ""
        return super().preprocess(nb, resources, km)

    def preprocess_cell(self, cell, resources, index):
        """Run one cell, if the kernel is still there."""
        if self.reason:
            self._fail(cell, "NotReached", self.reason)
            return cell, resources
        cell.outputs = []
        killed = threading.Event()

        def kill():
            killed.set()
            self.km.provisioner.process.kill()

        stop = threading.Timer(self.timeout + self.grace, kill)
        stop.daemon = True
        started = time.monotonic()
        stop.start()
        try:
            cell, resources = super().preprocess_cell(cell, resources, index)
            self.seconds[index] = time.monotonic() - started
        except DeadKernelError:
            begins = next((line.strip() for line in cell.source.split("\n") if line.strip()), "")[:60]
            cell_says = f"'{mark(cell)['grade_id']}'" if mark(cell).get("grade_id") else f"that begins `{begins}`"
            self.reason = (
                f"a cell ran for more than {self.timeout} s and could not be stopped"
                if killed.is_set()
                else f"the kernel died in the cell {cell_says}: out of memory, or ended by os._exit or a signal?"
            )
            self._fail(cell, "DeadKernel", self.reason)
        finally:
            stop.cancel()
        if self.seconds.get(index, 0) > self.timeout:
            self._fail(cell, "TooSlow", f"a cell ran for more than {self.timeout} s")
        if mark(cell).get("grade"):
            cell.outputs = [output for output in map(_no_grade_but_an_error, cell.outputs) if output]
        return cell, resources

    def _fail(self, cell, name, says):
        if cell.cell_type == "code":
            error = nbformat.v4.new_output("error", ename=name, evalue=says, traceback=[says])
            cell.outputs = [error, *cell.get("outputs", [])]


def _no_grade_but_an_error(output: NotebookNode) -> NotebookNode | None:
    # nbgrader takes a shown number for points, and a word on stderr for an error.
    if output.output_type == "execute_result":
        return nbformat.v4.new_output("display_data", data=output.data, metadata=output.metadata)
    if output.output_type == "stream" and output.name == "stderr":
        return nbformat.v4.new_output("stream", name="stdout", text=output.text)
    return output


class Restored(OverwriteCells):
    """Makes a submission what is graded: see :func:`restored`."""

    def preprocess(self, nb, resources):
        """Put the teacher's cells, from the grade book, into the learner's notebook."""
        from nbgrader.api import Gradebook

        names = resources["nbgrader"]
        with Gradebook(names["db_url"]) as book:
            notebook = book.find_notebook(names["notebook"], names["assignment"])
            points = {cell.name: cell.max_score for cell in notebook.grade_cells}
            answers = {cell.name for cell in notebook.solution_cells}
            source = [self._cell(cell, points, answers) for cell in notebook.source_cells]
        nb.cells = restored(nb.cells, source)
        return nb, resources

    @staticmethod
    def _cell(cell, points, answers):
        make = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        marks = {
            "grade": cell.name in points,
            "grade_id": cell.name,
            "locked": cell.locked,
            "schema_version": 3,
            "solution": cell.name in answers,
            "checksum": cell.checksum,
        }
        if cell.name in points:
            marks["points"] = points[cell.name]
        return make(cell.source, metadata={"nbgrader": marks})


c = get_config()

c.CourseDirectory.course_id = "dynlib"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"

# The default steps, with named stubs in place of anonymous ones, and tags for learners.
c.GenerateAssignment.preprocessors = [
    IncludeHeaderFooter,
    LockCells,
    NamedStubs,
    RunOn,
    ClearOutput,
    CheckCellMetadata,
    ComputeChecksums,
    SaveCells,
    ClearHiddenTests,
    ClearMarkScheme,
    ComputeChecksums,
    CheckCellMetadata,
]

c.Execute.timeout = 60  # seconds for a cell; every right answer needs a few at most
# In place of the steps that look at ids and cells stands Restored, in place of Execute stands Run.
c.Autograde.sanitize_preprocessors = [Restored, ClearOutput, OverwriteKernelspec, CheckCellMetadata]
c.Autograde.autograde_preprocessors = [Run, LimitOutput, SaveAutoGrades, AssignLatePenalties, CheckCellMetadata]
