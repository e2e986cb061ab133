"""Triton's interpreter, with an eye on it: it runs a kernel program by program, and what it is asked for is noted."""

import inspect
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from dynlib.kernels.trace_records import Access, Product, Program, Run

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = None


NOT_ARGUMENTS = (
    "num_warps",
    "num_stages",
    "num_ctas",
    "maxnreg",
    "enable_fp_fusion",
    "launch_cooperative_grid",
    "launch_pdl",
    "debug",
)
"""What Triton takes beside a kernel's own arguments: how it is compiled, which cannot be seen here."""


Grid = tuple[int, ...] | Callable[[dict[str, Any]], tuple[int, ...]]
"""A tuple, or a function to one from the arguments by their names, as Triton has it."""


def _sizes(grid: Any) -> tuple[int, ...]:
    """A grid, checked."""
    try:
        sizes = tuple(operator.index(size) for size in grid)
    except TypeError:
        sizes = ()
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise ValueError(f"a grid is a tuple of one to three whole numbers above 0; got {grid!r}")
    return sizes


def run_noted(kernel: Any, grid: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Run:
    """All programs, one after the other; arguments and errors as of :func:`dynlib.kernels.trace.launch`."""
    from triton.runtime import interpreter

    inner = inspect.unwrap(kernel.fn)  # without what checks a function's types in the tests
    named = inspect.signature(inner).parameters
    unknown = [name for name in options if name not in named and name not in NOT_ARGUMENTS]
    if unknown:
        raise TypeError(f"{inner.__name__} has no argument {unknown[0]!r}; it has {', '.join(named)}")
    given = inspect.getcallargs(inner, *arguments, **{name: one for name, one in options.items() if name in named})
    grid = _sizes(grid(given) if callable(grid) else grid)
    executor = interpreter.GridExecutor(inner, list(named), grid)
    tensors = {name: one for name, one in given.items() if isinstance(one, Tensor)}
    elsewhere = [name for name, one in tensors.items() if one.device.type != "cpu"]
    if elsewhere:
        raise ValueError(f"the tensors must be on the CPU; {', '.join(elsewhere)} is not")
    run = Run(inner.__name__, grid, [], {name: _span(one) for name, one in tensors.items()})
    with _library_interpreted(), np.errstate(all="ignore"):
        function = interpreter.InterpretedFunction(inner).rewrite()
        scope = interpreter._patch_lang(function)
        try:
            values = {
                name: one if name in executor.constexprs else interpreter._implicit_cvt(one)
                for name, one in given.items()
            }
            for name in tensors:
                values[name].handle.set_attr("argument", name)
            with _watched(run, tensors) as builder:
                builder.set_grid_dim(*grid, *(1,) * (3 - len(grid)))
                for place in np.ndindex(grid):
                    builder.set_grid_idx(*place, *(0,) * (3 - len(grid)))
                    run.programs.append(Program(tuple(map(int, place)), [], []))
                    function(**values)
        finally:
            scope.restore()
    return run


def _span(tensor: Tensor) -> int:
    """Elements from the first to the last in memory."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


@contextmanager
def _watched(run: Run, tensors: dict[str, Tensor]) -> Iterator[Any]:
    """Triton's interpreter, which notes in the last program of a run what it is asked for."""
    from triton.runtime.interpreter import TensorHandle, _get_np_dtype, interpreter_builder

    builder = interpreter_builder
    before = {name: getattr(builder, name) for name in (*_KEEP_NAME, *_NOTED)}

    def note(pointers: Any, where: Any, *, stored: bool) -> Any:
        return TensorHandle(_note(run, tensors, pointers, where, stored), tl.int1)

    def load(pointers: Any, mask: Any, other: Any, *rest: Any) -> Any:
        lanes = note(pointers, mask, stored=False)
        kind = pointers.get_element_ty()
        if other is None:
            other = TensorHandle(np.full(pointers.data.shape, _undefined(kind), _get_np_dtype(kind)), kind)
        return before["create_masked_load"](pointers, lanes, other, *rest)

    def store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        lanes = note(pointers, mask, stored=True)
        return before["create_masked_store"](pointers, value, lanes, *rest)

    def add(kind: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        lanes = note(pointers, mask, stored=True)
        return before["create_atomic_rmw"](kind, pointers, value, lanes, *rest)

    def swap(*given: Any) -> Any:
        raise NotImplementedError("tl.atomic_cas cannot be written down here")

    def choose(condition: Any, a: Any, b: Any) -> Any:
        result = before["create_select"](condition, a, b)
        if a.attr.get("argument") == b.attr.get("argument") is not None:
            result.attr["argument"] = a.attr["argument"]
        return result

    def dot(a: Any, b: Any, total: Any, precision: Any, *rest: Any) -> Any:
        (rows, inner), columns = a.data.shape[-2:], b.data.shape[-1]
        told = str(getattr(precision, "name", precision)).lower()
        run.programs[-1].products.append(Product(rows, columns, inner, told))
        return before["create_dot"](a, b, total, precision, *rest)

    noted = dict(zip(_NOTED, (load, store, add, swap, choose, dot), strict=True))
    try:
        for name in _KEEP_NAME:
            setattr(builder, name, _keeping(before[name]))
        for name, function in noted.items():
            setattr(builder, name, function)
        yield builder
    finally:
        for name in before:
            delattr(builder, name)  # the class has its own


def _note(run: Run, tensors: dict[str, Tensor], pointers: Any, where: Any, stored: bool) -> np.ndarray:
    """Write an access of the last program down; the lanes that may be touched."""
    # spread from one number, a mask is whole numbers in the interpreter
    mask = np.broadcast_to(where.data, pointers.data.shape).astype(bool)
    itemsize = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
    address = pointers.data.astype(np.int64)
    known = pointers.attr.get("argument")
    owner = _owner(address, tensors) if known is None else np.full(address.shape, known, dtype=object)
    touched = np.zeros(address.shape, dtype=bool)
    for name in list(dict.fromkeys(owner[mask].tolist())) or [known or "?"]:  # taken away whole, it is one as well
        offset = (address - tensors[name].data_ptr()) // itemsize if name in tensors else address
        lanes = mask & (owner == name)
        inside = (offset >= 0) & (offset < run.elements.get(name, 0))
        accessed = Access(name, stored, offset[lanes & inside], offset[lanes & ~inside], itemsize)
        run.programs[-1].accesses.append(accessed)
        touched |= lanes & inside
    return touched


def _keeping(make: Callable[..., Any]) -> Callable[..., Any]:
    """Moved, spread or reshaped, a pointer stays one into the same argument."""

    def made(*given: Any) -> Any:
        result = make(*given)
        for one in given:
            if "argument" in getattr(one, "attr", ()):
                result.attr["argument"] = one.attr["argument"]
        return result

    return made


_KEEP_NAME = (
    "create_addptr",
    "create_splat",
    "create_broadcast",
    "create_expand_dims",
    "create_reshape",
    "create_trans",
)


_NOTED = (
    "create_masked_load",
    "create_masked_store",
    "create_atomic_rmw",
    "create_atomic_cas",
    "create_select",
    "create_dot",
)


def _owner(address: np.ndarray, tensors: dict[str, Tensor]) -> np.ndarray:
    """Whose memory each lane lies in, if the pointer does not say: names, of tensors that overlap the first."""
    owner = np.full(address.shape, "?", dtype=object)
    for name, one in reversed(tensors.items()):
        past = address - one.data_ptr()
        owner[(past >= 0) & (past < _span(one) * one.element_size())] = name
    return owner


def _undefined(kind: Any) -> float | int | bool:
    """A value that is seen where it is used."""
    if kind == tl.bfloat16:
        return 0x7FC0  # its NaN, as the interpreter keeps it
    if kind.is_floating():
        return float("nan") if kind.primitive_bitwidth > 8 else 0x7F
    return True if kind == tl.int1 else 2 ** (kind.primitive_bitwidth - 2)


@contextmanager
def _library_interpreted() -> Iterator[None]:
    """What a kernel calls, Triton's functions or others, as the interpreter takes it, however it was loaded."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    kept: list[tuple[Any, str, Any]] = []
    if isinstance(tl.zeros, JITFunction):
        places = [module for name, module in sys.modules.items() if name.startswith("triton.language")]
        kept = [
            (place, name, one)
            for place in (*places, tl.tensor)
            for name, one in list(vars(place).items())
            if isinstance(one, JITFunction)
        ]
    call = JITFunction.__call__

    def interpret(function: Any, *given: Any, **options: Any) -> Any:
        return InterpretedFunction(inspect.unwrap(function.fn))(*given, **options)

    knobs = vars(triton.knobs.runtime)  # set as an attribute, the knob would change os.environ as well
    before = knobs.get("interpret")
    try:
        knobs["interpret"] = True
        JITFunction.__call__ = interpret
        for place, name, one in kept:
            interpreted = InterpretedFunction(one.fn)
            setattr(place, name, _method(interpreted) if place is tl.tensor else interpreted)
        yield
    finally:
        JITFunction.__call__ = call
        knobs.pop("interpret") if before is None else knobs.update(interpret=before)
        for place, name, one in kept:
            setattr(place, name, one)


def _method(function: Any) -> Callable[..., Any]:
    return lambda *given, **options: function(*given, **options)
