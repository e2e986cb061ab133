"""A-ViT: every token of an image says by itself when it has been through enough layers, and is then gone.

After layer l the first feature of token k, which the network has anyway, is also its halting score

    h_k^l = σ(γ · x_k^l[0] + β),    h_k^L = 1 after the last layer,

and the token halts after layer

    N_k = min { n : Σ_{l ≤ n} h_k^l ≥ 1 − ε },    with the remainder  R_k = 1 − Σ_{l < N_k} h_k^l.

So each token has a distribution over the layers: p_k^l is h_k^l before N_k, R_k at N_k, and 0 after. The answer is
read from the class token's mixture Σ_l p_c^l x_c^l, and the *ponder* ρ_k = N_k + R_k is what a token pays. N has no
gradient; ∂ρ/∂h^l = −1 for l < N, so that a lower ponder means higher scores early on.

A halted token is nobody's key, and stays as it is. The class token is never removed from an image that still runs; once
it has halted, nothing can change the answer any more, and what is left of its image halts with it.

The clock that all this runs by, and the losses on it, stand in :mod:`dynlib.tokens.halting`.

Source: arXiv:2112.07658; the scores add up as in arXiv:1603.08983.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynlib.backbone import Block, ViT
from dynlib.deciding import Execution, check_execution, chosen, report
from dynlib.inputs import check_number, check_tensor, check_whole, widen
from dynlib.tokens.halting import Clock, Halted, depth_prior, depth_prior_loss, ponder_loss
from dynlib.transforms import look

__all__ = ["AdaptiveViT", "Halted", "depth_prior", "depth_prior_loss", "ponder_loss"]


class AdaptiveViT(nn.Module):
    """A vision transformer whose tokens halt, each at a depth of its own. It has no parameters but the backbone's.

    The backbone is used, not copied: what trains here trains there. Scores and ponder are in float32, or float64 if the
    model is.

    Args:
        backbone: a trained :class:`dynlib.backbone.ViT` with at least one layer.
        gamma: γ, how steeply the score follows the feature; positive.
        beta: β, the score's offset: the more negative, the deeper the tokens go before training.
        epsilon: ε, how far from 1 the sum of the scores is enough; from 0 to below 1. A larger one spends less.

    γ, β and ε are knobs (:func:`dynlib.deciding.setting`): attributes that may be changed, and are checked whenever the
    model is used. Its records (:func:`dynlib.deciding.record`) are :class:`Halted`, in which layers count from 1.

    Raises:
        TypeError: if the backbone is no ViT, or one of the others no number.
        ValueError: if the backbone has no layers or a distillation head, γ is not positive and finite, β not finite, or
            ε outside [0, 1).
    """

    knobs = ("gamma", "beta", "epsilon")
    reports = Halted

    def __init__(
        self, backbone: ViT, *, gamma: float | int = 5.0, beta: float | int = -10.0, epsilon: float | int = 0.01
    ) -> None:
        super().__init__()
        if not isinstance(backbone, ViT):
            raise TypeError(f"the backbone must be a dynlib.backbone.ViT; got {type(backbone).__name__}")
        if len(backbone.blocks) == 0:
            raise ValueError("the backbone has no layers, so that there is nothing to halt in")
        if backbone.distillation_head is not None:
            raise ValueError(
                "the backbone reads its answer from two tokens, and here one mixture is read, that of the class token: "
                "take a ViT without a distillation head"
            )
        self.backbone = backbone
        self.gamma, self.beta, self.epsilon = gamma, beta, epsilon
        self.check_knobs()

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for a knob that is not as the class says."""
        check_number("gamma", self.gamma, least=0, open=True)  # a larger feature means to halt earlier
        check_number("beta", self.beta)
        _check_epsilon(self.epsilon)

    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        *,
        mask: Bool[Tensor, "batch layers tokens"] | None = None,
        epsilon: float | int | None = None,
    ) -> Halted:
        """Everything computed and halted tokens masked, with gradients: for training.

        Args:
            images: as the backbone takes them; at least one.
            mask: True where a token may go through a layer, [batch, layers, tokens], the class token first. A token
                goes no further than its mask lets it, and halts there if it has not before. All may if left out.
            epsilon: another ε than the model's.

        Raises:
            TypeError: if the mask is not bool, the images not floating-point, or ε no number.
            ValueError: if the batch is empty, the images have another size or are not finite, the mask has another
                shape, drops the class token, or lets a token return, ε is outside [0, 1), or a score is NaN.
        """
        x, clock = self._start(images, mask, epsilon)
        answer = torch.zeros_like(x[:, 0])
        for layer, block in enumerate(self.backbone.blocks):
            running = clock.running
            x = torch.where(running[..., None], block(x, key_mask=_seen(running)), x)
            p = clock.tick(layer, self._score(x))
            answer = answer + p[:, :1].to(x.dtype) * x[:, 0]
        halted = clock.result(self.backbone.readout(answer[:, None]))
        report(self, halted)
        return halted

    @torch.no_grad()
    def predict(
        self,
        images: Float[Tensor, "batch channels height width"],
        *,
        mask: Bool[Tensor, "batch layers tokens"] | None = None,
        epsilon: float | int | None = None,
        execution: Execution = "gathered",
        rows: int = 1024,
    ) -> Halted:
        """The same without gradients. Put the model in evaluation mode first, if it has dropout.

        Args:
            images, mask, epsilon: as in :meth:`forward`.
            execution: "gathered": halted tokens are taken out, and images leave once their class token has halted. What
                is left lies end to end, images with more tokens first, so that nothing fills up the shorter ones
                (:meth:`dynlib.backbone.Block.packed`). "masked": :meth:`forward`. They agree up to rounding.
            rows: at most so many tokens go through a layer at a time, but always a whole image: few enough to stay in a
                cache.

        Raises:
            TypeError, ValueError: as :meth:`forward` does, and for an execution of another name, ``rows`` below 1, or
                blocks that do not know how to run packed.
        """
        check_execution(execution)
        check_whole("rows", rows, least=1, what="tokens")
        if execution == "masked":
            return self(images, mask=mask, epsilon=epsilon)
        for block in self.backbone.blocks:
            if not callable(getattr(block, "packed", None)):
                raise TypeError(
                    "gathered needs blocks with packed(x, lengths), as dynlib.backbone.Block has; "
                    f"{type(block).__name__} has not: use execution='masked'"
                )
        x, clock = self._start(images, mask, epsilon)
        batch, tokens, _ = x.shape
        answer = torch.zeros_like(x[:, 0])
        left, scores = x.flatten(0, 1), widen(x.new_zeros(batch * tokens))
        place = torch.arange(batch * tokens, device=x.device)  # where in left a token's features lie
        for layer, block in enumerate(cast(Iterable[Block], self.backbone.blocks)):
            running, lengths = _longest_first(clock.running)
            # an image's class token is its first
            first = torch.tensor([0, *accumulate(lengths)][:-1], device=x.device)
            pieces = [
                block.packed(left.index_select(0, place[some]), sizes)
                for some, sizes in zip(*_pieces(running, lengths, rows), strict=True)
            ]
            left = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
            place = place.index_put((running,), torch.arange(len(running), device=x.device))
            scores = scores.index_put((running,), self._score(left))
            p = clock.tick(layer, scores.view(batch, tokens))
            image = running[first] // tokens
            answer = answer.index_add(0, image, p[image, :1].to(left.dtype) * left[first])
            if not clock.running.any():
                break
        halted = clock.result(self.backbone.readout(answer[:, None]))
        report(self, halted)
        return halted

    def _score(self, x: Tensor) -> Tensor:
        # h = σ(γ · x[0] + β)
        return (self.gamma * widen(x[..., 0]) + self.beta).sigmoid()

    def _start(self, images: Tensor, mask: Tensor | None, epsilon: float | int | None) -> tuple[Tensor, Clock]:
        self.check_knobs()
        check_tensor(images, "the images")
        if images.is_floating_point():
            look(_check_finite, images)
        x = self.backbone.embed(images)
        layers = len(self.backbone.blocks)
        allowed = x.new_ones(x.shape[0], layers, x.shape[1], dtype=torch.bool)
        if mask is not None:
            _check_mask(mask, allowed.shape)
            allowed = mask.to(x.device)
        return x, Clock(allowed, _check_epsilon(self.epsilon if epsilon is None else epsilon), widen(x).dtype)


def _seen(running: Tensor) -> Tensor:
    """The keys of a masked layer. Rows of images that are done may look at anything: nobody reads them."""
    return running | ~running[:, :1]


def _longest_first(running: Tensor) -> tuple[Tensor, list[int]]:
    """The tokens that run, image by image and each in its order, and how many each image has; longer images first."""
    lengths = running.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    numbers = torch.arange(running.numel(), device=running.device).view_as(running)
    return numbers[order].flatten()[chosen(running[order])], lengths[order][: int((lengths > 0).sum())].tolist()


def _pieces(running: Tensor, lengths: list[int], rows: int) -> tuple[list[Tensor], list[list[int]]]:
    """Whole images, at most so many tokens at a time or one image."""
    sizes: list[list[int]] = []
    for length in lengths:
        if sizes and sum(sizes[-1]) + length <= rows:
            sizes[-1].append(length)
        else:
            sizes.append([length])
    return list(running.split([sum(some) for some in sizes])), sizes


def _check_finite(images: Tensor) -> None:
    if not images.isfinite().all():
        raise ValueError("the images hold NaN or infinity: clean them first, as one such pixel spoils its image")


def _check_epsilon(epsilon: object) -> float:
    value = check_number("epsilon", epsilon)
    if not 0 <= value < 1:
        raise ValueError(f"epsilon must lie in [0, 1): a token halts when its scores reach 1 − epsilon; got {epsilon}")
    return value


def _check_mask(mask: Tensor, expected: torch.Size) -> None:
    check_tensor(mask, "mask")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, True where a token may go through a layer; got {mask.dtype}")
    if mask.shape != expected:
        raise ValueError(f"mask must be [batch, layers, tokens] = {tuple(expected)}; got {tuple(mask.shape)}")
    look(_check_kept, mask)


def _check_kept(mask: Tensor) -> None:
    if not mask[..., 0].all():
        raise ValueError("the mask drops a class token, token 0, which the answer is read from: keep it in all layers")
    if (mask[..., 1:, :] & ~mask[..., :-1, :]).any():
        raise ValueError("the mask lets a token return: once False for a token, it must be False in all later layers")
