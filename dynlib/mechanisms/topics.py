"""On language models of Python's documentation, which say the byte after a stretch of text.

What is read is the last byte's logits alone. ``topics_lm`` has mechanisms and rivals that were trained from it;
``topics_small`` a mixture of depths of its own size.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

from torch import Tensor, nn

from dynlib.backbone import CausalLM
from dynlib.data import encode, text, windows
from dynlib.deciding import setting
from dynlib.depth import MultiExit
from dynlib.mechanisms.digits import NEVER, first_layers
from dynlib.mechanisms.interface import Mechanism, drawn, pieces
from dynlib.tokens import MixtureOfDepths
from dynlib.width import MatFormerFeedForward
from dynlib.zoo import load

LENGTH = 64
"""Bytes of a request."""
WIDTHS = (0.125, 0.25, 0.5, 1.0)
THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, NEVER)
CAPACITIES = (0.0625, 0.125, 0.25)
"""Of the small model, in which no more bytes were ever routed."""
OF_PAIR = (0.125, 0.25, 0.5, 1.0)


def stretches(count: int, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Held-out stretches of text, and the byte that comes after each."""
    rows = windows(encode(text("test")), count, LENGTH + 1, generator=drawn(seed))
    return pieces(rows[:, :-1], rows[:, -1], size)


class LastByte(nn.Module):
    """A language model that is read after the last byte alone."""

    def __init__(self, model: CausalLM) -> None:
        super().__init__()
        self.model, self.blocks = model, model.blocks

    def embed(self, tokens: Tensor) -> Tensor:
        """Bytes to features."""
        return self.model.embed(tokens)

    def readout(self, x: Tensor) -> Tensor:
        """Features to logits, [texts, bytes]."""
        return self.model.readout(x[:, -1:])[:, 0]

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits of the byte after each text."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.readout(x)


def last_byte(name: str) -> LastByte:
    """A language model of the zoo, read after the last byte."""
    model = load(name)
    assert isinstance(model, CausalLM)
    return LastByte(model).eval()


def _exits() -> MultiExit:
    """All layers of ``topics_exits`` were trained to be read by the last one's readout."""
    model = last_byte("topics_exits")
    readouts = [_Readout(model) for _ in model.blocks[:-1]]
    return MultiExit(model, range(1, len(model.blocks)), heads=readouts)


class _Readout(nn.Module):
    def __init__(self, model: LastByte) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.readout(x)


def early_exit() -> Mechanism:
    """Each text leaves after the first layer that is sure enough of the next byte, all of its bytes at once."""
    model = _exits()

    def run(threshold: float, tokens: Tensor) -> Tensor:
        return model.predict(tokens, threshold).logits

    dense = last_byte("topics_lm")
    return Mechanism("topics_lm", "early_exit", "threshold", THRESHOLDS, run, dense, stretches, "layers")


def layers() -> Mechanism:
    """The first so many layers for every text."""
    model = _exits()
    depth = len(model.backbone.blocks)

    def run(layers: int, tokens: Tensor) -> Tensor:
        return model.predict(tokens, first_layers(layers, depth)).logits

    knobs = tuple(range(1, depth + 1))
    return Mechanism("topics_lm", "layers", "layers", knobs, run, last_byte("topics_lm"), stretches)


def matformer() -> Mechanism:
    """Feed-forward parts of the first neurons, as many for every byte."""
    model = last_byte("topics_matformer")

    def run(width: float, tokens: Tensor) -> Tensor:
        with setting(model, MatFormerFeedForward, width=width):
            return model(tokens)

    dense = last_byte("topics_lm")
    return Mechanism("topics_lm", "matformer", "width", WIDTHS, run, dense, stretches, "layers")


def matformer_mod() -> Mechanism:
    """Feed-forward parts of the first neurons, and every other block for the bytes that its router ranks first."""
    return _pair("matformer_mod", "width, capacity", tuple(product(WIDTHS, OF_PAIR)), lambda pair: pair)


def whole_mixture() -> Mechanism:
    """The same model at its full width: a mixture of depths alone."""
    return _pair("mixture_of_depths", "capacity", OF_PAIR, lambda capacity: (1.0, capacity), "layers")


def _pair(name: str, knob: str, knobs: tuple[Any, ...], both: Callable[[Any], Any], rival: str | None = None) -> Any:
    model = last_byte("topics_matformer_mod")

    def run(value: Any, tokens: Tensor) -> Tensor:
        width, capacity = both(value)
        with setting(model, MatFormerFeedForward, width=width), setting(model, MixtureOfDepths, capacity=capacity):
            return model(tokens)

    return Mechanism("topics_lm", name, knob, knobs, run, last_byte("topics_lm"), stretches, rival)


def mixture_of_depths() -> Mechanism:
    """Every other block takes the bytes that its router ranks first."""
    return _mixture("mixture_of_depths", "top_k", "random_tokens")


def random_tokens() -> Mechanism:
    """Every other block takes as many bytes, any of them."""
    return _mixture("random_tokens", "random", None)


def _mixture(name: str, routing: str, rival: str | None) -> Mechanism:
    model = last_byte("topics_mod")

    def run(capacity: float, tokens: Tensor) -> Tensor:
        generator = drawn(0)
        for part in model.modules():
            if isinstance(part, MixtureOfDepths):
                part.generator = generator
        with setting(model, MixtureOfDepths, capacity=capacity, routing=routing):
            return model(tokens)

    dense = last_byte("topics_small")
    return Mechanism("topics_small", name, "capacity", CAPACITIES, run, dense, stretches, rival)


TOPICS: dict[str, Callable[[], Mechanism]] = {
    "matformer": matformer,
    "early_exit": early_exit,
    "mixture_of_depths": whole_mixture,
    "matformer_mod": matformer_mod,
    "layers": layers,
}
SMALL: dict[str, Callable[[], Mechanism]] = {"mixture_of_depths": mixture_of_depths, "random_tokens": random_tokens}
