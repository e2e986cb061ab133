"""The checks of unit 09. What a nested layer gives is added up neuron by neuron; gradients are those of one sum of all
widths; of mixtures all are tried where they are few, and where they are many one is planted whose rivals cannot win."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dynlib import checks
from dynlib.backbone import CausalLM, FeedForward
from dynlib.checks import Task
from dynlib.cost import count
from dynlib.deciding import setting
from dynlib.width import MatFormerFeedForward, extract, joint_loss, matformer

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
WITHOUT = ("dynlib", "numpy", "scipy")
"""What an answer does without."""


# ---- task 1: per_token

Widths = tuple[int, int, Sequence[int], torch.dtype]
"""Features, neurons, the width of each token, the dtype."""

NARROW: tuple[Widths, ...] = (
    (3, 4, (4, 4, 4), torch.float64),
    (3, 6, (2, 2), torch.float64),
    (3, 6, (5, 1, 3, 1, 5), torch.float64),
    (4, 5, (0, 3), torch.float64),
    (5, 8, (2, 7, 2, 1), torch.float32),
)
_TOKEN = {
    "all neurons": "at k = hidden it is the whole layer: silu(x Wgᵀ) times x Wuᵀ, times Wdᵀ, plus the bias",
    "one width": "the first k rows of Wg and of Wu, and the first k columns of Wd",
    "each its own": "token i runs at k[i], and its result stands in row i",
    "no neurons": "at k = 0 nothing but the bias is left",
}


def per_token(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    cases: Iterable[Widths] = NARROW,
    seed: int = 0,
) -> None:
    """Task 1: values, products that run, gradients, inputs as they were; then no tokens at all."""
    check.by_hand(
        "by hand",
        answer,
        without=WITHOUT,
        tested="what the code of per_token uses",
        likely="PyTorch alone: slices of the three weights",
    )
    for number, (dim, hidden, each, dtype) in enumerate(cases):
        x, gate, up, down, bias = _layer(dim, hidden, len(each), seed=10 * seed + number, dtype=dtype)
        k = torch.tensor(each, dtype=torch.int64)
        on = f"dim {dim}, hidden {hidden}, k = {list(each)}, {dtype}"
        kinds = {*each}
        name = (
            "no neurons"
            if 0 in kinds
            else "all neurons"
            if kinds == {hidden}
            else "one width"
            if len(kinds) == 1
            else "each its own"
        )
        expected = _by_neuron(x, gate, up, down, bias, each)
        with check.untouched(tested=on, x=x, w_gate=gate, w_up=up, w_down=down, b_down=bias, k=k):
            found = answer(x, gate, up, down, bias, k)
        check.close(
            name,
            found,
            expected,
            tested=on,
            tolerance=TOLERANCE[dtype],
            likely=_TOKEN[name],
            mistakes=_mistaken_tokens(x, gate, up, down, bias, each),
        )
        with FlopCounterMode(display=False) as counter:
            answer(x, gate, up, down, bias, k)
        most = 6 * dim * sum(each)
        check.true(
            "products",
            counter.get_total_flops() <= most,
            tested=on,
            expected=f"at most {most} FLOPs of matrix products, 6 · dim · k for each token",
            got=counter.get_total_flops(),
            likely="neurons above a token's k are computed and thrown away: take the tokens of one width together",
        )
        _gradients(check, answer, (x, gate, up, down, bias), k, each, on)
    check.equal(
        "no tokens",
        tuple(answer(*_layer(3, 4, 0, seed=1), torch.zeros(0, dtype=torch.int64)).shape),
        (0, 3),
        tested="x [0, 3]: nobody there",
        likely="a loop over the widths that occur makes no step: begin with a result of the right shape",
    )


def _gradients(
    check: Task,
    answer: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    k: Tensor,
    each: Sequence[int],
    on: str,
) -> None:
    theirs = [part.clone().requires_grad_() for part in inputs]
    ours = [part.clone().requires_grad_() for part in inputs]
    found, expected = answer(*theirs, k), _by_neuron(*ours, each)
    for name, mine, right in zip(("x", "w_gate", "w_up", "w_down", "b_down"), theirs, ours, strict=True):
        check.close(
            "gradients",
            checks.gradient(found, mine),
            checks.gradient(expected, right),
            tested=f"the gradient of {name}: {on}",
            tolerance=100 * TOLERANCE[mine.dtype],
            likely="no .data, no detach(), no torch.tensor(result): write into a tensor that you made",
        )


def _layer(
    dim: int, hidden: int, tokens: int, *, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shapes = ((tokens, dim), (hidden, dim), (hidden, dim), (dim, hidden), (dim,))
    x, gate, up, down, bias = (
        checks.normal(*shape, seed=5 * seed + part, dtype=dtype) for part, shape in enumerate(shapes)
    )
    return x, gate, up, down, bias


def _mistaken_tokens(
    x: Tensor, gate: Tensor, up: Tensor, down: Tensor, bias: Tensor, each: Sequence[int]
) -> dict[str, Tensor]:
    hidden, right = len(gate), _by_neuron(x, gate, up, down, bias, each)
    share = torch.tensor(each, dtype=x.dtype)[:, None] / hidden
    by_width = sorted(range(len(each)), key=lambda token: each[token])

    def run(
        each: Sequence[int] = each, neuron: Callable[[Tensor, Tensor], Tensor] = lambda g, u: F.silu(g) * u
    ) -> Tensor:
        return _by_neuron(x, gate, up, down, bias, each, neuron=neuron)

    return {
        "the last neurons ran: width k is the first k": _by_neuron(
            x, gate.flip(0), up.flip(0), down.flip(1), bias, each
        ),
        "gate and up are swapped: silu is for the gate": _by_neuron(x, up, gate, down, bias, each),
        "the bias is missing: every width adds all of it": right - bias,
        "the bias is not for the neurons: every width adds all of it, not the share that runs": right
        - bias * (1 - share),
        "nothing makes up for the neurons that do not run: no factor hidden / k, as dropout has it": (right - bias)
        / share.clamp(min=1 / hidden)
        + bias,
        "at k = 0 nothing but the bias is left: these tokens got zeros": torch.where(share > 0, right, 0),
        "token i runs at k[i], and its result stands in row i: these lie in the order of the widths": right[by_width],
        "each token runs at its own width: this is the first token's for all": run([each[0]] * len(each)),
        "each token runs at its own width: this is the widest for all": run([max(each)] * len(each)),
        "width k is k neurons: one more ran": run([min(k + 1, hidden) for k in each]),
        "width k is k neurons: the last of them is missing": run([max(k - 1, 0) for k in each]),
        "at k = 0 no neuron runs: one did": run([max(k, 1) for k in each]),
        "silu is the function of this layer, not gelu": run(neuron=lambda g, u: F.gelu(g) * u),
        "silu is the function of this layer, not relu": run(neuron=lambda g, u: F.relu(g) * u),
        "silu is the function of this layer, not the sigmoid alone": run(neuron=lambda g, u: g.sigmoid() * u),
        "silu is for the gate alone, before the product of the two": run(neuron=lambda g, u: F.silu(g * u)),
        "silu is for the gate alone: up goes into the product as it is": run(neuron=lambda g, u: F.silu(g) * F.silu(u)),
        "silu of the gate is missing": run(neuron=lambda g, u: g * u),
        "gate and up are multiplied, not added": run(neuron=lambda g, u: F.silu(g) + u),
        "the gate is missing: silu(x Wgᵀ) times x Wuᵀ": run(neuron=lambda g, u: F.silu(u)),
        "the gate is missing, and its silu: silu(x Wgᵀ) times x Wuᵀ": run(neuron=lambda g, u: u),
    }


def _by_neuron(
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    bias: Tensor,
    each: Sequence[int],
    *,
    neuron: Callable[[Tensor, Tensor], Tensor] = lambda g, u: F.silu(g) * u,
) -> Tensor:
    """Token by token and neuron by neuron."""
    rows = []
    for token, k in zip(x, each, strict=True):
        row = bias
        for j in range(k):
            row = row + neuron((gate[j] * token).sum(), (up[j] * token).sum()) * down[:, j]
        rows.append(row)
    return torch.stack(rows)


# ---- task 2: sort_neurons

Sorting = tuple[str, Tensor, Tensor, Tensor, Tensor]
"""The check's name, W₁, b₁, W₂, x."""


def some_layer(dim: int, hidden: int, tokens: int, *, seed: int, dtype: torch.dtype = torch.float64) -> Sorting:
    """A layer whose neurons differ in size before and after the function, each in its own way."""
    w1, b1, w2, x = (
        checks.normal(*shape, seed=seed + part, dtype=dtype)
        for part, shape in enumerate(((hidden, dim), (hidden,), (dim, hidden), (tokens, dim)))
    )
    return "the order", w1, 2 * b1, w2 * (1 + 3 * checks.normal(hidden, seed=seed + 9, dtype=dtype).abs()), x


def alike(dim: int, hidden: int, *, dtype: torch.dtype = torch.float64) -> Sorting:
    """A layer of equal neurons in two sizes, exact in binary; of equals, W₂ has different signs."""
    size = torch.tensor([1.0 + (j % 3 == 1) for j in range(hidden)], dtype=dtype)
    sign = torch.tensor([(-1.0) ** (j // 3) for j in range(hidden)], dtype=dtype)
    w2 = torch.zeros(dim, hidden, dtype=dtype)
    w2[0] = size * sign
    x = torch.ones(2, dim, dtype=dtype)
    b1 = torch.full((hidden,), 2.0, dtype=dtype)
    return "ties", torch.zeros(hidden, dim, dtype=dtype), b1, w2, x


SORTINGS: tuple[Sorting, ...] = (
    some_layer(3, 9, 5, seed=1),
    some_layer(4, 9, 2, seed=21, dtype=torch.float32),
    some_layer(3, 30, 6, seed=76),
    alike(2, 20),
)
_SORT = {
    "the order": "importance falls: the mean over tokens of |gelu(x · W₁[j] + b₁[j])|, times the length of W₂[:, j]",
    "ties": "of equal neurons the earlier comes first: argsort(descending=True, stable=True)",
}


def sort_neurons(
    check: Task, answer: Callable[..., tuple[Tensor, Tensor, Tensor]], *, cases: Iterable[Sorting] = SORTINGS
) -> None:
    """Task 2: the same function at full width, then the order of the neurons, then inputs and memory."""
    check.by_hand(
        "by hand", answer, without=WITHOUT, tested="what the code of sort_neurons uses", likely="PyTorch alone"
    )
    for name, w1, b1, w2, x in cases:
        on = f"dim {w1.shape[1]}, hidden {len(w1)}, {len(x)} tokens, {w1.dtype}"
        with check.untouched(tested=on, w1=w1, b1=b1, w2=w2, x=x):
            found = answer(w1, b1, w2, x)
        check.true(
            "three tensors",
            isinstance(found, tuple | list) and len(found) == 3,
            tested=on,
            expected="W₁, b₁ and W₂ in their new order",
            got=type(found).__name__,
            likely="return w1, b1, w2",
        )
        for part, mine, given in zip(("W₁", "b₁", "W₂"), found, (w1, b1, w2), strict=True):
            check.equal("shapes", tuple(mine.shape), tuple(given.shape), tested=f"{part}: {on}")
            check.equal("dtypes", mine.dtype, given.dtype, tested=f"{part}: {on}")
        check.close(
            "the same function",
            F.gelu(x @ found[0].T + found[1]) @ found[2].T,
            F.gelu(x @ w1.T + b1) @ w2.T,
            tested=f"all neurons run: {on}",
            tolerance=100 * TOLERANCE[w1.dtype],
            likely="a neuron is row j of W₁, entry j of b₁ and column j of W₂: move all three alike",
        )
        # What each neuron of the input adds up to, one token at a time; then it is found again in the result.
        worth = []
        for j in range(len(w1)):
            sizes = [abs(F.gelu((w1[j] * token).sum() + b1[j]).item()) for token in x]
            worth.append(sum(sizes) / len(sizes) * math.sqrt(sum(v * v for v in w2[:, j].tolist())))
        places = [_found_again(j, found, (w1, b1, w2)) for j in range(len(w1))]
        amiss = [
            (a, b)
            for a in range(len(w1))
            for b in range(len(w1))
            if (worth[a] > worth[b] * (1 + 1e-6) or (name == "ties" and worth[a] == worth[b] and a < b))
            and places[a] > places[b]
        ]
        check.true(
            name,
            not amiss,
            tested=on,
            expected="neuron {} before neuron {}: their importance is {:.4g} and {:.4g}".format(
                *(amiss[0] if amiss else (0, 0)), *((worth[amiss[0][0]], worth[amiss[0][1]]) if amiss else (0, 0))
            ),
            got=f"the neurons' new places are {places}",
            likely=_sorted_by(w1, b1, w2, x, places) or _SORT[name],
        )


def _sorted_by(w1: Tensor, b1: Tensor, w2: Tensor, x: Tensor, places: Sequence[int]) -> str | None:
    """The mistake that puts every neuron where the answer did."""
    w1, b1, w2, x = (part.double() for part in (w1, b1, w2, x))
    before = x @ w1.T + b1
    h, length = F.gelu(before), w2.norm(dim=0)
    worth = h.abs().mean(0) * length
    measures = {
        "the absolute value is missing: outputs below 0 count as well": h.mean(0) * length,
        "the absolute value comes before the mean over the tokens: else what is below 0 takes from what is above": (
            h.mean(0).abs() * length
        ),
        "the size of a neuron is measured behind gelu, not before it": before.abs().mean(0) * length,
        "gelu, not relu: a little below 0 it gives something too": before.relu().mean(0) * length,
        "gelu itself, not its approximation by tanh": F.gelu(before, approximate="tanh").abs().mean(0) * length,
        "the bias b₁ is missing before gelu": F.gelu(x @ w1.T).abs().mean(0) * length,
        "the length of W₂'s column is missing: what a neuron adds is its output times that column": h.abs().mean(0),
        "the length of W₂'s columns alone: how large is what the tokens make of the neuron?": length,
        "the weights alone: how large is what the tokens make of the neuron?": w1.norm(dim=1) * length,
        "the length is that of W₂'s column j, not of W₁'s row j": h.abs().mean(0) * w1.norm(dim=1),
        "the length of a column is the root of the sum of its squares, not its sum": h.abs().mean(0) * w2.sum(0).abs(),
        "the length of a column is the root of the sum of its squares, not the sum of its absolute values": (
            h.abs().mean(0) * w2.abs().sum(0)
        ),
        "the length of a column is a root: this is its square": h.abs().mean(0) * length**2,
        "the mean of the absolute values, not the root of the mean square": h.square().mean(0).sqrt() * length,
        "the mean over the tokens, not the largest": h.abs().amax(0) * length,
        "all tokens count, not the first alone": h[0].abs() * length,
    }
    falling = worth.argsort(descending=True, stable=True)
    orders = {says: measure.argsort(descending=True, stable=True) for says, measure in measures.items()}
    orders |= {
        "the least important come first: importance falls": worth.argsort(stable=True),
        "the ranks of the neurons are not their order: index with argsort, not with argsort of argsort": (
            falling.argsort()
        ),
        "nothing has moved": torch.arange(len(places)),
    }
    new = torch.tensor(places).argsort().tolist()
    return next((says for says, order in orders.items() if order.tolist() == new), None)


def _found_again(j: int, found: Sequence[Tensor], given: Sequence[Tensor]) -> int:
    """Where neuron j stands in the result; of equals, the first place that is of its rank among them."""
    mine = torch.cat([given[0][j], given[1][j : j + 1], given[2][:, j]])
    new = torch.cat([found[0], found[1][:, None], found[2].T], dim=1)
    old = torch.cat([given[0], given[1][:, None], given[2].T], dim=1)
    rank = int((old[:j] == mine).all(1).sum())
    return (new == mine).all(1).nonzero()[rank, 0].item()  # type: ignore[return-value]


# ---- task 3: joint_gradients

Joint = tuple[int, tuple[int, ...], tuple[float, ...]]
"""Neurons, widths, weights."""

JOINTS: tuple[Joint, ...] = (
    (6, (6,), (1.0,)),
    (8, (1, 2, 4, 8), (0.25, 0.25, 0.25, 0.25)),
    (8, (2, 4, 5, 8), (0.2, 0.0, 0.5, 1.3)),
)


class Alive:
    """How many tensors graphs keep for a backward pass, now."""

    def __init__(self) -> None:
        self.number = 0

    def keep(self, value: Tensor) -> "_Kept":
        return _Kept(self, value)


class _Kept:
    def __init__(self, of: Alive, value: Tensor) -> None:
        self.of, self.value = of, value
        of.number += 1

    def __del__(self) -> None:
        self.of.number -= 1


def joint_gradients(
    check: Task, answer: Callable[..., float], *, cases: Iterable[Joint] = JOINTS, seed: int = 0
) -> None:
    """Task 3: gradients, what stood there before, the loss, the parameters, and how many graphs there are at a time."""
    check.by_hand(
        "by hand", answer, without=WITHOUT, tested="what the code of joint_gradients uses", likely="PyTorch alone"
    )
    for number, (hidden, widths, weights) in enumerate(cases):
        on = f"widths {widths}, weights {weights}"
        w1, w2, x, y = (
            checks.normal(*shape, seed=40 * seed + 4 * number + part, dtype=torch.float64)
            for part, shape in enumerate(((hidden, 3), (2, hidden), (5, 3), (5, 2)))
        )
        theirs, ours = ([part.clone().requires_grad_() for part in (w1, w2)] for _ in range(2))
        idle = torch.ones(2, dtype=torch.float64, requires_grad=True)  # no loss knows of it
        for part in (*theirs, idle):
            part.grad = torch.full_like(part, 7.0)
        alive, asked, seen = Alive(), list[int](), list[int]()

        def loss(
            width: int,
            theirs: list[Tensor] = theirs,
            asked: list[int] = asked,
            seen: list[int] = seen,
            alive: Alive = alive,
            x: Tensor = x,
            y: Tensor = y,
        ) -> Tensor:
            asked.append(width)
            seen.append(alive.number)
            return ((F.gelu(x @ theirs[0][:width].T) @ theirs[1][:, :width].T - y) ** 2).mean()

        with saved_tensors_hooks(alive.keep, lambda kept: kept.value):
            told = answer([*theirs, idle], widths, weights, loss)
        check.equal(
            "each width once",
            tuple(sorted(asked)),
            tuple(sorted(widths)),
            tested=on,
            likely="one call of loss for each width, also where its weight is 0",
        )
        parts = [((F.gelu(x @ ours[0][:width].T) @ ours[1][:, :width].T - y) ** 2).mean() for width in widths]
        losses = [part.item() for part in parts]
        right = torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum()
        right.backward()
        for name, mine, other, given in zip(("W₁", "W₂"), theirs, ours, (w1, w2), strict=True):
            check.true(
                "parameters stay",
                torch.equal(mine, given),
                tested=f"{name}: {on}",
                expected="parameters as they were: the optimizer moves them, once",
                likely="give gradients, and make no step",
            )
            check.true(
                "a gradient",
                mine.grad is not None,
                tested=f"{name}.grad: {on}",
                expected="a gradient",
                got=mine.grad,
                likely="backward() adds to .grad; setting it to None belongs before the first width",
            )
            check.close(
                "gradients",
                mine.grad,
                other.grad,  # type: ignore[arg-type]
                tested=f"{name}.grad, which held 7 everywhere before: {on}",
                tolerance=1e-10,
                likely="the gradient of Σ weight · loss; what stood in .grad before is gone",
                mistakes={
                    "what stood in .grad before is still in it": other.grad + 7.0,  # type: ignore[operator]
                    "the weights are taken as they are, not divided by their sum": other.grad / sum(weights),  # type: ignore[operator]
                    "the sum over the widths, each with its weight, and no mean": other.grad / len(widths),  # type: ignore[operator]
                    "the weights are left out": _alone(ours, x, y, widths, (1.0,) * len(widths), name),
                    "it is the last width's alone: .grad is cleared once, before the first": _alone(
                        ours, x, y, widths[-1:], weights[-1:], name
                    ),
                },
            )
        check.true(
            "nobody's parameter",
            idle.grad is None or not bool(idle.grad.any()),
            tested=f"a parameter that no width uses; its .grad held 7 before: {on}",
            expected="None or zeros",
            got=idle.grad,
            likely="clear .grad of all parameters that you are given",
        )
        check.true(
            "one graph",
            max(seen) == 0,
            tested=on,
            expected="no tensor is kept for a backward pass when the loss of the next width is called",
            got=f"{max(seen)} kept",
            likely="call backward() for each width as soon as its loss is there, without retain_graph",
        )
        check.true(
            "a number",
            isinstance(told, float),
            tested=f"what is returned: {on}",
            expected="a float",
            got=type(told).__name__,
            likely=".item() makes a number of a tensor, and lets its graph go",
        )
        check.close(
            "the loss",
            told,
            right.item(),
            tested=f"what is returned: {on}",
            tolerance=1e-10,
            likely="the weighted sum, Σ weight · loss",
            mistakes={
                "the weights are left out of what is returned": sum(losses),
                "the sum over the widths, each with its weight, and no mean": right.item() / len(widths),
                "the mean of the losses: the sum, each with its weight": sum(losses) / len(widths),
                "that is the loss of the last width: the sum over all of them": losses[-1],
            },
        )
    check.raises(
        "one weight a width",
        ValueError,
        lambda: answer([w1], (1, 2, 4), (0.5, 0.5), lambda width: (w1[:width] * w1[:width]).sum().requires_grad_()),
        tested="three widths and two weights",
        likely="zip(…, strict=True) raises it",
    )


def _alone(
    parts: Sequence[Tensor], x: Tensor, y: Tensor, widths: Sequence[int], weights: Sequence[float], name: str
) -> Tensor:
    """The gradient of one of the weights, of some widths."""
    w1, w2 = (part.detach().clone().requires_grad_() for part in parts)
    losses = [
        weight * ((F.gelu(x @ w1[:width].T) @ w2[:, :width].T - y) ** 2).mean()
        for width, weight in zip(widths, weights, strict=True)
    ]
    torch.stack(losses).sum().backward()
    found = {"W₁": w1, "W₂": w2}[name].grad
    assert found is not None
    return found


# ---- task 4: best_mix

Mixing = tuple[str, list[tuple[int, ...]], list[tuple[float, ...]], int]
"""The check's name, costs and changes of each layer, the limit."""


def few(layers: int, widths: int, *, seed: int, share: float = 0.5) -> Mixing:
    """Layers whose widths cost and give whatever: a wider one costs more and may be worse."""
    generator = torch.Generator().manual_seed(seed)
    costs = [tuple(sorted(torch.randperm(40, generator=generator)[:widths].add(1).tolist())) for _ in range(layers)]
    changes = [tuple(torch.randn(widths, generator=generator).tolist()) for _ in range(layers)]
    least, most = sum(own[0] for own in costs), sum(own[-1] for own in costs)
    return "the best", costs, changes, least + int(share * (most - least))


def many(layers: int, *, price: float, seed: int) -> Mixing:
    """Many layers, and a limit at which one knows the best: what is chosen where every FLOP has one price.

    Whoever would do better with no more FLOPs would do better at that price, too.
    """
    generator = torch.Generator().manual_seed(seed)
    costs = [(1_000_000, 2_000_000, 4_000_000, 8_000_000)] * layers
    changes = [tuple((torch.rand(4, generator=generator) - torch.arange(4) / 8).tolist()) for _ in range(layers)]
    chosen = [
        min(range(4), key=lambda g: own[g] + price * cost[g] / 1e6) for own, cost in zip(changes, costs, strict=True)
    ]
    return "many layers", costs, changes, sum(cost[g] for cost, g in zip(costs, chosen, strict=True))


MIXES: tuple[Mixing, ...] = (
    ("the best", [(1, 2, 4), (1, 3, 4)], [(0.1, 1.0, -2.0), (0.2, -1.0, 0.1)], 6),
    ("the best", [(2,), (3, 1, 4)], [(0.5,), (0.0, -1.0, -2.0)], 7),
    ("just fits", [(1, 3)], [(0.0, -1.0)], 3),
    ("just fits", [(2, 5), (2, 5)], [(0.0, -1.0), (0.0, -2.0)], 10),
    ("greedy is not enough", [(0, 6), (0, 5), (0, 5)], [(0.0, -6.6), (0.0, -5.0), (0.0, -5.0)], 10),
    few(4, 3, seed=0),
    few(3, 4, seed=1, share=0.3),
    many(24, price=0.05, seed=2),
)
_MIX = {
    "the best": "the smallest sum of changes among all mixtures that cost no more than the limit",
    "just fits": "a mixture that costs exactly the limit fits",
    "greedy is not enough": "the best single step first (per FLOP, or at all) may block two that together are better",
    "many layers": "the best for all layers so far, at each sum of costs: keep that, and add a layer",
}


def best_mix(
    check: Task,
    answer: Callable[..., Sequence[int]],
    *,
    cases: Iterable[Mixing] = MIXES,
    short: Iterable[int] = (1, 5),
) -> None:
    """Task 4: mixtures that fit and cannot be bettered; limits that nothing keeps."""
    check.by_hand("by hand", answer, without=WITHOUT, tested="what the code of best_mix uses", likely="plain Python")
    for name, costs, changes, limit in cases:
        on = f"{len(costs)} layers, limit {limit}"
        on += f", costs {costs}, changes {changes}" if sum(map(len, costs)) < 8 else ""
        mix = answer([*costs], [*changes], limit)
        good = (
            isinstance(mix, tuple | list)
            and len(mix) == len(costs)
            and all(isinstance(g, int) and 0 <= g < len(own) for g, own in zip(mix, costs, strict=False))
        )
        check.true(
            "one width a layer",
            good,
            tested=on,
            expected="for each layer the number of its width, from 0",
            got=mix,
            likely="numbers of widths, neither costs nor changes; one for every layer",
        )
        spent = sum(own[g] for own, g in zip(costs, mix, strict=True))
        check.true(
            "fits",
            spent <= limit,
            tested=on,
            expected=f"a mixture that costs at most {limit}",
            got=f"{tuple(mix)}, which costs {spent}",
            likely="leave out what would go beyond the limit",
        )
        found = sum(own[g] for own, g in zip(changes, mix, strict=True))
        best = _planted(costs, changes, limit) if len(costs) > 6 else _tried(costs, changes, limit)
        check.true(
            name,
            found <= best + 1e-9,
            tested=on,
            expected=f"changes that add up to {best:.6g}",
            got=f"{tuple(mix)}, whose changes add up to {found:.6g}",
            likely=_named(name, tuple(mix), costs, changes, limit) or _MIX[name],
        )
    for limit in short:
        costs = [(3, 4), (3, 9)]
        check.raises(
            "out of reach",
            ValueError,
            lambda limit=limit, costs=costs: answer(costs, [(0.0, -1.0)] * 2, limit),  # type: ignore[misc]
            tested=f"limit {limit}, and the narrowest widths cost 6 together",
            likely="raise ValueError where no mixture fits",
        )


def _named(
    name: str, mix: tuple[int, ...], costs: Sequence[Sequence[int]], changes: Sequence[Sequence[float]], limit: int
) -> str | None:
    """The mistake that leads to this mixture, where all of them can be tried."""
    if name not in ("the best", "just fits"):
        return None

    def sums(table: Sequence[Sequence[float]], mix: tuple[int, ...]) -> float:
        return sum(own[g] for own, g in zip(table, mix, strict=True))

    every = list(product(*(range(len(own)) for own in costs)))
    price, change = partial(sums, costs), partial(sums, changes)
    fits = [one for one in every if price(one) <= limit]
    below = [one for one in fits if price(one) < limit]
    alike = [one for one in fits if len({*one}) == 1]
    narrow = [one for one in fits if max(one) < len(costs[0])]
    wrong = {
        "each layer has widths of its own: the first layer's number of them is not every layer's": (
            min(narrow, key=change, default=None)
        ),
        "a mixture that costs exactly the limit fits: at most, not less": min(below, key=change, default=None),
        "the cheapest mixture: what the limit leaves may be spent": min(fits, key=price, default=None),
        "the dearest that fits: a wider width may be worse, and the limit need not be spent": (
            max(fits, key=price, default=None)
        ),
        "the largest sum of changes: a change is what the loss grows by, so the smallest is the best": (
            max(fits, key=change, default=None)
        ),
        "each layer has a width of its own: this is one for all": min(alike, key=change, default=None),
    }
    return next((says for says, one in wrong.items() if one == mix), None)


def _tried(costs: Sequence[Sequence[int]], changes: Sequence[Sequence[float]], limit: int) -> float:
    """The best of all there are."""
    return min(
        sum(own[g] for own, g in zip(changes, mix, strict=True))
        for mix in product(*(range(len(own)) for own in costs))
        if sum(own[g] for own, g in zip(costs, mix, strict=True)) <= limit
    )


def _planted(costs: Sequence[Sequence[int]], changes: Sequence[Sequence[float]], limit: int) -> float:
    """What cannot be bettered: the greatest of the bounds that a price on every FLOP gives."""
    prices = [step / 1000 / 1e6 for step in range(400)]
    return max(
        sum(
            min(d + price * c for c, d in zip(own, these, strict=True))
            for own, these in zip(costs, changes, strict=True)
        )
        - price * limit
        for price in prices
    )


# ---- task 5: predict, then measure

WORDS = {"FLOPs of attention's scores at 1/4": ("a quarter", "less, but not a quarter", "the same")}


def predict(check: Task, answer: Callable[[], dict[str, Any]], *, seed: int = 3) -> None:
    """Task 5: predictions about six layers, counted on a model of this seed."""
    check.prediction(
        answer(),
        _measured(seed),
        tested="six layers, dim 32, hidden 128, widths 1/8, 1/4, 1/2, 1",
        words=WORDS,
        slips=_SLIPS,
        likely=_USUALLY,
    )


@cache
def _measured(seed: int) -> dict[str, float | str]:
    """Counted on a model: extracted, differentiated, run."""
    torch.manual_seed(seed)
    widths = (1 / 8, 1 / 4, 1 / 2, 1)
    model = matformer(CausalLM(vocabulary=64, dim=32, depth=6, heads=4, hidden=128), widths)
    tokens = torch.randint(64, (2, 24))
    layer = model.blocks[0].feed_forward
    reached = [_reaches(model, layer, tokens, width) for width in widths]
    small: FeedForward = extract(layer, 1 / 4)
    x = torch.randn(8, 32)
    parts: dict[float, int] = {}
    whole: dict[float, int] = {}
    for width in (1 / 4, 1.0):
        block = extract(model, width).blocks[0]
        linear = [block.attention.query_key_value, block.attention.output, block.feed_forward]
        parts[width] = sum(count(part, x).flops for part in linear)
        whole[width] = count(block, x[None]).flops
    scores = {width: whole[width] - parts[width] for width in parts}
    same = scores[1 / 4] == scores[1.0]
    mean = joint_loss(model, lambda: model(tokens).logsumexp(-1).mean())
    (shared,) = torch.autograd.grad(mean, layer.contract.bias)
    return {
        "models": len({*product(range(len(widths)), repeat=len(model.blocks))}),
        "parameters at 1/4": sum(part.numel() for part in small.parameters()),
        "widths that train neuron 40": sum(bool(each[40]) for each in reached),
        "share of the steps that train neuron 100": sum(bool(each[100]) for each in reached) / len(widths),
        "widths that train the output bias": len(widths) if bool(shared.any()) else 0,
        "FLOPs of the linear layers at 1/4": parts[1 / 4] / parts[1.0],
        "FLOPs of attention's scores at 1/4": "the same" if same else "less, but not a quarter",
    }


def _reaches(model: CausalLM, layer: MatFormerFeedForward, tokens: Tensor, width: float) -> Tensor:
    """Which neurons of a layer a loss at one width gives a gradient."""
    with setting(model, MatFormerFeedForward, width=width):
        (gradient,) = torch.autograd.grad(model(tokens).logsumexp(-1).mean(), layer.expand.weight)
    return gradient.abs().sum(1) > 0


_USUALLY = {
    "models": "each of the six layers has four widths to choose from, on its own",
    "parameters at 1/4": "32 neurons, each with a row of W₁, an entry of b₁ and a column of W₂; and the whole of b₂",
    "widths that train neuron 40": "the widths are 16, 32, 64 and 128; neuron 40, counted from 0, runs where k > 40",
    "share of the steps that train neuron 100": "each step draws one of four widths; which of them hold neuron 100?",
    "widths that train the output bias": "b₂ belongs to no neuron: every width adds all of it",
    "FLOPs of the linear layers at 1/4": "for a token: 8 d² in the four projections of attention, 16 d² · width in the "
    "feed-forward part",
    "FLOPs of attention's scores at 1/4": "what does the width of the feed-forward part change in attention?",
}
_SLIPS: dict[str, dict[str, float | int | str]] = {
    "models": {
        "six layers times four widths counts what there is to choose, not the combinations": 24,
        "each layer chooses one of four: 4⁶, not 6⁴": 6**4,
        "those are the models of one width for all": 4,
    },
    "parameters at 1/4": {
        "the output bias is not cut: b₂ has all its 32 entries": 2 * 32 * 32 + 32 + 8,
        "a quarter of all, and b₂ is whole": 8352 / 4,
        "the biases count, too": 2 * 32 * 32,
        "that is the whole layer": 8352,
        "b₂ counts, too": 2 * 32 * 32 + 32,
    },
    "widths that train neuron 40": {
        "only those that hold it: the narrow ones end before neuron 40": 4,
        "half of the layer holds it too: its first 64 neurons": 1,
        "a quarter of the layer are the neurons 0 … 31": 3,
    },
    "share of the steps that train neuron 100": {
        "half of the layer are the neurons 0 … 63": 1 / 2,
        "a narrow step does not run it": 1.0,
        "a share, not in percent": 25,
    },
    "widths that train the output bias": {
        "not the full width alone": 1,
        "it belongs to no neuron, and every width uses it": 0,
    },
    "FLOPs of the linear layers at 1/4": {
        "attention's projections are not narrowed": 1 / 4,
        "attention has four projections of d² products each, 8 d² FLOPs; here it was counted twice": 5 / 8,
        "a share, not in percent": 50,
        "attention has four projections: queries, keys, values and output": (6 + 4) / (6 + 16),
    },
}
