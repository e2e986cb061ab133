"""A vision transformer that reads a digit among clutter."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dynlib.backbone import ViT
from dynlib.data import cluttered_digits
from dynlib.zoo.recipes import Numbers, Recipe

CONFIG: dict[str, Any] = {"image_size": 24, "patch_size": 4, "classes": 10, "dim": 96, "depth": 6, "heads": 4}


def _digits_loss(model: nn.Module) -> Callable[[int], Tensor]:
    def loss(step: int) -> Tensor:
        batch = cluttered_digits(128, split="train", seed=step)  # fresh clutter every step
        return F.cross_entropy(model(batch.images), batch.labels)

    return loss


@torch.no_grad()
def _digits_figures(model: nn.Module) -> Numbers:
    test = cluttered_digits(10_000, split="test", seed=0)
    right = torch.cat([model(images).argmax(-1) for images in tqdm(test.images.split(500), leave=False)]) == test.labels
    easy, hard = test.difficulty < 1 / 3, test.difficulty > 2 / 3
    return {
        "test_accuracy": right.float().mean().item(),
        "test_accuracy_up_to_3_fragments": right[easy].float().mean().item(),
        "test_accuracy_from_9_fragments": right[hard].float().mean().item(),
        "test_images": len(test),
    }


RECIPES = {
    "digits_vit": Recipe(
        build=ViT,
        config=CONFIG,
        loss=_digits_loss,
        evaluate=_digits_figures,
        training={"steps": 5000, "lr": 1e-3, "weight_decay": 0.05},
    )
}
