"""What lectures say: tables that every reader shows, numbers with their intervals, studies wherever a page runs."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from dynlib import page
from dynlib.cost import Interval, Ratio, interval, wilson

# Tables


def test_a_table_is_markdown_with_numbers_at_the_right() -> None:
    shown = page.table(
        ["kind", "bits", "of all"], [("dense", 2.5, "–"), ("top-k", "2.1 ± 0.1", "12 %")], note="3 seeds."
    )
    assert shown.data.splitlines() == [
        "| kind | bits | of all |",
        "|:--|--:|--:|",
        "| dense | 2.5 | – |",
        "| top-k | 2.1 ± 0.1 | 12 % |",
        "",
        "*3 seeds.*",
    ]


@pytest.mark.parametrize(
    "number", ["3", "-3", "−3", "+0.2 ± 0.1", "1,024", "12 µs", "< 1", "≈ 2.1", ".5", "**3.2**", "–"]
)
def test_numbers_stand_at_the_right(number: str) -> None:
    assert page.markdown_table(["n"], [[number]]).splitlines()[1] == "|--:|"


@pytest.mark.parametrize("word", ["", "dense", "top-k 3", "`3`", "not clear", "**yes**"])
def test_words_stand_at_the_left(word: str) -> None:
    assert page.markdown_table(["n"], [[word]]).splitlines()[1] == "|:--|"
    assert page.markdown_table(["n"], [[word], ["3"]]).splitlines()[1] == ("|--:|" if word == "" else "|:--|")


def test_a_bar_or_a_line_break_does_not_break_a_table() -> None:
    lines = page.markdown_table(["|x|"], [["a|b\nc"]]).splitlines()
    assert lines == ["| \\|x\\| |", "|:--|", "| a\\|b c |"]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"row 2 has 1 cells, and there are 2 heads: \['c'\]"):
        page.table(["x", "y"], [("a", "b"), ("c",)])


def test_a_table_without_rows_has_its_heads() -> None:
    assert page.markdown_table(["x", "y"], []) == "| x | y |\n|:--|:--|"


def test_rows_may_come_from_a_generator() -> None:
    assert page.markdown_table(["x"], ([number] for number in (1, 2))).endswith("| 1 |\n| 2 |")


def test_what_is_said_is_shown_as_markdown() -> None:
    assert page.say("*so*")._repr_markdown_() == "*so*"


# Intervals


@pytest.mark.parametrize(
    ("spread", "form", "words"),
    [
        (interval([1.0, 2.0, 3.0]), ".2f", "2.00 ± 2.48"),
        (interval([0.1, 0.2, 0.3]), "+.1%", "+20.0% ± 24.8%"),
        (interval([-0.3, -0.3]), "+.3f", "-0.300 ± 0.000"),
        (Interval(23.05, 22.05, 24.05), ".1f", "23.1 ± 1.0"),
        (Interval(23.049999999999997, 22.049999999999997, 24.049999999999997), ".1f", "23.1 ± 1.0"),
        (wilson(3, 10), ".0%", "30% (11% – 60%)"),
        (Ratio(0.5, 0.4, 0.6), ".2f", "0.50 (0.40 – 0.60)"),
        (Ratio(0.5, 0.0, math.inf), ".1f", "0.5 (0.0 – inf)"),
    ],
)
def test_a_number_with_its_interval_in_words(spread: page.Spread, form: str, words: str) -> None:
    assert page.in_words(spread, form) == words


def test_a_verdict_is_given_where_the_interval_allows_one() -> None:
    up, down, wide = Interval(1.0, 0.5, 1.5), Interval(-1.0, -1.5, -0.5), Interval(0.1, -1.0, 1.2)
    assert [page.verdict(gap) for gap in (up, down, wide)] == ["yes", "no", "not clear"]
    assert page.verdict(Ratio(1.2, 1.1, 1.3), zero=1.0, more="slower", less="faster") == "slower"
    assert page.verdict(Ratio(0.8, 0.7, 0.9), zero=1.0, more="slower", less="faster") == "faster"
    assert page.verdict(Ratio(1.0, 0.7, 1.1), zero=1.0, unclear="equal") == "equal"


# Studies


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the learner's, far from the checkout, with a study of its own above it."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "mine_study.json").write_text(json.dumps({"runs": [1, 2]}))
    (tmp_path / "copies" / "lectures").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "copies" / "lectures")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "avit_study",
        "colt5_study",
        "gumbel_study",
        "mixture_of_depths_study",
        "painters_minilm",
        "paths_study",
        "thinking_study",
    ],
)
@pytest.mark.parametrize("folder", [".", "lectures", "/"])
def test_a_study_is_found_from_anywhere(name: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.chdir(root / folder)
    assert page.study(name) == json.loads((root / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def test_a_study_of_a_copied_course_is_found(elsewhere: Path) -> None:
    assert page.study("mine_study") == {"runs": [1, 2]}


def test_a_study_that_is_not_there_is_said_to_be_missing(elsewhere: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        page.study("no_study")
    said = str(caught.value)
    assert "no_study.json" in said
    assert "mine_study" in said
    assert "avit_study" in said
    assert "python -m benchmarks.no_study" in said


@pytest.mark.parametrize("name", ["../avit_study", "avit_study.json", ""])
def test_a_study_goes_by_its_name_alone(name: str) -> None:
    with pytest.raises(ValueError, match="without its ending"):
        page.study(name)


# Draws, and what must not be loaded


def test_a_seed_draws_the_same_numbers_again() -> None:
    first, again, other = (page.seeded(seed).initial_seed() for seed in (3, 3, 4))
    assert first == again != other


def test_the_page_needs_neither_matplotlib_nor_ipython_until_it_shows_something() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['matplotlib', 'IPython'])); from dynlib import page;"
        "print(page.markdown_table(['x'], [[page.in_words(page.Interval(1.0, 0.5, 1.5))]]).splitlines()[-1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "| 1.00 ± 0.50 |", done.stderr
