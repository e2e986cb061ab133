"""When a token halts, what that costs it, and the losses that hold it down: adaptive computation, a token at a time.

With a score h_k^l in (0, 1) for token k after layer l, and h_k^L = 1 after the last, it halts after layer

    N_k = min { n : Σ_{l ≤ n} h_k^l ≥ 1 − ε },    with the remainder  R_k = 1 − Σ_{l < N_k} h_k^l,

so that it has a distribution over the layers, p_k^l: h_k^l before N_k, R_k at N_k, and 0 after. Its *ponder* is
ρ_k = N_k + R_k.

Source: arXiv:1603.08983 (the sum of the scores), arXiv:2112.07658 (the losses).
"""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dynlib.inputs import check_number, check_whole
from dynlib.transforms import look


class Halted(NamedTuple):
    """What came out, and when every token stopped. Token 0 is the class token."""

    logits: Float[Tensor, "batch classes"]
    depth: Int[Tensor, "batch tokens"]
    """N: how many layers a token went through; 0 for one that a mask left out from the first layer on."""
    ponder: Float[Tensor, "batch tokens"]
    """ρ = N + R, above 1 and at most L + 1; 0 where ``depth`` is."""
    halting: Float[Tensor, "batch layers tokens"]
    """p, which sums to one over the layers; 0 throughout where ``depth`` is."""


class Clock:
    """Who still runs, and what each token has spent. Nothing is written in place.

    Args:
        allowed: which token may go through which layer, bool [batch, layers, tokens], the class token first.
        epsilon: ε; the sum of the scores is enough at 1 − ε.
        dtype: what to add up in.
    """

    def __init__(self, allowed: Tensor, epsilon: float, dtype: torch.dtype) -> None:
        self.allowed, self.enough = allowed, 1 - epsilon
        self.running = allowed[:, 0]
        self.total = torch.zeros(self.running.shape, dtype=dtype, device=allowed.device)  # Σ h so far
        self.depth = torch.zeros_like(self.running, dtype=torch.int64)
        self.remainder = torch.zeros_like(self.total)
        self.halting: list[Tensor] = []

    def tick(self, layer: int, h: Float[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens"]:
        """The scores h after a layer, counted from 0, to the share p of each token that this layer has.

        Raises:
            ValueError: if the score of a token that still runs is NaN.
        """
        look(partial(_check_halting, layer=layer + 1), h.isnan() & self.running)
        # h^L = 1, and after the last layer that the mask allows
        last = layer + 1 == self.allowed.shape[1]
        stop = torch.ones_like(self.running) if last else ~self.allowed[:, layer + 1]
        halts = self.running & (stop | (self.total + h >= self.enough))
        halts = halts | (self.running & halts[:, :1])  # the image is done when its class token is
        left = 1 - self.total
        # p = R where the token halts, h while it runs, 0 after
        p = torch.where(halts, left, torch.where(self.running, h, 0))
        self.depth = self.depth + self.running
        self.remainder = torch.where(halts, left, self.remainder)
        self.total = self.total + p
        self.running = self.running & ~halts
        self.halting.append(p)
        return p

    def result(self, logits: Float[Tensor, "batch classes"]) -> Halted:
        """What all layers came to, for these logits."""
        missing = self.allowed.shape[1] - len(self.halting)  # layers that nobody reached
        halting = torch.stack([*self.halting, *[torch.zeros_like(self.total)] * missing], dim=1)
        # ρ = N + R
        return Halted(logits, self.depth, self.depth + self.remainder, halting)


def ponder_loss(result: Halted) -> Float[Tensor, ""]:
    """The mean ponder of the tokens, ρ = N + R: between 1 and L + 1. Tokens of depth 0 were not there, and count not.

    Raises:
        ValueError: if a ponder is not finite, or no token went through a layer.
    """
    there = _there(result)
    if not result.ponder.isfinite().all():
        raise ValueError("a ponder is NaN or infinite: look for NaN in the input or the weights")
    return result.ponder[there].mean()


def depth_prior(layers: int, target: float | int, *, deviation: float | int = 1.0) -> Float[Tensor, " layers"]:
    """A Gaussian around the target depth, read at the layers 1 … L and divided by its sum: it is a distribution.

    Args:
        layers: L, how many there are.
        target: the depth it peaks at, from 1 to L; need not be whole.
        deviation: its width in layers, positive.

    Returns:
        The probability of each layer, float64.

    Raises:
        TypeError: if ``layers`` is not a whole number, or the others are no numbers.
        ValueError: if ``layers`` is below 1, the target outside 1 … L, or the deviation not positive and finite.
    """
    return _log_prior(layers, target, deviation).exp()


def depth_prior_loss(result: Halted, target: float | int, *, deviation: float | int = 1.0) -> Float[Tensor, ""]:
    """How far the mean halting distribution is from :func:`depth_prior`: KL(H ‖ prior), with H^l the mean of p_k^l.

    The mean is over the tokens of all images, those of depth 0 left out. The authors' code takes the mean of the scores
    h in place of p, divides it by its sum over the layers and clamps it; without the division its divergence from a
    distribution could be negative. The mean of p is ours: it sums to one as it is.

    Args:
        result: of :meth:`dynlib.tokens.AdaptiveViT.forward`.
        target, deviation: as in :func:`depth_prior`.

    Raises:
        TypeError, ValueError: as :func:`depth_prior` and :func:`ponder_loss` do.
    """
    there = _there(result)
    if not result.halting.isfinite().all():
        raise ValueError("a halting probability is NaN or infinite: look for NaN in the input or the weights")
    log_prior = _log_prior(result.halting.shape[1], target, deviation).to(result.halting)
    # H^l = mean_k p_k^l
    mean = result.halting.transpose(1, 2)[there].mean(0)
    # KL(H ‖ prior) = Σ_l H^l (log H^l − log prior^l), with 0 log 0 = 0 and a finite gradient there
    return (mean * (mean.clamp_min(torch.finfo(mean.dtype).tiny).log() - log_prior)).sum()


def _there(result: Halted) -> Tensor:
    there = result.depth > 0
    if not there.any():
        raise ValueError(f"no token went through a layer; depth has shape {tuple(result.depth.shape)}")
    return there


def _log_prior(layers: int, target: float | int, deviation: float | int) -> Tensor:
    check_whole("layers", layers)
    target, deviation = check_number("target", target), check_number("deviation", deviation)
    if layers < 1 or not 1 <= target <= layers:
        raise ValueError(f"target must lie in 1 … layers; got target {target} of {layers} layers")
    if deviation <= 0:
        raise ValueError(f"deviation must be positive, in layers; got {deviation}")
    depth = torch.arange(1, layers + 1, dtype=torch.float64)
    return (-0.5 * ((depth - target) / deviation) ** 2).log_softmax(0)


def _check_halting(broken: Tensor, layer: int) -> None:
    if broken.any():
        raise ValueError(f"a halting score after layer {layer} is NaN: look for NaN in the weights")
