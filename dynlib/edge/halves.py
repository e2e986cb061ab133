"""A vision transformer in two halves, one for each side of a link."""

from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynlib.backbone import Attention, Block, ViT
from dynlib.inputs import check_whole


def halves(model: ViT, layers: int) -> tuple["FirstHalf", "SecondHalf"]:
    """A vision transformer cut after so many layers; the halves hold the model's own parts.

    Raises:
        TypeError: if ``layers`` is no int.
        ValueError: if it is not one of 1 … depth − 1, or the model has a second head, norms behind its parts, rotary
            positions, or keys that heads share.
    """
    plain = all(
        block.norm_first and not block.attention.rotary and block.attention.key_value_heads == block.attention.heads
        for block in cast(Iterable[Block], model.blocks)
    )
    if model.distillation_head is not None or not plain:
        raise ValueError("halves cuts a plain vision transformer: one head, pre-norm, no rotary positions")
    check_whole("layers", layers, least=1, most=len(model.blocks) - 1, what="layers")
    return FirstHalf(model, layers), SecondHalf(model, layers)


class FirstHalf(nn.Module):
    """Images to tokens; remembers what its last layer's class token attended to."""

    def __init__(self, model: ViT, layers: int) -> None:
        super().__init__()
        self.patches, self.blocks = model.patches, model.blocks[:layers]
        self.class_token, self.position = model.class_token, model.position
        self._embed = model.embed
        self._seen: Tensor | None = None

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens dim"]:
        """The tokens after the last layer of this half."""
        x = self._embed(images)
        for block in self.blocks[:-1]:
            x = block(x)
        last = cast(Block, self.blocks[-1])
        self._seen = x.detach()
        return last(x)

    @torch.no_grad()
    def class_attention(self) -> Float[Tensor, "batch tokens"]:
        """The class token's attention in the last call, in the last layer, the mean over the heads.

        Raises:
            RuntimeError: if there was no call yet.
        """
        if self._seen is None:
            raise RuntimeError("there was no call yet, and so no attention")
        last = cast(Block, self.blocks[-1])
        return class_attention(last.attention, last.norm1(self._seen))


class SecondHalf(nn.Module):
    """Tokens to logits."""

    def __init__(self, model: ViT, layers: int) -> None:
        super().__init__()
        self.blocks, self.norm, self.head = model.blocks[layers:], model.norm, model.head

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch classes"]:
        """The class logits, read from the class token."""
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


def class_attention(attention: Attention, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens"]:
    """softmax(q kᵀ / √head_dim) of the first token, the mean over the heads."""
    keys, _ = attention.keys_values(x)
    size = keys.shape[-1]
    queries = attention.query_key_value(x[:, :1])[..., : attention.heads * size]
    query = queries.unflatten(-1, (attention.heads, size)).transpose(1, 2)
    return (query @ keys.transpose(-1, -2) / size**0.5).softmax(-1).mean(1)[:, 0]
