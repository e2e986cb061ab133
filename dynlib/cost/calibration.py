"""The knob of any mechanism, turned through its values on held-out data: what each costs and what it is worth.

Every mechanism has a knob of its own: a threshold, a capacity, a width, a number of loops. :func:`calibrate` writes
down, for a request at each of its values, FLOPs that were counted, seconds and joules, and the quality.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dynlib.cost.count import Cost, count
from dynlib.cost.curve import CostCurve, Point
from dynlib.cost.energy import estimate_energy
from dynlib.cost.interval import Interval, interval, wilson
from dynlib.cost.measure import timed
from dynlib.inputs import check_tensor, check_whole

SLACK = 0.01  # a knob may come back by so much: what a layer chooses changes what the next one sees


def calibrate(
    run: Callable[[Any, Any], Any],
    knobs: Sequence[Any],
    batches: Sequence[tuple[Any, Tensor]],
    *,
    quality: Callable[[Any, Tensor], Tensor] | None = None,
    dense: Callable[[Any], Any] | None = None,
    ordered: bool = True,
    repeats: int = 7,
    joules: bool = True,
    name: str = "",
) -> CostCurve:
    """Turn a knob through its values on held-out data, and measure what each costs and what it is worth.

    FLOPs are counted on all batches. Seconds are measured on the largest batch, all knobs in turn so that the machine's
    drift meets them alike: they are a request's share of a batch, and one that comes alone takes longer. Joules are
    those of the largest batches, too: read from a counter where the machine has one, else modelled from FLOPs and bytes
    (:func:`dynlib.cost.estimate_energy`). Nothing is trained, and no gradient is taken. Interrupt it and nothing is
    left half done.

    Args:
        run: ``run(knob, inputs)``, the mechanism at one value of its knob.
        knobs: values in the order of their cost, rising or falling.
        batches: pairs of inputs and targets ``[requests]``; of one request each, where the *dearest* request is to be
            known and not the dearest batch.
        quality: ``quality(outputs, targets)``, a number a request, larger is better; if left out, whether the largest
            of the outputs' last dimension is the target.
        dense: ``dense(inputs)``, the model without the mechanism; if left out, the dearest point stands for it.
        ordered: costs must rise or fall along the knobs. False for what is no line: pairs of two knobs.
        repeats: rounds of the clock; 0 measures no seconds.
        joules: False measures none.
        name: of the mechanism.

    Raises:
        ValueError: if there are no knobs or no batches, a batch has no requests, a quality is not finite or not one
            number a request, or the costs go up and down along the knobs.
    """
    check_whole("repeats", repeats, least=0)
    if len(knobs) == 0:
        raise ValueError("there are no knobs to try: give at least one value")
    if len(batches) == 0 or any(len(targets) == 0 for _, targets in batches):
        raise ValueError("there is nothing to calibrate on: give at least one batch, and requests in each")
    judge = _right if quality is None else quality
    runs: list[tuple[Any, Callable[[Any], Any]]] = [(knob, partial(run, knob)) for knob in knobs]
    if dense is not None:
        runs.append((None, dense))
    steps = len(runs) * (1 + (repeats + 1) * (repeats > 0))  # each is counted; if there is a clock, warmed up and timed
    with torch.no_grad(), tqdm(total=steps, desc=f"calibrating {name}".strip(), leave=False) as bar:
        counted = []
        for _, one in runs:
            counted.append(_measured(one, batches, judge))
            bar.update()
        if ordered:
            _check_order(knobs, [flops for flops, *_ in counted[: len(knobs)]])
        inputs, targets = _largest(batches)
        seconds: list[float | None] = [None] * len(runs)
        if repeats:
            took = timed(*(partial(one, inputs) for _, one in runs), repeats=repeats, warmup=1, each=bar.update)
            seconds = [one / len(targets) for one in took.seconds]
        energies, source = _energies([one for _, one in runs], batches, [cost for *_, cost in counted], joules)
    points = [
        Point(knob, flops, second, energy, worth, most)
        for (knob, _), (flops, most, worth, _), second, energy in zip(runs, counted, seconds, energies, strict=True)
    ]
    last = points.pop() if dense is not None else None
    return CostCurve(points, dense=last, name=name, energy=source)


def _measured(
    run: Callable[[Any], Any], batches: Sequence[tuple[Any, Tensor]], judge: Callable[[Any, Tensor], Tensor]
) -> tuple[float, float, Interval, Cost]:
    """FLOPs a request, those of the dearest batch over them, the quality, and the cost of the largest batches."""
    costs, worth, each = [], [], []
    for inputs, targets in batches:
        said: list[Any] = []
        costs.append(count(lambda: said.append(run(inputs))))  # noqa: B023, it is called at once
        each.append(costs[-1].flops / len(targets))
        quality = judge(said[0], targets)
        check_tensor(quality, "the quality")
        if quality.shape != targets.shape[:1]:
            raise ValueError(
                f"the quality must be one number a request, [{len(targets)}]; got the shape {tuple(quality.shape)}"
            )
        worth.append(quality.detach().double().cpu())
    all_ = torch.cat(worth)
    if not all_.isfinite().all():
        raise ValueError("a quality is NaN or infinite: look at what the model gives, or at how it is judged")
    mean = sum(cost.flops for cost in costs) / len(all_)
    if judge is _right:
        spread = wilson(int(all_.sum()), len(all_))
    else:
        middle = all_.mean().item()
        spread = interval(all_) if len(all_) > 1 else Interval(middle, middle, middle)
    first, *others = [one for one, (_, targets) in zip(costs, batches, strict=True) if len(targets) == _most(batches)]
    return mean, max(each) / mean if mean else 1.0, spread, sum(others, first)


def _energies(
    runs: list[Callable[[Any], Any]], batches: Sequence[tuple[Any, Tensor]], costs: list[Cost], wanted: bool
) -> tuple[list[float | None], str]:
    if not wanted:
        return [None] * len(runs), "not measured"
    inputs, targets = _largest(batches)
    first = estimate_energy(runs[0], inputs)
    if first.source.startswith("measured"):
        read = [first, *(estimate_energy(one, inputs) for one in runs[1:])]
        return [one.joules / len(targets) for one in read], first.source
    requests = sum(len(some) for _, some in batches if len(some) == len(targets))
    return [estimate_energy(cost).joules / requests for cost in costs], first.source


def _largest(batches: Sequence[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    return next(batch for batch in batches if len(batch[1]) == _most(batches))


def _most(batches: Sequence[tuple[Any, Tensor]]) -> int:
    return max(len(targets) for _, targets in batches)


def _right(outputs: Any, targets: Tensor) -> Tensor:
    check_tensor(outputs, "what the mechanism gives")
    if outputs.ndim < 2 or outputs.shape[:-1] != targets.shape:
        raise ValueError(
            f"to be judged by its largest, the outputs must be [{len(targets)}, classes]; got "
            f"{list(outputs.shape)}: give quality=… for another kind"
        )
    return (outputs.argmax(-1) == targets).double()


def _check_order(knobs: Sequence[Any], flops: list[float]) -> None:
    rises = flops[-1] >= flops[0]
    for (one, before), (other, after) in pairwise(zip(knobs, flops, strict=True)):
        if (before - after if rises else after - before) > SLACK * max(flops):
            raise ValueError(
                f"the cost goes up and down along the knobs: {before:.4g} FLOPs at {one!r} and {after:.4g} at "
                f"{other!r}, though from {knobs[0]!r} to {knobs[-1]!r} it {'rises' if rises else 'falls'}. Give them "
                "in the order of their cost, or ordered=False where there is none"
            )
