"""The checks of unit 14. A kernel is run in Triton's interpreter, program by program, and what each of them loads,
stores and multiplies is held against what the contract allows; values are held against plain sums in float64."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlib import checks
from dynlib.checks import Task
from dynlib.kernels import acm, trace
from dynlib.kernels.trace import Program, Run

WITHOUT = ("dynlib", "torch", "numpy")
"""What a kernel does without."""
FLOAT = 4
"""Bytes of a float32."""


def _launch(check: Task, kernel: Any, grid: tuple[int, ...], on: str, *given: Any, **sizes: int) -> Run:
    """Run it and look at what every kernel must keep to: its own tensors, and nothing stored but the result."""
    check.true(
        "a kernel",
        hasattr(kernel, "fn"),
        tested="what stands under the name",
        expected="a function under @triton.jit",
        got=type(kernel).__name__,
        likely="leave the line @triton.jit above the function as it is",
    )
    check.by_hand(
        "by hand", kernel.fn, without=WITHOUT, tested="what the kernel's code uses", likely="triton.language alone"
    )
    try:
        run = trace.launch(kernel, grid, *given, **sizes)
    except TypeError as error:
        indexed = "not iterable" in str(error)  # what the interpreter says of x[at]
        likely = "a tensor is given as a pointer: tl.load(x + at, mask=…), not x[at]"
        check.true("pointers", not indexed, tested=on, expected="a kernel that runs", got=str(error), likely=likely)
        raise
    for program, access in run.outside:
        first, last = access.outside.min(), access.outside.max()
        check.true(
            "in bounds",
            False,
            tested=on,
            expected=f"elements 0 … {run.elements.get(access.argument, 0) - 1} of {access.argument}",
            got=f"program {program.place} {'stores to' if access.stored else 'loads'} element {first} … {last}",
            likely="a mask is missing or bounds the wrong number, or the step from row to row is not the length of a "
            "row: a GPU reads what lies there, or stops",
        )
    return run


def _once(check: Task, run: Run, name: str, on: str, likely: str, again: str | None = None) -> None:
    times = run.times(name, stored=True)
    if not times.any():
        likely = f"nothing was stored at all: tl.store({name} + …, …, mask=…)"
    elif again and (times[times != 1][:1] > 1).any():
        likely = again
    check.true(
        "each once",
        bool((times == 1).all()),
        tested=on,
        expected=f"every element of {name} stored exactly once",
        got=f"element {int((times != 1).nonzero()[0])} stored {int(times[times != 1][0])} times"
        if bool((times != 1).any())
        else None,
        likely=likely,
    )


def _block(check: Task, run: Run, shape: tuple[int, int], block: tuple[int, int], on: str) -> None:
    """Program (p, q) stores the block of out that begins at (p · ROWS, q · COLUMNS)."""
    likely = "the mask of the store is that of out: row < rows and column < columns"
    if shape == block:
        likely = "a block has ROWS × COLUMNS addresses: the rows as [:, None], the columns as [None, :]"
    for program in run.programs:
        at = [int(one.at.min()) for one in program.accesses if one.stored and one.at.size]
        (p, q), (high, wide) = program.place, block
        if not at or min(at) != p * high * shape[1] + q * wide:
            likely = "program (p, q) begins at row p · ROWS and column q · COLUMNS: program_id(0), program_id(1)"
    _once(check, run, "out", on, likely)


def _products(
    check: Task, run: Run, steps: Sequence[int], on: str, name: str = "steps", likely: str = "range(0, inner, INNER)"
) -> None:
    """How many tile products each program forms, and how."""
    made = [len(program.products) for program in run.programs]
    check.equal(name, made, list(steps), tested=f"tile products of each program: {on}", likely=likely)
    told = {product.precision for program in run.programs for product in program.products}
    check.equal(
        "precision",
        sorted(told),
        ["ieee"] if any(steps) else [],
        tested=f"input_precision of the products: {on}",
        likely='without input_precision="ieee" a GPU multiplies float32 as TF32, with 10 bits',
    )


def _only(check: Task, run: Run, name: str, on: str) -> None:
    others = [other for other in run.elements if other != name and run.stored(other)]
    check.true(
        "inputs untouched",
        not others,
        tested=on,
        expected=f"stores to {name} alone",
        got=f"stores to {', '.join(others)}",
    )


def _bytes(check: Task, name: str, run: Run, argument: str, expected: int, on: str, likely: str) -> None:
    check.true(
        name,
        run.loaded(argument) <= expected,
        tested=on,
        expected=f"{expected} bytes of {argument} at most, loaded by all programs together",
        got=run.loaded(argument),
        likely=likely,
    )


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


# ---- task 1: add

Adds = tuple[int, int, int]
"""Elements, programs, elements of a block."""

FEW: tuple[Adds, ...] = ((64, 4, 16), (50, 4, 16), (100, 2, 16), (100, 3, 8), (7, 5, 16))


def add(check: Task, answer: Any, *, cases: Iterable[Adds] = FEW, seed: int = 0) -> None:
    """Task 1: values, bounds, each element once, neighbours, no needless loads."""
    for number, (n, programs, block) in enumerate(cases):
        x, y = (checks.normal(n, seed=10 * seed + 2 * number + part, dtype=torch.float32) for part in range(2))
        out, on = _empty(n), f"{n} elements, {programs} programs, blocks of {block}"
        run = _launch(check, answer, (programs,), on, x, y, out, n, BLOCK=block)
        _only(check, run, "out", on)
        _once(
            check,
            run,
            "out",
            on,
            "program p takes the blocks p, p + P, p + 2P, … while there are some: how many programs there are, "
            "tl.num_programs(0) says",
        )
        check.close("sum", out, x + y, tested=on, tolerance=1e-6, likely="out[i] = x[i] + y[i], the same i three times")
        for name in ("x", "y"):
            _bytes(check, "each loaded once", run, name, FLOAT * n, on, "the mask of a load is that of the store")
        for program in run.programs:
            for access in program.accesses:
                at = sorted(access.at.tolist())
                check.true(
                    "neighbours",
                    all(b - a == 1 for a, b in pairwise(at)) and (not at or at[0] % block == 0),
                    tested=on,
                    expected=f"loads and stores of one block of {block} neighbours, from a multiple of {block} on",
                    got=f"program {program.place} touches {access.argument}{at[:6]} at once",
                    likely="a block is block · BLOCK + tl.arange(0, BLOCK)",
                )
        most = _ceil(_ceil(n, block), programs)
        rounds = [sum(one.argument == "x" and not one.stored for one in program.accesses) for program in run.programs]
        check.true(
            "rounds",
            max(rounds) <= most,
            tested=on,
            expected=f"{most} loads of x by a program at most",
            got=f"{max(rounds)}, and some of them wholly masked",
            likely="block numbers end at tl.cdiv(n, BLOCK), the number of blocks, not at n",
        )
        mine = [sorted({int(a) // block for one in program.accesses for a in one.at}) for program in run.programs]
        expected = [list(range(number, _ceil(n, block), programs)) for number in range(programs)]
        check.equal(
            "shared out",
            mine,
            expected,
            tested=f"which blocks each program takes: {on}",
            likely="program p takes the blocks p, p + P, p + 2P, …",
        )


# ---- task 2: bias_gelu

Matrices = tuple[int, int, int, int, int]
"""Rows, columns, the row stride of h, rows and columns of a block."""

MATRICES: tuple[Matrices, ...] = (
    (16, 16, 16, 16, 16),
    (20, 16, 16, 16, 16),
    (16, 21, 21, 16, 16),
    (20, 21, 30, 16, 8),
    (5, 40, 41, 4, 16),
)


def bias_gelu(check: Task, answer: Any, *, cases: Iterable[Matrices] = MATRICES, seed: int = 0) -> None:
    """Task 2: values against the integral's form, bounds, and what is loaded of h and of the bias."""
    for number, (rows, columns, stride, high, wide) in enumerate(cases):
        memory = 2 * checks.normal(rows, stride, seed=10 * seed + 2 * number, dtype=torch.float32)
        h, bias = memory[:, :columns], 2 * checks.normal(columns, seed=10 * seed + 2 * number + 1, dtype=torch.float32)
        out = _empty(rows, columns)
        on = f"h [{rows}, {columns}] with a row every {stride}, blocks of {high} × {wide}"
        grid = (_ceil(rows, high), _ceil(columns, wide))
        run = _launch(check, answer, grid, on, h, bias, out, rows, columns, stride, ROWS=high, COLUMNS=wide)
        _only(check, run, "out", on)
        _block(check, run, (rows, columns), (high, wide), on)
        z = (h + bias).double()
        tail = torch.special.ndtr(z)  # Φ(z), the share of a normal law below z
        rough = 0.5 * z * (1 + torch.tanh(0.7978845608028654 * (z + 0.044715 * z**3)))
        check.close(
            "GELU",
            out,
            (z * tail).float(),
            tested=on,
            tolerance=1e-5,
            likely="element (i, j) of h lies at i · stride + j, that of out at i · columns + j; GELU(z) = z · Φ(z)",
            mistakes={
                "tanh's approximation: the contract asks for the exact one": rough.float(),
                "the bias is added after the GELU": (h.double() * torch.special.ndtr(h.double()) + bias).float(),
                "the bias is left out": (h.double() * torch.special.ndtr(h.double())).float(),
                "erf(z) in place of erf(z / √2)": (0.5 * z * (1 + torch.erf(z))).float(),
            },
        )
        _bytes(check, "h once", run, "h", FLOAT * rows * columns, on, "one load of h a program, kept in a variable")
        _bytes(
            check,
            "bias once a program",
            run,
            "bias",
            FLOAT * columns * grid[0],
            on,
            "load the COLUMNS numbers of the bias as one row [1, COLUMNS]: adding spreads it over the rows by itself",
        )


# ---- task 3: linear

Products = tuple[int, int, int, tuple[int, int, int], torch.dtype]
"""Rows, columns, inner, their blocks, dtype."""

PRODUCTS: tuple[Products, ...] = (
    (16, 16, 32, (16, 16, 16), torch.float32),
    (20, 16, 32, (16, 16, 16), torch.float32),
    (16, 33, 32, (16, 16, 16), torch.float32),
    (20, 33, 23, (16, 16, 16), torch.float32),
    (33, 20, 70, (32, 16, 64), torch.float32),
    (17, 18, 40, (16, 16, 16), torch.float16),
)


def linear(check: Task, answer: Any, *, cases: Iterable[Products] = PRODUCTS, seed: int = 0) -> None:
    """Task 3: values, bounds, loads, the precision that is asked for, and what half precision sums up in."""
    for number, (rows, columns, inner, blocks, dtype) in enumerate(cases):
        x, w = (
            checks.normal(size, inner, seed=10 * seed + 2 * number + part, dtype=torch.float64).to(dtype)
            for part, size in enumerate((rows, columns))
        )
        out, on = _empty(rows, columns, dtype=dtype), f"x [{rows}, {inner}], W [{columns}, {inner}], blocks {blocks}"
        run = _linear(check, answer, x, w, out, blocks, f"{on}, {dtype}")
        right = x.double() @ w.double().T
        check.close(
            "product",
            out,
            right.to(dtype),
            tested=f"{on}, {dtype}",
            tolerance=1e-5 if dtype == torch.float32 else 1e-2,
            likely="NaN: beyond the edges a load gives other=0.0"
            if bool(out.isnan().any())
            else _mixed_up(blocks, "out[i, j] is the sum over all inner of x[i, inner] · W[j, inner]"),
            mistakes={
                "W lies row by row, a row for each column of out": (x.double() @ w.double().view(inner, -1)).to(dtype),
                "the last, partial step is missing": _part(x, w, 0, inner // blocks[2] * blocks[2]),
                "only the last step is there: add to the total, tl.dot(left, right, total, …)": _part(
                    x, w, (inner - 1) // blocks[2] * blocks[2], inner
                ),
            },
        )
        for name, size, others in (("x", rows, _ceil(columns, blocks[1])), ("w", columns, _ceil(rows, blocks[0]))):
            _bytes(
                check,
                "loads",
                run,
                name,
                x.element_size() * size * inner * others,
                f"{on}, {dtype}",
                "each program loads the rows of x and of W that it needs, once, and nothing beyond the edges",
            )
        _products(check, run, [_ceil(inner, blocks[2])] * len(run.programs), f"{on}, {dtype}")
    # 2051 in the first step, and then 1 fifty-nine times: in float16, 2051 is 2052, and 2052 + 1 is 2052
    x = torch.zeros(1, 60 * 16, dtype=torch.float16)
    x[0, ::16] = x[0, 1:4] = 1
    w = torch.ones(1, 60 * 16, dtype=torch.float16)
    w[0, 0] = 2048
    out = _empty(1, 1, dtype=torch.float16)
    on = "2048 + 1 + 1 + 1 in the first step, then 1 in each of fifty-nine, float16"
    _linear(check, answer, x, w, out, (16, 16, 16), on)
    check.close(
        "sums in float32",
        out,
        torch.full((1, 1), 2110.0, dtype=torch.float16),
        tested=on,
        tolerance=5e-4,
        likely="each product and the running total are float32; the total becomes out's dtype when it is stored: "
        "out.dtype.element_ty",
    )


def _part(x: Tensor, w: Tensor, start: int, end: int) -> Tensor:
    return (x[:, start:end].double() @ w[:, start:end].double().T).to(x.dtype)


def _mixed_up(blocks: tuple[int, int, int], likely: str) -> str:
    """Where block sizes differ, what goes wrong there first is most often one of them."""
    rows, columns, inner = blocks
    if rows == columns == inner:
        return likely
    return f"ROWS {rows}, COLUMNS {columns} and INNER {inner} differ here: is one of them in another's place?"


def _linear(check: Task, answer: Any, x: Tensor, w: Tensor, out: Tensor, blocks: tuple[int, int, int], on: str) -> Run:
    (rows, inner), columns, (high, wide, deep) = x.shape, len(w), blocks
    grid = (_ceil(rows, high), _ceil(columns, wide))
    run = _launch(check, answer, grid, on, x, w, out, rows, columns, inner, ROWS=high, COLUMNS=wide, INNER=deep)
    _only(check, run, "out", on)
    _block(check, run, (rows, columns), (high, wide), on)
    return run


# ---- tasks 4 and 5: expand, contract


class Modules(NamedTuple):
    """An adaptive computation module and its tokens."""

    k: Sequence[int]
    """Of each token."""
    dim: int = 20
    each: int = 12
    learners: int = 3
    features: int = 18
    blocks: tuple[int, int, int] = (16, 16, 16)

    def parts(self, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Tokens z, W, b, V and k."""
        tokens, hidden = len(self.k), self.each * self.learners
        shapes = ((tokens, self.dim), (hidden, self.dim), (hidden,), (hidden, self.features))
        z, w, b, v = (
            checks.normal(*shape, seed=5 * seed + part, dtype=torch.float32) for part, shape in enumerate(shapes)
        )
        return z, w / self.dim**0.5, b, v, torch.tensor(self.k)

    def runs(self, order: Tensor) -> list[int]:
        """How many neurons each block of rows runs, by looking at every row of it."""
        rows = self.blocks[0]
        chosen = [self.k[token] for token in order.tolist()]
        return [max(chosen[start : start + rows]) * self.each for start in range(0, len(chosen), rows)]


def _mixed(tokens: int, most: int, step: int) -> tuple[int, ...]:
    return tuple(step * token % (most + 1) for token in range(tokens))


MODULES = (
    Modules((2,) * 16, each=16, learners=2, dim=16),
    Modules((3,) * 10 + (1,) * 30),
    Modules(_mixed(40, 3, 2)),
    Modules((0, 0, 1) * 12, each=10, learners=4),
    Modules((0,) * 5),
    Modules((3, 1, 2) * 14, dim=40, blocks=(32, 16, 64)),
)


def expand(check: Task, answer: Any, *, cases: Iterable[Modules] = MODULES, seed: int = 0) -> None:
    """Task 4: who runs and who ends at once, what is loaded, and the hidden features."""
    for number, case in enumerate(cases):
        z, w, b, _, k = case.parts(10 * seed + number)
        order = k.argsort(descending=True, stable=True)
        (tokens, dim), neurons, (rows, columns, inner) = z.shape, len(b), case.blocks
        hidden, runs = _empty(tokens, neurons), case.runs(order)
        grid = (_ceil(tokens, rows), _ceil(neurons, columns))
        on = f"{tokens} tokens, {case.learners} learners of {case.each}, blocks {case.blocks}, neurons they run: {runs}"
        sizes = {"ROWS": rows, "COLUMNS": columns, "INNER": inner}
        given = (z, order, k[order], w, b, hidden, tokens, dim, neurons, case.each)
        run = _launch(check, answer, grid, on, *given, **sizes)
        _only(check, run, "hidden", on)
        due = [(i, j) for i in range(grid[0]) for j in range(grid[1]) if j * columns >= runs[i]]
        check.equal(
            "early return",
            [program.place for program in run.programs if program.early],
            due,
            tested=f"which programs store nothing: {on}",
            likely="the first row of a block has the largest k of it; a program whose first neuron lies at or beyond "
            "k · each of that row returns",
        )
        for program in run.programs:
            _spared(check, program, program.place in due, on)
        _weights(check, run, "w", runs, rows, dim, on)
        _weights(check, run, "bias", runs, rows, 1, on)
        whole = _hidden(z, w, b, k)[order]
        own = (k[order] * case.each)[:, None]
        at = torch.arange(neurons)
        done = torch.tensor(runs).repeat_interleave(rows)[:tokens, None]
        stored = at // columns * columns < done
        got = torch.where(stored, hidden, 0.0)

        live = torch.where(at < done, whole, 0.0)
        check.close(
            "hidden features",
            got,
            _kept(at < own, live),
            tested=on,
            tolerance=1e-5,
            likely=_mixed_up(
                case.blocks,
                "NaN: a block that runs is stored whole, at its own rows (not at order[i]) and up to `neurons`, and a "
                "masked load of it has other=0.0"
                if bool(got.isnan().any())
                else "row i of hidden is GELU(z[order[i]] Wᵀ + b), and 0 for neurons from k[i] · each on",
            ),
            mistakes={
                "k is sorted already: k[i] is that of row i": _kept(at < (k[order][order] * case.each)[:, None], live),
                "k counts learners: times each": _kept(at < k[order][:, None], live),
                "set to 0 last: GELU(bias) stands there now": torch.where(
                    at < own, whole, torch.where(at < done, b * torch.special.ndtr(b), 0.0)
                ).float(),
                "W lies row by row, a row for each neuron": _hidden(z, w.view(dim, -1).T, b, k)[order].float(),
                "the tokens are taken as they lie, not in the order": torch.where(
                    at < own, _hidden(z, w, b, k), 0.0
                ).float(),
                "neurons beyond a row's own k are not set to 0": live.float(),
            },
        )
        steps = [0 if program.place in due else _ceil(dim, inner) for program in run.programs]
        _products(check, run, steps, on, likely="range(0, dim, INNER)")
        _bytes(
            check,
            "tokens loaded",
            run,
            "z",
            FLOAT * dim * sum(min(rows, tokens - i * rows) for i, j in _all(grid) if (i, j) not in due),
            on,
            "a program that runs loads its rows of z once, those of tokens that are there",
        )


def _spared(check: Task, program: Program, due: bool, on: str) -> None:
    if due:
        check.true(
            "nothing loaded in vain",
            not program.loaded("z", "w", "bias", "order"),
            tested=on,
            expected=f"program {program.place}, which runs no neuron, loads k alone",
            got=f"{program.loaded('z', 'w', 'bias', 'order')} bytes of others",
            likely="return before the loads, not before the store",
        )


def _weights(check: Task, run: Run, name: str, runs: Sequence[int], rows: int, wide: int, on: str) -> None:
    """No program loads of W or b what no row of its block runs."""
    for program in run.programs:
        limit = runs[program.place[0]] * wide
        beyond = [int(a) for one in program.accesses if one.argument == name for a in one.at if a >= limit]
        check.true(
            "weights of others",
            not beyond,
            tested=on,
            expected=f"program {program.place} loads {name} of the neurons 0 … {limit // wide - 1} at most",
            got=f"of neuron {beyond[0] // wide}" if beyond else None,
            likely="the mask of a load of weights bounds the neurons that the block runs, not all there are",
        )


def _hidden(z: Tensor, w: Tensor, b: Tensor, k: Tensor) -> Tensor:
    h = z.double() @ w.double().T + b.double()
    return h * torch.special.ndtr(h)


def _kept(where: Tensor, whole: Tensor) -> Tensor:
    return torch.where(where, whole, 0.0).float()


def _summed(hidden: Tensor, v: Tensor, order: Tensor, ends: Sequence[int]) -> Tensor:
    """Row i of hidden times V, over its first ends[i] neurons, at place order[i]."""
    result, inside = torch.empty(len(order), v.shape[1]), torch.arange(len(v)) < torch.tensor(ends)[:, None]
    result[order] = (torch.where(inside, hidden, 0.0) @ v.double()).float()
    return result


def _all(grid: tuple[int, int]) -> list[tuple[int, int]]:
    return [(i, j) for i in range(grid[0]) for j in range(grid[1])]


def contract(check: Task, answer: Any, *, cases: Iterable[Modules] = MODULES, seed: int = 0) -> None:
    """Task 5: values in the tokens' places, what is loaded, how many tile products."""
    for number, case in enumerate(cases):
        z, w, b, v, k = case.parts(10 * seed + number)
        order = k.argsort(descending=True, stable=True)
        tokens, (neurons, features), (rows, columns, inner) = len(z), v.shape, case.blocks
        runs = case.runs(order)
        ends = [runs[i // rows] for i in range(tokens)]
        done = torch.tensor(ends)[:, None]
        at, own = torch.arange(neurons), (k[order] * case.each)[:, None]
        whole = torch.where(at < own, _hidden(z, w, b, k)[order], 0.0)
        hidden = torch.where(at < done, whole, float("nan")).float()  # nobody wrote beyond what a block runs
        out, grid = _empty(tokens, features), (_ceil(tokens, rows), _ceil(features, columns))
        on = f"{tokens} tokens, {features} features, blocks {case.blocks}, neurons they run: {runs}"
        sizes = {"ROWS": rows, "COLUMNS": columns, "INNER": inner}
        given = (hidden, order, k[order], v, out, tokens, neurons, features, case.each)
        run = _launch(check, answer, grid, on, *given, **sizes)
        _only(check, run, "out", on)
        _weights(check, run, "v", runs, rows, features, on)
        never = _mixed_up(case.blocks, "every token gets a row, one without learners a row of zeros")
        again = "rows beyond `tokens` are masked in the store as well: with other=0 they all go to token 0"
        _once(check, run, "out", on, never, _mixed_up(case.blocks, again))
        check.close(
            "result",
            out,
            _summed(whole, v, order, ends),
            tested=on,
            tolerance=1e-5,
            likely=_mixed_up(
                case.blocks,
                "NaN: hidden was loaded where nobody wrote (it lies in the order already, gather nothing; k · each of "
                "the block's first row ends the loop and bounds its mask), or out was added to: store"
                if bool(out.isnan().any())
                else "row i of the sum belongs to token order[i]; a row of V has `features` numbers",
            ),
            mistakes={
                "the rows are stored as they lie, not where the tokens came from": (whole @ v.double()).float(),
                "k counts learners: times each": _summed(whole, v, order, [run // case.each for run in ends]),
                "the last, partial step is missing": _summed(whole, v, order, [run // inner * inner for run in ends]),
                "V lies row by row, a row for each neuron": _summed(whole, v.view(features, -1).T, order, ends),
            },
        )
        steps = [_ceil(runs[i], inner) for i, _ in _all(grid)]
        likely = "the loop over neurons ends at k · each of the block's first row"
        _products(check, run, steps, on, "bounded loop", likely)
        live = sum(min(rows, tokens - i * rows) * runs[i] for i in range(grid[0]))
        _bytes(
            check,
            "loads",
            run,
            "hidden",
            FLOAT * live * grid[1],
            on,
            "rows that are there, and neurons that the block runs",
        )


# ---- task 6: predict

TOKENS = (4,) * 10 + (2,) * 20 + (1,) * 30 + (0,) * 10
"""k of each token, of 4 learners of 32 neurons; 16 rows, 32 columns a block."""
FLOPS_PER_SECOND, BYTES_PER_SECOND = 4e14, 2e12
MANY, DIM, HIDDEN = 8192, 512, 2048


def predict(check: Task, answer: Any, *, seed: int = 0) -> None:
    """Task 6: blocks and bytes are counted while the kernels run; the roofline is worked out."""
    expand_run, contract_run = _measured(seed)
    ran = len(expand_run.programs) - expand_run.early
    wanted = sum(TOKENS)
    work = 4 * MANY * DIM * HIDDEN / FLOPS_PER_SECOND
    fixed = 2 * (2 * MANY * DIM + 2 * DIM * HIDDEN) / BYTES_PER_SECOND
    between = 2 * 2 * MANY * HIDDEN / BYTES_PER_SECOND
    crossing = fixed / (work - between)
    fused, apart = max(work / 2, fixed), max(work / 2, fixed + between / 2)
    outcome: dict[str, float | int | str] = {
        "programs of expand": len(expand_run.programs),
        "programs that end at once": expand_run.early,
        "learners computed in vain": 16 * ran - wanted,
        "tile products of contract": sum(len(program.products) for program in contract_run.programs),
        "bytes of W loaded": expand_run.loaded("expand"),
        "compute-bound above": crossing,
        "one kernel at f = 0.5": "faster" if fused < apart else "as fast",
    }
    check.prediction(
        answer(),
        outcome,
        tested="the two kernels on 70 tokens, and a GPU of 400 TFLOP/s and 2 TB/s",
        words={"one kernel at f = 0.5": ("faster", "as fast", "slower")},
        slips={
            "programs of expand": {
                "70 / 16 is not a whole number: the last block of rows is there too": 4 * 4,
            },
            "programs that end at once": {
                "these are the programs that run": ran,
                "the rows without learners have a block of their own, whose four programs end as well": 8,
                "in every block of rows, the programs beyond its first row's k end as well": 4,
            },
            "learners computed in vain": {
                "these are all that are computed, wanted ones too": 16 * ran,
                "these are those that are wanted": wanted,
                "a block computes what its first row wants, for all its rows": 0,
            },
            "tile products of contract": {
                "one block of columns of the output is 32 wide, and there are 64 features: two": ran,
                "a program's loop ends at the k of its block's first row": 5 * 2 * 4,
            },
            "bytes of W loaded": {
                "that is W once: each block of rows loads what it runs": 4 * 128 * 64,
                "a float32 has four bytes": expand_run.loaded("expand") // 4,
            },
            "compute-bound above": {
                "that is with the hidden features kept on the chip": fixed / work,
                "the hidden features are written and read: twice": fixed / (work - between / 2),
                "the weights are read as well": 4 * MANY * DIM / BYTES_PER_SECOND / (work - between),
            },
        },
        likely={
            "learners computed in vain": "16 rows times the learners of the first row, less the k of the rows",
            "bytes of W loaded": "each program that runs loads 32 neurons of 64 features once",
            "compute-bound above": "set the seconds of the FLOPs equal to those of the bytes: f · work = fixed + f · "
            "between",
            "one kernel at f = 0.5": "the slower of compute and memory decides: which is it, with and without the "
            "hidden features' bytes?",
        },
        tolerance=1e-4,
    )


@cache
def _measured(seed: int) -> tuple[Run, Run]:
    """The package's own kernels on these tokens, written down."""
    k = torch.tensor(TOKENS)
    z, w, v = (checks.normal(*shape, seed=3 * seed + part, dtype=torch.float32) for part, shape in enumerate(SHAPES))
    b, hidden, y = torch.zeros(128), _empty(70, 128), _empty(70, 64)
    sizes: dict[str, Any] = {
        "ROWS": 16,
        "COLUMNS": 32,
        "INNER": 32,
        "SUM": acm.tl.float32,
        "PRECISION": "ieee",
        "WIDEN": False,
    }
    order = torch.arange(70)
    first = trace.launch(acm.expand_kernel, (5, 4), z, order, k, w, b, hidden, 70, 64, 128, 32, **sizes)
    second = trace.launch(acm.contract_kernel, (5, 2), hidden, order, k, v, y, 70, 128, 64, 32, **sizes)
    return first, second


SHAPES = ((70, 64), (128, 64), (128, 64))
