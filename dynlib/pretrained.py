"""Models that others trained, as a backbone of this house: then every mechanism works on them.

``from_transformers(model)`` reads a model of Hugging Face's ``transformers`` and gives a :mod:`dynlib.backbone` of the
same outputs, with weights of its own:

=========================================================================  =========================================
``ViTForImageClassification``, ``DeiTForImageClassification``,             :class:`~dynlib.backbone.ViT`
``DeiTForImageClassificationWithTeacher``
``BertModel``, which MiniLM is too                                         :class:`~dynlib.backbone.Encoder`
``GPT2LMHeadModel``, ``LlamaForCausalLM``                                  :class:`~dynlib.backbone.CausalLM`
=========================================================================  =========================================

What these cannot express is an error and never left out. Three things guard that: layers and options are read from the
model itself and asked for what they are; every parameter of the model must have found its place; and in the end both
run once on a random input and must agree.

``pip install dynlib-course[pretrained]`` brings ``transformers``, which is not imported here: who has a model has it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynlib.backbone import CausalLM, Encoder, FeedForward, GatedFeedForward, RMSNorm, ViT

Pooling = Literal["mean", "class"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "GELUActivation": nn.GELU,
    "NewGELUActivation": partial(nn.GELU, "tanh"),
    "FastGELUActivation": partial(nn.GELU, "tanh"),
    "AccurateGELUActivation": partial(nn.GELU, "tanh"),
    "GELUTanh": partial(nn.GELU, "tanh"),
    "SiLUActivation": nn.SiLU,
    "MishActivation": nn.Mish,
    "LinearActivation": nn.Identity,
}
"""The functions of ``transformers`` that are one of PyTorch's, by the names of their classes."""

OWN = (nn.GELU, nn.SiLU, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Mish, nn.Identity)
"""PyTorch's, taken as they are."""

ROTARY = ("default", "linear", "llama3")
"""Kinds of rotary positions whose frequencies are fixed, so that they can be read from the model."""

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
    if pooling is not None and family is not _bert:
        raise ValueError(f"pooling is for BertModel; {type(model).__name__} has its own readout: leave it out")
    _check_config(theirs)
    weights = _Weights(theirs)
    with torch.inference_mode(False), torch.no_grad():
        try:
            with torch.device("meta"):
                made = family(theirs, weights) if pooling is None else _bert(theirs, weights, pooling)
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


def _vit(model: Any, weights: "_Weights") -> ViT:
    """ViT and DeiT: as the house's, and DeiT has a distillation token, which may have a head."""
    base, taught = model.base_model, hasattr(model, "distillation_classifier")
    before, layers = base.embeddings, list(base.layers)
    patches, token = before.patch_embeddings.projection, getattr(before, "distillation_token", None)
    (height, width), (tall, wide) = _pair(before.image_size), _pair(before.patch_embeddings.patch_size)
    if height != width or tall != wide:
        raise ValueError(f"images and patches must be square; got images {height}×{width} and patches {tall}×{wide}")
    head = model.cls_classifier if taught else model.classifier
    if isinstance(head, nn.Identity):
        raise ValueError("the model has no classifier (num_labels=0), and a ViT here gives class logits")
    _check_kind(patches, nn.Conv2d)
    weights.put("patches", patches)
    weights.take("class_token", before.cls_token)
    weights.take("position", before.position_embeddings)
    weights.put("norm", base.layernorm)
    weights.put("head", head)
    if token is not None:
        weights.take("distillation_token", token)
    if taught:
        weights.put("distillation_head", model.distillation_classifier)
    for place, layer in enumerate(layers):
        attention, mlp = layer.attention, layer.mlp
        weights.put(f"blocks.{place}.norm1", layer.layernorm_before)
        weights.put(f"blocks.{place}.attention.query_key_value", attention.q_proj, attention.k_proj, attention.v_proj)
        weights.put(f"blocks.{place}.attention.output", attention.o_proj)
        weights.put(f"blocks.{place}.norm2", layer.layernorm_after)
        weights.put(f"blocks.{place}.feed_forward.expand", mlp.fc1)
        weights.put(f"blocks.{place}.feed_forward.contract", mlp.fc2)
    norms = [norm for layer in layers for norm in (layer.layernorm_before, layer.layernorm_after)]
    attentions = [layer.attention for layer in layers]
    head_dim, heads = _heads(attentions, "head_dim", (part.q_proj.out_features for part in attentions))
    return ViT(
        image_size=height,
        patch_size=tall,
        classes=head.out_features,
        channels=patches.in_channels,
        dim=patches.out_channels,
        depth=len(layers),
        hidden=_one("hidden sizes", (layer.mlp.fc1.out_features for layer in layers), 1),
        distillation="none" if token is None else "head" if taught else "token",
        dropout=_share(layer.dropout.p for layer in layers),
        embedding_dropout=float(before.dropout.p),
        attention_dropout=_share(part.attention_dropout for part in attentions),
        norm=_norm([*norms, base.layernorm]),
        feed_forward=_feed_forward([layer.mlp.activation_fn for layer in layers], model.config),
        heads=heads,
        head_dim=head_dim,
        bias=_one("biases", (part.q_proj.bias is not None for part in attentions), True),
        output_bias=_one("biases", (part.o_proj.bias is not None for part in attentions), True),
    )


def _bert(model: Any, weights: "_Weights", pooling: Pooling = "mean") -> Encoder:
    """BERT: post-norm, with segments and learned positions."""
    before, layers, pooler = model.embeddings, list(model.encoder.layer), model.pooler
    weights.put("embedding", before.word_embeddings)
    weights.put("position", before.position_embeddings)
    weights.put("segment", before.token_type_embeddings)
    weights.put("norm", before.LayerNorm)
    if pooler is not None:
        weights.put("pooler", pooler.dense)
    for place, layer in enumerate(layers):
        attention, after = layer.attention.self, layer.attention.output
        weights.put(f"blocks.{place}.attention.query_key_value", attention.query, attention.key, attention.value)
        weights.put(f"blocks.{place}.attention.output", after.dense)
        weights.put(f"blocks.{place}.norm1", after.LayerNorm)
        weights.put(f"blocks.{place}.feed_forward.expand", layer.intermediate.dense)
        weights.put(f"blocks.{place}.feed_forward.contract", layer.output.dense)
        weights.put(f"blocks.{place}.norm2", layer.output.LayerNorm)
    norms = [part.LayerNorm for layer in layers for part in (layer.attention.output, layer.output)]
    dropped = [part.dropout.p for layer in layers for part in (layer.attention.output, layer.output)]
    attentions = [layer.attention.self for layer in layers]
    head_dim, heads = _heads(attentions, "attention_head_size", (part.query.out_features for part in attentions))
    made = Encoder(
        vocabulary=before.word_embeddings.num_embeddings,
        length=before.position_embeddings.num_embeddings,
        segments=before.token_type_embeddings.num_embeddings,
        dim=before.word_embeddings.embedding_dim,
        depth=len(layers),
        hidden=_one("hidden sizes", (layer.intermediate.dense.out_features for layer in layers), 1),
        pooling=pooling,
        pooler=pooler is not None,
        dropout=_share(dropped),
        embedding_dropout=float(before.dropout.p),
        attention_dropout=_share(part.dropout.p for part in attentions),
        norm=_norm([*norms, before.LayerNorm]),
        feed_forward=_feed_forward([layer.intermediate.intermediate_act_fn for layer in layers], model.config),
        heads=heads,
        head_dim=head_dim,
    )
    made.embedding.padding_idx = before.word_embeddings.padding_idx  # which has no gradient
    return made


def _gpt2(model: Any, weights: "_Weights") -> CausalLM:
    """GPT-2: as the house's with learned positions; its linear layers are kept transposed."""
    base = model.transformer
    layers = list(base.h)
    tied = _readout(model, base.wte, weights)
    weights.put("position", base.wpe)
    weights.put("norm", base.ln_f)
    for place, layer in enumerate(layers):
        weights.put(f"blocks.{place}.norm1", layer.ln_1)
        weights.put(f"blocks.{place}.attention.query_key_value", layer.attn.c_attn)
        weights.put(f"blocks.{place}.attention.output", layer.attn.c_proj)
        weights.put(f"blocks.{place}.norm2", layer.ln_2)
        weights.put(f"blocks.{place}.feed_forward.expand", layer.mlp.c_fc)
        weights.put(f"blocks.{place}.feed_forward.contract", layer.mlp.c_proj)
    norms = [norm for layer in layers for norm in (layer.ln_1, layer.ln_2)]
    dropped = [part.p for layer in layers for part in (layer.attn.resid_dropout, layer.mlp.dropout)]
    attentions = [layer.attn for layer in layers]
    head_dim, heads = _heads(attentions, "head_dim", (part.c_attn.nf // 3 for part in attentions))
    return CausalLM(
        vocabulary=base.wte.num_embeddings,
        length=base.wpe.num_embeddings,
        dim=base.wte.embedding_dim,
        depth=len(layers),
        hidden=_one("hidden sizes", (layer.mlp.c_fc.nf for layer in layers), 1),
        tied=tied,
        dropout=_share(dropped),
        embedding_dropout=float(base.drop.p),
        attention_dropout=_share(part.attn_dropout.p for part in attentions),
        norm=_norm([*norms, base.ln_f]),
        feed_forward=_feed_forward([layer.mlp.act for layer in layers], model.config),
        heads=heads,
        head_dim=head_dim,
    )


def _llama(model: Any, weights: "_Weights") -> CausalLM:
    """Llama: RMSNorm, rotary positions, several heads to one key, gated feed-forward parts."""
    base = model.model
    layers, turned = list(base.layers), base.rotary_emb
    if turned.rope_type not in ROTARY or turned.attention_scaling != 1:
        raise ValueError(
            f"rotary positions of the kind {turned.rope_type!r} (rope_parameters) change with the text or scale the "
            f"scores; known are {', '.join(map(repr, ROTARY))}"
        )
    tied = _readout(model, base.embed_tokens, weights)
    weights.put("norm", base.norm)
    for place, layer in enumerate(layers):
        attention, mlp = layer.self_attn, layer.mlp
        weights.put(f"blocks.{place}.norm1", layer.input_layernorm)
        weights.put(f"blocks.{place}.attention.query_key_value", attention.q_proj, attention.k_proj, attention.v_proj)
        weights.put(f"blocks.{place}.attention.output", attention.o_proj)
        weights.put(f"blocks.{place}.norm2", layer.post_attention_layernorm)
        weights.put(f"blocks.{place}.feed_forward.gate", mlp.gate_proj)
        weights.put(f"blocks.{place}.feed_forward.expand", mlp.up_proj)
        weights.put(f"blocks.{place}.feed_forward.contract", mlp.down_proj)
    norms = [norm for layer in layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    attentions = [layer.self_attn for layer in layers]
    queries, keys = ([getattr(part, name).out_features for part in attentions] for name in ("q_proj", "k_proj"))
    head_dim, heads, shared = _heads(attentions, "head_dim", queries, keys)
    bias = _one("biases", (layer.mlp.gate_proj.bias is not None for layer in layers), True)
    made = CausalLM(
        vocabulary=base.embed_tokens.num_embeddings,
        dim=base.embed_tokens.embedding_dim,
        depth=len(layers),
        hidden=_one("hidden sizes", (layer.mlp.gate_proj.out_features for layer in layers), 1),
        tied=tied,
        rotary=turned.inv_freq.detach().float().clone(),
        attention_dropout=_share(part.attention_dropout for part in attentions),
        norm=_norm([*norms, base.norm]),
        feed_forward=_feed_forward([layer.mlp.act_fn for layer in layers], model.config, gated=True, bias=bias),
        heads=heads,
        head_dim=head_dim,
        key_value_heads=shared,
        bias=_one("biases", (part.q_proj.bias is not None for part in attentions), True),
        output_bias=_one("biases", (part.o_proj.bias is not None for part in attentions), True),
    )
    made.embedding.padding_idx = base.embed_tokens.padding_idx  # which has no gradient
    return made


FAMILIES: dict[str, Callable[..., Any]] = {
    "ViTForImageClassification": _vit,
    "DeiTForImageClassification": _vit,
    "DeiTForImageClassificationWithTeacher": _vit,
    "BertModel": _bert,
    "GPT2LMHeadModel": _gpt2,
    "LlamaForCausalLM": _llama,
}
"""The classes of ``transformers`` that are read, and by whom."""


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
    if FAMILIES[type(model).__name__] in (_gpt2, _llama) and not getattr(config, "is_causal", True):
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


class _Weights:
    """The weights of a backbone, taken from a model, in which every parameter must find its place."""

    def __init__(self, model: nn.Module) -> None:
        self.left = {id(parameter): name for name, parameter in model.named_parameters()}
        self.tensors: dict[str, Tensor] = {}
        self.learns: dict[str, bool] = {}
        devices = {parameter.device for parameter in model.parameters()}
        if len(devices) != 1:
            raise ValueError(f"the model lies on {', '.join(sorted(map(str, devices)))}: put it on one device first")
        (self.device,) = devices

    def take(self, name: str, *given: Tensor | None, transposed: bool = False) -> None:
        """Copies, one below the other, under this name."""
        parts = [part for part in given if part is not None]
        if not parts:
            return
        for part in parts:
            if type(part) not in (Tensor, nn.Parameter) or not part.is_floating_point():
                raise ValueError(
                    f"the weights for {name} are {type(part).__name__} of {part.dtype}: undo a quantisation"
                )
            self.left.pop(id(part), None)
        if len({part.dtype for part in parts}) > 1 or len(parts) < len(given):
            raise ValueError(f"the weights for {name} are to be put together, and differ in number type or biases")
        whole = torch.cat([part.detach() for part in parts]) if len(parts) > 1 else parts[0].detach()
        whole = whole.t() if transposed else whole
        alone = whole.clone(memory_format=torch.contiguous_format) if len(parts) == 1 else whole
        self.tensors[name], self.learns[name] = alone, any(part.requires_grad for part in parts)

    def put(self, name: str, *layers: Any) -> None:
        """Weights and biases of layers."""
        for layer in layers:
            _check_kind(layer, nn.Linear, nn.LayerNorm, nn.Conv2d, nn.Embedding, "Conv1D", "LlamaRMSNorm")
        transposed = type(layers[0]).__name__ == "Conv1D"
        self.take(f"{name}.weight", *(layer.weight for layer in layers), transposed=transposed)
        if any(getattr(layer, "bias", None) is not None for layer in layers):
            self.take(f"{name}.bias", *(layer.bias for layer in layers))

    def fill(self, made: nn.Module) -> None:
        """Give a model on the meta device its weights.

        Raises:
            ValueError: if there is one that it has no place for, or one that it needs is not there.
        """
        if self.left:
            raise ValueError(
                f"the model has weights that a backbone here has no place for: {', '.join(sorted(self.left.values()))}"
            )
        wanted = {name: weight.shape for name, weight in made.state_dict().items()}
        given = {name: weight.shape for name, weight in self.tensors.items()}
        odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        if odd:
            raise ValueError(
                "weights do not fit: "
                + ", ".join(f"{name} is {given.get(name)} and must be {wanted.get(name)}" for name in odd)
            )
        made.load_state_dict(self.tensors, assign=True)
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(self.learns[name])


def _readout(model: Any, embedding: Any, weights: _Weights) -> bool:
    """Take the embedding, and the readout if it has weights of its own; whether it has none."""
    weights.put("embedding", embedding)
    tied = model.lm_head.weight is embedding.weight
    if not tied:
        weights.put("head", model.lm_head)
    _check_kind(model.lm_head, nn.Linear)
    return tied


def _check_kind(layer: object, *kinds: type | str) -> None:
    """Raises ValueError for a layer of another class: an adapter, a quantised or parametrised one, somebody's own."""
    kind = type(layer)
    theirs = kind.__module__.startswith("transformers.") and kind.__name__ in kinds
    if not theirs and kind not in kinds:
        raise ValueError(
            f"a layer is {kind.__module__}.{kind.__name__}, and what it computes is not known: merge an adapter, "
            "remove a parametrisation, or undo a quantisation first"
        )
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        raise ValueError("an embedding that changes its rows when they are read (max_norm) is not supported")
    if isinstance(layer, nn.Conv2d):
        plain = layer.stride == layer.kernel_size and layer.groups == 1 and set(_pair(layer.dilation)) == {1}
        if not plain or layer.padding not in ((0, 0), "valid"):
            raise ValueError(f"patches that overlap, have gaps or are padded are not supported; got {layer}")


def _one(what: str, values: Iterable[Any], none: Any) -> Any:
    """What all layers have in common; ``none`` where there are no layers."""
    found = list(values)
    if any(value != found[0] for value in found):
        raise ValueError(f"all layers must be alike, and their {what} are {found}")
    return found[0] if found else none


def _share(dropped: Iterable[float | int | None]) -> float:
    return float(_one("shares of dropout", dropped, 0.0) or 0.0)


def _heads(attentions: list[Any], head_dim: str, *outputs: Iterable[int]) -> list[int]:
    """The size of a head, and how many heads each of these outputs has, in all layers alike."""
    size = _one("head sizes", (getattr(attention, head_dim) for attention in attentions), 2)
    scale = _one("scales of attention scores", (attention.scaling for attention in attentions), size**-0.5)
    if abs(scale * size**0.5 - 1) > 1e-12:
        raise ValueError(f"attention scores scaled by {scale} and not by 1 / √{size} are not supported")
    return [size, *(_one("numbers of features", features, size) // size for features in outputs)]


def _norm(norms: list[Any]) -> Callable[[int], nn.Module]:
    kind = _one("kinds of norm", map(type, norms), nn.LayerNorm)
    if kind is nn.LayerNorm:
        bias = _one("norms' biases", (norm.bias is not None for norm in norms), True)
        return partial(nn.LayerNorm, eps=_one("norms' ε", (norm.eps for norm in norms), 0), bias=bias)
    return partial(RMSNorm, eps=_one("norms' ε", (norm.variance_epsilon for norm in norms), 0), dtype=torch.float32)


def _feed_forward(activations: list[Any], config: Any, *, gated: bool = False, bias: bool = True) -> Any:
    kind = _one("activations", map(type, activations), nn.GELU)
    field = "hidden_act" if hasattr(config, "hidden_act") else "activation_function"
    if kind in OWN:
        activation = deepcopy(activations[0]) if activations else nn.GELU()
    elif kind.__module__ == "transformers.activations" and kind.__name__ in ACTIVATIONS:
        activation = ACTIVATIONS[kind.__name__]()
    else:
        raise ValueError(
            f"the activation {kind.__name__} ({field}={getattr(config, field)!r}) is not supported; known are the "
            f"GELU, exact or by tanh, the SiLU, {', '.join(one.__name__ for one in OWN[2:])}"
        )
    if gated:
        return partial(_gated, activation=activation, bias=bias)
    exact = type(activation) is nn.GELU and activation.approximate == "none"
    return FeedForward if exact else partial(_plain, activation=activation)


def _plain(dim: int, hidden: int | None, *, activation: nn.Module) -> FeedForward:
    return FeedForward(dim, hidden, activation=deepcopy(activation))


def _gated(dim: int, hidden: int | None, *, activation: nn.Module, bias: bool) -> GatedFeedForward:
    return GatedFeedForward(dim, hidden, activation=deepcopy(activation), bias=bias)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


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
