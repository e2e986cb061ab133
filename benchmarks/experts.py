"""A mixture of experts against dense feed-forward parts, and against what others wrote, 8 experts, 2 a token.

The router is what it is at the start: how many tokens an expert gets is decided, not planned, and costs what it costs.
What others wrote takes a row only where it is installed: ``pip install transformers st-moe-pytorch``.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.race import Race, Ways, pays, race
from benchmarks.table import Case, Row
from dynlib.backbone import FeedForward
from dynlib.cost import count, timed
from dynlib.width import MixtureOfExperts

EXPERTS, K, CAPACITY = 8, 2, 1.25
SIZES = ((256, 4096), (256, 512), (96, 4096))  # features of a token, tokens
FEW = (16, 64, 256, 1024, 4096)  # tokens, to find where it pays
NARROW = (32, 64, 128, 256)  # features of a token, for the same
Step = Callable[[], Any]


def cases(*, quick: bool = False) -> list[Case]:
    """Against a dense part of equal FLOPs, and of equal parameters; where it pays; and against others' layers."""
    sizes = ((16, 64),) if quick else SIZES
    others = {"transformers": _mixtral, "st_moe_pytorch": _st_moe}
    return [
        *((f"experts, dim {dim}, {tokens} tokens", partial(_row, dim, tokens, K, quick)) for dim, tokens in sizes),
        (f"experts against {EXPERTS} in one", partial(_row, *sizes[0], EXPERTS, quick)),
        ("experts, how many tokens", partial(_pays_by_tokens, quick)),
        ("experts, how wide", partial(_pays_by_dim, quick)),
        *((f"experts against {name}", partial(row, quick)) for name, row in others.items() if find_spec(name)),
    ]


@torch.inference_mode()
def _race(dim: int, tokens: int, as_wide_as: int, *, repeats: int = 15) -> Race:
    """Against one dense feed-forward part that has as many neurons as some of the experts together."""
    torch.manual_seed(0)
    ours = MixtureOfExperts(dim, EXPERTS, k=K).eval()
    dense = FeedForward(dim, as_wide_as * ours.hidden).eval()
    x = torch.randn(tokens, dim, generator=torch.Generator().manual_seed(0))

    def run(model: nn.Module, chunk: int) -> Tensor:
        return torch.cat([model(part) for part in x.split(chunk)])

    def ways(model: nn.Module) -> Ways:
        chunks = sorted({max(tokens // parts, 1) for parts in (16, 4, 1)})
        return {f"{chunk} tokens at a time": partial(run, model, chunk) for chunk in chunks}

    return race(ways(ours), ways(dense), repeats=repeats)


def _row(dim: int, tokens: int, as_wide_as: int, quick: bool) -> Row:
    run = _race(dim, tokens, as_wide_as, repeats=7 if quick else 15)
    peer = "as many FLOPs" if as_wide_as == K else "as many parameters"
    return run.row(f"experts, {K} of {EXPERTS}, gathered", _size(dim, tokens), note=f"dense with {peer}")


def _pays_by_tokens(quick: bool) -> Row:
    dim, tokens = (16, FEW[:2]) if quick else (256, FEW)
    return pays(
        f"experts, {K} of {EXPERTS}, dense with as many parameters",
        _size(dim, f"{tokens[0]} to {tokens[-1]}"),
        "tokens",
        tokens,
        lambda number: _race(dim, number, EXPERTS, repeats=7),
    )


def _pays_by_dim(quick: bool) -> Row:
    tokens, dims = (64, NARROW[:2]) if quick else (4096, NARROW)
    return pays(
        f"experts, {K} of {EXPERTS}, dense with as many FLOPs",
        _size(f"{dims[0]} to {dims[-1]}", tokens),
        "dim",
        dims,
        lambda dim: _race(dim, tokens, K, repeats=7),
    )


def _size(dim: object, tokens: object) -> str:
    return f"one layer, dim {dim}, {tokens} tokens"


def _there_and_back(layer: nn.Module, x: Tensor) -> Step:
    """Forward and backward, the gradients of the tokens and of all weights; a layer may give more than its tokens."""
    x = x.clone().requires_grad_()
    learns = [x, *layer.parameters()]

    def step() -> None:
        out = layer(x)
        out = out if isinstance(out, Tensor) else out[0]
        torch.autograd.grad(out.sum(), learns, allow_unused=True)

    return step


def _mixtral(quick: bool) -> Row:
    """Gated experts, renormalised, with the same weights in both."""
    dim, tokens = (16, 64) if quick else (256, 4096)
    mixtral = import_module("transformers.models.mixtral.modeling_mixtral")
    config = mixtral.MixtralConfig(
        hidden_size=dim, intermediate_size=4 * dim, num_local_experts=EXPERTS, num_experts_per_tok=K
    )
    config._experts_implementation = "eager"
    theirs = mixtral.MixtralSparseMoeBlock(config)
    ours = MixtureOfExperts(dim, EXPERTS, k=K, renormalise=True, gated=True, bias=False)
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router.weight)
        theirs.experts.gate_up_proj.copy_(torch.cat([ours.gate_weight, ours.expand_weight], dim=1))
        theirs.experts.down_proj.copy_(ours.contract_weight)
    return _against("transformers' Mixtral block, eager", ours, theirs, _tokens(tokens, dim), quick)


def _st_moe(quick: bool) -> Row:
    """Gated experts with as many neurons and places: it always has a capacity, for each sequence, without k in it."""
    dim, tokens = (16, 64) if quick else (256, 4096)
    package = import_module("st_moe_pytorch")
    theirs = package.MoE(
        dim,
        num_experts=EXPERTS,
        gating_top_n=K,
        expert_hidden_mult=6,  # of which it takes two thirds
        capacity_factor_train=CAPACITY * K,
    )
    ours = MixtureOfExperts(dim, EXPERTS, k=K, renormalise=True, gated=True, capacity=CAPACITY)
    return _against(f"st-moe-pytorch, capacity {CAPACITY}", ours, theirs, _tokens(tokens, dim), quick)


def _tokens(tokens: int, dim: int) -> Tensor:
    return torch.randn(4, tokens // 4, dim, generator=torch.Generator().manual_seed(0))


def _against(name: str, ours: nn.Module, theirs: nn.Module, x: Tensor, quick: bool) -> Row:
    steps = _there_and_back(ours, x), _there_and_back(theirs, x)
    timing = timed(*steps, repeats=7 if quick else 15, warmup=1)
    share, low, high = timing.ratio(0, 1)
    few, all_ = (count(step).flops for step in steps)
    return Row(
        mechanism=f"experts, {K} of {EXPERTS}, gathered, there and back",
        size=f"one layer, dim {x.shape[-1]}, {x.shape[0] * x.shape[1]} tokens",
        peer=name,
        flops_share=few / all_,
        time_share=share,
        interval=(low, high),
        note=" and ".join(f"{1e3 * seconds:.3g} ms" for seconds in timing.seconds),
    )
