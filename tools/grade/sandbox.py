"""Where a submission runs: with bubblewrap, or, if a teacher says so, without any walls.

Inside there is no network, no file of the teacher's but Python, its packages, ``dynlib`` and the released files of the
unit, nobody's user id, and a folder in memory to write into. Outside stands a watch over memory, processes and what is
written to the one folder that both sides see, in which the kernel's sockets lie.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil

from tools.notebooks import ROOT, solution

MIB = 2**20


class Limits(NamedTuple):
    """What a submission may use.

    Attributes:
        cell: seconds of one cell.
        total: seconds of the whole notebook, checks included.
        mib: of memory, all processes together.
        processes: at the same time, threads counted too.
        output: MiB that are kept of what one notebook prints.
    """

    cell: int = 60
    total: int = 600
    mib: int = 3072
    processes: int = 128
    output: int = 4


class Walls(NamedTuple):
    """A kind of sandbox: its name, and whether it keeps anything out."""

    name: str
    keeps: bool
    command: str = ""


NONE_FOUND = (
    "There is no sandbox on this machine: a submission could do what you can do, read the solutions, change the grade "
    "book, send files away. Install bubblewrap (apt install bubblewrap, dnf install bubblewrap; for Linux alone), or "
    "grade in a virtual machine that holds nothing else. Where you trust all submissions, say --trust."
)


@cache
def find() -> Walls | None:
    """The sandbox of this machine that works, or nothing."""
    command = shutil.which("bwrap") if sys.platform == "linux" else None
    if command is None:
        return None
    walls = Walls("bubblewrap", True, command)
    with tempfile.TemporaryDirectory() as place, suppress(OSError, subprocess.TimeoutExpired):
        front = _bubblewrap(walls, Path(place), [], Limits())
        done = subprocess.run([*front, sys.executable, "-c", "print(1)"], capture_output=True, timeout=180)
        return walls if done.returncode == 0 else None
    return None


TRUST = Walls("none (--trust)", False)


def command(walls: Walls, meeting: Path, unit: str, limits: Limits) -> list[str]:
    """What stands in front of the kernel's own command.

    Args:
        walls: the kind of sandbox.
        meeting: the folder for the kernel's sockets, the only one that both sides see.
        unit: whose released files are there to read.
        limits: of the process.
    """
    if not walls.keeps:
        return _limited(limits, walled=False)
    return [*_bubblewrap(walls, meeting, files(unit), limits), *_limited(limits, walled=True)]


def files(unit: str) -> list[Path]:
    """What a student's notebook has beside it."""
    folder = solution(unit).parent
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".ipynb" and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)
    ]


def _limited(limits: Limits, *, walled: bool) -> list[str]:
    # RLIMIT_DATA and not RLIMIT_AS: torch maps much that it never touches. Processes are counted by the watch; the
    # limit here only slows down one that does nothing but start others, and counts from 0 behind walls alone.
    said = [f"-d {limits.mib * 1024}", f"-f {64 * 1024 * 2}", "-c 0", *(["-p 4096"] if walled else [])]
    shell = "".join(f"ulimit {one} 2>/dev/null; " for one in said) + 'exec "$@"'
    return ["/bin/sh", "-c", shell, "sh"]


HOME = "/tmp/work"  # inside, where it is a folder of its own in memory


def _bubblewrap(walls: Walls, meeting: Path, beside: Sequence[Path], limits: Limits) -> list[str]:
    size = str(256 * MIB)
    said = [walls.command, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    said += ["--uid", "65534", "--gid", "65534", "--hostname", "class", "--cap-drop", "ALL"]
    for place in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(place):
            said += ["--symlink", os.readlink(place), place]
        elif os.path.isdir(place):
            said += ["--ro-bind", place, place]
    for place in ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime"):
        said += ["--ro-bind-try", place, place]
    said += [
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--size",
        size,
        "--tmpfs",
        "/dev/shm",
        "--size",
        size,
        "--tmpfs",
        "/tmp",
    ]
    said += ["--dir", HOME]
    for place in dict.fromkeys([sys.base_prefix, sys.prefix]):
        if not place.startswith("/usr"):
            said += ["--ro-bind", place, place]
    said += ["--ro-bind", str(ROOT / "dynlib"), str(ROOT / "dynlib")]
    for path in beside:
        said += ["--ro-bind", str(path), f"{HOME}/{path.relative_to(beside[0].parent)}"]
    said += ["--bind", str(meeting), str(meeting)]
    for name, value in environment().items():
        said += ["--setenv", name, value]
    return [*said, "--setenv", "HOME", HOME, "--setenv", "USER", "nobody", "--chdir", HOME, "--"]


def environment() -> dict[str, str]:
    """What a submission finds in its environment: nothing of the teacher's."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "PYTHONPATH": str(ROOT),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "TRITON_INTERPRET": "1",
        "IPYTHONDIR": "/tmp/ipython",
        "JUPYTER_PLATFORM_DIRS": "1",
    }


# The watch


@contextmanager
def watched(meeting: Path, limits: Limits, stop: Callable[[str], None]) -> Iterator[None]:
    """A block whose child processes are stopped when they use too much, and ended with it, all of them.

    Args:
        meeting: the folder that both sides see.
        limits: of all child processes together.
        stop: called with a sentence, once, when they have used too much.
    """
    adopt()
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    done = threading.Event()

    def children() -> list[psutil.Process]:
        return [child for child in psutil.Process().children(recursive=True) if child.pid not in before]

    def look() -> None:
        while not done.wait(0.2):
            used = count = 0
            for child in children():
                with suppress(psutil.Error):
                    used, count = used + child.memory_info().rss, count + 1
            written = 0
            with suppress(OSError):
                written = sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(meeting))
            why = ""
            if used > (limits.mib + 512) * MIB:
                why = f"it used more than {limits.mib} MiB of memory"
            elif count > limits.processes:
                why = f"it started more than {limits.processes} processes"
            elif written > 16 * MIB:
                why = "it wrote into the folder of the kernel's sockets"
            if why:
                stop(why)
                for child in children():
                    with suppress(psutil.Error):
                        child.kill()
                return

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()
        for _ in range(20):  # what was killed may just have started another
            left = children()
            if not left:
                break
            for child in left:
                with suppress(psutil.Error):
                    child.kill()
            psutil.wait_procs(left, timeout=0.5)


@cache
def adopt() -> None:
    """See to it that what a child leaves behind becomes a child of this process, and is found and ended with it."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def die_with_parent() -> None:
    """This process ends when the one that started it does, however that ended."""
    if sys.platform == "linux":
        parent = os.getppid()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
