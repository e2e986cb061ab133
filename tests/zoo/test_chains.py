"""The reader of chains: the order of the names is free, its losses are their definition, and its tokens stop."""

import pytest
import torch
from torch.nn import functional as F

from dynlib.data import chains
from dynlib.depth.looped import gated_loss
from dynlib.zoo import card, load
from dynlib.zoo.chains import ChainReader, chain_losses, gated_chain_loss

EXACT = {"rtol": 0, "atol": 1e-10}


def make(**options) -> ChainReader:
    torch.manual_seed(0)
    return ChainReader(**{"names": 6, "dim": 8, "heads": 2, "hidden": 12, "loops": 3, **options}).double().eval()


@torch.no_grad()
def test_the_order_of_the_names_changes_no_answer():
    model, drawn = make(), chains(5, names=6, ends=2)
    order = torch.tensor([3, 5, 0, 2, 4, 1])
    said = model(drawn.names, drawn.points_to)
    assert said.shape == (5, 6, 6)
    torch.testing.assert_close(model(drawn.names[:, order], drawn.points_to[:, order]), said[:, order], **EXACT)
    other = (drawn.points_to + 1) % 6
    assert not torch.allclose(model(drawn.names, other), said)


def test_the_losses_are_the_cross_entropies_of_every_loop_and_name():
    model, drawn = make(), chains(5, names=6, ends=2)
    states = model.looped.states(model.embed(drawn.names, drawn.points_to))
    losses = chain_losses(model, states, drawn.ends)
    assert losses.shape == (3, 5, 6)
    for loop, row, place in ((0, 0, 0), (2, 4, 5), (1, 3, 2)):
        expected = F.cross_entropy(model.head(states[loop, row, place]), drawn.ends[row, place])
        torch.testing.assert_close(losses[loop, row, place], expected, **EXACT)


def test_the_gated_loss_is_over_all_loops_and_trains_the_gate():
    model, drawn = make(gate=True), chains(5, names=6, ends=2)
    torch.nn.init.normal_(model.looped.gate.linear.weight)
    states = model.looped.states(model.embed(drawn.names, drawn.points_to))
    gates = torch.stack([model.looped.gate(state) for state in states])
    expected = gated_loss(chain_losses(model, states, drawn.ends), gates, beta=0.2)
    loss = gated_chain_loss(model, drawn.names, drawn.points_to, drawn.ends, beta=0.2)
    torch.testing.assert_close(loss, expected, **EXACT)
    more = gated_chain_loss(model, drawn.names, drawn.points_to, drawn.ends, beta=0.2, window=2)
    torch.testing.assert_close(more - loss, chain_losses(model, states, drawn.ends)[-2:].mean(), **EXACT)
    loss.backward()
    assert model.looped.gate.linear.weight.grad.abs().max() > 0
    with pytest.raises(ValueError, match="has no gate"):
        gated_chain_loss(make(), drawn.names, drawn.points_to, drawn.ends, beta=0.2)


@torch.no_grad()
def test_the_shipped_model_is_as_good_as_its_card_says_and_far_ends_take_longer():
    model, figures = load("looped_chains"), card("looped_chains")["figures"]
    drawn = chains(1000, split="test", seed=1)
    right = model(drawn.names, drawn.points_to).argmax(-1) == drawn.ends
    # one name of 40,000 was wrong there; here it would take 40 of 20,000
    assert right.double().mean().item() == pytest.approx(figures["test_accuracy"], abs=0.002)
    assert figures["test_accuracy"] > 0.999
    stopped = model.looped.predict(model.embed(drawn.names, drawn.points_to), quantile=0.5, each="token")
    loops = stopped.loops.double()
    assert loops.mean().item() == pytest.approx(figures["test_loops_when_tokens_stop"], abs=0.15)
    near, middle, far = (loops[drawn.hops == hops].mean().item() for hops in (0, 3, 7))
    assert near < middle < far
