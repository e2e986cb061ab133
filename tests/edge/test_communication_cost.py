"""dynlib.edge.communication_cost: the bits name every choice, and symbols carry them."""

import math
from typing import Any

import pytest
import torch

from dynlib.edge import side_bits, symbols_sent


def test_the_bits_name_every_choice() -> None:
    assert [side_bits(k, 4) for k in range(5)] == [3, 5, 6, 5, 3]
    for tokens in (1, 5, 65):
        for sent in range(tokens + 1):
            choices = math.comb(tokens, sent)
            assert 2 ** (side_bits(sent, tokens) - math.ceil(math.log2(tokens + 1))) >= choices
            assert side_bits(sent, tokens) - math.ceil(math.log2(tokens + 1)) == math.ceil(math.log2(choices))


def test_symbols_are_those_of_the_tokens_and_the_bits_over_what_a_symbol_carries() -> None:
    sent = torch.tensor([[True, False, False, False], [True, True, True, False]])
    assert symbols_sent(sent, 8, None).tolist() == [8.0, 24.0]
    assert symbols_sent(sent, 8, 0.0).tolist() == [8.0 + 5, 24.0 + 5]  # one bit a symbol at 0 dB
    faint = symbols_sent(sent, 8, -200.0).tolist()  # log₂(1 + x) = x / ln 2, and 1 + x is 1
    assert faint == pytest.approx([8 + 5 * math.log(2) * 1e20, 24 + 5 * math.log(2) * 1e20])
    assert symbols_sent(sent, 8, 10 * math.log10(3)).tolist() == pytest.approx([8 + 5 / 2, 24 + 5 / 2])


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: side_bits(5, 4), "sent must be 0 … 4"),
        (lambda: side_bits(-1, 4), "sent must be"),
        (lambda: symbols_sent(torch.ones(1, 4, dtype=torch.bool), 0, 3.0), "symbols must be at least 1"),
        (lambda: symbols_sent(torch.ones(1, 4, dtype=torch.bool), 2, math.inf), "snr must be finite"),
    ],
)
def test_counts_that_cannot_be_are_refused(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
