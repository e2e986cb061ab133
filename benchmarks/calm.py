"""Decoding with exits against decoding with the whole model, both with their cache, letter by letter at batch 1."""

from functools import partial

import torch

from benchmarks.table import Case, Row
from dynlib import zoo
from dynlib.cost import count, timed
from dynlib.data import encode, text, windows
from dynlib.depth import calm_generate

PROMPT, LETTERS = 64, 64


def cases(*, quick: bool = False) -> list[Case]:
    """The zoo's language model with exits, at thresholds from never to often."""
    thresholds = (0.8,) if quick else (1.01, 0.9, 0.8, 0.6)
    return [(f"calm λ = {threshold:g}", partial(_measure, threshold, quick)) for threshold in thresholds]


@torch.inference_mode()
def _measure(threshold: float, quick: bool) -> Row:
    model = zoo.load("topics_exits")
    held_out = encode(text("test"))
    prompts = windows(held_out, 1 if quick else 4, PROMPT, generator=torch.Generator().manual_seed(0)).split(1)
    letters = 4 if quick else LETTERS

    def full() -> list[torch.Tensor]:
        return [model.generate(prompt, letters) for prompt in prompts]

    def early() -> list[torch.Tensor]:
        return [calm_generate(model, prompt, letters, threshold).tokens for prompt in prompts]

    timing = timed(early, full, repeats=7, warmup=1, least_seconds=0.0)
    share, low, high = timing.ratio(0, 1)
    layers = torch.cat([calm_generate(model, prompt, letters, threshold).exits for prompt in prompts])
    same = (torch.cat(early()) == torch.cat(full()))[:, PROMPT:].double().mean().item()
    written = letters * len(prompts)
    return Row(
        mechanism=f"CALM, λ = {threshold:g}",
        size=f"topics_exits, dim 128, 8 layers, batch 1, {len(prompts)} prompts, {letters} letters each",
        peer="the whole model",
        flops_share=count(early).flops / count(full).flops,
        time_share=share,
        interval=(low, high),
        note=f"mean layer {layers.double().mean():.1f}; {100 * same:.0f} % of the letters are the whole model's; "
        f"{written / timing.seconds[0]:.0f} and {written / timing.seconds[1]:.0f} letters a second",
    )
