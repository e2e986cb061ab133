"""What a Triton kernel does, program by program: which elements it loads and stores, and which tile products it forms.

A kernel is run in Triton's interpreter, on the CPU, and every load, store and product is written down::

    run = launch(add_kernel, (3,), x, y, out, len(x), BLOCK=64)
    run.loaded(), run.stored("out"), run.outside, run.early, run.flops

What a mask takes away is not loaded. What lies outside its tensor after the mask is not touched either, but noted: a
GPU would read another tensor there, or stop. Where a mask takes a value away and the kernel gives no ``other``, the
value is undefined; here it is NaN, or a large whole number, so that a kernel that uses it is wrong here, too.

:func:`record` notes the launches of code that launches kernels itself, as :func:`dynlib.kernels.acm_forward` does.

Whose memory a pointer points into is known from the argument that it was made of. One that ``tl.where`` chose from two
arguments, or a block pointer, is looked up lane by lane: a lane that lies in no argument then is the argument
``"?"``'s, and outside. ``tl.atomic_cas`` cannot be written down, and is an error.

The interpreter runs one program after the other, and multiplies in full precision whatever ``input_precision`` says:
time and TF32 cannot be seen in it.
"""

import inspect
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = None

SECTOR = 32
"""Bytes that a GPU's memory moves at least, an aligned piece of so many."""
MISSING = (
    "Triton is not installed here. On Linux `make setup` brings it: run that, and restart the kernel. There is no "
    "Triton for macOS, and none for Windows itself: open the course in a dev container, or in WSL, where it is a Linux"
)
OTHERWISE = (
    "Triton was loaded before TRITON_INTERPRET was set, and compiles for a GPU now: restart the kernel, and let the "
    'cell with os.environ["TRITON_INTERPRET"] = "1" run first'
)


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


class Access(NamedTuple):
    """One load or store of one program, in one argument."""

    argument: str
    stored: bool
    at: np.ndarray
    """Elements of the argument, counted in memory from its first one; those that a mask takes away are not here."""
    outside: np.ndarray
    """The same for those that are not the argument's."""
    itemsize: int

    @property
    def bytes(self) -> int:
        """How many bytes the program asked for."""
        return self.itemsize * (self.at.size + self.outside.size)

    @property
    def sectors(self) -> int:
        """How many pieces of :data:`SECTOR` bytes they lie in, if the argument begins with one."""
        where = np.concatenate([self.at, self.outside])
        return int(np.unique(where * self.itemsize // SECTOR).size)


class Product(NamedTuple):
    """One tile product: [rows, inner] by [inner, columns]."""

    rows: int
    columns: int
    inner: int
    precision: str

    @property
    def flops(self) -> int:
        """A multiply-add being two."""
        return 2 * self.rows * self.columns * self.inner


class Program(NamedTuple):
    """One program of a grid."""

    place: tuple[int, ...]
    """Its program ids."""
    accesses: list[Access]
    products: list[Product]

    @property
    def early(self) -> bool:
        """Whether it ended before it stored anything."""
        return not any(access.stored for access in self.accesses)

    @property
    def flops(self) -> int:
        """Of its tile products."""
        return sum(product.flops for product in self.products)

    def loaded(self, *names: str) -> int:
        """Bytes that it loaded, from these arguments or from all."""
        return _bytes(self.accesses, False, names)

    def stored(self, *names: str) -> int:
        """Bytes that it stored, to these arguments or to all."""
        return _bytes(self.accesses, True, names)


class Run(NamedTuple):
    """One launch of a kernel."""

    kernel: str
    grid: tuple[int, ...]
    programs: list[Program]
    """In the order in which they were launched, the last axis of the grid first."""
    elements: dict[str, int]
    """Of each tensor argument, from its first to its last in memory."""

    def loaded(self, *names: str) -> int:
        """Bytes that all programs loaded, from these arguments or from all."""
        return sum(program.loaded(*names) for program in self.programs)

    def stored(self, *names: str) -> int:
        """Bytes that all programs stored."""
        return sum(program.stored(*names) for program in self.programs)

    def moved(self, *names: str) -> int:
        """Bytes of the :data:`SECTOR` s that the loads and stores touch, each access for itself, no cache."""
        accesses = [one for program in self.programs for one in program.accesses if not names or one.argument in names]
        return SECTOR * sum(access.sectors for access in accesses)

    @property
    def flops(self) -> int:
        """Of all tile products, edges filled up."""
        return sum(program.flops for program in self.programs)

    @property
    def early(self) -> int:
        """How many programs ended before they stored anything."""
        return sum(program.early for program in self.programs)

    @property
    def outside(self) -> list[tuple[Program, Access]]:
        """Accesses beyond their argument."""
        return [(program, one) for program in self.programs for one in program.accesses if one.outside.size]

    def times(self, name: str, *, stored: bool) -> Tensor:
        """How often each element of an argument was loaded, or stored: int64, as it lies in memory."""
        count = np.zeros(self.elements[name], dtype=np.int64)
        for program in self.programs:
            for one in program.accesses:
                if one.argument == name and one.stored == stored:
                    np.add.at(count, one.at, 1)
        return torch.from_numpy(count)

    def map(self, value: Callable[[Program], float]) -> Tensor:
        """A number of each program, in the shape of the grid."""
        return torch.tensor([float(value(program)) for program in self.programs]).view(self.grid)


def check(*, strict: bool = False) -> None:
    """Whether kernels can be tried here; strict: also launched as Triton does it, ``kernel[grid](…)``.

    Raises:
        ModuleNotFoundError: if Triton is not installed; the sentence says what to do.
        RuntimeError: if Triton was loaded to compile.
    """
    if triton is None:
        raise ModuleNotFoundError(MISSING)
    compiles = isinstance(tl.zeros, triton.runtime.jit.JITFunction)
    if not triton.knobs.runtime.interpret or (strict and compiles):
        raise RuntimeError(OTHERWISE)


def launch(kernel: Any, grid: Grid, *arguments: Any, **options: Any) -> Run:
    """Run a kernel in the interpreter and write down what it does; tensors that it stores to are written.

    It does not matter how Triton was loaded.

    Raises:
        ModuleNotFoundError: if Triton is not installed.
        NotImplementedError: if it calls ``tl.atomic_cas``.
        TypeError: if it is no kernel, or the arguments are not its arguments nor :data:`NOT_ARGUMENTS`.
        ValueError: if the grid is not one to three whole numbers above 0, or a tensor is not on the CPU.
    """
    if triton is None:
        raise ModuleNotFoundError(MISSING)
    if not inspect.isfunction(getattr(kernel, "fn", None)):  # an autotuner has an fn too, which is a kernel
        raise TypeError(f"a kernel is a function under @triton.jit; got {type(kernel).__name__}")
    return _run(kernel, grid, arguments, options)


@contextmanager
def record() -> Iterator[list[Run]]:
    """Note every launch inside the block: the list that it gives grows, a :class:`Run` a launch.

    Raises:
        ModuleNotFoundError, RuntimeError: as :func:`check`, strict; and each launch what :func:`launch` does.
    """
    check(strict=True)
    from triton.runtime.interpreter import InterpretedFunction

    runs: list[Run] = []

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        if not warmup:
            runs.append(_run(self, grid, arguments, options))

    before, InterpretedFunction.run = InterpretedFunction.run, run
    try:
        yield runs
    finally:
        InterpretedFunction.run = before


def _sizes(grid: Any) -> tuple[int, ...]:
    """A grid, checked."""
    try:
        sizes = tuple(operator.index(size) for size in grid)
    except TypeError:
        sizes = ()
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise ValueError(f"a grid is a tuple of one to three whole numbers above 0; got {grid!r}")
    return sizes


def _run(kernel: Any, grid: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Run:
    """All programs, one after the other."""
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

    def note(pointers: Any, where: Any, stored: bool) -> np.ndarray:
        """Write an access down; the lanes that may be touched."""
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

    def load(pointers: Any, mask: Any, other: Any, *rest: Any) -> Any:
        lanes = note(pointers, mask, False)
        kind = pointers.get_element_ty()
        if other is None:
            other = TensorHandle(np.full(pointers.data.shape, _undefined(kind), _get_np_dtype(kind)), kind)
        return before["create_masked_load"](pointers, TensorHandle(lanes, tl.int1), other, *rest)

    def store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        lanes = note(pointers, mask, True)
        return before["create_masked_store"](pointers, value, TensorHandle(lanes, tl.int1), *rest)

    def add(kind: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        lanes = note(pointers, mask, True)
        return before["create_atomic_rmw"](kind, pointers, value, TensorHandle(lanes, tl.int1), *rest)

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

    def keeping(make: Callable[..., Any]) -> Callable[..., Any]:
        """Moved, spread or reshaped, a pointer stays one into the same argument."""

        def made(*given: Any) -> Any:
            result = make(*given)
            for one in given:
                if isinstance(one, TensorHandle) and "argument" in one.attr:
                    result.attr["argument"] = one.attr["argument"]
            return result

        return made

    noted = dict(zip(_NOTED, (load, store, add, swap, choose, dot), strict=True))
    try:
        for name in _KEEP_NAME:
            setattr(builder, name, keeping(before[name]))
        for name, function in noted.items():
            setattr(builder, name, function)
        yield builder
    finally:
        for name in before:
            delattr(builder, name)  # the class has its own


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


def _bytes(accesses: list[Access], stored: bool, names: tuple[str, ...]) -> int:
    return sum(one.bytes for one in accesses if one.stored == stored and (not names or one.argument in names))


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
