"""How the two sides of split learning compress what they send, and what they take."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dynlib.edge.compression import (
    Dense,
    DoublyCompressed,
    Quantised,
    Sparse,
    double_compress,
    quantise,
    random_top_k,
    send_all,
    share_of_each,
)
from dynlib.edge.link import Expected, LinkError
from dynlib.inputs import check_name, check_number, check_whole

Kind = Literal["none", "top_k", "random_top_k", "quantise", "double"]


@dataclass(frozen=True)
class Compression:
    """What is sent in place of the activations.

    Args:
        kind: "none", "top_k", "random_top_k", "quantise" or "double".
        share: of the numbers (top-k) or of the tokens (double), above 0, at most 1.
        bits: of a number, where they are quantised: 1, 2, 4 or 8.
        chance: of :func:`dynlib.edge.random_top_k`.

    Raises:
        TypeError, ValueError: if one is not as said.
    """

    kind: Kind = "none"
    share: float = 1.0
    bits: int = 8
    chance: float = 0.1

    def __post_init__(self) -> None:
        check_name("kind", self.kind, get_args(Kind))
        check_number("share", self.share, least=0, most=1, open=True)
        check_number("chance", self.chance, least=0, most=1)
        if check_whole("bits", self.bits) not in Quantised.BITS:
            raise ValueError(f"bits must be 1, 2, 4 or 8; got {self.bits}")

    def pack(
        self, x: Tensor, attention: Tensor | None, labels: Tensor, classes: int, generator: torch.Generator
    ) -> tuple[Dense | Sparse | Quantised | DoublyCompressed, Tensor]:
        """The message and its labels."""
        if self.kind == "top_k":
            return random_top_k(x, self.share, chance=0), labels
        if self.kind == "random_top_k":
            return random_top_k(x, self.share, chance=self.chance, generator=generator), labels
        if self.kind == "quantise":
            return quantise(x, self.bits), labels
        if self.kind == "double":
            if attention is None:
                raise ValueError("double compression asks for the attention of the class token: give SplitClient one")
            samples, tokens = share_of_each(len(x), x.shape[1], self.share)
            sent = double_compress(
                x, attention, labels, samples=samples, tokens=tokens, classes=classes, generator=generator
            )
            return sent, sent.labels
        return send_all(x), labels

    def expected(self, batch: int, tokens: int, dim: int, classes: int) -> list[Expected]:
        """What a server takes: the tensors of the wire, and the labels."""
        numbers, labels = tokens * dim, (torch.int64, (batch,))
        if self.kind in ("top_k", "random_top_k"):
            places = torch.int16 if numbers <= 2**15 else torch.int32
            return [(torch.float32, (batch, numbers)), (places, (batch, numbers)), labels]
        if self.kind == "quantise":
            packed = -(-batch * numbers * self.bits // 8)
            of_token = (torch.float32, (batch, tokens, 1))
            return [(torch.uint8, (packed,)), of_token, of_token, labels]
        if self.kind == "double":
            return [(torch.float32, (batch, tokens, dim)), (torch.float32, (batch, classes))]
        return [(torch.float32, (batch, tokens, dim)), labels]

    def open(self, wire: tuple[Tensor, ...], tokens: int, dim: int) -> Dense | Sparse | Quantised:
        """The message as the server sees it.

        Raises:
            LinkError: if the parts do not fit together.
        """
        if self.kind in ("top_k", "random_top_k"):
            values, places = wire
            sound = values.shape == places.shape and (len(places) == 0 or within(places, tokens * dim))
            return Sparse(values, sound_or_refused(places, sound), (len(values), tokens, dim))
        if self.kind == "quantise":
            codes, low, step = wire
            fits = low.shape == step.shape == (len(low), tokens, 1)
            numbers = len(low) * tokens * dim
            sound_or_refused(codes, fits and len(codes) == -(-numbers * self.bits // 8))
            return Quantised.unpack(codes, low, step, self.bits, (len(low), tokens, dim))
        (x,) = wire
        return Dense(sound_or_refused(x, x.shape[2] == dim and (self.kind == "double" or x.shape[1] == tokens)))

    def expected_gradient(self, shape: tuple[int, ...]) -> list[Expected]:
        """What a client takes back for numbers of that shape."""
        if self.kind == "quantise":
            batch, tokens, dim = shape
            return self.expected(batch, tokens, dim, 1)[:-1]
        return [(torch.float32, shape)]

    def pack_gradient(self, gradient: Tensor) -> tuple[Tensor, ...]:
        """The wire of a gradient."""
        return quantise(gradient, self.bits).wire if self.kind == "quantise" else (gradient,)

    def open_gradient(self, wire: tuple[Tensor, ...], shape: tuple[int, ...]) -> Tensor:
        """The gradient as the client sees it.

        Raises:
            LinkError: if it has another shape.
        """
        gradient = self.open(wire, *shape[1:]).carried if self.kind == "quantise" else wire[0]
        return sound_or_refused(gradient, gradient.shape == shape)


def within(numbers: Tensor, count: int) -> bool:
    """Whether all of them are 0 … count − 1."""
    return numbers.numel() == 0 or (int(numbers.min()) >= 0 and int(numbers.max()) < count)


def sound_or_refused(tensor: Tensor, sound: bool) -> Tensor:
    """The tensor, if it is sound.

    Raises:
        LinkError: if it is not.
    """
    if not sound:
        raise LinkError(f"the parts of a message do not fit together; one of them is {list(tensor.shape)}")
    return tensor
