"""What all of the house asks of its input: tensors of tokens, masks and logits, whole numbers, numbers, names.

Each check raises an error that says what was given, what is allowed and what to do; those that give something back give
what was checked.
"""

import math
from collections.abc import Sequence
from numbers import Real

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


def check_scale(name: str, value: object, *, instead: str = "") -> None:
    """Raises TypeError or ValueError for what is no positive, finite number that all dtypes can divide by.

    Args:
        name, value: what the caller calls it, and what was given.
        instead: what else to do, for the message.
    """
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}: use float({name})")
    if not TINY <= value <= 1 / TINY:  # False for NaN too
        raise ValueError(
            f"{name} must be positive and finite, from {TINY:.1e} to {1 / TINY:.1e}; got {value}{instead and ': '}"
            f"{instead}"
        )


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


def check_whole(name: str, value: object, *, least: int | None = None, most: int | None = None, what: str = "") -> int:
    """The value, if it is an int and no bool, and from ``least`` to ``most``.

    Args:
        name: what the caller calls it.
        value: what was given.
        least, most: the bounds, both allowed; none if left out.
        what: what it counts, for the message: "tokens".

    Raises:
        TypeError: if it is no int.
        ValueError: if it is out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        of = f", a number of {what}" if what else ""
        raise TypeError(f"{name} must be an int{of}; got {value!r}: use int({name})")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(f"{name} must be {_between(least, most)}{f' {what}' if what else ''}; got {value}")
    return value


def check_number(
    name: str, value: object, *, least: float | int = -math.inf, most: float | int = math.inf, open: bool = False
) -> float:
    """The value as a float, if it is a finite real number and no bool, from ``least`` to ``most``.

    Args:
        name, value: as in :func:`check_whole`.
        least, most: the bounds; allowed themselves unless they are infinite.
        open: ``least`` itself is not allowed.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is NaN, infinite or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number; got {value!r}: use float({name}) if it holds one")
    number = float(value)
    if not math.isfinite(number) or not least <= number <= most or (open and number == least):
        if least == -math.inf and most == math.inf:
            raise ValueError(f"{name} must be finite; got {value!r}")
        if open:
            bounds = "positive" if least == 0 else f"above {least:g}"
            bounds += " and finite" if most == math.inf else f" and at most {most:g}"
        else:
            low, high = (None if math.isinf(end) else end for end in (least, most))
            bounds = _between(low, high) + (" and finite" if high is None else "")
        raise ValueError(f"{name} must be {bounds}; got {value!r}")
    return number


def check_name(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raises ValueError for what is none of the ``allowed`` names."""
    if not isinstance(value, str) or value not in allowed:
        known = " or ".join(map(repr, allowed)) if len(allowed) < 3 else f"one of {', '.join(map(repr, allowed))}"
        raise ValueError(f"{name} must be {known}; got {value!r}")


def check_features(x: object, dim: int) -> None:
    """Raises TypeError or ValueError for what is not tokens [batch, tokens, dim], floating-point, none of them 0."""
    check_tensor(x, "the tokens")
    assert isinstance(x, Tensor)
    if not x.is_floating_point():
        raise TypeError(f"tokens must be floating-point features; got {x.dtype}: embed them first")
    if x.ndim != 3 or x.numel() == 0 or x.shape[-1] != dim:
        raise ValueError(f"tokens must be [batch, tokens, {dim}], none of them 0; got {tuple(x.shape)}")


def check_key_mask(key_mask: object, batch: int, tokens: int, cached: int = 0) -> None:
    """Raises TypeError or ValueError for what is no mask over the keys: bool [batch, cached + tokens].

    Args:
        key_mask: True where a token is there, and may be attended to; first the cached ones.
        batch, tokens: of the tokens that are given.
        cached: how many stand in a cache.
    """
    check_tensor(key_mask, "key_mask")
    assert isinstance(key_mask, Tensor)
    if key_mask.dtype != torch.bool:
        raise TypeError(
            f"key_mask must be bool, True where a token is there and may be attended to; got {key_mask.dtype}: use "
            "mask.bool()"
        )
    if key_mask.shape != (batch, cached + tokens):
        which = " (cached tokens, then the tokens of x)" if cached else ""
        raise ValueError(
            f"key_mask must have one entry per key, {(batch, cached + tokens)}{which}; got {tuple(key_mask.shape)}"
        )


def spread_positions(positions: Tensor | None, x: Tensor, start: int = 0) -> Tensor:
    """The positions of the tokens x [batch, tokens, dim], one for each of them; ``start`` and on if left out.

    Raises:
        TypeError: if they are no tensor of int64 or int32.
        ValueError: if they are neither [tokens] nor [batch, tokens].
    """
    batch, tokens = x.shape[:2]
    if positions is None:
        positions = torch.arange(start, start + tokens, device=x.device)
    check_tensor(positions, "positions")
    if positions.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"positions must be int64 or int32; got {positions.dtype}")
    if positions.shape not in ((tokens,), (batch, tokens)):
        raise ValueError(
            f"positions must be [tokens] or [batch, tokens] = {(batch, tokens)}; got {tuple(positions.shape)}"
        )
    return positions.expand(batch, tokens)


def _between(least: float | int | None, most: float | int | None) -> str:
    if least is None:
        return "anything" if most is None else f"at most {most:g}"
    return f"at least {least:g}" if most is None else f"{least:g} … {most:g}"
