"""Learn from samples alone: the score-function estimator (REINFORCE), and the baseline that makes it usable.

The gradient of an expected reward needs no gradient of the reward,

    ∇ E[f(z)] = E[f(z) ∇ log p(z)],    z drawn from p,

so f may be anything that gives a number: a count, a program, a user. Nor does it need a relaxed z. The price is
variance: where every reward is near 100, every sample is pushed up by 100, and what is learned is the small difference
of large pushes. A *baseline* b that does not depend on the sample z changes nothing on average, for
E[b ∇ log p(z)] = b ∇ Σ p = 0, and can take the 100 away.

Of several samples, the mean reward of the others is such a baseline. The mean of all is not: the sample's own reward
is in it, and with M samples the gradient comes out (M − 1) / M of what it should be.

Source: Williams 1992, doi:10.1007/BF00992696 (the estimator), arXiv:1602.06725 (leave-one-out).
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from dynlib.inputs import DTYPES, check_tensor, widen
from dynlib.transforms import look


def score_function_loss(
    log_prob: Float[Tensor, "*samples"],
    reward: Float[Tensor, "*samples"],
    *,
    baseline: Float[Tensor, "..."] | float | int | None = None,
) -> Float[Tensor, ""]:
    """A loss whose gradient is, on average, minus the gradient of the expected reward: minimise it to earn more.

    Its *value* is no estimate of anything, and may go up while the reward goes up: watch the reward, not this loss.

    Args:
        log_prob: log p(z) of every sample z, with a gradient. Take it from the logits and the sampled indices (as in
            ``logits.log_softmax(-1).gather(-1, z)``), not as the logarithm of a one-hot sample. Densities may exceed 1.
        reward: f(z) of every sample, in the same shape, larger is better. It gets no gradient.
        baseline: what to take off the reward, a number or a tensor that broadcasts to it, such as
            :func:`leave_one_out`; nothing if left out. It gets no gradient. The estimate stays unbiased if the baseline
            of a sample does not depend on that sample.

    Returns:
        −mean((reward − baseline) · log_prob), a scalar in the dtype of ``log_prob``; the mean is over all samples.

    Raises:
        TypeError: if a tensor is not of a floating-point dtype, or the baseline is neither tensor nor number.
        ValueError: if the two shapes differ, the baseline does not broadcast to them, there are no samples, a value is
            NaN or infinite, or ``log_prob`` has no gradient.
    """
    _check_values("log_prob", log_prob)
    _check_values("reward", reward)
    if log_prob.shape != reward.shape:
        raise ValueError(
            f"log_prob and reward must have one shape; got {tuple(log_prob.shape)} and {tuple(reward.shape)}: "
            "broadcast against each other, [n, 1] and [n] pair every sample with every reward; use squeeze or unsqueeze"
        )
    if not log_prob.requires_grad:
        raise ValueError(
            "log_prob has no gradient, so nothing would be learned: compute it from the logits, with gradients on, "
            "as logits.log_softmax(-1) at the sampled indices; a hard sample and its logarithm carry none"
        )
    advantage = widen(reward.detach())
    if baseline is not None:
        advantage = advantage - _check_baseline(baseline, reward)
    # ∇ E[f] ≈ mean over the samples of (f − b) ∇ log p
    return -(advantage * widen(log_prob)).mean().to(log_prob.dtype)


def leave_one_out(reward: Float[Tensor, "*shape"], *, dim: int = 0) -> Float[Tensor, "*shape"]:
    """For every sample the mean reward of the others, the baseline of :func:`score_function_loss`.

    The sample's own reward is left out before the sum, not taken off it: it does not enter even by rounding.

    Args:
        reward: rewards of independent samples from one distribution along ``dim``; other dimensions are other inputs.
        dim: the dimension of the samples, at least 2 long.

    Returns:
        baselines in the shape and dtype of ``reward``, without gradient.

    Raises:
        TypeError: if the reward is not of a floating-point dtype.
        ValueError: if there is no such dimension, fewer than two samples in it, or a reward is NaN or infinite.
    """
    _check_values("reward", reward)
    if not -reward.ndim <= dim < reward.ndim:
        raise ValueError(f"rewards of shape {tuple(reward.shape)} have no dimension {dim}: choose dim among theirs")
    n = reward.shape[dim]
    if n < 2:
        raise ValueError(
            f"leaving one out needs at least 2 samples; dimension {dim} of shape {tuple(reward.shape)} has {n}: draw "
            "more samples for each input, or choose their dimension"
        )
    wide = widen(reward.detach())
    nothing = torch.zeros_like(wide.narrow(dim, 0, 1))
    # Σ_{j<i} f_j and Σ_{j>i} f_j
    before = torch.cat([nothing, wide.narrow(dim, 0, n - 1).cumsum(dim)], dim)
    after = torch.cat([wide.narrow(dim, 1, n - 1).flip(dim).cumsum(dim).flip(dim), nothing], dim)
    # b_i = Σ_{j≠i} f_j / (M − 1)
    return ((before + after) / (n - 1)).to(reward.dtype)


def _check_values(name: str, tensor: Tensor) -> None:
    """Raises TypeError or ValueError unless ``tensor`` holds floating-point numbers, at least one and all finite."""
    check_tensor(tensor, name)
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64; got {tensor.dtype}: use .float()")
    if tensor.numel() == 0:
        raise ValueError(f"{name} has no samples, shape {tuple(tensor.shape)}: draw at least one")
    look(partial(_check_finite, name), tensor)


def _check_finite(name: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        what = "NaN" if tensor.isnan().any() else "infinite"
        raise ValueError(
            f"{name} is {what} for a sample: look for a log of zero, a 0 / 0, or a sample from other logits than these"
        )


def _check_baseline(baseline: object, reward: Tensor) -> Tensor:
    """The baseline as a detached, wide tensor that broadcasts to ``reward`` and does not enlarge it."""
    if isinstance(baseline, float | int):
        tensor = torch.as_tensor(baseline, dtype=widen(reward).dtype, device=reward.device)
    elif isinstance(baseline, Tensor):
        tensor = baseline
    else:
        raise TypeError(f"baseline must be a tensor, a number or None; got {type(baseline).__name__}")
    _check_values("baseline", tensor)
    sizes = zip(reversed(tensor.shape), reversed(reward.shape), strict=False)
    if tensor.ndim > reward.ndim or any(mine not in (1, theirs) for mine, theirs in sizes):
        raise ValueError(
            f"the baseline must broadcast to the reward; got {tuple(tensor.shape)} for {tuple(reward.shape)}: give one "
            "number for each sample, or keep the dimension of a mean with keepdim=True"
        )
    return widen(tensor.detach())
