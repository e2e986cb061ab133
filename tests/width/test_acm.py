"""ACM: every execution against a loop over tokens and learners, what the gates learn from, and what is converted."""

import copy
import math
import warnings
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import CausalLM, FeedForward, ViT
from dynlib.choice import gumbel_softmax
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.training import train
from dynlib.width import (
    AdaptiveComputationModule,
    GatedFeedForward,
    LearnersChosen,
    acm_loss,
    acmize,
    budget_loss,
    distill,
    diversity_loss,
    entropy_loss,
    gate_targets,
    prefix_errors,
    pretrain_gates,
)
from dynlib.width.acm import gathered
from dynlib.width.acm_conversion import acm_layers

DIM, HIDDEN, OUT, N = 6, 20, 5, 4
EXACT = {"rtol": 0, "atol": 1e-12}  # for float64
NEAR = {"rtol": 0, "atol": 2e-5}  # for float32
few = settings(max_examples=25, deadline=None, derandomize=True)


def make(*, dtype: torch.dtype = torch.float64, seed: int = 0, **options) -> AdaptiveComputationModule:
    torch.manual_seed(seed)
    layer = AdaptiveComputationModule(DIM, HIDDEN, **{"out": OUT, "learners": N, **options}).to(dtype).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.7)
    return layer


def tokens(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_hand(layer: AdaptiveComputationModule, z: Tensor, k: Tensor) -> Tensor:
    """The formula: token by token, learner by learner, neuron by neuron."""
    out = torch.zeros(*k.shape, layer.out, dtype=z.dtype)
    for place in range(k.numel()):
        token, row = z.reshape(-1, layer.dim)[place], out.view(-1, layer.out)[place]
        for learner in range(int(k.flatten()[place])):
            for neuron in range(learner * layer.each, (learner + 1) * layer.each):
                up = token @ layer.expand[neuron] + layer.bias[neuron]
                row += (up * 0.5 * (1 + torch.erf(up / math.sqrt(2)))).detach() * layer.contract[neuron].detach()
    return out


def chosen_by(layer: AdaptiveComputationModule, z: Tensor, **knobs) -> tuple[Tensor, LearnersChosen]:
    """What a layer gives, and its record."""
    kind = AdaptiveComputationModule
    with record(layer, kind) as records, setting(layer, kind, **{"price": layer.price, **knobs}):
        out = layer(z)
    return out, records[""][0]


def vit(seed: int = 0, **options) -> ViT:
    torch.manual_seed(seed)
    sizes = {"image_size": 8, "patch_size": 4, "classes": 3, "dim": 16, "depth": 2, "heads": 2}
    return ViT(**{**sizes, **options})


def images(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


# h(z, k)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 1, 3)])
@pytest.mark.parametrize("least", [0, 1])
def test_both_executions_are_the_formula_with_the_k_of_the_gate(shape: tuple[int, ...], least: int) -> None:
    layer, z = make(least=least), tokens(*shape)
    before = z.clone()
    for execution in ("gathered", "masked"):
        out, said = chosen_by(layer, z, execution=execution)
        best = layer.gate(z).argmax(-1) + least
        assert torch.equal(said.learners, best)
        assert said.used is None
        torch.testing.assert_close(out, by_hand(layer, z, best), **EXACT)
    assert torch.equal(z, before)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, EXACT), (torch.float32, NEAR)])
@given(
    k=st.lists(st.integers(0, N), min_size=1, max_size=40), rows=st.integers(1, 50), learners=st.sampled_from([1, N])
)
@few
def test_gathered_is_masked_for_any_k(dtype, near, k: list[int], rows: int, learners: int) -> None:
    layer = make(learners=learners, dtype=dtype)
    z, number = tokens(len(k), dtype=dtype), torch.tensor(k).clamp_max(learners)
    weights = layer.expand, layer.bias, layer.contract
    used = number[:, None] > torch.arange(learners)
    expected = layer._masked(z, used)
    with torch.no_grad():
        torch.testing.assert_close(gathered(z, number, *weights, each=layer.each, rows=rows), expected, **near)
    recorded = gathered(z, number, *weights, each=layer.each, rows=rows)
    torch.testing.assert_close(recorded, expected, **near)
    assert recorded.requires_grad == (number.sum() > 0)
    if number.sum() == 0:
        return
    some, all_ = (torch.autograd.grad(out.square().sum(), weights) for out in (recorded, expected))
    for mine, theirs in zip(some, all_, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9 if dtype == torch.float64 else 1e-3, atol=1e-3)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("k", range(N + 1))
def test_a_fixed_k_is_the_dense_part_of_its_first_learners(execution, k: int) -> None:
    layer, z = make(), tokens(3, 5)
    wide = k * layer.each
    expected = F.gelu(z @ layer.expand[:wide].T + layer.bias[:wide]) @ layer.contract[:wide]
    out, said = chosen_by(layer, z, execution=execution, fixed=k)
    torch.testing.assert_close(out, expected, **EXACT)
    assert (said.learners == k).all()
    assert said.logits is None
    assert said.share() == pytest.approx(k / N)
    if k:
        torch.testing.assert_close(layer.prefixes(z)[k - 1], expected, **EXACT)


def test_all_learners_are_the_mlp_of_their_neurons_side_by_side() -> None:
    layer, z = make(out=DIM), tokens(9)
    dense = FeedForward(DIM, HIDDEN).double()
    with torch.no_grad():
        dense.expand.weight.copy_(layer.expand)
        dense.expand.bias.copy_(layer.bias)
        dense.contract.weight.copy_(layer.contract.T)
        dense.contract.bias.zero_()
    torch.testing.assert_close(chosen_by(layer, z, fixed=N)[0], dense(z), **EXACT)


def test_the_first_learners_lie_in_one_piece() -> None:
    layer = make()
    for weight in (layer.expand, layer.bias, layer.contract):
        assert weight[: 2 * layer.each].is_contiguous()


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_a_learner_that_does_not_run_gives_nothing_even_if_it_is_broken(execution) -> None:
    layer, z = make(), tokens(8)
    whole = chosen_by(layer, z, fixed=2)[0]
    with torch.no_grad():
        layer.bias[2 * layer.each :] = math.inf
    torch.testing.assert_close(chosen_by(layer, z, execution=execution, fixed=2)[0], whole, **EXACT)


def test_no_tokens_give_no_results_in_every_mode() -> None:
    layer, z = make(), tokens(2, 0)
    for execution in ("gathered", "masked"):
        assert chosen_by(layer, z, execution=execution)[0].shape == (2, 0, OUT)
    out, said = chosen_by(layer.train(), z)
    assert out.shape == (2, 0, OUT)
    assert said.learners.shape == (2, 0)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_tokens_need_not_lie_in_one_piece(execution) -> None:
    layer, z = make(execution=execution), tokens(4, 6)
    torch.testing.assert_close(layer(z.transpose(0, 1)), layer(z).transpose(0, 1), **EXACT)
    torch.testing.assert_close(layer(z[:, ::2]), layer(z)[:, ::2], **EXACT)
    torch.testing.assert_close(layer(z[:1].expand(3, -1, -1)), layer(z[:1]).expand(3, -1, -1), **EXACT)


def test_half_precision_and_autocast_are_near() -> None:
    layer, z = make(dtype=torch.float32), tokens(30, dtype=torch.float32)
    expected = layer(z)
    with torch.autocast("cpu", torch.bfloat16):
        same = [chosen_by(layer, z, execution=execution, fixed=3)[0] for execution in ("gathered", "masked")]
    torch.testing.assert_close(*same, rtol=0.02, atol=0.1)
    assert same[0].dtype == torch.bfloat16
    half = copy.deepcopy(layer).bfloat16()
    close = (half(z.bfloat16()).float() - expected).abs().amax(-1) < 0.3
    assert close.double().mean() > 0.8  # near a border the gate may choose otherwise


# The choice


def test_price_moves_the_choice_and_a_larger_one_spends_less() -> None:
    layer, z = make(least=0), tokens(200)
    shares = [chosen_by(layer, z, price=price)[1].share() for price in (-100, -1, 0, 0.5, 2, 100)]
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (1.0, 0.0)
    assert len(set(shares)) > 3
    said = chosen_by(layer, z, price=0.5)[1]
    assert torch.equal(said.learners, (layer.gate(z) - 0.5 * torch.arange(N + 1)).argmax(-1))


def test_the_choice_in_training_is_drawn_with_gumbel_noise_and_is_whole() -> None:
    layer, z = make(least=0, dtype=torch.float32).train(), tokens(500, dtype=torch.float32)
    layer.generator = torch.Generator().manual_seed(5)
    out, said = chosen_by(layer, z)
    same = gumbel_softmax(layer.gate(z), 0.8, hard=True, generator=torch.Generator().manual_seed(5))
    assert torch.equal(said.learners, same.argmax(-1))
    assert torch.equal(said.used, (said.learners[:, None] > torch.arange(N)).float())  # ones and zeros to the bit
    torch.testing.assert_close(out, layer._masked(z, said.used > 0), **NEAR)
    assert not torch.equal(chosen_by(layer, z)[1].learners, said.learners)


def test_how_often_each_number_is_drawn_is_its_softmax() -> None:
    # 20,000 draws; a share is off by 0.02 with probability below 2 exp(-2 · 20000 · 0.0004) = 2e-7 (Hoeffding)
    layer = make(least=1).train()
    layer.generator = torch.Generator().manual_seed(0)
    z = tokens(1).expand(20_000, -1)
    k = chosen_by(layer, z)[1].learners
    shares = torch.bincount(k, minlength=N + 1)[1:] / len(k)
    torch.testing.assert_close(shares.double(), layer.gate(z[0]).softmax(-1), rtol=0, atol=0.02)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("least", [0, 1])
def test_the_tasks_gradient_reaches_the_gate_whatever_the_execution(execution, least: int) -> None:
    layer = make(execution=execution, least=least).train()
    layer(tokens(50)).square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad.abs().max() > 1e-6


def test_the_gradient_of_the_gate_is_that_of_the_relaxed_choice() -> None:
    layer, z = make(least=0).train(), tokens(12)
    weight, gate = tokens(12, seed=9)[:, :OUT], list(layer.gate.parameters())
    layer.generator = torch.Generator().manual_seed(1)
    mine = torch.autograd.grad((layer(z) * weight).sum(), gate)
    # choosing j learners gives h(z, j), so that ∂ Σ w·y / ∂ choice_j = w·h(z, j)
    worth = (torch.cat([torch.zeros(1, 12, OUT), layer.prefixes(z)]).detach() * weight).sum(-1).T
    soft = gumbel_softmax(layer.gate(z), 0.8, generator=torch.Generator().manual_seed(1))
    for got, expected in zip(mine, torch.autograd.grad((worth * soft).sum(), gate), strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_the_gate_is_no_linear_map() -> None:
    layer, z = make(), tokens(20)
    zero = layer.gate(torch.zeros_like(z))
    assert (layer.gate(2 * z) - 2 * layer.gate(z) + zero).abs().max() > 0.1


def test_a_fixed_k_needs_no_gate_and_trains_the_learners_alone() -> None:
    layer = make(fixed=3).train()
    layer(tokens(10)).square().sum().backward()
    assert all(parameter.grad is None for parameter in layer.gate.parameters())
    assert layer.expand.grad[: 3 * layer.each].abs().amax(-1).min() > 0
    assert layer.expand.grad[3 * layer.each :].abs().max() == 0


# What it costs


def test_flops_are_a_line_in_the_sum_of_k() -> None:
    layer, z = make(least=0, dtype=torch.float32), tokens(64, dtype=torch.float32)
    gate = count(layer.gate, z).flops
    each = 2 * layer.each * (DIM + OUT)
    seen = set()
    for price in (-100, -0.5, 0, 0.3, 1, 100):
        with torch.no_grad(), setting(layer, AdaptiveComputationModule, price=price):
            total = int(chosen_by(layer, z)[1].learners.sum())
            assert count(layer, z).flops == gate + each * total
            seen.add(total)
    assert {0, 64 * N} < seen
    assert chosen_by(layer, z)[1].flops == each
    with setting(layer, AdaptiveComputationModule, execution="masked", price=100):
        assert count(layer, z).flops == gate + each * 64 * N


# Conversion


@pytest.mark.parametrize("learners", [1, 2, 4])
def test_converted_layers_cost_what_they_did(learners: int) -> None:
    torch.manual_seed(0)
    gated = nn.Sequential(GatedFeedForward(32, 88), nn.Linear(32, 48), GatedFeedForward(48, 96))
    for model, linear, x in [
        (vit(dim=32, heads=2), ("query_key_value", "attention.output"), images(2)),
        (gated, ("1",), torch.randn(5, 32)),
    ]:
        before = count(model, x).flops
        made = acmize(copy.deepcopy(model), learners=learners, linear=linear)
        with setting(made, AdaptiveComputationModule, fixed=learners):
            assert count(made, x).flops == pytest.approx(before, rel=0.06)
        gates = sum(count(one.gate, torch.zeros(1, one.dim)).flops for one in acm_layers(made).values())
        learned = sum(2 * one.hidden * (one.dim + one.out) for one in acm_layers(made).values())
        assert gates < 0.1 * learned
        assert made(x).shape == model(x).shape


def test_what_a_block_adds_may_be_nothing_and_what_replaces_may_not() -> None:
    model = acmize(vit(), linear=("query_key_value", "output"))
    least = {name: layer.least for name, layer in acm_layers(model).items()}
    assert least == {
        f"blocks.{block}.{name}": int("query" in name)
        for block in (0, 1)
        for name in ("attention.query_key_value", "attention.output", "feed_forward")
    }
    plain = acmize(nn.Sequential(nn.Linear(8, 8), FeedForward(8)))
    assert [layer.least for layer in acm_layers(plain).values()] == [1]
    named = acmize(nn.Sequential(nn.Linear(8, 8), FeedForward(8)), added=("1",))
    assert [layer.least for layer in acm_layers(named).values()] == [0]


def test_copied_neurons_are_the_layer_but_for_its_last_bias() -> None:
    model = FeedForward(8, 32)
    made, z = acmize(model, learners=4), torch.randn(5, 8)
    with setting(made, AdaptiveComputationModule, fixed=4):
        torch.testing.assert_close(made.eval()(z), model(z) - model.contract.bias, **NEAR)
    sizes = made.expand.norm(dim=1) * made.contract.norm(dim=1)
    assert (sizes[:-1] >= sizes[1:] - 1e-6).all()
    fresh = acmize(model, learners=4, copy=False)
    assert not torch.isin(fresh.expand, model.expand.weight).any()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dim", "out", "learners"), [(16, 16, 2), (16, 48, 4), (12, 5, 1), (16, 16, 8)])
def test_a_linear_layer_starts_as_its_largest_singular_directions(dim, out, learners: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer, z = nn.Linear(dim, out, bias=bias).double(), torch.randn(9, dim, dtype=torch.float64)
    made = acmize(layer, learners=learners).eval()
    u, sizes, v = torch.linalg.svd(layer.weight)
    taken = 0
    for k in range(1, learners + 1):
        taken += (made.each - int(bias and k == 1)) // 2
        best = u[:, :taken] @ sizes[:taken].diag() @ v[:taken]
        expected = z @ best.T + (layer.bias if bias else 0)
        torch.testing.assert_close(chosen_by(made, z, fixed=k)[0], expected, **EXACT)


def test_it_converts_parts_of_any_model_once_each() -> None:
    class Llama(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 24), nn.Linear(8, 24), nn.Linear(24, 8)
            self.act_fn = nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    shared = FeedForward(8, 24)
    model = nn.ModuleDict({"a": shared, "b": shared, "c": Llama(), "d": nn.Sequential(nn.Linear(8, 16), nn.ReLU())})
    model["e"] = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    model["f"] = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))  # a head, and no feed-forward part
    acmize(model, learners=2)
    assert list(acm_layers(model)) == ["a", "c", "e"]
    assert model["a"] is model["b"]
    assert model["c"].hidden == 36
    assert model["e"].hidden == 16


def test_type_mode_and_device_are_kept() -> None:
    model = vit().double().eval()
    made = acmize(copy.deepcopy(model))
    assert all(layer.expand.dtype == torch.float64 and not layer.training for layer in acm_layers(made).values())
    assert made(images().double()).dtype == torch.float64


def test_a_language_model_still_writes_with_its_cache() -> None:
    torch.manual_seed(0)
    model = CausalLM(vocabulary=11, dim=16, depth=2, heads=2).eval()
    acmize(model, linear=("query_key_value", "attention.output"))
    text = torch.randint(11, (2, 7), generator=torch.Generator().manual_seed(0))
    cache = model.new_cache()
    one_by_one = torch.cat([model(token, cache=cache) for token in text.split(1, dim=1)], dim=1)
    torch.testing.assert_close(one_by_one, model(text), rtol=1e-4, atol=1e-4)


# Learners


def test_distilling_brings_every_prefix_nearer_and_longer_ones_nearest() -> None:
    teacher = vit(seed=1)
    model = acmize(copy.deepcopy(teacher), linear=("attention.output",), copy=False)
    start = prefix_errors(model, teacher, images(64, seed=99))
    gates = copy.deepcopy([layer.gate.state_dict() for layer in acm_layers(model).values()])
    teacher.train()
    history = distill(model, teacher, lambda step: images(16, seed=step), steps=80, lr=5e-3, progress=False)
    end = prefix_errors(model, teacher, images(64, seed=99))
    assert len(history.losses) == 80
    for name, errors in end.items():
        assert start[name][0] == errors[0] == 1
        assert all(now < before for now, before in zip(errors[1:], start[name][1:], strict=True))
        assert all(b < a for a, b in pairwise(errors))
    for layer, gate in zip(acm_layers(model).values(), gates, strict=True):
        assert all(torch.equal(gate[key], value) for key, value in layer.gate.state_dict().items())
    assert teacher.training
    assert not any(parameter.grad is not None for parameter in teacher.parameters())
    assert not any(module._forward_hooks for module in teacher.modules())


def test_the_error_of_a_prefix_reaches_all_of_its_learners() -> None:
    layer, z = make(), tokens(7)
    target = tokens(7, seed=4)[:, :OUT]
    (layer.prefixes(z)[1] - target).square().sum().backward()
    reached = layer.contract.grad.abs().amax(-1).unflatten(0, (N, layer.each))
    assert (reached[:2] > 0).all()  # learner 1 too: what it gives is not taken as given
    assert (reached[2:] == 0).all()


def test_distilling_can_be_interrupted(tmp_path) -> None:
    def run(checkpoint, stop: int | None) -> tuple[dict[str, Tensor], list[float]]:
        teacher = vit(seed=1)
        model = acmize(copy.deepcopy(teacher), copy=False) if torch.manual_seed(3) else None

        def batches(step: int) -> Tensor:
            if step == stop:
                raise KeyboardInterrupt
            return images(4, seed=step)

        history = distill(model, teacher, batches, steps=6, checkpoint=checkpoint, every=2, progress=False)
        return model.state_dict(), history.losses

    whole, losses = run(None, None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run.pt", 3)
    resumed, again = run(tmp_path / "run.pt", None)
    assert losses == again
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


# Gates


def test_a_token_gets_as_many_learners_as_still_help() -> None:
    errors = torch.tensor(
        [[8.0, 4, 3.9, 1, 0.5], [8, 9, 1, 1, 1], [8, 4, 2, 1, 0.5], [8, 4, 2, 2, 0], [0, 0, 0, 0, 0]]
    ).T
    assert gate_targets(errors).tolist() == [1, 0, 4, 2, 0]
    assert gate_targets(errors, 1.0).tolist() == [4, 0, 4, 2, 0]
    assert gate_targets(errors[1:]).tolist() == [0, 1, 3, 1, 0]  # counted from the fewest that are allowed


def test_gates_learn_their_targets_and_the_learners_stay() -> None:
    teacher = vit(seed=1)
    model = acmize(copy.deepcopy(teacher))
    distill(model, teacher, lambda step: images(16, seed=step), steps=40, lr=3e-3, progress=False)
    kept = {name: layer.expand.clone() for name, layer in acm_layers(model).items()}
    history = pretrain_gates(model, teacher, lambda step: images(16, seed=step), steps=60, progress=False)
    assert sum(history.losses[-10:]) < 0.9 * sum(history.losses[:10])
    assert all(torch.equal(kept[name], layer.expand) for name, layer in acm_layers(model).items())


def test_gates_learn_the_errors_themselves_where_they_are_asked_to() -> None:
    torch.manual_seed(0)
    teacher, scale = FeedForward(8, 16), 10.0
    model = acmize(copy.deepcopy(teacher), added=("",))

    def off() -> Tensor:
        z = tokens(300)[:, :1].float() * torch.linspace(0.2, 1, 8)
        t = teacher(z).detach()
        errors = torch.stack([(one - t).square().sum(-1) for one in [torch.zeros_like(t), *model.prefixes(z)]])
        wanted = -scale * (errors / t.square().sum(-1)).clamp_max(3).T
        return (model.gate(z) - wanted).detach().abs().mean()

    def batches(step: int) -> Tensor:
        return torch.randn(64, 1, generator=torch.Generator().manual_seed(step)) * torch.linspace(0.2, 1, 8)

    before = off()
    pretrain_gates(model, teacher, batches, steps=250, scale=scale, progress=False)
    assert off() < 0.5 * before
    for wrong in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="scale must be positive"):
            pretrain_gates(model, teacher, batches, steps=1, scale=wrong)


@pytest.mark.parametrize("scale", [None, 10.0])
def test_in_half_precision_gates_learn_the_errors_of_large_features(scale: float | None) -> None:
    """Squares of these features are beyond float16, and the features are not."""
    torch.manual_seed(0)
    teacher = FeedForward(64, 256).half()
    model = acmize(teacher, added=("",))
    with torch.no_grad():
        for weight in (teacher.contract.weight, model.contract):
            weight.mul_(400)
        model.gate[2].bias[:] = torch.linspace(0, 40, N + 1)  # each other target is another loss
    z = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).half()
    t = teacher(z).detach()
    assert t.isfinite().all()
    assert t.square().sum(-1).isinf().any()

    def losses(like: torch.dtype) -> list[float]:
        """Of gates that are alike, with learners and a teacher in a precision."""
        trained, taught = copy.deepcopy(model).to(like), copy.deepcopy(teacher).to(like)
        return pretrain_gates(trained, taught, lambda _: z.to(like), steps=1, scale=scale, progress=False).losses

    assert losses(torch.float16) == pytest.approx(losses(torch.float32), rel=0.02)


def test_an_error_beyond_three_times_the_target_counts_as_three() -> None:
    teacher = FeedForward(8, 16)
    model = acmize(copy.deepcopy(teacher), added=("",))
    with torch.no_grad():
        model.contract.fill_(1e3)  # every prefix is far off
        for one in model.gate.parameters():
            one.zero_()
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    (loss,) = pretrain_gates(model, teacher, lambda _: z, steps=1, scale=10.0, progress=False).losses
    wanted = torch.tensor([-10.0, *[-30.0] * model.learners])[model.least :]  # none is off by the target itself
    torch.testing.assert_close(model.gate[-1].bias.detach(), wanted)
    assert loss == pytest.approx(0, abs=1e-9)


def test_gates_of_small_features_know_the_mean_errors_from_the_first_step_on() -> None:
    torch.manual_seed(0)
    teacher, scale = FeedForward(8, 16), 20.0
    model = acmize(copy.deepcopy(teacher), added=("",))
    z = 1e-3 * torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    pretrain_gates(model, teacher, lambda _: z, steps=5, scale=scale, progress=False)
    t = teacher(z)
    errors = torch.stack([(one - t).square().sum(-1) for one in (t * 0, *model.prefixes(z))]) / t.square().sum(-1)
    torch.testing.assert_close(model.gate(z).mean(0), -scale * errors.mean(1), rtol=0, atol=0.6)
    assert model.gate(z)[:, 0].max() < -19


def test_a_gate_that_is_sure_and_wrong_has_a_gradient_of_ordinary_size() -> None:
    teacher = vit(seed=1)
    model = acmize(copy.deepcopy(teacher))
    for layer in acm_layers(model).values():
        with torch.no_grad():
            layer.gate[2].bias[:] = torch.tensor([0.0, 0, 0, 0, 300])
    seen = []

    def look(parameter: Tensor) -> None:
        seen.append(parameter.grad.norm().item())

    handles = [layer.gate[2].bias.register_post_accumulate_grad_hook(look) for layer in acm_layers(model).values()]
    pretrain_gates(model, teacher, lambda step: images(8), steps=1, progress=False)
    assert len(seen) == len(handles)
    assert 0 < max(seen) < 2


# Budgets


def said(k: Tensor, *, of: int = N, flops: int = 10, logits: Tensor | None = None) -> dict[str, list[LearnersChosen]]:
    used = (k[..., None] > torch.arange(of)).double()
    return {"": [LearnersChosen(logits, k, used, of, flops)]}


@pytest.mark.parametrize("budget", [0.25, 0.4, 0.6, 1])
def test_the_budget_loss_is_zero_at_its_budget_and_grows_to_both_sides(budget: float) -> None:
    share = round(budget * 20)
    k = torch.full((20, 1), 4)
    k[share:] = 0
    assert budget_loss(said(k), budget).item() == pytest.approx(0, abs=1e-12)
    assert budget_loss(said(torch.zeros_like(k)), budget).item() == pytest.approx(budget)
    assert budget_loss(said(torch.full_like(k, 4)), budget).item() == pytest.approx(1 - budget)


def test_the_budget_counts_what_a_learner_costs() -> None:
    dear, cheap = said(torch.tensor([4, 4]), flops=30), said(torch.tensor([0, 0]), flops=10)
    assert budget_loss({"a": dear[""], "b": cheap[""]}, 0.75).item() == pytest.approx(0, abs=1e-12)
    evaluated = {"a": [one._replace(used=None) for one in dear[""]], "b": cheap[""]}
    assert budget_loss(evaluated, 0.5).item() == pytest.approx(0.25)


@pytest.mark.parametrize("choices", [2, 5])
def test_the_entropy_loss_is_minus_one_where_all_choices_are_as_likely(choices: int) -> None:
    def loss(logits: Tensor) -> float:
        return entropy_loss(said(torch.ones(len(logits), dtype=torch.int64), logits=logits)).item()

    assert loss(torch.zeros(6, choices)) == pytest.approx(-1)
    one_each = 1e4 * torch.eye(choices)
    assert loss(one_each) == pytest.approx(-1)  # the average counts: each token may be sure
    assert loss(one_each[:1].expand(6, -1)) == pytest.approx(0)
    logits = (-1e4 * torch.eye(choices)[:1]).expand(6, -1).clone().requires_grad_()
    entropy_loss(said(torch.ones(6, dtype=torch.int64), logits=logits)).backward()
    assert logits.grad.isfinite().all()


def test_the_diversity_loss_falls_where_samples_differ() -> None:
    alike, apart = torch.full((4, 3), 2), torch.tensor([[0] * 3, [0] * 3, [4] * 3, [4] * 3])
    assert diversity_loss(said(alike)).item() == 0
    assert diversity_loss(said(apart)).item() == pytest.approx(-4 / 3)
    within = torch.tensor([[0, 4], [4, 0]])
    assert diversity_loss(said(within)).item() == 0  # it compares samples, not tokens
    slow = torch.tensor([[0, 1, 4], [2, 2, 3], [4, 4, 4]])
    b = slow.double().mean(1) / 4
    pairs = [abs(b[i] - b[m]).item() for i in range(3) for m in range(3) if i != m]
    assert diversity_loss(said(slow)).item() == pytest.approx(-2 * sum(pairs) / len(pairs))


def test_the_losses_are_weighted_and_each_can_be_left_out() -> None:
    model = acmize(vit()).train()
    with record(model, AdaptiveComputationModule) as records:
        task = F.cross_entropy(model(images()), torch.tensor([0, 1, 2, 0, 1, 2]))
    parts = acm_loss(records, budget=0.3)
    expected = 0.1 * budget_loss(records, 0.3) + 0.05 * entropy_loss(records) + 0.05 * diversity_loss(records)
    torch.testing.assert_close(parts.total, expected)
    alone = acm_loss(records, budget=0.3, entropy_weight=0, diversity_weight=0)
    torch.testing.assert_close(alone.total, 0.1 * budget_loss(records, 0.3))
    assert (alone.entropy, alone.diversity) == (0, 0)
    (task + parts.total).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("budget", [0.25, 0.75])
def test_fine_tuning_meets_the_budget_and_gives_more_where_the_task_needs_it(budget: float) -> None:
    """Tokens of two kinds: of the first the answer is 0, of the second it is what all learners together give."""
    torch.manual_seed(0)
    teacher = FeedForward(8, 16)
    layer = acmize(teacher, learners=4, added=("",)) if budget else None
    layer.generator = torch.Generator().manual_seed(0)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        z = torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(step))
        hard = z[..., :1] > (0.6745 if budget < 0.5 else -0.6745)
        return z, torch.where(hard, 12 * teacher(z).detach(), 0)

    def loss(step: int) -> Tensor:
        z, target = batch(step)
        with record(layer, AdaptiveComputationModule) as records:
            task = (layer(z) - target).square().mean()
        return task + acm_loss(records, budget=budget, budget_weight=2, diversity_weight=0).total

    train(layer, loss, steps=250, lr=1e-2, weight_decay=0.0, progress=False)
    z, target = batch(10**6)
    k = chosen_by(layer.eval(), z)[1].learners.double()
    hard = target.abs().sum(-1) > 0
    assert k[hard].mean() > k[~hard].mean() + 1
    assert (k.mean() / 4).item() == pytest.approx(budget, abs=0.15)


# Bad input


@pytest.mark.usefixtures("as_users_run_it")
def test_sizes_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match=r"more learners than neurons: hidden=3, learners=4; take hidden=4"):
        AdaptiveComputationModule(8, 3, learners=4)
    with pytest.raises(ValueError, match="do not divide among the learners: hidden=10, learners=4; take hidden=12"):
        AdaptiveComputationModule(8, 10, learners=4)
    with pytest.raises(ValueError, match="least must be 0 … 1 learners of a token; got 2"):
        AdaptiveComputationModule(8, least=2)
    with pytest.raises(TypeError, match="learners must be an int"):
        AdaptiveComputationModule(8, learners=2.0)


@pytest.mark.parametrize("knob", [{"fixed": 5}, {"fixed": -1}, {"rows": 0}, {"tau": 0}, {"price": math.nan}])
def test_a_knob_is_checked_at_every_use(knob) -> None:
    layer = make()
    for name, value in knob.items():
        setattr(layer, name, value)
    with pytest.raises(ValueError, match=next(iter(knob))):
        layer(tokens(3))


@pytest.mark.usefixtures("as_users_run_it")
def test_fused_without_a_kernel_says_where_there_is_one() -> None:
    with pytest.raises(ValueError, match=r"call dynlib\.kernels\.fuse\(model\)"):
        make(execution="fused")
    with pytest.raises(ValueError, match="execution must be one of"):
        make(execution="dense")


@pytest.mark.usefixtures("as_users_run_it")
def test_tokens_that_do_not_fit_are_errors() -> None:
    layer = make()
    with pytest.raises(TypeError, match=r"the tokens are torch\.float32 and the weights torch\.float64: convert"):
        layer(tokens(3, dtype=torch.float32))
    with pytest.raises(TypeError, match="must be floating-point"):
        layer(torch.ones(3, DIM, dtype=torch.int64))
    with pytest.raises(TypeError, match="must be a tensor; got list"):
        layer([[0.0] * DIM])
    with pytest.raises(ValueError, match=r"tokens must be \[\.\.\., 6\]; got \(3, 5\)"):
        layer(tokens(3)[:, :5])
    with pytest.raises(ValueError, match="a logit is NaN"):
        layer(tokens(3) * math.nan)


@pytest.mark.parametrize("budget", [0, -0.1, 1.01, math.nan])
def test_a_budget_is_a_share_above_zero(budget: float) -> None:
    k = said(torch.ones(3, 2, dtype=torch.int64))
    for weight in (0.1, 0):  # also where it weighs nothing
        with pytest.raises(ValueError, match="budget must be positive and at most 1"):
            acm_loss(k, budget=budget, budget_weight=weight)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("budget", ["0.5", None, True])
def test_a_budget_is_a_number(budget) -> None:
    with pytest.raises(TypeError, match="budget must be a number"):
        budget_loss(said(torch.ones(3, 2, dtype=torch.int64)), budget)


def test_losses_of_what_says_nothing_are_errors() -> None:
    with pytest.raises(ValueError, match="nothing was recorded"):
        budget_loss({"": []}, 0.5)
    with pytest.raises(ValueError, match="asked no gate: set fixed=None"):
        entropy_loss(said(torch.ones(3, 2, dtype=torch.int64)))
    for shape in ((5,), (1, 5)):
        with pytest.raises(ValueError, match="two samples or more"):
            diversity_loss(said(torch.ones(shape, dtype=torch.int64)))


def test_a_model_with_nothing_to_convert_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Sequential has nothing to convert: .* Its linear layers are 0, 2:"):
        acmize(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)))
    with pytest.raises(ValueError, match=r"linear names 'fc', which ends no name here; there are blocks\.0"):
        acmize(vit(), linear=("fc",))
    with pytest.raises(ValueError, match="added names 'head'"):
        acmize(vit(), added=("head",))
    with pytest.raises(TypeError, match="linear must be a sequence of endings"):
        acmize(vit(), linear="output")
    with pytest.raises(TypeError, match="linear1 belongs to TransformerEncoderLayer, which reads its weight"):
        acmize(nn.TransformerEncoderLayer(8, 2), linear=("linear1",))


def test_where_one_layer_cannot_be_converted_none_is() -> None:
    model = vit()
    model.blocks[1].feed_forward = FeedForward(16, 3)
    with pytest.raises(ValueError, match=r"blocks\.1\.feed_forward costs as much as 3 neurons, too few for 8"):
        acmize(model, learners=8)
    assert type(model.blocks[0].feed_forward) is FeedForward
    model = vit()
    model.blocks[1].feed_forward.expand.register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match="hook"):
        acmize(model)
    assert type(model.blocks[0].feed_forward) is FeedForward


def test_a_teacher_that_is_none_is_an_error() -> None:
    model = acmize(vit())
    with pytest.raises(ValueError, match=r"is an AdaptiveComputationModule itself: give a copy\.deepcopy"):
        prefix_errors(model, model, images())
    with pytest.raises(ValueError, match=r"the teacher has no layer 'blocks\.1\.feed_forward'"):
        prefix_errors(model, vit(depth=1), images())
    with pytest.raises(ValueError, match="of 16 to 16 features and the teacher's layer of 32 to 32"):
        prefix_errors(model, vit(dim=32), images())
    with pytest.raises(ValueError, match="has no AdaptiveComputationModule"):
        distill(vit(), vit(), lambda step: images(), steps=1)
    with pytest.raises(ValueError, match="threshold"):
        pretrain_gates(model, vit(), lambda step: images(), steps=1, threshold=1.5)


def test_what_looks_at_the_choice_says_so_where_nobody_may() -> None:
    layer, z = make(), tokens(3, 4)
    with pytest.raises(RuntimeError, match="execution='masked'"):
        torch.func.vmap(layer)(z)
    layer.execution = "masked"
    torch.testing.assert_close(torch.func.vmap(layer)(z), layer(z), **EXACT)


def test_nothing_is_warned_of_where_nothing_is_wrong() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = make()
        layer(tokens(9))
        layer.train()(tokens(9)).sum().backward()
