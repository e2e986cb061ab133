"""``sparsemax`` and ``entmax15``, forward and backward in float32, against the ``entmax`` package."""

from collections.abc import Callable
from functools import partial

import entmax
import torch
from torch import Tensor

from benchmarks.table import Case, Row
from dynlib.choice.sparse import entmax15, sparsemax
from dynlib.cost import timed

SHAPES = ((4096, 64), (256, 32_000))
PEERS = {"sparsemax": (sparsemax, entmax.sparsemax), "entmax15": (entmax15, entmax.entmax15)}


def cases(*, quick: bool = False) -> list[Case]:
    """Normal logits of many small choices, and of few large ones."""
    shapes = tuple((rows // 16, min(choices, 500)) for rows, choices in SHAPES) if quick else SHAPES
    return [
        (f"{name} {rows} × {choices}", partial(_measure, name, rows, choices, quick))
        for rows, choices in shapes
        for name in PEERS
    ]


def _measure(name: str, rows: int, choices: int, quick: bool) -> Row:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, choices, generator=generator).requires_grad_()
    weights = torch.randn(rows, choices, generator=generator)
    ours, theirs = PEERS[name]

    def forward_backward(function: Callable[..., Tensor]) -> None:
        logits.grad = None
        function(logits, dim=-1).backward(weights)

    long = choices > 1000  # half a second for the package
    timing = timed(
        partial(forward_backward, ours),
        partial(forward_backward, theirs),
        repeats=7 if quick else 15 if long else 40,
        warmup=1 if quick else 2 if long else 5,
    )
    share, low, high = timing.ratio(0, 1)
    return Row(
        mechanism=name,
        size=f"{rows:,} × {choices:,}, forward and backward",
        peer=f"entmax.{name}",
        time_share=share,
        interval=(low, high),
        note=f"{1e3 * timing.seconds[0]:.1f} ms and {1e3 * timing.seconds[1]:.1f} ms",
    )
