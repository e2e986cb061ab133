"""Build the course as a site, in ``build/site``: lectures with their stored outputs, hand-outs, decks, the API.

Nothing is run, and nothing is fetched but the scripts of ``tools.assets``, once. What the pages say is taken from where
it stands: the lectures, the exercises, README.md, CHANGELOG.md, benchmarks/RESULTS.md, the docstrings.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from importlib.metadata import version
from os.path import normpath
from pathlib import Path
from string import Template

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output
from PIL import Image

from tools import frames, slides
from tools.assets import asset
from tools.lectures import FRAMES
from tools.notebooks import EXERCISES, LECTURES, ROOT, lectures, read
from tools.pictures import light

WEB = ROOT / "web"
BUILT = ROOT / "build" / "site"
SOURCE = ROOT / "build" / "site-source"
DOCTREES = SOURCE / "_doctrees"
LOCK = ROOT / "build" / "site.lock"
STAMP = ROOT / "build" / "site.stamp"

PARTS = {
    "choose": ("choice", "depth", "tokens", "width", "edge", "kernels"),
    "steer and count": ("deciding", "cost", "mechanisms"),
    "stand on": ("backbone", "pretrained", "data", "zoo", "training"),
    "show": ("plotting", "page", "checks"),
}
"""The pages of the API."""


# Texts that stand elsewhere.


def section(text: str, heading: str) -> str:
    """What stands below a heading of the second level, without it.

    Raises:
        ValueError: if there is no such heading.
    """
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"there is no heading {heading!r}")
    return found[1].strip()


def to_pages(text: str, up: str = "", at: str = ".") -> str:
    """Markdown with its links led to pages of the site; ``up`` leads to the site's top, ``at`` is where its file lies.

    A link to a file that is no page becomes plain text.
    """
    pages = {
        "benchmarks": "benchmarks.md",
        "benchmarks/RESULTS.md": "benchmarks.md",
        "dynlib/zoo/README.md": "zoo.md",
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
        "classroom/README.md": "grading.md",
        "classroom/hub/README.md": "hub.md",
        "README.md": "index.md",
    }

    def led(link: re.Match[str]) -> str:
        words, target = link[1], link[2]
        if re.match(r"https?:|#|\w+\.ipynb$", target):
            return link[0]
        exercise = re.fullmatch(r"(?:\.\./)?(?:exercises|work)/(\w+)/\1\.ipynb", target)
        if exercise:
            return f"[{words}]({up}exercises/{exercise[1]}.ipynb)"
        if re.fullmatch(r"lectures/\w+\.ipynb", target):
            return f"[{words}]({up}{target})"
        file, anchor = re.fullmatch(r"([^#]*)(#.*)?", target).groups()
        page = pages.get(normpath(f"{at}/{file}"))
        return f"[{words}]({up}{page}{anchor or ''})" if page else words

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", led, text)


def rows_of(text: str) -> list[list[str]]:
    """The rows of the first table in Markdown, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def units_of(readme: str) -> dict[str, dict[str, str]]:
    """What README's table says of each unit: its paper, minutes and what runs."""
    found = {}
    for name, _, _, paper, minutes, runs in rows_of(section(readme, "The units")):
        found[name.replace(" ", "_")] = {"paper": paper, "minutes": minutes, "runs": runs}
    return found


def title_of(notebook: NotebookNode) -> str:
    """The heading of a notebook."""
    return re.search(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE)[1]


# The pages.


CONTROL = "*Here stands a control, when you run the page in Jupyter.*"
DRAWN = "_static/frames"


def lecture_page(name: str, decks: bool) -> NotebookNode:
    """A lecture with links that lead to pages, its pictures with their words, and what one can do with it."""
    notebook = read(LECTURES / f"{name}.ipynb")
    controls = frames.kept(notebook, name, FRAMES)
    twins = {control.twin for control in controls.values()}
    for cell in notebook.cells:
        if cell.id in controls:
            moved = frames.as_html(controls[cell.id], cell.id, f"../{DRAWN}/{name}")
            cell.outputs = [new_output("display_data", {"text/html": moved})]
        elif cell.id in twins:
            cell.outputs = []
        if cell.cell_type == "markdown":
            cell.source = to_pages(cell.source, "../")
        for output in cell.get("outputs", []):
            said = output.get("metadata", {}).get("image/png", {}).get("alt")
            if said:
                cell.metadata["mystnb"] = {"image": {"alt": " ".join(said.split())}}
            text = output.get("data", {}).get("text/plain", "")
            if text.startswith("(a control"):
                output.data = NotebookNode({"text/markdown": CONTROL})
    links = [f'<a href="../files/{name}-lecture.ipynb" download>Download the notebook</a>']
    if (EXERCISES / name).exists():
        links.insert(0, f'<a href="../exercises/{name}.html">The exercise</a>')
    if decks and any(map(slides.tagged, notebook.cells)):
        links.append(f'<a href="../slides/{name}.html">Slides</a>')
    notebook.cells.insert(1, _plain(f'<p class="do">{" ".join(links)}</p>', "site-links"))
    return notebook


def exercise_page(name: str) -> NotebookNode:
    """A hand-out, with its download."""
    notebook = read(EXERCISES / name / f"{name}.ipynb")
    links = [f'<a href="../files/{name}.zip" download>Download the notebook and its checks</a>']
    if (LECTURES / f"{name}.ipynb").exists():
        links.append(f'<a href="../lectures/{name}.html">The lecture</a>')
    says = "It needs the course's environment: in a checkout, `make lab` puts your copy into `work/`."
    notebook.cells.insert(1, _plain(f'<p class="do">{" ".join(links)}</p>\n\n{says}', "site-links"))
    notebook.cells[0].source = re.sub(r"\A# (?=\d)", "# Exercise ", notebook.cells[0].source)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(\.\./\.\./lectures/(\w+\.ipynb)\)", r"](../lectures/\1)", cell.source)
    return notebook


def _plain(source: str, name: str) -> NotebookNode:
    cell = new_markdown_cell(source)
    cell["id"] = name
    return cell


KINDS = {
    "layers": "Layers",
    "tokens": "Tokens",
    "width": "Width",
    "path": "Paths and choices",
    "network": "What crosses a network",
    "all": "All of these",
}


def field_map(titles: dict[str, str]) -> str:
    """The map of the field, from the table of the first lecture: units by what they decide."""
    table = next(
        "".join(output.data["text/markdown"])
        for cell in read(LECTURES / "00_start_here.ipynb").cells
        if cell.id == "field"
        for output in cell.outputs
    )
    groups: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for unit, what, when, who, holds in rows_of(table):
        name = re.search(r"\d\d_\w+", unit)[0]
        kind = "path" if re.match("a (branch|path)", what) else re.match(r"\w+", what)[0]
        if kind in groups and name in titles:
            asked = what.split(": ", 1)[-1]
            groups[kind].append(
                f'<li><a href="lectures/{name}.html">{escape(titles[name].split(":")[0])}</a>'
                f"<span>{escape(asked)}; {escape(when)}; {escape(who)}</span>"
                f'<span class="holds">{escape(holds)}</span></li>'
            )
    parts = [
        f"<section><h3>{KINDS[kind]}</h3><ul>{''.join(found)}</ul></section>" for kind, found in groups.items() if found
    ]
    return f'<div class="map">{"".join(parts)}</div>'


def home(readme: str, titles: dict[str, str], decks: bool) -> str:
    """The first page."""
    units = units_of(readme)
    picture = next(cell for cell in read(LECTURES / "00_start_here.ipynb").cells if cell.id == "slider-twin")
    alt = " ".join(picture.outputs[0].metadata["image/png"]["alt"].split())
    lead = re.search(r"^# .*?\n\n(.+?)\n\n", readme, re.DOTALL)[1]
    caption = re.search(r"^\*(.+)\*$", readme, re.MULTILINE)[1]
    cards = []
    for name, title in titles.items():
        told = units.get(name, {})
        links = [f'<a href="lectures/{name}.html">Read</a>']
        if (EXERCISES / name).exists():
            links.append(f'<a href="exercises/{name}.html">Exercise</a>')
        if decks and any(map(slides.tagged, read(LECTURES / f"{name}.ipynb").cells)):
            links.append(f'<a href="slides/{name}.html">Slides</a>')
        paper = re.search(r"\[(.+?)\]\((.+?)\)", told.get("paper", ""))
        if paper:
            links.append(f'<a href="{escape(paper[2])}">Paper</a>')
        minutes = f"<small>{escape(told['minutes'])} minutes</small>" if told.get("minutes") else ""
        cards.append(
            f"<li><b>{escape(title)}</b><span>{escape(told.get('runs', ''))}</span>"
            f'<span class="links">{" ".join(links)} {minutes}</span></li>'
        )
    commands = re.search(r"^```sh\n.*?^```", readme, re.MULTILINE | re.DOTALL)[0]
    needs = re.search(r"^You need .*$", readme, re.MULTILINE)[0]
    first = next(iter(titles))
    said = {
        "lead": lead,
        "alt": escape(alt),
        "caption": caption,
        "first": first,
        "commands": commands,
        "needs": to_pages(needs),
        "units": f'<ul class="units">{"".join(cards)}</ul>',
        "map": field_map(titles),
        "lists": toctree({f"lectures/{name}": short(title) for name, title in titles.items()}, "Lectures")
        + toctree(AROUND, "Around it"),
    }
    return _filled("home", said)


AROUND = {
    "exercises": "Exercises",
    "teachers": "For teachers",
    "grading": "From nothing to grades",
    "hub": "A hub for the class",
    "engineers": "For engineers: the API",
    "benchmarks": "Cost and time",
    "zoo": "Trained backbones",
    "ways": "Other ways in",
    "contributing": "Adding a unit",
    "changelog": "Changelog",
    "licence": "Licence",
}


def _filled(name: str, said: dict[str, str]) -> str:
    return Template((WEB / f"{name}.md").read_text(encoding="utf-8")).substitute(said)


def handouts(titles: dict[str, str]) -> str:
    """The list of the hand-outs."""
    lines, pages = [], {}
    for name in (folder.name for folder in exercises()):
        points = re.search(r"\b(\d+) points\b", read(EXERCISES / name / f"{name}.ipynb").cells[0].source)
        told = f", {points[1]} points" if points else ""
        title = pages[f"exercises/{name}"] = short(titles.get(name, name))
        archive = f'<a href="files/{name}.zip" aria-label="Download {escape(title)}" download>download</a>'
        lines.append(f"- [{title}](exercises/{name}.ipynb){told}, {archive}")
    return _filled("exercises", {"exercises": "\n".join(lines), "lists": toctree(pages)})


def exercises() -> list[Path]:
    """The folders of the hand-outs."""
    return sorted(folder for folder in EXERCISES.iterdir() if (folder / f"{folder.name}.ipynb").exists())


def short(title: str) -> str:
    """A title for a list: what stands before the colon."""
    return title.split(":")[0]


def toctree(pages: dict[str, str], caption: str = "") -> str:
    """A part of the list at the side."""
    lines = "\n".join(f"{title} <{page}>" for page, title in pages.items())
    named = f":caption: {caption}\n" if caption else ""
    return f"```{{toctree}}\n:hidden:\n{named}\n{lines}\n```\n"


def engineers(readme: str) -> dict[str, str]:
    """The page for engineers and the pages of the API."""
    every = [part for parts in PARTS.values() for part in parts]
    pages = {f"api/{part}.md": API.format(part=part) for part in every}
    lines = [
        f"- To {name}: {', '.join(f'[dynlib.{part}](api/{part}.md)' for part in parts)}"
        for name, parts in PARTS.items()
    ]
    said = {
        "readme": to_pages(section(readme, "For an engineer")),
        "parts": "\n".join(lines),
        "lists": toctree({f"api/{part}": f"dynlib.{part}" for part in every}),
    }
    return pages | {"engineers.md": _filled("engineers", said)}


API = """# dynlib.{part}

```{{eval-rst}}
.. automodule:: dynlib.{part}
   :members:
   :undoc-members:
```
"""


OTHERS = (
    'Formulas are set by MathJax (<a href="_static/mathjax/LICENSE">Apache License 2.0</a>), decks are shown by '
    "reveal.js (MIT License, beside the decks). The pages are made with Sphinx, MyST-NB and the Sphinx Book Theme."
)
"""Whose work these pages hold besides."""


def lay(decks: bool) -> None:
    """Lay out what Sphinx reads; a file that says the same as before is left as it is, so that its page is, too."""
    readme, contributing, changelog = (
        (ROOT / f"{name}.md").read_text(encoding="utf-8") for name in ("README", "CONTRIBUTING", "CHANGELOG")
    )
    grading, hub = ((ROOT / "classroom" / f"{name}README.md").read_text(encoding="utf-8") for name in ("", "hub/"))
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    titles = {path.stem: title_of(read(path)) for path in lectures()}
    pages: dict[str, str | bytes | NotebookNode] = {
        file.relative_to(WEB).as_posix(): file.read_bytes()
        for file in WEB.rglob("*")
        if file.is_file() and (file.name == "conf.py" or "_static" in file.parts)
    }
    mathjax = asset("mathjax")
    for file in [mathjax / "LICENSE", *(mathjax / "es5").rglob("*")]:
        if file.is_file():
            name = file.relative_to(file.parent if file.name == "LICENSE" else mathjax / "es5").as_posix()
            pages[f"_static/mathjax/{name}"] = file.read_bytes()
    for file in FRAMES.rglob("*.webp"):
        pages[f"{DRAWN}/{file.relative_to(FRAMES).as_posix()}"] = file.read_bytes()
    pages |= {f"lectures/{name}.ipynb": lecture_page(name, decks) for name in titles}
    pages |= {f"exercises/{folder.name}.ipynb": exercise_page(folder.name) for folder in exercises()}
    pages |= {
        "slider-twin.png": (LECTURES / "pictures" / "slider-twin.png").read_bytes(),
        "index.md": home(readme, titles, decks),
        "exercises.md": handouts(titles),
        "teachers.md": f"# For teachers\n\n{to_pages(section(readme, 'For a teacher'))}\n",
        "grading.md": to_pages(grading, at="classroom"),
        "hub.md": to_pages(hub, at="classroom/hub"),
        "licence.md": f"# Licence\n\n{to_pages(section(readme, 'Licence'))}\n\n{OTHERS}\n",
        "ways.md": f"# Other ways in\n\n{to_pages(section(readme, 'Other ways in'))}\n",
        "benchmarks.md": sortable(results),
        "contributing.md": to_pages(contributing),
        "changelog.md": to_pages(changelog),
        "zoo.md": to_pages((ROOT / "dynlib" / "zoo" / "README.md").read_text(encoding="utf-8")),
        **engineers(readme),
    }
    for name, said in pages.items():
        if isinstance(said, NotebookNode):
            said = nbformat.writes(said)
        content = said.encode() if isinstance(said, str) else said
        file = SOURCE / name
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    for file in SOURCE.rglob("*"):
        if file.is_file() and file.relative_to(SOURCE).as_posix() not in pages and DOCTREES not in file.parents:
            file.unlink()


def sortable(results: str) -> str:
    """The table of the benchmarks in a page as wide as the window, its columns to be sorted."""
    before, table, after = re.split(r"\n\n(?=\| )|(?<= \|)\n\n(?=[^|])", results, maxsplit=2)
    wide = "---\nhtml_theme.sidebar_secondary.remove: true\n---\n"
    return f'{wide}{before}\n\n<div class="sortable">\n\n{table}\n\n</div>\n\n{after}'


def clear() -> None:
    """Take away pages whose source is gone."""
    kept = {"genindex", "search", "py-modindex"}
    for page in BUILT.rglob("*.html"):
        name = page.relative_to(BUILT).with_suffix("").as_posix()
        source = [SOURCE / f"{name}{kind}" for kind in (".md", ".ipynb")]
        if name not in kept and not name.startswith(("_modules/", "slides/")) and not any(map(Path.exists, source)):
            page.unlink()


# The theme draws its icons by a script of 1.6 MB or a font of 0.1 MB; a page has eleven, which site.css draws. And its
# search is needed on one page alone.
ICONS = re.compile(r"\s*<(?:script|link)\b[^>]*fontawesome[^>]*>(?:</script>)?")
ICON_FONTS = re.compile(r"@font-face\{[^}]*fontawesome[^}]*\}")
SEARCH = re.compile(r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"[^>]*></script>')

# What readers who listen to a page would miss: names that differ from what is written, or are not there, and lists that
# are none.
SPOKEN = (
    (re.compile(r' aria-label="Toggle hidden content"'), ""),
    (re.compile(r'(<button[^>]*search-button-field[^>]*) aria-label="Search"'), r"\1"),
    (re.compile(r'<summary>(?=<span class="toctree-toggle")'), '<summary aria-label="Pages below">'),
    (
        re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*?</dd>\n?)+)</dl>', re.DOTALL),
        lambda found: '<div class="sig-lines">' + re.sub(r"(</?)dd>", r"\1div>", found[1]) + "</div>",
    ),
    # the list of all modules holds lists beside its items, not in them
    (re.compile(r"</li>\s*</?ul>(?=\s*<li><a href=\"dynlib)"), "</li>"),
    (re.compile(r"</ul>\s*</ul>(?=\s*</article>)"), "</ul>"),
)


def lighten() -> None:
    """Take off the pages what they do not need, and set their pictures in fewer bytes, each dot as it was."""
    smaller = {}
    for picture in (BUILT / "_images").glob("*.png"):
        lighter = picture.with_suffix(".webp")
        if not lighter.exists():  # its name is the digest of what it shows
            with Image.open(picture) as drawn:
                lighter.write_bytes(light(drawn))
        if lighter.stat().st_size < picture.stat().st_size:
            smaller[picture.name] = lighter.name
            picture.unlink()
    words, shown = set(), set()
    for page in BUILT.rglob("*.html"):
        text = ICONS.sub("", page.read_text(encoding="utf-8"))
        text = text if page.name == "search.html" else SEARCH.sub("", text)
        for heard, better in SPOKEN:
            text = heard.sub(better, text)
        text = re.sub(r"(?<=_images/)[\w.-]+\.png", lambda found: smaller.get(found[0], found[0]), text)
        words |= {word for named in re.findall(r'class="([^"]*)"', text) for word in named.split()}
        shown |= set(re.findall(r"(?<=_images/)[\w.-]+", text))
        page.write_text(text, encoding="utf-8")
    for picture in (BUILT / "_images").iterdir():
        if picture.name not in shown:
            picture.unlink()
    static = BUILT / "_static"
    shutil.rmtree(static / "vendor", ignore_errors=True)
    for unused in [*BUILT.rglob("*.map"), *(static / "scripts").glob("fontawesome*")]:
        unused.unlink(missing_ok=True)
    for script in [*static.glob("*.js"), *(static / "scripts").glob("*.js")]:
        words |= set(re.findall(r"[\w-]+", script.read_text(encoding="utf-8")))
    for sheet in [*static.glob("*.css"), *(static / "styles").glob("*.css")]:
        sheet.write_text(needed(ICON_FONTS.sub("", sheet.read_text(encoding="utf-8")), words), encoding="utf-8")


CSS = re.compile(r"""/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{};]|[^{};"'/]+|/""", re.DOTALL)
GROUPS = ("@media", "@supports", "@layer", "@container")
CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")


def needed(sheet: str, words: set[str]) -> str:
    """A style sheet without the rules for classes that neither a page nor a script names; comments of licences stay."""
    tokens = iter(CSS.findall(sheet))

    def whole() -> str:
        # what stands up to the brace that closes the one just read
        found, depth = [], 1
        for token in tokens:
            depth += (token == "{") - (token == "}")
            if not depth:
                break
            found.append(token)
        return "".join(found)

    def rules() -> str:
        kept, head = [], ""
        for token in tokens:
            if token == "}":
                break
            if token.startswith("/*"):
                kept += [token] if token.startswith("/*!") else []
            elif token == ";":
                kept.append(f"{head};")
                head = ""
            elif token == "{":
                if head.strip().startswith(GROUPS):
                    head, inside = head.strip(), rules()
                elif head.strip().startswith("@"):
                    inside = whole()
                else:
                    head, inside = ",".join(one for one in _selectors(head) if _needed(one, words)), whole()
                kept += [f"{head}{{{inside}}}"] if head and inside.strip() else []
                head = ""
            else:
                head += token
        return "".join(kept)

    return rules()


def _selectors(head: str) -> list[str]:
    # split at the commas that stand in no parenthesis
    parts, depth = [""], 0
    for letter in head:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _needed(selector: str, words: set[str]) -> bool:
    plain, before = re.sub(r"\[[^\]]*\]", "", selector), ""
    while plain != before:  # of what stands in parentheses, :not(…), one of several may do
        before, plain = plain, re.sub(r"\([^()]*\)", "", plain)
    return all(name in words for name in CLASS.findall(plain))


def downloads() -> None:
    """The notebooks as files, and each hand-out with its checks in one archive."""
    files = BUILT / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    for path in lectures():
        shutil.copy(path, files / f"{path.stem}-lecture.ipynb")
    for folder in exercises():
        with zipfile.ZipFile(files / f"{folder.name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                if file.suffix in {".ipynb", ".py"}:
                    stamped = zipfile.ZipInfo(f"{folder.name}/{file.name}", (2020, 1, 1, 0, 0, 0))
                    stamped.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(stamped, file.read_bytes())


def build(decks: bool = True) -> None:
    """The whole site; pages whose source did not change are kept from the last time."""
    lay(decks)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", "-d", str(DOCTREES)]
    shutil.rmtree(BUILT / "_static", ignore_errors=True)
    done = subprocess.run([*command, str(SOURCE), str(BUILT)], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit("The site is not as it should be: see the warnings above.")
    clear()
    lighten()
    downloads()
    shutil.rmtree(BUILT / "slides", ignore_errors=True)
    if decks:
        slides.build(folder=BUILT / "slides")
    (BUILT / ".nojekyll").touch()  # GitHub Pages would leave out folders that begin with _


# One builds, the others wait: while Sphinx writes, the folder holds half a site, in colours that the theme mends last.


def digest() -> str:
    """Of all that the site is made of: the texts, the notebooks, the package, these tools and what draws the pages."""
    parts = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")]
    for folder in (WEB, LECTURES, EXERCISES, ROOT / "dynlib", ROOT / "tools"):
        parts += [file for file in folder.rglob("*") if file.is_file()]
    made = hashlib.sha256()
    for name in ("sphinx", "myst-nb", "sphinx-book-theme", "pydata-sphinx-theme", "Pygments"):
        made.update(f"{name} {version(name)}\n".encode())
    for file in sorted(parts):
        inside = file.relative_to(ROOT)
        if not any(part.startswith((".", "__pycache__")) for part in inside.parts):
            made.update(f"{inside.as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return made.hexdigest()


def stands(made_of: str) -> bool:
    """Whether the site is there, whole, and made of just this."""
    return STAMP.exists() and STAMP.read_text(encoding="utf-8") == made_of


def rebuild(decks: bool = True) -> None:
    """Build, and note of what; the caller holds the lock."""
    STAMP.unlink(missing_ok=True)
    made_of = digest()
    build(decks)
    if decks:
        STAMP.write_text(made_of, encoding="utf-8")


@contextmanager
def locked(alone: bool) -> Iterator[None]:
    """Hold the site: ``alone`` to build it, else together with others who read it. It waits, and says that it does."""
    import fcntl  # here, since Windows has none, and others import this file for its texts

    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as file:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another process {'uses' if alone else 'builds'} {BUILT.relative_to(ROOT)}: waiting.", flush=True)
            fcntl.flock(file, kind)
        yield  # closing the file gives it back


@contextmanager
def standing() -> Iterator[Path]:
    """The whole site of what stands here now, built only if it is not there; nobody builds it anew meanwhile."""
    while True:
        with locked(alone=False):
            if stands(digest()):
                yield BUILT
                return
        with locked(alone=True):
            if not stands(digest()):  # nobody built it while this one waited
                rebuild()


def main() -> None:
    """Build, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-slides", action="store_true", help="without the decks")
    options = parser.parse_args()
    start = time.perf_counter()
    with locked(alone=True):
        rebuild(decks=not options.no_slides)
    size = sum(file.stat().st_size for file in BUILT.rglob("*") if file.is_file())
    pages = len(list(BUILT.rglob("*.html")))
    where = (BUILT / "index.html").relative_to(ROOT)
    print(f"{where}: {pages} pages, {size / 2**20:.1f} MB, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
