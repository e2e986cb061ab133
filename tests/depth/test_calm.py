"""Decoding with exits against a slow loop that keeps no cache, and its parts against enumeration."""

import copy
import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import CausalLM
from dynlib.cost import count
from dynlib.depth.calm import calibration_losses, calm_generate, masked_exits
from dynlib.depth.consistency import risk_consistency_loss, textual_consistency_loss
from dynlib.depth.early_exit import margin, max_probability, negative_entropy
from dynlib.depth.token_confidence import (
    ExitClassifier,
    classifier_loss,
    decaying_threshold,
    exit_labels,
    state_similarity,
)
from dynlib.tokens import MixtureOfDepths

EXACT = {"rtol": 0, "atol": 1e-12}  # for float64
CONFIDENCES = ["softmax_diff", "state", "classifier"]
every_confidence = pytest.mark.parametrize("confidence", CONFIDENCES)


def make_lm(*, depth: int = 5, vocabulary: int = 11, dim: int = 16, seed: int = 0, dtype=torch.float64) -> CausalLM:
    """Weights large enough for the layers to disagree, and small enough for some of them to agree."""
    torch.manual_seed(seed)
    model = CausalLM(vocabulary=vocabulary, dim=dim, depth=depth, heads=2).to(dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    nn.init.normal_(model.embedding.weight, std=0.6)
    nn.init.normal_(model.norm.weight, mean=1.0, std=0.3)
    return model.eval()


def make_classifier(dim: int = 16, seed: int = 3) -> ExitClassifier:
    torch.manual_seed(seed)
    classifier = ExitClassifier(dim).double()
    for parameter in classifier.parameters():
        nn.init.normal_(parameter, std=0.7)
    return classifier


def make_prompt(batch: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(seed))


def options(confidence: str) -> dict[str, Any]:
    return {"confidence": confidence} | ({"classifier": make_classifier()} if confidence == "classifier" else {})


class Script(nn.Module):
    """Lets the tokens of one sequence leave after the layers written down; anything else than confidence."""

    def __init__(self, exits: list[int], depth: int) -> None:
        super().__init__()
        self.answers = [layer == leave for leave in exits for layer in range(1, min(leave, depth - 1) + 1)]

    def forward(self, hidden: Tensor) -> Tensor:
        assert hidden.shape[:-1] == (1,)
        return hidden.new_tensor([100.0 if self.answers.pop(0) else -100.0])


# ---- the slow way


def ask_slowly(model: CausalLM, confidence: str, before: Tensor, after: Tensor) -> float:
    """Confidence of a state [dim]."""
    if confidence == "softmax_diff":
        logits = model.readout(after[None, None])[0, 0].tolist()
        total = sum(math.exp(logit) for logit in logits)
        likely = sorted((math.exp(logit) / total for logit in logits), reverse=True)
        return likely[0] - likely[1]
    if confidence == "state":
        dot = sum(a * b for a, b in zip(before.tolist(), after.tolist(), strict=True))
        return max(0.0, dot / math.hypot(*before.tolist()) / math.hypot(*after.tolist()))
    return 1 / (1 + math.exp(-make_classifier()(after[None]).item()))


@torch.no_grad()
def decode_slowly(
    model: CausalLM,
    prompt: Tensor,
    new_tokens: int,
    threshold: float,
    *,
    confidence: str = "softmax_diff",
    min_exit: int = 1,
    tau: float | None = None,
    exits: list[int] | None = None,
) -> tuple[list[int], list[int], list[float], Tensor]:
    """One sequence, token by token, all of the past anew each time and no cache: a token that left keeps its state.

    Or with ``exits`` given, at those. Gives tokens, exits, confidences, and the states of the last step
    [layers + 1, tokens, dim].
    """
    depth = len(model.blocks)
    tokens = prompt[0].tolist()
    leaves = [depth] * (len(tokens) - 1)  # by place; the prompt's last token is the first that may leave
    found, states = [], torch.empty(0)
    for t in range(new_tokens):
        limit = threshold
        if tau is not None:
            limit = min(1.0, 0.9 * threshold + 0.1 * math.exp(-tau * t / new_tokens))
        leave, confident = depth, math.nan
        x = model.embedding(torch.tensor([tokens]))
        history = [x[0]]
        for layer in range(1, depth + 1):
            before, x = x, model.blocks[layer - 1](x).clone()
            for place, left in enumerate([*leaves, leave]):
                if left < layer:
                    x[0, place] = before[0, place]
            history.append(x[0])
            if leave < depth or layer == depth:
                continue
            if exits is not None:
                leave = layer if exits[t] == layer else depth
            elif layer >= min_exit:
                value = ask_slowly(model, confidence, before[0, -1], x[0, -1])
                if value >= limit:
                    leave, confident = layer, value
        states = torch.stack(history)
        leaves.append(leave)
        found.append(confident)
        tokens.append(int(model.readout(x)[0, -1].argmax()))
    return tokens, leaves[prompt.shape[1] - 1 :], found, states


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("tau", [None, 3.0])
@pytest.mark.parametrize(
    ("confidence", "threshold", "min_exit"),
    [
        ("softmax_diff", 0.6, 1),
        ("softmax_diff", 0.7, 2),
        ("state", 0.6, 1),
        ("state", 0.92, 3),
        ("classifier", 0.7, 1),
        ("classifier", 0.5, 2),
    ],
)
def test_decoding_agrees_with_a_loop_that_keeps_no_cache(confidence, threshold, min_exit, tau, length):
    model = make_lm()
    seen = set()
    for seed in range(4):
        prompt = make_prompt(1, length, seed)
        made = calm_generate(model, prompt, 9, threshold, min_exit=min_exit, tau=tau, **options(confidence))
        tokens, exits, confidences, _ = decode_slowly(
            model, prompt, 9, threshold, confidence=confidence, min_exit=min_exit, tau=tau
        )
        assert made.tokens.tolist() == [tokens]
        assert made.exits.tolist() == [exits]
        expected = torch.tensor([confidences], dtype=torch.float64)
        torch.testing.assert_close(made.confidences, expected, rtol=0, atol=1e-10, equal_nan=True)
        assert (made.confidences.isnan() == (made.exits == 5)).all()
        seen |= set(exits)
    assert len(seen) >= 2  # the threshold was one that tells tokens apart


@pytest.mark.parametrize("length", [1, 3])
def test_the_caches_above_an_exit_hold_the_state_of_the_exit(length):
    model, exits = make_lm(), [3, 1, 5, 2, 4, 5, 1]
    caches = []
    make = model.new_cache
    model.new_cache = lambda: caches.append(make()) or caches[-1]  # type: ignore[method-assign]
    prompt = make_prompt(1, length)
    made = calm_generate(model, prompt, 7, 0.5, confidence="classifier", classifier=Script(exits, 5))
    tokens, _, _, states = decode_slowly(model, prompt, 7, 0.5, exits=exits)
    assert made.exits.tolist() == [exits]
    assert made.tokens.tolist() == [tokens]
    for layer, (block, past) in enumerate(zip(model.blocks, caches[0], strict=True)):
        # nobody has asked the upper layers for the last token, which left at 1
        assert past.length == length + 6 - (layer >= 1)
        assert past.positions.tolist() == [list(range(past.length))]
        for t, leave in enumerate(exits[:-1]):
            place = torch.tensor([[length - 1 + t]])
            state = states[min(leave, layer), place]  # [1, 1, dim], the state with which it left, or got here
            keys, values = block.attention.keys_values(block.norm1(state), place)
            torch.testing.assert_close(past.keys[:, :, place.item()][:, :, None], keys, rtol=0, atol=1e-10)
            torch.testing.assert_close(past.values[:, :, place.item()][:, :, None], values, rtol=0, atol=1e-10)
            if layer >= leave > 1:  # and not that of the first layer that was asked
                wrong, _ = block.attention.keys_values(block.norm1(states[1, place]), place)
                assert (wrong - keys).abs().max() > 1e-3


# ---- the ends of the scale


@every_confidence
@pytest.mark.parametrize("threshold", [1.0 + 1e-9, 2, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_above_one_it_is_full_decoding_bit_for_bit(monkeypatch, confidence, threshold, dtype):
    # large enough for a product of one row to be rounded otherwise than one of many
    model, prompt = make_lm(dtype=dtype, dim=32, vocabulary=200), make_prompt(1, 33)
    read = []
    readout = model.readout
    monkeypatch.setattr(model, "readout", lambda states: read.append(readout(states)) or read[-1])
    full = model.generate(prompt, 20)
    of_full = [logits[:, -1] for logits in read]
    read.clear()
    chosen = options(confidence)
    if confidence == "classifier":
        chosen["classifier"] = make_classifier(32).to(dtype)
    made = calm_generate(model, prompt, 20, threshold, tau=4.0, **chosen)
    assert torch.equal(made.tokens, full)
    assert len(read) == len(of_full) == 20
    assert all(torch.equal(logits[:, -1], expected) for logits, expected in zip(read, of_full, strict=True))
    assert (made.exits == 5).all()
    assert made.confidences.isnan().all()
    assert made.confidences.dtype == dtype


def test_above_one_sampling_is_that_of_the_model():
    model, prompt = make_lm(), make_prompt(2, 3)
    for temperature in (0.5, 2.0):
        full = model.generate(prompt, 30, temperature=temperature, generator=torch.Generator().manual_seed(5))
        made = calm_generate(model, prompt, 30, 2, temperature=temperature, generator=torch.Generator().manual_seed(5))
        assert torch.equal(made.tokens, full)


def test_samples_of_an_early_layer_follow_its_own_softmax():
    # n = 4000 first tokens that left at layer 2; each frequency lies within 5.5 standard deviations of its probability
    # with a false-alarm rate below 1e-6 for all eleven
    model, prompt = make_lm(), make_prompt(1, 4)
    with torch.no_grad():
        hidden = model.blocks[1](model.blocks[0](model.embed(prompt)))
        expected = (model.readout(hidden)[0, -1] / 1.5).softmax(-1)
    made = calm_generate(
        model,
        prompt.expand(4000, -1),
        1,
        0.0,
        min_exit=2,
        temperature=1.5,
        generator=torch.Generator().manual_seed(0),
    )
    found = torch.bincount(made.tokens[:, -1], minlength=11) / 4000
    assert ((found - expected).abs() < 5.5 * (expected * (1 - expected) / 4000).sqrt() + 1e-3).all()
    assert (made.exits == 2).all()


@every_confidence
@pytest.mark.parametrize("min_exit", [1, 2, 4, 5])
def test_a_threshold_of_zero_leaves_at_the_first_layer_allowed(confidence, min_exit):
    model, prompt = make_lm(), make_prompt(2, 3)
    made = calm_generate(model, prompt, 12, 0, min_exit=min_exit, **options(confidence))
    assert (made.exits == min_exit).all()
    if min_exit == 5:
        assert torch.equal(made.tokens, model.generate(prompt, 12))
    else:
        assert not torch.equal(made.tokens, model.generate(prompt, 12))


@every_confidence
def test_the_first_token_leaves_no_earlier_under_a_higher_threshold(confidence):
    model, prompt = make_lm(), make_prompt(40, 3)
    levels = torch.linspace(0, 1.05, 22).tolist()
    first = torch.stack([calm_generate(model, prompt, 1, level, **options(confidence)).exits[:, 0] for level in levels])
    assert (first.diff(dim=0) >= 0).all()
    assert (first[0] == 1).all()
    assert (first[-1] == 5).all()
    assert len(first.unique()) >= 3


def test_a_model_of_one_layer_and_no_new_token_at_all_are_served():
    model, prompt = make_lm(depth=1), make_prompt(2, 3)
    made = calm_generate(model, prompt, 6, 0.0)
    assert torch.equal(made.tokens, model.generate(prompt, 6))
    assert (made.exits == 1).all()
    nothing = calm_generate(model, prompt, 0, 0.5)
    assert torch.equal(nothing.tokens, prompt)
    assert nothing.exits.shape == nothing.confidences.shape == (2, 0)


# ---- batches


@every_confidence
@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("tau", [None, 2.0])
def test_a_batch_equals_its_sequences_one_by_one(confidence, length, tau):
    model, prompt = make_lm(), make_prompt(6, length)
    threshold = {"softmax_diff": 0.6, "state": 0.5, "classifier": 0.7}[confidence]
    made = calm_generate(model, prompt, 12, threshold, tau=tau, **options(confidence))
    for row in range(6):
        alone = calm_generate(model, prompt[row : row + 1], 12, threshold, tau=tau, **options(confidence))
        assert torch.equal(made.tokens[row], alone.tokens[0])
        assert torch.equal(made.exits[row], alone.exits[0])
        torch.testing.assert_close(made.confidences[row], alone.confidences[0], **EXACT, equal_nan=True)
    apart = [len(column.unique()) for column in made.exits.T]
    assert max(apart) >= 2  # rows parted
    assert made.tokens.shape == (6, length + 12)


def test_a_layer_runs_for_those_alone_that_go_on():
    model, prompt = make_lm(), make_prompt(6, 1)
    rows: list[list[int]] = [[] for _ in model.blocks]
    for block, seen in zip(model.blocks, rows, strict=True):
        block.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(len(args[0])))
    made = calm_generate(model, prompt, 12, 0.6)
    for layer, seen in enumerate(rows, start=1):
        expected = [int((column >= layer).sum()) for column in made.exits.T]
        assert seen == [number for number in expected if number], layer
    assert any(0 < number < 6 for seen in rows for number in seen)


# ---- what it costs


@pytest.mark.parametrize("confidence", ["softmax_diff", "state"])
@pytest.mark.parametrize("first", [1, 3])
def test_layers_that_nobody_reaches_cost_nothing(confidence, first):
    model, prompt = make_lm(), make_prompt(2, 1)
    shallow = make_lm(depth=first)
    shallow.load_state_dict({key: value for key, value in model.state_dict().items() if key in shallow.state_dict()})
    cost = count(calm_generate, model, prompt, 8, 0.0, confidence=confidence, min_exit=first)
    assert cost.flops == count(shallow.generate, prompt, 8).flops
    assert cost.flops < count(model.generate, prompt, 8).flops * (first + 1) / 5


def test_reading_out_and_propagating_are_paid_for():
    model, prompt, exits = make_lm(dim=16), make_prompt(1, 1), [2, 5, 1, 5]
    cost = count(calm_generate, model, prompt, 4, 0.5, confidence="classifier", classifier=Script(exits, 5)).flops
    # by hand: a layer is 12 dim² weights and attention to all that is held, twice; keys and values are 2 dim² weights
    layers = sum(2 * 12 * 16**2 + 4 * 16 * (t + 1) for t, leave in enumerate(exits) for _ in range(leave))
    owed = sum(2 * 2 * 16**2 for leave in exits[:3] for _ in range(5 - leave))
    assert cost == layers + owed + 4 * 2 * 16 * 11
    asking = count(calm_generate, model, prompt, 4, 1.0).flops - count(model.generate, prompt, 4).flops
    assert asking == 4 * 4 * 2 * 16 * 11  # a readout after each of four layers


def test_lower_thresholds_cost_less():
    model, prompt = make_lm(), make_prompt(8, 2)
    costs = [count(calm_generate, model, prompt, 10, level).flops for level in (0.0, 0.3, 0.6, 1.0)]
    assert costs == sorted(costs)
    assert costs[0] < 0.5 * costs[-1]


# ---- all at once


@every_confidence
@pytest.mark.parametrize("min_exit", [1, 3])
@pytest.mark.parametrize("length", [1, 4])
def test_masked_and_gathered_take_the_same_exits_and_say_the_same(confidence, min_exit, length):
    model, prompt = make_lm(), make_prompt(6, length)
    seen = set()
    for threshold in (0.0, 0.3, 0.5, 0.7, 0.9, 1.5):
        given = options(confidence) | {"min_exit": min_exit}
        made = calm_generate(model, prompt, 7, threshold, **given)
        logits, exits = masked_exits(model, made.tokens[:, :-1], threshold, prompt=length, **given)
        assert torch.equal(logits.argmax(-1)[:, length - 1 :], made.tokens[:, length:])
        assert torch.equal(exits[:, length - 1 :], made.exits)
        assert (exits[:, : length - 1] == len(model.blocks)).all()  # the prompt is read whole
        seen |= set(made.exits.flatten().tolist())
    assert len(seen) >= 2


def test_masked_exits_with_a_threshold_and_a_prompt_for_each_text_are_those_of_each_alone():
    model, tokens = make_lm(), make_prompt(3, 9)
    thresholds, prompts = torch.tensor([0.2, 0.6, 2.0]), torch.tensor([1, 5, 9])
    logits, exits = masked_exits(model, tokens, thresholds, prompt=prompts)
    for row in range(3):
        alone = masked_exits(model, tokens[row : row + 1], thresholds[row].item(), prompt=prompts[row].item())
        torch.testing.assert_close(logits[row : row + 1], alone[0], **EXACT)
        assert torch.equal(exits[row : row + 1], alone[1])


def test_masked_exits_above_one_are_the_model_and_the_gradient_passes_below_the_exit_alone():
    model, tokens = make_lm(), make_prompt(2, 5)
    torch.testing.assert_close(masked_exits(model, tokens, 1.5)[0], model(tokens), **EXACT)
    logits, exits = masked_exits(model, tokens, 0.0, min_exit=2)
    assert (exits == 2).all()
    logits.square().sum().backward()
    reached = [block.feed_forward.expand.weight.grad for block in model.blocks]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in reached[:2])
    assert all(grad is None or grad.abs().sum() == 0 for grad in reached[2:])


# ---- confidences


def test_the_margin_is_the_likeliest_less_the_next():
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 5.0, -math.inf]], dtype=torch.float64)
    total = 1 + math.e + math.e**2
    expected = torch.tensor([(math.e**2 - math.e) / total, 0.0], dtype=torch.float64)
    torch.testing.assert_close(margin(logits), expected, **EXACT)
    torch.testing.assert_close(margin(logits + 7), expected, **EXACT)
    with pytest.raises(ValueError, match="needs two or more"):
        margin(torch.zeros(2, 1))


def test_the_similarity_of_states_is_their_cosine_but_never_negative():
    before = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    after = torch.tensor([[30.0, 40.0], [0.0, 2.0], [-2.0, -1.0], [2.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([1.0, 0.0, 0.0, 0.8], dtype=torch.float64)
    torch.testing.assert_close(state_similarity(before, after), expected, **EXACT)


def test_no_confidence_leaves_the_range_from_zero_to_one():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 7, generator=generator)
    assert 0 <= state_similarity(x, x * 3).min() <= state_similarity(x, x * 3).max() <= 1
    assert 0 <= margin(40 * x).min() <= margin(40 * x).max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_judged_in_single(dtype):
    logits = torch.tensor([[1.0, 1.25, -2.0]], dtype=dtype)
    assert torch.equal(margin(logits), margin(logits.float()))
    assert state_similarity(logits, logits).dtype == torch.float32
    model = make_lm(dtype=torch.bfloat16)
    made = calm_generate(model, make_prompt(2, 3), 4, 0.5)
    assert made.confidences.dtype == torch.float32


# ---- the classifier


@torch.no_grad()
def test_a_layer_may_be_left_where_it_says_what_the_last_one_does():
    model, tokens = make_lm(), make_prompt(3, 7)
    hidden, labels = exit_labels(model, tokens)
    assert hidden.shape == (4, 3, 7, 16)
    assert labels.shape == (4, 3, 7)
    full = model(tokens).argmax(-1)
    for layers in range(1, 5):
        x = model.embed(tokens)
        for block in model.blocks[:layers]:
            x = block(x)
        assert torch.equal(hidden[layers - 1], x)
        assert torch.equal(labels[layers - 1], model.readout(x).argmax(-1) == full)
    assert 0 < labels.double().mean() < 1


def test_the_loss_of_the_classifier_balances_the_classes_in_every_layer():
    model, tokens, classifier = make_lm(), make_prompt(3, 7), make_classifier()
    hidden, labels = exit_labels(model, tokens)
    layers = []
    for states, leaves in zip(hidden.flatten(1, 2), labels.flatten(1, 2), strict=True):
        costs: dict[bool, list[float]] = {True: [], False: []}
        for state, leave in zip(states, leaves.tolist(), strict=True):
            p = 1 / (1 + math.exp(-classifier(state[None]).item()))
            costs[leave].append(-math.log(p if leave else 1 - p))
        parts = [sum(part) / len(part) for part in costs.values() if part]
        layers.append(sum(parts) / len(parts))
    assert classifier_loss(classifier, model, tokens).item() == pytest.approx(sum(layers) / 4, abs=1e-12)


def test_a_layer_with_one_class_only_counts_that_one():
    model = make_lm(depth=2)
    tokens, classifier = make_prompt(1, 1), make_classifier()
    hidden, labels = exit_labels(model, tokens)
    log_odds = classifier(hidden).item()
    expected = F.softplus(torch.tensor(-log_odds if labels.item() else log_odds, dtype=torch.float64))
    torch.testing.assert_close(classifier_loss(classifier, model, tokens), expected, **EXACT)


def test_training_the_classifier_leaves_the_model_alone_and_learns_to_tell():
    model, classifier = make_lm(), ExitClassifier(16).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.02)
    for step in range(150):
        loss = classifier_loss(classifier, model, make_prompt(16, 8, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    hidden, labels = exit_labels(model, make_prompt(64, 8, seed=1000))
    sure = classifier(hidden) > 0
    right = [(sure[labels]).double().mean(), (~sure[~labels]).double().mean()]
    assert sum(right) / 2 > 0.65  # half by guessing


def test_a_classifier_that_is_always_or_never_sure_is_the_first_or_the_last_layer():
    model, prompt, classifier = make_lm(), make_prompt(2, 3), ExitClassifier(16).double()
    nn.init.zeros_(classifier.head.weight)
    for odds, leave in ((50.0, 1), (-50.0, 5)):
        nn.init.constant_(classifier.head.bias, odds)
        made = calm_generate(model, prompt, 6, 0.5, confidence="classifier", classifier=classifier)
        assert (made.exits == leave).all()


# ---- the decaying threshold


@pytest.mark.parametrize(
    ("threshold", "t", "steps", "tau", "expected"),
    [
        (0.5, 0, 10, 4.0, 0.55),
        (0.5, 5, 10, 4.0, 0.45 + 0.1 * math.exp(-2.0)),
        (0.5, 5, 10, 0.0, 0.55),
        (0.0, 0, 10, 4.0, 0.1),
        (0.0, 9, 10, 4, 0.1 * math.exp(-3.6)),
        (1, 0, 3, 4.0, 1.0),
        (1.0, 2, 4, 1.0, 0.9 + 0.1 * math.exp(-0.5)),
    ],
)
def test_the_threshold_decays_as_in_the_paper(threshold, t, steps, tau, expected):
    assert decaying_threshold(threshold, t, steps, tau=tau) == pytest.approx(expected, abs=1e-15)


def test_the_threshold_decays_and_stays_in_range():
    values = [decaying_threshold(1.0, t, 50) for t in range(50)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 50
    assert 0.9 < values[-1] < values[0] == 1.0


def test_decoding_uses_the_threshold_of_each_token():
    model, prompt, classifier = make_lm(), make_prompt(2, 3), ExitClassifier(16).double()
    nn.init.zeros_(classifier.head.weight)
    nn.init.constant_(classifier.head.bias, math.log(0.455 / 0.545))  # always sure to 0.455
    chosen = {"confidence": "classifier", "classifier": classifier}
    made = calm_generate(model, prompt, 40, 0.5, tau=4.0, **chosen)
    expected = [1 if 0.45 + 0.1 * math.exp(-4 * t / 40) <= 0.455 else 5 for t in range(40)]
    assert made.exits.tolist() == [expected, expected]
    assert expected.count(5) == 30
    assert (calm_generate(model, prompt, 40, 0.5, **chosen).exits == 5).all()
    assert (calm_generate(model, prompt, 40, 0.45, **chosen).exits == 1).all()


# ---- how much was lost

few = settings(max_examples=60, deadline=None, derandomize=True)
texts = st.lists(st.integers(0, 3), min_size=1, max_size=7)


def longest_common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """By the definition: what is left after leaving something out of either."""

    @cache
    def longest(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    return longest(0, 0)


@few
@given(texts, texts)
def test_texts_are_as_unlike_as_their_longest_common_part_is_short(a, b):
    loss = textual_consistency_loss(torch.tensor([a]), torch.tensor([b])).item()
    assert loss == pytest.approx(1 - 2 * longest_common(tuple(a), tuple(b)) / (len(a) + len(b)), abs=1e-12)
    assert 0 <= loss <= 1
    assert (loss == 0) == (a == b)
    assert textual_consistency_loss(torch.tensor([b]), torch.tensor([a])).item() == loss


def test_a_letter_left_out_costs_a_letter():
    full = torch.arange(20)[None]
    moved = torch.cat([full[:, 1:], torch.tensor([[99]])], dim=1)
    assert textual_consistency_loss(moved, full).item() == pytest.approx(1 / 20, abs=1e-12)
    assert (moved == full).sum() == 0


def test_every_text_of_a_batch_has_its_own_loss():
    outputs = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]])
    full = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1], [5, 6, 7, 8]])
    assert textual_consistency_loss(outputs, full).tolist() == [0.0, 0.75, 1.0]
    assert textual_consistency_loss(outputs, full).dtype == torch.float64


def test_only_what_is_worse_than_the_whole_model_is_a_risk():
    references = torch.tensor([[1, 2, 3, 4]]).expand(4, -1)
    full = torch.tensor([[1, 2, 9, 9], [1, 2, 9, 9], [1, 2, 3, 4], [9, 9, 9, 9]])
    outputs = torch.tensor([[1, 2, 3, 9], [1, 9, 9, 9], [9, 9, 9, 9], [1, 9, 9, 9]])
    losses = risk_consistency_loss(outputs, full, references)
    torch.testing.assert_close(losses, torch.tensor([0.0, 0.25, 1.0, 0.0], dtype=torch.float64), **EXACT)


@every_confidence
def test_the_table_of_losses_has_a_row_for_a_prompt_and_a_column_for_a_threshold(confidence):
    model, prompts, levels = make_lm(), make_prompt(5, 3), [0.0, 0.5, 0.9, 1.5]
    chosen = options(confidence) | {"min_exit": 2, "tau": 4.0}
    losses = calibration_losses(model, prompts, 8, levels, **chosen)
    references = make_prompt(5, 6, seed=9)
    risks = calibration_losses(model, prompts, 8, torch.tensor(levels), references=references, **chosen)
    assert losses.shape == risks.shape == (5, 4)
    for row in range(5):
        prompt = prompts[row : row + 1]
        full = model.generate(prompt, 8)[:, 3:]
        for column, level in enumerate(levels):
            early = calm_generate(model, prompt, 8, level, **chosen).tokens[:, 3:]
            assert losses[row, column] == textual_consistency_loss(early, full)
            assert risks[row, column] == risk_consistency_loss(early, full, references[row : row + 1])
    assert losses[:, 0].mean() > 0.1
    assert (losses[:, -1] == 0).all()
    assert (risks[:, -1] == 0).all()
    assert not torch.equal(losses, risks)


# ---- errors


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threshold": -0.1}, r"threshold must be at least 0 \(above 1 nothing leaves early\); got -0.1"),
        ({"threshold": math.nan}, "got nan"),
        ({"new_tokens": -1}, "new_tokens must be at least 0; got -1"),
        ({"temperature": -0.5}, "temperature must be at least 0; got -0.5"),
        ({"temperature": math.nan}, "nan"),
        ({"prompt": make_prompt(2, 3)[0]}, r"the prompt must be \[batch, tokens\].*; got shape \(3,\)"),
        ({"prompt": torch.zeros(2, 0, dtype=torch.int64)}, r"at least one token; got shape \(2, 0\)"),
        ({"prompt": torch.zeros(0, 2, dtype=torch.int64)}, r"got shape \(0, 2\)"),
        ({"prompt": torch.zeros(0, 2, dtype=torch.int64), "new_tokens": 0}, r"got shape \(0, 2\)"),
        ({"prompt": torch.tensor([[11]])}, "tokens must lie in 0 … 10; got 11"),
        ({"min_exit": 0}, "min_exit must be one of the layers 1 … 5; got 0"),
        ({"min_exit": 6}, "got 6"),
        ({"tau": -1.0}, "tau must be finite and not negative; got -1.0"),
        ({"tau": math.inf}, "got inf"),
        ({"confidence": "entropy"}, "'softmax_diff', 'negative_entropy', 'state', 'classifier'; got 'entropy'"),
        ({"confidence": "classifier"}, "needs a classifier: train an ExitClassifier"),
        ({"classifier": nn.Identity()}, "'softmax_diff' does not ask the classifier given"),
    ],
)
def test_what_cannot_be_decoded_is_refused(changes, says):
    given = {"prompt": make_prompt(2, 3), "new_tokens": 3, "threshold": 0.5} | changes
    with pytest.raises(ValueError, match=says):
        calm_generate(make_lm(), **given)


@pytest.mark.usefixtures("as_users_run_it")
def test_half_a_layer_or_a_token_and_texts_of_other_numbers_are_refused():
    with pytest.raises(TypeError, match=r"min_exit must be an integer; got 1\.5"):
        calm_generate(make_lm(), make_prompt(1, 2), 3, 0.5, min_exit=1.5)
    with pytest.raises(TypeError, match=r"a prompt is a whole number of tokens; got 1\.5"):
        masked_exits(make_lm(), make_prompt(1, 3), 0.5, prompt=1.5)
    with pytest.raises(TypeError, match=r"texts are numbers of tokens; got torch\.float32 and torch\.int64"):
        textual_consistency_loss(torch.zeros(1, 3), make_prompt(1, 3))
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        state_similarity(make_prompt(1, 3), make_prompt(1, 3))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: decaying_threshold(1.1, 0, 3), "lies in 0 … 1; got 1.1"),
        (lambda: decaying_threshold(-0.1, 0, 3), "got -0.1"),
        (lambda: decaying_threshold(0.5, 3, 3), "t must be one of 0 … 2; got 3"),
        (lambda: decaying_threshold(0.5, -1, 3), "got -1"),
        (lambda: decaying_threshold(0.5, 0, 3, tau=math.nan), "got nan"),
        (lambda: ExitClassifier(0), "dim must be at least 1; got 0"),
        (lambda: masked_exits(make_lm(), make_prompt(1, 3), -0.5), "threshold must be at least 0"),
        (lambda: masked_exits(make_lm(), make_prompt(2, 3), torch.tensor([0.5, math.nan])), "nan"),
        (
            lambda: masked_exits(make_lm(), make_prompt(1, 3), 0.5, prompt=0),
            "a prompt is 1 … 3 tokens of the text; got 0",
        ),
        (lambda: masked_exits(make_lm(), make_prompt(1, 3), 0.5, prompt=4), "got 4"),
        (lambda: masked_exits(make_lm(), make_prompt(1, 3)[0], 0.5), r"\[batch, tokens\].*; got shape \(3,\)"),
        (
            lambda: masked_exits(make_lm(), make_prompt(2, 3), torch.tensor([0.1, 0.2, 0.3])),
            r"one for each of the 2 texts; got \(3,\) thresholds",
        ),
        (
            lambda: masked_exits(make_lm(), make_prompt(2, 3), 0.5, prompt=torch.tensor([1])),
            r"one for each of the 2 texts; got \(1,\) prompts",
        ),
        (lambda: state_similarity(torch.ones(2, 3), torch.full((2, 3), math.nan)), "a state is NaN"),
        (lambda: masked_exits(make_lm(), make_prompt(1, 3), 0.5, min_exit=6), "min_exit must be one of the layers"),
        (lambda: exit_labels(make_lm(depth=1), make_prompt(1, 2)), "of 1 layers has none to leave early from"),
        (
            lambda: textual_consistency_loss(make_prompt(2, 3), make_prompt(3, 3)),
            r"as many texts on either side, none of them empty; got \(2, 3\) and \(3, 3\)",
        ),
        (lambda: textual_consistency_loss(make_prompt(2, 0), make_prompt(2, 3)), r"got \(2, 0\)"),
        (lambda: textual_consistency_loss(make_prompt(2, 3)[0], make_prompt(2, 3)[0]), r"got \(3,\) and \(3,\)"),
        (
            lambda: risk_consistency_loss(make_prompt(2, 3), make_prompt(2, 3), make_prompt(1, 3)),
            r"got \(2, 3\) and \(1, 3\)",
        ),
        (lambda: calibration_losses(make_lm(), make_prompt(2, 3), 3, []), "got 0 thresholds, 3 tokens"),
        (lambda: calibration_losses(make_lm(), make_prompt(2, 3), 0, [0.5]), "got 1 thresholds, 0 tokens"),
        (lambda: calibration_losses(make_lm(), make_prompt(2, 3), 3, [0.5, -1.0]), "got -1.0"),
        (lambda: calibration_losses(make_lm(), make_prompt(0, 3), 3, [0.5]), r"got shape \(0, 3\)"),
    ],
)
def test_what_has_no_answer_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# Around it


@pytest.mark.parametrize("function", [margin, max_probability, negative_entropy])
def test_a_confidence_may_be_any_function_of_logits(function):
    model, prompt = make_lm(), make_prompt(6, 9)
    names = {margin: "softmax_diff", max_probability: "max_probability", negative_entropy: "negative_entropy"}
    given, named = (calm_generate(model, prompt, 12, 0.4, confidence=c) for c in (function, names[function]))
    assert torch.equal(given.tokens, named.tokens)
    assert torch.equal(given.exits, named.exits)
    assert given.exits.unique().numel() > 1
    early = given.exits < 5
    assert (given.confidences[early] >= 0.4).all()
    assert given.confidences[~early].isnan().all()


@every_confidence
@pytest.mark.parametrize("said", ["key_mask", "positions"])
def test_prompts_filled_up_on_the_left_go_on_as_they_would_alone(confidence, said):
    model, lengths = make_lm(), [3, 7, 5, 1]
    classifier = make_classifier() if confidence == "classifier" else None
    options: dict[str, Any] = {"confidence": confidence, "classifier": classifier}
    prompts = [torch.randint(11, (length,), generator=torch.Generator().manual_seed(length)) for length in lengths]
    filled = torch.stack([F.pad(prompt, (7 - len(prompt), 0), value=10) for prompt in prompts])
    there = torch.arange(7) >= 7 - torch.tensor(lengths)[:, None]
    padding = {"key_mask": there} if said == "key_mask" else {"positions": torch.where(there, there.cumsum(1) - 1, -1)}
    together = calm_generate(model, filled, 12, 0.4, **padding, **options)
    for row, prompt in enumerate(prompts):
        alone = calm_generate(model, prompt[None], 12, 0.4, **options)
        assert torch.equal(together.tokens[row, 7:], alone.tokens[0, len(prompt) :])
        assert torch.equal(together.exits[row], alone.exits[0])
        torch.testing.assert_close(together.confidences[row], alone.confidences[0], equal_nan=True, **EXACT)
    assert together.exits.unique().numel() > 1
    whole = calm_generate(model, filled, 12, 2.0, **padding, **options)
    assert torch.equal(whole.tokens, model.generate(filled, 12, **padding))


@every_confidence
def test_it_writes_under_autocast(confidence):
    model, prompt = make_lm(dtype=torch.float32), make_prompt(6, 9)
    classifier = make_classifier().float() if confidence == "classifier" else None
    first = copy.deepcopy(model)
    first.blocks = first.blocks[:1]
    threshold = 0.965 if classifier else 0.4
    with torch.autocast("cpu", torch.bfloat16):
        mixed = calm_generate(model, prompt, 12, threshold, confidence=confidence, classifier=classifier)
        none = calm_generate(model, prompt, 12, 2.0, confidence=confidence, classifier=classifier)
        all_ = calm_generate(model, prompt, 12, 0.0, confidence=confidence, classifier=classifier)
        assert torch.equal(none.tokens, model.generate(prompt, 12))
        # whoever leaves after the first layer never sees another
        assert torch.equal(all_.tokens[:, prompt.shape[1]], first.generate(prompt, 1)[:, -1])
    assert (all_.exits == 1).all()
    assert mixed.exits.unique().numel() > 1
    assert mixed.confidences.dtype == torch.float32
    assert (mixed.confidences[mixed.exits < 5] >= threshold).all()


def make_mixture() -> CausalLM:
    model = make_lm()
    model.blocks[2] = MixtureOfDepths(model.blocks[2], 0.5)
    return model


def test_a_mixture_of_depths_writes_where_nobody_leaves_and_is_named_where_somebody_may():
    model, prompt = make_mixture(), make_prompt(6, 9)
    assert torch.equal(calm_generate(model, prompt, 6, 2.0).tokens, model.generate(prompt, 6))
    assert torch.equal(calm_generate(model, prompt, 6, 0.3, min_exit=5).tokens, model.generate(prompt, 6))
    for run in (lambda: calm_generate(model, prompt, 6, 0.3), lambda: masked_exits(model, prompt, 0.3)):
        with pytest.raises(TypeError, match=r"below layer 3: MixtureOfDepths lacks .* use a threshold above 1"):
            run()


def test_an_adapter_on_the_keys_and_values_is_in_what_a_token_leaves_behind():
    class Adapter(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base
            self.down, self.up = (nn.Linear(*sizes, bias=False).double() for sizes in ((16, 2), (2, 48)))

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    model, prompt = make_lm(), make_prompt(6, 9)
    for block in model.blocks:
        block.attention.query_key_value = Adapter(block.attention.query_key_value)
    merged = copy.deepcopy(model)
    for block in merged.blocks:
        adapter = block.attention.query_key_value
        adapter.base.weight.data += adapter.up.weight.data @ adapter.down.weight.data
        block.attention.query_key_value = adapter.base
    adapted, plain = (calm_generate(each, prompt, 12, 0.4) for each in (model, merged))
    assert torch.equal(adapted.tokens, plain.tokens)
    assert torch.equal(adapted.exits, plain.exits)
    torch.testing.assert_close(adapted.confidences, plain.confidences, equal_nan=True, **EXACT)
    assert plain.exits.unique().numel() > 1


def test_a_model_with_wrapped_parts_writes_the_same():
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, tokens: Tensor) -> Tensor:
            return self.inner(tokens)

    model, prompt = make_lm(), make_prompt(6, 9)
    expected = calm_generate(model, prompt, 8, 0.4)
    for block in model.blocks:
        block.feed_forward = Wrapped(block.feed_forward)
        block.norm1 = Wrapped(block.norm1)
    got = calm_generate(model, prompt, 8, 0.4)
    assert torch.equal(got.tokens, expected.tokens)
    assert torch.equal(got.exits, expected.exits)


@pytest.mark.usefixtures("as_users_run_it")
def test_prompts_that_are_no_tensor_are_told_how_to_become_one():
    model = make_lm()
    for run in (
        lambda: calm_generate(model, make_prompt(6, 9).tolist(), 2, 0.5),
        lambda: masked_exits(model, make_prompt(6, 9).numpy(), 0.5),
        lambda: textual_consistency_loss(make_prompt(6, 9).numpy(), make_prompt(6, 9)),
        lambda: risk_consistency_loss(make_prompt(6, 9), make_prompt(6, 9), make_prompt(6, 9).tolist()),
    ):
        with pytest.raises(TypeError, match=r"must be a tensor; got .*torch\.as_tensor"):
            run()


def test_the_exits_of_a_known_text_come_as_a_record():
    found = masked_exits(make_lm(), make_prompt(6, 9), 0.4)
    assert found._fields == ("logits", "exits")
    assert found.logits.shape == (*make_prompt(6, 9).shape, 11)
    assert found.exits.shape == make_prompt(6, 9).shape
