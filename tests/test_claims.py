"""The table of claims: each number is recomputed, none is typed, and a claim without its rows says so."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import claims
from benchmarks.claim import FOLDER, VERDICTS, Claim, ClaimError, Row, Study, load, look_up
from benchmarks.claims import CLAIMS, LIVE
from dynlib.cost import interval
from tools.notebooks import LECTURES, read

IDS = [f"{claim.unit}: {claim.measured[:40]}" for claim in CLAIMS]

DECK = (
    *("1611.01144", "2002.08676", "2112.07658", "2207.07061", "2303.09752", "2310.07707", "2311.12424", "2312.10193"),
    *("2404.02258", "2407.09298", "2509.15058", "2510.04871"),
)
"""The papers of the slides, but for the surveys, which claim no number."""


def runs(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = load(name)["runs"]
    return found


def row_of(study: str, words: str) -> Row:
    (claim,) = (claim for claim in CLAIMS if claim.study == study and words in claim.measured)
    return look_up(claim)


def test_every_paper_of_the_slides_has_a_claim_and_every_claim_words_of_its_own() -> None:
    assert len({claim.says for claim in CLAIMS}) == len(CLAIMS), "they are the names of the rows"
    assert set(DECK) <= {claim.arxiv for claim in CLAIMS} | {live.arxiv for live in LIVE}


@pytest.mark.parametrize("claim", CLAIMS, ids=IDS)
def test_a_claim_has_a_number_a_script_and_a_paper_that_its_lecture_names(claim: Claim) -> None:
    row = look_up(claim)
    assert row.verdict in VERDICTS
    assert row.made_by == f"python -m benchmarks.{claim.study}"
    assert (FOLDER / f"{claim.study}.py").exists()
    assert claim.above is not None or claim.within > 0
    assert claim.why.endswith(".")
    assert claim.arxiv is None or claim.arxiv in (LECTURES / f"{claim.unit}.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize("live", LIVE, ids=lambda live: f"{live.unit}: {live.says[:40]}")
def test_what_is_measured_live_has_a_table_in_its_lecture(live: claims.Live) -> None:
    assert live.cell in {cell.id for cell in read(LECTURES / f"{live.unit}.ipynb").cells}


# What the rows are chosen by. All other numbers of a file are results, or sizes that claims turn into results.
CHOSEN_BY = {
    "seed",
    "size",
    "thinking",
    "votes",
    "maps",
    "passes",
    "weight",
    "budget",
    "ratio",
    "snr",
    "alpha",
    "flops",
    "threshold",
}
CHOSEN_BY |= {"trained_loops", "tuned", "settings", "config"}


def changed(found: Any, by: Callable[[float], float], key: str = "") -> Any:
    """A file with all numbers changed but those by which rows are chosen."""
    if isinstance(found, dict):
        return {name: part if name in CHOSEN_BY else changed(part, by, name) for name, part in found.items()}
    if isinstance(found, list):
        return [changed(part, by, key) for part in found]
    return by(found) if isinstance(found, float) else found


@pytest.mark.parametrize("claim", CLAIMS, ids=IDS)
def test_a_number_follows_its_file(claim: Claim, tmp_path: Path) -> None:
    file = tmp_path / f"{claim.study}.json"
    file.write_text(json.dumps(changed(load(claim.study), lambda number: 0.5 * number**2 + 0.01)))
    assert look_up(claim, tmp_path).mean != pytest.approx(look_up(claim).mean, rel=1e-6)


def without_rows(found: Any) -> Any:
    """A file that a study has begun: its head, and empty lists."""
    return {name: [] if isinstance(part, list) else part for name, part in found.items()}


def without_numbers(found: Any) -> Any:
    """The same rows, with nothing but what they are chosen by."""
    keep = CHOSEN_BY | {"arm", "kind", "estimator", "plan"}
    return {
        name: [{key: row[key] for key in row.keys() & keep} for row in part] if isinstance(part, list) else part
        for name, part in found.items()
        if name != "auc of the ink" and (not isinstance(part, list) or all(isinstance(row, dict) for row in part))
    }


@pytest.mark.parametrize("spoil", [without_rows, without_numbers, lambda found: {"made by": found["made by"]}])
@pytest.mark.parametrize("claim", CLAIMS, ids=IDS)
def test_a_claim_whose_file_lacks_its_rows_says_so(claim: Claim, spoil: Callable[[Any], Any], tmp_path: Path) -> None:
    (tmp_path / f"{claim.study}.json").write_text(json.dumps(spoil(load(claim.study))))
    with pytest.raises(ClaimError) as raised:
        look_up(claim, tmp_path)
    says = str(raised.value)
    assert f"benchmarks/{claim.study}.json has no " in says
    assert claim.says in says
    assert f"python -m benchmarks.{claim.study}" in says


def test_a_file_that_is_not_there_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(ClaimError, match=r"no benchmarks/avit_study\.json.*python -m benchmarks\.avit_study"):
        load("avit_study", tmp_path)


def test_colt5_by_hand() -> None:
    accuracy = {(run["arm"], run["seed"]): run["accuracy"] for run in runs("colt5_study")}
    gaps = [100 * (accuracy["learned", seed] - accuracy["anchored", seed]) for seed in range(5)]
    row = row_of("colt5_study", "evenly spaced")
    assert row.values == pytest.approx(gaps)
    assert row.spread == pytest.approx(interval(gaps))
    assert row.share is not None
    assert row.share.mean == pytest.approx(row.mean / 2.0)


def test_deep_painters_by_hand() -> None:
    models = [run for run in runs("painters_study") if run["layers"] == 16]
    gaps, more = [], []
    for run in models:
        found = run["largest"]
        gaps.append(sum(found["plans"]["reverse"]["prose"]) / 300 - sum(found["orders"]["prose"]) / 50)
        lost = []
        for kind in ("sums", "prose"):
            full = sum(found["full"][kind]) / 300
            lost.append((sum(found["orders"][kind]) / 50 - full) / (run["guessed"][kind] - full))
        more.append(lost[0] - lost[1])
    assert row_of("painters_study", "reverse").values == pytest.approx(gaps, abs=1e-3)  # means of rounded numbers
    assert row_of("painters_study", "share lost").values == pytest.approx(more, abs=2e-3)


def test_recursion_by_hand() -> None:
    solved = {(run["arm"], run["seed"]): (run["solved"][-1], run["solved_raw"][-1]) for run in runs("recursion_study")}
    of_average = [100 * (solved["whole", seed][0] - solved["whole", seed][1]) for seed in range(3)]
    of_gradient = [100 * (solved["whole", seed][0] - solved["one-step gradient", seed][0]) for seed in range(3)]
    assert row_of("recursion_study", "average").values == pytest.approx(of_average)
    assert row_of("recursion_study", "gradient").values == pytest.approx(of_gradient)


def test_matformer_by_hand() -> None:
    bits = {(run["arm"], run["seed"]): run["bits"] for run in runs("matformer_study")}
    more = [
        sum(100 * (a / b - 1) for a, b in zip(bits["joint", seed], bits["independent", seed], strict=True)) / 4
        for seed in range(5)
    ]
    assert row_of("matformer_study", "above those of single models, all widths").values == pytest.approx(more)


def test_looped_by_hand() -> None:
    last = {(row["arm"], row["seed"]): row["loss"] for row in load("looped_study")["regression"]}
    more = [100 * (last["k x L", seed][9] / last["kL x 1", seed][-1] - 1) for seed in range(3)]
    assert row_of("looped_study", "error of one layer").values == pytest.approx(more)


def test_the_line_through_dense_models_passes_through_them_and_between() -> None:
    dense = [(1.0, 4.0), (4.0, 2.0), (16.0, 1.0)]
    assert [claims._between(flops, dense) for flops in (1.0, 2.0, 4.0, 8.0, 16.0)] == [4.0, 3.0, 2.0, 1.5, 1.0]
    with pytest.raises(ClaimError, match="outside"):
        claims._between(17.0, dense)


def made_up(values: tuple[float, ...], **of_claim: Any) -> Row:
    return Row(replace(CLAIMS[0], **of_claim), values, "python -m benchmarks.none")


@pytest.mark.parametrize(
    ("values", "of_claim", "verdict"),
    [
        ((1.0, 1.1, 0.9), {}, "yes"),
        ((-1.0, -1.1, -0.9), {}, "no"),
        ((-1.0, 1.1, 0.9), {}, "not clear"),
        ((5.0,), {}, "one seed"),
        ((5.0, 5.1), {"above": 10.0}, "no"),
        ((15.0, 15.1), {"above": 10.0}, "yes"),
        ((1.0, 1.1, 0.9), {"above": None, "within": 2.0}, "yes"),
        ((-1.0, -1.1, -0.9), {"above": None, "within": 2.0}, "yes"),
        ((3.0, 3.1, 2.9), {"above": None, "within": 2.0}, "no"),
        ((-3.0, -3.1, -2.9), {"above": None, "within": 2.0}, "no"),
        ((-3.0, 3.1, 0.1), {"above": None, "within": 2.0}, "not clear"),
        ((1.9, 2.0, 1.8), {"above": None, "within": 2.0}, "not clear"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(
    values: tuple[float, ...], of_claim: dict[str, Any], verdict: str
) -> None:
    row = made_up(values, **of_claim)
    assert row.verdict == verdict
    assert row.margin.low <= row.margin.mean <= row.margin.high


def test_what_varies_besides_widens_the_interval() -> None:
    alone, more = made_up((1.0, 2.0, 3.0)), replace(made_up((1.0, 2.0, 3.0)), also=(0.0, 4.0))
    assert alone.spread is not None
    assert more.spread is not None
    assert more.spread.half**2 == pytest.approx(alone.spread.half**2 + interval((0.0, 4.0)).half ** 2)
    assert more.mean == alone.mean


def test_a_share_turns_round_with_the_sign_of_the_papers_number() -> None:
    share = made_up((1.0, 2.0), theirs=-2.0).share
    assert share is not None
    assert share.low < share.mean == -0.75 < share.high
    assert made_up((1.0, 2.0)).share is None
    assert made_up((1.0,), theirs=2.0).share is None


def test_seeds_that_only_one_side_has_are_left_out_and_none_in_common_is_an_error(tmp_path: Path) -> None:
    found = {"made by": "x", "runs": [{"seed": seed, "arm": arm, "y": 1.5} for arm, seed in (("a", 0), ("b", 1))]}
    (tmp_path / "toys.json").write_text(json.dumps(found))

    def values(study: Study) -> list[float]:
        return claims.gap(study.seeds("runs", "y", arm="a"), study.seeds("runs", "y", arm="b"))

    with pytest.raises(ClaimError, match="seed that both sides"):
        look_up(replace(CLAIMS[0], study="toys", values=values, says="toys differ"), tmp_path)


def test_a_row_that_should_be_single_and_is_not_is_an_error() -> None:
    study = Study("toys", {"plans": [{"plan": "skip"}, {"plan": "skip"}]}, "toys skip")
    with pytest.raises(ClaimError, match="single row"):
        study.one("plans", plan="skip")


def test_the_page_as_it_is_committed_says_what_the_files_say() -> None:
    outputs = [
        output.get("data", {}).get("text/markdown", "")
        for cell in read(LECTURES / "18_claims.ipynb").cells
        if cell.id == "tables"
        for output in cell.outputs
    ]
    page = "\n".join(outputs)
    again = "a study has changed since: `python -m tools.lectures --all 18_claims`"
    for row in claims.rows():
        line = next((line for line in page.split("\n") if line.startswith(f"| {row.claim.says} |")), "")
        assert f"**{row.told}**" in line, again
        assert f"| **{row.verdict}** |" in line, again


@pytest.mark.parametrize(
    ("unit", "says", "starts"),
    [
        ("08_experts", "One expert a token does as well as two", "One expert a token does as well as two"),
        ("08_experts", "At equal FLOPs, a layer of many experts is better than a dense one", "At equal FLOPs a layer"),
    ],
)
def test_a_lecture_says_of_a_claim_what_the_claims_say(unit: str, says: str, starts: str) -> None:
    (row,) = (row for row in claims.rows() if row.claim.unit == unit and row.claim.says == says)
    (cell,) = (cell for cell in read(LECTURES / f"{unit}.ipynb").cells if cell.id == "paper-table")
    page = "\n".join(output.get("data", {}).get("text/markdown", "") for output in cell.outputs)
    (line,) = (line for line in page.split("\n") if line.startswith(f"| {starts}"))
    assert f"**{row.verdict}**" in line
    assert row.told.split(",")[0].lstrip("+") in line


def test_the_command_prints_all_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["claims"])
    claims.main()
    lines = capsys.readouterr().out.strip().split("\n")
    assert len(lines) == 2 + len(CLAIMS)
    assert all(row.told in line for row, line in zip(claims.rows(), lines[2:], strict=True))
