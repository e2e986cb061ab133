"""A transmitter with both its sides against the whole model without a channel, at random weights and the zoo's.

Which tokens are dropped is drawn beforehand, the same number in every image, so that the share is the same at every
size; the gates, the code, the channel and the copies are the mechanism's own. Both sides run on this machine.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.given import digits, here, uniform
from benchmarks.race import Race, contest, pays, transformer
from benchmarks.table import Case, Row
from benchmarks.trained import Call, on_digits, pieces
from dynlib.backbone import ViT
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.edge import AWGNChannel, TokenTransmitter
from dynlib.zoo import load

DEPTH, AFTER, SYMBOLS, CLASSES = 8, 2, 16, 10
SHARES = {"a tenth of the tokens sent": 0.1, "three tenths of the tokens sent": 0.3}
SMALL = (16, 32, 64, 128)
BUDGETS = {"budget 0.3": 0.3, "budget 1": 1.0}


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
    """A transmitter at some shares of tokens, the zoo's, and from which size on it pays."""
    dims, side = ((32,), 4) if quick else ((256, 96), 8)
    return [
        *((f"communication, dim {dim}", partial(_rows, dim, side, quick)) for dim in dims),
        ("communication, trained", partial(_trained, quick)),
        ("communication, where it breaks even", partial(_pays, side, quick)),
    ]


def _models(dim: int, side: int, share: float, quick: bool) -> tuple[Drawn, ViT, Tensor]:
    torch.manual_seed(0)
    depth, batch = (3, 8) if quick else (DEPTH, 32)
    vit = ViT(image_size=4 * side, patch_size=4, classes=CLASSES, dim=dim, depth=depth, heads=max(dim // 32, 1)).eval()
    model = Drawn(vit, after=AFTER, symbols=min(SYMBOLS, dim // 2), channel=AWGNChannel(10), budget=share).eval()
    model.order = uniform(batch, model.tokens - 1).argsort(1).argsort(1)
    return model, vit, uniform(batch, 1, 4 * side, 4 * side)


@torch.inference_mode()
def _races(
    dim: int, side: int, shares: Mapping[str, float], quick: bool, *, masked: bool, repeats: int = 9
) -> dict[str, Race]:
    made = {name: _models(dim, side, share, quick) for name, share in shares.items()}
    _, vit, images = next(iter(made.values()))

    def everything(model: TokenTransmitter) -> Tensor:
        with setting(model, TokenTransmitter, execution="masked"):
            return model(images)

    return contest(
        {name: pieces(model, images, 4, 16) for name, (model, _, _) in made.items()},
        pieces(vit, images, 4, 16),
        masked={name: partial(everything, model) for name, (model, _, _) in made.items()} if masked else {},
        repeats=repeats,
    )


@torch.inference_mode()
def _rows(dim: int, side: int, quick: bool) -> list[Row]:
    rows = []
    for name, race in _races(dim, side, SHARES, quick, masked=True).items():
        model, vit, images = _models(dim, side, SHARES[name], quick)
        device = count(model.encode, images).flops / count(vit, images).flops
        rows.append(
            race.row(
                f"token communication, {name}",
                transformer(dim, len(vit.blocks), len(images), model.tokens),
                aim=1.0 if dim >= 256 else 0.9,
                note=f"{device:.2f} of the dense FLOPs are the device's",
            )
        )
    return rows


def _trained(quick: bool) -> list[Row]:
    model = load("digits_transmitter")

    def run(budget: float, images: Tensor, samples: int = 250, execution: str = "gathered") -> Tensor:
        torch.manual_seed(0)  # of the channel's noise
        with setting(model, TokenTransmitter, budget=budget, execution=execution):
            return torch.cat([model(part) for part in images.split(samples)])

    sent = {name: _share_sent(model, budget, quick) for name, budget in BUDGETS.items()}
    ways: dict[str, Call] = {"at once": run, "64 at a time": partial(run, samples=64)}
    rows = on_digits(
        "token communication, 10 dB", BUDGETS, ways, partial(run, execution="masked"), quick=quick, aim=None
    )
    return [_told(row, share) for row, share in zip(rows, sent.values(), strict=True)]


def _told(row: Row, share: float) -> Row:
    return type(row)(**{**vars(row), "note": f"{row.note[:-1]}; {100 * share:.0f} % of the tokens are sent."})


@torch.inference_mode()
def _share_sent(model: TokenTransmitter, budget: float, quick: bool) -> float:
    images = here(digits(16 if quick else 500)[0])
    with record(model, TokenTransmitter) as records, setting(model, TokenTransmitter, budget=budget):
        model(images)
    return records[""][0].sent.double().mean().item()


def _pays(side: int, quick: bool) -> Row:
    dims = SMALL[:2] if quick else SMALL
    name = "three tenths of the tokens sent"
    size = transformer(f"{dims[0]} to {dims[-1]}", 3 if quick else DEPTH, 8 if quick else 32, side**2 + 1)

    def measure(dim: int) -> Race:
        return _races(dim, side, {name: SHARES[name]}, quick, masked=False, repeats=7)[name]

    return pays(f"token communication, {name}", size, "dim", dims, measure)
