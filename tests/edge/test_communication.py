"""dynlib.edge.communication: who is sent, that nobody else counts, what it costs, and what training must not break."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import CausalLM, GatedFeedForward, ViT
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.edge import (
    AWGNChannel,
    RayleighChannel,
    TokensSent,
    TokenTransmitter,
    draw_budgets,
    side_bits,
    start_code,
    symbols_sent,
    transmission_loss,
    unit_power,
)
from dynlib.edge.communication import GAIN
from dynlib.width import acmize

TOKENS, DEPTH, AFTER = 10, 5, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit(**more: Any) -> ViT:
    torch.manual_seed(0)
    given = {"image_size": 12, "patch_size": 4, "classes": 4, "dim": 16, "depth": DEPTH, "heads": 2} | more
    return ViT(**given).double()


def pictures(batch: int = 6) -> Tensor:
    return torch.rand(batch, 1, 12, 12, generator=generator(7), dtype=torch.float64)


def made(
    backbone: ViT | None = None,
    *,
    choosy: bool = True,
    channel: nn.Module | None = None,
    symbols: int = 3,
    **more: Any,
) -> TokenTransmitter:
    """A transmitter in float64; a choosy one drops different tokens of different images in every block."""
    model = TokenTransmitter(
        vit() if backbone is None else backbone,
        after=AFTER,
        symbols=symbols,
        channel=AWGNChannel(10) if channel is None else channel,
        **more,
    )
    if choosy:
        draw = generator(11)
        with torch.no_grad():
            for worth, price in zip(model.worth, model.price, strict=True):
                worth.weight.normal_(std=0.5 / GAIN, generator=draw)
                worth.bias.fill_(0.5 / GAIN)
                price.weight.normal_(std=0.3 / GAIN, generator=draw)
                price.bias.fill_(-0.5 / GAIN)
            model.low.normal_(std=0.3, generator=draw)
            model.up.normal_(std=0.3, generator=draw)
            model.expected.normal_(std=0.5, generator=draw)
    return model.eval()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def run(model: TokenTransmitter, images: Tensor, **more: Any) -> tuple[Tensor, TokensSent]:
    with record(model, TokenTransmitter) as records:
        logits = model(images, generator=generator(1), **more)
    return logits, records[""][0]


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
    assert loss.budget.item() == pytest.approx(by_hand(sent, 0.02), abs=1e-6)
    loss.total.backward()
    for gate in (*model.worth, *model.price):
        weight = gate.weight
        assert isinstance(weight, Tensor)
        assert weight.grad is not None
        assert weight.grad.isfinite().all()


def by_hand(sent: TokensSent, slack: float) -> float:
    shares = [sum(row) / len(row) for row in sent.sent.tolist()]
    return sum(max(0, abs(a - b) - slack) for a, b in zip(shares, sent.budget.tolist(), strict=True)) / len(shares)


@pytest.mark.parametrize("slack", [0.0, 0.02, 0.3])
def test_the_loss_is_its_terms_and_the_budget_counts_tokens(slack: float) -> None:
    logits, sent = run(made(), pictures(), budget=0.3)
    labels = torch.arange(6) % 4
    loss = transmission_loss(logits, labels, sent, weight=2.0, slack=slack, inner_weight=0.25)
    assert loss.budget.item() == pytest.approx(by_hand(sent, slack), abs=1e-12)
    assert loss.inner.item() == pytest.approx(sent.masks[:, :-1].mean().item(), abs=1e-12)
    assert loss.task.item() == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-12)
    total = loss.task + 2.0 * loss.budget + 0.25 * loss.inner
    assert loss.total.item() == pytest.approx(total.item(), abs=1e-12)


def record_of(sent: Tensor, margins: Tensor, alpha: float) -> TokensSent:
    none = torch.zeros(len(sent), dtype=torch.long)
    return TokensSent(
        sent, margins.sigmoid().cumprod(1), margins, sent[:, None], torch.full((len(sent),), alpha), none, none
    )


def test_masks_of_alpha_throughout_meet_no_budget_while_all_tokens_are_sent() -> None:
    everyone, margins = torch.ones(2, 10, dtype=torch.bool), torch.full((2, 1, 10), 0.3)
    loss = transmission_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), record_of(everyone, margins, 0.3))
    assert loss.budget.item() == pytest.approx(0.68, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_the_budget_moves_all_margins_the_more_the_nearer_they_are_to_the_edge(alpha: float) -> None:
    sent = torch.tensor([[True, True, False, False]])
    margins = torch.tensor([[[math.inf, 0.2, -0.1, -3.0], [math.inf, 1.2, 2.0, -2.0]]], requires_grad=True)
    logits, labels = torch.zeros(1, 3), torch.zeros(1, dtype=torch.long)
    transmission_loss(logits, labels, record_of(sent, margins, alpha), inner_weight=0).total.backward()
    assert margins.grad is not None
    for block in (0, 1):
        for token in range(4):
            here, other = (sigmoid(margins[0, one, token].item()) for one in (block, 1 - block))
            slope = here * (1 - here) * other / 4 * (1 if alpha < 0.5 else -1)
            assert margins.grad[0, block, token].item() == pytest.approx(slope, abs=1e-7)


def test_training_lets_a_larger_budget_send_more() -> None:
    torch.manual_seed(0)
    model = TokenTransmitter(vit().float(), after=2, symbols=4, channel=AWGNChannel(10))
    images, labels = torch.rand(32, 1, 12, 12, generator=generator()), torch.arange(32) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    draws = generator(9)
    model.train()
    for _ in range(100):
        with record(model, TokenTransmitter) as records:
            logits = model(images, budget=draw_budgets(32, low=0.1, generator=draws), generator=draws)
        optimizer.zero_grad()
        transmission_loss(logits, labels, records[""][0], weight=10.0, inner_weight=0.05).total.backward()
        optimizer.step()
    model.eval()
    shares = [run(model, images, budget=alpha)[1].sent.float().mean().item() for alpha in (0.2, 0.5, 0.9)]
    assert shares[0] < 0.4, shares
    assert shares[0] < shares[1] < shares[2] - 0.2, shares


def test_a_model_that_has_stopped_to_send_learns_to_send_again() -> None:
    model = made(choosy=False)
    with torch.no_grad():
        for worth in model.worth:
            worth.bias.fill_(-4 / GAIN)
    optimizer = torch.optim.Adam([*model.worth.parameters(), *model.price.parameters()], lr=1e-2)
    images, labels = pictures(), torch.arange(6) % 4
    assert run(model, images)[1].sent.sum(1).tolist() == [1] * 6
    model.train()
    for _ in range(40):
        logits, sent = run(model, images)
        optimizer.zero_grad()
        transmission_loss(logits, labels, sent).total.backward()
        optimizer.step()
    assert run(model.eval(), images)[1].sent.double().mean() > 0.8


def test_the_loss_counts_tokens_of_half_precision_exactly() -> None:
    sent, margins = torch.ones(1, 3001, dtype=torch.bool), torch.full((1, 1, 3001), 1.0, dtype=torch.bfloat16)
    sent[0, 1:1001] = False
    loss = transmission_loss(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), record_of(sent, margins, 0.5))
    assert loss.budget.item() == pytest.approx(2001 / 3001 - 0.5 - 0.02, abs=1e-6)


# The side information


def test_the_bits_name_every_choice() -> None:
    assert [side_bits(k, 4) for k in range(5)] == [3, 5, 6, 5, 3]
    for tokens in (1, 5, 65):
        for sent in range(tokens + 1):
            choices = math.comb(tokens, sent)
            assert 2 ** (side_bits(sent, tokens) - math.ceil(math.log2(tokens + 1))) >= choices
            assert side_bits(sent, tokens) - math.ceil(math.log2(tokens + 1)) == math.ceil(math.log2(choices))


def test_symbols_are_those_of_the_tokens_and_the_bits_over_what_a_symbol_carries() -> None:
    sent = torch.tensor([[True, False, False, False], [True, True, True, False]])
    assert symbols_sent(sent, 8, None).tolist() == [8.0, 24.0]
    assert symbols_sent(sent, 8, 0.0).tolist() == [8.0 + 5, 24.0 + 5]  # one bit a symbol at 0 dB
    faint = symbols_sent(sent, 8, -200.0).tolist()  # log₂(1 + x) = x / ln 2, and 1 + x is 1
    assert faint == pytest.approx([8 + 5 * math.log(2) * 1e20, 24 + 5 * math.log(2) * 1e20])
    assert symbols_sent(sent, 8, 10 * math.log10(3)).tolist() == pytest.approx([8 + 5 / 2, 24 + 5 / 2])


# The start


def test_the_code_begins_as_the_best_linear_one_of_the_tokens() -> None:
    model = made(choosy=False, channel=AWGNChannel(None))
    images = torch.rand(40, 1, 12, 12, generator=generator(), dtype=torch.float64)
    x = model.model.embed(images)
    for block in model.model.blocks[:AFTER]:
        x = block(x)

    def error(one: TokenTransmitter) -> float:
        symbols = unit_power(one.encoder(x - one.expected))
        noisy = symbols + torch.randn(symbols.shape, generator=generator(2), dtype=torch.float64) * 0.1**0.5
        return (one.decoder(noisy / 1.1) + one.expected - x).square().mean().item()

    start_code(model, images)
    best = error(model)
    torch.testing.assert_close(model.expected, x.mean(0))
    assert best < (x - x.mean(0)).square().mean().item()
    for seed in range(5):
        worse = copy.deepcopy(model)
        with torch.no_grad():
            worse.decoder.weight.mul_(0.8 if seed == 0 else 1)
            worse.decoder.weight += 0.05 * torch.randn(16, 6, generator=generator(seed)).double() * (seed > 0)
        assert error(worse) > best


def test_the_start_fits_the_decoder_behind_the_receivers_factor() -> None:
    # as much noise as signal: D is the least-squares map of (e + σ ε) / (1 + σ²), written out
    model, snr = made(choosy=False, channel=AWGNChannel(None)), 0.0
    images = torch.rand(60, 1, 12, 12, generator=generator(), dtype=torch.float64)
    start_code(model, images, snr=snr)
    x = model.model.embed(images)
    for block in model.model.blocks[:AFTER]:
        x = block(x)
    rest = (x - model.expected).flatten(0, 1)
    symbols = unit_power(model.encoder(rest))
    seen = (symbols + torch.randn(2000, *symbols.shape, generator=generator(2), dtype=torch.float64)).flatten(0, 1) / 2
    gram, cross = seen.T @ seen / 2000, seen.T @ rest.repeat(2000, 1) / 2000
    expected = torch.linalg.solve(gram, cross).T
    weight = model.decoder.weight
    assert isinstance(weight, Tensor)
    assert (weight - expected).norm() < 0.02 * expected.norm()


def test_the_start_asks_the_model_without_dropout_and_leaves_it_in_its_mode() -> None:
    images = torch.rand(40, 1, 12, 12, generator=generator(), dtype=torch.float64)
    codes = []
    for training in (True, False):
        model = made(vit(dropout=0.3), choosy=False).train(training)
        model.model.blocks[1].eval()
        start_code(model, images)
        assert model.training == model.model.training == model.model.blocks[0].training == training
        assert not model.model.blocks[1].training
        codes.append((model.expected, model.encoder.weight, model.decoder.weight))
    for one, other in zip(*codes, strict=True):
        assert torch.equal(one, other)


def test_drawn_budgets_are_spread_evenly_and_stay_in_their_range() -> None:
    drawn = draw_budgets(8, low=0.2, high=0.6, generator=generator())
    assert ((drawn - 0.2) / 0.05).floor().tolist() == list(range(8))
    assert draw_budgets(3, low=1.0, high=1.0).tolist() == [1.0] * 3


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
def test_a_start_from_images_that_are_all_alike_or_of_another_code_is_refused() -> None:
    model = made()
    before = copy.deepcopy(model.state_dict())
    for images in (pictures(1), torch.zeros(5, 1, 12, 12, dtype=torch.float64)):
        with pytest.raises(ValueError, match=f"at least 2 different images.*got {len(images)}, all alike"):
            start_code(model, images)
    with pytest.raises(ValueError, match="snr must be finite"):
        start_code(model, pictures(), snr=math.inf)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.encoder = nn.Sequential(model.encoder)
    with pytest.raises(TypeError, match=r"must be nn.Linear.*got Sequential and Linear"):
        start_code(model, pictures())


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


@pytest.mark.usefixtures("as_users_run_it")
def test_a_loss_of_other_images_or_with_a_negative_weight_is_refused() -> None:
    logits, sent = run(made(), pictures())
    labels = torch.zeros(6, dtype=torch.long)
    with pytest.raises(ValueError, match="of 6 images, the logits of 5"):
        transmission_loss(logits[:5], labels[:5], sent)
    for name in ("weight", "slack", "inner_weight"):
        with pytest.raises(ValueError, match=f"^{name} must be at least 0"):
            transmission_loss(logits, labels, sent, **{name: -1})


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: side_bits(5, 4), "sent must be 0 … 4"),
        (lambda: side_bits(-1, 4), "sent must be"),
        (lambda: draw_budgets(0), "count must be at least 1"),
        (lambda: draw_budgets(4, low=0.6, high=0.5), "low must not exceed high"),
        (lambda: symbols_sent(torch.ones(1, 4, dtype=torch.bool), 0, 3.0), "symbols must be at least 1"),
        (lambda: symbols_sent(torch.ones(1, 4, dtype=torch.bool), 2, math.inf), "snr must be finite"),
    ],
)
def test_counts_that_cannot_be_are_refused(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
