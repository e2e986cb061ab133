"""Leaving early where few tokens are hard: what CALM saves and keeps the text; written to a JSON file.

``python -m benchmarks.calm_study`` trains and measures with every seed, some four minutes each on one idle core. Call
it again after an interruption: what is in the file already is not run again. Lecture 04 reads the file.

The prompt gives names in any order, each with the name that it points to (:mod:`dynlib.data.chains`). The text to be
written goes through the names by number. Of each it writes its number, the name at the end of its chain, and the word
of that name, which one table spells for all texts. Numbers and letters follow from what was written just before; an end
has to be looked up, hop by hop. So one token of six is hard, and how hard is known.

All layers are read out and trained, layer i with weight i. That chains are followed at all is learned within minutes
because layer i is told, through a readout of its own that is dropped after the training, where i hops lead from a
number. Towards the end of the training each text is read once more with tokens that leave at random thresholds, and is
to say what the whole model says: as the zoo's ``topics_exits``.

A text that is not the whole model's, token for token, is a loss of 1. A threshold is certified on texts of its own and
judged on others, for each of the three ways to be sure. Its rivals: the same model cut off after a layer; the same
exits dealt out to other tokens, to any or to those at the same place of a record; a rule that knows the places; and a
model of half the depth, trained by itself for as many steps. An oracle leaves at the first layer that says what the
whole model says. FLOPs are those of reading the prompt and writing the text, with the readouts that are asked and the
keys and values of layers that were left out; a multiply-add is 2, and a share is one of the whole model's.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.backbone import CausalLM
from dynlib.cost import count, learn_then_test
from dynlib.data import chains
from dynlib.depth import calm_generate, exit_loss
from dynlib.depth.calm import Decoded, masked_exits
from dynlib.depth.token_confidence import ExitClassifier, classifier_loss
from dynlib.training import train

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = range(3)
"""More of them are run by calling it again with a longer range."""
CALIBRATION, TEST = 500, 300
"""Texts that choose the threshold, and texts that judge it."""
SETTINGS: dict[str, Any] = {
    "names": 7,
    "ends": 2,
    "letters": 8,
    "word": 4,
    "batch": 32,
    "model": {"dim": 32, "depth": 6, "heads": 2, "hidden": 128},
    "shallow": 3,
    "training": {"steps": 1500, "lr": 4e-3, "weight_decay": 0.01},
    "leaving": {"from": 0.5, "least": 0.3},
    "classifier": {"steps": 150, "lr": 1e-2, "weight_decay": 0.0},
    "thresholds": [0.999, 0.99, 0.97, 0.95, 0.9, 0.8, 0.6],
    "delta": 0.05,
    "epsilon": 0.1,
}
ARMS = {
    "whole": "all layers for all tokens",
    "exits": "each token leaves at the first layer that is sure enough",
    "certified": "so, with the threshold that is certified on other texts",
    "oracle": "each token leaves at the first layer that says what the whole model says",
    "drawn": "the certified exits, dealt out to all tokens anew",
    "drawn by place": "the certified exits, dealt out among the tokens at the same place of a record",
    "by place": "ends run through all layers, all others leave after the first",
    "cut": "the model without the layers above one",
    "shallow": "half of the layers, trained by themselves",
}
SURE = {"softmax_diff": "logits", "state": "saturation", "classifier": "classifier"}
"""The confidences that are compared: the margin of the softmax, the state that stays, the classifier."""


class Texts(NamedTuple):
    """Prompts, and what is to be written after them."""

    prompts: Int[Tensor, "batch prompt"]
    """Names with what they point to, one token each, and a token that ends the prompt."""
    texts: Int[Tensor, "batch text"]
    """For each name: its number, the end of its chain, the letters of the end's word."""
    hops: Int[Tensor, "batch names"]
    """How far away each name's end is."""
    ways: Int[Tensor, "names batch names"]
    """Where 1, 2, … hops lead from each name; on an end one stays."""


def names_and_more() -> tuple[int, int, int]:
    """Where the names' tokens, the letters and the prompt's end begin in the vocabulary; pairs stand before."""
    names = SETTINGS["names"]
    return names**2, names**2 + names, names**2 + names + SETTINGS["letters"]


def spelled() -> Int[Tensor, "names word"]:
    """The words of the names: one table, whatever the seed."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(SETTINGS["letters"], (SETTINGS["names"], SETTINGS["word"]), generator=generator)


def record_length() -> int:
    """Tokens that are written of a name."""
    return 2 + int(SETTINGS["word"])


def written(number: int, *, split: str = "train", seed: int = 0) -> Texts:
    """Texts; the same seed gives the same ones."""
    names = SETTINGS["names"]
    first_name, first_letter, go = names_and_more()
    drawn = chains(number, names=names, ends=SETTINGS["ends"], split="test" if split == "test" else "train", seed=seed)
    pairs = names * drawn.names + drawn.points_to
    by_number = drawn.names.argsort(1)
    points_to, ends, hops = (part.gather(1, by_number) for part in (drawn.points_to, drawn.ends, drawn.hops))
    ways = [points_to]
    while len(ways) < names:
        ways.append(points_to.gather(1, ways[-1]))
    numbers = torch.arange(names).expand(number, -1)
    records = [first_name + numbers[..., None], first_name + ends[..., None], first_letter + spelled()[ends]]
    prompts = F.pad(pairs, (0, 1), value=go)
    return Texts(prompts, torch.cat(records, dim=-1).flatten(1), hops, torch.stack(ways))


def build(depth: int, seed: int) -> CausalLM:
    """An untrained model. What a pair is embedded as begins as the sum of two: of its name, and of what that points to.

    So a name can be looked for in a pair from the start; with a vector of its own for every pair this would be learned
    first.
    """
    torch.manual_seed(seed)
    names, dim = SETTINGS["names"], SETTINGS["model"]["dim"]
    model = CausalLM(vocabulary=names_and_more()[2] + 1, tied=False, **SETTINGS["model"] | {"depth": depth})
    nn.init.normal_(model.embedding.weight, std=0.5)
    first_name = names_and_more()[0]
    pointer = 0.5 * torch.randn(names, dim)
    with torch.no_grad():
        name = model.embedding.weight[first_name : first_name + names]
        model.embedding.weight[:first_name] = (name[:, None] + pointer).flatten(0, 1)
    return model


def trained(depth: int, seed: int, *, exits: bool = True) -> tuple[CausalLM, float]:
    """A model whose layers can all be read out, or the last alone, and the seconds that it took."""
    model, names = build(depth, seed), SETTINGS["names"]
    dim, steps, leaving = SETTINGS["model"]["dim"], SETTINGS["training"]["steps"], SETTINGS["leaving"]
    hop_readouts = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, names)) for _ in range(depth))

    def loss(step: int) -> Tensor:
        given = written(SETTINGS["batch"], seed=seed * 10**6 + step)
        tokens, prompt = torch.cat(given[:2], dim=1)[:, :-1], given.prompts.shape[1]
        x, states = model.embed(tokens), []
        for block in model.blocks:
            x = block(x)
            states.append(x)
        said = torch.stack([model.readout(x[:, prompt - 1 :]) for x in (states if exits else states[-1:])])
        read = exit_loss(said.flatten(1, 2), given.texts.flatten(), weights="depth")
        led = torch.stack(
            [hop(x[:, prompt :: record_length()]) for hop, x in zip(hop_readouts, states, strict=True)]
        )  # at the numbers
        read = read + F.cross_entropy(led.flatten(0, 2), given.ways[:depth].flatten())
        if not exits or step < leaving["from"] * steps:
            return read
        generator = torch.Generator().manual_seed(seed * 10**6 + step)
        threshold = leaving["least"] + (1 - leaving["least"]) * torch.rand(len(tokens), generator=generator)
        left = masked_exits(model, tokens, threshold, prompt=prompt).logits[:, prompt - 1 :]
        target = said[-1].detach().log_softmax(-1)
        return read + F.kl_div(left.log_softmax(-1), target, log_target=True, reduction="none").sum(-1).mean()

    start = time.perf_counter()
    both = nn.ModuleList([model, hop_readouts])
    train(both, loss, description=f"{depth} layers, seed {seed}", **SETTINGS["training"])
    return model.eval(), time.perf_counter() - start


def classifier_of(model: CausalLM, seed: int) -> ExitClassifier:
    """What has learned when a layer of the model already says what the last one will."""
    torch.manual_seed(seed)
    classifier = ExitClassifier(SETTINGS["model"]["dim"])

    def loss(step: int) -> Tensor:
        given = written(SETTINGS["batch"], seed=seed * 10**6 + 500_000 + step)
        return classifier_loss(classifier, model, torch.cat(given[:2], dim=1)[:, :-1])

    train(classifier, loss, description="classifier", **SETTINGS["classifier"])
    return classifier.eval()


class Told:
    """A confidence, 1 or 0, that knows whose logits it is given: of which texts, at which token, after which layer.

    ``calm_generate`` asks of all texts after the first layer of a step, then of those that go on, up to the last but
    one.

    Args:
        texts, depth: how many texts are written, and by how many layers.
        leaves: called with the numbers of the texts, the token from 0, the layer from 1, and the logits.
    """

    def __init__(self, texts: int, depth: int, leaves: Callable[[Tensor, int, int, Tensor], Tensor]) -> None:
        self.texts, self.depth, self.leaves = texts, depth, leaves
        self.token, self.layer, self.going = 0, 1, torch.arange(texts)

    def __call__(self, logits: Tensor) -> Tensor:
        leaves = self.leaves(self.going, self.token, self.layer, logits)
        self.layer, self.going = self.layer + 1, self.going[~leaves]
        if self.layer == self.depth or len(self.going) == 0:
            self.token, self.layer, self.going = self.token + 1, 1, torch.arange(self.texts)
        return leaves.to(logits.dtype)


def as_given(layers: Int[Tensor, "texts tokens"]) -> Callable[[Tensor, int, int, Tensor], Tensor]:
    """For :class:`Told`: each token leaves after the layer that is given."""
    return lambda texts, token, layer, logits: layers[texts, token] == layer


def dealt(exits: Int[Tensor, "texts tokens"], *, by_place: bool) -> Int[Tensor, "texts tokens"]:
    """The same exits at other tokens; by place: at others of the same place in a record."""
    generator = torch.Generator().manual_seed(0)
    places = exits.view(len(exits), -1, record_length()) if by_place else exits[..., None]  # [texts, records, places]
    columns = [
        part.flatten()[torch.randperm(part.numel(), generator=generator)].view_as(part) for part in places.unbind(-1)
    ]
    return torch.stack(columns, dim=-1).view_as(exits)


class Judge:
    """Holds texts that are written in some way against those of the whole model."""

    def __init__(self, model: CausalLM, test: Texts) -> None:
        self.model, self.test, self.length = model, test, test.texts.shape[1]
        self.whole = self.written_by(model)
        self.flops = count(self.written_by, model).flops

    def written_by(self, model: CausalLM) -> Tensor:
        """What a model writes with all its layers."""
        return model.generate(self.test.prompts, self.length)[:, self.test.prompts.shape[1] :]

    def unlike(self, texts: Tensor) -> dict[str, Any]:
        """The shares of texts and of tokens that are as the whole model's, and of texts that are right."""
        same = texts == self.whole
        right = (texts == self.test.texts).all(1)
        return {name: part.double().mean().item() for name, part in _shares(same, right)}

    def judged(self, threshold: float, **options: Any) -> tuple[Decoded, dict[str, Any]]:
        """What is written with exits, and what there is to say of it."""
        made: list[Decoded] = []
        spent = count(
            lambda: made.append(calm_generate(self.model, self.test.prompts, self.length, threshold, **options))
        ).flops
        texts = made[0].tokens[:, self.test.prompts.shape[1] :]
        layers = made[0].exits.double()
        return made[0], {
            **self.unlike(texts),
            "spent": spent / self.flops,
            "mean layer": layers.mean().item(),
            "layers": layers_of(layers, self.test),
        }

    def told(self, leaves: Callable[[Tensor, int, int, Tensor], Tensor]) -> dict[str, Any]:
        """The same, of exits that are told."""
        return self.judged(0.5, confidence=Told(len(self.whole), len(self.model.blocks), leaves))[1]

    def cut(self, layers: int) -> dict[str, Any]:
        """The same, of the model without the layers above one: it does not read the prompt with them either."""
        shorter = copy.deepcopy(self.model)
        shorter.blocks = shorter.blocks[:layers]
        return {
            **self.unlike(self.written_by(shorter)),
            "spent": count(self.written_by, shorter).flops / self.flops,
            "mean layer": layers,
        }


def _shares(same: Tensor, right: Tensor) -> tuple[tuple[str, Tensor], ...]:
    return ("unchanged", same.all(1)), ("unchanged tokens", same), ("right", right)


def layers_of(exits: Tensor, test: Texts) -> dict[str, Any]:
    """The mean layer that numbers and letters are read from, and the ends by their hops."""
    layers = exits.view(len(exits), SETTINGS["names"], -1)
    most = SETTINGS["names"] - SETTINGS["ends"]
    return {
        "numbers": layers[..., 0].mean().item(),
        "letters": layers[..., 2:].mean().item(),
        "ends by hops": [layers[..., 1][test.hops == hops].mean().item() for hops in range(most + 1)],
    }


def with_exits(model: CausalLM, judge: Judge, seed: int) -> list[dict[str, Any]]:
    """All that is done with one model that has exits."""
    classifier = classifier_of(model, seed)
    calibration = written(CALIBRATION, split="test", seed=1)
    theirs = model.generate(calibration.prompts, judge.length)
    limits, rows = SETTINGS["thresholds"], []
    made: dict[str, Decoded] = {}
    for sure in SURE:
        options: dict[str, Any] = {"confidence": sure, "classifier": classifier if sure == "classifier" else None}
        changed = [
            (calm_generate(model, calibration.prompts, judge.length, limit, **options).tokens != theirs).any(1)
            for limit in limits
        ]
        found = learn_then_test(torch.stack(changed, dim=1), limits, SETTINGS["delta"], SETTINGS["epsilon"])
        certified = 2.0 if found.threshold is None else found.threshold  # above 1 nobody leaves
        made[sure], kept = judge.judged(certified, **options)
        rows += [{"arm": "certified", "sure": sure, "threshold": certified, **kept}]
    rows += [{"arm": "exits", "threshold": limit, **judge.judged(limit)[1]} for limit in limits]  # sure by logits
    exits = made["softmax_diff"].exits
    place = torch.ones_like(exits)
    place[:, 1 :: record_length()] = len(model.blocks)
    rows += [
        {"arm": "oracle", **judge.told(lambda texts, token, _, said: said.argmax(-1) == judge.whole[texts, token])},
        {"arm": "drawn", **judge.told(as_given(dealt(exits, by_place=False)))},
        {"arm": "drawn by place", **judge.told(as_given(dealt(exits, by_place=True)))},
        {"arm": "by place", **judge.told(as_given(place))},
    ]
    return rows + [{"arm": "cut", "layer": layer, **judge.cut(layer)} for layer in range(1, len(model.blocks))]


def run(model: str, seed: int) -> list[dict[str, Any]]:
    """Train one model; write with all of it and, if it is the deep one, in every other way."""
    deep = model == "deep"
    lm, seconds = trained(SETTINGS["model"]["depth"] if deep else SETTINGS["shallow"], seed, exits=deep)
    judge = Judge(lm, written(TEST, split="test", seed=0))
    at_ends = (judge.whole == judge.test.texts).view(TEST, SETTINGS["names"], -1)[..., 1]
    most = SETTINGS["names"] - SETTINGS["ends"]
    whole = {
        "arm": "whole" if deep else "shallow",
        "right": judge.unlike(judge.whole)["right"],
        "ends right by hops": [at_ends[judge.test.hops == hops].double().mean().item() for hops in range(most + 1)],
        "flops per text": judge.flops / TEST,
        "seconds": seconds,
    }
    return [whole, *(with_exits(lm, judge, seed) if deep else [])]


def main() -> None:
    """Run what is missing and write the file after every model."""
    torch.set_num_threads(1)
    made = {**head("calm_study"), "settings": SETTINGS, "arms": ARMS, "texts": [CALIBRATION, TEST]}
    plan = [{"model": model, "seed": seed} for seed in SEEDS for model in ("deep", "shallow")]
    for row in Results(RESULTS, made).sweep(plan, run):
        if row["arm"] not in ("exits", "cut"):
            kept = f"unchanged {row['unchanged']:.3f} for {row['spent']:.3f}" if "unchanged" in row else ""
            print(f"{row['arm']:14} {row['seed']} {row.get('sure', ''):12} right {row['right']:.3f} {kept}")


if __name__ == "__main__":
    main()
