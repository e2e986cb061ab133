"""Confident adaptive language modelling: every token leaves the stack at the first layer that is sure of it.

The readout of a language model can be asked after any layer l. Where the confidence c of a token's state h_l reaches
the threshold, the token is decoded from h_l and the layers above do not run:

    exit at the first l ≥ min_exit with c(h_l) ≥ λ_t,  else at the last layer.

Confidences, all in [0, 1]: one read from the logits, as the margin between the two likeliest tokens (``margin`` of
:mod:`dynlib.depth.early_exit`), how little layer l changed the state, or a small head that learned when a layer already
says what the last one will (both in :mod:`dynlib.depth.token_confidence`).

A later token may run deeper than this one, and attends there to a state that this one never computed. *State
propagation*: h_l, the state it left with, stands in at every layer above, for which the layer's keys and values are
computed. That is a norm and a linear map instead of a layer, and here it is done when a token first asks for it, for
all that is owed to that layer at once: a layer that nobody reaches costs nothing.

How much is lost is a number per prompt (:mod:`dynlib.depth.consistency`); :func:`calibration_losses` tables it by
threshold, for :func:`dynlib.cost.learn_then_test` to certify one.

Source: arXiv:2207.07061.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynlib.backbone import CausalLM, LayerCache, prompt_positions
from dynlib.depth import early_exit
from dynlib.depth.consistency import risk_consistency_loss, textual_consistency_loss
from dynlib.depth.early_exit import confidence_function
from dynlib.depth.token_confidence import decaying_threshold, state_similarity
from dynlib.inputs import check_name, check_tensor, check_whole, widen

Confidence = early_exit.Confidence | Literal["state", "classifier"]
"""What is read from the logits, a function or its name, as in early exit; or how the state changed, or a classifier."""

NAMES = ("max_probability", "softmax_diff", "negative_entropy", "state", "classifier")


class Decoded(NamedTuple):
    """What :func:`calm_generate` gives."""

    tokens: Int[Tensor, "batch all"]
    """The prompt and the new tokens."""
    exits: Int[Tensor, "batch new"]
    """How many layers each new token was decoded from, 1 … depth."""
    confidences: Float[Tensor, "batch new"]
    """How confident each token was when it left; NaN where it ran to the last layer, which asks nobody."""


class Reread(NamedTuple):
    """What :func:`masked_exits` gives."""

    logits: Float[Tensor, "batch tokens vocabulary"]
    """Of the token after each one."""
    exits: Int[Tensor, "batch tokens"]
    """How many layers they were decoded from, 1 … depth."""


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
    check_tensor(prompt, "the prompt")
    check_whole("new_tokens", new_tokens)
    depth = len(model.blocks)
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0 (above 1 nothing leaves early); got {threshold}")
    if not (new_tokens >= 0 and temperature >= 0):
        raise ValueError(f"new_tokens and temperature must not be negative; got {new_tokens} and {temperature}")
    if prompt.numel() == 0:
        raise ValueError(f"the prompt must have at least one token; got shape {tuple(prompt.shape)}")
    _check_min_exit(min_exit, depth)
    ask = _confidence(model, confidence, classifier)
    if tau is not None:
        decaying_threshold(0, 0, 1, tau=tau)  # complains of a tau that cannot be
    if threshold <= 1 and min_exit < depth:
        _check_blocks(model)
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
    """What :func:`calm_generate` would decode after every token of a text that is known: all at once, differentiable.

    *Masked*: every layer runs for all tokens, and a token that has left keeps its state, from which the layers above
    take its keys and values. It saves nothing; it is for training a model on the states that it will meet, and for
    looking at decisions.

    Args:
        model: a language model.
        tokens: the text, prompt first.
        threshold: λ, for all or for each text.
        prompt: how many tokens are read whole; the last of them may leave. For all, or for each text.
        confidence, classifier, min_exit: as in :func:`calm_generate`.

    Raises:
        ValueError: if a threshold is negative or NaN, a prompt is not 1 … tokens long, and as in
            :func:`calm_generate`.
        TypeError: as in :func:`calm_generate`.
    """
    check_tensor(tokens, "tokens")
    depth, length = len(model.blocks), tokens.shape[1]
    limit, whole = torch.as_tensor(threshold, device=tokens.device), torch.as_tensor(prompt, device=tokens.device)
    if not (limit >= 0).all():
        raise ValueError(f"threshold must be at least 0 (above 1 nothing leaves early); got {threshold}")
    if not ((whole >= 1) & (whole <= length)).all():
        raise ValueError(f"a prompt is 1 … {length} tokens of the text; got {prompt}")
    _check_min_exit(min_exit, depth)
    if min_exit < depth and (limit <= 1).any():
        _check_blocks(model)
    ask = _confidence(model, confidence, classifier)
    may_leave = torch.arange(length, device=tokens.device) >= whole.reshape(-1, 1) - 1
    stays = torch.ones_like(tokens, dtype=torch.bool)
    exits = torch.full_like(tokens, depth)
    x, logits = model.embed(tokens), None
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


Ask = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""States before and after a layer, [rows, dim], to their confidence, [rows], and to their logits if those were read."""


def _confidence(model: CausalLM, confidence: Confidence, classifier: nn.Module | None) -> Ask:
    if not callable(confidence):
        check_name("confidence", confidence, NAMES)
    if confidence == "classifier" and classifier is None:
        raise ValueError("confidence='classifier' needs a classifier: train an ExitClassifier with classifier_loss")
    if confidence != "classifier" and classifier is not None:
        raise ValueError(f"confidence={confidence!r} does not ask the classifier given: use confidence='classifier'")
    if confidence == "state":
        return lambda before, after: (state_similarity(before, after), None)
    if classifier is not None:
        return lambda before, after: (widen(classifier(after)).sigmoid(), None)
    sure = confidence_function(confidence)  # type: ignore[arg-type]

    def read(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = _readout(model, after)
        return sure(logits), logits

    return read


def _check_blocks(model: CausalLM) -> None:
    """A token that left owes every layer above the first its keys and values."""
    for layer, block in enumerate(model.blocks, start=1):
        attention = getattr(block, "attention", None)
        known = hasattr(block, "norm1") and callable(getattr(attention, "keys_values", None))
        if layer > 1 and not (known and getattr(block, "norm_first", True)):
            raise TypeError(
                f"tokens cannot leave below layer {layer}: {type(block).__name__} lacks norm1 or attention.keys_values "
                "through which they can be attended to there, as dynlib.backbone.Block has: use a threshold above 1, "
                "with which nobody leaves"
            )


def _check_min_exit(min_exit: int, depth: int) -> None:
    if isinstance(min_exit, bool) or not isinstance(min_exit, int):
        raise TypeError(f"min_exit must be an integer; got {min_exit!r}")
    if not 1 <= min_exit <= depth:
        raise ValueError(f"min_exit must be one of the layers 1 … {depth}; got {min_exit}")


class _Step(NamedTuple):
    logits: Tensor  # [batch, vocabulary], of the last tokens
    state: Tensor  # [batch, 1, dim], what they left with
    exits: Tensor  # [batch]
    confidences: Tensor  # [batch]


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
        logits = _readout(model, x[leaving, -1]) if said is None else said[sure]
        parts.append((leaving, logits, layer, confident[sure]))
        if len(going) == 0 and length == 1:
            break
    if len(going):
        logits = _readout(model, x[going, -1]) if len(gone) else model.readout(x)[:, -1]
        parts.append((going, logits, len(blocks), None))
    kind = widen(parts[0][1]).dtype
    exits = [torch.full_like(rows, layer) for rows, _, layer, _ in parts]
    confidences = [
        torch.full(rows.shape, math.nan, dtype=kind, device=rows.device) if sure is None else sure.to(kind)
        for rows, _, _, sure in parts
    ]
    if len(parts) == 1:  # all left together, in their order
        return _Step(parts[0][1], x[:, -1:], exits[0], confidences[0])
    order = torch.cat([rows for rows, *_ in parts]).argsort()
    logits = torch.cat([said for _, said, *_ in parts])
    return _Step(logits[order], x[:, -1:], torch.cat(exits)[order], torch.cat(confidences)[order])


def _gathered(block: Any, x: Tensor, places: Tensor, going: Tensor, gone: Tensor, past: LayerCache) -> Tensor:
    """The block on those rows of x [batch, 1, dim] that go on; those gone only owe the cache their keys and values."""
    after: Tensor = block(x[going], positions=places[going], cache=past.only(going, batch=len(x)))
    keys, values = block.attention.keys_values(block.norm1(x[gone]), places[gone])
    past.complete(gone, keys, values, places[gone])
    return after


def _readout(model: CausalLM, states: Tensor) -> Tensor:
    return model.readout(states[:, None])[:, 0]


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
