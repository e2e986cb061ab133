"""h(z, k) of an adaptive computation module in two Triton kernels, without atomics, and without a look at k.

The tokens are sorted by k, those with more learners first. A block of rows then needs the learners of its first row and
no others, and the blocks that need the most are launched first:

1. *expand*: a block of rows, a block of neurons. It ends at once where the neurons belong to learners that no row of it
   runs. Else it gathers its tokens, H = GELU(z Wᵀ + b), with zeros for neurons beyond a row's own k.
2. *contract*: a block of rows, a block of features that come out. Y = H V, a sum that ends after the neurons of the
   first row's learners; written to where the tokens came from.

So the work is that of the chosen learners, but for less than a block of rows at each border between two k. The hidden
features are written and read once. Which blocks work is known on the device alone: nothing waits for the CPU.

There is no backward pass: for training, the masked execution is needed anyway.

Triton is not part of this package. Without it, or without a GPU, the gathered execution runs. To try the kernels on a
CPU, set TRITON_INTERPRET=1 before Python starts: Triton then runs them in NumPy, slowly.
"""

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dynlib.inputs import check_name, check_tensor, check_whole
from dynlib.width.acm import AdaptiveComputationModule, gathered

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = None

BLOCKS = {"rows": 64, "columns": 64, "inner": 32, "warps": 4, "stages": 3}
"""Rows and columns of a block of the output, and how many are summed over at a time: powers of two, at least 16. Then
the warps that compute a block, a power of two, and how many loads are under way."""

interpreted = triton is not None and bool(triton.knobs.runtime.interpret)  # as it was set when this was loaded

if triton is not None:

    @triton.jit
    def expand_kernel(  # type: ignore[no-untyped-def]
        z, order, k, expand, bias, hidden,
        tokens, dim, neurons, each,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
        SUM: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    ) -> None:  # fmt: skip
        """H = GELU(z[order] Wᵀ + b), one block; rows are in the order of k, which is given in it."""
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        run = tl.minimum(tl.load(k + tl.program_id(0) * ROWS) * each, neurons)
        if tl.program_id(1) * COLUMNS >= run:
            return  # no row of this block runs these neurons
        there, wanted = row < tokens, column < neurons
        token = tl.load(order + row, mask=there, other=0).to(tl.int64)
        total = tl.zeros((ROWS, COLUMNS), SUM)
        for start in range(0, dim, INNER):
            inner = start + tl.arange(0, INNER)
            left = tl.load(
                z + token[:, None] * dim + inner[None, :], mask=there[:, None] & (inner < dim)[None, :], other=0.0
            )
            right = tl.load(
                expand + column[None, :] * dim + inner[:, None],
                mask=wanted[None, :] & (inner < dim)[:, None],
                other=0.0,
            )
            if WIDEN:
                left, right = left.to(SUM), right.to(SUM)
            total = tl.dot(left, right, total, input_precision=PRECISION, out_dtype=SUM)
        total += tl.load(bias + column, mask=wanted, other=0.0).to(SUM)[None, :]
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
        mine = tl.load(k + row, mask=there, other=0) * each
        total = tl.where(column[None, :] < mine[:, None], total, 0.0)
        at = hidden + row.to(tl.int64)[:, None] * neurons + column[None, :]
        tl.store(at, total.to(hidden.dtype.element_ty), mask=there[:, None] & wanted[None, :])

    @triton.jit
    def contract_kernel(  # type: ignore[no-untyped-def]
        hidden, order, k, contract, y,
        tokens, neurons, out, each,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
        SUM: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    ) -> None:  # fmt: skip
        """Y[order] = H V, one block, summed over the neurons of the block's first row."""
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        there, wanted = row < tokens, column < out
        run = tl.minimum(tl.load(k + tl.program_id(0) * ROWS) * each, neurons)
        total = tl.zeros((ROWS, COLUMNS), SUM)
        for start in range(0, run, INNER):
            inner = start + tl.arange(0, INNER)
            left = tl.load(
                hidden + row.to(tl.int64)[:, None] * neurons + inner[None, :],
                mask=there[:, None] & (inner < run)[None, :],
                other=0.0,
            )
            right = tl.load(
                contract + inner[:, None] * out + column[None, :],
                mask=(inner < run)[:, None] & wanted[None, :],
                other=0.0,
            )
            if WIDEN:
                left, right = left.to(SUM), right.to(SUM)
            total = tl.dot(left, right, total, input_precision=PRECISION, out_dtype=SUM)
        token = tl.load(order + row, mask=there, other=0).to(tl.int64)
        at = y + token[:, None] * out + column[None, :]
        tl.store(at, total.to(y.dtype.element_ty), mask=there[:, None] & wanted[None, :])


def why_not(device: torch.device | str) -> str | None:
    """Why the kernels cannot run on a device, in a sentence; None if they can."""
    if triton is None:
        return "Triton is not installed, so the gathered execution runs: pip install 'dynlib-course[kernels]' brings it"
    if torch.device(device).type == "cuda" or interpreted:
        return None
    return (
        f"the kernels run on a CUDA GPU and the tokens are on {device}, and so the gathered execution runs: set "
        "TRITON_INTERPRET=1 before Python starts to try them here"
    )


def acm_forward(
    z: Float[Tensor, "tokens dim"],
    k: Int[Tensor, " tokens"],
    expand: Float[Tensor, "hidden dim"],
    bias: Float[Tensor, " hidden"],
    contract: Float[Tensor, "hidden out"],
    *,
    each: int,
    precision: str = "ieee",
    blocks: dict[str, int] | None = None,
) -> Float[Tensor, "tokens out"]:
    """h(z, k) of every token, fused where it can be, else gathered, which a warning says in one sentence.

    Args:
        z: the tokens; laid out in any way, copied where they do not lie in one piece.
        k: how many learners each of them runs, 0 … N. On a GPU nobody looks at it; more than N are N there.
        expand, bias, contract: W, b and V of :class:`dynlib.width.AdaptiveComputationModule`.
        each: neurons of one learner.
        precision: of float32 products: "ieee" is float32 itself, "tf32" is faster and keeps 10 bits.
        blocks: other sizes than :data:`BLOCKS`.

    The sums are in float32, and in float64 for float64. It is not differentiable.

    Raises:
        TypeError: if tokens and weights differ in number type or device, or k is not int64 or int32.
        ValueError: if shapes do not fit, a k on the CPU is not 0 … N, neurons do not divide into learners, or something
            has another name or size than is said here.
        RuntimeError: if a gradient is asked for.
    """
    weights = {"expand": expand, "bias": bias, "contract": contract}
    _check(z, k, weights, each)
    check_name("precision", precision, ("ieee", "tf32"))
    sizes = _check_blocks(blocks)
    if torch.is_grad_enabled() and any(one.requires_grad for one in (z, *weights.values())):
        raise RuntimeError(
            "the fused execution has no gradient: call it under torch.no_grad() or torch.inference_mode(), or use "
            "execution='gathered'"
        )
    reason = why_not(z.device)
    if reason is not None:
        warnings.warn(reason, stacklevel=2)
        return gathered(z, k, expand, bias, contract, each=each)
    (tokens, dim), (neurons, out) = z.shape, contract.shape
    y = torch.empty(tokens, out, dtype=z.dtype, device=z.device)
    if tokens == 0:
        return y
    many, order = k.sort(descending=True, stable=True)
    hidden = torch.empty(tokens, neurons, dtype=z.dtype, device=z.device)
    z, expand, bias, contract = (one.detach().contiguous() for one in (z, expand, bias, contract))
    options: dict[str, Any] = {
        "ROWS": sizes["rows"],
        "COLUMNS": sizes["columns"],
        "INNER": sizes["inner"],
        "SUM": tl.float64 if z.dtype == torch.float64 else tl.float32,
        "PRECISION": precision,
        "num_warps": sizes["warps"],
        "num_stages": sizes["stages"],
        "WIDEN": interpreted and z.dtype == torch.bfloat16,  # the interpreter's product reads bfloat16 as whole numbers
    }
    blocks_of_rows = triton.cdiv(tokens, sizes["rows"])
    grid = (blocks_of_rows, triton.cdiv(neurons, sizes["columns"]))
    expand_kernel[grid](z, order, many, expand, bias, hidden, tokens, dim, neurons, each, **options)
    grid = (blocks_of_rows, triton.cdiv(out, sizes["columns"]))
    contract_kernel[grid](hidden, order, many, contract, y, tokens, neurons, out, each, **options)
    return y


def fuse(model: nn.Module) -> Any:
    """Run every adaptive computation module of a model in the kernels, in evaluation; in place, and it is returned.

    Where the kernels cannot run, a warning says why in one sentence, and the modules stay gathered.

    Raises:
        ValueError: if the model has no such module.
    """
    layers = [one for one in model.modules() if isinstance(one, AdaptiveComputationModule)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no AdaptiveComputationModule: put some in with dynlib.width.acmize(model)"
        )
    reasons = [why_not(layer.expand.device) for layer in layers]
    for sentence in sorted({reason for reason in reasons if reason}):
        warnings.warn(sentence, stacklevel=2)
    for layer, reason in zip(layers, reasons, strict=True):
        layer.kernel = acm_forward
        layer.execution = "gathered" if reason else "fused"
    return model


def _check(z: Tensor, k: Tensor, weights: dict[str, Tensor], each: int) -> None:
    for name, one in {"z": z, "k": k, **weights}.items():
        check_tensor(one, name)
    if not z.is_floating_point():
        raise TypeError(f"tokens must be floating-point features; got {z.dtype}")
    for name, one in weights.items():
        if (one.dtype, one.device) != (z.dtype, z.device):
            raise TypeError(f"{name} is {one.dtype} on {one.device} and the tokens are {z.dtype} on {z.device}")
    if k.dtype not in (torch.int64, torch.int32) or k.device != z.device:
        raise TypeError(f"k must be int64 or int32 on {z.device}; got {k.dtype} on {k.device}")
    hidden = len(weights["bias"]) if weights["bias"].ndim == 1 else -1
    fits = z.ndim == 2 and k.shape == z.shape[:1] and weights["expand"].shape == (hidden, z.shape[1])
    if not fits or weights["contract"].ndim != 2 or len(weights["contract"]) != hidden:
        shapes = {name: list(one.shape) for name, one in {"z": z, "k": k, **weights}.items()}
        raise ValueError(
            "the shapes must be z [tokens, dim], k [tokens], expand [hidden, dim], bias [hidden], contract [hidden, "
            f"out]; got {shapes}"
        )
    if hidden % check_whole("each", each, least=1, most=hidden, what="neurons of a learner"):
        raise ValueError(f"hidden must be a multiple of each; got {hidden} neurons and each={each}")
    if k.device.type == "cpu" and k.numel() and (k.min() < 0 or k.max() > hidden // each):
        raise ValueError(f"k must be 0 … {hidden // each}; got {k.min()} … {k.max()}")


def _check_blocks(blocks: dict[str, int] | None) -> dict[str, int]:
    sizes = {**BLOCKS, **(blocks or {})}
    if sizes.keys() != BLOCKS.keys():
        raise ValueError(f"blocks have the names {', '.join(BLOCKS)}; got {', '.join(sizes.keys() - BLOCKS.keys())}")
    for name, size in sizes.items():
        least = 1 if name in ("warps", "stages") else 16
        if check_whole(f"blocks[{name!r}]", size, least=least) & (size - 1) and name != "stages":
            raise ValueError(f"blocks[{name!r}] must be a power of two, at least {least}; got {size}")
    return sizes
