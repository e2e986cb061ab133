"""A budget that holds on average, whatever comes: spend more while the channel is good, and less when it is not.

In each slot t there are a few ways to send, each with a value and a cost γ. Over a long time the mean cost shall be no
more than γ̄. What was spent too much is a debt, the *virtual queue*

    Z_{t+1} = max(0, Z_t + μ (γ_t − γ̄)),        Z_0 = 0,

and in each slot the way is taken that is best when the debt has a price,

    argmin  −V · value + Z_t · γ.

A larger V asks more for value, and lets the debt grow larger. For Z_t ≤ Z the mean cost of the first t slots is at most
γ̄ + Z / (μ t), whatever the channel did: with values between 0 and 1, and a way that costs no more than γ̄, the debt is
bounded, and the excess vanishes like 1 / t.

Source: arXiv:2505.17604.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dynlib.inputs import check_number

Numbers = Sequence[float | int] | Tensor


class LyapunovController:
    """Chooses among ways to send, slot by slot, so that the mean cost keeps to a budget.

    Args:
        budget: γ̄, in whatever unit the costs have: a share of the tokens, symbols, joules.
        V: the weight of the value, not negative. Larger: more value, and a longer way to the mean.
        step: μ, positive.

    Attributes:
        debt: Z.
        spent: the sum of all costs so far.
        slots: their number.

    Raises:
        TypeError: if a number is none.
        ValueError: if one is out of its range.
    """

    def __init__(self, budget: float | int, *, V: float | int = 1.0, step: float | int = 1.0) -> None:
        self.budget = check_number("budget", budget, least=0)
        self.V = check_number("V", V, least=0)
        self.step = check_number("step", step, least=0, open=True)
        self.debt, self.spent, self.slots = 0.0, 0.0, 0

    @property
    def mean(self) -> float:
        """The mean cost so far; NaN before the first slot."""
        return self.spent / self.slots if self.slots else math.nan

    def choose(self, values: Numbers, costs: Numbers) -> int:
        """The number of the way to take now, from 0; the cheapest of equally good ones. Nothing is spent yet.

        Args:
            values: what each way is worth in this slot, such as an accuracy to be expected.
            costs: γ of each, not negative.

        Raises:
            ValueError: if there are no ways, not as many values as costs, one is not finite, or a cost is negative.
        """
        worth, prices = _numbers("values", values), _numbers("costs", costs)
        if not worth or len(worth) != len(prices):
            raise ValueError(f"need one value and one cost for each way; got {len(worth)} and {len(prices)}")
        if min(prices) < 0:
            raise ValueError(f"costs must not be negative; got {min(prices):g}")
        # argmin −V · value + Z · γ
        return min(range(len(prices)), key=lambda way: (-self.V * worth[way] + self.debt * prices[way], prices[way]))

    def spend(self, cost: float | int) -> None:
        """Book what the slot has cost, which may be another cost than the one that was expected.

        Raises:
            TypeError: if it is no number.
            ValueError: if it is negative or not finite.
        """
        cost = check_number("cost", cost, least=0)
        # Z ← max(0, Z + μ (γ − γ̄))
        self.debt = max(0.0, self.debt + self.step * (cost - self.budget))
        self.spent += cost
        self.slots += 1


def _numbers(name: str, given: Numbers) -> list[float]:
    numbers = [float(number) for number in (given.tolist() if isinstance(given, torch.Tensor) else given)]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must be finite; got {numbers}")
    return numbers
