"""A radio channel between two halves of a network: what goes in comes out with noise, and gradients pass through.

What is sent are *codewords*, the last dimension of a tensor. The sender has a power of one for each real number,

    x̃ = x / √(‖x‖² / d),        so that        ‖x̃‖² / d = 1,

and the channel adds Gaussian noise. A *signal-to-noise ratio* of s decibels says how much,

    y = x̃ + σ ε,        σ² = 10^(−s / 10),        ε ~ N(0, 1).

In a *fading* channel the signal comes in stronger or weaker from one time to the next. Two real numbers make one
complex symbol there, and all symbols of a sample meet the same coefficient, h ~ CN(0, 1), which the receiver knows,

    y = h x̃ + σ ε,        and divides by:        x̂ = x̃ + σ ε / h.

Source: the norm and the noise are those of arXiv:2505.17604; its public code takes ‖x‖ for ‖x‖², which makes another
ratio than the one asked for.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynlib.inputs import check_number, check_tensor, widen


def unit_power(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Codewords of mean power one, ‖x̃‖² / d = 1. One that is zero throughout stays so: nothing is sent.

    Raises:
        TypeError: if the codewords are no tensor of floating-point numbers.
        ValueError: if they have no numbers.
    """
    _check_codewords(x)
    wide = widen(x)
    # the largest is taken out first, so that no square is infinite, and none of a number that is not zero is zero
    largest = wide.detach().abs().amax(-1, keepdim=True)
    scaled = wide / torch.where(largest > 0, largest, 1)
    # x̃ = x / √(‖x‖² / d)
    power = scaled.square().mean(-1, keepdim=True)
    return (scaled / torch.where(power > 0, power, 1).sqrt()).to(x.dtype)


class AWGNChannel(nn.Module):
    """Adds white Gaussian noise: y = x̃ + σ ε.

    Args:
        snr: s, the signal-to-noise ratio in decibels; None for a channel without noise.

    ``snr`` is the knob (:func:`dynlib.deciding.setting`), checked at every use; a larger one means less noise.

    Raises:
        TypeError: if the ratio is no number.
        ValueError: if it is not finite.
    """

    knobs = ("snr",)

    def __init__(self, snr: float | int | None) -> None:
        super().__init__()
        self.snr = snr
        self.check_knobs()

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for a ratio that is no finite number and not None."""
        if self.snr is not None:
            check_number("snr", self.snr)

    def forward(
        self, x: Float[Tensor, "*batch d"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch d"]:
        """What the receiver sees of the codewords, at the scale of :func:`unit_power`.

        Args:
            x: the codewords, of any power.
            generator: of the noise, on the device of x.

        Raises:
            TypeError, ValueError: as :func:`unit_power` does, and for another ``snr`` than a number or None.
        """
        sent = unit_power(x)
        return sent if self.snr is None else sent + self._sigma() * _noise(sent, generator)

    def _sigma(self) -> float:
        self.check_knobs()
        assert self.snr is not None
        # σ² = 10^(−s / 10)
        return 10.0 ** (-self.snr / 20)

    def extra_repr(self) -> str:
        """What ``print`` shows of the channel."""
        return f"snr={self.snr}"


class RayleighChannel(AWGNChannel):
    """Fades, and adds noise: x̂ = x̃ + σ ε / h, with one complex h for each sample, known to the receiver.

    As E |h|² = 1, the ratio ``snr`` is the one on average over the samples; a sample that meets h has |h|² times it.
    Arguments, knob and errors are those of :class:`AWGNChannel`.
    """

    def forward(
        self, x: Float[Tensor, "batch *more d"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch *more d"]:
        """What the receiver makes of the codewords, at the scale of :func:`unit_power`.

        Args:
            x: the codewords, with an even number d: the numbers 2i and 2i + 1 are one complex symbol.
            generator: of h and the noise, on the device of x.

        Raises:
            TypeError, ValueError: as :class:`AWGNChannel` does.
            ValueError: if d is odd, or there is no dimension for the samples.
        """
        sent = unit_power(x)
        if x.ndim < 2 or x.shape[-1] % 2:
            raise ValueError(
                f"fading needs [batch, …, d] with an even d, two numbers being one symbol; got {tuple(x.shape)}"
            )
        if self.snr is None:
            return sent
        sigma = self._sigma()
        # h ~ CN(0, 1): real and imaginary part of variance ½
        h = _noise(widen(sent.new_zeros(len(x), *[1] * (x.ndim - 1), 2)), generator) * 0.5**0.5
        noise = widen(_noise(sent, generator)).unflatten(-1, (-1, 2))
        # ε / h = ε h* / |h|²
        (a, b), (c, d) = noise.unbind(-1), h.unbind(-1)
        divided = torch.stack([a * c + b * d, b * c - a * d], -1) / (c.square() + d.square())[..., None]
        return sent + (sigma * divided.flatten(-2)).to(sent.dtype)


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    # not drawn in half precision: PyTorch 2.11 draws other numbers there than with the same seed in single
    wide = torch.promote_types(like.dtype, torch.float32)
    return torch.randn(like.shape, generator=generator, dtype=wide, device=like.device).to(like.dtype)


def _check_codewords(x: object) -> None:
    check_tensor(x, "the codewords")
    assert isinstance(x, Tensor)
    if not x.is_floating_point():
        raise TypeError(f"codewords must be floating-point numbers; got {x.dtype}")
    if x.ndim < 1 or x.numel() == 0:
        raise ValueError(f"codewords must be [..., d], none of them 0; got {tuple(x.shape)}")
