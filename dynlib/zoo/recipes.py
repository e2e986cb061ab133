"""How each backbone of the zoo is built, trained and tested. ``python -m dynlib.zoo`` runs these."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dynlib.backbone import CausalLM, ViT
from dynlib.data import cluttered_digits, encode, topics, windows

Numbers = dict[str, int | float]


@dataclass(frozen=True)
class Recipe:
    """All that decides a backbone's weights."""

    build: Callable[..., nn.Module]
    config: dict[str, Any]
    """Arguments of ``build``."""
    loss: Callable[[nn.Module], Callable[[int], Tensor]]
    """Model to loss by step, for :func:`dynlib.training.train`."""
    evaluate: Callable[[nn.Module], Numbers]
    """Model to its figures on held-out data."""
    training: Numbers
    """Arguments of :func:`dynlib.training.train`."""


def _digits_loss(model: nn.Module) -> Callable[[int], Tensor]:
    def loss(step: int) -> Tensor:
        batch = cluttered_digits(128, split="train", seed=step)  # fresh clutter every step
        return F.cross_entropy(model(batch.images), batch.labels)

    return loss


@torch.no_grad()
def _digits_figures(model: nn.Module) -> Numbers:
    test = cluttered_digits(10_000, split="test", seed=0)
    right = torch.cat([model(images).argmax(-1) for images in tqdm(test.images.split(500), leave=False)]) == test.labels
    easy, hard = test.difficulty < 1 / 3, test.difficulty > 2 / 3
    return {
        "test_accuracy": right.float().mean().item(),
        "test_accuracy_up_to_3_fragments": right[easy].float().mean().item(),
        "test_accuracy_from_9_fragments": right[hard].float().mean().item(),
        "test_images": len(test),
    }


def _topics_loss(model: nn.Module) -> Callable[[int], Tensor]:
    text = encode("\n\n".join(topics("train").values()))

    def loss(step: int) -> Tensor:
        batch = windows(text, 16, 257, generator=torch.Generator().manual_seed(step))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())

    return loss


@torch.no_grad()
def bits_per_character(model: nn.Module, text: str, *, context: int = 256) -> float:
    """Mean cost of a character of ``text``, each byte predicted from at least half a ``context`` of those before it.

    The first byte of all has nothing before it and is not counted.

    Raises:
        ValueError: if ``context`` is less than two bytes, or ``text`` has no second byte to predict.
    """
    tokens = encode(text)
    if context < 2 or len(tokens) < 2:
        raise ValueError(f"need a context of at least 2 bytes and a text of as many; got {context} and {len(tokens)}")
    half, nats = context // 2, 0.0
    for start in tqdm(range(0, len(tokens) - 1, half), leave=False, desc="bits per character"):
        window = tokens[max(0, start - half) : start + half + 1]
        fresh = len(tokens[start : start + half + 1]) - 1
        logits = model(window[None, :-1])[0, -fresh:]
        nats += F.cross_entropy(logits, window[-fresh:], reduction="sum").item()
    return nats / math.log(2) / len(text)


def _topics_figures(model: nn.Module) -> Numbers:
    text = "\n\n".join(topics("test").values())
    return {"test_bits_per_character": bits_per_character(model, text), "test_characters": len(text)}


RECIPES = {
    "digits_vit": Recipe(
        build=ViT,
        config={"image_size": 24, "patch_size": 4, "classes": 10, "dim": 96, "depth": 6, "heads": 4},
        loss=_digits_loss,
        evaluate=_digits_figures,
        training={"steps": 5000, "lr": 1e-3, "weight_decay": 0.05},
    ),
    "topics_lm": Recipe(
        build=CausalLM,
        config={"vocabulary": 256, "dim": 128, "depth": 8, "heads": 4, "dropout": 0.2},
        loss=_topics_loss,
        evaluate=_topics_figures,
        training={"steps": 1400, "lr": 2e-3, "weight_decay": 0.1},
    ),
}
