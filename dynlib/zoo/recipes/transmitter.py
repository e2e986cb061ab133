"""A vision transformer that sends some of its tokens across a channel, as many as it is told."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dynlib.backbone import ViT
from dynlib.data import cluttered_digits
from dynlib.deciding import record, setting
from dynlib.edge import AWGNChannel, TokenTransmitter, draw_budgets, start_code, transmission_loss
from dynlib.zoo.recipes import Numbers, Recipe
from dynlib.zoo.recipes.digits import CONFIG

LOW, HIGH = 0.05, 1.0
"""The budgets that are drawn."""
WORST, BEST = 0.0, 20.0
"""The ratios that are drawn, one a batch, in decibels."""
BATCH = 32
WEIGHTS: dict[str, float] = {"weight": 10.0, "slack": 0.01, "inner_weight": 0.05}
"""Of :func:`dynlib.edge.transmission_loss`."""


def token_transmitter(*, after: int, symbols: int, snr: float, **config: Any) -> TokenTransmitter:
    """A vision transformer on both sides of a channel, which sends as many of its tokens as a budget says."""
    return TokenTransmitter(ViT(**config), after=after, symbols=symbols, channel=AWGNChannel(snr))


def begin(model: nn.Module, backbone: nn.Module) -> None:
    """Start from a trained vision transformer, and with the best linear code for its tokens."""
    assert isinstance(model, TokenTransmitter)
    model.model.load_state_dict(backbone.state_dict())
    start_code(model, cluttered_digits(400, split="train", seed=10**8).images)


def digits_transmitter_loss(
    model: nn.Module, *, budget: float | None = None, stream: int = 0
) -> Callable[[int], Tensor]:
    """:func:`dynlib.edge.transmission_loss` on a stream of images that the start was not trained on.

    The budget is drawn for each image, if none is given; the ratio for each batch.
    """

    def loss(step: int) -> Tensor:
        number = 10**6 * (20 + stream) + step
        batch, generator = cluttered_digits(BATCH, split="train", seed=number), torch.Generator().manual_seed(number)
        snr = WORST + (BEST - WORST) * torch.rand((), generator=generator).item()
        drawn = draw_budgets(BATCH, low=LOW, high=HIGH, generator=generator)
        alpha = drawn if budget is None else torch.full_like(drawn, budget)
        with setting(model, TokenTransmitter, snr=snr), record(model, TokenTransmitter) as records:
            logits = model(batch.images, budget=alpha, generator=generator)
        return transmission_loss(logits, batch.labels, records[""][0], **WEIGHTS).total

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
    return {**found, "test_images": len(test)}


RECIPES = {
    "digits_transmitter": Recipe(
        build=token_transmitter,
        config={**CONFIG, "after": 2, "symbols": 16, "snr": 10.0},
        loss=digits_transmitter_loss,
        evaluate=_figures,
        training={"steps": 500, "lr": 4e-4, "weight_decay": 0.05},
        start="digits_vit",
        begin=begin,
    )
}
