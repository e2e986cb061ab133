"""Adaptive computation modules on a GPU, at a ViT-B's size: time over f × the dense time, f the share of the learners.

``python -m benchmarks.acm_gpu`` measures and prints a table; where no GPU is, it says so in one sentence. It times the
feed-forward part of a ViT-B on 128 images of 197 tokens in bfloat16, for f of .25, .5, .75 and 1, in four ways:

- *dense*: two cuBLAS products on all tokens, to which all others are compared;
- *fused*: :func:`dynlib.kernels.acm_forward`, with its sort, gather and scatter;
- *grouped*: each learner as an expert, two grouped products of PyTorch over the (token, learner) pairs, with the gather
  before them and the sum after them;
- *in groups of k*: one pair of cuBLAS products for the tokens of each k, which is the gathered execution.

What each token runs is drawn from a geometric law with mean f. The *break-even* f is the share of the learners from
which on the fused execution is no faster than the dense one, on the line through the four times.

``--quick`` takes tiny sizes. With ``TRITON_INTERPRET=1`` and ``--device cpu`` everything but the GPU itself is tried on
any machine; the times then are Triton's interpreter's and say nothing.
"""

import argparse
import platform
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.table import Case, Row, markdown
from dynlib.backbone import FeedForward
from dynlib.cost import timed
from dynlib.kernels import acm as kernels_of_acm
from dynlib.kernels import acm_forward
from dynlib.width import AdaptiveComputationModule
from dynlib.width.acm import gathered

LEARNERS, SHARES = 4, (0.25, 0.5, 0.75, 1.0)
IMAGES, PATCHES, DIM = 128, 197, 768  # a ViT-B
BLOCKS = (  # of the kernels: the fastest is taken
    {"rows": 128, "columns": 128, "inner": 64, "warps": 8, "stages": 3},
    {"rows": 128, "columns": 256, "inner": 64, "warps": 8, "stages": 3},
    {"rows": 64, "columns": 128, "inner": 64, "warps": 4, "stages": 4},
)
NEAR = 0.03  # Σ (y − y')² / Σ y², of bfloat16 against float32, may be the square of that


class Timed(NamedTuple):
    """One f. Times are seconds, medians; shares are of the dense time of the same run."""

    f: float
    """The share of the learners that ran, as drawn."""
    fused: float
    interval: tuple[float, float]
    """The 95 % interval of the fused share."""
    grouped: float | None
    """None where this PyTorch has no grouped product."""
    in_groups: float
    seconds: tuple[float, float]
    """Fused and dense."""
    blocks: dict[str, int]


def why_no_gpu(device: str = "cuda") -> str | None:
    """Why nothing can be measured on a device, in a sentence; None if it can."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        return "nothing is measured, because no CUDA GPU is here: run python -m benchmarks.acm_gpu where one is"
    if device.startswith("cuda") and kernels_of_acm.interpreted:
        return "nothing is measured: TRITON_INTERPRET is set, so the kernels would not run on the GPU: unset it"
    reason = kernels_of_acm.why_not(device)
    return None if reason is None else f"nothing is measured: {reason}"


def drawn(share: float, tokens: int) -> Tensor:
    """k of each token: geometric, with the mean that is asked for; all of them N at a share of 1."""
    k = torch.arange(LEARNERS + 1, dtype=torch.float64)
    if share == 1:
        return torch.full((tokens,), LEARNERS)
    low, high = -8.0, 8.0
    for _ in range(60):
        tilt = (low + high) / 2
        law = (tilt * k).softmax(0)
        low, high = (tilt, high) if (law * k).sum() < share * LEARNERS else (low, tilt)
    return torch.multinomial(law, tokens, True, generator=torch.Generator().manual_seed(0))


def grouped_product() -> Callable[..., Tensor] | None:
    """PyTorch's product of ragged groups of rows with a matrix each, where there is one."""
    return getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def grouped(
    product: Callable[..., Tensor], z: Tensor, k: Tensor, expand: Tensor, bias: Tensor, contract: Tensor, *, each: int
) -> Tensor:
    """h(z, k), learner n being an expert of the tokens with k ≥ n: products of all (token, learner) pairs at once."""
    learners = len(bias) // each
    runs = k > torch.arange(learners, device=k.device)[:, None]
    ends = runs.sum(1).cumsum(0, dtype=torch.int32)
    learner, token = runs.nonzero(as_tuple=True)  # by learner
    w, v = expand.view(learners, each, -1).transpose(1, 2), contract.view(learners, each, -1)
    hidden = F.gelu(product(z.index_select(0, token), w, offs=ends) + bias.view(learners, each)[learner])
    y = torch.zeros(len(z), contract.shape[1], dtype=torch.float32, device=z.device)  # the sum of up to N terms
    return y.index_add_(0, token, product(hidden, v, offs=ends).float()).to(z.dtype)


@torch.inference_mode()
def measure(
    share: float,
    *,
    device: str = "cuda",
    tokens: int = IMAGES * PATCHES,
    dim: int = DIM,
    blocks: Sequence[dict[str, int]] = BLOCKS,
    repeats: int = 25,
) -> Timed:
    """Time all ways at one f, in turns.

    Raises:
        ArithmeticError: if a way does not compute what it should.
        RuntimeError: if none of the blocks fits the GPU's memory on the chip.
    """
    torch.manual_seed(0)
    k = drawn(share, tokens).to(device)
    layer = AdaptiveComputationModule(dim, learners=LEARNERS, least=0)
    z = torch.randn(tokens, dim)
    weights = [one.detach().to(device) for one in (layer.expand, layer.bias, layer.contract)]
    exact = gathered(z.to(device), k, *weights, each=layer.each, rows=tokens)
    z, weights = z.to(device, torch.bfloat16), [one.bfloat16() for one in weights]
    dense = FeedForward(dim).to(device, torch.bfloat16).eval()
    product = grouped_product()
    ways = {
        "in groups of k": partial(gathered, z, k, *weights, each=layer.each, rows=tokens),
        **({} if product is None else {"grouped": partial(grouped, product, z, k, *weights, each=layer.each)}),
    }
    fused = {
        place: partial(acm_forward, z, k, *weights, each=layer.each, blocks=one) for place, one in enumerate(blocks)
    }
    kernels = {place: kernel for place, kernel in fused.items() if _fits(kernel)}
    if not kernels:
        raise RuntimeError(f"no block fits this GPU: give others than {list(blocks)}")
    for name, way in [*ways.items(), *(("fused", kernel) for kernel in kernels.values())]:
        miss = (way().float() - exact).norm() / exact.norm().clamp_min(1e-9)
        if not miss <= NEAR:
            raise ArithmeticError(f"{name} is {miss:.3f} from what float32 gives: its time would mean nothing")
    heat = dict(zip(kernels, timed(*kernels.values(), repeats=min(repeats, 5), warmup=1).seconds, strict=True))
    best = min(heat, key=heat.__getitem__)
    timing = timed(kernels[best], partial(dense, z), *ways.values(), repeats=repeats, warmup=1)
    ratio, low, high = timing.ratio(0, 1)
    others = {name: timing.ratio(2 + place, 1).median for place, name in enumerate(ways)}
    return Timed(
        k.double().mean().item() / LEARNERS,
        ratio,
        (low, high),
        others.get("grouped"),
        others["in groups of k"],
        (timing.seconds[0], timing.seconds[1]),
        blocks[best],
    )


def _fits(kernel: Callable[[], Tensor]) -> bool:
    """Whether the blocks fit the GPU."""
    try:
        kernel()
    except Exception as error:
        if type(error).__name__ != "OutOfResources":  # Triton's, which need not be installed
            raise
        return False
    return True


def break_even(times: Sequence[Timed]) -> float:
    """The f at which the line through the fused shares of the dense time is 1; infinite where it does not rise."""
    f, share = (
        torch.tensor(axis, dtype=torch.float64) for axis in ([one.f for one in times], [one.fused for one in times])
    )
    slope = ((f - f.mean()) * (share - share.mean())).sum() / (f - f.mean()).square().sum()
    return (f.mean() + (1 - share.mean()) / slope).item() if slope > 0 else float("inf")


def row(one: Timed, *, tokens: int = IMAGES * PATCHES, dim: int = DIM) -> Row:
    """A line of the table."""
    notes = [
        f"{one.fused / one.f:.2f} of f × the dense time",
        "this PyTorch has no grouped product" if one.grouped is None else f"grouped: {one.grouped / one.f:.2f} of it",
        f"in groups of k: {one.in_groups / one.f:.2f} of it",
        " and ".join(f"{1e6 * seconds:.0f}" for seconds in one.seconds) + " µs",
        f"blocks {'×'.join(map(str, one.blocks.values()))}",
    ]
    return Row(
        mechanism=f"ACM, {LEARNERS} learners, f = {one.f:.2f}, fused",
        size=_size(tokens, dim),
        peer="cuBLAS, all tokens",
        flops_share=one.f,
        time_share=one.fused,
        interval=one.interval,
        note="; ".join(notes),
    )


def even_row(times: Sequence[Timed], *, tokens: int = IMAGES * PATCHES, dim: int = DIM) -> Row:
    """The line that says from which f on it does not pay."""
    even = break_even(times)
    says = "faster than dense at every f" if even > 1 else f"faster than dense up to f = {max(even, 0):.2f}"
    return Row(
        mechanism=f"ACM, {LEARNERS} learners, fused: break-even f",
        size=_size(tokens, dim),
        peer="cuBLAS, all tokens",
        note=f"{says}, on the line through {', '.join(f'{one.fused:.2f} at {one.f:.2f}' for one in times)}",
    )


def listed() -> list[Case]:
    """What the table of all benchmarks gets of this: a row for each f and one for break-even, or why there is none."""
    if (reason := why_no_gpu()) is not None:
        said = Row(mechanism=f"ACM, {LEARNERS} learners, fused", size=_size(IMAGES * PATCHES, DIM), note=reason)
        return [("acm, on a GPU", lambda: said)]
    times: list[Timed] = []

    def measured(share: float) -> Row:
        times.append(measure(share))
        return row(times[-1])

    return [
        *((f"acm, on a GPU, f = {share}", partial(measured, share)) for share in SHARES),
        ("acm, on a GPU, break-even", lambda: even_row(times)),
    ]


def main(arguments: Sequence[str] | None = None) -> str:
    """Measure and print, or say why not; what was printed is returned."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.acm_gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--output", type=Path, help="a file for the table too")
    options = parser.parse_args(arguments)
    said = why_no_gpu(options.device)
    if said is None:
        tokens, dim, repeats = (160, 32, 1) if options.quick else (IMAGES * PATCHES, DIM, 25)
        times = [measure(share, device=options.device, tokens=tokens, dim=dim, repeats=repeats) for share in SHARES]
        rows = [*(row(one, tokens=tokens, dim=dim) for one in times), even_row(times, tokens=tokens, dim=dim)]
        said = f"{markdown(rows)}\nMeasured on: {_machine(options.device)}.\n"
        if options.output is not None:
            options.output.write_text(said, encoding="utf-8")
    print(said)
    return said


def _machine(device: str) -> str:
    name = (
        torch.cuda.get_device_name(device)
        if device.startswith("cuda")
        else f"{platform.machine()}, Triton's interpreter"
    )
    return f"{name}, torch {torch.__version__}"


def _size(tokens: int, dim: int) -> str:
    return f"one layer, dim {dim}, hidden {4 * dim}, {tokens} tokens, bfloat16"


if __name__ == "__main__":
    main()
