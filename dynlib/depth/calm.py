"""Confident adaptive language modelling: every token leaves the stack at the first layer that is sure of it.

The readout of a language model can be asked after any layer l. Where the confidence c of a token's state h_l reaches
the threshold, the token is decoded from h_l and the layers above do not run:

    exit at the first l ≥ min_exit with c(h_l) ≥ λ_t,  else at the last layer.

Three confidences, all in [0, 1]: the margin between the two likeliest tokens (``margin`` of
:mod:`dynlib.depth.early_exit`), how little layer l changed the state (:func:`state_similarity`), and a small head that
learned when a layer already says what the last one will (:class:`ExitClassifier`).

A later token may run deeper than this one, and attends there to a state that this one never computed. *State
propagation*: h_l, the state it left with, stands in at every layer above, for which the layer's keys and values are
computed. That is a norm and a linear map instead of a layer, and here it is done when a token first asks for it, for
all that is owed to that layer at once: a layer that nobody reaches costs nothing.

How much is lost is a number per prompt, a dissimilarity in [0, 1]: to the text of the whole model
(:func:`textual_consistency_loss`), or to a reference beyond what the whole model itself is off
(:func:`risk_consistency_loss`). :func:`calibration_losses` tables them by threshold, for
:func:`dynlib.depth.learn_then_test` to certify one.

Source: arXiv:2207.07061.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import Block, CausalLM, LayerCache
from dynlib.depth.early_exit import margin
from dynlib.inputs import widen

Confidence = Literal["softmax_diff", "state", "classifier"]


class Decoded(NamedTuple):
    """What :func:`calm_generate` gives."""

    tokens: Int[Tensor, "batch all"]
    """The prompt and the new tokens."""
    exits: Int[Tensor, "batch new"]
    """How many layers each new token was decoded from, 1 … depth."""
    confidences: Float[Tensor, "batch new"]
    """How confident each token was when it left; NaN where it ran to the last layer, which asks nobody."""


# ---- confidence


def state_similarity(
    before: Float[Tensor, "*batch dim"], after: Float[Tensor, "*batch dim"]
) -> Float[Tensor, "*batch"]:
    """The cosine between the states before and after a layer; 0 where they point away from each other."""
    return F.cosine_similarity(widen(before), widen(after), dim=-1).clamp(0, 1)


class ExitClassifier(nn.Module):
    """Says of a hidden state how likely the readout already gives what the last layer will. One for all layers.

    σ(w · norm(h) + b). The norm is there because the residual stream grows from layer to layer.

    Args:
        dim: features of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be positive; got {dim}")
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 1)

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Log-odds, the argument of σ."""
        return self.head(self.norm(hidden)).squeeze(-1)


@torch.no_grad()
def exit_labels(
    model: CausalLM, tokens: Int[Tensor, "batch tokens"]
) -> tuple[Float[Tensor, "layers batch tokens dim"], Bool[Tensor, "layers batch tokens"]]:
    """The states h_l after every layer but the last, and whether each may leave: its readout says what the last's does.

    Raises:
        ValueError: if the model has fewer than two layers, or ``tokens`` are none of its own.
    """
    if len(model.blocks) < 2:
        raise ValueError(f"a model of {len(model.blocks)} layers has none to leave early from: need at least 2")
    states = [model.embed(tokens)]
    for block in model.blocks:
        states.append(block(states[-1]))
    said = torch.stack([model.readout(state).argmax(-1) for state in states[1:]])
    # 1[argmax_l = argmax_L]
    return torch.stack(states[1:-1]), said[:-1] == said[-1]


def classifier_loss(classifier: nn.Module, model: CausalLM, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, ""]:
    """What to train an :class:`ExitClassifier` on: cross-entropy with :func:`exit_labels`, mean over layers.

    In every layer those that may leave weigh as much in all as those that may not, since below the first are rare and
    above the second. The model itself gets no gradient.

    Args:
        classifier: hidden states to log-odds.
        model: the model that is to leave early, in evaluation mode.
        tokens: text, as the model was trained on.

    Raises:
        ValueError: as in :func:`exit_labels`.
    """
    hidden, may_leave = exit_labels(model, tokens)
    losses = F.binary_cross_entropy_with_logits(classifier(hidden), may_leave.to(hidden.dtype), reduction="none")
    layers = []
    for loss, leaves in zip(losses, may_leave, strict=True):
        parts = [loss[part].mean() for part in (leaves, ~leaves) if part.any()]
        layers.append(torch.stack(parts).mean())
    return torch.stack(layers).mean()


def decaying_threshold(threshold: float | int, t: int, steps: int, *, tau: float | int = 4.0) -> float:
    """λ_t = clip(0.9 λ + 0.1 e^(−τ t / N), 0, 1): stricter for the first tokens, on which all others build.

    The paper's form: the second term does not depend on λ, so that a λ of 0 starts at 0.1.

    Args:
        threshold: λ, 0 … 1.
        t: which new token, 0 … ``steps`` − 1.
        steps: N, how many there will be.
        tau: τ, how fast the strictness goes; 0 keeps it.

    Raises:
        ValueError: if one of them is out of its range.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold that decays lies in 0 … 1; got {threshold}")
    if not 0 <= t < steps:
        raise ValueError(f"t must be one of 0 … {steps - 1}; got {t}")
    if not 0 <= tau < math.inf:
        raise ValueError(f"tau must be finite and not negative; got {tau}")
    return min(max(0.9 * threshold + 0.1 * math.exp(-tau * t / steps), 0.0), 1.0)


# ---- decoding


@torch.no_grad()
def calm_generate(
    model: CausalLM,
    prompt: Int[Tensor, "batch tokens"],
    new_tokens: int,
    threshold: float | int,
    *,
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
        model: a language model. Any will do; one whose layers were all trained to be read out is sure earlier.
        prompt: where to start.
        new_tokens: how many to add.
        threshold: λ. 0 leaves at ``min_exit``. Above 1, which no confidence reaches, nobody is asked and the result is
            that of ``model.generate``, bit for bit.
        confidence: "softmax_diff" reads out after every layer, "state" compares the states before and after it,
            "classifier" asks ``classifier``.
        classifier: hidden states to log-odds, as :class:`ExitClassifier`.
        min_exit: the first layer to leave after, 1 … depth.
        tau: lets the threshold decay with the token (:func:`decaying_threshold`); left out, it stays. A threshold above
            1 does not decay.
        temperature: 0 takes the likeliest token; above, samples from softmax(logits / temperature).
        generator: for the sampling.

    Raises:
        ValueError: if ``threshold``, ``new_tokens``, ``temperature``, ``tau`` or ``min_exit`` is out of range, the
            prompt is empty, there is no such confidence, or a classifier is missing or not asked for.
        TypeError: if ``min_exit`` is not an integer.
    """
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

    cache: list[LayerCache] = model.new_cache()
    left: list[Tensor] = []
    tokens, unread = prompt, prompt
    exits = torch.full((len(prompt), new_tokens), depth, device=prompt.device)
    confidences = torch.full(exits.shape, math.nan, device=prompt.device, dtype=widen(model.embedding.weight).dtype)
    for t in range(new_tokens):
        limit = threshold if tau is None or threshold > 1 else decaying_threshold(threshold, t, new_tokens, tau=tau)
        first = min_exit if limit <= 1 else depth
        logits, state = _step(
            model, unread, cache, left, ask, limit=limit, first=first, exits=exits[:, t], confidences=confidences[:, t]
        )
        left.append(state)
        if temperature == 0:
            unread = logits.argmax(-1, keepdim=True)
        else:
            unread = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, unread], dim=1)
    return Decoded(tokens, exits, confidences)


def masked_exits(
    model: CausalLM,
    tokens: Int[Tensor, "batch tokens"],
    threshold: float | int | Float[Tensor, " batch"],
    *,
    prompt: int | Int[Tensor, " batch"] = 1,
    confidence: Confidence = "softmax_diff",
    classifier: nn.Module | None = None,
    min_exit: int = 1,
) -> tuple[Float[Tensor, "batch tokens vocabulary"], Int[Tensor, "batch tokens"]]:
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

    Returns:
        the logits of the token after each one, and how many layers they were decoded from, 1 … depth.

    Raises:
        ValueError: if a threshold is negative or NaN, a prompt is not 1 … tokens long, and as in
            :func:`calm_generate`.
        TypeError: if ``min_exit`` is not an integer.
    """
    depth, length = len(model.blocks), tokens.shape[1]
    limit, whole = torch.as_tensor(threshold, device=tokens.device), torch.as_tensor(prompt, device=tokens.device)
    if not (limit >= 0).all():
        raise ValueError(f"threshold must be at least 0 (above 1 nothing leaves early); got {threshold}")
    if not ((whole >= 1) & (whole <= length)).all():
        raise ValueError(f"a prompt is 1 … {length} tokens of the text; got {prompt}")
    _check_min_exit(min_exit, depth)
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
    return logits, exits


Ask = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""States before and after a layer, [rows, dim], to their confidence, [rows], and to their logits if those were read."""


def _confidence(model: CausalLM, confidence: str, classifier: nn.Module | None) -> Ask:
    def read(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = _readout(model, after)
        return margin(logits), logits

    def compare(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor | None]:
        return state_similarity(before, after), None

    def classify(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor | None]:
        assert classifier is not None
        return widen(classifier(after)).sigmoid(), None

    known: dict[str, Ask] = {"softmax_diff": read, "state": compare, "classifier": classify}
    if confidence not in known:
        raise ValueError(f"confidence must be one of {', '.join(map(repr, known))}; got {confidence!r}")
    if confidence == "classifier" and classifier is None:
        raise ValueError("confidence='classifier' needs a classifier: train an ExitClassifier with classifier_loss")
    if confidence != "classifier" and classifier is not None:
        raise ValueError(f"confidence={confidence!r} does not ask the classifier given: use confidence='classifier'")
    return known[confidence]


def _check_min_exit(min_exit: int, depth: int) -> None:
    if not isinstance(min_exit, int):
        raise TypeError(f"min_exit must be an integer; got {min_exit!r}")
    if not 1 <= min_exit <= depth:
        raise ValueError(f"min_exit must be one of the layers 1 … {depth}; got {min_exit}")


def _step(
    model: CausalLM,
    tokens: Tensor,
    cache: list[LayerCache],
    left: list[Tensor],
    ask: Ask,
    *,
    limit: float | int,
    first: int,
    exits: Tensor,
    confidences: Tensor,
) -> tuple[Tensor, Tensor]:
    """Tokens [batch, tokens] to the logits of the last ones and the states [batch, 1, dim] that they left with.

    ``left`` are those states of the steps before. ``exits`` and ``confidences`` [batch] are written where a row leaves
    before the last layer.
    """
    blocks = cast(list[Block], list(model.blocks))
    (batch, length), seen = tokens.shape, cache[0].length  # everyone runs the first layer
    going, gone = torch.arange(batch, device=tokens.device), torch.arange(0, device=tokens.device)  # rows
    x = model.embed(tokens)
    logits = x.new_empty(batch, model.vocabulary)
    for layer, (block, past) in enumerate(zip(blocks, cache, strict=True), start=1):
        before = x
        if len(going):
            _settle(block, past, left, seen)
        if len(gone) == 0:
            x = block(x, cache=past)
        else:
            x = x.clone()
            if length > 1:  # a prompt goes on without its last token
                x[:, :-1] = block(x[:, :-1], cache=past)
            if len(going):
                x[going, -1:] = _gathered(block, x[:, -1:], going, gone, past)
        if len(going) == 0 or not first <= layer < len(blocks):
            continue
        rows = going if len(gone) else slice(None)
        confident, said = ask(before[rows, -1], x[rows, -1])
        sure = confident >= limit
        if not sure.any():
            continue
        leaving, going = going[sure], going[~sure]
        gone = torch.cat([gone, leaving])
        logits[leaving] = _readout(model, x[leaving, -1]) if said is None else said[sure]
        exits[leaving], confidences[leaving] = layer, confident[sure]
        if len(going) == 0 and length == 1:
            break
    if len(gone) == 0:
        logits = model.readout(x)[:, -1]
    elif len(going):
        logits[going] = _readout(model, x[going, -1])
    return logits, x[:, -1:]


def _settle(block: Block, past: LayerCache, left: list[Tensor], seen: int) -> None:
    """State propagation: keys and values of the tokens that left before this layer, from the states they left with."""
    owed = seen - past.length
    if owed:
        states = torch.cat(left[-owed:], dim=1)
        positions = torch.arange(past.length, seen, device=states.device).expand(len(states), owed)
        past.append(*block.attention.keys_values(block.norm1(states), positions), positions)


def _gathered(block: Block, x: Tensor, going: Tensor, gone: Tensor, past: LayerCache) -> Tensor:
    """The block on those rows of x [batch, 1, dim] that go on; those gone only owe the cache their keys and values."""
    positions = torch.full((len(x), 1), past.length, device=x.device)
    own = LayerCache()
    if past.length:
        own.append(past.keys[going], past.values[going], past.positions[going])
    after = block(x[going], positions=positions[going], cache=own)
    owed = block.attention.keys_values(block.norm1(x[gone]), positions[gone])
    keys, values = (part.new_empty(len(x), *part.shape[1:]) for part in owed)
    keys[going], values[going] = own.keys[:, :, -1:], own.values[:, :, -1:]
    keys[gone], values[gone] = owed
    past.append(keys, values, positions)
    return after


def _readout(model: CausalLM, states: Tensor) -> Tensor:
    return model.readout(states[:, None])[:, 0]


# ---- what it does to the text


def textual_consistency_loss(
    outputs: Int[Tensor, "batch tokens"], full: Int[Tensor, "batch others"]
) -> Float[Tensor, " batch"]:
    """How unlike two texts are, 1 − ROUGE-L: 0 for equal ones, 1 where they share no token.

    With ℓ the length of the longest common subsequence, ROUGE-L = 2 ℓ / (n + m). A letter left out costs a letter; when
    comparing place by place it would cost all that follow.

    Args:
        outputs: texts of n tokens.
        full: the text each is held against, of m tokens: the whole model's.

    Returns:
        a float64 loss per text, in [0, 1].

    Raises:
        ValueError: if there is no text, or not as many on either side.
    """
    if outputs.ndim != 2 or full.ndim != 2 or len(outputs) != len(full) or 0 in (*outputs.shape, *full.shape):
        raise ValueError(
            f"need as many texts on either side, none of them empty; got {tuple(outputs.shape)} and {tuple(full.shape)}"
        )
    # ℓ(i, j) = max(ℓ(i−1, j), ℓ(i, j−1), ℓ(i−1, j−1) + 1[a_i = b_j])
    longest = torch.zeros(len(full), full.shape[1] + 1, dtype=torch.int64, device=full.device)
    for token in outputs.unbind(1):
        row = torch.maximum(longest[:, 1:], longest[:, :-1] + (token[:, None] == full))
        longest = F.pad(row.cummax(1).values, (1, 0))
    return 1 - 2 * longest[:, -1].double() / (outputs.shape[1] + full.shape[1])


def risk_consistency_loss(
    outputs: Int[Tensor, "batch tokens"], full: Int[Tensor, "batch others"], references: Int[Tensor, "batch right"]
) -> Float[Tensor, " batch"]:
    """How much further from the reference than the whole model, max(0, D(output, ref) − D(full, ref)).

    D is :func:`textual_consistency_loss`. A text that is another one and no worse costs nothing.

    Args:
        outputs, full: texts of the model with exits, and of the whole one.
        references: what should have been written.

    Raises:
        ValueError: as in :func:`textual_consistency_loss`.
    """
    return (textual_consistency_loss(outputs, references) - textual_consistency_loss(full, references)).clamp(min=0)


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
    :func:`dynlib.depth.learn_then_test`, for prompts that nothing else was chosen by.

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
