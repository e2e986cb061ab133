"""Train the zoo's backbones: ``python -m dynlib.zoo train digits_vit``. Interrupt and call again to resume."""

import argparse
from pathlib import Path

import torch

from dynlib.depth.early_exit import MultiExit
from dynlib.tokens import AdaptiveViT
from dynlib.training import train
from dynlib.zoo import FOLDER, card, load, names, save
from dynlib.zoo.recipes import RECIPES, Numbers


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m dynlib.zoo", description=__doc__)
    parser.add_argument("action", choices=["train", "evaluate", "cards"])
    parser.add_argument("name", choices=names(), nargs="?", help="which backbone; not for 'cards'")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the trained files go (default: the package)")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="where half-trained ones wait")
    options = parser.parse_args()
    if options.action == "cards":
        (options.folder / "README.md").write_text(_cards(options.folder))
        return
    if options.name is None:
        parser.error(f"{options.action} needs the name of a backbone")
    if options.action == "train":
        recipe = RECIPES[options.name]
        torch.manual_seed(0)
        model = recipe.build(**recipe.config)
        if recipe.start is not None:
            backbone = model.backbone if isinstance(model, MultiExit | AdaptiveViT) else model
            backbone.load_state_dict(load(recipe.start).state_dict())
        if recipe.prepare is not None:
            recipe.prepare(model)
        checkpoint = options.checkpoints / f"{options.name}.pt"
        settings = {**recipe.training, "steps": int(recipe.training["steps"])}
        train(model, recipe.loss(model), checkpoint=checkpoint, description=options.name, **settings)  # type: ignore[arg-type]
        # The figures are those of the weights as they ship, in half precision.
        save(options.name, model, {}, folder=options.folder)
        figures = recipe.evaluate(load(options.name, folder=options.folder))
        save(options.name, model, figures, folder=options.folder)
        (options.folder / "README.md").write_text(_cards(options.folder))
    print(RECIPES[options.name].evaluate(load(options.name, folder=options.folder)))


def _cards(folder: Path) -> str:
    text = "# Model cards\n\nWritten by `python -m dynlib.zoo cards` from what the weight files say of themselves.\n"
    for name in names():
        if not (folder / f"{name}.safetensors").exists():
            continue
        made, parameters = card(name, folder=folder), sum(p.numel() for p in load(name, folder=folder).parameters())
        text += f"\n## {name}\n\n{(RECIPES[name].build.__doc__ or '').splitlines()[0]}\n\n"
        text += (
            f"- parameters: {parameters:,}\n- config: {_list(made['config'])}\n- training: {_list(made['training'])}\n"
        )
        if RECIPES[name].start is not None:
            text += f"- starts from: {RECIPES[name].start}\n"
        text += "".join(f"- {key.replace('_', ' ')}: {_figure(value)}\n" for key, value in made["figures"].items())
        text += f"- made by: `python -m dynlib.zoo train {name}`\n"
    return text


def _figure(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _list(values: Numbers) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in values.items())


if __name__ == "__main__":
    main()
