"""dynlib.edge.channel: the power that is sent, the ratio that comes out, and gradients that pass."""

import math

import pytest
import torch
from torch import nn

from dynlib.deciding import setting
from dynlib.edge import AWGNChannel, RayleighChannel, unit_power


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decibels(signal: torch.Tensor, noise: torch.Tensor) -> float:
    return 10 * math.log10(float(signal.double().square().sum() / noise.double().square().sum()))


@pytest.mark.parametrize("d", [1, 2, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_codeword_has_a_power_of_one(d: int, dtype: torch.dtype) -> None:
    x = torch.randn(5, 3, d, generator=generator(), dtype=dtype) * torch.tensor([1e-3, 1, 1e3], dtype=dtype)[:, None]
    torch.testing.assert_close(unit_power(x).square().mean(-1), torch.ones(5, 3, dtype=dtype))
    by_hand = x * math.sqrt(d) / x.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(unit_power(x), by_hand)


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 5e37])
def test_no_square_is_too_large_or_too_small(scale: float) -> None:
    x = torch.tensor([[3.0, -4.0]]) * scale
    torch.testing.assert_close(unit_power(x), torch.tensor([[0.6, -0.8]]) * 2**0.5)


def test_a_codeword_of_zeros_sends_nothing_and_has_a_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    sent = unit_power(x)
    sent.sum().backward()
    assert x.grad is not None
    assert (sent == 0).all()
    assert x.grad.isfinite().all()


def test_the_gradient_of_the_power_is_right() -> None:
    x = torch.randn(3, 4, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_power, x)


@pytest.mark.parametrize("power", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("snr", [-5, 0.0, 7, 20.5])
def test_the_ratio_is_the_one_asked_for_within_a_tenth_of_a_decibel(snr: float, power: float) -> None:
    # 400,000 numbers: the estimate has a standard deviation of 10 / ln 10 · √(2 / 400,000) = 0.0097 dB, a tenth of 0.1
    x = torch.randn(50_000, 8, generator=generator()) * power
    received = AWGNChannel(snr)(x, generator=generator(1))
    assert abs(decibels(unit_power(x), received - unit_power(x)) - snr) < 0.1


def test_a_fading_sample_has_its_coefficient_times_the_ratio() -> None:
    x = torch.randn(2000, 50, 8, generator=generator())
    noise = RayleighChannel(10)(x, generator=generator(1)) - unit_power(x)
    strength = 0.1 / noise.double().square().mean((1, 2))  # |h|² of each sample
    # |h|² is exponential with mean 1. 2000 samples: the mean has a standard deviation of 0.022, 400 numbers add 7 %
    # each. The median of an exponential is ln 2, found to within 0.022 too.
    assert abs(strength.mean() - 1) < 0.11
    assert abs(strength.median() - math.log(2)) < 0.11
    assert strength.std() > 0.8


def test_all_symbols_of_a_sample_fade_alike_and_samples_do_not() -> None:
    x = torch.ones(2, 4000, 2)
    noise = RayleighChannel(0)(x, generator=generator(3)) - unit_power(x)
    halves = noise.square().mean(-1).view(2, 2, 2000).mean(-1)
    torch.testing.assert_close(halves[:, 0], halves[:, 1], rtol=0.15, atol=0)
    assert not math.isclose(float(halves[0, 0]), float(halves[1, 0]), rel_tol=0.2)


@pytest.mark.parametrize("kind", [AWGNChannel, RayleighChannel])
def test_a_channel_without_noise_hands_the_codewords_on(kind: type[AWGNChannel]) -> None:
    x = torch.randn(2, 3, 4, generator=generator())
    assert torch.equal(kind(None)(x), unit_power(x))


@pytest.mark.parametrize("kind", [AWGNChannel, RayleighChannel])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_pass_and_the_seed_decides(kind: type[AWGNChannel], dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, generator=generator()).to(dtype).requires_grad_()
    channel = kind(5)
    received = channel(x, generator=generator(2))
    assert received.dtype == dtype
    assert torch.equal(received, channel(x, generator=generator(2)))
    assert not torch.equal(received, channel(x, generator=generator(4)))
    received[0, 0, 0].backward()
    assert x.grad is not None
    assert x.grad[0, 0].abs().sum() > 0
    assert x.grad[1].abs().sum() == 0


def test_the_ratio_is_a_knob() -> None:
    channel, x = AWGNChannel(40), torch.ones(1, 1000, 4)
    with setting(nn.Sequential(channel), AWGNChannel, snr=0):
        loud = channel(x, generator=generator()) - 1
    quiet = channel(x, generator=generator()) - 1
    torch.testing.assert_close(loud, quiet * 100)
    channel.snr = math.nan
    with pytest.raises(ValueError, match="snr must be finite"):
        channel(x)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_is_no_codeword_or_no_ratio() -> None:
    with pytest.raises(TypeError, match="snr must be a number"):
        AWGNChannel("loud")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="snr must be finite"):
        AWGNChannel(math.inf)
    with pytest.raises(TypeError, match="must be a tensor"):
        AWGNChannel(3)([1.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="floating-point"):
        AWGNChannel(3)(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="none of them 0"):
        AWGNChannel(3)(torch.ones(2, 0))
    with pytest.raises(ValueError, match="even d"):
        RayleighChannel(3)(torch.ones(2, 3))
    with pytest.raises(ValueError, match="even d"):
        RayleighChannel(3)(torch.ones(2))
