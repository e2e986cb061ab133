"""The cheapest path across a grid of costs, exactly: a solver for networks to learn through.

A path leads from the top left to the bottom right and only ever moves right, down, or both at once. So no path comes
back to where it was, the grid is a directed graph without circles, and one sweep over it, :func:`shortest_path`, is
exact for costs of any sign. That matters when costs are perturbed by noise: with negative ones among them Dijkstra's
algorithm is wrong, and on a grid where one may turn back a cheapest path does not even exist.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from dynlib.inputs import check_tensor
from dynlib.transforms import WithoutGradient, look


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
