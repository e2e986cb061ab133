"""Every mechanism under one interface, and the command that spends a budget with it."""

import argparse
import re
from pathlib import Path

import pytest
import torch

from dynlib import __main__ as command
from dynlib.cost import CostCurve, Governor, count
from dynlib.mechanisms import MECHANISMS, mechanism, mechanisms

ALL = [(backbone, name) for backbone in MECHANISMS for name in mechanisms(backbone)]


@pytest.mark.parametrize(("backbone", "name"), ALL)
def test_a_dearer_knob_costs_more_and_the_logits_are_those_of_a_model(backbone: str, name: str) -> None:
    made = mechanism(backbone, name)
    (inputs, targets), *_ = made.requests(12, 12, 1)
    assert torch.equal(inputs, made.requests(12, 12, 1)[0][0])
    assert not torch.equal(inputs, made.requests(12, 12, 2)[0][0])
    with torch.no_grad():
        dense = made.dense(inputs)
        costs = [count(made.run, knob, inputs).flops for knob in made.knobs]
        for knob in (made.knobs[0], made.knobs[-1]):
            assert made.run(knob, inputs).shape == dense.shape == (len(targets), dense.shape[-1])
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]
    assert costs[0] < count(made.dense, inputs).flops


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="backbone"):
        mechanism("resnet", "early_exit")
    with pytest.raises(ValueError, match=r"early_exit.*avit.*layers"):
        mechanism("digits_vit", "calm")
    with pytest.raises(ValueError, match="backbone"):
        mechanisms("resnet")


def test_all_layers_cost_what_the_backbone_does_but_for_the_exits() -> None:
    made = mechanism("digits_vit", "layers")
    (inputs, _), *_ = made.requests(8, 8, 1)
    with torch.no_grad():
        assert 1 <= count(made.run, 6, inputs).flops / count(made.dense, inputs).flops < 1.001
        with pytest.raises(ValueError, match="layers"):
            made.run(0, inputs)


COMMAND = ["budget", "digits_vit", "--mechanism", "layers"]


@pytest.fixture
def kept(tmp_path: Path) -> list[str]:
    """Options of the command, and a curve that it finds."""
    made = mechanism("digits_vit", "layers")
    made.calibrate(20, alone=2).save(tmp_path / "curve.json")
    return [*COMMAND, "--curve", str(tmp_path / "curve.json"), "--requests", "12"]


def test_the_command_plans_spends_and_keeps_its_curve(kept: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(kept[5])
    before = path.read_bytes()
    command.main([*kept, "--share", "50%"])
    told = capsys.readouterr().out
    assert "Best single setting: layers 2," in told
    assert re.search(r"Two in turn: layers \d for [\d.]+% of the requests", told)
    spent = re.search(r"with ([\d.]+)% of the budget; 0 refused", told)
    assert spent is not None
    assert 90 < float(spent[1]) <= 100
    assert "no clock" not in told
    dear = CostCurve.load(path).dense.joules
    command.main([*kept, "--battery", "3%", "--watt-hours", str(dear * 12 / 0.03 / 3600)])
    told = capsys.readouterr().out
    assert "as you said" in told
    assert "no clock" in told
    assert path.read_bytes() == before


def test_a_budget_of_a_knob_is_that_knob_for_every_request(kept: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    curve = CostCurve.load(kept[5])
    for number in ("1", "5"):
        command.main([*kept[:-1], number, "--share", str(curve.share(curve.points[2]))])
        told = capsys.readouterr().out
        assert "Best single setting: layers 3," in told
        assert f"layers 3 for {number}." in told
        assert "100.0% of the budget" in told


def test_requests_that_cost_more_and_less_stay_within_the_budget() -> None:
    made = mechanism("digits_vit", "early_exit")
    curve = made.calibrate(40, alone=40, repeats=0, joules=False)
    assert max(point.most for point in curve.points) > 1.5
    governor = Governor(curve, 0.3 * 20 * curve.dense.flops, expected=20, measure="flops")
    with torch.no_grad():
        for place, (inputs, _) in enumerate(made.requests(20, 1, 3)):
            point = governor.choose(place / 20)
            if point is not None:
                governor.spend(count(made.run, point.knob, inputs).flops)
    assert 0 <= governor.left < 0.3 * governor.budget


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--share", "1%"], "the least is"),
        (["--share", "50%", "--requests", "0"], "--requests"),
        (["--share", "50%", "--count", "0"], "--count"),
        (["--share", "50%", "--watt-hours", "3"], "--battery"),
        (["--share", "50%", "--mechanism", "early_exit"], "is the curve of layers on digits_vit, not of early_exit"),
        (["--share", "50%", "--curve", "no/such/folder/x.json"], "there is no folder"),
    ],
)
def test_what_the_command_refuses(kept: list[str], more: list[str], says: str) -> None:
    with pytest.raises(SystemExit, match=says):
        command.main([*kept, *more])


def test_a_battery_is_read_where_there_is_one(tmp_path: Path) -> None:
    assert command.battery(tmp_path).watt_hours == command.PHONE
    assert "no battery" in command.battery(tmp_path).source
    for name, files in {
        "AC": {"type": "Mains"},
        "BAT0": {"type": "Battery", "charge_full": "4000000", "voltage_now": "11500000"},
    }.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(f"{content}\n")
    assert command.battery(tmp_path).watt_hours == pytest.approx(46)
    (tmp_path / "BAT0" / "energy_full").write_text("50000000\n")
    assert command.battery(tmp_path) == (pytest.approx(50), f"read from {tmp_path / 'BAT0'}")
    (tmp_path / "BAT1").mkdir()
    for file, content in {"type": "Battery", "energy_full": "20000000"}.items():
        (tmp_path / "BAT1" / file).write_text(content)
    assert command.battery(tmp_path).watt_hours == pytest.approx(70)
    (tmp_path / "BAT1" / "energy_full").write_text("0")
    (tmp_path / "BAT0" / "energy_full").write_text("?")
    assert "no battery" in command.battery(tmp_path).source


@pytest.mark.parametrize(("said", "share"), [("3%", 0.03), ("0.5", 0.5), ("150%", 1.5)])
def test_shares_in_words(said: str, share: float) -> None:
    assert command.percent(said) == pytest.approx(share)


@pytest.mark.parametrize("said", ["", "%", "-3%", "0", "nan", "three", "50"])
def test_what_is_no_share(said: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"say (3|50)%"):
        command.percent(said)
