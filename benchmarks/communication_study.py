"""Tokens sent across a channel under a budget, on cluttered digits; written to a JSON file.

``python -m benchmarks.communication_study`` makes a transmitter of the zoo's ``digits_vit``, two blocks on the device
and four on the server. It first learns to send all tokens, a start that is common to all models. From there it trains
*one model*, in which the budget α is drawn for each image; models *per α*, each trained at one budget; and rivals in
which a rule says which tokens are sent, for all budgets, trained as long on the same images, through the same channel,
the class token being sent by all. *random*: any. *ink*: the darkest patches, ties drawn. *class attention*: what the
class token attends to most in the last block of the device. Rivals drop tokens after that block only; they are judged
at the number of tokens that the one model of the same seed sends at a budget, rounded. The ratio is drawn for each
batch, between the worst and the best that all are judged at. Interrupt and call it again to resume. ``--pilot`` runs a
small part of it into another file.

The one model is also judged where it sends the share that was asked for, by another α or threshold, found on training
images (``one model, calibrated``), and where it sends as many as each single one (``one model, as many tokens``). With
what the one model of the first seed does, a controller then sends through a bad hour (``controller``).

Accuracies are those on held-out images. ``tokens`` is the share of tokens that are sent, ``symbols`` the mean number of
complex symbols an image, with those that say which tokens they are at the most that the channel could carry, and
``symbols for places`` these alone. Shares of FLOPs are counted, over those of ``digits_vit``: of both sides, and of the
device alone.
"""

import argparse
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.backbone import Block
from dynlib.cost import count
from dynlib.data import ClutteredDigits, cluttered_digits
from dynlib.deciding import record, setting
from dynlib.edge import (
    AWGNChannel,
    LyapunovController,
    Slot,
    TokenTransmitter,
    bad_hour,
    between,
    class_attention,
    send_through,
    symbols_sent,
)
from dynlib.training import train
from dynlib.zoo import load
from dynlib.zoo.recipes import recipe
from dynlib.zoo.recipes.transmitter import BATCH, BEST, LOW, START, WEIGHTS, WORST, begin, digits_transmitter_loss

RESULTS = Path(__file__).with_suffix(".json")
NAME = "digits_transmitter"
SETTINGS: dict[str, Any] = {
    "alphas": [0.1, 0.3, 0.6, 1.0],
    "snrs": [0.0, 5.0, 10.0, 20.0],
    "others at": [0.0, 10.0],
    "seeds": 3,
    "test images": 1000,
    "steps": int(recipe(NAME).training["steps"]),
}
PILOT: dict[str, Any] = {**SETTINGS, "seeds": 1, "test images": 1000, "steps": 100}
BEFORE, HOURS = 2, 6  # good hours before the bad one, and all hours, of dynlib.edge.bad_hour
RULES = ("random", "ink", "class attention")


class Ruled(TokenTransmitter):
    """A transmitter in which a rule says which tokens are sent, as many as the budget says, after the last block."""

    rule: str = "random"
    draws: torch.Generator | None = None
    """Of ties, and of tokens that are any; torch's own if None, which a resumed training goes on with."""
    alpha: Tensor

    def _choose(
        self, layer: int, before: Tensor, x: Tensor, kept: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        sure = torch.full_like(x[:, 1:-1, 0], 100.0)
        if layer < self.after - 1:
            return sure, -sure[:, :1], kept[:, 1:]
        scores = torch.rand(sure.shape, generator=self.draws)
        if self.rule == "ink":
            scores = scores * 1e-4 + F.avg_pool2d(images, 4).flatten(1)
        elif self.rule == "class attention":
            block = cast(Block, self.model.blocks[layer])
            scores = class_attention(block.attention, block.norm1(before))[:, 1 : self.tokens].detach()
        many = (self.alpha * self.tokens).round().clamp(min=1) - 1  # the class token is one of them
        return sure, -sure[:, :1], scores.argsort(1, descending=True).argsort(1) < many[:, None]

    def _budgets(self, budget: object, x: Tensor) -> Tensor:
        self.alpha = super()._budgets(budget, x)
        return self.alpha


@dataclass(frozen=True)
class Arms:
    """All models that are compared. Each is read where it was trained before; a row is of a budget α and a ratio."""

    settings: dict[str, Any]
    test: ClutteredDigits
    checkpoints: Path

    def fitted(self, arm: str, seed: int, alpha: float | None = None) -> TokenTransmitter:
        """A trained model: "learned", at one budget if there is one, or of a rule."""
        made, backbone = recipe(NAME), load("digits_vit")
        torch.manual_seed(seed)
        if arm == "learned":
            model = made.build(**made.config)
        else:
            config = made.config
            channel = AWGNChannel(config["snr"])
            model = Ruled(backbone, after=config["after"], symbols=config["symbols"], channel=channel)
            model.rule = arm
        assert isinstance(model, TokenTransmitter)
        name = f"{arm}-{seed}" if alpha is None else f"{arm}-{alpha:g}-{seed}"
        checkpoint = self.checkpoints / f"{name.replace(' ', '_')}.pt"
        if not checkpoint.exists():
            begin(model, backbone, checkpoint=self.checkpoints / "start.pt")
        train(
            model,
            digits_transmitter_loss(model, stream=seed, budget=alpha),
            steps=self.settings["steps"],
            lr=made.training["lr"],
            weight_decay=made.training["weight_decay"],
            checkpoint=checkpoint,
            description=name,
        )
        if isinstance(model, Ruled):
            model.draws = torch.Generator().manual_seed(seed)
        return model.eval()

    @torch.no_grad()
    def judged(
        self, model: TokenTransmitter, alpha: float, snrs: str, *, budget: float | None = None
    ) -> list[dict[str, Any]]:
        """What a model says at a budget α, and what it sends, for each ratio; at another budget if one is given."""
        asked = alpha if budget is None else budget
        with record(model, TokenTransmitter) as records:
            pieces = [model.encode(images, budget=asked) for images in self.test.images.split(250)]
        sent = torch.cat([piece.sent for piece in pieces])
        some, vit = self.test.images[:250], load("digits_vit")
        whole = count(vit, some).flops
        device = torch.cat([one.flops for one in records[""]]).double().mean().item() * len(some) / whole
        with setting(model, TokenTransmitter, budget=asked):
            share = count(model, some).flops / whole
        rows = []
        for snr in self.settings[snrs]:
            with setting(model, TokenTransmitter, snr=snr):
                noise = torch.Generator().manual_seed(1)
                said = torch.cat([model.decode(model.send(piece, generator=noise)).argmax(-1) for piece in pieces])
            symbols, own = symbols_sent(sent, model.symbols, snr), sent.sum(1) * model.symbols
            rows.append(
                {
                    "alpha": alpha,
                    "snr": snr,
                    "accuracy": (said == self.test.labels).double().mean().item(),
                    "tokens": sent.double().mean().item(),
                    "tokens spread": sent.double().sum(1).std().item(),
                    "symbols": symbols.mean().item(),
                    "symbols for places": (symbols - own).mean().item(),
                    "share of FLOPs": share,
                    "share of FLOPs on the device": device,
                }
            )
        return rows

    def one_model(self, seed: int) -> list[dict[str, Any]]:
        """The model of all budgets, at each of them."""
        model = self.fitted("learned", seed)
        return [row for alpha in self.settings["alphas"] for row in self.judged(model, alpha, "snrs")]

    def per_alpha(self, seed: int, alpha: float) -> list[dict[str, Any]]:
        """A model of one budget."""
        return self.judged(self.fitted("learned", seed, alpha), alpha, "others at")

    def calibrated(
        self, seed: int, alpha: float, *, single: list[dict[str, Any]] | None = None
    ) -> list[dict[str, Any]]:
        """The model of all budgets, sending a share α of the tokens, or as many as the model of one budget does.

        It does so by another α or by the threshold (:func:`knobs_for`).
        """
        model = self.fitted("learned", seed)
        knobs = knobs_for(model, alpha, alpha if single is None else share_of(single, seed, alpha))
        with setting(model, TokenTransmitter, threshold=knobs["threshold"]):
            rows = self.judged(model, alpha, "others at", budget=knobs["budget"])
        return [{**row, **knobs} for row in rows]

    def rival(self, arm: str, seed: int, *, learned: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A rule, at as many tokens as the one model of this seed sends."""
        model = self.fitted(arm, seed)
        return [
            row
            for alpha in self.settings["alphas"]
            for row in self.judged(model, alpha, "others at", budget=share_of(learned, seed, alpha))
        ]

    @torch.no_grad()
    def dense(self) -> float:
        """The accuracy of the model that all of them start from, without a channel."""
        model = load("digits_vit")
        said = torch.cat([model(images).argmax(-1) for images in self.test.images.split(250)])
        return (said == self.test.labels).double().mean().item()


def share_of(rows: list[dict[str, Any]], seed: int, alpha: float) -> float:
    """The share of tokens that was sent."""
    return next(row["tokens"] for row in rows if (row["seed"], row["alpha"]) == (seed, alpha))


@torch.no_grad()
def knobs_for(model: TokenTransmitter, alpha: float, wanted: float) -> dict[str, float]:
    """The budget and the threshold with which a model sends a wanted share of the tokens of training images.

    A larger threshold, where too many are sent at α; where too few, a larger α.
    """
    images = cluttered_digits(300, split="train", seed=10**8 + 1).images

    def share(**knobs: float) -> float:
        with setting(model, TokenTransmitter, **knobs):
            return model.encode(images).sent.double().mean().item()

    knobs = {"budget": alpha, "threshold": 1e-3}
    name, most = ("threshold", 0.999) if share(**knobs) > wanted else ("budget", 1.0)
    low, high = knobs[name], most
    for _ in range(12):
        knobs[name] = math.sqrt(low * high)
        too_many = share(**knobs) > wanted
        if too_many == (name == "budget"):
            high = knobs[name]
        else:
            low = knobs[name]
    return knobs


def tables(rows: list[dict[str, Any]]) -> tuple[list[float], list[float], Tensor, Tensor]:
    """Budgets, ratios, and for each ratio and budget the accuracy and the symbols of an image: means over the seeds."""
    alphas, snrs = (sorted({row[key] for row in rows}) for key in ("alpha", "snr"))

    def mean(key: str) -> Tensor:
        cells = [[[row[key] for row in rows if (row["snr"], row["alpha"]) == (s, a)] for a in alphas] for s in snrs]
        return torch.tensor([[sum(cell) / len(cell) for cell in line] for line in cells])

    return alphas, snrs, mean("accuracy"), mean("symbols")


def controlled(
    rows: list[dict[str, Any]], *, budget: float = 250.0, V: float = 2000.0, step: float = 1e-3, seed: int = 0
) -> dict[str, Any]:
    """A controller through a bad hour, which takes one of the budgets in every slot; and each of them throughout.

    Args:
        rows: of the one model.
        budget: of the controller, in symbols an image.
        V, step: its weight and step.
        seed: of the noise of the hours.

    Returns:
        ``slots``, all that it did, and what they come to, hours of good and of bad channel apart.
    """
    alphas, snrs, values, costs = tables(rows)
    hours = bad_hour(generator=torch.Generator().manual_seed(seed))
    slots = send_through(LyapunovController(budget, V=V, step=step), hours, snrs=snrs, values=values, costs=costs)
    hour = len(hours) // HOURS
    bad = slice(BEFORE * hour, (BEFORE + 1) * hour)
    read = [(between(snr, snrs, values), between(snr, snrs, costs)) for snr in hours.tolist()]

    def shares(some: list[Slot]) -> list[float]:
        return [sum(slot.way == way for slot in some) / len(some) for way in range(len(alphas))]

    return {
        "budget": budget,
        "V": V,
        "step": step,
        "seed": seed,
        "mean symbols": slots[-1].mean,
        "mean symbols of the bad hour": sum(slot.cost for slot in slots[bad]) / hour,
        "accuracy": sum(slot.value for slot in slots) / len(slots),
        "shares of the budgets": shares(slots),
        "shares of the budgets in the bad hour": shares(slots[bad]),
        "throughout": [
            {
                "alpha": alpha,
                "accuracy": sum(worth[way].item() for worth, _ in read) / len(read),
                "mean symbols": sum(price[way].item() for _, price in read) / len(read),
            }
            for way, alpha in enumerate(alphas)
        ],
        "slots": slots,
    }


def _in_short(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a controller did, without the slots."""
    return {key: value for key, value in controlled(rows).items() if key != "slots"}


def main() -> None:
    """Run everything and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.communication_study", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints/communication_study"), help="of the runs")
    parser.add_argument("--pilot", type=Path, help="run a small part of it, one seed, and write this file instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings, path, folder = SETTINGS, RESULTS, options.checkpoints
    if options.pilot:
        settings, path, folder = PILOT, options.pilot, options.checkpoints / "pilot"
    start = {f"{key} of the start": value for key, value in START.items()}
    training = {**recipe(NAME).training, **start, **WEIGHTS, "batch": BATCH, "least budget": LOW, "snr": [WORST, BEST]}
    made = {**head("communication_study"), "settings": settings, "config": recipe(NAME).config, "training": training}
    arms = Arms(settings, cluttered_digits(settings["test images"], split="test", seed=0), folder)
    results = Results(path, made, digits=5)
    results.once("dense", arms.dense)
    seeds = list(range(settings["seeds"]))
    for some in (seeds[:1], seeds[1:]):  # all of the first seed, then the others
        learned = results.sweep([{"seed": seed} for seed in some], arms.one_model, name="one model")
        cases = [{"seed": seed, "alpha": alpha} for seed in some for alpha in settings["alphas"]]
        results.sweep(cases, arms.calibrated, name="one model, calibrated")
        rivals = [{"arm": arm, "seed": seed} for seed in some for arm in RULES]
        results.sweep(rivals, partial(arms.rival, learned=learned), name="rivals")
        for alpha in settings["alphas"]:
            budgets = [{"seed": seed, "alpha": alpha} for seed in some]
            single = results.sweep(budgets, arms.per_alpha, name="per alpha")
            results.sweep(budgets, partial(arms.calibrated, single=single), name="one model, as many tokens")
        results.once("controller", partial(_in_short, learned))  # of the first seed


if __name__ == "__main__":
    main()
