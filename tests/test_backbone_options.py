"""What the backbone knows for the models of others, held against slow loops and PyTorch's own layers."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import Attention, Block, CausalLM, Encoder, FeedForward, GatedFeedForward, LayerCache, RMSNorm, ViT
from dynlib.cost import count

EXACT = {"rtol": 0, "atol": 1e-12}  # for float64
FREQUENCIES = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)
SHARED: dict[str, Any] = {"key_value_heads": 2, "head_dim": 6, "bias": False, "output_bias": False}


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drawn(module: Any, seed: int = 0) -> Any:
    """In float64, with all weights drawn."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    return module


def attend_slowly(attention: Attention, x: Tensor, allowed: Tensor) -> Tensor:
    """One sample, head by head and token by token; ``allowed`` [queries, keys]."""
    size, rows = attention.head_dim, []
    packed = F.linear(x, attention.query_key_value.weight, attention.query_key_value.bias)
    queries, keys = attention.heads * size, attention.key_value_heads * size
    turns = attention.frequencies

    def turned(vector: Tensor, place: int) -> Tensor:
        if turns is None:
            return vector
        pairs = torch.complex(vector[: size // 2], vector[size // 2 :]) * torch.exp(1j * place * turns)
        return torch.cat([pairs.real, pairs.imag])

    for t in range(len(x)):
        heads = []
        for h in range(attention.heads):
            group = h // (attention.heads // attention.key_value_heads)
            seen = [s for s in range(len(x)) if allowed[t, s]]
            query = turned(packed[t, h * size : (h + 1) * size], t)
            start = queries + group * size
            scores = [query @ turned(packed[s, start : start + size], s) / math.sqrt(size) for s in seen]
            weights = torch.stack(scores).softmax(0)
            values = torch.stack([packed[s, start + keys : start + keys + size] for s in seen])
            heads.append(weights @ values)
        rows.append(attention.output(torch.cat(heads)))
    return torch.stack(rows)


def make_attention(**options: Any) -> Attention:
    return drawn(Attention(10, 4, **(SHARED | options)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [False, FREQUENCIES], ids=["still", "turned"])
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_heads_that_share_keys_are_a_slow_loop(causal: bool, rotary: Any, shared: int) -> None:
    attention, x = make_attention(causal=causal, rotary=rotary, key_value_heads=shared), normal(2, 5, 10)
    allowed = torch.ones(5, 5).tril().bool() if causal else torch.ones(5, 5).bool()
    expected = torch.stack([attend_slowly(attention, sample, allowed) for sample in x])
    torch.testing.assert_close(attention(x), expected, **EXACT)
    hidden = torch.tensor([True, True, False, True, True])
    masked = torch.stack([attend_slowly(attention, sample, allowed & hidden) for sample in x])
    torch.testing.assert_close(attention(x, key_mask=hidden.expand(2, 5)), masked, **EXACT)
    torch.testing.assert_close(attention.packed(x.flatten(0, 1), [5, 5]), expected.flatten(0, 1), **EXACT)


@pytest.mark.parametrize("rotary", [False, FREQUENCIES], ids=["still", "turned"])
def test_their_keys_are_cached_unrepeated(rotary: Any) -> None:
    attention, x, cache = make_attention(causal=True, rotary=rotary), normal(2, 6, 10), LayerCache()
    parts = [attention(x[:, :3], cache=cache), *(attention(x[:, t : t + 1], cache=cache) for t in range(3, 6))]
    torch.testing.assert_close(torch.cat(parts, dim=1), attention(x), **EXACT)
    assert cache.keys.shape == (2, 2, 6, 6)
    keys, values = attention.keys_values(x)
    torch.testing.assert_close(keys, cache.keys, **EXACT)
    torch.testing.assert_close(values, cache.values, **EXACT)
    inner = attention.query_key_value
    attention.query_key_value = nn.Sequential(inner)  # not plain: called as a whole
    torch.testing.assert_close(attention.keys_values(x)[0], keys, **EXACT)
    attention.query_key_value = inner
    assert count(attention.keys_values, x).flops == 2 * 2 * 6 * 10 * (2 * 2 * 6)


def test_gradients_reach_shared_keys() -> None:
    attention, x = make_attention(causal=True, rotary=FREQUENCIES), normal(1, 3, 10).requires_grad_()
    assert torch.autograd.gradcheck(attention, x)


def test_attention_drops_weights_in_training_alone() -> None:
    torch.manual_seed(0)
    attention, x = make_attention(dropout=0.5), normal(1, 4, 10)
    assert not torch.allclose(attention(x), attention(x))
    mean = torch.stack([attention(x) for _ in range(4000)]).mean(0)
    attention.eval()
    assert torch.equal(attention(x), attention(x))
    # 4000 draws of a deviation near 1: 40 means are all within 0.12, but for a chance below 1e-10
    torch.testing.assert_close(mean, attention(x), rtol=0, atol=0.12)


def test_frequencies_move_and_stay_what_they_are() -> None:
    attention = Attention(12, 2, rotary=FREQUENCIES.float())
    assert attention.half().frequencies is not None
    assert attention.frequencies.dtype == torch.float32  # type: ignore[union-attr]
    assert not any("frequencies" in name for name in attention.state_dict())
    usual = Attention(12, 2, rotary=True).double()
    given = Attention(12, 2, rotary=10_000.0 ** (-torch.arange(3, dtype=torch.float64) / 3)).double()
    given.load_state_dict(usual.state_dict())
    torch.testing.assert_close(given(normal(2, 5, 12)), usual(normal(2, 5, 12)), **EXACT)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key_value_heads": 3}, "heads must be a multiple of key_value_heads"),
        ({"key_value_heads": 0}, "heads must be a multiple of key_value_heads"),
        ({"head_dim": 0}, "head_dim positive"),
        ({"head_dim": 5, "rotary": True}, "turn pairs of features"),
        ({"rotary": FREQUENCIES[:2]}, r"each of the 3 pairs of a head; got shape \(2,\)"),
    ],
)
def test_heads_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Attention(10, 4, **(SHARED | options))


# Norms and blocks


def test_the_rms_norm_is_torchs_and_computes_where_it_is_told() -> None:
    x, norm = normal(3, 4, 10), drawn(RMSNorm(10, 1e-3))
    theirs = nn.RMSNorm(10, 1e-3).double()
    theirs.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(x), theirs(x), **EXACT)
    rough = drawn(RMSNorm(10, 1e-3, dtype=torch.float32))
    assert rough(x).dtype == torch.float64
    assert 1e-9 < (rough(x) - norm(x)).abs().max() < 1e-6
    half = RMSNorm(10).half()
    assert half((300 * torch.ones(1, 10)).half()).isfinite().all()  # 300² is too much for half precision


def post_norm(block: Block, dim: int, heads: int, hidden: int) -> nn.TransformerEncoderLayer:
    """PyTorch's layer with the same weights. In training mode, where it takes no shortcut; its dropout is 0."""
    layer = nn.TransformerEncoderLayer(dim, heads, hidden, 0.0, "gelu", batch_first=True, dtype=torch.float64)
    attention, part = block.attention, block.feed_forward
    pairs = [
        (layer.self_attn.in_proj_weight, attention.query_key_value.weight),
        (layer.self_attn.in_proj_bias, attention.query_key_value.bias),
        *zip(layer.self_attn.out_proj.parameters(), attention.output.parameters(), strict=True),
        *zip(layer.linear1.parameters(), part.expand.parameters(), strict=True),
        *zip(layer.linear2.parameters(), part.contract.parameters(), strict=True),
        *zip(layer.norm1.parameters(), block.norm1.parameters(), strict=True),
        *zip(layer.norm2.parameters(), block.norm2.parameters(), strict=True),
    ]
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.copy_(ours)
    return layer.train()


def test_a_post_norm_block_is_torchs() -> None:
    block, x = drawn(Block(12, 3, hidden=20, norm_first=False)), normal(2, 5, 12)
    layer = post_norm(block, 12, 3, 20)
    torch.testing.assert_close(block(x), layer(x), **EXACT)
    mask = torch.tensor([[True] * 5, [True, True, False, False, True]])
    torch.testing.assert_close(block(x, key_mask=mask), layer(x, src_key_padding_mask=~mask), **EXACT)
    torch.testing.assert_close(x + block.update(x, key_mask=mask), block(x, key_mask=mask), **EXACT)
    torch.testing.assert_close(block.packed(x.flatten(0, 1), [5, 5]), layer(x).flatten(0, 1), **EXACT)


def test_a_block_holds_what_it_is_given() -> None:
    block = Block(
        12,
        4,
        hidden=7,
        norm=partial(RMSNorm, eps=1e-3),
        feed_forward=partial(GatedFeedForward, bias=False),
        attention_dropout=0.25,
        **SHARED,
    )
    assert isinstance(block.norm1, RMSNorm)
    assert isinstance(block.norm2, RMSNorm)
    assert block.norm2.eps == 1e-3
    assert isinstance(block.feed_forward, GatedFeedForward)
    assert block.feed_forward.gate.bias is None
    assert block.feed_forward.expand.out_features == 7
    assert block.attention.dropout == 0.25
    assert block.attention.query_key_value.weight.shape == (8 * 6, 12)
    drawn(block)
    x = normal(2, 3, 12)
    middle = x + block.eval().attention(block.norm1(x))
    torch.testing.assert_close(block(x), middle + block.feed_forward(block.norm2(middle)), **EXACT)


def test_a_feed_forward_part_may_have_another_function_and_no_biases() -> None:
    part, x = drawn(FeedForward(5, 7, bias=False, activation=nn.ReLU())), normal(2, 3, 5)
    torch.testing.assert_close(part(x), (x @ part.expand.weight.T).relu() @ part.contract.weight.T, **EXACT)
    assert [name for name, _ in part.named_parameters()] == ["expand.weight", "contract.weight"]
    for kind in (FeedForward, GatedFeedForward):
        with pytest.raises(ValueError, match="must be positive"):
            kind(0)


# Models


def make_lm(**options: Any) -> CausalLM:
    return drawn(CausalLM(vocabulary=11, dim=12, depth=2, heads=2, **options))


TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def test_learned_positions_are_added_where_a_token_stands() -> None:
    model = make_lm(length=9)
    assert model.position is not None
    places = torch.tensor([[0, 1, 2, 3, 4], [-1, 8, 2, 0, 1]])
    expected = model.embedding(TOKENS) + model.position(places.clamp(min=0))
    torch.testing.assert_close(model.embed(TOKENS, positions=places), expected, **EXACT)
    torch.testing.assert_close(model.embed(TOKENS), model.embedding(TOKENS) + model.position.weight[:5], **EXACT)
    assert not any(block.attention.rotary for block in model.blocks)
    cache = model.new_cache()
    parts = [model(TOKENS[:, :2], cache=cache), model(TOKENS[:, 2:3], cache=cache), model(TOKENS[:, 3:], cache=cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(TOKENS), **EXACT)
    with pytest.raises(ValueError, match="9 learned positions, 0 … 8; a token stands at 9"):
        model.embed(TOKENS, positions=torch.arange(5, 10))
    with pytest.raises(ValueError, match="learned or rotary"):
        make_lm(length=9, rotary=FREQUENCIES)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("length", [None, 9])
def test_a_language_model_takes_a_mask(length: int | None) -> None:
    model = make_lm(length=length)
    mask = torch.tensor([[True] * 5, [False, False, True, True, True]])
    got = model(TOKENS, key_mask=mask)
    torch.testing.assert_close(got[1:, 2:], model(TOKENS[1:, 2:]), **EXACT)
    torch.testing.assert_close(got[:1], model(TOKENS[:1]), **EXACT)
    places = torch.arange(5).expand(2, 5)
    same = model(TOKENS, key_mask=mask, positions=places)
    torch.testing.assert_close(same, model(TOKENS, positions=places.where(mask, -1)), **EXACT)
    cache = model.new_cache()
    model(TOKENS, key_mask=mask, cache=cache)
    with pytest.raises(ValueError, match="is not seen from their key_mask: give positions"):
        model(TOKENS, key_mask=mask, cache=cache)
    with pytest.raises(ValueError, match="one entry per key"):
        model(TOKENS, key_mask=mask[:, :4])


def test_an_untied_readout_has_weights_of_its_own() -> None:
    model = make_lm(tied=False)
    assert model.head is not None
    x = model.embed(TOKENS)
    torch.testing.assert_close(model.readout(x), model.norm(x) @ model.head.weight.T, **EXACT)
    assert make_lm().head is None


def make_encoder(**options: Any) -> Encoder:
    return drawn(Encoder(vocabulary=11, length=6, dim=12, depth=2, heads=2, hidden=16, **options))


def test_an_encoder_is_its_formula() -> None:
    model = make_encoder(pooling="class", segments=3)
    segments = torch.tensor([[0, 0, 1, 2, 2], [1, 1, 1, 0, 0]])
    x = model.norm(model.embedding(TOKENS) + model.segment(segments) + model.position.weight[:5])
    torch.testing.assert_close(model.embed(TOKENS, segments=segments), x, **EXACT)
    for block in model.blocks:
        assert not block.norm_first
        x = block(x)
    torch.testing.assert_close(model.states(TOKENS, segments=segments), x, **EXACT)
    assert model.pooler is not None
    torch.testing.assert_close(model(TOKENS, segments=segments), model.pooler(x[:, 0]).tanh(), **EXACT)
    model.pooling = "mean"
    torch.testing.assert_close(model(TOKENS, segments=segments), x.mean(1), **EXACT)


def test_a_text_is_what_it_is_alone() -> None:
    model, mask = make_encoder(), torch.tensor([[True] * 5, [True, True, True, False, False]])
    both = model(TOKENS, mask)
    torch.testing.assert_close(both[1:], model(TOKENS[1:, :3]), **EXACT)
    torch.testing.assert_close(both[:1], model(TOKENS[:1]), **EXACT)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_an_encoder_cannot_read_is_refused() -> None:
    model = make_encoder()
    for call, kind, says in (
        (lambda: model(TOKENS.float()), TypeError, "int64 or int32"),
        (lambda: model(TOKENS + 9), ValueError, "tokens must lie in 0 … 10; got 10 … 18"),
        (lambda: model(torch.zeros(1, 7, dtype=torch.int64)), ValueError, "6 learned positions"),
        (lambda: model(TOKENS, segments=TOKENS), ValueError, "segments must lie in 0 … 1"),
        (lambda: model(TOKENS, segments=TOKENS[:, :2]), ValueError, "one for each token"),
        (lambda: model(TOKENS, torch.zeros(2, 5, dtype=torch.bool)), ValueError, "no token that is there"),
        (lambda: model(TOKENS, torch.ones(2, 5)), TypeError, "must be bool"),
        (lambda: make_encoder(pooling="max"), ValueError, "pooling must be"),
        (lambda: make_encoder(pooling="class", pooler=False), ValueError, "this model has none"),
        (lambda: make_encoder(segments=0), ValueError, "must be positive"),
    ):
        with pytest.raises(kind, match=says):
            call()  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("as_users_run_it")
def test_a_vit_has_a_second_token_and_a_second_head() -> None:
    images = normal(2, 1, 8, 8)
    sizes: dict[str, Any] = {"image_size": 8, "patch_size": 4, "classes": 3, "dim": 12, "depth": 2, "heads": 2}
    token, head = (drawn(ViT(**sizes, distillation=kind)) for kind in ("token", "head"))
    x = token.embed(images)
    assert x.shape == (2, 6, 12)
    torch.testing.assert_close(x[:, 1], (token.distillation_token[:, 0] + token.position[:, 1]).expand(2, 12), **EXACT)
    assert token.distillation_head is None
    torch.testing.assert_close(token.readout(x), token.head(token.norm(x[:, 0])), **EXACT)
    mean = (head.head(head.norm(x[:, 0])) + head.distillation_head(head.norm(x[:, 1]))) / 2
    torch.testing.assert_close(head.readout(x), mean, **EXACT)
    with pytest.raises(ValueError, match="distillation must be one of 'none', 'token', 'head'"):
        ViT(**sizes, distillation="both")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="heads_of_keys"):
        ViT(**sizes, heads_of_keys=2)


def test_embedded_tokens_are_dropped_in_training_alone() -> None:
    torch.manual_seed(0)
    for model, given in (
        (make_lm(embedding_dropout=0.5), TOKENS),
        (make_encoder(embedding_dropout=0.5), TOKENS),
        (
            drawn(ViT(image_size=8, patch_size=4, classes=3, dim=12, depth=1, heads=2, embedding_dropout=0.5)),
            normal(2, 1, 8, 8),
        ),
    ):
        share = (model.embed(given) == 0).double().mean().item()
        assert 0.3 < share < 0.7  # of 120 numbers: outside with a chance below 1e-4, and the seed is fixed
        model.eval()
        assert (model.embed(given) != 0).all()


def test_models_begin_small_whatever_their_options() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"norm": RMSNorm, "feed_forward": partial(GatedFeedForward, bias=False), **SHARED}
    model = CausalLM(vocabulary=50, dim=32, depth=4, heads=4, tied=False, **options)
    logits = model(torch.randint(50, (4, 16)))
    assert 0.3 < logits.std() < 3
