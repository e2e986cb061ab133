"""The window, with summaries beside it, against everybody with everybody and a mask; what both cost."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynlib.backbone import Attention, Block
from dynlib.cost import count
from dynlib.tokens.local_attention import LocalGlobalAttention, LocalGlobalBlock, local_attention

DIM, EXACT = 8, {"rtol": 0, "atol": 1e-10}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(window: int, span: int, *, heads: int = 2) -> LocalGlobalAttention:
    torch.manual_seed(1)
    return LocalGlobalAttention(DIM, heads, window=window, span=span).double()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("tokens", "window", "more"), [(20, 2, 3), (21, 4, 1), (9, 4, 2), (5, 9, 2), (12, 4, 5)])
def test_memory_is_seen_by_everybody_in_the_same_softmax(tokens: int, window: int, more: int, padded: bool) -> None:
    query, key, value = drawn(3, 2, 2, tokens, 3).unbind(0)
    memory = drawn(2, 2, 2, more, 3, seed=1).unbind(0)
    mask = torch.rand(2, tokens, generator=torch.Generator().manual_seed(2)) < 0.5 if padded else None
    place = torch.arange(tokens)
    near = ((place[:, None] - place).abs() <= window).expand(2, 1, tokens, tokens)
    near = near if mask is None else near & mask[:, None, None]
    keys, values = (torch.cat(parts, dim=2) for parts in zip((key, value), memory, strict=True))
    expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=F.pad(near, (0, more), value=True))
    got = local_attention(query, key, value, window, key_mask=mask, memory=memory)
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize(("tokens", "window", "span"), [(20, 3, 4), (21, 2, 4), (3, 5, 7)])
def test_summaries_are_normalised_sums_with_the_keys_and_values_of_the_layer(
    tokens: int, window: int, span: int
) -> None:
    layer, x = made(window, span), drawn(2, tokens, DIM, seed=3)
    sums = torch.stack([part.sum(1) for part in x.split(span, dim=1)], dim=1)
    both = torch.cat([x, layer.summary_norm(sums)], dim=1)
    query, key, value = layer._split(layer.query_key_value(both), 3)
    place = torch.arange(tokens)
    near = F.pad((place[:, None] - place).abs() <= window, (0, sums.shape[1]), value=True)
    mixed = F.scaled_dot_product_attention(query[:, :, :tokens], key, value, attn_mask=near)
    torch.testing.assert_close(layer(x), layer.output(mixed.transpose(1, 2).flatten(2)), **EXACT)


def test_it_costs_what_it_sees() -> None:
    layer, tokens, window, span = made(4, 8), 256, 4, 8
    more = tokens // span
    projections = 4 * tokens * DIM**2 + 2 * more * DIM**2
    assert count(layer, drawn(1, tokens, DIM)).flops == 2 * (projections + 2 * tokens * (3 * window + more) * DIM)


def test_the_block_has_a_gradient_everywhere_and_is_a_block() -> None:
    torch.manual_seed(0)
    block = LocalGlobalBlock(DIM, 2, window=2, span=4, hidden=12).double()
    assert isinstance(block, Block)
    assert isinstance(block.attention, Attention)
    block(drawn(2, 11, DIM)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in block.parameters())


@pytest.mark.usefixtures("as_users_run_it")
def test_what_does_not_fit_is_refused() -> None:
    for options, error in (({"window": 0}, ValueError), ({"window": 2, "span": 0}, ValueError)):
        with pytest.raises(error, match="at least 1"):
            LocalGlobalAttention(DIM, 2, **options)
    with pytest.raises(TypeError, match="span must be an int"):
        LocalGlobalAttention(DIM, 2, window=2, span=2.0)
    with pytest.raises(ValueError, match="key_mask"):
        made(2, 4)(drawn(1, 8, DIM), key_mask=torch.ones(1, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="tokens must be"):
        made(2, 4)(drawn(1, 8, DIM + 1))
