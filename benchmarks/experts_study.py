"""What experts are worth, who takes what, and when routing collapses: small language models of mixed text.

``python -m benchmarks.experts_study`` takes half an hour on one core. Interrupt and call again to resume. Lecture 08
reads the file, so that its readers need not wait.

All models read the same windows of :func:`dynlib.data.mixed_windows` in the same order, for as many steps, and differ
in their feed-forward parts alone. But for the wide one, each runs the same FLOPs a token, up to the router's.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from benchmarks.study import Results, checkpoint_folder, head
from dynlib.backbone import CausalLM, FeedForward
from dynlib.cost import count
from dynlib.data import encode, kinds, mixed_windows
from dynlib.deciding import record
from dynlib.training import train
from dynlib.width import MixtureOfExperts, balance_bias, hash_by_token, load_balancing_loss, router_z_loss

RESULTS = Path(__file__).with_suffix(".json")
MODEL: dict[str, Any] = {"vocabulary": 256, "dim": 64, "depth": 2, "heads": 4}
TRAINING: dict[str, Any] = {"steps": 1000, "lr": 4e-3, "weight_decay": 0.1}
HIDDEN, EXPERTS, WINDOW, BATCH = 128, 8, 96, 16
SEEDS = (0, 1, 2)
BALANCE = 0.01  # weight of the load-balancing loss in every learned arm
TESTED = 24  # windows of each kind
SHOWN = 96  # bytes of each kind whose experts are kept, to be looked at

# the feed-forward part of every layer
ARMS: dict[str, dict[str, Any]] = {
    "dense": {"hidden": HIDDEN},
    "top-1 of 8": {"hidden": HIDDEN, "k": 1},
    "hash of 8": {"hidden": HIDDEN, "k": 1, "routing": "hash"},
    "top-2 of 8": {"hidden": HIDDEN // 2, "k": 2, "renormalise": True},
    "top-1, weight 1": {"hidden": HIDDEN, "k": 1, "renormalise": True},  # the router hears of the balance alone
    "dense, 8 times as wide": {"hidden": EXPERTS * HIDDEN},
}
FIRST = 4

COLLAPSE: dict[str, Any] = {"steps": 250, "lr": 4e-3, "weight_decay": 0.1}
RATES = (1, 10, 100)  # how many times as fast as the rest the router learns
HELPS: dict[str, dict[str, float]] = {
    "nothing": {},
    "load-balancing loss": {"balance": BALANCE},
    "z-loss": {"z": 0.001},
    "bias": {"bias": 0.01},
}
EVERY = 10  # steps between two looks at the load


class Faster(nn.Module):
    """A weight that is a factor times what is learned: under Adam it moves so many times as fast."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, learned: Tensor) -> Tensor:
        """The weight."""
        return self.factor * learned

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is learned, at the start."""
        return weight / self.factor


def mixed_lm(*, hidden: int, k: int | None = None, faster: float = 1, **options: Any) -> CausalLM:
    """A small language model, dense (``k`` left out) or with experts in every layer."""
    model = CausalLM(**MODEL)
    for block in model.blocks:
        if k is None:
            block.feed_forward = FeedForward(MODEL["dim"], hidden)
        else:
            block.feed_forward = experts = MixtureOfExperts(MODEL["dim"], EXPERTS, k=k, hidden=hidden, **options)
            if faster != 1:
                parametrize.register_parametrization(experts.router, "weight", Faster(faster))
        begin(block.feed_forward)
    if options.get("routing") == "hash":
        hash_by_token(model)
    return model


@torch.no_grad()
def begin(feed_forward: nn.Module) -> None:
    """Start a dense layer and experts alike, and as the backbone's own layers start."""
    for name, weight in feed_forward.named_parameters():
        if "bias" in name:
            weight.zero_()
        elif "router" not in name:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
            if "contract" in name:
                weight.div_((2 * MODEL["depth"]) ** 0.5)


def batch(step: int, seed: int) -> Tensor:
    """What is read in a step."""
    generator = torch.Generator().manual_seed(seed * 10**6 + step)
    return mixed_windows("train", BATCH, WINDOW + 1, generator=generator).tokens


def reading(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of each byte but the first, in nats."""
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def routers_loss(records: Any, *, balance: float = 0.0, z: float = 0.0) -> Tensor | float:
    """What is added for the routers."""
    loss = balance * load_balancing_loss(records) if balance else 0.0
    return loss + z * router_z_loss(records) if z else loss


def fit(arm: str, seed: int, *, checkpoint: Path) -> tuple[CausalLM, list[float], float]:
    """Train one model; the losses and the seconds too."""
    torch.manual_seed(seed)
    model = mixed_lm(**ARMS[arm])
    learned = arm.startswith("top")

    def loss(step: int) -> Tensor:
        tokens = batch(step, seed)
        if not learned:
            return reading(model, tokens)
        with record(model, MixtureOfExperts) as records:
            value = reading(model, tokens)
        return value + routers_loss(records, balance=BALANCE)

    history = train(model, loss, checkpoint=checkpoint, description=f"{arm}, seed {seed}", **TRAINING)
    return model.eval(), history.losses, history.seconds


def held_out() -> dict[str, Tensor]:
    """Windows of test text, evenly spread, of each kind."""
    found = {}
    for name, written in kinds("test").items():
        tokens = encode(written)
        starts = torch.linspace(0, len(tokens) - WINDOW - 1, TESTED).long()
        found[name] = tokens[starts[:, None] + torch.arange(WINDOW + 1)]
    return found


@torch.no_grad()
def measure(model: CausalLM) -> dict[str, Any]:
    """Bits per byte of each kind, what a token costs, and who takes what."""
    bits: dict[str, float] = {}
    shares: list[list[list[float]]] = []  # kind, layer, expert
    for name, tokens in held_out().items():
        if has_experts(model):
            with record(model, MixtureOfExperts) as records:
                bits[name] = reading(model, tokens).item() / math.log(2)
            shares.append([load(one[0].chosen) for one in records.values()])
        else:
            bits[name] = reading(model, tokens).item() / math.log(2)
    some = torch.stack([tokens[0, :-1] for tokens in held_out().values()])
    results: dict[str, Any] = {
        "bits": sum(bits.values()) / len(bits),
        "kinds": bits,
        "flops": count(model, some).flops / some.numel(),
        **parameters(model),
    }
    if shares:
        results["shares"] = [list(layer) for layer in zip(*shares, strict=True)]  # layer, kind, expert
    return results


def has_experts(model: nn.Module) -> bool:
    """Whether there is a mixture of experts in it."""
    return any(isinstance(module, MixtureOfExperts) for module in model.modules())


def load(chosen: Tensor) -> list[float]:
    """The share of the choices that fell on each expert."""
    return (torch.bincount(chosen.flatten(), minlength=EXPERTS) / chosen.numel()).tolist()


def parameters(model: nn.Module) -> dict[str, int]:
    """How many there are, and how many of them one token meets."""
    held = sum(weight.numel() for weight in model.parameters())
    spared = 0
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            router = sum(weight.numel() for weight in module.router.parameters())
            stacked = sum(weight.numel() for weight in module.parameters()) - router
            spared += stacked // EXPERTS * (EXPERTS - module.k)
            held -= router if module.routing == "hash" else 0  # it has one and does not ask it
    return {"held": held, "touched": held - spared}


@torch.no_grad()
def choices(model: CausalLM) -> dict[str, Any]:
    """A stretch of each kind of test text, and the expert that takes each byte in each layer, as digits."""
    shown: dict[str, Any] = {}
    for name, written in kinds("test").items():
        start = written.index("\n", 3000) + 1
        piece = written.encode()[start : start + SHOWN]
        with record(model, MixtureOfExperts) as records:
            model(torch.tensor([list(piece)]))
        experts = ["".join(map(str, one[0].chosen[..., 0].flatten().tolist())) for one in records.values()]
        shown[name] = {"text": piece.decode(errors="replace"), "experts": experts}
    return shown


def run(arm: str, seed: int, *, checkpoints: Path) -> dict[str, Any]:
    """Train one model and measure it."""
    name = arm.replace(" ", "_").replace(",", "")
    model, losses, seconds = fit(arm, seed, checkpoint=checkpoints / f"experts_{name}_{seed}.pt")
    means = [sum(losses[at : at + 50]) / 50 for at in range(0, len(losses), 50)]
    row = {**measure(model), "seconds": seconds, "training": means}
    return row | ({"shown": choices(model)} if seed == 0 and has_experts(model) else {})


def collapse(rate: int, help: str, seed: int) -> dict[str, Any]:
    """The load of the experts of each layer while a model is trained, and its bits in the end."""
    torch.manual_seed(seed)
    model = mixed_lm(hidden=HIDDEN, k=1, faster=rate)
    layers = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    settings, loads = dict(HELPS[help]), []
    speed = settings.pop("bias", 0.0)

    def loss(step: int) -> Tensor:
        with record(model, MixtureOfExperts) as records:
            value = reading(model, batch(step, seed))
        chosen = [one[0] for one in records.values()]
        if step % EVERY == 0:
            loads.append([load(one.chosen) for one in chosen])
        if speed:
            for layer, one in zip(layers, chosen, strict=True):
                balance_bias(layer, one, rate=speed)
        return value + routers_loss(records, **settings)

    train(model, loss, description=f"{help}, router {rate} times as fast, seed {seed}", **COLLAPSE)
    found = measure(model.eval())
    return {"bits": found["bits"], "loads": [list(layer) for layer in zip(*loads, strict=True)]}  # layer, look, expert


def plan(arms: list[str]) -> list[dict[str, Any]]:
    """Some arms, all seeds of each."""
    return [{"arm": arm, "seed": seed} for seed in SEEDS for arm in arms]


def main() -> None:
    """Read the command line and do what it says."""
    checkpoints = checkpoint_folder("experts_study", __doc__)
    torch.set_num_threads(1)
    made = {
        **head("experts_study"),
        "config": MODEL,
        "hidden": HIDDEN,
        "experts": EXPERTS,
        "training": TRAINING,
        "batch": [BATCH, WINDOW],
        "balance": BALANCE,
        "collapse training": COLLAPSE,
        "looked at every": EVERY,
        "names": list(kinds("test")),
    }
    results = Results(RESULTS, made)
    one = partial(run, checkpoints=checkpoints)
    results.sweep(plan(list(ARMS)[:FIRST]), one)
    cases = [{"rate": rate, "help": help, "seed": seed} for seed in SEEDS[:1] for rate in RATES for help in HELPS]
    results.sweep(cases, collapse, name="collapse")
    results.sweep(plan(list(ARMS)[FIRST:]), one)


if __name__ == "__main__":
    main()
