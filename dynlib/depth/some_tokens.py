"""One layer for some of the tokens: their queries, the keys and values of all, and the rest for these tokens alone.

It is what a token that goes on costs among others that have stopped, and are still seen.
"""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynlib.backbone import Block, FeedForward, GatedFeedForward, RMSNorm
from dynlib.deciding import chosen

EACH_ON_ITS_OWN = (
    nn.LayerNorm,
    nn.RMSNorm,
    RMSNorm,
    nn.Linear,
    FeedForward,
    GatedFeedForward,
    nn.GELU,
    nn.ReLU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Identity,
    nn.Dropout,
)
"""Layers of which it is known that they treat every token on its own."""


@runtime_checkable
class ForSome(Protocol):
    """What a block of one's own has, if some of its tokens can be computed without the others."""

    def for_some(
        self, x: Float[Tensor, "batch tokens dim"], which: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "chosen dim"]:
        """What the block makes of the chosen tokens, in their order, the first sample's first."""


def for_some(
    block: nn.Module, x: Float[Tensor, "batch tokens dim"], which: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "chosen dim"]:
    """``block(x)[which]``, and only what that takes is computed.

    Of several layers that mix tokens, only the last can leave some out: the layers before it are computed for all,
    as the last one's keys and values are made of them.

    Args:
        block: a :class:`dynlib.backbone.Block`, a layer that treats every token on its own, an ``nn.Sequential`` of
            these, or a module with a method :meth:`ForSome.for_some`.
        x: the tokens.
        which: True for those to compute; one at least.

    Raises:
        ValueError: if the block is none of these.
    """
    parts = _flat([block])
    mixing = [number for number, part in enumerate(parts) if not _alone(part)]
    for part in parts[: mixing[-1] if mixing else 0]:
        x = part(x)
    rest = parts
    if mixing:
        last, rest = parts[mixing[-1]], parts[mixing[-1] + 1 :]
        some = last.for_some(x, which) if isinstance(last, ForSome) else block_for_some(last, x, which)
    else:
        some = x[which]
    for part in rest:
        some = part(some)
    return some


def block_for_some(
    block: nn.Module,
    x: Float[Tensor, "batch tokens dim"],
    which: Bool[Tensor, "batch tokens"],
    *,
    key_mask: Bool[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, "chosen dim"]:
    """``block(x, key_mask=key_mask)[which]`` of a :class:`dynlib.backbone.Block`: see :func:`for_some`.

    Raises:
        ValueError: if it is no such block.
    """
    if (
        not isinstance(block, Block)
        or type(block).forward is not Block.forward
        or type(block).update is not Block.update
    ):
        raise ValueError(
            f"{type(block).__name__} cannot compute some of its tokens without the others: give it a method "
            "for_some(x, which), as dynlib.depth.some_tokens says, or use execution='masked'"
        )
    attention, (batch, tokens, _) = block.attention, x.shape
    taken, left = chosen(which), chosen(~which)
    flat = (block.norm1(x) if block.norm_first else x).flatten(0, 1)
    place = torch.arange(tokens, device=x.device).expand(batch, -1).flatten()
    # queries, keys and values of those that are taken; keys and values alone of the others
    query, mine, my_values = attention._split(attention.query_key_value(flat[None, taken]), 3)
    query, mine = attention.turned(query, place[None, taken]), attention.turned(mine, place[None, taken])
    theirs, their_values = attention.keys_values(flat[None, left], place[None, left])
    order = torch.cat([taken, left]).argsort()
    keys, values = (
        torch.cat(parts, dim=2)[0, :, order].unflatten(1, (batch, tokens)).transpose(0, 1)
        for parts in ((mine, theirs), (my_values, their_values))
    )
    # as many queries a sample as the sample with most has: the others are filled up
    row, column = taken // tokens, which.cumsum(1)[which] - 1
    asked = query.new_zeros(batch, int(column.max()) + 1, attention.heads, attention.head_dim)
    asked[row, column] = query[0].transpose(0, 1)
    allowed = None if key_mask is None else key_mask[:, None, None, :]
    if attention.causal:
        where = asked.new_zeros(asked.shape[:2], dtype=torch.long).index_put((row, column), place[taken])
        before = (place[:tokens] <= where[..., None])[:, None]
        allowed = before if allowed is None else before & allowed
    mixed = attention._attend(asked.transpose(1, 2), keys, values, attn_mask=allowed)
    attended, x = attention.output(mixed.transpose(1, 2)[row, column].flatten(1)), x.flatten(0, 1)[taken]
    if not block.norm_first:
        return block._post_norm(x, attended)
    x = x + block.dropout(attended)
    return x + block.dropout(block.feed_forward(block.norm2(x)))


def _flat(parts: Iterable[nn.Module]) -> list[nn.Module]:
    """What a block consists of, one after the other."""
    return [one for part in parts for one in (_flat(part) if type(part) is nn.Sequential else [part])]


def _alone(part: nn.Module) -> bool:
    return type(part) in EACH_ON_ITS_OWN
