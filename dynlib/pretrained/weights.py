"""The weights of a backbone, taken from somebody else's model, where every parameter must find its place."""

from typing import Any

import torch
from torch import Tensor, nn


class Weights:
    """Copies of a model's weights under the names that they have in a backbone.

    Raises:
        ValueError: if the model lies on several devices.
    """

    def __init__(self, model: nn.Module) -> None:
        self.left = {id(parameter): name for name, parameter in model.named_parameters()}
        self.tensors: dict[str, Tensor] = {}
        self.learns: dict[str, bool] = {}
        devices = {parameter.device for parameter in model.parameters()}
        if len(devices) != 1:
            raise ValueError(f"the model lies on {', '.join(sorted(map(str, devices)))}: put it on one device first")
        (self.device,) = devices

    def take(self, name: str, *given: Tensor | None, transposed: bool = False) -> None:
        """Copies, one below the other, under this name."""
        parts = [part for part in given if part is not None]
        if not parts:
            return
        for part in parts:
            if type(part) not in (Tensor, nn.Parameter) or not part.is_floating_point():
                raise ValueError(
                    f"the weights for {name} are {type(part).__name__} of {part.dtype}: undo a quantisation"
                )
            self.left.pop(id(part), None)
        if len({part.dtype for part in parts}) > 1 or len(parts) < len(given):
            raise ValueError(f"the weights for {name} are to be put together, and differ in number type or biases")
        whole = torch.cat([part.detach() for part in parts]) if len(parts) > 1 else parts[0].detach()
        whole = whole.t() if transposed else whole
        alone = whole.clone(memory_format=torch.contiguous_format) if len(parts) == 1 else whole
        self.tensors[name], self.learns[name] = alone, any(part.requires_grad for part in parts)

    def put(self, name: str, *layers: Any) -> None:
        """Weights and biases of layers."""
        for layer in layers:
            check_kind(layer, nn.Linear, nn.LayerNorm, nn.Conv2d, nn.Embedding, "Conv1D", "LlamaRMSNorm")
        transposed = type(layers[0]).__name__ == "Conv1D"
        self.take(f"{name}.weight", *(layer.weight for layer in layers), transposed=transposed)
        if any(getattr(layer, "bias", None) is not None for layer in layers):
            self.take(f"{name}.bias", *(layer.bias for layer in layers))

    def fill(self, made: nn.Module) -> None:
        """Give a model on the meta device its weights.

        Raises:
            ValueError: if there is one that it has no place for, or one that it needs is not there.
        """
        if self.left:
            raise ValueError(
                f"the model has weights that a backbone here has no place for: {', '.join(sorted(self.left.values()))}"
            )
        wanted = {name: weight.shape for name, weight in made.state_dict().items()}
        given = {name: weight.shape for name, weight in self.tensors.items()}
        odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        if odd:
            raise ValueError(
                "weights do not fit: "
                + ", ".join(f"{name} is {given.get(name)} and must be {wanted.get(name)}" for name in odd)
            )
        made.load_state_dict(self.tensors, assign=True)
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(self.learns[name])


def check_kind(layer: object, *kinds: type | str) -> None:
    """Raises ValueError for a layer of another class: an adapter, a quantised or parametrised one, somebody's own."""
    kind = type(layer)
    theirs = kind.__module__.startswith("transformers.") and kind.__name__ in kinds
    if not theirs and kind not in kinds:
        raise ValueError(
            f"a layer is {kind.__module__}.{kind.__name__}, and what it computes is not known: merge an adapter, "
            "remove a parametrisation, or undo a quantisation first"
        )
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        raise ValueError("an embedding that changes its rows when they are read (max_norm) is not supported")
    if isinstance(layer, nn.Conv2d):
        plain = layer.stride == layer.kernel_size and layer.groups == 1 and set(pair(layer.dilation)) == {1}
        if not plain or layer.padding not in ((0, 0), "valid"):
            raise ValueError(f"patches that overlap, have gaps or are padded are not supported; got {layer}")


def pair(size: Any) -> tuple[int, int]:
    """A size in both directions, where one number says both."""
    return (size, size) if isinstance(size, int) else tuple(size)
