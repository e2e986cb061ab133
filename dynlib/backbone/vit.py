"""A transformer for images."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynlib.backbone.embedding import dropped, initialise
from dynlib.backbone.layers import Block
from dynlib.inputs import check_name, check_tensor


class ViT(nn.Module):
    """A vision transformer: patches and a class token in, class logits out.

    Args:
        image_size, patch_size: in pixels; images and patches are square, and patches tile the image.
        classes: number of logits.
        dim, depth, heads: features of a token, number of blocks, attention heads.
        hidden: features inside the feed-forward parts; four times ``dim`` if left out.
        channels: of the image.
        dropout, norm: as in :class:`Block`; the last norm, before the head, is made as theirs.
        embedding_dropout: share of the features of the embedded tokens that training drops.
        distillation: "token": a second token stands behind the class token, which DeiT trained to say what a teacher
            says. "head": it is read too, by a head of its own, and the logits are the mean of both heads'.
        block: further options of :class:`Block`.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        classes: int,
        dim: int,
        depth: int,
        heads: int,
        hidden: int | None = None,
        channels: int = 1,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        distillation: Literal["none", "token", "head"] = "none",
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        **block: Any,
    ) -> None:
        super().__init__()
        check_name("distillation", distillation, ("none", "token", "head"))
        if patch_size < 1 or image_size < patch_size or image_size % patch_size:
            raise ValueError(f"patches of {patch_size} pixels do not tile an image of {image_size} pixels")
        if classes < 1 or depth < 0:
            raise ValueError(f"classes must be positive and depth not negative; got {classes} and {depth}")
        self.image_size, self.channels, self.embedding_dropout = image_size, channels, embedding_dropout
        self.patches = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.distillation_token = None if distillation == "none" else nn.Parameter(torch.zeros(1, 1, dim))
        before = 1 if distillation == "none" else 2
        self.position = nn.Parameter(torch.zeros(1, before + (image_size // patch_size) ** 2, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, hidden=hidden, dropout=dropout, norm=norm, **block) for _ in range(depth)
        )
        self.norm: Any = norm(dim)
        self.head = nn.Linear(dim, classes)
        self.distillation_head = nn.Linear(dim, classes) if distillation == "head" else None
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.position, std=0.02)
        if self.distillation_token is not None:
            nn.init.normal_(self.distillation_token, std=0.02)
        initialise(self, depth)

    def embed(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Images to tokens: the class token first, the distillation token if there is one, the patches row by row.

        Raises:
            ValueError: if the images have another size than the model was made for, or there are none.
            TypeError: if they are not floating-point numbers.
        """
        check_tensor(images, "images")
        if not images.is_floating_point():
            raise TypeError(f"images must be floating-point, ink 1 and paper 0; got {images.dtype}")
        expected = (self.channels, self.image_size, self.image_size)
        if images.shape[1:] != expected or images.shape[0] == 0:
            raise ValueError(f"images must be [batch, {', '.join(map(str, expected))}]; got {tuple(images.shape)}")
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = (self.class_token, self.distillation_token)
        first = [token.expand(images.shape[0], -1, -1) for token in tokens if token is not None]
        return dropped(torch.cat([*first, patches], dim=1) + self.position, self)

    def readout(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch classes"]:
        """Tokens to class logits, read from the class token, and the distillation token if it has a head."""
        logits = self.head(self.norm(tokens[:, 0]))
        if self.distillation_head is None:
            return logits
        return (logits + self.distillation_head(self.norm(tokens[:, 1]))) / 2

    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        *,
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Class logits. ``key_mask`` is over the class token and the patches: False hides a token from all others."""
        tokens = self.embed(images)
        for block in self.blocks:
            tokens = block(tokens, key_mask=key_mask)
        return self.readout(tokens)
