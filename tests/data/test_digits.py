"""The scans and their clutter: the same for ever, honest about what is where, and no scan in both splits."""

import hashlib
import time
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from dynlib.data import ClutteredDigits, cluttered_digits, digits, hatched_digits
from dynlib.data.digits import FRAGMENT, LEVELS, MOST_FRAGMENTS, SCAN

COUNT = 20_000


@pytest.fixture(scope="module")
def many() -> ClutteredDigits:
    return cluttered_digits(COUNT, seed=3)


def levels(images: Tensor) -> np.ndarray:
    """The grey levels, 0 … 16, that the images were made from."""
    return (images * LEVELS).round().to(torch.uint8).numpy()


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def test_the_scans_are_real_digits_ready_to_use() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    theirs = sorted(zip((image.tobytes() for image in bunch.images.astype(np.uint8)), bunch.target, strict=True))
    ours = []
    for split, count in (("train", 1437), ("test", 360)):
        part = digits(split)
        assert len(part) == count
        assert part.images.shape == (count, 1, SCAN, SCAN)
        assert part.images.dtype == torch.float32
        assert part.labels.dtype == torch.int64
        assert (part.images.min(), part.images.max()) == (0, 1)
        ours += zip((image.tobytes() for image in levels(part.images)), part.labels.tolist(), strict=True)
    assert sorted(ours) == theirs


def test_no_scan_is_in_both_splits() -> None:
    # the set holds no scan twice, so that equal bytes would mean a leak
    train, test = ({image.tobytes() for image in levels(digits(split).images)} for split in ("train", "test"))
    assert len(train) == 1437
    assert len(test) == 360
    assert not train & test


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_class_is_in_each_split(split: str) -> None:
    shares = digits(split).labels.bincount(minlength=10) / len(digits(split))
    assert shares.min() > 0.07
    assert shares.max() < 0.13


def test_the_bytes_are_those_they_have_always_been() -> None:
    plain, cluttered = digits("train"), cluttered_digits(1000, seed=0)
    got = digest(levels(plain.images), plain.labels.numpy())
    assert got == "cf3c35a27d08c8734ced222d27aefb96261040235c5981bff7d57e3a2dc5ca8c"
    got = digest(levels(cluttered.images), cluttered.labels.numpy(), cluttered.masks.numpy())
    assert got == "d47bd18948190c945ae212bff881a74c1e6a7ce898f9ecbc7cef37bb20529457"


def test_the_same_seed_gives_the_same_bytes_and_each_other_seed_others() -> None:
    drawn = {seed: cluttered_digits(50, seed=seed) for seed in range(5)}
    for seed, first in drawn.items():
        again = cluttered_digits(50, seed=seed)
        for field in ("images", "labels", "masks", "difficulty"):
            assert torch.equal(getattr(first, field), getattr(again, field))
    for one, other in combinations(drawn.values(), 2):
        assert not torch.equal(one.images, other.images)
        assert not torch.equal(one.labels, other.labels)
    assert not torch.equal(drawn[0].images, cluttered_digits(50, seed=0, split="test").images)


def test_changing_what_was_handed_out_changes_nothing_for_others() -> None:
    first = digits("test")
    kept = first.images.clone(), first.labels.clone()
    first.images.zero_()
    first.labels.zero_()
    assert torch.equal(digits("test").images, kept[0])
    assert torch.equal(digits("test").labels, kept[1])


def test_drawing_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    cluttered_digits(10)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]  # noqa: NPY002


def digit_found(image: np.ndarray, mask: np.ndarray, scans: np.ndarray) -> list[tuple[int, int, int]]:
    """Every (scan, row, column) whose ink is exactly the mask, and nowhere darker than the image."""
    rows, columns = np.nonzero(mask)
    found = []
    for top in range(max(0, rows.max() - SCAN + 1), min(rows.min(), len(image) - SCAN) + 1):
        for left in range(max(0, columns.max() - SCAN + 1), min(columns.min(), len(image) - SCAN) + 1):
            here = slice(top, top + SCAN), slice(left, left + SCAN)
            fits = ((scans > 0) == mask[here]).all((1, 2)) & (scans <= image[here]).all((1, 2))
            found += [(int(scan), top, left) for scan in np.nonzero(fits)[0]]
    return found


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_mask_is_the_ink_of_a_scan_of_the_split_with_the_label_of_the_image(split: str) -> None:
    part, drawn = digits(split), cluttered_digits(300, split=split, seed=1)
    scans, images = levels(part.images)[:, 0], levels(drawn.images)[:, 0]
    for image, mask, label in zip(images, drawn.masks.numpy(), drawn.labels.tolist(), strict=True):
        assert (image[mask] > 0).all()
        found = digit_found(image, mask, scans)
        assert found
        assert label in part.labels[[scan for scan, _, _ in found]]


def test_without_fragments_there_is_the_digit_and_nothing_else(many: ClutteredDigits) -> None:
    easy = many.difficulty == 0
    assert easy.any()
    assert torch.equal(many.images[easy, 0] > 0, many.masks[easy])
    crowded = many.difficulty == 1
    assert ((many.images[crowded, 0] > 0) & ~many.masks[crowded]).flatten(1).any(1).all()


def test_fragments_are_pieces_of_scans_of_the_same_split() -> None:
    """One fragment that touches no digit is seen whole: it must be cut from the split that was asked for."""
    pieces = {}
    for split in ("train", "test"):
        scans = levels(digits(split).images)[:, 0]
        windows = np.lib.stride_tricks.sliding_window_view(scans, (FRAGMENT, FRAGMENT), axis=(1, 2))
        pieces[split] = {piece.tobytes() for piece in windows.reshape(-1, FRAGMENT, FRAGMENT)}
    foreign = dict.fromkeys(pieces, 0)
    for split, other in (("train", "test"), ("test", "train")):
        drawn = cluttered_digits(6000, split=split, seed=2)
        alone = (drawn.difficulty * MOST_FRAGMENTS).round() == 1
        images, masks = levels(drawn.images[alone])[:, 0], drawn.masks[alone].numpy()
        seen = 0
        for image, mask in zip(images, masks, strict=True):
            rows, columns = np.nonzero((image > 0) & ~mask)
            if len(rows) == 0 or (np.ptp(rows), np.ptp(columns)) != (FRAGMENT - 1, FRAGMENT - 1):
                continue
            here = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
            if mask[here].any():
                continue
            seen += 1
            assert image[here].tobytes() in pieces[split]
            foreign[split] += image[here].tobytes() not in pieces[other]
        assert seen > 50
    assert min(foreign.values()) > 20, "pieces of the two splits must differ for this to say anything"


def test_difficulty_is_the_share_of_fragments_and_every_number_is_as_likely(many: ClutteredDigits) -> None:
    numbers = many.difficulty * MOST_FRAGMENTS
    assert torch.allclose(numbers, numbers.round(), atol=1e-5)
    counts = numbers.round().long().bincount()
    assert len(counts) == MOST_FRAGMENTS + 1
    # χ² with 12 degrees of freedom exceeds 50 for fewer than 2 seeds in a million
    assert chi_square(counts) < 50
    clutter = ((many.images[:, 0] > 0) & ~many.masks).flatten(1).sum(1).float()
    means = torch.stack([clutter[numbers.round() == number].mean() for number in range(MOST_FRAGMENTS + 1)])
    assert (means.diff() > 0).all(), "more fragments must leave more ink beside the digit"


def chi_square(counts: Tensor) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def ink(mask: np.ndarray) -> tuple[bytes, int, int]:
    """The ink without the paper around it, and where it begins."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    shape = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bytes(shape.shape) + shape.tobytes(), int(rows[0]), int(columns[0])


def test_every_place_is_as_likely(many: ClutteredDigits) -> None:
    """The place of a scan is where its ink begins on the canvas less where its ink begins on the scan."""
    offsets: dict[bytes, set[tuple[int, int]]] = {}
    for scan in levels(digits("train").images)[:, 0] > 0:
        shape, top, left = ink(scan)
        offsets.setdefault(shape, set()).add((top, left))
    places = []
    for mask in many.masks.numpy():
        shape, top, left = ink(mask)
        if len(offsets[shape]) == 1:  # else two scans of the same ink, differently placed: rare
            ((above, beside),) = offsets[shape]
            places.append((top - above, left - beside))
    assert len(places) > 0.95 * COUNT
    rows, columns = torch.tensor(places).T
    for place in (rows, columns):
        counts = place.bincount()
        assert len(counts) == 24 - SCAN + 1
        # χ² with 16 degrees of freedom exceeds 58 for fewer than 2 seeds in a million
        assert chi_square(counts) < 58
    # of n independent pairs, a correlation beyond 5/√n comes up for fewer than one seed in a million
    assert abs(torch.corrcoef(torch.stack([rows, columns]).float())[0, 1]) < 5 / len(places) ** 0.5


def test_every_scan_is_drawn_as_often(many: ClutteredDigits) -> None:
    shares = digits("train").labels.bincount(minlength=10) / 1437
    drawn = many.labels.bincount(minlength=10) / COUNT
    # each of ten shares within 5 of its standard deviations: a false alarm in 10 · 6e-7 < 1e-5 of seeds
    assert ((drawn - shares).abs() <= 5 * (shares * (1 - shares) / COUNT).sqrt()).all()


def test_a_canvas_of_the_size_of_a_scan_holds_the_digit_where_it_is() -> None:
    drawn = cluttered_digits(200, size=SCAN, seed=4)
    assert drawn.images.shape == (200, 1, SCAN, SCAN)
    scans = {image.tobytes() for image in levels(digits("train").images)}
    easy = drawn.difficulty == 0
    assert all(image.tobytes() in scans for image in levels(drawn.images[easy]))
    assert easy.any()


@pytest.mark.parametrize(("count", "size"), [(1, 8), (1, 9), (7, 24), (3, 40)])
def test_shapes_and_types_are_as_promised(count: int, size: int) -> None:
    drawn = cluttered_digits(count, size=size)
    assert len(drawn) == count
    assert drawn.images.shape == (count, 1, size, size)
    assert drawn.masks.shape == (count, size, size)
    assert drawn.labels.shape == drawn.difficulty.shape == (count,)
    types = (drawn.images.dtype, drawn.masks.dtype, drawn.labels.dtype, drawn.difficulty.dtype)
    assert types == (torch.float32, torch.bool, torch.int64, torch.float32)


def test_twenty_thousand_images_are_drawn_in_seconds() -> None:
    start = time.perf_counter()
    cluttered_digits(20_000, seed=5)
    assert time.perf_counter() - start < 10  # under one second where nothing else runs


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"count": 0}, "count must be at least 1; got 0"),
        ({"count": -3}, "got -3"),
        ({"count": 1, "size": 7}, "size must be at least 8; got 7"),
        ({"count": 1, "split": "validation"}, "'train' or 'test'; got 'validation'"),
        ({"count": 1, "seed": -1}, "seed must be one of .* got -1"),
    ],
)
def test_impossible_draws_are_refused(arguments: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cluttered_digits(**arguments)  # type: ignore[arg-type]


@pytest.mark.usefixtures("as_users_run_it")
def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="'train' or 'test'; got 'all'"):
        digits("all")  # type: ignore[arg-type]


def test_a_hatched_canvas_holds_a_scan_of_the_split_as_it_is() -> None:
    for split in ("train", "test"):
        part, drawn = digits(split), hatched_digits(60, split=split, seed=1)
        assert drawn.images.shape == (60, 1, 24, 24)
        assert set(drawn.difficulty.tolist()) == {1.0}
        scans = {image.numpy().tobytes(): label for image, label in zip(part.images, part.labels.tolist(), strict=True)}
        assert len(scans) == len(part)
        for image, mask, label in zip(drawn.images[:, 0], drawn.masks, drawn.labels.tolist(), strict=True):
            windows = image.unfold(0, SCAN, 1).unfold(1, SCAN, 1).flatten(0, 1)
            covers = mask.unfold(0, SCAN, 1).unfold(1, SCAN, 1).flatten(0, 1)
            found = [
                scans.get(window.contiguous().numpy().tobytes())
                for window, cover in zip(windows, covers, strict=True)
                if cover.sum() == mask.sum() and torch.equal(cover, window > 0)
            ]
            assert label in found


def test_hatching_has_as_much_ink_as_the_digit() -> None:
    drawn = hatched_digits(4000, seed=3)
    share = drawn.images.mean((1, 2, 3))
    # a mean of independent images: six standard deviations are a false alarm in 2e-9 of seeds
    assert abs(share.mean() - digits("train").images.mean()) < 6 * share.std() / len(drawn) ** 0.5


def test_beside_the_digit_each_piece_is_lines_across_or_down_with_the_ink_of_a_quarter_of_a_scan() -> None:
    image = hatched_digits(1, seed=0, size=64).images[0, 0]
    scans = levels(digits("train").images)[:, 0].astype(int)
    inks = {int(ink) for ink in scans.reshape(-1, 2, 4, 2, 4).sum((2, 4)).flatten()}

    def lined(piece: Tensor) -> bool:
        turns = torch.equal(piece[:2], piece[2:]) and bool((piece == piece[:, :1]).all())
        return turns and min(piece[0, 0], piece[1, 0]) >= 0 and (min(piece[:2, 0]) == 0 or max(piece[:2, 0]) == 1)

    def pieces(top: int, left: int) -> list[Tensor]:
        return list(image[top:, left:].unfold(0, 4, 4).unfold(1, 4, 4).flatten(0, 1))

    fits = {
        (top, left): [piece for piece in pieces(top, left) if lined(piece) or lined(piece.T)]
        for top in range(4)
        for left in range(4)
    }
    most = max(fits, key=lambda corner: len(fits[corner]))
    whole = ((64 - most[0]) // 4) * ((64 - most[1]) // 4)
    assert whole - 9 <= len(fits[most]) < whole  # a scan lies on four to nine pieces
    assert {round(float(piece.sum()) * LEVELS) for piece in fits[most]} <= inks


def test_hatched_images_are_the_same_for_a_seed_and_others_for_another() -> None:
    first, again, other = (hatched_digits(20, seed=seed) for seed in (0, 0, 1))
    for field in ("images", "labels", "masks"):
        assert torch.equal(getattr(first, field), getattr(again, field))
        assert not torch.equal(getattr(first, field), getattr(other, field))
    assert not torch.equal(first.images, hatched_digits(20, split="test", seed=0).images)


@pytest.mark.parametrize(
    ("count", "size", "says"), [(0, 24, "count must be at least 1; got 0"), (3, 7, "size must be at least 8; got 7")]
)
def test_a_hatched_canvas_too_small_is_refused(count: int, size: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        hatched_digits(count, size=size)
