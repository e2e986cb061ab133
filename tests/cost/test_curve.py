import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.cost import CostCurve, Point, calibrate, count
from dynlib.cost.interval import Interval


def point(knob: object, flops: float, quality: float, **more: float) -> Point:
    given = {"seconds": None, "joules": None, "most": 1.0, **more}
    return Point(knob, flops, quality=Interval(quality, quality - 0.01, quality + 0.01), **given)


BENT = CostCurve([point(k, cost, q) for k, cost, q in [(1, 10, 0.2), (2, 20, 0.5), (3, 30, 0.55), (4, 40, 0.9)]])
"""Its third point lies below the line from the second to the fourth."""


class Layers(nn.Module):
    """A stack of which the first so many run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def run(self, knob: int, x: Tensor) -> Tensor:
        for layer in self.layers[:knob]:
            x = layer(x)
        return x


def batches(sizes: tuple[int, ...] = (5, 3)) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 8, generator=draw), torch.randint(8, (n,), generator=draw)) for n in sizes]


def test_flops_are_counted_and_quality_is_the_mean_over_all_requests() -> None:
    model, data = Layers(), batches()
    curve = calibrate(model.run, [1, 2, 4], data, name="depth", dense=lambda x: model.run(4, x))
    assert [one.knob for one in curve.points] == [1, 2, 4]
    assert [one.flops for one in curve.points] == [2 * 64 * k for k in (1, 2, 4)]
    for one in curve.points:
        right = torch.cat([(model.run(one.knob, x).argmax(-1) == y).double() for x, y in data])
        assert one.quality.mean == pytest.approx(right.mean().item())
        assert one.quality.low <= one.quality.mean <= one.quality.high
        assert one.seconds is not None
        assert one.joules is not None
        assert min(one.seconds, one.joules) > 0
        assert one.most == 1
    assert curve.dense.knob is None
    assert curve.share(curve.points[1]) == 0.5
    assert "50%" not in repr(curve)
    assert "25% to 100%" in repr(curve)
    assert curve.energy.startswith(("measured", "modelled"))


def test_modelled_joules_are_those_of_the_count() -> None:
    model, data = Layers(), batches()
    curve = calibrate(model.run, [1, 4], data, repeats=0)
    if curve.energy.startswith("measured"):
        pytest.skip("this machine has an energy counter")
    from dynlib.cost import estimate_energy

    with torch.no_grad():
        cost = count(model.run, 4, data[0][0])  # the larger batch
    assert curve.points[1].joules == pytest.approx(estimate_energy(cost).joules / 5)
    assert curve.points[1].seconds is None


def test_the_dearest_request_is_seen_in_batches_of_one() -> None:
    def run(knob: int, x: Tensor) -> Tensor:
        return F.linear(x.repeat(int(x[0, 0]), 1), torch.ones(knob, 8))[:1]

    data = [(torch.full((1, 8), float(n)), torch.zeros(1, dtype=torch.long)) for n in (1, 1, 4)]
    curve = calibrate(run, [3], data, repeats=0, joules=False)
    assert curve.points[0].most == 2  # 4 over the mean of 1, 1, 4
    assert curve.energy == "not measured"
    with pytest.raises(ValueError, match="joules were not measured"):
        curve.best(1.0, "joules")


def test_a_quality_of_ones_own() -> None:
    curve = calibrate(
        Layers().run, [1, 2], batches(), repeats=0, joules=False, quality=lambda out, _: -out.square().mean(-1)
    )
    assert all(one.quality.mean < 0 for one in curve.points)


@pytest.mark.parametrize(
    ("limit", "best", "mixed"),
    [(10, 1, 0.2), (19.9, 1, 0.497), (25, 2, 0.6), (30, 3, 0.7), (39, 3, 0.88), (99, 4, 0.9)],
)
def test_what_a_budget_buys(limit: float, best: int, mixed: float) -> None:
    assert BENT.best(limit).knob == best
    assert BENT.quality(limit) == pytest.approx(mixed)
    mix = BENT.mix(limit)
    assert mix.cost() == pytest.approx(min(limit, 40))
    assert mix.quality == pytest.approx(mixed)
    assert 0 <= mix.share <= 1


def test_envelope_and_hull() -> None:
    worse = CostCurve([*BENT.points, point(5, 35, 0.3), point(6, 40, 0.8)])
    assert [one.knob for one in worse.envelope()] == [1, 2, 3, 4]
    assert [one.knob for one in worse.hull()] == [1, 2, 4]


def test_the_hull_is_above_all_points_and_its_slopes_fall() -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(50):
        curve = CostCurve(
            [point(i, c, q) for i, (c, q) in enumerate(torch.rand(12, 2, generator=draw).add(0.01).tolist())]
        )
        hull = curve.hull()
        slopes = [(b.quality.mean - a.quality.mean) / (b.flops - a.flops) for a, b in pairwise(hull)]
        assert slopes == sorted(slopes, reverse=True)
        for one in curve.points:
            assert curve.quality(one.flops) >= one.quality.mean - 1e-12


def test_a_budget_that_no_knob_meets_is_told_the_least() -> None:
    with pytest.raises(ValueError, match=r"the least is 10 flops a request, at 1, 25.0% of the dense model.*was 9"):
        BENT.best(9)
    with pytest.raises(ValueError, match="the least is"):
        BENT.quality(9.99)
    with pytest.raises(ValueError, match="limit"):
        BENT.best(math.nan)


def test_it_is_saved_and_read_back(tmp_path: Path) -> None:
    curve = calibrate(Layers().run, [1, 2, 4], batches(), name="depth")
    curve.save(tmp_path / "curve.json")
    again = CostCurve.load(tmp_path / "curve.json")
    assert (again.points, again.dense, again.name, again.energy) == (
        curve.points,
        curve.dense,
        curve.name,
        curve.energy,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["curve.json"]


def test_pairs_of_two_knobs_are_kept_and_found_again(tmp_path: Path) -> None:
    def run(pair: tuple[int, str], x: Tensor) -> Tensor:
        return Layers().run(pair[0] * (2 if pair[1] == "both" else 1), x)

    knobs = [(layers, how) for layers in (1, 2) for how in ("one", "both")]
    with pytest.raises(ValueError, match=r"goes up and down.* at \(2, 'both'\)"):
        calibrate(run, [*knobs, (1, "one")], batches(), repeats=0)
    curve = calibrate(run, knobs, batches(), repeats=0, ordered=False, name="pairs")
    curve.save(tmp_path / "curve.json")
    again = CostCurve.load(tmp_path / "curve.json")
    assert again.points == curve.points
    assert {point.knob for point in again.points} == set(knobs)
    assert again.best(curve.points[0].flops).knob == (1, "one")
    assert [point.knob for point in again.envelope()] == [point.knob for point in curve.envelope()]
    assert again.hull() == curve.hull()


def test_a_curve_is_plain_data_among_others() -> None:
    kept = json.loads(json.dumps({"curves": [BENT.plain()]}))
    again = CostCurve.of(kept["curves"][0])
    assert (again.points, again.dense, again.name) == (BENT.points, BENT.dense, BENT.name)
    for other in (None, [], {}, {**BENT.plain(), "points": [{"knob": 1}]}, {**BENT.plain(), "dense": {"flops": 1.0}}):
        with pytest.raises(ValueError, match="not what a curve is made of"):
            CostCurve.of(other)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "", "energy": "", "dense": {"knob": 1}, "points": []}'])
def test_a_file_that_holds_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "curve.json").write_text(text)
    with pytest.raises(ValueError, match=r"curve.json holds no cost curve"):
        CostCurve.load(tmp_path / "curve.json")


def test_a_file_is_plain_json(tmp_path: Path) -> None:
    BENT.save(tmp_path / "curve.json")
    assert json.loads((tmp_path / "curve.json").read_text())["points"][0]["knob"] == 1


def test_it_draws_itself() -> None:
    _, axes = plt.subplots()
    BENT.plot(axes)
    (hull,) = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert list(hull.get_xdata()) == [0.25, 0.5, 1.0]
    plt.close()


def test_a_knob_whose_cost_goes_up_and_down() -> None:
    with pytest.raises(
        ValueError, match=r"goes up and down along the knobs.* at 4 .* at 2, though from 1 to 3 it rises"
    ):
        calibrate(Layers().run, [1, 4, 2, 3], batches(), repeats=0)
    curve = calibrate(Layers().run, [1, 4, 2, 3], batches(), repeats=0, ordered=False)
    assert curve.envelope()[0].knob == 1
    calibrate(Layers().run, [4, 3, 3, 1], batches(), repeats=0)  # falling, and twice the same


@pytest.mark.parametrize(
    ("knobs", "data", "says"),
    [
        ([], batches(), "no knobs"),
        ([1], [], "nothing to calibrate on"),
        ([1], batches((2, 0)), "nothing to calibrate on"),
    ],
)
def test_nothing_to_measure(knobs: list[int], data: list[tuple[Tensor, Tensor]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        calibrate(Layers().run, knobs, data)


@pytest.mark.parametrize(
    ("quality", "says"),
    [
        (lambda out, _: out.sum(-1) * math.nan, "NaN"),
        (lambda out, _: out.mean(), "one number a request"),
        (lambda out, _: 0.5, "must be a tensor"),
    ],
)
def test_a_quality_that_is_none(quality: object, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        calibrate(Layers().run, [1], batches(), quality=quality, repeats=0)


@pytest.mark.parametrize("wrong", [{"flops": 0.0}, {"joules": -1.0}, {"seconds": math.nan}, {"flops": math.inf}])
def test_a_cost_that_is_none(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        CostCurve([point(1, **{"flops": 1.0, "quality": 0.5, **wrong})])
    with pytest.raises(ValueError, match="a quality must be finite"):
        CostCurve([point(1, 1.0, math.nan)])
    with pytest.raises(ValueError, match="one point or more"):
        CostCurve([])


def test_a_points_own_share_buys_that_point() -> None:
    for cost in range(1, 60):
        curve = CostCurve([point(1, float(cost), 0.5), point(2, 60.0, 0.6)])
        share = curve.share(curve.points[0])
        assert curve.best(share * curve.dense.flops).knob == 1
        assert curve.mix(share * curve.dense.flops).share == pytest.approx(0, abs=1e-6)


def test_outputs_that_are_no_logits_are_not_judged_by_their_largest() -> None:
    data = [(torch.randn(6), torch.zeros(6, dtype=torch.long))]
    with pytest.raises(ValueError, match=r"must be \[6, classes\]; got \[6\]"):
        calibrate(lambda _, x: torch.nn.functional.linear(x[:, None], torch.ones(1, 1))[:, 0], [1], data, repeats=0)


def test_a_share_of_right_answers_has_wilsons_interval() -> None:
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(2))
    model = Layers()
    curve = calibrate(model.run, [1], [(x, model.run(1, x).argmax(-1))], repeats=0)
    quality = curve.points[0].quality
    assert (quality.mean, quality.high) == (1, 1)
    assert 0.8 < quality.low < 0.9


def test_seconds_are_a_requests_share_of_the_largest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynlib.cost import calibration as module

    calls = []

    def timed(*functions: object, **options: object) -> SimpleNamespace:
        calls.extend(functions)
        return SimpleNamespace(seconds=(1.0, 2.0))

    monkeypatch.setattr(module, "timed", timed)
    made = calibrate(Layers().run, [1, 2], batches((2, 5)), repeats=1)
    assert [one.seconds for one in made.points] == [0.2, 0.4]
    assert [len(call.args[-1]) for call in calls] == [5, 5]


def test_joules_are_those_of_the_largest_batches() -> None:
    model = Layers()
    many, both = (calibrate(model.run, [2], batches(sizes), repeats=0) for sizes in ((64, 64), (1, 1, 64, 64)))
    if many.energy.startswith("modelled"):
        assert many.points[0].joules == pytest.approx(both.points[0].joules)


def test_a_knob_may_come_back_by_a_hundredth() -> None:
    def run(knob: float, x: Tensor) -> Tensor:
        return F.linear(x, torch.ones(int(knob), 8))

    data = batches()
    calibrate(run, [100, 200, 199, 300], data, repeats=0, quality=lambda out, y: out[:, 0])
    with pytest.raises(ValueError, match="goes up and down"):
        calibrate(run, [100, 200, 195, 300], data, repeats=0, quality=lambda out, y: out[:, 0])


def test_knobs_that_no_file_can_keep(tmp_path: Path) -> None:
    for knob in (math.inf, torch.tensor(1.0)):
        with pytest.raises(TypeError, match="knobs must be finite numbers"):
            CostCurve([point(knob, 1.0, 0.5)]).save(tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []
