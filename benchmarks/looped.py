"""Samples and tokens that stop by a gate, gathered, against all loops for all; and a looped layer against a deep stack.

The gates are random, and the quantile is sought by which the mean is about half of the loops: what is timed is the
mechanism itself, its gate, its decisions and its copies. The stack has the same FLOPs and a weight of its
own for every layer.
"""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.race import Ways, race, transformer
from benchmarks.table import Case, Row
from dynlib.backbone import Block
from dynlib.depth.looped import ExitGate, Looped
from dynlib.depth.stopping import Each

LOOPS, TOKENS = 8, 64
SIZES = ((256, 32), (96, 32))  # features of a token, samples
ROWS = (256, 512, 1024)  # tokens at a time
HALVINGS = 7


def cases(*, quick: bool = False) -> list[Case]:
    """One layer, looped, at the sizes of the course."""
    sizes = ((32, 4),) if quick else SIZES
    stops: tuple[Each, ...] = ("sample", "token")
    return [
        *(
            (f"looped {dim}, each {each}", partial(_stops, dim, batch, each, quick))
            for each in stops
            for dim, batch in sizes
        ),
        *((f"looped {dim}, against a stack", partial(_stack, dim, batch, quick)) for dim, batch in sizes),
    ]


def _looped(dim: int, quick: bool, each: Each = "sample") -> Looped:
    torch.manual_seed(0)
    block = nn.Sequential(Block(dim, max(dim // 32, 1)), nn.LayerNorm(dim))
    gate = ExitGate(dim, each=each)
    nn.init.normal_(gate.linear.weight, std=2 * dim**-0.5)
    return Looped(block, 2 if quick else LOOPS, gate=gate).eval()


def _tokens(dim: int, batch: int, quick: bool) -> Tensor:
    return torch.randn(batch, 8 if quick else TOKENS, dim, generator=torch.Generator().manual_seed(0))


def _ways(model: nn.Module, x: Tensor) -> Ways:
    """All loops, or layers, for all: some samples at a time."""

    def dense(samples: int) -> Tensor:
        return torch.cat([model(part) for part in x.split(samples)])

    chunks = sorted({min(max(rows // x.shape[1], 1), len(x)) for rows in (*ROWS, len(x) * x.shape[1])})
    return {f"{samples} samples at a time": partial(dense, samples) for samples in chunks}


@torch.inference_mode()
def _stops(dim: int, batch: int, each: Each, quick: bool) -> Row:
    looped, x = _looped(dim, quick, each), _tokens(dim, batch, quick)

    def mean_loops(quantile: float) -> float:
        return looped.predict(x, quantile=quantile, each=each).loops.double().mean().item()

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):  # a larger quantile takes longer
        quantile = (low + high) / 2
        low, high = (quantile, high) if mean_loops(quantile) < looped.loops / 2 else (low, quantile)

    def gathered(rows: int) -> Tensor:
        return looped.predict(x, quantile=quantile, each=each, rows=rows).state

    ours: Ways = {f"{rows} tokens at a time": partial(gathered, rows) for rows in (*ROWS, x.shape[0] * x.shape[1])}
    run = race(ours, _ways(looped, x), repeats=7 if quick else 15)
    size = transformer(dim, looped.loops, batch, x.shape[1])
    note = f"{mean_loops(quantile):.3g} of {looped.loops} loops in the mean"
    return run.row(f"looped, each {each} stops by itself", size, note=note)


@torch.inference_mode()
def _stack(dim: int, batch: int, quick: bool) -> Row:
    looped, x = _looped(dim, quick), _tokens(dim, batch, quick)
    looped.inject = "none"
    stack = nn.Sequential(*[_looped(dim, quick).block for _ in range(looped.loops)])
    for part in stack.parameters():
        part.data = part.data.clone()
    run = race(_ways(looped, x), _ways(stack, x), repeats=7 if quick else 15)
    return run.row("looped, one layer", transformer(dim, looped.loops, batch, x.shape[1]), note="the peer is a stack")
