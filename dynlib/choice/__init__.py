"""Decide: ways to make a discrete choice and still learn through it."""

from dynlib.choice.gumbel import (
    gumbel_max,
    gumbel_noise,
    gumbel_sigmoid,
    gumbel_softmax,
    softmax_ste,
    straight_through,
)

__all__ = ["gumbel_max", "gumbel_noise", "gumbel_sigmoid", "gumbel_softmax", "softmax_ste", "straight_through"]
