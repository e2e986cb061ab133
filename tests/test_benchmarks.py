"""The table of the benchmarks is well formed, and every benchmark is listed and runs."""

import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import benchmarks.__main__ as command
from benchmarks import study
from benchmarks.race import Race, pays, race, where_it_pays
from benchmarks.table import HEADINGS, Row, markdown

FULL = Row(
    mechanism="half | of it",
    size="dim 8",
    peer="all of it",
    flops_share=0.5,
    time_share=0.625,
    interval=(0.6, 0.65),
    matmul_share=0.701,
    peer_matmul_share=0.75,
    note="two\nlines",
)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_table_has_a_cell_for_every_heading():
    head, rule, full, bare = (cells(line) for line in markdown([FULL, Row(mechanism="m", size="s")]).splitlines())
    assert head == list(HEADINGS)
    assert all(re.fullmatch("--[-:]", cell) for cell in rule)
    assert full == [
        r"half \| of it",
        "dim 8",
        "all of it",
        "0.50",
        "0.62",
        "0.60 … 0.65",
        "0.80",
        "70 %",
        "75 %",
        "two lines",
    ]
    assert bare == ["m", "s", *["–"] * 8]
    assert len(head) == len(rule) == len(full) == len(bare)


def test_efficiency_is_share_of_flops_over_share_of_time():
    assert FULL.efficiency == pytest.approx(0.8)
    assert Row(mechanism="m", size="s", time_share=0.5).efficiency is None


def test_every_benchmark_module_is_listed():
    files = Path(command.__file__).parent.glob("*.py")
    assert set(command.BENCHMARKS) == {path.stem for path in files if "def cases(" in path.read_text(encoding="utf-8")}


@pytest.mark.parametrize("name", list(command.BENCHMARKS))
def test_every_benchmark_runs(name, tmp_path, capsys):
    output = tmp_path / "results.md"
    table = command.main(["--quick", "--only", name, "--output", str(output)])
    lines = [cells(line) for line in table.splitlines()]
    assert len(lines) == 2 + len(command.BENCHMARKS[name].cases(quick=True)) > 2
    assert all(len(line) == len(HEADINGS) for line in lines)
    assert table in output.read_text(encoding="utf-8")
    assert table in capsys.readouterr().out


def test_a_part_of_the_benchmarks_does_not_replace_the_results(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(command, "BENCHMARKS", {"gumbel": command.BENCHMARKS["gumbel"]})
    command.main(["--quick"])
    assert not command.RESULTS.exists()


def test_an_unknown_benchmark_is_an_error_that_names_the_known(capsys):
    with pytest.raises(SystemExit):
        command.main(["--only", "nothing"])
    message = capsys.readouterr().err
    assert all(name in message for name in command.BENCHMARKS)


def ran(time_share: float, flops_share: float) -> Race:
    return Race("ours", "theirs", (round(100 * flops_share), 100), (time_share, 1.0), time_share, (0.0, 9.0))


def test_a_race_takes_each_side_in_its_fastest_way_and_counts_that_way():
    small, large = torch.nn.Linear(8, 8), torch.nn.Linear(512, 512)
    few, many = torch.randn(64, 8), torch.randn(4096, 512)
    with torch.inference_mode():
        run = race(
            {"slow": lambda: large(many), "fast": lambda: small(few)},
            {"one": lambda: large(many), "twice": lambda: (large(many), large(many))},
            repeats=7,
        )
    assert (run.ours, run.peer) == ("fast", "one")
    assert run.flops == (2 * 64 * 8 * 8, 2 * 4096 * 512 * 512)
    assert run.efficiency == pytest.approx(run.flops_share / run.time_share)
    assert run.interval[0] <= run.time_share <= run.interval[1]
    row = run.row("few", "small", note="how")
    assert (row.mechanism, row.size, row.peer) == ("few, fast", "small", "dense, one")
    assert (row.flops_share, row.time_share, row.interval) == (run.flops_share, run.time_share, run.interval)
    assert row.efficiency == run.efficiency
    rates = [flops / seconds for flops, seconds in zip(run.flops, run.seconds, strict=True)]
    assert row.matmul_share / row.peer_matmul_share == pytest.approx(rates[0] / rates[1])
    assert row.note == f"how; {run.milliseconds}"
    assert run.row("few", "small").note == run.milliseconds


def test_where_a_mechanism_pays_is_from_where_on_it_never_loses_again():
    runs = {1: ran(1.2, 0.5), 2: ran(0.9, 0.5), 3: ran(1.01, 0.5), 4: ran(0.6, 0.5), 5: ran(0.4, 0.5)}
    said = where_it_pays("dim", list(runs), runs.__getitem__)
    assert said.startswith("by dim: faster than dense from 4 on, efficiency of 1 and more from 5 on (1: 1.20 of")
    assert "at none up to 3" in where_it_pays("dim", [1, 2, 3], runs.__getitem__)
    assert "faster than dense at all from 4 on" in where_it_pays("dim", [4, 5], runs.__getitem__)
    row = pays("half", "dim 1 to 5", "dim", list(runs), runs.__getitem__)
    assert (row.mechanism, row.size, row.note) == ("half: where it pays", "dim 1 to 5", said)
    assert row.efficiency is None


def test_a_file_of_results_is_short_and_holds_what_was_found(tmp_path):
    found = {**study.head("colt5_study"), "runs": [{"seed": 0, "loss": 1 / 3, "curve": (1.0, 2.00004)}]}
    study.write(tmp_path / "found.json", found)
    text = (tmp_path / "found.json").read_text(encoding="utf-8")
    assert json.loads(text) == study.rounded(found)
    assert study.rounded(found)["runs"] == [{"seed": 0, "loss": 0.3333, "curve": [1.0, 2.0]}]
    assert "[ 1.0, 2.0 ]" in text
    assert found["made by"] == "python -m benchmarks.colt5_study"


MADE = {"made by": "python -m benchmarks.here", "settings": {"steps": 3, "lr": 1 / 3}}
PLAN = [{"arm": arm, "seed": seed} for arm in ("a", "b") for seed in (0, 1)]


def test_a_study_goes_on_where_it_was_interrupted(tmp_path):
    ran = []

    def run(arm, seed):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append((arm, seed))
        return {"loss": seed + 1 / 3, "curve": (1.0, 2.0)}

    def mean_loss(runs):
        return {"mean": sum(row["loss"] for row in runs) / len(runs)}

    path = tmp_path / "here.json"
    results = study.Results(path, MADE, summary=mean_loss)
    assert results.once("start", lambda: 2 / 3) == 0.6667
    with pytest.raises(KeyboardInterrupt):
        results.sweep(PLAN, run)
    assert ran == [("a", 0), ("a", 1)]
    half = json.loads(path.read_text(encoding="utf-8"))
    assert list(half) == ["made by", "settings", "start", "mean", "runs"]
    assert half["runs"][1] == {"arm": "a", "seed": 1, "loss": 1.3333, "curve": [1.0, 2.0]}
    assert half["mean"] == pytest.approx(5 / 6, abs=1e-4)

    again = study.Results(path, MADE, summary=mean_loss)
    assert again.once("start", lambda: pytest.fail("it is there")) == 0.6667
    ran.clear()
    rows = again.sweep(PLAN, run)
    assert ran == [("b", 0), ("b", 1)]
    assert [(row["arm"], row["seed"]) for row in rows] == [(case["arm"], case["seed"]) for case in PLAN]
    assert rows == json.loads(path.read_text(encoding="utf-8"))["runs"]


def test_a_case_may_give_several_rows_and_a_sweep_may_have_a_name(tmp_path):
    results = study.Results(tmp_path / "here.json", MADE)
    rows = results.sweep([{"size": 1}, {"size": 2}], lambda size: [{"plan": 0}, {"plan": size}], name="plans")
    assert rows == [{"size": 1, "plan": 0}, {"size": 1, "plan": 1}, {"size": 2, "plan": 0}, {"size": 2, "plan": 2}]
    assert study.Results(tmp_path / "here.json", MADE).sweep([{"size": 2}], pytest.fail, name="plans") == rows


def test_a_file_of_other_settings_is_read_and_not_added_to(tmp_path):
    path = tmp_path / "here.json"
    study.Results(path, MADE).sweep(PLAN[:1], lambda arm, seed: {})
    kept = path.read_bytes()
    other = study.Results(path, MADE | {"settings": {"steps": 4}})
    assert other.sweep(PLAN[:1], pytest.fail) == PLAN[:1]
    with pytest.raises(ValueError, match=r"here\.json was made with other settings: delete it to start again"):
        other.sweep(PLAN, pytest.fail)
    with pytest.raises(ValueError, match="other settings"):
        other.once("start", pytest.fail)
    assert path.read_bytes() == kept


FINISHED = [
    *(
        "acm",
        "avit",
        "colt5",
        "experts",
        "gumbel",
        "looped",
        "matformer",
        "mixture_of_depths",
        "paths",
        "recursion",
        "thinking",
    )
]


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_study_runs_nothing_again_and_leaves_its_file_alone(name, tmp_path, monkeypatch):
    module = import_module(f"benchmarks.{name}_study")
    path = tmp_path / module.RESULTS.name
    path.write_bytes(module.RESULTS.read_bytes())
    monkeypatch.setattr(module, "RESULTS", path)
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("it was trained before"), raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(sys, "argv", [f"{name}_study"])
    module.main()
    assert path.read_bytes() == module.Path(module.__file__).with_suffix(".json").read_bytes()


@pytest.mark.parametrize("path", sorted(Path(command.__file__).parent.glob("*.json")), ids=lambda path: path.stem)
def test_a_file_of_results_names_the_study_that_is_there(path):
    made = json.loads(path.read_text(encoding="utf-8"))["made by"]
    assert made == f"python -m benchmarks.{path.stem}"
    assert path.with_suffix(".py").exists()
