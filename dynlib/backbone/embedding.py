"""What the models share before their first block: tokens that are checked, positions, dropout, and first weights."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.inputs import check_tensor, spread_positions
from dynlib.transforms import look


def check_tokens(tokens: Tensor, vocabulary: int, name: str = "tokens") -> None:
    """Raises TypeError or ValueError for what is not whole numbers [batch, tokens] from 0 to ``vocabulary`` − 1."""
    check_tensor(tokens, name)
    if tokens.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be int64 or int32; got {tokens.dtype}: encode text first")
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise ValueError(f"{name} must be [batch, tokens], at least one token; got shape {tuple(tokens.shape)}")
    look(partial(_check_range, most=vocabulary - 1, name=name), tokens)


def _check_range(tokens: Tensor, most: int, name: str) -> None:
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high > most:
        raise ValueError(f"{name} must lie in 0 … {most}; got {low} … {high}")


def learned_places(positions: Tensor | None, tokens: Tensor, table: nn.Embedding) -> Tensor:
    """Where in ``table`` to look up the positions of ``tokens``; anywhere for one at -1, which is not there.

    Raises:
        TypeError, ValueError: as :func:`dynlib.inputs.spread_positions` does, or if one stands beyond the table.
    """
    places = spread_positions(positions, tokens).clamp(min=0)
    look(partial(_check_places, length=table.num_embeddings), places)
    return places


def _check_places(places: Tensor, length: int) -> None:
    if int(places.max()) >= length:
        raise ValueError(
            f"there are {length} learned positions, 0 … {length - 1}; a token stands at {int(places.max())}"
        )


def dropped(embedded: Tensor, model: Any) -> Tensor:
    """Embedded tokens, of which training drops a share of the features, ``model.embedding_dropout``."""
    share = model.embedding_dropout
    return F.dropout(embedded, share, model.training) if share else embedded


def initialise(model: nn.Module, depth: int) -> None:
    """Normal weights of standard deviation 1/√fan-in; those that write to the residual stream smaller by 1/√(2·depth).

    Embeddings start small, 0.02, biases at zero. Starting every weight at 0.02, as large models do, leaves a model this
    narrow at chance for hundreds of steps.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(("attention.output", "feed_forward.contract")):
                module.weight.data /= (2 * max(depth, 1)) ** 0.5
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
