"""Small trained backbones that ship with the package: ``load("digits_vit")``, ``load("topics_lm")``.

Each is a safetensors file of at most 4 MB in half precision, and the recipe in :mod:`dynlib.zoo.recipes` that made it:
``python -m dynlib.zoo train digits_vit``. What they can do stands in ``README.md`` beside this file. One that others
trained comes in a package of its own: ``load("minilm")``.

A mechanism is imported when a backbone that has it is asked for.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from dynlib.zoo.recipes import FAMILIES, LARGE, Numbers, recipe
from dynlib.zoo.scores import bits_per_character

if TYPE_CHECKING:  # for readers and checkers of types: see above
    from dynlib.backbone import CausalLM, ViT
    from dynlib.depth import MultiExit, TinyRecursiveModel
    from dynlib.edge import TokenTransmitter
    from dynlib.tokens import AdaptiveViT
    from dynlib.zoo.chains import ChainReader
    from dynlib.zoo.minilm import MiniLM
    from dynlib.zoo.needles import NeedleReader
    from dynlib.zoo.regression import RegressionReader

__all__ = ["bits_per_character", "card", "load", "names", "save"]

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The backbones that ship with the package."""
    return tuple(FAMILIES)


@overload
def load(name: Literal["digits_vit", "digits_acm"], *, folder: str | Path | None = None) -> "ViT": ...
@overload
def load(name: Literal["digits_exits", "digits_acm_exits"], *, folder: str | Path | None = None) -> "MultiExit": ...
@overload
def load(name: Literal["digits_avit"], *, folder: str | Path | None = None) -> "AdaptiveViT": ...
@overload
def load(name: Literal["digits_transmitter"], *, folder: str | Path | None = None) -> "TokenTransmitter": ...
@overload
def load(
    name: Literal[
        "topics_lm", "topics_exits", "topics_small", "topics_mod", "topics_matformer", "topics_matformer_mod"
    ],
    *,
    folder: str | Path | None = None,
) -> "CausalLM": ...
@overload
def load(name: Literal["needles_colt5"], *, folder: str | Path | None = None) -> "NeedleReader": ...
@overload
def load(name: Literal["looped_regression"], *, folder: str | Path | None = None) -> "RegressionReader": ...
@overload
def load(name: Literal["looped_chains"], *, folder: str | Path | None = None) -> "ChainReader": ...
@overload
def load(name: Literal["sudoku4", "sudoku6"], *, folder: str | Path | None = None) -> "TinyRecursiveModel": ...
@overload
def load(name: Literal["minilm"], *, folder: str | Path | None = None) -> "MiniLM": ...
@overload
def load(name: str, *, folder: str | Path | None = None) -> nn.Module: ...
def load(name: str, *, folder: str | Path | None = None) -> nn.Module:
    """A trained backbone in float32 and in evaluation mode, on the default device.

    ================================================================  ============================================
    ``"digits_vit"``, ``"digits_acm"``                                :class:`dynlib.backbone.ViT`
    ``"digits_exits"``, ``"digits_acm_exits"``                        :class:`dynlib.depth.early_exit.MultiExit`
    ``"digits_avit"``                                                 :class:`dynlib.tokens.avit.AdaptiveViT`
    ``"digits_transmitter"``                                          :class:`dynlib.edge.TokenTransmitter`
    ``"topics_lm"``, ``"topics_exits"``, ``"topics_small"``,          :class:`dynlib.backbone.CausalLM`
    ``"topics_mod"``, ``"topics_matformer"``,
    ``"topics_matformer_mod"``
    ``"needles_colt5"``                                               :class:`dynlib.zoo.needles.NeedleReader`
    ``"looped_regression"``                                           :class:`dynlib.zoo.regression.RegressionReader`
    ``"looped_chains"``                                               :class:`dynlib.zoo.chains.ChainReader`
    ``"sudoku4"``, ``"sudoku6"``                                      :class:`dynlib.depth.recursion.TinyRecursiveModel`
    ``"minilm"``                                                      :class:`dynlib.zoo.minilm.MiniLM`
    ================================================================  ============================================

    Float32 it is whatever the default dtype, and its weights can be trained, also if they are loaded under
    ``torch.inference_mode``. Convert it afterwards where you want something else.

    Args:
        name: one of :func:`names`, or "minilm", which is to be installed apart: see :mod:`dynlib.zoo.minilm`.
        folder: where the files lie; the package's own unless you trained some yourself.

    Raises:
        ValueError: if there is no backbone of that name, or its file is damaged.
        FileNotFoundError: if its file is missing.
        ImportError: if "minilm" is not installed; it says what to install.
    """
    device = torch.get_default_device()
    with _plainly():
        if name == "minilm":
            from dynlib.zoo.minilm import load_minilm

            return load_minilm(folder).to(device)
        made = recipe(_known(name))
        metadata, weights = _read(name, FOLDER if folder is None else Path(folder))
        model = made.build(**json.loads(metadata["config"]))
        model.load_state_dict({key: value.float() for key, value in weights.items()})
        return model.eval().to(device)


@contextmanager
def _plainly() -> Iterator[None]:
    """As if nobody had changed a default of PyTorch's: float32, on the CPU, tensors that can be trained."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def card(name: str, *, folder: str | Path = FOLDER) -> dict[str, Any]:
    """What a backbone is and can do: its config, how it was trained, its figures on held-out data."""
    metadata, _ = _read(_known(name), Path(folder))
    return {key: json.loads(value) for key, value in metadata.items()}


def save(name: str, model: nn.Module, figures: Numbers, *, folder: str | Path = FOLDER) -> Path:
    """Write a trained backbone in half precision, with its card and its checksum, where :func:`load` finds it."""
    made, folder = recipe(_known(name)), Path(folder)
    weights = {key: value.half().cpu().contiguous() for key, value in model.state_dict().items()}
    card = {"config": made.config, "training": made.training, "figures": figures}
    path = folder / f"{name}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, {key: json.dumps(value) for key, value in card.items()})
    sums = _checksums(folder) | {path.name: _checksum(path)}
    (folder / "SHA256SUMS").write_text("".join(f"{sums[file]}  {file}\n" for file in sorted(sums)))
    return path


def _known(name: str) -> str:
    if name not in FAMILIES | LARGE:
        raise ValueError(
            f'the zoo has no {name!r}; it has {", ".join(map(repr, FAMILIES))}, and load("minilm") gives one that '
            "others trained"
        )
    return name


def _read(name: str, folder: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    path = folder / f"{name}.safetensors"
    mend = f"restore it (git checkout -- {path.name} in {folder}) or make it anew: python -m dynlib.zoo train {name}"
    if name in LARGE:
        mend = f"it does not ship; make it on a GPU: python -m dynlib.zoo train {name} --device cuda"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: {mend}")
    if _checksums(folder).get(path.name) != _checksum(path):
        raise ValueError(f"{path} is damaged, its checksum is not the one in SHA256SUMS: {mend}")
    try:
        with safe_open(path, "pt") as file:
            return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): {mend}") from error


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checksums(folder: Path) -> dict[str, str]:
    path = folder / "SHA256SUMS"
    rows = path.read_text().split("\n") if path.exists() else []
    return {file: digest for digest, _, file in (row.partition("  ") for row in rows if row)}
