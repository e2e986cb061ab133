"""A mixture of experts against a loop over tokens and their choices, one at a time."""

import copy
import math
import pickle
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import CausalLM, FeedForward
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.width import (
    ExpertsChosen,
    GatedFeedForward,
    MixtureOfExperts,
    balance_bias,
    hash_by_token,
    load_balancing_loss,
    router_z_loss,
    upcycle,
)

DIM, EXACT = 6, {"rtol": 0, "atol": 1e-10}  # for float64
few = settings(max_examples=40, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*(shape or (2, 5)), DIM, dtype=torch.float64, generator=seeded(seed))


def make_layer(experts: int = 4, *, seed: int = 2, **options) -> MixtureOfExperts:
    torch.manual_seed(seed)
    layer = MixtureOfExperts(DIM, experts, hidden=7, **options).double()
    for name, parameter in layer.named_parameters():  # biases too, so that nothing is 0 by chance
        nn.init.normal_(parameter, std=1.0 if "router" in name else 0.4)
    return layer


def expert(layer: MixtureOfExperts, number: int, x: Tensor) -> Tensor:
    def linear(name: str, x: Tensor) -> Tensor:
        bias = getattr(layer, f"{name}_bias")
        product = torch.stack([(row * x).sum() for row in getattr(layer, f"{name}_weight")[number]])
        return product if bias is None else product + bias[number]

    hidden = linear("expand", x)
    return linear("contract", F.silu(linear("gate", x)) * hidden if layer.gated else F.gelu(hidden))


def by_hand(layer: MixtureOfExperts, x: Tensor, present: Tensor | None = None) -> tuple[Tensor, list[list[bool]]]:
    """The formula, a token at a time, and who was kept: first choices find places before second ones."""
    tokens = x.reshape(-1, DIM)
    there = [True] * len(tokens) if present is None else present.flatten().tolist()
    asked, weights = [], []
    for token in tokens:
        p = [
            math.exp(sum(a * b for a, b in zip(row, token.tolist(), strict=True)))
            for row in layer.router.weight.tolist()
        ]
        p = [one / sum(p) for one in p]
        scores = [one + b for one, b in zip(p, layer.balance.tolist(), strict=True)]
        asked.append(sorted(range(layer.experts), key=lambda i, scores=scores: -scores[i])[: layer.k])
        total = sum(p[i] for i in asked[-1]) if layer.renormalise else 1
        weights.append([p[i] / total for i in asked[-1]])
    room = math.inf
    if layer.capacity is not None:
        room = math.ceil(layer.capacity * layer.k * sum(there) / layer.experts)
    taken, kept = [0] * layer.experts, [[False] * layer.k for _ in tokens]
    for place, token in product(range(layer.k), range(len(tokens))):
        number = asked[token][place]
        if there[token] and taken[number] < room:
            taken[number] += 1
            kept[token][place] = True
    rows = []
    for token, x_t in enumerate(tokens):
        parts = [
            weight * expert(layer, number, x_t)
            for number, weight, keep in zip(asked[token], weights[token], kept[token], strict=True)
            if keep
        ]
        rows.append(sum(parts, torch.zeros(DIM, dtype=x.dtype)))
    return torch.stack(rows).view_as(x), kept


def collapsed(experts: int = 4, *, sure: float = 50.0, **options) -> MixtureOfExperts:
    """All tokens ask for expert 0, as long as their first feature is positive."""
    layer = make_layer(experts, **options)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[0, 0] = sure
    return layer


# ---- the layer


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize(("k", "capacity"), [(1, None), (2, None), (4, None), (1, 0.5), (2, 0.5), (3, 1.0), (2, 9.0)])
@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_it_is_its_formula(gated: bool, renormalise: bool, k: int, capacity: float | None, execution: str) -> None:
    layer = make_layer(k=k, capacity=capacity, gated=gated, renormalise=renormalise, execution=execution)
    x = make_tokens(2, 5)
    with record(layer, MixtureOfExperts) as records:
        got = layer(x)
    expected, kept = by_hand(layer, x)
    torch.testing.assert_close(got, expected, **EXACT)
    assert records[""][0].kept.flatten(0, 1).tolist() == kept


@given(
    tokens=st.integers(1, 12),
    experts=st.integers(1, 6),
    k=st.integers(1, 6),
    capacity=st.sampled_from([None, 0.3, 1.0, 1.25]),
    absent=st.integers(0, 3),
    seed=st.integers(0, 100),
)
@few
def test_gathered_is_masked_with_gradients(tokens, experts, k, capacity, absent, seed) -> None:
    layer = make_layer(experts, k=min(k, experts), capacity=capacity, seed=seed)
    x = make_tokens(tokens, seed=seed).requires_grad_()
    present = torch.arange(tokens) >= min(absent, tokens - 1)
    results = []
    for execution in ("gathered", "masked"):
        with setting(layer, MixtureOfExperts, execution=execution):
            out = layer(x, present=present)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])])
    for gathered, masked in zip(*results, strict=True):
        torch.testing.assert_close(gathered, masked, **EXACT)


@pytest.mark.parametrize("k", [1, 3])
def test_one_expert_or_all_alike_is_the_dense_part(k: int) -> None:
    dense = FeedForward(DIM, 7).double()
    x = make_tokens()
    layer = upcycle(dense, k, k=k)
    torch.testing.assert_close(layer(x), dense(x), **EXACT)
    nn.init.normal_(layer.router.weight, std=9.0)
    torch.testing.assert_close(layer(x), dense(x), **EXACT)


def test_a_single_expert_needs_no_renormalising() -> None:
    dense = FeedForward(DIM, 7).double()
    torch.testing.assert_close(upcycle(dense, 1, k=1, renormalise=False)(make_tokens()), dense(make_tokens()), **EXACT)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
def test_tokens_may_have_any_axes(shape: tuple[int, ...]) -> None:
    layer, x = make_layer(k=2), make_tokens(2, 3)
    x = torch.randn(*shape, DIM, dtype=torch.float64, generator=seeded(3))
    with record(layer, MixtureOfExperts) as records:
        got = layer(x)
    assert got.shape == x.shape
    torch.testing.assert_close(got, by_hand(layer, x)[0], **EXACT)
    one = records[""][0]
    assert one.chosen.shape == one.weight.shape == one.kept.shape == (*shape, 2)
    assert one.logits.shape == (*shape, 4)
    assert one.present.shape == shape


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_who_is_not_there_takes_no_place_and_changes_nothing(execution: str) -> None:
    layer = make_layer(k=2, capacity=0.5, execution=execution)
    x, present = make_tokens(2, 6), torch.tensor([[False] * 4 + [True] * 2, [True] * 6])
    got = layer(x, present=present)
    torch.testing.assert_close(got, by_hand(layer, x, present)[0], **EXACT)
    assert (got[~present] == 0).all()
    other = torch.where(present[..., None], x, 7.0)
    assert torch.equal(layer(other, present=present), got)
    torch.testing.assert_close(got[present], layer(x[present]), **EXACT)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_who_is_not_there_may_be_anything(execution: str) -> None:
    layer, x = make_layer(k=2, execution=execution), make_tokens(4)
    x[3] = math.nan
    present = torch.tensor([True, True, True, False])
    x.requires_grad_()
    out = layer(x, present=present)
    torch.testing.assert_close(out[:3], layer(x[:3]), **EXACT)  # products of other heights may round otherwise
    out.sum().backward()
    assert all(part.grad.isfinite().all() for part in (x, *layer.parameters()))
    assert (layer(x, present=torch.zeros(4, dtype=torch.bool)) == 0).all()


def test_a_token_that_is_spoilt_spoils_nobody_else() -> None:
    x = make_tokens(6)
    layer = make_layer(k=2)
    with torch.no_grad():
        layer.expand_weight[2, 0, 0] = math.inf
    for execution in ("gathered", "masked"):
        with setting(layer, MixtureOfExperts, execution=execution), record(layer, MixtureOfExperts) as records:
            got = layer(x)
        hit = (records[""][0].chosen == 2).any(-1)
        assert hit.any()
        assert not hit.all()
        assert got[~hit].isfinite().all(), execution


def test_ties_go_to_the_experts_with_the_smaller_numbers() -> None:
    layer = make_layer(40, k=3)
    nn.init.zeros_(layer.router.weight)
    with record(layer, MixtureOfExperts) as records:
        layer(make_tokens(9))
    assert records[""][0].chosen.tolist() == [[0, 1, 2]] * 9


def test_what_is_given_is_not_written_to() -> None:
    layer, x = make_layer(k=2, capacity=0.5), make_tokens()
    kept = x.clone()
    layer(x)
    assert torch.equal(x, kept)


# ---- the router's gradient


def test_the_router_learns_through_the_weight_alone() -> None:
    layer, x = make_layer(k=2), make_tokens(5)
    (gradient,) = torch.autograd.grad(layer(x).sum(), layer.router.weight)
    with record(layer, MixtureOfExperts) as records:
        layer(x)
    chosen = records[""][0].chosen
    made = torch.stack([torch.stack([expert(layer, i, token) for i in range(4)]) for token in x]).detach().sum(-1)
    p = (x @ layer.router.weight.T).softmax(-1)
    (expected,) = torch.autograd.grad((p.gather(1, chosen) * made.gather(1, chosen)).sum(), layer.router.weight)
    torch.testing.assert_close(gradient, expected, **EXACT)


def test_with_one_expert_a_token_renormalised_weights_are_1_and_the_router_learns_nothing() -> None:
    layer, x = make_layer(k=1, renormalise=True), make_tokens()
    with record(layer, MixtureOfExperts) as records:
        out = layer(x)
    assert (records[""][0].weight == 1).all()
    (gradient,) = torch.autograd.grad(out.square().sum(), layer.router.weight)
    assert (gradient == 0).all()
    with setting(layer, MixtureOfExperts, renormalise=False):
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), layer.router.weight)
    assert gradient.abs().max() > 1e-3


def test_an_expert_that_nobody_asks_for_has_a_gradient_of_zeros() -> None:
    layer, x = collapsed(k=1), make_tokens().abs()
    layer(x).sum().backward()
    for name in ("expand", "contract"):
        gradient = getattr(layer, f"{name}_weight").grad
        assert gradient[0].abs().sum() > 0
        assert (gradient[1:] == 0).all()


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_renormalised_weights_hold_where_the_probabilities_of_the_chosen_are_0(k: int, dtype: torch.dtype) -> None:
    layer = make_layer(3, k=k, renormalise=True).to(dtype)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[:, 0] = torch.tensor([0.0, -900.0, -900.0])
        layer.balance += torch.tensor([-5.0, 0.0, 0.0])  # whoever balances may send tokens past the likeliest
    x = torch.eye(DIM, dtype=dtype)[:1].requires_grad_()
    with record(layer, MixtureOfExperts) as records:
        out = layer(x)
    assert records[""][0].chosen.tolist() == [[1, 2][:k]]
    assert records[""][0].weight.tolist() == [[1 / k] * k]
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


# ---- capacity


@pytest.mark.parametrize(
    ("capacity", "k", "experts", "tokens", "room"),
    [(1.1, 1, 5, 50, 11), (0.1, 3, 3, 40, 4), (1.25, 2, 8, 64, 20), (1.25, 2, 8, 65, 21), (1.1, 2, 3, 45, 33)],
)
def test_an_expert_has_its_share_rounded_up_whoever_says_that_all_are_there(capacity, k, experts, tokens, room) -> None:
    layer = make_layer(experts, k=k, capacity=capacity)
    chosen = torch.zeros(tokens, k, dtype=torch.int64)
    there = torch.ones(tokens, dtype=torch.bool)
    for all_there in (True, False):
        kept = layer._kept(chosen, there, all_there=all_there)
        assert kept.sum() == min(room, tokens * k)


def test_whom_it_drops_it_says() -> None:
    layer, x = collapsed(k=1, capacity=1.0), make_tokens(8).abs()
    with record(layer, MixtureOfExperts) as records:
        out = layer(x)
    one = records[""][0]
    assert one.kept[:, 0].tolist() == [True] * 2 + [False] * 6  # ⌈1 · 8 / 4⌉ places
    assert one.dropped() == 0.75
    assert one.load().tolist() == [1, 0, 0, 0]
    assert (out[2:] == 0).all()
    assert (out[:2] != 0).any(-1).all()
    with setting(layer, MixtureOfExperts, capacity=None), record(layer, MixtureOfExperts) as records:
        layer(x)
    assert records[""][0].dropped() == 0.0


def test_first_choices_find_a_place_before_second_ones() -> None:
    layer = make_layer(2, k=2, capacity=0.5)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[0, 0] = 1.0
    x = torch.zeros(4, DIM, dtype=torch.float64)
    x[:, 0] = torch.tensor([-1.0, 1.0, -1.0, 1.0])  # first choices: 1, 0, 1, 0
    with record(layer, MixtureOfExperts) as records:
        layer(x)
    assert records[""][0].chosen[:, 0].tolist() == [1, 0, 1, 0]
    assert records[""][0].kept.tolist() == [[True, False]] * 4


# ---- balance


def chosen_by(logits: Tensor, k: int = 1, present: Tensor | None = None) -> ExpertsChosen:
    chosen = logits.topk(k, -1).indices
    there = torch.ones(logits.shape[:-1], dtype=torch.bool) if present is None else present
    weight = logits.softmax(-1).gather(-1, chosen)
    return ExpertsChosen(logits, chosen, weight, there[..., None].expand_as(chosen), there, logits.shape[-1])


@pytest.mark.parametrize("experts", [2, 5, 8])
def test_the_balancing_loss_is_1_where_all_is_even_and_n_where_all_collapses(experts: int) -> None:
    even = torch.eye(experts, dtype=torch.float64).repeat(3, 1)
    assert load_balancing_loss([chosen_by(20 * even)]).item() == pytest.approx(1)
    assert load_balancing_loss([chosen_by(20 * even, k=2)]).item() == pytest.approx(1, abs=0.3)
    one = torch.zeros(7, experts, dtype=torch.float64)
    one[:, 1] = 100.0
    assert load_balancing_loss([chosen_by(one)]).item() == pytest.approx(experts)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_balancing_loss_is_its_formula_over_the_tokens_that_are_there(k: int) -> None:
    layers, total = [], 0.0
    for seed in (0, 1):
        logits = torch.randn(2, 6, 4, dtype=torch.float64, generator=seeded(seed))
        present = torch.tensor([[True] * 6, [False] * 3 + [True] * 3])
        logits[~present] = 300.0
        one = chosen_by(logits, k, present)
        layers.append(one)
        f, p, there = [0.0] * 4, [0.0] * 4, int(present.sum())
        for row, choices in zip(logits[present].tolist(), one.chosen[present].tolist(), strict=True):
            for i in range(4):
                p[i] += math.exp(row[i]) / sum(map(math.exp, row)) / there
                f[i] += choices.count(i) / (k * there)
        total += 4 * sum(a * b for a, b in zip(f, p, strict=True)) / 2
    assert load_balancing_loss(layers).item() == pytest.approx(total, abs=1e-12)
    assert load_balancing_loss({"a": layers[:1], "b": layers[1:]}).item() == pytest.approx(total, abs=1e-12)


def test_the_gradient_of_the_balancing_loss_is_that_of_p_of_all_experts() -> None:
    logits = torch.randn(9, 4, dtype=torch.float64, generator=seeded(4)).requires_grad_()
    one = chosen_by(logits, 2)
    (gradient,) = torch.autograd.grad(load_balancing_loss(one), logits)
    f = torch.bincount(one.chosen.flatten(), minlength=4).double() / 18
    (expected,) = torch.autograd.grad(4 * (f * logits.softmax(-1).mean(0)).sum(), logits)
    torch.testing.assert_close(gradient, expected, **EXACT)
    assert (gradient.abs() > 0).all()  # of those too that were not chosen


def test_layers_that_collapse_onto_different_experts_look_even_only_when_pooled() -> None:
    layers = []
    for favourite in range(4):
        logits = torch.zeros(5, 4, dtype=torch.float64)
        logits[:, favourite] = 60.0
        layers.append(chosen_by(logits))
    assert load_balancing_loss(layers).item() == pytest.approx(4)
    assert load_balancing_loss(layers, pooled=True).item() == pytest.approx(1)


def test_the_z_loss_is_the_mean_square_of_the_log_of_the_sum() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]], dtype=torch.float64)
    expected = (math.log(2) ** 2 + math.log(4) ** 2) / 2
    assert router_z_loss(chosen_by(logits)).item() == pytest.approx(expected)
    large = torch.full((3, 4), 800.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(router_z_loss(chosen_by(large)), large)
    assert gradient.isfinite().all()


def test_a_bias_evens_the_load_and_leaves_weights_and_gradients_alone() -> None:
    layer = make_layer(k=1)
    with torch.no_grad():
        layer.router.weight.mul_(0.2)
        layer.router.weight[0, 0] += 0.4
    x = make_tokens(400) + torch.eye(DIM, dtype=torch.float64)[0]
    loads = []
    for _ in range(150):
        with record(layer, MixtureOfExperts) as records:
            layer(x)
        loads.append(records[""][0].load())
        balance_bias(layer, records[""][0], rate=0.003)
    assert loads[0].max() > 0.45
    assert loads[-1].max() < 0.33
    one = records[""][0]
    torch.testing.assert_close(one.weight, one.logits.softmax(-1).gather(-1, one.chosen), **EXACT)
    assert not layer.balance.requires_grad
    assert "balance" in layer.state_dict()


def test_a_loss_that_trains_the_router_alone_brings_a_collapsed_one_back() -> None:
    layer, x = collapsed(sure=3.0), make_tokens(200).abs()
    steps = torch.optim.Adam([layer.router.weight], lr=0.03)
    loads = []
    for _ in range(150):
        with record(layer, MixtureOfExperts) as records:
            layer(x)
        loads.append(records[""][0].load())
        steps.zero_grad()
        load_balancing_loss(records).backward()
        steps.step()
    assert loads[0].max() == 1
    assert torch.stack(loads[-60:]).mean(0).max() < 0.4  # it swings round even loads from step to step


# ---- who else may choose


def test_a_hash_sends_each_token_where_the_table_says() -> None:
    torch.manual_seed(0)
    model = CausalLM(vocabulary=11, dim=DIM, depth=2, heads=1).double()
    for block in model.blocks:
        block.feed_forward = MixtureOfExperts(DIM, 3, hidden=5, routing="hash").double()
    tokens = torch.randint(0, 11, (2, 7), generator=seeded(1))
    with pytest.raises(ValueError, match="has been told nothing"):
        model(tokens)
    table = torch.arange(11) % 3
    handle = hash_by_token(model, table)
    with record(model, MixtureOfExperts) as records:
        logits = model(tokens)
    for calls in records.values():
        assert torch.equal(calls[0].chosen[..., 0], table[tokens])
        assert (calls[0].weight == 1).all()
        assert calls[0].logits is None
        with pytest.raises(ValueError, match="by a hash"):
            load_balancing_loss(calls)
    torch.testing.assert_close(model(tokens[:1]), logits[:1], **EXACT)
    texts = [model.generate(tokens[:, :3], 4, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*texts)
    with pytest.raises(ValueError, match=r"shape \[2, 5\]"):
        model.blocks[0].feed_forward(make_tokens(2, 5))
    handle.remove()
    with pytest.raises(ValueError, match="has been told nothing"):  # and not what stood there before
        model(tokens)
    hash_by_token(model)
    with record(model, MixtureOfExperts) as records:
        model(torch.arange(11)[None])
    assert next(iter(records.values()))[0].load().min() > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_in_a_copy_of_a_model_the_hash_tells_the_layers_of_the_copy(copied) -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(9, DIM), "layer": make_layer(routing="hash").float()})
    handle, (first, second) = hash_by_token(model), torch.arange(8).view(2, 4)
    model["layer"](model["embedding"](first))
    other = copied(model)
    with record(other, MixtureOfExperts) as records, record(model, MixtureOfExperts) as ours:
        told = other["embedding"](second)
        model["layer"](model["embedding"](first))
        other["layer"](told)
    mine, theirs = ours["layer"][0].chosen, records["layer"][0].chosen
    assert not torch.equal(mine, theirs)
    with record(model, MixtureOfExperts) as ours:
        model["layer"](model["embedding"](second))
    assert torch.equal(ours["layer"][0].chosen, theirs)
    handle.remove()
    other["layer"](other["embedding"](second))


def test_random_routing_is_even_and_by_its_generator() -> None:
    layer = make_layer(5, k=2, routing="random", generator=seeded(3))
    x = make_tokens(4000)
    with record(layer, MixtureOfExperts) as records, torch.no_grad():
        layer(x)
        layer.generator = seeded(3)
        layer(x)
    first, again = records[""]
    assert torch.equal(first.chosen, again.chosen)
    # 8,000 choices of one in five: a share is further than 0.02 from 1/5 with a probability below 1e-4
    assert (first.load() - 0.2).abs().max() < 0.02
    assert (first.chosen[:, 0] != first.chosen[:, 1]).all()
    torch.testing.assert_close(first.weight, first.logits.softmax(-1).gather(-1, first.chosen), **EXACT)


# ---- from a trained layer


@pytest.mark.parametrize(
    "dense", [FeedForward(DIM, 9), GatedFeedForward(DIM, 9), GatedFeedForward(DIM, 9, bias=False)], ids=repr
)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_an_upcycled_layer_starts_as_what_it_was_made_of(dense: nn.Module, k: int) -> None:
    dense = copy.deepcopy(dense).double()
    layer, x = upcycle(dense, 4, k=k), make_tokens()
    torch.testing.assert_close(layer(x), dense(x), **EXACT)
    with torch.no_grad():
        next(dense.parameters()).zero_()  # it has weights of its own
    assert not torch.allclose(layer(x), dense(x))


def test_noise_takes_the_experts_apart() -> None:
    dense = FeedForward(DIM, 200).double()
    layer = upcycle(dense, 3, noise=0.1, generator=seeded(1))
    again = upcycle(dense, 3, noise=0.1, generator=seeded(1))
    assert torch.equal(layer.expand_weight, again.expand_weight)
    apart = (layer.expand_weight - dense.expand.weight).std() / dense.expand.weight.std()
    assert apart.item() == pytest.approx(0.1, rel=0.05)
    assert not torch.equal(layer.expand_weight[0], layer.expand_weight[1])


def test_what_cannot_be_upcycled_is_refused(as_users_run_it) -> None:
    with pytest.raises(TypeError, match="feed-forward part must be"):
        upcycle(nn.Linear(3, 3), 2)
    with pytest.raises(ValueError, match="experts have a GELU"):
        upcycle(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), 2)
    with pytest.raises(ValueError, match="noise"):
        upcycle(FeedForward(3, 4), 2, noise=-1.0)


# ---- cost, number types, what stands around


def test_it_costs_k_experts_and_a_router() -> None:
    x = torch.randn(2, 10, 8)
    for k, experts in ((1, 4), (2, 4), (2, 16)):
        layer = MixtureOfExperts(8, experts, k=k, hidden=12)
        with record(layer, MixtureOfExperts) as records:
            cost = count(layer, x)
        asked = len(records[""][0].chosen.unique())
        assert cost.flops == 2 * 20 * (k * 2 * 8 * 12 + 8 * experts)
        with setting(layer, MixtureOfExperts, execution="masked"):
            assert count(layer, x).flops == 2 * 20 * (experts * 2 * 8 * 12 + 8 * experts)
        assert cost.params == 8 * experts + asked * (2 * 8 * 12 + 12 + 8)  # held are all, touched those that were asked


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_number_types_are_kept(dtype: torch.dtype, execution: str) -> None:
    layer, x = make_layer(k=2, capacity=1.0).to(dtype), make_tokens(2, 5).to(dtype).requires_grad_()
    layer.execution = execution
    with record(layer, MixtureOfExperts) as records:
        out = layer(x)
    assert out.dtype == dtype
    assert records[""][0].logits.dtype == torch.float32
    torch.testing.assert_close(
        out.double(), by_hand(copy.deepcopy(layer).double(), x.double())[0], rtol=0.05, atol=0.05
    )
    out.sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in (x, *layer.parameters()))


def test_it_can_be_differentiated_by_functions_too() -> None:
    layer, x = make_layer(k=2), make_tokens(5)
    parameters = dict(layer.named_parameters())

    def total(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    gradients = torch.func.grad(total)(parameters, x)
    total(parameters, x).backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, **EXACT)
    (slope,) = torch.autograd.grad(total(parameters, x.requires_grad_()), x)
    _, along = torch.func.jvp(lambda x: total(parameters, x), (x.detach(),), (torch.ones_like(x),))
    torch.testing.assert_close(along, slope.sum(), **EXACT)
    assert torch.autograd.gradgradcheck(layer, make_tokens(2).requires_grad_())


def test_it_trains_under_autocast() -> None:
    layer, x = make_layer(k=2).float(), make_tokens(2, 5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    out.float().square().sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in layer.parameters())
    torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)


def test_the_masked_layer_can_be_exported_and_the_gathered_says_that_it_cannot() -> None:
    layer, x = make_layer(k=2, capacity=1.0).eval(), make_tokens(2, 5)
    with setting(layer, MixtureOfExperts, execution="masked"):
        exported = torch.export.export(layer, (x,)).module()
        other = make_tokens(2, 5, seed=9)
        torch.testing.assert_close(exported(other), layer(other), **EXACT)
        torch.testing.assert_close(torch.func.vmap(layer)(x), torch.stack([layer(row) for row in x]), **EXACT)
    with pytest.raises(Exception, match="execution='masked'"):
        torch.export.export(layer, (x,))
    with pytest.raises(RuntimeError, match="execution='masked'"):
        torch.func.vmap(layer)(x)


def test_a_model_with_experts_writes_the_same_with_a_cache_and_without() -> None:
    torch.manual_seed(5)
    model = CausalLM(vocabulary=9, dim=DIM, depth=2, heads=1).double()
    for block in model.blocks:
        block.feed_forward = make_layer(k=2)
    nn.init.normal_(model.embedding.weight)
    prompt = torch.randint(0, 9, (2, 4), generator=seeded(2))
    assert torch.equal(model.generate(prompt, 6), model.generate(prompt, 6, use_cache=False))


def test_it_is_as_it_was_after_it_was_saved() -> None:
    layer = make_layer(k=2, gated=True)
    layer.balance += torch.tensor([0.1, 0.0, -0.1, 0.0])
    other = make_layer(k=2, gated=True, seed=9)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(make_tokens()), other(make_tokens()))


# ---- what does not fit


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"experts": 0}, ValueError, "experts"),
        ({"experts": 2.0}, TypeError, "experts"),
        ({"dim": 0}, ValueError, "dim"),
        ({"k": 5}, ValueError, "k must be .* 4"),
        ({"k": 0}, ValueError, "k must be"),
        ({"k": True}, TypeError, "k must be"),
        ({"hidden": 0}, ValueError, "hidden"),
        ({"capacity": 0}, ValueError, "capacity must be above 0"),
        ({"capacity": -1.0}, ValueError, "capacity"),
        ({"capacity": math.nan}, ValueError, "capacity"),
        ({"renormalise": 1}, TypeError, "renormalise must be True or False"),
        ({"routing": "topk"}, ValueError, "routing"),
        ({"execution": "fused"}, ValueError, "execution"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(as_users_run_it, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        MixtureOfExperts(**({"dim": DIM, "experts": 4} | options))


@pytest.mark.parametrize(
    ("x", "present", "error", "message"),
    [
        ([1.0], None, TypeError, "the tokens"),
        (torch.ones(2, DIM, dtype=torch.int64), None, TypeError, "floating-point"),
        (torch.ones(2, DIM + 1), None, ValueError, rf"\[\*, {DIM}\]"),
        (torch.ones(0, DIM), None, ValueError, "there are no tokens"),
        (torch.full((2, DIM), math.nan), None, ValueError, "not finite"),
        (torch.full((2, DIM), math.inf), None, ValueError, "not finite"),
        (torch.ones(2, DIM), torch.ones(2), TypeError, "present must be bool"),
        (torch.ones(2, DIM), torch.ones(3, dtype=torch.bool), ValueError, r"present must be \[2\]"),
    ],
)
def test_what_does_not_fit_is_refused(as_users_run_it, x, present, error, message: str) -> None:
    with pytest.raises(error, match=message):
        MixtureOfExperts(DIM, 4)(x, present=present)


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("k", 9, "k must be"),
        ("capacity", 0.0, "capacity"),
        ("routing", "any", "routing"),
        ("execution", "x", "execution"),
    ],
)
def test_a_knob_is_checked_when_the_layer_is_used(as_users_run_it, knob: str, value: object, message: str) -> None:
    layer = make_layer()
    setattr(layer, knob, value)
    with pytest.raises(ValueError, match=message):
        layer(make_tokens())


def test_losses_and_tables_say_what_they_miss(as_users_run_it) -> None:
    layer = make_layer()
    with pytest.raises(ValueError, match="there are no records"):
        load_balancing_loss({})
    with pytest.raises(ValueError, match="no tokens"):
        load_balancing_loss(chosen_by(torch.ones(2, 3), present=torch.zeros(2, dtype=torch.bool)))
    with pytest.raises(ValueError, match="cannot be pooled"):
        load_balancing_loss([chosen_by(torch.ones(2, 3)), chosen_by(torch.ones(2, 4))], pooled=True)
    with pytest.raises(ValueError, match="3 experts and the layer has 4"):
        balance_bias(layer, chosen_by(torch.ones(2, 3)))
    with pytest.raises(ValueError, match="rate must be above 0"):
        balance_bias(layer, chosen_by(torch.ones(2, 4)), rate=0)
    half = make_layer().bfloat16()
    half.balance += 8.0
    with pytest.raises(ValueError, match=r"a step of 0\.001 is lost beside the bias in torch\.bfloat16"):
        balance_bias(half, chosen_by(torch.eye(4)[:1]))
    assert (half.balance == 8).all()
    with pytest.raises(ValueError, match="has no MixtureOfExperts"):
        hash_by_token(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="experts 0 … 3"):
        hash_by_token(nn.Sequential(layer), torch.tensor([0, 4]))
    with pytest.raises(TypeError, match="int64"):
        hash_by_token(nn.Sequential(layer), torch.tensor([0.0, 1.0]))


@pytest.mark.usefixtures("as_users_run_it")
def test_a_loss_on_logits_in_place_of_records_is_refused() -> None:
    for loss in (load_balancing_loss, router_z_loss):
        with pytest.raises(TypeError, match="need the records of a mixture; got Tensor"):
            loss([torch.zeros(2, 3)])


# ---- what others wrote


def mixtral_of_transformers() -> Any:
    name = "transformers.models.mixtral.modeling_mixtral"
    return pytest.importorskip(name, reason="transformers, whose Mixtral it is, is not installed")


@pytest.mark.parametrize("k", [1, 2, 8])
def test_it_is_the_mixtral_block_of_transformers(monkeypatch, k: int) -> None:
    mixtral = mixtral_of_transformers()
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # it has its router's softmax in float32, whatever else is
    config = mixtral.MixtralConfig(
        hidden_size=DIM, intermediate_size=10, num_local_experts=8, num_experts_per_tok=k, router_jitter_noise=0.0
    )
    config._experts_implementation = "eager"
    torch.manual_seed(1)
    theirs = mixtral.MixtralSparseMoeBlock(config).double().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = MixtureOfExperts(DIM, 8, k=k, hidden=10, renormalise=True, gated=True, bias=False).double()
    with torch.no_grad():
        ours.router.weight.copy_(theirs.gate.weight)
        gate, up = theirs.experts.gate_up_proj.chunk(2, dim=1)
        ours.gate_weight.copy_(gate)
        ours.expand_weight.copy_(up)
        ours.contract_weight.copy_(theirs.experts.down_proj)
    x = make_tokens(2, 9)
    expected = theirs(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(x), expected, **EXACT)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_the_balancing_loss_is_that_of_transformers_up_to_k(k: int, masked: bool) -> None:
    mixtral = mixtral_of_transformers()
    present = torch.ones(2, 6, dtype=torch.bool)
    if masked:
        present[0, 4:] = False
    layers = [torch.randn(2, 6, 5, dtype=torch.float64, generator=seeded(seed)) for seed in range(3)]
    theirs = mixtral.load_balancing_loss_func(
        tuple(layer.flatten(0, 1) for layer in layers), 5, k, present.long() if masked else None
    )
    ours = load_balancing_loss([chosen_by(layer, k, present) for layer in layers], pooled=True)
    assert k * ours.item() == pytest.approx(theirs.item(), abs=1e-6)
