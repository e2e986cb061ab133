"""A transformer for a text that is read, as BERT is."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynlib.backbone.embedding import check_tokens, dropped, initialise, learned_places
from dynlib.backbone.layers import Block
from dynlib.inputs import check_key_mask, check_name
from dynlib.transforms import look


class Encoder(nn.Module):
    """A text encoder as BERT is: tokens in; out come their states, or a vector for each text.

    Learned positions, segments, and a norm right behind the embedding; a token attends to all of its text.

    Args:
        vocabulary: number of different tokens.
        length: the most tokens of a text, as many positions are learned.
        dim, depth, heads: features of a token, number of blocks, attention heads.
        hidden: features inside the feed-forward parts; four times ``dim`` if left out.
        segments: how many parts of a text are told apart, such as a question and its answer.
        pooling: what a text's vector is. "mean": the mean of the states of its tokens. "class": tanh(W h + b) of h, the
            state of its first token. An attribute, which may be changed where there is a ``pooler``.
        pooler: have W and b; as ``pooling`` needs it if left out.
        dropout, norm: as in :class:`Block`; the norm behind the embedding is made as theirs.
        embedding_dropout: share of the features of the embedded tokens that training drops.
        norm_first: as in :class:`Block`; the blocks are post-norm unless it is True.
        block: further options of :class:`Block`.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        dim: int,
        depth: int,
        heads: int,
        hidden: int | None = None,
        segments: int = 2,
        pooling: Literal["mean", "class"] = "mean",
        pooler: bool | None = None,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        norm_first: bool = False,
        **block: Any,
    ) -> None:
        super().__init__()
        if min(vocabulary, length, segments) < 1 or depth < 0:
            raise ValueError(
                "vocabulary, length and segments must be positive and depth not negative; got "
                f"{vocabulary}, {length}, {segments} and {depth}"
            )
        self.vocabulary, self.embedding_dropout = vocabulary, embedding_dropout
        self.embedding = nn.Embedding(vocabulary, dim)
        self.position = nn.Embedding(length, dim)
        self.segment = nn.Embedding(segments, dim)
        self.norm: Any = norm(dim)
        self.blocks = nn.ModuleList(
            Block(dim, heads, hidden=hidden, dropout=dropout, norm=norm, norm_first=norm_first, **block)
            for _ in range(depth)
        )
        self.pooling: Literal["mean", "class"] = pooling
        self.pooler = nn.Linear(dim, dim) if (pooling == "class" if pooler is None else pooler) else None
        self._check_pooling()
        initialise(self, depth)

    def embed(
        self, tokens: Int[Tensor, "batch tokens"], *, segments: Int[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """Token numbers to features.

        Args:
            tokens: at least one, at most ``length``.
            segments: which part of its text each belongs to, from 0 on; 0 if left out.

        Raises:
            TypeError: if tokens or segments are not whole numbers.
            ValueError: if they are not [batch, tokens], there are none, one is out of its range, or a text is longer
                than ``length``.
        """
        check_tokens(tokens, self.vocabulary)
        if segments is None:
            segments = torch.zeros_like(tokens)
        elif segments.shape != tokens.shape:
            raise ValueError(f"segments must be one for each token, {tuple(tokens.shape)}; got {tuple(segments.shape)}")
        else:
            check_tokens(segments, self.segment.num_embeddings, "segments")
        places = learned_places(None, tokens, self.position)
        embedded = self.embedding(tokens) + self.segment(segments) + self.position(places)
        return dropped(self.norm(embedded), self)

    def states(
        self,
        tokens: Int[Tensor, "batch tokens"],
        *,
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
        segments: Int[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """The states of the tokens after the last block; arguments as in :meth:`forward`."""
        x = self.embed(tokens, segments=segments)
        for block in self.blocks:
            x = block(x, key_mask=key_mask)
        return x

    def readout(
        self, states: Float[Tensor, "batch tokens dim"], key_mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        """States to a vector for each text, by ``pooling``.

        Raises:
            TypeError: if ``key_mask`` is not bool.
            ValueError: if ``key_mask`` does not fit, a text has no token, or the pooling has another name or no pooler.
        """
        self._check_pooling()
        if self.pooling == "class":
            assert self.pooler is not None
            return self.pooler(states[:, 0]).tanh()
        if key_mask is None:
            return states.mean(1)
        check_key_mask(key_mask, *states.shape[:2])
        look(_check_present, key_mask)
        return (states * key_mask[..., None]).sum(1) / key_mask.sum(1, keepdim=True)

    def forward(
        self,
        tokens: Int[Tensor, "batch tokens"],
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
        *,
        segments: Int[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """A vector for each text.

        Args:
            tokens, segments: as in :meth:`embed`.
            key_mask: False where a token only fills up a shorter text: nobody attends to it, no mean counts it.
        """
        return self.readout(self.states(tokens, key_mask=key_mask, segments=segments), key_mask)

    def _check_pooling(self) -> None:
        check_name("pooling", self.pooling, ("mean", "class"))
        if self.pooling == "class" and self.pooler is None:
            raise ValueError("pooling='class' asks the pooler, and this model has none: use pooling='mean'")


def _check_present(key_mask: Tensor) -> None:
    if not key_mask.any(-1).all():
        raise ValueError("a text has no token that is there, and its mean is of nothing: leave it out")
