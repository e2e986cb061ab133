"""What is counted, against arithmetic done by hand."""

import asyncio
import gc
import queue
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.pool import ThreadPool

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from dynlib.backbone import Attention, Block, CausalLM, FeedForward, ViT
from dynlib.cost import Cost, count
from dynlib.cost.flops import HIGHER_ORDER, attended_pairs, formula_for, is_plain

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def block_flops(batch, queries, keys, dim, hidden):
    projections = 2 * batch * queries * (3 * dim * dim + dim * dim)
    return projections + 2 * 2 * batch * queries * keys * dim + 2 * 2 * batch * queries * dim * hidden


# FLOPs


def test_a_linear_layer_costs_two_flops_per_multiply_add():
    cost = count(nn.Linear(64, 128), torch.randn(10, 64))
    assert cost == Cost(flops=163_840, params=64 * 128 + 128, bytes=4 * (10 * 64 + 64 * 128 + 128 + 10 * 128))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_linear_layer_costs_the_same_flops_in_every_precision_and_its_own_bytes(dtype):
    cost = count(nn.Linear(64, 128, dtype=dtype), torch.randn(10, 64, dtype=dtype))
    assert cost.flops == 163_840
    assert cost.bytes == dtype.itemsize * (10 * 64 + 64 * 128 + 128 + 10 * 128)


@pytest.mark.parametrize(
    ("batch", "tokens", "dim", "heads", "hidden"), [(1, 1, 8, 2, 32), (2, 5, 16, 4, 24), (3, 65, 32, 2, 128)]
)
@pytest.mark.parametrize("causal", [False, True])
def test_a_block_costs_what_its_formula_says(batch, tokens, dim, heads, hidden, causal):
    block = Block(dim, heads, hidden=hidden, causal=causal, rotary=True)
    assert count(block, torch.randn(batch, tokens, dim)).flops == block_flops(batch, tokens, tokens, dim, hidden)


def test_a_vision_transformer_costs_its_patches_blocks_and_head():
    model = ViT(image_size=12, patch_size=3, classes=7, dim=16, depth=3, heads=2, channels=2)
    cost = count(model, torch.randn(5, 2, 12, 12))
    patches = 2 * 5 * 16 * (2 * 3 * 3) * 16
    assert cost.flops == patches + 3 * block_flops(5, 17, 17, 16, 64) + 2 * 5 * 16 * 7
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("past", [1, 7, 40])
def test_a_decoding_step_costs_one_token_with_a_cache_and_all_of_them_without(past):
    model = CausalLM(vocabulary=11, dim=16, depth=2, heads=4)
    tokens = torch.randint(11, (3, past + 1))
    cache = model.new_cache()
    model(tokens[:, :past], cache=cache)
    with_cache = count(model, tokens[:, past:], cache=cache)
    without = count(model, tokens)
    assert with_cache.flops == 2 * block_flops(3, 1, past + 1, 16, 64) + 2 * 3 * 16 * 11
    assert without.flops == 2 * block_flops(3, past + 1, past + 1, 16, 64) + 2 * 3 * (past + 1) * 16 * 11
    assert with_cache.params == without.params == sum(parameter.numel() for parameter in model.parameters())


def test_generation_with_a_cache_is_linear_in_new_tokens_but_for_attention():
    model = CausalLM(vocabulary=11, dim=16, depth=1, heads=2)
    prompt = torch.randint(11, (1, 4))
    steps = [block_flops(1, 4, 4, 16, 64) + 2 * 4 * 16 * 11]
    steps += [block_flops(1, 1, keys, 16, 64) + 2 * 16 * 11 for keys in (5, 6, 7)]
    assert count(model.generate, prompt, 4).flops == sum(steps)
    assert count(model.generate, prompt, 4, use_cache=False).flops > sum(steps)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["vit", "lm", "convolutions"])
def test_counts_agree_with_pytorchs_counter_where_attention_runs_as_two_products(name, train):
    model, given = {
        "vit": (ViT(image_size=12, patch_size=3, classes=7, dim=16, depth=2, heads=2), torch.randn(2, 1, 12, 12)),
        "lm": (CausalLM(vocabulary=11, dim=16, depth=2, heads=2), torch.randint(11, (2, 9))),
        "convolutions": (
            nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.ConvTranspose2d(8, 2, 3)),
            torch.randn(2, 3, 9, 9),
        ),
    }[name]

    def run():
        out = model(given)
        if train:
            out.sum().backward()

    with sdpa_kernel(SDPBackend.MATH):
        ours = count(run).flops
        with FlopCounterMode(display=False) as theirs:
            run()
    assert ours == theirs.get_total_flops() > 0


def test_the_fused_kernel_costs_what_two_products_cost():
    model = ViT(image_size=12, patch_size=3, classes=7, dim=16, depth=2, heads=2)
    images = torch.randn(2, 1, 12, 12)
    with sdpa_kernel(SDPBackend.MATH):
        math = count(model, images).flops
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert count(model, images).flops == math


def test_the_backward_pass_counts_when_the_callable_runs_it():
    layer, x = nn.Linear(64, 128), torch.randn(10, 64)
    assert count(lambda: layer(x).sum().backward()).flops == 2 * 163_840  # no gradient for the input
    x.requires_grad_()
    assert count(lambda: layer(x).sum().backward()).flops == 3 * 163_840


def test_attention_costs_five_products_backward_for_two_forward():
    query = torch.randn(2, 3, 10, 8, requires_grad=True)

    def run():
        F.scaled_dot_product_attention(query, query, query).sum().backward()

    assert count(run).flops == (2 + 5) * 2 * 2 * 3 * 10 * 10 * 8


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_each_gradient_of_a_convolution_costs_what_its_forward_does(groups):
    layer, x = nn.Conv2d(4, 8, 3, groups=groups), torch.randn(2, 4, 9, 9, requires_grad=True)
    forward = 2 * 2 * 7 * 7 * 8 * (4 // groups) * 9
    assert count(layer, x).flops == forward
    assert count(lambda: layer(x).sum().backward()).flops == 3 * forward


def pairs_by_loops(queries, keys):
    # the kernel's loop, one query at a time: which keys does it meet?
    block = 256 if queries >= 768 else 64 if queries >= 192 else 32
    pairs = 0
    for query in range(queries):
        end = min((query // block + 1) * block, queries, keys)
        pairs += sum(min(512, keys - first) for first in range(0, keys, 512) if first < end)
    return pairs


@pytest.mark.parametrize("keys", [1, 31, 200, 512, 513, 767, 768, 1024, 1500, 4096])
def test_causal_attention_counts_the_key_blocks_that_are_met(keys):
    assert attended_pairs(keys, keys, causal=True) == pairs_by_loops(keys, keys)
    assert attended_pairs(keys, keys, causal=False) == keys**2
    for queries in (1, 40, 800):
        assert attended_pairs(queries, keys, causal=True) == pairs_by_loops(queries, keys)


def test_heads_that_share_keys_cost_as_many_products_as_there_are_query_heads():
    query, key = torch.randn(2, 8, 10, 4), torch.randn(2, 2, 10, 4)
    cost = count(F.scaled_dot_product_attention, query, key, key, enable_gqa=True)
    assert cost.flops == 4 * 2 * 8 * 10 * 10 * 4


@pytest.mark.parametrize(("keys", "share"), [(512, 1.0), (1024, 3 / 4), (2048, 5 / 8), (4096, 9 / 16)])
def test_the_causal_square_is_whole_up_to_512_keys_and_tends_to_a_half(keys, share):
    query = torch.randn(1, 2, keys, 4)
    whole = 4 * 2 * keys**2 * 4
    causal = count(F.scaled_dot_product_attention, query, query, query, is_causal=True).flops
    assert causal == share * whole
    with sdpa_kernel(SDPBackend.MATH):
        assert count(F.scaled_dot_product_attention, query, query, query, is_causal=True).flops == whole


def test_a_mask_discounts_nothing_and_gathering_does():
    layer, x = FeedForward(16), torch.randn(2, 10, 16)
    keep = torch.arange(10) < 4
    dense = count(layer, x)
    masked = count(lambda: layer(x) * keep[:, None])
    gathered = count(lambda: layer(x[:, keep]))
    assert masked.flops == dense.flops == 2 * 2 * 20 * 16 * 64
    assert gathered.flops == 0.4 * dense.flops
    attention = Attention(16, 2)
    hidden = count(attention, x, key_mask=keep.expand(2, 10))
    assert hidden.flops == count(attention, x).flops


PRODUCTS = {
    "einsum": (lambda a: torch.einsum("nd,md->nm", a, a), 2 * 6 * 6 * 4),
    "matmul": (lambda a: a @ a.T, 2 * 6 * 6 * 4),
    "batched": (lambda a: a.expand(3, 6, 4) @ a.T, 2 * 3 * 6 * 6 * 4),
    "baddbmm": (lambda a: torch.baddbmm(torch.ones(1, 6, 6), a[None], a.T[None]), 2 * 6 * 6 * 4),
    "addbmm": (lambda a: torch.addbmm(torch.ones(6, 6), a[None], a.T[None]), 2 * 6 * 6 * 4),
    "addmm in place": (lambda a: torch.ones(6, 6).addmm_(a, a.T), 2 * 6 * 6 * 4),
    "matrix times vector": (lambda a: a @ a[0], 2 * 6 * 4),
    "addmv": (lambda a: torch.addmv(torch.ones(6), a, a[0]), 2 * 6 * 4),
    "dot": (lambda a: a[0] @ a[1], 2 * 4),
    "addr": (lambda a: torch.addr(torch.ones(4, 6), a[0], a[:, 0]), 2 * 4 * 6),
    "chain": (lambda a: torch.linalg.multi_dot([a.T, a, a.T]), 2 * 2 * 4 * 6 * 4),
    "tensordot": (lambda a: torch.tensordot(a, a, dims=2), 2 * 6 * 4),
    "complex": (lambda a: a.to(torch.complex64) @ a.T.to(torch.complex64), 8 * 6 * 6 * 4),
    "integer": (lambda a: a.long() @ a.T.long(), 2 * 6 * 6 * 4),
    "autocast": (lambda a: torch.autocast("cpu", torch.bfloat16)(F.linear)(a, a), 2 * 6 * 6 * 4),
    "conv1d": (lambda a: F.conv1d(a[None], torch.ones(5, 6, 3)), 2 * 2 * 5 * 6 * 3),
    "conv2d": (lambda a: F.conv2d(a[None, None], torch.ones(5, 1, 3, 3)), 2 * (4 * 2) * 5 * 9),
    "conv3d": (lambda a: F.conv3d(a[None, None, None], torch.ones(5, 1, 1, 3, 3)), 2 * (4 * 2) * 5 * 9),
    "distances by a product": (lambda a: torch.cdist(a.repeat(5, 1), a.repeat(5, 1)), 2 * 30 * 30 * (4 + 2)),
    "multi-head module": (lambda a: nn.MultiheadAttention(4, 2)(a, a, a), 2 * 6 * 4 * 16 + 4 * 36 * 4),
    "LSTM": (lambda a: nn.LSTM(4, 5, num_layers=2)(a), 2 * 6 * 4 * 5 * ((4 + 5) + (5 + 5))),
    "GRU": (lambda a: nn.GRU(4, 5, bidirectional=True)(a), 2 * 2 * 6 * 3 * 5 * (4 + 5)),
    "vectorised": (lambda a: torch.func.vmap(lambda row: torch.ones(7, 4) @ row)(a), 2 * 6 * 7 * 4),
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", PRODUCTS)
def test_every_kind_of_product_is_counted_in_every_gradient_mode(name, mode):
    function, flops = PRODUCTS[name]

    def run():
        with mode():
            function(torch.ones(6, 4))

    assert count(run).flops == flops


@pytest.mark.parametrize(("offsets", "rows"), [((8, 24), 24), ((0, 32), 32)])
def test_a_grouped_product_counts_the_rows_that_belong_to_a_group(offsets, rows):
    a, b = torch.ones(32, 16, dtype=torch.bfloat16), torch.ones(2, 16, 8, dtype=torch.bfloat16)
    cost = count(torch._grouped_mm, a, b, offs=torch.tensor(offsets, dtype=torch.int32))
    assert cost.flops == 2 * rows * 16 * 8


@pytest.mark.parametrize("norm_first", [False, True])
def test_pytorchs_fused_encoder_layer_costs_what_its_parts_cost(norm_first):
    layer = nn.TransformerEncoderLayer(16, 4, 40, batch_first=True, norm_first=norm_first).eval()
    x = torch.randn(2, 5, 16)
    parts = count(layer, x)  # with gradients it runs operator by operator
    with torch.no_grad():
        fused = count(layer, x)
    assert fused.flops == parts.flops == block_flops(2, 5, 5, 16, 40)
    assert fused.params == parts.params == sum(parameter.numel() for parameter in layer.parameters())
    assert fused.bytes < parts.bytes


@pytest.mark.parametrize(
    "function",
    [
        lambda a: torch.outer(a[0], a[1]),
        lambda a: F.layer_norm(F.softmax(a, -1), (4,)).sum().sqrt(),
        lambda a: F.max_pool1d(a, 2),
        lambda a: a.sort().values.cumsum(0)[a.argmax(-1)].topk(2),
        lambda a: F.cross_entropy(F.dropout(a), torch.arange(6) % 4),
        lambda a: torch._foreach_add([a, a], 1.0),
        lambda a: F.interpolate(a[None], scale_factor=2) + torch.rand(1),
        lambda a: torch.optim.AdamW([a.requires_grad_()]).step(a.sum().backward),
    ],
)
def test_what_is_no_product_is_zero_flops_and_moves_bytes(function):
    cost = count(function, torch.ones(6, 4))
    assert cost.flops == 0
    assert cost.bytes > 0


# Never a silent zero


@torch.library.custom_op("dynlib_tests::square", mutates_args=())
def square(a: torch.Tensor) -> torch.Tensor:
    return a @ a


UNKNOWN = {
    "_linalg_solve_ex": lambda a: torch.linalg.solve(a, a),
    "linalg_inv_ex": torch.linalg.inv,
    "linalg_qr": torch.linalg.qr,
    "_linalg_svd": torch.linalg.svd,
    "linalg_cholesky_ex": torch.linalg.cholesky,
    "_fft_r2c": torch.fft.fft,
    "_cdist_forward": lambda a: torch.cdist(a, a, p=1),
    "_trilinear": lambda a: F.bilinear(a, a, torch.ones(2, 4, 4)),
    "square": square,
    "sparse": lambda a: a.to_sparse() @ a,
    "quantize": lambda a: torch.quantize_per_tensor(a, 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_an_operator_without_a_formula_is_an_error_that_names_it(name, mode):
    with pytest.raises(ValueError, match=name), mode():
        count(UNKNOWN[name], torch.eye(4))


def test_the_error_tells_how_to_give_a_formula_and_the_formula_is_used():
    with pytest.raises(ValueError, match=r"formulas=\{torch\.ops\.dynlib_tests\.square: formula\}"):
        count(square, torch.eye(4))

    def formula(a, *, out_shape):
        assert list(a) == list(out_shape) == [4, 4]
        return 2 * a[0] ** 3

    for operator in (torch.ops.dynlib_tests.square, torch.ops.dynlib_tests.square.default):
        assert count(square, torch.eye(4), formulas={operator: formula}).flops == 128


def test_a_given_formula_goes_before_a_known_one():
    cost = count(lambda: torch.eye(4) @ torch.eye(4), formulas={aten.mm: lambda *_, **__: 7})
    assert cost.flops == 7


PRODUCT_WORDS = re.compile(
    r"\w*mm|mv|addmv|v?dot|addr|matmul|conv|convolution|attention|solve|cholesky|fft|rnn|lstm|gru|qr|lu|svd"
    r"|eigh?|eigvals|p?inv|det|lstsq|[cp]dist"
)


def test_no_operator_whose_name_speaks_of_a_product_passes_as_plain():
    seen = 0
    for full_name in torch._C._dispatch_get_all_op_names():
        name, _, overload = full_name.removeprefix("aten::").partition(".")
        words = re.split(r"[_\d]+", name)
        speaks = any(PRODUCT_WORDS.fullmatch(word) for word in words)
        if not full_name.startswith("aten::") or not speaks or "cell" in words:
            continue  # a fused cell holds only the gates, between products that are seen on their own
        packet = getattr(aten, name)
        if (overload or "default") in packet.overloads():
            seen += 1
            operator = getattr(packet, overload or "default")
            assert not is_plain(operator) or formula_for(operator, {}) is not None, operator
    assert seen > 100


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_an_error_that_says_what_to_do():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 1).eval()
    padding = torch.tensor([[False, False, True], [False, False, False]])
    with torch.no_grad(), pytest.raises(ValueError, match="enable_nested_tensor=False"):
        count(model, torch.randn(2, 3, 16), src_key_padding_mask=padding)
    nested = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)])
    with pytest.raises(ValueError, match="nested"):
        count(torch.relu, nested)


@pytest.mark.parametrize("result", [1.5, -1, None, True])
def test_a_formula_must_give_a_whole_number(result):
    with pytest.raises(ValueError, match="whole number"):
        count(square, torch.eye(4), formulas={torch.ops.dynlib_tests.square: lambda *_, **__: result})


@pytest.mark.usefixtures("as_users_run_it")
def test_wrong_arguments_are_errors_that_say_what_is_allowed():
    with pytest.raises(TypeError, match="a module or a function"):
        count("model")
    with pytest.raises(TypeError, match=r"torch\.ops\.aten\.mm"):
        count(len, [], formulas={"mm": lambda *_: 0})


# Parameters


def test_a_slice_reads_its_own_parameters():
    attention, x = Attention(16, 2), torch.randn(2, 5, 16)
    cost = count(attention.keys_values, x)
    assert cost.params == 2 * 16 * 16 + 2 * 16
    assert cost.flops == 2 * 10 * 16 * 32
    columns = count(lambda: F.linear(x[..., :4], attention.output.weight[:, :4]))
    assert columns.params == 16 * 4


def test_parts_of_one_weight_add_up_without_counting_twice():
    weight, x = nn.Parameter(torch.ones(10, 6)), torch.ones(3, 6)
    cost = count(lambda: (F.linear(x, weight[:4]), F.linear(x, weight[2:7]), F.linear(x[:, :2], weight[:, :2])))
    assert cost.params == 7 * 6 + 3 * 2
    assert count(lambda: (F.linear(x, weight[:4]), F.linear(x, weight[4:]))).params == 60


def test_what_lies_in_the_memory_of_a_parameter_is_read_as_that_parameter():
    layer, x = nn.Linear(6, 10), torch.ones(3, 6)
    with torch.no_grad():
        halves = {"data": layer.weight.data[:5], "numpy": torch.from_numpy(layer.weight.detach().numpy())[:5]}
    halves["bits"] = layer.weight.detach().view(torch.int32)[:5].view(torch.float32)
    for name in ("data", "bits"):
        assert count(F.linear, x, halves[name]).params == 30, name
    assert count(F.linear, x, halves["numpy"]).params == 0  # memory that PyTorch does not know to be the same
    assert count(F.linear, x, layer.weight.detach().clone()).params == 0
    weights = {name: value.detach() for name, value in layer.named_parameters()}
    assert count(torch.func.functional_call, layer, weights, x).params == 70
    kept = weights["weight"]
    del layer, halves, weights
    gc.collect()
    assert count(F.linear, x, kept).params == 0  # nobody holds the parameter any more


def test_a_view_made_before_still_reads_the_parameter():
    layer, x = nn.Linear(6, 10), torch.ones(3, 6)
    part, detached = layer.weight[4:], layer.weight.detach()[4:]
    assert count(lambda: F.linear(x, part)).params == 36
    assert count(lambda: F.linear(x, detached)).params == 36


def test_shared_and_repeated_weights_count_once():
    layer, x = nn.Linear(6, 6), torch.ones(3, 6)
    twin = nn.Linear(6, 6)
    twin.weight = layer.weight
    assert count(nn.Sequential(layer, layer, twin), x).params == 36 + 6 + 6


def test_an_embedding_reads_the_distinct_rows_it_looks_up():
    layer = nn.Embedding(100, 8)
    cost = count(layer, torch.tensor([[3, 3, 7], [3, 9, 7]]))
    assert cost == Cost(flops=0, params=3 * 8, bytes=6 * 8 + 4 * 6 * 8 + 4 * 6 * 8)  # numbers, rows read, rows written


@pytest.mark.parametrize(
    "gather",
    [
        lambda w: w[torch.tensor([1, 1, 4])],
        lambda w: w.index_select(0, torch.tensor([1, 4])),
        lambda w: w.take(torch.tensor([[0, 1, 2], [3, 4, 5]]) + 3),
        lambda w: w.expand(2, 5, 3).gather(1, torch.tensor([1, 4])[None, :, None].expand(2, 2, 3)),
        lambda w: w[torch.tensor([False, True, False, False, True])],
        lambda w: F.embedding_bag(torch.tensor([[1, 4]]), w),
        lambda w: torch.index_select(w, 0, torch.tensor([1, 4]), out=torch.empty(2, 3)),
    ],
)
def test_a_gather_reads_the_elements_it_picks(gather):
    weight = nn.Parameter(torch.arange(15.0).view(5, 3), requires_grad=False)
    kept = weight.clone()
    assert count(gather, weight).params == 6
    assert torch.equal(weight, kept)


def test_parameters_of_an_unused_part_and_written_but_unread_ones_do_not_count():
    model = nn.ModuleDict({"used": nn.Linear(4, 4), "unused": nn.Linear(4, 4)})
    assert count(lambda: model["used"](torch.ones(2, 4))).params == 20
    with torch.no_grad():
        assert count(lambda: model["used"].weight.copy_(torch.ones(4, 4))).params == 0


def test_parameters_inside_one_flat_storage_are_told_apart():
    flat = torch.arange(20.0)
    first, second = nn.Parameter(flat[:8].view(2, 4)), nn.Parameter(flat[8:16].view(2, 4))
    x = torch.ones(3, 4)
    assert count(lambda: (F.linear(x, first), F.linear(x, first))).params == 8
    assert count(lambda: (F.linear(x, first), F.linear(x, second[:1]))).params == 12
    assert count(lambda: (F.linear(x, first), flat.sum())).params == 16  # of the other four nobody is the owner


def test_methods_partials_and_functions_find_their_parameters():
    model = CausalLM(vocabulary=11, dim=16, depth=1, heads=2)
    tokens = torch.randint(11, (1, 3))
    every = sum(parameter.numel() for parameter in model.parameters())
    for call in (
        model,
        model.forward,
        partial(model.forward),
        lambda t: model(t),
        partial(model.generate, new_tokens=1),
    ):
        assert count(call, tokens).params == every


# Bytes


N = 24  # elements of the tensor below, four bytes each
BYTES = {
    "a view": (lambda a: a.view(-1)[2:].unsqueeze(0), 0),
    "elementwise": (lambda a: a + 1, 2 * N * 4),
    "two of the same": (lambda a: a * a, 2 * N * 4),
    "in place": (lambda a: a.add_(1), 2 * N * 4),
    "fill": (lambda a: a.fill_(1), N * 4),
    "copy into": (lambda a: a.copy_(torch.broadcast_to(a[:1], a.shape)), (4 + N) * 4),
    "zeros": (lambda a: torch.zeros_like(a), N * 4),
    "empty": (lambda a: torch.empty_like(a), 0),
    "expanded": (lambda a: a[:1].expand(6, 4) + 1, (4 + N) * 4),
    "windows": (lambda a: a.view(-1).unfold(0, 4, 1) + 1, (N + 21 * 4) * 4),
    "copying reshape": (lambda a: a.T.reshape(-1), 2 * N * 4),
    "to half": (lambda a: a.half(), N * 4 + N * 2),
    "cat": (lambda a: torch.cat([a, a[:2]]), (N + 8 + N + 8) * 4),
    "rows": (lambda a: a[INDEX], 8 * 2 + 2 * 8 * 4),
    "rows by mask": (lambda a: a[MASK], 6 + 2 * 8 * 4),
    "gather": (lambda a: a.gather(0, INDEX[:, None]), 8 * 2 + 2 * 2 * 4),
    "write rows": (lambda a: a.index_put_((INDEX,), ROWS), 8 * 2 + 2 * 8 * 4),
    "write by mask": (lambda a: a.index_put_((MASK,), a[0, 0]), 6 + 4 + 8 * 4),
    "write columns": (lambda a: aten.index_put_(a.T, [None, INDEX], COLUMNS), 8 * 2 + 2 * 8 * 4),
    "add rows": (lambda a: a.index_add_(0, INDEX, ROWS), 8 * 2 + 3 * 8 * 4),
    "add rows elsewhere": (lambda a: a.index_add(0, INDEX, a[:2]), 8 * 2 + 3 * 8 * 4 + 2 * N * 4),
    "copy rows": (lambda a: a.index_copy_(0, INDEX, ROWS), 8 * 2 + 2 * 8 * 4),
    "fill rows": (lambda a: a.index_fill_(0, INDEX, 0.0), 8 * 2 + 8 * 4),
    "scatter": (lambda a: a.scatter_(0, INDEX[:, None], a[:2, :1]), 8 * 2 + 2 * 2 * 4),
    "scatter and add": (lambda a: a.scatter_add_(0, INDEX[:, None], a[:2, :1]), 8 * 2 + 3 * 2 * 4),
    "write a slice": (lambda a: a[1:3].copy_(a[3:5]), 2 * 8 * 4),
    "matmul": (lambda a: a @ a.T, (N + N + 36) * 4),
    "out=": (lambda a: torch.add(a, 1, out=torch.empty(6, 4)), 2 * N * 4),
    "a list": (lambda a: torch._foreach_add_([a, torch.empty(2)], 1.0), 2 * (N + 2) * 4),
}
ROWS, COLUMNS = torch.zeros(2, 4), torch.zeros(4, 2)
INDEX, MASK = torch.tensor([1, 4]), torch.tensor([False, True, False, True, False, False])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", BYTES)
def test_bytes_are_what_operators_read_and_write(name, mode):
    function, moved = BYTES[name]
    with mode():
        assert count(function, torch.ones(6, 4)).bytes == moved


def test_a_decoding_step_moves_fewer_bytes_than_the_whole_sequence():
    model = CausalLM(vocabulary=50, dim=32, depth=2, heads=4).eval()
    tokens, cache = torch.randint(50, (1, 64)), model.new_cache()
    with torch.no_grad():
        model(tokens[:, :-1], cache=cache)
        assert count(model, tokens[:, -1:], cache=cache).bytes < count(model, tokens).bytes


# Running


def test_the_model_runs_once_in_the_callers_gradient_mode_and_its_result_is_its_own():
    calls = []

    def run(x, *, scale):
        calls.append((torch.is_grad_enabled(), (x * scale).tolist()))

    count(run, torch.ones(2), scale=3.0)
    with torch.no_grad():
        count(run, torch.ones(2), scale=3.0)
    assert calls == [(True, [3.0, 3.0]), (False, [3.0, 3.0])]


def test_counting_twice_gives_the_same_under_autocast_too():
    layer, x = nn.Linear(8, 8), torch.ones(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
        assert count(layer, x) == count(layer, x)
        assert count(layer, x).params == 72


def test_a_giant_counts_without_weights_on_the_meta_device():
    with torch.device("meta"):
        cost = count(nn.Linear(100_000, 100_000, bias=False), torch.ones(1, 100_000))
        rows = count(nn.Embedding(10, 4), torch.zeros(2, dtype=torch.long))
    assert (cost.flops, cost.params) == (2 * 10**10, 10**10)
    assert rows.params == 40  # which rows is not known


def test_checkpointing_counts_the_forward_pass_twice():
    layer, x = nn.Linear(8, 8), torch.ones(2, 8, requires_grad=True)
    from torch.utils.checkpoint import checkpoint

    plain = count(lambda: layer(x).relu().sum().backward()).flops
    again = count(lambda: checkpoint(lambda y: layer(y).relu(), x, use_reentrant=False).sum().backward()).flops
    assert again == plain + 2 * 2 * 8 * 8


def test_a_counter_outside_sees_what_a_counter_inside_sees():
    layer, x = nn.Linear(8, 8), torch.ones(2, 8)
    inner = []
    outer = count(lambda: inner.append(count(layer, x)))
    assert inner[0].flops == outer.flops == 2 * 2 * 8 * 8


# Other threads


def started(function):
    out = []
    thread = threading.Thread(target=lambda: out.append(function()))
    thread.start()
    thread.join()
    return out[0]


def with_a_pool_of_its_own(function):
    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(function), pool.submit(function)]]


WAITING, OLD = ThreadPoolExecutor(2), ThreadPool(2)
THREADS = {
    "a thread": (started, 1),
    "a thread of a thread": (lambda function: started(lambda: started(function)), 1),
    "a pool": (with_a_pool_of_its_own, 2),
    "a pool that was there": (lambda function: WAITING.submit(function).result(), 1),
    "its map": (lambda function: list(WAITING.map(lambda _: function(), range(3))), 3),
    "asyncio": (lambda function: asyncio.run(asyncio.to_thread(function)), 1),
    "apply": (lambda function: OLD.apply(function), 1),
    "map": (lambda function: OLD.map(lambda _: function(), range(3)), 3),
    "starmap": (lambda function: OLD.starmap(lambda _: function(), [(1,), (2,)]), 2),
    "imap": (lambda function: list(OLD.imap(lambda _: function(), range(3))), 3),
    "imap_unordered": (lambda function: list(OLD.imap_unordered(lambda _: function(), range(3))), 3),
    "fork": (lambda function: torch.jit.wait(torch.jit.fork(function)), 1),
}


@pytest.mark.parametrize("name", THREADS)
def test_work_that_is_given_to_other_threads_counts(name):
    WAITING.submit(int).result()
    run, times = THREADS[name]
    layer, x = nn.Linear(8, 8), torch.ones(2, 8)
    once = count(layer, x)
    assert count(run, lambda: layer(x)) == Cost(times * once.flops, once.params, times * once.bytes)


def test_counting_changes_no_thread_and_no_module_for_good():
    kept = [threading.Thread.start, ThreadPoolExecutor.submit, ThreadPool.imap, nn.Module.__call__]
    with pytest.raises(ZeroDivisionError):
        count(lambda: 1 / 0)
    count(started, int)
    assert kept == [threading.Thread.start, ThreadPoolExecutor.submit, ThreadPool.imap, nn.Module.__call__]
    layer, x, counted = nn.Linear(8, 8), torch.ones(2, 8), []
    left = threading.Event()

    def late():
        left.wait()
        layer(x)

    def leave_one_behind():
        counted.append(threading.Thread(target=late))
        counted[0].start()

    cost = count(leave_one_behind)
    left.set()
    counted[0].join()
    assert cost.flops == 0  # it counts until the call returns


def test_counts_in_several_threads_at_once_do_not_mix():
    layer, x = nn.Linear(8, 8), torch.ones(2, 8)

    def several(depth):
        return {count(nn.Sequential(*[layer] * depth), x).flops for _ in range(20)}

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(several, range(1, 5))) == [{256 * depth} for depth in range(1, 5)]


def test_a_part_that_runs_in_a_thread_that_is_not_seen_is_an_error():
    jobs, done = queue.Queue(), queue.Queue()

    def work():
        while (job := jobs.get()) is not None:
            done.put(job())

    worker = threading.Thread(target=work)
    worker.start()

    class Elsewhere(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            jobs.put(lambda: self.layer(x))
            return done.get()

    model = Elsewhere()
    for call in (model, model.forward, partial(model, torch.ones(2, 8))):
        with pytest.raises(ValueError, match=r"Linear of the model ran in a thread .* ThreadPoolExecutor"):
            count(*((call,) if isinstance(call, partial) else (call, torch.ones(2, 8))))
    jobs.put(None)
    worker.join()


def test_the_threads_of_autograd_count():
    layer, x = nn.Linear(8, 8), torch.ones(2, 8)

    class Deep(torch.autograd.Function):
        """Runs another backward pass in its own, which from the 60th on takes a thread of its own."""

        @staticmethod
        def forward(ctx, x, depth):
            ctx.depth = depth
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            with torch.enable_grad():
                inner = torch.ones(2, 8, requires_grad=True)
                if ctx.depth:
                    Deep.apply(inner, ctx.depth - 1).sum().backward()
                else:
                    layer(x)
            return gradient, None

    assert count(lambda: Deep.apply(x.clone().requires_grad_(), 90).sum().backward()).flops == 256


# Transforms, the compiler, control flow


def test_transforms_cost_what_they_run():
    layer, x = nn.Linear(8, 8), torch.ones(2, 8)
    weights = {name: value.detach() for name, value in layer.named_parameters()}

    def loss(weights, x):
        return torch.func.functional_call(layer, weights, x).sum()

    forward = 2 * 2 * 8 * 8
    costs = {
        "vmap": count(torch.func.vmap(layer), x[None].expand(3, 2, 8)),
        "grad": count(torch.func.grad(loss), weights, x),
        "grad of each": count(torch.func.vmap(torch.func.grad(loss), (None, 0)), weights, x),
        "jvp": count(lambda: torch.func.jvp(layer, (x,), (x,))),
        "jacrev": count(torch.func.jacrev(layer), x[0]),
    }
    assert {name: cost.flops for name, cost in costs.items()} == {
        "vmap": 3 * forward,
        "grad": 2 * forward,  # forward, and the gradient of the weight
        "grad of each": 2 * forward,
        "jvp": 3 * forward,  # x W, and the tangents x W' and x' W
        "jacrev": forward // 2 + 8 * forward // 2,  # one row forward, eight back
    }
    assert all(cost.params == 72 for cost in costs.values())


def test_reentrant_checkpointing_counts_the_forward_pass_twice():
    layer, x = nn.Linear(8, 8), torch.ones(2, 8, requires_grad=True)
    run = torch.utils.checkpoint.checkpoint
    assert count(lambda: run(layer, x, use_reentrant=True).sum().backward()).flops == 4 * 256


@pytest.mark.parametrize("ran_before", [True, False])
def test_a_compiled_model_costs_what_it_was_written_as_and_stays_compiled(ran_before):
    torch._dynamo.reset()
    runs = []

    def backend(graph, _):
        return lambda *inputs: (runs.append(1), graph(*inputs))[1]

    plain = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    model, x = torch.compile(plain, backend=backend, fullgraph=True), torch.ones(10, 32)
    if ran_before:
        model(x)
        runs.clear()
    assert count(model, x) == count(plain, x)
    assert not runs
    for _ in range(5):
        model(x)
    assert len(runs) == 5


def test_what_is_compiled_for_the_first_time_while_it_is_counted_stays_compiled_too():
    code = """
import sys, torch
from dynlib.cost import count
runs, made = [], []
def backend(graph, _):
    return lambda *inputs: (runs.append(1), graph(*inputs))[1]
def run(x):
    made.append(torch.compile(torch.nn.Linear(8, 8), backend=backend))
    return made[0](x)
assert "torch._dynamo" not in sys.modules
x = torch.ones(2, 8)
flops = count(run, x).flops
early = len(runs)
made[0](x)
print(flops, early, len(runs), torch.compile.__module__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "256 0 1 torch", done.stderr


def test_flex_attention_can_be_the_first_thing_that_is_counted():
    code = """
import torch
from torch.nn.attention.flex_attention import flex_attention
from dynlib.cost import count
print(count(flex_attention, *[torch.ones(1, 2, 128, 16)] * 3).flops)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(4 * 2 * 128 * 128 * 16), done.stderr


def test_exported_and_traced_models_cost_what_the_model_does():
    layer, x = nn.Linear(8, 8), torch.ones(2, 8)
    assert count(torch.export.export(layer, (x,)).module(), x) == count(layer, x)


def test_flex_attention_costs_the_whole_square():
    query = torch.randn(1, 2, 128, 16)
    causal = create_block_mask(lambda b, h, i, j: i >= j, None, None, 128, 128, device="cpu")
    for options in ({}, {"block_mask": causal}):
        assert count(flex_attention, query, query, query, **options).flops == 4 * 2 * 128 * 128 * 16


@pytest.mark.parametrize("name", sorted(HIGHER_ORDER))
def test_formulas_for_an_older_pytorch_say_what_a_newer_one_does(name):
    theirs = flop_registry.get(getattr(torch.ops.higher_order, name))
    if theirs is None:
        pytest.skip("this PyTorch has no formula of its own")
    query, key, value, out = (
        torch.ones(3, heads, n, dim) for heads, n, dim in ((4, 5, 6), (4, 7, 6), (4, 7, 9), (4, 5, 9))
    )
    inputs = (query, key, value, *((out, torch.ones(3, 4, 5), out) if "backward" in name else ()))
    assert HIGHER_ORDER[name](*inputs, out_val=out) == theirs(*inputs, out_val=out) > 0


def test_control_flow_costs_the_branch_that_was_taken():
    one, two = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = one, two

        def forward(self, x):
            return torch.cond(x.sum() > 0, self.one, self.two, (x,))

    x = torch.ones(2, 8)
    with torch.no_grad():
        for model in (Branches(), torch.export.export(Branches(), (x,)).module()):
            assert (count(model, x).flops, count(model, -x).flops) == (256, 512)
            assert (count(model, x).params, count(model, -x).params) == (72, 144)


# Cost


def test_costs_add_field_by_field_and_what_is_unknown_stays_unknown():
    a, b = Cost(1, 2, 3, seconds=1.0, joules=2.0), Cost(10, 20, 30, seconds=4.0)
    assert a + b == Cost(11, 22, 33, seconds=5.0, joules=None)
    assert sum([a, a, a]) == Cost(3, 6, 9, seconds=3.0, joules=6.0)
    with pytest.raises(TypeError):
        a + 1


def test_shares_are_ratios_and_none_where_there_is_no_ratio():
    share = Cost(1, 0, 3, seconds=1.0).share_of(Cost(4, 0, 12, seconds=2.0, joules=1.0))
    assert share == (0.25, None, 0.25, 0.5, None)
    assert share.flops == 0.25


def test_a_cost_is_frozen():
    with pytest.raises(AttributeError):
        Cost(1, 2, 3).flops = 4


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (Cost(12_345_678, 678_000, 4_100_000), "12.3 MFLOP · 678 k parameters · 4.1 MB"),
        (Cost(0, 64, 999), "0 FLOP · 64 parameters · 999 B"),
        (
            Cost(999_999, 1_000, 10**13, seconds=0.0012, joules=3.4e-9),
            "1 MFLOP · 1 k parameters · 10 TB · 1.2 ms · 3.4 nJ",
        ),
        (Cost(1, 1, 1, seconds=65.0, joules=0.0), "1 FLOP · 1 parameters · 1 B · 65 s · 0 J"),
    ],
)
def test_a_cost_reads_with_units(cost, text):
    assert str(cost) == text
