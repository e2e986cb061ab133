"""The voice a learner hears: checks that say what was tested, what came, what was expected, and the likely mistake.

A task's checks run in one block::

    with checks.task("gumbel-max", read="lecture 02, 'Sampling by adding noise'") as check:
        check.equal("shape", gumbel_max(logits).shape, (4,), tested="logits [4, 5]")
        check.close("noise", got, expected, tested="…", mistakes={"the noise is added after the softmax": other})

Every check has a name. The first that fails ends the block with a :class:`CheckFailed` of a few lines; Jupyter shows
those lines and no traceback. What a block does besides checking: it seeds torch, so that an answer passes today if it
passed yesterday; it puts back the grad mode and the default number type that an answer changed; it keeps warnings from
being taken for errors by a grader; it stops an endless loop; it fails when it checked nothing.

The checks of a unit stand in a file beside its notebook, ``checks_NAME.py``, a function a task, which takes the block's
voice and the learner's object. The notebook's check cell calls it, and a teacher's hidden cell calls it with other
cases::

    with checks.task("gumbel-max", read="lecture 02, 'Sampling by adding noise'") as check:
        checks_gumbel.gumbel_max(check, gumbel_max)
"""

import gc
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, Never

import torch
from torch import Tensor, nn

from dynlib.causes import is_stub, stub_stands, usual_cause, where
from dynlib.honest import TRUTHS, liars, plain
from dynlib.ways import used

FALSE_ALARM = 1e-6
"""Chance that a statistical check fails a right answer."""

CHECKS_FILE = "checks_"
"""How the names of the files of checks begin."""

LOOKS = 100
"""After so many conditions in a block, one in so many has the liars looked for: that takes a millisecond."""


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
        self._conditions = 0

    def true(
        self,
        check: str,
        condition: Any,
        *,
        tested: str,
        expected: str,
        got: Any = None,
        likely: str | None = None,
    ) -> None:
        """The condition holds: a bool or a tensor, or another of Python's own types.

        What the condition compares may be the learner's, and answer for itself: see :func:`liars`.
        """
        condition = plain(condition)
        if type(condition) not in TRUTHS:
            self._fail(check, tested, "True or False", _show(condition), likely)
        if not bool(condition):
            self._fail(check, tested, expected, None if got is None else _show(got), likely)
        self._conditions += 1
        if self._conditions <= LOOKS or self._conditions % LOOKS == 0:
            self._no_liars(check)
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

        A value of a class of its own is read as :func:`plain` reads it: none says itself what it equals.

        Args:
            check: name of the check.
            got, expected: what the learner's code gave, and what is right.
            tested: on what, in a few words.
            likely: the usual reason for failing here.
            mistakes: sentences about known mistakes, each with the result it leads to; when ``got`` is that result,
                the sentence is shown in place of ``likely``.
        """
        got = plain(got)
        if isinstance(expected, Tensor):
            self._like(check, got, expected, tested, likely)
            if not torch.equal(got, expected):
                self._differ(check, got, expected, got != expected, tested, _fingerprint(got, mistakes, 0.0) or likely)
        else:
            expected = plain(expected)
            got = tuple(got) if type(expected) is tuple and type(got) is list else _one(got)
            alike = type(got) is type(expected) or (_number(got) and _number(expected))
            if not (alike and _same(got, expected)):
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
        got = plain(got)
        if isinstance(expected, Tensor):
            self._like(check, got, expected, tested, likely)
        elif not (_number(got) or (type(got) is Tensor and got.numel() == 1)):
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
            if not issubclass(type(caught), error):
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
        got = plain(got)
        if type(got) is not Tensor or got.dtype not in (torch.int64, torch.int32) or got.numel() == 0:
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
        got = plain(got)
        if type(got) is not Tensor or got.ndim == 0:
            self._fail(check, tested, "a tensor of samples, one a row", _show(got), likely)
        samples = got.double().reshape(len(got), -1)
        target = torch.as_tensor(expected, dtype=torch.float64).reshape(-1).expand(samples.shape[1])
        error = samples.std(0) / math.sqrt(len(samples))
        # The bound is shared among the columns (Bonferroni).
        bound = torch.special.ndtri(torch.tensor(1 - FALSE_ALARM / (2 * samples.shape[1]), dtype=torch.float64))
        if not bool(((samples.mean(0) - target).abs() <= bound * error + 1e-12).all()):
            self._fail(check, tested, f"a mean of {_show(target.float())}", _show(samples.mean(0).float()), likely)
        self._pass(check)

    @contextmanager
    def untouched(
        self, check: str = "input untouched", *, tested: str, likely: str | None = None, **inputs: Tensor
    ) -> Iterator[None]:
        """A block after which these tensors hold what they held before, to the last bit, NaN included.

        Args:
            check: name of the check.
            tested: on what, in a few words.
            likely: the usual reason for failing here; a sentence about writing in place if left out.
            inputs: the tensors, by the names that the learner knows them by.
        """
        before = {name: (plain(value).clone(), value.requires_grad, type(value)) for name, value in inputs.items()}
        yield
        for name, (was, asked, kind) in before.items():
            now = plain(inputs[name])
            same = type(inputs[name]) is kind and inputs[name].requires_grad == asked
            same = same and now.shape == was.shape and now.dtype == was.dtype
            if (
                not same
                or not torch.equal(now.nan_to_num(), was.nan_to_num())
                or bool((now.isnan() != was.isnan()).any())
            ):
                self._fail(
                    check,
                    tested,
                    f"{name} as it was given",
                    f"{name} changed by the call",
                    likely
                    or "x[…] = …, x += … and methods that end in _ write into x: make a new tensor, or x.clone() first",
                )
        self._pass(check)

    def finite(self, check: str, *values: Any, tested: str, likely: str | None = None) -> None:
        """No NaN and no infinity in any of the tensors: results, or gradients of large and tiny numbers."""
        for value in map(plain, values):
            if type(value) is not Tensor:
                self._fail(check, tested, "a tensor", _show(value), likely)
            wrong = ~value.isfinite()
            if wrong.any():
                at = tuple(wrong.nonzero()[0].tolist())
                place = f" at index {list(at)}" if at else ""
                self._fail(check, tested, f"finite numbers{place}", _show(value[at].item()), likely)
        self._pass(check)

    def by_hand(
        self, check: str, *answers: Any, without: Sequence[str], tested: str, likely: str | None = None
    ) -> None:
        """The code of an answer, and the helpers that it calls in the notebook, use nothing that the task rules out.

        The file of the checks, which works out what is right, is ruled out always.

        Args:
            check: name of the check.
            answers: functions or classes of the learner's.
            without: full names of packages, modules or functions: ``"dynlib"``, ``"torch.autograd"``,
                ``"torch.nn.functional.gumbel_softmax"``; an attribute of whatever: ``".backward"``.
            tested: what was looked at, in a few words.
            likely: what to do instead.
        """
        names = sorted(set().union(*map(used, answers)))
        found = next((name for name in names for out in without if f"{name}.".startswith(f"{out}.")), None)
        found = found or next((name for name in names if name.startswith(CHECKS_FILE)), None)
        if found is not None:
            self._fail(check, tested, f"code that does without {', '.join(without)}", f"it uses {found}", likely)
        self._pass(check)

    def prediction(
        self,
        said: Any,
        right: Mapping[str, float | int | str],
        *,
        tested: str,
        words: Mapping[str, Sequence[str]] | None = None,
        slips: Mapping[str, Mapping[str, float | int | str]] | None = None,
        likely: Mapping[str, str] | str | None = None,
        tolerance: float | Mapping[str, float] = 1e-6,
        unit: str = "prediction",
    ) -> None:
        """What was said beforehand is what comes out: names, then words and numbers one by one, then both side by side.

        The checks are called "a dict", "the names", "a word", "a number", and, where the value is judged, by the name
        of the prediction. The right value is not shown before it was said.

        Args:
            said: what the learner's ``predict`` gave: a dict with the names of ``right``.
            right: what comes out, measured or counted. A word, or a number.
            tested: what the prediction is about, in a few words.
            words: for each word of ``right``, those one may choose from.
            slips: for each name, sentences about known mistakes, each with the value that it leads to.
            likely: the usual reason where no slip fits; one for all, or one for each name.
            tolerance: a number within ``tolerance`` · max(1, |right|) is right; one for all, or by name.
            unit: how the table's first column is headed.
        """
        words, slips, said = words or {}, slips or {}, plain(said)
        if type(said) is not dict:
            kind = type(said).__name__
            self._fail("a dict", tested, f"a dict with {len(right)} names", kind, "return the dict of the docstring")
        self._pass("a dict")
        if sorted(map(str, said)) != sorted(right):
            missing, strange = sorted(set(right) - set(said)), sorted(map(str, set(said) - set(right)))
            amiss = " and ".join(
                f"{what} {', '.join(map(repr, names))}"
                for what, names in (("no", missing), ("an unknown", strange))
                if names
            )
            self._fail("the names", tested, ", ".join(right), amiss, "copy them from the docstring, letter for letter")
        self._pass("the names")
        told: dict[str, float | str] = {}
        number: Any
        for name, value in right.items():
            about = f"your prediction '{name}': {tested}"
            if isinstance(value, str):
                allowed = tuple(words[name])
                if type(said[name]) is not str or said[name] not in allowed:
                    hint = "one of these words, letter for letter, in quotes"
                    self._fail("a word", about, " or ".join(map(repr, allowed)), _show(said[name]), hint)
                told[name] = said[name]
            else:
                number = said[name]
                if hasattr(number, "item") and _size(number) == 1:
                    number = plain(number.item())
                if not (_number(number) and math.isfinite(number)):
                    self._fail(
                        "a number", about, "a number", _show(said[name]), "one plain number, no text and no list"
                    )
                told[name] = float(number)
        self._pass("a word" if words else "a number")
        for name, value in right.items():
            why = likely if isinstance(likely, str) or likely is None else likely.get(name)
            about = f"your prediction '{name}': {tested}"
            got = told[name]
            found: str | None
            if isinstance(value, str):
                good = got == value
                found = next((says for says, wrong in slips.get(name, {}).items() if wrong == got), None)
            else:
                assert isinstance(got, float)
                near = 0.005 * max(abs(value), 1e-9 if value else 1.0)
                within = tolerance.get(name, 1e-6) if isinstance(tolerance, Mapping) else tolerance
                good = abs(got - value) <= within * max(1.0, abs(value))
                known = slips.get(name, {})
                found = _nearest(got, known)
                exactly = any(math.isclose(got, wrong) for wrong in known.values() if isinstance(wrong, float | int))
                if abs(got - value) <= near and not exactly:
                    found = "the right number, rounded: write it as the fraction or the product that it is"
            if not good:
                self._fail(name, about, "another value; it is shown once you have said it", _show(got), found or why)
            self._pass(name)
        wide = max(map(len, [unit, *right]))
        print(f"{unit:<{wide}} {'said':>15} {'came out':>15}")
        for name, value in right.items():
            both = (shown if isinstance(shown, str) else _show(shown) for shown in (told[name], value))
            print(f"{name:<{wide}}", *(f"{shown:>15}" for shown in both))

    def _pass(self, check: str) -> None:
        if check not in self.passed:
            self.passed.append(check)

    def _no_liars(self, check: str) -> None:
        for kind, base, name in liars():
            self._fail(
                check,
                "what kinds of values there are in your notebook",
                f"the plain types of Python and torch, such as {base.__name__}",
                f"a class {kind.__name__}: a {base.__name__} with a {name} of its own",
                "give back plain numbers, texts and tensors; a class of your own may hold some, but be none",
            )

    def _fail(self, check: str, tested: str, expected: str, got: str | None, likely: str | None) -> Never:
        raise CheckFailed(self.name, check, tested=tested, expected=expected, got=got, likely=likely, read=self.read)

    def _like(self, check: str, got: Any, expected: Tensor, tested: str, likely: str | None) -> None:
        if type(got) is not Tensor:
            self._fail(check, tested, f"a tensor of shape {list(expected.shape)}", _show(got), likely)
        if got.shape != expected.shape:
            self._fail(check, tested, f"shape {list(expected.shape)}", f"shape {list(got.shape)}", likely)
        if got.dtype != expected.dtype:
            self._fail(check, tested, f"dtype {expected.dtype}", f"dtype {got.dtype}", _dtype_hint(got, expected))

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
    if liars():
        gc.collect()  # a class that a cell defined before, and nobody uses any more
    with (
        torch.random.fork_rng(devices=[]),
        _as_it_was(),
        warnings.catch_warnings(),
        redirect_stderr(sys.stdout),
        _deadline(name, seconds, read),
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            yield checks
            checks._no_liars("plain values")
        except CheckFailed:
            raise
        except Exception as error:
            if isinstance(error, NotImplementedError) and is_stub(error):
                broken = stub_stands(error)
                told = f"{name}: {broken}; the stub still stands" if broken else str(error)
                raise Unfilled(told or f"{name}: write your answer first") from None
            place, whose = where(error)
            raise CheckFailed(
                name,
                "runs",
                tested="your code on the check's input",
                expected="a result",
                got=f"{type(error).__name__}: {error}" + (f"\nat the line: {place}" if place else ""),
                likely=usual_cause(error, whose),
                read=read,
            ) from error
        if not checks.passed:
            raise CheckFailed(name, "something to check", expected="at least one check", got="none ran")
    passed = checks.passed
    print(f"{name}: {len(passed)} {'check' if len(passed) == 1 else 'checks'} passed ({', '.join(passed)})")


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Seeded standard normal numbers to test with."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradient(result: Tensor, source: Tensor) -> Tensor:
    """The gradient of a sum of all numbers in ``result``, each with a weight of its own, with respect to ``source``.

    Zeros where none arrives, so that a gradient that was cut off is a wrong value and not an error. The weights run
    from −1 to 2, so that a gradient that vanishes in a plain sum (of a softmax, say) does not vanish here.
    """
    found = None
    if type(result) in (Tensor, nn.Parameter) and result.requires_grad:
        weights = torch.linspace(-1, 2, torch.numel(result), dtype=result.dtype).view(result.shape)
        (found,) = torch.autograd.grad((result * weights).sum(), source, allow_unused=True, retain_graph=True)
    return torch.zeros_like(source) if found is None else found


class Watched(nn.Module):
    """A part of a network, or any function of a tensor, that keeps what it was given in each call.

    Attributes:
        part: what is watched.
        given: the first argument of each call, in order, as it was then, without its graph.
    """

    def __init__(self, part: Callable[..., Any]) -> None:
        super().__init__()
        self.part = part
        self.given: list[Tensor] = []

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the part gives."""
        self.given.append(x.detach().clone())
        return self.part(x, *args, **kwargs)

    @property
    def rows(self) -> list[int]:
        """How many rows of features, such as tokens, each call got."""
        return [x.numel() // max(1, x.shape[-1]) for x in self.given]


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Grad mode on and float32 by default, whatever a cell above has set, and all of it put back in the end."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    with torch.enable_grad():
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def _deadline(name: str, seconds: int, read: str | None) -> Iterator[None]:
    """Stops what has used so many seconds of the processor, or waited for nearly twice as long."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    worked, waited = time.thread_time(), time.monotonic()

    def look(*_: Any) -> None:
        if time.thread_time() - worked < seconds and time.monotonic() - waited < 1.8 * seconds:
            return
        raise CheckFailed(
            name,
            "ends in time",
            tested="your code on the check's input",
            expected=f"an end within {seconds} s",
            got="none",
            likely="a loop that never ends, or a loop over what one tensor operation does",
            read=read,
        )

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, min(seconds, 0.25), 0.25)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _dtype_hint(got: Tensor, expected: Tensor) -> str:
    if expected.is_floating_point() and got.is_floating_point():
        return "the result keeps the dtype of the input: a tensor that you make yourself takes dtype=x.dtype"
    if expected.dtype == torch.bool:
        return "True and False, not numbers: compare, or .bool()"
    if not expected.is_floating_point() and got.is_floating_point():
        return "whole numbers: .long(), or a floor division"
    return "the task names the dtype of the result"


def _nearest(got: float, slips: Mapping[str, float | int | str]) -> str | None:
    """The slip whose value is nearest, if it is near."""
    near = {says: abs(got - value) for says, value in slips.items() if not isinstance(value, str)}
    best = min(near, key=lambda says: near[says], default=None)
    return best if best is not None and near[best] <= 0.005 * max(abs(got), 1e-9) + 1e-9 else None


def _one(value: Any) -> Any:
    """The number in a tensor of one; all else as it is."""
    return value.item() if type(value) is Tensor and value.numel() == 1 else value


def _same(got: Any, expected: Any) -> bool:
    """Equal, both of them plain: numbers by their value, collections part by part, all else if it is of one type."""
    if type(expected) is not Tensor:
        got = _one(got)
    if type(got) in (bool, int, float) and type(expected) in (bool, int, float):
        return bool(got == expected)
    if type(got) is not type(expected):
        return False
    if type(expected) in (list, tuple):
        return len(got) == len(expected) and all(map(_same, got, expected))
    if type(expected) is dict:
        strange = {*map(type, got)} - {*map(type, expected)}  # a key that is none of ours may say that it is
        return not strange and got.keys() == expected.keys() and all(_same(got[key], expected[key]) for key in expected)
    if type(expected) is Tensor:
        return got.dtype == expected.dtype and torch.equal(got, expected)
    return bool(got == expected)


def _size(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else getattr(value, "size", 0)


def _number(value: Any) -> bool:
    return type(value) in (int, float)  # what is compared is plain


def _fingerprint(got: Any, mistakes: Mapping[str, Any] | None, tolerance: float) -> str | None:
    for says, result in (mistakes or {}).items():
        if isinstance(result, Tensor) and isinstance(got, Tensor):
            if got.shape == result.shape and torch.allclose(got.double(), result.double(), tolerance, tolerance):
                return says
        elif not isinstance(result, Tensor):
            number = got.item() if isinstance(got, Tensor) and got.numel() == 1 else got
            if isinstance(number, Tensor):
                continue
            near = _number(number) and _number(result) and abs(number - result) <= tolerance * max(1, abs(result))
            if number == result or near:
                return says
    return None


def _tell_apart(expected: Any, got: Any) -> tuple[str, str]:
    """Both as text, with as many digits as it takes to see that they are not the same."""
    told = _show(expected), _show(got)
    return told if told[0] != told[1] else (repr(expected), repr(got))


def _show(value: Any) -> str:
    if issubclass(type(value), Tensor):
        if type(value) not in (Tensor, nn.Parameter):
            return f"a {type(value).__name__}, which is a class of its own and no plain tensor"
        if value.numel() > 12:
            return f"a tensor of shape {list(value.shape)}, {value.dtype}"
        return str(
            [round(v, 4) if isinstance(v, float) else v for v in value.tolist()] if value.ndim == 1 else value.tolist()
        )
    if issubclass(type(value), float):
        return f"{float.__float__(value):.7g}"
    try:
        text = repr(value)
    except Exception:  # a class of its own may say anything, or nothing
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 200 else text[:200] + " …"


def _indent(text: str) -> str:
    return str(text).replace("\n", "\n" + " " * 12)
