"""The built site as its readers meet it: links, what it loads, how large it is, phones and desks, light and dark.

`make browser` builds it first. What asks nothing of a browser runs without one.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import BROWSER, FLAGS, NONE, Tab, served
from tests.browser.pages import broken, mib, weight, wordless
from tools.assets import asset
from tools.site import BUILT, DRAWN, build

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow, pytest.mark.xdist_group("site")]  # it is built once

PAGE_MB, SITE_MB = 2, 60
FRAMES_KB = 300
"""Of all the pictures that the controls of a page move to."""
MB = 1e6 / 2**20


@pytest.fixture(scope="module")
def site() -> Path:
    """The site; what did not change since it was last built is kept."""
    for needed in ("sphinx", "myst_nb", "sphinx_book_theme"):
        if find_spec(needed) is None:
            pytest.skip(f"no {needed} here: `make site` installs it")
    build()
    return BUILT


def test_no_link_is_broken_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) > 40, "there are pages to look at"
    assert broken(site) == []


def test_every_picture_is_said_in_words(site: Path) -> None:
    assert wordless(site) == []


def test_a_page_and_the_site_are_light(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert {page.name: weight(page) for page in pages if weight(page) > PAGE_MB * MB} == {}
    assert mib([file for file in site.rglob("*") if file.is_file()]) < SITE_MB * MB
    moved = {folder.name: mib(list(folder.iterdir())) for folder in (site / DRAWN).iterdir()}
    assert {name: size for name, size in moved.items() if size > FRAMES_KB / 1000 * MB} == {}


def names() -> list[str]:
    """The pages; the decks are looked at slide by slide elsewhere."""
    pages = sorted(page.relative_to(BUILT).as_posix() for page in BUILT.rglob("*.html"))
    return [page for page in pages if not page.startswith("slides/")]


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    play = pytest.importorskip("playwright.sync_api", reason="no playwright here: `make browser` installs it")
    if BROWSER is None:
        pytest.skip(NONE)
    with play.sync_playwright() as playing:
        found = playing.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield found
        found.close()


LOOKS = [(390, "light", True), (390, "dark", False), (1280, "light", False), (1280, "dark", True)]
"""The width of a window, the scheme, and whether axe-core looks, too: contrast goes by the scheme, not by the width."""

AXE = """async () => {
  const found = await axe.run(document, {resultTypes: ['violations']});
  return found.violations.filter(v => ['serious', 'critical'].includes(v.impact))
    .map(v => [v.id, v.nodes.length, v.nodes[0].target, v.nodes[0].failureSummary.split('\\n')[1]].join(' | '));
}"""


@pytest.mark.parametrize(("width", "scheme", "closely"), LOOKS)
def test_a_page_is_readable_loads_nothing_from_elsewhere_and_has_no_serious_fault(
    width: int, scheme: str, closely: bool, address: str, browser: Any
) -> None:
    axe = (asset("axe-core") / "axe.min.js").read_text(encoding="utf-8")
    faults = []
    tab = Tab(browser, address, viewport={"width": width, "height": 900}, color_scheme=scheme)
    sources = [name for name in names() if name.startswith("_modules/")]
    skipped = sources[width > 390 :: 2]  # those of the API are many and alike: half in each scheme
    for name in names():
        if name in sources and (not closely or name in skipped):
            continue
        tab.page.goto(f"{address}/{name}", wait_until="load")
        if "mathjax" in tab.page.content():
            tab.page.evaluate("() => window.MathJax?.startup?.promise?.then(() => 1)")
            raw = tab.page.evaluate("document.querySelector('.math') && !document.querySelector('mjx-container')")
            faults += [f"{name}: formulas are not drawn"] if raw else []
            faults += [f"{name}: a formula with an error"] if tab.page.locator("mjx-merror").count() else []
        across = tab.page.evaluate("document.documentElement.scrollWidth")
        faults += [f"{name}: {across} px wide"] if across > width else []
        faults += [f"{name}: {tab.mib() / MB:.2f} MB"] if tab.mib() >= PAGE_MB * MB else []
        dark = tab.page.evaluate("document.documentElement.dataset.theme")
        faults += [f"{name}: its theme is {dark}"] if dark != scheme else []
        if closely:
            tab.page.evaluate(axe)
            faults += [f"{name}: {fault}" for fault in tab.page.evaluate(AXE)]
    assert faults == []
    assert tab.outside == []
    assert tab.wrong == []
    tab.close()


def test_the_search_finds_without_a_server_elsewhere(address: str, browser: Any) -> None:
    tab = Tab(browser, address)
    tab.page.goto(f"{address}/search.html?q=matformer")
    tab.page.wait_for_selector("#search-results li a")
    assert "matformer" in tab.page.locator("#search-results").inner_html().lower()
    assert (tab.outside, tab.wrong) == ([], [])
    tab.close()


def test_the_table_of_the_benchmarks_is_sorted_by_a_click_and_by_a_key(address: str, browser: Any) -> None:
    tab = Tab(browser, address)
    tab.page.goto(f"{address}/benchmarks.html")
    column = "[...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[4].innerText.trim())"
    before = tab.page.evaluate(column)
    head = tab.page.locator(".sortable th button").nth(4)
    head.click()
    up = [float(cell) for cell in tab.page.evaluate(column) if cell != "–"]
    head.focus()
    tab.page.keyboard.press("Enter")
    down = [float(cell) for cell in tab.page.evaluate(column) if cell != "–"]
    assert sorted(before) == sorted(tab.page.evaluate(column)), "no row is lost"
    assert up == sorted(up) == down[::-1]
    assert len(set(up)) > 5
    assert tab.page.locator(".sortable th").nth(4).get_attribute("aria-sort") == "descending"
    tab.close()


def test_code_that_is_folded_opens_with_a_click(address: str, browser: Any) -> None:
    tab = Tab(browser, address)
    tab.page.goto(f"{address}/lectures/00_start_here.html")
    folded = tab.page.locator("details.hide").first
    code = folded.locator("pre").first
    assert not code.is_visible()
    folded.locator("summary").click()
    assert code.is_visible()
    tab.close()


def test_a_control_moves_without_a_kernel_by_key_and_by_mouse_and_its_picture_changes(
    address: str, browser: Any
) -> None:
    moved = sorted(folder.name for folder in (BUILT / DRAWN).iterdir())
    assert len(moved) >= 5
    tab = Tab(browser, address, viewport={"width": 390, "height": 900}, has_touch=True)
    for name in moved:
        tab.page.goto(f"{address}/lectures/{name}.html", wait_until="load")
        for control in tab.page.locator(".frames").all():
            slider, picture = control.locator("input"), control.locator("img")
            last = int(slider.get_attribute("max"))
            slider.focus()
            tab.page.keyboard.press("Home")
            seen, said, told = list[str](), list[str](), list[str]()
            for _ in range(last + 1):
                assert picture.evaluate("e => e.decode().then(() => e.naturalWidth)") > 200, f"{name}: no picture"
                seen.append(picture.get_attribute("src"))
                said.append(picture.get_attribute("alt"))
                told.append(slider.get_attribute("aria-valuetext"))
                assert control.locator("output").inner_text() == told[-1]
                tab.page.keyboard.press("ArrowRight")
            assert len(set(seen)) == len(set(told)) == len(set(said)) == last + 1
            box = slider.bounding_box()
            slider.click(position={"x": 2, "y": box["height"] / 2})
            assert picture.get_attribute("src") == seen[0]
    assert (tab.outside, tab.wrong) == ([], [])
    tab.close()
