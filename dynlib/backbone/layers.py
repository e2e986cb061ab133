"""What the models are made of beside attention: feed-forward parts, a norm, and the block that holds one of each."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone.attention import Attention
from dynlib.backbone.cache import LayerCache


class FeedForward(nn.Module):
    """Two linear layers with a GELU between, GELU(x W₁ + b₁) W₂ + b₂, each token on its own.

    Args:
        dim: features of a token.
        hidden: features between the layers; four times ``dim`` if left out.
        bias: have b₁ and b₂.
        activation: a module in the place of the GELU.
    """

    def __init__(
        self, dim: int, hidden: int | None = None, *, bias: bool = True, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        hidden = _hidden(dim, hidden)
        self.expand = nn.Linear(dim, hidden, bias=bias)
        self.contract = nn.Linear(hidden, dim, bias=bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Transform every token."""
        expanded = self.expand(x)
        return self.contract(F.gelu(expanded) if self.activation is None else self.activation(expanded))


class GatedFeedForward(nn.Module):
    """Three linear layers, (σ(x W_gᵀ + b_g) ⊙ (x W₁ᵀ + b₁)) W₂ᵀ + b₂; with the SiLU for σ it is SwiGLU.

    Args:
        dim: features of a token.
        hidden: features between the layers; four times ``dim`` if left out.
        bias: have b_g, b₁ and b₂.
        activation: σ, a module; the SiLU if left out.

    Source: arXiv:2002.05202.
    """

    def __init__(
        self, dim: int, hidden: int | None = None, *, bias: bool = True, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        hidden = _hidden(dim, hidden)
        self.gate = nn.Linear(dim, hidden, bias=bias)
        self.expand = nn.Linear(dim, hidden, bias=bias)
        self.contract = nn.Linear(hidden, dim, bias=bias)
        self.activation = nn.SiLU() if activation is None else activation

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Transform every token."""
        return self.contract(self.activation(self.gate(x)) * self.expand(x))


def _hidden(dim: int, hidden: int | None) -> int:
    hidden = 4 * dim if hidden is None else hidden
    if dim < 1 or hidden < 1:
        raise ValueError(f"dim and hidden must be positive; got dim={dim}, hidden={hidden}")
    return hidden


class RMSNorm(nn.Module):
    """Features divided by their root mean square: x / √(mean x² + ε) ⊙ w, for each token. The mean is not taken away.

    Args:
        dim: features of a token.
        eps: ε.
        dtype: the number type to compute in, whatever that of x is; if left out that of x, or float32 if that is wider.

    Source: arXiv:1910.07467.
    """

    def __init__(self, dim: int, eps: float = 1e-6, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.normalized_shape, self.eps, self.dtype = (dim,), eps, dtype
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Normalise every token."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32) if self.dtype is None else self.dtype)
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Block(nn.Module):
    """One transformer layer, x + update(x).

    Args:
        dim: features of a token.
        heads: attention heads.
        hidden: features inside the feed-forward part; four times ``dim`` if left out.
        causal, rotary, key_value_heads, head_dim, bias, output_bias: as in :class:`Attention`.
        dropout: share of the features of each of the two updates that training drops.
        attention_dropout: ``dropout`` of :class:`Attention`.
        norm: makes a norm of ``dim`` features: ``partial(RMSNorm, eps=1e-5)``.
        norm_first: a norm stands before each part, on what the part reads (pre-norm). If not, behind it, on the sum of
            the part and what it read (post-norm).
        feed_forward: makes the feed-forward part of ``dim`` and ``hidden``: ``partial(GatedFeedForward, bias=False)``.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        hidden: int | None = None,
        causal: bool = False,
        rotary: bool | Float[Tensor, " pairs"] = False,
        key_value_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        output_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        norm_first: bool = True,
        feed_forward: Callable[[int, int | None], nn.Module] = FeedForward,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.norm1: Any = norm(dim)
        self.attention = Attention(
            dim,
            heads,
            causal=causal,
            rotary=rotary,
            key_value_heads=key_value_heads,
            head_dim=head_dim,
            bias=bias,
            output_bias=output_bias,
            dropout=attention_dropout,
        )
        self.norm2: Any = norm(dim)
        self.feed_forward: Any = feed_forward(dim, hidden)
        self.dropout = nn.Dropout(dropout)

    def update(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        key_mask: Bool[Tensor, "batch keys"] | None = None,
        positions: Int[Tensor, "batch tokens"] | Int[Tensor, " tokens"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """What the block adds to ``x``: a + FF(norm₂(x + a)) with a = attention(norm₁(x)); post-norm, what changes."""
        if not self.norm_first:
            return self.forward(x, key_mask=key_mask, positions=positions, cache=cache) - x
        attended = self.attention(self.norm1(x), key_mask=key_mask, positions=positions, cache=cache)
        attended = self.dropout(attended)
        return attended + self.dropout(self.feed_forward(self.norm2(x + attended)))

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        key_mask: Bool[Tensor, "batch keys"] | None = None,
        positions: Int[Tensor, "batch tokens"] | Int[Tensor, " tokens"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """The tokens with the block's update added; arguments as in :class:`Attention`.

        Post-norm that is norm₂(y + FF(y)) with y = norm₁(x + attention(x)).
        """
        if not self.norm_first:
            attended = self.attention(x, key_mask=key_mask, positions=positions, cache=cache)
            return self._post_norm(x, attended)
        return x + self.update(x, key_mask=key_mask, positions=positions, cache=cache)

    def packed(self, x: Float[Tensor, "tokens dim"], lengths: Sequence[int]) -> Float[Tensor, "tokens dim"]:
        """The block on sequences that lie end to end; arguments as in :meth:`Attention.packed`."""
        if not self.norm_first:
            return self._post_norm(x, self.attention.packed(x, lengths))
        x = x + self.dropout(self.attention.packed(self.norm1(x), lengths))
        return x + self.dropout(self.feed_forward(self.norm2(x)))

    def _post_norm(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(attended))
        return self.norm2(x + self.dropout(self.feed_forward(x)))
