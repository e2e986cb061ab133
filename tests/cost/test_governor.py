import json
import math
import subprocess
import sys
from collections.abc import Hashable
from pathlib import Path
from statistics import fmean

import pytest
import torch

from dynlib.cost import Governor, Request, day, foreseen, rehearse
from dynlib.cost.stream import AlwaysAt
from tests.cost.rehearsals import EXITS, EXPECTED, KINDS, curve

ROOT = Path(__file__).parents[2]


def test_a_thousand_days_are_never_overspent_and_within_two_percent_of_the_oracle() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tests.cost.rehearsals"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    days = json.loads(told.stdout)
    assert len(days) == 1000
    assert not any(over for *_, over, _ in days)
    assert all(left >= 0 for *_, left in days)
    mine, best = (fmean(day[n] for day in days) for n in (0, 1))
    assert mine >= 0.98 * best
    # what a request takes is drawn: a lucky day may buy a little more than its mean cost does
    assert max(one - other for one, other, *_ in days) < 0.02


def test_it_beats_every_fixed_knob() -> None:
    budget, means = 3.0 * EXPECTED, []
    for policy in ("governor", *EXITS.points):
        quality = []
        for seed in range(10):
            draw = torch.Generator().manual_seed(seed)
            stream = day(EXPECTED, generator=draw)
            who = Governor(EXITS, budget, expected=EXPECTED) if policy == "governor" else AlwaysAt(policy, budget)
            quality.append(rehearse(who, stream, budget, generator=draw).quality)
        means.append(fmean(quality))
    assert means[0] > max(means[1:]) + 0.01


def test_a_day_as_forecast_ends_with_little_left() -> None:
    stream = [Request((n + 0.5) / 200, None) for n in range(200)]
    steady = curve([0.48, 0.65, 0.78, 0.81, 0.82], [1.0, 2.0, 3.0, 4.0, 6.0], most=1.0)
    governor = Governor(steady, 500.0, expected=200, spread=0.01, clump=1, caution=0)
    outcome = rehearse(governor, stream, 500.0)
    assert 0 <= governor.left < 5
    assert outcome.quality == pytest.approx(foreseen(steady, stream, 500.0).quality, abs=2e-3)
    assert outcome.refused == 0


def test_the_hard_ones_get_more() -> None:
    governor = Governor(KINDS, 400.0, expected=200)
    got: dict[Hashable, list[float]] = {"easy": [], "hard": []}
    for n in range(200):
        kind = "easy" if n % 2 else "hard"
        point = governor.choose(n / 200, kind)
        assert point is not None
        got[kind].append(point.cost("joules"))
        governor.spend(point.cost("joules"))
    assert fmean(got["hard"]) > fmean(got["easy"])


def test_a_request_that_might_cost_more_than_is_left_gets_less_or_nothing() -> None:
    governor = Governor(EXITS, 5.0, expected=1, caution=0)
    point = governor.choose(1.0)
    assert point is not None
    assert point.knob == 2  # 3 J may be 4.5, and 4 J may be 6
    governor.spend(4.0)
    assert governor.choose(1.0) is None
    assert (governor.refused, governor.left, governor.spent) == (1, 1.0, 4.0)


def test_more_requests_than_expected_make_it_thriftier_and_a_known_profile_keeps_it_calm() -> None:
    calm = Governor(EXITS, 600.0, expected=200, clump=1)
    few, many = (Governor(EXITS, 600.0, expected=200, clump=1) for _ in range(2))
    told = Governor(EXITS, 600.0, expected=200, clump=1, profile=lambda time: min(1.0, 2 * time))
    for governor, number in ((few, 10), (many, 100), (told, 100), (calm, 50)):
        for n in range(number):
            assert governor.choose(n / number / 4) is not None
            governor.spend(3.0)
    assert few.to_come(0.25) < calm.to_come(0.25) < many.to_come(0.25)
    assert told.to_come(0.25) == pytest.approx(100, rel=0.1)
    assert told.to_come(0.5) == 0


def test_the_forecast_is_the_gamma_poisson_one() -> None:
    governor = Governor(EXITS, 600.0, expected=100, spread=0.5, clump=1, caution=0)
    for n in range(30):
        governor.choose(0.25 * n / 30)
        governor.spend(1.0)
    rate = (4 + 30) / (4 / 100 + 0.25)
    assert governor.to_come(0.25) == pytest.approx(0.75 * rate)
    careful = Governor(EXITS, 600.0, expected=100, spread=0.5, clump=3, caution=2)
    for n in range(30):
        careful.choose(0.25 * n / 30)
        careful.spend(1.0)
    unit = 4 / 100 + 0.25 / 3
    rate = (4 + 30 / 3) / unit
    deviation = math.sqrt(3 * 0.75 * rate + 0.75**2 * rate / unit)
    assert careful.to_come(0.25) == pytest.approx(0.75 * rate + 2 * deviation)


def test_what_is_asked_for_is_checked() -> None:
    governor = Governor(KINDS, 10.0, expected=5)
    with pytest.raises(RuntimeError, match="nothing to pay for"):
        governor.spend(1.0)
    with pytest.raises(ValueError, match=r"no curve for the kind 'odd'.*'easy', 'hard'"):
        governor.choose(0.1, "odd")
    governor.choose(0.5, "easy")
    with pytest.raises(RuntimeError, match="call spend"):
        governor.choose(0.6, "easy")
    for wrong in (math.nan, -1.0, math.inf):
        with pytest.raises(ValueError, match="cost"):
            governor.spend(wrong)
    governor.spend(0.0)
    with pytest.raises(ValueError, match="time runs forward"):
        governor.choose(0.4, "easy")
    with pytest.raises(ValueError, match="now"):
        governor.choose(1.5, "easy")


@pytest.mark.parametrize(
    "wrong", [{"budget": 0.0}, {"budget": math.nan}, {"expected": 0}, {"spread": -1.0}, {"clump": 0.5}]
)
def test_what_is_no_governor(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Governor(EXITS, **{"budget": 1.0, "expected": 10.0, **wrong})


def test_an_empty_stream_and_empty_curves() -> None:
    with pytest.raises(ValueError, match="stream is empty"):
        rehearse(Governor(EXITS, 1.0, expected=1), [], 1.0)
    with pytest.raises(ValueError, match="stream is empty"):
        foreseen(EXITS, [], 1.0)
    with pytest.raises(ValueError, match="no curves"):
        Governor({}, 1.0, expected=1)
    with pytest.raises(TypeError, match="CostCurve"):
        Governor([EXITS], 1.0, expected=1)
    with pytest.raises(ValueError, match="no kind comes"):
        day(10, kinds={"a": 0.0})
    with pytest.raises(ValueError, match="no curve for the kinds 'odd'"):
        foreseen(KINDS, [Request(0.1, "odd")], 1.0)


def test_the_oracle_is_the_linear_program() -> None:
    linprog = pytest.importorskip("scipy.optimize", reason="scipy, whose solver it is, is not installed").linprog
    draw = torch.Generator().manual_seed(3)
    late = curve([0.1, 0.9, 0.95, 0.97], [1.0, 2.0, 4.0, 6.0])  # its first point is not worth its cost
    bad = curve([-0.2, 0.1, 0.5, 0.6], [1.0, 2.0, 4.0, 6.0])
    for kinds in (KINDS, {**KINDS, "late": late}, {"bad": bad, "late": late}):
        stream = day(30, kinds=dict.fromkeys(kinds, 1.0), generator=draw)
        for budget in (0.3 * len(stream), 1.2 * len(stream), 2.5 * len(stream), 7.0 * len(stream)):
            points = [kinds[request.kind].points for request in stream]
            worth = [-point.quality.mean for some in points for point in some]
            costs = [point.cost("joules") for some in points for point in some]
            each = torch.zeros(len(stream), len(worth))
            for n in range(len(stream)):
                each[n, 4 * n : 4 * n + 4] = 1
            best = linprog(worth, A_ub=[costs, *each.tolist()], b_ub=[budget] + [1.0] * len(stream))
            mine = foreseen(kinds, stream, budget)
            assert mine.quality == pytest.approx(-best.fun / len(stream))
            assert mine.spent <= budget * (1 + 1e-9)


def test_the_oracle_answers_what_it_can_pay_for() -> None:
    stream = [Request(0.1, None)] * 10
    outcome = foreseen(EXITS, stream, 4.0)
    assert (outcome.refused, outcome.spent) == (6, 4.0)
    assert outcome.quality == pytest.approx(0.48 * 0.4)
    dear = curve([0.1, 0.9], [1.0, 2.0])
    assert foreseen(dear, stream, 10.0).quality == pytest.approx(0.45)  # five answered well, and five not


def test_kinds_are_expected_as_they_have_come() -> None:
    governors = [Governor(KINDS, 420.0, expected=200, clump=1, caution=0) for _ in range(2)]
    for governor, common in zip(governors, ("easy", "hard"), strict=True):
        rare = ({"easy", "hard"} - {common}).pop()
        for n in range(50):
            point = governor.choose(n / 200, rare if n % 10 == 9 else common)
            assert point is not None
            governor.spend(2.1)
    few_hard, many_hard = (governor.prices(2.1) for governor in governors)
    assert few_hard != many_hard  # what a request is worth depends on who else will come


def test_days_are_as_they_were_asked_for() -> None:
    draw = torch.Generator().manual_seed(0)
    days = [day(100, kinds={"a": 3.0, "b": 1.0}, bursts=2, burst_share=0.4, generator=draw) for _ in range(400)]
    sizes = torch.tensor([len(one) for one in days]).double()
    assert sizes.mean().item() == pytest.approx(100, abs=4)
    assert sizes.std().item() == pytest.approx(math.sqrt(100 + 20**2), rel=0.15)
    assert all(one == sorted(one, key=lambda request: request.time) for one in days)
    assert all(0 <= request.time <= 1 for one in days for request in one)
    share_of_a = fmean(request.kind == "a" for one in days for request in one)
    assert share_of_a == pytest.approx(0.6 * 0.75 + 0.4 * 0.5, abs=0.03)


def test_what_a_request_takes_is_its_points_cost_on_average_and_at_most_the_most() -> None:
    class Told(AlwaysAt):
        taken: list[float] = []  # noqa: RUF012

        def spend(self, cost: float) -> None:
            self.taken.append(cost)

    stream = [Request(0.5, None)] * 4000
    rehearse(Told(EXITS.points[2], 1e9), stream, 1e9, generator=torch.Generator().manual_seed(0))
    taken = torch.tensor(Told.taken)
    assert taken.mean().item() == pytest.approx(3.0, abs=0.05)
    assert 4.2 < taken.max() <= 4.5
