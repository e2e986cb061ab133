"""A-ViT against a loop that sends one image, layer by layer and token by token, through the formulas of the paper."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import ViT
from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.tokens.avit import AdaptiveViT, Halted, depth_prior, depth_prior_loss, ponder_loss

DEPTH, DIM, CLASSES, SIDE, TOKENS = 5, 8, 4, 12, 10
EXACT = {"rtol": 0, "atol": 1e-10}  # for float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_model(*, depth: int = DEPTH, seed: int = 1, dtype: torch.dtype = torch.float64, **options) -> AdaptiveViT:
    torch.manual_seed(seed)
    vit = ViT(image_size=SIDE, patch_size=4, classes=CLASSES, dim=DIM, depth=depth, heads=2).to(dtype).eval()
    for name, p in vit.named_parameters():  # biases small, so that tokens and images differ; none of them 0 or 1
        nn.init.normal_(p, mean=float("norm" in name and name.endswith("weight")), std=1.0 if p.ndim > 1 else 0.1)
    return AdaptiveViT(vit, **{"gamma": 0.4, "beta": -1.5} | options).eval()


def make_images(batch: int, *, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randn(batch, 1, SIDE, SIDE, dtype=dtype, generator=seeded(seed))


def random_mask(batch: int, seed: int, *, depth: int = DEPTH) -> Tensor:
    """Each patch may go through 0 to all layers, the class token through all."""
    allowed = torch.randint(depth + 1, (batch, TOKENS), generator=seeded(seed))
    allowed[:, 0] = depth
    return torch.arange(depth)[:, None] < allowed[:, None, :]


def only_class_token(batch: int, first_layer: int = 0) -> Tensor:
    mask = torch.ones(batch, DEPTH, TOKENS, dtype=torch.bool)
    mask[:, first_layer:, 1:] = False
    return mask


MASKS = {
    "none": lambda batch: None,
    "all may run": lambda batch: torch.ones(batch, DEPTH, TOKENS, dtype=torch.bool),
    "all halted": only_class_token,
    "all halted after two layers": lambda batch: only_class_token(batch, 2),
    **{f"random {seed}": lambda batch, seed=seed: random_mask(batch, seed) for seed in range(4)},
}


def one_by_one(model: AdaptiveViT, image: Tensor, mask: Tensor | None) -> tuple[Tensor, list[int], list[list[float]]]:
    """Logits, N and the halting distribution of one image: tokens are really taken out of a Python list."""
    vit, tokens = model.backbone, dict(enumerate(model.backbone.embed(image[None])[0]))
    layers = len(vit.blocks)
    mask = torch.ones(layers, len(tokens), dtype=torch.bool) if mask is None else mask
    depth, share = [0] * len(tokens), [[0.0] * layers for _ in tokens]
    total, answer = [0.0] * len(tokens), torch.zeros_like(tokens[0])
    tokens = {k: x for k, x in tokens.items() if mask[0, k]}
    for layer, block in enumerate(vit.blocks):
        numbers = list(tokens)
        out = block(torch.stack([tokens[k] for k in numbers])[None])[0]
        tokens = dict(zip(numbers, out, strict=True))
        score = {k: 1 / (1 + math.exp(-(model.gamma * x[0].item() + model.beta))) for k, x in tokens.items()}
        gone = [
            k
            for k in numbers
            if layer == layers - 1 or not mask[layer + 1, k] or total[k] + score[k] >= 1 - model.epsilon
        ]
        gone = numbers if 0 in gone else gone
        for k in numbers:
            share[k][layer] = 1 - total[k] if k in gone else score[k]
            total[k] += score[k]
            depth[k] += 1
        answer = answer + share[0][layer] * tokens[0]
        if 0 in gone:
            break
        for k in gone:
            del tokens[k]
    return vit.readout(answer[None, None])[0], depth, share


def of_all(result: Halted) -> tuple[Tensor, ...]:
    return result.logits, result.depth.double(), result.ponder, result.halting


# Both executions


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
@pytest.mark.parametrize("execution", ["gathered", "masked"])
@torch.no_grad()
def test_every_image_gets_what_a_loop_over_its_tokens_gives(mask, execution):
    model, images = make_model(), make_images(6)
    allowed = mask(6)
    result = model.predict(images, mask=allowed, execution=execution)
    for sample, image in enumerate(images):
        logits, depth, share = one_by_one(model, image, None if allowed is None else allowed[sample])
        torch.testing.assert_close(result.logits[sample], logits, **EXACT)
        torch.testing.assert_close(result.halting[sample].T, torch.tensor(share, dtype=torch.float64), **EXACT)
        assert result.depth[sample].tolist() == depth


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
@pytest.mark.parametrize("rows", [1, 25, 60, 10_000])
@pytest.mark.parametrize("batch", [1, 9])
@torch.no_grad()
def test_gathered_equals_masked(mask, rows, batch):
    for seed in range(3):
        model, images = make_model(seed=seed), make_images(batch, seed=seed + 10)
        gathered = model.predict(images, mask=mask(batch), rows=rows)
        for ours, theirs in zip(of_all(gathered), of_all(model(images, mask=mask(batch))), strict=True):
            torch.testing.assert_close(ours, theirs, **EXACT)


@torch.no_grad()
def test_the_images_of_these_tests_halt_at_many_depths():
    depth = torch.cat([make_model(seed=seed)(make_images(9, seed=seed + 10)).depth for seed in range(3)])
    assert set(depth[:, 1:].flatten().tolist()) == set(range(1, DEPTH + 1))
    assert len(depth[:, 0].unique()) >= 3
    assert len(depth.sum(1).unique()) > 9  # so that lengths differ within a batch


@torch.no_grad()
def test_gathered_runs_fewer_operations_and_masked_does_not():
    model, images = make_model(), make_images(8)
    dense = count(model.backbone, images).flops
    assert count(lambda: model.predict(images, execution="masked")).flops >= dense
    assert count(lambda: model.predict(images)).flops < 0.8 * dense
    few = count(lambda: model.predict(images, mask=only_class_token(8))).flops
    assert few < 0.3 * dense


@pytest.mark.parametrize("at_once", [1, 40, 10_000])
def test_linear_layers_run_for_exactly_the_tokens_that_are_left(at_once):
    model, images = make_model(), make_images(4)
    rows = []
    for block in model.backbone.blocks:
        block.feed_forward.register_forward_hook(lambda module, x, out: rows.append(out.shape[:-1].numel()))
    with torch.no_grad():
        result = model.predict(images, rows=at_once)
    assert sum(rows) == result.depth.sum()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@torch.no_grad()
def test_half_precision_keeps_its_type_in_the_logits_and_counts_in_float32(dtype):
    for execution in ("gathered", "masked"):
        result = make_model(dtype=dtype).predict(make_images(3, dtype=dtype), execution=execution)
        assert result.logits.dtype == dtype
        assert result.ponder.dtype == result.halting.dtype == torch.float32
        torch.testing.assert_close(result.halting.sum(1), torch.ones(3, TOKENS))


# What a halted token is


@pytest.mark.parametrize("noise", [1.0, 1e6])
@torch.no_grad()
def test_halted_tokens_influence_nothing(noise):
    model, images = make_model(), make_images(6)
    before = model(images)
    assert (before.depth[:, 1:] < before.depth[:, :1]).any()

    def disturb(layer: int):
        def hook(module, args):
            (x,) = args
            gone = (before.depth <= layer) & (before.depth[:, :1] > layer)  # layers are numbered from 0 here
            return (x + noise * gone[..., None] * torch.randn(x.shape, dtype=x.dtype, generator=seeded(layer)),)

        return hook

    for layer, block in enumerate(model.backbone.blocks):
        block.register_forward_pre_hook(disturb(layer))
    for ours, theirs in zip(of_all(model(images)), of_all(before), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@torch.no_grad()
def test_patches_that_are_masked_from_the_first_layer_on_are_not_seen(execution):
    model, images = make_model(), make_images(2)
    mask = torch.ones(2, DEPTH, TOKENS, dtype=torch.bool)
    mask[:, :, 1] = False  # the patch at the upper left
    changed = images.clone()
    changed[:, :, :4, :4] += 100
    before, after = (model.predict(x, mask=mask, execution=execution) for x in (images, changed))
    for ours, theirs in zip(of_all(after), of_all(before), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    assert (before.depth[:, 1] == 0).all()
    assert (before.ponder[:, 1] == 0).all()
    assert not torch.allclose(model(changed).logits, model(images).logits)


def test_halted_tokens_stay_as_they_are_although_norms_and_biases_would_move_them():
    model, images, seen = make_model(), make_images(4), []
    for block in model.backbone.blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    depth = model(images).depth
    for layer in range(2, DEPTH):
        gone = depth < layer
        assert gone.any()
        assert torch.equal(seen[layer][gone], seen[layer - 1][gone])


def test_no_input_or_weight_is_written_in_place():
    model, images = make_model(), make_images(3)
    kept, weights = images.clone(), {name: w.clone() for name, w in model.state_dict().items()}
    model(images), model.predict(images)
    assert torch.equal(images, kept)
    assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())


@torch.no_grad()
def test_the_batch_an_image_is_in_does_not_matter():
    model, images = make_model(), make_images(7)
    together = model.predict(images)
    for sample in range(7):
        alone = model.predict(images[sample : sample + 1])
        for ours, theirs in zip(of_all(alone), of_all(together), strict=True):
            torch.testing.assert_close(ours[0], theirs[sample], **EXACT)


# Halting


@pytest.mark.parametrize("seed", range(5))
@torch.no_grad()
def test_halting_is_a_distribution_and_ponder_lies_in_its_range(seed):
    result = make_model(seed=seed)(make_images(8, seed=seed))
    torch.testing.assert_close(result.halting.sum(1), torch.ones(8, TOKENS, dtype=torch.float64), **EXACT)
    assert (result.halting >= 0).all()
    assert (result.ponder > 1).all()
    assert (result.ponder <= DEPTH + 1).all()
    after = torch.arange(1, DEPTH + 1)[:, None] > result.depth[:, None, :]
    assert (result.halting[after] == 0).all()
    last = result.halting.gather(1, result.depth[:, None] - 1)[:, 0]
    torch.testing.assert_close(result.ponder, result.depth + last, **EXACT)


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@torch.no_grad()
def test_scores_of_zero_until_the_last_layer_give_the_plain_backbone(execution):
    model, images = make_model(beta=-1e4), make_images(5)
    result = model.predict(images, execution=execution)
    torch.testing.assert_close(result.logits, model.backbone(images), **EXACT)
    assert (result.depth == DEPTH).all()
    assert (result.ponder == DEPTH + 1).all()


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@torch.no_grad()
def test_scores_of_one_halt_everything_after_the_first_layer(execution):
    model, images = make_model(beta=1e4), make_images(5)
    result = model.predict(images, execution=execution)
    vit = model.backbone
    torch.testing.assert_close(result.logits, vit.readout(vit.blocks[0](vit.embed(images))), **EXACT)
    assert (result.depth == 1).all()
    assert (result.ponder == 2).all()


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@torch.no_grad()
def test_a_sum_that_equals_the_limit_halts(execution):
    model = make_model(gamma=1e-300, beta=0.0, epsilon=0.5)  # every score is one half
    result = model.predict(make_images(2), execution=execution)
    assert (result.depth == 1).all()
    assert (model.predict(make_images(2), execution=execution, epsilon=0.49).depth == 2).all()
    assert (model.predict(make_images(2), execution=execution, epsilon=0.0).depth == 2).all()


@torch.no_grad()
def test_a_larger_feature_halts_no_later():
    model, images = make_model(), make_images(6)
    steeper = make_model(beta=-0.6)
    assert steeper(images).depth[:, 0].sum() < model(images).depth[:, 0].sum()


@torch.no_grad()
def test_the_score_reads_the_first_feature_and_no_other():
    model = make_model(depth=2)
    x = torch.zeros(3, TOKENS, DIM, dtype=torch.float64)
    x[0, :, 0], x[1, :, 1], x[2, :, -1] = 3.0, 3.0, 3.0
    model.backbone.embed = lambda images: x
    for block in model.backbone.blocks:
        block.forward = lambda x, **options: x
    first = model(make_images(3)).halting[:, 0, 0]
    at_rest = 1 / (1 + math.exp(1.5))
    expected = torch.tensor([1 / (1 + math.exp(1.5 - 0.4 * 3)), at_rest, at_rest], dtype=torch.float64)
    torch.testing.assert_close(first, expected, **EXACT)


@torch.no_grad()
def test_the_other_tokens_of_an_image_halt_with_its_class_token():
    model = make_model()
    result = model(make_images(9))
    assert (result.depth <= result.depth[:, :1]).all()
    assert (result.depth[:, 0] < DEPTH).any()


# Gradients and losses


def test_ponder_falls_by_what_each_score_before_halting_rises():
    model, images, scores = make_model(), make_images(4), []
    plain = model._score

    def watched(x):
        scores.append(plain(x).detach().requires_grad_())
        return scores[-1]

    model._score = watched
    result = model(images)
    gradients = torch.autograd.grad(result.ponder.sum(), scores, allow_unused=True)
    for layer, gradient in enumerate(gradients, start=1):
        expected = torch.where(layer < result.depth, -1.0, 0.0).double()
        gradient = torch.zeros_like(expected) if gradient is None else gradient
        torch.testing.assert_close(gradient, expected, **EXACT)
    assert (result.depth > 1).any()


def test_training_on_ponder_alone_makes_tokens_halt_earlier():
    model, images = make_model(), make_images(16)
    before = model(images).depth.double().mean()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(15):
        optimizer.zero_grad()
        ponder_loss(model(images)).backward()
        optimizer.step()
    assert model(images).depth.double().mean() < before - 0.5


def test_the_prior_pulls_the_depth_to_its_target_from_both_sides():
    for beta, target in ((-3.0, 2.0), (1.5, 4.0)):
        model, images = make_model(beta=beta), make_images(16)
        before = model(images)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(25):
            optimizer.zero_grad()
            depth_prior_loss(model(images), target).backward()
            optimizer.step()
        after = model(images)
        assert depth_prior_loss(after, target) < 0.5 * depth_prior_loss(before, target)
        layer = torch.arange(1, DEPTH + 1, dtype=torch.float64)
        means = [(result.halting.mean((0, 2)) @ layer).item() for result in (before, after)]
        assert abs(means[1] - target) < abs(means[0] - target)


def test_every_parameter_before_the_last_layer_hears_of_all_losses():
    model, images = make_model(), make_images(8)
    result = model(images)
    labels = torch.arange(8) % CLASSES
    for loss in (F.cross_entropy(result.logits, labels), ponder_loss(result), depth_prior_loss(result, 3)):
        first = model.backbone.blocks[0].feed_forward.contract.weight
        (gradient,) = torch.autograd.grad(loss, first, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_gradients_are_finite_where_a_layer_is_reached_by_nobody():
    model, images = make_model(beta=1e3), make_images(3)
    result = model(images)
    assert (result.halting[:, 2:] == 0).all()
    (ponder_loss(result) + depth_prior_loss(result, 3) + result.logits.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("target", [1, 2.5, 6, 12])
@pytest.mark.parametrize("deviation", [0.01, 0.7, 1, 50])
def test_the_prior_is_a_distribution_around_its_target(target, deviation):
    prior = depth_prior(12, target, deviation=deviation)
    assert prior.sum().item() == pytest.approx(1, abs=1e-12)
    assert (prior >= 0).all()
    assert abs(prior.argmax().item() + 1 - target) <= 0.5
    if deviation == 1 and target == 6:
        weights = [math.exp(-((layer - 6) ** 2) / 2) for layer in range(1, 13)]
        assert prior.tolist() == pytest.approx([w / sum(weights) for w in weights], abs=1e-12)


def halted(halting: Tensor) -> Halted:
    """A result with this halting distribution [batch, layers, tokens]."""
    batch = len(halting)
    depth = (halting > 0).sum(1)
    return Halted(torch.zeros(batch, CLASSES), depth, depth + (depth > 0).to(halting), halting)


def test_the_prior_loss_is_the_divergence_of_the_mean_from_the_prior():
    halting = torch.rand(3, 4, 7, dtype=torch.float64, generator=seeded()).softmax(1)
    mean, prior = [halting[:, layer].mean().item() for layer in range(4)], depth_prior(4, 2, deviation=0.8).tolist()
    by_hand = sum(h * math.log(h / q) for h, q in zip(mean, prior, strict=True))
    other_way = sum(q * math.log(q / h) for h, q in zip(mean, prior, strict=True))
    assert depth_prior_loss(halted(halting), 2, deviation=0.8).item() == pytest.approx(by_hand, abs=1e-12)
    assert abs(by_hand - other_way) > 1e-3


def test_the_prior_loss_is_zero_at_the_prior_and_positive_elsewhere():
    same = depth_prior(6, 2.5)[None, :, None].expand(2, 6, 3)
    assert depth_prior_loss(halted(same), 2.5).item() == pytest.approx(0, abs=1e-12)
    assert depth_prior_loss(halted(same.flip(1)), 2.5).item() > 0.1


def test_both_losses_count_every_token_of_every_image_and_none_that_was_not_there():
    halting = torch.zeros(2, 3, 4, dtype=torch.float64)
    halting[:, 0] = 1
    halting[0, :, 0] = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)  # token 0 of sample 0 counts like any other
    result = halted(halting)
    assert ponder_loss(result).item() == pytest.approx((4 + 7 * 2) / 8)
    halting[1, :, 3] = 0  # not there
    result = halted(halting)
    assert ponder_loss(result).item() == pytest.approx((4 + 6 * 2) / 7)
    prior = depth_prior(3, 2).tolist()
    mean = [(0.2 + 6) / 7, 0.3 / 7, 0.5 / 7]
    by_hand = sum(h * math.log(h / q) for h, q in zip(mean, prior, strict=True))
    assert depth_prior_loss(result, 2).item() == pytest.approx(by_hand, abs=1e-12)


# It is made from what is there


def test_it_uses_the_backbone_and_adds_no_parameters():
    model = make_model()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.backbone.parameters())
    assert AdaptiveViT(model.backbone).backbone is model.backbone


# Bad input

pytestmark_users = pytest.mark.usefixtures("as_users_run_it")


@pytestmark_users
@pytest.mark.parametrize("epsilon", [-0.01, 1.0, 2.0, math.nan, math.inf])
def test_a_threshold_out_of_range_is_an_error(epsilon):
    model = make_model()
    for call in (
        lambda: AdaptiveViT(model.backbone, epsilon=epsilon),
        lambda: model(make_images(1), epsilon=epsilon),
        lambda: model.predict(make_images(1), epsilon=epsilon),
    ):
        with pytest.raises(ValueError, match="epsilon must"):
            call()


@pytestmark_users
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"gamma": 0.0}, ValueError),
        ({"gamma": -1.0}, ValueError),
        ({"gamma": math.nan}, ValueError),
        ({"beta": math.inf}, ValueError),
        ({"beta": "low"}, TypeError),
        ({"epsilon": True}, TypeError),
        ({"gamma": None}, TypeError),
    ],
)
def test_settings_that_make_no_score_are_errors(options, error):
    with pytest.raises(error, match=next(iter(options))):
        make_model(**options)


@pytestmark_users
def test_a_backbone_that_is_no_vit_or_has_no_layers_is_an_error():
    with pytest.raises(TypeError, match=r"must be a dynlib\.backbone\.ViT; got Linear"):
        AdaptiveViT(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no layers"):
        make_model(depth=0)


def without_class_token(mask: Tensor) -> Tensor:
    mask[1, 3:, 0] = False
    return mask


def with_a_return(mask: Tensor) -> Tensor:
    mask[0, 1, 4] = False
    return mask


@pytestmark_users
@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (without_class_token, ValueError, "drops a class token"),
        (with_a_return, ValueError, "lets a token return"),
        (lambda mask: mask[:1], ValueError, r"mask must be \[batch, layers, tokens\] = \(2, 5, 10\); got \(1, 5, 10\)"),
        (lambda mask: mask.transpose(1, 2), ValueError, "mask must be"),
        (lambda mask: mask.float(), TypeError, "mask must be bool"),
    ],
)
@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_a_mask_that_cannot_be_is_an_error(spoil, error, message, execution):
    mask = spoil(torch.ones(2, DEPTH, TOKENS, dtype=torch.bool))
    with pytest.raises(error, match=message):
        make_model().predict(make_images(2), mask=mask, execution=execution)


@pytestmark_users
@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_images_that_are_empty_not_finite_or_whole_numbers_are_errors(execution):
    model, spoilt = make_model(), make_images(2)
    with pytest.raises(ValueError, match="images must be"):
        model.predict(make_images(0), execution=execution)
    with pytest.raises(TypeError, match="floating-point"):
        model.predict(make_images(2).long(), execution=execution)
    for value in (math.nan, math.inf):
        spoilt[1, 0, 3, 3] = value
        with pytest.raises(ValueError, match="the images hold NaN"):
            model.predict(spoilt, execution=execution)


@pytestmark_users
@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_a_score_that_is_nan_is_an_error(execution):
    model = make_model()
    with torch.no_grad():
        model.backbone.blocks[0].feed_forward.contract.bias[0] = math.nan
    with pytest.raises(ValueError, match="score after layer 1 is NaN"):
        model.predict(make_images(2), execution=execution)


@pytestmark_users
def test_a_block_that_cannot_run_packed_is_an_error_that_names_the_way_out():
    class Foreign(torch.nn.Module):
        def forward(self, x, *, key_mask=None):
            return x

    model = make_model()
    model.backbone.blocks[1] = Foreign()
    with pytest.raises(TypeError, match="Foreign has not: use execution='masked'"):
        model.predict(make_images(2))
    assert model.predict(make_images(2), execution="masked").depth.shape == (2, TOKENS)


@pytestmark_users
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"execution": "dense"}, ValueError),
        ({"execution": "fused"}, ValueError),
        ({"rows": 0}, ValueError),
        ({"rows": 2.0}, TypeError),
        ({"rows": True}, TypeError),
    ],
)
def test_an_unknown_execution_or_number_of_rows_is_an_error(options, error):
    with pytest.raises(error, match=next(iter(options))):
        make_model().predict(make_images(2), **options)


@pytestmark_users
@pytest.mark.parametrize("knob", [{"epsilon": 1.5}, {"gamma": -1.0}, {"beta": math.nan}])
def test_a_knob_is_checked_whenever_the_model_is_used(knob):
    model, images = make_model(), make_images(2)
    before = {name: getattr(model, name) for name in AdaptiveViT.knobs}
    with pytest.raises(ValueError, match=next(iter(knob))), setting(model, AdaptiveViT, **knob):
        pytest.fail("the setting was taken")
    assert {name: getattr(model, name) for name in AdaptiveViT.knobs} == before
    for name, value in knob.items():
        setattr(model, name, value)
    for call in (model, model.predict):
        with pytest.raises(ValueError, match=next(iter(knob))):
            call(images)


@torch.no_grad()
def test_epsilon_is_set_for_a_while_and_what_happened_is_recorded():
    model, images = make_model(), make_images(5)
    with record(model, AdaptiveViT) as records:
        with setting(model, AdaptiveViT, epsilon=0.5):
            early, gathered = model(images), model.predict(images)
        late = model(images)
    assert records[""] == [early, gathered, late]
    assert torch.equal(early.depth, model(images, epsilon=0.5).depth)
    assert torch.equal(early.depth, gathered.depth)
    assert early.depth.sum() < late.depth.sum()


@pytest.mark.parametrize("mask", [False, True])
def test_the_masked_execution_can_be_exported(mask):
    model, images = make_model(), make_images(3)
    options = {}
    if mask:
        options["mask"] = torch.ones(3, len(model.backbone.blocks), TOKENS, dtype=torch.bool)
        options["mask"][:, 1:, -1] = False
    exported = torch.export.export(model, (images,), options).module()
    for got, expected in zip(exported(images, **options), model(images, **options), strict=True):
        torch.testing.assert_close(got, expected, **EXACT)


@pytestmark_users
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((6, 0.5, 1.0), ValueError),
        ((6, 6.5, 1.0), ValueError),
        ((6, math.nan, 1.0), ValueError),
        ((6, 3, 0.0), ValueError),
        ((6, 3, -1.0), ValueError),
        ((0, 1, 1.0), ValueError),
        ((6.0, 3, 1.0), TypeError),
        ((6, "3", 1.0), TypeError),
    ],
)
def test_a_prior_that_is_none_is_an_error(arguments, error):
    layers, target, deviation = arguments
    with pytest.raises(error):
        depth_prior(layers, target, deviation=deviation)


@pytestmark_users
def test_losses_of_nothing_or_of_nan_are_errors():
    nothing = halted(torch.zeros(2, 3, 4))
    broken = halted(torch.full((2, 3, 4), 1 / 3))
    broken.halting[0, 0, 0] = math.nan
    broken.ponder[0, 0] = math.nan
    for loss in (ponder_loss, lambda result: depth_prior_loss(result, 2)):
        with pytest.raises(ValueError, match="no token"):
            loss(nothing)
        with pytest.raises(ValueError, match="NaN"):
            loss(broken)
