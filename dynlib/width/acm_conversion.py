"""A trained model, made of adaptive computation modules: each in the place of one of its layers, of the same cost.

A feed-forward part of H neurons becomes N learners of H / N neurons each. A gated one has three matrices in place of
two, and its learners get half as many neurons again, so that all learners together cost what it did. A linear
projection of d to e features costs d·e, and its learners together have d·e / (d + e) neurons. On top comes the gate, of
about a hundredth of that.

The learners then have to learn what the layer computed: :func:`dynlib.width.distill`. Where a layer was two linear ones
with a GELU between, the learners start as its neurons, dealt out so that those which matter most come first; for a
linear one, as its largest singular directions; for a gated one, at random.

Source: arXiv:2312.10193. That learners start from the layer's weights is ours.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dynlib.backbone import Block, FeedForward
from dynlib.inputs import check_whole
from dynlib.width.acm import AdaptiveComputationModule
from dynlib.width.feed_forward import ELEMENTWISE, GatedFeedForward, Parts, check_plain, parts_of


def acmize(
    model: nn.Module,
    *,
    learners: int = 4,
    feed_forward: bool = True,
    linear: Sequence[str] = (),
    added: Sequence[str] | None = None,
    copy: bool = True,
) -> Any:
    """Put adaptive computation modules in the place of a model's layers; in place, and the model is returned.

    Keep a ``copy.deepcopy`` of it: it is the teacher. The new modules stand under the names of the old ones.

    Args:
        model: any; or one feed-forward part or linear layer by itself, for which its module is returned.
        learners: N of each module.
        feed_forward: convert the feed-forward parts: those of :class:`dynlib.backbone.FeedForward`,
            :class:`dynlib.width.GatedFeedForward`, ``nn.Sequential(linear, function, linear)`` that gives as many
            features as it takes, and what is made of ``gate_proj``, ``up_proj``, ``down_proj`` and ``act_fn``.
        linear: endings of the names of linear layers that are converted too, as ``("attention.output",)``.
        added: endings of the names of modules whose result is added to the token; they may give it no learner at all
            (``least=0``). If left out, ``feed_forward`` and ``attention.output`` of :class:`dynlib.backbone.Block`; in
            other models none. If you name one whose result is not added, its tokens may be lost.
        copy: let learners begin as the neurons of the layer, where that has a GELU, and for a linear layer as its
            largest singular directions. Else, and for what is gated, at random.

    Raises:
        TypeError: if a layer has a hook, an adapter or a quantised weight, which would be lost; or belongs to a module
            of ``torch.nn`` that reads its weight past its call, as ``nn.MultiheadAttention`` does.
        ValueError: if there is nothing to convert, an ending fits no layer, or there are more learners than neurons.
            Where one layer cannot be converted, none is.
    """
    check_whole("learners", learners, least=1)
    _check_endings("linear", linear)
    _check_endings("added", () if added is None else added)
    names = dict(model.named_modules(remove_duplicate=False))
    linears = [name for name, one in names.items() if isinstance(one, nn.Linear)]
    found: dict[str, nn.Module] = {}
    for name, one in names.items():  # a whole comes before its parts
        if any(name.startswith(f"{whole}." if whole else "") for whole in found):
            continue
        alone = name == "" and isinstance(one, nn.Linear)
        if alone or (feed_forward and _is_feed_forward(one)) or (name in linears and _ends(name, linear)):
            found[name] = one
    _check_used("linear", linear, [name for name in linears if name in found], linears)
    if not found:
        raise ValueError(
            f"{type(model).__name__} has nothing to convert: no feed-forward part as FeedForward and GatedFeedForward "
            f"are. Its linear layers are {', '.join(linears) or '(none)'}: name some in linear=(…)"
        )
    _check_used("added", added or (), list(found), list(found))
    zero = _added(names) if added is None else {name for name in found if _ends(name, added)}
    least = {one: max(int(name not in zero) for name in found if found[name] is one) for one in found.values()}
    for name in found:
        _check_parent(name, names)
    # one that stands in several places is made once
    made = {one: _module_for(one, name, learners, least[one], copy) for name, one in found.items()}
    for name, one in found.items():
        if name == "":
            return made[one]
        outer, _, last = name.rpartition(".")
        setattr(names[outer], last, made[one])
    return model


def acm_layers(model: nn.Module) -> dict[str, AdaptiveComputationModule]:
    """The modules of this kind by name, each once, in the order of ``model.named_modules()``.

    Raises:
        ValueError: if there are none.
    """
    layers = {name: one for name, one in model.named_modules() if isinstance(one, AdaptiveComputationModule)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no AdaptiveComputationModule: put some in with acmize(model)")
    return layers


@torch.no_grad()
def _module_for(layer: nn.Module, name: str, learners: int, least: int, copy: bool) -> AdaptiveComputationModule:
    """A module that costs what a layer does."""
    parts = None
    if type(layer) is nn.Linear:
        check_plain(layer)
        weight, out = layer.weight, layer.out_features
        cost = layer.in_features * out
    else:
        parts = parts_of(layer)
        weight, out = parts.expand.weight, parts.contract.out_features
        cost = parts.expand.weight.numel() * (1 if parts.gate is None else 2) + parts.contract.weight.numel()
    dim = weight.shape[1]
    # N · each · (d + e) is the cost, as near as it comes
    each = round(cost / (dim + out) / learners)
    if each < 1:
        raise ValueError(
            f"{name or type(layer).__name__} costs as much as {cost / (dim + out):g} neurons, too few for {learners} "
            "learners: take fewer"
        )
    gate = max(4, min(64, round(cost / 100 / (dim + learners))))
    made = AdaptiveComputationModule(dim, learners * each, out=out, learners=learners, least=least, gate=gate)
    made = made.to(weight).train(layer.training)
    if copy and isinstance(layer, nn.Linear):
        _split(layer, made)
    elif copy and parts is not None and _can_deal(parts, made):
        _deal(parts, made)
    return made


def _check_parent(name: str, names: dict[str, nn.Module]) -> None:
    """Raises TypeError for a layer whose owner takes its weight without calling it."""
    owner = names[name.rpartition(".")[0]]
    own = type(owner).__module__.startswith("torch.nn.modules")
    if name and own and not isinstance(owner, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        raise TypeError(f"{name} belongs to {type(owner).__name__}, which reads its weight without calling it")


def _can_deal(parts: Parts, made: AdaptiveComputationModule) -> bool:
    return parts.gate is None and type(parts.activation) is nn.GELU and made.hidden == len(parts.expand.weight)


def _deal(parts: Parts, made: AdaptiveComputationModule) -> None:
    """The neurons of a layer as those of the learners, the largest first: by what they can add, ‖w‖ ‖v‖."""
    w, v = parts.expand.weight, parts.contract.weight.T
    order = (w.norm(dim=1) * v.norm(dim=1)).argsort(descending=True, stable=True)
    made.expand.copy_(w[order])
    made.contract.copy_(v[order])
    if parts.expand.bias is not None:
        made.bias.copy_(parts.expand.bias[order])


def _split(layer: nn.Linear, made: AdaptiveComputationModule) -> None:
    """The singular directions of a linear layer in pairs of neurons, the largest first: x = GELU(x) − GELU(−x).

    The first neuron of all is a constant, for the bias. One that is left over in a learner gives nothing yet.
    """
    exact = torch.promote_types(layer.weight.dtype, torch.float32)
    u, sizes, v = torch.linalg.svd(layer.weight.to(exact), full_matrices=False)
    made.contract.zero_()
    if layer.bias is not None:
        made.expand[0], made.bias[0] = 0, 1
        made.contract[0] = layer.bias / F.gelu(made.bias[0])
    pair = 0
    for learner in range(made.learners):
        first = learner * made.each + int(learner == 0 and layer.bias is not None)
        for neuron in range(first, (learner + 1) * made.each - 1, 2):
            if pair == len(sizes):
                return
            root = sizes[pair].sqrt()
            made.expand[neuron], made.expand[neuron + 1] = root * v[pair], -root * v[pair]
            made.contract[neuron], made.contract[neuron + 1] = root * u[:, pair], -root * u[:, pair]
            pair += 1


def _is_feed_forward(module: nn.Module) -> bool:
    """Whether it looks like a feed-forward part; whether it can be taken, :func:`parts_of` says."""
    if type(module) is nn.Sequential:
        kinds = [type(one) for one in module]
        if len(kinds) != 3 or kinds[0] is not nn.Linear or kinds[1] not in ELEMENTWISE or kinds[2] is not nn.Linear:
            return False
        return module[0].in_features == module[2].out_features
    names = ("gate_proj", "up_proj", "down_proj", "act_fn")
    return type(module) in (FeedForward, GatedFeedForward) or all(
        isinstance(getattr(module, name, None), nn.Module) for name in names
    )


def _added(names: dict[str, nn.Module]) -> set[str]:
    """The names of those modules of :class:`Block` whose result is added to the token."""
    blocks = [name for name, one in names.items() if isinstance(one, Block)]
    return {f"{name}.{part}".removeprefix(".") for name in blocks for part in ("feed_forward", "attention.output")}


def _ends(name: str, endings: Sequence[str]) -> bool:
    """Whether the last parts of a name are one of these: "output" ends "attention.output", and "put" does not."""
    return any(f".{name}".endswith(f".{ending}") for ending in endings)


def _check_endings(what: str, endings: object) -> None:
    if isinstance(endings, str) or not isinstance(endings, Sequence):
        raise TypeError(f"{what} must be a sequence of endings of names, as ('attention.output',); got {endings!r}")


def _check_used(what: str, endings: Sequence[str], found: Sequence[str], others: Sequence[str]) -> None:
    unused = [ending for ending in endings if not any(_ends(name, (ending,)) for name in found)]
    if unused:
        known = ", ".join(others) or "(none)"
        raise ValueError(f"{what} names {', '.join(map(repr, unused))}, which ends no name here; there are {known}")
