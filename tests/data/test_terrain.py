"""The maps: the same for ever, and not to be read off one pixel."""

import hashlib
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynlib.data.terrain import GROUNDS, TILE, Terrain, terrain

FALSE_ALARM = 1e-6
COUNT = 400


@pytest.fixture(scope="module")
def many() -> Terrain:
    return terrain(COUNT, seed=3)


def kinds(costs: Tensor) -> Tensor:
    """Which of the grounds each tile is."""
    listed = torch.tensor([ground.cost for ground in GROUNDS])
    found = costs[..., None] == listed
    assert (found.sum(-1) == 1).all()
    return found.int().argmax(-1)


def tiles(images: Tensor) -> Tensor:
    """[n, size, size, 3, 8, 8]"""
    return images.unfold(2, TILE, TILE).unfold(3, TILE, TILE).permute(0, 2, 3, 1, 4, 5)


@pytest.mark.parametrize(("count", "size"), [(1, 12), (3, 1), (2, 2), (130, 5), (2, 25)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_shapes_types_and_ranges_are_as_promised(count, size, split):
    drawn = terrain(count, size=size, split=split)
    assert len(drawn) == count
    assert drawn.images.shape == (count, 3, TILE * size, TILE * size)
    assert drawn.costs.shape == drawn.paths.shape == (count, size, size)
    for part in (drawn.images, drawn.costs, drawn.paths):
        assert part.dtype == torch.float32
        assert part.is_contiguous()
    assert drawn.images.min() >= 0
    assert drawn.images.max() <= 1
    kinds(drawn.costs)


def test_there_are_five_grounds_with_the_costs_of_the_course():
    assert {ground.name: ground.cost for ground in GROUNDS} == {
        "grass": 0.8,
        "sand": 1.2,
        "forest": 5.3,
        "rock": 7.7,
        "water": 9.2,
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_maps_are_in_float32_whatever_the_default(dtype):
    expected = terrain(3, size=4)
    torch.set_default_dtype(dtype)
    try:
        found = terrain(3, size=4)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in vars(expected).items():
        assert getattr(found, name).dtype == torch.float32
        assert torch.equal(getattr(found, name), value)


def digest(drawn: Terrain) -> str:
    levels = (drawn.images * 255).round().to(torch.uint8).numpy()
    parts = (levels, kinds(drawn.costs).to(torch.uint8).numpy(), drawn.paths.to(torch.uint8).numpy())
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def test_the_bytes_are_those_they_have_always_been():
    assert digest(terrain(200)) == "388656c5e87193f8a1944d5e75948fbe4a4ca2b704cc9d1350b6700456644d1b"
    assert (
        digest(terrain(20, split="test", seed=7, size=5))
        == "8ea6d1e504f2cb0ccf149b555e01991fc126a5a0c14909f5bb82549cc3ec7c73"
    )


def test_the_same_seed_gives_the_same_bytes_and_each_other_seed_others():
    drawn = {(split, seed): terrain(20, split=split, seed=seed) for split in ("train", "test") for seed in range(4)}
    for (split, seed), first in drawn.items():
        again = terrain(20, split=split, seed=seed)
        for field in ("images", "costs", "paths"):
            assert torch.equal(getattr(first, field), getattr(again, field))
    for one, other in combinations(drawn.values(), 2):
        assert not torch.equal(one.images, other.images)
        assert not torch.equal(one.costs, other.costs)


@pytest.mark.parametrize("count", [1, 3, 127, 128, 129, 300])
def test_more_maps_begin_with_those_of_fewer(count, many):
    fewer = terrain(count, seed=3)
    for field in ("images", "costs", "paths"):
        assert torch.equal(getattr(fewer, field), getattr(many, field)[:count])


def test_no_map_is_in_both_splits_or_twice_in_one():
    # the seeds are those most often taken; 12 × 12 tiles leave no room for chance
    seen: dict[bytes, tuple[str, int]] = {}
    for split in ("train", "test"):
        for seed in (0, 1, 2, 3, 42, 2**32 - 1):
            for costs in terrain(150, split=split, seed=seed).costs:
                key = kinds(costs).to(torch.uint8).numpy().tobytes()
                assert key not in seen, (split, seed, seen[key])
                seen[key] = (split, seed)
    assert len(seen) == 2 * 6 * 150


def test_drawing_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    terrain(5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]  # noqa: NPY002


def test_every_ground_takes_about_a_fifth(many):
    # Tiles of one map hang together: the standard error is that of the shares of the maps.
    shares = F.one_hot(kinds(many.costs), 5).double().mean((1, 2))
    error = shares.std(0) / COUNT**0.5
    # what the normal law misses of the sum's: less than 0.01 of 0.2. 5.1 deviations for 5 shares: one alarm in 600,000.
    assert ((shares.mean(0) - 0.2).abs() < 0.01 + 5.1 * error).all()


def test_ground_hangs_together(many):
    found = kinds(many.costs)
    same = torch.stack(
        [(found[:, 1:] == found[:, :-1]).double().mean(), (found[:, :, 1:] == found[:, :, :-1]).double().mean()]
    )
    assert same.min() > 0.4  # 0.2 if every tile were drawn alone
    far = (found[:, 8:] == found[:, :-8]).double().mean()
    assert far < 0.25
    steps = (found[:, 1:] - found[:, :-1]).abs()
    assert (steps >= 3).double().mean() < 0.05  # no rock beside water


def test_neither_one_pixel_nor_the_mean_colour_of_all_pixels_is_the_ground(many):
    """The best guess from one pixel is wrong on many tiles; a tile's mean colour and roughness together say more."""
    found = kinds(many.costs).flatten()
    patches = tiles(many.images).reshape(len(found), 3, -1)

    def accuracy(features: Tensor) -> float:
        """Of the most frequent kind among the tiles that look the same, each feature cut into 24 levels."""
        half = len(found) // 2
        low, high = features.amin(0), features.amax(0)
        cut = ((features - low) / (high - low) * 23.999).long()
        key = (cut * 24 ** torch.arange(features.shape[1])).sum(1)
        votes = torch.zeros(int(key.max()) + 1, 5)
        votes.index_put_((key[:half], found[:half]), torch.ones(half), accumulate=True)
        return (votes[key[half:]].argmax(1) == found[half:]).double().mean().item()

    pixel = accuracy(patches[:, :, 27])
    tile = accuracy(patches.mean(2))
    assert 0.5 < pixel < 0.95
    assert tile > pixel + 0.05, (pixel, tile)


def test_light_changes_over_a_map_and_texture_within_a_tile(many):
    found = kinds(many.costs)
    patches = tiles(many.images).mean(3)  # grey [n, size, size, 8, 8]
    for kind, ground in enumerate(GROUNDS):
        mine = patches[found == kind]
        rough = 255 * mine.flatten(1).std(1).median().item()
        assert rough == pytest.approx(ground.contrast, rel=0.35)
        assert 255 * mine.flatten(1).mean(1).std().item() > 4
        # the grain: pixels are alike along its longer side
        down, across = (
            (mine[:, 1:] - mine[:, :-1]).square().mean(),
            (mine[:, :, 1:] - mine[:, :, :-1]).square().mean(),
        )
        height, width = ground.grain
        assert (down < 0.8 * across) == (height > width)
        assert (across < 0.8 * down) == (width > height)


def test_colours_are_those_of_the_ground_in_a_mean_light(many):
    found = kinds(many.costs)
    patches = tiles(many.images).mean((4, 5))
    for kind, ground in enumerate(GROUNDS):
        colour = patches[found == kind].mean(0)
        full = torch.tensor(ground.colour) / 255
        ratio = colour / full
        assert 0.7 < ratio.min() <= ratio.max() < 1
        assert ratio.max() - ratio.min() < 0.03  # shadows keep the hue


def test_a_frozen_map_cannot_be_exchanged():
    drawn = terrain(1, size=2)
    with pytest.raises(AttributeError):
        drawn.costs = drawn.paths  # type: ignore[misc]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"count": 0}, "at least 1; got 0"),
        ({"count": -3}, "got -3"),
        ({"count": 1, "size": 0}, "size must be at least 1; got 0"),
        ({"count": 1, "split": "validation"}, "'train' or 'test'; got 'validation'"),
        ({"count": 1, "seed": -1}, "seed must be one of .* got -1"),
        ({"count": 1, "seed": 2**32}, "seed must be one of"),
    ],
)
def test_impossible_draws_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        terrain(**arguments)


# ---- on a GPU
