"""What stands around a call: torch's transforms, its compiler, and devices that lack a number type.

Three things that plain code does and that these do not take:

- *to look at a value* (is one NaN, is one out of range) in order to raise an error: :func:`look` does it for all rows
  at once under ``vmap``, and leaves it out where a graph is compiled or exported, in which there are no values yet;
- *a gradient of one's own*, or none (:class:`WithoutGradient`): a :class:`BatchedFunction` works under ``torch.func``
  and for batched gradients;
- *float64*, which Apple's MPS has not: :func:`double`.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function


def look(check: Callable[[Tensor], object], tensor: Tensor) -> None:
    """Call ``check(tensor)``, which reads values and raises an error if it does not like one.

    Under ``vmap`` it is given the values of all calls at once, with one more dimension in front, so that it must count
    dimensions from the end. In a graph that is compiled or exported, and on the meta device, nothing is looked at: an
    input that is wrong gives there what the operators make of it.
    """
    if torch.compiler.is_compiling() or tensor.is_meta:
        return
    tensor = tensor.detach()
    try:
        check(tensor)
    except RuntimeError:  # vmap does not show its values, but to a Function of one's own
        _Look.apply(tensor, check)


class _Look(Function):
    @staticmethod
    def forward(tensor: Tensor, check: Callable[[Tensor], object]) -> Tensor:
        check(tensor)
        return tensor.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], tensor: Tensor, check: Callable[[Tensor], object]) -> Any:
        (dim, _) = in_dims
        return _Look.apply(tensor if dim is None else tensor.movedim(dim, 0), check), None


class BatchedFunction(Function):
    """A function with a gradient of its own, whose tensors may have more batch dimensions: so ``vmap`` gives it one.

    Made as any ``torch.autograd.Function`` with ``forward`` and ``setup_context``. What its ``forward`` does is never
    seen by ``vmap``, and may look at values and write in place. Its ``backward`` is seen: let it be one more such
    function, a :class:`FirstDerivative`. For forward-mode derivatives it needs a ``jvp``; without one its results count
    as constants there, as is right for those that have no gradient.
    """

    batch_in: ClassVar[tuple[int, ...]]
    """Where each argument takes the new dimension; of those that are no tensors it is not read."""
    batch_out: ClassVar[Any]
    """Where each result has it; one number, or a tuple."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        """The function on all of a batch at once."""
        placed = []
        for argument, dim, place in zip(arguments, in_dims, cls.batch_in, strict=True):
            if not isinstance(argument, Tensor):
                placed.append(argument)
            elif dim is None:
                shape = list(argument.shape)
                shape.insert(place, info.batch_size)
                placed.append(argument.unsqueeze(place).expand(shape))
            else:
                placed.append(argument.movedim(dim, place))
        return cls.apply(*placed), cls.batch_out

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Results without a gradient have none in forward mode either."""
        return None


class WithoutGradient(BatchedFunction):
    """One result, and no gradient: it needs a ``forward`` and nothing else."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """The result is a constant."""
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        """Nothing for any of the arguments."""
        return (None,) * len(ctx.needs_input_grad)


class FirstDerivative(BatchedFunction):
    """What a ``backward`` calls that is not to be differentiated again: it refuses, where a wrong number might come.

    Give it something that depends on what was differentiated (an input or output of the forward pass), or it is not
    asked. ``once_differentiable`` does not know ``torch.func``. Batches of gradients (``is_grads_batched``) come
    without :meth:`vmap`: what depends on the gradient is not to be written in place into what does not.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Refuse.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(_ONCE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refuse, as :meth:`backward` does."""
        raise RuntimeError(_ONCE)


_ONCE = "there is no second derivative here: the first is exact, and is to be taken only once"


def double(tensor: Tensor) -> Tensor:
    """In float64, or in float32 where the device has no float64."""
    try:
        return tensor.double()
    except TypeError:
        return tensor.float()
