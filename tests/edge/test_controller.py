"""dynlib.edge.controller: the mean cost keeps to the budget, whatever comes."""

import math
import random

import pytest
import torch

from dynlib.edge import LyapunovController

COSTS = (0.1, 0.3, 0.6, 1.0)


def hour(controller: LyapunovController, slots: int, seed: int, *, bad: range = range(0)) -> list[float]:
    """Run through slots; in a bad one more has to be spent for the same value. Gives the debts."""
    draw, debts = random.Random(seed), []
    for slot in range(slots):
        strength = 0.3 if slot in bad else draw.uniform(0.6, 1)
        values = [1 - math.exp(-5 * cost * strength) for cost in COSTS]
        controller.spend(COSTS[controller.choose(values, COSTS)])
        debts.append(controller.debt)
    return debts


@pytest.mark.parametrize("V", [0.0, 0.5, 2.0, 20.0])
@pytest.mark.parametrize("step", [0.1, 1.0])
def test_the_mean_cost_is_at_most_the_budget_and_the_debt_over_time(V: float, step: float) -> None:
    controller = LyapunovController(0.4, V=V, step=step)
    debts = hour(controller, 500, 0)
    assert controller.mean <= 0.4 + debts[-1] / (step * 500) + 1e-12
    assert controller.slots == 500
    # no way between the budget and the next dearer one is worth more than V · 1 / (0.6 − 0.4)
    assert max(debts) <= V / 0.2 + step * 0.6 + 1e-9


def test_the_average_holds_through_a_bad_hour() -> None:
    controller = LyapunovController(0.4, V=1)
    hour(controller, 6000, 0, bad=range(1000, 2000))
    assert abs(controller.mean - 0.4) < 0.02 * 0.4


def test_it_does_what_the_formula_says() -> None:
    controller, draw = LyapunovController(0.25, V=3, step=0.7), random.Random(1)
    debt = 0.0
    for _ in range(200):
        values, costs = [draw.random() for _ in range(4)], [draw.random() for _ in range(4)]
        way = min(range(4), key=lambda i: -3 * values[i] + debt * costs[i])
        assert controller.choose(torch.tensor(values, dtype=torch.float64), costs) == way
        controller.spend(costs[way])
        debt = max(0.0, debt + 0.7 * (costs[way] - 0.25))
        assert controller.debt == pytest.approx(debt)


def test_of_equally_good_ways_the_cheapest_is_taken() -> None:
    assert LyapunovController(0.4).choose([0.5, 0.5, 0.5], [0.3, 0.1, 0.2]) == 1


def test_a_larger_weight_of_the_value_spends_more_at_first() -> None:
    careful, keen = LyapunovController(0.4, V=0.1), LyapunovController(0.4, V=10)
    hour(careful, 50, 0)
    hour(keen, 50, 0)
    assert careful.mean < keen.mean


def test_what_was_spent_may_differ_from_what_was_expected() -> None:
    controller = LyapunovController(0.5)
    assert math.isnan(controller.mean)
    controller.choose([1], [0.1])
    assert controller.slots == 0
    controller.spend(2)
    assert (controller.debt, controller.mean) == (1.5, 2.0)


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input() -> None:
    with pytest.raises(TypeError, match="budget must be a number"):
        LyapunovController("3 %")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="budget"):
        LyapunovController(-0.1)
    with pytest.raises(ValueError, match="step must be positive"):
        LyapunovController(0.4, step=0)
    with pytest.raises(ValueError, match="V must be"):
        LyapunovController(0.4, V=-1)
    controller = LyapunovController(0.4)
    for values, costs in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="one value and one cost"):
            controller.choose(values, costs)
    with pytest.raises(ValueError, match="values must be finite"):
        controller.choose([math.nan], [1.0])
    with pytest.raises(ValueError, match="not be negative"):
        controller.choose([1.0], [-1.0])
    with pytest.raises(ValueError, match="cost must be"):
        controller.spend(-1)
