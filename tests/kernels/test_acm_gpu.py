"""The benchmark for a GPU, without one: all that it computes is tried in Triton's interpreter."""

import math
import re
from importlib.util import find_spec

import pytest
import torch

from benchmarks import acm_gpu
from benchmarks.acm_gpu import SHARES, Timed
from dynlib.width.acm import gathered
from tests.kernels.test_acm import run


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed here")
def test_in_the_interpreter_the_whole_benchmark_runs() -> None:
    said = run("-m", "benchmarks.acm_gpu", "--device", "cpu", "--quick", interpret=True).splitlines()
    rows = [line for line in said if line.startswith("| ACM")]
    assert len(rows) == len(SHARES) + 1
    for line, share in zip(rows, SHARES, strict=False):
        assert abs(float(re.search(r"f = (\d\.\d+)", line)[1]) - share) < 0.12
        assert re.search(r"[\d.]+ of f × the dense time; grouped: [\d.]+ of it; in groups of k: [\d.]+ of it", line)
    assert "break-even f" in rows[-1]
    assert said[-2].startswith("Measured on: ")
    assert "Triton's interpreter" in said[-2]


def test_without_a_gpu_one_sentence_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert acm_gpu.main([]) == capsys.readouterr().out.strip()
    assert acm_gpu.main([]).startswith("nothing is measured, because no CUDA GPU is here: run python -m")
    ((_, make),) = acm_gpu.listed()
    assert make().note == acm_gpu.why_no_gpu()


def test_the_interpreter_is_not_timed_under_the_name_of_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(acm_gpu.kernels_of_acm, "interpreted", True)
    monkeypatch.setattr(acm_gpu, "measure", lambda *_, **__: pytest.fail("it was measured"))
    assert acm_gpu.main(["--device", "cuda:1"]).startswith("nothing is measured: TRITON_INTERPRET is set")
    ((_, make),) = acm_gpu.listed()
    assert make().note == acm_gpu.why_no_gpu("cuda")


def test_the_table_names_the_gpu_that_was_asked_for(monkeypatch) -> None:
    names = {"cuda:0": "the first", "cuda:1": "the second"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device="cuda:0": names[device])
    assert acm_gpu._machine("cuda:1").startswith("the second, torch ")


def test_with_a_gpu_the_table_gets_a_row_for_each_share_and_one_for_break_even(monkeypatch) -> None:
    monkeypatch.setattr(acm_gpu, "why_no_gpu", lambda: None)
    monkeypatch.setattr(acm_gpu, "measure", lambda share: timed(share, 0.1 + share))
    rows = [make() for _, make in acm_gpu.listed()]
    assert [row.time_share for row in rows] == pytest.approx([*(0.1 + share for share in SHARES), None])
    assert "1.40 of f × the dense time; this PyTorch has no grouped product" in rows[0].note
    assert rows[-1].note.startswith("faster than dense up to f = 0.90, on the line through 0.35 at 0.25")


def timed(f: float, fused: float) -> Timed:
    return Timed(f, fused, (fused, fused), None, 1.0, (1e-4, 1e-4), acm_gpu.BLOCKS[0])


@pytest.mark.parametrize(
    ("start", "slope", "even"), [(0.1, 1.0, 0.9), (0.0, 0.5, 2.0), (1.2, 0.4, -0.5), (0.4, 0.0, math.inf)]
)
def test_break_even_is_where_the_line_meets_the_dense_time(start: float, slope: float, even: float) -> None:
    times = [timed(f, start + slope * f) for f in SHARES]
    assert acm_gpu.break_even(times) == pytest.approx(even)
    note = acm_gpu.even_row(times).note
    assert note.startswith(
        "faster than dense at every f" if even > 1 else f"faster than dense up to f = {max(even, 0):.2f}"
    )


@pytest.mark.parametrize("share", SHARES)
def test_the_drawn_numbers_have_the_share_that_is_asked_for(share: float) -> None:
    # 20,000 draws of 0 … 4: a mean of k / 4 is off by 0.02 with probability below 2 exp(-2 · 20000 · 0.0004) = 2e-7
    k = acm_gpu.drawn(share, 20_000)
    assert k.min() >= 0
    assert k.max() <= 4
    assert (k.double().mean() / 4).item() == pytest.approx(share, abs=0.02)
    if share < 1:
        assert len(k.unique()) == 5


@pytest.mark.skipif(acm_gpu.grouped_product() is None, reason="this PyTorch has no grouped product")
@pytest.mark.parametrize("k", [(0, 4, 2, 1, 3, 0, 4), (0, 0, 0, 1, 0, 0, 0), (4,) * 7, (1, 1, 1, 1, 1, 1, 2)])
def test_learners_as_experts_are_the_gathered_execution(k: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    z, w, b, v = (torch.randn(*shape, generator=draw).bfloat16() for shape in ((7, 16), (64, 16), (64,), (64, 16)))
    number = torch.tensor(k)
    expected = gathered(z.float(), number, w.float(), b.float(), v.float(), each=16)
    found = acm_gpu.grouped(acm_gpu.grouped_product(), z, number, w, b, v, each=16)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() <= 0.02 * expected.norm()


def test_a_way_that_computes_something_else_is_not_timed(monkeypatch) -> None:
    monkeypatch.setattr(acm_gpu, "acm_forward", lambda z, k, *_, **__: torch.zeros_like(z))
    with pytest.raises(ArithmeticError, match=r"fused is 1\.000 from what float32 gives"):
        acm_gpu.measure(0.5, device="cpu", tokens=32, dim=16, repeats=1)


class OutOfResources(Exception):
    """As Triton's is called."""


def test_blocks_that_do_not_fit_are_left_out(monkeypatch) -> None:
    def forward(*given, each: int, blocks: dict[str, int]) -> torch.Tensor:
        if blocks["rows"] > size:
            raise OutOfResources
        return gathered(*given, each=each)

    monkeypatch.setattr(acm_gpu, "acm_forward", forward)
    size = 64
    assert acm_gpu.measure(0.5, device="cpu", tokens=32, dim=16, repeats=1).blocks["rows"] == 64
    size = 16
    with pytest.raises(RuntimeError, match="no block fits this GPU"):
        acm_gpu.measure(0.5, device="cpu", tokens=32, dim=16, repeats=1)
