"""Mixture of depths, gathered, against the fastest dense execution, and a step of writing against a dense one.

The router is what it is at the start: which tokens run is decided, not planned, and costs what it costs.
"""

from functools import partial

import torch
from torch import Tensor

from benchmarks.race import Race, Ways, pays, race, transformer
from benchmarks.table import Case, Row
from dynlib.backbone import CausalLM
from dynlib.cost import count, timed
from dynlib.deciding import record
from dynlib.tokens.mixture_of_depths import MixtureOfDepths

# features of a token, tokens, capacity, every how many blocks; 32 samples each
SIZES = (
    (256, 256, 0.125, 2),
    (256, 256, 0.125, 1),
    (256, 256, 0.5, 2),
    (256, 65, 0.125, 2),
    (256, 65, 0.5, 2),
    (96, 256, 0.125, 2),
)
DEPTH, BATCH, CHUNK = 8, 32, 4
SMALL = (8, 16, 32, 64, 128)  # features of a token, to find where it pays
WRITTEN = 256  # tokens, one by one


def cases(*, quick: bool = False) -> list[Case]:
    """A language model with every other block, or every block, wrapped, at the sizes of the course."""
    sizes = ((32, 16, 0.125, 2),) if quick else SIZES
    whole = [
        (f"mixture of depths {dim}, {tokens} tokens, {capacity}", partial(_row, dim, tokens, capacity, every, quick))
        for dim, tokens, capacity, every in sizes
    ]
    return [
        *whole,
        ("mixture of depths, where it pays", partial(_pays, quick)),
        ("mixture of depths, writing", partial(_steps, quick)),
    ]


def _models(
    dim: int, capacity: float, every: int, quick: bool, *, predictor: bool = False
) -> tuple[CausalLM, CausalLM]:
    depth = 2 if quick else DEPTH
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(CausalLM(vocabulary=256, dim=dim, depth=depth, heads=max(dim // 32, 1)).eval())
    ours, dense = models
    for place in range(every - 1, depth, every):
        ours.blocks[place] = MixtureOfDepths(
            ours.blocks[place],
            capacity,
            predictor=predictor,
            in_place=place > 0,  # the first layer's input is used again
        )
    return ours, dense


@torch.inference_mode()
def _race(dim: int, tokens: int, capacity: float, every: int, quick: bool, *, repeats: int = 15) -> Race:
    batch = 8 if quick else BATCH
    ours, dense = _models(dim, capacity, every, quick)
    x = ours.embed(torch.randint(256, (batch, tokens), generator=torch.Generator().manual_seed(0)))

    def run(model: CausalLM, chunk: int, within: int) -> Tensor:
        """All layers for ``chunk`` samples at a time, the dense ones of them for ``within`` at a time."""
        done = []
        for part in x.split(chunk):
            for block in model.blocks:
                if within < len(part) and not isinstance(block, MixtureOfDepths):
                    part = torch.cat([block(few) for few in part.split(within)])
                else:
                    part = block(part)
            done.append(part)
        return torch.cat(done)

    def ways(model: CausalLM, dense_apart: bool) -> Ways:
        found: Ways = {
            "the whole batch at once": partial(run, model, batch, batch),
            f"{4 * CHUNK} samples at a time": partial(run, model, 4 * CHUNK, batch),
            f"{CHUNK} samples at a time": partial(run, model, CHUNK, batch),
        }
        if dense_apart:
            for within in (4 * CHUNK, CHUNK):
                found[f"its dense layers {within} samples at a time"] = partial(run, model, batch, within)
        return found

    return race(ways(ours, every > 1), ways(dense, False), repeats=repeats)


def _row(dim: int, tokens: int, capacity: float, every: int, quick: bool) -> Row:
    run = _race(dim, tokens, capacity, every, quick, repeats=7 if quick else 15)
    return run.row(f"mixture of depths, {_share(capacity, every)}, gathered", _size(dim, tokens, quick))


def _pays(quick: bool) -> Row:
    tokens, sizes = (16, SMALL[:2]) if quick else (65, SMALL)
    return pays(
        f"mixture of depths, {_share(0.125, 2)}",
        _size(f"{sizes[0]} to {sizes[-1]}", tokens, quick),
        "dim",
        sizes,
        lambda dim: _race(dim, tokens, 0.125, 2, quick, repeats=7),
    )


def _share(capacity: float, every: int) -> str:
    return f"{100 * capacity:.3g} % in {'every' if every == 1 else 'every other'} block"


def _size(dim: object, tokens: int, quick: bool) -> str:
    return transformer(dim, 2 if quick else DEPTH, 8 if quick else BATCH, tokens)


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
    few, all_ = count(write, ours).flops, count(write, dense).flops
    return Row(
        mechanism=f"mixture of depths, {_share(capacity, 2)}, writing with a cache",
        size=f"dim {dim}, {len(ours.blocks)} layers, batch 1, {tokens} tokens one by one",
        peer="dense, writing with a cache",
        flops_share=few / all_,
        time_share=share,
        interval=(low, high),
        note=f"{100 * routed:.1f} % routed; {1e3 * timing.seconds[0] / tokens:.2f} ms and "
        f"{1e3 * timing.seconds[1] / tokens:.2f} ms a step: {1 / share:.2f} times as fast",
    )


def _calibrate(model: CausalLM, text: Tensor) -> float:
    """Let every predictor pass its layer's capacity of this text, from below up; the share that then runs."""
    layers = [block for block in model.blocks if isinstance(block, MixtureOfDepths)]
    for number, layer in enumerate(layers):
        layer.routing = "predictor"
        with record(model, MixtureOfDepths) as routed:
            model(text)
        said = list(routed.values())[number][0].predicted
        assert said is not None
        assert isinstance(layer.predictor, torch.nn.Sequential)
        layer.predictor[-1].bias -= said.quantile(1 - layer.capacity)
    with record(model, MixtureOfDepths) as routed:
        model(text)
    return torch.stack([layer.mask for (layer,) in routed.values()]).double().mean().item()
