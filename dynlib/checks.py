"""The voice a learner hears: checks that say what was tested, what came, what was expected, and the likely mistake.

A task's checks run in one block::

    with checks.task("gumbel-max", read="lecture 02, 'Sampling by adding noise'") as check:
        check.equal("shape", gumbel_max(logits).shape, (4,), tested="logits [4, 5]")
        check.close("noise", got, expected, tested="…", mistakes={"the noise is added after the softmax": other})

Every check has a name. The first that fails ends the block with a :class:`CheckFailed` of a few lines; Jupyter shows
those lines and no traceback. What a block does besides checking: it seeds torch, so that an answer passes today if it
passed yesterday; it keeps warnings from being taken for errors by a grader; it stops an endless loop; it fails when it
checked nothing. The functions of a notebook's checks, its teacher's hidden ones and the package's tests are the same.
"""

import math
import signal
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Never

import torch
from torch import Tensor

FALSE_ALARM = 1e-6
"""Chance that a statistical check fails a right answer."""

# Code that is not the learner's: Python's, the installed packages', ours.
_NOT_THEIRS = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parent))


class CheckFailed(AssertionError):
    """A check that did not pass; its text is all that a learner needs to see."""

    def __init__(self, task: str, check: str, **lines: str | None) -> None:
        self.task, self.check = task, check
        told = [f"  {label:<9} {_indent(text)}" for label, text in lines.items() if text]
        super().__init__("\n".join([f"{task}: the check '{check}' did not pass", *told]))

    def _render_traceback_(self) -> list[str]:  # what IPython prints in place of a traceback
        return str(self).split("\n")


class Unfilled(NotImplementedError):
    """A task whose stub is still in place."""

    def _render_traceback_(self) -> list[str]:
        return str(self).split("\n")


class Task:
    """The checks of one task; :func:`task` makes it."""

    def __init__(self, name: str, read: str | None = None) -> None:
        self.name, self.read = name, read
        self.passed: list[str] = []

    def true(
        self,
        check: str,
        condition: bool | Tensor,
        *,
        tested: str,
        expected: str,
        got: Any = None,
        likely: str | None = None,
    ) -> None:
        """The condition holds."""
        if not bool(condition):
            self._fail(check, tested, expected, None if got is None else _show(got), likely)
        self._pass(check)

    def equal(
        self,
        check: str,
        got: Any,
        expected: Any,
        *,
        tested: str,
        likely: str | None = None,
        mistakes: Mapping[str, Any] | None = None,
    ) -> None:
        """The same to the last bit: numbers, shapes, strings, dtypes, whole tensors.

        Args:
            check: name of the check.
            got, expected: what the learner's code gave, and what is right.
            tested: on what, in a few words.
            likely: the usual reason for failing here.
            mistakes: sentences about known mistakes, each with the result it leads to; when ``got`` is that result,
                the sentence is shown in place of ``likely``.
        """
        if isinstance(expected, Tensor):
            self._like(check, got, expected, tested, likely)
            if not torch.equal(got, expected):
                self._differ(check, got, expected, got != expected, tested, _fingerprint(got, mistakes, 0.0) or likely)
        else:
            got = tuple(got) if isinstance(expected, tuple) and isinstance(got, list | tuple | torch.Size) else got
            if isinstance(got, Tensor) and got.numel() == 1:
                got = got.item()
            if (type(got) is not type(expected) and not (_number(got) and _number(expected))) or got != expected:
                told = _tell_apart(expected, got)
                self._fail(check, tested, *told, _fingerprint(got, mistakes, 0.0) or likely)
        self._pass(check)

    def close(
        self,
        check: str,
        got: Any,
        expected: Tensor | float | int,
        *,
        tested: str,
        tolerance: float | int = 1e-6,
        likely: str | None = None,
        mistakes: Mapping[str, Any] | None = None,
    ) -> None:
        """Equal within ``tolerance`` · max(1, |expected|), the same shape and dtype; arguments as :meth:`equal`."""
        if isinstance(expected, Tensor):
            self._like(check, got, expected, tested, likely)
        elif not (_number(got) or (isinstance(got, Tensor) and got.numel() == 1)):
            self._fail(check, tested, f"one number, about {_show(expected)}", _show(got), likely)
        else:
            got, expected = (torch.tensor(float(value), dtype=torch.float64) for value in (got, expected))
        near = (got - expected).abs() <= tolerance * expected.abs().clamp(min=1)
        # Nothing but itself is near an infinity, and nothing is near nan.
        wrong = ~(near & expected.isfinite()) & (got != expected)
        if wrong.any():
            found = _fingerprint(got, mistakes, tolerance)
            self._differ(check, got, expected, wrong, tested, found or likely, f" within {tolerance:g}")
        self._pass(check)

    def raises(
        self, check: str, error: type[Exception], call: Callable[[], Any], *, tested: str, likely: str | None = None
    ) -> None:
        """The call refuses bad input with this error."""
        try:
            result = call()
        except NotImplementedError:
            raise
        except Exception as caught:
            if not isinstance(caught, error):
                self._fail(check, tested, error.__name__, f"{type(caught).__name__}: {caught}", likely)
        else:
            self._fail(check, tested, f"a {error.__name__}", f"no error, but {_show(result)}", likely)
        self._pass(check)

    def frequencies(
        self,
        check: str,
        got: Any,
        probabilities: Tensor,
        *,
        tested: str,
        likely: str | None = None,
        mistakes: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Draws 0 … k − 1 follow a law: χ² test, failing a right answer once in a million.

        ``mistakes`` maps a sentence to the probabilities that the mistake leads to.
        """
        if not isinstance(got, Tensor) or got.dtype not in (torch.int64, torch.int32) or got.numel() == 0:
            self._fail(check, tested, "a tensor of drawn indices (int64)", _show(got), likely)
        size, draws = len(probabilities), got.flatten()
        if int(draws.min()) < 0 or int(draws.max()) >= size:
            self._fail(check, tested, f"indices 0 … {size - 1}", f"{int(draws.min())} … {int(draws.max())}", likely)
        counts = torch.bincount(draws, minlength=size).double()

        def surprising(law: Tensor) -> bool:
            possible, law = law > 0, law.double() * draws.numel()
            if bool((counts[~possible] > 0).any()):
                return True
            statistic = ((counts - law)[possible] ** 2 / law[possible]).sum()
            degrees = torch.tensor(max(1.0, possible.sum().item() - 1.0), dtype=torch.float64)
            tail = torch.special.gammaincc(degrees / 2, statistic / 2)
            return bool(tail < FALSE_ALARM)

        if surprising(probabilities):
            found = next((says for says, law in (mistakes or {}).items() if not surprising(law)), None)
            shares = counts / counts.sum()
            self._fail(
                check, tested, f"shares {_show(probabilities)}", f"shares {_show(shares.float())}", found or likely
            )
        self._pass(check)

    def mean(
        self, check: str, got: Tensor, expected: Tensor | float | int, *, tested: str, likely: str | None = None
    ) -> None:
        """Independent samples, one a row, have this mean in every column: a z-test that fails a right
        answer once in a million."""
        samples = got.detach().double().reshape(len(got), -1)
        target = torch.as_tensor(expected, dtype=torch.float64).reshape(-1).expand(samples.shape[1])
        error = samples.std(0) / math.sqrt(len(samples))
        # The bound is shared among the columns (Bonferroni).
        bound = torch.special.ndtri(torch.tensor(1 - FALSE_ALARM / (2 * samples.shape[1]), dtype=torch.float64))
        if not bool(((samples.mean(0) - target).abs() <= bound * error + 1e-12).all()):
            self._fail(check, tested, f"a mean of {_show(target.float())}", _show(samples.mean(0).float()), likely)
        self._pass(check)

    def _pass(self, check: str) -> None:
        if check not in self.passed:
            self.passed.append(check)

    def _fail(self, check: str, tested: str, expected: str, got: str | None, likely: str | None) -> Never:
        raise CheckFailed(self.name, check, tested=tested, expected=expected, got=got, likely=likely, read=self.read)

    def _like(self, check: str, got: Any, expected: Tensor, tested: str, likely: str | None) -> None:
        if not isinstance(got, Tensor):
            self._fail(check, tested, f"a tensor of shape {list(expected.shape)}", _show(got), likely)
        if got.shape != expected.shape:
            self._fail(check, tested, f"shape {list(expected.shape)}", f"shape {list(got.shape)}", likely)
        if got.dtype != expected.dtype:
            self._fail(check, tested, f"dtype {expected.dtype}", f"dtype {got.dtype}", likely)

    def _differ(
        self, check: str, got: Tensor, expected: Tensor, wrong: Tensor, tested: str, likely: str | None, how: str = ""
    ) -> Never:
        at = tuple(wrong.nonzero()[0].tolist())
        place = f" at index {list(at)}" if at else ""
        share = f" ({int(wrong.sum())} of {wrong.numel()} numbers differ)" if wrong.numel() > 1 else ""
        right, came = _tell_apart(expected[at].item(), got[at].item())
        self._fail(check, tested, f"{right}{place}{how}", f"{came}{share}", likely)


@contextmanager
def task(name: str, *, read: str | None = None, seconds: int = 30, seed: int = 0) -> Iterator[Task]:
    """The block in which a task's checks run.

    Args:
        name: of the task.
        read: where the lecture explains it; shown with a failure.
        seconds: after which an endless loop is stopped (where the system can: not on Windows).
        seed: of torch's generator inside the block; the generator outside is left as it was.

    Raises:
        CheckFailed: at the first check that fails, and for an error inside the learner's code.
        Unfilled: if a stub is still in place.
    """
    checks = Task(name, read)
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        redirect_stderr(sys.stdout),
        _deadline(name, seconds, read),
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            yield checks
        except CheckFailed:
            raise
        except NotImplementedError as error:
            raise Unfilled(str(error) or f"{name}: write your answer first") from None
        except Exception as error:
            frames = list(traceback.extract_tb(error.__traceback__))
            place = ([frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)] or frames)[-1]
            got = f"{type(error).__name__}: {error}" + (f"\nat the line: {place.line}" if place.line else "")
            likely = None
            if isinstance(error, NameError):
                likely = "the cell with your answer was not run, or did not run to its end"
            raise CheckFailed(
                name,
                "runs",
                tested="your code on the check's input",
                expected="a result",
                got=got,
                likely=likely,
                read=read,
            ) from error
        if not checks.passed:
            raise CheckFailed(name, "something to check", expected="at least one check", got="none ran")
    passed = checks.passed
    print(f"{name}: {len(passed)} {'check' if len(passed) == 1 else 'checks'} passed ({', '.join(passed)})")


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Seeded standard normal numbers to test with."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@contextmanager
def _deadline(name: str, seconds: int, read: str | None) -> Iterator[None]:
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> Never:
        raise CheckFailed(
            name,
            "ends in time",
            tested="your code on the check's input",
            expected=f"an end within {seconds} s",
            got="none",
            likely="a loop that never ends, or a loop over what one tensor operation does",
            read=read,
        )

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fingerprint(got: Any, mistakes: Mapping[str, Any] | None, tolerance: float) -> str | None:
    for says, result in (mistakes or {}).items():
        if isinstance(result, Tensor) and isinstance(got, Tensor):
            if got.shape == result.shape and torch.allclose(got.double(), result.double(), tolerance, tolerance):
                return says
        elif not isinstance(result, Tensor):
            number = got.item() if isinstance(got, Tensor) and got.numel() == 1 else got
            if isinstance(number, Tensor):
                continue
            if number == result or (_number(number) and abs(number - result) <= tolerance * max(1, abs(result))):
                return says
    return None


def _tell_apart(expected: Any, got: Any) -> tuple[str, str]:
    """Both as text, with as many digits as it takes to see that they are not the same."""
    told = _show(expected), _show(got)
    return told if told[0] != told[1] else (repr(expected), repr(got))


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.numel() > 12:
            return f"a tensor of shape {list(value.shape)}, {value.dtype}"
        return str(
            [round(v, 4) if isinstance(v, float) else v for v in value.tolist()] if value.ndim == 1 else value.tolist()
        )
    if isinstance(value, float):
        return f"{value:.7g}"
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + " …"


def _indent(text: str) -> str:
    return str(text).replace("\n", "\n" + " " * 12)
