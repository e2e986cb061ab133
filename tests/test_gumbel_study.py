"""What the study of unit 02 compares: what its file says of the estimators, and ReinMax, which it writes itself."""

from collections import defaultdict

import pytest
import torch
from torch import Tensor

from benchmarks import gumbel_study
from benchmarks.claim import load


def slope(p: Tensor) -> Tensor:
    """How softmax changes with its logits, where it is p."""
    return p.diag() - p.outer(p)


@pytest.mark.parametrize("tau", [0.3, 1.0, 3.0])
def test_reinmax_is_twice_the_slope_half_way_less_half_of_it_at_p(tau: float) -> None:
    logits = torch.randn(8, dtype=torch.float64, requires_grad=True)
    value = torch.randn(8, dtype=torch.float64)
    z = gumbel_study.reinmax(logits, tau, torch.Generator().manual_seed(3))
    assert sorted(z.detach().tolist()) == [0] * 7 + [1]
    (z * value).sum().backward()
    p = logits.detach().softmax(0)
    half_way = ((logits.detach() / tau).softmax(0) + z.detach()) / 2
    expected = 2 * slope(half_way) @ value - 0.5 * slope(p) @ value
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected)


def test_reinmax_at_one_is_right_on_average_where_the_loss_is_quadratic() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, generator=generator, dtype=torch.float64)
    points = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    p, losses = logits.softmax(0), (points**2).sum(-1)
    exact = p * (losses - (p * losses).sum())
    many = logits.expand(200_000, 8).clone().requires_grad_()
    ((gumbel_study.reinmax(many, 1.0, generator) @ points) ** 2).sum().backward()
    assert many.grad is not None
    error = many.grad.std(0) / len(many) ** 0.5
    assert ((many.grad.mean(0) - exact).abs() < 5 * error).all()


def test_what_ran_is_what_was_best_in_tuning() -> None:
    found = load("gumbel_study")
    lost: dict[tuple[str, float, float], list[float]] = defaultdict(list)
    for row in found["tuning"]:
        lost[row["estimator"], row["rate"], row["tau"]].append(row["loss"])
    assert {len(losses) for losses in lost.values()} == {len(gumbel_study.TUNED_ON)}
    names = [gumbel_study.SCORE, *gumbel_study.THROUGH]
    assert set(lost) == {
        (name, setting["rate"], setting["tau"]) for name in names for setting in gumbel_study.grid(name)
    }
    for name in names:
        best = min((key for key in lost if key[0] == name), key=lambda key: sum(lost[key]))
        ran = [row for row in found["runs"] if row["estimator"] == name]
        assert {(name, row["rate"], row["tau"]) for row in ran} == {best}
        assert [row["seed"] for row in ran] == list(gumbel_study.SEEDS)
