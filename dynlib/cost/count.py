"""Count what a model's forward pass, or any other piece of PyTorch code, really computes and moves.

Costs are counted, never declared: :func:`count` watches every operator that runs. A part that is skipped costs nothing,
and a part that is computed and then masked away costs as much as one that is used.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

from dynlib.cost.around import followed
from dynlib.cost.flops import Formula, flops, formula_for, is_plain, parts_of
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
    rows that were looked up, of shared weights one copy. A tensor that lies in the memory of a parameter, such as
    ``weight.detach()``, is read as that parameter, as long as somebody holds it.

    **Bytes.** For every operator, what it reads and writes: inputs, weights and results, each once; a view moves
    nothing, an expanded tensor counts once, a gather counts what it picks and a scatter what it hits. This is the
    traffic of operators run one by one; inside one of them nothing is counted, and a cache may serve part of it.

    Only what PyTorch dispatches is seen: neither NumPy nor a kernel called past PyTorch.

    **Compiled models** are counted as they were written: what ``torch.compile`` made is put aside for the run, so that
    an operator that the compiler fuses is counted with all its parts. FlexAttention counts the whole square, of which
    its compiled kernel may skip blocks.

    **Threads.** Work that the counted code gives to other threads counts: threads that it starts, calls that it hands
    to a ``ThreadPoolExecutor`` or ``multiprocessing.pool.ThreadPool``, autograd's threads. It counts until ``model``
    returns: wait for it. A thread that was there before and takes its work out of a queue of its own is not seen; if it
    calls a part of ``model``, that is an error. Processes are not seen.

    Args:
        model: a module, or anything else to call: a function, a method such as ``lm.generate``.
        inputs, kwargs: what to call it with.
        formulas: FLOPs of operators that have no formula, as in ``{torch.ops.aten.linalg_qr: formula}``. A
            formula gets the operator's arguments with every tensor replaced by its shape, and the result's shape as
            ``out_shape``; it goes before one that is known.
            :func:`torch.utils.flop_counter.register_flop_formula` does the same for good.

    Raises:
        TypeError: if ``model`` cannot be called, or ``formulas`` are something else.
        ValueError: if an operator ran that may do real arithmetic and has no formula, or that works on sparse or nested
            tensors; or if a part of ``model`` ran in a thread that is not seen.
    """
    if not callable(model):
        raise TypeError(f"model must be a module or a function to call; got {type(model).__name__}")
    formulas = {} if formulas is None else formulas
    for operator, formula in formulas.items():
        known = isinstance(operator, torch._ops.OperatorBase | torch._ops.OpOverloadPacket)
        if not known or not callable(formula):
            raise TypeError(f"formulas must map operators, as in torch.ops.aten.mm, to functions; got {operator!r}")
    account = _Account(formulas)
    torch.clear_autocast_cache()  # a weight that was cast before would not be read again
    with followed(account.counting, _module_of(model)) as missed, account.counting():
        model(*inputs, **kwargs)
    if missed:
        raise ValueError(
            f"{missed[0]} of the model ran in a thread that count does not see, because it had been started "
            "before: start it inside of what is counted, or hand it the work by a ThreadPoolExecutor"
        )
    return Cost(flops=account.flops, params=account.parameters.total(), bytes=account.bytes)


class _Account:
    """What was counted so far, in all threads."""

    def __init__(self, formulas: Mapping[Any, Formula]) -> None:
        self.flops, self.bytes = 0, 0
        self.parameters = ParameterReads()
        self.formulas = formulas
        self.lock = Lock()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What this thread does meanwhile is counted."""
        with _on(_Counter(self)):
            yield


@contextmanager
def _on(mode: TorchDispatchMode) -> Iterator[None]:
    # As the mode's own ``with``, but for a flag of the process that is not restored if threads leave in another order
    _push_mode(mode)
    try:
        yield
    finally:
        _pop_mode()


def _module_of(model: Callable[..., Any]) -> nn.Module | None:
    while isinstance(model, partial):
        model = model.func
    module = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    return module if isinstance(module, nn.Module) else None


class _Counter(TorchDispatchMode):
    """Sees every operator of a thread before it runs."""

    supports_higher_order_operators = True

    def __init__(self, account: _Account) -> None:
        super().__init__()
        self._account = account

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, account = kwargs or {}, self._account
        formula = formula_for(func, account.formulas)
        if formula is None:
            parts = parts_of(func)
            if parts is not None:  # as under inference_mode, and in control flow: count what it is made of
                with _on(self):
                    return parts(*args, **kwargs)
            if not is_plain(func):
                raise ValueError(_no_formula(func, args, kwargs))

        inputs = tensors((args, kwargs))
        for tensor in inputs:
            if tensor.is_nested or tensor.layout is not torch.strided:
                kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
                raise ValueError(f"{func} got a {kind} tensor, which count does not follow: {_DENSE}")
        with account.lock:
            for tensor in inputs:
                account.parameters.meet(tensor)
        out = func(*args, **kwargs)
        computed = 0 if formula is None else flops(func, formula, args, kwargs, out)
        moved = traffic(func, args, kwargs, out)
        with account.lock:
            account.flops += computed
            account.bytes += moved.bytes
            for tensor in tensors(out):
                account.parameters.made(tensor)
            for tensor in moved.read:
                account.parameters.read(tensor)
            if moved.picked is not None:
                account.parameters.pick(*moved.picked)
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
