"""The same two backbones with exits: a head after every layer of the one, one for all layers of the other."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dynlib.backbone import CausalLM, ViT
from dynlib.data import ClutteredDigits, cluttered_digits, encode, text, windows
from dynlib.depth.calm import masked_exits
from dynlib.depth.early_exit import MultiExit, exit_loss
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.recipes.digits import CONFIG as DIGITS
from dynlib.zoo.recipes.topics import CONFIG as TOPICS
from dynlib.zoo.recipes.topics import topics_figures


def multi_exit_vit(**config: Any) -> MultiExit:
    """A vision transformer with an exit after every layer."""
    vit = ViT(**config)
    return MultiExit(vit, range(1, len(vit.blocks)))


def _digits_exits_loss(model: nn.Module) -> Callable[[int], Tensor]:
    def loss(step: int) -> Tensor:
        batch = cluttered_digits(128, split="train", seed=10**6 + step)  # none that the start was trained on
        return exit_loss(model(batch.images), batch.labels)

    return loss


@torch.no_grad()
def accuracy_after_layers(model: nn.Module, test: ClutteredDigits) -> dict[int, float]:
    """Of a model with an exit after every layer, how often each is right; layers are counted from 1."""
    said = torch.cat([model(images).argmax(-1) for images in tqdm(test.images.split(500), leave=False)], dim=1)
    return dict(enumerate((said == test.labels).double().mean(1).tolist(), start=1))


def _digits_exits_figures(model: nn.Module) -> Numbers:
    test = cluttered_digits(10_000, split="test", seed=0)
    right = accuracy_after_layers(model, test)
    return {f"test_accuracy_after_layer_{layer}": value for layer, value in right.items()} | {"test_images": len(test)}


def _readouts(model: CausalLM, tokens: Tensor) -> list[Tensor]:
    """The logits after every layer."""
    x, logits = model.embed(tokens), []
    for block in model.blocks:
        x = block(x)
        logits.append(model.readout(x))
    return logits


def _topics_exits_loss(model: nn.Module) -> Callable[[int], Tensor]:
    assert isinstance(model, CausalLM)
    whole = encode(text("train"))

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(10**6 + step)
        batch = windows(whole, 12, 193, generator=generator)
        tokens, after = batch[:, :-1], batch[:, 1:]
        # A text of its own length to read, then tokens that leave, some early and some late.
        prompt = torch.randint(1, 129, (len(tokens),), generator=generator)
        threshold = 0.4 + 0.6 * torch.rand(len(tokens), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = torch.stack(_readouts(model, tokens)).float()
            left, _ = masked_exits(model, tokens, threshold, prompt=prompt)
        # Every layer is read out, layer i with weight i, as in arXiv:2207.07061.
        read = exit_loss(logits.flatten(1, 2), after.flatten(), weights="depth")
        # With exits it is to write what it writes without: that is not in the paper.
        target = logits[-1].detach().log_softmax(-1)
        same = F.kl_div(left.float().log_softmax(-1), target, log_target=True, reduction="none").sum(-1)
        return read + same[torch.arange(tokens.shape[1]) >= prompt[:, None] - 1].mean()

    return loss


@torch.no_grad()
def _topics_exits_figures(model: nn.Module) -> Numbers:
    assert isinstance(model, CausalLM)
    tokens = encode(text("test"))
    rows = tokens[: len(tokens) // 256 * 256].view(-1, 256)
    agree = torch.zeros(len(model.blocks))
    for row in tqdm(rows.split(16), leave=False):
        said = torch.stack(_readouts(model, row)).argmax(-1)
        agree += (said == said[-1]).float().mean((1, 2)) * len(row) / len(rows)
    figures: Numbers = {
        f"test_agreement_of_layer_{layer}_with_the_last": value
        for layer, value in enumerate(agree[:-1].tolist(), start=1)
    }
    return topics_figures(model) | figures


def _into_multi_exit(model: nn.Module, backbone: nn.Module) -> None:
    assert isinstance(model, MultiExit)
    model.backbone.load_state_dict(backbone.state_dict())


RECIPES = {
    "digits_exits": Recipe(
        build=multi_exit_vit,
        config=DIGITS,
        loss=_digits_exits_loss,
        evaluate=_digits_exits_figures,
        training={"steps": 2000, "lr": 1e-3, "weight_decay": 0.05},
        start="digits_vit",
        begin=_into_multi_exit,
    ),
    "topics_exits": Recipe(
        build=CausalLM,
        config=TOPICS,
        loss=_topics_exits_loss,
        evaluate=_topics_exits_figures,
        training={"steps": 800, "lr": 1e-3, "weight_decay": 0.1},
        start="topics_lm",
    ),
}
