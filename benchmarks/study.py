"""What the studies share: the file of results, which grows while they run.

A study trains or measures for longer than a reader would wait. It is a module with a ``main``, run by
``python -m benchmarks.NAME``, and leaves a JSON file beside it, which a lecture reads. It keeps its :class:`Results` in
that file as it goes, so that it can be interrupted: called again, it goes on where it was.
"""

import argparse
import json
import platform
import re
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm


def head(study: str, *packages: str) -> dict[str, Any]:
    """The first entries of a file: the command that makes it, and the versions that it was made with."""
    versions = {name: version(name) for name in ("torch", *packages)}
    return {"made by": f"python -m benchmarks.{study}", "versions": {"python": platform.python_version(), **versions}}


def checkpoint_folder(study: str, about: str | None, folder: str = "checkpoints") -> Path:
    """Read the command line of a study that trains and takes no other option: where its half-trained models wait.

    Args:
        study: its module.
        about: what ``--help`` says of it.
        folder: what is taken where none is given.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{study}", description=about)
    parser.add_argument("--checkpoints", type=Path, default=Path(folder), help="where half-trained models wait")
    given: Path = parser.parse_args().checkpoints
    return given


def rounded(results: Any, *, digits: int = 4) -> Any:
    """The same as it will be read from a file: floats rounded, tuples as lists."""
    return json.loads(json.dumps(results), parse_float=lambda number: round(float(number), digits))


def write(path: Path, results: dict[str, Any], *, digits: int = 4) -> None:
    """Write results, rounded; a list or a dictionary of plain values takes one line."""
    text = json.dumps(rounded(results, digits=digits), indent=1)
    flat = re.sub(r"[\[{][^][{}]+[]}]", lambda part: " ".join(part[0].split()), text)
    path.write_text(flat + "\n", encoding="utf-8")


class Results:
    """A file of results that a study fills, part by part. A part that the file holds is not made again.

    Args:
        path: the file.
        made: its first entries: :func:`head`, and all settings that the results depend on.
        digits: to which floats are rounded.
        summary: more entries, made from the rows under "runs".
    """

    def __init__(
        self,
        path: Path,
        made: dict[str, Any],
        *,
        digits: int = 4,
        summary: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
    ) -> None:
        self.path, self.made, self.digits, self._summary = path, rounded(made, digits=digits), digits, summary
        self.found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self._is_ours = all(self.found.get(key) == value for key, value in self.made.items())

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What the file holds under a name; if it holds nothing, ``make()`` is called and written.

        Raises:
            ValueError: if something is to be made, and the file is of other settings or versions.
        """
        if name not in self.found:
            self._check()
            self._write({name: make()})
        return self.found[name]

    def sweep(
        self,
        plan: Iterable[dict[str, Any]],
        run: Callable[..., dict[str, Any] | list[dict[str, Any]]],
        *,
        name: str = "runs",
    ) -> list[dict[str, Any]]:
        """One row, or several, for each case of a plan; the file is written after each case.

        A case is the arguments of ``run``, such as ``{"arm": "learned", "seed": 0}``, and stands in its rows before
        what ``run`` gives. It is not run again if the file has a row of it.

        Args:
            plan: the cases, in the order in which they are run.
            run: called with a case by keyword; gives what was found, one row or a list of rows.
            name: under which the rows stand in the file.

        Raises:
            ValueError: if there is something to run, and the file is of other settings or versions.
        """
        rows: list[dict[str, Any]] = self.found.get(name, [])
        todo = [case for case in plan if not any(_is_of(case, row) for row in rows)]
        for case in tqdm(todo, desc=name):
            self._check()
            found = run(**case)
            rows = [*rows, *({**case, **row} for row in (found if isinstance(found, list) else [found]))]
            self._write({name: rows})
        return self.found.get(name, rows)

    def _check(self) -> None:
        if self.found and not self._is_ours:
            differing = [key for key, value in self.made.items() if self.found.get(key) != value]
            raise ValueError(f"{self.path} was made with other {', '.join(differing)}: delete it to start again")

    def _write(self, more: dict[str, Any]) -> None:
        found = {**self.made, **self.found, **more}
        if self._summary is not None and "runs" in found:
            found |= self._summary(found["runs"])
        runs = {"runs": found.pop("runs")} if "runs" in found else {}  # the longest comes last
        self.found, self._is_ours = rounded({**found, **runs}, digits=self.digits), True
        write(self.path, self.found, digits=self.digits)


def _is_of(case: dict[str, Any], row: dict[str, Any]) -> bool:
    return all(key in row and row[key] == value for key, value in case.items())
