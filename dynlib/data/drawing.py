"""What all that is drawn here shares: two splits, and random numbers that are the same on every machine, for good."""

from typing import Literal, get_args

import numpy as np

from dynlib.inputs import check_name, check_whole

Split = Literal["train", "test"]
SPLITS = get_args(Split)


def random_of(split: Split, seed: int) -> np.random.RandomState:
    """Random numbers of a split and a seed: no seed of one split gives those of the other.

    ``RandomState``'s stream is frozen for good, which no newer generator promises.

    Raises:
        TypeError: if the seed is no int.
        ValueError: if the split has another name, or the seed is not one of 0 … 2³² − 1.
    """
    check_name("split", split, SPLITS)
    return np.random.RandomState([SPLITS.index(split), check_seed(seed)])


def check_seed(seed: object) -> int:
    """The seed, if it is one that ``RandomState`` takes.

    Raises:
        TypeError: if it is no int.
        ValueError: if it is not one of 0 … 2³² − 1.
    """
    number = check_whole("seed", seed)
    if not 0 <= number < 2**32:
        raise ValueError(f"seed must be one of 0 … 2³² - 1; got {seed}")
    return number
