"""Converted models against ``transformers``: the same outputs, or an error that says why not."""

import copy
import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from dynlib.backbone import CausalLM, Encoder, FeedForward, GatedFeedForward, RMSNorm, ViT
from dynlib.cost import count
from dynlib.pretrained import from_transformers
from dynlib.zoo import load
from tests.pretrained_models import (
    CAUSAL,
    CLASSES,
    CLOSE,
    FAMILIES,
    IMAGE,
    both,
    config_class,
    inputs,
    make,
    ours,
    theirs,
    transformers,
    writer,
)

EXACT = {"rtol": 0, "atol": 1e-9}  # for float64

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("ViT", {"qkv_bias": False, "hidden_act": "gelu_new", "num_channels": 1, "patch_size": 6}),
    ("Bert", {"hidden_act": "relu", "num_attention_heads": 2}),
    ("GPT2", {"n_inner": 20, "activation_function": "gelu"}),
    ("GPT2", {"tie_word_embeddings": False, "activation_function": "silu"}),
    ("Llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("Llama", {"num_key_value_heads": 1, "head_dim": 6, "hidden_act": "gelu_pytorch_tanh"}),
    ("Llama", {"num_key_value_heads": 4, "rope_parameters": LLAMA3}),
    ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}}),
]


# The same outputs


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
def test_the_outputs_are_the_same(family: str, changes: dict[str, Any], dtype: torch.dtype) -> None:
    model, made, x = both(family, dtype=dtype, **changes)
    expected = theirs(family, model, x)
    torch.testing.assert_close(ours(family, made, x), expected, rtol=0, atol=CLOSE[dtype])
    assert expected.std() > 0.1  # it is not zero against zero
    assert isinstance(made, ViT if family in IMAGE else Encoder if family == "Bert" else CausalLM)


PADDED = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1]])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("family", ["Bert", *CAUSAL])
def test_what_only_fills_up_changes_nothing(family: str, dtype: torch.dtype, side: str) -> None:
    model, made, x = both(family, dtype=dtype)
    mask = PADDED if side == "left" else PADDED.flip(1)
    options = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if family in CAUSAL else {}
    expected = theirs(family, model, x, attention_mask=mask, **options)
    there, got = mask.bool(), ours(family, made, x, key_mask=mask.bool())
    torch.testing.assert_close(got[there], expected[there], rtol=0, atol=CLOSE[dtype])
    other = torch.where(there, x, (x + 1) % model.config.vocab_size)
    torch.testing.assert_close(ours(family, made, other, key_mask=there)[there], got[there], rtol=0, atol=CLOSE[dtype])
    if family in CAUSAL:  # said by positions; and counted as the forward pass of transformers counts by itself
        assert torch.equal(made(x, positions=torch.where(there, mask.cumsum(1) - 1, -1)), got)
        places = torch.arange(7).where(there, -1)
        alone = theirs(family, model, x, attention_mask=mask)
        torch.testing.assert_close(made(x, positions=places)[there], alone[there], rtol=0, atol=CLOSE[dtype])


@pytest.mark.parametrize("family", IMAGE)
def test_patches_may_be_hidden(family: str) -> None:
    model, made, x = both(family)
    mask = torch.rand(3, 9 + (1 if family == "ViT" else 2), generator=torch.Generator().manual_seed(0)) < 0.6
    mask[:, :2] = True
    torch.testing.assert_close(made(x, key_mask=mask), theirs(family, model, x, attention_mask=mask.long()), **EXACT)


def test_bert_tells_segments_apart_and_has_both_vectors_of_a_text() -> None:
    model, made, x = both("Bert")
    mask, segments = PADDED.flip(1), torch.arange(7).expand(3, 7) // 3
    said = model(x, attention_mask=mask, token_type_ids=segments)
    states = made.states(x, key_mask=mask.bool(), segments=segments)
    torch.testing.assert_close(states[mask.bool()], said.last_hidden_state[mask.bool()], **EXACT)
    pooled = from_transformers(model, pooling="class")(x, mask.bool(), segments=segments)
    torch.testing.assert_close(pooled, said.pooler_output, **EXACT)
    means = [states[row, : mask[row].sum()].mean(0) for row in range(3)]
    torch.testing.assert_close(made(x, mask.bool(), segments=segments), torch.stack(means), **EXACT)
    made.pooling = "class"
    assert torch.equal(made(x, mask.bool(), segments=segments), pooled)
    torch.testing.assert_close(made.readout(states), pooled, **EXACT)


def test_the_real_minilm_is_the_same() -> None:
    try:
        published = load("minilm")
    except ImportError as error:
        pytest.skip(str(error))
    made = from_transformers(published.bert)
    tokens, mask = published.encode(["A cat sleeps on the warm stove.", "Seven", "Le chat dort " * 20], length=32)
    with torch.no_grad():
        vectors, expected = made(tokens, mask), published(tokens, mask)
        states = published.bert(tokens, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(made.states(tokens, key_mask=mask)[mask], states[mask], rtol=0, atol=1e-4)
        exact = from_transformers(published.bert.double())
        torch.testing.assert_close(exact(tokens, mask), published(tokens, mask), **EXACT)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-4)
    assert isinstance(made, Encoder)
    assert len(made.blocks) == 6


# Generation


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    ("family", "changes"), [("GPT2", {}), ("Llama", {}), ("Llama", {"rope_parameters": LLAMA3})], ids=str
)
def test_it_writes_what_transformers_writes(family: str, changes: dict[str, Any], use_cache: bool) -> None:
    model = writer(family, dtype=torch.float32, **changes)
    made, x, mask = from_transformers(model), inputs(family, model), PADDED
    for there in (torch.ones_like(mask), mask):
        expected = model.generate(x, attention_mask=there, max_new_tokens=14, do_sample=False, pad_token_id=0)
        key_mask = None if there.all() else there.bool()
        assert torch.equal(made.generate(x, 14, key_mask=key_mask, use_cache=use_cache), expected)
    assert len(expected[:, 7:].unique()) > 3


def test_learned_positions_end() -> None:
    made = from_transformers(make("GPT2"))
    x = torch.zeros(1, 20, dtype=torch.int64)
    assert made.generate(x, 4).shape == (1, 24)
    with pytest.raises(ValueError, match=r"24 learned positions, 0 … 23; a token stands at 24"):
        made.generate(x, 6)
    with pytest.raises(ValueError, match="24 learned positions"):
        made(torch.zeros(1, 25, dtype=torch.int64))


# Training


DROPPED = {
    "ViT": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3},
    "Teacher": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3},
    "Bert": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3},
    "GPT2": {"resid_pdrop": 0.2, "attn_pdrop": 0.3, "embd_pdrop": 0.1},
    "Llama": {"attention_dropout": 0.3},
}


@pytest.mark.parametrize("family", DROPPED)
def test_it_drops_what_the_original_drops_and_learns_what_it_learns(family: str) -> None:
    model = make(family, **DROPPED[family]).train()
    made, x = from_transformers(model), inputs(family, model)
    assert made.training
    outputs, gradients = [], []
    for run, one in ((theirs, model), (ours, made)):
        torch.manual_seed(3)
        out = run(family, one, x)
        out.square().mean().backward()
        outputs.append(out.detach())
        # the same numbers, put together otherwise
        slopes = torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None])
        gradients.append(slopes[slopes.abs() > 1e-12].sort().values)  # all but 0, as of the keys' biases
    torch.testing.assert_close(*outputs, **EXACT)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(outputs[0], theirs(family, model.eval(), x))


def test_the_row_that_fills_up_does_not_learn_where_it_did_not() -> None:
    for family in ("Bert", "Llama"):
        model = make(family, pad_token_id=4)
        made, x = from_transformers(model), torch.tensor([[1, 4, 2]])
        slopes = []
        for run, one, table in (
            (theirs, model, model.get_input_embeddings()),
            (ours, made, made.embedding),
        ):
            run(family, one, x).square().mean().backward()
            slopes.append(table.weight.grad)
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-7)
        assert not slopes[1][4].any()


# What is kept and what is left


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_are_copied_and_the_original_is_left_as_it_is(family: str) -> None:
    model = make(family, dtype=torch.float32)
    frozen = next(iter(model.base_model.children())).requires_grad_(False)
    odd = list(model.modules())[-1].train()  # one part in another mode
    before, random, state = copy.deepcopy(model.state_dict()), torch.get_rng_state(), copy.deepcopy(model.config)
    modes = [part.training for part in model.modules()]
    made = from_transformers(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in model.modules()] == modes
    assert odd.training
    assert model.config.to_dict() == state.to_dict()
    held = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert not any(parameter.untyped_storage().data_ptr() in held for parameter in made.parameters())
    assert not made.training
    assert all(parameter.is_contiguous() for parameter in made.parameters())
    still = sum(p.numel() for p in frozen.parameters())
    assert sum(p.numel() for p in made.parameters() if not p.requires_grad) == still
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_number_type_is_kept(family: str) -> None:
    model, made, x = both(family, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in made.parameters()} == {torch.bfloat16}
    got, expected = ours(family, made, x).float(), theirs(family, model, x).float()
    assert got.isfinite().all()
    assert (got - expected).abs().max() < 0.1 * expected.abs().max()


def test_on_the_meta_device_it_stays_there() -> None:
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config_class("Llama")(num_hidden_layers=1, hidden_size=64))
    made = from_transformers(model)
    assert {parameter.device.type for parameter in made.parameters()} == {"meta"}


def test_it_may_be_converted_under_any_mode() -> None:
    model = make("Llama")
    with torch.inference_mode():
        made = from_transformers(model)
    made(torch.tensor([[1, 2, 3]])).sum().backward()
    assert made.embedding.weight.grad is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_its_weights_can_be_saved_and_loaded(family: str) -> None:
    _, made, x = both(family, seed=0)
    _, other, _ = both(family, seed=1)
    assert not torch.allclose(ours(family, other, x), ours(family, made, x))
    other.load_state_dict(made.state_dict())
    assert torch.equal(ours(family, other, x), ours(family, made, x))


def test_the_parts_say_what_they_are() -> None:
    llama, gpt2 = (from_transformers(make(family)) for family in CAUSAL[::-1])
    assert isinstance(llama.blocks[0].norm1, RMSNorm)
    assert isinstance(llama.blocks[0].feed_forward, GatedFeedForward)
    assert (llama.blocks[0].attention.heads, llama.blocks[0].attention.key_value_heads) == (4, 2)
    assert isinstance(gpt2.blocks[0].feed_forward, FeedForward)
    assert gpt2.head is None
    assert llama.head is not None


# Every field of every config: the outputs are the same with another value, or it is refused


SAME, REFUSED = "same", "refused"
COMMON = {
    "transformers_version": ("1", SAME),
    "architectures": (["X"], SAME),
    "output_hidden_states": (True, SAME),
    "return_dict": (True, SAME),  # with False these models do not run
    "dtype": (torch.float16, SAME),
    "chunk_size_feed_forward": (7, SAME),
    "is_encoder_decoder": (True, REFUSED),
    "id2label": ({0: "a", 1: "b", 2: "c"}, SAME),
    "label2id": ({"a": 0}, SAME),
    "problem_type": ("regression", SAME),
    # not fields, but read or written by older versions, by other models, or by users
    "position_embedding_type": ("relative_key", REFUSED),
    "alibi": (True, REFUSED),
    "sliding_window": (4, REFUSED),
    "attention_chunk_size": (4, REFUSED),
    "layer_types": (["sliding_attention"] * 3, REFUSED),
    "quantization_config": ({"quant_method": "x"}, REFUSED),
}
OF_IMAGES = {
    "hidden_size": (24, SAME),
    "num_hidden_layers": (1, SAME),
    "num_attention_heads": (2, SAME),
    "intermediate_size": (20, SAME),
    "hidden_act": ("quick_gelu", REFUSED),
    "hidden_dropout_prob": (0.1, SAME),
    "attention_probs_dropout_prob": (0.1, SAME),
    "initializer_range": (0.3, SAME),
    "layer_norm_eps": (0.1, SAME),
    "image_size": (16, SAME),
    "patch_size": (6, SAME),
    "num_channels": (1, SAME),
    "qkv_bias": (False, SAME),
    "encoder_stride": (2, SAME),
    "pooler_output_size": (3, SAME),
    "pooler_act": ("relu", SAME),
}
FIELDS: dict[str, dict[str, tuple[Any, str]]] = {
    "ViT": OF_IMAGES,
    "DeiT": OF_IMAGES,
    "Bert": {
        "vocab_size": (50, SAME),
        "hidden_size": (24, SAME),
        "num_hidden_layers": (1, SAME),
        "num_attention_heads": (2, SAME),
        "intermediate_size": (20, SAME),
        "hidden_act": ("relu2", REFUSED),
        "hidden_dropout_prob": (0.1, SAME),
        "attention_probs_dropout_prob": (0.1, SAME),
        "max_position_embeddings": (7, SAME),
        "type_vocab_size": (1, SAME),
        "initializer_range": (0.3, SAME),
        "layer_norm_eps": (0.1, SAME),
        "pad_token_id": (3, SAME),
        "use_cache": (False, SAME),
        "classifier_dropout": (0.5, SAME),
        "is_decoder": (True, REFUSED),
        "add_cross_attention": (True, REFUSED),
        "bos_token_id": (1, SAME),
        "eos_token_id": (2, SAME),
        "tie_word_embeddings": (False, SAME),
    },
    "GPT2": {
        "vocab_size": (50, SAME),
        "n_positions": (7, SAME),
        "n_embd": (24, SAME),
        "n_layer": (1, SAME),
        "n_head": (2, SAME),
        "n_inner": (20, SAME),
        "activation_function": ("gelu_10", REFUSED),
        "resid_pdrop": (0.1, SAME),
        "embd_pdrop": (0.1, SAME),
        "attn_pdrop": (0.1, SAME),
        "layer_norm_epsilon": (0.1, SAME),
        "initializer_range": (0.3, SAME),
        "summary_type": ("last", SAME),
        "summary_use_proj": (False, SAME),
        "summary_activation": ("tanh", SAME),
        "summary_proj_to_labels": (False, SAME),
        "summary_first_dropout": (0.5, SAME),
        "scale_attn_weights": (False, REFUSED),
        "use_cache": (False, SAME),
        "bos_token_id": (1, SAME),
        "eos_token_id": (2, SAME),
        "pad_token_id": (3, SAME),
        "scale_attn_by_inverse_layer_idx": (True, REFUSED),
        "reorder_and_upcast_attn": (True, SAME),
        "add_cross_attention": (True, REFUSED),
        "tie_word_embeddings": (False, SAME),
        "is_causal": (False, REFUSED),
    },
    "Llama": {
        "vocab_size": (50, SAME),
        "hidden_size": (24, SAME),
        "intermediate_size": (20, SAME),
        "num_hidden_layers": (1, SAME),
        "num_attention_heads": (2, SAME),
        "num_key_value_heads": (4, SAME),
        "hidden_act": ("relu6", REFUSED),
        "max_position_embeddings": (3, SAME),
        "initializer_range": (0.3, SAME),
        "rms_norm_eps": (0.1, SAME),
        "use_cache": (False, SAME),
        "pad_token_id": (3, SAME),
        "bos_token_id": (1, SAME),
        "eos_token_id": (2, SAME),
        "pretraining_tp": (2, SAME),
        "tie_word_embeddings": (True, SAME),
        "rope_parameters": ({"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}, REFUSED),
        "attention_bias": (True, SAME),
        "attention_dropout": (0.1, SAME),
        "mlp_bias": (True, SAME),
        "head_dim": (6, SAME),
        "is_causal": (False, REFUSED),
    },
}
EACH = [(family, field) for family in FIELDS for field in (*FIELDS[family], *COMMON)]


@pytest.mark.parametrize("family", FIELDS)
def test_no_field_of_a_config_was_overlooked(family: str) -> None:
    there = {field.name for field in dataclasses.fields(config_class(family))}
    assert there <= FIELDS[family].keys() | COMMON.keys()


@pytest.mark.parametrize(("family", "field"), EACH)
def test_a_field_is_followed_or_refused(family: str, field: str) -> None:
    value, outcome = (FIELDS[family] | COMMON)[field]
    if field == "dtype" or field not in {one.name for one in dataclasses.fields(config_class(family))}:
        model = make(family)
        setattr(model.config, field, value)
    else:
        extra = {"is_decoder": True} if family == "Bert" and field == "add_cross_attention" else {}
        extra |= {"num_labels": 3} if field == "id2label" and family in IMAGE else {}
        model = make(family, **{field: value}, **extra)
    if outcome == REFUSED:
        with pytest.raises(ValueError, match=field):
            from_transformers(model)
        return
    x = inputs(family, model)
    if field == "chunk_size_feed_forward":
        x = x[:, :7]
    torch.testing.assert_close(ours(family, from_transformers(model), x), theirs(family, model, x), **EXACT)


@pytest.mark.parametrize("kind", ["dynamic", "yarn", "longrope"])
def test_rotary_positions_that_change_with_the_text_are_named(kind: str) -> None:
    parameters: dict[str, Any] = {"rope_type": kind, "rope_theta": 100.0, "factor": 2.0}
    if kind != "dynamic":
        parameters["original_max_position_embeddings"] = 8
    if kind == "longrope":
        parameters |= {"short_factor": [1.0, 2.0], "long_factor": [2.0, 3.0]}
    with pytest.raises(ValueError, match=f"'{kind}' .rope_parameters"):
        from_transformers(make("Llama", rope_parameters=parameters))


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
@pytest.mark.parametrize(
    "name", ["gelu", "gelu_new", "gelu_fast", "gelu_accurate", "silu", "relu", "tanh", "mish", "linear"]
)
def test_activations_that_are_known_are_theirs(family: str, name: str) -> None:
    model = make(family, **{"activation_function" if family == "GPT2" else "hidden_act": name})
    x = inputs(family, model)
    torch.testing.assert_close(ours(family, from_transformers(model), x), theirs(family, model, x), **EXACT)


# What else is refused


def test_images_and_patches_that_are_not_square() -> None:
    for changes in ({"image_size": (12, 8)}, {"patch_size": (4, 2)}):
        with pytest.raises(ValueError, match="must be square"):
            from_transformers(make("ViT", **changes))
    with pytest.raises(ValueError, match="do not tile"):
        from_transformers(make("ViT", image_size=13))
    with pytest.raises(ValueError, match="no classifier"):
        from_transformers(make("DeiT", num_labels=0))


def test_attention_that_somebody_wrote() -> None:
    model = make("Llama")
    transformers.AttentionInterface.register("own", lambda *_, **__: None)
    model.config._attn_implementation = "own"
    with pytest.raises(ValueError, match="attention 'own'"):
        from_transformers(model)
    model.config._attn_implementation = "eager"
    x = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(from_transformers(model)(x), model(x).logits, rtol=0, atol=1e-5)  # softmax in float32


class Adapted(nn.Module):
    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner, self.weight, self.bias = inner, inner.weight, inner.bias
        self.out_features = inner.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 1


def test_layers_of_another_kind() -> None:
    model = make("Llama")
    model.model.layers[1].self_attn.q_proj = Adapted(model.model.layers[1].self_attn.q_proj)
    with pytest.raises(ValueError, match="Adapted, and what it computes is not known: merge an adapter"):
        from_transformers(model)
    model = make("Bert")
    parametrizations.weight_norm(model.encoder.layer[0].output.dense)
    with pytest.raises(ValueError, match="remove a parametrisation"):
        from_transformers(model)
    model = make("GPT2")
    model.transformer.wte.max_norm = 1.0
    with pytest.raises(ValueError, match="max_norm"):
        from_transformers(model)
    model = make("GPT2")
    model.transformer.h[0].adapter = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"no place for: transformer\.h\.0\.adapter\.bias, "):
        from_transformers(model)


def test_layers_that_differ_among_themselves() -> None:
    model = make("ViT")
    model.vit.layers[1].layernorm_after.eps = 0.5
    with pytest.raises(ValueError, match="all layers must be alike, and their norms' ε are"):
        from_transformers(model)
    model = make("GPT2")
    model.transformer.h[2].attn.scaling *= 2
    with pytest.raises(ValueError, match="scales of attention scores"):
        from_transformers(model)
    model = make("Llama")
    model.model.layers[0].mlp.act_fn = nn.Tanh()
    with pytest.raises(ValueError, match="their activations are"):
        from_transformers(model)
    model = make("Llama")
    model.model.layers[0].self_attn.k_proj.half()
    with pytest.raises(ValueError, match="differ in number type"):
        from_transformers(model)


def test_what_no_layer_and_no_config_says_is_found_by_running_it() -> None:
    def more(module: nn.Module, given: Any, out: Any) -> Any:
        return out * 2

    for family, part in (
        ("ViT", "vit.layers.1.mlp"),
        ("Bert", "encoder.layer.0.intermediate"),
        ("Llama", "model.norm"),
    ):
        model = make(family)
        hook = model.get_submodule(part).register_forward_hook(more)
        with pytest.raises(ValueError, match="computes something else than its layers and its config say"):
            from_transformers(model)
        assert not model.training
        made = from_transformers(model, check=False)
        hook.remove()
        x = inputs(family, model)
        torch.testing.assert_close(ours(family, made, x), theirs(family, model, x), **EXACT)


def test_a_pooling_must_be_one_that_the_model_has() -> None:
    bare = transformers.BertModel(make("Bert").config, add_pooling_layer=False)
    assert from_transformers(bare).pooler is None
    with pytest.raises(ValueError, match="asks the pooler"):
        from_transformers(bare, pooling="class")
    with pytest.raises(ValueError, match="pooling is for BertModel"):
        from_transformers(make("ViT"), pooling="mean")


@pytest.mark.usefixtures("as_users_run_it")
def test_other_things_are_told_what_is_taken() -> None:
    known = "ViTForImageClassification, .*LlamaForCausalLM"
    mistral = transformers.MistralForCausalLM(
        transformers.MistralConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(TypeError, match=f"{known}.* got MistralForCausalLM$"):
        from_transformers(mistral)
    with pytest.raises(TypeError, match=f"{known}.* got 'gpt2'$"):
        from_transformers("gpt2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got LlamaModel$"):
        from_transformers(make("Llama").model)
    with pytest.raises(TypeError, match=r"got Linear$"):
        from_transformers(nn.Linear(2, 2))

    class Mine(transformers.BertModel):  # type: ignore[name-defined, misc]
        pass

    with pytest.raises(TypeError, match=r"got Mine$"):
        from_transformers(Mine(make("Bert").config))
    with pytest.raises(TypeError, match="it holds a GPT2LMHeadModel: give that"):
        from_transformers(nn.Sequential(make("GPT2")))
    with pytest.raises(ValueError, match="pooling must be 'mean' or 'class'"):
        from_transformers(make("Bert"), pooling="max")  # type: ignore[arg-type]


def test_without_transformers_it_can_be_imported_and_says_what_to_install() -> None:
    code = (
        "import sys, dynlib.pretrained\nprint('transformers' in sys.modules)\n"
        "sys.modules['transformers'] = None\n"
        "try:\n    dynlib.pretrained.from_transformers('gpt2')\nexcept ImportError as error:\n    print(error)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout == (
        "False\nfrom_transformers reads models of transformers, which is not installed: pip install "
        "dynlib-course[pretrained]\n"
    ), done.stderr


# Counted


def attention_flops(tokens: int, dim: int, heads: int, shared: int, head_dim: int) -> int:
    projections = dim * (heads + 2 * shared) * head_dim + heads * head_dim * dim
    return 2 * tokens * projections + 4 * heads * tokens * tokens * head_dim


def test_operations_are_those_of_the_formula() -> None:
    batch, tokens, dim, hidden, depth, vocabulary = 3, 7, 16, 24, 3, 37
    one = attention_flops(tokens, dim, 4, 4, 4)
    plain, gated = 4 * tokens * dim * hidden, 6 * tokens * dim * hidden
    for family, expected in {
        "GPT2": depth * (one + 4 * tokens * dim * 64) + 2 * tokens * dim * vocabulary,
        "Llama": depth * (attention_flops(tokens, dim, 4, 2, 4) + gated) + 2 * tokens * dim * vocabulary,
        "Bert": depth * (one + plain),
    }.items():
        model, made, x = both(family)
        assert count(made, x).flops == batch * expected
        assert count(made, x).flops == count(lambda m=model, x=x: m(input_ids=x)).flops or family == "Bert"
    for family, first, heads in (("ViT", 1, 1), ("DeiT", 2, 1), ("Teacher", 2, 2)):
        model, made, x = both(family)
        tokens = first + 9
        expected = 9 * 2 * dim * 2 * 16 + heads * 2 * dim * CLASSES
        expected += depth * (attention_flops(tokens, dim, 4, 4, 4) + 4 * tokens * dim * hidden)
        assert count(made, x).flops == batch * expected == count(model, x).flops
    assert math.isclose(count(made, x).params, sum(p.numel() for p in made.parameters()))
