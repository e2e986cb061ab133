"""Adaptive computation modules: gathered on the CPU at three budgets, and fused on a GPU where there is one.

The module is measured whole: its gate, the sorting, and the learners. The gate is what it is at the start, with a price
at which its tokens run the share of the learners that is asked for. The dense part is the feed-forward part in whose
place it stands, in its fastest way.

``python -m benchmarks --only acm`` measures both. The rows of the GPU are those of :mod:`benchmarks.acm_gpu`; where no
GPU is, their row says so.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import acm_gpu
from benchmarks.race import Ways, pays, race
from benchmarks.table import Case, Row
from dynlib.backbone import FeedForward
from dynlib.cost import timed
from dynlib.deciding import record, setting
from dynlib.width import AdaptiveComputationModule

LEARNERS, BUDGETS = 4, (0.25, 0.5, 0.75)
DIM, TOKENS = 256, 4096
LINE = tuple(step / 8 for step in range(1, 9))  # shares of the learners
NARROW = (64, 128, 256, 512)  # features of a token, to find where it pays


def cases(*, quick: bool = False) -> list[Case]:
    """Gathered at each budget, whether its time is a line, from which size on it pays, and the GPU."""
    dim, tokens = (32, 64) if quick else (DIM, TOKENS)
    budgets = BUDGETS[:1] if quick else BUDGETS
    return [
        *((f"acm, budget {budget}", partial(_row, dim, tokens, budget, quick)) for budget in budgets),
        ("acm, time by learners", partial(_line, dim, tokens, quick)),
        ("acm, where it pays", partial(_pays, tokens, quick)),
        *acm_gpu.listed(),
    ]


def _layer(dim: int) -> AdaptiveComputationModule:
    torch.manual_seed(0)
    layer = AdaptiveComputationModule(dim, learners=LEARNERS, least=0).eval()
    with torch.no_grad():
        layer.gate[2].weight.mul_(8)  # tokens that differ, as they do after training
    return layer


def _tokens(dim: int, tokens: int) -> Tensor:
    return torch.randn(tokens, dim, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def _priced(layer: AdaptiveComputationModule, x: Tensor, share: float) -> float:
    """The price at which the tokens run a share of the learners, on average, as near as it comes; it is set."""
    low, high = -64.0, 64.0
    for _ in range(40):
        layer.price = (low + high) / 2
        with record(layer, AdaptiveComputationModule) as records:
            layer(x)
        low, high = (layer.price, high) if records[""][0].share() > share else (low, layer.price)
    return records[""][0].share()


def _in_pieces(model: nn.Module, x: Tensor, rows: int) -> Tensor:
    return torch.cat([model(part) for part in x.split(rows)])


def _at(layer: AdaptiveComputationModule, x: Tensor, rows: int) -> Tensor:
    with setting(layer, AdaptiveComputationModule, rows=rows):
        return layer(x)


def _ways(call: Callable[..., Tensor], model: nn.Module, x: Tensor) -> Ways:
    sizes = sorted({max(len(x) // parts, 1) for parts in (16, 8, 4, 1)})
    return {f"{rows} tokens at a time": partial(call, model, x, rows) for rows in sizes}


@torch.inference_mode()
def _race(dim: int, tokens: int, budget: float, *, repeats: int = 15):
    layer, dense, x = _layer(dim), FeedForward(dim).eval(), _tokens(dim, tokens)
    _priced(layer, x, budget)
    return race(_ways(_at, layer, x), _ways(_in_pieces, dense, x), repeats=repeats)


def _row(dim: int, tokens: int, budget: float, quick: bool) -> Row:
    run = _race(dim, tokens, budget, repeats=7 if quick else 15)
    return run.row(f"ACM, {LEARNERS} learners, {100 * budget:.0f} % of them, gathered", _size(dim, tokens))


@torch.inference_mode()
def _line(dim: int, tokens: int, quick: bool) -> Row:
    """How much of the variance of the time the number of executed learners explains."""
    layer, x = _layer(dim), _tokens(dim, tokens)
    runs, executed = [], []
    for share in LINE:
        one = _layer(dim)
        executed.append(_priced(one, x, share) * LEARNERS * tokens)
        runs.append(partial(one, x))
    seconds = timed(*runs, repeats=5 if quick else 15, warmup=1).seconds
    x_axis, y_axis = (torch.tensor(axis, dtype=torch.float64) for axis in (executed, seconds))
    design = torch.stack([torch.ones_like(x_axis), x_axis], 1)
    start, slope = torch.linalg.lstsq(design, y_axis[:, None]).solution[:, 0].tolist()
    left = (y_axis - start - slope * x_axis).square().sum() / (y_axis - y_axis.mean()).square().sum()
    del layer
    return Row(
        mechanism=f"ACM, {LEARNERS} learners, gathered: time by executed learners",
        size=_size(dim, tokens),
        note=f"R² = {1 - left.item():.4f} over {len(LINE)} shares from {LINE[0]:g} to {LINE[-1]:g}: "
        f"{1e3 * start:.3g} ms and {1e9 * slope:.3g} ns a learner of a token",
    )


def _pays(tokens: int, quick: bool) -> Row:
    dims = (16, 32) if quick else NARROW
    return pays(
        f"ACM, {LEARNERS} learners, {100 * BUDGETS[1]:.0f} % of them, gathered",
        _size(f"{dims[0]} to {dims[-1]}", tokens),
        "dim",
        dims,
        lambda dim: _race(dim, tokens, BUDGETS[1], repeats=7),
    )


def _size(dim: object, tokens: int) -> str:
    return f"one layer, dim {dim}, hidden 4 × dim, {tokens} tokens"
