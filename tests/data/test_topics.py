"""The text of ``help()``: split without leaks, and back and forth between text and numbers without loss."""

import re
from pydoc_data.topics import topics as pages

import numpy as np
import pytest
import torch

from dynlib.data import alphabet, decode, encode, text, topics, windows
from dynlib.data.topics import TEST_TOPICS


def test_the_two_splits_are_disjoint_and_together_everything() -> None:
    train, test = topics("train"), topics("test")
    assert not train.keys() & test.keys()
    assert train | test == pages
    assert test.keys() == TEST_TOPICS
    assert list(train) == sorted(train)


def test_there_is_enough_text_to_learn_from_and_to_test_with() -> None:
    sizes = {split: sum(map(len, topics(split).values())) for split in ("train", "test")}  # type: ignore[arg-type]
    assert sizes["train"] > 350_000
    assert 0.05 < sizes["test"] / sum(sizes.values()) < 0.2


def long_lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if len(line.strip()) > 40}


@pytest.mark.parametrize("name", sorted(TEST_TOPICS))
def test_hardly_a_line_of_a_test_topic_occurs_in_training(name: str) -> None:
    seen = set().union(*map(long_lines, topics("train").values()))
    lines = long_lines(pages[name])
    assert len(lines) > 20
    assert len(lines & seen) / len(lines) <= 0.02


@pytest.mark.parametrize("name", sorted(TEST_TOPICS))
def test_hardly_a_stretch_of_eight_words_of_a_test_topic_occurs_in_training(name: str) -> None:
    """Lines may be broken elsewhere; a run of words shows a copied paragraph all the same."""

    def stretches(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.lower())
        return set(zip(*(words[start:] for start in range(8)), strict=False))

    seen = set().union(*map(stretches, topics("train").values()))
    own = stretches(pages[name])
    assert len(own & seen) / len(own) <= 0.05


def test_the_measure_of_copying_finds_the_copies_that_are_there() -> None:
    assert {"customization", "specialnames"} <= pages.keys()
    lines = long_lines(pages["customization"])
    assert len(lines & long_lines(pages["specialnames"])) / len(lines) > 0.9


@pytest.mark.parametrize("unit", ["bytes", "characters"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_all_the_text_comes_back_from_its_numbers(split: str, unit: str) -> None:
    text = "\n\n".join(topics(split).values())  # type: ignore[arg-type]
    tokens = encode(text, unit=unit)  # type: ignore[arg-type]
    assert tokens.dtype == torch.int64
    assert int(tokens.min()) >= 0
    assert int(tokens.max()) < (256 if unit == "bytes" else len(alphabet()))
    assert decode(tokens, unit=unit) == text  # type: ignore[arg-type]


def test_characters_are_numbered_by_their_place_in_the_alphabet() -> None:
    letters = alphabet()
    assert list(letters) == sorted(set(letters))
    assert set(letters) == set("".join(pages.values()))
    assert encode(letters, unit="characters").tolist() == list(range(len(letters)))


def test_bytes_are_utf8() -> None:
    assert encode("aé€").tolist() == [97, 195, 169, 226, 130, 172]
    assert decode(torch.tensor([97, 226, 130])) == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("unit", ["bytes", "characters"])
def test_no_text_is_no_tokens(unit: str) -> None:
    assert encode("", unit=unit).shape == (0,)  # type: ignore[arg-type]
    assert decode(torch.zeros(0, dtype=torch.int64), unit=unit) == ""  # type: ignore[arg-type]


def test_windows_are_stretches_of_the_text_from_everywhere() -> None:
    tokens = torch.arange(100, 120)
    drawn = windows(tokens, 2000, 5, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (2000, 5)
    assert torch.equal(drawn, drawn[:, :1] + torch.arange(5))
    starts = drawn[:, 0] - 100
    # 16 places, 2,000 draws: one is missed with probability 16 · (15/16)^2000 < 1e-54
    assert starts.unique().tolist() == list(range(16))


def test_windows_repeat_with_the_same_generator() -> None:
    tokens = torch.arange(1000)
    first, again, other = (windows(tokens, 20, 5, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_window_may_be_the_whole_text() -> None:
    assert torch.equal(windows(torch.arange(4), 3, 4), torch.arange(4).expand(3, 4))


@pytest.mark.parametrize(("count", "length"), [(0, 2), (-1, 2), (1, 0), (1, 11)])
def test_windows_that_do_not_fit_are_refused(count: int, length: int) -> None:
    with pytest.raises(ValueError, match=f"length <= 10 tokens; got {count} and {length}"):
        windows(torch.arange(10), count, length)


def test_strange_characters_are_named() -> None:
    with pytest.raises(ValueError, match=r"\['☃'\].*unit='bytes'"):
        encode("a snowman: ☃", unit="characters")
    assert decode(encode("a snowman: ☃")) == "a snowman: ☃"


@pytest.mark.usefixtures("as_users_run_it")
def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'train' or 'test'; got 'dev'"):
        topics("dev")  # type: ignore[arg-type]
    for convert, given in ((encode, "text"), (decode, torch.zeros(1, dtype=torch.int64))):
        with pytest.raises(ValueError, match="'bytes' or 'characters'; got 'words'"):
            convert(given, unit="words")  # type: ignore[arg-type,operator]


@pytest.mark.parametrize("unit", ["bytes", "characters"])
def test_numbers_outside_the_vocabulary_are_refused(unit: str) -> None:
    size = 256 if unit == "bytes" else len(alphabet())
    for strange in (-1, size):
        with pytest.raises(ValueError, match=f"0 … {size - 1}; got 0 … {size}|got -1 … 0"):
            decode(torch.tensor([0, strange]), unit=unit)  # type: ignore[arg-type]


def test_a_change_to_what_was_handed_out_does_not_reach_others() -> None:
    topics("test").clear()
    assert topics("test").keys() == TEST_TOPICS


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_text_of_a_split_holds_its_topics_with_an_empty_line_between(split: str) -> None:
    parts = topics(split)  # type: ignore[arg-type]
    whole = text(split)  # type: ignore[arg-type]
    assert whole == "\n\n".join(parts[name] for name in sorted(parts))
    assert len(whole) == sum(map(len, parts.values())) + 2 * (len(parts) - 1)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_text_of_no_split_is_refused() -> None:
    with pytest.raises(ValueError, match="'train' or 'test'; got 'dev'"):
        text("dev")  # type: ignore[arg-type]


@pytest.mark.usefixtures("as_users_run_it")
def test_what_is_no_text_or_no_tokens_is_refused_with_what_to_do() -> None:
    for call in (lambda: decode([97]), lambda: decode(np.array([97])), lambda: windows(np.arange(9), 2, 3)):
        with pytest.raises(TypeError, match=r"tokens must be a tensor; got .*torch\.as_tensor"):
            call()
    with pytest.raises(TypeError, match=r"whole numbers; got torch\.float32: convert with \.long"):
        decode(torch.tensor([97.0]))
    with pytest.raises(TypeError, match=r"must be a string; got bytes: bytes have \.decode"):
        encode(b"abc")


def test_windows_are_cut_where_the_tokens_are() -> None:
    with torch.device("meta"):
        tokens = encode("abcdefghi")
    assert windows(tokens, 2, 3, generator=torch.Generator()).device.type == "meta"
    assert windows(tokens, 2, 3).shape == (2, 3)
