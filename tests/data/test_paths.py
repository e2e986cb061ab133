"""The cheapest paths against networkx, against enumeration, and under the transforms of PyTorch."""

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynlib.data.paths import path_cost, shortest_path
from dynlib.data.terrain import terrain

MOVES = [(0, 1), (1, 0), (1, 1)]
few = settings(max_examples=60, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def enumerated(height: int, width: int) -> list[list[tuple[int, int]]]:
    """Every path there is."""
    paths = {(0, 0): [[(0, 0)]]}
    for i in range(height):
        for j in range(width):
            for a, b in MOVES:
                for before in paths.get((i - a, j - b), []) if (i, j) != (0, 0) else []:
                    paths.setdefault((i, j), []).append([*before, (i, j)])
    return paths[height - 1, width - 1]


def grid(costs: np.ndarray) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(np.ndindex(*costs.shape))
    for i, j in np.ndindex(*costs.shape):
        for a, b in MOVES:
            if i + a < costs.shape[0] and j + b < costs.shape[1]:
                graph.add_edge((i, j), (i + a, j + b), weight=float(costs[i + a, j + b]))
    return graph


def is_path(path: Tensor) -> bool:
    """Zeros and ones, of which the ones read row by row are steps right, down or both, from corner to corner."""
    cells = [tuple(cell) for cell in path.nonzero().tolist()]
    ends = cells[0] == (0, 0) and cells[-1] == (path.shape[0] - 1, path.shape[1] - 1)
    return (
        ends
        and bool(((path == 0) | (path == 1)).all())
        and all((c - a, d - b) in MOVES for (a, b), (c, d) in pairwise(cells))
    )


@pytest.mark.parametrize(
    ("height", "width", "count"), [(1, 1, 1), (1, 4, 1), (2, 2, 3), (3, 3, 13), (4, 4, 63), (3, 5, 41)]
)
def test_there_are_as_many_paths_as_delannoy_counted(height, width, count):
    # so that the enumeration below enumerates
    paths = enumerated(height, width)
    assert len(paths) == len({tuple(path) for path in paths}) == count


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (5, 1), (2, 2), (2, 5), (5, 2), (3, 4), (4, 4), (5, 5)])
@pytest.mark.parametrize("shift", [-2.0, 0.0, 2.0])
def test_the_path_is_the_cheapest_of_all_there_are(height, width, shift):
    costs = torch.randn(40, height, width, dtype=torch.float64, generator=seeded(1)) + shift
    ways = torch.zeros(len(enumerated(height, width)), height, width, dtype=torch.float64)
    for way, cells in zip(ways, enumerated(height, width), strict=True):
        way[tuple(zip(*cells, strict=True))] = 1
    of_ways = torch.einsum("bij,wij->bw", costs, ways)
    assert torch.equal(shortest_path(costs), ways[of_ways.argmin(1)])
    torch.testing.assert_close(path_cost(costs, shortest_path(costs)), of_ways.amin(1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (7, 20), (20, 7), (2, 9), (1, 6)])
@pytest.mark.parametrize("positive", [True, False])
def test_the_cost_is_that_of_networkx(height, width, positive):
    # Dijkstra where costs are positive, Bellman and Ford where they are not
    generator = seeded(2)
    draw = torch.rand if positive else torch.randn
    costs = draw(60, height, width, dtype=torch.float64, generator=generator)
    search = nx.dijkstra_path_length if positive else nx.bellman_ford_path_length
    found = path_cost(costs, shortest_path(costs))
    for each, cost in zip(costs.numpy(), found.tolist(), strict=True):
        length = search(grid(each), (0, 0), (height - 1, width - 1))
        assert cost == pytest.approx(length + each[0, 0], rel=1e-12, abs=1e-12)


def test_the_maps_of_the_terrain_have_the_paths_of_networkx():
    drawn = terrain(60, seed=3)
    for costs, path in zip(drawn.costs, drawn.paths, strict=True):
        length = nx.dijkstra_path_length(grid(costs.double().numpy()), (0, 0), (11, 11))
        assert float((costs.double() * path).sum()) == pytest.approx(length + float(costs[0, 0]), rel=1e-6)


@few
@given(
    batch=st.lists(st.integers(1, 3), max_size=3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**32),
    levels=st.integers(1, 5),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_any_answer_is_a_path_and_each_map_is_solved_on_its_own(batch, height, width, seed, levels, dtype):
    """With few different costs, so that there are ties; and no better path by changing one corner."""
    costs = torch.randint(-levels, levels + 1, (*batch, height, width), generator=seeded(seed)).to(dtype)
    before = costs.clone()
    paths = shortest_path(costs)
    assert torch.equal(costs, before)
    assert paths.shape == costs.shape
    assert paths.dtype == dtype
    for each, path in zip(costs.view(-1, height, width), paths.view(-1, height, width), strict=True):
        assert is_path(path)
        assert torch.equal(shortest_path(each), path)
        length = nx.bellman_ford_path_length(grid(each.double().numpy()), (0, 0), (height - 1, width - 1))
        assert path_cost(each.double(), path.double()).item() == length + each[0, 0].item()


def test_of_equal_paths_the_last_moves_are_diagonal_then_from_the_left_then_from_above():
    # all costs zero: diagonal to the edge, and along it back to the start
    path = shortest_path(torch.zeros(3, 5))
    assert path.tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    # a dear middle: right then down arrives from above, down then right from the left
    assert shortest_path(torch.tensor([[0.0, 0.0], [0.0, -1.0]])).tolist() == [[1, 0], [0, 1]]
    around = shortest_path(torch.tensor([[0.0, -1.0], [-1.0, 0.0]]))
    assert around.tolist() == [[1, 0], [1, 1]]


def test_negative_costs_make_the_path_longer():
    costs = -torch.ones(4, 6)
    assert shortest_path(costs).sum() == 4 + 6 - 1
    assert shortest_path(-costs).sum() == 6


def test_layout_and_gradients_do_not_matter_to_the_path():
    costs = torch.randn(5, 6, 4, generator=seeded(3))
    path = shortest_path(costs)
    assert torch.equal(shortest_path(costs.permute(2, 1, 0).contiguous().permute(2, 1, 0)), path)
    assert torch.equal(shortest_path(costs[0].expand(3, 6, 4)), path[0].expand(3, 6, 4))
    assert not shortest_path(costs.requires_grad_()).requires_grad
    with torch.inference_mode():
        assert torch.equal(shortest_path(costs), path)


def test_the_cost_of_a_path_has_a_gradient():
    costs = torch.randn(2, 3, 4, 4, generator=seeded(4)).requires_grad_()
    path = shortest_path(costs)
    total = path_cost(costs, path)
    assert total.shape == (2, 3)
    total.sum().backward()
    assert torch.equal(costs.grad, path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_float32(dtype):
    # Beside a first cell of 2000, a tenth more is nothing in half precision, and all ways along the edges were equal.
    costs = torch.full((40, 40), 100.0, dtype=dtype)
    costs[:, 0] = costs[-1] = 0.11
    costs[0] = costs[:, -1] = 0.1
    costs[0, 0] = 2000.0
    path = shortest_path(costs)
    assert torch.equal(path, shortest_path(costs.float()).to(dtype))
    assert path[0, :-1].all()
    assert path[1:, -1].all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [(0, 0, 0), (1, 2, 1), (2, 3, 4)])
def test_costs_that_are_not_finite_are_refused(value, place):
    costs = torch.zeros(3, 4, 5)
    costs[place] = value
    for function in (shortest_path, lambda costs: path_cost(costs, torch.ones(3, 4, 5))):
        with pytest.raises(ValueError, match=r"a cost is NaN or infinite: to close a cell"):
            function(costs)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("shape", [(), (5,), (0, 4, 4), (2, 0, 4), (4, 0)])
def test_what_is_no_map_is_refused(shape):
    for function in (shortest_path, lambda costs: path_cost(costs, costs)):
        with pytest.raises(ValueError, match=r"maps \[\.\.\., height, width\] with cells in them; got shape"):
            function(torch.zeros(shape))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_costs_of_another_kind_are_refused(dtype):
    for function in (shortest_path, lambda costs: path_cost(costs, costs)):
        with pytest.raises(TypeError, match=rf"floating-point dtype; got {dtype}: convert with \.float"):
            function(torch.zeros(3, 4).to(dtype))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("costs", [np.ones((3, 3)), [[1.0, 2.0], [3.0, 4.0]]], ids=["array", "list"])
def test_what_is_no_tensor_is_refused_with_the_way_to_make_one(costs):
    with pytest.raises(TypeError, match=r"costs must be a tensor; got .*torch\.as_tensor"):
        shortest_path(costs)
    with pytest.raises(TypeError, match=r"costs must be a tensor; got .*torch\.as_tensor"):
        path_cost(costs, torch.ones(3, 3))
    with pytest.raises(TypeError, match=r"the path must be a tensor; got .*torch\.as_tensor"):
        path_cost(torch.ones(3, 3), costs)


def test_paths_under_vmap_are_those_of_the_batch_and_have_no_gradient():
    costs = torch.rand(2, 3, 4, 5, generator=seeded())
    expected = shortest_path(costs)
    assert torch.equal(torch.func.vmap(torch.func.vmap(shortest_path))(costs), expected)
    assert torch.equal(
        torch.func.vmap(shortest_path, in_dims=2, out_dims=2)(costs.movedim(0, 2)), expected.movedim(0, 2)
    )
    gradient = torch.func.grad(lambda costs: path_cost(costs, shortest_path(costs)).sum())(costs)
    assert torch.equal(gradient, expected)  # of the sum alone
    costs[1, 2, 3, 4] = torch.nan
    with pytest.raises(ValueError, match="a cost is NaN or infinite"):
        torch.func.vmap(shortest_path)(costs)


def test_paths_are_the_same_in_any_mode_and_after_it():
    costs = torch.rand(3, 6, 7, generator=seeded(1))
    with torch.inference_mode():
        inside = shortest_path(costs)  # nobody asked for this size before
    with torch.device("meta"):
        assert shortest_path(torch.rand(5, 9)).shape == (5, 9)
        assert torch.equal(shortest_path(costs), inside)
    assert torch.equal(shortest_path(costs.requires_grad_()), inside)
    assert shortest_path(torch.rand(5, 9)).sum() >= 9


@pytest.mark.usefixtures("as_users_run_it")
def test_a_path_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"one shape; got \(2, 3, 4\) and \(3, 4\)"):
        path_cost(torch.zeros(2, 3, 4), torch.zeros(3, 4))


def test_the_paths_of_the_terrain_are_the_cheapest():
    many = terrain(400, seed=3)
    assert torch.equal(many.paths, shortest_path(many.costs))
    assert all(is_path(path) for path in many.paths)
    detours = many.paths.flatten(1).sum(1)
    assert detours.min() >= 12
    assert (detours > 12).float().mean() > 0.9  # the straight way is rarely the cheapest


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_paths_on_a_gpu_are_those_of_the_cpu(dtype):
    for shape in ((64, 12, 12), (5, 3, 9), (1, 1, 1), (2, 9, 1)):
        costs = torch.randint(-5, 6, shape, generator=seeded(5)).to(dtype)
        on_gpu = shortest_path(costs.cuda())
        assert on_gpu.device.type == "cuda"
        assert torch.equal(on_gpu.cpu(), shortest_path(costs))
