"""Attention to a window of neighbours, at a cost that grows with the window and not with the sequence.

The light branch of CoLT5's attention is of this kind; nothing in it decides. With summaries of the sequence, which
everybody sees beside the window, it is the attention of LongT5, from which CoLT5 sets out: :class:`LocalGlobalBlock`.

Source: arXiv:2004.05150 (sliding windows), arXiv:2112.07916 (in blocks that see their two neighbours; summaries).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import Attention, Block
from dynlib.inputs import check_features, check_key_mask, check_whole


def local_attention(
    query: Float[Tensor, "batch heads tokens head_dim"],
    key: Float[Tensor, "batch heads tokens head_dim"],
    value: Float[Tensor, "batch heads tokens head_dim"],
    window: int,
    *,
    key_mask: Bool[Tensor, "batch tokens"] | None = None,
    memory: tuple[Float[Tensor, "batch heads more head_dim"], Float[Tensor, "batch heads more head_dim"]] | None = None,
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Attention of each token to those at most ``window`` away, at a cost of 3 · window keys per token.

    The sequence is cut into blocks of ``window`` tokens, and a block attends to itself and its two neighbours, which
    hold everything that its tokens may see; a mask takes away what is further. Where the whole sequence is no more than
    that, it is attended to at once. A window of tokens − 1 or more is full attention.

    Args:
        query, key, value: split into heads.
        window: tokens to each side.
        key_mask: True where a key may be attended to. A token that may attend to nothing gets zeros.
        memory: more keys and their values, which every token attends to besides, in the same softmax.

    Raises:
        TypeError: if the window is not an int, or ``key_mask`` not bool.
        ValueError: if the window is below 1, or ``key_mask`` has another shape.
    """
    check_whole("window", window, least=1, what="tokens to each side")
    batch, heads, tokens, head_dim = query.shape
    if key_mask is not None:
        check_key_mask(key_mask, batch, tokens)
    more = 0 if memory is None else memory[0].shape[2]
    blocks = -(-tokens // window)
    if tokens <= 3 * window:
        place = torch.arange(tokens, device=query.device)
        near = None if window >= tokens - 1 else (place[:, None] - place).abs() <= window
        if key_mask is not None:
            near = key_mask[:, None, None] if near is None else near & key_mask[:, None, None]
        if memory is not None:
            key, value = (torch.cat(parts, dim=2) for parts in zip((key, value), memory, strict=True))
            near = None if near is None else F.pad(near, (0, more), value=True)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=near)

    spare = blocks * window - tokens

    def around(part: Tensor, known: Tensor | None) -> Tensor:
        """Every block with its neighbours: [batch · heads, blocks, 3 · window + more, head_dim]."""
        padded = F.pad(part, (0, 0, window, window + spare))
        local = padded.unfold(2, 3 * window, window).transpose(-1, -2)
        if known is not None:
            local = torch.cat([local, known[:, :, None].expand(-1, -1, blocks, -1, -1)], dim=3)
        return local.flatten(0, 1)

    mine = torch.arange(window, device=query.device)
    theirs = torch.arange(-window, 2 * window, device=query.device)
    near = (theirs - mine[:, None]).abs() <= window  # [window, 3 · window], alike for every block
    real = query.new_ones(1, tokens, dtype=torch.bool) if key_mask is None else key_mask
    real = F.pad(real, (window, window + spare)).unfold(1, 3 * window, window)
    allowed = near & real[:, :, None]  # [1 or batch, blocks, window, 3 · window]
    if memory is not None:
        allowed = F.pad(allowed, (0, more), value=True)
    if key_mask is not None:
        allowed = allowed.repeat_interleave(heads, dim=0)
    blocked = F.pad(query, (0, 0, 0, spare)).unflatten(2, (blocks, window)).flatten(0, 1)
    keys, values = (around(part, known) for part, known in zip((key, value), memory or (None, None), strict=True))
    mixed = F.scaled_dot_product_attention(blocked, keys, values, attn_mask=allowed)
    return mixed.reshape(batch, heads, blocks * window, head_dim)[:, :, :tokens]


class LocalGlobalAttention(Attention):
    """Every token attends to its window, and to one summary of each ``span`` tokens: LongT5's transient global.

    A summary is the normalised sum of its tokens, made anew in every layer, and gets its keys and values by the same
    linear layer as a token. A token meets 3 · window + tokens / span keys, where in full attention it meets all.

    Args:
        dim, heads: as in :class:`dynlib.backbone.Attention`.
        window: tokens to each side.
        span: how many tokens share a summary; the last may have fewer.

    Raises:
        TypeError: if the window or the span is not an int.
        ValueError: as :class:`dynlib.backbone.Attention` does, or if the window or the span is below 1.
    """

    def __init__(self, dim: int, heads: int, *, window: int, span: int = 16) -> None:
        super().__init__(dim, heads)
        self.dim = dim
        self.window = check_whole("window", window, least=1, what="tokens to each side")
        self.span = check_whole("span", span, least=1)
        self.summary_norm = nn.LayerNorm(dim)

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "batch tokens dim"], **others: None
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attend; ``x`` are normalised tokens. The other options of full attention must be None.

        Raises:
            ValueError: if ``x`` is not [batch, tokens, dim], or an option is given.
        """
        check_features(x, self.dim)
        given = [name for name, value in others.items() if value is not None]
        if given:
            raise ValueError(f"local and global attention knows no {', '.join(given)}: all tokens are there, in order")
        summaries = F.pad(x, (0, 0, 0, -x.shape[1] % self.span)).unflatten(1, (-1, self.span)).sum(2)
        memory = self.keys_values(self.summary_norm(summaries))
        query, key, value = self._split(self.query_key_value(x), 3)
        mixed = local_attention(query, key, value, self.window, memory=memory)
        return self.output(mixed.transpose(1, 2).flatten(2))


class LocalGlobalBlock(Block):
    """A dense layer with local and global attention: what CoLT5's conditional layer is to be compared with.

    Args:
        dim, heads, window, span: as in :class:`LocalGlobalAttention`.
        hidden: features inside the feed-forward part; four times ``dim`` if left out.
    """

    def __init__(self, dim: int, heads: int, *, window: int, span: int = 16, hidden: int | None = None) -> None:
        super().__init__(dim, heads, hidden=hidden)
        self.attention = LocalGlobalAttention(dim, heads, window=window, span=span)
