"""Plans for a frozen stack against the same layers called by hand."""

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import CausalLM, ViT
from dynlib.cost import count
from dynlib.depth.painters import (
    Parallel,
    Plan,
    layer_similarity,
    looped_parallel,
    middle_repeat,
    parallel,
    reverse,
    shuffle,
    skip,
)

EXACT = {"rtol": 0, "atol": 1e-12}  # for float64
PLANS: dict[str, Callable[..., Plan]] = {
    plan.__name__: plan for plan in (skip, middle_repeat, reverse, shuffle, parallel, looped_parallel)
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


class Named(nn.Module):
    """Writes its name down, and doubles plus its number: no two orders give the same."""

    def __init__(self, number: int, log: list[int]) -> None:
        super().__init__()
        self.number, self.log = number, log

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(self.number)
        return 2 * x + self.number


def make_named(depth: int) -> tuple[list[Named], list[int]]:
    log: list[int] = []
    return [Named(number, log) for number in range(depth)], log


def wake(model: nn.Module) -> Any:
    """In float64, with weights large enough for every layer to matter."""
    model = model.double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def make_lm(depth: int = 6) -> CausalLM:
    torch.manual_seed(0)
    return wake(CausalLM(vocabulary=11, dim=16, depth=depth, heads=2))


def make_vit(depth: int = 6) -> ViT:
    torch.manual_seed(0)
    return wake(ViT(image_size=8, patch_size=4, classes=5, dim=16, depth=depth, heads=2))


def lm_loss(model: CausalLM, layers: Plan | nn.ModuleList) -> Tensor:
    """Through the model's own embedding and readout, with the layers in between called one after the other."""
    tokens = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(1))
    logits = model.readout(Plan(layers)(model.embed(tokens[:, :-1])))
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def vit_loss(model: ViT, layers: Plan | nn.ModuleList) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64, generator=generator)
    return F.cross_entropy(model.readout(Plan(layers)(model.embed(images))), torch.tensor([0, 3, 1, 4]))


BACKBONES = {"lm": (make_lm, lm_loss), "vit": (make_vit, vit_loss)}
both_backbones = pytest.mark.parametrize(("make", "loss"), BACKBONES.values(), ids=BACKBONES)


def numbers(plan: Plan) -> list[int]:
    return [layer.number for layer in plan]


# ---- which layers run, in which order


def test_the_middle_is_counted_from_zero_without_its_end():
    layers, _ = make_named(7)
    assert numbers(skip(layers, 2, 5)) == [0, 1, 5, 6]
    assert numbers(reverse(layers, 2, 5)) == [0, 1, 4, 3, 2, 5, 6]
    assert numbers(middle_repeat(layers, 2, 5)) == [0, 1, 3, 3, 3, 5, 6]


def test_the_centre_of_an_even_middle_is_the_later_one():
    layers, _ = make_named(8)
    assert numbers(middle_repeat(layers, 2, 6)) == [0, 1, 4, 4, 4, 4, 6, 7]
    assert numbers(middle_repeat(layers, 0, 2)) == [1, 1, 2, 3, 4, 5, 6, 7]
    for first in range(8):
        for last in range(first + 1, 9):
            assert numbers(middle_repeat(layers, first, last))[first:last] == [(first + last) // 2] * (last - first)


@every_plan
def test_what_is_not_the_middle_stays(plan):
    layers, _ = make_named(6)
    made = plan(layers, 1, 4)
    assert made[0] is layers[0]
    assert list(made)[-2:] == layers[4:]


@every_plan
def test_the_middle_may_be_everything_and_the_list_is_left_alone(plan):
    stack = nn.ModuleList(make_named(5)[0])
    before = list(stack)
    made = plan(stack, 0, 5)
    assert list(stack) == before
    assert isinstance(made, Plan)
    assert made is not stack
    assert {id(parameter) for parameter in made.parameters()} == {id(parameter) for parameter in stack.parameters()}


def test_a_plan_calls_its_layers_one_after_the_other():
    layers, log = make_named(5)
    out = reverse(layers, 1, 4)(torch.tensor([1.0]))
    assert log == [0, 3, 2, 1, 4]
    expected = 1.0
    for number in log:
        expected = 2 * expected + number
    assert out.item() == expected


def test_shuffle_draws_every_order_equally_often():
    # χ² with 5 degrees of freedom, n = 1200: above 40.9 with probability 1e-7 if all six orders are equally likely
    layers, _ = make_named(5)
    generator = torch.Generator().manual_seed(0)
    drawn = [tuple(numbers(shuffle(layers, 1, 4, generator=generator))) for _ in range(1200)]
    counts = [drawn.count((0, *order, 4)) for order in permutations([1, 2, 3])]
    assert sum(counts) == 1200
    assert sum((count - 200) ** 2 / 200 for count in counts) < 40.9


def test_shuffle_is_repeatable_and_leaves_the_global_generator_alone():
    layers, _ = make_named(12)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (
        numbers(shuffle(layers, 1, 11, generator=torch.Generator().manual_seed(seed))) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.rand(1), expected)
    assert first == again != other
    assert sorted(first) == list(range(12))


def test_a_shuffled_plan_keeps_its_order():
    layers, log = make_named(9)
    made = shuffle(layers, 0, 9)
    made(torch.zeros(1))
    made(torch.zeros(1))
    assert log[:9] == log[9:] == numbers(made)


# ---- invariants, on both backbones


@both_backbones
def test_a_middle_of_one_layer_is_the_model_itself_unless_skipped(make, loss):
    model = make()
    full = loss(model, model.blocks)
    for name in ("middle_repeat", "reverse", "shuffle", "parallel"):
        assert torch.equal(loss(model, PLANS[name](model.blocks, 2, 3)), full), name
    assert torch.equal(loss(model, looped_parallel(model.blocks, 2, 3, iterations=1)), full)
    assert (loss(model, skip(model.blocks, 2, 3)) - full).abs() > 1e-6


@both_backbones
def test_looping_one_layer_is_applying_it_as_often(make, loss):
    model = make()
    blocks = list(model.blocks)
    for iterations in (1, 2, 5):
        by_hand = Plan([*blocks[:2], *[blocks[2]] * iterations, *blocks[3:]])
        assert torch.equal(loss(model, looped_parallel(blocks, 2, 3, iterations=iterations)), loss(model, by_hand)), (
            iterations
        )


@both_backbones
def test_one_loop_of_parallel_layers_is_parallel(make, loss):
    model = make()
    once = loss(model, parallel(model.blocks, 1, 5))
    assert torch.equal(loss(model, looped_parallel(model.blocks, 1, 5, iterations=1)), once)
    assert (loss(model, looped_parallel(model.blocks, 1, 5)) - once).abs() > 1e-6
    three = looped_parallel(model.blocks, 1, 5, iterations=3)
    assert torch.equal(loss(model, looped_parallel(model.blocks, 1, 5)), loss(model, three))


@both_backbones
def test_reversed_twice_is_as_before(make, loss):
    model = make()
    there = reverse(model.blocks, 1, 5)
    back = reverse(there, 1, 5)
    assert list(back) == list(model.blocks)
    assert torch.equal(loss(model, back), loss(model, model.blocks))
    assert (loss(model, there) - loss(model, model.blocks)).abs() > 1e-6


@both_backbones
def test_a_shuffle_that_moves_nothing_is_the_model_itself(monkeypatch, make, loss):
    model = make()
    full = loss(model, model.blocks)
    assert (loss(model, shuffle(model.blocks, 1, 5, generator=torch.Generator().manual_seed(0))) - full).abs() > 1e-6
    monkeypatch.setattr(torch, "randperm", lambda n, generator=None: torch.arange(n))
    assert torch.equal(loss(model, shuffle(model.blocks, 1, 5)), full)


@both_backbones
def test_skipping_is_the_rest_by_hand(make, loss):
    model = make()
    rest = nn.ModuleList([*model.blocks[:1], *model.blocks[4:]])
    assert torch.equal(loss(model, skip(model.blocks, 1, 4)), loss(model, rest))


@both_backbones
@pytest.mark.parametrize("iterations", [1, 3])
def test_the_mean_of_outputs_is_the_input_and_the_mean_of_the_updates(make, loss, iterations):
    model = make()
    blocks = list(model.blocks)

    class ByHand(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(iterations):
                x = x + sum(block.update(x) for block in blocks[1:5]) / 4
            return x

    by_hand = loss(model, Plan([blocks[0], ByHand(), blocks[5]]))
    made = loss(model, looped_parallel(blocks, 1, 5, iterations=iterations))
    torch.testing.assert_close(made, by_hand, **EXACT)

    class Wrong(nn.Module):  # the input and the sum of the updates
        def forward(self, x: Tensor) -> Tensor:
            return x + sum(block.update(x) for block in blocks[1:5])

    assert (loss(model, Plan([blocks[0], Wrong(), blocks[5]])) - made).abs() > 1e-6


@both_backbones
@every_plan
def test_a_model_whose_blocks_are_a_plan_runs_by_it(make, loss, plan):
    model = make()
    made = plan(model.blocks, 1, 5)
    outside = loss(model, made)
    model.blocks = made
    inputs = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(1))
    if isinstance(model, CausalLM):
        inside = F.cross_entropy(model(inputs[:, :-1]).flatten(0, 1), inputs[:, 1:].flatten())
    else:
        images = torch.rand(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        inside = F.cross_entropy(model(images), torch.tensor([0, 3, 1, 4]))
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("plan", [skip, middle_repeat, reverse, shuffle])
def test_a_plan_of_single_layers_generates_with_a_cache(plan):
    model = make_lm()
    model.blocks = plan(model.blocks, 1, 5)
    prompt = torch.tensor([[1, 2, 3], [9, 8, 7]])
    assert torch.equal(model.generate(prompt, 12), model.generate(prompt, 12, use_cache=False))


def test_parallel_layers_refuse_a_cache_and_generate_without():
    model = make_lm()
    model.blocks = parallel(model.blocks, 1, 5)
    with pytest.raises(ValueError, match=r"here 4 stand side by side: run without one \(generate"):
        model.generate(torch.tensor([[1, 2]]), 2)
    assert model.generate(torch.tensor([[1, 2]]), 2, use_cache=False).shape == (1, 4)


@every_plan
def test_gradients_reach_the_input_and_the_layers_that_run(plan):
    model = make_lm()
    made = plan(model.blocks, 1, 5)
    x = torch.randn(2, 4, 16, dtype=torch.float64, requires_grad=True)
    made(x).square().sum().backward()
    assert x.grad is not None
    for block in model.blocks:
        runs = any(block is module for module in made.modules())
        assert all((parameter.grad is not None) == runs for parameter in block.parameters())


# ---- what they cost


def test_a_plan_costs_the_layers_that_it_runs():
    model = make_lm()
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    one = count(model.blocks[0], x).flops
    runs = {"skip": 2, "middle_repeat": 6, "reverse": 6, "shuffle": 6, "parallel": 6, "looped_parallel": 2 + 3 * 4}
    assert one > 0
    for name, layers in runs.items():
        assert count(PLANS[name](model.blocks, 1, 5), x).flops == layers * one, name


# ---- other people's layers


@every_plan
def test_masks_and_positions_reach_every_layer(plan):
    model = make_lm()
    made = plan(model.blocks, 1, 5)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    key_mask = torch.tensor([[True, True, False, True, True], [True, False, True, True, True]])
    hidden_moved = x.clone()
    hidden_moved[~key_mask] *= -3.0  # what nobody may see
    out, moved = (made(each, key_mask=key_mask) for each in (x, hidden_moved))
    torch.testing.assert_close(out[key_mask], moved[key_mask], **EXACT)
    assert not torch.allclose(made(x)[key_mask], made(hidden_moved)[key_mask])
    # rotary positions count by their differences: a stretched sequence is another one
    assert not torch.allclose(made(x), made(x, positions=torch.tensor([0, 2, 4, 6, 8])))


class Tupled(nn.Module):
    """As many public layers are: takes a mask by place and a flag by name, puts out a tuple."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, mask: Tensor, *, flag: str) -> tuple[Tensor, str]:
        assert flag == "kept"
        return self.layer(hidden, src_mask=mask), "attention maps"


@every_plan
def test_layers_that_put_out_tuples_are_run_like_those_that_do_not(plan):
    torch.manual_seed(0)
    layers = wake(
        nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True) for _ in range(5)
        )
    )
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    mask = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)
    same = [torch.Generator().manual_seed(5) for _ in range(2)]
    options = [{"generator": generator} if plan is shuffle else {} for generator in same]
    plain = plan(layers, 1, 4, **options[0])(x, src_mask=mask)
    made = plan([Tupled(layer) for layer in layers], 1, 4, **options[1])
    torch.testing.assert_close(made(x, mask, flag="kept"), plain, **EXACT)
    assert not torch.allclose(made(x, torch.zeros_like(mask), flag="kept"), plain)
    hidden = x  # as such models run their own list
    for layer in made:
        hidden = layer(hidden, mask, flag="kept")[0]
    torch.testing.assert_close(hidden, plain, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_type_is_kept(dtype):
    model = make_lm().to(dtype)
    assert looped_parallel(model.blocks, 1, 5)(torch.randn(2, 3, 16, dtype=dtype)).dtype == dtype


# ---- similarity between layers


def test_the_similarity_is_the_mean_cosine_pair_by_pair():
    model = make_lm(4)
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    states = []
    hidden = x
    for block in model.blocks:
        hidden = block(hidden)
        states.append(hidden.detach())
    found = layer_similarity(model.blocks, x)
    assert found.shape == (4, 4)
    for i in range(4):
        for j in range(4):
            cosines = [
                float(states[i][b, t] @ states[j][b, t])
                / math.sqrt(float(states[i][b, t] @ states[i][b, t]) * float(states[j][b, t] @ states[j][b, t]))
                for b in range(2)
                for t in range(3)
            ]
            assert found[i, j].item() == pytest.approx(sum(cosines) / 6, abs=1e-12)


def test_layers_that_only_stretch_are_all_alike_and_one_that_turns_is_not():
    class Times(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * x

    x = torch.randn(5, 8, dtype=torch.float64)
    found = layer_similarity([Times(2.0), Times(3.0), Times(-1.0)], x)
    expected = torch.tensor([[1, 1, -1], [1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, **EXACT)


def test_the_similarity_passes_masks_on_and_takes_a_plan():
    model = make_lm(4)
    x = torch.randn(1, 4, 16, dtype=torch.float64)
    hidden = torch.tensor([[True, False, True, True]])
    assert not torch.allclose(layer_similarity(model.blocks, x), layer_similarity(model.blocks, x, key_mask=hidden))
    assert layer_similarity(skip(model.blocks, 1, 3), x).shape == (2, 2)


# ---- errors


@every_plan
@pytest.mark.parametrize(
    ("first", "last", "says"),
    [
        (2, 7, r"there are 6 layers, and the middle layers\[2:7\] names one that does not exist"),
        (7, 8, "does not exist"),
        (-1, 3, r"layers\[-1:3\] names one that does not exist: need 0 <= first < last <= 6"),
        (2, -1, "does not exist"),
        (3, 3, r"the middle layers\[3:3\] is empty: need first < last"),
        (6, 6, "empty"),
        (4, 2, "empty"),
    ],
)
def test_a_middle_that_is_not_there_is_refused(plan, first, last, says):
    with pytest.raises(ValueError, match=says):
        plan(make_named(6)[0], first, last)


@every_plan
@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("first", "last"), [(1.0, 3), (1, "3"), (True, 3), (1, torch.tensor(3))])
def test_a_middle_that_is_not_made_of_integers_is_refused(plan, first, last):
    with pytest.raises(TypeError, match="must be an int; got"):
        plan(make_named(6)[0], first, last)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("iterations", "error", "says"),
    [
        (0, ValueError, "iterations must be at least 1; got 0"),
        (-2, ValueError, "got -2"),
        (1.5, TypeError, "iterations must be an int; got 1.5"),
    ],
)
def test_a_loop_that_does_not_run_is_refused(iterations, error, says):
    with pytest.raises(error, match=says):
        looped_parallel(make_named(6)[0], 1, 3, iterations=iterations)


def test_nothing_is_neither_parallel_nor_alike():
    with pytest.raises(ValueError, match="no layers"):
        Parallel([])
    with pytest.raises(ValueError, match="need layers and tokens; got 0 layers"):
        layer_similarity([], torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"states of \(0, 3\)"):
        layer_similarity(make_named(2)[0], torch.zeros(0, 3))
