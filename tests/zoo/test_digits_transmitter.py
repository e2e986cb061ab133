"""Tokens across a channel: the loss of the recipe is the one it names, and what is said of the shipped model is so."""

import math

import pytest
import torch

from benchmarks.communication_study import RULES, Ruled, controlled, tables
from dynlib.data import cluttered_digits
from dynlib.deciding import record, setting
from dynlib.edge import AWGNChannel, TokenTransmitter, transmission_loss
from dynlib.zoo import card, load
from dynlib.zoo.recipes import recipe, transmitter
from dynlib.zoo.recipes.transmitter import BATCH, BEST, LOW, WEIGHTS, WORST, digits_transmitter_loss

BUDGETS = (0.1, 0.3, 0.6, 1.0)


def test_the_loss_draws_a_budget_for_each_image_and_one_ratio_and_is_the_same_for_the_same_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = recipe("digits_transmitter").build(**recipe("digits_transmitter").config)
    assert isinstance(model, TokenTransmitter)
    seen = []

    def spied(logits: torch.Tensor, labels: torch.Tensor, sent: object, **weights: float) -> object:
        seen.append((model.snr, sent, weights))
        return transmission_loss(logits, labels, sent, **weights)  # type: ignore[arg-type]

    ratios: list[float] = []
    plain = model.send

    def noted(sent: object, **more: object) -> object:
        ratios.append(model.snr)
        return plain(sent, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(transmitter, "transmission_loss", spied)
    monkeypatch.setattr(model, "send", noted)
    with torch.no_grad():
        losses = [
            digits_transmitter_loss(model, stream=stream)(step).item() for stream, step in ((0, 3), (0, 3), (1, 3))
        ]
        digits_transmitter_loss(model, budget=0.25)(3)
    assert losses[0] == losses[1] != losses[2]
    budgets = seen[0][1].budget
    assert len(budgets) == BATCH
    assert LOW <= budgets.min() < 0.1 < 0.9 < budgets.max() <= 1
    assert seen[-1][1].budget.tolist() == [0.25] * BATCH
    assert all(WORST <= ratio <= BEST for ratio in ratios)
    assert ratios[0] == ratios[1] != ratios[2]
    assert seen[0][2] == WEIGHTS
    assert model.snr == recipe("digits_transmitter").config["snr"]


@torch.no_grad()
def test_the_shipped_model_is_as_good_as_its_card_says_and_a_larger_budget_sends_more() -> None:
    count, figures = 500, card("digits_transmitter")["figures"]
    drawn, model = cluttered_digits(count, split="test", seed=1), load("digits_transmitter")
    shares = []
    for alpha in BUDGETS:
        with setting(model, TokenTransmitter, budget=alpha), record(model, TokenTransmitter) as records:
            said = model(drawn.images, generator=torch.Generator().manual_seed(0)).argmax(-1)
        right = (said == drawn.labels).double().mean().item()
        expected = figures[f"test_accuracy_at_budget_{alpha:g}"]
        # five standard deviations of the difference of two samples: a false alarm in 6e-7 of seeds
        deviation = math.sqrt(expected * (1 - expected) * (1 / count + 1 / figures["test_images"]))
        assert abs(right - expected) <= 5 * deviation
        shares.append(records[""][0].sent.double().mean().item())
        assert shares[-1] == pytest.approx(figures[f"test_share_of_tokens_at_budget_{alpha:g}"], abs=0.02)
    assert shares == sorted(shares)
    assert shares[0] < 0.25
    assert shares[-1] > 0.9


@torch.no_grad()
def test_a_better_channel_reads_more_digits() -> None:
    drawn, model = cluttered_digits(500, split="test", seed=2), load("digits_transmitter")
    right = []
    for snr in (-10.0, 0.0, 20.0):
        with setting(model, TokenTransmitter, snr=snr, budget=0.6):
            said = model(drawn.images, generator=torch.Generator().manual_seed(0)).argmax(-1)
        right.append((said == drawn.labels).double().mean().item())
    # by far more than two standard deviations of the difference, 0.03
    assert right[0] + 0.06 < right[1] < right[2] - 0.06


@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_a_rule_sends_as_many_tokens_as_the_budget_says_and_its_own(rule: str) -> None:
    vit, images = load("digits_vit"), cluttered_digits(20, split="train", seed=5).images
    model = Ruled(vit, after=2, symbols=4, channel=AWGNChannel(10)).eval()
    model.rule, model.draws = rule, torch.Generator().manual_seed(0)
    ink = torch.nn.functional.avg_pool2d(images, 4).flatten(1)
    for alpha, many in ((0.01, 1), (0.3, 11), (1.0, 37)):
        sent = model.encode(images, budget=alpha).sent
        assert sent[:, 0].all()
        assert sent.sum(1).tolist() == [many] * 20
    sent = model.encode(images, budget=0.3).sent[:, 1:]
    darkest = (ink.masked_fill(~sent, 2).amin(1) >= ink.masked_fill(sent, -1).amax(1)).double().mean().item()
    assert darkest == 1 if rule == "ink" else darkest < 1


def test_a_controller_through_a_bad_hour_keeps_to_its_budget_within_two_percent() -> None:
    rows = [
        {"alpha": alpha, "snr": snr, "accuracy": 0.6 + 0.1 * alpha + 0.005 * snr, "symbols": 600 * alpha + 40 - snr}
        for alpha in BUDGETS
        for snr in (0.0, 10.0, 20.0)
    ]
    alphas, snrs, values, costs = tables(rows)
    assert (alphas, snrs) == ([0.1, 0.3, 0.6, 1.0], [0.0, 10.0, 20.0])
    assert values[1, 2].item() == pytest.approx(0.6 + 0.06 + 0.05)
    assert costs[2, 0].item() == pytest.approx(60 + 40 - 20)
    found = controlled(rows)
    assert abs(found["mean symbols"] / found["budget"] - 1) < 0.02
    assert found["mean symbols"] == pytest.approx(sum(slot.cost for slot in found["slots"]) / len(found["slots"]))
    assert sum(found["shares of the budgets"]) == pytest.approx(1)
    # in the bad hour, the third of six, the mean ratio is far below that of all other hours
    ratios = [slot.snr for slot in found["slots"]]
    assert sum(ratios[720:1080]) / 360 < 4 < 10 < sum(ratios[:720]) / 720
