"""CoLT5's layers against dense ones, with full attention or with LongT5's, over the length of the sequence; the zoo's;
and what others wrote.

The routers are what they are at the start: who is routed is decided, not planned, and costs what it costs.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.given import accuracy, here, normal
from benchmarks.peers import peer
from benchmarks.race import Race, Ways, against, compared, contest, pays
from benchmarks.table import Case, Row
from benchmarks.trained import pieces
from dynlib.backbone import Block
from dynlib.data import needles
from dynlib.deciding import setting
from dynlib.tokens.colt5 import ConditionalAttention, ConditionalBlock, ConditionalFeedForward
from dynlib.tokens.local_attention import LocalGlobalBlock
from dynlib.zoo import load

DIM, DEPTH, WINDOW = 256, 2, 64  # features of a token, layers, tokens to each side
TOKENS = 8192  # in a batch, whatever the length
LENGTHS, SHORT = (1024, 4096), (64, 128, 256, 512)
CAPACITIES = {"a sixteenth routed": 1 / 16, "an eighth routed": 1 / 8}


def cases(*, quick: bool = False) -> list[Case]:
    """Few long sequences; ever shorter ones, to find where it pays; the zoo's; and others' layers."""
    lengths = (64,) if quick else LENGTHS
    return [
        *((f"colt5, {length} tokens", partial(_rows, length, quick)) for length in lengths),
        *((f"colt5, {length} tokens, local", partial(_rows, length, quick, local=True)) for length in lengths[1:]),
        ("colt5, trained", partial(_trained, quick)),
        ("colt5, where it breaks even", partial(_pays, quick)),
        peer("colt5", "colt5-attention", partial(_other, quick)),
    ]


def _stack(capacity: float, length: int, quick: bool) -> nn.Module:
    torch.manual_seed(0)
    dim, heads = (32, 2) if quick else (DIM, DIM // 32)
    window = min(WINDOW, length // 4)
    return nn.Sequential(*(ConditionalBlock(dim, heads, window=window, capacity=capacity) for _ in range(DEPTH))).eval()


@torch.inference_mode()
def _races(
    length: int, capacities: dict[str, float], quick: bool, *, local: bool, masked: bool, repeats: int = 7
) -> dict[str, Race]:
    dim, heads, tokens = (32, 2, 256) if quick else (DIM, DIM // 32, TOKENS)
    layer = partial(LocalGlobalBlock, window=min(WINDOW, length // 4)) if local else Block
    dense = nn.Sequential(*(layer(dim, heads) for _ in range(DEPTH))).eval()
    x = normal(max(tokens // length, 1), length, dim)
    models = {name: _stack(capacity, length, quick) for name, capacity in capacities.items()}
    chunks = sorted({max(number // length, 1) for number in (tokens // 8, tokens // 2)})

    def ways(model: nn.Module) -> Ways:
        return pieces(model, x, *chunks)

    def everything(model: nn.Module) -> Tensor:
        with setting(model, (ConditionalAttention, ConditionalFeedForward), execution="masked"):
            return torch.cat([model(part) for part in x.split(chunks[0])])

    return contest(
        {name: ways(model) for name, model in models.items()},
        ways(dense),
        masked={name: partial(everything, model) for name, model in models.items()} if masked else {},
        repeats=repeats,
    )


def _rows(length: int, quick: bool, *, local: bool = False) -> list[Row]:
    races = _races(length, CAPACITIES, quick, local=local, masked=not local and length <= 1024)
    against = "dense, local and global attention" if local else "dense, full attention"
    return [race.row(f"CoLT5, {name}", _size(length, quick), peer=against, aim=1.0) for name, race in races.items()]


@torch.inference_mode()
def _trained(quick: bool) -> list[Row]:
    model = load("needles_colt5")
    with torch.device("cpu"):
        some = needles(16 if quick else 1000, split="test")
    tokens, labels = here(some.tokens), here(some.labels)
    timed = tokens[: 8 if quick else 250]

    def run(capacity: float, tokens: Tensor, execution: str = "gathered") -> Tensor:
        parts = (ConditionalAttention, ConditionalFeedForward)
        twice = min(2 * capacity, 1.0)
        with (
            setting(model, parts, execution=execution),
            setting(model, ConditionalFeedForward, capacity=capacity),
            setting(model, ConditionalAttention, query_capacity=capacity, key_capacity=twice),
        ):
            return model(tokens)

    budgets = {"a sixteenth routed": 1 / 16, "a thirty-second routed": 1 / 32}
    races = contest(
        {name: pieces(partial(run, capacity), timed, 64) for name, capacity in budgets.items()},
        pieces(partial(run, 1.0), timed, 16, 64),
        masked={name: partial(run, capacity, timed, "masked") for name, capacity in budgets.items()},
        repeats=2 if quick else 9,
    )
    theirs = accuracy(partial(run, 1.0), tokens, labels)
    size = f"needles_colt5, dim 32, 2 layers, {len(timed)} × {tokens.shape[1]} tokens"
    return [
        race.row(
            f"CoLT5, {name}, trained",
            size,
            peer="the same with all tokens routed",
            quality=compared("accuracy", accuracy(partial(run, budgets[name]), tokens, labels), theirs),
            note="it was trained at a sixteenth",
        )
        for name, race in races.items()
    ]


def _pays(quick: bool) -> Row:
    lengths = (16, 32) if quick else SHORT
    name = "a sixteenth routed"

    def measure(length: int) -> Race:
        return _races(length, {name: CAPACITIES[name]}, quick, local=False, masked=False)[name]

    return pays(f"CoLT5, {name}", _size(f"{lengths[0]} to {lengths[-1]}", quick), "length", lengths, measure)


def _size(length: object, quick: bool) -> str:
    dim, tokens = (32, 256) if quick else (DIM, TOKENS)
    return f"dim {dim}, {DEPTH} layers, {length} tokens, {tokens} in a batch"


@torch.inference_mode()
def _other(quick: bool, package: Any, named: str) -> list[Row]:
    """Its layers of the same sizes: the whole block, and the feed-forward part alone."""
    length, dim = (64, 32) if quick else (1024, DIM)
    heads, window, k = (2, 16, 4) if quick else (DIM // 32, WINDOW, length // 16)
    x = normal(2 if quick else 8, length, dim)
    light = max(heads // 4, 1)
    theirs = package.ConditionalRoutedTransformerBlock(
        dim,
        num_heavy_attn_tokens_q=k,
        num_heavy_attn_tokens_kv=2 * k,
        num_heavy_ff_tokens=k,
        light_dim_head=dim // heads,
        light_heads=light,
        light_window_size=2 * window,
        heavy_dim_head=dim // heads,
        heavy_heads=heads - light,
        light_ff_mult=2,
        heavy_ff_mult=16,
        use_flash_attn=True,
    ).eval()
    ours = ConditionalBlock(dim, heads, window=window).eval()
    size = f"dim {dim}, one layer, {len(x)} × {length} tokens, a sixteenth routed"
    note = "the package chooses by coordinate descent, in 20 iterations; ours by an exact smooth top-k"
    return [
        against("CoLT5, the block", size, named, partial(ours, x), partial(theirs, x), note=note, repeats=9),
        against(
            "CoLT5, the feed-forward part",
            size,
            named,
            partial(ours.feed_forward, x),
            partial(theirs.conditional_ff, x),
            note=note,
            repeats=9,
        ),
    ]
