"""How sure a mean is: the 95 % interval of a few seeds, of texts, of a share of counts."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

from torch import Tensor


class Interval(NamedTuple):
    """A mean, and the interval round it that holds the true one in 95 of 100 such experiments."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the width: the number behind ±."""
        return (self.high - self.low) / 2

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside, so that the sign of the mean may be told."""
        return self.low > 0 or self.high < 0


def interval(values: Sequence[float] | Tensor, *, level: float = 0.95) -> Interval:
    """The mean of a few numbers, such as one for each seed, with its interval by Student's t.

    mean ± t · s / √n, with s the deviation of the n values (n − 1 below the line) and t the point of Student's law
    with n − 1 degrees of freedom. A difference between two methods that ran on the same seeds or texts is an interval
    of the *differences*: what the seeds have in common then drops out.

    Args:
        values: ``[n]`` numbers, independent of each other, n ≥ 2.
        level: how often the interval holds the true mean.

    Raises:
        ValueError: if there are fewer than two values, one is not finite, they are not in one row, or ``level`` does
            not lie between 0 and 1.
    """
    if isinstance(values, Tensor):
        if values.ndim != 1:
            raise ValueError(f"values must be one row of numbers, [n]; got the shape {tuple(values.shape)}")
        values = values.double().tolist()
    numbers = [float(value) for value in values]
    if len(numbers) < 2:
        raise ValueError(f"an interval needs 2 values or more; got {len(numbers)}")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"values must be finite; got {[value for value in numbers if not math.isfinite(value)][:3]}")
    mean, half = fmean(numbers), student(len(numbers) - 1, level=level) * stdev(numbers) / math.sqrt(len(numbers))
    return Interval(mean, mean - half, mean + half)


def wilson(hits: int, trials: int, *, level: float = 0.95) -> Interval:
    """A share of counts, ``hits`` of ``trials``, with its interval by Wilson's formula.

    (q + z²/2n ± z √(q (1 − q) / n + z²/4n²)) / (1 + z²/n), with q the share, n the trials and z the normal point
    (Wilson 1927, Journal of the American Statistical Association 22, p. 209). Unlike q ± z √(q (1 − q) / n) it stays
    within 0 … 1, and does not shrink to a point at none or all.

    Raises:
        ValueError: if not 0 ≤ hits ≤ trials, there are no trials, or ``level`` does not lie between 0 and 1.
    """
    if trials < 1 or not 0 <= hits <= trials:
        raise ValueError(f"need 0 <= hits <= trials and trials >= 1; got {hits} of {trials}")
    share, z = hits / trials, _normal(level)
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    low, high = ((middle + sign * half) / (1 + z * z / trials) for sign in (-1, 1))
    return Interval(share, max(0.0, min(low, share)), min(1.0, max(high, share)))


def student(freedom: int, *, level: float = 0.95) -> float:
    """The t with P(|T| ≤ t) = ``level`` for Student's T with ``freedom`` degrees of freedom.

    Raises:
        ValueError: if ``freedom`` is below 1 or ``level`` does not lie between 0 and 1.
    """
    z = _normal(level)
    if freedom < 1:
        raise ValueError(f"need 1 degree of freedom or more; got {freedom}")
    if freedom > 400:  # the first terms of the expansion in 1 / freedom, Abramowitz and Stegun 26.7.5
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    low, high = 0.0, math.pi / 2  # of θ, where t = √freedom · tan θ
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(theta: float, freedom: int) -> float:
    # P(|T| ≤ √freedom tan θ), a finite sum: Abramowitz and Stegun 26.7.3 (odd) and 26.7.4 (even)
    odd = freedom % 2
    if freedom == 1:
        return 2 * theta / math.pi
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for k in range(odd, freedom, 2):  # the powers of cos θ are k: 1, 3, … or 0, 2, …, up to freedom − 2
        if k > odd:
            term *= math.cos(theta) ** 2 * (k - 1) / k
        if k <= freedom - 2:
            total += term
    total *= math.sin(theta)
    return 2 / math.pi * (theta + total) if odd else total


def _normal(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)
