"""The table of the benchmarks is well formed, and every benchmark is listed and runs."""

import json
import re
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from time import perf_counter

import pytest
import torch

import benchmarks.__main__ as command
from benchmarks import given, kept, peers, study
from benchmarks import race as races
from benchmarks.peers import peer
from benchmarks.race import Race, against, contest, pays
from benchmarks.table import HEADINGS, Row, in_short, markdown
from dynlib.cost import Timing

FULL = Row(
    mechanism="half | of it",
    size="dim 8",
    peer="all of it",
    flops_share=0.5,
    time_share=0.625,
    interval=(0.6, 0.65),
    masked=(1.0, 1.25),
    quality="accuracy 0.8",
    matmul_share=0.701,
    peer_matmul_share=0.75,
    note="two\nlines",
)
BARE = Row(mechanism="m", size="s")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_table_has_a_cell_for_every_heading():
    head, rule, full, bare = (cells(line) for line in markdown([FULL, BARE]).splitlines())
    assert head == list(HEADINGS)
    assert all(re.fullmatch("--[-:]", cell) for cell in rule)
    assert full == [
        r"half \| of it",
        "dim 8",
        "all of it",
        "0.50",
        "0.62 (0.60 … 0.65)",
        "0.80",
        "1.00, 1.25",
        "accuracy 0.8",
        "70 % (75 %)",
        "two lines",
    ]
    assert bare == ["m", "s", *["–"] * 8]
    assert len(head) == len(rule) == len(full) == len(bare)


def test_another_device_gets_a_column_and_what_only_it_has_a_row():
    there = replace(FULL, time_share=0.25, interval=(0.2, 0.3), note="not shown twice")
    alone = replace(there, mechanism="fused", flops_share=None, note="on the other alone")
    lines = [cells(line) for line in markdown([FULL, BARE], {"a GPU": [there, alone]}).splitlines()]
    assert lines[0] == [*HEADINGS[:-1], "on a GPU", HEADINGS[-1]]
    assert all(len(line) == len(lines[0]) for line in lines)
    assert lines[2][-2:] == ["0.25 (0.20 … 0.30), efficiency 2.00", "two lines"]
    assert lines[3][-2:] == ["–", "–"]
    assert lines[4] == ["fused", "dim 8", "all of it", *["–"] * 6, "0.25 (0.20 … 0.30)", "on the other alone"]


def test_the_page_says_how_many_rows_reach_their_aim():
    met, open_, below = replace(FULL, aim=0.8), replace(FULL, aim=0.82), replace(FULL, aim=1.0)
    assert in_short([met, met, open_, below, BARE, FULL]) == (
        "Of 4 rows with an aim at the efficiency (1 at dim 256, 0.9 below it), 2 reach it, 1 are not clearly below it, "
        "and 1 are below it; each of these says where the time goes."
    )
    assert in_short([BARE, FULL]) == ""
    assert "\n\nOf 4 rows" in command.document("table", in_short([met, met, open_, below]))


def test_efficiency_is_share_of_flops_over_share_of_time():
    assert FULL.efficiency == pytest.approx(0.8)
    assert replace(BARE, time_share=0.5).efficiency is None


def test_every_benchmark_module_is_listed():
    files = Path(command.__file__).parent.glob("*.py")
    assert set(command.BENCHMARKS) == {path.stem for path in files if "def cases(" in path.read_text(encoding="utf-8")}


@pytest.mark.parametrize("quick", [True, False])
def test_no_two_cases_have_a_name(quick):
    names = [name for module in command.BENCHMARKS.values() for name, _ in module.cases(quick=quick)]
    assert len(set(names)) == len(names) > 20


@pytest.mark.parametrize("name", list(command.BENCHMARKS))
def test_every_benchmark_runs(name, tmp_path, capsys):
    path = tmp_path / "results.json"
    table = command.main(["--quick", "--device", "cpu", "--only", name, "--results", str(path)])
    lines = [cells(line) for line in table.splitlines()]
    cases = command.BENCHMARKS[name].cases(quick=True)
    assert len(lines) >= 2 + len(cases) > 2
    assert all(len(line) == len(HEADINGS) for line in lines)
    assert all(line[-1].endswith((".", "is")) for line in lines[2:]), "a row says in words what to take from it"
    assert table in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    # two budgets of every mechanism, unless it is compared with a package alone
    known = [line for line in lines[2:] if line[5] != "–"]
    assert name in WITHOUT_BUDGETS or len(known) >= 2


WITHOUT_BUDGETS = ("cost", "gumbel", "sparse", "perturbed", "governor")


class Listed:
    """Benchmarks of two cases that count how often they are run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.wrong = False

    def cases(self, *, quick: bool = False):
        return [("first", self.first), ("second", self.second)]

    def first(self) -> list[Row]:
        self.ran.append("first")
        return [FULL, replace(BARE, note="Said.")]

    def second(self) -> Row:
        if self.wrong:
            raise KeyboardInterrupt
        self.ran.append("second")
        return replace(BARE, mechanism="n")


@pytest.fixture
def listed(monkeypatch):
    made = Listed()
    monkeypatch.setattr(command, "BENCHMARKS", {"listed": made})
    monkeypatch.setattr(command, "ONLY_CPU", ())
    return made


def test_the_benchmarks_go_on_where_they_were_interrupted(listed, tmp_path):
    path = tmp_path / "results.json"
    run = ["--device", "cpu", "--results", str(path)]
    listed.wrong = True
    with pytest.raises(KeyboardInterrupt):
        command.main(run)
    assert listed.ran == ["first"]
    listed.wrong = False
    table = command.main(run)
    assert listed.ran == ["first", "second"]
    assert table == markdown([FULL, replace(BARE, note="Said."), replace(BARE, mechanism="n")])
    assert command.main(run) == table
    assert listed.ran == ["first", "second"]
    assert command.main([*run, "--again"]) == table
    assert listed.ran == ["first", "second"] * 2
    assert (tmp_path / "RESULTS.md").read_text(encoding="utf-8") == command.document(table)
    assert json.loads(path.read_text(encoding="utf-8"))["made by"] == "python -m benchmarks"


def test_rows_of_other_machines_and_versions_are_kept_and_not_taken(listed, tmp_path, monkeypatch):
    run = ["--device", "cpu", "--results", str(tmp_path / "results.json")]
    command.main(run)
    with monkeypatch.context() as other:
        other.setattr(kept, "machine", lambda device="cpu": "another machine")
        command.main(run)
    with monkeypatch.context() as other:
        other.setattr(kept, "versions", lambda: "torch 99")
        command.main(run)
    assert listed.ran == ["first", "second"] * 3
    command.main(run)
    assert len(listed.ran) == 6
    assert len(json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["measured"]) == 3


def test_a_quick_run_keeps_nothing_and_is_never_taken_for_a_full_one(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results.json")
    command.main(["--quick"])
    assert not list(tmp_path.iterdir())
    run = ["--device", "cpu", "--results", str(tmp_path / "results.json")]
    command.main([*run, "--quick"])
    command.main(run)
    assert len(listed.ran) == 6


def test_a_benchmark_that_fails_does_not_stop_the_others(listed, tmp_path, capsys, monkeypatch):
    def fail():
        raise ValueError("of this case alone")

    monkeypatch.setattr(listed, "first", fail)
    with pytest.raises(SystemExit, match="not measured, for the errors above: first on cpu"):
        command.main(["--device", "cpu", "--results", str(tmp_path / "results.json")])
    assert listed.ran == ["second"]
    assert "of this case alone" in capsys.readouterr().err


def test_another_device_is_measured_as_well_and_joins_the_table(listed, tmp_path, monkeypatch):
    where = []
    monkeypatch.setattr(listed, "second", lambda: where.append(torch.get_default_device().type) or BARE)
    for module in (command, kept):
        monkeypatch.setattr(module, "machine", lambda device="cpu": {"cpu": "here"}.get(device, "a GPU"))
    table = command.main(["--device", "cpu", "--device", "meta", "--results", str(tmp_path / "results.json")])
    assert where == ["cpu", "meta"]
    assert cells(table.splitlines()[0])[-2] == "on a GPU"


def test_what_is_given_lies_on_the_default_device_and_is_the_same_everywhere():
    with torch.device("meta"):
        made = [given.normal(2, 3), given.uniform(2, 3), given.whole(4, 2), *given.digits(2), given.bytes_of_text(2, 8)]
    assert {one.device.type for one in made} == {"meta"}
    assert torch.equal(given.normal(2, 3), given.normal(2, 3))
    assert given.whole(4, 1000).unique().tolist() == [0, 1, 2, 3]


def test_the_page_shows_the_rows_that_are_kept():
    page = command.RESULTS.with_name("RESULTS.md").read_text(encoding="utf-8")
    measured = json.loads(command.RESULTS.read_text(encoding="utf-8"))["measured"]
    cases = {name for module in command.BENCHMARKS.values() for name, _ in module.cases()}
    shown = [
        all(row["mechanism"].replace("|", "") in page for case in cases for row in part["rows"].get(case, []))
        for part in measured
        if f"Measured on: {part['machine']}; {part['versions']}." in page
    ]
    assert shown == [True]
    assert not any(part["quick"] for part in measured)


def test_a_package_that_is_not_there_is_skipped_with_a_sentence_and_tried_again(tmp_path):
    name, measure = peer("a mechanism", "no-such-package", pytest.fail)
    row = measure()
    assert "no-such-package is not installed; `make peers` adds it" in row.note
    store = kept.Kept(tmp_path / "results.json")
    store.add(name, "cpu", row)
    assert store.rows(name, "cpu") is None
    assert kept.Kept(tmp_path / "results.json").shown([name], "cpu") == [row]


def test_of_a_package_out_of_the_extras_only_the_module_that_is_asked_for_is_imported(tmp_path, monkeypatch):
    folder = tmp_path / "fronted"
    folder.mkdir()
    (folder / "__init__.py").write_text("import what_nobody_has")
    (folder / "part.py").write_text("VALUE = 7")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(peers, "version", lambda package: "1.0")
    _, measure = peer("a", "fronted", lambda module, named: (module.VALUE, named), module="fronted.part", extra=False)
    try:
        assert [measure(), measure()] == [(7, "fronted 1.0")] * 2
    finally:
        for name in ("fronted", "fronted.part"):
            sys.modules.pop(name, None)


def test_an_unknown_benchmark_is_an_error_that_names_the_known(capsys):
    with pytest.raises(SystemExit):
        command.main(["--only", "nothing"])
    message = capsys.readouterr().err
    assert all(name in message for name in command.BENCHMARKS)


def ran(time_share: float, flops_share: float, **more) -> Race:
    flops = (round(100 * flops_share), 100)
    return Race("ours", "theirs", flops, (time_share, 1.0), time_share, (0.9 * time_share, 1.1 * time_share), **more)


def test_a_contest_takes_each_side_in_its_fastest_way_and_counts_that_way():
    small, large = torch.nn.Linear(8, 8), torch.nn.Linear(512, 512)
    few, many = torch.randn(64, 8), torch.randn(4096, 512)
    with torch.inference_mode():
        found = contest(
            {
                "little": {"slow": lambda: large(many), "fast": lambda: small(few)},
                "all": {"slow": lambda: (large(many), large(many), large(many)), "once": lambda: large(many)},
            },
            {"one": lambda: large(many), "thrice": lambda: (large(many), large(many), large(many))},
            masked={"little": lambda: (large(many), small(few))},
            repeats=7,
        )
    run = found["little"]
    assert [(one.ours, one.peer) for one in found.values()] == [("fast", "one"), ("once", "one")]
    assert run.flops == (2 * 64 * 8 * 8, 2 * 4096 * 512 * 512)
    assert found["all"].flops_share == 1
    assert run.masked[0] == pytest.approx(1 + run.flops_share)
    assert run.masked[1] > run.time_share
    assert found["all"].masked is None
    assert run.efficiency == pytest.approx(run.flops_share / run.time_share)
    assert run.interval[0] <= run.time_share <= run.interval[1]
    assert all(0 < inside < 1 for inside in run.inside)
    row = run.row("few", "small", note="how")
    assert (row.mechanism, row.size, row.peer) == ("few", "small", "dense")
    assert (row.flops_share, row.time_share, row.interval) == (run.flops_share, run.time_share, run.interval)
    assert row.efficiency == run.efficiency
    rates = [flops / seconds for flops, seconds in zip(run.flops, run.seconds, strict=True)]
    assert row.matmul_share / row.peer_matmul_share == pytest.approx(rates[0] / rates[1])
    assert row.note == f"{run.saves()}; how."


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_clock_runs_in_the_products_of_a_linear_layer(mode):
    layer, x = torch.nn.Linear(512, 512), torch.randn(2048, 512)
    with mode(), races._Products() as products:
        for _ in range(3):
            products.seconds, begin = 0.0, perf_counter()
            layer(x) @ layer.weight
            took = perf_counter() - begin
    assert products.seconds > took / 2


def test_a_row_says_what_is_saved_and_where_the_rest_is_lost():
    assert ran(0.5, 0.5).saves() == "50 % of the time saved (500 ms against 1000 ms)"
    assert ran(1.5, 0.5).saves() == "slower: 1.50 × the time (1500 ms against 1000 ms)"
    assert ran(0.95, 0.5).saves().startswith("no clear difference in time")
    assert ran(0.5, 0.5).says(None) == ""
    assert ran(0.5, 0.5).says(1.0) == "at or above the aim, an efficiency of 1"
    assert ran(0.52, 0.5).says(1.0) == "not clearly below the aim of 1"
    # half the FLOPs in 0.4 seconds of products, where the peer took 0.8: 1.0 of its rate; and 0.4 against 0.2 elsewhere
    assert ran(0.8, 0.5, inside=(0.5, 0.8)).says(1.0) == (
        "below the aim of 1: its products run at 1.00 of the peer's rate, and 50 % of its time goes elsewhere "
        "(peer's: 20 %)"
    )


def test_a_package_that_is_faster_is_called_so_and_why(monkeypatch):
    def says(ours: float, theirs: float, **options) -> Row:
        samples = tuple(tuple(seconds * (1 + turn / 100) for turn in range(9)) for seconds in (ours, theirs))
        monkeypatch.setattr(races, "timed", lambda *functions, **_: Timing(samples, (1, 1)))
        product = torch.ones(16, 16)
        return against("m", "s", "p", lambda: product @ product, lambda: product[:8] @ product, **options)

    assert says(0.01, 0.04, note="n").note == "4 times as fast as the package (10.4 ms against 41.6 ms); n."
    faster = "the package is faster (41.6 ms against 10.4 ms)"
    assert says(0.04, 0.01, slower="because", note="n").note == f"{faster}: because; n."
    assert says(0.04, 0.01).note == f"{faster}: ours runs 2.00 × its FLOPs."
    assert says(0.04, 0.01, flops=False).note == f"{faster}."
    row = says(0.02, 0.01)
    assert (row.flops_share, row.time_share, row.efficiency) == pytest.approx((2, 2, 1))
    assert says(0.02, 0.01, flops=False).flops_share is None


def test_where_a_mechanism_pays_is_from_where_on_it_never_loses_again():
    runs = {1: ran(1.2, 0.5), 2: ran(0.9, 0.5), 3: ran(1.01, 0.5), 4: ran(0.6, 0.5), 5: ran(0.4, 0.5)}
    row = pays("half", "dim 1 to 5", "dim", list(runs), runs.__getitem__)
    assert (row.mechanism, row.size) == ("half: where it breaks even", "dim 1 to 5")
    assert row.note == (
        "by dim: faster than dense from 4 on (share of its time 1: 1.20, 2: 0.90, 3: 1.01, 4: 0.60, 5: 0.40); "
        "efficiency of 1 and more from 5 on."
    )
    assert row.efficiency is None
    assert "faster than dense at none up to 3" in pays("half", "s", "dim", [1, 2, 3], runs.__getitem__).note
    assert "faster than dense at all from 4 on" in pays("half", "s", "dim", [4, 5], runs.__getitem__).note
    assert pays("half", "s", "dim", [1, 4], runs.__getitem__).note.endswith("at none up to 4; the best is 0.83.")


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
        "avit_hatched",
        "calm",
        "colt5",
        "colt5_heavy",
        "experts",
        "gumbel",
        "looped",
        "matformer",
        "mixture_of_depths",
        "mixture_of_depths_hard",
        "painters",
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
    if path.name in (command.RESULTS.name, "compiled.json"):  # of `make bench`, whole or in part
        assert made == "python -m benchmarks"
        return
    assert made == f"python -m benchmarks.{path.stem}"
    assert path.with_suffix(".py").exists()
