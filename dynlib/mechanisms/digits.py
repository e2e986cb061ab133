"""On the vision transformer that reads a digit among clutter: exits, halting tokens, learners, a channel, and rivals.

A rival decides without looking at how hard an image is: so many layers for all, the darkest patches of each image, as
many learners for every token, the darkest patches across the channel. It is not trained for that, beyond what it shares
with the mechanism.
"""

from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dynlib.backbone import ViT
from dynlib.data import cluttered_digits
from dynlib.deciding import setting
from dynlib.inputs import check_whole
from dynlib.mechanisms.interface import Mechanism, drawn, pieces
from dynlib.tokens import AdaptiveViT
from dynlib.width import AdaptiveComputationModule
from dynlib.zoo import load

NEVER, ALWAYS = 2.0, 0.0
"""Thresholds that no confidence reaches, and that each one does."""
PRICES = (2.0, 1.0, 0.5, 0.0, -0.25, -0.5, -1.0, -2.0, -4.0)
THRESHOLDS = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, NEVER)
PATCHES = (4, 6, 9, 12, 16, 20, 24, 30, 36)
PAIRS = tuple(product((0.35, 0.5, 0.65, 0.8, 0.9, NEVER), (1.0, 0.5, 0.0, -0.5, -1.0, -4.0)))
"""Of a threshold and a price."""
BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
DEEP = -1e3  # a β with which no token halts by itself


def images(count: int, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Held-out images and their digits."""
    some = cluttered_digits(count, split="test", seed=seed)
    return pieces(some.images, some.labels, size)


def _digits(name: str, knob: str, knobs: tuple[Any, ...], run: Any, rival: str | None = None) -> Mechanism:
    return Mechanism("digits_vit", name, knob, knobs, run, load("digits_vit"), images, rival)


def early_exit() -> Mechanism:
    """Each image leaves at the first exit that is sure enough."""
    model = load("digits_exits")

    def run(threshold: float, images: Tensor) -> Tensor:
        return model.predict(images, threshold).logits

    return _digits("early_exit", "threshold", THRESHOLDS, run, "layers")


def layers() -> Mechanism:
    """The first so many layers for every image."""
    model = load("digits_exits")
    depth = len(model.backbone.blocks)

    def run(layers: int, images: Tensor) -> Tensor:
        return model.predict(images, first_layers(layers, depth)).logits

    return _digits("layers", "layers", tuple(range(1, depth + 1)), run)


def first_layers(layers: int, depth: int) -> list[float]:
    """Thresholds with which everyone leaves after so many layers."""
    check_whole("layers", layers, least=1, most=depth)
    return [ALWAYS if exit_ >= layers else NEVER for exit_ in range(1, depth)]


def avit() -> Mechanism:
    """Each patch halts where its scores say so."""
    model = load("digits_avit")

    def run(epsilon: float, images: Tensor) -> Tensor:
        return model.predict(images, epsilon=epsilon).logits

    return _digits("avit", "epsilon", (0.99, 0.95, 0.9, 0.7, 0.5, 0.3, 0.1, 0.01), run, "ink")


def ink() -> Mechanism:
    """After the first layer, so many of the patches of every image go on, the darkest ones."""
    vit = load("digits_vit")
    assert isinstance(vit, ViT)
    model = AdaptiveViT(vit, beta=DEEP).eval()
    most, depth = vit.position.shape[1] - 1, len(vit.blocks)

    def run(patches: int, images: Tensor) -> Tensor:
        check_whole("patches", patches, least=1, most=most)
        stay = F.pad(darkest(images, patches), (1, 0), value=True)
        mask = torch.stack([torch.ones_like(stay), *[stay] * (depth - 1)], 1)
        return model.predict(images, mask=mask).logits

    return _digits("ink", "patches", PATCHES, run)


def darkest(images: Tensor, patches: int, patch: int = 4) -> Tensor:
    """The patches with the most ink, [images, all patches]; of equal ones the first."""
    order = F.avg_pool2d(images, patch).flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(1) < patches


def acm() -> Mechanism:
    """Each token gets as many learners of each layer as its gate says, at a price for each."""
    model = load("digits_acm")

    def run(price: float, images: Tensor) -> Tensor:
        with setting(model, AdaptiveComputationModule, price=price):
            return model(images)

    return _digits("acm", "price", PRICES, run, "learners")


def learners() -> Mechanism:
    """The first so many learners of every layer for every token: layers that are narrower for all."""
    model = load("digits_acm")
    most = next(part.learners for part in model.modules() if isinstance(part, AdaptiveComputationModule))

    def run(learners: int, images: Tensor) -> Tensor:
        with setting(model, AdaptiveComputationModule, fixed=learners):
            return model(images)

    return _digits("learners", "learners", tuple(range(1, most + 1)), run)


def early_exit_acm() -> Mechanism:
    """Exits on adaptive computation modules: a threshold, and a price."""
    model = load("digits_acm_exits")

    def run(knobs: tuple[float, float], images: Tensor) -> Tensor:
        threshold, price = knobs
        with setting(model, AdaptiveComputationModule, price=price):
            return model.predict(images, threshold).logits

    return _digits("early_exit_acm", "threshold, price", PAIRS, run)


def transmitter() -> Mechanism:
    """The tokens of the first blocks that are worth it cross a channel, at 10 decibels with the noise of one seed."""
    model = load("digits_transmitter")

    def run(budget: float, images: Tensor) -> Tensor:
        return model(images, budget=budget, generator=drawn(0))

    return _digits("transmitter", "budget", BUDGETS, run, "transmitter_ink")


def transmitter_ink() -> Mechanism:
    """The same transmitter at the budget of all tokens, of which only so many patches are sent, the darkest ones."""
    model = load("digits_transmitter")

    def run(patches: int, images: Tensor) -> Tensor:
        check_whole("patches", patches, least=1, most=model.tokens - 1)
        made = model.encode(images, budget=1.0)
        sent = made.sent & F.pad(darkest(images, patches), (1, 0), value=True)
        made = made._replace(sent=sent, weight=sent.to(made.weight), codewords=made.codewords * sent[..., None])
        return model.decode(model.send(made, generator=drawn(0)))

    return _digits("transmitter_ink", "patches", PATCHES, run)


DIGITS = {
    "early_exit": early_exit,
    "avit": avit,
    "acm": acm,
    "early_exit_acm": early_exit_acm,
    "transmitter": transmitter,
    "layers": layers,
    "ink": ink,
    "learners": learners,
    "transmitter_ink": transmitter_ink,
}
