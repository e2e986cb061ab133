"""The checks that all rooms share: what they let through, and what they say of the rest."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from dynlib.inputs import (
    check_features,
    check_key_mask,
    check_name,
    check_number,
    check_tensor,
    check_whole,
    spread_positions,
)


def test_what_is_right_comes_back_as_it_was() -> None:
    assert check_whole("k", 3, least=3, most=3) == 3
    assert check_whole("k", -7) == -7
    assert check_number("tau", 2) == 2.0
    assert isinstance(check_number("tau", 2), float)
    assert check_number("epsilon", 0, least=0, most=1) == 0.0
    check_name("execution", "masked", ("gathered", "masked"))
    check_features(torch.zeros(1, 2, 3), 3)
    check_key_mask(torch.ones(2, 5, dtype=torch.bool), 2, 3, cached=2)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: check_whole("k", 3.0), TypeError, r"k must be an int; got 3\.0: use int\(k\)"),
        (lambda: check_whole("k", True), TypeError, "must be an int"),
        (lambda: check_whole("rows", "4", what="tokens"), TypeError, "an int, a number of tokens"),
        (lambda: check_whole("rows", 0, least=1, what="tokens"), ValueError, "at least 1 tokens; got 0"),
        (lambda: check_whole("k", 4, most=3), ValueError, "at most 3; got 4"),
        (lambda: check_whole("k", 4, least=1, most=3), ValueError, "1 … 3; got 4"),
        (lambda: check_number("tau", True), TypeError, "must be a number; got True"),
        (lambda: check_number("tau", "1"), TypeError, "must be a number"),
        (lambda: check_number("tau", math.nan), ValueError, "tau must be finite"),
        (lambda: check_number("tau", math.inf, least=0), ValueError, "at least 0 and finite"),
        (lambda: check_number("tau", 0, least=0, open=True), ValueError, "positive and finite; got 0"),
        (lambda: check_number("epsilon", 1.5, least=0, most=1), ValueError, r"0 … 1; got 1\.5"),
        (lambda: check_number("epsilon", 0, least=0, most=1, open=True), ValueError, "positive and at most 1"),
        (
            lambda: check_name("weight", "cubic", ("linear", "sigmoid")),
            ValueError,
            "'linear' or 'sigmoid'; got 'cubic'",
        ),
        (lambda: check_name("weight", ["linear"], ("linear", "sigmoid")), ValueError, "got .'linear'."),
        (lambda: check_tensor([1.0], "losses"), TypeError, "losses must be a tensor; got list: .*torch.as_tensor"),
        (lambda: check_tensor(np.zeros(2)), TypeError, r"got numpy\.ndarray"),
        (lambda: check_features(np.zeros((1, 2, 3)), 3), TypeError, "tokens must be a tensor"),
        (lambda: check_features(torch.zeros(1, 2, 3).long(), 3), TypeError, "floating-point.*int64"),
        (lambda: check_features(torch.zeros(1, 2, 3), 4), ValueError, r"\[batch, tokens, 4\].*\(1, 2, 3\)"),
        (lambda: check_features(torch.zeros(1, 0, 3), 3), ValueError, "none of them 0"),
        (lambda: check_features(torch.zeros(2, 3), 3), ValueError, r"\(2, 3\)"),
        (lambda: check_key_mask(torch.ones(2, 3), 2, 3), TypeError, "must be bool.*float32"),
        (lambda: check_key_mask([[True]], 1, 1), TypeError, "key_mask must be a tensor; got list"),
        (lambda: check_key_mask(torch.ones(2, 3).bool(), 2, 3, 1), ValueError, r"\(2, 4\) \(cached tokens"),
        (lambda: check_key_mask(torch.ones(2, 3).bool(), 2, 2), ValueError, r"\(2, 2\); got \(2, 3\)"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(run: Callable[[], object], error, message: str) -> None:
    with pytest.raises(error, match=message):
        run()


def test_positions_are_one_for_each_token() -> None:
    x = torch.zeros(2, 3, 4)
    assert spread_positions(None, x).tolist() == [[0, 1, 2]] * 2
    assert spread_positions(None, x, 5).tolist() == [[5, 6, 7]] * 2
    assert spread_positions(torch.tensor([4, 2, 0]), x).tolist() == [[4, 2, 0]] * 2
    own = torch.tensor([[0, 1, 2], [-1, 0, 1]])
    assert torch.equal(spread_positions(own, x), own)


@pytest.mark.parametrize(
    ("positions", "error", "message"),
    [
        (torch.zeros(3), TypeError, "int64 or int32; got torch.float32"),
        ([0, 1, 2], TypeError, "positions must be a tensor; got list"),
        (torch.zeros(2, dtype=torch.int64), ValueError, r"\(2, 3\); got \(2,\)"),
        (torch.zeros(3, 2, dtype=torch.int64), ValueError, r"got \(3, 2\)"),
    ],
)
def test_positions_that_are_none_are_refused(as_users_run_it, positions: object, error, message: str) -> None:
    with pytest.raises(error, match=message):
        spread_positions(positions, torch.zeros(2, 3, 4))  # type: ignore[arg-type]
