"""What a learner gave as Python and torch read it, and the classes that would read it otherwise.

The checks of :mod:`dynlib.checks` compare what an answer returns. An object of a class of the learner's own may say
that it equals everything: what it holds is read by the base type's own method (:func:`plain`), and such classes are
found (:func:`liars`).
"""

import os
import sys
import types
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def plain(value: Any) -> Any:
    """A value as Python and torch read it, whatever class of their own a learner gives it.

    A number, a text or a collection of a subclass becomes one of the base type, by that type's own method, and so do
    its parts: a float that says it equals everything is the number that it holds. A tensor comes without its graph.
    Whatever else there is comes as it is, a subclass of a tensor too: the checks take none but a parameter.
    """
    kind = type(value)
    if kind is Tensor or kind is nn.Parameter:
        return Tensor.detach(value)
    for base, read in _READ:
        if issubclass(kind, base):
            return read(value)
    return value


_READ: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (bool, lambda value: value),  # no class inherits from it
    (int, int.__int__),
    (float, float.__float__),
    (complex, complex.__complex__),
    (str, str.__str__),
    (list, lambda value: [plain(part) for part in list.__iter__(value)]),
    (tuple, lambda value: tuple(plain(part) for part in tuple.__iter__(value))),
    (dict, lambda value: {plain(key): plain(part) for key, part in dict.items(value)}),
    (set, lambda value: {plain(part) for part in set.__iter__(value)}),
    (frozenset, lambda value: frozenset(plain(part) for part in frozenset.__iter__(value))),
)
TRUTHS = frozenset([*(base for base, _ in _READ), Tensor, type(None)])
"""Types whose objects answer as Python and torch do."""


def liars() -> list[tuple[type, type, str]]:
    """The classes of a learner's that are numbers, texts, tensors or collections and answer for themselves.

    A condition such as ``got < 3`` asks the number: one of a subclass may say what it likes. It says so by a method in
    the place of its base's, so that a class that has one is found whatever object a check was given. What stands in
    files, such as packages, is not looked at, nor are methods that change no value, such as ``__repr__``.

    Returns:
        Each class, the type that it inherits from, and the first of its methods.
    """
    found = []
    for base in _BASES:
        own = _COLLECTED if base in (list, tuple, dict, set, frozenset) else _OWN[base]
        for number, kind in _below(base).items():
            if number not in _LIBRARY:
                space = type.__getattribute__(kind, "__dict__")
                name = next((name for name in space if name in own and not _in_a_file(space[name])), None)
                if name is not None and not _importable(kind):
                    found.append((kind, base, name))
    return found


def _below(base: type) -> dict[int, type]:
    """All classes below one, by their ids: a class may say itself what it equals."""
    seen: dict[int, type] = {}
    left = [base]
    while left:
        direct: list[type] = type.__subclasses__(left.pop())
        left += [kind for kind in direct if id(kind) not in seen]
        seen |= {id(kind): kind for kind in direct}
    return seen


_COLLECTED = frozenset(f"__{name}__" for name in "eq ne lt le gt ge len bool iter contains class getattribute".split())  # noqa: SIM905
_HARMLESS = frozenset(
    f"__{name}__"
    for name in (  # noqa: SIM905
        "new init doc module repr str hash format reduce reduce_ex dict weakref init_subclass subclasshook getnewargs "
        "dir sizeof getstate setstate deepcopy copy setattr delattr annotations slots match_args"
    ).split()
)


def _in_a_file(method: Any) -> bool:
    """Whether a method's code stands in a file, and not in a cell."""
    method = method.__func__ if isinstance(method, staticmethod | classmethod) else method
    return isinstance(method, types.FunctionType) and os.path.exists(method.__code__.co_filename)


def _importable(kind: type) -> bool:
    """Whether a module, other than the notebook, has this class under its name."""
    module = type.__getattribute__(kind, "__module__")
    found: Any = sys.modules.get(module) if type(module) is str and module != "__main__" else None
    for part in type.__getattribute__(kind, "__qualname__").split("."):
        found = getattr(found, part, None)
    return found is kind


_BASES = (Tensor, *(base for base, _ in _READ if base is not bool))
_OWN = {base: frozenset(dir(base)) - _HARMLESS for base in _BASES}
_LIBRARY = {number: kind for base in _BASES for number, kind in _below(base).items() if _importable(kind)}
