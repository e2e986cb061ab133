"""A mixture of experts against dense feed-forward parts, and against what others wrote, 8 experts, 1 or 2 a token.

The router is what it is at the start: how many tokens an expert gets is decided, not planned, and costs what it costs.
The zoo has no model of experts: their quality is that of ``experts_study.json``, beside this file.
"""

import json
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.given import normal
from benchmarks.peers import peer
from benchmarks.race import Race, Step, against, compared, contest, pays
from benchmarks.table import Case, Row
from benchmarks.trained import pieces
from dynlib.backbone import FeedForward
from dynlib.deciding import setting
from dynlib.width import MixtureOfExperts

EXPERTS, K, CAPACITY = 8, 2, 1.25
BUDGETS = {"1 of 8": 1, "2 of 8": 2}
FEW = (16, 64, 256, 1024, 4096)  # tokens, to find where it pays


def cases(*, quick: bool = False) -> list[Case]:
    """Against a dense part of equal parameters, and of equal FLOPs; where it pays; and against others' layers."""
    dims, tokens = ((16,), 64) if quick else ((256, 96), 4096)
    return [
        *((f"experts, dim {dim}", partial(_rows, dim, tokens, quick)) for dim in dims),
        (f"experts against {K} in one", partial(_equal_flops, dims[0], tokens, quick)),
        ("experts, where it breaks even", partial(_pays, quick)),
        peer(
            "experts", "transformers", partial(_mixtral, quick), module="transformers.models.mixtral.modeling_mixtral"
        ),
        peer("experts", "st-moe-pytorch", partial(_st_moe, quick)),
    ]


@torch.inference_mode()
def _races(
    dim: int, tokens: int, budgets: dict[str, int], as_wide_as: int, *, masked: bool, repeats: int = 9
) -> dict[str, Race]:
    """Against one dense feed-forward part that has as many neurons as some of the experts together."""
    torch.manual_seed(0)
    ours = MixtureOfExperts(dim, EXPERTS, k=K).eval()
    dense = FeedForward(dim, as_wide_as * ours.hidden).eval()
    x = normal(tokens, dim)
    chunks = sorted({max(tokens // parts, 1) for parts in (16, 4)})

    def at(k: int, part: Tensor, execution: str = "gathered") -> Tensor:
        with setting(ours, MixtureOfExperts, k=k, execution=execution):
            return ours(part)

    return contest(
        {name: pieces(partial(at, k), x, *chunks) for name, k in budgets.items()},
        pieces(dense, x, *chunks),
        masked={name: partial(at, k, x, "masked") for name, k in budgets.items()} if masked else {},
        repeats=repeats,
    )


def _rows(dim: int, tokens: int, quick: bool) -> list[Row]:
    races = _races(dim, tokens, BUDGETS, EXPERTS, masked=True)
    aim = 1.0 if dim >= 256 else 0.9
    return [
        race.row(
            f"experts, {name} run",
            _size(dim, tokens),
            peer="dense, as many parameters",
            aim=aim,
            quality=_studied(BUDGETS[name]),
        )
        for name, race in races.items()
    ]


def _equal_flops(dim: int, tokens: int, quick: bool) -> Row:
    run = _races(dim, tokens, {"": K}, K, masked=False)[""]
    note = "this is what routing costs: nothing is saved against a part of the size that runs"
    return run.row(f"experts, {K} of {EXPERTS} run", _size(dim, tokens), peer="dense, as many FLOPs", note=note)


def _studied(k: int) -> str:
    """Bits per byte of the study's small models: of experts, and dense with as many parameters."""
    runs = json.loads(Path(__file__).with_name("experts_study.json").read_text(encoding="utf-8"))["runs"]
    ours, theirs = (
        mean(run["bits"] for run in runs if run["arm"] == arm)
        for arm in (f"top-{k} of {EXPERTS}", f"dense, {EXPERTS} times as wide")
    )
    return f"{compared('bits per byte', ours, theirs)}, of experts_study.json"


def _pays(quick: bool) -> Row:
    dim, tokens = (16, FEW[:2]) if quick else (256, FEW)

    def measure(number: int) -> Race:
        return _races(dim, number, {"": K}, EXPERTS, masked=False, repeats=7)[""]

    size = _size(dim, f"{tokens[0]} to {tokens[-1]}")
    return pays(f"experts, {K} of {EXPERTS} run, as many parameters", size, "tokens", tokens, measure)


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


def _mixtral(quick: bool, mixtral: Any, named: str) -> list[Row]:
    """Gated experts, renormalised, with the same weights in both."""
    dim, tokens = (16, 64) if quick else (256, 4096)
    config = mixtral.MixtralConfig(
        hidden_size=dim, intermediate_size=4 * dim, num_local_experts=EXPERTS, num_experts_per_tok=K
    )
    config._experts_implementation = "eager"
    theirs = mixtral.MixtralSparseMoeBlock(config)
    ours = MixtureOfExperts(dim, EXPERTS, k=K, renormalise=True, gated=True, bias=False)
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router.weight)
        both: list[Tensor] = [ours.get_parameter("gate_weight"), ours.get_parameter("expand_weight")]
        theirs.experts.gate_up_proj.copy_(torch.cat(both, dim=1))
        theirs.experts.down_proj.copy_(ours.contract_weight)
    return _both(f"{named}, Mixtral block, eager", ours, theirs, normal(4, tokens // 4, dim))


def _st_moe(quick: bool, package: Any, named: str) -> list[Row]:
    """Gated experts with as many neurons and places: it always has a capacity, for each sequence, without k in it."""
    dim, tokens = (16, 64) if quick else (256, 4096)
    theirs = package.MoE(
        dim,
        num_experts=EXPERTS,
        gating_top_n=K,
        expert_hidden_mult=6,  # of which it takes two thirds
        capacity_factor_train=CAPACITY * K,
        capacity_factor_eval=CAPACITY * K,
    )
    ours = MixtureOfExperts(dim, EXPERTS, k=K, renormalise=True, gated=True, capacity=CAPACITY)
    note = "it fills up every expert's places, ours computes who is there"
    return _both(f"{named}, capacity {CAPACITY}", ours, theirs, normal(4, tokens // 4, dim), note=note)


def _both(named: str, ours: nn.Module, theirs: nn.Module, x: Tensor, *, note: str = "") -> list[Row]:
    """Forward alone, and forward and backward."""
    size = _size(x.shape[-1], x.shape[0] * x.shape[1])

    def forward(layer: nn.Module) -> Step:
        @torch.inference_mode()
        def step() -> None:
            layer.eval()(x)

        return step

    mechanism = f"experts, {K} of {EXPERTS} run"
    back = against(
        f"{mechanism}, there and back",
        size,
        named,
        _there_and_back(ours.train(), x),
        _there_and_back(theirs.train(), x),
        note=note,
        repeats=11,
    )
    return [against(mechanism, size, named, forward(ours), forward(theirs), note=note, repeats=11), back]
