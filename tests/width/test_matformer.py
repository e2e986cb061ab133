"""MatFormer: a slice against standalone layers with copied weights, neuron by neuron, and what training reaches."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dynlib.backbone import CausalLM, FeedForward, ViT
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.width.feed_forward import GatedFeedForward
from dynlib.width.joint import joint_loss, sampled_loss
from dynlib.width.matformer import MatFormerFeedForward, extract, layer_widths, matformer

DIM, HIDDEN, WIDTHS = 6, 16, (1 / 8, 1 / 4, 1 / 2, 1)
EXACT = {"rtol": 0, "atol": 1e-12}  # for float64
few = settings(max_examples=40, deadline=None, derandomize=True)


def make_layer(*, gated: bool = False, dtype: torch.dtype = torch.float64, seed: int = 0, **options):
    torch.manual_seed(seed)
    layer = MatFormerFeedForward(DIM, HIDDEN, gated=gated, **options).to(dtype)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.7)
    return layer


def make_model(*, dtype: torch.dtype = torch.float64, depth: int = 3, seed: int = 1, widths=WIDTHS) -> CausalLM:
    torch.manual_seed(seed)
    model = CausalLM(vocabulary=11, dim=8, depth=depth, heads=2).to(dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return matformer(model, widths).eval()


def make_tokens(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def make_text(batch: int = 3, length: int = 9) -> Tensor:
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(3))


def by_neurons(layer: MatFormerFeedForward, x: Tensor, k: int) -> Tensor:
    """The formula, a neuron at a time: each of the first k adds its column of W₂, and b₂ comes once."""
    out = layer.contract.bias.expand(*x.shape[:-1], -1).clone()
    for j in range(k):
        up = x @ layer.expand.weight[j] + layer.expand.bias[j]
        if layer.gate is None:
            h = up * 0.5 * (1 + torch.erf(up / math.sqrt(2)))
        else:
            gate = x @ layer.gate.weight[j] + layer.gate.bias[j]
            h = gate * gate.sigmoid() * up
        out = out + h[..., None] * layer.contract.weight[:, j]
    return out


# A width is the first neurons


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("width", [*WIDTHS, 3, 15])
@pytest.mark.parametrize("shape", [(), (4,), (2, 1, 3)])
def test_it_is_its_formula(execution, gated: bool, width, shape: tuple[int, ...]) -> None:
    layer = make_layer(gated=gated, width=width, execution=execution)
    k = layer.hidden(width)
    x = make_tokens(*shape)
    before = x.clone()
    torch.testing.assert_close(layer(x), by_neurons(layer, x, k), **EXACT)
    assert torch.equal(x, before)


@few
@given(st.integers(1, HIDDEN), st.booleans(), st.integers(0, 5))
def test_gathered_is_masked_with_gradients(k: int, gated: bool, tokens: int) -> None:
    layer, results = make_layer(gated=gated), []
    layer.width = k if k > 1 else 1 / HIDDEN
    for execution in ("gathered", "masked"):
        layer.execution = execution
        layer.zero_grad()
        x = make_tokens(2, tokens).requires_grad_()
        out = layer(x)
        (out * torch.arange(1.0, DIM + 1)).sum().backward()
        results.append((out.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())))
    for gathered, masked in zip(*results, strict=True):
        torch.testing.assert_close(gathered, masked, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dim", [6, 64, 96])
def test_an_extracted_layer_is_the_slice_bit_for_bit_and_a_standalone_one_with_copied_weights(
    dtype, gated, dim
) -> None:
    torch.manual_seed(0)
    layer = MatFormerFeedForward(dim, 4 * dim, gated=gated, widths=(1 / 4, 1 / 2, 1)).to(dtype)
    kind = GatedFeedForward if gated else FeedForward
    for width in (*layer.widths, 7, 2 * dim + 1):
        k = layer.hidden(width)
        alone = kind(dim, k).to(dtype)
        with torch.no_grad():
            for name in ("expand", "gate")[: 1 + gated]:
                getattr(alone, name).weight.copy_(getattr(layer, name).weight[:k])
                getattr(alone, name).bias.copy_(getattr(layer, name).bias[:k])
            alone.contract.weight.copy_(layer.contract.weight[:, :k])
            alone.contract.bias.copy_(layer.contract.bias)  # all of it: it belongs to no neuron
        small = extract(layer, width)
        assert type(small) is kind
        assert small.expand.out_features == small.contract.in_features == k
        assert [name for name, _ in small.named_parameters()] == [name for name, _ in alone.named_parameters()]
        for got, expected in zip(small.parameters(), alone.parameters(), strict=True):
            assert torch.equal(got, expected)
            assert got.is_contiguous()
        layer.width = width
        for shape in ((), (1,), (5,), (3, 33)):
            x = torch.randn(*shape, dim).to(dtype)
            expected = layer(x)
            assert expected.dtype == dtype
            assert torch.equal(small(x), expected)
            assert torch.equal(alone(x), expected)
            with torch.inference_mode():
                assert torch.equal(small(x), layer(x))


@pytest.mark.parametrize("gated", [False, True])
def test_all_neurons_are_the_full_layer_bit_for_bit(gated: bool) -> None:
    torch.manual_seed(0)
    full = (GatedFeedForward if gated else FeedForward)(DIM, HIDDEN)
    layer, x = MatFormerFeedForward.of(full, WIDTHS), make_tokens(4, 7, dtype=torch.float32)
    for width in (1, 1.0, HIDDEN):
        layer.width = width
        assert torch.equal(layer(x), full(x))
        assert layer.hidden(width) == HIDDEN


def test_another_neuron_changes_nothing_and_the_output_bias_is_whole_at_every_width() -> None:
    layer, x = make_layer(width=1 / 4), make_tokens(4)
    before = layer(x)
    with torch.no_grad():
        layer.expand.weight[4:], layer.expand.bias[4:], layer.contract.weight[:, 4:] = math.nan, math.nan, math.nan
    assert torch.equal(layer(x), before)
    with torch.no_grad():
        layer.contract.bias += torch.arange(1.0, DIM + 1)
    torch.testing.assert_close(layer(x) - before, torch.arange(1.0, DIM + 1).double().expand(4, -1), **EXACT)


def test_masked_execution_keeps_what_is_not_finite_of_the_others_out_of_the_result() -> None:
    layer, x = make_layer(width=1 / 4), make_tokens(4)
    before = layer(x)
    layer.execution = "masked"
    layer.expand.bias.data[9] = math.inf
    torch.testing.assert_close(layer(x), before, **EXACT)


# What it costs


@pytest.mark.parametrize("gated", [False, True])
def test_flops_and_parameters_are_those_of_the_width(gated: bool) -> None:
    layer, x = make_layer(gated=gated, dtype=torch.float32), make_tokens(5, dtype=torch.float32)
    for width in WIDTHS:
        k, parts = layer.hidden(width), 3 if gated else 2
        parameters = parts * k * DIM + (parts - 1) * k + DIM
        layer.width = width
        cost = count(layer, x)
        assert cost.flops == 2 * 5 * parts * k * DIM
        assert cost.params == parameters
        small = extract(layer, width)
        assert sum(parameter.numel() for parameter in small.parameters()) == parameters
        assert count(small, x).flops == cost.flops
    layer.width, layer.execution = 1 / 8, "masked"
    assert count(layer, x).flops == 2 * 5 * (3 if gated else 2) * HIDDEN * DIM, "masking saves nothing"


def test_an_extracted_model_has_the_parameters_that_it_should() -> None:
    model = make_model()
    everything = sum(parameter.numel() for parameter in model.parameters())
    for widths in (1 / 8, 1, (1, 1 / 4, 1 / 2)):
        each = [widths] * 3 if isinstance(widths, float | int) else widths
        fewer = sum((1 - width) * 32 * (8 + 1 + 8) for width in each)
        assert sum(parameter.numel() for parameter in extract(model, widths).parameters()) == everything - fewer


# Extraction of models


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("widths", [1 / 8, 1 / 4, 1 / 2, 1, 12, (1, 1 / 8, 12)])
def test_an_extracted_model_is_the_model_at_that_width_bit_for_bit(dtype, widths) -> None:
    model, text = make_model(dtype=dtype), make_text()
    small = extract(model, widths)
    with layer_widths(model, widths):
        expected = model(text)
    assert torch.equal(small(text), expected)
    assert not any(isinstance(module, MatFormerFeedForward) for module in small.modules())
    assert all(type(block.feed_forward) is FeedForward for block in small.blocks)
    assert [name for name, _ in small.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert widths == 1 or not torch.equal(model(text), expected)


def test_an_extracted_model_shares_nothing_and_leaves_the_model_as_it_was() -> None:
    model, text = make_model(), make_text()
    model.blocks[1].feed_forward.width = 1 / 2
    model.blocks[0].feed_forward.expand.weight.requires_grad_(False)
    before, state = model(text), copy.deepcopy(model.state_dict())
    small = extract(model, (1 / 4, 1, 1 / 4)).train()
    assert not small.blocks[0].feed_forward.expand.weight.requires_grad
    assert small.blocks[1].feed_forward.expand.weight.requires_grad
    for parameter in small.parameters():
        parameter.data.zero_()
    assert torch.equal(model(text), before)
    assert not model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [block.feed_forward.width for block in model.blocks] == [1, 1 / 2, 1]


def test_mode_and_place_are_kept() -> None:
    model = make_model()
    assert not any(module.training for module in extract(model, 1 / 2).modules())
    assert all(module.training for module in extract(model.train(), 1 / 2).modules())
    assert extract(model.to("meta"), 1 / 2).blocks[0].feed_forward.expand.weight.is_meta


def test_a_layer_in_two_places_is_one_layer_and_stays_one() -> None:
    torch.manual_seed(0)
    model, text = CausalLM(vocabulary=11, dim=8, depth=3, heads=2).double(), make_text()
    model.blocks[2].feed_forward = model.blocks[0].feed_forward
    matformer(model)
    assert model.blocks[2].feed_forward is model.blocks[0].feed_forward
    small = extract(model, (1 / 2, 1 / 4))
    assert small.blocks[2].feed_forward is small.blocks[0].feed_forward
    with layer_widths(model, (1 / 2, 1 / 4)):
        assert torch.equal(small(text), model(text))


def test_other_functions_and_layers_without_bias_come_out_as_what_they_are() -> None:
    torch.manual_seed(0)
    x = make_tokens(5)
    for function, bias in ((nn.ReLU(), True), (nn.GELU(approximate="tanh"), True), (nn.GELU(), False)):
        given_ = nn.Sequential(nn.Linear(DIM, 8, bias=bias), function, nn.Linear(8, DIM, bias=bias)).double()
        layer = MatFormerFeedForward.of(given_, (1 / 2, 1))
        assert torch.equal(layer(x), given_(x))
        small = extract(layer, 1 / 2)
        assert type(small) is nn.Sequential
        assert type(small[1]) is type(function)
        assert small[1] is not function
        layer.width = 1 / 2
        expected = function(x @ given_[0].weight[:4].mT + (given_[0].bias[:4] if bias else 0))
        expected = expected @ given_[2].weight[:, :4].mT + (given_[2].bias if bias else 0)
        torch.testing.assert_close(small(x), expected, **EXACT)
        assert torch.equal(layer(x), small(x))
    gated = GatedFeedForward(DIM, 8, bias=False, activation=nn.ReLU()).double()
    layer = MatFormerFeedForward.of(gated, (1 / 4, 1))
    layer.width = 1 / 4
    small = extract(layer, 1 / 4)
    assert (type(small), type(small.activation), small.gate.bias) == (GatedFeedForward, nn.ReLU, None)
    assert torch.equal(layer(x), small(x))


# Models


def test_a_model_is_changed_in_place_and_is_what_it_was_with_the_very_parameters() -> None:
    torch.manual_seed(0)
    model = CausalLM(vocabulary=11, dim=8, depth=3, heads=2)
    before, parameters, text = model(make_text()), dict(model.named_parameters()), make_text()
    assert matformer(model) is model
    assert torch.equal(model(text), before)
    assert {name: id(value) for name, value in model.named_parameters()} == {n: id(v) for n, v in parameters.items()}
    plain = CausalLM(vocabulary=11, dim=8, depth=3, heads=2)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(text), before)
    assert all(block.feed_forward.widths == WIDTHS for block in model.blocks)
    matformer(model, (1 / 2, 1))  # again, for other widths
    assert all(block.feed_forward.widths == (1 / 2, 1) for block in model.blocks)
    assert torch.equal(model(text), before)


def test_images_have_a_width_too() -> None:
    torch.manual_seed(0)
    model = matformer(ViT(image_size=8, patch_size=4, classes=3, dim=8, depth=2, heads=2)).eval()
    images = torch.rand(2, 1, 8, 8)
    with layer_widths(model, (1 / 4, 1 / 2)):
        expected = model(images)
    assert torch.equal(extract(model, (1 / 4, 1 / 2))(images), expected)


@pytest.mark.parametrize("width", WIDTHS)
def test_step_by_step_with_a_cache_is_the_whole_sequence_without_at_every_width(width) -> None:
    model, text = make_model(), make_text()
    with setting(model, MatFormerFeedForward, width=width):
        cache = model.new_cache()
        pieces = [model(part, cache=cache) for part in text.split([4, 1, 3, 1], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(text), **EXACT)
        written = model.generate(text[:, :3], 8)
        assert torch.equal(written, model.generate(text[:, :3], 8, use_cache=False))
    assert torch.equal(written, extract(model, width).generate(text[:, :3], 8))


# Training


@pytest.mark.parametrize("gated", [False, True])
def test_a_neuron_has_a_gradient_from_the_wider_widths_alone(gated: bool) -> None:
    """Joint training reaches neuron j as often as there are widths k > j: 4 times, 3, 2, 1."""
    layer, x = make_layer(gated=gated), make_tokens(9)
    counts = torch.zeros(HIDDEN, dtype=torch.int64)
    for width in WIDTHS:
        layer.zero_grad()
        with setting(layer, MatFormerFeedForward, width=width):
            layer(x).square().sum().backward()
        k = layer.hidden(width)
        reached = torch.arange(HIDDEN) < k
        for linear in (layer.expand, layer.gate):
            if linear is not None:
                assert torch.equal(linear.weight.grad.abs().sum(1) > 0, reached)
                assert torch.equal(linear.bias.grad != 0, reached)
        assert torch.equal(layer.contract.weight.grad.abs().sum(0) > 0, reached)
        assert (layer.contract.bias.grad != 0).all()
        counts += reached
    assert counts.tolist() == [4] * 2 + [3] * 2 + [2] * 4 + [1] * 8


@pytest.mark.parametrize("gated", [False, True])
def test_the_gradient_of_a_slice_is_that_of_the_standalone_layer(gated: bool) -> None:
    layer, x = make_layer(gated=gated, width=3), make_tokens(4)
    small = extract(layer, 3)
    layer(x).square().sum().backward()
    small(x).square().sum().backward()
    for name in ("expand", "gate")[: 1 + gated]:
        torch.testing.assert_close(getattr(layer, name).weight.grad[:3], getattr(small, name).weight.grad, **EXACT)
    torch.testing.assert_close(layer.contract.weight.grad[:, :3], small.contract.weight.grad, **EXACT)
    torch.testing.assert_close(layer.contract.bias.grad, small.contract.bias.grad, **EXACT)
    assert torch.autograd.gradcheck(layer, (x[:2].requires_grad_(),))


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_the_joint_loss_is_the_mean_over_widths_and_the_sum_is_as_many_times_as_large() -> None:
    model, text = make_model(), make_text()

    def loss() -> Tensor:
        return F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())

    each = []
    for width in WIDTHS:
        with setting(model, MatFormerFeedForward, width=width):
            each.append(loss())
    assert len({value.item() for value in each}) == 4
    mean, total = joint_loss(model, loss), joint_loss(model, loss, weights=(1, 1, 1, 1))
    torch.testing.assert_close(mean, sum(each) / 4, **EXACT)
    torch.testing.assert_close(total, sum(each), **EXACT)
    torch.testing.assert_close(
        joint_loss(model, loss, weights=(0.1, 0.2, 0, 0.7)), 0.1 * each[0] + 0.2 * each[1] + 0.7 * each[3], **EXACT
    )
    of_mean, of_sum = gradients(model, mean), gradients(model, total)
    for small, large in zip(of_mean, of_sum, strict=True):
        torch.testing.assert_close(4 * small, large, rtol=1e-12, atol=1e-14)
    # the same step of plain gradient descent goes four times as far by the sum
    far = [torch.cat([(0.1 * g).flatten() for g in some]).norm() for some in (of_mean, of_sum)]
    assert (far[1] / far[0]).item() == pytest.approx(4)
    assert [layer.width for layer in model.modules() if isinstance(layer, MatFormerFeedForward)] == [1, 1, 1]


def test_sampled_training_draws_each_width_evenly_and_the_same_for_all_layers() -> None:
    model, text = make_model(depth=2), make_text(1, 2)
    generator, drawn = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for _ in range(200):
            with record(model, MatFormerFeedForward) as records:
                sampled_loss(model, lambda: model(text).sum(), generator=generator)
            (first,), (second,) = records.values()
            assert first == second
            drawn.append(first.neurons)
    assert set(drawn) == {4, 8, 16, 32}
    # 200 draws with p = 1/4; Hoeffding, 4 widths: P(any |share − p| ≥ 0.14) ≤ 8 exp(−2 · 200 · 0.14²) < 0.004; one seed
    assert all(abs(drawn.count(k) / 200 - 1 / 4) < 0.14 for k in set(drawn))
    again = torch.Generator().manual_seed(0)
    with torch.no_grad(), record(model, MatFormerFeedForward) as records:
        for _ in range(20):
            sampled_loss(model, lambda: model(text).sum(), generator=again)
    assert [one.neurons for one in next(iter(records.values()))] == drawn[:20]
    torch.manual_seed(4)
    state = torch.get_rng_state()
    sampled_loss(model, lambda: model(text).sum(), generator=generator)
    assert torch.equal(torch.get_rng_state(), state)
    sampled_loss(model, lambda: model(text).sum())
    assert not torch.equal(torch.get_rng_state(), state)
    assert model.blocks[0].feed_forward.width == 1


def test_joint_training_orders_neurons_that_had_no_order() -> None:
    """A regression that 2 neurons cannot do as well as 16: after joint training each width is better than its slice."""
    torch.manual_seed(0)
    x = torch.randn(256, DIM)
    y = torch.stack([(x @ torch.randn(DIM)).sin() for _ in range(DIM)], dim=1)
    start, losses = MatFormerFeedForward(DIM, HIDDEN), {}
    for way in ("full", "joint"):
        layer = copy.deepcopy(start)

        def loss(layer: nn.Module = layer) -> Tensor:
            return F.mse_loss(layer(x), y)

        optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            (loss() if way == "full" else joint_loss(layer, loss)).backward()
            optimizer.step()
        for width in WIDTHS:
            with setting(layer, MatFormerFeedForward, width=width), torch.no_grad():
                losses[way, width] = loss().item()
    joint = [losses["joint", width] for width in WIDTHS]
    assert joint == sorted(joint, reverse=True), "more neurons, less loss"
    assert all(losses["joint", width] < losses["full", width] for width in WIDTHS[:-1])


# The knob


def test_width_is_a_knob_and_what_ran_is_recorded() -> None:
    model, text = make_model(), make_text()
    with record(model, MatFormerFeedForward) as records:
        with setting(model, MatFormerFeedForward, width=1 / 4):
            model(text)
        with layer_widths(model, (1 / 8, 12, 1)):
            model(text)
        model(text)
    assert list(records) == [f"blocks.{depth}.feed_forward" for depth in range(3)]
    assert [[one.neurons for one in calls] for calls in records.values()] == [[8, 4, 32], [8, 12, 32], [8, 32, 32]]
    assert records["blocks.1.feed_forward"][1].share == 12 / 32
    with pytest.raises(ValueError, match="3 layers; got 2"), layer_widths(model, (1 / 8, 1)):
        pass
    with pytest.raises(ValueError, match="at most the layer's 32 neurons"), layer_widths(model, (1 / 8, 1, 33)):
        pass
    with pytest.raises(RuntimeError), layer_widths(model, 1 / 8):
        raise RuntimeError
    assert [block.feed_forward.width for block in model.blocks] == [1, 1, 1]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("width", "error", "says"),
    [
        (0, ValueError, "a width must be positive"),
        (-1 / 4, ValueError, "a width must be positive"),
        (math.nan, ValueError, "a width must be positive"),
        (math.inf, ValueError, "a width must be positive and finite"),
        (17, ValueError, "at most the layer's 16 neurons; got 17"),
        (1.5, ValueError, "a whole number of neurons, and 1.5 of 16 is 1.5"),
        (1 / 3, ValueError, "of 16 is 5.33"),
        (1 / 64, ValueError, "of 16 is 0.25"),
        (True, TypeError, "a width must be a number"),
        ("1", TypeError, "a width must be a number"),
        (None, TypeError, "a width must be a number"),
    ],
)
def test_a_width_that_is_none_is_refused_wherever_it_is_given(width, error, says: str) -> None:
    layer = make_layer()
    for use in (
        lambda: make_layer(width=width),
        lambda: layer.hidden(width),
        lambda: extract(layer, (width,)),
        lambda: setting(layer, MatFormerFeedForward, width=width).__enter__(),
        lambda: MatFormerFeedForward(DIM, HIDDEN, widths=(width, 1)),
    ):
        with pytest.raises(error, match=says):
            use()
    layer.width = width
    with pytest.raises(error, match=says):
        layer(make_tokens(2))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("widths", "error", "says"),
    [
        ((), ValueError, "must ascend"),
        ((1, 1 / 2), ValueError, r"must ascend.* are \[16, 8\] neurons"),
        ((1 / 2, 1 / 2, 1), ValueError, r"are \[8, 8, 16\] neurons"),
        ((1 / 2, 8, 1), ValueError, "must ascend"),
        ((1 / 4, 1 / 2), ValueError, "up to all 16 neurons"),
        ((1 / 2, 32), ValueError, "at most the layer's 16 neurons"),
        (1 / 2, TypeError, "a sequence of numbers"),
        ("1", TypeError, "a sequence of numbers"),
        ({1: 2}, TypeError, "a sequence of numbers"),
    ],
)
def test_widths_that_are_not_nested_are_refused(widths, error, says: str) -> None:
    with pytest.raises(error, match=says):
        MatFormerFeedForward(DIM, HIDDEN, widths=widths)
    model = CausalLM(vocabulary=11, dim=4, depth=1, heads=1)
    with pytest.raises(error):
        matformer(model, widths)
    assert type(model.blocks[0].feed_forward) is FeedForward


def test_shares_and_numbers_name_the_same_widths() -> None:
    layer = MatFormerFeedForward(DIM, 96, widths=(1 / 3, 64, 1.0))
    assert [layer.hidden(width) for width in layer.widths] == [32, 64, 96]
    assert layer.hidden(0.1 * 10) == 96
    assert layer.hidden(2.0) == 2


@pytest.mark.usefixtures("as_users_run_it")
def test_an_execution_of_another_name_and_other_tokens_are_refused() -> None:
    layer = make_layer()
    with pytest.raises(ValueError, match="execution must be"):
        make_layer(execution="fused")
    with pytest.raises(ValueError, match=r"\[\.\.\., 6\]; got \(2, 5\)"):
        layer(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"got \(\)"):
        layer(torch.zeros(()))
    with pytest.raises(TypeError, match="embed them first"):
        layer(torch.zeros(2, 6, dtype=torch.int64))
    with pytest.raises(TypeError, match="tokens must be a tensor"):
        layer([0.0] * 6)
    assert layer(torch.zeros(0, 6, dtype=torch.float64)).shape == (0, 6)


def test_models_without_such_layers_are_refused() -> None:
    for use in (
        lambda: extract(nn.Linear(2, 2), 1),
        lambda: joint_loss(nn.Linear(2, 2), lambda: torch.zeros(())),
        lambda: sampled_loss(nn.Linear(2, 2), lambda: torch.zeros(())),
        lambda: layer_widths(nn.Linear(2, 2), 1).__enter__(),
    ):
        with pytest.raises(ValueError, match="no MatFormerFeedForward"):
            use()
    with pytest.raises(ValueError, match="no feed_forward"):
        matformer(nn.Linear(2, 2))
    model = make_model()
    with pytest.raises(ValueError, match=r"one weight for each .*; got 3"):
        joint_loss(model, lambda: torch.zeros(()), weights=(1, 1, 1))
    with pytest.raises(ValueError, match="a weight must be at least 0"):
        joint_loss(model, lambda: torch.zeros(()), weights=(1, 1, 1, -1))
    model.blocks[0].feed_forward = MatFormerFeedForward.of(model.blocks[0].feed_forward, (1 / 2, 1))
    with pytest.raises(ValueError, match="different widths"):
        sampled_loss(model, lambda: torch.zeros(()))


# What stands around a call


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("gated", "execution"), [(False, "gathered"), (True, "gathered"), (False, "masked")])
def test_it_can_be_exported_compiled_mapped_copied_and_checkpointed_at_any_width(gated: bool, execution) -> None:
    layer, x = make_layer(gated=gated, width=1 / 4, execution=execution), make_tokens(3, 4)
    expected = layer(x)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), expected, **EXACT)
    torch.testing.assert_close(torch.func.vmap(layer)(x), expected, **EXACT)
    assert torch.equal(torch.compile(layer, backend="eager")(x), expected)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again(x), expected)
    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(inputs).square().sum(), inputs)
    (repeated,) = torch.autograd.grad(checkpoint(layer, inputs, use_reentrant=False).square().sum(), inputs)
    assert torch.equal(repeated, gradient)
    # per-sample gradients of every weight, zero where a neuron did not run
    weights = dict(layer.named_parameters())

    def loss(weights: dict[str, Tensor], one: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, (one,)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)
    layer.zero_grad()
    layer(x).square().sum().backward()
    for name, value in weights.items():
        torch.testing.assert_close(per_sample[name].sum(0), value.grad, **EXACT)


def test_it_trains_under_autocast() -> None:
    layer, x = make_layer(dtype=torch.float32, width=1 / 2), make_tokens(3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())
    torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)
