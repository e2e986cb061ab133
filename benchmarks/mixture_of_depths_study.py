"""Loss against FLOPs: small language models, dense and with mixture of depths, three seeds each, in a JSON file.

``python -m benchmarks.mixture_of_depths_study`` takes most of an hour on one core. Interrupt and call again to resume.
Lecture 07 reads the file, so that its readers need not wait.

All models see the same text in the same order, for as many steps, and differ in what is said in ``KINDS`` alone. With
equal steps, equal FLOPs per token are equal FLOPs of training. Mixtures of depths are in every other block, or in every
one where the name says so. What is counted is a forward pass over windows of 128 bytes, a multiply-add being 2 FLOPs.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.study import Results, checkpoint_folder, head
from dynlib.backbone import CausalLM
from dynlib.cost import count
from dynlib.data import encode, text
from dynlib.deciding import setting
from dynlib.tokens.mixture_of_depths import MixtureOfDepths, Routing
from dynlib.training import History, train
from dynlib.zoo.recipes import Numbers
from dynlib.zoo.recipes.mixtures import mixture_lm, mixture_lm_figures, mixture_lm_loss
from dynlib.zoo.recipes.small import SMALL, SMALL_TRAINING, small_lm
from dynlib.zoo.scores import WINDOW

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
EVERY = 50  # steps that one point of a training curve is the mean of
COUNTED = 32  # windows that FLOPs are counted on


def drawn_lm(*, capacity: float, routing: Routing = "random", **config: Any) -> CausalLM:
    """As :func:`mixture_lm`, but a draw decides who runs, and with "gaussian" also by how much."""
    model = mixture_lm(capacity=capacity, **config)
    for block in model.blocks:
        if isinstance(block, MixtureOfDepths):
            block.routing, block.predictor = routing, None
    return model


# kind: build, what it changes in the config, the weight of the router's own loss; the first four matter most
KINDS: dict[str, tuple[Callable[..., CausalLM], dict[str, Any], float]] = {
    "dense, 6 layers": (small_lm, {}, 0.0),
    "top-k, 12.5 %": (mixture_lm, {"capacity": 0.125}, 0.0),
    "dense, 3 layers": (small_lm, {"depth": 3}, 0.0),
    "random, 12.5 %": (drawn_lm, {"capacity": 0.125}, 0.0),
    "dense, 4 layers": (small_lm, {"depth": 4}, 0.0),
    "top-k, 50 %": (mixture_lm, {"capacity": 0.5}, 0.0),
    "top-k, 25 %": (mixture_lm, {"capacity": 0.25}, 0.0),
    "top-k, 12.5 %, router's loss": (mixture_lm, {"capacity": 0.125}, 0.1),
    "random, 50 %": (drawn_lm, {"capacity": 0.5}, 0.0),
    "top-k, 12.5 %, every block": (mixture_lm, {"capacity": 0.125, "every": 1}, 0.0),
    "random, 12.5 %, every block": (drawn_lm, {"capacity": 0.125, "every": 1}, 0.0),
    "dense, 1 layer": (small_lm, {"depth": 1}, 0.0),
    "gaussian, 12.5 %": (drawn_lm, {"capacity": 0.125, "routing": "gaussian"}, 0.0),
    "gaussian, 12.5 %, every block": (drawn_lm, {"capacity": 0.125, "routing": "gaussian", "every": 1}, 0.0),
}
FIRST = 4
ZOO = {"dense, 6 layers": "topics_small", "top-k, 12.5 %, router's loss": "topics_mod"}


def fit(kind: str, seed: int, *, checkpoints: Path, steps: int) -> tuple[CausalLM, History]:
    """Train one model. Seed 0 of a kind that is in the zoo is the zoo's, and takes its checkpoint."""
    build, changes, router = KINDS[kind]
    torch.manual_seed(seed)
    model = build(**SMALL | changes)
    name = ZOO[kind] if seed == 0 and kind in ZOO else f"study_{re.sub(r'[^a-z0-9]+', '_', kind)}_{seed}"
    settings: dict[str, Any] = {**SMALL_TRAINING, "steps": steps}
    history = train(
        model,
        mixture_lm_loss(model, seed=seed, router=router),
        checkpoint=checkpoints / f"{name}.pt",
        description=f"{kind}, seed {seed}",
        **settings,
    )
    return model.eval(), history


@torch.no_grad()
def flops_per_token(model: nn.Module) -> float:
    """Counted on windows of held-out text, as the model routes just now."""
    tokens: Tensor = encode(text("test"))[: COUNTED * WINDOW].view(-1, WINDOW)
    return count(model, tokens).flops / tokens.numel()


def measure(model: CausalLM) -> dict[str, float]:
    """Held-out bits and FLOPs per token, of a learned mixture of depths with each causal routing too."""
    torch.manual_seed(0)  # of the draws
    results: Numbers = {"flops": flops_per_token(model), **mixture_lm_figures(model)}
    if any(isinstance(block, MixtureOfDepths) and block.routing == "top_k" for block in model.blocks):
        for routing in ("threshold", "predictor"):
            with setting(model, MixtureOfDepths, routing=routing):
                results[f"flops_by_{routing}"] = flops_per_token(model)
    return {key.replace("test_", ""): value for key, value in results.items()}


def plan() -> list[dict[str, Any]]:
    """All kinds and seeds, what matters most first."""
    kinds = list(KINDS)
    first = [{"kind": kind, "seed": seed} for seed in SEEDS for kind in kinds[:FIRST]]
    return first + [{"kind": kind, "seed": seed} for kind in kinds[FIRST:] for seed in SEEDS]


def run(kind: str, seed: int, *, checkpoints: Path, steps: int) -> dict[str, Any]:
    """Train one model and measure it."""
    model, history = fit(kind, seed, checkpoints=checkpoints, steps=steps)
    means = [sum(part) / len(part) for part in _chunks(history.losses, EVERY)]
    return {**measure(model), "seconds": history.seconds, "training": means}


def _chunks(values: list[float], size: int) -> list[list[float]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def main() -> None:
    """Read the command line and do what it says."""
    checkpoints = checkpoint_folder("mixture_of_depths_study", __doc__)
    torch.set_num_threads(1)
    made = {
        **head("mixture_of_depths_study"),
        "config": SMALL,
        "training": SMALL_TRAINING,
        "batch": [12, WINDOW],
    }
    one = partial(run, checkpoints=checkpoints, steps=int(SMALL_TRAINING["steps"]))
    for row in Results(RESULTS, made).sweep(plan(), one):
        print({key: value for key, value in row.items() if key != "training"})


if __name__ == "__main__":
    main()
