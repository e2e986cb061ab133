"""The file of what was measured, which grows row by row, so that the benchmarks can be interrupted and go on."""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.study import write
from benchmarks.table import Row, Rows


def machine(device: str = "cpu") -> str:
    """What is measured on, in one line."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.system()}"


def versions() -> str:
    """With what."""
    return f"Python {platform.python_version()}, torch {torch.__version__}"


def _processor() -> str:
    """The name of the processor, as far as the system tells it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] not in ("", "unknown") else platform.machine()


class Kept:
    """Rows by case, device, machine and versions, in a JSON file; those of other machines stay in it.

    Args:
        path: the file; none, and nothing is kept.
        quick: whether these are rows of tiny sizes, which are kept apart.
    """

    def __init__(self, path: Path | None, *, quick: bool = False) -> None:
        self.path, self.quick = path, quick
        self.all: list[dict[str, Any]] = []
        if path is not None and path.exists():
            self.all = json.loads(path.read_text(encoding="utf-8"))["measured"]

    def rows(self, case: str, device: str) -> list[Row] | None:
        """What is there of a case; None if it is to be measured."""
        found = self._part(device)["rows"].get(case)
        rows = None if found is None else [_row(one) for one in found]
        return None if rows is None or any(row.skipped for row in rows) else rows

    def shown(self, cases: Iterable[str], device: str) -> list[Row]:
        """All rows of these cases, in this order, those that say why nothing was measured too."""
        part = self._part(device)["rows"]
        return [_row(one) for case in cases for one in part.get(case, [])]

    def add(self, case: str, device: str, rows: Rows) -> None:
        """Keep the rows of a case in the place of those from before."""
        rows = [rows] if isinstance(rows, Row) else rows
        part = self._part(device)
        part["rows"][case] = [_short(row) for row in rows]
        if part not in self.all:
            self.all.append(part)
        if self.path is not None:  # by another name first: an interruption leaves one whole file
            new = self.path.with_suffix(".new")
            write(new, {"made by": "python -m benchmarks", "measured": self.all}, digits=6)
            new.replace(self.path)

    def _part(self, device: str) -> dict[str, Any]:
        of = {"machine": machine(device), "versions": versions(), "device": device, "quick": self.quick}
        found = [part for part in self.all if all(part.get(key) == value for key, value in of.items())]
        return found[0] if found else {**of, "rows": {}}


def _short(row: Row) -> dict[str, Any]:
    blank = asdict(Row(mechanism="", size=""))
    return {key: value for key, value in asdict(row).items() if value != blank[key]}


def _row(kept: dict[str, Any]) -> Row:
    cells: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}
    return Row(**cells)
