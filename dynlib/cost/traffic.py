"""What an operator moves: bytes between memory and arithmetic, and which elements of the parameters it reads.

An operator reads its inputs and writes its results, once each. A view moves nothing. An expanded tensor holds its
elements once. A gather reads the elements it picks, a scatter writes those it hits, a copy does not read what it
overwrites.
"""

import gc
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dynlib.cost.flops import is_view

aten = torch.ops.aten

_GATHERS = {"embedding", "embedding_bag", "embedding_bag_forward_only", "gather", "index", "index_select", "take"}
_SCATTERS = {"index_put", "index_put_impl", "index_add", "index_copy", "index_fill", "index_reduce"} | {
    "scatter", "scatter_add", "scatter_reduce"
}  # fmt: skip
_ACCUMULATE = {"index_add", "index_reduce", "scatter_add", "scatter_reduce"}  # read what they hit, then write it
_OVERWRITE = {"copy", "fill", "zero", "bernoulli", "cauchy", "exponential", "geometric", "log_normal", "normal"} | {
    "random", "uniform"
}  # fmt: skip
_MOVE_NOTHING = {"is_same_size", "is_set_to", "is_pinned", "fused_sdp_choice", "has_same_storage_numel"} | {
    "record_stream", "assert_tensor_metadata"
}  # fmt: skip


_INDICES = {torch.int64, torch.int32, torch.bool}  # what is of these types is no weight


class Traffic(NamedTuple):
    """What one run of an operator moved."""

    bytes: int
    read: list[Tensor]
    """Tensors read whole."""
    picked: "tuple[Tensor, Callable[[Tensor], Tensor]] | None" = None
    """A table read in part, and the function that takes the same elements out of any tensor of its shape."""


def tensors(values: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dictionaries."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [tensor for value in values for tensor in tensors(value)]


def distinct(tensor: Tensor) -> int:
    """How many elements a tensor holds in memory: an expanded dimension counts once, overlapping windows do not add."""
    if tensor.numel() == 0 or tensor.is_contiguous():
        return tensor.numel()
    return min(prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride), span(tensor))


def span(tensor: Tensor) -> int:
    """How many elements of memory lie from a tensor's first to its last."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def traffic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Traffic:
    """What the run ``func(*args, **kwargs) = out`` of an operator moved."""
    stem, roles, moves, in_place = _habits(func)
    if not moves:
        return Traffic(0, [])
    given = [(roles[place] if place < len(roles) else "read", value) for place, value in enumerate(args)]
    given += [(roles[name], value) for name, value in kwargs.items() if name in roles]
    inputs = [tensor for _, value in given for tensor in tensors(value)]
    read = [tensor for role, value in given if "read" in role for tensor in tensors(value)]
    written = [tensor for role, value in given if "write" in role for tensor in tensors(value)]

    held = {_storage(tensor) for tensor in inputs}
    fresh = [tensor for tensor in tensors(out) if _storage(tensor) not in held]
    if inputs and not fresh and not written and tensors(out):
        return Traffic(0, [])  # the result shares memory with an input: a view in all but name

    elsewhere, picked = 0, None
    if stem in _GATHERS and isinstance(args[0], Tensor):
        table, rest = args[0], args[1:]
        read = [tensor for tensor in read if tensor is not table]
        if stem.startswith("embedding"):
            elsewhere = rest[0].numel() * table.shape[1] * table.element_size()
            picked = (table, lambda values: values[rest[0]])
        else:
            elsewhere = tensors(out)[0].numel() * table.element_size()
            picked = (table, lambda values: func._overloadpacket(values, *rest))
    elif stem in _SCATTERS:
        hit = _hit(stem, *args) * args[0].element_size()
        twice = stem in _ACCUMULATE or (stem.startswith("index_put") and len(args) > 3 and args[3])
        elsewhere = 2 * hit if twice else hit
        if in_place:
            read, written = [tensor for tensor in read if tensor is not args[0]], []

    once = {(_storage(t), t.storage_offset(), t.shape, t.stride()): t for t in read}.values()
    moved = sum(distinct(tensor) * tensor.element_size() for tensor in (*once, *written, *fresh))
    return Traffic(moved + elsewhere, read, picked)


class ParameterReads:
    """The elements of parameters that were read so far, each counted once however often it is read.

    A tensor that is no parameter may lie in the memory of one, as ``weight.detach()`` does. So if one comes whose
    memory somebody else holds too, all parameters there are get known. That search takes a while, and is made once.
    """

    def __init__(self) -> None:
        self._owners: dict[int, dict[int, Tensor]] = {}
        self._whole: set[int] = set()
        self._flags: dict[int, Tensor] = {}
        self._seen: set[int] = set()
        self._searched = False

    def meet(self, tensor: Tensor) -> None:
        """Remember a parameter that is about to be read, or what a tensor is a view of."""
        if self._know(tensor) or self._searched:
            return
        place = _storage(tensor)
        if place in self._seen:
            return
        self._seen.add(place)
        if tensor.dtype not in _INDICES and _is_shared(tensor):
            self._searched = True
            for parameter in _living_parameters():
                self._know(parameter)

    def made(self, tensor: Tensor) -> None:
        """Note that an operator made a tensor: it lies in the memory of no parameter that has not been met."""
        if not self._searched and _storage(tensor) not in self._owners:  # else it is a view
            self._seen.add(_storage(tensor))

    def _know(self, tensor: Tensor) -> bool:
        owner = tensor if isinstance(tensor, nn.Parameter) else tensor._base
        if not isinstance(owner, nn.Parameter):
            return False
        place = _storage(owner)
        owners = self._owners.setdefault(place, {})
        if place in self._whole and id(owner) not in owners:  # a second parameter in the memory of one read whole
            self._whole.remove(place)
            self._mark(place, next(iter(owners.values())))
        owners[id(owner)] = owner
        return True

    def read(self, tensor: Tensor) -> None:
        """Note that all of a tensor was read."""
        place = _storage(tensor)
        owners = self._owners.get(place)
        if not owners or place in self._whole or tensor.numel() == 0:
            return
        owner = next(iter(owners.values()))
        if len(owners) == 1 and (_covers(tensor, owner) or tensor.element_size() != owner.element_size()):
            self._whole.add(place)
            self._flags.pop(place, None)
        else:
            self._mark(place, tensor)

    def pick(self, table: Tensor, take: Callable[[Tensor], Tensor]) -> None:
        """Note that the elements ``take(table)`` were read."""
        place = _storage(table)
        if place not in self._owners or place in self._whole or table.numel() == 0:
            return
        if table.device.type == "meta":
            self.read(table)  # the indices have no values to look at
            return
        positions = torch.arange(span(table), device=table.device).as_strided(table.shape, table.stride(), 0)
        taken = take(positions).flatten().cpu()
        self._flags_of(place)[table.storage_offset() + taken] = True

    def total(self) -> int:
        """How many elements were read."""
        whole = sum(distinct(next(iter(self._owners[place].values()))) for place in self._whole)
        for place, flags in self._flags.items():
            owned = torch.zeros_like(flags)
            for owner in self._owners[place].values():
                _compact(owned, owner).fill_(True)
            whole += int((flags & owned).sum())
        return whole

    def _mark(self, place: int, tensor: Tensor) -> None:
        _compact(self._flags_of(place), tensor).fill_(True)

    def _flags_of(self, place: int) -> Tensor:
        if place not in self._flags:
            owner = next(iter(self._owners[place].values()))
            size = owner.untyped_storage().nbytes() // owner.element_size()
            self._flags[place] = torch.zeros(size, dtype=torch.bool, device="cpu")
        return self._flags[place]


def _is_shared(tensor: Tensor) -> bool:
    """Whether another tensor may hold the same memory."""
    storage = tensor.untyped_storage()
    holders = getattr(torch._C, "_storage_Use_Count", None)
    return holders is None or holders(storage._cdata) > 2  # the tensor and ``storage``


def _living_parameters() -> list[nn.Parameter]:
    kinds = [nn.Parameter]
    for kind in kinds:  # the list grows meanwhile
        kinds += kind.__subclasses__()
    # an object refers to its type; to ask for these is twice as fast as to look at all objects there are
    found = [thing for thing in gc.get_referrers(*kinds) if issubclass(type(thing), nn.Parameter)]
    return [parameter for parameter in found if parameter.layout is torch.strided and not is_lazy(parameter)]


def _compact(flags: Tensor, tensor: Tensor) -> Tensor:
    # the flags of a tensor's elements; an expanded dimension would name each of them many times
    shape = [size if stride else 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return flags.as_strided(shape, tensor.stride(), tensor.storage_offset())


def _covers(tensor: Tensor, owner: Tensor) -> bool:
    elements = owner.numel()
    dense = distinct(tensor) == span(tensor) == elements == span(owner)
    return dense and tensor.storage_offset() == owner.storage_offset()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _hit(stem: str, target: Tensor, *rest: Any) -> int:
    """How many elements of ``target`` a scatter writes."""
    if stem.startswith("scatter"):
        return rest[1].numel()
    if not stem.startswith("index_put"):
        return rest[1].numel() * (target.numel() // max(1, target.shape[rest[0]] if target.ndim else 1))
    shapes, dimension, free = [], 0, list(target.shape)
    for index in rest[0]:
        if index is None:
            dimension += 1
        elif index.dtype in (torch.bool, torch.uint8):  # a mask over as many dimensions as it has
            shapes.append((int(index.count_nonzero()),) if index.device.type != "meta" else (index.numel(),))
            free[dimension : dimension + index.ndim] = [1] * index.ndim
            dimension += index.ndim
        else:
            shapes.append(tuple(index.shape))
            free[dimension] = 1
            dimension += 1
    return prod(torch.broadcast_shapes(*shapes)) * prod(free)


@cache
def _habits(func: Any) -> tuple[str, dict[int | str, str], bool, bool]:
    """An operator's plain name, what it does to each argument, whether it moves anything, whether it works in place."""
    if not isinstance(func, torch._ops.OpOverload):
        return str(func), {}, True, False
    name = func._overloadpacket.__name__
    stem = name.removeprefix("_foreach_").removeprefix("_unsafe_").strip("_")
    if func.namespace != "aten":
        stem = f"{func.namespace}::{name}"  # a name of our lists means what PyTorch's own operator of that name does
    roles: dict[int | str, str] = {}
    blind = stem.endswith("_like") or stem.startswith("new_")  # looks at the shape of its argument alone
    for place, argument in enumerate(func._schema.arguments):
        changed = argument.alias_info is not None and argument.alias_info.is_write
        role = "" if blind else "read"
        if changed:
            role = "write" if argument.is_out or stem in _OVERWRITE else "read and write"
        roles[place] = roles[argument.name] = role
    still = is_view(func) or torch.Tag.inplace_view in func.tags or stem in _MOVE_NOTHING or "empty" in stem
    in_place = any(role == "read and write" for role in roles.values())
    return stem, roles, not still, in_place
