"""The study of MiniLM in adaptive computation modules, on a small random BERT; and on the real one, where it is."""

import json
import sysconfig
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import acm_minilm
from benchmarks.acm_minilm import ARMS, BUDGETS, LENGTH, PILOT, Study, Texts, cut, pairs, restore, save
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.pretrained import from_transformers
from dynlib.width import AdaptiveComputationModule, acmize, prefix_errors
from dynlib.zoo import load
from tests.pretrained_models import VOCABULARY, make

SIZES = {"num_hidden_layers": 6, "max_position_embeddings": LENGTH, "hidden_dropout_prob": 0.1}


def bert() -> Any:
    return make("Bert", torch.float32, **SIZES).eval()


def tokens(count: int, seed: int) -> Tensor:
    return torch.randint(VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def study(folder: Path, **options: Any) -> Study:
    texts = Texts(tokens(20, 0), tokens(6, 1), tokens(6, 2))
    return Study(from_transformers(bert()), texts, PILOT, seed=0, checkpoints=folder, **options)


def encode(texts: list[str], *, length: int) -> tuple[Tensor, Tensor]:
    """A token a word, by its letters."""
    found = torch.tensor([[sum(map(ord, word)) % VOCABULARY for word in text.split()][:length] for text in texts])
    return found, torch.ones_like(found, dtype=torch.bool)


# Texts


def test_a_test_pair_is_prose_and_repeats_nothing() -> None:
    names = [f"{a}{b}" for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghij"]
    training = [names[:60]]
    fresh, mixed = names[100:160], names[160:209] + names[:11]
    twelve, code = names[160:208] + names[5:17], ["(x[0]" if place % 4 == 0 else one for place, one in enumerate(fresh)]
    first, second = pairs(training, [fresh + names[210:220], fresh, code, twelve, mixed])
    assert first == [" ".join(fresh[:30]), " ".join(mixed[:30])]
    assert second == [" ".join(fresh[30:]), " ".join(mixed[30:])]


def test_docstrings_are_those_of_the_library_and_each_stands_once(monkeypatch, tmp_path) -> None:
    long, other = "word " * 60, "other " * 60
    for name, text in {
        "a.py": f'"""{long}"""\ndef f():\n    """{other}"""\ndef g():\n    """{long}"""\n',
        "b.py": f'"""{other}"""\n',
        "c.py": '"""short"""\n',
        "wrong.py": "def (\n",
        "test/d.py": f'"""test {long}"""\n',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert {name: [text.strip() for text in texts] for name, texts in acm_minilm.docstrings().items()} == {
        "a.py": [long.strip(), other.strip()]
    }


# The arms


@pytest.mark.parametrize("arm", ["acm by error", "static", "layers"])
def test_an_arm_costs_what_its_budget_says(arm: str, tmp_path) -> None:
    rows = study(tmp_path).run(arm)
    assert [(row["tuned"], row["budget"]) for row in rows] == [(tuned, b) for tuned in (False, True) for b in BUDGETS]
    for some in (rows[:3], rows[3:]):
        shares = [row["share of FLOPs"] for row in some]
        assert shares == sorted(shares)
        assert shares[-1] < 1.1
    assert all(-1 <= row["agreement"] <= 1 and 0 <= row["retrieval"] <= 1 for row in rows)
    if arm == "static":
        assert [row["share of learners"] for row in rows[:3]] == list(BUDGETS)
        assert {row["variance over tokens"] for row in rows} == {0}
    if arm.startswith("acm"):
        assert [row["price"] for row in rows[:3]] == sorted((row["price"] for row in rows[:3]), reverse=True)
    assert rows[0]["agreement"] != rows[3]["agreement"]


def test_a_map_brings_the_first_layers_nearer(tmp_path) -> None:
    one = study(tmp_path)
    one.texts = one.texts._replace(first=one.batch_of(8), second=one.batch_of(16)[8:])  # what it was made of
    plain, mapped = one.rows("layers", one.start("layers")), one.rows("layers mapped", one.mapped())
    for before, after in zip(plain, mapped, strict=True):
        assert after["agreement"] > before["agreement"] + 0.05
        assert before["share of FLOPs"] < after["share of FLOPs"] < before["share of FLOPs"] + 0.01


def test_the_price_of_a_budget_spends_no_more_than_it(tmp_path) -> None:
    one = study(tmp_path)
    model = one.start("acm").eval()
    some, prices = one.batch_of(PILOT["calibration"]), one.prices(model)
    for budget in BUDGETS:
        with cut("static", model, budget, {}), torch.no_grad():
            allowed = count(model, some).flops
        with cut("acm", model, budget, prices), torch.no_grad():
            assert count(model, some).flops <= allowed


def test_layers_are_back_after_an_error(tmp_path) -> None:
    model = study(tmp_path).start("layers")
    blocks = model.blocks
    with cut("layers", model, 0.25, {}):
        assert len(model.blocks) == 3
    with pytest.raises(ValueError, match=f"lie in 0 … {VOCABULARY - 1}"), cut("layers", model, 0.5, {}):
        model(tokens(1, 0) + VOCABULARY)
    assert model.blocks is blocks
    assert next(blocks[0].parameters()).requires_grad
    assert not model.embedding.weight.requires_grad


def test_nothing_is_dropped_and_the_full_model_is_its_own_best_copy(tmp_path) -> None:
    one = study(tmp_path)
    some = tokens(3, 5)
    assert torch.equal(one.full.train()(some), one.full(some))
    row = one.judge(one.full.eval())
    assert row["agreement"] == pytest.approx(1)
    assert row["share of FLOPs"] == 1
    assert row["retrieval"] == row["retrieval in the full model's index"]


def test_projections_can_be_converted_too(tmp_path) -> None:
    one = study(tmp_path, linear=acm_minilm.PROJECTIONS)
    plain = acmize(from_transformers(bert()), learners=4)
    rows = one.rows("static", one.converted().eval())
    assert len(rows[0]["by module"]) == 18
    assert rows[0]["share of FLOPs"] < 0.55 < one.rows("static", plain.eval())[0]["share of FLOPs"]


# The weights


def test_saved_weights_come_back(tmp_path) -> None:
    one = study(tmp_path)
    model = one.tuned("acm", one.start("acm")).eval()
    path = tmp_path / "cut.safetensors"
    prices = {"0.25": 1.5}
    save(path, model, {"learners": 4, "linear": [], "prices": prices})
    again, metadata = restore(from_transformers(bert()), path)
    assert metadata == {"learners": 4, "linear": [], "prices": prices}
    by_hand = acmize(from_transformers(bert()), learners=4)
    by_hand.load_state_dict(load_file(path), strict=False)
    some = tokens(3, 7)
    for price in (-1.0, 0.0, 2.0):
        with setting(model, AdaptiveComputationModule, price=price), torch.no_grad():
            expected = model(some)
        for made in (again, by_hand):
            with setting(made, AdaptiveComputationModule, price=price), torch.no_grad():
                assert torch.equal(made(some), expected)
    assert path.stat().st_size < 4.2 * sum(one.numel() for one in model.parameters())


def test_weights_of_something_else_are_refused(tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"blocks.0": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="does not say of which learners it is: make it with --save"):
        restore(from_transformers(bert()), path)
    save(path, acmize(from_transformers(bert()), learners=2), {"learners": 4, "linear": []})
    with pytest.raises(ValueError, match="has not the weights of this model, Encoder, in learners"):
        restore(from_transformers(bert()), path)


# The command


def test_the_command_writes_a_file_and_weights_and_runs_nothing_twice(tmp_path, monkeypatch, capsys) -> None:
    made = SimpleNamespace(bert=bert(), encode=encode, pieces=lambda text: [str(one) for one in text.tolist()])
    monkeypatch.setattr(acm_minilm, "load", lambda name: made)
    monkeypatch.setattr(acm_minilm, "LENGTH", 30)  # a token a word
    monkeypatch.setattr(acm_minilm, "docstrings", dict)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    path, weights = tmp_path / "found.json", tmp_path / "cut.safetensors"
    options = ["--pilot", "--results", str(path), "--checkpoints", str(tmp_path / "runs"), "--save", str(weights)]
    acm_minilm.main(options)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {row["arm"] for row in found["rows"]} == set(ARMS)
    assert len(found["rows"]) == (2 * len(ARMS) - 1) * len(BUDGETS)
    assert found["full"]["agreement"] == 1
    assert found["stretches"]["pairs to test with"] == 8
    assert set(found["errors"]) == {"before", "after"}
    assert all(len(one["pieces"]) == len(one["share of learners"]) == 30 for one in found["examples"])
    model, metadata = restore(from_transformers(bert()), weights)
    tuned = {row["budget"]: row["price"] for row in found["rows"] if row["arm"] == acm_minilm.BEST and row["tuned"]}
    assert {float(budget): price for budget, price in metadata["prices"].items()} == tuned
    with setting(model, AdaptiveComputationModule, price=tuned[0.5]), record(model, AdaptiveComputationModule) as said:
        model(tokens(4, 9))
    assert 0 < sum(some[0].share() for some in said.values()) / len(said) < 1
    monkeypatch.setattr(Study, "run", lambda *_: pytest.fail("it was run before"))
    kept = path.read_bytes()
    acm_minilm.main(options[:-2])
    assert path.read_bytes() == kept
    assert "'arm': 'layers'" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--pilot", "--projections"])
def test_what_is_not_the_study_does_not_replace_its_file(option: str, capsys) -> None:
    with pytest.raises(SystemExit):
        acm_minilm.main([option])
    assert "need another --results" in capsys.readouterr().err


# The real one


def test_the_real_ones_parts_are_their_neurons_in_learners() -> None:
    try:
        minilm = load("minilm")
    except ImportError as error:
        pytest.skip(str(error))
    full = from_transformers(minilm.bert)
    model = acmize(from_transformers(minilm.bert), learners=4)
    some, mask = minilm.encode(["A cat sleeps on the warm stove.", "Seven"], length=16)
    assert minilm.pieces(some[1, :3]) == ["[CLS]", "seven", "[SEP]"]
    errors = prefix_errors(model, full, (some, mask))
    assert len(errors) == 6
    assert all(of[4] < 0.02 for of in errors.values())  # all but the layer's last bias
    assert all(a > b for of in errors.values() for a, b in pairwise(of))
    with setting(model, AdaptiveComputationModule, fixed=4), torch.no_grad():
        alike = torch.cosine_similarity(model(some, mask), full(some, mask))
    assert (alike > 0.9).all()
