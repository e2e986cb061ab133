"""The reader of points and values: queries are asked apart, and the order of the pairs says nothing."""

import pytest
import torch

from dynlib.data import least_squares, linear_regression
from dynlib.zoo import card, load
from dynlib.zoo.regression import RegressionReader, regression_loss

SMALL = {"features": 3, "pairs": 5, "dim": 8, "heads": 2, "hidden": 12}
EXACT = {"rtol": 0, "atol": 1e-10}


def make(seed: int = 0, **options) -> RegressionReader:
    torch.manual_seed(seed)
    model = RegressionReader(**{**SMALL, **options}).double().eval()
    torch.nn.init.normal_(model.query)
    return model


def prompts(count: int = 6, queries: int = 4) -> list[torch.Tensor]:
    drawn = linear_regression(count, features=3, pairs=5, queries=queries, noise=0.5)
    return [part.double() for part in (drawn.x, drawn.y, drawn.queries, drawn.answers)]


@torch.no_grad()
def test_many_queries_at_once_are_answered_as_one_by_one():
    model = make(loops=3)
    x, y, queries, _ = prompts()
    together = model(x, y, queries)
    assert together.shape == (6, 4)
    for column in range(4):
        torch.testing.assert_close(model(x, y, queries[:, column, None])[:, 0], together[:, column], **EXACT)


@torch.no_grad()
def test_the_order_of_the_pairs_says_nothing_and_their_values_do():
    model = make(loops=3)
    x, y, queries, _ = prompts()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(model(x[:, order], y[:, order], queries), model(x, y, queries), **EXACT)
    assert not torch.allclose(model(x, y[:, order], queries), model(x, y, queries))


@torch.no_grad()
def test_a_stack_with_its_own_weights_has_the_weights_of_all_its_layers_and_looping_adds_none():
    sizes = {}
    for depth, loops in ((1, 1), (1, 4), (4, 1)):
        model = make(depth=depth, loops=loops)
        sizes[depth, loops] = sum(weight.numel() for weight in model.looped.block.layers.parameters())
    assert sizes[4, 1] == 4 * sizes[1, 4] == 4 * sizes[1, 1]


@pytest.mark.parametrize("window", [1, 3, 4])
def test_the_loss_is_the_mean_over_the_last_loops(window):
    model = make(loops=4)
    x, y, queries, answers = prompts()
    states = model.looped.states(model.embed(x, y, queries))
    by_loop = (model.readout(states) - answers).square().mean((1, 2)) / 3
    loss = regression_loss(model, x, y, queries, answers, window=window)
    torch.testing.assert_close(loss, by_loop[-window:].mean(), **EXACT)
    loss.backward()
    assert model.read_in.weight.grad.abs().max() > 0


@pytest.mark.usefixtures("as_users_run_it")
def test_prompts_of_another_size_are_refused():
    model = make()
    x, y, queries, _ = prompts()
    for given in ((x[:, 1:], y[:, 1:], queries), (x, y[:, 1:], queries), (x, y, queries[..., :2]), (x, y, queries[1:])):
        with pytest.raises(ValueError, match=r"x must be \[n, 5, 3\], y \[n, 5\] and queries \[n, any, 3\]; got"):
            model(*given)


@pytest.mark.parametrize("depth", [1, 2])
@torch.no_grad()
def test_tokens_that_stop_are_the_same_gathered_and_masked(depth):
    model = make(loops=5, depth=depth)
    x, y, queries, _ = prompts()
    tokens = model.embed(x, y, queries)
    states = model.looped.states(tokens)
    change = ((states[2] - states[1]).norm(dim=-1) / states[2].norm(dim=-1)).median().item() * 1.001
    one, other = (
        model.looped.predict(tokens, change=change, each="token", execution=way) for way in ("gathered", "masked")
    )
    assert one.loops.min() < one.loops.max()
    for part, same in zip(one, other, strict=True):
        torch.testing.assert_close(part, same, **EXACT)


@torch.no_grad()
def test_the_shipped_model_is_within_a_tenth_of_least_squares_and_stays_there():
    model, figures = load("looped_regression"), card("looped_regression")["figures"]
    test = linear_regression(2000, queries=6, noise=0.5, split="test", seed=1)
    given = (test.x, test.y, test.queries)

    def error(said: torch.Tensor) -> float:
        return (said - test.answers).square().mean().item() / 3

    floor = error(least_squares(*given))
    here, later = error(model(*given)), error(model(*given, loops=30))
    # on the same prompts: both rise and fall together with the draw
    assert here <= 1.1 * floor
    assert here / floor == pytest.approx(figures["test_error"] / figures["test_error_of_least_squares"], abs=0.05)
    assert later == pytest.approx(here, rel=0.03)
    assert error(model(*given, loops=1)) > 10 * floor
