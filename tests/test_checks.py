"""What a learner hears from dynlib.checks, and when."""

import contextlib
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from torch import Tensor

from dynlib import checks
from dynlib.checks import CheckFailed, Task, Unfilled


def failure(look: Callable[[Task], object], **options: Any) -> CheckFailed:
    """What a block with this check raises."""
    with pytest.raises(CheckFailed) as caught, checks.task("toy", read="lecture 99, 'Toys'", **options) as check:
        look(check)
    return caught.value


def passes(look: Callable[[Task], object]) -> None:
    with checks.task("toy") as check:
        look(check)


ROW = torch.tensor([1.0, 2.0, 4.0])

RIGHT: dict[str, Callable[[Task], object]] = {
    "true": lambda c: c.true("t", True, tested="", expected=""),
    "true of a tensor": lambda c: c.true("t", torch.tensor(1) > 0, tested="", expected=""),
    "the same number": lambda c: c.equal("t", 3, 3, tested=""),
    "a whole float": lambda c: c.equal("t", 3.0, 3, tested=""),
    "a tensor of one number": lambda c: c.equal("t", torch.tensor(3), 3, tested=""),
    "a shape": lambda c: c.equal("t", ROW.shape, (3,), tested=""),
    "a list for a tuple": lambda c: c.equal("t", [1, "a"], (1, "a"), tested=""),
    "a string": lambda c: c.equal("t", "memory", "memory", tested=""),
    "a dtype": lambda c: c.equal("t", ROW.dtype, torch.float32, tested=""),
    "the same tensor": lambda c: c.equal("t", ROW.clone(), ROW, tested=""),
    "a tensor without elements": lambda c: c.equal("t", torch.empty(0, 3), torch.empty(0, 3), tested=""),
    "close": lambda c: c.close("t", ROW + 9e-7, ROW, tested=""),
    "close to a large number": lambda c: c.close("t", 1e9 * (1 + 9e-7), 1e9, tested=""),
    "close to a small number": lambda c: c.close("t", 1e-9, 0.0, tested=""),
    "infinite where it should be": lambda c: c.close(
        "t", torch.tensor([-math.inf]), torch.tensor([-math.inf]), tested=""
    ),
    "a tensor for a number": lambda c: c.close("t", torch.tensor(0.5, dtype=torch.float64), 0.5, tested=""),
    "with a gradient": lambda c: c.close("t", (2 * ROW.clone().requires_grad_()), 2 * ROW, tested=""),
    "integers": lambda c: c.close("t", torch.tensor([1, 2]), torch.tensor([1, 2]), tested=""),
    "the right error": lambda c: c.raises("t", ValueError, lambda: int("x"), tested=""),
    "a kind of the right error": lambda c: c.raises("t", ArithmeticError, lambda: 1 / 0, tested=""),
    "one possible value": lambda c: c.frequencies(
        "t", torch.zeros(9, dtype=torch.int64), torch.tensor([1.0, 0]), tested=""
    ),
    "a constant mean": lambda c: c.mean("t", torch.ones(5, 2), torch.ones(2), tested=""),
}

# What each failing check must tell, besides its name: what was expected, and what came.
WRONG: dict[str, tuple[Callable[[Task], object], str, str]] = {
    "false": (lambda c: c.true("t", False, tested="x", expected="some", got=3), "some", "3"),
    "another number": (lambda c: c.equal("t", 3, 4, tested="x"), "4", "3"),
    "nearly the number": (lambda c: c.equal("t", 4 + 1e-12, 4, tested="x"), "4", "4.000000000001"),
    "true for one": (lambda c: c.equal("t", True, 1, tested="x"), "1", "True"),
    "a string for a number": (lambda c: c.equal("t", "4", 4, tested="x"), "4", "'4'"),
    "nothing": (lambda c: c.equal("t", None, 4, tested="x"), "4", "None"),
    "another shape": (lambda c: c.equal("t", ROW.shape, (4,), tested="x"), "(4,)", "(3,)"),
    "many for one": (lambda c: c.equal("t", ROW, 1.0, tested="x"), "1", "[1.0, 2.0, 4.0]"),
    "no tensor": (lambda c: c.equal("t", [1.0], ROW, tested="x"), "a tensor of shape [3]", "[1.0]"),
    "a tensor of another shape": (lambda c: c.close("t", ROW[None], ROW, tested="x"), "shape [3]", "shape [1, 3]"),
    "one element off": (
        lambda c: c.equal("t", torch.tensor([1.0, 2.0, 5.0]), ROW, tested="x"),
        "4 at index [2]",
        "5 (1 of 3 numbers differ)",
    ),
    "the first of two": (
        lambda c: c.close("t", torch.tensor([[1.0, 9.0], [9.0, 1.0]]), torch.ones(2, 2), tested="x"),
        "1 at index [0, 1] within 1e-06",
        "9 (2 of 4 numbers differ)",
    ),
    "beyond the tolerance": (
        lambda c: c.close("t", ROW + 5e-6, ROW, tested="x"),
        "1 at index [0] within 1e-06",
        "1.000005",
    ),
    "a tolerance that float32 cannot hold": (
        lambda c: c.close("t", 0.5 + 1e-9, 0.5, tested="x", tolerance=1e-10),
        "0.5 within 1e-10",
        "0.500000001",
    ),
    "not a number": (lambda c: c.close("t", torch.tensor([math.nan]), ROW[:1], tested="x"), "1 at index [0]", "nan"),
    "not a number for one": (lambda c: c.close("t", math.nan, 1.0, tested="x"), "1 within 1e-06", "nan"),
    "infinite": (lambda c: c.close("t", math.inf, 1.0, tested="x"), "1 within 1e-06", "inf"),
    "the wrong infinity": (lambda c: c.close("t", -math.inf, math.inf, tested="x"), "inf within 1e-06", "-inf"),
    "a number for an infinity": (
        lambda c: c.close("t", ROW, torch.full((3,), -math.inf), tested="x"),
        "-inf at",
        "1 (",
    ),
    "no number": (lambda c: c.close("t", "one", 1.0, tested="x"), "one number, about 1", "'one'"),
    "no error": (lambda c: c.raises("t", ValueError, lambda: 7, tested="x"), "a ValueError", "no error, but 7"),
    "another error": (
        lambda c: c.raises("t", ValueError, lambda: 1 / 0, tested="x"),
        "ValueError",
        "ZeroDivisionError: ",
    ),
    "draws that are no indices": (
        lambda c: c.frequencies("t", ROW, torch.tensor([0.5, 0.5]), tested="x"),
        "a tensor of drawn indices (int64)",
        "[1.0, 2.0, 4.0]",
    ),
    "no draws": (
        lambda c: c.frequencies("t", torch.empty(0, dtype=torch.int64), torch.tensor([0.5, 0.5]), tested="x"),
        "a tensor of drawn indices (int64)",
        "[]",
    ),
    "draws out of range": (
        lambda c: c.frequencies("t", torch.tensor([0, 1, 2]), torch.tensor([0.5, 0.5]), tested="x"),
        "indices 0 … 1",
        "0 … 2",
    ),
    "an impossible draw": (
        lambda c: c.frequencies("t", torch.tensor([0, 0, 1]), torch.tensor([1.0, 0.0]), tested="x"),
        "shares [1.0, 0.0]",
        "shares [0.6667, 0.3333]",
    ),
    "another constant": (lambda c: c.mean("t", torch.ones(5), 2.0, tested="x"), "a mean of [2.0]", "[1.0]"),
}


@pytest.mark.parametrize("what", RIGHT)
def test_a_right_value_passes(what: str) -> None:
    passes(RIGHT[what])


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_value_is_told_with_what_was_expected_and_what_came(what: str) -> None:
    look, expected, got = WRONG[what]
    error = failure(look)
    lines = str(error).split("\n")
    assert lines[0] == "toy: the check 't' did not pass"
    assert [line.split()[0] for line in lines[1:]] == ["tested", "expected", "got", "read"]
    assert lines[1] == "  tested    x"
    assert expected in lines[2]
    assert got in lines[3]
    assert lines[4] == "  read      lecture 99, 'Toys'"
    assert (error.task, error.check) == ("toy", "t")


def test_lines_with_nothing_to_say_are_left_out() -> None:
    with pytest.raises(CheckFailed) as caught, checks.task("toy") as check:
        check.true("t", False, tested="x", expected="y")
    assert str(caught.value) == "toy: the check 't' did not pass\n  tested    x\n  expected  y"


@pytest.mark.parametrize(
    "look",
    [
        lambda c, **o: c.true("t", False, tested="x", expected="y", **o),
        lambda c, **o: c.equal("t", 1, 2, tested="x", **o),
        lambda c, **o: c.equal("t", ROW + 1, ROW, tested="x", **o),
        lambda c, **o: c.equal("t", ROW[:2], ROW, tested="x", **o),
        lambda c, **o: c.close("t", 1.0, 2.0, tested="x", **o),
        lambda c, **o: c.close("t", ROW + 1, ROW, tested="x", **o),
        lambda c, **o: c.raises("t", ValueError, lambda: 1, tested="x", **o),
        lambda c, **o: c.frequencies(
            "t", torch.zeros(99, dtype=torch.int64), torch.tensor([0.5, 0.5]), tested="x", **o
        ),
        lambda c, **o: c.mean("t", torch.ones(5), 2.0, tested="x", **o),
    ],
    ids=["true", "equal", "equal tensors", "shape", "close", "close tensors", "raises", "frequencies", "mean"],
)
def test_every_check_can_say_what_is_likely(look: Callable[..., object]) -> None:
    assert "  likely    a slip" in str(failure(lambda check: look(check, likely="a slip"))).split("\n")


@pytest.mark.parametrize(
    ("got", "says"),
    [(ROW * 2, "doubled"), (ROW + 1, "shifted"), (-ROW, "something else"), (ROW * 2 + 1e-7, "doubled")],
)
def test_the_result_of_a_known_mistake_picks_its_sentence(got: Tensor, says: str) -> None:
    mistakes = {"summed": torch.tensor(7.0), "one number": 7.0, "doubled": ROW * 2, "shifted": ROW + 1}
    error = failure(lambda c: c.close("t", got, ROW, tested="x", mistakes=mistakes, likely="something else"))
    assert f"  likely    {says}" in str(error)
    assert str(error).count("likely") == 1


@pytest.mark.parametrize(
    ("got", "says"), [(6, "doubled"), (torch.tensor(6), "doubled"), (3.5, "half more"), (-3, "something else")]
)
@pytest.mark.parametrize("method", ["equal", "close"])
def test_a_known_number_picks_its_sentence(got: Any, says: str, method: str) -> None:
    mistakes = {"a row": ROW, "doubled": 6, "half more": 3.5}
    error = failure(lambda c: getattr(c, method)("t", got, 3, tested="x", mistakes=mistakes, likely="something else"))
    assert f"  likely    {says}" in str(error)


def test_a_known_mistake_without_a_number_is_passed_over() -> None:
    said = failure(lambda c: c.equal("t", 4, 3, tested="x", mistakes={"nothing came": None, "one more": 4}))
    assert "one more" in str(said)


def test_known_shares_pick_their_sentence() -> None:
    law, uniform = torch.tensor([0.7, 0.2, 0.1]), torch.full((3,), 1 / 3)
    draws = torch.arange(3000) % 3
    mistakes = {"reversed": law.flip(0), "all alike": uniform}
    error = failure(lambda c: c.frequencies("t", draws, law, tested="x", mistakes=mistakes, likely="else"))
    assert "  likely    all alike" in str(error)
    assert "shares [0.3333, 0.3333, 0.3333]" in str(error)


def draws(law: Tensor, size: int, seed: int) -> Tensor:
    return torch.multinomial(law, size, replacement=True, generator=torch.Generator().manual_seed(seed))


def alarms(look: Callable[[Task, int], object], runs: int) -> int:
    """How many of so many seeded samples a check takes for wrong."""
    found = 0
    for seed in range(runs):
        try:
            look(Task("toy"), seed)
        except CheckFailed:
            found += 1
    return found


LAW = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3])


def gaussian(size: int, seed: int) -> Tensor:
    return checks.normal(size, 4, seed=seed) * torch.tensor([1.0, 3.0, 0.1, 1.0]) + torch.arange(4)


@pytest.mark.parametrize(
    "look",
    [
        lambda check, seed: check.frequencies("t", draws(LAW, 2000, seed), LAW, tested=""),
        lambda check, seed: check.mean("t", gaussian(500, seed), torch.arange(4.0), tested=""),
    ],
    ids=["frequencies", "mean"],
)
def test_a_right_law_is_taken_for_wrong_as_often_as_the_check_says(
    look: Callable[[Task, int], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    # One in a million cannot be seen, one in twenty can: of 1000 samples 50 ± 6.9 fail, here within 4.5 deviations
    # (this test would fail a right rate with probability 1e-5; seeds are fixed, so it does not).
    monkeypatch.setattr(checks, "FALSE_ALARM", 0.05)
    assert 50 - 31 <= alarms(look, 1000) <= 50 + 31


@pytest.mark.parametrize(
    "look",
    [
        lambda check, seed: check.frequencies("t", draws(LAW, 2000, seed), LAW, tested=""),
        lambda check, seed: check.mean("t", gaussian(500, seed), torch.arange(4.0), tested=""),
    ],
    ids=["frequencies", "mean"],
)
def test_a_right_law_passes(look: Callable[[Task, int], object]) -> None:
    # 300 samples at one false alarm in a million: all pass but with probability 3e-4.
    assert alarms(look, 300) == 0


@pytest.mark.parametrize(
    "look",
    [
        # 0.4 and 0.3 for 0.35 and 0.35: of 5000 draws 250 more and less, over 7 deviations each.
        lambda check, seed: check.frequencies(
            "t", draws(torch.tensor([0.05, 0.35, 0, 0.25, 0.35]), 5000, seed), LAW, tested=""
        ),
        # One of four columns is off by half a deviation: with 500 rows, 11 standard errors.
        lambda check, seed: check.mean(
            "t", gaussian(500, seed) + torch.tensor([0, 1.5, 0, 0]), torch.arange(4.0), tested=""
        ),
    ],
    ids=["frequencies", "mean"],
)
def test_a_wrong_law_is_found(look: Callable[[Task, int], object]) -> None:
    assert alarms(look, 100) == 100


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_draws_may_have_any_shape(dtype: torch.dtype) -> None:
    sample = draws(LAW, 4000, seed=0).reshape(40, 100).to(dtype)
    passes(lambda check: check.frequencies("t", sample, LAW, tested=""))


def test_a_stub_is_a_sentence_and_not_a_failed_check() -> None:
    def stub() -> None:
        raise NotImplementedError("toy: not filled in yet")

    for look in (lambda check: stub(), lambda check: check.raises("t", NotImplementedError, stub, tested="x")):
        with pytest.raises(Unfilled, match=r"^toy: not filled in yet$") as caught, checks.task("toy") as check:
            look(check)
        assert caught.value._render_traceback_() == ["toy: not filled in yet"]


def test_a_stub_without_a_sentence_gets_one() -> None:
    with pytest.raises(Unfilled, match=r"^toy: write your answer first$"), checks.task("toy"):
        raise NotImplementedError


def test_pytorchs_own_refusal_is_no_stub() -> None:
    for slip in (
        lambda: torch.zeros(2, dtype=torch.complex64).clamp(0),
        lambda: torch.nn.Module()(torch.zeros(2)),
        lambda: torch.optim.lr_scheduler.LRScheduler(torch.optim.SGD([torch.zeros(1)])),
    ):
        error = failure(lambda check, slip=slip: slip())
        assert error.check == "runs"
        assert "NotImplementedError" in str(error)


def test_a_block_that_checks_nothing_is_red() -> None:
    error = failure(lambda check: None)
    assert error.check == "something to check"


def test_an_error_in_the_answer_is_told_with_its_line() -> None:
    def answer(x: float) -> float:
        return x / 0  # the line

    error = failure(lambda check: check.equal("t", answer(1.0), 1.0, tested="x"))
    assert error.check == "runs"
    assert "ZeroDivisionError: float division by zero" in str(error)
    assert "at the line: return x / 0  # the line" in str(error)
    assert "read      lecture 99, 'Toys'" in str(error)


def test_an_error_inside_a_library_is_told_with_the_line_of_the_answer() -> None:
    def answer() -> Tensor:
        return torch.nn.functional.cross_entropy(ROW, ROW[:2])  # the answer's line

    assert "at the line: return torch.nn.functional.cross_entropy(ROW, ROW[:2])  # the answer's line" in str(
        failure(lambda check: answer())
    )


def test_a_missing_name_says_that_the_cell_was_not_run() -> None:
    error = failure(lambda check: check.equal("t", never_defined(1.0), 1.0, tested="x"))
    assert "never_defined" in str(error)
    assert "the cell with your answer was not run" in str(error)


def test_an_assert_of_the_learner_is_an_error_of_theirs() -> None:
    def answer() -> None:
        assert ROW.sum() == 0

    assert failure(lambda check: answer()).check == "runs"


def test_the_first_failure_ends_the_block() -> None:
    reached = []

    def look(check: Task) -> None:
        check.equal("first", 1, 1, tested="x")
        check.equal("second", 1, 2, tested="x")
        reached.append(True)

    assert failure(look).check == "second"
    assert not reached


def test_what_passed_is_counted_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    with checks.task("toy") as check:
        check.equal("one", 1, 1, tested="x")
    with checks.task("toy") as check:
        for _ in range(3):
            check.equal("one", 1, 1, tested="x")
        check.true("two", True, tested="x", expected="y")
    assert capsys.readouterr().out.splitlines() == [
        "toy: 1 check passed (one)",
        "toy: 2 checks passed (one, two)",
    ]


def test_warnings_and_stderr_do_not_reach_a_grader(capsys: pytest.CaptureFixture[str]) -> None:
    filters = list(warnings.filters)
    with checks.task("toy") as check:
        warnings.warn("this is slow", stacklevel=1)
        print("working", file=sys.stderr)
        check.equal("t", 1, 1, tested="x")
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.splitlines() == ["working", "toy: 1 check passed (t)"]
    assert warnings.filters == filters
    print("after", file=sys.stderr)
    assert capsys.readouterr().err == "after\n"


def test_random_numbers_are_seeded_inside_and_untouched_outside() -> None:
    def inside(**options: int) -> Tensor:
        with checks.task("toy", **options) as check:
            check.true("t", True, tested="x", expected="y")
            return torch.rand(3)

    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = inside()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(inside(), first)
    assert not torch.equal(inside(seed=1), first)
    after = torch.get_rng_state()
    failure(lambda check: check.true("t", bool(torch.rand(1) > 2), tested="x", expected="y"))
    assert torch.equal(torch.get_rng_state(), after), "also when a check fails"


def test_an_endless_loop_is_stopped() -> None:
    before, start = signal.getsignal(signal.SIGALRM), time.monotonic()

    def look(check: Task) -> None:
        while True:
            pass

    error = failure(look, seconds=1)
    assert error.check == "ends in time"
    assert "an end within 1 s" in str(error)
    assert time.monotonic() - start < 5
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_deadline_is_gone_when_the_block_is_left() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with checks.task("toy", seconds=1) as check:
        check.true("t", True, tested="x", expected="y")
    time.sleep(1.1)
    assert signal.getsignal(signal.SIGALRM) is before


def test_checks_run_in_a_thread_too() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            passes(lambda check: check.equal("t", 1, 1, tested="x"))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_normal_numbers_are_seeded_and_the_same_in_every_precision() -> None:
    assert torch.equal(checks.normal(2, 3, seed=1), checks.normal(2, 3, seed=1))
    assert not torch.equal(checks.normal(2, 3, seed=1), checks.normal(2, 3, seed=2))
    double = checks.normal(2, 3, seed=1, dtype=torch.float64)
    assert double.shape == (2, 3)
    assert torch.equal(double.float(), checks.normal(2, 3, seed=1))
    assert torch.equal(double.half(), checks.normal(2, 3, seed=1, dtype=torch.float16))


def test_a_large_tensor_is_told_by_its_shape() -> None:
    error = failure(lambda check: check.equal("t", torch.zeros(4, 5), 1.0, tested="x"))
    assert "a tensor of shape [4, 5], torch.float32" in str(error)


def test_jupyter_shows_the_sentences_and_no_frames() -> None:
    answers = {"runs": "return x / 0", "twice": "return x + 1", "ends in time": "while True: pass"}
    cells = [nbformat.v4.new_code_cell("from dynlib import checks")]
    for body in answers.values():
        cells.append(
            nbformat.v4.new_code_cell(
                f"def twice(x):\n    {body}\n\n"
                'with checks.task("toy", read="lecture 99", seconds=1) as check:\n'
                '    check.equal("twice", twice(3), 6, tested="x = 3")'
            )
        )
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True).execute()
    for cell, check in zip(cells[1:], answers, strict=True):
        (shown,) = cell.outputs
        assert shown.ename == "CheckFailed"
        assert shown.traceback == shown.evalue.split("\n")
        assert shown.traceback[0] == f"toy: the check '{check}' did not pass"
        assert len(shown.traceback) <= 7
        assert not any("File" in line or "dynlib" in line or "\x1b" in line for line in shown.traceback)


# ---- the words that exercises share


def test_a_wrong_dtype_gets_a_hint_about_dtypes_and_not_the_one_for_values() -> None:
    for got, hint in ((ROW.double(), "dtype=x.dtype"), (ROW.long(), "names the dtype")):
        error = failure(lambda check, got=got: check.close("t", got, ROW, tested="x", likely="sum over the rows"))
        assert f"dtype {got.dtype}" in str(error)
        assert hint in str(error)
        assert "sum over the rows" not in str(error)


def test_an_input_that_was_written_to_is_told_by_its_name() -> None:
    def change(check: Task, how: Callable[[Tensor], object]) -> None:
        x, other = ROW.clone(), ROW.clone()
        with check.untouched(tested="x", x=x, other=other):
            how(x)

    for how in (lambda x: x.add_(1), lambda x: x.data.mul_(2), lambda x: x.requires_grad_(), lambda x: x.resize_(2)):
        error = failure(lambda check, how=how: change(check, how))
        assert error.check == "input untouched"
        assert "x changed by the call" in str(error)
    passes(lambda check: change(check, lambda x: x + 1))


def test_an_untouched_nan_is_untouched() -> None:
    x = torch.tensor([math.nan, 1.0])

    def look(check: Task) -> None:
        with check.untouched(tested="x", x=x):
            x.sum()

    passes(look)


def test_a_number_that_is_not_finite_is_found() -> None:
    passes(lambda check: check.finite("t", ROW, torch.zeros(0), tested="x"))
    for bad in (math.nan, math.inf, -math.inf):
        error = failure(lambda check, bad=bad: check.finite("t", ROW, torch.tensor([[1.0, bad]]), tested="x"))
        assert "finite numbers at index [0, 1]" in str(error)
    assert "a tensor" in str(failure(lambda check: check.finite("t", None, tested="x")))


RIGHT_ANSWERS = {"share": 1 / 3, "runs": 24, "trend": "falls"}


def predict(said: object) -> Callable[[Task], None]:
    return lambda check: check.prediction(
        said,
        RIGHT_ANSWERS,
        tested="eight layers",
        words={"trend": ("falls", "rises")},
        slips={"share": {"those that pass by": 2 / 3}, "trend": {"the other way round": "rises"}},
        likely={"runs": "an eighth of 192"},
    )


def test_a_right_prediction_passes_and_stands_beside_what_came_out(capsys: pytest.CaptureFixture[str]) -> None:
    for said in (RIGHT_ANSWERS, {"trend": "falls", "share": torch.tensor(1 / 3, dtype=torch.float64), "runs": 24.0}):
        passes(predict(said))
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].split() == ["prediction", "said", "came", "out"]
    assert lines[1].split() == ["share", "0.3333333", "0.3333333"]
    assert lines[3].split() == ["trend", "falls", "falls"]


@pytest.mark.parametrize(
    ("said", "check", "says"),
    [
        (None, "a dict", "return the dict"),
        ({"share": 1 / 3}, "the names", "no 'runs', 'trend'"),
        ({**RIGHT_ANSWERS, "Share": 1}, "the names", "an unknown 'Share'"),
        ({**RIGHT_ANSWERS, "trend": "fall"}, "a word", "'falls' or 'rises'"),
        ({**RIGHT_ANSWERS, "runs": "24"}, "a number", "'24'"),
        ({**RIGHT_ANSWERS, "runs": True}, "a number", "True"),
        ({**RIGHT_ANSWERS, "runs": math.nan}, "a number", "nan"),
        ({**RIGHT_ANSWERS, "runs": torch.ones(2)}, "a number", "[1.0, 1.0]"),
        ({**RIGHT_ANSWERS, "trend": "rises"}, "trend", "the other way round"),
        ({**RIGHT_ANSWERS, "share": 2 / 3}, "share", "those that pass by"),
        ({**RIGHT_ANSWERS, "share": 0.333}, "share", "rounded"),
        ({**RIGHT_ANSWERS, "runs": 168}, "runs", "an eighth of 192"),
    ],
)
def test_a_wrong_prediction_fails_by_its_name(said: object, check: str, says: str) -> None:
    error = failure(predict(said))
    assert error.check == check
    assert says in str(error)
    assert "0.3333333" not in str(error), "the right number is not told"


# What says itself what it equals


def _says_it_equals(base: type) -> type:
    """A subclass whose objects equal everything, are near everything, and are any number that is asked for."""
    always = dict.fromkeys(["__eq__", "__le__", "__lt__", "__ge__", "__gt__", "__contains__"], lambda *_: True)
    never = dict.fromkeys(["__ne__"], lambda *_: False)
    nothing = dict.fromkeys(["__sub__", "__rsub__", "__abs__"], lambda *_: 0.0)
    three = {"__float__": lambda _: 3.0, "__int__": lambda _: 3, "__hash__": lambda _: hash("a")}
    return type("Says", (base,), always | never | (nothing | three if base in (int, float) else {}))


class Alike(Tensor):
    """A tensor that equals everything, and differs from everything by zeros."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.equal:
            return True
        if function in (
            Tensor.sub,
            Tensor.__sub__,
            Tensor.rsub,
            Tensor.__rsub__,
            Tensor.ne,
            Tensor.__ne__,
            Tensor.isnan,
        ):
            return torch.zeros(3) > 1 if function in (Tensor.ne, Tensor.__ne__) else torch.zeros(3)
        return super().__torch_function__(function, types, args, kwargs or {})


class Pretends:
    """An object that says it is a number, and equals everything."""

    __class__ = float  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __float__(self) -> float:
        return 3.0

    __hash__ = None  # type: ignore[assignment]


Number, Whole, Text = _says_it_equals(float), _says_it_equals(int), _says_it_equals(str)
Row, Pair, Named = _says_it_equals(list), _says_it_equals(tuple), _says_it_equals(dict)


def with_methods_of_its_own() -> Tensor:
    """A tensor of two numbers that says it has one, which is 3."""
    x = torch.ones(2)
    x.numel, x.item = (lambda: 1), (lambda: 3.0)  # type: ignore[method-assign, assignment, return-value]
    return x


@pytest.mark.parametrize(
    "look",
    [
        lambda c: c.equal("t", Number(0), 3, tested="x"),
        lambda c: c.equal("t", Whole(0), 3, tested="x"),
        lambda c: c.equal("t", Text("b"), "a", tested="x"),
        lambda c: c.equal("t", Row([0]), [3], tested="x"),
        lambda c: c.equal("t", Pair([0]), (3,), tested="x"),
        lambda c: c.equal("t", Named(b=0), {"a": 3}, tested="x"),
        lambda c: c.equal("t", [Number(0)], [3.0], tested="x"),
        lambda c: c.equal("t", (Whole(0), 1), (3, 1), tested="x"),
        lambda c: c.equal("t", {"a": [Number(0)]}, {"a": [3.0]}, tested="x"),
        lambda c: c.equal("t", Pretends(), 3.0, tested="x"),
        lambda c: c.equal("t", [Pretends()], [3.0], tested="x"),
        lambda c: c.equal("t", ROW.neg().as_subclass(Alike), ROW, tested="x"),
        lambda c: c.equal("t", [ROW.neg().as_subclass(Alike)], [ROW], tested="x"),
        lambda c: c.equal("t", with_methods_of_its_own(), 3, tested="x"),
        lambda c: c.close("t", Number(0), 3.0, tested="x"),
        lambda c: c.close("t", Whole(0), 3, tested="x"),
        lambda c: c.close("t", Pretends(), 3.0, tested="x"),
        lambda c: c.close("t", ROW.neg().as_subclass(Alike), ROW, tested="x"),
        lambda c: c.close("t", with_methods_of_its_own(), 3.0, tested="x"),
        lambda c: c.finite("t", (ROW / 0).as_subclass(Alike), tested="x"),
        lambda c: c.mean("t", ROW.as_subclass(Alike), 2.0, tested="x"),
        lambda c: c.frequencies("t", ROW.long().as_subclass(Alike), torch.ones(5) / 5, tested="x"),
        lambda c: c.true("t", Pretends(), tested="x", expected="y"),
        lambda c: c.true("t", Whole(0), tested="x", expected="y"),
    ],
)
def test_no_answer_says_itself_what_it_equals(look: Callable[[Task], object]) -> None:
    assert failure(look).check == "t"


def test_a_tensor_of_its_own_class_is_told_so() -> None:
    error = failure(lambda c: c.close("t", ROW.as_subclass(Alike), ROW, tested="x"))
    assert "a Alike, which is a class of its own and no plain tensor" in str(error)


def test_a_subclass_that_holds_the_right_value_passes() -> None:
    passes(lambda c: c.equal("t", np.float64(3.0), 3, tested="x"))
    passes(lambda c: c.close("t", np.float64(0.5), 0.5, tested="x"))
    passes(lambda c: c.equal("t", Number(3), 3, tested="x"))
    passes(lambda c: c.equal("t", [torch.tensor(3), ROW.shape], [3, (3,)], tested="x"))
    passes(lambda c: c.equal("t", Named(a=Pair([1, 2])), {"a": (1, 2)}, tested="x"))
    passes(lambda c: c.close("t", torch.nn.Parameter(ROW), ROW, tested="x"))


def test_a_word_or_a_name_that_equals_all_is_no_right_prediction() -> None:
    assert failure(predict({**RIGHT_ANSWERS, "trend": Text("rises")})).check == "trend"
    assert failure(predict({**RIGHT_ANSWERS, "trend": Pretends()})).check == "a word"
    assert failure(predict({**RIGHT_ANSWERS, "runs": Whole(0)})).check == "runs"
    assert failure(predict(Named({"a": 1}))).check == "the names"


def test_an_input_made_another_class_or_given_other_methods_is_not_untouched() -> None:
    def change(check: Task, how: Callable[[Tensor], object]) -> None:
        x = ROW.clone()
        with check.untouched(tested="x", x=x):
            how(x)

    def hide(x: Tensor) -> None:
        was = x.clone()
        x.detach = lambda: was  # type: ignore[method-assign]
        x.add_(1)

    def turn(x: Tensor) -> None:
        x.__class__ = Alike

    for how in (hide, turn):
        assert failure(lambda check, how=how: change(check, how)).check == "input untouched"


def test_a_gradient_that_was_cut_off_is_zero_and_not_an_error() -> None:
    x = ROW.double().requires_grad_()
    assert torch.equal(checks.gradient(x.detach() * 2, x), torch.zeros_like(x))
    assert torch.equal(checks.gradient(torch.ones(3).requires_grad_(), x), torch.zeros_like(x))
    assert torch.allclose(checks.gradient(3 * x, x), 3 * torch.linspace(-1, 2, 3, dtype=torch.float64))
    assert checks.gradient(x.softmax(0), x).abs().min() > 1e-3, "a plain sum of a softmax has no gradient"


def test_what_is_watched_tells_what_it_was_given() -> None:
    watched = checks.Watched(torch.nn.Linear(3, 2))
    x = torch.zeros(4, 5, 3)
    assert watched(x).shape == (4, 5, 2)
    x.add_(1)
    watched(ROW[None])
    assert watched.rows == [20, 1]
    assert watched.given[0].eq(0).all()
    assert checks.Watched(torch.sum)(ROW) == 7


def test_grad_mode_and_default_dtype_are_as_they_were_after_a_block() -> None:
    def answer() -> None:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)

    passes(lambda check: (answer(), check.equal("t", 1, 1, tested="x")))
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    with torch.no_grad():
        passes(lambda check: check.true("t", torch.is_grad_enabled(), tested="x", expected="gradients inside"))
        assert not torch.is_grad_enabled()


def test_a_default_dtype_set_in_a_cell_above_does_not_reach_the_checks() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        passes(lambda check: check.equal("t", torch.ones(1).dtype, torch.float32, tested="torch.ones(1).dtype"))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_check_after_a_changed_default_dtype_is_not_the_worse_for_it() -> None:
    with contextlib.suppress(CheckFailed):
        failure(lambda check: torch.set_default_dtype(torch.float64))
    assert torch.get_default_dtype() == torch.float32
