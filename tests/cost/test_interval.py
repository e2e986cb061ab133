"""Intervals against SciPy's, and against what they promise."""

import math

import pytest
import torch
from scipy import stats

from dynlib.cost import Interval, interval, wilson
from dynlib.cost.interval import student


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 47, 400, 401, 10_000])
def test_the_points_of_students_law_are_scipys(freedom: int, level: float) -> None:
    assert student(freedom, level=level) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-6)


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.31, 0.28, 0.35], [5.0, -1.0, 2.5, 8.0, 3.25]])
def test_an_interval_is_scipys(values: list[float]) -> None:
    found = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values))
    assert found == pytest.approx((sum(values) / len(values), low, high), rel=1e-9)
    assert found.half == pytest.approx((high - low) / 2, rel=1e-9)
    assert interval(torch.tensor(values, dtype=torch.float64)) == pytest.approx(found, rel=1e-12)


def test_whole_numbers_and_single_precision_will_do() -> None:
    assert interval(torch.tensor([1, 2, 3])) == interval([1.0, 2.0, 3.0]) == interval(torch.tensor([1.0, 2.0, 3.0]))


def test_a_wider_promise_makes_a_wider_interval() -> None:
    assert interval([1.0, 2.0, 4.0], level=0.99).half > 2 * interval([1.0, 2.0, 4.0], level=0.9).half


def test_equal_values_leave_no_room() -> None:
    assert interval([0.1] * 4) == pytest.approx((0.1, 0.1, 0.1))


def test_an_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    """4,000 experiments of 5 normal draws, seed 0. Off by more than 1.8 points (5 deviations) 1 time in 10⁶."""
    draws = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    held = sum(found.low <= 3 <= found.high for found in map(interval, draws))
    assert abs(held / 4000 - 0.95) < 0.018


def test_a_sign_is_clear_where_zero_lies_outside() -> None:
    assert Interval(2.0, 1.0, 3.0).clear
    assert Interval(-2.0, -3.0, -1.0).clear
    assert not Interval(0.5, -0.5, 1.5).clear
    assert not Interval(0.5, 0.0, 1.0).clear


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (1, 10), (5, 10), (10, 10), (1, 1), (0, 1), (173, 200)])
def test_wilsons_interval_is_scipys(hits: int, trials: int) -> None:
    truth = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson(hits, trials) == pytest.approx((hits / trials, truth.low, truth.high), abs=1e-12)


def test_none_and_all_are_not_certain() -> None:
    none, all_ = wilson(0, 20), wilson(20, 20)
    assert none.mean == none.low == 0 < 0.1 < none.high
    assert all_.mean == all_.high == 1 > 0.9 > all_.low


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([], "2 values or more; got 0"),
        ([1.0], "2 values or more; got 1"),
        ([1.0, math.nan], "finite; got \\[nan"),
        ([1.0, math.inf, 2.0], "finite; got \\[inf"),
        (torch.ones(2, 3), r"one row of numbers, \[n\]; got the shape \(2, 3\)"),
        (torch.tensor(3.0), r"got the shape \(\)"),
    ],
)
def test_values_that_have_no_interval_are_refused(values: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        interval(values)


@pytest.mark.parametrize(("hits", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_counts_that_are_none_are_refused(hits: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"got {hits} of {trials}"):
        wilson(hits, trials)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_that_is_no_share_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        interval([1.0, 2.0], level=level)
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson(1, 2, level=level)


def test_no_degree_of_freedom_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        student(0)
