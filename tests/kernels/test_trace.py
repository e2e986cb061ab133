"""What the instrument writes down of a kernel, however Triton was loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynlib.kernels import trace
from dynlib.kernels.trace import launch

triton = pytest.importorskip("triton", reason="Triton is not installed here")
tl = triton.language

ROOT = Path(__file__).parents[2]


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    """Out = x + y, a block a program; programs beyond the end leave at once."""
    first = tl.program_id(0) * BLOCK
    if first >= n:
        return
    at = first + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n, other=0.0), mask=at < n)


@triton.jit
def add_unmasked(x, y, out, n, BLOCK: tl.constexpr):
    """The same without its masks."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at) + tl.load(y + at))


@triton.jit
def product(a, b, out, m, n, k, BLOCK: tl.constexpr, PRECISION: tl.constexpr):
    """Out = a b, a tile a program, with functions of Triton's library: zeros and cdiv."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for step in range(tl.cdiv(k, BLOCK)):
        inner = step * BLOCK + tl.arange(0, BLOCK)
        left = tl.load(a + row * k + inner[None, :], mask=(row < m) & (inner[None, :] < k), other=0.0)
        right = tl.load(b + inner[:, None] * n + column, mask=(inner[:, None] < k) & (column < n), other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    tl.store(out + row * n + column, total, mask=(row < m) & (column < n))


@triton.jit
def total(x, out, n, LANES: tl.constexpr):
    """The sum of one block, by a method of a tensor, and every program's share of another by an atomic."""
    at = tl.arange(0, LANES)
    block = tl.load(x + at, mask=at < n, other=0.0)
    tl.store(out, block.sum())
    tl.atomic_add(out + 1, tl.sum(block))


@triton.jit
def use_undefined(x, out, n, LANES: tl.constexpr):
    """A sum that relies on what a masked load gives beyond its mask."""
    at = tl.arange(0, LANES)
    tl.store(out, tl.sum(tl.load(x + at, mask=at < n)))


@triton.jit
def row_by_row(x, out, rows, columns, ROWS: tl.constexpr, LANES: tl.constexpr):
    """Twice x, a row at a time: the mask has a comparison of one number in it, or is one."""
    at = tl.arange(0, LANES)
    for i in range(ROWS):
        row = tl.program_id(0) * ROWS + i
        there = (row < rows) & (at < columns)
        whole = tl.load(x + row * columns + at, mask=there, other=0.0)
        tl.store(out + row * columns + at, whole, mask=there)
        tl.atomic_add(out + row * columns + at, whole, mask=there)
        tl.store(out + rows * columns + at, tl.load(x + at, mask=row < 1, other=0.0), mask=row < 1)


@triton.jit
def twice(value):
    """What a kernel calls."""
    return 2 * value


@triton.jit
def calling(x, out, n, LANES: tl.constexpr):
    """Twice x, by another function under @triton.jit."""
    at = tl.program_id(0) * LANES + tl.arange(0, LANES)
    tl.store(out + at, twice(tl.load(x + at, mask=at < n, other=0.0)), mask=at < n)


@triton.jit
def swapping(out, LANES: tl.constexpr):
    """Compares and swaps without a mask."""
    at = tl.arange(0, LANES)
    tl.atomic_cas(out + at, tl.zeros((LANES,), tl.int32), tl.full((LANES,), 7, tl.int32))


@triton.jit
def from_two(x, y, out, of_x, LANES: tl.constexpr):
    """The first lanes of x, the others of y; stored to one argument, moved by one of two numbers."""
    at = tl.arange(0, LANES)
    value = tl.load(tl.where(at < of_x, x + at, y + at))
    tl.store(tl.where(at < of_x, out + at, out + at + 2), value)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_loads_stores_and_early_returns_are_counted() -> None:
    x, y, out = randn(100), randn(100), torch.empty(100)
    run = launch(add, (4,), x, y, out, 100, BLOCK=64)
    assert torch.equal(out, x + y)
    assert (run.kernel, run.grid, len(run.programs)) == ("add", (4,), 4)
    assert [program.early for program in run.programs] == [False, False, True, True]
    assert run.early == 2
    assert (run.loaded(), run.loaded("x"), run.stored(), run.stored("out"), run.stored("x")) == (800, 400, 400, 400, 0)
    assert [program.loaded("x") for program in run.programs] == [256, 144, 0, 0]
    assert run.times("out", stored=True).tolist() == [1] * 100
    assert run.times("x", stored=False).tolist() == [1] * 100
    assert run.flops == 0
    assert run.outside == []


def test_what_lies_outside_is_noted_and_not_touched() -> None:
    memory = torch.zeros(300)
    x, y, out = memory[:100], memory[100:200], memory[200:]
    memory[:200] = 1.0
    run = launch(add_unmasked, (2,), x, y, out[:90], 90, BLOCK=64)
    found = {access.argument: access.outside.tolist() for _, access in run.outside}
    assert found == {"x": list(range(100, 128)), "y": list(range(100, 128)), "out": list(range(90, 128))}
    assert {program.place for program, _ in run.outside} == {(1,)}
    assert memory[200:].tolist() == [2.0] * 90 + [0.0] * 10


def test_far_outside_nothing_crashes() -> None:
    x, out = randn(4), torch.empty(4)
    run = launch(add_unmasked, (1,), x[:0], x, out, 4, BLOCK=2**14)
    assert {access.argument for _, access in run.outside} == {"x", "y", "out"}
    assert run.elements == {"x": 0, "y": 4, "out": 4}


def test_undefined_values_are_seen() -> None:
    out = torch.zeros(1)
    launch(use_undefined, (1,), randn(5), out, 5, LANES=8)
    assert out.isnan().all()
    whole = torch.zeros(1, dtype=torch.int64)
    launch(use_undefined, (1,), torch.ones(5, dtype=torch.int64), whole, 5, LANES=8)
    assert whole.item() != 5


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_tile_products_are_counted_with_their_edges(precision: str) -> None:
    a, b, out = randn(20, 10), randn(10, 33), torch.empty(20, 33)
    run = launch(product, (2, 3), a, b, out, 20, 33, 10, BLOCK=16, PRECISION=precision)
    torch.testing.assert_close(out, a @ b, rtol=1e-5, atol=1e-5)
    assert run.flops == 6 * 2 * 16**3
    assert {one.precision for program in run.programs for one in program.products} == {precision}
    assert run.map(lambda program: program.flops).shape == (2, 3)
    assert run.loaded("a") == 3 * 20 * 10 * 4
    assert run.loaded("b") == 2 * 33 * 10 * 4


def test_the_library_and_atomics_work_too() -> None:
    x, out = randn(5), torch.zeros(2)
    run = launch(total, (1,), x, out, 5, LANES=8)
    torch.testing.assert_close(out, x.sum().expand(2))
    assert run.stored("out") == 8


def test_a_mask_may_compare_one_number() -> None:
    x, out = randn(5, 4), torch.full((28,), torch.nan)
    run = launch(row_by_row, (3,), x, out, 5, 4, ROWS=2, LANES=8)
    assert torch.equal(out[:20].view(5, 4), 2 * x)
    assert torch.equal(out[20:], x.flatten()[:8])
    assert run.outside == []
    assert run.times("out", stored=True).tolist() == [2] * 20 + [1] * 8
    assert run.loaded("x") == 4 * (20 + 8)


def test_sectors_tell_neighbours_from_strangers() -> None:
    x, out = randn(64, 16), torch.empty(64)
    one = launch(add, (1,), x.view(-1)[:64], x.view(-1)[:64], out, 64, BLOCK=64)
    assert one.moved("x") == one.loaded("x")
    apart = launch(_column, (1,), x, out, 16, LANES=64)
    assert torch.equal(out, x[:, 0])
    assert apart.moved("x") == 8 * apart.loaded("x")


@triton.jit
def _column(x, out, width, LANES: tl.constexpr):
    at = tl.arange(0, LANES)
    tl.store(out + at, tl.load(x + at * width))


def test_a_kernel_may_call_another_function() -> None:
    x, out = randn(20), torch.empty(20)
    run = launch(calling, (2,), x, out, 20, LANES=16)
    assert torch.equal(out, 2 * x)
    assert (run.loaded("x"), run.stored("out"), run.outside) == (80, 80, [])


def test_a_grid_may_be_a_function_of_the_arguments() -> None:
    x, out = randn(20), torch.empty(20)
    run = launch(calling, lambda given: (triton.cdiv(given["n"], given["LANES"]),), x, out, n=20, LANES=8)
    assert torch.equal(out, 2 * x)
    assert (run.grid, len(run.programs)) == ((3,), 3)


def test_a_pointer_into_one_of_two_arguments_is_told_lane_by_lane() -> None:
    memory = torch.arange(100.0)
    x, y, out = memory[:5], memory[20:28], memory[50:58]
    run = launch(from_two, (1,), x, y, out, 4, LANES=8)
    loads = {one.argument: one for one in run.programs[0].accesses if not one.stored}
    assert {name: one.at.tolist() for name, one in loads.items()} == {"x": [0, 1, 2, 3], "y": [4, 5, 6, 7]}
    assert (run.loaded(), run.loaded("x"), run.loaded("y"), run.stored("out")) == (32, 16, 16, 32)
    # of one argument, the pointer is known, and the two last lanes lie beyond it
    assert [(one.argument, one.outside.tolist()) for _, one in run.outside] == [("out", [8, 9])]
    assert memory[50:60].tolist() == [0.0, 1, 2, 3, 54, 55, 24, 25, 58, 59]
    run = launch(from_two, (1,), x, y, out, 8, LANES=8)
    assert {one.argument for _, one in run.outside} == {"?"}
    assert run.times("x", stored=False).tolist() == [1] * 5


def test_what_compares_and_swaps_is_an_error_and_touches_nothing() -> None:
    memory = torch.zeros(8, dtype=torch.int32)
    with pytest.raises(NotImplementedError, match=r"tl\.atomic_cas cannot be written down here"):
        launch(swapping, (1,), memory[:4], LANES=8)
    assert not memory.any()


def test_the_interpreter_is_as_it_was() -> None:
    from triton.runtime.interpreter import interpreter_builder

    variable, before = os.environ.get("TRITON_INTERPRET"), triton.knobs.runtime.interpret
    zeros, call = tl.zeros, triton.runtime.jit.JITFunction.__call__
    with pytest.raises(ZeroDivisionError):
        launch(_broken, (1,), randn(2))
    assert tl.zeros is zeros
    assert triton.runtime.jit.JITFunction.__call__ is call
    assert os.environ.get("TRITON_INTERPRET") == variable
    assert triton.knobs.runtime.interpret == before
    assert "create_dot" not in vars(interpreter_builder)


@triton.jit
def _broken(x):
    tl.store(x, 1 // 0)


class Tuned:
    """As @triton.autotune's, which chooses a BLOCK on a GPU."""

    fn = add


@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_launched_is_an_error() -> None:
    x = randn(4)
    with pytest.raises(TypeError, match=r"a kernel is a function under @triton\.jit; got function"):
        launch(add.fn, (1,), x, x, x, 4, BLOCK=4)
    with pytest.raises(TypeError, match=r"a kernel is a function under @triton\.jit; got Tuned"):
        launch(Tuned(), (1,), x, x, x, 4, BLOCK=4)
    for grid in ((), (0,), (1, 1, 1, 1), (1.0,), 3, lambda given: (given["n"] // 8,)):
        with pytest.raises(ValueError, match="a grid is a tuple of one to three whole numbers above 0"):
            launch(add, grid, x, x, x, 4, BLOCK=4)
    with pytest.raises(ValueError, match="the tensors must be on the CPU; out is not"):
        launch(add, (1,), x, x, x.to("meta"), 4, BLOCK=4)
    with pytest.raises(TypeError, match="missing"):
        launch(add, (1,), x, x, x, BLOCK=4)
    with pytest.raises(TypeError, match="add has no argument 'BLOKC'; it has x, y, out, n, BLOCK"):
        launch(add, (1,), x, x, x, 4, BLOCK=4, BLOKC=8)
    assert launch(add, (1,), x, x, torch.empty(4), 4, BLOCK=4, num_warps=2, num_stages=3).loaded() == 32


def told(code: str, *, interpret: str | None) -> str:
    """What a Python of its own prints."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpret is not None:
        environment["TRITON_INTERPRET"] = interpret
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_launches_inside_other_code_are_recorded() -> None:
    code = (
        "import torch\nfrom dynlib.kernels import acm_forward, trace\ntrace.check(strict=True)\n"
        "k = torch.arange(40) % 5\nz, w, b, v = (torch.randn(s) for s in ((40, 8), (64, 8), (64,), (64, 8)))\n"
        "with trace.record() as runs:\n"
        "    acm_forward(z, k, w, b, v, each=16, blocks={'rows': 16, 'columns': 16, 'inner': 16})\n"
        "print([(run.kernel, run.grid, run.early, run.outside) for run in runs])"
    )
    expected = "[('expand_kernel', (3, 4), 6, []), ('contract_kernel', (3, 1), 0, [])]"
    assert told(code, interpret="1").strip() == expected


GRIDS = """
import torch
from dynlib.kernels import trace
from tests.kernels.test_trace import calling
x, out = torch.ones(20), torch.empty(20)
with trace.record() as runs:
    calling[lambda given: (-(-given["n"] // given["LANES"]),)](x, out, 20, LANES=8, num_warps=4)
    for grid, more in (((0,), {}), (lambda given: (0,), {}), ((1,), {"LANE": 8})):
        try:
            calling[grid](x, out, 20, LANES=8, **more)
        except (TypeError, ValueError) as error:
            print(type(error).__name__)
print([(run.kernel, run.grid, run.stored("out")) for run in runs], out.sum().item())
"""


def test_recorded_launches_take_what_others_take() -> None:
    lines = told(GRIDS, interpret="1").splitlines()
    assert lines == ["ValueError", "ValueError", "TypeError", "[('calling', (3,), 80)] 40.0"]


LATE = """
import os, triton
from dynlib.kernels import trace
def tell(**how):
    try:
        trace.check(**how)
        print("fine")
    except RuntimeError as error:
        print(error)
tell()
os.environ["TRITON_INTERPRET"] = "1"
tell()
tell(strict=True)
"""


def test_one_sentence_says_that_triton_was_loaded_too_early() -> None:
    first, second, third = told(LATE, interpret=None).splitlines()
    assert first == third == trace.OTHERWISE
    assert second == "fine"


def test_one_sentence_says_that_triton_is_missing(monkeypatch) -> None:
    monkeypatch.setattr(trace, "triton", None)
    for call in (trace.check, lambda: launch(add, (1,)), lambda: trace.record().__enter__()):
        with pytest.raises(
            ModuleNotFoundError, match=r"Triton is not installed here\. On Linux `make setup` brings it"
        ):
            call()
