"""The shipped model of adaptive computation modules: how it begins and learns, and that its card tells the truth."""

import copy
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmarks import acm_study as study
from dynlib.backbone import ViT
from dynlib.cost import count
from dynlib.data import cluttered_digits
from dynlib.deciding import record, setting
from dynlib.width import AdaptiveComputationModule, acm_loss, gates_share, prefix_errors, shares_of_tokens
from dynlib.zoo import card, load
from dynlib.zoo.recipes import acm as its
from dynlib.zoo.recipes import recipe
from dynlib.zoo.scores import depth_auc, digit_patches


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps for the learners and five for the gates, of four images."""
    monkeypatch.setattr(its, "DISTIL", {**its.DISTIL, "steps": 3})
    monkeypatch.setattr(its, "GATES", {**its.GATES, "steps": 5})
    monkeypatch.setattr(its, "BATCH", 4)


def untrained(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return its.acm_vit(**recipe("digits_acm").config)


def shares(model: Any, images: torch.Tensor) -> torch.Tensor:
    with record(model, AdaptiveComputationModule) as records:
        model(images)
    return shares_of_tokens(records)


def test_every_linear_layer_of_its_blocks_is_in_learners() -> None:
    model = untrained()
    names = [name for name, part in model.named_modules() if isinstance(part, AdaptiveComputationModule)]
    ends = ("attention.query_key_value", "attention.output", "feed_forward")
    assert names == [f"blocks.{block}.{end}" for block in range(6) for end in ends]
    for name in names:
        layer = model.get_submodule(name)
        assert layer.learners == 4
        assert layer.least == int(name.endswith("query_key_value")), "what replaces a token's features keeps a learner"


@pytest.mark.usefixtures("short")
def test_it_begins_with_the_layers_of_the_start_in_learners_that_were_taught() -> None:
    model, start, images = untrained(), load("digits_vit"), cluttered_digits(4, split="test").images
    before = copy.deepcopy(start.state_dict())
    its.begin_acm(model, start)
    assert all(torch.equal(value, before[key]) for key, value in start.state_dict().items()), "the start is left alone"
    model.eval()
    errors = torch.tensor(list(prefix_errors(model, start, images).values()))
    untaught = torch.tensor(list(prefix_errors(untrained(), start, images).values()))
    assert errors[:, -1].max() < 0.4
    assert (errors[:, 1:].mean(1) < 0.6 * untaught[:, 1:].mean(1)).all(), "the learners are those of the start"
    for key, value in before.items():
        if "attention" not in key and "feed_forward" not in key:
            assert torch.equal(model.state_dict()[key], value), key
    again = untrained()
    its.begin_acm(again, load("digits_vit"))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    other = untrained()
    its.begin_acm(other, load("digits_vit"), stream=1)
    assert not torch.equal(other.blocks[0].feed_forward.expand, model.blocks[0].feed_forward.expand)


@pytest.mark.usefixtures("short")
def test_what_was_made_before_is_read(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = untrained(), untrained()
    its.begin_acm(first, load("digits_vit"), stream=2, checkpoints=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gates-2.pt", "learners-2.pt"]
    images = its.acm_images

    def untrained_ones(step: int, *, stream: int) -> Any:
        assert step >= 10**6, "it was made before"
        return images(step, stream=stream)

    monkeypatch.setattr(its, "acm_images", untrained_ones)
    its.begin_acm(second, load("digits_vit"), stream=2, checkpoints=tmp_path)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


@pytest.mark.usefixtures("short")
@torch.no_grad()
def test_the_loss_is_how_far_the_answers_are_from_those_of_the_start_and_what_is_spent() -> None:
    model, start, weights = untrained().eval(), load("digits_vit"), {"budget_weight": 2.0, "entropy_weight": 0.5}
    images = its.acm_images(7, stream=103).images
    assert not torch.equal(images, its.acm_images(7, stream=3).images), "not those of the distillation"
    with record(model, AdaptiveComputationModule) as records:
        ours = model(images).softmax(-1)
    theirs = start(images).softmax(-1)
    apart = (theirs * (theirs.log() - ours.log())).sum(-1).mean()
    spent = acm_loss(records, budget=0.3 - gates_share(model), **weights, diversity_weight=0.0)
    got = its.digits_acm_loss(model, budget=0.3, weights={**weights, "diversity_weight": 0.0}, stream=3)(7)
    torch.testing.assert_close(got, apart + spent.total, rtol=1e-4, atol=1e-6)
    assert spent.budget > 0.05
    torch.testing.assert_close(its.agreement_loss(model, stream=3)(7), apart, rtol=1e-4, atol=1e-6)
    assert its.agreement_loss(load("digits_vit"), stream=3)(7).item() == pytest.approx(0, abs=1e-6)


@torch.no_grad()
def test_the_share_of_a_token_is_that_of_the_learners_weighed_by_their_cost() -> None:
    model, images = untrained().eval(), cluttered_digits(3, split="test").images
    with setting(model, AdaptiveComputationModule, fixed=4):
        assert shares(model, images).tolist() == [[1.0] * 37] * 3
    for name, part in model.named_modules():
        if isinstance(part, AdaptiveComputationModule):
            part.fixed = 4 if name.endswith("feed_forward") else 1
    wide, small = 384 * 192, 72 * 384 + 48 * 192  # of a block: neurons, and the features on both sides of each
    expected = (wide + small / 4) / (wide + small)
    torch.testing.assert_close(shares(model, images), torch.full((3, 37), expected).double())


@torch.no_grad()
def test_the_shipped_model_is_as_good_and_as_cheap_as_its_card_says() -> None:
    number, figures = 1000, card("digits_acm")["figures"]
    drawn, model = cluttered_digits(number, split="test", seed=1), load("digits_acm")
    assert isinstance(model, ViT)
    said = figures["test_accuracy"]
    right = torch.cat([model(images).argmax(-1) for images in drawn.images.split(250)]) == drawn.labels
    # five standard deviations of the difference of two samples: a false alarm in 6e-7 of seeds
    spread = math.sqrt(said * (1 - said) * (1 / number + 1 / figures["test_images"]))
    assert abs(right.double().mean().item() - said) <= 5 * spread
    share = shares(model, drawn.images)
    assert share.mean().item() == pytest.approx(figures["test_share_of_the_learners"], abs=0.01)
    assert figures["test_share_of_the_learners"] == pytest.approx(figures["budget"], abs=0.05)
    auc = depth_auc((share[:, 1:] * 10**6).round().long(), digit_patches(drawn.masks))
    assert auc == pytest.approx(figures["test_auc_of_the_compute_for_the_digit"], abs=0.02)
    assert auc > 0.6
    chance = F.one_hot(drawn.labels).double().mean(0).max().item()
    assert said > chance + 0.4


@torch.no_grad()
def test_gathered_it_answers_as_masked() -> None:
    model, images = load("digits_acm"), cluttered_digits(40, split="test", seed=2).images
    with setting(model, AdaptiveComputationModule, execution="masked"):
        expected = model(images)
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-3)


# The study's rivals


def test_a_shuffled_gate_gives_the_same_answers_to_other_tokens() -> None:
    torch.manual_seed(0)
    gate, z = torch.nn.Linear(5, 3), torch.randn(4, 6, 5)
    mixed = study.Shuffled(gate)
    got, expected = mixed(z), gate(z)
    assert got.shape == expected.shape
    assert not torch.allclose(got, expected)
    sort = [answers.flatten(0, 1)[:, 0].sort().values for answers in (got, expected)]
    torch.testing.assert_close(*sort)
    assert not torch.equal(mixed(z), got), "another order each time"


@torch.no_grad()
def test_nested_widths_begin_as_the_same_function_with_the_largest_neurons_first() -> None:
    model: Any = study.nested().eval()
    images = cluttered_digits(4, split="test").images
    torch.testing.assert_close(model(images), load("digits_vit")(images), rtol=1e-4, atol=1e-4)
    for block in model.blocks:
        part = block.feed_forward
        size = part.expand.weight.norm(dim=1) * part.contract.weight.norm(dim=0)
        assert (size[1:] <= size[:-1]).all()
        assert part.widths == study.WIDTHS


@pytest.mark.usefixtures("short")
@torch.no_grad()
def test_a_static_model_has_a_share_of_every_layer_and_no_gate_to_ask(tmp_path: Any) -> None:
    with torch.enable_grad():
        model = study.narrow(0, 0.5, tmp_path).eval()
    images = cluttered_digits(2, split="test").images
    with record(model, AdaptiveComputationModule) as records:
        model(images)
    assert len(records) == 18
    assert all(one.logits is None and (one.learners == 1).all() for some in records.values() for one in some)
    neurons = [model.get_submodule(name).hidden for name in list(records)[:3]]
    assert neurons == [36, 24, 192]
    whole, its_own = count(load("digits_vit"), images).flops, count(model, images).flops
    dense = 6 * 2 * 37 * 2 * 110592  # of the layers that are narrower: two images, six blocks
    assert its_own == pytest.approx(whole - dense / 2, rel=0.03)
