"""Run the benchmarks, print their table, keep what was measured, and write the table to ``benchmarks/RESULTS.md``.

What is measured is kept row by row in ``benchmarks/results.json``: called again after an interruption, this goes on
where it was. Rows of another machine or of other versions of Python and PyTorch are not taken for those of this one.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks import (
    acm,
    avit,
    calm,
    colt5,
    communication,
    compiled,
    cost,
    early_exit,
    experts,
    governor,
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
from benchmarks.kept import Kept, machine, versions
from benchmarks.table import in_short, markdown

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
    "communication": communication,
    "split": split,
    "compiled": compiled,
    "governor": governor,
}
ONLY_CPU = ("perturbed", "acm", "governor")  # or with rows of their own for a GPU
RESULTS = Path(__file__).with_name("results.json")

EXPLANATION = """\
Made by `make bench`. All shares are of what stands under "against"; "–" stands where a column does not apply.

- *FLOPs* are counted while it runs, a multiply-add as two.
- *Time* is the median of ratios of repeats that take turns in one run, as a machine drifts, with its 95 % interval.
  Each side runs in the fastest way that was found for it: the whole batch at once, or in pieces that fit the cache.
- *Efficiency* is the share of FLOPs over the share of time: at 1, every saved operation is saved time.
- *Masked* are the shares of FLOPs and time where the same mechanism computes everything, and throws away.
- *Quality* is measured in this run on held-out data where a row is of a trained model of `dynlib.zoo`; that of experts
  is of their study. It is "–" where the weights are random: there the size is the point.
- *Matmul rate* is the FLOP/s of both sides, the peer's in brackets, over the best of this machine in one large product.
- "Its products run at x of the peer's rate, and y of its time goes elsewhere" tells where time is lost, from one call
  with a clock on its matrix products and attention. Small products are slower than large ones; gates, sorting and
  copies are no products.
- What `torch.compile` adds was measured on another machine: `compiled.md`.
"""


def main(arguments: Sequence[str] | None = None) -> str:
    """Measure what is not there yet, print, write where asked; the table is also returned.

    Raises:
        SystemExit: after all others are measured, if something went wrong with a benchmark.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=list(BENCHMARKS), action="append", help="this one alone; may be repeated")
    parser.add_argument("--again", action="store_true", help="measure anew what was measured before")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs; nothing is kept")
    parser.add_argument("--results", type=Path, help=f"the file in which to keep them, {RESULTS.name} if left out")
    parser.add_argument("--device", action="append", help="where; the CPU, and a CUDA device if there is one")
    options = parser.parse_args(arguments)

    path = options.results or (None if options.quick else RESULTS)
    kept = Kept(path, quick=options.quick)
    devices = dict.fromkeys(options.device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
    names = dict.fromkeys(options.only or BENCHMARKS)
    todo = [
        (device, *case)
        for device in devices
        for name in names
        if device == "cpu" or name not in ONLY_CPU
        for case in BENCHMARKS[name].cases(quick=options.quick)
        if options.again or kept.rows(case[0], device) is None
    ]
    wrong = []
    bar = tqdm(todo, desc="benchmarks")
    for device, case, measure in bar:
        bar.set_postfix_str(case if device == "cpu" else f"{case} on {device}")
        try:
            with _default(device):
                kept.add(case, device, measure())
        except Exception:  # the others are measured all the same; this one is tried again the next time
            wrong.append(f"{case} on {device}")
            traceback.print_exc()

    part = _table(kept, list(names), devices, quick=options.quick)
    print(f"{part}\n{machine()}; {versions()}")
    if path is not None:
        every = list(BENCHMARKS)
        whole = _table(kept, every, dict.fromkeys([*devices, "cpu"]), quick=options.quick)
        short = in_short(kept.shown(_cases(every, quick=options.quick), "cpu"))
        path.with_name(_markdown_name(path)).write_text(document(whole, short), encoding="utf-8")
    if wrong:
        sys.exit(f"not measured, for the errors above: {', '.join(wrong)}")
    return part


def _default(device: str) -> AbstractContextManager[Any]:
    """A default device; none for the CPU, since it makes every call some microseconds longer."""
    return nullcontext() if device == "cpu" else torch.device(device)


def _markdown_name(path: Path) -> str:
    return "RESULTS.md" if path.name == RESULTS.name else f"{path.stem}.md"


def _table(kept: Kept, names: list[str], devices: dict[str, None], *, quick: bool) -> str:
    cases = _cases(names, quick=quick)
    elsewhere = {machine(device): kept.shown(cases, device) for device in devices if device != "cpu"}
    return markdown(kept.shown(cases, "cpu"), {name: rows for name, rows in elsewhere.items() if rows})


def _cases(names: list[str], *, quick: bool) -> list[str]:
    return [case for name in names for case, _ in BENCHMARKS[name].cases(quick=quick)]


def document(table: str, short: str = "") -> str:
    """The page of the results."""
    short = f"{short}\n\n" if short else ""
    return f"# Cost and time\n\n{EXPLANATION}\n{short}{table}\nMeasured on: {machine()}; {versions()}.\n"


if __name__ == "__main__":
    main()
