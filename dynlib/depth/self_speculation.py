"""Self-speculative decoding: the first layers draft a few tokens, the whole stack checks all of them in one pass.

A language model decodes one token a pass, and a pass over one token costs nearly as much time as one over five. So let
layers 1 … E with the model's own readout draft D tokens, one by one, and let layers E + 1 … L read at once all D + 1
states that the draft left at layer E. That gives the whole model's logits after the last token and after each draft.
Keep the drafts up to the first one that the whole model would not have chosen, take the model's own token there, and
forget what the caches hold beyond. A cycle gains 1 … D + 1 tokens, and nothing is approximated:

    greedy:    keep d_i while d_i = argmax p_i;  then take argmax p_i
    sampling:  keep d_i ~ q_i with probability min(1, p_i(d_i) / q_i(d_i));  else draw from (p_i − q_i)₊, normalised

p_i is the whole model's law of the i-th token and q_i the draft's. A kept or replaced token then follows p_i exactly,
because min(p, q) + (p − q)₊ = p.

A batch keeps as many drafts as the sample that keeps fewest, so that all caches stay equally long. A sample that would
have kept more loses nothing but time.

Source: arXiv:2404.16710 (the draft is a part of the model itself, and its states are used again), arXiv:2211.17192 (the
rejection rule).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynlib.backbone import CausalLM, LayerCache, prompt_positions
from dynlib.inputs import check_whole
from dynlib.transforms import double


class Speculated(NamedTuple):
    """What :func:`self_speculative_generate` gives."""

    tokens: Int[Tensor, "batch all"]
    """The prompt and the new tokens."""
    drafted: Int[Tensor, " cycles"]
    """How many tokens each cycle drafted; fewer than asked for near the end."""
    kept: Int[Tensor, " cycles"]
    """How many of them every sample kept; the cycle gained one more than that."""


@torch.no_grad()
def self_speculative_generate(
    model: CausalLM,
    prompt: Int[Tensor, "batch tokens"],
    new_tokens: int,
    *,
    draft_layers: int,
    draft_tokens: int,
    key_mask: Bool[Tensor, "batch tokens"] | None = None,
    positions: Int[Tensor, "batch tokens"] | Int[Tensor, " tokens"] | None = None,
    temperature: float | int = 0.0,
    generator: torch.Generator | None = None,
) -> Speculated:
    """The prompt and ``new_tokens`` more, as ``model.generate`` writes them, in fewer passes through the upper layers.

    At temperature 0 the tokens are those of ``model.generate``, as long as rounding decides no tie: the upper layers
    see several tokens at once here and one there. Above 0 they follow the same law, with other random numbers.

    Args:
        model: a language model. The better its first layers can be read out, the more drafts are kept: one trained with
            exits, such as the zoo's ``topics_exits``. Its blocks must keep one entry a token in their caches.
        prompt: where to start.
        new_tokens: how many to add.
        draft_layers: E, how many of the first layers draft, 1 … depth. More of them agree more often and draft slower.
        draft_tokens: D, how many tokens they draft before the others look; at least 1.
        key_mask, positions: as in :meth:`dynlib.backbone.CausalLM.generate`, for prompts filled up on the left.
        temperature: 0 takes the likeliest token; above, samples from softmax(logits / temperature).
        generator: for the sampling.

    Raises:
        TypeError: if a count is not an int, the prompt is no tensor, or a block keeps only some of the tokens.
        ValueError: if ``draft_layers``, ``draft_tokens``, ``new_tokens`` or ``temperature`` is out of range, the prompt
            is empty, or ``key_mask`` or ``positions`` do not fit it.
    """
    check_whole("draft_layers", draft_layers, least=1, most=len(model.blocks), what="layers of the model")
    check_whole("draft_tokens", draft_tokens, least=1)
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0; got {temperature}")
    places, blocks = prompt_positions(prompt, new_tokens, key_mask, positions), list(model.blocks)
    end = prompt.shape[1] + new_tokens
    tokens, drafted, kept = prompt, list[int](), list[int]()
    if new_tokens:
        cache = model.new_cache()
        logits = model(prompt, positions=places[:, : prompt.shape[1]], cache=cache)[:, -1]
        _check_lengths(model, cache, prompt.shape[1])
        tokens = torch.cat([prompt, _draw(_law(logits, temperature), temperature, generator)], dim=1)
    while tokens.shape[1] < end:
        read = tokens.shape[1] - 1  # the caches hold all but the last token
        drafts = min(draft_tokens, end - tokens.shape[1] - 1)
        states, laws = [], []
        for at in range(read, read + drafts + 1):
            here = places[:, at : at + 1]
            x = model.embed(tokens[:, at : at + 1], positions=here)
            x = _through(blocks[:draft_layers], x, here, cache[:draft_layers])
            states.append(x)
            if at < read + drafts:
                laws.append(_law(model.readout(x)[:, -1], temperature))
                tokens = torch.cat([tokens, _draw(laws[-1], temperature, generator)], dim=1)
        seen = places[:, read : read + drafts + 1]
        x = _through(blocks[draft_layers:], torch.cat(states, dim=1), seen, cache[draft_layers:])
        target, guesses = _law(model.readout(x), temperature), tokens[:, read + 1 :]
        if temperature == 0:
            keep, following = verify_greedy(guesses, target.argmax(-1))
        else:
            keep, following = verify_sampled(guesses, laws, target, generator=generator)
        tokens = torch.cat([tokens[:, : read + 1 + keep], following[:, None]], dim=1)
        for layer in cache:  # what stands beyond was read from drafts that are gone
            layer.truncate(read + 1 + keep)
        drafted.append(drafts)
        kept.append(keep)
    return Speculated(tokens, torch.tensor(drafted, dtype=torch.int64), torch.tensor(kept, dtype=torch.int64))


def verify_greedy(
    drafts: Int[Tensor, "batch drafts"], chosen: Int[Tensor, "batch drafts_and_1"]
) -> tuple[int, Int[Tensor, " batch"]]:
    """How many drafts all samples keep, and the token after them.

    Args:
        drafts: d_1 … d_D.
        chosen: what the whole model takes after the last token and after each draft; its first D stand against
            ``drafts``.
    """
    keep = _least_run(drafts == chosen[:, :-1])
    return keep, chosen[:, keep]


def verify_sampled(
    drafts: Int[Tensor, "batch drafts"],
    laws: list[Float[Tensor, "batch vocabulary"]],
    target: Float[Tensor, "batch drafts_and_1 vocabulary"],
    *,
    generator: torch.Generator | None = None,
) -> tuple[int, Int[Tensor, " batch"]]:
    """How many drafts all samples keep, and the token after them, so that each follows ``target``.

    Args:
        drafts: d_i, drawn from ``laws[i]``.
        laws: q_1 … q_D, the probabilities that the drafts were drawn by.
        target: p_1 … p_{D + 1}, those that the tokens are to follow.
        generator: for the sampling.
    """
    if not laws:
        return 0, _sample(target[:, 0], generator)
    q, p = torch.stack(laws, dim=1), target[:, : len(laws)]
    ratio = (p.gather(2, drafts[..., None]) / q.gather(2, drafts[..., None])).squeeze(2)
    accepted = torch.rand(ratio.shape, generator=generator, dtype=ratio.dtype, device=ratio.device) < ratio
    keep = _least_run(accepted)
    if keep == len(laws):
        return keep, _sample(target[:, keep], generator)
    rest = (p[:, keep] - q[:, keep]).clamp(min=0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, p[:, keep])  # p = q but for rounding
    return keep, torch.where(accepted[:, keep], drafts[:, keep], _sample(rest, generator))


def _least_run(right: Tensor) -> int:
    """How long the shortest run of True at the beginning of a row is."""
    return int(right.long().cumprod(1).sum(1).min()) if right.shape[1] else 0


def _through(blocks: list[nn.Module], x: Tensor, places: Tensor, cache: list[LayerCache]) -> Tensor:
    for block, past in zip(blocks, cache, strict=True):
        x = block(x, positions=places, cache=past)
    return x


def _law(logits: Tensor, temperature: float) -> Tensor:
    """The probabilities to draw by; at temperature 0 the logits, of which only the largest is asked for."""
    return logits if temperature == 0 else (double(logits) / temperature).softmax(-1)


def _draw(law: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    return law.argmax(-1, keepdim=True) if temperature == 0 else _sample(law, generator)[:, None]


def _sample(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def _check_lengths(model: CausalLM, cache: list[LayerCache], length: int) -> None:
    for number, (block, layer) in enumerate(zip(model.blocks, cache, strict=True), start=1):
        if layer.length != length:
            raise TypeError(
                f"layer {number} ({type(block).__name__}) keeps {layer.length} of {length} tokens in its cache, which "
                "cannot be taken back token by token: use a stack whose blocks keep every token"
            )
