"""The hub's files say what they must, and its exchange believes no folder that a student may have written."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from nbgrader.coursedir import CourseDirectory
from nbgrader.utils import notebook_hash
from traitlets.config import Config, PyFileConfigLoader

from classroom.hub import people
from classroom.hub.exchange import TIME, Collect, ReleaseFeedback, user_id
from tests.classroom import hub
from tools.notebooks import ROOT

HUB = ROOT / "classroom" / "hub"
UNIT = "00_start_here"
SECRET = "0123456789abcdef" * 8


# The configuration


def loaded(place: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("DYNLIB_HUB", str(place))
    monkeypatch.setattr(sys, "path", [*sys.path])
    return PyFileConfigLoader("jupyterhub_config.py", str(HUB)).load_config()


def test_the_class_list_and_the_teachers_may_come_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "students.csv").write_text("\ufeffstudent,name\nada,Ada L.\nbo-2,Bo\n", encoding="utf-8")
    config = loaded(tmp_path, monkeypatch)
    assert config.Authenticator.allowed_users == {"ada", "bo-2", "teacher"}
    assert config.Authenticator.admin_users == {"teacher"}
    assert not config.FirstUseAuthenticator.create_users
    assert config.Spawner.cmd == [str(tmp_path / "student" / "bin" / "jupyterhub-singleuser")]
    for name, sees in (("teacher", "teacher"), ("ada", "student")):
        spawner = types.SimpleNamespace(user=types.SimpleNamespace(name=name))
        assert config.Spawner.environment["JUPYTER_CONFIG_PATH"](spawner) == str(tmp_path / "settings" / sees)
    assert not config.JupyterHub.cleanup_servers
    (role,) = config.JupyterHub.load_roles
    assert [service["name"] for service in config.JupyterHub.services] == role["services"]


def test_without_a_class_list_only_teachers_come_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNLIB_TEACHERS", "grace,alan")
    assert loaded(tmp_path, monkeypatch).Authenticator.allowed_users == {"grace", "alan"}


@pytest.mark.skipif(not shutil.which("taskset") or not shutil.which("prlimit"), reason="these are Linux's")
def test_without_systemd_a_server_starts_behind_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda self: self != Path("/run/systemd/system") and is_dir(self))
    config = loaded(tmp_path, monkeypatch)
    spawner = types.SimpleNamespace(user=types.SimpleNamespace(id=0), cmd=None)
    config.Spawner.pre_spawn_hook(spawner)
    assert spawner.cmd[-1:] == config.Spawner.cmd
    asks = "import os, resource as r; print(len(os.sched_getaffinity(0)), *r.getrlimit(r.RLIMIT_DATA))"
    said = subprocess.run([*spawner.cmd[:-1], sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["1", str(3 * 2**30), str(3 * 2**30)]
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] != 3 * 2**30


def test_with_systemd_it_sets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda self: self == Path("/run/systemd/system") or is_dir(self))
    config = loaded(tmp_path, monkeypatch)
    assert config.JupyterHub.spawner_class == "systemdspawner.SystemdSpawner"
    assert (config.Spawner.mem_limit, config.Spawner.cpu_limit) == ("3G", 1)
    assert "pre_spawn_hook" not in config.Spawner


# The class


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name\nada\n", "needs a column 'student'"),
        ("", "needs a column 'student'"),
        ("student\nAda\n", "Ada"),
        ("student\nada+bo\n", "ada"),
        ("student\n../../etc\n", "etc"),
        ("student\n\nada,\n ,\n", "a name is"),
    ],
)
def test_a_class_list_that_cannot_be_used_says_why(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "students.csv").write_text(text)
    with pytest.raises(ValueError, match=re.escape(says)):
        people.students(tmp_path / "students.csv")


def test_no_student_gets_an_account_of_the_machine() -> None:
    with pytest.raises(ValueError, match="daemon is an account of the machine itself"):
        people.accounts(["daemon"])


def test_who_has_a_password_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(gensalt=lambda: b"", hashpw=lambda word, salt: b"#" + word)
    monkeypatch.setitem(sys.modules, "bcrypt", fake)
    store = tmp_path / "passwords.dbm"
    first = people.passwords(["ada", "bo"], store)
    assert set(first) == {"ada", "bo"}
    assert len(set(first.values())) == 2
    assert set(people.passwords(["ada", "bo", "cy"], store)) == {"cy"}
    assert set(people.passwords(["ada", "bo", "cy"], store, again="bo")) == {"bo"}


def test_the_socket_of_a_kernel_has_a_path_that_fits() -> None:
    told = json.loads((HUB / "student" / "jupyter_server_config.json").read_text())
    assert told["ConnectionFileMixin"]["transport"] == "ipc", (
        "what a kernel prints is not for all who are on the machine"
    )
    longest = next(n for n in range(99, 0, -1) if people.NAME.fullmatch("a" * n))
    kernel = f"kernel-{'0' * 36}-ipc-5"
    assert len(f"/home/{'a' * longest}/.local/share/jupyter/runtime/{kernel}") <= 107, "the most that Linux takes"


# The exchange


class Classroom:
    """An exchange and a course folder, without accounts."""

    def __init__(self, place: Path) -> None:
        self.place = place
        subprocess.run(["sh", HUB / "exchange.sh", place / "exchange", str(os.getuid())], check=True)
        self.inbound, self.course = place / "exchange" / "dynlib" / "inbound", place / "course"
        self.course.mkdir()

    def hand_in(self, student: str, text: str = "{}", ago: float = 0, unit: str = UNIT, owner: str = "") -> Path:
        """As nbgrader does, or says to have done some seconds ago."""
        when = (datetime.now(UTC) - timedelta(seconds=ago)).strftime(TIME)
        folder = self.inbound / f"{student}+{unit}+{when}+{len(list(self.inbound.iterdir()))}"
        folder.mkdir()
        (folder / f"{unit}.ipynb").write_text(text)
        (folder / "timestamp.txt").write_text(when)
        (folder / "submission_secret.txt").write_text(SECRET)
        if os.geteuid() == 0:
            for path in [folder, *folder.iterdir()]:
                os.chown(path, user_id(owner or student), -1)
        return folder

    def _made(self, kind: Any, **options: Any) -> Any:
        config = Config({"Exchange": {"root": str(self.place / "exchange")}, "ExchangeCollect": {"update": True}})
        config.CourseDirectory.update({"root": str(self.course), "course_id": "dynlib", "assignment_id": UNIT})
        return kind(coursedir=CourseDirectory(config=config), config=config, **options)

    def collect(self, **options: Any) -> dict[str, str]:
        """Collect; the notebook of each student."""
        self._made(Collect, **{"owners": "ids" if os.geteuid() == 0 else "any"} | options).start()
        found = (self.course / "submitted").glob(f"*/{UNIT}/{UNIT}.ipynb")
        return {path.parts[-3]: path.read_text() for path in found}

    def give_back(self) -> None:
        self._made(ReleaseFeedback).start()


@pytest.fixture
def classroom(tmp_path: Path) -> Classroom:
    return Classroom(tmp_path)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other people")


def test_the_exchange_has_the_permissions_that_its_page_promises(classroom: Classroom) -> None:
    modes = {path.name: oct(path.stat().st_mode & 0o7777) for path in (classroom.inbound.parent).iterdir()}
    assert modes == {"outbound": "0o755", "inbound": "0o3733", "feedback": "0o711"}
    assert oct(classroom.inbound.parents[1].stat().st_mode & 0o7777) == "0o1777"


def test_the_last_submission_counts_and_is_taken_once(classroom: Classroom) -> None:
    classroom.hand_in("ada", "first", ago=60)
    classroom.hand_in("ada", "second", ago=20)
    classroom.hand_in("bo", "of another unit", unit="01_cost")
    assert classroom.collect() == {"ada": "second"}
    taken = classroom.course / "submitted" / "ada" / UNIT
    before = taken.stat().st_ino
    assert classroom.collect() == {"ada": "second"}
    assert taken.stat().st_ino == before
    classroom.hand_in("ada", "third")
    assert classroom.collect() == {"ada": "third"}
    assert sorted(path.name for path in taken.parent.iterdir()) == [UNIT]


@as_root
def test_nobody_hands_in_for_another(classroom: Classroom) -> None:
    classroom.hand_in("ada", "hers", ago=60)
    classroom.hand_in("ada", "forged", owner="bo")
    assert classroom.collect() == {"ada": "hers"}
    assert classroom.collect(owners="accounts") == {"ada": "hers"}, "what was collected stays"
    mixed = classroom.hand_in("cy", "his")
    os.chown(mixed / f"{UNIT}.ipynb", user_id("bo"), -1)
    assert "cy" not in classroom.collect(), "nor puts files into another's folder"


def test_no_link_is_followed(classroom: Classroom, tmp_path: Path) -> None:
    (tmp_path / "solved.ipynb").write_text("the teacher's")
    folder = classroom.hand_in("ada")
    (folder / f"{UNIT}.ipynb").unlink()
    (folder / f"{UNIT}.ipynb").symlink_to(tmp_path / "solved.ipynb")
    (folder / "more").symlink_to(tmp_path)
    os.mkfifo(folder / "waits")
    real = classroom.hand_in("bo", "his")
    (classroom.inbound / f"cy+{UNIT}+{datetime.now(UTC).strftime(TIME)}+x").symlink_to(real)
    assert classroom.collect(owners="any") == {"bo": "his"}
    kept = {path.name for path in (classroom.course / "submitted" / "ada" / UNIT).rglob("*")}
    assert kept == {"timestamp.txt", "submission_secret.txt"}


def test_what_is_no_submission_stops_nobody(classroom: Classroom) -> None:
    for name in ("", "+", "++", "+++"):
        (classroom.inbound / f"x{name}").mkdir()
    for name in ("yesterday+x", "", "2026-13-45 99:99:99 UTC+x", "9" * 200, "2026-01-01 00:00:00.0 NOWHERE+x"):
        (classroom.inbound / f"ada+{UNIT}+{name}").mkdir()
    for name in ("..", "Ada", "a b", "-rf", ""):
        (classroom.inbound / f"{name}+{UNIT}+2099-01-01 00:00:00.0 UTC+x").mkdir()
    (classroom.inbound / f"ada+{UNIT}+2099-01-01 00:00:00.0 UTC+x").write_text("no folder")
    full = classroom.hand_in("cy", ago=-3600)
    for number in range(1001):
        (full / str(number)).touch()
    classroom.hand_in("bo", "his")
    found = classroom.collect(owners="any")
    assert {name: text for name, text in found.items() if text} == {"bo": "his"}
    assert sorted(path.name for path in classroom.course.iterdir()) == ["submitted"]


def test_a_time_that_the_file_system_does_not_know_is_not_believed(classroom: Classroom) -> None:
    classroom.hand_in("ada", ago=86_400)
    classroom.hand_in("bo", ago=30)
    classroom.collect()

    def ago(student: str) -> float:
        text = (classroom.course / "submitted" / student / UNIT / "timestamp.txt").read_text()
        return (datetime.now(UTC) - datetime.strptime(text, TIME).replace(tzinfo=UTC)).total_seconds()

    assert ago("ada") < 60
    assert 30 <= ago("bo") < 100
    classroom.collect(believe_times=True)
    assert ago("ada") > 86_000


def test_feedback_comes_back_to_whom_it_is_about(classroom: Classroom) -> None:
    for student in ("ada", "bo", "cy", "di"):
        classroom.hand_in(student)
    classroom.collect()
    submitted, graded = classroom.course / "submitted", classroom.course / "graded" / UNIT
    graded.mkdir(parents=True)
    for student in ("ada", "bo", "cy", "di"):
        when = (submitted / student / UNIT / "timestamp.txt").read_text()
        (graded / f"{student}.json").write_text(json.dumps({"when": when}))
        page = classroom.course / "feedback" / student / UNIT / f"{UNIT}.html"
        page.parent.mkdir(parents=True)
        page.write_text(f"for {student}")
        page.chmod(0o600)
    (submitted / "ada" / UNIT / "submission_secret.txt").write_text("a" * 128)
    (submitted / "ada" / UNIT / "my copy.ipynb").write_text("{}")
    (submitted / "bo" / UNIT / "submission_secret.txt").unlink()
    (submitted / "cy" / UNIT / "submission_secret.txt").write_text("../../../x")
    (submitted / "di" / UNIT / "timestamp.txt").write_text("later")
    classroom.give_back()
    given = {path.name: path for path in (classroom.place / "exchange" / "dynlib" / "feedback").iterdir()}
    names = {f"{notebook_hash(secret='a' * 128, notebook_id=name)}.html" for name in (UNIT, "my copy")}
    assert set(given) == names
    assert {path.read_text() for path in given.values()} == {"for ada"}
    assert {path.stat().st_mode & 0o777 for path in given.values()} == {0o644}


# Kubernetes


def test_on_a_cluster_the_limits_are_the_same_and_each_has_a_number(tmp_path: Path) -> None:
    values = yaml.safe_load((HUB / "values.yaml").read_text())
    assert (values["singleuser"]["cpu"]["limit"], values["singleuser"]["memory"]["limit"]) == (1, "3G")
    assert values["cull"] == {"enabled": True, "timeout": 3600, "every": 300}
    names: dict[str, Any] = {"c": types.SimpleNamespace(KubeSpawner=types.SimpleNamespace())}
    exec(values["hub"]["extraConfig"]["numbers"], names)
    spawner = types.SimpleNamespace(user=types.SimpleNamespace(name="ada"))
    assert names["c"].KubeSpawner.uid(spawner) == user_id("ada") > 100_000
    assert user_id("ada") != user_id("bo")
    (mount,) = values["singleuser"]["storage"]["extraVolumeMounts"]
    assert mount["mountPath"] == f"{values['singleuser']['extraEnv']['DYNLIB_HUB']}/exchange"


def test_the_image_holds_what_it_needs_and_no_answers() -> None:
    lines = (HUB / "Dockerfile").read_text().split("\n")
    copied = [part for line in lines if line.startswith("COPY") and "--from" not in line for part in line.split()[1:-1]]
    assert all((ROOT / part).exists() for part in copied), copied
    assert not [part for part in copied if part.startswith(("solutions", "tests", "exercises", "."))]
    assert "classroom" not in copied
    assert {"constraints.txt", "pyproject.toml", "dynlib"} <= set(copied)


def test_scripts_and_settings_can_be_read() -> None:
    for script in HUB.glob("*.sh"):
        subprocess.run(["sh", "-n", script], check=True)
    for person, sees in (("student", False), ("teacher", True)):
        off = json.loads((HUB / person / "labconfig" / "page_config.json").read_text())["disabledExtensions"]
        assert [name for name, is_off in off.items() if not is_off] == ["@jupyter/nbgrader:formgrader"] * sees
        told = json.loads((HUB / person / "jupyter_server_config.json").read_text())["ServerApp"]
        assert told["jpserver_extensions"]["nbgrader.server_extensions.formgrader"] is sees
    pins = [line for line in (HUB / "requirements.txt").read_text().split("\n") if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in pins)


def test_without_a_hub_the_class_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hub", str(tmp_path)])
    assert hub.main() == 0
    assert capsys.readouterr().out.startswith("skipped: there is no ")
    assert len(hub.KINDS) == 30
    assert {kind for kind in hub.KINDS if hub.KINDS.count(kind) == 1} >= {"forger", "linked", "backdated"}
