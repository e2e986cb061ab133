"""What every decision has in common: how it is executed, how its knobs are set, and what it tells of itself.

A layer that decides (which tokens, which width, which exit) is a plain ``nn.Module``, and says two things of its class:

    class Router(nn.Module):
        knobs = ("capacity", "routing")     attributes that may be set
        reports = Routed                    the type of its records

It checks its knobs whenever it is used, in ``check_knobs()``, and hands on each decision with :func:`report`. Then

    with setting(model, Router, capacity=0.25), record(model, Router) as records:
        model(x)

sets a knob on all layers of a kind for as long as the context lasts, and collects what they decided, by name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from dynlib.inputs import check_name, check_whole

Execution = Literal["gathered", "masked", "fused"]
"""How what was decided is computed. All mean the same, up to rounding.

- "gathered": only what was chosen. For inference, and the default everywhere. It looks at the choice, and so cannot be
  exported, nor run under ``vmap``.
- "masked": everything, and what was not chosen is thrown away. For comparing, and where a gradient needs it.
- "fused": in one kernel, where a mechanism has one.
"""


def check_execution(execution: object, *, fused: bool = False, rows: int | None = None) -> None:
    """Raises ValueError for an execution of another name, or that cannot be cut into pieces of so many ``rows``.

    Args:
        execution: what was given.
        fused: there is a kernel, and so "fused" is one.
        rows: how many tokens to send through at a time; all if None. Below 1 they are a ValueError, and a TypeError if
            they are no int.
    """
    check_name("execution", execution, ("gathered", "masked", "fused") if fused else ("gathered", "masked"))
    if rows is None:
        return
    check_whole("rows", rows, least=1, what="tokens")
    if execution == "masked":
        raise ValueError("rows cut the work of 'gathered'; 'masked' runs all at once: leave rows out")


def chosen(mask: Bool[Tensor, "*shape"]) -> Int[Tensor, " chosen"]:
    """The numbers of the True elements of the flattened mask: what gathered execution takes.

    Raises:
        RuntimeError: where nobody may look at values, in a graph that is exported or under ``vmap``.
    """
    if not torch.compiler.is_exporting():
        try:
            return mask.flatten().nonzero()[:, 0]
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
    raise RuntimeError(
        "gathered execution looks at what was chosen, and torch.export and vmap have no values to look at: use "
        "execution='masked'"
    )


def report(layer: nn.Module, decision: object) -> None:
    """Hand a decision on to all who :func:`record` this layer."""
    for records in getattr(layer, "_recorders", ()):
        records.append(decision)


def recorded(layer: nn.Module) -> bool:
    """Whether somebody records this layer: for what costs something and is there to be looked at."""
    return bool(getattr(layer, "_recorders", ()))


@contextmanager
def record(model: nn.Module, kind: type[nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """Collect what the layers of a kind decide, as long as the context lasts.

    The dictionary has every such layer's name in ``model``, in the order of ``model.named_modules()``, and under it one
    record for each call, in the order of the calls; ``kind.reports`` is their type. The name of ``model`` itself is "".
    Records keep their gradients. Contexts may be nested; each collects for itself.

    Args:
        model: what holds the layers.
        kind: their class.

    Raises:
        TypeError: if the kind has no records.
        ValueError: if ``model`` has no such layer.
    """
    if getattr(kind, "reports", None) is None:
        raise TypeError(f"{_name(kind)} keeps no records: ask for a kind of layer that decides something")
    layers = _layers(model, kind)
    records: dict[str, list[Any]] = {name: [] for name in layers}
    for name, layer in layers.items():
        # a list of its own, never changed, so that copies of a layer and nested contexts keep apart
        object.__setattr__(layer, "_recorders", [*getattr(layer, "_recorders", ()), records[name]])
    try:
        yield records
    finally:
        for name, layer in layers.items():
            others = [other for other in getattr(layer, "_recorders", ()) if other is not records[name]]
            if others:
                object.__setattr__(layer, "_recorders", others)
            else:
                object.__delattr__(layer, "_recorders")


@contextmanager
def setting(model: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...], **knobs: Any) -> Iterator[None]:
    """Set knobs on all layers of a kind, and put them back in the end, also after an error.

    Each layer gets back what it had. Where one layer does not take a value, no layer is changed.

    Args:
        model: what holds the layers.
        kind: their class, or several that have the same knobs; ``kind.knobs`` are the names.
        knobs: names and values: ``capacity=0.25, execution="masked"``.

    Raises:
        TypeError: if no knob is named, or a kind has no such knob.
        ValueError: if ``model`` has no such layer.
        TypeError, ValueError: as a layer does that does not take a value.
    """
    for one in kind if isinstance(kind, tuple) else (kind,):
        known = getattr(one, "knobs", ())
        if not knobs or not set(knobs) <= set(known):
            unknown = ", ".join(sorted(set(knobs) - set(known))) or "none"
            raise TypeError(f"the knobs of {_name(one)} are {', '.join(known) or '(it has none)'}; got {unknown}")
    layers: list[Any] = list(_layers(model, kind).values())
    before = [(layer, {knob: getattr(layer, knob) for knob in knobs}) for layer in layers]
    try:
        for layer in layers:
            for knob, value in knobs.items():
                setattr(layer, knob, value)
        for layer in layers:
            layer.check_knobs()
        yield
    finally:
        for layer, values in before:
            for knob, value in values.items():
                setattr(layer, knob, value)


def knob_of(place: str) -> Any:
    """A knob that a part of the layer keeps: ``capacity = knob_of("router.capacity")`` reads and sets it there."""
    part, _, name = place.rpartition(".")

    def get(layer: nn.Module) -> Any:
        return getattr(layer.get_submodule(part), name)

    def put(layer: nn.Module, value: Any) -> None:
        setattr(layer.get_submodule(part), name, value)

    return property(get, put, doc=f"``{place}``.")


def _layers(model: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no {_name(kind)}: put one in, or name the kind that it has")
    return layers


def _name(kind: Any) -> str:
    return " or ".join(map(_name, kind)) if isinstance(kind, tuple) else getattr(kind, "__name__", repr(kind))
