"""The folder of a submission while it runs, and what a grader that was killed has left behind.

Each folder holds a lock for as long as its grader lives; the system lets go of it when that ends, however it ends. So
a folder whose lock can be had is nobody's, and goes, together with the processes that speak of it.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

PREFIX = "dyn-grade-"
LOCK = ".owner"
YOUNG = 60
"""Seconds within which a folder without a lock is one that is just being made."""
SLOW = 10
"""Seconds that a process which was told to end may take."""


def short() -> str:
    """Where the folders lie: a socket's path must be short, and what TMPDIR names need not be."""
    return "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()


@contextlib.contextmanager
def room(walls: str = "") -> Iterator[Path]:
    """A folder for one submission, which goes at the end of the block.

    Args:
        walls: the kind that stands round what runs, which the one who sweeps must know.
    """
    place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=short()))
    try:
        with (place / LOCK).open("w") as file:
            _lock(file.fileno())
            file.write(walls)
            file.flush()
            yield place
    finally:
        _delete(place)


def left_behind() -> Iterator[tuple[Path, str]]:
    """Folders of graders that are gone, and the kind of walls that each had; nobody else takes them meanwhile."""
    if os.name == "nt":
        return
    for place in sorted(Path(short()).glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError):
            found = place.lstat()
            if place.is_symlink() or found.st_uid != os.getuid():
                continue
            if not (place / LOCK).exists():
                if time.time() - found.st_mtime > YOUNG:
                    yield place, ""
                continue
            with (place / LOCK).open("r+") as file:
                _lock(file.fileno())  # an OSError where its grader lives
                yield place, file.read(100)


def remove(place: Path) -> None:
    """End what speaks of a folder, wait until it has ended, and take the folder away."""
    until = time.monotonic() + SLOW
    while (left := _speaking_of(place)) and time.monotonic() < until:  # what is killed lives on for a moment
        for process in left:
            with contextlib.suppress(psutil.Error):
                for one in [*process.children(recursive=True), process]:
                    with contextlib.suppress(psutil.Error):
                        one.kill()
        time.sleep(0.02)
    _delete(place)


def _speaking_of(place: Path) -> list[psutil.Process]:
    """The processes of this user that name something in a folder, but for this one and those above it."""
    own, found = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}, []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid in own or process.uids().real != os.getuid():
                continue
            if any(f"{place}/" in word for word in process.cmdline()):  # what has ended has no words
                found.append(process)
    return found


def _delete(place: Path) -> None:
    """Whatever it holds: folders within each other, as deep as there are, are too many for shutil."""
    try:
        shutil.rmtree(place, ignore_errors=True)
        if place.exists():  # folders that were closed
            for folder, inner, _ in os.walk(place):
                for name in inner:
                    if not os.path.islink(path := os.path.join(folder, name)):
                        with contextlib.suppress(OSError):
                            os.chmod(path, 0o700)  # before it is walked into
            shutil.rmtree(place, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", place], capture_output=True)


def _lock(at: int) -> None:
    if os.name != "nt":
        import fcntl

        fcntl.flock(at, fcntl.LOCK_EX | fcntl.LOCK_NB)
