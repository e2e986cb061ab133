"""MatFormer at some widths, sliced, against the fastest dense execution: the part alone, the model, and writing."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.given import normal, whole
from benchmarks.race import Race, contest, pays, transformer
from benchmarks.table import Case, Row
from benchmarks.trained import on_text
from dynlib.backbone import CausalLM
from dynlib.cost import timed
from dynlib.deciding import setting
from dynlib.width.matformer import MatFormerFeedForward, extract, matformer
from dynlib.zoo import load

WIDTHS = {"a quarter of the neurons": 1 / 4, "half of the neurons": 1 / 2}
DEPTH, BATCH, CHUNK = 8, 32, 4
SMALL = (16, 32, 64, 128)  # features of a token, to find where it pays
WRITTEN = 64  # tokens, one by one


def cases(*, quick: bool = False) -> list[Case]:
    """The feed-forward part alone and a language model, at the sizes of the course; the zoo's; and writing."""
    sizes = ((32, 16, False),) if quick else ((256, 256, True), (256, 65, False), (256, 256, False), (96, 65, False))
    return [
        *(
            (f"matformer {'part ' if alone else ''}{dim}, {tokens} tokens", partial(_rows, dim, tokens, quick, alone))
            for dim, tokens, alone in sizes
        ),
        ("matformer, trained", partial(_trained, quick)),
        ("matformer, where it breaks even", partial(_pays, quick)),
        ("matformer, writing", partial(_steps, quick)),
    ]


def _lm(dim: int, quick: bool) -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(vocabulary=256, dim=dim, depth=2 if quick else DEPTH, heads=max(dim // 32, 1)).eval()


@torch.inference_mode()
def _races(
    dim: int,
    tokens: int,
    widths: Mapping[str, float],
    quick: bool,
    *,
    alone: bool = False,
    masked: bool = False,
    repeats: int = 9,
) -> dict[str, Race]:
    batch = 8 if quick else BATCH
    dense, model = list(_lm(dim, quick).blocks), matformer(_lm(dim, quick))
    ours = list(model.blocks)
    if alone:  # the feed-forward part of one layer
        dense, ours = [dense[0].get_submodule("feed_forward")], [ours[0].get_submodule("feed_forward")]
    x = normal(batch, tokens, dim)

    def run(layers: list[nn.Module], chunk: int) -> list[Tensor]:
        """All layers for ``chunk`` samples at a time; the results stay in pieces."""
        done = []
        for part in x.split(chunk):
            for layer in layers:
                part = layer(part)
            done.append(part)
        return done

    def at(width: float, chunk: int, execution: str = "gathered") -> list[Tensor]:
        with setting(model, MatFormerFeedForward, width=width, execution=execution):
            return run(ours, chunk)

    chunks = (batch, 4 * CHUNK, CHUNK)
    return contest(
        {name: {f"{chunk} at a time": partial(at, width, chunk) for chunk in chunks} for name, width in widths.items()},
        {f"{chunk} at a time": partial(run, dense, chunk) for chunk in chunks},
        masked={name: partial(at, width, CHUNK, "masked") for name, width in widths.items()} if masked else {},
        repeats=repeats,
    )


def _rows(dim: int, tokens: int, quick: bool, alone: bool) -> list[Row]:
    long = tokens > 65 and not alone
    races = _races(dim, tokens, WIDTHS, quick, alone=alone, masked=not long, repeats=7 if long else 9)
    what = "MatFormer, the feed-forward part alone" if alone else "MatFormer"
    aim = 1.0 if dim >= 256 else 0.9
    size = f"dim {dim}, hidden {4 * dim}, {BATCH} × {tokens} tokens" if alone else _size(dim, tokens, quick)
    return [race.row(f"{what}, {name}", size, aim=aim) for name, race in races.items()]


def _trained(quick: bool) -> list[Row]:
    model = load("topics_matformer")

    def run(width: float, tokens: Tensor, execution: str = "gathered") -> Tensor:
        with setting(model, MatFormerFeedForward, width=width, execution=execution):
            return model(tokens)

    masked = partial(run, execution="masked")
    return on_text(
        "MatFormer", WIDTHS, run, masked, dense="topics_lm", size="topics_lm, dim 128, 8 layers", quick=quick
    )


def _pays(quick: bool) -> Row:
    tokens, dims = (16, SMALL[:2]) if quick else (65, SMALL)
    name = next(iter(WIDTHS))

    def measure(dim: int) -> Race:
        return _races(dim, tokens, {name: WIDTHS[name]}, quick, repeats=7)[name]

    return pays(f"MatFormer, {name}", _size(f"{dims[0]} to {dims[-1]}", tokens, quick), "dim", dims, measure)


def _size(dim: object, tokens: int, quick: bool) -> str:
    return transformer(dim, 2 if quick else DEPTH, 8 if quick else BATCH, tokens)


@torch.inference_mode()
def _steps(quick: bool) -> list[Row]:
    """One sequence, token by token: sliced, against dense; and what the extracted model takes."""
    dim, tokens = (32, 4) if quick else (256, WRITTEN)
    ours, dense = matformer(_lm(dim, quick)), _lm(dim, quick)
    text = whole(256, 1, tokens)

    def write(model: CausalLM) -> Tensor:
        cache = model.new_cache()
        return torch.cat([model(token, cache=cache) for token in text.split(1, dim=1)], dim=1)

    def sliced(width: float) -> Tensor:
        with setting(ours, MatFormerFeedForward, width=width):
            return write(ours)

    races = contest(
        {name: {"a cache": partial(sliced, width)} for name, width in WIDTHS.items()},
        {"a cache": partial(write, dense)},
        repeats=7,
    )
    rows = []
    for name, race in races.items():
        small = partial(write, extract(ours, WIDTHS[name]))
        extracted = timed(small, partial(write, dense), repeats=5, warmup=1).ratio(0, 1).median
        size = f"dim {dim}, {len(ours.blocks)} layers, 1 × {tokens} tokens, one by one"
        note = f"extracted into a smaller model it takes {extracted:.2f} of the dense time"
        rows.append(race.row(f"MatFormer, {name}, writing", size, note=note))
    return rows
