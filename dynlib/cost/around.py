"""What stands around a count: other threads, which PyTorch's modes do not reach, and compiled code, which they break.

A mode of PyTorch is a thread's own. :func:`followed` lets work that is given to another thread take something along: a
``threading.Thread`` that is started, a call that a ``ThreadPoolExecutor`` or ``multiprocessing.pool.ThreadPool`` gets,
also one whose threads have been there for long. While somebody is followed, the methods that give work are replaced,
and compiled functions run as they were before they were compiled: TorchDynamo gives a function up for good that it
meets under a mode.
"""

import multiprocessing.pool
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from multiprocessing.pool import ThreadPool
from typing import Any, NamedTuple

import torch
from torch import nn

Around = Callable[[], AbstractContextManager[Any]]

_here = threading.local()
_lock = threading.Lock()
_followed: list["_Followed"] = []
_undo = ExitStack()


class _Followed(NamedTuple):
    around: Around
    parts: frozenset[int]
    missed: list[str]


@contextmanager
def followed(around: Around, module: nn.Module | None = None) -> Iterator[list[str]]:
    """Work that this thread gives to another one meanwhile runs inside of ``around()`` there, and so on from there.

    What it gives is a list, to which is written what part of ``module`` was called in a thread where nobody is.
    """
    parts = frozenset(id(part) for part in module.modules()) if module is not None else frozenset()
    here = _Followed(around, parts, [])
    with _lock:
        if not _followed:
            _undo.push(_change())
        _followed.append(here)
    try:
        with _within((around,)):
            yield here.missed
    finally:
        with _lock:
            _followed[:] = [other for other in _followed if other is not here]
            if not _followed:
                _undo.close()


def _arounds() -> tuple[Around, ...]:
    return getattr(_here, "arounds", ())


@contextmanager
def _within(more: tuple[Around, ...]) -> Iterator[None]:
    before = _arounds()
    _here.arounds = before + more
    try:
        yield
    finally:
        _here.arounds = before


def _carried(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, to be called in another thread inside of what this one is in."""
    arounds = _arounds()

    @wraps(function, updated=())
    def run(*args: Any, **kwargs: Any) -> Any:
        new = tuple(around for around in arounds if around not in _arounds())
        with ExitStack() as stack:
            for around in new:
                stack.enter_context(around())
            stack.enter_context(_within(new))
            return function(*args, **kwargs)

    return run


def _change() -> ExitStack:
    """Replace what gives work to threads, and let compiled functions run uncompiled; what undoes it."""

    def start(original: Callable[..., Any], thread: threading.Thread) -> Any:
        of_a_pool = getattr(getattr(thread, "_target", None), "__module__", "") == "multiprocessing.pool"
        if _arounds() and not of_a_pool:  # those wait for work, of which each piece is carried
            thread.run = _carried(thread.run)  # type: ignore[method-assign]
        return original(thread)

    def call(original: Callable[..., Any], part: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not _arounds():
            for followed in _followed:
                if id(part) in followed.parts:
                    followed.missed.append(type(part).__name__)
        return original(part, *args, **kwargs)

    def give(original: Callable[..., Any], pool: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not _arounds() or not isinstance(pool, ThreadPoolExecutor | ThreadPool):  # processes are out of reach
            return original(pool, function, *args, **kwargs)
        carried = _carried(function)
        before, _here.arounds = _arounds(), ()  # a thread that the pool starts just now outlives the work
        try:
            return original(pool, carried, *args, **kwargs)
        finally:
            _here.arounds = before

    places: list[tuple[type, str, Callable[..., Any]]] = [
        (nn.Module, "__call__", call),  # and no hook: modules ask for those, and take other ways where there is one
        (threading.Thread, "start", start),
        (ThreadPoolExecutor, "submit", give),
        *((multiprocessing.pool.Pool, name, give) for name in ("apply_async", "_map_async", "imap", "imap_unordered")),
    ]
    stack = ExitStack()
    for owner, name, replacement in places:
        _replace(stack, owner, name, replacement)
    if "torch._dynamo" in sys.modules:
        stack.push(torch.compiler.set_stance("force_eager"))  # from now on
    else:
        stack.callback(_forget)  # loading it takes a second
    return stack


def _replace(stack: ExitStack, owner: type, name: str, replacement: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    @wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return replacement(original, self, *args, **kwargs)

    def undo() -> None:
        if getattr(owner, name) is method:  # else somebody else replaced ours, and would not find it
            setattr(owner, name, original)

    setattr(owner, name, method)
    stack.callback(undo)


def _forget() -> None:
    if "torch._dynamo" in sys.modules:  # something was compiled meanwhile, and given up
        torch._dynamo.reset()
