"""Tokens that halt: the order of the features is free, and what is said of the shipped model's depths is so."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.avit_study import Thinned, as_many, with_ink
from dynlib.backbone import ViT
from dynlib.data import cluttered_digits
from dynlib.tokens import AdaptiveViT
from dynlib.zoo import card, load
from dynlib.zoo.recipes import recipe
from dynlib.zoo.recipes.avit import FEATURE, digits_avit_loss, swap_features
from dynlib.zoo.scores import depth_auc, digit_patches


def test_swapping_two_features_changes_no_answer_and_swaps_them_after_every_layer() -> None:
    torch.manual_seed(0)
    model = ViT(image_size=8, patch_size=4, classes=3, dim=8, depth=2, heads=2).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    swapped = copy.deepcopy(model)
    swap_features(swapped, 1, 6)
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    x, y, order = model.embed(images), swapped.embed(images), torch.tensor([0, 6, 2, 3, 4, 5, 1, 7])
    for block, other in zip(list(model.blocks), list(swapped.blocks), strict=True):
        torch.testing.assert_close(y, x[..., order], rtol=0, atol=1e-10)
        x, y = block(x), other(y)
    torch.testing.assert_close(y, x[..., order], rtol=0, atol=1e-10)
    torch.testing.assert_close(swapped.readout(y), model.readout(x), rtol=0, atol=1e-10)
    assert not torch.equal(swapped.head.weight, model.head.weight)
    swap_features(swapped, 1, 6)
    assert all(torch.equal(a, b) for a, b in zip(swapped.parameters(), model.parameters(), strict=True))


def test_a_patch_is_the_digits_if_a_single_pixel_of_it_is() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 3, 4] = masks[1, 7, 0] = True
    assert digit_patches(masks).tolist() == [[False, True, False, False], [False, False, True, False]]


@pytest.mark.parametrize("most", [1, 3, 7])
def test_the_auc_is_that_of_all_pairs_and_a_tie_counts_half(most: int) -> None:
    generator = torch.Generator().manual_seed(most)
    depth = torch.randint(most, (3, 11), generator=generator)
    digit = torch.rand(3, 11, generator=generator) < 0.3
    pairs = [(a, b) for a in depth[digit].tolist() for b in depth[~digit].tolist()]
    expected = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert depth_auc(depth, digit) == pytest.approx(expected, abs=1e-12)
    assert depth_auc(depth, ~digit) == pytest.approx(1 - expected, abs=1e-12)


@pytest.mark.parametrize("value", [False, True])
def test_an_auc_of_patches_of_one_kind_is_refused(value: bool) -> None:
    with pytest.raises(ValueError, match="need patches of both kinds; got"):
        depth_auc(torch.arange(4), torch.full((4,), value))


def test_the_feature_that_tokens_halt_by_is_the_one_that_the_study_chose() -> None:
    study = json.loads((Path(__file__).parents[2] / "benchmarks/avit_study.json").read_text(encoding="utf-8"))
    assert study["features"]["chosen"] == FEATURE


@torch.no_grad()
def test_the_loss_is_that_of_the_plain_model_plus_the_ponder_on_the_same_images() -> None:
    torch.manual_seed(0)
    model = recipe("digits_avit").build(**recipe("digits_avit").config)
    assert isinstance(model, AdaptiveViT)
    model.beta = -1000.0  # nobody halts: the answer is the plain model's, and the ponder 7
    plain = digits_avit_loss(model.backbone, ponder=0.5, stream=1)
    halting = digits_avit_loss(model, ponder=0.5, stream=1)
    assert halting(3).item() == pytest.approx(plain(3).item() + 0.5 * 7, abs=1e-4)
    assert plain(3).item() != digits_avit_loss(model.backbone, ponder=0.5, stream=2)(3).item()


@torch.no_grad()
def test_a_rule_in_the_place_of_the_scores_gives_what_halting_after_layer_1_by_a_mask_gives() -> None:
    vit, images = load("digits_vit"), cluttered_digits(40, split="train", seed=7).images
    assert isinstance(vit, ViT)
    blocks = len(vit.blocks)
    stays = torch.nn.functional.pad(with_ink(images), (1, 0), value=True)
    mask = stays[:, None].expand(-1, blocks, -1).clone()
    mask[:, 0] = True
    halted = AdaptiveViT(vit, beta=-1e4)(images, mask=mask)
    torch.testing.assert_close(Thinned(vit, with_ink)(images), halted.logits, atol=1e-4, rtol=0)
    assert set(halted.depth.unique().tolist()) == {1, blocks}


def test_as_many_patches_of_each_image_as_have_ink_are_drawn_and_not_the_same_ones() -> None:
    images = cluttered_digits(40, split="train", seed=7).images
    drawn = as_many(images, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.sum(1), with_ink(images).sum(1))
    assert (drawn & with_ink(images)).sum() < 0.7 * drawn.sum()


@torch.no_grad()
def test_the_shipped_model_is_as_good_as_its_card_says() -> None:
    count, figures = 1000, card("digits_avit")["figures"]
    drawn, model = cluttered_digits(count, split="test", seed=1), load("digits_avit")
    assert isinstance(model, AdaptiveViT)
    results = [model.predict(images) for images in drawn.images.split(250)]
    right = (torch.cat([result.logits for result in results]).argmax(-1) == drawn.labels).double().mean().item()
    depth, digit = torch.cat([result.depth[:, 1:] for result in results]), digit_patches(drawn.masks)
    said = figures["test_accuracy"]
    # five standard deviations of the difference of two samples: a false alarm in 6e-7 of seeds
    assert abs(right - said) <= 5 * math.sqrt(said * (1 - said) * (1 / count + 1 / figures["test_images"]))
    assert depth.double().mean().item() == pytest.approx(figures["test_layers_of_a_patch"], abs=0.15)
    assert depth_auc(depth, digit) == pytest.approx(figures["test_auc_of_the_depth_for_the_digit"], abs=0.02)
    assert figures["test_layers_of_a_patch"] < 4
    assert figures["test_auc_of_the_depth_for_the_digit"] > 0.7
