"""``sparsemax`` and ``entmax15``, forward and backward in float32, against the ``entmax`` package."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.given import normal
from benchmarks.peers import peer
from benchmarks.race import against
from benchmarks.table import Case, Row
from dynlib.choice.sparse import entmax15, sparsemax

SHAPES = ((4096, 64), (256, 32_000))
OURS: dict[str, Callable[..., Tensor]] = {"sparsemax": sparsemax, "entmax15": entmax15}


def cases(*, quick: bool = False) -> list[Case]:
    """Normal logits of many small choices, and of few large ones."""
    shapes = tuple((rows // 16, min(choices, 500)) for rows, choices in SHAPES) if quick else SHAPES
    return [
        peer(f"{name} {rows} × {choices}", "entmax", partial(_measure, name, rows, choices))
        for rows, choices in shapes
        for name in OURS
    ]


def _measure(name: str, rows: int, choices: int, package: Any, named: str) -> Row:
    logits, weights = normal(rows, choices).requires_grad_(), normal(rows, choices)

    def forward_backward(function: Callable[..., Tensor]) -> None:
        logits.grad = None
        function(logits, dim=-1).backward(weights)

    return against(
        name,
        f"{rows:,} × {choices:,}, forward and backward",
        f"{named}, {name}",
        partial(forward_backward, OURS[name]),
        partial(forward_backward, getattr(package, name)),
        flops=False,
        repeats=9 if choices > 1000 else 25,  # half a second for the package
    )
