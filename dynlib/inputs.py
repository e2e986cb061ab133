"""What every choice asks of its input: a floating-point tensor, a dimension, and rows that make a distribution."""

import torch
from torch import Tensor

from dynlib.transforms import look

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TINY = torch.finfo(torch.float32).tiny


def widen(logits: Tensor) -> Tensor:
    """In float32 or wider: what half precision is computed in."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_tensor(value: object, name: str = "the input") -> None:
    """Raises TypeError for what is no tensor: a list, a NumPy array, a number."""
    if not isinstance(value, Tensor):
        kind = type(value)
        given = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        raise TypeError(f"{name} must be a tensor; got {given}: make one with torch.as_tensor")


def check_dtype(tensor: Tensor) -> None:
    """Raises TypeError for what is no tensor, or not of one of ``DTYPES``."""
    check_tensor(tensor)
    if tensor.dtype not in DTYPES:
        raise TypeError(
            f"need float16, bfloat16, float32 or float64; got {tensor.dtype}: convert with .float() if these are logits"
        )


def check_filled(logits: Tensor) -> None:
    """Raises what :func:`check_dtype` does, and ValueError for a tensor without elements."""
    check_dtype(logits)
    if logits.numel() == 0:
        raise ValueError(f"there are no logits to choose by, shape {tuple(logits.shape)}: leave out an empty batch")


def check_logits(logits: Tensor, dim: int) -> None:
    """Raises what :func:`check_filled` does, and ValueError if there is no dimension ``dim``."""
    check_filled(logits)
    if not -logits.ndim <= dim < logits.ndim:
        raise ValueError(f"logits of shape {tuple(logits.shape)} have no dimension {dim}: choose dim among theirs")


def check_tau(tau: object) -> None:
    """Raises TypeError or ValueError for a temperature that is not a positive, finite number."""
    if not isinstance(tau, float | int):
        raise TypeError(f"tau must be a number; got {type(tau).__name__}: use float(tau)")
    if not TINY <= tau <= 1 / TINY:  # False for NaN too
        raise ValueError(f"tau must be positive and finite, from {TINY:.1e} to {1 / TINY:.1e}; got {tau}")


def check_top(top: Tensor) -> None:
    """One look at the largest of every row finds each logit that makes no distribution: NaN, +inf, or only −inf."""
    look(_check_top, top)


def _check_top(top: Tensor) -> None:
    if top.isfinite().all():
        return
    if top.isnan().any():
        raise ValueError("a logit is NaN: look for a 0 / 0, a log of a negative number, or a learning rate too high")
    if top.isposinf().any():
        raise ValueError("a logit is +inf: to force a choice, set the logits of all others to -inf")
    raise ValueError("a row of logits is -inf throughout: leave at least one choice possible")
