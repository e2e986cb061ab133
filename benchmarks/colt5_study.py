"""Needles in noise: learned against fixed routing at the same cost, and against dense readers; written to a JSON file.

``python -m benchmarks.colt5_study`` trains every arm with every seed, some 20 seconds each on one idle core. Call it
again after an interruption: what is in the file already is not run again. Lecture 06 reads the file.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.backbone import Block
from dynlib.cost import count, interval
from dynlib.data import Needles, needles
from dynlib.deciding import record
from dynlib.tokens.colt5 import ConditionalAttention, Router
from dynlib.tokens.local_attention import LocalGlobalBlock
from dynlib.training import train
from dynlib.zoo.needles import NeedleReader, reading_loss

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = range(5)
TEST, FEW = 2000, 250  # sequences of the final test, and of those on the way
EVERY = 24  # steps
SETTINGS: dict[str, Any] = {
    "length": 64,
    "needles": 4,
    "batch": 48,
    "narrowing": {"hold": 0.3, "end": 0.7},
    "model": {"dim": 32, "depth": 1, "heads": 4, "window": 8, "light": 32, "heavy": 128, "capacity": 1 / 16},
    "training": {"steps": 240, "lr": 8e-3, "weight_decay": 0.01},
}
ARMS = {
    "learned": "all three routers learned",
    "even": "all three evenly spaced",
    "never wide": "learned, but as few tokens from the first step on",
    "even keys": "who is asked is evenly spaced",
    "even queries": "who asks is evenly spaced",
    "even feed-forward": "the feed-forward router is evenly spaced",
    "one for both": "one vector scores who asks and who is asked",
    "all": "all tokens routed, always",
    "anchored": "all three evenly spaced, from the question on",
    "full": "dense, full attention",
    "local and global": "dense, local and global attention",
    "narrow": "dense, full attention, fewer features",
}
DENSE: dict[str, dict[str, Any]] = {
    "full": {"dim": 32, "heads": 4},
    "local and global": {"dim": 32, "heads": 4, "window": 8, "span": 8},
    "narrow": {"dim": 16, "heads": 4, "hidden": 40},
}
"""The block of a reader that routes nothing. The narrow one has the FLOPs of learned routing."""
EVEN = {
    "even": ("query_router", "key_router", "feed_forward.router"),
    "even keys": ("key_router",),
    "even queries": ("query_router",),
    "even feed-forward": ("feed_forward.router",),
}


def build(arm: str, seed: int) -> NeedleReader:
    """The untrained model of an arm; those of a seed begin with the same weights."""
    torch.manual_seed(seed)
    if arm in DENSE:
        model = NeedleReader(**SETTINGS["model"] | {"dim": DENSE[arm]["dim"]})
        model.blocks = nn.ModuleList([(LocalGlobalBlock if "span" in DENSE[arm] else Block)(**DENSE[arm])])
        return model
    model = NeedleReader(**SETTINGS["model"])
    for name, router in model.named_modules():
        if isinstance(router, Router):
            router.routing = "even" if name.endswith(EVEN.get(arm, ())) else "learned"
            router.routing = "anchored" if arm == "anchored" else router.routing
            router.capacity = 1 if arm == "all" else router.capacity
    if arm == "one for both":
        for part in model.modules():
            if isinstance(part, ConditionalAttention):
                part.key_router.score = part.query_router.score
    return model


def drawn(**options: Any) -> Needles:
    """Sequences as long as the settings say."""
    return needles(length=SETTINGS["length"], needles=SETTINGS["needles"], **options)


@torch.no_grad()
def measure(model: NeedleReader, test: Needles) -> dict[str, Any]:
    """Accuracy and loss, and of each router: whom it chose.

    "needles": the share of all needles that it routed. "question": how often it routed the question, and "answer" the
    needle that answers it. "routed": the share of the routed that are needles.
    """
    logits, chosen = [], []
    routes = any(isinstance(part, Router) for part in model.modules())
    for tokens in test.tokens.split(FEW):
        recorder: AbstractContextManager[dict[str, list[Any]]] = record(model, Router) if routes else nullcontext({})
        with recorder as routed:
            logits.append(model(tokens))
        chosen.append({name: each.mask for name, (each,) in routed.items()})
    said = torch.cat(logits)
    rows = torch.arange(len(test))
    routers = {}
    for name in chosen[0]:
        mask = torch.cat([each[name] for each in chosen])
        hit = (mask & test.masks).sum().item()
        routers[name] = {
            "needles": hit / test.masks.sum().item(),
            "routed": hit / mask.sum().item(),
            "question": mask[:, 0].double().mean().item(),
            "answer": mask[rows, test.places].double().mean().item(),
        }
    right = (said.argmax(-1) == test.labels).double().mean().item()
    return {"accuracy": right, "loss": F.cross_entropy(said, test.labels).item(), "routers": routers}


def run(arm: str, seed: int) -> dict[str, Any]:
    """Train one model and test it, on the way with fewer sequences and the capacities of that step."""
    model, training = build(arm, seed), SETTINGS["training"]
    shrink = arm not in ("never wide", "all", *DENSE)
    loss = reading_loss(
        model,
        steps=training["steps"],
        batch=SETTINGS["batch"],
        seed=1 + seed,
        **SETTINGS["narrowing"],
        shrink=shrink,
        length=SETTINGS["length"],
        needles=SETTINGS["needles"],
    )
    few, course = drawn(count=FEW, split="test", seed=1), []

    def watched(step: int) -> torch.Tensor:
        if step % EVERY == 0:
            course.append({"step": step, "accuracy": measure(model, few)["accuracy"]})
        return loss(step)

    start = time.perf_counter()
    train(model, watched, description=f"{arm}, seed {seed}", **training)
    seconds = time.perf_counter() - start
    model.eval()
    flops = count(model, few.tokens[:1]).flops
    found = measure(model, drawn(count=TEST, split="test", seed=0))
    return {"flops": flops, "seconds": seconds, **found, "course": course}


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean accuracy of each arm with half the width of its 95 % interval, and the same of what learned routing gains.

    The gain is paired: runs of one seed begin with the same weights and read the same sequences. An arm with a seed
    missing is left out.
    """
    accuracy = {(row["arm"], row["seed"]): row["accuracy"] for row in runs}
    rows = []
    for arm, meaning in ARMS.items():
        if not all((each, seed) in accuracy for each in (arm, "learned") for seed in SEEDS):
            continue
        values = [accuracy[arm, seed] for seed in SEEDS]
        gains = [accuracy["learned", seed] - accuracy[arm, seed] for seed in SEEDS]
        row = {"arm": arm, "meaning": meaning, "flops": next(row["flops"] for row in runs if row["arm"] == arm)}
        for name, each in (("accuracy", values), ("gain", gains)):
            spread = interval(each)
            row |= {name: spread.mean, f"{name} half": spread.half}
        rows.append(row)
    return rows


def main() -> None:
    """Run what is missing and write the file after every run."""
    torch.set_num_threads(1)
    made = {**head("colt5_study"), "settings": SETTINGS, "dense": DENSE, "seeds": list(SEEDS), "test sequences": TEST}
    results = Results(RESULTS, made, summary=lambda runs: {"summary": summary(runs)})
    for row in summary(results.sweep(({"arm": arm, "seed": seed} for arm in ARMS for seed in SEEDS), run)):
        print(f"{row['arm']:18} {row['accuracy']:.3f} ± {row['accuracy half']:.3f}, gain {row['gain']:+.3f}")


if __name__ == "__main__":
    main()
