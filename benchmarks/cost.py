"""The dense transformer that every mechanism is measured against: its share of this machine's matmul rate.

A mechanism is compared with the fastest dense execution known, which is either the whole batch at once or a few samples
at a time, so that their features stay in the cache.
"""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.race import transformer
from benchmarks.table import Case, Row
from dynlib.backbone import Block
from dynlib.cost import count, machine_peak, timed

DEPTH, BATCH = 8, 32
SIZES = ((256, 65), (256, 257), (96, 65))  # features of a token, tokens
CHUNK = 4  # samples at a time


def cases(*, quick: bool = False) -> list[Case]:
    """A stack of blocks in inference, whole and in chunks, at the sizes of the course."""
    sizes = ((64, 17),) if quick else SIZES
    return [(f"dense transformer {dim} × {tokens}", partial(_measure, dim, tokens, quick)) for dim, tokens in sizes]


@torch.inference_mode()
def _measure(dim: int, tokens: int, quick: bool) -> Row:
    generator = torch.Generator().manual_seed(0)
    depth, batch = (2, 8) if quick else (DEPTH, BATCH)
    blocks = nn.Sequential(*(Block(dim, heads=dim // 32) for _ in range(depth))).eval()
    x = torch.randn(batch, tokens, dim, generator=generator)

    def whole() -> Tensor:
        return blocks(x)

    def chunked() -> Tensor:
        return torch.cat([blocks(part) for part in x.split(CHUNK)])

    timing = timed(chunked, whole, repeats=7 if quick else 15, warmup=1)
    share, low, high = timing.ratio(0, 1)
    flops, rate = count(blocks, x).flops, machine_peak().flops_per_second
    return Row(
        mechanism=f"dense transformer, {CHUNK} samples at a time",
        size=transformer(dim, depth, batch, tokens),
        peer="the whole batch at once",
        flops_share=1.0,
        time_share=share,
        interval=(low, high),
        matmul_share=flops / timing.seconds[0] / rate,
        peer_matmul_share=flops / timing.seconds[1] / rate,
        note=f"{flops / 1e9:.2f} GFLOP; {1e3 * timing.seconds[0]:.0f} ms and {1e3 * timing.seconds[1]:.0f} ms",
    )
