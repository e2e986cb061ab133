"""The zoo: what was saved is what is loaded, damage is noticed, and the cards tell the truth."""

import ast
import dataclasses
import hashlib
import json
import math
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import CausalLM
from dynlib.data import chains, cluttered_digits, encode, linear_regression, needles, sudoku, topics
from dynlib.data import text as text_of
from dynlib.deciding import record, setting
from dynlib.depth import TinyRecursiveModel
from dynlib.tokens.mixture_of_depths import MixtureOfDepths, predictor_loss, routing_loss
from dynlib.zoo import FOLDER, bits_per_character, card, load, names, save
from dynlib.zoo.__main__ import main
from dynlib.zoo.recipes import FAMILIES, LARGE, puzzles, recipe
from dynlib.zoo.recipes.avit import FEATURE, swap_features
from dynlib.zoo.recipes.mixtures import mixture_lm, mixture_lm_figures, mixture_lm_loss
from dynlib.zoo.scores import window_bits

FIGURES = {"test_accuracy": 0.5, "test_images": 12_345}


def untrained(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return recipe(name).build(**recipe(name).config)


def inputs(name: str) -> Tensor | tuple[Tensor, ...]:
    if name == "looped_regression":
        drawn = linear_regression(4, split="test")
        return drawn.x, drawn.y, drawn.queries
    if name == "looped_chains":
        drawn = chains(4, split="test")
        return drawn.names, drawn.points_to
    if name.startswith("digits"):
        return cluttered_digits(4, split="test").images
    if name.startswith("needles"):
        return needles(2, length=40, split="test").tokens
    if name.startswith("sudoku"):
        return sudoku(4, int(name[-1]), split="test").givens.flatten(1)
    return torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(0))


def logits(model: nn.Module, given: Tensor | tuple[Tensor, ...]) -> Tensor:
    if isinstance(model, TinyRecursiveModel):
        return model(given, steps=1)  # after one step: rounding errors grow from step to step
    torch.manual_seed(0)  # of a channel's noise
    said = model(*given) if isinstance(given, tuple) else model(given)
    return said if isinstance(said, Tensor) else said.logits


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["dynlib.zoo", *map(str, arguments)])
    main()


# Saving and loading


@pytest.mark.parametrize("name", names())
def test_what_was_saved_is_what_is_loaded(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    model = untrained(name)
    path = save(name, model, FIGURES, folder=folder)
    assert path == folder / f"{name}.safetensors"
    loaded = load(name, folder=folder)
    assert not loaded.training
    assert type(loaded) is type(model)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.half().float()), key
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    with torch.no_grad():
        expected = logits(model.eval(), inputs(name))
        torch.testing.assert_close(logits(loaded, inputs(name)), expected, rtol=0.02, atol=0.02)


def test_a_card_says_how_a_backbone_was_made_and_what_it_can_do(tmp_path: Path) -> None:
    save("digits_vit", untrained("digits_vit"), FIGURES, folder=tmp_path)
    made = recipe("digits_vit")
    assert card("digits_vit", folder=tmp_path) == {
        "config": made.config,
        "training": made.training,
        "figures": FIGURES,
    }


def test_each_file_keeps_its_own_checksum(tmp_path: Path) -> None:
    for name in names():
        save(name, untrained(name), FIGURES, folder=tmp_path)
    save("digits_vit", untrained("digits_vit", seed=1), FIGURES, folder=tmp_path)
    rows = (tmp_path / "SHA256SUMS").read_text().splitlines()
    expected = [
        f"{hashlib.sha256((tmp_path / f'{name}.safetensors').read_bytes()).hexdigest()}  {name}.safetensors"
        for name in sorted(names())
    ]
    assert rows == expected
    for name in names():
        load(name, folder=tmp_path)


def test_an_unknown_name_is_refused_with_those_there_are(tmp_path: Path) -> None:
    calls = [
        lambda: load("digits_vti", folder=tmp_path),
        lambda: card("digits_vti", folder=tmp_path),
        lambda: save("digits_vti", nn.Linear(1, 1), {}, folder=tmp_path),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"no 'digits_vti'; it has 'digits_vit', 'topics_lm'"):
            call()
    assert not any(tmp_path.iterdir())


def test_a_missing_file_is_named_with_the_ways_to_get_it(tmp_path: Path) -> None:
    for ask in (load, card):
        with pytest.raises(
            FileNotFoundError, match=r"digits_vit\.safetensors is missing.*git checkout.*train digits_vit"
        ):
            ask("digits_vit", folder=tmp_path)


def damage(path: Path, kind: str) -> None:
    content, sums = bytearray(path.read_bytes()), path.parent / "SHA256SUMS"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(content[:-1])
    elif kind == "longer":
        path.write_bytes(content + b"\0")
    elif kind.startswith("byte"):
        content[{"byte 0": 0, "byte in the header": 40, "byte of a weight": -5000, "last byte": -1}[kind]] ^= 1
        path.write_bytes(content)
    elif kind == "no checksums":
        sums.unlink()
    elif kind == "no checksum of it":
        sums.write_text(f"{'0' * 64}  topics_lm.safetensors\n")
    else:
        sums.write_text("this is no list of checksums\n")


KINDS = ["empty", "truncated", "longer", "byte 0", "byte in the header", "byte of a weight"]
KINDS += ["no checksums", "no checksum of it", "no list"]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_noticed(tmp_path: Path, kind: str) -> None:
    path = save("digits_vit", untrained("digits_vit"), FIGURES, folder=tmp_path)
    damage(path, kind)
    for ask in (load, card):
        with pytest.raises(ValueError, match=r"digits_vit\.safetensors is damaged.*SHA256SUMS.*train digits_vit"):
            ask("digits_vit", folder=tmp_path)


def test_a_file_that_never_was_weights_is_noticed_even_with_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "digits_vit.safetensors"
    path.write_bytes(b"no weights in here")
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    with pytest.raises(ValueError, match=r"is damaged.*train digits_vit"):
        load("digits_vit", folder=tmp_path)


# The command line


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of two steps each."""
    for name in names():
        short = {**recipe(name).training, "steps": 2}
        changed = dataclasses.replace(recipe(name), training=short, evaluate=lambda model: FIGURES)
        monkeypatch.setitem(import_module(f"dynlib.zoo.recipes.{FAMILIES[name]}").RECIPES, name, changed)
    few = puzzles.sudoku_mix  # and of few puzzles
    monkeypatch.setattr(puzzles, "sudoku_mix", lambda size, count, split: few(size, min(count, 20), split))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["digits_exits", "topics_exits", "digits_avit"])
def test_training_starts_from_the_weights_of_the_backbone_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run(monkeypatch, "train", name, "--folder", tmp_path, "--checkpoints", tmp_path / "half")
    made, start = load(name, folder=tmp_path), load(str(recipe(name).start))
    backbone = getattr(made, "backbone", made)
    if name == "digits_avit":
        swap_features(start, 0, FEATURE)
    for key, value in start.state_dict().items():
        # two steps of AdamW, of which each moves a weight by the learning rate, and half precision
        most = 2 * recipe(name).training["lr"] + 1e-3 * value.abs().max().item()
        assert (backbone.state_dict()[key] - value).abs().max().item() < 1.1 * most, key
    assert f"starts from: {recipe(name).start}" in (tmp_path / "README.md").read_text()


@pytest.mark.usefixtures("quick")
def test_training_ships_the_weights_their_card_and_their_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--folder", tmp_path / "zoo", "--checkpoints", tmp_path / "half"]
    run(monkeypatch, "train", "digits_vit", *where)
    assert str(FIGURES) in capsys.readouterr().out
    assert (tmp_path / "half" / "digits_vit.pt").exists()
    made = card("digits_vit", folder=tmp_path / "zoo")
    assert made["figures"] == FIGURES
    assert made["training"]["steps"] == 2
    weights = load("digits_vit", folder=tmp_path / "zoo").state_dict()
    fresh = untrained("digits_vit").state_dict()
    assert not torch.equal(weights["head.weight"], fresh["head.weight"].half().float())
    text = (tmp_path / "zoo" / "README.md").read_text()
    for said in (
        "## digits_vit",
        "depth 6",
        "steps 2",
        "test accuracy: 0.5",
        "test images: 12,345",
        "train digits_vit",
    ):
        assert said in text
    assert "topics_lm" not in text
    # trained to the end, it is read and not trained again
    run(monkeypatch, "train", "digits_vit", *where)
    again = load("digits_vit", folder=tmp_path / "zoo").state_dict()
    assert all(torch.equal(again[key], value) for key, value in weights.items())
    run(monkeypatch, "evaluate", "digits_vit", *where)
    assert str(FIGURES) in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_what_is_half_trained_does_not_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    recipes = import_module("dynlib.zoo.recipes.transmitter").RECIPES
    changed = dataclasses.replace(recipes["digits_transmitter"], begin=lambda model, backbone: begun.append(model))
    monkeypatch.setitem(recipes, "digits_transmitter", changed)
    for _ in range(2):
        run(monkeypatch, "train", "digits_transmitter", "--folder", tmp_path, "--checkpoints", tmp_path / "half")
        assert len(begun) == 1


@pytest.mark.usefixtures("quick")
def test_what_ships_of_a_learner_is_its_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "train", "sudoku4", "--folder", tmp_path, "--checkpoints", tmp_path / "half")
    kept = torch.load(tmp_path / "half" / "sudoku4.pt", weights_only=True)["model"]
    shipped = load("sudoku4", folder=tmp_path).state_dict()
    for key, value in shipped.items():
        assert torch.equal(value, kept[f"average.{key}"].half().float()), key
    assert not torch.equal(kept["average.output_head.weight"], kept["model.output_head.weight"])
    assert kept["steps"].tolist() == [2] * len(kept["steps"]), "the slots are kept, too"


@pytest.mark.parametrize("name", LARGE)
def test_one_that_does_not_ship_is_named_with_the_way_to_make_it(tmp_path: Path, name: str) -> None:
    assert name not in names()
    assert isinstance(untrained(name), nn.Module)
    with pytest.raises(FileNotFoundError, match=f"does not ship; make it on a GPU.*train {name} --device cuda"):
        load(name)
    save(name, untrained(name), FIGURES, folder=tmp_path)
    assert type(load(name, folder=tmp_path)) is type(untrained(name))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", names())
def test_the_loss_of_a_recipe_depends_on_its_step_alone(name: str) -> None:
    model, learner = untrained(name).eval(), recipe(name).learner
    loss = recipe(name).loss(model if learner is None else learner(model))
    with torch.no_grad():
        values = [loss(step).item() for step in (0, 1, 0)]
    assert values[0] == values[2] != values[1]


@pytest.mark.parametrize("arguments", [["train"], ["evaluate"], ["train", "no_such"], ["fly", "digits_vit"], []])
def test_a_wrong_command_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, *arguments)
    assert end.value.code == 2
    assert "usage: python -m dynlib.zoo" in capsys.readouterr().err


# Importing and loading


MECHANISMS = ("choice", "depth", "tokens", "width", "edge", "kernels")


def loaded_by(code: str) -> set[str]:
    """The mechanisms' rooms that a fresh interpreter has loaded after some code."""
    code += "; import sys; print(*{name.split('.')[1] for name in sys.modules if name.startswith('dynlib.')})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()) & set(MECHANISMS)


def test_a_mechanism_is_imported_when_it_is_asked_for() -> None:
    assert loaded_by("import dynlib, dynlib.zoo") == set()
    assert loaded_by("from dynlib import zoo; zoo.names(); zoo.load('digits_vit'); zoo.load('topics_lm')") == set()
    assert loaded_by("from dynlib.zoo import load; load('topics_small')") == set()
    assert "depth" in loaded_by("from dynlib.zoo import load; load('digits_exits')")


def test_what_comes_is_said_to_readers_and_checkers() -> None:
    said = {}
    for part in ast.parse((FOLDER / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(part, ast.FunctionDef) and part.name == "load" and "Literal" in ast.unparse(part.args):
            for name in re.findall(r"'(\w+)'", ast.unparse(part.args)):
                said[name] = ast.literal_eval(part.returns)
    assert said.pop("minilm") == "MiniLM"
    assert said == {name: type(load(name)).__name__ for name in names()}
    for name, kind in said.items():
        assert f'``"{name}"``' in str(load.__doc__)
        assert f".{kind}`\n" in str(load.__doc__)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_are_the_same_whatever_the_default_dtype(dtype: torch.dtype) -> None:
    right = load("digits_vit").state_dict()
    torch.set_default_dtype(dtype)
    try:
        got = load("digits_vit").state_dict()
        assert torch.get_default_dtype() == dtype
        with pytest.raises(ValueError, match="has no"):
            load("nothing")
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    for key, value in right.items():
        assert got[key].dtype == torch.float32
        assert torch.equal(got[key], value), key


def test_a_backbone_comes_on_the_default_device_and_can_be_trained_whatever_the_mode() -> None:
    with torch.device("meta"):
        assert {value.device.type for value in load("topics_exits").state_dict().values()} == {"meta"}
    with torch.inference_mode():
        model = load("digits_vit")
    loss = model(cluttered_digits(2, split="test").images).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# Bits per character


def tiny_lm() -> CausalLM:
    torch.manual_seed(0)
    model = CausalLM(vocabulary=256, dim=8, depth=2, heads=2).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("length", [2, 3, 8, 9, 10, 16, 17, 19])
@pytest.mark.parametrize("context", [2, 3, 4, 8, 9, 64])
def test_each_byte_but_the_first_is_predicted_once_from_half_a_context_at_least(length: int, context: int) -> None:
    class Witness(nn.Module):
        """Makes the prediction of byte number i cost 32 · 2^i, and a unit more if it rests on too little.

        The text is the bytes 0, 1, 2, …, so that a byte is its own number. Besides the 256 bytes there is one token
        that takes all the probability but e^−cost.
        """

        def forward(self, tokens: Tensor) -> Tensor:
            number = tokens + 1.0  # of the byte that follows
            seen = torch.arange(1.0, tokens.shape[1] + 1).expand_as(tokens)
            assert tokens.shape[1] <= max(context, 2)
            cost = 32 * 2**number + (seen < torch.minimum(number, torch.tensor(context // 2)))
            logits = torch.zeros(*tokens.shape, 257, dtype=torch.float64)
            logits[..., 256] = cost
            return logits

    text = "".join(map(chr, range(length)))
    nats = bits_per_character(Witness(), text, context=context) * math.log(2) * length
    assert nats == pytest.approx(sum(32 * 2**number for number in range(1, length)), abs=0.1)


@pytest.mark.parametrize("context", [6, 32, 1000])
@torch.no_grad()
def test_bits_per_character_are_the_mean_cost_of_the_bytes_taken_one_by_one(context: int) -> None:
    model, text = tiny_lm(), "Ein Wörterbuch kostet 3 € — naïve?"
    tokens, half, nats = torch.tensor(list(text.encode())), context // 2, 0.0
    assert len(tokens) > len(text)
    for place in range(1, len(tokens)):
        # a window starts every half context, and each byte is taken from the one that leaves it most to go on
        first = max(0, ((place - 1) // half - 1) * half)
        nats += F.cross_entropy(model(tokens[None, first:place])[0, -1], tokens[place]).item()
    assert bits_per_character(model, text, context=context) == pytest.approx(nats / math.log(2) / len(text), rel=1e-12)


def test_a_model_that_knows_nothing_pays_eight_bits_a_byte() -> None:
    class Ignorant(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.zeros(*tokens.shape, 256)

    assert bits_per_character(Ignorant(), "x" * 1001, context=16) == pytest.approx(8 * 1000 / 1001)


@pytest.mark.parametrize(("text", "context"), [("", 256), ("a", 256), ("abc", 1), ("abc", 0)])
def test_a_text_or_context_with_nothing_to_predict_is_refused(text: str, context: int) -> None:
    with pytest.raises(ValueError, match=f"got {context} and {len(text)}"):
        bits_per_character(tiny_lm(), text, context=context)


# What ships


@pytest.mark.parametrize("name", names())
def test_a_shipped_file_is_small_and_whole(name: str) -> None:
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 4_000_000
    model = load(name)
    assert not model.training
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    with torch.no_grad():
        assert logits(model, inputs(name)).isfinite().all()
    config = recipe(name).config
    loose = name.startswith(("needles", "sudoku"))
    assert loose or 6 <= config["depth"] * config.get("loops", 1) <= 10


@pytest.mark.parametrize("name", names())
def test_a_shipped_file_was_made_by_its_recipe(name: str) -> None:
    made, its = card(name), recipe(name)
    assert made["config"] == json.loads(json.dumps(its.config))
    assert made["training"] == json.loads(json.dumps(its.training))
    assert made["figures"]


@torch.no_grad()
def test_the_shipped_vit_is_as_good_as_its_card_says() -> None:
    count, figures = 1000, card("digits_vit")["figures"]
    drawn, model = cluttered_digits(count, split="test", seed=1), load("digits_vit")
    right = torch.cat([model(images).argmax(-1) for images in drawn.images.split(250)]) == drawn.labels
    easy, hard = drawn.difficulty < 1 / 3, drawn.difficulty > 2 / 3
    for key, some in (
        ("test_accuracy", torch.ones(count, dtype=torch.bool)),
        ("test_accuracy_up_to_3_fragments", easy),
        ("test_accuracy_from_9_fragments", hard),
    ):
        said, got, share = figures[key], right[some].float().mean().item(), some.float().mean().item()
        # two samples, of 1,000 images here and as said there; the share of each difficulty is the same in both.
        # Five standard deviations of the difference: a false alarm in 6e-7 of seeds.
        spread = math.sqrt(said * (1 - said) * (1 / count + 1 / figures["test_images"]) / share)
        assert abs(got - said) <= 5 * spread, (key, said, got)
    assert figures["test_accuracy"] > 0.65
    assert right[easy].float().mean() > right[hard].float().mean()


@torch.no_grad()
def test_the_shipped_language_model_is_as_good_as_its_card_says() -> None:
    """On 2,000 characters of each test topic: a quarter of the text, which may be easier or harder by a twentieth."""
    said = card("topics_lm")["figures"]["test_bits_per_character"]
    got = bits_per_character(load("topics_lm"), "\n\n".join(text[:2000] for text in topics("test").values()))
    assert got == pytest.approx(said, rel=0.05)
    assert said < 3  # of 8 bits in a byte


@torch.no_grad()
def test_bits_in_windows_are_those_of_every_byte_read_in_its_own_window_alone() -> None:
    torch.manual_seed(0)
    model = CausalLM(vocabulary=256, dim=8, depth=1, heads=2)
    text = text_of("test")
    tokens, nats, count = encode(text), 0.0, 0
    while count + 129 <= len(tokens):
        logits = model(tokens[None, count : count + 128])[0]
        nats += F.cross_entropy(logits, tokens[count + 1 : count + 129], reduction="sum").item()
        count += 128
    expected = nats / count / math.log(2) * len(tokens) / len(text)
    assert window_bits(model) == pytest.approx(expected, rel=1e-5)


def test_a_mixture_of_depths_is_taught_three_things_and_a_dense_model_one() -> None:
    torch.manual_seed(0)
    model = mixture_lm(capacity=0.25, vocabulary=256, dim=8, depth=2, heads=2)
    assert [isinstance(block, MixtureOfDepths) for block in model.blocks] == [False, True]
    with_router, without = (mixture_lm_loss(model, router=weight)(3) for weight in (0.5, 0.0))
    generator = torch.Generator().manual_seed(3)
    tokens = encode(text_of("train"))
    starts = torch.randint(len(tokens) - 128, (12,), generator=generator)
    batch = torch.stack([tokens[start : start + 129] for start in starts.tolist()])
    with record(model, MixtureOfDepths) as routed:
        logits = model(batch[:, :-1])
    read = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    torch.testing.assert_close(without, read + predictor_loss(routed))
    torch.testing.assert_close(with_router, without + 0.5 * routing_loss(routed))
    with setting(model, MixtureOfDepths, routing="threshold"):  # nobody is ranked, and so there is no label
        torch.testing.assert_close(mixture_lm_loss(model)(3), F.cross_entropy(model(batch[:, :-1]).mT, batch[:, 1:]))


def test_the_shipped_mixture_of_depths_is_as_good_as_its_card_says_and_as_cheap() -> None:
    model, said = load("topics_mod"), card("topics_mod")["figures"]
    got = mixture_lm_figures(model)
    assert got.keys() == said.keys()
    for key, value in got.items():
        assert value == pytest.approx(said[key], rel=0.01), key
    layers = [block for block in model.blocks if isinstance(block, MixtureOfDepths)]
    assert all(layer.routing == "top_k" for layer in layers)
    # whoever always says no agrees with 7 of 8
    assert min(said["agreement_of_threshold"], said["agreement_of_predictor"]) > 0.93
    assert said["test_bits_per_character_in_windows_of_128"] < 3


def test_the_readme_is_what_the_weight_files_say_of_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in names():
        for file in (f"{name}.safetensors", "SHA256SUMS"):
            (tmp_path / file).write_bytes((FOLDER / file).read_bytes())
    run(monkeypatch, "cards", "--folder", tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert all(f"## {name}" in text for name in names())
    assert (FOLDER / "README.md").read_text() == text
