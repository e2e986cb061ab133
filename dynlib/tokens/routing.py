"""How many tokens of a sequence are chosen, which, and their record: what CoLT5 and Mixture-of-Depths share.

Source: arXiv:2202.09368 (the layer picks its tokens, not the token its layer: expert choice).
"""

import math
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynlib.inputs import check_filled
from dynlib.transforms import look


class Routed(NamedTuple):
    """Whom one router chose in one call, and why."""

    mask: Bool[Tensor, "batch tokens"]
    """True where a token was routed, and the layer's block or heavy branch runs."""
    weight: Float[Tensor, "batch tokens"]
    """What the update of a routed token is multiplied by: s̃ in CoLT5, r or σ(r) in Mixture-of-Depths; 0 for others."""
    scores: Float[Tensor, "batch tokens"] | None
    """What the router said of each token, s or r; None if it was not asked, under even routing."""
    present: Bool[Tensor, "batch tokens"]
    """False for what is only there to fill up a shorter sequence."""
    routing: str
    """What decided: the layer's ``routing``, or what a cache made of it."""
    predicted: Float[Tensor, "batch tokens"] | None = None
    """Log-odds that a predictor gives to being among the k; None if there is none."""


def kept(capacity: float | int, tokens: int) -> int:
    """k = ⌈capacity · tokens⌉: one at least, and all of them at capacity 1."""
    return math.ceil(capacity * tokens - 1e-9)  # 0.1 · 30 is 3.0000000000000004 and means 3


def check_capacity(capacity: Any) -> None:
    """Raises ValueError for a capacity that is not a share of the tokens, above 0 and at most 1."""
    if isinstance(capacity, bool) or not isinstance(capacity, Real) or not 0 < float(capacity) <= 1:
        raise ValueError(f"capacity is the share of the tokens that run, above 0 and at most 1; got {capacity!r}")


def expert_choice(
    scores: Float[Tensor, "batch tokens"], k: int | Int[Tensor, " batch"]
) -> Bool[Tensor, "batch tokens"]:
    """True at the k largest scores of each sequence: exactly k, and of equals the earlier.

    Args:
        scores: finite, or −inf for what is not to be chosen.
        k: how many; one number, or one for each sequence.

    Raises:
        TypeError: if the scores are not floating-point.
        ValueError: if they are not [batch, tokens], there are none, one is NaN or +inf, or a sequence has fewer than k
            that can be chosen.
    """
    check_filled(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores must be [batch, tokens], one for each token; got {tuple(scores.shape)}")
    tokens = scores.shape[1]
    if isinstance(k, int) and 1 <= k <= tokens and not torch.compiler.is_compiling():
        # r ≥ the k-th largest: these are the k, unless some of them are equal to others, or not to be chosen
        last = scores.topk(k, dim=1).values[:, -1:]
        mask = scores >= last
        try:
            if last.isfinite().all() and int(mask.sum()) == k * len(scores) and not scores.sum().isnan():
                return mask
        except RuntimeError:  # vmap shows no values
            pass
    look(partial(_check_scores, k=k), scores)
    wanted = torch.as_tensor(k, device=scores.device).expand(scores.shape[0])
    # Said so that equals cannot make it more or fewer: the first k of a stable sort
    order = scores.argsort(dim=1, descending=True, stable=True)
    first = torch.arange(tokens, device=scores.device) < wanted[:, None]
    return torch.zeros_like(first).scatter(1, order, first)


def _check_scores(scores: Tensor, k: int | Tensor) -> None:
    if scores.isnan().any() or scores.isposinf().any():
        raise ValueError("a score is NaN or +inf: look for NaN in the tokens, or a learning rate that was too high")
    possible = (~scores.isneginf()).sum(-1)
    wanted = torch.as_tensor(k, device=scores.device).expand(possible.shape)
    if (wanted < 0).any() or (wanted > possible).any():
        raise ValueError(
            f"cannot keep {wanted.tolist()} of sequences with {possible.tolist()} tokens to choose from: k must be "
            "from 0 to the length"
        )
