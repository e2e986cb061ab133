"""What a learner is told about an error is true of the cells that ran."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from dynlib.causes import usual_cause

ASK = """
from dynlib.causes import not_run, stub_stands, usual_cause, where
try:
    halve(2)
except NotImplementedError as error:
    print(stub_stands(error))
except Exception as error:
    print(usual_cause(error, where(error)[1]))
"""
STUB = "def halve(x):\n    raise NotImplementedError('halve: not filled in yet')"
STUB_OF_A_CLASS = (
    "class halve:\n    def __init__(self, x):\n        raise NotImplementedError('halve: not filled in yet')"
)
UNINDENTED = "def halve(x):\nreturn x / 2"
OPEN = "import math\n\ndef halve(x:\n    return x / 2"


def told(*cells: str) -> str:
    """What the last of these cells prints, run one after the other as in a notebook."""
    code = (
        "import contextlib, io, json, sys\nfrom IPython.core.interactiveshell import InteractiveShell\n"
        "shell, out = InteractiveShell.instance(history_manager=None), ''\n"
        "for cell in json.load(sys.stdin):\n"
        "    out = io.StringIO()\n"
        "    with contextlib.redirect_stdout(out):\n        shell.run_cell(cell, store_history=True)\n"
        "sys.stdout.write(out.getvalue())"
    )
    given = {"input": json.dumps(cells), "text": True, "capture_output": True, "timeout": 120}
    done = subprocess.run([sys.executable, "-c", code], **given)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ((STUB, UNINDENTED), "the cell that defines 'halve' did not run, because of its IndentationError"),
        ((STUB, OPEN), "the cell that defines 'halve' did not run, because of its SyntaxError: '(' was never closed"),
        ((STUB_OF_A_CLASS, "class halve:\n    def f(self)\n        pass"), "the cell that defines 'halve' did not run"),
        ((UNINDENTED,), "the cell that defines 'halve' did not run, because of its IndentationError"),
        ((STUB,), "None"),
        ((UNINDENTED, STUB), "None"),
        ((STUB, "def halved(x):\nreturn x"), "None"),
        ((STUB, "%time\n!ls\n" + STUB), "None"),
        ((), "'halve' is not there: the cell with your answer was not run"),
        (("def halve(x):\n    return 1 / later",), "'later' has no value where your answer uses it"),
    ],
    ids=[
        *("not indented", "never closed", "a class", "no stub before", "a stub", "put right again", "another name"),
        *("magic", "not run", "a name inside the answer"),
    ],
)
def test_what_did_not_run_is_told_from_what_was_not_written(cells: tuple[str, ...], says: str) -> None:
    assert told(*cells, ASK).startswith(says)


def test_outside_of_a_notebook_nothing_is_looked_for() -> None:
    code = "from dynlib.causes import not_run, sys; print(not_run('halve'), 'IPython' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["None", "False"]


@pytest.mark.parametrize("join", [torch.stack, torch.cat])
def test_nothing_to_join_is_the_smallest_case(join: Callable[[list[torch.Tensor]], torch.Tensor]) -> None:
    with pytest.raises((RuntimeError, ValueError)) as caught:
        join([])
    assert usual_cause(caught.value, "theirs") == "nothing to stack or join: the smallest case has none"
