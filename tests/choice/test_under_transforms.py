"""Every choice under what stands around a call: torch.func, compiled graphs, no float64, arrays for tensors."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap
from torch.nn import functional as F

from dynlib.choice import (
    entmax,
    entmax15,
    entmax15_loss,
    entmax_loss,
    fenchel_young_loss,
    gumbel_max,
    gumbel_noise,
    gumbel_sigmoid,
    gumbel_softmax,
    gumbel_topk,
    leave_one_out,
    perturbed_argmax,
    perturbed_max,
    relaxed_topk,
    sample_subset,
    score_function_loss,
    soft_topk,
    softmax_ste,
    sparsemax,
    sparsemax_loss,
    straight_through,
    subset_marginals,
)
from tests.test_transforms import NoFloat64

ROOT = Path(__file__).parents[2]
Choice = Callable[[Tensor], Tensor]


def best(scores: Tensor) -> Tensor:
    return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores)


TARGET = torch.tensor([0.5, 0.0, 0.25, 0.25, 0.0, 0.0], dtype=torch.float64)


def like(x: Any) -> Tensor:
    return TARGET.to(x.dtype) if isinstance(x, Tensor) else TARGET


CERTAIN: dict[str, Choice] = {
    "softmax_ste": softmax_ste,
    "sparsemax": sparsemax,
    "entmax15": entmax15,
    "entmax 1": partial(entmax, alpha=1),
    "entmax 1.3": partial(entmax, alpha=1.3),
    "entmax 3": partial(entmax, alpha=3.0),
    "sparsemax_loss": lambda x: sparsemax_loss(x, like(x)),
    "entmax_loss": lambda x: entmax_loss(x, torch.tensor(4), 1.3),
    "soft_topk": lambda x: soft_topk(x, 2, 0.7),
    "soft_topk 0": lambda x: soft_topk(x, 0),
    "subset_marginals": lambda x: subset_marginals(x, 2),
    "subset_marginals 0": lambda x: subset_marginals(x, 0),
}
RANDOM: dict[str, Choice] = {
    "gumbel_noise": gumbel_noise,
    "gumbel_max": gumbel_max,
    "gumbel_softmax": gumbel_softmax,
    "gumbel_softmax hard": partial(gumbel_softmax, hard=True),
    "gumbel_sigmoid": gumbel_sigmoid,
    "gumbel_topk": lambda x: gumbel_topk(x, 3),
    "relaxed_topk": lambda x: relaxed_topk(x, 3),
    "relaxed_topk hard": lambda x: relaxed_topk(x, 3, hard=True),
    "sample_subset": lambda x: sample_subset(x, 3),
    "perturbed_argmax": lambda x: perturbed_argmax(best, x, samples=7),
    "perturbed_argmax gumbel": lambda x: perturbed_argmax(best, x, samples=7, noise="gumbel", control_variate=True),
    "perturbed_max": lambda x: perturbed_max(best, x, samples=7),
    "fenchel_young_loss": lambda x: fenchel_young_loss(best, x, like(x), samples=7),
}
LEARNABLE = [name for name in RANDOM if name not in ("gumbel_noise", "gumbel_max", "gumbel_topk")]
ONCE = [name for name in CERTAIN if name not in ("softmax_ste", "soft_topk", "soft_topk 0")]


def scores(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seeded(function: Choice) -> Choice:
    """With the same random numbers at every call."""

    def call(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return function(x)

    return call


def jacobian(function: Choice, x: Tensor) -> Tensor:
    """Row by row, by plain backward passes."""
    x = x.detach().requires_grad_()
    out = function(x)
    rows = [torch.autograd.grad(part, x, retain_graph=True)[0] for part in out.flatten().unbind()]
    return torch.stack(rows).view(*out.shape, *x.shape)


# ---- vmap and torch.func


@pytest.mark.parametrize("name", CERTAIN)
def test_vmap_is_a_batch(name: str) -> None:
    function, x = CERTAIN[name], 2 * scores(3, 4, 6)
    expected = torch.stack([torch.stack([function(row) for row in rows]) for rows in x])
    torch.testing.assert_close(vmap(vmap(function))(x), expected)
    torch.testing.assert_close(vmap(function, in_dims=1)(x[0].T), expected[0])


@pytest.mark.parametrize("name", CERTAIN)
def test_jacobians_and_gradients_of_every_row_are_those_of_backward(name: str) -> None:
    function, x = CERTAIN[name], 2 * scores(4, 6)
    expected = torch.stack([jacobian(function, row) for row in x])
    torch.testing.assert_close(torch.stack([jacrev(function)(row) for row in x]), expected)
    torch.testing.assert_close(vmap(jacrev(function))(x), expected)
    torch.testing.assert_close(vmap(jacfwd(function))(x), expected)
    torch.testing.assert_close(torch.autograd.functional.jacobian(function, x[1], vectorize=True), expected[1])
    weight = scores(*expected.shape[1:-1], seed=2)
    slopes = vmap(grad(lambda row: (function(row) * weight).sum()))(x)
    torch.testing.assert_close(slopes, (weight.reshape(-1, 1) * expected.reshape(4, -1, 6)).sum(1))


def test_an_alpha_for_every_row_is_learned_under_vmap() -> None:
    x, alpha, y = 2 * scores(4, 6), torch.tensor([1.2, 1.5, 2.0, 3.5], dtype=torch.float64), torch.tensor([0, 5, 2, 1])
    torch.testing.assert_close(vmap(entmax)(x, alpha), entmax(x, alpha[:, None]))
    torch.testing.assert_close(vmap(entmax, in_dims=(None, 0))(x, alpha), torch.stack([entmax(x, a) for a in alpha]))
    by_alpha = torch.stack([jacrev(lambda a, row=row: entmax(row, a))(a) for row, a in zip(x, alpha, strict=True)])
    torch.testing.assert_close(vmap(jacfwd(entmax, argnums=1))(x, alpha), by_alpha)
    leaves = [x.clone().requires_grad_(), alpha.clone().requires_grad_()]
    expected = torch.autograd.grad(entmax_loss(leaves[0], y, leaves[1][:, None]).sum(), leaves)
    got = vmap(grad(entmax_loss, argnums=(0, 2)))(x, y, alpha)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", [*ONCE, "sample_subset", "perturbed_argmax"])
def test_a_second_derivative_is_refused_under_torch_func_too(name: str) -> None:
    function = {**CERTAIN, **RANDOM}[name]
    weight = scores(*function(scores(6)).shape, seed=4)

    def slope(x: Tensor) -> Tensor:
        return grad(lambda row: (function(row) * weight).exp().sum())(x).sum()

    with pytest.raises(RuntimeError, match="no second derivative"):
        grad(slope)(scores(6))
    if name in ONCE:
        with pytest.raises(RuntimeError, match="no second derivative"):
            hessian(lambda row: (function(row) * weight).exp().sum())(scores(6))


@pytest.mark.parametrize("name", RANDOM)
def test_under_vmap_rows_have_their_own_noise_or_the_same_as_asked(name: str) -> None:
    function, x = RANDOM[name], scores(6).expand(64, 6)
    different, same = (vmap(function, randomness=randomness)(x) for randomness in ("different", "same"))
    assert len(different.unique(dim=0)) >= 3  # 64 rows alike, but for one or two, are rows that share their noise
    assert len(same.unique(dim=0)) == 1
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(function)(x)


def test_under_vmap_every_row_has_the_law_of_its_logits() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.5, 0.0, 0.5]])
    many = logits.repeat_interleave(20_000, dim=0)
    torch.manual_seed(0)
    drawn = vmap(gumbel_max, randomness="different")(many).view(2, -1)
    law = logits.softmax(-1)
    for row in range(2):
        share = drawn[row].bincount(minlength=3) / 20_000
        # each share within 5 of its standard deviations: a false alarm in 6 · 6e-7 < 1e-5 of seeds
        assert ((share - law[row]).abs() <= 5 * (law[row] * (1 - law[row]) / 20_000).sqrt()).all()


@pytest.mark.parametrize("name", LEARNABLE)
def test_gradients_of_a_random_choice_under_torch_func_are_those_of_backward(name: str) -> None:
    function, x = seeded(RANDOM[name]), scores(6)
    torch.testing.assert_close(jacrev(function)(x), jacobian(function, x))
    torch.testing.assert_close(jacfwd(function, randomness="same")(x), jacobian(function, x))
    slopes = vmap(grad(lambda row: (function(row) * 1.5).sum()), randomness="same")(torch.stack([x, x, x]))
    torch.testing.assert_close(slopes[2], 1.5 * jacobian(function, x).reshape(-1, 6).sum(0))


def test_baselines_and_score_function_gradients_come_for_every_row() -> None:
    x, reward = scores(4, 6), scores(4, 6, seed=1)
    torch.testing.assert_close(vmap(leave_one_out)(reward), leave_one_out(reward, dim=1))
    slopes = vmap(grad(lambda row, reward: score_function_loss(row.log_softmax(-1), reward)))(x, reward)
    for row in range(4):
        leaf = x[row].clone().requires_grad_()
        score_function_loss(leaf.log_softmax(-1), reward[row]).backward()
        torch.testing.assert_close(slopes[row], leaf.grad)


@pytest.mark.parametrize("name", [name for name in {**CERTAIN, **RANDOM} if name != "gumbel_noise"])
def test_a_row_that_is_not_a_number_is_found_under_vmap(name: str) -> None:
    x = scores(4, 6)
    x[2, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        vmap({**CERTAIN, **RANDOM}[name], randomness="different")(x)


def test_a_row_with_too_few_choices_is_found_under_vmap() -> None:
    x = scores(4, 6)
    x[1, :4] = -torch.inf
    for function in (soft_topk, subset_marginals, sample_subset, gumbel_topk):
        with pytest.raises(ValueError, match="k = 3, but a row has only 2"):
            vmap(lambda row, function=function: function(row, 3), randomness="different")(x)
    with pytest.raises(ValueError, match=r"at least 1; got 0\.5"):
        vmap(entmax)(scores(2, 6), torch.tensor([0.5, 2.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="class indices must be 0 to 5; got 0 to 6"):
        vmap(sparsemax_loss)(scores(2, 6), torch.tensor([0, 6]))


# ---- compiled


def compiled(whole: list[str], parts: list[str]) -> list[str]:
    """Those that are another thing when compiled; ``whole`` in one graph, ``parts`` in several."""
    other = []
    for name in whole + parts:
        torch._dynamo.reset()
        function, x = {**CERTAIN, **RANDOM}[name], scores(4, 6)
        graph = torch.compile(function, backend="eager", fullgraph=name in whole)
        if not torch.equal(seeded(graph)(x), seeded(function)(x)):
            other.append(name)
    return other


def test_a_compiled_choice_is_the_choice_and_those_that_models_make_are_one_graph() -> None:
    whole = ["softmax_ste", "sparsemax", "soft_topk", "subset_marginals", "gumbel_softmax hard", "gumbel_max"]
    parts = ["entmax 1.3", "perturbed_argmax"]
    ask = f"from {__name__} import compiled; print(compiled({whole}, {parts}))"  # without the tests' checks of shapes
    run = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.stdout == "[]\n", run.stderr[-2000:]


# ---- without float64


@pytest.mark.parametrize("name", {**CERTAIN, **RANDOM})
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_choice_is_made_on_a_device_without_float64(name: str, dtype: torch.dtype) -> None:
    function, x = seeded({**CERTAIN, **RANDOM}[name]), scores(6).to(dtype)
    exact = function(x)
    with NoFloat64():
        got = function(x)
    torch.testing.assert_close(got, exact)


def test_marginals_without_float64_keep_four_digits_and_samples_their_size() -> None:
    x = 5 * scores(8, 200).float()
    exact = subset_marginals(x, 40)
    with NoFloat64():
        leaf = x.clone().requires_grad_()
        marginals = subset_marginals(leaf, 40)
        marginals[:, 0].sum().backward()
        sample = sample_subset(x, 40)
    torch.testing.assert_close(marginals, exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        leaf.grad, jacobian(lambda x: subset_marginals(x, 40)[:, 0].sum(), x), rtol=1e-3, atol=1e-4
    )
    assert (sample.sum(-1) == 40).all()


# ---- arrays, lists and numbers in the place of tensors


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("given", [np.zeros(6), np.float64(1.0), [0.1, 0.2], 1.5, None], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize(
    "call",
    [
        *({**CERTAIN, **RANDOM}.values()),
        lambda x: entmax15_loss(x, torch.tensor(0)),
        lambda x: entmax15_loss(torch.zeros(2, 6), x),
        lambda x: fenchel_young_loss(best, torch.zeros(2, 6), x),
        lambda x: straight_through(x, torch.zeros(2, 6)),
        lambda x: straight_through(torch.zeros(2, 6), x),
        leave_one_out,
        lambda x: score_function_loss(x, torch.zeros(6)),
        lambda x: score_function_loss(torch.zeros(6, requires_grad=True), x),
    ],
)
def test_what_is_no_tensor_is_said_to_be_none(call: Callable[[Any], Tensor], given: object) -> None:
    with pytest.raises(TypeError, match=r"must be a tensor; got .*(ndarray|float|list|None).*torch\.as_tensor"):
        call(given)


@pytest.mark.parametrize("name", [name for name in CERTAIN if not name.endswith("_loss")])
def test_on_the_meta_device_a_choice_has_its_shape_and_a_gradient(name: str) -> None:
    real = scores(3, 6)
    meta = real.to("meta").requires_grad_()
    result = CERTAIN[name](meta)
    assert (result.shape, result.dtype, result.device.type) == (CERTAIN[name](real).shape, real.dtype, "meta")
    result.sum().backward()
    assert meta.grad is not None
    assert meta.grad.shape == real.shape
