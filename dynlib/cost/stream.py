"""A day of requests: drawn, run through a policy, and compared with what somebody who knew the day would have done.

For rehearsals. Costs and qualities are drawn round those of a :class:`dynlib.cost.CostCurve`; for real ones, run the
model at the knob that the policy gives.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from dynlib.cost.curve import CostCurve, Measure, Point
from dynlib.cost.governor import by_kind
from dynlib.inputs import check_number, check_scale, check_whole


class Request(NamedTuple):
    """One that comes in the course of a day."""

    time: float
    kind: Hashable


@runtime_checkable
class Policy(Protocol):
    """What :func:`rehearse` asks, as :class:`dynlib.cost.Governor` answers it."""

    def choose(self, now: float | int, kind: Hashable = None) -> Point | None:
        """The point for a request, or None to refuse it."""
        ...

    def spend(self, cost: float | int) -> None:
        """Told after each request that was not refused."""
        ...


class Outcome(NamedTuple):
    """What came of a day."""

    quality: float
    """The mean over all requests of the quality that their points have on average; 0 for one that was refused."""
    spent: float
    refused: int
    requests: int
    overspent: bool
    """Whether more was spent than there was, at any time."""


class AlwaysAt:
    """The policy of one fixed point, until what is left does not pay for it."""

    def __init__(self, point: Point, budget: float | int, *, measure: Measure = "joules") -> None:
        self.point, self.left, self.measure = point, float(budget), measure

    def choose(self, now: float | int, kind: Hashable = None) -> Point | None:
        """The point."""
        return self.point if self.point.cost(self.measure) * self.point.most <= self.left else None

    def spend(self, cost: float | int) -> None:
        """Take it off."""
        self.left -= cost


def day(
    expected: float | int,
    *,
    kinds: Mapping[Hashable, float] | None = None,
    spread: float | int = 0.2,
    bursts: int = 3,
    burst_share: float | int = 0.2,
    generator: torch.Generator | None = None,
) -> list[Request]:
    """Requests between times 0 and 1, in order; there may be none.

    Their number is Poisson round a mean that is itself drawn, by a gamma law round ``expected`` with the relative
    deviation ``spread``. A share of them comes in bursts, within a hundredth of the day each, and a burst is of one
    kind.

    Args:
        expected: how many there are on average.
        kinds: how often each kind comes, of the requests outside the bursts; they need not sum to 1. None is one kind.
        spread: the relative deviation of a day's mean; positive.
        bursts: how many; their times and kinds are drawn evenly.
        burst_share: of the requests, 0 … 1.
        generator: draws.

    Raises:
        TypeError, ValueError: if a number is out of its range.
    """
    check_scale("expected", expected)
    check_scale("spread", spread)
    check_whole("bursts", bursts, least=0)
    check_number("burst_share", burst_share, least=0, most=1)
    kinds = {None: 1.0} if kinds is None else kinds
    names = tuple(kinds)
    weights = torch.tensor([check_number("how often a kind comes", one, least=0) for one in kinds.values()])
    if not weights.sum() > 0:
        raise ValueError(f"no kind comes: how often each does must not be 0 for all; got {dict(kinds)}")
    shape = torch.full((1,), spread**-2)
    rate = expected * spread**2 * torch._standard_gamma(shape, generator=generator)
    number = int(torch.poisson(rate, generator=generator))
    times = torch.rand(number, generator=generator)
    which = torch.multinomial(weights, number, replacement=True, generator=generator) if number else times.long()
    if bursts and number:
        begin = 0.99 * torch.rand(bursts, generator=generator)
        of = torch.randint(len(names), (bursts,), generator=generator)
        mine = torch.randint(bursts, (number,), generator=generator)
        in_burst = torch.rand(number, generator=generator) < burst_share
        times = torch.where(in_burst, begin[mine] + 0.01 * times, times)
        which = torch.where(in_burst, of[mine], which)
    order = times.argsort()
    return [Request(time, names[one]) for time, one in zip(times[order].tolist(), which[order].tolist(), strict=True)]


def rehearse(
    policy: Policy,
    requests: Sequence[Request],
    budget: float | int,
    *,
    measure: Measure = "joules",
    generator: torch.Generator | None = None,
) -> Outcome:
    """Run a day through a policy. What a request takes is drawn: its point's cost times a number from 0 to ``most``.

    That number has mean 1, and is Beta-distributed on its range.

    Raises:
        ValueError: if the day has no requests, or the budget is not positive.
    """
    if not requests:
        raise ValueError("the stream is empty: there is no request to decide on")
    check_scale("budget", budget)
    worth, spent, refused, over = 0.0, 0.0, 0, False
    for time, kind in requests:
        point = policy.choose(time, kind)
        if point is None:
            refused += 1
            continue
        cost = point.cost(measure) * _varied(point.most, generator)
        policy.spend(cost)
        spent += cost
        over = over or spent > budget * (1 + 1e-9)
        worth += point.quality.mean
    return Outcome(worth / len(requests), spent, refused, len(requests), over)


def foreseen(
    curves: CostCurve | Mapping[Hashable, CostCurve],
    requests: Sequence[Request],
    budget: float | int,
    *,
    measure: Measure = "joules",
) -> Outcome:
    """What the best plan gives to somebody who knows the whole day: an upper bound on the mean, by the linear program.

    Nobody has to be answered, and who is not is worth 0. Each kind has steps up: from nothing to the first point that
    is worth its cost, and on along its hull, each with less quality for its cost than the one before. They are bought
    from the best on until the money is gone, the last one in part.

    Raises:
        ValueError: if the day has no requests, a request is of an unknown kind, or the budget is not positive.
    """
    if not requests:
        raise ValueError("the stream is empty: there is no request to decide on")
    check_scale("budget", budget)
    kinds = by_kind(curves)
    often = Counter(kind for _, kind in requests)
    if unknown := set(often) - set(kinds):
        raise ValueError(f"there is no curve for the kinds {', '.join(map(repr, unknown))}")
    steps: list[
        tuple[float, float, float, int]
    ] = []  # quality for cost; cost, quality and new answers of all of a kind
    for kind, number in often.items():
        rises = _from_nothing(kinds[kind].hull(measure), measure)
        steps += [
            (worth / cost, number * cost, number * worth, number * (place == 0))
            for place, (cost, worth) in enumerate(rises)
            if worth > 0
        ]
    quality, left, answered = 0.0, float(budget), 0.0
    for _, cost, worth, new in sorted(steps, reverse=True):
        part = min(1.0, left / cost)
        quality, left, answered = quality + part * worth, left - part * cost, answered + part * new
    refused = len(requests) - math.floor(answered + 1e-9)
    return Outcome(quality / len(requests), budget - left, refused, len(requests), False)


def _from_nothing(hull: Sequence[Point], measure: Measure) -> list[tuple[float, float]]:
    """Cost and quality of each step from (0, 0) up a hull, with falling slopes."""
    rises: list[tuple[float, float]] = []
    before = (0.0, 0.0)
    for point in hull:
        now = (point.cost(measure), point.quality.mean)
        rises.append((now[0] - before[0], now[1] - before[1]))
        before = now
        while len(rises) > 1 and rises[-1][1] * rises[-2][0] >= rises[-2][1] * rises[-1][0]:
            (cost, worth), (more, better) = rises[-2:]
            rises[-2:] = [(cost + more, worth + better)]
    return rises


def _varied(most: float, generator: torch.Generator | None) -> float:
    # a Beta law on [0, most] with mean 1: parameters in the proportion 1 : most − 1
    if most <= 1 + 1e-6:
        return 1.0
    up, down = torch._standard_gamma(torch.tensor([4 / most, 4 - 4 / most]), generator=generator).tolist()
    return most * up / (up + down) if up + down else 1.0
