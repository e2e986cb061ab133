"""A submission runs behind walls, comes to the points it earned, and is told of when it tampers with the checks."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

import tools.notebooks
from tests.classroom import hostile
from tests.notebooks import toys
from tools.grade import inside, room, rooms, sandbox, suspects, walls
from tools.grade.clean import clean
from tools.grade.room import Probe, Ran
from tools.grade.sandbox import Limits
from tools.grade.walls import TRUST, Walls
from tools.notebooks import ROOT

UNIT = "99_toys"
QUICK = Limits(cell=60, total=300)
FULL = {f"{task}-{part}": True for task in toys.POINTS for part in ("check", "hidden")}
PROBES = [
    Probe(task, "always four", toys.answer(task, "return 4"), (f"{task}-hidden",)) for task in ("double", "halve")
]
needs_walls = pytest.mark.skipif(walls.find() is None, reason="there is no sandbox here: its walls cannot be tried")


@pytest.fixture(autouse=True)
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of one toy unit with three tasks, whose checks are bare asserts."""
    monkeypatch.setattr(tools.notebooks, "SOLUTIONS", tmp_path / "solutions")
    monkeypatch.setattr(tools.notebooks, "EXERCISES", tmp_path / "exercises")
    path = tmp_path / "solutions" / UNIT / f"{UNIT}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(toys.unit(voice=False), path)
    return tmp_path


def solved(**bodies: str) -> NotebookNode:
    return toys.answered(toys.released(toys.unit(voice=False)), **toys.RIGHT | bodies)


def graded(notebook: NotebookNode, behind: Walls = TRUST, limits: Limits = QUICK) -> Ran:
    return room.run(clean(hostile.raw(notebook), UNIT).cells, UNIT, behind, limits, PROBES)


def with_cell(source: str, above: str = "double-answer", **bodies: str) -> NotebookNode:
    notebook = solved(**bodies)
    notebook.cells.insert(notebook.cells.index(toys.cell_of(notebook, above)), new_code_cell(source))
    return notebook


def shown(ran: Ran) -> str:
    """What the first own cell of a notebook printed."""
    return "".join(output.get("text", "") for cell in ran.cells for output in cell.get("outputs", []))


# What is run


def test_hidden_checks_come_last_and_nothing_that_a_learner_is_shown_can_hold_them() -> None:
    cells = clean(hostile.raw(solved()), UNIT).cells
    steps = room.plan(cells, UNIT, PROBES)
    first = next(at for at, step in enumerate(steps) if step.kind == "hidden")
    assert not any("HIDDEN" in step.source for step in steps[:first])
    assert {step.kind for step in steps[first:]} <= {"hidden", "back", "look", "probe", "asked"}
    assert sum(step.kind == "hidden" for step in steps) == 3
    for at, step in enumerate(steps):
        if step.kind == "asked":
            assert steps[at - 1].kind in ("probe", "asked")


def test_an_honest_notebook_brings_every_point() -> None:
    ran = graded(solved())
    assert (ran.passed, ran.tampered, ran.look, ran.reason) == (FULL, {}, [], "")


def test_a_hidden_check_sees_the_names_as_they_were_at_its_place() -> None:
    ran = graded(with_cell("double = None", above="halve-answer"))
    assert ran.passed == FULL


def test_a_dead_kernel_costs_what_comes_behind_and_nothing_above(course: Path) -> None:
    ran = graded(with_cell("import os\nos._exit(0)", above="halve-answer"))
    assert {name for name, passed in ran.passed.items() if passed} == {"double-check", "double-hidden"}
    assert "the kernel died in the cell" in ran.reason


def test_a_cell_that_is_not_stopped_is_killed_with_all_that_it_started() -> None:
    loop = (
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(987)'],"
        " start_new_session=True)\nwhile True:\n    try:\n        while True:\n            pass\n"
        "    except BaseException:\n        pass"
    )
    began = time.monotonic()
    ran = graded(with_cell(loop, above="halve-answer"), limits=QUICK._replace(cell=3))
    assert ran.passed["double-hidden"]
    assert not ran.passed.get("halve-check")
    assert time.monotonic() - began < 150
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert not any("time.sleep(987)" in " ".join(line or []) for line in left)


# Tampering


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("get_ipython().ast_transformers.append(__import__('ast').NodeTransformer())", "ast_transformers"),
        ("import builtins\nbuiltins.abs = lambda x: 0", "built-in abs"),
        ("import sys\nsys.modules['_room'].look = lambda name: None", "did not answer"),
        ("import sys\nframe = sys._getframe(0)", "frames"),
        ("import json\nshell = get_ipython()\nshell.user_ns = type('D', (dict,), {})(shell.user_ns)", "cells' names"),
        ("import sys\nroom = sys.modules['_room']\nlook = room.look\nroom.look = lambda name: look(name)", "who calls"),
        ("import os\nos.getcwd = lambda: '/'", "os.getcwd"),
        ("import time\ntime.perf_counter = lambda: 0.0", "time.perf_counter"),
        ("import os\nos.symlink('/proc/self/maps', 'maps')\nopen('maps').close()", "below Python"),
        ("class Any(float):\n    pass\nsetattr(Any, '__l' + 't__', lambda a, b: True)", "says that it equals"),
        ("%%time\nclass Any(float):\n    pass\nsetattr(Any, '__l' + 't__', lambda a, b: True)", "says that it equals"),
        (
            "import contextlib\nkind = contextlib.redirect_stderr\nkind.__exit__ = print",
            "redirect_stderr.__exit__",
        ),
        ("t = get_ipython().input_transformer_manager\nt.transform_cell = t.transform_cell", "transformer"),
        ("import warnings\nkind = warnings.catch_warnings\nkind.__exit__ = print", "catch_warnings.__exit__"),
        (
            "import traceback\ntry:\n    1 / 0\nexcept Exception as e:\n    x = [*traceback.walk_tb(e.__traceback__)]",
            "frames",
        ),
        ("import traceback\ntext = traceback.format_stack()", "frames"),
        (
            "open('checks_toys.py', 'w').write('import sys\\nframe = sys._getframe(1)')\n"
            "import sys\nsys.modules.pop('checks_toys', None)\nsys.path.insert(0, '.')\nimport checks_toys",
            "frames",
        ),
    ],
)
def test_who_reaches_into_the_machinery_is_told_of(source: str, says: str) -> None:
    ran = graded(with_cell(source))
    assert any(says in why for why in ran.tampered["double"]), ran.tampered


@pytest.mark.parametrize(
    "source",
    [
        "import traceback\ntry:\n    1 / 0\nexcept Exception:\n    traceback.print_exc()\n    traceback.format_exc()",
        "import inspect\n\ndef f(x):\n    return x\n\nprint(inspect.signature(f), inspect.getsource(f))",
        "%%time\nx = 1",
        "from dataclasses import dataclass\n\n@dataclass(order=True)\nclass Point:\n    x: int\n\nPoint(1) < Point(2)",
        "import warnings\nwarnings.filterwarnings('ignore')\nwith warnings.catch_warnings():\n    pass",
        "import logging, random\nlogging.warning('a')\nrandom.seed(0)",
        "from tqdm import tqdm\nfor x in tqdm(range(3)):\n    pass",
        "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
    ],
)
def test_what_everybody_writes_is_nothing_to_tell(source: str) -> None:
    ran = graded(with_cell(source))
    assert (ran.passed, ran.tampered, ran.reason) == (FULL, {}, "")
    assert suspects.found(clean(hostile.raw(with_cell(source)), UNIT).cells, UNIT) == {}


def test_what_is_written_into_a_folder_of_the_folder_of_sockets_is_seen() -> None:
    source = (
        "import os\nfrom ipykernel.connect import get_connection_file\n"
        "place = os.path.join(os.path.dirname(get_connection_file()), 'd')\nos.mkdir(place)\n"
        "for n in range(100000):\n    open(f'{place}/{n}', 'wb').close()\n"
        "while True:\n    pass"
    )
    ran = graded(with_cell(source), limits=QUICK._replace(cell=30))
    assert "wrote into the folder" in ran.reason


def test_a_folder_that_is_closed_is_full_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "room"
    closed = place / "a" / "closed"
    closed.mkdir(parents=True)
    (closed / "file").write_bytes(bytes(2**20))
    assert not sandbox._full(place, 2**21)
    assert sandbox._full(place, 2**19)
    closed.chmod(0o300)
    real = os.scandir

    def scandir(path: str | Path) -> Any:  # as it is for all but root
        if str(path) == str(closed) and not closed.stat().st_mode & 0o400:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert sandbox._full(place, 2**21)
    rooms._delete(place)
    assert not place.exists()


def test_time_that_the_cells_took_is_not_taken_from_the_checks_at_the_end() -> None:
    ran = graded(with_cell("import time\ntime.sleep(9)", above="negate-answer"), limits=QUICK._replace(total=10))
    assert (ran.passed, ran.tampered, ran.reason) == (FULL, {}, "")


def test_who_takes_too_long_keeps_what_stands_above() -> None:
    slow = with_cell("import time\ntime.sleep(7)", above="halve-answer")
    slow.cells.insert(
        slow.cells.index(toys.cell_of(slow, "negate-answer")), new_code_cell("import time\ntime.sleep(7)")
    )
    ran = graded(slow, limits=QUICK._replace(total=8))
    assert "more than 8 s" in ran.reason
    assert ran.passed["double-check"]
    assert ran.passed["double-hidden"]
    assert "double" not in ran.tampered


def test_what_the_watch_says_passes_through_no_function_that_could_be_another() -> None:
    spies = (
        "import _socket, json, socket\nseen, old = [], json.dumps\n"
        "json.dumps = lambda x, *a, **k: (isinstance(x, list) and seen.append(x)) or old(x, *a, **k)\n"
        "socket.socket.sendall = lambda self, raw: seen.append(raw) or _socket.socket.sendall(self, raw)\n"
    )
    notebook = with_cell(spies)
    notebook.cells.insert(notebook.cells.index(toys.cell_of(notebook, "halve-answer")), new_code_cell("print(seen)"))
    ran = graded(notebook)
    said = "".join(output.get("text", "") for cell in ran.cells for output in cell.get("outputs", []))
    assert said.startswith("[]")
    assert all(ran.passed.values())


def test_another_in_the_place_of_the_line_ends_the_run() -> None:
    source = (
        "import os, socket, stat\nmine, theirs = socket.socketpair()\n"
        "for at in set(range(3, 99)) - {mine.fileno(), theirs.fileno()}:\n    try:\n"
        "        if stat.S_ISSOCK(os.fstat(at).st_mode):\n"
        "            name = socket.socket(fileno=os.dup(at)).getpeername()\n"
        "            str(name).endswith('line') and os.dup2(theirs.fileno(), at)\n"
        "    except OSError:\n        pass\n"
    )
    ran = graded(with_cell(source))
    assert "the kernel died" in ran.reason
    assert not any(ran.passed.values())


def test_what_one_task_is_told_of_does_not_hide_what_the_next_one_does() -> None:
    peek = "getattr(__import__('sys'), '_get' + 'frame')(0); "
    ran = graded(solved(double=f"{peek}return x + x", halve=f"{peek}return x / 2"))
    assert set(ran.tampered) == {"double", "halve"}


@pytest.mark.parametrize(
    "body",
    [
        "raise SystemExit",
        "raise type('E', (BaseException,), {'__str__': lambda self: 1 / 0, '_render_traceback_': lambda self: 1 / 0})",
    ],
)
def test_an_error_that_shows_none_is_an_error(body: str) -> None:
    ran = graded(solved(double=body))
    assert not ran.passed["double-check"]
    assert not ran.passed["double-hidden"]
    assert ran.passed["halve-hidden"]


def test_a_kernel_that_says_all_is_well_is_not_believed() -> None:
    source = (
        "session = get_ipython().kernel.session\nold = session.send\n"
        "def send(stream, kind, content=None, *rest, **more):\n"
        "    if kind == 'error':\n        return None\n"
        "    if isinstance(content, dict) and content.get('status') == 'error':\n"
        "        content = {'status': 'ok', 'execution_count': 1, 'payload': [], 'user_expressions': {}}\n"
        "    return old(stream, kind, content, *rest, **more)\nsession.send = send"
    )
    ran = graded(with_cell(source, double="return 1"))
    assert not ran.passed["double-check"]
    assert not ran.passed["double-hidden"]
    assert ran.tampered["double"]


def test_who_ends_the_kernel_before_the_checks_are_asked_is_told_of() -> None:
    cell = new_code_cell("import os\nnegate = lambda x: -x if x != -3 else os._exit(0)")
    notebook = solved()
    notebook.cells.insert(notebook.cells.index(toys.cell_of(notebook, "negate-check")), cell)
    ran = graded(notebook)
    assert ran.passed["double-hidden"]
    assert "ended before" in ran.tampered["double"][0]


def test_a_check_that_does_nothing_is_told_of() -> None:
    source = (
        "shell = get_ipython()\nold = shell.transform_cell\n"
        "shell.transform_cell = lambda text: old('pass' if 'assert' in text else text)"
    )
    ran = graded(with_cell(source, double="return 1"))
    assert any("neither failed nor came to its end" in why for why in ran.tampered["double"])
    assert not any(ran.passed[name] for name in ("double-check", "double-hidden"))


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("return type('A', (int,), {'__eq__': lambda a, b: True})(3)", "__eq__"),
        ("import sys; sys._getframe(1).f_locals", "_getframe"),
        ("from dynlib import checks\nchecks.Task.close = print", "to checks.Task.close"),
        ("from dynlib.checks import Task as T\nT.close = print", "to T.close"),
        ("import torch as t\nt.equal = print", "to t.equal"),
        ("import sys\nsys.modules['torch'].equal = print", "to sys.modules"),
        ("import checks_toys as c\nc.number = print", "to c.number"),
        ("from dynlib import checks\nsetattr(checks.Task, 'close', print)", "to checks.Task"),
        ("from dynlib import checks\nvars(checks).update(task=print)", "to checks"),
        ("exec('import torch; torch.equal = print')", "to torch.equal"),
        ("from torch.overrides import TorchFunctionMode", "TorchFunctionMode"),
        ("x = " + "1+" * 900 + "1\nimport torch; torch.equal = print", "to torch.equal"),
        ("x = " + "-" * 9000 + "1", suspects.DEEP),
        ("import checks_toys as c\nreturn c._right(x)", "checks_"),
        ("import checks_toys\nreturn checks_toys.double", "checks_toys"),
        ("from checks_toys import right", "checks_toys.right"),
        ("import importlib\nreturn importlib.import_module('checks_toys').right(x)", "checks_toys"),
        ("__import__('sys').modules['torch'].equal = print", "to __import__"),
        ("from IPython.utils.frame import extract_module_locals", "extract_module_locals"),
        ("import importlib\nm = importlib.import_module('torch.fft')\nm.fft = print", "to m.fft"),
        ("import torch.library\ntorch.library.Library('aten', 'IMPL')", "torch.library"),
        ("import torch as cudnn\ncudnn.equal = print", "to cudnn.equal"),
        ("import torch\ntorch.backends.cudnn.torch.equal = print", "to torch.backends"),
    ],
)
def test_the_text_of_an_answer_is_looked_at(body: str, name: str) -> None:
    cells = clean(hostile.raw(solved(double=body)), UNIT).cells
    told = suspects.found(cells, UNIT)
    assert set(told) == {"double"}
    assert any(name in line for line in told["double"])
    assert suspects.found(clean(hostile.raw(solved()), UNIT).cells, UNIT) == {}


@pytest.mark.parametrize(
    "body",
    [
        "import torch\ntorch.backends.cudnn.deterministic = True\ntorch.backends.cudnn.benchmark = False",
        "import torch.backends.cudnn as cudnn\ncudnn.deterministic = True",
        "return f'{x.__class__.__name__}'",
        "import checks_toys\nchecks_toys.double(double)",
        "import checks_toys as c\nprint(c.double(double))\nhelp(c.double)",
        "import importlib\nnp = importlib.import_module('numpy')\nnp.x = 1",
    ],
)
def test_the_text_of_an_honest_answer_tells_nothing(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "_may_be_called", lambda unit: frozenset({"checks_toys.double"}))
    assert suspects.found(clean(hostile.raw(solved(double=body)), UNIT).cells, UNIT) == {}


def test_a_cell_that_is_timed_is_looked_at_too() -> None:
    told = suspects.found(clean(hostile.raw(with_cell("%%time\nimport torch\ntorch.equal = print")), UNIT).cells, UNIT)
    assert any("to torch.equal" in line for line in told["double"])


@pytest.mark.parametrize(
    ("place", "learners"),
    [
        ("/tmp/cells_1/2.py", True),
        ("/tmp/dyn-grade-a/a/cells_1/2.py", True),
        ("/var/folders/t/ipykernel_1/2.py", True),
        ("<ipython-input-1-a>", True),
        ("/tmp/course/.venv/lib/python3.13/site-packages/some/kind.py", False),
        ("/tmp/course/dynlib/cost/count.py", False),
        ("/tmp/work/checks_toys.py", False),
        ("/tmp/work/a/checks_toys.py", True),
        ("/tmp/work/checks_toys.pyx.py", True),
        ("<timed exec>", True),
        ("/usr/lib/python3/some.py", False),
    ],
)
def test_a_packages_class_is_not_the_learners_wherever_the_course_stands(place: str, learners: bool) -> None:
    space: dict[str, object] = {}
    homes = ("/tmp/course/.venv", "/tmp/course/dynlib")
    exec(compile("def __eq__(one, other):\n    return True", place, "exec"), space)
    assert inside._of_a_cell(space["__eq__"], homes, "/tmp/work/checks_toys.py") is learners


# What is left behind


def test_a_grader_that_was_killed_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    source = (
        "import subprocess, sys, time\nfrom tools.grade import rooms\n"
        "with rooms.room('bubblewrap') as place:\n    (place / 'a').mkdir()\n"
        "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(500)', f'{place}/a/kernel.json'])\n"
        "    print(place, flush=True)\n    time.sleep(500)\n"
    )
    killed, alive = (
        subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    try:
        gone, kept = (Path(process.stdout.readline().strip()) for process in (killed, alive) if process.stdout)
        assert {gone, kept}.isdisjoint(place for place, _ in rooms.left_behind()), "both have a grader that lives"
        killed.kill()
        killed.wait()
        assert (gone, "bubblewrap") in list(rooms.left_behind())
        walls.sweep()
        assert not gone.exists()
        assert kept.exists()
        named = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
        assert not any(f"{gone}/" in line for line in named), "what went on is ended"
        assert any(f"{kept}/" in line for line in named)
    finally:
        alive.kill()
        alive.wait()
        walls.sweep()


def test_a_folder_goes_once_what_speaks_of_it_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill = psutil.Process.kill

    def late(process: psutil.Process) -> None:
        time.sleep(0.5)
        with suppress(psutil.NoSuchProcess):
            kill(process)

    monkeypatch.setattr(psutil.Process, "kill", lambda process: threading.Thread(target=late, args=[process]).start())
    place = tmp_path / "room"
    place.mkdir()
    said = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()", f"{place}/kernel.json"]
    with subprocess.Popen(said, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline()
        rooms.remove(place)
        lives = rooms._speaking_of(place)  # not its status, which is that of a running one until its end is noted
        kill(psutil.Process(process.pid))
    assert not lives, "the folder went before what speaks of it had ended"
    assert not place.exists()


# Walls

PEEK = """
import json, os, socket
from pathlib import Path
def can(act):
    try:
        act()
        return True
    except Exception:
        return False
print(json.dumps({
    "solutions": Path(ROOT, "solutions").exists(), "tests": Path(ROOT, "tests").exists(),
    "home": os.path.exists(HOME), "user": os.getuid(), "environment": sorted(os.environ),
    "network": can(lambda: socket.create_connection(("127.0.0.1", PORT), 2)),
    "write": can(lambda: Path(ROOT, "dynlib", "new.py").write_text("")),
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
}))
"""


@needs_walls
def test_nothing_of_the_teachers_is_seen_from_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "42")
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = {"ROOT": repr(str(ROOT)), "HOME": repr(str(Path.home())), "PORT": str(server.getsockname()[1])}
        source = PEEK
        for word, value in words.items():
            source = source.replace(word, value)
        behind = walls.find()
        assert behind is not None
        ran = graded(with_cell(source), behind)
    assert shown(ran), (ran.reason, [cell.get("outputs") for cell in ran.cells])
    seen = json.loads(shown(ran).split("\n")[0])
    assert ran.passed == FULL
    assert seen["user"] == 65534
    assert not seen["network"]
    assert not seen["solutions"]
    assert not seen["tests"]
    assert not seen["write"]
    assert seen["processes"] < 8
    assert "SECRET_TOKEN" not in seen["environment"]
    assert not seen["home"] or Path(sys.base_prefix).is_relative_to(Path.home())


@needs_walls
def test_memory_and_processes_have_an_end() -> None:
    source = (
        "import os\nheap, children = [], []\ntry:\n    while len(heap) < 1000:\n        heap.append(bytearray(2**25))\n"
        "except MemoryError:\n    heap.clear()\n    print('no more memory')"
    )
    behind = walls.find()
    assert behind is not None
    ran = graded(with_cell(source, above="halve-answer"), behind, QUICK._replace(mib=1024))
    assert ran.passed["double-hidden"]
    assert "no more memory" in shown(ran) or "memory" in ran.reason


def test_without_a_sandbox_the_command_asks_for_trust() -> None:
    assert "--trust" in walls.NONE_FOUND
    assert os.pathsep.join(sandbox.environment()).find("TOKEN") < 0
