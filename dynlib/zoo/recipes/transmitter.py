"""A vision transformer that sends some of its tokens across a channel, as many as it is told."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dynlib.backbone import ViT
from dynlib.data import ClutteredDigits, cluttered_digits
from dynlib.deciding import record, setting
from dynlib.edge import AWGNChannel, TokenTransmitter, draw_budgets, start_code, transmission_loss
from dynlib.training import train
from dynlib.zoo import load
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.recipes.digits import CONFIG

LOW, HIGH = 0.05, 1.0
"""The budgets that are drawn."""
WORST, BEST = 0.0, 20.0
"""The ratios that are drawn, one a batch, in decibels."""
BATCH = 32
START: Numbers = {"steps": 1000, "lr": 6e-4}
"""Of :func:`begin`."""
GATES = ("low", "up", "worth", "price")
"""What says which tokens are sent."""
WEIGHTS: dict[str, float] = {"weight": 10.0, "slack": 0.01, "inner_weight": 0.05}
"""Of :func:`dynlib.edge.transmission_loss`."""


def token_transmitter(*, after: int, symbols: int, snr: float, **config: Any) -> TokenTransmitter:
    """A vision transformer on both sides of a channel, which sends as many of its tokens as a budget says."""
    return TokenTransmitter(ViT(**config), after=after, symbols=symbols, channel=AWGNChannel(snr))


@cache
def _answers(number: int) -> Tensor:
    """What ``digits_vit`` says of a batch; kept, as a study trains many models on the same ones."""
    with torch.no_grad():
        answers: Tensor = load("digits_vit")(_batch(number).images).log_softmax(-1)
    return answers


def _batch(number: int) -> ClutteredDigits:
    return cluttered_digits(BATCH, split="train", seed=number)


def _agreement(logits: Tensor, number: int) -> Tensor:
    """KL divergence of the server's answers from those of ``digits_vit``, which never met a channel."""
    return F.kl_div(logits.log_softmax(-1), _answers(number), log_target=True, reduction="batchmean")


def _ratio(generator: torch.Generator) -> float:
    return WORST + (BEST - WORST) * torch.rand((), generator=generator).item()


def begin(model: nn.Module, backbone: nn.Module, *, checkpoint: Path | None = None) -> None:
    """Start from a trained vision transformer and the best linear code, and learn to send: all tokens, no choice yet.

    Args:
        model: a transmitter; its gates, and the two ends of the budget, are left as they are.
        backbone: of the model.
        checkpoint: of this training, which is the same for all models of a shape.
    """
    assert isinstance(model, TokenTransmitter)
    model.model.load_state_dict(backbone.state_dict())
    start_code(model, cluttered_digits(400, split="train", seed=10**8).images)
    gates = {name: part for name, part in model.named_parameters() if name.split(".")[0] in GATES}
    own = {name: part.detach().clone() for name, part in gates.items()}
    for part in gates.values():
        part.requires_grad_(False)

    def loss(step: int) -> Tensor:
        number = 10**6 * 19 + step
        generator = torch.Generator().manual_seed(number)
        with setting(model, TokenTransmitter, snr=_ratio(generator), budget=1.0):
            return _agreement(model(_batch(number).images, generator=generator), number)

    steps, lr = int(START["steps"]), START["lr"]
    train(model, loss, steps=steps, lr=lr, checkpoint=checkpoint, description="all tokens")
    model.load_state_dict(own, strict=False)
    for part in gates.values():
        part.requires_grad_(True)


def digits_transmitter_loss(
    model: nn.Module, *, budget: float | None = None, stream: int = 0
) -> Callable[[int], Tensor]:
    """:func:`dynlib.edge.transmission_loss` on a stream of images that the start was not trained on.

    Its task is to answer as ``digits_vit`` does, in place of the labels. The budget is drawn for each image, if none is
    given; the ratio for each batch.
    """

    def loss(step: int) -> Tensor:
        number = 10**6 * (20 + stream) + step
        batch, generator = _batch(number), torch.Generator().manual_seed(number)
        snr = _ratio(generator)
        drawn = draw_budgets(BATCH, low=LOW, high=HIGH, generator=generator)
        alpha = drawn if budget is None else torch.full_like(drawn, budget)
        with setting(model, TokenTransmitter, snr=snr), record(model, TokenTransmitter) as records:
            logits = model(batch.images, budget=alpha, generator=generator)
        parts = transmission_loss(logits, batch.labels, records[""][0], **WEIGHTS)
        return parts.total - parts.task + _agreement(logits, number)

    return loss


@torch.no_grad()
def _figures(model: nn.Module) -> Numbers:
    assert isinstance(model, TokenTransmitter)
    test, found = cluttered_digits(5000, split="test", seed=0), {}
    for alpha in (0.1, 0.3, 0.6, 1.0):
        noise, said = torch.Generator().manual_seed(0), []
        with setting(model, TokenTransmitter, budget=alpha), record(model, TokenTransmitter) as records:
            for images in tqdm(test.images.split(500), leave=False):
                said.append(model(images, generator=noise).argmax(-1))
        sent = [one.sent for one in records[""]]
        found[f"test_accuracy_at_budget_{alpha:g}"] = (torch.cat(said) == test.labels).float().mean().item()
        found[f"test_share_of_tokens_at_budget_{alpha:g}"] = torch.cat(sent).float().mean().item()
    return {**found, **{f"{key}_of_the_start": value for key, value in START.items()}, "test_images": len(test)}


RECIPES = {
    "digits_transmitter": Recipe(
        build=token_transmitter,
        config={**CONFIG, "after": 2, "symbols": 16, "snr": 10.0},
        loss=digits_transmitter_loss,
        evaluate=_figures,
        training={"steps": 150, "lr": 2e-4, "weight_decay": 0.05},
        start="digits_vit",
        begin=begin,
    )
}
