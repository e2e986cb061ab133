"""Adaptive computation modules: gathered at two budgets, the zoo's model, and fused on a GPU where there is one.

The module is measured whole: its gate, the sorting, and the learners. The gate is what it is at the start, with a price
at which its tokens run the share of the learners that is asked for. The dense part is the feed-forward part in whose
place it stands, in its fastest way.

``python -m benchmarks --only acm`` measures all. The rows of the GPU are those of :mod:`benchmarks.acm_gpu`; where no
GPU is, their row says so.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import acm_gpu
from benchmarks.given import normal
from benchmarks.race import Race, contest, pays
from benchmarks.table import Case, Row
from benchmarks.trained import on_digits
from dynlib.backbone import FeedForward
from dynlib.cost import timed
from dynlib.deciding import record, setting
from dynlib.width import AdaptiveComputationModule
from dynlib.zoo import load

LEARNERS = 4
BUDGETS = {"a quarter of the learners": 0.25, "half of the learners": 0.5}
TOKENS = 4096
LINE = tuple(step / 8 for step in range(1, 9))  # shares of the learners
NARROW = (32, 64, 128, 256)  # features of a token, to find where it pays


def cases(*, quick: bool = False) -> list[Case]:
    """Gathered at each budget, whether its time is a line, from which size on it pays, the zoo's, and the GPU."""
    dims, tokens = ((32,), 64) if quick else ((256, 96), TOKENS)
    return [
        *((f"acm, dim {dim}", partial(_rows, dim, tokens, quick)) for dim in dims),
        ("acm, time by learners", partial(_line, dims[0], tokens, quick)),
        ("acm, trained", partial(_trained, quick)),
        ("acm, where it breaks even", partial(_pays, tokens, quick)),
        *acm_gpu.listed(),
    ]


def _layer(dim: int) -> AdaptiveComputationModule:
    torch.manual_seed(0)
    layer = AdaptiveComputationModule(dim, learners=LEARNERS, least=0).eval()
    last = layer.gate[2]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(8)  # tokens that differ, as they do after training
    return layer


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


@torch.inference_mode()
def _races(dim: int, tokens: int, budgets: Mapping[str, float], *, masked: bool, repeats: int = 15) -> dict[str, Race]:
    dense, x = FeedForward(dim).eval(), normal(tokens, dim)
    layers = {name: _layer(dim) for name in budgets}
    for name, layer in layers.items():
        _priced(layer, x, budgets[name])
    sizes = sorted({max(tokens // parts, 1) for parts in (16, 8, 4, 1)})

    def at(layer: AdaptiveComputationModule, rows: int) -> Tensor:
        with setting(layer, AdaptiveComputationModule, rows=rows):
            return layer(x)

    def everything(layer: AdaptiveComputationModule) -> Tensor:
        with setting(layer, AdaptiveComputationModule, execution="masked"):
            return layer(x)

    def in_pieces(rows: int) -> Tensor:
        return torch.cat([dense(part) for part in x.split(rows)])

    return contest(
        {name: {f"{rows} tokens": partial(at, layer, rows) for rows in sizes} for name, layer in layers.items()},
        {f"{rows} tokens": partial(in_pieces, rows) for rows in sizes},
        masked={name: partial(everything, layer) for name, layer in layers.items()} if masked else {},
        repeats=repeats,
    )


def _rows(dim: int, tokens: int, quick: bool) -> list[Row]:
    races = _races(dim, tokens, BUDGETS, masked=True, repeats=2 if quick else 25)
    aim = 1.0 if dim >= 256 else 0.9
    return [race.row(f"ACM, {name}", _size(dim, tokens), aim=aim) for name, race in races.items()]


@torch.inference_mode()
def _line(dim: int, tokens: int, quick: bool) -> Row:
    """How much of the variance of the time the number of executed learners explains."""
    x = normal(tokens, dim)
    runs, executed = [], []
    for share in LINE:
        one = _layer(dim)
        executed.append(_priced(one, x, share) * LEARNERS * tokens)
        runs.append(partial(one, x))
    seconds = timed(*runs, repeats=2 if quick else 15, warmup=1).seconds
    x_axis, y_axis = (torch.tensor(axis, dtype=torch.float64, device="cpu") for axis in (executed, seconds))
    design = torch.stack([torch.ones_like(x_axis), x_axis], 1)
    start, slope = torch.linalg.lstsq(design, y_axis[:, None]).solution[:, 0].tolist()
    left = (y_axis - start - slope * x_axis).square().sum() / (y_axis - y_axis.mean()).square().sum()
    return Row(
        mechanism=f"ACM, time by executed learners, {LINE[0]:g} to {LINE[-1]:g} of them",
        size=_size(dim, tokens),
        note=f"a line explains {100 * (1 - left.item()):.2f} % of the variance of the time: {1e3 * start:.2g} ms, and "
        f"{1e9 * slope:.3g} ns a learner of a token.",
    )


def _trained(quick: bool) -> list[Row]:
    model = load("digits_acm")

    def run(price: float, images: Tensor, execution: str = "gathered", rows: int = 512) -> Tensor:
        with setting(model, AdaptiveComputationModule, price=price, execution=execution, rows=rows):
            return model(images)

    ways = {f"{rows} tokens at a time": partial(run, rows=rows) for rows in (512, 2048)}
    prices = {"price 0": 0.0, "price −1": -1.0}
    return on_digits("ACM", prices, ways, partial(run, execution="masked"), quick=quick)


def _pays(tokens: int, quick: bool) -> Row:
    dims = NARROW[:2] if quick else NARROW
    name = "half of the learners"

    def measure(dim: int) -> Race:
        return _races(dim, tokens, {name: BUDGETS[name]}, masked=False, repeats=9)[name]

    return pays(f"ACM, {name}", _size(f"{dims[0]} to {dims[-1]}", tokens), "dim", dims, measure)


def _size(dim: object, tokens: int) -> str:
    return f"one layer, dim {dim}, hidden 4 × dim, {tokens} tokens"
