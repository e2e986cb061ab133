"""Attention to a window of neighbours, at a cost that grows with the window and not with the sequence.

The light branch of CoLT5's attention is of this kind; nothing in it decides.

Source: arXiv:2004.05150 (sliding windows), arXiv:2112.07916 (in blocks that see their two neighbours).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from dynlib.inputs import check_key_mask, check_whole


def local_attention(
    query: Float[Tensor, "batch heads tokens head_dim"],
    key: Float[Tensor, "batch heads tokens head_dim"],
    value: Float[Tensor, "batch heads tokens head_dim"],
    window: int,
    *,
    key_mask: Bool[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Attention of each token to those at most ``window`` away, at a cost of 3 · window keys per token.

    The sequence is cut into blocks of ``window`` tokens, and a block attends to itself and its two neighbours, which
    hold everything that its tokens may see; a mask takes away what is further. Where the whole sequence is no more than
    that, it is attended to at once. A window of tokens − 1 or more is full attention.

    Args:
        query, key, value: split into heads.
        window: tokens to each side.
        key_mask: True where a key may be attended to. A token that may attend to nothing gets zeros.

    Raises:
        TypeError: if the window is not an int, or ``key_mask`` not bool.
        ValueError: if the window is below 1, or ``key_mask`` has another shape.
    """
    check_whole("window", window, least=1, what="tokens to each side")
    batch, heads, tokens, head_dim = query.shape
    if key_mask is not None:
        check_key_mask(key_mask, batch, tokens)
    blocks = -(-tokens // window)
    if tokens <= 3 * window:
        place = torch.arange(tokens, device=query.device)
        near = None if window >= tokens - 1 else (place[:, None] - place).abs() <= window
        if key_mask is not None:
            near = key_mask[:, None, None] if near is None else near & key_mask[:, None, None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=near)

    spare = blocks * window - tokens

    def around(part: Tensor) -> Tensor:
        """Every block with its neighbours: [batch · heads, blocks, 3 · window, head_dim]."""
        padded = F.pad(part, (0, 0, window, window + spare))
        return padded.unfold(2, 3 * window, window).transpose(-1, -2).flatten(0, 1)

    mine = torch.arange(window, device=query.device)
    theirs = torch.arange(-window, 2 * window, device=query.device)
    near = (theirs - mine[:, None]).abs() <= window  # [window, 3 · window], alike for every block
    real = query.new_ones(1, tokens, dtype=torch.bool) if key_mask is None else key_mask
    real = F.pad(real, (window, window + spare)).unfold(1, 3 * window, window)
    allowed = near & real[:, :, None]  # [1 or batch, blocks, window, 3 · window]
    if key_mask is not None:
        allowed = allowed.repeat_interleave(heads, dim=0)
    blocked = F.pad(query, (0, 0, 0, spare)).unflatten(2, (blocks, window)).flatten(0, 1)
    mixed = F.scaled_dot_product_attention(blocked, around(key), around(value), attn_mask=allowed)
    return mixed.reshape(batch, heads, blocks * window, head_dim)[:, :, :tokens]
