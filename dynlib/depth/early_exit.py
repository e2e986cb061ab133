"""Stop when the answer is there: a small head after some of the layers, and each sample leaves at the first sure one.

Exit i reads a guess from the tokens after its layer, and a *confidence* c from the guess. With thresholds λ a sample
leaves at

    exit(x) = min { i : cᵢ(x) ≥ λᵢ },    and the last exit, the backbone's own readout, takes all who are left.

So λ = 0 lets all leave at the first exit, λ > 1 makes everyone stay to the end, and a larger λ never lets a sample
leave earlier. Every sample decides for itself: a batch that waited until its *least* sure sample is sure would compute
what nobody needs, and one that left on its *mean* confidence would take samples along that are not ready.

Later exits are better on average, not for every sample: some are right early and wrong in the end ("overthinking",
arXiv:1810.07052). A threshold chosen by looking at calibration data promises nothing by itself: see
:func:`dynlib.depth.learn_then_test`.

What a confidence is, and when it is enough, stands in :mod:`dynlib.depth.confidence`; what exits are trained on, in
:mod:`dynlib.depth.exit_training`.

Source: arXiv:1709.01686.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dynlib.deciding import Execution, check_execution, chosen, report
from dynlib.depth.confidence import (
    Confidence,
    Threshold,
    check_sure,
    check_threshold,
    confidence_function,
    exit_index,
    is_enough,
    margin,
    max_probability,
    negative_entropy,
)
from dynlib.depth.exit_training import exit_loss
from dynlib.inputs import check_tensor, check_whole

__all__ = [
    "Confidence",
    "ExitHead",
    "MultiExit",
    "Prediction",
    "Threshold",
    "exit_index",
    "exit_loss",
    "margin",
    "max_probability",
    "negative_entropy",
]


class Prediction(NamedTuple):
    """What samples left with, in the order in which they came."""

    logits: Float[Tensor, "batch classes"]
    """Of the exit that the sample took."""
    exit: Int[Tensor, " batch"]
    """After how many layers that was: one of ``MultiExit.exits``, the last of which is the depth."""
    confidence: Float[Tensor, " batch"]
    """How sure that exit was, [0, 1]; of the last exit it may be anything."""


class ExitHead(nn.Module):
    """A guess from the tokens halfway: a norm and a linear map of the first token, the class token.

    Each exit has a norm of its own, because the features of each layer have a scale of their own.

    Args:
        dim: features of a token.
        classes: number of logits.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, classes)
        nn.init.normal_(self.linear.weight, std=dim**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch classes"]:
        """Tokens to class logits."""
        return self.linear(self.norm(tokens[:, 0]))


class MultiExit(nn.Module):
    """A backbone with exits on the way.

    The backbone is used, not copied: what trains here trains there. It may be any module in three steps, as
    :class:`dynlib.backbone.ViT` is: ``embed(x)`` makes tokens [batch, tokens, dim], each of ``blocks`` maps tokens to
    tokens, each sample on its own, and ``readout(tokens)`` makes logits [batch, classes].

    Args:
        backbone: the model to leave early.
        exits: after how many layers there is an early exit, in rising order, from 1 on. The exit after all layers is
            the backbone's own readout, which is always there and may be named or left out. None at all is the backbone.
        heads: one module for each early exit, tokens [batch, tokens, dim] to logits [batch, classes]. If left out, an
            :class:`ExitHead` each, of the size, number type and device of the linear layer ``backbone.head``.

    Attributes:
        exits: after how many layers the exits are, with the last one.

    The knob is the threshold, given where it is used, at :meth:`predict`; a larger one spends more. The records of
    :meth:`predict` (:func:`dynlib.deciding.record`) are :class:`Prediction`.

    Raises:
        TypeError: if the backbone has no such steps, a layer number is not a whole number, or the heads are left out
            and there is no ``backbone.head`` to see their sizes from.
        ValueError: if an exit lies before the first layer or past the last, one is named twice or out of order, or the
            heads are not as many as the early exits.
    """

    reports = Prediction

    def __init__(self, backbone: nn.Module, exits: Sequence[int], *, heads: Sequence[nn.Module] | None = None) -> None:
        super().__init__()
        blocks = getattr(backbone, "blocks", None)
        steps = callable(getattr(backbone, "embed", None)) and callable(getattr(backbone, "readout", None))
        if not steps or not isinstance(blocks, nn.ModuleList | nn.Sequential):
            raise TypeError(
                f"the backbone must have embed, blocks (an nn.ModuleList) and readout, as dynlib.backbone.ViT has; "
                f"{type(backbone).__name__} has not"
            )
        self.backbone: Any = backbone
        self.exits = _check_exits(exits, len(blocks))
        if heads is None:
            heads = [_head_like(backbone) for _ in self.exits[:-1]]
        if len(heads) != len(self.exits) - 1:
            raise ValueError(
                f"there must be one head for each of the {len(self.exits) - 1} early exits, after layers "
                f"{list(self.exits[:-1])}; got {len(heads)}. The last exit is the backbone's readout"
            )
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor, *, detach: bool = False) -> Float[Tensor, "exits batch classes"]:
        """The logits of all exits, first to last: what :func:`exit_loss` trains and a sweep of thresholds reads.

        Args:
            x: what ``backbone.embed`` takes.
            detach: train the heads and nothing else. The backbone runs without gradient, its readout too, so that the
                logits of the last exit are a constant. This stands here and not in the loss, because it is the
                features that must be cut off: logits cut off would teach the heads nothing either.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
            tokens, features = self.backbone.embed(x), []
            for stretch in self._stretches():
                tokens = _through(stretch, tokens)
                features.append(tokens)
            last = self._read(len(self.heads), tokens)
        early = [self._read(number, tokens) for number, tokens in enumerate(features[:-1])]
        return torch.stack([*early, last])

    @torch.no_grad()
    def predict(
        self,
        x: Tensor,
        threshold: Threshold,
        *,
        confidence: Confidence | None = None,
        execution: Execution = "gathered",
        rows: int | None = None,
    ) -> Prediction:
        """Let every sample leave at the first exit that is sure enough of it.

        The exit of a sample, and its logits up to rounding, are those that it has when it is alone in the batch. Put
        the model in evaluation mode first, if it has dropout.

        Args:
            x: what ``backbone.embed`` takes; at least one sample.
            threshold: the λ from which on a confidence is enough, not negative; one number for all early exits, or one
                for each. 0 is always enough. Above 1 is never, and the logits are then bit for bit the backbone's,
                unless ``rows`` are given.
            confidence: as :func:`max_probability`, which it is if left out.
            execution: "gathered": the batch shrinks as its samples leave, and stops when all have left. "masked":
                everything is computed and one exit's logits are picked.
            rows: with "gathered", send at most so many tokens at a time through the layers between two exits, but
                always a whole sample: few enough to stay in a cache. All at once if left out.

        Raises:
            TypeError: if a threshold is no number, ``rows`` no int, or ``x`` no tensor.
            ValueError: if a threshold is negative or NaN, or they are not as many as the early exits, the batch is
                empty, a logit or a confidence is NaN, ``rows`` are below 1 or given with "masked", or the execution or
                the confidence has another name.
        """
        check_tensor(x, "the input")
        ask = confidence_function(confidence)
        limits = check_threshold(threshold, len(self.heads))
        check_execution(execution, rows=rows)
        if x.shape[0] == 0:
            raise ValueError(f"there must be at least one sample; got shape {tuple(x.shape)}: leave out an empty batch")
        left = self._masked(x, limits, ask) if execution == "masked" else self._gathered(x, limits, ask, rows)
        report(self, left)
        return left

    def _masked(self, x: Tensor, limits: list[float], ask: Callable[[Tensor], Tensor]) -> Prediction:
        logits = self(x)
        sure = ask(logits)
        exit = exit_index(sure, limits)
        sample = torch.arange(logits.shape[1], device=logits.device)
        layers = torch.tensor(self.exits, device=logits.device)
        return Prediction(logits[exit, sample], layers[exit], sure[exit, sample])

    def _gathered(
        self, x: Tensor, limits: list[float], ask: Callable[[Tensor], Tensor], rows: int | None
    ) -> Prediction:
        tokens = self.backbone.embed(x)
        waiting = torch.arange(len(tokens), device=tokens.device)  # the samples that the rows of tokens belong to
        chunk = None if rows is None else max(rows // tokens[0, ..., 0].numel(), 1)  # in samples
        pieces = tokens.split(len(tokens) if chunk is None else chunk)  # the rows, in order
        gone: list[tuple[Tensor, ...]] = []
        for number, stretch in enumerate(self._stretches()):
            pieces = [_through(stretch, piece) for piece in pieces]
            logits = torch.cat([self._read(number, piece) for piece in pieces])
            sure = ask(logits)
            check_sure(sure, logits)
            # cᵢ(x) ≥ λᵢ, and the last exit takes all
            enough = is_enough(sure, limits[number]) if number < len(limits) else torch.ones_like(waiting).bool()
            leave = chosen(enough)
            if len(leave) == len(waiting):
                gone.append((waiting, logits, torch.full_like(waiting, self.exits[number]), sure))
                break
            if len(leave) > 0:
                gone.append((waiting[leave], logits[leave], torch.full_like(leave, self.exits[number]), sure[leave]))
                waiting, pieces = waiting[~enough], _keep(pieces, ~enough, chunk)
        sample, *parts = gone[0] if len(gone) == 1 else (torch.cat(part) for part in zip(*gone, strict=True))
        order = sample.argsort()
        return Prediction(*(part[order] for part in parts))

    def _stretches(self) -> list[list[nn.Module]]:
        """The layers from each exit to the next."""
        blocks = list(self.backbone.blocks)
        return [blocks[start:end] for start, end in pairwise((0, *self.exits))]

    def _read(self, number: int, tokens: Tensor) -> Tensor:
        logits = self.heads[number](tokens) if number < len(self.heads) else self.backbone.readout(tokens)
        if logits.ndim != 2 or len(logits) != len(tokens):
            raise ValueError(
                f"the exit after layer {self.exits[number]} must give logits [batch, classes] for tokens of "
                f"shape {tuple(tokens.shape)}; it gave {tuple(logits.shape)}"
            )
        return logits


def _keep(pieces: Sequence[Tensor], stays: Tensor, chunk: int | None) -> list[Tensor]:
    """The rows that stay, copied once; pieces that have become small are joined, up to ``chunk`` rows."""
    groups: list[list[Tensor]] = []
    for piece, stay in zip(pieces, stays.split([len(piece) for piece in pieces]), strict=True):
        rows = piece[stay]
        if groups and chunk is not None and sum(map(len, groups[-1])) + len(rows) <= chunk:
            groups[-1].append(rows)
        else:
            groups.append([rows])
    return [torch.cat(group) if len(group) > 1 else group[0] for group in groups if any(map(len, group))]


def _through(blocks: list[nn.Module], tokens: Tensor) -> Tensor:
    for block in blocks:
        tokens = block(tokens)
    return tokens


def _head_like(backbone: nn.Module) -> ExitHead:
    last = getattr(backbone, "head", None)
    if not isinstance(last, nn.Linear):
        raise TypeError(f"{type(backbone).__name__} has no linear layer 'head' to see sizes from: give heads")
    return ExitHead(last.in_features, last.out_features).to(last.weight.device, last.weight.dtype)


def _check_exits(exits: Sequence[int], depth: int) -> tuple[int, ...]:
    for layer in exits:
        check_whole("exit", layer)
        if not 1 <= layer <= depth:
            raise ValueError(f"there is no exit after layer {layer}: the backbone has layers 1 … {depth}")
    if any(a >= b for a, b in pairwise(exits)):
        raise ValueError(f"exits must rise, each named once; got {list(exits)}: use sorted(set(exits))")
    if depth == 0:
        raise ValueError("the backbone has no layers, so that there is nothing to leave early")
    return (*exits, depth) if not exits or exits[-1] != depth else tuple(exits)
