"""Mix'n'Match: a width for each layer under a limit of FLOPs, chosen by what was measured.

Of L layers with G widths each there are Gᴸ models, too many to measure. What one layer does can be measured: from widths
that fit the limit, change layer l alone to width w, and see by how much the loss changes, Δ_l(w). As if these changes
added up, the best mixture is

    min over w₁ … w_L of Σ_l Δ_l(w_l),   subject to   Σ_l FLOPs_l(w_l) ≤ limit,

a knapsack with one choice for each layer, which is solved exactly. Whether they do add up is measured: the loss of the
mixture decides, and from there a next round begins.

Source: arXiv:2310.07707, which mixes widths layer by layer after the training.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from dynlib.cost.count import Cost, count, readable
from dynlib.inputs import check_name, check_number, check_whole
from dynlib.width.matformer import Width, layer_widths, matformer_layers

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
    limit: float | int,
    *inputs: Any,
    search: Search = "additive",
    rounds: int = 3,
) -> Mix:
    """The best widths of the layers, each one of its own ``widths``, whose FLOPs stay within a limit.

    "additive" begins with the best uniform width that fits, and in each round measures every layer at each of its other
    widths, takes the solution of the knapsack, and measures it; it ends when nothing is better. Of all that was
    measured and fits, the best is given. That is about L · (G − 1) measurements a round. What holds: it is never
    worse, by ``measure``, than a uniform width that fits; and where the changes of the layers add up, no mixture that
    fits is better. "all" measures every mixture that fits: none is better, at a cost that grows as Gᴸ.

    Of equal losses the cheaper is given. ``measure`` should read enough: of many mixtures the best of a small sample is
    the luckiest. Judge the result by data that it did not see.

    Args:
        model: holds :class:`~dynlib.width.matformer.MatFormerFeedForward` layers; their widths are as before in the
            end. Put it into evaluation mode.
        measure: gives the loss of the model at the widths that are set, smaller is better, always on the same
            calibration data.
        limit: FLOPs that ``model(*inputs)`` may take at most; up to 1 it is a share of those at full width.
        inputs: what the model's FLOPs are counted on.
        search: how.
        rounds: how many at most, for "additive".

    Raises:
        TypeError: if the limit is no number.
        ValueError: if the limit is below the least possible, which is named; if the model has no such layer, a loss is
            NaN, or ``search`` has another name.
    """
    check_name("search", search, ("additive", "all"))
    check_whole("rounds", rounds, least=1)
    layers = matformer_layers(model)
    choices = [layer.widths for layer in layers]
    costs = _Costs(model, inputs, choices)
    limit = check_number("the limit", limit, least=0, open=True)
    limit = limit * costs.full if limit <= 1 else limit
    if costs.least > limit:
        raise ValueError(
            f"a limit of {readable(limit, 'FLOP')} cannot be kept: with every layer at its narrowest the model takes "
            f"{readable(costs.least, 'FLOP')} ({costs.least}, {costs.least / costs.full:.3g} of all)"
        )
    measured: dict[Widths, tuple[int, float]] = {}
    ...
