"""``gumbel_softmax``, forward and backward in float32, against ``torch.nn.functional.gumbel_softmax``."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from benchmarks.table import Case, Row
from dynlib.choice import gumbel_softmax
from dynlib.cost import timed

SHAPES = ((4096, 64), (64, 50_000))


def cases(*, quick: bool = False) -> list[Case]:
    """Soft and hard samples of many small choices, and of few large ones."""
    shapes = tuple((rows, min(choices, 500)) for rows, choices in SHAPES) if quick else SHAPES
    kinds = {"soft": False, "hard": True}
    return [
        (f"gumbel_softmax {kind} {rows} × {choices}", partial(_measure, rows, choices, kind, hard, quick))
        for rows, choices in shapes
        for kind, hard in kinds.items()
    ]


def _measure(rows: int, choices: int, kind: str, hard: bool, quick: bool) -> Row:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, choices, generator=generator).requires_grad_()
    weights = torch.randn(rows, choices, generator=generator)

    def forward_backward(function: Callable[..., torch.Tensor]) -> None:
        logits.grad = None
        function(logits, tau=1.0, hard=hard).backward(weights)

    timing = timed(
        partial(forward_backward, gumbel_softmax),
        partial(forward_backward, F.gumbel_softmax),
        repeats=7 if quick else 40,
        warmup=1 if quick else 5,
    )
    share, low, high = timing.ratio(0, 1)
    return Row(
        mechanism=f"gumbel_softmax, {kind}",
        size=f"{rows:,} × {choices:,}, forward and backward",
        peer="torch.nn.functional.gumbel_softmax",
        time_share=share,
        interval=(low, high),
        note=f"{1e3 * timing.seconds[0]:.1f} ms and {1e3 * timing.seconds[1]:.1f} ms",
    )
