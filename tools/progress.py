"""Grade your own work: run the checks of the notebooks in work/ and show the points for each task and unit.

The checks, the hidden ones too, are taken fresh from solutions/, and all runs as a teacher's grader runs it, in a copy
of the notebook's folder: nothing is written. A notebook that hangs, dies or cannot be read counts as not yet, and the
others still run.
"""

import argparse
import ast
import builtins
import importlib.machinery
import logging
import os
import re
import runpy
import shlex
import shutil
import symtable
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from nbgrader.utils import determine_grade
from tqdm import tqdm
from traitlets.config import Config

from tools.changes import changes
from tools.notebooks import (
    ROOT,
    WORK,
    checks_file,
    grade_id,
    is_answer,
    is_check,
    read,
    solution,
    task_of,
    units,
)

CELL_SECONDS = 60
GRACE = 5
"""Seconds that an interrupted cell has to end; then its kernel is stopped, and with it the notebook."""


class Points(NamedTuple):
    """What a task brought, what it can bring, and the first thing that stands in the way."""

    got: float
    most: float
    reason: str = ""


@cache
def grader() -> dict[str, Any]:
    """How nbgrader is told to restore and run a notebook: the names of nbgrader_config.py."""
    return runpy.run_path(str(ROOT / "nbgrader_config.py"), init_globals={"get_config": Config})


def unit_of(path: Path) -> str:
    """The unit that a notebook belongs to: by its name, its folder's, or the tasks in it.

    Raises:
        ValueError: if it is none of the course.
    """
    for name in (path.stem, path.absolute().parent.name):
        if name in units():
            return name
    there = _ids(path)
    best = max(units(), key=lambda unit: len(there & _ids(solution(unit))))
    if not there & _ids(solution(best)):
        raise ValueError(f"{path} has no task of the course: your exercises are in work/")
    return best


def _ids(path: Path) -> set[str]:
    try:
        marks = [grader()["mark"](cell) for cell in read(path).cells]
        return {mark.get("grade_id", "") for mark in marks if mark.get("solution") or mark.get("grade")}
    except Exception:
        return set()


def grade(path: Path) -> dict[str, Points]:
    """Points for each task of one notebook."""
    unit = unit_of(path)
    source = read(solution(unit)).cells
    checks = [cell for cell in source if is_check(cell)]
    try:
        notebook = read(path)
        notebook.cells = grader()["restored"](notebook.cells, [cell for cell in source if grade_id(cell)])
    except Exception as error:
        says = f"the notebook cannot be read: {_line(str(error)) or type(error).__name__}"
        return _sum((check, 0.0, says) for check in checks)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place) / unit
        _copy(path, unit, folder)
        run = grader()["Run"](timeout=CELL_SECONDS, grace=GRACE)
        for log in (run.log, logging.getLogger("tornado")):  # what they say of sockets is not a learner's matter
            log.setLevel("CRITICAL")
        run.preprocess(notebook, {"metadata": {"path": str(folder)}})
    cells = {grade_id(cell): cell for cell in notebook.cells if is_check(cell)}
    found = []
    for check in checks:
        got = float(determine_grade(cells[grade_id(check)])[0] or 0.0)
        found.append((check, got, "" if got == check.metadata.nbgrader.points else reason(check, notebook.cells)))
    return _sum(found)


def _sum(found: Any) -> dict[str, Points]:
    points: dict[str, Points] = {}
    for check, got, why in found:
        before = points.get(task_of(check), Points(0, 0))
        most = float(check.metadata.nbgrader.points)
        points[task_of(check)] = Points(before.got + got, before.most + most, before.reason or why)
    return points


def _copy(path: Path, unit: str, folder: Path) -> None:
    """What the learner keeps beside the notebook, with the teacher's checks put over it."""
    folder.mkdir()
    ours = path.absolute().parent.name == unit  # else it may be anything, such as all downloads
    for file in sorted(path.parent.rglob("*") if ours else path.parent.glob("*.py")):
        inside = file.relative_to(path.parent)
        if file.is_file() and not {".ipynb_checkpoints", "__pycache__"} & set(inside.parts):
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(file, folder / inside)
            except OSError:
                continue  # what cannot be read is not there
    if checks_file(unit).exists():
        shutil.copyfile(checks_file(unit), folder / checks_file(unit).name)


# Why a task is not done.


def reason(check: NotebookNode, cells: Sequence[NotebookNode]) -> str:
    """The first thing that stands in the way, and what was done to the notebook that may be the cause."""
    at = next(at for at, cell in enumerate(cells) if grade_id(cell) == grade_id(check))
    task, part_of = task_of(check), grader()["part_of"]
    why = _first_line(cells[at])
    if _blank(task, why) or _error(cells[at]).get("ename") in ("DeadKernel", "NotReached", "TooSlow"):
        return why
    parts = [cell for cell in cells if part_of(cell) == f"{task}-answer" and cell.cell_type == "code"]
    stopped = next((error for cell in parts if (error := _error(cell))), None)
    if stopped:
        why = f"your answer stopped with {stopped['ename']}: {_line(stopped['evalue'])}"
    if not parts:
        why += f"; the cell '{task}-answer' is not there"
    if len(parts) > 1:
        why += f"; your answer stands in {len(parts)} cells, which ran in their order"
    for name, cell in _used_again(task, parts, at, cells).items():
        why += f"; the name '{name}' is used again in the cell that begins `{_begins(cell)}`"
    return why


def _blank(task: str, why: str) -> bool:
    return why.startswith(f"{task}: not filled in yet")


def _error(cell: NotebookNode) -> dict[str, Any]:
    return next((output for output in cell.get("outputs", []) if output.output_type == "error"), {})


def _first_line(cell: NotebookNode) -> str:
    error = _error(cell)
    if not error:
        return "the check brought less than its points"
    if error["ename"] not in ("CheckFailed", "Unfilled"):
        return _line(error["evalue"]) or error["ename"]
    lines = [line for line in "\n".join(error["traceback"]).split("\n") if line.strip()] or [error["ename"]]
    got = next((line.split("got", 1)[1].strip() for line in lines if line.startswith("  got ")), "")
    return _line(lines[0]) + (f": {got}" if "the check 'runs'" in lines[0] and got else "")


def _line(text: str) -> str:
    """The first line that says something, without what a terminal would take for a command."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    plain = re.sub(r"\(\d+\.py, (line \d+)\)", r"(\1)", plain)  # a cell has a number for its name
    lines = (re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", line).strip() for line in plain.split("\n"))
    return next((line if len(line) <= 200 else f"{line[:197]}..." for line in lines if line), "")


def _begins(cell: NotebookNode) -> str:
    return _line(cell.source)[:40]


def _used_again(
    task: str, parts: Sequence[NotebookNode], at: int, cells: Sequence[NotebookNode]
) -> dict[str, NotebookNode]:
    """Names that a task needs and that a cell of the learner's, above its check, gave another meaning."""
    part_of = grader()["part_of"]
    given = dict.fromkeys(dir(builtins), "builtins")
    for cell in cells:
        if grade_id(cell) and not is_answer(cell):
            given |= _bound(cell.source)
    own = {name for cell in parts for name in _bound(cell.source)}
    needed = own.union(*(_needs(cell.source) for cell in (*parts, cells[at])))
    needed -= set(_bound(cells[at].source))
    found: dict[str, NotebookNode] = {}
    for cell in cells[:at]:
        if cell.cell_type != "code" or (grade_id(cell) and not is_answer(cell)):
            continue
        for name, what in _bound(cell.source).items():
            mine = part_of(cell) == f"{task}-answer"
            if name in needed and what != given.get(name, "") and ((name in given) or (name in own and not mine)):
                found[name] = cell
    return found


def parsed(source: str) -> tuple[str, ast.Module]:
    """A cell's code with its magics made Python, and its syntax tree; nothing of either if it is no Python."""
    try:
        plain = TransformerManager().transform_cell(source)
        return plain, ast.parse(plain)
    except (SyntaxError, ValueError):
        return "", ast.Module([], [])


def _read(source: str) -> tuple[str, ast.Module]:
    """The same; nothing, too, of what is nested too deeply to be parsed."""
    try:
        return parsed(source)
    except (RecursionError, MemoryError):
        return "", ast.Module([], [])


def _bound(source: str) -> dict[str, str]:
    """Names that a cell gives a value, or takes it from, outside functions and classes; what was imported under it."""
    found: dict[str, str] = {}

    def look(nodes: Sequence[ast.AST]) -> None:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[node.name] = "defined"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.split(".")[0]
                    found[alias.asname or whole] = f"import {whole}"
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[alias.asname or alias.name] = f"import {node.module}.{alias.name}"
            elif isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
                continue
            else:
                if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                    found[node.id] = "assigned"
                if isinstance(node, ast.ExceptHandler) and node.name:
                    found[node.name] = "assigned"
                look(list(ast.iter_child_nodes(node)))

    look(_read(source)[1].body)
    return found


def _needs(source: str) -> set[str]:
    """Names that a cell takes from outside itself, in its functions too."""

    def look(table: symtable.SymbolTable) -> Iterator[str]:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table.get_type() == "module" or symbol.is_global()):
                yield symbol.get_name()
        for inner in table.get_children():
            yield from look(inner)

    return set(look(symtable.symtable(_read(source)[0], "cell", "exec")))


def notes(path: Path) -> list[str]:
    """What a learner should know about a notebook and its folder besides its points."""
    unit, found = unit_of(path), []
    tasks = list(dict.fromkeys(change.task for change in changes(unit, path)))
    if tasks:
        more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
        found.append(
            f"made from an older exercise ('{tasks[0]}'{more} changed since), and graded by the tasks and checks of "
            f"today: make changes {_named(path, unit)}"
        )
    mine, ours = path.parent / checks_file(unit).name, checks_file(unit)
    if mine.exists() and ours.exists() and mine.read_bytes() != ours.read_bytes():
        found.append(f"{mine.name} is not as the course has it; the course's is used, and `make lab` brings it back")
    for file in sorted(path.parent.glob("*")):
        if (file.suffix == ".py" or any(file.glob("*.py"))) and file.name != ours.name and _installed(file.stem):
            found.append(f"{file.name} has the name of a package, which is used in its place: give it another name")
    return found


def _named(path: Path, unit: str) -> str:
    """How a command line names a notebook."""
    return unit if path.resolve() == (WORK / unit / f"{unit}.ipynb").resolve() else shlex.quote(_shown(path))


def _installed(name: str) -> bool:
    if name in sys.stdlib_module_names or name == "dynlib":
        return True
    elsewhere = [place for place in sys.path if place and Path(place).resolve() not in (ROOT, Path.cwd().resolve())]
    return importlib.machinery.PathFinder.find_spec(name, elsewhere) is not None


def _writable(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def bar(share: float, width: int = 20) -> str:
    """A bar of blocks, full only at 1, empty only at 0; of signs that every terminal has where it must be."""
    blocks = round(share * width) if share in (0, 1) else min(max(round(share * width), 1), width - 1)
    full, empty = "█·" if _writable("█·") else "#."
    return full * blocks + empty * (width - blocks)


def report(results: Mapping[str, Mapping[str, Points]], told: Mapping[str, Sequence[str]] | None = None) -> str:
    """The table: a line per task, a line per unit, one for all; ``told`` are sentences about a unit."""
    lines, all_got, all_most = [], 0.0, 0.0
    for unit, points in results.items():
        got, most = sum(p.got for p in points.values()), sum(p.most for p in points.values())
        all_got, all_most = all_got + got, all_most + most
        lines.append(f"{unit:<28} {bar(got / most)} {got:g} of {most:g} points")
        lines += [f"  note: {note}" for note in (told or {}).get(unit, ())]
        before = ""
        for name, task in points.items():
            blank = not task.got and _blank(name, task.reason)
            mark = "done" if task.got == task.most else "part" if task.got else "blank" if blank else "not yet"
            why = "" if blank else "as above" if task.reason and task.reason == before else task.reason
            before = task.reason
            lines.append(f"  {name:<26} {mark:<8} {task.got:g}/{task.most:g}  {why}".rstrip())
    if len(results) > 1:
        lines.append(f"{'all together':<28} {bar(all_got / all_most)} {all_got:g} of {all_most:g} points")
    encoding = sys.stdout.encoding or "utf-8"
    return "\n".join(lines).encode(encoding, "replace").decode(encoding)


def chosen(names: Sequence[str]) -> dict[str, Path]:
    """The notebooks that a command line names, by what the table calls them; those of work/ if it names none.

    Raises:
        ValueError: for what is neither a unit nor a notebook of the course; says what there is.
    """
    found: dict[str, Path] = {}
    for name in names or units():
        path = Path(name).expanduser()
        if path.name == name.rstrip("/\\") and path.stem in units():
            path = WORK / path.stem / f"{path.stem}.ipynb"
            if names and not path.exists():
                raise ValueError(f"there is no {_shown(path)} yet: `make lab` puts the exercises there")
        elif path.is_dir():
            inside = [path / f"{path.absolute().name}.ipynb", *(path / unit / f"{unit}.ipynb" for unit in units())]
            inside = [file for file in inside if file.exists()]
            inside = inside or [file for file in sorted(path.glob("*.ipynb")) if _ids(file)]
            if not inside:
                raise ValueError(f"there is no notebook with tasks in {_shown(path)}")
            found |= {_label(file): file for file in inside}
            continue
        elif not path.exists():
            what = f"no file {name}" if path.suffix or path.parent != Path() else f"no unit {name}"
            raise ValueError(f"there is {what}; there are {', '.join(units())}")
        if path.exists():
            found[_label(path)] = path
    return found


def _label(path: Path) -> str:
    unit = unit_of(path)
    tasks = _ids(solution(unit))
    if WORK.resolve() not in path.resolve().parents and not _ids(path) & tasks and path.suffix == ".ipynb":
        try:
            read(path)
        except Exception:
            return _shown(path)  # said where it is graded
        raise ValueError(f"{_shown(path)} has no tasks: your exercise is work/{unit}/{unit}.ipynb")
    return unit if path.resolve() == (WORK / unit / f"{unit}.ipynb").resolve() else _shown(path)


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd().resolve()) else str(path)


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="units such as 02_gumbel, or paths of notebooks; all of work/ if none")
    try:
        there = chosen(parser.parse_args().names)
    except ValueError as error:
        sys.exit(str(error))
    if not there:
        sys.exit("nothing to look at in work/: `make lab` puts the exercises there")
    results = {name: grade(path) for name, path in tqdm(there.items(), desc="progress", leave=False)}
    try:
        print(report(results, {name: notes(path) for name, path in there.items()}), flush=True)
    except BrokenPipeError:  # `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
