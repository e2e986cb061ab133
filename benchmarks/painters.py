"""Execution plans of a frozen stack against the stack in order, at random weights and on the zoo's trained one."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.given import uniform
from benchmarks.race import contest, transformer
from benchmarks.table import Case, Row
from benchmarks.trained import on_digits
from dynlib.backbone import ViT
from dynlib.depth import looped_parallel, middle_repeat, parallel, skip
from dynlib.depth.painters import Plan
from dynlib.zoo import load

PLANS: dict[str, Callable[[Sequence[nn.Module] | nn.ModuleList, int, int], Plan]] = {
    "skip": skip,
    "middle_repeat": middle_repeat,
    "parallel": parallel,
    "looped_parallel, 3 iterations": looped_parallel,
}
TRAINED = {
    "skip of layer 4": (skip, 3, 4),
    "skip of layers 3 and 4": (skip, 2, 4),
    "parallel, 3 and 4": (parallel, 2, 4),
}


def cases(*, quick: bool = False) -> list[Case]:
    """Every plan that costs something else than the stack in order, or the same in another way."""
    return [("painters", partial(_rows, quick)), ("painters, trained", partial(_trained, quick))]


@torch.inference_mode()
def _rows(quick: bool) -> list[Row]:
    torch.manual_seed(0)
    dim, depth, batch = (32, 4, 2) if quick else (256, 8, 32)
    first, last = depth // 4, 3 * depth // 4
    vit = ViT(image_size=32, patch_size=4, classes=10, dim=dim, depth=depth, heads=4).eval()
    hidden = vit.embed(uniform(batch, 1, 32, 32))
    plans = {name: plan(vit.blocks, first, last) for name, plan in PLANS.items()}
    races = contest(
        {f"painters, {name}, layers {first + 1} to {last}": _ways(plan, hidden) for name, plan in plans.items()},
        _ways(Plan(vit.blocks), hidden),
        repeats=7,
    )
    size = transformer(dim, depth, batch, hidden.shape[1])
    return [
        race.row(name, size, peer="dense, the layers in order", aim=1.0 if race.flops_share < 1 else None)
        for name, race in races.items()
    ]


def _ways(plan: Plan, hidden: Tensor) -> dict[str, Callable[[], Tensor]]:
    def some(size: int) -> Tensor:
        return torch.cat([plan(part) for part in hidden.split(size)])

    return {"at once": partial(plan, hidden), "4 at a time": partial(some, 4)}


def _trained(quick: bool) -> list[Row]:
    vit = load("digits_vit")

    def run(plan: Plan, images: Tensor) -> Tensor:
        return vit.readout(plan(vit.embed(images)))

    plans = {name: make(vit.blocks, first, last) for name, (make, first, last) in TRAINED.items()}
    return on_digits(
        "painters", plans, {"at once": run}, quick=quick, aim=None, note="no training for the plan, and no masked form"
    )
