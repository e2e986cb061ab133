"""The shipped models of two mechanisms: they begin as what they go on from, and their cards tell the truth."""

import math
import re
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dynlib.data import cluttered_digits, encode
from dynlib.data import text as text_of
from dynlib.deciding import record, setting
from dynlib.tokens import MixtureOfDepths
from dynlib.width import AdaptiveComputationModule, MatFormerFeedForward
from dynlib.zoo import card, load
from dynlib.zoo.recipes import pairs as its
from dynlib.zoo.recipes import recipe


def begun(name: str) -> Any:
    made = recipe(name)
    torch.manual_seed(0)
    model = made.build(**made.config)
    assert made.start is not None
    assert made.begin is not None
    made.begin(model, load(made.start))
    return model


def test_exits_begin_on_the_trained_modules_which_do_not_learn() -> None:
    model, start = begun("digits_acm_exits"), load("digits_acm")
    images = cluttered_digits(4, split="test").images
    free = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert sum(weight.numel() for name, weight in model.named_parameters() if name in free) < 20_000
    assert not any("feed_forward" in name or "attention" in name for name in free)
    assert {"heads.0.linear.weight", "backbone.blocks.0.norm1.weight", "backbone.class_token"} <= free
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images)[-1], start(images))


def test_what_ships_has_the_modules_of_the_start_and_other_norms() -> None:
    model, start = load("digits_acm_exits"), load("digits_acm").state_dict()
    shipped = model.backbone.state_dict()
    for name, value in start.items():
        module = ".attention." in name or ".feed_forward." in name
        assert torch.equal(shipped[name], value) or not module, name
    assert not torch.equal(shipped["blocks.0.norm1.weight"], start["blocks.0.norm1.weight"])


@torch.no_grad()
def test_the_shipped_exits_are_as_good_as_their_card_says() -> None:
    model, said = load("digits_acm_exits"), card("digits_acm_exits")["figures"]
    test = cluttered_digits(500, split="test", seed=1)
    with setting(model, AdaptiveComputationModule, price=0.0):
        right = (model(test.images).argmax(-1) == test.labels).double().mean(1).tolist()
    card_ = [said[f"test_accuracy_at_price_0_after_layer_{layer}"] for layer in range(1, 7)]
    for got, wanted in zip(right, card_, strict=True):
        # two samples, of 500 images here and as said there: five standard deviations of the difference
        assert abs(got - wanted) <= 5 * math.sqrt(wanted * (1 - wanted) * (1 / 500 + 1 / said["test_images"]))
    assert card_[-1] == max(card_) > card_[0] + 0.1


@torch.no_grad()
def test_a_mixture_begins_near_the_matformer_where_every_byte_is_routed() -> None:
    model, start = begun("topics_matformer_mod").eval(), load("topics_matformer")
    tokens = encode(text_of("test"))[None, :128]
    with record(model, MixtureOfDepths) as records:
        got = model(tokens)
    weights = torch.cat([one.weight.flatten() for calls in records.values() for one in calls])
    assert list(records) == [f"blocks.{block}" for block in (1, 3, 5, 7)]
    assert weights.mean().item() == pytest.approx(1, abs=0.15)
    assert weights.std().item() < 0.3
    agree = (got.argmax(-1) == start(tokens).argmax(-1)).double().mean().item()
    assert agree > 0.7
    torch.testing.assert_close(model.embed(tokens), start.embed(tokens))


def test_a_step_is_at_one_width_and_one_capacity_which_depend_on_its_number_alone() -> None:
    torch.manual_seed(0)
    model = its.matformer_mixture_lm(vocabulary=256, dim=16, depth=2, heads=2, halvings=3)
    loss, drawn = its.matformer_mixture_loss(model), []
    for step in (0, 1, 2, 3, 4, 5, 6, 7, 3):
        with record(model, MatFormerFeedForward) as widths, record(model, MixtureOfDepths) as routed:
            value = loss(step).item()
        (one,) = routed["blocks.1"]
        drawn.append(({w.share for calls in widths.values() for w in calls}, one.mask.sum(1).unique().item(), value))
    assert all(len(shares) == 1 for shares, *_ in drawn)
    assert {some for _, some, _ in drawn} <= {16, 32, 64, 128}
    assert len({some for _, some, _ in drawn}) > 2
    assert len({shares.copy().pop() for shares, *_ in drawn}) > 2
    assert drawn[3] == drawn[-1]


@torch.no_grad()
def test_the_shipped_mixture_is_as_good_as_its_card_says() -> None:
    """On one in ten of the windows that its card read, which may be easier or harder by a tenth."""
    model, tokens = load("topics_matformer_mod"), encode(text_of("test"))
    rows = tokens[: len(tokens) // 129 * 129].view(-1, 129)[::10]
    got = []
    for name, said in card("topics_matformer_mod")["figures"].items():
        width, capacity = re.findall(r"[\d.]+", name)
        with (
            setting(model, MatFormerFeedForward, width=float(width)),
            setting(model, MixtureOfDepths, capacity=float(capacity)),
        ):
            nats = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).item()
        got.append(nats / math.log(2))
        assert got[-1] == pytest.approx(said, rel=0.1), name
    whole, narrow, few, both = got
    assert whole < min(narrow, few) <= max(narrow, few) < both < 2.8
