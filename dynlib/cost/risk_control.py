"""Choose a threshold with a promise: learn, then test.

A *risk* is the mean of a loss between 0 and 1 over all inputs there will ever be, R(λ) = E Lλ. A handful of calibration
points shows only an estimate R̂(λ). Taking the most daring λ with R̂(λ) ≤ δ breaks the promise R(λ) ≤ δ about as often as
it keeps it. Testing keeps it: for every λ ask how likely so small an R̂ would be if the risk were above δ,

    Hλ : R(λ) > δ,    p(λ) with P(p(λ) ≤ u) ≤ u for all u if Hλ is true,

and reject Hλ where p(λ) ≤ ε. Many tests at level ε would err more often than ε in all. Tests *in a fixed order that
stop at the first failure* do not, because an error needs the first true Hλ to be rejected, and that has probability ε
at most. So go from the safest λ to the more daring, and take the last one that was rejected:

    P(R(λ̂) ≤ δ) ≥ 1 − ε,    over the draw of the calibration points.

Three p-values, with k = n R̂ the sum of n losses:

- losses 0 or 1, exact:      p = P(Binomial(n, δ) ≤ k)
- Hoeffding–Bentkus:         p = min( exp(−n h(min(R̂, δ), δ)), e · P(Binomial(n, δ) ≤ ⌈k⌉) ),
                             h(a, b) = a log(a / b) + (1 − a) log((1 − a) / (1 − b))
- Hoeffding, the plain one:  p = exp(−2 n max(δ − R̂, 0)²)

What the promise needs: points drawn as the inputs to come will be, each on its own; thresholds, δ and ε fixed before
the losses were seen; a model that was not trained on the points.

For early exit the loss that counts what leaving early breaks is 1 where the exit's answer is wrong and the full model's
right, else 0. Its mean is at least the difference of the two error rates.

Source: arXiv:2110.01052 (Theorem 1 and Proposition 2; fixed-sequence testing), arXiv:2207.07061 (for early exit).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from dynlib.inputs import check_name, check_number, check_tensor, check_whole
from dynlib.transforms import double

Test = Literal["binomial", "hoeffding-bentkus", "hoeffding"]


@dataclass(frozen=True)
class Certificate:
    """What :func:`learn_then_test` found. Printed, it is a sentence."""

    threshold: float | None
    """The most daring certified threshold; None if not even the safest one is."""
    index: int | None
    """Which one that is, from 0."""
    p_values: Float[Tensor, " thresholds"]
    """Of all thresholds, also of those that were not tested, in float64, on the CPU."""
    risks: Float[Tensor, " thresholds"]
    """The mean losses R̂, in float64, on the CPU."""
    tested: int
    """How many thresholds were tested: the certified ones, and the one that failed if one did."""
    test: Test
    """How the p-values were computed."""
    points: int
    """Calibration points that were given."""
    needed: int
    """Calibration points without which this test certifies nothing, even if every loss is 0."""
    delta: float
    """The risk that was to be kept."""
    epsilon: float
    """How often, at most, a certificate is wrong."""

    def __str__(self) -> str:
        if self.threshold is not None:
            return (
                f"threshold {self.threshold:g}: risk at most {self.delta:g} with confidence {1 - self.epsilon:g}, from "
                f"{self.points} calibration points"
            )
        if self.points < self.needed:
            return (
                f"nothing can be certified with {self.points} calibration points: risk at most {self.delta:g} with "
                f"confidence {1 - self.epsilon:g} needs at least {self.needed}, even if every loss is 0"
            )
        return (
            f"nothing is certified: the safest threshold has mean loss {self.risks[0].item():.3g} on {self.points} "
            f"calibration points, too much for risk at most {self.delta:g} with confidence {1 - self.epsilon:g}"
        )


def learn_then_test(
    losses: Real[Tensor, "points thresholds"] | Bool[Tensor, "points thresholds"],
    thresholds: Sequence[float | int] | Float[Tensor, " thresholds"],
    delta: float,
    epsilon: float,
    *,
    test: Test | None = None,
) -> Certificate:
    """The most daring threshold whose risk is at most ``delta``, wrong with probability ``epsilon`` at most.

    Args:
        losses: of every calibration point at every threshold, from 0 to 1.
        thresholds: from the safest, the largest, to the most daring: strictly falling. For a knob that is safest when
            small, give its negatives.
        delta: the risk to keep, between 0 and 1, in units of the loss.
        epsilon: how often the promise may fail, between 0 and 1.
        test: which p-value. If left out, "binomial" where all losses are 0 or 1, else "hoeffding-bentkus". Name the
            latter if a loss can be a fraction and just happens not to be: "binomial" is no test for fractions.

    Returns:
        the certificate. Its ``threshold`` is None if nothing is certified, and printing it says why.

    Raises:
        TypeError: if the losses are no tensor, or a threshold, ``delta`` or ``epsilon`` is no number.
        ValueError: if there are no points or no thresholds, their numbers do not agree, a loss is NaN or outside
            [0, 1], the thresholds are NaN or do not fall, ``delta`` or ``epsilon`` is not strictly between 0 and 1, the
            test has another name, or it is "binomial" and a loss is a fraction.
    """
    order = _check_thresholds(thresholds)
    values = _check_losses(losses, len(order))
    for name, value in (("delta", delta), ("epsilon", epsilon)):
        if not 0 < check_number(name, value) < 1:
            raise ValueError(f"{name} is a risk or probability strictly between 0 and 1; got {value}: 10 % is 0.1")
    whole = bool(((values == 0) | (values == 1)).all())
    if test is None:
        test = "binomial" if whole else "hoeffding-bentkus"
    check_name("test", test, ("binomial", "hoeffding-bentkus", "hoeffding"))
    if test == "binomial" and not whole:
        raise ValueError("the binomial test is for losses of 0 and 1, and one is a fraction: use 'hoeffding-bentkus'")

    points = len(values)
    p = _p_values(values.sum(0), points, delta, test)
    failures = (p > epsilon).nonzero()
    certified = int(failures[0]) if len(failures) else len(order)  # all before the first failure
    return Certificate(
        threshold=order[certified - 1] if certified else None,
        index=certified - 1 if certified else None,
        p_values=p,
        risks=values.mean(0),
        tested=min(certified + 1, len(order)),
        test=test,
        points=points,
        needed=_needed(delta, epsilon, test),
        delta=float(delta),
        epsilon=float(epsilon),
    )


def binomial_cdf(successes: Int[Tensor, "*shape"], trials: int, probability: float) -> Float[Tensor, "*shape"]:
    """P(Binomial(trials, probability) ≤ successes), in float64, on the CPU.

    Args:
        successes: 0 … ``trials``.
        trials: at least 1.
        probability: strictly between 0 and 1.

    Raises:
        TypeError: if the successes are no tensor, or one of the others no number.
        ValueError: if one of them is outside its range.
    """
    check_tensor(successes, "successes")
    check_whole("trials", trials)
    if trials < 1 or not 0 < probability < 1:
        raise ValueError(f"need at least 1 trial and a probability between 0 and 1; got {trials} and {probability}")
    if successes.numel() and not (successes.min() >= 0 and successes.max() <= trials):
        raise ValueError(f"successes must be 0 … {trials}; got {int(successes.min())} … {int(successes.max())}")
    j = torch.arange(trials + 1, dtype=torch.float64)
    # log P(j) = log trials! − log j! − log (trials − j)! + j log q + (trials − j) log(1 − q)
    log_mass = math.lgamma(trials + 1) - (j + 1).lgamma() - (trials - j + 1).lgamma()
    log_mass += j * math.log(probability) + (trials - j) * math.log1p(-probability)
    # Σ P(j) over j ≤ k, without leaving the logarithm, where the far tail would be 0
    return log_mass.logcumsumexp(0).clamp(max=0).exp()[successes.cpu()]


def _p_values(sums: Tensor, points: int, delta: float, test: Test) -> Tensor:
    if test == "binomial":
        # p = P(Binomial(n, δ) ≤ k)
        return binomial_cdf(sums.round().long(), points, delta)
    risk = (sums / points).clamp(max=delta)  # R̂, or δ where it is above, so that p is 1
    if test == "hoeffding":
        # p = exp(−2 n (δ − R̂)²)
        return (-2 * points * (delta - risk) ** 2).exp()
    # h(R̂, δ) = R̂ log(R̂ / δ) + (1 − R̂) log((1 − R̂) / (1 − δ)), and 0 log 0 = 0
    h = torch.xlogy(risk, risk / delta) + torch.xlogy(1 - risk, (1 - risk) / (1 - delta))
    # e · P(Binomial(n, δ) ≤ ⌈k⌉)
    bentkus = math.e * binomial_cdf(sums.ceil().long(), points, delta)
    return torch.minimum((-points * h).exp(), bentkus).clamp(max=1)


def _needed(delta: float, epsilon: float, test: Test) -> int:
    """The least n for which n losses of 0 have p ≤ ε."""
    # Hoeffding: exp(−2 n δ²) ≤ ε. The others: (1 − δ)ⁿ ≤ ε
    rate = 2 * delta**2 if test == "hoeffding" else -math.log1p(-delta)
    n = max(1, math.ceil(-math.log(epsilon) / rate) - 1)  # rounding may have added one
    while _p_values(torch.zeros(1, dtype=torch.float64), n, delta, test).item() > epsilon:
        n += 1
    return n


def _check_thresholds(thresholds: Sequence[float | int] | Tensor) -> list[float]:
    try:
        order = [float(threshold) for threshold in thresholds]
    except (TypeError, ValueError) as error:
        raise TypeError(f"thresholds must be a sequence of numbers; got {thresholds!r}") from error
    if not order:
        raise ValueError("there is no threshold to test: give at least one")
    if any(math.isnan(threshold) for threshold in order):
        raise ValueError(f"a threshold is NaN: {order}")
    if not all(a > b for a, b in pairwise(order)):
        raise ValueError(
            "thresholds must fall strictly, from the safest to the most daring, because testing stops at the first "
            f"failure; got {order}: turn them round, and the columns of the losses with them"
        )
    return order


def _check_losses(losses: Tensor, thresholds: int) -> Tensor:
    check_tensor(losses, "losses")
    if losses.ndim != 2 or losses.shape[1] != thresholds:
        raise ValueError(
            f"losses must be [points, thresholds] with {thresholds} thresholds; got shape {tuple(losses.shape)}"
        )
    if len(losses) == 0:
        raise ValueError("there are no calibration points: without data nothing can be certified")
    if losses.is_complex():
        raise ValueError("losses must be real numbers")
    values = double(losses.detach().cpu())  # not every device has float64
    if not ((values >= 0) & (values <= 1)).all():  # NaN is neither
        raise ValueError(
            f"losses must lie in [0, 1]; got {values.min().item():g} … {values.max().item():g}: rescale them, and "
            "delta with them"
        )
    return values
