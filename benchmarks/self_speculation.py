"""Self-speculative decoding against decoding with the whole model, both with their cache, at batch 1."""

from functools import partial

import torch

from benchmarks.table import Case, Row
from dynlib import zoo
from dynlib.cost import count, timed
from dynlib.data import encode, text, windows
from dynlib.depth import self_speculative_generate

PROMPT, LETTERS = 64, 64


def cases(*, quick: bool = False) -> list[Case]:
    """The zoo's language model with exits; its first one or two layers draft."""
    settings = ((1, 3),) if quick else ((1, 2), (1, 3), (2, 4), (4, 4))
    return [
        (f"self-speculation {layers} × {drafts}", partial(_measure, layers, drafts, quick))
        for layers, drafts in settings
    ]


@torch.inference_mode()
def _measure(layers: int, drafts: int, quick: bool) -> Row:
    model = zoo.load("topics_exits")
    held_out = encode(text("test"))
    prompts = windows(held_out, 1 if quick else 8, PROMPT, generator=torch.Generator().manual_seed(0)).split(1)
    letters = 4 if quick else LETTERS
    speculate = partial(self_speculative_generate, model, draft_layers=layers, draft_tokens=drafts)

    def full() -> list[torch.Tensor]:
        return [model.generate(prompt, letters) for prompt in prompts]

    def drafted() -> list[torch.Tensor]:
        return [speculate(prompt, letters).tokens for prompt in prompts]

    timing = timed(drafted, full, repeats=5, warmup=1, least_seconds=0.0)
    share, low, high = timing.ratio(0, 1)
    cycles = torch.cat([speculate(prompt, letters).kept + 1 for prompt in prompts]).double()
    same = sum(torch.equal(a, b) for a, b in zip(drafted(), full(), strict=True))
    return Row(
        mechanism=f"self-speculation, {layers} of 8 layers draft {drafts}",
        size=f"topics_exits, dim 128, 8 layers, batch 1, {len(prompts)} prompts, {letters} letters each",
        peer="the whole model",
        flops_share=count(drafted).flops / count(full).flops,
        time_share=share,
        interval=(low, high),
        note=f"{1 / share:.2f} times as fast; {cycles.mean():.2f} letters a cycle; "
        f"{same} of {len(prompts)} texts the same, letter for letter",
    )
