"""Perturbed solvers against softmax, integrals and finite differences, and solvers that are none against their errors.

The statistical tests are seeded, so they pass or fail once and for all; ``FALSE_ALARM`` is the probability that a right
implementation had been unlucky with its seed, for every number that is compared.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.nn import functional as F

from dynlib.choice.gumbel import gumbel_noise
from dynlib.choice.perturbed import fenchel_young_loss, perturbed_argmax, perturbed_max
from dynlib.data.paths import shortest_path

FALSE_ALARM = 1e-7
DEVIATIONS = float(stats.norm.isf(FALSE_ALARM / 2))  # of a mean of many, beyond which it is a false alarm
NOISES = ["gaussian", "gumbel"]
HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32, torch.float64]

THETA = torch.tensor([0.6, -0.3, 0.1, -1.2], dtype=torch.float64)
few = settings(max_examples=25, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed)).to(dtype)


def best(scores: Tensor) -> Tensor:
    return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores)


def top_two(scores: Tensor) -> Tensor:
    return torch.zeros_like(scores).scatter_(-1, scores.topk(2).indices, 1.0)


def path(scores: Tensor) -> Tensor:
    return shortest_path(-scores)


SOLVERS = {"best": (best, 1, (5,)), "top two": (top_two, 1, (5,)), "path": (path, 2, (4, 5))}
FUNCTIONS = {
    "argmax": perturbed_argmax,
    "max": perturbed_max,
    "loss": lambda solver, theta, **options: fenchel_young_loss(solver, theta, torch.zeros_like(theta), **options),
}
every_solver = pytest.mark.parametrize("name", SOLVERS)
every_noise = pytest.mark.parametrize("noise", NOISES)
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def hoeffding(n: int) -> float:
    """What the mean of n numbers in [0, 1] misses its expectation by, but for false alarms."""
    return math.sqrt(math.log(2 / FALSE_ALARM) / (2 * n))


# ---- against what is known


@pytest.mark.parametrize("sigma", [0.5, 1, 2.0])
@pytest.mark.parametrize("control_variate", [False, True])
def test_gumbel_noise_and_the_largest_give_the_softmax_and_its_jacobian(sigma, control_variate):
    # n = 400,000. An entry of the Jacobian is a mean of (y − y*) ∇ν / σ, whose variance is at most E ∇ν² / σ² = 1 / σ².
    n = 400_000

    def function(theta: Tensor) -> Tensor:
        return perturbed_argmax(
            best,
            theta,
            samples=n,
            sigma=sigma,
            noise="gumbel",
            control_variate=control_variate,
            generator=seeded(1),
        )

    softmax = (THETA / sigma).softmax(-1)
    torch.testing.assert_close(function(THETA), softmax, rtol=0, atol=hoeffding(n))
    expected = jacobian(lambda theta: (theta / sigma).softmax(-1), THETA)
    bound = DEVIATIONS / (sigma * math.sqrt(n))
    torch.testing.assert_close(jacobian(function, THETA), expected, rtol=0, atol=bound)
    assert expected.abs().max() > 5 * bound  # so many samples tell it from zero


def gaussian_choice(theta: np.ndarray, sigma: float) -> np.ndarray:
    """P(i is the largest of θ + σZ) = ∫ φ(x) Π Φ((θᵢ − θⱼ) / σ + x) dx over j ≠ i."""

    def density(x: float, i: int) -> float:
        others = np.delete((theta[i] - theta) / sigma + x, i)
        return float(stats.norm.pdf(x) * stats.norm.cdf(others).prod())

    return np.array([integrate.quad(density, -9, 9, args=(i,), epsabs=1e-12)[0] for i in range(len(theta))])


@pytest.mark.parametrize("choices", [2, 3])
@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_gaussian_noise_gives_what_integrals_say(choices, sigma):
    # n = 400,000, bounds as for the softmax: E ∇ν² = 1 here too
    n, theta = 400_000, THETA[:choices]

    def function(theta: Tensor) -> Tensor:
        return perturbed_argmax(best, theta, samples=n, sigma=sigma, generator=seeded(2))

    expected = gaussian_choice(theta.numpy(), sigma)
    np.testing.assert_allclose(function(theta).numpy(), expected, rtol=0, atol=hoeffding(n))
    step = 1e-4 * np.eye(choices)
    slope = [
        (gaussian_choice(theta.numpy() + e, sigma) - gaussian_choice(theta.numpy() - e, sigma)) / 2e-4 for e in step
    ]
    bound = DEVIATIONS / (sigma * math.sqrt(n))
    np.testing.assert_allclose(jacobian(function, theta).numpy(), np.array(slope).T, rtol=0, atol=bound)
    assert np.abs(slope).max() > 5 * bound
    # the other noise would be found out
    other = perturbed_argmax(best, theta, samples=n, sigma=sigma, noise="gumbel", generator=seeded(2))
    assert np.abs(other.numpy() - expected).max() > hoeffding(n)


def test_the_perturbed_maximum_of_two_is_that_of_the_textbook():
    # n = 400,000. max(θ + σZ) is Lipschitz in Z with constant σ: its mean misses by σ √(2 log(2 / α) / n) at most.
    n, sigma, (a, b) = 400_000, 1.5, THETA[:2].tolist()
    got = perturbed_max(best, THETA[:2], samples=n, sigma=sigma, generator=seeded(3)).item()
    spread = sigma * math.sqrt(2)
    d = (a - b) / spread
    expected = a * stats.norm.cdf(d) + b * stats.norm.cdf(-d) + spread * stats.norm.pdf(d)
    assert abs(got - expected) < sigma * 2 * hoeffding(n)


def test_gumbel_noise_makes_the_maximum_a_logsumexp_and_the_loss_a_cross_entropy():
    # n = 400,000. The largest of θ + σ · Gumbel has variance σ²π²/6; so has the loss.
    n, sigma, target = 400_000, 0.7, torch.tensor([0, 0, 1.0, 0], dtype=torch.float64)
    bound = DEVIATIONS * sigma * math.pi / math.sqrt(6 * n)
    got = perturbed_max(best, THETA, samples=n, sigma=sigma, noise="gumbel", generator=seeded(4))
    expected = sigma * (THETA / sigma).logsumexp(-1) + sigma * np.euler_gamma
    assert abs(got - expected) < bound
    loss = fenchel_young_loss(best, THETA, target, samples=n, sigma=sigma, noise="gumbel", generator=seeded(4))
    expected = sigma * F.cross_entropy(THETA / sigma, target) + sigma * np.euler_gamma
    assert abs(loss - expected) < bound


@every_noise
@every_solver
def test_estimates_follow_the_formulas_sample_by_sample(name, noise):
    solver, item_dims, item = SOLVERS[name]
    samples, sigma, theta, g = 7, 0.8, normal(3, *item), normal(3, *item, seed=1)
    like = torch.empty(samples, 3, math.prod(item), dtype=torch.float64)
    generator = seeded(5)
    z = gumbel_noise(like, generator=generator) if noise == "gumbel" else like.normal_(generator=generator)
    z = z.reshape(samples, 3, *item)
    options = {"samples": samples, "sigma": sigma, "noise": noise, "item_dims": item_dims}
    for control_variate in (False, True):
        leaf = theta.clone().requires_grad_()
        y = perturbed_argmax(solver, leaf, control_variate=control_variate, generator=seeded(5), **options)
        y.backward(g)
        for i in range(3):
            value, slope, maximum = torch.zeros(item), torch.zeros(item), 0.0
            for m in range(samples):
                scores = theta[i] + sigma * z[m, i]
                vertex = solver(scores[None])[0]
                nu = z[m, i] if noise == "gaussian" else 1 - torch.exp(-z[m, i])
                plain = solver(theta[i][None])[0] if control_variate else 0
                value = value + vertex / samples
                slope = slope + ((vertex - plain) * g[i]).sum() * nu / (sigma * samples)
                maximum += float((vertex * scores).sum()) / samples
            torch.testing.assert_close(y[i], value.to(y), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(leaf.grad[i], slope, rtol=1e-10, atol=1e-12)
            top = perturbed_max(solver, theta, generator=seeded(5), **options)[i]
            assert top.item() == pytest.approx(maximum, rel=1e-12)
            loss = fenchel_young_loss(solver, theta, g, generator=seeded(5), **options)[i]
            assert loss.item() == pytest.approx(maximum - float((theta[i] * g[i]).sum()), rel=1e-10)


# ---- properties


@every_noise
@every_solver
def test_the_gradient_of_the_maximum_is_that_of_finite_differences_with_the_same_noise(name, noise):
    solver, item_dims, item = SOLVERS[name]
    theta = normal(2, *item, seed=2).requires_grad_()
    options = {"samples": 5, "sigma": 0.7, "noise": noise, "item_dims": item_dims}
    assert torch.autograd.gradcheck(lambda t: perturbed_max(solver, t, generator=seeded(6), **options), theta)
    (slope,) = torch.autograd.grad(perturbed_max(solver, theta, generator=seeded(6), **options).sum(), theta)
    y = perturbed_argmax(solver, theta, generator=seeded(6), **options)
    torch.testing.assert_close(slope, y, rtol=1e-12, atol=1e-12)


@every_noise
@every_solver
def test_the_loss_passes_a_gradient_check_in_scores_and_target(name, noise):
    solver, item_dims, item = SOLVERS[name]
    theta = normal(2, *item, seed=3).requires_grad_()
    target = solver(normal(2, *item, seed=4)).requires_grad_()

    def loss(theta: Tensor, target: Tensor) -> Tensor:
        return fenchel_young_loss(
            solver,
            theta,
            target,
            samples=5,
            sigma=0.7,
            noise=noise,
            item_dims=item_dims,
            generator=seeded(7),
        )

    assert torch.autograd.gradcheck(loss, (theta, target))
    of_theta, of_target = torch.autograd.grad(loss(theta, target).sum(), (theta, target))
    y = perturbed_argmax(
        solver, theta, samples=5, sigma=0.7, noise=noise, item_dims=item_dims, generator=seeded(7)
    ).detach()
    torch.testing.assert_close(of_theta, y - target, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(of_target, -theta, rtol=1e-12, atol=1e-12)


@every_noise
@every_solver
def test_the_loss_is_convex_in_the_scores(name, noise):
    solver, item_dims, item = SOLVERS[name]
    a, b = (3 * normal(40, *item, seed=seed) for seed in (5, 6))
    target = solver(normal(40, *item, seed=7))
    options = {"samples": 3, "noise": noise, "item_dims": item_dims}
    at_a, between, at_b = (
        fenchel_young_loss(solver, theta, target, generator=seeded(8), **options) for theta in (a, 0.3 * a + 0.7 * b, b)
    )
    assert (between <= 0.3 * at_a + 0.7 * at_b + 1e-12).all()
    assert (between < 0.3 * at_a + 0.7 * at_b - 1e-3).any()


@every_solver
def test_the_perturbed_maximum_is_above_the_maximum_and_the_loss_not_negative(name):
    # 20 problems, n = 4,000 each. ⟨y, θ + σZ⟩ is Lipschitz in Z with constant σ √Σy: bounds as in the textbook test.
    solver, item_dims, item = SOLVERS[name]
    n, sigma, theta = 4000, 0.5, normal(20, *item, seed=8)
    dims = tuple(range(-item_dims, 0))
    options = {"samples": n, "sigma": sigma, "item_dims": item_dims}
    top = perturbed_max(solver, theta, generator=seeded(9), **options)
    y = perturbed_argmax(solver, theta, generator=seeded(9), **options)
    slack = sigma * 2 * hoeffding(n) * math.sqrt(sum(item))
    assert ((y * theta).sum(dims) <= (solver(theta) * theta).sum(dims) + 1e-12).all()
    assert ((solver(theta) * theta).sum(dims) <= top + slack).all()
    assert (top - (y * theta).sum(dims)).mean() > slack  # so many samples tell the two apart
    examples = solver(normal(20, *item, seed=9))
    for target in (examples, solver(theta), y):
        assert (fenchel_young_loss(solver, theta, target, generator=seeded(9), **options) >= -slack).all()


def is_mean_of_paths(y: np.ndarray) -> bool:
    """Is there a flow of 1 from the first to the last cell, right, down and diagonal, with y through every cell?"""
    height, width = y.shape
    cells = [(i, j) for i in range(height) for j in range(width)]
    edges = [((i, j), (i + a, j + b)) for i, j in cells for a, b in ((0, 1), (1, 0), (1, 1))]
    edges = [edge for edge in edges if edge[1] in cells]
    into, out = (np.array([[edge[end] == cell for edge in edges] for cell in cells], float) for end in (1, 0))
    into_y, out_y = y.flatten().copy(), y.flatten().copy()
    if abs(y[0, 0] - 1) > 1e-9 or abs(y[-1, -1] - 1) > 1e-9:
        return False
    into_y[0] = out_y[-1] = 0
    found = optimize.linprog(
        np.zeros(len(edges)), A_eq=np.concatenate([into, out]), b_eq=np.concatenate([into_y, out_y]), bounds=(0, None)
    )
    return bool(found.success)


@every_noise
def test_the_perturbed_solution_is_a_mean_of_solutions(noise):
    options = {"samples": 50, "sigma": 2.0, "noise": noise}
    theta = normal(30, 5, seed=10)
    y = perturbed_argmax(best, theta, generator=seeded(10), **options)
    torch.testing.assert_close(y.sum(-1), torch.ones(30).double(), rtol=0, atol=1e-12)
    y = perturbed_argmax(top_two, theta, generator=seeded(10), **options)
    torch.testing.assert_close(y.sum(-1), torch.full((30,), 2.0).double(), rtol=0, atol=1e-12)
    assert y.min() >= 0
    assert y.max() <= 1
    y = perturbed_argmax(path, normal(6, 4, 5, seed=11), item_dims=2, generator=seeded(10), **options).numpy()
    assert ((y > 0.05) & (y < 0.95)).any((1, 2)).all()
    assert all(is_mean_of_paths(each) for each in y)
    beyond, torn = y[0].copy(), y[0].copy()
    beyond[0, 1] = 1.02 - beyond[1, 0]
    torn[0, 1:3] = torn[1, :2] = torn[2, 0] = 0.19  # each path meets one of two neighbouring diagonals
    assert not is_mean_of_paths(beyond)
    assert not is_mean_of_paths(torn)


@every_noise
@every_solver
def test_little_noise_gives_the_solver_and_much_noise_forgets_the_scores(name, noise):
    solver, item_dims, item = SOLVERS[name]
    theta = normal(10, *item, seed=12)
    y = perturbed_argmax(solver, theta, sigma=1e-7, noise=noise, item_dims=item_dims, generator=seeded(11))
    assert torch.equal(y, solver(theta))
    loud, other = (
        perturbed_argmax(solver, t, sigma=1e7, noise=noise, item_dims=item_dims, generator=seeded(11))
        for t in (theta, theta.flip(0))
    )
    assert torch.equal(loud, other)
    assert not torch.equal(loud, solver(theta))


def test_the_jacobian_is_symmetric_and_positive_and_its_columns_add_up_to_zero():
    # n = 200,000: an entry misses by 1 / (σ √n) in standard deviation at most
    n, sigma, theta = 200_000, 1.3, torch.tensor([0.3, 0.0, -0.4, 0.8, 0.1], dtype=torch.float64)
    found = jacobian(lambda t: perturbed_argmax(top_two, t, samples=n, sigma=sigma, generator=seeded(12)), theta)
    bound = DEVIATIONS / (sigma * math.sqrt(n))
    torch.testing.assert_close(found, found.T, rtol=0, atol=2 * bound)
    assert torch.linalg.eigvalsh((found + found.T) / 2).min() > -5 * bound
    torch.testing.assert_close(found.sum(0), torch.zeros(5).double(), rtol=0, atol=5 * bound)
    assert found.diagonal().min() > 5 * bound


def estimates(*, repeats: int, sigma: float, noise: str, control_variate: bool, seed: int) -> Tensor:
    """Gradients of ⟨y_σ(θ), g⟩, each from 4 samples."""
    theta = THETA.expand(repeats, -1).clone().requires_grad_()
    options = {"samples": 4, "sigma": sigma, "noise": noise, "control_variate": control_variate}
    y = perturbed_argmax(best, theta, generator=seeded(seed), **options)
    (slope,) = torch.autograd.grad(y, theta, torch.tensor([1.0, -2.0, 0.5, 3.0]).double().expand_as(y))
    return slope


@every_noise
def test_the_control_variate_leaves_the_mean_and_takes_away_variance(noise):
    # n = 100,000 gradients, each with the control variate and without, from other noise
    n = 100_000
    plain, controlled = (
        estimates(repeats=n, sigma=0.2, noise=noise, control_variate=control, seed=13 + control)
        for control in (False, True)
    )
    error = ((plain.var(0) + controlled.var(0)) / n).sqrt()
    assert ((plain.mean(0) - controlled.mean(0)).abs() < DEVIATIONS * error).all()
    assert controlled.var(0).sum() < 0.5 * plain.var(0).sum()
    # with little noise every sample gives y*(θ), and nothing is left
    still = estimates(repeats=1000, sigma=0.01, noise=noise, control_variate=True, seed=15)
    assert (still == 0).all()
    assert estimates(repeats=1000, sigma=0.01, noise=noise, control_variate=False, seed=15).var() > 100


def test_the_control_variate_does_not_touch_the_value():
    theta = normal(6, 5, seed=13)
    plain, controlled = (
        perturbed_argmax(best, theta, control_variate=control, generator=seeded(16)) for control in (False, True)
    )
    assert torch.equal(plain, controlled)


def test_the_spread_of_the_gradient_goes_as_one_over_sigma():
    # where all scores are equal σ does not change which vertex a sample gives
    slopes = []
    for sigma in (1.0, 0.125):
        theta = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
        (perturbed_argmax(best, theta, sigma=sigma, generator=seeded(17)) * normal(3, 4)).sum().backward()
        slopes.append(theta.grad)
    torch.testing.assert_close(8 * slopes[0], slopes[1], rtol=1e-12, atol=0)
    assert slopes[0].abs().min() > 0


def test_minus_the_costs_learn_the_costs():
    """The loss lowers the costs along the example and raises them along the path that was taken instead."""
    costs = torch.full((6, 6), 5.0)
    example = torch.zeros(6, 6)
    example[0] = example[:, -1] = 1
    learned = costs.clone().requires_grad_()
    optimizer = torch.optim.SGD([learned], lr=0.5)
    losses = []
    for step in range(60):
        loss = fenchel_young_loss(path, -learned, example, samples=3, item_dims=2, generator=seeded(step))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert (learned.grad[example == 1] >= 0).all()  # to be lowered
            assert (learned.grad[example == 0] <= 0).all()  # to be raised
            assert learned.grad.abs().max() > 0
        optimizer.step()
        losses.append(loss.item())
    assert not torch.equal(shortest_path(costs), example)
    assert torch.equal(shortest_path(learned.detach()), example)
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])


# ---- one call for all


@pytest.mark.parametrize("control_variate", [False, True])
def test_all_samples_of_all_problems_are_one_call(control_variate):
    calls = []

    def solver(scores: Tensor) -> Tensor:
        calls.append(scores)
        assert not torch.is_grad_enabled()
        assert not scores.requires_grad
        return path(scores)

    theta = normal(2, 3, 4, 5).requires_grad_()
    perturbed_argmax(
        solver, theta, samples=7, control_variate=control_variate, item_dims=2, generator=seeded(18)
    ).sum().backward()
    assert [tuple(scores.shape) for scores in calls] == [((7 + control_variate) * 6, 4, 5)]
    if control_variate:
        assert torch.equal(calls[0][-6:], theta.detach().flatten(0, 1))
    for function in (perturbed_max, lambda *args, **options: fenchel_young_loss(*args, theta, **options)):
        calls.clear()
        function(solver, theta, samples=3, item_dims=2).sum().backward()
        assert [tuple(scores.shape) for scores in calls] == [(18, 4, 5)]


def test_samples_come_first_so_that_a_solver_can_know_its_problem():
    closed = torch.tensor([[True, False, False], [False, True, False], [False, False, True], [False, False, False]])

    def solver(scores: Tensor) -> Tensor:
        return best(scores.masked_fill(closed.repeat(len(scores) // 4, 1), -torch.inf))

    y = perturbed_argmax(solver, torch.zeros(4, 3), samples=200, control_variate=True, generator=seeded(19))
    assert torch.equal(y == 0, closed)


@every_function
@every_noise
def test_a_batch_has_any_shape_and_any_layout(function, noise):
    theta = normal(6, 4, 5, seed=14)
    options = {"samples": 4, "noise": noise, "item_dims": 2}
    flat = function(path, theta, generator=seeded(20), **options)
    folded = function(path, theta.view(2, 3, 4, 5), generator=seeded(20), **options)
    assert torch.equal(folded.reshape(flat.shape), flat)
    assert folded.shape[:2] == (2, 3)
    turned = function(path, theta.permute(2, 1, 0).contiguous().permute(2, 1, 0), generator=seeded(20), **options)
    assert torch.equal(turned, flat)
    alone = function(path, theta[0], **options)
    assert alone.shape == (theta[0].shape if function is perturbed_argmax else ())


@every_function
def test_a_solver_may_spoil_what_it_was_given(function):
    def spoils(scores: Tensor) -> Tensor:
        answer = best(scores)
        return scores.copy_(answer)

    theta = normal(4, 5, seed=15)
    before = theta.clone()
    clean = function(best, theta, samples=6, generator=seeded(21))
    assert torch.equal(function(spoils, theta, samples=6, generator=seeded(21)), clean)
    assert torch.equal(theta, before)


@every_function
def test_gradients_end_at_the_solver(function):
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def solver(scores: Tensor) -> Tensor:
        with torch.enable_grad():
            return best(scores) * weight

    assert not function(solver, THETA, samples=3).requires_grad


def test_a_second_derivative_of_the_perturbed_argmax_is_refused():
    theta = normal(2, 5, seed=16).requires_grad_()
    value = perturbed_argmax(best, theta, samples=3, generator=seeded(22))
    (slope,) = torch.autograd.grad(value.square().sum(), theta, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        slope.square().sum().backward()


@pytest.mark.parametrize("function", [perturbed_max, FUNCTIONS["loss"]])
def test_a_second_derivative_of_the_maximum_has_nothing_to_follow(function):
    theta = normal(2, 5, seed=16).requires_grad_()
    (slope,) = torch.autograd.grad(function(best, theta, samples=3).sum(), theta, create_graph=True)
    assert not slope.requires_grad


# ---- precision and randomness


@every_function
@every_noise
@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_is_computed_in_float32_and_rounded_once(function, noise, dtype):
    theta = normal(3, 5, seed=17, dtype=dtype).requires_grad_()
    wide = theta.detach().to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    seen = []

    def solver(scores: Tensor) -> Tensor:
        seen.append(scores.dtype)
        return best(scores)

    value, expected = (function(solver, t, samples=9, noise=noise, generator=seeded(23)) for t in (theta, wide))
    assert seen == [wide.dtype] * 2
    assert value.dtype == dtype
    assert torch.equal(value, expected.to(dtype))
    weights = normal(*value.shape, seed=18, dtype=dtype)
    value.backward(weights)
    expected.backward(weights.to(wide.dtype))
    assert theta.grad.dtype == dtype
    assert torch.equal(theta.grad, wide.grad.to(dtype))
    assert theta.grad.abs().max() > 0


def test_the_loss_of_large_scores_keeps_its_digits():
    theta = torch.tensor([[30_000.0, 29_999.0, -5.0]], dtype=torch.float32)
    target = torch.tensor([[1.0, 0.0, 0.0]])
    got = fenchel_young_loss(best, theta, target, samples=1000, generator=seeded(24))
    shifted = fenchel_young_loss(best, theta - 30_000, target, samples=1000, generator=seeded(24))
    torch.testing.assert_close(got, shifted, rtol=0, atol=5e-3)
    assert shifted > 0.1


def test_a_target_may_be_of_another_precision():
    theta, target = normal(3, 5, seed=19), best(normal(3, 5, seed=20))
    expected = fenchel_young_loss(best, theta, target, generator=seeded(25))
    for dtype in DTYPES:
        assert torch.equal(fenchel_young_loss(best, theta, target.to(dtype), generator=seeded(25)), expected)


@every_function
@every_noise
def test_a_generator_repeats_and_leaves_the_global_one_alone(function, noise):
    theta, options = normal(4, 6, seed=21), {"samples": 5, "noise": noise}
    before = torch.get_rng_state()
    first, again, other = (function(best, theta, generator=seeded(seed), **options) for seed in (26, 26, 27))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    generator = seeded(28)
    assert not torch.equal(*(function(best, theta, generator=generator, **options) for _ in range(2)))


@every_function
@every_noise
def test_without_a_generator_the_global_seed_counts(function, noise):
    theta, options = normal(4, 6, seed=22), {"samples": 5, "noise": noise}
    with torch.random.fork_rng():
        torch.manual_seed(29)
        first, second = (function(best, theta, **options) for _ in range(2))
        torch.manual_seed(29)
        assert torch.equal(function(best, theta, **options), first)
        assert not torch.equal(first, second)


def test_problems_and_samples_have_noise_of_their_own():
    y = perturbed_argmax(best, torch.zeros(50, 8), samples=1, generator=seeded(30))
    assert len(y.unique(dim=0)) == 8
    y = perturbed_argmax(best, torch.zeros(1, 8), samples=50, generator=seeded(30))
    assert (y > 0).sum() == 8


# ---- solvers that are none


@every_function
@pytest.mark.parametrize(
    ("theta", "minimiser", "item_dims"),
    [
        (0.001 * normal(3, 6, seed=23), lambda scores: best(-scores), 1),
        (normal(6, seed=23, dtype=torch.float32), lambda scores: top_two(-scores), 1),
        (-5 - normal(5, 12, 12, seed=23), shortest_path, 2),
        (100 * torch.rand(20, 12, 12, generator=seeded(23)), shortest_path, 2),
    ],
)
@pytest.mark.parametrize("sigma", [0.01, 1.0])
def test_a_solver_that_minimises_is_told(function, theta, minimiser, item_dims, sigma):
    options = {"samples": 30, "sigma": sigma, "item_dims": item_dims, "generator": seeded(31)}
    with pytest.raises(ValueError, match=r"seems to minimise.*solver\(-scores\).*negated costs"):
        function(minimiser, theta if sigma == 1 else theta / 100, **options)
    function(minimiser, theta, **options, check=False)


def test_little_noise_on_equal_scores_is_enough_to_tell():
    # in float32 the scores are a few roundings apart
    with pytest.raises(ValueError, match="seems to minimise"):
        perturbed_argmax(lambda scores: best(-scores), torch.ones(20, 6), sigma=3e-6, generator=seeded(31))


def test_one_sample_can_be_compared_with_the_scores_themselves():
    def worst(scores: Tensor) -> Tensor:
        return best(-scores)

    theta = torch.zeros(20, 6)
    perturbed_argmax(worst, theta, samples=1)  # nothing to compare
    with pytest.raises(ValueError, match="seems to minimise"):
        perturbed_argmax(worst, theta, samples=1, control_variate=True, generator=seeded(32))


@every_function
def test_a_solver_that_mixes_up_its_problems_or_guesses_is_told(function):
    theta = normal(5, 6, seed=24)
    for solver in (lambda scores: best(scores).roll(1, 0), lambda scores: best(scores.roll(1, -1))):
        with pytest.raises(ValueError, match=r"does not maximise: of two samples .* order of its problems"):
            function(solver, theta, samples=20, generator=seeded(33))


def test_dijkstra_on_negative_costs_would_be_told():
    """A solver that takes negative costs for zero, as one does who makes them fit for Dijkstra's algorithm."""
    with pytest.raises(ValueError, match="exact for negative scores"):
        perturbed_argmax(
            lambda scores: shortest_path((-scores).clamp_min(0)),
            torch.full((8, 6, 6), -0.5),
            samples=20,
            item_dims=2,
            generator=seeded(34),
        )


@few
@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3, 1e6]),
    sigma=st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
    noise=st.sampled_from(NOISES),
    rounded=st.booleans(),
)
def test_rounding_is_never_taken_for_a_wrong_solver(seed, scale, sigma, noise, rounded):
    """Many equal and nearly equal paths, in float32, and in float64 with a solver that computes in float32."""
    theta = scale * (1 + normal(3, 12, 12, seed=seed).round())
    solver, theta = (lambda s: path(s.float()).double(), theta) if rounded else (path, theta.float())
    options = {"samples": 10, "sigma": sigma, "noise": noise, "item_dims": 2}
    perturbed_argmax(solver, theta, control_variate=True, generator=seeded(seed), **options)


def test_other_vertices_than_zeros_and_ones_need_to_be_allowed():
    def ranks(scores: Tensor) -> Tensor:
        return scores.argsort(-1).argsort(-1).to(scores)  # the permutahedron

    theta = torch.tensor([3.0, -1.0, 0.5], requires_grad=True)
    with pytest.raises(ValueError, match=r"zeros and ones; got 2.*check=False"):
        perturbed_argmax(ranks, theta, sigma=1e-3)
    assert perturbed_argmax(ranks, theta, sigma=1e-3, check=False).tolist() == [2, 0, 1]
    loss = fenchel_young_loss(ranks, theta, torch.tensor([1.0, 0.0, 2.0]), sigma=1e-3, check=False)
    loss.backward()
    assert theta.grad.tolist() == [1, 0, -1]
    assert loss.item() == pytest.approx(2.5, abs=0.05)


@every_function
@pytest.mark.parametrize(
    ("solver", "error", "says"),
    [
        (lambda s: s.softmax(-1), ValueError, r"zeros and ones; got 0\.\d+.*weights of a softmax"),
        (lambda s: best(s) * 0.999999, ValueError, r"got 0\.999999: .*y\.round\(\)"),
        (lambda s: -best(s), ValueError, "zeros and ones; got -1"),
        (
            lambda s: s.argmax(-1),
            ValueError,
            r"given shape \(12, 5\) and must return it; got \(12,\).*not with indices",
        ),
        (lambda s: best(s)[:3], ValueError, r"given shape \(12, 5\) and must return it; got \(3, 5\)"),
        (lambda s: best(s).T, ValueError, r"got \(5, 12\)"),
        (lambda s: best(s).long(), TypeError, r"given torch\.float32 .* got torch\.int64: use y\.to\(scores\)"),
        (lambda s: best(s) > 0, TypeError, r"got torch\.bool"),
        (lambda s: best(s).double(), TypeError, r"got torch\.float64"),
        (lambda s: best(s).numpy(), TypeError, r"must return a tensor; got ndarray: use torch\.as_tensor"),
        (lambda s: None, TypeError, "must return a tensor; got NoneType"),
        (lambda s: best(s) / 0, ValueError, "NaN or an infinity"),
        (lambda s: best(s) * torch.inf, ValueError, "NaN or an infinity"),
        (lambda s: best(s).to("meta"), ValueError, r"given cpu and must return it; got meta"),
    ],
)
def test_a_solver_that_returns_no_vertices_is_told(function, solver, error, says):
    with pytest.raises(error, match=says):
        function(solver, normal(3, 5, seed=25, dtype=torch.float32), samples=4)


def test_what_is_no_answer_is_refused_without_the_check_too():
    theta = torch.zeros(3, 5)
    for solver, error in [
        (lambda s: s.argmax(-1), ValueError),
        (lambda s: best(s).long(), TypeError),
        (lambda s: best(s) / 0, ValueError),
        (lambda s: 0, TypeError),
    ]:
        with pytest.raises(error):
            perturbed_argmax(solver, theta, samples=4, check=False)


# ---- errors


@every_function
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.nan, "theta is NaN somewhere"),
        (torch.inf, "theta is infinite somewhere.*forbid it in the solver"),
        (-torch.inf, "theta is infinite somewhere.*forbid it in the solver"),
    ],
)
def test_scores_that_are_not_finite_are_an_error(function, dtype, value, says):
    theta = torch.zeros(3, 5, dtype=dtype)
    theta[1, 2] = value
    with pytest.raises(ValueError, match=says):
        function(best, theta)


@every_function
def test_scores_beyond_the_largest_number_are_an_error(function):
    with pytest.raises(ValueError, match="beyond the largest number"):
        function(best, torch.full((3, 5), 3.4e38), sigma=1e37)


@every_function
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,)])
def test_an_empty_batch_is_an_error(function, shape):
    with pytest.raises(ValueError, match="leave out an empty batch"):
        function(best, torch.empty(shape))


@every_function
@pytest.mark.parametrize("samples", [0, -3])
def test_no_samples_are_an_error(function, samples):
    with pytest.raises(ValueError, match=f"samples must be at least 1; got {samples}"):
        function(best, torch.zeros(3, 5), samples=samples)


@every_function
@pytest.mark.parametrize("sigma", [0, 0.0, -1.0, math.nan, math.inf, 1e-39, 1e39])
def test_a_sigma_that_is_not_positive_and_finite_is_an_error(function, sigma):
    with pytest.raises(ValueError, match=r"sigma must be positive and finite.*call the solver itself"):
        function(best, torch.zeros(3, 5), sigma=sigma)


@every_function
@pytest.mark.parametrize("item_dims", [0, -1, 3])
def test_problems_of_more_dimensions_than_there_are_are_an_error(function, item_dims):
    with pytest.raises(ValueError, match=rf"shape \(3, 5\) has no problems of {item_dims} dimensions.* from 1 to 2"):
        function(best, torch.zeros(3, 5), item_dims=item_dims)


@every_function
def test_a_single_number_is_no_problem(function):
    with pytest.raises(ValueError, match=r"theta is a single number.*unsqueeze\(-1\)"):
        function(best, torch.zeros(()))


@pytest.mark.usefixtures("as_users_run_it")
@every_function
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"noise": "normal"}, ValueError, "'gaussian' or 'gumbel'; got 'normal'"),
        ({"noise": None}, ValueError, "'gaussian' or 'gumbel'; got None"),
        ({"samples": 3.0}, TypeError, r"samples must be an int; got 3\.0: use int\(samples\)"),
        ({"samples": True}, TypeError, "samples must be an int; got True"),
        ({"item_dims": "1"}, TypeError, "item_dims must be an int; got '1'"),
        ({"sigma": "1"}, TypeError, r"sigma must be a number; got str: use float\(sigma\)"),
        ({"sigma": torch.tensor(1.0)}, TypeError, "sigma must be a number; got Tensor"),
        ({"sigma": True}, TypeError, "sigma must be a number; got bool"),
    ],
)
def test_options_of_another_kind_are_an_error(function, options, error, says):
    with pytest.raises(error, match=says):
        function(best, torch.zeros(3, 5), **options)


@pytest.mark.usefixtures("as_users_run_it")
@every_function
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_a_dtype_that_holds_no_scores_is_an_error(function, dtype):
    with pytest.raises(TypeError, match=f"need float16, .* got {dtype}"):
        function(best, torch.zeros(3, 5).to(dtype))


@every_function
@every_noise
def test_a_generator_of_another_device_is_an_error(function, noise):
    with pytest.raises(ValueError, match="the generator is on cpu and theta on meta"):
        function(best, torch.empty(3, 5, device="meta"), noise=noise, generator=seeded())


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("target", "error", "says"),
    [
        (torch.zeros(5), ValueError, r"one shape; got \(3, 5\) and \(5,\): expand"),
        (torch.zeros(3, 4), ValueError, r"one shape; got \(3, 5\) and \(3, 4\)"),
        (torch.zeros(3, dtype=torch.int64), TypeError, r"got torch\.int64"),
        (torch.zeros(3, 5, dtype=torch.bool), TypeError, r"got torch\.bool"),
        (torch.full((3, 5), torch.nan), ValueError, "the target is not finite"),
        (torch.full((3, 5), torch.inf), ValueError, "the target is not finite"),
    ],
)
def test_a_target_that_fits_no_scores_is_an_error(target, error, says):
    with pytest.raises(error, match=says):
        fenchel_young_loss(best, torch.zeros(3, 5), target)


# ---- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
@every_noise
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_works_on_a_gpu(noise, dtype):
    # n = 100,000, Hoeffding's bound, and what the dtype rounds
    n, generator = 100_000, torch.Generator("cuda").manual_seed(35)
    theta = THETA.to("cuda", dtype).requires_grad_()
    y = perturbed_argmax(best, theta, samples=n, noise=noise, control_variate=True, generator=generator)
    y[0].backward()
    assert y.device.type == theta.grad.device.type == "cuda"
    expected = theta.detach().double().softmax(-1).cpu() if noise == "gumbel" else None
    if expected is None:
        expected = torch.from_numpy(gaussian_choice(theta.detach().double().cpu().numpy(), 1.0))
    bound = hoeffding(n) + torch.finfo(dtype).eps
    torch.testing.assert_close(y.detach().double().cpu(), expected, rtol=0, atol=bound)
    maps = torch.randn(3, 12, 12, device="cuda", dtype=dtype).requires_grad_()
    loss = fenchel_young_loss(path, maps, path(maps.detach()), samples=3, noise=noise, item_dims=2, generator=generator)
    loss.sum().backward()
    assert maps.grad.isfinite().all()
