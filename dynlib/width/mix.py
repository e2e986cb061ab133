"""Mix'n'Match: a width for each layer under a limit of FLOPs, chosen by what was measured.

Of L layers with G widths each there are Gᴸ models, too many to measure. What one layer does can be measured: begin with
widths that fit the limit, give layer l alone the width w, and see by how much the loss changes, Δ_l(w). As if these
changes added up, the best mixture is

    min over w₁ … w_L of Σ_l Δ_l(w_l),   subject to   Σ_l FLOPs_l(w_l) ≤ limit,

a knapsack with one choice for each layer, which is solved exactly. Whether they do add up is measured: the loss of the
mixture decides, and from there a next round begins.

Source: arXiv:2310.07707, which mixes widths layer by layer after the training.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from dynlib.cost.count import Cost, count, readable
from dynlib.inputs import check_name, check_number, check_whole
from dynlib.width.matformer import MatFormerFeedForward, Width, layer_widths, matformer_layers

Widths = tuple[Width, ...]
Search = Literal["additive", "all"]


class Mix(NamedTuple):
    """A width for each layer, and what that costs and gives."""

    widths: Widths
    """Of the layers, in the order of ``model.named_modules()``: for :func:`~dynlib.width.matformer.layer_widths` and
    :func:`~dynlib.width.matformer.extract`."""
    cost: Cost
    """Counted at these widths."""
    loss: float
    """Measured at these widths."""
    measured: Mapping[Widths, tuple[int, float]]
    """FLOPs and loss of all that was measured, also of what is over the limit."""


@torch.no_grad()
def mix_and_match(
    model: nn.Module,
    measure: Callable[[nn.Module], float],
    budget: float | int,
    *inputs: Any,
    search: Search = "additive",
    rounds: int = 3,
) -> Mix:
    """The best widths of the layers, each one of its own ``widths``, whose FLOPs stay within a budget.

    "additive" begins with the best uniform width that fits, and in each round measures every layer at each of its other
    widths, takes the solution of the knapsack, and measures it; it ends when nothing is better. Of all that was
    measured and fits, the best is given. That is about L · (G − 1) measurements a round. What holds: it is never
    worse, by ``measure``, than a uniform width that fits; and where the changes of the layers add up, no mixture that
    fits is better. "all" measures every mixture that fits: none is better, at a cost that grows as Gᴸ.

    Of equal losses the cheaper is given. Let ``measure`` read data that the model was not trained on, and enough of it:
    of many mixtures the best of a small sample is the luckiest. Judge the result by data that neither has seen.

    Args:
        model: holds :class:`~dynlib.width.matformer.MatFormerFeedForward` layers; their widths are as before in the
            end. Put it into evaluation mode.
        measure: gives the loss of the model at the widths that are set, smaller is better, always on the same
            calibration data.
        budget: FLOPs that ``model(*inputs)`` may take at most; up to 1 it is a share of those at full width.
        inputs: what the model's FLOPs are counted on.
        search: how.
        rounds: how many at most, for "additive".

    Raises:
        TypeError: if the budget is no number.
        ValueError: if the budget is below the least possible, which is named; if the model has no such layer, there are
            no inputs, a loss is not finite, FLOPs are not fixed by the widths, or ``search`` has another name.
    """
    check_name("search", search, ("additive", "all"))
    check_whole("rounds", rounds, least=1)
    layers = matformer_layers(model)
    if not inputs:
        raise ValueError("FLOPs are counted on the model's inputs: give them after the budget")
    choices = [layer.widths for layer in layers]
    costs = _Costs(model, inputs, layers)
    limit = check_number("the budget", budget, least=0, open=True)
    limit = limit * costs.full if limit <= 1 else limit
    if costs.least > limit:
        raise ValueError(
            f"a budget of {readable(limit, 'FLOP')} cannot be kept: with every layer at its narrowest the model takes "
            f"{readable(costs.least, 'FLOP')} ({costs.least}, {costs.least / costs.full:.3g} of all)"
        )
    tried = _Tried(model, measure, costs)
    if search == "all":
        for widths in product(*choices):
            if costs.of(widths) <= limit:
                tried(widths)
    else:
        tried(tuple(own[0] for own in choices))
        for width in choices[0]:
            if all(width in own for own in choices) and costs.of((width,) * len(choices)) <= limit:
                tried((width,) * len(choices))
        for _ in range(rounds):
            base = tried.best(limit)
            # Δ_l(w), from the best so far
            changes = [
                {width: tried((*base[:place], width, *base[place + 1 :])) - tried(base) for width in own}
                for place, own in enumerate(choices)
            ]
            tried(_knapsack(costs.extra, changes, limit - costs.least))
            if tried.best(limit) == base:
                break
    best = tried.best(limit)
    return Mix(best, costs.counted(best), tried.losses[best], {w: (costs.of(w), x) for w, x in tried.losses.items()})


class _Costs:
    """FLOPs of any widths, from the model's at the narrowest and those of each layer alone, on what it is given."""

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...], layers: Sequence[MatFormerFeedForward]) -> None:
        self.model, self.inputs = model, inputs
        calls: list[list[tuple[Any, Any]]] = [[] for _ in layers]
        hooks = [
            layer.register_forward_pre_hook(partial(_keep, its), with_kwargs=True)
            for layer, its in zip(layers, calls, strict=True)
        ]
        try:
            self.least = self._count(tuple(layer.widths[0] for layer in layers)).flops
        finally:
            for hook in hooks:
                hook.remove()
        self.extra: list[dict[Width, int]] = []
        for layer, its in zip(layers, calls, strict=True):
            alone = {}
            for width in layer.widths:
                with layer_widths(layer, width):
                    alone[width] = sum(count(layer, *given, **named).flops for given, named in its)
            self.extra.append({width: flops - alone[layer.widths[0]] for width, flops in alone.items()})
        self.full = self.counted(tuple(layer.widths[-1] for layer in layers)).flops

    def of(self, widths: Widths) -> int:
        return self.least + sum(extra[width] for extra, width in zip(self.extra, widths, strict=True))

    def counted(self, widths: Widths) -> Cost:
        cost = self._count(widths)
        if cost.flops != self.of(widths):
            raise ValueError(
                f"at widths {widths} the model takes {cost.flops} FLOPs, and layer by layer {self.of(widths)}: its "
                "cost depends on what it computes, and a limit cannot be kept by widths alone"
            )
        return cost

    def _count(self, widths: Widths) -> Cost:
        with layer_widths(self.model, widths):
            return count(self.model, *self.inputs)


class _Tried:
    """Widths and their losses, each measured once."""

    def __init__(self, model: nn.Module, measure: Callable[[nn.Module], float], costs: _Costs) -> None:
        self.model, self.measure, self.costs = model, measure, costs
        self.losses: dict[Widths, float] = {}

    def __call__(self, widths: Widths) -> float:
        if widths not in self.losses:
            with layer_widths(self.model, widths):
                self.losses[widths] = check_number("a measured loss", float(self.measure(self.model)))
        return self.losses[widths]

    def best(self, limit: float) -> Widths:
        fitting = [widths for widths in self.losses if self.costs.of(widths) <= limit]
        return min(fitting, key=lambda widths: (self.losses[widths], self.costs.of(widths)))


def _keep(calls: list[tuple[Any, Any]], _: nn.Module, given: Any, named: Any) -> None:
    calls.append((given, named))


def _knapsack(
    extra: Sequence[Mapping[Width, int]], changes: Sequence[Mapping[Width, float]], room: float | int
) -> Widths:
    """One width for each layer, the sum of the changes least, the sum of the costs within the room."""
    kept: list[tuple[int, float, Widths]] = [(0, 0.0, ())]
    for costs, own in zip(extra, changes, strict=True):
        longer = [
            (cost + costs[width], change + own[width], (*widths, width))
            for cost, change, widths in kept
            for width in own
            if cost + costs[width] <= room
        ]
        # Whoever costs no less and changes no less than another is no part of the best.
        kept = []
        for state in sorted(longer):
            if not kept or state[1] < kept[-1][1]:
                kept.append(state)
    return kept[-1][2]
