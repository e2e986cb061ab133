"""The zoo's digit reader made of adaptive computation modules, against static narrower ones; written to a JSON file.

``python -m benchmarks.acm_study`` converts ``digits_vit``, all feed-forward parts and the linear layers of all
attentions, distils the learners, trains the gates, and then trains the whole model on: three seeds at each of four
budgets β, gates included. The first seed at β = 0.4 is the zoo's ``digits_acm``. All of it takes about two hours on a
core of its own. Interrupt and call it again to resume.

To compare with, each trained on for as long, on the same images, at the same learning rate (1e-3, 5e-4 and 3e-4 were
tried on a static model for 800 steps, and the last one was best):

- *static* models, whose layers have the share β of the neurons and run them all, the largest ones at the start; they
  are distilled for as long, too;
- *by threshold*, whose gates begin as in the paper: to say after which learner the next one no longer helps much. Those
  of *acm* begin by how large the error of each number of learners is;
- *budget alone*, without the losses that keep the choices apart, with gates as those of *acm*;
- *matformer*, of which only the feed-forward parts are narrower: one model for all its widths, of which one is drawn in
  each step; its neurons are in the order of their size at the start; "budget" is the width of the feed-forward parts.

The paper trains for about a hundred epochs, and here the whole model is trained on for 1,000 steps of 32 images.

What all of them learn is to answer as ``digits_vit`` does (:func:`dynlib.zoo.recipes.acm.agreement_loss`), which would
not change if it were trained so itself.

"rivals" are models of the zoo, swept over their knobs and not trained here: ``digits_exits`` by the threshold of its
exits and ``digits_avit`` by the β of its halting. Each was trained for longer on other images, as its card says.
"shuffled" is what is left of a model of β = 0.4 if its modules deal out the same numbers of learners to any tokens.
"begun" are the models of β = 0.4 before the whole is trained on: distilled, with trained gates.
"prices" are the zoo's ``digits_acm`` at other prices than the one that it was trained to, 0.

After its training, the gates of each are moved by one price until training images cost β; a static model costs it as it
is. Accuracies are those on held-out images in evaluation mode, without noise. A share of FLOPs is counted, over those
of ``digits_vit``, on the first of these images, gates included.
"""

import copy
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from benchmarks.study import Results, checkpoint_folder, head
from dynlib.cost import count
from dynlib.data import ClutteredDigits, cluttered_digits
from dynlib.deciding import record, setting
from dynlib.depth import MultiExit
from dynlib.tokens import AdaptiveViT
from dynlib.training import train
from dynlib.width import (
    AdaptiveComputationModule,
    MatFormerFeedForward,
    acmize,
    distill,
    matformer,
    prefix_errors,
    sampled_loss,
    shares_of_tokens,
)
from dynlib.width.acm_conversion import acm_layers
from dynlib.zoo import load
from dynlib.zoo.recipes import acm as its
from dynlib.zoo.recipes import recipe
from dynlib.zoo.scores import depth_auc, digit_patches

RESULTS = Path(__file__).with_suffix(".json")
SEEDS, TEST, COUNTED = 3, 5000, 500
BUDGETS = (its.BUDGET, 0.25, 0.6, 0.75)
THRESHOLD = 0.5
"""τ of the gates' targets of *by threshold*: with it they begin near β = 0.4."""
GATED = ("acm", "by threshold", "budget alone")
WIDTHS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
THRESHOLDS = (0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.97)
BETAS = (-5, -7, -9, -11, -15, -18, -22)
PRICES = (-4, -2, -1, -0.5, 0, 0.5, 1)
TUNING = recipe("digits_acm").training


def run(arm: str, seed: int, *, budget: float | None = None, test: ClutteredDigits, checkpoints: Path) -> Any:
    """A model trained on and judged; a MatFormer is judged at each of its widths."""
    model = tuned(arm, seed, budget, checkpoints)
    if arm == "matformer":
        rows = []
        for width in WIDTHS:
            with setting(model, MatFormerFeedForward, width=width):
                rows.append({"budget": width, **score(model, test)})
        return rows
    return score(model, test) | (who_gets(model, test) if arm in GATED else {})


def tuned(arm: str, seed: int, budget: float | None, checkpoints: Path) -> nn.Module:
    """The trained model of a case; read, where it was trained before."""
    model = begun(arm, seed, budget, checkpoints)
    checkpoint = checkpoints / f"{arm}-{budget}-{seed}.pt"
    if arm in GATED:
        assert budget is not None
        alone = {"entropy_weight": 0.0, "diversity_weight": 0.0} if arm == "budget alone" else {}
        weights = {**its.WEIGHTS, **alone}
        loss = its.digits_acm_loss(model, budget=budget, weights=weights, stream=seed)
    else:
        loss = its.agreement_loss(model, stream=seed)
    if arm == "matformer":
        loss = one_width(model, loss, seed)
    train(model, loss, **_steps(TUNING), checkpoint=checkpoint, description=checkpoint.stem)
    if arm in GATED:
        assert budget is not None
        its.meet_budget(model, budget, stream=seed)
    return model.eval()


def begun(arm: str, seed: int, budget: float | None, checkpoints: Path) -> nn.Module:
    """The model of a case before the whole is trained on."""
    if arm == "matformer":
        return nested()
    assert budget is not None
    if arm == "static":
        return narrow(seed, budget, checkpoints)
    threshold = THRESHOLD if arm == "by threshold" else None
    return adaptive(seed, budget, checkpoints, threshold=threshold)


def _steps(training: dict[str, Any]) -> dict[str, Any]:
    return {**training, "steps": int(training["steps"])}


def one_width(model: nn.Module, loss: Callable[[int], Tensor], seed: int) -> Callable[[int], Tensor]:
    """The same loss by step, at a width that is drawn by the step's number."""

    def at(step: int) -> Tensor:
        return sampled_loss(model, lambda: loss(step), generator=torch.Generator().manual_seed(seed * 10**6 + step))

    return at


def adaptive(seed: int, budget: float, checkpoints: Path, *, threshold: float | None = None) -> nn.Module:
    """Adaptive computation modules with distilled learners and trained gates; read, where they were made before."""
    made = recipe("digits_acm")
    torch.manual_seed(seed)
    model = made.build(**made.config)
    how: dict[str, Any] = {"budget": budget, "threshold": threshold, "stream": seed, "checkpoints": checkpoints}
    its.begin_acm(model, load("digits_vit"), **how)
    return model


def narrow(seed: int, share: float, checkpoints: Path) -> nn.Module:
    """Layers of the first neurons alone, in one learner that always runs; distilled."""
    teacher = load("digits_vit")
    torch.manual_seed(seed)
    model = acmize(copy.deepcopy(teacher), learners=1, linear=its.LINEAR)
    with torch.no_grad():
        for name, layer in list(acm_layers(model).items()):
            wide = round(share * layer.hidden)
            small = AdaptiveComputationModule(layer.dim, wide, out=layer.out, learners=1, fixed=1)
            for weight in ("expand", "bias", "contract"):
                getattr(small, weight).copy_(getattr(layer, weight)[:wide])
            outer, _, last = name.rpartition(".")
            setattr(model.get_submodule(outer), last, small)
    distill(
        model,
        teacher,
        lambda step: its.acm_images(step, stream=seed).images,
        **_steps(its.DISTIL),
        checkpoint=checkpoints / f"narrow-{share}-{seed}.pt",
    )
    return model


def nested() -> nn.Module:
    """Feed-forward parts of several widths, their largest neurons first."""
    model = load("digits_vit")
    with torch.no_grad():
        for block in model.blocks:
            part: Any = block.feed_forward
            order = (part.expand.weight.norm(dim=1) * part.contract.weight.norm(dim=0)).argsort(descending=True)
            for weight in (part.expand.weight, part.expand.bias):
                weight.copy_(weight[order])
            part.contract.weight.copy_(part.contract.weight[:, order])
    made = matformer(model, WIDTHS)
    assert isinstance(made, nn.Module)
    return made


@torch.no_grad()
def score(model: Callable[[Tensor], Tensor], test: ClutteredDigits) -> dict[str, float]:
    """Accuracy, and what it costs, over what ``digits_vit`` costs."""
    said = torch.cat([model(images).argmax(-1) for images in test.images.split(500)])
    some = test.images[:COUNTED]
    return {
        "accuracy": (said == test.labels).double().mean().item(),
        "share of FLOPs": count(model, some).flops / _whole(len(some)),
    }


@cache
def _whole(images: int) -> int:
    """FLOPs of ``digits_vit``, which are those of any images."""
    return count(load("digits_vit"), torch.zeros(images, 1, 24, 24)).flops


@torch.no_grad()
def who_gets(model: nn.Module, test: ClutteredDigits) -> dict[str, Any]:
    """Who gets the learners, and whether all get as many.

    A token's compute is the sum of k p over the modules, as a share of the most that it could be. ``auc`` says how well
    it tells patches of the digit from all others, ``auc against fragments`` from other patches with ink, ``auc of
    ink`` how well it tells patches with ink from paper; ``auc of an image`` is the mean of those within one image, with
    their standard deviation. The variances are those of k / N in a module, the mean over the modules: over the tokens
    of all images, and over images, of their means.
    """
    variances, between, by_module, shares = [], [], [], []
    for images in test.images.split(500):
        with record(model, AdaptiveComputationModule) as records:
            model(images)
        k = torch.stack([one.learners.double() / one.of for some in records.values() for one in some])
        variances.append(k.flatten(1).var(1, correction=0))
        between.append(k.mean(2).var(1, correction=0))
        by_module.append(k.mean((1, 2)))
        shares.append(shares_of_tokens(records))
    share = torch.cat(shares)
    patches, digit = share[:, 1:], digit_patches(test.masks)
    ink = F.max_pool2d(test.images, 4).flatten(1) > 0
    order = (patches * 10**6).round().long()
    row: dict[str, Any] = {
        "share of learners": share.mean().item(),
        "variance over tokens": torch.stack(variances).mean().item(),
        "variance over images": torch.stack(between).mean().item(),
        "share of": {
            "class token": share[:, 0].mean().item(),
            "digit": patches[digit].mean().item(),
            "fragments": patches[~digit & ink].mean().item(),
            "paper": patches[~digit & ~ink].mean().item(),
        },
        "by module": dict(zip(records, torch.stack(by_module).mean(0).tolist(), strict=True)),
    }
    each = torch.tensor([depth_auc(one, where) for one, where in zip(order, digit, strict=True)]).double()
    return row | {
        "auc": depth_auc(order, digit),
        "auc against fragments": depth_auc(order[digit | ink], digit[digit | ink]),
        "auc of ink": depth_auc(order, digit | ink),
        "auc of an image": [each.mean().item(), each.std().item()],
    }


def errors(checkpoints: Path) -> dict[str, Any]:
    """What each prefix misses of what the teacher's layer gives, module by module, before and after distillation."""
    teacher = load("digits_vit")
    batch = cluttered_digits(256, split="test", seed=1).images
    start = acmize(copy.deepcopy(teacher), learners=recipe("digits_acm").config["learners"], linear=its.LINEAR)
    end = adaptive(0, its.BUDGET, checkpoints)
    return {"before": prefix_errors(start, teacher, batch), "after": prefix_errors(end, teacher, batch)}


def rivals(test: ClutteredDigits) -> list[dict[str, Any]]:
    """Models of the zoo that leave early, and whose tokens halt, at each setting of their knobs."""
    exits, halting = load("digits_exits"), load("digits_avit")
    assert isinstance(exits, MultiExit)
    assert isinstance(halting, AdaptiveViT)
    rows = []
    for threshold in tqdm(THRESHOLDS, desc="early exit", leave=False):
        found = score(lambda images, at=threshold: exits.predict(images, at).logits, test)  # type: ignore[misc]
        rows.append({"arm": "early exit", "setting": threshold, **found})
    for beta in tqdm(BETAS, desc="A-ViT", leave=False):
        with setting(halting, AdaptiveViT, beta=beta):
            found = score(lambda images: halting.predict(images).logits, test)
        rows.append({"arm": "A-ViT", "setting": beta, **found})
    return rows


def prices(test: ClutteredDigits, checkpoints: Path) -> list[dict[str, Any]]:
    """The first model at other prices than the one it was trained to, and with as many learners for all tokens."""
    model = tuned("acm", 0, its.BUDGET, checkpoints)
    ways = [{"price": price} for price in PRICES] + [{"fixed": fixed} for fixed in (1, 2, 3, 4)]
    rows = []
    for way in tqdm(ways, desc="prices", leave=False):
        with setting(model, AdaptiveComputationModule, **way):
            rows.append({**way, **score(model, test)})
    return rows


class Shuffled(nn.Module):
    """A gate whose answers go to other tokens than those that it was asked for, of the same call."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate, self.generator = gate, torch.Generator().manual_seed(0)

    def forward(self, z: Tensor) -> Tensor:
        """As many of each answer, in another order."""
        answers = self.gate(z).flatten(0, -2)
        return answers[torch.randperm(len(answers), generator=self.generator)].view(*z.shape[:-1], -1)


def shuffled(seed: int, *, test: ClutteredDigits, checkpoints: Path) -> dict[str, float]:
    """What is left if each module gives each number of learners as often as it did, but to any tokens."""
    model = tuned("acm", seed, its.BUDGET, checkpoints)
    for layer in acm_layers(model).values():
        layer.gate = Shuffled(layer.gate)  # type: ignore[assignment]
    return score(model, test)


def before(arm: str, seed: int, *, test: ClutteredDigits, checkpoints: Path) -> dict[str, float]:
    """A model of β = 0.4 before the whole is trained on."""
    return score(begun(arm, seed, its.BUDGET, checkpoints).eval(), test)


def plan() -> list[dict[str, Any]]:
    """The cases, what matters most first."""
    middle, *others = BUDGETS
    seeds = range(SEEDS)
    cases: list[dict[str, Any]] = [
        {"arm": arm, "budget": middle, "seed": seed} for seed in seeds for arm in ("acm", "static")
    ]
    cases += [{"arm": arm, "budget": budget, "seed": 0} for budget in others for arm in ("acm", "static")]
    cases += [{"arm": arm, "budget": middle, "seed": 0} for arm in GATED[1:]] + [{"arm": "matformer", "seed": 0}]
    for seed in seeds[1:]:
        cases += [{"arm": arm, "budget": middle, "seed": seed} for arm in GATED[1:]]
        cases += [{"arm": arm, "budget": budget, "seed": seed} for budget in others for arm in ("acm", "static")]
    return cases


def main() -> None:
    """Run everything and write the file."""
    folder = checkpoint_folder("acm_study", __doc__, "checkpoints/acm_study")
    torch.set_num_threads(1)
    test = cluttered_digits(TEST, split="test", seed=0)
    made = recipe("digits_acm")
    settings = {
        "distil": its.DISTIL,
        "gates": its.GATES,
        "threshold": THRESHOLD,
        "tune": made.training,
        "weights": its.WEIGHTS,
        "batch": its.BATCH,
        "learners": made.config["learners"],
        "linear": its.LINEAR,
        "test images": TEST,
        "counted on": COUNTED,
    }
    results = Results(RESULTS, {**head("acm_study"), "settings": settings}, digits=5)
    results.once("digits_vit", lambda: score(load("digits_vit"), test)["accuracy"])
    common: dict[str, Any] = {"test": test, "checkpoints": folder}
    cases = plan()
    starts = [case for case in cases if case.get("budget") == its.BUDGET and case["arm"] in ("acm", "static", GATED[1])]
    for some in (cases[:1], cases):  # what needs the first model alone is not kept waiting
        rows = results.sweep(some, partial(run, **common), name="rows")
        results.once("rivals", partial(rivals, test))
        results.once("errors", partial(errors, folder))
        results.once("prices", partial(prices, test, folder))
    results.sweep([{"seed": seed} for seed in range(SEEDS)], partial(shuffled, **common), name="shuffled")
    begun_ = [{"arm": case["arm"], "seed": case["seed"]} for case in starts]
    results.sweep(begun_, partial(before, **common), name="begun")
    for row in rows:
        print({key: row.get(key) for key in ("arm", "budget", "seed", "accuracy", "share of FLOPs", "auc")})


if __name__ == "__main__":
    main()
