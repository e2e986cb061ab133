"""Decoding with exits against decoding with the whole model, both with their cache, letter by letter at batch 1."""

from functools import partial

import torch

from benchmarks.given import bytes_of_text
from benchmarks.race import contest
from benchmarks.table import Case, Row
from dynlib.depth import calm_generate
from dynlib.zoo import load

PROMPT, LETTERS = 64, 64
THRESHOLDS = {"λ = 0.9": 0.9, "λ = 0.8": 0.8}


def cases(*, quick: bool = False) -> list[Case]:
    """The zoo's language model with exits, at thresholds from seldom to often."""
    return [("calm", partial(_rows, quick))]


@torch.inference_mode()
def _rows(quick: bool) -> list[Row]:
    model = load("topics_exits")
    prompts = bytes_of_text(1 if quick else 4, PROMPT)[:, :PROMPT].split(1)
    letters = 2 if quick else LETTERS

    def full() -> list[torch.Tensor]:
        return [model.generate(prompt, letters) for prompt in prompts]

    def early(threshold: float) -> list[torch.Tensor]:
        return [calm_generate(model, prompt, letters, threshold).tokens for prompt in prompts]

    races = contest(
        {name: {"a cache": partial(early, threshold)} for name, threshold in THRESHOLDS.items()},
        {"a cache": full},
        repeats=2 if quick else 7,
    )
    rows, theirs = [], torch.cat(full())
    for name, race in races.items():
        same = (torch.cat(early(THRESHOLDS[name])) == theirs)[:, PROMPT:].double().mean().item()
        exits = torch.cat([calm_generate(model, prompt, letters, THRESHOLDS[name]).exits for prompt in prompts])
        rows.append(
            race.row(
                f"CALM, {name}, trained",
                f"topics_exits, dim 128, 8 layers, 1 × {letters} letters, {len(prompts)} prompts",
                quality=f"{100 * same:.0f} % of the letters are the whole model's",
                note=f"layer {exits.double().mean():.1f} of {len(model.blocks)} in the mean; keys and values of a "
                "layer that was left out are made once a later letter asks, so that FLOPs fall less than layers",
            )
        )
    return rows
