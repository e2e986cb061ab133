"""What an image costs the channel: symbols of its tokens, and bits that say which tokens these are."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dynlib.inputs import check_number, check_tensor, check_whole


def side_bits(sent: int, tokens: int) -> int:
    """Bits that say which tokens are sent: ⌈log₂(n + 1)⌉ for their number k, and ⌈log₂ C(n, k)⌉ for the choice.

    Raises:
        TypeError, ValueError: if these are no whole numbers with 0 ≤ sent ≤ tokens.
    """
    check_whole("tokens", tokens, least=1)
    check_whole("sent", sent, least=0, most=tokens)
    return tokens.bit_length() + (math.comb(tokens, sent) - 1).bit_length()


def symbols_sent(sent: Bool[Tensor, "batch tokens"], symbols: int, snr: float | int | None) -> Float[Tensor, " batch"]:
    """Complex symbols of each image: those of its tokens, and those that say which tokens they are.

    The second are their :func:`side_bits` over log₂(1 + SNR), the bits a symbol that a channel carries at most that
    does not fade: a real code needs more of them. Without noise they are none.

    Args:
        sent: which tokens.
        symbols: complex symbols a token.
        snr: the signal-to-noise ratio in decibels; None for a channel without noise.

    Raises:
        TypeError, ValueError: if there are no tokens, ``symbols`` is below 1, or the ratio is no number.
    """
    check_tensor(sent, "sent")
    check_whole("symbols", symbols, least=1)
    counts = sent.sum(1)
    own = counts.double() * symbols
    if snr is None:
        return own
    # log₂(1 + SNR)
    rate = math.log1p(10 ** (check_number("snr", snr) / 10)) / math.log(2)
    bits = torch.tensor([side_bits(count, sent.shape[1]) for count in counts.tolist()], dtype=torch.float64)
    return own + (bits / rate).to(own.device)
