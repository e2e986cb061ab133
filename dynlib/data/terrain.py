"""Maps to find a way across: pictures of ground, hidden costs, and the cheapest path.

A map is a square of tiles, each of one of five kinds of ground, and a picture of it in 8×8 pixels a tile. The cost of
entering a tile depends on its kind alone, and is not in the picture: who sees pictures and paths must find it out.

A path leads from the top left to the bottom right and only ever moves right, down, or both at once. So no path comes
back to where it was, the grid is a directed graph without circles, and one sweep over it, :func:`shortest_path`, is
exact for costs of any sign. That matters when costs are perturbed by noise: with negative ones among them Dijkstra's
algorithm is wrong, and on a grid where one may turn back a cheapest path does not even exist.
"""

from dataclasses import dataclass
from functools import lru_cache, reduce
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dynlib.data.drawing import Split, random_of
from dynlib.inputs import check_tensor, check_whole
from dynlib.transforms import WithoutGradient, look

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


def shortest_path(costs: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch height width"]:
    """The cheapest path from the top left to the bottom right that moves right, down, or right and down at once.

    A path costs the sum over its cells, both ends included; costs of any sign are right. With V the cheapest way to a
    cell, V[i, j] = c[i, j] + min(V[i − 1, j − 1], V[i, j − 1], V[i − 1, j]), for all maps and all cells of one diagonal
    i + j at a time. Of equally cheap last moves the diagonal one is taken before that from the left, and that before
    the one from above.

    As the solver of ``perturbed_argmax`` and its kin, which maximise: ``lambda scores: shortest_path(-scores)``, with
    ``item_dims=2``.

    Args:
        costs: one number for every cell. Half precision is added up in float32.

    Returns:
        1 on the cells of the path and 0 elsewhere, in the dtype of ``costs``. It has no gradient. Under ``vmap`` all
        maps are solved at once.

    Raises:
        TypeError: if the costs are no tensor, or not of a floating-point dtype.
        ValueError: if there are no cells or no maps, or a cost is not finite.
    """
    _check_costs(costs)
    path: Tensor = _Path.apply(costs)
    return path


class _Path(WithoutGradient):
    batch_in, batch_out = (0,), 0

    @staticmethod
    def forward(costs: Tensor) -> Tensor:
        return _sweep(costs)


def _sweep(costs: Tensor) -> Tensor:
    height, width = costs.shape[-2:]
    cells = costs.reshape(-1, height * width).T  # [cells, maps]
    maps = cells.shape[1]
    cell = _turn(height, width).to(costs.device)
    table = torch.full(
        (height * width + 1, maps),
        torch.inf,
        dtype=torch.promote_types(costs.dtype, torch.float32),
        device=costs.device,
    )
    table[:-1] = cells
    best = table.index_select(0, cell.flatten()).unflatten(0, cell.shape)  # [diagonals, rows, maps], the costs so far
    # V grows in place, diagonal by diagonal.
    here, above = best[:, 1:].unbind(), best[:, :-1].unbind()
    for d in range(3, len(best)):
        before = torch.minimum(here[d - 1], above[d - 1])  # from the left, from above
        here[d].add_(torch.minimum(before, above[d - 2], out=before))
    # Where each cell is reached from, as a place among the cells [diagonals - 2, height] without the walls in front:
    # 2 height + 1 places before by a diagonal move, height before from the left, height + 1 from above.
    left, up, both = best[1:-1, 1:], best[1:-1, :-1], best[:-2, :-1]
    nearer = (left <= up).int().add_(height).mul_(both > torch.minimum(left, up)).flatten(0, 1)
    place = torch.arange(len(nearer), dtype=torch.int32, device=costs.device)
    origin = nearer.add_(place[:, None] - (2 * height + 1)).long()
    origin[0] = 0  # at the start the walk stands still
    # Back from the end, one move at a time, in every map.
    places = [torch.full((1, maps), len(origin) - 1, device=costs.device)]
    for _ in range(height + width - 2):
        places.append(origin.gather(0, places[-1]))
    path = torch.zeros(maps, height * width, dtype=costs.dtype, device=costs.device)
    path.scatter_(1, cell[2:, 1:].take(torch.cat(places)).T, 1.0)
    return path.view(costs.shape)


def path_cost(
    costs: Float[Tensor, "*batch height width"], path: Float[Tensor, "*batch height width"]
) -> Float[Tensor, "*batch"]:
    """What a path costs: the sum of the costs of its cells, one for every map.

    Raises:
        TypeError: if the costs or the path are no tensor, or the costs not of a floating-point dtype.
        ValueError: if there are no cells or no maps, a cost is not finite, or the path has another shape.
    """
    _check_costs(costs)
    check_tensor(path, "the path")
    if path.shape != costs.shape:
        raise ValueError(
            f"costs and path must have one shape; got {tuple(costs.shape)} and {tuple(path.shape)}: expand the smaller "
            "one if it is meant for all"
        )
    return (costs * path).sum((-2, -1))


@lru_cache(maxsize=8)
def _turn(height: int, width: int) -> Tensor:
    """The grid turned by 45°: which cell, counted row by row, is where among [diagonals, rows].

    Cell (i, j) is in row i + 1 of diagonal i + j + 2. Two diagonals and one row of walls go before, so that every cell
    has three neighbours to come from. What is no cell of the grid is a wall, with the number after the last cell.
    """
    with torch.inference_mode(False), torch.device("cpu"):  # it is kept, and used in another mode
        diagonal = torch.arange(height + width + 1)[:, None]
        i = torch.arange(height + 1) - 1
        j = diagonal - 2 - i
        inside = (i >= 0) & (j >= 0) & (j < width)
        return torch.where(inside, i * width + j, height * width)


def _check_costs(costs: Tensor) -> None:
    check_tensor(costs, "costs")
    if not costs.is_floating_point():
        raise TypeError(f"costs must be of a floating-point dtype; got {costs.dtype}: convert with .float()")
    if costs.ndim < 2 or costs.numel() == 0:
        raise ValueError(f"costs must be maps [..., height, width] with cells in them; got shape {tuple(costs.shape)}")
    look(_check_finite, costs)


def _check_finite(costs: Tensor) -> None:
    if not torch.stack(costs.aminmax()).isfinite().all():  # both are NaN if one cost is
        raise ValueError("a cost is NaN or infinite: to close a cell, give it a cost that is finite and very high")


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
