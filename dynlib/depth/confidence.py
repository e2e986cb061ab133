"""How sure an exit is of its logits, and from where on that is enough.

A confidence c is a number for each sample, from 0 to 1; with thresholds λ a sample leaves at the first exit i with
cᵢ ≥ λᵢ, or at the last.

Source: arXiv:2207.07061 (difference of the top two).
"""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dynlib.inputs import check_logits, check_tensor, check_top, widen
from dynlib.transforms import look

Confidence = Callable[[Tensor], Tensor] | Literal["max_probability", "softmax_diff", "negative_entropy"]
"""Logits [..., classes] to how sure they are [...], never negative, and 1 at most: a function, or the name of one here.

"softmax_diff", the name in CALM, is :func:`margin`.
"""

Threshold = float | int | Sequence[float | int] | Tensor
"""One number for all early exits, or one for each of them."""


def confidence_function(confidence: Confidence | None) -> Callable[[Tensor], Tensor]:
    """The function that a confidence is, or that it names; :func:`max_probability` if left out.

    Raises:
        ValueError: if there is none of that name.
    """
    known = {"max_probability": max_probability, "softmax_diff": margin, "negative_entropy": negative_entropy}
    if confidence is None:
        return max_probability
    if callable(confidence):
        return confidence
    if not isinstance(confidence, str) or confidence not in known:
        names = ", ".join(map(repr, known))
        raise ValueError(f"confidence must be a function of logits, or one of {names}; got {confidence!r}")
    return known[confidence]


def max_probability(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """How likely the likeliest class is, max softmax(logits): from 1 / classes, all alike, to 1.

    In float32, or float64 if the logits are. The probability is the model's own word: it holds as a rate of right
    answers only if the model is calibrated.

    Raises:
        TypeError: if the logits are not floating-point.
        ValueError: if there are fewer than two classes or no logits, one is NaN or +inf, or all of a row are −inf.
    """
    return _check_confidence(logits).softmax(-1).amax(-1)


def margin(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """How much likelier the likeliest class is than the next, p₁ − p₂: from 0, a tie, to 1; "softmax_diff" in CALM.

    Result and errors as in :func:`max_probability`.
    """
    top = _check_confidence(logits).softmax(-1).topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def negative_entropy(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """How far from undecided, 1 − H(p) / log classes with H = −Σ p log p: from 0, all classes alike, to 1, one alone.

    Result and errors as in :func:`max_probability`.
    """
    p = _check_confidence(logits).softmax(-1)
    share = torch.special.entr(p).sum(-1) / math.log(p.shape[-1])
    return (1 - share).clamp(0, 1)  # rounding alone leaves [0, 1], and below 0 even λ = 0 would not be reached


def exit_index(confidence: Float[Tensor, "exits batch"], threshold: Threshold) -> Int[Tensor, " batch"]:
    """Where every sample leaves, given how sure each exit is of it: min { i : cᵢ ≥ λᵢ }, or the last.

    It is an index, from 0, into the first dimension of ``confidence``, and into ``MultiExit.exits``. With the
    confidences of all exits at hand, a sweep over thresholds costs no further run of the model.

    Args:
        confidence: of all exits; that of the last one is not asked.
        threshold: as in :meth:`dynlib.depth.MultiExit.predict`.

    Raises:
        TypeError: if ``confidence`` is no tensor, or a threshold no number.
        ValueError: if ``confidence`` is not [exits, batch], one of them 0, or NaN somewhere; or if a threshold is
            negative or NaN, or they are not as many as the early exits.
    """
    check_tensor(confidence, "confidence")
    if confidence.ndim != 2 or confidence.numel() == 0:
        raise ValueError(f"confidence must be [exits, batch], neither of them 0; got {tuple(confidence.shape)}")
    limits = check_threshold(threshold, len(confidence) - 1)
    check_sure(confidence, confidence[..., None])
    early = [is_enough(sure, limit) for sure, limit in zip(confidence, limits, strict=False)]
    enough = torch.stack([*early, torch.ones_like(confidence[-1], dtype=torch.bool)])
    # the first of several largest
    return enough.int().argmax(0)


def is_enough(sure: Tensor, limit: float) -> Tensor:
    """c ≥ λ, exactly: λ rounded to the confidence's own numbers, and up, as a λ just above 1 is still above 1."""
    wide = widen(sure)
    floor = torch.tensor(limit, dtype=wide.dtype, device="cpu")
    if floor.item() < limit:
        floor = floor.nextafter(torch.full_like(floor, math.inf))
    return wide >= floor.item()


def check_threshold(threshold: Threshold, early: int) -> list[float]:
    """One float for each of the ``early`` exits.

    Raises:
        TypeError: if a threshold is no number.
        ValueError: if one is negative or NaN, or they are not as many as the early exits.
    """
    try:
        given: Any = threshold.tolist() if isinstance(threshold, Tensor) else threshold
        limits = [float(limit) for limit in ([given] if isinstance(given, Real) else given)]
    except (TypeError, ValueError) as error:
        raise TypeError(f"threshold must be a number, or one for each early exit; got {threshold!r}") from error
    if not all(limit >= 0 for limit in limits):  # NaN is not
        raise ValueError(
            f"a threshold must be 0 or more, as confidences are from 0 to 1; got {limits}. Above 1 nobody leaves early"
        )
    if isinstance(given, Real):
        return limits * early
    if len(limits) != early:
        raise ValueError(
            f"there must be one threshold, or one for each of the {early} early exits; got {len(limits)}. The last "
            "exit has none: it takes all who are left"
        )
    return limits


def check_sure(sure: Tensor, logits: Tensor) -> None:
    """Raises ValueError for a confidence that is not one number, and no NaN, for each sample of the logits."""
    if sure.shape != logits.shape[:-1]:
        raise ValueError(
            f"the confidence of logits {tuple(logits.shape)} must be {tuple(logits.shape[:-1])}, a number for each "
            f"sample on its own; got {tuple(sure.shape)}"
        )
    look(_check_no_nan, sure)


def _check_no_nan(sure: Tensor) -> None:
    if sure.isnan().any():
        raise ValueError("a confidence is NaN: look for NaN in the input or the weights")


def _check_confidence(logits: Tensor) -> Tensor:
    """The logits in float32 or wider, if they are of at least two classes and make a distribution."""
    check_logits(logits, -1)
    if logits.shape[-1] < 2:
        raise ValueError(f"confidence compares classes, and needs two or more; got logits {tuple(logits.shape)}")
    check_top(logits.detach().amax(-1))
    return widen(logits)
