"""Eight kinds of text: apart, of one law in both splits, and mixed evenly."""

import subprocess
import sys
import zlib
from collections import Counter

import pytest
import torch

from dynlib.data import encode, kinds, mixed_windows, text
from dynlib.data import kinds as kinds_of
from dynlib.data.kinds import CHARACTERS, TEST_MODULES, TRAIN_MODULES, _source

NAMES = ["prose", "python", "tables", "sums", "log", "genome", "language A", "language B"]
DRAWN = [name for name in NAMES if name not in ("prose", "python")]


def test_both_splits_have_the_same_kinds_in_the_same_order() -> None:
    assert list(kinds("train")) == list(kinds("test")) == NAMES


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("split", ["train", "test"])
def test_what_is_drawn_is_as_long_as_said_and_plain(name: str, split: str) -> None:
    written = kinds(split)[name]  # type: ignore[arg-type]
    assert len(written) == CHARACTERS[split]
    assert written.isascii()
    assert "\n" in written


def test_the_real_kinds_are_what_every_python_brings() -> None:
    for split in ("train", "test"):
        assert kinds(split)["prose"] == text(split)
    assert not set(TRAIN_MODULES) & set(TEST_MODULES)
    for split, modules in (("train", TRAIN_MODULES), ("test", TEST_MODULES)):
        whole = kinds(split)["python"]  # type: ignore[arg-type]
        assert len(whole) > CHARACTERS[split]
        assert all(_source(module) in whole for module in modules)
        compile(_source(modules[0]), modules[0], "exec")


def test_a_module_without_a_source_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no .*nothing_of_that_name\.py"):
        _source("nothing_of_that_name")


@pytest.mark.parametrize("name", DRAWN)
def test_hardly_a_stretch_of_the_test_text_occurs_in_training(name: str) -> None:
    size = 40
    train, test = kinds("train")[name], kinds("test")[name]
    seen = {train[start : start + size] for start in range(len(train) - size + 1)}
    again = sum(test[start : start + size] in seen for start in range(len(test) - size + 1))
    assert again / (len(test) - size + 1) < 0.05


def test_the_two_splits_of_a_language_are_of_one_law_and_the_languages_apart() -> None:
    words = {
        (name, split): Counter(" ".join(kinds(split)[name].split("\n")[:-1]).split())  # type: ignore[arg-type]
        for name in ("language A", "language B")
        for split in ("train", "test")
    }
    for name in ("language A", "language B"):
        assert set(words[name, "test"]) <= set(words[name, "train"])
        assert 150 < len(words[name, "train"]) <= 300
    assert len(set(words["language A", "train"]) & set(words["language B", "train"])) <= 5
    letters = [set("".join(words[name, "train"])) for name in ("language A", "language B")]
    assert len(letters[0] ^ letters[1]) <= 2


def test_the_genome_is_four_letters_of_which_five_say_what_follows() -> None:
    written = {split: kinds(split)["genome"].replace("\n", "") for split in ("train", "test")}  # type: ignore[arg-type]
    assert set(written["train"]) == set("ACGT")
    follows: dict[str, Counter[str]] = {}
    for at in range(5, len(written["train"])):
        follows.setdefault(written["train"][at - 5 : at], Counter())[written["train"][at]] += 1
    guess = {before: letters.most_common(1)[0][0] for before, letters in follows.items()}
    test = written["test"]
    right = sum(guess.get(test[at - 5 : at]) == test[at] for at in range(5, len(test)))
    assert right / (len(test) - 5) > 0.5  # a quarter would be right by chance


def test_the_sums_are_right() -> None:
    lines = kinds("test")["sums"].split("\n")[:-1]  # the last may be cut
    assert len(lines) > 1000
    for line in lines:
        said, result = line.split("=")
        assert eval(said) == int(result)
    assert {"+", "-"} <= set("".join(lines))


def test_the_text_is_the_same_in_another_process() -> None:
    """No hash of a string decides: they differ from process to process."""
    program = "from dynlib.data import kinds; import zlib; print(zlib.crc32(''.join(kinds('test').values()).encode()))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(found) == zlib.crc32("".join(kinds("test").values()).encode())


def test_mixed_windows_are_stretches_of_the_kind_that_they_say() -> None:
    tokens, kind = mixed_windows("test", 400, 64, generator=torch.Generator().manual_seed(0))
    assert tokens.shape == (400, 64)
    assert tokens.dtype == kind.dtype == torch.int64
    whole = [bytes(encode(part).tolist()) for part in kinds("test").values()]
    assert all(bytes(row.tolist()) in whole[number] for row, number in zip(tokens, kind.tolist(), strict=True))
    # each of 400 is of a kind with probability 1/8: fewer than 20 or more than 90 of one happens with p < 1e-6
    assert all(20 <= count <= 90 for count in torch.bincount(kind, minlength=8).tolist())


def test_mixed_windows_repeat_with_the_same_generator() -> None:
    first, again, other = (
        mixed_windows("train", 9, 20, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.kind, again.kind)
    assert not torch.equal(first.tokens, other.tokens)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_does_not_exist_is_refused() -> None:
    for call in (kinds_of, lambda split: mixed_windows(split, 1, 1)):
        with pytest.raises(ValueError, match="'train' or 'test'; got 'dev'"):
            call("dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count >= 1; got 0"):
        mixed_windows("test", 0, 5)
    for length in (0, max(map(len, kinds("test").values())), 10**9):
        for _ in range(20):  # whichever kind is drawn, the long ones too
            with pytest.raises(ValueError, match="length"):
                mixed_windows("test", 1, length)


def test_a_change_to_what_was_handed_out_does_not_reach_others() -> None:
    kinds("test").clear()
    assert list(kinds("test")) == NAMES
