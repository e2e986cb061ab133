"""A transformer for a text that is written: it says which token comes next."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone.cache import LayerCache
from dynlib.backbone.embedding import check_tokens, dropped, initialise, learned_places
from dynlib.backbone.layers import Block
from dynlib.inputs import check_key_mask, check_tensor, check_whole, spread_positions
from dynlib.transforms import look


class CausalLM(nn.Module):
    """A language model: tokens in, logits of the next token out. Rotary positions; embedding and readout share weights.

    So it is unless ``length`` and ``tied`` say otherwise.

    Args:
        vocabulary: number of different tokens.
        dim, depth, heads: features of a token, number of blocks, attention heads.
        hidden: features inside the feed-forward parts; four times ``dim`` if left out.
        length: how many positions are learned, each a vector that is added to the token there. Rotary positions, which
            have no end, if left out.
        rotary: other frequencies for these, as in :class:`Attention`.
        tied: embedding and readout share their weights; if not, the readout has its own, ``head``.
        dropout, norm: as in :class:`Block`; the last norm, before the readout, is made as theirs.
        embedding_dropout: share of the features of the embedded tokens that training drops.
        block: further options of :class:`Block`.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        dim: int,
        depth: int,
        heads: int,
        hidden: int | None = None,
        length: int | None = None,
        rotary: Float[Tensor, " pairs"] | None = None,
        tied: bool = True,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        **block: Any,
    ) -> None:
        super().__init__()
        if vocabulary < 1 or depth < 0:
            raise ValueError(f"vocabulary must be positive and depth not negative; got {vocabulary} and {depth}")
        if length is not None:
            check_whole("length", length, least=1, what="positions")
            if rotary is not None:
                raise ValueError("positions are learned or rotary: leave out length, or the frequencies")
        self.vocabulary, self.embedding_dropout = vocabulary, embedding_dropout
        self.embedding = nn.Embedding(vocabulary, dim)
        self.position = None if length is None else nn.Embedding(length, dim)
        turned = length is None if rotary is None else rotary
        self.blocks = nn.ModuleList(
            Block(dim, heads, hidden=hidden, causal=True, rotary=turned, dropout=dropout, norm=norm, **block)
            for _ in range(depth)
        )
        self.norm: Any = norm(dim)
        self.head = None if tied else nn.Linear(dim, vocabulary, bias=False)
        initialise(self, depth)

    def embed(
        self,
        tokens: Int[Tensor, "batch tokens"],
        *,
        positions: Int[Tensor, "batch tokens"] | Int[Tensor, " tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Token numbers to features.

        Args:
            tokens: at least one.
            positions: where each stands in its sequence; 0, 1, 2, … if left out. Only learned positions ask for them.

        Raises:
            TypeError: if the tokens are not whole numbers.
            ValueError: if they are not [batch, tokens], there are none, one is outside the vocabulary, or stands beyond
                the learned positions. In a graph that is compiled or exported that is not looked at, and is the
                embedding's error.
        """
        check_tokens(tokens, self.vocabulary)
        if self.position is None:
            return dropped(self.embedding(tokens), self)
        places = learned_places(positions, tokens, self.position)
        return dropped(self.embedding(tokens) + self.position(places), self)

    def readout(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens vocabulary"]:
        """Features to logits of the next token: products with the embeddings of all tokens, or with those of ``head``.

        What was put in the place of ``embedding`` (an adapter, a quantised table) is asked for them.
        """
        if self.head is not None:
            return self.head(self.norm(tokens))
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
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
        positions: Int[Tensor, "batch tokens"] | Int[Tensor, " tokens"] | None = None,
        cache: list[LayerCache] | None = None,
    ) -> Float[Tensor, "batch tokens vocabulary"]:
        """Logits of the token after each one. With a ``cache``, ``tokens`` are those that follow what it holds.

        Args:
            tokens: at least one.
            key_mask: False where a token only fills up a shorter text; the same may be said by a position of -1.
            positions: where each token stands; if left out 0, 1, 2, …, counted over the tokens that are there, from the
                end of the cache on.
            cache: of :meth:`new_cache`. Written in place.

        Raises:
            TypeError: if ``key_mask`` is not bool.
            ValueError: if ``key_mask`` does not fit, the cache has another depth than the model, or where the tokens
                stand is not known: its layers hold different numbers of tokens, or there is a ``key_mask`` beside a
                cache that holds some, and no ``positions``.
        """
        if cache is not None and len(cache) != len(self.blocks):
            raise ValueError(f"the cache has {len(cache)} layers and the model {len(self.blocks)}: use new_cache()")
        if cache is not None and positions is None and len({layer.length for layer in cache}) > 1:
            raise ValueError(
                f"the layers of the cache hold {[layer.length for layer in cache]} tokens, so that where the next ones "
                "stand is not known: give positions"
            )
        if key_mask is not None:
            if positions is None and cache and cache[0].length:
                raise ValueError("where tokens stand behind a cache is not seen from their key_mask: give positions")
            check_key_mask(key_mask, *tokens.shape)
            places = key_mask.cumsum(1) - 1 if positions is None else spread_positions(positions, tokens)
            positions = torch.where(key_mask, places, -1)
        if self.position is not None and positions is None and cache:
            positions = torch.arange(cache[0].length, cache[0].length + tokens.shape[-1], device=tokens.device)
        x = self.embed(tokens, positions=positions)
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
    check_whole("new_tokens", new_tokens, least=0)
    if prompt.ndim != 2 or prompt.numel() == 0:
        raise ValueError(f"the prompt must be [batch, tokens], at least one token; got shape {tuple(prompt.shape)}")
    there = torch.ones_like(prompt, dtype=torch.bool)
    if key_mask is not None:
        check_key_mask(key_mask, prompt.shape[0], prompt.shape[1])
        there = key_mask
    places = there.cumsum(1) - 1 if positions is None else spread_positions(positions, prompt)
    places = torch.where(there, places, -1)
    look(_check_last, places[:, -1])
    return torch.cat([places, places[:, -1:] + torch.arange(1, new_tokens + 1, device=places.device)], dim=1)


def _check_last(places: Tensor) -> None:
    if int(places.min()) < 0:
        raise ValueError(
            "the last token of a prompt is not there, and the text goes on from it: fill up shorter prompts on the left"
        )
