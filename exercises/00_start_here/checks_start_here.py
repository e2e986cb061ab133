"""The checks of unit 00: what each task is tried on, and what is right, found the slow way."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dynlib.checks import Task


def blank_share(check: Task, answer: Callable[..., Tensor], *, images: Tensor | None = None, patch: int = 2) -> None:
    """Task 1: on two small images whose shares are known, or on ``images``."""
    if images is None:
        images = torch.zeros(2, 1, 4, 6)  # six patches; grey pixels in one of the first image, none in the second
        images[0, 0, 0, 0] = images[0, 0, 1, 1] = 0.1
    by_patch = [[piece for row in image.split(patch, 0) for piece in row.split(patch, 1)] for image in images[:, 0]]
    with check.untouched(tested="the images", images=images):
        got = answer(images, patch)
    check.close(
        "shares",
        got,
        torch.tensor([sum(float(piece.max()) == 0 for piece in pieces) / len(pieces) for pieces in by_patch]),
        tested=f"images {list(images.shape)} in patches of {patch}×{patch} pixels; some hold a grey pixel or two",
        likely="a size that you wrote as a number, or a mean over an axis that is no patch",
        mistakes={
            "you give the share of patches with ink; the blank ones are the rest": _mean(
                by_patch, lambda p: p.max() > 0
            ),
            "you count pixels: a patch with one inked pixel is not blank": (images == 0).float().mean((1, 2, 3)),
            "a reshape takes pixels in reading order, and a patch is a square: pooling looks at squares": (
                (images.flatten(1).unflatten(1, (-1, patch * patch)).amax(-1) == 0).float().mean(1)
            ),
            "grey counts as ink: anything above 0": _mean(by_patch, lambda p: p.max() < 0.5),
            "that is the mean over the whole batch: each image has its own share": (
                _mean(by_patch, lambda p: p.max() == 0).mean().expand(len(images))
            ),
        },
    )


def most_ink(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    images: Tensor | None = None,
    patch: int = 2,
    ks: Sequence[int] = (2, 0, 6),
) -> None:
    """Task 2: on one small image whose ink is known, or on ``images``, no two patches of which hold the same ink."""
    if images is None:
        images = torch.zeros(1, 1, 4, 6)  # patches of 2×2 pixels: 0 1 2 in the first row, 3 4 5 in the second
        images[0, 0, 0:2, 0:2] = 0.05
        images[0, 0, 0:2, 2:4] = 0.5  # patch 1: ink 2.0 in all, spread over its pixels
        images[0, 0, 2, 0] = 1.0  # patch 3: ink 1.0, one dark pixel
        images[0, 0, 2:4, 2:4] = 0.1
        images[0, 0, 2:4, 4:6] = 0.9  # patch 5: ink 3.6
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    pieces = [piece for row in images.split(patch, 2) for piece in row.split(patch, 3)]
    ink, dark = (torch.stack([look(piece) for piece in pieces], 1) for look in (_sum, _max))
    turned = ink.view(-1, rows, columns).transpose(1, 2).flatten(1)  # numbered column by column
    for k in ks:
        with check.untouched(tested="the images", images=images):
            got = _answered(check, answer, images, patch, k)
        check.equal(
            "numbers" if k else "k = 0",
            got,
            _best(ink, k).sort(1).values,
            tested=f"images {list(images.shape)} in a grid of {rows}×{columns} patches; k={k}",
            likely="patches are numbered row by row, and each image has its own best ones",
            mistakes={
                "patches are numbered from 0; the 1 + of the lecture made room for the class token": (
                    _best(ink, k).sort(1).values + 1
                ),
                "they are in the order of their ink: sort the numbers": _best(ink, k),
                "these patches have the darkest pixel; ink is the sum over the patch": _best(dark, k).sort(1).values,
                "patches are numbered row by row, you number them column by column": _best(turned, k).sort(1).values,
                "these have the least ink": _best(-ink, k).sort(1).values,
            },
        )
    for k, likely in (
        (ink.shape[1] + 1, "topk complains of it, but with a RuntimeError: check k first"),
        (-1, "topk has another error for it, and a slice quietly keeps all but the last: check k first"),
    ):
        tested = f"k={k} of {ink.shape[1]} patches"
        check.raises("range of k", ValueError, lambda k=k: answer(images, patch, k), tested=tested, likely=likely)


def _answered(check: Task, answer: Callable[..., Tensor], images: Tensor, patch: int, k: int) -> Tensor:
    """The learner's numbers of patches, once they are not refused, and neither the ink nor two things at once."""
    try:
        got = answer(images, patch, k)
    except ValueError as error:
        check.true(
            "k = 0" if k == 0 else "numbers",
            False,
            tested=f"k={k}, {images.shape[2] // patch * (images.shape[3] // patch)} patches",
            expected="an answer: every k from 0 to the number of patches is allowed",
            got=f"ValueError: {error}",
            likely="0 patches are possible: the answer then has no columns" if k == 0 else "all patches may stay",
        )
    pair = isinstance(got, tuple)
    if pair or (isinstance(got, Tensor) and got.is_floating_point()):
        check.true(
            "numbers",
            False,
            tested="the type of the answer",
            expected="a tensor of whole numbers",
            got=f"{type(got).__name__}" if pair else f"a tensor of {got.dtype}",
            likely="topk and sort each give values and indices: .indices of topk, .values of sort",
        )
    return got


def _mean(by_patch: list[list[Tensor]], of: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.tensor([[float(of(piece)) for piece in pieces] for pieces in by_patch]).mean(1)


def _sum(piece: Tensor) -> Tensor:
    return piece.double().sum((1, 2, 3))


def _max(piece: Tensor) -> Tensor:
    return piece.amax((1, 2, 3)).double() + 1e-6 * _sum(piece)


def _best(ink: Tensor, k: int) -> Tensor:
    """The places of the k largest of each row, the largest first."""
    return torch.tensor(
        [sorted(range(ink.shape[1]), key=lambda place, row=row: -row[place])[:k] for row in ink.tolist()],
        dtype=torch.int64,
    ).view(len(ink), k)
