"""A language model of Python's documentation, byte by byte."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import CausalLM
from dynlib.data import encode, text, windows
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.scores import bits_per_character

CONFIG: dict[str, Any] = {"vocabulary": 256, "dim": 128, "depth": 8, "heads": 4, "dropout": 0.2}


def topics_batch_loss(*, seed: int = 0) -> Callable[[nn.Module, int], Tensor]:
    """Loss of a model by step. What is read depends on step and ``seed`` alone."""
    tokens = encode(text("train"))

    def loss(model: nn.Module, step: int) -> Tensor:
        batch = windows(tokens, 16, 257, generator=torch.Generator().manual_seed(seed + step))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())

    return loss


def _topics_loss(model: nn.Module) -> Callable[[int], Tensor]:
    reading = topics_batch_loss()
    return lambda step: reading(model, step)


def topics_figures(model: nn.Module) -> Numbers:
    """Bits per character of the held-out text."""
    held_out = text("test")
    return {"test_bits_per_character": bits_per_character(model, held_out), "test_characters": len(held_out)}


RECIPES = {
    "topics_lm": Recipe(
        build=CausalLM,
        config=CONFIG,
        loss=_topics_loss,
        evaluate=topics_figures,
        training={"steps": 1400, "lr": 2e-3, "weight_decay": 0.1},
    )
}
