"""A budget from outside, "60 % of the compute", "20 ms", "no more than 3 % of the battery": to a knob, and in training.

A trained mechanism has a knob, and a :class:`dynlib.cost.CostCurve` says what each of its values costs:
:class:`Budget` finds the best one that a budget allows.

A mechanism that is trained can be driven to a budget. A fixed weight, task + w · cost, ends wherever the two pull
equally hard, which is anywhere. :class:`BudgetLoss` looks for the weight: with C the expected cost and b the budget,

    loss = λ (C − b) + ρ/2 (C − b)²,        λ ← λ + η ρ (C − b) after each step,

an augmented Lagrangian. λ rises for as long as too much is spent and falls for as long as too little is; it stands
still where C = b and nowhere else. The square, and an η far below 1, keep it from swinging. Source: Bertsekas,
Constrained Optimization and Lagrange Multiplier Methods, 1982, chapter 2 (from memory, not looked up here).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynlib.cost.curve import CostCurve, Measure, Mix, Point
from dynlib.inputs import check_number, check_scale, check_tensor, check_whole, widen

JOULES_PER_WATT_HOUR = 3600.0


@dataclass(frozen=True)
class Budget:
    """What may be spent: exactly one of a share of the dense FLOPs, seconds a request, or joules for so many requests.

    Args:
        share: of the dense model's FLOPs, above 0.
        seconds: a request, on average.
        joules: for all of the next ``requests``.
        requests: how many those are; with ``joules``, at least 1.

    Raises:
        TypeError: if none or several are given, or joules without requests.
        ValueError: if a number is not positive and finite.
    """

    share: float | int | None = None
    seconds: float | int | None = None
    joules: float | int | None = None
    requests: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("share", "seconds", "joules") if getattr(self, name) is not None]
        if len(given) != 1:
            raise TypeError(f"a budget is one of share, seconds or joules; got {' and '.join(given) or 'none'}")
        if (self.joules is None) != (self.requests is None):
            raise TypeError("joules are for a number of requests, Budget(joules=…, requests=…); the others for one")
        check_number(given[0], getattr(self, given[0]), least=0, open=True)
        if self.requests is not None:
            check_whole("requests", self.requests, least=1)

    @classmethod
    def battery(cls, share: float | int, *, watt_hours: float | int, requests: int) -> "Budget":
        """A share of a battery for the next ``requests``: ``Budget.battery(0.03, watt_hours=15, requests=10_000)``.

        Raises:
            ValueError: if the share is not above 0 and at most 1, or the battery holds nothing.
        """
        check_number("the battery's share", share, least=0, most=1, open=True)
        check_number("watt_hours", watt_hours, least=0, open=True)
        return cls(joules=share * watt_hours * JOULES_PER_WATT_HOUR, requests=requests)

    @property
    def measure(self) -> Measure:
        """In what it counts."""
        if self.share is not None:
            return "flops"
        return "seconds" if self.seconds is not None else "joules"

    def limit(self, curve: CostCurve) -> float:
        """What one request may cost on average, in :attr:`measure`."""
        if self.share is not None:
            return self.share * curve.dense.flops
        if self.seconds is not None:
            return self.seconds
        assert self.joules is not None
        assert self.requests is not None
        return self.joules / self.requests

    def point(self, curve: CostCurve) -> Point:
        """The best point of a curve that the budget allows.

        Raises:
            ValueError: if the curve has none so cheap, with the least that it has; or the measure was not measured.
        """
        return curve.best(self.limit(curve), self.measure)

    def knob(self, curve: CostCurve) -> Any:
        """The knob of :meth:`point`."""
        return self.point(curve).knob

    def mix(self, curve: CostCurve) -> Mix:
        """The two points in turn that spend the budget whole; see :meth:`dynlib.cost.CostCurve.mix`."""
        return curve.mix(self.limit(curve), self.measure)


class BudgetLoss(nn.Module):
    """Drives the expected cost of a mechanism to a target while it is trained, and reports the miss.

    Call it once a step and add what it gives to the task's loss. It has no weights to train, and a buffer, λ, which
    ``state_dict()`` keeps. In evaluation mode, and where no gradients are taken, λ stays as it is. It stays in double
    precision on the CPU, wherever the model around it goes: a step of it may be small.

    Args:
        target: b, of the cost as it is given, such as 0.4 where costs are shares of the dense one.
        weight: ρ, of the square, in units of the task's loss: what a miss of the whole dense cost may weigh. Too small
            a weight comes late.
        rate: η, how fast λ follows; too large a rate swings.
        at_most: spending less is no miss: λ stays at 0 or above, and nothing pulls the cost up.

    Raises:
        TypeError, ValueError: if a number is not finite and positive.
    """

    multiplier: Tensor
    miss: float
    """C − b of the last call; NaN before the first."""

    def __init__(
        self, target: float | int, *, weight: float | int = 10.0, rate: float | int = 0.02, at_most: bool = False
    ) -> None:
        super().__init__()
        self.target = check_number("target", target, least=0, open=True)
        check_scale("weight", weight)
        check_scale("rate", rate)
        self.weight, self.rate, self.at_most = float(weight), float(rate), at_most
        self.register_buffer("multiplier", torch.zeros((), dtype=torch.float64))
        self.miss = float("nan")

    def forward(self, expected: Float[Tensor, "*any"]) -> Float[Tensor, ""]:
        """The loss.

        Args:
            expected: the cost that the mechanism expects, of one or many samples, layers or tokens; its mean is driven
                to the target. It must have a gradient to do so.

        Raises:
            TypeError: if it is no floating-point tensor.
            ValueError: if it is empty, NaN, infinite or negative, or has no gradient though one is being taken.
        """
        check_tensor(expected, "the expected cost")
        if not expected.is_floating_point():
            raise TypeError(f"the expected cost must be floating-point; got {expected.dtype}")
        if expected.numel() == 0:
            raise ValueError("there is no cost to drive: the tensor is empty")
        if self.training and torch.is_grad_enabled() and not expected.requires_grad:
            raise ValueError(
                "the expected cost has no gradient, so that nothing can drive it: take it from the mechanism's soft "
                "choice, not from what was executed"
            )
        cost = widen(expected).mean()
        gap = cost - self.target
        miss, lowest = gap.item(), expected.detach().min().item()
        if not (abs(miss) < float("inf") and lowest >= 0):
            raise ValueError(f"a cost must be finite and not negative; the least is {lowest}, the mean {cost.item()}")
        self.miss = miss
        multiplier = self.multiplier.to(cost.dtype, copy=True).to(cost.device)
        if self.at_most:  # (max(0, λ + ρ (C − b))² − λ²) / 2ρ
            loss = ((multiplier + self.weight * gap).clamp_min(0) ** 2 - multiplier**2) / (2 * self.weight)
        else:
            loss = multiplier * gap + self.weight / 2 * gap**2
        if self.training and torch.is_grad_enabled():
            moved = self.multiplier + self.rate * self.weight * self.miss
            self.multiplier.copy_(moved.clamp_min(0) if self.at_most else moved)
        return loss

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        return self  # λ stays on the CPU, in double precision

    def extra_repr(self) -> str:
        """For print()."""
        return f"target={self.target:g}, weight={self.weight:g}, rate={self.rate:g}, at_most={self.at_most}"
