"""What tokens and gates spend, the price of a budget, and a price put into the gates for good."""

import copy

import pytest
import torch
from torch import nn

from dynlib.backbone import ViT
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.width import AdaptiveComputationModule, acmize, fold_price, gates_share, price_for, shares_of_tokens
from dynlib.width.acm_conversion import acm_layers

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def model() -> ViT:
    torch.manual_seed(0)
    made = ViT(image_size=8, patch_size=4, channels=1, classes=3, dim=8, depth=2, heads=2)
    acmize(made, linear=("query_key_value", "attention.output"))
    for layer in acm_layers(made).values():
        nn.init.normal_(layer.gate[-1].weight, std=2.0)
    return made.eval()


@torch.no_grad()
def spent(model: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    with record(model, AdaptiveComputationModule) as records:
        model(images)
    return shares_of_tokens(records)


def test_what_tokens_spend_is_counted_by_hand(model: ViT) -> None:
    layers = acm_layers(model)
    with torch.no_grad(), record(model, AdaptiveComputationModule) as records:
        model(IMAGES)
    share = shares_of_tokens(records)
    assert share.shape == (6, 5)
    token = [
        sum(int(records[name][0].learners[2, 1]) * one.each * (one.dim + one.out) for name, one in layers.items()),
        sum(one.hidden * (one.dim + one.out) for one in layers.values()),
    ]
    assert share[2, 1].item() == pytest.approx(token[0] / token[1], abs=1e-12)
    assert share.unique().numel() > 3


def test_gates_cost_what_the_count_says_beyond_fixed_learners(model: ViT) -> None:
    with setting(model, AdaptiveComputationModule, fixed=0):
        none = count(model, IMAGES).flops
    with setting(model, AdaptiveComputationModule, fixed=4):
        learners = count(model, IMAGES).flops - none
    asked = count(model, IMAGES).flops - none - spent(model).mean().item() * learners
    assert gates_share(model) == pytest.approx(asked / learners, rel=1e-6)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_the_price_of_a_share_is_the_least_that_spends_no_more(model: ViT, share: float) -> None:
    before, asked = copy.deepcopy(model.state_dict()), spent(model)
    price = price_for(model.train(), IMAGES, share)
    assert model.training
    assert all(layer.price == 0 for layer in acm_layers(model.eval()).values())
    assert torch.equal(spent(model), asked)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with setting(model, AdaptiveComputationModule, price=price):
        assert spent(model).mean() <= share
    with setting(model, AdaptiveComputationModule, price=price - 32 / 2**13):
        assert spent(model).mean() > share


@pytest.mark.parametrize("price", [-1.5, 0, 0.7])
def test_a_folded_price_chooses_as_the_price_did(model: ViT, price: float) -> None:
    with setting(model, AdaptiveComputationModule, price=price):
        expected = spent(model)
    fold_price(model, price)
    assert torch.equal(spent(model), expected)


def test_a_share_that_no_price_reaches_is_an_error_and_the_mode_stays(model: ViT) -> None:
    with pytest.raises(ValueError, match=r"at a price of 16 the gates still spend 0\.\d+"):
        price_for(model.train(), IMAGES, 1e-4)  # a query keeps a learner
    assert model.training


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_a_share_is_above_zero_and_at_most_one(model: ViT, share: float) -> None:
    with pytest.raises(ValueError, match="share must be"):
        price_for(model, IMAGES, share)


def test_a_model_without_learners_is_an_error() -> None:
    plain = nn.Linear(3, 3)
    for asked in (lambda: gates_share(plain), lambda: price_for(plain, IMAGES, 0.5), lambda: fold_price(plain, 1.0)):
        with pytest.raises(ValueError, match="has no AdaptiveComputationModule"):
            asked()
    with pytest.raises(ValueError, match="nothing was recorded"):
        shares_of_tokens({})
