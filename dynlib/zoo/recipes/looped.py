"""Looped models: linear regression in context, and pointers followed to their ends."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynlib.data import chains, least_squares, linear_regression
from dynlib.zoo.chains import ChainReader, chain_losses, gated_chain_loss
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.regression import RegressionReader, regression_loss

NOISE = 0.5
STEPS = {"looped_regression": 4000, "looped_chains": 1200}
GATED = 0.4  # from this share of the steps on, the gate is trained, and with it all loops
BETA = 0.1


def _regression_loss(model: nn.Module) -> Callable[[int], Tensor]:
    assert isinstance(model, RegressionReader)

    def loss(step: int) -> Tensor:
        drawn = linear_regression(64, queries=12, noise=NOISE, seed=step)
        return regression_loss(model, drawn.x, drawn.y, drawn.queries, drawn.answers, window=5)

    return loss


@torch.no_grad()
def _regression_figures(model: nn.Module) -> Numbers:
    assert isinstance(model, RegressionReader)
    test = linear_regression(5000, queries=6, noise=NOISE, split="test", seed=0)
    given = (test.x, test.y, test.queries)

    def error(said: Tensor) -> float:
        return (said - test.answers).square().mean().item() / model.features

    floor = error(least_squares(*given))
    return {
        "test_error": error(model(*given)),
        "test_error_at_three_times_the_loops": error(model(*given, loops=3 * model.looped.loops)),
        "test_error_of_least_squares": floor,
        "test_error_of_ridge": error(least_squares(*given, ridge=NOISE**2)),
        "test_prompts": len(test),
    }


def _chains_loss(model: nn.Module) -> Callable[[int], Tensor]:
    assert isinstance(model, ChainReader)

    def loss(step: int) -> Tensor:
        drawn = chains(64, seed=step)
        if step >= GATED * STEPS["looped_chains"]:
            return gated_chain_loss(model, drawn.names, drawn.points_to, drawn.ends, beta=BETA, window=4)
        states = model.looped.states(model.embed(drawn.names, drawn.points_to), window=4)
        return chain_losses(model, states, drawn.ends).mean()

    return loss


@torch.no_grad()
def _chains_figures(model: nn.Module) -> Numbers:
    assert isinstance(model, ChainReader)
    test = chains(2000, split="test", seed=0)
    right = model(test.names, test.points_to).argmax(-1) == test.ends
    stopped = model.looped.predict(model.embed(test.names, test.points_to), quantile=0.5, each="token")
    early = model.head(stopped.state).argmax(-1) == test.ends
    return {
        "test_accuracy": right.double().mean().item(),
        "test_accuracy_from_8_hops_on": right[test.hops >= 8].double().mean().item(),
        "test_accuracy_when_tokens_stop": early.double().mean().item(),
        "test_loops_when_tokens_stop": stopped.loops.double().mean().item(),
        "test_samples": len(test),
    }


RECIPES = {
    "looped_regression": Recipe(
        build=RegressionReader,
        config={"features": 3, "pairs": 12, "dim": 48, "heads": 4, "hidden": 96, "depth": 1, "loops": 10},
        loss=_regression_loss,
        evaluate=_regression_figures,
        training={"steps": STEPS["looped_regression"], "lr": 5e-3, "weight_decay": 0.0},
    ),
    "looped_chains": Recipe(
        build=ChainReader,
        config={"names": 20, "dim": 64, "heads": 2, "hidden": 128, "depth": 1, "loops": 8, "gate": True},
        loss=_chains_loss,
        evaluate=_chains_figures,
        training={"steps": STEPS["looped_chains"], "lr": 3e-3, "weight_decay": 0.01},
    ),
}
