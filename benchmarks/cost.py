"""The dense transformer that every mechanism is measured against: its share of this machine's matmul rate, and others'.

A slow dense side would make no honest ratio. So it is compared with what PyTorch and a well-known package have, each in
its fastest way: the whole batch at once, or a few samples at a time, so that their features stay in the cache.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.given import normal, uniform
from benchmarks.peers import peer
from benchmarks.race import Race, race, transformer
from benchmarks.table import Case, Row
from benchmarks.trained import pieces
from dynlib.backbone import Block, ViT

DEPTH, BATCH = 8, 32
SIZES = ((256, 65), (96, 65))  # features of a token, tokens


def cases(*, quick: bool = False) -> list[Case]:
    """A stack of blocks in inference at the sizes of the course, and a whole ViT."""
    sizes = ((64, 17),) if quick else SIZES
    return [
        *((f"dense transformer {dim} × {tokens}", partial(_layers, dim, tokens, quick)) for dim, tokens in sizes),
        peer("dense ViT", "vit-pytorch", partial(_vit, quick), module="vit_pytorch.vit", extra=False),
    ]


@torch.inference_mode()
def _layers(dim: int, tokens: int, quick: bool) -> Row:
    """Against PyTorch's own layer, which has a path of its own for inference."""
    torch.manual_seed(0)
    depth, batch = (2, 8) if quick else (DEPTH, BATCH)
    ours = nn.Sequential(*(Block(dim, heads=dim // 32) for _ in range(depth))).eval()
    layer = nn.TransformerEncoderLayer(dim, dim // 32, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False).eval()
    x = normal(batch, tokens, dim)
    run = race(pieces(ours, x, 4, 16), pieces(theirs, x, 4, 16), repeats=9)
    return _row(run, "dense transformer", transformer(dim, depth, batch, tokens), "torch.nn.TransformerEncoder")


@torch.inference_mode()
def _vit(quick: bool, package: Any, named: str) -> Row:
    torch.manual_seed(0)
    dim, depth, batch, side = (64, 2, 8, 16) if quick else (256, DEPTH, BATCH, 32)
    ours = ViT(image_size=side, patch_size=4, classes=10, dim=dim, depth=depth, heads=dim // 32).eval()
    theirs = package.ViT(
        image_size=side,
        patch_size=4,
        channels=1,
        num_classes=10,
        dim=dim,
        depth=depth,
        heads=dim // 32,
        dim_head=32,
        mlp_dim=4 * dim,
    ).eval()
    images = uniform(batch, 1, side, side)

    def ways(model: nn.Module) -> dict[str, Any]:
        return dict(pieces(model, images, 4, 16))

    run = race(ways(ours), ways(theirs), repeats=9)
    return _row(run, "dense ViT", transformer(dim, depth, batch, 1 + (side // 4) ** 2), named)


def _row(run: Race, mechanism: str, size: str, peer: str) -> Row:
    way = "in pieces" if "samples" in run.ours else "the whole batch at once"
    return run.row(mechanism, size, peer=peer, note=f"fastest {way}: this is what a mechanism is compared with")
