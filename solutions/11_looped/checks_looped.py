"""The checks of unit 11. A window's gradient is that of loops unrolled in one graph; who stops when is found one sample
at a time, and the batches that a full house needs are counted from it; probabilities of exits are multiplied one by
one; shared layers are averaged name by name, and run."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dynlib import checks
from dynlib.backbone import Block
from dynlib.checks import Task, Watched
from dynlib.cost import count
from dynlib.depth import Looped, exit_distribution

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
WITHOUT = ("dynlib", "numpy", "scipy")
"""What an answer does without."""


# ---- task 1: window_gradients

Window = tuple[int, int, int]
"""Samples, loops, the window."""

WINDOWS: tuple[Window, ...] = ((2, 1, 1), (3, 5, 1), (2, 6, 3), (1, 4, 4))


class Alive:
    """How many tensors graphs keep for a backward pass, now."""

    def __init__(self) -> None:
        self.number = 0

    def keep(self, value: Tensor) -> "_Kept":
        return _Kept(self, value.detach())  # a result that held its own graph would never go


class _Kept:
    def __init__(self, of: Alive, value: Tensor) -> None:
        self.of, self.value = of, value
        of.number += 1

    def __del__(self) -> None:
        self.of.number -= 1


class Loop:
    """A block of two weights and a loss, which count their calls and what graphs keep when the block is called."""

    def __init__(self, x: Tensor, w1: Tensor, w2: Tensor, target: Tensor, alive: Alive | None = None) -> None:
        self.x, self.w1, self.w2, self.target, self.alive = x, w1, w2, target, alive
        self.calls, self.asked, self.kept = 0, 0, 0

    def block(self, state: Tensor) -> Tensor:
        self.calls += 1
        if self.alive is not None:
            self.kept = max(self.kept, self.alive.number)
        return torch.tanh(state @ self.w1) @ self.w2 + state / 3

    def loss(self, state: Tensor) -> Tensor:
        self.asked += 1
        return ((state - self.target) ** 2).mean() + state.sum() / 7

    @property
    def leaves(self) -> dict[str, Tensor]:
        return {"x": self.x, "w1": self.w1, "w2": self.w2}

    def unrolled(self, loops: int, window: int, *, inject: bool = True, graph: int | None = None) -> Tensor:
        """The loss, all loops of the window (or as many as ``graph`` says) in one graph."""
        state, found = torch.zeros_like(self.x) if inject else self.x, []
        for t in range(loops):
            with torch.set_grad_enabled(t >= loops - (window if graph is None else graph)):
                state = self.block(state + self.x if inject else state)
            if t >= loops - window:
                found.append(self.loss(state))
        return torch.stack(found).mean()


def _loop(samples: int, seed: int, alive: Alive | None = None) -> Loop:
    shapes = ((samples, 3, 4), (4, 5), (5, 4), (samples, 3, 4))
    parts = [checks.normal(*shape, seed=seed + n, dtype=torch.float64) for n, shape in enumerate(shapes)]
    x, w1, w2 = (part.requires_grad_() for part in parts[:3])
    return Loop(x, w1, w2, parts[3], alive)


def window_gradients(
    check: Task, answer: Callable[..., float], *, cases: Iterable[Window] = WINDOWS, seed: int = 0
) -> None:
    """Task 1: the loss, gradients of weights and tokens, what was in .grad, graphs, calls, windows."""
    check.by_hand(
        "by hand",
        answer,
        without=(*WITHOUT, "torch.utils.checkpoint"),
        tested="what the code of window_gradients uses",
        likely="PyTorch alone, and no torch.utils.checkpoint: two passes over the loops do it",
    )
    for number, (samples, loops, window) in enumerate(cases):
        on = f"{loops} loops, a window of {window}, {samples} samples"
        alive = Alive()
        theirs, ours = (_loop(samples, 40 * seed + 8 * number, a) for a in (alive, None))
        before = {name: leaf.detach().clone() for name, leaf in theirs.leaves.items()}
        idle = torch.ones(2, dtype=torch.float64, requires_grad=True)  # no loop knows of it
        for leaf in (*theirs.leaves.values(), idle):
            leaf.grad = torch.full_like(leaf, 7.0)
        with saved_tensors_hooks(alive.keep, lambda kept: kept.value):
            told = answer([*theirs.leaves.values(), idle], theirs.block, theirs.x, loops, window, theirs.loss)
        right = ours.unrolled(loops, window)
        right.backward()
        check.true(
            "a number",
            isinstance(told, float),
            tested=f"what is returned: {on}",
            expected="a float",
            got=type(told).__name__,
            likely=".item() makes a number of a tensor, and lets its graph go",
        )
        with torch.no_grad():
            check.close(
                "the loss",
                told,
                right.item(),
                tested=f"what is returned: {on}",
                tolerance=1e-10,
                likely="the mean of loss(z) over the last loops of the window, z₀ = 0 and x added before every call",
                mistakes={
                    "x goes into every loop, and z₀ is zero": ours.unrolled(loops, window, inject=False).item(),
                    "a mean over the window, not a sum": right.item() * window,
                    "a mean over the loops of the window, not over all loops": right.item() * window / loops,
                    "the window is longer than its last loop": ours.unrolled(loops, 1).item(),
                },
            )
        for name, leaf in theirs.leaves.items():
            check.true(
                "parameters stay",
                torch.equal(leaf, before[name]),
                tested=f"{name}: {on}",
                expected="parameters as they were: the optimizer moves them, once",
                likely="give gradients, and make no step",
            )
            _gradient(check, name, leaf.grad, ours, loops, window, on)
        check.true(
            "nobody's parameter",
            idle.grad is None or not bool(idle.grad.any()),
            tested=f"a parameter that no loop uses; its .grad held 7 before: {on}",
            expected="None or zeros",
            got=idle.grad,
            likely="clear .grad of all parameters that you are given",
        )
        check.true(
            "one graph",
            theirs.kept == 0,
            tested=on,
            expected="nothing is kept for a backward pass whenever f is called",
            got=f"{theirs.kept} tensors kept",
            likely="forward without a graph, then back loop by loop: a call with a graph, its backward, the next; "
            "a variable that holds a result holds its graph, too",
        )
        check.true(
            "calls",
            theirs.calls <= loops + window and theirs.asked <= window,
            tested=on,
            expected=f"at most {loops + window} calls of f and {window} of loss",
            got=f"{theirs.calls} and {theirs.asked}",
            likely="keep the states of the forward pass, which are numbers without a graph, and begin at them",
        )
    for window in (0, 4, -1):
        loop = _loop(1, 3)
        check.raises(
            "windows",
            ValueError,
            lambda window=window, loop=loop: answer([loop.w1], loop.block, loop.x, 3, window, loop.loss),  # type: ignore[misc]
            tested=f"3 loops, a window of {window}",
            likely="raise ValueError unless 1 ≤ window ≤ loops",
        )


def _gradient(check: Task, name: str, got: Tensor | None, ours: Loop, loops: int, window: int, on: str) -> None:
    def other(scale: float = 1.0, **ways: Any) -> Tensor:
        (found,) = torch.autograd.grad(ours.unrolled(loops, window, **ways), ours.leaves[name])
        return found * scale

    leaf = ours.leaves[name].grad
    assert leaf is not None
    check.true(
        "a gradient",
        got is not None,
        tested=f"{name}.grad: {on}",
        expected="a gradient",
        got=str(got),
        likely="x is one of the parameters here: z + x goes into f in every loop of the window, and x is no copy there"
        if name == "x"
        else "backward() adds to .grad; setting it to None belongs before the first loop",
    )
    check.close(
        "gradients",
        got,
        leaf,
        tested=f"{name}.grad, which held 7 everywhere before: {on}",
        tolerance=1e-10,
        likely="what comes back from the loops after it is the gradient of its state: begin its backward with it",
        mistakes={
            "what stood in .grad before is still in it": leaf + 7.0,
            "it goes back through all loops, and the loops before the window have no graph": other(graph=loops),
            "a mean over the window, not a sum": other(scale=window),
            ".grad is cleared once, before the first loop: here one loop's part is left": _first_alone(
                ours, name, loops, window
            ),
            "each loop's own loss is not all: it moves all that comes after it, too": _each_alone(
                ours, name, loops, window
            ),
        },
    )


def _each_alone(ours: Loop, name: str, loops: int, window: int) -> Tensor:
    """The gradient if no loop hands anything back to the one before it."""
    total = torch.zeros_like(ours.leaves[name])
    for t in range(loops - window, loops):
        state = torch.zeros_like(ours.x)
        for _ in range(t):
            state = ours.block(state + ours.x).detach()
        (found,) = torch.autograd.grad(ours.loss(ours.block(state + ours.x)) / window, ours.leaves[name])
        total = total + found
    return total


def _first_alone(ours: Loop, name: str, loops: int, window: int) -> Tensor:
    """The part of the gradient that the first loop of the window gives."""
    rest = Loop(ours.x.detach(), ours.w1.detach(), ours.w2.detach(), ours.target)
    state, total = torch.zeros_like(rest.x), torch.zeros(())
    for t in range(loops):
        at = ours if t == loops - window else rest
        state = at.block(state + at.x)
        if t >= loops - window:
            total = total + rest.loss(state) / window
    return torch.autograd.grad(total, ours.leaves[name])[0]


# ---- task 2: serve

Service = tuple[tuple[float, ...], int, float, int]
"""How large each sample is, the most loops, the change at which a sample stops, the slots."""

SERVICES: tuple[Service, ...] = (
    ((1.0,), 6, 0.01, 1),
    ((0.3, 20.0, 2.0), 12, 0.02, 3),
    ((0.1, 8.0, 1.0, 30.0, 0.5, 3.0, 50.0), 15, 0.05, 2),
    ((4.0, 0.2, 9.0, 0.0, 1.0), 4, 0.003, 3),
    ((1.0, 2.0, 3.0), 2, 0.003, 2),
)


def settles(u: Tensor) -> Tensor:
    """A block whose states settle: small samples slowly, large ones at once. Tokens of a sample look at each other."""
    return 0.9 * torch.tanh(u + 0.2 * u.mean(1, keepdim=True))


def _filled(u: Tensor) -> Tensor:
    return u.clamp(max=6.0)


def _samples(sizes: Sequence[float], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    scale = torch.tensor(sizes, dtype=torch.float64)[:, None, None]
    return (scale * (1 + checks.normal(len(sizes), 3, 2, seed=seed, dtype=torch.float64).abs())).to(dtype)


def _alone(f: Callable[[Tensor], Tensor], x: Tensor, loops: int, change: float) -> tuple[Tensor, int, Tensor]:
    """One sample, [1, tokens, dim], looped on its own: its state, after how many loops it stopped, the state before."""
    path = [torch.zeros_like(x)]
    for _ in range(loops):
        path.append(f(path[-1] + x))
    moved = [math.dist(a.flatten().tolist(), b.flatten().tolist()) for a, b in pairwise(path)]
    length = [math.hypot(*state.flatten().tolist()) for state in path[1:]]
    enough = [t for t, (far, long) in enumerate(zip(moved, length, strict=True), 1) if far <= change * long]
    at = enough[0] if enough else loops
    return path[at], at, path[at - 1]


def _far(state: Tensor, before: Tensor, change: float) -> bool:
    return bool((state - before).norm() <= change * state.norm())


_LENGTH = "one length for a sample: the root of the sum of the squares of all its tokens and features"
_RULES: tuple[tuple[str, Callable[[Tensor, Tensor, float], Tensor]], ...] = (  # of z_t, z_{t−1} and change
    (
        "at a state of length 0 it is 0 / 0, NaN, no comparison holds: multiply",
        lambda z, y, c: (z - y).norm() / z.norm() <= c,
    ),
    ("the share is one of ‖z_t‖, not of the length before", lambda z, y, c: (z - y).norm() <= c * y.norm()),
    ("who moves by exactly the share has had enough: at most, not less", lambda z, y, c: (z - y).norm() < c * z.norm()),
    ("change is a share: compare with change · ‖z_t‖", lambda z, y, c: (z - y).norm() <= c),
    (_LENGTH, lambda z, y, c: (z - y).norm(dim=-1).sum() <= c * z.norm(dim=-1).sum()),
    (_LENGTH, lambda z, y, c: (z - y).abs().sum() <= c * z.abs().sum()),
    (_LENGTH, lambda z, y, c: (z - y).max() <= c * z.max()),
    (_LENGTH, lambda z, y, c: (z - y)[:, 0].norm() <= c * z[:, 0].norm()),
    ("lengths, not their squares", lambda z, y, c: (z - y).norm() ** 2 <= c * z.norm() ** 2),
)


def _slips(
    f: Callable[[Tensor], Tensor], x: Tensor, loops: int, change: float
) -> list[tuple[str, tuple[Tensor, Tensor]]]:
    """What is stated and counted by each mistake that a sample on its own can show."""

    def served(rule: Callable[..., Any] = _far, most: int = loops, first: bool = False, inject: bool = True) -> Any:
        found = []
        for one in x.split(1):
            z = one if first else torch.zeros_like(one)
            t, settled = 0, False
            while t < most and not settled:
                was, z, t = z, f(z + one if inject else z), t + 1
                settled = rule(z, was, change)
            found.append((z, t))
        return torch.cat([z for z, _ in found]), torch.tensor([t for _, t in found])

    return [
        *((says, served(rule)) for says, rule in _RULES),
        ("z₀ is 0, not x", served(first=True)),
        ("x is added before every call of f", served(first=True, inject=False)),
        ("x is added before every call of f", served(inject=False)),
        ("`loops` loops are the most: who has made as many leaves, settled or not", served(most=loops + 1)),
    ]


def full_house(needs: Sequence[int], slots: int) -> list[int]:
    """How many samples each call gets, if a free slot is filled at once."""
    waiting, left, sizes = list(needs), list[int](), list[int]()
    while waiting or left:
        while waiting and len(left) < slots:
            left.append(waiting.pop(0))
        sizes.append(len(left))
        left = [more - 1 for more in left if more > 1]
    return sizes


def serve(
    check: Task,
    answer: Callable[..., tuple[Tensor, Tensor]],
    *,
    cases: Iterable[Service] = SERVICES,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Task 2: states and loops as when each sample is alone, the size of every batch, equality, no samples."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of serve uses", likely="PyTorch alone")
    for number, (sizes, loops, change, slots) in enumerate(cases):
        on = f"{len(sizes)} samples, {slots} slots, change {change:g}, at most {loops} loops"
        x = _samples(sizes, 50 * seed + number, dtype)
        alone = [_alone(settles, sample[None], loops, change) for sample in x]
        needs = [at for _, at, _ in alone]
        _served(check, answer, settles, x, loops, change, slots, alone, f"{on} (they need {needs})")
    equal = torch.tensor([[[4.0, 0.0]], [[0.0, 2.0]]], dtype=dtype)  # z_t = t x moves by 1/t of its length
    alone = [(4 * sample[None], 4, 3 * sample[None]) for sample in equal]
    _served(check, answer, lambda u: u * 1, equal, 9, 0.25, 2, alone, "states that move by 1, 1/2, 1/3, 1/4, …")
    full = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]], dtype=dtype)  # one token stands still from loop 2 on, one from 6 on
    alone = [_alone(_filled, full, 9, 0.12)]
    _served(check, answer, _filled, full, 9, 0.12, 2, alone, "two tokens, of which one stands still before the other")
    watched = Watched(settles)
    states, loops_ = answer(watched, torch.zeros(0, 3, 2, dtype=dtype), 4, 0.1, 2)
    check.true(
        "no samples",
        states.shape == (0, 3, 2) and loops_.shape == (0,) and loops_.dtype == torch.int64 and not watched.given,
        tested="no samples at all",
        expected="states [0, 3, 2], loops [0] of int64, and no call of f",
        got=f"{list(states.shape)}, {list(loops_.shape)} of {loops_.dtype}, {len(watched.given)} calls",
        likely="make the two results before the loop, with the right shapes and dtypes",
    )


def _served(
    check: Task,
    answer: Callable[..., tuple[Tensor, Tensor]],
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    loops: int,
    change: float,
    slots: int,
    alone: Sequence[tuple[Tensor, int, Tensor]],
    on: str,
) -> None:
    states, before = torch.cat([each[0] for each in alone]), torch.cat([each[2] for each in alone])
    needs = torch.tensor([at for _, at, _ in alone])
    watched = Watched(f)
    with check.untouched(tested=on, x=x):
        got = answer(watched, x, loops, change, slots)
    check.true(
        "two results",
        isinstance(got, tuple | list) and len(got) == 2 and all(isinstance(part, Tensor) for part in got),
        tested=on,
        expected="two tensors, states and loops",
        got=type(got).__name__,
        likely="return states, loops",
    )
    likely, slips = (
        "for each sample on its own, by its own state; states and samples of a batch stand in one order",
        dict[str, Tensor](),
    )
    if got[1].shape == needs.shape and not torch.equal(got[1], needs):
        fits = [
            says
            for says, (state, spent) in _slips(f, x, loops, change)
            if torch.equal(got[1], spent)
            and got[0].shape == state.shape
            and torch.allclose(got[0].double(), state.double(), 1e-5, 1e-5)
        ]
        if fits:
            slips["; or: ".join(list(dict.fromkeys(fits))[:2])] = got[1]
        slips["nobody is lost: as many come as slots are free, or as still wait if those are fewer"] = torch.where(
            (got[1] == 0) & (torch.arange(len(needs)) >= slots), 0, needs
        )
        if torch.equal(got[1][:slots], needs[:slots]):
            likely = (
                "who takes a free slot brings its own x, begins at z = 0, and counts from 1: the first ones are right"
            )
        if bool((got[1] > loops).any()):
            likely = "`loops` loops are the most, settled or not"
    check.equal(
        "loops",
        got[1],
        needs,
        tested=f"after how many loops each sample left: {on}",
        likely=likely,
        mistakes={
            **slips,
            "a sample that comes later begins to count at its own first loop": _in_all(needs, slots),
            "counted from 1: the loop that it leaves after is one of its loops": needs - 1,
            "the results come in the order of the samples, not in that of leaving": needs.sort().values,
        },
    )
    check.close(
        "states",
        got[0],
        states,
        tested=f"the state that each sample left with: {on}",
        tolerance=TOLERANCE[x.dtype],
        likely="a sample that takes a free slot brings its own x and begins at zero",
        mistakes={"the state after the last loop, not the one that went into it": before},
    )
    sizes = [len(given) for given in watched.given]
    check.true(
        "slots",
        all(given.ndim == 3 and 1 <= len(given) <= slots for given in watched.given),
        tested=f"what f was given: {on}",
        expected=f"batches [b, tokens, dim] of 1 to {slots} samples",
        got=[list(given.shape) for given in watched.given],
        likely="only who is still looping is in the batch",
    )
    check.equal(
        "a full house",
        tuple(sizes),
        tuple(full_house(needs.tolist(), slots)),
        tested=f"how many samples f was given in each call: {on}",
        likely="who stops leaves before the next call, and the next sample that waits takes the slot before it, too",
        mistakes={_LINE: tuple(full_house([*needs[:slots].tolist(), *needs[slots:].tolist()[::-1]], slots))},
    )
    seen = [
        next((n for n, given in enumerate(watched.given, 1) if (given == one).flatten(1).all(1).any()), 0) for one in x
    ]
    check.equal(
        "in line",
        tuple(seen),
        tuple((_in_all(needs, slots) - needs + 1).tolist()),
        tested=f"in which call f sees each sample for the first time, with z = 0: {on}",
        likely=_LINE,
    )


_LINE = "those that wait come in the order of x: the next one is the first that has not been in"


def _in_all(needs: Tensor, slots: int) -> Tensor:
    """The number of calls made when each sample leaves."""
    free, ends = [0] * slots, []
    for need in needs.tolist():
        at = free.index(min(free))
        free[at] += need
        ends.append(free[at])
    return torch.tensor(ends)


# ---- task 3: gate_loss

Gating = tuple[int, int, float, torch.dtype]
"""Loops, samples, β, the dtype."""

GATINGS: tuple[Gating, ...] = (
    (1, 2, 0.5, torch.float64),
    (2, 3, 0.0, torch.float64),
    (4, 3, 0.3, torch.float64),
    (5, 1, 2.0, torch.float64),
    (3, 4, 0.7, torch.float32),
)


def _expected(losses: Tensor, gates: Tensor, prior: Tensor, beta: float, way: str = "right") -> Tensor:
    """Sample by sample, loop by loop, with probabilities that are multiplied. Ways other than right are mistakes."""
    total = []
    for loss, gate in zip(losses.T, gates.T, strict=True):
        left, value = torch.ones_like(gate[0]), torch.zeros_like(gate[0])
        for t in range(len(gate)):
            stop = torch.sigmoid(-gate[t] if way == "turned" else gate[t])
            p = left if t == len(gate) - 1 and way != "asked" else left * stop
            last = t == len(gate) - 1
            if way == "passed" or (way == "passed but last" and not last):
                p = left * (1 - stop) * (1 if last else stop)
            left = left * (1 - stop)
            told = p * (p.log() - prior[t])
            if way == "q":
                told = p * (p.log() - prior[t].exp())
            elif way == "entropy":
                told = p * p.log()
            elif way == "backwards":
                told = prior[t].exp() * (prior[t] - p.log())
            elif way == "sign":
                told = -told
            value = value + p * loss[t] + (1 if way == "beta" else beta) * told
        total.append(value)
    summed = torch.stack(total)
    return summed.sum() if way == "sum" else summed.mean()


_WAYS = {
    "λ is the chance to stop, sigmoid(gate); here it is that to go on": "turned",
    "the last loop takes all that is left: its gate is not asked": "asked",
    "Σ over j < t: before loop t only the loops before it were passed, its own gate was not": "passed",
    "Σ over j < t: the gate of loop t itself belongs to log λ_t alone": "passed but last",
    "log_prior is log q already, no q and nothing to take exp of": "q",
    "the prior is left out, or taken for even": "entropy",
    "KL(q ‖ p), the other way round": "backwards",
    "the divergence is added, times β": "sign",
    "β weighs the divergence; here its weight is 1": "beta",
    "a mean over the samples, not a sum": "sum",
}


def gate_loss(check: Task, answer: Callable[..., Tensor], *, cases: Iterable[Gating] = GATINGS, seed: int = 0) -> None:
    """Task 3: values, gradients of both, inputs as they were; gates that are as good as sure."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of gate_loss uses", likely="PyTorch alone")
    for number, (loops, samples, beta, dtype) in enumerate(cases):
        on = f"{loops} loops, {samples} samples, β = {beta:g}, {dtype}"
        losses, gates, weights = (
            checks.normal(*shape, seed=60 * seed + 3 * number + part, dtype=torch.float64)
            for part, shape in enumerate(((loops, samples), (loops, samples), (loops,)))
        )
        losses, gates, prior = 2 + 3 * losses, 1.5 * gates, weights.log_softmax(0)
        losses, gates, prior = (part.to(dtype) for part in (losses, gates, prior))
        wide = [part.double().requires_grad_() for part in (losses, gates)]
        right = _expected(wide[0], wide[1], prior.double(), beta)
        grads = torch.autograd.grad(right, wide, allow_unused=True)
        theirs = [part.clone().requires_grad_() for part in (losses, gates)]
        with check.untouched(tested=on, losses=theirs[0], gates=theirs[1], log_prior=prior):
            got = answer(theirs[0], theirs[1], prior, beta)
        endless = isinstance(got, Tensor) and not bool(got.isfinite().all())
        check.close(
            "one loop" if loops == 1 else "the loss",
            got,
            right.detach().to(dtype),
            tested=on,
            tolerance=TOLERANCE[dtype],
            likely="log_prior is log q already: a negative number, or 0, has no logarithm"
            if endless
            else "the mean over samples of Σ p loss + β Σ p (log p − log q), and the last loop takes what is left",
            mistakes={
                says: _expected(losses.double(), gates.double(), prior.double(), beta, way).to(dtype)
                for says, way in _WAYS.items()
            },
        )
        for name, leaf, grad in zip(("losses", "gates"), theirs, grads, strict=True):
            check.close(
                "gradients",
                checks.gradient(got, leaf),
                torch.zeros_like(leaf) if grad is None else -grad.to(dtype),  # checks.gradient weighs one number by −1
                tested=f"the gradient of the loss with respect to {name}: {on}",
                tolerance=10 * TOLERANCE[dtype],
                likely="all of it is differentiated, the probabilities too: no detach, no item, no clamp",
            )
    _sure(check, answer)


def _sure(check: Task, answer: Callable[..., Tensor]) -> None:
    """Gates so sure that a product of probabilities is 0, and its logarithm −∞."""
    even = torch.full((4,), 0.25).log()
    losses = torch.tensor([[3.0, 3.0], [5.0, 5.0], [1.0, 1.0], [8.0, 8.0]])
    for size in (40.0, 300.0, 1e4):
        gates = torch.tensor([[size, -size], [size, -size], [-size, size], [0.0, 0.0]]).requires_grad_()
        on = f"gates of ±{size:g} in float32, an even prior over 4 loops, β = 0.5"
        got = answer(losses, gates, even, 0.5)
        # the first sample stops after loop 1, the second after loop 3; KL of one sure loop to an even prior is log 4
        check.close(
            "sure gates",
            got,
            torch.tensor((3.0 + 1.0) / 2 + 0.5 * math.log(4)),
            tested=on,
            tolerance=1e-5,
            likely="log p_t = log λ_t + Σ log(1 − λ_j): add up F.logsigmoid(±gate), and never take a logarithm of p",
        )
        check.finite(
            "gradients of sure gates",
            checks.gradient(got, gates),
            tested=on,
            likely="the logarithm of a product that came out as 0 has no gradient: stay with sums of logarithms",
        )

    _nearly_sure(check, answer)


def _nearly_sure(check: Task, answer: Callable[..., Tensor]) -> None:
    """Gates of ±25 in float64: probabilities of 10⁻¹¹, which count."""
    gates, losses, value = (25.0, -25.0, 0.0), (3.0, 5.0, 1.0), 0.0
    passed = 0.0  # Σ log(1 − λ)
    for t, (gate, loss) in enumerate(zip(gates, losses, strict=True)):
        log_p = passed - (math.log1p(math.exp(-gate)) if t < 2 else 0.0)
        passed -= math.log1p(math.exp(gate))
        value += math.exp(log_p) * (loss + log_p - math.log(1 / 3))
    wide = [torch.tensor(part, dtype=torch.float64)[:, None] for part in (losses, gates)]
    check.close(
        "nearly sure gates",
        answer(*wide, torch.full((3,), 1 / 3, dtype=torch.float64).log(), 1.0),
        torch.tensor(value, dtype=torch.float64),
        tested="gates of 25, −25 and 0 in float64, an even prior over 3 loops, β = 1",
        tolerance=1e-10,
        likely="p of 10⁻¹¹ counts: no gate, no p and no log p is clamped, and nothing is added to them",
    )


# ---- task 4: share_layers

Sharing = tuple[int, int, int, int]
"""Depth, the first layer of the middle, the one after its last, and how many layers are to stay of it."""

SHARINGS: tuple[Sharing, ...] = ((4, 1, 3, 1), (8, 1, 5, 2), (5, 0, 5, 5), (12, 2, 11, 3), (13, 0, 12, 4))


class Stack(nn.Module):
    """A stack of plain layers between two others, whose middle may be looped."""

    def __init__(self, depth: int, dim: int = 3) -> None:
        super().__init__()
        self.blocks_in = nn.Linear(dim, dim)
        self.blocks = nn.ModuleList(nn.Sequential(OrderedDict(fc3=nn.Linear(dim, dim))) for _ in range(depth))
        self.readout = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(dim, 2)])})

    def run(self, x: Tensor, first: int, size: int, loops: int) -> Tensor:
        """The layers before ``first``, ``size`` layers looped, the rest."""
        x, (head,) = self.blocks_in(x), self.readout["blocks"]  # type: ignore[misc]
        order = [*range(first), *list(range(first, first + size)) * loops, *range(first + size, len(self.blocks))]
        for at in order:
            x = torch.tanh(self.blocks[at](x)) + x / 2
        return head(x)  # type: ignore[has-type]


def _stack(depth: int, seed: int, dtype: torch.dtype, tied: tuple[int, int, int] | None = None) -> Stack:
    torch.manual_seed(seed)
    stack = Stack(depth).to(dtype)
    if tied is not None:
        first, last, size = tied
        for at in range(first + size, last):
            stack.blocks[at].load_state_dict(stack.blocks[at - size].state_dict())
    return stack


def _names(state: Mapping[str, Tensor]) -> Iterator[tuple[int, str, str]]:
    """The number of a block, the rest of its name, the whole name."""
    for name in state:
        head, *rest = name.split(".")
        if head == "blocks":
            yield int(rest[0]), ".".join(rest[1:]), name


def share_layers(
    check: Task,
    answer: Callable[..., dict[str, Tensor]],
    *,
    cases: Iterable[Sharing] = SHARINGS,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Task 4: names, every tensor, what it computes where the layers were alike, memory of its own, ranges."""
    check.by_hand(
        "by hand", answer, without=WITHOUT, tested="what the code of share_layers uses", likely="plain dictionaries"
    )
    for number, (depth, first, last, size) in enumerate(cases):
        on = f"{depth} layers, {first} … {last - 1} become {size}"
        state = _stack(depth, 70 * seed + number, dtype).state_dict()
        given = {name: value.clone() for name, value in state.items()}
        got = _new(check, answer, state, first, last, size, on)
        check.true(
            "input untouched",
            list(state) == list(given) and all(torch.equal(state[name], given[name]) for name in given),
            tested=on,
            expected="the state_dict as it was given",
            likely="make a new dict, and new tensors",
        )
        check.true("a dict", isinstance(got, dict), tested=on, expected="a dict", got=type(got).__name__)
        kept = depth - (last - first) + size
        right = {f"blocks.{at}.{rest}" for at, rest, _ in _names(given) if at < kept}
        right |= {name for name in given if name.split(".")[0] != "blocks"}
        strange = set(got) - right
        likely = "blocks.1 also begins blocks.10: read the number between the dots; layers after the middle move up"
        if any(name.startswith("blocks.") and ".fc3." not in name for name in strange):
            likely = "only the number between the first two dots changes: fc3 holds a digit, too, and keeps it"
        elif any(not name.startswith("blocks.") for name in right - set(got)):
            likely = "what does not begin with blocks and a dot is no layer: it keeps its name"
        elif depth <= 10:
            likely = (
                "layers after the middle follow on the new one: last − first − size less, and all others as they were"
            )
        check.true(
            "names",
            set(got) == right,
            tested=on,
            expected=f"blocks 0 … {kept - 1}, and what is no block by its own name",
            got=f"missing {sorted(right - set(got))[:3]}, not asked for {sorted(strange)[:3]}",
            likely=likely,
        )
        for name in sorted(right):
            _shared(check, name, got[name], given, first, last, size, on)
        mine = {value.data_ptr() for value in got.values()}
        check.true(
            "memory of its own",
            not mine & {value.data_ptr() for value in state.values()} and len(mine) == len(got),
            tested=on,
            expected="no tensor that is one of those given, or given out twice",
            likely=".clone() what stays as it is: training the new model must not move the old one",
        )
        _runs_alike(check, answer, depth, first, last, size, 70 * seed + number, dtype, on)
    state = _stack(6, 1, dtype).state_dict()
    for first, last, size in ((1, 5, 3), (2, 2, 1), (1, 7, 2), (-1, 3, 2), (1, 3, 0), (1, 3, -1), (4, 2, 1)):
        check.raises(
            "ranges",
            ValueError,
            lambda first=first, last=last, size=size: _told(answer(dict(state), first, last, size)),  # type: ignore[misc]
            tested=f"6 layers, {first} … {last - 1} are to become {size}",
            likely="0 ≤ first < last ≤ depth, size from 1 on, and last − first a multiple of size",
        )


def _told(given: Any) -> Any:
    return f"a dict of {len(given)} tensors" if isinstance(given, dict) else given


def _new(check: Task, answer: Callable[..., Any], state: dict[str, Tensor], *middle: Any) -> Any:
    """What the answer gives; it has no reason to refuse."""
    *asked, on = middle
    try:
        return answer(state, *asked)
    except ValueError as error:
        why = (
            "blocks_in and readout.blocks are no layers: only a name that begins with blocks and a dot is one's"
            if "invalid literal" in str(error) or "unpack" in str(error)
            else "this middle is allowed: the number of layers is found from numbers, and as text '9' comes after '11'"
        )
        check.true("runs", False, tested=on, expected="a new dict", got=f"{type(error).__name__}: {error}", likely=why)


def _shared(
    check: Task, name: str, got: Tensor, given: Mapping[str, Tensor], first: int, last: int, size: int, on: str
) -> None:
    """One tensor of the new model, from those of the old one."""
    head, *rest = name.split(".")
    at = int(rest[0]) if head == "blocks" else -1
    tail = ".".join(rest[1:])

    def layer(number: int) -> Tensor:
        return given[f"blocks.{number}.{tail}"]

    if not first <= at < first + size or head != "blocks":
        old = name if head != "blocks" or at < first else f"blocks.{at + last - first - size}.{tail}"
        check.equal(
            "what stays",
            got,
            given[old],
            tested=f"{name}: {on}",
            likely=f"it is {old} of the old model: layers after the middle keep their order",
        )
        return
    group = [layer(n) for n in range(at, last, size)]
    times = (last - first) // size
    neighbours = [layer(first + (at - first) * times + n) for n in range(times)]
    right = sum(group) / len(group)
    assert isinstance(right, Tensor)
    rough = isinstance(got, Tensor) and got.dtype == right.dtype == torch.float64 and got.shape == right.shape
    rough = rough and bool(((got - right).abs() < 1e-6).all())
    check.close(
        "the middle",
        got,
        right,
        tested=f"{name}: {on}",
        tolerance=TOLERANCE[right.dtype],
        likely="right to float32 only: take the mean in the dtype of the tensors"
        if rough
        else f"the mean of layers {at}, {at + size}, … of the middle: those that it stands for when it is looped",
        mistakes={
            "a mean of all that it stands for, not the first of them": group[0],
            "a mean, not a sum": right * len(group),
            "layer j stands for j, j + size, j + 2 size …: the loop comes back to it after all others": torch.stack(
                neighbours
            ).mean(0),
        },
    )


def _runs_alike(
    check: Task,
    answer: Callable[..., dict[str, Tensor]],
    depth: int,
    first: int,
    last: int,
    size: int,
    seed: int,
    dtype: torch.dtype,
    on: str,
) -> None:
    """Where the layers of the middle repeat already, looping the new ones is the old model."""
    old = _stack(depth, seed, dtype, (first, last, size))
    new = Stack(depth - (last - first) + size).to(dtype)
    new.load_state_dict(answer(old.state_dict(), first, last, size))
    x = checks.normal(5, 3, seed=seed, dtype=dtype)
    check.close(
        "runs alike",
        new.run(x, first, size, (last - first) // size).detach(),
        old.run(x, 0, depth, 1).detach(),
        tested=f"a stack whose middle repeats itself, and the new one looped {(last - first) // size} times: {on}",
        tolerance=TOLERANCE[dtype],
        likely="the order of the layers within the middle, and of those after it",
    )


# ---- task 5: predict, then measure

WORDS = {"gradient of x without injection, window 4 of 10": ("none", "a part", "all of it")}


def predict(check: Task, answer: Callable[[], dict[str, Any]], *, seed: int = 3) -> None:
    """Task 5: predictions about two layers looped six times, counted on models of this seed."""
    check.prediction(
        answer(),
        _measured(seed),
        tested="as its line in the docstring says",
        words=WORDS,
        slips=_SLIPS,
        likely=_USUALLY,
    )


@cache
def _measured(seed: int) -> dict[str, float | str]:
    """Counted on models: parameters, FLOPs, calls, rows, probabilities, a gradient."""
    torch.manual_seed(seed)
    looped = Looped(nn.Sequential(*(Block(32, heads=4) for _ in range(2))), 6)
    deep = nn.Sequential(*(Block(32, heads=4) for _ in range(12)))
    x = torch.randn(3, 16, 32)
    mine, theirs = count(looped, x), count(deep, x)
    alive: list[bool] = []
    watching = looped.block.register_forward_hook(lambda *_: alive.append(torch.is_grad_enabled()))
    looped.states(x, window=4, loops=20)
    watching.remove()
    open_ = Looped(looped.block, 10, inject="none")
    asked = x.clone().requires_grad_()
    (reached,) = torch.autograd.grad(open_.states(asked, window=4).sum(), asked, allow_unused=True)
    gates = torch.zeros(4, 1)
    p = exit_distribution(gates)[:, 0]
    slots = full_house([1, 2, 3, 5, 9], 5)
    return {
        "parameters": mine.params / theirs.params,
        "FLOPs": mine.flops / theirs.flops,
        "loops with a graph": float(sum(alive)),
        "samples that f sees, gathered": float(sum(slots)),
        "samples that f sees, masked": float(5 * len(slots)),
        "chance of the last of 4 loops": float(p[-1]),
        "loops on average": float((p * torch.arange(1, 5)).sum()),
        "gradient of x without injection, window 4 of 10": "none" if reached is None or not reached.any() else "a part",
    }


_USUALLY = {
    "parameters": "looping adds none: two layers against twelve",
    "FLOPs": "a loop costs what its layers cost, whoever owns the weights; adding x is not counted as a product",
    "loops with a graph": "those of the window, whatever the number of loops",
    "samples that f sees, gathered": "each sample is in as many calls as it needs loops",
    "samples that f sees, masked": "everybody is in every call, until the last one is done",
    "chance of the last of 4 loops": "the last loop takes what the first three left",
    "loops on average": "Σ t p_t with p = 1/2, 1/4, 1/8 and the rest",
    "gradient of x without injection, window 4 of 10": "x is the start and nothing else; what lies between it and the "
    "window?",
}
_SLIPS: dict[str, dict[str, float | int | str]] = {
    "parameters": {
        "looping adds no parameters": 1.0,
        "the looped model has two layers, the other twelve": 6.0,
        "a share, not in percent": 100 / 6,
        "2 of 12 layers, and one layer is not the block": 1 / 12,
    },
    "FLOPs": {
        "two layers run six times each": 1 / 6,
        "as many layers run in both": 6.0,
        "a share, not in percent": 100,
    },
    "loops with a graph": {
        "the loops before the window have none": 20,
        "those before the window have none, and those in it have one": 16,
        "count loops, not layers": 8,
    },
    "samples that f sees, gathered": {
        "who stopped is not computed any more": 45,
        "count samples, not calls": 9,
    },
    "samples that f sees, masked": {
        "all five, in every call": 20,
        "count samples, not calls": 9,
    },
    "chance of the last of 4 loops": {
        "the last loop takes what is left: its gate is not asked": 1 / 16,
        "an even chance at each loop makes falling chances": 1 / 4,
    },
    "loops on average": {
        "the gates are not a uniform choice": 2.5,
        "what is left goes to the last loop": 1.625,
        "that is a walk without an end: here the fourth loop is the last": 2.0,
    },
    "gradient of x without injection, window 4 of 10": {
        "x enters before the window, where there is no graph": "a part",
        "with injection it would have one; without, x enters before the window": "all of it",
    },
}
