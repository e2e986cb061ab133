"""Run the benchmarks, print their table, and write it to ``benchmarks/RESULTS.md``."""

import argparse
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from benchmarks import (
    acm,
    avit,
    calm,
    colt5,
    cost,
    early_exit,
    experts,
    gumbel,
    looped,
    matformer,
    mixture_of_depths,
    painters,
    perturbed,
    recursion,
    self_speculation,
    sparse,
    split,
)
from benchmarks.table import markdown

BENCHMARKS = {
    "cost": cost,
    "gumbel": gumbel,
    "sparse": sparse,
    "perturbed": perturbed,
    "early_exit": early_exit,
    "calm": calm,
    "self_speculation": self_speculation,
    "painters": painters,
    "colt5": colt5,
    "mixture_of_depths": mixture_of_depths,
    "avit": avit,
    "experts": experts,
    "matformer": matformer,
    "looped": looped,
    "recursion": recursion,
    "acm": acm,
    "split": split,
}
RESULTS = Path(__file__).with_name("RESULTS.md")

EXPLANATION = """\
Made by `make bench`. A multiply-add is two FLOPs. Times are shares of the peer's: medians of repeats that take turns in
one run, because a machine drifts. *Efficiency* is the share of FLOPs over the share of time; 1 means that every saved
operation is saved time. The matmul rate is each side's FLOP/s over the best that this machine reaches in one large
matrix product. "–" stands where a column does not apply.
"""


def machine() -> str:
    """What the numbers were measured on, in one line."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def main(arguments: Sequence[str] | None = None) -> str:
    """Measure, print, write where asked; the table is also returned."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=list(BENCHMARKS), action="append", help="this one alone; may be repeated")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--output", type=Path, help=f"the file to write; {RESULTS.name} if left out in a full run")
    options = parser.parse_args(arguments)

    names = options.only or list(BENCHMARKS)
    planned = [case for name in dict.fromkeys(names) for case in BENCHMARKS[name].cases(quick=options.quick)]
    rows = []
    bar = tqdm(planned, desc="benchmarks")
    for name, measure in bar:
        bar.set_postfix_str(name)
        rows.append(measure())
    table = markdown(rows)
    print(f"{table}\n{machine()}")

    full = options.only is None and not options.quick
    output = options.output or (RESULTS if full else None)
    if output is not None:
        output.write_text(f"# Cost and time\n\n{EXPLANATION}\n{table}\nMeasured on: {machine()}.\n", encoding="utf-8")
    return table


if __name__ == "__main__":
    main()
