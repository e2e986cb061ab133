"""Sparsemax and entmax against the public package, a slow search for the threshold, and what must hold of them."""

import itertools
import math
from functools import partial

import entmax as package
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor
from torch.nn import functional as F

from dynlib.choice import entmax, entmax15, entmax15_loss, entmax_loss, sparsemax, sparsemax_loss

HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32, torch.float64]
ALPHAS = [1.0, 1.0001, 1.3, 1.5, 1.75, 2.0, 2.5, 4.0]
EXACT = {"rtol": 0, "atol": 1e-10}
few = settings(max_examples=50, deadline=None, derandomize=True)

by_number = [pytest.param(partial(entmax, alpha=alpha), alpha, id=f"number {alpha}") for alpha in ALPHAS]
by_tensor = [
    pytest.param(
        lambda x, alpha=alpha, **k: entmax(x, torch.tensor(alpha, dtype=torch.float64), **k),
        alpha,
        id=f"tensor {alpha}",
    )
    for alpha in ALPHAS
]
named = [pytest.param(sparsemax, 2.0, id="sparsemax"), pytest.param(entmax15, 1.5, id="entmax15")]
operators = pytest.mark.parametrize(("function", "alpha"), [*named, *by_number, *by_tensor])

named_losses = [pytest.param(sparsemax_loss, 2.0, id="sparsemax"), pytest.param(entmax15_loss, 1.5, id="entmax15")]
losses = pytest.mark.parametrize(
    ("loss", "alpha"),
    [*named_losses, *(pytest.param(partial(entmax_loss, alpha=alpha), alpha, id=str(alpha)) for alpha in ALPHAS)],
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed)).to(dtype)


def of_all_scales(rows: int = 1000, choices: int = 30) -> Tensor:
    """Rows from nearly flat to nearly one-hot, one choice of most of them impossible."""
    return normal(rows, choices) * torch.logspace(-3, 1, rows, dtype=torch.float64)[:, None]


def gradients(function, *inputs: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """The value of function(*inputs), and the gradients of Σ weights · value in every input."""
    inputs = tuple(tensor.detach().clone().requires_grad_() for tensor in inputs)
    value = function(*inputs)
    (value * weights).sum().backward()
    return value.detach(), *(tensor.grad for tensor in inputs)


def by_search(row: list[float], alpha: float) -> list[float]:
    """One row by its definition: search for the λ that makes the probabilities sum to 1."""

    def probability(score: float, threshold: float) -> float:
        if alpha == 1:
            return math.exp(score - threshold)
        return max(0.0, 1 + (alpha - 1) * (score - threshold)) ** (1 / (alpha - 1))

    top = max(row)
    row = [score - top for score in row]  # λ is from 0, where the first alone has 1, to log n
    found = brentq(lambda x: sum(probability(score, x) for score in row) - 1, 0, math.log(len(row)) + 1, xtol=1e-15)
    return [probability(score, found) for score in row]


def tsallis(p: Tensor, alpha: float) -> Tensor:
    """Ω(p), the negative entropy."""
    if alpha == 1:
        return torch.xlogy(p, p).sum(-1)
    return (p**alpha - p).sum(-1) / (alpha * (alpha - 1))


# ---- against others


@pytest.mark.parametrize(
    ("ours", "theirs"), [(sparsemax, package.sparsemax), (entmax15, package.entmax15)], ids=["sparsemax", "entmax15"]
)
def test_the_sorted_ones_agree_with_the_package_on_a_thousand_rows(ours, theirs):
    logits, weights = of_all_scales(), normal(1000, 30, seed=1)
    for mine, its in zip(*(gradients(f, logits, weights=weights) for f in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, its, **EXACT)


@pytest.mark.parametrize("alpha", [1.1, 1.25, 1.5, 1.9, 2.0, 2.5, 3.0])
def test_entmax_agrees_with_the_package_in_value_and_both_gradients(alpha):
    logits, weights = 2 * normal(1000, 30), normal(1000, 30, seed=1)
    alphas = torch.full((1000, 1), alpha, dtype=torch.float64)
    theirs = partial(package.entmax_bisect, n_iter=100)
    mine = gradients(entmax, logits, alphas, weights=weights)
    its = gradients(theirs, logits, alphas, weights=weights)
    for ours, other in zip(mine, its, strict=True):
        torch.testing.assert_close(ours, other, **EXACT)
    torch.testing.assert_close(entmax(logits, alpha), its[0], **EXACT)


@operators
def test_the_threshold_is_that_of_a_slow_search(function, alpha):
    logits = of_all_scales(60, 9)
    slow = torch.tensor([by_search(row, alpha) for row in logits.tolist()], dtype=torch.float64)
    torch.testing.assert_close(function(logits), slow, rtol=0, atol=1e-10 if alpha < 4 else 1e-7)  # brentq is not exact


@operators
@few
@given(data=st.data())
def test_no_other_distribution_has_a_larger_score_plus_entropy(function, alpha, data):
    size = data.draw(st.integers(1, 7))
    numbers = st.floats(-4, 4, width=32)
    logits = torch.tensor(data.draw(st.lists(numbers, min_size=size, max_size=size)), dtype=torch.float64)
    seed = data.draw(st.integers(0, 1000))
    p, q = function(logits), (3 * normal(200, size, seed=seed)).softmax(-1)
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert p.min() >= 0
    near = 0.99 * p + 0.01 * q
    for other in (q, near, torch.eye(size, dtype=torch.float64)):
        assert (p @ logits - tsallis(p, alpha) >= other @ logits - tsallis(other, alpha) - 1e-9).all()


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_the_sorted_and_the_searched_way_agree_on_long_rows_of_every_kind(alpha):
    # float64: a few of many in the support, about half of them, all of them; ties
    logits = normal(6, 5000) * torch.tensor([[3.0], [1.0], [0.1], [1e-3], [1e-5], [0.0]], dtype=torch.float64)
    weights = normal(6, 5000, seed=1)
    sorted_way = gradients(partial(entmax, alpha=alpha), logits, weights=weights)
    searched = gradients(lambda x: entmax(x, torch.full((6, 1), alpha)), logits, weights=weights)
    sizes = (sorted_way[0] > 0).sum(-1).tolist()
    assert sizes[0] < 20
    assert sizes[-1] == 5000
    assert sizes == sorted(sizes)
    for one, other in zip(sorted_way, searched, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("alpha", [1.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_choice_of_a_long_row_is_left_out(alpha, dtype):
    # one row at a time, so that no other row asks for more of its largest than this one
    inside = 1e-4  # the probability, to the power α − 1, of one choice beside ten equal ones that lead
    top = brentq(lambda x: 10 * x ** (1 / (alpha - 1)) + inside ** (1 / (alpha - 1)) - 1, 0, 1, xtol=1e-15)
    edge = torch.tensor([0.0] * 10 + [(inside - top) / (alpha - 1)] + [-9.0] * 500)
    for row in (edge, *(scale * normal(800, seed=seed) for seed, scale in enumerate([0.02, 0.1, 0.3, 1.0, 3.0] * 4))):
        searched = entmax(row.double(), torch.tensor(alpha))
        p = entmax(row.to(dtype), alpha)
        torch.testing.assert_close(p.double(), searched, rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-6)
    assert entmax(edge.to(dtype), alpha)[10].item() == pytest.approx(inside ** (1 / (alpha - 1)), rel=0.01)


@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-3, 0.1, 1.0, 3.0, 100.0])
def test_float32_is_as_near_as_float32_can_be(alpha, scale):
    logits = (scale * normal(20, 3000)).float()
    p, exact = entmax(logits, alpha), entmax(logits.double(), alpha)
    # of the largest probability; a step of 6e-8 in a probability's (α − 1)th power is what rounding makes of the logits
    bound = {1.2: 1e-5, 1.5: 1e-5, 2.0: 1e-5, 3.0: 1e-3}[alpha]
    assert ((p - exact).abs() <= bound * exact.amax(-1, keepdim=True)).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(20), rtol=0, atol=1e-5)


# ---- gradients


def off_the_kinks(alpha: float, rows: int = 12, choices: int = 5) -> Tensor:
    """Rows in which no logit lies where a choice enters or leaves the support."""
    logits = 1.5 * normal(400, choices, seed=5)
    p = entmax(logits, alpha)
    nudged = [
        entmax(logits.index_put((torch.arange(400), j.expand(400)), torch.tensor(d).double(), accumulate=True), alpha)
        for j in torch.arange(choices)
        for d in (-1e-3, 1e-3)
    ]
    steady = torch.stack([((q > 0) == (p > 0)).all(-1) for q in nudged]).all(0)
    if alpha > 2:
        steady &= ((p == 0) | (p > 0.02)).all(-1)  # the slope is steep next to a kink
    return logits[steady][:rows]


@operators
def test_the_gradient_in_the_logits_is_that_of_finite_differences(function, alpha):
    logits = off_the_kinks(alpha)
    assert len(logits) == 12
    assert alpha < 1.2 or (function(logits) == 0).any()
    assert torch.autograd.gradcheck(function, logits.requires_grad_())


@pytest.mark.parametrize("alpha", [1.001, 1.1, 1.3, 1.5, 1.75, 2.0, 2.5, 3.5])
def test_the_gradient_in_alpha_is_that_of_finite_differences(alpha):
    logits = off_the_kinks(alpha)
    alphas = torch.full((len(logits), 1), alpha, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: entmax(logits, a), alphas)


@pytest.mark.parametrize("above", [0.0, 1e-15, 1e-12, 1e-9, 1e-7, 1e-5])
def test_the_gradient_in_alpha_has_its_limit_at_softmax(above):
    # p(1 + a) = p + a dp/dα + O(a²), by Richardson's differences to O(a⁴) from p itself
    logits, weights = normal(20, 6), normal(20, 6, seed=1)
    _, _, slope = gradients(entmax, logits, torch.full((20, 1), 1 + above, dtype=torch.float64), weights=weights)

    def difference(step: float) -> Tensor:
        return ((entmax(logits, 1 + step) - logits.softmax(-1)) * weights).sum(-1, keepdim=True) / step

    h = 1e-3
    expected = (8 * difference(h) - 6 * difference(2 * h) + difference(4 * h)) / 3
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-6 + 10 * above)
    # and in one line: with L = log p, dp/dα = ½ p (E[L²] − L²)
    p, log = logits.softmax(-1), logits.log_softmax(-1)
    limit = (weights * p * ((p * log**2).sum(-1, keepdim=True) - log**2) / 2).sum(-1, keepdim=True)
    torch.testing.assert_close(slope, limit, rtol=0, atol=1e-12 + 100 * above)


def test_near_softmax_no_digit_is_lost():
    # to first order p(1 + a) = p + a dp/dα: with the formulas as they are written the error would be about 1e-16 / a
    logits = normal(20, 6)
    p, log = logits.softmax(-1), logits.log_softmax(-1)
    for a in (2.0**-52, 1e-14, 1e-12, 1e-10, 1e-8):
        expected = p + ((1 + a) - 1) * p * ((p * log**2).sum(-1, keepdim=True) - log**2) / 2
        torch.testing.assert_close(entmax(logits, 1 + a), expected, rtol=0, atol=1e-14 + 100 * a**2)


def test_every_alpha_of_a_batch_gets_its_own_gradient():
    logits, weights = normal(2, 3, 4, 7), normal(2, 3, 4, 7, seed=1)
    heads = torch.tensor([1.0, 1.6, 2.2], dtype=torch.float64).view(3, 1, 1)
    value, by_logits, by_alpha = gradients(entmax, logits, heads, weights=weights)
    assert by_alpha.shape == heads.shape
    for head in range(3):
        alone = gradients(entmax, logits[:, head], heads[head, 0, 0], weights=weights[:, head])
        for mine, other in zip((value[:, head], by_logits[:, head], by_alpha[head, 0, 0]), alone, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_alpha_may_be_wider_or_narrower_than_the_logits_and_learns_in_its_own_dtype():
    logits, weights = normal(5, 4), normal(5, 4, seed=1)
    *_, exact = gradients(entmax, logits, torch.tensor(1.75, dtype=torch.float64), weights=weights)
    for dtype, wide in itertools.product(DTYPES, [torch.float32, torch.float64]):
        alpha = torch.tensor(1.75, dtype=dtype)  # which every dtype holds exactly
        value, _, slope = gradients(entmax, logits.to(wide), alpha, weights=weights.to(wide))
        assert value.dtype == wide
        assert slope.dtype == dtype
        assert slope.item() == pytest.approx(exact.item(), rel=0.004 if dtype in HALVES else 1e-5)


@operators
def test_the_jacobian_is_symmetric_with_rows_that_sum_to_zero(function, alpha):
    for row in of_all_scales(20, 6):
        jacobian = torch.autograd.functional.jacobian(function, row)
        scale = jacobian.abs().max().clamp_min(1)
        torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-12 * scale.item())
        torch.testing.assert_close(jacobian.sum(-1), torch.zeros(6).double(), rtol=0, atol=1e-12 * scale.item())
        assert torch.linalg.eigvalsh(jacobian).min() > -1e-12 * scale
        outside = function(row) == 0
        assert (jacobian[outside] == 0).all()
        assert (jacobian[:, outside] == 0).all()


@operators
def test_an_infinite_gradient_outside_the_support_is_not_looked_at(function, alpha):
    logits = torch.tensor([1.0, 0.8, -torch.inf, -50.0 if alpha > 1.01 else -torch.inf], dtype=torch.float64)
    weights = torch.tensor([1.0, 3.0, torch.inf, torch.nan], dtype=torch.float64)
    logits.requires_grad_()
    function(logits).backward(weights)
    assert logits.grad.isfinite().all()
    assert logits.grad[1] > 0
    assert logits.grad[2:].tolist() == [0, 0]


def test_one_choice_with_a_huge_slope_does_not_drown_the_others():
    # α = 5: the third is 1e-12 inside the support, with q = p⁻³ = 1e9. It takes up what the others lose.
    def row(third: float) -> Tensor:
        return torch.tensor([1.0, 0.9, third], dtype=torch.float64)

    logits = row(brentq(lambda x: entmax(row(x), 5)[2].item() - 1e-3, 0, 1, xtol=1e-16))
    q = entmax(logits, 5) ** -3
    assert 1e8 < q[2] < 1e10
    exact = torch.diag(q) - torch.outer(q, q) / q.sum()
    exact[2, 2] = q[2] * (q[0] + q[1]) / q.sum()  # q₃ − q₃² / Σ q without the difference of two numbers near 1e9
    jacobian = torch.autograd.functional.jacobian(lambda x: entmax(x, 5), logits)
    torch.testing.assert_close(jacobian, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [sparsemax, entmax15, partial(entmax, alpha=1), partial(entmax, alpha=1.3)])
def test_a_second_derivative_is_refused(function):
    logits = normal(2, 4).requires_grad_()
    (slope,) = torch.autograd.grad(function(logits).square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        slope.sum().backward()


def test_changing_the_result_in_place_is_noticed():
    p = sparsemax(normal(2, 4).requires_grad_())
    p.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        p.sum().backward()


# ---- what must hold


@operators
def test_probabilities_follow_the_order_and_not_the_level_of_the_logits(function, alpha):
    logits = of_all_scales(200, 12)
    p = function(logits)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(200).double(), rtol=0, atol=1e-13)
    order = torch.randperm(12, generator=seeded(2))
    torch.testing.assert_close(function(logits[:, order]), p[:, order], rtol=0, atol=1e-14)
    shifted = function(logits + 1000 * normal(200, 1, seed=3))  # which rounds the logits to about 1e-13
    torch.testing.assert_close(shifted, p, rtol=0, atol=1e-10 if alpha < 4 else 1e-4)
    ranked = p.gather(-1, logits.argsort(-1, descending=True))
    assert (ranked.diff(dim=-1) <= 0).all()


def test_the_support_shrinks_as_alpha_grows():
    logits = 2 * normal(300, 20)
    sizes = torch.stack([(entmax(logits, alpha) > 0).sum(-1) for alpha in (1, 1.1, 1.3, 1.5, 1.8, 2, 2.7, 5, 20)])
    assert (sizes.diff(dim=0) <= 0).all()
    assert (sizes[0] == 20).all()
    assert sizes[-1].double().mean() < 2


@pytest.mark.parametrize(
    ("function", "alpha"), [param for param in (*named, *by_number, *by_tensor) if param.values[1] > 1.2]
)
def test_a_lead_of_one_over_alpha_minus_one_takes_all_and_less_does_not(function, alpha):
    lead = 1 / (alpha - 1)
    for others in (1, 4):
        row = torch.zeros(others + 1, dtype=torch.float64)
        row[0] = lead * (1 + 1e-12)
        assert function(row).tolist() == [1, *[0] * others]
        row[0] = lead * (1 - 1e-3)
        assert (function(row) > 0).all()


def test_towards_alpha_1_it_is_softmax_and_towards_infinity_argmax():
    logits = normal(50, 8)
    for above in (1e-3, 1e-6, 1e-9, 1e-13):
        torch.testing.assert_close(entmax(logits, 1 + above), logits.softmax(-1), rtol=0, atol=above + 1e-15)
    assert torch.equal(entmax(logits, 1), entmax(logits, 1.0))
    torch.testing.assert_close(entmax(logits, 1), logits.softmax(-1), rtol=0, atol=1e-15)
    for alpha in (1e4, 1e30):
        assert torch.equal(entmax(logits, alpha), F.one_hot(logits.argmax(-1), 8).double())


def test_one_batch_may_mix_softmax_and_others():
    logits, weights = normal(8, 6), normal(8, 6, seed=1)
    alphas = torch.tensor([1, 1 + 1e-14, 1.2, 1.5, 2, 2.5, 6, 50.0], dtype=torch.float64)[:, None]
    mixed = gradients(entmax, logits, alphas, weights=weights)
    for row in range(8):
        alone = gradients(entmax, logits[row], alphas[row], weights=weights[row])
        for one, other in zip(mixed, alone, strict=True):
            torch.testing.assert_close(one[row], other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@operators
def test_a_single_choice_is_taken_and_ties_share(function, alpha, dtype):
    single = torch.tensor([[3.0], [-8.0]], dtype=dtype, requires_grad=True)
    p = function(single)
    assert p.tolist() == [[1], [1]]
    p.sum().backward()
    assert single.grad.tolist() == [[0], [0]]
    tied = torch.tensor([5.0, 5.0, 5.0, 5.0, -1e4], dtype=dtype)
    torch.testing.assert_close(function(tied), torch.tensor([0.25] * 4 + [0]).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@operators
def test_values_and_gradients_are_finite_for_huge_logits(function, alpha, dtype):
    rows = list(itertools.product([1e4, 1e4 - 64, 0.0, -1e4], repeat=3))
    logits = torch.tensor(rows, dtype=dtype)
    value, slope = gradients(function, logits, weights=torch.tensor([1.0, -2.0, 0.5], dtype=dtype))
    winners = logits == logits.amax(-1, keepdim=True)
    torch.testing.assert_close(value, (winners / winners.sum(-1, keepdim=True)).to(dtype))
    assert slope.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_number_range_make_no_nan(dtype):
    most = torch.finfo(dtype).max
    logits = torch.tensor([[most, -most, 0.0], [most, most, -most], [-most, -most, -most]], dtype=dtype)
    for alpha in (1.0, 1 + 1e-6, 1.5, 2.0, 3.0, 1e3, 1e38):
        number = gradients(partial(entmax, alpha=alpha), logits, weights=torch.ones(3, dtype=dtype))
        tensor = gradients(entmax, logits, torch.full((3, 1), alpha, dtype=dtype), weights=torch.ones(3, dtype=dtype))
        expected = torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3], dtype=dtype)
        for value, *slopes in (number, tensor):
            torch.testing.assert_close(value, expected)
            assert all(slope.isfinite().all() for slope in slopes)


# ---- impossible choices, shapes, dtypes


@pytest.mark.parametrize("dtype", DTYPES)
@operators
def test_a_masked_choice_has_probability_and_gradient_zero_and_does_not_touch_the_others(function, alpha, dtype):
    logits = normal(300, 6, dtype=dtype)
    mask = torch.rand(300, 6, generator=seeded(17)) < 0.5
    mask[torch.arange(300), torch.arange(300) % 6] = False
    logits[mask] = -torch.inf
    weights = normal(300, 6, dtype=dtype, seed=1)
    p, slope = gradients(function, logits, weights=weights)
    assert (p[mask] == 0).all()
    assert (slope[mask] == 0).all()
    assert slope.isfinite().all()
    for row in range(0, 300, 10):
        kept = ~mask[row]
        short = gradients(function, logits[row, kept], weights=weights[row, kept])
        for long, other in zip((p[row, kept], slope[row, kept]), short, strict=True):
            torch.testing.assert_close(
                long, other, **({"rtol": 1e-3, "atol": 1e-3} if alpha > 2 else {"rtol": None, "atol": None})
            )


def test_masks_leave_no_nan_in_the_gradient_of_alpha():
    logits = torch.tensor([[0.3, -torch.inf, 0.0], [-torch.inf, -torch.inf, 2.0]], dtype=torch.float64)
    alphas = torch.tensor([[[1.0]], [[1.5]], [[3.0]]], dtype=torch.float64)
    _, by_logits, by_alpha = gradients(entmax, logits.expand(3, 2, 3), alphas, weights=normal(3, 2, 3))
    assert by_logits.isfinite().all()
    assert by_alpha.isfinite().all()
    assert (by_alpha != 0).all()


@operators
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (2, 1, 3, 4)])
def test_any_dimension_and_batch_shape_is_each_row_on_its_own(function, alpha, shape):
    logits, weights = normal(*shape), normal(*shape, seed=1)
    for dim in range(-len(shape), len(shape)):
        p, slope = gradients(partial(function, dim=dim), logits, weights=weights)
        assert p.shape == slope.shape == shape
        flat, flat_weights = (tensor.movedim(dim, -1).reshape(-1, shape[dim]) for tensor in (logits, weights))
        rows = [gradients(function, row, weights=weight) for row, weight in zip(flat, flat_weights, strict=True)]
        for whole, part in ((p, 0), (slope, 1)):
            expected = torch.stack([row[part] for row in rows])
            torch.testing.assert_close(whole.movedim(dim, -1).reshape(-1, shape[dim]), expected, rtol=0, atol=1e-12)


@operators
def test_the_memory_layout_does_not_matter_and_the_input_is_left_alone(function, alpha):
    base = normal(7, 2, 9)
    views = [base.transpose(0, 2), base[:, 1], base[..., ::2], base[0, 0].expand(4, 9)]
    for view in views:
        before = view.clone()
        torch.testing.assert_close(function(view), function(view.contiguous()), rtol=0, atol=1e-14)
        assert torch.equal(view, before)


def test_alpha_follows_the_dimension_of_the_choices():
    logits = normal(3, 5, 4)
    alphas = torch.tensor([1.2, 1.5, 2.0, 3.0], dtype=torch.float64)
    for shape in ((4,), (1, 4), (1, 1, 4)):
        p = entmax(logits, alphas.view(shape), dim=1)
        for i, alpha in enumerate(alphas.tolist()):
            torch.testing.assert_close(p[..., i], entmax(logits[..., i], alpha, dim=1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", HALVES)
@operators
def test_half_precision_is_float32_rounded_once(function, alpha, dtype):
    logits, weights = 2 * normal(100, 8, dtype=dtype), normal(100, 8, dtype=dtype, seed=1)
    p, slope = gradients(function, logits, weights=weights)
    wide, wide_slope = gradients(function, logits.float(), weights=weights.float())
    assert p.dtype == slope.dtype == dtype
    assert torch.equal(p, wide.to(dtype))
    torch.testing.assert_close(slope, wide_slope.to(dtype), rtol=0, atol=0)
    target = torch.arange(100) % 8
    loss = entmax_loss(logits, target, alpha)
    assert torch.equal(loss, entmax_loss(logits.float(), target, alpha).to(dtype))


# ---- losses


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (sparsemax_loss, package.sparsemax_loss),
        (entmax15_loss, package.entmax15_loss),
        *(
            (partial(entmax_loss, alpha=a), partial(package.entmax_bisect_loss, alpha=a, n_iter=100))
            for a in (1.2, 2.5)
        ),
    ],
    ids=["sparsemax", "entmax15", "1.2", "2.5"],
)
def test_the_losses_agree_with_the_package(ours, theirs):
    logits, weights = 2 * normal(1000, 30), normal(1000, seed=1)
    target = torch.randint(30, (1000,), generator=seeded(2))
    mine, its = (gradients(lambda x, f=f: f(x, target), logits, weights=weights) for f in (ours, theirs))
    for one, other in zip(mine, its, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@losses
def test_a_loss_is_its_definition(loss, alpha):
    logits = of_all_scales(100, 7)
    p = entmax(logits, alpha)
    best = (p * logits).sum(-1) - tsallis(p, alpha)  # that it is the best is shown above
    soft = normal(100, 7, seed=1).mul(3).softmax(-1)
    sparse = entmax(normal(100, 7, seed=2), 2)
    certain = torch.arange(100) % 7
    for target in (soft, sparse, certain):
        y = target if target.is_floating_point() else F.one_hot(target, 7).double()
        expected = tsallis(y, alpha) + best - (y * logits).sum(-1)
        torch.testing.assert_close(loss(logits, target), expected, rtol=0, atol=1e-11 if alpha != 1.0001 else 1e-7)


@losses
def test_a_loss_has_the_gradient_probabilities_minus_target(loss, alpha):
    logits = normal(30, 5).requires_grad_()
    weights = normal(30, seed=1)
    for target in (torch.arange(30) % 5, normal(30, 5, seed=2).softmax(-1)):
        y = target if target.is_floating_point() else F.one_hot(target, 5).double()
        _, slope = gradients(lambda x, t=target: loss(x, t), logits, weights=weights)
        expected = weights[:, None] * (entmax(logits.detach(), alpha) - y)
        torch.testing.assert_close(slope, expected, rtol=0, atol=1e-12)
        assert torch.autograd.gradcheck(lambda x, t=target: loss(x, t), logits)


@pytest.mark.parametrize("alpha", [1.0, 1 + 1e-9, 1.001, 1.3, 1.5, 2.0, 3.0])
def test_a_loss_has_its_gradient_in_alpha(alpha):
    logits = 2 * normal(10, 5)
    alphas = torch.full((10, 1), alpha, dtype=torch.float64)
    for target in (torch.arange(10) % 5, entmax(normal(10, 5, seed=2), 1.5)):
        *_, slope = gradients(lambda a, t=target: entmax_loss(logits, t, a), alphas, weights=torch.ones(10))
        h = 1e-4
        at = [entmax_loss(logits, target, alpha + k * h) for k in range(5)]  # from one side: there is nothing below 1
        expected = (-25 * at[0] + 48 * at[1] - 36 * at[2] + 16 * at[3] - 3 * at[4]) / (12 * h)
        torch.testing.assert_close(slope[:, 0], expected, rtol=0, atol=1e-6 if alpha < 3 else 1e-4)


def test_at_alpha_1_the_loss_is_cross_entropy_and_the_divergence():
    logits, certain, soft = normal(50, 6), torch.arange(50) % 6, normal(50, 6, seed=1).softmax(-1)
    for alpha in (1, torch.tensor(1.0), 1 + 1e-14):
        cross = F.cross_entropy(logits, certain, reduction="none")
        torch.testing.assert_close(entmax_loss(logits, certain, alpha), cross, rtol=0, atol=1e-12)
        divergence = F.kl_div(logits.log_softmax(-1), soft, reduction="none").sum(-1)
        torch.testing.assert_close(entmax_loss(logits, soft, alpha), divergence, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0, 3.0])
def test_a_loss_is_zero_just_where_the_margin_is_reached(alpha, dtype):
    margin = 1 / (alpha - 1)
    target = torch.tensor(2)
    for lead, zero in ((1.0, True), (1.001, True), (3.0, True), (0.99, False), (0.5, False), (-1.0, False)):
        logits = torch.tensor([0.0, 0.0, lead * margin, -0.25], dtype=dtype)
        loss = entmax_loss(logits, target, alpha).item()
        assert (loss == 0) if zero else (loss > 0), lead
    assert entmax_loss(torch.tensor([0.0, 9.0 * margin]), torch.tensor(0), alpha) > 1


@pytest.mark.parametrize("dtype", DTYPES)
@losses
def test_a_loss_is_never_negative_and_zero_at_its_own_probabilities(loss, alpha, dtype):
    logits = of_all_scales(500, 8).to(dtype)
    assert (loss(logits, logits.argmax(-1)) >= 0).all()
    wide = torch.promote_types(dtype, torch.float32)
    at_own = loss(logits, entmax(logits.to(wide), alpha))
    assert (at_own >= 0).all()
    # α > 2: beside a kink p is a root of what rounding leaves, and the loss is the square of an error in p
    eps = torch.finfo(wide).eps
    assert at_own.max() <= max(200 * eps, 10 * eps ** (2 / (alpha - 1)) if alpha > 2 else 0)


@losses
def test_a_loss_is_right_along_every_dimension_and_for_extremes(loss, alpha):
    logits = normal(3, 4, 5)
    for dim in range(-3, 3):
        size = logits.shape[dim]
        certain = torch.arange(60 // size).reshape(logits.movedim(dim, -1).shape[:-1]) % size
        soft = normal(3, 4, 5, seed=1).softmax(dim)
        for target in (certain, soft):
            flat = target.movedim(dim, -1) if target is soft else target
            expected = loss(logits.movedim(dim, -1).contiguous(), flat.contiguous())
            torch.testing.assert_close(loss(logits, target, dim=dim), expected, rtol=0, atol=1e-13)
    extreme = torch.tensor([1e4, -1e4, -torch.inf], dtype=torch.float64)
    value, slope = gradients(lambda x: loss(x, torch.tensor(1)), extreme, weights=torch.ones(()))
    assert value.item() == pytest.approx(2e4, abs=1)
    assert slope.tolist() == [1, -1, 0]
    assert loss(extreme, torch.tensor(0)) == 0
    assert loss(extreme, torch.tensor(2)) == torch.inf
    assert loss(torch.tensor([3.0]), torch.tensor(0)) == 0


# ---- errors

ALL = [
    sparsemax,
    entmax15,
    *(partial(entmax, alpha=alpha) for alpha in (1, 1.3, 1.5, 2, torch.tensor(1.5))),
    *(lambda x, f=f, **k: f(x, x.detach().argmax(-1), **k) for f in (sparsemax_loss, entmax15_loss)),
    lambda x, **k: entmax_loss(x, x.detach().argmax(-1), 1.3, **k),
]
everything = pytest.mark.parametrize("function", ALL, ids=[str(i) for i in range(len(ALL))])


@everything
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([0.0, math.nan, 1.0], "a logit is NaN"),
        ([0.0, math.inf, 1.0], r"a logit is \+inf"),
        ([-math.inf] * 3, "a row of logits is -inf throughout"),
    ],
)
def test_logits_that_make_no_distribution_are_an_error(function, row, says):
    for dtype in DTYPES:
        with pytest.raises(ValueError, match=says):
            function(torch.tensor([[0.0, 1.0, 2.0], row], dtype=dtype))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_a_dtype_that_holds_no_logits_is_an_error(dtype):
    logits = torch.ones(2, 3).to(dtype)
    for function in (sparsemax, entmax15, partial(entmax, alpha=1.3)):
        with pytest.raises(TypeError, match=f"need float16, .* got {dtype}"):
            function(logits)
    with pytest.raises(TypeError, match=f"need float16, .* got {dtype}"):
        sparsemax_loss(logits, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("function", [sparsemax, entmax15, partial(entmax, alpha=1.3)])
def test_no_logits_and_no_such_dimension_are_errors(function):
    for shape in ((0,), (0, 3), (3, 0)):
        with pytest.raises(ValueError, match="no logits to choose by"):
            function(torch.zeros(shape))
    for shape, dim in (((2, 3), 2), ((2, 3), -3), ((), -1), ((), 0)):
        with pytest.raises(ValueError, match=f"no dimension {dim}"):
            function(torch.zeros(shape), dim=dim)
    with pytest.raises(ValueError, match="no dimension 5"):
        entmax_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 1.5, dim=5)


BELOW = 1 - 1e-12


@pytest.mark.parametrize("alpha", [0, 0.5, BELOW, -2.0, math.nan, math.inf, -math.inf, 1e39])
def test_an_alpha_below_1_or_without_end_is_an_error(alpha):
    logits, target = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    rows = torch.tensor([[1.5], [alpha]], dtype=torch.float64)
    for given_alpha in (alpha, rows):
        with pytest.raises(ValueError, match="alpha must be finite and at least 1; got"):
            entmax(logits, given_alpha)
        with pytest.raises(ValueError, match="alpha must be finite and at least 1; got"):
            entmax_loss(logits, target, given_alpha)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("alpha", ["1.5", None, [1.5], 1j])
def test_an_alpha_that_is_no_number_is_an_error(alpha):
    with pytest.raises(TypeError, match=r"use float\(alpha\)"):
        entmax(torch.zeros(2, 3), alpha)


@pytest.mark.usefixtures("as_users_run_it")
def test_an_integer_tensor_as_alpha_is_an_error():
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        entmax(torch.zeros(2, 3), torch.tensor(2))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 1), (1, 2, 1), (0,)])
def test_an_alpha_that_does_not_fit_the_rows_is_an_error(shape):
    with pytest.raises(ValueError, match=r"give it a shape that broadcasts to \(2, 1\)"):
        entmax(torch.zeros(2, 3), torch.full(shape, 1.5))


LOSSES = [sparsemax_loss, entmax15_loss, partial(entmax_loss, alpha=1.3)]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("target", "says"),
    [
        (torch.tensor([0, 3]), "class indices must be 0 to 2; got 0 to 3"),
        (torch.tensor([-1, 2]), "class indices must be 0 to 2; got -1 to 2"),
        (torch.tensor([0, 1, 2]), r"class indices .* the shape \(2,\); got \(3,\)"),
        (torch.tensor([[0], [1]]), r"class indices .* the shape \(2,\); got \(2, 1\)"),
        (torch.tensor(1), r"class indices .* the shape \(2,\); got \(\)"),
        (torch.full((2, 2), 0.5), r"target probabilities .* the shape \(2, 3\); got \(2, 2\)"),
        (torch.full((3,), 1 / 3), r"target probabilities .* the shape \(2, 3\); got \(3,\)"),
        (torch.full((2, 3), 0.5), "must sum to 1 along dimension -1; got a smallest of 0.5 and sums from 1.5 to 1.5"),
        (torch.tensor([[1.5, -0.5, 0.0], [1.0, 0, 0]]), "must not be negative"),
        (torch.tensor([[math.nan, 0.5, 0.5], [1.0, 0, 0]]), "must not be negative"),
        (torch.tensor([[math.inf, 0.5, 0.5], [1.0, 0, 0]]), "must sum to 1"),
        (torch.full((2, 3), 1 / 3, requires_grad=True), r"use target\.detach\(\)"),
    ],
)
def test_a_target_that_does_not_fit_is_an_error(loss, target, says):
    with pytest.raises(ValueError, match=says):
        loss(torch.zeros(2, 3), target)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.uint8])
def test_a_target_of_another_dtype_is_an_error(loss, dtype):
    with pytest.raises(TypeError, match=f"int64 indices or floating-point probabilities; got {dtype}"):
        loss(torch.zeros(2, 3), torch.zeros(2).to(dtype))


# ---- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_gives_what_the_cpu_gives(dtype):
    logits, weights = 2 * normal(50, 300, dtype=dtype), normal(50, 300, dtype=dtype, seed=1)
    target = torch.arange(50)
    near = {"rtol": 0.02 if dtype in HALVES else 1e-4, "atol": 1e-4}
    for function, alpha in (param.values for param in (*named, *by_number, *by_tensor)):
        here = gradients(function, logits, weights=weights)
        there = gradients(function, logits.cuda(), weights=weights.cuda())
        for one, other in zip(here, there, strict=True):
            torch.testing.assert_close(other.cpu(), one, **near)
        loss = entmax_loss(logits.cuda(), target.cuda(), alpha)
        torch.testing.assert_close(loss.cpu(), entmax_loss(logits, target, alpha), **near)
