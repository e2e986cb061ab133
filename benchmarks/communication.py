"""A transmitter with both its sides, gathered, against the whole model without a channel.

Which tokens are dropped is drawn beforehand, the same number in every image, so that the share is the same at every
size; the gates, the code, the channel and the copies are the mechanism's own. Both sides run on this machine.
"""

from functools import partial

import torch
from torch import Tensor

from benchmarks.race import Race, Ways, pays, race, transformer
from benchmarks.table import Case, Row
from dynlib.backbone import ViT
from dynlib.cost import count
from dynlib.edge import AWGNChannel, TokenTransmitter

DEPTH, AFTER, SYMBOLS, CLASSES = 8, 2, 16, 10
SHARES = (0.1, 0.3, 0.6, 1.0)
DIM, BATCH, SIDE = 256, 32, 8  # features of a token, images, patches on a side
SMALL = (16, 32, 64, 128)
CHUNKS = (4, 8, 16, 32)  # images at a time


class Drawn(TokenTransmitter):
    """Sends a share of the tokens that was drawn beforehand, and drops half of the others after the first block."""

    order: Tensor

    def _choose(
        self, layer: int, before: Tensor, x: Tensor, kept: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        worth, price, may = super()._choose(layer, before, x, kept, images)
        share = (1 + self.budget) / 2 if layer < self.after - 1 else self.budget
        stays = self.order[: len(x)] < max(round(share * self.tokens), 1) - 1
        return 0 * worth + 100, 0 * price - 100, may & stays


def cases(*, quick: bool = False) -> list[Case]:
    """A transmitter at each share of tokens, and from which size on it pays."""
    dim, batch, side = (32, 8, 4) if quick else (DIM, BATCH, SIDE)
    shares = SHARES[1:2] if quick else SHARES
    return [
        *((f"communication, {share}", partial(_row, dim, batch, side, share, quick)) for share in shares),
        ("communication, where it pays", partial(_pays, batch, side, quick)),
    ]


def _models(dim: int, batch: int, side: int, share: float, quick: bool) -> tuple[Drawn, ViT, Tensor]:
    torch.manual_seed(0)
    depth = 3 if quick else DEPTH
    vit = ViT(image_size=4 * side, patch_size=4, classes=CLASSES, dim=dim, depth=depth, heads=max(dim // 32, 1)).eval()
    model = Drawn(vit, after=AFTER, symbols=min(SYMBOLS, dim // 2), channel=AWGNChannel(10), budget=share).eval()
    generator = torch.Generator().manual_seed(0)
    model.order = torch.rand(batch, model.tokens - 1, generator=generator).argsort(1).argsort(1)
    return model, vit, torch.rand(batch, 1, 4 * side, 4 * side, generator=generator)


@torch.inference_mode()
def _race(dim: int, batch: int, side: int, share: float, quick: bool, *, repeats: int = 15) -> Race:
    model, vit, images = _models(dim, batch, side, share, quick)

    def ours(chunk: int) -> Tensor:
        return torch.cat([model(part) for part in images.split(chunk)])

    def dense(chunk: int) -> Tensor:
        return torch.cat([vit(part) for part in images.split(chunk)])

    chunks = sorted({min(chunk, batch) for chunk in CHUNKS})
    ways: list[Ways] = [{f"{chunk} images at a time": partial(run, chunk) for chunk in chunks} for run in (ours, dense)]
    return race(*ways, repeats=repeats)


@torch.inference_mode()
def _row(dim: int, batch: int, side: int, share: float, quick: bool) -> Row:
    run = _race(dim, batch, side, share, quick, repeats=7 if quick else 15)
    model, vit, images = _models(dim, batch, side, share, quick)
    device = count(model.encode, images).flops / count(vit, images).flops
    return run.row(
        f"token communication, {100 * share:.0f} % of the tokens sent, gathered",
        transformer(dim, len(vit.blocks), batch, model.tokens),
        note=f"{AFTER} blocks on the device: {device:.2f} of the dense FLOPs there",
    )


def _pays(batch: int, side: int, quick: bool) -> Row:
    sizes = SMALL[:2] if quick else SMALL
    return pays(
        "token communication, 30 % of the tokens sent",
        transformer(f"{sizes[0]} to {sizes[-1]}", 3 if quick else DEPTH, batch, side**2 + 1),
        "dim",
        sizes,
        lambda dim: _race(dim, batch, side, 0.3, quick, repeats=7),
    )
