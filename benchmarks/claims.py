"""What the papers claim, and what came out here: one row a claim, its number computed from the file of a study.

``python -m benchmarks.claims`` prints the table; ``lectures/18_claims.ipynb`` shows it with pictures. No number of ours
stands in this file. A claim says which rows of which file it rests on and how they make one number a seed; if the file
has no such rows any more, it says so and gives no number. How a number is judged: :mod:`benchmarks.claim`.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

from benchmarks.claim import FOLDER, Claim, ClaimError, Read, Row, Study, look_up, mean_of
from dynlib.page import markdown_table


def gap(one: Mapping[int, float], other: Mapping[int, float], *, times: float = 1.0) -> list[float]:
    """one − other for each seed that both have, ``times`` something: 100 makes points of shares."""
    return [times * (one[seed] - other[seed]) for seed in one if seed in other]


def percent(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """How much larger one is than the other, in per cent of the other, for each seed that both have."""
    return [100 * (one[seed] / other[seed] - 1) for seed in one if seed in other]


MIDDLE = 4
"""Layers of MiniLM that the plans of unit 05 change: all but both ends."""


def _of_plans(one: str, other: str, *, size: int = MIDDLE) -> Callable[[Study], list[float]]:
    """How much more one plan loses than the other, for each pair of texts."""

    def values(study: Study) -> list[float]:
        each = [study.one("plans", plan=plan, size=size)["each"] for plan in (one, other)]
        return [a - b for a, b in zip(*each, strict=True)]

    return values


def _over_orders(study: Study) -> list[float]:
    """How much more the reverse order loses than each of the random orders, texts averaged."""
    reverse, drawn = (study.one("plans", plan=plan, size=MIDDLE) for plan in ("reverse", "shuffle"))
    return [reverse["loss"] - loss for loss in drawn["orders"]]


DEEP = 16
"""Layers of the deeper of the two depths that the study of painters trained."""


def _deep_plans(one: str, other: str) -> Callable[[Study], list[float]]:
    """How many bits more one plan needs than the other, in prose, for each of the deep models."""

    def values(study: Study) -> list[float]:
        plans = [row["largest"]["plans"] for row in study.rows("runs", layers=DEEP)]
        return [mean_of(found[one]["prose"]) - mean_of(found[other]["prose"]) for found in plans]

    return values


def _sums_lose_more(study: Study) -> list[float]:
    """The share lost of sums − that of prose, in random orders; who knows only frequencies has lost 1."""
    more = []
    for row in study.rows("runs", layers=DEEP):
        lost = {}
        for kind, worst in row["guessed"].items():
            best = mean_of(row["largest"]["full"][kind])
            lost[kind] = (mean_of(row["largest"]["plans"]["shuffle"][kind]) - best) / (worst - best)
        more.append(lost["sums"] - lost["prose"])
    return more


def _points(part: str, key: str, one: dict[str, Any], other: dict[str, Any]) -> Callable[[Study], list[float]]:
    """By how many points a share is larger in the rows of one kind than in those of the other."""
    return lambda study: gap(study.seeds(part, key, **one), study.seeds(part, key, **other), times=100)


def _less_loss(one: str, other: str) -> Callable[[Study], list[float]]:
    """How much less one estimator's network loses than the other's."""
    return lambda study: gap(study.seeds("runs", "loss", estimator=other), study.seeds("runs", "loss", estimator=one))


def _solved(one: str, other: str, *, key: str = "solved") -> Callable[[Study], list[float]]:
    """Points by which one arm solves more Sudoku than the other after its last step."""
    return lambda study: gap(
        study.seeds("runs", "solved", -1, arm=one), study.seeds("runs", key, -1, arm=other), times=100
    )


BITS = "bits_per_character_in_windows_of_128"


def _above_dense(kind: str, *, bits: str = BITS, depths: Sequence[int] = (3, 4, 6)) -> Callable[[Study], list[float]]:
    """Per cent by which a mixture's bits are below those of a dense model of its FLOPs, between those trained."""

    def values(study: Study) -> list[float]:
        trained = [study.rows("runs", kind=f"dense, {depth} layers") for depth in depths]
        gains = []
        for seed, flops in study.seeds("runs", "flops", kind=kind).items():
            dense = sorted((row["flops"], row[bits]) for rows in trained for row in rows if row["seed"] == seed)
            paid = study.seeds("runs", bits, kind=kind)[seed]
            gains.append(100 * (1 - paid / _between(flops, dense)))
        return gains

    return values


def _more_bits(kind: str, bits: str) -> Callable[[Study], list[float]]:
    """How many bits more a kind of model needs than top-k."""
    return lambda study: gap(study.seeds("runs", bits, kind=kind), study.seeds("runs", bits, kind="top-k, 12.5 %"))


def _between(flops: float, dense: list[tuple[float, float]]) -> float:
    """What lies at ``flops`` on the broken line through points, over the logarithm of the FLOPs."""
    for (less, there), (more, then) in pairwise(dense):
        if less <= flops <= more:
            return there + (then - there) * (log(flops) - log(less)) / (log(more) - log(less))
    raise ClaimError(f"{flops:.0f} FLOPs lie outside the dense models that were trained: {dense}")


def _above_single(arm: str, single: str = "independent") -> Callable[[Study], list[float]]:
    """Per cent by which one training of all widths is above one training a width, the mean over the widths."""

    def values(study: Study) -> list[float]:
        nested, alone = (study.rows("runs", arm=name) for name in (arm, single))
        return [
            mean_of(100 * (ours / theirs - 1) for ours, theirs in zip(one["bits"], other["bits"], strict=True))
            for one in nested
            for other in alone
            if one["seed"] == other["seed"]
        ]

    return values


def _looped_error(study: Study) -> list[float]:
    """Per cent by which the looped layer's error is above that of the stack, at the loops of training."""
    error = {
        arm: {row["seed"]: row["loss"][row["trained_loops"] - 1 if arm == "k x L" else -1] for row in rows}
        for arm in ("k x L", "kL x 1")
        if (rows := study.rows("regression", arm=arm))
    }
    return percent(error["k x L"], error["kL x 1"])


def _other_compressions(study: Study) -> list[float]:
    """Points of double compression over the best of the others at a hundredth of the traffic."""
    arms = {row["arm"] for row in study.rows("rows", ratio=0.01)}
    ends = {arm: study.seeds("rows", "accuracy", arm=arm, ratio=0.01) for arm in sorted(arms)}
    if "adc" not in ends or len(ends) < 2:
        raise study.fail("rows of 'adc' and of another compression at the ratio 0.01")
    ours = ends.pop("adc")
    return gap(ours, max(ends.values(), key=lambda accuracy: mean_of(accuracy.values())), times=100)


def _sent(rival: str) -> Callable[[Study], list[float]]:
    """Points of the one model over a rule that sends as many tokens, at 10 dB, the mean over the budgets."""

    def values(study: Study) -> list[float]:
        where = {"snr": 10.0}
        part, rest = ("per alpha", {}) if rival == "per alpha" else ("rivals", {"arm": rival})
        ours = "one model, as many tokens" if rival == "per alpha" else "one model"
        return gap(study.seeds(ours, "accuracy", **where), study.seeds(part, "accuracy", **where, **rest), times=100)

    return values


LIGHT = 0.003
"""The smallest ponder weight of unit 10."""

TRACE, LIBRARY = "mixture_of_depths_study", "mixture_of_depths_library_study"

THOUGHT_OUT = {"size": "small", "arm": "thoughts", "thinking": 6, "votes": 1}
"""The rows of the small model of unit 01 with as many thoughts as a problem can need, and a single answer."""

PAUSED = {"size": "large", "arm": "pauses", "thinking": 6}
"""The rows of the large one with as many pauses in their place."""
LEAVING = {"arm": "exits", "threshold": 0.99}
"""The rows of unit 04 with exits that ask the logits, at a threshold that is certified with every seed."""

CHAINS: tuple[tuple[str, Read, str, str, float | None, str], ...] = (
    (
        "Where depth counts: better than a dense model of equal FLOPs",
        "slides",
        "top-k − one dense layer, which has more FLOPs",
        "equal",
        0.0,
        "A task that is made so that depth counts for few tokens; there text, of which nobody knows that.",
    ),
    (
        "…and as good as the dense model of full depth",
        "abstract",
        "top-k − six dense layers; within 5 is yes",
        "dense",
        None,
        "A mixture in every layer and a short training here; in every other one, and at equal training, there.",
    ),
    (
        "…and much better than routing by random numbers",
        "text not read here",
        "top-k − Gaussian numbers",
        "gaussian",
        0.0,
        "With a mixture in every layer nobody is carried by dense layers between.",
    ),
)
"""What is claimed of mixtures of depths on chains: where it was read, the number, the rival's arm, the bound, why."""

CLAIMS = (
    Claim(
        "01_cost",
        "the slides",
        None,
        "A model reaches more by thinking for longer",
        "slides",
        "all thoughts − the same model trained on to answer at once, small, points",
        "thinking_study",
        _points("runs", "accuracy", THOUGHT_OUT, {"size": "small", "arm": "direct"}),
        "There large language models reason in words; here a small one writes down the partial results of a sum.",
    ),
    Claim(
        "01_cost",
        "Snell et al.",
        "2408.03314",
        "A small model that computes for longer beats a larger one of as many FLOPs",
        "abstract",
        "small, all thoughts − large, at once, which has more FLOPs, points",
        "thinking_study",
        _points("runs", "accuracy", THOUGHT_OUT, {"size": "large", "arm": "direct"}),
        "There search and revision by language models, on problems that the small one solves now and then.",
    ),
    Claim(
        "01_cost",
        "Wang et al.",
        "2203.11171",
        "A vote over several ways of thinking beats the single likeliest one",
        "abstract",
        "vote of 9 − one answer, small model, all thoughts, points",
        "thinking_study",
        _points("runs", "accuracy", {**THOUGHT_OUT, "votes": 9}, THOUGHT_OUT),
        "There ways to reason in words; here the orders in which a sum can be added.",
    ),
    Claim(
        "01_cost",
        "Goyal et al.",
        "2310.02226",
        "Pauses before the answer help a model that was trained with them",
        "abstract",
        "large, all pauses − large, at once, points",
        "thinking_study",
        _points("runs", "accuracy", PAUSED, {"size": "large", "arm": "direct"}),
        "There the pauses are in the pre-training, too; here only in what comes after it.",
    ),
    *(
        Claim(
            "02_gumbel",
            "Jang et al.",
            "1611.01144",
            says,
            "abstract",
            f"loss with leave-one-out − with {estimator}, nats",
            "gumbel_study",
            _less_loss(estimator, "score function, leave-one-out"),
            "Ours is a small network, and every estimator is tuned; leave-one-out may be a better rival than theirs "
            "were.",
            form="+.2f",
        )
        for says, estimator in (
            ("Networks trained with ST Gumbel end better than with score functions", "ST Gumbel"),
            ("…and with Gumbel-softmax, its samples soft", "Gumbel-softmax"),
        )
    ),
    Claim(
        "02_gumbel",
        "Liu et al., ReinMax",
        "2304.08612",
        "ReinMax trains better than straight-through estimators",
        "abstract",
        "loss with ST Gumbel − with ReinMax, nats",
        "gumbel_study",
        _less_loss("ReinMax", "ST Gumbel"),
        "Other tasks there (generative models, structured output); here one choice of ten inside a small network.",
        form="+.2f",
    ),
    Claim(
        "03_perturbed",
        "Berthet et al.",
        "2002.08676",
        "Learning through the perturbed solver finds shortest paths that a squared loss does not",
        "text not read here",
        "perfect paths through the solver − by squared error with sight of the whole map, points",
        "paths_study",
        _points(
            "runs",
            "perfect",
            {"arm": "through the solver", "maps": 4000, "passes": 15},
            {"arm": "squared error, sees all of the map", "maps": 4000, "passes": 15},
        ),
        "Maps of a video game there; drawn terrain, three directions for eight, and a smaller network here.",
    ),
    Claim(
        "04_early_exit",
        "Schuster et al.",
        "2207.07061",
        "Tokens that leave early save compute…",
        "abstract",
        "FLOPs of the whole model over those with exits at λ = 0.99, certified; above 1 is yes",
        "calm_study",
        lambda study: [1 / share for share in study.seeds("runs", "spent", **LEAVING).values()],
        "Three tasks of writing there, and up to 3 times as fast; here a text made so that one token of six is hard.",
        form=".2f",
        above=1.0,
    ),
    Claim(
        "04_early_exit",
        "Schuster et al.",
        "2207.07061",
        "…while the quality is provably kept, here that 95 % of the texts stay as they are",
        "abstract",
        "texts unchanged at the same λ, among texts that had no part in its choice, per cent; above 95 is yes",
        "calm_study",
        lambda study: [100 * share for share in study.seeds("runs", "unchanged", **LEAVING).values()],
        "Likeness of texts there, of which a part may change; here a text counts as lost if one token differs.",
        form=".1f",
        above=95.0,
    ),
    Claim(
        "04_early_exit",
        "Schuster et al.",
        "2207.07061",
        "…and at the most daring λ that is certified",
        "abstract",
        "texts unchanged at that λ, among texts that had no part in its choice, per cent; above 95 is yes",
        "calm_study",
        lambda study: [
            100 * share for share in study.seeds("runs", "unchanged", arm="certified", sure="softmax_diff").values()
        ],
        "It lies at the edge of the promise, which may fail in one of ten calibrations, here as there.",
        form=".1f",
        above=95.0,
    ),
    *(
        Claim(
            "05_painters",
            "Sun et al.",
            "2407.09298",
            says,
            "text",
            measured,
            "painters_minilm",
            values,
            why,
            form="+.2f",
            of="pairs of texts",
            also=also,
        )
        for says, measured, values, also, why in (
            (
                "Middle repeat, one layer in place of all, is the worst",
                "loss of middle repeat − of skip, four of six layers changed, nats",
                _of_plans("middle_repeat", "skip"),
                None,
                "Their models have 24 to 80 layers, of which many can be spared; MiniLM has six.",
            ),
            (
                "…with five of six layers changed",
                "loss of middle repeat − of skip, nats",
                _of_plans("middle_repeat", "skip", size=5),
                None,
                "Here one end is changed, too, where the paper changes the middle alone.",
            ),
            (
                "A random order is gentler than the reverse",
                "loss of reverse − of random orders, nats",
                _of_plans("reverse", "shuffle"),
                _over_orders,
                "Benchmarks of tasks and ten orders there; the loss on pairs of texts and five orders here.",
            ),
            (
                "Looping the parallel layers is gentler than running them once",
                "loss of parallel − of looped parallel, nats",
                _of_plans("parallel", "looped_parallel"),
                None,
                "The same three rounds as there, of four layers where they loop many.",
            ),
        )
    ),
    *(
        Claim(
            "05_painters",
            "Sun et al.",
            "2407.09298",
            f"{says}: {DEEP} layers",
            "text",
            measured,
            "painters_study",
            values,
            why,
            form="+.2f",
        )
        for says, measured, values, why in (
            (
                "Middle repeat is the worst",
                "bits of middle repeat − of skip",
                _deep_plans("middle_repeat", "skip"),
                "Their models have 24 to 80 layers, of which many can be spared; these have sixteen.",
            ),
            (
                "A random order is gentler than the reverse",
                "bits of reverse − of random orders",
                _deep_plans("reverse", "shuffle"),
                "Benchmarks of tasks and ten orders there; bits of prose and fifty orders here.",
            ),
            (
                "Looping the parallel layers is gentler than running them once",
                "bits of parallel − of looped parallel",
                _deep_plans("parallel", "looped_parallel"),
                "The same three rounds as there, of twelve layers side by side.",
            ),
            (
                "Another order hurts reasoning more than other text",
                "share lost of sums − of prose, in random orders",
                _sums_lose_more,
                "GSM8K against other benchmarks there; here sums against prose, and sums lose more by every plan.",
            ),
        )
    ),
    *(
        Claim(
            "06_colt5",
            "Ainslie et al.",
            "2303.09752",
            says,
            "text",
            measured,
            "colt5_study",
            _points("runs", "accuracy", {"arm": "learned"}, {"arm": rival}),
            why,
            theirs=theirs,
        )
        for says, measured, rival, theirs, why in (
            (
                "Evenly spaced routing loses 2 points on average",
                "learned − evenly spaced from the question on, points",
                "anchored",
                2.0,
                "A guess: in long texts much is said twice and windows carry much; here one token holds the answer.",
            ),
            (
                "One router for queries and keys loses half a point",
                "learned − one vector for both, points",
                "one for both",
                0.5,
                "Here the two jobs want different tokens, the question and the needles, by the way the data are made.",
            ),
            (
                "Better than full attention of as many FLOPs (our rival)",
                "learned − full attention in a narrower model, points",
                "narrow",
                None,
                "Their rival, LongT5, costs more than CoLT5; ours costs the same, and every token looks at all.",
            ),
        )
    ),
    *(
        Claim(
            "06_colt5",
            "Ainslie et al.",
            "2303.09752",
            says,
            "text",
            f"pairs of symbols answered, learned − {measured}, points",
            "colt5_heavy_study",
            _points("runs", "accuracy", {"arm": "learned"}, {"arm": rival}),
            "All routers of a model there; here one layer, and a task that was looked for: the lecture says among "
            "which.",
        )
        for says, measured, rival in (
            (
                "Learned routing is better than evenly spaced, here of the feed-forward part alone",
                "evenly spaced",
                "even",
            ),
            ("…and than a wider layer for everybody (our rival)", "a light part alone, of no fewer FLOPs", "wide"),
        )
    ),
    Claim(
        "07_mixture_of_depths",
        "Raposo et al.",
        "2404.02258",
        "On text, up to 1.5 % better than a dense model of equal FLOPs",
        "text not read here",
        "bits of a dense model of as many FLOPs − of top-k at 12.5 %, per cent",
        TRACE,
        _above_dense("top-k, 12.5 %"),
        "They fit size and steps to a budget of training; here six layers, on a text where depth is worth little.",
        theirs=1.5,
    ),
    Claim(
        "07_mixture_of_depths",
        "Raposo et al.",
        "2404.02258",
        "…and on a text where depth is worth more",
        "text not read here",
        "bits of a dense model of as many FLOPs − of top-k at 12.5 %, per cent, on more text",
        LIBRARY,
        _above_dense("top-k, 12.5 %", bits="bits"),
        "They fit size and steps to a budget of training; here size and steps are fixed.",
        theirs=1.5,
    ),
    Claim(
        "07_mixture_of_depths",
        "Raposo et al.",
        "2404.02258",
        "As good as a dense model that cost as much to train, with fewer FLOPs a token",
        "abstract",
        "bits of six dense layers − of top-k trained for as many FLOPs, per cent; above −1 is yes",
        LIBRARY,
        lambda study: percent(
            study.seeds("runs", "bits", kind="dense, 6 layers"),
            study.seeds("runs", "bits", kind="top-k, 12.5 %, longer"),
        ),
        "60 million to 3 billion parameters there; here a small model, which also takes more steps: see the next row.",
        above=-1.0,
    ),
    Claim(
        "07_mixture_of_depths",
        "Raposo et al.",
        "2404.02258",
        "…and better than a shallower one that cost as much to train (our rival)",
        "abstract",
        "bits of three dense layers trained for as many FLOPs − of top-k so trained, per cent",
        LIBRARY,
        lambda study: percent(
            study.seeds("runs", "bits", kind="dense, 3 layers, longer"),
            study.seeds("runs", "bits", kind="top-k, 12.5 %, longer"),
        ),
        "Both took more steps than the six layers, which is part of what the row above shows.",
    ),
    *(
        Claim(
            "07_mixture_of_depths",
            "Raposo et al.",
            "2404.02258",
            says,
            "text not read here",
            f"bits {measured} − with top-k, on {text}",
            name,
            _more_bits(kind, bits),
            why,
            form="+.3f",
        )
        for text, name, bits, says, instead, apart in (
            (
                "text",
                TRACE,
                BITS,
                "Routing by random numbers is much worse than by a learned router",
                "…also where only who runs is drawn (our control)",
                "the dense layers between the mixtures carry everybody.",
            ),
            (
                "more text",
                LIBRARY,
                "bits",
                "On more text, too, routing by random numbers is worse",
                "…there, too, where only who runs is drawn (our control)",
                "depth is worth more on this text, and the dense layers between carry much of it.",
            ),
        )
        for says, kind, measured, why in (
            (
                says,
                "gaussian, 12.5 %",
                "with Gaussian numbers for routers",
                "Such numbers are the weight of what is added, too, and not who runs alone: see the next row.",
            ),
            (
                instead,
                "random, 12.5 %",
                "with tokens drawn and a weight that is learned",
                f"Their control is the row before; {apart}",
            ),
        )
    ),
    Claim(
        "07_mixture_of_depths",
        "Raposo et al.",
        "2404.02258",
        "A causal predictor agrees with top-k in 97 % of the cases or more",
        "text not read here",
        "share of tokens on which they agree, per cent; above 97 is yes",
        TRACE,
        lambda study: [
            100 * share for share in study.seeds("runs", "agreement_of_predictor", kind="top-k, 12.5 %").values()
        ],
        "A shorter training; a rule that always says no agrees in 87.5 %, there as here.",
        form=".1f",
        above=97.0,
    ),
    *(
        Claim(
            "07_mixture_of_depths",
            "Raposo et al.",
            "2404.02258",
            says,
            read,
            f"right at names far from their end: {measured}, points",
            "mixture_of_depths_hard_study",
            _points("runs", "hard", {"arm": "top-k"}, {"arm": rival}),
            why,
            above=above,
            within=5.0,
        )
        for says, read, measured, rival, above, why in CHAINS
    ),
    Claim(
        "08_experts",
        "Fedus et al.",
        "2101.03961",
        "At equal FLOPs, a layer of many experts is better than a dense one",
        "text",
        "bits per byte of dense − of top-1 of 8",
        "experts_study",
        lambda study: gap(study.seeds("runs", "bits", arm="dense"), study.seeds("runs", "bits", arm="top-1 of 8")),
        "128 experts and a hundred thousand steps there; eight and a thousand here.",
        form="+.3f",
    ),
    Claim(
        "08_experts",
        "Fedus et al.",
        "2101.03961",
        "One expert a token does as well as two",
        "text",
        "bits per byte of top-2 − of top-1; above 0 is yes",
        "experts_study",
        lambda study: gap(study.seeds("runs", "bits", arm="top-2 of 8"), study.seeds("runs", "bits", arm="top-1 of 8")),
        "There the second expert costs FLOPs on top; here two of half the size cost as much as one.",
        form="+.3f",
    ),
    Claim(
        "08_experts",
        "Roller et al.",
        "2106.04426",
        "A fixed table of hashes routes as well as a learned router, or better",
        "abstract",
        "bits per byte of learned − of hashed routing",
        "experts_study",
        lambda study: gap(study.seeds("runs", "bits", arm="top-1 of 8"), study.seeds("runs", "bits", arm="hash of 8")),
        "A token is a byte here, for which a table is a strong hint; a word piece there.",
        form="+.3f",
    ),
    Claim(
        "09_matformer",
        "Devvrit et al.",
        "2310.07707",
        "Models taken out of one training are comparable to models trained one by one (first version)",
        "abstract",
        "bits above those of single models, all widths in each step, per cent, mean of four; within 2 is yes",
        "matformer_study",
        _above_single("joint"),
        "2.6 billion parameters there; here four layers, whose attention was trained before.",
        above=None,
        within=2.0,
    ),
    Claim(
        "09_matformer",
        "Devvrit et al.",
        "2310.07707",
        "…and better than those (its second version)",
        "abstract",
        "bits below those of single models, all widths in each step, per cent, mean of four",
        "matformer_study",
        lambda study: [-above for above in _above_single("joint")(study)],
        "850 million parameters there; here four layers, whose attention was trained before.",
    ),
    Claim(
        "09_matformer",
        "Devvrit et al.",
        "2310.07707",
        "…also where each step draws one width",
        "abstract",
        "bits above those of single models of as many steps each, per cent, mean of four; within 2 is yes",
        "matformer_study",
        _above_single("sampled"),
        "The first author's public code does so, that of the authors' lab takes all widths. Few steps here.",
        above=None,
        within=2.0,
    ),
    Claim(
        "09_matformer",
        "Devvrit et al.",
        "2310.07707",
        "…and, so trained, better than models that cost as much to train",
        "abstract",
        "bits below those of single models of a quarter of the steps each, one width a step, per cent, mean of four",
        "matformer_study",
        lambda study: [-above for above in _above_single("sampled", "independent, a quarter of the steps")(study)],
        "Steps are few here, and a quarter of them fewer still: in a long training single models lose less by it.",
    ),
    Claim(
        "10_avit",
        "Yin et al.",
        "2112.07658",
        "62 % more images a second (DeiT-Tiny)",
        "abstract",
        "images a second above those of the plain model, per cent, smallest ponder weight",
        "avit_study",
        lambda study: [100 * (ratio - 1) for ratio in study.seeds("runs", "throughput", 0, weight=LIGHT).values()],
        "197 tokens on a GPU there; 37 tokens on one thread of a CPU here, and a model that is not DeiT.",
        form="+.0f",
        theirs=62.0,
    ),
    Claim(
        "10_avit",
        "Yin et al.",
        "2112.07658",
        "…at 0.3 points less accuracy",
        "abstract",
        "accuracy − that of the plain model, points; within 1 is yes",
        "avit_study",
        _points("runs", "accuracy", {"weight": LIGHT}, {"weight": "plain"}),
        "A hundred epochs on ImageNet there, 700 steps on digits in clutter here.",
        above=None,
        within=1.0,
    ),
    Claim(
        "10_avit",
        "Yin et al.",
        "2112.07658",
        "Depth filters the informative patches",
        "abstract",
        "AUC of a patch's depth for the digit − 0.5, that of a guess",
        "avit_study",
        lambda study: [auc - 0.5 for auc in study.seeds("runs", "auc", weight=LIGHT).values()],
        "They show maps; here masks are known, and most of the others are blank paper: see the next row.",
        form="+.3f",
    ),
    Claim(
        "10_avit",
        "Yin et al.",
        "2112.07658",
        "…against pieces of other digits alone",
        "abstract",
        "AUC of a patch's depth, digit against pieces of digits, − 0.5",
        "avit_study",
        lambda study: [auc - 0.5 for auc in study.seeds("runs", "auc against fragments", weight=LIGHT).values()],
        "What surrounds the object in a photograph is seldom made of the same strokes.",
        form="+.3f",
    ),
    Claim(
        "10_avit",
        "Yin et al.",
        "2112.07658",
        "…and there by what the training of halting adds",
        "abstract",
        "AUC of a patch's depth, digit against pieces of digits, − before halting was trained",
        "avit_study",
        lambda study: [
            auc - study.found["before training"]["auc against fragments"]
            for auc in study.seeds("runs", "auc against fragments", weight=LIGHT).values()
        ],
        "Ours begins with a network that knows the digits, and with a feature of it by which halting costs little.",
        form="+.3f",
    ),
    Claim(
        "10_avit",
        "Yin et al.",
        "2112.07658",
        "…and among all patches, by what the training of halting adds",
        "abstract",
        "AUC of a patch's depth for the digit, among all patches, − before halting was trained",
        "avit_study",
        lambda study: [
            auc - study.found["before training"]["auc"] for auc in study.seeds("runs", "auc", weight=LIGHT).values()
        ],
        "Ours begins with a network that knows the digits, and with a feature of it by which halting costs little.",
        form="+.3f",
    ),
    Claim(
        "10_avit",
        "Yin et al.",
        "2112.07658",
        "…better than a rule without a network (our rival)",
        "abstract",
        "AUC of a patch's depth for the digit − AUC of its ink",
        "avit_study",
        lambda study: [
            auc - study.found["auc of the ink"] for auc in study.seeds("runs", "auc", weight=LIGHT).values()
        ],
        "They have no such rival; on digits among fragments of digits, ink says much.",
        form="+.3f",
    ),
    Claim(
        "10_avit",
        "Yin et al.",
        "2112.07658",
        "…also in hatching of nearly as much ink (our condition)",
        "abstract",
        "AUC of a patch's depth for the digit − AUC of its ink, in a hatched canvas",
        "avit_hatched_study",
        lambda study: [
            auc - study.found["start"]["auc of the ink"] for auc in study.seeds("runs", "auc", arm="halting").values()
        ],
        "Photographs there. And the feature that halting begins with tells most of it; the next row is what it adds.",
        form="+.3f",
    ),
    Claim(
        "10_avit",
        "Yin et al.",
        "2112.07658",
        "…by what the training of halting adds in the hatched canvas",
        "abstract",
        "AUC of a patch's depth for the digit − of the feature that halting begins with, in a hatched canvas",
        "avit_hatched_study",
        lambda study: [
            auc - study.found["start"]["auc of the feature"][0]
            for auc in study.seeds("runs", "auc", arm="halting").values()
        ],
        "Photographs there; here hatched digits, which the network knew before it was to halt.",
        form="+.3f",
    ),
    Claim(
        "11_looped",
        "Yang et al.",
        "2311.12424",
        "A looped layer fits data as well as a deep stack, with a tenth of its parameters",
        "abstract",
        "error of one layer looped ten times above that of ten layers, per cent; within 25 is yes",
        "looped_study",
        _looped_error,
        "Their model is wider, learns for longer, and loops 30 times; ours reads three features.",
        above=None,
        within=25.0,
    ),
    *(
        Claim(
            "11_looped",
            "Saunshi et al.",
            "2502.17416",
            says,
            "abstract",
            measured,
            "looped_study",
            _points("hops", "accuracy", {"arm": "k x L"}, {"arm": rival}),
            "Pointers are given as such here; p-hop induction has to find them in a text.",
            above=above,
            within=5.0,
        )
        for says, measured, rival, above in (
            (
                "k layers looped L times nearly match kL layers",
                "hops followed rightly, looped − stack, points; within 5 is yes",
                "kL x 1",
                None,
            ),
            (
                "…and are far better than k layers",
                "hops followed rightly, looped − one pass, points",
                "k x 1",
                0.0,
            ),
        )
    ),
    *(
        Claim(
            "12_recursion",
            "Jolicoeur-Martineau",
            "2510.04871",
            says,
            "text",
            measured,
            "recursion_study",
            values,
            why,
            theirs=theirs,
        )
        for says, measured, values, theirs, why in (
            (
                "A gradient through all calls of the last recursion: +30.9 points",
                "solved with it − with a gradient through the last two calls alone, points",
                _solved("whole", "one-step gradient"),
                87.4 - 56.5,
                "Two of three calls here, two of seven there; and at equal FLOPs the short one trains for longer.",
            ),
            (
                "Averaging the weights: +7.5 points",
                "solved by the average − by the last weights, points",
                _solved("whole", "whole", key="solved_raw"),
                87.4 - 79.9,
                "A short training whose rate does not fall ends anywhere, and an average makes up for it.",
            ),
            (
                "Supervising every step of 16 in place of one: +20 points (of HRM, by ARC Prize)",
                "solved with 16 supervised steps − with one, points",
                _solved("whole", "one supervision step"),
                20.0,
                "Puzzles are plenty here, and at equal FLOPs the time that one puzzle takes is missing for others.",
            ),
            (
                "Recursion solves what one pass does not: 87.4 against 0 %",
                "solved − by a plain model of as many FLOPs a step, points",
                _solved("whole", "plain, equal FLOPs"),
                87.4,
                "Sudoku of 9 × 9 and a thousand puzzles there; here 6 × 6, of which a plain model solves many.",
            ),
            (
                "…and what a plain model of as many parameters does not (our rival)",
                "solved − by it, points",
                _solved("whole", "plain, equal parameters"),
                None,
                "Their plain model has more parameters than the recursive one, and not as few.",
            ),
        )
    ),
    Claim(
        "13_acm",
        "Wójcik et al.",
        "2312.10193",
        "Better than other ways of conditional computation at the same cost",
        "text",
        "accuracy − that of layers that are simply narrower, mean of four budgets, points",
        "acm_study",
        _points("rows", "accuracy", {"arm": "acm"}, {"arm": "static"}),
        "Their rivals are A-ViT, MoEfication and early exits on ImageNet, after 97 epochs; ours is the trivial one. "
        "The lecture has the budgets one by one, and single runs of A-ViT and early exits.",
    ),
    Claim(
        "13_acm",
        "Wójcik et al.",
        "2312.10193",
        "With the budget loss alone, the modules become static",
        "text",
        "variance over tokens of the share that runs, with that loss alone, in per cent of that with all three; within "
        "50 is yes",
        "acm_study",
        lambda study: [
            100 + more
            for more in percent(
                study.seeds("rows", "variance over tokens", arm="budget alone", budget=0.4),
                study.seeds("rows", "variance over tokens", arm="acm", budget=0.4),
            )
        ],
        "Few steps here, from gates that were trained to differ.",
        form=".0f",
        above=None,
        within=50.0,
    ),
    Claim(
        "13_acm",
        "Wójcik et al.",
        "2312.10193",
        "The budget goes to the meaningful patches",
        "text",
        "AUC of what a patch gets, digit against pieces of digits, − 0.5",
        "acm_study",
        lambda study: [
            auc - 0.5 for auc in study.seeds("rows", "auc against fragments", arm="acm", budget=0.4).values()
        ],
        "They show maps of photographs; here the rest of the picture is made of the same strokes as the digit.",
        form="+.3f",
    ),
    *(
        Claim(
            "15_communication",
            "Devoto et al.",
            arxiv,
            says,
            "abstract",
            measured,
            "communication_study",
            _sent(rival),
            why,
            above=above,
            within=2.0,
        )
        for says, arxiv, measured, rival, above, why in (
            (
                "One model for every budget replaces a model for each",
                "2405.02330",
                "accuracy of the one model − of one trained for the budget, 10 dB, points; within 2 is yes",
                "per alpha",
                None,
                "A short training, in which a model held to few tokens learns little.",
            ),
            (
                "Choosing the tokens consistently beats the baselines: chance",
                "2505.17604",
                "accuracy − when any tokens are sent, as many, 10 dB, points",
                "random",
                0.0,
                "Their baselines are others, and photographs have more to tell apart than digits.",
            ),
            (
                "…and a rule: the ink",
                "2505.17604",
                "accuracy − when the patches with the most ink are sent, as many, 10 dB, points",
                "ink",
                0.0,
                "Digits are ink, so that this rule, which costs nothing, is a strong rival; not so for photographs.",
            ),
        )
    ),
    Claim(
        "16_split_learning",
        "Alvetreti et al.",
        "2509.15058",
        "Double compression reaches more than other split learning at little communication",
        "abstract",
        "accuracy − that of the best other at 1/100 of the traffic, points",
        "split_study",
        _other_compressions,
        "DeiT on CIFAR-100 and Food-101 there; a small model that learns to read turned digits here.",
    ),
    Claim(
        "16_split_learning",
        "Alvetreti et al.",
        "2509.15058",
        "…because groups and tokens follow attention (our control)",
        "abstract",
        "accuracy − that with random numbers for attention, at 1/100, each at its best rate, points",
        "split_study",
        lambda study: gap(
            study.seeds("rows", "accuracy", arm="adc", ratio=0.01),
            study.seeds("control", "accuracy", ratio=0.01),
            times=100,
        ),
        "Photographs of objects there; here digits, whose ink lies in the middle of every image.",
    ),
    Claim(
        "16_split_learning",
        "Alvetreti et al.",
        "2509.15058",
        "…the same at every learning rate",
        "abstract",
        "accuracy − that with random numbers for attention, at 1/100, mean of three learning rates, points",
        "split_study",
        _points("by rate", "accuracy", {"arm": "adc"}, {"arm": "random for attention"}),
        "A rate was chosen on 300 images, and that choice is chance in part.",
    ),
)


@dataclass(frozen=True)
class Live:
    """A claim whose number is measured on the reader's machine, in a lecture, and stands in no file."""

    unit: str
    paper: str
    arxiv: str | None
    says: str
    read: Read
    cell: str
    """The cell of the lecture that measures it."""


LIVE = (
    Live(
        "01_cost",
        "Luccioni et al.",
        "2311.16863",
        "To generate a text takes more energy than to classify an image",
        "text not read here",
        "paper-here",
    ),
    Live(
        "01_cost", "the slides", None, "Cost grows about linearly with the tokens of reasoning", "slides", "paper-here"
    ),
    Live(
        "02_gumbel",
        "Maddison et al.",
        "1611.00712",
        "Rounding a relaxed sample gives the exact law at every temperature",
        "text not read here",
        "paper-table",
    ),
    Live(
        "03_perturbed",
        "Peters et al.",
        "1905.05702",
        "α-entmax is sparse and scales to large vocabularies",
        "abstract",
        "paper-table",
    ),
    Live(
        "03_perturbed",
        "Ahmed et al.",
        "2210.01941",
        "Exact marginals give gradients of lower bias and variance",
        "abstract",
        "paper-table",
    ),
    Live(
        "04_early_exit",
        "Kaya et al.",
        "1810.07052",
        "Exits cut the mean cost by more than half and keep the accuracy",
        "abstract",
        "paper-table",
    ),
    Live(
        "04_early_exit",
        "Angelopoulos et al.",
        "2110.01052",
        "The promise is broken in at most ε of the calibrations",
        "text not read here",
        "paper-table",
    ),
    Live(
        "04_early_exit",
        "Schuster et al.",
        "2207.07061",
        "Up to 3 times as fast, with the quality kept",
        "abstract",
        "paper-table",
    ),
    Live(
        "04_early_exit",
        "Elhoushi et al.",
        "2404.16710",
        "By self-speculation up to 2.16 times as fast",
        "abstract",
        "paper-table",
    ),
    Live(
        "06_colt5", "Ainslie et al.", "2303.09752", "50 to 100 % faster than LongT5 in inference", "text", "paper-table"
    ),
    Live(
        "07_mixture_of_depths",
        "Raposo et al.",
        "2404.02258",
        "A step of writing can be 50 % faster and more",
        "abstract",
        "paper-table",
    ),
    Live("13_acm", "Wójcik et al.", "2312.10193", "Latency is linear in the learners that run", "text", "paper-table"),
)


def rows(folder: Path = FOLDER) -> list[Row]:
    """All claims with their numbers, by unit, in the order of :data:`CLAIMS`."""
    return [look_up(claim, folder) for claim in sorted(CLAIMS, key=lambda claim: claim.unit)]


HEADS = ("the claim", "whose", "read in", "here", "so", "made by", "what differs")


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table under :data:`HEADS`."""
    claim = row.claim
    whose = f"[{claim.paper}](https://arxiv.org/abs/{claim.arxiv})" if claim.arxiv else claim.paper
    return (
        claim.says,
        whose,
        claim.read,
        f"{claim.measured}: **{row.told}**",
        f"**{row.verdict}**",
        f"`{row.made_by}`",
        claim.why,
    )


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__).parse_args()
    print(markdown_table(("unit", *HEADS), ((row.claim.unit, *cells(row)) for row in rows())))


if __name__ == "__main__":
    main()
