"""Who is chosen, against counting who is ahead of whom."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynlib.tokens.routing import check_capacity, expert_choice, kept

few = settings(max_examples=40, deadline=None, derandomize=True)


def largest(scores: Tensor, k: int) -> Tensor:
    """The k largest of every row, of equals the earlier, by counting who is ahead of whom."""
    n = scores.shape[1]
    rows = [
        [sum(row[j] > row[i] or (row[j] == row[i] and j < i) for j in range(n)) < k for i in range(n)]
        for row in scores.tolist()
    ]
    return torch.tensor(rows)


@few
@given(st.integers(1, 4), st.integers(1, 9), st.data())
def test_expert_choice_keeps_exactly_k_with_ties_and_of_equals_the_earlier(batch: int, tokens: int, data) -> None:
    values = data.draw(st.lists(st.integers(-2, 2), min_size=batch * tokens, max_size=batch * tokens))
    scores = torch.tensor(values, dtype=torch.float64).view(batch, tokens)
    k = data.draw(st.integers(0, tokens))
    mask = expert_choice(scores, k)
    assert mask.sum(1).tolist() == [k] * batch
    assert torch.equal(mask, largest(scores, k))
    assert torch.equal(mask, expert_choice(scores, torch.tensor([k] * batch)))


def test_each_sequence_may_keep_its_own_number() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, -math.inf], [1.0, 1.0, 1.0]])
    mask = expert_choice(scores, torch.tensor([1, 2, 0]))
    assert mask.tolist() == [[False, True, False], [True, True, False], [False] * 3]


@pytest.mark.parametrize(
    ("scores", "k", "error", "message"),
    [
        (torch.zeros(2, 3), 4, ValueError, r"\[4, 4\].*\[3, 3\]"),
        (torch.zeros(2, 3), -1, ValueError, "from 0"),
        (torch.tensor([[0.0, -math.inf]]), 2, ValueError, r"\[2\].*\[1\]"),
        (torch.zeros(2, 0), 0, ValueError, "no logits"),
        (torch.zeros(3), 1, ValueError, r"\[batch, tokens\]"),
        (torch.tensor([[0.0, math.nan, 1.0]]), 1, ValueError, "NaN"),
        (torch.tensor([[0.0, math.nan, 1.0]]), 2, ValueError, "NaN"),
        (torch.tensor([[0.0, math.inf]]), 1, ValueError, r"\+inf"),
        (torch.zeros(2, 3, dtype=torch.int64), 1, TypeError, "int64"),
    ],
)
def test_choices_that_cannot_be_made_are_refused(as_users_run_it, scores: Tensor, k: int, error, message: str) -> None:
    with pytest.raises(error, match=message):
        expert_choice(scores, k)


@pytest.mark.parametrize(("capacity", "tokens", "k"), [(0.125, 256, 32), (0.125, 257, 33), (0.1, 30, 3), (1, 7, 7)])
def test_k_is_the_share_rounded_up(capacity: float, tokens: int, k: int) -> None:
    assert kept(capacity, tokens) == k


@pytest.mark.parametrize("capacity", [0, -0.1, 1.01, math.nan, True, "half", None])
def test_a_capacity_that_is_no_share_is_refused(capacity: object) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        check_capacity(capacity)


@pytest.mark.usefixtures("as_users_run_it")
def test_choices_under_vmap_and_compiled_are_the_same() -> None:
    scores = torch.randint(-2, 3, (4, 3, 9), generator=torch.Generator().manual_seed(0)).double()
    expected = torch.stack([largest(rows, 4) for rows in scores])
    assert torch.equal(torch.func.vmap(lambda rows: expert_choice(rows, 4))(scores), expected)
    compiled = torch.compile(lambda rows: expert_choice(rows, 4), backend="eager")
    assert torch.equal(torch.stack([compiled(rows) for rows in scores]), expected)
    scores[1, 2, 3] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        torch.func.vmap(lambda rows: expert_choice(rows, 4))(scores)
