"""A small language model, to be compared with others of its size that see the same text in the same order."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import CausalLM
from dynlib.data import encode, text, windows
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.scores import WINDOW, window_bits

SMALL: dict[str, Any] = {"vocabulary": 256, "dim": 64, "depth": 6, "heads": 4}
SMALL_TRAINING: Numbers = {"steps": 700, "lr": 3e-3, "weight_decay": 0.1}


def small_lm(**config: Any) -> CausalLM:
    """A small language model, to be compared with others of its size."""
    return CausalLM(**config)


def small_lm_batches(seed: int = 0) -> Callable[[int], Int[Tensor, "batch bytes"]]:
    """What is read in a step. It depends on step and ``seed`` alone, so that any two models can be compared."""
    tokens = encode(text("train"))

    def batch(step: int) -> Int[Tensor, "batch bytes"]:
        return windows(tokens, 12, WINDOW + 1, generator=torch.Generator().manual_seed(seed * 10**6 + step))

    return batch


def reading(model: nn.Module, batch: Int[Tensor, "batch bytes"]) -> Tensor:
    """Mean cross-entropy of each byte but the first, given those before it, in nats."""
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def small_lm_loss(model: nn.Module, *, seed: int = 0) -> Callable[[int], Tensor]:
    """Loss by step."""
    batches = small_lm_batches(seed)
    return lambda step: reading(model, batches(step))


@torch.no_grad()
def small_lm_figures(model: nn.Module) -> Numbers:
    """Bits per character as in training."""
    return {f"test_bits_per_character_in_windows_of_{WINDOW}": window_bits(model)}


RECIPES = {
    "topics_small": Recipe(
        build=small_lm, config=SMALL, loss=small_lm_loss, evaluate=small_lm_figures, training=SMALL_TRAINING
    )
}
