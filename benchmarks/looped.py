"""Samples and tokens that stop by a gate, gathered, against all loops for all; and a looped layer against a deep stack.

At random weights the gates are random, and the quantile is sought by which the mean is a share of the loops: what is
timed is the mechanism itself, its gate, its decisions and its copies. The trained rows are of ``looped_chains``. The
stack has the same FLOPs and a weight of its own for every layer.
"""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.given import here, normal
from benchmarks.race import Race, compared, contest, pays, race, transformer
from benchmarks.table import Case, Row
from benchmarks.trained import pieces
from dynlib.backbone import Block
from dynlib.data import chains
from dynlib.deciding import Execution
from dynlib.depth.looped import ExitGate, Looped
from dynlib.depth.stopping import Each
from dynlib.zoo import load

LOOPS, TOKENS, BATCH = 8, 64, 32
ROWS = (512, 1024)  # tokens at a time
HALVINGS = 7
SHARES = {"half of the loops": 1 / 2, "three eighths of the loops": 3 / 8}
SMALL = (16, 32, 64, 128)  # features of a token, to find where it pays


def cases(*, quick: bool = False) -> list[Case]:
    """One layer, looped, at the sizes of the course; and the zoo's."""
    plan: list[tuple[int, Each]] = [(32, "sample"), (32, "token")]
    if not quick:
        plan = [(256, "sample"), (256, "token"), (96, "sample")]
    return [
        *((f"looped {dim}, each {each}", partial(_stops, dim, each, quick)) for dim, each in plan),
        ("looped, trained", partial(_trained, quick)),
        ("looped, where it breaks even", partial(_pays, quick)),
        ("looped, against a stack", partial(_stack, quick)),
    ]


def _looped(dim: int, quick: bool, each: Each = "sample") -> Looped:
    torch.manual_seed(0)
    block = nn.Sequential(Block(dim, max(dim // 32, 1)), nn.LayerNorm(dim))
    gate = ExitGate(dim, each=each)
    nn.init.normal_(gate.linear.weight, std=2 * dim**-0.5)
    return Looped(block, 2 if quick else LOOPS, gate=gate).eval()


def _tokens(dim: int, quick: bool) -> Tensor:
    return normal(*((4, 8) if quick else (BATCH, TOKENS)), dim)


@torch.inference_mode()
def _races(
    dim: int, each: Each, shares: dict[str, float], quick: bool, *, masked: bool, repeats: int = 9
) -> dict[str, Race]:
    looped, x = _looped(dim, quick, each), _tokens(dim, quick)

    def quantile(share: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):  # a larger quantile takes longer
            middle = (low + high) / 2
            mean = looped.predict(x, quantile=middle, each=each).loops.double().mean().item()
            low, high = (middle, high) if mean < share * looped.loops else (low, middle)
        return (low + high) / 2

    def run(quantile: float, rows: int | None = None, execution: Execution = "gathered") -> Tensor:
        return looped.predict(x, quantile=quantile, each=each, rows=rows, execution=execution).state

    quantiles = {name: quantile(share) for name, share in shares.items()}
    return contest(
        {name: {str(rows): partial(run, one, rows) for rows in (*ROWS, None)} for name, one in quantiles.items()},
        pieces(looped, x, 8, 16),
        masked={name: partial(run, one, execution="masked") for name, one in quantiles.items()} if masked else {},
        repeats=repeats,
    )


def _stops(dim: int, each: Each, quick: bool) -> list[Row]:
    races = _races(dim, each, SHARES, quick, masked=True)
    aim = 1.0 if dim >= 256 else 0.9
    note = "tokens that have stopped are still seen, so their keys and values stay" if each == "token" else ""
    return [
        race.row(f"looped, each {each} stops, {name} in the mean", _size(dim, quick), aim=aim, note=note)
        for name, race in races.items()
    ]


@torch.inference_mode()
def _trained(quick: bool) -> list[Row]:
    reader = load("looped_chains")
    with torch.device("cpu"):
        some = chains(8 if quick else 500, split="test")
    x, ends = here(reader.embed(here(some.names), here(some.points_to))), here(some.ends)

    def run(quantile: float | None, rows: int | None = None, execution: Execution = "gathered") -> Tensor:
        return reader.head(
            reader.looped.predict(x, quantile=quantile, each="token", rows=rows, execution=execution).state
        )

    def right(logits: Tensor) -> float:
        return (logits.argmax(-1) == ends).double().mean().item()

    quantiles = {"quantile 0.5": 0.5, "quantile 0.1": 0.1}
    races = contest(
        {name: {str(rows): partial(run, one, rows) for rows in (*ROWS, None)} for name, one in quantiles.items()},
        pieces(lambda part: reader.head(reader.looped(part)), x, 16, 64),
        masked={name: partial(run, one, execution="masked") for name, one in quantiles.items()},
        repeats=2 if quick else 9,
    )
    theirs = right(reader.head(reader.looped(x)))
    size = f"looped_chains, dim 64, {reader.looped.loops} loops, {len(x)} × {x.shape[1]} tokens"
    return [
        race.row(
            f"looped, each token stops, {name}, trained",
            size,
            quality=compared("accuracy", right(run(quantiles[name])), theirs),
            peer="all loops for all",
        )
        for name, race in races.items()
    ]


def _pays(quick: bool) -> Row:
    dims = SMALL[:2] if quick else SMALL
    name = "half of the loops"

    def measure(dim: int) -> Race:
        return _races(dim, "sample", {name: SHARES[name]}, quick, masked=False, repeats=7)[name]

    what = f"looped, each sample stops, {name} in the mean"
    return pays(what, _size(f"{dims[0]} to {dims[-1]}", quick), "dim", dims, measure)


@torch.inference_mode()
def _stack(quick: bool) -> Row:
    dim = 32 if quick else 256
    looped, x = _looped(dim, quick), _tokens(dim, quick)
    looped.inject = "none"
    stack = nn.Sequential(*[_looped(dim, quick).block for _ in range(looped.loops)])
    for part in stack.parameters():
        part.data = part.data.clone()
    run = race(pieces(looped, x, 8, 16), pieces(stack, x, 8, 16), repeats=9)
    held = sum(part.numel() for part in looped.block.parameters()) / sum(part.numel() for part in stack.parameters())
    return run.row(
        "looped, one layer", _size(dim, quick), peer="a stack of layers", note=f"{held:.3f} of the stack's weights"
    )


def _size(dim: object, quick: bool) -> str:
    return transformer(dim, 2 if quick else LOOPS, 4 if quick else BATCH, 8 if quick else TOKENS)
