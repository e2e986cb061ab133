"""Mixture of depths where depth is worth something: chains to follow, strewn among letters; written to a JSON file.

``python -m benchmarks.mixture_of_depths_hard_study`` trains every arm with every seed. Call it again after an
interruption: what is in the file already is not run again. A seed takes some two minutes of one idle core. Lecture 07
reads the file.

A sequence holds a few *names*, at places that are drawn anew, each with the name that it points to
(:mod:`dynlib.data.chains`); the model must say of each name where its chain ends. One layer sees two hops, and a stack
that doubles its reach with every layer needs ⌈log₂(hops)⌉ of them. All other tokens are *letters*, each of which has a
letter for an answer by one fixed table: no layer is needed. A mark in its embedding tells a name from a letter, and as
many tokens may run in a layer of a mixture as there are names.

All models see the same sequences in the same order, for as many steps; a letter's loss weighs a tenth of a name's. In a
mixture every layer is a mixture of depths, where the paper has every other one: dense layers between would follow the
chains by themselves. Its capacity begins at 1 and narrows, as in unit 06, because a block hears of chosen tokens alone.
Weights are σ(r), which is never negative; the last arm has r itself, as the paper. What is counted is a forward pass at
the final capacity, a multiply-add being 2 FLOPs.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.backbone import Block
from dynlib.cost import count
from dynlib.data import chains
from dynlib.deciding import record
from dynlib.tokens.colt5 import narrow
from dynlib.tokens.mixture_of_depths import MixtureOfDepths, Routing, Weight
from dynlib.training import train

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = range(8)
TEST = 1000
SETTINGS: dict[str, Any] = {
    "length": 64,
    "names": 8,
    "ends": 2,
    "letters": 8,
    "letters weigh": 0.1,
    "hard": 3,
    "batch": 32,
    "narrowing": {"hold": 0.3, "end": 0.55},
    "model": {"dim": 32, "heads": 2, "hidden": 64},
    "depth": 6,
    "training": {"steps": 750, "lr": 4e-3, "weight_decay": 0.01},
}
ARMS = {
    "dense": "all layers for all tokens",
    "top-k": "every layer runs for the tokens that its router likes best, weighted by σ(r)",
    "oracle": "as top-k, but who is a name is told",
    "random": "who runs is drawn, and the weight is the router's",
    "gaussian": "a normal number is drawn for each token: the largest run, weighted by it",
    "equal": "dense, one layer: more FLOPs than the mixtures have",
    "top-k, linear": "as top-k, weighted by r itself",
}


ROUTED: dict[str, tuple[Routing, Weight]] = {
    "top-k": ("top_k", "sigmoid"),
    "random": ("random", "sigmoid"),
    "gaussian": ("gaussian", "linear"),
    "top-k, linear": ("top_k", "linear"),
}


class Strewn(NamedTuple):
    """Names among letters."""

    names: Int[Tensor, "batch length"]
    """A name, or 0 at a letter's place."""
    points_to: Int[Tensor, "batch length"]
    letters: Int[Tensor, "batch length"]
    """A letter, or 0 at a name's place."""
    is_name: Bool[Tensor, "batch length"]
    answers: Int[Tensor, "batch length"]
    """The end of a name's chain; of a letter, ``names`` plus the letter that the table gives."""
    hops: Int[Tensor, "batch length"]
    """How far away the end is; −1 at a letter's place."""


def strewn(number: int, *, split: str = "train", seed: int = 0) -> Strewn:
    """Sequences; the same seed gives the same ones."""
    length, names, letters = (SETTINGS[key] for key in ("length", "names", "letters"))
    drawn = chains(number, names=names, ends=SETTINGS["ends"], split="test" if split == "test" else "train", seed=seed)
    generator = torch.Generator().manual_seed(2 * seed + (split == "test"))
    places = torch.rand(number, length, generator=generator).topk(names, 1).indices
    letter = torch.randint(letters, (number, length), generator=generator)
    table = torch.randperm(letters, generator=torch.Generator().manual_seed(0))  # one table, whatever the seed
    is_name = torch.zeros(number, length, dtype=torch.bool).scatter(1, places, True)

    def spread(values: Tensor, others: Tensor) -> Tensor:
        return others.scatter(1, places, values)

    nothing = torch.zeros_like(letter)
    return Strewn(
        spread(drawn.names, nothing),
        spread(drawn.points_to, nothing),
        letter.masked_fill(is_name, 0),
        is_name,
        spread(drawn.ends, names + table[letter]),
        spread(drawn.hops, nothing - 1),
    )


class Told(nn.Module):
    """A layer that runs for the tokens that it is told, with the weight of a router: a mixture of depths that knows."""

    def __init__(self, block: Block, dim: int) -> None:
        super().__init__()
        self.block, self.router = block, nn.Linear(dim, 1, bias=False)
        nn.init.normal_(self.router.weight, std=dim**-0.5)

    def forward(self, x: Float[Tensor, "b n d"], chosen: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The tokens, with the weighted update added to the chosen ones: as many in each sequence."""
        where = chosen.nonzero()[:, 1].view(len(x), -1)
        spread = where[..., None].expand(-1, -1, x.shape[-1])
        taken = x.gather(1, spread)
        return x.scatter_add(1, spread, self.router(taken).sigmoid() * self.block.update(taken))


class Reader(nn.Module):
    """Names and letters in, logits of their answers out."""

    def __init__(self, arm: str) -> None:
        super().__init__()
        dim, names, letters = SETTINGS["model"]["dim"], SETTINGS["names"], SETTINGS["letters"]
        depth = 1 if arm == "equal" else SETTINGS["depth"]
        self.name, self.points_to, self.letter = (nn.Embedding(size, dim) for size in (names, names, letters))
        self.kind = nn.Embedding(2, dim)  # a letter, or a name: what a router has to find
        for table in (self.name, self.points_to, self.letter, self.kind):
            nn.init.normal_(table.weight, std=0.5)
        blocks = [Block(**SETTINGS["model"]) for _ in range(depth)]
        if arm in ROUTED:
            capacity = names / SETTINGS["length"]
            routing, weight = ROUTED[arm]
            self.blocks = nn.ModuleList(
                MixtureOfDepths(block, capacity, routing=routing, weight=weight) for block in blocks
            )
        elif arm == "oracle":
            self.blocks = nn.ModuleList(Told(block, dim) for block in blocks)
        else:
            self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, names + letters)

    def forward(self, given: Strewn) -> Float[Tensor, "batch length classes"]:
        """Logits: of all names, then of all letters."""
        of_names = self.name(given.names) + self.points_to(given.points_to)
        x = torch.where(given.is_name[..., None], of_names, self.letter(given.letters))
        x = x + self.kind(given.is_name.long())
        for block in self.blocks:
            x = block(x, given.is_name) if isinstance(block, Told) else block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


@torch.no_grad()
def measure(model: Reader, test: Strewn) -> dict[str, Any]:
    """Accuracy on names by hops, on the hard ones and on letters; and whom a mixture's routers took."""
    torch.manual_seed(0)  # of the draws
    mixed = any(isinstance(part, MixtureOfDepths) for part in model.modules())
    with record(model, MixtureOfDepths) if mixed else nullcontext() as routed:
        right = model(test).argmax(-1) == test.answers

    def share(mask: Tensor) -> float:
        return right[mask].double().mean().item()

    most = SETTINGS["names"] - SETTINGS["ends"]
    found: dict[str, Any] = {
        "hard": share(test.hops >= SETTINGS["hard"]),
        "by hops": [share(test.hops == hops) for hops in range(most + 1)],
        "letters": share(~test.is_name),
    }
    if routed:
        layers = [one for calls in routed.values() for one in calls]
        found["names among the routed"] = [test.is_name[one.mask].double().mean().item() for one in layers]
        scores = [one.scores for one in layers if one.scores is not None]
        for name, mask in (("names", test.is_name), ("letters", ~test.is_name)):
            found[f"r of {name}"] = [score[mask].mean().item() for score in scores]
    return found


def narrowed(model: nn.Module) -> Callable[[int], None]:
    """What sets the capacity of every mixture for a step: 1 at first, its own in the end."""
    return narrow(model, steps=SETTINGS["training"]["steps"], kind=MixtureOfDepths, **SETTINGS["narrowing"])


def run(arm: str, seed: int) -> dict[str, Any]:
    """Train one model and test it."""
    torch.manual_seed(seed)
    model = Reader(arm)
    set_capacity = narrowed(model)

    def loss(step: int) -> Tensor:
        set_capacity(step)
        given = strewn(SETTINGS["batch"], seed=seed * 10**6 + step)
        values = F.cross_entropy(model(given).mT, given.answers, reduction="none")
        return values[given.is_name].mean() + SETTINGS["letters weigh"] * values[~given.is_name].mean()

    start = time.perf_counter()
    train(model, loss, description=f"{arm}, seed {seed}", **SETTINGS["training"])
    seconds = time.perf_counter() - start
    set_capacity(SETTINGS["training"]["steps"])
    model.eval()
    test = strewn(TEST, split="test")
    flops = count(model, strewn(8, split="test")).flops / 8 / SETTINGS["length"]
    return {"flops": flops, "seconds": seconds, **measure(model, test)}


def main() -> None:
    """Run what is missing and write the file after every run."""
    torch.set_num_threads(1)
    made = {**head("mixture_of_depths_hard_study"), "settings": SETTINGS, "arms": ARMS, "test sequences": TEST}
    *main, last = ARMS
    plan = [{"arm": arm, "seed": seed} for arms in (main, [last]) for seed in SEEDS for arm in arms]
    for row in Results(RESULTS, made).sweep(plan, run):
        print(f"{row['arm']:9} {row['seed']} hard {row['hard']:.3f} letters {row['letters']:.3f} {row['flops']:.0f}")


if __name__ == "__main__":
    main()
