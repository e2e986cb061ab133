"""Needles in noise: the same for ever, answered by one needle, and no place gives anything away."""

import hashlib
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from dynlib.data.needles import NOISE, SLOTS, VALUES, VOCABULARY, Needles, needles

FIELDS = ("tokens", "labels", "masks", "places")
COUNT = 20_000


@pytest.fixture(scope="module")
def many() -> Needles:
    return needles(COUNT, length=16, needles=4, seed=3)


def digest(drawn: Needles) -> str:
    parts = [np.ascontiguousarray(getattr(drawn, field).numpy()).tobytes() for field in FIELDS]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def within(share: Tensor, expected: float, count: int, alarms: float = 5.5) -> None:
    """Shares of ``count`` draws. 5.5 standard errors: a false alarm in 4e-8 of shares."""
    error = (expected * (1 - expected) / count) ** 0.5
    assert ((share - expected).abs() < alarms * error).all(), share


def test_the_bytes_are_those_they_have_always_been():
    assert digest(needles(200)) == "2e6f641a8daf8e2378ef72165b166d516f5cf3dc91b18de2038e2c8a245f2028"
    other = needles(20, length=9, needles=3, split="test", seed=7)
    assert digest(other) == "7b6d8fce27f10ca30756cc6ab457b72ad6462ac5881587e01824011fddb0b44c"


def test_the_same_seed_gives_the_same_bytes_and_each_other_seed_others():
    drawn = {(split, seed): needles(20, split=split, seed=seed) for split in ("train", "test") for seed in range(4)}
    for (split, seed), first in drawn.items():
        again = needles(20, split=split, seed=seed)
        for field in FIELDS:
            assert torch.equal(getattr(first, field), getattr(again, field))
    for one, other in combinations(drawn.values(), 2):
        assert not torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("count", [1, 3, 300])
def test_more_sequences_begin_with_those_of_fewer(count, many):
    fewer = needles(count, length=16, needles=4, seed=3)
    for field in FIELDS:
        assert torch.equal(getattr(fewer, field), getattr(many, field)[:count])


def test_no_sequence_is_in_both_splits_or_twice_in_one():
    # the seeds are those most often taken; 128 tokens leave no room for chance
    seen = set()
    for split in ("train", "test"):
        for seed in (0, 1, 2, 3, 42, 2**32 - 1):
            seen |= {row.numpy().tobytes() for row in needles(100, split=split, seed=seed).tokens}
    assert len(seen) == 2 * 6 * 100


def test_drawing_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    needles(5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize(("length", "count"), [(2, 1), (9, 8), (12, 1), (40, 8)])
def test_each_sequence_is_a_question_needles_of_different_slots_and_noise(length, count):
    drawn = needles(100, length=length, needles=count)
    assert [getattr(drawn, field).dtype for field in FIELDS] == [torch.int64, torch.int64, torch.bool, torch.int64]
    assert drawn.tokens.shape == drawn.masks.shape == (100, length)
    assert len(drawn) == len(drawn.labels) == len(drawn.places) == 100
    for tokens, label, mask, place in zip(drawn.tokens, drawn.labels, drawn.masks, drawn.places, strict=True):
        question, *rest = tokens.tolist()
        assert 0 <= question < SLOTS
        held = {}
        for token, marked in zip(rest, mask[1:].tolist(), strict=True):
            assert marked == (SLOTS <= token < SLOTS + SLOTS * VALUES)
            assert SLOTS <= token < VOCABULARY
            if marked:
                slot, value = divmod(token - SLOTS, VALUES)
                assert slot not in held
                held[slot] = value
        assert not mask[0]
        assert len(held) == count
        assert held[question] == label
        assert tokens[place] == SLOTS + VALUES * question + label


def test_every_question_value_place_and_noise_is_as_frequent(many):
    within(torch.bincount(many.tokens[:, 0], minlength=SLOTS) / COUNT, 1 / SLOTS, COUNT)
    within(torch.bincount(many.labels, minlength=VALUES) / COUNT, 1 / VALUES, COUNT)
    within(torch.bincount(many.places, minlength=16)[1:] / COUNT, 1 / 15, COUNT)
    within(many.masks[:, 1:].double().mean(0), 4 / 15, COUNT)
    noise = many.tokens[:, 1:][~many.masks[:, 1:]] - (SLOTS + SLOTS * VALUES)
    within(torch.bincount(noise, minlength=NOISE) / len(noise), 1 / NOISE, len(noise))


def test_the_question_does_not_tell_the_value_nor_the_place(many):
    for answer, classes in ((many.labels, VALUES), (many.places - 1, 15)):
        both = torch.bincount(many.tokens[:, 0] * classes + answer, minlength=SLOTS * classes) / COUNT
        within(both, 1 / (SLOTS * classes), COUNT)


def test_a_frozen_sequence_cannot_be_exchanged():
    drawn = needles(1)
    with pytest.raises(AttributeError):
        drawn.labels = drawn.places  # type: ignore[misc]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"count": 0}, "at least 1; got 0"),
        ({"count": -3}, "got -3"),
        ({"count": 1, "needles": 0}, "from 1 to 8, one for each slot; got 0"),
        ({"count": 1, "needles": 9}, "got 9"),
        ({"count": 1, "length": 8}, "at least 9 to hold the question and 8 needles; got 8"),
        ({"count": 1, "split": "validation"}, "'train' or 'test'; got 'validation'"),
        ({"count": 1, "seed": -1}, "seed must be one of .* got -1"),
        ({"count": 1, "seed": 2**32}, "seed must be one of"),
    ],
)
def test_impossible_draws_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        needles(**arguments)
