"""Painters on MiniLM: every plan of ``dynlib.depth`` over its six layers, the middle growing; written to a JSON file.

``python -m benchmarks.painters_minilm`` needs the two commands in :mod:`dynlib.zoo.minilm`. Interrupt and call it again
to resume. Lecture 05 reads the file, so that its readers do not need the model.

The loss is the one that the model was trained on: of a batch of pairs of texts, each first text must find its second
among all the second ones, softmax(20 · cosine), in nats. Here a pair is two stretches of one page of Python's
documentation, which the model was not trained to match. A model that knows nothing pays log(pairs).
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.cost import interval
from dynlib.data import topics
from dynlib.depth import looped_parallel, middle_repeat, parallel, reverse, shuffle, skip
from dynlib.depth.painters import Parallel, Plan, layer_similarity
from dynlib.zoo import load
from dynlib.zoo.minilm import MiniLM

RESULTS = Path(__file__).with_suffix(".json")
PAIRS, LENGTH, WORDS, SCALE = 48, 48, 40, 20.0
ORDERS = 5  # shuffles of a middle
LOOPS, LOOPED = (1, 2, 3, 4, 5), (2, 4)  # iterations tried, and the sizes of the middle they are tried on
PLANS: dict[str, Callable[..., Plan]] = {
    plan.__name__: plan for plan in (skip, middle_repeat, reverse, parallel, looped_parallel)
}


def pairs(count: int = PAIRS) -> tuple[list[str], list[str]]:
    """First and second stretches of ``count`` pages: words 1 … 40 and 41 … 80 below the page's title.

    A page that repeats what another one says is left out.
    """
    firsts: list[str] = []
    seconds: list[str] = []
    for text in (topics("train") | topics("test")).values():
        body = text.split("\n", 2)[2] if text.count("\n") > 2 else ""
        words = re.sub(r'[*`"=+|-]{2,}', " ", body).split()
        first, second = " ".join(words[:WORDS]), " ".join(words[WORDS : 2 * WORDS])
        if len(words) >= 2 * WORDS and first not in firsts and second not in seconds:
            firsts.append(first)
            seconds.append(second)
    if len(firsts) < count:
        raise ValueError(f"there are {len(firsts)} pages to make pairs of, and {count} are asked for")
    return firsts[:count], seconds[:count]


def fingerprint(texts: tuple[list[str], list[str]]) -> str:
    """What tells texts from others: the pages differ between versions of Python."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


class Sum(nn.Module):
    """Wrong, and measured to be seen: x + Σᵢ Δᵢ(x) in place of the mean."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, hidden: Tensor, *args: Any) -> Tensor:
        """The input and every layer's update to it."""
        return hidden + len(self.layers) * (Parallel(self.layers)(hidden, *args) - hidden)


class Known:
    """Runs plans over a stack of layers. What was run once is not run again."""

    def __init__(self, layers: list[nn.Module]):
        self.layers = layers
        self.known: dict[str, dict[str, Any]] = {}

    def __call__(self, plan: Plan) -> dict[str, Any]:
        """What :meth:`run` finds."""
        key = str([self._place(layer) for layer in plan])
        if key not in self.known:
            self.known[key] = self.run(plan)
        return self.known[key]

    def run(self, plan: Plan) -> dict[str, Any]:
        """What a plan is judged by."""
        raise NotImplementedError

    def _place(self, layer: Any) -> Any:
        if isinstance(layer, Parallel | Sum):
            places = [self._place(inner) for inner in layer.layers]
            return (type(layer).__name__, *places) if len(places) > 1 else places[0]
        return next(place for place, other in enumerate(self.layers) if other is layer)


class Judge(Known):
    """Accuracy and loss of a plan over a model's layers."""

    def __init__(self, model: MiniLM, texts: tuple[list[str], list[str]]):
        tokens, self.mask = model.encode([*texts[0], *texts[1]], length=LENGTH)
        with torch.no_grad():
            self.hidden = model.embed(tokens)
        self.model = model
        super().__init__(list(model.blocks))

    @torch.no_grad()
    def run(self, plan: Plan) -> dict[str, Any]:
        """The share of first texts that find their second, the loss in nats, and that of each pair."""
        hidden = plan(self.hidden, self.mask[:, None, None, :])
        vectors = F.normalize(self.model.readout(hidden, self.mask), dim=-1)
        scores = SCALE * vectors[: len(vectors) // 2] @ vectors[len(vectors) // 2 :].T
        partner = torch.arange(len(scores))
        right = (scores.argmax(-1) == partner).float().mean().item()
        each = F.cross_entropy(scores, partner, reduction="none")
        return {"accuracy": right, "loss": each.mean().item(), "each": each.tolist()}


def middle(depth: int, size: int) -> tuple[int, int]:
    """The middle of that size: the first layer joins it last but one, and the last layer last."""
    first = (depth - size) // 2
    return first, first + size


def plans(judge: Judge, size: int) -> list[dict[str, Any]]:
    """Every plan for a size of the middle.

    Of shuffles a mean over the orders, ``half`` the width of its 95 % interval, and the loss of each order.
    """
    first, last = middle(len(judge.layers), size)
    rows = [{"plan": name, **judge(plan(judge.layers, first, last))} for name, plan in PLANS.items()]
    generators = [torch.Generator().manual_seed(seed) for seed in range(ORDERS)]
    runs = [judge(shuffle(judge.layers, first, last, generator=generator)) for generator in generators]
    losses = [run["loss"] for run in runs]
    spread = interval(losses)
    of_orders = {
        "accuracy": mean(run["accuracy"] for run in runs),
        "loss": spread.mean,
        "half": spread.half,
        "orders": losses,
        "each": [mean(pair) for pair in zip(*(run["each"] for run in runs), strict=True)],
    }
    return [*rows, {"plan": "shuffle", **of_orders}]


def loops(judge: Judge, size: int, iterations: int) -> dict[str, Any]:
    """A middle in parallel, several times over."""
    return judge(looped_parallel(judge.layers, *middle(len(judge.layers), size), iterations=iterations))


def wrong(judge: Judge, size: int) -> dict[str, Any]:
    """A middle in parallel, with the sum in place of the mean."""
    first, last = middle(len(judge.layers), size)
    return judge(Plan([*judge.layers[:first], Sum(judge.layers[first:last]), *judge.layers[last:]]))


@torch.no_grad()
def similarity(judge: Judge) -> Tensor:
    """The similarity of the layers' states, a mean over the tokens of all texts; what was filled up is left out."""
    counts = judge.mask.sum(1)
    each = [layer_similarity(judge.layers, hidden[None, :n]) for hidden, n in zip(judge.hidden, counts, strict=True)]
    return (torch.stack(each) * counts[:, None, None]).sum(0) / counts.sum()


def main() -> None:
    """Run everything and write the file."""
    torch.set_num_threads(1)
    texts = pairs()
    judge = Judge(load("minilm"), texts)
    made = {
        **head("painters_minilm", "transformers"),
        "pairs": PAIRS,
        "tokens": LENGTH,
        "texts": fingerprint(texts),
        "orders": ORDERS,
        "chance": {"loss": math.log(PAIRS), "accuracy": 1 / PAIRS},
    }
    results, sizes = Results(RESULTS, made), range(1, len(judge.layers) + 1)
    full = results.once("full", lambda: judge(Plan(judge.layers)))
    results.once("without one layer", lambda: [judge(skip(judge.layers, one - 1, one)) for one in sizes])
    results.sweep(({"size": size} for size in sizes), partial(plans, judge), name="plans")
    several = [{"size": size, "iterations": iterations} for size in LOOPED for iterations in LOOPS]
    results.sweep(several, partial(loops, judge), name="loops")
    results.sweep(({"size": size} for size in sizes), partial(wrong, judge), name="sum")
    results.once("similarity", lambda: similarity(judge).tolist())
    print(f"{RESULTS.name}: {full}, chance {results.made['chance']}")


if __name__ == "__main__":
    main()
