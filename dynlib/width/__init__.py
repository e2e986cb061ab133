"""How much of a layer runs: a few of many experts, the first neurons of it (MatFormer), its first learners (ACM)."""

from dynlib.width.acm import AdaptiveComputationModule, LearnersChosen
from dynlib.width.acm_conversion import acmize
from dynlib.width.acm_losses import acm_loss, budget_loss, diversity_loss, entropy_loss
from dynlib.width.acm_price import fold_price, gates_share, price_for, shares_of_tokens
from dynlib.width.acm_training import distill, gate_targets, prefix_errors, pretrain_gates
from dynlib.width.balance import balance_bias, load_balancing_loss, router_z_loss
from dynlib.width.experts import ExpertsChosen, MixtureOfExperts
from dynlib.width.feed_forward import GatedFeedForward
from dynlib.width.hashing import hash_by_token
from dynlib.width.joint import joint_loss, sampled_loss
from dynlib.width.matformer import MatFormerFeedForward, extract, layer_widths, matformer
from dynlib.width.mix import Mix, mix_and_match
from dynlib.width.upcycling import upcycle

__all__ = [
    "AdaptiveComputationModule",
    "ExpertsChosen",
    "GatedFeedForward",
    "LearnersChosen",
    "MatFormerFeedForward",
    "Mix",
    "MixtureOfExperts",
    "acm_loss",
    "acmize",
    "balance_bias",
    "budget_loss",
    "distill",
    "diversity_loss",
    "entropy_loss",
    "extract",
    "fold_price",
    "gate_targets",
    "gates_share",
    "hash_by_token",
    "joint_loss",
    "layer_widths",
    "load_balancing_loss",
    "matformer",
    "mix_and_match",
    "prefix_errors",
    "pretrain_gates",
    "price_for",
    "router_z_loss",
    "sampled_loss",
    "shares_of_tokens",
    "upcycle",
]
