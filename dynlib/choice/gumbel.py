"""Choose one of k at random and still have a gradient: Gumbel noise, its maximum, its softmax, and straight-through.

The *Gumbel-max trick*: add independent Gumbel noise to the logits and take the largest,

    z = argmaxᵢ (sᵢ + uᵢ),    uᵢ = −log(−log Uᵢ),    Uᵢ uniform on (0, 1),

and z is distributed as softmax(s), exactly. The randomness no longer stands between s and the loss, the argmax does: it
is flat almost everywhere, so its gradient is zero. Two ways out, which combine:

- *relax* the argmax into a softmax of temperature τ, y = softmax((s + u) / τ), which nears the one-hot z as τ → 0;
- *straight-through*: hand on the hard choice, and give the gradient to the soft one.

τ is not part of the law of the choice. The largest of (s + u) / τ is the largest of s + u, so with the same noise every
τ chooses the same. It is part of the gradient alone.

What holds of everything below: −inf is the logit of an impossible choice, which gets probability 0 and gradient 0;
float16 and bfloat16 are widened to float32 inside, and rounded once, at the end; the noise depends on seed, shape and
device, not on the memory layout; a ``generator`` leaves torch's global one untouched; there is no training mode, noise
is there when one asks for it.

Source: arXiv:1411.0030 (the trick), arXiv:1611.01144 and arXiv:1611.00712 (the relaxation), arXiv:1308.3432
(straight-through).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dynlib.inputs import check_dtype, check_filled, check_logits, check_scale, check_tensor, check_top, widen
from dynlib.transforms import look


def gumbel_noise(like: Float[Tensor, "*shape"], *, generator: torch.Generator | None = None) -> Float[Tensor, "*shape"]:
    """Independent standard Gumbel noise, P(u ≤ x) = exp(−exp(−x)), of the shape, dtype and device of ``like``.

    Always finite, and with no ``log(U + ε)``, whose ε would cut the tails. On a CPU U is drawn with the 53 bits of
    float64: a float32 U has 24, so that its noise ends at 16.6 and its largest values are often equal. (It is also
    faster than the sampler of −log U that serves the other devices.)

    Args:
        like: gives shape, dtype and device; its values are not read.
        generator: where the randomness comes from; torch's global one if left out.

    Raises:
        TypeError: if ``like`` is not of a floating-point dtype named above.
        ValueError: if the generator lives on another device.
    """
    check_dtype(like)
    if generator is not None and generator.device.type != like.device.type:
        raise ValueError(
            f"the generator is on {generator.device} and the tensor on {like.device}: make one with "
            f"torch.Generator({like.device.type!r})"
        )
    dtype = torch.promote_types(like.dtype, torch.float32)
    # E = −log U. U = 0 or E = 0 would give an infinity: the smallest normal number stands in, and for zero alone.
    if like.device.type == "cpu":
        uniform = torch.empty_like(like, dtype=torch.float64, memory_format=torch.contiguous_format)
        uniform.uniform_(torch.finfo(torch.float64).tiny, 1, generator=generator)  # without its upper end
        exponential = uniform.log_().neg_().to(dtype)
    else:
        exponential = torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format)
        exponential.exponential_(generator=generator)
        exponential.clamp_min_(torch.finfo(dtype).tiny)
    # u = −log E
    return exponential.log_().neg_().to(like.dtype)


@torch.no_grad()
def gumbel_max(
    logits: Float[Tensor, "..."], *, dim: int = -1, generator: torch.Generator | None = None
) -> Int[Tensor, "..."]:
    """Exact samples of softmax(logits), one for each row along ``dim``, as indices.

    For n samples of the same logits expand them: ``gumbel_max(logits.expand(n, -1))``.

    Args:
        logits: unnormalised log-probabilities; −inf where a choice is impossible.
        dim: the dimension of the choices.
        generator: as in :func:`gumbel_noise`.

    Returns:
        int64 indices into ``dim``, with the shape of ``logits`` without ``dim``.

    Raises:
        TypeError: if the logits are not of a floating-point dtype.
        ValueError: if there are no logits or no such dimension, one is NaN or +inf, or a row is −inf throughout.
    """
    check_logits(logits, dim)
    # z = argmaxᵢ (sᵢ + uᵢ)
    top, choice = _perturb(logits, generator).max(dim)
    check_top(top)
    return choice


def straight_through(hard: Float[Tensor, "*shape"], soft: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The value of ``hard`` with the gradient of ``soft``.

    The brackets matter. Written as below the result equals a ``hard`` of zeros and ones to the bit, for every soft in
    [0, 1]: 0 − s and its sum with s are exact, and 1 − s is off by at most a quarter of the spacing above 1, which the
    sum rounds away. ``(hard + soft) − soft`` makes 0.99999994 of about every fourth one, which ``== 1`` does not find.

    Args:
        hard: what the forward pass sees. It gets no gradient.
        soft: what the backward pass sees: the gradient passes to it unchanged.

    Raises:
        TypeError: if the two differ in dtype, or it is no floating-point dtype.
        ValueError: if the two differ in shape.
    """
    check_dtype(hard)
    check_tensor(soft, "soft")
    if hard.dtype != soft.dtype:
        raise TypeError(f"hard and soft must have one dtype; got {hard.dtype} and {soft.dtype}: use hard.to(soft)")
    if hard.shape != soft.shape:
        raise ValueError(
            f"hard and soft must have one shape; got {tuple(hard.shape)} and {tuple(soft.shape)}: expand the smaller "
            "one if it is meant to be repeated"
        )
    return (hard.detach() - soft.detach()) + soft


def gumbel_softmax(
    logits: Float[Tensor, "*shape"],
    tau: float | int = 1.0,
    *,
    hard: bool = False,
    dim: int = -1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*shape"]:
    """A relaxed sample of softmax(logits), differentiable in the logits; Eq. 2 of arXiv:1611.01144.

    Args:
        logits: unnormalised log-probabilities; −inf where a choice is impossible.
        tau: the temperature. Small is close to one-hot, with large gradients at few places; large is close to uniform.
        hard: give the one-hot sample itself, exact to the bit, with the gradient of the relaxed one. With equal seeds
            it is the choice of :func:`gumbel_max`. Its zeros are zeros: do not take its logarithm.
        dim: the dimension of the choices.
        generator: as in :func:`gumbel_noise`.

    Returns:
        weights in the shape and dtype of ``logits``, not negative, that sum to 1 along ``dim``.

    Raises:
        TypeError: if the logits are not of a floating-point dtype, or ``tau`` is not a number.
        ValueError: as in :func:`gumbel_max`, or if ``tau`` is not positive and finite.
    """
    check_logits(logits, dim)
    check_scale("tau", tau)
    return _relaxed_argmax(_perturb(logits, generator), tau, hard=hard, dim=dim).to(logits.dtype)


def softmax_ste(logits: Float[Tensor, "*shape"], tau: float | int = 1.0, *, dim: int = -1) -> Float[Tensor, "*shape"]:
    """The likeliest choice as an exact one-hot, with the gradient of softmax(logits / τ). Nothing is random.

    The gradient of a loss through it is at τ = 1 that of the expected loss of choices drawn from softmax(logits) if the
    loss is linear, and another one in general. Of several largest logits the first is taken. Arguments and errors as in
    :func:`gumbel_softmax`.
    """
    check_logits(logits, dim)
    check_scale("tau", tau)
    return _relaxed_argmax(widen(logits), tau, hard=True, dim=dim).to(logits.dtype)


def gumbel_sigmoid(
    logits: Float[Tensor, "*shape"],
    tau: float | int = 1.0,
    *,
    hard: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*shape"]:
    """A relaxed yes or no for every logit on its own, P(yes) = σ(logit): the Gumbel-softmax of the pair (l, 0).

    Between two choices only the difference of their noises counts, and the difference of two Gumbels is *logistic*,
    log U − log(1 − U). With one Gumbel in its place P(yes) would be 1 − exp(−exp(l)), which is not ½ at l = 0.

    Args:
        logits: log-odds; −inf is a certain no, +inf a certain yes, both with gradient 0.
        tau: the temperature, as in :func:`gumbel_softmax`.
        hard: give exact zeros and ones, with the gradient of the relaxed sample.
        generator: as in :func:`gumbel_noise`.

    Raises:
        TypeError: if the logits are not of a floating-point dtype, or ``tau`` is not a number.
        ValueError: if there are no logits, one is NaN, or ``tau`` is not positive and finite.
    """
    check_filled(logits)
    check_scale("tau", tau)
    look(_check_no_nan, logits)
    # y = σ((l + u₁ − u₀) / τ), and 1 where l + u₁ − u₀ > 0
    scores = _perturb(logits, generator)
    scores = scores - gumbel_noise(scores, generator=generator)
    soft = (scores / tau).sigmoid()
    return (straight_through((scores > 0).to(soft), soft) if hard else soft).to(logits.dtype)


def _check_no_nan(logits: Tensor) -> None:
    if logits.isnan().any():
        raise ValueError("a logit is NaN: look for a 0 / 0, a log of a negative number, or a learning rate too high")


def _perturb(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """s + u, in float32 or wider."""
    wide = widen(logits)
    return gumbel_noise(wide, generator=generator).add_(wide)  # the noise is ours to overwrite


def _relaxed_argmax(scores: Tensor, tau: float | int, *, hard: bool, dim: int) -> Tensor:
    """softmax(scores / τ), or with ``hard`` the one-hot argmax with its gradient."""
    top, choice = scores.detach().max(dim, keepdim=True) if hard else (scores.detach().amax(dim, keepdim=True), None)
    check_top(top)
    # Softmax does not change when all scores move together. With the largest at 0, a small τ cannot overflow.
    soft = ((scores - top) / tau).softmax(dim)
    if choice is None:
        return soft
    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)
