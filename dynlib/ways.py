"""What an answer's code uses: the names that it and its helpers import, call and read, with where they come from.

Some tasks ask for a way, not only for a result: "by the formula, without ``torch.autograd``". :func:`used` reads the
compiled code, so that another name for the same function, or a helper two cells above, hides nothing. It does not run
the code, and does not see through ``eval`` or ``getattr`` with a computed name.
"""

import dis
import functools
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_MISSING = object()


def used(answer: Any) -> set[str]:
    """The full names of all that the code of ``answer`` reaches: ``"torch.nn.functional.softmax"``.

    An attribute of something that is known only when the code runs is given by its name alone: ``".backward"``.

    Args:
        answer: a function, a class, or an instance of a class written in the notebook.
    """
    found: set[str] = set()
    seen: set[int] = set()
    pending = [answer]
    while pending:
        for function in _functions(pending.pop()):
            if id(function.__code__) in seen:
                continue
            seen.add(id(function.__code__))
            known = function.__globals__ | _closure(function)
            for code in _codes(function.__code__):
                for name, thing in _names(code, known):
                    found.add(name)
                    if getattr(thing, "__module__", None) == function.__module__:
                        pending.append(thing)
    return found


def _functions(thing: Any) -> Iterator[FunctionType]:
    if isinstance(thing, functools.partial):
        yield from _functions(thing.func)
    elif isinstance(thing, MethodType):
        yield from _functions(thing.__func__)
    elif isinstance(thing, FunctionType):
        yield thing
        if hasattr(thing, "__wrapped__"):
            yield from _functions(thing.__wrapped__)
    elif isinstance(thing, property):
        yield from (part for part in (thing.fget, thing.fset) if isinstance(part, FunctionType))
    elif isinstance(thing, staticmethod | classmethod):
        yield from _functions(thing.__func__)
    else:
        kind = thing if isinstance(thing, type) else type(thing)
        for base in kind.__mro__:
            if base.__module__ == kind.__module__ and base is not object:
                for part in vars(base).values():
                    if isinstance(part, FunctionType | staticmethod | classmethod | property):
                        yield from _functions(part)


def _closure(function: FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    known = {}
    for name, cell in cells:
        try:
            known[name] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    return known


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType, known: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each name with what it stands for, as far as that is known before the code runs."""
    local: dict[str, Any] = {}
    here: Any = _MISSING  # what the last instruction left, where that is known
    imported: Any = _MISSING
    for step in dis.get_instructions(code):
        name, does = step.argval, step.opname
        if does == "IMPORT_NAME":
            here = imported = sys.modules.get(name, _MISSING)
            yield name, here
        elif does == "IMPORT_FROM":
            here = getattr(imported, name, imported)
            yield _full(here), here
        elif does.startswith("LOAD_") and isinstance(name, str) and does.endswith(("GLOBAL", "NAME", "DEREF", "FAST")):
            here = local.get(name, _MISSING if does.endswith("FAST") else known.get(name, _MISSING))
            if here is not _MISSING:
                yield _full(here), here
        elif does in ("LOAD_ATTR", "LOAD_METHOD"):
            inside = isinstance(here, ModuleType | type)
            inner = getattr(here, name, _MISSING) if inside else _MISSING
            yield (f"{_full(here)}.{name}" if inside else f".{name}"), inner
            here = inner
            if here is not _MISSING:
                yield _full(here), here
        elif does.startswith("STORE_") and isinstance(name, str) and here is not _MISSING:
            local[name] = here
            here = _MISSING
        elif does not in ("CACHE", "PUSH_NULL", "COPY_FREE_VARS", "SWAP", "POP_TOP", "EXTENDED_ARG", "RESUME"):
            here = _MISSING


def _full(thing: Any) -> str:
    if isinstance(thing, ModuleType):
        return thing.__name__
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{getattr(kind, '__module__', None) or 'builtins'}.{kind.__qualname__}"
