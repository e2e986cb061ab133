"""Gumbel noise, its maximum and its softmax against their laws, and straight-through against arithmetic.

The statistical tests are seeded, so they pass or fail once and for all; ``FALSE_ALARM`` is the probability that a right
implementation had been unlucky with its seed.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from dynlib.choice import gumbel_max, gumbel_noise, gumbel_sigmoid, gumbel_softmax, softmax_ste, straight_through

FALSE_ALARM = 1e-6  # of every statistical test here
HALVES = [torch.float16, torch.bfloat16]
DTYPES = [*HALVES, torch.float32, torch.float64]
TINY = torch.finfo(torch.float32).tiny

LOGITS = torch.tensor([1.5, 0.0, -0.5, 2.0, -3.0], dtype=torch.float64)
few = settings(max_examples=25, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_logits(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return (3 * torch.randn(shape, dtype=torch.float64, generator=seeded(seed))).to(dtype)


def chi_square(choices: Tensor, probabilities: Tensor) -> float:
    """p-value of these choices under these probabilities."""
    counts = torch.bincount(choices.flatten(), minlength=len(probabilities)).numpy()
    expected = probabilities.double().numpy()
    return stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue


def gradient(function, logits: Tensor, weights: Tensor) -> Tensor:
    """Gradient of Σ weights · function(logits)."""
    logits = logits.detach().clone().requires_grad_()
    (function(logits) * weights).sum().backward()
    assert logits.grad is not None
    return logits.grad


def is_one_hot(y: Tensor, dim: int = -1) -> bool:
    return bool(((y == 0) | (y == 1)).all() and ((y == 1).sum(dim) == 1).all())


# ---- noise


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_has_the_gumbel_law(dtype):
    # Kolmogorov-Smirnov, n = 100,000. Rounding to half precision moves a value by 1/256 of itself at most, which at
    # this n the test would see: those are held to the float32 draws below.
    noise = gumbel_noise(torch.empty(100_000, dtype=dtype), generator=seeded(1)).double()
    if dtype in HALVES:
        wide = gumbel_noise(torch.empty(100_000), generator=seeded(1))
        assert torch.equal(noise.to(dtype), wide.to(dtype))
    else:
        assert stats.kstest(noise.numpy(), stats.gumbel_r.cdf).pvalue > FALSE_ALARM


def test_both_tails_of_the_noise_have_their_weight():
    # n = 20 million: 16.6 values are expected above 14, and 28.4 below −2.6; binomial test.
    def outside(noise: Tensor) -> Tensor:
        return torch.stack([(noise > 14).sum(), (noise < -2.6).sum()])

    n, parts, generator = 20_000_000, 4, seeded(2)
    like = torch.empty(n // parts)
    counts = sum(outside(gumbel_noise(like, generator=generator)) for _ in range(parts))
    for count, p in zip(counts.tolist(), [stats.gumbel_r.sf(14), stats.gumbel_r.cdf(-2.6)], strict=True):
        assert stats.binomtest(count, n, p).pvalue > FALSE_ALARM
    # a small number inside the logarithms instead, and the upper tail is gone
    clipped = 0
    for _ in range(parts):
        minus_log = -torch.log(torch.rand(n // parts, generator=generator) + 1e-6)
        clipped += int(outside(-torch.log(minus_log.clamp_min(0) + 1e-6))[0])
    assert stats.binomtest(clipped, n, stats.gumbel_r.sf(14)).pvalue < FALSE_ALARM


def draw_always(monkeypatch, choose) -> None:
    """Let every uniform number be ``choose(low, high)``."""

    def uniform_(self: Tensor, low: float = 0, high: float = 1, *, generator: torch.Generator | None = None) -> Tensor:
        return self.fill_(choose(low, high))

    monkeypatch.setattr(Tensor, "uniform_", uniform_)


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_is_finite_for_the_least_and_the_largest_uniform_number(monkeypatch, dtype):
    draw_always(monkeypatch, lambda low, high: low)
    least = gumbel_noise(torch.empty(3, dtype=dtype))
    draw_always(monkeypatch, lambda low, high: math.nextafter(high, low))
    largest = gumbel_noise(torch.empty(3, dtype=dtype))
    assert least.isfinite().all()
    assert largest.isfinite().all()
    assert (least < -6).all()
    assert (largest > 36).all()


def test_noise_goes_beyond_what_a_float32_uniform_number_can_give(monkeypatch):
    last = 1 - 2.0**-24  # the largest float32 below 1
    assert 16.6 < -math.log(-math.log(last)) < 16.7
    draw_always(monkeypatch, lambda low, high: 1 - 2.0**-40)
    assert gumbel_noise(torch.empty(1)).item() == pytest.approx(40 * math.log(2), rel=1e-6)


def test_noise_has_the_shape_and_dtype_asked_for_and_no_gradient():
    like = torch.zeros(2, 0, 3, dtype=torch.bfloat16, requires_grad=True)
    noise = gumbel_noise(like)
    assert noise.shape == like.shape
    assert noise.dtype == like.dtype
    assert not noise.requires_grad


def test_noise_does_not_depend_on_the_memory_layout():
    like = torch.empty(4, 3)
    assert torch.equal(gumbel_noise(like, generator=seeded()), gumbel_noise(like.t().clone().t(), generator=seeded()))
    repeated = gumbel_noise(torch.empty(1).expand(4, 3), generator=seeded())
    assert torch.equal(gumbel_noise(like, generator=seeded()), repeated)
    assert len(repeated.unique()) == 12


# ---- the law of the choice


@pytest.mark.parametrize("dtype", DTYPES)
def test_gumbel_max_samples_the_softmax(dtype):
    # χ² with 4 degrees of freedom, n = 200,000
    logits = LOGITS.to(dtype)
    choices = gumbel_max(logits.expand(200_000, -1), generator=seeded(3))
    assert chi_square(choices, logits.double().softmax(-1)) > FALSE_ALARM
    # so many samples tell a softmax from one that is 3 % too sharp
    assert chi_square(choices, (1.03 * logits.double()).softmax(-1)) < FALSE_ALARM


@pytest.mark.parametrize("tau", [0.1, 1, 10.0])
def test_the_hard_sample_has_the_law_of_the_softmax_at_every_temperature(tau):
    # χ² with 4 degrees of freedom, n = 200,000
    samples = gumbel_softmax(LOGITS.expand(200_000, -1), tau, hard=True, generator=seeded(4))
    assert chi_square(samples.argmax(-1), LOGITS.softmax(-1)) > FALSE_ALARM


@pytest.mark.parametrize("hard", [False, True])
def test_the_temperature_does_not_change_the_choice(hard):
    logits = random_logits(500, 7, dtype=torch.float32)
    choice = gumbel_max(logits, generator=seeded(5))
    # A wide soft sample is equal everywhere to rounding; the hard one is chosen before that happens.
    for tau in [TINY, 1e-3, 1.0, 10.0, *([1e6, 1 / TINY] if hard else [])]:
        sample = gumbel_softmax(logits, tau, hard=hard, generator=seeded(5))
        assert torch.equal(sample.argmax(-1), choice), tau


@pytest.mark.parametrize("tau", [0.3, 1.0, 3.0])
def test_the_relaxed_sample_has_the_law_of_the_concrete_distribution(tau):
    # two-sample Kolmogorov-Smirnov for each of 5 coordinates, n = 20,000 against 20,000 from torch.distributions
    ours = gumbel_softmax(LOGITS.expand(20_000, -1), tau, generator=seeded(6))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        peer = torch.distributions.RelaxedOneHotCategorical(torch.tensor(tau), logits=LOGITS).sample((20_000,))
    for mine, theirs in zip(ours.T, peer.T, strict=True):
        assert stats.ks_2samp(mine.numpy(), theirs.numpy()).pvalue > FALSE_ALARM / 5


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_follow_the_formula_row_by_row(dtype, dim):
    logits = random_logits(3, 4, 5, dtype=dtype)
    noise = gumbel_noise(logits.to(torch.promote_types(dtype, torch.float32)), generator=seeded(8)).double()
    y = gumbel_softmax(logits, 0.7, dim=dim, generator=seeded(8))
    z = gumbel_max(logits, dim=dim, generator=seeded(8))
    one_hot = gumbel_softmax(logits, 0.7, hard=True, dim=dim, generator=seeded(8))
    assert y.dtype == one_hot.dtype == dtype
    assert z.dtype == torch.int64
    tolerance = 4 * torch.finfo(dtype).eps
    rows = [t.movedim(dim, -1).flatten(0, 1) for t in (logits.double(), noise, y, one_hot)]
    for s, u, relaxed, chosen, index in zip(*rows, z.flatten(), strict=True):
        weights = [math.exp((a + b) / 0.7) for a, b in zip(s.tolist(), u.tolist(), strict=True)]
        expected = np.array(weights) / sum(weights)
        np.testing.assert_allclose(relaxed.double().numpy(), expected, rtol=tolerance * 8, atol=tolerance)
        assert index == expected.argmax()
        assert chosen.tolist() == [float(i == index) for i in range(len(s))]


def test_a_shift_of_all_logits_changes_nothing():
    logits = random_logits(50, 6)
    for shift in [-1000.0, 0.25, 77.0]:
        y, shifted = (gumbel_softmax(x, 0.5, generator=seeded(9)) for x in (logits, logits + shift))
        torch.testing.assert_close(y, shifted, rtol=1e-10, atol=1e-12)
        assert torch.equal(gumbel_max(logits, generator=seeded(9)), gumbel_max(logits + shift, generator=seeded(9)))


def test_a_low_temperature_is_one_hot_and_a_high_one_uniform():
    logits = random_logits(200, 6)
    cold = gumbel_softmax(logits, 1e-8, generator=seeded(10))
    hot = gumbel_softmax(logits, 1e8, generator=seeded(10))
    one_hot = gumbel_softmax(logits, hard=True, generator=seeded(10))
    torch.testing.assert_close(cold, one_hot, rtol=0, atol=1e-9)
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / 6), rtol=0, atol=1e-6)


@few
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    tau=st.floats(1e-6, 1e6),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_any_sample_is_a_distribution_and_its_hard_form_a_choice(shape, seed, tau, dtype, data):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    logits = random_logits(*shape, dtype=dtype, seed=seed)
    before = logits.clone()
    soft = gumbel_softmax(logits, tau, dim=dim, generator=seeded(seed))
    hard = gumbel_softmax(logits, tau, dim=dim, hard=True, generator=seeded(seed))
    choice = gumbel_max(logits, dim=dim, generator=seeded(seed))
    assert torch.equal(logits, before)
    assert (soft >= 0).all()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(soft.double().sum(dim), torch.ones(()).double().expand_as(choice), rtol=0, atol=4 * eps)
    assert is_one_hot(hard, dim)
    assert torch.equal(hard.argmax(dim), choice)


# ---- straight-through


def softs(dtype: torch.dtype) -> Tensor:
    """Every half-precision number in [0, 1]; of the wider ones a million draws, small and denormal ones among them."""
    if dtype in HALVES:
        bits = torch.arange(torch.ones((), dtype=dtype).view(torch.int16).item() + 1, dtype=torch.int16)
        return bits.view(dtype)
    uniform = torch.rand(500_000, dtype=dtype, generator=seeded(11))
    scales = torch.randint(0, -math.frexp(torch.finfo(dtype).tiny)[1], (500_000,), generator=seeded(12))
    return torch.cat([uniform, torch.ldexp(uniform, -scales), torch.tensor([0.0, 1.0], dtype=dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_straight_through_equals_the_hard_value_for_every_soft_one(dtype):
    soft = softs(dtype)
    assert soft.min() == 0
    assert soft.max() == 1
    for hard in (torch.zeros_like(soft), torch.ones_like(soft)):
        assert torch.equal(straight_through(hard, soft), hard)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_other_brackets_are_not_exact(dtype):
    soft = softs(dtype)
    hard = torch.ones_like(soft)
    assert ((hard + soft) - soft != hard).any()


def test_straight_through_has_the_gradient_of_the_soft_value_alone():
    hard = torch.tensor([0.0, 1.0, 0.0], requires_grad=True)
    soft = torch.tensor([0.2, 0.7, 0.1], requires_grad=True)
    weights = torch.tensor([3.0, -5.0, 0.5])
    (straight_through(hard, soft) * weights).sum().backward()
    assert torch.equal(soft.grad, weights)
    assert hard.grad is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [0.1, 1.0, 5.0])
def test_hard_samples_are_exactly_one_hot(dtype, tau):
    logits = random_logits(2000, 10, dtype=dtype)
    assert is_one_hot(gumbel_softmax(logits, tau, hard=True, generator=seeded(13)))
    assert is_one_hot(softmax_ste(logits, tau))
    gates = gumbel_sigmoid(logits, tau, hard=True, generator=seeded(13))
    assert ((gates == 0) | (gates == 1)).all()
    assert 0 < gates.double().mean() < 1


# ---- gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [gumbel_softmax, gumbel_sigmoid])
def test_hard_and_soft_samples_have_the_same_gradient_to_the_bit(function, dtype):
    logits, weights = random_logits(40, 6, dtype=dtype), random_logits(40, 6, dtype=dtype, seed=1)
    soft, hard = (
        gradient(lambda x, hard=hard: function(x, 0.6, hard=hard, generator=seeded(14)), logits, weights)
        for hard in (False, True)
    )
    assert soft.abs().max() > 0
    assert torch.equal(soft, hard)


@pytest.mark.parametrize("tau", [0.5, 2.0])
@pytest.mark.parametrize("function", [gumbel_softmax, gumbel_sigmoid])
def test_the_gradient_is_that_of_finite_differences(function, tau):
    logits = random_logits(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x, tau, generator=seeded(15)), logits)


@pytest.mark.parametrize("dim", [0, -1])
def test_softmax_ste_goes_forward_as_argmax_and_back_as_softmax(dim):
    logits, weights = random_logits(5, 7), random_logits(5, 7, seed=1)
    y = softmax_ste(logits, 0.7, dim=dim)
    assert is_one_hot(y, dim)
    assert torch.equal(y.argmax(dim), logits.argmax(dim))
    ours = gradient(lambda x: softmax_ste(x, 0.7, dim=dim), logits, weights)
    plain = gradient(lambda x: (x / 0.7).softmax(dim), logits, weights)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-14)


def test_softmax_ste_is_the_exact_gradient_of_a_linear_loss_and_of_no_quadratic_one():
    logits = torch.randn(5, dtype=torch.float64, generator=seeded()).requires_grad_()
    places = torch.randn(5, 3, dtype=torch.float64, generator=seeded(1))
    for loss, exact in ((lambda z: (z @ places).sum(-1), True), (lambda z: ((z @ places) ** 2).sum(-1), False)):
        expected = (logits.softmax(0) * loss(torch.eye(5, dtype=torch.float64))).sum()
        right, found = (torch.autograd.grad(value, logits)[0] for value in (expected, loss(softmax_ste(logits))))
        assert torch.allclose(found, right, atol=1e-12) is exact


def test_softmax_ste_takes_the_first_of_several_largest():
    assert softmax_ste(torch.tensor([0.0, 2.0, 2.0, -1.0])).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [TINY, 0.01, 1, 100.0, 1 / TINY])
def test_values_and_gradients_are_finite_for_huge_logits_and_any_temperature(dtype, tau):
    logits = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]], dtype=dtype)
    weights = torch.tensor([[1.0, -2.0, 0.5]], dtype=dtype)
    for function in (
        lambda x: gumbel_softmax(x, tau, generator=seeded(16)),
        lambda x: gumbel_softmax(x, tau, hard=True, generator=seeded(16)),
        lambda x: gumbel_sigmoid(x, tau, generator=seeded(16)),
        lambda x: gumbel_sigmoid(x, tau, hard=True, generator=seeded(16)),
        # where two logits are equal a tiny τ has a true gradient of about 1 / τ: keep them apart
        lambda x: softmax_ste(x + torch.tensor([0, 64, 128], dtype=dtype), tau),
    ):
        assert function(logits).isfinite().all()
        assert gradient(function, logits, weights).isfinite().all()


def test_a_single_choice_is_always_taken():
    logits = torch.tensor([[3.0], [-8.0]])
    for hard in (False, True):
        assert gumbel_softmax(logits, hard=hard).tolist() == [[1], [1]]
        assert gradient(lambda x, hard=hard: gumbel_softmax(x, hard=hard), logits, torch.ones(2, 1)).abs().max() == 0
    assert gumbel_max(logits).tolist() == [0, 0]


# ---- impossible choices


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [0.05, 1.0, 1 / TINY])
def test_a_masked_choice_has_probability_and_gradient_zero(dtype, tau):
    logits = random_logits(300, 6, dtype=dtype)
    mask = torch.rand(300, 6, generator=seeded(17)) < 0.5
    mask[torch.arange(300), torch.arange(300) % 6] = False
    logits[mask] = -torch.inf
    weights = random_logits(300, 6, dtype=dtype, seed=1)
    for function in (
        lambda x: gumbel_softmax(x, tau, generator=seeded(18)),
        lambda x: gumbel_softmax(x, tau, hard=True, generator=seeded(18)),
        lambda x: softmax_ste(x, tau),
    ):
        y, slope = function(logits), gradient(function, logits, weights)
        assert (y[mask] == 0).all()
        assert (slope[mask] == 0).all()
        assert y.isfinite().all()
        assert slope.isfinite().all()
    assert not mask.gather(1, gumbel_max(logits, generator=seeded(18))[:, None]).any()


def test_masked_choices_leave_the_law_of_the_others():
    # χ² with 2 degrees of freedom, n = 100,000
    logits = torch.tensor([0.5, -torch.inf, 1.0, -1.0])
    choices = gumbel_max(logits.expand(100_000, -1), generator=seeded(19))
    assert (choices != 1).all()
    possible = torch.tensor([0, 2, 3])
    assert chi_square(torch.searchsorted(possible, choices), logits[possible].softmax(-1)) > FALSE_ALARM


# ---- yes or no


@pytest.mark.parametrize("logit", [-2.0, 0.0, 0.8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gumbel_sigmoid_says_yes_with_the_probability_of_the_sigmoid(logit, dtype):
    # binomial test, n = 100,000
    logits = torch.full((100_000,), logit, dtype=dtype)
    yes = int(gumbel_sigmoid(logits, hard=True, generator=seeded(20)).double().sum())
    assert stats.binomtest(yes, 100_000, logits[0].double().sigmoid().item()).pvalue > FALSE_ALARM
    # with the noise of one Gumbel it would be another law
    one_gumbel = 1 - math.exp(-math.exp(logit))
    assert stats.binomtest(yes, 100_000, one_gumbel).pvalue < FALSE_ALARM


@pytest.mark.parametrize("tau", [0.5, 1, 4.0])
def test_the_noise_of_gumbel_sigmoid_is_logistic(tau):
    # Kolmogorov-Smirnov, n = 100,000
    y = gumbel_sigmoid(torch.full((100_000,), 0.3, dtype=torch.float64), tau, generator=seeded(21))
    noise = tau * torch.logit(y) - 0.3
    assert stats.kstest(noise.numpy(), stats.logistic.cdf).pvalue > FALSE_ALARM
    assert stats.kstest(noise.numpy(), stats.gumbel_r.cdf).pvalue < FALSE_ALARM


def test_gumbel_sigmoid_is_the_gumbel_softmax_of_two():
    # two-sample Kolmogorov-Smirnov, n = 20,000 each
    logits = torch.full((20_000,), 0.9)
    gate = gumbel_sigmoid(logits, 0.5, generator=seeded(22))
    pair = gumbel_softmax(torch.stack([logits, torch.zeros_like(logits)], -1), 0.5, generator=seeded(23))[:, 0]
    assert stats.ks_2samp(gate.numpy(), pair.numpy()).pvalue > FALSE_ALARM


def test_gumbel_sigmoid_decides_hard_where_the_soft_sample_is_above_a_half():
    logits = random_logits(1000)
    soft, hard = (gumbel_sigmoid(logits, 2.0, hard=hard, generator=seeded(24)) for hard in (False, True))
    assert torch.equal(hard == 1, soft > 0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_log_odds_are_certain(dtype):
    logits = torch.tensor([-torch.inf, torch.inf], dtype=dtype).repeat(100)
    for hard in (False, True):

        def function(x: Tensor, hard: bool = hard) -> Tensor:
            return gumbel_sigmoid(x, 0.5, hard=hard, generator=seeded(25))

        assert function(logits).tolist() == [0, 1] * 100
        assert (gradient(function, logits, torch.ones_like(logits)) == 0).all()


# ---- randomness

SAMPLERS = [gumbel_noise, gumbel_max, gumbel_softmax, gumbel_sigmoid]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_generator_repeats_and_leaves_the_global_one_alone(sampler):
    logits = random_logits(50, 8)
    before = torch.get_rng_state()
    first, again = sampler(logits, generator=seeded(26)), sampler(logits, generator=seeded(26))
    other = sampler(logits, generator=seeded(27))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_generator_gives_new_samples_at_every_call(sampler):
    logits, generator = random_logits(50, 8), seeded(28)
    assert not torch.equal(sampler(logits, generator=generator), sampler(logits, generator=generator))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_a_generator_the_global_seed_counts(sampler):
    logits = random_logits(50, 8)
    with torch.random.fork_rng():
        torch.manual_seed(29)
        first, second = sampler(logits), sampler(logits)
        torch.manual_seed(29)
        assert torch.equal(sampler(logits), first)
        assert not torch.equal(first, second)


# ---- errors

CHOOSERS = [gumbel_max, gumbel_softmax, softmax_ste]
TEMPERED = [gumbel_softmax, gumbel_sigmoid, softmax_ste]


@pytest.mark.parametrize("function", [*CHOOSERS, gumbel_sigmoid])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_an_error(function, dtype):
    logits = torch.zeros(4, 5, dtype=dtype)
    logits[2, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        function(logits)


@pytest.mark.parametrize("function", CHOOSERS)
@pytest.mark.parametrize("dim", [0, 1])
def test_a_logit_of_plus_infinity_is_an_error(function, dim):
    logits = torch.zeros(4, 5)
    logits[2, 3] = torch.inf
    with pytest.raises(ValueError, match=r"\+inf: to force a choice"):
        function(logits, dim=dim)


@pytest.mark.parametrize("function", CHOOSERS)
def test_a_row_without_a_possible_choice_is_an_error(function):
    logits = torch.zeros(4, 5)
    logits[2] = -torch.inf
    with pytest.raises(ValueError, match="leave at least one choice possible"):
        function(logits)
    function(logits, dim=0)  # along the other dimension each row has one


@pytest.mark.parametrize("function", [*CHOOSERS, gumbel_sigmoid])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,)])
def test_an_empty_batch_is_an_error(function, shape):
    with pytest.raises(ValueError, match="leave out an empty batch"):
        function(torch.empty(shape))


@pytest.mark.parametrize("function", CHOOSERS)
@pytest.mark.parametrize(("shape", "dim"), [((2, 3), 2), ((2, 3), -3), ((), -1), ((), 0)])
def test_a_dimension_that_is_not_there_is_an_error(function, shape, dim):
    with pytest.raises(ValueError, match=f"no dimension {dim}"):
        function(torch.zeros(shape), dim=dim)


@pytest.mark.parametrize("function", TEMPERED)
@pytest.mark.parametrize("tau", [0, 0.0, -1.0, math.inf, -math.inf, math.nan, TINY / 2, 1e39])
def test_a_temperature_that_is_not_positive_and_finite_is_an_error(function, tau):
    with pytest.raises(ValueError, match="tau must be positive and finite"):
        function(torch.zeros(2, 3), tau)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("function", TEMPERED)
@pytest.mark.parametrize("tau", ["1.0", None, torch.tensor(1.0)])
def test_a_temperature_that_is_no_number_is_an_error(function, tau):
    with pytest.raises(TypeError, match=r"use float\(tau\)"):
        function(torch.zeros(2, 3), tau)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("function", [gumbel_noise, gumbel_max, gumbel_softmax, gumbel_sigmoid, softmax_ste])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e5m2])
def test_a_dtype_that_holds_no_logits_is_an_error(function, dtype):
    with pytest.raises(TypeError, match=f"need float16, .* got {dtype}"):
        function(torch.zeros(2, 3).to(dtype))


@pytest.mark.usefixtures("as_users_run_it")
def test_straight_through_refuses_two_shapes_two_dtypes_and_integers():
    one, two = torch.zeros(2, 3), torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"one shape; got \(2, 3\) and \(2, 1\)"):
        straight_through(one, two)
    with pytest.raises(TypeError, match=r"one dtype; got torch\.float32 and torch\.float64"):
        straight_through(one, one.double())
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        straight_through(one.long(), one.long())


def test_a_generator_of_another_device_is_an_error():
    with pytest.raises(ValueError, match="the generator is on cpu and the tensor on meta"):
        gumbel_noise(torch.empty(3, device="meta"), generator=seeded())


# ---- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_laws_hold_on_a_gpu(dtype):
    # χ² with 4 degrees of freedom and Kolmogorov-Smirnov, n = 200,000 and 100,000
    generator = torch.Generator("cuda").manual_seed(30)
    logits = LOGITS.to("cuda", dtype)
    sample = gumbel_softmax(logits.expand(200_000, -1), hard=True, generator=generator)
    assert is_one_hot(sample)
    assert chi_square(sample.argmax(-1).cpu(), logits.double().softmax(-1).cpu()) > FALSE_ALARM
    noise = gumbel_noise(torch.empty(100_000, device="cuda", dtype=dtype), generator=generator)
    assert noise.isfinite().all()
    if dtype not in HALVES:
        assert stats.kstest(noise.double().cpu().numpy(), stats.gumbel_r.cdf).pvalue > FALSE_ALARM
