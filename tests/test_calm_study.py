"""The study of leaving early on texts of planted difficulty: its texts, its rivals, its file."""

from typing import Any

import pytest
import torch

import benchmarks.calm_study as study
from benchmarks.claim import load
from dynlib.cost import learn_then_test

SETTINGS = study.SETTINGS
NAMES, WORD = SETTINGS["names"], SETTINGS["word"]
FIRST_NAME, FIRST_LETTER, GO = study.names_and_more()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps and texts, and a small model."""
    for name, value in (("CALIBRATION", 50), ("TEST", 6)):
        monkeypatch.setattr(study, name, value)
    monkeypatch.setitem(SETTINGS, "model", {"dim": 8, "depth": 2, "heads": 2, "hidden": 8})
    monkeypatch.setitem(SETTINGS, "shallow", 1)
    monkeypatch.setitem(SETTINGS, "thresholds", [0.99])
    monkeypatch.setitem(SETTINGS, "word", 1)
    monkeypatch.setitem(SETTINGS, "drawn", [0.5])
    monkeypatch.setitem(SETTINGS, "training", SETTINGS["training"] | {"steps": 2})


def test_a_text_says_of_each_name_where_one_comes_to_by_following_the_pointers_and_spells_that() -> None:
    some, words = study.written(30, seed=3), (FIRST_LETTER + study.spelled()).tolist()
    for prompt, text, hops in zip(some.prompts.tolist(), some.texts.tolist(), some.hops.tolist(), strict=True):
        points_to = dict(divmod(pair, NAMES) for pair in prompt[:-1])
        assert prompt[-1] == GO
        assert sorted(points_to) == list(range(NAMES))
        said = []
        for name in range(NAMES):
            end, way = name, 0
            while points_to[end] != end:
                end, way = points_to[end], way + 1
            assert hops[name] == way
            said += [FIRST_NAME + name, FIRST_NAME + end, *words[end]]
        assert text == said


def test_words_differ_and_splits_and_seeds_too() -> None:
    assert len({tuple(word) for word in study.spelled().tolist()}) == NAMES
    assert not torch.equal(study.written(9, seed=0).texts, study.written(9, seed=1).texts)
    assert not torch.equal(study.written(9, split="test").texts, study.written(9).texts)
    assert torch.equal(study.written(9, seed=4).prompts[:5], study.written(5, seed=4).prompts)


def test_a_pair_begins_as_the_sum_of_its_name_and_of_what_it_points_to() -> None:
    pairs = study.build(1, seed=0).embedding.weight[: NAMES**2].view(NAMES, NAMES, -1)
    names = study.build(1, seed=0).embedding.weight[FIRST_NAME : FIRST_NAME + NAMES]
    pointers = pairs - names[:, None]
    assert torch.allclose(pointers, pointers[:1].expand_as(pointers), atol=1e-6)


def test_a_lot_lets_as_many_leave_as_it_says() -> None:
    drawn = study.by_lot(0.3)(torch.zeros(4000, 5)) >= 1 - 0.3
    assert drawn.double().mean().item() == pytest.approx(0.3, abs=0.05)  # a deviation is .0072


def test_layers_are_told_by_what_is_written() -> None:
    some = study.written(5, seed=0)
    exits = torch.full((5, NAMES, 2 + WORD), 2)
    exits[..., 0] = 1
    exits[..., 1] = 3 + some.hops
    made = study.Decoded(some.texts, exits.flatten(1), torch.zeros(5, 1))
    found = study.layers_of(made, some)
    assert (found["numbers"], found["letters"]) == (1, 2)
    seen = set(some.hops.unique().tolist())
    assert [found["ends by hops"][hops] for hops in sorted(seen)] == [3 + hops for hops in sorted(seen)]


@pytest.mark.usefixtures("small")
def test_a_run_has_all_arms_and_with_a_threshold_that_nobody_reaches_it_writes_what_the_whole_model_writes() -> None:
    rows: list[dict[str, Any]] = [*study.run("deep", 0), *study.run("shallow", 0)]
    assert {row["arm"] for row in rows} == set(study.ARMS)
    (nobody,) = (row for row in rows if row["arm"] == "exits" and row["threshold"] == 2.0)
    assert (nobody["unchanged"], nobody["mean layer"]) == (1, 2)
    assert nobody["flops"] == pytest.approx(1, abs=0.02)
    (cut,) = (row for row in rows if row["arm"] == "cut")
    assert (cut["mean layer"], cut["layers"]["letters"]) == (1, 1)
    assert cut["flops"] < 0.9


def test_the_certified_threshold_of_the_file_is_judged_on_texts_that_did_not_choose_it() -> None:
    found = load("calm_study")
    calibration, test = found["texts"]
    assert learn_then_test(torch.zeros(calibration, 1), [1.0], SETTINGS["delta"], SETTINGS["epsilon"]).index == 0
    ways = {row["seed"] for row in found["runs"] if row["arm"] == "certified"}
    assert ways == set(study.SEEDS)
    assert test >= 100
    assert not torch.equal(study.written(9, split="test", seed=0).texts, study.written(9, split="test", seed=1).texts)
