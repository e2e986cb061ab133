"""Symbols in noise: what CoLT5's feed-forward router is worth where an answer needs the heavy layer; to a JSON file.

``python -m benchmarks.colt5_heavy_study`` trains every arm with every seed, some 10 seconds each on one idle core. Call
it again after an interruption: what is in the file already is not run again. Lecture 06 reads the file.

A few tokens of a sequence hold two symbols each, at places that are drawn anew; all else is noise. What a pair says,
one of two answers, is looked up in a table that is drawn once, so that neither symbol alone tells it. It is asked at
the pair itself: one conditional feed-forward layer, no attention. As many tokens may get the heavy part as there are
pairs.

A head that reads the sum of what two symbols are worth is right on more than half of such a table without any layer.
That it shall not get further, every symbol is a feature of its own, and the head reads the tokens without a norm: a
norm divides by the length of a sum of two vectors, which holds their product, and so can look up pairs by itself.

The sizes were chosen in trials of one seed. With tables of 16 × 16, or of 32 × 32 in sequences of 64, where "wide" has
eleven features for its FLOPs, it learned the whole table. In a whole conditional block, with attention and learned
embeddings, evenly spaced heavy parts were nearly as good as routed ones on most tables that were tried.
"""

import time
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
from dynlib.tokens.colt5 import ConditionalFeedForward, Router, narrow
from dynlib.training import train

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = range(5)
TEST = 2000
SETTINGS: dict[str, Any] = {
    "length": 128,
    "pairs": 4,
    "symbols": 32,
    "noise": 64,
    "batch": 48,
    "narrowing": {"hold": 0.3, "end": 0.7},
    "model": {"dim": 64, "capacity": 1 / 32, "light": 2, "heavy": 64},
    "wide": 5,
    "training": {"steps": 1200, "lr": 5e-3, "weight_decay": 0.01},
}
ARMS = {
    "learned": "a router learns who gets the heavy part",
    "even": "as many tokens get it, evenly spaced",
    "wide": "nobody gets it, and the light part is wider for everybody, at no fewer FLOPs",
    "light": "nobody gets it",
    "all": "everybody gets it",
    "never wide": "learned, but as few tokens from the first step on",
}
PLAIN = {"light": SETTINGS["model"]["light"], "wide": SETTINGS["wide"]}
"""Hidden features of the layers that route nobody."""


class Strewn(NamedTuple):
    """Pairs of symbols among noise."""

    is_pair: Bool[Tensor, "batch length"]
    first: Int[Tensor, "batch length"]
    """The first symbol of a pair; which noise it is elsewhere."""
    second: Int[Tensor, "batch length"]
    """The second symbol; 0 in noise."""
    answers: Int[Tensor, "batch length"]
    """What a pair says, 0 or 1; 0 in noise, where nobody asks."""


def table() -> Int[Tensor, "symbols symbols"]:
    """What two symbols say: both answers equally often, and the same table whatever the seed."""
    symbols = SETTINGS["symbols"]
    order = torch.randperm(symbols**2, generator=torch.Generator().manual_seed(0))
    return (order % 2).view(symbols, symbols)


def strewn(number: int, *, split: str = "train", seed: int = 0) -> Strewn:
    """Sequences; the same seed gives the same ones."""
    length, pairs, symbols = (SETTINGS[key] for key in ("length", "pairs", "symbols"))
    generator = torch.Generator().manual_seed(2 * seed + (split == "test"))
    places = torch.rand(number, length, generator=generator).topk(pairs, 1).indices
    first, second = torch.randint(symbols, (2, number, pairs), generator=generator)
    noise = torch.randint(SETTINGS["noise"], (number, length), generator=generator)
    nothing = torch.zeros_like(noise)
    return Strewn(
        nothing.bool().scatter(1, places, True),
        noise.scatter(1, places, first),
        nothing.scatter(1, places, second),
        nothing.scatter(1, places, table()[first, second]),
    )


class Reader(nn.Module):
    """Pairs and noise in, logits of two answers out: one pre-norm feed-forward layer and a head."""

    def __init__(self, arm: str) -> None:
        super().__init__()
        dim, symbols = SETTINGS["model"]["dim"], SETTINGS["symbols"]
        if 2 * symbols > dim:
            raise ValueError(f"{2 * symbols} symbols in {dim} features: there must be one for each")
        self.register_buffer("features", 3.0 * torch.eye(dim)[: 2 * symbols].view(2, symbols, dim))
        self.noise, self.pair = nn.Embedding(SETTINGS["noise"], dim), nn.Parameter(torch.randn(dim))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 2)
        self.layer: nn.Module = ConditionalFeedForward(**SETTINGS["model"])
        if arm in PLAIN:
            self.layer = FeedForward(dim, PLAIN[arm])
        elif arm == "even":
            self.layer.router.routing = "even"
        elif arm == "all":
            self.layer.capacity = 1

    def forward(self, given: Strewn) -> Float[Tensor, "batch length answers"]:
        """Logits."""
        symbols = SETTINGS["symbols"]
        first, second = self.get_buffer("features")
        of_pair = first[given.first.clamp(max=symbols - 1)] + second[given.second] + self.pair
        x = torch.where(given.is_pair[..., None], of_pair, self.noise(given.first))
        logits: Tensor = self.head(x + self.layer(self.norm(x)))
        return logits


@torch.no_grad()
def measure(model: Reader, test: Strewn) -> dict[str, Any]:
    """Which pairs are answered rightly, and which share of the pairs got the heavy part."""
    if not isinstance(model.layer, ConditionalFeedForward):
        right, routed = model(test).argmax(-1) == test.answers, torch.zeros_like(test.is_pair)
    else:
        with record(model, Router) as records:
            right = model(test).argmax(-1) == test.answers
        ((one,),) = records.values()
        routed = one.mask
    return {
        "accuracy": right[test.is_pair].double().mean().item(),
        "pairs routed": routed[test.is_pair].double().mean().item(),
    }


def run(arm: str, seed: int) -> dict[str, Any]:
    """Train one model and test it."""
    torch.manual_seed(seed)
    model, training = Reader(arm), SETTINGS["training"]
    narrows = arm in ("learned", "even")
    set_capacity = narrow(model, steps=training["steps"], **SETTINGS["narrowing"]) if narrows else None

    def loss(step: int) -> Tensor:
        if set_capacity is not None:
            set_capacity(step)
        given = strewn(SETTINGS["batch"], seed=seed * 10**6 + step)
        return F.cross_entropy(model(given)[given.is_pair], given.answers[given.is_pair])

    start = time.perf_counter()
    train(model, loss, description=f"{arm}, seed {seed}", **training)
    seconds = time.perf_counter() - start
    if set_capacity is not None:
        set_capacity(training["steps"])
    model.eval()
    flops = count(model, strewn(8, split="test")).flops / 8 / SETTINGS["length"]
    return {"flops": flops, "seconds": seconds, **measure(model, strewn(TEST, split="test"))}


def main() -> None:
    """Run what is missing and write the file after every run."""
    torch.set_num_threads(1)
    made = {**head("colt5_heavy_study"), "settings": SETTINGS, "arms": ARMS, "test sequences": TEST}
    for row in Results(RESULTS, made).sweep(({"arm": arm, "seed": seed} for seed in SEEDS for arm in ARMS), run):
        print(f"{row['arm']:10} {row['seed']} right {row['accuracy']:.3f} for {row['flops']:.0f}")


if __name__ == "__main__":
    main()
