"""A-ViT against the fastest dense execution, with tokens that halt at depths drawn beforehand; and the zoo's.

The depths are given as a mask, so that they are the same at every size; scores, decisions and copies are the
mechanism's own.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.given import uniform, whole
from benchmarks.peers import peer
from benchmarks.race import Race, against, contest, pays, transformer
from benchmarks.table import Case, Row
from benchmarks.trained import on_digits, pieces
from dynlib.backbone import ViT
from dynlib.tokens.avit import AdaptiveViT
from dynlib.zoo import load

DEPTH, CLASSES = 8, 10
SMALL = (16, 32, 64, 128)  # features of a token, to find where it pays
ROWS = (512, 1024, 4096)  # tokens at a time
LAYERS = {"1 to 8 layers a patch": 1.0, "1 to 4 layers a patch": 0.5}  # the most, as a share of all
EPSILONS = {"ε = 0.01": 0.01, "ε = 0.5": 0.5}


def cases(*, quick: bool = False) -> list[Case]:
    """A ViT of which the patches halt after one layer or later, all depths equally likely."""
    sizes = ((32, 17),) if quick else ((256, 65), (256, 257), (96, 65))
    return [
        *((f"avit, dim {dim}, {tokens} tokens", partial(_rows, dim, tokens, quick)) for dim, tokens in sizes),
        ("avit, trained", partial(_trained, quick)),
        ("avit, where it breaks even", partial(_pays, quick)),
        peer("avit", "vit-pytorch", partial(_sampling, quick), module="vit_pytorch.ats_vit", extra=False),
    ]


def _vit(dim: int, tokens: int, quick: bool) -> tuple[ViT, Tensor]:
    torch.manual_seed(0)
    side, depth = 4 * round((tokens - 1) ** 0.5), 2 if quick else DEPTH
    vit = ViT(image_size=side, patch_size=4, classes=CLASSES, dim=dim, depth=depth, heads=max(dim // 32, 1)).eval()
    return vit, uniform(8 if quick else 32, 1, side, side)


@torch.inference_mode()
def _races(
    dim: int, tokens: int, layers: Mapping[str, float], quick: bool, *, masked: bool, repeats: int = 9
) -> dict[str, Race]:
    vit, images = _vit(dim, tokens, quick)
    model = AdaptiveViT(vit, beta=-1e4)  # nobody halts before the mask says so

    def mask(most: float) -> Tensor:
        halts = 1 + whole(round(most * len(vit.blocks)), len(images), tokens)
        halts[:, 0] = len(vit.blocks)
        return torch.arange(len(vit.blocks), device=halts.device)[:, None] < halts[:, None]

    masks = {name: mask(most) for name, most in layers.items()}

    def gathered(some: Tensor, rows: int) -> Tensor:
        return model.predict(images, mask=some, rows=rows).logits

    return contest(
        {
            name: {f"about {rows} tokens at a time": partial(gathered, some, rows) for rows in ROWS}
            for name, some in masks.items()
        },
        pieces(vit, images, 4, 8, 16),
        masked={name: partial(model, images, mask=some) for name, some in masks.items()} if masked else {},
        repeats=repeats,
    )


def _rows(dim: int, tokens: int, quick: bool) -> list[Row]:
    long = tokens > 65
    races = _races(dim, tokens, LAYERS, quick, masked=not long, repeats=7 if long else 9)
    size = transformer(dim, 2 if quick else DEPTH, 8 if quick else 32, tokens)
    aim = 1.0 if dim >= 256 else 0.9
    return [race.row(f"A-ViT, {name}", size, aim=aim) for name, race in races.items()]


def _trained(quick: bool) -> list[Row]:
    model = load("digits_avit")

    def gathered(epsilon: float, images: Tensor, rows: int = 1024) -> Tensor:
        return model.predict(images, epsilon=epsilon, rows=rows).logits

    def everything(epsilon: float, images: Tensor) -> Tensor:
        return model.predict(images, epsilon=epsilon, execution="masked").logits

    ways = {f"about {rows} tokens at a time": partial(gathered, rows=rows) for rows in ROWS}
    return on_digits("A-ViT", EPSILONS, ways, everything, quick=quick)


def _pays(quick: bool) -> Row:
    tokens, dims = (17, SMALL[:2]) if quick else (65, SMALL)
    name = next(iter(LAYERS))
    size = transformer(f"{dims[0]} to {dims[-1]}", 2 if quick else DEPTH, 8 if quick else 32, tokens)

    def measure(dim: int) -> Race:
        return _races(dim, tokens, {name: LAYERS[name]}, quick, masked=False, repeats=7)[name]

    return pays(f"A-ViT, {name}", size, "dim", dims, measure)


@torch.inference_mode()
def _sampling(quick: bool, package: Any, named: str) -> Row:
    """Adaptive token sampling draws which tokens stay, as many of each image at most as it is told, and never all."""
    dim, tokens = (32, 17) if quick else (256, 65)
    vit, images = _vit(dim, tokens, quick)
    depth, most = len(vit.blocks), tokens - 1
    theirs = package.ViT(
        image_size=images.shape[-1],
        patch_size=4,
        channels=1,
        num_classes=CLASSES,
        dim=dim,
        depth=depth,
        max_tokens_per_depth=tuple(max(most * (depth - layer) // depth, 1) for layer in range(depth)),
        heads=max(dim // 32, 1),
        dim_head=32,
        mlp_dim=4 * dim,
    ).eval()
    model = AdaptiveViT(vit, beta=-1e4)
    stays = torch.tensor([max(most * (depth - layer) // depth, 1) for layer in range(depth)], device=images.device)
    mask = (torch.arange(tokens, device=images.device) <= stays[:, None]).expand(len(images), -1, -1)
    return against(
        "A-ViT, as many tokens a layer as the package may keep",
        transformer(dim, depth, len(images), tokens),
        f"{named}, adaptive token sampling",
        partial(model.predict, images, mask=mask),
        partial(theirs, images),
        note="the package draws which tokens stay from their attention, and may draw one twice and so keep fewer",
        repeats=9,
    )
