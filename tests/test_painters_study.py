"""The study of painters at two depths: sums are right, none that is tested was learned, and the right bits count."""

import math

import pytest
import torch

import benchmarks.painters_study as study
from benchmarks.claim import load
from dynlib.backbone import CausalLM
from dynlib.depth import reverse, shuffle
from dynlib.depth.painters import Plan


def told(texts: study.Texts) -> list[str]:
    return "".join(map(chr, texts.tokens.flatten().tolist())).splitlines()


@pytest.mark.parametrize("held_out", [False, True])
def test_every_sum_is_right_in_its_tens_and_every_second_one_carries(held_out: bool) -> None:
    lines = told(study.sums(500, torch.Generator().manual_seed(0), held_out=held_out))
    assert len(lines) == 500 * study.SUMS
    carried = 0
    for line in lines:
        (first, second), answer = line.split("=")[0].split("+"), line.split("=")[1]
        assert f"{(int(first) + int(second)) // 10:02d}" == answer
        assert len(line) == study.SUM - 1
        carried += int(first[1]) + int(second[1]) > 9
    assert 0.4 < carried / len(lines) < 0.5  # of a hundred pairs of digits 45; 4,000 draws stay within 0.03


def test_what_counts_of_sums_are_the_digits_of_the_answers() -> None:
    texts = study.sums(3, torch.Generator().manual_seed(0))
    answers = [line.split("=")[1] for line in told(texts)]
    assert "".join(map(chr, texts.tokens[:, texts.counts].flatten().tolist())) == "".join(answers)


def test_no_sum_is_tested_that_was_learned_and_all_others_are_learned() -> None:
    learned, tested = (
        {line.split("=")[0] for line in told(study.sums(10_000, torch.Generator().manual_seed(0), held_out=held_out))}
        for held_out in (False, True)
    )
    assert not learned & tested
    assert len(learned) + len(tested) == 100 * 100


def test_prose_and_sums_are_as_long_and_prose_to_test_with_is_other_prose() -> None:
    texts = study.held_out(4)
    assert {one.tokens.shape for one in texts.values()} == {(4, study.SUMS * study.SUM)}
    assert not texts["prose"].counts[0]
    assert texts["prose"].counts[1:].all()
    again = study.held_out(4)
    assert all(torch.equal(texts[kind].tokens, again[kind].tokens) for kind in texts)
    assert not torch.equal(texts["prose"].tokens, study.prose(4, torch.Generator().manual_seed(1)).tokens)


def test_a_model_that_knows_nothing_pays_log_of_all_letters_and_one_that_knows_all_nothing() -> None:
    for texts in study.held_out(3).values():
        shape = (*texts.tokens.shape, 256)
        nothing = study.bits(torch.zeros(shape), texts)
        assert nothing.shape == (3, int(texts.counts.sum()))
        torch.testing.assert_close(nothing, torch.full_like(nothing, 8.0))
        known = 1e4 * torch.nn.functional.one_hot(texts.tokens.roll(-1, 1), 256).float()
        assert study.bits(known, texts).max() == 0


def test_who_guesses_pays_a_place_at_a_time() -> None:
    texts = study.held_out(300)
    # the tens of a sum are as good as even, 3.3 bits; of the hundreds half are 1, and 1 bit
    assert study.guessed("sums", texts["sums"]) == pytest.approx((math.log2(10) + 1) / 2, abs=0.03)
    assert 4 < study.guessed("prose", texts["prose"]) < 5.5


@pytest.fixture
def judge() -> study.Judge:
    torch.manual_seed(0)
    return study.Judge(CausalLM(depth=4, **study.MODEL).eval(), study.held_out(21))


@torch.no_grad()
def test_a_plan_is_judged_by_each_window_whatever_the_pieces(judge: study.Judge) -> None:
    found = judge(reverse(judge.layers, 1, 3))
    for kind, texts in judge.texts.items():
        model = judge.model
        logits = model.readout(Plan([judge.layers[place] for place in (0, 2, 1, 3)])(model.embed(texts.tokens)))
        torch.testing.assert_close(found[kind], study.bits(logits, texts).mean(1))


def test_orders_are_those_of_their_seeds(judge: study.Judge) -> None:
    found = judge.orders(2, 5)
    assert {kind: runs.shape for kind, runs in found.items()} == dict.fromkeys(study.KINDS, (5, 21))
    third = judge(shuffle(judge.layers, 1, 3, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(found["sums"][3], third["sums"])


def test_what_was_run_is_not_run_again(judge: study.Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(Plan(judge.layers))
    monkeypatch.setattr(judge, "run", lambda _: pytest.fail("it is known"))
    judge(Plan(judge.layers))


def test_the_file_holds_a_number_for_every_stretch_order_and_plan() -> None:
    for row in load("painters_study")["runs"]:
        assert row["largest"]["changed"] == study.CHANGED * row["layers"]
        for kind in study.KINDS:
            assert len(row["largest"]["full"][kind]) == study.STRETCHES
            assert len(row["largest"]["orders"][kind]) == study.ORDERS
            assert all(len(found[kind]) == study.STRETCHES for found in row["largest"]["plans"].values())
            assert len(row["similarity"][kind]) == row["layers"] == len(row["without one layer"])
