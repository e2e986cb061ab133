"""Mix'n'Match against the enumeration of every mixture."""

from collections.abc import Callable
from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dynlib.backbone import CausalLM
from dynlib.cost import count
from dynlib.width.matformer import MatFormerFeedForward, extract, layer_widths, matformer
from dynlib.width.mix import _knapsack, mix_and_match

WIDTHS = (1 / 4, 1 / 2, 1)
X = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Stack(nn.ModuleList):
    """Feed-forward parts, each beside what passes by, and a layer at the end that costs what it costs."""

    def forward(self, x: Tensor) -> Tensor:
        *layers, last = self
        for layer in layers:
            x = x + layer(x)
        return last(x)


def make_model(*, depth: int = 3, seed: int = 1) -> Stack:
    torch.manual_seed(seed)
    model = Stack([*(MatFormerFeedForward(8, widths=WIDTHS) for _ in range(depth)), nn.Linear(8, 40)]).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


def widths_of(model: nn.Module) -> tuple:
    return tuple(module.width for module in model.modules() if isinstance(module, MatFormerFeedForward))


@cache
def counted(widths) -> int:
    model = make_model()
    with layer_widths(model, widths):
        return count(model, X).flops


def flops(widths) -> int:
    """Of ``make_model()`` at these widths: one more neuron is two products with 8 features a token."""
    return counted(WIDTHS[0]) + sum(round((width - WIDTHS[0]) * 32) * 2 * 2 * X.numel() for width in widths)


def table(seed: int, depth: int = 3) -> list[dict]:
    """What each layer's width adds to a loss, drawn: nothing says that a wider one is better."""
    numbers = torch.rand(depth, len(WIDTHS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [dict(zip(WIDTHS, row, strict=True)) for row in numbers.tolist()]


EVERY = list(product(WIDTHS, repeat=3))


def test_the_flops_of_a_mixture_are_known() -> None:
    for widths in ((1, 1, 1), (1 / 2, 1 / 4, 1)):
        assert flops(widths) == counted(widths)


# The best


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_the_layers_add_up_it_is_the_best_of_all_mixtures_that_fit(seed: int) -> None:
    model, adds = make_model(), table(seed)

    def measure(model: nn.Module) -> float:
        return sum(layer[width] for layer, width in zip(adds, widths_of(model), strict=True))

    share = (0.5, 0.7, 0.9)[seed]
    found = mix_and_match(model, measure, share, X, rounds=1)
    fitting = [widths for widths in EVERY if flops(widths) <= share * flops((1, 1, 1))]
    best = min(sum(layer[width] for layer, width in zip(adds, widths, strict=True)) for widths in fitting)
    assert found.loss == pytest.approx(best, abs=1e-12)
    assert found.widths in fitting
    assert found.cost.flops == flops(found.widths)
    assert 1 < len(fitting) < len(EVERY)
    assert len(found.measured) < len(EVERY)


def difference(model: nn.Module) -> Callable[[nn.Module], Tensor]:
    """A loss of real layers, which do not add up: how far the model is from itself at full width."""
    with torch.no_grad():
        target = model(X)
    return lambda model: (model(X) - target).square().mean()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_of_real_layers_it_is_never_worse_than_an_even_width_and_the_search_of_all_is_the_best(seed: int) -> None:
    model = make_model(seed=seed)
    measure, share, losses = difference(model), (0.9, 0.6, 0.75)[seed - 1], {}
    with torch.no_grad():
        for widths in EVERY:
            with layer_widths(model, widths):
                losses[widths] = measure(model).item()
    budget = int(share * flops((1, 1, 1)))
    found, best = (mix_and_match(model, measure, budget, X, search=search) for search in ("additive", "all"))
    fitting = [widths for widths in EVERY if flops(widths) <= budget]
    assert best.loss == min(losses[widths] for widths in fitting)
    assert set(best.measured) == set(fitting)
    assert found.loss == losses[found.widths]
    assert found.widths in fitting
    assert best.loss <= found.loss <= min(losses[w, w, w] for w in WIDTHS if (w, w, w) in fitting)
    for widths, (cost, loss) in found.measured.items():
        assert (cost, loss) == (flops(widths), losses[widths])


def test_in_a_language_model_a_layer_that_matters_is_wide_and_those_that_do_nothing_are_narrow() -> None:
    torch.manual_seed(0)
    model = matformer(CausalLM(vocabulary=11, dim=8, depth=3, heads=2).double(), WIDTHS).eval()
    for depth in (0, 2):
        nn.init.zeros_(model.blocks[depth].feed_forward.contract.weight)
    text = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        target = model(text)
    found = mix_and_match(model, lambda model: (model(text) - target).square().mean(), 0.76, text)
    assert found.widths == (1 / 4, 1, 1 / 4)
    assert found.loss == 0
    with layer_widths(model, found.widths):
        assert torch.equal(extract(model, found.widths)(text), model(text))
        assert count(model, text) == found.cost


def test_of_equal_losses_the_cheapest_is_given() -> None:
    for search in ("additive", "all"):
        assert mix_and_match(make_model(), lambda _: 1.0, 1, X, search=search).widths == (1 / 4, 1 / 4, 1 / 4)


def test_layers_of_different_widths_each_keep_to_their_own() -> None:
    model = make_model()
    model[1] = MatFormerFeedForward.of(model[1], (4, 20, 1))
    found = mix_and_match(model, difference(model), 0.9, X, search="all")
    near = mix_and_match(model, difference(model), 0.9, X)
    assert all(widths[1] in (4, 20, 1) and widths[0] in WIDTHS for widths in {**found.measured, **near.measured})
    assert found.loss <= near.loss


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_the_knapsack_is_solved_exactly(data) -> None:
    layers = data.draw(st.integers(1, 4))
    numbers = st.lists(st.integers(0, 9), min_size=3, max_size=3)
    extra = [dict(zip(WIDTHS, (0, *data.draw(numbers)[1:]), strict=True)) for _ in range(layers)]
    changes = [dict(zip(WIDTHS, map(float, data.draw(numbers)), strict=True)) for _ in range(layers)]
    room = data.draw(st.integers(0, 20))

    def total(numbers, widths) -> int:
        return sum(one[width] for one, width in zip(numbers, widths, strict=True))

    found = _knapsack(extra, changes, room)
    fitting = [widths for widths in product(WIDTHS, repeat=layers) if total(extra, widths) <= room]
    assert found in fitting
    least = min(total(changes, widths) for widths in fitting)
    assert total(changes, found) == least
    assert total(extra, found) == min(total(extra, w) for w in fitting if total(changes, w) == least)


# What is as it was, and what is refused


def test_the_model_is_as_it_was_also_after_an_error_and_no_gradient_is_kept() -> None:
    model = make_model()
    model[1].width = 1 / 2

    def measure(model: nn.Module) -> Tensor:
        out = model(X).square().mean()
        assert not out.requires_grad
        return out

    mix_and_match(model, measure, 0.8, X)
    assert widths_of(model) == (1, 1 / 2, 1)

    def breaks(model: nn.Module) -> float:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        mix_and_match(model, breaks, 0.8, X)
    assert widths_of(model) == (1, 1 / 2, 1)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_budget_that_cannot_be_kept_names_the_least_possible() -> None:
    model, least, full = make_model(), flops((1 / 4,) * 3), flops((1, 1, 1))
    for budget in (0.1, least - 1):
        with pytest.raises(ValueError, match=rf"cannot be kept: .* takes .* \({least}, {least / full:.3g} of all\)"):
            mix_and_match(model, lambda _: 1.0, budget, X)
    assert mix_and_match(model, lambda _: 1.0, least, X).widths == (1 / 4,) * 3
    for budget, error in ((0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("all", TypeError)):
        with pytest.raises(error, match="the budget must be"):
            mix_and_match(model, lambda _: 1.0, budget, X)


@pytest.mark.usefixtures("as_users_run_it")
def test_other_mistakes_are_errors() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="a measured loss must be finite; got nan"):
        mix_and_match(model, lambda _: float("nan"), 1, X)
    with pytest.raises(ValueError, match="search must be 'additive' or 'all'"):
        mix_and_match(model, lambda _: 1.0, 1, X, search="greedy")
    with pytest.raises(ValueError, match="give them after the budget"):
        mix_and_match(model, lambda _: 1.0, 1)
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        mix_and_match(model, lambda _: 1.0, 1, X, rounds=0)
    with pytest.raises(ValueError, match="no MatFormerFeedForward"):
        mix_and_match(nn.Linear(2, 2), lambda _: 1.0, 1, torch.zeros(2))


def test_costs_that_depend_on_what_is_computed_are_an_error() -> None:
    class Moody(nn.Module):
        """Runs its second layer a second time where the first is at full width and so is the second."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (MatFormerFeedForward(8, widths=WIDTHS) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.second(self.first(x))
            return self.second(x) if self.first.width == self.second.width == 1 else x

    with pytest.raises(ValueError, match="its cost depends on what it computes"):
        mix_and_match(Moody(), lambda _: 1.0, 1, torch.zeros(3, 8))
