"""Some tokens of a layer are those of the whole layer, and tokens that stop are those of a slow loop over tokens."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dynlib.backbone import Block, FeedForward, GatedFeedForward, RMSNorm
from dynlib.cost import count
from dynlib.deciding import record
from dynlib.depth.looped import ExitGate, Looped, Stopped, exit_distribution
from dynlib.depth.some_tokens import block_for_some, for_some

DIM, TOKENS, BATCH = 8, 5, 4
EXACT = {"rtol": 0, "atol": 1e-10}  # for float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def given(batch: int = BATCH, *, seed: int = 1) -> Tensor:
    return torch.randn(batch, TOKENS, DIM, dtype=torch.float64, generator=seeded(seed))


def layers(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made = {
        "block": lambda: Block(DIM, 2, hidden=12),
        "causal": lambda: Block(DIM, 2, hidden=12, causal=True),
        "rotary": lambda: Block(DIM, 2, hidden=12, causal=True, rotary=True),
        "as in Llama": lambda: Block(
            *(DIM, 4),
            hidden=12,
            causal=True,
            bias=False,
            output_bias=False,
            norm=RMSNorm,
            rotary=torch.tensor([0.7, 0.1, 0.03]),
            key_value_heads=2,
            head_dim=6,
            feed_forward=partial(GatedFeedForward, bias=False),
        ),
        "post-norm": lambda: Block(DIM, 2, hidden=12, norm_first=False),
        "with a norm": lambda: nn.Sequential(Block(DIM, 2, hidden=12), nn.LayerNorm(DIM)),
        "two": lambda: nn.Sequential(nn.Sequential(Block(DIM, 2), nn.LayerNorm(DIM)), Block(DIM, 2), nn.LayerNorm(DIM)),
        "alone": lambda: nn.Sequential(FeedForward(DIM), nn.LayerNorm(DIM)),
    }[kind]()
    return made.double().eval()


KINDS = ["block", "causal", "rotary", "as in Llama", "post-norm", "with a norm", "two", "alone"]


def masks() -> dict[str, Tensor]:
    none = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    some = torch.rand(BATCH, TOKENS, generator=seeded(3)) < 0.5
    one, one_sample = none.clone(), none.clone()
    one[2, 3], one_sample[1] = True, True
    return {"some": some, "one": one, "one sample": one_sample, "all": ~none}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["some", "one", "one sample", "all"])
@torch.no_grad()
def test_some_tokens_are_those_of_the_whole_block(kind, which):
    block, x, mask = layers(kind), given(), masks()[which]
    torch.testing.assert_close(for_some(block, x, mask), block(x)[mask], **EXACT)


@pytest.mark.parametrize("kind", ["block", "rotary", "as in Llama", "post-norm"])
@torch.no_grad()
def test_a_mask_over_the_keys_holds_for_some_too(kind):
    block, x, mask = layers(kind), given(), masks()["some"]
    keys = torch.rand(BATCH, TOKENS, generator=seeded(4)) < 0.6
    keys[:, 0] = True
    expected = block(x, key_mask=keys)[mask]
    torch.testing.assert_close(block_for_some(block, x, mask, key_mask=keys), expected, **EXACT)


class Cost(nn.Module):
    def __init__(self, block: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.block, self.mask = block, mask

    def forward(self, x: Tensor) -> Tensor:
        return for_some(self.block, x, self.mask)


@torch.no_grad()
def test_only_what_they_take_is_computed():
    block, x, mask = layers("block"), given(), torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    mask[:, :2] = True
    tokens, runs, hidden = BATCH * TOKENS, 2 * BATCH, 12
    # keys and values of all, queries and all that follows of those that run, and 2 rows of attention a sample
    linear = 2 * (tokens * 2 * DIM * DIM + runs * (2 * DIM * DIM + 2 * DIM * hidden))
    attention = 2 * 2 * runs * TOKENS * DIM
    assert count(Cost(block, mask), x).flops == linear + attention < count(block, x).flops


# Tokens that stop


def make(kind: str = "with a norm", *, inject: str = "add", loops: int = 6) -> Looped:
    looped = Looped(layers(kind), loops, inject=inject, gate=ExitGate(DIM, each="token")).double().eval()
    nn.init.normal_(looped.gate.linear.weight, std=1.0, generator=seeded(5))
    return looped


def slowly(looped: Looped, x: Tensor, *, change: float | None = None, quantile: float | None = None) -> Stopped:
    """Token by token: those that have stopped are put back as they were after every loop."""
    state = x.clone() if looped.inject == "none" else torch.zeros_like(x)
    loops = torch.zeros(x.shape[:2], dtype=torch.long)
    measure, left = torch.zeros(x.shape[:2], dtype=x.dtype), torch.ones(x.shape[:2], dtype=x.dtype)
    done = torch.zeros(x.shape[:2], dtype=torch.bool)
    for _ in range(looped.loops):
        after = looped.block(state if looped.inject == "none" else state + x)
        kept = state.clone()
        for row in range(x.shape[0]):
            for token in range(x.shape[1]):
                if done[row, token]:
                    continue
                new = after[row, token]
                if change is not None:
                    measure[row, token] = (new - state[row, token]).norm() / new.norm()
                    stop = measure[row, token] <= change
                else:
                    left[row, token] *= 1 - torch.sigmoid(looped.gate(new[None, None]))[0, 0]
                    measure[row, token] = 1 - left[row, token]
                    stop = measure[row, token] >= quantile
                kept[row, token], done[row, token] = new, stop
                loops[row, token] += 1
        state = kept
    return Stopped(state, loops, measure)


def limits(looped: Looped, x: Tensor, rule: str) -> dict[str, float]:
    """One that about half of the tokens meet after two or three loops."""
    states = looped.states(x)
    if rule == "quantile":
        sure = exit_distribution(torch.stack([looped.gate(state) for state in states]))[:2].sum(0)
        return {"quantile": 1.001 * sure.median().item()}
    moved = (states[2] - states[1]).norm(dim=-1) / states[2].norm(dim=-1)
    return {"change": 1.001 * moved.median().item()}


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("kind", ["with a norm", "rotary", "two"])
@pytest.mark.parametrize("inject", ["add", "none"])
@pytest.mark.parametrize("rule", ["change", "quantile"])
@torch.no_grad()
def test_every_token_stops_where_the_slow_loop_stops_it(execution, kind, inject, rule):
    looped, x = make(kind, inject=inject), given()
    limit = limits(looped, x, rule)
    expected = slowly(looped, x, **limit)
    assert len(expected.loops.unique()) >= 2
    before = x.clone()
    stopped = looped.predict(x, each="token", execution=execution, **limit)
    assert torch.equal(x, before)
    assert torch.equal(stopped.loops, expected.loops)
    torch.testing.assert_close(stopped.state, expected.state, **EXACT)
    torch.testing.assert_close(stopped.measure, expected.measure, **EXACT)


class Asking(nn.Module):
    """A module of (z, x) that looks at both."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.sin(z) + 2 * x


@torch.no_grad()
def test_an_injection_of_ones_own_is_gathered_too():
    looped, x = make(), given()
    looped.inject = Asking()
    one, other = (looped.predict(x, each="token", quantile=0.7, execution=way) for way in ("gathered", "masked"))
    assert one.loops.min() < one.loops.max()
    for part, same in zip(one, other, strict=True):
        torch.testing.assert_close(part, same, **EXACT)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("batch", [1, BATCH])
@torch.no_grad()
def test_all_stop_at_once_or_none_does(execution, batch):
    looped, x = make(), given(batch)
    for limit, loops in (({}, 6), ({"change": 0}, 6), ({"quantile": 1}, 6), ({"quantile": 0}, 1), ({"change": 1e9}, 1)):
        stopped = looped.predict(x, each="token", execution=execution, **limit)
        assert stopped.loops.tolist() == [[loops] * TOKENS] * batch
        torch.testing.assert_close(stopped.state, looped(x, loops=loops), **EXACT)
        assert stopped.measure.isnan().all() == (not limit)


@torch.no_grad()
def test_others_still_see_a_token_that_has_stopped():
    looped, x = make(), given()
    limit = limits(looped, x, "quantile")
    stopped = looped.predict(x, each="token", **limit)
    row = int((stopped.loops.max(1).values > stopped.loops.min(1).values).nonzero()[0])
    longest, soon = int(stopped.loops[row].argmax()), int(stopped.loops[row].argmin())
    state = stopped.state.clone()
    plain = looped.block(state + x)[row, longest]
    state[row, soon, 0] += 5
    assert not torch.allclose(looped.block(state + x)[row, longest], plain)
    # and what it kept is the state after its own last loop, though the others went on
    first = looped.states(x)[0]
    left = stopped.loops == 1
    torch.testing.assert_close(stopped.state[left], first[left], **EXACT)


@torch.no_grad()
def test_a_batch_changes_nothing_nor_do_rows():
    looped, x = make(), given()
    limit = limits(looped, x, "quantile")
    whole = looped.predict(x, each="token", **limit)
    cut = looped.predict(x, each="token", rows=2 * TOKENS, **limit)
    for one, other in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    for number in range(BATCH):
        alone = looped.predict(x[number, None], each="token", **limit)
        assert torch.equal(alone.loops[0], whole.loops[number])
        torch.testing.assert_close(alone.state[0], whole.state[number], **EXACT)


@torch.no_grad()
def test_gathered_tokens_cost_less_and_masked_ones_all():
    looped, x = make(), given()

    class Predict(nn.Module):
        def __init__(self, **options) -> None:
            super().__init__()
            self.looped, self.options = looped, options

        def forward(self, x: Tensor) -> Tensor:
            return self.looped.predict(x, each="token", **self.options).state

    limit = limits(looped, x, "change")
    some = count(Predict(**limit), x).flops
    assert some < 0.9 * count(Predict(**limit, execution="masked"), x).flops
    assert count(Predict(), x).flops == count(looped, x).flops


@torch.no_grad()
def test_the_record_has_a_number_of_loops_for_every_token():
    looped, x = make(), given()
    with record(looped, Looped) as records:
        stopped = looped.predict(x, each="token", quantile=0.7)
    assert records[""] == [stopped]
    assert stopped.loops.shape == stopped.measure.shape == x.shape[:2]


class Own(nn.Module):
    """A block that mixes tokens in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)


class OwnForSome(Own):
    def for_some(self, x: Tensor, which: Tensor) -> Tensor:
        return self(x)[which]


@torch.no_grad()
def test_a_block_of_ones_own_is_masked_or_says_itself_how_it_is_gathered():
    x = given()
    expected = Looped(Own(), 3).predict(x, each="token", change=0.6, execution="masked")
    stopped = Looped(OwnForSome(), 3).predict(x, each="token", change=0.6)
    assert torch.equal(stopped.loops, expected.loops)
    torch.testing.assert_close(stopped.state, expected.state, **EXACT)


class Changed(Block):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + 1


class TooFew(OwnForSome):
    def for_some(self, x: Tensor, which: Tensor) -> Tensor:
        return self(x)[which][1:]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Looped(Own(), 2).predict(given(), each="token"), "Own cannot compute some .* execution='masked'"),
        (lambda: Looped(Changed(DIM, 2).double(), 2).predict(given(), each="token"), "Changed cannot compute some"),
        (lambda: Looped(TooFew(), 2).predict(given(), each="token"), r"must give \(20, 8\) .* got \(19, 8\)"),
        (lambda: make().predict(given(), each="row"), "each must be 'sample' or 'token'; got 'row'"),
        (lambda: ExitGate(DIM, each="row"), "each must be 'sample' or 'token'; got 'row'"),
        (lambda: make().predict(given(), quantile=0.5), r"one logit a sample, \(4,\); got \(4, 5\)"),
        (
            lambda: Looped(layers("block"), 2, gate=ExitGate(DIM).double()).predict(
                given(), quantile=0.5, each="token", execution="masked"
            ),
            r"one logit a token, \(4, 5\); got \(4,\): ExitGate\(dim, each='token'\) does",
        ),
        (lambda: make().predict(given() * float("nan"), each="token", change=0.1), "a state is NaN or infinite"),
    ],
)
def test_what_makes_no_sense_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
