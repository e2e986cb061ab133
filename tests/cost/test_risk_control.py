"""The certificate against scipy and simulation.

The statistical tests are seeded, so they pass or fail once and for all; ``FALSE_ALARM`` is the probability that a right
implementation had been unlucky with its seed.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import dynlib.cost
import dynlib.depth
from dynlib.cost.risk_control import binomial_cdf, learn_then_test

FALSE_ALARM = 1e-6  # of every statistical test here
few = settings(max_examples=40, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def losses_with(sums: Sequence[int], points: int) -> Tensor:
    """Zeros and ones with these sums, [points, thresholds]."""
    return (torch.arange(points)[:, None] < torch.tensor(sums)).double()


def falling(count: int) -> list[float]:
    return [1 - i / count for i in range(count)]


@pytest.mark.parametrize("trials", [1, 2, 30, 1000, 50_000])
@pytest.mark.parametrize("probability", [1e-4, 0.02, 0.1, 0.5, 0.97])
def test_the_binomial_tail_is_that_of_scipy(trials, probability):
    successes = torch.linspace(0, trials, min(trials + 1, 200)).long()
    expected = torch.from_numpy(stats.binom.cdf(successes.numpy(), trials, probability))
    got = binomial_cdf(successes, trials, probability)
    assert got.dtype == torch.float64
    assert got.max() <= 1
    # log-factorials of 50,000 are about 5e5, which leaves ten digits of the tail
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize(("delta", "epsilon"), [(0.1, 0.1), (0.02, 0.05), (0.5, 0.3)])
def test_p_values_are_their_formulas(delta, epsilon):
    points, sums = 200, [0, 1, 3, 9, 20, 40, 150, 200]
    losses = losses_with(sums, points)
    binomial = stats.binom.cdf(sums, points, delta)
    hoeffding = np.exp(-2 * points * np.maximum(delta - np.array(sums) / points, 0) ** 2)
    chernoff = []
    for k in sums:  # the least over t > 0 of E exp(t (Binomial − k)), where k is below its mean
        slopes = -np.logspace(-6, 2, 20_001)
        curve = points * np.log1p(delta * np.expm1(slopes)) - slopes * k
        chernoff.append(math.exp(curve.min()) if k < points * delta else 1.0)
    bentkus = np.minimum(1, np.minimum(chernoff, math.e * binomial))
    for test, expected in (("binomial", binomial), ("hoeffding", hoeffding), ("hoeffding-bentkus", bentkus)):
        found = learn_then_test(losses, falling(len(sums)), delta, epsilon, test=test)
        np.testing.assert_allclose(found.p_values.numpy(), expected, rtol=1e-5, atol=1e-300)
        assert found.test == test
        # fixed sequence: all before the first that fails
        passed = [p <= epsilon for p in expected]
        certified = passed.index(False)
        assert found.index == (certified - 1 if certified else None)
        assert found.tested == certified + 1
        assert found.risks.tolist() == pytest.approx([k / points for k in sums])


@pytest.mark.parametrize("delta", [0.02, 0.1, 0.4])
def test_no_p_value_is_small_more_often_than_it_may_be(delta):
    # exact: all outcomes of 60 losses of 0 and 1 with a risk of delta, the edge of what is to be rejected
    points = 60
    mass = stats.binom.pmf(range(points + 1), points, delta)
    losses = losses_with(range(points + 1), points)
    p = {
        test: learn_then_test(losses, falling(points + 1), delta, 0.1, test=test).p_values.numpy()
        for test in ("binomial", "hoeffding-bentkus", "hoeffding")
    }
    for values in p.values():
        for level in np.linspace(0.001, 0.999, 500):
            assert mass[values <= level].sum() <= level + 1e-12
    assert (p["binomial"] <= p["hoeffding-bentkus"] + 1e-12).all()
    assert (p["hoeffding-bentkus"] <= p["hoeffding"] + 1e-12).all()


def test_bentkus_rounds_a_fraction_up():
    losses = torch.full((50, 1), 0.05, dtype=torch.float64)  # sum 2.5
    found = learn_then_test(losses, [1.0], 0.3, 0.1)
    assert found.test == "hoeffding-bentkus"
    a, b = 0.05, 0.3
    chernoff = math.exp(-50 * (a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))))
    bentkus = math.e * stats.binom.cdf(3, 50, 0.3)
    assert found.p_values.item() == pytest.approx(min(chernoff, bentkus), rel=1e-9)
    # and where Bentkus is the smaller of the two
    losses = torch.full((500, 1), 0.041, dtype=torch.float64)  # sum 20.5
    found = learn_then_test(losses, [1.0], 0.1, 0.1)
    assert found.p_values.item() == pytest.approx(math.e * stats.binom.cdf(21, 500, 0.1), rel=1e-9)


def test_testing_stops_at_the_first_failure():
    points = 300
    losses = losses_with([0, 5, 60, 0, 0], points)  # the last two would pass
    found = learn_then_test(losses, [0.9, 0.8, 0.7, 0.6, 0.5], 0.1, 0.1)
    assert (found.threshold, found.index, found.tested) == (0.8, 1, 3)
    assert (found.p_values[3:] <= 0.1).all()
    found = learn_then_test(losses[:, [0, 1, 3, 4]], [0.9, 0.8, 0.6, 0.5], 0.1, 0.1)
    assert (found.threshold, found.index, found.tested) == (0.5, 3, 4)


def test_a_p_value_of_exactly_epsilon_is_small_enough():
    losses = torch.zeros(1, 1)
    assert learn_then_test(losses, [1.0], 0.5, 0.5).threshold == 1.0
    assert learn_then_test(losses, [1.0], 0.5, math.nextafter(0.5, 0)).threshold is None


def simulate(
    draw: Callable[[np.random.Generator], np.ndarray], risks: np.ndarray, delta: float, epsilon: float, test: str
) -> tuple[float, float, float]:
    """How often, of 500 calibrations, a broken promise: certified, and naive; and how often nothing was certified."""
    random = np.random.default_rng(0)
    broken = naive = nothing = 0
    for _ in range(500):
        losses = draw(random)
        found = learn_then_test(torch.from_numpy(losses), falling(len(risks)), delta, epsilon, test=test)
        nothing += found.index is None
        broken += found.index is not None and risks[found.index] > delta
        kept = np.flatnonzero(losses.mean(0) <= delta)  # the most daring one that looks as if it kept delta
        naive += len(kept) > 0 and risks[kept[-1]] > delta
    return broken / 500, naive / 500, nothing / 500


@pytest.mark.parametrize(
    ("test", "delta", "epsilon"),
    [
        ("binomial", 0.1, 0.1),
        ("binomial", 0.02, 0.1),
        ("hoeffding-bentkus", 0.1, 0.1),
        ("hoeffding-bentkus", 0.05, 0.2),
        ("hoeffding", 0.1, 0.1),
    ],
)
def test_certificates_break_their_promise_no_oftener_than_epsilon_and_naive_thresholds_do(test, delta, epsilon):
    # 500 calibrations of 500 points. A right certificate breaks at most as often as Binomial(500, ε), whose
    # (1 − FALSE_ALARM) quantile is the bound. Risks rise in steps of δ / 20, one of them just above δ.
    risks = delta * (np.arange(40) + 0.01) / 20
    most = stats.binom.ppf(1 - FALSE_ALARM, 500, epsilon) / 500
    amount = 1.0 if test == "binomial" else 0.5  # a loss, where there is one; its probability makes up for it

    def draw(random: np.random.Generator) -> np.ndarray:
        return amount * (random.random((500, 1)) < risks / amount)

    broken, naive, nothing = simulate(draw, risks, delta, epsilon, test)
    assert broken <= most
    assert naive > most
    assert nothing < 0.01


def test_many_tests_in_a_row_break_no_more_promises_than_one():
    # 500 calibrations at 60 thresholds, independent and all just worse than δ: each single one passes in about 9 %
    risks = np.full(60, 0.1001)
    random = np.random.default_rng(1)
    broken = passed = 0
    for _ in range(500):
        losses = torch.from_numpy(random.random((500, 60)) < risks)
        found = learn_then_test(losses, falling(60), 0.1, 0.1)
        broken += found.index is not None
        passed += bool((found.p_values <= 0.1).any())
    assert broken / 500 <= stats.binom.ppf(1 - FALSE_ALARM, 500, 0.1) / 500
    assert passed / 500 > 0.9  # had every threshold been tested and the most daring one been taken


def test_with_100_points_hoeffding_certifies_nothing_and_says_how_many_it_needs():
    losses, thresholds = torch.zeros(100, 3), [1.0, 0.5, 0.0]
    found = learn_then_test(losses, thresholds, 0.1, 0.1, test="hoeffding")
    assert (found.threshold, found.index, found.tested) == (None, None, 1)
    assert found.needed == math.ceil(math.log(10) / 0.02) == 116
    assert "nothing can be certified with 100 calibration points" in str(found)
    assert "at least 116" in str(found)
    assert learn_then_test(losses, thresholds, 0.1, 0.1).threshold == 0.0  # the exact test needs no more than 22


@pytest.mark.parametrize("test", ["binomial", "hoeffding-bentkus", "hoeffding"])
@pytest.mark.parametrize(("delta", "epsilon"), [(0.1, 0.1), (0.02, 0.1), (0.5, 0.5), (0.9, 0.9), (0.25, 1e-6)])
def test_needed_is_the_least_number_of_points_that_can_certify(test, delta, epsilon):
    needed = learn_then_test(torch.zeros(1, 1), [1.0], delta, epsilon, test=test).needed
    enough = learn_then_test(torch.zeros(needed, 1), [1.0], delta, epsilon, test=test)
    assert enough.threshold == 1.0
    if needed > 1:
        one_less = learn_then_test(torch.zeros(needed - 1, 1), [1.0], delta, epsilon, test=test)
        assert one_less.threshold is None
        assert f"at least {needed}" in str(one_less)


def test_a_certificate_says_what_it_promises_and_a_failure_why():
    found = learn_then_test(losses_with([0, 3, 90], 200), [0.9, 0.75, 0.5], 0.1, 0.05)
    assert str(found) == "threshold 0.75: risk at most 0.1 with confidence 0.95, from 200 calibration points"
    failed = learn_then_test(losses_with([90], 200), [0.9], 0.1, 0.05)
    assert failed.threshold is None
    assert "the safest threshold has mean loss 0.45" in str(failed)


@given(
    sums=st.lists(st.integers(0, 300), min_size=1, max_size=12),
    deltas=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)),
    epsilons=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)),
    test=st.sampled_from(["binomial", "hoeffding-bentkus", "hoeffding"]),
)
@few
def test_a_weaker_promise_never_certifies_less(sums, deltas, epsilons, test):
    losses, thresholds = losses_with(sums, 300), falling(len(sums))
    strict = learn_then_test(losses, thresholds, min(deltas), min(epsilons), test=test)
    weak = learn_then_test(losses, thresholds, max(deltas), max(epsilons), test=test)
    assert (weak.p_values <= strict.p_values + 1e-12).all()
    assert (-1 if weak.index is None else weak.index) >= (-1 if strict.index is None else strict.index)


def test_losses_may_be_of_any_number_type_and_thresholds_a_tensor():
    losses = losses_with([0, 2, 12, 40], 100)
    wanted = learn_then_test(losses, [0.9, 0.7, 0.5, 0.1], 0.2, 0.1)
    assert wanted.test == "binomial"
    assert wanted.threshold == 0.5
    for dtype in (torch.bool, torch.int64, torch.uint8, torch.float16, torch.float32):
        found = learn_then_test(losses.to(dtype), torch.tensor([0.9, 0.7, 0.5, 0.1], dtype=torch.float64), 0.2, 0.1)
        assert torch.equal(found.p_values, wanted.p_values)
        assert found.threshold == wanted.threshold


@pytest.mark.parametrize(
    ("losses", "thresholds", "delta", "epsilon", "options", "error", "says"),
    [
        (torch.zeros(0, 2), [1, 0], 0.1, 0.1, {}, ValueError, "no calibration points"),
        (torch.zeros(5, 0), [], 0.1, 0.1, {}, ValueError, "no threshold"),
        (torch.zeros(5, 3), [1, 0], 0.1, 0.1, {}, ValueError, "2 thresholds; got shape"),
        (torch.zeros(5), [1], 0.1, 0.1, {}, ValueError, r"\[points, thresholds\]"),
        (torch.zeros(5, 2), [0, 1], 0.1, 0.1, {}, ValueError, "fall strictly"),
        (torch.zeros(5, 2), [1, 1], 0.1, 0.1, {}, ValueError, "fall strictly"),
        (torch.zeros(5, 2), [1, math.nan], 0.1, 0.1, {}, ValueError, "NaN"),
        (torch.zeros(5, 1), [None], 0.1, 0.1, {}, TypeError, "sequence of numbers"),
        (torch.zeros(5, 1), 0.5, 0.1, 0.1, {}, TypeError, "sequence of numbers"),
        (torch.full((5, 1), 1.5), [1], 0.1, 0.1, {}, ValueError, r"in \[0, 1\]"),
        (torch.full((5, 1), -1), [1], 0.1, 0.1, {}, ValueError, r"in \[0, 1\]"),
        (torch.full((5, 1), math.nan), [1], 0.1, 0.1, {}, ValueError, r"in \[0, 1\]"),
        (torch.zeros(5, 1), [1], 0.0, 0.1, {}, ValueError, "delta"),
        (torch.zeros(5, 1), [1], 1, 0.1, {}, ValueError, "delta"),
        (torch.zeros(5, 1), [1], math.nan, 0.1, {}, ValueError, "delta"),
        (torch.zeros(5, 1), [1], 0.1, 0, {}, ValueError, "epsilon"),
        (torch.zeros(5, 1), [1], 0.1, 10, {}, ValueError, "epsilon.*10 % is 0.1"),
        (torch.zeros(5, 1), [1], 0.1, 0.1, {"test": "t"}, ValueError, "'hoeffding'"),
        (torch.full((5, 1), 0.5), [1], 0.1, 0.1, {"test": "binomial"}, ValueError, "fraction"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_certificates_that_cannot_be_are_refused(losses, thresholds, delta, epsilon, options, error, says):
    with pytest.raises(error, match=says):
        learn_then_test(losses, thresholds, delta, epsilon, **options)


@pytest.mark.parametrize(
    ("successes", "trials", "probability"), [(-1, 5, 0.5), (6, 5, 0.5), (0, 0, 0.5), (1, 5, 0.0), (1, 5, 1.0)]
)
def test_binomials_that_cannot_be_are_refused(successes, trials, probability):
    with pytest.raises(ValueError, match=r"successes must|need at least"):
        binomial_cdf(torch.tensor([successes]), trials, probability)


def test_it_is_found_with_the_costs_and_with_the_exits():
    assert dynlib.cost.learn_then_test is dynlib.depth.learn_then_test is learn_then_test


@pytest.mark.parametrize("losses", [[[0.0, 1.0]] * 50, np.zeros((50, 2))])
@pytest.mark.usefixtures("as_users_run_it")
def test_losses_that_are_no_tensor_are_told_how_to_become_one(losses):
    with pytest.raises(TypeError, match=r"losses must be a tensor; got .*torch\.as_tensor"):
        learn_then_test(losses, [0.9, 0.1], 0.1, 0.1)
    with pytest.raises(TypeError, match="successes must be a tensor"):
        binomial_cdf(losses, 50, 0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
def test_losses_on_a_gpu_are_certified_the_same():
    found = learn_then_test(losses_with([0, 2, 50], 100).cuda(), [0.9, 0.8, 0.7], 0.1, 0.1)
    assert found.threshold == 0.8
    torch.testing.assert_close(found.p_values.cpu(), torch.from_numpy(stats.binom.cdf([0, 2, 50], 100, 0.1)))
