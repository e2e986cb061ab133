"""The checks of unit 12. A recursion is written out call by call and cut by hand; a stream of puzzles is compared with
each of them alone; the loss is computed cell by cell in plain Python, its gradient by what the logarithm of s does; an
average is compared with the sum that it stands for; what is predicted is counted on a model."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dynlib import checks
from dynlib.causes import where
from dynlib.checks import Task
from dynlib.depth import EMA, TinyRecursiveModel

WITHOUT = ("dynlib", "numpy", "scipy")
"""What an answer does without."""


@contextmanager
def _runs(check: Task, on: str, causes: dict[str, str]) -> Iterator[None]:
    """Errors that have a cause of their own in this task: for a part of the error's text, the sentence to show."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        cause = next((says for part, says in causes.items() if part in str(error)), None)
        if cause is None:
            raise
        got = f"{type(error).__name__}: {error}\nat the line: {where(error)[0]}"
        check.true("runs", False, tested=on, expected="a result", got=got, likely=cause)


# ---- task 1: last_calls

Recursion = tuple[int, int, int]
"""n, T, and how many of the last calls have a graph."""

RECURSIONS: tuple[Recursion, ...] = ((3, 3, 2), (2, 2, 3), (2, 3, 5), (1, 2, 4), (2, 2, 1))


class _Net(nn.Module):
    """A small network that keeps what it was given, and whether its result has a graph."""

    def __init__(self, dim: int, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(checks.normal(dim, dim, seed=seed, dtype=torch.float64) / dim**0.5)
        self.bias = nn.Parameter(checks.normal(dim, seed=seed + 1, dtype=torch.float64))
        self.given: list[Tensor] = []
        self.graphs: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        result = torch.tanh(x @ self.weight + self.bias)
        self.given.append(x.detach().clone())
        self.graphs.append(result.requires_grad)
        return result


def last_calls(
    check: Task,
    answer: Callable[..., tuple[Tensor, Tensor]],
    *,
    cases: Iterable[Recursion] = RECURSIONS,
    seed: int = 0,
) -> None:
    """Task 1: the calls and what they get, which of them have a graph, values, gradients; k that is out of range."""
    check.by_hand(
        "by hand",
        answer,
        without=(*WITHOUT, "torch.autograd.grad", ".backward"),
        tested="what the code of last_calls uses",
        likely="a loop, and gradients switched on and off round the calls",
    )
    for number, (n, T, k) in enumerate(cases):
        on = f"n = {n}, T = {T}, k = {k}"
        net = _Net(3, seed=100 * seed + 10 * number)
        x, y, z = (checks.normal(2, 4, 3, seed=100 * seed + 10 * number + i, dtype=torch.float64) for i in (3, 4, 5))
        sources = dict(zip(("the weight", "the bias"), net.parameters(), strict=True)) | {"x": x.requires_grad_()}
        if k == T * (n + 1):
            sources |= {"y": y.requires_grad_(), "z": z.requires_grad_()}
        expected, given = _written_out(net, x, y, z, n, T, k)
        slopes = _slopes(expected, [*sources.values()])
        net.given.clear()
        net.graphs.clear()
        with check.untouched(tested=on, x=x, y=y, z=z):
            found = answer(net, x, y, z, n, T, k)
        check.true(
            "two tensors",
            isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(part, Tensor) for part in found),
            tested=on,
            expected="(y, z)",
            got=type(found).__name__,
            likely="return y, z",
        )
        check.equal(
            "calls",
            len(net.given),
            T * (n + 1),
            tested=f"how often net is called: {on}",
            likely="n thoughts and one answer, T times",
        )
        check.true(
            "what a call gets",
            all(torch.allclose(mine, right, atol=1e-10) for mine, right in zip(net.given, given, strict=True)),
            tested=f"what net is given in each call: {on}",
            expected="x + y + z for a thought, y + z for an answer, each with the newest y and z",
            got=f"call {_first_other(net.given, given) + 1} of {len(given)} gets something else",
            likely="n times z, then once y; both go on into the next of the T recursions",
        )

        def last(count: int, calls: int = T * (n + 1)) -> tuple[bool, ...]:
            return tuple(number >= calls - count for number in range(calls))

        check.equal(
            "calls with a graph",
            tuple(net.graphs),
            last(k),
            tested=f"whether the result of each call has a graph: {on}",
            likely="all calls without one first, the last k with: k counts calls, in whatever recursion they lie",
            mistakes={
                "one call too few: where k calls are left, itself counted, a call has a graph": last(k - 1),
                "one call too many: where k calls are left, itself counted, the first has a graph": last(k + 1),
                "those are the calls of the whole last recursion: k says how many": last(n + 1),
                "k counts calls, not recursions": last(k * (n + 1)),
                "all calls have one: detach cuts it off only afterwards; torch.no_grad() computes without": last(
                    T * (n + 1)
                ),
                "there are T (n + 1) calls: the answer is one, too": last(k + T),
                "those are the last calls of every recursion: the last k of all are asked for": tuple(
                    number % (n + 1) >= n + 1 - k for number in range(T * (n + 1))
                ),
                "the first k calls have a graph, not the last": tuple(reversed(last(k))),
            },
        )
        for name, mine, theirs in zip(("y", "z"), found, expected, strict=True):
            check.close(
                "values",
                mine.detach(),
                theirs.detach(),
                tested=f"{name}: {on}",
                tolerance=1e-10,
                likely="z from the last thought, y from the last answer",
            )
        for name, theirs, ours in zip(sources, _slopes(found, [*sources.values()]), slopes, strict=True):
            check.close(
                "gradients",
                theirs,
                ours,
                tested=f"the gradient of {name}: {on}",
                tolerance=1e-9,
                likely="with k = T (n + 1) the graph goes back to the y and z that were given"
                if name in "yz"
                else "y and z come back with the graph of the last k calls, and x is part of it",
            )
        with torch.no_grad():
            net.graphs.clear()
            answer(net, x, y, z, n, T, k)
            still_off = not torch.is_grad_enabled()
        check.true(
            "gradients off",
            not any(net.graphs) and still_off,
            tested=f"under torch.no_grad(): {on}",
            expected="no call with a graph, and gradients as they were afterwards",
            got=f"{sum(net.graphs)} calls with a graph",
            likely="torch.is_grad_enabled() tells what the caller wants",
        )
    for k in (0, 7):
        check.raises(
            "out of range",
            ValueError,
            lambda k=k: answer(_Net(3, 0), *(checks.normal(1, 2, 3, seed=i).double() for i in range(3)), 2, 2, k),  # type: ignore[misc]
            tested=f"n = 2, T = 2, which are 6 calls, and k = {k}",
            likely="raise ValueError unless 1 ≤ k ≤ T (n + 1)",
        )


def _written_out(
    net: _Net, x: Tensor, y: Tensor, z: Tensor, n: int, T: int, k: int
) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """Everything with a graph, and y and z cut by hand before the last k calls; with what each call is given."""
    given, left = [], T * (n + 1)
    for which in ("z" * n + "y") * T:
        if left == k < T * (n + 1):
            y, z = y.detach(), z.detach()
        question = x if left <= k else x.detach()
        inside = question + y + z if which == "z" else y + z
        given.append(inside.detach().clone())
        result = torch.tanh(inside @ net.weight + net.bias)
        y, z = (y, result) if which == "z" else (result, z)
        left -= 1
    return (y, z), given


def _slopes(found: Sequence[Tensor], sources: Sequence[Tensor]) -> list[Tensor]:
    y, z = found
    total = (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum() + (z**2).sum()
    if not total.requires_grad:
        return [torch.zeros_like(source) for source in sources]
    return list(torch.autograd.grad(total, sources, allow_unused=True, materialize_grads=True))


def _first_other(found: Sequence[Tensor], right: Sequence[Tensor]) -> int:
    pairs = enumerate(zip(found, right, strict=True))
    return next((i for i, (a, b) in pairs if not torch.allclose(a, b, atol=1e-10)), 0)


# ---- task 2: one_queue

Queue = tuple[int, tuple[int, ...], int]
"""How many at a time, after how many steps each puzzle is sure, the most steps."""

QUEUES: tuple[Queue, ...] = (
    (2, (2, 1, 3), 5),
    (3, (1, 4, 2, 2, 1, 3), 6),
    (4, (2, 1), 4),
    (2, (9, 1, 2, 9), 3),
    (2, (2, 2, 1, 1), 3),  # two places are free at once, and two puzzles wait
)


class _Solver:
    """A step and a start whose results depend on all that a puzzle was carried through, and on nothing else."""

    def __init__(self, needs: Sequence[int], seed: int) -> None:
        count = len(needs)
        self.x = checks.normal(count, 3, 2, seed=seed, dtype=torch.float64)
        self.x[:, 0, 0] = torch.tensor(needs, dtype=torch.float64)
        self.rows: list[int] = []
        self.given: list[Tensor] = []

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(x), torch.zeros_like(x)

    def step(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.rows.append(len(x))
        if not len(x) == len(y) == len(z):
            raise ValueError(f"step got {len(x)} puzzles, {len(y)} answers and {len(z)} latents")
        self.given.append(torch.stack([x, y, z], 1).flatten(1))
        y = torch.sin(2 * y + x + z)
        z = z + 1.0
        answers = (1e6 * y.sum(-1)).round().long()
        return y, z, answers, z[:, 0, 0] - x[:, 0, 0]  # 0 at the step that it needs, 1 one later

    def alone(self, threshold: float, limit: int) -> tuple[Tensor, list[int]]:
        """Each puzzle by itself."""
        answers, steps = [], []
        for one in self.x.split(1):
            y, z = self.start(one)
            number, q = 0, torch.tensor([-math.inf])
            while number < limit and not float(q) > threshold:
                y, z, said, q = self.step(one, y, z)
                number += 1
            answers.append(said)
            steps.append(number)
        self.rows.clear()
        self.given.clear()
        return torch.cat(answers), steps

    def strangers(self, most: int) -> int:
        """How many of the rows that step was given are no puzzle's on its way of up to so many steps, or come twice."""
        given, way = torch.cat(self.given), _Solver([0] * len(self.x), 0)
        y, z = self.start(self.x)
        for _ in range(most):
            y, z, _, _ = way.step(self.x, y, z)
        same = torch.cdist(given, torch.cat(way.given), p=math.inf) < 1e-8
        return len(given) - int(same.any(0).sum())


def one_queue(
    check: Task,
    answer: Callable[..., tuple[Tensor, Tensor]],
    *,
    cases: Iterable[Queue] = QUEUES,
    thresholds: Iterable[float] = (-0.5, 0.0),
    seed: int = 0,
) -> None:
    """Task 2: answers and steps as for each puzzle alone, and the rows of every call."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of one_queue uses", likely="PyTorch alone")
    thresholds = tuple(thresholds)
    for number, (most, needs, limit) in enumerate(cases):
        for threshold in thresholds:
            on = f"{most} at a time, {len(needs)} puzzles that need {needs}, threshold {threshold:g}, limit {limit}"
            solver = _Solver(needs, seed=10 * seed + number)
            expected, steps = solver.alone(threshold, limit)
            with check.untouched(tested=on, x=solver.x), _runs(check, on, _QUEUE):
                found = answer(solver.step, solver.start, solver.x, most, threshold, limit)
            check.true(
                "two tensors",
                isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(t, Tensor) for t in found),
                tested=on,
                expected="(answers, steps)",
                got=type(found).__name__,
                likely="return answers, steps",
            )
            answers, took = found
            rows = _rows(steps, most)
            check.true(
                "at most so many",
                max(solver.rows, default=0) <= most and 0 not in solver.rows,
                tested=f"puzzles in each call of step: {on}",
                expected=f"1 to {most}",
                got=solver.rows,
                likely="only as many places as the batch has, and no call for nobody",
            )
            strangers = solver.strangers(3 * limit + 3)
            check.true(
                "what a call gets",
                strangers == 0,
                tested=f"x, y and z in each call of step: {on}",
                expected="in each row x, y and z of one puzzle: of start(x), or as its own last step left them",
                got=f"{strangers} of {len(torch.cat(solver.given))} rows are nobody's, or given twice",
                likely="x, y and z are cut and made longer together, in the same order: a new puzzle begins with "
                "start(x), the others go on with their own",
            )
            check.equal(
                "steps",
                took,
                torch.tensor(steps),
                tested=on,
                likely="a puzzle leaves after the first of its own steps with q above the threshold, or after `limit`",
                mistakes={
                    "q at the threshold is not above it": torch.tensor(_at_least(needs, threshold, limit)),
                    "they stand in the order in which the puzzles left": torch.tensor(sorted(steps)),
                    "everybody took all steps": torch.full((len(steps),), limit),
                },
            )
            check.equal(
                "answers",
                answers,
                expected,
                tested=on,
                likely="the answers of its last step stand in the row of each puzzle",
            )
            check.equal(
                "rows",
                tuple(solver.rows),
                tuple(rows),
                tested=f"puzzles in each call of step: {on}",
                likely="whoever has left makes place for the next puzzle in the very next call",
                mistakes={
                    "one new puzzle in a call: as many come as there are places free": tuple(_one_by_one(steps, most)),
                    "the next puzzles come only when all places are empty": tuple(_waits(steps, most)),
                    "whoever is done is computed on": tuple([min(most, len(steps))] * len(rows)),
                },
            )


_QUEUE = {
    "Index put requires": "answers are int64, and so is the tensor that they are put into: torch.zeros makes float32",
    "out of bounds": "there may be fewer puzzles than places: as many come as are left in the queue",
    "out of range": "there may be fewer puzzles than places: as many come as are left in the queue",
}


def _rows(steps: Sequence[int], most: int) -> list[int]:
    """How many puzzles are at work in each call, worked out on a time table."""
    free, busy = [0] * most, dict[int, int]()
    for need in steps:
        place = min(range(most), key=lambda p: free[p])
        for time in range(free[place], free[place] + need):
            busy[time] = busy.get(time, 0) + 1
        free[place] += need
    return [busy[time] for time in sorted(busy)]


def _waits(steps: Sequence[int], most: int) -> list[int]:
    """The same if a batch is begun only when the one before is done."""
    rows: list[int] = []
    for first in range(0, len(steps), most):
        some = steps[first : first + most]
        rows += [sum(need > time for need in some) for time in range(max(some))]
    return rows


def _one_by_one(steps: Sequence[int], most: int) -> list[int]:
    """The same if the first call is full, and one puzzle at most begins in each later one."""
    waiting, left, rows = [*steps], list[int](), list[int]()
    while waiting or left:
        new = min(most - len(left), 1 if rows else most)
        left, waiting = left + waiting[:new], waiting[new:]
        rows.append(len(left))
        left = [need - 1 for need in left if need > 1]
    return rows


def _at_least(needs: Sequence[int], threshold: float, limit: int) -> list[int]:
    return [min(limit, max(1, math.ceil(need + threshold))) for need in needs]


# ---- task 3: stablemax_loss

Logits = tuple[str, Tensor, list[list[int]]]
"""The check's name, logits [puzzles, cells, classes], labels."""


def cells(puzzles: int, length: int, classes: int, *, seed: int, scale: float = 3.0, skip: float = 0.3) -> Logits:
    """Random logits, and labels of which a share does not count."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(puzzles, length, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (puzzles, length), generator=generator)
    labels[torch.rand(puzzles, length, generator=generator) < skip] = -1
    labels[:, 0] = 0  # one counts
    return "some count" if skip else "all count", logits, labels.tolist()


LOSSES: tuple[Logits, ...] = (
    ("all count", torch.tensor([[[2.0, -1.0, 0.5]]], dtype=torch.float64), [[0]]),
    cells(3, 4, 5, seed=0, skip=0.0),
    cells(2, 6, 4, seed=1),
    ("none counts", torch.tensor([[[1.5, -2.0], [0.3, 4.0]], [[1.2, 3.0], [2.0, 0.7]]]), [[-1, -1], [1, -1]]),
    ("at 0, 1 and −1", torch.tensor([[[0.0, 1.0, -1.0], [1.0, 0.0, 2.0]]], dtype=torch.float64), [[2, 1]]),
    ("large and tiny", torch.tensor([[[1e30, -1e30, 3.0], [-2e38, 1e38, 3e38]]]), [[1, 2]]),
    ("large and tiny", torch.tensor([[[1e-30, -1e-20, 5.0], [-1e-8, 1e-8, 0.0]]]), [[0, 1]]),
    (
        "large and tiny",
        torch.tensor([[[1e308, -1e308, 3.0], [-1.5e308, 1e308, 1.7e308]]], dtype=torch.float64),
        [[1, 2]],
    ),
)
_LOSS = {
    "all count": "−log of s(label) / Σ s, with s(x) = x + 1 from 0 on and 1 / (1 − x) below; for each puzzle the sum, "
    "divided by how many of its cells count",
    "some count": "the mean over the cells of a puzzle that count, for each puzzle",
    "none counts": "a puzzle of which no cell counts has the loss 0, and gradients of 0",
    "at 0, 1 and −1": "s is smooth at 0 and at 1: its logarithm has the slope 1 / (1 + |x|) everywhere",
    "large and tiny": "s is too large or too small for the dtype, float64 as well, and a small number that is added is "
    "an error: compute log s, and logsumexp",
}


def stablemax_loss(
    check: Task, answer: Callable[[Tensor, Tensor], Tensor], *, cases: Iterable[Logits] = LOSSES
) -> None:
    """Task 3: values and gradients, of some cells or none, at the joints of s and far out."""
    check.by_hand(
        "by hand",
        answer,
        without=(*WITHOUT, "torch.autograd", "math"),
        tested="what the code of stablemax_loss uses",
        likely="PyTorch alone",
    )
    for name, given, marks in cases:
        logits, labels = given.clone().requires_grad_(), torch.tensor(marks)
        on = f"logits {list(given.shape)}, {given.dtype}" + (f" = {given.tolist()}" if given.numel() < 7 else "")
        on += f", labels {marks}" if len(marks) * len(marks[0]) < 7 else ""
        tolerance = 1e-9 if given.dtype == torch.float64 else 2e-5
        losses, slopes = _by_cell(given.tolist(), marks)
        from_one, _ = _by_cell(given.tolist(), [[mark if mark > 0 else -1 for mark in row] for row in marks])
        with check.untouched(tested=on, logits=logits, labels=labels), _runs(check, on, _LABEL):
            found = answer(logits, labels)
        check.finite(name, found, tested=on, likely=_LOSS[name])
        check.close(
            name,
            found.detach(),
            torch.tensor(losses, dtype=given.dtype),
            tested=on,
            tolerance=tolerance,
            likely=_LOSS[name],
            mistakes={
                "that is the loss of a softmax: s is no exponential": _softmax(given, labels),
                "that is the mean over all cells: those with −1 do not count": torch.tensor(losses, dtype=given.dtype)
                * (labels >= 0).sum(1)
                / labels.shape[1],
                "a label of 0 is a class, and counts": torch.tensor(from_one, dtype=given.dtype),
                "each puzzle has a mean of its own, over its own cells that count": torch.tensor(
                    losses, dtype=given.dtype
                )
                * (labels >= 0).sum(1)
                / (labels >= 0).sum().clamp(min=1),
                "that is the sum over the cells": torch.tensor(losses, dtype=given.dtype) * (labels >= 0).sum(1),
            },
        )
        slope = checks.gradient(found, logits)
        check.finite(
            f"gradients, {name}",
            slope,
            tested=f"the gradient: {on}",
            likely="torch.where gives the branch that is not taken a gradient of 0 times infinity: keep it finite",
        )
        weights = torch.linspace(-1, 2, len(losses), dtype=torch.float64)
        right = (torch.tensor(slopes, dtype=torch.float64) * weights[:, None, None]).to(given.dtype)
        check.close(
            f"gradients, {name}",
            slope,
            right,
            tested=f"the gradient: {on}",
            tolerance=tolerance,
            likely="the logarithm of s has the slope 1 / (1 + |x|), at 0 as well",
        )


_LABEL = {"out of bounds": "a label of −1 is no index: clamp it, and leave the cell out of the mean"}
_LABEL |= {"out of range": _LABEL["out of bounds"]}


def _by_cell(logits: list[list[list[float]]], labels: list[list[int]]) -> tuple[list[float], list[Any]]:
    """Losses and their gradients in Python's floats."""
    losses, slopes = [], []
    for grid, marks in zip(logits, labels, strict=True):
        counted = sum(mark >= 0 for mark in marks)
        loss, slope = 0.0, []
        for row, mark in zip(grid, marks, strict=True):
            log_s = [math.log1p(x) if x >= 0 else -math.log1p(-x) for x in row]
            s = [math.exp(part - max(log_s)) for part in log_s]  # divided by the largest
            if mark >= 0:
                loss += (math.log(math.fsum(s)) + max(log_s) - log_s[mark]) / counted
            slope.append(
                [
                    (part / math.fsum(s) - (number == mark)) / (1 + abs(x)) / counted if mark >= 0 else 0.0
                    for number, (x, part) in enumerate(zip(row, s, strict=True))
                ]
            )
        losses.append(loss)
        slopes.append(slope)
    return losses, slopes


def _softmax(logits: Tensor, labels: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    picked = torch.stack(
        [
            torch.stack([row[max(mark, 0)] for row, mark in zip(grid, marks, strict=True)])
            for grid, marks in zip(log_p, labels.tolist(), strict=True)
        ]
    )
    return torch.where(labels >= 0, -picked, 0.0).sum(1) / (labels >= 0).sum(1).clamp(min=1)


# ---- task 4: follow

Average = tuple[str, torch.dtype, torch.dtype, float, int]
"""The check's name, the dtypes of the average and of the model, decay, updates."""

AVERAGES: tuple[Average, ...] = (
    ("one update", torch.float64, torch.float64, 0.9, 1),
    ("updates", torch.float64, torch.float64, 0.75, 4),
    ("no memory", torch.float32, torch.float32, 0.0, 2),
    ("beside bfloat16", torch.float32, torch.bfloat16, 0.999, 30),
)
_AVERAGE = {
    "one update": "w̄ ← decay · w̄ + (1 − decay) · w, for every weight",
    "updates": "each update starts from what the last one left",
    "no memory": "with decay 0 the average is the model",
    "beside bfloat16": "bfloat16 has three digits: 0.999 of a number is that number again. Compute in the average's",
}


_WRITING = {
    "leaf": "a weight that needs a gradient is written into in place, and only under torch.no_grad()",
    "dtype": "turn w into the average's dtype first, w.to(kept.dtype): not every method does it by itself",
}


class _Odd(nn.Module):
    """A weight used twice, a frozen one, buffers of numbers and of counts, one of which is never saved."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(4, 4)
            self.second = nn.Linear(4, 4)
            self.norm = nn.BatchNorm1d(4)
            self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
            self.register_buffer("start", torch.randn(5))
            self.register_buffer("unsaved", torch.randn(2), persistent=False)
        self.second.weight = self.first.weight

    def move(self, number: int) -> None:
        """As an optimizer and a batch would."""
        with torch.no_grad():
            for place, parameter in enumerate(self.parameters()):
                drawn = checks.normal(*parameter.shape, seed=100 * number + place)
                parameter.add_(0.5 * drawn.to(parameter.dtype))
            for place, buffer in enumerate(self.buffers()):
                if buffer.is_floating_point():
                    buffer.add_(0.1 + place)
                else:
                    buffer.add_(3)


def follow(
    check: Task,
    answer: Callable[[nn.Module, nn.Module, float], object],
    *,
    cases: Iterable[Average] = AVERAGES,
    seed: int = 0,
) -> None:
    """Task 4: weights, buffers, what is shared and frozen; in place, without a graph, and nothing else is changed."""
    check.by_hand("by hand", answer, without=(*WITHOUT, "torch.optim"), tested="what the code of follow uses")
    for name, wide, narrow, decay, updates in cases:
        model = _Odd(seed).to(narrow)
        average = copy.deepcopy(model).to(wide).eval()
        on = f"decay {decay}, {updates} update{'s' if updates > 1 else ''}, average {wide}, model {narrow}"
        expected = {key: value.detach().double() for key, value in average.named_parameters()}
        swapped: dict[str, Tensor] = {}
        places = {key: value.data_ptr() for key, value in average.state_dict().items()}
        for number in range(updates):
            model.move(1000 * seed + number)
            for key, value in model.named_parameters():
                swapped[key] = (1 - decay) * expected[key] + decay * value.detach().double()
                expected[key] = decay * expected[key] + (1 - decay) * value.detach().double()
            before = {key: value.clone() for key, value in model.state_dict().items()}
            asked = [p.requires_grad for p in model.parameters()]
            with _runs(check, on, _WRITING):
                answer(average, model, decay)
            changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
            check.true(
                "the model stays",
                not changed and asked == [p.requires_grad for p in model.parameters()] and model.training,
                tested=f"the model that is followed: {on}",
                expected="weights, buffers, requires_grad and mode as they were",
                got=", ".join(changed) or "requires_grad or the mode changed",
                likely="the average follows the model, and not the other way round",
            )
        check.true(
            "no graph",
            all(value.grad_fn is None for value in average.parameters()),
            tested=f"the average: {on}",
            expected="weights without a graph",
            got="a weight with a grad_fn",
            likely="all of this happens under torch.no_grad()",
        )
        check.true(
            "in place",
            places == {key: value.data_ptr() for key, value in average.state_dict().items()},
            tested=f"where the average's tensors lie in memory: {on}",
            expected="the same places as before",
            got="another tensor",
            likely="methods that end in _ write into a tensor; whoever holds it sees the new values",
        )
        check.true(
            "as it was",
            not average.training and asked == [p.requires_grad for p in average.parameters()],
            tested=f"the average: {on}",
            expected="mode and requires_grad as they were",
            got="another mode or another requires_grad",
            likely="only numbers change",
        )
        tolerance = 1e-10 if wide == torch.float64 else 1e-5
        tied = {"first.weight": "used twice", "frozen": "frozen"}
        for key, value in sorted(average.named_parameters(), key=lambda named: named[0] in tied):
            check.close(
                tied.get(key, name) if name == "one update" else name,
                value.detach().double(),
                expected[key],
                tested=f"{key}: {on}",
                tolerance=tolerance,
                likely={
                    "first.weight": "a weight that two layers share is one weight, and moves once: state_dict() names "
                    "it twice, named_parameters() once",
                    "frozen": "a frozen weight is a weight as well",
                }.get(key if name == "one update" else "", _AVERAGE[name]),
                mistakes={"decay is how much of the average stays, and 1 − decay how much is new": swapped[key]},
            )
        right = dict(model.named_buffers())
        for key, value in average.named_buffers():
            check.true(
                "buffers",
                value.dtype == (wide if right[key].is_floating_point() else right[key].dtype)
                and torch.equal(value.double(), right[key].double()),
                tested=f"{key}: {on}",
                expected="the model's own values, in the average's dtype",
                got=value,
                likely="state_dict() leaves out what is never saved (persistent=False): buffers() has every buffer"
                if key == "unsaved"
                else "buffers are copied, numbers and counts alike: they are no weights, and are not averaged",
            )


# ---- task 5: predict

WORDS = {"memory for the backward pass at T = 6": ("the same", "more, but not twice", "twice")}


def predict(check: Task, answer: Callable[[], dict[str, Any]], *, seed: int = 3) -> None:
    """Task 5: predictions about a small model, counted on one of this seed."""
    check.prediction(
        answer(),
        _measured(seed),
        tested="depth 2, n = 4, T = 3, at most 8 steps",
        words=WORDS,
        slips=_SLIPS,
        likely=_USUALLY,
    )


@cache
def _measured(seed: int) -> dict[str, float | str]:
    """Counted on a model: called, differentiated, run."""
    torch.manual_seed(seed)
    model = TinyRecursiveModel(vocabulary=5, length=4, dim=8, heads=2, mixer="mlp", depth=2, n=4, T=3, steps=8)
    calls: list[bool] = []
    layers: list[int] = []
    rows: list[int] = []
    model.net.register_forward_hook(lambda _, __, out: calls.append(out.requires_grad))
    model.net.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    for layer in model.net:
        layer.register_forward_hook(lambda *_: layers.append(1))
    puzzles = torch.randint(5, (4, 4))
    x = model.embed(puzzles)
    kept = {T: _kept(model, x, T) for T in (3, 6)}
    calls.clear()
    model.deep_recursion(x, *model.start(x))
    step = list(calls)
    layers.clear()
    model(puzzles[:1])
    deep = len(layers)
    _sure_after(model, (1, 2, 3, 8))
    rows.clear()
    taken = model.predict(puzzles)
    assert taken.steps.tolist() == [1, 2, 3, 8]
    fresh = TinyRecursiveModel(vocabulary=5, length=4, dim=8, heads=2, depth=2)
    (_, _, q) = fresh.deep_recursion(fresh.embed(puzzles), *fresh.start(fresh.embed(puzzles)))
    weight = nn.Linear(1, 1, bias=False)
    nn.init.ones_(weight.weight)
    average = EMA(weight, 0.99)
    nn.init.zeros_(weight.weight)
    for _ in range(100):
        average.update(weight)
    same = kept[6] == kept[3]
    return {
        "network calls of a step": len(step),
        "of these with a graph": sum(step),
        "layers in all steps": deep,
        "share of the rows that run": sum(rows) / len(step) / (len(puzzles) * model.steps),
        "memory for the backward pass at T = 6": "the same" if same else "twice",
        "how sure an untrained model is": torch.sigmoid(q).mean().item(),
        "what is left of the first weights": float(average.model.weight),
    }


def _kept(model: TinyRecursiveModel, x: Tensor, T: int) -> int:
    """Numbers that are kept for the backward pass of a step."""
    kept: list[int] = []

    def pack(given: Tensor) -> Tensor:
        kept.append(given.numel())
        return given

    with saved_tensors_hooks(pack, lambda given: given):
        model.deep_recursion(x.detach(), *model.start(x.detach()), T=T)
    return sum(kept)


def _sure_after(model: TinyRecursiveModel, steps: Sequence[int]) -> None:
    """Let q rise above 0 after so many steps of each of the puzzles, whatever they are."""
    own = model.deep_recursion
    waiting, seen = [*steps], [0]

    def recursion(*args: Any, **kwargs: Any) -> Any:
        seen[0] += 1
        state, logits, q = own(*args, **kwargs)
        left = [need for need in waiting if need >= seen[0]]
        return state, logits, torch.tensor([1.0 if need == seen[0] else -1.0 for need in left]).to(q)

    model.deep_recursion = recursion  # type: ignore[method-assign]


_USUALLY = {
    "network calls of a step": "n thoughts and one answer, T times",
    "of these with a graph": "only the last of the T recursions has one",
    "layers in all steps": "calls of a step, times two layers, times the steps",
    "share of the rows that run": "add up the steps of the four puzzles; all of them would take 4 · 8",
    "memory for the backward pass at T = 6": "which of the calls keep anything for the backward pass?",
    "how sure an untrained model is": "q begins at −5, a logit: σ(−5)",
    "what is left of the first weights": "each update leaves 0.99 of it",
}
_SLIPS: dict[str, dict[str, float | int | str]] = {
    "network calls of a step": {
        "the answer is a call, too: n + 1 in each recursion": 12,
        "that is one recursion; a step has T of them": 5,
        "those are layers; a call goes through both": 30,
        "that is with n = 6": 21,
    },
    "of these with a graph": {
        "the answer is a call, too": 4,
        "T − 1 recursions have no graph": 15,
        "those are the calls without a graph": 10,
        "all n + 1 calls of the last recursion have one, not just the last two": 2,
    },
    "layers in all steps": {
        "each call goes through two layers": 120,
        "that is one step": 30,
        "the answer is a call, too": 192,
    },
    "share of the rows that run": {
        "that is the share which is saved": 18 / 32,
        "a share, not in percent": 43.75,
        "those are the rows, not their share": 14,
        "the steps are those of each puzzle, not the longest": 1.0,
        "the right number, rounded: write it as a fraction": 0.44,
    },
    "memory for the backward pass at T = 6": {
        "what runs without a graph keeps nothing": "twice",
        "the calls that T adds have no graph": "more, but not twice",
    },
    "how sure an untrained model is": {
        "that is q, a logit: the probability is σ(q)": -5,
        "q does not begin at 0": 0.5,
        "the right number, rounded: write σ(−5) as Python computes it": 0.007,
        "that is σ(5)": 1 / (1 + math.exp(-5)),
        "that is e⁻⁵, nearly: σ(q) = 1 / (1 + e⁻ᵠ)": math.exp(-5),
    },
    "what is left of the first weights": {
        "1 − 0.99 is what is new in one update": 0.01,
        "in each of the 100 updates 0.99 of it stay: a factor, and no difference": 0.0,
        "the right number, rounded: write it as a product or a power": 0.37,
        "that is what was put in their place": 1 - 0.99**100,
        "0.99 a hundred times": 0.99,
    },
}
