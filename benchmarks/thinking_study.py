"""Accuracy against FLOPs of thinking before the answer: two language models on modular arithmetic, in a JSON file.

``python -m benchmarks.thinking_study`` takes a few minutes on one quiet core. Interrupt and call again to resume.
Lecture 01 reads the file.

A prompt is a token that says how many thinking tokens are to come, ``STEPS`` operations x ↦ a x + b (mod ``MODULUS``),
and a start value. The thinking tokens are the values after every so many operations, and the answer is the value after
the last: without a thinking token the model has to do all operations at once, with one after each but the last it does
one at a time. A model learns the longest thinking first, where it does single operations, then shorter ones. FLOPs are
those of ``generate`` with its cache, counted; a vote pays for its prompt once and for each of its answers, and ties go
as ``argmax`` breaks them.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.backbone import CausalLM
from dynlib.cost import count
from dynlib.training import train

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = (0, 1)
MODULUS, STEPS = 3, 8
THINKING = (0, 1, 3, 7)  # tokens: a value after every 8, 4, 2 or 1 operations
VOTES = (1, 3, 9)
TEMPERATURE = 1.0  # of the answers that vote
TESTED = 1000
OPERATIONS = (MODULUS - 1) * MODULUS
VOCABULARY = MODULUS + OPERATIONS + len(THINKING)  # values, operations, budgets
SIZES: dict[str, dict[str, int]] = {
    "small": {"dim": 32, "depth": 2, "heads": 4},
    "large": {"dim": 64, "depth": 3, "heads": 4},
}
TRAINING: dict[str, Any] = {"steps": 1600, "lr": 5e-3, "weight_decay": 0.01}
BATCH = 64
LESSONS = {
    400: (7,),
    1000: (3, 7),
    TRAINING["steps"]: THINKING,
}  # until which step which lengths: single operations first


def problems(number: int, thinking: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Prompts [number, STEPS + 2], and what is to follow: the thinking and the answer, [number, thinking + 1]."""
    value = torch.randint(0, MODULUS, (number, 1), generator=generator)
    operations = torch.randint(0, OPERATIONS, (number, STEPS), generator=generator)
    factor, shift = 1 + operations // MODULUS, operations % MODULUS
    values = [value]
    for step in range(STEPS):
        values.append((factor[:, step, None] * values[-1] + shift[:, step, None]) % MODULUS)
    every = STEPS // (thinking + 1)
    budget = torch.full((number, 1), MODULUS + OPERATIONS + THINKING.index(thinking))
    prompt = torch.cat([budget, MODULUS + operations, value], dim=1)
    return prompt, torch.cat(values[every::every], dim=1)


def fit(size: str, seed: int, *, checkpoints: Path) -> CausalLM:
    """Train one model; every batch is of one length of thinking, in turn."""
    torch.manual_seed(seed)
    model, generator = CausalLM(vocabulary=VOCABULARY, **SIZES[size]), torch.Generator()

    def loss(step: int) -> Tensor:
        generator.manual_seed(1_000_000 * (seed + 1) + step)
        lengths = next(lengths for until, lengths in LESSONS.items() if step < until)
        prompt, follows = problems(BATCH, lengths[step % len(lengths)], generator)
        logits = model(torch.cat([prompt, follows[:, :-1]], dim=1))[:, prompt.shape[1] - 1 :]
        return F.cross_entropy(logits.flatten(0, 1), follows.flatten())

    train(model, loss, checkpoint=checkpoints / f"thinking_{size}_{seed}.pt", description=f"{size}, {seed}", **TRAINING)
    return model.eval()


@torch.no_grad()
def measure(model: CausalLM) -> list[dict[str, Any]]:
    """For every length of thinking and number of votes: the share of right answers, and the FLOPs of one problem."""
    rows = []
    for thinking in THINKING:
        prompt, follows = problems(TESTED, thinking, torch.Generator().manual_seed(7))
        right, new = follows[:, -1], thinking + 1
        once = count(model.generate, prompt[:1], new).flops
        reading = count(model.generate, prompt[:1], 1).flops  # what all votes share
        for votes in VOTES:
            if votes == 1:
                told = model.generate(prompt, new)[:, -1]
            else:
                draws = torch.Generator().manual_seed(8)
                said = model.generate(
                    prompt.repeat_interleave(votes, 0), new, temperature=TEMPERATURE, generator=draws
                )[:, -1].view(TESTED, votes)
                told = F.one_hot(said, VOCABULARY).sum(1).argmax(-1)
            rows.append(
                {
                    "thinking": thinking,
                    "votes": votes,
                    "flops": reading + votes * (once - reading),
                    "accuracy": (told == right).double().mean().item(),
                }
            )
    return rows


def run(size: str, seed: int, *, checkpoints: Path) -> list[dict[str, Any]]:
    """Train one model and measure it."""
    return measure(fit(size, seed, checkpoints=checkpoints))


def main() -> None:
    """Read the command line, and fill the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.thinking_study", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    checkpoints = parser.parse_args().checkpoints
    torch.set_num_threads(1)
    made = {
        **head("thinking_study"),
        "settings": {
            "modulus": MODULUS,
            "steps": STEPS,
            "temperature": TEMPERATURE,
            "tested": TESTED,
            "batch": BATCH,
            "lessons": [[until, list(lengths)] for until, lengths in LESSONS.items()],
            "sizes": SIZES,
            "training": TRAINING,
        },
    }
    plan = [{"size": size, "seed": seed} for seed in SEEDS for size in SIZES]
    Results(RESULTS, made).sweep(plan, lambda size, seed: run(size, seed, checkpoints=checkpoints))


if __name__ == "__main__":
    main()
