"""What a submission may use, and the watch over it: memory, processes, and what is written to the one folder that both
sides of its walls see, in which the kernel's sockets lie.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil

from tools.notebooks import ROOT

MIB = 2**20


class Limits(NamedTuple):
    """What a submission may use.

    Attributes:
        cell: seconds of one cell.
        total: seconds of all cells, and as many of the checks at the end.
        mib: of memory, all processes together.
        processes: at the same time, threads counted too.
        output: MiB that are kept of what one notebook prints.
    """

    cell: int = 60
    total: int = 600
    mib: int = 3072
    processes: int = 128
    output: int = 4


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
def watched(meeting: Path, limits: Limits, stop: Callable[[str], None], *, most: int = 16) -> Iterator[None]:
    """A block whose child processes are stopped when they use too much, and ended with it, all of them.

    Args:
        meeting: the folder that both sides see.
        limits: of all child processes together.
        stop: called with a sentence, once, when they have used too much.
        most: MiB that may be written into the folder, in 1000 files.
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
            why = ""
            if used > (limits.mib + 512) * MIB:
                why = f"it used more than {limits.mib} MiB of memory"
            elif count > limits.processes:
                why = f"it started more than {limits.processes} processes"
            elif _full(meeting, most * MIB):
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


def _full(folder: Path, most: int) -> bool:
    """Whether more than so many bytes, or more than 1000 files, or what cannot be looked into, lie in a folder."""
    written = files = 0
    closed: list[OSError] = []
    for place, _, names in os.walk(folder, onerror=closed.append):
        files += 1 + len(names)
        for name in names[:1000]:
            with suppress(OSError):
                written += os.lstat(os.path.join(place, name)).st_size
        if written > most or files > 1000:
            return True
    return any(isinstance(error, PermissionError) for error in closed)


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
