"""Rows of trained models of the zoo: cost, time and quality at some budgets, all measured in one run."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.given import accuracy, bits, bytes_of_text, digits
from benchmarks.race import Ways, compared, contest
from benchmarks.table import Row
from dynlib.zoo import load

Call = Callable[[Any, Tensor], Tensor]
"""Knob and inputs to logits."""

IMAGES, JUDGED = 250, 2000  # timed, and judged on


@torch.inference_mode()
def on_digits(
    mechanism: str,
    budgets: Mapping[str, Any],
    gathered: Mapping[str, Call],
    masked: Call | None = None,
    *,
    quick: bool,
    aim: float | None = 0.9,
    note: str = "",
) -> list[Row]:
    """A mechanism that was trained on ``digits_vit``, against it.

    Args:
        mechanism: its name.
        budgets: values of its knob, by what they are called.
        gathered: its ways to run.
        masked: how it is run where everything is computed.
        quick: few images.
        aim, note: as in :meth:`benchmarks.race.Race.row`.
    """
    images, labels = digits(16 if quick else JUDGED)
    some = images[: 8 if quick else IMAGES]
    vit = load("digits_vit")
    theirs = accuracy(vit, images, labels)
    size = f"digits_vit, dim 96, 6 layers, {len(some)} × 37 tokens"
    races = contest(
        {name: {way: partial(call, knob, some) for way, call in gathered.items()} for name, knob in budgets.items()},
        pieces(vit, some, 16, 64),
        masked={} if masked is None else {name: partial(masked, knob, some) for name, knob in budgets.items()},
        repeats=2 if quick else 9,
    )
    call = next(iter(gathered.values()))
    rows = []
    for name, race in races.items():
        quality = compared("accuracy", accuracy(partial(call, budgets[name]), images, labels), theirs)
        rows.append(race.row(f"{mechanism}, {name}, trained", size, aim=aim, quality=quality, note=note))
    return rows


@torch.inference_mode()
def on_text(
    mechanism: str, budgets: Mapping[str, Any], run: Call, masked: Call, *, dense: str, size: str, quick: bool
) -> list[Row]:
    """A mechanism of a language model of the zoo, against another that is dense; all logits are computed."""
    text = bytes_of_text(4 if quick else 256, 128)
    some = text[: 2 if quick else 32, :-1]
    peer = load(dense)
    theirs = bits(peer, text)
    races = contest(
        {name: pieces(partial(run, knob), some, 4, 16) for name, knob in budgets.items()},
        pieces(peer, some, 4, 16),
        masked={name: partial(masked, knob, some) for name, knob in budgets.items()},
        repeats=2 if quick else 9,
    )
    rows = []
    for name, race in races.items():
        quality = compared("bits per byte", bits(partial(run, budgets[name]), text), theirs)
        rows.append(race.row(f"{mechanism}, {name}, trained", f"{size}, {len(some)} × 128 tokens", quality=quality))
    return rows


def pieces(run: Callable[[Tensor], Tensor], x: Tensor, *sizes: int) -> Ways:
    """The whole batch at once, or so many samples at a time."""

    def cut(size: int) -> Tensor:
        return torch.cat([run(part) for part in x.split(size)])

    some = {f"{size} samples at a time": partial(cut, size) for size in sizes if size < len(x)}
    return {"the whole batch at once": partial(run, x), **some}
