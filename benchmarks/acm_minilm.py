"""MiniLM made of adaptive computation modules: how far its sentence vectors can be cut; written to a JSON file.

``python -m benchmarks.acm_minilm`` needs the two commands in :mod:`dynlib.zoo.minilm`. It converts the feed-forward
parts of the model that others trained, distils the learners, trains the gates, and then trains the whole on, so that
its vectors of texts stay those of the full model. Interrupt and call it again to resume. The gates begin in two ways:
in *acm* they learn where one more learner no longer helps much, as in the paper, and in *acm by error* how large the
error of each number of learners is (``scale`` of :func:`dynlib.width.pretrain_gates`). To compare with, of as many
FLOPs: *static*, the first k learners of every module for every token, of the same distilled ones; and *layers*, the
first n layers of MiniLM, the last ones left out. Each arm is one model for all its budgets, trained for as many steps
on the same texts; and each is judged before that training too. *layers mapped* are those layers as they are, and an
affine map of the vector for each n, by least squares over training texts.

``--save PATH`` also writes the weights of *acm by error* that training changed, as safetensors: learners, gates,
attentions and norms, but not the embeddings, which stay MiniLM's. To read them back::

    model = acmize(from_transformers(load("minilm").bert), learners=4)
    model.load_state_dict(safetensors.torch.load_file(PATH), strict=False)

which is what :func:`restore` does, and checks. The file's metadata says the price of each budget. ``--projections``
converts the linear layers of the attentions too, and ``--pilot`` runs a small part; both ask for another ``--results``.

The texts are stretches of 30 words of what every Python carries: the pages behind ``help()``, and the docstrings of the
standard library. The held-out ones are those of :data:`dynlib.data.topics.TEST_TOPICS` and of some modules: prose, and
nothing that repeats a training text. *Agreement* is the mean cosine of a text's vector and the full model's.
*Retrieval* is the share of stretches that find the stretch which follows them, among those of all; "in the full model's
index" is the same where the second stretches have the full model's vectors, as in a store that was filled before the
model was cut.
"""

import argparse
import ast
import copy
import hashlib
import json
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study import Results, head
from dynlib.cost import count
from dynlib.data import topics
from dynlib.deciding import record, setting
from dynlib.pretrained import from_transformers
from dynlib.training import train
from dynlib.width import (
    AdaptiveComputationModule,
    acm_loss,
    acmize,
    distill,
    gates_share,
    prefix_errors,
    pretrain_gates,
    price_for,
    shares_of_tokens,
)
from dynlib.zoo import load

RESULTS = Path(__file__).with_suffix(".json")
PROJECTIONS = ("query_key_value", "attention.output")
LEARNERS, WORDS, LENGTH = 4, 30, 32  # a stretch has as many tokens as fit, and never fewer: nothing is filled up
HELD_OUT = 4  # of the modules of the standard library, every so many
REPEATED = 12  # so many words in a row that also stand in a training text
PROSE = 0.8  # the least share of words made of letters, in a stretch to test with
BUDGETS = (0.25, 0.5, 0.75)  # shares of the learners
LAYERS = {0.25: 3, 0.5: 4, 0.75: 5}  # as many FLOPs: the feed-forward parts are two thirds
PRICES = {0.25: 2.0, 0.5: 0.0, 0.75: -2.0}  # in training; those used afterwards are found on training texts
EXAMPLES = 4
ARMS = ("acm by error", "static", "layers", "layers mapped", "acm")
BEST = "acm by error"  # whose weights are saved
SETTINGS: dict[str, Any] = {
    "distil": {"steps": 120, "lr": 5e-4},
    "gates": {"steps": 40, "lr": 1e-2, "threshold": 0.5},
    "gates by error": {"steps": 60, "lr": 1e-2, "scale": 20.0},
    "tune": {"steps": 140, "lr": 2e-4},
    "weights": {"budget_weight": 1.0, "entropy_weight": 0.02, "diversity_weight": 0.02},
    "states": 1.0,
    "batch": 16,
    "map": 1024,
    "calibration": 32,
    "pairs": 200,
}
PILOT: dict[str, Any] = {
    **SETTINGS,
    "distil": {"steps": 4, "lr": 5e-4},
    "gates": {"steps": 3, "lr": 1e-2, "threshold": 0.5},
    "gates by error": {"steps": 3, "lr": 1e-2, "scale": 20.0},
    "tune": {"steps": 4, "lr": 2e-4},
    "batch": 4,
    "map": 32,
    "calibration": 4,
    "pairs": 8,
}


class Texts(NamedTuple):
    """Stretches as tokens: to train on, and pairs of neighbours to test with."""

    train: Int[Tensor, "stretches tokens"]
    first: Int[Tensor, "pairs tokens"]
    second: Int[Tensor, "pairs tokens"]


def docstrings() -> dict[str, list[str]]:
    """Those of the standard library of 60 words and more, by module; each text once."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data"} & set(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # some are there to be wrong
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if len(text.split()) >= 2 * WORDS and text not in seen:
                    seen.add(text)
                    found.setdefault("/".join(parts), []).append(text)
    return found


def words(text: str) -> list[str]:
    """Without what draws lines and marks emphasis."""
    return re.sub(r'[*`"=+|_~^-]{2,}', " ", text).split()


def split() -> tuple[list[list[str]], list[list[str]]]:
    """The words of each text: those to train on, and those to test with."""
    training = [words(text) for text in topics("train").values()]
    test = [words(text) for text in topics("test").values()]
    for module, several in enumerate(docstrings().values()):
        (test if module % HELD_OUT == 0 else training).extend(map(words, several))
    return training, test


def pairs(training: Sequence[list[str]], test: Sequence[list[str]]) -> tuple[list[str], list[str]]:
    """Neighbouring stretches of the test texts, without those that repeat what another text says."""
    known = {run for text in training for run in _runs(text)}
    firsts, seconds = [], []
    for text in test:
        for start in range(0, len(text) - 2 * WORDS + 1, 2 * WORDS):
            both = text[start : start + 2 * WORDS]
            runs = set(_runs(both))
            letters = sum(re.fullmatch(r"[(\"'“]?[A-Za-z’'-]+[.,;:)\"'”]*", word) is not None for word in both)
            if letters >= PROSE * len(both) and not runs & known:
                known |= runs
                firsts.append(" ".join(both[:WORDS]))
                seconds.append(" ".join(both[WORDS:]))
    return firsts, seconds


def _runs(text: list[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(text[start : start + REPEATED]) for start in range(len(text) - REPEATED + 1))


Encode = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Texts to their tokens and mask."""


def read_texts(encode: Encode, *, most: int) -> tuple[Texts, str]:
    """All texts to train on, so many pairs, and what tells all from others: they differ between versions of Python."""
    training, test = split()
    parts = [
        " ".join(text[start : start + WORDS])
        for text in training
        for start in range(0, len(text) - WORDS + 1, WORDS // 2)
    ]
    firsts, seconds = pairs(training, test)
    tokens, mask = encode(parts)
    (first, present), (second, also) = encode(firsts), encode(seconds)
    whole = present.all(1) & also.all(1)
    fingerprint = hashlib.sha256(json.dumps([parts, firsts, seconds]).encode()).hexdigest()
    some = whole.nonzero()[:, 0]
    some = some[torch.linspace(0, len(some) - 1, min(most, len(some))).round().long()]
    return Texts(tokens[mask.all(1)], first[some], second[some]), fingerprint


def without_dropout(model: nn.Module) -> nn.Module:
    """A student is told what its teacher says, and nothing is to be dropped; in place."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "embedding_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


class Study:
    """One seed: the full model, its texts, and the arms made of it.

    Args:
        full: the model to cut, an :class:`dynlib.backbone.Encoder`.
        texts: to train and to test with.
        settings: as :data:`SETTINGS`.
        seed: of the gates and of the batches.
        checkpoints: a folder for runs to resume from.
        linear: endings of linear layers to convert too.
    """

    def __init__(
        self,
        full: nn.Module,
        texts: Texts,
        settings: dict[str, Any],
        *,
        seed: int,
        checkpoints: Path,
        linear: Sequence[str] = (),
    ) -> None:
        self.full: Any = without_dropout(full).eval().requires_grad_(False)
        self.texts, self.settings, self.seed, self.checkpoints, self.linear = texts, settings, seed, checkpoints, linear
        self._known: tuple[Tensor, Tensor] | None = None

    def batch(self, step: int, stream: int = 0) -> Tensor:
        """Some stretches to train on, by the number of a step."""
        draw = torch.Generator().manual_seed(10**7 * (1 + 10 * self.seed + stream) + step)
        return self.texts.train[torch.randint(len(self.texts.train), (self.settings["batch"],), generator=draw)]

    def converted(self, gates: str = "gates") -> nn.Module:
        """The full model in learners that were distilled, with gates that were trained in one of two ways."""
        torch.manual_seed(self.seed)
        model = self._trainable(acmize(copy.deepcopy(self.full), learners=LEARNERS, linear=self.linear))
        with quick():
            file = self.checkpoints / f"learners-{self.seed}.pt"
            distill(model, self.full, self.batch, **self.settings["distil"], checkpoint=file)
            file = self.checkpoints / f"{gates.replace(' ', '-')}-{self.seed}.pt"
            pretrain_gates(model, self.full, partial(self.batch, stream=1), **self.settings[gates], checkpoint=file)
        return model

    def errors(self) -> dict[str, Any]:
        """What each prefix misses of what the full model's layer gives, before and after distillation."""
        start = acmize(copy.deepcopy(self.full), learners=LEARNERS, linear=self.linear)
        end, some = self.converted(), self.texts.first[:64]
        return {"before": prefix_errors(start, self.full, some), "after": prefix_errors(end, self.full, some)}

    def start(self, arm: str) -> nn.Module:
        """An arm before it is trained on."""
        if arm == "layers":
            return self._trainable(copy.deepcopy(self.full))
        return self.converted("gates by error" if arm == "acm by error" else "gates")

    def tuned(self, arm: str, model: nn.Module) -> nn.Module:
        """Train an arm on, a budget drawn in each step: its vectors and its states are to be the full model's."""
        prices = self.prices(model) if arm == "acm by error" else PRICES

        def loss(step: int) -> Tensor:
            tokens = self.batch(step, stream=2)
            budget = BUDGETS[int(torch.randint(len(BUDGETS), (), generator=torch.Generator().manual_seed(step)))]
            with quick(), cut(arm, model, budget, prices):
                if not arm.startswith("acm"):
                    return self.miss(model, tokens)
                with record(model, AdaptiveComputationModule) as records:
                    task = self.miss(model, tokens)
                return task + acm_loss(records, budget=budget, **self.settings["weights"]).total

        file = self.checkpoints / f"{arm.replace(' ', '-')}-{self.seed}.pt"
        train(model, loss, **self.settings["tune"], weight_decay=0.0, checkpoint=file, every=20, description=file.stem)
        return model

    def miss(self, model: Any, tokens: Tensor) -> Float[Tensor, ""]:
        """1 − cos of the vectors, and Σ ‖s − t‖² / Σ ‖t‖² of the tokens' states."""
        with torch.no_grad():
            target = self.full.states(tokens).float()
        states = model.states(tokens).float()
        vectors = 1 - F.cosine_similarity(model.readout(states), self.full.readout(target), dim=-1).mean()
        return vectors + self.settings["states"] * (states - target).square().sum() / target.square().sum()

    def run(self, arm: str) -> list[dict[str, Any]]:
        """The rows of an arm, before and after training on."""
        if arm == "layers mapped":
            return [{"tuned": True, **row} for row in self.rows(arm, self.mapped())]
        model = self.start(arm).eval()
        rows = [{"tuned": False, **row} for row in self.rows(arm, model)]
        model = self.tuned(arm, model).eval()
        return rows + [{"tuned": True, **row} for row in self.rows(arm, model)]

    @torch.no_grad()
    def mapped(self) -> "Mapped":
        """The first layers, and for each number of them the affine map of their vectors nearest to the full model's."""
        vectors: list[list[Tensor]] = [[] for _ in self.full.blocks]
        for tokens in self.batch_of(self.settings["map"]).split(64):
            states = self.full.embed(tokens)
            for block, found in zip(self.full.blocks, vectors, strict=True):
                states = block(states)
                found.append(self.full.readout(states))
        each = [torch.cat(found).double() for found in vectors]
        maps = {}
        for layers in LAYERS.values():
            given = torch.cat([each[layers - 1], torch.ones(len(each[0]), 1)], 1)
            square = given.T @ given
            square.diagonal().add_(1e-3 * square.diagonal().mean())
            maps[layers] = torch.linalg.solve(square, given.T @ each[-1]).T.float()
        return Mapped(copy.deepcopy(self.full), maps)

    def rows(self, arm: str, model: nn.Module) -> list[dict[str, Any]]:
        """An arm at each of its budgets."""
        prices = self.prices(model) if arm.startswith("acm") else PRICES
        rows = []
        for budget in BUDGETS:
            with cut(arm, model, budget, prices):
                rows.append({"budget": budget, **self.judge(model)})
            if arm.startswith("acm"):
                rows[-1]["price"] = prices[budget]
        return rows

    @torch.no_grad()
    def prices(self, model: nn.Module) -> dict[float, float]:
        """Those at which training texts cost, gates included, what the same share of the learners costs without."""
        tokens, gates = self.batch_of(self.settings["calibration"]), gates_share(model)
        return {budget: price_for(model, tokens, budget - gates, halvings=11) for budget in BUDGETS}

    def batch_of(self, size: int) -> Tensor:
        """Training stretches that no seed chooses."""
        draw = torch.Generator().manual_seed(5)
        return self.texts.train[torch.randint(len(self.texts.train), (size,), generator=draw)]

    @torch.no_grad()
    def vectors(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Of both stretches of each pair, of length 1."""
        sides = (self.texts.first, self.texts.second)
        first, second = (torch.cat([model(part) for part in side.split(64)]) for side in sides)
        return F.normalize(first, dim=-1), F.normalize(second, dim=-1)

    def judge(self, model: Any) -> dict[str, Any]:
        """How near the vectors are to the full model's, what they are good for, and what they cost."""
        first, second = self.vectors(model)
        if self._known is None:
            self._known = self.vectors(self.full)
        full = self._known
        some = self.texts.first[:128]
        row: dict[str, Any] = {
            "share of FLOPs": count(model, some).flops / count(self.full, some).flops,
            "agreement": torch.cat([(first * full[0]).sum(1), (second * full[1]).sum(1)]).mean().item(),
            "retrieval": found(first, second),
            "retrieval in the full model's index": found(first, full[1]),
        }
        if any(isinstance(one, AdaptiveComputationModule) for one in model.modules()):
            share, by_module = shares(model, some)
            row["share of learners"] = share.mean().item()
            row["by module"] = by_module
            row["variance over tokens"] = share.var(correction=0).item()
        return row

    def examples(self, prices: dict[float, float], pieces: Callable[[Tensor], list[str]]) -> list[dict[str, Any]]:
        """Some test texts, and the share of the learners' work that each of their tokens gets."""
        model = self.tuned(BEST, self.start(BEST)).eval()
        with cut(BEST, model, BUDGETS[1], prices):
            some = self.texts.first[:: max(1, len(self.texts.first) // EXAMPLES)][:EXAMPLES]
            share = shares(model, some)[0]
        return [
            {"pieces": pieces(text), "share of learners": of.tolist()} for text, of in zip(some, share, strict=True)
        ]

    def _trainable(self, model: nn.Module) -> nn.Module:
        """All but the embeddings."""
        model.requires_grad_(True)
        for name, parameter in model.named_parameters():
            if not name.startswith("blocks."):
                parameter.requires_grad_(False)
        return model


class Mapped(nn.Module):
    """A model whose vector goes through an affine map, one for each number of its blocks."""

    def __init__(self, inner: Any, maps: dict[int, Float[Tensor, "dim dim1"]]) -> None:
        super().__init__()
        self.inner, self.maps = inner, maps

    def forward(self, tokens: Int[Tensor, "texts tokens"]) -> Float[Tensor, "texts dim"]:
        """A vector for each text."""
        map_ = self.maps[len(self.inner.blocks)]
        return F.linear(self.inner(tokens), map_[:, :-1], map_[:, -1])


def quick() -> torch.autocast:
    """Products in bfloat16, for training."""
    return torch.autocast("cpu", torch.bfloat16)


@contextmanager
def cut(arm: str, model: Any, budget: float, prices: dict[float, float]) -> Iterator[None]:
    """An arm at a budget, for as long as the context lasts."""
    if arm.startswith("acm"):
        with setting(model, AdaptiveComputationModule, price=prices[budget]):
            yield
    elif arm == "static":
        with setting(model, AdaptiveComputationModule, fixed=round(budget * LEARNERS)):
            yield
    else:
        inner = getattr(model, "inner", model)
        blocks = inner.blocks
        inner.blocks = blocks[: LAYERS[budget]]
        try:
            yield
        finally:
            inner.blocks = blocks


@torch.no_grad()
def shares(model: nn.Module, tokens: Tensor) -> tuple[Float[Tensor, "texts tokens"], list[float]]:
    """The share of the learners' work that each token gets, over all modules; and that of each module."""
    with record(model, AdaptiveComputationModule) as records:
        model(tokens)
    return shares_of_tokens(records), [one.share() for some in records.values() for one in some]


def found(first: Tensor, second: Tensor) -> float:
    """The share of first vectors that are nearest to their own second one."""
    return ((first @ second.T).argmax(1) == torch.arange(len(first))).double().mean().item()


def save(path: Path, model: nn.Module, metadata: dict[str, Any]) -> None:
    """Write what training changed; ``metadata`` has at least "learners" and "linear"."""
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items() if name.startswith("blocks.")}
    save_file(weights, path, {key: json.dumps(value) for key, value in metadata.items()})


def restore(full: nn.Module, path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The cut model out of a full one, which is left as it is, and a file that :func:`save` wrote; and its metadata.

    Raises:
        ValueError: if the file is not of such a model.
    """
    with safe_open(path, "pt") as file:
        metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if not {"learners", "linear"} <= metadata.keys():
        raise ValueError(f"{path} does not say of which learners it is: make it with --save")
    model = acmize(copy.deepcopy(full), learners=metadata["learners"], linear=metadata["linear"])
    expected = {name: weight.shape for name, weight in model.state_dict().items() if name.startswith("blocks.")}
    if expected != {name: weight.shape for name, weight in weights.items()}:
        raise ValueError(f"{path} has not the weights of this model, {type(full).__name__}, in learners")
    model.load_state_dict(weights, strict=False)
    return model.eval(), metadata


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.acm_minilm")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints/acm_minilm"), help="of the runs")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file to write")
    parser.add_argument("--projections", action="store_true", help="convert the linear layers of the attentions too")
    parser.add_argument("--pilot", action="store_true", help="run a small part")
    parser.add_argument("--save", type=Path, help="write the weights of seed 0 there, as safetensors")
    options = parser.parse_args(arguments)
    if (options.pilot or options.projections) and options.results == RESULTS:
        parser.error("--pilot and --projections need another --results, so that the study's own file stays")
    torch.set_num_threads(1)
    settings, linear = PILOT if options.pilot else SETTINGS, PROJECTIONS if options.projections else ()
    folder = options.checkpoints / f"{'pilot' if options.pilot else 'full'}{len(linear)}"
    minilm = load("minilm")
    full = from_transformers(minilm.bert)
    texts, fingerprint = read_texts(partial(minilm.encode, length=LENGTH), most=settings["pairs"])
    made = {
        **head("acm_minilm", "transformers"),
        "settings": {**settings, "learners": LEARNERS, "linear": list(linear), "tokens": LENGTH},
        "stretches": {"to train on": len(texts.train), "pairs to test with": len(texts.first)},
        "texts": fingerprint,
    }
    results = Results(options.results, made)
    studies = [
        Study(full, texts, settings, seed=seed, checkpoints=folder, linear=linear) for seed in range(options.seeds)
    ]
    results.once("full", lambda: studies[0].judge(full))
    results.once("errors", studies[0].errors)
    plan = [{"arm": arm, "seed": seed} for seed in range(options.seeds) for arm in ARMS]
    rows = results.sweep(plan, lambda arm, seed: studies[seed].run(arm), name="rows")
    prices = {row["budget"]: row["price"] for row in rows if row["arm"] == BEST and row["seed"] == 0 and row["tuned"]}
    results.once("examples", lambda: studies[0].examples(prices, minilm.pieces))
    for row in rows:
        print({key: value for key, value in row.items() if key != "by module"})
    if options.save:
        model = studies[0].tuned(BEST, studies[0].start(BEST))
        save(options.save, model, {"learners": LEARNERS, "linear": list(linear), "prices": prices})


if __name__ == "__main__":
    main()
