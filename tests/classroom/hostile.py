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


def code_cell(source: str, **more: Any) -> NotebookNode:
    """A cell of a learner's own, the same every time."""
    return new_code_cell(source, id="own", **more)


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


USUAL = {
    "seeds and settings": (
        "import random\nimport numpy as np\nrandom.seed(0)\nnp.random.seed(0)\ntorch.manual_seed(0)\n"
        "torch.backends.cudnn.deterministic = True\ntorch.backends.cudnn.benchmark = False"
    ),
    "an error looked at": "import traceback\ntry:\n    1 / 0\nexcept Exception:\n    traceback.print_exc()",
    "a function looked at": "import inspect\nprint(inspect.signature(print), inspect.getsource(inspect.unwrap))",
    "a cell that is timed": "%%time\nx = torch.randn(3).softmax(0)",
    "a class with a name": (
        "from dataclasses import dataclass\n@dataclass\nclass Note:\n    text: str\n"
        "    def __repr__(self):\n        return f'{self.__class__.__name__}: {self.text}'\nprint(Note('a'))"
    ),
    "a picture that is drawn": "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
    "warnings put away": "import warnings\nwarnings.filterwarnings('ignore')",
    "a bar": "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass",
}
"""What stands in cells of honest learners."""


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

    def place_of(notebook: NotebookNode) -> int:
        return notebook.cells.index(cell_of(notebook, f"{first}-answer"))

    def comment(notebook: NotebookNode) -> None:
        stub = next(line for line in cell_of(blank(unit), f"{first}-answer").source.split("\n") if "raise Not" in line)
        cell = cell_of(notebook, f"{first}-answer")
        cell.source = f"# {stub.strip()}\n{cell.source}"

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
    put("cells of its own", "", lambda n: n.cells.insert(3, code_cell("import math\nnotes = 'mine'")))
    put("text of its own", "", lambda n: n.cells.insert(3, new_markdown_cell("# notes", id="own")))
    put("nbformat 4.0", "", lambda n: n.update(nbformat_minor=0))
    put(
        "marks of another course",
        "marks of no cell",
        lambda n: n.cells.insert(
            0, code_cell("1", metadata={"nbgrader": {"grade": True, "grade_id": "q1", "points": 99}})
        ),
    )
    put("marks that are none", "", lambda n: n.cells.insert(0, code_cell("1", metadata={"nbgrader": ["x"]})))
    put("all marks lost", "", lambda n: [cell.metadata.clear() for cell in n.cells] and None)
    put(
        "cells that are none",
        "cells that are none",
        lambda n: n.cells.extend([3, None, {"cell_type": "code"}, {"source": "x"}]),
    )
    put(
        "half a letter in a mark",
        "marks of no cell",
        lambda n: n.cells.append(code_cell("1", metadata={"nbgrader": {"grade_id": "\ud800"}})),
    )
    for name, source in USUAL.items():
        put(
            name,
            "",
            lambda n, source=source: n.cells.insert(n.cells.index(cell_of(n, f"{first}-answer")), code_cell(source)),
        )
    put("a stub that is commented out", "", lambda n: comment(n))
    put("half a letter in a text", "", lambda n: n.cells.append(new_markdown_cell("\ud800", id="own")))
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
            lambda: raw(nbformat.v4.new_notebook(cells=[code_cell("1")])),
            "unread",
            "not the notebook of",
        ),
        Case("too many cells", lambda: raw(_many(unit)), "unread", "cells"),
        Case("a hundred thousand cells", lambda: raw({"nbformat": 4, "cells": [{}] * 100_000}), "unread", "cells"),
        Case("half a merge", lambda: b"<<<<<<< a\n" * 100_000 + b">>>>>>> b\n", "unread", "merge"),
        Case("in UTF-16 without a mark", lambda: raw(solved(unit)).decode().encode("utf-16-le"), "full", "utf-16"),
    ]
    return found


def _many(unit: str) -> NotebookNode:
    notebook = solved(unit)
    notebook.cells += [new_code_cell("1", id=f"c{number}") for number in range(1200)]
    return notebook


# What is tried inside the kernel

WRONG = {
    "00_start_here": {
        "blank-share": "def blank_share(images, patch):\n    {}\n    return torch.full((len(images),), 0.25)"
    },
    "02_gumbel": {"straight-through": "def straight_through(hard, soft):\n    {}\n    return soft"},
}
"""For some units a task and a wrong answer to it, with a place for what an attack does when it is called."""

ABOVE = {
    "the voice passes all": (
        "from dynlib import checks\nfor name in ('close', 'equal', 'true', 'raises', 'mean', 'frequencies'):\n"
        "    setattr(checks.Task, name, lambda self, check, *rest, **more: self._pass(check))"
    ),
    "a voice of its own": (
        "import contextlib\nfrom dynlib import checks\nfrom unittest.mock import MagicMock\n"
        "@contextlib.contextmanager\ndef task(name, **rest):\n    yield MagicMock()\nchecks.task = task"
    ),
    "errors of the voice are none": (
        "from dynlib import checks\nold = checks.task\nimport contextlib\n@contextlib.contextmanager\n"
        "def task(*a, **k):\n    with contextlib.suppress(Exception), old(*a, **k) as check:\n        yield check\n"
        "checks.task = task"
    ),
    "a failure that is quiet": (
        "from dynlib import checks\nchecks.Task._fail = lambda self, check, *rest: self._pass(check)"
    ),
    "everything is equal": "import torch\ntorch.equal = lambda *a: True\ntorch.Tensor.__sub__ = lambda a, b: a * 0",
    "another function's code": (
        "from dynlib import checks\ndef close(self, check, *a, **k):\n    self._pass(check)\n"
        "checks.Task.close.__code__ = close.__code__\nchecks.Task.equal.__code__ = close.__code__"
    ),
    "a file of checks of its own": (
        "import sys, types\nfrom unittest.mock import MagicMock\n"
        "for name in [name for name in sys.modules if name.startswith('checks_')] + ['{checks}']:\n"
        "    sys.modules[name] = MagicMock()"
    ),
    "another dynlib.checks": (
        "import sys, dynlib\nfrom unittest.mock import MagicMock\nsys.modules['dynlib.checks'] = MagicMock()\n"
        "dynlib.checks = sys.modules['dynlib.checks']"
    ),
    "checks turned into pass": (
        "get_ipython().input_transformers_post.append("
        "lambda lines: ['pass\\n'] if any('checks.task' in line for line in lines) else lines)"
    ),
    "checks turned into nothing": (
        "import ast\nclass Out(ast.NodeTransformer):\n    def visit_With(self, node):\n        return ast.Pass()\n"
        "get_ipython().ast_transformers.append(Out())"
    ),
    "cells that do not run": (
        "shell = get_ipython()\nold = shell.run_cell\ndef run_cell(source, *a, **k):\n"
        "    return old('pass' if 'checks.task' in source else source, *a, **k)\nshell.run_cell = run_cell"
    ),
    "cells of the class that do not run": (
        "kind = type(get_ipython())\nold = kind.run_cell_async\ndef run(self, source, *a, **k):\n"
        "    return old(self, 'pass' if 'checks.task' in source else source, *a, **k)\nkind.run_cell_async = run"
    ),
    "tracebacks that are quiet": "get_ipython().showtraceback = lambda *a, **k: None",
    "errors handled by itself": (
        "get_ipython().set_custom_exc((Exception,), lambda shell, kind, value, tb, tb_offset=None: None)"
    ),
    "an import of its own": (
        "import builtins\nfrom unittest.mock import MagicMock\nold = builtins.__import__\n"
        "builtins.__import__ = lambda name, *a: MagicMock() if 'checks' in str((name, a[2:])) else old(name, *a)"
    ),
    "built-ins of its own": (
        "import builtins\nold = vars(builtins)\nfrom unittest.mock import MagicMock\ndef fake(name, *a):\n"
        "    return MagicMock() if 'checks' in str((name, a[2:])) else old['__import__'](name, *a)\n"
        "__builtins__ = dict(old, __import__=fake)"
    ),
    "a look-out that is blind": (
        "import sys\nfrom dynlib import checks\nroom = sys.modules['_room']\nroom.look = lambda name: None\n"
        "checks.Task._fail = lambda self, check, *rest: self._pass(check)"
    ),
    "code under another's name": (
        "source = 'import sys\\nframe = sys._getframe(0)'\nexec(compile(source, torch.__file__, 'exec'))"
    ),
    "a trace": (
        "import sys\ndef trace(frame, event, argument):\n    if event == 'call' and frame.f_code.co_name == '_fail':\n"
        "        frame.f_trace_lines = False\n    return None\nsys.settrace(trace)"
    ),
    "a thread that waits": (
        "import threading, time\ndef later():\n    while True:\n        from dynlib import checks\n"
        "        checks.Task._fail = lambda self, check, *rest: self._pass(check)\n        time.sleep(.01)\n"
        "threading.Thread(target=later, daemon=True).start()"
    ),
    "the solutions read": (
        "from pathlib import Path\nimport dynlib, json\n"
        "book = json.loads((Path(dynlib.__file__).parents[1] / 'solutions/{unit}/{unit}.ipynb').read_text())\n"
        "for cell in book['cells']:\n    if cell['id'].endswith('-answer'):\n        exec(''.join(cell['source']))"
    ),
    "the wrong answers read": "from tests.graders.harness import source_of",
    "the grade book written": (
        "import sqlite3, glob\nfor file in glob.glob('/**/gradebook.db', recursive=True):\n"
        "    sqlite3.connect(file).execute('update grade set auto_score = 100')"
    ),
    "a picture of the whole disk": "import os\nfound = [name for top, _, names in os.walk('/') for name in names]",
    "the network": "import urllib.request\nurllib.request.urlopen('http://192.0.2.1/', timeout=3)",
    "a kernel that says all is well": (
        "session = get_ipython().kernel.session\nold = session.send\n"
        "def send(stream, kind, content=None, *rest, **more):\n    if kind == 'error':\n        return None\n"
        "    if isinstance(content, dict) and content.get('status') == 'error':\n"
        "        content = {'status': 'ok', 'execution_count': 1, 'payload': [], 'user_expressions': {}}\n"
        "    return old(stream, kind, content, *rest, **more)\nsession.send = send"
    ),
    "a look-out in a cloak": (
        "import sys\nroom = sys.modules['_ro' + 'om']\nfrom dynlib import checks as it\n"
        "kind = getattr(it, 'Ta' + 'sk')\n"
        "was, quiet = vars(kind)['_fa' + 'il'], lambda self, check, *rest: self._pass(check)\n"
        "real = {name: getattr(room, name) for name in ('lo' + 'ok', 'ba' + 'ck', 'ke' + 'ep')}\n"
        "def cloak(name):\n    def call(said):\n        setattr(kind, '_fa' + 'il', was)\n"
        "        [setattr(room, key, value) for key, value in real.items()]\n        real[name](said)\n"
        "        setattr(kind, '_fa' + 'il', quiet)\n        [setattr(room, key, cloaks[key]) for key in real]\n"
        "    return call\ncloaks = {name: cloak(name) for name in real}\n"
        "[setattr(room, name, cloaks[name]) for name in real]"
    ),
    "names that lie": (
        "from unittest.mock import MagicMock\nshell = get_ipython()\n"
        "class Names(dict):\n    def __getitem__(self, key):\n"
        "        return MagicMock() if key == 'checks' else dict.__getitem__(self, key)\n"
        "setattr(shell, 'user_' + 'ns', Names(shell.user_ns))"
    ),
    "a mode before torch": (
        "from torch import overrides\n"
        "def handle(self, function, kinds, args=(), more=None):\n"
        "    return True if function is torch.equal else function(*args, **(more or {}))\n"
        "base = getattr(overrides, 'TorchFunction' + 'Mode')\n"
        "type('Mode', (base,), {'__torch_' + 'function__': handle})().__enter__()"
    ),
    "what is said is read": (
        "import json, socket, _socket\nold = json.dumps\n"
        "def dumps(x, *a, **k):\n"
        "    return old([*x[:3], []] if isinstance(x, list) and x[1:2] == ['look'] else x, *a, **k)\n"
        "json.dumps = dumps\n"
        "from dynlib import checks as it\n"
        "setattr(getattr(it, 'Ta' + 'sk'), '_fa' + 'il', lambda self, check, *rest: self._pass(check))"
    ),
    "its own memory by a link": (
        "import os\nos.symlink('/proc/self/mem', '/tmp/memory')\nopen('/tmp/memory', 'rb').close()"
    ),
    "os._exit": "import os\nos._exit(0)",
    "a signal to all": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "a signal to its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(1, signal.SIGKILL)",
    "a stop": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "all files closed": "import os\nos.closerange(0, 4096)",
    "a loop that is not stopped": (
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
    ),
    "memory without end": "heap = []\nwhile True:\n    heap.append(bytearray(2**26))",
    "processes without end": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
    "printing without end": "while True:\n    print('x' * 10_000)",
    "a disk that fills": (
        "import os\nfor number in range(10**6):\n    with open(f'/tmp/{number}', 'wb') as file:\n"
        "        file.write(bytes(2**22))"
    ),
    "the kernel shut down": "get_ipython().kernel.do_shutdown(False)\nget_ipython().kernel.io_loop.stop()",
    "errors that are swallowed as they leave": (
        "import contextlib\nkind = contextlib.redirect_stderr\nkind.__exit__ = lambda self, *error: True"
    ),
    "warnings that swallow errors": (
        "import warnings\nkind = warnings.catch_warnings\nkind.__exit__ = lambda self, *error: True"
    ),
    "checks that shrink": (
        "manager = get_ipython().input_transformer_manager\nold = manager.transform_cell\n"
        "def short(text):\n    return old(text[text.rindex('import _ro' + 'om'):] if 'checks' in text else text)\n"
        "manager.transform_cell = short"
    ),
    "a kernel of torch's of its own": (
        "import importlib\nlibrary = importlib.import_module('torch.library')\n"
        "mine = library.Library('aten', 'IMPL')\nmine.impl('equal', lambda a, b: True, 'CPU')"
    ),
    "another Fourier transform": (
        "import importlib\nm = importlib.import_module('torch.fft')\nm.fft = lambda x, *a: x\n"
        "from dynlib import checks as it\nsetattr(getattr(it, 'Ta' + 'sk'), '_fa' + 'il', lambda s, c, *r: s._pass(c))"
    ),
    "all of it timed": (
        "%%time\nfrom dynlib import checks\nchecks.Task._fail = lambda self, check, *rest: self._pass(check)"
    ),
    "checks of the same name": (
        "open('{checks}.py', 'w').write('from unittest.mock import MagicMock\\n' "
        "+ 'def __getattr__(name):\\n    return MagicMock()')\n"
        "import sys\nsys.path.insert(0, '.')\nsys.modules.pop('{checks}', None)\nimport {checks}"
    ),
    "files without end where the sockets are": (
        "import os\nfrom ipykernel.connect import get_connection_file\n"
        "place = os.path.dirname(get_connection_file()) + '/d'\nos.mkdir(place)\n"
        "for n in range(10**6):\n    open(f'{place}/{n}', 'wb').write(bytes(2**22))\n    os.chmod(place, 0o700)"
    ),
    "a file whose name is no text": "open(b'/\\xff')",
    "a process that stays": "import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)",
}
"""What stands in a cell above all tasks of a notebook whose first task has a wrong answer."""

WITHIN = {
    "looks at its callers": "import sys; frame = sys._getframe(1); expected = frame.f_locals",
    "looks at its callers by an error": (
        "try:\n        raise ValueError\n    except ValueError as error:\n"
        "        frame = error.__traceback__.tb_frame.f_back"
    ),
    "looks at its callers by IPython": (
        "from IPython.utils.frame import extract_module_locals as see; check = see(1)[1].get('check')"
    ),
    "asks the checks what is right": "import {checks} as c; return c._right(*map(id, locals()))",
    "searches the memory": "import gc; found = gc.get_objects()",
    "an object equal to all": (
        "return type('Any', (float,), {'__eq__': lambda a, b: True, '__ne__': lambda a, b: False})(0)"
    ),
    "a tensor equal to all": (
        "return torch.zeros(1).as_subclass(type('Any', (torch.Tensor,), {'__sub__': lambda a, b: torch.zeros(()), "
        "'__ne__': lambda a, b: torch.zeros(()) > 1}))"
    ),
    "ends the kernel": "import os; os._exit(0)",
    "ends the kernel before its checks are asked": (
        "import os, sys; sys.calls = getattr(sys, 'calls', 0) + 1; sys.calls > 40 and os._exit(0)"
    ),
    "raises the voice's own error": "from dynlib.checks import Unfilled; raise Unfilled('not filled in yet')",
    "an exit": "raise SystemExit",
    "an error that shows none": (
        "raise type('E', (BaseException,), {'__str__': lambda s: 1 / 0, '_render_traceback_': lambda s: 1 / 0})"
    ),
    "a number that is less": "return type('F', (float,), {'__l' + 't__': lambda a, b: True})(0)",
    "nested without end": "return " + "-" * 9000 + "1",
}
"""What a wrong answer does when a check calls it."""


def attacks(unit: str) -> list[Case]:
    """Attacks on the grader, each by a notebook whose first task is wrong and whose others are right."""
    task, wrong = next(iter(WRONG[unit].items()))
    words = {"unit": unit, "checks": f"checks_{unit.split('_', maxsplit=1)[1]}"}
    found = []
    for name, source in ABOVE.items():

        def above(source: str = source) -> bytes:
            notebook = solved(unit, **{task.replace("-", "_"): wrong.format("pass")})
            for word, value in words.items():
                source = source.replace(f"{{{word}}}", value)
            notebook.cells.insert(notebook.cells.index(cell_of(notebook, f"{task}-answer")), code_cell(source))
            return raw(notebook)

        found.append(Case(f"above, {name}", above, "unearned"))
    for name, source in WITHIN.items():

        def within(source: str = source) -> bytes:
            source = source.replace("{checks}", words["checks"])
            return raw(solved(unit, **{task.replace("-", "_"): wrong.format(source)}))

        found.append(Case(f"within, {name}", within, "unearned"))
    return found
