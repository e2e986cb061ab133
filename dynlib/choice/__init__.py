"""Decide: ways to make a discrete choice and still learn through it.

All work under ``torch.func`` and ``vmap`` in reverse mode (where they draw, ask for ``randomness="different"`` or
``"same"``), for batches of gradients, and compiled; forward mode and, where a docstring says so, second derivatives are
refused. In a compiled graph the values of the input are not looked at. They take tensors, not arrays or lists.
"""

from dynlib.choice.gumbel import (
    gumbel_max,
    gumbel_noise,
    gumbel_sigmoid,
    gumbel_softmax,
    softmax_ste,
    straight_through,
)
from dynlib.choice.perturbed import fenchel_young_loss, perturbed_argmax, perturbed_max
from dynlib.choice.score import leave_one_out, score_function_loss
from dynlib.choice.sparse import entmax, entmax15, sparsemax
from dynlib.choice.sparse_loss import entmax15_loss, entmax_loss, sparsemax_loss
from dynlib.choice.subset import gumbel_topk, relaxed_topk, sample_subset, soft_topk, subset_marginals

__all__ = [
    "entmax",
    "entmax15",
    "entmax15_loss",
    "entmax_loss",
    "fenchel_young_loss",
    "gumbel_max",
    "gumbel_noise",
    "gumbel_sigmoid",
    "gumbel_softmax",
    "gumbel_topk",
    "leave_one_out",
    "perturbed_argmax",
    "perturbed_max",
    "relaxed_topk",
    "sample_subset",
    "score_function_loss",
    "soft_topk",
    "softmax_ste",
    "sparsemax",
    "sparsemax_loss",
    "straight_through",
    "subset_marginals",
]
