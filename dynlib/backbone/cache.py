"""The keys and values that one attention layer has seen, and where each of their tokens stands."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dynlib.inputs import check_whole


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
