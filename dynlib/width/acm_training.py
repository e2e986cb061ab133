"""How the parts of adaptive computation modules are trained, each module on its own: its learners, then its gate.

1. *Learners* (:func:`distill`): what a module gets is what the teacher's layer gets, and every prefix of its learners
   is to give what that layer gives, (1/N) Σ_k ‖h(z, k) − t(z)‖².
2. *Gates* (:func:`pretrain_gates`): with d(k) = ‖h(z, k) − t(z)‖², a token is to get as many learners as still help,
   the first k after which one more leaves d(k + 1) ≥ τ d(k).
3. Then all of the model on its task, with a budget: :mod:`dynlib.width.acm_losses`.

The loop is :func:`dynlib.training.train`.

Source: arXiv:2312.10193. Where this differs from its public code, bartwojcik/adaptive_computation_modules:

- gates' targets: the code compares norms, ‖h(z, k) − t(z)‖ < 1.2 ‖h(z, k + 1) − t(z)‖ being where more learners stop
  helping. On the squares d that is τ = 1/1.44; the 1/1.2 here asks for less of a learner, and gives more of them. It
  takes the k + 1 of that step where this takes k, and the last choice where already the first step does not help;
- an error that is divided by the teacher's Σ ‖t(z)‖², in 1, is ours.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.inputs import check_number, check_scale, widen
from dynlib.training import History, train
from dynlib.width.acm import AdaptiveComputationModule
from dynlib.width.acm_conversion import acm_layers

Batches = Callable[[int], Any]
"""From the number of a step to what the teacher is called with: a tensor, or a tuple of arguments."""


def distill(
    model: nn.Module,
    teacher: nn.Module,
    batches: Batches,
    *,
    steps: int,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    checkpoint: str | Path | None = None,
    every: int = 100,
    progress: bool = True,
) -> History:
    """Train the learners of each module so that every prefix gives what the teacher's layer gives.

    Each module learns on the teacher's own features, so that they learn beside each other and not through each other.
    The loss is the mean of :func:`prefix_errors` over modules and over k = 1 … N. Gates are left as they are.

    Args:
        model: what :func:`dynlib.width.acmize` made; trained in place.
        teacher: the model that it was made of, which has the old layers under the names of the new ones. Evaluated,
            without gradients.
        batches: what the teacher is called with in a step, by the step's number. If it depends on that number alone, a
            resumed run equals one that was not interrupted.
        steps, lr, weight_decay, checkpoint, every, progress: as in :func:`dynlib.training.train`.

    Raises:
        ValueError: if the model has no such modules, the teacher no layers of their names, or a module gets other
            features or gives others than the teacher's layer; and as :func:`dynlib.training.train` does.
    """
    layers = acm_layers(model)

    def loss(step: int) -> Tensor:
        lessons = _lessons(teacher, layers, batches(step))
        return torch.stack([_errors(layers[name], *lesson)[1:].mean() for name, lesson in lessons]).mean()

    return train(
        nn.ModuleList(layers.values()),
        loss,
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        checkpoint=checkpoint,
        every=every,
        progress=progress,
        description="distill",
    )


@torch.no_grad()
def prefix_errors(model: nn.Module, teacher: nn.Module, batch: Any) -> dict[str, list[float]]:
    """Of each module, Σ ‖h(z, k) − t(z)‖² / Σ ‖t(z)‖² over the tokens of a batch, for k = 0, 1, …, N: the first is 1.

    Args:
        model, teacher: as in :func:`distill`.
        batch: what the teacher is called with; a tuple is several arguments.

    Raises:
        ValueError: as :func:`distill` does.
    """
    layers = acm_layers(model)
    return {name: _errors(layers[name], *lesson).tolist() for name, lesson in _lessons(teacher, layers, batch)}


def pretrain_gates(
    model: nn.Module,
    teacher: nn.Module,
    batches: Batches,
    *,
    steps: int,
    threshold: float | int = 1 / 1.2,
    scale: float | int | None = None,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    checkpoint: str | Path | None = None,
    every: int = 100,
    progress: bool = True,
) -> History:
    """Train the gates alone, each to say how many learners help its token (:func:`gate_targets`).

    Args:
        model, teacher, batches: as in :func:`distill`, after it.
        threshold: τ of :func:`gate_targets`. A larger one spends more.
        scale: c. If given, a gate learns the errors themselves in place of where they stop falling: its logits are to
            be −c d(k) / ‖t(z)‖², so that at a price λ a token gets the k of the least d(k) / ‖t(z)‖² + λ k / c. What is
            beyond 3 ‖t(z)‖² counts as that. This is ours.
        steps, lr, weight_decay, checkpoint, every, progress: as in :func:`dynlib.training.train`.

    Raises:
        ValueError: as :func:`distill` does, and if the threshold is not above 0 and at most 1, or the scale not
            positive.
    """
    check_number("threshold", threshold, least=0, most=1, open=True)
    if scale is not None:
        check_scale("scale", scale)
    layers = acm_layers(model)

    @torch.no_grad()
    def lesson(layer: AdaptiveComputationModule, z: Tensor, t: Tensor) -> Tensor:
        """What the gate is to say of each token: a choice, or with a scale the logits."""
        t = widen(t)  # before it is squared: a sum of squares soon is more than float16 holds
        given = [torch.zeros_like(t), *map(widen, layer.prefixes(z))]
        errors = torch.stack([(one - t).square().sum(-1) for one in given[layer.least :]])
        if scale is None:
            return gate_targets(errors, threshold)
        of_all = t.square().sum(-1).clamp_min(torch.finfo(t.dtype).tiny)
        return -scale * (errors / of_all).clamp_max(3).movedim(0, -1)

    def loss(step: int) -> Tensor:
        losses = []
        for name, (z, t) in _lessons(teacher, layers, batches(step)):
            wanted, logits = lesson(layers[name], z, t), widen(layers[name].gate(z))
            # of a choice, the logits themselves: the log of a drawn choice would be that of zeros
            losses.append(F.cross_entropy(logits, wanted) if scale is None else F.smooth_l1_loss(logits, wanted))
        return torch.stack(losses).mean()

    begun = checkpoint is not None and Path(checkpoint).exists()
    if scale is not None and not begun:  # a bias moves by about lr a step: from 0 it might not arrive at a mean of -c
        for name, (z, t) in _lessons(teacher, layers, batches(0)):
            last = cast(nn.Linear, layers[name].gate[-1])
            with torch.no_grad():
                last.bias.copy_(lesson(layers[name], z, t).mean(0))
    gates = nn.ModuleList(layer.gate for layer in layers.values())
    return train(
        gates,
        loss,
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        checkpoint=checkpoint,
        every=every,
        progress=progress,
        description="gates",
    )


def gate_targets(errors: Float[Tensor, "choices *tokens"], threshold: float | int = 1 / 1.2) -> Int[Tensor, "*tokens"]:
    """Which of the choices a token should get: the first after which the next leaves d(k + 1) ≥ τ d(k), else the last.

    Args:
        errors: d(k) of each token, for ascending k, from the fewest that are allowed.
        threshold: τ, above 0 and at most 1. A larger one gives more learners.

    Returns:
        The choice, counted from 0.
    """
    helps = errors[1:] < threshold * errors[:-1]
    return helps.long().cumprod(0).sum(0)  # how many steps help before the first that does not


def _errors(layer: AdaptiveComputationModule, z: Tensor, t: Tensor) -> Float[Tensor, " choices"]:
    """Σ ‖h(z, k) − t‖² / Σ ‖t‖² for k = 0 … N."""
    t = widen(t)
    whole = t.square().sum().clamp_min(torch.finfo(t.dtype).tiny)
    return torch.stack([whole / whole, *((widen(one) - t).square().sum() / whole for one in layer.prefixes(z))])


@torch.no_grad()
def _lessons(
    teacher: nn.Module, layers: Mapping[str, AdaptiveComputationModule], batch: Any
) -> list[tuple[str, tuple[Float[Tensor, "tokens dim"], Float[Tensor, "tokens out"]]]]:
    """What the teacher's layers got and gave in a batch, token by token, by the names of the modules."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}
    modes = {module: module.training for module in teacher.modules()}
    with _watched(teacher, layers, seen):
        try:
            teacher.eval()
            teacher(*batch) if isinstance(batch, tuple) else teacher(batch)
        finally:
            for module, mode in modes.items():
                module.training = mode
    lessons = []
    for name, layer in layers.items():
        if not seen[name]:
            raise ValueError(f"the teacher did not call its layer {name!r}, and so there is nothing to learn from it")
        z, t = (torch.cat([pair[side].flatten(0, -2) for pair in seen[name]]) for side in (0, 1))
        if (z.shape[1], t.shape[1]) != (layer.dim, layer.out):
            raise ValueError(
                f"{name or 'the module'} is of {layer.dim} to {layer.out} features and the teacher's layer of "
                f"{z.shape[1]} to {t.shape[1]}: give the model that it was made of"
            )
        lessons.append((name, (z, t)))
    return lessons


@contextmanager
def _watched(
    teacher: nn.Module, names: Mapping[str, nn.Module], seen: dict[str, list[tuple[Tensor, Tensor]]]
) -> Iterator[None]:
    """What goes into the layers of these names and comes out of them is kept."""
    handles = []
    try:
        for name in names:
            try:
                layer = teacher.get_submodule(name)
            except AttributeError:
                raise ValueError(
                    f"the teacher has no layer {name!r}: give a copy of the model from before acmize"
                ) from None
            if isinstance(layer, AdaptiveComputationModule):
                raise ValueError(
                    f"the teacher's {name or 'layer'} is an AdaptiveComputationModule itself: give a copy.deepcopy of "
                    "the model from before acmize, which works in place"
                )

            def keep(_: nn.Module, given: Any, gave: Any, name: str = name) -> None:
                seen[name].append((given[0].detach(), gave.detach()))

            handles.append(layer.register_forward_hook(keep))
        yield
    finally:
        for handle in handles:
            handle.remove()
