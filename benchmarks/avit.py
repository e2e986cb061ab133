"""A-ViT, gathered, against the fastest dense execution, with tokens that halt at depths drawn beforehand.

The depths are given as a mask, so that they are the same at every size; scores, decisions and copies are the
mechanism's own.
"""

from functools import partial

import torch
from torch import Tensor

from benchmarks.race import Race, Ways, pays, race, transformer
from benchmarks.table import Case, Row
from dynlib.backbone import ViT
from dynlib.tokens.avit import AdaptiveViT

DEPTH, CLASSES = 8, 10
SIZES = ((256, 32, 65), (256, 32, 257), (256, 256, 65), (96, 32, 65))  # features of a token, images, tokens
SMALL = (8, 16, 32, 64, 128)
CHUNKS, ROWS = (4, 8, 16, 32), (512, 1024, 4096)  # images at a time, and tokens


def cases(*, quick: bool = False) -> list[Case]:
    """A ViT of which every patch goes through 1 to 8 layers, all equally likely."""
    sizes = ((32, 8, 17),) if quick else SIZES
    return [
        *(
            (f"avit {dim}, {batch} images, {tokens} tokens", partial(_row, dim, batch, tokens, quick))
            for dim, batch, tokens in sizes
        ),
        ("avit, where it pays", partial(_pays, quick)),
    ]


@torch.inference_mode()
def _race(dim: int, batch: int, tokens: int, quick: bool, *, repeats: int = 15) -> Race:
    torch.manual_seed(0)
    side, depth = 4 * round((tokens - 1) ** 0.5), 2 if quick else DEPTH
    vit = ViT(image_size=side, patch_size=4, classes=CLASSES, dim=dim, depth=depth, heads=max(dim // 32, 1)).eval()
    model = AdaptiveViT(vit, beta=-1e4)  # nobody halts before the mask says so
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 1, side, side, generator=generator)
    halts = torch.randint(1, depth + 1, (batch, tokens), generator=generator)
    halts[:, 0] = depth
    mask = torch.arange(depth)[:, None] < halts[:, None]

    def gathered(rows: int) -> Tensor:
        return model.predict(images, mask=mask, rows=rows).logits

    def dense(chunk: int) -> Tensor:
        return torch.cat([vit(part) for part in images.split(chunk)])

    chunks = sorted({min(chunk, batch) for chunk in (*CHUNKS, batch)})
    ours: Ways = {f"about {rows} tokens at a time": partial(gathered, rows) for rows in ROWS}
    peer: Ways = {f"{chunk} images at a time": partial(dense, chunk) for chunk in chunks}
    return race(ours, peer, repeats=repeats)


def _row(dim: int, batch: int, tokens: int, quick: bool) -> Row:
    run = _race(dim, batch, tokens, quick, repeats=7 if quick else 15)
    size = transformer(dim, 2 if quick else DEPTH, batch, tokens)
    return run.row("A-ViT, gathered", size, note="as many patches halt after each layer")


def _pays(quick: bool) -> Row:
    batch, tokens, sizes = (8, 17, SMALL[:2]) if quick else (32, 65, SMALL)
    size = transformer(f"{sizes[0]} to {sizes[-1]}", 2 if quick else DEPTH, batch, tokens)
    return pays("A-ViT", size, "dim", sizes, lambda dim: _race(dim, batch, tokens, quick, repeats=7))
