"""The static transformer that the rest of the package makes dynamic.

A pre-norm transformer in one file: :class:`Attention`, :class:`FeedForward`, :class:`Block`, and two models made of
them, :class:`ViT` for images and :class:`CausalLM` for text. Nothing in here decides anything. It is written so that
others can decide:

- a block gives its *update* apart from the residual (:meth:`Block.update`), so that it can be weighted, skipped, or
  run for some tokens only;
- attention takes a mask over the keys and the true position of every token, so that a sequence with tokens missing
  still knows who stands where;
- sequences of different lengths can lie end to end (:meth:`Block.packed`), so that nothing is computed to fill them up;
- the key-value cache belongs to a layer (:class:`LayerCache`), so that layers can hold different tokens;
- both models are three steps, ``embed``, ``blocks``, ``readout``, so that the middle can be run in any way one likes.

Source: arXiv:1706.03762 (attention), arXiv:2002.04745 (pre-norm), arXiv:2010.11929 (ViT), arXiv:2104.09864 (rotary
positions, in :class:`CausalLM`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from dynlib.inputs import check_key_mask, check_tensor, check_whole, spread_positions
from dynlib.transforms import look


class LayerCache:
    """The keys, values and positions that one attention layer has seen so far.

    A position of -1 marks a token that nobody may attend to; that is how the samples of a batch can hold different
    numbers of tokens. The buffers double when they are full, so that adding a token does not copy the past.

    :meth:`truncate` goes back; :meth:`select` takes samples, or puts them into another order; :meth:`only` runs some
    samples without the others.

    A cache may be begun in one mode of autograd and continued in another: ``inference_mode``, ``no_grad``, or with
    gradients. Gradients reach the tokens that were added with gradients, through all that attend to them later; where
    there are any, adding a token copies the past. ``keys``, ``values`` and ``positions`` are views, over which a
    truncated cache may write: clone what is to be kept. Do not put what writes a cache into
    ``torch.utils.checkpoint``, which runs it a second time.
    """

    def __init__(self) -> None:
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._positions: Tensor | None = None

    @property
    def keys(self) -> Float[Tensor, "batch heads cached head_dim"]:
        """All keys so far."""
        return self._filled(self._keys)[:, :, : self.length]

    @property
    def values(self) -> Float[Tensor, "batch heads cached head_dim"]:
        """All values so far."""
        return self._filled(self._values)[:, :, : self.length]

    @property
    def positions(self) -> Int[Tensor, "batch cached"]:
        """The position of each cached token in its sequence; -1 where there is none."""
        return self._filled(self._positions)[:, : self.length]

    def append(
        self,
        keys: Float[Tensor, "batch heads tokens head_dim"],
        values: Float[Tensor, "batch heads tokens head_dim"],
        positions: Int[Tensor, "batch tokens"],
    ) -> None:
        """Add tokens at the end.

        Raises:
            ValueError: if batch, heads or head size differ from what the cache holds.
            TypeError: if the number type or the device does.
        """
        recorded = _recorded(self._keys, self._values, keys, values)
        if self._keys is None or self._values is None or self._positions is None:
            with _ordinary(recorded):
                self._keys, self._values = (torch.empty_like(part[:, :, :0]) for part in (keys, values))
                self._positions = torch.empty_like(positions[:, :0])
        self._check(keys, len(self._keys))
        end, room = self.length + keys.shape[2], self._keys.shape[2]
        if recorded:  # what was attended to is not written over: the backward pass looks at it
            with _ordinary(recorded):
                self._keys = torch.cat([self.keys, keys], dim=2)
                self._values = torch.cat([self.values, values], dim=2)
                self._positions = torch.cat([self.positions, positions], dim=1)
        else:
            if end > room:
                spare = max(end, 2 * room) - room
                with _ordinary(recorded):
                    self._keys = F.pad(self._keys, (0, 0, 0, spare))
                    self._values = F.pad(self._values, (0, 0, 0, spare))
                    self._positions = F.pad(self._positions, (0, spare))
            self._keys[:, :, self.length : end] = keys
            self._values[:, :, self.length : end] = values
            self._positions[:, self.length : end] = positions
        self.length = end

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens of every sample, those at position -1 counted. Nothing is copied.

        The cache is then as it was when it held so many. At 0 it is empty, and takes any batch.

        Raises:
            TypeError: if ``length`` is not an int.
            ValueError: if it is negative, or more than the cache holds.
        """
        check_whole("length", length, least=0, most=self.length, what="tokens, which the cache holds")
        if length == 0:
            self._keys = self._values = self._positions = None
        self.length = length

    def select(self, rows: Sequence[int] | Int[Tensor, " selected"]) -> "LayerCache":
        """A new cache that holds these samples of the batch, in this order. A sample may be taken more than once.

        It goes its own way from there: a beam search continues ``[layer.select(rows) for layer in cache]``. An empty
        cache has no samples, and gives an empty one.

        Raises:
            TypeError: if the rows are not whole numbers.
            ValueError: if there are none, or the cache has no such sample.
        """
        selected = LayerCache()
        if self.length:
            index = _rows(rows, len(self.keys), self.keys.device)
            with _ordinary(_recorded(self._keys, self._values)):
                parts = (self.keys[index], self.values[index], self.positions[index])
            selected.append(*parts)
        return selected

    def only(self, rows: Sequence[int] | Int[Tensor, " selected"], *, batch: int) -> "LayerCache":
        """These samples of this cache, to run without the others: a cache whose tokens are kept in this one.

        What is added to it is added here, and stands at -1 for the samples left out, so that nobody attends to it; or
        give those their own tokens with :meth:`complete`. Use it for one forward pass, and add nothing else meanwhile.

        Args:
            rows: which samples, each once.
            batch: how many samples there are in all, which an empty cache does not know.

        Raises:
            TypeError: if the rows are not whole numbers.
            ValueError: if there are none, one is named twice or is not in the batch, or the cache holds another batch.
        """
        if self.length and len(self.keys) != batch:
            raise ValueError(f"the cache holds a batch of {len(self.keys)} samples; got batch={batch}")
        return _Only(self, _rows(rows, batch, None if self._keys is None else self._keys.device, once=True), batch)

    def complete(
        self,
        rows: Sequence[int] | Int[Tensor, " some"],
        keys: Float[Tensor, "some heads tokens head_dim"],
        values: Float[Tensor, "some heads tokens head_dim"],
        positions: Int[Tensor, "some tokens"],
    ) -> None:
        """Write the last tokens of these samples again: those that :meth:`only` left at -1 for them.

        Raises:
            ValueError: if the cache holds fewer tokens, has no such sample, or shapes differ from what it holds.
            TypeError: if the number type or the device does.
        """
        tokens = keys.shape[2]
        if tokens > self.length:
            raise ValueError(f"the cache holds {self.length} tokens and cannot have its last {tokens} written again")
        index = _rows(rows, len(self.keys), self.keys.device, once=True)
        last = slice(self.length - tokens, self.length)
        self._check(keys, len(index))
        recorded = _recorded(self._keys, self._values, keys, values)
        with _ordinary(recorded):
            held, seen, where = self._filled(self._keys), self._filled(self._values), self._filled(self._positions)
            if recorded:
                held, seen, where = held.clone(), seen.clone(), where.clone()
            held[index, :, last], seen[index, :, last], where[index, last] = keys, values, positions.to(where.dtype)
            self._keys, self._values, self._positions = held, seen, where

    def _check(self, keys: Tensor, expected: int) -> None:
        held, (batch, heads, _, head_dim) = self._filled(self._keys), keys.shape
        if (expected, held.shape[1], held.shape[3]) != (batch, heads, head_dim):
            raise ValueError(
                f"the cache holds keys of shape {tuple(self.keys.shape)} and got {tuple(keys.shape)}; batch, heads and "
                "head size must stay the same: start a new cache for a new batch"
            )
        if (held.dtype, held.device) != (keys.dtype, keys.device):
            raise TypeError(
                f"the cache holds {held.dtype} on {held.device} and got {keys.dtype} on {keys.device}: start a new "
                "cache after converting or moving the model, or entering or leaving autocast"
            )

    def _filled(self, buffer: Tensor | None) -> Tensor:
        if buffer is None:
            raise ValueError("this layer's cache is empty: nothing was written to it yet")
        return buffer


class _Only(LayerCache):
    """Some samples of a cache."""

    def __init__(self, whole: LayerCache, rows: Tensor, batch: int) -> None:
        super().__init__()
        self._whole, self._rows, self._batch, self.length = whole, rows, batch, whole.length

    @property
    def keys(self) -> Tensor:
        return self._whole.keys[self._rows]

    @property
    def values(self) -> Tensor:
        return self._whole.values[self._rows]

    @property
    def positions(self) -> Tensor:
        return self._whole.positions[self._rows]

    def append(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        rows = self._rows.to(keys.device)
        keys, values = (
            part.new_zeros(self._batch, *part.shape[1:]).index_copy(0, rows, part) for part in (keys, values)
        )
        nobody = positions.new_full((self._batch, positions.shape[1]), -1)
        self._whole.append(keys, values, nobody.index_copy(0, rows, positions))
        self.length = self._whole.length

    def truncate(self, length: int) -> None:
        raise ValueError("some samples of a cache cannot go back without the others: truncate the whole cache")


def _recorded(*tensors: Tensor | None) -> bool:
    """Whether a gradient is to be recorded."""
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


@contextmanager
def _ordinary(recorded: bool) -> Iterator[None]:
    """A mode in which what is made can be written in any other, and saved for backward."""
    left = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    with left, torch.set_grad_enabled(recorded):
        yield


def _rows(rows: Sequence[int] | Tensor, batch: int, device: torch.device | None, *, once: bool = False) -> Tensor:
    """Numbers of samples as a tensor, if they are that."""
    numbers = rows.tolist() if isinstance(rows, Tensor) else list(rows)
    if not isinstance(numbers, list) or not numbers:
        raise ValueError(f"name the samples of the batch by their numbers, at least one; got {rows}")
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
        raise TypeError(f"samples are named by whole numbers, not by a mask; got {rows}")
    if min(numbers) < 0 or max(numbers) >= batch:
        raise ValueError(f"the batch has the samples 0 … {batch - 1}; got {numbers}")
    if once and len(set(numbers)) < len(numbers):
        raise ValueError(f"a sample runs once: name it once; got {numbers}")
    return torch.tensor(numbers, device=device)


def rotate(
    x: Float[Tensor, "batch heads tokens head_dim"], positions: Int[Tensor, "batch tokens"], base: float = 10_000.0
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Rotary position encoding: turn each pair of features by an angle that grows with the position.

    Pair i of a token at position p turns by p · base^(−2i / head_dim); Eq. 15 of arXiv:2104.09864. The pairs are the
    features i and i + head_dim / 2.
    """
    return _turn(x, *_turns(x, positions, base))


def _turns(x: Tensor, positions: Tensor, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each pair's angle, [batch, 1, tokens, head_dim / 2]: the same for all heads."""
    half = x.shape[-1] // 2
    exact = torch.promote_types(x.dtype, torch.float32)  # half precision cannot tell far positions apart
    frequencies = base ** (-torch.arange(half, device=x.device, dtype=exact) / half)
    angles = positions[:, None, :, None].to(exact) * frequencies
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention, softmax(q kᵀ / √head_dim) v.

    Args:
        dim: features of a token.
        heads: number of heads; divides ``dim``.
        causal: a token attends only to positions up to its own.
        rotary: queries and keys carry their position by rotation (:func:`rotate`).
    """

    def __init__(self, dim: int, heads: int, *, causal: bool = False, rotary: bool = False) -> None:
        super().__init__()
        if dim < 1 or heads < 1 or dim % heads:
            raise ValueError(f"dim must be a multiple of heads, both positive; got dim={dim}, heads={heads}")
        if rotary and (dim // heads) % 2:
            raise ValueError(f"rotary positions turn pairs of features; dim / heads = {dim // heads} is odd")
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

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
            dim = x.shape[-1]
            keys, values = self._split(F.linear(x, layer.weight[dim:], layer.bias[dim:]), 2)
        else:
            _, keys, values = self._split(layer(x), 3)
        return (rotate(keys, spread_positions(positions, x)) if self.rotary else keys), values

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
            cos, sin = _turns(query, where)
            query, keys = _turn(query, cos, sin), _turn(keys, cos, sin)
        if ordered:
            mixed = F.scaled_dot_product_attention(query, keys, values, is_causal=self.causal)
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
            mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=allowed[:, None])
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
        parts = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).unbind(1)  # 3 × [tokens, heads, head_dim]
        for length, alike in groupby(lengths):
            count = len(list(alike))
            rows = slice(start, start := start + count * length)
            query, keys, values = (part[rows].unflatten(0, (count, length)).transpose(1, 2) for part in parts)
            if self.rotary:
                where = torch.arange(length, device=x.device).expand(count, length)
                cos, sin = _turns(query, where)
                query, keys = _turn(query, cos, sin), _turn(keys, cos, sin)
            together = F.scaled_dot_product_attention(query, keys, values, is_causal=self.causal)
            mixed.append(together.transpose(1, 2).flatten(0, 1).flatten(1))
        return self.output(torch.cat(mixed))

    def _split(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        # [batch, tokens, parts·dim] -> parts × [batch, heads, tokens, head_dim]
        return packed.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a call of this linear layer is its weight and bias and nothing else, so that rows of it can be taken."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return (
        type(layer) is nn.Linear
        and type(layer.weight) in (Tensor, nn.Parameter)  # and not one that keeps its numbers in its own way
        and layer.bias is not None
        and "forward" not in vars(layer)
        and not any(hooks)
        and not _has_any_global_hook()
    )


class FeedForward(nn.Module):
    """Two linear layers with a GELU between, GELU(x W₁ + b₁) W₂ + b₂, each token on its own.

    Args:
        dim: features of a token.
        hidden: features between the layers; four times ``dim`` if left out.
    """

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        if dim < 1 or hidden < 1:
            raise ValueError(f"dim and hidden must be positive; got dim={dim}, hidden={hidden}")
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Transform every token."""
        return self.contract(F.gelu(self.expand(x)))


class Block(nn.Module):
    """One pre-norm transformer layer, x + update(x).

    Args:
        dim: features of a token.
        heads: attention heads.
        hidden: features inside the feed-forward part; four times ``dim`` if left out.
        causal, rotary: as in :class:`Attention`.
        dropout: share of the features of each of the two updates that training drops.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        hidden: int | None = None,
        causal: bool = False,
        rotary: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, causal=causal, rotary=rotary)
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden)
        self.dropout = nn.Dropout(dropout)

    def update(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        key_mask: Bool[Tensor, "batch keys"] | None = None,
        positions: Int[Tensor, "batch tokens"] | Int[Tensor, " tokens"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """What the block adds to ``x``: a + FF(norm₂(x + a)) with a = attention(norm₁(x))."""
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
        """The tokens with the block's update added; arguments as in :class:`Attention`."""
        return x + self.update(x, key_mask=key_mask, positions=positions, cache=cache)

    def packed(self, x: Float[Tensor, "tokens dim"], lengths: Sequence[int]) -> Float[Tensor, "tokens dim"]:
        """The block on sequences that lie end to end; arguments as in :meth:`Attention.packed`."""
        x = x + self.dropout(self.attention.packed(self.norm1(x), lengths))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class ViT(nn.Module):
    """A vision transformer: patches and a class token in, class logits out.

    Args:
        image_size, patch_size: in pixels; images and patches are square, and patches tile the image.
        classes: number of logits.
        dim, depth, heads: features of a token, number of blocks, attention heads.
        hidden: features inside the feed-forward parts; four times ``dim`` if left out.
        channels: of the image.
        dropout: as in :class:`Block`.
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
    ) -> None:
        super().__init__()
        if patch_size < 1 or image_size < patch_size or image_size % patch_size:
            raise ValueError(f"patches of {patch_size} pixels do not tile an image of {image_size} pixels")
        if classes < 1 or depth < 0:
            raise ValueError(f"classes must be positive and depth not negative; got {classes} and {depth}")
        self.image_size, self.channels = image_size, channels
        self.patches = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.zeros(1, 1 + (image_size // patch_size) ** 2, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, hidden=hidden, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)
        _initialise(self, depth)

    def embed(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Images to tokens: the class token first, then the patches row by row.

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
        return torch.cat([self.class_token.expand(images.shape[0], -1, -1), patches], dim=1) + self.position

    def readout(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch classes"]:
        """Tokens to class logits, read from the class token."""
        return self.head(self.norm(tokens[:, 0]))

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


class CausalLM(nn.Module):
    """A language model: tokens in, logits of the next token out. Rotary positions; embedding and readout share weights.

    Args:
        vocabulary: number of different tokens.
        dim, depth, heads: features of a token, number of blocks, attention heads.
        hidden: features inside the feed-forward parts; four times ``dim`` if left out.
        dropout: as in :class:`Block`.
    """

    def __init__(
        self, *, vocabulary: int, dim: int, depth: int, heads: int, hidden: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if vocabulary < 1 or depth < 0:
            raise ValueError(f"vocabulary must be positive and depth not negative; got {vocabulary} and {depth}")
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, dim)
        self.blocks = nn.ModuleList(
            Block(dim, heads, hidden=hidden, causal=True, rotary=True, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        _initialise(self, depth)

    def embed(self, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens dim"]:
        """Token numbers to features.

        Raises:
            TypeError: if the tokens are not whole numbers.
            ValueError: if they are not [batch, tokens], there are none, or one is outside the vocabulary. In a graph
                that is compiled or exported that is not looked at, and is the embedding's error.
        """
        check_tensor(tokens, "tokens")
        if tokens.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"tokens must be int64 or int32; got {tokens.dtype}: encode text first")
        if tokens.ndim != 2 or tokens.numel() == 0:
            raise ValueError(f"tokens must be [batch, tokens], at least one token; got shape {tuple(tokens.shape)}")
        look(self._check_vocabulary, tokens)
        return self.embedding(tokens)

    def _check_vocabulary(self, tokens: Tensor) -> None:
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocabulary:
            raise ValueError(f"tokens must lie in 0 … {self.vocabulary - 1}; got {low} … {high}")

    def readout(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens vocabulary"]:
        """Features to logits of the next token: products with the embeddings of all tokens.

        What was put in the place of ``embedding`` (an adapter, a quantised table) is asked for them.
        """
        table = self.embedding
        shared = type(table).forward is nn.Embedding.forward and "forward" not in vars(table)
        every = table.weight if shared else table(torch.arange(self.vocabulary, device=tokens.device))
        return F.linear(self.norm(tokens), every)

    def new_cache(self) -> list[LayerCache]:
        """An empty cache, one entry per block."""
        return [LayerCache() for _ in self.blocks]

    def forward(
        self,
        tokens: Int[Tensor, "batch tokens"],
        *,
        positions: Int[Tensor, "batch tokens"] | Int[Tensor, " tokens"] | None = None,
        cache: list[LayerCache] | None = None,
    ) -> Float[Tensor, "batch tokens vocabulary"]:
        """Logits of the token after each one. With a ``cache``, ``tokens`` are those that follow what it holds.

        Raises:
            ValueError: if the cache has another depth than the model, or its layers hold different numbers of tokens
                and ``positions`` do not say where these stand.
        """
        if cache is not None and len(cache) != len(self.blocks):
            raise ValueError(f"the cache has {len(cache)} layers and the model {len(self.blocks)}: use new_cache()")
        if cache is not None and positions is None and len({layer.length for layer in cache}) > 1:
            raise ValueError(
                f"the layers of the cache hold {[layer.length for layer in cache]} tokens, so that where the next ones "
                "stand is not known: give positions"
            )
        x = self.embed(tokens)
        for depth, block in enumerate(self.blocks):
            x = block(x, positions=positions, cache=cache[depth] if cache is not None else None)
        return self.readout(x)

    @torch.no_grad()
    def generate(
        self,
        prompt: Int[Tensor, "batch tokens"],
        new_tokens: int,
        *,
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
        positions: Int[Tensor, "batch tokens"] | Int[Tensor, " tokens"] | None = None,
        temperature: float = 0.0,
        use_cache: bool = True,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch all"]:
        """The prompt and ``new_tokens`` more, one at a time.

        Prompts of different lengths are filled up on the left, and ``key_mask`` or ``positions`` say what is filling:
        each then goes on as it would alone.

        Args:
            prompt: where to start.
            new_tokens: how many to add.
            key_mask: False where a token of the prompt only fills up a shorter one. The last of each must be there.
            positions: where each token of the prompt stands; -1 where it is only filling. The new ones follow the last.
                Left out, 0, 1, 2, …, counted over the tokens that are there.
            temperature: 0 takes the likeliest token; above, samples from softmax(logits / temperature).
            use_cache: keep keys and values. Without, every step runs the whole sequence again.
            generator: for the sampling.

        Raises:
            TypeError: if ``new_tokens`` is no int, ``key_mask`` is not bool, or ``positions`` are not whole numbers.
            ValueError: if ``new_tokens`` or ``temperature`` is negative or NaN, the prompt is empty, ``key_mask`` or
                ``positions`` do not fit it, or the last token of a prompt is not there.
        """
        check_whole("new_tokens", new_tokens, least=0)
        if not temperature >= 0:
            raise ValueError(f"temperature must be at least 0; got {temperature}")
        given = key_mask is not None or positions is not None
        places = prompt_positions(prompt, new_tokens, key_mask, positions)
        tokens, unread = prompt, prompt
        cache = self.new_cache() if use_cache else None
        for _ in range(new_tokens):
            if cache is not None:  # said outright: layers that hold only some of the tokens cannot count them
                here = places[:, tokens.shape[1] - unread.shape[1] : tokens.shape[1]]
                logits = self(unread, positions=here, cache=cache)[:, -1]
            else:
                logits = self(tokens, positions=places[:, : tokens.shape[1]] if given else None)[:, -1]
            if temperature == 0:
                unread = logits.argmax(-1, keepdim=True)
            else:
                unread = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            tokens = torch.cat([tokens, unread], dim=1)
        return tokens


def prompt_positions(prompt: Tensor, new_tokens: int, key_mask: Tensor | None, positions: Tensor | None) -> Tensor:
    """Where every token of a prompt and each that follows it stands, -1 for one that only fills up a shorter prompt.

    Raises:
        TypeError, ValueError: as :meth:`CausalLM.generate` does.
    """
    check_tensor(prompt, "the prompt")
    there = torch.ones_like(prompt, dtype=torch.bool)
    if key_mask is not None:
        check_key_mask(key_mask, prompt.shape[0], prompt.shape[1])
        there = key_mask
    places = there.cumsum(1) - 1 if positions is None else spread_positions(positions, prompt)
    places = torch.where(there, places, -1)
    if prompt.numel() == 0:
        return places
    look(_check_last, places[:, -1])
    return torch.cat([places, places[:, -1:] + torch.arange(1, new_tokens + 1, device=places.device)], dim=1)


def _check_last(places: Tensor) -> None:
    if int(places.min()) < 0:
        raise ValueError(
            "the last token of a prompt is not there, and the text goes on from it: fill up shorter prompts on the left"
        )


def _initialise(model: nn.Module, depth: int) -> None:
    """Normal weights of standard deviation 1/√fan-in; those that write to the residual stream smaller by 1/√(2·depth).

    Embeddings start small, 0.02, biases at zero. Starting every weight at 0.02, as large models do, leaves a model this
    narrow at chance for hundreds of steps.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(("attention.output", "feed_forward.contract")):
                module.weight.data /= (2 * max(depth, 1)) ** 0.5
        elif isinstance(module, nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=0.02)
