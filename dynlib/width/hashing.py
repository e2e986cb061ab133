"""Experts without a router: a table says which expert a token goes to, by its number and nothing else.

A learned router is worth what it wins against this one: parameters without FLOPs they have both.

Source: arXiv:2106.04426.
"""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dynlib.inputs import check_tensor
from dynlib.width.experts import MixtureOfExperts


def hash_by_token(
    model: nn.Module, table: Int[Tensor, " vocabulary"] | None = None, *, embedding: str = "embedding"
) -> "HashedByToken":
    """From now on the layers with hash routing send each token where a table says, by the token's number alone.

    All layers use one table. What the model is called with must be in whole sequences: layers that run for some of the
    tokens only do not know which.

    Args:
        model: holds the layers, and an embedding that is called with the tokens' numbers before them.
        table: an expert, from 0, for each token of the vocabulary. If left out, a multiplicative hash of the number.
        embedding: the embedding's name in the model.

    Returns:
        What tells the layers, at each call; its ``remove()`` ends it.

    Raises:
        TypeError: if the table's entries are not whole numbers.
        ValueError: if the model has no such layer, or an entry is not one of its experts.
    """
    layers = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no MixtureOfExperts: put one in the place of a feed-forward part")
    if table is not None:
        check_tensor(table, "the table")
        if table.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"the table holds numbers of experts, int64; got {table.dtype}")
        fewest = min(layer.experts for layer in layers)
        if table.ndim != 1 or table.numel() == 0 or int(table.min()) < 0 or int(table.max()) >= fewest:
            raise ValueError(f"the table must be [vocabulary] of experts 0 … {fewest - 1}; got {list(table.shape)}")
    return HashedByToken(model.get_submodule(embedding), layers, table)


class HashedByToken:
    """A hook of the embedding. It holds the layers, so that in a copy of the model it tells those of the copy."""

    def __init__(self, embedding: nn.Module, layers: list[MixtureOfExperts], table: Tensor | None) -> None:
        self.layers, self.table = layers, table
        self._handle = embedding.register_forward_pre_hook(self)

    def __call__(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tokens = inputs[0].long()
        for layer in self.layers:
            # multiplicative hashing: the factor is a prime near 2³² over the golden ratio, the high bits are well mixed
            mixed = tokens * 2654435761 % 2**32 // 2**16 % layer.experts
            layer._hashed = mixed if self.table is None else self.table.to(tokens.device)[tokens].long()

    def remove(self) -> None:
        """The layers are told nothing any more, and forget what they were told."""
        self._handle.remove()
        for layer in self.layers:
            layer._hashed = None
