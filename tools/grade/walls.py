"""The walls round a submission: of bubblewrap, else rootless podman, docker, systemd; else none, if a teacher says so.

Each kind is a function that gives the command to put in front of the kernel's own; inside all of them there is the
same: no network, no process of the teacher's, no file of theirs but Python, its packages, ``dynlib`` and the released
files of the unit, and a folder in memory to write into. Which kind works on a machine is found by trying: what runs
inside must not see more than it may.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tools.grade import rooms
from tools.grade.sandbox import MIB, Limits, environment
from tools.notebooks import ROOT, solution

HOME = "/tmp/work"
"""The folder of a submission, inside."""
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
SETTINGS = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime")
ROOM = 256
"""MiB of each folder in memory."""
SLACK = 512
"""MiB of memory and number of tasks beyond the limits of a submission: what the watch outside comes to first."""
END = 900
"""Seconds beyond a submission's own after which one ends of which nobody is left to know."""


class Walls(NamedTuple):
    """A kind of walls, as it was found on this machine: its name, whether it keeps anything out, and its program."""

    name: str
    keeps: bool
    command: str = ""


class Inside(NamedTuple):
    """What a submission finds behind the walls, besides its limits.

    Attributes:
        meeting: the folder for the kernel's sockets, the only one that both sides see.
        beside: files that lie in the submission's folder.
        limits: of the submission.
    """

    meeting: Path
    beside: Sequence[Path]
    limits: Limits

    @property
    def name(self) -> str:
        """One of its own, for what must be named."""
        return f"dynlib-{self.meeting.parent.name}-{self.meeting.name}"

    @property
    def files(self) -> list[tuple[str, str]]:
        """What is there to read besides the system, and where."""
        packages = [place for place in dict.fromkeys([sys.base_prefix, sys.prefix]) if not place.startswith("/usr")]
        same = [*(place for place in SETTINGS if os.path.exists(place)), *packages, str(ROOT / "dynlib")]
        return [
            *((place, place) for place in same),
            *((str(path), f"{HOME}/{path.relative_to(self.beside[0].parent)}") for path in self.beside),
        ]

    @property
    def words(self) -> dict[str, str]:
        """The environment."""
        return environment() | {"HOME": HOME, "USER": "nobody"}


class Kind(NamedTuple):
    """How a kind of walls is used.

    Attributes:
        program: that it needs.
        front: what stands in front of the kernel's command.
        end: a command that ends the kernel, where it is no child of ours.
        ready: what must be done once, before.
        root: it works for the administrator too, and is no less safe then.
    """

    program: str
    front: Callable[[str, Inside], list[str]]
    end: Callable[[str, Inside], list[str]] | None = None
    ready: Callable[[str], object] = bool
    root: bool = False


def _links() -> dict[str, str]:
    return {place: os.readlink(place) for place in SYSTEM if os.path.islink(place)}


def _folders() -> list[str]:
    return [place for place in SYSTEM if os.path.isdir(place) and not os.path.islink(place)]


# bubblewrap


def _bubblewrap(program: str, inside: Inside) -> list[str]:
    said = [program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    said += ["--uid", "65534", "--gid", "65534", "--hostname", "class", "--cap-drop", "ALL"]
    for place, target in _links().items():
        said += ["--symlink", target, place]
    for place in _folders():
        said += ["--ro-bind", place, place]
    said += ["--proc", "/proc", "--dev", "/dev"]
    for place in ("/dev/shm", "/tmp"):
        said += ["--size", str(ROOM * MIB), "--tmpfs", place]
    said += ["--dir", HOME]
    for source, target in inside.files:
        said += ["--ro-bind", source, target]
    said += ["--bind", str(inside.meeting), str(inside.meeting)]
    for name, value in inside.words.items():
        said += ["--setenv", name, value]
    return [*said, "--chdir", HOME, "--"]


# Containers: of an image without anything in it, into which the system is mounted, to read


def _image() -> tuple[str, bytes]:
    """The name of the image, and the archive that it is made from: folders to mount into, and the system's links."""
    place = io.BytesIO()
    with tarfile.open(fileobj=place, mode="w") as archive:
        for name in sorted({*_folders(), "/proc", "/sys", "/dev", "/etc", "/tmp"}):
            folder = tarfile.TarInfo(name.lstrip("/"))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for name, target in sorted(_links().items()):
            link = tarfile.TarInfo(name.lstrip("/"))
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    content = place.getvalue()
    return f"dynlib-walls:{hashlib.sha256(content).hexdigest()[:12]}", content


def _make_image(program: str) -> None:
    name, content = _image()
    there = subprocess.run([program, "image", "inspect", name], capture_output=True, timeout=60)
    if there.returncode:
        subprocess.run([program, "import", "-", name], input=content, capture_output=True, timeout=120, check=True)


def _container(program: str, inside: Inside, who: Sequence[str]) -> list[str]:
    memory = f"{inside.limits.mib + SLACK}m"
    said = [program, "run", "--rm", "--name", inside.name, *who, "--pull", "never", "--log-driver", "none"]
    said += ["--network", "none", "--read-only", "--cap-drop", "ALL", "--hostname", "class"]
    said += ["--security-opt", "no-new-privileges", "--security-opt", "label=disable"]
    said += ["--memory", memory, "--memory-swap", memory, "--pids-limit", str(SLACK), "--shm-size", f"{ROOM}m"]
    for place in ("/tmp", HOME):
        said += ["--tmpfs", f"{place}:rw,exec,nosuid,nodev,mode=1777,size={ROOM}m"]
    for source, target in [*((place, place) for place in _folders()), *inside.files]:
        said += ["--volume", f"{source}:{target}:ro"]
    said += ["--volume", f"{inside.meeting}:{inside.meeting}:rw", "--workdir", HOME]
    for name, value in inside.words.items():
        said += ["--env", f"{name}={value}"]
    return [*said, _image()[0], "/usr/bin/timeout", "--kill-after=5", str(2 * inside.limits.total + END)]


def _podman(program: str, inside: Inside) -> list[str]:
    return _container(program, inside, ["--userns", "keep-id", "--http-proxy=false"])


def _docker(program: str, inside: Inside) -> list[str]:
    return _container(program, inside, ["--user", f"{os.getuid()}:{os.getgid()}"])


def _rootless_docker(program: str, inside: Inside) -> list[str]:
    return _container(program, inside, ["--user", "0:0"])  # who is the teacher outside, and nobody else


def _remove(program: str, inside: Inside) -> list[str]:
    return [program, "rm", "--force", inside.name]


# A service of the teacher's own systemd


def _systemd(program: str, inside: Inside) -> list[str]:
    said = [program, "--user", "--quiet", "--wait", "--collect", "--pipe", "--service-type=exec"]
    said += [f"--unit={inside.name}", f"--working-directory={HOME}"]
    limits = inside.limits
    rules = ["PrivateUsers=yes", "PrivatePIDs=yes", "PrivateNetwork=yes", "PrivateIPC=yes", "PrivateDevices=yes"]
    rules += ["NoNewPrivileges=yes", "CapabilityBoundingSet=", "RestrictAddressFamilies=AF_UNIX", "KeyringMode=private"]
    rules += ["ProtectKernelTunables=yes", "ProtectControlGroups=yes", f"RuntimeMaxSec={2 * limits.total + END}"]
    rules += [f"MemoryMax={limits.mib + SLACK}M", "MemorySwapMax=0", f"TasksMax={SLACK}"]
    rules += ["TemporaryFileSystem=/:ro", *(f"TemporaryFileSystem={p}:mode=1777,size={ROOM}M" for p in ("/tmp", HOME))]
    # the source of a link is followed, so that a folder of the system's stands where there is a link outside
    system = [(place, place) for place in SYSTEM if os.path.isdir(place)]
    rules += [f"BindReadOnlyPaths={source}:{target}" for source, target in [*system, *inside.files]]
    rules += [f"BindPaths={inside.meeting}"]
    for rule in rules:
        said += ["-p", rule]
    # the service begins with the environment of the teacher's systemd
    return [*said, "/usr/bin/env", "-i", *(f"{name}={value}" for name, value in inside.words.items())]


def _kill_service(program: str, inside: Inside) -> list[str]:
    return [str(Path(program).with_name("systemctl")), "--user", "kill", "--signal=KILL", f"{inside.name}.service"]


KINDS = {
    "bubblewrap": Kind("bwrap", _bubblewrap, root=True),
    "podman": Kind("podman", _podman, _remove, _make_image),
    "docker": Kind("docker", _docker, _remove, _make_image),
    "rootless docker": Kind("docker", _rootless_docker, _remove, _make_image),
    "systemd-run": Kind("systemd-run", _systemd, _kill_service),
}
"""All kinds, the best first."""
TRUST = Walls("none (--trust)", False)
NONE_FOUND = (
    "There is no sandbox on this machine: a submission could do what you can do, read the solutions, change the grade "
    "book, send files away. Install bubblewrap (apt install bubblewrap, dnf install bubblewrap; for Linux alone; it "
    "needs user namespaces), or, not as root, podman or docker; or grade in a virtual machine that holds nothing else. "
    "Where you trust all submissions, say --trust."
)
NOT_ALLOWED = (
    "This system does not let bubblewrap make user namespaces. Ubuntu, from 23.10 on, asks for an AppArmor profile: "
    "classroom/README.md says which, under its sandbox."
)

TRIAL = """
import os, pathlib, socket, sys
pathlib.Path(sys.argv[1], "written").write_text("yes")
seen = [path for path in sys.argv[2:] if os.path.exists(path)]
others = [name for name in os.listdir("/proc") if name.isdigit()]
nets = [name for _, name in socket.if_nameindex() if name != "lo"]
if seen or len(others) > 9 or nets:
    sys.exit(f"seen from inside: {seen}, {len(others)} processes, {nets}")
"""
"""What is run to see whether walls hold: with the meeting folder, and with what must not be seen."""


def _there(only: str = "") -> Iterator[Walls]:
    """The kinds whose program is on this machine, the best first, or this one alone."""
    for name, kind in KINDS.items():
        program = shutil.which(kind.program) if sys.platform == "linux" and only in ("", name) else None
        if program is not None and (os.getuid() != 0 or kind.root):
            yield Walls(name, True, program)


@cache
def find(only: str = "") -> Walls | None:
    """The first kind of walls that works on this machine, or this one alone; None if there is none."""
    for walls in _there(only):
        with suppress(OSError, subprocess.SubprocessError):
            KINDS[walls.name].ready(walls.command)
            if holds(walls):
                return walls
    return None


def faults(only: str = "") -> list[str]:
    """What each kind that is on this machine says where it does not work, a line each."""
    said = []
    for walls in _there(only):
        try:
            KINDS[walls.name].ready(walls.command)
            done, written = _try(walls)
            last = (done.stderr.decode(errors="replace").strip() or "it said nothing").splitlines()[-1]
            fault = None if not done.returncode and written else last
        except (OSError, subprocess.SubprocessError) as error:
            fault = str(error)
        if fault is not None:
            said.append(f"{walls.name} is here and does not work: {fault}")
    if any("uid map" in line or "RTM_NEWADDR" in line for line in said):
        said.append(NOT_ALLOWED)
    return said


def holds(walls: Walls) -> bool:
    """Whether what runs behind these walls sees nothing that it must not see."""
    done, written = _try(walls)
    return done.returncode == 0 and written


def _try(walls: Walls) -> tuple[subprocess.CompletedProcess[bytes], bool]:
    """Run :data:`TRIAL` behind walls: what came of it, and whether it could write where it may."""
    with rooms.room(walls.name) as place:
        meeting = place / "trial"
        meeting.mkdir(mode=0o700)
        inside = Inside(meeting, [], Limits())
        try:
            front = KINDS[walls.name].front(walls.command, inside)
            hidden = [str(ROOT / "solutions"), str(ROOT / "tests")]
            done = subprocess.run(
                [*front, sys.executable, "-c", TRIAL, str(meeting), *hidden],
                env=client(walls),
                capture_output=True,
                timeout=180,
            )
            return done, (meeting / "written").exists()
        finally:
            end(walls, meeting, Limits())


def command(walls: Walls, meeting: Path, unit: str, limits: Limits) -> list[str]:
    """What stands in front of the kernel's own command.

    Args:
        walls: the kind of walls.
        meeting: the folder for the kernel's sockets, the only one that both sides see.
        unit: whose released files are there to read.
        limits: of the process.
    """
    if not walls.keeps:
        return _limited(limits, walled=False)
    front = KINDS[walls.name].front(walls.command, Inside(meeting, files(unit), limits))
    return [*front, *_limited(limits, walled=True)]


def client(walls: Walls) -> dict[str, str]:
    """The environment of what stands in front: a container's program needs the teacher's, and hands none on."""
    return dict(os.environ) if walls.keeps and KINDS[walls.name].end is not None else environment()


def end(walls: Walls, meeting: Path, limits: Limits) -> None:
    """End what runs behind the walls, where it does not end with the command in front of it."""
    kind = KINDS.get(walls.name)
    if kind is not None and kind.end is not None:
        with suppress(OSError, subprocess.SubprocessError):
            said = kind.end(walls.command, Inside(meeting, [], limits))
            subprocess.run(said, capture_output=True, timeout=60)


def sweep() -> int:
    """End and remove what graders that were killed left behind; how many folders there were."""
    number = 0
    for place, name in rooms.left_behind():
        kind = KINDS.get(name)
        program = shutil.which(kind.program) if kind is not None else None
        for meeting in ("a", "b", "trial") if program is not None else ():
            end(Walls(name, True, program), place / meeting, Limits())
        rooms.remove(place)
        number += 1
    return number


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
