"""Mixture of depths: a block runs for the k tokens of a sequence that it would rather have, and all others pass by.

A router gives every token one number, r = wᵀx, and the block takes the k largest of the sequence ("expert choice"):

    x′ᵢ = rᵢ · Δ(X̃)ᵢ + xᵢ   if i is among the k,   else   x′ᵢ = xᵢ.

X̃ are the k tokens alone, in their order and at their true positions; Δ is what the block *adds*, attention and
feed-forward part without the residual around the whole. An unrouted token is no key either. The weight r stands on the
path, because it is the only way for the router to learn: who is among the k has no gradient.

k is fixed before the text is seen, so that the cost is. The price: whether a token is among the k depends on those
*after* it, which a model that writes does not know yet. For that there is causal routing, by something that a token
says of itself alone: either r > 0, if a loss taught the router that this is where the k begin (:func:`routing_loss`),
or a small predictor beside it, which reads but does not touch (:func:`predictor_loss`). Then the number of tokens is no
longer fixed, and the samples of a batch have different ones.

Source: arXiv:2404.02258, Eq. 1 and section 3.5.
"""

import math
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import LayerCache, RMSNorm
from dynlib.deciding import Execution, check_execution, chosen, recorded, report
from dynlib.inputs import check_features, check_key_mask, check_name, check_whole, spread_positions, widen
from dynlib.tokens.routing import Routed, check_capacity, expert_choice, kept
from dynlib.transforms import look

Routing = Literal["top_k", "random", "gaussian", "threshold", "predictor"]
Weight = Literal["linear", "sigmoid"]

ROUTINGS = ("top_k", "random", "gaussian", "threshold", "predictor")
DRAWN = ("random", "gaussian")  # the two controls, in which the router has no say in who runs


class MixtureOfDepths(nn.Module):
    """A block that runs for some tokens of every sequence; the others keep their state, bit for bit.

    To take the place of a block in a model: ``model.blocks[1] = MixtureOfDepths(model.blocks[1], 0.125)``.

    Args:
        block: has ``update(x, *, positions, cache)``, what it adds to the tokens without the residual around it, as
            :class:`dynlib.backbone.Block` has. It is used, not copied.
        capacity: share of the tokens that run, in (0, 1]; :meth:`kept` gives their number. A larger one spends more.
        weight: what Δ is multiplied by. "linear": r itself, as in the paper; a negative r subtracts. "sigmoid": σ(r).
        routing: who runs. "top_k": the k largest r of the sequence. "threshold": those with r > 0. "predictor": those
            whom the predictor gives more than even odds. These two are causal, and run as many as it happens to be.
            Two controls: "random": any k, and the weight is still the router's, so that it learns how much but not
            who; "gaussian": the k largest of numbers drawn from a normal distribution, which are the weights too, so
            that nothing is learned of either.
        execution: "gathered" computes the routed tokens alone. "masked" computes all and takes what was routed, and is
            there to be compared with, and to be exported.
        predictor: have one, a layer of dim / 4 hidden units.
        dim: features of a token; that of ``block.norm1`` if left out.
        generator: for random routing.
        in_place: gathered execution may write into the tokens that it is given, and does so where no gradients are
            recorded and they lie in one piece. It saves a copy of all that pass by, and is right where nobody needs the
            layer's input any more, as in a plain stack of layers without hooks that keep it.

    Capacity, weight, routing and execution are knobs (:func:`dynlib.deciding.setting`): attributes that may be changed,
    and are checked whenever the layer is used. Its records (:func:`dynlib.deciding.record`) are
    :class:`dynlib.tokens.routing.Routed`.

    Given a cache, tokens are routed causally, as those to come cannot be ranked: by the predictor if there is one and
    by threshold if not, unless ``routing`` is causal already. The cache then holds what was routed and nothing else;
    where samples route differently, position -1 in it marks nobody.

    Raises:
        TypeError: if the block has no such ``update``, or no dim can be seen and none is given.
        ValueError: if the capacity is outside (0, 1], ``dim`` is not positive, an option has another name, or it routes
            by a predictor that it does not have.
    """

    knobs = ("capacity", "weight", "routing", "execution")
    reports = Routed

    def __init__(
        self,
        block: nn.Module,
        capacity: float | int,
        *,
        weight: Weight = "linear",
        routing: Routing = "top_k",
        execution: Execution = "gathered",
        predictor: bool = False,
        dim: int | None = None,
        generator: torch.Generator | None = None,
        in_place: bool = False,
    ) -> None:
        super().__init__()
        if not _takes(getattr(block, "update", None), "positions", "cache"):
            raise TypeError(
                f"the block must have update(x, *, positions, cache), what it adds to x, as dynlib.backbone.Block has; "
                f"{type(block).__name__} has not"
            )
        check_capacity(capacity)
        self.block: Any = block
        self.capacity: float = float(capacity)
        self.weight: Weight = weight
        self.execution: Execution = execution
        self.generator: torch.Generator | None = generator
        self.in_place: bool = in_place
        dim = check_whole("dim", _dim_of(block) if dim is None else dim, least=1)
        self.dim: int = dim
        like = next(block.parameters(), torch.empty(0))
        place: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.router: nn.Linear = nn.Linear(dim, 1, bias=False, **place)
        nn.init.normal_(self.router.weight, std=dim**-0.5)
        self.predictor: nn.Module | None = None
        if predictor:
            hidden = max(dim // 4, 1)
            self.predictor = nn.Sequential(
                nn.LayerNorm(dim, **place), nn.Linear(dim, hidden, **place), nn.GELU(), nn.Linear(hidden, 1, **place)
            )
        self.routing: Routing = routing
        self.check_knobs()

    def kept(self, tokens: int) -> int:
        """k = ⌈capacity · tokens⌉: one at least, and all of them at capacity 1."""
        return kept(self.capacity, tokens)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        key_mask: Bool[Tensor, "batch keys"] | None = None,
        positions: Int[Tensor, "batch tokens"] | Int[Tensor, " tokens"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """The tokens, with the block's weighted update added to those that were routed.

        Args:
            x: the tokens.
            key_mask: False where a token is not there, because it fills up a shorter sequence: it is neither routed nor
                counted, so that each sequence keeps ⌈capacity · its own length⌉. With a cache, its first entries are
                for the tokens that the cache holds.
            positions: where each token stands in its sequence; 0, 1, 2, … if left out, which is not possible with a
                cache, as it does not know whom it did not hold. A token at -1 is not there.
            cache: the layer's past. Written in place; untouched if nobody was routed.

        Raises:
            TypeError: if the tokens are not floating-point, ``key_mask`` is not bool, or ``positions`` are not whole
                numbers.
            ValueError: if there are no tokens, shapes do not fit, a router logit is not finite, there is a cache and no
                positions, or one of the two controls meets a cache.
        """
        self.check_knobs()
        places, present = self._places(x, key_mask, positions, cache)
        whole = key_mask is None and positions is None  # every sequence is as long as the batch
        routed = self._route(x, present, whole=whole, past=cache is not None)
        if recorded(self):
            report(self, routed._replace(weight=routed.weight.where(routed.mask, 0.0)))
        mask, weight = routed.mask, routed.weight.to(x.dtype)
        held = key_mask[:, : cache.length] if key_mask is not None and cache is not None else None
        if self.execution == "masked":
            return self._masked(x, weight, mask, places, held, cache)
        return self._gathered(x, weight, mask, places, held, cache)

    def _route(self, x: Tensor, present: Tensor, *, whole: bool, past: bool) -> Routed:
        routing = self.routing
        if past and routing in DRAWN:
            raise ValueError(
                f"{routing} routing keeps k of a whole sequence, and a cache means that it is not whole yet"
            )
        if past and routing == "top_k":
            routing = "threshold" if self.predictor is None else "predictor"
        # r = wᵀx
        logits = widen(self.router(x).squeeze(-1))
        look(_check_logits, logits)
        predicted = drawn = None
        # Only where it is asked for: it costs, and top-k does not need it.
        if self.predictor is not None and (routing == "predictor" or recorded(self)):
            predicted = widen(self.predictor(x.detach()).squeeze(-1))
        if routing == "threshold":
            mask = present & (logits > 0)
        elif routing == "predictor":
            assert predicted is not None
            mask = present & (predicted > 0)
        else:
            scores = logits.detach()
            if routing in DRAWN:
                device = None if self.generator is None else self.generator.device
                draw = torch.rand if routing == "random" else torch.randn
                scores = draw(logits.shape, generator=self.generator, device=device).to(logits)
            drawn = scores if routing == "gaussian" else None
            if whole or present.all():
                mask = expert_choice(scores, self.kept(x.shape[1]))
            else:
                k = torch.tensor([self.kept(length) for length in present.sum(1).tolist()], device=x.device)
                mask = expert_choice(scores.masked_fill(~present, -math.inf), k)
        # rᵢ, or σ(rᵢ)
        weight = logits if drawn is None else drawn
        weight = weight.sigmoid() if self.weight == "sigmoid" else weight
        return Routed(mask, weight, logits, present, routing, predicted)

    def _masked(
        self, x: Tensor, weight: Tensor, mask: Tensor, places: Tensor, held: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        # Who is not routed stands nowhere, and so nobody attends to it.
        where = torch.where(mask, places, -1)
        update = self.block.update(x, positions=where, cache=cache, **_held(held, *x.shape[:2]))
        # rᵢ · Δ(X̃)ᵢ + xᵢ, else xᵢ
        return torch.where(mask[..., None], x + weight[..., None] * update, x)

    def _gathered(
        self, x: Tensor, weight: Tensor, mask: Tensor, places: Tensor, held: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        batch, tokens, _ = x.shape
        flat = chosen(mask)
        if len(flat) == 0:
            return x
        count = mask.sum(1).tolist()
        rows, most = [row for row, some in enumerate(count) if some], max(count)  # who routes somebody, and how many
        there = None
        if most * len(rows) != len(flat):
            # the routed tokens first, in their order, then others to fill up, who stand nowhere
            index = (~mask[rows]).byte().argsort(dim=1, stable=True)[:, :most]
            there = mask[rows].gather(1, index).flatten()
            flat = (index + tokens * torch.tensor(rows, device=x.device)[:, None]).flatten()
        where = places.flatten()[flat]
        where = (where if there is None else torch.where(there, where, -1)).view(-1, most)
        taken = x.flatten(0, 1).index_select(0, flat)
        if cache is not None and len(rows) < batch:
            cache = cache.only(rows, batch=batch)
        held = None if held is None else held[rows]
        update = self.block.update(
            taken.view(-1, most, x.shape[-1]), positions=where, cache=cache, **_held(held, *where.shape)
        ).flatten(0, 1)
        # rᵢ · Δ(X̃)ᵢ
        update = (update * weight.flatten()[flat, None]).to(x.dtype)
        if there is not None:
            flat, update = flat[there], update[there]
        # + xᵢ, and xᵢ where nothing is added
        if self.in_place and not torch.is_grad_enabled() and x.is_contiguous():
            x.view(-1, x.shape[-1]).index_add_(0, flat, update)
            return x
        return x.flatten(0, 1).index_add(0, flat, update).view_as(x)

    def _places(
        self, x: Tensor, key_mask: Tensor | None, positions: Tensor | None, cache: LayerCache | None
    ) -> tuple[Tensor, Tensor]:
        """Where every token stands, and whether it is there."""
        check_features(x, self.dim)
        batch, tokens, _ = x.shape
        if positions is None and cache is not None:
            raise ValueError(
                "the cache holds only routed tokens, so that where the next ones stand is not known: give positions"
            )
        positions = spread_positions(positions, x)
        present = positions >= 0
        if key_mask is not None:
            check_key_mask(key_mask, batch, tokens, 0 if cache is None else cache.length)
            present = present & key_mask[:, -tokens:]
        return positions, present

    def check_knobs(self) -> None:
        """Raises ValueError for a knob that is not as the class says."""
        check_capacity(self.capacity)
        check_name("weight", self.weight, ("linear", "sigmoid"))
        check_execution(self.execution)
        check_name("routing", self.routing, ROUTINGS)
        if self.routing == "predictor" and self.predictor is None:
            raise ValueError("there is no predictor to route by: make the layer with predictor=True and train it")


Records = Mapping[str, Sequence[Routed]] | Sequence[Routed]


def routing_loss(routed: Records) -> Float[Tensor, ""]:
    """BCE(σ(r), among the k), mean over tokens, then layers: it moves r > 0 to where the k begin.

    Its gradient reaches the tokens too, and so the layers below.

    Args:
        routed: of :func:`dynlib.deciding.record`, from passes with top-k routing; or a list of such records.

    Raises:
        TypeError: if one is no record of a mixture of depths.
        ValueError: if there are none, or one was not routed by top-k.
    """
    layers = _flat(routed)
    return _membership_loss(layers, [layer.scores for layer in layers if layer.scores is not None])


def predictor_loss(routed: Records) -> Float[Tensor, ""]:
    """As :func:`routing_loss`, of the predictors. Nothing but the predictors gets a gradient.

    Raises:
        TypeError, ValueError: as there, and ValueError if a layer has no predictor.
    """
    layers = _flat(routed)
    logits = [layer.predicted for layer in layers if layer.predicted is not None]
    if len(logits) < len(layers):
        raise ValueError("a layer has no predictor to train: make it with predictor=True")
    return _membership_loss(layers, logits)


def _flat(routed: Records) -> list[Routed]:
    layers = [one for calls in routed.values() for one in calls] if isinstance(routed, Mapping) else list(routed)
    if not layers:
        raise ValueError("nothing was recorded: run the model inside record(model, MixtureOfDepths)")
    for layer in layers:
        if not isinstance(layer, Routed):
            raise TypeError(f"need the records of a mixture of depths; got {type(layer).__name__}: use record")
        if layer.routing != "top_k":
            raise ValueError(f"who is among the k is only known under top-k routing; got one routed by {layer.routing}")
    return layers


def _membership_loss(routed: Sequence[Routed], logits: Sequence[Tensor]) -> Tensor:
    losses = []
    for layer, part in zip(routed, logits, strict=True):
        losses.append(F.binary_cross_entropy_with_logits(part[layer.present], layer.mask[layer.present].to(part.dtype)))
    return torch.stack(losses).mean()


def _held(held: Tensor | None, batch: int, tokens: int) -> dict[str, Tensor]:
    """The argument ``key_mask`` for a block: what the cache holds as told, and the new tokens by their positions."""
    if held is None:
        return {}
    return {"key_mask": torch.cat([held, held.new_ones(batch, tokens)], dim=1)}


def _check_logits(logits: Tensor) -> None:
    # a finite sum has finite terms; one look is cheaper than many, and this is paid for every token written
    if not math.isfinite(logits.sum()) and not logits.isfinite().all():
        raise ValueError("a router logit is not finite: look for NaN in the tokens or the router's weights")


def _takes(function: object, *names: str) -> bool:
    """Whether it can be called with these keywords."""
    if not callable(function):
        return False
    try:
        parameters = signature(function).parameters
    except ValueError:  # it does not tell
        return True
    anything = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    return anything or all(name in parameters for name in names)


def _dim_of(block: nn.Module) -> int:
    norm = getattr(block, "norm1", None)
    if not isinstance(norm, nn.LayerNorm | RMSNorm):
        raise TypeError(
            f"{type(block).__name__} has no LayerNorm 'norm1' to see the features of a token from: give dim"
        )
    return norm.normalized_shape[-1]
