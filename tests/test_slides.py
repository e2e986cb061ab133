"""The decks: as many slides as a talk holds, each with something to look at, and all of the prose in the notes."""

import base64
import io
import re
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from tools import slides
from tools.notebooks import lectures, read

TAGGED = [path for path in lectures() if any(map(slides.tagged, read(path).cells))]


def marked(cell: NotebookNode) -> NotebookNode:
    """A cell that is to be a slide."""
    cell.metadata["tags"] = [*cell.metadata.get("tags", []), "slide"]
    return cell


def test_most_lectures_have_a_deck() -> None:
    assert len(TAGGED) >= 17


@pytest.mark.parametrize("path", TAGGED, ids=lambda path: path.stem)
def test_a_deck_has_as_many_slides_as_a_talk_holds_and_shows_something_on_each(path: Path) -> None:
    notebook = read(path)
    found = slides.deck(notebook)
    assert slides.FEWEST <= len(found) <= slides.MOST
    assert found[0].body.startswith("<h1>")
    empty = [slide.body for slide in found if not re.sub(r"<h\d>.*?</h\d>", "", slide.body, flags=re.DOTALL).strip()]
    assert empty == []
    assert sum("<img" in slide.body for slide in found) >= (2 if path.stem == "00_start_here" else 3), "pictures first"
    assert re.search("remember", found[-1].body), "the last one is what to take home"
    long = [c.id for c in notebook.cells if slides.tagged(c) and slides.is_open(c) and len(c.source.splitlines()) > 30]
    assert long == []
    prose = [c for c in notebook.cells if c.cell_type == "markdown"]
    told = sum(map(len, (note for slide in found for note in slide.notes)))
    assert told >= 0.97 * sum(len(cell.source) for cell in prose) - 80 * len(prose), "the notes hold the prose"


def test_no_picture_of_a_deck_is_without_words() -> None:
    wordless = [path.stem for path in TAGGED if re.search(r'<img [^>]*alt=""', slides.page(read(path)))]
    assert wordless == []


def test_a_slide_holds_the_first_sentences_the_formulas_and_the_lists() -> None:
    text = (
        "A first sentence, e.g. of Jang et al. (2016). " + "It goes on and on. " * 20 + "\n\n$$x = y.$$\n\n"
        "- **Word.** What it means. More of it, which is said and not shown.\n- A longer item, which is enough. More.\n"
    )
    said = slides.brief(text)
    assert said.startswith("A first sentence, e.g. of Jang et al. (2016). It goes on and on.")
    assert said.count("It goes on") < 12
    assert "$$x = y.$$" in said
    assert "- **Word.** What it means.\n- A longer item, which is enough." in said
    assert "More" not in said
    assert slides.brief("You can. At the end of this page you can\n\n- do it.") == (
        "You can. At the end of this page you can\n\n- do it."
    )


def test_a_sentence_in_bold_is_followed_by_the_next_and_none_announces_what_does_not_come() -> None:
    assert slides.brief("**What came out.** Less.\n\n$$a$$") == "**What came out.** Less.\n\n$$a$$"
    assert slides.brief("Seven calls. Watch which of them build a graph:") == "Seven calls."
    assert slides.brief("h is the canvas.\n\nThe canvas, and what each adds:") == "h is the canvas."
    assert slides.brief("Hence the paper's:\n\n$$a$$") == "Hence the paper's:\n\n$$a$$"
    assert slides.brief("Watch:") == "Watch:"
    assert slides.sentences("It waits (on the web? Look there). So open it.", 1) == "It waits (on the web? Look there)."


def test_what_a_cell_printed_in_pieces_stands_in_one_block_below_its_code_without_wide_gaps() -> None:
    outputs = [new_output("stream", text=f"{part}\n") for part in ("one", "two")]
    body, _ = slides.shown(marked(new_code_cell("x = 1\n\n\ny = 2", outputs=outputs)))
    assert body == '<pre><code>x = 1\n\ny = 2</code></pre>\n<pre class="said">one\ntwo</pre>'


@pytest.mark.parametrize(("size", "number"), [((700, 300), 1), ((730, 595), 1), ((865, 902), 2), ((300, 400), 1)])
def test_a_picture_that_is_too_tall_to_be_read_goes_onto_two_slides(size: tuple[int, int], number: int) -> None:
    drawn = io.BytesIO()
    Image.new("L", size).save(drawn, "PNG")
    data = {"image/png": base64.b64encode(drawn.getvalue()).decode()}
    picture = new_output("display_data", data, metadata={"image/png": {"alt": "Bars."}})
    code = marked(new_code_cell("draw()", outputs=[picture], metadata={"jupyter": {"source_hidden": True}}))
    found = slides.deck(new_notebook(cells=[marked(new_markdown_cell("# Title\n\nIt is.")), code]))[1:]
    assert [slide.kind for slide in found] == ["picture"] * number
    assert [half in slide.body for half, slide in zip(("upper", "lower"), found, strict=False)] == [
        number == 2
    ] * number


def test_prose_between_two_slides_is_said_to_the_first() -> None:
    notebook = new_notebook(
        cells=[
            marked(new_markdown_cell("# Title\n\nWhat it is.")),
            new_markdown_cell("## Part\n\nBetween."),
            marked(
                new_code_cell(
                    "x = 1 < 2",
                    outputs=[
                        new_output("stream", text="a < b\n"),
                        new_output("execute_result", {"text/markdown": "|a|\n|-|\n|1|"}),
                    ],
                )
            ),
            new_markdown_cell("After, with [a link](01_cost.ipynb) and [another](https://x.org)."),
        ]
    )
    first, second = slides.deck(notebook)
    assert first.notes == ["What it is.", "**Part.** Between."]
    assert second.notes == ["After, with [a link](01_cost.ipynb) and [another](https://x.org)."]
    assert second.body.startswith("<h2>Part</h2>")
    assert "x = 1 &lt; 2" in second.body
    assert "a &lt; b" in second.body
    assert "<td>1</td>" in second.body
    page = slides.page(notebook)
    assert "a link" in page
    assert "01_cost.ipynb" not in page
    assert 'href="https://x.org"' in page
    assert page.count("<section") == page.count('<aside class="notes">') == 2


def test_a_deck_of_no_lecture_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["slides", "02_gumble"])
    with pytest.raises(SystemExit):
        slides.main()
    assert "no lecture 02_gumble" in capsys.readouterr().err
