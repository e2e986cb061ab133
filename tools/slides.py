"""Make a deck of each lecture, in ``build/slides``: the cells tagged ``slide``, with the prose between them as notes.

A tagged cell of prose gives its heading, its first sentences, its formulas and lists; one of code gives its picture or
table or, if it stands open, itself with what it printed. Press S for the speaker's view with the notes, ? for all keys.
A deck is one file beside the folder of its scripts, and opens without a network.
"""

import argparse
import base64
import html
import re
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

from nbconvert.filters.markdown_mistune import markdown2html_mistune
from nbformat import NotebookNode

from tools.assets import asset
from tools.notebooks import ROOT, lectures, read

DECKS = ROOT / "build" / "slides"
PARTS = ROOT / "web" / "slides"
FEWEST, MOST = 12, 20
"""Slides of a deck."""


@dataclass
class Slide:
    """One slide: what stands on it as HTML, and what is said to it as Markdown."""

    body: str
    kind: str = ""
    notes: list[str] = field(default_factory=list)


def tagged(cell: NotebookNode) -> bool:
    """A cell that is to be a slide."""
    return "slide" in cell.metadata.get("tags", [])


def is_open(cell: NotebookNode) -> bool:
    """A cell of code that a reader sees without a click."""
    return cell.cell_type == "code" and not cell.metadata.get("jupyter", {}).get("source_hidden", False)


# A sentence that is bold as a whole leads in the next one, and ends with it.
SENTENCE = re.compile(r"(?<!et al)(?<!e\.g)(?<!i\.e)(?<!Eq)(?<!Fig)[.?]\)?(?!\*\*)\*?(?=\s+[A-ZÀ-ÞΑ-Ω*$`(“])")


LISTS = re.compile(r"[-*|] |1\. |    |```")


def sentences(paragraph: str, most: int) -> str:
    """The first sentences of a paragraph."""
    ends = [0, *_ends(paragraph)]
    if most >= len(ends):
        return paragraph
    return paragraph[: ends[most]]


def _ends(paragraph: str) -> list[int]:
    # what ends within a parenthesis ends no sentence
    found = [match.end() for match in SENTENCE.finditer(paragraph)]
    return [end for end in found if paragraph.count("(", 0, end) <= paragraph.count(")", 0, end)]


ROOM = 420
"""Letters of prose on a slide that has nothing else."""


def brief(text: str) -> str:
    """What of a cell's prose goes onto a slide: first sentences, and all formulas, lists and tables."""
    blocks = re.split(r"\n\s*\n", text.strip())
    kinds = ["$$" if "$$" in block else "list" if LISTS.match(block) else "" for block in blocks]
    kept, room = [], ROOM if not any(kinds) else ROOM // 2
    for block, kind, after in zip(blocks, kinds, [*kinds[1:], ""], strict=True):
        if kind == "list":
            items = re.split(r"\n(?=(?:[-*]|\d+\.) )", block)
            kept.append("\n".join(_lead(item) for item in items) if len(items) > 1 else block)
            continue
        if re.fullmatch(r"\*[^*].*[^*]\*", block, re.DOTALL):  # the paper, and the minutes
            kept.append(block)
            continue
        before, *formulas = re.split(r"(?=\$\$.+?\$\$)", block, maxsplit=1, flags=re.DOTALL) if kind else [block]
        most = max((n for n in range(5) if len(sentences(before, n)) <= room), default=0)
        said = sentences(before, max(most, 1) if not kept else most).strip()
        if said.endswith(":") and not kind and not after:  # what it announces is no part of the slide
            said = sentences(said, len(_ends(said))) if _ends(said) else "" if kept else said
        room -= len(said)
        last = sentences(before, 99).removeprefix(sentences(before, len(_ends(before)))).strip()
        if after == "list" and not said.endswith(last):  # "At the end you can"
            said = f"{said} {last}"
        kept += [said, *(found for part in formulas for found in re.findall(r"\$\$.+?\$\$", part, re.DOTALL))]
    return "\n\n".join(part for part in kept if part)


def _lead(item: str) -> str:
    # the first sentence of an item, with the next one where the first is a few words
    first = sentences(item, 1)
    return first if len(first) > 30 or re.search(r"[.?]\*\*\s", first) else sentences(item, 2)


def rendered(markdown: str) -> str:
    """Markdown as HTML; links within the course become their words, as a deck stands alone."""
    alone = re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", markdown)
    return markdown2html_mistune(alone)


def deck(notebook: NotebookNode) -> list[Slide]:
    """The slides of a lecture, in order."""
    found: list[Slide] = []
    heading, unseen = "", ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            above = re.search(r"^#{1,3} (.+)$", cell.source, re.MULTILINE)
            if above:
                heading = unseen = above[1]
            prose = re.sub(r"^#{1,3} .+\n*", "", cell.source, flags=re.MULTILINE).strip()
            if tagged(cell):
                level = "h1" if not found else "h2"
                found.append(Slide(f"<{level}>{rendered_line(heading)}</{level}>{rendered(brief(prose))}"))
                unseen = ""
            if found and prose:
                found[-1].notes.append(f"**{unseen}.** {prose}" if unseen else prose)
                unseen = ""
        elif tagged(cell):
            body, kind = shown(cell)
            parts = in_halves(body, cell) if kind == "picture" else [body]
            found += [Slide(f"<h2>{rendered_line(heading)}</h2>{part}", kind) for part in parts]
            unseen = ""
    return found


TALL, OVERLAP = 0.8, 1.08


def in_halves(body: str, cell: NotebookNode) -> list[str]:
    """A picture that is too tall for a slide to be read goes onto two, its upper and its lower half."""
    png = next(output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {}))
    width, height = struct.unpack(">II", base64.b64decode(png)[16:24])
    if height < TALL * width or height < 720:
        return [body]
    shape = f'style="aspect-ratio: {width} / {OVERLAP * height / 2:.0f}"'
    return [body.replace("<img ", f'<img class="{half}" {shape} ', 1) for half in ("upper", "lower")]


def rendered_line(text: str) -> str:
    """One line of Markdown, without the paragraph round it."""
    return re.sub(r"^<p>|</p>$", "", rendered(text).strip())


def shown(cell: NotebookNode) -> tuple[str, str]:
    """A cell of code on a slide, and what kind of slide that is."""
    parts, kind = [], ""
    if is_open(cell):
        source = re.sub(r"\n{3,}", "\n\n", cell.source)
        parts.append(f"<pre><code>{html.escape(source)}</code></pre>")
    printed = [output.text for output in cell.get("outputs", []) if output.get("name") == "stdout"]
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data:
            words = " ".join(output.metadata.get("image/png", {}).get("alt", "").split())
            kind = "picture" if not parts else ""
            picture = "".join(data["image/png"].split())
            parts.append(f'<img src="data:image/png;base64,{picture}" alt="{html.escape(words)}">')
        elif "text/markdown" in data:
            parts.append(rendered("".join(data["text/markdown"])))
        elif output.get("name") == "stdout" and printed:
            parts.append(f'<pre class="said">{html.escape("".join(printed).strip())}</pre>')
            printed = []
        elif output.output_type == "error":
            parts.append(f'<pre class="said">{html.escape(output.ename)}: {html.escape(output.evalue)}</pre>')
    return "\n".join(parts), kind


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="_deck/mark.svg">
<link rel="stylesheet" href="_deck/reset.css">
<link rel="stylesheet" href="_deck/reveal.css">
<link rel="stylesheet" href="_deck/deck.css">
<script>
window.MathJax = {{
  loader: {{load: ["core", "input/tex", "output/chtml", "a11y/assistive-mml"]}},
  tex: {{inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]]}},
  options: {{enableMenu: false}},
}};
</script>
</head>
<body>
<main class="reveal"><div class="slides">
{slides}
</div></main>
<script src="_deck/mathjax/startup.js"></script>
<script src="_deck/reveal.js"></script>
<script src="_deck/notes.js"></script>
<script src="_deck/deck.js"></script>
</body>
</html>
"""


def page(notebook: NotebookNode) -> str:
    """A deck as a page."""
    slides = deck(notebook)
    title = re.search(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE)[1]
    sections = [
        f'<section class="{slide.kind}">\n{slide.body}\n'
        f'<aside class="notes">{rendered(f"{chr(10)}{chr(10)}".join(slide.notes))}</aside>\n</section>'
        for slide in slides
    ]
    return PAGE.format(title=html.escape(title), slides="\n".join(sections))


def build(names: list[str] | None = None, folder: Path = DECKS) -> list[Path]:
    """The decks of the lectures that have tagged cells, and the scripts that they share."""
    shared = folder / "_deck"
    shutil.rmtree(shared, ignore_errors=True)
    shutil.copytree(asset("mathjax") / "es5", shared / "mathjax")
    reveal = asset("reveal.js")
    for file in ("dist/reveal.js", "dist/reveal.css", "dist/reset.css", "plugin/notes/notes.js"):
        shutil.copy(reveal / file, shared)
    shutil.copy(reveal / "LICENSE", shared / "reveal-LICENSE")
    shutil.copy(asset("mathjax") / "LICENSE", shared / "mathjax")
    for file in (*PARTS.iterdir(), ROOT / "web" / "_static" / "mark.svg"):
        shutil.copy(file, shared)
    made = []
    for path in lectures():
        notebook = read(path)
        if (names and path.stem not in names) or not any(map(tagged, notebook.cells)):
            continue
        file = folder / f"{path.stem}.html"
        file.write_text(page(notebook), encoding="utf-8")
        made.append(file)
    return made


def main() -> None:
    """Make the decks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="lectures, such as 02_gumbel; all if none is named")
    names = parser.parse_args().names
    if unknown := sorted(set(names) - {path.stem for path in lectures()}):
        parser.error(f"there is no lecture {', '.join(unknown)}; a name is one such as 02_gumbel")
    for file in build(names):
        print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
