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

from dynlib.cost import Budget, CostCurve, Governor, Point, count
from dynlib.cost.curve import Measure
from dynlib.inputs import check_whole
from dynlib.mechanisms import MECHANISMS, Mechanism, mechanism, named, title

SUPPLIES = Path("/sys/class/power_supply")
"""Where Linux keeps what it knows of batteries."""
PHONE = 15.0
"""Watt-hours of a phone's battery, about; for a machine that says nothing of its own."""
TRIAL = 100
"""Requests on which all pairs of two knobs are tried, before the best of each cost are measured."""


UNITS = {"flops": "FLOPs", "seconds": "s", "joules": "J"}


class Battery(NamedTuple):
    """What a full battery holds, and who says so."""

    watt_hours: float
    source: str


def battery(supplies: Path = SUPPLIES) -> Battery:
    """This machine's, where it has one that tells; else that of a phone, as a model."""
    found = dict[str, float]()
    for place in sorted(supplies.glob("*")):
        try:
            if (place / "type").read_text().strip() != "Battery":
                continue
            if (place / "energy_full").exists():
                holds = int((place / "energy_full").read_text()) * 1e-6
            else:
                charge, voltage = (int((place / name).read_text()) * 1e-6 for name in ("charge_full", "voltage_now"))
                holds = charge * voltage
        except (OSError, ValueError):
            continue
        if holds > 0:
            found[str(place)] = holds
    if found:
        return Battery(sum(found.values()), f"read from {' and '.join(found)}")
    return Battery(PHONE, "a phone's, as no battery is seen here")


def percent(said: str) -> float:
    """``"3%"`` and ``"0.03"`` are 0.03."""
    try:
        value = float(said.removesuffix("%")) / (100 if said.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{said!r} is no share: say 3% or 0.03")
    if value > 1 and not said.endswith("%"):
        raise argparse.ArgumentTypeError(f"{said!r} would be {value:.0%}: say {said}% or {value / 100:g}")
    return value


def show(curve: CostCurve, knob: str, worth: str = "right") -> None:
    """The curve as a table; "–" for what was not measured."""

    def cell(point: Point, measure: Measure, form: str) -> str:
        cost, whole = getattr(point, measure), getattr(curve.dense, measure)
        if cost is None or whole is None:
            return "–"
        return format(cost / whole if form.endswith("%") else cost, form)

    names = ["dense" if point.knob is None else named(point.knob) for point in (*curve.points, curve.dense)]
    wide = max(12, len(knob), *map(len, names))
    print(f"\n{knob:>{wide}} {'of the FLOPs':>13} {'of the time':>12} {'joules':>10} {worth:>22}")
    for name, point in zip(names, (*curve.points, curve.dense), strict=True):
        quality = f"{point.quality.mean:.1%} ({point.quality.low:.1%} – {point.quality.high:.1%})"
        print(
            f"{name:>{wide}} {cell(point, 'flops', '.1%'):>13} {cell(point, 'seconds', '.1%'):>12} "
            f"{cell(point, 'joules', '.3g'):>10} {quality:>22}"
        )


def plan(curve: CostCurve, budget: Budget, knob: str, worth: str = "right") -> None:
    """What the budget buys, in words."""
    point, mix = budget.point(curve), budget.mix(curve)
    unit = UNITS[budget.measure]
    print(f"\nThe budget allows {budget.limit(curve):.4g} {unit} a request.")
    print(
        f"Best single setting: {knob} {named(point.knob)}, {point.cost(budget.measure):.4g} {unit}, "
        f"{point.quality.mean:.1%} {worth}."
    )
    if 0 < mix.share < 1:
        print(
            f"Two in turn: {knob} {named(mix.cheap.knob)} for {1 - mix.share:.1%} of the requests and "
            f"{named(mix.dear.knob)} for {mix.share:.1%}, {mix.quality:.1%} {worth}."
        )


def live(made: Mechanism, curve: CostCurve, budget: Budget, number: int) -> None:
    """Spend the budget of ``number`` requests on as many, one by one, under the governor."""
    whole = budget.limit(curve) * number * (1 + 1e-9)  # so that rounding does not take a knob away
    # how many come is known here: the forecast is sharp, and this one is no longer to come
    governor = Governor(curve, whole, expected=number, spread=0.01, clump=1, caution=0, measure=budget.measure)
    worth, used = 0.0, dict.fromkeys((point.knob for point in curve.points), 0)
    unit = UNITS[budget.measure]
    print(
        f"\n{number} requests, one by one, of a budget of {whole:.4g} {unit}. What one takes is its counted FLOPs",
        end="",
    )
    print("." if unit == "FLOPs" else f", at the {unit} that its knob's FLOPs take in the table: no clock, no counter.")
    with torch.no_grad(), tqdm(made.requests(number, 1, 3), unit="request") as bar:
        for place, (inputs, targets) in enumerate(bar):
            point = governor.choose((place + 1) / number)
            if point is None:
                continue
            said = []
            flops = count(lambda: said.append(made.run(point.knob, inputs))).flops  # noqa: B023, called at once
            governor.spend(point.cost(budget.measure) * flops / point.flops)
            worth += made.judge(said[0], targets).sum().item()
            used[point.knob] += 1
            bar.set_postfix_str(f"{governor.left / whole:.0%} left, {worth / (place + 1):.0%} {made.worth}")
    often = ", ".join(f"{named(knob)} for {times}" for knob, times in used.items() if times)
    print(
        f"{worth / number:.1%} {made.worth} with {governor.spent / whole:.1%} of the budget; {governor.refused} "
        f"refused; {made.knob} {often or 'of none'}."
    )
    if governor.left < 0:
        print("More was spent than there was: a request took more than any that the curve was measured on.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m dynlib", description=__doc__.split("\n\n")[1])
    told = parser.add_subparsers(dest="what", required=True).add_parser("budget", help="what a budget buys")
    told.add_argument("backbone", choices=tuple(MECHANISMS))
    told.add_argument("--mechanism", help="; ".join(f"{one}: {', '.join(some)}" for one, some in MECHANISMS.items()))
    which = told.add_mutually_exclusive_group(required=True)
    which.add_argument("--share", type=percent, help="of the dense FLOPs: 50%%")
    which.add_argument("--seconds", type=float, help="a request, as its share of a batch")
    which.add_argument("--joules", type=float, help="for all requests")
    which.add_argument("--battery", type=percent, help="a share of a full battery, for all requests: 3%%")
    told.add_argument("--watt-hours", type=float, help="what the battery holds; read from the machine if left out")
    told.add_argument("--requests", type=int, default=300, help="how many the budget is for, and are run (300)")
    told.add_argument("--count", type=int, default=1000, help="held-out requests to calibrate on (1000)")
    told.add_argument("--curve", type=Path, help="a JSON file: read if it is there, else written")
    given = parser.parse_args(arguments)
    try:
        _budget(given)
    except (ValueError, OSError) as error:
        sys.exit(f"{error}.")


def _budget(given: argparse.Namespace) -> None:
    check_whole("--requests", given.requests, least=1)
    check_whole("--count", given.count, least=1)
    if given.watt_hours is not None and given.battery is None:
        raise ValueError("--watt-hours says what the battery holds: name the share of it that may go, --battery 3%")
    if given.curve is not None and not given.curve.resolve().parent.is_dir():
        raise ValueError(f"there is no folder {given.curve.resolve().parent} to keep the curve in: make it first")
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
        if curve.name != title(made) or not {point.knob for point in curve.points} <= set(made.knobs):
            raise ValueError(
                f"{given.curve} is the curve of {curve.name or 'something else'}, not of {title(made)} at its knobs: "
                "name another file, or take this one away"
            )
        print(f"The curve is read from {given.curve}.")
    else:
        each = f"{given.count} held-out requests at each of {len(made.knobs)} knobs"
        if made.pair:
            each = f"{TRIAL} requests at each of {len(made.knobs)} pairs, then {given.count} at the best of each cost"
        print(f"Measuring {title(made)}: {each}. --count takes fewer, and --curve keeps what comes out.", flush=True)
        curve = made.calibrate(given.count, **({"trial": TRIAL, "alone": 32, "repeats": 3} if made.pair else {}))
        if given.curve is not None:
            curve.save(given.curve)
    print(f"{title(made)}. Energy is {curve.energy}.")
    show(curve, made.knob, made.worth)
    plan(curve, budget, made.knob, made.worth)
    live(made, curve, budget, given.requests)


if __name__ == "__main__":
    main()
