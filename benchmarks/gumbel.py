"""``gumbel_softmax``, forward and backward in float32, against ``torch.nn.functional.gumbel_softmax``."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from benchmarks.given import normal
from benchmarks.race import against
from benchmarks.table import Case, Row
from dynlib.choice import gumbel_softmax

SHAPES = ((4096, 64), (64, 50_000))


def cases(*, quick: bool = False) -> list[Case]:
    """Soft and hard samples of many small choices, and of few large ones."""
    shapes = tuple((rows, min(choices, 500)) for rows, choices in SHAPES) if quick else SHAPES
    return [
        (f"gumbel_softmax {'hard' if hard else 'soft'} {rows} × {choices}", partial(_measure, rows, choices, hard))
        for rows, choices in shapes
        for hard in (False, True)
    ]


def _measure(rows: int, choices: int, hard: bool) -> Row:
    logits, weights = normal(rows, choices).requires_grad_(), normal(rows, choices)

    def forward_backward(function: Callable[..., torch.Tensor]) -> None:
        logits.grad = None
        function(logits, tau=1.0, hard=hard).backward(weights)

    return against(
        f"gumbel_softmax, {'hard' if hard else 'soft'}",
        f"{rows:,} × {choices:,}, forward and backward",
        "torch.nn.functional.gumbel_softmax",
        partial(forward_backward, gumbel_softmax),
        partial(forward_backward, F.gumbel_softmax),
        note="ours takes −log(−log U) of uniform numbers, on a CPU faster than the sampler of −log U that torch's uses",
        flops=False,
        repeats=25,
    )
