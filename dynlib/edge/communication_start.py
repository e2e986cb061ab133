"""Where training begins: the best linear code for the tokens of a trained model."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynlib.edge.communication import TokenTransmitter
from dynlib.inputs import check_number


@torch.no_grad()
def start_code(
    transmitter: TokenTransmitter, images: Float[Tensor, "batch channels height width"], *, snr: float | int = 10.0
) -> None:
    """Begin with a good linear code: p the mean of each place, E the principal directions, D least squares at a ratio.

    The model is asked as in evaluation, without dropout, and left in the mode in which it was.

    Args:
        transmitter: whose code is set, in place; it should send all tokens of these images.
        images: some hundred that were not held out.
        snr: the ratio in decibels at which D is fitted.

    Raises:
        TypeError: if encoder or decoder are no ``nn.Linear``, the images are not floating-point, or the ratio is no
            number.
        ValueError: if there are not at least two different images, they have another size, or the ratio is not finite.
    """
    model, encoder, decoder = transmitter.model, transmitter.encoder, transmitter.decoder
    if not isinstance(encoder, nn.Linear) or not isinstance(decoder, nn.Linear):
        raise TypeError(
            "encoder and decoder must be nn.Linear, as their weights are set; got "
            f"{type(encoder).__name__} and {type(decoder).__name__}"
        )
    noise = 10 ** (-check_number("snr", snr) / 10)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        x = model.embed(images)
        for block in model.blocks[: transmitter.after]:
            x = block(x)
    finally:
        for module, training in modes.items():
            module.training = training
    if (images == images[:1]).all():
        raise ValueError(
            f"need at least 2 different images, and some hundred for a good code; got {len(images)}, all alike"
        )
    transmitter.expected.copy_(x.mean(0))
    rest = (x - transmitter.expected).flatten(0, 1).double()
    directions = torch.linalg.eigh(rest.T @ rest).eigenvectors[:, -2 * transmitter.symbols :].T
    symbols = rest @ directions.T
    symbols = symbols / symbols.square().mean(1, keepdim=True).sqrt()
    # the best D for y = e + σ ε, after the factor 1 / (1 + σ²)
    gram = (symbols.T @ symbols + noise * len(symbols) * torch.eye(symbols.shape[1]).to(symbols)) / (1 + noise)
    encoder.weight.copy_(directions)
    decoder.weight.copy_(torch.linalg.solve(gram, symbols.T @ rest).T)
