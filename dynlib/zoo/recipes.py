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
from dynlib.depth.calm import masked_exits
from dynlib.depth.early_exit import MultiExit, exit_loss

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
    start: str | None = None
    """The backbone whose weights it starts from; random ones if None."""


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


def multi_exit_vit(**config: Any) -> MultiExit:
    """A vision transformer with an exit after every layer."""
    vit = ViT(**config)
    return MultiExit(vit, range(1, len(vit.blocks)))


def _digits_exits_loss(model: nn.Module) -> Callable[[int], Tensor]:
    def loss(step: int) -> Tensor:
        batch = cluttered_digits(128, split="train", seed=10**6 + step)  # none that the start was trained on
        return exit_loss(model(batch.images), batch.labels)

    return loss


@torch.no_grad()
def _digits_exits_figures(model: nn.Module) -> Numbers:
    test = cluttered_digits(10_000, split="test", seed=0)
    said = torch.cat([model(images).argmax(-1) for images in tqdm(test.images.split(500), leave=False)], dim=1)
    right = (said == test.labels).float().mean(1).tolist()
    figures: Numbers = {f"test_accuracy_after_layer_{layer}": value for layer, value in enumerate(right, start=1)}
    return figures | {"test_images": len(test)}


def _readouts(model: CausalLM, tokens: Tensor) -> list[Tensor]:
    """The logits after every layer."""
    x, logits = model.embed(tokens), []
    for block in model.blocks:
        x = block(x)
        logits.append(model.readout(x))
    return logits


def _topics_exits_loss(model: nn.Module) -> Callable[[int], Tensor]:
    assert isinstance(model, CausalLM)
    text = encode("\n\n".join(topics("train").values()))

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(10**6 + step)
        batch = windows(text, 12, 193, generator=generator)
        tokens, after = batch[:, :-1], batch[:, 1:]
        # A text of its own length to read, then tokens that leave, some early and some late.
        prompt = torch.randint(1, 129, (len(tokens),), generator=generator)
        threshold = 0.4 + 0.6 * torch.rand(len(tokens), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = torch.stack(_readouts(model, tokens)).float()
            left, _ = masked_exits(model, tokens, threshold, prompt=prompt)
        # Every layer is read out, layer i with weight i, as in arXiv:2207.07061.
        read = exit_loss(logits.flatten(1, 2), after.flatten(), weights="depth")
        # With exits it is to write what it writes without: that is not in the paper.
        target = logits[-1].detach().log_softmax(-1)
        same = F.kl_div(left.float().log_softmax(-1), target, log_target=True, reduction="none").sum(-1)
        return read + same[torch.arange(tokens.shape[1]) >= prompt[:, None] - 1].mean()

    return loss


@torch.no_grad()
def _topics_exits_figures(model: nn.Module) -> Numbers:
    assert isinstance(model, CausalLM)
    text = "\n\n".join(topics("test").values())
    tokens = encode(text)
    rows = tokens[: len(tokens) // 256 * 256].view(-1, 256)
    agree = torch.zeros(len(model.blocks))
    for row in tqdm(rows.split(16), leave=False):
        said = torch.stack(_readouts(model, row)).argmax(-1)
        agree += (said == said[-1]).float().mean((1, 2)) * len(row) / len(rows)
    figures: Numbers = {
        f"test_agreement_of_layer_{layer}_with_the_last": value
        for layer, value in enumerate(agree[:-1].tolist(), start=1)
    }
    return _topics_figures(model) | figures


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
    "digits_exits": Recipe(
        build=multi_exit_vit,
        config={"image_size": 24, "patch_size": 4, "classes": 10, "dim": 96, "depth": 6, "heads": 4},
        loss=_digits_exits_loss,
        evaluate=_digits_exits_figures,
        training={"steps": 2000, "lr": 1e-3, "weight_decay": 0.05},
        start="digits_vit",
    ),
    "topics_exits": Recipe(
        build=CausalLM,
        config={"vocabulary": 256, "dim": 128, "depth": 8, "heads": 4, "dropout": 0.2},
        loss=_topics_exits_loss,
        evaluate=_topics_exits_figures,
        training={"steps": 800, "lr": 1e-3, "weight_decay": 0.1},
        start="topics_lm",
    ),
}
