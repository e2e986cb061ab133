"""Where an error in a learner's code came from, and what usually causes one of its kind.

An error message of Python or PyTorch says what could not be done, not what to change. :func:`where` finds the learner's
own line among those of the libraries and of the checks, :func:`usual_cause` the sentence that helps most often.
"""

import ast
import dis
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Literal

Whose = Literal["theirs", "cell", "checks"]
"""The learner's code; the check cell itself, as when a name is not there; or the checks, which could not use what the
learner's code gave."""

_HERE = str(Path(__file__).parent)
# Code that is not the learner's: Python's, the installed packages', ours, and the checks beside a notebook.
_NOT_THEIRS = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), _HERE)
_CHECKS = re.compile(r"\bchecks_\w+\.py$")

_USUAL = {
    r"expected scalar type|same dtype|Expected .* but found": (
        "a tensor that you made has a dtype of its own: give it that of the input, dtype=x.dtype"
    ),
    r"unexpected keyword argument|positional argument|multiple values for argument": (
        "call what you are given as the task says, and keep the arguments of your own function as the stub has them"
    ),
    r"index .* out of (range|bounds)|(?<!result )out of range|index out of": (
        "an index past the end: the last of n is n - 1, and the smallest case has one, or none"
    ),
    r"size of tensor|cannot be multiplied|must match|shape mismatch|invalid for input of size": (
        "two shapes that do not go together: print both; a sum with keepdim=True keeps its axis"
    ),
    r"modified by an inplace operation|leaf [Vv]ariable": (
        "x[…] = …, x += … and methods that end in _ write into a tensor that the gradient still needs: make a new one"
    ),
    r"does not require grad": (
        "the path from the input to the result is cut: detach(), .item(), no_grad or a comparison cuts it"
    ),
    r"Boolean value of Tensor|truth value of an": (
        "a tensor has many truths: compare elementwise with torch.where, or ask .any() or .all()"
    ),
    r"numpy\(\) on Tensor|can't convert": "stay with tensors: NumPy cuts the gradient",
    r"too large to convert|math range error|Result too large|int too large": (
        "the numbers in between are too large: compute with their logarithms"
    ),
    r"non-empty (TensorList|list of Tensors)": "nothing to stack or join: the smallest case has none",
    r"local variable": "a name that is set in one branch only, or below its first use",
}


def where(error: BaseException) -> tuple[str, Whose]:
    """The learner's own line that an error came from, and whose it is.

    The traceback begins in the check cell. The line is the deepest one of the learner's; where there is none, that of
    the check cell or of the checks' file.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_HERE)]
    if not frames:
        return "", "checks"
    cell, inside = frames[0], frames[1:]
    checks = [frame for frame in inside if _CHECKS.search(frame.filename)]
    theirs = [
        frame
        for frame in inside
        if not (frame.filename.startswith(_NOT_THEIRS) or _CHECKS.search(frame.filename))
        and (frame.filename, frame.name) != (cell.filename, "<lambda>")  # a call that the check cell wraps for a check
    ]
    if theirs:
        return theirs[-1].line or "", "theirs"
    return (checks[-1].line or "", "checks") if checks else (cell.line or "", "cell")


def usual_cause(error: BaseException, whose: Whose) -> str | None:
    """The usual reason for an error of this kind; None where there is no usual one."""
    text = str(error)
    if isinstance(error, NameError) and not isinstance(error, UnboundLocalError):
        if whose == "theirs":
            return (
                f"'{error.name}' has no value where your answer uses it: a slip of the pen, a missing import, or a "
                "cell above that was not run"
            )
        broken = not_run(error.name or "")
        return broken or f"'{error.name}' is not there: the cell with your answer was not run, or not to its end"
    if whose == "checks" and "NoneType" in text:
        return "your function gives None: is the return missing?"
    if whose == "cell" and isinstance(error, TypeError | AttributeError):
        return "a name of this task was used for something else in between: run the notebook again from the top"
    if isinstance(error, AttributeError) and whose == "theirs":
        return f"what you are given has no {error.name or 'such attribute'}: use only what the docstring names"
    if isinstance(error, KeyError) and whose == "checks":
        return f"your result has no {text}"
    if isinstance(error, RecursionError):
        return "the function calls itself without an end"
    if isinstance(error, ZeroDivisionError):
        return "the smallest case divides by 0: think of k = 0, of one token, of one class"
    return next((says for pattern, says in _USUAL.items() if re.search(pattern, text)), None)


def not_run(name: str) -> str | None:
    """A sentence if the cell that last tried to define a function or class has an error of syntax, and did not run.

    What the name stands for then is what it was before, such as the stub. None where there is no such cell, and outside
    of a notebook.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not name.isidentifier():
        return None
    cells = (cell for cell in reversed(shell.user_ns.get("In", [])) if isinstance(cell, str))
    last = next((cell for cell in cells if re.search(rf"^\s*(async\s+)?(def|class)\s+{name}\b", cell, re.M)), "")
    try:
        compile(shell.transform_cell(last), "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        place = f" (line {error.lineno})" if error.lineno else ""
        return f"the cell that defines '{name}' did not run, because of its {type(error).__name__}: {error.msg}{place}"
    return None


def is_stub(error: NotImplementedError) -> bool:
    """Whether a stub raised it, with a ``raise`` of its own, and not PyTorch, as where complex numbers are clamped."""
    frames = list(_steps(error))
    if not frames:
        return True
    frame, last = frames[-1]
    raised = next((step.opname for step in dis.get_instructions(frame.f_code) if step.offset == last), "")
    return raised == "RAISE_VARARGS" and not frame.f_code.co_filename.startswith(_NOT_THEIRS)


def _steps(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    place = error.__traceback__
    while place is not None:
        yield place.tb_frame, place.tb_lasti
        place = place.tb_next


def stub_stands(error: NotImplementedError) -> str | None:
    """:func:`not_run` for the function or class whose stub raised this error: an answer was written over the stub."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return not_run(frames[-1][0].f_code.co_qualname.split(".")[0]) if frames else None
