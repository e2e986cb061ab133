"""The zoo's digit reader made of adaptive computation modules, against static narrower ones; written to a JSON file.

``python -m benchmarks.acm_study`` converts ``digits_vit``, all feed-forward parts and the linear layers of all
attentions, distils the learners, trains the gates, and then trains the whole model on, once for each budget β and seed.
To compare with: *static* models with as many layers that have the share β of the neurons, the largest ones, and run
them all; they are distilled and trained on for as long on the same images; and *budget alone*, without the losses that
keep the choices apart. Interrupt and call it again to resume. ``--pilot`` runs a small part of it into another file.

Accuracies are those on held-out images in evaluation mode, without noise. A share of FLOPs is counted, over those of
``digits_vit``, gates included.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.cost import count
from dynlib.data import ClutteredDigits, cluttered_digits
from dynlib.deciding import record
from dynlib.training import train
from dynlib.width import AdaptiveComputationModule, acm_loss, acmize, distill, prefix_errors, pretrain_gates
from dynlib.width.acm_conversion import acm_layers
from dynlib.zoo import load
from dynlib.zoo.scores import depth_auc, digit_patches

RESULTS = Path(__file__).with_suffix(".json")
LEARNERS, TWENTIETHS = 4, 20
LINEAR = ("query_key_value", "attention.output")
SETTINGS: dict[str, Any] = {
    "budgets": [0.25, 0.4, 0.6, 0.75],
    "seeds": 3,
    "distil": {"steps": 2000, "lr": 2e-3},
    "gates": {"steps": 300, "lr": 1e-2},
    "tune": {"steps": 3000, "lr": 5e-4},
    "weights": {"budget_weight": 1.0, "entropy_weight": 0.05, "diversity_weight": 0.05},
    "batch": 64,
    "test images": 5000,
}
PILOT: dict[str, Any] = {
    **SETTINGS,
    "budgets": [0.25, 0.6],
    "seeds": 1,
    "distil": {"steps": 80, "lr": 2e-3},
    "gates": {"steps": 20, "lr": 1e-2},
    "tune": {"steps": 60, "lr": 5e-4},
    "batch": 32,
    "test images": 1000,
}
ARMS = ("acm", "static", "budget alone")


def images_of(seed: int, batch: int) -> Callable[[int], ClutteredDigits]:
    """A stream of training images, by the number of a step, that the zoo's model was not trained on."""
    return lambda step: cluttered_digits(batch, split="train", seed=10**7 * (1 + seed) + step)


def converted(seed: int, settings: dict[str, Any], checkpoints: Path, *, static: float | None = None) -> nn.Module:
    """The zoo's model in learners that were distilled, with gates that were trained; read, where it was made before.

    Args:
        seed, settings, checkpoints: of the study.
        static: a share of the neurons; all modules are then one learner of so many, and there are no gates to train.
    """
    teacher = load("digits_vit")
    torch.manual_seed(seed)
    model = acmize(copy.deepcopy(teacher), learners=TWENTIETHS if static else LEARNERS, linear=LINEAR)
    name = f"acm-{seed}"
    if static:
        narrow(model, static)
        name = f"static-{static}-{seed}"
    stream = images_of(seed, settings["batch"])

    def batches(step: int) -> Tensor:
        return stream(step).images

    distill(model, teacher, batches, **settings["distil"], checkpoint=checkpoints / f"{name}-learners.pt")
    if not static:
        pretrain_gates(model, teacher, batches, **settings["gates"], checkpoint=checkpoints / f"{name}-gates.pt")
    return model


@torch.no_grad()
def narrow(model: nn.Module, share: float) -> None:
    """Leave each module the first neurons, in one learner that always runs; in place."""
    for name, layer in list(acm_layers(model).items()):
        wide = round(share * TWENTIETHS) * layer.each
        small = AdaptiveComputationModule(layer.dim, wide, out=layer.out, learners=1, fixed=1)
        for weight in ("expand", "bias", "contract"):
            getattr(small, weight).copy_(getattr(layer, weight)[:wide])
        outer, _, last = name.rpartition(".")
        setattr(model.get_submodule(outer), last, small)


def run(
    arm: str, budget: float, seed: int, *, settings: dict[str, Any], test: ClutteredDigits, checkpoints: Path
) -> dict[str, Any]:
    """One model, trained on and judged."""
    static = arm == "static"
    model = converted(seed, settings, checkpoints, static=budget if static else None)
    weights = dict(settings["weights"])
    if arm == "budget alone":
        weights |= {"entropy_weight": 0.0, "diversity_weight": 0.0}
    stream = images_of(100 + seed, settings["batch"])

    def loss(step: int) -> Tensor:
        batch = stream(step)
        with record(model, AdaptiveComputationModule) as records:
            task = F.cross_entropy(model(batch.images), batch.labels)
        return task if static else task + acm_loss(records, budget=budget, **weights).total

    checkpoint = checkpoints / f"{arm}-{budget}-{seed}.pt"
    train(model, loss, **settings["tune"], weight_decay=0.0, checkpoint=checkpoint, description=checkpoint.stem)
    return judge(model, test)


@torch.no_grad()
def judge(model: nn.Module, test: ClutteredDigits) -> dict[str, Any]:
    """Accuracy, what it costs, and who gets the learners.

    A patch's compute is the sum of k p over the modules, as a share of the most that it could be. ``auc`` says how well
    it tells patches of the digit from all others; ``auc of an image`` is the mean of those within one image, with their
    standard deviation.
    """
    model.eval()
    said, shares, variances, between = [], [], [], []
    for images in test.images.split(500):
        with record(model, AdaptiveComputationModule) as records:
            said.append(model(images).argmax(-1))
        all_ = [one for some in records.values() for one in some]
        most = sum(one.of * one.flops for one in all_)
        shares.append(torch.stack([one.learners.double() * one.flops for one in all_]).sum(0) / most)
        k = torch.stack([one.learners.double() / one.of for one in all_])  # [modules, images, tokens]
        variances.append(k.flatten(1).var(1, correction=0))
        between.append(k.mean(2).var(1, correction=0))
    right, share = torch.cat(said) == test.labels, torch.cat(shares)
    patches, digit = share[:, 1:], digit_patches(test.masks)
    ink = F.max_pool2d(test.images, 4).flatten(1) > 0
    order = (patches * 10**6).round().long()
    varies = bool((order != order[0, 0]).any())
    some = test.images[:256]
    row: dict[str, Any] = {
        "accuracy": right.double().mean().item(),
        "share of FLOPs": count(model, some).flops / count(load("digits_vit"), some).flops,
        "share of learners": share.mean().item(),
        "variance over tokens": torch.stack(variances).mean().item(),
        "variance over images": torch.stack(between).mean().item(),
        "share of": {
            "class token": share[:, 0].mean().item(),
            "digit": patches[digit].mean().item(),
            "fragments": patches[~digit & ink].mean().item(),
            "paper": patches[~digit & ~ink].mean().item(),
        },
    }
    if varies:
        each = torch.tensor([depth_auc(one, where) for one, where in zip(order, digit, strict=True)]).double()
        row["auc"] = depth_auc(order, digit)
        row["auc against fragments"] = depth_auc(order[digit | ink], digit[digit | ink])
        row["auc of an image"] = [each.mean().item(), each.std().item()]
    return row


def errors(settings: dict[str, Any], checkpoints: Path) -> dict[str, Any]:
    """What each prefix misses of what the teacher's layer gives, module by module, before and after distillation."""
    teacher = load("digits_vit")
    batch = cluttered_digits(256, split="test", seed=1).images
    torch.manual_seed(0)
    start = acmize(copy.deepcopy(teacher), learners=LEARNERS, linear=LINEAR)
    end = converted(0, settings, checkpoints)
    return {"before": prefix_errors(start, teacher, batch), "after": prefix_errors(end, teacher, batch)}


def plan(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The cases, seed by seed; the losses are left out at one budget alone."""
    return [
        {"arm": arm, "budget": budget, "seed": seed}
        for seed in range(settings["seeds"])
        for arm in ARMS
        for budget in ([0.4] if arm == "budget alone" else settings["budgets"])
    ]


def main() -> None:
    """Run everything and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.acm_study", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints/acm_study"), help="of the runs")
    parser.add_argument("--pilot", type=Path, help="run a small part of it, one seed, and write this file instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings, path, folder = SETTINGS, RESULTS, options.checkpoints
    if options.pilot:
        settings, path, folder = PILOT, options.pilot, options.checkpoints / "pilot"
    test = cluttered_digits(settings["test images"], split="test", seed=0)
    made = {**head("acm_study"), "settings": {**settings, "learners": LEARNERS, "linear": list(LINEAR)}}
    results = Results(path, made, digits=5)
    results.once("errors", partial(errors, settings, folder))
    results.once("digits_vit", lambda: _plain(test))
    rows = results.sweep(plan(settings), partial(run, settings=settings, test=test, checkpoints=folder))
    for row in rows:
        print({key: row.get(key) for key in ("arm", "budget", "seed", "accuracy", "share of FLOPs", "auc")})


@torch.no_grad()
def _plain(test: ClutteredDigits) -> float:
    """The accuracy of the model that is converted."""
    model = load("digits_vit")
    said = torch.cat([model(images).argmax(-1) for images in test.images.split(500)])
    return (said == test.labels).double().mean().item()


if __name__ == "__main__":
    main()
