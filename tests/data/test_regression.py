"""Linear regression in context: the same for ever, a map for each prompt, and the floor is the normal equations'."""

from itertools import combinations

import pytest
import torch

from dynlib.data import least_squares, linear_regression

MAPS = [-0.56985, 0.618823, -0.605642, 1.131854, -1.697002, 0.661595]
VALUES = [-0.366806, -0.9238, 4.521523, 0.235915]
FIELDS = ("x", "y", "queries", "answers", "maps")


def test_the_numbers_are_those_they_have_always_been():
    drawn = linear_regression(3, features=2, pairs=4, queries=2, noise=0.5, seed=7)
    assert drawn.maps.flatten().tolist() == pytest.approx(MAPS, abs=1e-6)
    assert drawn.y[2].tolist() == pytest.approx(VALUES, abs=1e-6)


def test_the_same_seed_gives_the_same_numbers_and_each_other_seed_others():
    drawn = {
        (split, seed): linear_regression(5, split=split, seed=seed) for split in ("train", "test") for seed in (0, 1)
    }
    for (split, seed), first in drawn.items():
        again = linear_regression(5, split=split, seed=seed)
        assert all(torch.equal(getattr(first, field), getattr(again, field)) for field in FIELDS)
    for one, other in combinations(drawn.values(), 2):
        assert not set(one.maps.flatten().tolist()) & set(other.maps.flatten().tolist())


@pytest.mark.parametrize("count", [1, 3])
def test_more_prompts_begin_with_those_of_fewer(count):
    fewer, many = linear_regression(count, seed=3), linear_regression(50, seed=3)
    assert all(torch.equal(getattr(fewer, field), getattr(many, field)[:count]) for field in FIELDS)


def test_the_values_are_those_of_the_map_and_noise_is_on_the_pairs_alone():
    clean, noisy = (linear_regression(4000, features=3, pairs=5, queries=2, noise=noise) for noise in (0, 0.5))
    for drawn in (clean, noisy):
        expected = (drawn.queries * drawn.maps[:, None]).sum(-1)
        torch.testing.assert_close(drawn.answers, expected, rtol=0, atol=1e-5)
    errors = noisy.y - (noisy.x * noisy.maps[:, None]).sum(-1)
    # 20,000 draws: five standard errors of a standard deviation of 0.5, a false alarm in 6e-7 of seeds
    assert errors.std().item() == pytest.approx(0.5, abs=5 * 0.5 / (2 * 20_000) ** 0.5)
    torch.testing.assert_close(clean.y, (clean.x * clean.maps[:, None]).sum(-1), rtol=0, atol=1e-5)
    for part in (noisy.x, noisy.maps):
        assert part.mean().item() == pytest.approx(0, abs=5 / part.numel() ** 0.5)
        assert part.std().item() == pytest.approx(1, abs=5 / (2 * part.numel()) ** 0.5)


def test_interleaved_pairs_are_points_and_values_in_turn():
    drawn = linear_regression(2, features=3, pairs=4)
    tokens = drawn.interleaved()
    assert tokens.shape == (2, 8, 3)
    assert torch.equal(tokens[:, 0::2], drawn.x)
    assert torch.equal(tokens[:, 1::2, 0], drawn.y)
    assert not tokens[:, 1::2, 1:].any()
    assert len(drawn) == 2


@pytest.mark.parametrize("noise", [0, 0.5])
@pytest.mark.parametrize("ridge", [0, 0.25])
def test_least_squares_solves_the_normal_equations(noise, ridge):
    drawn = linear_regression(20, features=3, pairs=7, queries=4, noise=noise)
    for row, answer in enumerate(least_squares(drawn.x, drawn.y, drawn.queries, ridge=ridge)):
        x, y = drawn.x[row].double(), drawn.y[row].double()
        w = torch.linalg.inv(x.T @ x + ridge * torch.eye(3)) @ x.T @ y
        torch.testing.assert_close(answer, (drawn.queries[row].double() @ w).float(), rtol=0, atol=1e-4)


def test_without_noise_least_squares_is_right_from_as_many_pairs_as_features_on():
    errors = []
    for pairs in (3, 4, 9):
        drawn = linear_regression(50, features=4, pairs=pairs)
        errors.append((least_squares(drawn.x, drawn.y, drawn.queries) - drawn.answers).abs().max().item())
    assert errors[0] > 0.5
    assert max(errors[1:]) < 1e-2


def test_with_fewer_pairs_than_features_the_smallest_of_all_maps_is_taken():
    drawn = linear_regression(5, features=4, pairs=2, queries=3)
    w = torch.linalg.pinv(drawn.x.double()) @ drawn.y.double()[..., None]
    expected = (drawn.queries.double() @ w)[..., 0].float()
    torch.testing.assert_close(least_squares(drawn.x, drawn.y, drawn.queries), expected, rtol=0, atol=1e-4)


def test_a_ridge_of_the_noise_squared_is_better_than_least_squares():
    drawn = linear_regression(4000, features=4, pairs=8, queries=4, noise=0.5)
    plain, best, more = (
        (least_squares(drawn.x, drawn.y, drawn.queries, ridge=ridge) - drawn.answers).square().mean().item()
        for ridge in (0, 0.25, 2.0)
    )
    assert best < min(plain, more)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"count": 0}, ValueError, "count must be at least 1"),
        ({"count": 2, "features": 0}, ValueError, "features must be at least 1"),
        ({"count": 2, "pairs": 0}, ValueError, "pairs must be at least 1"),
        ({"count": 2, "queries": 0}, ValueError, "queries must be at least 1"),
        ({"count": 2, "noise": -1.0}, ValueError, "noise must be"),
        ({"count": 2, "noise": float("nan")}, ValueError, "noise must be"),
        ({"count": 2.0}, TypeError, "count must be"),
        ({"count": 2, "split": "valid"}, ValueError, "split must be 'train' or 'test'"),
        ({"count": 2, "seed": -1}, ValueError, "seed must be one of"),
        ({"count": 2, "seed": 2**32}, ValueError, "seed must be one of"),
    ],
)
def test_bad_requests_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        linear_regression(**options)


@pytest.mark.usefixtures("as_users_run_it")
def test_shapes_that_do_not_fit_and_a_negative_ridge_are_refused():
    drawn = linear_regression(2)
    for x, y, queries in (
        (drawn.x, drawn.y[:, 1:], drawn.queries),
        (drawn.x, drawn.y, drawn.queries[..., :2]),
        (drawn.x, drawn.y, drawn.queries[0]),
    ):
        with pytest.raises(ValueError, match=r"y \[n, pairs\] and queries .* got \(2, 12, 3\), "):
            least_squares(x, y, queries)
    with pytest.raises(ValueError, match="ridge"):
        least_squares(drawn.x, drawn.y, drawn.queries, ridge=-1)
