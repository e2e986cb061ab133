"""A vision transformer of adaptive computation modules: each token gets as many learners of each layer as it needs."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dynlib.backbone import ViT
from dynlib.cost import count
from dynlib.data import cluttered_digits
from dynlib.deciding import record
from dynlib.width.acm import AdaptiveComputationModule, LearnersChosen
from dynlib.width.acm_conversion import acmize
from dynlib.width.acm_training import acm_loss, distill, pretrain_gates
from dynlib.zoo import load
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.recipes.digits import CONFIG
from dynlib.zoo.scores import depth_auc, digit_patches

LINEAR = ("query_key_value", "attention.output")
"""The linear layers that become modules, beside the feed-forward parts: all of a block."""
BATCH = 32
DISTIL: Numbers = {"steps": 200, "lr": 2e-3}
GATES: Numbers = {"steps": 75, "lr": 1e-2}
BUDGET, THRESHOLD = 0.4, 0.5
"""β, and the τ of the gates' targets with which they begin near it."""
WEIGHTS: dict[str, float] = {"budget_weight": 1.0, "entropy_weight": 0.05, "diversity_weight": 0.05}
"""Of the losses on what is spent. The paper's budget weighs 0.1; here the steps are few."""


def acm_vit(*, learners: int, **config: Any) -> ViT:
    """A vision transformer of adaptive computation modules, of which each token runs as many learners as it needs."""
    model = acmize(ViT(**config), learners=learners, linear=LINEAR)
    assert isinstance(model, ViT)
    return model


def acm_images(step: int, *, stream: int) -> Any:
    """A training batch by the number of a step; no stream has images of another, or those of the start."""
    return cluttered_digits(BATCH, split="train", seed=10**7 * (1 + stream) + step)


def begin_acm(
    model: nn.Module,
    backbone: nn.Module,
    *,
    threshold: float = THRESHOLD,
    stream: int = 0,
    checkpoints: Path | None = None,
) -> None:
    """Put the backbone's layers into the learners, distil these, and train the gates."""

    def images(step: int) -> Tensor:
        return acm_images(step, stream=stream).images

    def kept(name: str) -> Path | None:
        return None if checkpoints is None else checkpoints / f"{name}-{stream}.pt"

    learners = next(part.learners for part in model.modules() if isinstance(part, AdaptiveComputationModule))
    start = acmize(copy.deepcopy(backbone), learners=learners, linear=LINEAR)
    model.load_state_dict(start.state_dict())
    distill(model, backbone, images, steps=int(DISTIL["steps"]), lr=DISTIL["lr"], checkpoint=kept("learners"))
    gates = kept(f"gates-{threshold}")
    pretrain_gates(
        model, backbone, images, threshold=threshold, steps=int(GATES["steps"]), lr=GATES["lr"], checkpoint=gates
    )


def agreement_loss(model: nn.Module, *, stream: int = 0) -> Callable[[int], Tensor]:
    """KL divergence of the model's answers from those of ``digits_vit``, by step.

    In so few steps it teaches more than the labels do; the paper's task loss is the cross-entropy.
    """
    teacher = load("digits_vit")

    def loss(step: int) -> Tensor:
        images = acm_images(step, stream=100 + stream).images
        with torch.no_grad():
            answers = teacher(images).log_softmax(-1)
        return F.kl_div(model(images).log_softmax(-1), answers, log_target=True, reduction="batchmean")

    return loss


def digits_acm_loss(
    model: nn.Module, *, budget: float = BUDGET, weights: dict[str, float] | None = None, stream: int = 0
) -> Callable[[int], Tensor]:
    """:func:`agreement_loss` + the losses on what is spent, by step; their weights are those above, if left out."""
    agreement, weights = agreement_loss(model, stream=stream), WEIGHTS if weights is None else weights

    def loss(step: int) -> Tensor:
        with record(model, AdaptiveComputationModule) as records:
            task = agreement(step)
        return task + acm_loss(records, budget=budget, **weights).total

    return loss


def shares_of_tokens(records: Mapping[str, Sequence[LearnersChosen]]) -> Tensor:
    """What each token of each image spends in the learners, over the most that it could: [images, tokens]."""
    every = [one for some in records.values() for one in some]
    spent = torch.stack([one.learners.double() * one.flops for one in every]).sum(0)
    return spent / sum(one.of * one.flops for one in every)


@torch.no_grad()
def _digits_acm_figures(model: nn.Module) -> Numbers:
    test = cluttered_digits(10_000, split="test", seed=0)
    said, shares = [], []
    for images in tqdm(test.images.split(500), leave=False):
        with record(model, AdaptiveComputationModule) as records:
            said.append(model(images).argmax(-1))
        shares.append(shares_of_tokens(records))
    share, some = torch.cat(shares), test.images[:1000]
    order = (share[:, 1:] * 10**6).round().long()
    return {
        "test_accuracy": (torch.cat(said) == test.labels).double().mean().item(),
        "test_share_of_the_learners": share.mean().item(),
        "test_share_of_FLOPs": count(model, some).flops / count(load("digits_vit"), some).flops,
        "test_auc_of_the_compute_for_the_digit": depth_auc(order, digit_patches(test.masks)),
        "budget": BUDGET,
        "steps_of_distillation": DISTIL["steps"],
        "steps_of_the_gates": GATES["steps"],
        "test_images": len(test),
    }


RECIPES = {
    "digits_acm": Recipe(
        build=acm_vit,
        config={**CONFIG, "learners": 4},
        loss=digits_acm_loss,
        evaluate=_digits_acm_figures,
        training={"steps": 400, "lr": 1e-3, "weight_decay": 0.0},
        start="digits_vit",
        begin=begin_acm,
    )
}
