"""What lays out the site: texts taken from where they stand, links that lead somewhere, pinned scripts."""

import base64
import hashlib
import io
import re
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.browser.pages import Page, broken, weight, wordless
from tools import assets, frames, package, site
from tools.lectures import FRAMES
from tools.notebooks import ROOT, lectures, read

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_of_the_readme_lead_to_pages_or_become_words() -> None:
    text = "[a](lectures/09_x.ipynb) [b](exercises/09_x/09_x.ipynb) [c](benchmarks/RESULTS.md) [d](dynlib/cost.py)"
    assert site.to_pages(text) == "[a](lectures/09_x.ipynb) [b](exercises/09_x.ipynb) [c](benchmarks.md) d"
    assert site.to_pages("[e](https://x.org) [f](#g) ![h](i.png)") == "[e](https://x.org) [f](#g) ![h](i.png)"
    assert site.to_pages("[j](../work/09_x/09_x.ipynb), [k](01_cost.ipynb)", "../") == (
        "[j](../exercises/09_x.ipynb), [k](01_cost.ipynb)"
    )


def test_links_from_a_folder_lead_to_pages_too() -> None:
    assert site.to_pages("[a](hub/README.md) [b](../README.md#x)", at="classroom") == "[a](hub.md) [b](index.md#x)"
    assert site.to_pages("[a](../README.md#what-it-takes)", at="classroom/hub") == "[a](grading.md#what-it-takes)"


def test_every_unit_of_the_readme_is_found_with_its_minutes() -> None:
    units = site.units_of(README)
    there = {folder.name for folder in site.exercises()}
    assert there & {"00_start_here", "09_matformer"} == {"00_start_here", "09_matformer"}
    assert {name for name in units if name in there} >= {"00_start_here", "09_matformer"}
    assert all(told["runs"] and told["minutes"] for told in units.values())


def test_a_heading_that_is_not_there_is_an_error() -> None:
    assert site.section("# a\n\n## b\n\nc\n\n## d\n\ne\n", "b") == "c"
    with pytest.raises(ValueError, match="no heading 'x'"):
        site.section(README, "x")


def test_the_map_of_the_field_has_every_unit_that_decides_something_once() -> None:
    titles = {path.stem: site.title_of(read(path)) for path in lectures()}
    drawn = site.field_map(titles)
    nothing = {"01_cost", "14_kernel", "18_claims"}  # they count, make faster, compare
    assert {name for name in titles if f"lectures/{name}.html" not in drawn} <= nothing
    assert all(drawn.count(f"lectures/{name}.html") <= 1 for name in titles)


def test_the_table_of_the_benchmarks_is_framed_whole() -> None:
    page = site.sortable((ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8"))
    inside = page.split('<div class="sortable">')[1].split("</div>")[0].strip()
    assert all(line.startswith("| ") for line in inside.splitlines())
    assert page.count("\n| ") == inside.count("\n| ") + 1


def test_a_lecture_page_says_its_pictures_in_words_and_keeps_its_code() -> None:
    page = site.lecture_page("00_start_here", decks=True)
    source = read(ROOT / "lectures" / "00_start_here.ipynb")
    assert [c.source for c in page.cells if c.cell_type == "code"] == [
        c.source for c in source.cells if c.cell_type == "code"
    ]
    drawn = [c for c in page.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert drawn
    assert all(cell.metadata.mystnb.image.alt for cell in drawn)
    text = "\n".join(cell.source for cell in page.cells)
    assert "../work/" not in text
    assert "../exercises/00_start_here.html" in text


def test_every_part_of_the_package_that_others_use_has_a_page() -> None:
    described = {part for parts in site.PARTS.values() for part in parts}
    kept = {"causes", "honest", "inputs", "transforms", "ways"}  # they serve the others
    import dynlib

    assert described | kept == set(dynlib.__all__) - {"__version__"}


def test_a_control_with_pictures_of_its_places_is_a_slider_in_place_of_the_still_one() -> None:
    source = read(ROOT / "lectures" / "11_looped.ipynb")
    if not frames.kept(source, "11_looped", FRAMES):
        pytest.skip("the pictures are of other code: `make lectures` draws them")
    cells = {cell.id: cell for cell in site.lecture_page("11_looped", decks=False).cells}
    html = cells["slider"].outputs[0].data["text/html"]
    shown = Page(html).loads
    assert len(shown) == 1
    assert (FRAMES / "11_looped" / Path(shown[0]).name).is_file()
    assert cells["slider-twin"].outputs == []
    assert [cell.source for cell in cells.values() if cell.cell_type == "code"] == [
        cell.source for cell in source.cells if cell.cell_type == "code"
    ]


def test_a_style_sheet_keeps_what_a_page_or_a_script_names() -> None:
    sheet = (
        '/* a */@charset "x";/*! licence */.a,.b .no{x:1}.no{y:2}@media (w){.no{q:1}}@media (v){.a .no,p{q:2}}'
        '@font-face{src:url(x)}a[href=".no"]:is(.m,.n){k:"}"}@keyframes no{from{a:1}to{b:2}}'
        ".a:not(:is(.x,.y),.z),.no{l:1}"
    )
    assert site.needed(sheet, {"a", "b"}) == (
        '@charset "x";/*! licence */.a{x:1}@media (v){p{q:2}}@font-face{src:url(x)}a[href=".no"]:is(.m,.n){k:"}"}'
        "@keyframes no{from{a:1}to{b:2}}.a:not(:is(.x,.y),.z){l:1}"
    )


# Several who want it at once.


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was built, in order, where building takes a moment, from sources called "one"."""
    built: list[str] = []

    def build(decks: bool = True) -> None:
        built.append("begun")
        time.sleep(0.2)
        built.append(site.digest())

    monkeypatch.setattr(site, "LOCK", tmp_path / "build" / "lock")
    monkeypatch.setattr(site, "STAMP", tmp_path / "build" / "stamp")
    monkeypatch.setattr(site, "digest", lambda: "one")
    monkeypatch.setattr(site, "build", build)
    return built


def test_of_several_who_want_the_site_one_builds_it_and_the_others_get_it_whole(made: list[str]) -> None:
    found = []

    def ask() -> None:
        with site.standing():
            found.append(list(made))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(20)
    assert found == 4 * [["begun", "one"]]


def test_a_site_in_use_is_not_built_anew_before_it_is_given_back(
    made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> None:
        with site.standing():
            made.append("got")

    with site.standing():
        monkeypatch.setattr(site, "digest", lambda: "two")
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(0.3)
        assert asking.is_alive(), "it waits"
        made.append("given back")
    asking.join(20)
    assert made == ["begun", "one", "given back", "begun", "two", "got"]


def test_a_site_whose_build_failed_is_none(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with site.standing():
        pass
    right = site.build
    monkeypatch.setattr(site, "build", lambda decks: (_ for _ in ()).throw(SystemExit("warnings")))
    with pytest.raises(SystemExit, match="warnings"), site.locked(alone=True):
        site.rebuild()
    monkeypatch.setattr(site, "build", right)
    with site.standing():
        assert made == ["begun", "one", "begun", "one"]


def test_what_the_site_is_made_of_is_known_by_its_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("sphinx_book_theme", reason="no sphinx_book_theme here: `make site` installs it")
    for name in ("lectures", "exercises", "web", "dynlib", "tools", "benchmarks"):
        (tmp_path / name).mkdir()
    for name in ("lectures", "exercises", "web"):
        monkeypatch.setattr(site, name.upper(), tmp_path / name)
    monkeypatch.setattr(site, "ROOT", tmp_path)
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md", "dynlib/a.py"):
        (tmp_path / name).write_text(name)
    before = site.digest()
    (tmp_path / "dynlib" / "__pycache__").mkdir()
    (tmp_path / "dynlib" / "__pycache__" / "a.pyc").write_text("1")
    assert site.digest() == before
    (tmp_path / "dynlib" / "a.py").write_text("2")
    assert site.digest() != before


# Links.


def test_what_is_wrong_with_a_site_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "s.css").write_text("x" * 1024)
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="s.css?v=1"><a href="a/b.html#here">b</a> <a href="a/b.html#there">b</a>'
        '<a href="c.html">c</a><a href="/d">d</a><a href="https://x.org">e</a><img src="p.png">'
        '<script src="https://x.org/s.js"></script><a href="#nowhere">n</a><a href="../out.html">o</a>'
    )
    (tmp_path / "a" / "b.html").write_text('<p id="here"><a href="../index.html">i</a><img alt="words" src="../s.css">')
    assert sorted(broken(tmp_path)) == [
        "index.html loads https://x.org/s.js",
        "index.html: #nowhere has no such place",
        "index.html: ../out.html leads nowhere",
        "index.html: /d is not relative",
        "index.html: a/b.html#there has no such place",
        "index.html: c.html leads nowhere",
        "index.html: p.png leads nowhere",
    ]
    assert wordless(tmp_path) == ["index.html: p.png"]
    assert weight(tmp_path / "a" / "b.html") > 1024 / 2**20


# What is fetched.


def packed(name: str, content: bytes) -> bytes:
    """An archive with one file, as npm packs it."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        member = tarfile.TarInfo(f"package/{name}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return whole.getvalue()


def test_an_archive_that_is_another_is_refused_and_of_the_right_one_only_the_named_files_are_taken(
    tmp_path: Path,
) -> None:
    archive = packed("dist/a.js", b"1")
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    assets.unpack(archive, digest, r"dist/.*\.js", tmp_path / "kept", "a")
    assert (tmp_path / "kept" / "dist" / "a.js").read_bytes() == b"1"
    assets.unpack(archive, digest, r"dist/.*\.css", tmp_path / "none", "a")
    assert not (tmp_path / "none").exists()
    with pytest.raises(SystemExit, match="not the one that was pinned"):
        assets.unpack(packed("dist/a.js", b"2"), digest, ".*", tmp_path / "other", "a")
    assert not (tmp_path / "other").exists()
    climbing = packed("../up.js", b"3")
    assets.unpack(climbing, base64.b64encode(hashlib.sha512(climbing).digest()).decode(), ".*", tmp_path / "deep", "a")
    assert not (tmp_path / "up.js").exists()


def test_without_npm_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(assets, "KEPT", tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"mathjax 3\.2\.2 is fetched with npm"):
        assets.asset("mathjax")


def test_an_asset_that_is_here_needs_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(assets, "KEPT", tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("asked the network"))
    (tmp_path / f"mathjax-{assets.PINNED['mathjax'][0]}").mkdir()
    assert assets.asset("mathjax").is_dir()


# What runs elsewhere.

WORKFLOWS = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / ".github" / "workflows").glob("*.yml")}


def steps(workflow: str, job: str) -> list[dict[str, Any]]:
    return WORKFLOWS[workflow]["jobs"][job]["steps"]


def runs(workflow: str, job: str) -> list[str]:
    return [step["run"] for step in steps(workflow, job) if "run" in step]


def test_the_workflow_of_github_pages_builds_what_make_builds() -> None:
    assert runs("pages", "site") == ["make setup", "make site"]
    assert [step["with"]["path"] for step in steps("pages", "site") if "path" in step.get("with", {})] == [
        site.BUILT.relative_to(ROOT).as_posix()
    ]
    assert runs("pages", "deploy") == [], "who may write there runs nothing of the course"
    assert WORKFLOWS["pages"]["jobs"]["deploy"]["needs"] == "site"


def test_a_workflow_tries_the_course_in_a_browser_and_the_package_from_elsewhere() -> None:
    assert runs("beyond", "browser") == ["make setup", "make chromium", "make browser"]
    assert runs("beyond", "package") == ["make package"]
    assert set(WORKFLOWS["beyond"][True]) >= {"push", "pull_request"}, "YAML reads the key `on` as true"
    assert [step["with"]["path"] for step in steps("beyond", "package") if "path" in step.get("with", {})] == [
        package.DIST.relative_to(ROOT).as_posix()
    ]


def test_a_workflow_runs_what_ci_runs_on_each_python_that_the_course_takes() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == f"exec {runs('test', 'test')[-1]}"
    matrix = WORKFLOWS["test"]["jobs"]["test"]["strategy"]["matrix"]
    takes = re.search(r"Python ([\d., or]+), and make", README)
    assert takes is not None
    assert matrix["python"] == re.findall(r"3\.\d+", takes[1])
    assert any(extra["system"].startswith("macos") for extra in matrix["include"])


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_a_workflow_pins_what_it_uses_may_only_read_ends_and_calls_targets_that_are_there(name: str) -> None:
    told = WORKFLOWS[name]
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
    assert told["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 45 for job in told["jobs"].values())
    used = re.findall(r"uses: (.*)", text)
    assert len(used) == sum("uses" in step for job in told["jobs"].values() for step in job["steps"]) > 0
    assert [line for line in used if not re.match(r"actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line)] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {
        step["run"].removeprefix("make ") for job in told["jobs"].values() for step in job["steps"] if "run" in step
    }
    assert called <= targets


def test_an_action_is_at_one_commit_everywhere() -> None:
    text = "".join(file.read_text() for file in (ROOT / ".github" / "workflows").glob("*.yml"))
    used = set(re.findall(r"uses: ([\w/-]+)@([0-9a-f]{40})  # (v[\d.]+)", text))
    assert len({action for action, _, _ in used}) == len(used) >= 5
