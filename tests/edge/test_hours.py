"""dynlib.edge.hours: the table between its rows, the hours, and a budget that holds through the bad one."""

import math
from typing import Any

import pytest
import torch

from dynlib.edge import LyapunovController, bad_hour, between, send_through

SNRS = (0.0, 10.0, 20.0)
VALUES = torch.tensor([[0.3, 0.4, 0.45], [0.6, 0.7, 0.74], [0.7, 0.78, 0.8]])
COSTS = torch.tensor([[60.0, 200.0, 500.0], [50.0, 180.0, 480.0], [40.0, 170.0, 470.0]])


def hours(**more: Any) -> torch.Tensor:
    return bad_hour(generator=torch.Generator().manual_seed(0), **more)


def test_one_hour_is_bad_and_all_others_are_good() -> None:
    drawn = hours(slots=4, before=1, behind=2, good=12, bad=-1, spread=0)
    assert drawn.tolist() == [12.0] * 4 + [-1.0] * 4 + [12.0] * 8
    noisy = hours(slots=5000, before=0, behind=0, bad=3, spread=2)
    # 5000 numbers: five standard deviations of the mean and of the deviation
    assert abs(noisy.mean().item() - 3) < 5 * 2 / 5000**0.5
    assert abs(noisy.std().item() - 2) < 5 * 2 / 10000**0.5


def test_between_the_rows_the_table_is_a_straight_line_and_beyond_them_it_is_flat() -> None:
    for snr, expected in ((-5, VALUES[0]), (0, VALUES[0]), (10, VALUES[1]), (20, VALUES[2]), (31.5, VALUES[2])):
        assert torch.equal(between(snr, SNRS, VALUES), expected)
    torch.testing.assert_close(between(2.5, SNRS, VALUES), 0.75 * VALUES[0] + 0.25 * VALUES[1])
    torch.testing.assert_close(between(18, SNRS, VALUES), 0.2 * VALUES[1] + 0.8 * VALUES[2])


def test_the_measured_ratios_may_be_a_tensor() -> None:
    for snr in (-5, 2.5, 18, 40):
        assert torch.equal(between(snr, torch.tensor(SNRS), VALUES), between(snr, SNRS, VALUES))


@pytest.mark.parametrize("budget", [100.0, 200.0, 400.0])
def test_the_mean_cost_keeps_to_the_budget_within_two_percent_through_a_bad_hour(budget: float) -> None:
    controller = LyapunovController(budget, V=2000.0, step=1e-3)
    slots = send_through(controller, hours(), snrs=SNRS, values=VALUES, costs=COSTS)
    assert len(slots) == 6 * 360
    assert slots[-1].mean == pytest.approx(sum(slot.cost for slot in slots) / len(slots))
    assert abs(slots[-1].mean / budget - 1) < 0.02
    assert len({slot.way for slot in slots}) > 1
    # what the bound of the controller says of every slot
    worst = max(slot.debt for slot in slots)
    assert all(slot.mean <= budget + worst / (1e-3 * (t + 1)) + 1e-9 for t, slot in enumerate(slots))


def test_a_slot_says_what_the_controller_would_have_chosen_and_booked() -> None:
    controller, other = LyapunovController(150, V=300), LyapunovController(150, V=300)
    for slot in send_through(controller, hours(slots=20), snrs=SNRS, values=VALUES, costs=COSTS):
        worth, prices = between(slot.snr, SNRS, VALUES), between(slot.snr, SNRS, COSTS)
        way = other.choose(worth, prices)
        other.spend(prices[way].item())
        assert (slot.way, slot.debt, slot.mean) == (way, other.debt, other.mean)
        assert (slot.value, slot.cost) == (worth[way].item(), prices[way].item())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: between(1, (0, 10), VALUES), "one ratio for each of the 3 rows, rising"),
        (lambda: between(1, (0, 10, 10), VALUES), "one ratio for each of the 3 rows, rising"),
        (lambda: between(math.nan, SNRS, VALUES), "snr must be finite"),
        (lambda: between(15, (0, math.nan, 20), VALUES), "each of snrs must be finite"),
        (lambda: between(15, (0, 10, math.inf), VALUES), "each of snrs must be finite"),
        (lambda: bad_hour(slots=0), "slots must be at least 1"),
        (lambda: bad_hour(before=-1), "before must be at least 0"),
        (lambda: bad_hour(spread=-1), "spread must be at least 0"),
        (lambda: bad_hour(bad=math.inf), "bad must be finite"),
    ],
)
def test_what_cannot_be_is_refused(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.usefixtures("as_users_run_it")
def test_what_is_no_number_and_no_table_is_refused() -> None:
    strange: Any = ("0", "10", "20")
    with pytest.raises(TypeError, match="each of snrs must be a number"):
        between(15, strange, VALUES)
    strange = VALUES.tolist()
    with pytest.raises(TypeError, match="the table must be a tensor; got list"):
        between(15, SNRS, strange)
