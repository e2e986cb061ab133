"""A vision transformer of adaptive computation modules: each token gets as many learners of each layer as it needs."""

import copy
from collections.abc import Callable
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
from dynlib.width.acm import AdaptiveComputationModule
from dynlib.width.acm_conversion import acmize
from dynlib.width.acm_losses import acm_loss
from dynlib.width.acm_price import fold_price, gates_share, price_for, shares_of_tokens
from dynlib.width.acm_training import distill, pretrain_gates
from dynlib.zoo import load
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.recipes.digits import CONFIG
from dynlib.zoo.scores import depth_auc, digit_patches

LINEAR = ("query_key_value", "attention.output")
"""The linear layers that become modules, beside the feed-forward parts: all of a block."""
BATCH = 32
DISTIL: Numbers = {"steps": 1500, "lr": 2e-3}
GATES: Numbers = {"steps": 300, "lr": 1e-2, "scale": 20.0}
"""The gates begin by the error of each number of learners: ``scale`` of :func:`dynlib.width.pretrain_gates`."""
BUDGET = 0.4
"""β, the share of the work of the layers that became learners, gates included."""
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
    budget: float = BUDGET,
    threshold: float | None = None,
    stream: int = 0,
    checkpoints: Path | None = None,
) -> None:
    """Put the backbone's layers into the learners, distil these, and train the gates until they spend a budget.

    With a ``threshold`` the gates begin as in the paper, with the targets of that τ, and spend what comes of it.
    """

    def images(step: int) -> Tensor:
        return acm_images(step, stream=stream).images

    def kept(name: str) -> Path | None:
        return None if checkpoints is None else checkpoints / f"{name}-{stream}.pt"

    learners = next(part.learners for part in model.modules() if isinstance(part, AdaptiveComputationModule))
    start = acmize(copy.deepcopy(backbone), learners=learners, linear=LINEAR)
    model.load_state_dict(start.state_dict())
    distill(model, backbone, images, steps=int(DISTIL["steps"]), lr=DISTIL["lr"], checkpoint=kept("learners"))
    steps, lr = int(GATES["steps"]), GATES["lr"]
    if threshold is not None:
        gates = kept(f"gates-{threshold}")
        pretrain_gates(model, backbone, images, threshold=threshold, steps=steps, lr=lr, checkpoint=gates)
        return
    pretrain_gates(model, backbone, images, scale=GATES["scale"], steps=steps, lr=lr, checkpoint=kept("gates"))
    meet_budget(model, budget, stream=stream)


def meet_budget(model: nn.Module, budget: float = BUDGET, *, stream: int = 0) -> None:
    """Move the gates' biases until training images that no step saw cost β, gates included.

    After the training too: with the noise of the choice a model spends more than without it.
    """
    images = torch.cat([acm_images(10**6 + number, stream=stream).images for number in range(8)])
    fold_price(model, price_for(model, images, budget - gates_share(model)))


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
    """:func:`agreement_loss` + the losses on what is spent, by step; their weights are those above, if left out.

    The budget includes the gates: they and the learners together are to cost its share of the layers.
    """
    agreement, weights = agreement_loss(model, stream=stream), WEIGHTS if weights is None else weights
    share = budget - gates_share(model)

    def loss(step: int) -> Tensor:
        with record(model, AdaptiveComputationModule) as records:
            task = agreement(step)
        return task + acm_loss(records, budget=share, **weights).total

    return loss


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
        training={"steps": 1000, "lr": 3e-4, "weight_decay": 0.0},
        start="digits_vit",
        begin=begin_acm,
        end=meet_budget,
    )
}
