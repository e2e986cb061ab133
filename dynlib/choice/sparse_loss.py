"""The losses of sparsemax and α-entmax, as cross entropy is softmax's.

With the Ω of :mod:`dynlib.choice.sparse`, of which α-entmax is p(s) = argmaxₚ ⟨p, s⟩ − Ω(p), it is the *Fenchel–Young
loss* of Ω,

    L(s, y) = Ω(y) + maxₚ (⟨p, s⟩ − Ω(p)) − ⟨s, y⟩,    ∂L/∂s = p − y.

It is never negative, and 0 just where p = y: for a certain y as soon as its score leads all others by 1 / (α − 1).
What holds of impossible choices, half precision and second derivatives there, holds here.

Source: arXiv:1901.02324.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dynlib.choice.sparse import below_top, curvature, less_one, probabilities, rows_of
from dynlib.inputs import DTYPES, check_logits, check_tensor, widen
from dynlib.transforms import BatchedFunction, FirstDerivative, look


def sparsemax_loss(
    logits: Float[Tensor, "..."], target: Int[Tensor, "..."] | Float[Tensor, "..."], *, dim: int = -1
) -> Float[Tensor, "..."]:
    """The loss of :func:`dynlib.choice.sparsemax`, one for each row: :func:`entmax_loss` with α = 2."""
    return entmax_loss(logits, target, 2, dim=dim)


def entmax15_loss(
    logits: Float[Tensor, "..."], target: Int[Tensor, "..."] | Float[Tensor, "..."], *, dim: int = -1
) -> Float[Tensor, "..."]:
    """The loss of :func:`dynlib.choice.entmax15`, one for each row: :func:`entmax_loss` with α = 1.5."""
    return entmax_loss(logits, target, 1.5, dim=dim)


def entmax_loss(
    logits: Float[Tensor, "..."],
    target: Int[Tensor, "..."] | Float[Tensor, "..."],
    alpha: float | int | Float[Tensor, "..."],
    *,
    dim: int = -1,
) -> Float[Tensor, "..."]:
    """The Fenchel–Young loss of :func:`dynlib.choice.entmax`, one for each row, differentiable in the logits and in α.

    With α = 1 and class indices it is cross entropy; with probabilities, the Kullback–Leibler divergence from them.

    Args:
        logits, alpha, dim: as in :func:`dynlib.choice.entmax`.
        target: int64 class indices, in the shape of ``logits`` without ``dim``; or probabilities, in their whole shape.
            It gets no gradient.

    Returns:
        nats, not negative, in the dtype of ``logits`` and their shape without ``dim``; +inf where the target is
        impossible.

    Raises:
        TypeError: as in :func:`dynlib.choice.entmax`, or if the target has another dtype.
        ValueError: as in :func:`dynlib.choice.entmax`, or if the target has another shape, is out of range, is not a
            distribution, or requires a gradient.
    """
    check_logits(logits, dim)
    scores = widen(logits).movedim(dim, -1)
    losses, _ = _Loss.apply(scores, _distribution(target, logits, dim), rows_of(alpha, logits, dim))
    return losses.to(logits.dtype)


# ---- along the last dimension


class _Loss(BatchedFunction):
    batch_in, batch_out = (0, 0, 0), (0, 0)

    @staticmethod
    def forward(scores: Tensor, y: Tensor, alpha: float | Tensor) -> tuple[Tensor, Tensor]:
        p = probabilities(scores, alpha)
        alpha = torch.as_tensor(alpha, dtype=p.dtype, device=p.device)
        # Σᵢ yᵢ (lnₐ yᵢ − (sᵢ − λ)) + (pᵢ^α − yᵢ^α) / α,    lnₐ x = (x^a − 1) / a,    λ = s − lnₐ p of the largest
        gap = _log(y, alpha) - (below_top(scores) + _log(p.amax(-1, keepdim=True), alpha))
        terms = torch.where(y > 0, y * gap, 0) + (p**alpha - y**alpha) / alpha
        return terms.clamp_min_(0).sum(-1), p  # none is below 0, but by rounding

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        scores, y, alpha = inputs
        ctx.mark_non_differentiable(output[1])
        kept = scores, output[1], y, torch.as_tensor(alpha, dtype=y.dtype, device=y.device)
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def jvp(ctx: Any, by_scores: Tensor | None, _: Tensor | None, by_alpha: Tensor | None) -> tuple[Tensor, None]:
        scores, p, y, alpha = ctx.saved_tensors
        slope, slope_alpha = _LossSlope.apply(scores, p, y, alpha, torch.ones_like(p[..., :1]), by_alpha is not None)
        moved = torch.zeros_like(slope) if by_scores is None else slope * by_scores
        return moved.sum(-1) + (0 if by_alpha is None else (slope_alpha * by_alpha).sum(-1)), None

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, Tensor | None]:
        scores, p, y, alpha = ctx.saved_tensors
        by_scores, by_alpha = _LossSlope.apply(scores, p, y, alpha, grad.unsqueeze(-1), ctx.needs_input_grad[2])
        return by_scores, None, by_alpha if ctx.needs_input_grad[2] else None


class _LossSlope(FirstDerivative):
    """The loss's gradient in the scores and, if that is ``asked``, in α."""

    batch_in, batch_out = (0, 0, 0, 0, 0, 0), (0, 0)

    @staticmethod
    def forward(
        scores: Tensor, p: Tensor, y: Tensor, alpha: Tensor, grad: Tensor, asked: bool
    ) -> tuple[Tensor, Tensor]:
        by_alpha = grad * (_slope(y, alpha) - _slope(p, alpha)) if asked else torch.zeros_like(grad)
        return grad * (p - y), by_alpha


def _log(p: Tensor, alpha: Tensor) -> Tensor:
    """lnₐ p = (p^a − 1) / a, log p at a → 0."""
    a = less_one(alpha)
    return (a * p.clamp_min(torch.finfo(p.dtype).tiny).log()).expm1() / a


def _slope(p: Tensor, alpha: Tensor) -> Tensor:
    """∂Ω(p)/∂α = Σᵢ pᵢ (log²pᵢ ψ(−a log pᵢ) − lnₐ pᵢ / α) / α, from Ω(p) = Σᵢ pᵢ lnₐ pᵢ / α."""
    return (p * (curvature(p, alpha) - _log(p, alpha) / alpha)).sum(-1, keepdim=True) / alpha


def _distribution(target: Tensor, logits: Tensor, dim: int) -> Tensor:
    """The target as probabilities along the last dimension, one-hot where it is an index."""
    p = widen(logits.detach()).movedim(dim, -1)
    check_tensor(target, "the target")
    if target.dtype == torch.int64:
        kind, shape = "class indices", p.shape[:-1]
    elif target.dtype in DTYPES:
        kind, shape = "target probabilities", logits.shape
    else:
        raise TypeError(f"a target holds int64 indices or floating-point probabilities; got {target.dtype}")
    if target.shape != shape:
        raise ValueError(
            f"{kind} for logits of shape {tuple(logits.shape)} along dimension {dim} must have the shape "
            f"{tuple(shape)}; got {tuple(target.shape)}"
        )
    if target.dtype == torch.int64:
        look(partial(_check_indices, classes=p.shape[-1]), target)
        return torch.zeros_like(p).scatter(-1, target.unsqueeze(-1), 1)
    if target.requires_grad:
        raise ValueError("a target gets no gradient: use target.detach()")
    y = target.to(p.dtype).movedim(dim, -1)
    look(partial(_check_sums, rounding=torch.finfo(target.dtype).eps ** 0.5, dim=dim), y)
    return y


def _check_indices(target: Tensor, classes: int) -> None:
    if target.min() < 0 or target.max() >= classes:
        raise ValueError(f"class indices must be 0 to {classes - 1}; got {target.min()} to {target.max()}")


def _check_sums(y: Tensor, rounding: float, dim: int) -> None:
    """Of probabilities along the last dimension, which is the caller's ``dim``."""
    sums = y.sum(-1)
    if not ((y >= 0).all() and ((sums - 1).abs() <= rounding).all()):  # False for NaN too
        raise ValueError(
            f"target probabilities must not be negative and must sum to 1 along dimension {dim}; got a smallest of "
            f"{y.min().item():g} and sums from {sums.min().item():g} to {sums.max().item():g}"
        )
