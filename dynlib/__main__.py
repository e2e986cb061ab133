"""What a budget buys: ``python -m dynlib budget digits_vit --mechanism early_exit --share 50%``.

Measures a mechanism of the zoo at each value of its knob, prints the curve and the plan for a budget, and then spends
the budget on a stream of requests while you look on. The budget is a share of the dense FLOPs, seconds for a request,
joules for all requests, or a share of a battery.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from dynlib.cost import Budget, CostCurve, Governor, count
from dynlib.mechanisms import MECHANISMS, Mechanism, mechanism

SUPPLIES = Path("/sys/class/power_supply")
"""Where Linux keeps what it knows of batteries."""
PHONE = 15.0
"""Watt-hours of a phone's battery, about; for a machine that says nothing of its own."""


class Battery(NamedTuple):
    """What a full battery holds, and who says so."""

    watt_hours: float
    source: str


def battery(supplies: Path = SUPPLIES) -> Battery:
    """This machine's, where it has one that tells; else that of a phone, as a model."""
    for place in sorted(supplies.glob("*")):
        try:
            if (place / "type").read_text().strip() != "Battery":
                continue
            if (place / "energy_full").exists():
                return Battery(int((place / "energy_full").read_text()) * 1e-6, f"read from {place}")
            charge, voltage = (int((place / name).read_text()) * 1e-6 for name in ("charge_full", "voltage_now"))
            return Battery(charge * voltage, f"read from {place}")
        except (OSError, ValueError):
            continue
    return Battery(PHONE, "a phone's, as no battery is seen here")


def percent(said: str) -> float:
    """``"3%"`` and ``"0.03"`` are 0.03."""
    try:
        value = float(said.removesuffix("%")) / (100 if said.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{said!r} is no share: say 3% or 0.03")
    return value


def show(curve: CostCurve, knob: str) -> None:
    """The curve as a table."""
    print(f"\n{knob:>12} {'of the FLOPs':>13} {'of the time':>12} {'joules':>10} {'right':>22}")
    for point in (*curve.points, curve.dense):
        name = "dense" if point is curve.dense and point.knob is None else f"{point.knob:g}"
        quality = f"{point.quality.mean:.1%} ({point.quality.low:.1%} – {point.quality.high:.1%})"
        print(
            f"{name:>12} {curve.share(point):>13.1%} {curve.share(point, 'seconds'):>12.1%} "
            f"{point.cost('joules'):>10.3g} {quality:>22}"
        )


def plan(curve: CostCurve, budget: Budget, knob: str) -> None:
    """What the budget buys, in words."""
    point, mix = budget.point(curve), budget.mix(curve)
    unit = {"flops": "FLOPs", "seconds": "s", "joules": "J"}[budget.measure]
    print(f"\nThe budget allows {budget.limit(curve):.4g} {unit} a request.")
    print(
        f"Best single knob: {knob} {point.knob:g}, {point.cost(budget.measure):.4g} {unit}, right in "
        f"{point.quality.mean:.1%} of the requests."
    )
    if 0 < mix.share < 1:
        print(
            f"Two in turn: {knob} {mix.cheap.knob:g} for {1 - mix.share:.0%} of the requests and {mix.dear.knob:g} for "
            f"{mix.share:.0%}, right in {mix.quality:.1%}."
        )


def live(made: Mechanism, curve: CostCurve, budget: Budget, number: int) -> None:
    """Spend the budget of ``number`` requests on as many, one by one, under the governor."""
    whole = budget.limit(curve) * number
    governor = Governor(curve, whole, expected=number, measure=budget.measure, clump=1)
    right, used = 0, dict.fromkeys((point.knob for point in curve.points), 0)
    print(f"\n{number} requests, one by one, of a budget of {whole:.4g} {budget.measure}:")
    with torch.no_grad(), tqdm(made.requests(number, 1), unit="request") as bar:
        for place, (inputs, targets) in enumerate(bar):
            point = governor.choose(place / number)
            if point is None:
                continue
            said = []
            # what this one took: its counted FLOPs, in the budget's unit at the rate of its point
            flops = count(lambda: said.append(made.run(point.knob, inputs))).flops  # noqa: B023, called at once
            governor.spend(point.cost(budget.measure) * flops / point.flops)
            right += int((said[0].argmax(-1) == targets).sum())
            used[point.knob] += 1
            bar.set_postfix_str(f"{governor.left / whole:.0%} left, {right / (place + 1):.0%} right")
    often = ", ".join(f"{knob:g} for {times}" for knob, times in used.items() if times)
    print(
        f"{right / number:.1%} right with {governor.spent / whole:.1%} of the budget; {governor.refused} refused; "
        f"{made.knob} {often}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m dynlib", description=__doc__.split("\n\n")[1])
    told = parser.add_subparsers(dest="what", required=True).add_parser("budget", help="what a budget buys")
    told.add_argument("backbone", choices=tuple(MECHANISMS))
    told.add_argument("--mechanism", help="; ".join(f"{one}: {', '.join(some)}" for one, some in MECHANISMS.items()))
    which = told.add_mutually_exclusive_group(required=True)
    which.add_argument("--share", type=percent, help="of the dense FLOPs: 50%%")
    which.add_argument("--seconds", type=float, help="a request")
    which.add_argument("--joules", type=float, help="for all requests")
    which.add_argument("--battery", type=percent, help="a share of a full battery, for all requests: 3%%")
    told.add_argument("--watt-hours", type=float, help="what the battery holds; read from the machine if left out")
    told.add_argument("--requests", type=int, default=300, help="how many the budget is for, and are run (300)")
    told.add_argument("--count", type=int, default=1000, help="held-out requests to calibrate on (1000)")
    told.add_argument("--curve", type=Path, help="a JSON file: read if it is there, else written")
    given = parser.parse_args(arguments)
    try:
        _budget(given)
    except ValueError as error:
        sys.exit(f"{error}.")


def _budget(given: argparse.Namespace) -> None:
    made = mechanism(given.backbone, given.mechanism or next(iter(MECHANISMS[given.backbone])))
    if given.battery is not None:
        cell = battery() if given.watt_hours is None else Battery(given.watt_hours, "as you said")
        budget = Budget.battery(given.battery, watt_hours=cell.watt_hours, requests=given.requests)
        print(f"The battery holds {cell.watt_hours:.3g} Wh ({cell.source}); the budget is {budget.joules:.4g} J.")
    elif given.joules is not None:
        budget = Budget(joules=given.joules, requests=given.requests)
    else:
        budget = Budget(share=given.share, seconds=given.seconds)
    if given.curve is not None and given.curve.exists():
        curve = CostCurve.load(given.curve)
    else:
        curve = made.calibrate(given.count, alone=min(64, given.count))
        if given.curve is not None:
            curve.save(given.curve)
    print(f"{made.name} on {made.backbone}. Energy is {curve.energy}.")
    show(curve, made.knob)
    plan(curve, budget, made.knob)
    live(made, curve, budget, given.requests)


if __name__ == "__main__":
    main()
