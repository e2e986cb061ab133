"""A looped block against one pass of it and against a deep stack, three seeds each, in a JSON file.

``python -m benchmarks.looped_study`` takes about twenty minutes on one core. Interrupt and call again to resume.
Lecture 11 reads the file, so that its readers need not wait.

Two tasks. *Regression*: the values of new points, from pairs with noise (:mod:`dynlib.data.regression`); test loops run
on to three times the trained count, with injection and with the loss window, and without. Without the window, the loss
is that of the last loop alone, and its graph goes through all loops. With a window and without injection, the weights
that read the prompt in get no gradient, and stay as they were drawn: that is what the module says of it, and it is not
mended here. *Chains*: the end of every name's chain of pointers (:mod:`dynlib.data.chains`), by its number of hops;
then, with a gate that is trained on top, tokens that stop by themselves.

Batches are the same for all arms of a seed, and so are the steps. What is counted is a forward pass over one sample at
the trained loops, a multiply-add being 2 FLOPs.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.study import Results, checkpoint_folder, head
from dynlib.cost import count
from dynlib.data import chains, least_squares, linear_regression
from dynlib.training import train
from dynlib.zoo.chains import ChainReader, chain_losses, gated_chain_loss
from dynlib.zoo.regression import RegressionReader, regression_loss

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)

PROMPTS: dict[str, Any] = {"features": 3, "pairs": 12, "queries": 6, "noise": 0.5}
REGRESSION: dict[str, Any] = {"dim": 48, "heads": 4, "hidden": 96}
LOOPS, WINDOW, MOST = 10, 5, 30
REGRESSION_TRAINING: dict[str, Any] = {"steps": 500, "lr": 5e-3, "weight_decay": 0.0}

# arm: layers, loops, injection, window; None: the last loop's loss alone, and a graph of all
ARMS: dict[str, tuple[int, int, str, int | None]] = {
    "k x L": (1, LOOPS, "add", WINDOW),
    "kL x 1": (LOOPS, 1, "add", None),
    "k x 1": (1, 1, "add", None),
    "neither": (1, LOOPS, "none", None),
    "no injection": (1, LOOPS, "none", WINDOW),
    "no window": (1, LOOPS, "add", None),
}

NAMES, ENDS = 20, 4
HOPS: dict[str, Any] = {"dim": 64, "heads": 2, "hidden": 128}
HOP_LOOPS, HOP_WINDOW = 8, 4
HOP_TRAINING: dict[str, Any] = {"steps": 600, "lr": 3e-3, "weight_decay": 0.01}
GATE_TRAINING: dict[str, Any] = {"steps": 150, "lr": 1e-3, "weight_decay": 0.01}
BETA, BATCH = 0.1, 64
FARTHEST = 12  # from so many hops on, all are taken together

HOP_ARMS: dict[str, tuple[int, int, int | None]] = {
    "k x L": (1, HOP_LOOPS, HOP_WINDOW),
    "kL x 1": (HOP_LOOPS, 1, None),
    "k x 1": (1, 1, None),
}
RULES: dict[str, tuple[float, ...]] = {
    "change": (0.02, 0.05, 0.1, 0.2, 0.3, 0.45),
    "quantile": (0.1, 0.3, 0.5, 0.7, 0.9, 0.97),
    "fixed": (1, 2, 3, 4, 5, 6, 7, 8),
}


def fit(model: nn.Module, loss: Callable[[int], Tensor], settings: dict[str, Any], *, name: str, folder: Path) -> None:
    """Train, and go on where it was interrupted."""
    train(model, loss, checkpoint=folder / f"looped_{name}.pt", description=name, **settings)
    model.eval()


def file_name(task: str, arm: str, seed: int) -> str:
    """Of a checkpoint."""
    return f"{task}_{arm.replace(' ', '_')}_{seed}"


def batch_seed(seed: int, step: int) -> int:
    """No two share a sample."""
    return seed * 10**6 + step


def test_prompts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Held-out prompts, the same for all."""
    drawn = linear_regression(1000, **PROMPTS, split="test")
    return drawn.x, drawn.y, drawn.queries, drawn.answers


def floor(name: str) -> float:
    """The squared error, by feature, of what needs no training."""
    x, y, queries, answers = test_prompts()
    said = {
        "least_squares": least_squares(x, y, queries),
        "ridge": least_squares(x, y, queries, ridge=PROMPTS["noise"] ** 2),
        "zero": torch.zeros_like(answers),
    }
    return (said[name] - answers).square().mean().item() / PROMPTS["features"]


def regress(arm: str, seed: int, *, folder: Path) -> dict[str, Any]:
    """Train an arm; its error after every test loop."""
    depth, loops, inject, window = ARMS[arm]
    torch.manual_seed(seed)
    size = {"features": PROMPTS["features"], "pairs": PROMPTS["pairs"], **REGRESSION}
    model = RegressionReader(**size, depth=depth, loops=loops, inject="add" if inject == "add" else "none")

    def loss(step: int) -> Tensor:
        drawn = linear_regression(BATCH, **PROMPTS, seed=batch_seed(seed, step))
        given = (drawn.x, drawn.y, drawn.queries)
        if window is not None:
            return regression_loss(model, *given, drawn.answers, window=window)
        return (model(*given) - drawn.answers).square().mean() / model.features

    fit(model, loss, REGRESSION_TRAINING, name=file_name("regression", arm, seed), folder=folder)
    x, y, queries, answers = test_prompts()
    with torch.no_grad():
        states = model.looped.states(model.embed(x, y, queries), loops=MOST if loops > 1 else 1)
        errors = (model.readout(states) - answers).square().mean((1, 2)) / model.features
        flops = count(model, x[:1], y[:1], queries[:1, :1]).flops
    return {"loss": errors.tolist(), "flops": flops, "params": size_of(model), "trained_loops": loops}


def size_of(model: nn.Module) -> int:
    """Parameters, without those of a gate."""
    return sum(weight.numel() for name, weight in model.named_parameters() if ".gate." not in name)


def hop_model(arm: str, seed: int, *, folder: Path) -> ChainReader:
    """A trained arm of the chains; its gate, where it loops, is not trained."""
    depth, loops, window = HOP_ARMS[arm]
    torch.manual_seed(seed)
    model = ChainReader(names=NAMES, **HOPS, depth=depth, loops=loops, gate=True)

    def loss(step: int) -> Tensor:
        drawn = chains(BATCH, names=NAMES, ends=ENDS, seed=batch_seed(seed, step))
        states = model.looped.states(model.embed(drawn.names, drawn.points_to), window=window or 1)
        return chain_losses(model, states, drawn.ends).mean()

    fit(model, loss, HOP_TRAINING, name=file_name("hops", arm, seed), folder=folder)
    return model


def by_hops(values: Tensor, hops: Tensor) -> list[float]:
    """The mean of values by the number of hops, 0 … FARTHEST and more."""
    near = hops.clamp_max(FARTHEST)
    return [values[near == number].double().mean().item() for number in range(FARTHEST + 1)]


def hop(arm: str, seed: int, *, folder: Path) -> dict[str, Any]:
    """Train an arm; its accuracy by hops, and for one that loops after every loop."""
    model = hop_model(arm, seed, folder=folder)
    test = chains(1000, names=NAMES, ends=ENDS, split="test")
    loops = model.looped.loops
    with torch.no_grad():
        states = model.looped.states(model.embed(test.names, test.points_to), loops=3 * loops if loops > 1 else 1)
        right = model.head(states).argmax(-1) == test.ends
        flops = count(model, test.names[:1], test.points_to[:1]).flops
    return {
        "accuracy": by_hops(right[loops - 1], test.hops)[1:],
        "accuracy_of_ends": by_hops(right[loops - 1], test.hops)[0],
        "accuracy_by_loop": right.double().mean((1, 2)).tolist(),
        "flops": flops,
        "params": size_of(model),
        "trained_loops": loops,
    }


def adapt(seed: int, *, folder: Path) -> list[dict[str, Any]]:
    """Train a gate on top of the looped arm, with the rest; then let tokens stop by each rule."""
    model = hop_model("k x L", seed, folder=folder)

    def loss(step: int) -> Tensor:
        drawn = chains(BATCH, names=NAMES, ends=ENDS, seed=batch_seed(seed, step) + 500_000)
        return gated_chain_loss(model, drawn.names, drawn.points_to, drawn.ends, beta=BETA)

    fit(model, loss, GATE_TRAINING, name=file_name("gate", "k x L", seed), folder=folder)
    test = chains(1000, names=NAMES, ends=ENDS, split="test")
    return [stopping(model, test, rule, setting) for rule, settings in RULES.items() for setting in settings]


@torch.no_grad()
def stopping(model: ChainReader, test: Any, rule: str, setting: float) -> dict[str, Any]:
    """One rule at one setting: accuracy, mean loops by hops, and the FLOPs of a sample, the gate's included."""
    looped = model.looped
    x = model.embed(test.names, test.points_to)
    limits: dict[str, Any] = {"loops": int(setting)} if rule == "fixed" else {rule: setting}
    stopped = looped.predict(x, each="token", **limits)
    right = model.head(stopped.state).argmax(-1) == test.ends
    part = x[:100]
    flops = count(_Predicting(looped, limits), part).flops / len(part)
    return {
        "rule": rule,
        "setting": setting,
        "accuracy": right.double().mean().item(),
        "accuracy_by_hops": by_hops(right, test.hops),
        "loops": by_hops(stopped.loops, test.hops),
        "mean_loops": stopped.loops.double().mean().item(),
        "flops": flops,
    }


class _Predicting(nn.Module):
    """A looped model, as a module whose call is a prediction: for counting."""

    def __init__(self, looped: nn.Module, limits: dict[str, Any]) -> None:
        super().__init__()
        self.looped, self.limits = looped, limits

    def forward(self, x: Tensor) -> Tensor:
        return self.looped.predict(x, each="token", **self.limits).state  # type: ignore[operator]


def main() -> None:
    """Read the command line and do what it says."""
    checkpoints = checkpoint_folder("looped_study", __doc__)
    torch.set_num_threads(1)
    made = {
        **head("looped_study"),
        "regression_task": {**PROMPTS, "test_prompts": 1000},
        "regression_model": {**REGRESSION, "loops": LOOPS, "window": WINDOW},
        "regression_training": {**REGRESSION_TRAINING, "batch": BATCH},
        "hop_task": {"names": NAMES, "ends": ENDS, "test_samples": 1000, "farthest": FARTHEST},
        "hop_model": {**HOPS, "loops": HOP_LOOPS, "window": HOP_WINDOW},
        "hop_training": {**HOP_TRAINING, "batch": BATCH},
        "gate_training": {**GATE_TRAINING, "batch": BATCH, "beta": BETA},
    }
    results = Results(RESULTS, made)
    for name in ("least_squares", "ridge", "zero"):
        results.once(name, partial(floor, name))
    for seed in SEEDS:
        arms = [{"arm": arm, "seed": seed} for arm in ARMS]
        results.sweep(arms, partial(regress, folder=checkpoints), name="regression")
        arms = [{"arm": arm, "seed": seed} for arm in HOP_ARMS]
        results.sweep(arms, partial(hop, folder=checkpoints), name="hops")
        results.sweep([{"seed": seed}], partial(adapt, folder=checkpoints), name="adaptive")


if __name__ == "__main__":
    main()
