"""Mixture of depths against a slow loop that routes and runs one sequence at a time."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dynlib.backbone import Block, CausalLM, LayerCache
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.tokens.colt5 import ConditionalBlock
from dynlib.tokens.mixture_of_depths import MixtureOfDepths, predictor_loss, routing_loss
from dynlib.tokens.routing import Routed
from tests.tokens.test_routing import largest

DIM, EXACT = 16, {"rtol": 0, "atol": 1e-10}  # for float64
WEIGHTS = ["linear", "sigmoid"]
CAUSAL = ["threshold", "predictor"]
few = settings(max_examples=40, deadline=None, derandomize=True)


def by_call(records: dict[str, list[Routed]]) -> list[Routed]:
    """The records of all layers, pass by pass, in each the layers in order."""
    return [one for step in zip(*records.values(), strict=True) for one in step]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_tokens(batch: int = 3, tokens: int = 10, *, seed: int = 1) -> Tensor:
    return torch.randn(batch, tokens, DIM, dtype=torch.float64, generator=seeded(seed))


def make_layer(capacity: float = 0.3, *, causal: bool = True, seed: int = 2, **options) -> MixtureOfDepths:
    torch.manual_seed(seed)
    layer = MixtureOfDepths(Block(DIM, 2, causal=causal, rotary=causal).double(), capacity, **options)
    for name, parameter in layer.named_parameters():  # also norms and biases, so that nothing is 0 or 1 by chance
        nn.init.normal_(parameter, std=0.5 if "router" not in name else 1.0)
    return layer.eval()


def make_model(capacity: float = 0.3, *, every: int = 2, seed: int = 3, **options) -> CausalLM:
    torch.manual_seed(seed)
    model = CausalLM(vocabulary=11, dim=DIM, depth=4, heads=2).double()
    for place in range(every - 1, 4, every):
        model.blocks[place] = MixtureOfDepths(model.blocks[place], capacity, **options)
    for name, parameter in model.named_parameters():
        if "router" in name or "predictor.3" in name or "embedding" in name:
            nn.init.normal_(parameter)
    return model.eval()


def by_hand(layer: MixtureOfDepths, x: Tensor, keep: Tensor) -> Tensor:
    """Eq. 1, a sequence at a time: its routed tokens alone go through the block, at the places where they stood."""
    out = x.clone()
    for b in range(len(x)):
        places = [t for t in range(x.shape[1]) if keep[b, t]]
        if not places:
            continue
        alone = torch.stack([x[b, t] for t in places])[None]
        update = layer.block(alone, positions=torch.tensor(places)) - alone
        for number, t in enumerate(places):
            r = sum(a * w for a, w in zip(x[b, t].tolist(), layer.router.weight[0].tolist(), strict=True))
            factor = r if layer.weight == "linear" else 1 / (1 + math.exp(-r))
            out[b, t] = x[b, t] + factor * update[0, number]
    return out


# Who runs


@pytest.mark.parametrize(
    ("capacity", "tokens", "k"),
    [
        (0.125, 256, 32),
        (0.125, 257, 33),
        (0.125, 1, 1),
        (0.1, 30, 3),
        (0.5, 7, 4),
        (1.0, 5, 5),
        (1e-6, 9, 1),
        (1, 3, 3),
    ],
)
def test_k_is_the_capacity_times_the_length_rounded_up(capacity: float, tokens: int, k: int) -> None:
    layer = make_layer(capacity)
    assert layer.kept(tokens) == k
    with record(layer, MixtureOfDepths) as routed:
        layer(make_tokens(2, tokens))
    assert by_call(routed)[0].mask.sum(1).tolist() == [k, k]


def test_exactly_k_run_when_all_tokens_are_alike() -> None:
    layer, x = make_layer(0.3), make_tokens(1, 1).expand(2, 10, DIM)
    changed = (layer(x) != x).any(-1)
    assert changed.tolist() == [[True] * 3 + [False] * 7] * 2


def test_random_routing_draws_k_evenly_and_by_its_generator() -> None:
    layer = make_layer(0.3, routing="random", generator=seeded(5))
    x = make_tokens(2000, 10)
    with record(layer, MixtureOfDepths) as routed, torch.no_grad():
        layer(x)
        layer(x)
        layer.generator = seeded(5)
        torch.manual_seed(99)
        state = torch.get_rng_state()
        layer(x)
        assert torch.equal(state, torch.get_rng_state())
    first, second, again = (one.mask for one in by_call(routed))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert (first.sum(1) == 3).all()
    # 2000 draws with p = 0.3; Hoeffding, 10 positions: P(any |mean − p| ≥ 0.07) ≤ 20 exp(−2 · 2000 · 0.07²) < 1e-7
    assert (first.double().mean(0) - 0.3).abs().max() < 0.07
    assert not torch.equal(first, largest(by_call(routed)[0].scores[:, :], 3))


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_gaussian_routing_runs_the_k_largest_draws_and_weighs_by_them(execution, weight) -> None:
    layer = make_layer(0.3, routing="gaussian", weight=weight, execution=execution, generator=seeded(5))
    x = make_tokens()
    with record(layer, MixtureOfDepths) as routed, torch.no_grad():
        out = layer(x)
    drawn = torch.randn(x.shape[:2], generator=seeded(5)).to(x.dtype)
    (one,) = by_call(routed)
    by = drawn.sigmoid() if weight == "sigmoid" else drawn
    assert torch.equal(one.mask, largest(drawn, layer.kept(x.shape[1])))
    assert torch.equal(one.weight, by.where(one.mask, 0.0))
    for row in range(len(x)):
        where = one.mask[row].nonzero()[:, 0]
        update = layer.block.update(x[row : row + 1, where], positions=where)[0]
        torch.testing.assert_close(out[row, where], x[row, where] + by[row, where, None] * update)


def test_under_gaussian_routing_the_router_learns_nothing() -> None:
    layer, x = make_layer(0.5, routing="gaussian"), make_tokens()
    layer(x).square().sum().backward()
    assert layer.router.weight.grad is None
    assert all(p.grad is not None for p in layer.block.parameters())


# What they get


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("capacity", [0.05, 0.3, 0.7, 1.0])
def test_it_is_its_formula(execution, weight, causal: bool, capacity: float) -> None:
    layer, x = make_layer(capacity, causal=causal, weight=weight, execution=execution), make_tokens()
    logits = x @ layer.router.weight[0]
    keep = largest(logits, layer.kept(10))
    assert capacity == 1 or not torch.equal(keep, torch.arange(10).expand(3, 10) < layer.kept(10))
    out = layer(x)
    torch.testing.assert_close(out, by_hand(layer, x, keep), **EXACT)
    assert torch.equal(out[~keep], x[~keep]), "others pass bit for bit"
    assert (out[keep] != x[keep]).any(-1).all()


@pytest.mark.parametrize("routing", CAUSAL)
@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_causal_routing_is_the_formula_with_its_own_choice(routing, execution) -> None:
    layer, x = make_layer(routing=routing, predictor=True, execution=execution), make_tokens(5, 8)
    said = x @ layer.router.weight[0] if routing == "threshold" else layer.predictor(x)[..., 0]
    keep = said > 0
    assert len(set(keep.sum(1).tolist())) > 1, "samples of different numbers"
    out = layer(x)
    torch.testing.assert_close(out, by_hand(layer, x, keep), **EXACT)
    assert torch.equal(out[~keep], x[~keep])


@few
@given(st.integers(1, 4), st.integers(1, 8), st.booleans(), st.data())
def test_gathered_is_masked_for_any_choice_with_gradients(batch: int, tokens: int, causal: bool, data) -> None:
    """The router reads one feature, which says who is wanted: any mask, none and all included."""
    wanted = data.draw(st.lists(st.booleans(), min_size=batch * tokens, max_size=batch * tokens))
    wanted = data.draw(st.sampled_from([wanted, [False] * len(wanted), [True] * len(wanted)]))
    layer = make_layer(causal=causal, routing="threshold")
    layer.router.weight.data.zero_()[0, 0] = 1
    x = make_tokens(batch, tokens)
    x[..., 0] = torch.where(torch.tensor(wanted).view(batch, tokens), 1.0, -1.0) * x[..., 0].abs().clamp(min=0.1)
    results = []
    for execution in ("gathered", "masked"):
        layer.execution = execution
        layer.zero_grad()
        given_ = x.clone().requires_grad_()
        out = layer(given_)
        out.square().sum().backward()
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in (layer.router.weight, *layer.parameters())
        ]
        results.append((out.detach(), given_.grad, *gradients))
    for gathered, masked in zip(*results, strict=True):
        assert gathered.isfinite().all()
        torch.testing.assert_close(gathered, masked, **EXACT)


def test_a_router_of_zeros_is_the_identity() -> None:
    layer, x = make_layer(), make_tokens()
    nn.init.zeros_(layer.router.weight)
    assert torch.equal(layer(x), x)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_at_capacity_one_it_is_the_dense_block_weighted(execution) -> None:
    layer, x = make_layer(1.0, execution=execution), make_tokens()
    r = x @ layer.router.weight[0]
    torch.testing.assert_close(layer(x), x + r[..., None] * layer.block.update(x), **EXACT)


def test_the_tokens_given_are_not_written_to() -> None:
    layer, x = make_layer(), make_tokens()
    before = x.clone()
    with torch.no_grad():
        layer(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("routing", ["top_k", "threshold"])
def test_in_place_gives_the_same_and_writes_where_no_gradient_needs_the_input(routing) -> None:
    layer, x = make_layer(0.3, routing=routing), make_tokens()
    expected = layer(x).detach()
    layer.in_place = True
    before = x.clone()
    with_gradient = layer(x)
    assert torch.equal(x, before), "gradients are recorded"
    assert torch.equal(with_gradient, expected)
    with torch.no_grad():
        spread = x.transpose(1, 2).contiguous().transpose(1, 2)  # the same tokens, not in one piece
        assert torch.equal(layer(spread), expected)
        assert torch.equal(spread, before)
        out = layer(x)
    assert out.data_ptr() == x.data_ptr()
    assert torch.equal(x, expected)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_router_gets_the_gradient_of_its_weight_on_the_path(weight) -> None:
    layer, x = make_layer(weight=weight), make_tokens()
    layer(x).square().sum().backward()
    gradient, step, w = layer.router.weight.grad.clone(), 1e-6, layer.router.weight.data
    for feature in (0, 7):
        ends = []
        for sign in (1, -1):
            w[0, feature] += sign * step
            ends.append(layer(x).square().sum().item())
            w[0, feature] -= sign * step
        slope = (ends[0] - ends[1]) / (2 * step)
        assert gradient[0, feature].item() == pytest.approx(slope, rel=1e-5)
        assert slope != 0


def test_positions_that_are_given_count() -> None:
    layer, x = make_layer(0.8), make_tokens(2, 6)
    places = torch.tensor([[0, 2, 3, 9, 10, 20], [5, 6, 7, 8, 30, 31]])
    out = layer(x, positions=places)
    layer.execution = "masked"
    torch.testing.assert_close(out, layer(x, positions=places), **EXACT)
    assert not torch.allclose(out, layer(x))
    torch.testing.assert_close(layer(x, positions=torch.arange(6)), layer(x), **EXACT)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("said", ["key_mask", "positions"])
def test_padding_is_not_routed_and_changes_nothing(execution, said: str) -> None:
    layer, x = make_layer(0.4, execution=execution), make_tokens(3, 10)
    lengths = torch.tensor([10, 4, 7])
    there = torch.arange(10) < lengths[:, None]
    x = torch.where(there[..., None], x, 50 * layer.router.weight[0])  # padding that the router would love
    options = {"key_mask": there} if said == "key_mask" else {"positions": torch.where(there, torch.arange(10), -1)}
    with record(layer, MixtureOfDepths) as routed:
        out = layer(x, **options)
    assert by_call(routed)[0].mask.sum(1).tolist() == [4, 2, 3]
    for b, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(out[b, :length], layer(x[b : b + 1, :length])[0], **EXACT)
    assert torch.equal(out[~there], x[~there])


# The future


def changes(model: nn.Module, tokens: Tensor, at: int) -> bool:
    """Whether some token put at ``at`` changes an output before it."""
    before = model(tokens)[:, :at]
    moved = False
    for other in range(11):
        changed = tokens.clone()
        changed[:, at] = other
        moved |= not torch.allclose(model(changed)[:, :at], before, rtol=0, atol=1e-12)
    return moved


def test_under_top_k_a_later_token_changes_an_earlier_output() -> None:
    tokens = torch.randint(11, (4, 12), generator=seeded())
    assert changes(make_model(), tokens, 11)
    dense = make_model(every=9)
    assert not changes(dense, tokens, 11), "a model without such layers must not"


@pytest.mark.parametrize("routing", CAUSAL)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_under_causal_routing_it_never_does(routing, weight) -> None:
    model = make_model(predictor=True, routing=routing, weight=weight)
    tokens = torch.randint(11, (4, 12), generator=seeded())
    with record(model, MixtureOfDepths) as routed:
        model(tokens)
    assert all(0 < layer.mask.double().mean() < 1 for layer in by_call(routed)), "somebody runs, and somebody does not"
    assert not any(changes(model, tokens, at) for at in (3, 8, 11))


def test_the_weight_of_a_token_does_not_depend_on_others() -> None:
    layer, x = make_layer(0.5), make_tokens(1, 6)
    with record(layer, MixtureOfDepths) as routed:
        layer(x)
        layer(torch.cat([x, 9 * make_tokens(1, 6, seed=8)], dim=1))
    torch.testing.assert_close(by_call(routed)[1].scores[:, :6], by_call(routed)[0].scores, **EXACT)


# Writing


@pytest.mark.parametrize("routing", CAUSAL)
@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("batch", [1, 4])
def test_step_by_step_with_a_cache_is_the_whole_sequence_without(routing, execution, every: int, batch: int) -> None:
    model = make_model(every=every, predictor=True, routing=routing, execution=execution)
    tokens = torch.randint(11, (batch, 14), generator=seeded(4))
    cache, pieces, start = model.new_cache(), [], 0
    with record(model, MixtureOfDepths) as stepwise:
        for size in (5, 1, 1, 3, 1, 1, 1, 1):
            places = torch.arange(start, start + size)
            pieces.append(model(tokens[:, start : start + size], positions=places, cache=cache))
            start += size
    with record(model, MixtureOfDepths) as whole:
        expected = model(tokens)
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, **EXACT)
    layers = len(whole)
    for number, layer in enumerate(by_call(whole)):
        steps = torch.cat([one.mask for one in by_call(stepwise)[number::layers]], dim=1)
        assert torch.equal(steps, layer.mask)
        held = cache[every - 1 :: every][number].positions
        for b in range(batch):  # in the cache: those that were routed, and nobody else
            assert [p for p in held[b].tolist() if p >= 0] == layer.mask[b].nonzero()[:, 0].tolist()
        if execution == "gathered" and batch == 1:
            assert held.shape[1] == int(layer.mask.sum())
    assert (
        0 < sum(int(layer.mask.sum()) for layer in by_call(whole)) < sum(layer.mask.numel() for layer in by_call(whole))
    )


@pytest.mark.parametrize("routing", CAUSAL)
@pytest.mark.parametrize("every", [1, 2])
def test_generate_with_a_cache_writes_what_it_writes_without(routing, every: int) -> None:
    model = make_model(every=every, predictor=True, routing=routing)
    prompt = torch.randint(11, (3, 5), generator=seeded(7))
    with record(model, MixtureOfDepths) as routed:
        written = model.generate(prompt, 20, temperature=2.0, generator=seeded(1))
    whole = model.generate(prompt, 20, temperature=2.0, generator=seeded(1), use_cache=False)
    assert torch.equal(written, whole)
    assert len({tuple(part.mask[:, 0].tolist()) for part in by_call(routed)}) > 2, "the samples must route differently"
    assert len(set(written[:, 5:].flatten().tolist())) > 2


@pytest.mark.parametrize("predictor", [False, True])
def test_given_a_cache_top_k_becomes_causal(predictor: bool) -> None:
    model = make_model(predictor=predictor)
    tokens = torch.randint(11, (2, 9), generator=seeded(7))
    with_cache = model(tokens, positions=torch.arange(9), cache=model.new_cache())
    assert not torch.allclose(with_cache, model(tokens))
    with setting(model, MixtureOfDepths, routing="predictor" if predictor else "threshold"):
        torch.testing.assert_close(with_cache, model(tokens), **EXACT)


def test_a_step_that_nobody_takes_costs_the_router_alone_and_leaves_the_cache() -> None:
    layer, cache = make_layer(routing="threshold"), LayerCache()
    x = -layer.router.weight.detach()[None]
    place = torch.tensor([3])
    assert torch.equal(layer(x, positions=place, cache=cache), x)
    assert cache.length == 0
    assert count(layer, x, positions=place, cache=cache).flops == 2 * DIM


def test_what_only_some_samples_route_is_computed_for_them_alone() -> None:
    layer, w = make_layer(routing="threshold"), None
    w = layer.router.weight.detach()[0]
    x = torch.stack([w, -w, -w, -w])[:, None]
    place = torch.tensor([0])
    four = count(layer, x, positions=place, cache=LayerCache()).flops
    one = count(layer, x[:1], positions=place, cache=LayerCache()).flops
    assert four - one == 3 * 2 * DIM  # three router products more


def test_a_key_mask_over_the_cache_hides_what_it_holds() -> None:
    layer, x = make_layer(routing="threshold"), make_tokens(3, 9)
    with record(layer, MixtureOfDepths) as routed:
        layer(x)
    results = []
    for execution in ("gathered", "masked"):
        layer.execution, cache = execution, LayerCache()
        layer(x[:, :6], positions=torch.arange(6), cache=cache)
        hidden = torch.cat([torch.zeros(3, cache.length, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)], 1)
        results.append(layer(x[:, 6:], positions=torch.arange(6, 9), cache=cache, key_mask=hidden))
    alone = layer(x[:, 6:], positions=torch.arange(6, 9))
    assert by_call(routed)[0].mask[:, :6].any()
    for result in results:
        torch.testing.assert_close(result, alone, **EXACT)


# Learning to route


def test_the_routing_loss_is_binary_cross_entropy_over_tokens_and_layers() -> None:
    model, tokens = make_model(), torch.randint(11, (3, 10), generator=seeded(2))
    with record(model, MixtureOfDepths) as routed:
        model(tokens)
    assert len(routed) == 2
    layers = []
    for layer in by_call(routed):
        terms = []
        for b in range(3):
            inside = sorted(range(10), key=lambda t: -layer.scores[b, t].item())[:3]
            for t in range(10):
                p = 1 / (1 + math.exp(-layer.scores[b, t].item()))
                terms.append(-math.log(p if t in inside else 1 - p))
        layers.append(sum(terms) / len(terms))
    assert routing_loss(routed).item() == pytest.approx(sum(layers) / 2, rel=1e-9)


def test_padding_is_not_learned_from() -> None:
    layer, x = make_layer(), make_tokens(2, 8)
    there = torch.arange(8) < torch.tensor([[8], [5]])
    with record(layer, MixtureOfDepths) as routed:
        layer(x, key_mask=there)
    logits, mask = by_call(routed)[0].scores[there], by_call(routed)[0].mask[there].double()
    expected = F.binary_cross_entropy(logits.sigmoid(), mask)
    torch.testing.assert_close(routing_loss(routed), expected)


def test_the_predictor_loss_reaches_the_predictor_and_nothing_else() -> None:
    model, tokens = make_model(predictor=True), torch.randint(11, (3, 10), generator=seeded(2))
    with record(model, MixtureOfDepths) as routed:
        model(tokens)
    expected = [F.binary_cross_entropy(r.predicted.sigmoid(), r.mask.double()) for r in by_call(routed)]
    torch.testing.assert_close(predictor_loss(routed), sum(expected) / 2)
    predictor_loss(routed).backward()
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert reached == ("predictor" in name), name


def test_the_losses_teach_causal_routing_what_top_k_does() -> None:
    torch.manual_seed(0)
    layer = MixtureOfDepths(Block(DIM, 2), 0.25, predictor=True)
    x = torch.randn(64, 16, DIM)
    rates = torch.optim.Adam(layer.parameters(), lr=0.02)

    def agreement() -> list[float]:
        with torch.no_grad(), record(layer, MixtureOfDepths) as routed:
            layer(x)
        (one,) = by_call(routed)
        return [((said > 0) == one.mask).float().mean().item() for said in (one.scores, one.predicted)]

    before = agreement()
    for _ in range(150):
        with record(layer, MixtureOfDepths) as routed:
            layer(x)
        rates.zero_grad()
        (routing_loss(routed) + predictor_loss(routed)).backward()
        rates.step()
    after = agreement()
    assert max(before) < 0.8
    assert after[1] > 0.9  # has a bias, and can say "the largest quarter"
    assert after[0] > before[0] + 0.03


def test_recording_ends_with_its_context_also_after_an_error() -> None:
    layer, x = make_layer(), make_tokens()
    with record(layer, MixtureOfDepths) as outer:
        layer(x)
        with pytest.raises(ValueError, match="none of them 0"), record(layer, MixtureOfDepths) as inner:
            layer(x[:, :0])
        layer(x)
    layer(x)
    assert (len(outer[""]), len(inner[""])) == (2, 0)
    copy.deepcopy(layer)


# Cost


@pytest.mark.parametrize("capacity", [0.125, 0.5, 1.0])
def test_counted_cost_is_the_formula_of_k_tokens_and_a_router(capacity: float) -> None:
    batch, n, d = 2, 64, 32
    layer = MixtureOfDepths(Block(d, 2, causal=True, rotary=True), capacity)
    k = layer.kept(n)
    # four d × d maps of attention and two d × 4d of the feed-forward part; k² products of size d, twice; the router
    each = 2 * (12 * d * d) * k + 2 * 2 * k * k * d
    x = torch.randn(batch, n, d)
    assert count(layer, x).flops == batch * (each + 2 * n * d)
    layer.execution = "masked"
    dense = 2 * (12 * d * d) * n + 2 * 2 * n * n * d
    assert count(layer, x).flops == batch * (dense + 2 * n * d)


def test_the_predictor_costs_nothing_where_it_is_not_asked() -> None:
    x = torch.randn(2, 16, DIM).double()
    assert count(make_layer(predictor=True), x).flops == count(make_layer(), x).flops


# Numbers and errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    layer = make_layer(predictor=True).to(dtype)
    x = make_tokens().to(dtype)
    for routing in ("top_k", "threshold", "predictor", "random", "gaussian"):
        layer.routing = routing
        assert layer(x).dtype == dtype


def test_it_trains_under_autocast() -> None:
    layer, x = make_layer(predictor=True).float(), make_tokens().float()
    with torch.autocast("cpu", torch.bfloat16), record(layer, MixtureOfDepths) as routed:
        out = layer(x)
    assert out.dtype == torch.float32
    (out.square().mean() + routing_loss(routed) + predictor_loss(routed)).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"capacity": 0.0}, ValueError, "above 0 and at most 1; got 0.0"),
        ({"capacity": -0.5}, ValueError, "got -0.5"),
        ({"capacity": 1.01}, ValueError, "got 1.01"),
        ({"capacity": 12}, ValueError, "got 12"),
        ({"capacity": math.nan}, ValueError, "got nan"),
        ({"capacity": "half"}, ValueError, "'half'"),
        ({"weight": "softmax"}, ValueError, "'linear' or 'sigmoid'; got 'softmax'"),
        ({"routing": "topk"}, ValueError, "'top_k'.*got 'topk'"),
        ({"routing": "predictor"}, ValueError, "predictor=True"),
        ({"execution": "fused"}, ValueError, "got 'fused'"),
        ({"dim": 0}, ValueError, "dim must be at least 1"),
        ({"block": nn.Linear(4, 4)}, TypeError, "update"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(as_users_run_it, change, error, message: str) -> None:
    with pytest.raises(error, match=message):
        MixtureOfDepths(**{"block": Block(DIM, 2), "capacity": 0.5, **change})


def test_a_block_without_a_norm_to_see_its_size_from_needs_dim() -> None:
    class Bare(nn.Module):
        def update(self, x: Tensor, *, positions: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
            return 2 * x

    with pytest.raises(TypeError, match="give dim"):
        MixtureOfDepths(Bare(), 0.5)
    layer = MixtureOfDepths(Bare(), 0.5, dim=DIM)
    x = torch.randn(1, 4, DIM)
    r = layer.router(x)[..., 0].detach()
    expected = torch.where(largest(r, 2)[..., None], x * (1 + 2 * r[..., None]), x)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (torch.zeros(2, 0, DIM), {}, ValueError, r"none of them 0; got \(2, 0, 16\)"),
        (torch.zeros(0, 3, DIM), {}, ValueError, r"\(0, 3, 16\)"),
        (torch.zeros(2, 3, DIM + 1), {}, ValueError, r"\[batch, tokens, 16\].*\(2, 3, 17\)"),
        (torch.zeros(3, DIM), {}, ValueError, r"\(3, 16\)"),
        (torch.zeros(2, 3, DIM, dtype=torch.int64), {}, TypeError, "int64"),
        (torch.full((2, 3, DIM), math.nan), {}, ValueError, "not finite"),
        (torch.zeros(2, 3, DIM), {"positions": torch.arange(4)}, ValueError, r"\(2, 3\); got \(4,\)"),
        (torch.zeros(2, 3, DIM), {"positions": torch.arange(3.0)}, TypeError, "float32"),
        (torch.zeros(2, 3, DIM), {"key_mask": torch.ones(2, 3)}, TypeError, "bool"),
        (torch.zeros(2, 3, DIM), {"key_mask": torch.ones(2, 4, dtype=torch.bool)}, ValueError, r"\(2, 3\).*\(2, 4\)"),
        (torch.zeros(2, 3, DIM), {"cache": LayerCache()}, ValueError, "give positions"),
    ],
)
def test_what_does_not_fit_is_refused(as_users_run_it, x: Tensor, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        MixtureOfDepths(Block(DIM, 2), 0.5)(x, **options)


@pytest.mark.parametrize("routing", ["random", "gaussian"])
def test_a_draw_has_no_causal_form(routing) -> None:
    layer = make_layer(routing=routing)
    with pytest.raises(ValueError, match=f"{routing} routing"):
        layer(make_tokens(), positions=torch.arange(10), cache=LayerCache())


@pytest.mark.usefixtures("as_users_run_it")
def test_a_loss_on_the_tokens_in_place_of_records_is_refused() -> None:
    for loss in (routing_loss, predictor_loss):
        with pytest.raises(TypeError, match="need the records of a mixture of depths; got Tensor"):
            loss([make_tokens()])


def test_losses_and_switches_say_what_they_miss() -> None:
    model, tokens = make_model(), torch.randint(11, (1, 6), generator=seeded(2))
    with pytest.raises(ValueError, match="nothing was recorded"):
        routing_loss([])
    with record(model, MixtureOfDepths) as routed:
        model(tokens)
    with pytest.raises(ValueError, match="predictor=True"):
        predictor_loss(routed)
    with setting(model, MixtureOfDepths, routing="threshold"), record(model, MixtureOfDepths) as routed:
        model(tokens)
        assert isinstance(by_call(routed)[0], Routed)
        with pytest.raises(ValueError, match="routed by threshold"):
            routing_loss(routed)
        with (
            pytest.raises(ValueError, match="no predictor"),
            setting(model, MixtureOfDepths, routing="predictor"),
        ):
            pass
        assert [model.blocks[place].routing for place in (1, 3)] == ["threshold"] * 2
    assert [model.blocks[place].routing for place in (1, 3)] == ["top_k"] * 2
    for use in (lambda dense: setting(dense, MixtureOfDepths, routing="top_k"), lambda d: record(d, MixtureOfDepths)):
        with pytest.raises(ValueError, match="has no MixtureOfDepths"), use(make_model(every=9)):
            pass


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_record_has_the_weight_of_whom_it_routed_and_0_for_the_others(weight: str) -> None:
    layer, x = make_layer(0.3, weight=weight), make_tokens()
    with record(layer, MixtureOfDepths) as routed:
        out = layer(x)
    (one,) = routed[""]
    assert (one.weight == 0).equal(~one.mask)
    r = (x @ layer.router.weight[0]).sigmoid() if weight == "sigmoid" else x @ layer.router.weight[0]
    torch.testing.assert_close(one.weight[one.mask], r[one.mask], **EXACT)
    assert torch.equal((out != x).any(-1), one.mask)


def test_the_losses_take_a_list_of_records_too() -> None:
    model, tokens = make_model(predictor=True), torch.randint(11, (2, 6), generator=seeded(2))
    with record(model, MixtureOfDepths) as routed:
        model(tokens)
    assert torch.equal(routing_loss(routed), routing_loss(by_call(routed)))
    assert torch.equal(predictor_loss(routed), predictor_loss(by_call(routed)))


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("capacity", 7, "above 0 and at most 1; got 7"),
        ("execution", "fused", "execution must be 'gathered' or 'masked'; got 'fused'"),
        ("weight", "cubic", "weight must be 'linear' or 'sigmoid'"),
        ("routing", "first", "routing must be one of"),
        ("routing", "predictor", "no predictor to route by"),
    ],
)
def test_a_knob_is_checked_when_the_layer_is_used(knob: str, value: object, message: str) -> None:
    layer, x = make_layer(), make_tokens()
    before = getattr(layer, knob)
    with pytest.raises(ValueError, match=message), setting(layer, MixtureOfDepths, **{knob: value}):
        pytest.fail("the setting was taken")
    assert getattr(layer, knob) == before
    setattr(layer, knob, value)
    with pytest.raises(ValueError, match=message):
        layer(x)


def test_a_block_whose_update_takes_no_cache_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"update\(x, \*, positions, cache\).*ConditionalBlock has not"):
        MixtureOfDepths(ConditionalBlock(DIM, 2, window=2), 0.5)
    with pytest.raises(TypeError, match="TransformerEncoderLayer has not"):
        MixtureOfDepths(nn.TransformerEncoderLayer(DIM, 2), 0.5)


def test_a_router_that_was_wrapped_is_called_and_not_read() -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return -self.inner(x)

    layer, x = make_layer(0.3), make_tokens()
    layer.router = Wrapped(layer.router)
    with record(layer, MixtureOfDepths) as routed:
        layer(x)
    (one,) = routed[""]
    torch.testing.assert_close(one.scores, -(x @ layer.router.inner.weight[0]), **EXACT)
    assert torch.equal(one.mask, largest(one.scores, 3))


@pytest.mark.usefixtures("as_users_run_it")
def test_the_masked_layer_can_be_exported_and_the_gathered_says_that_it_cannot() -> None:
    layer, x = make_layer(0.3), make_tokens()
    with pytest.raises(RuntimeError, match="use execution='masked'"):
        torch.export.export(layer, (x,))
    with pytest.raises(RuntimeError, match="use execution='masked'"):
        torch.func.vmap(lambda one: layer(one[None])[0])(x)
    expected = layer(x)
    with setting(layer, MixtureOfDepths, execution="masked"):
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), expected, **EXACT)
        torch.testing.assert_close(torch.func.vmap(lambda one: layer(one[None])[0])(x), expected, **EXACT)
        assert torch.equal(torch.compile(layer, backend="eager")(x), layer(x))
    assert torch.equal(torch.compile(layer, backend="eager")(x), expected)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_checkpointed_layers_have_the_same_gradients(execution: str) -> None:
    layer, x = make_layer(0.3, execution=execution), make_tokens().requires_grad_()
    (right,) = torch.autograd.grad(layer(x).square().sum(), x)
    (again,) = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), x)
    torch.testing.assert_close(again, right, **EXACT)
