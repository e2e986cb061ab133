"""Early exit against the fastest dense execution.

At random weights a fixed share of the samples leaves after each layer. The shares are set by thresholds, one per exit,
that lie between the confidences of a fixed batch: what is timed is the mechanism itself, its heads, its decisions and
its copies, and not a plan that was made before. The trained rows are of ``digits_exits``.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.given import uniform
from benchmarks.race import Race, contest, pays, transformer
from benchmarks.table import Case, Row
from benchmarks.trained import Call, on_digits, pieces
from dynlib.backbone import ViT
from dynlib.depth.early_exit import MultiExit, max_probability
from dynlib.zoo import load

DEPTH, CLASSES, BATCH = 8, 10, 32
SMALL = (16, 32, 64, 128)  # features of a token, to find where it pays
LEAVING = {"an eighth leaves after each layer": 1 / 8, "a quarter leaves after each layer": 1 / 4}
THRESHOLDS = {"threshold 0.9": 0.9, "threshold 0.6": 0.6}


def cases(*, quick: bool = False) -> list[Case]:
    """A ViT with an exit after every layer, at the sizes of the course; and the zoo's."""
    dims = (32,) if quick else (256, 96)
    return [
        *((f"early exit, dim {dim}", partial(_rows, dim, quick)) for dim in dims),
        ("early exit, trained", partial(_trained, quick)),
        ("early exit, where it breaks even", partial(_pays, quick)),
    ]


@torch.inference_mode()
def _races(dim: int, leaving: Mapping[str, float], quick: bool, *, masked: bool, repeats: int = 9) -> dict[str, Race]:
    torch.manual_seed(0)
    depth, side, batch = (2, 16, 8) if quick else (DEPTH, 32, BATCH)
    vit = ViT(image_size=side, patch_size=4, classes=CLASSES, dim=dim, depth=depth, heads=max(dim // 32, 1)).eval()
    model = MultiExit(vit, range(1, depth)).eval()
    images = uniform(batch, 1, side, side)
    sure = max_probability(model(images))
    tokens = vit.embed(images[:1]).shape[1]

    def gathered(limits: list[float], samples: int | None) -> Tensor:
        return model.predict(images, limits, rows=None if samples is None else samples * tokens).logits

    def everything(limits: list[float]) -> Tensor:
        return model.predict(images, limits, execution="masked").logits

    limits = {name: _thresholds(sure, round(share * batch)) for name, share in leaving.items()}
    return contest(
        {
            name: {"at once": partial(gathered, some, None), "4 at a time": partial(gathered, some, 4)}
            for name, some in limits.items()
        },
        pieces(vit, images, 4),
        masked={name: partial(everything, some) for name, some in limits.items()} if masked else {},
        repeats=repeats,
    )


def _rows(dim: int, quick: bool) -> list[Row]:
    races = _races(dim, LEAVING, quick, masked=True)
    size = transformer(dim, 2 if quick else DEPTH, 8 if quick else BATCH, 17 if quick else 65)
    aim = 1.0 if dim >= 256 else 0.9
    return [race.row(f"early exit, {name}", size, aim=aim) for name, race in races.items()]


def _trained(quick: bool) -> list[Row]:
    model = load("digits_exits")

    def gathered(threshold: float, images: Tensor, samples: int | None = None) -> Tensor:
        return model.predict(images, threshold, rows=None if samples is None else 37 * samples).logits

    def everything(threshold: float, images: Tensor) -> Tensor:
        return model.predict(images, threshold, execution="masked").logits

    ways: dict[str, Call] = {"at once": gathered, "64 at a time": partial(gathered, samples=64)}
    return on_digits("early exit", THRESHOLDS, ways, everything, quick=quick)


def _pays(quick: bool) -> Row:
    dims = SMALL[:2] if quick else SMALL
    name = next(iter(LEAVING))
    size = transformer(f"{dims[0]} to {dims[-1]}", 2 if quick else DEPTH, 8 if quick else BATCH, 17 if quick else 65)

    def measure(dim: int) -> Race:
        return _races(dim, {name: LEAVING[name]}, quick, masked=False, repeats=7)[name]

    return pays(f"early exit, {name}", size, "dim", dims, measure)


def _thresholds(confidence: Tensor, leaving: int) -> list[float]:
    """One for each early exit, halfway between the last sample that is to leave there and the first that is to stay."""
    waiting = torch.arange(confidence.shape[1], device=confidence.device)
    thresholds = []
    for sure in confidence[:-1].double():
        order = sure[waiting].argsort(descending=True)
        edge = sure[waiting[order[leaving - 1 : leaving + 1]]]
        thresholds.append(edge.mean().item() if len(edge) else 0.0)
        waiting = waiting[order[leaving:]]
    return thresholds
