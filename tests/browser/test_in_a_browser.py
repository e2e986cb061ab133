"""The course as a learner meets it, in JupyterLab in a browser: every lecture to its end, every control moved, an
exercise answered right and wrong.

It takes some minutes, and needs a Chromium on the machine and the extra `browser`: `make browser`.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.browser.chromium import BROWSER, FLAGS, NONE
from tools.notebooks import EXERCISES, ROOT, grade_id, lectures, read, solution, tasks, units

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: `make browser` installs it")

TOKEN = "a-token-for-the-tests"
SECONDS = 300
"""For a lecture on a machine that is busy with other things too."""

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason=NONE),
    pytest.mark.timeout(2 * SECONDS),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a learner opens: JupyterLab writes into it."""
    folder = tmp_path_factory.mktemp("course") / "dynlib"
    for name in ("lectures", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copytree(EXERCISES, folder / "work")
    return folder


@pytest.fixture(scope="module")
def server(course: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab that runs as `make lab` runs it, with settings of its own."""
    own = tmp_path_factory.mktemp("settings")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {f"JUPYTER_{name}_DIR": str(own / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    settings |= {
        "IPYTHONDIR": str(own / "ipython"),
        "HOME": str(own),
        "JUPYTER_CONFIG_PATH": str(ROOT / "tools" / "lab"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={course}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    with (own / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=course, env=os.environ | settings, stdout=log, stderr=log)
        address, start = f"http://127.0.0.1:{port}", time.monotonic()
        try:
            while not _answers(f"{address}/api/status?token={TOKEN}"):
                if process.poll() is not None or time.monotonic() - start > 90:
                    pytest.fail(f"JupyterLab does not answer\n{(own / 'log').read_text()}")
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:  # on a busy machine
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


class Notebook:
    """A notebook that is open in JupyterLab, and nothing else is."""

    def __init__(self, page: Any, path: str) -> None:
        self.page, self.path, self.said = page, path, list[str]()
        page.on("pageerror", self._wrong)
        page.evaluate("path => window.jupyterapp.commands.execute('docmanager:open', {path}).then(() => 1)", path)
        self.wait(f"nb?.context?.path === '{path}' && cells?.length > 0", 90)
        self.wait("nb.sessionContext.kernelDisplayStatus === 'idle'", 120)

    def _wrong(self, error: Any) -> None:
        self.said.append(str(error))

    def js(self, code: str, given: Any = None) -> Any:
        """What JavaScript gives that knows this notebook as ``nb``, its cells as ``cells``, and ``given``."""
        around = (
            "given => { const nb = jupyterapp.shell.currentWidget; const cells = nb?.content?.widgets; return (%s) }"
        )
        return self.page.evaluate(around % code, given)

    def wait(self, condition: str, seconds: float) -> None:
        """Until a condition in JavaScript holds."""
        end = time.monotonic() + seconds
        while not self.js(condition):
            if time.monotonic() > end:
                pytest.fail(f"{self.path}: not within {seconds} s: {condition}")
            time.sleep(0.25)

    def run_all(self) -> None:
        """Choose Run All Cells in the menu, and wait until all of them have run."""
        self.js("jupyterapp.commands.execute('notebook:clear-all-cell-outputs').then(() => 1)")
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_text("Run All Cells", exact=True).click()
        code = "cells.filter(c => c.model.type === 'code' && c.model.sharedModel.source.trim())"
        idle = "nb.sessionContext.kernelDisplayStatus === 'idle'"
        self.wait(f"{idle} && {code}.every(c => c.model.executionCount !== null)", SECONDS)

    def outputs(self) -> dict[str, list[dict[str, Any]]]:
        """The outputs of each cell of code, by its id."""
        code = "cells.filter(c => c.model.type === 'code')"
        return dict(self.js(f"{code}.map(c => [c.model.id, c.model.outputs.toJSON()])"))

    def show(self, name: str) -> Any:
        """Scroll to a cell; its element."""
        at = self.js("cells.findIndex(c => c.model.id === given)", name)
        self.js("nb.content.scrollToItem(given).then(() => 1)", at)
        self.js("(nb.content.activeCellIndex = given, 1)", at)
        cell = self.page.locator(".jp-NotebookPanel .jp-Cell.jp-mod-active")
        cell.wait_for()
        return cell

    def type(self, name: str, text: str) -> None:
        """Click into a cell and type, over what stands there."""
        editor = self.show(name).locator(".cm-content")
        editor.click()
        keys = self.page.keyboard
        for key in ("Control+a", "Delete"):
            keys.press(key)
        for number, line in enumerate(text.splitlines()):
            if number:
                keys.press("Enter")
                keys.press("Shift+Home")  # what the editor indented by itself is typed over
            keys.type(line) if line else keys.press("Delete") if number else None
        written = self.js("nb.content.activeCell.model.sharedModel.source")
        assert [line.rstrip() for line in written.splitlines()] == text.splitlines(), "what was typed stands there"

    def run(self, name: str) -> Any:
        """Run a cell by its key, and wait until it has run; its element."""
        cell = self.show(name)
        before = self.js("nb.content.activeCell.model.executionCount")
        cell.locator(".jp-InputPrompt").click()
        self.page.keyboard.press("Control+Enter")
        ran = f"![null, {before or 0}].includes(nb.content.activeCell.model.executionCount)"
        self.wait(f"{ran} && nb.sessionContext.kernelDisplayStatus === 'idle'", 60)
        return cell

    def answer(self, name: str, text: str) -> tuple[list[dict[str, Any]], str]:
        """Type an answer, run it and the check of its task; what the check gives, and what a reader sees of it."""
        check = name.replace("-answer", "-check")
        self.type(name, text)
        self.run(name)
        cell = self.run(check)
        return self.outputs()[check], cell.locator(".jp-OutputArea").inner_text()

    def close(self) -> None:
        """Stop its kernel, since the next one wants the memory, and close it; nothing that went wrong is forgotten."""
        self.js("nb.sessionContext.shutdown().then(() => { nb.context.model.dirty = false; nb.close(); return 1; })")
        self.wait("nb?.context === undefined", 30)
        self.page.remove_listener("pageerror", self._wrong)
        assert self.said == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def tabs(browser: Any) -> Iterator[list[Any]]:
    """The tab with JupyterLab, if one is open: it takes seconds to load, so that one serves all notebooks."""
    found = list[Any]()
    yield found
    for tab in found:
        tab.close()


@pytest.fixture
def page(tabs: list[Any], browser: Any, server: str) -> Iterator[Any]:
    """JupyterLab with no notebook open; after a test that did not close its own, the next one gets another tab."""
    if not tabs:
        tab = browser.new_page(viewport={"width": 1400, "height": 1000})
        tab.set_default_timeout(1000 * SECONDS)
        tabs.append(tab)
        tab.goto(f"{server}/lab/workspaces/test?token={TOKEN}&reset")
        tab.wait_for_function("window.jupyterapp?.shell && document.querySelector('.jp-DirListing-item')")
        tab.evaluate("window.jupyterapp.restored.then(() => 1)")
    (tab,) = tabs
    yield tab
    if tab.locator(".jp-NotebookPanel").count():
        tab.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll().then(() => 1)")
        tab.close()
        tabs.clear()


CONTROL = ".jp-OutputArea-output :is(.noUi-handle, .widget-dropdown select, .widget-checkbox input, .widget-button)"


def choose(control: Any) -> None:
    """Another line of a list. Opened, it is the system's own; closed, JupyterLab takes the arrow keys for its cells."""
    options = control.evaluate("e => [...e.options].map(o => o.selected)")
    control.select_option(index=(options.index(True) + 1) % len(options))


def by_keys(control: Any) -> None:
    """Move it as a learner would who has no mouse."""
    if control.evaluate("e => e.tagName") == "SELECT":
        choose(control)
    elif "noUi-handle" not in (control.get_attribute("class") or ""):
        control.focus()
        control.press("Space")
    else:
        before = control.get_attribute("aria-valuenow")
        control.focus()
        for key in ("ArrowRight", "ArrowLeft"):
            control.press(key)
            if control.get_attribute("aria-valuenow") != before:
                break


def by_mouse(control: Any) -> None:
    """Move it as a learner would who has one."""
    if control.evaluate("e => e.tagName") == "SELECT":
        choose(control)
    elif "noUi-handle" not in (control.get_attribute("class") or ""):
        control.click()
    else:
        control.scroll_into_view_if_needed()
        handle = control.bounding_box()
        track = control.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]").bounding_box()
        here, height = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        there = track["x"] + track["width"] * (0.2 if here > track["x"] + track["width"] / 2 else 0.8)
        mouse = control.page.mouse
        mouse.move(here, height)
        mouse.down()
        mouse.move((here + there) / 2, height)
        mouse.move(there, height)
        mouse.up()


def seen(cell: Any) -> str:
    """What an output shows: its words and its pictures."""
    area = ".jp-OutputArea-output"
    return cell.evaluate(
        f"e => [...e.querySelectorAll('{area}')].map(o => o.innerText + [...o.querySelectorAll('img')].map(i => i.src))"
        ".join()"
    )


@pytest.mark.parametrize("name", [path.stem for path in lectures()])
def test_a_lecture_runs_to_its_end_and_all_its_controls_move_something(name: str, page: Any) -> None:
    notebook = Notebook(page, f"lectures/{name}.ipynb")
    notebook.run_all()
    meant = {cell.id for cell in read(ROOT / "lectures" / f"{name}.ipynb").cells if "raises-exception" in _tags(cell)}
    outputs = notebook.outputs()
    wrong = [
        f"{cell}: {output.get('ename') or output.get('text')}"
        for cell, found in outputs.items()
        for output in found
        if cell not in meant and (output["output_type"] == "error" or output.get("name") == "stderr")
    ]
    assert wrong == []
    source = read(ROOT / "lectures" / f"{name}.ipynb").cells
    with_controls = [cell.id for cell in source if cell.cell_type == "code" and "interact(" in cell.source]
    for cell in with_controls:  # a bar of progress is a widget, too, and has none
        element = notebook.show(cell)
        element.locator(CONTROL).first.wait_for(timeout=30_000)
        for number in range(element.locator(CONTROL).count()):
            for move in (by_keys, by_mouse):
                before = seen(element)
                move(element.locator(CONTROL).nth(number))
                end = time.monotonic() + 60
                while seen(element) == before:
                    assert time.monotonic() < end, f"{cell}: control {number + 1} moves nothing ({move.__name__})"
                    time.sleep(0.1)
                notebook.wait("nb.sessionContext.kernelDisplayStatus === 'idle'", 60)
        notebook.wait("nb.sessionContext.kernelDisplayStatus === 'idle'", 60)
        assert not re.search(r"Traceback|Error\b", seen(element)), f"{cell}: an error after moving"
    assert with_controls or "widgets." not in "".join(cell.source for cell in source if cell.cell_type == "code")
    notebook.close()


def _tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


@pytest.mark.parametrize("unit", units())
def test_a_hand_out_runs_to_its_end_and_each_check_says_what_is_not_filled_in(unit: str, page: Any) -> None:
    notebook = Notebook(page, f"work/{unit}/{unit}.ipynb")
    label = page.locator("#jp-main-dock-panel .lm-TabBar-tab.lm-mod-current .lm-TabBar-tabLabel")
    mark = label.evaluate("e => getComputedStyle(e, '::before').content")
    assert mark == '"✎ "', "its tab tells it from the lecture's"
    notebook.run_all()
    outputs = notebook.outputs()
    for task in tasks(read(solution(unit))):
        (error,) = [output for output in outputs[f"{task}-check"] if output["output_type"] == "error"]
        assert error["ename"] == "Unfilled", "each check was reached"
        assert "not filled in yet" in error["evalue"]
    notebook.close()


UNIT = units()[0]


def test_an_answer_typed_right_or_wrong_gets_a_sentence_and_no_traceback(page: Any) -> None:
    notebook = Notebook(page, f"work/{UNIT}/{UNIT}.ipynb")
    notebook.run_all()
    answers = {grade_id(cell): cell.source for cell in read(solution(UNIT)).cells if grade_id(cell).endswith("-answer")}
    name, right = next(iter(answers.items()))
    unindented = re.sub(r"^ +", "", right, flags=re.MULTILINE)
    for text, kind in ((unindented, "error"), (re.sub(r"return .*", "return None", right), "error"), (right, "stream")):
        (given,), seen_by_reader = notebook.answer(name, text)
        assert given["output_type"] == kind, given
        said = given["text"] if kind == "stream" else "".join(given["traceback"])
        assert ("passed" in said) == (kind == "stream")
        assert "Traceback" not in said, "a few lines, no frames"
        assert "Traceback" not in seen_by_reader
        first = (given["text"] if kind == "stream" else given["evalue"]).strip().splitlines()[0]
        assert " ".join(first.split()) in " ".join(seen_by_reader.split()), "its sentence stands below the check"
    notebook.close()
