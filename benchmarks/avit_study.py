"""Tokens that halt on cluttered digits, the ponder weight swept: accuracy, depth, cost; written to a JSON file.

``python -m benchmarks.avit_study`` first lets tokens halt by each feature of the zoo's ``digits_vit`` in turn, which is
not trained for it. The feature with the least loss becomes the first one. Then it trains the model on, once for each
weight and seed, with halting tokens; and, to compare with, without them: as many steps on the same images. Then come
the rivals that learn nothing of when to stop, at about half of the FLOPs and for as many steps: patches with ink stay
and blank ones go after layer 1; as many patches stay, drawn at random; all tokens go through half of the layers. That
takes about an hour on one core. Interrupt and call it again to resume. Lecture 10 reads the file, so that its readers
do not wait.

Throughput is images a second, 256 at a time, each model in the fastest of several ways to run it, all of one seed timed
in turn. The FLOPs are counted on the same 256 images.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from benchmarks.study import Results, checkpoint_folder, head
from dynlib.backbone import Block, ViT
from dynlib.cost import count, timed
from dynlib.data import ClutteredDigits, cluttered_digits
from dynlib.data.digits import MOST_FRAGMENTS
from dynlib.tokens import AdaptiveViT
from dynlib.training import train
from dynlib.zoo import load
from dynlib.zoo.recipes import recipe
from dynlib.zoo.recipes.avit import digits_avit_loss, swap_features
from dynlib.zoo.scores import depth_auc, digit_patches

RESULTS = Path(__file__).with_suffix(".json")
SEEDS, TEST, TIMED = 3, 5000, 256
CHOSEN_ON, PRICE = 250, 0.1  # training images that the feature is chosen on, and what a layer then costs, in nats
PLAIN = "plain"
WEIGHTS: tuple[float | str, ...] = (PLAIN, 0.003, 0.01, 0.03)
"""Of the ponder; and the model whose tokens do not halt."""
RIVALS = ("ink", "random", "half the layers")
CHUNKS, ROWS = (16, 64), (1024, 4096)
"""Images at a time where all tokens run, and tokens at a time where halted ones are taken out."""


@torch.no_grad()
def choose() -> list[list[float]]:
    """Cross-entropy and mean ponder on training images if tokens halt by feature 0, 1, 2, …, before any training."""
    config, images = recipe("digits_avit").config, cluttered_digits(CHOSEN_ON, split="train", seed=10**6 - 1)
    rows = []
    for feature in tqdm(range(config["dim"]), desc="features", leave=False):
        model = _start(feature).eval()
        results = [model.predict(part) for part in images.images.split(TIMED)]
        logits, ponder = (torch.cat([getattr(result, name) for result in results]) for name in ("logits", "ponder"))
        rows.append([F.cross_entropy(logits, images.labels).item(), ponder.mean().item()])
    return rows


def chosen() -> dict[str, Any]:
    """The feature to halt by, which costs least before any training, and what each of them costs."""
    losses = choose()
    best = min(range(len(losses)), key=lambda feature: losses[feature][0] + PRICE * losses[feature][1])
    return {"images": CHOSEN_ON, "price": PRICE, "chosen": best, "losses": losses}


def _start(feature: int) -> AdaptiveViT:
    config, backbone = recipe("digits_avit").config, load("digits_vit")
    swap_features(backbone, 0, feature)
    return AdaptiveViT(backbone, gamma=config["gamma"], beta=config["beta"])


def make(feature: int, weight: float | str, seed: int, checkpoints: Path) -> nn.Module:
    """The trained model of a weight and a seed, whose tokens halt by a feature; read, where it was trained before."""
    training, start = recipe("digits_avit").training, _start(feature)
    model, ponder = (start.backbone, 0.0) if isinstance(weight, str) else (start, weight)
    train(
        model,
        digits_avit_loss(model, ponder=ponder, stream=seed),
        steps=int(training["steps"]),
        lr=training["lr"],
        weight_decay=training["weight_decay"],
        checkpoint=checkpoints / f"{weight}-{seed}.pt",
        description=f"{weight}, seed {seed}",
    )
    return model.eval()


@torch.no_grad()
def judge(model: nn.Module, test: ClutteredDigits) -> dict[str, Any]:
    """Accuracy, with all images and by their number of fragments; where tokens halt, and how well that finds the digit.

    Depths are means in layers. ``auc of an image`` is the mean of those taken within one image, and the standard
    deviation of these.
    """
    halts = isinstance(model, AdaptiveViT)
    results = [model.predict(part) if halts else model(part) for part in test.images.split(500)]  # type: ignore[operator]
    logits = torch.cat([result.logits if halts else result for result in results])
    right = logits.argmax(-1) == test.labels
    fragments = (test.difficulty * MOST_FRAGMENTS).round().long()
    row: dict[str, Any] = {
        "accuracy": right.double().mean().item(),
        "accuracy by fragments": _by(fragments, right.double()),
    }
    if not halts:
        return row
    depth = torch.cat([result.depth for result in results])
    patches, digit = depth[:, 1:], digit_patches(test.masks)
    ink = F.max_pool2d(test.images, 4).flatten(1) > 0
    each = torch.tensor([depth_auc(one, where) for one, where in zip(patches, digit, strict=True)]).double()
    return row | {
        "depth": {
            "patches": patches.double().mean().item(),
            "class token": depth[:, 0].double().mean().item(),
            "digit": patches[digit].double().mean().item(),
            "fragments": patches[~digit & ink].double().mean().item(),
            "paper": patches[~digit & ~ink].double().mean().item(),
        },
        "share of patches by depth": _shares(patches.flatten()),
        "share of class tokens by depth": _shares(depth[:, 0]),
        "depth by fragments": _by(fragments, patches.double().mean(1)),
        "auc": depth_auc(patches, digit),
        "auc against fragments": depth_auc(patches[digit | ink], digit[digit | ink]),
        "auc of an image": [each.mean().item(), each.std().item()],
    }


def _by(fragments: Tensor, values: Tensor) -> list[float]:
    return [values[fragments == number].mean().item() for number in range(MOST_FRAGMENTS + 1)]


def _shares(depth: Tensor) -> list[float]:
    layers = recipe("digits_avit").config["depth"]
    return (torch.bincount(depth, minlength=layers + 1)[1:] / depth.numel()).tolist()


@torch.inference_mode()
def pay(models: dict[float | str, nn.Module], images: Tensor, *, repeats: int = 7) -> dict[float | str, dict[str, Any]]:
    """Share of the plain model's FLOPs, and throughput over its own, gathered and masked, with 95 % intervals."""

    def dense(model: nn.Module, chunk: int) -> None:
        for part in images.split(chunk):
            model(part)

    def gathered(model: nn.Module, rows: int) -> None:
        model.predict(images, rows=rows)  # type: ignore[operator]

    plain = models[PLAIN]
    halting = {weight: model for weight, model in models.items() if weight != PLAIN}
    ways: list[tuple[float | str, str, int, Callable[[], None]]] = []
    for chunk in (*CHUNKS, len(images)):
        ways.append((PLAIN, "dense", chunk, partial(dense, plain, chunk)))
    for weight, model in halting.items():
        ways += [(weight, "gathered", rows, partial(gathered, model, rows)) for rows in ROWS]
        ways.append((weight, "masked", CHUNKS[-1], partial(dense, model, CHUNKS[-1])))
    timing = timed(*(way[-1] for way in ways), repeats=repeats, warmup=1)

    def fastest(weight: float | str, how: str) -> int:
        places = [place for place, way in enumerate(ways) if way[:2] == (weight, how)]
        return min(places, key=timing.seconds.__getitem__)

    best = fastest(PLAIN, "dense")
    whole = count(partial(dense, plain, len(images))).flops
    rows: dict[float | str, dict[str, Any]] = {
        PLAIN: {"images a second": len(images) / timing.seconds[best], "images at a time": ways[best][2]}
    }
    for weight, model in halting.items():
        here = fastest(weight, "gathered")
        rows[weight] = {
            "share of FLOPs": count(partial(gathered, model, ways[here][2])).flops / whole,
            "throughput": list(timing.ratio(best, here)),
            "tokens at a time": ways[here][2],
            "throughput, masked": list(timing.ratio(best, fastest(weight, "masked"))),
        }
    return rows


def run(feature: int, test: ClutteredDigits, checkpoints: Path, seed: int) -> list[dict[str, Any]]:
    """All models of a seed, trained, judged, and timed in turn."""
    models = {weight: make(feature, weight, seed, checkpoints) for weight in tqdm(WEIGHTS, desc="weights", leave=False)}
    paid = pay(models, test.images[:TIMED])
    return [{"weight": weight, **judge(model, test), **paid[weight]} for weight, model in models.items()]


class Thinned(nn.Module):
    """A vision transformer in which a rule says which patches go on after layer 1; the others are gone."""

    def __init__(self, vit: ViT, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.vit, self.rule = vit, rule

    def forward(self, images: Tensor, stays: Tensor | None = None) -> Tensor:
        """Images to logits. Who stays, [batch, patches], is told, or said by the rule."""
        first, *later = cast(list[Block], list(self.vit.blocks))
        stays = self.rule(images) if stays is None else stays
        stays = F.pad(stays, (1, 0), value=True)  # the class token goes through all layers
        order = stays.sum(1).argsort(descending=True, stable=True)
        stays, x = stays[order], first(self.vit.embed(images))[order]
        lengths = stays.sum(1)
        left = x[stays]
        for block in later:
            left = block.packed(left, lengths.tolist())
        logits = self.vit.readout(left[lengths.cumsum(0) - lengths][:, None])
        return logits[order.argsort()]


def with_ink(images: Tensor) -> Tensor:
    """The patches of images that are not blank, [batch, patches]."""
    return F.max_pool2d(images, 4).flatten(1) > 0


def as_many(images: Tensor, generator: torch.Generator) -> Tensor:
    """As many patches of each image as have ink, drawn at random."""
    places = torch.rand(len(images), (images.shape[-1] // 4) ** 2, generator=generator).argsort(1).argsort(1)
    return places < with_ink(images).sum(1, keepdim=True)


def compete(rival: str, seed: int, *, test: ClutteredDigits, checkpoints: Path) -> dict[str, Any]:
    """A rival that learns nothing of when to stop, trained as long as the others on the same images, and judged."""
    vit, training = load("digits_vit"), recipe("digits_avit").training
    model: nn.Module = vit
    if rival == "half the layers":
        vit.blocks = vit.blocks[: len(vit.blocks) // 2]
    else:
        drawn = partial(as_many, generator=torch.Generator().manual_seed(seed))
        model = Thinned(vit, with_ink if rival == "ink" else drawn)
    train(
        model,
        digits_avit_loss(model, ponder=0.0, stream=seed),
        steps=int(training["steps"]),
        lr=training["lr"],
        weight_decay=training["weight_decay"],
        checkpoint=checkpoints / f"{rival}-{seed}.pt",
        description=f"{rival}, seed {seed}",
    )
    images = test.images[:TIMED]
    with torch.no_grad():
        share = count(model.eval(), images).flops / count(load("digits_vit"), images).flops
    return {**judge(model, test), "share of FLOPs": share}


def main() -> None:
    """Run everything and write the file."""
    folder = checkpoint_folder("avit_study", __doc__, "checkpoints/avit_study")
    torch.set_num_threads(1)
    test, made = cluttered_digits(TEST, split="test", seed=0), recipe("digits_avit")
    settings = {"config": made.config, "training": made.training, "test images": TEST, "timed images": TIMED}
    results = Results(RESULTS, {**head("avit_study"), **settings}, digits=5)
    feature = results.once("features", chosen)["chosen"]
    for row in results.sweep(({"seed": seed} for seed in range(SEEDS)), partial(run, feature, test, folder)):
        print({key: row.get(key) for key in ("weight", "seed", "accuracy", "depth", "auc", "throughput")})
    rivals = ({"rival": rival, "seed": seed} for rival in RIVALS for seed in range(SEEDS))
    results.sweep(rivals, partial(compete, test=test, checkpoints=folder), name="rivals")
    results.once("start", lambda: judge(load("digits_vit"), test)["accuracy"])
    results.once("before training", lambda: judge(_start(feature).eval(), test))
    digit, ink = digit_patches(test.masks), F.avg_pool2d(test.images, 4).flatten(1)
    results.once("share of patches with digit", lambda: digit.double().mean().item())
    results.once("auc of the ink", lambda: depth_auc((ink * 256).round().long(), digit))


if __name__ == "__main__":
    main()
