"""Needles in code: what CoLT5's feed-forward router is worth where an answer needs the heavy layer; to a JSON file.

``python -m benchmarks.colt5_code_study`` trains every arm with every seed, some 20 seconds each on one idle core. Call
it again after an interruption: what is in the file already is not run again. Lecture 06 reads the file.

A needle holds a slot and two symbols, and what it says is looked up for the two in a table that is drawn once, so that
neither symbol alone tells it. The question, which asks for a slot, stands anywhere, and the answer is read there. The
light layer has too few features for the table. Attention is the same in all arms: routed, by routers that learn. Apart
from that, arms differ in the feed-forward part alone. Evenly spaced places have the question among them as often as
their share of all places, and "wide" has no routing: a layer for everyone, of no fewer FLOPs than the two of the others.
"""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.backbone import FeedForward
from dynlib.cost import count
from dynlib.deciding import record
from dynlib.tokens.colt5 import ConditionalBlock, Router, narrow
from dynlib.training import train

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = range(5)
TEST = 2000
SETTINGS: dict[str, Any] = {
    "length": 64,
    "needles": 4,
    "slots": 8,
    "symbols": 8,
    "noise": 64,
    "batch": 48,
    "narrowing": {"hold": 0.4, "end": 0.7},
    "model": {"dim": 32, "heads": 4, "window": 8, "capacity": 1 / 16, "light": 4, "heavy": 128},
    "wide": 13,
    "training": {"steps": 400, "lr": 8e-3, "weight_decay": 0.01},
}
ARMS = {
    "learned": "a router learns who gets the heavy layer",
    "even": "as many tokens get it, evenly spaced",
    "light": "nobody gets it",
    "wide": "nobody gets it, and the light layer is as much wider",
    "all": "everybody gets it",
    "never wide": "learned, but as few tokens from the first step on",
}
PLAIN = {"light": SETTINGS["model"]["light"], "wide": SETTINGS["wide"]}
"""Features of a feed-forward layer that routes nobody."""


class Coded(NamedTuple):
    """Sequences with a question, needles and noise, in any order."""

    kinds: Int[Tensor, "batch length"]
    """0 is noise, 1 a needle, 2 the question."""
    slots: Int[Tensor, "batch length"]
    """Of needles and the question; 0 in noise."""
    symbols: Int[Tensor, "batch length 2"]
    """Of needles; 0 elsewhere."""
    noise: Int[Tensor, "batch length"]
    """Which kind of noise; not looked at elsewhere."""
    labels: Int[Tensor, " batch"]
    """What the needle in the slot that is asked for says."""


def table() -> Int[Tensor, "symbols symbols"]:
    """What two symbols say: each answer equally often, and the same table whatever the seed."""
    symbols = SETTINGS["symbols"]
    order = torch.randperm(symbols**2, generator=torch.Generator().manual_seed(0))
    return (order % symbols).view(symbols, symbols)


def coded(number: int, *, split: str = "train", seed: int = 0) -> Coded:
    """Sequences; the same seed gives the same ones."""
    length, needles, slots, symbols = (SETTINGS[key] for key in ("length", "needles", "slots", "symbols"))
    generator = torch.Generator().manual_seed(2 * seed + (split == "test"))
    places = torch.rand(number, length, generator=generator).topk(needles + 1, 1).indices
    held = torch.rand(number, slots, generator=generator).topk(needles, 1).indices
    asked = torch.randint(needles, (number, 1), generator=generator)
    says = torch.randint(symbols, (number, needles, 2), generator=generator)
    noise = torch.randint(SETTINGS["noise"], (number, length), generator=generator)
    kind = torch.ones_like(places)
    kind[:, 0] = 2  # the first of the places is the question's
    nothing = torch.zeros_like(noise)
    of_needles = nothing[..., None].expand(-1, -1, 2).scatter(1, places[:, 1:, None].expand(-1, -1, 2), says)
    rows = torch.arange(number)
    return Coded(
        nothing.scatter(1, places, kind),
        nothing.scatter(1, places, torch.cat([held.gather(1, asked), held], dim=1)),
        of_needles,
        noise,
        table()[says[rows, asked[:, 0], 0], says[rows, asked[:, 0], 1]],
    )


class Plain(FeedForward):
    """A feed-forward layer for everyone, in the place of a conditional one."""

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], *, key_mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """The mask is not needed: no token sees another."""
        return super().forward(x)


class Reader(nn.Module):
    """Sequences in, logits of what is said out; one conditional block, read at the question."""

    def __init__(self, arm: str) -> None:
        super().__init__()
        dim, symbols = SETTINGS["model"]["dim"], SETTINGS["symbols"]
        self.kind, self.slot = nn.Embedding(3, dim), nn.Embedding(SETTINGS["slots"], dim)
        self.first, self.second = nn.Embedding(symbols, dim), nn.Embedding(symbols, dim)
        self.noise = nn.Embedding(SETTINGS["noise"], dim)
        self.block = ConditionalBlock(**SETTINGS["model"])
        if arm in PLAIN:
            self.block.feed_forward = Plain(dim, PLAIN[arm])  # type: ignore[assignment]
        elif arm == "even":
            self.block.feed_forward.router.routing = "even"
        elif arm == "all":
            self.block.feed_forward.capacity = 1
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, symbols)

    def forward(self, given: Coded) -> Float[Tensor, "batch symbols"]:
        """Logits."""
        of_slot = self.slot(given.slots)
        of_needle = of_slot + self.first(given.symbols[..., 0]) + self.second(given.symbols[..., 1])
        kinds = given.kinds[..., None]
        x = torch.where(kinds == 0, self.noise(given.noise), torch.where(kinds == 1, of_needle, of_slot))
        x = self.block(x + self.kind(given.kinds))
        logits: Tensor = self.head(self.norm(x[given.kinds == 2]))
        return logits


@torch.no_grad()
def measure(model: Reader, test: Coded) -> dict[str, Any]:
    """Accuracy, and how often each router picked the question, the needle that is asked for, and any needle.

    "question" and "answer" are shares of the sequences, "needles" of all needles.
    """
    routes = any(isinstance(part, Router) for part in model.modules())
    with record(model, Router) if routes else nullcontext({}) as routed:
        right = model(test).argmax(-1) == test.labels
    asked = test.slots[test.kinds == 2][:, None]
    answer = (test.kinds == 1) & (test.slots == asked)
    routers = {
        name: {
            "question": each.mask[test.kinds == 2].double().mean().item(),
            "answer": each.mask[answer].double().mean().item(),
            "needles": each.mask[test.kinds == 1].double().mean().item(),
        }
        for name, (each,) in routed.items()
    }
    return {"accuracy": right.double().mean().item(), "routers": routers}


def run(arm: str, seed: int) -> dict[str, Any]:
    """Train one model and test it."""
    torch.manual_seed(seed)
    model, training = Reader(arm), SETTINGS["training"]
    parts: list[nn.Module] = [model.block.attention]
    if arm not in PLAIN and arm not in ("all", "never wide"):
        parts.append(model.block.feed_forward)
    narrows = [narrow(part, steps=training["steps"], **SETTINGS["narrowing"]) for part in parts]

    def loss(step: int) -> Tensor:
        for set_capacity in narrows:
            set_capacity(step)
        given = coded(SETTINGS["batch"], seed=seed * 10**6 + step)
        return F.cross_entropy(model(given), given.labels)

    start = time.perf_counter()
    train(model, loss, description=f"{arm}, seed {seed}", **training)
    seconds = time.perf_counter() - start
    for set_capacity in narrows:
        set_capacity(training["steps"])
    model.eval()
    flops = count(model, coded(8, split="test")).flops / 8
    return {"flops": flops, "seconds": seconds, **measure(model, coded(TEST, split="test"))}


def main() -> None:
    """Run what is missing and write the file after every run."""
    torch.set_num_threads(1)
    made = {**head("colt5_code_study"), "settings": SETTINGS, "arms": ARMS, "test sequences": TEST}
    for row in Results(RESULTS, made).sweep(({"arm": arm, "seed": seed} for seed in SEEDS for arm in ARMS), run):
        print(f"{row['arm']:10} {row['seed']} right {row['accuracy']:.3f} {row['flops']:.0f}")


if __name__ == "__main__":
    main()
