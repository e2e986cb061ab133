"""From one trained feed-forward part to a mixture of experts that begins as that part (arXiv:2212.05055)."""

from typing import Any

import torch
from torch import nn

from dynlib.inputs import check_number
from dynlib.width.experts import MixtureOfExperts
from dynlib.width.feed_forward import parts_of


@torch.no_grad()
def upcycle(
    feed_forward: nn.Module,
    experts: int,
    *,
    k: int = 2,
    renormalise: bool = True,
    noise: float | int = 0.0,
    generator: torch.Generator | None = None,
    **options: Any,
) -> MixtureOfExperts:
    """A mixture whose experts all begin as copies of a trained feed-forward part (arXiv:2212.05055).

    Without noise and renormalised it gives what the dense one gives, for any k and whatever the router says, since the
    weights sum to 1 and all experts agree. Not renormalised, it gives that times the sum of the chosen p. As long as
    the experts agree, the router of a renormalised mixture has no gradient: noise, or training, takes them apart.

    Args:
        feed_forward: :class:`dynlib.backbone.FeedForward` with the GELU, exact or by tanh, or a gated one with the
            SiLU. Its weights are copied.
        experts, k, renormalise: as in :class:`MixtureOfExperts`; ``options`` are its others.
        noise: standard deviation of what is added to each weight, as a share of that of the weights.
        generator: for the noise.

    Raises:
        TypeError: if it is another kind of feed-forward part, or has what would be lost: a hook, an adapter.
        ValueError: if the noise is negative, or its function is another.
    """
    check_number("noise", noise, least=0)
    parts = parts_of(feed_forward)
    gated = parts.gate is not None
    if type(parts.activation) is not (nn.SiLU if gated else nn.GELU):
        raise ValueError(f"experts have a GELU, gated ones a SiLU; this one has {parts.activation}")
    by_tanh = isinstance(parts.activation, nn.GELU) and parts.activation.approximate == "tanh"
    like, hidden = parts.expand.weight, len(parts.expand.weight)
    mixture = MixtureOfExperts(
        like.shape[1],
        experts,
        k=k,
        hidden=hidden,
        renormalise=renormalise,
        gated=gated,
        bias=any(part is not None and part.bias is not None for part in (parts.gate, parts.expand, parts.contract)),
        activation=nn.GELU("tanh") if by_tanh else None,
        **options,
    ).to(like)
    for name in ("gate", "expand", "contract"):
        for kind in ("weight", "bias"):
            stacked, one = getattr(mixture, f"{name}_{kind}"), getattr(getattr(parts, name), kind, None)
            if stacked is None or one is None:
                continue
            stacked.copy_(one)
            if noise and kind == "weight":
                device = one.device if generator is None else generator.device
                drawn = torch.randn(stacked.shape, generator=generator, device=device).to(stacked)
                stacked.add_(drawn, alpha=noise * one.std().item())
    return mixture
