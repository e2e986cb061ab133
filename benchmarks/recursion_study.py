"""What makes a tiny recursive model good at 6x6 Sudoku: arms at equal FLOPs of training, in a JSON file.

``python -m benchmarks.recursion_study`` takes about half an hour on one core. Interrupt and call again to
resume. Lecture 12 reads the file, so that its readers need not wait.

A third of the puzzles are as hard as they come, every digit taken away that can be; the others have 12 or 14 left. Each
arm leaves one thing out or changes it: the gradient through all thoughts but the last, all supervision steps but one,
what is carried from one to the next. Two arms do not recur. They are residual networks of the same layers, with the
norms in their ordinary place, before each part: one has as many layers as the recursive model, and so about as many
parameters; one has as many as the recursive model goes through in *one* step, each with weights of its own, so that a
forward pass costs the FLOPs of one step. (As deep as all steps it would have 96 layers, and could be trained on few
puzzles.)

All arms of a seed are trained for the same FLOPs, counted: those of ``whole`` in :data:`STEPS` training steps. So who
spends less in a step makes more of them. All supervision steps and one are
also compared, for one seed, at :data:`BUDGET` times as much (under "longer"): what is best after a short training need
not be so after a long one. What is tested is the average of the weights, and the weights as they ended.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.study import Results, checkpoint_folder, head
from dynlib.backbone import FeedForward
from dynlib.cost import count
from dynlib.data import Puzzles, puzzle_stream
from dynlib.depth import EMA, Supervision, TinyRecursiveModel, stablemax_cross_entropy
from dynlib.training import train
from dynlib.zoo.recipes.puzzles import CLUES, sudoku_mix

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
SIZE, POOL, TEST = 6, 4000, 200  # puzzles of each number of clues
CONFIG: dict[str, Any] = {
    "vocabulary": SIZE + 1,
    "length": SIZE**2,
    "dim": 48,
    "hidden": 96,
    "depth": 2,
    "mixer": "mlp",
    "n": 2,
    "T": 1,
    "steps": 16,
}
BATCH, STEPS, DECAY = 32, 2000, 0.99
TRAINING: dict[str, float] = {"lr": 3e-3, "weight_decay": 0.1, "floor": 1.0}  # the rate stays where it is

# arm: what is other than in CONFIG; a number of layers where nothing recurs; None: see Forgetful
ARMS: dict[str, dict[str, Any] | int | None] = {
    "whole": {},
    "one-step gradient": {"gradient": 2},
    "one supervision step": {"steps": 1},
    "plain, equal parameters": CONFIG["depth"],
    "four supervision steps": {"steps": 4},
    "nothing carried over": None,
    "plain, equal FLOPs": CONFIG["depth"] * CONFIG["T"] * (CONFIG["n"] + 1),
    "T = 2": {"T": 2},
}
FIRST = 7  # arms that matter most
LONGER, BUDGET = ("whole", "one supervision step"), 3


class PlainLayer(nn.Module):
    """A layer of the recursive model's two parts, a mixer over the tokens and one over the features, norms first."""

    def __init__(self, dim: int, hidden: int, length: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.tokens, self.features = FeedForward(length), FeedForward(dim, hidden)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """One layer."""
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.features(self.norms[1](x))


class Plain(nn.Module):
    """Puzzles in, logits out, in one pass through so many layers."""

    def __init__(self, depth: int, *, vocabulary: int, length: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.position = nn.Parameter(0.02 * torch.randn(length, dim))
        self.layers = nn.Sequential(*[PlainLayer(dim, hidden, length) for _ in range(depth)])
        self.readout = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, vocabulary))

    def forward(self, puzzles: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens vocabulary"]:
        """The logits of each place."""
        return self.readout(self.layers(self.embedding(puzzles) + self.position))


class PlainTraining(nn.Module):
    """As :class:`dynlib.depth.Supervision`, for a model that answers at once."""

    def __init__(self, model: Plain, fresh: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.ema = EMA(model, DECAY)
        self.model, self.average, self.fresh = model, self.ema.model, fresh

    def loss(self, step: int) -> Float[Tensor, ""]:
        """Of a batch of new puzzles."""
        puzzles, answers = self.fresh(BATCH)
        return stablemax_cross_entropy(self.model(puzzles), answers).mean()

    def follow(self, step: int) -> None:
        """Let the average follow."""
        self.ema.update(self.model)


class Forgetful(Supervision):
    """Puzzles stay in their slots as long as ever, but each step begins anew, and nothing is carried into the next."""

    def loss(self, step: int) -> Float[Tensor, ""]:
        """Of a step from the start."""
        self.y, self.z = (part.clone() for part in self.model.start(self.slots.y))
        return super().loss(step)


def pool() -> Puzzles:
    """The puzzles that all train on, each time as another of their symmetric copies."""
    return sudoku_mix(SIZE, POOL, "train")


def held_out() -> Puzzles:
    """The puzzles that all are tested on: no copy of one that they train on."""
    return sudoku_mix(SIZE, TEST, "test")


def begin(arm: str, seed: int) -> Supervision | PlainTraining:
    """An arm before its training."""
    changes, fresh = ARMS[arm], puzzle_stream(pool())
    torch.manual_seed(seed)
    if isinstance(changes, int):
        sizes = {name: CONFIG[name] for name in ("vocabulary", "length", "dim", "hidden")}
        return PlainTraining(Plain(changes, **sizes), fresh)
    kind = Forgetful if changes is None else Supervision
    return kind(TinyRecursiveModel(**CONFIG | (changes or {})), BATCH, fresh, decay=DECAY)


def training_flops(arm: str) -> int:
    """Of one step of training, there and back."""
    training = begin(arm, 0)
    return count(lambda: training.loss(0).backward()).flops


def logits(model: nn.Module, puzzles: Int[Tensor, "batch tokens"]) -> Float[Tensor, "steps batch tokens vocabulary"]:
    """What a model says after each step; an ordinary one has but one."""
    if isinstance(model, TinyRecursiveModel):
        return model.trace(puzzles, steps=CONFIG["steps"])[0]
    return model(puzzles)[None]


@torch.no_grad()
def right(model: nn.Module) -> Tensor:
    """Where a model fills in the right digit of the held-out puzzles, [steps, puzzles, tokens]."""
    some = held_out().givens.flatten(1).split(50)  # few enough for the cache
    said = torch.cat([logits(model.eval(), puzzles).argmax(-1) for puzzles in some], dim=1)
    return said == held_out().solutions.flatten(1)


@torch.no_grad()
def flops(model: nn.Module) -> float:
    """Of a forward pass with all steps, per puzzle."""
    return count(model.eval(), held_out().givens[:10].flatten(1)).flops / 10


def run(arm: str, seed: int, budget: int = 1, *, checkpoints: Path) -> dict[str, Any]:
    """Train an arm for so many times the budget, and test it, with and without the average."""
    cost = training_flops(arm)
    steps = round(budget * STEPS * training_flops("whole") / cost)
    training = begin(arm, seed)
    plain = arm.replace(" ", "_").replace(",", "").replace("=", "is")
    name = f"recursion_{plain}_{seed}" if budget == 1 else f"recursion_{plain}_{seed}_{budget}"
    history = train(
        training,
        training.loss,
        after=training.follow,
        steps=steps,
        checkpoint=checkpoints / f"{name}.pt",
        description=name,
        **TRAINING,  # type: ignore[arg-type]
    )
    whole, raw = right(training.average), right(training.model)
    by_clues = whole.all(-1).float().view(len(whole), len(CLUES[SIZE]), TEST).mean(2)
    return {
        "solved": whole.all(-1).float().mean(1).tolist(),
        "solved_raw": raw.all(-1).float().mean(1).tolist(),
        "cells": whole[-1].float().mean().item(),
        "cells_raw": raw[-1].float().mean().item(),
        "solved_by_clues": dict(zip(map(str, CLUES[SIZE]), by_clues.T.tolist(), strict=True)),
        "flops": flops(training.model),
        "params": sum(weight.numel() for weight in training.model.parameters()),
        "training_flops": cost * steps,
        "training_steps": steps,
        "training_puzzles": int(training.drawn) if isinstance(training, Supervision) else BATCH * steps,
        "training_loss": sum(history.losses[-100:]) / 100,
    }


def plan() -> list[dict[str, Any]]:
    """All arms and seeds, what matters most first, a seed at a time."""
    arms = list(ARMS)
    first = [{"arm": arm, "seed": seed} for seed in SEEDS for arm in arms[:FIRST]]
    return first + [{"arm": arm, "seed": seed} for seed in SEEDS for arm in arms[FIRST:]]


def main() -> None:
    """Read the command line and do what it says."""
    checkpoints = checkpoint_folder("recursion_study", __doc__)
    torch.set_num_threads(1)
    made = {
        **head("recursion_study"),
        "config": CONFIG,
        "training": {**TRAINING, "steps": STEPS, "batch": BATCH, "decay": DECAY},
        "puzzles": {"clues": CLUES[SIZE], "train": POOL, "test": TEST},
    }
    results = Results(RESULTS, made)
    one = partial(run, checkpoints=checkpoints)
    results.sweep(plan(), one)
    longer = [{"arm": arm, "seed": seed, "budget": BUDGET} for seed in SEEDS[:1] for arm in LONGER]
    for row in results.sweep(longer, one, name="longer"):
        print(row)


if __name__ == "__main__":
    main()
