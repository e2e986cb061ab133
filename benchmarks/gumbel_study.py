"""A network with choices inside, trained by each estimator of a gradient through them; written to a JSON file.

``python -m benchmarks.gumbel_study`` trains a network that reads the upper half of a digit, makes ten choices of one of
eight, and paints the lower half from the choices alone. What is minimised is the expected cross-entropy of the pixels
when the choices are *sampled*, and so it is judged: on unseen digits, in nats an image. Step size and temperature are
tuned for each estimator, by the mean of three seeds, on digits held out of the training ones; then come ten seeds. An
estimator that takes several draws of an image gets so many fewer images a step, so that all run the painter equally
often. Nine minutes on one core. Interrupt and call it again to resume. Lecture 02 reads the file.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib import choice
from dynlib.data import digits
from dynlib.data.digits import Split

RESULTS = Path(__file__).with_suffix(".json")
CHOICES, OF, WIDTH, STEPS, BATCH, HELD_OUT = 10, 8, 64, 1000, 128, 200
RATES, TAUS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (0.3, 1.0, 3.0, 10.0, 30.0)
SEEDS, TUNED_ON = range(10), range(100, 103)
DRAWS = 4
"""Of an image, for leave-one-out."""


def one_hot(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Sampled choices, without a gradient."""
    return F.one_hot(choice.gumbel_max(logits, generator=generator), OF).to(logits)


def reinmax(logits: Tensor, tau: float, generator: torch.Generator) -> Tensor:
    """Sampled choices z with the gradient of 2 softmax half way from p at τ to z, less ½ p (arXiv:2304.08612).

    With τ as in the authors' code: it moves the point half way, and draws and the slope of p are at τ = 1.
    """
    z, p = one_hot(logits, generator), logits.softmax(-1)
    half_way = (((logits / tau).softmax(-1) + z) / 2).detach().log()
    return choice.straight_through(z, 2 * (logits - logits.detach() + half_way).softmax(-1) - p / 2)


Make = Callable[[Tensor, float, torch.Generator], Tensor]
THROUGH: dict[str, Make] = {
    "softmax": lambda logits, tau, generator: logits.softmax(-1),
    "softmax-STE": lambda logits, tau, generator: choice.softmax_ste(logits),
    "Gumbel-softmax": lambda logits, tau, generator: choice.gumbel_softmax(logits, tau, generator=generator),
    "ST Gumbel": lambda logits, tau, generator: choice.gumbel_softmax(logits, tau, hard=True, generator=generator),
    "ReinMax": reinmax,
}
"""Estimators by autograd through z."""
SCORE = "score function, leave-one-out"
TEMPERED = ("Gumbel-softmax", "ST Gumbel", "ReinMax")


def halves(split: Split) -> tuple[Tensor, Tensor]:
    """Upper halves of the 8 × 8 digits [n, 32], and lower halves as zeros and ones."""
    images = digits(split).images.flatten(1)
    return images[:, :32], (images[:, 32:] > 0.5).to(images)


def nats(painter: nn.Module, z: Tensor, lower: Tensor) -> Tensor:
    """Cross-entropy of each lower half, summed over its pixels; z [..., CHOICES, OF]."""
    logits = painter(z.flatten(-2))
    return F.binary_cross_entropy_with_logits(logits, lower.expand_as(logits), reduction="none").sum(-1)


def run(estimator: str, rate: float, tau: float, seed: int, tuning: bool) -> dict[str, Any]:
    """Train by one estimator; the loss of sampled choices on held-out digits."""
    torch.manual_seed(seed)
    reader = nn.Sequential(nn.Linear(32, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CHOICES * OF), nn.Unflatten(-1, (-1, OF)))
    painter = nn.Sequential(nn.Linear(CHOICES * OF, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 32))
    optimizer = torch.optim.Adam([*reader.parameters(), *painter.parameters()], lr=rate)
    generator = torch.Generator().manual_seed(seed)
    upper, lower = halves("train")
    unseen = (upper[-HELD_OUT:], lower[-HELD_OUT:]) if tuning else halves("test")
    upper, lower = upper[:-HELD_OUT], lower[:-HELD_OUT]
    for _ in range(STEPS):
        images = torch.randint(len(upper), (BATCH // DRAWS if estimator == SCORE else BATCH,), generator=generator)
        logits, wanted = reader(upper[images]), lower[images]
        if estimator == SCORE:
            z = one_hot(logits.expand(DRAWS, -1, -1, -1), generator)
            losses = nats(painter, z, wanted)  # [draws, images]
            log_p = (z * logits.log_softmax(-1)).sum((-2, -1))
            others = (losses.sum(0) - losses) / (DRAWS - 1)
            loss = (losses + (losses - others).detach() * log_p).mean()
        else:
            loss = nats(painter, THROUGH[estimator](logits, tau, generator), wanted).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits = reader(unseen[0])
        z = one_hot(logits.expand(20, -1, -1, -1), torch.Generator().manual_seed(0))
        return {"loss": nats(painter, z, unseen[1]).mean().item()}


def grid(estimator: str) -> list[dict[str, float]]:
    """The settings that an estimator is tuned over."""
    return [{"rate": rate, "tau": tau} for rate in RATES for tau in (TAUS if estimator in TEMPERED else (1.0,))]


def main() -> None:
    """Run everything and write the file."""
    torch.set_num_threads(1)
    network = {"choices": CHOICES, "of": OF, "width": WIDTH}
    training = {"steps": STEPS, "batch": BATCH, "draws": DRAWS, "held out": HELD_OUT, "rates": RATES, "taus": TAUS}
    settings = {"network": network, "training": training}
    results = Results(RESULTS, {**head("gumbel_study"), **settings})
    names = [SCORE, *THROUGH]
    tried = results.sweep(
        ({"estimator": name, **setting, "seed": seed} for name in names for setting in grid(name) for seed in TUNED_ON),
        partial(run, tuning=True),
        name="tuning",
    )
    lost: dict[tuple[str, float, float], float] = defaultdict(float)
    for row in tried:
        lost[row["estimator"], row["rate"], row["tau"]] += row["loss"]
    best = {name: min((key for key in lost if key[0] == name), key=lost.__getitem__) for name in names}
    results.sweep(
        (
            {"estimator": name, "rate": best[name][1], "tau": best[name][2], "seed": seed}
            for name in names
            for seed in SEEDS
        ),
        partial(run, tuning=False),
    )


if __name__ == "__main__":
    main()
