"""Real text that every Python carries: the documentation behind ``help()``, by topic.

``pydoc_data.topics`` holds some eighty pages of the language reference, about half a million characters. Many pages
repeat parts of others ("specialnames" holds all of "customization"), so the topics to test with are chosen by hand:
each is written in its own words, and a test holds that against the text. A page that another Python adds is trained
on.
"""

from functools import cache
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from dynlib.inputs import check_tensor

Unit = Literal["bytes", "characters"]

TEST_TOPICS = frozenset({"calls", "comparisons", "import", "in", "strings", "typesmapping"})


@cache
def _pages() -> dict[str, str]:
    from pydoc_data.topics import topics as pages

    return dict(sorted(pages.items()))


def topics(split: Literal["train", "test"] = "train") -> dict[str, str]:
    """Topic names and their text: some nine tenths of the text to train on, :data:`TEST_TOPICS` to test with.

    Raises:
        ValueError: for a split of another name.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    return {name: text for name, text in _pages().items() if (name in TEST_TOPICS) == (split == "test")}


def text(split: Literal["train", "test"] = "train") -> str:
    """The topics of a split as one text, pages in the order of their names, an empty line between two.

    Raises:
        ValueError: for a split of another name.
    """
    return "\n\n".join(topics(split).values())


@cache
def alphabet() -> str:
    """Every character that occurs in the topics, in order: the vocabulary of ``unit="characters"``."""
    return "".join(sorted(set("".join(_pages().values()))))


def encode(text: str, *, unit: Unit = "bytes") -> Int[Tensor, " tokens"]:
    """Text to token numbers: its UTF-8 bytes (0 … 255), or the places of its characters in :func:`alphabet`.

    Raises:
        TypeError: if the text is no string.
        ValueError: for another unit, or a character that is not in the alphabet.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string; got {type(text).__name__}: bytes have .decode()")
    if unit == "bytes":
        return torch.tensor(list(text.encode()), dtype=torch.int64)
    if unit != "characters":
        raise ValueError(f"unit must be 'bytes' or 'characters'; got {unit!r}")
    places = {character: place for place, character in enumerate(alphabet())}
    strange = sorted(set(text) - places.keys())
    if strange:
        raise ValueError(f"these characters do not occur in the topics: {strange}; use unit='bytes' for any text")
    return torch.tensor([places[character] for character in text], dtype=torch.int64)


def decode(tokens: Int[Tensor, " tokens"], *, unit: Unit = "bytes") -> str:
    """Token numbers to text. Bytes that are no text show as �.

    Raises:
        TypeError: if the tokens are no tensor, or not whole numbers.
        ValueError: for another unit, or a number outside its vocabulary.
    """
    check_tensor(tokens, "tokens")
    if tokens.is_floating_point() or tokens.is_complex():
        raise TypeError(f"tokens must be whole numbers; got {tokens.dtype}: convert with .long()")
    if unit not in ("bytes", "characters"):
        raise ValueError(f"unit must be 'bytes' or 'characters'; got {unit!r}")
    size = 256 if unit == "bytes" else len(alphabet())
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
        raise ValueError(f"{unit} must lie in 0 … {size - 1}; got {int(tokens.min())} … {int(tokens.max())}")
    if unit == "bytes":
        return bytes(tokens.tolist()).decode(errors="replace")
    return "".join(alphabet()[token] for token in tokens.tolist())


def windows(
    tokens: Int[Tensor, " tokens"], count: int, length: int, *, generator: torch.Generator | None = None
) -> Int[Tensor, "count length"]:
    """``count`` stretches of ``length`` tokens from random places.

    Raises:
        TypeError: if the tokens are no tensor.
        ValueError: if the text is shorter than one stretch.
    """
    check_tensor(tokens, "tokens")
    if count < 1 or not 1 <= length <= len(tokens):
        raise ValueError(f"need count >= 1 and 1 <= length <= {len(tokens)} tokens; got {count} and {length}")
    drawn_on = tokens.device if generator is None else generator.device
    starts = torch.randint(len(tokens) - length + 1, (count, 1), generator=generator, device=drawn_on)
    return tokens[starts.to(tokens.device) + torch.arange(length, device=tokens.device)]
