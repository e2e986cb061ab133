"""No check takes the word of a number, a text or a tensor of a learner's own class for what it is."""

import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dynlib import checks, honest
from tests.graders.harness import run

LESS = "type('Less', (float,), {'__l' + 't__': lambda a, b: True})"
WORD = "type('Word', (str,), {'__e' + 'q__': lambda a, b: True, '__hash__': str.__hash__})"
TENSOR = "type('Tense', (torch.Tensor,), {'__l' + 't__': lambda a, b: torch.ones(()) > 0})"
LIARS = [
    (
        "02_gumbel",
        "straight-through",
        f"def straight_through(hard, soft):\n    return (hard + soft - soft.detach()).as_subclass({TENSOR})",
    ),
    (
        "02_gumbel",
        "predict-temperature",
        f"Less = {LESS}\ndef predict():\n    third = 5 / 8\n"
        "    return {'third largest at tau 0.1': third, 'third largest at tau 10': third, "
        "'bias as tau falls': 'falls', 'variance as tau falls': 'rises'}\n"
        "def bias_variance(estimates, exact):\n    mean = estimates.mean(0)\n"
        "    return Less((mean - exact).norm()), Less(((estimates - mean) ** 2).sum(-1).mean())",
    ),
    (
        "12_recursion",
        "stablemax-loss",
        f"Tense = {TENSOR}\ndef stablemax_loss(logits, labels):\n"
        "    return torch.zeros(len(logits)).as_subclass(Tense)",
    ),
    ("12_recursion", "predict-recursion", f"Word = {WORD}\ndef predict():\n    return {{Word('x'): Word('twice')}}"),
]


@pytest.fixture(autouse=True)
def nobody_lies_afterwards() -> Iterator[None]:
    yield
    gc.collect()
    assert honest.liars() == []


def defined(source: str) -> dict[str, Any]:
    """The names of a cell, which stands in no file."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(f"import collections, enum, typing, torch\n{source}", space)
    return space


@pytest.mark.parametrize(("unit", "task", "code"), LIARS, ids=lambda value: str(value)[:20])
def test_a_liar_passes_no_check_cell_of_a_unit(unit: str, task: str, code: str) -> None:
    outcomes = run(unit, task, code)
    assert outcomes
    assert all(outcome.stopped_by is not None for outcome in outcomes)


@pytest.mark.parametrize(
    ("kind", "condition"),
    [
        (LESS, "kind(9.0) < 3"),
        ("type('Whole', (int,), {'__sub__': lambda a, b: 0})", "abs(kind(9) - 3) < 1"),
        (WORD, "kind('b') == 'a'"),
        ("type('Row', (list,), {'__len__': lambda a: 4})", "len(kind()) == 4"),
        ("type('Row', (tuple,), {'__eq__': lambda a, b: True, '__hash__': None})", "kind() == (1, 2)"),
        (TENSOR, "(torch.ones(3).as_subclass(kind) < 0).all()"),
        ("type('Item', (torch.Tensor,), {'item': lambda a: 0.0})", "torch.ones(()).as_subclass(kind).item() < 1"),
        ("type('Deep', (type('Plain', (float,), {}),), {'__gt__': lambda a, b: True})", "kind(1.0) > 2"),
    ],
)
def test_a_condition_that_a_liar_fulfils_is_none(kind: str, condition: str) -> None:
    space = defined(f"kind = {kind}")
    assert eval(condition, space), "it lies"
    with pytest.raises(checks.CheckFailed, match="of its own") as caught, checks.task("toy") as check:
        check.true("t", eval(condition, space), tested="x", expected="y")
    assert caught.value.check == "t"
    del caught, check
    space.clear()


def test_who_lies_in_passing_is_found_at_the_end() -> None:
    def block() -> None:
        with checks.task("toy") as check:
            check.equal("t", 1, 1, tested="x")
            defined(f"kind = {LESS}")

    with pytest.raises(checks.CheckFailed, match="a class Less"):
        block()


def test_a_class_that_only_holds_is_no_liar() -> None:
    space = defined(
        "class Point(typing.NamedTuple):\n    index: int\n    count: int\n"
        "class Kind(enum.IntEnum):\n    one = 1\n"
        "class Flag(enum.IntFlag):\n    one = 1\n"
        "class Word(str, enum.Enum):\n    one = 'one'\n"
        "class Cache(dict):\n    def __missing__(self, key):\n        return 0\n"
        "class Share(float):\n    def __repr__(self):\n        return 'a share'\n"
        "class Layer(torch.nn.Module):\n    def __len__(self):\n        return 1\n"
    )
    assert honest.liars() == []
    with checks.task("toy") as check:
        check.true("t", space["Share"](0.5) < 1, tested="x", expected="y")


def test_a_liar_among_thousands_of_conditions_is_found_and_they_take_no_time() -> None:
    def block() -> None:
        with checks.task("toy") as check:
            for _ in range(5000):
                check.true("t", 2 < 3, tested="x", expected="y")
            check.true("t", defined(f"kind = {LESS}")["kind"](9.0) < 3, tested="x", expected="y")

    began = time.monotonic()
    with pytest.raises(checks.CheckFailed, match="a class Less"):
        block()
    assert time.monotonic() - began < 3, "a look at every condition takes twice as long"


def test_a_class_that_is_gone_after_its_condition_is_found_among_the_first() -> None:
    def block() -> None:
        with checks.task("toy") as check:
            for _ in range(checks.LOOKS - 1):
                check.true("t", 2 < 3, tested="x", expected="y")
            check.true("t", defined(f"kind = {LESS}")["kind"](9.0) < 3, tested="x", expected="y")
            gc.collect()

    with pytest.raises(checks.CheckFailed, match="a class Less"):
        block()
