"""How each backbone of the zoo is built, trained and tested. ``python -m dynlib.zoo`` runs these."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dynlib.backbone import Block, CausalLM, ViT
from dynlib.data import cluttered_digits, encode, needles, topics, windows
from dynlib.deciding import record, setting
from dynlib.depth.calm import masked_exits
from dynlib.depth.early_exit import MultiExit, exit_loss
from dynlib.tokens.avit import AdaptiveViT, Halted, ponder_loss
from dynlib.tokens.mixture_of_depths import MixtureOfDepths, Routing, predictor_loss, routing_loss
from dynlib.tokens.routing import Routed
from dynlib.zoo.needles import NeedleReader, reading_loss

NEEDLES_STEPS = 360

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
    prepare: Callable[[nn.Module], None] | None = None
    """What is done in place to the model that got these weights, before it is trained."""


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


SMALL = {"vocabulary": 256, "dim": 64, "depth": 6, "heads": 4}
SMALL_TRAINING: Numbers = {"steps": 700, "lr": 3e-3, "weight_decay": 0.1}
WINDOW = 128


def small_lm(**config: Any) -> CausalLM:
    """A small language model, to be compared with others of its size."""
    return CausalLM(**config)


def mixture_lm(*, capacity: float, every: int = 2, **config: Any) -> CausalLM:
    """A small language model in which every other block is a mixture of depths, with a predictor beside its router.

    Or every block, with ``every`` = 1; every third, with 3.
    """
    model = CausalLM(**config)
    for place in range(every - 1, len(model.blocks), every):
        model.blocks[place] = MixtureOfDepths(model.blocks[place], capacity, predictor=True)
    return model


def small_lm_loss(model: nn.Module, *, seed: int = 0, router: float = 0.1) -> Callable[[int], Tensor]:
    """Loss by step. The data depend on step and ``seed`` alone, so that any two models can be compared.

    Where tokens are routed by top-k, ``router`` times the loss that moves r > 0 to where the k begin comes on top, and
    the loss of the predictors, which touches nothing else.
    """
    text = encode("\n\n".join(topics("train").values()))
    ranked = any(isinstance(module, MixtureOfDepths) and module.routing == "top_k" for module in model.modules())

    def loss(step: int) -> Tensor:
        batch = windows(text, 12, WINDOW + 1, generator=torch.Generator().manual_seed(seed * 10**6 + step))

        def read() -> Tensor:
            return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

        if not ranked:
            return read()
        with record(model, MixtureOfDepths) as routed:
            value = read()
        return value + predictor_loss(routed) + (router * routing_loss(routed) if router else 0.0)

    return loss


def window_bits(model: nn.Module) -> float:
    """Bits per character of the test text, cut into windows of 128 bytes of which each is read alone."""
    text = "\n\n".join(topics("test").values())
    tokens = encode(text)
    rows = tokens[: (len(tokens) - 1) // WINDOW * WINDOW].view(-1, WINDOW)
    after = tokens[1 : rows.numel() + 1].view(-1, WINDOW)
    nats = 0.0
    for row, target in zip(rows.split(64), after.split(64), strict=True):
        nats += F.cross_entropy(model(row).flatten(0, 1), target.flatten(), reduction="sum").item()
    return nats / math.log(2) / rows.numel() * len(tokens) / len(text)


@torch.no_grad()
def small_lm_figures(model: nn.Module) -> Numbers:
    """Bits per character as in training; of a mixture of depths also with each causal routing, and what that routes.

    Agreement is the share of tokens for which a causal routing, asked about a pass that top-k routed, says the same.
    """
    figures: Numbers = {f"test_bits_per_character_in_windows_of_{WINDOW}": window_bits(model)}
    layers = [module for module in model.modules() if isinstance(module, MixtureOfDepths)]
    if not layers or layers[0].routing != "top_k":
        return figures
    with record(model, MixtureOfDepths) as records:
        window_bits(model)
    routed = [one for calls in records.values() for one in calls]
    for routing in ("threshold", "predictor"):
        said = [layer.scores if routing == "threshold" else layer.predicted for layer in routed]
        figures[f"agreement_of_{routing}"] = _agreement(routed, said)
    causal: tuple[Routing, ...] = ("threshold", "predictor")
    for routing in causal:
        with setting(model, MixtureOfDepths, routing=routing), record(model, MixtureOfDepths) as records:
            figures[f"test_bits_per_character_by_{routing}"] = window_bits(model)
        figures[f"share_routed_by_{routing}"] = (
            torch.cat([one.mask.flatten() for calls in records.values() for one in calls]).float().mean().item()
        )
    return figures


def _agreement(routed: list[Routed], said: list[Any]) -> float:
    same = [(odds > 0) == layer.mask for odds, layer in zip(said, routed, strict=True)]
    return torch.cat([part.flatten() for part in same]).float().mean().item()


AVIT_FEATURE, AVIT_PONDER = 30, 0.003
"""The feature that tokens halt by, which ``benchmarks.avit_study`` chose, and the weight of the ponder."""


def adaptive_vit(*, gamma: float, beta: float, **config: Any) -> AdaptiveViT:
    """A vision transformer whose tokens halt, each at a depth of its own."""
    return AdaptiveViT(ViT(**config), gamma=gamma, beta=beta)


@torch.no_grad()
def swap_features(vit: ViT, a: int, b: int) -> None:
    """Give the features a and b of every token each other's place: the same function, written down in another order."""
    order = torch.arange(vit.head.in_features)
    order[a], order[b] = b, a
    rows = [vit.patches.weight, vit.patches.bias, vit.norm.weight, vit.norm.bias]
    columns = [vit.class_token, vit.position, vit.head.weight]
    for block in vit.blocks:
        assert isinstance(block, Block)
        attention, feed_forward = block.attention, block.feed_forward
        for part in (block.norm1, block.norm2, attention.output, feed_forward.contract):
            rows += [part.weight, part.bias]
        columns += [attention.query_key_value.weight, feed_forward.expand.weight]
    for weight in rows:
        if weight is not None:  # a convolution may have no bias
            weight.copy_(weight[order])
    for weight in columns:
        weight.copy_(weight[..., order])


def halt_by(feature: int) -> Callable[[nn.Module], None]:
    """Make a feature of the backbone the first one, which tokens halt by."""

    def prepare(model: nn.Module) -> None:
        assert isinstance(model, AdaptiveViT)
        swap_features(model.backbone, 0, feature)

    return prepare


def digits_avit_loss(model: nn.Module, *, ponder: float, stream: int = 0) -> Callable[[int], Tensor]:
    """Cross-entropy + ``ponder`` · mean ponder, on a stream of images that the start was not trained on.

    The loss of a plain model is the cross-entropy alone, on the same images.
    """

    def loss(step: int) -> Tensor:
        batch = cluttered_digits(64, split="train", seed=10**6 * (2 + stream) + step)
        result = model(batch.images)
        if not isinstance(result, Halted):
            return F.cross_entropy(result, batch.labels)
        return F.cross_entropy(result.logits, batch.labels) + ponder * ponder_loss(result)

    return loss


def digit_patches(masks: Bool[Tensor, "n size size"], patch: int = 4) -> Bool[Tensor, "n patches"]:
    """Which patches the digit has ink in."""
    return F.max_pool2d(masks[:, None].float(), patch).flatten(1) > 0


def depth_auc(depth: Int[Tensor, "*some"], digit: Bool[Tensor, "*some"]) -> float:
    """P(depth of a digit's patch > depth of another) + ½ P(the same), over all pairs of one and the other: exact.

    Raises:
        ValueError: if there are no patches of one kind.
    """
    most = int(depth.max()) + 1
    ours, others = (torch.bincount(depth[some], minlength=most).double() for some in (digit, ~digit))
    if ours.sum() == 0 or others.sum() == 0:
        raise ValueError(f"need patches of both kinds; got {int(ours.sum())} of the digit and {int(others.sum())}")
    below = others.cumsum(0) - others
    return ((ours * (below + others / 2)).sum() / (ours.sum() * others.sum())).item()


def _digits_avit_figures(model: nn.Module) -> Numbers:
    assert isinstance(model, AdaptiveViT)
    test = cluttered_digits(10_000, split="test", seed=0)
    results = [model.predict(images) for images in tqdm(test.images.split(500), leave=False)]
    depth = torch.cat([result.depth[:, 1:] for result in results])
    said = torch.cat([result.logits for result in results]).argmax(-1)
    return {
        "test_accuracy": (said == test.labels).float().mean().item(),
        "test_layers_of_a_patch": depth.float().mean().item(),
        "test_auc_of_the_depth_for_the_digit": depth_auc(depth, digit_patches(test.masks)),
        "ponder_weight": AVIT_PONDER,
        "test_images": len(test),
    }


def _needles_loss(model: nn.Module) -> Callable[[int], Tensor]:
    return reading_loss(model, steps=NEEDLES_STEPS)


@torch.no_grad()
def _needles_figures(model: nn.Module) -> Numbers:
    test = needles(5000, split="test", seed=0)
    right = torch.cat([model(tokens).argmax(-1) for tokens in tqdm(test.tokens.split(500), leave=False)]) == test.labels
    return {"test_accuracy": right.float().mean().item(), "test_sequences": len(test)}


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
    "topics_small": Recipe(
        build=small_lm, config=SMALL, loss=small_lm_loss, evaluate=small_lm_figures, training=SMALL_TRAINING
    ),
    "topics_mod": Recipe(
        build=mixture_lm,
        config=SMALL | {"capacity": 0.125},
        loss=small_lm_loss,
        evaluate=small_lm_figures,
        training=SMALL_TRAINING,
    ),
    "digits_avit": Recipe(
        build=adaptive_vit,
        config={
            "image_size": 24,
            "patch_size": 4,
            "classes": 10,
            "dim": 96,
            "depth": 6,
            "heads": 4,
            "gamma": 5.0,
            "beta": -15.0,
        },
        loss=partial(digits_avit_loss, ponder=AVIT_PONDER),
        evaluate=_digits_avit_figures,
        training={"steps": 700, "lr": 3e-4, "weight_decay": 0.05},
        start="digits_vit",
        prepare=halt_by(AVIT_FEATURE),
    ),
    "needles_colt5": Recipe(
        build=NeedleReader,
        config={"dim": 32, "depth": 2, "heads": 4, "window": 8, "light": 32, "heavy": 128, "capacity": 0.0625},
        loss=_needles_loss,
        evaluate=_needles_figures,
        training={"steps": NEEDLES_STEPS, "lr": 5e-3, "weight_decay": 0.01},
    ),
}
