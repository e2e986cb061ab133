"""A step of split learning with each compression, against one with none: bytes both ways, and what compressing takes.

Both sides run in one process with no link between them, so that a time is that of the computing alone.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.given import uniform, whole
from benchmarks.race import sentences
from benchmarks.table import Case, Row
from dynlib.backbone import ViT
from dynlib.cost import count, timed
from dynlib.edge import Compression, halves

METHODS = {
    "double compression to 1/16": Compression("double", 1 / 16),
    "double compression to 1/100": Compression("double", 1 / 100),
    "1/16 of the numbers, the largest": Compression("top_k", 1 / 16),
    "8 bits a number": Compression("quantise", bits=8),
    "1 bit a number": Compression("quantise", bits=1),
}
CLASSES, LAYERS = 10, 2


def cases(*, quick: bool = False) -> list[Case]:
    """A vision transformer of the course's size, with its first layers at the client."""
    names = list(METHODS)[:3:2] if quick else list(METHODS)
    return [(f"split learning, {name}", partial(_measure, name, quick)) for name in names]


class _Side:
    """A model of its own for one compression, and a batch."""

    def __init__(self, how: Compression, quick: bool) -> None:
        dim, depth, self.batch, side = (16, 3, 8, 8) if quick else (96, 6, 64, 24)
        torch.manual_seed(0)
        model = ViT(image_size=side, patch_size=4, classes=CLASSES, dim=dim, depth=depth, heads=4)
        self.how, self.dim, self.tokens = how, dim, 1 + (side // 4) ** 2
        self.first, self.second = halves(model, LAYERS)
        self.images = uniform(self.batch, 1, side, side)
        self.labels = whole(CLASSES, self.batch)
        self.size = f"dim {dim}, {depth} layers, {LAYERS} at the client, {self.batch} × {self.tokens} tokens"

    def compress(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """What the gradient comes back for, what is sent, and the labels."""
        seen = self.first.class_attention() if self.how.kind == "double" else None
        message, labels = self.how.pack(x, seen, self.labels, CLASSES, torch.Generator().manual_seed(0))
        return message.carried, message.wire[:1] if self.how.kind == "double" else message.wire, labels

    def answer(self, wire: tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, ...]:
        """What the server sends back."""
        got = self.how.open(wire, self.tokens, self.dim)
        leaf = got.carried.requires_grad_()
        F.cross_entropy(self.second(got.restore()), labels).backward()
        assert leaf.grad is not None
        return self.how.pack_gradient(leaf.grad)

    def step(self) -> tuple[int, int]:
        """Forward and backward through both; gives the bytes up and down, heads of messages left out."""
        for half in (self.first, self.second):
            half.zero_grad()
        carried, wire, labels = self.compress(self.first(self.images))
        back = self.answer(wire, labels)
        carried.backward(self.how.open_gradient(back, tuple(carried.shape)))
        return _weigh(*wire, labels), _weigh(*back)


def _measure(name: str, quick: bool) -> Row:
    ours, peer = _Side(METHODS[name], quick), _Side(Compression(), quick)
    up, down = ours.step()
    share = (up + down) / sum(peer.step())
    with torch.no_grad():
        x = ours.first(ours.images)
    timing = timed(ours.step, peer.step, partial(ours.compress, x), repeats=2 if quick else 9, warmup=1)
    time_share, low, high = timing.ratio(0, 1)
    distances = {torch.ops.aten._cdist_forward: _of_distances}  # of k-means, as matrix products
    few, all_ = (count(side.step, formulas=distances).flops for side in (ours, peer))
    return Row(
        mechanism=f"split learning, {name}",
        size=ours.size,
        peer="nothing compressed, forward and backward on both sides",
        flops_share=few / all_,
        time_share=time_share,
        interval=(low, high),
        note=sentences(
            f"{share:.3f} of the bytes, {up / 1e3:.1f} kB up and {down / 1e3:.1f} kB down a step",
            f"compressing takes {100 * timing.seconds[2] / timing.seconds[0]:.0f} % of the step's time",
            _pays(up + down, share, timing.seconds),
        ),
    )


def _pays(sent: int, share: float, seconds: tuple[float, ...]) -> str:
    """From which rate of the link on a step is no faster with compression: where bytes saved are seconds lost."""
    lost = seconds[0] - seconds[1]
    if lost <= 0:
        return "faster on any link"
    rate = 8 * (sent / share - sent) / lost
    return f"faster where the link has less than {rate / 1e6:.3g} Mbit/s"


def _of_distances(x: tuple[int, ...], *_: Any, out_shape: tuple[int, ...]) -> int:
    return 2 * x[-1] * math.prod(out_shape)


def _weigh(*parts: Tensor) -> int:
    return sum(part.numel() * part.element_size() for part in parts)
