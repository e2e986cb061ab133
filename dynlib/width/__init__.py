"""How much of a layer runs: MatFormer."""

from dynlib.width.feed_forward import GatedFeedForward
from dynlib.width.matformer import (
    MatFormerFeedForward,
    extract,
    joint_loss,
    layer_widths,
    matformer,
    sampled_loss,
)

__all__ = [
    "GatedFeedForward",
    "MatFormerFeedForward",
    "extract",
    "joint_loss",
    "layer_widths",
    "matformer",
    "sampled_loss",
]
