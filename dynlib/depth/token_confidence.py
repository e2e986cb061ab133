"""When a token may leave: what CALM asks beside the logits.

How little a layer changed the state (:func:`state_similarity`), a small head that learned when a layer already says
what the last one will (:class:`ExitClassifier`), and a threshold that begins strict (:func:`decaying_threshold`).
Confidences that are read from logits stand in :mod:`dynlib.depth.confidence`; :func:`asking` makes one function of any.

Source: arXiv:2207.07061.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import CausalLM
from dynlib.depth import confidence as of_logits
from dynlib.inputs import check_dtype, check_name, check_number, check_whole, widen
from dynlib.transforms import look

Confidence = of_logits.Confidence | Literal["state", "classifier"]
"""What is read from the logits, a function or its name, as in early exit; or how the state changed, or a classifier."""

NAMES = ("max_probability", "softmax_diff", "negative_entropy", "state", "classifier")

Ask = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""States before and after a layer, [rows, dim], to their confidence, [rows], and to their logits if those were read."""


def state_similarity(
    before: Float[Tensor, "*batch dim"], after: Float[Tensor, "*batch dim"]
) -> Float[Tensor, "*batch"]:
    """The cosine between the states before and after a layer; 0 where they point away from each other.

    Raises:
        TypeError: if the states are not floating-point.
        ValueError: if one is NaN.
    """
    check_dtype(before)
    check_dtype(after)
    look(_check_no_nan, after)
    return F.cosine_similarity(widen(before), widen(after), dim=-1).clamp(0, 1)


def _check_no_nan(states: Tensor) -> None:
    if states.isnan().any():
        raise ValueError("a state is NaN: look for NaN in the input or the weights")


class ExitClassifier(nn.Module):
    """Says of a hidden state how likely the readout already gives what the last layer will. One for all layers.

    σ(w · norm(h) + b). The norm is there because the residual stream grows from layer to layer.

    Args:
        dim: features of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_whole("dim", dim, least=1)
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
        TypeError: if one of them is no number, or ``t`` or ``steps`` no int.
        ValueError: if one of them is out of its range.
    """
    check_number("threshold", threshold)
    check_whole("t", t)
    check_whole("steps", steps)
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold that decays lies in 0 … 1; got {threshold}")
    if not 0 <= t < steps:
        raise ValueError(f"t must be one of 0 … {steps - 1}; got {t}")
    if not 0 <= tau < math.inf:
        raise ValueError(f"tau must be finite and not negative; got {tau}")
    return min(max(0.9 * threshold + 0.1 * math.exp(-tau * t / steps), 0.0), 1.0)


def asking(model: CausalLM, confidence: Confidence, classifier: nn.Module | None) -> Ask:
    """The function that a confidence is; arguments as in :func:`dynlib.depth.calm_generate`.

    Raises:
        ValueError: if there is none of that name, or a classifier is missing, or there and not asked.
    """
    if not callable(confidence):
        check_name("confidence", confidence, NAMES)
    if confidence == "classifier":
        if classifier is None:
            raise ValueError("confidence='classifier' needs a classifier: train an ExitClassifier with classifier_loss")
        return lambda before, after: (widen(classifier(after)).sigmoid(), None)
    if classifier is not None:
        raise ValueError(f"confidence={confidence!r} does not ask the classifier given: use confidence='classifier'")
    if confidence == "state":
        return lambda before, after: (state_similarity(before, after), None)
    sure = of_logits.confidence_function(confidence)

    def read(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = said_of(model, after)
        return sure(logits), logits

    return read


def said_of(model: CausalLM, states: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocabulary"]:
    """The logits that the model reads from single states."""
    return model.readout(states[:, None])[:, 0]


def check_leaving(model: CausalLM, min_exit: int, leave: bool) -> None:
    """That tokens can leave after layer ``min_exit``, if any ``leave``: each owes the layers above its keys and values.

    Raises:
        TypeError: if ``min_exit`` is not an int, or a block above the first has nothing to take keys and values from.
        ValueError: if there is no such layer.
    """
    if isinstance(min_exit, bool) or not isinstance(min_exit, int):
        raise TypeError(f"min_exit must be an integer; got {min_exit!r}")
    depth = len(model.blocks)
    if not 1 <= min_exit <= depth:
        raise ValueError(f"min_exit must be one of the layers 1 … {depth}; got {min_exit}")
    if not leave or min_exit == depth:
        return
    for layer, block in enumerate(model.blocks, start=1):
        attention = getattr(block, "attention", None)
        known = hasattr(block, "norm1") and callable(getattr(attention, "keys_values", None))
        if layer > 1 and not (known and getattr(block, "norm_first", True)):
            raise TypeError(
                f"tokens cannot leave below layer {layer}: {type(block).__name__} lacks norm1 or attention.keys_values "
                "through which they can be attended to there, as dynlib.backbone.Block has: use a threshold above 1, "
                "with which nobody leaves"
            )
