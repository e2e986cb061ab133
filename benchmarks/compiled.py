"""What a compiler adds: routed layers and dense ones, each plain and through ``torch.compile``, in turns.

Depths that change from token to token (A-ViT) are not here: every number of tokens that still run is a shape of its
own, which would be compiled anew.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.given import normal
from benchmarks.race import sentences
from benchmarks.table import Case, Row
from dynlib.backbone import Block
from dynlib.cost import count, timed
from dynlib.tokens.colt5 import ConditionalBlock
from dynlib.tokens.mixture_of_depths import MixtureOfDepths

Layers = Callable[[int, int], tuple[nn.Sequential, nn.Sequential]]
"""Features of a token and layers to a routed stack and the dense one of the same size."""

DEPTH, TOKENS = 8, 8192  # layers; tokens in a batch, or 32 sequences where that is less


def cases(*, quick: bool = False) -> list[Case]:
    """The rows of the table that miss their aim at an efficiency, once more."""
    mixture = "mixture of depths, an eighth of the tokens in every other block"
    sizes = ((32, 16, 1.0), (16, 16, 0.9)) if quick else ((256, 65, 1.0), (96, 256, 0.9))
    long = () if quick else (_case("CoLT5, a sixteenth routed", _colt5, 256, 1024, 1.0, quick),)
    return [*(_case(mixture, _mixture, dim, tokens, aim, quick) for dim, tokens, aim in sizes), *long]


def _case(mechanism: str, layers: Layers, dim: int, tokens: int, aim: float, quick: bool) -> Case:
    name = f"{mechanism}, compiled, dim {dim}, {tokens} tokens"
    return name, partial(_row, mechanism, layers, dim, tokens, aim, quick)


def _mixture(dim: int, depth: int) -> tuple[nn.Sequential, nn.Sequential]:
    stacks = []
    for _ in range(2):
        torch.manual_seed(0)
        stacks.append(nn.Sequential(*(Block(dim, max(dim // 32, 1)) for _ in range(depth))).eval())
    ours, dense = stacks
    for place in range(1, depth, 2):
        ours[place] = MixtureOfDepths(ours[place], 1 / 8, predictor=False, in_place=True)
    return ours, dense


def _colt5(dim: int, depth: int) -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    heads = dim // 32
    ours = (ConditionalBlock(dim, heads, window=64, capacity=1 / 16) for _ in range(depth // 4))
    return nn.Sequential(*ours).eval(), nn.Sequential(*(Block(dim, heads) for _ in range(depth // 4))).eval()


@torch.inference_mode()
def _row(mechanism: str, layers: Layers, dim: int, tokens: int, aim: float, quick: bool) -> Row:
    batch = 2 if quick else min(TOKENS // tokens, 32)
    x = normal(batch, tokens, dim)
    stacks = layers(dim, 2 if quick else DEPTH)
    plain = [partial(stack, x) for stack in stacks]
    torch.compiler.reset()
    # nothing is compiled at the tiny sizes: it takes half a minute for each, and cannot be done under checks of types
    compiled = plain if quick else [partial(torch.compile(stack), x) for stack in stacks]
    timing = timed(*compiled, *plain, repeats=2 if quick else 9, warmup=2)
    few, all_ = (count(step).flops for step in plain)
    share, low, high = timing.ratio(0, 1)
    ours, dense = (timing.ratio(2 + place, place).median for place in range(2))
    before = few / all_ / timing.ratio(2, 3).median
    return Row(
        mechanism=f"{mechanism}, compiled",
        size=f"dim {dim}, {len(stacks[1])} layers, {batch} × {tokens} tokens",
        peer="dense, compiled",
        flops_share=few / all_,
        time_share=share,
        interval=(low, high),
        aim=aim,
        note=sentences(
            f"compiled, ours is {ours:.2f} and dense {dense:.2f} times as fast as plain",
            f"efficiency before {before:.2f}",
            f"{'at or above' if few / all_ >= aim * share else 'below'} the aim of {aim:g}",
        ),
    )
