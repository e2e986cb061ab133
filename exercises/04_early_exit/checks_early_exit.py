"""The checks of unit 04. Exits are judged sample by sample, p-values in whole numbers, verification by its law."""

import functools
import itertools
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from dynlib import checks
from dynlib.backbone import Block, CausalLM, LayerCache
from dynlib.checks import Task, Watched
from dynlib.data import cluttered_digits
from dynlib.zoo import load

WITHOUT = ("dynlib", "scipy", "sklearn")


def _by_hand(check: Task, *answers: Any) -> None:
    check.by_hand(
        "by hand",
        *answers,
        without=WITHOUT,
        tested="what your code, and the helpers that it calls, import and name",
        likely="build it from PyTorch and Python's standard library: it is what the task is about",
    )


def _ran(
    check: Task, call: Callable[[], Any], on: str, likely: str | Callable[[str], str], *kinds: type[Exception]
) -> Any:
    """What the call gives; where it ends in an error of these kinds, the usual reason for it here, or for its text."""
    try:
        return call()
    except kinds as error:
        if isinstance(error, NotImplementedError):
            raise
        frames = traceback.extract_tb(error.__traceback__)[1:]  # from the answer on
        lines = [frame.line for frame in frames if frame.filename == frames[0].filename]
        got = f"{type(error).__name__}: {error}" + (f", at the line: {lines[-1]}" if lines and lines[-1] else "")
        why = likely if isinstance(likely, str) else likely(str(error))
        check.true("runs", False, tested=on, expected="a result", got=got, likely=why)


# ---- task 1: exit_loss


def exit_loss(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    sizes: Iterable[tuple[int, int, int]] = ((3, 4, 5), (1, 2, 3)),
    dtype: torch.dtype = torch.float64,
    seed: int = 1,
) -> None:
    """Task 1: random logits [exits, batch, classes], value and gradient; then logits too large for an exponential."""
    _by_hand(check, answer)
    tolerance = 1e-8 if dtype == torch.float64 else 1e-5
    for exits, batch, classes in sizes:
        logits = checks.normal(exits, batch, classes, seed=seed, dtype=dtype).mul(2).requires_grad_()
        labels = (torch.arange(batch) * 7 + 3) % classes
        right, wrong = _losses(logits.tolist(), labels.tolist())
        on = f"{exits} exits, {batch} samples, {classes} classes, {dtype}"
        with check.untouched(tested=on, logits=logits, labels=labels):
            loss = answer(logits, labels)
        check.true(
            "a tensor",
            isinstance(loss, Tensor),
            tested=f"the loss: {on}",
            expected="a tensor with a graph",
            got=loss,
            likely=".item() takes the graph away: what is minimised stays a tensor",
        )
        check.equal(
            "one number",
            tuple(loss.shape),
            (),
            tested=f"the shape of the loss: {on}",
            likely="a mean over the batch for each exit, then the weighted mean of the exits",
        )
        check.close(
            "value",
            loss.detach(),
            torch.tensor(right, dtype=dtype),
            tested=on,
            tolerance=tolerance,
            likely="(CE₁ + 2 CE₂ + 3 CE₃ + …) / (1 + 2 + 3 + …), each CE a mean over the batch",
            mistakes={says: torch.tensor(value, dtype=dtype) for says, value in wrong.items() if value != right},
        )
        check.true(
            "has a gradient",
            loss.requires_grad,
            tested="whether a gradient can flow through the loss",
            expected="requires_grad=True",
            got=loss.requires_grad,
            likely="torch.tensor of a list of losses, detach(), no_grad() or .item() on the way: torch.stack keeps the "
            "graph",
        )
        # softmax minus one-hot, over the batch, times the exit's share of the weights
        slope = (logits.detach().softmax(-1) - torch.eye(classes, dtype=dtype)[labels]) / batch
        shares = torch.tensor([(i + 1) / sum(range(exits + 1)) for i in range(exits)], dtype=dtype)
        check.close(
            "gradient",
            _reaching(loss, logits),
            slope * shares[:, None, None],
            tested=f"the gradient that reaches the logits of every exit: {on}",
            tolerance=tolerance,
            likely="each exit's loss must stand in the mean with its graph",
        )
    large = torch.tensor([[[1000.0, 0.0]], [[0.0, 1000.0]]], requires_grad=True)
    loss = answer(large, torch.tensor([1]))
    check.close(
        "large logits",
        loss.detach(),
        torch.tensor(1000 / 3),
        tested="logits 1000 and 0, the first exit sure of the wrong class, the second of the right one",
        tolerance=1e-5,
        likely="softmax, then log, is -inf: use log_softmax or cross_entropy",
    )
    check.close(
        "gradient of large logits",
        _reaching(loss, large),
        torch.tensor([[[1 / 3, -1 / 3]], [[0.0, 0.0]]]),
        tested="the gradient at the same logits",
        likely="softmax, then log, is -inf: use log_softmax or cross_entropy",
    )


def _reaching(loss: Tensor, logits: Tensor) -> Tensor:
    """The gradient of the loss; zeros where none arrives."""
    (slope,) = torch.autograd.grad(loss, logits, allow_unused=True)
    return torch.zeros_like(logits) if slope is None else slope


def _losses(logits: list[list[list[float]]], labels: list[int]) -> tuple[float, dict[str, float]]:
    """The loss, number by number, and what known mistakes make of it."""
    exits, batch = len(logits), len(labels)
    steps, backwards = range(1, exits + 1), range(exits, 0, -1)

    def cost(row: Sequence[float], label: int) -> float:
        return math.log(sum(math.exp(z) for z in row)) - row[label]

    def probabilities(row: Sequence[float]) -> list[float]:
        return [math.exp(z) / sum(math.exp(other) for other in row) for z in row]

    each = [[cost(row, y) for row, y in zip(guess, labels, strict=True)] for guess in logits]
    means = [sum(costs) / batch for costs in each]
    twice = [sum(cost(probabilities(r), y) for r, y in zip(guess, labels, strict=True)) / batch for guess in logits]
    turned = [
        sum(cost(row, labels[(batch * i + j) // exits]) for j, row in enumerate(guess)) / batch
        for i, guess in enumerate(logits)
    ]
    together = [[sum(z) / exits for z in zip(*rows, strict=True)] for rows in zip(*logits, strict=True)]
    over_batch = [sum(cost([r[y] for r in guess], place) for place, y in enumerate(labels)) / batch for guess in logits]
    over_exits = [
        sum(cost([other[j][y] for other in logits], i) for j, y in enumerate(labels)) / batch for i in range(exits)
    ]

    def weighted(weights: Iterable[float], values: list[float] = means) -> float:
        return sum(w * value for w, value in zip(weights, values, strict=True))

    whole = sum(steps)
    return weighted(steps) / whole, {
        "it is not divided by the sum of the weights, 1 + 2 + 3 + …": weighted(steps),
        "divided by the number of exits: divide by the sum of the weights": weighted(steps) / exits,
        "divided by 1 + 2 + 3: there are len(logits) exits": weighted(steps) / 6,
        "the weights start at 0, and the first exit learns nothing: they are 1, 2, 3, …": (
            weighted(range(exits)) / max(1, sum(range(exits)))
        ),
        "the weights start at 0 and are divided by the sum of 1, 2, 3, …": weighted(range(exits)) / whole,
        "the weights run backwards: the last exit weighs most": weighted(backwards) / whole,
        "that is the sum over the batch: take the mean": batch * weighted(steps) / whole,
        "all exits weigh alike: exit i weighs i": sum(means) / exits,
        "the weights are float32: make them of the dtype of the logits, or plain numbers": weighted(
            (torch.arange(1, exits + 1) / whole).tolist()
        ),
        "that is the sum of the exits' losses: a mean, with weights": sum(means),
        "the weights double from exit to exit: they are 1, 2, 3, …": weighted([2**i for i in range(exits)])
        / (2**exits - 1),
        "that is the last exit alone": means[-1],
        "the sign: the loss is minus the log-probability of the label": -weighted(steps) / whole,
        "cross_entropy wants logits, not probabilities: it takes the softmax itself": weighted(steps, twice) / whole,
        "the softmax runs over the batch: log_softmax over the classes, the last dimension": (
            weighted(steps, over_batch) / whole
        ),
        "the softmax runs over the exits: log_softmax over the classes, the last dimension": (
            weighted(steps, over_exits) / whole
        ),
        "the labels are out of step with the samples: repeat the whole row of labels, exit by exit": (
            weighted(steps, turned) / whole
        ),
        "the logits of the exits are averaged: every exit has a loss of its own": (
            sum(cost(r, y) for r, y in zip(together, labels, strict=True)) / batch
        ),
    }


# ---- task 2: gathered


def due(layers: Sequence[int], depth: int) -> Tensor:
    """Logits [exits, samples, classes] of samples that are sure after so many layers; 9: never."""
    table = torch.zeros(depth, len(layers), 3)
    for sample, first in enumerate(layers):
        table[:, sample, 1] = sample / 100
        table[first - 1 :, sample, sample % 2] += 60
    return table


MEMORY = torch.tensor(
    [  # an exit a row, a sample a column
        [[6.0, 0, 0], [2.0, 0, 0], [0, 3.3, 0], [0, 0, 9.0], [1.0, 0, 0]],
        [[0.0, 8, 0], [2.0, 0, 0], [0, 3.3, 0], [9.0, 0, 0], [0, 9.0, 0]],
        [[0.0, 8, 0], [2.0, 0, 0], [0, 3.3, 0], [9.0, 0, 0], [0, 9.0, 0]],
        [[0.0, 8, 0], [2.0, 0, 0], [0, 3.3, 0], [9.0, 0, 0], [0, 9.0, 0]],
    ]
)
"""Exits that contradict each other, hesitate, and are sure."""
RISING, FALLING, EVEN = (0.9, 0.97, 0.99), (0.999, 0.95, 0.9), (0.9, 0.9, 0.9)
Case = tuple[str, Tensor, Sequence[float]]


class Stage:
    """Blocks and heads that give the logits of a table [exits, samples, classes]; they note what they see.

    A token holds who it is, and how many blocks it went through. Each head marks its logits.
    """

    def __init__(self, table: Tensor) -> None:
        depth, samples, classes = table.shape
        marks = torch.zeros(depth, 1, classes)
        marks[:, 0, -1] = torch.arange(depth) / 100
        self.said, self.table, self.marks = table + marks, table, marks[:, 0]
        self.tokens = torch.zeros(samples, 2, 3)
        self.tokens[:, :, 0] = torch.arange(samples)[:, None]
        self.blocks = [Watched(lambda tokens: tokens + torch.tensor([0.0, 1.0, 0.0])) for _ in range(depth)]
        self.heads = [Watched(self._head(number)) for number in range(depth)]

    def _head(self, number: int) -> Callable[[Tensor], Tensor]:
        def read(tokens: Tensor) -> Tensor:
            who, layers = (tokens[:, 0, place].round().long() for place in (0, 1))
            return self.table[(layers - 1) % len(self.table), who] + self.marks[number]

        return read


def gathered(
    check: Task,
    answer: Callable[..., tuple[Tensor, Tensor]],
    *,
    stages: Iterable[Case] = (
        ("sure after 2, 1, never, 1, 3, 2 of 4 layers", due([2, 1, 9, 1, 3, 2], 4), EVEN),
        ("sure after 2, 1, 2 of 4 layers", due([2, 1, 2], 4), RISING),
        ("1 sample, sure after 3 of 4 layers", due([3], 4), EVEN),
        ("exits that contradict each other", MEMORY, FALLING),
        ("exits that contradict each other, other thresholds", MEMORY, RISING),
    ),
    networks: Iterable[tuple[int, int, int]] = ((3, 5, 4),),
    thresholds: Iterable[float] = (0.0, 0.6, 1.5),
) -> None:
    """Task 2: layers that read from a table (name, table, thresholds), then transformers (depth, batch, classes)."""
    _by_hand(check, answer)
    for name, table, limits in stages:
        stage = Stage(table)
        on = f"{name}, thresholds {', '.join(f'{limit:g}' for limit in limits)}"
        walked = _walked(stage.said, limits)
        leaves = [number for number, _ in walked]
        with check.untouched(tested=on, tokens=stage.tokens):
            got = _ran(
                check,
                functools.partial(answer, stage.tokens, stage.blocks, stage.heads, list(limits)),
                on,
                "the sizes of two rows do not fit: after a shrinking, the tokens, their places and the sum of logits "
                "have as many rows as samples are still in; results[sure] has as many as came: results[waiting[sure]]",
                RuntimeError,
                IndexError,
            )
        _pair(check, got, on, table.shape[1], table.shape[2])
        check.equal(
            "exit",
            got[1],
            torch.tensor(leaves),
            tested=on,
            likely="keep, beside the tokens, whose rows they are and the sum of their logits so far, and shrink all "
            "three; the last exit takes all others",
            mistakes=_mistaken_leaves(stage, limits, leaves),
        )
        check.close(
            "logits",
            got[0],
            torch.tensor([logits for _, logits in walked]),
            tested=f"the logits: {on}",
            tolerance=1e-5,
            likely="each sample has the mean of its exits' logits, up to the one it left at: the sum so far must "
            "shrink with the batch",
            mistakes=_mistaken_logits(stage, limits, leaves),
        )
        _calls(check, stage.blocks, stage.heads, leaves, on)
    for depth, batch, classes in networks:
        _against_alone(check, answer, depth, batch, classes, thresholds)
    kept = torch.arange(18.0).view(3, 2, 3)
    with check.untouched(
        tested="exits that keep the logits they hand out, thresholds that nobody reaches", logits=kept
    ):
        answer(torch.zeros(2, 1, 3), [nn.Identity()] * 3, [lambda _, row=row: row for row in kept], [2.0, 2.0])
    certain = torch.zeros(3, 2, 3)
    certain[:, 0, 1] = 200.0
    edges = (
        ("two classes with equal logits, thresholds 0.5", torch.zeros(3, 2, 2), [0.5, 0.5], [0, 0]),
        ("one sample with probability 1, thresholds 1", certain, [1.0, 1.0], [0, 2]),
        ("one sample with probability 1, thresholds just above 1", certain, [1.0001, 1.0001], [2, 2]),
        ("two classes with equal logits, thresholds 1 and 0", torch.zeros(3, 2, 2), [1.0, 0.0], [1, 1]),
    )
    for name, table, limits, right in edges:
        said = [lambda tokens, row=row: row[tokens[:, 0, 0].long()] for row in table]
        places = torch.arange(2.0)[:, None, None].expand(2, 1, 3).clone()
        check.equal(
            "just enough",
            answer(places, [nn.Identity()] * 3, said, limits)[1],
            torch.tensor(right),
            tested=name,
            likely="a confidence of just λ is enough (>=), above 1 nothing is, and 0 always",
        )


def _walked(
    said: Tensor,
    thresholds: Sequence[float],
    *,
    own: bool = False,
    total: bool = False,
    enough: Callable[[float, float], bool] = lambda sure, limit: sure >= limit,
) -> list[tuple[int, list[float]]]:
    """Every sample walks from exit to exit: where it leaves, and with which logits."""
    found = []
    for rows in said.transpose(0, 1).tolist():
        for number in range(len(rows)):
            seen = rows[number : number + 1] if own else rows[: number + 1]
            logits = [sum(column) / (1 if total else len(seen)) for column in zip(*seen, strict=True)]
            odds = [math.exp(z - max(logits)) for z in logits]
            if number == len(rows) - 1 or enough(1 / sum(odds), thresholds[number]):
                found.append((number, logits))
                break
    return found


def _by_probabilities(said: Tensor, thresholds: Sequence[float]) -> list[int]:
    """Where each sample leaves if the exits' probabilities are averaged in place of their logits."""
    asked = said.softmax(-1).cumsum(0) / torch.arange(1, len(said) + 1)[:, None, None]
    limits = [*thresholds, 0.0]
    return [
        next(number for number, sure in enumerate(row) if sure >= limits[number]) for row in asked.amax(-1).T.tolist()
    ]


def _pair(check: Task, got: Any, on: str, batch: int, classes: int) -> None:
    check.true(
        "a pair",
        isinstance(got, tuple | list) and [getattr(part, "ndim", None) for part in got] == [2, 1],
        tested=f"what gathered gives for {on}",
        expected=f"logits [{batch}, {classes}], then exit numbers [{batch}]",
        got=[list(getattr(part, "shape", ())) for part in got] if isinstance(got, tuple | list) else got,
        likely="two tensors: return logits, leaves",
    )


def _calls(check: Task, blocks: Iterable[Watched], heads: Iterable[Watched], leaves: list[int], on: str) -> None:
    """Every block and head is called once at most, with those who are still in."""
    for name, parts in (("samples a block saw", blocks), ("samples a head saw", heads)):
        saw = [[len(given) for given in part.given] for part in parts]
        still = [sum(leave >= layer for leave in leaves) for layer in range(len(saw))]
        right = [[number] if number else [] for number in still]
        check.true(
            "no empty batch",
            [0] not in saw,
            tested=f"the batch size of every call, layer by layer: {on}",
            expected=_told(right),
            got=_told(saw),
            likely="called with an empty batch: stop when nobody is left",
        )
        wrong = {
            "everything is computed and then picked: take the rows that are still in, and give only those on": (
                [[still[0]]] * len(saw)
            ),
            "sample by sample: all who are still in go through a layer in one call": [[1] * number for number in still],
            "computed twice: keep what a block or a head gave": [[number] * 2 if number else [] for number in still],
            "asked of all: a head reads for those who are still in": [[still[0]], *([number] for number in still[:-1])],
        }
        check.equal(
            name,
            saw,
            right,
            tested=f"the batch size of every call, layer by layer: {on}",
            likely="give on only the rows that are still in, and stop when none is",
            mistakes={says: value for says, value in wrong.items() if value != right},
        )


def _told(sizes: list[list[int]]) -> str:
    return ", ".join(" and ".join(map(str, calls)) or "none" for calls in sizes)


def _mistaken_leaves(stage: Stage, limits: Sequence[float], leaves: list[int]) -> dict[str, Tensor]:
    depth, last = len(stage.said), len(stage.said) - 1
    order = sorted(range(len(leaves)), key=lambda sample: leaves[sample])  # in which they leave
    local, stale = [0] * len(leaves), [0] * len(leaves)
    inside, rows = list(range(len(leaves))), list(range(len(leaves)))  # rows: numbered anew at every shrinking
    for layer in range(depth):
        for row, sample in enumerate(inside):
            if leaves[sample] == layer:
                local[row] = stale[rows[row]] = layer
        rows = [place for place, sample in enumerate(inside) if leaves[sample] > layer]
        inside = [sample for sample in inside if leaves[sample] > layer]

    def stops(thresholds: Sequence[float] = limits, **options: Any) -> list[int]:
        return [number for number, _ in _walked(stage.said, thresholds, **options)]

    wrong = {
        "each exit decides by its own logits: the confidence is that of the mean over the exits so far": stops(
            own=True
        ),
        "the sum of the logits is surer than their mean: divide by the number of exits so far": stops(total=True),
        "the mean of the probabilities: take the mean of the logits, and its softmax": _by_probabilities(
            stage.said, limits
        ),
        "the first threshold for all: exit i has thresholds[i]": stops(list(limits[:1]) * last),
        "the last threshold for all: exit i has thresholds[i]": stops(list(limits[-1:]) * last),
        "the thresholds run backwards": stops(limits[::-1]),
        "in the order in which they left: put them back in the order in which they came": sorted(leaves),
        "rows of the shrunken batch are taken for samples: after a shrinking, row 0 is whoever is still in": local,
        "right until the second shrinking: then the rows are numbered within the batch before; pick from who waits, "
        "waiting = waiting[~sure]": stale,
        "put in order the wrong way round: row k of what left belongs to sample order[k]": [
            sorted(leaves)[sample] for sample in order
        ],
        "the softmax is over the classes, and every sample leaves on its own: here all wait until the last": [last]
        * len(leaves),
        "one layer late: heads[i] reads what blocks[i] gives, not what goes into it": [
            min(leave + 1, last) for leave in leaves
        ],
        "all leave at the first exit: the confidence is the largest probability, after the softmax; and write to "
        "leaves[waiting[sure]], since leaves[waiting][sure] is a copy": [0] * len(leaves),
        "exits count from 0": [leave + 1 for leave in leaves],
        "the sample that is never sure leaves at the last exit": [0 if leave == last else leave for leave in leaves],
        "the sample that is never sure leaves at the last exit, by its number": [
            -1 if leave == last else leave for leave in leaves
        ],
    }
    return {says: torch.tensor(value) for says, value in wrong.items() if value != leaves}


def _mistaken_logits(stage: Stage, limits: Sequence[float], leaves: list[int]) -> dict[str, Tensor]:
    batch, last = range(len(leaves)), len(stage.said) - 1
    right = torch.tensor([logits for _, logits in _walked(stage.said, limits)])
    order = sorted(batch, key=lambda sample: leaves[sample])
    empty = right.clone()
    empty[torch.tensor(leaves) == last] = 0
    means = stage.said.cumsum(0) / torch.arange(1, last + 2)[:, None, None]
    own = torch.stack([stage.said[leaves[sample], sample] for sample in batch])
    total = torch.stack([stage.said[: leaves[sample] + 1, sample].sum(0) for sample in batch])
    halves = list(itertools.accumulate(stage.said, lambda old, new: (old + new) / 2))
    wrong = {
        "(old + new) / 2 is no mean of three: keep the sum, and divide by the number of exits": torch.stack(
            [halves[leaves[sample]][sample] for sample in batch]
        ),
        "these are the logits of the exit itself: give the mean over the exits up to it": own,
        "that is the sum over the exits: divide by their number": total,
        "divided by the number of all exits: divide by that of the exits which the sample asked": total / (last + 1),
        "in the order in which they left: put them back in the order in which they came": right[order],
        "put in order the wrong way round": right[order][order],
        "these are the means over all exits for everyone: each sample keeps that of the exit it left at": means[-1],
        "the sample that is never sure has no logits: the last head takes it": empty,
        "these are probabilities: give the logits": right.softmax(-1),
    }
    return {says: value for says, value in wrong.items() if not torch.equal(value, right)}


def _against_alone(
    check: Task, answer: Callable[..., Any], depth: int, batch: int, classes: int, thresholds: Iterable[float]
) -> None:
    """Transformer blocks in float64, each sample held against itself alone."""
    plain = [Block(8, 2).double() for _ in range(depth)]
    linear = [nn.Linear(8, classes).double() for _ in range(depth)]
    tokens = torch.randn(batch, 3, 8, dtype=torch.float64) * 2
    for threshold in thresholds:
        limits = [threshold * (1 - 0.02 * number) for number in range(depth - 1)]
        blocks = nn.ModuleList(Watched(block) for block in plain)
        heads = nn.ModuleList(Watched(lambda x, head=head: 3 * head(x[:, 0])) for head in linear)
        what = f"{depth} transformer blocks, {batch} samples, {classes} classes, thresholds from {threshold:g} down"
        with torch.no_grad():
            got = _ran(
                check,
                functools.partial(answer, tokens.clone(), blocks, heads, limits),
                f"{what}, float64",
                "the results are of the dtype of the heads: torch.empty_like(…), or logits.new_empty(batch, classes)",
                RuntimeError,
            )
            said = torch.cat([_alone(sample[None], plain, linear) for sample in tokens], dim=1)
        walked = _walked(said, limits)
        _pair(check, got, what, batch, classes)
        stops = [number for number, _ in walked]
        check.equal("each as if alone", got[1], torch.tensor(stops), tested=f"the exits: {what}")
        check.close(
            "logits as if alone",
            got[0],
            torch.tensor([logits for _, logits in walked], dtype=torch.float64),
            tested=f"the logits: {what}",
            tolerance=1e-8,
            likely="shape and dtype of the results are those of the heads",
        )
        _calls(check, blocks, heads, stops, what)


def _alone(sample: Tensor, blocks: list[Block], heads: list[nn.Linear]) -> Tensor:
    """What all exits say of one sample [exits, 1, classes]."""
    said = []
    for block, head in zip(blocks, heads, strict=True):
        sample = block(sample)
        said.append(3 * head(sample[:, 0]))
    return torch.stack(said)


# ---- task 3: propagate


def propagate(
    check: Task,
    answer: Callable[..., None],
    *,
    models: Iterable[tuple[int, Sequence[int], int]] = ((5, (2, 4, 1), 7),),
    tokens: Iterable[Sequence[Sequence[int]]] = (((2, 1), (1, 3), (4, 2)),),
) -> None:
    """Task 3: models (depth, layers that ran for each text, position in the first text) that a token leaves; then
    tokens one after the other that leave four layers after so many, text by text, and one that runs through all."""
    _by_hand(check, answer)
    for depth, exits, position in models:
        _one_token(check, answer, depth, torch.tensor(exits), position)
    for leaves in tokens:
        _several_tokens(check, answer, leaves)


def _model(depth: int, *, seed: int) -> CausalLM:
    """A language model in float64 whose norms differ from layer to layer."""
    model = CausalLM(vocabulary=11, dim=16, depth=depth, heads=2).double().requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        parameter += 0.3 * checks.normal(*parameter.shape, seed=seed + number, dtype=torch.float64)
    return model


def _walk(model: CausalLM, letters: Tensor, places: Tensor, caches: list[LayerCache]) -> Tensor:
    """The states h_0 … h_depth [depth + 1, batch, dim] of one letter of each text. The caches stay without it."""
    states = [model.embed(letters[:, None])]
    for block, cache in zip(model.blocks, caches, strict=True):
        states.append(block(states[-1], positions=places[:, None], cache=cache))
        cache.truncate(cache.length - 1)
    return torch.stack(states)[:, :, 0]


def _until(states: Tensor, exits: Tensor) -> Tensor:
    """NaN in place of the states of layers that did not run."""
    ran = torch.arange(len(states))[:, None] <= exits
    return torch.where(ran[..., None], states, math.nan)


def _owed(block: nn.Module, states: Tensor, layer: int, exits: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer itself writes to an empty cache, text by text, of what it got or, if it did not run, of h_l."""
    keys, values = [], []
    for text, (ran, place) in enumerate(zip(exits.tolist(), places.tolist(), strict=True)):
        scratch = LayerCache()
        got = states[layer] if layer < ran else states[ran]
        block(got[text][None, None], positions=torch.tensor([[place]]), cache=scratch)
        keys.append(scratch.keys[0])
        values.append(scratch.values[0])
    return torch.stack(keys), torch.stack(values)


def _one_token(check: Task, answer: Callable[..., None], depth: int, exits: Tensor, position: int) -> None:
    model, past, batch = _model(depth, seed=depth), min(position, 6), len(exits)
    caches, places = model.new_cache(), position + 2 * torch.arange(batch)
    for back in range(past, 0, -1):
        x = model.embed((torch.arange(batch)[:, None] * 3 + back**2 + 1) % 11)
        for block, cache in zip(model.blocks, caches, strict=True):
            x = block(x, positions=places[:, None] - back, cache=cache)
    held = [(cache.keys.clone(), cache.values.clone()) if past else None for cache in caches]
    states = _until(_walk(model, (torch.arange(batch) * 5 + 6) % 11, places, caches), exits)
    ran: list[str] = []
    watched = [part for block in model.blocks for part in (block, block.attention, block.feed_forward)]
    hooks = [part.register_forward_hook(lambda part, *_: ran.append(type(part).__name__)) for part in watched]
    blocks = list(model.blocks) if batch == 1 else model.blocks
    on = f"{depth} layers, {past} tokens, and one that left after {exits.tolist()} layers, at {places.tolist()}"
    with check.untouched(tested="states, exits and positions", states=states, exits=exits, positions=places):
        answer(blocks, caches, states, exits, places)
    for hook in hooks:
        hook.remove()
    _one_each(check, [cache.length - past for cache in caches], exits, on)
    for layer, cache in enumerate(caches):
        _owed_to_layer(check, model, cache, states, layer, exits, places, on)
        if kept := held[layer]:
            check.true(
                "the past stays",
                torch.equal(cache.keys[:, :, :past], kept[0]) and torch.equal(cache.values[:, :, :past], kept[1]),
                tested=f"what the cache of layer {layer + 1} held before: {on}",
                expected="the same numbers",
                got="others",
                likely="append, and write nowhere else",
            )
    check.equal(
        "no layer runs",
        ran,
        [],
        tested="which blocks, attentions and feed-forward parts ran: the token left to save them",
        likely="a norm and keys_values are all that it takes",
    )


def _one_each(check: Task, lengths: list[int], exits: Tensor, on: str) -> None:
    depth, least, most = len(lengths), int(exits.min()), int(exits.max())
    got = {
        "nothing was appended": range(0),
        "the layers that ran have not got the token either: all layers, not those above alone": range(least, depth),
        "every layer, also those that ran for all texts": range(most, depth),
        "the layers that did not run are owed it too": range(most),
        "the layers that did not run are owed it too: some ran for no text": range(least),
        "the first layer is owed it too, which ran for all": range(1, depth),
        "the last layer is owed it too": range(depth - 1),
    }
    wrong = {says: [int(layer in those) for layer in range(depth)] for says, those in got.items()}
    wrong["one token, not one for each text, or for each state: [batch, 1, dim] is one token"] = [len(exits)] * depth
    check.equal(
        "one token a layer",
        lengths,
        [1] * depth,
        tested=f"how many tokens each cache got: {on}",
        likely="each layer gets one token more, whether it ran or not",
        mistakes={says: value for says, value in wrong.items() if value != [1] * depth},
    )


def _owed_to_layer(
    check: Task,
    model: CausalLM,
    cache: LayerCache,
    states: Tensor,
    layer: int,
    exits: Tensor,
    places: Tensor,
    on: str,
) -> None:
    block, texts = model.blocks[layer], torch.arange(len(exits))
    reached = exits.clamp(max=layer)
    keys, values = (part[:, :, 0] for part in _owed(block, states, layer, exits, places))
    tested = f"that layer {layer + 1} got: {on}"

    def at(
        which: Tensor = reached, where: Tensor = places, norm: nn.Module = block.norm1, of: nn.Module = block
    ) -> tuple[Tensor, Tensor]:
        made = of.attention.keys_values(norm(states[which, texts][:, None]), where[:, None])
        return made[0][:, :, 0], made[1][:, :, 0]

    check.finite(
        "no NaN",
        cache.keys[:, :, -1],
        cache.values[:, :, -1],
        tested=f"the keys and values {tested}",
        likely="states of a layer that did not run for a text are NaN: each text has an exit of its own, and above it "
        "its last state stands in",
    )
    first, below = model.blocks[0], model.blocks[max(layer - 1, 0)]
    others = {
        "that is h_l, the state each text left with: a layer that ran has its own input, and so has this one": exits,
        "that is what the layer made of the token: its keys and values are of what it got": exits.clamp(max=layer + 1),
        "l layers ran for a text: it left with h_l, not with h_(l-1)": (exits - 1).clamp(max=layer),
        "each text has an exit of its own: that is the first text's": exits[:1].expand_as(exits).clamp(max=layer),
        "each text has an exit of its own: that is the least of all": exits.min().expand_as(exits).clamp(max=layer),
        "that is h_1: take the state that the text got to": torch.ones_like(exits),
        "that is the embedding h_0: take the state that the text got to": torch.zeros_like(exits),
        "a layer got what the layer below it made: h_(j-1) for the j-th, counted from 1": exits.clamp(
            max=max(layer - 1, 0)
        ),
    }
    wrong = {says: at(which)[1] for says, which in others.items()}
    zeros = block.attention.keys_values(block.norm1(states[layer].nan_to_num()[:, None]), places[:, None])
    wrong |= {
        "zeros do not stand in for a layer that did not run: the text's last state does": zeros[1][:, :, 0],
        "the norm is missing: the attention sees norm1(h)": at(norm=nn.Identity())[1],
        "norm2 belongs to the feed-forward part: norm1 stands before the attention": at(norm=block.norm2)[1],
        "that is the norm before the readout: norm1 stands before the attention": at(norm=model.norm)[1],
        "keys and values are swapped": keys,
        "every layer has weights of its own: these are those of the first": at(norm=first.norm1, of=first)[1],
        "every layer has a norm of its own: this is that of the first": at(norm=first.norm1)[1],
        "the norm of the layer below: each layer has its own": at(norm=below.norm1)[1],
    }
    check.close(
        "values",
        cache.values[:, :, -1],
        values,
        tested=f"the values {tested}; against what the layer itself makes of each text's state",
        tolerance=1e-8,
        likely="keys_values(norm1(h)), each layer with its own norm and weights; h is what the layer got where it ran, "
        "and the text's last state where it did not",
        mistakes={says: value for says, value in wrong.items() if not torch.allclose(value, values)},
    )
    one = torch.ones_like(places)
    turned = {
        "turned as if the token stood at position 0: give keys_values its positions": 0 * one,
        "turned for the first text's position: each text has its own": places[0] * one,
        "turned for the last text's position: each text has its own": places[-1] * one,
        "turned one too far: positions count from 0, and these are given": places + 1,
        "turned for the token before": places - 1,
        "turned for position l: it is the place in the text that counts, not the layer": exits,
        "turned for the layer's number: it is the place in the text that counts": layer * one,
        "turned for the length of the cache: a text need not begin at 0; the positions are given": (
            (cache.length - 1) * one
        ),
    }
    check.close(
        "keys",
        cache.keys[:, :, -1],
        keys,
        tested=f"the keys {tested}",
        tolerance=1e-8,
        likely="keys are turned by their position: give keys_values those of the texts, [batch, 1]",
        mistakes={says: at(where=where)[0] for says, where in turned.items() if not torch.equal(where, places)},
    )
    noted = {
        "the cache believes that the token stands at 0": 0 * one,
        "that is the first text's position: each text has its own": places[0] * one,
    }
    check.equal(
        "positions",
        cache.positions[:, -1],
        places,
        tested=f"the positions {tested}",
        likely="append takes the positions too, [batch, 1]",
        mistakes={says: where for says, where in noted.items() if not torch.equal(where, places)},
    )


def _several_tokens(check: Task, answer: Callable[..., None], leaves: Sequence[Sequence[int]]) -> None:
    model, depth = _model(4, seed=90), 4
    caches, twins = model.new_cache(), model.new_cache()
    for number, exits in enumerate((*leaves, [depth] * len(leaves[0]))):
        ran, texts = torch.tensor(exits), torch.arange(len(exits))
        places, letters = number + 3 * texts, number * (2 * texts + 1) % 7
        states, right = (_walk(model, letters, places, some) for some in (caches, twins))
        check.close(
            "later tokens",
            states[ran, texts],
            right[ran, texts],
            tested=f"the last states of token {number}; tokens leave after {', '.join(map(str, leaves))} layers",
            tolerance=1e-8,
            likely="it attends to tokens that left earlier: to what you wrote for them",
        )
        answer(model.blocks, caches, _until(states, ran), ran, places)
        for layer, (block, twin) in enumerate(zip(model.blocks, twins, strict=True)):
            twin.append(*_owed(block, right, layer, ran, places), places[:, None])


# ---- task 4: verify

V = 4
DRAFT = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.1, 0.4, 0.4]], dtype=torch.float64)
TARGET = torch.tensor([[0.2, 0.35, 0.1, 0.35], [0.4, 0.15, 0.35, 0.1], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
Verify = Callable[..., Tensor]


def verify(
    check: Task,
    answer: Verify,
    *,
    laws: Iterable[tuple[Tensor, Tensor]] = ((DRAFT, TARGET),),
    dtypes: Iterable[torch.dtype] = (torch.float64, torch.float32),
    draws: int = 3000,
) -> None:
    """Task 4: where there is no choice, each case; else the law of the tokens that stay, over many draws."""
    _by_hand(check, answer)
    for dtype in dtypes:
        _certain(check, answer, dtype)
    _random(check, answer)
    half, whole = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]])
    generator = torch.Generator().manual_seed(8)
    kept = torch.tensor([len(answer(torch.tensor([0, 0]), half, whole, generator)) - 1 for _ in range(draws)])
    check.frequencies(
        "each on its own",
        kept,
        torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64),
        tested="how many of two drafted tokens stay, where each stays with probability 1/2",
        likely="a random number for each drafted token; at the first that does not stay all behind it go",
        mistakes={
            "one random number for all: each token needs its own": torch.tensor([0.5, 0.0, 0.5]).double(),
            "a token that did not stay takes all behind it along": torch.tensor([0.25, 0.5, 0.25]).double(),
        },
    )
    for draft, target in laws:
        _in_law(check, answer, draft, target, draws)


def _certain(check: Task, answer: Verify, dtype: torch.dtype) -> None:
    """Tables that leave no choice."""
    sharp = torch.eye(V, dtype=dtype)
    even = torch.full((V,), 1 / V, dtype=dtype)
    cases = (
        ("all kept", "the target is the draft", [2, 0, 1], sharp[[2, 0, 1]], sharp[[2, 0, 1, 3]], [2, 0, 1, 3]),
        ("all kept", "the target likes each token more than the draft does", [1], even[None], sharp[[1, 2]], [1, 2]),
        ("greedy", "the target takes one token, another at the second place", [2, 0, 1], sharp[[2, 0, 1]],
         sharp[[2, 3, 1, 0]], [2, 3]),
        ("greedy", "the target takes another token at the first place", [2, 1], sharp[[2, 1]], sharp[[0, 1, 3]], [0]),
        ("greedy", "the target takes another token at the last place", [0, 1, 2], sharp[[0, 1, 2]],
         sharp[[0, 1, 3, 2]], [0, 1, 3]),
        ("greedy", "an undecided draft, a target that takes one token", [3, 1], even.expand(2, V), sharp[[3, 0, 2]],
         [3, 0]),
        ("greedy", "one token, which the target does not have", [3], even[None], sharp[[1, 2]], [1]),
    )  # fmt: skip
    for name, what, drafted, draft, target, right in cases:
        given = torch.tensor(drafted), draft.clone(), target.clone()
        on = f"{what}: {len(drafted)} drafted tokens, {V} in the vocabulary, {dtype}"
        with check.untouched(tested=on, drafted=given[0], draft=given[1], target=given[2]):
            got = _ran(
                check,
                functools.partial(answer, *given, torch.Generator().manual_seed(0)),
                f"{on}: {drafted}",
                lambda error: (
                    "the weights of the draw are all 0: kept is the number before the *first* token that does not "
                    "stay, not of all that would, and p and q are those of that place"
                    if "sum of" in error
                    else "p − q has negative entries: max(0, p − q); or it is 0 throughout, divided by its sum: kept "
                    "is the number before the *first* that does not stay, not of all that would"
                ),
                RuntimeError,
            )
        stay = len(right) > len(drafted)
        wrong = {
            "the token that was turned down came back: draw from max(0, p − q); |p − q| gives it again": (
                right if stay else drafted[: len(right)]
            ),
            "when all stay, one token more is drawn, from target[n]": right[:-1]
            if stay and len(drafted) > 1
            else right,
            "the drafted token was turned down, though p / q is 4: keep it with probability min(1, p / q), not q / p": (
                right[:-1] if stay and len(drafted) == 1 else right
            ),
            "what stays is followed by one token more, from the target": right if stay else right[:-1],
            "the token that was turned down is still there: another comes in its place": (
                right if stay else [*drafted[: len(right)], right[-1]]
            ),
            "what comes in place of token i is drawn from p and q of the same place i": (
                right if stay else [*right[:-1], int(target[len(right)].argmax())]
            ),
            "when all stay, the next token comes from target[n], not from target[n - 1]": (
                [*drafted, int(target[-2].argmax())] if stay else right
            ),
            "it went on after the first token that did not stay: put one in its place, and stop": (
                right if stay else target.argmax(-1).tolist()
            ),
            "all drafted tokens are kept: stop at the first that is not": [*drafted, right[-1]],
            "stop at the first that is not kept: those behind it continue a text that is not written": [
                *right,
                *drafted[len(right) :],
            ],
        }
        likely = "what the target is sure of stays, and at the first disagreement its own token follows"
        if isinstance(got, Tensor) and got.dtype == torch.int64 and got.ndim == 1:  # too many or too few of them, too
            mistaken = {says: value for says, value in wrong.items() if value != right}
            check.equal(name, got.tolist(), right, tested=on, likely=likely, mistakes=mistaken)
        check.equal(name, got, torch.tensor(right), tested=on, likely="a row of tokens, a tensor of int64")
    for size in (1e-12, 1e-30):
        rare = torch.tensor([[size, 1 - size, 0.0, 0.0]], dtype=dtype)
        found = answer(torch.tensor([0]), rare, sharp[[0, 2]], torch.Generator().manual_seed(1))
        check.equal(
            "all kept",
            found,
            torch.tensor([0, 2]),
            tested=f"a token that the draft gives {size:g} and the target 1",
            likely="min(1, p / q) is 1 here",
        )


def _in_law(check: Task, answer: Verify, draft: Tensor, target: Tensor, draws: int) -> None:
    generator, size = torch.Generator().manual_seed(5), draft.shape[1]
    runs = []
    for _ in range(draws):
        drafted = torch.multinomial(draft, 1, generator=generator)[:, 0]
        runs.append(answer(drafted, draft, target, generator))
        check.true(
            "kept and one more",
            isinstance(runs[-1], Tensor) and runs[-1].dtype == torch.int64 and 1 <= runs[-1].numel() <= len(target),
            tested=f"{len(draft)} drafted tokens",
            expected=f"1 … {len(target)} tokens, int64",
            got=runs[-1],
            likely="a row of int64 tokens: those that stay, then one from the target",
        )
    for place, (q, p) in enumerate(zip([*draft, target[-1]], target, strict=True)):
        here = torch.tensor([int(run[place]) for run in runs if len(run) > place])
        if len(here) == 0:
            continue
        both = torch.minimum(p, q)
        laws = {
            "what follows a token that did not stay comes from p once more: draw it from max(0, p − q)": both
            + (1 - both.sum()) * p,
            "that is the draft's law: nothing is ever turned down": q,
            "what follows a token that did not stay comes from |p − q|: draw it from max(0, p − q)": both
            + (1 - both.sum()) * (p - q).abs() / (p - q).abs().sum().clamp(min=1e-12),
            "turned down wherever p < q: a token stays with probability min(1, p / q)": torch.where(p >= q, q, 0)
            + (q * (p < q)).sum() * (p - q).clamp(min=0) / (p - q).clamp(min=0).sum().clamp(min=1e-12),
            "what follows a token that did not stay is the likeliest: draw it": both
            + (1 - both.sum()) * torch.eye(size).double()[(p - q).argmax()],
        }
        check.frequencies(
            "law of the tokens",
            here,
            p,
            tested=f"token {place + 1} of the results that have one, {len(here):,} of {draws:,} draws",
            likely="each must come as often as the target says: keep with min(1, p / q), else draw from max(0, p − q)",
            mistakes={says: law for says, law in laws.items() if not torch.allclose(law, p)} if place < len(draft)
            else {},
        )  # fmt: skip
    stays = torch.minimum(draft, target[:-1]).sum(1)  # how likely it is, place by place
    upto = torch.cat([torch.ones(1, dtype=stays.dtype), stays.cumprod(0)])
    check.frequencies(
        "how many stay",
        torch.tensor([len(run) - 1 for run in runs]),
        torch.cat([upto[:-1] * (1 - stays), upto[-1:]]),
        tested="the number of drafted tokens that stay",
        likely="a token stays with probability min(1, p / q): more cannot be had, and fewer would cost speed",
    )


def _random(check: Task, answer: Verify) -> None:
    """Where the randomness comes from."""
    draft, target = torch.tensor([[0.3, 0.7]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])

    def several(generator: torch.Generator | None) -> list[list[int]]:
        return [answer(torch.tensor([run % 2]), draft, target, generator).tolist() for run in range(48)]

    def vary(runs: list[list[int]]) -> bool:
        return any(len({tuple(run) for run in part}) > 1 for part in (runs[::2], runs[1::2]))

    before = torch.get_rng_state()
    first, second = (several(torch.Generator().manual_seed(3)) for _ in range(2))
    check.true(
        "the generator's randomness",
        torch.equal(before, torch.get_rng_state()) and first == second,
        tested="48 calls with one generator, and again with one begun at the same number",
        expected="the same results, and torch's own randomness left alone",
        got="others" if first != second else "torch's own randomness was used or begun anew",
        likely="generator=generator in every torch.rand and torch.multinomial, and no other randomness",
    )
    check.true(
        "new draws",
        vary(first) and vary(several(None)),
        tested="48 calls in a row, with a generator that goes on, and without one",
        expected="not the same result every time",
        got=first[0],
        likely="a seed is set in your function: every call then draws the same",
    )


# ---- task 5: learn_then_test

COUNTS = (0, 4, 16, 24, 24, 40, 16, 48, 8, 80, 240)
"""Eighths of a loss among 100 points; with δ = 0.1, 16 have a p-value of 0.0053 and 24 one of 0.0213."""


def learn_then_test(
    check: Task,
    p_value: Callable[[Tensor, float], float],
    answer: Callable[..., float | None],
    *,
    points: Iterable[tuple[int, Fraction]] = ((40, Fraction(1, 5)), (6, Fraction(3, 10)), (3000, Fraction(1, 20))),
    draws: Iterable[tuple[int, int, Fraction, float]] = ((60, 5, Fraction(1, 5), 0.3), (400, 6, Fraction(1, 20), 0.1)),
) -> None:
    """Task 5: p-values of (points, δ) in whole numbers; tables whose answer is known; tables drawn at random (points,
    thresholds, δ, ε). All losses are eighths."""
    _by_hand(check, p_value, answer)
    for n, delta in points:
        middle = 8 * n * delta.numerator // delta.denominator
        below = max(0, middle - 12 * math.isqrt(n * delta.numerator // delta.denominator)) // 8 * 8
        sums = {0, 3, 8, middle // 2, below, below + 3, max(0, middle - 4), middle, 4 * n, 8 * n}
        for eighths in sorted(sums, key=lambda sum_: (sum_ == 0, sum_ % 8 > 0, sum_)):  # 0 tells fewer slips apart
            right = exactly(eighths, n, delta)
            losses = table((eighths,), n)[:, 0]
            for given in (losses, losses.float()):
                with check.untouched(tested="the losses of one threshold", losses=given):
                    found = _ran(
                        check,
                        functools.partial(p_value, given, float(delta)),
                        f"{n} losses that add up to {eighths / 8:g}, delta {float(delta):g}",
                        "0 log 0 is 0: where a is 0, a log(a / b) is left out"
                        if eighths in (0, 8 * n)
                        else "with many points a number leaves the range of floats: add logarithms, math.lgamma",
                        ValueError,
                        ZeroDivisionError,
                        OverflowError,
                    )
                check.close(
                    "p-value",
                    found,
                    right,
                    tested=f"{n} losses that add up to {eighths / 8:g}, delta {float(delta):g}, {given.dtype}",
                    tolerance=1e-5,
                    likely="the smaller of the two bounds; 0 log 0 is 0; with many points add logarithms, in float64",
                    mistakes=_mistaken_p_values(eighths, n, delta, right),
                )
    _just_above(check, p_value)
    _seven_of_fifty(check, p_value)
    _tables(check, p_value, answer)
    generator = torch.Generator().manual_seed(3)
    for n, thresholds, delta, epsilon in draws:
        offered = [round(1 - 0.05 * number, 2) for number in range(thresholds)]
        for _ in range(8):
            risks = torch.linspace(0, 1.3 * float(delta), thresholds)
            losses = (torch.rand(n, thresholds, generator=generator) < 2 * risks) * 0.5
            expected = _certified(losses, offered, delta, epsilon)
            order = torch.randperm(thresholds, generator=generator)
            with check.untouched(tested="the losses", losses=losses):
                found = answer(losses[:, order], [offered[place] for place in order.tolist()], float(delta), epsilon)
            swapped = _certified(losses, offered, Fraction(epsilon).limit_denominator(1000), float(delta))
            check.equal(
                "random losses",
                found,
                expected,
                tested=f"{n} points, {thresholds} thresholds, delta {float(delta):g}, epsilon {epsilon:g}",
                likely="delta stands in the p-value, epsilon is what the p-value is held against",
                mistakes={"delta and epsilon have changed places: delta stands in the p-value": swapped}
                if swapped != expected and (swapped is None) == (found is None)
                else {},
            )


def _seven_of_fifty(check: Task, p_value: Callable[[Tensor, float], float]) -> None:
    """The sum is a whole number, and n times the mean lies just above it."""
    losses = torch.zeros(50, dtype=torch.float64)
    losses[::8] = 1.0
    hoeffding = math.exp(-50 * (0.14 * math.log(0.14 / 0.2) + 0.86 * math.log(0.86 / 0.8)))
    up_to_8 = math.e * sum(math.comb(50, j) * 0.2**j * 0.8 ** (50 - j) for j in range(9))
    check.close(
        "7 of 50",
        p_value(losses, 0.2),
        exactly(56, 50, Fraction(1, 5)),
        tested="50 losses, seven of them 1, the others 0; delta 0.2",
        tolerance=1e-5,
        likely="k is the sum of the losses, 7, and ⌈k⌉ is 7",
        mistakes={"n times the mean is 7.000000000000001, and ⌈k⌉ then 8: k is the sum": min(hoeffding, up_to_8)},
    )


def _just_above(check: Task, p_value: Callable[[Tensor, float], float]) -> None:
    """Float32 losses whose sum is just above a whole number, and that number in float32."""
    losses = torch.zeros(100)
    losses[:5], losses[5] = 1.0, 2.0**-26
    hoeffding = math.exp(-100 * (0.05 * math.log(0.05 / 0.1) + 0.95 * math.log(0.95 / 0.9)))
    up_to = [math.e * sum(math.comb(100, j) * 0.1**j * 0.9 ** (100 - j) for j in range(k + 1)) for k in (5, 6)]
    check.close(
        "a sum just above 5",
        p_value(losses, 0.1),
        min(hoeffding, up_to[1]),
        tested="100 losses in float32: five of 1, one of 2 to the power of -26, the others 0; delta 0.1",
        tolerance=1e-5,
        likely="k is just above 5, and ⌈k⌉ is 6",
        mistakes={"k was added in float32, where it is just 5: losses.double().sum(), ⌈k⌉ is 6": up_to[0]},
    )


@functools.cache
def exactly(eighths: int, n: int, delta: Fraction) -> float:
    """The Hoeffding–Bentkus p-value of n losses that add up to so many eighths, in whole numbers."""
    b, c = delta.numerator, delta.denominator
    if eighths * c >= 8 * n * b:
        return 1.0
    total, term = 0, (c - b) ** n  # the law of the binomial, times c to the power of n
    for j in range(-(-eighths // 8) + 1):
        total, term = total + term, term * (n - j) * b // ((j + 1) * (c - b))
    # exp(-n h(R, δ)) = (δ / R) ** k · ((1 - δ) / (1 - R)) ** (n - k), with k = n R eighths / 8: its eighth power
    rest = 8 * n - eighths
    above, below = b**eighths * (c - b) ** rest * (8 * n) ** (8 * n), c ** (8 * n) * eighths**eighths * rest**rest
    shift = max(0, below.bit_length() - above.bit_length()) // 8  # so that the power is near 1
    return min(math.ldexp(((above << 8 * shift) / below) ** 0.125, -shift), math.e * (total / c**n))


def table(eighths: Sequence[int], points: int) -> Tensor:
    """Losses [points, thresholds] that add up to so many eighths in each column, spread as evenly as eighths can be."""
    columns = [((torch.arange(points) < number % points).double() + number // points) / 8 for number in eighths]
    return torch.stack(columns, dim=1)


def _certified(losses: Tensor, thresholds: Sequence[float], delta: Fraction, epsilon: float) -> float | None:
    """From the largest threshold down, in the order of the columns."""
    found = None
    for column, threshold in zip(losses.T, thresholds, strict=True):
        if exactly(round(8 * column.sum().item()), len(losses), delta) > epsilon:
            break
        found = threshold
    return found


def _mistaken_p_values(eighths: int, n: int, delta: Fraction, right: float) -> dict[str, float]:
    d, k = float(delta), eighths / 8
    if n > 100:
        return {}

    def law(above: int) -> float:
        return sum(math.comb(n, j) * d**j * (1 - d) ** (n - j) for j in range(above + 1))

    def h(a: float, b: float) -> float:
        return sum(x * math.log(x / y) if y > 0 else math.inf for x, y in ((a, b), (1 - a, 1 - b)) if x > 0)

    hoeffding = math.exp(-n * h(min(k / n, d), d))
    bentkus = math.e * law(math.ceil(k))
    wrong = {
        "that is Hoeffding's part alone: the smaller of the two": hoeffding,
        "that is Bentkus' part alone: the smaller of the two": bentkus,
        "that is Bentkus' part alone, cut at 1: the smaller of the two": min(1.0, bentkus),
        "the larger of the two bounds: take the smaller": max(hoeffding, bentkus),
        "the factor e is missing": min(hoeffding, law(math.ceil(k))),
        "k is rounded up to a whole number, not down": min(hoeffding, math.e * law(math.floor(k))),
        "the sum runs to ⌈k⌉ inclusive: ⌈k⌉ + 1 terms, one of them where k is 0": min(
            hoeffding, math.e * law(math.ceil(k) - 1)
        ),
        "k that is a whole number stays: ⌈3⌉ is 3": min(hoeffding, math.e * law(math.floor(k) + 1)),
        "h(a, b) is not symmetric: min(R̂, δ) comes first": min(
            right if k == 0 else math.exp(-n * h(d, min(k / n, d))), bentkus
        ),
        "where R̂ is above δ, h is taken at δ, and p is 1": min(math.exp(-n * h(k / n, d)), bentkus),
        "that is the plain bound of Hoeffding": math.exp(-2 * n * max(d - k / n, 0) ** 2),
        "that is the p-value for losses of 0 and 1": law(math.floor(k)),
        "that is the p-value for losses of 0 and 1, which does not hold for fractions": law(math.ceil(k)),
        "right, but the logarithm of it: take the exponential": math.log(right),
    }
    return {says: value for says, value in wrong.items() if abs(value - right) > 1e-5}


def _tables(check: Task, p_value: Callable[..., float], answer: Callable[..., float | None]) -> None:
    for name, eighths, points, delta, epsilon, expected, likely, wrong in _TABLES:
        offered = [round(0.95 - 0.05 * number, 2) for number in range(len(eighths))]
        for turned, order in (
            ("from the safest on", range(len(eighths))),
            ("in another order", sorted(range(len(eighths)), key=lambda place: (place * 7 + 3) % 11)),
        ):
            right = None if expected is None else offered[expected]
            named: dict[str, float | int | None] = {
                says: None if place is None else offered[place] for says, place in wrong.items()
            }
            as_given = _certified(
                table([eighths[place] for place in order], points),
                [offered[place] for place in order],
                Fraction(delta).limit_denominator(1000),
                epsilon,
            )
            if as_given is not None and as_given != right:
                named["tested in the order in which they came: sort them first, with their columns"] = as_given
            if expected is not None:
                named["that is an index: give the threshold itself"] = list(order).index(expected)
            found = answer(
                table([eighths[place] for place in order], points), [offered[place] for place in order], delta, epsilon
            )
            check.equal(
                name,
                found,
                right,
                tested=f"{points} points, delta {delta:g}, epsilon {epsilon:g}, thresholds {turned}; losses of each: "
                + ", ".join(f"{offered[p]:g}: {eighths[p] / 8:g}" for p in order),
                likely=likely,
                mistakes={says: value for says, value in named.items() if (value is None) == (found is None)},
            )
    losses = table((0, 12, 60), 100)
    check.equal(
        "just enough",
        answer(losses, [0.9, 0.8, 0.7], 0.1, p_value(losses[:, 1], 0.1)),
        0.8,
        tested="epsilon just what your p_value gives for the second of three thresholds",
        likely="p ≤ ε certifies, and p = ε is enough; learn_then_test asks your p_value",
    )


_TABLES: tuple[tuple[str, Sequence[int], int, float, float, int | None, str, dict[str, int | None]], ...] = (
    (
        "threshold",
        COUNTS,
        100,
        0.1,
        0.02,
        2,
        "a sum of 2 has p = 0.0053, a sum of 3 has p = 0.0213: the first failure is the fourth threshold",
        {
            "that is the first that failed: give the last certified one": 3,
            "the most daring with p ≤ ε, but one before it failed: stop at the first failure": 8,
            "that is the most daring with mean loss at most δ: without a test the promise breaks too often": 9,
            "ε is divided by the number of thresholds: in a fixed order that stops, each may use all of it": 1,
            "that is the p-value for losses of 0 and 1, which does not hold for fractions": 4,
            "the last threshold, whatever its losses": 10,
            "the safest one: go on while p ≤ ε": 0,
            "nothing certified: have delta and epsilon changed places? And test from the largest threshold on, the "
            "safest, in whatever order they came": None,
        },
    ),
    (
        "the safest alone",
        (0, 160),
        100,
        0.1,
        0.05,
        0,
        "the first passes, the second fails",
        {"the first threshold is a result too: None says that nothing is certified": None},
    ),
    (
        "none certified",
        (48, 40, 16),
        100,
        0.1,
        0.05,
        None,
        "the safest fails, so nothing behind it is tested; say None",
        {
            "stop at the first failure: no later threshold may be certified": 2,
            "None if nothing is certified: the safest threshold failed": 0,
        },
    ),
    (
        "too few points",
        (0, 0),
        10,
        0.1,
        0.2,
        None,
        "0.9 to the power of 10 is 0.35: no loss among ten points is no surprise at a risk of 0.1",
        {"no loss is not enough with so few points: p = 0.9 to the power of 10": 1},
    ),
    ("all certified", (0, 1, 2), 100, 0.1, 0.05, 2, "all pass: the last one", {}),
    (
        "only losses",
        (16000, 16000, 16000),
        2000,
        0.1,
        0.05,
        None,
        "the first fails; with many points add logarithms (math.lgamma)",
        {},
    ),
    ("the safest alone", (0,), 60, 0.1, 0.05, 0, "one threshold that passes", {}),
)


# ---- task 6: predict, then measure

WORDS = ("rises", "falls", "stays")
RUNS: tuple[tuple[list[int | None], list[float], float], ...] = (
    ([0, 3, None, 2, 4, 1, None, 3, 1, 0, 1], [0.01, 0.04, 0.05, 0.0625, 0.2], 0.05),
    ([0, 0, 1], [0.5, 0.1], 0.2),
)


def predict(
    check: Task,
    said: Callable[[], Any],
    broken: Callable[..., float],
    *,
    seed: int = 77,
    runs: Iterable[tuple[list[int | None], list[float], float]] = RUNS,
) -> None:
    """Task 6: the predictions beside the binomial law, beside digits and beside draws; then ``broken`` on some runs."""
    _by_hand(check, said, broken)
    right = {**_probabilities(), **_measured(seed)}
    check.prediction(
        said(),
        right,
        tested="delta = 0.05, epsilon = 0.1, and 50 points for the two rules",
        words={"exit with more clutter": WORDS, "threshold with more points": WORDS},
        slips=_slips(right),
        likely={
            "points needed": "the p-value of n points without a loss is (1 - δ) to the power of n",
            "naive rule breaks": "how many losses among 50 have a mean of at most 0.05, and how likely are they?",
            "tested rule breaks": "how many losses among 50 have a p-value of at most 0.1, and how likely are they?",
            "exit with more clutter": "when is a head sure of a digit?",
            "threshold with more points": "which thresholds can be certified with many points that could not with few?",
        },
        tolerance=1e-3,
    )
    for chosen, risks, delta in runs:
        over = [risk > delta for risk in risks]
        promised = [index for index in chosen if index is not None]
        hits, edge = sum(over[index] for index in promised), sum(risks[index] == delta for index in promised)
        share, none, every = hits / len(chosen), len(chosen) - len(promised), len(chosen)
        wrong = {
            "a run that chose None counts as one kept: divide by all runs": hits / max(1, len(promised)),
            "a risk of just δ keeps the promise: above δ breaks it": (hits + edge) / every,
            "a risk of just δ keeps the promise, and a run that chose None counts as one kept": (hits + edge)
            / max(1, len(promised)),
            "a run that chose None promised nothing, and broke nothing": (hits + none) / every,
            "that is the share of the promises kept": 1 - share,
            "that is the number of runs: give their share": hits,
            "the share of runs, not of thresholds": sum(over) / len(over),
            "index 0 is a choice, not None": sum(over[i] for i in promised if i) / every,
        }
        check.close(
            "broken",
            broken(list(chosen), list(risks), delta),
            share,
            tested=f"risks {', '.join(map(str, risks))}, delta {delta:g}, runs that chose "
            f"{', '.join(map(str, chosen))}",
            likely="a risk above delta breaks the promise; None breaks nothing and counts as a run",
            mistakes={says: value for says, value in wrong.items() if value != share},
        )


def _tail(k: int, n: int, risk: float) -> float:
    """P(Binomial(n, risk) ≤ k)."""
    return sum(math.comb(n, j) * risk**j * (1 - risk) ** (n - j) for j in range(k + 1))


def _p(k: int, n: int) -> float:
    """The p-value of k losses of 1 among n."""
    return exactly(8 * k, n, Fraction(1, 20))


def _probabilities() -> dict[str, float]:
    few = [k for k in range(51) if k / 50 <= 0.05]  # losses with which the naive rule takes the daring threshold
    certified = [k for k in range(51) if _p(k, 50) <= 0.1]  # and the tested one
    return {
        "points needed": next(n for n in itertools.count(1) if _p(0, n) <= 0.1),
        "naive rule breaks": _tail(max(few), 50, 0.06),
        "tested rule breaks": _tail(max(certified), 50, 0.06),
    }


def _slips(right: dict[str, Any]) -> dict[str, dict[str, float]]:
    naive, tested = right["naive rule breaks"], right["tested rule breaks"]
    return {
        "points needed": {
            "one too few: 0.95 to the power of 44 is still above 0.1": 44,
            "a whole number: round up": math.log(0.1) / math.log(0.95),
            "1 / δ points: without a loss among them a risk of 0.05 is still likely": 20,
            "that is Hoeffding's bound; the exact p-value of n points without a loss is (1 - δ) to the power of n": 461,
            "δ and ε are swapped: (1 - δ) to the power of n is the p-value, ε is what it is held against": 29,
            "that is for ε = 0.05": 59,
            "that is for δ = 0.1": 22,
            "log(1/ε) / δ is nearly right: take log(1 - δ), not -δ": 47,
            "it takes more than one point: how likely is no loss among n, if the risk is 0.05?": 1,
        },
        "naive rule breaks": {
            "right to two digits, not to three: a simulation is not close enough": round(naive, 2),
            "that is the tested rule": tested,
            "0.05 · 50 is 2.5: two losses are allowed as well": _tail(1, 50, 0.06),
            "0.05 · 50 is 2.5: three losses are too many": _tail(3, 50, 0.06),
            "no loss at all is a mean of at most 0.05, too": _tail(2, 50, 0.06) - _tail(0, 50, 0.06),
            "that is just two losses: fewer will do as well": _tail(2, 50, 0.06) - _tail(1, 50, 0.06),
            "that is the probability that it keeps its promise": 1 - naive,
            "the losses come with probability 0.06, not with δ": _tail(2, 50, 0.05),
            "half the time is a good guess: count how likely 0, 1 or 2 losses are": 0.5,
            "a number from 0 to 1, not in percent": 100 * naive,
            "the naive rule has no ε: it looks at the mean loss alone": 0.1,
            "it breaks whenever two losses or fewer come by chance: that does happen": 0.0,
        },
        "tested rule breaks": {
            "right to two digits, not to three: a simulation is not close enough": round(tested, 2),
            "that is the naive rule": naive,
            "that is ε, the bound: how often do the losses that certify come by?": 0.1,
            "that is the p-value of no loss, with δ: the losses come with probability 0.06": _tail(0, 50, 0.05),
            "one loss has the p-value 0.55: only none certifies": _tail(1, 50, 0.06),
            "that is the probability that it keeps its promise": 1 - tested,
            "with 45 points: here there are 50": _tail(0, 45, 0.06),
            "it can break, but rarely: no loss among 50 points comes by chance": 0.0,
            "a number from 0 to 1, not in percent": 100 * tested,
        },
    }


def _measured(seed: int) -> dict[str, str]:
    """The two words: by digits with little clutter and with much, and by draws of 100 points and of 1000."""
    images = cluttered_digits(400, split="test", seed=seed)
    with torch.inference_mode():
        said = load("digits_exits")(images.images)
    stops = torch.tensor([number for number, _ in _walked(said, [0.9] * (len(said) - 1))]).double()
    easy, hard = (stops[part].mean().item() for part in (images.difficulty < 1 / 3, images.difficulty > 2 / 3))
    mean = {points: _mean_certified(points) for points in (100, 1000)}
    return {
        "exit with more clutter": _word(easy, hard, 0.1),
        "threshold with more points": _word(mean[100], mean[1000], 0.02),
    }


def _word(before: float, after: float, margin: float) -> str:
    return "rises" if after > before + margin else "falls" if after < before - margin else "stays"


def _mean_certified(points: int, draws: int = 100) -> float:
    """The mean threshold that draws of so many points certify, δ = 0.05, ε = 0.1, on a curve of risks that is known."""
    thresholds = [1.05 - 0.05 * index for index in range(21)]  # above 1: nothing is certified; 1 … 0.05
    risks = torch.tensor([0.15 * (1 - threshold) for threshold in thresholds[1:]], dtype=torch.float64)
    enough = max(_few(points), default=-1)
    total = 0.0
    for _ in range(draws):
        losses = (torch.rand(points, 1, dtype=torch.float64) < risks).sum(0).tolist()
        total += thresholds[len(list(itertools.takewhile(lambda number: number <= enough, losses)))]
    return total / draws


def _few(points: int) -> Iterator[int]:
    """The numbers of losses whose p-value is small enough."""
    return itertools.takewhile(lambda k: _p(k, points) <= 0.1, itertools.count())
