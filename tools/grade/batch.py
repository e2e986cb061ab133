"""Grade all submissions, several at a time, each once: what is done lies in ``graded/``, a file a submission."""

import ast
import hashlib
import json
import multiprocessing
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbformat import NotebookNode

from tools.grade import mistakes, room, sandbox, suspects
from tools.grade.clean import Cleaned, clean
from tools.grade.exports import Unreadable
from tools.grade.files import write
from tools.grade.intake import Submission
from tools.grade.mistakes import Mistake
from tools.grade.room import Ran
from tools.grade.sandbox import Limits
from tools.grade.walls import Walls
from tools.notebooks import ROOT, checks_file, grade_id, is_check, read, solution, task_of
from tools.progress import reason

Result = dict[str, Any]
"""What came of a submission, as its file holds it."""


class Job(NamedTuple):
    """A submission to grade, and all that it takes."""

    submission: Submission
    place: Path
    walls: Walls
    limits: Limits
    known: list[Mistake]


class Change(NamedTuple):
    """Points that are no longer what they were."""

    unit: str
    student: str
    task: str
    before: float | None
    after: float | None
    why: str


def file_of(place: Path, unit: str, student: str) -> Path:
    """Where the result of a submission lies."""
    return place / unit / f"{student}.json"


def load(place: Path, unit: str, student: str) -> Result | None:
    """A result that was written before; None if there is none."""
    try:
        found = json.loads(file_of(place, unit, student).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


# What is to be done


def again(old: Result | None, submission: Submission, *, every: bool = False) -> str:
    """Why a submission must be graded; nothing if what was found before still holds."""
    if old is None:
        return "new"
    if old["handed_in"] != _handed_in(submission):
        return "handed in again"
    if every or old.get("unfinished"):
        return "asked for" if every else "it had not come to its end"
    now = digests(submission.unit)
    touched = [task for task, digest in now.items() if old["checks"].get(task) != digest]
    if old["state"] == "unread" or not touched:
        return ""
    blank = {task for task, found in old["tasks"].items() if found["state"] == "blank"}
    touched = [task for task in touched if task not in blank]
    return f"the checks of {', '.join(touched)} changed" if touched else ""


def _handed_in(submission: Submission) -> str:
    return hashlib.sha256(submission.raw + submission.why_not.encode("utf-8", "replace")).hexdigest()


@cache
def digests(unit: str) -> dict[str, str]:
    """For each task, a digest of all that its checks are made of.

    These are its cells, and what they use, directly or not, of the unit's checks and of the voice: each function, class
    and constant, and each method of the voice's, without its docstrings and comments.
    """
    files = [checks_file(unit), *(ROOT / "dynlib" / f"{name}.py" for name in ("checks", "honest", "ways"))]
    parts: dict[str, list[Part]] = {}
    for path in files:
        for part in _parts(path.read_text(encoding="utf-8")) if path.exists() else []:
            parts.setdefault(part.name, []).append(part)
    cells: dict[str, list[str]] = {}
    for cell in read(solution(unit)).cells:
        if is_check(cell):
            cells.setdefault(task_of(cell), []).append(f"{cell.metadata.nbgrader.points}\n{cell.source}")
    found: dict[str, str] = {}
    for task, texts in cells.items():
        used, left = set[str](), [name for text in texts for name in re.findall(r"\w+", text) if name in parts]
        while left:
            name = left.pop()
            if name not in used:
                used.add(name)
                left += [other for part in parts[name] for other in part.uses if other in parts]
        whole = [f"{name}\n{part.text}" for name in sorted(used) for part in parts[name]]
        found[task] = hashlib.sha256("\0".join([*texts, *whole]).encode()).hexdigest()
    return found


class Part(NamedTuple):
    """What a file of checks gives a name to: its text, and the names that it uses."""

    name: str
    text: str
    uses: frozenset[str]


def _parts(source: str) -> list[Part]:
    """The parts of a file; the methods of a class with tests of many tasks, the voice's ``Task``, each by itself."""
    found = []
    for node in _without_docstrings(ast.parse(source)).body:
        whole = node
        if isinstance(node, ast.ClassDef) and node.name == "Task":
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name != "__init__"]
            found += [_part(method.name, method) for method in methods]
            whole = ast.ClassDef(
                node.name, node.bases, node.keywords, [n for n in node.body if n not in methods], node.decorator_list
            )
            whole.type_params = []
        targets = [whole.name] if isinstance(whole, ast.FunctionDef | ast.ClassDef) else []
        if isinstance(whole, ast.Assign | ast.AnnAssign):
            targets = [n.id for n in ast.walk(whole) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        found += [_part(name, whole) for name in targets]
    return found


def _part(name: str, node: ast.stmt) -> Part:
    uses = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    uses |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return Part(name, ast.unparse(node), frozenset(uses))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            texts = [n for n in node.body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
            node.body = [n for n in node.body if n not in texts] or [ast.Pass()]
    return tree


# Doing it


def grade(
    submissions: Sequence[Submission],
    place: Path,
    walls: Walls,
    *,
    limits: Limits = Limits(),  # noqa: B008
    jobs: int = 1,
    every: bool = False,
    told: Callable[[str, int, int, Sequence[str]], None] = lambda *_: None,
) -> None:
    """Grade what is not graded yet.

    Args:
        submissions: all of them.
        place: the folder of the results.
        walls: the sandbox.
        limits: for each submission.
        jobs: how many run at a time.
        every: grade again what was graded before.
        told: called with what happens, how many are done, of how many, and the names of those that run.
    """
    waiting = []
    for submission in submissions:
        old = load(place, submission.unit, submission.student)
        if why := again(old, submission, every=every):
            waiting.append((submission, why))
        elif old is not None and (now := _told_anew(old, submission)) != old:
            _put(place, now)
    readable = sorted({submission.unit for submission, _ in waiting if submission.raw})
    known = {unit: mistakes.known(unit, place) for unit in readable}
    results = _results(waiting, place, walls, limits, jobs, known, told)
    for done, (submission, why, result) in enumerate(results, start=1):
        _keep(place, result, why)
        told("done", done, len(waiting), [submission.student])


def grade_one(
    submission: Submission,
    place: Path,
    walls: Walls,
    *,
    limits: Limits = Limits(),  # noqa: B008
    every: bool = False,
) -> bool:
    """Grade one submission in this process, if it is not graded yet; whether it was graded now."""
    why = again(load(place, submission.unit, submission.student), submission, every=every)
    if why:
        known = mistakes.known(submission.unit, place) if submission.raw else []
        _keep(place, graded(Job(submission, place, walls, limits, known)), why)
    return bool(why)


def _keep(place: Path, result: Result, why: str) -> None:
    """Put a result in its place, and with it whose points it changed: it is said later, by a run that comes so far."""
    old = load(place, result["unit"], result["student"])
    new = [{**change._asdict(), "told": False} for change in compared(old, result, why)]
    _put(place, result | {"changes": [*(old or {}).get("changes", []), *new]})


def _told_anew(old: Result, submission: Submission) -> Result:
    """A result that holds, with what is known now of when it was handed in and by whom."""
    mine = old["notes"][old.get("noted before", len(submission.notes)) :]
    kept = {key: old[key] for key in ("checks", "handed_in")}
    return old | _head(submission) | kept | {"notes": [*submission.notes, *mine]}


def _put(place: Path, result: Result) -> None:
    write(file_of(place, result["unit"], result["student"]), json.dumps(result, indent=1, ensure_ascii=False))


def tell(place: Path, unit: str, say: Callable[[Change], object]) -> None:
    """Say whose points changed since this was said last."""
    for path in sorted((place / unit).glob("*.json")):
        result = load(place, unit, path.stem) or {}
        new = [change for change in result.get("changes", []) if not change["told"]]
        for change in new:
            say(Change(*(change[key] for key in Change._fields)))
            change["told"] = True
        if new:
            _put(place, result)


def _results(
    waiting: Sequence[tuple[Submission, str]],
    place: Path,
    walls: Walls,
    limits: Limits,
    jobs: int,
    known: dict[str, list[Mistake]],
    told: Callable[[str, int, int, Sequence[str]], None],
) -> Iterator[tuple[Submission, str, Result]]:
    """Results in the order in which they come."""
    left = list(waiting)
    while left:
        running: dict[Future[Result], tuple[Submission, str]] = {}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, initializer=sandbox.die_with_parent) as pool:
            try:
                while left or running:
                    while left and len(running) < jobs:
                        submission, why = left.pop(0)
                        job = Job(submission, place, walls, limits, known.get(submission.unit, []))
                        running[pool.submit(graded, job)] = (submission, why)
                        told("running", -1, len(waiting), [s.student for s, _ in running.values()])
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        submission, why = running.pop(future)
                        yield submission, why, result
            except BrokenProcessPool:  # a grader was killed: by a person, or for the machine's memory
                for submission, why in running.values():
                    alone = _alone(Job(submission, place, walls, limits, known.get(submission.unit, [])))
                    yield submission, why, alone


def _alone(job: Job) -> Result:
    """Once more, in a process that is only its own; if that is killed too, a sentence."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=sandbox.die_with_parent) as pool:
        try:
            return pool.submit(graded, job).result()
        except BrokenProcessPool:
            result = _unread(job.submission, "the grader itself was killed while it ran, twice: out of memory?")
            return result | {"unfinished": True}


def graded(job: Job) -> Result:
    """Grade one submission; an error that nobody thought of is a sentence about it, and no end of the others."""
    try:
        return _graded(job)
    except Exception as error:
        says = f"{type(error).__name__}: {room.plain(str(error))[:200]}"
        return _unread(job.submission, f"the grader itself failed at it, {says}") | {"unfinished": True}


def _graded(job: Job) -> Result:
    submission, unit = job.submission, job.submission.unit
    if submission.why_not:
        return _unread(submission, submission.why_not)
    try:
        cleaned = clean(submission.raw, unit)
    except Unreadable as error:
        return _unread(submission, str(error))
    except Exception as error:  # one that nobody thought of is a sentence too
        return _unread(submission, f"it could not be read: {type(error).__name__}: {room.plain(str(error))[:200]}")
    tasks = {task for task, _ in room.points(unit).values()}
    ran = Ran({}, cleaned.cells)
    if cleaned.blank < tasks:
        ran = room.run(cleaned.cells, unit, job.walls, job.limits, mistakes.probes(job.known))
        if not ran.started:
            return _unread(submission, f"its kernel did not start: {ran.reason}") | {"unfinished": True}
    result = _judged(submission, cleaned, ran, job.known)
    result["walls"] = job.walls.name
    write(job.place / unit / f"{submission.student}.ipynb", nbformat.writes(_notebook(ran.cells)))
    return result


def _notebook(cells: Sequence[NotebookNode]) -> NotebookNode:
    made = nbformat.v4.new_notebook()
    made.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    for number, cell in enumerate(cells):
        new = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        source = cell.source
        if cell.cell_type != "code" and not grade_id(cell):
            source = source.replace("<", "&lt;")  # it is shown to a teacher, in the formgrader's page
        made.cells.append(new(source, metadata=cell.metadata, id=grade_id(cell) or f"own-{number}"))
        if cell.cell_type == "code":
            made.cells[-1].outputs = cell.get("outputs", [])
    return made


def _unread(submission: Submission, why: str) -> Result:
    return _head(submission) | {"state": "unread", "why": why, "tasks": {}, "look": [], "seconds": 0.0}


def _head(submission: Submission) -> Result:
    return {
        "student": submission.student,
        "unit": submission.unit,
        "handed_in": _handed_in(submission),
        "checks": digests(submission.unit),
        "notes": list(submission.notes),
        "noted before": len(submission.notes),
        "late": submission.late,
        "when": submission.when,
        "origin": submission.origin,
        "number": submission.number,
        "name": submission.name,
    }


def _judged(submission: Submission, cleaned: Cleaned, ran: Ran, known: Sequence[Mistake]) -> Result:
    """The result's file: points for each task, and for each that is not done what a learner and a teacher are told."""
    unit = submission.unit
    hidden = room.hidden_cells(unit)
    checks = {grade_id(cell): cell for cell in ran.cells if is_check(cell)}
    for task, why in suspects.found(cleaned.cells, unit).items():
        ran.tampered.setdefault(task, []).extend(why)
    tasks: dict[str, Any] = {}
    for name, (task, most) in room.points(unit).items():
        found = tasks.setdefault(
            task, {"got": 0.0, "most": 0.0, "cells": {}, "state": "", "why": "", "says": [], "check": "", "mistake": ""}
        )
        passed = ran.passed.get(name, False)
        found["most"] += most
        found["got"] += most if passed else 0.0
        found["cells"][name] = most if passed else 0.0
        if passed or found["why"]:
            continue
        if task in cleaned.blank and not found["got"]:
            found["why"] = f"{task}: not filled in yet"
        elif name not in ran.passed:
            found["why"] = f"not reached: {ran.reason or 'the notebook did not come so far'}"
        elif name in hidden:
            found |= _hidden_says(unit, task, name, ran.hidden_error.get(name, ""), known)
        else:
            error = next((output for output in checks[name].get("outputs", []) if output.output_type == "error"), None)
            said = room.text_of(error) if error else ""
            found["why"] = _reason(checks[name], ran.cells) if error else "the check did not come to its end"
            found["says"] = said.split("\n")
            found["check"] = mistakes.named(said)
            found["mistake"] = mistakes.name_of(known, task, name, said)
    for task, found in tasks.items():
        if ran.tampered.get(task) and not found["got"]:
            ran.look += [f"{task}, without points: {why}" for why in ran.tampered[task]]
        if ran.tampered.get(task) and found["got"]:
            found["state"], found["why"] = "tampered", "; ".join(ran.tampered[task])
            found["got"], found["cells"] = None, dict.fromkeys(found["cells"])
        else:
            blank = task in cleaned.blank
            found["state"] = (
                "done" if found["got"] == found["most"] else "part" if found["got"] else "blank" if blank else "not yet"
            )
    tampered = any(found["state"] == "tampered" for found in tasks.values())
    return _head(submission) | {
        "state": "tampered" if tampered else "graded",
        "why": ran.reason,
        "tasks": tasks,
        "notes": [*submission.notes, *cleaned.notes],
        "look": ran.look,
        "seconds": round(ran.seconds, 2),
    }


def _reason(check: NotebookNode, cells: Sequence[NotebookNode]) -> str:
    try:
        return reason(check, cells)
    except (RecursionError, MemoryError):
        return suspects.DEEP


def _hidden_says(unit: str, task: str, name: str, said: str, known: Sequence[Mistake]) -> dict[str, Any]:
    """What a learner is told of a hidden check: its name, if the course has such a check, and nothing of its cases."""
    check = mistakes.named(said)
    known_name = check in _check_names(unit)
    about = next((line.lstrip("# ") for line in _source(unit, name).split("\n") if line.startswith("# ")), "")
    if "not filled in" in said.split("\n")[0]:
        check, known_name = "", False
    return {
        "why": f"a hidden check did not pass{f': {check}' if known_name else ''}",
        "says": [f"{task}: a hidden check{f', {check!r},' if known_name else ''} did not pass", about],
        "check": check if known_name else "",
        "mistake": mistakes.name_of(known, task, name, said),
    }


def _source(unit: str, name: str) -> str:
    return next(cell.source for cell in read(solution(unit)).cells if grade_id(cell) == name)


@cache
def _check_names(unit: str) -> set[str]:
    """Every text in the checks' file and in the voice that may be the name of a check: a kernel could say anything."""
    found = set[str]()
    for path in (checks_file(unit), ROOT / "dynlib" / "checks.py"):
        if path.exists():
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {name for name in found if 0 < len(name) < 60 and "\n" not in name}


def compared(old: Result | None, new: Result, why: str) -> list[Change]:
    """Whose points changed, task by task."""
    if old is None:
        return []
    found = []
    for task in dict.fromkeys([*old["tasks"], *new["tasks"]]):
        before, after = (result["tasks"].get(task, {}).get("got") for result in (old, new))
        if before != after:
            found.append(Change(new["unit"], new["student"], task, before, after, why))
    return found
