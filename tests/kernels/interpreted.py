"""What the kernels compute, in Triton's interpreter: ``TRITON_INTERPRET=1 pytest tests/kernels/interpreted.py``.

:mod:`tests.kernels.test_acm` runs this in a Python of its own, as Triton reads that variable when it is loaded.
"""

import math

import pytest
import torch
from torch import Tensor

from dynlib.deciding import setting
from dynlib.kernels import acm as kernels
from dynlib.kernels import acm_forward, fuse
from dynlib.width import AdaptiveComputationModule
from dynlib.width.acm import gathered

SMALL = {"rows": 16, "columns": 16, "inner": 16}
NEAR = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def make(
    tokens: int, dim: int = 24, each: int = 10, out: int = 17, learners: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Tokens and weights; sizes that are no multiples of a block."""
    draw = torch.Generator().manual_seed(0)
    hidden = each * learners
    z, w, b, v = (
        scale * torch.randn(*shape, generator=draw, dtype=torch.float64)
        for shape, scale in [
            ((tokens, dim), 1),
            ((hidden, dim), dim**-0.5),
            ((hidden,), 1),
            ((hidden, out), hidden**-0.5),
        ]
    )
    return z.to(dtype), (w.to(dtype), b.to(dtype), v.to(dtype))


def drawn(tokens: int, learners: int = 4, seed: int = 1) -> Tensor:
    return torch.randint(learners + 1, (tokens,), generator=torch.Generator().manual_seed(seed))


def agree(z: Tensor, k: Tensor, weights: tuple[Tensor, ...], *, each: int = 10, blocks: dict[str, int] = SMALL) -> None:
    """The kernels give what the gathered execution gives in float64, up to the number type's rounding."""
    mine = acm_forward(z, k, *weights, each=each, blocks=blocks)
    theirs = gathered(z.double(), k, *(one.double() for one in weights), each=each)
    assert mine.dtype == z.dtype
    near = NEAR[z.dtype]
    torch.testing.assert_close(mine.double(), theirs, rtol=near, atol=near)


def test_triton_interprets_here() -> None:
    assert kernels.interpreted
    assert kernels.why_not("cpu") is None


@pytest.mark.parametrize("dtype", NEAR)
def test_the_kernels_are_the_gathered_execution(dtype: torch.dtype) -> None:
    z, weights = make(50, dtype=dtype)
    agree(z, drawn(50), weights)


@pytest.mark.parametrize("seed", range(3))
def test_for_any_k(seed: int) -> None:
    z, weights = make(41)
    agree(z, drawn(41, seed=seed), weights)


@pytest.mark.parametrize(
    ("dim", "each", "out", "learners"), [(16, 16, 16, 2), (5, 3, 1, 4), (33, 40, 20, 1), (1, 1, 40, 7)]
)
def test_for_any_size(dim: int, each: int, out: int, learners: int) -> None:
    z, weights = make(19, dim, each, out, learners)
    agree(z, drawn(19, learners), weights, each=each)


@pytest.mark.parametrize("k", [0, 1, 4])
@pytest.mark.parametrize("tokens", [1, 16, 33])
def test_for_tokens_that_all_run_alike(tokens: int, k: int) -> None:
    z, weights = make(tokens)
    agree(z, torch.full((tokens,), k), weights)


def test_for_the_blocks_that_a_gpu_gets() -> None:
    z, weights = make(70, dtype=torch.float32)
    agree(z, drawn(70), weights, blocks={})


def test_for_no_tokens() -> None:
    z, weights = make(0)
    assert acm_forward(z, drawn(0), *weights, each=10).shape == (0, 17)


def test_for_tensors_that_do_not_lie_in_one_piece_and_a_small_whole_number() -> None:
    z, (w, b, v) = make(30)
    apart = z.T.contiguous().T
    k = drawn(60).to(torch.int32)[::2]
    agree(apart, k, (w.T.contiguous().T, b, v.T.contiguous().T))
    assert not apart.is_contiguous()


def test_learners_that_nobody_runs_are_not_read_into_the_result() -> None:
    z, (w, b, v) = make(30)
    k = drawn(30).clamp_max(2)
    whole = acm_forward(z, k, w, b, v, each=10, blocks=SMALL)
    for weight in (w, b, v):
        weight[20:] = math.nan
    assert torch.equal(acm_forward(z, k, w, b, v, each=10, blocks=SMALL), whole)


def test_a_token_does_not_depend_on_the_others() -> None:
    z, weights = make(40)
    k = drawn(40)
    whole = acm_forward(z, k, *weights, each=10, blocks=SMALL)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    mixed = acm_forward(z[order], k[order], *weights, each=10, blocks=SMALL)
    torch.testing.assert_close(mixed, whole[order], rtol=0, atol=1e-13)


def test_a_model_that_is_fused_gives_what_it_gave() -> None:
    torch.manual_seed(0)
    layer = AdaptiveComputationModule(16, 32, out=8, least=0).double().eval()
    z = torch.randn(3, 11, 16, dtype=torch.float64)
    with torch.no_grad():
        before = layer(z)
        assert fuse(layer).execution == "fused"
        torch.testing.assert_close(layer(z), before, rtol=0, atol=1e-12)
        with setting(layer, AdaptiveComputationModule, price=100):
            assert (layer(z) == 0).all()
    assert layer.train()(z).requires_grad  # training is never fused
