"""What the mechanisms are given: seeded numbers, and held-out data with the quality on them, on the default device.

All are drawn on the CPU, so that every device gets the same.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dynlib.data import cluttered_digits, encode, text, windows

Run = Callable[[Tensor], Tensor]


def here(x: Tensor) -> Tensor:
    """The same on the default device."""
    return x.to(torch.get_default_device())


def _drawing() -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(0)


def normal(*shape: int) -> Tensor:
    """Normal numbers."""
    return here(torch.randn(*shape, generator=_drawing(), device="cpu"))


def uniform(*shape: int) -> Tensor:
    """Numbers from 0 to 1."""
    return here(torch.rand(*shape, generator=_drawing(), device="cpu"))


def whole(below: int, *shape: int) -> Tensor:
    """Whole numbers from 0 on."""
    return here(torch.randint(below, shape, generator=_drawing(), device="cpu"))


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Held-out images and their labels."""
    with torch.device("cpu"):
        some = cluttered_digits(count, split="test")
    return here(some.images), here(some.labels)


def bytes_of_text(count: int, length: int) -> Tensor:
    """Held-out stretches of text, one byte longer than the length, so that each has a next one."""
    with torch.device("cpu"):
        some = windows(encode(text("test")), count, length + 1, generator=_drawing())
    return here(some)


@torch.inference_mode()
def accuracy(run: Run, x: Tensor, labels: Tensor, *, size: int = 250) -> float:
    """The share of right answers of what gives logits."""
    right = [
        (run(some).argmax(-1) == label).double() for some, label in zip(x.split(size), labels.split(size), strict=True)
    ]
    return torch.cat(right).mean().item()


@torch.inference_mode()
def bits(run: Run, stretches: Tensor, *, size: int = 64) -> float:
    """Bits per byte of a language model, each predicted from those before it in its stretch."""
    nats = sum(
        F.cross_entropy(run(some[:, :-1]).flatten(0, 1), some[:, 1:].flatten(), reduction="sum").item()
        for some in stretches.split(size)
    )
    return nats / stretches[:, 1:].numel() / torch.log(torch.tensor(2.0)).item()
