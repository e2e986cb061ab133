"""Run the layers of a frozen transformer otherwise than in order: left out, repeated, reversed, shuffled, side by side.

A layer that adds to the residual stream leaves its input's form unchanged, so that any layer can follow any other: like
painters in a row who hand on one canvas. What becomes of the picture when the painters in the middle

- stay away (:func:`skip`), are all replaced by the one at the centre (:func:`middle_repeat`),
- stand in reverse order (:func:`reverse`) or in any order (:func:`shuffle`),
- all paint on the same canvas, of which the mean is taken (:func:`parallel`), once or again and again
  (:func:`looped_parallel`)?

Each function takes layers and two numbers and gives a :class:`Plan`. **The middle is** ``layers[first:last]``, counted
from 0, ``last`` not included; the layers before and after it stay as they are. To keep n layers at either end take
``first=n, last=len(layers) - n``. Nothing is trained or copied: a plan holds the layers themselves.

    plan = reverse(model.blocks, 2, 6)
    logits = model.readout(plan(model.embed(tokens)))

A plan is an ``nn.ModuleList`` too, so that ``model.blocks = plan`` runs the whole model by it (keep the old list to
undo it). That serves any model that runs through a list of layers.

Source: arXiv:2407.09298.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynlib.inputs import check_whole


class Plan(nn.ModuleList):
    """Layers in the order in which they run. One may occur several times."""

    def forward(self, hidden: Float[Tensor, "*shape"], *args: Any, **kwargs: Any) -> Float[Tensor, "*shape"]:
        """Hidden states through every layer in turn.

        Args:
            hidden: what the first layer gets.
            args, kwargs: what every layer gets besides, such as masks and positions.
        """
        for layer in self:
            hidden = _hidden(layer(hidden, *args, **kwargs))
        return hidden


class Parallel(nn.Module):
    """Layers side by side: all on the same input x, and the mean of their *outputs*.

    A layer puts out x + Δᵢ(x), so this is x + meanᵢ Δᵢ(x): the input once and a mean of the updates. It has the size of
    what one layer gives; x + Σᵢ Δᵢ(x) would not.

    Args:
        layers: at least one.
    """

    def __init__(self, layers: Sequence[nn.Module] | nn.ModuleList) -> None:
        super().__init__()
        if len(layers) == 0:
            raise ValueError("there are no layers to put side by side: give at least one")
        self.layers = nn.ModuleList(layers)

    def forward(self, hidden: Float[Tensor, "..."], *args: Any, **kwargs: Any) -> Any:
        """The mean of the layers' outputs; in a tuple of one if the layers put out tuples.

        Args:
            hidden: what every layer gets.
            args, kwargs: what every layer gets besides.

        Raises:
            ValueError: if there is a ``cache``: it keeps the past of one layer, and here there are several.
        """
        if kwargs.get("cache") is not None:
            raise ValueError(
                f"a cache keeps the past of one layer, and here {len(self.layers)} stand side by side: run without one "
                "(generate(…, use_cache=False))"
            )
        outputs = [layer(hidden, *args, **kwargs) for layer in self.layers]
        # (1/M) Σᵢ (x + Δᵢ(x))
        mean = torch.stack([_hidden(output) for output in outputs]).mean(0)
        return (mean,) if isinstance(outputs[0], tuple) else mean


def skip(layers: Sequence[nn.Module] | nn.ModuleList, first: int, last: int) -> Plan:
    """Without the middle.

    Args:
        layers: a stack, each layer from hidden states to hidden states of the same shape, or to a tuple that begins
            with them.
        first, last: the middle, ``layers[first:last]``.

    Raises:
        ValueError: if the middle is empty or names a layer that does not exist.
        TypeError: if ``first`` or ``last`` is not an integer.
    """
    before, _, after = _split(layers, first, last)
    return Plan([*before, *after])


def middle_repeat(layers: Sequence[nn.Module] | nn.ModuleList, first: int, last: int) -> Plan:
    """The layer at the centre of the middle in place of every one of the middle: as many layers, one painter.

    The centre is ``layers[(first + last) // 2]``, of an even number the later one of the two. Arguments and errors as
    in :func:`skip`.
    """
    before, middle, after = _split(layers, first, last)
    return Plan([*before, *[middle[len(middle) // 2]] * len(middle), *after])


def reverse(layers: Sequence[nn.Module] | nn.ModuleList, first: int, last: int) -> Plan:
    """The middle from its last layer to its first. Arguments and errors as in :func:`skip`."""
    before, middle, after = _split(layers, first, last)
    return Plan([*before, *reversed(middle), *after])


def shuffle(
    layers: Sequence[nn.Module] | nn.ModuleList, first: int, last: int, *, generator: torch.Generator | None = None
) -> Plan:
    """The middle in a random order, every order equally likely. It is drawn here, once: the plan keeps it.

    Args:
        layers, first, last: as in :func:`skip`.
        generator: of the CPU, where the randomness comes from; torch's global one if left out.

    Raises:
        ValueError, TypeError: as in :func:`skip`.
    """
    before, middle, after = _split(layers, first, last)
    order = torch.randperm(len(middle), generator=generator).tolist()
    return Plan([*before, *(middle[place] for place in order), *after])


def parallel(layers: Sequence[nn.Module] | nn.ModuleList, first: int, last: int) -> Plan:
    """The middle side by side (:class:`Parallel`). Arguments and errors as in :func:`skip`."""
    return looped_parallel(layers, first, last, iterations=1)


def looped_parallel(layers: Sequence[nn.Module] | nn.ModuleList, first: int, last: int, *, iterations: int = 3) -> Plan:
    """The middle side by side, its mean fed back to it: ``iterations`` times in all.

    Args:
        layers, first, last: as in :func:`skip`.
        iterations: how often the middle runs. Each costs as much as the middle in order.

    Raises:
        ValueError: as in :func:`skip`, or if ``iterations`` is below 1.
        TypeError: as in :func:`skip`, or if ``iterations`` is not an integer.
    """
    before, middle, after = _split(layers, first, last)
    check_whole("iterations", iterations)
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1; got {iterations}: to leave the middle out use skip")
    return Plan([*before, *[Parallel(middle)] * iterations, *after])


def layer_similarity(
    layers: Sequence[nn.Module] | nn.ModuleList, hidden: Float[Tensor, "... dim"], *args: Any, **kwargs: Any
) -> Float[Tensor, "layers layers"]:
    """How alike the hidden states after different layers are: cosine(hᵢ, hⱼ), mean over tokens.

    Blocks of ones show layers that speak one language, where another order has a chance.

    Args:
        layers: a stack, or a :class:`Plan`.
        hidden: what the first layer gets, h₀; it has no row of its own.
        args, kwargs: what every layer gets besides.

    Raises:
        ValueError: if there are no layers or no tokens.
    """
    if len(layers) == 0 or hidden.numel() == 0:
        raise ValueError(f"need layers and tokens; got {len(layers)} layers and states of {tuple(hidden.shape)}")
    directions = []
    for layer in layers:
        hidden = _hidden(layer(hidden, *args, **kwargs))
        directions.append(nn.functional.normalize(hidden, dim=-1).flatten(0, -2))
    stacked = torch.stack(directions)  # [layers, tokens, dim]
    return torch.einsum("itd,jtd->ij", stacked, stacked) / stacked.shape[1]


def _hidden(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _split(
    layers: Sequence[nn.Module] | nn.ModuleList, first: int, last: int
) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
    """The layers before the middle, the middle, and those after it."""
    check_whole("first", first)
    check_whole("last", last)
    if not (0 <= first <= len(layers) and 0 <= last <= len(layers)):
        raise ValueError(
            f"there are {len(layers)} layers, and the middle layers[{first}:{last}] names one that does not exist: "
            f"need 0 <= first < last <= {len(layers)}"
        )
    if first >= last:
        raise ValueError(f"the middle layers[{first}:{last}] is empty: need first < last, which is not included")
    listed = list(layers)
    return listed[:first], listed[first:last], listed[last:]
