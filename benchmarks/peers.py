"""Packages that others wrote, to be compared with: a row for each, or one sentence where it is not installed.

The set-up brings entmax and transformers. ``make peers`` adds the others: the extra ``peers``, and two more that ask
for much which their models do not need. Without make:

    pip install -c constraints.txt -e '.[peers]'
    pip install -c constraints.txt --no-deps vit-pytorch tiny-recursive-model
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from benchmarks.table import Case, Row, Rows


def peer(
    mechanism: str,
    package: str,
    measure: Callable[[Any, str], Rows],
    *,
    module: str = "",
    extra: bool = True,
) -> Case:
    """The case of a mechanism against a package.

    Args:
        mechanism: what of ours.
        package: what pip installs it by.
        measure: called with the module, and the package's name with its version, for the rows.
        module: what is imported, if it is not named as the package. Of a package out of the extras only that.
        extra: whether it is in one of the extras.
    """
    module = module or package.replace("-", "_")
    return f"{mechanism} against {package}", partial(_measure, mechanism, package, measure, module, extra)


def _measure(mechanism: str, package: str, measure: Callable[[Any, str], Rows], module: str, extra: bool) -> Rows:
    if find_spec(module.split(".")[0]) is None:
        note = f"Skipped: {package} is not installed; `make peers` adds it, and with it this row."
        return Row(mechanism=mechanism, size="–", peer=package, note=note, skipped=True)
    if not extra:
        _without_front(module.split(".")[0])
    return measure(import_module(module), f"{package} {version(package)}")


def _without_front(name: str) -> None:
    """Import nothing of a package but what is asked for: a bare module stands in for its ``__init__``."""
    if name not in sys.modules:
        spec = find_spec(name)
        assert spec is not None
        front = ModuleType(name)
        front.__spec__ = spec  # else it could not be found again
        front.__path__ = list(spec.submodule_search_locations or [])
        sys.modules[name] = front
