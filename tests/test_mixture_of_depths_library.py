"""The study of mixture of depths on the library's source: its text, its kinds, its file."""

import sysconfig
from pathlib import Path

import pytest
import torch

import benchmarks.mixture_of_depths_library_study as study
from benchmarks.claim import load
from benchmarks.study import rounded

SETTINGS = study.SETTINGS


def text_of(split: str) -> str:
    return bytes(study.library("test" if split == "test" else "train").tolist()).decode()


def test_a_file_is_to_train_on_or_to_test_with_and_tests_and_tables_are_neither() -> None:
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = {split: text_of(split) for split in ("train", "test")}
    found = {}
    for name in ("ast.py", "argparse.py", "json/decoder.py", "heapq.py", "pydoc_data/topics.py", "encodings/cp037.py"):
        source = (root / name).read_text(encoding="utf-8")
        found[name] = [split for split, text in texts.items() if source in text]
    assert all(len(splits) == 1 for splits in list(found.values())[:4])
    assert all(splits == [] for splits in list(found.values())[4:])
    share = len(texts["test"]) / sum(map(len, texts.values()))
    assert 0.03 < share < 0.25  # files differ in length


def test_what_is_read_depends_on_seed_and_step_alone() -> None:
    number, length = SETTINGS["batch"]
    read = study.batches(1)(7)
    assert read.shape == (number, length + 1)
    assert torch.equal(read, study.batches(1)(7))
    assert not torch.equal(read, study.batches(1)(8))
    assert not torch.equal(read, study.batches(2)(7))
    assert torch.equal(study.held_out(), study.held_out())


def test_longer_is_as_long_as_the_flops_of_six_dense_layers_last() -> None:
    model = study.small_lm(**SETTINGS["model"])
    whole = SETTINGS["training"]["steps"] * study.flops_per_byte(model)
    for kind, (build, changes, longer) in study.KINDS.items():
        each = study.flops_per_byte(build(**SETTINGS["model"] | changes))
        spent = study.steps_of(kind) * each
        assert abs(spent - whole) <= each if longer else study.steps_of(kind) == SETTINGS["training"]["steps"]


def test_a_kind_is_trained_measured_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "model": {"vocabulary": 256, "dim": 8, "depth": 2, "heads": 2},
        "batch": [2, 16],
        "training": SETTINGS["training"] | {"steps": 3},
        "held-out windows": 20,
    }
    for name, change in small.items():
        monkeypatch.setitem(SETTINGS, name, change)
    monkeypatch.setattr(study, "RESULTS", tmp_path / "study.json")
    cases = [{"kind": kind, "seed": 5} for kind in ("dense, 3 layers", "top-k, 12.5 %, longer", "gaussian, 12.5 %")]
    rows = study.results().sweep(cases, lambda **case: study.run(**case, checkpoints=tmp_path))
    assert [row["steps"] for row in rows] == [3, study.steps_of("top-k, 12.5 %, longer"), 3]
    assert all(0 < row["bits"] < 12 for row in rows)
    assert ["bits_by_predictor" in row for row in rows] == [False, True, False]
    assert study.results().sweep(cases, lambda **_: pytest.fail("made again")) == rows


def test_the_file_has_every_kind_with_every_seed_and_was_made_with_these_settings() -> None:
    found = load("mixture_of_depths_library_study")
    assert {key: found[key] for key in SETTINGS} == rounded(SETTINGS)
    rows = {(row["kind"], row["seed"]): row for row in found["runs"]}
    assert sorted(rows) == sorted((kind, seed) for kind in study.KINDS for seed in study.SEEDS)
    for (kind, _), row in rows.items():
        assert row["steps"] == study.steps_of(kind)
        assert 1 < row["bits"] < 4
        assert ("bits_by_predictor" in row) == kind.startswith("top-k")
