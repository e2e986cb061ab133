import copy
import math

import pytest
import torch
from torch import Tensor, nn

from dynlib.cost import Budget, BudgetLoss, CostCurve, Point
from dynlib.cost.interval import Interval

CURVE = CostCurve(
    [Point(k, 10.0 * k, 0.1 * k, 1e-3 * k, Interval(q, q, q), 1.0) for k, q in [(1, 0.5), (2, 0.7), (4, 0.8)]],
    dense=Point(None, 50.0, 0.4, 5e-3, Interval(0.8, 0.8, 0.8), 1.0),
)


@pytest.mark.parametrize(
    ("budget", "knob", "mixed"),
    [
        (Budget(share=0.4), 2, 20.0),
        (Budget(share=0.5), 2, 25.0),
        (Budget(share=2), 4, 40.0),
        (Budget(seconds=0.39), 2, 0.39),
        (Budget(joules=3.0, requests=1000), 2, 0.003),
        (Budget.battery(0.03, watt_hours=0.1, requests=10_000), 1, 0.00108),
    ],
)
def test_a_budget_is_a_knob(budget: Budget, knob: int, mixed: float) -> None:
    assert budget.knob(CURVE) == knob
    assert budget.mix(CURVE).cost(budget.measure) == pytest.approx(mixed)


def test_a_budget_that_nothing_meets() -> None:
    with pytest.raises(ValueError, match=r"the least is 10 flops a request, at 1, 20.0% of the dense model"):
        Budget(share=0.1).knob(CURVE)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({}, TypeError, "got none"),
        ({"share": 0.5, "seconds": 1.0}, TypeError, "got share and seconds"),
        ({"joules": 1.0}, TypeError, "number of requests"),
        ({"share": 0.5, "requests": 3}, TypeError, "number of requests"),
        ({"share": 0.0}, ValueError, "share"),
        ({"joules": math.nan, "requests": 3}, ValueError, "joules"),
        ({"joules": -1.0, "requests": 3}, ValueError, "joules"),
        ({"joules": 1.0, "requests": 0}, ValueError, "requests"),
    ],
)
def test_what_is_no_budget(given: dict[str, float], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Budget(**given)


def test_what_is_no_battery() -> None:
    with pytest.raises(ValueError, match="battery's share"):
        Budget.battery(3, watt_hours=1, requests=1)


class Gated(nn.Module):
    """Sixteen parts, each with a gate; part i is worth i / 16 to the task."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(16))

    def forward(self) -> tuple[Tensor, Tensor]:
        open_ = self.logits.sigmoid()
        return -(open_ * torch.arange(16) / 16).sum(), open_


@pytest.mark.parametrize(("scale", "target"), [(0.1, 0.3), (1.0, 0.6), (10.0, 0.8)])
def test_the_cost_is_driven_to_the_target_whatever_the_task_weighs(scale: float, target: float) -> None:
    model, budget = Gated(), BudgetLoss(target, weight=10 * scale)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(800):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 800)
        task, open_ = model()
        optimizer.zero_grad()
        (scale * (task + 0.02 * model.logits.square().mean()) + budget(open_)).backward()
        optimizer.step()
    assert abs(budget.miss) < 0.02
    assert model.logits[-4:].min() > model.logits[:4].max()  # what is worth more stays open


def test_at_most_leaves_a_cheap_model_alone() -> None:
    cost = torch.tensor([0.1, 0.2], requires_grad=True)
    budget = BudgetLoss(0.5, at_most=True)
    for _ in range(5):
        loss = budget(cost)
    assert loss == 0
    loss.backward()
    assert torch.equal(cost.grad, torch.zeros(2))
    assert budget.multiplier == 0
    assert budget.miss == pytest.approx(-0.35)
    pull = BudgetLoss(0.5)
    for _ in range(5):
        pull(cost)
    assert pull.multiplier.item() == pytest.approx(-5 * 0.02 * 10 * 0.35)


def test_the_gradient_is_the_multiplier_to_come() -> None:
    # d/dC of λ (C − b) + ρ/2 (C − b)² is λ + ρ (C − b), with and without at_most where too much is spent
    for at_most in (False, True):
        budget = BudgetLoss(0.25, weight=2.0, rate=1.0, at_most=at_most)
        for _ in range(3):
            cost = torch.tensor(0.75, dtype=torch.float64, requires_grad=True)
            budget(cost).backward()
            assert cost.grad.item() == pytest.approx(budget.multiplier.item())


def test_evaluation_leaves_the_multiplier_and_a_checkpoint_keeps_it() -> None:
    budget = BudgetLoss(0.5)
    budget(torch.tensor(0.9, requires_grad=True))
    kept = budget.multiplier.item()
    budget.eval()
    budget(torch.tensor(0.9))
    assert budget.multiplier.item() == kept > 0
    again = BudgetLoss(0.5)
    again.load_state_dict(copy.deepcopy(budget.state_dict()))
    assert again.multiplier.item() == kept
    assert list(budget.parameters()) == []


@pytest.mark.parametrize(
    ("cost", "error", "says"),
    [
        (torch.tensor(0.5), ValueError, "no gradient"),
        (torch.tensor([]), ValueError, "empty"),
        (torch.tensor(1), TypeError, "expected"),
        (0.5, TypeError, "expected"),
        (torch.tensor(math.nan, requires_grad=True), ValueError, "finite"),
        (torch.tensor([-1.0, 3.0], requires_grad=True), ValueError, "not negative"),
    ],
)
def test_what_is_no_cost(cost: object, error: type[Exception], says: str) -> None:
    budget = BudgetLoss(0.5)
    with pytest.raises(error, match=says):
        budget(cost)
    assert budget.multiplier == 0


@pytest.mark.parametrize("wrong", [{"target": 0.0}, {"target": math.nan}, {"target": 0.5, "rate": 0}])
def test_what_is_no_target(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"target|rate"):
        BudgetLoss(**wrong)


def test_the_multiplier_keeps_its_precision_and_moves_with_gradients_alone() -> None:
    model = nn.ModuleDict({"budget": BudgetLoss(0.5, weight=1, rate=1e-3)}).to(torch.bfloat16)
    budget = model["budget"]
    cost = torch.tensor(0.625, dtype=torch.bfloat16, requires_grad=True)
    for _ in range(3000):
        budget(cost)
    assert budget.multiplier.item() == pytest.approx(3000 * 1e-3 * 0.125)
    before = budget.multiplier.item()
    with torch.no_grad():
        budget(cost)
    assert budget.multiplier.item() == before


def test_a_cost_that_is_refused_leaves_the_miss() -> None:
    budget = BudgetLoss(0.5)
    with pytest.raises(ValueError, match=r"the least is -1.0, the mean 1.0"):
        budget(torch.tensor([-1.0, 3.0], requires_grad=True))
    assert math.isnan(budget.miss)
