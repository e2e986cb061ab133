"""The built site as its readers meet it: links, what it loads, how large it is, phones and desks, light and dark.

`make browser` builds it first. What asks nothing of a browser runs without one.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import BROWSER, FLAGS, NONE, Tab, served
from tests.browser.contrast import faint
from tests.browser.pages import broken, mib, weight, wordless
from tools.assets import asset
from tools.site import BUILT, DRAWN, standing

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow, pytest.mark.xdist_group("site")]  # it is built once

PAGE_MB, SITE_MB = 2, 60
FRAMES_KB = 300
"""Of all the pictures that the controls of a page move to."""
MB = 1e6 / 2**20


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """The site, built if what stands is of other sources; nobody builds it anew while the tests look at it."""
    for needed in ("sphinx", "myst_nb", "sphinx_book_theme"):
        if find_spec(needed) is None:
            pytest.skip(f"no {needed} here: `make site` installs it")
    with standing() as found:
        yield found


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


LOOKS = [(1280, "light"), (1280, "dark"), (390, "dark"), (390, "light")]
"""The width of a window and the scheme, each one step from the one before, so that a page is loaded once for all."""

PARTS = 8
"""The pages are looked at in as many tests, which begin with one look and with another, by turns. With the look that it
began with a page is given to axe-core, and a page of source, of which there are many alike, has no other."""

CLOSELY = ("index.html", "benchmarks.html", "search.html", "lectures/02_gumbel.html", "exercises/02_gumbel.html")
CLOSELY += ("api/choice.html", "_modules/dynlib/choice/gumbel.html")
"""A page of each kind that axe-core gets with all looks, to measure its contrast, too: that takes it longer than all
else."""

AXE = """async (contrast) => {
  const rules = {'color-contrast': {enabled: contrast}};
  const found = await axe.run(document, {rules, resultTypes: ['violations'], preload: false});
  return found.violations.filter(v => ['serious', 'critical'].includes(v.impact))
    .map(v => [v.id, v.nodes.length, v.nodes[0].target, v.nodes[0].failureSummary.split('\\n')[1]].join(' | '));
}"""

# What a change of the window or of the scheme sets off has come to its end.
SETTLED = """([width, scheme]) => new Promise(done => {
  const frame = what => requestAnimationFrame(() => requestAnimationFrame(what));
  const goes = one => one.playState !== 'finished' && one.effect.getComputedTiming().endTime < Infinity;
  const end = () => {  // the end of one may begin another, as where a part inherits its colour
    const left = document.getAnimations().filter(goes);
    left.forEach(one => one.finish());
    if (left.length) frame(end); else done(true);
  };
  const there = () => innerWidth === width && document.documentElement.dataset.theme === scheme;
  const look = () => frame(there() ? end : look);
  look();
})"""


def faults_of(tab: Tab, name: str, looks: list[tuple[int, str]], axe: str) -> list[str]:
    """What a reader cannot see, read, or hear on a page that has been loaded with the first of the looks."""
    page, found = tab.page, []
    if "mathjax" in page.content():
        page.evaluate("() => window.MathJax?.startup?.promise?.then(() => 1)")
        raw = page.evaluate("document.querySelector('.math') && !document.querySelector('mjx-container')")
        found += ["formulas are not drawn"] if raw else []
        found += ["a formula with an error"] if page.locator("mjx-merror").count() else []
    found += [f"{tab.mib() / MB:.2f} MB"] if tab.mib() >= PAGE_MB * MB else []
    page.evaluate(axe)
    closely = name in CLOSELY
    for number, (width, scheme) in enumerate(looks):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate(SETTLED, [width, scheme])
        across = page.evaluate("document.documentElement.scrollWidth")
        here = [f"{across} px wide"] if across > width else []
        if closely or not number:
            here += page.evaluate(AXE, closely)
        page.evaluate("document.querySelectorAll('details').forEach(folded => { folded.open = true; })")
        page.evaluate(SETTLED, [width, scheme])  # what was folded may take on its colours only now
        here += faint(page)
        found += [f"{width} px, {scheme}: {fault}" for fault in here]
    return [f"{name}: {fault}" for fault in found]


@pytest.mark.parametrize("part", range(PARTS))
def test_a_page_is_readable_loads_nothing_from_elsewhere_and_has_no_serious_fault(
    part: int, address: str, browser: Any
) -> None:
    axe = (asset("axe-core") / "axe.min.js").read_text(encoding="utf-8")
    looks = LOOKS[part % 4 :] + LOOKS[: part % 4]
    (width, scheme), faults = looks[0], list[str]()
    tab = Tab(browser, address, viewport={"width": width, "height": 900}, color_scheme=scheme)
    pages = names()[part::PARTS]
    assert len(pages) > 10
    for name in pages:
        tab.page.set_viewport_size({"width": width, "height": 900})
        tab.page.emulate_media(color_scheme=scheme)
        tab.page.goto(f"{address}/{name}", wait_until="load")
        faults += faults_of(tab, name, looks[:1] if name.startswith("_modules/") else looks, axe)
    assert faults == []
    assert tab.outside == []
    assert tab.wrong == []
    tab.close()


def test_the_pages_that_are_looked_at_closely_are_there(site: Path) -> None:
    assert set(CLOSELY) <= set(names())


def test_what_a_page_asks_for_elsewhere_is_seen_and_does_not_come(address: str, browser: Any) -> None:
    tab = Tab(browser, address)
    tab.page.goto(f"{address}/search.html", wait_until="load")
    failed = "() => fetch('http://elsewhere.example/x').then(() => 'came', () => 'failed')"
    assert tab.page.evaluate(failed) == "failed"
    assert tab.outside == ["http://elsewhere.example/x"]
    assert any("ERR_NAME_NOT_RESOLVED" in wrong for wrong in tab.wrong), "there was no way to it"
    tab.close()


def test_words_too_faint_to_be_read_are_found(browser: Any) -> None:
    tab = Tab(browser, "about:")
    words = {
        "color: #777": True,  # 4.48
        "color: #767676": False,
        "color: #949494; font-size: 24px": False,  # 3.03
        "color: #949494; font-size: 23px": True,
        "color: #949494; font-size: 19px; font-weight: bold": False,
        "color: rgb(0 0 0 / 40%)": True,
        "color: color(srgb 0 0 0); opacity: 0.4": True,
        "color: #fff; background: #000": False,
        "color: #fff; background: rgb(0 0 0 / 20%)": True,
        "color: #fff; visibility: hidden": False,
    }
    lines = "".join(f'<p class="n{at}" style="{style}">words</p>' for at, style in enumerate(words))
    tab.page.set_content(f"<body>{lines}</body>")
    found = " ".join(faint(tab.page))
    assert [f"p.n{at} " in found for at in range(len(words))] == list(words.values())
    tab.page.set_content("<body></body>")
    with pytest.raises(AssertionError, match="no words"):
        faint(tab.page)
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
    up = [float(cell.split()[0]) for cell in tab.page.evaluate(column) if cell != "–"]
    head.focus()
    tab.page.keyboard.press("Enter")
    down = [float(cell.split()[0]) for cell in tab.page.evaluate(column) if cell != "–"]
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
