"""What a transmitter is trained on: the answer, and a distance of what it sends from the budget, drawn for each image.

Source: arXiv:2505.17604; what is otherwise here, and why, stands in :mod:`dynlib.edge.communication`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dynlib.choice import straight_through
from dynlib.edge.communication import TokensSent, check_budget
from dynlib.inputs import check_number, check_whole, widen


class TransmissionLoss(NamedTuple):
    """The loss, and what it is made of."""

    total: Float[Tensor, ""]
    task: Float[Tensor, ""]
    """The cross-entropy."""
    budget: Float[Tensor, ""]
    """Mean of how far the share of tokens sent is from α, beyond the slack."""
    inner: Float[Tensor, ""]
    """Mean mask after the blocks of the device but the last; 0 if there is one block only."""


def transmission_loss(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    record: TokensSent,
    *,
    weight: float | int = 1.0,
    slack: float | int = 0.02,
    inner_weight: float | int = 0.5,
) -> TransmissionLoss:
    """Cross-entropy + weight · mean ReLU(|share sent − α| − slack) + inner_weight · mean mask inside the device.

    The share counts tokens. Its gradient is that of the product of σ(margin) over the blocks: of the tokens that are
    nearest to the edge, on both sides of it. The masks' own gradient is only that of tokens that are sent, as a ReLU
    that gives 0 has none, and a model that has once stopped to send would never send again.

    Args:
        logits, labels: of the images.
        record: of :func:`dynlib.deciding.record`, from the pass that gave the logits.
        weight, slack, inner_weight: not negative.

    Raises:
        TypeError: if one of the last is no number.
        ValueError: if it is negative, or the record is of another number of images.
    """
    for name, value in (("weight", weight), ("slack", slack), ("inner_weight", inner_weight)):
        check_number(name, value, least=0)
    if len(record.sent) != len(logits):
        raise ValueError(f"the record is of {len(record.sent)} images, the logits of {len(logits)}")
    task = F.cross_entropy(logits, labels)
    reach = widen(record.margins).sigmoid().prod(1)  # half precision cannot count the tokens of a large image
    share = straight_through(record.sent.to(reach.dtype), reach).mean(1)
    # ReLU(|share − α| − slack)
    budget = ((share - record.budget).abs() - slack).relu().mean()
    earlier = widen(record.masks[:, :-1])
    inner = earlier.mean() if earlier.numel() else torch.zeros_like(task)
    return TransmissionLoss(task + weight * budget + inner_weight * inner, task, budget, inner)


def draw_budgets(
    count: int, *, low: float | int = 0.05, high: float | int = 1.0, generator: torch.Generator | None = None
) -> Float[Tensor, " count"]:
    """A budget for each image of a batch: one at a random place in each of ``count`` equal parts of low … high.

    Raises:
        TypeError, ValueError: if there are none, or not 0 < low ≤ high ≤ 1.
    """
    check_whole("count", count, least=1)
    if not check_budget(low) <= check_budget(high):
        raise ValueError(f"low must not exceed high; got {low} and {high}")
    return low + (high - low) * (torch.arange(count) + torch.rand(count, generator=generator)) / count
