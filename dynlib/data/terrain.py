"""Maps to find a way across: pictures of ground, hidden costs, and the cheapest path.

A map is a square of tiles, each of one of five kinds of ground, and a picture of it in 8×8 pixels a tile. The cost of
entering a tile depends on its kind alone, and is not in the picture: who sees pictures and paths must find it out.
"""

from dataclasses import dataclass
from functools import reduce
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dynlib.data.drawing import Split, random_of
from dynlib.data.paths import shortest_path
from dynlib.inputs import check_whole

TILE = 8
"""Side of a tile in pixels."""


class Ground(NamedTuple):
    """One kind of ground."""

    name: str
    cost: float
    colour: tuple[int, int, int]
    """Red, green and blue in full light, 0 … 255."""
    grain: tuple[int, int]
    """Height and width of the texture's grain in pixels."""
    contrast: int
    """Standard deviation of the texture in grey levels."""


GROUNDS = (
    Ground("water", 9.2, (70, 122, 164), (1, 5), 9),
    Ground("sand", 1.2, (206, 184, 134), (1, 1), 8),
    Ground("grass", 0.8, (138, 168, 86), (3, 1), 11),
    Ground("forest", 5.3, (86, 126, 72), (3, 3), 19),
    Ground("rock", 7.7, (154, 144, 124), (2, 4), 19),
)
"""From the lowest ground to the highest."""


_GRAIN = 5  # no grain is longer
_HILL = 3  # tiles: side of the windows that smooth the height of the ground
_SHADOW = 4  # tiles from one corner of the light to the next
_TINT, _SPECKLE = 3, 28  # grey levels that a tile, and a pixel, may be off in a colour
_CHUNK = 128  # maps drawn at a time, which bounds the memory; a multiple of 4, since random bytes come by fours


@dataclass(frozen=True)
class Terrain:
    """Maps, and what a network is not told about them."""

    images: Float[Tensor, "n 3 pixels pixels"]
    """Red, green and blue, 0 … 1."""
    costs: Float[Tensor, "n size size"]
    """Of entering each tile."""
    paths: Float[Tensor, "n size size"]
    """1 on the tiles of the cheapest path, 0 elsewhere."""

    def __len__(self) -> int:
        return len(self.images)


def terrain(count: int, *, split: Split = "train", seed: int = 0, size: int = 12) -> Terrain:
    """Maps of ``size`` × ``size`` tiles. The same seed gives the same bytes, and more maps begin with those of fewer.

    Neighbouring tiles have similar heights and so often one ground. Light and shadow move over the picture, pixels are
    speckled, and every ground has its own grain: the colour of one pixel does not tell what it belongs to.

    Args:
        count: how many maps.
        split: train and test maps come from different random numbers, whatever the seeds.
        seed: of the draw.
        size: side of a map in tiles.

    Raises:
        TypeError: if a number is no int.
        ValueError: if ``count`` or ``size`` is less than 1, the split has another name, or the seed is not one of
            0 … 2³² − 1.
    """
    check_whole("count", count, least=1)
    check_whole("size", size, least=1)
    # From here to the last byte of the images all is done in integers, which every machine rounds alike.
    random = random_of(split, seed)
    kinds = np.empty((count, size, size), dtype=np.int64)
    images = torch.empty(count, 3, TILE * size, TILE * size, dtype=torch.float32, device="cpu")
    for start in range(0, count, _CHUNK):
        some = slice(start, min(start + _CHUNK, count))
        kinds[some], pixels = _draw(random, some.stop - some.start, size)
        images[some] = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32) / 255
    prices = torch.tensor([ground.cost for ground in GROUNDS], dtype=torch.float32, device="cpu")
    costs = prices[torch.from_numpy(kinds)]
    return Terrain(images, costs, shortest_path(costs))


def _draw(random: np.random.RandomState, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Kinds of ground [count, size, size] and pictures [count, 8 size, 8 size, 3] in 0 … 255."""
    side, corners = TILE * size, size // _SHADOW + 2
    shapes = [
        (size + 2 * (_HILL - 1), size + 2 * (_HILL - 1)),
        (corners, corners),
        (side + _GRAIN - 1, side + _GRAIN - 1),
        (side, side),
        (size, size, 3),
    ]
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    drawn = np.frombuffer(random.bytes(count * int(ends[-1])), dtype=np.uint8).reshape(count, -1).astype(np.int32)
    hills, lamps, grain, speckle, tint = (
        part.reshape(count, *shape) for part, shape in zip(np.split(drawn, ends[:-1], axis=1), shapes, strict=True)
    )
    kinds = _kinds(hills)
    light = _light(lamps, side)
    # a shadow takes as much of every colour; the texture and what makes redder or bluer comes on top
    colours = np.array([ground.colour for ground in GROUNDS], dtype=np.int32)[kinds] + _centred(tint, _TINT)
    of_pixel = _enlarge(kinds)
    texture = np.zeros((count, side, side), dtype=np.int32)
    for kind, ground in enumerate(GROUNDS):
        np.copyto(texture, _texture(grain, ground, side), where=of_pixel == kind)
    warmth = _centred(speckle, _SPECKLE)
    image = (_enlarge(colours) * light[..., None] >> 8) + np.stack([texture + warmth, texture, texture - warmth], -1)
    return kinds, np.clip(image, 0, 255).astype(np.uint8)


def _kinds(hills: np.ndarray) -> np.ndarray:
    """Heights, smoothed twice and cut into levels that are each as frequent."""
    height = _sum(_sum(hills, _HILL, _HILL), _HILL, _HILL)
    window = np.convolve(np.ones(_HILL), np.ones(_HILL))
    # of a sum of bytes with these weights, which is nearly normal
    spread = float((window**2).sum()) * ((256**2 - 1) / 12) ** 0.5
    normal = NormalDist(float(window.sum()) ** 2 * 255 / 2, spread)
    levels = [normal.inv_cdf(level / len(GROUNDS)) for level in range(1, len(GROUNDS))]
    return np.searchsorted(levels, height)


def _light(lamps: np.ndarray, side: int) -> np.ndarray:
    """Light at the corners of large squares, 150 … 277 of 256, and in between by straight lines."""
    step = TILE * _SHADOW
    square, offset = np.divmod(np.arange(side), step)
    rows = lamps[:, square] * (step - offset)[:, None] + lamps[:, square + 1] * offset[:, None]
    both = rows[:, :, square] * (step - offset) + rows[:, :, square + 1] * offset
    return 150 + both // (2 * step**2)


def _texture(grain: np.ndarray, ground: Ground, side: int) -> np.ndarray:
    """Random bytes smoothed over one grain, about 0, as strong as the ground's contrast."""
    height, width = ground.grain
    smooth = _sum(grain, height, width)[:, :side, :side]
    spread = round((height * width * (256**2 - 1) / 12) ** 0.5)
    return (2 * smooth - 255 * height * width) * ground.contrast // (2 * spread)


def _centred(drawn: np.ndarray, reach: int) -> np.ndarray:
    """Bytes, as numbers about 0 that go up to ``reach``."""
    return (2 * drawn - 255) * reach // 255


def _enlarge(of_tiles: np.ndarray) -> np.ndarray:
    """A number for every pixel from one for every tile."""
    return np.repeat(np.repeat(of_tiles, TILE, axis=1), TILE, axis=2)


def _sum(field: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sums over all windows of this size that fit."""
    tall, wide = field.shape[1] - height + 1, field.shape[2] - width + 1
    rows = reduce(np.add, (field[:, k : k + tall] for k in range(height)))
    return reduce(np.add, (rows[:, :, k : k + wide] for k in range(width)))
