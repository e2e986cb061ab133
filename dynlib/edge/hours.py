"""A day of a channel, slot by slot, and a controller that sends through it and keeps to its budget on average.

What a way to send is worth depends on the channel of the slot: a table says it, measured at a few ratios, and is read
between them along straight lines.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dynlib.edge.controller import LyapunovController
from dynlib.inputs import check_number, check_tensor, check_whole


class Slot(NamedTuple):
    """What a controller did in a slot."""

    snr: float
    """In decibels."""
    way: int
    """Which way was taken, from 0."""
    value: float
    cost: float
    debt: float
    """Z after it."""
    mean: float
    """The mean cost of all slots so far."""


def bad_hour(
    *,
    slots: int = 360,
    before: int = 2,
    behind: int = 3,
    good: float | int = 15.0,
    bad: float | int = 2.0,
    spread: float | int = 1.5,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " all_slots"]:
    """The ratio of each slot, in decibels: good hours, one bad hour, good hours again, with noise in every slot.

    Args:
        slots: of an hour.
        before, behind: good hours on either side of the bad one.
        good, bad: the ratios, in decibels.
        spread: the standard deviation of the noise, in decibels.
        generator: of the noise.

    Raises:
        TypeError, ValueError: if there are no slots, hours or the spread are negative, or a ratio is not finite.
    """
    check_whole("slots", slots, least=1, what="slots an hour")
    for name, hours in (("before", before), ("behind", behind)):
        check_whole(name, hours, least=0, what="hours")
    good, bad, spread = check_number("good", good), check_number("bad", bad), check_number("spread", spread, least=0)
    level = torch.tensor([good] * before + [bad] + [good] * behind).repeat_interleave(slots)
    return level + spread * torch.randn(level.shape, generator=generator)


def between(
    snr: float | int, snrs: Sequence[float | int] | Float[Tensor, " ratios"], table: Float[Tensor, "ratios ways"]
) -> Float[Tensor, " ways"]:
    """A row of the table at a ratio: along straight lines between the measured ones, and as at the ends beyond them.

    Args:
        snr: the ratio, in decibels.
        snrs: the measured ones, rising.
        table: a row for each of them, and a column for each way to send.

    Raises:
        TypeError: if a ratio is no number, or the table no tensor.
        ValueError: if a ratio is not finite, or the measured ones do not rise or are not as many as the rows.
    """
    snr = check_number("snr", snr)
    check_tensor(table, "the table")
    listed = snrs.tolist() if isinstance(snrs, Tensor) else snrs
    measured = [check_number("each of snrs", one) for one in listed]
    if len(measured) != len(table) or not measured or any(a >= b for a, b in pairwise(measured)):
        raise ValueError(f"need one ratio for each of the {len(table)} rows, rising; got {measured}")
    if snr <= measured[0]:
        return table[0]
    for row, (low, high) in enumerate(pairwise(measured)):
        if snr <= high:
            share = (snr - low) / (high - low)
            return (1 - share) * table[row] + share * table[row + 1]
    return table[-1]


def send_through(
    controller: LyapunovController,
    hours: Float[Tensor, " slots"],
    *,
    snrs: Sequence[float | int] | Float[Tensor, " ratios"],
    values: Float[Tensor, "ratios ways"],
    costs: Float[Tensor, "ratios ways"],
) -> list[Slot]:
    """Let a controller choose in every slot, knowing the ratio of this slot and nothing of those to come.

    Args:
        controller: it may have a debt already, and is changed.
        hours: the ratio of each slot, such as those of :func:`bad_hour`.
        snrs: the ratios that the tables were measured at, rising.
        values, costs: what each way is worth, such as an accuracy, and what it costs, such as symbols an image.

    Raises:
        TypeError, ValueError: as :func:`between` and the controller do.
    """
    found = []
    for snr in hours.tolist():
        worth, prices = between(snr, snrs, values).tolist(), between(snr, snrs, costs).tolist()
        way = controller.choose(worth, prices)
        controller.spend(prices[way])
        found.append(Slot(snr, way, worth[way], prices[way], controller.debt, controller.mean))
    return found
