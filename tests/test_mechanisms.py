"""Every mechanism under one interface, and the command that spends a budget with it."""

import argparse
import re
from pathlib import Path

import pytest
import torch

from dynlib import __main__ as command
from dynlib.cost import CostCurve, count
from dynlib.mechanisms import MECHANISMS, mechanism, mechanisms

ALL = [(backbone, name) for backbone in MECHANISMS for name in mechanisms(backbone)]


@pytest.mark.parametrize(("backbone", "name"), ALL)
def test_a_dearer_knob_costs_more_and_the_logits_are_those_of_a_model(backbone: str, name: str) -> None:
    made = mechanism(backbone, name)
    (inputs, targets), *_ = made.requests(12, 12)
    again, _ = made.requests(12, 12)[0]
    assert torch.equal(inputs, again)
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
    (inputs, _), *_ = made.requests(8, 8)
    with torch.no_grad():
        assert 1 <= count(made.run, 6, inputs).flops / count(made.dense, inputs).flops < 1.001


def test_the_command_plans_spends_and_keeps_its_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "curve.json"
    asked = ["budget", "digits_vit", "--mechanism", "layers", "--count", "20", "--requests", "12", "--curve", str(path)]
    command.main([*asked, "--share", "50%"])
    told = capsys.readouterr().out
    assert "Best single knob: layers 2," in told
    assert re.search(r"Two in turn: layers \d for \d+% of the requests", told)
    spent = re.search(r"with ([\d.]+)% of the budget; 0 refused", told)
    assert spent is not None
    assert 50 < float(spent[1]) <= 100
    before = path.read_bytes()
    dear = CostCurve.load(path).dense.joules
    command.main([*asked, "--battery", "3%", "--watt-hours", str(dear * 12 / 0.03 / 3600)])
    told = capsys.readouterr().out
    assert "as you said" in told
    assert "Best single knob: layers" in told
    assert path.read_bytes() == before
    with pytest.raises(SystemExit, match="the least is"):
        command.main([*asked, "--share", "1%"])


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
    (tmp_path / "BAT0" / "energy_full").write_text("?")
    assert "no battery" in command.battery(tmp_path).source


@pytest.mark.parametrize(("said", "share"), [("3%", 0.03), ("0.5", 0.5), ("150%", 1.5)])
def test_shares_in_words(said: str, share: float) -> None:
    assert command.percent(said) == pytest.approx(share)


@pytest.mark.parametrize("said", ["", "%", "-3%", "0", "nan", "three"])
def test_what_is_no_share(said: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="say 3%"):
        command.percent(said)
