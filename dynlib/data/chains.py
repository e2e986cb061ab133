"""Pointers to follow: names that point to names, in chains, and each chain's end points to itself.

Where a name's chain ends cannot be seen from the name: one has to follow it, hop by hop, and how many hops it takes is
how difficult the name is. A network that looks up one name a layer needs depth. One that asks "and where does that one
point?" of all names at once can double its reach with every layer, ⌈log₂(hops)⌉ layers in all.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dynlib.data.drawing import Split, random_of
from dynlib.inputs import check_whole


@dataclass(frozen=True)
class Chains:
    """Names in any order, what each points to, and where its chain ends."""

    names: Int[Tensor, "n names"]
    """0 … names − 1, each once, in random order."""
    points_to: Int[Tensor, "n names"]
    """The name that each of them points to; itself at the end of a chain."""
    ends: Int[Tensor, "n names"]
    """The name at the end of each one's chain."""
    hops: Int[Tensor, "n names"]
    """How far away that is; 0 for the end itself."""

    def __len__(self) -> int:
        return len(self.names)


def chains(count: int, *, names: int = 20, ends: int = 4, split: Split = "train", seed: int = 0) -> Chains:
    """Names in chains of random lengths. The same seed gives the same bytes.

    All ways to cut the names into so many chains are equally likely. More samples of a seed begin with those of fewer.

    Args:
        count: how many samples.
        names: of each sample.
        ends: chains of each sample, 1 … names.
        split: train and test samples come from different random numbers, whatever the seeds.
        seed: of the draw.

    Raises:
        TypeError: if a number is no int.
        ValueError: if one is out of bounds, the split has another name, or the seed is not one of 0 … 2³² − 1.
    """
    check_whole("count", count, least=1)
    check_whole("names", names, least=1)
    check_whole("ends", ends, least=1, most=names, what="chains, at most one for each name")
    # All is drawn sample by sample.
    random = random_of(split, seed)
    drawn = random.randint(2**32, size=(count, 3 * names - 1), dtype=np.uint32)
    called, cuts, order = (part.argsort(1, kind="stable") for part in np.split(drawn, [names, 2 * names - 1], axis=1))
    # names lie in a row, each points to the one on its left, and a chain begins at place 0 and after each cut
    place = np.arange(names)[None].repeat(count, 0)
    first = np.zeros((count, names), dtype=np.int64)
    np.put_along_axis(first, cuts[:, : ends - 1] + 1, cuts[:, : ends - 1] + 1, axis=1)
    end = np.maximum.accumulate(first, axis=1)
    left = np.where(place == end, place, place - 1)
    parts = (called, *(np.take_along_axis(called, where, axis=1) for where in (left, end)), place - end)
    return Chains(*(torch.from_numpy(np.take_along_axis(part, order, axis=1)) for part in parts))
