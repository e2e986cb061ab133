"""Split learning at equal traffic: what each compression learns from the same bytes on the link, in a JSON file.

``python -m benchmarks.split_study`` takes about an hour on one core. Interrupt and call again to resume. Lecture
16 reads the file, so that its readers need not wait.

A small vision transformer has learnt to read handwritten digits, and is trained on, with a new head, to read them
turned on their side. A client has its first :data:`LAYERS` layers and the images, a server the rest. They are two
threads of one process, and talk over a real :class:`dynlib.edge.Link` on the loopback interface, so bytes are those
that the link counted, both ways, heads and labels included; test images are looked at beside it. Every arm stops with
the last step that fits into the traffic which no compression needs for :data:`STEPS` steps. So an arm that sends less
makes more steps. Its learning rate is the best of :data:`LRS` in runs with half the traffic and another seed, in which
some of the training images are kept back to choose by; the test images are not seen there.

A ratio is of the bytes of a step, up and down. Top-k sends a number and its place, 6 bytes, and gets 4 back, where 8
would go both ways; so it keeps 8/10 of a ratio of the numbers. Quantised numbers have the bits that come nearest to a
ratio; with one bit of each and the scale of each token they weigh too much for the smallest ratio, and are left out
there. Whoever compresses nothing, but takes that share of the samples into a batch, sends as little: that is the rival
which costs no work at all. And one control, of double compression: its groups and tokens by numbers drawn at random in
the place of attention, as many of both. At the smallest ratio the two are compared at every rate of learning, too.

Times are counted: bytes over the :data:`RATE` of a link, and the measured seconds of a core for the computing of both
sides. ``--rate BITS`` holds the count against a real link: it measures some steps of each arm on a loopback interface
that ``tc`` holds at that rate, in a network namespace of its own, and as many with the link as it is. That asks for the
right to make one, as root has it on Linux.
"""

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.backbone import ViT
from dynlib.data import digits
from dynlib.data.digits import Split
from dynlib.edge import Compression, DoublyCompressed, Link, SplitClient, SplitServer, double_compress, halves
from dynlib.training import train

RESULTS = Path(__file__).with_suffix(".json")
CHECKPOINTS = Path("checkpoints")
SEEDS = (0, 1, 2)
ARMS = ("adc", "smaller batch", "top-k", "random top-k", "quantised")
CONTROL = "random for attention"
RATIOS = (1 / 4, 1 / 16, 1 / 100)
CONFIG: dict[str, Any] = {"image_size": 8, "patch_size": 2, "classes": 10, "dim": 48, "depth": 4, "heads": 4}
LAYERS, TOKENS, BATCH, STEPS = 2, 17, 128, 10
LRS, WEIGHT_DECAY = (3e-4, 1e-3, 3e-3), 0.05
BEFORE: dict[str, Any] = {"steps": 500, "lr": 2e-3}  # how the model learnt to read upright digits
TUNING, KEPT_BACK = 100, 300  # the seed on which rates are chosen, and how many training images say which is best
TRAFFIC = round(
    STEPS * 2 * 4 * BATCH * TOKENS * CONFIG["dim"] * 1.005
)  # bytes of a run; labels and heads are in the 5‰
MARKS = sorted(
    {1 / 100, 1 / 40, *(part / 20 for part in range(1, 20))}
)  # of the traffic: when test images are looked at
RATE = 10e6  # bits a second
LEVELS = (0.5, 0.7, 0.8)  # accuracies that arms are timed to
WRONG = (1 / 4, 1 / 10, 1 / 16, 1 / 100)  # ratios that the mistaken exponent is asked for


def compression(arm: str, ratio: float) -> Compression | None:
    """How an arm compresses to a ratio of the bytes; None if it cannot."""
    if arm in ("none", "smaller batch"):
        return Compression()
    if arm in ("adc", CONTROL):
        return (Compression if arm == "adc" else Unguided)("double", ratio)
    if arm == "quantised":
        dim = CONFIG["dim"]
        reached = {bits: (dim * bits / 8 + 2 * 4) / (dim * 4) for bits in (1, 2, 4, 8)}
        bits = min(reached, key=lambda bits: abs(reached[bits] / ratio - 1))
        return Compression("quantise", bits=bits) if reached[bits] < 2 * ratio else None
    kind: dict[str, Any] = {"top-k": "top_k", "random top-k": "random_top_k"}
    return Compression(kind[arm], ratio * 8 / 10)


def batch_of(arm: str, ratio: float) -> int:
    """Samples of a step."""
    return round(BATCH * ratio) if arm == "smaller batch" else BATCH


@dataclass(frozen=True)
class Mistaken(Compression):
    """Double compression that takes the root of a root: √ξ of the samples, and √√ξ of the tokens."""

    def pack(
        self, x: Tensor, attention: Tensor | None, labels: Tensor, classes: int, generator: torch.Generator
    ) -> tuple[DoublyCompressed, Tensor]:
        """The message and its labels."""
        assert attention is not None
        share = self.share**0.5
        samples, tokens = max(round(len(x) * share), 1), max(round(x.shape[1] * share**0.5), 1)
        sent = double_compress(
            x, attention, labels, samples=samples, tokens=tokens, classes=classes, generator=generator
        )
        return sent, sent.labels


@dataclass(frozen=True)
class Unguided(Compression):
    """Double compression that does not look: random numbers stand where attention stands."""

    def pack(
        self, x: Tensor, attention: Tensor | None, labels: Tensor, classes: int, generator: torch.Generator
    ) -> tuple[Any, Tensor]:
        """The message and its labels."""
        drawn = torch.rand(x.shape[:2], generator=generator)
        return super().pack(x, drawn, labels, classes, generator)


def free_port() -> int:
    """A port of the loopback interface that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def turned(split: Split) -> tuple[Tensor, Tensor]:
    """Digits turned by a quarter, and what they are."""
    these = digits(split)
    return these.images.rot90(1, (2, 3)), these.labels


def batches(seed: int, step: int, size: int = BATCH, first: int = 0) -> tuple[Tensor, Tensor]:
    """Training images and labels of a step, the same for all arms of a seed; none of the images before the first."""
    images, labels = turned("train")
    draw = torch.Generator().manual_seed(seed * 10**6 + step)
    some = torch.randint(first, len(images), (BATCH,), generator=draw)[:size]
    return images[some], labels[some]


@cache
def before() -> dict[str, Tensor]:
    """The weights of a model that reads upright digits."""
    learn = digits("train")
    torch.manual_seed(0)
    model = ViT(**CONFIG)

    def loss(step: int) -> Tensor:
        some = torch.randint(len(learn), (BATCH,), generator=torch.Generator().manual_seed(step))
        return F.cross_entropy(model(learn.images[some]), learn.labels[some])

    train(model, loss, **BEFORE, checkpoint=CHECKPOINTS / "split_before.pt", description="upright")
    return model.state_dict()


def begin(seed: int) -> ViT:
    """That model with a new head."""
    model = ViT(**CONFIG)
    model.load_state_dict(before())
    torch.manual_seed(seed)
    model.head = nn.Linear(CONFIG["dim"], CONFIG["classes"])
    return model


@contextmanager
def pair(how: Compression, seed: int, *, lr: float = LRS[0]) -> Iterator[tuple[ViT, SplitClient]]:
    """A model, and the client that trains it with a server in another thread."""
    model = begin(seed)
    first, second = halves(model, LAYERS)
    numbers = {"tokens": TOKENS, "dim": CONFIG["dim"], "classes": CONFIG["classes"], "batch": BATCH}
    ends = [torch.optim.AdamW(half.parameters(), lr=lr, weight_decay=WEIGHT_DECAY) for half in (first, second)]
    port = free_port()

    def serve() -> None:
        SplitServer(second, ends[1], Link(0, port=port), **numbers).serve()

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        link = Link(1, port=port)
        client = SplitClient(
            first, ends[0], link, **numbers, compression=how, attention=first.class_attention, seed=seed
        )
        yield model, client
        client.close()
        serving.result()


@torch.no_grad()
def accuracy(model: ViT, images: Tensor, labels: Tensor) -> float:
    """Share of the images that a whole model reads, nothing compressed."""
    model.eval()
    right = model(images).argmax(-1) == labels
    model.train()
    return right.float().mean().item()


def bytes_of_a_step(how: Compression, size: int = BATCH, *, steps: int = 4) -> tuple[float, float]:
    """What a step sends and gets, measured on the link: the mean of a few."""
    with pair(how, 0) as (_, client):
        start = client.link.sent[0], client.link.received[0]
        progress = client.train(lambda step: batches(0, step, size), steps, progress=False)
    return (progress.sent[-1] - start[0]) / steps, (progress.received[-1] - start[1]) / steps


def learn(
    how: Compression,
    size: int,
    seed: int,
    lr: float,
    *,
    test: tuple[Tensor, Tensor],
    traffic: float = TRAFFIC,
    first: int = 0,
) -> dict[str, Any]:
    """Train until the traffic is used up, and look at the test images in between."""
    marks, curve, steps = [mark * traffic for mark in MARKS], [], 0
    with pair(how, seed, lr=lr) as (model, client):
        link = client.link
        greeting = used = link.sent[0] + link.received[0]
        curve.append([0, accuracy(model, *test)])
        largest = 0  # bytes of a step
        while used + largest <= traffic:
            steps += 1
            progress = client.train(lambda step: batches(seed, step, size, first), steps, progress=False)
            largest = max(largest, link.sent[0] + link.received[0] - used)
            used = progress.sent[-1] + progress.received[-1]
            if marks and used >= marks[0]:
                marks = [mark for mark in marks if mark > used]
                curve.append([used, accuracy(model, *test)])
        if curve[-1][0] != used:
            curve.append([used, accuracy(model, *test)])
    return {
        "step": (used - greeting) / steps,
        "up": progress.sent[-1],
        "down": progress.received[-1],
        "steps": steps,
        "accuracy": curve[-1][1],
        "curve": curve,
    }


def tune(arm: str, ratio: float, lr: float) -> dict[str, Any]:
    """What an arm comes to at a learning rate with half the traffic, on images that were kept back from training."""
    how = compression(arm, ratio)
    assert how is not None
    images, labels = turned("train")
    test = images[:KEPT_BACK], labels[:KEPT_BACK]
    return {
        "accuracy": learn(how, batch_of(arm, ratio), TUNING, lr, test=test, traffic=TRAFFIC / 2, first=KEPT_BACK)[
            "accuracy"
        ]
    }


def run(arm: str, ratio: float, seed: int, *, tuned: list[dict[str, Any]], none: float) -> dict[str, Any]:
    """Train an arm at its best learning rate. ``none`` is what a step without compression weighs."""
    how = compression(arm, ratio)
    assert how is not None
    tried = [row for row in tuned if (row["arm"], row["ratio"]) == (arm, ratio)]
    lr = max(tried, key=lambda row: row["accuracy"])["lr"]
    found = learn(how, batch_of(arm, ratio), seed, lr, test=turned("test"))
    return {"reached": found.pop("step") / none, "lr": lr, **found}


def at_rate(arm: str, lr: float, seed: int) -> dict[str, Any]:
    """What an arm comes to at the smallest ratio with a learning rate that nobody chose."""
    how = compression(arm, RATIOS[-1])
    assert how is not None
    return {"accuracy": learn(how, batch_of(arm, RATIOS[-1]), seed, lr, test=turned("test"))["accuracy"]}


def plan() -> list[dict[str, Any]]:
    """All arms, what takes longest last."""
    cases = [("none", 1.0), *((arm, ratio) for ratio in RATIOS for arm in ARMS)]
    return [{"arm": arm, "ratio": ratio} for arm, ratio in cases if compression(arm, ratio) is not None]


def trap(none: float) -> list[dict[str, Any]]:
    """Ratios asked of double compression, and reached on the link: with the mistaken exponent, and with the right."""
    rows = []
    for c in WRONG:
        wrong, right = (sum(bytes_of_a_step(kind("double", c))) / none for kind in (Mistaken, Compression))
        rows.append({"c": c, "asked": c, "formula": c**0.75, "reached": wrong, "right": right})
    return rows


def compute(steps: int = 12) -> dict[str, float]:
    """Seconds of one core that a step of each arm takes on both sides, the link's own work included: a median."""
    found = {}
    for case in plan():
        how = compression(case["arm"], case["ratio"])
        assert how is not None
        took = seconds_of_steps(how, batch_of(**case), steps=steps, clock=time.process_time)
        found[f"{case['arm']} {case['ratio']:g}"] = sorted(took)[steps // 2]
    return found


def seconds_of_steps(
    how: Compression, size: int, *, steps: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """What each of some takes, after one to warm up."""
    with pair(how, 0) as (_, client):
        took = []
        for step in range(steps + 1):
            start = clock()
            client.train(lambda step: batches(0, step, size), step + 1, progress=False)
            took.append(clock() - start)
    return took[1:]


def counted(sent: float, steps: int, seconds: float, rate: float = RATE) -> float:
    """Seconds of so many bytes and steps: the link and the computing take turns."""
    return 8 * sent / rate + steps * seconds


def times(rows: list[dict[str, Any]], seconds: dict[str, float], seed: int) -> list[dict[str, Any]]:
    """When each arm was seen to have an accuracy for the first time; None if it never was."""
    found = []
    for row in rows:
        if row["seed"] != seed:
            continue
        of_step = seconds[f"{row['arm']} {row['ratio']:g}"]
        weight = (row["up"] + row["down"]) / row["steps"]
        for level in LEVELS:
            sent = next((sent for sent, accuracy in row["curve"] if accuracy >= level), None)
            case = {"arm": row["arm"], "ratio": row["ratio"], "level": level}
            if sent is None:
                found.append({**case, "seconds": None, "link": None, "compute": None})
                continue
            steps = round(sent / weight)
            whole = counted(sent, steps, of_step)
            found.append({**case, "seconds": whole, "link": 8 * sent / RATE, "compute": steps * of_step})
    return found


def shaped(rate: float) -> list[dict[str, Any]]:
    """Some steps of each arm in a network namespace whose loopback interface ``tc`` holds at a rate, and lets go.

    Raises:
        PermissionError: if that is not allowed here.
    """
    inside = [sys.executable, "-m", "benchmarks.split_study", "--inside", str(rate)]
    done = subprocess.run(["unshare", "-n", *inside], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PermissionError(f"no link could be shaped here: {done.stderr.strip()[-500:]}")
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def inside(rate: float, steps: int = 9) -> list[dict[str, Any]]:
    """What :func:`shaped` runs in its namespace: seconds of a step on the link as it is, and at the rate.

    It is the fastest of some by the clock on the wall, as whatever else the machine does only makes a step longer.
    """
    loopback = ["dev", "lo", "root"]
    subprocess.run(["ip", "link", "set", "lo", "up", "mtu", "1500"], check=True)
    rows = []
    for case in plan():
        how, size = compression(case["arm"], case["ratio"]), batch_of(**case)
        assert how is not None
        free = min(seconds_of_steps(how, size, steps=steps))
        hold = ["tbf", "rate", f"{rate:.0f}bit", "burst", "4kb", "latency", "2s"]
        subprocess.run(["tc", "qdisc", "add", *loopback, *hold], check=True)
        held = min(seconds_of_steps(how, size, steps=steps))
        subprocess.run(["tc", "qdisc", "del", *loopback], check=True)
        link = counted(sum(bytes_of_a_step(how, size, steps=1)), 0, 0, rate)
        rows.append({**case, "rate": rate, "free": free, "held": held, "counted link": link})
    return rows


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.split_study", description=__doc__)
    parser.add_argument("--rate", type=float, help="bits a second: measure some steps on a link of that rate too")
    parser.add_argument("--inside", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.inside is not None:
        print(json.dumps(inside(options.inside)))
        return
    made = {
        **head("split_study", "scikit-learn"),
        "config": {**CONFIG, "layers of the client": LAYERS, "tokens": TOKENS},
        "before": BEFORE,
        "training": {"lr": LRS, "weight_decay": WEIGHT_DECAY, "batch": BATCH, "steps without compression": STEPS},
        "traffic": TRAFFIC,
        "rate": RATE,
        "levels": LEVELS,
    }
    results = Results(RESULTS, made)
    none = sum(results.once("bytes of a step without compression", lambda: bytes_of_a_step(Compression())))
    results.once("trap", lambda: trap(none))
    seconds = results.once("seconds of a step", compute)
    tuned = results.sweep([{**case, "lr": lr} for case in plan() for lr in LRS], tune, name="tuning")
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        rows = results.sweep(
            [{**case, "seed": seed} for case in plan()], partial(run, tuned=tuned, none=none), name="rows"
        )
        results.sweep([{"seed": seed}], partial(times, rows, seconds), name="times")
    control = [{"arm": CONTROL, "ratio": ratio} for ratio in RATIOS]
    tuned = results.sweep([{**case, "lr": lr} for case in control for lr in LRS], tune, name="tuning of the control")
    of_control = [{**case, "seed": seed} for seed in SEEDS for case in control]
    results.sweep(of_control, partial(run, tuned=tuned, none=none), name="control")
    rates = [{"arm": arm, "lr": lr, "seed": seed} for seed in SEEDS for arm in ("adc", CONTROL) for lr in LRS]
    results.sweep(rates, at_rate, name="by rate")
    if options.rate is not None:
        results.once("shaped", partial(shaped, options.rate))
    for row in rows:
        print({key: value for key, value in row.items() if key != "curve"})


if __name__ == "__main__":
    main()
