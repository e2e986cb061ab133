"""Looped blocks against the unrolled stack with shared weights, and stopping against one sample at a time."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from dynlib.backbone import Block
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.depth.looped import Looped, Stopped, window_loss
from dynlib.depth.stopping import ExitGate, StoppingRule, exit_distribution, gated_loss

DIM, TOKENS, BATCH = 8, 3, 7
EXACT = {"rtol": 0, "atol": 1e-10}  # for float64
INJECT = ["add", "none", "module"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Mix(nn.Module):
    """An injection of one's own: both side by side, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * DIM, DIM)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.linear(torch.cat([z, x], dim=-1))


def make(loops: int = 4, *, inject: str = "add", gate: bool = False, layers: int = 2, seed: int = 0) -> Looped:
    torch.manual_seed(seed)
    block = nn.Sequential(*[Block(DIM, 2, hidden=12) for _ in range(layers)])
    given = Mix() if inject == "module" else inject
    looped = Looped(block, loops, inject=given, gate=ExitGate(DIM) if gate else None).double().eval()
    if gate:
        nn.init.normal_(looped.gate.linear.weight, std=1.5)
    return looped


def tokens(batch: int = BATCH, *, seed: int = 1) -> Tensor:
    return torch.randn(batch, TOKENS, DIM, dtype=torch.float64, generator=seeded(seed))


class Contraction(nn.Module):
    """f(z) = a z, and each sample has an a of its own below 0.9: its state comes to rest, soon or late."""

    def forward(self, z: Tensor) -> Tensor:
        return 0.9 * z * torch.sigmoid(z[:, :1, :1])


def unrolled(looped: Looped, blocks: list[nn.Module], x: Tensor) -> list[Tensor]:
    """The states of a plain stack of blocks that all see the input."""
    inject = {"add": lambda z, x: z + x, "none": lambda z, x: z}.get(looped.inject, looped.inject)
    state = x if looped.inject == "none" else torch.zeros_like(x)
    states = []
    for block in blocks:
        state = block(inject(state, x))
        states.append(state)
    return states


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters()]


# Looping


@pytest.mark.parametrize("inject", INJECT)
@pytest.mark.parametrize("loops", [1, 2, 5])
def test_it_is_the_unrolled_stack_with_shared_weights_in_value_and_gradient(inject, loops):
    looped, x = make(loops, inject=inject), tokens()
    stack = [copy.deepcopy(looped.block) for _ in range(loops)]
    x_loop, x_stack = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = looped(x_loop), unrolled(looped, stack, x_stack)[-1]
    torch.testing.assert_close(out, expected, **EXACT)
    weight = torch.randn(out.shape, dtype=out.dtype, generator=seeded(2))
    (out * weight).sum().backward()
    block = gradients(looped.block)
    looped.zero_grad()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x_loop.grad, x_stack.grad, **EXACT)
    # a weight that is used L times gets the sum of what L copies of it get
    for shared, *copies in zip(block, *map(gradients, stack), strict=True):
        torch.testing.assert_close(shared, torch.stack(copies).sum(0), **EXACT)


def test_the_number_of_loops_changes_no_parameter_and_multiplies_the_cost():
    one, many = make(1), make(6)
    sizes = [[parameter.shape for parameter in looped.parameters()] for looped in (one, many)]
    assert sizes[0] == sizes[1] == [parameter.shape for parameter in one.block.parameters()]
    with torch.no_grad():
        assert count(many, tokens()).flops == 6 * count(one, tokens()).flops > 0


def test_the_states_are_those_after_each_loop():
    looped, x = make(5), tokens()
    with torch.no_grad():
        states = looped.states(x)
        assert states.shape == (5, *x.shape)
        for loops in range(1, 6):
            assert torch.equal(looped(x, loops=loops), states[loops - 1])
        assert torch.equal(looped.states(x, window=2), states[3:])


def test_without_injection_the_result_is_another_after_the_first_loop():
    x = tokens()
    with_, without = make(3), make(3, inject="none")
    assert torch.equal(with_(x, loops=1), without(x, loops=1))
    assert not torch.allclose(with_(x), without(x))


# The window


@pytest.mark.parametrize("inject", INJECT)
@pytest.mark.parametrize("window", [1, 3, 5])
def test_the_loss_over_the_last_loops_is_that_of_a_manual_detach(inject, window):
    looped, x = make(5, inject=inject), tokens().requires_grad_()
    target = torch.randn(x.shape, dtype=x.dtype, generator=seeded(3))
    loss = window_loss(looped, x, lambda state: (state - target).square().mean(), window=window)
    loss.backward()
    got, of_x = gradients(looped), x.grad
    looped.zero_grad()
    x.grad = None
    before = unrolled(looped, [looped.block] * (5 - window), x)
    mix = {"add": lambda z: z + x, "none": lambda z: z}.get(looped.inject, lambda z: looped.inject(z, x))
    state = before[-1].detach() if before else (x if inject == "none" else torch.zeros_like(x))
    losses = []
    for _ in range(window):
        state = looped.block(mix(state))
        losses.append((state - target).square().mean())
    expected = sum(losses) / window
    torch.testing.assert_close(loss, expected, **EXACT)
    expected.backward()
    for one, other in zip(got, gradients(looped), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    if inject == "none" and window < 5:
        assert of_x is None  # the trap that the module's page names
        assert x.grad is None
    else:
        torch.testing.assert_close(of_x, x.grad, **EXACT)


def graph_size(tensor: Tensor) -> int:
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(parent for parent, _ in node.next_functions)
    return len(seen)


def test_loops_before_the_window_have_no_graph():
    looped, x = make(9), tokens()
    sizes = [graph_size(looped.states(x, window=2, loops=loops).sum()) for loops in (2, 3, 5, 9)]
    assert len(set(sizes[1:])) == 1  # with two loops there is nothing to cut off
    assert sizes[1] < graph_size(looped.states(x, window=3).sum()) < graph_size(looped.states(x).sum())
    modes = []
    looped.block[0].register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    looped.states(x, window=2)
    assert modes == [False] * 7 + [True] * 2
    with torch.no_grad():
        assert not looped.states(x, window=2).requires_grad


# Stopping


def alone(looped: Looped, x: Tensor, *, change: float | None = None, quantile: float | None = None) -> Stopped:
    """One sample at a time, loop by loop, with the formulas."""
    results = []
    for sample in x:
        one = sample[None]
        state = one if looped.inject == "none" else torch.zeros_like(one)
        survive = 1.0
        for t in range(1, looped.loops + 1):
            before, state = state, unrolled(looped, [looped.block], one)[0] if t == 1 else step(looped, state, one)
            if change is not None:
                measure = ((state - before).norm() / state.norm()).item()
                stop = measure <= change
            else:
                survive *= 1 - torch.sigmoid(looped.gate(state)).item()
                measure = 1 - survive
                stop = measure >= quantile
            if stop or t == looped.loops:
                results.append((state[0], torch.tensor(t), torch.tensor(measure, dtype=x.dtype)))
                break
    return Stopped(*(torch.stack(part) for part in zip(*results, strict=True)))


def step(looped: Looped, state: Tensor, x: Tensor) -> Tensor:
    mixed = {"add": lambda: state + x, "none": lambda: state}.get(looped.inject, lambda: looped.inject(state, x))()
    return looped.block(mixed)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("inject", INJECT)
@pytest.mark.parametrize("rule", ["change", "quantile"])
@torch.no_grad()
def test_every_sample_stops_where_it_would_alone(execution, inject, rule):
    looped, x = make(6, inject=inject, gate=True), tokens(12)
    middle = looped.states(x)
    moved = ((middle[3] - middle[2]).flatten(1).norm(dim=1) / middle[3].flatten(1).norm(dim=1)).median().item()
    sure = exit_distribution(torch.stack([looped.gate(state) for state in middle]))[:3].sum(0).median().item()
    limit = {"change": 1.001 * moved} if rule == "change" else {"quantile": 1.001 * sure}  # beside every sample
    expected = alone(looped, x, **limit)
    assert len(expected.loops.unique()) >= 2
    stopped = looped.predict(x, execution=execution, **limit)
    assert stopped.loops.tolist() == expected.loops.tolist()
    torch.testing.assert_close(stopped.state, expected.state, **EXACT)
    torch.testing.assert_close(stopped.measure, expected.measure, **EXACT)


@torch.no_grad()
def test_only_what_still_runs_is_computed():
    looped, x = make(6, gate=True), tokens(12)
    sizes = []
    looped.block.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    stopped = looped.predict(x, quantile=0.6)
    assert sizes == [int((stopped.loops >= t).sum()) for t in range(1, int(stopped.loops.max()) + 1)]
    assert sum(sizes) < 6 * 12
    sizes.clear()
    looped.predict(x, quantile=0.6, execution="masked")
    assert sizes == [12] * 6


@pytest.mark.parametrize("rows", [1, TOKENS, 2 * TOKENS + 1, 1000])
@torch.no_grad()
def test_rows_cut_the_work_and_change_no_result(rows):
    looped, x = make(6, gate=True), tokens(12)
    sizes = []
    looped.block.register_forward_hook(lambda _, given, __: sizes.append(given[0][..., 0].numel()))
    cut, whole = looped.predict(x, quantile=0.6, rows=rows), looped.predict(x, quantile=0.6)
    assert max(sizes[: -int(whole.loops.max())]) <= max(rows, TOKENS)
    for one, other in zip(cut, whole, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@torch.no_grad()
def test_the_ends_of_the_thresholds(execution):
    looped, x = make(4, gate=True), tokens()
    all_, last = torch.full((BATCH,), 4), looped(x)
    for limits, loops in (
        ({}, all_),
        ({"change": 0}, all_),
        ({"quantile": 1}, all_),
        ({"quantile": 0}, torch.ones_like(all_)),
        ({"change": 1e9}, torch.ones_like(all_)),
        ({"change": 0, "loops": 2}, torch.full_like(all_, 2)),
    ):
        stopped = looped.predict(x, execution=execution, **limits)
        assert torch.equal(stopped.loops, loops), limits
        if torch.equal(loops, all_):
            torch.testing.assert_close(stopped.state, last, **EXACT)
        assert stopped.measure.isnan().all() == (not limits)


@torch.no_grad()
def test_a_larger_change_or_a_smaller_quantile_never_takes_longer():
    looped, x = make(8, gate=True), tokens(40)
    for rule, limits in (("change", [0.9, 0.5, 0.3, 0.1, 0.01]), ("quantile", [0.1, 0.4, 0.6, 0.9, 0.99])):
        loops = [looped.predict(x, **{rule: limit}).loops for limit in limits]
        assert all((less <= more).all() for less, more in pairwise(loops))


@torch.no_grad()
def test_a_state_that_has_come_to_rest_stops_by_itself():
    looped = Looped(Contraction(), 200)
    x = tokens().float()
    stopped = looped.predict(x, change=1e-4)
    assert stopped.loops.min() < stopped.loops.max() < 200
    torch.testing.assert_close(looped.block(stopped.state + x), stopped.state, rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_half_precision_stops_too():
    looped = make(4, gate=True).to(torch.bfloat16)
    stopped = looped.predict(tokens().bfloat16(), quantile=0.6)
    assert stopped.state.dtype == torch.bfloat16
    assert stopped.measure.dtype == torch.float32


# The gate


def test_the_exit_probabilities_are_a_distribution_and_the_products_say_so():
    gates = 2 * torch.randn(5, 4, dtype=torch.float64, generator=seeded())
    p = exit_distribution(gates)
    torch.testing.assert_close(p.sum(0), torch.ones(4, dtype=torch.float64), **EXACT)
    for sample in range(4):
        left = 1.0
        for t in range(5):
            here = left if t == 4 else left * torch.sigmoid(gates[t, sample]).item()
            assert p[t, sample].item() == pytest.approx(here, abs=1e-12)
            left -= here
    assert exit_distribution(torch.randn(1, 3)).tolist() == [[1.0] * 3]


def test_a_fresh_gate_leaves_after_half_in_every_loop():
    gates = torch.stack([ExitGate(DIM)(torch.randn(2, TOKENS, DIM)) for _ in range(4)])
    assert exit_distribution(gates)[:, 0].tolist() == pytest.approx([0.5, 0.25, 0.125, 0.125])


def test_the_gated_loss_is_its_formula_and_the_gradient_is_right():
    gates = torch.randn(4, 3, dtype=torch.float64, generator=seeded()).requires_grad_()
    losses = torch.rand(4, 3, dtype=torch.float64, generator=seeded(1)).requires_grad_()
    p = exit_distribution(gates)
    expected = ((p * losses).sum(0) + 0.3 * (p * p.log()).sum(0)).mean()
    torch.testing.assert_close(gated_loss(losses, gates, beta=0.3), expected, **EXACT)
    assert torch.autograd.gradcheck(lambda *given: gated_loss(*given, beta=0.3), (losses, gates))
    # −H is the divergence from the uniform distribution, but for log L
    uniform = (p * (p.log() - math.log(1 / 4))).sum(0).mean() - math.log(4)
    without = gated_loss(losses, gates, beta=0)
    torch.testing.assert_close((expected - without) / 0.3, uniform, **EXACT)


def learned(beta: float) -> Tensor:
    """The exit distribution that fits these losses best."""
    losses = torch.tensor([1.0, 0.5, 0.4, 0.6], dtype=torch.float64)[:, None]
    gates = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([gates], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        gated_loss(losses, gates, beta=beta).backward()
        optimizer.step()
    return exit_distribution(gates.detach())[:, 0]


def test_the_entropy_keeps_the_gate_from_one_loop():
    # the minimum of Σ p loss − β H is p ∝ exp(−loss / β)
    expected = (-torch.tensor([1.0, 0.5, 0.4, 0.6], dtype=torch.float64) / 0.5).softmax(0)
    torch.testing.assert_close(learned(0.5), expected, rtol=0, atol=1e-3)
    sure = learned(0)
    assert sure.argmax() == 2
    assert sure.max() > 0.95
    torch.testing.assert_close(learned(50), torch.full((4,), 0.25, dtype=torch.float64), rtol=0, atol=5e-3)


@pytest.mark.parametrize("size", [60.0, 1e4])
def test_a_gate_that_is_very_sure_has_finite_gradients(size):
    gates = torch.tensor([[size], [-size], [size], [0.0]], requires_grad=True)
    loss = gated_loss(torch.ones(4, 1), gates, beta=1.0)
    loss.backward()
    assert loss.isfinite()
    assert gates.grad.isfinite().all()


# Knob and record


def test_the_knob_sets_the_loops_and_is_put_back():
    looped, x = make(3), tokens()
    with torch.no_grad():
        deep = looped(x, loops=5)
        with setting(looped, Looped, loops=5):
            assert torch.equal(looped(x), deep)
            assert looped.predict(x).loops.tolist() == [5] * BATCH
    assert looped.loops == 3
    with pytest.raises(ValueError, match="loops must be at least 1; got 0"), setting(looped, Looped, loops=0):
        pass
    assert looped.loops == 3


def test_the_records_are_what_came_out():
    model = nn.Sequential(make(3), make(4, seed=1))
    x = tokens()
    with record(model, Looped) as records, torch.no_grad():
        out = model(x)
        stopped = model[1].predict(x, change=0.5)
    assert list(records) == ["0", "1"]
    assert [len(calls) for calls in records.values()] == [1, 2]
    assert torch.equal(records["1"][0].state, out)
    assert records["0"][0].loops.tolist() == [3] * BATCH
    assert records["0"][0].measure.isnan().all()
    assert records["1"][1] is stopped
    with record(model, Looped) as records:
        model(x)
    assert records["0"][0].state.requires_grad


def test_the_input_is_left_alone():
    for inject in INJECT:
        looped, x = make(3, inject=inject, gate=True), tokens()
        before = x.clone()
        looped(x)
        looped.predict(x, quantile=0.5)
        looped.predict(x, change=0.5, execution="masked")
        assert torch.equal(x, before)


# Bad input


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: Looped(nn.Identity(), 0), ValueError, "loops must be at least 1; got 0"),
        (lambda: Looped(nn.Identity(), 2.0), TypeError, "loops must be an int; got 2.0"),
        (lambda: Looped(nn.Identity(), 2, inject="both"), ValueError, "'add', 'none' or a module .* got 'both'"),
        (lambda: Looped(lambda x: x, 2), TypeError, "must be modules; got function"),
        (lambda: Looped(nn.Identity(), 2, gate=len), TypeError, "must be modules; got Identity and builtin"),
        (lambda: make()(tokens(), loops=0), ValueError, "loops must be at least 1; got 0"),
        (lambda: make()(tokens()[0]), ValueError, r"tokens must be \[batch, tokens, 8\].* got \(3, 8\)"),
        (lambda: make()(tokens()[:0]), ValueError, r"none of them 0; got \(0, 3, 8\)"),
        (lambda: make()(torch.ones(2, 3, 8).long()), TypeError, "tokens must be floating-point"),
        (lambda: make()([1.0]), TypeError, "the tokens must be a tensor; got list"),
        (lambda: Looped(Wrong(), 2)(tokens()), ValueError, r"must keep the shape \(7, 3, 8\); got \(7, 2, 8\)"),
        (lambda: make(3).states(tokens(), window=4), ValueError, "window must be 1 … 3 loops; got 4"),
        (lambda: make(3).states(tokens(), window=0), ValueError, "window must be 1 … 3 loops; got 0"),
        (lambda: make().predict(tokens(), quantile=0.5), ValueError, "asks the gate, and there is none"),
        (lambda: make(gate=True).predict(tokens(), quantile=0.5, change=1), ValueError, "change or quantile, not both"),
        (lambda: make(gate=True).predict(tokens(), quantile=1.5), ValueError, "quantile must be 0 … 1; got 1.5"),
        (lambda: make().predict(tokens(), change=-1), ValueError, "change must be at least 0 and finite; got -1"),
        (lambda: make().predict(tokens(), change=float("nan")), ValueError, "change must be .* got nan"),
        (lambda: make().predict(tokens(), execution="fused"), ValueError, "'gathered' or 'masked'; got 'fused'"),
        (lambda: make().predict(tokens(), rows=0), ValueError, "rows must be at least 1 tokens; got 0"),
        (lambda: make().predict(tokens(), rows=3, execution="masked"), ValueError, "leave rows out"),
        (lambda: make().predict(tokens() * float("nan"), change=0.1), ValueError, "a state is NaN or infinite"),
        (lambda: StoppingRule(nn.Flatten(), None, 0.5)(*[tokens()] * 2, torch.zeros(7)), ValueError, "one logit a sam"),
        (lambda: gated_loss(torch.ones(3, 2), torch.ones(2, 2), beta=1), ValueError, r"got \(3, 2\) and \(2, 2\)"),
        (lambda: gated_loss(torch.ones(3, 2), torch.ones(3, 2), beta=-1), ValueError, "beta must be at least 0"),
        (lambda: exit_distribution(torch.ones(0, 2)), ValueError, r"got \(0, 2\)"),
        (lambda: exit_distribution(torch.ones(2, 2).long()), TypeError, "floating-point logits; got torch.int64"),
        (lambda: exit_distribution(torch.full((2, 2), torch.inf)), ValueError, "a gate is NaN or infinite"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
