"""Puzzles that leave the batch when they are solved, against all steps for all; and a training step, counted."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.race import Ways, race
from benchmarks.table import Case, Row
from dynlib.cost import count, timed
from dynlib.data import sudoku
from dynlib.depth import TinyRecursiveModel, empty_slots
from dynlib.depth.supervision import deep_supervision
from dynlib.zoo import card, load

PUZZLES, PIECES = 96, (16, 48)  # in all, and at a time
THRESHOLDS = (0.0, 4.0)


def cases(*, quick: bool = False) -> list[Case]:
    """The zoo's model of 6x6 Sudoku at thresholds from likely to sure; and one training step of the paper's T and n."""
    return [
        *((f"recursion, q above {limit:g}", partial(_leaving, limit, quick)) for limit in THRESHOLDS),
        ("recursion, a training step", partial(_training, quick)),
    ]


@torch.inference_mode()
def _leaving(threshold: float, quick: bool) -> Row:
    model, test = load("sudoku6"), sudoku(12 if quick else PUZZLES, 6, split="test")
    puzzles, answers = test.givens.flatten(1), test.solutions.flatten(1)
    pieces = PIECES[:1] if quick else PIECES

    def all_steps(some: int) -> list[Tensor]:
        return [model.predict(part, threshold=threshold, execution="masked").answers for part in puzzles.split(some)]

    ours: Ways = {"all at once": lambda: model.predict(puzzles, threshold=threshold)}
    peer: Ways = {"all at once": partial(all_steps, len(puzzles))}
    for some in pieces:
        ours[f"{some} at a time"] = partial(model.predict, puzzles, threshold=threshold, rows=some * model.length)
        peer[f"{some} at a time"] = partial(all_steps, some)
    run = race(ours, peer, repeats=3 if quick else 9)
    left, stayed = (model.predict(puzzles, threshold=limit) for limit in (threshold, None))
    solved = [(one.answers == answers).all(1).double().mean() for one in (left, stayed)]
    return run.row(
        f"Tiny recursive model, a puzzle leaves with q above {threshold:g}",
        f"sudoku6: dim {card('sudoku6')['config']['dim']}, {len(puzzles)} puzzles, up to {model.steps} steps",
        note=f"{left.steps.double().mean():.1f} steps on average; solved {100 * solved[0]:.1f} %, with all steps "
        f"{100 * solved[1]:.1f} %",
    )


def _training(quick: bool) -> Row:
    """One step of T = 3 and n = 6, against one of as many network calls that all have a graph."""
    dim, batch = (16, 4) if quick else (48, 32)

    def make(n: int, T: int) -> TinyRecursiveModel:
        torch.manual_seed(0)
        return TinyRecursiveModel(vocabulary=7, length=36, dim=dim, mixer="mlp", n=n, T=T)

    def step(model: TinyRecursiveModel) -> None:
        model.zero_grad()
        deep_supervision(model, empty_slots(model, batch), _fresh).loss.backward()

    ours, peer = make(6, 3), make(20, 1)
    graph: list[bool] = []
    handle = ours.net.register_forward_hook(lambda net, inputs, out: graph.append(out.requires_grad))
    step(ours)
    handle.remove()
    flops = [count(partial(step, model)).flops for model in (ours, peer)]
    timing = timed(partial(step, ours), partial(step, peer), repeats=3 if quick else 9, warmup=1)
    share, low, high = timing.ratio(0, 1)
    return Row(
        mechanism="Tiny recursive model, a training step at T = 3, n = 6",
        size=f"dim {dim}, batch {batch}, 36 tokens",
        peer="as many network calls, all with a graph",
        flops_share=flops[0] / flops[1],
        time_share=share,
        interval=(low, high),
        note=f"{graph.count(False)} network calls without a graph and {sum(graph)} with; "
        f"{1e3 * timing.seconds[0]:.3g} and {1e3 * timing.seconds[1]:.3g} ms",
    )


def _fresh(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    puzzles, answers = torch.randint(1, 7, (2, number, 36), generator=generator)
    return puzzles, answers
