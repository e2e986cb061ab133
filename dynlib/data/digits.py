"""Real handwritten digits, and the same digits lost in clutter.

The scans are the 1,797 that scikit-learn ships: 8×8 pixels, 17 grey levels, from the UCI set "Optical Recognition of
Handwritten Digits" (doi:10.24432/C50P49). :func:`cluttered_digits` puts one of them somewhere on a larger canvas, among
fragments of others, and says where it is and how hard that image is: the truth to hold a dynamic network against.
:func:`hatched_digits` has as much ink everywhere as the digit has: only how it is laid out tells where the digit is.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynlib.data.drawing import SPLITS, Split, check_seed
from dynlib.inputs import check_name, check_whole

SCAN, FRAGMENT, LEVELS = 8, 4, 16
"""Side of a scan, side of a fragment (pixels), and the grey level of full ink."""

MOST_FRAGMENTS = 12


@dataclass(frozen=True)
class Digits:
    """Images with their labels; ink is 1, paper 0."""

    images: Float[Tensor, "n 1 size size"]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class ClutteredDigits(Digits):
    """Cluttered images, and what a network is not told about them."""

    masks: Bool[Tensor, "n size size"]
    """True on the ink of the digit that counts."""
    difficulty: Float[Tensor, " n"]
    """Number of fragments as a share of the most there can be, 0 … 1."""


def digits(split: Split = "train") -> Digits:
    """The scans as they are, [n, 1, 8, 8]: 1,437 to train on, 360 to test with.

    Raises:
        ValueError: for a split of another name.
        ModuleNotFoundError: without scikit-learn, which ships the scans.
    """
    scans, labels = _scans(split)
    return Digits(_to_images(scans), torch.from_numpy(labels.copy()))


def cluttered_digits(count: int, *, split: Split = "train", seed: int = 0, size: int = 24) -> ClutteredDigits:
    """A digit somewhere on a canvas among 0 to 12 fragments of digits. The same seed gives the same bytes.

    Each image takes a scan of ``split`` at a uniformly random place and a uniformly random number of 4×4 pieces cut
    from scans of the same split, laid over one another by the darker pixel.

    Args:
        count: how many images.
        split: whose scans to use; no scan is in both.
        seed: of the draw.
        size: side of the canvas in pixels, at least 8.

    Raises:
        TypeError: if a number is no int.
        ValueError: if ``count`` or ``size`` is too small, the seed is not one of 0 … 2³² − 1, or the split has another
            name.
    """
    check_whole("count", count, least=1)
    check_whole("size", size, least=SCAN)
    scans, labels = _scans(split)
    random = np.random.RandomState(check_seed(seed))  # whose stream is frozen for good
    chosen = random.randint(len(scans), size=count)
    fragments = random.randint(MOST_FRAGMENTS + 1, size=count)
    canvas = np.zeros((count, size, size), dtype=np.uint8)
    for slot in range(MOST_FRAGMENTS):
        source = random.randint(len(scans), size=count)
        cut = random.randint(SCAN - FRAGMENT + 1, size=(2, count))
        put = random.randint(size - FRAGMENT + 1, size=(2, count))
        pieces = scans[source[:, None, None], *_window(cut, FRAGMENT)]
        _lay(canvas, pieces * (slot < fragments)[:, None, None], put)
    put = random.randint(size - SCAN + 1, size=(2, count))
    _lay(canvas, scans[chosen], put)
    masks = np.zeros((count, size, size), dtype=np.uint8)
    _lay(masks, scans[chosen], put)
    return ClutteredDigits(
        _to_images(canvas),
        torch.from_numpy(labels[chosen]),
        torch.from_numpy(masks > 0),
        torch.from_numpy(fragments / MOST_FRAGMENTS).float(),
    )


def hatched_digits(count: int, *, split: Split = "train", seed: int = 0, size: int = 24) -> ClutteredDigits:
    """A digit somewhere on a canvas that is hatched all over with as much ink. The same seed gives the same bytes.

    The canvas is tiled with 4×4 pieces from a random corner on. Each has the ink of a quarter of a scan of ``split``,
    laid out as two lines, across or down, that take turns with two blank ones; what is more than two full lines hold
    goes between them. Then a scan takes the place of what is there. So the mean ink of a pixel is the same within
    its square and outside, and the ink of a patch hardly tells where the digit is.

    Args:
        count, split, seed, size: as for :func:`cluttered_digits`.

    Returns:
        The images, of difficulty 1 throughout: there is as much clutter as there can be.

    Raises:
        TypeError, ValueError: as for :func:`cluttered_digits`.
    """
    check_whole("count", count, least=1)
    check_whole("size", size, least=SCAN)
    scans, labels = _scans(split)
    random = np.random.RandomState(check_seed(seed))
    chosen, side = random.randint(len(scans), size=count), -(-size // FRAGMENT) + 1
    each = (count, side, side)
    quarters = scans.reshape(-1, SCAN // FRAGMENT, FRAGMENT, SCAN // FRAGMENT, FRAGMENT).sum((2, 4), dtype=np.float32)
    ink = quarters[random.randint(len(scans), size=each), *random.randint(SCAN // FRAGMENT, size=(2, *each))]
    across = np.zeros((FRAGMENT, FRAGMENT), dtype=bool)
    across[::2] = True
    pattern = np.stack([across, ~across, across.T, ~across.T])[random.randint(4, size=each)]
    half = FRAGMENT**2 // 2  # as many pixels on the lines as between them
    on_lines = np.minimum(ink, half * LEVELS)[..., None, None] / half
    between = np.maximum(ink - half * LEVELS, 0)[..., None, None] / half
    pieces = np.where(pattern, on_lines, between)
    tiled = pieces.transpose(0, 1, 3, 2, 4).reshape(count, side * FRAGMENT, side * FRAGMENT)
    numbers = np.arange(count)[:, None, None]
    canvas = tiled[numbers, *_window(random.randint(FRAGMENT, size=(2, count)), size)]
    where = (numbers, *_window(random.randint(size - SCAN + 1, size=(2, count)), SCAN))
    canvas[where] = scans[chosen]
    masks = np.zeros(canvas.shape, dtype=bool)
    masks[where] = scans[chosen] > 0
    return ClutteredDigits(
        _to_images(canvas), torch.from_numpy(labels[chosen]), torch.from_numpy(masks), torch.ones(count)
    )


@cache
def _scans(split: Split) -> tuple[np.ndarray, np.ndarray]:
    check_name("split", split, SPLITS)
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the digits ship with scikit-learn: pip install scikit-learn") from error
    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.images))
    part = order[360:] if split == "train" else order[:360]
    return bunch.images[part].astype(np.uint8), bunch.target[part].astype(np.int64)


def _window(corner: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    # corner [2, n] -> row and column numbers that index [n, side, side]
    steps = np.arange(side)
    return corner[0][:, None, None] + steps[:, None], corner[1][:, None, None] + steps


def _lay(canvas: np.ndarray, pieces: np.ndarray, corner: np.ndarray) -> None:
    where = (np.arange(len(canvas))[:, None, None], *_window(corner, pieces.shape[-1]))
    canvas[where] = np.maximum(canvas[where], pieces)


def _to_images(levels: np.ndarray) -> Tensor:
    return torch.from_numpy(levels)[:, None].float() / LEVELS
