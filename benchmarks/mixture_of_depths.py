"""Mixture of depths, gathered, against the fastest dense execution, and a step of writing against a dense one.

The router is what it is at the start: which tokens run is decided, not planned, and costs what it costs.
"""

from functools import partial

import torch
from torch import Tensor

from benchmarks.table import Case, Row
from dynlib.backbone import CausalLM
from dynlib.cost import count, machine_peak, timed
from dynlib.tokens.mixture_of_depths import MixtureOfDepths, record

# features of a token, tokens, capacity, every how many blocks; 32 samples each
SIZES = (
    (256, 256, 0.125, 2),
    (256, 256, 0.125, 1),
    (256, 256, 0.5, 2),
    (256, 65, 0.125, 2),
    (256, 65, 0.5, 2),
    (96, 256, 0.125, 2),
)
CHUNKS = (None, 16, 4)  # samples at a time; all at once
WRITTEN = 256  # tokens, one by one


def cases(*, quick: bool = False) -> list[Case]:
    """A language model with every other block, or every block, wrapped, at the sizes of the course."""
    sizes = ((32, 16, 0.125, 2),) if quick else SIZES
    whole = [
        (f"mixture of depths {dim}, {tokens} tokens, {capacity}", partial(_whole, dim, tokens, capacity, every, quick))
        for dim, tokens, capacity, every in sizes
    ]
    return [*whole, ("mixture of depths, writing", partial(_steps, quick))]


def _models(
    dim: int, capacity: float, every: int, quick: bool, *, predictor: bool = False
) -> tuple[CausalLM, CausalLM]:
    depth = 2 if quick else 8
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(CausalLM(vocabulary=256, dim=dim, depth=depth, heads=max(dim // 32, 1)).eval())
    ours, dense = models
    for place in range(every - 1, depth, every):
        ours.blocks[place] = MixtureOfDepths(ours.blocks[place], capacity, predictor=predictor)
    return ours, dense


@torch.inference_mode()
def _whole(dim: int, tokens: int, capacity: float, every: int, quick: bool) -> Row:
    batch = 8 if quick else 32
    ours, dense = _models(dim, capacity, every, quick)
    x = ours.embed(torch.randint(256, (batch, tokens), generator=torch.Generator().manual_seed(0)))

    def run(model: CausalLM, chunk: int | None) -> Tensor:
        done = []
        for part in x.split(chunk or batch):
            for block in model.blocks:
                part = block(part)
            done.append(part)
        return torch.cat(done)

    plans = [(model, chunk) for model in (ours, dense) for chunk in CHUNKS]
    timing = timed(*(partial(run, *plan) for plan in plans), repeats=7 if quick else 15, warmup=1)
    # The fastest of each: a way to execute is chosen once for a machine, for both alike.
    mine = min(range(3), key=timing.seconds.__getitem__)
    peer = min(range(3, 6), key=timing.seconds.__getitem__)
    share, low, high = timing.ratio(mine, peer)
    few, all_ = count(run, ours, None, modules=ours).flops, count(run, dense, None, modules=dense).flops
    rate = machine_peak().flops_per_second
    names = ["the whole batch at once" if chunk is None else f"{chunk} samples at a time" for chunk in CHUNKS]
    return Row(
        mechanism=f"mixture of depths, {100 * capacity:.3g} % in {'every' if every == 1 else 'every other'} block, "
        f"gathered, {names[mine]}",
        size=f"dim {dim}, {len(ours.blocks)} layers, batch {batch}, {tokens} tokens",
        peer=f"dense, {names[peer - 3]}",
        flops_share=few / all_,
        time_share=share,
        interval=(low, high),
        matmul_share=few / timing.seconds[mine] / rate,
        peer_matmul_share=all_ / timing.seconds[peer] / rate,
        note=f"{1e3 * timing.seconds[mine]:.0f} ms and {1e3 * timing.seconds[peer]:.0f} ms",
    )


@torch.inference_mode()
def _steps(quick: bool) -> Row:
    """One sequence, token by token, every other layer routing as many of its tokens as the capacity says."""
    dim, tokens, capacity = (32, 16, 0.5) if quick else (256, WRITTEN, 0.125)
    ours, dense = _models(dim, capacity, 2, quick, predictor=True)
    text = torch.randint(256, (1, tokens), generator=torch.Generator().manual_seed(0))
    routed = _calibrate(ours, text)

    def write(model: CausalLM) -> Tensor:
        cache = model.new_cache()
        steps = zip(text.split(1, dim=1), torch.arange(tokens).split(1), strict=True)
        return torch.cat([model(token, positions=place, cache=cache) for token, place in steps], dim=1)

    timing = timed(partial(write, ours), partial(write, dense), repeats=9, warmup=1)
    share, low, high = timing.ratio(0, 1)
    few, all_ = count(write, ours, modules=ours).flops, count(write, dense, modules=dense).flops
    return Row(
        mechanism=f"mixture of depths, {100 * capacity:.3g} % in every other block, writing with a cache",
        size=f"dim {dim}, {len(ours.blocks)} layers, batch 1, {tokens} tokens one by one",
        peer="dense, writing with a cache",
        flops_share=few / all_,
        time_share=share,
        interval=(low, high),
        note=f"{100 * routed:.1f} % routed; {1e3 * timing.seconds[0] / tokens:.2f} ms and "
        f"{1e3 * timing.seconds[1] / tokens:.2f} ms a step",
    )


def _calibrate(model: CausalLM, text: Tensor) -> float:
    """Let every predictor pass its layer's capacity of this text, from below up; the share that then runs."""
    layers = [block for block in model.blocks if isinstance(block, MixtureOfDepths)]
    for number, layer in enumerate(layers):
        layer.routing = "predictor"
        with record(model) as routed:
            model(text)
        said = routed[number].predicted
        assert said is not None
        assert isinstance(layer.predictor, torch.nn.Sequential)
        layer.predictor[-1].bias -= said.quantile(1 - layer.capacity)
    with record(model) as routed:
        model(text)
    return torch.stack([layer.mask for layer in routed]).double().mean().item()
