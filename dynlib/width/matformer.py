"""MatFormer: one feed-forward part that is several, the smaller ones the first neurons of the larger.

Width k takes the first k of the h neurons between the two linear layers:

    FF_k(x) = σ(x W₁[:k]ᵀ + b₁[:k]) W₂[:, :k]ᵀ + b₂.

Row j of W₁ and column j of W₂ belong to neuron j, so that a narrower layer is a slice of the wider one and no copy. The
output bias b₂ belongs to no neuron, and every width adds all of it. A gated layer, (σ(x W_g ᵀ + b_g) ⊙ (x W₁ᵀ + b₁))
W₂ᵀ + b₂, slices W_g as it slices W₁.

A model that was trained at its full width alone has no order among its neurons, and the first of them are any of them.
Trained at several widths, as :mod:`dynlib.width.joint` does, neuron j gets a gradient from all widths k > j
alone: the first neurons serve all, the last one the largest. :func:`extract` then takes a smaller model out of it, and
:func:`dynlib.width.mix.mix_and_match` finds a width for each layer.

Source: arXiv:2310.07707 (nested feed-forward parts, joint training, Mix'n'Match).
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from numbers import Real
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import FeedForward
from dynlib.backbone.attention import hooked
from dynlib.deciding import Execution, check_execution, recorded, report
from dynlib.inputs import check_number, check_tensor
from dynlib.width.feed_forward import GatedFeedForward, Parts, check_plain, parts_of, plain

Width = float | int
"""A share of a layer's neurons, above 0 and at most 1; or their number, if it is above 1. 1 is all of them."""


LINE = 64  # bytes of a cache line


class Narrowed(NamedTuple):
    """At which width one layer ran in one call."""

    neurons: int
    """How many, the first ones."""
    share: float
    """Of all that the layer has."""


class MatFormerFeedForward(nn.Module):
    """A feed-forward part of which the first neurons alone may run.

    It takes the place of ``Block.feed_forward``; its parameters have the names that they have there.

    Args:
        dim: features of a token.
        hidden: neurons at full width; four times ``dim`` if left out.
        widths: those that it is trained at, ascending, so that each holds the one before it; the last is the whole.
        width: how many of the neurons run, a share or a number (:data:`Width`). A larger one spends more. It may be
            any, also one that it is not trained at.
        gated: as :class:`GatedFeedForward`, else as :class:`dynlib.backbone.FeedForward`.
        execution: "gathered" computes the neurons that run. "masked" computes all and puts zeros for the others, and is
            there to be compared with.

    Width and execution are knobs (:func:`dynlib.deciding.setting`), checked whenever the layer is used; its records
    (:func:`dynlib.deciding.record`) are :class:`Narrowed`. To give each layer a width of its own: :func:`layer_widths`.

    At full width the linear layers are called as they are. At a narrower one their weights are sliced, past a hook or
    an adapter that somebody put on one later: that is an error and not done silently. Where a width is no multiple of
    16 neurons in float32 (8 in float64, 32 in half precision), its slice of W₂ is copied in each call, so that it
    computes what :func:`extract` gives, bit for bit.

    Raises:
        TypeError: if a width is no number, or ``widths`` is no sequence.
        ValueError: if a width is not above 0, larger than the layer, or no whole number of neurons; if ``widths`` do
            not ascend or do not end with all neurons; or a size is not positive.
    """

    knobs = ("width", "execution")
    reports = Narrowed

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        *,
        widths: Sequence[Width] = (1 / 8, 1 / 4, 1 / 2, 1),
        width: Width = 1,
        gated: bool = False,
        execution: Execution = "gathered",
    ) -> None:
        super().__init__()
        self._take(GatedFeedForward(dim, hidden) if gated else FeedForward(dim, hidden), widths)
        self.width: Width = width
        self.execution: Execution = execution
        self.check_knobs()

    @classmethod
    def of(cls, feed_forward: nn.Module, widths: Sequence[Width] = (1 / 8, 1 / 4, 1 / 2, 1)) -> "MatFormerFeedForward":
        """A trained feed-forward part, made one of several widths. At full width it is what it was, bit for bit.

        Its linear layers are used, not copied: training the one trains the other. Taken is one of these, with plain
        linear layers, with or without biases, and a function of :data:`dynlib.width.feed_forward.ELEMENTWISE`:

        - :class:`dynlib.backbone.FeedForward`, :class:`GatedFeedForward`, and this class itself, for other widths;
        - ``nn.Sequential(linear, function, linear)``;
        - any that is made of ``gate_proj``, ``up_proj``, ``down_proj`` and ``act_fn`` and nothing else that learns, as
          Llama's are; that it computes what these say is tried on random tokens.

        Raises:
            TypeError: if it is something else, or has something that a slice would lose: a hook, an adapter, a
                parametrised or quantised weight, a class derived from one of these.
            ValueError: as the class does.
        """
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._take(feed_forward, widths)
        made.width, made.execution = 1, "gathered"
        return made.train(feed_forward.training)

    def _take(self, given: nn.Module, widths: Sequence[Width]) -> None:
        self.gate: nn.Linear | None
        self.gate, self.expand, self.contract, self.activation = parts_of(given, MatFormerFeedForward)
        self.neurons: int = self.expand.out_features
        self.dim: int = self.expand.in_features
        self.widths: tuple[Width, ...] = _check_widths(widths, self.neurons)

    def hidden(self, width: Width) -> int:
        """How many neurons a width is, of this layer.

        Raises:
            TypeError: if it is no number.
            ValueError: if it is not above 0, larger than the layer, or no whole number of neurons.
        """
        return _neurons(width, self.neurons)

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Transform every token.

        Raises:
            TypeError: if the tokens are no floating-point tensor, or a linear layer is not plain and to be sliced.
            ValueError: if they have another number of features, or a knob is not as the class says.
        """
        self.check_knobs()
        check_tensor(x, "the tokens")
        if not x.is_floating_point():
            raise TypeError(f"tokens must be floating-point features; got {x.dtype}: embed them first")
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"tokens must be [..., {self.dim}]; got {tuple(x.shape)}")
        k = self.hidden(self.width)
        if recorded(self):
            report(self, Narrowed(k, k / self.neurons))
        if k == self.neurons or self.execution == "masked":
            h = self._activate(self.expand(x), None if self.gate is None else self.gate(x))
            if k < self.neurons:
                h = torch.where(torch.arange(self.neurons, device=h.device) < k, h, 0)
            return self.contract(h)
        # h_k = σ(x W₁[:k]ᵀ + b₁[:k])
        h = self._activate(_rows(self.expand, x, k), None if self.gate is None else _rows(self.gate, x, k))
        # h_k W₂[:, :k]ᵀ + b₂
        check_plain(self.contract)
        return F.linear(h, _columns(self.contract.weight, k), self.contract.bias)

    def _activate(self, expanded: Tensor, gate: Tensor | None) -> Tensor:
        return self.activation(expanded) if gate is None else self.activation(gate) * expanded

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for a knob that is not as the class says."""
        self.hidden(self.width)
        check_execution(self.execution)


def matformer(model: nn.Module, widths: Sequence[Width] = (1 / 8, 1 / 4, 1 / 2, 1)) -> Any:
    """Make every ``feed_forward`` of a model one of several widths, in place; the model is returned.

    Parameters stay the very ones that they were, under the same names, and at full width the model is what it was, bit
    for bit. To keep the old one, give a ``copy.deepcopy``. Where one cannot be taken, nothing is changed.

    Args:
        model: its blocks have a ``feed_forward`` that :meth:`MatFormerFeedForward.of` takes.
        widths: of all layers, as shares or numbers of neurons.

    Raises:
        TypeError, ValueError: as :meth:`MatFormerFeedForward.of` does.
        ValueError: if the model has no ``feed_forward``.
    """
    places: list[Any] = [one for one in model.modules() if isinstance(getattr(one, "feed_forward", None), nn.Module)]
    if not places:
        raise ValueError(f"{type(model).__name__} has no feed_forward in it: use MatFormerFeedForward.of on its layers")
    made: dict[nn.Module, MatFormerFeedForward] = {}
    for block in places:  # one that stands in several places is made once
        if block.feed_forward not in made:
            made[block.feed_forward] = MatFormerFeedForward.of(block.feed_forward, widths)
    for block in places:
        block.feed_forward = made[block.feed_forward]
    return model


def extract(model: nn.Module, width: Width | Sequence[Width]) -> Any:
    """A standalone copy of a model in which every layer has the neurons of its width and no others.

    It computes what the model computes at that width, bit for bit, with plain layers: :class:`FeedForward` where the
    function is the GELU and there are biases, ``nn.Sequential(linear, function, linear)`` elsewhere, and
    :class:`GatedFeedForward` where it is gated. Nothing is shared with the model, which stays as it is. Mode, number
    type, device and ``requires_grad`` are kept.

    Args:
        model: holds :class:`MatFormerFeedForward` layers, or is one.
        width: of all layers, or one for each, in the order of ``model.named_modules()``.

    Raises:
        TypeError: if a width is no number, or a layer has hooks or adapters, which the copy would lose.
        ValueError: if a width is not above 0, larger than the layer or no whole number of its neurons; there is another
            number of widths than layers; or the model has no such layer.
    """
    layers = matformer_layers(model)
    small = {id(one): _small(one, k) for one, k in zip(layers, _each(layers, width), strict=True)}
    return copy.deepcopy(model, small)  # wherever the layer stands, the small one is put


@contextmanager
def layer_widths(model: nn.Module, widths: Width | Sequence[Width]) -> Iterator[None]:
    """Set a width for each layer, in the order of ``model.named_modules()``, and put all back in the end.

    Raises:
        TypeError, ValueError: as :func:`extract` does for widths; no layer is changed then.
    """
    layers = matformer_layers(model)
    each = _each(layers, widths)
    before = [layer.width for layer in layers]
    try:
        for layer, width in zip(layers, each, strict=True):
            layer.width = width
        yield
    finally:
        for layer, width in zip(layers, before, strict=True):
            layer.width = width


def _neurons(width: Width, hidden: int) -> int:
    number = check_number("a width", width, least=0, open=True)
    count = number * hidden if number <= 1 else number
    whole = round(count)
    if whole > hidden:
        raise ValueError(f"a width must be a share up to 1 or at most the layer's {hidden} neurons; got {width}")
    if whole < 1 or abs(whole - count) > 1e-9 * hidden:
        raise ValueError(
            f"a width must be a whole number of neurons, and {width} of {hidden} is {count:g}: name another share, or "
            "the number"
        )
    return whole


def _check_widths(widths: Sequence[Width], hidden: int) -> tuple[Width, ...]:
    if isinstance(widths, Real | str) or not isinstance(widths, Sequence):
        raise TypeError(f"widths must be a sequence of numbers, as (1 / 4, 1 / 2, 1); got {widths!r}")
    counts = [_neurons(width, hidden) for width in widths]
    if not counts or counts[-1] != hidden or any(b <= a for a, b in pairwise(counts)):
        raise ValueError(
            f"widths must ascend, each holding the one before it, up to all {hidden} neurons, as (1 / 4, 1 / 2, 1); "
            f"got {tuple(widths)}, which are {counts} neurons"
        )
    return tuple(widths)


def matformer_layers(model: nn.Module) -> list[MatFormerFeedForward]:
    """The layers of this kind, each once, in the order of ``model.named_modules()``; ValueError if there are none."""
    layers = [module for module in model.modules() if isinstance(module, MatFormerFeedForward)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no MatFormerFeedForward: put some in with matformer(model)")
    return layers


def _each(layers: Sequence[MatFormerFeedForward], widths: Width | Sequence[Width]) -> list[Width]:
    each: list[Width] = [widths] * len(layers) if isinstance(widths, Real) else list(widths)  # type: ignore[arg-type]
    if len(each) != len(layers):
        raise ValueError(f"give one width, or one for each of the {len(layers)} layers; got {len(each)}")
    for layer, width in zip(layers, each, strict=True):
        layer.hidden(width)
    return each


def _rows(layer: nn.Linear, x: Tensor, k: int) -> Tensor:
    """The first k outputs of a linear layer: x W[:k]ᵀ + b[:k]."""
    check_plain(layer)
    return F.linear(x, layer.weight[:k], None if layer.bias is None else layer.bias[:k])


def _columns(weight: Tensor, k: int) -> Tensor:
    """The first k columns of W₂, to multiply with: not in one piece if the result is that of a copy, bit for bit.

    So it is where the rows of both begin at whole lines of the cache. A copy would take up to a third of the time.
    """
    columns, size = weight[:, :k], weight.element_size()
    aligned = k * size % LINE == 0 and weight.shape[1] * size % LINE == 0
    return columns if aligned else columns.contiguous()


def _small(layer: MatFormerFeedForward, width: Width) -> nn.Module:
    """A plain feed-forward part of the first neurons of a layer, with weights of its own."""
    if hooked(layer):
        raise TypeError("a MatFormerFeedForward has a hook, which the extracted layer would lose: remove it first")
    k = layer.hidden(width)
    gate, expand, contract, activation = parts_of(layer, MatFormerFeedForward)
    parts = Parts(
        None if gate is None else _cut(gate, rows=k),
        _cut(expand, rows=k),
        _cut(contract, columns=k),
        copy.deepcopy(activation),
    )
    return plain(parts).train(layer.training)


def _cut(layer: nn.Linear, *, rows: int | None = None, columns: int | None = None) -> nn.Linear:
    weight, bias = layer.weight, layer.bias
    with torch.device("meta"):
        made = nn.Linear(1, 1, bias=bias is not None)
    made.weight = nn.Parameter(weight.detach()[:rows, :columns].clone(), weight.requires_grad)
    made.out_features, made.in_features = made.weight.shape
    if bias is not None:
        made.bias = nn.Parameter(bias.detach()[:rows].clone(), bias.requires_grad)
    return made
