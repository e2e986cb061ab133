"""Gathered early exit against the fastest dense execution, with a fixed share of the samples leaving at each layer.

The shares are set by thresholds, one per exit, that lie between the confidences of a fixed batch: what is timed is the
mechanism itself, its heads, its decisions and its copies, and not a plan that was made before.
"""

from functools import partial

import torch
from torch import Tensor

from benchmarks.race import race, transformer
from benchmarks.table import Case, Row
from dynlib.backbone import ViT
from dynlib.depth.early_exit import MultiExit, max_probability

DEPTH, CLASSES = 8, 10
SIZES = ((256, 32), (256, 256), (96, 32))  # features of a token, samples; 64 patches and a class token each
CHUNK = 4  # samples at a time
LEAVING = 1 / 8  # of all samples, after each layer


def cases(*, quick: bool = False) -> list[Case]:
    """A ViT with an exit after every layer, at the sizes of the course."""
    sizes = ((64, 16),) if quick else SIZES
    return [(f"early exit {dim}, batch {batch}", partial(_measure, dim, batch, quick)) for dim, batch in sizes]


@torch.inference_mode()
def _measure(dim: int, batch: int, quick: bool) -> Row:
    torch.manual_seed(0)
    depth, side = (2, 16) if quick else (DEPTH, 32)
    vit = ViT(image_size=side, patch_size=4, classes=CLASSES, dim=dim, depth=depth, heads=dim // 32).eval()
    model = MultiExit(vit, range(1, depth)).eval()
    images = torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(0))
    thresholds = _thresholds(max_probability(model(images)), round(LEAVING * batch))

    tokens = vit.embed(images[:1]).shape[1]

    def gathered(chunk: int | None) -> Tensor:
        return model.predict(images, thresholds, rows=None if chunk is None else chunk * tokens).logits

    def dense(chunk: int | None) -> Tensor:
        return torch.cat([vit(part) for part in images.split(chunk or batch)])

    chunks = {"the whole batch at once": None, f"{CHUNK} samples at a time": CHUNK}
    run = race(
        {name: partial(gathered, chunk) for name, chunk in chunks.items()},
        {name: partial(dense, chunk) for name, chunk in chunks.items()},
        repeats=7 if quick else 15,
    )
    size = transformer(dim, depth, batch, 1 + (side // 4) ** 2)
    return run.row("early exit, gathered", size, note=f"{100 * LEAVING:.3g} % leave after each layer")


def _thresholds(confidence: Tensor, leaving: int) -> list[float]:
    """One for each early exit, halfway between the last sample that is to leave there and the first that is to stay."""
    waiting, thresholds = torch.arange(confidence.shape[1]), []
    for sure in confidence[:-1].double():
        order = sure[waiting].argsort(descending=True)
        edge = sure[waiting[order[leaving - 1 : leaving + 1]]]
        thresholds.append(edge.mean().item())
        waiting = waiting[order[leaving:]]
    return thresholds
