"""The study of leaving early on texts of planted difficulty: its texts, its rivals, its file."""

from typing import Any

import pytest
import torch

import benchmarks.calm_study as study
from benchmarks.claim import load
from benchmarks.claims import LEAVING
from dynlib.cost import count, learn_then_test
from dynlib.depth import calm_generate
from dynlib.depth.calm import masked_exits

SETTINGS = study.SETTINGS
NAMES, WORD = SETTINGS["names"], SETTINGS["word"]
FIRST_NAME, FIRST_LETTER, GO = study.names_and_more()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps and texts, and a small model."""
    for name, value in (("CALIBRATION", 50), ("TEST", 6)):
        monkeypatch.setattr(study, name, value)
    changes: dict[str, Any] = {
        "model": {"dim": 8, "depth": 2, "heads": 2, "hidden": 8},
        "shallow": 1,
        "names": 3,
        "word": 1,
        "thresholds": [0.99, 0.01],
        "training": SETTINGS["training"] | {"steps": 4},
        "classifier": SETTINGS["classifier"] | {"steps": 2},
    }
    for name, change in changes.items():
        monkeypatch.setitem(SETTINGS, name, change)


def test_a_text_says_of_each_name_where_one_comes_to_by_following_the_pointers_and_spells_that() -> None:
    some, words = study.written(30, seed=3), (FIRST_LETTER + study.spelled()).tolist()
    for i, (prompt, text) in enumerate(zip(some.prompts.tolist(), some.texts.tolist(), strict=True)):
        points_to = dict(divmod(pair, NAMES) for pair in prompt[:-1])
        assert prompt[-1] == GO
        assert sorted(points_to) == list(range(NAMES))
        said = []
        for name in range(NAMES):
            end, way = name, 0
            while points_to[end] != end:
                end, way = points_to[end], way + 1
                assert some.ways[way - 1, i, name] == end
            assert some.hops[i, name] == way
            assert (some.ways[way:, i, name] == end).all()
            said += [FIRST_NAME + name, FIRST_NAME + end, *words[end]]
        assert text == said


def test_words_differ_and_splits_and_seeds_too() -> None:
    assert len({tuple(word) for word in study.spelled().tolist()}) == NAMES
    assert not torch.equal(study.written(9, seed=0).texts, study.written(9, seed=1).texts)
    assert not torch.equal(study.written(9, split="test").texts, study.written(9).texts)
    assert torch.equal(study.written(9, seed=4).prompts[:5], study.written(5, seed=4).prompts)


def test_a_pair_begins_as_the_sum_of_its_name_and_of_what_it_points_to() -> None:
    embedding = study.build(1, seed=0).embedding.weight
    pointers = embedding[: NAMES**2].view(NAMES, NAMES, -1) - embedding[FIRST_NAME : FIRST_NAME + NAMES][:, None]
    assert torch.allclose(pointers, pointers[:1].expand_as(pointers), atol=1e-6)


def test_who_is_told_leaves_after_just_the_layers_that_are_given() -> None:
    model, some = study.build(4, seed=0).eval(), study.written(7, seed=0)
    layers = torch.randint(1, 5, (7, 9), generator=torch.Generator().manual_seed(0))
    layers[:, 3], layers[:, 5] = 1, 4  # all at once, and nobody
    told = study.Told(7, 4, study.as_given(layers))
    assert torch.equal(calm_generate(model, some.prompts, 9, 0.5, confidence=told).exits, layers)


def test_the_oracle_leaves_at_the_first_layer_that_says_what_is_written_next(small: None) -> None:
    model, test = study.build(2, seed=1).eval(), study.written(study.TEST, split="test")
    judge = study.Judge(model, test)
    told = study.Told(study.TEST, 2, lambda texts, token, _, said: said.argmax(-1) == judge.whole[texts, token])
    made = calm_generate(model, test.prompts, judge.length, 0.5, confidence=told)
    early = made.exits < 2
    prompt = test.prompts.shape[1]
    assert early.any()
    assert (made.tokens[:, prompt:] == judge.whole)[early].all()
    # the first such layer: what one layer less would say is another token
    text, later = made.tokens[:, :-1], torch.full((study.TEST,), 0.5)
    wanted = torch.cat([test.prompts[:, 1:], judge.whole], dim=1).flatten()
    again = masked_exits(
        model, text, later, prompt=prompt, confidence=lambda logits: (logits.argmax(-1) == wanted).double()
    )
    assert torch.equal(again.exits[:, prompt - 1 :], made.exits)


def test_dealt_exits_are_the_same_ones_at_other_tokens_or_at_others_of_their_place() -> None:
    exits = torch.arange(5 * NAMES * (2 + WORD)).view(5, -1)
    by_place, anyhow = (study.dealt(exits, by_place=by_place) for by_place in (True, False))
    for other in (by_place, anyhow):
        assert torch.equal(other.flatten().sort().values, exits.flatten())
        assert (other != exits).double().mean() > 0.9
    assert torch.equal(by_place % (2 + WORD), exits % (2 + WORD))
    assert not torch.equal(anyhow % (2 + WORD), exits % (2 + WORD))


def test_layers_are_told_by_what_is_written() -> None:
    some = study.written(5, seed=0)
    exits = torch.full((5, NAMES, 2 + WORD), 2.0)
    exits[..., 0] = 1
    exits[..., 1] = 3 + some.hops
    found = study.layers_of(exits.flatten(1), some)
    assert (found["numbers"], found["letters"]) == (1, 2)
    seen = sorted(set(some.hops.flatten().tolist()))
    assert [found["ends by hops"][hops] for hops in seen] == [3 + hops for hops in seen]


def test_a_model_that_is_cut_off_is_the_first_layers_alone_and_the_whole_one_stays(small: None) -> None:
    model = study.build(2, seed=0).eval()
    judge = study.Judge(model, study.written(study.TEST, split="test"))
    cut = judge.cut(1)
    assert len(model.blocks) == 2
    assert cut["spent"] < 0.8
    same = calm_generate(model, judge.test.prompts, judge.length, 0.0).tokens[:, judge.test.prompts.shape[1] :]
    # the first layer alone says the same whether the layers above were read for the prompt or not
    assert cut["unchanged"] == (same == judge.whole).all(1).double().mean().item()


def test_a_run_has_all_arms_and_what_nobody_leaves_costs_all_and_changes_nothing(small: None) -> None:
    rows = [row for model in ("deep", "shallow") for row in study.run(model, seed=0)]
    assert {row["arm"] for row in rows} == set(study.ARMS)
    certified = [row for row in rows if row["arm"] == "certified"]
    assert [row["sure"] for row in certified] == list(study.SURE)
    for row in certified:
        if row["threshold"] > 1:
            assert (row["unchanged"], row["flops"], row["mean layer"]) == (1.0, 1.0, 2.0)
    assert {row["layer"] for row in rows if row["arm"] == "cut"} == {1}
    assert {row["threshold"] for row in rows if row["arm"] == "exits"} == {0.99, 0.01}


def test_flops_are_those_of_all_texts_and_a_share_is_of_the_whole_model(small: None) -> None:
    model, test = study.build(2, seed=0).eval(), study.written(study.TEST, split="test")
    judge = study.Judge(model, test)
    assert judge.flops == count(model.generate, test.prompts, judge.length).flops
    made, found = judge.judged(0.0)
    assert found["spent"] == count(calm_generate, model, test.prompts, judge.length, 0.0).flops / judge.flops
    assert found["mean layer"] == 1 == made.exits.max()


def test_the_file_has_every_model_with_every_seed_and_what_is_claimed_is_certified() -> None:
    found = load("calm_study")
    for arm in study.ARMS:
        assert {row["seed"] for row in found["runs"] if row["arm"] == arm} == set(study.SEEDS)
    certified = [row for row in found["runs"] if row["arm"] == "certified"]
    assert all(row["threshold"] in (*SETTINGS["thresholds"], 2.0) for row in certified)
    # what the table of claims takes is certified with every seed
    daring = [row["threshold"] for row in certified if row["sure"] == "softmax_diff"]
    assert len(daring) == len(study.SEEDS)
    assert max(daring) <= LEAVING["threshold"]


def test_so_many_texts_can_certify_something_but_not_that_a_text_of_25_changes() -> None:
    losses = torch.zeros(study.CALIBRATION, 2)
    losses[::25, 1] = 1
    found = learn_then_test(losses, [0.9, 0.8], SETTINGS["delta"], SETTINGS["epsilon"])
    assert found.threshold == 0.9
