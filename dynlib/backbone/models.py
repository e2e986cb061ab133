"""Three models made of blocks: for images, for a text that is written, and for a text that is read."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone.cache import LayerCache
from dynlib.backbone.layers import Block
from dynlib.inputs import check_key_mask, check_name, check_tensor, check_whole, spread_positions
from dynlib.transforms import look


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
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)
        if self.distillation_token is not None:
            nn.init.trunc_normal_(self.distillation_token, std=0.02)
        _initialise(self, depth)

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
        return _dropped(torch.cat([*first, patches], dim=1) + self.position, self)

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
        _initialise(self, depth)

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
        _check_tokens(tokens, self.vocabulary)
        if self.position is None:
            return _dropped(self.embedding(tokens), self)
        places = _learned_places(positions, tokens, self.position)
        return _dropped(self.embedding(tokens) + self.position(places), self)

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
        _initialise(self, depth)

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
        _check_tokens(tokens, self.vocabulary)
        if segments is None:
            segments = torch.zeros_like(tokens)
        elif segments.shape != tokens.shape:
            raise ValueError(f"segments must be one for each token, {tuple(tokens.shape)}; got {tuple(segments.shape)}")
        else:
            _check_tokens(segments, self.segment.num_embeddings, "segments")
        places = _learned_places(None, tokens, self.position)
        embedded = self.embedding(tokens) + self.segment(segments) + self.position(places)
        return _dropped(self.norm(embedded), self)

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


def _check_tokens(tokens: Tensor, vocabulary: int, name: str = "tokens") -> None:
    check_tensor(tokens, name)
    if tokens.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be int64 or int32; got {tokens.dtype}: encode text first")
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise ValueError(f"{name} must be [batch, tokens], at least one token; got shape {tuple(tokens.shape)}")
    look(partial(_check_range, most=vocabulary - 1, name=name), tokens)


def _check_range(tokens: Tensor, most: int, name: str) -> None:
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high > most:
        raise ValueError(f"{name} must lie in 0 … {most}; got {low} … {high}")


def _check_present(key_mask: Tensor) -> None:
    if not key_mask.any(-1).all():
        raise ValueError("a text has no token that is there, and its mean is of nothing: leave it out")


def _learned_places(positions: Tensor | None, tokens: Tensor, table: nn.Embedding) -> Tensor:
    """Where to look up the learned positions of tokens; anywhere for one at -1, which is not there."""
    places = spread_positions(positions, tokens).clamp(min=0)
    look(partial(_check_places, length=table.num_embeddings), places)
    return places


def _check_places(places: Tensor, length: int) -> None:
    if int(places.max()) >= length:
        raise ValueError(
            f"there are {length} learned positions, 0 … {length - 1}; a token stands at {int(places.max())}"
        )


def _dropped(embedded: Tensor, model: Any) -> Tensor:
    share = model.embedding_dropout
    return F.dropout(embedded, share, model.training) if share else embedded


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
