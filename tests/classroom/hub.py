"""A class on a real hub: students log in, fetch, solve, hand in, and see their feedback; some of them are hostile.

DYNLIB_HUB=FOLDER/hub DYNLIB_TEACHER=$(id -un) sh classroom/hub/install.sh
python -m tests.classroom.hub FOLDER [--students 30] [--at-once 3] [--unit 00_start_here] [--jobs 1] [--browser]

Half-way the hub is killed with kill -9, and started again. As root each student runs under a number of their own, as
on Kubernetes, and the exchange's rules on whose a file is are tried; else all are one, and these rules are not.
"""

import argparse
import contextlib
import csv
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import psutil
import requests
import websocket

from classroom.hub.exchange import user_id
from tests.browser.chromium import BROWSER, FLAGS, Tab
from tests.classroom.hostile import attacks, blank, raw, solved
from tests.graders.harness import answers
from tools.grade import room
from tools.notebooks import ROOT

COURSE = "dynlib"
WAIT = 300  # seconds for a server to start, on a machine that does other things too

CONFIG = """
import os
from jupyterhub.spawner import SimpleLocalProcessSpawner

NUMBERS = {numbers!r}
load_subconfig({config!r})
c = get_config()


class Numbered(SimpleLocalProcessSpawner):
    def make_preexec_fn(self, name):
        enter, number = super().make_preexec_fn(name), NUMBERS[name]
        os.makedirs(self.home_dir, 0o700, exist_ok=True)
        os.chown(self.home_dir, number, number)

        def become():
            enter()
            os.setgroups([])
            os.setgid(number)
            os.setuid(number)

        return become


c.JupyterHub.spawner_class = Numbered if os.geteuid() == 0 else SimpleLocalProcessSpawner
c.SimpleLocalProcessSpawner.home_dir_template = {homes!r} + "/{{username}}"
c.Spawner.environment |= {{"DYNLIB_CHECKOUT": {checkout!r}, "DYNLIB_COURSE": {course!r}}}
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
"""


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Hub:
    """The hub of a folder: started, killed, and started again."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.place = folder, folder / "hub"
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment["DYNLIB_HUB"] = str(self.place)
        self.prefix = f"{self.place}/hub/bin/"
        self.process: subprocess.Popen[bytes] | None = None
        for old in [*(self.place / "state").iterdir(), *(self.place / "exchange").glob("dynlib/*/*")]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        self.homes = Path(tempfile.mkdtemp(prefix="h-"))  # short: the paths of sockets are
        self.homes.chmod(0o755)
        (self.homes / "teacher").mkdir()
        (self.homes / "teacher" / "course").symlink_to(folder / "course")  # the formgrader wants it below its home
        (folder / "students.csv").write_text("student,name\n" + "".join(f"{name},{name.title()}\n" for name in names))
        self.config = folder / "try_config.py"
        self.config.write_text(
            CONFIG.format(
                numbers={name: user_id(name) for name in [*names, "teacher"]},
                config=str(self.place / "config" / "jupyterhub_config.py"),
                homes=str(self.homes),
                checkout=str(ROOT),
                course=str(self.homes / "teacher" / "course"),
                port=self.port,
                hub_port=free_port(),
                api_port=free_port(),
            )
        )
        command = [
            self.place / "hub" / "bin" / "python",
            self.place / "config" / "people.py",
            folder / "students.csv",
            "--no-accounts",
        ]
        subprocess.run(command, env=self.environment, check=True)
        with (self.place / "state" / "first-passwords.csv").open() as file:
            self.passwords = dict(csv.reader(file))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [self.place / "hub" / "bin" / "jupyterhub", "-f", self.config]
        with (self.folder / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.place / "state", env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        until(lambda: requests.get(f"{self.address}/hub/api/", timeout=5).ok, "the hub answers", 60)

    def kill(self) -> None:
        """As if the machine's memory had run out."""
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it, in its own way, with the proxy."""
        assert self.process
        self.process.terminate()
        self.process.wait(60)

    def clean(self) -> None:
        """End what the hub started, and was left when it was killed: known by its folder."""
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error, IndexError):
                ours = one.environ().get("DYNLIB_HUB") == str(self.place) or one.cmdline()[0].startswith(self.prefix)
                if ours and one.pid != os.getpid():
                    one.terminate()
        shutil.rmtree(self.homes)


def until(done: Callable[[], Any], what: str, seconds: float = WAIT) -> Any:
    """Wait for something that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := done():
                return found
        except requests.RequestException:
            pass
        time.sleep(1)
    raise TimeoutError(f"waited {seconds:.0f} s, and it is not so that {what}")


class Student:
    """One student's browser, as far as the hub can tell."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub, self.name = hub, name
        self.at = f"{hub.address}/user/{name}"
        self.session = requests.Session()

    def _xsrf(self, path: str) -> str:
        return next(
            cookie.value or "" for cookie in self.session.cookies if (cookie.name, cookie.path) == ("_xsrf", path)
        )

    def log_in(self, password: str = "") -> bool:
        """Log in; whether that went well."""
        page = f"{self.hub.address}/hub/login"
        self.session.get(page, timeout=60).raise_for_status()
        data = {"username": self.name, "password": password or self.hub.passwords[self.name]}
        sent = self.session.post(page, data=data | {"_xsrf": self._xsrf("/hub/")}, timeout=60, allow_redirects=False)
        return sent.status_code == 302

    def start(self) -> None:
        """Start the server, or find it running."""

        def up() -> bool:
            got = self.session.get(f"{self.at}/lab", timeout=120)  # with it come the cookies of the server
            return got.ok and got.url.startswith(self.at)

        if not up():
            self.session.get(f"{self.hub.address}/hub/spawn/{self.name}", timeout=120)
        until(up, f"the server of {self.name} runs")

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Ask the server."""
        headers = {"X-XSRFToken": self._xsrf(f"/user/{self.name}/")}
        got = self.session.request(method, f"{self.at}/{path}", headers=headers, timeout=120, **options)
        got.raise_for_status()
        return got

    def exchange(self, action: str, unit: str) -> list[dict[str, Any]]:
        """What the Assignment List does: fetch, submit or fetch_feedback; the list afterwards."""
        said = self.call("POST", f"assignments/{action}", json={"course_id": COURSE, "assignment_id": unit}).json()
        if not said["success"]:
            raise RuntimeError(f"{self.name}, {action}: {said['value'][-2000:]}")
        return said["value"]

    def write(self, path: str, content: bytes) -> None:
        """Save a notebook, as JupyterLab does."""
        model = {"type": "notebook", "format": "json", "content": json.loads(content)}
        self.call("PUT", f"api/contents/{path}", json=model)

    def read(self, path: str) -> str:
        """The text of a file."""
        return self.call("GET", f"api/contents/{path}", params={"type": "file", "format": "text"}).json()["content"]

    def run(self, code: str) -> str:
        """Run code in a new kernel; what it printed."""
        kernel = self.call("POST", "api/kernels", json={"name": "python3"}).json()["id"]
        cookies = "; ".join(
            f"{cookie.name}={cookie.value}"
            for cookie in self.session.cookies
            if f"/user/{self.name}/".startswith(cookie.path)
        )
        place = f"{self.at.replace('http', 'ws', 1)}/api/kernels/{kernel}/channels"
        line = websocket.create_connection(place, cookie=cookies, origin=self.hub.address, timeout=120)
        header = {"msg_id": secrets.token_hex(8), "msg_type": "execute_request", "username": "", "session": "s"}
        header |= {"version": "5.3", "date": datetime.now(UTC).isoformat()}
        content = {"code": code, "silent": False}
        line.send(
            json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"})
        )
        said = ""
        while True:
            got = json.loads(line.recv())
            if got["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            if got["msg_type"] == "stream":
                said += got["content"]["text"]
            elif got["msg_type"] == "error":
                said += f"{got['content']['ename']}: {got['content']['evalue']}\n"
            elif got["msg_type"] == "execute_reply":
                break
        line.close()
        self.call("DELETE", f"api/kernels/{kernel}")
        return said

    def started(self) -> str:
        """When the server started."""
        return self.call("GET", "api/status").json()["started"]

    def stop(self) -> None:
        """Stop the server."""
        headers = {"X-XSRFToken": self._xsrf("/hub/")}
        where = f"{self.hub.address}/hub/api/users/{self.name}/server"
        self.session.delete(where, headers=headers, timeout=120).raise_for_status()


class Browser:
    """One student in JupyterLab, in a Chromium, with the mouse."""

    def __init__(self, playwright: Any, hub: Hub, name: str) -> None:
        self.browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        self.tab = Tab(self.browser, hub.address)
        self.page = self.tab.page
        self.page.set_default_timeout(WAIT * 1000)
        self.page.goto(hub.address)
        self.page.fill("#username_input", name)
        self.page.fill("#password_input", hub.passwords[name])
        self.page.click("#login_submit")
        self.page.wait_for_selector("#jp-main-dock-panel")
        self.page.get_by_role("menuitem", name="Nbgrader").click()
        self.page.get_by_text("Assignment List", exact=True).click()

    def hand_in(self, unit: str, notebook: bytes) -> None:
        """Fetch, save the notebook, and hand it in."""
        self.page.locator("#released_assignments_list").get_by_role("button", name="Fetch").click()
        submit = self.page.locator("#fetched_assignments_list").get_by_role("button", name="Submit")
        submit.wait_for()
        model = {"type": "notebook", "format": "json", "content": json.loads(notebook)}
        saved = self.page.evaluate(
            """async ([path, model]) => {
                const base = JSON.parse(document.getElementById("jupyter-config-data").textContent).baseUrl;
                const xsrf = document.cookie.split("; ").find(one => one.startsWith("_xsrf=")).slice(6);
                const options = {method: "PUT", headers: {"X-XSRFToken": xsrf}, body: JSON.stringify(model)};
                return (await fetch(base + "api/contents/" + path, options)).status;
            }""",
            [f"{unit}/{unit}.ipynb", model],
        )
        assert saved == 200, saved
        submit.click()
        self.page.locator("#submitted_assignments_list").get_by_text(unit).first.wait_for()

    def sees(self, unit: str) -> str:
        """Fetch the feedback, and open the page; what stands there."""
        handed = self.page.locator("#submitted_assignments_list")
        handed.get_by_role("button", name="Fetch Feedback").click()
        handed.get_by_text(unit).first.click()
        handed.get_by_text("(view feedback)").click()
        self.page.locator(".jp-DirListing-item", has_text=f"{unit}.html").dblclick()
        page = self.page.frame_locator(".jp-HTMLViewer iframe")
        page.get_by_text("Points:").wait_for()
        return page.locator("body").inner_text()

    def close(self) -> None:
        """Close it."""
        self.tab.close()
        self.browser.close()


# What each does

KINDS = ["right"] * 8 + ["wrong"] * 5 + ["hostile"] * 4 + ["twice"] * 2 + ["late"] * 3
KINDS += ["blank", "never", "forger", "linked", "garbled", "backdated", "curious", "crowded"]
"""How a class of 30 is made up; a larger one has more of the first kinds."""

FORGED = """
import os, shutil
inbound = os.path.join(os.environ["DYNLIB_HUB"], "exchange", "dynlib", "inbound")
def put(name, notebook):
    folder = os.path.join(inbound, name)
    os.makedirs(folder)
    if notebook:
        shutil.copy(notebook, os.path.join(folder, "{unit}.ipynb"))
    os.chmod(folder, 0o777)
    return folder
"""


def does(kind: str, student: Student, unit: str, number: int, secret: Path, victim: str) -> None:
    """Fetch, solve and hand in, as this kind does."""
    path = f"{unit}/{unit}.ipynb"
    student.exchange("fetch", unit)
    given = student.read(path)
    assert raw(nbformat.reads(given, 4)) == raw(blank(unit)), (
        "the notebook that was fetched is the one that was released"
    )
    prelude = FORGED.format(unit=unit)
    if kind == "never":
        return
    if kind == "wrong":
        known = [answer for answer in answers(unit) if not answer.right and "syntax" not in answer.says]
        answer = known[number % len(known)]
        student.write(path, raw(solved(unit, **{answer.task.replace("-", "_"): answer.code})))
    elif kind == "hostile":
        student.write(path, hostile(unit, number).make())
    elif kind == "linked":
        student.run(
            f"{prelude}\nfolder = put('{student.name}+{unit}+2026-01-01 00:00:00.0 UTC+x', None)\n"
            f"os.symlink({str(secret)!r}, os.path.join(folder, '{unit}.ipynb'))"
        )
        return
    elif kind == "backdated":
        student.write(path, raw(solved(unit)))
        student.run(f"{prelude}\nput('{student.name}+{unit}+2026-01-01 00:00:00.0 UTC+x', '{path}')")
        return
    elif kind == "twice":
        student.exchange("submit", unit)
        student.write(path, raw(solved(unit)))
    elif kind != "blank":
        student.write(path, raw(solved(unit)))
    student.exchange("submit", unit)
    if kind == "forger":
        said = student.run(
            f"{prelude}\nblank = os.path.join(inbound, '..', 'outbound', '{unit}', '{unit}.ipynb')\n"
            f"put('{victim}+{unit}+2099-01-01 00:00:00.0 UTC+x', blank)\nprint('forged')"
        )
        assert said == "forged\n", said
    elif kind == "garbled":
        student.run(
            f"{prelude}\nput('{student.name}+{unit}+yesterday+x', None)\nput('{student.name}+{unit}', None)\n"
            f"put('..+{unit}+2099-01-01 00:00:00 UTC+x', None)\nput('+', None)\n"
            f"open(os.path.join(inbound, '+{unit}+'), 'w').close()"
        )
    elif kind == "crowded":
        student.run(
            f"{prelude}\nfolder = put('{student.name}+{unit}+2099-01-01 00:00:00.0 UTC+x', '{path}')\n"
            "for number in range(2000):\n    open(os.path.join(folder, str(number)), 'w').close()"
        )
    elif kind == "curious":
        said = student.run(CURIOUS.format(secret=str(secret)))
        assert said.split() == CURIOUS_SEES or os.geteuid(), f"a student could do what none may: {said}"


CURIOUS = """
import glob, os
def tried(what):
    try:
        return what()
    except OSError:
        return "no"
hub = os.environ["DYNLIB_HUB"]
exchange = os.path.join(hub, "exchange", "dynlib")
others = [home for home in glob.glob(os.path.expanduser("~/../*")) if not home.endswith(os.environ["USER"])]
print(
    tried(lambda: os.listdir(os.path.join(exchange, "inbound"))),
    tried(lambda: os.listdir(os.path.join(exchange, "feedback"))),
    tried(lambda: os.rename(exchange, exchange + "-mine")),
    tried(lambda: os.listdir(os.path.join(hub, "state"))),
    tried(lambda: open({secret!r}).read()),
    tried(lambda: [os.listdir(home) for home in others]),
    tried(lambda: open(os.path.join(hub, "student", "bin", "mine"), "w")),
    tried(lambda: open(os.path.join(exchange, "outbound", "mine"), "w")),
)
import resource
print(resource.getrlimit(resource.RLIMIT_DATA)[1] // 2**30, len(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"])
import torch, dynlib
"""
CURIOUS_SEES = ["no"] * 8 + ["3", "1", "1"]


def hostile(unit: str, number: int) -> Any:
    """One of the attacks that end soon."""
    quick = "the voice passes all", "a failure that is quiet", "os._exit", "everything is equal", "the solutions read"
    found = [case for case in attacks(unit) if case.name.startswith("above") and case.name.endswith(quick)]
    return found[number % len(found)]


def expected(kind: str, row: dict[str, str], most: float) -> str:
    """What is wrong with a grade; nothing if it is as it must be."""
    state, points = row["state"], float(row["points"] or -1)
    late = "late" in row["why"]
    numbered = os.geteuid() == 0
    if kind == "never":
        return "" if state == "missing" else f"must be missing, is {state}"
    if kind == "linked":
        return "" if state == "unread" else f"must not be read, is {state} with {points}"
    if kind == "blank":
        return "" if (state, points) == ("graded", 0) else f"must be an earned 0, is {state} with {points}"
    if kind == "wrong":
        return (
            "" if state == "graded" and 0 < points < most else f"must be part of the points, is {state} with {points}"
        )
    if kind == "hostile":
        return "" if state == "tampered" or points < most else f"must not have all points, is {state} with {points}"
    if kind in ("late", "backdated"):
        fits = (state, points, late) == ("graded", round(0.9 * most, 2), True)
        return "" if fits else f"must be late, and lose a tenth, is {state} with {points}: {row['why']}"
    if kind == "crowded" and not numbered:
        return ""
    return "" if (state, points, late) == ("graded", most, False) else f"must be full, is {state} with {points}"


# The teacher


class Teacher:
    """The commands of README.md, as a teacher gives them."""

    def __init__(self, hub: Hub) -> None:
        self.course = hub.folder / "course"
        self.course.mkdir()
        shutil.copy(hub.folder / "students.csv", self.course)
        self.environment = hub.environment | {
            "PYTHONPATH": str(ROOT),
            "JUPYTER_CONFIG_PATH": str(hub.place / "settings" / "teacher"),
            "DYNLIB_CHECKOUT": str(ROOT),
            "DYNLIB_COURSE": str(self.course),
            "DYNLIB_OWNERS": "ids" if os.geteuid() == 0 else "any",
            "PYTHONWARNINGS": "ignore",
        }

    def nbgrader(self, *words: str) -> str:
        """Run one of its commands; what it said."""
        command = [sys.executable, "-m", "nbgrader", *words]
        done = subprocess.run(command, cwd=self.course, env=self.environment, capture_output=True, text=True)
        print(done.stdout + done.stderr, flush=True)
        assert done.returncode == 0, f"nbgrader {' '.join(words)} went wrong"
        return done.stdout + done.stderr

    def grade(self, unit: str, *more: str) -> None:
        """Grade all."""
        command = [sys.executable, "-m", "tools.grade", str(self.course), unit, *more]
        assert subprocess.run(command, cwd=ROOT, env=self.environment).returncode == 0

    def grades(self, unit: str) -> dict[str, dict[str, str]]:
        """The table of grades, by student."""
        with (self.course / "grades" / f"{unit}.csv").open(encoding="utf-8") as file:
            return {row["student"]: row for row in csv.DictReader(file)}


@contextmanager
def running(hub: Hub) -> Iterator[None]:
    """A block in which the hub runs, and after which nothing of it does."""
    hub.start()
    try:
        yield
    finally:
        hub.stop()


class Trial:
    """A class from the first log-in to the feedback, and all that was amiss on the way."""

    def __init__(self, folder: Path, asked: argparse.Namespace) -> None:
        kinds = [*KINDS, *["right"] * (asked.students - len(KINDS))][: asked.students]
        kinds = asked.kinds.split(",") if asked.kinds else kinds
        self.kinds = {f"student-{at:02}": kind for at, kind in enumerate(kinds)}
        self.asked, self.unit = asked, asked.unit
        self.hub = Hub(folder, list(self.kinds))
        self.teacher = Teacher(self.hub)
        self.secret = folder / "secret" / f"{self.unit}.ipynb"  # what only the teacher may read
        self.secret.parent.mkdir(mode=0o700)
        self.secret.write_bytes(raw(solved(self.unit)))
        self.most = sum(value for _, value in room.points(self.unit).values())
        self.students = {name: Student(self.hub, name) for name in self.kinds}
        self.amiss: list[str] = []

    def check(self, holds: bool, says: str) -> None:
        """Note what does not hold."""
        if not holds:
            print(f"AMISS: {says}", flush=True)
            self.amiss.append(says)

    def each(self, names: Sequence[str], what: Callable[[str], None]) -> None:
        """Do something for some students, a few at a time."""

        def one(name: str) -> None:
            try:
                what(name)
            except Exception as error:
                self.check(False, f"{name}, {self.kinds[name]}: {type(error).__name__}: {str(error)[-1500:]}")

        with ThreadPoolExecutor(self.asked.at_once) as pool:
            list(pool.map(one, names))

    def hand_in(self, name: str) -> None:
        """One student's evening."""
        student, number = self.students[name], list(self.kinds).index(name)
        self.check(student.log_in(), f"{name} could not log in")
        student.start()
        does(self.kinds[name], student, self.unit, number, self.secret, victim=next(iter(self.kinds)))
        student.stop()

    def see_feedback(self, name: str) -> None:
        """The page that comes back says what the table of grades says."""
        student, row = self.students[name], self.teacher.grades(self.unit)[name]
        student.start()
        listed = student.exchange("fetch_feedback", self.unit)
        handed = [one for entry in listed for one in entry.get("submissions", ())]
        page = student.read(f"{max(handed, key=lambda one: one['timestamp'])['local_feedback_path']}/{self.unit}.html")
        total = f"{float(row['points']):g} of {self.most:g}" if row["points"] else "not settled yet"
        self.check(f"Points: <strong>{total}</strong>" in page, f"{name} reads other points than {total}")
        self.check("HIDDEN TESTS" not in page, f"{name} reads a hidden check")
        student.stop()

    def in_browser(self, name: str, what: Callable[[Browser], None]) -> None:
        """One student's evening, or morning, in a browser."""
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            browser = Browser(playwright, self.hub, name)
            try:
                what(browser)
            except Exception as error:
                self.check(False, f"{name}, in a browser: {error}")
            finally:
                browser.page.screenshot(path=self.hub.folder / f"{name}.png")
                self.check(not browser.tab.outside, f"{name}'s page asks elsewhere: {browser.tab.outside}")
                browser.close()

    def restart(self, stays: Sequence[str]) -> None:
        """Kill the hub while students work, and start it again."""
        for name in stays:
            self.students[name].log_in()
            self.students[name].start()
            self.students[name].write("notes.ipynb", raw(nbformat.v4.new_notebook()))
        before = {name: self.students[name].started() for name in stays}
        self.hub.kill()
        began = time.monotonic()
        self.hub.start()
        for name in stays:
            same = until(lambda name=name: self.students[name].started(), f"the server of {name} is there again")
            self.check(same == before[name], f"the server of {name} is another one after the restart")
        print(f"the hub was killed, and back after {time.monotonic() - began:.0f} s; {len(stays)} servers went on")

    def run(self) -> int:
        """All of it; 1 if anything was amiss."""
        began = time.monotonic()
        try:
            with running(self.hub):
                self._class()
        finally:
            self.hub.clean()
        print(f"{len(self.kinds)} students, {time.monotonic() - began:.0f} s, {len(self.amiss)} amiss")
        return 1 if self.amiss else 0

    def _class(self) -> None:
        names = list(self.kinds)
        self.teacher.nbgrader("release_assignment", self.unit)
        self.check(not self.students[names[0]].log_in("a guess of mine"), "a wrong password lets in")
        self.check(not Student(self.hub, "mallory").log_in("a password of mine"), "who is on no list comes in")
        late = [name for name, kind in self.kinds.items() if kind in ("late", "backdated")]
        seen = [name for name, kind in self.kinds.items() if kind == "right"][-2:] if self.asked.browser else []
        on_time = [name for name in names if name not in [*late, *seen]]
        for name in seen:
            self.in_browser(name, lambda browser: browser.hand_in(self.unit, raw(solved(self.unit))))
        half = len(on_time) // 2
        self.each(on_time[:half], self.hand_in)
        self.restart(on_time[: min(2, half)])
        self.each(on_time[half:], self.hand_in)
        due = datetime.now(UTC).isoformat(timespec="seconds")
        (self.teacher.course / "course.toml").write_text(f"[due]\n{self.unit} = {due}\n[late]\noff_per_day = 0.1\n")
        time.sleep(2)
        self.each(late, self.hand_in)
        self.teacher.nbgrader("collect", self.unit)
        again = self.teacher.nbgrader("collect", self.unit)
        self.check("collected:" not in again, "collecting again collects what is there")
        self.teacher.grade(self.unit, f"--jobs={self.asked.jobs}", *(["--trust"] if self.asked.trust else []))
        for name, row in self.teacher.grades(self.unit).items():
            why = expected(self.kinds[name], row, self.most) if name in self.kinds else "nobody has this name"
            self.check(not why, f"{name}, {self.kinds.get(name)}: {why}")
        self.teacher.nbgrader("release_feedback", self.unit)
        self._formgrader()
        without = ("never", "linked", "backdated", "crowded")
        self.each([name for name in names if self.kinds[name] not in without and name not in seen], self.see_feedback)
        for name in seen:
            self.in_browser(name, self._reads)

    def _formgrader(self) -> None:
        """The teacher's JupyterLab has the submissions for marks by hand, and a student's has no such page."""
        for path in [self.teacher.course, *self.teacher.course.rglob("*")] if os.geteuid() == 0 else ():
            os.chown(path, user_id("teacher"), -1)
        teacher, student = Student(self.hub, "teacher"), self.students[next(iter(self.kinds))]
        teacher.log_in()
        teacher.start()
        listed = teacher.call("GET", f"formgrader/api/submissions/{self.unit}").json()
        graded = [
            name for name, row in self.teacher.grades(self.unit).items() if row["state"] in ("graded", "tampered")
        ]
        self.check({one["student"] for one in listed if one["autograded"]} >= set(graded), "the formgrader lacks some")
        teacher.stop()
        student.start()
        refused = student.session.get(f"{student.at}/formgrader/api/submissions/{self.unit}", timeout=60)
        self.check(refused.status_code == 404, "a student has the formgrader")

    def _reads(self, browser: Browser) -> None:
        text = browser.sees(self.unit)
        self.check(f"Points: {self.most:g} of {self.most:g}" in text, f"the page in the browser says {text[:200]!r}")


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.classroom.hub", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--students", type=int, default=30)
    parser.add_argument("--kinds", default="", help=f"in place of a number: {', '.join(dict.fromkeys(KINDS))}")
    parser.add_argument("--at-once", type=int, default=3, help="servers at a time")
    parser.add_argument("--unit", default="00_start_here")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--trust", action="store_true", help="grade without a sandbox")
    parser.add_argument("--browser", action="store_true", help="two of them in a browser")
    asked = parser.parse_args()
    if asked.browser and (BROWSER is None or find_spec("playwright") is None):
        print("skipped, --browser: it needs playwright, and a Chromium on this machine")
        asked.browser = False
    folder = asked.folder.resolve()
    needed = [folder / "hub" / "hub" / "bin" / "jupyterhub"]
    needed += [folder / "hub" / "proxy" / "node_modules" / ".bin" / "configurable-http-proxy"]
    if lacking := [str(path) for path in needed if not path.exists()]:
        print(f"skipped: there is no {lacking[0]}; DYNLIB_HUB={folder / 'hub'} sh classroom/hub/install.sh makes it")
        return 0
    if (folder / "hub" / "students.csv").exists() and not (folder / "try_config.py").exists():
        print(f"{folder / 'hub'} has a class of its own: this one needs a hub that nobody works on")
        return 2
    for name in ("course", "secret"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return Trial(folder, asked).run()


if __name__ == "__main__":
    sys.exit(main())
