"""Self-speculative decoding against decoding with the whole model, both with their cache, at batch 1."""

from functools import partial

import torch

from benchmarks.given import bytes_of_text
from benchmarks.race import contest
from benchmarks.table import Case, Row
from dynlib.depth import self_speculative_generate
from dynlib.zoo import load

PROMPT, LETTERS = 64, 64
DRAFTS = {"layer 1 drafts 3": (1, 3), "layers 1 and 2 draft 4": (2, 4)}


def cases(*, quick: bool = False) -> list[Case]:
    """The zoo's language model with exits; its first one or two layers draft."""
    return [("self-speculation", partial(_rows, quick))]


@torch.inference_mode()
def _rows(quick: bool) -> list[Row]:
    model = load("topics_exits")
    prompts = bytes_of_text(1 if quick else 4, PROMPT)[:, :PROMPT].split(1)
    letters = 2 if quick else LETTERS

    def full() -> list[torch.Tensor]:
        return [model.generate(prompt, letters) for prompt in prompts]

    def drafted(layers: int, drafts: int) -> list[torch.Tensor]:
        speculate = partial(self_speculative_generate, draft_layers=layers, draft_tokens=drafts)
        return [speculate(model, prompt, letters).tokens for prompt in prompts]

    races = contest(
        {name: {"a cache": partial(drafted, *how)} for name, how in DRAFTS.items()},
        {"a cache": full},
        repeats=2 if quick else 7,
    )
    rows, theirs = [], full()
    for name, race in races.items():
        same = sum(torch.equal(a, b) for a, b in zip(drafted(*DRAFTS[name]), theirs, strict=True))
        rows.append(
            race.row(
                f"self-speculation, {name}, trained",
                f"topics_exits, dim 128, 8 layers, 1 × {letters} letters, {len(prompts)} prompts",
                quality=f"{same} of {len(prompts)} texts are the whole model's",
                note="it computes more and waits less: several letters are checked in one call",
            )
        )
    return rows
