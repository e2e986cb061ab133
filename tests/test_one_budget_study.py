"""The study of one budget: how it reads curves and combinations, and that its file is whole."""

import json
from itertools import pairwise, product
from typing import Any

import pytest
import torch

from benchmarks import one_budget_study as study
from dynlib.cost import CostCurve
from dynlib.mechanisms import MECHANISMS, mechanism

MADE: dict[str, Any] = json.loads(study.RESULTS.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "DRAWS", 100)


def test_the_least_cost_of_a_quality_lies_on_the_hull() -> None:
    flops, worth = torch.tensor([10.0, 20.0, 40.0, 30.0]), torch.tensor([0.2, 0.6, 0.8, 0.5])
    assert study.least(flops, worth, 0.1) == 10
    assert study.least(flops, worth, 0.4) == pytest.approx(15)
    assert study.least(flops, worth, 0.6) == pytest.approx(20)
    assert study.least(flops, worth, 0.7) == pytest.approx(30)
    assert study.least(flops, worth, 0.8) == pytest.approx(40)
    with pytest.raises(ValueError, match=r"no knob reaches 0.81: the best has 0.8"):
        study.least(flops, worth, 0.81)


def made_up(quality: Any, batches: int = 200) -> list[dict[str, Any]]:
    """Two knobs whose costs multiply, 1/4, 1/2 and 1 each, and what a pair of them is worth."""
    values = (0.25, 0.5, 1.0)
    pairs = list(product(values, values))
    noise = torch.rand(batches, generator=torch.Generator().manual_seed(0)).double() * 0.2  # that of a batch
    flops = torch.tensor([[100.0 * a * b] for a, b in pairs]).double().expand(-1, batches)
    worth = torch.stack([quality(a, b) + noise for a, b in pairs])
    alone = [[place for place, pair in enumerate(pairs) if pair[1 - which] == 1] for which in (0, 1)]
    assert alone == [study._of(pairs, (1.0, 1.0), which) for which in (0, 1)]
    return study.multiply(flops, worth, alone)


def test_savings_that_cost_nothing_multiply() -> None:
    for row in made_up(lambda a, b: 0.5):
        assert row["shares"] == [0.25, 0.25]
        assert row["product"] == pytest.approx(0.0625)
        assert row["pair less product"] == pytest.approx([0, 0, 0], abs=1e-9)
        assert row["pair over best single"] == pytest.approx([0.25] * 3)


def test_where_only_the_second_is_worth_its_cost_the_pair_is_the_first_alone() -> None:
    rows = made_up(lambda a, b: 0.5 * b)
    for row in rows:
        assert row["shares"][0] == 0.25
        assert row["shares"][1] == pytest.approx(1 - row["lost"] / 0.25 / 2)
        assert row["pair"] == pytest.approx(0.25 * row["shares"][1])
    assert [row["lost"] for row in rows] == list(study.LOST)


def test_the_interval_is_that_of_the_requests_and_holds_the_estimate() -> None:
    generator = torch.Generator().manual_seed(1)
    flops = torch.tensor([[10.0], [40.0], [30.0], [100.0]]).double().expand(-1, 50)
    sure = torch.tensor([[0.5], [0.75], [0.7], [0.8]])
    worth = (torch.rand(4, 50, 20, generator=generator) < sure[..., None]).double().mean(-1)
    for row in study.multiply(flops, worth, [[1, 3], [2, 3]]):
        for key in ("pair less product", "pair over best single"):
            estimate, low, high = row[key]
            assert low <= estimate <= high
        assert row["pair over best single"][0] <= 1 + 1e-9, "the pair may leave one of the two alone"


def test_the_gap_to_a_rival_is_read_on_both_hulls_and_is_that_of_the_same_requests() -> None:
    generator = torch.Generator().manual_seed(2)
    hard = torch.rand(400, generator=generator)
    flops = torch.tensor([[20.0], [60.0], [100.0], [100.0]]).double().expand(-1, 400)
    worth = torch.stack([(hard < bar).double() for bar in (0.2, 0.6, 0.9, 0.9)])
    same = study.gaps((flops, worth), (flops, worth))
    assert same == {"0.5": [0, 0, 0], "0.75": [0, 0, 0]}
    better = torch.stack([(hard < bar).double() for bar in (0.3, 0.7, 0.9, 0.9)])
    found = study.gaps((flops, better), (flops, worth))["0.5"]
    assert found is not None
    estimate, low, high = found  # a quarter of the requests at 20, the others at 60
    counted = ((better - worth) * torch.tensor([[0.25], [0.75], [0], [0]])).sum(0).mean()
    assert estimate == pytest.approx(counted.item(), abs=1e-6)
    assert low < estimate < high
    assert high - low < 0.1, "requests that both read, or neither, say nothing of the gap"
    dear = torch.tensor([[60.0], [70.0], [100.0], [100.0]]).double().expand(-1, 400)
    assert study.gaps((flops, worth), (dear, worth))["0.5"] is None


@pytest.mark.parametrize("row", MADE["curves"], ids=lambda row: f"{row['backbone']}-{row['mechanism']}")
def test_the_file_has_the_curve_of_each_mechanism_at_its_knobs(row: dict[str, Any]) -> None:
    made, curve = mechanism(row["backbone"], row["mechanism"]), CostCurve.of(row["curve"])
    assert (row["rival"], row["knob"], row["worth"]) == (made.rival, made.knob, made.worth)
    assert [point.knob for point in curve.points] == pytest.approx(list(made.knobs))
    costs = [point.flops for point in curve.points]
    assert all(dear > cheap - 0.01 * max(costs) for cheap, dear in pairwise(costs)), "from the cheapest to the dearest"
    assert row["requests"] == study.REQUESTS[row["backbone"]][0] + study.ALONE
    assert all(point.seconds for point in (*curve.points, curve.dense))
    assert row["is rival"] == (row["mechanism"] in study.rivals(row["backbone"]))


def test_the_file_is_whole() -> None:
    here = {(row["backbone"], row["mechanism"]) for row in MADE["curves"]}
    pairs = {(row["backbone"], row["mechanism"]) for row in MADE["combinations"]}
    assert pairs == set(study.PAIRS.items())
    rivals = {(row["backbone"], row["mechanism"]): row["rival"] for row in MADE["curves"] if row["rival"] is not None}
    assert {(row["backbone"], row["mechanism"]): row["rival"] for row in MADE["against"]} == rivals
    assert all(set(row["gaps"]) == {f"{share:g}" for share in study.SHARES} for row in MADE["against"])
    assert here | pairs == {(backbone, name) for backbone, some in MECHANISMS.items() for name in some}


@pytest.mark.parametrize("row", MADE["combinations"], ids=lambda row: row["mechanism"])
def test_the_file_has_all_pairs_and_what_came_of_them(row: dict[str, Any]) -> None:
    made, curve = mechanism(row["backbone"], row["mechanism"]), CostCurve.of(row["curve"])
    assert [point.knob for point in curve.points] == list(made.knobs)
    singles = [CostCurve.of(one) for one in row["singles"]]
    assert all(set(one.points) < set(curve.points) for one in singles)
    assert all(one.points[-1].knob == tuple(row["full"]) == made.knobs[-1] for one in singles)
    whole = curve.points[-1]
    for found in row["multiply"]:
        assert found["quality"] == pytest.approx(whole.quality.mean - found["lost"], abs=1e-6)
        shares = [study.least(*_read(one), found["quality"] - 1e-9) / whole.flops for one in (*singles, curve)]
        assert [*found["shares"], found["pair"]] == pytest.approx(shares, abs=1e-4)
        assert found["product"] == pytest.approx(shares[0] * shares[1], abs=1e-4)


def _read(curve: CostCurve) -> tuple[torch.Tensor, torch.Tensor]:
    flops, worth = zip(*((point.flops, point.quality.mean) for point in curve.points), strict=True)
    return torch.tensor(flops, dtype=torch.float64), torch.tensor(worth, dtype=torch.float64)
