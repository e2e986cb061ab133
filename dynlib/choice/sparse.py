"""Softmax with exact zeros: sparsemax, 1.5-entmax, and every α-entmax in between and beyond.

One family, by a number α ≥ 1. Of all distributions p over the choices it takes the one that balances score and spread,

    entmax_α(s) = argmaxₚ ⟨p, s⟩ − Ω(p),    Ω(p) = Σᵢ (pᵢ^α − pᵢ) / (α (α − 1)),

so that, with a = α − 1 and the one number λ for which the probabilities sum to 1,

    pᵢ = (1 + a (sᵢ − λ))₊^(1/a).

At α → 1 that is exp(s − λ), softmax; α = 2 is sparsemax, the nearest distribution to s. With α > 1 a choice more than
1 / a below the best gets probability 0, exactly. All have one gradient: with the weights qᵢ = pᵢ^(2 − α) where pᵢ > 0,
and 0 elsewhere,

    ∂pᵢ/∂sⱼ = qᵢ [i = j] − qᵢ qⱼ / Σ q.

The losses that belong to them stand in :mod:`dynlib.choice.sparse_loss`.

What holds of everything below: −inf is the logit of an impossible choice, which gets probability 0 and gradient 0;
float16 and bfloat16 are widened to float32 inside, and rounded once, at the end; a second derivative is refused, not
wrong.

Source: arXiv:1602.02068 (sparsemax), arXiv:1905.05702 (α-entmax, and 1.5 by sorting), arXiv:1909.00015 (the gradient in
α).
"""

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dynlib.inputs import check_dtype, check_logits, check_top, widen
from dynlib.transforms import BatchedFunction, FirstDerivative, look


def sparsemax(logits: Float[Tensor, "*shape"], *, dim: int = -1) -> Float[Tensor, "*shape"]:
    """The distribution nearest to the logits, entmax with α = 2, exact by sorting; Alg. 1 of arXiv:1602.02068.

    Args:
        logits: scores of the choices; −inf where one is impossible.
        dim: the dimension of the choices.

    Returns:
        probabilities in the shape and dtype of ``logits``, that sum to 1 along ``dim``.

    Raises:
        TypeError: if the logits are not of a floating-point dtype.
        ValueError: if there are no logits or no such dimension, one is NaN or +inf, or a row is −inf throughout.
    """
    return entmax(logits, 2, dim=dim)


def entmax15(logits: Float[Tensor, "*shape"], *, dim: int = -1) -> Float[Tensor, "*shape"]:
    """Entmax with α = 1.5, half way from softmax to sparsemax, exact by sorting; Alg. 2 of arXiv:1905.05702.

    Arguments, result and errors as in :func:`sparsemax`.
    """
    return entmax(logits, 1.5, dim=dim)


def entmax(
    logits: Float[Tensor, "*shape"], alpha: float | int | Float[Tensor, "..."], *, dim: int = -1
) -> Float[Tensor, "*shape"]:
    """α-entmax for any finite α ≥ 1, differentiable in the logits and in α.

    Args:
        logits: as in :func:`sparsemax`.
        alpha: 1 is softmax, 2 is sparsemax, larger is sparser. A tensor that broadcasts against ``logits``, with size 1
            along ``dim``, gives each row or head its own, which can be learned: as 1 + softplus(x), for one.
        dim: the dimension of the choices.

    Raises:
        TypeError: as in :func:`sparsemax`, or if ``alpha`` is neither a number nor a floating-point tensor.
        ValueError: as in :func:`sparsemax`, or if an α is below 1, infinite or NaN, or their shape does not fit.
    """
    check_logits(logits, dim)
    scores = widen(logits).movedim(dim, -1)
    return _Entmax.apply(scores, rows_of(alpha, logits, dim)).movedim(-1, dim).to(logits.dtype)


# ---- the probabilities, along the last dimension


class _Entmax(BatchedFunction):
    batch_in, batch_out = (0, 0), 0

    @staticmethod
    def forward(scores: Tensor, alpha: float | Tensor) -> Tensor:
        return probabilities(scores, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        alpha = inputs[1]
        ctx.number, rows = (None, alpha) if isinstance(alpha, Tensor) else (alpha, None)
        ctx.save_for_backward(output, rows)
        ctx.save_for_forward(output, rows)

    @staticmethod
    def jvp(ctx: Any, by_scores: Tensor | None, by_alpha: Tensor | None) -> Tensor:
        p, alpha = ctx.saved_tensors
        # J is symmetric, and ∂p/∂α = −J c
        moved = torch.zeros_like(p) if by_scores is None else by_scores
        if by_alpha is not None:
            moved = moved - curvature(p, alpha) * by_alpha
        slope: Tensor = _Slope.apply(p, moved, ctx.number if alpha is None else alpha)
        return slope

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        p, alpha = ctx.saved_tensors
        by_scores: Tensor = _Slope.apply(p, grad, ctx.number if alpha is None else alpha)
        if not ctx.needs_input_grad[1]:
            return by_scores, None
        # ∂p/∂α = −J c,    cᵢ = log²pᵢ ψ(−a log pᵢ)
        return by_scores, -(curvature(p, alpha) * by_scores).sum(-1, keepdim=True)


class _Slope(FirstDerivative):
    """J grad, of probabilities p with their α."""

    batch_in, batch_out = (0, 0, 0), 0

    @staticmethod
    def forward(p: Tensor, grad: Tensor, alpha: float | Tensor) -> Tensor:
        # qᵢ = pᵢ^(2 − α) where pᵢ > 0
        if not isinstance(alpha, Tensor):
            q = {1: p.clone, 1.5: p.sqrt, 2: p.sign}[alpha]()
        else:  # huge where α > 2 and p is small: kept below the square root of the largest number
            q = torch.where(p > 0, (p ** (2 - alpha)).clamp_(max=torch.finfo(p.dtype).max ** 0.5), 0)
            # J gives 0 for a constant. With 0 for the largest q, that q does not drown the others in ⟨q, grad⟩.
            grad = grad - grad.gather(-1, q.argmax(-1, keepdim=True))
        # J grad = q ∘ (grad − ⟨q, grad⟩ / Σ q). What comes in where q = 0 is not looked at, be it infinite.
        by_scores = torch.ops.aten.threshold_backward(grad, q, 0).mul_(q)
        mean = by_scores.sum(-1, keepdim=True) / q.sum(-1, keepdim=True)
        return by_scores.addcmul_(q, mean, value=-1)


def probabilities(scores: Tensor, alpha: float | Tensor) -> Tensor:
    """α-entmax along the last dimension, without a gradient; α as :func:`rows_of` gives it."""
    x = below_top(scores)
    if isinstance(alpha, Tensor):
        return _of_any(x, alpha)
    return {1: lambda s: s.softmax(-1), 1.5: _of_one_and_a_half, 2: _of_two}[alpha](x)


def below_top(scores: Tensor) -> Tensor:
    """Scores minus the largest of their row: no probability changes, and nothing can overflow."""
    top = scores.amax(-1, keepdim=True)
    check_top(top)
    return scores - top


def _of_two(x: Tensor) -> Tensor:
    """Sparsemax. Overwrites x, which is 0 at the largest of a row, as in all that follows."""
    largest, ranks = _largest(x, 1)
    # k = max {j : 1 + j x₍ⱼ₎ > Σᵢ≤ⱼ x₍ᵢ₎},    τ = (Σᵢ≤ₖ x₍ᵢ₎ − 1) / k
    sums = largest.cumsum(-1)
    k = (1 + ranks * largest > sums).sum(-1, keepdim=True)
    tau = (sums.gather(-1, k - 1) - 1) / k
    return x.sub_(tau).relu_()


def _of_one_and_a_half(x: Tensor) -> Tensor:
    """1.5-entmax. Overwrites x."""
    x = x.div_(2)
    largest, ranks = _largest(x, 2)
    # τⱼ = mean − √(1/j − variance) of the j largest;    k = max {j : x₍ⱼ₎ ≥ τⱼ}
    mean = largest.cumsum(-1) / ranks
    variance = largest.square().cumsum(-1) / ranks - mean.square()
    taus = mean - (1 / ranks - variance).relu_().sqrt_()
    k = (largest >= taus).sum(-1, keepdim=True)
    return x.sub_(taus.gather(-1, k - 1)).relu_().square_()


def _largest(x: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """The largest of every row, sorted, and 1, 2, …: all that can be in the support, and of a long row little else.

    The threshold τ solves ‖(x − τ)₊‖ = 1 in the norm of this power. It is −1 at least. The norm falls with τ and is
    convex, so that a step of Newton's from below stays below, and two of them leave out most of what −1 lets in.
    """
    floor, margin = torch.full_like(x[..., :1], -1), torch.finfo(x.dtype).eps ** 0.5  # far more than any rounding
    for _ in range(2):
        # τ ← τ + (Σ rᵐ − (Σ rᵐ)^(1 − 1/m)) / Σ r^(m − 1),    r = (x − τ)₊ > 0
        r = (x - floor).relu_()
        slope = (r.sign() if power == 1 else r).sum(-1, keepdim=True)
        total = r.pow_(power).sum(-1, keepdim=True)
        floor += (total - total ** (1 - 1 / power)) / slope - margin
    largest = _above(x, floor, ordered=True)
    return largest, torch.arange(1, largest.shape[-1] + 1, dtype=x.dtype, device=x.device)


def _above(x: Tensor, floor: Tensor, *, ordered: bool) -> Tensor:
    """The largest of every row, as many as are above the floor in the row with most of them."""
    if torch.compiler.is_compiling() or x.is_meta:  # how many is not known there: all of them will do
        return x.sort(-1, descending=True).values if ordered else x
    count = int((x > floor).sum(-1, dtype=torch.int32).max())
    if 2 * count <= x.shape[-1]:
        return x.topk(count, -1, sorted=ordered).values
    return x.sort(-1, descending=True).values if ordered else x  # faster than to pick most of them


def _of_any(x: Tensor, alpha: Tensor) -> Tensor:
    """α-entmax with an α for each row, by its largest probability p₁, which keeps its digits for every α: log p₁ = w.

    For α ≤ 2 ‖(1 + a (x − λ))₊‖ in the norm of power 1/a is convex in λ: Newton's steps for norm = 1 come from one side
    and pass no root. For α > 2 it is no norm, and its slope may be infinite: halve an interval instead.
    """
    a, limits = less_one(alpha), torch.finfo(x.dtype)
    near = _above(x, -1 / a, ordered=False)
    size = math.log(near.shape[-1])
    w = high = torch.zeros_like(x[..., :1])
    low = high - size
    for _ in range(100):  # halving needs 56 in float64
        t = _beside_largest(near, w, a)
        r = (t.log1p() / a).exp_()
        total = r.sum(-1, keepdim=True)
        slope = (r / (1 + t).clamp_min_(limits.tiny)).sum(-1, keepdim=True)
        excess = w + total.log()  # log Σ p
        # w ← w + log(1 + (Σ r / Σ r^(1 − a)) ((Σ p)^−a − 1)) / a,    r = p / p₁ > 0
        newton = w + (total / slope * (-a * excess).expm1()).log1p() / a
        low, high = torch.where(excess < 0, w, low), torch.where(excess < 0, high, w)
        step = torch.where(a <= 1, newton, (low + high) / 2) - w
        w = w + step
        if x.is_meta or step.abs().max() <= 2 * limits.eps * (1 + size):
            break
    p = _beside_largest(x, w, a).log1p_().div_(a).exp_()
    return p / p.sum(-1, keepdim=True)


def _beside_largest(x: Tensor, w: Tensor, a: Tensor) -> Tensor:
    """t, with pᵢ = p₁ (1 + tᵢ)^(1/a): a xᵢ / p₁^a, and −1 where that is less."""
    scale = (a * (-a * w).exp()).clamp(max=torch.finfo(x.dtype).max)
    return (x * scale).clamp_min_(-1)


def less_one(alpha: Tensor) -> Tensor:
    """α − 1, and for α = 1 a number so small that the formulas give their limit to the last digit, but not 0 / 0."""
    return (alpha - 1).clamp_min(1e-20)


def curvature(p: Tensor, alpha: Tensor) -> Tensor:
    """log²p ψ(−a log p), with ψ(t) = (1 − (1 + t) e^−t) / t², which is ½ at t = 0."""
    log = p.clamp_min(torch.finfo(p.dtype).tiny).log()
    t = (-less_one(alpha) * log).clamp_min_(1e-15)
    # 1 − (1 + t) e^−t is the incomplete gamma function P(2, t), which has all its digits at small t too
    return log.square() * torch.special.gammainc(torch.full_like(t, 2), t) / t.square()


# ---- the arguments


def rows_of(alpha: float | int | Tensor, logits: Tensor, dim: int) -> float | Tensor:
    """1, 1.5 or 2 where α is that number; every other as one α for each row, as wide as the logits."""
    if not isinstance(alpha, Tensor):
        if not isinstance(alpha, float | int):
            raise TypeError(f"alpha must be a number or a tensor; got {type(alpha).__name__}: use float(alpha)")
        if alpha in (1, 1.5, 2):
            return float(alpha)
        alpha = torch.tensor(alpha, dtype=torch.float64)
    check_dtype(alpha)
    rows = list(logits.shape)
    rows[dim] = 1
    try:
        alpha = alpha.expand(rows)
    except RuntimeError:
        raise ValueError(
            f"alpha of shape {tuple(alpha.shape)} does not give one number to each row along dimension {dim} of logits "
            f"of shape {tuple(logits.shape)}: give it a shape that broadcasts to {tuple(rows)}"
        ) from None
    wide = torch.promote_types(logits.dtype, torch.float32)
    look(partial(_check_alpha, largest=torch.finfo(wide).max), alpha)
    return alpha.to(logits.device, wide).movedim(dim, -1)


def _check_alpha(alpha: Tensor, largest: float) -> None:
    if not ((alpha >= 1) & (alpha <= largest)).all():  # False for NaN too
        raise ValueError(
            f"alpha must be finite and at least 1; got {alpha.min().item()} to {alpha.max().item()}: 1 is softmax, 2 "
            "is sparsemax"
        )
