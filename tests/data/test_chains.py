"""Chains of pointers: the same for ever, ends and hops are those of following them, and lengths are spread."""

from itertools import combinations

import pytest
import torch

from dynlib.data import chains

FIELDS = ("names", "points_to", "ends", "hops")


def test_the_numbers_are_those_they_have_always_been():
    drawn = chains(2, names=8, ends=3)
    assert drawn.names[0].tolist() == [1, 6, 5, 2, 0, 4, 3, 7]
    assert drawn.points_to[1].tolist() == [6, 7, 7, 2, 5, 2, 6, 1]


@pytest.mark.parametrize(("names", "ends"), [(1, 1), (5, 1), (5, 5), (20, 4), (2, 1)])
def test_ends_and_hops_are_those_of_following_the_pointers(names, ends):
    drawn = chains(30, names=names, ends=ends)
    assert len(drawn) == 30
    for row in range(30):
        target = dict(zip(drawn.names[row].tolist(), drawn.points_to[row].tolist(), strict=True))
        assert sorted(target) == list(range(names))
        assert sum(name == there for name, there in target.items()) == ends
        for place in range(names):
            name, hops = drawn.names[row, place].item(), 0
            while target[name] != name:
                name, hops = target[name], hops + 1
            assert (name, hops) == (drawn.ends[row, place].item(), drawn.hops[row, place].item())


def test_all_ways_to_cut_are_equally_likely():
    drawn = chains(4000, names=4, ends=2)
    longest = drawn.hops.max(1).values
    # lengths 1 + 3, 2 + 2, 3 + 1: two of three have a chain of three. 5.5 standard errors: a false alarm in 4e-8
    share = (longest == 2).double().mean().item()
    assert share == pytest.approx(2 / 3, abs=5.5 * (2 / 9 / 4000) ** 0.5)


def test_the_same_seed_gives_the_same_bytes_and_more_samples_begin_with_fewer():
    drawn = {(split, seed): chains(20, split=split, seed=seed) for split in ("train", "test") for seed in (0, 1)}
    for (split, seed), first in drawn.items():
        fewer = chains(3, split=split, seed=seed)
        assert all(torch.equal(getattr(fewer, field), getattr(first, field)[:3]) for field in FIELDS)
    for one, other in combinations(drawn.values(), 2):
        assert not torch.equal(one.names, other.names)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"count": 0}, ValueError, "count must be at least 1"),
        ({"count": 1, "names": 0}, ValueError, "names must be at least 1"),
        ({"count": 1, "names": 4, "ends": 5}, ValueError, "ends must be 1 … 4 chains"),
        ({"count": 1, "ends": 0}, ValueError, "ends must be 1 …"),
        ({"count": True}, TypeError, "count must be an int"),
        ({"count": 1, "split": "all"}, ValueError, "'train' or 'test'; got 'all'"),
        ({"count": 1, "seed": 2**32}, ValueError, "seed must be one of"),
    ],
)
def test_impossible_draws_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        chains(**options)
