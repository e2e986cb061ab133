"""Run one cleaned notebook in its sandbox, and say which checks it passed and whether they still judged.

First all cells but the hidden checks run, in their order: what a learner is shown comes from these. Then the names are
brought back to what they were at each hidden check, and it runs; after it the same checks are asked about known wrong
answers, and must refuse them.
"""

import ast
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode

from tools.grade import rooms, sandbox
from tools.grade.sandbox import Limits
from tools.grade.walls import Walls, client, command, end, files
from tools.notebooks import HIDDEN, grade_id, is_check, read, solution, task_of
from tools.progress import GRACE, grader

START_SECONDS = 300
"""For importing what the checks need, on a busy machine: not a learner's matter."""
INSIDE = Path(__file__).parent / "inside.py"
BEGIN = """
def _begin():
    import sys, types
    space = types.ModuleType("_inside")
    space.__builtins__ = dict(vars(__import__("builtins")))
    sys.modules["_inside"] = space
    exec(compile({source!r}, "<room>", "exec"), vars(space))
    sys.modules["_room"] = space.start({line!r}, {checks!r}, {voice!r})
    del sys.modules["_inside"]

_begin()
del _begin
"""


class Probe(NamedTuple):
    """A known wrong answer, and the check cells that refuse it."""

    task: str
    says: str
    code: str
    refused_by: tuple[str, ...]


@dataclass
class Ran:
    """What came of a notebook.

    Attributes:
        passed: each check cell that was reached, by its id, and whether it let the answer pass.
        cells: the cells with what they showed; those of the hidden checks show nothing.
        tampered: for each task, why a person must look at it.
        hidden_error: for hidden checks that did not pass, the text of the error.
        look: what a person may want to know besides.
        started: the kernel came up, and was watched, before the first cell.
        unasked: tasks whose checks could not be asked about a wrong answer, though there are some.
        reason: why the run did not come to its end, or nothing.
        seconds: that it took.
    """

    passed: dict[str, bool]
    cells: list[NotebookNode]
    tampered: dict[str, list[str]] = field(default_factory=dict)
    hidden_error: dict[str, str] = field(default_factory=dict)
    look: list[str] = field(default_factory=list)
    started: bool = True
    unasked: set[str] = field(default_factory=set)
    reason: str = ""
    seconds: float = 0.0


class Step(NamedTuple):
    """A cell to run: what for, the cell id it belongs to, and the text."""

    kind: str
    """"start", "cell", "look", "keep", "back", "hidden", "probe", or "asked", a check that must refuse the probe."""
    name: str
    source: str
    at: int = -1
    """Which of the cleaned cells it is."""
    word: str = ""
    """What a check says through the line when it has come to its end; nobody knows it before the check runs."""


def run(cells: Sequence[NotebookNode], unit: str, walls: Walls, limits: Limits, probes: Sequence[Probe] = ()) -> Ran:
    """Run the cleaned cells of a submission."""
    began = time.monotonic()
    with rooms.room(walls.name) as place:
        steps = plan(cells, unit, probes)
        ran, dead = _attempt(list(cells), steps, unit, walls, limits, place / "a")
        if dead is not None and dead.at >= 0 and _hidden(cells[: dead.at], unit):
            # the hidden checks above the cell in which the kernel died count: again, to just before it
            again = plan(cells[: dead.at], unit, probes)
            second, _ = _attempt(list(cells[: dead.at]), again, unit, walls, limits, place / "b")
            ran.passed |= second.passed
            ran.hidden_error |= second.hidden_error
            for task, why in second.tampered.items():
                ran.tampered.setdefault(task, []).extend(why)
            ran.look += second.look
            ran.unasked -= set(points_of(cells[: dead.at]).values()) - second.unasked
    for name, passed in ran.passed.items():
        task = points(unit)[name][0]
        if passed and task in ran.unasked:
            why = "it ended before its checks could be asked about a wrong answer"
            ran.tampered[task] = list(dict.fromkeys([*ran.tampered.get(task, []), why]))
    ran.look = list(dict.fromkeys(ran.look))
    ran.seconds = time.monotonic() - began
    return ran


def plan(cells: Sequence[NotebookNode], unit: str, probes: Sequence[Probe]) -> list[Step]:
    """The cells to run, in order."""
    steps = [Step("start", "", "")]
    hidden, checks, source = _hidden(cells, unit), list[str](), dict[str, str]()
    for at, cell in enumerate(cells):
        name = grade_id(cell)
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if is_check(cell):
            checks.append(name)
            source[name] = cell.source
            steps.append(_look(name))
            steps += [Step("keep", name, f"import _room; _room.keep({name!r})")]
            if name in hidden:
                continue
        steps.append(_check("cell", name, cell.source, at) if is_check(cell) else Step("cell", name, cell.source, at))
        if is_check(cell):
            steps.append(_look(name))
    for name in checks:
        if name in hidden:
            steps += _back(name)
            steps += [_check("hidden", name, source[name]), _look(name)]
    for probe in probes:
        asked = [name for name in probe.refused_by if name in checks]
        if asked:
            steps += [*_back(asked[-1]), Step("probe", probe.task, probe.code)]
            steps += [_check("asked", name, source[name]) for name in asked]
    return steps


def _check(kind: str, name: str, source: str, at: int = -1) -> Step:
    word = secrets.token_hex(8)
    return Step(kind, name, f"{source}\nimport _room; _room.end({word!r})", at, word)


def _back(name: str) -> list[Step]:
    return [
        Step("back", name, f"import _room; _room.back({name!r})"),
        _look(name),
    ]


def _look(name: str) -> Step:
    return Step("look", name, f"import _room; _room.look({name!r})")


def _hidden(cells: Sequence[NotebookNode], unit: str) -> set[str]:
    return {grade_id(cell) for cell in cells if is_check(cell) and grade_id(cell) in hidden_cells(unit)}


@cache
def hidden_cells(unit: str) -> set[str]:
    """The ids of the check cells with hidden cases."""
    return {grade_id(cell) for cell in read(solution(unit)).cells if is_check(cell) and HIDDEN.search(cell.source)}


@cache
def points(unit: str) -> dict[str, tuple[str, float]]:
    """Task and points of each check cell of a unit."""
    cells = [cell for cell in read(solution(unit)).cells if is_check(cell)]
    return {grade_id(cell): (task_of(cell), float(cell.metadata.nbgrader.points)) for cell in cells}


def _attempt(
    cells: list[NotebookNode], steps: list[Step], unit: str, walls: Walls, limits: Limits, meeting: Path
) -> tuple[Ran, Step | None]:
    meeting.mkdir(mode=0o700)
    checks = f"checks_{unit.split('_', maxsplit=1)[1]}"
    word = secrets.token_hex(16)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(str(meeting / "line"))
        (meeting / "line.word").write_text(word, encoding="ascii")
        door.listen(1)
        door.setblocking(False)
        voice = any("dynlib" in step.source for step in steps)
        begin = BEGIN.format(
            source=INSIDE.read_text(encoding="utf-8"), line=str(meeting / "line"), checks=checks, voice=voice
        )
        steps = [steps[0]._replace(source=begin), *steps[1:]]
        notebook = nbformat.v4.new_notebook(cells=[_cell(step, cells) for step in steps])
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        runner = runner_class()(timeout=limits.cell, grace=GRACE)
        runner.prepare(steps, walls, limits, meeting, unit, door, word)
        folder = meeting.parent / f"work-{meeting.name}"
        folder.mkdir()
        if not walls.keeps:
            for path in files(unit):
                shutil.copyfile(path, folder / path.name)
        # without walls it is the learner's home, too
        with sandbox.watched(meeting, limits, runner.stopped, most=16 if walls.keeps else 512):
            try:
                runner.preprocess(notebook, {"metadata": {"path": str(folder)}})
            except Exception as error:
                runner.broken = f"it could not be run: {type(error).__name__}: {error}"[:300]
        runner.close()
        end(walls, meeting, limits)
    return _judged(cells, steps, notebook.cells, runner)


def _cut(steps: list[Step], at: int) -> Step:
    """The step that was not reached, or, where that is the watch's before a cell, the cell's."""
    if steps[at].kind in ("look", "keep"):
        return next((step for step in steps[at:] if step.at >= 0 or step.kind == "back"), steps[at])
    return steps[at]


def _cell(step: Step, cells: Sequence[NotebookNode]) -> NotebookNode:
    if step.kind == "cell":
        return nbformat.v4.new_code_cell(step.source, metadata=cells[step.at].metadata)
    return nbformat.v4.new_code_cell(step.source, metadata={"room": step.kind})


def _judged(
    cells: list[NotebookNode], steps: list[Step], done: list[NotebookNode], runner: Any
) -> tuple[Ran, Step | None]:
    """What the steps came to."""
    if runner.broken:
        return Ran({}, cells, reason=runner.broken, started=False), None
    ran = Ran({}, cells, reason=runner.reason)
    dead: Step | None = None
    alive = True
    task_name = points_of(cells)
    good_probe, asked = False, set[str]()
    for at, (step, cell) in enumerate(zip(steps, done, strict=True)):
        error = next((output for output in cell.get("outputs", []) if output.output_type == "error"), None)
        ended = at in runner.reached
        said = runner.said.get(at, [])
        came = not step.word or ["end", step.word] in [line[1:] for line in said]
        gone = not ended or (error is not None and error.ename in ("DeadKernel", "NotReached"))
        if gone and alive:
            alive, dead = False, _cut(steps, at)
            ran.started = at > 0
        if step.word and ended and alive and error is None and not came:
            why = f"'{step.name}' neither failed nor came to its end"
            ran.tampered.setdefault(task_name[step.name], []).append(why)
        if step.kind == "cell":
            cells[step.at]["outputs"] = _short(cell.get("outputs", []))
            if step.name in task_name:
                ran.passed[step.name] = ended and alive and error is None and came
        elif step.kind == "hidden" and alive:
            ran.passed[step.name] = error is None and came
            if error is not None:
                ran.hidden_error[step.name] = text_of(error)
        elif step.kind in ("look", "keep", "back", "start") and alive:
            answers = [line[2:] for line in said if line[1] == step.kind]
            task = task_name.get(step.name, "")
            if not answers or error is not None:
                why = "what watches over the checks did not answer"
                for name in [task] if task else sorted(set(task_name.values())):
                    ran.tampered.setdefault(name, []).append(why)
            elif step.kind == "look" and answers[0][1]:
                names = ", ".join(answers[0][1][:3])
                ran.tampered.setdefault(task, []).append(f"not as it was imported: {names}")
        elif step.kind == "probe":
            good_probe = alive and error is None
        elif step.kind == "asked" and alive and good_probe:
            asked.add(task_name[step.name])
            if error is None and came:
                ran.tampered.setdefault(task_name[step.name], []).append(f"'{step.name}' let a known wrong answer pass")
        for line in said:
            if line[1] == "event":
                where = f" (in {step.name})" if step.name else ""
                ran.look.append(f"{line[3]}{where}")
                if line[2] and step.kind in ("cell", "hidden"):
                    for name in _touched(step, steps, at, task_name):
                        ran.tampered.setdefault(name, []).append(line[3])
    ran.unasked = {task_name[step.name] for step in steps if step.kind == "asked"} - asked
    for task, why in ran.tampered.items():
        ran.tampered[task] = list(dict.fromkeys(why))
    return ran, dead


def points_of(cells: Sequence[NotebookNode]) -> dict[str, str]:
    """The task of each check among some cells."""
    return {grade_id(cell): task_of(cell) for cell in cells if is_check(cell)}


def _touched(step: Step, steps: list[Step], at: int, task_name: dict[str, str]) -> list[str]:
    """The tasks that what a step does may help: its own, or, of a cell without one, all that follow."""
    if step.name in task_name:
        return [task_name[step.name]]
    if step.name.endswith("-answer"):
        return [step.name.removesuffix("-answer")]
    return list(dict.fromkeys(task_name[later.name] for later in steps[at:] if later.name in task_name))


def _short(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    return [output for output in outputs if output.output_type in ("error", "stream")]


def text_of(error: NotebookNode) -> str:
    lines = (
        "\n".join(error.traceback) if error.ename in ("CheckFailed", "Unfilled") else f"{error.ename}: {error.evalue}"
    )
    return plain(lines)


def plain(text: str) -> str:
    """What a kernel said, without what a terminal or a page would take for a command, and not too much of it."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", " ", text)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= 1500 else f"{text[:1500]} …"


@cache
def runner_class() -> type:
    """nbgrader_config.py's way to run a notebook, in a sandbox."""

    class Manager(AsyncKernelManager):
        """A kernel behind walls, spoken to through sockets in a folder."""

        front: list[str]

        def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
            return [*self.front, *super().format_kernel_cmd(extra_arguments)]

    class InRoom(grader()["Run"]):  # type: ignore[misc]
        def prepare(
            self, steps: list[Step], walls: Walls, limits: Limits, meeting: Path, unit: str, door: Any, word: str
        ) -> None:
            self.steps, self.walls, self.limits, self.meeting, self.unit = steps, walls, limits, meeting, unit
            self.door, self.word, self.channel = door, word, None
            self.said: dict[int, list[list[Any]]] = {}
            self.reached: set[int] = set()
            self.bytes, self.broken = 0, ""
            self.rest = b""
            self.until, self.late = 0.0, False
            self.kernel_manager_class = Manager
            self.shutdown_kernel = "immediate"
            self.log.setLevel("CRITICAL")

        def create_kernel_manager(self) -> Any:
            km = super().create_kernel_manager()
            km.transport, km.ip = "ipc", str(self.meeting / "k")
            km.connection_file = str(self.meeting / "kernel.json")
            km.kernel_spec.interrupt_mode = "message"
            km.front = command(self.walls, self.meeting, self.unit, self.limits)
            km.log.setLevel("CRITICAL")
            return km

        def setup_kernel(self, **options: Any) -> Any:
            # not the teacher's environment: Run.setup_kernel would hand it on
            environment = client(self.walls)
            if not self.walls.keeps:
                home = str(self.meeting)
                environment |= {"HOME": home, "IPYTHONDIR": f"{home}/ipython", "TMPDIR": home}
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            return super(grader()["Run"], self).setup_kernel(env=environment, **quiet, **options)

        def preprocess(self, nb: NotebookNode, resources: Any = None, km: Any = None) -> Any:
            before = self.reason
            done = super().preprocess(nb, resources, km)
            self.reason = self.reason or before
            return done

        def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> Any:
            kind, now = self.steps[index].kind, time.monotonic()
            if kind == "start":
                self.until = now + START_SECONDS + self.limits.total
            elif index == 1 or (
                kind == "back" and not self.late
            ):  # to start, and the checks at the end, have their own
                self.until, self.late = now + self.limits.total, kind == "back"
            if not self.reason and now > self.until and kind not in ("look", "keep"):
                self.reason = f"the notebook ran for more than {self.limits.total} s"
            at_rest = not self.reason
            self.timeout = START_SECONDS if self.steps[index].kind == "start" else self.limits.cell
            done = super().preprocess_cell(cell, resources, index)
            if at_rest and not self.reason:
                self.reached.add(index)
            self.said[index] = self._heard()
            return done

        def process_message(self, msg: Any, cell: NotebookNode, cell_index: int) -> Any:
            if msg["msg_type"] in ("stream", "display_data", "execute_result", "update_display_data"):
                self.bytes += len(str(msg["content"]))
                if self.bytes > 16 * self.limits.output * sandbox.MIB:
                    self.stopped("it printed without end")
                    with suppress(OSError, AttributeError):
                        self.km.provisioner.process.kill()
                if self.bytes > self.limits.output * sandbox.MIB:
                    return None
            return super().process_message(msg, cell, cell_index)

        def stopped(self, why: str) -> None:
            self.why = why

        def _fail(self, cell: NotebookNode, name: str, says: str) -> None:
            if name == "DeadKernel" and getattr(self, "why", ""):
                says = self.reason = self.why
            super()._fail(cell, name, says)

        def _heard(self) -> list[list[Any]]:
            """What came through the line since the last cell."""
            with suppress(OSError):
                if self.channel is None:
                    self.channel, _ = self.door.accept()
                    self.channel.setblocking(False)
                while len(self.rest) < 4 * sandbox.MIB and (more := self.channel.recv(65536)):
                    self.rest += more
            lines = self.rest.split(b"\n")
            self.rest, found = lines[-1], []
            for line in lines[:-1]:
                if line.startswith(f"['{self.word}', ".encode()):  # all else is not of the watch
                    found.append(ast.literal_eval(line.decode()))
            return found

        def close(self) -> None:
            if self.channel is not None:
                self.channel.close()

    return InRoom
