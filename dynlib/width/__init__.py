"""How much of a layer runs: MatFormer."""

from dynlib.width.feed_forward import GatedFeedForward
from dynlib.width.joint import joint_loss, sampled_loss
from dynlib.width.matformer import MatFormerFeedForward, extract, layer_widths, matformer
from dynlib.width.mix import Mix, mix_and_match

__all__ = [
    "GatedFeedForward",
    "MatFormerFeedForward",
    "Mix",
    "extract",
    "joint_loss",
    "layer_widths",
    "matformer",
    "mix_and_match",
    "sampled_loss",
]
