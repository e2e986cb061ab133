"""CALM on a text that is known: all tokens at once, differentiable, to train a model on the states that it will meet.

Source: arXiv:2207.07061.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dynlib.backbone import CausalLM
from dynlib.depth.token_confidence import Confidence, asking, check_leaving


class Reread(NamedTuple):
    """What :func:`masked_exits` gives."""

    logits: Float[Tensor, "batch tokens vocabulary"]
    """Of the token after each one."""
    exits: Int[Tensor, "batch tokens"]
    """How many layers they were decoded from, 1 … depth."""


def masked_exits(
    model: CausalLM,
    tokens: Int[Tensor, "batch tokens"],
    threshold: float | int | Float[Tensor, " batch"],
    *,
    prompt: int | Int[Tensor, " batch"] = 1,
    confidence: Confidence = "softmax_diff",
    classifier: nn.Module | None = None,
    min_exit: int = 1,
) -> Reread:
    """What :func:`dynlib.depth.calm_generate` would decode after every token of a text that is known, differentiable.

    *Masked*: every layer runs for all tokens, and a token that has left keeps its state, from which the layers above
    take its keys and values. It saves nothing; it is for training a model on the states that it will meet, and for
    looking at decisions.

    Args:
        model: a language model.
        tokens: the text, prompt first.
        threshold: λ, for all or for each text.
        prompt: how many tokens are read whole; the last of them may leave. For all, or for each text.
        confidence, classifier, min_exit: as in :func:`dynlib.depth.calm_generate`.

    Raises:
        ValueError: if a threshold is negative or NaN, a prompt is not 1 … tokens long, they are neither one number nor
            one for each text, and as in :func:`dynlib.depth.calm_generate`.
        TypeError: if a prompt is no whole number, and as in :func:`dynlib.depth.calm_generate`.
    """
    x, logits, depth = model.embed(tokens), None, len(model.blocks)
    batch, length = tokens.shape
    limit, whole = torch.as_tensor(threshold, device=x.device), torch.as_tensor(prompt, device=x.device)
    if whole.is_floating_point():
        raise TypeError(f"a prompt is a whole number of tokens; got {prompt}")
    for name, given in (("thresholds", limit), ("prompts", whole)):
        if given.shape not in ((), (batch,)):
            raise ValueError(f"give one number, or one for each of the {batch} texts; got {tuple(given.shape)} {name}")
    if not (limit >= 0).all():
        raise ValueError(f"threshold must be at least 0 (above 1 nothing leaves early); got {threshold}")
    if not ((whole >= 1) & (whole <= length)).all():
        raise ValueError(f"a prompt is 1 … {length} tokens of the text; got {prompt}")
    check_leaving(model, min_exit, bool((limit <= 1).any()))
    ask = asking(model, confidence, classifier)
    may_leave = torch.arange(length, device=tokens.device) >= whole.reshape(-1, 1) - 1
    stays = torch.ones_like(tokens, dtype=torch.bool)
    exits = torch.full_like(tokens, depth)
    for layer, block in enumerate(model.blocks, start=1):
        before, x = x, torch.where(stays[..., None], block(x), x)
        said = model.readout(x)
        logits = said if logits is None else torch.where(stays[..., None], said, logits)
        if min_exit <= layer < depth:
            sure = ask(before.flatten(0, 1), x.flatten(0, 1))[0].view_as(tokens) >= limit.reshape(-1, 1)
            leaving = stays & sure & may_leave
            exits[leaving] = layer
            stays = stays & ~leaving
    assert logits is not None
    return Reread(logits, exits)
