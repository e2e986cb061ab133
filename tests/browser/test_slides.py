"""The decks in a browser, opened as files: nothing asked of a network, every slide on the screen, and notes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import BROWSER, FLAGS, NONE, Tab
from tests.test_slides import TAGGED
from tools.assets import asset
from tools.slides import build

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: `make browser` installs it")

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason=NONE),
    pytest.mark.timeout(600),
    pytest.mark.slow,
    pytest.mark.xdist_group("slides"),
]

# Of each slide: what of it leaves the screen or its own box, how large its letters are, and how large its picture is.
SEEN = """() => {
  const screen = document.querySelector('.slides').getBoundingClientRect(), scale = Reveal.getScale();
  return [...document.querySelectorAll('.slides > section')].map(slide => {
    const before = slide.style.display;
    slide.style.display = 'block';
    const kinds = 'h1, h2, p, li, pre, code, table, td, th, img, mjx-container[display=true]';
    const parts = [...slide.querySelectorAll(kinds)].filter(part => !part.closest('aside'));
    const left = parts.filter(part => {
      const box = part.getBoundingClientRect();
      return box.right > screen.right - 30 * scale || box.left < screen.left + 30 * scale
        || box.bottom > screen.bottom - 8 * scale || box.top < screen.top
        || (part.clientWidth && part.scrollWidth > part.clientWidth + 1);
    }).map(part => `${part.tagName} ${part.textContent.slice(0, 40)}`);
    const smallest = Math.min(...parts.filter(part => part.textContent.trim())
      .map(part => parseFloat(getComputedStyle(part).fontSize)));
    const pictures = [...slide.querySelectorAll('img')].map(picture => {
      const {width, height} = picture.getBoundingClientRect();
      const [across, down] = [width / picture.naturalWidth, height / picture.naturalHeight];
      return (picture.matches(".upper, .lower") ? Math.max(across, down) : Math.min(across, down)) / scale;
    });
    slide.style.display = before;
    return [left, smallest, pictures];
  });
}"""
LETTERS = 11
"""Pixels of the smallest letters, those of long code, on a screen of 720: as small as a terminal's."""
SHRUNK = 0.9
"""A picture may be a little smaller than the lecture shows it, else its own letters are not read."""


@pytest.fixture(scope="module")
def decks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    build(folder=folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playing:
        found = playing.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield found
        found.close()


@pytest.mark.parametrize("path", TAGGED, ids=lambda path: path.stem)
def test_a_deck_opens_as_a_file_advances_to_its_end_and_no_slide_leaves_the_screen(
    path: Path, decks: Path, browser: Any
) -> None:
    scheme = "dark" if TAGGED.index(path) % 2 else "light"
    tab = Tab(browser, "file://", viewport={"width": 1280, "height": 720}, color_scheme=scheme)
    tab.page.goto(f"file://{decks / path.stem}.html")
    tab.page.wait_for_selector("html[data-ready]", state="attached")
    number = tab.page.evaluate("Reveal.getTotalSlides()")
    wrong = [
        f"slide {at}: {left}, letters of {letters:.0f} px, pictures of {[f'{share:.2f}' for share in pictures]}"
        for at, (left, letters, pictures) in enumerate(tab.page.evaluate(SEEN), start=1)
        if left or letters < LETTERS or any(share < SHRUNK for share in pictures)
    ]
    assert wrong == []
    assert tab.page.locator("mjx-merror").count() == 0
    seen = set()
    for _ in range(number):
        seen.add(tab.page.evaluate("Reveal.getIndices().h"))
        tab.page.keyboard.press("ArrowRight")
    assert seen == set(range(number))
    assert tab.page.evaluate("Reveal.isLastSlide()")
    assert tab.page.evaluate("Reveal.getSlideNotes(Reveal.getSlide(0)).length") > 100
    tab.page.evaluate("Reveal.slide(0)")
    tab.page.evaluate((asset("axe-core") / "axe.min.js").read_text(encoding="utf-8"))
    faults = tab.page.evaluate(
        "() => axe.run(document, {resultTypes: ['violations'], preload: false}).then(found => found.violations"
        ".filter(v => ['serious', 'critical'].includes(v.impact)).map(v => `${v.id} ${v.nodes[0].html}`))"
    )
    assert faults == []
    assert (tab.outside, tab.wrong) == ([], [])
    tab.close()
