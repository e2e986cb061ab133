"""Train a small vision transformer in two processes: ``python -m dynlib.edge both``.

``both`` starts a server and its clients on this machine. Or start each by a command of its own, on one machine or on
several: ``server`` first, then ``client --number 1 --host ADDRESS`` and so on; or all of them by torchrun, which says
who is who: ``torchrun --nproc-per-node 2 -m dynlib.edge join``. With ``--checkpoint`` all can be stopped at any time,
and go on from their last checkpoint when they are started again.
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dynlib.backbone import ViT
from dynlib.data import digits
from dynlib.edge.halves import halves
from dynlib.edge.link import PORT, Link, LinkError
from dynlib.edge.messages import Compression
from dynlib.edge.split import SplitClient, SplitServer

CONFIG: dict[str, Any] = {"image_size": 24, "patch_size": 4, "classes": 10, "dim": 64, "depth": 4, "heads": 4}
SHAPE = {"tokens": 37, "dim": 64, "classes": 10}
ENLARGED = 3
"""Times the scans' eight pixels, to the image's size."""


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m dynlib.edge", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("role", choices=["both", "server", "client", "join"])
    parser.add_argument("--clients", type=int, default=1, help="how many there are")
    parser.add_argument("--number", type=int, default=1, help="of this client, from 1")
    parser.add_argument("--host", default="127.0.0.1", help="where the server listens, or is found")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for anything")
    parser.add_argument("--rate", type=float, help="bits a second of the link; as fast as it goes if left out")
    parser.add_argument("--layers", type=int, default=1, help="layers of the first half")
    parser.add_argument("--kind", default="none", help="none, top_k, random_top_k, quantise or double")
    parser.add_argument("--share", type=float, default=1.0, help="of the numbers or tokens that is sent")
    parser.add_argument("--bits", type=int, default=8, help="of a number, quantised")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--every", type=int, default=50, help="steps between two checkpoints")
    parser.add_argument("--checkpoint", type=Path, help="a folder")
    parser.add_argument("--images", type=int, default=360, help="to test with, of 360")
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    if options.role == "both":
        return _both(given, options.clients)
    try:
        _join(options)
    except LinkError as error:
        print(f"{options.role}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _both(given: list[str], clients: int) -> int:
    """A server and its clients, each a process of its own command; if one fails, the others hear of it by the link."""
    roles = [["server"], *(["client", "--number", str(number)] for number in range(1, clients + 1))]
    rest = [word for word in given if word != "both"]
    processes = [subprocess.Popen([sys.executable, "-m", "dynlib.edge", *role, *rest]) for role in roles]
    try:
        return max(process.wait() for process in processes)
    except KeyboardInterrupt:  # they were interrupted too
        for process in processes:
            process.wait()
        return 128 + signal.SIGINT


def _join(options: argparse.Namespace) -> None:
    if options.role == "join":
        link = Link.from_environment(timeout=options.timeout, rate=options.rate)
    else:
        number = 0 if options.role == "server" else options.number
        link = Link(
            number, options.clients, host=options.host, port=options.port, timeout=options.timeout, rate=options.rate
        )
    torch.manual_seed(0)
    first, second = halves(ViT(**CONFIG), options.layers)
    numbers = {**SHAPE, "batch": options.batch}
    if link.number == 0:
        optimizer = torch.optim.AdamW(second.parameters(), lr=options.lr)
        SplitServer(second, optimizer, link, **numbers, checkpoint=options.checkpoint).serve()
        return

    images, labels = _scans("train")

    def batches(step: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(step * link.clients + link.number)
        drawn = torch.randint(len(labels), (options.batch,), generator=draw)
        return images[drawn], labels[drawn]

    client = SplitClient(
        first,
        torch.optim.AdamW(first.parameters(), lr=options.lr),
        link,
        **numbers,
        compression=Compression(options.kind, options.share, options.bits),
        attention=first.class_attention,
        checkpoint=options.checkpoint,
    )
    run = client.train(batches, options.steps, every=options.every)
    test = [part[: options.images] for part in _scans("test")]
    pairs = zip(*(part.split(options.batch) for part in test), strict=True)
    right = sum(int((client.predict(some).argmax(-1) == theirs).sum()) for some, theirs in pairs)
    client.close()
    print(
        f"client {link.number}, {client.step} steps: {right / len(test[1]):.1%} of {len(test[1])} images right; "
        f"{run.sent[-1] / 1e6:.2f} MB sent, {run.received[-1] / 1e6:.2f} MB received in training",
        flush=True,
    )


def _scans(split: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
    """Scans of digits and their labels."""
    scans = digits(split)
    return scans.images.repeat_interleave(ENLARGED, -1).repeat_interleave(ENLARGED, -2), scans.labels


if __name__ == "__main__":
    sys.exit(main())
