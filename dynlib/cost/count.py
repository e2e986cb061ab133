"""Count what a model's forward pass, or any other piece of PyTorch code, really computes and moves.

Costs are counted, never declared: :func:`count` watches every operator that runs. A part that is skipped costs nothing,
and a part that is computed and then masked away costs as much as one that is used.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dynlib.cost.flops import Formula, flops, formula_for, is_composite, is_plain
from dynlib.cost.traffic import ParameterReads, tensors, traffic


class Share(NamedTuple):
    """One cost as shares of another, field by field; None where one of the two is unknown or the other is zero."""

    flops: float | None
    params: float | None
    bytes: float | None
    seconds: float | None
    joules: float | None


@dataclass(frozen=True)
class Cost:
    """What something cost.

    Costs add. The parameters add too: the sum of two runs of one model says how many parameters were read in all, each
    run on its own. What is unknown in one summand is unknown in the sum.
    """

    flops: int
    """Floating-point operations of matrix products, convolutions and attention; a multiply-add is two."""
    params: int
    """Distinct elements of parameters that were read."""
    bytes: int
    """Bytes that the operators read and wrote."""
    seconds: float | None = None
    """Time it took; None if it was not measured."""
    joules: float | None = None
    """Energy it took; None if it was not measured."""

    def __add__(self, other: "Cost") -> "Cost":
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(
            self.flops + other.flops,
            self.params + other.params,
            self.bytes + other.bytes,
            None if self.seconds is None or other.seconds is None else self.seconds + other.seconds,
            None if self.joules is None or other.joules is None else self.joules + other.joules,
        )

    def __radd__(self, other: object) -> "Cost":
        return self if other == 0 else NotImplemented  # sum() starts at 0

    def share_of(self, dense: "Cost") -> Share:
        """This cost as shares of another one, usually that of the dense model."""
        return Share(
            *(None if a is None or not b else a / b for a, b in zip(_fields(self), _fields(dense), strict=True))
        )

    def __str__(self) -> str:
        units = ("FLOP", " parameters", "B", "s", "J")
        given = zip(_fields(self), units, strict=True)
        return " · ".join(readable(value, unit) for value, unit in given if value is not None)


def count(
    model: Callable[..., Any],
    /,
    *inputs: Any,
    modules: nn.Module | Iterable[nn.Module] = (),
    formulas: Mapping[Any, Formula] | None = None,
    **kwargs: Any,
) -> Cost:
    """Run ``model(*inputs, **kwargs)`` once and count what ran.

    The gradient mode is the caller's, and a backward pass counts if ``model`` runs one. ``seconds`` and ``joules`` stay
    None: see :func:`dynlib.cost.timed` and :func:`dynlib.cost.estimate_energy`.

    **FLOPs.** Matrix products, convolutions and attention, a multiply-add being two; a complex one is eight. Everything
    else is zero by convention: elementwise functions, reductions, norms, softmax, pooling, sorting, indexing, copies,
    random numbers. A product that runs elementwise, such as ``torch.outer``, is elementwise. Attention counts as
    executed. A mask, boolean or added, discounts nothing. ``is_causal`` discounts nothing where PyTorch runs attention
    as two matrix products and a softmax (``SDPBackend.MATH``). The CPU's fused kernel skips blocks of 512 keys in the
    future, so that the causal square is whole up to 512 keys, 3/4 at 1024, 9/16 at 4096
    (:func:`dynlib.cost.flops.attended_pairs`). On a GPU the fused kernels' causal square is counted whole, which is
    an upper bound: what they skip depends on the device.

    **Parameters.** Distinct elements of ``nn.Parameter`` that operators read: of a slice its own, of an embedding the
    rows that were looked up, of shared weights one copy.

    **Bytes.** For every operator, what it reads and writes: inputs, weights and results, each once; a view moves
    nothing, an expanded tensor counts once, a gather counts what it picks and a scatter what it hits. This is the
    traffic of operators run one by one; inside one of them nothing is counted, and a cache may serve part of it.

    Only what PyTorch dispatches is seen: neither NumPy nor a kernel called past PyTorch.

    Args:
        model: a module, or anything else to call: a function, a method such as ``lm.generate``.
        inputs, kwargs: what to call it with.
        modules: whose parameters to look out for, if ``model`` reads them only through tensors detached from them. The
            parameters of ``model`` itself, and those that operators meet, are known without.
        formulas: FLOPs of operators that have no formula, as in ``{torch.ops.aten.linalg_qr: formula}``. A
            formula gets the operator's arguments with every tensor replaced by its shape, and the result's shape as
            ``out_shape``; it goes before one that is known.
            :func:`torch.utils.flop_counter.register_flop_formula` does the same for good.

    Raises:
        TypeError: if ``model`` cannot be called, or ``modules`` or ``formulas`` are something else.
        ValueError: if an operator ran that may do real arithmetic and has no formula, or that works on sparse or nested
            tensors.
    """
    if not callable(model):
        raise TypeError(f"model must be a module or a function to call; got {type(model).__name__}")
    formulas = {} if formulas is None else formulas
    for operator, formula in formulas.items():
        known = isinstance(operator, torch._ops.OperatorBase | torch._ops.OpOverloadPacket)
        if not known or not callable(formula):
            raise TypeError(f"formulas must map operators, as in torch.ops.aten.mm, to functions; got {operator!r}")
    modules = [modules] if isinstance(modules, nn.Module) else list(modules)
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(f"modules must be modules; got {type(module).__name__}")
    inner = model
    while isinstance(inner, partial):
        inner = inner.func
    for candidate in (inner, getattr(inner, "__self__", None)):  # a module, or a method of one
        if isinstance(candidate, nn.Module):
            modules.append(candidate)

    counter = _Counter([parameter for module in modules for parameter in module.parameters()], formulas)
    torch.clear_autocast_cache()  # a weight that was cast before would not be read again
    with counter:
        model(*inputs, **kwargs)
    return Cost(flops=counter.flops, params=counter.parameters.total(), bytes=counter.bytes)


class _Counter(TorchDispatchMode):
    """Sees every operator before it runs."""

    supports_higher_order_operators = True

    def __init__(self, parameters: Iterable[nn.Parameter], formulas: Mapping[Any, Formula]) -> None:
        super().__init__()
        self.flops, self.bytes = 0, 0
        self.parameters = ParameterReads(parameters)
        self._formulas = formulas

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = formula_for(func, self._formulas)
        if formula is None:
            if is_composite(func):  # as many are under inference_mode: count what it is made of
                with self:
                    return func.decompose(*args, **kwargs)
            if not is_plain(func):
                raise ValueError(_no_formula(func, args, kwargs))

        inputs = tensors((args, kwargs))
        for tensor in inputs:
            if tensor.is_nested or tensor.layout is not torch.strided:
                kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
                raise ValueError(f"{func} got a {kind} tensor, which count does not follow: {_DENSE}")
            self.parameters.know(tensor)
        out = func(*args, **kwargs)
        if formula is not None:
            self.flops += flops(func, formula, args, kwargs, out)
        moved = traffic(func, args, kwargs, out)
        self.bytes += moved.bytes
        for tensor in moved.read:
            self.parameters.read(tensor)
        if moved.picked is not None:
            self.parameters.pick(*moved.picked)
        return out


_DENSE = "run the model on dense tensors (in nn.TransformerEncoder, enable_nested_tensor=False)"


def _no_formula(func: Any, args: Any, kwargs: Any) -> str:
    shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors((args, kwargs)))
    if "nested" in str(func) or "sparse" in str(func):
        return f"{func} works on nested or sparse tensors, which count does not follow: {_DENSE}"
    name = f"torch.ops.{func.namespace}.{getattr(func, '_overloadpacket', func).__name__}"
    return (
        f"{func} may do real arithmetic and has no FLOP formula; it got tensors of shape {shapes}. Give "
        f"count(…, formulas={{{name}: formula}}), where formula takes the operator's arguments, shapes in place of "
        "tensors, and out_shape=, and returns its FLOPs, a multiply-add being 2 (lambda *_, **__: 0 if there is no "
        "product in it)"
    )


def _fields(cost: Cost) -> tuple[int | float | None, ...]:
    return cost.flops, cost.params, cost.bytes, cost.seconds, cost.joules


def readable(value: int | float, unit: str) -> str:
    """A number with three digits and a prefix for its size: 12345678 FLOP is "12.3 MFLOP"."""
    size = abs(value)
    if float(f"{size:.3g}") < 1000 and (size >= 1 or size == 0 or unit[0] not in "sJ"):
        return f"{value:.3g} {unit}".replace("  ", " ")
    power = -4
    while float(f"{size / 1000.0**power:.3g}") >= 1000 and power < 6:
        power += 1
    return f"{value / 1000.0**power:.3g} {'pnµm'[power] if power < 0 else ' kMGTPE'[power]}{unit}".replace("  ", " ")
