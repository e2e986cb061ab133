"""Train the zoo's backbones: ``python -m dynlib.zoo train digits_vit``. Interrupt and call again to resume."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynlib.training import train
from dynlib.zoo import FOLDER, card, load, names, save
from dynlib.zoo.recipes import LARGE, Numbers, recipe


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m dynlib.zoo", description=__doc__)
    parser.add_argument("action", choices=["train", "evaluate", "cards"])
    parser.add_argument("name", choices=[*names(), *LARGE], nargs="?", help="which backbone; not for 'cards'")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the trained files go (default: the package)")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="where half-trained ones wait")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cuda")
    options = parser.parse_args()
    if options.action == "cards":
        (options.folder / "README.md").write_text(_cards(options.folder))
        return
    if options.name is None:
        parser.error(f"{options.action} needs the name of a backbone")
    made = recipe(options.name)
    if options.action == "train":
        torch.manual_seed(0)
        model = made.build(**made.config)
        checkpoint = options.checkpoints / f"{options.name}.pt"
        if made.start is not None and not checkpoint.exists():  # what is half trained has begun
            backbone = load(made.start)
            if made.begin is None:
                model.load_state_dict(backbone.state_dict())
            else:
                made.begin(model, backbone)
        learner = model.to(options.device) if made.learner is None else made.learner(model.to(options.device))
        assert isinstance(learner, nn.Module)
        training: dict[str, Any] = {**made.training, "steps": int(made.training["steps"])}
        train(
            learner,
            made.loss(learner),
            after=getattr(learner, "follow", None),
            checkpoint=checkpoint,
            description=options.name,
            **training,
        )
        model = getattr(learner, "average", learner)
        if made.end is not None:
            made.end(model)
        # The figures are those of the weights as they ship, in half precision.
        save(options.name, model, {}, folder=options.folder)
        figures = made.evaluate(load(options.name, folder=options.folder).to(options.device))
        save(options.name, model, figures, folder=options.folder)
        (options.folder / "README.md").write_text(_cards(options.folder))
    else:
        figures = made.evaluate(load(options.name, folder=options.folder).to(options.device))
    print(figures)


def _cards(folder: Path) -> str:
    text = "# Model cards\n\nWritten by `python -m dynlib.zoo cards` from what the weight files say of themselves.\n"
    for name in (*names(), *LARGE):
        if not (folder / f"{name}.safetensors").exists():
            continue
        made, trained = recipe(name), card(name, folder=folder)
        parameters = sum(p.numel() for p in load(name, folder=folder).parameters())
        text += f"\n## {name}\n\n{(made.build.__doc__ or '').splitlines()[0]}\n\n"
        text += f"- parameters: {parameters:,}\n- config: {_list(trained['config'])}\n"
        text += f"- training: {_list(trained['training'])}\n"
        if made.start is not None:
            text += f"- starts from: {made.start}\n"
        text += "".join(f"- {key.replace('_', ' ')}: {_figure(value)}\n" for key, value in trained["figures"].items())
        text += f"- made by: `python -m dynlib.zoo train {name}`\n"
    return text


def _figure(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _list(values: Numbers) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in values.items())


if __name__ == "__main__":
    main()
