"""The score-function estimator against enumeration, and the baseline of the others against a loop.

The statistical tests are seeded; ``FALSE_ALARM`` is the probability that a right implementation had been unlucky.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from dynlib.choice.score import leave_one_out, score_function_loss

FALSE_ALARM = 1e-6  # of every statistical test here
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

LOGITS = torch.tensor([1.0, 0.2, -0.7, 0.4], dtype=torch.float64)
REWARDS = torch.tensor([2.0, -1.0, 3.5, 0.25], dtype=torch.float64)  # f of each of the four choices


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def true_gradient(rewards: Tensor) -> Tensor:
    """∇ Σ_z p(z) f(z), by enumeration of z."""
    logits = LOGITS.clone().requires_grad_()
    sum(logits.softmax(-1)[z] * rewards[z] for z in range(len(rewards))).backward()
    return logits.grad


def estimates(rewards: Tensor, baseline, *, runs: int, samples: int, seed: int) -> Tensor:
    """Estimates of the gradient, [runs, choices], each from so many samples and the baseline made of their rewards."""
    logits = LOGITS.expand(runs, -1).clone().requires_grad_()
    z = torch.multinomial(LOGITS.softmax(-1), runs * samples, replacement=True, generator=seeded(seed))
    z = z.view(runs, samples)
    log_prob = logits.log_softmax(-1).gather(-1, z)
    score_function_loss(log_prob, rewards[z], baseline=baseline(rewards[z])).backward()
    return -runs * logits.grad  # the loss is the mean over the runs too


def largest_z(sample: Tensor, mean: Tensor) -> float:
    """The largest |z| of the coordinates of these estimates under this mean."""
    return ((sample.mean(0) - mean) / (sample.std(0) / math.sqrt(len(sample)))).abs().max().item()


LIMIT = stats.norm.isf(FALSE_ALARM / 2 / len(LOGITS))  # of largest_z
BASELINES = {
    "none": lambda f: None,
    "a number": lambda f: 1.5,
    "the others": lambda f: leave_one_out(f, dim=1),
    "the reward expected": lambda f: (LOGITS.softmax(-1) @ REWARDS).expand(len(f), 1),
}


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_the_gradient_is_unbiased(name, offset):
    # z-test of 4 coordinates, 50,000 estimates of 4 samples each
    rewards = REWARDS + offset
    sample = estimates(rewards, BASELINES[name], runs=50_000, samples=4, seed=1)
    assert largest_z(sample, true_gradient(rewards)) < LIMIT
    # so many tell a gradient that is a quarter too small, wherever the noise allows it
    if name == "the others":
        assert largest_z(sample, 0.75 * true_gradient(rewards)) > LIMIT


def test_the_others_as_baseline_take_the_variance_away_where_rewards_are_far_from_zero():
    def variance(rewards: Tensor, name: str) -> Tensor:
        return estimates(rewards, BASELINES[name], runs=20_000, samples=4, seed=2).var(0).sum()

    others = variance(REWARDS + 20, "the others")
    assert others < variance(REWARDS + 20, "none") / 20
    # The offset of 20 is gone: what remains is the variance without it, to rounding.
    torch.testing.assert_close(others, variance(REWARDS, "the others"), rtol=1e-9, atol=0)


@pytest.mark.parametrize("samples", [2, 4, 9])
def test_the_mean_of_all_as_baseline_shrinks_the_gradient_and_ours_is_not_that(samples):
    ours = estimates(REWARDS, BASELINES["the others"], runs=30_000, samples=samples, seed=3)
    mean_of_all = estimates(REWARDS, lambda f: f.mean(1, keepdim=True), runs=30_000, samples=samples, seed=3)
    # f_i − mean = (M − 1) / M · (f_i − mean of the others), for every draw
    torch.testing.assert_close(mean_of_all, (samples - 1) / samples * ours, rtol=1e-9, atol=1e-12)
    # z-test of 4 coordinates, 30,000 estimates
    assert largest_z(ours, true_gradient(REWARDS)) < LIMIT
    assert largest_z(mean_of_all, true_gradient(REWARDS)) > LIMIT


def test_minimising_the_loss_maximises_the_expected_reward():
    logits = LOGITS.clone().requires_grad_()
    optimizer, generator = torch.optim.SGD([logits], lr=0.5), seeded(4)
    for _ in range(300):
        z = torch.multinomial(logits.detach().softmax(-1), 32, replacement=True, generator=generator)
        optimizer.zero_grad()
        score_function_loss(logits.log_softmax(-1)[z], REWARDS[z], baseline=leave_one_out(REWARDS[z])).backward()
        optimizer.step()
    assert logits.softmax(-1)[REWARDS.argmax()] > 0.95


def test_the_loss_is_minus_the_mean_of_advantage_times_log_probability():
    log_prob = torch.tensor([[-1.0, -2.0, 0.5]], requires_grad=True)  # a density may be above 1
    loss = score_function_loss(log_prob, torch.tensor([[3.0, 1.0, -4.0]]), baseline=torch.tensor([1.0, 0.0, 2.0]))
    assert loss.item() == pytest.approx(-(2 * -1 + 1 * -2 + -6 * 0.5) / 3)
    loss.backward()
    torch.testing.assert_close(log_prob.grad, -torch.tensor([[2.0, 1.0, -6.0]]) / 3)


@pytest.mark.parametrize("baseline", [1.25, 1, torch.tensor(1.25), torch.tensor([[1.0], [2.0]]), torch.ones(1, 3)])
def test_a_baseline_is_a_number_or_broadcasts_to_the_reward(baseline):
    log_prob, reward = torch.randn(2, 3, generator=seeded(5)).requires_grad_(), torch.randn(2, 3, generator=seeded(6))
    expected = sum(
        (reward[i, j] - torch.as_tensor(baseline).expand(2, 3)[i, j]) * log_prob[i, j]
        for i in range(2)
        for j in range(3)
    )
    torch.testing.assert_close(score_function_loss(log_prob, reward, baseline=baseline), -expected / 6)


def test_reward_and_baseline_get_no_gradient():
    log_prob, reward, baseline = (torch.randn(5, generator=seeded(i)).requires_grad_() for i in range(3))
    loss = score_function_loss(log_prob, 2 * reward, baseline=baseline.exp())
    loss.backward()
    assert log_prob.grad.abs().min() > 0
    assert reward.grad is None
    assert baseline.grad is None
    assert not leave_one_out(reward).requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_is_computed_in_float32(dtype):
    # The rewards sum to far more than float16 holds, and some of the products are more.
    reward = (30_000 + 100 * torch.randn(1000, generator=seeded(7))).to(dtype)
    log_prob = -torch.randn(1000, generator=seeded(8)).abs().to(dtype)
    assert (reward.double() * log_prob.double()).min() < torch.finfo(torch.float16).min
    log_prob.requires_grad_()
    baseline = leave_one_out(reward)
    assert baseline.dtype == dtype
    exact = (reward.double().sum() - reward.double()) / 999
    torch.testing.assert_close(baseline.double(), exact, rtol=torch.finfo(dtype).eps, atol=0)
    loss = score_function_loss(log_prob, reward)
    assert loss.dtype == dtype
    exact = -(reward.double() * log_prob.detach().double()).mean()
    torch.testing.assert_close(loss.detach().double(), exact, rtol=2 * max(torch.finfo(dtype).eps, 1e-6), atol=0)
    loss.backward()
    assert log_prob.grad.dtype == dtype
    assert log_prob.grad.isfinite().all()


def test_a_baseline_in_higher_precision_is_not_rounded_to_that_of_the_reward():
    log_prob = torch.ones(2, dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([1.0, 2.0])
    loss = score_function_loss(log_prob, reward, baseline=torch.full((2,), 1e-12, dtype=torch.float64))
    assert loss.item() == pytest.approx(-1.5 + 1e-12, abs=1e-15)


# ---- leave one out


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_leave_one_out_is_the_mean_of_the_others(shape, seed, dtype, data):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    reward = torch.randn(shape, dtype=torch.float64, generator=seeded(seed)).to(dtype)
    ours = leave_one_out(reward, dim=dim)
    assert ours.dtype == dtype
    rows, means = (t.double().movedim(dim, -1).reshape(-1, shape[dim]) for t in (reward, ours))
    eps = torch.finfo(dtype).eps
    for row, mean in zip(rows.tolist(), means.tolist(), strict=True):
        for i, value in enumerate(mean):
            others = row[:i] + row[i + 1 :]
            assert value == pytest.approx(sum(others) / len(others), rel=eps, abs=4 * eps)


def test_the_first_dimension_is_that_of_the_samples():
    assert leave_one_out(torch.tensor([[1.0, 10.0], [3.0, 40.0]])).tolist() == [[3, 40], [1, 10]]


def test_the_own_reward_does_not_enter_even_by_rounding():
    reward = torch.randn(6, generator=seeded(9))
    for i in range(6):
        changed = reward.clone()
        changed[i] = 1e12
        assert torch.equal(leave_one_out(changed)[i], leave_one_out(reward)[i])
        assert not torch.equal(leave_one_out(changed)[i - 1], leave_one_out(reward)[i - 1])


# ---- errors

GRADED = torch.zeros(4, requires_grad=True)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("first", "second"), [((4, 1), (4,)), ((4,), (4, 1)), ((4,), (3,)), ((1,), (4,)), ((), (1,))])
def test_two_shapes_are_an_error_that_names_the_broadcast(first, second):
    with pytest.raises(ValueError, match=r"one shape; got .*\[n, 1\] and \[n\] pair every sample with every reward"):
        score_function_loss(torch.zeros(first, requires_grad=True), torch.zeros(second))


def test_a_log_probability_without_gradient_is_an_error():
    one_hot = torch.tensor([[1.0, 0.0]])
    with pytest.raises(ValueError, match="log_prob has no gradient, so nothing would be learned"):
        score_function_loss(one_hot.max(-1).values.log(), torch.ones(1))
    with torch.no_grad(), pytest.raises(ValueError, match="nothing would be learned"):
        score_function_loss(GRADED * 2, torch.ones(4))


@pytest.mark.parametrize("shape", [(5, 4), (4, 1), (3,), (1, 4)])
def test_a_baseline_that_would_enlarge_the_reward_is_an_error(shape):
    with pytest.raises(ValueError, match="the baseline must broadcast to the reward"):
        score_function_loss(GRADED, torch.zeros(4), baseline=torch.zeros(shape))


@pytest.mark.parametrize(("bad", "word"), [(math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "infinite")])
def test_what_is_not_finite_is_an_error_that_names_it(bad, word):
    values = torch.tensor([0.0, bad, 0.0, 0.0])
    with pytest.raises(ValueError, match=f"log_prob is {word}"):
        score_function_loss(values.clone().requires_grad_(), torch.zeros(4))
    with pytest.raises(ValueError, match=f"reward is {word}"):
        score_function_loss(GRADED, values)
    for baseline in (values, bad):
        with pytest.raises(ValueError, match=f"baseline is {word}"):
            score_function_loss(GRADED, torch.zeros(4), baseline=baseline)
    with pytest.raises(ValueError, match=f"reward is {word}"):
        leave_one_out(values)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_no_samples_are_an_error(shape):
    with pytest.raises(ValueError, match="has no samples"):
        score_function_loss(torch.zeros(shape, requires_grad=True), torch.zeros(shape))
    with pytest.raises(ValueError, match="has no samples"):
        leave_one_out(torch.zeros(shape))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_a_dtype_that_is_not_floating_point_is_an_error_that_names_the_tensor(dtype):
    wrong = torch.zeros(4, dtype=dtype)
    with pytest.raises(TypeError, match=f"log_prob must be .* got {dtype}"):
        score_function_loss(wrong, torch.zeros(4))
    with pytest.raises(TypeError, match=f"reward must be .* got {dtype}"):
        score_function_loss(GRADED, wrong)
    with pytest.raises(TypeError, match=f"baseline must be .* got {dtype}"):
        score_function_loss(GRADED, torch.zeros(4), baseline=wrong)
    with pytest.raises(TypeError, match=f"reward must be .* got {dtype}"):
        leave_one_out(wrong)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("baseline", ["mean", [1.0, 2.0]])
def test_a_baseline_that_is_neither_tensor_nor_number_is_an_error(baseline):
    with pytest.raises(TypeError, match="baseline must be a tensor, a number or None"):
        score_function_loss(GRADED, torch.zeros(4), baseline=baseline)


@pytest.mark.parametrize(("shape", "dim"), [((1,), 0), ((1, 5), 0), ((5, 1), -1)])
def test_one_sample_leaves_nothing_when_it_is_left_out(shape, dim):
    with pytest.raises(ValueError, match="needs at least 2 samples; dimension"):
        leave_one_out(torch.zeros(shape), dim=dim)


@pytest.mark.parametrize(("shape", "dim"), [((4,), 1), ((4,), -2), ((), 0)])
def test_a_dimension_that_is_not_there_is_an_error(shape, dim):
    with pytest.raises(ValueError, match=f"no dimension {dim}"):
        leave_one_out(torch.zeros(shape), dim=dim)
