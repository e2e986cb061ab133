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
]

FULL = """[...document.querySelectorAll('.slides > section')].map(slide => {
  const before = slide.style.display;
  slide.style.display = 'block';
  const size = [slide.scrollHeight, slide.scrollWidth, parseFloat(slide.style.fontSize || 30)];
  slide.style.display = before;
  return size;
})"""


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
    outside = [
        f"slide {at}: {high} px of 720, {wide} px of 1280, letters of {letters} px"
        for at, (high, wide, letters) in enumerate(tab.page.evaluate(FULL), start=1)
        if high > 710 or wide > 1282 or letters < 15
    ]
    assert outside == []
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
        "() => axe.run(document, {resultTypes: ['violations']}).then(found => found.violations"
        ".filter(v => ['serious', 'critical'].includes(v.impact)).map(v => `${v.id} ${v.nodes[0].html}`))"
    )
    assert faults == []
    assert (tab.outside, tab.wrong) == ([], [])
    tab.close()
