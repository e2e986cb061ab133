"""Every mechanism of the course on models that others trained: at full budget each is the model itself."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.depth import (
    MultiExit,
    calm_generate,
    looped_parallel,
    middle_repeat,
    parallel,
    reverse,
    shuffle,
    skip,
)
from dynlib.depth.calm import masked_exits
from dynlib.depth.early_exit import ExitHead
from dynlib.depth.painters import Plan
from dynlib.depth.self_speculation import self_speculative_generate
from dynlib.depth.token_confidence import ExitClassifier
from dynlib.pretrained import from_transformers
from dynlib.tokens import AdaptiveViT, MixtureOfDepths
from dynlib.width import (
    MatFormerFeedForward,
    MixtureOfExperts,
    extract,
    layer_widths,
    matformer,
    mix_and_match,
    upcycle,
)
from tests.pretrained_models import CAUSAL, FAMILIES, IMAGE, both, inputs, make, theirs, writer

EXACT = {"rtol": 0, "atol": 1e-9}  # for float64


# How many layers


@pytest.mark.parametrize("family", IMAGE)
@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_with_exits_that_nobody_takes_it_is_the_model(family: str, execution: Any) -> None:
    model, made, x = both(family)
    expected = theirs(family, model, x)
    exits = MultiExit(made, [1, 2])
    left = exits.predict(x, 1.5, execution=execution)
    torch.testing.assert_close(left.logits, expected, **EXACT)
    assert left.exit.tolist() == [3, 3, 3]
    torch.testing.assert_close(exits(x)[-1], expected, **EXACT)
    assert exits.predict(x, 0.0, execution=execution).exit.tolist() == [1, 1, 1]
    assert count(exits.predict, x, 0.0).flops < count(made, x).flops / 2


def test_an_encoder_has_exits_too() -> None:
    model, made, x = both("Bert")
    exits = MultiExit(made, [1], heads=[ExitHead(16, 16).double()])
    expected = theirs("Bert", model, x).mean(1)
    torch.testing.assert_close(exits.predict(x, 1.5).logits, expected, **EXACT)
    assert exits.predict(x, 0.0).exit.tolist() == [1, 1, 1]


def test_a_language_model_says_that_its_exits_are_calms() -> None:
    made = from_transformers(make("GPT2"))
    with pytest.raises(ValueError, match=r"must give logits \[batch, classes\]"):
        MultiExit(made, []).predict(torch.tensor([[1, 2]]), 0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_plans_that_change_nothing_are_the_model(family: str) -> None:
    model, made, x = both(family)
    expected = theirs(family, model, x)
    readout = (lambda states: states) if family == "Bert" else made.readout
    plans: dict[str, Plan] = {
        "skip and put back": Plan([*skip(made.blocks, 1, 2)[:1], made.blocks[1], made.blocks[2]]),
        "repeat of one": middle_repeat(made.blocks, 1, 2),
        "reverse of one": reverse(made.blocks, 1, 2),
        "shuffle of one": shuffle(made.blocks, 2, 3),
        "parallel of one": parallel(made.blocks, 0, 1),
        "one loop of one": looped_parallel(made.blocks, 1, 2, iterations=1),
    }
    for name, plan in plans.items():
        torch.testing.assert_close(readout(plan(made.embed(x))), expected, msg=name, **EXACT)
    # side by side they read one canvas, and their mean is taken
    both_layers = parallel(made.blocks, 1, 3)(made.embed(x))
    start = made.blocks[0](made.embed(x))
    torch.testing.assert_close(both_layers, (made.blocks[1](start) + made.blocks[2](start)) / 2, **EXACT)
    assert not torch.allclose(readout(reverse(made.blocks, 0, 3)(made.embed(x))), expected, atol=1e-3)


PADDED = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]).bool()


def greedy(family: str, *, padded: bool) -> tuple[Any, Tensor, Tensor | None, Tensor]:
    """A converted model, a prompt, its mask, and what ``transformers`` writes."""
    model = writer(family, dtype=torch.float64)
    prompt = inputs(family, model, tokens=5)
    mask = PADDED if padded else torch.ones_like(PADDED)
    text = model.generate(prompt, attention_mask=mask.long(), max_new_tokens=12, do_sample=False, pad_token_id=0)
    return from_transformers(model), prompt, mask if padded else None, text


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", CAUSAL)
def test_calm_writes_the_same_where_nobody_leaves(family: str, padded: bool) -> None:
    made, prompt, mask, text = greedy(family, padded=padded)
    for confidence in ("softmax_diff", "state"):
        whole = calm_generate(made, prompt, 12, 1.5, key_mask=mask, confidence=confidence)
        assert torch.equal(whole.tokens, text)
        last = calm_generate(made, prompt, 12, 0.0, key_mask=mask, confidence=confidence, min_exit=3)
        assert torch.equal(last.tokens, text)
        assert last.exits.eq(3).all()
        # where they do leave it is what the masked execution says of the same text
        early = calm_generate(made, prompt[:1], 12, 0.3, confidence=confidence)
        assert 1 <= early.exits.min() < early.exits.max() == 3 or confidence == "state"
        again = masked_exits(made, early.tokens[:, :-1], 0.3, prompt=5, confidence=confidence)
        assert torch.equal(again.exits[:, 4:], early.exits)
        assert torch.equal(again.logits[:, 4:].argmax(-1), early.tokens[:, 5:])
    classifier = ExitClassifier(16).double()
    asked = calm_generate(made, prompt, 3, 1.0, confidence="classifier", classifier=classifier)
    assert torch.equal(asked.tokens, made.generate(prompt, 3))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize(("layers", "drafts"), [(1, 3), (2, 2), (3, 4)])
def test_speculation_writes_the_same(family: str, layers: int, drafts: int, padded: bool) -> None:
    made, prompt, mask, text = greedy(family, padded=padded)
    said = self_speculative_generate(made, prompt, 12, draft_layers=layers, draft_tokens=drafts, key_mask=mask)
    assert torch.equal(said.tokens, text)
    if layers == 3:  # the whole model drafts, and agrees with itself
        assert torch.equal(said.kept, said.drafted)


def test_calm_says_that_it_needs_a_norm_before_the_attention() -> None:
    made = from_transformers(make("GPT2"))
    for block in made.blocks:
        block.norm_first = False
    with pytest.raises(TypeError, match="tokens cannot leave below layer 2"):
        calm_generate(made, torch.tensor([[1, 2]]), 2, 0.5)


# Which tokens


class One(nn.Module):
    """A router that gives every token the weight 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_ones(*x.shape[:-1], 1)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("family", FAMILIES)
def test_mixture_of_depths_with_room_for_all_is_the_model(family: str, execution: Any) -> None:
    model, made, x = both(family)
    expected = theirs(family, model, x)
    for place in (0, 2):
        made.blocks[place] = MixtureOfDepths(made.blocks[place], 1.0, execution=execution)
        made.blocks[place].router = One()
    run = made.states if family == "Bert" else made
    torch.testing.assert_close(run(x), expected, **EXACT)
    with setting(made, MixtureOfDepths, capacity=0.25), record(made, MixtureOfDepths) as records:
        fewer = run(x)
        assert count(run, x).flops < count(model, x).flops or execution == "masked"
    kept = -(-made.embed(x).shape[1] // 4)
    assert [calls[0].mask.sum(1).tolist() for calls in records.values()] == [[kept] * 3] * 2
    assert not torch.allclose(fewer, expected, atol=1e-3)


@pytest.mark.parametrize("family", CAUSAL)
def test_mixture_of_depths_writes_with_a_cache(family: str) -> None:
    made, prompt, mask, text = greedy(family, padded=True)
    made.blocks[1] = MixtureOfDepths(made.blocks[1], 1.0)
    made.blocks[1].router = One()
    assert torch.equal(made.generate(prompt, 12, key_mask=mask), text)


@pytest.mark.parametrize("family", ["ViT", "DeiT"])
def test_tokens_that_never_halt_are_the_model(family: str) -> None:
    model, made, x = both(family)
    expected = theirs(family, model, x)
    adaptive = AdaptiveViT(made, beta=-1e4)
    for execution in ("masked", "gathered"):
        result = adaptive.predict(x, execution=execution)
        torch.testing.assert_close(result.logits, expected, **EXACT)
        assert result.depth.eq(3).all()
    adaptive.beta = 0.0
    one, other = (adaptive.predict(x, execution=execution) for execution in ("masked", "gathered"))
    torch.testing.assert_close(one.logits, other.logits, **EXACT)
    assert one.depth.min() < 3


def test_a_mixture_for_two_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="take a ViT without a distillation head"):
        AdaptiveViT(from_transformers(make("Teacher")))


# How much of a layer


@pytest.mark.parametrize("family", FAMILIES)
def test_at_full_width_it_is_the_model_and_narrower_ones_are_slices(family: str) -> None:
    model, made, x = both(family)
    expected = theirs(family, model, x)
    run = made.states if family == "Bert" else made
    before = run(x)
    names = [name for name, _ in made.named_parameters()]
    matformer(made)
    assert [name for name, _ in made.named_parameters()] == names
    assert torch.equal(run(x), before)
    torch.testing.assert_close(run(x), expected, **EXACT)
    with setting(made, MatFormerFeedForward, width=0.25):
        narrow = run(x)
        with setting(made, MatFormerFeedForward, execution="masked"):
            torch.testing.assert_close(run(x), narrow, **EXACT)
    small = extract(made, 0.25)
    torch.testing.assert_close((small.states if family == "Bert" else small)(x), narrow, **EXACT)
    assert not torch.allclose(narrow, before, atol=1e-3)
    with layer_widths(made, [1, 0.5, 0.25]):
        assert not torch.allclose(run(x), before, atol=1e-3)


def test_a_width_for_each_layer_is_found_under_a_budget() -> None:
    _, made, x = both("Llama")
    full = made(x).detach()
    matformer(made, (0.25, 0.5, 1))
    mix = mix_and_match(made, lambda model: (model(x) - full).square().mean().item(), 0.75, x)
    assert mix.loss > 0
    assert mix.cost.flops <= 0.75 * count(made, x).flops
    assert mix_and_match(made, lambda model: (model(x) - full).square().mean().item(), 1.0, x).loss == 0


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("family", FAMILIES)
def test_experts_that_begin_as_copies_are_the_model(family: str, execution: Any) -> None:
    model, made, x = both(family)
    expected = theirs(family, model, x)
    for block in made.blocks:
        block.feed_forward = upcycle(block.feed_forward, 3, k=2, execution=execution)
    run = made.states if family == "Bert" else made
    torch.testing.assert_close(run(x), expected, **EXACT)
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, MixtureOfExperts):
                layer.contract_weight[0] = 0
    assert not torch.allclose(run(x), expected, atol=1e-6)


# Trained on


def shared_loss(made: Any, x: Tensor) -> Tensor:
    out: Tensor = made(x)
    return out.square().mean()


MADE: dict[str, Callable[[Any], Any]] = {
    "matformer": matformer,
    "mixture of depths": lambda made: _with(made, lambda block: MixtureOfDepths(block, 0.5)),
    "plain": lambda made: made,
}


def _with(made: Any, change: Callable[[nn.Module], nn.Module]) -> Any:
    made.blocks[1] = change(made.blocks[1])
    return made


@pytest.mark.parametrize("how", MADE)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_can_be_trained_on_and_copied(family: str, how: str) -> None:
    _, made, x = both(family)
    changed = MADE[how](made)
    twin = copy.deepcopy(changed)
    optimiser = torch.optim.SGD(changed.parameters(), lr=1e-3)
    first = shared_loss(changed, x)
    first.backward()
    without = [name for name, parameter in changed.named_parameters() if parameter.grad is None]
    assert all("pooler" in name for name in without)
    optimiser.step()
    assert shared_loss(changed, x) < first
    assert torch.equal(shared_loss(twin, x), first)
