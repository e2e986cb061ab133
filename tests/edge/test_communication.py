"""dynlib.edge.communication: who is sent, that nobody else counts, what it costs, and what training must not break."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import CausalLM, GatedFeedForward
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.edge import (
    AWGNChannel,
    RayleighChannel,
    TokenTransmitter,
    draw_budgets,
    transmission_loss,
    unit_power,
)
from dynlib.edge.communication import GAIN
from dynlib.width import acmize
from tests.edge.transmitters import AFTER, TOKENS, budget_by_hand, generator, made, pictures, run, sigmoid, vit


def test_the_choosy_one_drops_some_tokens_after_every_block_and_not_the_same_of_all_images() -> None:
    _, sent = run(made(), pictures())
    left = sent.kept.sum(-1)
    assert (left[:, 0] < TOKENS).any()
    assert all((left[:, layer + 1] < left[:, layer]).any() for layer in range(AFTER - 1))
    assert len(set(map(tuple, sent.sent.tolist()))) > 1
    assert (left[:, -1] > 1).any()


@pytest.mark.parametrize("budget", [0.1, 1.0])
def test_masks_start_at_most_at_one_and_never_grow(budget: float) -> None:
    _, sent = run(made(), pictures(), budget=budget)
    before = torch.cat([torch.ones_like(sent.masks[:, :1]), sent.masks[:, :-1]], 1)
    assert (sent.masks <= before).all()
    assert (sent.masks >= 0).all()
    assert (sent.kept[:, 1:] <= sent.kept[:, :-1]).all()
    assert torch.equal(sent.kept[:, -1], sent.sent)
    assert torch.equal(sent.kept, (sent.masks > 1e-3) & sent.kept)


def test_masks_are_the_product_of_the_gates_written_out() -> None:
    model, images = made(), pictures()
    _, sent = run(model, images, budget=0.3)
    x = model.model.embed(images)
    token = 0.3 * model.low + 0.7 * model.up
    for row in range(len(images)):
        left, values = list(range(TOKENS)), dict.fromkeys(range(TOKENS), 1.0)
        states = torch.cat([x[row], token[None]])
        for layer in range(AFTER):
            states = model.model.blocks[layer](states[None])[0]
            seen = F.layer_norm(states, (16,))
            price = GAIN * model.price[layer](seen[-1]).item()
            for index, place in enumerate(left):
                worth = GAIN * model.worth[layer](seen[index]).item()
                values[place] *= max(0.0, sigmoid(worth) - sigmoid(price)) if place else 1.0
                margin = worth - price if place else math.inf
                assert sent.margins[row, layer, place].item() == pytest.approx(margin, abs=1e-10)
                assert sent.masks[row, layer, place].item() == pytest.approx(values[place], abs=1e-10)
            stays = [index for index, place in enumerate(left) if values[place] > 1e-3]
            left = [left[index] for index in stays]
            states = states[[*stays, -1]]
        assert sent.sent[row].nonzero()[:, 0].tolist() == left


def test_the_class_token_is_always_sent() -> None:
    model = made()
    with torch.no_grad():
        for price in model.price:
            price.bias.fill_(50.0)
    logits, sent = run(model, pictures())
    assert sent.sent.sum(1).tolist() == [1] * 6
    assert sent.sent[:, 0].all()
    assert logits.isfinite().all()


@pytest.mark.parametrize("channel", [AWGNChannel(3), AWGNChannel(None), RayleighChannel(5)])
@pytest.mark.parametrize("budget", [0.05, 0.5, 1.0])
def test_gathered_is_masked(channel: nn.Module, budget: float) -> None:
    model, images = made(channel=channel), pictures()
    gathered, one = run(model, images, budget=budget)
    with setting(model, TokenTransmitter, execution="masked"):
        masked, other = run(model, images, budget=budget)
    torch.testing.assert_close(gathered, masked, rtol=0, atol=1e-10)
    assert torch.equal(one.kept, other.kept)
    assert torch.equal(one.flops, other.flops)


def test_training_mode_computes_what_evaluation_computes() -> None:
    model, images = made(), pictures()
    evaluated, _ = run(model, images, budget=0.4)
    trained, _ = run(model.train(), images, budget=0.4)
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=1e-10)


def gradients(model: TokenTransmitter, images: Tensor) -> dict[str, Tensor]:
    """Of the mean loss over these images; noise would be another in another batch, so there is to be none."""
    model.train().zero_grad()
    with record(model, TokenTransmitter) as records:
        logits = model(images, budget=0.3)
    transmission_loss(logits, torch.ones(len(images), dtype=torch.long), records[""][0]).total.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("threshold", [1e-3, 0.3])
def test_gradients_are_the_same_of_both_executions_and_whoever_is_in_the_batch(threshold: float) -> None:
    images = pictures()
    gathered, masked = (
        gradients(made(threshold=threshold, channel=AWGNChannel(None), execution=execution), images)
        for execution in ("gathered", "masked")
    )
    model = made(threshold=threshold, channel=AWGNChannel(None))
    alone = [{k: v.clone() for k, v in gradients(model, images[row : row + 1]).items()} for row in range(len(images))]
    assert gathered.keys() == masked.keys() == dict(model.named_parameters()).keys()
    for name, gradient in gathered.items():
        torch.testing.assert_close(gradient, masked[name], rtol=0, atol=1e-12)
        each = torch.stack([one[name] for one in alone])
        torch.testing.assert_close(gradient, each.mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_the_record_of_who_is_still_there_is_the_same_of_both_executions_and_modes(training: bool) -> None:
    _, one = run(made(), pictures(), budget=0.3)
    _, other = run(made(execution="masked").train(training), pictures(), budget=0.3)
    here = torch.cat([torch.ones_like(one.kept[:, :1]), one.kept[:, :-1]], 1)
    assert not here.all()
    for name in ("sent", "kept", "budget", "symbols", "flops"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    for name in ("masks", "margins"):
        torch.testing.assert_close(getattr(one, name)[here], getattr(other, name)[here], rtol=0, atol=1e-10)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_what_is_not_sent_changes_nothing(execution: Any) -> None:
    model = made(execution=execution)
    sent = model.encode(pictures())
    received = model.send(sent, generator=generator(1))
    spoilt = received.codewords + 100 * torch.randn(received.codewords.shape, generator=generator(2)).double()
    spoilt = torch.where(sent.sent[..., None], received.codewords, spoilt)
    assert not sent.sent.all()
    assert torch.equal(model.decode(received._replace(codewords=spoilt)), model.decode(received))
    changed = received.codewords.clone()
    changed[:, 0] += 1
    assert not torch.equal(model.decode(received._replace(codewords=changed)), model.decode(received))


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_a_token_that_the_device_has_dropped_is_not_seen_by_its_later_blocks(execution: Any) -> None:
    model, images = made(execution=execution), pictures()
    before = run(model, images)[1]
    gone = ~before.kept[:, 0]
    assert gone.any()
    packed = model._block

    def spoilt(layer: int, x: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
        x = packed(layer, x, kept, mask)
        return x + 10 * F.pad(gone, (0, 1))[..., None] if layer == 1 else x

    logits, _ = run(model, images)
    model._block = spoilt  # type: ignore[method-assign]
    other, after = run(model, images)
    torch.testing.assert_close(other, logits, rtol=0, atol=1e-10)
    assert torch.equal(before.sent, after.sent)


def test_with_a_perfect_link_and_all_tokens_it_is_the_model_with_one_token_more_on_the_device() -> None:
    model, images = made(choosy=False, channel=nn.Identity()), pictures()
    model.encoder = model.decoder = nn.Identity()
    logits = model(images, budget=1.0)
    assert model.encode(images).sent.all()
    x = torch.cat([model.model.embed(images), model.low.expand(6, 1, -1)], 1)
    for layer, block in enumerate(model.model.blocks):
        x = block(x if layer != AFTER else x[:, :-1])
    torch.testing.assert_close(logits, model.model.readout(x), rtol=0, atol=1e-10)
    assert not torch.allclose(logits, model.model(images), atol=1e-4)  # the budget token is seen


def test_as_many_real_numbers_as_features_lose_nothing_but_the_norm_of_a_token() -> None:
    model, images = made(choosy=False, channel=AWGNChannel(None), symbols=8), pictures()
    sent = model.encode(images)
    received = model.decoder(model.send(sent).codewords)
    back = model.decoder(sent.codewords)
    torch.testing.assert_close(received, unit_power(back), rtol=0, atol=1e-10)
    torch.testing.assert_close(back @ back.mT, sent.codewords @ sent.codewords.mT, rtol=0, atol=1e-10)


@pytest.mark.parametrize("snr", [0.0, 10.0])
def test_the_ratio_on_the_way_is_the_one_asked_for_within_a_tenth_of_a_decibel(snr: float) -> None:
    # 2000 · 10 · 16 numbers: the estimate has a standard deviation of 10 / ln 10 · √(2 / 320,000) = 0.011 dB
    model = made(choosy=False, symbols=8)
    sent = model.encode(torch.rand(2000, 1, 12, 12, generator=generator(), dtype=torch.float64))
    with setting(model, TokenTransmitter, snr=snr):
        noise = model.send(sent, generator=generator(1)).codewords - unit_power(sent.codewords)
    noise, signal = noise.detach(), unit_power(sent.codewords).detach()
    ratio = 10 * math.log10(signal.square().sum() / noise.square().sum())
    assert abs(ratio - snr) < 0.1


def test_nothing_is_sent_for_a_token_that_is_not() -> None:
    sent = made().encode(pictures())
    assert (sent.codewords[~sent.sent] == 0).all()
    assert (sent.codewords[sent.sent].abs().sum(-1) > 0).all()
    assert torch.equal(sent.weight, sent.sent.double())


@pytest.mark.parametrize("more", [{}, {"head_dim": 12}, {"feed_forward": GatedFeedForward, "hidden": 24}])
@pytest.mark.parametrize("budget", [0.1, 1.0])
def test_the_flops_of_the_record_are_those_that_are_counted(budget: float, more: dict[str, Any]) -> None:
    model, images = made(vit(**more)), pictures()
    _, sent = run(model, images, budget=budget)
    with setting(model, TokenTransmitter, budget=budget):
        assert sent.flops.sum().item() == count(model.encode, images).flops
        everything = count(model, images).flops
        with setting(model, TokenTransmitter, execution="masked"):
            assert count(model, images).flops > everything


def test_symbols_are_those_of_the_tokens_that_are_sent() -> None:
    _, sent = run(made(symbols=5), pictures())
    assert sent.symbols.tolist() == [5 * sum(row) for row in sent.sent.tolist()]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_the_code_is_the_formula_of_the_page(execution: Any, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, states = made(execution=execution, channel=AWGNChannel(0)).train(training), pictures(), []
    plain = model._block

    def noted(layer: int, x: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
        states.append(x)
        states.append(plain(layer, x, kept, mask))
        return states[-1]

    monkeypatch.setattr(model, "_block", noted)
    sent = model.encode(images)
    there = sent.sent
    torch.testing.assert_close(sent.codewords[there], model.encoder(states[-1][:, :-1] - model.expected)[there])
    received = model.send(sent, generator=generator(1))
    states.clear()
    model.decode(received)
    expected = model.decoder(received.codewords / 2) + model.expected  # 1 + σ² = 2 at 0 dB
    torch.testing.assert_close(states[0][there], expected[there])
    states.clear()
    weight = received.weight.detach().requires_grad_()
    model.decode(received._replace(weight=weight)).sum().backward()
    if training:
        assert weight.grad is not None
        assert weight.grad[:, 1:].abs().sum() > 0
        assert sent.weight.requires_grad


def test_a_budget_for_each_image_is_the_budget_of_each() -> None:
    model, images = made(), pictures()
    alphas = torch.tensor([0.1, 1.0, 0.5, 0.2, 0.9, 0.05], dtype=torch.float64)
    _, all_ = run(model, images, budget=alphas)
    assert torch.equal(all_.budget, alphas)
    for row, alpha in enumerate(alphas.tolist()):
        with setting(model, TokenTransmitter, budget=alpha):
            _, one = run(model, images[row : row + 1])
        torch.testing.assert_close(one.masks[0], all_.masks[row], rtol=0, atol=1e-10)


def test_the_gradient_of_a_mask_is_that_of_a_factor_on_everybodys_attention() -> None:
    # one block, a mask of one key: numerically, log g added to that key's logits
    model = made(choosy=False).train()
    x = torch.randn(2, TOKENS, 16, generator=generator(2), dtype=torch.float64)
    kept, mask = torch.ones(2, TOKENS, dtype=torch.bool), torch.ones(2, TOKENS, dtype=torch.float64, requires_grad=True)
    read = torch.randn(2, TOKENS, 16, generator=generator(3), dtype=torch.float64)
    (model._block(1, x, kept, mask) * read).sum().backward()
    block: Any = model.model.blocks[1]

    def with_factor(g: float) -> float:
        query, keys, values = block.attention._split(block.attention.query_key_value(block.norm1(x)), 3)
        weights = (query @ keys.mT / 8**0.5).exp()
        weights = weights * torch.where(torch.arange(TOKENS) == 4, g, torch.ones(TOKENS, dtype=torch.float64))
        mixed = weights / weights.sum(-1, keepdim=True) @ values
        y = x + block.attention.output(mixed.transpose(1, 2).flatten(2))
        return ((y + block.feed_forward(block.norm2(y))) * read)[0].sum().item()

    assert mask.grad is not None
    slope = (with_factor(1 + 1e-6) - with_factor(1 - 1e-6)) / 2e-6
    assert mask.grad[0, 4].item() == pytest.approx(slope, rel=1e-5)


def test_every_part_that_is_used_gets_a_gradient() -> None:
    model, images = made().train(), pictures()
    logits, sent = run(model, images, budget=draw_budgets(6, generator=generator()).double())
    transmission_loss(logits, torch.arange(6) % 4, sent).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_gates_read_features_and_pull_at_none() -> None:
    model, images = made().train(), pictures()
    _, sent = run(model, images)
    sent.margins[..., 1:].sum().backward()
    assert all(gate.weight.grad is not None for gate in (*model.worth, *model.price))
    others = [model.low, model.up, model.expected, *model.model.parameters(), *model.encoder.parameters()]
    assert all(parameter.grad is None for parameter in others)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_wrapped_with_an_orthogonal_code(dtype: torch.dtype) -> None:
    model = TokenTransmitter(vit().to(dtype), after=2, symbols=4, channel=AWGNChannel(10))
    weight = model.encoder.weight
    assert isinstance(weight, Tensor)
    assert weight.dtype == dtype
    torch.testing.assert_close((weight.float() @ weight.float().T), torch.eye(8), rtol=0, atol=0.02)
    for training in (False, True):
        logits, sent = run(model.train(training), pictures().to(dtype))
        loss = transmission_loss(logits, torch.zeros(6, dtype=torch.long), sent)
        assert logits.dtype == dtype
        assert loss.total.isfinite()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_under_autocast_it_computes_about_the_same_and_the_loss_has_a_gradient(execution: Any, training: bool) -> None:
    model, images = made(execution=execution).float().train(training), pictures().float()
    exact, _ = run(model, images, budget=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        logits, sent = run(model, images, budget=0.3)
        loss = transmission_loss(logits, torch.zeros(6, dtype=torch.long), sent)
    assert (logits - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert loss.budget.item() == pytest.approx(budget_by_hand(sent, 0.02), abs=1e-6)
    loss.total.backward()
    for gate in (*model.worth, *model.price):
        weight = gate.weight
        assert isinstance(weight, Tensor)
        assert weight.grad is not None
        assert weight.grad.isfinite().all()


# Bad input


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("budget", [0, -0.1, 1.0001, math.nan, math.inf])
def test_a_budget_out_of_its_range_is_refused_at_every_use(budget: float) -> None:
    model = made()
    for call in (
        lambda: made(budget=budget),
        lambda: model.encode(pictures(), budget=budget),
        lambda: model.encode(pictures(), budget=torch.full((6,), float(budget))),
        lambda: draw_budgets(4, low=budget),
    ):
        with pytest.raises(ValueError, match=r"budget must (lie in \(0, 1\]|be finite)"):
            call()
    model.budget = budget
    with pytest.raises(ValueError, match="budget must"):
        model(pictures())
    with pytest.raises(ValueError, match="budget must"), setting(made(), TokenTransmitter, budget=budget):
        pass


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"symbols": 0}, ValueError, "symbols must be 1 … 8 complex symbols a token; got 0"),
        ({"symbols": 9}, ValueError, "symbols must be 1 … 8"),
        ({"symbols": 2.0}, TypeError, "symbols must be an int"),
        ({"after": 0}, ValueError, "after must be 1 … 4 blocks on the device; got 0"),
        ({"after": 5}, ValueError, "after must be 1 … 4 blocks on the device; got 5"),
        ({"after": True}, TypeError, "after must be an int"),
        ({"threshold": -0.1}, ValueError, r"threshold must lie in \[0, 1\)"),
        ({"threshold": 1}, ValueError, r"threshold must lie in \[0, 1\)"),
        ({"budget": "half"}, TypeError, "budget must be a number"),
        ({"execution": "fast"}, ValueError, "execution must be"),
        ({"channel": AWGNChannel(3), "model": nn.Linear(3, 3)}, TypeError, "must be a dynlib.backbone.ViT; got Linear"),
        (
            {"model": CausalLM(vocabulary=4, dim=8, depth=2, heads=2)},
            TypeError,
            "must be a dynlib.backbone.ViT; got CausalLM",
        ),
        ({"model": vit(rotary=True)}, ValueError, "plain vision transformer"),
        ({"model": vit(causal=True)}, ValueError, "plain vision transformer.*not causal"),
        ({"model": acmize(vit(), learners=4)}, TypeError, "made of nn.Linear; got AdaptiveComputationModule"),
        ({"model": vit(key_value_heads=1)}, ValueError, "plain vision transformer"),
        ({"model": vit(norm_first=False)}, ValueError, "plain vision transformer"),
        ({"model": vit(distillation="token")}, ValueError, "plain vision transformer"),
        ({"model": vit(distillation="head")}, ValueError, "plain vision transformer"),
    ],
)
def test_what_cannot_be_is_refused(more: dict[str, Any], error: type[Exception], says: str) -> None:
    given: dict[str, Any] = {"model": vit(), "after": 2, "symbols": 3, "channel": AWGNChannel(3)} | more
    with pytest.raises(error, match=says):
        TokenTransmitter(given.pop("model"), **given)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_budget_for_other_images_and_images_of_another_size_are_refused() -> None:
    model = made()
    with pytest.raises(ValueError, match="one budget for each of the 6 images"):
        model.encode(pictures(), budget=torch.full((5,), 0.5))
    with pytest.raises(ValueError, match="one budget for each of the 6 images"):
        model.encode(pictures(), budget=torch.ones(6, dtype=torch.long))
    with pytest.raises(ValueError, match="images must be"):
        model(torch.rand(2, 1, 16, 16).double())
    with pytest.raises(ValueError, match="snr"), setting(model, TokenTransmitter, snr=math.nan):
        pass


@pytest.mark.usefixtures("as_users_run_it")
def test_the_server_checks_the_knobs_too() -> None:
    model = made()
    sent = model.encode(pictures())
    model.execution = "fast"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="execution must be"):
        model.decode(sent)
    model.execution, model.snr = "gathered", math.nan
    with pytest.raises(ValueError, match="snr must be finite"):
        model.decode(sent)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_where_nobody_may_look_gathered_says_so_and_masked_computes() -> None:
    model, images = made(channel=AWGNChannel(None)), pictures()
    alphas = torch.linspace(0.1, 1.0, 6, dtype=torch.float64)

    def one(image: Tensor, budget: Tensor) -> Tensor:
        return model(image[None], budget=budget[None])[0]

    with pytest.raises(RuntimeError, match="use execution='masked'"):
        torch.vmap(one)(images, alphas)
    with pytest.raises(RuntimeError, match="use execution='masked'"):
        torch.export.export(model, (images,))
    with setting(model, TokenTransmitter, execution="masked"):
        torch.testing.assert_close(torch.vmap(one)(images, alphas), model(images, budget=alphas), rtol=0, atol=1e-10)
        exported = torch.export.export(model, (images,), {"budget": alphas}).module()
        torch.testing.assert_close(exported(images, budget=alphas), model(images, budget=alphas), rtol=0, atol=1e-10)
        with pytest.raises(ValueError, match="every budget must lie"):
            torch.vmap(one)(images, alphas + 0.1)
