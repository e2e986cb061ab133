"""Looped: a few layers, used again and again. Depth is a number that one sets, and not the number of weights.

A block of k layers looped L times, (k ⊗ L), starts from nothing and sees the input again in every loop,

    z_0 = 0,    z_{t+1} = f(z_t + x),    t = 0 … L − 1,

so that it may go on for longer than it was trained and still know what it was asked. Without this *injection* it is the
plain stack with shared weights, z_0 = x, z_{t+1} = f(z_t).

*Training on a window*: the loss is the mean over the last T of b loops, and the loops before them have no graph. So the
answer must be there after some loops and stay, and the backward pass costs T loops, however many there were. Without
injection a window shorter than b cuts off the input too: what made x then gets no gradient at all.

*Stopping*: each sample, or each token, leaves after a number of loops of its own, when its state hardly moves any
more, or when a learned gate says so (:mod:`dynlib.depth.stopping`). A token that has stopped keeps its state, and the
others still see it.

Source: arXiv:2311.12424 (injection, window), arXiv:2502.17416 (k ⊗ L).
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dynlib.deciding import Execution, check_execution, chosen, report
from dynlib.depth.some_tokens import for_some
from dynlib.depth.stopping import Each, ExitGate, StoppingRule, exit_distribution, gated_loss
from dynlib.inputs import check_features, check_tensor, check_whole, widen

__all__ = ["ExitGate", "Looped", "Stopped", "exit_distribution", "gated_loss", "window_loss"]


class Stopped(NamedTuple):
    """What came out, and after how many loops, from 1 on."""

    state: Float[Tensor, "batch tokens dim"]
    loops: Int[Tensor, "batch *tokens"]
    """[batch], or [batch, tokens] where each token stopped by itself; so is the measure."""
    measure: Float[Tensor, "batch *tokens"]
    """What the rule saw last: how far the state moved, of its length; or Σ p_j. NaN where there was no rule."""


class Looped(nn.Module):
    """One block, looped. It has the block's parameters and no more, whatever the number of loops.

    Args:
        block: maps tokens [batch, tokens, dim] to tokens, each sample on its own; k layers are an ``nn.Sequential``.
        loops: L, from 1 on.
        inject: "add": z + x goes into every loop. "none": z alone. Or a module of (z, x).
        gate: for :meth:`predict` with a quantile: maps states [batch, tokens, dim] to logits [batch], as
            :class:`ExitGate` does; or to [batch, tokens], each token on its own, where tokens stop.

    ``loops`` is the knob (:func:`dynlib.deciding.setting`), checked whenever it is used; more spend more. Records
    (:func:`dynlib.deciding.record`), one for each :meth:`forward` or :meth:`predict`, are :class:`Stopped`.

    Raises:
        TypeError: if ``loops`` is no int, or the block or the gate no module.
        ValueError: if ``loops`` is below 1, or ``inject`` has another name.
    """

    knobs = ("loops",)
    reports = Stopped

    def __init__(
        self,
        block: nn.Module,
        loops: int,
        *,
        inject: Literal["add", "none"] | nn.Module = "add",
        gate: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(block, nn.Module) or not isinstance(gate, nn.Module | None):
            raise TypeError(f"block and gate must be modules; got {type(block).__name__} and {type(gate).__name__}")
        if not isinstance(inject, nn.Module) and inject not in ("add", "none"):
            raise ValueError(f"inject must be 'add', 'none' or a module of (z, x); got {inject!r}")
        self.block, self.inject, self.gate, self.loops = block, inject, gate, loops
        self.check_knobs()

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for ``loops`` that are no number of loops."""
        check_whole("loops", self.loops, least=1)

    def forward(self, x: Float[Tensor, "batch tokens dim"], *, loops: int | None = None) -> Tensor:
        """The state after the last loop, [batch, tokens, dim].

        Args:
            x: the tokens; at least one sample.
            loops: another number of loops than the model's.

        Raises:
            TypeError: if the tokens are not floating-point, or ``loops`` no int.
            ValueError: if ``loops`` is below 1, there are no tokens, or the block changes their shape.
        """
        count = self._loops(loops)
        for state in self._run(x, count, graph=count):
            last = state
        all_of_them = torch.full((len(x),), count, device=x.device)
        report(self, Stopped(last, all_of_them, torch.full_like(all_of_them, torch.nan, dtype=widen(last).dtype)))
        return last

    def states(
        self, x: Float[Tensor, "batch tokens dim"], *, window: int | None = None, loops: int | None = None
    ) -> Float[Tensor, "window batch tokens dim"]:
        """The states after the last loops, in order, and with a graph; the loops before them have none.

        Args:
            x, loops: as in :meth:`forward`.
            window: T, how many, 1 … loops; all if left out.

        Raises:
            TypeError, ValueError: as :meth:`forward` does, and for a window of other than 1 … loops.
        """
        count = self._loops(loops)
        window = count if window is None else check_whole("window", window, least=1, most=count, what="loops")
        return torch.stack(list(self._run(x, count, graph=window))[-window:])

    @torch.no_grad()
    def predict(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        change: float | int | None = None,
        quantile: float | int | None = None,
        each: Each = "sample",
        loops: int | None = None,
        execution: Execution = "gathered",
        rows: int | None = None,
    ) -> Stopped:
        """Let every sample, or every token, stop after a number of loops of its own.

        A sample stops where it would if it were alone in the batch. A token that has stopped keeps its state; the
        others of its sample go on and still see it, so that they may end elsewhere than if nobody had stopped. Put the
        model in evaluation mode first, if it has dropout.

        Args:
            x: as in :meth:`forward`.
            change: stop when the state moves by no more than this share of its length, from 0 on. A larger one spends
                less.
            quantile: stop when the gate is as sure as this that it should have been enough, 0 … 1. A larger one spends
                more. Neither given: nobody stops before the last loop, which takes all who are left.
            each: what stops, "sample" or "token".
            loops: as in :meth:`forward`: the most that anyone gets.
            execution: "gathered": who has stopped is not computed any more, but for the keys and values of stopped
                tokens. "masked": all loops are computed for all, and each one's own is taken. They agree up to
                rounding. Gathered tokens need a block that can leave some out: see :mod:`dynlib.depth.some_tokens`.
            rows: with "gathered", so many tokens at a time at most, but always a whole sample, go through their loops
                before the next do: few enough to stay in a cache. All at once if left out.

        Raises:
            TypeError, ValueError: as :meth:`forward` does.
            ValueError: if both rules are given, one is out of its range, there is a quantile and no gate, or a gate of
                another shape, a state is NaN, ``rows`` are below 1 or given with "masked", ``each`` or the execution
                has another name, or gathered tokens meet a block that cannot leave some out.
        """
        check_execution(execution, rows=rows)
        check_tensor(x, "the tokens")
        check_features(x, x.shape[-1] if x.ndim else 0)
        rule = StoppingRule(self.gate, change, quantile, each=each)
        some = len(x) if rows is None else max(rows // x.shape[1], 1)
        if each == "token":
            run = self._gathered_tokens if execution == "gathered" else self._masked_tokens
        else:
            run = self._gathered if execution == "gathered" else self._masked
        parts = [run(piece, self._loops(loops), rule) for piece in x.split(some)]
        stopped = Stopped(*(torch.cat(part) for part in zip(*parts, strict=True))) if len(parts) > 1 else parts[0]
        report(self, stopped)
        return stopped

    def _masked(self, x: Tensor, loops: int, rule: StoppingRule) -> Stopped:
        states = self.states(x, loops=loops)
        measures, enough, survived = [], [], rule.survived(x)
        for before, after in zip([self._start(x), *states[:-1]], states, strict=True):
            measure, survived, stop = rule(before, after, survived)
            measures.append(measure)
            enough.append(stop)
        enough[-1] = torch.ones_like(enough[-1])
        first, sample = torch.stack(enough).int().argmax(0), torch.arange(len(x), device=x.device)
        return Stopped(states[first, sample], first + 1, torch.stack(measures)[first, sample])

    def _gathered(self, x: Tensor, loops: int, rule: StoppingRule) -> Stopped:
        state, survived = self._start(x), rule.survived(x)
        waiting = torch.arange(len(x), device=x.device)  # the samples that the rows of state belong to
        gone: list[tuple[Tensor, ...]] = []
        for t in range(1, loops + 1):
            after = self._loop(state, x)
            measure, survived, stop = rule(state, after, survived)
            if t == loops:
                stop = torch.ones_like(stop)
            state, leave = after, chosen(stop)
            if len(leave):
                gone.append((waiting[leave], state[leave], torch.full_like(leave, t), measure[leave]))
                stay = chosen(~stop)
                if len(stay) == 0:
                    break
                waiting, state, x, survived = waiting[stay], state[stay], x[stay], survived[stay]
        sample, *parts = (torch.cat(part) for part in zip(*gone, strict=True))
        order = sample.argsort()
        return Stopped(*(part[order] for part in parts))

    def _masked_tokens(self, x: Tensor, loops: int, rule: StoppingRule) -> Stopped:
        state, survived = self._start(x), rule.survived(x)
        measure, count = torch.full_like(survived, torch.nan), x.new_zeros(x.shape[:2], dtype=torch.long)
        runs = torch.ones_like(count, dtype=torch.bool)
        for _ in range(loops):
            after = self._loop(state, x)
            now, left, stop = rule(state, after, survived)
            state = torch.where(runs[..., None], after, state)
            measure, survived = torch.where(runs, now, measure), torch.where(runs, left, survived)
            count, runs = count + runs, runs & ~stop
        return Stopped(state, count, measure)

    def _gathered_tokens(self, x: Tensor, loops: int, rule: StoppingRule) -> Stopped:
        state, survived = self._start(x).clone(), rule.survived(x)
        measure, count = torch.full_like(survived, torch.nan), x.new_zeros(x.shape[:2], dtype=torch.long)
        runs = torch.ones_like(count, dtype=torch.bool)
        for _ in range(loops):
            samples = chosen(runs.any(1))
            if len(samples) == 0:
                break
            which = runs[samples]
            row, token = which.nonzero().unbind(1)
            row = samples[row]
            after = for_some(self.block, self._mix(state[samples], x[samples]), which)
            if after.shape != (len(row), x.shape[2]):
                raise ValueError(
                    f"the block must give {(len(row), x.shape[2])} for the tokens that go on; got {tuple(after.shape)}"
                )
            # to the rule they are the tokens of one sample
            now, left, stop = (
                part[0] for part in rule(state[row, token][None], after[None], survived[row, token][None])
            )
            state[row, token], measure[row, token], survived[row, token] = after, now, left
            count[row, token] += 1
            runs[row, token] = ~stop
        return Stopped(state, count, measure)

    def _run(self, x: Tensor, loops: int, graph: int) -> Iterator[Tensor]:
        """The state after each loop; only the last ``graph`` loops have a graph."""
        check_tensor(x, "the tokens")
        check_features(x, x.shape[-1] if x.ndim else 0)
        state = self._start(x)
        for t in range(loops):
            with torch.set_grad_enabled(torch.is_grad_enabled() and t >= loops - graph):
                state = self._loop(state, x)
            yield state

    def _start(self, x: Tensor) -> Tensor:
        return x if self.inject == "none" else torch.zeros_like(x)

    def _mix(self, state: Tensor, x: Tensor) -> Tensor:
        if isinstance(self.inject, nn.Module):
            return self.inject(state, x)
        return state + x if self.inject == "add" else state

    def _loop(self, state: Tensor, x: Tensor) -> Tensor:
        # z_{t+1} = f(z_t + x)
        after = self.block(self._mix(state, x))
        if after.shape != x.shape:
            raise ValueError(f"a block that is looped must keep the shape {tuple(x.shape)}; got {tuple(after.shape)}")
        return after

    def _loops(self, loops: int | None) -> int:
        return check_whole("loops", self.loops if loops is None else loops, least=1)


def window_loss(
    looped: Looped,
    x: Float[Tensor, "batch tokens dim"],
    loss: Callable[[Tensor], Tensor],
    *,
    window: int,
    loops: int | None = None,
) -> Float[Tensor, ""]:
    """The mean loss of the states after the last T loops, the loops before them without a graph.

    Args:
        looped: the model.
        x, loops: as in :meth:`Looped.forward`.
        loss: of a state [batch, tokens, dim], one number.
        window: T, 1 … loops.

    Raises:
        TypeError, ValueError: as :meth:`Looped.states` does.
    """
    # 1/T Σ_{t = b − T + 1 … b} loss(z_t)
    return torch.stack([loss(state) for state in looped.states(x, window=window, loops=loops)]).mean()
