"""Needles in noise: a question, the few tokens that can answer it, and many that say nothing.

A sequence begins with a question, which names a slot. At random places stand the needles: each holds a slot and a
value, no slot twice. All else is noise. The label is the value in the slot that is asked for, so that one needle of
several matters, and which one depends on the question. No place tells anything of what stands there; only the token
does. So who spends much on every token wastes nearly all of it, and who picks tokens by their place misses the needles.

Of tokens there are :data:`VOCABULARY`: first the questions, one for each slot, then the needles, slot by slot, then the
kinds of noise.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dynlib.data.drawing import Split, random_of
from dynlib.inputs import check_whole

SLOTS, VALUES, NOISE = 8, 8, 64
"""How many slots, values in a slot, and kinds of noise there are."""

VOCABULARY = SLOTS + SLOTS * VALUES + NOISE
"""How many tokens: a question is its slot, a needle ``SLOTS + VALUES * slot + value``, noise the rest."""


@dataclass(frozen=True)
class Needles:
    """Sequences with their labels, and what a network is not told about them."""

    tokens: Int[Tensor, "n length"]
    """From 0 to ``VOCABULARY`` - 1; the first of each sequence is the question."""
    labels: Int[Tensor, " n"]
    """The value in the slot that is asked for."""
    masks: Bool[Tensor, "n length"]
    """True on the needles."""
    places: Int[Tensor, " n"]
    """Where the needle stands that answers the question."""

    def __len__(self) -> int:
        return len(self.tokens)


def needles(count: int, *, length: int = 128, needles: int = 8, split: Split = "train", seed: int = 0) -> Needles:
    """A question and some needles at random places in noise. The same seed gives the same bytes.

    More sequences of a seed begin with those of fewer.

    Args:
        count: how many sequences.
        length: tokens of each, the question included.
        needles: of each, from 1 to as many as there are slots.
        split: train and test sequences come from different random numbers, whatever the seeds.
        seed: of the draw.

    Raises:
        TypeError: if a number is no int.
        ValueError: if ``count`` is less than 1, there are no needles, more than slots, or more than the sequence has
            room for, the split has another name, or the seed is not one of 0 … 2³² − 1.
    """
    check_whole("count", count, least=1)
    check_whole("needles", needles)
    check_whole("length", length)
    if not 1 <= needles <= SLOTS:
        raise ValueError(f"needles must be from 1 to {SLOTS}, one for each slot; got {needles}")
    if length < needles + 1:
        raise ValueError(
            f"length must be at least {needles + 1} to hold the question and {needles} needles; got {length}"
        )
    # All is drawn sequence by sequence.
    random = random_of(split, seed)
    sizes = [length, length - 1, SLOTS, needles, 1]
    drawn = random.randint(2**32, size=(count, sum(sizes)), dtype=np.uint32).astype(np.int64)
    noise, place, slot, value, ask = np.split(drawn, np.cumsum(sizes)[:-1], axis=1)
    places = 1 + place.argsort(1, kind="stable")[:, :needles]
    slots = slot.argsort(1, kind="stable")[:, :needles]
    values = value % VALUES
    asked = ask % needles
    tokens = SLOTS + SLOTS * VALUES + noise % NOISE
    np.put_along_axis(tokens, places, SLOTS + VALUES * slots + values, axis=1)
    tokens[:, :1] = np.take_along_axis(slots, asked, axis=1)
    masks = np.zeros(tokens.shape, dtype=bool)
    np.put_along_axis(masks, places, True, axis=1)
    labels, answers = (np.take_along_axis(each, asked, axis=1)[:, 0] for each in (values, places))
    return Needles(*map(torch.from_numpy, (tokens, labels, masks, answers)))
