"""What the code of an answer uses, whatever it calls it."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dynlib.choice
from dynlib import checks
from dynlib.checks import CheckFailed
from dynlib.choice import sparsemax as my_projection
from dynlib.ways import used

aliased = F.gumbel_softmax


def helper(x: Tensor) -> Tensor:
    return my_projection(x)


def plain(x: Tensor) -> Tensor:
    return torch.softmax(x - x.amax(-1, keepdim=True), -1)


def by_module(x: Tensor) -> Tensor:
    return dynlib.choice.sparsemax(x)


def by_helper(x: Tensor) -> Tensor:
    return helper(x)


def by_import(x: Tensor) -> Tensor:
    from dynlib.choice import sparsemax

    return sparsemax(x)


def by_local_name(x: Tensor) -> Tensor:
    functional = torch.nn.functional
    return functional.gumbel_softmax(x)


def by_alias(x: Tensor) -> Tensor:
    return aliased(x)


def in_a_lambda(x: Tensor) -> Tensor:
    return max((x,), key=lambda row: float(my_projection(row).sum()))


def enclosing() -> Callable[[Tensor], Tensor]:
    solve = my_projection
    return lambda x: solve(x)


class InAMethod(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.solve(x)

    def solve(self, x: Tensor) -> Tensor:
        return by_helper(x)


def by_backward(x: Tensor) -> Tensor:
    x.sum().backward()  # type: ignore[no-untyped-call]
    return x


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (by_module, "dynlib.choice.sparse.sparsemax"),
        (by_helper, "dynlib.choice.sparse.sparsemax"),
        (by_import, "dynlib.choice"),
        (by_local_name, "torch.nn.functional.gumbel_softmax"),
        (by_alias, "torch.nn.functional.gumbel_softmax"),
        (in_a_lambda, "dynlib.choice.sparse.sparsemax"),
        (enclosing(), "dynlib.choice.sparse.sparsemax"),
        (InAMethod, "dynlib.choice.sparse.sparsemax"),
        (InAMethod(), "dynlib.choice.sparse.sparsemax"),
        (functools.partial(by_helper), "dynlib.choice.sparse.sparsemax"),
        (by_backward, ".backward"),
    ],
)
def test_what_an_answer_uses_is_found_by_its_own_name(answer: Any, name: str) -> None:
    assert name in used(answer)
    with pytest.raises(CheckFailed, match="it uses"), checks.task("toy") as check:
        check.by_hand("by hand", answer, without=(name,), tested="your code")


def asks_the_checks(x: Tensor) -> Tensor:
    import checks_gumbel as c  # type: ignore[import-not-found]

    return c._slopes(x)


def test_the_file_of_the_checks_is_ruled_out_always() -> None:
    with pytest.raises(CheckFailed, match="it uses checks_gumbel"), checks.task("toy") as check:
        check.by_hand("by hand", asks_the_checks, without=("dynlib",), tested="your code")


def test_what_is_not_used_is_not_found() -> None:
    assert not any(name.startswith("dynlib") for name in used(plain))
    with checks.task("toy") as check:
        check.by_hand("by hand", plain, without=("dynlib", "torch.nn.functional.soft", ".back"), tested="your code")
    assert check.passed == ["by hand"]
