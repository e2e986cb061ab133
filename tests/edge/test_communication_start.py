"""dynlib.edge.communication_start: the code is the best linear one, and the model is left as it was."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from dynlib.edge import AWGNChannel, TokenTransmitter, start_code, unit_power
from tests.edge.transmitters import AFTER, generator, made, pictures, vit


def test_the_code_begins_as_the_best_linear_one_of_the_tokens() -> None:
    model = made(choosy=False, channel=AWGNChannel(None))
    images = torch.rand(40, 1, 12, 12, generator=generator(), dtype=torch.float64)
    x = model.model.embed(images)
    for block in model.model.blocks[:AFTER]:
        x = block(x)

    def error(one: TokenTransmitter) -> float:
        symbols = unit_power(one.encoder(x - one.expected))
        noisy = symbols + torch.randn(symbols.shape, generator=generator(2), dtype=torch.float64) * 0.1**0.5
        return (one.decoder(noisy / 1.1) + one.expected - x).square().mean().item()

    start_code(model, images)
    best = error(model)
    torch.testing.assert_close(model.expected, x.mean(0))
    assert best < (x - x.mean(0)).square().mean().item()
    for seed in range(5):
        worse = copy.deepcopy(model)
        with torch.no_grad():
            worse.decoder.weight.mul_(0.8 if seed == 0 else 1)
            worse.decoder.weight += 0.05 * torch.randn(16, 6, generator=generator(seed)).double() * (seed > 0)
        assert error(worse) > best


def test_the_start_fits_the_decoder_behind_the_receivers_factor() -> None:
    # as much noise as signal: D is the least-squares map of (e + σ ε) / (1 + σ²), written out
    model, snr = made(choosy=False, channel=AWGNChannel(None)), 0.0
    images = torch.rand(60, 1, 12, 12, generator=generator(), dtype=torch.float64)
    start_code(model, images, snr=snr)
    x = model.model.embed(images)
    for block in model.model.blocks[:AFTER]:
        x = block(x)
    rest = (x - model.expected).flatten(0, 1)
    symbols = unit_power(model.encoder(rest))
    seen = (symbols + torch.randn(2000, *symbols.shape, generator=generator(2), dtype=torch.float64)).flatten(0, 1) / 2
    gram, cross = seen.T @ seen / 2000, seen.T @ rest.repeat(2000, 1) / 2000
    expected = torch.linalg.solve(gram, cross).T
    weight = model.decoder.weight
    assert isinstance(weight, Tensor)
    assert (weight - expected).norm() < 0.02 * expected.norm()


def test_the_start_asks_the_model_without_dropout_and_leaves_it_in_its_mode() -> None:
    images = torch.rand(40, 1, 12, 12, generator=generator(), dtype=torch.float64)
    codes = []
    for training in (True, False):
        model = made(vit(dropout=0.3), choosy=False).train(training)
        model.model.blocks[1].eval()
        start_code(model, images)
        assert model.training == model.model.training == model.model.blocks[0].training == training
        assert not model.model.blocks[1].training
        codes.append((model.expected, model.encoder.weight, model.decoder.weight))
    for one, other in zip(*codes, strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_start_from_images_that_are_all_alike_or_of_another_code_is_refused() -> None:
    model = made()
    before = copy.deepcopy(model.state_dict())
    for images in (pictures(1), torch.zeros(5, 1, 12, 12, dtype=torch.float64)):
        with pytest.raises(ValueError, match=f"at least 2 different images.*got {len(images)}, all alike"):
            start_code(model, images)
    with pytest.raises(ValueError, match="snr must be finite"):
        start_code(model, pictures(), snr=math.inf)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.encoder = nn.Sequential(model.encoder)
    with pytest.raises(TypeError, match=r"must be nn.Linear.*got Sequential and Linear"):
        start_code(model, pictures())
