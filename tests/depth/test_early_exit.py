"""Early exit against a slow loop that sends one sample at a time.

The statistical tests are seeded, so they pass or fail once and for all; ``FALSE_ALARM`` is the probability that a right
implementation had been unlucky with its seed.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import ViT
from dynlib.cost import count
from dynlib.deciding import record
from dynlib.depth.early_exit import (
    ExitHead,
    MultiExit,
    exit_index,
    exit_loss,
    margin,
    max_probability,
    negative_entropy,
)

FALSE_ALARM = 1e-6  # of every statistical test here
CONFIDENCES = [max_probability, margin, negative_entropy]
DEPTH, DIM, CLASSES, SIDE = 5, 8, 4, 8
TOKENS = 5  # of a sample, the class token among them
EXITS = (1, 3, 4)
EXACT = {"rtol": 0, "atol": 1e-10}  # for float64
few = settings(max_examples=40, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_vit(*, depth: int = DEPTH, seed: int = 6, dtype: torch.dtype = torch.float64) -> ViT:
    torch.manual_seed(seed)
    vit = ViT(image_size=SIDE, patch_size=4, classes=CLASSES, dim=DIM, depth=depth, heads=2).to(dtype).eval()
    for parameter in vit.parameters():  # also norms and biases, so that nothing is 0 or 1 by chance
        nn.init.normal_(parameter)
    return vit


def make_model(exits: Sequence[int] = EXITS, **changes) -> MultiExit:
    model = MultiExit(make_vit(**changes), exits).eval()
    for head in model.heads:
        nn.init.normal_(head.norm.weight)
        nn.init.normal_(head.norm.bias, std=0.1)  # guesses are to differ more from image to image than by class
        nn.init.normal_(head.linear.weight)
        nn.init.normal_(head.linear.bias, std=0.1)
    return model


def make_images(batch: int, *, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(batch, 1, SIDE, SIDE, dtype=dtype, generator=seeded(seed))


def guesses_of_one(model: MultiExit, image: Tensor) -> list[Tensor]:
    """The logits [classes] of each exit, for one image alone, layer by layer and with the formula of each head."""
    vit, guesses = model.backbone, []
    x = vit.embed(image[None])
    for layer, block in enumerate(vit.blocks, start=1):
        x = block(x)
        if layer in EXITS:
            head = model.heads[EXITS.index(layer)]
            first = x[0, 0]
            normed = (first - first.mean()) / (first.var(unbiased=False) + head.norm.eps).sqrt()
            guesses.append(head.linear.weight @ (normed * head.norm.weight + head.norm.bias) + head.linear.bias)
    return [*guesses, vit.readout(x)[0]]


def leave_alone(guesses: list[Tensor], limits: Sequence[float], confidence: Callable[[Tensor], Tensor]) -> int:
    for number, limit in enumerate(limits):
        if confidence(guesses[number]).item() >= limit:
            return number
    return len(guesses) - 1


# The model


@torch.no_grad()
def test_every_exit_reads_the_first_token_after_its_layer():
    model, images = make_model(), make_images(5)
    logits = model(images)
    assert logits.shape == (len(EXITS) + 1, 5, CLASSES)
    for sample, image in enumerate(images):
        torch.testing.assert_close(logits[:, sample], torch.stack(guesses_of_one(model, image)), **EXACT)
    assert model.exits == (*EXITS, DEPTH)


@torch.no_grad()
def test_the_last_exit_is_the_backbone_itself():
    vit = make_vit()
    model, images = MultiExit(vit, [2]), make_images(3)
    assert model.backbone is vit
    assert torch.equal(model(images)[-1], vit(images))


@pytest.mark.parametrize("exits", [[], [DEPTH]])
@torch.no_grad()
def test_without_early_exits_it_is_the_backbone(exits):
    model, images = make_model(exits), make_images(3)
    assert model.exits == (DEPTH,)
    for execution in ("gathered", "masked"):
        assert torch.equal(model.predict(images, 0.5, execution=execution).logits, model.backbone(images))
    assert torch.equal(model.predict(images, []).exit, torch.full((3,), DEPTH))


def test_the_last_layer_may_be_named_as_an_exit():
    named, left_out = MultiExit(make_vit(), [2, DEPTH]), MultiExit(make_vit(), [2])
    assert named.exits == left_out.exits == (2, DEPTH)
    assert len(named.heads) == len(left_out.heads) == 1


@torch.no_grad()
def test_each_exit_has_a_norm_of_its_own():
    model, images = make_model(), make_images(3)
    before = model(images)
    model.heads[1].norm.weight += 1
    changed = (model(images) != before).flatten(1).any(1)
    assert changed.tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_heads_take_the_number_type_of_the_backbone(dtype):
    model = MultiExit(make_vit(dtype=dtype), EXITS)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(make_images(2, dtype=dtype)).dtype == dtype
    prediction = model.predict(make_images(9, dtype=dtype), 0.5)
    assert prediction.logits.dtype == dtype
    assert prediction.confidence.dtype == torch.promote_types(dtype, torch.float32)


def test_a_fresh_head_guesses_little():
    # a head of 64 features: logits of standard deviation 1 before training; bound at half to twice, 300 numbers
    torch.manual_seed(0)
    logits = ExitHead(64, 100)(torch.randn(3, 5, 64, generator=seeded()))
    assert 0.5 < logits.std() < 2


def test_a_state_dict_is_the_whole_of_it():
    one, other = make_model(seed=0), make_model(seed=1)
    images = make_images(2)
    assert not torch.equal(one(images), other(images))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(images), other(images))


class Counter(nn.Module):
    """Not a transformer: x ↦ 2x three times, and the sum of the tokens against a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(3)))
        for block in self.blocks:
            nn.init.constant_(block.weight, 2.0)

    def embed(self, x: Tensor) -> Tensor:
        return x[:, :, None]

    def readout(self, tokens: Tensor) -> Tensor:
        total = tokens.sum((1, 2))
        return torch.stack([total, torch.full_like(total, 4.0)], dim=-1)


class Total(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        total = tokens.sum((1, 2))
        return torch.stack([total, torch.zeros_like(total)], dim=-1)


@torch.no_grad()
def test_any_backbone_in_three_steps_may_have_exits():
    model = MultiExit(Counter(), [1, 2], heads=[Total(), Total()])
    x = torch.tensor([[0.1, 0.2], [1.0, 2.0], [0.5, 0.3]])
    expected = torch.stack([2 * x.sum(1), 4 * x.sum(1), 8 * x.sum(1)])
    assert torch.allclose(model(x)[..., 0], expected)
    assert model.predict(x, 0.95).exit.tolist() == [3, 1, 2]  # σ(0.6), σ(1.2); σ(6); σ(1.6), σ(3.2)


# Executions


@given(
    batch=st.integers(1, 17),
    thresholds=st.one_of(st.floats(0, 1.1), st.lists(st.floats(0, 1.1), min_size=3, max_size=3)),
    confidence=st.sampled_from(CONFIDENCES),
    seed=st.integers(0, 100),
    rows=st.sampled_from([None, 1, 2 * TOKENS - 1, 3 * TOKENS, 1000]),
)
@few
@torch.no_grad()
def test_a_batch_leaves_as_its_samples_alone(batch, thresholds, confidence, seed, rows):
    model, images = make_model(), make_images(batch, seed=seed)
    limits = thresholds if isinstance(thresholds, list) else [thresholds] * len(EXITS)
    gathered = model.predict(images, thresholds, confidence=confidence, rows=rows)
    masked = model.predict(images, thresholds, confidence=confidence, execution="masked")
    guesses = [guesses_of_one(model, image) for image in images]
    exits = [leave_alone(guess, limits, confidence) for guess in guesses]
    picked = torch.stack([guess[exit] for guess, exit in zip(guesses, exits, strict=True)])
    for prediction in (gathered, masked):
        assert prediction.exit.tolist() == [model.exits[exit] for exit in exits]
        assert prediction.exit.dtype == torch.int64
        torch.testing.assert_close(prediction.logits, picked, **EXACT)
        torch.testing.assert_close(prediction.confidence, confidence(picked), **EXACT)


@torch.no_grad()
def test_the_samples_of_these_tests_leave_at_every_exit():
    exits = make_model().predict(make_images(200), 0.8).exit
    assert exits.unique().tolist() == [*EXITS, DEPTH]
    assert min((exits == layer).sum() for layer in (*EXITS, DEPTH)) >= 5


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("threshold", [1 + 1e-12, 1.5, math.inf, torch.tensor([2.0, 2.0, 2.0])])
@torch.no_grad()
def test_a_threshold_above_one_is_bit_for_bit_the_full_model(execution, confidence, threshold):
    model, images = make_model(dtype=torch.float32), make_images(33, dtype=torch.float32)
    for head in model.heads:
        head.linear.weight *= 1000
    prediction = model.predict(images, threshold, confidence=confidence, execution=execution)
    assert torch.equal(prediction.logits, model.backbone(images))
    assert (prediction.exit == DEPTH).all()
    # while at 1 those leave whose confidence float32 rounds to 1, and these heads shout
    assert (model.predict(images, 1.0, confidence=confidence, execution=execution).exit == EXITS[0]).any()


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
@torch.no_grad()
def test_at_threshold_zero_all_leave_at_the_first_exit(execution, confidence, scale):
    model, images = make_model(dtype=torch.float32), make_images(20, dtype=torch.float32)
    for parameter in model.heads.parameters():
        parameter *= scale  # undecided, as it is, or shouting
    prediction = model.predict(images, 0, confidence=confidence, execution=execution)
    assert (prediction.exit == EXITS[0]).all()
    torch.testing.assert_close(prediction.logits, model(images)[0])


@pytest.mark.parametrize("confidence", CONFIDENCES)
@torch.no_grad()
def test_a_larger_threshold_never_lets_a_sample_leave_earlier(confidence):
    model, images = make_model(), make_images(40)
    sweep = [model.predict(images, t, confidence=confidence).exit for t in np.linspace(0, 1.1, 12)]
    assert all((later >= earlier).all() for earlier, later in pairwise(sweep))
    assert (sweep[0] == EXITS[0]).all()
    assert (sweep[-1] == DEPTH).all()
    # one threshold raised, the others as they are
    one = [model.predict(images, [0.6, t, 0.7], confidence=confidence).exit for t in np.linspace(0, 1.1, 12)]
    assert all((later >= earlier).all() for earlier, later in pairwise(one))


@torch.no_grad()
def test_a_sure_sample_neither_waits_for_an_unsure_one_nor_takes_it_along():
    model, images = make_model(), make_images(50)
    sure = max_probability(model(images)[0])
    pair = images[[int(sure.argmin()), int(sure.argmax())]]
    for limit in (sure.min().item() + 1e-6, sure.max().item() - 1e-6):  # below the mean, and above it
        exits = model.predict(pair, [limit, 2.0, 2.0]).exit
        assert exits.tolist() == [DEPTH, EXITS[0]]


@torch.no_grad()
def test_a_block_meets_only_the_samples_that_are_still_there():
    model, images = make_model(), make_images(60)
    exits = model.predict(images, 0.8, execution="masked").exit
    met: list[int] = []
    for block in model.backbone.blocks:
        block.register_forward_pre_hook(lambda _, given: met.append(len(given[0])))
    model.predict(images, 0.8)
    assert met == [int((exits >= layer).sum()) for layer in range(1, DEPTH + 1)]
    assert met[0] > met[1] > met[-1] > 0
    met.clear()
    model.predict(images, 0.0)
    assert met == [60]
    met.clear()
    model.predict(images[:7], 2.0, rows=3 * TOKENS)
    # three samples at a time through the layers between two exits, of which 2 and 3 are one stretch
    assert met == [3, 3, 1, *(3, 3, 3, 3, 1, 1), *(3, 3, 1), *(3, 3, 1)]


def test_predicting_keeps_no_graph_and_leaves_the_model_as_it_was():
    model, images = make_model().train(), make_images(4).requires_grad_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for execution in ("gathered", "masked"):
        prediction = model.predict(images, 0.5, execution=execution)
        assert not prediction.logits.requires_grad
        assert not prediction.confidence.requires_grad
    assert model.training
    assert torch.is_grad_enabled()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# Costs


def head_flops(batch: int) -> int:
    return 2 * batch * DIM * CLASSES


@torch.no_grad()
def test_counted_flops_fall_with_the_threshold_and_include_the_heads():
    model, images = make_model(), make_images(32)
    vit = model.backbone
    sweep = [count(model.predict, images, t).flops for t in (1.5, 0.9, 0.7, 0.4, 0.0)]
    assert all(a > b for a, b in pairwise(sweep))
    assert sweep[0] == count(vit, images).flops + len(EXITS) * head_flops(32)
    embedding = count(vit.embed, images).flops
    block = count(vit.blocks[0], vit.embed(images)).flops
    assert sweep[-1] == embedding + block + head_flops(32)
    # between: layers and heads of those who were still there
    exits = model.predict(images, 0.7).exit
    layers = int(exits.sum())
    heads = sum(sum(layer <= exit for layer in EXITS) for exit in exits.tolist())
    readouts = int((exits == DEPTH).sum())
    assert sweep[2] == embedding + block // 32 * layers + head_flops(heads) + head_flops(readouts)


@torch.no_grad()
def test_masked_execution_saves_nothing():
    model, images = make_model(), make_images(8)
    costs = {count(model.predict, images, t, execution="masked").flops for t in (0.0, 0.5, 2.0)}
    assert costs == {count(model, images).flops}


# Training


def test_detached_exits_train_the_heads_and_nothing_else():
    model, images, labels = make_model(), make_images(6), torch.tensor([0, 1, 2, 3, 0, 1])
    images.requires_grad_()
    detached, joint = model(images, detach=True), model(images)
    assert torch.equal(detached, joint)
    exit_loss(detached, labels).backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert images.grad is None
    heads = [parameter.grad.clone() for parameter in model.heads.parameters()]
    assert all((gradient != 0).any() for gradient in heads)
    # the heads learn what they learn jointly
    model.zero_grad()
    exit_loss(joint, labels).backward()
    for gradient, parameter in zip(heads, model.heads.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, **EXACT)


def test_joint_training_reaches_every_parameter():
    model = make_model()
    exit_loss(model(make_images(6)), torch.tensor([0, 1, 2, 3, 0, 1])).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_detaching_does_not_switch_gradients_on():
    model = make_model()
    with torch.no_grad():
        assert not model(make_images(2), detach=True).requires_grad
    assert model(make_images(2), detach=True).requires_grad


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
        ("depth", [1 / 6, 2 / 6, 3 / 6]),
        ([2, 0, 6], [0.25, 0, 0.75]),
        (torch.tensor([2.0, 0.0, 6.0]), [0.25, 0, 0.75]),
    ],
)
def test_the_loss_is_the_weighted_mean_of_cross_entropies(weights, shares):
    logits = torch.randn(3, 4, 5, dtype=torch.float64, generator=seeded(2)).requires_grad_()
    labels = torch.tensor([4, 0, 2, 2])
    expected = 0.0
    for share, exit in zip(shares, logits.tolist(), strict=True):
        for row, label in zip(exit, labels.tolist(), strict=True):
            expected += share / 4 * (math.log(sum(math.exp(value) for value in row)) - row[label])
    loss = exit_loss(logits, labels, weights=weights)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    for exit, share in enumerate(shares):
        probabilities = logits[exit].detach().softmax(-1)
        torch.testing.assert_close(logits.grad[exit], share / 4 * (probabilities - F.one_hot(labels, 5)), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_of_half_precision_is_computed_in_single(dtype):
    logits = torch.randn(2, 300, 7, generator=seeded(3)).to(dtype)
    labels = torch.randint(7, (300,), generator=seeded(4))
    loss = exit_loss(logits, labels, weights="depth")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exit_loss(logits.float(), labels, weights="depth"))


# Confidences


def confidences_by_hand(row: list[float]) -> tuple[float, float, float]:
    total = sum(math.exp(value) for value in row)
    p = sorted((math.exp(value) / total for value in row), reverse=True)
    entropy = -sum(value * math.log(value) for value in p if value > 0)
    return p[0], p[0] - p[1], 1 - entropy / math.log(len(p))


def test_confidences_are_their_formulas():
    logits = 2 * torch.randn(2, 30, 6, dtype=torch.float64, generator=seeded(5))
    logits[0, 0, 2] = -math.inf
    expected = torch.tensor([[confidences_by_hand(row) for row in part] for part in logits.tolist()])
    for which, confidence in enumerate(CONFIDENCES):
        torch.testing.assert_close(confidence(logits), expected[..., which].double(), rtol=0, atol=1e-6)
        assert confidence(logits[0, 3]).shape == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_confidences_reach_their_ends_and_stay_within(dtype, classes):
    undecided, decided = torch.zeros(classes, dtype=dtype), torch.zeros(classes, dtype=dtype)
    decided[1] = 2000
    wide = torch.promote_types(dtype, torch.float32)
    for confidence, least in zip(CONFIDENCES, (1 / classes, 0, 0), strict=True):
        assert confidence(undecided).item() == pytest.approx(least, abs=1e-6)
        assert confidence(decided).item() == 1
        scale = torch.logspace(-6, 3, 200, dtype=wide)[:, None]
        values = confidence((torch.randn(200, classes, generator=seeded(6)).to(wide) * scale).to(dtype))
        assert values.dtype == wide
        assert values.min() >= 0
        assert values.max() <= 1


def test_with_two_classes_the_margin_is_twice_the_probability_less_one():
    logits = torch.randn(50, 2, dtype=torch.float64, generator=seeded(7))
    torch.testing.assert_close(margin(logits), 2 * max_probability(logits) - 1, **EXACT)


def test_exits_can_be_found_from_confidences_alone():
    confidence = torch.rand(4, 300, generator=seeded(8))
    for threshold in (0.0, 0.3, 0.95, 1.5, [0.9, 0.1, 0.5], torch.tensor([0.2, 0.9, 0.9])):
        limits = [threshold] * 3 if isinstance(threshold, float) else [float(limit) for limit in threshold]
        expected = [next((i for i in range(3) if sure[i] >= limits[i]), 3) for sure in confidence.double().T.tolist()]
        assert exit_index(confidence, threshold).tolist() == expected


def test_a_confidence_at_the_threshold_is_enough():
    assert exit_index(torch.tensor([[0.5, 0.25], [0.0, 0.0]]), 0.5).tolist() == [0, 1]
    model = MultiExit(Counter(), [1, 2], heads=[Total(), Total()])
    x = torch.zeros(2, 3)  # heads that cannot tell: a confidence of exactly one half
    assert model.predict(x, 0.5).exit.tolist() == [1, 1]
    assert model.predict(x, math.nextafter(0.5, 1)).exit.tolist() == [3, 3]


# Errors of the exits


@pytest.mark.parametrize(
    ("exits", "error", "says"),
    [
        ([DEPTH + 1], ValueError, rf"layer {DEPTH + 1}.*layers 1 … {DEPTH}"),
        ([1, 99], ValueError, "no exit after layer 99"),
        ([0, 1], ValueError, "no exit after layer 0"),
        ([-1], ValueError, "no exit after layer -1"),
        ([2, 2], ValueError, "once"),
        ([3, 1], ValueError, "rise"),
        ([1.0], TypeError, "exit must be an int"),
        ([True], TypeError, "exit must be an int"),
        (["2"], TypeError, "exit must be an int"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_exits_that_the_backbone_does_not_have_are_refused(exits, error, says):
    with pytest.raises(error, match=says):
        MultiExit(make_vit(), exits)


@pytest.mark.usefixtures("as_users_run_it")
def test_backbones_and_heads_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="Linear has not"):
        MultiExit(nn.Linear(2, 2), [1])
    with pytest.raises(TypeError, match="give heads"):
        MultiExit(Counter(), [1])
    with pytest.raises(ValueError, match=r"2 early exits.*got 1"):
        MultiExit(Counter(), [1, 2], heads=[Total()])
    with pytest.raises(ValueError, match="no layers"):
        MultiExit(make_vit(depth=0), [])
    wrong = MultiExit(make_vit(), [1, 2], heads=[nn.Identity(), nn.Identity()])
    for run in (lambda x: wrong(x), lambda x: wrong.predict(x, 0.5)):
        with pytest.raises(ValueError, match=r"the exit after layer 1 must give logits \[batch, classes\]"):
            run(make_images(2))


@pytest.mark.parametrize(
    ("threshold", "error", "says"),
    [
        (-0.1, ValueError, "0 or more"),
        (math.nan, ValueError, "0 or more"),
        ([0.5, 0.5, -1], ValueError, "0 or more"),
        ([0.5, math.nan, 0.5], ValueError, "0 or more"),
        ([0.5], ValueError, "each of the 3 early exits; got 1"),
        ([0.5] * 4, ValueError, "The last exit has none"),
        ([], ValueError, "got 0"),
        (None, TypeError, "must be a number"),
        ("high", TypeError, "must be a number"),
        (torch.zeros(2, 3), TypeError, "must be a number"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_thresholds_out_of_range_are_refused(threshold, error, says):
    model, images = make_model(), make_images(2)
    for execution in ("gathered", "masked"):
        with pytest.raises(error, match=says):
            model.predict(images, threshold, execution=execution)
    with pytest.raises(error, match=says):
        exit_index(torch.rand(4, 2), threshold)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_bad_threshold_is_refused_where_there_is_no_early_exit_too():
    with pytest.raises(ValueError, match="0 or more"):
        make_model([]).predict(make_images(2), -1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"execution": "fused"}, "'gathered' or 'masked'"),
        ({"rows": 0}, "at least 1 tokens"),
        ({"rows": 2, "execution": "masked"}, "the work of 'gathered'"),
        ({"confidence": "state"}, "function of logits, or one of 'max_probability'"),
        ({"confidence": lambda logits: max_probability(logits).mean()}, "each sample on its own"),
        ({"confidence": lambda logits: logits.amax(-1) * math.nan}, "NaN"),
        ({"confidence": lambda logits: logits.amax(-1) * math.nan, "execution": "masked"}, "NaN"),
        ({"confidence": lambda logits: logits, "execution": "masked"}, r"\[exits, batch\]|each sample"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_predictions_that_cannot_be_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        make_model().predict(make_images(3), 0.5, **options)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.usefixtures("as_users_run_it")
def test_an_empty_batch_and_nan_are_refused(execution):
    with pytest.raises(ValueError, match="at least one sample"):
        make_model().predict(make_images(0), 0.5, execution=execution)
    with pytest.raises(ValueError, match="at least one sample"):
        MultiExit(Counter(), [1], heads=[Total()]).predict(torch.zeros(0, 2), 0.5, execution=execution)
    images = make_images(3)
    images[1, 0, 2, 2] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        make_model().predict(images, 0.5, execution=execution)


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize(
    ("logits", "error", "says"),
    [
        (torch.tensor([[1, 2]]), TypeError, "float"),
        (torch.zeros(0, 3), ValueError, "no logits"),
        (torch.zeros(3, 1), ValueError, "two or more"),
        (torch.tensor([[0.0, math.nan]]), ValueError, "NaN"),
        (torch.tensor([[0.0, math.inf]]), ValueError, r"\+inf"),
        (torch.tensor([[-math.inf, -math.inf]]), ValueError, "-inf throughout"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_logits_without_a_confidence_are_refused(confidence, logits, error, says):
    with pytest.raises(error, match=says):
        confidence(logits)


@pytest.mark.parametrize("confidence", [torch.rand(3), torch.rand(0, 3), torch.rand(3, 0), torch.rand(2, 3, 4)])
@pytest.mark.usefixtures("as_users_run_it")
def test_confidences_of_another_shape_are_refused(confidence):
    with pytest.raises(ValueError, match=r"\[exits, batch\]"):
        exit_index(confidence, 0.5)


@pytest.mark.parametrize(
    ("logits", "labels", "weights", "error", "says"),
    [
        (torch.zeros(2, 3, 4), torch.tensor([0, 1]), "uniform", ValueError, "labels"),
        (torch.zeros(3, 4), torch.tensor([0, 1, 2]), "uniform", ValueError, r"\[exits, batch, classes\]"),
        (torch.zeros(2, 0, 4), torch.zeros(0, dtype=torch.int64), "uniform", ValueError, "none of them 0"),
        (torch.zeros(0, 2, 4), torch.tensor([0, 1]), "uniform", ValueError, "none of them 0"),
        (torch.zeros(2, 1, 4), torch.tensor([4]), "uniform", ValueError, r"0 … 3"),
        (torch.zeros(2, 1, 4), torch.tensor([-100]), "uniform", ValueError, r"0 … 3"),
        (torch.zeros(2, 1, 4), torch.tensor([0.5]), "uniform", TypeError, "int64"),
        (torch.zeros(2, 1, 4, dtype=torch.int64), torch.tensor([0]), "uniform", TypeError, "floating-point"),
        (torch.zeros(2, 1, 4), torch.tensor([0]), "detached", ValueError, "'uniform', 'depth'"),
        (torch.zeros(2, 1, 4), torch.tensor([0]), [1.0], ValueError, "2 numbers"),
        (torch.zeros(2, 1, 4), torch.tensor([0]), [1.0, -0.5], ValueError, "not negative"),
        (torch.zeros(2, 1, 4), torch.tensor([0]), [1.0, math.nan], ValueError, "not negative"),
        (torch.zeros(2, 1, 4), torch.tensor([0]), [1.0, math.inf], ValueError, "not negative"),
        (torch.zeros(2, 1, 4), torch.tensor([0]), [0.0, 0.0], ValueError, "not all 0"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_losses_that_cannot_be_are_refused(logits, labels, weights, error, says):
    with pytest.raises(error, match=says):
        exit_loss(logits, labels, weights=weights)


# Around it


def test_the_exit_of_a_sample_is_the_layer_after_which_it_left():
    model, images = make_model(), make_images(60)
    with record(model, MultiExit) as records:
        for execution in ("gathered", "masked"):
            model.predict(images, 0.8, execution=execution)
    gathered, masked = records[""]
    logits = model(images)
    assert gathered.exit.unique().tolist() == [*EXITS, DEPTH]
    assert torch.equal(gathered.exit, masked.exit)
    index = torch.tensor([model.exits.index(layer) for layer in masked.exit.tolist()])
    assert torch.equal(index, exit_index(max_probability(logits), 0.8))
    assert torch.equal(masked.logits, logits[index, torch.arange(60)])


@pytest.mark.parametrize(
    ("name", "function"),
    [("max_probability", max_probability), ("softmax_diff", margin), ("negative_entropy", negative_entropy)],
)
def test_a_confidence_may_be_given_by_its_name(name, function):
    model, images = make_model(), make_images(40)
    named, given = (model.predict(images, 0.7, confidence=confidence) for confidence in (name, function))
    assert torch.equal(named.exit, given.exit)
    assert torch.equal(named.confidence, given.confidence)


@pytest.mark.usefixtures("as_users_run_it")
def test_rows_are_a_whole_number_of_tokens():
    with pytest.raises(TypeError, match="rows must be an int, a number of tokens"):
        make_model().predict(make_images(2), 0.5, rows=2.5)


@pytest.mark.parametrize("limit", [0.1, 1 / 3, 0.7, 1 + 1e-12])
def test_a_threshold_is_compared_exactly_in_float32(limit):
    near = torch.tensor([limit], dtype=torch.float32)
    confidence = torch.cat([near, near.nextafter(torch.zeros(1)), near.nextafter(torch.full((1,), 2.0))])
    expected = [0 if value >= limit else 1 for value in confidence.tolist()]
    assert exit_index(torch.stack([confidence, confidence]), limit).tolist() == expected


@pytest.mark.usefixtures("as_users_run_it")
def test_arrays_and_lists_are_told_how_to_become_tensors():
    logits, labels = torch.zeros(2, 3, 4), torch.tensor([0, 1, 2])
    for run in (
        lambda: exit_loss(logits, labels.numpy()),
        lambda: exit_loss(logits.numpy(), labels),
        lambda: max_probability(logits.numpy()),
        lambda: exit_index([[0.5]], 0.5),
        lambda: make_model().predict(make_images(2).numpy(), 0.5),
    ):
        with pytest.raises(TypeError, match=r"must be a tensor; got .*torch\.as_tensor"):
            run()


def test_losses_and_confidences_have_gradients_per_sample():
    logits, labels = torch.randn(3, 5, 4, generator=seeded(3)), torch.randint(4, (5,), generator=seeded(4))

    def loss(one: Tensor, label: Tensor) -> Tensor:
        return exit_loss(one[:, None], label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(1, 0))(logits, labels)
    expected = [torch.func.grad(loss)(logits[:, sample], labels[sample]) for sample in range(5)]
    torch.testing.assert_close(each, torch.stack(expected))
    for confidence in CONFIDENCES:
        together = torch.func.vmap(confidence)(logits)
        torch.testing.assert_close(together, confidence(logits))


def test_the_logits_of_all_exits_can_be_exported():
    model, images = make_model(), make_images(3)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images), **EXACT)


def test_gathered_exits_say_that_vmap_shows_them_nothing_and_masked_ones_go():
    model, images = make_model(), make_images(5)

    def predict(image: Tensor, execution: str) -> Tensor:
        return model.predict(image[None], 0.7, execution=execution).logits[0]

    with pytest.raises(RuntimeError, match="use execution='masked'"):
        torch.func.vmap(lambda image: predict(image, "gathered"))(images)
    together = torch.func.vmap(lambda image: predict(image, "masked"))(images)
    torch.testing.assert_close(together, model.predict(images, 0.7).logits, **EXACT)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_another_default_device_changes_nothing(execution):
    model, images = make_model(), make_images(5)
    expected = model.predict(images, 0.7, execution=execution)
    with torch.device("meta"):
        got = model.predict(images, 0.7, execution=execution)
    assert torch.equal(got.logits, expected.logits)
    assert torch.equal(got.exit, expected.exit)


# On a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
@torch.no_grad()
def test_all_of_it_runs_on_a_gpu():
    model, images = make_model().cuda(), make_images(30).cuda()
    assert torch.equal(model.predict(images, 2.0).logits, model.backbone(images))
    gathered, masked = model.predict(images, 0.8), model.predict(images, 0.8, execution="masked")
    assert gathered.exit.is_cuda
    assert torch.equal(gathered.exit, masked.exit)
    torch.testing.assert_close(gathered.logits, masked.logits, **EXACT)
    loss = exit_loss(model(images), torch.zeros(30, dtype=torch.int64, device="cuda"), weights="depth")
    assert loss.is_cuda
