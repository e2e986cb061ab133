"""The static transformer, held against PyTorch's own layers and against slow loops that say the formula aloud."""

import cmath
import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.utils import prune

from dynlib.backbone import Attention, Block, CausalLM, FeedForward, LayerCache, ViT, rotate
from dynlib.cost import count

EXACT = {"rtol": 0, "atol": 1e-12}  # for float64


def make_block(*, causal: bool = False, rotary: bool = False, dim: int = 16, heads: int = 4, seed: int = 0) -> Block:
    torch.manual_seed(seed)
    block = Block(dim, heads, causal=causal, rotary=rotary).double()
    for parameter in block.parameters():  # also the norms, so that a swapped pair is seen
        nn.init.normal_(parameter, std=0.3)
    return block


def make_lm(*, vocabulary: int = 11, dim: int = 16, depth: int = 3, heads: int = 2, seed: int = 0) -> CausalLM:
    torch.manual_seed(seed)
    model = CausalLM(vocabulary=vocabulary, dim=dim, depth=depth, heads=heads).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def make_vit(**changes: int) -> ViT:
    torch.manual_seed(0)
    settings = {"image_size": 8, "patch_size": 4, "classes": 3, "dim": 8, "depth": 2, "heads": 2, "channels": 2}
    return ViT(**(settings | changes))  # type: ignore[arg-type]


def make_tokens(batch: int, length: int, *, vocabulary: int = 11, seed: int = 1) -> Tensor:
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Against PyTorch


def torch_layer(block: Block, dim: int, heads: int) -> nn.TransformerEncoderLayer:
    """PyTorch's layer with the same weights. In training mode, where it takes no shortcut; its dropout is 0."""
    layer = nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    attention, feed_forward = block.attention, block.feed_forward
    pairs = [
        (layer.self_attn.in_proj_weight, attention.query_key_value.weight),
        (layer.self_attn.in_proj_bias, attention.query_key_value.bias),
        (layer.self_attn.out_proj.weight, attention.output.weight),
        (layer.self_attn.out_proj.bias, attention.output.bias),
        (layer.linear1.weight, feed_forward.expand.weight),
        (layer.linear1.bias, feed_forward.expand.bias),
        (layer.linear2.weight, feed_forward.contract.weight),
        (layer.linear2.bias, feed_forward.contract.bias),
        (layer.norm1.weight, block.norm1.weight),
        (layer.norm1.bias, block.norm1.bias),
        (layer.norm2.weight, block.norm2.weight),
        (layer.norm2.bias, block.norm2.bias),
    ]
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.copy_(ours)
    assert sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in block.parameters())
    return layer.train()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("dim", "heads", "tokens", "batch"), [(16, 4, 9, 3), (6, 1, 1, 1), (8, 8, 5, 2)])
def test_a_block_is_the_layer_of_pytorch(
    dim: int, heads: int, tokens: int, batch: int, causal: bool, padded: bool
) -> None:
    block, x = make_block(causal=causal, dim=dim, heads=heads), normal(batch, tokens, dim)
    padding = None
    if padded:  # the first key stays, so that every query has one: theirs has no rule for none
        padding = normal(batch, tokens, seed=2) > 0
        padding[:, 0] = False
    mask = torch.ones(tokens, tokens, dtype=torch.bool).triu(1) if causal else None
    theirs = torch_layer(block, dim, heads)(x, src_mask=mask, src_key_padding_mask=padding)
    ours = block(x, key_mask=None if padding is None else ~padding)
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_scaled_dot_product_attention_between_two_linear_maps(causal: bool) -> None:
    attention, x = make_block(causal=causal).attention, normal(2, 7, 16)
    mask = normal(2, 7, seed=2) > -0.5
    mask[:, 0] = True
    query, key, value = (part.view(2, 7, 4, 4).transpose(1, 2) for part in attention.query_key_value(x).chunk(3, -1))
    allowed = mask[:, None, None, :].expand(2, 1, 7, 7)
    if causal:
        allowed = allowed & torch.ones(7, 7, dtype=torch.bool).tril()
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    expected = attention.output(mixed.transpose(1, 2).reshape(2, 7, 16))
    torch.testing.assert_close(attention(x, key_mask=mask), expected, **EXACT)


def test_the_feed_forward_part_is_two_linear_maps_around_an_exact_gelu() -> None:
    layer, x = make_block().feed_forward, normal(2, 3, 16)
    inner = x @ layer.expand.weight.T + layer.expand.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(layer(x), inner @ layer.contract.weight.T + layer.contract.bias, **EXACT)
    assert FeedForward(6).expand.out_features == 24
    assert FeedForward(6, 5)(torch.zeros(6)).shape == (6,)


# Against the formula, one query at a time


def attention_by_hand(attention: Attention, x: Tensor, positions: Tensor, key_mask: Tensor) -> Tensor:
    """Loops over samples, heads and queries; rotation as a product of complex numbers."""
    batch, tokens, dim = x.shape
    size = dim // attention.heads
    weight, bias = attention.query_key_value.weight, attention.query_key_value.bias
    out = torch.zeros_like(x)
    for b in range(batch):
        packed = (weight @ x[b].T).T + bias
        for h in range(attention.heads):
            columns = slice(h * size, (h + 1) * size)
            query, key, value = (packed[:, part * dim : (part + 1) * dim][:, columns] for part in range(3))
            if attention.rotary:
                query, key = (turned(part, positions[b].tolist()) for part in (query, key))
            for q in range(tokens):
                seen = [k for k in range(tokens) if bool(key_mask[b, k]) and int(positions[b, k]) >= 0]
                if attention.causal:
                    seen = [k for k in seen if int(positions[b, k]) <= int(positions[b, q])]
                weights = [math.exp(float(query[q] @ key[k]) / math.sqrt(size)) for k in seen]
                for k, weight_of_key in zip(seen, weights, strict=True):
                    out[b, q, columns] += weight_of_key / sum(weights) * value[k]
    return (attention.output.weight @ out.flatten(0, 1).T).T.view_as(x) + attention.output.bias


def turned(x: Tensor, positions: list[int]) -> Tensor:
    rows, half = x.tolist(), x.shape[-1] // 2
    for row, position in zip(rows, positions, strict=True):
        for i in range(half):
            z = complex(row[i], row[i + half]) * cmath.exp(1j * position * 10_000 ** (-2 * i / (2 * half)))
            row[i], row[i + half] = z.real, z.imag
    return torch.tensor(rows, dtype=x.dtype)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@torch.no_grad()
def test_attention_is_its_formula_for_any_positions_and_key_mask(causal: bool, rotary: bool, ordered: bool) -> None:
    attention, x = make_block(causal=causal, rotary=rotary).attention, normal(2, 6, 16)
    positions = torch.tensor([[3, 0, 9, -1, 5, 5], [0, 1, 2, 3, 4, 200]])
    key_mask = torch.tensor([[1, 1, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1]]).bool()
    if ordered:  # nothing said: 0, 1, 2, … and every key
        expected = attention_by_hand(attention, x, torch.arange(6).expand(2, 6), torch.ones(2, 6, dtype=torch.bool))
        torch.testing.assert_close(attention(x), expected, **EXACT)
    else:
        expected = attention_by_hand(attention, x, positions, key_mask)
        torch.testing.assert_close(attention(x, positions=positions, key_mask=key_mask), expected, **EXACT)
        shared = attention_by_hand(attention, x, positions[:1].expand(2, 6), key_mask)
        torch.testing.assert_close(attention(x, positions=positions[0], key_mask=key_mask), shared, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rotation_in_low_precision_still_tells_far_positions_apart(dtype: torch.dtype) -> None:
    x = normal(1, 1, 2, 8)
    near, far = (rotate(x.to(dtype), torch.tensor([[4096, place]])).double() for place in (4096, 4097))
    exact = rotate(x, torch.tensor([[4096, 4097]]))
    assert not torch.equal(near, far)
    rounding = 8 * torch.finfo(dtype).eps if dtype != torch.float32 else 4096 * torch.finfo(dtype).eps
    torch.testing.assert_close(far, exact, rtol=rounding, atol=rounding)


def test_rotation_keeps_lengths_and_position_zero_turns_nothing() -> None:
    x = normal(2, 3, 5, 8)
    positions = torch.arange(5).expand(2, 5)
    torch.testing.assert_close(rotate(x, positions).norm(dim=-1), x.norm(dim=-1), **EXACT)
    assert torch.equal(rotate(x, positions)[:, :, 0], x[:, :, 0])


@pytest.mark.parametrize("shift", [1, 1000])
def test_rotary_attention_sees_only_distances(shift: int) -> None:
    block, x = make_block(causal=True, rotary=True), normal(2, 6, 16)
    positions = torch.tensor([0, 1, 4, 5, 9, 30])
    # a rounding of 1e-16 of an angle of 1,000 is 1e-13
    torch.testing.assert_close(block(x, positions=positions), block(x, positions=positions + shift), rtol=0, atol=1e-10)
    assert not torch.allclose(block(x, positions=positions), block(x))


# Made to be made dynamic


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_is_its_input_plus_its_update_bit_for_bit(causal: bool) -> None:
    block, x = make_block(causal=causal, rotary=causal).float(), normal(2, 6, 16).float()
    mask, positions = torch.tensor([[True] * 5 + [False]] * 2), torch.tensor([0, 2, 3, 7, 8, 9])
    assert torch.equal(block(x), x + block.update(x))
    arguments = {"key_mask": mask, "positions": positions}
    assert torch.equal(block(x, **arguments), x + block.update(x, **arguments))
    ours, theirs = LayerCache(), LayerCache()
    for part in x.split([4, 2], dim=1):
        assert torch.equal(block(part, cache=ours), part + block.update(part, cache=theirs))


def test_dropout_acts_on_both_updates_in_training_only() -> None:
    torch.manual_seed(0)
    block, x = Block(16, 4, dropout=0.5), torch.randn(2, 5, 16)
    assert not torch.equal(block.train()(x), block(x))
    assert torch.equal(block.eval()(x), block(x))
    everything = Block(16, 4, dropout=1.0).train()
    assert torch.equal(everything(x), x)


KEPT = torch.tensor([0, 2, 3, 6])


def run_blocks(blocks: list[Block], x: Tensor, **arguments: Tensor | None) -> Tensor:
    for block in blocks:
        x = block(x, **arguments)
    return x


@pytest.mark.parametrize("causal", [False, True])
def test_removing_tokens_and_masking_them_mean_the_same(causal: bool) -> None:
    blocks = [make_block(causal=causal, rotary=causal, seed=seed) for seed in range(3)]
    x = normal(2, 8, 16)
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[:, KEPT] = True
    masked = run_blocks(blocks, x, key_mask=mask)[:, KEPT]
    gathered = run_blocks(blocks, x[:, KEPT], positions=KEPT)
    torch.testing.assert_close(gathered, masked, **EXACT)
    absent = torch.where(mask, torch.arange(8), -1)
    torch.testing.assert_close(run_blocks(blocks, x, positions=absent)[:, KEPT], masked, **EXACT)
    if causal:
        assert not torch.allclose(run_blocks(blocks, x[:, KEPT]), masked), "true positions must matter"


def test_a_vit_with_hidden_tokens_is_a_vit_without_them() -> None:
    model = make_vit(image_size=12).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    images = normal(2, 2, 12, 12)
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[:, KEPT] = True
    gathered = model.readout(run_blocks(list(model.blocks), model.embed(images)[:, KEPT]))
    torch.testing.assert_close(model(images, key_mask=mask), gathered, **EXACT)
    assert not torch.allclose(model(images), gathered)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_a_token_that_may_attend_to_nothing_gets_zeros_from_the_heads(causal: bool, dtype: torch.dtype) -> None:
    attention = make_block(causal=causal, rotary=causal).attention.to(dtype)
    x = normal(2, 40, 16).to(dtype).requires_grad_()
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[0] = False  # in sample 0, nobody sees anybody
    out = attention(x, key_mask=mask)
    assert torch.equal(out[0], attention.output.bias.expand(40, 16))
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[0] == 0).all()
    assert (x.grad[1] != 0).any()


# Layers replaced, wrapped and hooked


class Adapter(nn.Module):
    """As adapters are made: the layer with its weight in sight, and a low-rank part on top."""

    def __init__(self, base: nn.Module, wide: int, out: int) -> None:
        super().__init__()
        self.base, self.down = base, nn.Linear(wide, 2, bias=False, dtype=torch.float64)
        self.up = nn.Linear(2, out, bias=False, dtype=torch.float64)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Subclass(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def subclass(layer: nn.Linear) -> nn.Module:
    other = Subclass(16, 48, dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    return other


def monkey_patched(layer: nn.Linear) -> nn.Module:
    plain = layer.forward
    layer.forward = lambda x: 3 * plain(x)  # type: ignore[method-assign]
    return layer


def hooked(layer: nn.Linear) -> nn.Module:
    layer.register_forward_hook(lambda _module, _inputs, out: out + 1)
    return layer


def hooked_before(layer: nn.Linear) -> nn.Module:
    layer.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 2,))
    return layer


def without_bias(layer: nn.Linear) -> nn.Module:
    other = nn.Linear(16, 48, bias=False, dtype=torch.float64)
    other.weight = layer.weight
    return other


REPLACED: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "plain": lambda layer: layer,
    "adapter": lambda layer: Adapter(layer, 16, 48),
    "subclass": subclass,
    "monkey-patched": monkey_patched,
    "hooked": hooked,
    "hooked before": hooked_before,
    "without bias": without_bias,
    "weight norm": nn.utils.parametrizations.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "frozen": lambda layer: layer.requires_grad_(False),
}


@pytest.mark.parametrize("name", REPLACED)
def test_keys_and_values_alone_are_those_of_whatever_layer_stands_there(name: str) -> None:
    attention, x = make_block(causal=True, rotary=True).attention.eval(), normal(2, 5, 16)
    attention.query_key_value = REPLACED[name](attention.query_key_value).eval()
    cache, where = LayerCache(), torch.arange(3, 8).expand(2, 5)
    attention(x, positions=where, cache=cache)
    keys, values = attention.keys_values(x, where)
    torch.testing.assert_close(keys, cache.keys, **EXACT)
    torch.testing.assert_close(values, cache.values, **EXACT)


def test_keys_and_values_alone_call_a_hook_of_all_modules() -> None:
    attention, called = make_block().attention, []
    handle = nn.modules.module.register_module_forward_hook(lambda module, _inputs, _out: called.append(module))
    try:
        attention.keys_values(normal(2, 5, 16))
    finally:
        handle.remove()
    assert called == [attention.query_key_value]


def test_keys_and_values_alone_cost_two_thirds_of_a_plain_layer() -> None:
    attention, x = make_block().attention, normal(2, 5, 16)
    assert count(lambda x: attention.keys_values(x), x).flops == 2 * 2 * 5 * 16 * 32


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_quantised_layer_gives_its_keys_and_values_alone() -> None:
    lm, tokens = make_lm().float(), make_tokens(2, 5)
    small = torch.ao.quantization.quantize_dynamic(lm, {nn.Linear}, dtype=torch.qint8)
    block, x, cache = small.blocks[0], small.embed(tokens), LayerCache()
    block(x, cache=cache)
    keys, values = block.attention.keys_values(block.norm1(x), torch.arange(5).expand(2, 5))
    torch.testing.assert_close(keys, cache.keys)
    torch.testing.assert_close(values, cache.values)


class EmbeddingAdapter(nn.Module):
    """A low-rank change of a table, beside the table."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base, self.rows = base, nn.Embedding(11, 2, dtype=torch.float64)
        self.up = nn.Linear(2, 16, bias=False, dtype=torch.float64)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.base(tokens) + self.up(self.rows(tokens))


class ScaledEmbedding(nn.Embedding):
    def forward(self, tokens: Tensor) -> Tensor:
        return 2 * super().forward(tokens)


@pytest.mark.parametrize("subclassed", [False, True])
def test_a_language_model_reads_out_with_whatever_embedding_stands_there(subclassed: bool) -> None:
    model, x = make_lm(), normal(2, 3, 16)
    plain = model.embedding
    model.embedding = ScaledEmbedding(11, 16, dtype=torch.float64) if subclassed else EmbeddingAdapter(plain)
    table = model.embedding(torch.arange(11))
    assert not torch.allclose(table, model.embedding.weight)
    torch.testing.assert_close(model.readout(x), model.norm(x) @ table.T, **EXACT)
    model(make_tokens(2, 3)).logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.embedding.parameters())


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # the first layers' inputs ask for no gradient
@pytest.mark.parametrize("make", [make_vit, make_lm])
def test_backward_hooks_may_stand_on_every_module(make: Callable[[], nn.Module]) -> None:
    model, inputs = make().double(), normal(2, 2, 8, 8) if make is make_vit else make_tokens(2, 5)
    seen: list[nn.Module] = []
    for module in model.modules():
        module.register_full_backward_hook(lambda module, _inputs, _outputs: seen.append(module))
    model(inputs).logsumexp(-1).sum().backward()
    called = {module for module in model.modules() if not isinstance(module, nn.ModuleList)}
    assert called - set(seen) <= {getattr(model, "embedding", None)}  # its input has no gradient


# The cache


CHUNKS = [[12], [1] * 12, [1, 11], [11, 1], [5, 1, 1, 5], [3, 4, 5], [2, 7, 1, 1, 1]]


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_decoding_in_any_chunks_is_the_full_pass(chunks: list[int]) -> None:
    model, tokens = make_lm(), make_tokens(3, 12)
    cache = model.new_cache()
    pieces = [model(piece, cache=cache) for piece in tokens.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), **EXACT)
    assert [layer.length for layer in cache] == [12] * 3
    assert torch.equal(cache[0].positions, torch.arange(12).expand(3, 12))


def test_decoding_in_chunks_with_true_positions_is_the_full_pass_with_them() -> None:
    model, tokens = make_lm(), make_tokens(2, 6)
    positions = torch.tensor([[0, 2, 3, 8, 9, 11], [1, 2, 3, 4, 6, 7]])
    cache = model.new_cache()
    pairs = zip(tokens.split([2, 3, 1], 1), positions.split([2, 3, 1], 1), strict=True)
    pieces = [model(piece, positions=where, cache=cache) for piece, where in pairs]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens, positions=positions), **EXACT)


def test_a_skipped_layer_can_write_its_cache_with_keys_values_alone() -> None:
    block, x = make_block(causal=True, rotary=True), normal(2, 5, 16)
    ran, skipped = LayerCache(), LayerCache()
    block(x, cache=ran)
    positions = torch.arange(5).expand(2, 5)
    skipped.append(*block.attention.keys_values(block.norm1(x), positions), positions)
    torch.testing.assert_close(skipped.keys, ran.keys, **EXACT)
    torch.testing.assert_close(skipped.values, ran.values, **EXACT)
    following = normal(2, 3, 16, seed=2)
    torch.testing.assert_close(block(following, cache=skipped), block(following, cache=ran), **EXACT)


def test_keys_alone_carry_the_position_they_are_told() -> None:
    attention, x = make_block(causal=True, rotary=True).attention, normal(2, 4, 16)
    cache, positions = LayerCache(), torch.tensor([[7, 8, 20, 21], [0, 1, 2, 3]])
    attention(x, positions=positions, cache=cache)
    torch.testing.assert_close(attention.keys_values(x, positions)[0], cache.keys, **EXACT)
    assert not torch.allclose(attention.keys_values(x)[0][0], cache.keys[0])
    plain = make_block().attention
    assert torch.equal(plain.keys_values(x)[0], plain.keys_values(x, positions)[0])


def test_cached_tokens_at_position_minus_one_are_invisible() -> None:
    block, x, following = make_block(causal=True, rotary=True), normal(1, 5, 16), normal(1, 2, 16, seed=2)
    whole, gaps = LayerCache(), LayerCache()
    block(x, positions=torch.tensor([0, -1, 2, -1, 4]), cache=gaps)
    block(x[:, [0, 2, 4]], positions=torch.tensor([0, 2, 4]), cache=whole)
    where = torch.tensor([5, 6])
    seen = block(following, positions=where, cache=gaps)
    torch.testing.assert_close(seen, block(following, positions=where, cache=whole), **EXACT)


def test_samples_may_hold_different_numbers_of_tokens() -> None:
    model, tokens = make_lm(), make_tokens(2, 6)
    lengths = torch.tensor([3, 6])
    together = model.new_cache()
    places = torch.arange(6).expand(2, 6)
    model(tokens, positions=torch.where(places < lengths[:, None], places, -1), cache=together)
    following = make_tokens(2, 1, seed=3)
    logits = model(following, positions=lengths[:, None], cache=together)
    for sample, length in enumerate(lengths.tolist()):
        alone = model.new_cache()
        model(tokens[sample : sample + 1, :length], cache=alone)
        torch.testing.assert_close(logits[sample], model(following[sample : sample + 1], cache=alone)[0], **EXACT)


def test_layers_may_hold_different_tokens_if_positions_are_given() -> None:
    model, tokens = make_lm(depth=2), make_tokens(1, 4)
    cache = model.new_cache()
    for place in range(4):  # the second layer sees every other token
        where, x = torch.tensor([[place]]), model.embed(tokens[:, place : place + 1])
        x = model.blocks[0](x, positions=where, cache=cache[0])
        if place % 2 == 0:
            model.blocks[1](x, positions=where, cache=cache[1])
    assert [layer.length for layer in cache] == [4, 2]
    with pytest.raises(ValueError, match=r"\[4, 2\] tokens.*give positions"):
        model(tokens[:, :1], cache=cache)
    logits = model(tokens[:, :1], positions=torch.tensor([4]), cache=cache)
    everything = model.embed(torch.cat([tokens, tokens[:, :1]], dim=1))
    first = model.blocks[0](everything)
    some = torch.tensor([0, 2, 4])
    expected = model.readout(model.blocks[1](first[:, some], positions=some))[:, -1:]
    torch.testing.assert_close(logits, expected, **EXACT)


def test_a_key_mask_over_a_cache_covers_the_cached_keys_first() -> None:
    block, x = make_block(causal=True, rotary=True), normal(2, 6, 16)
    mask = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1]]).bool()
    cache = LayerCache()
    block(x[:, :4], cache=cache)
    last = block(x[:, 4:], key_mask=mask, cache=cache)
    torch.testing.assert_close(last, block(x, key_mask=mask)[:, 4:], **EXACT)


def test_adding_tokens_one_by_one_seldom_moves_the_past() -> None:
    cache, places = LayerCache(), set()
    for token in range(200):
        cache.append(torch.full((1, 2, 1, 4), float(token)), torch.zeros(1, 2, 1, 4), torch.tensor([[token]]))
        places.add(cache.keys.data_ptr())
    assert len(places) <= 9  # 1, 2, 4, …, 256
    assert torch.equal(cache.keys[0, 1, :, 3], torch.arange(200.0))
    assert torch.equal(cache.positions[0], torch.arange(200))


MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "grad": torch.enable_grad,
}


@pytest.mark.parametrize("modes", list(itertools.product(MODES, repeat=3)), ids="-".join)
def test_a_cache_begun_in_one_mode_goes_on_in_any_other(modes: tuple[str, ...]) -> None:
    model, tokens = make_lm(), make_tokens(2, 9)
    full, cache, start = model(tokens), model.new_cache(), 0
    for mode, length in zip(modes, (4, 1, 4), strict=True):
        for piece in tokens[:, start : start + length].split(2, dim=1):  # buffers with room, and without
            with MODES[mode]():
                logits = model(piece, cache=cache)
            torch.testing.assert_close(logits.clone(), full[:, start : start + piece.shape[1]], **EXACT)
            start += piece.shape[1]
    assert logits.requires_grad == (modes[-1] == "grad")
    if modes[-1] == "grad":
        logits.sum().backward()
        assert all(parameter.grad is not None for parameter in model.blocks.parameters())


@pytest.mark.parametrize("chunks", [[6], [1] * 6, [3, 1, 2], [2, 4]], ids=str)
def test_gradients_pass_through_a_cache_as_through_the_whole_sequence(chunks: list[int]) -> None:
    model, tokens = make_lm(), make_tokens(2, 6)
    weight = normal(2, 6, 11, seed=3)
    expected = torch.autograd.grad((model(tokens) * weight).sum(), tuple(model.parameters()))
    cache = model.new_cache()
    logits = torch.cat([model(piece, cache=cache) for piece in tokens.split(chunks, dim=1)], dim=1)
    with torch.no_grad():  # what is written afterwards leaves the graph alone
        model(tokens[:, :1], cache=cache)
        cache[0].truncate(2)
        model.blocks[0](normal(2, 3, 16), cache=cache[0])
    got = torch.autograd.grad((logits * weight).sum(), tuple(model.parameters()))
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_a_cache_without_gradients_can_be_attended_to_with_them_and_written_on() -> None:
    attention, x = make_block(causal=True, rotary=True).attention.requires_grad_(False), normal(1, 6, 16)
    ask = normal(1, 16).requires_grad_()  # an adapter of the queries alone
    attention.query_key_value.register_forward_hook(
        lambda _module, _inputs, out: torch.cat([out[..., :16] + ask, out[..., 16:]], dim=-1)
    )
    (expected,) = torch.autograd.grad(attention(x).square().sum(), ask)
    cache = LayerCache()
    outs = [attention(piece, cache=cache) for piece in x.split([3, 1, 1, 1], dim=1)]
    (got,) = torch.autograd.grad(torch.cat(outs, dim=1).square().sum(), ask)
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize("length", [0, 1, 4, 7])
def test_a_truncated_cache_is_the_cache_of_the_shorter_text(length: int) -> None:
    model, tokens, others = make_lm(), make_tokens(2, 7), make_tokens(2, 5, seed=3)
    cache, short = model.new_cache(), model.new_cache()
    model(tokens, cache=cache)
    for layer in cache:
        layer.truncate(length)
    if length:
        model(tokens[:, :length], cache=short)
        torch.testing.assert_close(cache[1].keys, short[1].keys, **EXACT)
        assert torch.equal(cache[1].positions, short[1].positions)
    else:
        with pytest.raises(ValueError, match="empty"):
            _ = cache[0].keys
    torch.testing.assert_close(model(others, cache=cache), model(others, cache=short), **EXACT)
    assert [layer.length for layer in cache] == [length + 5] * 3


def test_an_emptied_cache_takes_another_batch() -> None:
    model, cache = make_lm(), LayerCache()
    model.blocks[0](normal(2, 3, 16), cache=cache)
    cache.truncate(0)
    model.blocks[0](normal(5, 3, 16), cache=cache)
    assert cache.keys.shape[0] == 5


@pytest.mark.parametrize(
    "rows", [[1], [2, 0], [1, 1, 2, 0], torch.tensor([2, 2]), torch.tensor([0], dtype=torch.int32)]
)
def test_selected_samples_go_on_as_they_would_alone(rows: list[int] | Tensor) -> None:
    model, tokens = make_lm(), make_tokens(3, 5)
    cache, chosen = model.new_cache(), torch.as_tensor(rows).long()
    model(tokens, cache=cache)
    selected = [layer.select(rows) for layer in cache]
    following = make_tokens(len(rows), 2, seed=3)
    logits = model(following, cache=selected)
    torch.testing.assert_close(logits, model(torch.cat([tokens[chosen], following], dim=1))[:, 5:], **EXACT)
    assert cache[0].length == 5, "the cache selected from stays as it was"
    torch.testing.assert_close(model(tokens, cache=cache), model(tokens.repeat(1, 2))[:, 5:], **EXACT)
    assert LayerCache().select([0]).length == 0


@pytest.mark.parametrize("past", [0, 4])
@pytest.mark.parametrize("rows", [[0], [2, 1], [0, 1, 2]])
def test_some_samples_run_without_the_others_in_one_cache(rows: list[int], past: int) -> None:
    block, x, following = make_block(causal=True, rotary=True), normal(3, 4, 16), normal(3, 2, 16, seed=2)
    cache, last = LayerCache(), normal(3, 1, 16, seed=3)
    if past:
        block(x, cache=cache)
    where = torch.arange(past, past + 2)
    some = block(following[rows], positions=where, cache=cache.only(rows, batch=3))
    assert cache.length == past + 2
    seen = block(last, positions=torch.tensor([past + 2]), cache=cache)
    for sample in range(3):
        parts = [x[sample]] * (past > 0) + [following[sample]] * (sample in rows) + [last[sample]]
        places = torch.cat([torch.arange(past), where[: 2 * (sample in rows)], torch.tensor([past + 2])])
        alone = block(torch.cat(parts)[None], positions=places)[0]
        torch.testing.assert_close(seen[sample], alone[-1:], **EXACT)
        if sample in rows:
            torch.testing.assert_close(some[rows.index(sample)], alone[-3:-1], **EXACT)


@pytest.mark.parametrize("mode", MODES)
def test_samples_left_out_can_be_given_their_tokens_afterwards(mode: str) -> None:
    block, x, following = make_block(causal=True, rotary=True), normal(3, 4, 16), normal(3, 1, 16, seed=2)
    with MODES[mode]():
        cache, whole, where = LayerCache(), LayerCache(), torch.full((3, 1), 4)
        for layer in (cache, whole):
            block(x, cache=layer)
        block(following, cache=whole)
        block(following[[1]], positions=where[:1], cache=cache.only([1], batch=3))
        owed = block.attention.keys_values(block.norm1(following[[2, 0]]), where[:2])
        cache.complete([2, 0], *owed, where[:2])
    for mine, theirs in ((cache.keys, whole.keys), (cache.values, whole.values), (cache.positions, whole.positions)):
        torch.testing.assert_close(mine.clone(), theirs.clone(), **EXACT)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda cache: cache.truncate(5), ValueError, "length must be 0 … 4 tokens, which the cache holds; got 5"),
        (lambda cache: cache.truncate(-1), ValueError, "got -1"),
        (lambda cache: cache.truncate(2.0), TypeError, r"int.*2\.0"),
        (lambda cache: cache.truncate(True), TypeError, "int.*True"),
        (lambda cache: cache.only([0], batch=3).truncate(1), ValueError, "truncate the whole cache"),
        (lambda cache: cache.select([3]), ValueError, r"0 … 2; got \[3\]"),
        (lambda cache: cache.select([-1]), ValueError, r"got \[-1\]"),
        (lambda cache: cache.select([]), ValueError, "at least one"),
        (lambda cache: cache.select(torch.tensor(1)), ValueError, "at least one"),
        (lambda cache: cache.select([0.0]), TypeError, "whole numbers"),
        (lambda cache: cache.select(torch.tensor([True, False, True])), TypeError, "not by a mask"),
        (lambda cache: cache.only([1, 1], batch=3), ValueError, "name it once"),
        (lambda cache: cache.only([0], batch=2), ValueError, "batch of 3 samples; got batch=2"),
        (lambda cache: LayerCache().only([2], batch=2), ValueError, "0 … 1"),
        (lambda cache: cache.complete([0], *normal(2, 1, 4, 5, 4), torch.zeros(1, 5)), ValueError, "last 5"),
        (
            lambda cache: cache.complete([0], *normal(2, 2, 4, 1, 4), torch.zeros(1, 1)),
            ValueError,
            "must stay the same",
        ),
        (lambda cache: LayerCache().complete([0], *normal(2, 1, 4, 1, 4), torch.zeros(1, 1)), ValueError, "holds 0"),
    ],
)
def test_what_a_cache_cannot_do_is_refused_and_leaves_it_alone(
    ask: Callable[[LayerCache], object], error: type[Exception], says: str
) -> None:
    attention, x, cache = make_block(causal=True, rotary=True).attention, normal(3, 4, 16), LayerCache()
    attention(x, cache=cache)
    before = cache.keys.clone()
    with pytest.raises(error, match=says):
        ask(cache)
    assert cache.length == 4
    assert torch.equal(cache.keys, before)


# The two models


def test_a_vit_reads_the_class_token_and_then_the_patches_row_by_row() -> None:
    model, images = make_vit().double(), normal(2, 2, 8, 8)
    tokens = model.embed(images)
    assert tokens.shape == (2, 5, 8)
    for sample in range(2):
        expected = [model.class_token[0, 0]]
        for row in range(2):
            for column in range(2):
                patch = images[sample, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                expected.append((model.patches.weight * patch).sum((1, 2, 3)) + model.patches.bias)
        torch.testing.assert_close(tokens[sample], torch.stack(expected) + model.position[0], **EXACT)
    changed = tokens.clone()
    changed[:, 1:] += 1
    assert torch.equal(model.readout(changed), model.readout(tokens))
    torch.testing.assert_close(model.readout(tokens), model.head(model.norm(tokens[:, 0])), **EXACT)


def test_embedding_blocks_and_readout_are_the_whole_of_each_model() -> None:
    vit, images = make_vit(), torch.randn(3, 2, 8, 8)
    assert torch.equal(vit(images), vit.readout(run_blocks(list(vit.blocks), vit.embed(images))))
    lm, tokens = make_lm(), make_tokens(3, 5)
    assert torch.equal(lm(tokens), lm.readout(run_blocks(list(lm.blocks), lm.embed(tokens))))


def test_a_language_model_reads_out_with_its_embedding() -> None:
    model, x = make_lm(), normal(2, 3, 16)
    torch.testing.assert_close(model.readout(x), model.norm(x) @ model.embedding.weight.T, **EXACT)
    assert "head.weight" not in model.state_dict()


@pytest.mark.parametrize("place", [0, 4, 8])
def test_no_logit_knows_a_later_token(place: int) -> None:
    model, tokens = make_lm(), make_tokens(2, 9)
    other = tokens.clone()
    other[:, place] = (other[:, place] + 1) % 11
    before, after = model(tokens), model(other)
    torch.testing.assert_close(after[:, :place], before[:, :place], **EXACT)
    assert ((after - before)[:, place:].abs().amax((0, 2)) > 1e-6).all(), "this token and all later ones must know"


def test_a_fresh_language_model_knows_nothing() -> None:
    torch.manual_seed(0)
    lm, tokens = CausalLM(vocabulary=50, dim=32, depth=4, heads=4), make_tokens(8, 32, vocabulary=50)
    loss = F.cross_entropy(lm(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert loss == pytest.approx(math.log(50), abs=0.1)


def test_a_fresh_layer_keeps_the_size_of_its_input() -> None:
    torch.manual_seed(0)
    model = make_vit(dim=64, classes=64, heads=4)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif name.endswith(("query_key_value.weight", "expand.weight", "patches.weight", "head.weight")):
            # of at least 2,048 weights, a spread is known to 1/√4096 = 1.6 %; six of those
            assert parameter.std().item() * parameter[0].numel() ** 0.5 == pytest.approx(1, rel=0.1), name


def test_a_deeper_model_starts_with_smaller_writes_to_the_residual() -> None:
    torch.manual_seed(0)
    shallow, deep = (CausalLM(vocabulary=5, dim=64, depth=depth, heads=4) for depth in (2, 8))
    for part in ("attention.output", "feed_forward.contract"):
        spreads = [model.blocks[0].get_submodule(part).weight.std().item() for model in (shallow, deep)]
        # of 4,096 weights, a spread is known to 1/√8192 = 1.1 %; five of those
        assert spreads[0] / spreads[1] == pytest.approx(2, rel=0.08)


def test_gradients_reach_every_parameter() -> None:
    vit, lm = make_vit().double(), make_lm()
    vit(normal(4, 2, 8, 8)).logsumexp(-1).sum().backward()
    lm(make_tokens(4, 7)).logsumexp(-1).sum().backward()
    for model in (vit, lm):
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_a_block_are_those_of_finite_differences(causal: bool) -> None:
    block, x = make_block(causal=causal, rotary=causal, dim=4, heads=2), normal(1, 3, 4).requires_grad_()
    mask = torch.tensor([[True, False, True]])
    assert torch.autograd.gradcheck(lambda x: block(x, key_mask=mask), (x,))
    assert torch.autograd.gradcheck(lambda x: block(x), (x,))


# float32's rounding over two or three layers; bfloat16 keeps 8 bits, and the logits here are of size 1 to 10
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.float64, 0.0), (torch.bfloat16, 0.3)])
def test_models_run_in_each_precision(dtype: torch.dtype, near: float) -> None:
    lm, tokens, images = make_lm(), make_tokens(2, 6), normal(2, 2, 8, 8)
    vit = make_vit().double()
    exact = lm(tokens), vit(images)
    cache = lm.to(dtype).new_cache()
    cached = torch.cat([lm(part, cache=cache) for part in tokens.split([4, 2], dim=1)], dim=1)
    for got, expected in [(lm(tokens), exact[0]), (cached, exact[0]), (vit.to(dtype)(images.to(dtype)), exact[1])]:
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=near, atol=max(near, 1e-12))
    assert cache[0].keys.dtype == dtype


def test_models_run_under_autocast() -> None:
    lm, tokens = make_lm().float(), make_tokens(2, 6)
    exact = lm(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        cache = lm.new_cache()
        cached = torch.cat([lm(part, cache=cache) for part in tokens.split([4, 2], dim=1)], dim=1)
        torch.testing.assert_close(lm(tokens).float(), exact, rtol=0.3, atol=0.3)
        torch.testing.assert_close(cached.float(), exact, rtol=0.3, atol=0.3)


@pytest.mark.parametrize("make", [make_vit, make_lm])
def test_a_state_dict_is_the_whole_of_a_model(make: Callable[[], nn.Module]) -> None:
    model, inputs = make().double(), normal(2, 2, 8, 8) if make is make_vit else make_tokens(2, 5)
    other = make().double()
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.1)
    assert not torch.equal(other(inputs), model(inputs))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(inputs), model(inputs))


def test_models_may_have_no_blocks() -> None:
    vit, images = make_vit(depth=0), torch.randn(1, 2, 8, 8)
    assert vit(images).shape == (1, 3)
    assert torch.equal(vit(images), vit.readout(vit.embed(images)))
    lm, tokens = make_lm(depth=0), make_tokens(1, 3)
    assert lm(tokens).shape == (1, 3, 11)
    assert torch.equal(lm(tokens), lm.readout(lm.embed(tokens)))


# Generation


@pytest.mark.parametrize("temperature", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("length", [1, 5])
def test_generation_is_the_same_with_and_without_a_cache(length: int, temperature: float) -> None:
    model, prompt = make_lm(), make_tokens(3, length)
    outcomes = [
        model.generate(
            prompt,
            15,
            temperature=temperature,
            use_cache=use_cache,
            generator=torch.Generator().manual_seed(7),
        )
        for use_cache in (False, True)
    ]
    assert torch.equal(*outcomes)
    assert outcomes[0].shape == (3, length + 15)
    assert torch.equal(outcomes[0][:, :length], prompt)


def test_greedy_generation_takes_the_likeliest_token_every_time() -> None:
    model = make_lm()
    tokens = model.generate(make_tokens(2, 3), 10)
    assert torch.equal(tokens[:, 3:], model(tokens[:, :-1])[:, 2:].argmax(-1))


def test_sampling_repeats_with_the_same_generator_and_varies_with_another() -> None:
    model, prompt = make_lm(), make_tokens(2, 3)
    first, again, other = (
        model.generate(prompt, 20, temperature=2.0, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sampling_follows_the_softmax_of_logits_over_temperature() -> None:
    model, count, temperature = make_lm(), 20_000, 1.5
    prompt = make_tokens(1, 2).expand(count, 2)
    drawn = model.generate(prompt, 1, temperature=temperature, generator=torch.Generator().manual_seed(0))[:, -1]
    law = (model(prompt[:1])[0, -1] / temperature).softmax(-1)
    share = drawn.bincount(minlength=11) / count
    # 20,000 draws; each share within 5 of its standard deviations: a false alarm in 11 · 6e-7 < 1e-5 of seeds
    assert ((share - law).abs() <= 5 * (law * (1 - law) / count).sqrt()).all()


@pytest.mark.parametrize("said", ["key_mask", "positions", "both"])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_prompts_filled_up_on_the_left_go_on_as_each_would_alone(
    said: str, use_cache: bool, temperature: float
) -> None:
    model, lengths, seeds = make_lm(), [1, 6, 4], range(3)
    prompts = [make_tokens(1, length, seed=seed) for seed, length in zip(seeds, lengths, strict=True)]
    prompt = torch.cat([F.pad(tokens, (6 - tokens.shape[1], 0), value=7) for tokens in prompts])
    there = torch.arange(6) >= 6 - torch.tensor(lengths)[:, None]
    places = torch.where(there, there.cumsum(1) - 1, -1)
    told = {"key_mask": there, "positions": places if said == "positions" else places.clamp_min(0)}
    told = told if said == "both" else {said: told[said]}
    together = model.generate(prompt, 8, use_cache=use_cache, **told)
    assert torch.equal(together[:, :6], prompt)
    for row, tokens in enumerate(prompts):
        assert torch.equal(together[row, 6:], model.generate(tokens, 8)[0, tokens.shape[1] :])
    drawn = [
        model.generate(prompt, 8, temperature=1.5, use_cache=cached, generator=torch.Generator().manual_seed(0), **told)
        for cached in (True, False)
    ]
    assert torch.equal(*drawn)


def test_new_tokens_follow_the_position_of_the_last() -> None:
    model, prompt = make_lm(), make_tokens(2, 3)
    places = torch.tensor([[0, 4, 9], [2, 3, 4]])
    tokens = model.generate(prompt, 5, positions=places)
    everywhere = torch.cat([places, places[:, -1:] + torch.arange(1, 6)], dim=1)
    assert torch.equal(tokens[:, 3:], model(tokens, positions=everywhere)[:, 2:-1].argmax(-1))
    assert torch.equal(model.generate(prompt, 5, positions=torch.arange(3)), model.generate(prompt, 5))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("told", "error", "says"),
    [
        ({"key_mask": torch.tensor([[True, True, False], [True] * 3])}, ValueError, "fill up shorter prompts on the l"),
        ({"positions": torch.tensor([0, 1, -1])}, ValueError, "last token of a prompt is not there"),
        ({"key_mask": torch.ones(2, 4, dtype=torch.bool)}, ValueError, r"one entry per key.*got \(2, 4\)"),
        ({"key_mask": torch.ones(2, 3)}, TypeError, "must be bool"),
        ({"positions": torch.arange(4)}, ValueError, r"got \(4,\)"),
        ({"positions": torch.arange(3.0)}, TypeError, "float32"),
    ],
)
def test_a_prompt_that_is_not_described_right_is_refused(
    told: dict[str, Tensor], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        make_lm().generate(make_tokens(2, 3), 2, **told)


@pytest.mark.parametrize("new_tokens", [2.0, True, "2"])
@pytest.mark.usefixtures("as_users_run_it")
def test_the_number_of_new_tokens_is_an_int(new_tokens: object) -> None:
    with pytest.raises(TypeError, match="new_tokens must be an int"):
        make_lm().generate(make_tokens(1, 2), new_tokens)  # type: ignore[arg-type]


def test_generating_nothing_returns_the_prompt() -> None:
    prompt = make_tokens(2, 3)
    assert torch.equal(make_lm().generate(prompt, 0), prompt)


# Errors: each says what was given and what is allowed


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Attention(10, 4), "dim=10, heads=4"),
        (lambda: Attention(0, 1), "dim=0"),
        (lambda: Attention(8, 0), "heads=0"),
        (lambda: Attention(6, 2, rotary=True), "dim / heads = 3 is odd"),
        (lambda: FeedForward(0), "dim=0"),
        (lambda: FeedForward(4, 0), "hidden=0"),
        (lambda: Block(4, 2, dropout=1.5), "1.5"),
        (lambda: make_vit(image_size=9), "4 pixels do not tile an image of 9"),
        (lambda: make_vit(image_size=2), "4 pixels do not tile an image of 2"),
        (lambda: make_vit(patch_size=0), "0 pixels do not tile"),
        (lambda: make_vit(classes=0), "classes must be positive"),
        (lambda: make_vit(depth=-1), "-1"),
        (lambda: CausalLM(vocabulary=0, dim=4, depth=1, heads=1), "vocabulary must be positive"),
        (lambda: CausalLM(vocabulary=4, dim=4, depth=-1, heads=1), "-1"),
    ],
)
def test_impossible_models_are_refused(make: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (torch.zeros(2, 2, 8, 7), ValueError, r"\[batch, 2, 8, 8\]; got \(2, 2, 8, 7\)"),
        (torch.zeros(2, 1, 8, 8), ValueError, r"got \(2, 1, 8, 8\)"),
        (torch.zeros(2, 8, 8), ValueError, r"got \(2, 8, 8\)"),
        (torch.zeros(0, 2, 8, 8), ValueError, r"got \(0, 2, 8, 8\)"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), TypeError, "floating-point.*uint8"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Tensor, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make_vit()(images)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("tokens", "error", "says"),
    [
        (torch.tensor([[0, 11]]), ValueError, "0 … 10; got 0 … 11"),
        (torch.tensor([[-1, 3]]), ValueError, "got -1 … 3"),
        (torch.zeros(1, 0, dtype=torch.int64), ValueError, "at least one token"),
        (torch.zeros(0, 3, dtype=torch.int64), ValueError, "at least one token"),
        (torch.zeros(3, dtype=torch.int64), ValueError, r"\[batch, tokens\].*; got shape \(3,\)"),
        (torch.zeros(1, 3), TypeError, "int64 or int32; got torch.float32"),
        (torch.zeros(1, 3, dtype=torch.uint8), TypeError, "got torch.uint8"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tokens: Tensor, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make_lm()(tokens)
    with pytest.raises(error, match=says):
        make_lm().generate(tokens, 1)


def test_tokens_may_be_int32() -> None:
    tokens = make_tokens(2, 5)
    assert torch.equal(make_lm()(tokens.int()), make_lm()(tokens))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"key_mask": torch.ones(2, 3, dtype=torch.bool)}, ValueError, r"one entry per key.*got \(2, 3\)"),
        ({"key_mask": torch.ones(1, 4, dtype=torch.bool)}, ValueError, r"one entry per key.*got \(1, 4\)"),
        ({"key_mask": torch.ones(4, dtype=torch.bool)}, ValueError, r"one entry per key.*got \(4,\)"),
        ({"key_mask": torch.ones(2, 4)}, TypeError, "bool.*float32"),
        ({"positions": torch.arange(3)}, ValueError, r"= \(2, 4\); got \(3,\)"),
        ({"positions": torch.zeros(1, 4, dtype=torch.int64)}, ValueError, r"got \(1, 4\)"),
        ({"positions": torch.tensor(0)}, ValueError, r"got \(\)"),
        ({"positions": torch.zeros(1, 2, 4, dtype=torch.int64)}, ValueError, r"got \(1, 2, 4\)"),
        ({"positions": torch.arange(4.0)}, TypeError, "float32"),
    ],
)
def test_masks_and_positions_that_do_not_fit_are_refused_and_leave_the_cache_alone(
    arguments: dict[str, Tensor], error: type[Exception], says: str, cached: bool
) -> None:
    attention, x = make_block(causal=True, rotary=True).attention, normal(2, 4, 16)
    cache = LayerCache()
    attention(x, cache=cache)
    with pytest.raises(error, match=says):
        attention(x, cache=cache if cached else None, **arguments)
    assert cache.length == 4


def test_shape_checks_of_the_tests_refuse_them_too() -> None:
    with pytest.raises(TypeError):
        make_block().attention(normal(2, 4, 16), positions=torch.arange(3))


def test_a_cache_that_does_not_fit_is_refused() -> None:
    model, tokens = make_lm(), make_tokens(2, 3)
    with pytest.raises(ValueError, match=r"2 layers and the model 3.*new_cache"):
        model(tokens, cache=model.new_cache()[:2])
    cache = model.new_cache()
    model(tokens, cache=cache)
    with pytest.raises(ValueError, match="start a new cache"):
        model(tokens[:1], cache=cache)
    with pytest.raises(TypeError, match=r"torch.float64 on cpu and got torch.float32"):
        model.float()(tokens, cache=cache)
    for buffer in ("keys", "values", "positions"):
        with pytest.raises(ValueError, match="empty"):
            getattr(LayerCache(), buffer)


@pytest.mark.parametrize(
    ("new_tokens", "temperature", "says"), [(-1, 0.0, "got -1"), (1, -0.5, "-0.5"), (1, math.nan, "nan")]
)
def test_generation_refuses_negative_numbers(new_tokens: int, temperature: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_lm().generate(make_tokens(1, 2), new_tokens, temperature=temperature)


# Sequences end to end


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("lengths", [[1], [5], [4, 4, 2], [1, 3, 3, 1, 7]])
def test_packed_sequences_get_what_each_gets_alone(causal: bool, rotary: bool, lengths: list[int]) -> None:
    torch.manual_seed(0)
    block = Block(8, 2, causal=causal, rotary=rotary).double()
    x = torch.randn(sum(lengths), 8, dtype=torch.float64)
    together = block.packed(x, lengths)
    alone = torch.cat([block(part[None])[0] for part in x.split(lengths)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [[], [3, 1], [3, 3], [5, 0], [6, -1]])
def test_lengths_that_are_not_those_of_the_tokens_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="add up to the 5 tokens"):
        Block(8, 2).packed(torch.zeros(5, 8), lengths)


# Under torch's transforms


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention on a CPU has no batching rule
@pytest.mark.parametrize("make", [make_vit, make_lm])
def test_gradients_of_every_sample_are_those_of_a_loop(make: Callable[[], nn.Module]) -> None:
    model, inputs = make().double(), normal(3, 2, 8, 8) if make is make_vit else make_tokens(3, 5)
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, parameters, (sample[None],)).logsumexp(-1).sum()

    got = vmap(grad(loss), in_dims=(None, 0))(parameters, inputs)
    for row, sample in enumerate(inputs):
        expected = torch.autograd.grad(loss(parameters, sample), tuple(parameters.values()))
        for name, slope in zip(parameters, expected, strict=True):
            torch.testing.assert_close(got[name][row], slope, rtol=0, atol=1e-9)


def test_a_token_outside_the_vocabulary_is_found_under_vmap() -> None:
    model, tokens = make_lm(), make_tokens(3, 4)
    tokens[1, 2] = 11
    with pytest.raises(ValueError, match="0 … 10; got 0 … 11"):
        vmap(lambda row: model(row[None])[0])(tokens)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("make", [make_vit, make_lm])
def test_a_model_is_exported_for_any_batch(make: Callable[[], nn.Module]) -> None:
    model, inputs = make().double().eval(), normal(3, 2, 8, 8) if make is make_vit else make_tokens(3, 5)
    exported = torch.export.export(model, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for batch in (inputs, inputs[:2], inputs.repeat(3, *[1] * (inputs.ndim - 1))):
        torch.testing.assert_close(exported(batch), model(batch), **EXACT)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("given", [[[1, 2]], np.array([[1, 2]]), None], ids=["list", "array", "nothing"])
def test_what_is_no_tensor_is_said_to_be_none(given: object) -> None:
    for call in (make_vit(), make_lm(), lambda given: make_lm().generate(given, 1)):
        with pytest.raises(TypeError, match=r"must be a tensor; got .*torch\.as_tensor"):
            call(given)
