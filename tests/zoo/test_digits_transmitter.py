"""Tokens across a channel: the loss of the recipe is the one it names, and what is said of the shipped model is so."""

import math
from pathlib import Path

import pytest
import torch

from benchmarks.communication_study import RULES, Ruled, controlled, tables
from dynlib.data import cluttered_digits
from dynlib.deciding import record, setting
from dynlib.edge import AWGNChannel, TokenTransmitter, transmission_loss
from dynlib.zoo import card, load
from dynlib.zoo.recipes import recipe, transmitter
from dynlib.zoo.recipes.transmitter import BATCH, BEST, GATES, LOW, WEIGHTS, WORST, begin, digits_transmitter_loss

BUDGETS = (0.1, 0.3, 0.6, 1.0)


def test_the_loss_draws_a_budget_for_each_image_and_one_ratio_and_is_the_same_for_the_same_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = recipe("digits_transmitter").build(**recipe("digits_transmitter").config)
    assert isinstance(model, TokenTransmitter)
    seen = []

    def spied(logits: torch.Tensor, labels: torch.Tensor, sent: object, **weights: float) -> object:
        parts = transmission_loss(logits, labels, sent, **weights)  # type: ignore[arg-type]
        seen.append((logits, sent, weights, parts))
        return parts

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
    logits, _, weights, parts = seen[0]
    assert weights == WEIGHTS
    answers = load("digits_vit")(cluttered_digits(BATCH, split="train", seed=20 * 10**6 + 3).images).softmax(-1)
    apart = (answers * (answers.log() - logits.log_softmax(-1))).sum() / BATCH  # KL, in place of the cross-entropy
    expected = apart + WEIGHTS["weight"] * parts.budget + WEIGHTS["inner_weight"] * parts.inner
    assert losses[0] == pytest.approx(expected.item(), abs=1e-4)
    assert model.snr == recipe("digits_transmitter").config["snr"]


def test_the_start_is_the_same_for_all_models_and_leaves_to_each_its_own_gates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(transmitter.START, "steps", 2)
    made, vit, weights = recipe("digits_transmitter"), load("digits_vit"), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = made.build(**made.config)
        own = {name: value.clone() for name, value in model.state_dict().items()}
        begin(model, vit, checkpoint=tmp_path / "start.pt")
        weights.append(model.state_dict())
        assert all(part.requires_grad for part in model.parameters())
        for name, value in weights[-1].items():
            assert torch.equal(value, own[name]) == (name.split(".")[0] in GATES), name
    both = {name: torch.equal(value, weights[1][name]) for name, value in weights[0].items()}
    assert all(same for name, same in both.items() if name.split(".")[0] not in GATES)
    assert not both["low"]
    assert not both["worth.0.weight"]
    assert not torch.equal(weights[0]["model.blocks.0.norm1.weight"], vit.state_dict()["blocks.0.norm1.weight"])


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
