"""Transmitters to test, small and in float64."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dynlib.backbone import ViT
from dynlib.deciding import record
from dynlib.edge import AWGNChannel, TokensSent, TokenTransmitter
from dynlib.edge.communication import GAIN

TOKENS, DEPTH, AFTER = 10, 5, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit(**more: Any) -> ViT:
    torch.manual_seed(0)
    given = {"image_size": 12, "patch_size": 4, "classes": 4, "dim": 16, "depth": DEPTH, "heads": 2} | more
    return ViT(**given).double()


def pictures(batch: int = 6) -> Tensor:
    return torch.rand(batch, 1, 12, 12, generator=generator(7), dtype=torch.float64)


def made(
    backbone: ViT | None = None,
    *,
    choosy: bool = True,
    channel: nn.Module | None = None,
    symbols: int = 3,
    **more: Any,
) -> TokenTransmitter:
    """A transmitter in float64; a choosy one drops different tokens of different images in every block."""
    model = TokenTransmitter(
        vit() if backbone is None else backbone,
        after=AFTER,
        symbols=symbols,
        channel=AWGNChannel(10) if channel is None else channel,
        **more,
    )
    if choosy:
        draw = generator(11)
        with torch.no_grad():
            for worth, price in zip(model.worth, model.price, strict=True):
                worth.weight.normal_(std=0.5 / GAIN, generator=draw)
                worth.bias.fill_(0.5 / GAIN)
                price.weight.normal_(std=0.3 / GAIN, generator=draw)
                price.bias.fill_(-0.5 / GAIN)
            model.low.normal_(std=0.3, generator=draw)
            model.up.normal_(std=0.3, generator=draw)
            model.expected.normal_(std=0.5, generator=draw)
    return model.eval()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def run(model: TokenTransmitter, images: Tensor, **more: Any) -> tuple[Tensor, TokensSent]:
    with record(model, TokenTransmitter) as records:
        logits = model(images, generator=generator(1), **more)
    return logits, records[""][0]


def budget_by_hand(sent: TokensSent, slack: float) -> float:
    """The budget's part of the loss."""
    shares = [sum(row) / len(row) for row in sent.sent.tolist()]
    return sum(max(0, abs(a - b) - slack) for a, b in zip(shares, sent.budget.tolist(), strict=True)) / len(shares)
