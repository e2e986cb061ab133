"""Tokens that halt where ink tells nothing: a digit in a canvas hatched with as much ink; written to a JSON file.

``python -m benchmarks.avit_hatched_study`` trains every arm with every seed. Call it again after an interruption: what
is in the file already is not run again, and with more ``--seeds`` only the new ones are. The start takes about two
minutes of one idle core, a seed about three. Lecture 10 reads the file.

The images are those of :func:`dynlib.data.hatched_digits`. First the zoo's ``digits_vit`` learns to read them, all
layers for all tokens: that is the *start*, the same for all. Then every arm trains it on for as many steps on the same
images. γ is small and β such that a patch of average feature has a small score at first: σ is not flat anywhere.

The feature that tokens halt by is chosen without masks: for each, β is set so that the score of its average is 0.3, and
the one with the least cross-entropy + 0.1 · ponder becomes the first.

The settings are those of trials with one seed. A ponder of 0.3 at three times the learning rate, on a first draft of
these images, stopped nearly all patches after a layer or two, those of the digit among them. A stronger "heard", by
log(1 − Σ h) in place of −Σ h, alone or three times, saved no more FLOPs and had no larger AUC in 150 steps.

The rivals have no scores. After layer 1 as many patches go on in each image as cost no less than "halting" and "heard"
of the same seed; a rule chooses them. Training does not see the masks, but for the arm that is told.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from benchmarks.avit_study import Thinned
from benchmarks.study import Results, head
from dynlib.backbone import Block, ViT
from dynlib.cost import count
from dynlib.data import ClutteredDigits, hatched_digits
from dynlib.tokens import AdaptiveViT
from dynlib.tokens.avit import Halted, depth_prior_loss, ponder_loss
from dynlib.training import train
from dynlib.zoo import load
from dynlib.zoo.recipes.avit import swap_features
from dynlib.zoo.scores import depth_auc, digit_patches

RESULTS = Path(__file__).with_suffix(".json")
SEEDS, TEST, COUNTED, SHOWN = 3, 2000, 256, 6
SETTINGS: dict[str, Any] = {
    "start": {"steps": 600, "lr": 1e-3, "weight_decay": 0.05, "batch": 64},
    "choice": {"images": 200, "score": 0.3, "price": 0.1},
    "gamma": 2.0,
    "score": 0.02,
    "batch": 32,
    "training": {"steps": 200, "lr": 3e-4, "weight_decay": 0.05},
}


def _stream(number: int, size: int, step: int) -> ClutteredDigits:
    return hatched_digits(size, split="train", seed=10**6 * (1 + number) + step)


def begin(checkpoints: Path) -> ViT:
    """The start: ``digits_vit`` trained on to read these images, all layers for all tokens."""
    model = load("digits_vit")
    training = dict(SETTINGS["start"])
    size = training.pop("batch")

    def loss(step: int) -> Tensor:
        batch = _stream(0, size, step)
        return F.cross_entropy(model(batch.images), batch.labels)

    train(model, loss, checkpoint=checkpoints / "start.pt", description="start", **training)
    return model.eval()


def _halting(
    start: ViT, feature: int, *, score: float, gamma: float, images: Tensor, kind: type[AdaptiveViT] = AdaptiveViT
) -> AdaptiveViT:
    """A copy of the start whose tokens halt by a feature, and β with which the mean feature of a patch scores so."""
    vit = load("digits_vit")
    vit.load_state_dict(start.state_dict())
    swap_features(vit, 0, feature)
    mean = _first(vit, images).mean().item()
    return kind(vit, gamma=gamma, beta=math.log(score / (1 - score)) - gamma * mean)


@torch.no_grad()
def _first(vit: ViT, images: Tensor) -> Tensor:
    """The first feature of the patches after every layer but the last, [batch, layers, patches]."""
    x, after = vit.embed(images), []
    for block in list(vit.blocks)[:-1]:
        x = block(x)
        after.append(x[:, 1:, 0])
    return torch.stack(after, 1)


def choose(start: ViT) -> dict[str, Any]:
    """The feature to halt by, chosen without masks, and the cross-entropy and mean ponder of each."""
    number, score, price = (SETTINGS["choice"][key] for key in ("images", "score", "price"))
    some = hatched_digits(number, split="train", seed=10**6 - 1)
    rows = []
    for feature in tqdm(range(start.head.in_features), desc="features", leave=False):
        result = _halting(start, feature, score=score, gamma=SETTINGS["gamma"], images=some.images).predict(some.images)
        rows.append([F.cross_entropy(result.logits, some.labels).item(), result.ponder.mean().item()])
    best = min(range(len(rows)), key=lambda feature: rows[feature][0] + price * rows[feature][1])
    return {"chosen": best, "losses": rows}


def stays(rule: str, batch: ClutteredDigits, patches: int, generator: torch.Generator) -> Tensor:
    """Which patches of each image go on after layer 1 by a rule, [batch, patches]: as many in all images."""
    ink = F.avg_pool2d(batch.images, 4).flatten(1)
    if rule == "random":
        worth = torch.rand(ink.shape, generator=generator)
    elif rule == "ink":
        worth = ink
    elif rule == "told":  # the digit's patches first, then those with the most ink
        worth = digit_patches(batch.masks) + ink / 2
    else:
        raise ValueError(f"rule must be 'random', 'ink' or 'told'; got {rule!r}")
    return torch.zeros_like(ink, dtype=torch.bool).scatter(1, worth.topk(patches, 1).indices, True)


class Ruled(nn.Module):
    """The start, in which so many patches go on after layer 1, chosen by a rule."""

    def __init__(self, vit: ViT, rule: str, patches: int, seed: int) -> None:
        super().__init__()
        self.inner, self.rule, self.patches = Thinned(vit, _no_rule), rule, patches
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, batch: ClutteredDigits) -> Tensor:
        """Logits."""
        logits: Tensor = self.inner(batch.images, stays(self.rule, batch, self.patches, self.generator))
        return logits


def _no_rule(images: Tensor) -> Tensor:
    raise AssertionError("who stays is told")


def logits_of(model: nn.Module, batch: ClutteredDigits) -> Tensor | Halted:
    """What a model says, whatever it takes."""
    said: Tensor | Halted = model(batch if isinstance(model, Ruled) else batch.images)
    return said


class Heard(AdaptiveViT):
    """Trained so that the cross-entropy reaches the scores of patches. What it computes is the same.

    In training the scores that a running patch has spent so far are subtracted from the logits of all who attend to it,
    and added again without a gradient. So where attention to a patch helps, its scores fall; where it harms, they rise.
    Without this, a patch's score has the gradient of the ponder alone.
    """

    def forward(self, images: Tensor, **given: Any) -> Halted:
        """As the class's own; with gradients, they reach the scores."""
        if not torch.is_grad_enabled() or given:
            return super().forward(images, **given)
        x, clock = self._start(images, None, None)
        answer = torch.zeros_like(x[:, 0])
        for layer, block in enumerate(self.backbone.blocks):
            running = clock.running
            spent = clock.total - clock.total.detach()
            keys = torch.where(running | ~running[:, :1], -spent, -torch.inf)
            x = torch.where(running[..., None], _biased(block, x, keys), x)  # type: ignore[arg-type]
            p = clock.tick(layer, self._score(x))
            answer = answer + p[:, :1] * x[:, 0]
        return clock.result(self.backbone.readout(answer[:, None]))


def _biased(block: Block, x: Tensor, keys: Tensor) -> Tensor:
    """A layer in which a number, [batch, keys], is added to the logits of all who attend to a key."""
    attention = block.attention
    query, key, value = (
        part.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for part in attention.query_key_value(block.norm1(x)).chunk(3, -1)
    )
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=keys[:, None, None].expand(-1, 1, x.shape[1], -1)
    )
    x = x + attention.output(mixed.transpose(1, 2).flatten(2))
    return x + block.feed_forward(block.norm2(x))


ARMS: dict[str, dict[str, Any]] = {
    "halting": {"does": "tokens halt by their scores, and the ponder is paid for", "ponder": 0.1},
    "heard": {"does": "as halting, and the cross-entropy reaches the scores of patches", "ponder": 0.1},
    "ink": {"does": "after layer 1 the patches with the most ink go on"},
    "random": {"does": "as many go on, drawn anew in each step"},
    "plain": {"does": "all layers for all tokens"},
    "told": {"does": "as many go on, those of the digit first: the masks tell"},
    "half the layers": {"does": "three layers for all tokens"},
    "prior": {"does": "as halting, with the depth prior besides", "ponder": 0.1, "prior": 0.1, "target": 2.5},
}
PIXELS = (1, 4, 8)
"""So many of a patch's 16 pixels, at least, have ink of the digit."""
HALTING = [arm for arm, settings in ARMS.items() if "ponder" in settings]
MATCHED = ("halting", "heard")
"""The rules may spend as much as the dearer of these."""


def objective(model: nn.Module, arm: str, seed: int) -> Callable[[int], Tensor]:
    """The loss of a step: cross-entropy, and what the arm adds; the same images for all arms of a seed."""
    settings = ARMS[arm]

    def loss(step: int) -> Tensor:
        batch = _stream(2 + seed, SETTINGS["batch"], step)
        said = logits_of(model, batch)
        if not isinstance(said, Halted):
            return F.cross_entropy(said, batch.labels)
        value = F.cross_entropy(said.logits, batch.labels) + settings["ponder"] * ponder_loss(said)
        if "prior" in settings:
            value = value + settings["prior"] * depth_prior_loss(said, settings["target"])
        return value

    return loss


@torch.no_grad()
def judge(model: nn.Module, test: ClutteredDigits) -> dict[str, Any]:
    """Accuracy; and of tokens that halt, how deep they go and how well that finds the digit.

    Depths are means in layers. "auc" is of all pairs of patches, "auc of an image" the mean of those within one image.
    "auc by pixels" leaves out patches that have some ink of the digit, but in fewer than so many pixels.
    """
    parts = [_part(test, at, at + 250) for at in range(0, len(test), 250)]
    results: list[Tensor | Halted] = []
    for part in parts:
        results.append(model.predict(part.images) if isinstance(model, AdaptiveViT) else logits_of(model, part))
    logits = torch.cat([result.logits if isinstance(result, Halted) else result for result in results])
    row: dict[str, Any] = {"accuracy": (logits.argmax(-1) == test.labels).double().mean().item()}
    depths = [result.depth for result in results if isinstance(result, Halted)]
    if not depths:
        return row
    depth = torch.cat(depths)
    patches, digit = depth[:, 1:], digit_patches(test.masks)
    pixels = (16 * F.avg_pool2d(test.masks[:, None].double(), 4)).flatten(1).round().long()
    each = [depth_auc(one, where) for one, where in zip(patches, digit, strict=True)]
    return row | {
        "depth": {
            "patches": patches.double().mean().item(),
            "digit": patches[digit].double().mean().item(),
            "hatching": patches[~digit].double().mean().item(),
            "class token": depth[:, 0].double().mean().item(),
        },
        "share of patches by depth": {
            name: (torch.bincount(patches[where], minlength=7)[1:] / where.sum()).tolist()
            for name, where in (("digit", digit), ("hatching", ~digit))
        },
        "auc": depth_auc(patches, digit),
        "auc of an image": sum(each) / len(each),
        "auc by pixels": [_auc_from(least, patches, pixels) for least in PIXELS],
        "depth by pixels": [patches[pixels == number].double().mean().item() for number in range(17)],
        "shown": patches[:SHOWN].tolist(),
    }


def _auc_from(least: int, depth: Tensor, pixels: Tensor) -> float:
    """The AUC of patches with at least so many pixels of the digit, against those with none."""
    some = (pixels == 0) | (pixels >= least)
    return depth_auc(depth[some], pixels[some] > 0)


def _part(batch: ClutteredDigits, start: int, end: int) -> ClutteredDigits:
    values = (batch.images, batch.labels, batch.masks, batch.difficulty)
    return ClutteredDigits(*(value[start:end] for value in values))


@torch.no_grad()
def flops(model: nn.Module, batch: ClutteredDigits) -> float:
    """Of these images, a multiply-add being two."""
    if isinstance(model, AdaptiveViT):
        return float(count(partial(model.predict, batch.images)).flops)
    return float(count(partial(logits_of, model, batch)).flops)


def run(
    seed: int, arm: str, *, start: ViT, feature: int, test: ClutteredDigits, checkpoints: Path, found: dict[str, Any]
) -> dict[str, Any]:
    """Train an arm and test it. How many patches a rule may keep follows from what was found of the same seed."""
    some, few = _part(test, 0, COUNTED), hatched_digits(SETTINGS["choice"]["images"], split="train", seed=10**6 - 1)
    vit, patches = load("digits_vit"), None
    vit.load_state_dict(start.state_dict())
    model: nn.Module = vit
    if arm in HALTING:
        kind = Heard if arm == "heard" else AdaptiveViT
        model = _halting(start, feature, score=SETTINGS["score"], gamma=SETTINGS["gamma"], images=few.images, kind=kind)
    elif arm == "half the layers":
        vit.blocks = vit.blocks[: len(vit.blocks) // 2]
    elif arm != "plain":
        rows = [row for row in found["runs"] if row["seed"] == seed and row["arm"] in MATCHED]
        patches = least_patches(vit, max(row["share of FLOPs"] for row in rows))
        model = Ruled(vit, arm, patches, seed)
    train(
        model,
        objective(model, arm, seed),
        checkpoint=checkpoints / f"{arm}-{seed}.pt",
        description=f"{arm}, seed {seed}",
        **SETTINGS["training"],
    )
    row = {"share of FLOPs": flops(model.eval(), some) / flops(start, some), **judge(model, test)}
    return row | ({"patches": patches} if patches is not None else {})


def least_patches(vit: ViT, share: float) -> int:
    """How many patches must go on after layer 1 to cost at least a share of the dense FLOPs."""
    one = hatched_digits(1)
    dense, most = flops(vit, one), one.images.shape[-1] ** 2 // 16
    for patches in range(1, most):
        if flops(Ruled(vit, "ink", patches, 0), one) >= share * dense:
            return patches
    return most


def finds(start: ViT, feature: int, test: ClutteredDigits) -> dict[str, Any]:
    """What tells the digit's patches before any training for halting: AUCs, and the accuracy of the start."""
    digit, ink = digit_patches(test.masks), F.avg_pool2d(test.images, 4).flatten(1)
    swapped = load("digits_vit")
    swapped.load_state_dict(start.state_dict())
    swap_features(swapped, 0, feature)
    first = _first(swapped, test.images[: COUNTED * 4])

    def auc(values: Tensor, where: Tensor) -> float:
        return depth_auc(values.unique(return_inverse=True)[1], where)

    return {
        "accuracy": judge(start, test)["accuracy"],
        "share of patches with digit": digit.double().mean().item(),
        "auc of the ink": auc(ink, digit),
        "auc of the feature": [auc(-layer, digit[: len(first)]) for layer in first.unbind(1)],
    }


def main() -> None:
    """Run what is missing and write the file after every run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.avit_hatched_study", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints/avit_hatched_study"), help="of the runs")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = {**head("avit_hatched_study"), "settings": SETTINGS, "arms": ARMS, "test images": TEST, "counted": COUNTED}
    results = Results(RESULTS, made, digits=5)
    test = hatched_digits(TEST, split="test", seed=0)
    kept: list[ViT] = []

    def start() -> ViT:
        kept[:] = kept or [begin(options.checkpoints)]
        return kept[0]

    feature = results.once("features", lambda: choose(start()))["chosen"]
    results.once("start", lambda: finds(start(), feature, test))
    plan = [{"seed": seed, "arm": arm} for seed in range(options.seeds) for arm in ARMS]
    given = {"feature": feature, "test": test, "checkpoints": options.checkpoints}
    for row in results.sweep(plan, lambda **case: run(**case, **given, start=start(), found=results.found)):
        print(f"{row['arm']:16} {row['seed']} {row['accuracy']:.3f} {row['share of FLOPs']:.3f} {row.get('auc', '')}")


if __name__ == "__main__":
    main()
