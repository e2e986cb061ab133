"""A reader of needles in noise, made of CoLT5's layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dynlib.data import needles
from dynlib.zoo.needles import NeedleReader, reading_loss
from dynlib.zoo.recipes import Numbers, Recipe

STEPS = 360


def _needles_loss(model: nn.Module) -> Callable[[int], Tensor]:
    return reading_loss(model, steps=STEPS)


@torch.no_grad()
def _needles_figures(model: nn.Module) -> Numbers:
    test = needles(5000, split="test", seed=0)
    right = torch.cat([model(tokens).argmax(-1) for tokens in tqdm(test.tokens.split(500), leave=False)]) == test.labels
    return {"test_accuracy": right.float().mean().item(), "test_sequences": len(test)}


RECIPES = {
    "needles_colt5": Recipe(
        build=NeedleReader,
        config={"dim": 32, "depth": 2, "heads": 4, "window": 8, "light": 32, "heavy": 128, "capacity": 0.0625},
        loss=_needles_loss,
        evaluate=_needles_figures,
        training={"steps": STEPS, "lr": 5e-3, "weight_decay": 0.01},
    )
}
