"""Which browser the tests take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import chromium

pytest.importorskip("playwright", reason="no playwright here: `make browser` installs it")


def test_without_one_on_the_path_that_of_playwright_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    assert chromium.playwrights_own() is None
    told = subprocess.run([sys.executable, "-c", chromium.OWN], capture_output=True, text=True, check=True)
    meant = Path(told.stdout.strip())
    assert meant.is_relative_to(tmp_path), "a folder that is asked for by name"
    meant.parent.mkdir(parents=True)
    meant.write_text("")
    assert chromium.playwrights_own() == str(meant)


def test_one_on_the_path_is_taken_first(tmp_path: Path) -> None:
    (tmp_path / "chrome").write_text("#!/bin/sh\n")
    (tmp_path / "chrome").chmod(0o755)
    code = "from tests.browser.chromium import BROWSER; print(BROWSER)"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == str(tmp_path / "chrome")
