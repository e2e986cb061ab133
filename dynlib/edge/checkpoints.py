"""Where a run of split learning stands, on one side, and the files that keep it."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

_KEPT = 2  # checkpoints that each side keeps


@dataclass
class Progress:
    """How a run went, on one side: the loss of each step that it took part in, and the bytes over the link so far."""

    losses: list[float] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    """After each step, with what came before an interruption."""
    received: list[int] = field(default_factory=list)


class Checkpoints:
    """The last few of one side, a file each; none are written without a folder."""

    def __init__(
        self,
        folder: str | Path | None,
        who: str,
        half: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self._who, self._half, self._optimizer, self._progress = who.replace(" ", "_"), half, optimizer, progress

    def steps(self) -> list[int]:
        """Of which there is a checkpoint; 0, the beginning, always."""
        if self.folder is None:
            return [0]
        found = self.folder.glob(f"{self._who}_*.pt")
        return sorted({0} | {int(path.stem.rpartition("_")[2]) for path in found})

    def save(self, step: int) -> None:
        """Write one, and drop those before the last two."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "half": self._half.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "progress": asdict(self._progress),
        }
        path = self._path(step)
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)
        for old in [other for other in self.steps()[1:] if other <= step][:-_KEPT]:
            self._path(old).unlink()

    def load(self, step: int) -> None:
        """Go back to a step. Later checkpoints stay until they are made again."""
        if self.folder is None or step == 0:
            return
        state: dict[str, Any] = torch.load(self._path(step), weights_only=True)
        self._half.load_state_dict(state["half"])
        self._optimizer.load_state_dict(state["optimizer"])
        for name, values in state["progress"].items():
            getattr(self._progress, name)[:] = values

    def _path(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{self._who}_{step}.pt"
