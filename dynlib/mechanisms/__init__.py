"""Every mechanism of the course on a backbone of the zoo, under one interface: ``run(knob, inputs)``.

``mechanism("digits_vit", "early_exit")`` gives what :func:`dynlib.cost.calibrate` asks for: the mechanism at one value
of its knob, the values in the order of their cost, the dense model, and held-out requests with their answers. Beside
the mechanisms stands ``layers``, the trivial rival: the first so many layers for everybody.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlib.cost.curve import CostCurve, calibrate
from dynlib.data import cluttered_digits, encode, text, windows
from dynlib.deciding import setting
from dynlib.inputs import check_name, check_whole
from dynlib.tokens import MixtureOfDepths
from dynlib.width import MatFormerFeedForward
from dynlib.zoo import load

LENGTH = 128  # bytes of a request


class Mechanism(NamedTuple):
    """A mechanism on a trained backbone."""

    backbone: str
    name: str
    knob: str
    """What its knob is called."""
    knobs: tuple[Any, ...]
    """Values from the cheapest to the dearest."""
    run: Callable[[Any, Tensor], Tensor]
    """``run(knob, inputs)``, logits."""
    dense: Callable[[Tensor], Tensor]
    """The model without the mechanism."""
    requests: Callable[[int, int, int], list[tuple[Tensor, Tensor]]]
    """``requests(count, size, seed)``, ``count`` held-out requests in batches of ``size``; others for another seed."""

    def calibrate(self, count: int = 1000, *, alone: int = 64, **options: Any) -> CostCurve:
        """Its curve on held-out data, where ``alone`` requests come each on its own, to see what the dearest takes.

        Args:
            count: requests in batches.
            alone: requests in batches of one.
            options: of :func:`dynlib.cost.calibrate`.
        """
        batches = self.requests(check_whole("count", count, least=1), min(count, 250), 1)
        batches += self.requests(check_whole("alone", alone, least=1), 1, 2)
        return calibrate(self.run, self.knobs, batches, dense=self.dense, name=self.name, **options)


def mechanism(backbone: str, name: str) -> Mechanism:
    """One of :func:`mechanisms`.

    Raises:
        ValueError: if there is no such backbone, or it has no such mechanism.
    """
    check_name("the backbone", backbone, tuple(MECHANISMS))
    check_name(f"the mechanism on {backbone}", name, tuple(MECHANISMS[backbone]))
    return MECHANISMS[backbone][name]()


def mechanisms(backbone: str) -> tuple[str, ...]:
    """Those that there are on a backbone.

    Raises:
        ValueError: if there is no such backbone.
    """
    check_name("the backbone", backbone, tuple(MECHANISMS))
    return tuple(MECHANISMS[backbone])


def _images(count: int, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    some = cluttered_digits(count, split="test", seed=seed)
    return list(zip(some.images.split(size), some.labels.split(size), strict=True))


def _bytes(count: int, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Stretches of text, and the byte that comes after each."""
    drawn = windows(encode(text("test")), count, LENGTH + 1, generator=torch.Generator().manual_seed(seed))
    return [(some[:, :-1], some[:, -1]) for some in drawn.split(size)]


def _early_exit() -> Mechanism:
    model = load("digits_exits")

    def run(threshold: float, images: Tensor) -> Tensor:
        return model.predict(images, threshold).logits

    knobs = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
    return Mechanism("digits_vit", "early_exit", "threshold", knobs, run, load("digits_vit"), _images)


def _layers() -> Mechanism:
    model = load("digits_exits")
    depth = len(model.backbone.blocks)

    def run(layers: int, images: Tensor) -> Tensor:
        check_whole("layers", layers, least=1, most=depth)
        never, always = 2.0, 0.0
        return model.predict(images, [always if exit_ >= layers else never for exit_ in range(1, depth)]).logits

    return Mechanism("digits_vit", "layers", "layers", tuple(range(1, depth + 1)), run, load("digits_vit"), _images)


def _avit() -> Mechanism:
    model = load("digits_avit")

    def run(epsilon: float, images: Tensor) -> Tensor:
        return model.predict(images, epsilon=epsilon).logits

    knobs = (0.99, 0.95, 0.9, 0.7, 0.5, 0.3, 0.1, 0.01)
    return Mechanism("digits_vit", "avit", "epsilon", knobs, run, load("digits_vit"), _images)


def _matformer() -> Mechanism:
    model = load("topics_matformer")

    def run(width: float, tokens: Tensor) -> Tensor:
        with setting(model, MatFormerFeedForward, width=width):
            return model(tokens)[:, -1]

    return Mechanism("topics_lm", "matformer", "width", (0.125, 0.25, 0.5, 1.0), run, _last(load("topics_lm")), _bytes)


def _mixture_of_depths() -> Mechanism:
    model = load("topics_mod")

    def run(capacity: float, tokens: Tensor) -> Tensor:
        with setting(model, MixtureOfDepths, capacity=capacity):
            return model(tokens)[:, -1]

    return Mechanism(
        "topics_lm", "mixture_of_depths", "capacity", (0.0625, 0.125, 0.25), run, _last(load("topics_lm")), _bytes
    )


def _last(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda tokens: model(tokens)[:, -1]


MECHANISMS: dict[str, dict[str, Callable[[], Mechanism]]] = {
    "digits_vit": {"early_exit": _early_exit, "avit": _avit, "layers": _layers},
    "topics_lm": {"matformer": _matformer, "mixture_of_depths": _mixture_of_depths},
}
