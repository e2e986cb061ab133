"""Training a MatFormer: all widths in one step, or one of them, drawn anew each step.

    joint:    Σ_g λ_g L(M_g(x), y)              every step costs the passes of all widths
    sampled:  L(M_g(x), y), g drawn evenly      every step costs one pass; in expectation the joint loss with λ = 1 / G

M_g is the model at its width g. Both are losses as any other, for :func:`dynlib.training.train` or a loop of one's own.

Source: arXiv:2310.07707, whose abstract has the nested parts trained jointly.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynlib.deciding import setting
from dynlib.inputs import check_number
from dynlib.width.matformer import MatFormerFeedForward, Width, matformer_layers


def joint_loss(
    model: nn.Module, loss: Callable[[], Tensor], *, weights: Sequence[float | int] | None = None
) -> Float[Tensor, ""]:
    """Σ λ_g · loss at width g, over all widths that the layers are trained at: one update for all of them.

    λ is 1 / G, the mean, if left out: as large as the loss of one width. ``weights=(1,) * G`` is the sum, as in the
    public release of the paper's language models (github.com/RAIVNLab/MatFormer-OLMo). The gradient of the sum is G
    times that of the mean, and so is a step of plain gradient descent; Adam divides it out again. It costs the passes
    of all widths.

    The width is put back before the backward pass: do not put the layers into ``torch.utils.checkpoint`` here, which
    runs them once more then.

    Args:
        model: holds :class:`MatFormerFeedForward` layers, all with the same ``widths``.
        loss: the loss of the model as it is set, on the same batch every time.
        weights: λ, one for each width, not negative.

    Raises:
        ValueError: if the model has no such layer, their ``widths`` differ, or there is another number of weights.
    """
    widths = _common(model)
    weights = [1 / len(widths)] * len(widths) if weights is None else list(weights)
    if len(weights) != len(widths):
        raise ValueError(f"give one weight for each of the widths {widths}; got {len(weights)}")
    weights = [check_number("a weight", weight, least=0) for weight in weights]
    losses = []
    for width, weight in zip(widths, weights, strict=True):
        with setting(model, MatFormerFeedForward, width=width):
            losses.append(weight * loss())
    return torch.stack(losses).sum()


def sampled_loss(
    model: nn.Module, loss: Callable[[], Tensor], *, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """The loss at one width, drawn evenly from those that the layers are trained at: an update costs one pass.

    Its expectation is :func:`joint_loss` without weights. As there, no ``torch.utils.checkpoint``.

    Args:
        model, loss: as there.
        generator: for the draw, on the CPU.

    Raises:
        ValueError: if the model has no such layer, or their ``widths`` differ.
    """
    widths = _common(model)
    with setting(model, MatFormerFeedForward, width=widths[int(torch.randint(len(widths), (), generator=generator))]):
        return loss()


def _common(model: nn.Module) -> tuple[Width, ...]:
    found = {layer.widths for layer in matformer_layers(model)}
    if len(found) > 1:
        raise ValueError(f"the layers have different widths, {sorted(found)}: make them with the same")
    return found.pop()
