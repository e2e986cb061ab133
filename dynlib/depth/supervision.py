"""Deep supervision: every step of a recursive model is trained, and what it came to is carried into the next.

A batch has *slots*. In each lies a puzzle with the answer and the latent that the model has come to so far, (y, z), and
the number of its steps. A training step

1. puts new puzzles into the slots that have halted, and begins there anew, so that nothing is carried over;
2. runs one deep recursion of all, and takes the loss

       L = CE(ŷ, y_true) + ½ BCE(q, ŷ = y_true throughout),

   the mean over the tokens of a puzzle, then over the slots;
3. halts the slots whose q is above 0, and those that have had all their steps. To see what comes after it was sure, a
   share ``explore`` of the slots must go on for a number of steps that is drawn from 2 … all.

The optimizer is yours, as is what draws new puzzles:

    slots, ema = empty_slots(model, 64), EMA(model)
    for _ in range(steps):
        step = deep_supervision(model, slots, fresh)
        step.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        slots = step.slots
        ema.update(model)

The cross-entropy is that of a *stablemax*, s(x) / Σ s(x) with s(x) = x + 1 for x ≥ 0 and 1 / (1 − x) below, which grows
like a line and not like an exponential. What is evaluated is a moving average of the weights, :class:`EMA`.

Source: arXiv:2510.04871 and its public code, whose halting this is (the pseudo-code halts a whole batch); stablemax is
from arXiv:2501.04697 (abstract).
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.depth.recursion import TinyRecursiveModel
from dynlib.inputs import check_filled, check_number, check_tensor, check_whole, widen
from dynlib.transforms import double, look

Fresh = Callable[[int], tuple[Tensor, Tensor]]
"""So many new puzzles and their answers, both [number, tokens]."""


class Slots(NamedTuple):
    """Where training stands: give it to the next step, and keep it with the weights where a run is to be resumed."""

    puzzles: Int[Tensor, "batch tokens"]
    answers: Int[Tensor, "batch tokens"]
    y: Float[Tensor, "batch tokens dim"]
    z: Float[Tensor, "batch tokens dim"]
    steps: Int[Tensor, " batch"]
    """How many the puzzle has had."""
    halted: Bool[Tensor, " batch"]
    """Where the next step puts in a new puzzle."""


class Supervised(NamedTuple):
    """What a training step came to. ``loss`` has a graph; call ``backward`` on it. The slots have none."""

    loss: Float[Tensor, ""]
    slots: Slots
    right: Bool[Tensor, " batch"]
    """Where every token of the answer is right. Of how many are solved, the halted slots tell."""
    halting: Float[Tensor, " batch"]
    """q, a logit."""


def stablemax(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """s(x) / Σ s(x), computed in float64: positive, and sums to one.

    Raises:
        TypeError: if the logits are no tensor of floating-point numbers.
        ValueError: if there are none.
    """
    return _log_stablemax(logits).exp().to(widen(logits).dtype)


def stablemax_cross_entropy(
    logits: Float[Tensor, "*batch classes"], labels: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """−log of the stablemax of the label, one for every row of logits, computed in float64.

    Raises:
        TypeError: if the logits are no tensor of floating-point numbers, or the labels none of int64.
        ValueError: if there are no logits, the labels have another shape, or one is no class.
    """
    log_p = _log_stablemax(logits)
    check_tensor(labels, "labels")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64; got {labels.dtype}: use .long()")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"need one label for every row of logits {tuple(logits.shape)}; got {tuple(labels.shape)}")
    classes = logits.shape[-1]

    def check(given: Tensor) -> None:
        if given.min() < 0 or given.max() >= classes:
            raise ValueError(f"labels must be 0 … {classes - 1}; got {int(given.min())} … {int(given.max())}")

    look(check, labels)
    return -log_p.gather(-1, labels[..., None])[..., 0].to(widen(logits).dtype)


def _log_stablemax(logits: Tensor) -> Tensor:
    check_filled(logits)
    x = double(logits)
    above, below = x.clamp_min(0), (-x).clamp_min(0)
    # s(x) = x + 1 for x ≥ 0, and 1 / (1 − x) below
    s = torch.where(x >= 0, 1 + above, 1 / (1 + below))
    log_s = torch.where(x >= 0, above.log1p(), -below.log1p())
    return log_s - s.sum(-1, keepdim=True).log()


def empty_slots(model: TinyRecursiveModel, batch: int) -> Slots:
    """Slots to begin with: all halted.

    Raises:
        TypeError: if ``batch`` is no int.
        ValueError: if it is below 1.
    """
    check_whole("batch", batch, least=1)
    puzzles = torch.zeros(batch, model.length, dtype=torch.int64, device=model.position.device)
    y, z = model.start(model.position.detach().expand(batch, -1, -1))
    return Slots(puzzles, puzzles, y, z, puzzles[:, 0], torch.ones_like(puzzles[:, 0], dtype=torch.bool))


def deep_supervision(
    model: TinyRecursiveModel,
    slots: Slots,
    fresh: Fresh,
    *,
    explore: float | int = 0.1,
    halting_weight: float | int = 0.5,
    loss: Callable[[Tensor, Tensor], Tensor] = stablemax_cross_entropy,
    generator: torch.Generator | None = None,
) -> Supervised:
    """One training step of all slots, without the optimizer's.

    Args:
        model: its ``steps`` are the most that a puzzle gets.
        slots: of the step before; :func:`empty_slots` at first.
        fresh: asked for as many puzzles as slots have halted, and not where none has.
        explore: share of the slots that must go on, drawn anew in every step, 0 … 1.
        halting_weight: of the loss of q, not negative; ½ in the formula.
        loss: of logits [batch, tokens, vocabulary] and answers, a number for each token, [batch, tokens].
        generator: for ``explore``.

    Raises:
        TypeError: if the answers are no int64, or a number is none.
        ValueError: if ``fresh`` does not give as many as it was asked for, an answer is outside the vocabulary, or a
            number out of its range.
        TypeError, ValueError: as the model does.
    """
    share = check_number("explore", explore, least=0, most=1)
    weight = check_number("halting_weight", halting_weight, least=0)
    slots = _refill(model, slots, fresh)
    x = model.embed(slots.puzzles)
    (y, z), logits, halting = model.deep_recursion(x, slots.y, slots.z)
    right = (logits.detach().argmax(-1) == slots.answers).all(1)
    # L = CE(ŷ, y_true) + ½ BCE(q, ŷ = y_true)
    answer_loss = loss(logits, slots.answers).mean(1)
    wide = widen(halting)
    halting_loss = F.binary_cross_entropy_with_logits(wide, right.to(wide.dtype), reduction="none")
    total = (answer_loss + weight * halting_loss).mean()

    steps = slots.steps + 1
    halted = (halting.detach() > 0) | (steps >= model.steps)
    if share > 0 and model.steps > 1:
        goes_on = torch.rand(len(steps), generator=generator).to(steps.device) < share
        least = torch.randint(2, model.steps + 1, steps.shape, generator=generator).to(steps.device)
        halted = halted & (~goes_on | (steps >= least))
    return Supervised(total, Slots(slots.puzzles, slots.answers, y, z, steps, halted), right, halting.detach())


def _refill(model: TinyRecursiveModel, slots: Slots, fresh: Fresh) -> Slots:
    empty = int(slots.halted.sum())
    if empty == 0:
        return slots
    puzzles, answers = fresh(empty)
    for name, given in (("puzzles", puzzles), ("answers", answers)):
        check_tensor(given, f"the new {name}")
        if given.shape != (empty, model.length):
            raise ValueError(f"asked for {empty} new {name} of {model.length} tokens; got {tuple(given.shape)}")
    halted = slots.halted
    whole, state = halted[:, None], halted[:, None, None]
    y, z = model.start(slots.y)
    return Slots(
        slots.puzzles.masked_scatter(whole, puzzles.to(slots.puzzles)),
        slots.answers.masked_scatter(whole, answers.to(slots.answers)),
        torch.where(state, y, slots.y),
        torch.where(state, z, slots.z),
        torch.where(halted, 0, slots.steps),
        torch.zeros_like(halted),
    )


class EMA:
    """A copy of a model whose weights follow it slowly, w̄ ← decay · w̄ + (1 − decay) · w. It is the one to evaluate.

    Args:
        model: copied; :attr:`model` is the copy, in evaluation mode and without gradients.
        decay: from 0, no average, to below 1.

    Raises:
        TypeError: if the decay is no number.
        ValueError: if it is out of its range.
    """

    def __init__(self, model: nn.Module, decay: float | int = 0.999) -> None:
        if check_number("decay", decay, least=0, most=1) == 1:
            raise ValueError("decay must be below 1; with 1 the average never moves")
        self.decay = float(decay)
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Follow the model, after each of its optimizer's steps. Buffers are copied.

        Raises:
            ValueError: if it has other weights.
        """
        ours, theirs = dict(self.model.named_parameters()), dict(model.named_parameters())
        if {name: w.shape for name, w in ours.items()} != {name: w.shape for name, w in theirs.items()}:
            raise ValueError("the model has other weights than the one that is averaged: make a new EMA")
        for name, average in ours.items():
            # w̄ ← decay · w̄ + (1 − decay) · w
            average.mul_(self.decay).add_(theirs[name], alpha=1 - self.decay)
        for kept, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)


class Supervision(nn.Module):
    """A model under training, with all that goes from step to step: its slots, and the average of its weights.

    The slots are buffers and the average is a part of it, so that they stand in the checkpoints of
    :func:`dynlib.training.train`, and a run that was interrupted goes on as if it had not been:

        training = Supervision(model, 64, puzzle_stream(puzzles))
        train(training, training.loss, after=training.follow, steps=1000, checkpoint="checkpoints/mine.pt")
        training.average.predict(...)

    Args:
        model: trained in place.
        batch: number of slots.
        fresh: as in :func:`deep_supervision`; draws from torch's random numbers.
        decay: of the :class:`EMA`.
        options: more of :func:`deep_supervision`'s.

    Raises:
        TypeError, ValueError: as :func:`empty_slots` and :class:`EMA` do.
    """

    def __init__(
        self, model: TinyRecursiveModel, batch: int, fresh: Fresh, *, decay: float | int = 0.999, **options: Any
    ) -> None:
        super().__init__()
        self.ema = EMA(model, decay)
        self.model, self.average = model, self.ema.model
        self.fresh, self.options = fresh, options
        self._next: Slots | None = None
        for name, slot in zip(Slots._fields, empty_slots(model, batch), strict=True):
            self.register_buffer(name, slot.clone())
        self.drawn: Tensor  # how many new puzzles there have been
        self.register_buffer("drawn", torch.zeros_like(self.slots.steps[0]))

    @property
    def slots(self) -> Slots:
        """Where training stands."""
        return Slots(*(self.get_buffer(name) for name in Slots._fields))

    def loss(self, step: int) -> Float[Tensor, ""]:
        """The loss of the next training step. The slots stay as they are until :meth:`follow`."""
        supervised = deep_supervision(self.model, self.slots, self.fresh, **self.options)
        self._next = supervised.slots
        return supervised.loss

    def follow(self, step: int) -> None:
        """After the optimizer's step: move on to the slots that the loss left, and the average a bit to the weights."""
        if self._next is not None:
            self.drawn = self.drawn + self.slots.halted.sum()
            for name, slot in zip(Slots._fields, self._next, strict=True):
                setattr(self, name, slot)
            self._next = None
        self.ema.update(self.model)
