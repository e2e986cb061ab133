"""A vision transformer whose tokens halt."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dynlib.backbone import Block, ViT
from dynlib.data import cluttered_digits
from dynlib.tokens.avit import AdaptiveViT, Halted, ponder_loss
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.recipes.digits import CONFIG
from dynlib.zoo.scores import depth_auc, digit_patches

FEATURE, PONDER = 30, 0.003
"""The feature of ``digits_vit`` that tokens halt by, and the weight of the ponder: see ``benchmarks.avit_study``."""


def adaptive_vit(*, gamma: float, beta: float, **config: Any) -> AdaptiveViT:
    """A vision transformer whose tokens halt, each at a depth of its own."""
    return AdaptiveViT(ViT(**config), gamma=gamma, beta=beta)


@torch.no_grad()
def swap_features(vit: ViT, a: int, b: int) -> None:
    """Give the features a and b of every token each other's place: the same function, written down in another order."""
    order = torch.arange(vit.head.in_features)
    order[a], order[b] = b, a
    rows = [vit.patches.weight, vit.patches.bias, vit.norm.weight, vit.norm.bias]
    columns = [vit.class_token, vit.position, vit.head.weight]
    for block in vit.blocks:
        assert isinstance(block, Block)
        attention, feed_forward = block.attention, block.feed_forward
        for part in (block.norm1, block.norm2, attention.output, feed_forward.contract):
            rows += [part.weight, part.bias]
        columns += [attention.query_key_value.weight, feed_forward.expand.weight]
    for weight in rows:
        if weight is not None:  # a convolution may have no bias
            weight.copy_(weight[order])
    for weight in columns:
        weight.copy_(weight[..., order])


def _begin(model: nn.Module, backbone: nn.Module) -> None:
    assert isinstance(model, AdaptiveViT)
    model.backbone.load_state_dict(backbone.state_dict())
    swap_features(model.backbone, 0, FEATURE)  # tokens halt by the first


def digits_avit_loss(model: nn.Module, *, ponder: float, stream: int = 0) -> Callable[[int], Tensor]:
    """Cross-entropy + ``ponder`` · mean ponder, on a stream of images that the start was not trained on.

    The loss of a plain model is the cross-entropy alone, on the same images.
    """

    def loss(step: int) -> Tensor:
        batch = cluttered_digits(64, split="train", seed=10**6 * (2 + stream) + step)
        result = model(batch.images)
        if not isinstance(result, Halted):
            return F.cross_entropy(result, batch.labels)
        return F.cross_entropy(result.logits, batch.labels) + ponder * ponder_loss(result)

    return loss


def _digits_avit_figures(model: nn.Module) -> Numbers:
    assert isinstance(model, AdaptiveViT)
    test = cluttered_digits(10_000, split="test", seed=0)
    results = [model.predict(images) for images in tqdm(test.images.split(500), leave=False)]
    depth = torch.cat([result.depth[:, 1:] for result in results])
    said = torch.cat([result.logits for result in results]).argmax(-1)
    return {
        "test_accuracy": (said == test.labels).float().mean().item(),
        "test_layers_of_a_patch": depth.float().mean().item(),
        "test_auc_of_the_depth_for_the_digit": depth_auc(depth, digit_patches(test.masks)),
        "ponder_weight": PONDER,
        "test_images": len(test),
    }


RECIPES = {
    "digits_avit": Recipe(
        build=adaptive_vit,
        config={**CONFIG, "gamma": 5.0, "beta": -15.0},
        loss=partial(digits_avit_loss, ponder=PONDER),
        evaluate=_digits_avit_figures,
        training={"steps": 700, "lr": 3e-4, "weight_decay": 0.05},
        start="digits_vit",
        begin=_begin,
    )
}
