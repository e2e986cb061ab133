"""The table of the benchmarks is well formed, and every benchmark is listed and runs."""

import re
from pathlib import Path

import pytest

import benchmarks.__main__ as command
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
    command.main(["--quick"])
    assert not command.RESULTS.exists()


def test_an_unknown_benchmark_is_an_error_that_names_the_known(capsys):
    with pytest.raises(SystemExit):
        command.main(["--only", "nothing"])
    message = capsys.readouterr().err
    assert all(name in message for name in command.BENCHMARKS)
