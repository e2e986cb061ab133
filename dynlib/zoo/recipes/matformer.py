"""The language model of Python's documentation, made elastic: the first neurons of each layer are a model too."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dynlib.backbone import CausalLM
from dynlib.deciding import setting
from dynlib.width.joint import sampled_loss
from dynlib.width.matformer import MatFormerFeedForward, matformer
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.recipes.topics import CONFIG, topics_batch_loss, topics_figures


def matformer_lm(*, halvings: int, **config: Any) -> CausalLM:
    """A language model whose feed-forward parts are 1, 1/2, 1/4, … of their width, down to 1/2^halvings."""
    return matformer(CausalLM(**config), [2.0**-power for power in range(halvings, 0, -1)] + [1])


def matformer_lm_loss(model: nn.Module) -> Callable[[int], Tensor]:
    """Loss by step, at one width, drawn anew each step by its number alone."""
    reading = topics_batch_loss(seed=10**6)  # other stretches than the start has read
    return lambda step: sampled_loss(model, lambda: reading(model, step), generator=torch.Generator().manual_seed(step))


def matformer_lm_figures(model: nn.Module) -> Numbers:
    """Bits per character of the held-out text at each width."""
    figures: Numbers = {}
    widths = next(module.widths for module in model.modules() if isinstance(module, MatFormerFeedForward))
    for width in reversed(widths):
        with setting(model, MatFormerFeedForward, width=width):
            found = topics_figures(model)
        figures[f"test_bits_per_character_at_width_{width:g}"] = found["test_bits_per_character"]
    return {**figures, "test_characters": found["test_characters"]}


RECIPES = {
    "topics_matformer": Recipe(
        build=matformer_lm,
        config=CONFIG | {"halvings": 3},
        loss=matformer_lm_loss,
        evaluate=matformer_lm_figures,
        training={"steps": 500, "lr": 1e-3, "weight_decay": 0.1},
        start="topics_lm",
    )
}
