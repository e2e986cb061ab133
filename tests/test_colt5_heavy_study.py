"""The study of what CoLT5's feed-forward router is worth: its data, its arms, its file."""

import pytest
import torch

import benchmarks.colt5_heavy_study as study
from benchmarks.claim import load
from dynlib.cost import count

SETTINGS = study.SETTINGS
PAIRS, SYMBOLS = SETTINGS["pairs"], SETTINGS["symbols"]


def test_answers_are_those_of_the_table_at_places_that_are_drawn_anew() -> None:
    given, table = study.strewn(400, seed=3), study.table()
    assert given.is_pair.sum(1).tolist() == [PAIRS] * 400
    for row, place in given.is_pair.nonzero()[:50].tolist():
        assert given.answers[row, place] == table[given.first[row, place], given.second[row, place]]
    often = given.is_pair.double().mean(0)  # each of 400 · 1/16 with a deviation of .0121: six of them
    assert (often - PAIRS / SETTINGS["length"]).abs().max() < 0.08


def test_both_answers_are_as_frequent_and_no_symbol_alone_tells_one() -> None:
    table = study.table().double()
    assert table.mean() == 0.5
    for alone in (table.mean(0), table.mean(1)):  # of 32 draws each, with a deviation of .09
        assert alone.min() > 0.1
        assert alone.max() < 0.9


def test_seeds_and_splits_differ_and_a_seed_gives_the_same() -> None:
    given = study.strewn(9, seed=0)
    assert not torch.equal(given.first, study.strewn(9, seed=1).first)
    assert not torch.equal(given.first, study.strewn(9, split="test").first)
    assert all(torch.equal(one, other) for one, other in zip(given, study.strewn(9), strict=True))


@pytest.mark.parametrize("arm", study.ARMS)
def test_a_reader_sees_the_symbols_of_pairs_and_the_kind_of_noise(arm: str) -> None:
    torch.manual_seed(0)
    model, given = study.Reader(arm), study.strewn(3, seed=0)
    said = model(given)
    assert said.shape == (3, SETTINGS["length"], 2)
    other = given._replace(second=torch.where(given.is_pair, (given.second + 1) % SYMBOLS, given.second))
    moved = (model(other) != said).any(-1)
    assert moved[given.is_pair].all()
    assert not model.features.requires_grad


@pytest.mark.parametrize("arm", ["learned", "even", "never wide"])
def test_the_wide_layer_has_no_fewer_flops_than_the_two_of_a_router_and_everybody_costs_more(arm: str) -> None:
    given = study.strewn(2, seed=0)
    flops = {name: count(study.Reader(name), given).flops for name in (arm, "light", "wide", "all")}
    assert flops["light"] < flops[arm] <= flops["wide"] < 1.25 * flops[arm]
    assert flops["wide"] < flops["all"] / 3


def test_the_file_has_every_arm_with_every_seed() -> None:
    rows = load("colt5_heavy_study")["runs"]
    for arm in study.ARMS:
        assert {row["seed"] for row in rows if row["arm"] == arm} == set(study.SEEDS)
