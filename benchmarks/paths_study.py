"""Cheapest paths learned from pictures: how many are perfect, by training maps, with the solver and without it.

``python -m benchmarks.paths_study`` takes about a quarter of an hour on one core, and leaves a JSON file that lecture
03 reads. Interrupt and call again to resume.

Every run learns from pictures of maps and the cheapest paths on them, never from a cost, and is judged on 500 other
maps: how many of its paths cost no more than the best, and how near the others come. ``ARMS`` says how it learns. All
go through their maps :data:`PASSES` times, so that more maps are also more steps, unless a case says otherwise.
"""

import argparse
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.choice import fenchel_young_loss
from dynlib.data import Terrain, path_cost, shortest_path, terrain
from dynlib.data.terrain import GROUNDS

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2, 3, 4)
MAPS = (250, 500, 1000, 2000, 4000)
PASSES = 15
BATCH = 25
TESTED = 500
SHOWN = 3  # of the paths that cost most over the best, in the runs of seed 0


class Costs(nn.Module):
    """Pictures [n, 3, 96, 96] to a number for every tile [n, 12, 12], each from the pixels of that tile alone."""

    def __init__(self) -> None:
        super().__init__()
        self.tile = nn.Sequential(nn.Conv2d(3, 32, 8, stride=8), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU())
        self.last = nn.Conv2d(32, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """One number a tile, of any sign."""
        out: Tensor = self.last(self.tile(images - 0.4))
        return out[:, 0]


class Wide(Costs):
    """The same, but every tile sees the whole map, by residual convolutions of growing reach, and knows its place."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(32, 12, 12))
        self.around = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=d, dilation=d) for d in (1, 2, 4, 1))

    def forward(self, images: Tensor) -> Tensor:
        """One number a tile, of any sign."""
        x = self.tile(images - 0.4) + self.place
        for layer in self.around:
            x = x + layer(x).relu()
        out: Tensor = self.last(x)
        return out[:, 0]


Loss = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def through(solver: Callable[[Tensor], Tensor], sigma: float) -> Loss:
    """The Fenchel–Young loss of a perturbed solver, with one sample of noise; costs are softplus of the output."""

    def loss(out: Tensor, path: Tensor, generator: torch.Generator) -> Tensor:
        return fenchel_young_loss(
            solver, -F.softplus(out), path, samples=1, sigma=sigma, item_dims=2, generator=generator
        )

    return loss


def cheapest(scores: Tensor) -> Tensor:
    """The solver, as a maximiser."""
    return shortest_path(-scores)


def clamped(scores: Tensor) -> Tensor:
    """Wrong: the cheapest path after negative costs were set to zero."""
    return shortest_path((-scores).clamp_min(0))


def regress(out: Tensor, path: Tensor, generator: torch.Generator) -> Tensor:
    """Squared error on the path itself, as a number from 0 to 1 for every tile; no solver."""
    return (out.sigmoid() - path).square()


def likely(out: Tensor) -> Tensor:
    """Costs by which the cheapest path is that with the largest product of probabilities: -log sigmoid."""
    return F.softplus(-out)


class Arm(NamedTuple):
    """How a run learns, and what the solver is given when it is judged."""

    network: Callable[[], Costs]
    loss: Loss
    costs: Callable[[Tensor], Tensor]
    rate: float


ARMS = {
    "through the solver": Arm(Costs, through(cheapest, 1.0), F.softplus, 2e-2),
    "squared error, same network": Arm(Costs, regress, likely, 2e-2),
    "squared error, sees all of the map": Arm(Wide, regress, likely, 3e-3),
    "through the solver, sigma 0.3": Arm(Costs, through(cheapest, 0.3), F.softplus, 2e-2),
    "negative costs set to zero": Arm(Costs, through(clamped, 1.0), F.softplus, 2e-2),
}


@cache
def _drawn(count: int, split: str) -> Terrain:
    return terrain(count, split="test" if split == "test" else "train")


def train(arm: str, maps: int, seed: int, passes: int) -> nn.Module:
    """Train one network on the first so many maps."""
    network, loss, _, rate = ARMS[arm]
    seen, generator = _drawn(max(MAPS), "train"), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=passes * -(-maps // BATCH))
    for _ in range(passes):
        for part in torch.randperm(maps, generator=generator).split(BATCH):
            optimizer.zero_grad()
            loss(model(seen.images[part]), seen.paths[part], generator).mean().backward()
            optimizer.step()
            schedule.step()
    return model


@torch.no_grad()
def judge(costs: Tensor, *, shown: int = 0) -> dict[str, Any]:
    """Of the test maps: perfect paths, best cost over cost, the mean cost of each ground, the worst paths as cells."""
    test = _drawn(TESTED, "test")
    chosen = shortest_path(costs)
    best, found = path_cost(test.costs, test.paths), path_cost(test.costs, chosen)
    results: dict[str, Any] = {
        "perfect": (found <= best + 1e-3).double().mean().item(),
        "nearness": (best / found).double().mean().item(),
        "grounds": [costs[(test.costs - ground.cost).abs() < 1e-3].mean().item() for ground in GROUNDS],
    }
    if shown:
        worst = (found / best).argsort(descending=True, stable=True)[:shown].tolist()
        results["worst"] = [[i, *chosen[i].flatten().nonzero()[:, 0].tolist()] for i in worst]
    return results


def run(arm: str, maps: int, seed: int, passes: int) -> dict[str, Any]:
    """Train one network and judge it."""
    start = time.process_time()
    model = train(arm, maps, seed, passes)
    seconds = time.process_time() - start
    with torch.no_grad():
        costs = ARMS[arm].costs(model(_drawn(TESTED, "test").images))
    return {**judge(costs, shown=0 if seed else SHOWN), "seconds": seconds}


def plan() -> list[dict[str, Any]]:
    """All runs, what matters most first."""
    solver, same, wide, less_noise, wrong = ARMS
    cases = [(solver, maps, PASSES) for maps in MAPS]
    cases += [(solver, MAPS[-1], 2 * PASSES), (wrong, 1000, PASSES), (less_noise, MAPS[-1], PASSES)]
    cases += [(arm, maps, PASSES) for arm in (same, wide) for maps in MAPS]
    cases += [(solver, 500, PASSES * MAPS[-1] // 500)]  # few maps, and as many steps as with the most
    return [{"arm": arm, "maps": maps, "seed": seed, "passes": passes} for arm, maps, passes in cases for seed in SEEDS]


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paths_study", description=__doc__)
    parser.parse_args()
    torch.set_num_threads(1)
    made = {**head("paths_study"), "passes": PASSES, "batch": BATCH, "tested": TESTED}
    results = Results(RESULTS, made)
    results.once("fewest tiles", lambda: judge(torch.ones_like(_drawn(TESTED, "test").costs)))
    for row in results.sweep(plan(), run):
        print({key: value for key, value in row.items() if key != "worst"})


if __name__ == "__main__":
    main()
