"""Grade your own work: run the checks of the notebooks in work/ and show the points for each task and unit.

The checks, the hidden ones too, are taken fresh from solutions/, as a teacher's grader does; your answers run as they
are. A notebook that hangs, dies or cannot be read counts as not yet, and the others still run. Nothing is written.
"""

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from nbgrader.utils import determine_grade
from tqdm import tqdm

from tools.notebooks import WORK, grade_id, is_answer, is_check, read, solution, task_of, units

CELL_SECONDS = 60
GRACE = 5
"""Seconds that an interrupted cell has to end; then its kernel is stopped, and with it the notebook."""


class Points(NamedTuple):
    """What a task brought, what it can bring, and the first thing that stands in the way."""

    got: float
    most: float
    reason: str = ""


def with_checks(submitted: NotebookNode, source: NotebookNode) -> NotebookNode:
    """The learner's notebook with every check as the teacher has it; checks that are missing come back at the end.

    Raises:
        ValueError: if a graded cell is there twice, so that nobody can tell which of the two counts.
    """
    checks = {grade_id(cell): cell for cell in source.cells if is_check(cell)}
    known = set(checks) | {grade_id(cell) for cell in source.cells if is_answer(cell)}
    names = [grade_id(cell) for cell in submitted.cells if grade_id(cell) in known]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the cell '{twice[0]}' is there twice, delete one of the two")
    merged = submitted.copy()
    merged["cells"] = [checks.get(grade_id(cell), cell) for cell in submitted.cells]
    merged["cells"] += [cell for name, cell in checks.items() if name not in names]
    return merged


def grade(path: Path) -> dict[str, Points]:
    """Points for each task of one notebook of work/."""
    source = read(solution(path.stem))
    checks = [cell for cell in source.cells if is_check(cell)]
    reason, took = "", dict[str, float]()
    try:
        notebook = with_checks(read(path), source)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        reason, took = _run(notebook, path.parent)
    except Exception as error:
        notebook, reason = None, f"the notebook cannot be read: {error}"
    ran = {grade_id(cell): cell for cell in (notebook.cells if notebook is not None else []) if is_check(cell)}
    points: dict[str, Points] = {}
    for check in checks:
        most, cell = float(check.metadata.nbgrader.points), ran.get(grade_id(check))
        got, why = 0.0, reason
        if took.get(grade_id(check), 0) > CELL_SECONDS:
            why = f"a cell ran for more than {CELL_SECONDS} s"
        elif cell is not None and grade_id(check) in took:
            got = float(determine_grade(cell)[0] or 0.0)
            why = "" if got == most else _first_line(cell)
        before = points.get(task_of(check), Points(0, 0))
        points[task_of(check)] = Points(before.got + got, before.most + most, before.reason or why)
    return points


def _run(notebook: NotebookNode, folder: Path) -> tuple[str, dict[str, float]]:
    """Run all cells; why some did not come to their end, and the seconds of those that did, by grade id."""
    took: dict[str, float] = {}
    started = time.monotonic()
    stop, stopped = threading.Timer(0, print), False

    def kill() -> None:
        nonlocal stopped
        stopped = True
        client.km.provisioner.process.kill()

    def begin(**_: Any) -> None:
        nonlocal started, stop
        started, stop = time.monotonic(), threading.Timer(CELL_SECONDS + GRACE, kill)
        stop.start()

    def end(cell: NotebookNode, **_: Any) -> None:
        stop.cancel()
        took[grade_id(cell)] = time.monotonic() - started

    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        allow_errors=True,
        interrupt_on_timeout=True,
        on_cell_execute=begin,
        on_cell_executed=end,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # what a kernel tells about itself is not a learner's matter
        resources={"metadata": {"path": str(folder)}},
    )
    client.log.setLevel("CRITICAL")
    try:
        client.execute()
    except DeadKernelError:
        if stopped:
            return f"a cell ran for more than {CELL_SECONDS} s and could not be stopped", took
        return "the kernel died while the notebook ran (out of memory?)", took
    finally:
        stop.cancel()
    return "the checks were not reached", took


def _first_line(cell: NotebookNode) -> str:
    for output in cell.outputs:
        if output.output_type == "error":
            text = "\n".join(output.traceback) if output.ename in ("CheckFailed", "Unfilled") else output.evalue
            return next((line for line in text.split("\n") if line.strip()), output.ename)
    return "a check printed to stderr"


def bar(share: float, width: int = 20) -> str:
    """A bar of blocks, full only at 1, empty only at 0."""
    blocks = round(share * width) if share in (0, 1) else min(max(round(share * width), 1), width - 1)
    return "█" * blocks + "·" * (width - blocks)


def report(results: dict[str, dict[str, Points]]) -> str:
    """The table: a line per task, a line per unit, one for all."""
    lines, all_got, all_most = [], 0.0, 0.0
    for unit, points in results.items():
        got, most = sum(p.got for p in points.values()), sum(p.most for p in points.values())
        all_got, all_most = all_got + got, all_most + most
        lines.append(f"{unit:<28} {bar(got / most)} {got:g} of {most:g} points")
        for name, task in points.items():
            mark = "done" if task.got == task.most else "part" if task.got else "not yet"
            lines.append(f"  {name:<26} {mark:<8} {task.got:g}/{task.most:g}  {task.reason}".rstrip())
    if len(results) > 1:
        lines.append(f"{'all together':<28} {bar(all_got / all_most)} {all_got:g} of {all_most:g} points")
    return "\n".join(lines)


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="units such as 02_gumbel, or paths of notebooks; all of work/ if none")
    names = [Path(name).stem for name in parser.parse_args().names]
    unknown = sorted(set(names) - set(units()))
    if unknown:
        sys.exit(f"there is no unit {', '.join(unknown)}; there are {', '.join(units())}")
    paths = [WORK / unit / f"{unit}.ipynb" for unit in names or units()]
    there = [path for path in paths if path.exists()]
    if not there:
        sys.exit("nothing to look at in work/: `make lab` puts the exercises there")
    print(report({path.stem: grade(path) for path in tqdm(there, desc="progress", leave=False)}))


if __name__ == "__main__":
    main()
