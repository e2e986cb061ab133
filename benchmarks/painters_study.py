"""Painters twice as deep, and with sums in the text: two depths trained alike, and every plan run; to a JSON file.

``python -m benchmarks.painters_study`` trains models of both depths and runs the plans of ``dynlib.depth`` over them:
some eight minutes of one idle core for 16 layers, four for 8. Call it again after an interruption: what is in the file
already is not run again. Lecture 05 reads the file.

A model learns prose, Python's documentation, and sums, half of its windows each. A sum is ``47+85=13``: two numbers
below 100, and how many tens are in what they make, so that every second time one is carried. (Where the whole sum was
asked for, eight layers of this size had learned its tens and hundreds in 600 steps, and nothing of its last digit.)
What counts are the letters of prose and the digits after ``=``, both in bits; those before are drawn, and nobody can
know them. The sums that a model is tested with are none of those that it was trained with.

The two kinds of text have their own scale. To compare them, the *share lost* is (bits by a plan − bits in order) /
(bits of one who knows only how frequent each letter is, or each digit at its place − bits in order).
"""

import math
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from benchmarks.painters_minilm import PLANS, Known, middle
from benchmarks.study import Results, checkpoint_folder, head
from dynlib.backbone import CausalLM
from dynlib.data import encode, text, windows
from dynlib.depth import looped_parallel, shuffle, skip
from dynlib.depth.painters import Plan, layer_similarity
from dynlib.training import train

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = {16: (0, 1), 8: (0,)}  # of each depth
MODEL: dict[str, Any] = {"vocabulary": 256, "dim": 64, "heads": 2, "hidden": 128}
TRAINING: dict[str, Any] = {"steps": 750, "lr": 4e-3, "weight_decay": 0.05}
BATCH = 16  # windows of either kind
SUMS, SUM = 8, len("47+85=13\n")  # in a window, and the letters of one
ANSWER = slice(6, 8)  # where its digits stand
STRETCHES, SOME = 300, 100  # of either kind: for the largest middle, and for everything else
ORDERS, FEW = 50, 8  # random orders: the same
CHANGED = 0.75  # the share of the layers in the largest middle
SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 7 / 8)  # the other middles
LOOPS, LOOPED = (1, 2, 3, 4, 6, 8, 12), (1 / 4, 3 / 4)  # iterations tried, and the middles they are tried on
KINDS = ("prose", "sums")


class Texts(NamedTuple):
    """Windows of one kind, and which of their letters count."""

    tokens: Int[Tensor, "windows length"]
    counts: Bool[Tensor, " length"]
    """Never the first, which nothing stands before."""


def sums(number: int, generator: torch.Generator, *, held_out: bool = False) -> Texts:
    """Windows of sums. A sum is held out if three times the first number and the second make a last digit of 7."""
    first, second = torch.randint(100, (2, number, SUMS), generator=generator)
    kept_for_test = (7 - 3 * first) % 10
    if held_out:
        second = second // 10 * 10 + kept_for_test
    else:
        second = torch.where(second % 10 == kept_for_test, (second + 1) % 100, second)
    tens = (first + second) // 10
    digits = [value + ord("0") for one in (first, second, tens) for value in (one // 10, one % 10)]
    signs = [torch.full_like(first, ord(sign)) for sign in "+=\n"]
    parts = [part for place in range(3) for part in (*digits[2 * place : 2 * place + 2], signs[place])]
    counts = torch.zeros(SUM, dtype=torch.bool)
    counts[ANSWER] = True
    return Texts(torch.stack(parts, -1).flatten(1), counts.repeat(SUMS))


def prose(number: int, generator: torch.Generator, *, held_out: bool = False) -> Texts:
    """Windows of documentation, as long as those of sums; every letter counts but the first."""
    tokens = encode(text("test" if held_out else "train"))
    return Texts(windows(tokens, number, SUMS * SUM, generator=generator), torch.arange(SUMS * SUM) > 0)


MAKE = dict(zip(KINDS, (prose, sums), strict=True))


def held_out(number: int) -> dict[str, Texts]:
    """What all models are tested with."""
    return {kind: make(number, torch.Generator().manual_seed(1), held_out=True) for kind, make in MAKE.items()}


def bits(logits: Tensor, texts: Texts) -> Tensor:
    """Bits of every letter that counts, [windows, letters]; the last logits say what would follow a window."""
    nats = F.cross_entropy(logits[:, :-1].mT, texts.tokens[:, 1:], reduction="none")
    return nats[:, texts.counts[1:]] / math.log(2)


def guessed(kind: str, texts: Texts) -> float:
    """Bits of one who knows how frequent each letter is, in sums apart for each place of the answer."""
    seen = MAKE[kind](2000, torch.Generator().manual_seed(2))
    places = ANSWER.stop - ANSWER.start if kind == "sums" else 1
    found = []
    for place in range(places):
        known, asked = (some.tokens[:, some.counts][:, place::places] for some in (seen, texts))
        often = torch.bincount(known.flatten(), minlength=MODEL["vocabulary"]) + 0.5
        found.append(-(often / often.sum()).log2()[asked].mean().item())
    return mean(found)


def fit(layers: int, seed: int, *, checkpoints: Path) -> CausalLM:
    """Train one model."""
    torch.manual_seed(seed)
    model = CausalLM(depth=layers, **MODEL)

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(10**6 * (seed + 1) + step)
        batch = [make(BATCH, generator) for make in MAKE.values()]
        logits = model(torch.cat([texts.tokens for texts in batch])).split(BATCH)
        return torch.stack([bits(some, texts).mean() for some, texts in zip(logits, batch, strict=True)]).sum()

    name = f"{layers} layers, seed {seed}"
    train(model, loss, checkpoint=checkpoints / f"painters_{layers}_{seed}.pt", description=name, **TRAINING)
    return model.eval()


class Judge(Known):
    """Bits of a model by a plan: for every kind of text, those of each window."""

    def __init__(self, model: CausalLM, texts: dict[str, Texts]):
        self.model, self.texts = model, texts
        super().__init__(list(model.blocks))

    @torch.no_grad()
    def run(self, plan: Plan) -> dict[str, Tensor]:
        """The mean of each window; a few windows at a time, which fit the cache."""
        found = {}
        for kind, texts in self.texts.items():
            each = [
                bits(self.model.readout(plan(self.model.embed(part))), texts._replace(tokens=part)).mean(1)
                for part in texts.tokens.split(20)
            ]
            found[kind] = torch.cat(each)
        return found

    def orders(self, size: int, number: int) -> dict[str, Tensor]:
        """Random orders of a middle: [orders, windows] for every kind."""
        first, last = middle(len(self.layers), size)
        drawn = [
            self(shuffle(self.layers, first, last, generator=torch.Generator().manual_seed(seed)))
            for seed in range(number)
        ]
        return {kind: torch.stack([run[kind] for run in drawn]) for kind in self.texts}


def means(found: dict[str, Tensor]) -> dict[str, float]:
    """One number for every kind."""
    return {kind: values.mean().item() for kind, values in found.items()}


def lists(found: dict[str, Tensor]) -> dict[str, list[float]]:
    """For a file."""
    return {kind: values.tolist() for kind, values in found.items()}


def largest(judge: Judge) -> dict[str, Any]:
    """The largest middle by every plan: bits of each window, of random orders the mean; and of each order."""
    size = round(CHANGED * len(judge.layers))
    plans = {name: judge(plan(judge.layers, *middle(len(judge.layers), size))) for name, plan in PLANS.items()}
    by_order = judge.orders(size, ORDERS)
    plans["shuffle"] = {kind: runs.mean(0) for kind, runs in by_order.items()}
    return {
        "changed": size,
        "full": lists(judge(Plan(judge.layers))),
        "plans": {name: lists(found) for name, found in plans.items()},
        "orders": lists({kind: runs.mean(1) for kind, runs in by_order.items()}),
    }


def curve(judge: Judge) -> list[dict[str, Any]]:
    """Mean bits by every plan, the middle growing."""
    rows = []
    for size in sizes(judge, SHARES):
        ends = middle(len(judge.layers), size)
        found = {name: judge(plan(judge.layers, *ends)) for name, plan in PLANS.items()}
        found["shuffle"] = judge.orders(size, FEW)
        rows += [{"changed": size, "plan": name, **means(each)} for name, each in found.items()]
    return rows


def loops(judge: Judge) -> list[dict[str, Any]]:
    """Mean bits of middles side by side, by how often they are looped."""
    plan = partial(looped_parallel, judge.layers)
    return [
        {"changed": size, "iterations": often, **means(judge(plan(*middle(len(judge.layers), size), iterations=often)))}
        for size in sizes(judge, LOOPED)
        for often in LOOPS
    ]


def sizes(judge: Judge, shares: Iterable[float]) -> list[int]:
    """Shares of the layers, as numbers of layers."""
    return [round(share * len(judge.layers)) for share in shares]


@torch.no_grad()
def alike(judge: Judge) -> dict[str, list[list[float]]]:
    """The cosines of the layers' states."""
    kinds = judge.texts.items()
    return {kind: layer_similarity(judge.layers, judge.model.embed(texts.tokens)).tolist() for kind, texts in kinds}


def measure(model: CausalLM) -> dict[str, Any]:
    """Everything that is asked of a model that learned both kinds."""
    few, many = Judge(model, held_out(SOME)), Judge(model, held_out(STRETCHES))
    alone = [means(few(skip(few.layers, one, one + 1))) for one in range(len(few.layers))]
    return {
        "guessed": {kind: guessed(kind, texts) for kind, texts in many.texts.items()},
        "in order": means(few(Plan(few.layers))),
        "without one layer": alone,
        "similarity": alike(few),
        "loops": loops(few),
        "curve": curve(few),
        "largest": largest(many),
    }


def run(layers: int, seed: int, *, checkpoints: Path) -> dict[str, Any]:
    """Train one model and measure it."""
    start = time.process_time()
    model = fit(layers, seed, checkpoints=checkpoints)
    trained = time.process_time() - start
    return {"seconds of training": trained, **measure(model)}


def main() -> None:
    """Read the command line, run what is missing and write the file after every model."""
    checkpoints = checkpoint_folder("painters_study", __doc__)
    torch.set_num_threads(1)
    settings = {
        "model": MODEL,
        "training": TRAINING,
        "windows of either kind": BATCH,
        "letters": SUMS * SUM,
        "sums": SUMS,
        "stretches": {"largest": STRETCHES, "else": SOME},
        "orders": {"largest": ORDERS, "else": FEW},
    }
    results = Results(RESULTS, {**head("painters_study"), "settings": settings}, digits=3)
    plan = [{"layers": layers, "seed": seed} for layers, seeds in SEEDS.items() for seed in seeds]
    results.sweep(plan, partial(run, checkpoints=checkpoints))


if __name__ == "__main__":
    main()
