"""Execution plans of a frozen stack against the stack in order."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from benchmarks.race import transformer
from benchmarks.table import Case, Row
from dynlib.backbone import ViT
from dynlib.cost import count, machine_peak, timed
from dynlib.depth import looped_parallel, middle_repeat, parallel, skip
from dynlib.depth.painters import Plan

PLANS: dict[str, Callable[[Sequence[nn.Module] | nn.ModuleList, int, int], Plan]] = {
    "skip": skip,
    "middle_repeat": middle_repeat,
    "parallel": parallel,
    "looped_parallel": looped_parallel,
}


def cases(*, quick: bool = False) -> list[Case]:
    """Every plan that costs something else than the stack in order, or the same in another way."""
    names = ("skip", "parallel") if quick else PLANS
    return [(f"painters {name}", partial(_measure, name, quick)) for name in names]


@torch.inference_mode()
def _measure(name: str, quick: bool) -> Row:
    torch.manual_seed(0)
    dim, depth, batch = (32, 4, 2) if quick else (256, 8, 32)
    first, last = depth // 4, 3 * depth // 4
    vit = ViT(image_size=32, patch_size=4, classes=10, dim=dim, depth=depth, heads=4).eval()
    hidden = vit.embed(torch.rand(batch, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    plan, whole = PLANS[name](vit.blocks, first, last), Plan(vit.blocks)
    timing = timed(partial(plan, hidden), partial(whole, hidden), repeats=7 if quick else 9, warmup=1)
    share, low, high = timing.ratio(0, 1)
    ours, dense = count(plan, hidden).flops, count(whole, hidden).flops
    rate = machine_peak().flops_per_second
    return Row(
        mechanism=f"{name}, layers {first + 1} to {last}",
        size=transformer(dim, depth, batch, hidden.shape[1]),
        peer="the layers in order",
        flops_share=ours / dense,
        time_share=share,
        interval=(low, high),
        matmul_share=ours / timing.seconds[0] / rate,
        peer_matmul_share=dense / timing.seconds[1] / rate,
        note="3 iterations" if name == "looped_parallel" else "",
    )
