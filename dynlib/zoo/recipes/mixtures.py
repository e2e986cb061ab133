"""The small language model with mixtures of depths in it."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dynlib.backbone import CausalLM
from dynlib.deciding import record, setting
from dynlib.tokens.mixture_of_depths import MixtureOfDepths, predictor_loss, routing_loss
from dynlib.tokens.routing import Routed
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.recipes.small import SMALL, SMALL_TRAINING, reading, small_lm_batches, small_lm_figures
from dynlib.zoo.scores import window_bits


def mixture_lm(*, capacity: float, every: int = 2, **config: Any) -> CausalLM:
    """A small language model in which every other block is a mixture of depths, with a predictor beside its router.

    Or every block, with ``every`` = 1; every third, with 3.
    """
    model = CausalLM(**config)
    for place in range(every - 1, len(model.blocks), every):
        model.blocks[place] = MixtureOfDepths(model.blocks[place], capacity, predictor=True)
    return model


def mixture_lm_loss(
    model: nn.Module,
    *,
    seed: int = 0,
    router: float = 0.1,
    batches: Callable[[int], Int[Tensor, "batch bytes"]] | None = None,
) -> Callable[[int], Tensor]:
    """Loss by step, on the text that :func:`~dynlib.zoo.recipes.small.small_lm_loss` reads, or on other ``batches``.

    Where tokens are routed by top-k, ``router`` times the loss that moves r > 0 to where the k begin comes on top, and
    the loss of the predictors, which touches nothing else. Elsewhere nothing does, and a model may also be dense.
    """
    batches = small_lm_batches(seed) if batches is None else batches
    ranked = any(layer.routing == "top_k" for layer in _mixtures(model))

    def loss(step: int) -> Tensor:
        if not ranked:
            return reading(model, batches(step))
        with record(model, MixtureOfDepths) as routed:
            value = reading(model, batches(step))
        return value + predictor_loss(routed) + (router * routing_loss(routed) if router else 0.0)

    return loss


@torch.no_grad()
def mixture_lm_figures(model: nn.Module) -> Numbers:
    """Bits per character as in training; with top-k also with each causal routing, and what that routes.

    Agreement is the share of tokens for which a causal routing, asked about a pass that top-k routed, says the same.
    """
    figures = small_lm_figures(model)
    if not any(layer.routing == "top_k" for layer in _mixtures(model)):
        return figures
    routed = _routed(model)[0]
    figures["agreement_of_threshold"] = _agreement([(one.scores, one.mask) for one in routed])
    figures["agreement_of_predictor"] = _agreement([(one.predicted, one.mask) for one in routed])
    for routing in ("threshold", "predictor"):
        with setting(model, MixtureOfDepths, routing=routing):
            routed, figures[f"test_bits_per_character_by_{routing}"] = _routed(model)
        figures[f"share_routed_by_{routing}"] = _share([one.mask for one in routed])
    return figures


def _mixtures(model: nn.Module) -> list[MixtureOfDepths]:
    return [module for module in model.modules() if isinstance(module, MixtureOfDepths)]


def _routed(model: nn.Module) -> tuple[list[Routed], float]:
    """What the layers routed of the test text, and its bits per character in windows."""
    with record(model, MixtureOfDepths) as records:
        bits = window_bits(model)
    return [one for calls in records.values() for one in calls], bits


def _agreement(pairs: list[tuple[Any, Tensor]]) -> float:
    return _share([(odds > 0) == mask for odds, mask in pairs])


def _share(parts: list[Tensor]) -> float:
    return torch.cat([part.flatten() for part in parts]).float().mean().item()


RECIPES = {
    "topics_mod": Recipe(
        build=mixture_lm,
        config=SMALL | {"capacity": 0.125},
        loss=mixture_lm_loss,
        evaluate=mixture_lm_figures,
        training=SMALL_TRAINING,
    )
}
