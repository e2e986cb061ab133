"""Small trained backbones that ship with the package: ``load("digits_vit")``, ``load("topics_lm")``.

Each is a safetensors file of at most 4 MB in half precision, and the recipe in :mod:`dynlib.zoo.recipes` that made it:
``python -m dynlib.zoo train digits_vit``. What they can do stands in ``README.md`` beside this file.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from dynlib.zoo.recipes import RECIPES, Numbers, bits_per_character

__all__ = ["bits_per_character", "card", "load", "names", "save"]

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The backbones there are."""
    return tuple(RECIPES)


def load(name: str, *, folder: str | Path = FOLDER) -> nn.Module:
    """A trained backbone in float32, in evaluation mode.

    Args:
        name: one of :func:`names`.
        folder: where the files lie; the package's own unless you trained some yourself.

    Raises:
        ValueError: if there is no backbone of that name, or its file is damaged.
        FileNotFoundError: if its file is missing.
    """
    recipe = RECIPES[_known(name)]
    metadata, weights = _read(name, Path(folder))
    model = recipe.build(**json.loads(metadata["config"]))
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    return model.eval()


def card(name: str, *, folder: str | Path = FOLDER) -> dict[str, Any]:
    """What a backbone is and can do: its config, how it was trained, its figures on held-out data."""
    metadata, _ = _read(_known(name), Path(folder))
    return {key: json.loads(value) for key, value in metadata.items()}


def save(name: str, model: nn.Module, figures: Numbers, *, folder: str | Path = FOLDER) -> Path:
    """Write a trained backbone in half precision, with its card and its checksum, where :func:`load` finds it."""
    recipe, folder = RECIPES[_known(name)], Path(folder)
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    card = {"config": recipe.config, "training": recipe.training, "figures": figures}
    path = folder / f"{name}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, {key: json.dumps(value) for key, value in card.items()})
    sums = _checksums(folder) | {path.name: _checksum(path)}
    (folder / "SHA256SUMS").write_text("".join(f"{sums[file]}  {file}\n" for file in sorted(sums)))
    return path


def _known(name: str) -> str:
    if name not in RECIPES:
        raise ValueError(f"the zoo has no {name!r}; it has {', '.join(map(repr, RECIPES))}")
    return name


def _read(name: str, folder: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    path = folder / f"{name}.safetensors"
    mend = f"restore it (git checkout -- {path.name} in {folder}) or make it anew: python -m dynlib.zoo train {name}"
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
