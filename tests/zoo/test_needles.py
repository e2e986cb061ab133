"""The reader of needles: what it embeds, how its capacities narrow, and what the shipped one routes."""

import math

import pytest
import torch

from dynlib.data import needles
from dynlib.data.needles import NOISE, SLOTS, VALUES, VOCABULARY
from dynlib.deciding import record, setting
from dynlib.tokens.colt5 import Router, narrow
from dynlib.zoo import card, load
from dynlib.zoo.needles import NeedleReader, reading_loss

SMALL = {"dim": 8, "depth": 2, "heads": 2, "window": 4, "light": 8, "heavy": 8, "capacity": 0.125}


def small(seed: int = 0) -> NeedleReader:
    torch.manual_seed(seed)
    return NeedleReader(**SMALL)


def test_a_needle_is_its_slot_plus_its_value_and_a_question_the_same_slot():
    model = small()
    vectors = model.vectors()
    assert vectors.shape == (VOCABULARY, 8)
    for slot in range(SLOTS):
        assert torch.equal(vectors[slot], model.slot.weight[slot] + model.kind.weight[0])
        for value in range(VALUES):
            expected = model.slot.weight[slot] + model.value.weight[value] + model.kind.weight[1]
            assert torch.equal(vectors[SLOTS + VALUES * slot + value], expected)
    assert torch.equal(vectors[-NOISE:], model.noise.weight)


def test_the_capacities_fall_from_all_tokens_to_their_own():
    model = small()
    routers = [module for module in model.modules() if isinstance(module, Router)]
    goals = [router.capacity for router in routers]
    assert sorted(set(goals)) == [0.125, 0.25]
    at = narrow(model, steps=100, hold=0.2, end=0.6)
    for step, way in ((0, 0), (20, 0), (30, 0.25), (40, 0.5), (60, 1), (99, 1), (10, 0)):
        at(step)
        for router, goal in zip(routers, goals, strict=True):
            assert router.capacity == pytest.approx(math.exp(way * math.log(goal)))
    with pytest.raises(ValueError, match="hold must be less than end"):
        narrow(model, steps=100, hold=0.5, end=0.5)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        narrow(model, steps=0)


def test_a_loss_depends_on_its_step_and_seed_alone_and_narrows_unless_told_not_to():
    model = small()
    routers = [module for module in model.modules() if isinstance(module, Router)]
    loss = reading_loss(model, steps=10, batch=2, length=16, needles=2, shrink=False)
    first = loss(3)
    assert routers[0].capacity == 0.125
    assert torch.equal(first, loss(3))
    assert not torch.equal(first, loss(4))
    assert not torch.equal(first, reading_loss(model, steps=10, batch=2, seed=1, length=16, needles=2, shrink=False)(3))
    reading_loss(model, steps=10, batch=2, length=16, needles=2)(0)
    assert routers[0].capacity == 1


@torch.no_grad()
def test_the_shipped_reader_finds_the_needles_and_evenly_spaced_routing_does_not():
    model, test = load("needles_colt5"), needles(500, split="test", seed=1)
    with record(model, Router) as routed:
        right = (model(test.tokens).argmax(-1) == test.labels).double().mean().item()
    # 500 sequences: at a share of 0.99 a standard deviation is 0.0045
    assert right == pytest.approx(card("needles_colt5")["figures"]["test_accuracy"], abs=0.02)
    assert right > 0.95
    asks, asked = (routed[f"blocks.0.attention.{part}_router"][0].mask for part in ("query", "key"))
    assert asks[:, 0].double().mean() > 0.95
    assert asked[test.masks].double().mean() > 0.95
    with setting(model, Router, routing="even"):
        assert (model(test.tokens).argmax(-1) == test.labels).double().mean() < 0.4
