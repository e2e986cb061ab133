"""Attention: among tokens in a row, to a layer's past, or within sequences that lie end to end."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from dynlib.backbone.cache import LayerCache
from dynlib.inputs import check_key_mask, spread_positions


def rotate(
    x: Float[Tensor, "batch heads tokens head_dim"], positions: Int[Tensor, "batch tokens"], base: float = 10_000.0
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Rotary position encoding: turn each pair of features by an angle that grows with the position.

    Pair i of a token at position p turns by p · base^(−2i / head_dim); Eq. 15 of arXiv:2104.09864. The pairs are the
    features i and i + head_dim / 2.
    """
    return _turn(x, *_turns(x, positions, base))


def _turns(
    x: Tensor, positions: Tensor, base: float = 10_000.0, frequencies: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each pair's angle, [batch, 1, tokens, head_dim / 2]: the same for all heads."""
    if frequencies is None:
        half = x.shape[-1] // 2
        exact = torch.promote_types(x.dtype, torch.float32)  # half precision cannot tell far positions apart
        frequencies = base ** (-torch.arange(half, device=x.device, dtype=exact) / half)
    angles = positions[:, None, :, None].to(frequencies.dtype) * frequencies
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention, softmax(q kᵀ / √head_dim) v.

    Args:
        dim: features of a token.
        heads: number of heads; divides ``dim``, unless ``head_dim`` is given.
        causal: a token attends only to positions up to its own.
        rotary: queries and keys carry their position by rotation (:func:`rotate`). A tensor [head_dim / 2] says how far
            each pair turns from one position to the next, in place of 10000^(−2i / head_dim); angles are then computed
            in its number type.
        key_value_heads: how many heads there are of keys and values, each shared by heads / key_value_heads neighbours
            of the queries'; as many as ``heads`` if left out.
        head_dim: features of a head; dim / heads if left out.
        bias: whether queries, keys and values have one.
        output_bias: whether the output has one.
        dropout: share of the attention weights that training drops.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        rotary: bool | Float[Tensor, " pairs"] = False,
        key_value_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        output_bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dim < 1 or heads < 1 or (head_dim is None and dim % heads):
            raise ValueError(f"dim must be a multiple of heads, both positive; got dim={dim}, heads={heads}")
        head_dim = dim // heads if head_dim is None else head_dim
        shared = heads if key_value_heads is None else key_value_heads
        if head_dim < 1 or shared < 1 or heads % shared:
            raise ValueError(
                "heads must be a multiple of key_value_heads, and head_dim positive; got "
                f"heads={heads}, key_value_heads={shared}, head_dim={head_dim}"
            )
        self.frequencies: Tensor | None = rotary if isinstance(rotary, Tensor) else None
        self.rotary = self.frequencies is not None or bool(rotary)
        if self.rotary and head_dim % 2:
            raise ValueError(f"rotary positions turn pairs of features; dim / heads = {head_dim} is odd")
        if self.frequencies is not None and self.frequencies.shape != (head_dim // 2,):
            raise ValueError(
                f"rotary must have one number for each of the {head_dim // 2} pairs of a head; got shape "
                f"{tuple(self.frequencies.shape)}"
            )
        self.heads, self.key_value_heads, self.head_dim, self.causal = heads, shared, head_dim, causal
        self.dropout = dropout
        self.query_key_value = nn.Linear(dim, (heads + 2 * shared) * head_dim, bias=bias)
        self.output = nn.Linear(heads * head_dim, dim, bias=output_bias)

    def keys_values(
        self, x: Float[Tensor, "batch tokens dim"], positions: Int[Tensor, "batch tokens"] | None = None
    ) -> tuple[Float[Tensor, "batch heads tokens head_dim"], Float[Tensor, "batch heads tokens head_dim"]]:
        """The keys and values of these tokens alone: what a layer that is skipped still owes to its cache.

        ``x`` is what :meth:`forward` would get. Positions left out are 0, 1, 2, …: give them where there is a past.
        The queries cost nothing where ``query_key_value`` is a plain linear layer. What was put in its place (an
        adapter, a quantised layer), and one that is hooked, is called as a whole.
        """
        layer = self.query_key_value
        if _is_plain(layer):
            queries = self.heads * self.head_dim
            bias = None if layer.bias is None else layer.bias[queries:]
            keys, values = self._split(F.linear(x, layer.weight[queries:], bias), 2)
        else:
            _, keys, values = self._split(layer(x), 3)
        return (self.turned(keys, spread_positions(positions, x)) if self.rotary else keys), values

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        key_mask: Bool[Tensor, "batch keys"] | None = None,
        positions: Int[Tensor, "batch tokens"] | Int[Tensor, " tokens"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attend among the tokens of ``x``, and to those in ``cache``, to which they are added.

        Args:
            x: the tokens.
            key_mask: True where a key may be attended to. Its keys are the cached tokens, then those of ``x``. A token
                that may attend to nothing gets zeros from the heads.
            positions: where each token stands in its sequence, which matters for ``causal`` and ``rotary``. Left out,
                0, 1, 2, … from the end of the cache on. A token at -1 is not there: nobody attends to it.
            cache: the layer's past. Written in place.

        Raises:
            ValueError: if ``key_mask``, ``positions`` or ``cache`` do not fit the tokens; the cache is then as it was.
            TypeError: if ``key_mask`` is not bool, or ``positions`` are not whole numbers.
        """
        if key_mask is not None:
            check_key_mask(key_mask, x.shape[0], x.shape[1], cached=cache.length if cache else 0)
        query, keys, values = self._split(self.query_key_value(x), 3)
        ordered = positions is None and key_mask is None and cache is None
        # Positions matter only where something depends on them: a mask, a rotation, or a past.
        where = None if ordered and not self.rotary else spread_positions(positions, x, cache.length if cache else 0)
        if self.rotary and where is not None:
            cos, sin = self._turns(query, where)
            query, keys = _turn(query, cos, sin), _turn(keys, cos, sin)
        if ordered:
            mixed = self._attend(query, keys, values, is_causal=self.causal)
        else:
            assert where is not None
            key_positions = where
            if cache is not None:
                cache.append(keys, values, where)
                keys, values, key_positions = cache.keys, cache.values, cache.positions
                if query.requires_grad and not (keys.requires_grad or values.requires_grad):
                    keys, values = keys.clone(), values.clone()  # the next token is written beside them
            allowed = (key_positions >= 0)[:, None, :]  # [batch, queries, keys]
            if self.causal:
                allowed = allowed & (key_positions[:, None, :] <= where[:, :, None])
            if key_mask is not None:
                allowed = allowed & key_mask[:, None, :]
            mixed = self._attend(query, keys, values, attn_mask=allowed[:, None])
        return self.output(mixed.transpose(1, 2).flatten(2))

    def packed(self, x: Float[Tensor, "tokens dim"], lengths: Sequence[int]) -> Float[Tensor, "tokens dim"]:
        """Attend within sequences that lie end to end, without anything that fills up the shorter ones.

        Neighbours of equal length attend together: sort the sequences by length, and there are few calls.

        Args:
            x: the tokens of all sequences.
            lengths: of the sequences, from 1 on; their sum is the number of tokens.

        Raises:
            ValueError: if the lengths are not positive, or do not add up to the tokens.
        """
        if sum(lengths) != len(x) or any(length < 1 for length in lengths):
            raise ValueError(f"lengths must be positive and add up to the {len(x)} tokens; got {list(lengths)}")
        mixed, start = [], 0
        heads = self.query_key_value(x).unflatten(-1, (-1, self.head_dim))  # [tokens, all heads, head_dim]
        parts = self._parts(heads, 3)
        for length, alike in groupby(lengths):
            count = len(list(alike))
            rows = slice(start, start := start + count * length)
            query, keys, values = (part[rows].unflatten(0, (count, length)).transpose(1, 2) for part in parts)
            if self.rotary:
                where = torch.arange(length, device=x.device).expand(count, length)
                cos, sin = self._turns(query, where)
                query, keys = _turn(query, cos, sin), _turn(keys, cos, sin)
            together = self._attend(query, keys, values, is_causal=self.causal)
            mixed.append(together.transpose(1, 2).flatten(0, 1).flatten(1))
        return self.output(torch.cat(mixed))

    def turned(
        self, x: Float[Tensor, "batch heads tokens head_dim"], positions: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch heads tokens head_dim"]:
        """Queries or keys turned by their positions, if this attention is rotary; else as they are."""
        return _turn(x, *self._turns(x, positions)) if self.rotary else x

    def _parts(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        # all heads along dimension 1 -> the last of (queries, keys, values), each with its heads there
        return packed.split((self.heads, self.key_value_heads, self.key_value_heads)[-parts:], dim=1)

    def _split(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        # [batch, tokens, all heads · head_dim] -> parts × [batch, heads, tokens, head_dim]
        return self._parts(packed.unflatten(-1, (-1, self.head_dim)).transpose(1, 2), parts)

    def _turns(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        if self.frequencies is not None and self.frequencies.device != x.device:
            self.frequencies = self.frequencies.to(x.device)
        return _turns(x, positions, frequencies=self.frequencies)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, **mask: Any) -> Tensor:
        dropped = self.dropout if self.training else 0.0
        shared = self.key_value_heads != self.heads
        return F.scaled_dot_product_attention(query, keys, values, dropout_p=dropped, enable_gqa=shared, **mask)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a call of this linear layer is its weight and bias and nothing else, so that rows of it can be taken."""
    return (
        type(layer) is nn.Linear
        and type(layer.weight) in (Tensor, nn.Parameter)  # and not one that keeps its numbers in its own way
        and not hooked(layer)
        and not _has_any_global_hook()
    )


def hooked(module: nn.Module) -> bool:
    """Whether a call of this module runs more than its class's ``forward``."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)
