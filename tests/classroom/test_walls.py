"""Each kind of walls is asked for in full, and the first that holds is taken.

Where bubblewrap is, tests/classroom/test_room.py tries its walls. The other kinds are tried here by the commands that
are built, and by programs that only pretend: they log what they are asked, and run it without any walls.
"""

import io
import json
import os
import sys
import tarfile
from pathlib import Path

import nbformat
import pytest

import tools.notebooks
from tests.classroom import hostile
from tests.notebooks import toys
from tools.grade import room, walls
from tools.grade.__main__ import main as grade
from tools.grade.clean import clean
from tools.grade.sandbox import Limits
from tools.grade.walls import KINDS, Inside, Walls
from tools.notebooks import ROOT, solution

UNIT = "99_toys"
OTHERS = [name for name in KINDS if name != "bubblewrap"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="walls are Linux's")

PRETENDS = """#!{python}
import json, os, shutil, sys
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print(json.dumps([os.path.basename(sys.argv[0]), *words]), file=log)
if words[:2] == ["image", "inspect"]:
    sys.exit(not os.path.exists({image!r}))
if words[0] == "import":
    open({image!r}, "wb").write(sys.stdin.buffer.read())
    sys.exit()
if words[0] not in ("run", "--user") or "systemctl" in sys.argv[0]:
    sys.exit()
os.chdir({folder!r})
environment = {{}}
for at, word in enumerate(words):
    if word == "--env":
        environment.update([words[at + 1].split("=", 1)])
    source, _, target = words[min(at + 1, len(words) - 1)].removeprefix("BindReadOnlyPaths=").partition(":")
    if word in ("--volume", "-p") and target.startswith("/tmp/work/"):
        shutil.copy(source, os.path.basename(target.removesuffix(":ro")))
begin = words.index("/usr/bin/timeout" if words[0] == "run" else "/usr/bin/env")
command = [word if word != "HOME=/tmp/work" else "HOME={folder}" for word in words[begin:]]
os.execve(command[0], command, environment | {{"HOME": {folder!r}}})
"""


@pytest.fixture
def pretender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with programs that pretend, first on the PATH, and a log of what they were asked."""
    place = tmp_path / "programs"
    (tmp_path / "folder").mkdir()
    place.mkdir()
    words = {"python": sys.executable, "log": str(tmp_path / "log"), "image": str(tmp_path / "image")}
    for name in ("podman", "docker", "systemd-run", "systemctl"):
        (place / name).write_text(PRETENDS.format(**words, folder=str(tmp_path / "folder")))
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(place), os.environ["PATH"]]))
    return tmp_path


def asked(place: Path) -> list[list[str]]:
    return [json.loads(line) for line in (place / "log").read_text().splitlines()] if (place / "log").exists() else []


@pytest.mark.parametrize("name", KINDS)
def test_what_stands_in_front_hands_on_nothing_of_the_teachers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "42")
    meeting, unit = tmp_path / "meeting", "00_start_here"
    front = walls.command(Walls(name, True, f"/usr/bin/{KINDS[name].program}"), meeting, unit, Limits(total=7, mib=99))
    text = " ".join(front)
    assert front[0] == f"/usr/bin/{KINDS[name].program}"
    assert "SECRET_TOKEN" not in text
    for hidden in ("solutions/00_start_here/00_start_here.ipynb", str(ROOT / "tests"), str(Path.home() / ".ssh")):
        assert hidden not in text
    assert f"{solution(unit).parent / 'checks_start_here.py'}" in text
    assert text.count(str(meeting)) >= 1
    assert str(ROOT / "dynlib") in text
    for whole in (f"{ROOT} {ROOT}", f"{ROOT}:"):
        assert whole not in text, "not the whole checkout"
    assert front[-4:-2] == ["/bin/sh", "-c"], "the limits of the process come last"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bubblewrap", ["--unshare-all", "--die-with-parent", "--clearenv", "--new-session"]),
        ("podman", ["--userns keep-id", "--http-proxy=false"]),
        ("docker", [f"--user {os.getuid()}:{os.getgid()}"]),
        ("rootless docker", ["--user 0:0"]),
        *(
            (name, ["--network none", "--read-only", "--cap-drop ALL", "no-new-privileges", "--memory 3584m", "--rm"])
            for name in ("podman", "docker", "rootless docker")
        ),
        ("systemd-run", ["PrivateNetwork=yes", "PrivatePIDs=yes", "PrivateUsers=yes", "NoNewPrivileges=yes"]),
        ("systemd-run", ["TemporaryFileSystem=/:ro", "MemoryMax=3584M", "/usr/bin/env -i PATH="]),
    ],
)
def test_every_wall_is_asked_for(name: str, says: list[str], tmp_path: Path) -> None:
    text = " ".join(KINDS[name].front("program", Inside(tmp_path / "meeting", [], Limits())))
    for one in says:
        assert one in text


def test_the_image_of_a_container_holds_nothing_but_folders_and_links() -> None:
    name, content = walls._image()
    assert walls._image() == (name, content), "the same every time"
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = archive.getmembers()
    assert all(member.isdir() or member.issym() for member in members)
    assert {"usr", "proc", "tmp", "bin"} <= {member.name for member in members}


# Which one is taken


def first(only: str = "") -> str | None:
    found = walls.find.__wrapped__(only)
    return found.name if found else None


@pytest.mark.usefixtures("pretender")
def test_the_first_that_holds_is_taken_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(walls.shutil, "which", lambda program: f"/x/{program}")
    monkeypatch.setattr(walls, "KINDS", {name: kind._replace(ready=bool) for name, kind in KINDS.items()})
    for at, name in enumerate(KINDS):
        monkeypatch.setattr(walls, "holds", lambda found, at=at: found.name in list(KINDS)[at:])
        assert first() == name
        assert first("podman") == ("podman" if at <= list(KINDS).index("podman") else None)
    monkeypatch.setattr(walls, "holds", lambda _: False)
    assert first() is None
    monkeypatch.setattr(walls, "holds", lambda _: True)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert first() == "bubblewrap"
    assert first("docker") is None, "a container that root begins is root's"


def test_walls_that_do_not_hold_are_not_taken(pretender: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    for name in OTHERS:
        assert first(name) is None, f"{name} let the solutions be seen"
    run = [words for words in asked(pretender) if words[1] in ("run", "--user")]
    assert {words[0] for words in run} >= {"podman", "docker", "systemd-run"}, "they were tried"
    assert (pretender / "image").read_bytes() == walls._image()[1]


def test_walls_that_are_there_and_do_not_work_are_told_with_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(walls.shutil, "which", lambda name: str(program) if name == "bwrap" else None)
    said = walls.faults()
    assert said[0] == "bubblewrap is here and does not work: bwrap: setting up uid map: Permission denied"
    assert "AppArmor" in said[1]
    assert "profile bwrap /usr/bin/bwrap" in (ROOT / "classroom" / "README.md").read_text(encoding="utf-8")


def test_who_asks_for_walls_that_are_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "submitted").mkdir()
    monkeypatch.setattr(walls, "find", lambda only: None)
    assert grade([str(tmp_path), "00_start_here"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert grade([str(tmp_path), "00_start_here", "--sandbox", "podman"]) == 2
    assert "podman is not there, or keeps nothing in" in capsys.readouterr().err


# A submission behind what only pretends


@pytest.mark.parametrize("name", ["podman", "docker", "systemd-run"])
def test_a_submission_is_graded_behind_each_and_ended(
    name: str, pretender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools.notebooks, "SOLUTIONS", tmp_path / "solutions")
    monkeypatch.setattr(tools.notebooks, "EXERCISES", tmp_path / "exercises")
    path = tmp_path / "solutions" / UNIT / f"{UNIT}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(toys.unit(voice=False), path)
    notebook = toys.answered(toys.released(toys.unit(voice=False)), **toys.RIGHT)
    program = pretender / "programs" / KINDS[name].program
    ran = room.run(clean(hostile.raw(notebook), UNIT).cells, UNIT, Walls(name, True, str(program)), Limits())
    assert all(ran.passed.values()), ran.reason
    assert len(ran.passed) == 2 * len(toys.POINTS)
    start, end = asked(pretender)
    called = next(word for word in start if word.startswith("--unit=")) if name == "systemd-run" else ""
    called = called.removeprefix("--unit=") or start[start.index("--name") + 1]
    assert end[-1].removesuffix(".service") == called, "what was begun is ended, by its name"
    assert end[0] == ("systemctl" if name == "systemd-run" else name)
