"""Subsets against the enumeration of all of them, and the soft top-k against a root finder.

The statistical tests are seeded; ``FALSE_ALARM`` is the probability that a right implementation had been unlucky.
"""

import math
import re
from fractions import Fraction
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from dynlib.choice.subset import gumbel_topk, relaxed_topk, sample_subset, soft_topk, subset_marginals

FALSE_ALARM = 1e-6  # of every statistical test here
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
TINY = torch.finfo(torch.float32).tiny
few = settings(max_examples=40, deadline=None, derandomize=True)

WEIGHTS = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
INF = math.inf


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_scores(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0, scale: float = 1.5) -> Tensor:
    return (scale * torch.randn(shape, dtype=torch.float64, generator=seeded(seed))).to(dtype)


def gradient(function, scores: Tensor, weights: Tensor) -> Tensor:
    """Gradient of Σ weights · function(scores)."""
    scores = scores.detach().clone().requires_grad_()
    (function(scores) * weights).sum().backward()
    assert scores.grad is not None
    return scores.grad


def k_subset_law(log_weights: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All sets of k as k-hot rows, [C(n, k), n], with their probabilities, by enumeration."""
    n = len(log_weights)
    sets = torch.zeros(math.comb(n, k), n, dtype=torch.float64)
    for row, members in zip(sets, combinations(range(n), k), strict=True):
        row[list(members)] = 1
    log_p = torch.stack([log_weights.double()[row == 1].sum() for row in sets])
    return sets, log_p.softmax(0)


def plackett_luce_law(weights: Tensor, k: int) -> dict[tuple[int, ...], float]:
    """The probability of every sequence of k, by enumeration."""
    law = {}
    for order in permutations(range(len(weights)), k):
        p, left = 1.0, weights.sum().item()
        for i in order:
            p, left = p * weights[i].item() / left, left - weights[i].item()
        law[order] = p
    return law


def p_value(observed: list[tuple[int, ...]] | list[int], law: dict) -> float:
    """χ² of these outcomes under this law, which has all possible ones as keys."""
    counts = dict.fromkeys(law, 0)
    for outcome in observed:
        counts[outcome] += 1  # KeyError: an outcome that cannot be
    expected = np.array(list(law.values()))
    return stats.chisquare(list(counts.values()), expected / expected.sum() * len(observed)).pvalue


def members(khot: Tensor) -> list[tuple[int, ...]]:
    """The sets of these k-hot rows."""
    return [tuple(i for i, z in enumerate(row) if z == 1) for row in khot.tolist()]


def is_k_hot(y: Tensor, k: int, dim: int = -1) -> bool:
    return bool(((y == 0) | (y == 1)).all() and ((y == 1).sum(dim) == k).all())


# ---- the two laws


def test_the_two_laws_of_subsets_are_not_the_same():
    sets, p = k_subset_law(WEIGHTS.log(), 2)
    conditional = p @ sets
    in_sequence = torch.zeros(4, dtype=torch.float64)
    for order, q in plackett_luce_law(WEIGHTS, 2).items():
        in_sequence[list(order)] += q
    known = torch.tensor([[0.200, 0.371, 0.629, 0.800], [0.177, 0.344, 0.632, 0.847]], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([conditional, in_sequence]), known, rtol=0, atol=5e-4)
    torch.testing.assert_close(subset_marginals(WEIGHTS.log(), 2), conditional, rtol=0, atol=1e-12)
    # z-test of 4 coordinates for each sampler, n = 100,000, against its own law and the other
    many = WEIGHTS.log().expand(100_000, -1)
    drawn = {
        "k-subset": sample_subset(many, 2, generator=seeded(1)),
        "in sequence": torch.zeros_like(many).scatter_(1, gumbel_topk(many, 2, generator=seeded(2)), 1.0),
    }
    for name, mine, other in (("k-subset", conditional, in_sequence), ("in sequence", in_sequence, conditional)):
        limit = stats.norm.isf(FALSE_ALARM / 8)
        z = [(drawn[name].mean(0) - law).abs() / (law * (1 - law) / 100_000).sqrt() for law in (mine, other)]
        assert z[0].max() < limit
        assert z[1].max() > limit


# ---- Gumbel top-k


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_gumbel_topk_draws_in_order_without_replacement(k, dtype):
    # χ² over all sequences, 4, 12 and 24 of them, n = 100,000
    logits = torch.log(torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)).to(dtype)
    drawn = gumbel_topk(logits.expand(100_000, -1), k, generator=seeded(3))
    law = plackett_luce_law(logits.double().exp(), k)
    assert p_value([tuple(row) for row in drawn.tolist()], law) > FALSE_ALARM
    if k > 1:  # the order counts
        assert p_value([tuple(reversed(row)) for row in drawn.tolist()], law) < FALSE_ALARM


@pytest.mark.parametrize("dim", [0, 1, -1, -3])
def test_gumbel_topk_gives_k_indices_along_dim(dim):
    logits = random_scores(3, 4, 5, dtype=torch.float32)
    n = logits.shape[dim]
    for k in range(n + 1):
        drawn = gumbel_topk(logits, k, dim=dim, generator=seeded(4))
        shape = list(logits.shape)
        shape[dim] = k
        assert list(drawn.shape) == shape
        assert drawn.dtype == torch.int64
        # a longer draw goes on where the shorter one ended
        assert torch.equal(drawn, gumbel_topk(logits, n, dim=dim, generator=seeded(4)).narrow(dim, 0, k))
    everything = drawn.sort(dim).values.movedim(dim, -1)
    assert torch.equal(everything, torch.arange(n).expand_as(everything))


def test_gumbel_topk_never_draws_the_impossible():
    logits = random_scores(500, 6)
    mask = torch.zeros(500, 6, dtype=torch.bool)
    mask[:, 1] = mask[:, 4] = True
    drawn = gumbel_topk(logits.masked_fill(mask, -INF), 4, generator=seeded(5))
    assert torch.equal(drawn.sort(-1).values, torch.tensor([0, 2, 3, 5]).expand(500, -1))


# ---- the relaxed sample


def relaxed_by_the_formula(keys: list[float], k: int, tau: float) -> list[float]:
    """α ← α + log(1 − softmax(α / τ)), k times, one number at a time; where no 1 − a rounds to 0."""
    khot = [0.0] * len(keys)
    for _ in range(k):
        largest = max(keys)
        e = [math.exp((key - largest) / tau) for key in keys]
        a = [x / math.fsum(e) for x in e]
        khot = [h + x for h, x in zip(khot, a, strict=True)]
        keys = [key + math.log(math.fsum(e[:i] + e[i + 1 :]) / math.fsum(e)) for i, key in enumerate(keys)]
    return khot


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("tau", [0.3, 1, 3.0])
def test_the_relaxed_sample_follows_the_formula(tau, dim):
    logits = random_scores(5, 6, 5, seed=1)
    n = logits.shape[dim]
    for k in range(1, n):
        y = relaxed_topk(logits, k, tau, dim=dim, generator=seeded(6))
        # the noise, read off the only pick of an untempered draw: log softmax(s + u) is s + u up to a constant
        keys = relaxed_topk(logits, 1, 1.0, dim=dim, generator=seeded(6)).log().movedim(dim, -1)
        for row, ours in zip(keys.reshape(-1, n).tolist(), y.movedim(dim, -1).reshape(-1, n).tolist(), strict=True):
            assert ours == pytest.approx(relaxed_by_the_formula(row, k, tau), rel=1e-7, abs=1e-12)


@few
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    tau=st.floats(1e-3, 1e3),
    scale=st.sampled_from([1.0, 10.0, 3000.0]),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_the_relaxed_sample_sums_to_k_and_the_hard_one_is_the_set_of_gumbel_topk(shape, seed, tau, scale, dtype, data):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    k = data.draw(st.integers(0, shape[dim]))
    logits = random_scores(*shape, dtype=dtype, seed=seed, scale=scale)
    before = logits.clone()
    soft, hard = (relaxed_topk(logits, k, tau, hard=h, dim=dim, generator=seeded(seed)) for h in (False, True))
    assert torch.equal(logits, before)
    assert soft.dtype == hard.dtype == dtype
    assert soft.shape == hard.shape == logits.shape
    assert (soft >= 0).all()
    total = soft.double().sum(dim)
    torch.testing.assert_close(total, torch.full_like(total, k), rtol=0, atol=20 * torch.finfo(dtype).eps)
    assert is_k_hot(hard, k, dim)
    drawn = gumbel_topk(logits, k, dim=dim, generator=seeded(seed))
    assert (hard.gather(dim, drawn) == 1).all()


@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_entries_of_the_relaxed_sample_may_exceed_1(tau):
    soft = relaxed_topk(random_scores(20_000, 8, scale=3), 3, tau, generator=seeded(7))
    assert soft.max() > 1.9
    assert soft.max() <= 3


def test_the_largest_of_the_relaxed_sample_may_be_another_set_than_the_one_drawn():
    # Two near-tied choices are held down by log ½ when they share a pick, and two others less far behind come before
    # them: of (0, 0, −0.5, −0.6) the first three are drawn, and the sum is (½, ½, 1, 1).
    logits = random_scores(20_000, 8, scale=3)
    soft, hard = (relaxed_topk(logits, 3, 0.05, hard=h, generator=seeded(7)) for h in (False, True))
    of_the_sum = torch.zeros_like(soft).scatter_(1, soft.topk(3).indices, 1.0)
    assert (of_the_sum != hard).any()


def test_a_low_temperature_makes_the_relaxed_sample_the_hard_one():
    logits = random_scores(500, 6)
    soft, hard = (relaxed_topk(logits, 3, 1e-6, hard=h, generator=seeded(8)) for h in (False, True))
    torch.testing.assert_close(soft, hard, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_and_relaxed_samples_have_the_same_gradient_to_the_bit(dtype):
    logits, weights = random_scores(40, 6, dtype=dtype), random_scores(40, 6, dtype=dtype, seed=1)
    slopes = [
        gradient(lambda x, h=h: relaxed_topk(x, 3, 0.5, hard=h, generator=seeded(9)), logits, weights)
        for h in (False, True)
    ]
    assert slopes[0].abs().max() > 0
    assert torch.equal(*slopes)


@pytest.mark.parametrize("tau", [0.4, 2.0])
@pytest.mark.parametrize("k", [0, 1, 3, 4])
def test_the_gradient_of_the_relaxed_sample_is_that_of_finite_differences(k, tau):
    logits = random_scores(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: relaxed_topk(x, k, tau, generator=seeded(10)), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [TINY, 1e-3, 1.0, 1 / TINY])
def test_a_sure_pick_is_not_picked_again_however_sure(dtype, tau):
    # 1 − a rounds to 0 at the first picks; the log of a small number in its place is not enough at these gaps
    logits = torch.tensor([[1e4, 3e3, -1e4, -INF, -INF], [0.0, 1e3, 2e3, 3e3, 4e3]], dtype=dtype)
    y = relaxed_topk(logits, 3, tau, generator=seeded(11))
    assert y.isfinite().all()
    if tau < 1:
        assert y.tolist() == [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]
    slope = gradient(lambda x: relaxed_topk(x, 3, tau, generator=seeded(11)), logits, random_scores(2, 5, dtype=dtype))
    assert slope.isfinite().all()
    assert (slope[0, 3:] == 0).all()


# ---- the soft top-k


def soft_by_root_finding(scores: np.ndarray, k: int, epsilon: float) -> np.ndarray:
    """min(1, e^{(s − ν) / ε}) with the ν at which it sums to k; for 0 < k < n."""

    def p(nu: float) -> np.ndarray:
        return np.exp(np.minimum(0, (scores - nu) / epsilon))

    low, high = scores.min() - epsilon, scores.max() + epsilon * math.log(len(scores) + 1)
    return p(optimize.brentq(lambda nu: p(nu).sum() - k, low, high, xtol=1e-15, rtol=4 * np.finfo(float).eps))


@pytest.mark.parametrize("epsilon", [0.03, 0.3, 1.0, 10])
def test_the_soft_top_k_is_the_root(epsilon):
    compared = saturated = 0
    for seed in range(60):
        n = 2 + seed % 13
        scores = random_scores(n, seed=seed)
        for k in range(1, n):
            ours = soft_topk(scores, k, epsilon).numpy()
            np.testing.assert_allclose(ours, soft_by_root_finding(scores.numpy(), k, epsilon), rtol=0, atol=1e-10)
            compared += 1
            saturated += (ours == 1).any()
    # both branches of the minimum were seen
    assert compared > 300
    assert saturated > 0
    assert saturated < compared or epsilon < 0.1


def test_the_soft_top_k_of_long_rows_is_the_root():
    scores = random_scores(4, 4096, scale=1.0)
    scores[1] = torch.round(scores[1] * 4) / 4  # many are equal
    for k in (1, 256, 4095):
        for row, ours in zip(scores, soft_topk(scores, k, 0.1), strict=True):
            np.testing.assert_allclose(ours.numpy(), soft_by_root_finding(row.numpy(), k, 0.1), rtol=0, atol=1e-10)


@few
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    epsilon=st.floats(1e-4, 1e4),
    coarse=st.booleans(),
    masked=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_the_soft_top_k_lies_in_0_to_1_and_sums_to_k(shape, seed, epsilon, coarse, masked, dtype, data):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    scores = random_scores(*shape, dtype=torch.float64, seed=seed)
    scores = (scores.round() if coarse else scores).to(dtype)
    if masked and shape[dim] > 1:
        scores.select(dim, seed % shape[dim]).fill_(-INF)
    k = data.draw(st.integers(0, shape[dim] - int(masked and shape[dim] > 1)))
    before = scores.clone()
    p = soft_topk(scores, k, epsilon, dim=dim)
    assert torch.equal(scores, before)
    assert p.dtype == dtype
    assert p.shape == scores.shape
    assert (p >= 0).all()
    assert (p <= 1).all()
    assert (p[scores == -INF] == 0).all()
    total = p.double().sum(dim)
    torch.testing.assert_close(total, torch.full_like(total, k), rtol=0, atol=8 * torch.finfo(dtype).eps)
    # a larger score has no smaller p
    ordered = p.gather(dim, scores.argsort(dim)).double()
    assert (ordered.diff(dim=dim) >= -torch.finfo(dtype).eps).all()


def test_the_default_smoothing_is_1_and_the_third_argument_is_epsilon():
    scores = random_scores(3, 6)
    assert torch.equal(soft_topk(scores, 2), soft_topk(scores, 2, 1.0))
    assert torch.equal(soft_topk(scores, 2, 0.5), soft_topk(scores, 2, epsilon=0.5))
    torch.testing.assert_close(soft_topk(scores, 2, 0.5), soft_topk(2 * scores, 2), rtol=0, atol=1e-14)


def test_for_one_the_soft_top_k_is_the_softmax():
    scores = random_scores(20, 6)
    torch.testing.assert_close(soft_topk(scores, 1, 0.7), (scores / 0.7).softmax(-1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epsilon", [TINY, 1e-20, 1e-6])
@pytest.mark.parametrize("scale", [1, 1e4])
def test_without_smoothing_the_soft_top_k_is_the_hard_one(scale, epsilon, dtype):
    scores = scale * torch.tensor([0.25, -1.0, 1.0, 0.5, -0.25, -INF, 0.75], dtype=dtype)
    for k, kept in enumerate([[], [2], [2, 6], [2, 3, 6], [0, 2, 3, 6], [0, 2, 3, 4, 6], [0, 1, 2, 3, 4, 6]]):
        p = soft_topk(scores, k, epsilon)
        assert members(p[None]) == [tuple(kept)]
        assert p.sum() == k
        assert (gradient(lambda x, k=k: soft_topk(x, k, epsilon), scores, torch.arange(7.0).to(dtype)) == 0).all()


def test_a_score_far_behind_keeps_its_small_share_and_its_gradient():
    scores = torch.tensor([50.0, 40.0, 0.0, -1.0], dtype=torch.float32)
    p = soft_topk(scores, 2, 1.0)
    # the mass left for the last three is 1: e^{−40} and e^{−41} of it, to rounding
    torch.testing.assert_close(p[2:], torch.tensor([-40.0, -41.0]).exp(), rtol=1e-5, atol=0)
    slope = gradient(lambda x: soft_topk(x, 2, 1.0), scores, torch.tensor([0.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(slope[2], p[2], rtol=1e-5, atol=0)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 30.0])
def test_the_gradient_of_the_soft_top_k_is_that_of_finite_differences(epsilon):
    scores = random_scores(6, 7, seed=2)
    checked = 0
    for k in range(8):
        p = soft_topk(scores, k, epsilon)
        # ν, from the least p; finite differences need a way to go to the kinks, which are where a score is ν
        nu = scores.amin(-1) - epsilon * p.amin(-1).log()
        x = scores[(scores - nu[:, None]).abs().amin(-1) > 1e-4 if 0 < k < 7 else slice(None)].requires_grad_()
        if len(x):
            checked += len(x)
            assert torch.autograd.gradcheck(lambda x, k=k: soft_topk(x, k, epsilon), x)
            assert torch.autograd.gradgradcheck(lambda x, k=k: soft_topk(x, k, epsilon), x)
    assert checked >= 24  # half of all


def test_the_gradient_of_the_soft_top_k_is_the_formula_and_zero_where_saturated():
    scores, g, epsilon = random_scores(30, 9, seed=3), random_scores(30, 9, seed=4), 0.5
    p = soft_topk(scores, 4, epsilon)
    free = p * (p < 1)
    expected = free / epsilon * (g - (free * g).sum(-1, keepdim=True) / free.sum(-1, keepdim=True))
    slope = gradient(lambda x: soft_topk(x, 4, epsilon), scores, g)
    torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-12)
    assert (p == 1).any()
    assert (slope[p == 1] == 0).all()


@pytest.mark.parametrize("value", [0.0, 3.0, -1e4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_scores_share_k(value, dtype):
    scores = torch.full((2, 6), value, dtype=dtype)
    for k in range(7):
        p = soft_topk(scores, k, 0.01)
        torch.testing.assert_close(p, torch.full_like(p, k / 6), rtol=2 * torch.finfo(dtype).eps, atol=0)
    slope = gradient(lambda x: soft_topk(x, 6, 0.01), scores, random_scores(2, 6, dtype=dtype))
    assert (slope == 0).all()  # all of all, whatever the scores


def test_a_far_score_gets_its_share_of_what_equal_ones_leave():
    for k in range(1, 100):
        p = soft_topk(torch.tensor([5.0] * k + [-60.0]), k, 1.0)
        torch.testing.assert_close(p[:k], torch.ones(k), rtol=0, atol=4 * torch.finfo(torch.float32).eps)
        torch.testing.assert_close(p[k], torch.tensor(-65.0).exp(), rtol=1e-5, atol=0)


def test_no_p_is_rounded_to_above_1():
    # 999 of 1000, nearly equal but for one far behind: all p are a few roundings below 1
    scores = random_scores(1000, 1000, dtype=torch.float32, scale=3e-7)
    scores[:, 0] = -15
    p = soft_topk(scores, 999, 1.0)
    assert p.max() == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epsilon", [TINY, 0.1, 1.0, 1 / TINY])
def test_huge_scores_and_any_smoothing_stay_finite(epsilon, dtype):
    scores = torch.tensor([[1e4, -1e4, 0.0, 9e3], [-1e4, -9e3, 1e4, -INF]], dtype=dtype)
    for k in (1, 2, 3):
        p = soft_topk(scores, k, epsilon)
        assert p.isfinite().all()
        total = p.double().sum(-1)
        torch.testing.assert_close(total, torch.full_like(total, k), rtol=0, atol=8 * torch.finfo(dtype).eps)
        assert gradient(lambda x, k=k: soft_topk(x, k, epsilon), scores, scores.clamp_min(-1)).isfinite().all()


# ---- marginals of the k-subset law


@pytest.mark.parametrize("n", range(1, 9))
def test_the_marginals_are_those_of_the_enumerated_law_and_their_jacobian_its_covariance(n):
    for k in range(n + 1):
        log_weights = random_scores(n, seed=n)
        sets, p = k_subset_law(log_weights, k)
        mean = p @ sets
        covariance = (sets - mean).T @ torch.diag(p) @ (sets - mean)
        torch.testing.assert_close(subset_marginals(log_weights, k), mean, rtol=0, atol=1e-12)
        jacobian = torch.autograd.functional.jacobian(lambda x, k=k: subset_marginals(x, k), log_weights)
        torch.testing.assert_close(jacobian, covariance, rtol=0, atol=1e-12)


def test_the_marginals_of_four_coins_are_the_known_ones():
    p = torch.tensor([0.3, 0.6, 0.5, 0.2], dtype=torch.float64)
    known = torch.tensor([0.3568, 0.7622, 0.6595, 0.2216], dtype=torch.float64)
    torch.testing.assert_close(subset_marginals(p.logit(), 2), known, rtol=0, atol=5e-5)
    # the probabilities themselves are no weights
    assert (subset_marginals(p.log(), 2) - known).abs().max() > 0.01


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4])
def test_the_gradient_of_the_marginals_is_that_of_finite_differences(k):
    log_weights = random_scores(4, 3, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: subset_marginals(x, k, dim=0), log_weights)


def exact_marginals(exponents: list[int], k: int) -> list[float]:
    """Of weights 2^exponent, in rational arithmetic over all sets."""
    weights = [Fraction(2) ** e for e in exponents]
    sets = list(combinations(range(len(weights)), k))
    p = [math.prod((weights[i] for i in s), start=Fraction(1)) for s in sets]
    return [
        float(sum((q for q, s in zip(p, sets, strict=True) if i in s), Fraction(0)) / sum(p))
        for i in range(len(weights))
    ]


@pytest.mark.parametrize(
    "exponents",
    [
        [1010, 1009, -1010, -1008, 0, 1],  # logarithms of ±700
        [14427, 14426, 14424, -14427, -14426, -14425],  # of ±10,000
        [-14427, 0, 14427, 1, -14426, -1],
        [14427] * 3 + [14425] * 3,
    ],
)
def test_extreme_weights_are_right(exponents):
    log_weights = math.log(2) * torch.tensor(exponents, dtype=torch.float64)
    for k in range(7):
        mu = subset_marginals(log_weights, k)
        assert mu.tolist() == pytest.approx(exact_marginals(exponents, k), rel=1e-9, abs=1e-300)
        slope = gradient(lambda x, k=k: subset_marginals(x, k), log_weights, torch.arange(6.0).double())
        assert slope.isfinite().all()
        assert is_k_hot(sample_subset(log_weights.expand(200, -1), k, generator=seeded(12)), k)


@few
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.5, 5.0, 500.0, 5000.0]),
    masked=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_marginals_and_samples_hold_row_by_row(shape, seed, scale, masked, dtype, data):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    n = shape[dim]
    log_weights = random_scores(*shape, dtype=dtype, seed=seed, scale=scale)
    if masked and n > 1:
        log_weights.select(dim, seed % n).fill_(-INF)
    k = data.draw(st.integers(0, n - int(masked and n > 1)))
    before = log_weights.clone()
    g = random_scores(*shape, seed=seed + 1)
    mu, z = subset_marginals(log_weights, k, dim=dim), sample_subset(log_weights, k, dim=dim, generator=seeded(seed))
    slope = gradient(lambda x: subset_marginals(x, k, dim=dim), log_weights, g.to(dtype))
    assert torch.equal(log_weights, before)
    assert mu.dtype == z.dtype == dtype
    assert mu.shape == z.shape == log_weights.shape
    assert is_k_hot(z, k, dim)
    assert (z[log_weights == -INF] == 0).all()
    assert (slope[log_weights == -INF] == 0).all()
    eps = torch.finfo(dtype).eps
    rows = [t.movedim(dim, -1).reshape(-1, n).double() for t in (log_weights, mu, slope, g.to(dtype))]
    for theta, ours, ours_slope, weights in zip(*rows, strict=True):
        sets, p = k_subset_law(theta, k)
        sets, p = sets[p > 0], p[p > 0]
        mean = p @ sets
        tolerance = eps + 1e-15 * scale * n
        torch.testing.assert_close(ours, mean, rtol=0, atol=4 * tolerance)
        expected = (sets - mean).T @ (p * ((sets - mean) @ weights))
        torch.testing.assert_close(ours_slope, expected, rtol=0, atol=40 * tolerance)


def test_a_shift_of_all_log_weights_changes_nothing():
    log_weights, g = random_scores(20, 7), random_scores(20, 7, seed=1)
    for shift in (-3000.0, 0.5, 1e4):
        for function in (lambda x: subset_marginals(x, 3), lambda x: soft_topk(x, 3, 0.5)):
            torch.testing.assert_close(function(log_weights + shift), function(log_weights), rtol=0, atol=1e-10)
            slopes = [gradient(function, x, g) for x in (log_weights, log_weights + shift)]
            torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)


def test_a_shift_too_large_for_the_sums_does_not_enter_them():
    log_weights = random_scores(20, 7).mul(64).round().div(64)  # with few bits, so that the shifted ones are exact
    shifted = log_weights + 2.0**40
    assert torch.equal(shifted - 2.0**40, log_weights)
    for k in (1, 3, 6):
        assert torch.equal(subset_marginals(shifted, k), subset_marginals(log_weights, k))
        samples = [sample_subset(x, k, generator=seeded(21)) for x in (shifted, log_weights)]
        assert torch.equal(*samples)


def test_the_marginals_of_long_rows_sum_to_k_and_grow_with_the_weights():
    log_weights = random_scores(3, 300, scale=3, seed=6).sort(-1).values
    for k in (1, 17, 150, 299, 300):
        mu = subset_marginals(log_weights, k)
        torch.testing.assert_close(mu.sum(-1), torch.full((3,), float(k)).double(), rtol=1e-11, atol=0)
        assert (mu.diff(dim=-1) >= -1e-12).all()
        assert (mu <= 1).all()
    # by the other way round: those left out are a subset of n − k with weights 1 / w
    for k in (17, 150):
        left_out = subset_marginals(-log_weights, 300 - k)
        torch.testing.assert_close(subset_marginals(log_weights, k), 1 - left_out, rtol=0, atol=1e-11)


# ---- samples of the k-subset law


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_samples_have_the_enumerated_law(k, dtype):
    # χ² over all C(5, k) sets, n = 40,000
    log_weights = torch.tensor([0.5, -1.0, 1.0, 0.0, 1.75], dtype=dtype)
    z = sample_subset(log_weights.expand(40_000, -1), k, generator=seeded(13))
    assert is_k_hot(z, k)
    sets, p = k_subset_law(log_weights, k)
    law = dict(zip(members(sets), p.tolist(), strict=True))
    assert p_value(members(z), law) > FALSE_ALARM
    if k > 1:  # and not that of draws one after the other
        in_sequence = dict.fromkeys(law, 0.0)
        for order, q in plackett_luce_law(log_weights.double().exp(), k).items():
            in_sequence[tuple(sorted(order))] += q
        assert p_value(members(z), in_sequence) < FALSE_ALARM


@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_have_the_gradient_of_the_marginals(dtype):
    log_weights, g = random_scores(30, 6, dtype=dtype), random_scores(30, 6, dtype=dtype, seed=1)
    for k in (0, 2, 6):
        slopes = [
            gradient(function, log_weights, g)
            for function in (
                lambda x, k=k: sample_subset(x, k, generator=seeded(14)),
                lambda x, k=k: subset_marginals(x, k),
            )
        ]
        assert torch.equal(*slopes)
        if k == 2:
            assert slopes[0].abs().max() > 0
        elif k == 0:
            assert (slopes[0] == 0).all()


# ---- all of them: none and all, masks, half precision

ALL = {
    "relaxed": lambda x, k, dim=-1: relaxed_topk(x, k, 0.7, dim=dim, generator=seeded(15)),
    "hard": lambda x, k, dim=-1: relaxed_topk(x, k, 0.7, hard=True, dim=dim, generator=seeded(15)),
    "soft": lambda x, k, dim=-1: soft_topk(x, k, 0.7, dim=dim),
    "marginals": lambda x, k, dim=-1: subset_marginals(x, k, dim=dim),
    "sample": lambda x, k, dim=-1: sample_subset(x, k, dim=dim, generator=seeded(15)),
}
WITH_INDICES = {**ALL, "indices": lambda x, k, dim=-1: gumbel_topk(x, k, dim=dim, generator=seeded(15))}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_none_of_n_is_zeros_with_gradient_zero(name, dtype):
    scores = random_scores(3, 5, dtype=dtype)
    scores[0, 1] = -INF
    assert (ALL[name](scores, 0) == 0).all()
    assert (gradient(lambda x: ALL[name](x, 0), scores, torch.ones_like(scores)) == 0).all()


@pytest.mark.parametrize("name", [name for name in ALL if name != "relaxed"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_that_is_possible_is_ones(name, dtype):
    scores = random_scores(3, 5, dtype=dtype)
    torch.testing.assert_close(ALL[name](scores, 5), torch.ones_like(scores), rtol=0, atol=torch.finfo(dtype).eps)
    scores[:, 2] = -INF
    expected = (scores > -INF).to(dtype)
    torch.testing.assert_close(ALL[name](scores, 4), expected, rtol=0, atol=torch.finfo(dtype).eps)
    if name in ("soft", "marginals", "sample"):
        slope = gradient(lambda x: ALL[name](x, 4), scores, random_scores(3, 5, dtype=dtype))
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_a_masked_choice_is_as_if_it_were_not_there(name):
    scores, g = random_scores(4, 6), random_scores(4, 6, seed=1)
    kept = torch.tensor([0, 1, 3, 5])
    masked = torch.full_like(scores, -INF).index_copy(1, kept, scores[:, kept])
    value, slope = ALL[name](masked, 2), gradient(lambda x: ALL[name](x, 2), masked, g)
    away = torch.ones(6, dtype=torch.bool).index_fill(0, kept, False)
    assert (value[:, away] == 0).all()
    assert (slope[:, away] == 0).all()
    assert slope.isfinite().all()
    if name in ("soft", "marginals"):  # the others draw other noise for four than for six
        torch.testing.assert_close(value[:, kept], ALL[name](scores[:, kept], 2), rtol=0, atol=1e-12)
        alone = gradient(lambda x: ALL[name](x, 2), scores[:, kept], g[:, kept])
        torch.testing.assert_close(slope[:, kept], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_rounded_once(name, dtype):
    scores = random_scores(20, 6, dtype=dtype)
    assert torch.equal(ALL[name](scores, 3), ALL[name](scores.float(), 3).to(dtype))
    g = random_scores(20, 6, dtype=dtype, seed=1)
    slopes = [gradient(lambda x: ALL[name](x, 3), x, g.to(x)) for x in (scores, scores.float())]
    assert torch.equal(slopes[0], slopes[1].to(dtype))


@pytest.mark.parametrize("name", WITH_INDICES)
def test_a_single_row_without_batch_is_enough(name):
    row = random_scores(5)
    torch.testing.assert_close(WITH_INDICES[name](row, 2), WITH_INDICES[name](row[None], 2)[0])


# ---- randomness

SAMPLERS = [gumbel_topk, relaxed_topk, sample_subset]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_generator_repeats_and_leaves_the_global_one_alone(sampler):
    scores = random_scores(50, 8)
    before = torch.get_rng_state()
    first, again, other = (sampler(scores, 3, generator=seeded(seed)) for seed in (16, 16, 17))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    generator = seeded(16)
    assert torch.equal(sampler(scores, 3, generator=generator), first)
    assert not torch.equal(sampler(scores, 3, generator=generator), first)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_a_generator_the_global_seed_counts(sampler):
    scores = random_scores(50, 8)
    with torch.random.fork_rng():
        torch.manual_seed(18)
        first, second = sampler(scores, 3), sampler(scores, 3)
        torch.manual_seed(18)
        assert torch.equal(sampler(scores, 3), first)
        assert not torch.equal(first, second)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_sample_does_not_depend_on_the_memory_layout(sampler):
    scores = random_scores(6, 8)
    first, transposed = (sampler(x, 3, generator=seeded(19)) for x in (scores, scores.t().clone().t()))
    assert torch.equal(first, transposed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_generator_of_another_device_is_an_error(sampler):
    with pytest.raises(ValueError, match="the generator is on cpu"):
        sampler(torch.zeros(3, device="cuda"), 2, generator=seeded())


# ---- errors


@pytest.mark.parametrize("name", WITH_INDICES)
@pytest.mark.parametrize("k", [-1, 6, 100])
def test_a_k_that_is_negative_or_larger_than_n_is_an_error(name, k):
    with pytest.raises(ValueError, match=f"k must be from 0 to 5, .*; got {k}"):
        WITH_INDICES[name](torch.zeros(2, 5), k)
    with pytest.raises(ValueError, match="k must be from 0 to 2"):
        WITH_INDICES[name](torch.zeros(2, 5), 3, dim=0)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("name", WITH_INDICES)
@pytest.mark.parametrize("k", [True, 2.0, "2", None, torch.tensor(2)])
def test_a_k_that_is_no_integer_is_an_error(name, k):
    with pytest.raises(TypeError, match=re.escape(f"k must be an int; got {k!r}: use int(k)")):
        WITH_INDICES[name](torch.zeros(2, 5), k)


@pytest.mark.parametrize("name", WITH_INDICES)
def test_a_k_larger_than_what_is_possible_in_a_row_is_an_error(name):
    scores = torch.zeros(3, 5)
    scores[1, :3] = -INF
    WITH_INDICES[name](scores, 2)
    with pytest.raises(ValueError, match="k = 3, but a row has only 2"):
        WITH_INDICES[name](scores, 3)
    with pytest.raises(ValueError, match="k = 3, but a row has only 2"):
        WITH_INDICES[name](scores, 3, dim=0)


@pytest.mark.parametrize("name", WITH_INDICES)
@pytest.mark.parametrize("k", [0, 1, 5])
def test_a_row_without_a_possible_choice_is_an_error(name, k):
    scores = torch.zeros(3, 5)
    scores[1] = -INF
    with pytest.raises(ValueError, match="leave at least one choice possible"):
        WITH_INDICES[name](scores, k)


@pytest.mark.parametrize("name", WITH_INDICES)
@pytest.mark.parametrize("k", [0, 2, 5])
@pytest.mark.parametrize(("bad", "word"), [(math.nan, "NaN"), (INF, r"\+inf")])
def test_nan_and_plus_infinity_are_errors(name, k, bad, word):
    scores = torch.zeros(3, 5)
    scores[0, 1:] = -INF  # another mistake, in another row
    scores[1, 3] = bad
    with pytest.raises(ValueError, match=f"a logit is {word}"):
        WITH_INDICES[name](scores, k)


@pytest.mark.parametrize("name", WITH_INDICES)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,)])
def test_an_empty_batch_is_an_error(name, shape):
    with pytest.raises(ValueError, match="leave out an empty batch"):
        WITH_INDICES[name](torch.zeros(shape), 0)


@pytest.mark.parametrize("name", WITH_INDICES)
@pytest.mark.parametrize(("shape", "dim"), [((2, 3), 2), ((2, 3), -3), ((), -1)])
def test_a_dimension_that_is_not_there_is_an_error(name, shape, dim):
    with pytest.raises(ValueError, match=f"no dimension {dim}"):
        WITH_INDICES[name](torch.zeros(shape), 1, dim=dim)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("name", WITH_INDICES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_a_dtype_that_holds_no_scores_is_an_error(name, dtype):
    with pytest.raises(TypeError, match=f"need float16, .* got {dtype}"):
        WITH_INDICES[name](torch.zeros(2, 3).to(dtype), 1)


@pytest.mark.parametrize("value", [0, 0.0, -1.0, INF, -INF, math.nan, TINY / 2, 1e39])
def test_a_smoothing_or_temperature_that_is_not_positive_and_finite_is_an_error(value):
    with pytest.raises(ValueError, match="tau must be positive and finite"):
        relaxed_topk(torch.zeros(2, 3), 1, value)
    with pytest.raises(ValueError, match="epsilon must be positive and finite"):
        soft_topk(torch.zeros(2, 3), 1, value)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("value", ["1.0", None, torch.tensor(1.0)])
def test_a_smoothing_or_temperature_that_is_no_number_is_an_error(value):
    with pytest.raises(TypeError, match=r"use float\(tau\)"):
        relaxed_topk(torch.zeros(2, 3), 1, value)
    with pytest.raises(TypeError, match=r"use float\(epsilon\)"):
        soft_topk(torch.zeros(2, 3), 1, value)


# ---- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
def test_a_gpu_agrees():
    scores, g = random_scores(50, 9), random_scores(50, 9, seed=1)
    for k in (0, 3, 9):
        for function in (lambda x, k=k: soft_topk(x, k, 0.5), lambda x, k=k: subset_marginals(x, k)):
            torch.testing.assert_close(function(scores.cuda()).cpu(), function(scores), rtol=0, atol=1e-12)
            slopes = [gradient(function, scores.to(d), g.to(d)).cpu() for d in ("cpu", "cuda")]
            torch.testing.assert_close(*slopes, rtol=0, atol=1e-11)
    generator = torch.Generator("cuda").manual_seed(20)
    many = WEIGHTS.log().cuda().expand(40_000, -1)
    # χ² over all 6 sets and all 12 sequences, n = 40,000
    sets, p = k_subset_law(WEIGHTS.log(), 2)
    law = dict(zip(members(sets), p.tolist(), strict=True))
    assert p_value(members(sample_subset(many, 2, generator=generator).cpu()), law) > FALSE_ALARM
    drawn = gumbel_topk(many, 2, generator=generator).tolist()
    assert p_value([tuple(row) for row in drawn], plackett_luce_law(WEIGHTS, 2)) > FALSE_ALARM
    assert is_k_hot(relaxed_topk(many, 2, hard=True, generator=generator), 2)
