"""Accuracy against FLOPs of thinking before the answer: two language models on sums modulo a number, in a JSON file.

``python -m benchmarks.thinking_study`` trains every arm with every seed. Call it again after an interruption: what is
in the file already is not run again. A seed takes some two minutes of one idle core. Lecture 01 reads the file.

A prompt holds 1 to ``MOST`` different terms, blanks in the slots that are left over, and a start value. A *thought* is
two tokens: one of the terms that are not yet used, whichever, and the value with that term added, modulo ``MODULUS``.
A model that has used all terms says that it is done, and the next token is its answer. A budget forces that word after
so many thoughts; the answer must then add all that is left over in one pass. In training the budget is drawn, but for
a first part in which every problem is thought out. Which term is next is drawn, too, so that a model that samples its
thoughts adds in another order each time: what votes are good for.

The rivals begin as the model that has learned to think, and are trained for as many steps again, on few terms first.
One answers at once, with no token before. One reads pauses in place of thoughts: as many tokens, all alike, before
which nothing is asked. In trials, rivals that began from nothing, or with all numbers of terms, did not even learn to
add one term in that time.

FLOPs are those of ``generate`` with its cache, counted, for the tokens that each problem took; pauses are read one by
one, too. Votes pay for their prompt once, and for each of their thoughts and answers; where there are no thoughts they
share all. Ties go as ``argmax`` breaks them. Sizes, modulus and temperature were chosen in trials of one seed; with a
modulus of 19, one of two models of the small size did not learn to add.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study import Results, checkpoint_folder, head
from dynlib.backbone import CausalLM
from dynlib.cost import count
from dynlib.training import train

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = range(5)
MODULUS, MOST = 11, 6
VOTES = (1, 3, 9)
TEMPERATURE = 0.5  # of the thoughts and answers that vote
TESTED = 500
TERM, TAKEN = MODULUS, 2 * MODULUS  # the values come first, then the terms of a prompt, then those of a thought
BLANK, DONE, PAUSE = range(3 * MODULUS, 3 * MODULUS + 3)
VOCABULARY = 3 * MODULUS + 3
SIZES: dict[str, dict[str, Any]] = {
    "small": {"dim": 16, "depth": 2, "heads": 4, "tied": False},
    "large": {"dim": 48, "depth": 2, "heads": 4, "tied": False},
}
RATES = {"small": 1e-2, "large": 5e-3}
ARMS = {
    "thoughts": "a thought is a term that is left, and the value with it",
    "direct": "the same model, trained on to answer at once",
    "pauses": "the same model, trained on with as many tokens that say nothing",
}
TRAINING: dict[str, Any] = {"steps": 600, "weight_decay": 0.01}
BATCH = 64
EMBEDDED = 0.5  # the standard deviation of embeddings before the training
THOUGHT_OUT = 0.4  # the share of the training before a budget is drawn
FEW_TERMS = {0.4: 1, 0.7: 2, 1.0: MOST}  # until which share of a rival's training how many terms there are at most


class Problems(NamedTuple):
    """Sums; the terms of each are all different."""

    prompt: Int[Tensor, "batch slots+1"]
    order: Int[Tensor, "batch slots"]
    """The terms in the order in which a thinker takes them; from ``number`` on not part of the sum."""
    number: Int[Tensor, " batch"]
    """How many terms, 1 … MOST."""
    values: Int[Tensor, "batch slots+1"]
    """The start value, and the value after each term of ``order``."""
    right: Int[Tensor, " batch"]


def problems(number: int, generator: torch.Generator, *, most: int | None = None) -> Problems:
    """So many sums, of at most ``most`` terms; the slots of a prompt are in another order than ``order``."""
    terms = torch.rand(number, MODULUS, generator=generator).argsort(1)[:, :MOST]
    start = torch.randint(0, MODULUS, (number, 1), generator=generator)
    many = torch.randint(1, (MOST if most is None else most) + 1, (number,), generator=generator)
    shuffled = torch.rand(number, MOST, generator=generator).argsort(1)
    inside = torch.arange(MOST) < many[:, None]
    slots = torch.where(inside, TERM + terms, BLANK).gather(1, shuffled)
    values = torch.cat([start, start + terms.cumsum(1)], dim=1) % MODULUS
    right = values.gather(1, many[:, None])[:, 0]
    return Problems(torch.cat([slots, start], dim=1), terms, many, values, right)


def lesson(
    given: Problems, thoughts: Int[Tensor, " batch"], arm: str
) -> tuple[Int[Tensor, "batch tokens"], Float[Tensor, "batch places vocabulary"]]:
    """What a model reads, and which tokens may follow, from the last one of the prompt on: all that may, alike.

    Args:
        given: the problems.
        thoughts: how many of them stand before the answer, at most as many as a problem has terms.
        arm: which tokens they are.
    """
    batch, places = len(given.prompt), 2 * MOST + 2
    longest = 2 * int(thoughts.max()) + 2
    place, end = torch.arange(places), 2 * thoughts[:, None]
    said = torch.stack([TAKEN + given.order, given.values[:, 1:]], dim=2).flatten(1)
    text = F.pad(said, (0, 2), value=BLANK) if arm == "thoughts" else torch.full((batch, places), PAUSE)
    text = torch.where(place < end, text, BLANK).scatter(1, end, DONE)
    asked = torch.full_like(text, -1).scatter(1, end + 1, given.right[:, None])
    may = torch.zeros(batch, places, VOCABULARY)
    if arm == "thoughts":
        asked = torch.where(place < end, text, asked)
        asked = torch.where((place == end) & (end == 2 * given.number[:, None]), DONE, asked)
        may[:, : 2 * MOST : 2] = left_over(given, thoughts)
    only = F.one_hot(asked.clamp(min=0), VOCABULARY) * (asked >= 0)[..., None]
    may = torch.where(may.any(-1, keepdim=True), may, only)
    return torch.cat([given.prompt, text[:, : longest - 1]], dim=1), may[:, :longest]


def left_over(given: Problems, thoughts: Int[Tensor, " batch"]) -> Float[Tensor, "batch slots vocabulary"]:
    """Before each thought, the terms that are not used, each with its share of 1; nothing where no thought stands."""
    slot = torch.arange(MOST)
    there: Bool[Tensor, "batch slots slots"] = (slot >= slot[:, None]) & (slot < given.number[:, None, None])
    there = there & (slot[:, None] < thoughts[:, None, None])
    index = (TAKEN + given.order)[:, None].expand_as(there)
    shares = there / there.sum(-1, keepdim=True).clamp(min=1)
    return torch.zeros(*there.shape[:2], VOCABULARY).scatter_add(2, index, shares)


def fit(size: str, arm: str, seed: int, *, checkpoints: Path) -> CausalLM:
    """Train one model; a rival begins as the one that thinks."""
    torch.manual_seed(seed)
    model, generator = CausalLM(vocabulary=VOCABULARY, **SIZES[size]), torch.Generator()
    nn.init.normal_(model.embedding.weight, std=EMBEDDED)
    if arm != "thoughts":
        model.load_state_dict(fit(size, "thoughts", seed, checkpoints=checkpoints).state_dict())

    def loss(step: int) -> Tensor:
        generator.manual_seed(1_000_000 * (seed + 1) + step)
        few = next(most for until, most in FEW_TERMS.items() if step < until * TRAINING["steps"])
        given = problems(BATCH, generator, most=MOST if arm == "thoughts" else few)
        budget = torch.randint(0, MOST + 1, (BATCH,), generator=generator)
        if arm == "direct":
            budget = torch.zeros_like(budget)
        elif step < THOUGHT_OUT * TRAINING["steps"]:
            budget = torch.full_like(budget, MOST)
        text, may = lesson(given, torch.minimum(budget, given.number), arm)
        return -(may * model(text)[:, MOST:].log_softmax(-1)).sum() / may.sum()

    path, told = checkpoints / f"thinking_{arm}_{size}_{seed}.pt", f"{arm}, {size}, {seed}"
    train(model, loss, lr=RATES[size], checkpoint=path, description=told, **TRAINING)
    return model.eval()


@torch.no_grad()
def answer(
    model: CausalLM,
    given: Problems,
    budget: int,
    *,
    pauses: bool = False,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """What a model answers to each problem with at most so many thoughts, and how many it had.

    Args:
        model: trained on thoughts or on pauses.
        given: the problems.
        budget: from how many thoughts on the model is made to say that it is done.
        pauses: put pauses in place of thoughts, for each problem as many as it has terms, within the budget.
        temperature: of what is drawn; the likeliest token if 0.
        generator: what draws.
    """

    def likely(logits: Tensor) -> Tensor:
        if temperature == 0:
            return logits.argmax(-1)
        return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]

    told, had = (torch.full_like(given.number, -1) for _ in range(2))
    cache = model.new_cache()
    logits = model(given.prompt, cache=cache)[:, -1]
    for thoughts in range(budget + 1):
        forced = (given.number <= thoughts) if pauses else torch.zeros_like(told, dtype=torch.bool)
        term = torch.full_like(told, PAUSE) if pauses else likely(logits)
        term = torch.where(forced | (thoughts == budget), DONE, term)
        value = likely(model(term[:, None], cache=cache)[:, -1])
        now = (term == DONE) & (had < 0)
        told, had = torch.where(now, value, told), torch.where(now, thoughts, had)
        if thoughts < budget:  # who is done goes on, unheard
            logits = model(torch.full_like(value, PAUSE)[:, None] if pauses else value[:, None], cache=cache)[:, -1]
    return told, had


@torch.no_grad()
def measure(model: CausalLM, arm: str) -> list[dict[str, Any]]:
    """For every budget and number of votes: the share of right answers, the FLOPs of a problem, and its thoughts."""
    given = problems(TESTED, torch.Generator().manual_seed(7))
    one = given.prompt[:1]
    costs = torch.tensor([count(model.generate, one, 2 * thoughts + 2).flops for thoughts in range(MOST + 1)])
    reading = count(model.generate, one, 1).flops  # what all votes share
    many = Problems(*(part.repeat_interleave(max(VOTES), 0) for part in given))
    rows = []
    for budget in range(1 if arm == "direct" else MOST + 1):
        for votes in VOTES if arm == "thoughts" else (1,):
            if votes == 1 or budget == 0:
                told, had = answer(model, given, budget, pauses=arm == "pauses")
                flops = costs[had]
            if votes > 1:
                draws = torch.Generator().manual_seed(8)
                said, took = answer(model, many, budget, temperature=TEMPERATURE, generator=draws)
                said, took = (part.view(TESTED, -1)[:, :votes] for part in (said, took))
                told = F.one_hot(said, VOCABULARY).sum(1).argmax(-1)
                had = took
                flops = costs[took[:, 0]] if budget == 0 else reading + (costs[took] - reading).sum(1)
            right = told == given.right
            rows.append(
                {
                    "thinking": budget,
                    "votes": votes,
                    "flops": flops.double().mean().item(),
                    "thoughts": had.double().mean().item(),
                    "accuracy": right.double().mean().item(),
                    "by terms": [right[given.number == terms].double().mean().item() for terms in range(1, MOST + 1)],
                }
            )
    return rows


def run(size: str, arm: str, seed: int, *, checkpoints: Path) -> list[dict[str, Any]]:
    """Train one model and measure it."""
    start = time.perf_counter()
    model = fit(size, arm, seed, checkpoints=checkpoints)
    seconds = time.perf_counter() - start
    return [{**row, "seconds": seconds} for row in measure(model, arm)]


def main() -> None:
    """Read the command line, and fill the file."""
    checkpoints = checkpoint_folder("thinking_study", __doc__)
    torch.set_num_threads(1)
    made = {
        **head("thinking_study"),
        "settings": {
            "modulus": MODULUS,
            "most": MOST,
            "temperature": TEMPERATURE,
            "tested": TESTED,
            "batch": BATCH,
            "thought out": THOUGHT_OUT,
            "embedded": EMBEDDED,
            "sizes": SIZES,
            "rates": RATES,
            "training": TRAINING,
            "few terms": [[until, most] for until, most in FEW_TERMS.items()],
        },
        "arms": ARMS,
    }
    *main, last = ARMS
    plan = [
        {"size": size, "arm": arm, "seed": seed}
        for arms in (main, [last])
        for seed in SEEDS
        for arm in arms
        for size in SIZES
    ]
    Results(RESULTS, made).sweep(plan, lambda size, arm, seed: run(size, arm, seed, checkpoints=checkpoints))


if __name__ == "__main__":
    main()
