"""What models of the zoo are judged by."""

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dynlib.data import encode
from dynlib.data import text as text_of

WINDOW = 128
"""Bytes that the small language models read at a time."""


@torch.no_grad()
def bits_per_character(model: nn.Module, text: str, *, context: int = 256) -> float:
    """Mean cost of a character of ``text``, each byte predicted from at least half a ``context`` of those before it.

    The first byte of all has nothing before it and is not counted.

    Raises:
        ValueError: if ``context`` is less than two bytes, or ``text`` has no second byte to predict.
    """
    tokens = encode(text)
    if context < 2 or len(tokens) < 2:
        raise ValueError(f"need a context of at least 2 bytes and a text of as many; got {context} and {len(tokens)}")
    half, nats = context // 2, 0.0
    for start in tqdm(range(0, len(tokens) - 1, half), leave=False, desc="bits per character"):
        window = tokens[max(0, start - half) : start + half + 1]
        fresh = len(tokens[start : start + half + 1]) - 1
        logits = model(window[None, :-1])[0, -fresh:]
        nats += F.cross_entropy(logits, window[-fresh:], reduction="sum").item()
    return nats / math.log(2) / len(text)


def window_bits(model: nn.Module) -> float:
    """Bits per character of the test text, cut into windows of 128 bytes of which each is read alone."""
    text = text_of("test")
    tokens = encode(text)
    rows = tokens[: (len(tokens) - 1) // WINDOW * WINDOW].view(-1, WINDOW)
    after = tokens[1 : rows.numel() + 1].view(-1, WINDOW)
    nats = 0.0
    for row, target in zip(rows.split(64), after.split(64), strict=True):
        nats += F.cross_entropy(model(row).flatten(0, 1), target.flatten(), reduction="sum").item()
    return nats / math.log(2) / rows.numel() * len(tokens) / len(text)


def digit_patches(masks: Bool[Tensor, "n size size"], patch: int = 4) -> Bool[Tensor, "n patches"]:
    """Which patches the digit has ink in."""
    return F.max_pool2d(masks[:, None].float(), patch).flatten(1) > 0


def depth_auc(depth: Int[Tensor, "*some"], digit: Bool[Tensor, "*some"]) -> float:
    """P(depth of a digit's patch > depth of another) + ½ P(the same), over all pairs of one and the other: exact.

    Raises:
        ValueError: if there are no patches of one kind.
    """
    most = int(depth.max()) + 1
    ours, others = (torch.bincount(depth[some], minlength=most).cpu().double() for some in (digit, ~digit))
    if ours.sum() == 0 or others.sum() == 0:
        raise ValueError(f"need patches of both kinds; got {int(ours.sum())} of the digit and {int(others.sum())}")
    below = others.cumsum(0) - others
    return ((ours * (below + others / 2)).sum() / (ours.sum() * others.sum())).item()
