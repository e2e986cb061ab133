"""CoLT5 against a slow loop that runs one token of one sequence at a time."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import Attention, Block, ViT
from dynlib.choice import soft_topk
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.tokens.colt5 import (
    ConditionalAttention,
    ConditionalBlock,
    ConditionalFeedForward,
    Router,
)
from dynlib.tokens.local_attention import local_attention

DIM, EXACT = 16, {"rtol": 0, "atol": 1e-10}  # for float64
few = settings(max_examples=40, deadline=None, derandomize=True)
every_routing = pytest.mark.parametrize("routing", ["learned", "even", "anchored"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_tokens(batch: int = 3, tokens: int = 20, *, dim: int = DIM, seed: int = 1) -> Tensor:
    return torch.randn(batch, tokens, dim, dtype=torch.float64, generator=seeded(seed))


def shaken(module: nn.Module, seed: int = 2) -> nn.Module:
    """In float64, every parameter drawn anew, biases and norms too, so that nothing is 0 or 1 by chance."""
    torch.manual_seed(seed)
    for name, parameter in module.double().named_parameters():
        nn.init.normal_(parameter, std=0.5 if "score" not in name else 1.0)
    return module.eval()


def make_feed_forward(seed: int = 2, **options) -> ConditionalFeedForward:
    return shaken(ConditionalFeedForward(DIM, light=5, heavy=9, **{"capacity": 0.25} | options), seed)


def make_attention(seed: int = 2, **options) -> ConditionalAttention:
    sizes = {"window": 2, "query_capacity": 0.25, "key_capacity": 0.4}
    return shaken(ConditionalAttention(DIM, 4, **sizes | options), seed)


def make_block(seed: int = 2, **options) -> ConditionalBlock:
    return shaken(ConditionalBlock(DIM, 4, **{"window": 3, "capacity": 0.25, "light": 5, "heavy": 9} | options), seed)


def lengths_to_mask(lengths: list[int], tokens: int) -> Tensor:
    return torch.arange(tokens) < torch.tensor(lengths)[:, None]


# ---- the slow way


def weights_slowly(scores: list[float], total: int, epsilon: float) -> list[float]:
    """p = min(1, e^{(s − ν) / ε}) with the ν that makes them sum to ``total``, by halving."""
    low, high = min(scores) - 60 * epsilon, max(scores) + epsilon * math.log(len(scores) + 1)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(min(1.0, math.exp(min(0.0, (s - middle) / epsilon))) for s in scores) > total:
            low = middle
        else:
            high = middle
    return [min(1.0, math.exp(min(0.0, (s - high) / epsilon))) for s in scores]


def route_slowly(router: Router, x: Tensor, k: int | None = None) -> list[float]:
    """The weights of one sequence [tokens, dim] without padding, 0 where it is not routed."""
    n = len(x)
    k = math.ceil(router.capacity * n - 1e-9) if k is None else k
    if k == 0:
        return [0.0] * n
    u = router.score.weight[0].tolist()
    scores = [sum(a * b for a, b in zip(token, u, strict=True)) for token in x.tolist()]
    weights = weights_slowly(scores, min(n, math.ceil(router.reach * k - 1e-9)), router.epsilon)
    best = sorted(range(n), key=lambda i: -scores[i])[:k]
    return [weights[i] if i in best else 0.0 for i in range(n)]


def attend_slowly(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """One head, one query: Σ softmax(q · k / √d) v, or zeros if there is no key."""
    if not keys:
        return torch.zeros_like(query)
    powers = [math.exp(float(query @ key) / math.sqrt(len(query))) for key in keys]
    return sum(power / sum(powers) * value for power, value in zip(powers, values, strict=True))


@torch.no_grad()
def feed_forward_slowly(layer: ConditionalFeedForward, x: Tensor, k: int | None = None) -> Tensor:
    rows = []
    for sequence in x:
        weights = route_slowly(layer.router, sequence, k)
        rows.append(
            torch.stack(
                [
                    layer.light(token) + (weight * layer.heavy(token) if weight else 0)
                    for token, weight in zip(sequence, weights, strict=True)
                ]
            )
        )
    return torch.stack(rows)


@torch.no_grad()
def attention_slowly(
    layer: ConditionalAttention, x: Tensor, queries: int | None = None, keys: int | None = None
) -> Tensor:
    size = layer.head_dim
    light_heads = layer.light_output.in_features // size
    heavy_heads = layer.heavy_output.in_features // size
    out = torch.zeros_like(x)
    for b, sequence in enumerate(x):
        asking = route_slowly(layer.query_router, sequence, queries)
        asked = route_slowly(layer.key_router, sequence, keys)
        light = layer.light_query_key_value(sequence)
        query = layer.heavy_query(sequence)
        told = layer.heavy_key_value(torch.tensor(asked, dtype=torch.float64)[:, None] * sequence)
        for i in range(len(sequence)):
            near = [j for j in range(len(sequence)) if abs(i - j) <= layer.window]
            inner = light_heads * size
            heads = []
            for head in range(light_heads):
                part = slice(head * size, (head + 1) * size)
                q, k, v = light[:, :inner], light[:, inner : 2 * inner], light[:, 2 * inner :]
                heads.append(attend_slowly(q[i, part], [k[j, part] for j in near], [v[j, part] for j in near]))
            out[b, i] = layer.light_output(torch.cat(heads))
            if asking[i] == 0:
                continue
            inner = heavy_heads * size
            far = [j for j in range(len(sequence)) if asked[j] > 0]
            heads = []
            for head in range(heavy_heads):
                part = slice(head * size, (head + 1) * size)
                k, v = told[:, :inner], told[:, inner:]
                heads.append(attend_slowly(query[i, part], [k[j, part] for j in far], [v[j, part] for j in far]))
            out[b, i] += asking[i] * layer.heavy_output(torch.cat(heads))
    return out


# Whom a router chooses


@few
@given(st.integers(1, 3), st.integers(1, 30), st.floats(0.02, 1), st.floats(0.05, 5), st.sampled_from([1, 9 / 8, 2]))
def test_a_router_keeps_its_share_with_the_weights_of_the_slow_way(batch, tokens, capacity, epsilon, reach) -> None:
    router = shaken(Router(DIM, capacity, epsilon=epsilon, reach=reach))
    x = make_tokens(batch, tokens)
    routed = router(x)
    k = math.ceil(capacity * tokens - 1e-9)
    assert routed.mask.sum(1).tolist() == [k] * batch
    assert (routed.weight[~routed.mask] == 0).all()
    expected = torch.tensor([route_slowly(router, sequence) for sequence in x], dtype=torch.float64)
    torch.testing.assert_close(routed.weight, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(routed.scores, x @ router.score.weight[0], **EXACT)
    assert ((routed.weight >= 0) & (routed.weight <= 1)).all()
    assert (routed.weight.sum(1) <= k + 1e-9).all()


def test_before_the_cut_the_weights_sum_to_k_or_to_what_reach_makes_of_it() -> None:
    scores = make_tokens(4, 40) @ torch.ones(DIM, dtype=torch.float64)
    for reach, total in ((1, 8), (9 / 8, 9)):
        router = Router(DIM, 0.2, reach=reach)
        smooth = router._smooth(scores, [40] * 4, [8] * 4)
        torch.testing.assert_close(smooth.sum(1), torch.full((4,), float(total), dtype=torch.float64), **EXACT)


def test_a_larger_reach_brings_the_best_closer_to_one_and_chooses_the_same() -> None:
    x, plain = make_tokens(4, 64), shaken(Router(DIM, 1 / 8))
    further = copy.deepcopy(plain)
    further.reach = 9 / 8
    before, after = plain(x), further(x)
    assert torch.equal(before.mask, after.mask)
    assert (after.weight[after.mask] >= before.weight[after.mask]).all()
    assert (after.weight.sum(1) > before.weight.sum(1)).all()


def test_towards_no_smoothing_the_weights_are_the_hard_top_k() -> None:
    routed = shaken(Router(DIM, 0.25, epsilon=1e-5, reach=1))(make_tokens())
    torch.testing.assert_close(routed.weight, routed.mask.double(), rtol=0, atol=1e-6)
    assert routed.mask.sum(1).tolist() == [5, 5, 5]


def test_equal_tokens_are_routed_k_at_a_time_the_earlier_first() -> None:
    x = make_tokens(2, 1).expand(-1, 10, -1)
    routed = shaken(Router(DIM, 0.3))(x)
    assert routed.mask.tolist() == [[True] * 3 + [False] * 7] * 2
    torch.testing.assert_close(routed.weight[routed.mask], torch.full((6,), 0.3, dtype=torch.float64), **EXACT)


@every_routing
@few
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_padding_is_never_routed_and_each_sequence_keeps_its_own_share(routing, lengths, seed) -> None:
    x, mask = make_tokens(len(lengths), 12, seed=seed), lengths_to_mask(lengths, 12)
    order = torch.randperm(12, generator=seeded(seed))  # padding may stand anywhere
    x, mask = x[:, order], mask[:, order]
    router = shaken(Router(DIM, 0.3, routing=routing))
    routed = router(x, key_mask=mask)
    assert not (routed.mask & ~mask).any()
    assert routed.mask.sum(1).tolist() == [math.ceil(0.3 * length - 1e-9) for length in lengths]
    for row, length in enumerate(lengths):
        if length:
            alone = router(x[row : row + 1, mask[row]])
            assert torch.equal(alone.mask[0], routed.mask[row, mask[row]])
            torch.testing.assert_close(alone.weight[0], routed.weight[row, mask[row]], **EXACT)


@pytest.mark.parametrize(("tokens", "k"), [(16, 4), (16, 5), (7, 3), (9, 1), (5, 5), (128, 8), (3, 0)])
def test_even_routing_is_evenly_spaced_with_weight_one(tokens: int, k: int) -> None:
    routed = Router(DIM, 0.5, routing="even")(make_tokens(2, tokens), k=k)
    places = routed.mask[0].nonzero()[:, 0]
    assert len(places) == k
    assert torch.equal(routed.mask[0], routed.mask[1])
    assert torch.equal(routed.weight, routed.mask.double())
    assert routed.scores is None
    gaps = places.diff()
    if len(gaps):
        assert gaps.max() - gaps.min() <= 1
    if k:
        assert abs(int(places[0]) - (tokens - 1 - int(places[-1]))) <= tokens // k


@pytest.mark.parametrize(("tokens", "k"), [(16, 4), (16, 5), (7, 3), (9, 1), (5, 5), (64, 8), (3, 0)])
def test_anchored_routing_is_evenly_spaced_from_the_first_token_on(tokens: int, k: int) -> None:
    routed = Router(DIM, 0.5, routing="anchored")(make_tokens(2, tokens), k=k)
    expected = [place * tokens // k for place in range(k)]
    assert [row.nonzero()[:, 0].tolist() for row in routed.mask] == [expected, expected]
    assert torch.equal(routed.weight, routed.mask.double())
    assert routed.scores is None


@pytest.mark.parametrize(
    ("capacity", "tokens", "k"), [(1 / 16, 256, 16), (1 / 16, 257, 17), (0.1, 30, 3), (1, 7, 7), (0.01, 3, 1)]
)
def test_the_share_is_rounded_up(capacity: float, tokens: int, k: int) -> None:
    router = Router(DIM, capacity).double()
    assert router.kept(tokens) == k
    assert int(router(make_tokens(1, tokens)).mask.sum()) == k


def test_the_gradient_reaches_the_router_only_through_the_routed_tokens() -> None:
    layer, x = make_feed_forward(), make_tokens()
    u, parts = layer.router.score.weight, torch.randn(3, 20, DIM, dtype=torch.float64, generator=seeded(5))
    (got,) = torch.autograd.grad((layer(x) * parts).sum(), u)
    mask = layer.router(x).mask
    # the same by hand: Σ over the routed alone of ∂s̃ᵢ / ∂u times what Heavy(xᵢ) does to the loss
    smooth = soft_topk(x @ u[0], 5, 1.0)
    gain = (layer.heavy(x).detach() * parts).sum(-1)
    (expected,) = torch.autograd.grad((smooth * gain)[mask].sum(), u)
    torch.testing.assert_close(got, expected, **EXACT)
    assert got.abs().max() > 1e-3
    # and what an unrouted token's heavy part would do matters to nobody
    (again,) = torch.autograd.grad((layer(x) * torch.where(mask[..., None], parts, 7 * parts)).sum(), u)
    torch.testing.assert_close(again, expected, **EXACT)


# The two layers against the slow way


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("k", [None, 0, 1, 9])
def test_the_feed_forward_part_is_what_a_loop_over_tokens_says(execution: str, k: int | None) -> None:
    layer, x = make_feed_forward(execution=execution), make_tokens(2, 9)
    torch.testing.assert_close(layer(x, k=k), feed_forward_slowly(layer, x, k), **EXACT)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize(
    ("queries", "keys"), [(None, None), (0, 3), (3, 0), (0, 0), (1, 1), (11, 11), (2, 11), (11, 1)]
)
def test_attention_is_what_a_loop_over_tokens_says(execution: str, queries: int | None, keys: int | None) -> None:
    layer, x = make_attention(execution=execution), make_tokens(2, 11)
    expected = attention_slowly(layer, x, queries, keys)
    torch.testing.assert_close(layer(x, queries=queries, keys=keys), expected, **EXACT)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_a_block_is_norm_attention_norm_feed_forward(execution: str) -> None:
    block, x = make_block(execution=execution), make_tokens(2, 13)
    middle = x + attention_slowly(block.attention, block.norm1(x))
    expected = middle + feed_forward_slowly(block.feed_forward, block.norm2(middle))
    torch.testing.assert_close(block(x), expected, **EXACT)
    torch.testing.assert_close(block.update(x), expected - x, **EXACT)


# Masked and gathered


@every_routing
@pytest.mark.parametrize("rotary", [False, True])
@few
@given(data=st.data())
def test_gathered_and_masked_attention_agree_with_their_gradients(routing, rotary, data) -> None:
    tokens = data.draw(st.integers(1, 14))
    lengths = data.draw(st.none() | st.lists(st.integers(0, tokens), min_size=2, max_size=3))
    most = tokens if lengths is None else min(lengths)
    queries, keys = (data.draw(st.none() | st.integers(0, most)) for _ in range(2))
    layer = make_attention(
        routing=routing, rotary=rotary, window=data.draw(st.integers(1, 15)), seed=data.draw(st.integers(0, 99))
    )
    x = make_tokens(3 if lengths is None else len(lengths), tokens).requires_grad_()
    mask = None if lengths is None else lengths_to_mask(lengths, tokens)
    got, gradients = {}, {}
    for execution in ("gathered", "masked"):
        layer.execution = execution
        got[execution] = layer(x, key_mask=mask, queries=queries, keys=keys)
        inputs = [x, *layer.parameters()]
        gradients[execution] = torch.autograd.grad(
            got[execution].pow(2).sum(), inputs, allow_unused=True, materialize_grads=True
        )
    torch.testing.assert_close(got["gathered"], got["masked"], **EXACT)
    for ours, theirs in zip(gradients["gathered"], gradients["masked"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-8)
        assert ours.isfinite().all()


@every_routing
@few
@given(data=st.data())
def test_gathered_and_masked_feed_forward_agree_with_their_gradients(routing, data) -> None:
    tokens = data.draw(st.integers(1, 14))
    lengths = data.draw(st.none() | st.lists(st.integers(0, tokens), min_size=1, max_size=3))
    k = data.draw(st.none() | st.integers(0, tokens if lengths is None else min(lengths)))
    layer = make_feed_forward(routing=routing, seed=data.draw(st.integers(0, 99)))
    x = make_tokens(2 if lengths is None else len(lengths), tokens).requires_grad_()
    mask = None if lengths is None else lengths_to_mask(lengths, tokens)
    got, gradients = {}, {}
    for execution in ("gathered", "masked"):
        layer.execution = execution
        got[execution] = layer(x, key_mask=mask, k=k)
        gradients[execution] = torch.autograd.grad(
            got[execution].pow(2).sum(), [x, *layer.parameters()], allow_unused=True, materialize_grads=True
        )
    torch.testing.assert_close(got["gathered"], got["masked"], **EXACT)
    for ours, theirs in zip(gradients["gathered"], gradients["masked"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-8)


@every_routing
@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_a_padded_batch_gives_each_sequence_what_it_gets_alone(routing: str, execution: str) -> None:
    lengths = [17, 5, 30, 1]
    block = make_block(routing=routing, execution=execution, rotary=False)
    x, mask = make_tokens(4, 30), lengths_to_mask(lengths, 30)
    x = torch.where(mask[..., None], x, 50.0)
    together = block(x, key_mask=mask)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(together[row, :length], block(x[row : row + 1, :length])[0], **EXACT)


def test_rotary_sees_distances_alone_so_that_padding_in_front_changes_nothing() -> None:
    layer, x = make_attention(rotary=True), make_tokens(2, 20)
    padded, mask = F.pad(x, (0, 0, 7, 0)), F.pad(torch.ones(2, 20, dtype=torch.bool), (7, 0))
    torch.testing.assert_close(layer(padded, key_mask=mask)[:, 7:], layer(x), **EXACT)
    # and it does see them: the same tokens in another order
    order = torch.arange(19, -1, -1)
    everyone = {"queries": 20, "keys": 20}
    still = make_attention(window=19)
    torch.testing.assert_close(still(x[:, order], **everyone), still(x, **everyone)[:, order], **EXACT)
    moved = make_attention(window=19, rotary=True)
    assert (moved(x[:, order], **everyone) - moved(x, **everyone)[:, order]).abs().max() > 1e-2


@pytest.mark.parametrize("make", [make_feed_forward, make_attention, make_block])
def test_unrouted_tokens_of_a_sequence_get_the_light_branch_alone(make) -> None:
    layer, x = make(), make_tokens()
    with record(layer, Router) as routed:
        before = layer(x)
    last = [name for name in routed if "key" not in name][-1]
    for name, parameter in layer.named_parameters():
        if "heavy_output" in name or "heavy.contract" in name:
            parameter.data += 1
    after = layer(x)
    chosen = torch.stack([found.mask for name, (found,) in routed.items() if "key" not in name]).any(0)
    assert 0 < int(chosen.sum()) < chosen.numel()
    # in a block attention moves tokens of others only through what the heavy part did there
    changed = (after != before).any(-1)
    assert torch.equal(changed, chosen) or make is make_block
    assert changed[routed[last][0].mask].all()


# Local attention


def band_slowly(q: Tensor, k: Tensor, v: Tensor, window: int, mask: Tensor | None) -> Tensor:
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for i in range(q.shape[2]):
            near = [j for j in range(q.shape[2]) if abs(i - j) <= window and (mask is None or bool(mask[b, j]))]
            for h in range(q.shape[1]):
                out[b, h, i] = attend_slowly(q[b, h, i], [k[b, h, j] for j in near], [v[b, h, j] for j in near])
    return out


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 17), st.integers(1, 20), st.booleans(), st.integers(0, 99))
def test_local_attention_is_dense_attention_with_a_band(batch, heads, tokens, window, padded, seed) -> None:
    q, k, v = torch.randn(3, batch, heads, tokens, 3, dtype=torch.float64, generator=seeded(seed))
    mask = torch.rand(batch, tokens, generator=seeded(seed)) < 0.5 if padded else None
    got = local_attention(q, k, v, window, key_mask=mask)
    torch.testing.assert_close(got, band_slowly(q, k, v, window, mask), **EXACT)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("tokens", "window"), [(100, 1), (100, 7), (97, 16), (64, 16), (48, 16), (49, 16), (50, 49)])
def test_local_attention_has_the_gradients_of_the_band(tokens: int, window: int, padded: bool) -> None:
    parts = torch.randn(3, 2, 2, tokens, 4, dtype=torch.float64, generator=seeded(1)).unbind(0)
    ours, theirs = ([part.clone().requires_grad_() for part in parts] for _ in range(2))
    mask = torch.rand(2, tokens, generator=seeded(2)) < 0.3 if padded else None
    place = torch.arange(tokens)
    allowed = ((place[:, None] - place).abs() <= window).expand(2, 1, tokens, tokens)
    if mask is not None:
        allowed = allowed & mask[:, None, None]
    # where nobody may be attended to the result is zero: left out of the softmax by hand
    scores = (theirs[0] @ theirs[1].transpose(-1, -2) / 2).masked_fill(~allowed, -1e30)
    expected = (scores.softmax(-1) * allowed) @ theirs[2]
    got = local_attention(*ours, window, key_mask=mask)
    torch.testing.assert_close(got, expected, **EXACT)
    weights = torch.randn(got.shape, dtype=torch.float64, generator=seeded(3))
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, **EXACT)


def test_local_attention_costs_three_windows_per_token_and_not_the_square() -> None:
    heads, size, window = 2, 8, 16

    def flops(tokens: int) -> int:
        q, k, v = torch.randn(3, 1, heads, tokens, size)
        return count(local_attention, q, k, v, window).flops

    for blocks in (4, 8, 64):
        tokens = blocks * window
        assert flops(tokens) == 2 * 2 * heads * size * tokens * 3 * window
    assert flops(100) == flops(112)  # whole blocks
    assert flops(40) == 2 * 2 * heads * size * 40 * 40  # all at once, where that is less


def test_a_window_over_the_whole_sequence_is_full_attention() -> None:
    layer, x = make_attention(window=10, light_heads=3), make_tokens(2, 11)
    dense = shaken(Attention(DIM, 4))
    packed = layer.light_query_key_value
    # the light branch's three heads are three of the dense layer's four; the fourth says nothing
    with torch.no_grad():
        dense.query_key_value.weight.zero_()
        dense.query_key_value.bias.zero_()
        for part in range(3):
            dense.query_key_value.weight[part * 16 : part * 16 + 12] = packed.weight[part * 12 : part * 12 + 12]
            dense.query_key_value.bias[part * 16 : part * 16 + 12] = packed.bias[part * 12 : part * 12 + 12]
        dense.output.weight[:, :12], dense.output.weight[:, 12:] = layer.light_output.weight, 0
        dense.output.bias.copy_(layer.light_output.bias)
    torch.testing.assert_close(layer(x, queries=0, keys=0), dense(x), **EXACT)


# What it costs


def colt5_flops(
    n: int, dim: int, m: int, q: int, v: int, light_share: float, hidden: tuple[int, int], keys: int
) -> int:
    """By the paper's formulas, a multiply-add as two; ``keys`` are those that a token of the light branch meets."""
    light, heavy = hidden
    feed_forward = 2 * n * dim * light + 2 * m * dim * heavy
    inner = round(light_share * dim)
    local = 4 * n * dim * inner + 2 * n * keys * inner
    routed = 2 * (q + v) * dim * (dim - inner) + 2 * q * v * (dim - inner)
    routers = 3 * n * dim
    return 2 * (feed_forward + local + routed + routers)


@pytest.mark.parametrize(("n", "window"), [(128, 8), (256, 32), (640, 8)])
def test_the_papers_formula_is_what_is_counted(n: int, window: int) -> None:
    dim = 64
    block = ConditionalBlock(dim, 8, window=window).eval()
    assert block.feed_forward.light.expand.out_features == dim * 2
    assert block.feed_forward.heavy.expand.out_features == dim * 16
    x = torch.randn(2, n, dim)
    got = count(block, x).flops
    expected = 2 * colt5_flops(n, dim, n // 16, n // 16, n // 8, 1 / 4, (2 * dim, 16 * dim), 3 * window)
    assert got == expected


def test_a_sixteenth_routed_is_three_quarters_of_a_feed_forward_part_and_seven_and_a_quarter_of_a_layer() -> None:
    n, dim = 1024, 64
    feed_forward = ConditionalFeedForward(dim).eval()
    x = torch.randn(1, n, dim)
    routers = 2 * n * dim
    assert (count(feed_forward, x).flops - routers) == 0.75 * count(Block(dim, 4).feed_forward, x).flops
    # without the window's own part: 7¼ n d² + n² d / 84 multiply-adds
    block = ConditionalBlock(dim, 8, window=8).eval()
    rest = count(block, x).flops / 2 - 3 * n * dim - 2 * n * 3 * 8 * dim / 4
    assert rest == pytest.approx(7.25 * n * dim**2 + n**2 * dim / 84, rel=0.005)


def test_masking_saves_nothing_and_gathering_does() -> None:
    x = torch.randn(1, 256, 64)
    costs = {}
    for execution in ("gathered", "masked"):
        costs[execution] = count(ConditionalBlock(64, 8, window=8, execution=execution).eval(), x).flops
    assert costs["masked"] > 3 * costs["gathered"]


def test_routing_nobody_costs_the_light_branch_and_the_router_alone() -> None:
    layer, x = make_feed_forward(), make_tokens(2, 9)
    assert count(layer, x, k=0).flops == count(layer.light, x).flops + 2 * 2 * 9 * DIM
    assert count(layer, x, k=2).flops - count(layer, x, k=0).flops == 2 * 2 * (2 * 2 * DIM * 9)


# How the routers learn


def test_all_three_routers_learn_and_they_are_three() -> None:
    block, x = make_block(), make_tokens()
    block(x).pow(2).sum().backward()
    routers = [module for module in block.modules() if isinstance(module, Router)]
    assert len(routers) == 3
    assert len({router.score.weight.data_ptr() for router in routers}) == 3
    for router in routers:
        assert router.score.weight.grad.abs().max() > 1e-3
    with record(block, Router) as before:
        block(x)
    block.attention.query_router.score.weight.data.neg_()
    with record(block, Router) as after:
        block(x)
    assert not torch.equal(before["attention.query_router"][0].mask, after["attention.query_router"][0].mask)
    assert torch.equal(before["attention.key_router"][0].mask, after["attention.key_router"][0].mask)


class NormedInside(nn.Module):
    """A heavy part with a norm of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.layer_norm(x, x.shape[-1:], eps=0.0))


def test_scaling_before_a_norm_would_take_the_gradient_from_the_router() -> None:
    layer, x = make_attention(), make_tokens()
    layer.query_router.routing = "even"  # the keys' weights alone
    layer(x).pow(2).sum().backward()
    assert layer.key_router.score.weight.grad.abs().max() > 1e-3
    broken = make_attention()
    broken.query_router.routing = "even"
    broken.heavy_key_value = NormedInside(broken.heavy_key_value)
    broken(x).pow(2).sum().backward()
    assert broken.key_router.score.weight.grad.abs().max() < 1e-9


def test_the_keys_weight_fades_key_and_value() -> None:
    layer, x = make_attention(epsilon=3.0), make_tokens(1, 12)
    mask, weight, *_ = layer.key_router(x)
    place = int(weight[0].where(mask[0], torch.inf).argmin())  # the least of the routed
    assert 0.01 < weight[0, place] < 0.5
    seen = []
    layer.heavy_key_value.register_forward_hook(lambda _module, inputs, output: seen.append(output))
    layer(x)
    layer.execution = "masked"
    layer(x)
    told = weight[0, place] * x[0, place] @ layer.heavy_key_value.weight.T + layer.heavy_key_value.bias
    torch.testing.assert_close(seen[1][0, place], told, **EXACT)
    row = mask[0].nonzero()[:, 0].tolist().index(place)
    torch.testing.assert_close(seen[0][0, row], told, **EXACT)


def test_the_weight_is_on_the_path_and_not_only_in_the_gradient() -> None:
    layer, x = make_feed_forward(), make_tokens()
    with record(layer, Router) as routed:
        out = layer(x)
    mask, weight, *_ = routed["router"][0]
    assert (weight[mask] < 0.99).any()
    torch.testing.assert_close((out - layer.light(x))[mask], weight[mask][:, None] * layer.heavy(x)[mask], **EXACT)


def test_a_router_finds_the_tokens_that_need_the_heavy_part() -> None:
    torch.manual_seed(0)
    layer = ConditionalFeedForward(8, light=1, heavy=32, capacity=0.125)
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    source = seeded(3)

    def batch() -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(32, 32, 8, generator=source)
        marked = torch.rand(32, 32, generator=source).argsort(1) < 4
        x[..., 0] = torch.where(marked, 1.5, -0.2)
        return x, marked, marked[..., None] * x.roll(1, -1).abs()

    found = []
    for step in range(400):
        x, marked, target = batch()
        if step in (0, 399):
            found.append((layer.router(x).mask & marked).sum().item() / marked.sum().item())
        optimiser.zero_grad()
        F.mse_loss(layer(x), target).backward()
        optimiser.step()
    assert found[0] < 0.5
    assert found[1] > 0.95


# Around it


@pytest.mark.usefixtures("as_users_run_it")
def test_a_setting_changes_every_router_or_none() -> None:
    model = nn.Sequential(make_block(), make_block())
    routers = [module for module in model.modules() if isinstance(module, Router)]
    with setting(model, Router, routing="even"):
        assert [router.routing for router in routers] == ["even"] * 6
        with (
            pytest.raises(ValueError, match="'learned', 'even', 'anchored'"),
            setting(model, Router, routing="sometimes"),
        ):
            pass
        assert [router.routing for router in routers] == ["even"] * 6
    assert [router.routing for router in routers] == ["learned"] * 6


def test_capacities_are_set_by_the_layer_that_they_belong_to() -> None:
    block, x = make_block(), make_tokens()
    own = block.capacity, block.query_capacity, block.key_capacity
    with (
        setting(block, ConditionalBlock, capacity=0.5, query_capacity=0.25, key_capacity=1),
        record(block, Router) as routed,
    ):
        block(x)
    counts = {name: int(found.mask[0].sum()) for name, (found,) in routed.items()}
    assert counts == {"attention.query_router": 5, "attention.key_router": 20, "feed_forward.router": 10}
    assert (block.capacity, block.query_capacity, block.key_capacity) == own
    with setting(block, ConditionalFeedForward, capacity=0.05), setting(block, ConditionalAttention, key_capacity=0.1):
        assert (block.feed_forward.router.capacity, block.attention.key_router.capacity) == (0.05, 0.1)


def test_the_execution_is_set_on_both_parts_of_a_block_and_each_gets_its_own_back() -> None:
    block = make_block()
    block.attention.execution = "masked"
    with setting(block, (ConditionalAttention, ConditionalFeedForward), execution="gathered"):
        assert (block.attention.execution, block.feed_forward.execution) == ("gathered", "gathered")
    assert (block.attention.execution, block.feed_forward.execution) == ("masked", "gathered")


@pytest.mark.parametrize(
    ("kind", "knob", "value", "error", "message"),
    [
        (Router, "epsilon", 0, ValueError, "epsilon must be positive"),
        (Router, "reach", 0.5, ValueError, "reach must be at least 1"),
        (Router, "capacity", 7, ValueError, "capacity is the share"),
        (Router, "routing", "odd", ValueError, "'learned', 'even', 'anchored'"),
        (ConditionalFeedForward, "execution", "fused", ValueError, "'gathered' or 'masked'; got 'fused'"),
        (ConditionalFeedForward, "capacity", 0, ValueError, "capacity is the share"),
        (ConditionalAttention, "window", 0, ValueError, "window must be at least 1"),
        (ConditionalAttention, "window", 2.0, TypeError, "window must be an int"),
        (ConditionalBlock, "query_capacity", 2, ValueError, "capacity is the share"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_a_knob_is_checked_whenever_it_is_used(kind, knob: str, value: object, error, message: str) -> None:
    block = make_block()
    with pytest.raises(error, match=message), setting(block, kind, **{knob: value}):
        pytest.fail("the setting was taken")
    setattr(next(module for module in block.modules() if isinstance(module, kind)), knob, value)
    with pytest.raises(error, match=message):
        block(make_tokens())


def test_record_names_every_router_and_stops_when_it_is_left() -> None:
    model, x = nn.Sequential(make_block(), make_block()), make_tokens()
    with record(model, Router) as routed, torch.no_grad():
        model(x)
        assert len(routed) == 6
        (held,) = routed["1.feed_forward.router"]
    model(make_tokens(seed=8))
    assert routed["1.feed_forward.router"] == [held]
    assert held.mask.shape == (3, 20)
    assert held.routing == "learned"
    assert held.present.all()


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    "use", [lambda model: record(model, Router), lambda model: setting(model, Router, routing="even")]
)
def test_what_has_no_router_is_an_error(use) -> None:
    with pytest.raises(ValueError, match="has no Router"), use(Block(16, 2)):
        pass


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_every_part_may_be_hooked_for_its_gradient(execution: str) -> None:
    block, x = make_block(), make_tokens().requires_grad_()
    for layer in (block.attention, block.feed_forward):
        layer.execution = execution
    (right,) = torch.autograd.grad(block(x).square().sum(), x)
    hooked = [
        module
        for module in block.modules()
        if module is not block and not isinstance(module, Router) and any(True for _ in module.parameters())
    ]
    called: list[nn.Module] = []
    handles = [module.register_full_backward_hook(lambda module, *_: called.append(module)) for module in hooked]
    (hooked_gradient,) = torch.autograd.grad(block(x).square().sum(), x)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(hooked_gradient, right, **EXACT)
    assert {id(module) for module in called} == {id(module) for module in hooked}


@pytest.mark.parametrize("inference", [False, True])
def test_what_the_light_branch_gave_is_not_written_over(inference: bool) -> None:
    layer, x, kept = make_feed_forward(), make_tokens(), []
    right = layer.light(x)
    layer.light.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with torch.inference_mode(inference):
        out = layer(x)
    assert torch.equal(kept[0], right)
    assert not torch.equal(out, right)
    layer.light = nn.Identity()
    before = x.clone()
    with torch.inference_mode(inference):
        layer(x)
    assert torch.equal(x, before)


def test_a_score_that_was_wrapped_is_called_and_not_read() -> None:
    router, x = Router(DIM, 0.25).double(), make_tokens()
    plain = router(x)
    inner = router.score
    router.score = nn.Sequential(inner)
    assert torch.equal(router(x).mask, plain.mask)
    assert torch.equal(router(x).weight, plain.weight)


def test_a_vision_transformer_takes_conditional_blocks() -> None:
    torch.manual_seed(0)
    model = ViT(image_size=8, patch_size=2, classes=3, dim=16, depth=2, heads=4).double()
    model.blocks[1] = make_block()
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    mask = torch.ones(2, 17, dtype=torch.bool)
    torch.testing.assert_close(model(images, key_mask=mask), model(images), **EXACT)
    mask[:, 9:] = False
    changed = images.clone()
    changed[:, :, 4:] = 0  # the patches that are masked
    torch.testing.assert_close(model(changed, key_mask=mask), model(images, key_mask=mask), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_number_types_come_out_as_they_went_in(dtype: torch.dtype) -> None:
    block = make_block()
    wide, x = block(make_tokens()), make_tokens().to(dtype)
    narrow = copy.deepcopy(block).to(dtype)(x)
    assert narrow.dtype == dtype
    # rounding may route another token, so that most of it is asked for alone
    near = (narrow.double() - wide).abs() < 0.02 * wide.abs().max()
    assert near.double().mean() > 0.9


def test_a_sequence_of_one_token_and_a_batch_of_one_are_no_exception() -> None:
    block = make_block()
    assert block(make_tokens(1, 1)).shape == (1, 1, DIM)
    assert block(make_tokens(1, 1), key_mask=torch.zeros(1, 1, dtype=torch.bool)).isfinite().all()


def test_masked_and_gathered_survive_a_sequence_that_is_nothing_but_padding() -> None:
    x, mask = make_tokens(2, 9), lengths_to_mask([9, 0], 9)
    for execution in ("gathered", "masked"):
        block = make_block(execution=execution)
        out = block(x, key_mask=mask)
        assert out.isfinite().all()
        torch.testing.assert_close(out[:1], block(x[:1]), **EXACT)


# Bad input


@pytest.mark.parametrize("make", [ConditionalFeedForward, Router])
@pytest.mark.parametrize("capacity", [0, -0.5, 1.01, math.nan, True, "half", 7])
@pytest.mark.usefixtures("as_users_run_it")
def test_a_capacity_outside_zero_to_one_is_an_error(make, capacity) -> None:
    with pytest.raises(ValueError, match="capacity is the share"):
        make(DIM, capacity=capacity)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"epsilon": 0}, ValueError, "epsilon must be positive"),
        ({"epsilon": math.nan}, ValueError, "epsilon must be positive"),
        ({"epsilon": math.inf}, ValueError, "epsilon must be positive"),
        ({"reach": 0.9}, ValueError, "reach must be at least 1"),
        ({"reach": math.nan}, ValueError, "reach must be at least 1"),
        ({"routing": "static"}, ValueError, "routing must be"),
        ({"execution": "dense"}, ValueError, "execution must be"),
        ({"window": 0}, ValueError, "window must be at least 1"),
        ({"window": -3}, ValueError, "window must be at least 1"),
        ({"window": 2.5}, TypeError, "window must be an int"),
        ({"query_capacity": 0}, ValueError, "capacity is the share"),
        ({"key_capacity": 2}, ValueError, "capacity is the share"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_a_bad_option_is_named(options, error, words) -> None:
    with pytest.raises(error, match=words):
        ConditionalBlock(DIM, 4, **{"window": 4} | options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "multiple of heads"),
        ({"heads": 1}, "heads at least 2"),
        ({"heads": 4, "light_heads": 4}, "leave each branch a head"),
        ({"heads": 4, "light_heads": 0}, "leave each branch a head"),
        ({"heads": 16, "rotary": True}, "rotary positions turn pairs"),
    ],
)
def test_heads_that_do_not_fit_are_an_error(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        ConditionalAttention(DIM, **{"window": 2} | options)


@pytest.mark.parametrize("k", [-1, 21, 300])
def test_more_tokens_than_there_are_cannot_be_routed(k: int) -> None:
    x = make_tokens()
    for run in (
        lambda: make_feed_forward()(x, k=k),
        lambda: make_attention()(x, queries=k),
        lambda: make_attention()(x, keys=k),
    ):
        with pytest.raises(ValueError, match=f"cannot route {k} tokens: the shortest sequence has 20"):
            run()


def test_padding_does_not_count_when_k_is_asked_for() -> None:
    x, mask = make_tokens(), lengths_to_mask([20, 4, 9], 20)
    assert make_feed_forward()(x, key_mask=mask, k=4).isfinite().all()
    with pytest.raises(ValueError, match="cannot route 5 tokens: the shortest sequence has 4"):
        make_feed_forward()(x, key_mask=mask, k=5)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("layer", [make_feed_forward(), make_attention(), make_block()])
@pytest.mark.parametrize(
    ("x", "mask", "error", "words"),
    [
        (torch.zeros(2, 5, DIM, dtype=torch.long), None, TypeError, "embed them first"),
        (torch.zeros(2, 5, DIM + 1).double(), None, ValueError, "tokens must be"),
        (torch.zeros(5, DIM).double(), None, ValueError, "tokens must be"),
        (torch.zeros(2, 0, DIM).double(), None, ValueError, "none of them 0"),
        (torch.zeros(0, 5, DIM).double(), None, ValueError, "none of them 0"),
        (torch.full((2, 5, DIM), math.nan).double(), None, ValueError, "score is not finite"),
        (torch.full((2, 5, DIM), math.inf).double(), None, ValueError, "score is not finite"),
        (torch.zeros(2, 5, DIM).double(), torch.ones(2, 5), TypeError, "key_mask must be bool"),
        (torch.zeros(2, 5, DIM).double(), torch.ones(2, 4).bool(), ValueError, "one entry per key"),
    ],
)
def test_tokens_that_do_not_fit_are_an_error(layer, x, mask, error, words) -> None:
    with pytest.raises(error, match=words):
        layer(x, key_mask=mask)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("k", [2.0, True, "3"])
def test_a_number_of_tokens_is_an_int(k) -> None:
    with pytest.raises(TypeError, match="must be an int"):
        make_feed_forward()(make_tokens(), k=k)


def test_an_attribute_that_was_set_badly_is_found_when_it_runs() -> None:
    layer = make_feed_forward()
    layer.router.capacity = 2
    with pytest.raises(ValueError, match="capacity is the share"):
        layer(make_tokens())
    layer = make_feed_forward()
    layer.execution = "dense"
    with pytest.raises(ValueError, match="execution must be"):
        layer(make_tokens())


@pytest.mark.parametrize("keywords", [{}, {"k": 3}])
def test_routing_goes_under_vmap_and_can_be_exported(keywords: dict[str, int]) -> None:
    router, x = Router(DIM, 0.25).double(), make_tokens()
    expected = router(x, **keywords)
    mask, weight = torch.func.vmap(lambda one: router(one[None], **keywords)[:2], out_dims=1)(x)
    assert torch.equal(mask[0], expected.mask)
    torch.testing.assert_close(weight[0], expected.weight, **EXACT)
    exported = torch.export.export(router, (x,), keywords).module()
    assert torch.equal(exported(x, **keywords).mask, expected.mask)


@pytest.mark.usefixtures("as_users_run_it")
def test_the_masked_execution_can_be_exported_and_the_gathered_says_that_it_cannot() -> None:
    block, x = make_block(), make_tokens()
    with pytest.raises(RuntimeError, match="use execution='masked'"):
        torch.export.export(block, (x,))
    with pytest.raises(RuntimeError, match="use execution='masked'"):
        torch.func.vmap(lambda one: block(one[None])[0])(x)
    expected = block(x)
    with setting(block, (ConditionalAttention, ConditionalFeedForward), execution="masked"):
        torch.testing.assert_close(torch.export.export(block, (x,)).module()(x), expected, **EXACT)
        torch.testing.assert_close(torch.func.vmap(lambda one: block(one[None])[0])(x), expected, **EXACT)
        assert torch.equal(torch.compile(block, backend="eager")(x), block(x))
    assert torch.equal(torch.compile(block, backend="eager")(x), expected)
