"""Energy from counters that are simulated, and from the model."""

import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dynlib.cost import Cost, count, energy, estimate_energy


class Processor:
    """A folder such as Linux keeps: two packages, one with a core inside, a platform and a second view of a package."""

    def __init__(self, folder, limit=5_000_000):
        self.folder, self.limit, self.used = folder, limit, {}
        for zone, name in {
            "intel-rapl:0": "package-0",
            "intel-rapl:0:0": "core",
            "intel-rapl:1": "package-1",
            "intel-rapl:2": "psys",
            "intel-rapl-mmio:0": "package-0",
        }.items():
            (folder / zone).mkdir()
            (folder / zone / "name").write_text(name + "\n")
            (folder / zone / "max_energy_range_uj").write_text(f"{limit}\n")
            self.used[zone] = 0
        self.use(0, start=True)

    def use(self, microjoules, start=False):
        for place, zone in enumerate(self.used):
            self.used[zone] = (4_000_000 if start else self.used[zone]) + microjoules * (1 if place < 2 else 3)
            (self.folder / zone / "energy_uj").write_text(f"{self.used[zone] % self.limit}\n")


@pytest.fixture
def processor(tmp_path):
    return Processor(tmp_path)


def test_the_counters_of_the_packages_are_added_and_wrap_around(processor):
    packages = energy._Packages(processor.folder)
    assert packages.read() == 0
    total = 0.0
    for microjoules in (100_000, 300_000, 1_000_000, 500_000):  # the second package wraps at the third, and again
        processor.use(microjoules)
        total += 1e-6 * (microjoules + 3 * microjoules)
        assert packages.read() == pytest.approx(total, rel=1e-12)
    assert processor.used["intel-rapl:1"] > processor.limit


def test_energy_is_what_the_counters_say_divided_by_the_runs(processor):
    def model(joules):
        time.sleep(0.02)
        processor.use(int(joules * 1e6))

    joules, source = estimate_energy(model, 0.1, seconds=0.05, counters=processor.folder)
    assert joules == pytest.approx(0.1 + 0.3, rel=1e-9)
    assert source.startswith("measured: RAPL counters of 2 processor package(s)")


def test_the_model_runs_for_as_long_as_asked(processor):
    ended = []

    def model():
        processor.use(10)
        ended.append(time.perf_counter())

    estimate_energy(model, seconds=0.1, counters=processor.folder)
    assert ended[-1] - ended[0] >= 0.1  # from the end of the first, which only warms up


def test_energy_without_counters_is_modelled_from_the_count_and_says_so(tmp_path):
    layer, x = nn.Linear(64, 128), torch.randn(10, 64)
    estimate = estimate_energy(layer, x, counters=tmp_path)
    # 81,920 multiplications of 3.7 pJ and as many additions of 0.9 pJ; 40,960 bytes, which are 10,240 words of 640 pJ
    assert estimate.joules == pytest.approx(81_920 * 4.6e-12 + 10_240 * 640e-12, rel=1e-12)
    assert estimate.source.startswith(f"modelled (there are no RAPL counters in {tmp_path})")
    for word in ("2.3 pJ per FLOP", "160 pJ per byte", "Horowitz", "neither a floor nor a ceiling"):
        assert word in estimate.source


def test_a_cost_is_always_modelled(processor):
    cost = Cost(flops=10**12, params=0, bytes=0)
    estimate = estimate_energy(cost, counters=processor.folder)
    assert estimate.joules == pytest.approx(2.3)
    assert estimate.source.startswith("modelled (a Cost was given)")
    assert estimate_energy(count(nn.Linear(4, 4), torch.ones(1, 4))).joules > 0


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda zone: (zone / "energy_uj").unlink(), "cannot be read"),
        (lambda zone: (zone / "energy_uj").write_text("?"), "cannot be read"),
        (lambda zone: (zone / "max_energy_range_uj").unlink(), "cannot be read"),
        (lambda zone: None, "did not move"),
    ],
)
def test_counters_that_do_not_work_are_named_as_the_reason_for_the_model(processor, spoil, reason):
    spoil(processor.folder / "intel-rapl:0")
    estimate = estimate_energy(nn.Linear(4, 4), torch.ones(1, 4), seconds=0.01, counters=processor.folder)
    assert estimate.source.startswith("modelled")
    assert reason in estimate.source
    assert estimate.joules > 0


class NVMLError(Exception):
    pass


def board(readings):
    def read(handle):
        assert handle == "the GPU-1234 board"
        return readings() * 1000  # millijoules

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: f"the {name} board",
        nvmlDeviceGetTotalEnergyConsumption=read,
    )


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(energy, "_gpus", lambda *_: [0])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    return monkeypatch


def test_a_model_on_a_gpu_is_measured_by_its_board(gpu):
    used = [100.0]

    def model(joules):
        used[0] += joules

    gpu.setitem(sys.modules, "pynvml", board(lambda: used[0]))
    joules, source = estimate_energy(model, 2.5, seconds=0.01)
    assert joules == pytest.approx(2.5, rel=1e-6)
    assert source.startswith("measured: NVML")


def test_a_board_that_cannot_be_read_is_named_as_the_reason_for_the_model(gpu):
    def broken():
        raise NVMLError("Not Supported")

    gpu.setitem(sys.modules, "pynvml", board(broken))
    assert "Not Supported" in estimate_energy(nn.Linear(4, 4), torch.ones(1, 4)).source
    gpu.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py is not installed" in estimate_energy(nn.Linear(4, 4), torch.ones(1, 4)).source


def test_a_model_on_the_cpu_asks_no_gpu():
    assert energy._gpus(nn.Linear(4, 4), (torch.ones(1, 4),), {}) == []
    assert energy._gpus(nn.Linear(4, 4).forward, (), {}) == []


def test_formulas_reach_the_count(tmp_path):
    def model():
        return torch.linalg.inv(torch.eye(4))

    with pytest.raises(ValueError, match="linalg_inv_ex"):
        estimate_energy(model, counters=tmp_path)
    given = {torch.ops.aten.linalg_inv_ex: lambda *_, **__: 2 * 4**3}
    assert estimate_energy(model, counters=tmp_path, formulas=given).joules > 128 * 2.3e-12


@pytest.mark.usefixtures("as_users_run_it")
def test_wrong_arguments_are_errors_that_say_what_is_allowed():
    with pytest.raises(TypeError, match="takes no inputs"):
        estimate_energy(Cost(1, 2, 3), torch.ones(1))
    with pytest.raises(TypeError, match="a model, a function or a Cost"):
        estimate_energy("model")
    with pytest.raises(ValueError, match="seconds must be positive"):
        estimate_energy(Cost(1, 2, 3), seconds=0.0)
