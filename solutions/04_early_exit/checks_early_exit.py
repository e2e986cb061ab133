"""The checks of unit 04. Exits are judged by walking from one to the next, p-values in whole numbers."""

import itertools
import math
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

# ---- task 1: exit_index

CONFIDENCE = torch.tensor(
    [  # a row for an exit, a column for a sample
        [0.9, 0.2, 0.1, 0.50, 0.9, 0.3],
        [0.1, 0.8, 0.4, 0.75, 0.4, 0.5],
        [0.2, 0.95, 0.3, 0.9, 0.6, 0.7],
        [0.3, 0.99, 0.2, 0.6, 0.8, 0.99],
    ]
)


def exit_index(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    tables: Iterable[Tensor] = (CONFIDENCE, CONFIDENCE[:, 2:3], CONFIDENCE[1:].double()),
    thresholds: Sequence[float] = (0.75, 1.5, 0.0),
) -> None:
    """Task 1: each table of confidences [exits, batch] with each threshold, against a walk from exit to exit."""
    for table, threshold in itertools.product(tables, thresholds):
        exits, batch = table.shape
        stops = _walk(table.tolist(), threshold)
        given = table.clone()
        with check.untouched(
            "the confidences stay",
            tested="the confidences after the call",
            likely="your function wrote into what it was given: change the comparison, or a clone",
            confidence=given,
        ):
            found = answer(given, threshold)
        check.equal(
            "above 1" if threshold > 1 else "threshold 0" if threshold == 0 else "exit",
            found,
            torch.tensor(stops),
            tested=f"{exits} exits, {batch} samples, threshold {threshold:g}",
            likely="nobody reaches it, and the last exit takes all without being asked"
            if threshold > 1
            else "every confidence is 0 or more, so all leave at the first exit"
            if threshold == 0
            else "column by column: the first exit, of all but the last, with λ or more; the last if there is none",
            mistakes=_mistaken_exits(table, threshold, torch.tensor(stops)),
        )


def _walk(rows: list[list[float]], threshold: float) -> list[int]:
    """Every sample walks from exit to exit."""
    stops = []
    for sample in range(len(rows[0])):
        stop = 0
        while stop < len(rows) - 1 and rows[stop][sample] < threshold:
            stop += 1
        stops.append(stop)
    return stops


def _mistaken_exits(table: Tensor, threshold: float, right: Tensor) -> dict[str, Tensor]:
    """What known mistakes give; none of them where it would be the right answer too."""
    rows, last = table.tolist(), len(table) - 1

    def chosen(pick: Callable[[list[float]], int]) -> Tensor:
        return torch.tensor([pick(list(column)) for column in zip(*rows, strict=True)])

    def first(column: Sequence[float], otherwise: int, enough: Callable[[float], bool] | None = None) -> int:
        enough = enough or (lambda c: c >= threshold)
        return next((number for number, c in enumerate(column) if enough(c)), otherwise)

    def late(column: Sequence[float]) -> int:
        return max((number for number, c in enumerate(column) if c >= threshold), default=last)

    wrong = {
        "where no exit is sure, argmax of nothing but False is 0: the last exit takes those": chosen(
            lambda column: first(column, 0)
        ),
        "where the early exits are not sure, argmax of nothing but False is 0: the last exit takes those": chosen(
            lambda column: first(column[:-1], 0)
        ),
        "a confidence of just λ is enough: >=": chosen(
            lambda column: first(column[:-1], last, lambda c: c > threshold)
        ),
        "that is the most confident exit: leave at the first that is sure enough, those behind it never run": (
            table.argmax(0)
        ),
        "all samples leave together: each decides for itself, without a mean or a minimum over the batch": (
            torch.full_like(right, last)
        ),
        "that is the number of unsure exits: one behind the exit taken counts too, and never runs": (
            (table[:-1] < threshold).sum(0)
        ),
        "that is the number of unsure exits, the last included: it is not asked, and those behind the exit taken never "
        "run": (table < threshold).sum(0),
        "that is the last exit that is sure: take the first": chosen(late),
        "that is the first exit that is *not* sure": chosen(lambda column: first(column, 0, lambda c: c < threshold)),
        "exits count from 0": right + 1,
        "of whom nobody is sure stays to the last exit, and does not go back to the most confident one": chosen(
            lambda column: first(column, column.index(max(column)))
        ),
        "of whom nobody is sure gets an exit past the last": chosen(lambda column: first(column, last + 1)),
        "the last exit takes those of whom nobody is sure: its number is exits - 1": chosen(
            lambda column: first(column, -1)
        ),
        "one exit for each sample: the maximum runs over the exits, dimension 0": torch.tensor(
            [first(row, 0) for row in rows]
        ),
    }
    return {says: value for says, value in wrong.items() if not torch.equal(value, right)}


# ---- task 2: exit_loss


def exit_loss(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    sizes: Iterable[tuple[int, int, int]] = ((3, 4, 5), (1, 2, 3)),
    dtype: torch.dtype = torch.float64,
    seed: int = 1,
) -> None:
    """Task 2: random logits [exits, batch, classes], value and gradient; then logits too large for an exponential."""
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
            likely="detach(), no_grad() or .item() on the way",
        )
        # softmax minus one-hot, over the batch, times the exit's share of the weights
        slope = (logits.detach().softmax(-1) - torch.eye(classes, dtype=dtype)[labels]) / batch
        shares = torch.tensor([(i + 1) / sum(range(exits + 1)) for i in range(exits)], dtype=dtype)
        check.close(
            "gradient",
            torch.autograd.grad(loss, logits)[0],
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
        torch.autograd.grad(loss, large)[0],
        torch.tensor([[[1 / 3, -1 / 3]], [[0.0, 0.0]]]),
        tested="the gradient at the same logits",
        likely="softmax, then log, is -inf: use log_softmax or cross_entropy",
    )


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
        "that is the sum of the exits' losses: a mean, with weights": sum(means),
        "the weights double from exit to exit: they are 1, 2, 3, …": weighted([2**i for i in range(exits)])
        / (2**exits - 1),
        "that is the last exit alone": means[-1],
        "the sign: the loss is minus the log-probability of the label": -weighted(steps) / whole,
        "cross_entropy wants logits, not probabilities: it takes the softmax itself": weighted(steps, twice) / whole,
        "the labels are out of step with the samples: repeat the whole row of labels, exit by exit": (
            weighted(steps, turned) / whole
        ),
        "the logits of the exits are averaged: every exit has a loss of its own": (
            sum(cost(r, y) for r, y in zip(together, labels, strict=True)) / batch
        ),
    }


# ---- task 3: gathered


class Stage:
    """Blocks and heads for samples that are sure after so many layers, by plain arithmetic; they note what they see.

    A token holds who it is and how sure it is, which grows by 1 a layer; a head is sure from 1 on.
    """

    def __init__(self, due: Sequence[int], depth: int) -> None:
        self.due, self.depth = due, depth
        self.tokens = torch.zeros(len(due), 2, 3)
        self.tokens[:, :, 0] = torch.arange(1.0, len(due) + 1)[:, None]
        self.tokens[:, :, 1] = 1 - torch.tensor(due).float()[:, None]
        self.blocks = [Watched(lambda tokens: tokens + torch.tensor([0.0, 1.0, 0.0])) for _ in range(depth)]
        self.heads = [Watched(self._head(layer)) for layer in range(depth)]

    def _head(self, layer: int) -> Callable[[Tensor], Tensor]:
        def read(tokens: Tensor) -> Tensor:
            who, sure = tokens[:, 0, 0], tokens[:, 0, 1].clamp_min(0)
            return 5 + torch.stack([10 * sure, who / 100, torch.full_like(who, layer / 100)], dim=-1)

        return read

    def leaves(self) -> list[int]:
        """The exit of each sample."""
        return [min(layers, self.depth) - 1 for layers in self.due]

    def logits(self, leaves: Sequence[int]) -> Tensor:
        """What the samples get if they leave at these exits."""
        return torch.tensor(
            [
                [5 + 10.0 * max(0, 2 + stop - layers), 5 + who / 100, 5 + stop / 100]
                for who, (stop, layers) in enumerate(zip(leaves, self.due, strict=True), start=1)
            ]
        )


def gathered(
    check: Task,
    answer: Callable[..., tuple[Tensor, Tensor]],
    *,
    stages: Iterable[tuple[Sequence[int], int]] = (([2, 1, 9, 1, 3, 2], 4), ([2, 1, 2], 4), ([3], 4)),
    networks: Iterable[tuple[int, int, int]] = ((3, 5, 4),),
    thresholds: Iterable[float] = (0.0, 0.6, 1.5),
) -> None:
    """Task 3: hand-made layers (when each sample is sure, depth), then transformers (depth, batch, classes)."""
    for due, depth in stages:
        stage = Stage(due, depth)
        on = f"{len(due)} samples, sure after {', '.join(map(str, due))} of {depth} layers (9: never)"
        leaves = stage.leaves()
        with check.untouched(tested=on, tokens=stage.tokens):
            got = answer(stage.tokens, stage.blocks, stage.heads, 0.9)
        _pair(check, got, on, len(due), 3)
        check.equal(
            "exit",
            got[1],
            torch.tensor(leaves),
            tested=on,
            likely="keep, beside the tokens, whose rows they are, and shrink both; the last exit takes all others",
            mistakes=_mistaken_leaves(leaves, due, depth),
        )
        check.close(
            "logits",
            got[0],
            stage.logits(leaves),
            tested=f"the logits of {on}",
            likely="each sample has those of the head it left at",
            mistakes=_mistaken_logits(stage),
        )
        _calls(check, stage.blocks, stage.heads, leaves, on)
    for depth, batch, classes in networks:
        _against_alone(check, answer, depth, batch, classes, thresholds)

    def even(tokens: Tensor) -> Tensor:
        return torch.zeros(len(tokens), 2)

    check.equal(
        "just enough",
        answer(torch.ones(3, 2, 4), [nn.Identity()] * 3, [even] * 3, 0.5)[1],
        torch.zeros(3, dtype=torch.int64),
        tested="two classes with equal logits, threshold 0.5",
        likely="a confidence of just λ is enough: >=",
    )


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


def _mistaken_leaves(leaves: list[int], due: Sequence[int], depth: int) -> dict[str, Tensor]:
    order = sorted(range(len(leaves)), key=lambda sample: leaves[sample])  # in which they leave
    local, stale = [0] * len(leaves), [0] * len(leaves)
    inside, rows = list(range(len(leaves))), list(range(len(leaves)))  # rows: numbered anew at every shrinking
    for layer in range(depth):
        for row, sample in enumerate(inside):
            if leaves[sample] == layer:
                local[row] = stale[rows[row]] = layer
        rows = [place for place, sample in enumerate(inside) if leaves[sample] > layer]
        inside = [sample for sample in inside if leaves[sample] > layer]
    late = [min(leave + 1, depth - 1) for leave in leaves]
    wrong = {
        "in the order in which they left: put them back in the order in which they came": sorted(leaves),
        "rows of the shrunken batch are taken for samples: after a shrinking, row 0 is whoever is still in": local,
        "right until the second shrinking: then the rows are numbered within the batch before; pick from who waits, "
        "waiting = waiting[~sure]": stale,
        "put in order the wrong way round: row k of what left belongs to sample order[k]": [
            sorted(leaves)[sample] for sample in order
        ],
        "the softmax is over the classes, and every sample leaves on its own: here all wait until the last": [depth - 1]
        * len(leaves),
        "one layer late: heads[i] reads what blocks[i] gives, not what goes into it": late,
        "all leave at the first exit: the confidence is the largest probability, after the softmax; and write to "
        "leaves[waiting[sure]], since leaves[waiting][sure] is a copy": [0] * len(leaves),
        "exits count from 0": [leave + 1 for leave in leaves],
        "the sample that is never sure leaves at the last exit": [
            0 if layers > depth else leave for leave, layers in zip(leaves, due, strict=True)
        ],
        "the sample that is never sure leaves at the last exit, by its number": [
            -1 if layers > depth else leave for leave, layers in zip(leaves, due, strict=True)
        ],
    }
    return {says: torch.tensor(value) for says, value in wrong.items() if value != leaves}


def _mistaken_logits(stage: Stage) -> dict[str, Tensor]:
    leaves = stage.leaves()
    right, last, batch = stage.logits(leaves), stage.depth - 1, len(leaves)
    order = sorted(range(batch), key=lambda sample: leaves[sample])
    empty = right.clone()
    empty[torch.tensor(stage.due) > stage.depth] = 0
    one_head = torch.cat([right[:, :2], torch.full((batch, 1), 5.0)], dim=1)
    wrong = {
        "in the order in which they left: put them back in the order in which they came": right[order],
        "put in order the wrong way round": right[order][order],
        "these are the logits of the last head for all: each sample keeps those of its exit": stage.logits(
            [last] * batch
        ),
        "these are the logits of the first head for all: each sample has those of its exit": stage.logits([0] * batch),
        "the sample that is never sure has no logits: the last head takes it": empty,
        "these are probabilities: give the logits": right.softmax(-1),
        "the samples that left early ran on through one layer more": stage.logits(
            [min(leave + 1, last) for leave in leaves]
        ),
        "heads[i] reads what blocks[i] gives; here one head reads for all exits": one_head
        + torch.tensor([0.0, 0.0, last / 100]),
        "heads[i] reads what blocks[i] gives; here the first head reads for all exits": one_head,
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
        blocks = nn.ModuleList(Watched(block) for block in plain)
        heads = nn.ModuleList(Watched(lambda x, head=head: 3 * head(x[:, 0])) for head in linear)
        what = f"{depth} transformer blocks, {batch} samples, {classes} classes, threshold {threshold:g}"
        with torch.no_grad():
            got = answer(tokens.clone(), blocks, heads, threshold)
            expected = [_alone(sample[None], plain, linear, threshold) for sample in tokens]
        _pair(check, got, what, batch, classes)
        stops = [number for _, number in expected]
        check.equal("each as if alone", got[1], torch.tensor(stops), tested=f"the exits: {what}")
        check.close(
            "logits as if alone",
            got[0],
            torch.stack([logits for logits, _ in expected]),
            tested=f"the logits: {what}",
            tolerance=1e-8,
            likely="shape and dtype of the results are those of the heads",
        )
        _calls(check, blocks, heads, stops, what)


def _alone(sample: Tensor, blocks: list[Block], heads: list[nn.Linear], threshold: float) -> tuple[Tensor, int]:
    for number, (block, head) in enumerate(zip(blocks, heads, strict=True)):  # noqa: B007
        sample = block(sample)
        logits = 3 * head(sample[:, 0])
        if logits.softmax(-1).max() >= threshold:
            break
    return logits[0], number


# ---- task 4: propagate


def propagate(
    check: Task,
    answer: Callable[..., None],
    *,
    models: Iterable[tuple[int, int, int, int]] = ((5, 2, 2, 6),),
    texts: Iterable[Sequence[int]] = ((2, 1, 2),),
) -> None:
    """Task 4: a token leaves models (depth, layers that ran, batch, its position); then texts whose tokens leave after
    so many of four layers, the last one run through all of them."""
    for depth, layers, batch, position in models:
        _one_token(check, answer, depth, layers, batch, position)
    for leaves in texts:
        _several_tokens(check, answer, leaves)


def _model(depth: int, *, seed: int) -> CausalLM:
    """A language model in float64 whose norms differ from layer to layer."""
    model = CausalLM(vocabulary=11, dim=16, depth=depth, heads=2).double().requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        parameter += 0.3 * checks.normal(*parameter.shape, seed=seed + number, dtype=torch.float64)
    return model


def _start(model: CausalLM, batch: int, layers: int, past: int, position: int) -> tuple[list[LayerCache], list[Tensor]]:
    """The caches after ``past`` tokens, and the states of one token more that runs through the first layers only."""
    caches, places = model.new_cache(), torch.arange(position - past, position)
    prompt = (torch.arange(batch)[:, None] * 3 + torch.arange(past) ** 2 + 1) % 11
    if past:
        x = model.embed(prompt)
        for block, cache in zip(model.blocks, caches, strict=True):
            x = block(x, positions=places, cache=cache)
    x, states = model.embed((torch.arange(batch)[:, None] * 5 + 6) % 11), []
    for block, cache in zip(list(model.blocks)[:layers], caches, strict=False):
        x = block(x, positions=torch.tensor([position]), cache=cache)
        states.append(x)
    return caches, states


def _owed(block: nn.Module, state: Tensor, position: int) -> tuple[Tensor, Tensor]:
    """What the block itself writes to an empty cache when it runs on the state."""
    scratch = LayerCache()
    block(state, positions=torch.full((len(state), 1), position), cache=scratch)
    return scratch.keys[:, :, 0], scratch.values[:, :, 0]


def _one_token(check: Task, answer: Callable[..., None], depth: int, layers: int, batch: int, position: int) -> None:
    model, past = _model(depth, seed=depth), min(position, 6)
    caches, states = _start(model, batch, layers, past, position)
    before = [(cache.keys.clone(), cache.values.clone()) if cache.length else None for cache in caches]
    ran: list[str] = []
    watched = [part for block in model.blocks for part in (block, block.attention, block.feed_forward)]
    hooks = [part.register_forward_hook(lambda part, *_: ran.append(type(part).__name__)) for part in watched]
    blocks = list(model.blocks) if batch == 1 else model.blocks
    answer(blocks, caches, [state.clone() for state in states], position)
    for hook in hooks:
        hook.remove()
    on = f"{depth} layers, {past} tokens, and one at position {position} that left after layer {layers}"
    here, above = [past + 1] * layers, [past + 1] * (depth - layers)
    short = [past] * (depth - layers)
    wrong = {
        "nothing was appended": here + short,
        "the layers that ran have the token already: into those above alone": [past + 2] * layers + above,
        "into the layers above, not into those that ran": [past + 2] * layers + short,
        "the layer it left after ran, and has the token already: blocks[0] … blocks[l - 1] ran": (
            [*here[:-1], past + 2, *above]
        ),
        "the first skipped layer is owed one too: blocks[l], when blocks[0] … blocks[l - 1] ran": (
            here + short[:1] + above[1:]
        ),
        "the last layer is owed one too": here + above[:-1] + short[:1],
        "only the next layer got one: all that were skipped are owed it": here + above[:1] + short[1:],
        "one token, not one for each state that the token had: h_l stands for it": (
            here + [past + layers] * (depth - layers)
        ),
    }
    lengths = [past + 1] * depth
    check.equal(
        "one token a layer",
        [cache.length for cache in caches],
        lengths,
        tested=f"the lengths of the caches of {on}",
        likely="each of the layers above the l-th gets one token more",
        mistakes={says: value for says, value in wrong.items() if value != lengths},
    )
    for layer in range(layers, depth):
        _owed_to_layer(check, model, caches[layer], states, layer, position, on)
    for layer, (cache, held) in enumerate(zip(caches, before, strict=True)):
        if held is not None:
            keys, values = held
            kept = torch.equal(cache.keys[:, :, : keys.shape[2]], keys)
            check.true(
                "the past stays",
                kept and torch.equal(cache.values[:, :, : values.shape[2]], values),
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
        likely="a norm and keys_values are all that a skipped layer costs",
    )


def _owed_to_layer(
    check: Task, model: CausalLM, cache: LayerCache, states: list[Tensor], layer: int, position: int, on: str
) -> None:
    block, first, layers = model.blocks[layer], model.blocks[len(states)], len(states)
    batch = len(states[-1])
    keys, values = _owed(block, states[-1], position)

    def at(state: Tensor, place: int = position, norm: nn.Module = block.norm1, of: nn.Module = block) -> list[Tensor]:
        return [part[:, :, 0] for part in of.attention.keys_values(norm(state), torch.full((batch, 1), place))]

    def run_on() -> tuple[Tensor, Tensor]:
        """What the layer would have got had the token stayed: with its past, and without."""
        (past, _), flow, apart = _start(model, batch, layers, min(position, 6), position), states[-1], states[-1]
        for below in range(layers, layer):
            flow = model.blocks[below](flow, positions=torch.tensor([position]), cache=past[below])
            apart = model.blocks[below](apart, positions=torch.full((batch, 1), position))
        return flow, apart

    flow, apart = run_on()
    wrong_values = {
        "the norm is missing: the attention sees norm1(h)": at(states[-1], norm=nn.Identity())[1],
        "norm2 belongs to the feed-forward part: norm1 stands before the attention": at(states[-1], norm=block.norm2)[
            1
        ],
        "that is the norm before the readout: norm1 stands before the attention": at(states[-1], norm=model.norm)[1],
        "that is h_1: take the state that the token left with, the last one": at(states[0])[1],
        "that is h_2: take the state that the token left with, the last one": at(states[min(1, layers - 1)])[1],
        "that is the embedding: take the state that the token left with": at(
            model.embed((torch.arange(batch)[:, None] * 5 + 6) % 11)
        )[1],
        "that is the mean of its states: take the last one": at(torch.stack(states).mean(0))[1],
        "the token ran on, and each layer got what the one below made of it: all get h_l": at(flow)[1],
        "the token ran on, without its past, and each layer got what the one below made of it: all get h_l": (
            at(apart)[1]
        ),
        "keys and values are swapped": keys,
        "every layer has weights of its own: these are those of the first that was skipped": at(
            states[-1], norm=first.norm1, of=first
        )[1],
        "every layer has a norm of its own: this is that of the first that was skipped": at(
            states[-1], norm=first.norm1
        )[1],
        "the norm of the layer below: each layer has its own": at(states[-1], norm=model.blocks[layer - 1].norm1)[1],
    }
    check.close(
        "values",
        cache.values[:, :, -1],
        values,
        tested=f"the values that layer {layer + 1} got, against what it would make of h_{layers} itself: {on}",
        tolerance=1e-8,
        likely="keys_values(norm1(h_l)), each layer with its own norm and weights",
        mistakes={says: value for says, value in wrong_values.items() if not torch.allclose(value, values)},
    )
    turned = {
        "turned as if the token stood at position 0: give keys_values its positions": 0,
        "turned one too far: positions count from 0, and this one is given": position + 1,
        "turned for the token before": position - 1,
        "turned for position l: it is the place in the text that counts, not the layer": layers,
        "turned for the layer's number: it is the place in the text that counts": layer,
        "turned for the length of the cache: a text need not begin at 0; the position is given": cache.length - 1,
    }
    check.close(
        "keys",
        cache.keys[:, :, -1],
        keys,
        tested=f"the keys that layer {layer + 1} got; the token stands at position {position}: {on}",
        tolerance=1e-8,
        likely="keys are turned by their position: give it to keys_values",
        mistakes={says: at(states[-1], place)[0] for says, place in turned.items() if place != position},
    )
    check.equal(
        "positions",
        cache.positions[:, -1],
        torch.full((batch,), position),
        tested=f"the position that the cache of layer {layer + 1} notes: {on}",
        likely="append takes the positions too, for each sample",
        mistakes={"the cache believes that the token stands at 0": torch.zeros(batch, dtype=torch.int64)}
        if position
        else {},
    )


def _several_tokens(check: Task, answer: Callable[..., None], leaves: Sequence[int]) -> None:
    model = _model(4, seed=90)
    caches, twins = model.new_cache(), model.new_cache()
    for position, layers in enumerate((*leaves, 4)):
        x = model.embed(torch.tensor([[position % 7], [position * 3 % 7]]))
        y, positions, states = x, torch.full((2, 1), position), []
        for layer in range(layers):
            x = model.blocks[layer](x, positions=positions, cache=caches[layer])
            y = model.blocks[layer](y, positions=positions, cache=twins[layer])
            states.append(x)
        check.close(
            "later tokens",
            x,
            y,
            tested=f"the last state of token {position}; tokens leave after {', '.join(map(str, leaves))} layers",
            tolerance=1e-8,
            likely="it attends to tokens that left earlier: to what you wrote for them",
        )
        answer(model.blocks, caches, states, position)
        for block, twin in zip(list(model.blocks)[layers:], twins[layers:], strict=True):
            keys, values = _owed(block, y, position)
            twin.append(keys[:, :, None], values[:, :, None], positions)


# ---- task 5: learn_then_test

COUNTS = (0, 2, 5, 6, 6, 7, 5, 8, 4, 9, 10, 11, 30)
"""Losses among 100 points; with δ = 0.1, 5 have the p-value 0.058, and 6 have 0.117."""


def learn_then_test(
    check: Task,
    p_value: Callable[[int, int, float], float],
    answer: Callable[..., int | None],
    *,
    binomials: Iterable[tuple[int, Fraction]] = ((6, Fraction(3, 10)),),
    draws: Iterable[tuple[int, int, Fraction, float]] = ((60, 5, Fraction(1, 5), 0.3),),
) -> None:
    """Task 5: p-values of n points (n, δ) in whole numbers; tables whose answer is known; tables drawn at random
    (points, thresholds, δ, ε)."""
    for n, delta in binomials:
        for k in sorted({0, 1, n // 50, n // 3, n // 2, n}):
            right = exactly(k, n, delta)
            check.close(
                "p-value",
                p_value(k, n, float(delta)),
                right,
                tested=f"{k} losses among {n} points, delta {float(delta):g}, against all outcomes",
                tolerance=1e-9,
                likely="add the probabilities of 0, 1, …, k losses; with many points add logarithms (math.lgamma)",
                mistakes=_mistaken_p_values(k, n, delta, right) if n < 100 else {},
            )
    for name, counts, points, expected, likely, wrong in _TABLES:
        check.equal(
            name,
            answer(table(counts, points), 0.1, 0.1),
            expected,
            tested=f"{points} points, delta = epsilon = 0.1, thresholds with {', '.join(map(str, counts))} losses",
            likely=likely,
            mistakes=wrong,
        )
    generator = torch.Generator().manual_seed(3)
    for n, thresholds, delta, epsilon in draws:
        for _ in range(15):
            risks = torch.linspace(0, 1.5 * float(delta), thresholds)
            losses = (torch.rand(n, thresholds, generator=generator) < risks).float()
            expected = _certified(losses, delta, epsilon)
            with check.untouched(tested="the losses", losses=losses):
                found = answer(losses, float(delta), epsilon)
            swapped = _certified(losses, Fraction(epsilon).limit_denominator(1000), float(delta))
            check.equal(
                "random losses",
                found,
                expected,
                tested=f"{n} points, {thresholds} thresholds, delta {float(delta):g}, epsilon {epsilon:g}",
                likely="delta stands in the p-value, epsilon is what the p-value is held against",
                mistakes={"delta and epsilon have changed places: delta stands in the p-value": swapped}
                if swapped != expected
                else {},
            )


def exactly(k: int, n: int, delta: Fraction) -> float:
    """P(Binomial(n, δ) ≤ k) in whole numbers."""
    b, c = delta.numerator, delta.denominator
    return float(Fraction(sum(math.comb(n, j) * b**j * (c - b) ** (n - j) for j in range(k + 1)), c**n))


def table(counts: Sequence[int], points: int) -> Tensor:
    """Losses [points, thresholds] with so many ones in each column."""
    return torch.stack([(torch.arange(points) < number).float() for number in counts], dim=1)


def _certified(losses: Tensor, delta: Fraction, epsilon: float) -> int | None:
    found = None
    for index in range(losses.shape[1]):
        if exactly(int(losses[:, index].sum()), len(losses), delta) > epsilon:
            break
        found = index
    return found


def _mistaken_p_values(k: int, n: int, delta: Fraction, right: float) -> dict[str, float]:
    d = float(delta)
    law = [exactly(j, n, delta) - (exactly(j - 1, n, delta) if j else 0.0) for j in range(n + 1)]
    wrong = {
        "k itself belongs to it: P(X ≤ k)": sum(law[:k]),
        "that is the probability of just k losses: add those of fewer": law[k],
        "that is P(X ≥ k): small k is what speaks for a threshold": sum(law[k:]),
        "that is P(X > k): small k is what speaks for a threshold": sum(law[k + 1 :]),
        "delta is the probability of a loss, 1 - delta that of none": sum(law[n - k :]),
        "that is Hoeffding's bound: here the p-value is exact": math.exp(-2 * n * max(d - k / n, 0) ** 2),
        "the factor n over j is missing: there are several ways to place j losses": sum(
            d**j * (1 - d) ** (n - j) for j in range(k + 1)
        ),
        "right, but the logarithm of it: take the exponential": math.log(right),
    }
    return {says: value for says, value in wrong.items() if abs(value - right) > 1e-9}


_TABLES: tuple[tuple[str, Sequence[int], int, int | None, str, dict[str, int | None]], ...] = (
    (
        "index",
        COUNTS,
        100,
        2,
        "5 losses have p = 0.058, 6 have p = 0.117: the first failure is the fourth threshold",
        {
            "that is the first that failed: give the last certified one, counted from 0": 3,
            "k itself belongs to the p-value, P(X ≤ k); and k is a sum of losses: int(n * mean) can cut one off": 4,
            "the most daring with p ≤ ε, but one before it failed: stop at the first failure": 8,
            "that is the probability of just k losses: add those of fewer": 6,
            "that is the most daring with mean loss at most δ: without a test the promise breaks too often": 10,
            "p is held against 1 - ε: certify where p ≤ ε": 11,
            "ε is divided by the number of thresholds: in a fixed order that stops, each may use all of it": 1,
            "the last threshold, whatever its losses": 12,
            "the safest one: go on while p ≤ ε": 0,
            "nothing certified: from the safest on, and p ≤ ε certifies; points lie along dimension 0": None,
        },
    ),
    (
        "the safest alone",
        (0, 20),
        100,
        0,
        "the first passes, the second fails",
        {"the index 0 is a result too: None says that nothing is certified": None},
    ),
    (
        "none certified",
        (6, 5, 4),
        100,
        None,
        "the safest fails, so nothing behind it is tested; say None",
        {
            "stop at the first failure: no later threshold may be certified": 2,
            "None if nothing is certified: -1 would be taken for the last one": -1,
            "None if nothing is certified: 0 is the safest threshold, which failed": 0,
        },
    ),
    (
        "too few points",
        (0, 0),
        10,
        None,
        "0.9 to the power of 10 is 0.35: no loss among ten points is no surprise at a risk of 0.1",
        {"no loss is not enough with so few points: p = 0.9 to the power of 10": 1},
    ),
    ("all certified", (0, 1, 2), 100, 2, "all pass: the last one, index 2", {}),
    (
        "only losses",
        (2000, 2000, 2000),
        2000,
        None,
        "the first fails; with many points add logarithms (math.lgamma)",
        {},
    ),
    ("the safest alone", (0,), 60, 0, "one threshold that passes: its index, 0", {}),
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
            "threshold with more points": "with more points a risk below δ shows more often: more is certified",
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
    return exactly(k, n, Fraction(risk).limit_denominator(1000))


def _probabilities() -> dict[str, float]:
    few = [k for k in range(51) if k / 50 <= 0.05]  # losses with which the naive rule takes the daring threshold
    certified = [k for k in range(51) if _tail(k, 50, 0.05) <= 0.1]  # and the tested one
    return {
        "points needed": next(n for n in itertools.count(1) if _tail(0, n, 0.05) <= 0.1),
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
            "one loss has the p-value 0.28: only none certifies": _tail(1, 50, 0.06),
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
        sure = load("digits_exits")(images.images).softmax(-1).amax(-1)
    stops = torch.tensor(_walk(sure.tolist(), 0.9)).double()
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
    return itertools.takewhile(lambda k: _tail(k, points, 0.05) <= 0.1, itertools.count())
