"""Every mechanism of the course on trained models, its cost curve and its trivial rival's; written to a JSON file.

``python -m benchmarks.one_budget_study`` turns the knob of each entry of :mod:`dynlib.mechanisms` through its values,
on as many held-out requests for all that share a backbone, and measures two pairs of mechanisms in one model. Nothing
is trained. Interrupt and call it again to resume.

"curves" are rows, one an entry of the registry, mechanisms and rivals alike:

- ``backbone``, ``mechanism``; ``rival``, the name of the trivial one on the same backbone or null; ``is rival``,
  whether it is somebody's;
- ``knob``, what the knob is called; ``worth``, what the quality is ("right": the share of right answers);
- ``requests``, how many were held out;
- ``curve``, a :class:`dynlib.cost.CostCurve` as ``CostCurve.of(row["curve"])`` reads it: FLOPs counted, seconds
  measured, joules modelled or read (its ``energy`` says which), quality with its 95 % interval.

"against" are rows, one a mechanism that has a rival: ``gaps``, for some shares of the dense FLOPs, by how much more its
hull is worth there than the rival's on the same requests, as [estimate, low, high] of a bootstrap over them; null where
one of the two has no knob that costs so little.

"combinations" are rows, one a pair of mechanisms in one model:

- ``backbone``, ``mechanism``, ``knob``, ``worth``, ``requests`` as above; ``names``, of the two; ``full``, the pair of
  values at which neither saves anything;
- ``curve``, all pairs of values; the points at which one of the two is full are those of the other one alone, and
  ``singles`` are these two curves;
- ``multiply``, a row for each quality that was asked for: ``lost``, how much less than at ``full``; ``quality``;
  ``shares``, of the FLOPs at ``full``, the least at which each single one reaches it; ``product``, of the two;
  ``pair``, the least share of the pair; ``best single``, the smaller of the two. Then, as [estimate, low, high] of a
  bootstrap over the held-out requests, ``pair less product`` and ``pair over best single``. Shares are read on the
  concave hull of a curve: two values in turn reach what lies between them. The pair has more values to choose from than
  each alone, and is judged on the requests that it was chosen on, so that its share comes out a little too small.
"""

import argparse
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.study import Results, head
from dynlib.cost import CostCurve, count
from dynlib.cost.curve import Point
from dynlib.cost.interval import Interval, wilson
from dynlib.mechanisms import Mechanism, mechanism, mechanisms

RESULTS = Path(__file__).with_suffix(".json")
REQUESTS: dict[str, tuple[int, int]] = {
    "digits_vit": (1000, 100),
    "topics_lm": (400, 50),
    "topics_small": (400, 50),
    "looped_regression": (200, 50),
    "looped_chains": (200, 50),
    "needles_colt5": (200, 50),
    "sudoku6": (120, 30),
}
"""Held-out ones, for all on a backbone, and how many of them in a batch; beside them a few that come alone."""
ALONE, REPEATS = 4, 2
PAIRS = {"digits_vit": "early_exit_acm", "topics_lm": "matformer_mod"}
BATCHES = {"digits_vit": (50, 20), "topics_lm": (40, 20)}
"""Of the pairs: so many batches of so many requests; the bootstrap draws batches."""
LOST = (0.0, 0.01, 0.02, 0.04)
DRAWS = 2000
SHARES = (0.5, 0.75)
"""Of the dense FLOPs, at which a mechanism is held against its rival."""


def curve(backbone: str, name: str) -> dict[str, Any]:
    """An entry of the registry and its curve."""
    made = mechanism(backbone, name)
    requests, size = REQUESTS[backbone]
    found = made.calibrate(requests, size=size, alone=ALONE, repeats=REPEATS)
    return {
        "rival": made.rival,
        "is rival": name in rivals(backbone),
        "knob": made.knob,
        "worth": made.worth,
        "requests": requests + ALONE,
        "curve": found.plain(),
    }


@cache
def rivals(backbone: str) -> set[str | None]:
    """The trivial ones on a backbone."""
    return {mechanism(backbone, name).rival for name in mechanisms(backbone) if PAIRS.get(backbone) != name}


@torch.no_grad()
def table(made: Mechanism, batches: int, size: int) -> tuple[Tensor, Tensor]:
    """FLOPs a request, [knobs and the dense model, batches], and the quality of each request, [the same, requests]."""
    parts = made.requests(batches * size, size, 1)
    runs = [*(partial(made.run, knob) for knob in made.knobs), made.dense]
    flops = torch.zeros(len(runs), len(parts), dtype=torch.float64)
    worth = torch.zeros(len(runs), len(parts), size, dtype=torch.float64)
    for row, run in enumerate(tqdm(runs, desc=made.name, leave=False)):
        for column, (inputs, targets) in enumerate(parts):
            said: list[Tensor] = []
            flops[row, column] = count(lambda: said.append(run(inputs))).flops / size  # noqa: B023, called at once
            worth[row, column] = made.judge(said[0], targets)
    return flops, worth.flatten(1)


def against(backbone: str, name: str) -> dict[str, Any]:
    """A mechanism against its rival at equal FLOPs, on the same requests."""
    made = mechanism(backbone, name)
    assert made.rival is not None
    pair = made, mechanism(backbone, made.rival)
    requests, size = REQUESTS[backbone]
    tables = [table(one, requests // size, size) for one in pair]
    return {"rival": made.rival, "worth": made.worth, "gaps": gaps(tables[0], tables[1])}


def gaps(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> dict[str, list[float] | None]:
    """At each share of the dense FLOPs, how much more our hull is worth than theirs.

    Args:
        ours, theirs: FLOPs and quality, as :func:`table` gives them, of the same requests.
    """
    dense = ours[0][-1].mean().item()
    requests = ours[1].shape[1]
    draws = torch.randint(requests, (DRAWS, requests), generator=torch.Generator().manual_seed(0))
    found: dict[str, list[float] | None] = {}
    for share in SHARES:
        # a knob is as dear as it was on all requests: what is drawn says how much its worth varies
        costs = [flops[:-1].mean(1) for flops, _ in (ours, theirs)]
        if max(cost.min().item() for cost in costs) > share * dense:
            found[f"{share:g}"] = None
            continue
        each = []
        for some in (torch.arange(requests), *draws):
            mine, other = (
                _plain_curve(cost, worth[:-1, some].mean(1)).quality(share * dense)
                for cost, (_, worth) in zip(costs, (ours, theirs), strict=True)
            )
            each.append(mine - other)
        found[f"{share:g}"] = _spread(each)
    return found


def combination(backbone: str) -> dict[str, Any]:
    """Two mechanisms in one model: all pairs of their knobs, each alone, and whether what they save multiplies."""
    made = mechanism(backbone, PAIRS[backbone])
    batches, size = BATCHES[backbone]
    flops, each = table(made, batches, size)
    worth = each.unflatten(1, (batches, size)).mean(2)
    full = made.knobs[-1]
    whole = _curve(made, made.knobs, flops, worth, size)
    alone = [_of(made.knobs, full, which) for which in (0, 1)]
    return {
        "mechanism": made.name,
        "knob": made.knob,
        "names": made.knob.split(", "),
        "worth": made.worth,
        "requests": batches * size,
        "full": full,
        "curve": whole.plain(),
        "singles": [
            CostCurve([whole.points[place] for place in some], dense=whole.dense, name=name).plain()
            for some, name in zip(alone, made.knob.split(", "), strict=True)
        ],
        "multiply": multiply(flops[:-1], worth[:-1], alone),
    }


def _of(knobs: Sequence[tuple[Any, Any]], full: tuple[Any, Any], which: int) -> list[int]:
    """The places of the pairs in which only one of the two saves anything."""
    return [place for place, pair in enumerate(knobs) if pair[1 - which] == full[1 - which]]


def _curve(made: Mechanism, knobs: Sequence[Any], flops: Tensor, worth: Tensor, size: int) -> CostCurve:
    requests = worth.shape[1] * size

    def point(knob: Any, row: int) -> Point:
        mean = flops[row].mean().item()
        hits = round(worth[row].sum().item() * size)
        return Point(knob, mean, None, None, wilson(hits, requests), flops[row].max().item() / mean)

    points = [point(knob, row) for row, knob in enumerate(knobs)]
    return CostCurve(points, dense=point(None, len(knobs)), name=made.name)


def multiply(flops: Tensor, worth: Tensor, alone: list[list[int]]) -> list[dict[str, Any]]:
    """At each quality, the shares that each knob alone needs, their product, and what the pair needs.

    Args:
        flops, worth: [knobs, batches]; the last knob is the full one.
        alone: which knobs are those of each single mechanism.
    """
    draws = torch.randint(flops.shape[1], (DRAWS, flops.shape[1]), generator=torch.Generator().manual_seed(0))
    means = [(flops.mean(1), worth.mean(1)), *((flops[:, some].mean(1), worth[:, some].mean(1)) for some in draws)]
    rows = []
    for lost in LOST:
        each = [_shares(cost, value, alone, lost) for cost, value in means]
        first, second, pair = each[0]
        rows.append(
            {
                "lost": lost,
                "quality": worth[-1].mean().item() - lost,
                "shares": [first, second],
                "product": first * second,
                "pair": pair,
                "best single": min(first, second),
                "pair less product": _spread([c - a * b for a, b, c in each]),
                "pair over best single": _spread([c / min(a, b) for a, b, c in each]),
            }
        )
    return rows


def _shares(flops: Tensor, worth: Tensor, alone: list[list[int]], lost: float) -> tuple[float, float, float]:
    """The least shares of the full FLOPs with which each single mechanism, and the pair, reach the quality."""
    wanted = worth[-1].item() - lost
    first, second, pair = (least(flops[some], worth[some], wanted) for some in (*alone, list(range(len(flops)))))
    whole = flops[-1].item()
    return first / whole, second / whole, pair / whole


def least(flops: Tensor, worth: Tensor, wanted: float) -> float:
    """The least FLOPs on the concave hull of some points with which a quality is reached.

    Raises:
        ValueError: if none of them reaches it.
    """
    hull = _plain_curve(flops, worth).hull()
    for place, point in enumerate(hull):
        if point.quality.mean >= wanted:
            if place == 0:
                return point.flops
            before = hull[place - 1]
            way = (wanted - before.quality.mean) / (point.quality.mean - before.quality.mean)
            return before.flops + way * (point.flops - before.flops)
    raise ValueError(f"no knob reaches {wanted:.4g}: the best has {hull[-1].quality.mean:.4g}")


def _plain_curve(flops: Tensor, worth: Tensor) -> CostCurve:
    """Of points without an interval, by their places."""
    return CostCurve(
        [
            Point(place, cost, None, None, Interval(value, value, value), 1.0)
            for place, (cost, value) in enumerate(zip(flops.tolist(), worth.tolist(), strict=True))
        ]
    )


def _spread(values: list[float]) -> list[float]:
    """What was measured, and the middle 95 % of the bootstrap."""
    estimate, *drawn = values
    low, high = torch.tensor(drawn).double().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return [estimate, low, high]


def main() -> None:
    """Run everything and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_budget_study", description=__doc__)
    parser.add_argument("--again", nargs="*", default=[], help="mechanisms to measure again: their weights are new")
    parser.add_argument("--only", nargs="*", default=list(REQUESTS), help="backbones to measure now")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {
        "requests": REQUESTS,
        "alone": ALONE,
        "repeats": REPEATS,
        "pairs": BATCHES,
        "draws": DRAWS,
    }
    results = Results(RESULTS, {**head("one_budget_study"), "settings": settings}, digits=10)
    for part in ("curves", "against", "combinations"):
        kept = [row for row in results.found.get(part, []) if row["mechanism"] not in options.again]
        if part in results.found:
            results.found[part] = kept
    entries = [
        {"backbone": backbone, "mechanism": name}
        for backbone in options.only
        for name in mechanisms(backbone)
        if PAIRS.get(backbone) != name
    ]
    rows = results.sweep(entries, lambda backbone, mechanism: curve(backbone, mechanism), name="curves")
    of_rivals = {(row["backbone"], row["mechanism"]) for row in rows if row["rival"] is not None}
    with_rivals = [entry for entry in entries if (entry["backbone"], entry["mechanism"]) in of_rivals]
    results.sweep(with_rivals, lambda backbone, mechanism: against(backbone, mechanism), name="against")
    results.sweep(
        [{"backbone": backbone} for backbone in PAIRS if backbone in options.only], combination, name="combinations"
    )


if __name__ == "__main__":
    main()
