"""Every mechanism under one interface, and the command that spends a budget with it."""

import argparse
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from dynlib import __main__ as command
from dynlib.cost import CostCurve, Governor, calibrate, count
from dynlib.deciding import setting
from dynlib.mechanisms import MECHANISMS, mechanism, mechanisms, named
from dynlib.mechanisms.digits import darkest
from dynlib.tokens import MixtureOfDepths
from dynlib.tokens.colt5 import Router
from dynlib.width import AdaptiveComputationModule
from dynlib.zoo import load

ALL = [(backbone, name) for backbone in MECHANISMS for name in mechanisms(backbone)]
FEW = 4
NEVER = 2.0  # a threshold that no confidence reaches


def of_all_learners(images: Tensor) -> Tensor:
    model = load("digits_acm")
    with setting(model, AdaptiveComputationModule, fixed=4, execution="masked"):
        return model(images)


def sent_whole(images: Tensor) -> Tensor:
    return load("digits_transmitter")(images, budget=1.0, generator=torch.Generator().manual_seed(0))


def of_text(name: str) -> Callable[[Tensor], Tensor]:
    return lambda tokens: load(name)(tokens)[:, -1]


def small_mixture(routing: Literal["top_k", "random"]) -> Callable[[Tensor], Tensor]:
    def run(tokens: Tensor) -> Tensor:
        model, generator = load("topics_mod"), torch.Generator().manual_seed(0)
        for block in model.blocks[1::2]:
            assert isinstance(block, MixtureOfDepths)
            block.generator = generator
            block.routing = routing
        return model(tokens)[:, -1]

    return run


def needles_colt5(routing: str) -> Callable[[Tensor], Tensor]:
    def run(tokens: Tensor) -> Tensor:
        model = load("needles_colt5")
        with setting(model, Router, routing=routing):
            return model(tokens)

    return run


OWN: dict[tuple[str, str], tuple[Any, Callable[[Any], Any]]] = {
    ("digits_vit", "early_exit"): (NEVER, lambda images: load("digits_exits").backbone(images)),
    ("digits_vit", "avit"): (0.01, lambda images: load("digits_avit")(images).logits),
    ("digits_vit", "acm"): (0.0, lambda images: load("digits_acm")(images)),
    ("digits_vit", "early_exit_acm"): ((NEVER, 0.0), lambda images: load("digits_acm_exits").backbone(images)),
    ("digits_vit", "transmitter"): (1.0, sent_whole),
    ("digits_vit", "layers"): (6, lambda images: load("digits_exits").backbone(images)),
    ("digits_vit", "ink"): (36, lambda images: load("digits_vit")(images)),
    ("digits_vit", "learners"): (4, of_all_learners),
    ("digits_vit", "transmitter_ink"): (36, sent_whole),
    ("topics_lm", "matformer"): (1.0, of_text("topics_matformer")),
    ("topics_lm", "early_exit"): (NEVER, of_text("topics_exits")),
    ("topics_lm", "mixture_of_depths"): (1.0, of_text("topics_matformer_mod")),
    ("topics_lm", "matformer_mod"): ((1.0, 1.0), of_text("topics_matformer_mod")),
    ("topics_lm", "layers"): (8, of_text("topics_exits")),
    ("topics_small", "mixture_of_depths"): (0.125, small_mixture("top_k")),
    ("topics_small", "random_tokens"): (0.125, small_mixture("random")),
    ("looped_regression", "stopping"): (0.0, lambda prompt: load("looped_regression")(*prompt)),
    ("looped_regression", "loops"): (10, lambda prompt: load("looped_regression")(*prompt)),
    ("looped_chains", "stopping"): (1.0, lambda sample: load("looped_chains")(*sample)),
    ("looped_chains", "loops"): (8, lambda sample: load("looped_chains")(*sample)),
    ("sudoku6", "halting"): (0.0, lambda grids: load("sudoku6").predict(grids, execution="masked").logits),
    ("sudoku6", "steps"): (16, lambda grids: load("sudoku6").trace(grids)[0][-1]),
    ("needles_colt5", "colt5"): (0.0625, needles_colt5("learned")),
    ("needles_colt5", "evenly"): (0.0625, needles_colt5("anchored")),
}
"""A value of each knob, and what the model of the zoo says that it then is."""


def parts(inputs: Any) -> tuple[Tensor, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


@pytest.mark.parametrize(("backbone", "name"), ALL)
@torch.no_grad()
def test_a_dearer_knob_costs_more_and_at_one_it_is_its_own_model(backbone: str, name: str) -> None:
    made = mechanism(backbone, name)
    (inputs, targets), *_ = made.requests(FEW, FEW, 1)
    again, other = (made.requests(FEW, FEW, seed)[0][0] for seed in (1, 2))
    assert all(map(torch.equal, parts(inputs), parts(again)))
    assert not any(map(torch.equal, parts(inputs), parts(other)))
    said: dict[Any, Tensor] = {}

    def flops(knob: Any) -> int:
        return count(lambda: said.update({knob: made.run(knob, inputs)})).flops

    full = made.knobs[-1]
    lines = [list(made.knobs)]
    if made.pair:  # along each of the two, the other one saving nothing
        lines = [[knob for knob in made.knobs if knob[1 - which] == full[1 - which]] for which in (0, 1)]
    lines = [[line[0], line[len(line) // 2], line[-1]] for line in lines]  # the study's file has all of them
    costs = {knob: flops(knob) for line in lines for knob in line}
    dense = made.dense(inputs)
    assert {one.shape for one in said.values()} == {dense.shape}
    assert made.judge(dense, targets).shape == (FEW,)
    assert max(costs[line[0]] for line in lines) < min(costs[full], count(made.dense, inputs).flops)
    for line in lines:
        for cheap, dear in pairwise(line):
            assert costs[cheap] <= costs[dear] + 0.01 * max(costs.values()), (cheap, dear)
    knob, own = OWN[backbone, name]
    torch.testing.assert_close(made.run(knob, inputs), own(inputs), rtol=1e-3, atol=1e-3)


def test_each_has_a_rival_that_is_trivial_or_is_one() -> None:
    for backbone, some in MECHANISMS.items():
        made = {name: mechanism(backbone, name) for name in some}
        rivals = {one.rival for one in made.values()} - {None}
        assert rivals <= made.keys()
        for name, one in made.items():
            assert (one.backbone, one.name) == (backbone, name)
            assert (one.rival is None) == (name in rivals or one.pair), name


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


@pytest.mark.parametrize(
    ("name", "knob", "says"),
    [
        ("layers", 0, "layers"),
        ("layers", 7, "layers"),
        ("ink", 0, "patches"),
        ("ink", 37, "patches"),
        ("transmitter_ink", 2.5, "patches"),
        ("learners", 5, "fixed"),
        ("acm", math.nan, "price"),
        ("avit", 1.0, "epsilon"),
        ("transmitter", 0.0, "budget"),
        ("early_exit_acm", (-1.0, 0.0), "threshold"),
        ("early_exit_acm", (0.5, math.inf), "price"),
    ],
)
def test_a_knob_that_cannot_be_is_refused(name: str, knob: Any, says: str) -> None:
    made = mechanism("digits_vit", name)
    with pytest.raises((TypeError, ValueError), match=says), torch.no_grad():
        made.run(knob, made.requests(1, 1, 1)[0][0])


def test_the_darkest_patches_of_each_image_stay() -> None:
    images = torch.zeros(2, 1, 8, 8)
    images[0, 0, 4:, :4], images[0, 0, :4, 4:], images[1, 0, 4, 4] = 0.5, 0.2, 1.0
    assert darkest(images, 1).tolist() == [[False, False, True, False], [False, False, False, True]]
    assert darkest(images, 2).tolist() == [[False, True, True, False], [True, False, False, True]]
    assert darkest(images, 4).all()


def test_what_a_loop_explains_is_one_less_the_error_over_the_variance() -> None:
    made = mechanism("looped_regression", "stopping")
    inputs, answers = made.requests(2000, 2000, 1)[0]
    assert made.judge(answers, answers).tolist() == [1.0] * 2000
    assert made.judge(torch.zeros_like(answers), answers).mean().item() == pytest.approx(0, abs=0.1)
    assert len(inputs) == 3


def test_a_value_is_printed_in_short() -> None:
    assert [named(knob) for knob in (0.125, 3, "gathered", (0.5, -1.0), (1, (2, "x")))] == [
        "0.125",
        "3",
        "gathered",
        "0.5, -1",
        "1, 2, x",
    ]


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


def test_the_command_plans_and_spends_with_a_pair_of_knobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, made = tmp_path / "pairs.json", mechanism("digits_vit", "early_exit_acm")
    made = made._replace(knobs=(made.knobs[0], made.knobs[14], made.knobs[-1]))  # a few are enough
    made.calibrate(16, alone=2, repeats=0, joules=False).save(path)
    curve = CostCurve.load(path)
    assert [point.knob for point in curve.points] == list(made.knobs)
    at = ["budget", "digits_vit", "--mechanism", "early_exit_acm", "--curve", str(path), "--requests", "6"]
    command.main([*at, "--share", "60%"])
    told = capsys.readouterr().out
    assert "threshold, price" in told
    best = curve.best(0.6 * curve.dense.flops).knob
    assert f"Best single setting: threshold, price {best[0]:g}, {best[1]:g}," in told
    assert re.search(r"with [\d.]+% of the budget; \d refused; threshold, price [\d.]+, -?[\d.]+ for \d", told)
    with pytest.raises(SystemExit, match="the least is"):
        command.main([*at, "--share", "1%"])


def test_of_pairs_that_cost_about_the_same_the_best_of_a_trial_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, asked = mechanism("digits_vit", "early_exit_acm"), list[tuple[int, int, int]]()

    def requests(count: int, size: int, seed: int) -> list[tuple[Any, torch.Tensor]]:
        asked.append((count, size, seed))
        return made.requests(count, size, seed)

    few = made._replace(knobs=(*made.knobs[:3], made.knobs[14], made.knobs[-1]), requests=requests)
    curve = few.calibrate(16, alone=2, trial=24, repeats=0, joules=False)
    assert asked == [(16, 16, 1), (2, 1, 2), (24, 24, 4)]
    tried = calibrate(few.run, few.knobs, made.requests(24, 24, 4), ordered=False, repeats=0, joules=False).points
    cheapest, dearest = (end(tried, key=lambda point: point.flops) for end in (min, max))
    step = (dearest.flops - cheapest.flops) / 8
    alike = [point for point in tried if point.flops < cheapest.flops + step]
    best = max(alike, key=lambda point: (point.quality.mean, -point.flops))
    assert len(alike) >= 3
    left_out = {point.knob for point in alike} - {cheapest.knob, best.knob}
    assert {point.knob for point in curve.points} == set(few.knobs) - left_out
    with pytest.raises(ValueError, match="trial"):
        few.calibrate(16, trial=-1)
    fewer = few._replace(requests=lambda count, size, seed: made.requests(min(count, 4), min(size, 4), seed))
    monkeypatch.setattr(command, "mechanism", lambda backbone, name: fewer)
    monkeypatch.setattr(command, "TRIAL", 24)
    at = ["budget", "digits_vit", "--mechanism", "early_exit_acm", "--count", "16", "--requests", "2"]
    command.main([*at, "--share", "99%"])
    out, err = capsys.readouterr()
    assert "24 requests at each of 5 pairs, then 16 at the best of each cost" in out
    assert re.search(r"0/\d+ \[00:00<", err), "a bar from the beginning on"


def test_a_quality_that_is_no_share_of_right_answers_has_its_own_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "curve.json"
    mechanism("looped_chains", "stopping").calibrate(8, alone=2, repeats=0, joules=False).save(path)
    command.main(["budget", "looped_chains", "--share", "80%", "--curve", str(path), "--requests", "5"])
    told = capsys.readouterr().out
    assert re.search(r"joules +found\n", told)
    assert "100.0% found with" in told
    assert "right" not in told


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
