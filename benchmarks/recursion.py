"""Puzzles that leave the batch when they are solved, against all steps for all; a training step, counted; and others'
model."""

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.given import here, whole
from benchmarks.peers import peer
from benchmarks.race import Ways, against, contest
from benchmarks.table import Case, Row
from dynlib.cost import count, timed
from dynlib.data import sudoku
from dynlib.depth import TinyRecursiveModel, empty_slots
from dynlib.depth.supervision import deep_supervision
from dynlib.zoo import card, load

PUZZLES = 96
PACKAGE = "tiny-recursive-model"
THRESHOLDS = {"q above 0": 0.0, "q above 4": 4.0}


def cases(*, quick: bool = False) -> list[Case]:
    """The zoo's model of 6x6 Sudoku at thresholds from likely to sure; a training step of the paper's T and n."""
    return [
        ("recursion, trained", partial(_leaving, quick)),
        ("recursion, a training step", partial(_training, quick)),
        peer("recursion", PACKAGE, partial(_other, quick), module=f"{PACKAGE.replace('-', '_')}.trm", extra=False),
    ]


@torch.inference_mode()
def _leaving(quick: bool) -> list[Row]:
    with torch.device("cpu"):
        test = sudoku(12 if quick else PUZZLES, 6, split="test")
    model, puzzles, answers = load("sudoku6"), here(test.givens.flatten(1)), here(test.solutions.flatten(1))

    def everything(threshold: float | None) -> Tensor:
        return model.predict(puzzles, threshold=threshold, execution="masked").answers

    def gathered(threshold: float | None, rows: int | None) -> Tensor:
        return model.predict(puzzles, threshold=threshold, rows=rows).answers

    def ways(threshold: float | None) -> Ways:
        sizes = {"all at once": None, "16 at a time": 16 * model.length, "48 at a time": 48 * model.length}
        return {name: partial(gathered, threshold, rows) for name, rows in sizes.items()}

    races = contest(
        {name: ways(threshold) for name, threshold in THRESHOLDS.items()},
        ways(None),
        masked={name: partial(everything, threshold) for name, threshold in THRESHOLDS.items()},
        repeats=2 if quick else 7,
    )
    rows, size = [], f"sudoku6, dim {card('sudoku6')['config']['dim']}, {len(puzzles)} puzzles, {model.steps} steps"
    theirs = (everything(None) == answers).all(1).double().mean()
    for name, race in races.items():
        left = model.predict(puzzles, threshold=THRESHOLDS[name])
        solved = (left.answers == answers).all(1).double().mean()
        rows.append(
            race.row(
                f"tiny recursive model, a puzzle leaves with {name}, trained",
                size,
                peer="all steps for all",
                aim=1.0,
                quality=f"{100 * solved:.0f} % solved (its peer's {100 * theirs:.0f} %)",
                note=f"{left.steps.double().mean():.1f} steps in the mean",
            )
        )
    return rows


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
    timing = timed(partial(step, ours), partial(step, peer), repeats=2 if quick else 9, warmup=1)
    share, low, high = timing.ratio(0, 1)
    return Row(
        mechanism="tiny recursive model, a training step at T = 3, n = 6",
        size=f"dim {dim}, batch {batch}, 36 tokens",
        peer="as many network calls, all with a graph",
        flops_share=flops[0] / flops[1],
        time_share=share,
        interval=(low, high),
        note=f"{graph.count(False)} network calls have no graph and {sum(graph)} have one: that saves their backward "
        "pass, and their memory.",
    )


@torch.inference_mode()
def _other(quick: bool, package: Any, named: str) -> Row:
    """The same mixer of tokens in both, of as many hidden features, and steps for which nobody leaves."""
    dim, steps, puzzles = (16, 2, 4) if quick else (48, 4, 96)
    ours = TinyRecursiveModel(vocabulary=7, length=36, dim=dim, hidden=4 * dim, mixer="mlp", steps=steps).eval()
    mixer = import_module("tiny_recursive_model.mlp_mixer_1d").MLPMixer1D
    network = mixer(dim=dim, depth=2, seq_len=36, expansion_factor=3, expansion_factor_token=4)
    theirs = package.TinyRecursiveModel(dim=dim, num_tokens=7, network=network).eval()
    some = whole(7, puzzles, 36)
    return against(
        "tiny recursive model, all steps",
        f"dim {dim}, {puzzles} puzzles of 36 tokens, {steps} steps",
        named,
        partial(ours.predict, some, threshold=None),
        partial(theirs.predict, some, halt_prob_thres=2.0, max_deep_refinement_steps=steps),
        note="T = 3 and n = 6 in both, two layers that mix tokens by a network; its norms stand before the layers and "
        "have weights, ours after them and have none",
        repeats=7,
    )


def _fresh(number: int) -> tuple[Tensor, Tensor]:
    puzzles, answers = 1 + whole(6, 2, number, 36)
    return puzzles, answers
