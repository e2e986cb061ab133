"""CoLT5: every token gets a light layer, and the few that matter a heavy one on top.

A router gives every token one number, s = x · u. The smooth top-k (:func:`dynlib.choice.soft_topk`) turns the numbers
of a sequence into weights s̃ between 0 and 1 that sum to k, the k tokens with the largest are *routed*, and those of all
others are 0. With X the normalised tokens, a feed-forward and an attention layer add

    Light(X)ᵢ + s̃ᵢ · Heavy(X)ᵢ                          k routed tokens,
    A_L(X, X)ᵢ + s̃ᵢ^q · A_H(Xᵢ, s̃^kv X)                 q routed queries over v routed keys and values,

where A_L looks no further than a window. Three routers decide apart from each other: who is worth a large feed-forward
layer, who asks, and who is asked. The weights stand on the path, because it is the only way for a router to learn; they
multiply what is already normalised, since a norm would take them out again.

Everything is for encoders: who is routed depends on the whole sequence. The router stands in
:mod:`dynlib.tokens.colt5_router`.

Source: arXiv:2303.09752, section 3. The smooth top-k is there iterated, and exact here.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import FeedForward, rotate
from dynlib.deciding import Execution, check_execution, chosen, knob_of
from dynlib.inputs import check_features, check_whole
from dynlib.tokens.colt5_router import Router, Routing, narrow
from dynlib.tokens.local_attention import local_attention
from dynlib.tokens.routing import Routed

__all__ = ["ConditionalAttention", "ConditionalBlock", "ConditionalFeedForward", "Router", "Routing", "narrow"]


class ConditionalFeedForward(nn.Module):
    """A light feed-forward part for all tokens and a heavy one for the routed: Light(x)ᵢ + s̃ᵢ · Heavy(x)ᵢ.

    It takes the place of :class:`dynlib.backbone.FeedForward`: it gets normalised tokens and gives what is to be added
    to the residual stream. Neither norm nor residual is in it; the paper's X + … is the block's.

    Args:
        dim: features of a token.
        light, heavy: hidden features of the two; 2 · dim and 16 · dim if left out, half of and four times what is
            usual. With a sixteenth of the tokens routed that is three quarters of the usual FLOPs.
        capacity, epsilon, reach, routing: as in :class:`Router`.
        execution: "gathered" runs the heavy part on the routed tokens alone. "masked" runs it on all and takes what was
            routed, and is there to be compared with.

    Capacity and execution are knobs; those of ``router`` are its own.

    Raises:
        TypeError, ValueError: as :class:`Router` does, if a size is not positive, or the execution has another name.
    """

    knobs = ("capacity", "execution")
    capacity = knob_of("router.capacity")

    def __init__(
        self,
        dim: int,
        *,
        light: int | None = None,
        heavy: int | None = None,
        capacity: float | int = 1 / 16,
        epsilon: float | int = 1.0,
        reach: float | int = 1.0,
        routing: Routing = "learned",
        execution: Execution = "gathered",
    ) -> None:
        super().__init__()
        self.light = FeedForward(dim, 2 * dim if light is None else light)
        self.heavy = FeedForward(dim, 16 * dim if heavy is None else heavy)
        self.router = Router(dim, capacity, epsilon=epsilon, reach=reach, routing=routing)
        self.execution: Execution = execution
        check_execution(execution)

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for a knob that is not as the class says."""
        check_execution(self.execution)
        self.router.check_knobs()

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
        k: int | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Transform every token; arguments and errors as in :meth:`Router.forward`."""
        check_execution(self.execution)
        mask, weight, *_ = self.router(x, key_mask=key_mask, k=k)
        light = self.light(x)
        if self.execution == "masked":
            return light + weight[..., None].to(light.dtype) * self.heavy(x)
        flat = chosen(mask)
        return _add(light, flat, weight, self.heavy(x.flatten(0, 1).index_select(0, flat)))


class ConditionalAttention(nn.Module):
    """Light local attention for all tokens, heavy attention of routed queries over routed keys and values.

    A_L(x, x)ᵢ + s̃ᵢ^q · A_H(xᵢ, s̃^kv x). As :class:`dynlib.backbone.Attention` it gets normalised tokens and gives what
    is to be added to the residual stream. s̃^kv scales the tokens of which keys and values are made, after the norm, so
    that it fades both: a token of weight near 0 is a key like any other and says next to nothing.

    Args:
        dim: features of a token.
        heads: of both branches together, at least 2; divides ``dim``. Every head has dim / heads features.
        window: how many tokens to each side the light branch sees; at least 1. A larger one spends more.
        light_heads: heads of the light branch; a quarter, at least one, if left out. The rest are the heavy branch's.
        query_capacity, key_capacity: shares of the tokens that ask, and that are asked. Larger ones spend more.
        epsilon, reach, routing: of both routers, as in :class:`Router`.
        rotary: queries and keys carry their place in the sequence by rotation, in both branches.
        execution: "gathered" computes routed queries and keys alone. "masked" computes all, and is there to be compared
            with.

    The two capacities, the window and the execution are knobs; those of the two routers are their own.

    Raises:
        ValueError: as :class:`Router` does, if the heads do not divide ``dim`` or leave a branch without any, the
            window is below 1, ``rotary`` meets an odd dim / heads, or the execution has another name.
        TypeError: as :class:`Router` does, or if the window is not an int.
    """

    knobs = ("query_capacity", "key_capacity", "window", "execution")
    query_capacity = knob_of("query_router.capacity")
    key_capacity = knob_of("key_router.capacity")

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int,
        light_heads: int | None = None,
        query_capacity: float | int = 1 / 16,
        key_capacity: float | int = 1 / 8,
        epsilon: float | int = 1.0,
        reach: float | int = 1.0,
        routing: Routing = "learned",
        rotary: bool = False,
        execution: Execution = "gathered",
    ) -> None:
        super().__init__()
        if dim < 1 or heads < 2 or dim % heads:
            raise ValueError(f"dim must be a multiple of heads, and heads at least 2; got dim={dim}, heads={heads}")
        if rotary and (dim // heads) % 2:
            raise ValueError(f"rotary positions turn pairs of features; dim / heads = {dim // heads} is odd")
        check_whole("window", window, least=1, what="tokens to each side")
        light_heads = max(heads // 4, 1) if light_heads is None else light_heads
        if not 1 <= light_heads < heads:
            raise ValueError(f"light_heads must leave each branch a head, from 1 to {heads - 1}; got {light_heads}")
        check_execution(execution)
        self.window, self.head_dim, self.rotary = window, dim // heads, rotary
        self.execution: Execution = execution
        light, heavy = light_heads * self.head_dim, (heads - light_heads) * self.head_dim
        self.light_query_key_value = nn.Linear(dim, 3 * light)
        self.light_output = nn.Linear(light, dim)
        self.heavy_query = nn.Linear(dim, heavy)
        self.heavy_key_value = nn.Linear(dim, 2 * heavy)
        self.heavy_output = nn.Linear(heavy, dim)
        self.query_router = Router(dim, query_capacity, epsilon=epsilon, reach=reach, routing=routing)
        self.key_router = Router(dim, key_capacity, epsilon=epsilon, reach=reach, routing=routing)

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for a knob that is not as the class says."""
        self._check_own()
        self.query_router.check_knobs()
        self.key_router.check_knobs()

    def _check_own(self) -> None:
        check_whole("window", self.window, least=1, what="tokens to each side")
        check_execution(self.execution)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
        queries: int | None = None,
        keys: int | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attend.

        Args:
            x: the tokens, normalised.
            key_mask: False where a token is not there: it is neither routed nor attended to. Who may attend to nobody
                gets zeros from the heads.
            queries, keys: route this many of every sequence, in place of what the capacities say; ``k`` of
                :meth:`Router.forward`.

        Raises:
            TypeError, ValueError: as :meth:`Router.forward` does.
        """
        self._check_own()
        asking = self.query_router(x, key_mask=key_mask, k=queries)
        asked = self.key_router(x, key_mask=key_mask, k=keys)
        # A_L(x, x)
        query, key, value = self._split(self.light_query_key_value(x), 3)
        if self.rotary:
            query, key = self._turn(query), self._turn(key)
        mixed = local_attention(query, key, value, self.window, key_mask=key_mask)
        light = self.light_output(mixed.transpose(1, 2).flatten(2))
        execute = self._masked if self.execution == "masked" else self._gathered
        return execute(x, light, asking, asked)

    def _masked(self, x: Tensor, light: Tensor, asking: Routed, asked: Routed) -> Tensor:
        (query,) = self._split(self.heavy_query(x), 1)
        # s̃^kv x: scaled after the norm
        key, value = self._split(self.heavy_key_value(asked.weight[..., None] * x), 2)
        if self.rotary:
            query, key = self._turn(query), self._turn(key)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=asked.mask[:, None, None])
        heavy = self.heavy_output(mixed.transpose(1, 2).flatten(2))
        return light + asking.weight[..., None].to(light.dtype) * heavy

    def _gathered(self, x: Tensor, light: Tensor, asking: Routed, asked: Routed) -> Tensor:
        batch, tokens, dim = x.shape
        flat = x.flatten(0, 1)
        here, asks = _places(asking.mask)  # the queries, then the keys and values
        there, answers = _places(asked.mask)
        (query,) = self._split(self.heavy_query(flat.index_select(0, here).view(batch, -1, dim)), 1)
        # s̃^kv x: scaled after the norm
        scaled = asked.weight.flatten()[there, None] * flat.index_select(0, there)
        key, value = self._split(self.heavy_key_value(scaled.view(batch, -1, dim)), 2)
        if self.rotary:  # by where they stood in the sequence
            query = self._turn(query, (here % tokens).view(batch, -1))
            key = self._turn(key, (there % tokens).view(batch, -1))
        if query.shape[2] == 0 or key.shape[2] == 0:  # nobody asks, or nobody is asked
            mixed = torch.zeros_like(query)
        else:
            allowed = None if answers is None else answers.view(batch, 1, 1, -1)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        heavy = self.heavy_output(mixed.transpose(1, 2).flatten(2)).flatten(0, 1)
        if asks is not None:
            here, heavy = here[asks], heavy[asks]
        return _add(light, here, asking.weight, heavy)

    def _split(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        # [batch, tokens, parts · heads · head_dim] -> parts × [batch, heads, tokens, head_dim]
        heads = packed.shape[-1] // (parts * self.head_dim)
        return packed.unflatten(-1, (parts, heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)

    def _turn(self, part: Tensor, positions: Tensor | None = None) -> Tensor:
        if positions is None:
            positions = torch.arange(part.shape[2], device=part.device).expand(len(part), -1)
        return rotate(part, positions)


class ConditionalBlock(nn.Module):
    """One pre-norm layer of both: as :class:`dynlib.backbone.Block`, with conditional attention and feed-forward parts.

    Args:
        dim, heads, window, rotary: as in :class:`ConditionalAttention`.
        capacity: share of the tokens for the heavy feed-forward part.
        query_capacity, key_capacity: shares for the heavy attention; by default as ``capacity``, and twice as many.
        light, heavy: as in :class:`ConditionalFeedForward`.
        epsilon, reach, routing, execution: of both.

    The capacities are knobs; the execution is one of each part, ``setting(block, (ConditionalAttention,
    ConditionalFeedForward), execution="masked")``.

    Raises:
        TypeError, ValueError: as the two do.
    """

    knobs = ("capacity", "query_capacity", "key_capacity")
    capacity = knob_of("feed_forward.router.capacity")
    query_capacity = knob_of("attention.query_router.capacity")
    key_capacity = knob_of("attention.key_router.capacity")

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: int,
        capacity: float | int = 1 / 16,
        query_capacity: float | int | None = None,
        key_capacity: float | int | None = None,
        light: int | None = None,
        heavy: int | None = None,
        epsilon: float | int = 1.0,
        reach: float | int = 1.0,
        routing: Routing = "learned",
        rotary: bool = False,
        execution: Execution = "gathered",
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = ConditionalAttention(
            dim,
            heads,
            window=window,
            query_capacity=capacity if query_capacity is None else query_capacity,
            key_capacity=min(2 * capacity, 1) if key_capacity is None else key_capacity,
            epsilon=epsilon,
            reach=reach,
            routing=routing,
            rotary=rotary,
            execution=execution,
        )
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = ConditionalFeedForward(
            dim,
            light=light,
            heavy=heavy,
            capacity=capacity,
            epsilon=epsilon,
            reach=reach,
            routing=routing,
            execution=execution,
        )

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for a knob that is not as the class says."""
        self.attention.check_knobs()
        self.feed_forward.check_knobs()

    def update(
        self, x: Float[Tensor, "batch tokens dim"], *, key_mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """What the block adds to ``x``: a + FF(norm₂(x + a)) with a = attention(norm₁(x))."""
        check_features(x, self.norm1.normalized_shape[0])  # the norm would say it in its own words
        attended = self.attention(self.norm1(x), key_mask=key_mask)
        return attended + self.feed_forward(self.norm2(x + attended), key_mask=key_mask)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], *, key_mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """The tokens with the block's update added; ``key_mask`` is False where a token is not there."""
        return x + self.update(x, key_mask=key_mask)


def _places(mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Where in the flattened batch the chosen tokens stand, as many in each row, and which of these are no filling up.

    The second is None where all are chosen.
    """
    flat = chosen(mask)
    counts = mask.sum(1).tolist()
    most = max(counts)
    if min(counts) == most:
        return flat, None
    # the chosen in their order, then others
    index = (~mask).byte().argsort(dim=1, stable=True)[:, :most]
    start = mask.shape[1] * torch.arange(len(mask), device=mask.device)
    return (index + start[:, None]).flatten(), mask.gather(1, index).flatten()


def _add(light: Tensor, flat: Tensor, weight: Tensor, heavy: Tensor) -> Tensor:
    """light + s̃ · heavy at the places of the flattened batch, and light elsewhere.

    Not written into ``light``: it is another layer's output, which a hook, or the backward pass, may still look at.
    """
    scaled = (weight.flatten()[flat, None] * heavy).to(light.dtype)
    return light.flatten(0, 1).index_add(0, flat, scaled).view_as(light)
