"""Energy: read from the machine's counters where it has some that can be read, else modelled from the count."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dynlib.cost.count import Cost, count
from dynlib.cost.flops import Formula
from dynlib.cost.measure import synchronise
from dynlib.cost.traffic import tensors

# Energy of single operations in a 45 nm chip: M. Horowitz, "Computing's energy problem (and what we can do about it)",
# ISSCC 2014, Fig. 1.1.9. A 32-bit float multiplication takes 3.7 pJ and an addition 0.9 pJ: two FLOPs.
JOULES_PER_FLOP = (3.7e-12 + 0.9e-12) / 2
# Reading DRAM takes 1.3 to 2.6 nJ per 64 bits there; the lower end is the 640 pJ per 32 bits that papers on neural
# networks calculate with since arXiv:1506.02626, Table 1.
JOULES_PER_BYTE = 640e-12 / 4

COUNTERS = Path("/sys/class/powercap")
"""Where Linux keeps the energy counters of the processor (RAPL)."""


class Energy(NamedTuple):
    """Energy, and a sentence that says where the number comes from."""

    joules: float
    source: str


def estimate_energy(
    model_or_cost: Callable[..., Any] | Cost,
    /,
    *inputs: Any,
    seconds: float = 0.5,
    counters: str | Path = COUNTERS,
    formulas: Mapping[Any, Formula] | None = None,
    **kwargs: Any,
) -> Energy:
    """The energy of one run ``model(*inputs, **kwargs)``, in joules.

    Measured where the machine has counters that can be read: on the CPU those of the processor packages (RAPL; most
    systems let only the administrator read them), on an NVIDIA GPU that of the board (NVML, package ``nvidia-ml-py``).
    The model then runs again and again for at least ``seconds``. Counters see everything: the idle machine and other
    programs too.

    Else modelled, FLOPs · :data:`JOULES_PER_FLOP` + bytes · :data:`JOULES_PER_BYTE`, from :func:`dynlib.cost.count`. It
    knows arithmetic and memory alone: no control, no static power, nothing of the rest of the machine. It is neither a
    floor nor a ceiling: an operation takes less in a chip of today, and what a cache serves is no reading of DRAM.
    Take its ratios more seriously than its joules. A ``Cost`` is always modelled.

    Args:
        model_or_cost: what to run, or what it cost.
        inputs, kwargs: what to run it with.
        seconds: how long to measure; counters are coarse.
        counters: folder of the RAPL counters.
        formulas: as in :func:`dynlib.cost.count`; for the model.

    Raises:
        TypeError: if the first argument is neither, or inputs come with a ``Cost``.
        ValueError: if ``seconds`` is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive; got {seconds}")
    if isinstance(model_or_cost, Cost):
        if inputs or kwargs:
            raise TypeError("a Cost has already been counted and takes no inputs; give the model to run it")
        return _modelled(model_or_cost, "a Cost was given")
    if not callable(model_or_cost):
        raise TypeError(f"give a model, a function or a Cost; got {type(model_or_cost).__name__}")
    model = model_or_cost
    gpus = _gpus(model, inputs, kwargs)
    try:
        if gpus:
            read: Callable[[], float] = _Boards(gpus).read
            source = f"measured: NVML's energy counter of {len(gpus)} GPU board(s), idle power included"
        else:
            packages = _Packages(Path(counters))
            read, source = packages.read, f"measured: RAPL counters of {packages}, everything that ran on them included"
        joules = _measure(lambda: model(*inputs, **kwargs), read, seconds)
        if joules <= 0:
            raise _NoCounterError("the energy counter did not move")
        return Energy(joules, source)
    except _NoCounterError as reason:
        return _modelled(count(model, *inputs, formulas=formulas, **kwargs), str(reason))


def _modelled(cost: Cost, reason: str) -> Energy:
    joules = cost.flops * JOULES_PER_FLOP + cost.bytes * JOULES_PER_BYTE
    return Energy(
        joules,
        f"modelled ({reason}): {JOULES_PER_FLOP * 1e12:.3g} pJ per FLOP and {JOULES_PER_BYTE * 1e12:.3g} pJ per byte "
        "of DRAM, 45 nm, Horowitz 2014; without control, static power and the rest of the machine, and without caches: "
        "neither a floor nor a ceiling",
    )


class _NoCounterError(Exception):
    """There is no energy counter that can be read; the message says why."""


def _measure(run: Callable[[], Any], read: Callable[[], float], seconds: float) -> float:
    """Joules of one run, from a counter of joules read before and after many."""
    run()
    synchronise()
    runs, before, begin = 0, read(), time.perf_counter()
    looked = begin
    while (now := time.perf_counter()) - begin < seconds:
        if now - looked > 1:  # often enough to see every wrap-around
            looked = now
            read()
        run()
        synchronise()
        runs += 1
    return (read() - before) / runs


class _Packages:
    """The counters of the processor packages, added, as one that does not wrap around."""

    def __init__(self, folder: Path) -> None:
        zones = sorted(zone for zone in folder.glob("intel-rapl:*") if re.fullmatch(r"intel-rapl:\d+", zone.name))
        self._joules = 0.0
        try:
            self._zones = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
            self._limits = [int((zone / "max_energy_range_uj").read_text()) for zone in self._zones]
            self._last = [self._microjoules(zone) for zone in self._zones]
        except (OSError, ValueError) as error:
            raise _NoCounterError(f"the RAPL counters in {folder} cannot be read: {error}") from error
        if not self._zones:
            raise _NoCounterError(f"there are no RAPL counters in {folder}")

    def read(self) -> float:
        """Joules since the start."""
        for place, zone in enumerate(self._zones):
            now = self._microjoules(zone)
            step = now - self._last[place]
            self._joules += 1e-6 * (step if step >= 0 else step + self._limits[place])  # it wrapped around
            self._last[place] = now
        return self._joules

    def __str__(self) -> str:
        return f"{len(self._zones)} processor package(s)"

    @staticmethod
    def _microjoules(zone: Path) -> int:
        return int((zone / "energy_uj").read_text())


class _Boards:
    """The energy counters of GPU boards, added."""

    def __init__(self, devices: list[int]) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise _NoCounterError("NVML cannot be used: the package nvidia-ml-py is not installed") from error
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            names = [f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices]
            self._boards = [pynvml.nvmlDeviceGetHandleByUUID(name) for name in names]
            self.read()
        except pynvml.NVMLError as error:
            raise _NoCounterError(f"NVML's energy counter cannot be read: {error}") from error

    def read(self) -> float:
        """Joules since the driver was loaded."""
        return 1e-3 * sum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(board) for board in self._boards)


def _gpus(model: Callable[..., Any], inputs: Any, kwargs: Any) -> list[int]:
    """Numbers of the GPUs that hold the inputs or the model's weights."""
    owner = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    weights = list(owner.parameters()) if isinstance(owner, nn.Module) else []
    devices = {tensor.device for tensor in (*tensors((inputs, kwargs)), *weights)}
    return sorted({device.index or 0 for device in devices if device.type == "cuda"})
