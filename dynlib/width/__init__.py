"""How much of a layer runs: a few of many experts, or the first neurons of one layer (MatFormer)."""

from dynlib.width.balance import balance_bias, load_balancing_loss, router_z_loss
from dynlib.width.experts import ExpertsChosen, MixtureOfExperts
from dynlib.width.feed_forward import GatedFeedForward
from dynlib.width.hashing import hash_by_token
from dynlib.width.joint import joint_loss, sampled_loss
from dynlib.width.matformer import MatFormerFeedForward, extract, layer_widths, matformer
from dynlib.width.mix import Mix, mix_and_match
from dynlib.width.upcycling import upcycle

__all__ = [
    "ExpertsChosen",
    "GatedFeedForward",
    "MatFormerFeedForward",
    "Mix",
    "MixtureOfExperts",
    "balance_bias",
    "extract",
    "hash_by_token",
    "joint_loss",
    "layer_widths",
    "load_balancing_loss",
    "matformer",
    "mix_and_match",
    "router_z_loss",
    "sampled_loss",
    "upcycle",
]
