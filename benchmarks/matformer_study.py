"""One MatFormer against models of its sizes trained one by one, five seeds each, in a JSON file.

``python -m benchmarks.matformer_study`` takes about a quarter of an hour on one core. Interrupt and call again to
resume. Lecture 09 reads the file, so that its readers need not wait.

All models are small language models of :data:`DEPTH` layers. Their embedding, attention and norms begin where those of
``topics_small`` ended, and are trained on; their feed-forward parts begin at random. So the part that this is about is
what they have to learn, and after few steps its size already matters. Batches are the same for all arms of a seed. What
is counted is a forward pass over a window, a multiply-add being 2 FLOPs; a step of training is taken for three of them.

With four widths, a joint run of :data:`STEPS` steps costs the FLOPs of the four single models trained for as many, and
a sampled run those of four trained for a quarter. So there are two of each: equal steps, and equal FLOPs of training.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study import Results, checkpoint_folder, head
from dynlib.backbone import Block, CausalLM, ViT
from dynlib.cost import count
from dynlib.data import digits, encode, text, windows
from dynlib.deciding import setting
from dynlib.training import train
from dynlib.width import MatFormerFeedForward, joint_loss, layer_widths, matformer, sampled_loss
from dynlib.zoo import load

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2, 3, 4)
WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1)
START, DEPTH, HIDDEN, WINDOW, BATCH, STEPS = "topics_small", 4, 256, 64, 8, 240
TRAINING: dict[str, float] = {"lr": 3e-3, "weight_decay": 0.1}
PASSES = 3  # forward passes that a step of training costs: one there, and one each for the two products on the way back

# arm: share of the steps, and how its loss is made; None: four models, one for each width
ARMS: dict[str, tuple[float, str | None]] = {
    "independent": (1, None),
    "joint": (1, "mean"),
    "sampled": (1, "sampled"),
    "independent, a quarter of the steps": (1 / 4, None),
    "summed": (1, "sum"),
    "sampled, four times the steps": (4, "sampled"),
}
FIRST = 4  # arms that matter most


def begin(hidden: int, seed: int) -> CausalLM:
    """A model with fresh feed-forward parts of so many neurons, and the rest from the start."""
    start = load(START)
    assert isinstance(start, CausalLM)
    torch.manual_seed(seed)
    first = start.blocks[0]
    assert isinstance(first, Block)
    heads = first.attention.heads
    model = CausalLM(vocabulary=256, dim=start.embedding.embedding_dim, depth=DEPTH, heads=heads, hidden=hidden)
    trained = {name: value for name, value in start.state_dict().items() if "feed_forward" not in name}
    model.load_state_dict({name: trained.get(name, value) for name, value in model.state_dict().items()})
    return model


def reading(model: nn.Module, rows: Int[Tensor, "batch bytes"]) -> Tensor:
    """Mean cross-entropy of each byte but the first, given those before it, in nats."""
    return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def held_out(every: int) -> Int[Tensor, "rows bytes"]:
    """One of so many windows of the test text."""
    tokens = encode(text("test"))
    return tokens[: len(tokens) // (WINDOW + 1) * (WINDOW + 1)].view(-1, WINDOW + 1)[::every]


@torch.no_grad()
def measure(model: nn.Module, every: int = 4) -> float:
    """Bits per byte of held-out text."""
    return reading(model.eval(), held_out(every)).item() / math.log(2)


@torch.no_grad()
def flops(model: nn.Module) -> float:
    """Of a forward pass, per byte."""
    tokens = held_out(4)[:8, :-1]
    return count(model, tokens).flops / tokens.numel()


def fit(model: nn.Module, seed: int, steps: int, kind: str | None, *, name: str, checkpoints: Path) -> float:
    """Train one model; gives the FLOPs of all its training."""
    whole = encode(text("train"))

    def loss(step: int) -> Tensor:
        of_step = torch.Generator().manual_seed(seed * 10**6 + step)
        rows = windows(whole, BATCH, WINDOW + 1, generator=of_step)
        if kind is None:
            return reading(model, rows)
        if kind == "sampled":
            return sampled_loss(model, lambda: reading(model, rows), generator=of_step)
        weights = None if kind == "mean" else (1.0,) * len(WIDTHS)
        return joint_loss(model, lambda: reading(model, rows), weights=weights)

    train(
        model,
        loss,
        steps=steps,
        lr=TRAINING["lr"],
        weight_decay=TRAINING["weight_decay"],
        checkpoint=checkpoints / f"matformer_{name}.pt",
        description=name,
    )
    model.eval()
    passes = [flops(model)] if kind is None else at_widths(model, flops)
    step = sum(passes) / len(passes) if kind == "sampled" else sum(passes)
    return step * PASSES * BATCH * WINDOW * steps


def at_widths(model: nn.Module, ask: Callable[[nn.Module], float]) -> list[float]:
    """What is asked, at each width of all layers."""
    answers = []
    for width in WIDTHS:
        with setting(model, MatFormerFeedForward, width=width):
            answers.append(ask(model))
    return answers


def run(arm: str, seed: int, *, checkpoints: Path) -> dict[str, Any]:
    """Train an arm and measure it at every width; a single full model is also sliced as it is."""
    share, kind = ARMS[arm]
    steps = round(share * STEPS)
    name = f"{arm.replace(' ', '_').replace(',', '')}_{seed}"
    short = partial(measure, every=16)
    if kind is None:
        models = [begin(round(width * HIDDEN), seed) for width in WIDTHS]
        spent = [
            fit(model, seed, steps, None, name=f"{name}_{width:g}", checkpoints=checkpoints)
            for model, width in zip(models, WIDTHS, strict=True)
        ]
        found = {
            "bits": [measure(model) for model in models],
            "bits_short": [short(model) for model in models],
            "flops": [flops(model) for model in models],
            "training_flops": sum(spent),
        }
        return {**found, "sliced": at_widths(matformer(models[-1], WIDTHS), measure)}
    model = matformer(begin(HIDDEN, seed), WIDTHS)
    spent_in_all = fit(model, seed, steps, kind, name=name, checkpoints=checkpoints)
    return {
        "bits": at_widths(model, measure),
        "bits_short": at_widths(model, short),
        "flops": at_widths(model, flops),
        "training_flops": spent_in_all,
    }


@torch.no_grad()
def mixtures(checkpoints: Path) -> list[list[float]]:
    """Every mixture of widths of the first joint model: the number of each layer's width, FLOPs, bits."""
    model = matformer(begin(HIDDEN, SEEDS[0]), WIDTHS)
    fit(model, SEEDS[0], STEPS, "mean", name=f"joint_{SEEDS[0]}", checkpoints=checkpoints)
    numbers = torch.cartesian_prod(*[torch.arange(len(WIDTHS))] * DEPTH).tolist()
    rows = []
    for mixture in numbers:
        with layer_widths(model, [WIDTHS[number] for number in mixture]):
            rows.append([*mixture, flops(model), measure(model, every=16)])
    return rows


def digits_run() -> dict[str, Any]:
    """Where size does not matter: small vision transformers on the scans of digits, one run each."""
    learn, test = digits("train"), digits("test")
    config: dict[str, Any] = {"image_size": 8, "patch_size": 2, "classes": 10, "dim": 32, "depth": 2, "heads": 2}
    training: dict[str, Any] = {"steps": 300, "lr": 3e-3, "weight_decay": 0.05}

    def loss_of(model: nn.Module, step: int) -> Tensor:
        some = torch.randint(len(learn), (64,), generator=torch.Generator().manual_seed(step))
        return F.cross_entropy(model(learn.images[some]), learn.labels[some])

    @torch.no_grad()
    def hits(model: nn.Module) -> float:
        return float((model.eval()(test.images).argmax(-1) == test.labels).sum())

    single = []
    for width in (WIDTHS[0], WIDTHS[-1]):
        torch.manual_seed(0)
        model = ViT(**config, hidden=round(width * 128))
        train(model, partial(loss_of, model), **training)
        single.append(hits(model))
    sliced = at_widths(matformer(model, WIDTHS), hits)
    torch.manual_seed(0)
    nested = matformer(ViT(**config, hidden=128), WIDTHS)
    train(nested, lambda step: joint_loss(nested, lambda: loss_of(nested, step)), **training)
    return {"images": len(test), "independent": single, "joint": at_widths(nested, hits), "sliced": sliced}


def plan() -> list[dict[str, Any]]:
    """All arms and seeds, what matters most first."""
    arms = list(ARMS)
    first = [{"arm": arm, "seed": seed} for seed in SEEDS for arm in arms[:FIRST]]
    return first + [{"arm": arm, "seed": seed} for seed in SEEDS for arm in arms[FIRST:]]


def main() -> None:
    """Read the command line and do what it says."""
    checkpoints = checkpoint_folder("matformer_study", __doc__)
    torch.set_num_threads(1)
    made = {
        **head("matformer_study"),
        "config": {"start": START, "depth": DEPTH, "hidden": HIDDEN, "widths": WIDTHS},
        "training": {**TRAINING, "steps": STEPS, "batch": [BATCH, WINDOW]},
    }
    results = Results(RESULTS, made)
    one = partial(run, checkpoints=checkpoints)
    results.sweep(plan()[:FIRST], one)
    results.once("mixtures", partial(mixtures, checkpoints))
    results.once("digits", digits_run)
    for row in results.sweep(plan(), one):
        print(row)


if __name__ == "__main__":
    main()
