"""One small training loop for everything in the course: AdamW, warm-up and cosine, a progress bar, a history.

Long runs can be interrupted and resumed: give :func:`train` a ``checkpoint`` and call it again.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dynlib.inputs import check_number, check_whole


@dataclass
class History:
    """What a run looked like: one loss and one learning rate per step, and the seconds it took in all."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def smooth(self, window: int = 20) -> list[float]:
        """The losses as running means over up to ``window`` steps, to plot."""
        check_whole("window", window, least=1)
        starts = [max(0, step + 1 - window) for step in range(len(self.losses))]
        return [sum(self.losses[a : b + 1]) / (b + 1 - a) for b, a in enumerate(starts)]


def learning_rate(step: int, *, steps: int, peak: float, warmup: float = 0.05, floor: float = 0.0) -> float:
    """Linear from 0 to ``peak`` over the first ``warmup`` share of the steps, then half a cosine down to a ``floor``.

    The floor is a share of the peak.

    Raises:
        ValueError: if ``warmup`` or ``floor`` is not a share, or ``step`` is not one of 0 … ``steps`` − 1.
    """
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup is a share of the steps, 0 … 1; got {warmup}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is a share of the peak, 0 … 1; got {floor}")
    if not 0 <= step < steps:
        raise ValueError(f"step must be one of 0 … {steps - 1}; got {step}")
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    falling = 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
    return peak * (floor + (1 - floor) * falling)


def train(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    warmup: float = 0.05,
    floor: float = 0.0,
    clip: float = 1.0,
    checkpoint: str | Path | None = None,
    every: int = 100,
    after: Callable[[int], object] | None = None,
    progress: bool = True,
    description: str = "train",
) -> History:
    """Minimise ``loss`` over the parameters of ``model`` that ask for a gradient.

    Args:
        model: trained in place; put into training mode, and every module back into the mode it had. A frozen part, with
            parameters none of which asks for a gradient, stays in evaluation mode if that is where it is: no dropout
            there, and its batch statistics stay. What must stay so and is trained says so in its own ``train()``.
        loss: the loss of a step, by its number 0 … steps − 1. A batch that depends on that number alone, or on torch's
            random numbers of the CPU, makes a resumed run equal to an uninterrupted one.
        steps: how many in all, those before an interruption included.
        lr, warmup, floor: peak and shape of :func:`learning_rate`; with a floor of 1 it stays where it is.
        weight_decay: on parameters of two or more axes; biases, norms and other vectors are left free.
        clip: largest norm of the whole gradient.
        checkpoint: a file. Written every ``every`` steps and when interrupted; read, if it is there, at the start.
        every: steps between two writings of the checkpoint.
        after: called with the number of each step once the weights have moved, to let an average follow them, say. What
            it must not lose when a run is interrupted, it keeps in buffers of the model: they go into the checkpoint.
        progress: show a bar.
        description: the bar's name.

    Raises:
        TypeError: if ``steps`` or ``every`` is no int, or ``lr`` or ``weight_decay`` no number.
        ValueError: if there is nothing to train, ``every`` is not positive, ``lr`` or ``weight_decay`` is negative or
            not finite, ``warmup`` or ``floor`` is not a share, or the checkpoint is damaged or from a run
            of another model, schedule or weight decay; the file and the model are left as they are.
        FloatingPointError: if the loss or its gradient is no longer finite.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    if check_whole("steps", steps) < 1 or not weights:
        raise ValueError(f"nothing to train: steps={steps}, parameters that ask for a gradient: {len(weights)}")
    check_whole("every", every, least=1)
    check_number("lr", lr, least=0)
    check_number("weight_decay", weight_decay, least=0)
    schedule = [learning_rate(step, steps=steps, peak=lr, warmup=warmup, floor=floor) for step in range(steps)]
    optimizer = _optimizer(weights, lr, weight_decay)
    history = History()
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        _resume(path, model, optimizer, history, schedule)
    modes = {module: module.training for module in model.modules()}
    _to_training_mode(model, modes)
    start = time.perf_counter() - history.seconds
    first = len(history.losses)
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=description, disable=not progress, leave=False)
    random, whole = torch.get_rng_state(), True  # as the step found them; no update is half done
    try:
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = schedule[step]
            value = loss(step)
            _differentiate(value, weights, clip, step)
            whole = False
            optimizer.step()
            torch.clear_autocast_cache()  # or under an autocast around all steps, the first one's weights go on
            if after is not None:
                after(step)
            history.losses.append(value.item())
            history.rates.append(schedule[step])
            history.seconds = time.perf_counter() - start
            random, whole = torch.get_rng_state(), True
            if step % 10 == 0:
                bar.set_postfix(loss=f"{value.item():.3f}")
            if path is not None and ((step + 1) % every == 0 or step + 1 == steps):
                _save(path, model, optimizer, history, random)
    except KeyboardInterrupt:
        if path is not None and whole:  # else the last checkpoint is the one to go on from
            _save(path, model, optimizer, history, random)
        raise
    finally:
        bar.close()
        for module, mode in modes.items():
            module.training = mode
    return history


def _optimizer(weights: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Weight decay for what has two or more axes, and none for vectors."""
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


def _differentiate(value: Tensor, weights: list[nn.Parameter], clip: float, step: int) -> None:
    """The gradient of a loss, clipped, in place of what the weights had; both must be finite."""
    if not torch.isfinite(value):
        raise FloatingPointError(f"the loss of step {step} is {value.item()}: try a lower learning rate")
    for weight in weights:
        weight.grad = None
    value.backward()
    norm = nn.utils.clip_grad_norm_(weights, clip)
    if not torch.isfinite(norm):
        raise FloatingPointError(f"the gradient of step {step} is not finite: try a lower learning rate")


def _to_training_mode(model: nn.Module, modes: dict[nn.Module, bool]) -> None:
    """All of a model, but for the frozen parts that were in evaluation mode."""
    model.train()
    waiting = [model]
    while waiting:
        module = waiting.pop()
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights) and not modes[module]:
            for part in module.modules():
                part.training = modes[part]
        else:
            waiting.extend(module.children())


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, history: History, random: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": vars(history),
        "random": random,
    }
    part = path.with_suffix(path.suffix + ".part")
    torch.save(state, part)
    os.replace(part, path)  # at no moment is there half a checkpoint


def _resume(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, history: History, schedule: list[float]
) -> None:
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        past = History(**state["history"])
        same_rates = len(past.rates) <= len(schedule) and all(map(math.isclose, past.rates, schedule))
        if not same_rates or len(past.losses) != len(past.rates):
            raise ValueError(f"its learning rates are not those of this run of {len(schedule)} steps")
        if _decays(state["optimizer"]) != _decays(optimizer.state_dict()):
            raise ValueError("it is of a run with another weight decay")
        if _shapes(state["model"]) != _shapes(model.state_dict()):
            raise ValueError("it is of another model")
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        model.load_state_dict(state["model"])
    except Exception as error:
        raise ValueError(f"cannot resume from {path}: {error}. Delete the file to start again.") from error
    vars(history).update(vars(past))


def _decays(optimizer_state: dict[str, Any]) -> list[float]:
    return [group["weight_decay"] for group in optimizer_state["param_groups"]]


def _shapes(model_state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model_state.items()}
