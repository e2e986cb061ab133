"""What can be said of a built site without a browser: its links, what it loads, how large it is."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit


class Page(HTMLParser):
    """The ids of a page, its links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.loads = set[str](), list[str](), list[str]()
        self.pictures_without_words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect from one tag."""
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and "href" in given:
            relation = given.get("rel", "")
            (self.loads if relation in ("stylesheet", "icon", "preload") else self.links).append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])
        if tag == "img" and not given.get("alt", "").strip():
            self.pictures_without_words.append(given.get("src", ""))


def broken(root: Path) -> list[str]:
    """Links and loaded files that lead nowhere within the site, and what would be loaded from elsewhere."""
    root = root.resolve()
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.html"))}
    wrong = []
    for path, page in pages.items():
        here = path.relative_to(root).as_posix()
        for target in page.loads:
            if urlsplit(target).scheme in ("http", "https") or target.startswith("//"):
                wrong.append(f"{here} loads {target}")
        for target in {*page.links, *page.loads}:
            if urlsplit(target).scheme or target.startswith("//"):
                continue
            if target.startswith("/"):
                wrong.append(f"{here}: {target} is not relative")
                continue
            address, fragment = urldefrag(target)
            file = (path.parent / unquote(address.split("?")[0])).resolve() if address else path
            if not file.is_relative_to(root) or not file.is_file():
                wrong.append(f"{here}: {target} leads nowhere")
            elif fragment and file.suffix == ".html" and not fragment.startswith("/"):
                known = pages[file] if address else page
                if unquote(fragment) not in known.ids:
                    wrong.append(f"{here}: {target} has no such place")
    return wrong


def wordless(root: Path) -> list[str]:
    """Pictures without alternative text."""
    return [
        f"{path.relative_to(root).as_posix()}: {picture}"
        for path in sorted(root.rglob("*.html"))
        for picture in Page(path.read_text(encoding="utf-8")).pictures_without_words
    ]


def mib(files: list[Path]) -> float:
    """How large files are together."""
    return sum(file.stat().st_size for file in files) / 2**20


def weight(page: Path) -> float:
    """MiB of a page with all that it names to be loaded: pictures, scripts, styles."""
    loads = [target for target in Page(page.read_text(encoding="utf-8")).loads if not target.startswith("data:")]
    files = {(page.parent / unquote(urldefrag(target)[0].split("?")[0])).resolve() for target in loads}
    return mib([page, *(file for file in files if file.is_file())])
