"""Confident adaptive language modelling: every token leaves the stack at the first layer that is sure of it.

The readout of a language model can be asked after any layer l. Where the confidence c of a token's state h_l reaches
the threshold, the token is decoded from h_l and the layers above do not run:

    exit at the first l ≥ min_exit with c(h_l) ≥ λ_t,  else at the last layer.

Confidences, all in [0, 1]: one read from the logits, as the margin between the two likeliest tokens (``margin`` of
:mod:`dynlib.depth.confidence`), how little layer l changed the state, or a small head that learned when a layer already
says what the last one will (both in :mod:`dynlib.depth.token_confidence`).

A later token may run deeper than this one, and attends there to a state that this one never computed. *State
propagation*: h_l, the state it left with, stands in at every layer above, for which the layer's keys and values are
computed. That is a norm and a linear map instead of a layer, and here it is done when a token first asks for it, for
all that is owed to that layer at once: a layer that nobody reaches costs nothing.

This is the *gathered* execution, which runs for those who go on. The *masked* one, which trains, is ``masked_exits`` of
:mod:`dynlib.depth.calm_training`. How much is lost is a number per prompt (:mod:`dynlib.depth.consistency`);
:func:`calibration_losses` tables it by threshold, for :func:`dynlib.cost.learn_then_test` to certify one.

Source: arXiv:2207.07061.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynlib.backbone import CausalLM, LayerCache, prompt_positions
from dynlib.depth.calm_training import Reread, masked_exits
from dynlib.depth.consistency import risk_consistency_loss, textual_consistency_loss
from dynlib.depth.token_confidence import Ask, Confidence, asking, check_leaving, decaying_threshold, said_of
from dynlib.inputs import widen

__all__ = [
    "Decoded",
    "Reread",
    "calibration_losses",
    "calm_generate",
    "masked_exits",
    "risk_consistency_loss",
    "textual_consistency_loss",
]


class Decoded(NamedTuple):
    """What :func:`calm_generate` gives."""

    tokens: Int[Tensor, "batch all"]
    """The prompt and the new tokens."""
    exits: Int[Tensor, "batch new"]
    """How many layers each new token was decoded from, 1 … depth."""
    confidences: Float[Tensor, "batch new"]
    """How confident each token was when it left; NaN where it ran to the last layer, which asks nobody."""


@torch.no_grad()
def calm_generate(
    model: CausalLM,
    prompt: Int[Tensor, "batch tokens"],
    new_tokens: int,
    threshold: float | int,
    *,
    key_mask: Bool[Tensor, "batch tokens"] | None = None,
    positions: Int[Tensor, "batch tokens"] | Int[Tensor, " tokens"] | None = None,
    confidence: Confidence = "softmax_diff",
    classifier: nn.Module | None = None,
    min_exit: int = 1,
    tau: float | int | None = None,
    temperature: float | int = 0.0,
    generator: torch.Generator | None = None,
) -> Decoded:
    """The prompt and ``new_tokens`` more, each from as few layers as it takes to be confident of it.

    *Gathered*: a layer runs for those sequences of the batch that still go on, and what each gets is what it would get
    alone. The prompt runs through all layers; only its last token, which the first new one is decoded from, may leave.

    Args:
        model: a language model; one whose layers were all trained to be read out is sure earlier. Where tokens may
            leave, its blocks above the first must have ``norm1`` and ``attention.keys_values``, as
            :class:`dynlib.backbone.Block` has: a mixture of depths has not.
        prompt: where to start.
        new_tokens: how many to add.
        threshold: λ; a larger one spends more. 0 leaves at ``min_exit``. Above 1, which no confidence reaches, nobody
            is asked and the result is that of ``model.generate``, bit for bit.
        key_mask, positions: as in :meth:`dynlib.backbone.CausalLM.generate`, for prompts filled up on the left.
        confidence: "softmax_diff", "max_probability", "negative_entropy" or a function of logits reads out after every
            layer; "state" compares the states before and after it; "classifier" asks ``classifier``.
        classifier: hidden states to log-odds, as :class:`ExitClassifier`.
        min_exit: the first layer to leave after, 1 … depth.
        tau: lets the threshold decay with the token (:func:`decaying_threshold`); left out, it stays. A threshold above
            1 does not decay.
        temperature: 0 takes the likeliest token; above, samples from softmax(logits / temperature).
        generator: for the sampling.

    Raises:
        ValueError: if ``threshold``, ``new_tokens``, ``temperature``, ``tau`` or ``min_exit`` is out of range, the
            prompt is empty, there is no such confidence, a classifier is missing or not asked for, or ``key_mask`` or
            ``positions`` do not fit.
        TypeError: if ``min_exit`` or ``new_tokens`` is not an int, the prompt no tensor, or tokens may leave below a
            block that they cannot leave their keys and values in.
    """
    depth = len(model.blocks)
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0 (above 1 nothing leaves early); got {threshold}")
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0; got {temperature}")
    check_leaving(model, min_exit, threshold <= 1)
    ask = asking(model, confidence, classifier)
    if tau is not None:
        decaying_threshold(0, 0, 1, tau=tau)  # complains of a tau that cannot be
    places = prompt_positions(prompt, new_tokens, key_mask, positions)

    cache, ran, left = model.new_cache(), [0] * depth, list[Tensor]()
    tokens, unread = prompt, prompt
    exits, confidences = [], []
    for t in range(new_tokens):
        limit = threshold if tau is None or threshold > 1 else decaying_threshold(threshold, t, new_tokens, tau=tau)
        first = min_exit if limit <= 1 else depth
        step = _step(model, unread, places, cache, ran, left, ask, limit=limit, first=first)
        left.append(step.state)
        exits.append(step.exits)
        confidences.append(step.confidences)
        if temperature == 0:
            unread = step.logits.argmax(-1, keepdim=True)
        else:
            unread = torch.multinomial((step.logits / temperature).softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, unread], dim=1)
    if new_tokens == 0:
        return Decoded(tokens, tokens[:, :0], tokens[:, :0] * math.nan)
    return Decoded(tokens, torch.stack(exits, dim=1), torch.stack(confidences, dim=1))


class _Step(NamedTuple):
    logits: Tensor  # [batch, vocabulary], of the last tokens
    exits: Tensor  # [batch]
    confidences: Tensor  # [batch]
    state: Tensor  # [batch, 1, dim], what they left with


def _step(
    model: CausalLM,
    tokens: Tensor,
    places: Tensor,
    cache: list[LayerCache],
    ran: list[int],
    left: list[Tensor],
    ask: Ask,
    *,
    limit: float | int,
    first: int,
) -> _Step:
    """Tokens [batch, tokens] to their last logits.

    ``places`` are the positions of all tokens, those before and after these too, and ``ran`` how many of them each
    layer has had, which is written. ``left`` are the last states of the steps before.
    """
    blocks: list[Any] = list(model.blocks)
    (batch, length), seen = tokens.shape, ran[0]  # everyone runs the first layer
    here = places[:, seen : seen + length]
    going, gone = torch.arange(batch, device=tokens.device), torch.arange(0, device=tokens.device)  # rows
    parts: list[tuple[Tensor, Tensor, int, Tensor | None]] = []  # rows, logits, exit, confidence
    x = model.embed(tokens, positions=here)
    for layer, (block, past) in enumerate(zip(blocks, cache, strict=True), start=1):
        before = x
        if len(going) and (owed := seen - ran[layer - 1]):
            # State propagation: keys and values of the tokens that left before this layer, from what they left with
            states, where = torch.cat(left[-owed:], dim=1), places[:, seen - owed : seen]
            keys, values = block.attention.keys_values(block.norm1(states), where)
            past.append(keys, values, where)
        if len(gone) == 0:
            x = block(x, positions=here, cache=past)
        else:
            x = x.clone()
            if length > 1:  # a prompt goes on without its last token
                x[:, :-1] = block(x[:, :-1], positions=here[:, :-1], cache=past).to(x.dtype)
            if len(going):
                x[going, -1:] = _gathered(block, x[:, -1:], here[:, -1:], going, gone, past).to(x.dtype)
        ran[layer - 1] = seen + (length if len(going) else length - 1)
        if len(going) == 0 or not first <= layer < len(blocks):
            continue
        rows = going if len(gone) else slice(None)
        confident, said = ask(before[rows, -1], x[rows, -1])
        sure = confident >= limit
        if not sure.any():
            continue
        leaving, going = going[sure], going[~sure]
        gone = torch.cat([gone, leaving])
        logits = said_of(model, x[leaving, -1]) if said is None else said[sure]
        parts.append((leaving, logits, layer, confident[sure]))
        if len(going) == 0 and length == 1:
            break
    if len(going):
        logits = said_of(model, x[going, -1]) if len(gone) else model.readout(x)[:, -1]
        parts.append((going, logits, len(blocks), None))
    return _Step(*_in_order(parts), state=x[:, -1:])


def _in_order(parts: list[tuple[Tensor, Tensor, int, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the batch, their logits, exit and confidence, by when they left: all three in the order of the batch."""
    kind = widen(parts[0][1]).dtype
    exits = [torch.full_like(rows, layer) for rows, _, layer, _ in parts]
    confidences = [
        torch.full(rows.shape, math.nan, dtype=kind, device=rows.device) if sure is None else sure.to(kind)
        for rows, _, _, sure in parts
    ]
    if len(parts) == 1:  # all left together, in their order
        return parts[0][1], exits[0], confidences[0]
    order = torch.cat([rows for rows, *_ in parts]).argsort()
    logits = torch.cat([said for _, said, *_ in parts])
    return logits[order], torch.cat(exits)[order], torch.cat(confidences)[order]


def _gathered(block: Any, x: Tensor, places: Tensor, going: Tensor, gone: Tensor, past: LayerCache) -> Tensor:
    """The block on those rows of x [batch, 1, dim] that go on; those gone only owe the cache their keys and values."""
    after: Tensor = block(x[going], positions=places[going], cache=past.only(going, batch=len(x)))
    keys, values = block.attention.keys_values(block.norm1(x[gone]), places[gone])
    past.complete(gone, keys, values, places[gone])
    return after


def calibration_losses(
    model: CausalLM,
    prompts: Int[Tensor, "points tokens"],
    new_tokens: int,
    thresholds: Sequence[float | int] | Float[Tensor, " thresholds"],
    *,
    references: Int[Tensor, "points right"] | None = None,
    confidence: Confidence = "softmax_diff",
    classifier: nn.Module | None = None,
    min_exit: int = 1,
    tau: float | int | None = None,
) -> Float[Tensor, "points thresholds"]:
    """What each threshold costs on each prompt: a row for a prompt, a column for a threshold, each loss in [0, 1].

    A prompt is one point, however many tokens follow it: the tokens of one text are not independent. Give the table to
    :func:`dynlib.cost.learn_then_test`, for prompts that nothing else was chosen by.

    Args:
        model: a language model, decoded greedily.
        prompts: at least one.
        new_tokens: how many to decode after each; at least 1.
        thresholds: at least one.
        references: the right continuations; with them the loss is :func:`risk_consistency_loss`, without
            :func:`textual_consistency_loss`.
        confidence, classifier, min_exit, tau: as in :func:`calm_generate`.

    Raises:
        ValueError: if there are no thresholds or nothing to decode, and as in :func:`calm_generate`.
    """
    values = [float(value) for value in thresholds]
    if not values or new_tokens < 1:
        raise ValueError(
            f"need thresholds, and at least 1 new token; got {len(values)} thresholds, {new_tokens} tokens"
        )

    def decode(threshold: float, **options: Any) -> Tensor:
        return calm_generate(model, prompts, new_tokens, threshold, **options).tokens[:, prompts.shape[1] :]

    full = decode(math.inf)
    losses = []
    for value in values:
        early = decode(value, confidence=confidence, classifier=classifier, min_exit=min_exit, tau=tau)
        if references is None:
            losses.append(textual_consistency_loss(early, full))
        else:
            losses.append(risk_consistency_loss(early, full, references))
    return torch.stack(losses, dim=1)
