"""The study of tokens that halt in a hatched canvas: its rules, its gradients, its file."""

import pytest
import torch
from torch.nn import functional as F

import benchmarks.avit_hatched_study as study
from benchmarks.claim import load as results
from dynlib.backbone import ViT
from dynlib.data import hatched_digits
from dynlib.tokens import AdaptiveViT
from dynlib.zoo.scores import digit_patches


def small(kind: type[AdaptiveViT] = AdaptiveViT, *, depth: int = 3, beta: float = 0.0) -> AdaptiveViT:
    torch.manual_seed(0)
    vit = ViT(image_size=24, patch_size=4, classes=10, dim=16, depth=depth, heads=2).double()
    for block in vit.blocks:
        torch.nn.init.normal_(block.attention.query_key_value.weight, std=0.5)
    return kind(vit, gamma=2.0, beta=beta)


def images(number: int = 4) -> torch.Tensor:
    return hatched_digits(number, seed=2).images.double()


@pytest.mark.parametrize("rule", ["ink", "random", "told"])
def test_a_rule_keeps_as_many_patches_in_each_image(rule: str) -> None:
    batch, generator = hatched_digits(50, seed=1), torch.Generator().manual_seed(0)
    for patches in (1, 12, 36):
        assert study.stays(rule, batch, patches, generator).sum(1).tolist() == [patches] * 50


def test_the_ink_rule_keeps_the_blackest_patches_and_who_is_told_keeps_all_of_the_digit() -> None:
    batch, generator = hatched_digits(50, seed=1), torch.Generator().manual_seed(0)
    ink, digit = F.avg_pool2d(batch.images, 4).flatten(1), digit_patches(batch.masks)
    kept = study.stays("ink", batch, 12, generator)
    for values, stays in zip(ink, kept, strict=True):
        assert values[stays].min() >= values[~stays].max()
    assert (study.stays("told", batch, 12, generator) | ~digit).all()
    drawn = [study.stays("random", batch, 12, generator) for _ in range(2)]
    assert not torch.equal(*drawn)
    with pytest.raises(ValueError, match="rule must be"):
        study.stays("inc", batch, 12, generator)


def test_what_is_heard_changes_no_number() -> None:
    plain, heard = small(), small(study.Heard)
    one, other = plain(images()), heard(images())
    assert one.depth.unique().numel() > 1
    assert torch.equal(one.depth, other.depth)
    for field in ("logits", "ponder", "halting"):
        torch.testing.assert_close(getattr(one, field), getattr(other, field), rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(heard(images()).logits, other.logits, rtol=0, atol=1e-12)


def gradient(model: AdaptiveViT) -> torch.Tensor:
    """Of the cross-entropy with respect to the scores of the patches after layer 1, [batch, patches]."""
    scores, own = [], model._score

    def kept(x: torch.Tensor) -> torch.Tensor:
        scores.append(own(x))
        return scores[-1]

    model._score = kept  # type: ignore[method-assign]
    loss = F.cross_entropy(model(images()).logits, torch.arange(4))
    (slope,) = torch.autograd.grad(loss, scores[0])
    return slope[:, 1:]


def test_the_cross_entropy_reaches_the_scores_of_patches_only_where_they_are_heard() -> None:
    assert gradient(small(beta=-3.0)).abs().max() == 0
    assert (gradient(small(study.Heard, beta=-3.0)) != 0).all()


def test_a_score_has_the_gradient_of_a_key_that_loses_weight() -> None:
    """The slope of the loss as the logits of a key fall in layer 2 is that of the key's score after layer 1."""
    model, delta, patch = small(depth=2, beta=-3.0), 1e-5, 5
    assert set(model(images()).depth.unique().tolist()) == {2}, "nobody may halt for this to be the same function"

    def loss(less: float) -> torch.Tensor:
        first, second = model.backbone.blocks
        x = first(model.backbone.embed(images()))
        keys = torch.zeros(x.shape[:2], dtype=x.dtype)
        keys[:, 1 + patch] = -less
        share = model._score(x)[:, :1]
        answer = share * x[:, 0] + (1 - share) * study._biased(second, x, keys)[:, 0]
        return F.cross_entropy(model.backbone.readout(answer[:, None]), torch.arange(4))

    with torch.no_grad():
        slope = (loss(delta) - loss(-delta)) / (2 * delta)
    heard = gradient(small(study.Heard, depth=2, beta=-3.0))
    torch.testing.assert_close(heard[:, patch].sum(), slope, rtol=1e-5, atol=1e-10)


def test_the_rules_may_keep_the_fewest_patches_that_cost_as_much() -> None:
    vit = small().backbone.float()
    one = hatched_digits(1)
    dense = study.flops(vit, one)
    kept = study.least_patches(vit, 0.6)
    cost = [study.flops(study.Ruled(vit, "ink", patches, 0), one) / dense for patches in (kept - 1, kept)]
    assert cost[0] < 0.6 <= cost[1]


def test_the_auc_from_so_many_pixels_leaves_out_what_has_fewer() -> None:
    depth, pixels = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0, 8, 0, 2]])
    assert study._auc_from(1, depth, pixels) == 0.75
    assert study._auc_from(4, depth, pixels) == 0.5


def test_the_file_has_every_arm_with_every_seed_and_the_rules_cost_no_less() -> None:
    rows = results("avit_hatched_study")["runs"]
    seeds = {row["seed"] for row in rows}
    for seed in seeds:
        share = {row["arm"]: row["share of FLOPs"] for row in rows if row["seed"] == seed}
        assert list(share) == list(study.ARMS)
        assert min(share[rule] for rule in ("ink", "random", "told")) >= max(share[arm] for arm in study.MATCHED)
