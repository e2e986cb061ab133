"""dynlib.edge.communication_training: the loss is its terms, its slope is the one it says, and training obeys it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynlib.deciding import record
from dynlib.edge import AWGNChannel, TokensSent, TokenTransmitter, draw_budgets, transmission_loss
from dynlib.edge.communication import GAIN
from tests.edge.transmitters import budget_by_hand, generator, made, pictures, run, sigmoid, vit


@pytest.mark.parametrize("slack", [0.0, 0.02, 0.3])
def test_the_loss_is_its_terms_and_the_budget_counts_tokens(slack: float) -> None:
    logits, sent = run(made(), pictures(), budget=0.3)
    labels = torch.arange(6) % 4
    loss = transmission_loss(logits, labels, sent, weight=2.0, slack=slack, inner_weight=0.25)
    assert loss.budget.item() == pytest.approx(budget_by_hand(sent, slack), abs=1e-12)
    assert loss.inner.item() == pytest.approx(sent.masks[:, :-1].mean().item(), abs=1e-12)
    assert loss.task.item() == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-12)
    total = loss.task + 2.0 * loss.budget + 0.25 * loss.inner
    assert loss.total.item() == pytest.approx(total.item(), abs=1e-12)


def record_of(sent: Tensor, margins: Tensor, alpha: float) -> TokensSent:
    none = torch.zeros(len(sent), dtype=torch.long)
    return TokensSent(
        sent, margins.sigmoid().cumprod(1), margins, sent[:, None], torch.full((len(sent),), alpha), none, none
    )


def test_masks_of_alpha_throughout_meet_no_budget_while_all_tokens_are_sent() -> None:
    everyone, margins = torch.ones(2, 10, dtype=torch.bool), torch.full((2, 1, 10), 0.3)
    loss = transmission_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), record_of(everyone, margins, 0.3))
    assert loss.budget.item() == pytest.approx(0.68, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_the_budget_moves_all_margins_the_more_the_nearer_they_are_to_the_edge(alpha: float) -> None:
    sent = torch.tensor([[True, True, False, False]])
    margins = torch.tensor([[[math.inf, 0.2, -0.1, -3.0], [math.inf, 1.2, 2.0, -2.0]]], requires_grad=True)
    logits, labels = torch.zeros(1, 3), torch.zeros(1, dtype=torch.long)
    transmission_loss(logits, labels, record_of(sent, margins, alpha), inner_weight=0).total.backward()
    assert margins.grad is not None
    for block in (0, 1):
        for token in range(4):
            here, other = (sigmoid(margins[0, one, token].item()) for one in (block, 1 - block))
            slope = here * (1 - here) * other / 4 * (1 if alpha < 0.5 else -1)
            assert margins.grad[0, block, token].item() == pytest.approx(slope, abs=1e-7)


def test_training_lets_a_larger_budget_send_more() -> None:
    torch.manual_seed(0)
    model = TokenTransmitter(vit().float(), after=2, symbols=4, channel=AWGNChannel(10))
    images, labels = torch.rand(32, 1, 12, 12, generator=generator()), torch.arange(32) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    draws = generator(9)
    model.train()
    for _ in range(100):
        with record(model, TokenTransmitter) as records:
            logits = model(images, budget=draw_budgets(32, low=0.1, generator=draws), generator=draws)
        optimizer.zero_grad()
        transmission_loss(logits, labels, records[""][0], weight=10.0, inner_weight=0.05).total.backward()
        optimizer.step()
    model.eval()
    shares = [run(model, images, budget=alpha)[1].sent.float().mean().item() for alpha in (0.2, 0.5, 0.9)]
    assert shares[0] < 0.4, shares
    assert shares[0] < shares[1] < shares[2] - 0.2, shares


def test_a_model_that_has_stopped_to_send_learns_to_send_again() -> None:
    model = made(choosy=False)
    with torch.no_grad():
        for worth in model.worth:
            worth.bias.fill_(-4 / GAIN)
    optimizer = torch.optim.Adam([*model.worth.parameters(), *model.price.parameters()], lr=0.02 / GAIN)
    images, labels = pictures(), torch.arange(6) % 4
    assert run(model, images)[1].sent.sum(1).tolist() == [1] * 6
    model.train()
    for _ in range(40):
        logits, sent = run(model, images)
        optimizer.zero_grad()
        transmission_loss(logits, labels, sent).total.backward()
        optimizer.step()
    assert run(model.eval(), images)[1].sent.double().mean() > 0.8


def test_the_loss_counts_tokens_of_half_precision_exactly() -> None:
    sent, margins = torch.ones(1, 3001, dtype=torch.bool), torch.full((1, 1, 3001), 1.0, dtype=torch.bfloat16)
    sent[0, 1:1001] = False
    loss = transmission_loss(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), record_of(sent, margins, 0.5))
    assert loss.budget.item() == pytest.approx(2001 / 3001 - 0.5 - 0.02, abs=1e-6)


def test_drawn_budgets_are_spread_evenly_and_stay_in_their_range() -> None:
    drawn = draw_budgets(8, low=0.2, high=0.6, generator=generator())
    assert ((drawn - 0.2) / 0.05).floor().tolist() == list(range(8))
    assert draw_budgets(3, low=1.0, high=1.0).tolist() == [1.0] * 3


@pytest.mark.usefixtures("as_users_run_it")
def test_a_loss_of_other_images_or_with_a_negative_weight_is_refused() -> None:
    logits, sent = run(made(), pictures())
    labels = torch.zeros(6, dtype=torch.long)
    with pytest.raises(ValueError, match="of 6 images, the logits of 5"):
        transmission_loss(logits[:5], labels[:5], sent)
    for name in ("weight", "slack", "inner_weight"):
        with pytest.raises(ValueError, match=f"^{name} must be at least 0"):
            transmission_loss(logits, labels, sent, **{name: -1})


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: draw_budgets(0), "count must be at least 1"),
        (lambda: draw_budgets(4, low=0.6, high=0.5), "low must not exceed high"),
    ],
)
def test_budgets_that_cannot_be_drawn_are_refused(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
