"""The families of models that are read: where each keeps its weights, and which options of a backbone it needs."""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from dynlib.backbone import CausalLM, Encoder, ViT
from dynlib.pretrained.alike import common, dropout_of, feed_forward_of, heads_of, norm_of
from dynlib.pretrained.weights import Weights, check_kind, pair

Pooling = Literal["mean", "class"]


ROTARY = ("default", "linear", "llama3")
"""Kinds of rotary positions whose frequencies are fixed, so that they can be read from the model."""


def vit(model: Any, weights: Weights) -> ViT:
    """ViT and DeiT: as the house's, and DeiT has a distillation token, which may have a head."""
    base, taught = model.base_model, hasattr(model, "distillation_classifier")
    before, layers = base.embeddings, list(base.layers)
    patches, token = before.patch_embeddings.projection, getattr(before, "distillation_token", None)
    (height, width), (tall, wide) = pair(before.image_size), pair(before.patch_embeddings.patch_size)
    if height != width or tall != wide:
        raise ValueError(f"images and patches must be square; got images {height}×{width} and patches {tall}×{wide}")
    head = model.cls_classifier if taught else model.classifier
    if isinstance(head, nn.Identity):
        raise ValueError("the model has no classifier (num_labels=0), and a ViT here gives class logits")
    check_kind(patches, nn.Conv2d)
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
    head_dim, heads = heads_of(attentions, "head_dim", (part.q_proj.out_features for part in attentions))
    return ViT(
        image_size=height,
        patch_size=tall,
        classes=head.out_features,
        channels=patches.in_channels,
        dim=patches.out_channels,
        depth=len(layers),
        hidden=common("hidden sizes", (layer.mlp.fc1.out_features for layer in layers), 1),
        distillation="none" if token is None else "head" if taught else "token",
        dropout=dropout_of(layer.dropout.p for layer in layers),
        embedding_dropout=float(before.dropout.p),
        attention_dropout=dropout_of(part.attention_dropout for part in attentions),
        norm=norm_of([*norms, base.layernorm]),
        feed_forward=feed_forward_of([layer.mlp.activation_fn for layer in layers], model.config),
        heads=heads,
        head_dim=head_dim,
        bias=common("biases", (part.q_proj.bias is not None for part in attentions), True),
        output_bias=common("biases", (part.o_proj.bias is not None for part in attentions), True),
    )


def bert(model: Any, weights: Weights, pooling: Pooling = "mean") -> Encoder:
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
    head_dim, heads = heads_of(attentions, "attention_head_size", (part.query.out_features for part in attentions))
    made = Encoder(
        vocabulary=before.word_embeddings.num_embeddings,
        length=before.position_embeddings.num_embeddings,
        segments=before.token_type_embeddings.num_embeddings,
        dim=before.word_embeddings.embedding_dim,
        depth=len(layers),
        hidden=common("hidden sizes", (layer.intermediate.dense.out_features for layer in layers), 1),
        pooling=pooling,
        pooler=pooler is not None,
        dropout=dropout_of(dropped),
        embedding_dropout=float(before.dropout.p),
        attention_dropout=dropout_of(part.dropout.p for part in attentions),
        norm=norm_of([*norms, before.LayerNorm]),
        feed_forward=feed_forward_of([layer.intermediate.intermediate_act_fn for layer in layers], model.config),
        heads=heads,
        head_dim=head_dim,
    )
    made.embedding.padding_idx = before.word_embeddings.padding_idx  # which has no gradient
    return made


def gpt2(model: Any, weights: Weights) -> CausalLM:
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
    head_dim, heads = heads_of(attentions, "head_dim", (part.c_attn.nf // 3 for part in attentions))
    return CausalLM(
        vocabulary=base.wte.num_embeddings,
        length=base.wpe.num_embeddings,
        dim=base.wte.embedding_dim,
        depth=len(layers),
        hidden=common("hidden sizes", (layer.mlp.c_fc.nf for layer in layers), 1),
        tied=tied,
        dropout=dropout_of(dropped),
        embedding_dropout=float(base.drop.p),
        attention_dropout=dropout_of(part.attn_dropout.p for part in attentions),
        norm=norm_of([*norms, base.ln_f]),
        feed_forward=feed_forward_of([layer.mlp.act for layer in layers], model.config),
        heads=heads,
        head_dim=head_dim,
    )


def llama(model: Any, weights: Weights) -> CausalLM:
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
    head_dim, heads, shared = heads_of(attentions, "head_dim", queries, keys)
    bias = common("biases", (layer.mlp.gate_proj.bias is not None for layer in layers), True)
    made = CausalLM(
        vocabulary=base.embed_tokens.num_embeddings,
        dim=base.embed_tokens.embedding_dim,
        depth=len(layers),
        hidden=common("hidden sizes", (layer.mlp.gate_proj.out_features for layer in layers), 1),
        tied=tied,
        rotary=turned.inv_freq.detach().float().clone(),
        attention_dropout=dropout_of(part.attention_dropout for part in attentions),
        norm=norm_of([*norms, base.norm]),
        feed_forward=feed_forward_of([layer.mlp.act_fn for layer in layers], model.config, gated=True, bias=bias),
        heads=heads,
        head_dim=head_dim,
        key_value_heads=shared,
        bias=common("biases", (part.q_proj.bias is not None for part in attentions), True),
        output_bias=common("biases", (part.o_proj.bias is not None for part in attentions), True),
    )
    made.embedding.padding_idx = base.embed_tokens.padding_idx  # which has no gradient
    return made


FAMILIES: dict[str, Callable[..., Any]] = {
    "ViTForImageClassification": vit,
    "DeiTForImageClassification": vit,
    "DeiTForImageClassificationWithTeacher": vit,
    "BertModel": bert,
    "GPT2LMHeadModel": gpt2,
    "LlamaForCausalLM": llama,
}
"""The classes of ``transformers`` that are read, and by whom."""


def _readout(model: Any, embedding: Any, weights: Weights) -> bool:
    """Take the embedding, and the readout if it has weights of its own; whether it has none."""
    weights.put("embedding", embedding)
    tied = model.lm_head.weight is embedding.weight
    if not tied:
        weights.put("head", model.lm_head)
    check_kind(model.lm_head, nn.Linear)
    return tied
