"""A trained model, made of adaptive computation modules: each in the place of one of its layers, of the same cost.

A feed-forward part of H neurons becomes N learners of H / N neurons each. A gated one has three matrices in place of
two, and its learners get half as many neurons again, so that all learners together cost what it did. A linear
projection of d to e features costs d·e, and its learners together have d·e / (d + e) neurons. On top comes the gate, of
about a hundredth of that.

The learners then have to learn what the layer computed: :func:`dynlib.width.distill`. Where a layer was two linear ones
with a GELU between, the learners start as its neurons, dealt out so that those which matter most come first; elsewhere
they start at random.

Source: arXiv:2312.10193.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dynlib.backbone import Block
from dynlib.inputs import check_whole
from dynlib.width.acm import AdaptiveComputationModule
from dynlib.width.feed_forward import Parts, check_plain, hooked, parts_of


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
        feed_forward: convert the feed-forward parts, all that :data:`dynlib.width.feed_forward.TAKEN` names and that
            give as many features as they take.
        linear: endings of the names of linear layers that are converted too, as ``("attention.output",)``.
        added: endings of the names of modules whose result is added to the token; they may give it no learner at all
            (``least=0``). If left out, ``feed_forward`` and ``attention.output`` of :class:`dynlib.backbone.Block`; in
            other models none. If you name one whose result is not added, its tokens may be lost.
        copy: let learners begin as the neurons of the layer, where that has a GELU. Else at random.

    Raises:
        TypeError: if a layer has a hook, an adapter or a quantised weight, which would be lost; or belongs to a module
            of ``torch.nn`` that reads its weight past its call, as ``nn.MultiheadAttention`` does.
        ValueError: if there is nothing to convert, an ending fits no layer, or there are more learners than neurons.
            Where one layer cannot be converted, none is.
    """
    check_whole("learners", learners, least=1)
    endings = {"linear": _endings("linear", linear), "added": None if added is None else _endings("added", added)}
    names = {name: one for name, one in model.named_modules(remove_duplicate=False)}
    found: dict[str, nn.Module] = {}
    for name, one in names.items():
        if any(name.startswith(f"{outer}.") or outer == "" for outer in found):
            continue  # a part of what is converted
        if (feed_forward and _is_feed_forward(one)) or _is_named(name, one, endings["linear"] or ()):
            found[name] = one
    if not found and type(model) is nn.Linear:
        found = {"": model}
    if not found:
        asked = ["feed-forward part"] * feed_forward + [f"linear layer named …{ending}" for ending in linear]
        raise ValueError(
            f"{type(model).__name__} has nothing to convert, no {' and no '.join(asked) or 'layer was asked for'}: its "
            f"linear layers are {_linears(names) or '(none)'}; name some in linear=(…)"
        )
    _check_used("linear", endings["linear"] or (), found, names)
    _check_used("added", endings["added"] or (), found, names)
    made: dict[nn.Module, AdaptiveComputationModule] = {}
    for name, one in found.items():
        parent = names[name.rpartition(".")[0]] if name else None
        if type(parent).__module__.startswith("torch.nn.modules") and not isinstance(
            parent, nn.Sequential | nn.ModuleList | nn.ModuleDict
        ):
            raise TypeError(f"{name} belongs to a {type(parent).__name__}, which reads its weight without calling it")
        least = 0 if _is_added(name, parent, endings["added"]) else 1
        if one not in made:  # one that stands in several places is made once
            made[one] = _module_for(one, name, learners, least, copy)
        elif made[one].least < least:
            made[one] = _module_for(one, name, learners, least, copy)
    if "" in found:
        return made[model]
    for name, one in found.items():
        parent, _, last = name.rpartition(".")
        setattr(names[parent], last, made[one])
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
            f"{name or type(layer).__name__} costs as much as {cost / (dim + out):g} neurons, fewer than the {learners} "
            "learners: take fewer"
        )
    gate = max(4, min(64, round(cost / 100 / (dim + learners))))
    made = AdaptiveComputationModule(dim, learners * each, out=out, learners=learners, least=least, gate=gate)
    made = made.to(weight).train(layer.training)
    if copy and parts is not None and _is_gelu(parts) and made.hidden == len(parts.expand.weight):
        _deal(parts, made)
    return made


def _deal(parts: Parts, made: AdaptiveComputationModule) -> None:
    """The neurons of a layer as those of the learners, the largest first: by what they can add, ‖w‖ ‖v‖."""
    w, v = parts.expand.weight, parts.contract.weight.T
    order = (w.norm(dim=1) * v.norm(dim=1)).argsort(descending=True, stable=True)
    made.expand.copy_(w[order])
    made.contract.copy_(v[order])
    made.bias.copy_(0 * made.bias if parts.expand.bias is None else parts.expand.bias[order])


def _is_gelu(parts: Parts) -> bool:
    return parts.gate is None and type(parts.activation) is nn.GELU


def _is_feed_forward(module: nn.Module) -> bool:
    """Whether it is a feed-forward part, and can be taken; TypeError if it is one and cannot."""
    try:
        parts = parts_of(module)
    except TypeError as error:
        if "must be FeedForward" in str(error) or type(module) is nn.Sequential:
            return False
        raise
    return parts.expand.in_features == parts.contract.out_features


def _is_named(name: str, module: nn.Module, endings: Sequence[str]) -> bool:
    return isinstance(module, nn.Linear) and any(_ends(name, ending) for ending in endings)


def _is_added(name: str, parent: nn.Module | None, added: Sequence[str] | None) -> bool:
    raise NotImplementedError


def _ends(name: str, ending: str) -> bool:
    """Whether the last parts of a name are these: "output" ends "attention.output", and "put" does not."""
    return f".{name}".endswith(f".{ending}")
