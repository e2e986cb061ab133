"""What is written down of a kernel: a run, its programs, what each loads and stores, and the products that it forms."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SECTOR = 32
"""Bytes that a GPU's memory moves at least, an aligned piece of so many."""


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


def _bytes(accesses: list[Access], stored: bool, names: tuple[str, ...]) -> int:
    return sum(one.bytes for one in accesses if one.stored == stored and (not names or one.argument in names))
