"""The study of mixture of depths on chains strewn among letters: its data, its arms, its file."""

from itertools import pairwise

import pytest
import torch

import benchmarks.mixture_of_depths_hard_study as study
from benchmarks.claim import load
from dynlib.cost import count

SETTINGS = study.SETTINGS
NAMES = SETTINGS["names"]


def test_answers_are_the_ends_that_one_finds_by_following_the_pointers() -> None:
    given = study.strewn(40, seed=3)
    for i in range(40):
        places = given.is_name[i].nonzero()[:, 0].tolist()
        points_to = {given.names[i, place].item(): given.points_to[i, place].item() for place in places}
        assert sorted(points_to) == list(range(NAMES))
        for place in places:
            name, hops = given.names[i, place].item(), 0
            while points_to[name] != name:
                name, hops = points_to[name], hops + 1
            assert (given.answers[i, place], given.hops[i, place]) == (name, hops)


def test_a_letter_has_one_answer_wherever_it_stands_and_whatever_the_seed() -> None:
    answers: dict[int, set[int]] = {}
    for seed, split in ((0, "train"), (1, "train"), (0, "test")):
        given = study.strewn(20, split=split, seed=seed)
        for letter, answer in zip(
            given.letters[~given.is_name].tolist(), given.answers[~given.is_name].tolist(), strict=True
        ):
            answers.setdefault(letter, set()).add(answer)
    assert all(len(found) == 1 for found in answers.values())
    assert sorted(answer for (answer,) in answers.values()) == list(range(NAMES, NAMES + SETTINGS["letters"]))


def test_names_stand_at_places_that_are_drawn_anew_and_splits_and_seeds_differ() -> None:
    given = study.strewn(400, seed=0)
    often = given.is_name.double().mean(0)  # each of 400 · 1/8 with a deviation of .0165: six of them
    assert (often - NAMES / SETTINGS["length"]).abs().max() < 0.1
    assert not torch.equal(given.points_to, study.strewn(400, seed=1).points_to)
    assert not torch.equal(given.is_name, study.strewn(400, split="test", seed=0).is_name)
    assert torch.equal(given.answers, study.strewn(400, seed=0).answers)


def test_who_is_told_does_what_a_mixture_does_whose_router_chose_the_same() -> None:
    torch.manual_seed(0)
    given, model = study.strewn(4, seed=0), study.Reader("top-k").double()
    layer = model.blocks[0]
    assert isinstance(layer, study.MixtureOfDepths)
    told = study.Told(layer.block, SETTINGS["model"]["dim"]).double()
    told.router.weight = layer.router.weight
    x = torch.randn(4, SETTINGS["length"], SETTINGS["model"]["dim"], dtype=torch.float64)
    with study.record(model, study.MixtureOfDepths) as routed:
        expected = layer(x)
    chosen = routed["blocks.0"][0].mask
    assert torch.allclose(told(x, chosen), expected)
    assert torch.equal(told(x, given.is_name)[~given.is_name], x[~given.is_name])


def test_capacities_begin_at_one_and_end_at_their_own() -> None:
    model = study.Reader("random")
    narrow, steps = study.narrowed(model), SETTINGS["training"]["steps"]
    seen = []
    for step in range(steps + 1):
        narrow(step)
        seen.append({block.capacity for block in model.blocks if isinstance(block, study.MixtureOfDepths)})
    assert seen[0] == {1.0}
    assert seen[-1] == {NAMES / SETTINGS["length"]}
    assert all(len(one) == 1 for one in seen)
    assert all(max(one) >= max(other) for one, other in pairwise(seen))


@pytest.mark.parametrize("arm", ["top-k", "oracle", "random", "gaussian", "top-k, linear"])
def test_the_shallow_dense_model_has_more_flops_than_any_mixture(arm: str) -> None:
    given = study.strewn(2, seed=0)
    flops = {name: count(study.Reader(name), given).flops for name in (arm, "equal", "dense")}
    assert flops[arm] < flops["equal"] < flops["dense"] / 5


def test_the_file_has_every_arm_with_every_seed() -> None:
    rows = load("mixture_of_depths_hard_study")["runs"]
    for arm in study.ARMS:
        assert {row["seed"] for row in rows if row["arm"] == arm} == set(study.SEEDS)
