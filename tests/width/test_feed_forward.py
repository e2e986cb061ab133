"""Which feed-forward parts are taken for slicing, and that nothing which a slice would lose is taken silently."""

import copy
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from dynlib.backbone import CausalLM, FeedForward
from dynlib.width.feed_forward import GatedFeedForward
from dynlib.width.matformer import MatFormerFeedForward, extract, matformer

DIM, HIDDEN, HALF = 6, 16, (1 / 2, 1)


class Llama(nn.Module):
    """A gated part as Llama's is written, with what else it may do."""

    def __init__(self, *, bias: bool = False, function: nn.Module | None = None) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(DIM, HIDDEN, bias=bias)
        self.up_proj = nn.Linear(DIM, HIDDEN, bias=bias)
        self.down_proj = nn.Linear(HIDDEN, DIM, bias=bias)
        self.act_fn = nn.SiLU() if function is None else function

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Swapped(Llama):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))


class Scaled(Llama):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


class Dropping(Llama):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(super().forward(x))


class Louder(FeedForward):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Adapted(nn.Linear):
    """A linear layer with a low-rank adapter beside it."""

    def __init__(self, given: nn.Linear) -> None:
        super().__init__(given.in_features, given.out_features)
        self.load_state_dict(given.state_dict())
        self.down, self.up = nn.Linear(given.in_features, 2, bias=False), nn.Linear(2, given.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.down(x))


def tokens() -> Tensor:
    return torch.randn(5, DIM, generator=torch.Generator().manual_seed(0))


def sequential(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


@pytest.mark.parametrize("bias", [False, True])
def test_a_gated_part_is_its_formula(bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = GatedFeedForward(DIM, HIDDEN, bias=bias), tokens()
    gate, up = x @ layer.gate.weight.mT, x @ layer.expand.weight.mT
    if bias:
        gate, up = gate + layer.gate.bias, up + layer.expand.bias
    expected = (gate * gate.sigmoid() * up) @ layer.contract.weight.mT + (layer.contract.bias if bias else 0)
    torch.testing.assert_close(layer(x), expected)
    assert GatedFeedForward(DIM).expand.out_features == 4 * DIM
    with pytest.raises(ValueError, match="must be positive; got dim=0"):
        GatedFeedForward(0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FeedForward(DIM, HIDDEN),
        lambda: GatedFeedForward(DIM, HIDDEN),
        lambda: GatedFeedForward(DIM, HIDDEN, bias=False, activation=nn.GELU()),
        lambda: MatFormerFeedForward(DIM, HIDDEN, gated=True),
        lambda: sequential(nn.Linear(DIM, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, DIM)),
        lambda: sequential(nn.Linear(DIM, HIDDEN, bias=False), nn.Tanh(), nn.Linear(HIDDEN, DIM)),
        Llama,
        lambda: Llama(bias=True, function=nn.GELU(approximate="tanh")),
    ],
)
def test_a_part_that_is_taken_is_at_full_width_what_it_was_with_its_very_weights(make) -> None:
    torch.manual_seed(0)
    part, x = make().eval(), tokens()
    layer = MatFormerFeedForward.of(part, (1 / 4, 1))
    assert torch.equal(layer(x), part(x))
    assert torch.equal(extract(layer, 1)(x), part(x))
    assert {id(parameter) for parameter in layer.parameters()} == {id(parameter) for parameter in part.parameters()}
    assert not layer.training
    assert MatFormerFeedForward.of(part.train(), (1 / 4, 1)).training
    layer.width = 1 / 4
    assert torch.equal(extract(layer, 1 / 4)(x), layer(x))
    assert (layer.dim, layer.neurons, layer.width) == (DIM, HIDDEN, 1 / 4)


def test_the_gated_part_of_transformers_is_taken() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers, whose Llama it is, is not installed")
    module = import_module("transformers.models.llama.modeling_llama")
    torch.manual_seed(0)
    part = module.LlamaMLP(transformers.LlamaConfig(hidden_size=DIM, intermediate_size=HIDDEN, num_attention_heads=1))
    layer, x = MatFormerFeedForward.of(part, HALF), tokens()
    assert torch.equal(layer(x), part(x))
    small = copy.deepcopy(part)
    for linear in (small.gate_proj, small.up_proj):
        linear.weight = nn.Parameter(linear.weight[:8].detach().clone())
    small.down_proj.weight = nn.Parameter(small.down_proj.weight[:, :8].detach().clone())
    layer.width = 1 / 2
    assert torch.equal(layer(x), small(x))


def adapted() -> FeedForward:
    part = FeedForward(DIM, HIDDEN)
    part.contract = Adapted(part.contract)
    return part


def normed() -> FeedForward:
    part = FeedForward(DIM, HIDDEN)
    parametrizations.weight_norm(part.expand)
    return part


def pruned() -> FeedForward:
    part = FeedForward(DIM, HIDDEN)
    prune.l1_unstructured(part.expand, "weight", amount=0.5)
    return part


def hooked(place: str) -> FeedForward:
    part = FeedForward(DIM, HIDDEN)
    part.get_submodule(place).register_forward_hook(lambda *_: None)
    return part


def replaced() -> FeedForward:
    part = FeedForward(DIM, HIDDEN)
    part.forward = lambda x: x
    return part


def wrapped() -> FeedForward:
    class Quantised(Tensor):
        pass

    part = FeedForward(DIM, HIDDEN)
    part.expand.weight = nn.Parameter(part.expand.weight.detach().as_subclass(Quantised))
    return part


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.Linear(DIM, DIM), "must be FeedForward, .*; got Linear"),
        (lambda: sequential(nn.Linear(DIM, HIDDEN), nn.Linear(HIDDEN, DIM)), "must be FeedForward"),
        (lambda: sequential(nn.Linear(DIM, HIDDEN), nn.ReLU(), nn.Dropout(), nn.Linear(HIDDEN, DIM)), "must be FeedF"),
        (
            lambda: sequential(nn.Linear(DIM, HIDDEN), nn.Softmax(-1), nn.Linear(HIDDEN, DIM)),
            "one of GELU.*got Softmax",
        ),
        (lambda: sequential(nn.Linear(DIM, HIDDEN), nn.Dropout(), nn.Linear(HIDDEN, DIM)), "got Dropout"),
        (lambda: sequential(nn.Linear(DIM, HIDDEN), nn.PReLU(HIDDEN), nn.Linear(HIDDEN, DIM)), "got PReLU"),
        (lambda: sequential(nn.Linear(DIM, HIDDEN), nn.ReLU(), nn.Identity()), "a slice of Identity"),
        (lambda: Louder(DIM, HIDDEN), "must be FeedForward, .*; got Louder"),
        (Swapped, "computes something else"),
        (Scaled, "holds more than its layers"),
        (lambda: Dropping().eval(), "holds more than its layers"),
        (adapted, "a slice of Adapted"),
        (normed, "a slice of ParametrizedLinear"),
        (pruned, "a hook|more than its layers"),
        (wrapped, "a slice of Linear"),
        (lambda: hooked("expand"), "a linear layer has a hook"),
        (lambda: hooked(""), "the FeedForward has a hook"),
        (replaced, "a forward of its own"),
    ],
)
def test_what_a_slice_would_lose_is_refused(make, says: str) -> None:
    torch.manual_seed(0)
    part = make()
    with pytest.raises(TypeError, match=says):
        MatFormerFeedForward.of(part, HALF)
    model = CausalLM(vocabulary=11, dim=DIM, depth=2, heads=1)
    model.blocks[1].feed_forward = part
    with pytest.raises(TypeError, match=says):
        matformer(model, HALF)
    assert type(model.blocks[0].feed_forward) is FeedForward, "where one cannot be taken, nothing is changed"


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"do not fit one another, their weights are \[\(16, 6\), \(6, 8\)\]"):
        MatFormerFeedForward.of(sequential(nn.Linear(DIM, HIDDEN), nn.ReLU(), nn.Linear(8, DIM)), HALF)


def test_what_is_put_on_a_layer_later_works_at_full_width_and_is_an_error_at_a_narrower_one() -> None:
    torch.manual_seed(0)
    layer, x = MatFormerFeedForward(DIM, HIDDEN), tokens()
    layer.expand = Adapted(layer.expand)
    plain = FeedForward(DIM, HIDDEN)
    plain.expand, plain.contract = layer.expand, layer.contract
    assert torch.equal(layer(x), plain(x))
    layer.width = 1 / 2
    with pytest.raises(TypeError, match="a slice of Adapted"):
        layer(x)
    with pytest.raises(TypeError, match="a slice of Adapted"):
        extract(layer, 1)
    layer.execution = "masked"  # all of it runs
    assert layer(x).isfinite().all()
    hooked_later = MatFormerFeedForward(DIM, HIDDEN, width=1 / 2)
    handle = hooked_later.contract.register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match="has a hook"):
        hooked_later(x)
    handle.remove()
    handle = hooked_later.register_forward_hook(lambda *_: None)
    hooked_later(x)
    with pytest.raises(TypeError, match="has a hook, which the extracted layer would lose"):
        extract(hooked_later, 1 / 2)
