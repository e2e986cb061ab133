"""The Chromium of this machine, for every test that needs a browser."""

import functools
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

OWN = "from playwright.sync_api import sync_playwright as play\nwith play() as p: print(p.chromium.executable_path)"


def playwrights_own() -> str | None:
    """The Chromium that playwright brought for itself (`make chromium`); none without playwright."""
    told = subprocess.run([sys.executable, "-c", OWN], capture_output=True, text=True, timeout=60, check=False)
    path = Path(told.stdout.strip() or "none")
    return str(path) if path.is_file() else None


BROWSER = next(filter(None, map(shutil.which, NAMES)), None) or playwrights_own()
QUIET = "--disable-background-networking --disable-component-update --disable-gpu --disable-quic --disable-sync"
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # no name leads out of this machine
FLAGS = ["--no-sandbox", "--no-first-run", "--disable-dev-shm-usage", ALONE, *QUIET.split()]
NONE = f"no browser here: one of {', '.join(NAMES)} on the PATH would do, or that of `make chromium`"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def end_headers(self) -> None:
        """What all pages share is asked for once."""
        if "/_static/" in self.path:
            self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder as a site of this machine; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Tab:
    """A tab that is to load from one address alone; what it asked for elsewhere, in vain, and what went wrong."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page, self.outside, self.wrong = self.context.new_page(), list[str](), list[str]()
        self.page.set_default_timeout(60_000)

        def asked(request: Any) -> None:
            if not request.url.startswith((address, "data:", "blob:", "about:")):
                self.outside.append(request.url)

        self.page.on("request", asked)  # to route each would switch the cache off
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on(
            "response", lambda got: self.wrong.append(f"{got.status} {got.url}") if got.status >= 400 else None
        )

    def mib(self) -> float:
        """What the page that is open has loaded so far, itself with all its files, as they lie on the server."""
        kinds = "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
        return self.page.evaluate(f"{kinds}.reduce((sum, one) => sum + one.encodedBodySize, 0)") / 2**20

    def close(self) -> None:
        """Close it with all that it holds."""
        self.context.close()
