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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dynlib.kernels.trace_interpreter import NOT_ARGUMENTS, Grid, run_noted
from dynlib.kernels.trace_records import SECTOR, Access, Product, Program, Run

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = None

__all__ = [
    "MISSING",
    "NOT_ARGUMENTS",
    "OTHERWISE",
    "SECTOR",
    "Access",
    "Grid",
    "Product",
    "Program",
    "Run",
    "check",
    "launch",
    "record",
]

MISSING = (
    "Triton is not installed here. On Linux `make setup` brings it: run that, and restart the kernel. There is no "
    "Triton for macOS, and none for Windows itself: open the course in a dev container, or in WSL, where it is a Linux"
)
OTHERWISE = (
    "Triton was loaded before TRITON_INTERPRET was set, and compiles for a GPU now: restart the kernel, and let the "
    'cell with os.environ["TRITON_INTERPRET"] = "1" run first'
)


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
    return run_noted(kernel, grid, arguments, options)


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
            runs.append(run_noted(self, grid, arguments, options))

    before, InterpretedFunction.run = InterpretedFunction.run, run
    try:
        yield runs
    finally:
        InterpretedFunction.run = before
