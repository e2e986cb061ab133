"""Leaving early where few tokens are hard: how many FLOPs CALM saves and keeps the text; written to a JSON file.

``python -m benchmarks.calm_study`` trains and measures with every seed, some three minutes each on one idle core. Call
it again after an interruption: what is in the file already is not run again. Lecture 04 reads the file.

The prompt gives names in any order, each with the name that it points to (:mod:`dynlib.data.chains`). The text to be
written goes through the names by number. Of each it writes its number, the name at the end of its chain, and the word
of that name, which one table spells for all texts. Numbers and letters follow from what was written just before; the
end of a chain has to be looked up, hop by hop. So one token of six is hard, and how hard is known.

All layers are read out and trained, layer i with weight i. From half of the training on each text is read once more
with tokens that leave at random thresholds, and is to say what the whole model says: as the zoo's ``topics_exits``.

A text that is not the whole model's, token for token, is a loss of 1. A threshold is certified on texts of its own, and
judged on others. Its rivals are cuts, where every token is read out after the same layer; exits that are drawn, each
token leaving after each layer with the same probability; and a model of half the depth, which is trained by itself for
as many steps. FLOPs are those of reading the prompt and writing the text, a multiply-add being 2, and a share is one of
the whole model's.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.backbone import CausalLM
from dynlib.cost import count, learn_then_test
from dynlib.data import chains
from dynlib.depth import calm_generate, exit_loss
from dynlib.depth.calm import Confidence, Decoded, masked_exits
from dynlib.training import train

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = range(5)
CALIBRATION, TEST = 400, 400
"""Texts that choose the threshold, and texts that judge it."""
SETTINGS: dict[str, Any] = {
    "names": 8,
    "ends": 2,
    "letters": 8,
    "word": 4,
    "batch": 32,
    "model": {"dim": 48, "depth": 6, "heads": 4, "hidden": 192},
    "shallow": 3,
    "training": {"steps": 1200, "lr": 3e-3, "weight_decay": 0.01},
    "leaving": {"from": 0.5, "least": 0.3},
    "thresholds": [0.999, 0.99, 0.9, 0.7, 0.4],
    "drawn": [0.2, 0.35, 0.5],
    "delta": 0.05,
    "epsilon": 0.1,
}
ARMS = {
    "whole": "all layers for all tokens",
    "exits": "each token leaves at the first layer that is sure enough",
    "certified": "so, with the threshold that is certified on other texts",
    "cut": "every token is read out after the same layer",
    "drawn": "each token leaves after each layer with the same probability",
    "shallow": "half of the layers, trained by themselves",
}


class Texts(NamedTuple):
    """Prompts, and what is to be written after them."""

    prompts: Int[Tensor, "batch prompt"]
    """Names with what they point to, one token each, and a token that ends the prompt."""
    texts: Int[Tensor, "batch text"]
    """For each name: its number, the end of its chain, the letters of the end's word."""
    hops: Int[Tensor, "batch names"]
    """How far away each name's end is."""


def names_and_more() -> tuple[int, int, int]:
    """Where the names' tokens, the letters and the prompt's end begin in the vocabulary; pairs stand before."""
    names = SETTINGS["names"]
    return names**2, names**2 + names, names**2 + names + SETTINGS["letters"]


def spelled() -> Int[Tensor, "names word"]:
    """The words of the names: one table, whatever the seed."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(SETTINGS["letters"], (SETTINGS["names"], SETTINGS["word"]), generator=generator)


def written(number: int, *, split: str = "train", seed: int = 0) -> Texts:
    """Texts; the same seed gives the same ones."""
    names = SETTINGS["names"]
    first_name, first_letter, go = names_and_more()
    drawn = chains(number, names=names, ends=SETTINGS["ends"], split="test" if split == "test" else "train", seed=seed)
    pairs = names * drawn.names + drawn.points_to
    by_number = drawn.names.argsort(1)
    ends, hops = (part.gather(1, by_number) for part in (drawn.ends, drawn.hops))
    numbers = torch.arange(names).expand(number, -1)
    records = [first_name + numbers[..., None], first_name + ends[..., None], first_letter + spelled()[ends]]
    return Texts(F.pad(pairs, (0, 1), value=go), torch.cat(records, dim=-1).flatten(1), hops)


def build(depth: int, seed: int) -> CausalLM:
    """An untrained model. What a pair is embedded as begins as the sum of two: of its name, and of what that points to.

    So a name can be looked for in a pair from the start; with 64 vectors of their own this would be learned first.
    """
    torch.manual_seed(seed)
    names, dim = SETTINGS["names"], SETTINGS["model"]["dim"]
    model = CausalLM(vocabulary=names_and_more()[2] + 1, tied=False, **SETTINGS["model"] | {"depth": depth})
    torch.nn.init.normal_(model.embedding.weight, std=0.5)
    first_name = names_and_more()[0]
    pointer = 0.5 * torch.randn(names, dim)
    with torch.no_grad():
        name = model.embedding.weight[first_name : first_name + names]
        model.embedding.weight[:first_name] = (name[:, None] + pointer).flatten(0, 1)
    return model


def readouts(model: CausalLM, tokens: Int[Tensor, "batch tokens"]) -> Tensor:
    """Logits after every layer, [layers, batch, tokens, vocabulary]."""
    x, logits = model.embed(tokens), []
    for block in model.blocks:
        x = block(x)
        logits.append(model.readout(x))
    return torch.stack(logits)


def trained(depth: int, seed: int, *, exits: bool = True) -> tuple[CausalLM, float]:
    """A model whose layers can all be read out, or the last alone, and the seconds that it took."""
    model = build(depth, seed)
    steps, leaving = SETTINGS["training"]["steps"], SETTINGS["leaving"]

    def loss(step: int) -> Tensor:
        some = written(SETTINGS["batch"], seed=seed * 10**6 + step)
        tokens, prompt = torch.cat(some[:2], dim=1)[:, :-1], some.prompts.shape[1]
        said = readouts(model, tokens)[:, :, prompt - 1 :]
        read = exit_loss((said if exits else said[-1:]).flatten(1, 2), some.texts.flatten(), weights="depth")
        if not exits or step < leaving["from"] * steps:
            return read
        generator = torch.Generator().manual_seed(seed * 10**6 + step)
        least = leaving["least"]
        threshold = least + (1 - least) * torch.rand(len(tokens), generator=generator)
        left = masked_exits(model, tokens, threshold, prompt=prompt).logits[:, prompt - 1 :]
        target = said[-1].detach().log_softmax(-1)
        return read + F.kl_div(left.log_softmax(-1), target, log_target=True, reduction="none").sum(-1).mean()

    start = time.perf_counter()
    train(model, loss, description=f"{depth} layers, seed {seed}", **SETTINGS["training"])
    return model.eval(), time.perf_counter() - start


def write(model: CausalLM, prompts: Tensor, threshold: float, **options: Any) -> Decoded:
    """As long a text as all are, with exits."""
    return calm_generate(model, prompts, SETTINGS["names"] * (2 + SETTINGS["word"]), threshold, **options)


def by_lot(share: float) -> Confidence:
    """A confidence that says nothing: above 1 − share with a probability of share, drawn anew each time."""
    generator = torch.Generator().manual_seed(0)
    return lambda logits: torch.rand(logits.shape[:-1], generator=generator)


def layers_of(made: Decoded, test: Texts) -> dict[str, Any]:
    """The mean layer that numbers and letters are read from, and the ends by their hops."""
    layers = made.exits.double().view(len(made.exits), SETTINGS["names"], -1)
    most = SETTINGS["names"] - SETTINGS["ends"]
    return {
        "numbers": layers[..., 0].mean().item(),
        "letters": layers[..., 2:].mean().item(),
        "ends by hops": [layers[..., 1][test.hops == hops].mean().item() for hops in range(most + 1)],
    }


def judged(
    model: CausalLM, test: Texts, whole: Tensor, flops: float, threshold: float, **options: Any
) -> dict[str, Any]:
    """Of texts written with exits: how many are as the whole model's, how many right, and the share of the FLOPs."""
    written_so: list[Decoded] = []
    spent = count(lambda: written_so.append(write(model, test.prompts, threshold, **options))).flops
    (made,) = written_so
    texts = made.tokens[:, test.prompts.shape[1] :]
    return {
        "unchanged": (texts == whole).all(1).double().mean().item(),
        "right": (texts == test.texts).all(1).double().mean().item(),
        "flops": spent / flops,
        "mean layer": made.exits.double().mean().item(),
        "layers": layers_of(made, test),
    }


def run(model: str, seed: int) -> list[dict[str, Any]]:
    """Train one model; write with all of it and, if it is the deep one, in every other way."""
    length = SETTINGS["names"] * (2 + SETTINGS["word"])
    test = written(TEST, split="test", seed=0)
    deep, seconds = (
        trained(SETTINGS["model"]["depth"], seed)
        if model == "deep"
        else trained(SETTINGS["shallow"], seed, exits=False)
    )
    prompt = test.prompts.shape[1]
    whole = deep.generate(test.prompts, length)[:, prompt:]
    flops = count(deep.generate, test.prompts, length).flops
    right = whole == test.texts
    at_ends = right.view(TEST, SETTINGS["names"], -1)[..., 1]
    most = SETTINGS["names"] - SETTINGS["ends"]
    plain = {
        "right": right.all(1).double().mean().item(),
        "ends right by hops": [at_ends[test.hops == hops].double().mean().item() for hops in range(most + 1)],
        "flops per text": flops / TEST,
        "seconds": seconds,
    }
    if model == "shallow":
        return [{"arm": "shallow", **plain}]
    calibration = written(CALIBRATION, split="test", seed=1)
    theirs = deep.generate(calibration.prompts, length)
    thresholds = SETTINGS["thresholds"]
    changed = [(write(deep, calibration.prompts, limit).tokens != theirs).any(1) for limit in thresholds]
    found = learn_then_test(torch.stack(changed, dim=1), thresholds, SETTINGS["delta"], SETTINGS["epsilon"])
    limits = [*thresholds, 2.0]  # with the last of them nobody leaves
    exits = {limit: judged(deep, test, whole, flops, limit) for limit in limits}
    certified = 2.0 if found.threshold is None else found.threshold
    rows: list[dict[str, Any]] = [{"arm": "whole", **plain}]
    rows += [{"arm": "certified", "threshold": certified, **exits[certified]}]
    rows += [{"arm": "exits", "threshold": limit, **each} for limit, each in exits.items()]
    for layer in range(1, len(deep.blocks)):
        rows += [{"arm": "cut", "layer": layer, **judged(deep, test, whole, flops, 0.0, min_exit=layer)}]
    for share in SETTINGS["drawn"]:
        rows += [
            {"arm": "drawn", "share": share, **judged(deep, test, whole, flops, 1 - share, confidence=by_lot(share))}
        ]
    return rows


def main() -> None:
    """Run what is missing and write the file after every model."""
    torch.set_num_threads(1)
    made = {**head("calm_study"), "settings": SETTINGS, "arms": ARMS, "texts": [CALIBRATION, TEST]}
    plan = [{"model": model, "seed": seed} for seed in SEEDS for model in ("deep", "shallow")]
    for row in Results(RESULTS, made).sweep(plan, run):
        if row["arm"] in ("whole", "certified", "shallow"):
            kept = f"unchanged {row['unchanged']:.3f} for {row['flops']:.3f}" if "unchanged" in row else ""
            print(f"{row['arm']:9} {row['seed']} right {row['right']:.3f} {kept}")


if __name__ == "__main__":
    main()
