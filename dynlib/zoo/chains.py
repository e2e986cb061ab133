"""A small model that follows pointers to their ends with a looped block, all names at once."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import Block
from dynlib.depth.looped import ExitGate, Looped, gated_loss


class ChainReader(nn.Module):
    """Names and what they point to in; logits of the end of each name's chain out. A looped block in between.

    A token is embedded as its name plus the name that it points to, from two tables. Places are not embedded.

    Args:
        names: how many there are, in a sample and in all.
        dim, heads, hidden: of the block.
        depth: k, layers of the block.
        loops, inject: as in :class:`dynlib.depth.Looped`; the model is (depth ⊗ loops).
        gate: with a gate, that gives each token a logit.
    """

    def __init__(
        self,
        *,
        names: int = 20,
        dim: int = 64,
        heads: int = 2,
        hidden: int | None = 128,
        depth: int = 1,
        loops: int = 8,
        inject: Literal["add", "none"] = "add",
        gate: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.points_to = nn.Embedding(names, dim), nn.Embedding(names, dim)
        for table in (self.name, self.points_to):
            nn.init.normal_(table.weight, std=0.5)
        block = nn.Sequential(*(Block(dim, heads, hidden=hidden) for _ in range(depth)), nn.LayerNorm(dim))
        self.looped = Looped(block, loops, inject=inject, gate=ExitGate(dim, each="token") if gate else None)
        self.head = nn.Linear(dim, names)

    def embed(self, names: Int[Tensor, "n names"], points_to: Int[Tensor, "n names"]) -> Float[Tensor, "n names dim"]:
        """The tokens that go into the loop."""
        tokens: Tensor = self.name(names) + self.points_to(points_to)
        return tokens

    def forward(
        self, names: Int[Tensor, "n names"], points_to: Int[Tensor, "n names"], *, loops: int | None = None
    ) -> Float[Tensor, "n names classes"]:
        """Logits after the last loop; ``loops`` is another number than the model's."""
        logits: Tensor = self.head(self.looped(self.embed(names, points_to), loops=loops))
        return logits


def chain_losses(
    model: ChainReader, states: Float[Tensor, "loops n names dim"], ends: Int[Tensor, "n names"]
) -> Float[Tensor, "loops n names"]:
    """The cross-entropy of each state and name, in nats."""
    logits: Tensor = model.head(states)
    return F.cross_entropy(logits.movedim(-1, 1), ends.expand(logits.shape[:-1]), reduction="none")


def gated_chain_loss(
    model: ChainReader,
    names: Int[Tensor, "n names"],
    points_to: Int[Tensor, "n names"],
    ends: Int[Tensor, "n names"],
    *,
    beta: float,
    window: int = 0,
) -> Float[Tensor, ""]:
    """:func:`dynlib.depth.gated_loss` over all loops and names; the model has a gate.

    With a window, the mean over the last loops is added, so that they go on learning where the gate is in a hurry.
    """
    states = model.looped.states(model.embed(names, points_to))
    gate = model.looped.gate
    if gate is None:
        raise ValueError("this model has no gate: ChainReader(…, gate=True)")
    losses = chain_losses(model, states, ends)
    loss = gated_loss(losses, torch.stack([gate(state) for state in states]), beta=beta)
    return loss + losses[-window:].mean() if window else loss
