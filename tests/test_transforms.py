"""Looking at values, gradients of one's own, and float64: what torch's transforms and devices leave of each."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from dynlib.transforms import BatchedFunction, FirstDerivative, WithoutGradient, double, look


class Sorted(BatchedFunction):
    """Every row sorted in place, as vmap does not allow; the gradient goes back to where the numbers stood."""

    batch_in, batch_out = (0, 0), (0, 0)

    @staticmethod
    def forward(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        out, order = x.contiguous().clone(), torch.zeros(x.shape, dtype=torch.int64)
        for row, places in zip(rows_of(out), rows_of(order), strict=True):
            torch.sort(row.clone(), out=(row, places))
        return out * scale, order

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor, None]:
        return Unsorted.apply(*ctx.saved_tensors, g), None


class Unsorted(FirstDerivative):
    batch_in, batch_out = (0, 0, 0, 0), 0

    @staticmethod
    def forward(x: Tensor, scale: Tensor, order: Tensor, g: Tensor) -> Tensor:
        return torch.zeros_like(x).scatter(-1, order, g * scale)


def rows_of(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def sort(x: Tensor, scale: Tensor | None = None) -> Tensor:
    return Sorted.apply(x, torch.ones_like(x[..., :1]) if scale is None else scale)[0]


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_vmap_gives_a_batched_function_all_rows_at_once(dim: int) -> None:
    x = rows(3, 4, 5)
    expected = torch.stack([sort(part.contiguous()) for part in x.unbind(dim)])
    assert torch.equal(vmap(sort, in_dims=dim)(x), expected)


def test_an_argument_that_is_not_batched_serves_every_row() -> None:
    x, scale = rows(3, 5), torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    assert torch.equal(vmap(sort, in_dims=(0, None))(x, scale[1]), 2 * x.sort(-1).values)
    assert torch.equal(vmap(sort, in_dims=(None, 0))(x[0], scale), x[0].sort().values * scale)
    assert torch.equal(vmap(vmap(sort, in_dims=(0, None)), in_dims=(None, 0))(x, scale)[2], 4 * x.sort(-1).values)


def test_gradients_and_jacobians_of_a_batched_function_are_those_of_a_loop() -> None:
    x, weight = rows(3, 5), rows(5)
    expected = torch.stack([torch.autograd.functional.jacobian(sort, row) for row in x])
    assert torch.equal(torch.stack([jacrev(sort)(row) for row in x]), expected)
    assert torch.equal(vmap(jacrev(sort))(x), expected)
    assert torch.equal(vmap(grad(lambda row: sort(row) @ weight))(x), (weight @ expected))
    x.requires_grad_()
    every = torch.autograd.grad(sort(x[0]), x, torch.eye(5, dtype=x.dtype), is_grads_batched=True)[0]
    assert torch.equal(every[:, 0], expected[0])


def test_a_second_derivative_is_refused_wherever_it_is_asked_for() -> None:
    x = rows(5).requires_grad_()

    def first(row: Tensor) -> Tensor:
        return grad(lambda row: sort(row).square().sum())(row).square().sum()

    (slope,) = torch.autograd.grad(sort(x).square().sum(), x, create_graph=True)
    for ask in (lambda: slope.sum().backward(), lambda: grad(first)(x.detach()), lambda: vmap(grad(first))(rows(2, 5))):
        with pytest.raises(RuntimeError, match="no second derivative"):
            ask()


class Ranked(WithoutGradient):
    """Which place each number of a row has."""

    batch_in, batch_out = (0, 0), 0

    @staticmethod
    def forward(x: Tensor, first: int) -> Tensor:
        return x.argsort(-1).argsort(-1).to(x.dtype) + first


def test_what_has_no_gradient_is_a_constant_in_every_mode() -> None:
    x = rows(3, 5)

    def weighed(row: Tensor) -> Tensor:
        return (Ranked.apply(row, 1) * row).sum()

    assert not Ranked.apply(x.clone().requires_grad_(), 1).requires_grad
    assert torch.equal(vmap(grad(weighed))(x), Ranked.apply(x, 1))
    for jacobian in (jacrev, jacfwd):
        assert not jacobian(lambda row: Ranked.apply(row, 1))(x[0]).any()


def is_positive(x: Tensor) -> None:
    if not (x > 0).all():
        raise ValueError(f"got {x.min().item():.0f} in the last of {x.shape[-1]}")


def looked(x: Tensor) -> Tensor:
    look(is_positive, x)
    return x.log().sum()


@pytest.mark.parametrize(
    "call",
    [
        looked,
        vmap(looked),
        vmap(looked, in_dims=1),
        vmap(vmap(looked)),
        vmap(grad(looked)),
        grad(lambda x: vmap(looked)(x).sum()),
        torch.no_grad()(vmap(looked)),
        torch.inference_mode()(looked),
    ],
)
def test_a_value_is_looked_at_under_every_transform(call: Callable[[Tensor], Tensor]) -> None:
    x = torch.ones(2, 3)
    call(x)
    for place in ((0, 0), (1, 2)):
        bad = x.clone()
        bad[place] = -7
        with pytest.raises(ValueError, match=r"got -7 in the last of [1-3]"):
            call(bad)


def test_an_error_of_the_look_itself_is_not_hidden() -> None:
    def broken(x: Tensor) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        look(broken, torch.ones(2))


def test_a_graph_is_not_looked_at_and_stays_in_one_piece() -> None:
    compiled = torch.compile(looked, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.full((3,), 2.0)), looked(torch.full((3,), 2.0)))
    assert compiled(torch.zeros(3)).isneginf()

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return looked(x)

    assert torch.export.export(Module(), (torch.ones(3),)).module()(torch.zeros(3)).isneginf()
    assert looked(torch.ones(3, device="meta")).shape == ()


class NoFloat64(TorchDispatchMode):
    """A device like Apple's MPS: the conversion to float64 is refused, as it is there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == "_to_copy" and out.dtype == torch.float64 and out.ndim:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return out


def test_double_is_float64_where_there_is_one_and_float32_elsewhere() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        x = torch.ones(3, dtype=dtype, requires_grad=True)
        assert double(x).dtype == torch.float64
        with NoFloat64():
            assert double(x).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            double(x).sum().backward()
        assert torch.equal(x.grad, torch.ones(3, dtype=dtype))
