"""MatFormer at each width, sliced, against the fastest dense execution: the part alone, the model, and writing."""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.race import Race, Ways, pays, race, transformer
from benchmarks.table import Case, Row
from dynlib.backbone import CausalLM
from dynlib.cost import count, timed
from dynlib.deciding import setting
from dynlib.width.matformer import MatFormerFeedForward, extract, matformer

WIDTHS = (1 / 8, 1 / 4, 1 / 2)
SIZES = ((256, 256), (256, 65), (96, 256))  # features of a token, tokens; 32 samples each
DEPTH, BATCH, CHUNK = 8, 32, 4
SMALL = (8, 16, 32, 64, 128)  # features of a token, to find where it pays
WRITTEN = 64  # tokens, one by one


def cases(*, quick: bool = False) -> list[Case]:
    """The feed-forward part alone and a language model, at the sizes of the course and at every width."""
    widths = WIDTHS[-1:] if quick else WIDTHS
    sizes = ((32, 16),) if quick else SIZES
    alone = [
        (f"matformer part {dim}, {tokens} tokens, {width}", partial(_row, dim, tokens, width, quick, alone=True))
        for dim, tokens in sizes[:2]
        for width in (*widths, 1)
    ]
    whole = [
        (f"matformer {dim}, {tokens} tokens, {width}", partial(_row, dim, tokens, width, quick, alone=False))
        for dim, tokens in sizes
        for width in widths
    ]
    return [
        *alone,
        *whole,
        ("matformer, where it pays", partial(_pays, quick)),
        *((f"matformer, writing, {width}", partial(_steps, width, quick)) for width in widths),
    ]


def _lm(dim: int, quick: bool) -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(vocabulary=256, dim=dim, depth=2 if quick else DEPTH, heads=max(dim // 32, 1)).eval()


@torch.inference_mode()
def _race(dim: int, tokens: int, width: float, quick: bool, *, alone: bool = False, repeats: int = 15) -> Race:
    batch = 8 if quick else BATCH
    dense, ours = list(_lm(dim, quick).blocks), list(matformer(_lm(dim, quick)).blocks)
    if alone:  # the feed-forward part of one layer
        dense, ours = [dense[0].get_submodule("feed_forward")], [ours[0].get_submodule("feed_forward")]
    x = torch.randn(batch, tokens, dim, generator=torch.Generator().manual_seed(0))

    def run(layers: list[nn.Module], chunk: int) -> list[Tensor]:
        """All layers for ``chunk`` samples at a time; the results stay in pieces."""
        done = []
        for part in x.split(chunk):
            for layer in layers:
                part = layer(part)
            done.append(part)
        return done

    def ways(layers: list[nn.Module]) -> Ways:
        return {
            "the whole batch at once": partial(run, layers, batch),
            f"{4 * CHUNK} samples at a time": partial(run, layers, 4 * CHUNK),
            f"{CHUNK} samples at a time": partial(run, layers, CHUNK),
        }

    with setting(nn.ModuleList(ours), MatFormerFeedForward, width=width):
        return race(ways(ours), ways(dense), repeats=repeats)


def _row(dim: int, tokens: int, width: float, quick: bool, *, alone: bool) -> Row:
    run = _race(dim, tokens, width, quick, alone=alone, repeats=7 if quick else 15)
    if alone:
        size = f"dim {dim}, hidden {4 * dim}, batch {8 if quick else BATCH}, {tokens} tokens"
        return run.row(f"MatFormer, the feed-forward part alone, {_share(width)}", size)
    return run.row(f"MatFormer, {_share(width)}", _size(dim, tokens, quick))


def _pays(quick: bool) -> Row:
    tokens, sizes = (16, SMALL[:2]) if quick else (65, SMALL)
    return pays(
        f"MatFormer, {_share(1 / 4)}",
        _size(f"{sizes[0]} to {sizes[-1]}", tokens, quick),
        "dim",
        sizes,
        lambda dim: _race(dim, tokens, 1 / 4, quick, repeats=7),
    )


def _share(width: float) -> str:
    return f"{100 * width:.3g} % of the neurons"


def _size(dim: object, tokens: int, quick: bool) -> str:
    return transformer(dim, 2 if quick else DEPTH, 8 if quick else BATCH, tokens)


@torch.inference_mode()
def _steps(width: float, quick: bool) -> Row:
    """One sequence, token by token: sliced, against dense; what the extracted model takes stands in the note."""
    dim, tokens = (32, 8) if quick else (256, WRITTEN)
    ours, dense = matformer(_lm(dim, quick)), _lm(dim, quick)
    small = extract(ours, width)
    text = torch.randint(256, (1, tokens), generator=torch.Generator().manual_seed(0))

    def write(model: CausalLM) -> Tensor:
        cache = model.new_cache()
        return torch.cat([model(token, cache=cache) for token in text.split(1, dim=1)], dim=1)

    with setting(ours, MatFormerFeedForward, width=width):
        timing = timed(partial(write, ours), partial(write, dense), partial(write, small), repeats=9, warmup=1)
        few = count(write, ours).flops
    share, low, high = timing.ratio(0, 1)
    return Row(
        mechanism=f"MatFormer, {_share(width)}, writing with a cache",
        size=f"dim {dim}, {len(ours.blocks)} layers, batch 1, {tokens} tokens one by one",
        peer="dense, writing with a cache",
        flops_share=few / count(write, dense).flops,
        time_share=share,
        interval=(low, high),
        note=f"extracted: {timing.ratio(2, 1).median:.2f} of the dense time; "
        f"{1e3 * timing.seconds[0] / tokens:.2f}, {1e3 * timing.seconds[2] / tokens:.2f} and "
        f"{1e3 * timing.seconds[1] / tokens:.2f} ms a step sliced, extracted and dense",
    )
