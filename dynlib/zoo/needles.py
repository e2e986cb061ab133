"""A small reader of needles in noise, made of CoLT5's layers, and the way it is trained.

The heavy branches get a gradient for routed tokens alone, so that a router that starts at random can wait for ever for
the one token that it would have to see. :func:`dynlib.tokens.colt5.narrow` therefore lets it begin with all of them.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.data import needles
from dynlib.data.needles import NOISE, SLOTS, VALUES
from dynlib.tokens.colt5 import ConditionalBlock, narrow


class NeedleReader(nn.Module):
    """A question and needles in noise in, logits of the value that is asked for out; read at the question.

    A needle is embedded as its slot plus its value, and a question by the same slot, each with a sign of its kind.
    Places are not embedded: they say nothing.

    Args:
        dim, depth: features of a token, number of blocks.
        heads, window, and the rest: as in :class:`dynlib.tokens.colt5.ConditionalBlock`.
    """

    def __init__(self, *, dim: int, depth: int, heads: int, window: int, **options: Any) -> None:
        super().__init__()
        self.kind, self.slot, self.value = nn.Embedding(2, dim), nn.Embedding(SLOTS, dim), nn.Embedding(VALUES, dim)
        self.noise = nn.Embedding(NOISE, dim)
        self.blocks = nn.ModuleList([ConditionalBlock(dim, heads, window=window, **options) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, VALUES)

    def vectors(self) -> Float[Tensor, "vocabulary dim"]:
        """What each token of :mod:`dynlib.data.needles` is embedded as."""
        question = self.slot.weight + self.kind.weight[0]
        needle = (self.slot.weight[:, None] + self.value.weight).flatten(0, 1) + self.kind.weight[1]
        return torch.cat([question, needle, self.noise.weight])

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch values"]:
        """Logits of the values."""
        x = F.embedding(tokens, self.vectors())
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


def reading_loss(
    model: nn.Module,
    *,
    steps: int,
    batch: int = 32,
    seed: int = 0,
    hold: float = 0.2,
    end: float = 0.5,
    shrink: bool = True,
    **drawn: int,
) -> Callable[[int], Tensor]:
    """The loss of a step, on fresh sequences; after :func:`dynlib.tokens.colt5.narrow`, unless ``shrink`` is False.

    Args:
        model: a :class:`NeedleReader`.
        steps: of the training.
        batch: sequences a step.
        seed: no two share a sequence.
        hold, end: as in :func:`dynlib.tokens.colt5.narrow`.
        shrink: see above.
        drawn: ``length`` and ``needles``, as in :func:`dynlib.data.needles`.
    """
    set_capacity = narrow(model, steps=steps, hold=hold, end=end) if shrink else None

    def loss(step: int) -> Tensor:
        if set_capacity is not None:
            set_capacity(step)
        some = needles(batch, seed=seed * steps + step, **drawn)  # type: ignore[arg-type]
        return F.cross_entropy(model(some.tokens), some.labels)

    return loss
