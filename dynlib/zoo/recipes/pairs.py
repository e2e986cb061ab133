"""Two mechanisms in one model: exits on adaptive computation modules, and a MatFormer in a mixture of depths.

Both go on from a model that has one of the two, for a few minutes, at settings of the knobs that are drawn anew in each
step, so that one model serves all pairs of them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import CausalLM
from dynlib.data import cluttered_digits, encode, text, windows
from dynlib.deciding import setting
from dynlib.depth.early_exit import MultiExit, exit_loss
from dynlib.tokens.mixture_of_depths import MixtureOfDepths
from dynlib.width.acm import AdaptiveComputationModule
from dynlib.width.joint import sampled_loss
from dynlib.width.matformer import MatFormerFeedForward
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.recipes.acm import acm_vit
from dynlib.zoo.recipes.digits import CONFIG as DIGITS
from dynlib.zoo.recipes.exits import accuracy_after_layers
from dynlib.zoo.recipes.matformer import matformer_lm
from dynlib.zoo.recipes.topics import CONFIG as TOPICS
from dynlib.zoo.scores import WINDOW, window_bits

PRICES = (1.0, 0.5, 0.0, -0.5, -1.0, -4.0)
CAPACITIES = (1 / 8, 1 / 4, 1 / 2, 1.0)
HALVINGS = 3


def _drawn(values: tuple[float, ...], step: int) -> float:
    generator = torch.Generator().manual_seed(10**6 + step)
    return values[int(torch.randint(len(values), (), generator=generator))]


def acm_exits(*, learners: int, **config: Any) -> MultiExit:
    """A vision transformer of adaptive computation modules with an exit after every layer."""
    vit = acm_vit(learners=learners, **config)
    return MultiExit(vit, range(1, len(vit.blocks)))


def begin_exits(model: nn.Module, backbone: nn.Module) -> None:
    """Start from trained modules, which stay as they are: what learns is the heads, the norms, and the class token."""
    assert isinstance(model, MultiExit)
    model.backbone.load_state_dict(backbone.state_dict())
    for part in model.backbone.modules():
        if isinstance(part, AdaptiveComputationModule):
            part.eval().requires_grad_(False)


def acm_exits_loss(model: nn.Module) -> Callable[[int], Tensor]:
    """The mean loss of all exits at one price, by step; no other model of the zoo was trained on these images."""

    def loss(step: int) -> Tensor:
        batch = cluttered_digits(32, split="train", seed=9 * 10**7 + step)
        with setting(model, AdaptiveComputationModule, price=_drawn(PRICES, step)):
            return exit_loss(model(batch.images), batch.labels)

    return loss


def acm_exits_figures(model: nn.Module) -> Numbers:
    """Accuracy after each layer, at the price that the gates were trained to and with nearly all learners."""
    test, figures = cluttered_digits(5000, split="test", seed=0), dict[str, float]()
    for price in (0.0, -4.0):
        with setting(model, AdaptiveComputationModule, price=price):
            right = accuracy_after_layers(model, test)
        figures |= {f"test_accuracy_at_price_{price:g}_after_layer_{layer}": share for layer, share in right.items()}
    return {**figures, "test_images": len(test)}


def matformer_mixture_lm(*, halvings: int, **config: Any) -> CausalLM:
    """A language model of elastic feed-forward parts in which every other block is a mixture of depths."""
    model = matformer_lm(halvings=halvings, **config)
    for place in range(1, len(model.blocks), 2):
        model.blocks[place] = MixtureOfDepths(model.blocks[place], 1.0)
    return model


@torch.no_grad()
def begin_mixture(model: nn.Module, backbone: nn.Module) -> None:
    """Start from the MatFormer, with routers whose weight is 1 on average and varies as little as it can.

    A byte that is routed then gets about what it got before, and the layers go on from where they were.
    """
    assert isinstance(model, CausalLM)
    assert isinstance(backbone, CausalLM)
    model.embedding.load_state_dict(backbone.embedding.state_dict())
    model.norm.load_state_dict(backbone.norm.state_dict())
    rows = windows(encode(text("train")), 32, WINDOW, generator=torch.Generator().manual_seed(0))
    backbone.eval()
    x = backbone.embed(rows)
    for block, start in zip(model.blocks, backbone.blocks, strict=True):
        (block.block if isinstance(block, MixtureOfDepths) else block).load_state_dict(start.state_dict())
        if isinstance(block, MixtureOfDepths):  # min Σ (wᵀx − 1)², which shrinks w, and then the mean of wᵀx is made 1
            features = x.flatten(0, 1).double()
            least = torch.linalg.lstsq(features, torch.ones(len(features), 1, dtype=torch.float64)).solution
            block.router.weight.copy_((least / (features @ least).mean()).T)
        x = start(x)


def matformer_mixture_loss(model: nn.Module) -> Callable[[int], Tensor]:
    """The loss by step, at one width and one capacity for all layers."""
    whole = encode(text("train"))

    def loss(step: int) -> Tensor:
        rows = windows(whole, 8, WINDOW + 1, generator=torch.Generator().manual_seed(2 * 10**6 + step))

        def read() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(rows[:, :-1])
            return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

        with setting(model, MixtureOfDepths, capacity=_drawn(CAPACITIES, step)):
            return sampled_loss(model, read, generator=torch.Generator().manual_seed(step))

    return loss


def matformer_mixture_figures(model: nn.Module) -> Numbers:
    """Bits per character in windows: with each knob alone, and with both at their least."""
    figures = dict[str, float]()
    least = 2.0**-HALVINGS
    for width, capacity in ((1.0, 1.0), (least, 1.0), (1.0, CAPACITIES[0]), (least, CAPACITIES[0])):
        with (
            setting(model, MatFormerFeedForward, width=width),
            setting(model, MixtureOfDepths, capacity=capacity),
            torch.no_grad(),
        ):
            figures[f"test_bits_per_character_at_width_{width:g}_and_capacity_{capacity:g}"] = window_bits(model)
    return {**figures}


RECIPES = {
    "digits_acm_exits": Recipe(
        build=acm_exits,
        config={**DIGITS, "learners": 4},
        loss=acm_exits_loss,
        evaluate=acm_exits_figures,
        training={"steps": 300, "lr": 3e-3, "weight_decay": 0.05},
        start="digits_acm",
        begin=begin_exits,
    ),
    "topics_matformer_mod": Recipe(
        build=matformer_mixture_lm,
        config={**TOPICS, "halvings": HALVINGS},
        loss=matformer_mixture_loss,
        evaluate=matformer_mixture_figures,
        training={"steps": 180, "lr": 5e-4, "weight_decay": 0.1},
        start="topics_matformer",
        begin=begin_mixture,
    ),
}
