"""Loss against FLOPs on text where depth is worth something: the source of Python's library; in a JSON file.

``python -m benchmarks.mixture_of_depths_library_study`` takes half an hour of one core for a seed. Interrupt and call
again to resume. Lectures 07 and 18 read the file.

:mod:`benchmarks.mixture_of_depths_study` does the same with the pages behind ``help()``. They are half a million bytes,
which a small model soon knows by heart, and six layers are no better than three. Here are some eight million, which no
model of the study reads to the end: then they are. All models see the same windows in the same order, and differ in
what is said in ``KINDS`` alone. Those named *longer* go on until they have spent, over all of training, as many FLOPs
as six dense layers; they are compared at equal FLOPs of training, as the paper does, and all others at equal steps.
What is counted is a forward pass over windows of 128 bytes, a multiply-add being 2 FLOPs.
"""

import math
import sysconfig
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.mixture_of_depths_study import drawn_lm
from benchmarks.study import Results, checkpoint_folder, head
from dynlib.backbone import CausalLM
from dynlib.cost import count
from dynlib.data import encode, windows
from dynlib.deciding import setting
from dynlib.tokens.mixture_of_depths import MixtureOfDepths
from dynlib.training import train
from dynlib.zoo.recipes.mixtures import mixture_lm, mixture_lm_loss
from dynlib.zoo.recipes.small import SMALL, small_lm

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = range(4)
SETTINGS: dict[str, Any] = {
    "model": SMALL,
    "batch": [16, 128],
    "training": {"steps": 2000, "lr": 3e-3, "weight_decay": 0.1},
    "held-out windows": 2000,
}
NOT_READ = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data"}
"""Folders of the library that are left out: tests, tables, and what is not the library's own."""


class Kind(NamedTuple):
    """How a model is built, and whether it trains for the FLOPs of six dense layers in place of their steps."""

    build: Callable[..., CausalLM]
    changes: dict[str, Any]
    longer: bool = False


KINDS = {
    "dense, 6 layers": Kind(small_lm, {}),
    "dense, 3 layers": Kind(small_lm, {"depth": 3}),
    "top-k, 12.5 %": Kind(mixture_lm, {"capacity": 0.125}),
    "dense, 4 layers": Kind(small_lm, {"depth": 4}),
    "random, 12.5 %": Kind(drawn_lm, {"capacity": 0.125}),
    "gaussian, 12.5 %": Kind(drawn_lm, {"capacity": 0.125, "routing": "gaussian"}),
    "top-k, 12.5 %, longer": Kind(mixture_lm, {"capacity": 0.125}, longer=True),
    "dense, 3 layers, longer": Kind(small_lm, {"depth": 3}, longer=True),
}


@cache
def library(split: Literal["train", "test"]) -> Int[Tensor, " bytes"]:
    """The source of the Python that runs this, every tenth file to test with."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(
        path.relative_to(root)
        for path in root.rglob("*.py")
        if NOT_READ.isdisjoint(path.relative_to(root).parts) and not path.name.startswith("_sysconfigdata")
    )
    chosen = [path for i, path in enumerate(files) if (i % 10 == 0) == (split == "test")]
    return encode("\n\n".join((root / path).read_text(encoding="utf-8", errors="replace") for path in chosen))


def batches(seed: int) -> Callable[[int], Int[Tensor, "batch bytes"]]:
    """What is read in a step, by seed and step alone."""
    number, length = SETTINGS["batch"]

    def batch(step: int) -> Int[Tensor, "batch bytes"]:
        generator = torch.Generator().manual_seed(seed * 10**6 + step)
        return windows(library("train"), number, length + 1, generator=generator)

    return batch


def held_out() -> Int[Tensor, "windows bytes"]:
    """What all models are judged by."""
    generator = torch.Generator().manual_seed(0)
    return windows(library("test"), SETTINGS["held-out windows"], SETTINGS["batch"][1] + 1, generator=generator)


@torch.no_grad()
def bits(model: nn.Module) -> float:
    """Bits for a byte of held-out text, each predicted from those before it in its window."""
    texts = held_out()
    nats = sum(
        F.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
        for part in texts.split(50)
    )
    return nats / texts[:, 1:].numel() / math.log(2)


@torch.no_grad()
def flops_per_byte(model: nn.Module) -> float:
    """Counted on held-out text, as the model routes just now."""
    texts = held_out()[:32, :-1]
    return count(model, texts).flops / texts.numel()


def steps_of(kind: str) -> int:
    """As many as all, or those that cost as much as six dense layers do in as many as all."""
    build, changes, longer = KINDS[kind]
    steps: int = SETTINGS["training"]["steps"]
    if not longer:
        return steps
    flops = [flops_per_byte(one) for one in (small_lm(**SETTINGS["model"]), build(**SETTINGS["model"] | changes))]
    return round(steps * flops[0] / flops[1])


def measure(model: CausalLM) -> dict[str, float]:
    """Held-out bits and FLOPs a byte, of a learned mixture by its causal predictor too."""
    torch.manual_seed(0)  # of the draws
    found = {"flops": flops_per_byte(model), "bits": bits(model)}
    if any(isinstance(block, MixtureOfDepths) and block.routing == "top_k" for block in model.blocks):
        with setting(model, MixtureOfDepths, routing="predictor"):
            found |= {"flops_by_predictor": flops_per_byte(model), "bits_by_predictor": bits(model)}
    return found


def run(kind: str, seed: int, *, checkpoints: Path) -> dict[str, Any]:
    """Train one model and measure it."""
    torch.manual_seed(seed)
    build, changes, _ = KINDS[kind]
    model = build(**SETTINGS["model"] | changes)
    settings = SETTINGS["training"] | {"steps": steps_of(kind)}
    name = "".join(letter if letter.isalnum() else "_" for letter in kind)
    history = train(
        model,
        mixture_lm_loss(model, router=0.0, batches=batches(seed)),
        checkpoint=checkpoints / f"library_{name}_{seed}.pt",
        description=f"{kind}, seed {seed}",
        **settings,
    )
    return {"steps": settings["steps"], **measure(model.eval()), "seconds": history.seconds}


def plan() -> list[dict[str, Any]]:
    """All kinds, seed by seed."""
    return [{"kind": kind, "seed": seed} for seed in SEEDS for kind in KINDS]


def results() -> Results:
    """The file, with what it depends on."""
    sizes = {f"bytes to {split}": len(library(split)) for split in ("train", "test")}
    return Results(RESULTS, {**head("mixture_of_depths_library_study"), **SETTINGS, **sizes})


def main() -> None:
    """Read the command line and do what it says."""
    checkpoints = checkpoint_folder("mixture_of_depths_library_study", __doc__)
    torch.set_num_threads(1)
    for row in results().sweep(plan(), partial(run, checkpoints=checkpoints)):
        print(row)


if __name__ == "__main__":
    main()
