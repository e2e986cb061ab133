"""The batched grid solver ``shortest_path`` against networkx, one map after the other."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import networkx as nx
import torch

from benchmarks.race import against
from benchmarks.table import Case, Row
from dynlib.cost import timed
from dynlib.data import path_cost, shortest_path, terrain

MAPS, SIZE = 256, 12


def cases(*, quick: bool = False) -> list[Case]:
    """One map of ground, with its few different costs, and one of random costs: Dijkstra is faster on the former."""
    return [
        (f"shortest_path {name}", partial(_measure, name, draw, quick))
        for name, draw in {"of ground": _ground, "of random costs": _random}.items()
    ]


def _ground(maps: int) -> torch.Tensor:
    return terrain(maps, size=SIZE).costs


def _random(maps: int) -> torch.Tensor:
    return torch.rand(maps, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def _measure(name: str, draw: Callable[[int], torch.Tensor], quick: bool) -> Row:
    costs = draw(8 if quick else MAPS)
    end = SIZE * SIZE - 1
    # The graph is built once. Its weights are looked up from a list, which is faster than writing them to the edges.
    graph = nx.DiGraph()
    for start in range(end + 1):
        i, j = divmod(start, SIZE)
        moves = [(a, b) for a, b in ((i, j + 1), (i + 1, j), (i + 1, j + 1)) if a < SIZE and b < SIZE]
        graph.add_edges_from((start, a * SIZE + b) for a, b in moves)

    def one_by_one(search: Callable[..., list[int]]) -> list[list[int]]:
        paths = []
        for cells in costs.flatten(1).tolist():
            paths.append(search(graph, 0, end, weight=lambda _, to, __, cells=cells: cells[to]))
        return paths

    # networkx has several ways to find a path; the peer is the fastest of them here and now
    searches = {
        "dijkstra_path": nx.dijkstra_path,
        "bidirectional_dijkstra": lambda *of, weight: nx.bidirectional_dijkstra(*of, weight=weight)[1],
        "bellman_ford_path": nx.bellman_ford_path,
        "astar_path": nx.astar_path,
    }
    race = timed(*(partial(one_by_one, search) for search in searches.values()), repeats=2 if quick else 5, warmup=1)
    peer = min(zip(race.seconds, searches, strict=True))[1]

    expected = torch.zeros_like(costs).flatten(1)
    for row, path in zip(expected, one_by_one(searches[peer]), strict=True):
        row[path] = 1
    torch.testing.assert_close(path_cost(costs, shortest_path(costs)), path_cost(costs, expected.view_as(costs)))

    return against(
        f"shortest_path {name}",
        f"{len(costs)} maps of {SIZE} × {SIZE}",
        f"networkx {version('networkx')}, {peer}, map by map",
        partial(shortest_path, costs),
        partial(one_by_one, searches[peer]),
        note="ours solves all maps at once",
        flops=False,
        repeats=2 if quick else 25,
    )
