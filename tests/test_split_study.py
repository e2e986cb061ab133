"""The study of split learning: what it asks of each arm, and what its file says."""

import json
from typing import Any

import pytest
import torch

from benchmarks import split_study as study
from dynlib.backbone import ViT
from dynlib.edge import Compression

FOUND = json.loads(study.RESULTS.read_text(encoding="utf-8"))
NONE = sum(FOUND["bytes of a step without compression"])


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that has learnt nothing: its bytes are the same."""
    monkeypatch.setattr(study, "before", ViT(**study.CONFIG).state_dict)


@pytest.mark.usefixtures("untrained")
def test_bytes_without_compression_are_those_of_the_formula() -> None:
    up, down = study.bytes_of_a_step(Compression(), steps=2)
    numbers = study.BATCH * study.TOKENS * study.CONFIG["dim"] * 4
    assert 0 < up - numbers - 8 * study.BATCH < 260
    assert 0 < down - numbers - 4 < 260
    assert up + down == pytest.approx(NONE, abs=20)


@pytest.mark.parametrize("case", study.plan(), ids=lambda case: f"{case['arm']} {case['ratio']:g}")
def test_every_arm_is_near_its_ratio_and_stops_within_the_traffic(case: dict[str, Any]) -> None:
    rows = [row for row in FOUND["rows"] if all(row[key] == value for key, value in case.items())]
    assert {row["seed"] for row in rows} >= set(study.SEEDS)
    for row in rows:
        assert 0.7 < row["reached"] / row["ratio"] < 1.4
        spent = row["up"] + row["down"]
        assert spent <= FOUND["traffic"] < spent + 1.01 * row["reached"] * NONE
        assert row["curve"][-1] == [spent, row["accuracy"]]
        assert row["curve"] == sorted(row["curve"], key=lambda point: point[0])


@pytest.mark.usefixtures("untrained")
def test_the_control_sends_as_much_and_looks_at_nothing() -> None:
    ours, control = (study.compression(arm, 1 / 16) for arm in ("adc", study.CONTROL))
    assert ours is not None
    assert control is not None
    assert sum(study.bytes_of_a_step(ours, steps=1)) == pytest.approx(
        sum(study.bytes_of_a_step(control, steps=1)), abs=20
    )
    x, labels = torch.randn(32, study.TOKENS, 8), torch.arange(32) % 10

    def packed(how: Compression, attention: torch.Tensor | None) -> Any:
        return how.pack(x, attention, labels, 10, torch.Generator().manual_seed(0))[0]

    looks = [torch.rand(32, study.TOKENS, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    of = [packed(control, look).of for look in (*looks, None)]
    assert torch.equal(of[0], of[1])
    assert torch.equal(of[0], of[2])
    assert not torch.equal(packed(ours, looks[0]).of, packed(ours, looks[1]).of)
    for part, keys in (("control", ("ratio", "seed")), ("by rate", ("arm", "lr", "seed"))):
        found = [tuple(row[key] for key in keys) for row in FOUND[part]]
        assert len(found) == len(set(found)) == {"control": 9, "by rate": 18}[part]


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("case", [{"arm": "adc", "ratio": 1 / 16}, {"arm": "smaller batch", "ratio": 1 / 4}])
def test_a_run_stops_with_the_last_step_that_fits(case: dict[str, Any]) -> None:
    images, labels = study.turned("test")
    test = images[:20], labels[:20]
    how = study.compression(**case)
    assert how is not None
    found = study.learn(how, study.batch_of(**case), 0, 1e-3, test=test, traffic=3.5 * case["ratio"] * NONE)
    assert found["steps"] == 3
    assert found["step"] == pytest.approx(case["ratio"] * NONE, rel=0.1)
    assert found["curve"][-1] == [found["up"] + found["down"], found["accuracy"]]


@pytest.mark.usefixtures("untrained")
def test_the_mistaken_exponent_sends_three_quarters_of_the_power() -> None:
    for row in FOUND["trap"]:
        assert row["formula"] == pytest.approx(row["c"] ** 0.75, abs=1e-4)
        assert row["reached"] == pytest.approx(row["formula"], rel=0.1)
        assert row["right"] < 1.35 * row["c"]
    wrong = sum(study.bytes_of_a_step(study.Mistaken("double", 1 / 16), steps=1)) / NONE
    assert wrong == pytest.approx(next(row["reached"] for row in FOUND["trap"] if row["c"] == 1 / 16), abs=1e-3)


def test_a_time_is_bytes_over_the_rate_and_steps_of_computing() -> None:
    row = {"arm": "adc", "ratio": 0.25, "seed": 0, "up": 600, "down": 400, "steps": 10}
    curve = [[0, 0.1], [100, 0.4], [300, 0.75], [1000, 0.7]]
    early, late, never = study.times([{**row, "curve": curve}], {"adc 0.25": 2.0}, 0)
    assert (early["level"], late["level"]) == study.LEVELS[:2]
    assert early["seconds"] == late["seconds"] == pytest.approx(8 * 300 / study.RATE + 3 * 2.0)
    assert never["seconds"] is None
