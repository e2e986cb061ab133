"""CoLT5's layers against dense ones, with full attention or with LongT5's, over the length of the sequence.

The routers are what they are at the start: who is routed is decided, not planned, and costs what it costs.
"""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.race import Race, Ways, pays, race
from benchmarks.table import Case, Row
from dynlib.backbone import Block
from dynlib.tokens.colt5 import ConditionalBlock
from dynlib.tokens.local_attention import LocalGlobalBlock

DIM, DEPTH, WINDOW = 256, 2, 64  # features of a token, layers, tokens to each side
TOKENS = 8192  # in a batch, whatever the length
LENGTHS, SHORT = (1024, 2048, 4096), (64, 128, 256, 512, 1024)


def cases(*, quick: bool = False) -> list[Case]:
    """Few long sequences; and ever shorter ones, to find where it pays."""
    lengths = (64,) if quick else LENGTHS
    return [
        *((f"colt5, {length} tokens", partial(_row, length, quick)) for length in lengths),
        *((f"colt5, {length} tokens, local", partial(_row, length, quick, local=True)) for length in lengths),
        ("colt5, where it pays", partial(_pays, quick)),
    ]


@torch.inference_mode()
def _race(length: int, quick: bool, *, local: bool = False, repeats: int = 15) -> Race:
    dim, tokens = (32, 256) if quick else (DIM, TOKENS)
    torch.manual_seed(0)
    heads, batch = dim // 16 if quick else dim // 32, max(tokens // length, 1)
    window = min(WINDOW, length // 4)
    ours = nn.Sequential(*(ConditionalBlock(dim, heads, window=window) for _ in range(DEPTH))).eval()
    peer = partial(LocalGlobalBlock, window=window) if local else Block
    dense = nn.Sequential(*(peer(dim, heads) for _ in range(DEPTH))).eval()
    x = torch.randn(batch, length, dim, generator=torch.Generator().manual_seed(0))

    def run(model: nn.Module, chunk: int) -> Tensor:
        return torch.cat([model(part) for part in x.split(chunk)])

    def ways(model: nn.Module, name: str = "") -> Ways:
        chunks = sorted({max(number // length, 1) for number in (tokens // 8, tokens // 2, tokens)})
        return {f"{name}{chunk * length} tokens at a time": partial(run, model, chunk) for chunk in chunks}

    return race(ways(ours), ways(dense, "local and global attention, " if local else ""), repeats=repeats)


def _row(length: int, quick: bool, *, local: bool = False) -> Row:
    run = _race(length, quick, local=local, repeats=7 if quick else 15)
    return run.row("CoLT5, gathered", _size(f"{length} tokens", quick))


def _pays(quick: bool) -> Row:
    lengths = (16, 32) if quick else SHORT
    size = _size(f"{lengths[0]} to {lengths[-1]} tokens", quick)
    return pays("CoLT5", size, "length", lengths, lambda length: _race(length, quick, repeats=7))


def _size(length: str, quick: bool) -> str:
    dim, tokens = (32, 256) if quick else (DIM, TOKENS)
    return f"dim {dim}, {DEPTH} layers, {length}, {tokens} in a batch; a sixteenth routed, window {WINDOW} or n/4"
