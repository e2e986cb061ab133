"""What exits are trained on: the mean of their losses.

Source: arXiv:1810.07052 (later exits weighted more).
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dynlib.inputs import check_tensor, widen
from dynlib.transforms import double, look


def exit_loss(
    logits: Float[Tensor, "exits batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    weights: Literal["uniform", "depth"] | Sequence[float | int] | Tensor = "uniform",
) -> Float[Tensor, ""]:
    """The mean cross-entropy of every exit, averaged over the exits: L = Σᵢ wᵢ CEᵢ / Σᵢ wᵢ.

    To train the heads of a backbone that stands still, detach the features: ``model(x, detach=True)``.

    Args:
        logits: of all exits, as :class:`dynlib.depth.MultiExit` gives them.
        labels: the right classes, int64.
        weights: "uniform": all exits alike, wᵢ = 1. "depth": later exits more, wᵢ = i for i = 1, 2, …, so that early
            heads bend the backbone less. Or a number for each exit, not negative; they are divided by their sum.

    Raises:
        TypeError: if the logits are no tensor of floating-point numbers, or the labels none of int64.
        ValueError: if there are no logits, the labels are not one for each sample or not a class, or the weights have
            another name, are not one for each exit, negative, NaN, infinite, or zero throughout.
    """
    check_tensor(logits, "logits")
    check_tensor(labels, "labels")
    if not logits.is_floating_point() or labels.dtype != torch.int64:
        raise TypeError(f"need floating-point logits and int64 labels; got {logits.dtype} and {labels.dtype}")
    if logits.ndim != 3 or logits.numel() == 0 or labels.shape != logits.shape[1:2]:
        raise ValueError(
            "logits must be [exits, batch, classes] and labels [batch], none of them 0; got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    exits, batch, classes = logits.shape
    look(partial(_check_labels, classes=classes), labels)
    wide = widen(logits)
    w = _exit_weights(weights, exits).to(wide)
    # CEᵢ, the mean over the batch
    losses = F.cross_entropy(wide.flatten(0, 1), labels.repeat(exits), reduction="none").view(exits, batch).mean(1)
    # L = Σᵢ wᵢ CEᵢ / Σᵢ wᵢ
    return (w / w.sum()) @ losses


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be 0 … {classes - 1}; got {int(labels.min())} … {int(labels.max())}")


def _exit_weights(weights: str | Sequence[float | int] | Tensor, exits: int) -> Tensor:
    if isinstance(weights, str):
        if weights not in ("uniform", "depth"):
            raise ValueError(f"weights must be 'uniform', 'depth', or a number for each exit; got {weights!r}")
        return torch.arange(1.0, exits + 1) if weights == "depth" else torch.ones(exits)
    w = double(torch.as_tensor(weights))
    if w.shape != (exits,) or not (w.isfinite().all() and (w >= 0).all() and w.sum() > 0):
        raise ValueError(
            f"weights must be {exits} numbers, one for each exit, not negative, and not all 0; got {weights}"
        )
    return w
