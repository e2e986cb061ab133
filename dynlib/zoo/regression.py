"""A small model that does linear regression in context with a looped block: read in, loop, read out."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynlib.backbone import Block
from dynlib.depth.looped import Looped, window_loss
from dynlib.depth.some_tokens import block_for_some


class PairBlock(nn.Module):
    """Layers in which all tokens attend to the pairs and none to the queries, and a norm that keeps the state's size.

    Args:
        pairs: how many of the first tokens are pairs.
        depth: layers, k.
        dim, heads, hidden: as in :class:`dynlib.backbone.Block`.
    """

    def __init__(self, pairs: int, *, depth: int, dim: int, heads: int, hidden: int | None = None) -> None:
        super().__init__()
        self.pairs = pairs
        self.layers = nn.ModuleList(Block(dim, heads, hidden=hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, state: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """The tokens after all layers."""
        key_mask = self._key_mask(state)
        for layer in self.layers:
            state = layer(state, key_mask=key_mask)
        return self.norm(state)

    def for_some(
        self, state: Float[Tensor, "batch tokens dim"], which: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "chosen dim"]:
        """These tokens alone: see :func:`dynlib.depth.some_tokens.for_some`."""
        key_mask = self._key_mask(state)
        for layer in self.layers[:-1]:
            state = layer(state, key_mask=key_mask)
        return self.norm(block_for_some(self.layers[-1], state, which, key_mask=key_mask))

    def _key_mask(self, state: Tensor) -> Tensor:
        return (torch.arange(state.shape[1], device=state.device) < self.pairs).expand(state.shape[:2])


class RegressionReader(nn.Module):
    """Pairs of points and values, and queries in; the values of the queries out. A :class:`Looped` block in between.

    A pair is one token, read in from its point and its value; a query is one of its point, 0 and a vector that says
    that it is a query. Places are not embedded: the order of the pairs says nothing. Queries do not see each other, so
    that any number of them can be asked at once.

    Args:
        features: of a point.
        pairs: of a prompt.
        dim, heads, hidden: of the block.
        depth: k, layers of the block.
        loops, inject: as in :class:`dynlib.depth.Looped`; the model is (depth ⊗ loops).
    """

    def __init__(
        self,
        *,
        features: int = 3,
        pairs: int = 12,
        dim: int = 48,
        heads: int = 4,
        hidden: int | None = 96,
        depth: int = 1,
        loops: int = 10,
        inject: Literal["add", "none"] = "add",
    ) -> None:
        super().__init__()
        self.features, self.pairs = features, pairs
        self.read_in = nn.Linear(features + 1, dim)
        self.query = nn.Parameter(torch.zeros(dim))
        self.looped = Looped(PairBlock(pairs, depth=depth, dim=dim, heads=heads, hidden=hidden), loops, inject=inject)
        self.read_out = nn.Linear(dim, 1)

    def embed(
        self, x: Float[Tensor, "n pairs features"], y: Float[Tensor, "n pairs"], queries: Float[Tensor, "n q features"]
    ) -> Float[Tensor, "n tokens dim"]:
        """The tokens that go into the loop: first the pairs, then the queries.

        Raises:
            ValueError: if the shapes do not fit each other or the model.
        """
        fits = x.shape[1:] == (self.pairs, self.features) and y.shape == x.shape[:2]
        if not fits or queries.ndim != 3 or queries.shape[::2] != x.shape[::2]:
            raise ValueError(
                f"x must be [n, {self.pairs}, {self.features}], y [n, {self.pairs}] and queries [n, any, "
                f"{self.features}]; got {tuple(x.shape)}, {tuple(y.shape)} and {tuple(queries.shape)}"
            )
        known = self.read_in(torch.cat([x, y[..., None]], dim=-1))
        asked = self.read_in(torch.cat([queries, torch.zeros_like(queries[..., :1])], dim=-1)) + self.query
        return torch.cat([known, asked], dim=1)

    def readout(self, state: Float[Tensor, "*loops n tokens dim"]) -> Float[Tensor, "*loops n q"]:
        """The values that a state of the loop, or several, gives the queries."""
        values: Tensor = self.read_out(state[..., self.pairs :, :])
        return values[..., 0]

    def forward(
        self,
        x: Float[Tensor, "n pairs features"],
        y: Float[Tensor, "n pairs"],
        queries: Float[Tensor, "n q features"],
        *,
        loops: int | None = None,
    ) -> Float[Tensor, "n q"]:
        """The values of the queries after the last loop; ``loops`` is another number than the model's."""
        return self.readout(self.looped(self.embed(x, y, queries), loops=loops))


def regression_loss(
    model: RegressionReader,
    x: Float[Tensor, "n pairs features"],
    y: Float[Tensor, "n pairs"],
    queries: Float[Tensor, "n q features"],
    answers: Float[Tensor, "n q"],
    *,
    window: int,
) -> Float[Tensor, ""]:
    """The squared error of the queries, divided by the features, in the mean over the last ``window`` loops."""

    def loss(state: Tensor) -> Tensor:
        return (model.readout(state) - answers).square().mean() / model.features

    return window_loss(model.looped, model.embed(x, y, queries), loss, window=window)
