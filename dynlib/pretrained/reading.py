"""Read a model: refuse what cannot be expressed, build the backbone, and hold both against each other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from dynlib.backbone import Encoder, ViT
from dynlib.pretrained.families import FAMILIES, Pooling, bert, gpt2, llama
from dynlib.pretrained.weights import Weights

ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")
"""Implementations of attention that differ in rounding alone."""

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "add_cross_attention": ((None, False), "cross-attention"),
    "is_decoder": ((None, False), "a BERT that attends to the past alone, as a decoder"),
    "is_encoder_decoder": ((None, False), "an encoder with a decoder"),
    "position_embedding_type": ((None, "absolute"), "relative position biases"),
    "alibi": ((None, False), "ALiBi"),
    "sliding_window": ((None, False), "sliding windows"),
    "attention_chunk_size": ((None,), "attention within chunks"),
    "scale_attn_weights": ((None, True), "attention scores that are not divided by √head_dim"),
    "scale_attn_by_inverse_layer_idx": ((None, False), "attention scores divided by the layer's number"),
    "quantization_config": ((None,), "quantised weights"),
}
"""Fields of a config that change the function: the values that are right here, and what another one would mean."""


def from_transformers(model: nn.Module, *, pooling: Pooling | None = None, check: bool = True) -> Any:
    """A backbone that computes what a model of ``transformers`` computes.

    The weights are copied and the model is left as it is. Number type, device, training mode, dropout and
    ``requires_grad`` are its own. Hooks are not taken along. The result has these outputs:

    - :class:`~dynlib.backbone.ViT`: the logits. ``key_mask`` is ``attention_mask``, over all tokens.
    - :class:`~dynlib.backbone.CausalLM`: the logits of the next token. ``key_mask`` is ``attention_mask``. Positions
      are counted over the tokens that are there, as ``generate`` of ``transformers`` counts them (its ``forward``
      counts all, unless it is given ``position_ids``). :meth:`~dynlib.backbone.CausalLM.generate` is its greedy
      generation, but does not stop at a token that ends a text.
    - :class:`~dynlib.backbone.Encoder`: ``states(tokens, key_mask=…)`` is ``last_hidden_state``; called, it gives a
      vector for each text: with ``pooling="mean"`` the mean state of its tokens, as MiniLM has its meaning, and with
      ``pooling="class"`` ``pooler_output``.

    Llama's norms and the angles of its positions are computed in float32 even in a model of float64, as there.

    Args:
        model: one of the classes above, itself and no class derived from it.
        pooling: of an Encoder; "mean" if left out.
        check: run both once, on a few random tokens or an image, and compare.

    Raises:
        ImportError: if ``transformers`` is not installed.
        TypeError: if the model is none of these.
        ValueError: if it has something that a backbone here has not, which is named; if its layers differ among
            themselves in more than their weights, or lie on several devices; if ``pooling`` has another name, is for
            another model, or needs a pooler that it lacks; or if both do not agree.
    """
    family = _family(model)
    theirs: Any = model
    if pooling is not None and family is not bert:
        raise ValueError(f"pooling is for BertModel; {type(model).__name__} has its own readout: leave it out")
    _check_config(theirs)
    weights = Weights(theirs)
    with torch.inference_mode(False), torch.no_grad():
        try:
            with torch.device("meta"):
                made = family(theirs, weights) if pooling is None else bert(theirs, weights, pooling)
        except AttributeError as error:
            raise ValueError(
                f"this version of transformers builds {type(model).__name__} otherwise than 5.23, which is read here "
                f"({error})"
            ) from error
        weights.fill(made)
        made.train(theirs.training)
        if check and weights.device.type != "meta":
            _compare(theirs, made)
    return made


def _family(model: object) -> Callable[..., Any]:
    kind = type(model)
    if kind.__name__ in FAMILIES and kind.__module__.startswith("transformers.models."):
        return FAMILIES[kind.__name__]
    if find_spec("transformers") is None:
        raise ImportError(
            "from_transformers reads models of transformers, which is not installed: "
            "pip install dynlib-course[pretrained]"
        )
    name = repr(model) if isinstance(model, str) else kind.__name__
    inner = [type(part).__name__ for part in model.modules()] if isinstance(model, nn.Module) else []
    within = next((f"; it holds a {part}: give that" for part in inner[1:] if part in FAMILIES), "")
    raise TypeError(
        f"from_transformers takes a model of one of the classes {', '.join(FAMILIES)} itself, as their from_pretrained "
        f"gives it; got {name}{within}"
    )


def _check_config(model: Any) -> None:
    """Raises ValueError for a field of the config that makes it another function."""
    config = model.config
    for name, (right, meaning) in REFUSED.items():
        value = getattr(config, name, None)
        if not any(value is one or value == one for one in right):
            raise ValueError(f"{meaning} ({name}={value!r}) is not supported: a backbone here has nothing like it")
    if FAMILIES[type(model).__name__] in (gpt2, llama) and not getattr(config, "is_causal", True):
        raise ValueError("a language model that attends to what follows (is_causal=False) is not supported")
    kinds = getattr(config, "layer_types", None) or ()
    if any(kind != "full_attention" for kind in kinds):
        raise ValueError(f"sliding windows or other kinds of attention (layer_types={kinds!r}) are not supported")
    if getattr(config, "is_heterogeneous", False):
        raise ValueError("layers with options of their own (per_layer_config) are not supported: all must be alike")
    if getattr(config, "_attn_implementation", None) not in (None, *ATTENTIONS):
        raise ValueError(
            f"the attention {config._attn_implementation!r} is somebody's own and may compute anything; known are "
            f"{', '.join(map(repr, ATTENTIONS))}"
        )


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    """In evaluation mode, and every part back in its own in the end."""
    before = [(part, part.training) for model in models for part in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for part, training in before:
            part.training = training


def _compare(theirs: Any, made: Any) -> None:
    """Raises ValueError unless both give the same for a random input."""
    generator = torch.Generator().manual_seed(0)
    like = next(made.parameters())
    with _evaluating(theirs, made):
        if isinstance(made, ViT):
            images = torch.rand(2, made.channels, made.image_size, made.image_size, generator=generator).to(like)
            expected, got = theirs(pixel_values=images, return_dict=True).logits, made(images)
        else:
            length = theirs.config.chunk_size_feed_forward or 8  # which must divide it
            length = length if made.position is None else min(length, made.position.num_embeddings)
            tokens = torch.randint(made.vocabulary, (2, length), generator=generator).to(like.device)
            said = theirs(input_ids=tokens, attention_mask=torch.ones_like(tokens), return_dict=True)
            if isinstance(made, Encoder):
                expected, got = said.last_hidden_state, made.states(tokens)
            else:
                expected, got = said.logits, made(tokens)
    there = expected.isfinite()
    apart = (got - expected)[there].abs().max().item() if there.any() else 0.0
    scale = expected[there].abs().max().item() if there.any() else 1.0
    if not apart <= scale * (0.1 if expected.dtype in (torch.float16, torch.bfloat16) else 1e-3):
        raise ValueError(
            f"the model computes something else than its layers and its config say: outputs of up to {scale:.3g} are "
            f"{apart:.3g} apart. Look for a hook, a forward of its own, or an attribute that was changed"
        )
