"""Timing that survives a drifting machine, and the machine's own limits."""

import time
from math import comb, inf

import pytest
import torch

from dynlib.cost import Cost, Peak, Timing, machine_peak, timed
from dynlib.cost.measure import _rank


@pytest.fixture
def clock(monkeypatch):
    """A clock that only work moves, on a machine that becomes slower and slower."""

    class Clock:
        now, work_done = 0.0, 0.0

        def work(self, amount):
            self.work_done += amount
            self.now += amount * (1 + self.work_done)  # twice as slow after one unit, three times after two, …

    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def test_functions_run_in_turn_and_every_round_starts_with_the_next_one():
    calls = []
    functions = [lambda name=name: calls.append(name) for name in "ABC"]
    timing = timed(*functions, repeats=4, warmup=0, least_seconds=0.0)
    assert "".join(calls) == "ABCBCACABABC"
    assert timing.calls == (1, 1, 1)
    assert [len(sample) for sample in timing.samples] == [4, 4, 4]


def test_warmup_calls_come_before_and_are_not_sampled():
    calls = []
    timing = timed(lambda: calls.append(0), repeats=3, warmup=5, least_seconds=0.0)
    assert len(calls) == 8
    assert len(timing.samples[0]) == 3


def test_a_bar_may_move_after_each_warm_up_and_each_sample():
    log: list[str] = []
    timed(
        lambda: log.append("a"),
        lambda: log.append("b"),
        repeats=2,
        warmup=1,
        least_seconds=0.0,
        each=lambda: log.append("-"),
    )
    assert "".join(log) == "a-b-" + "a-b-" + "b-a-"


def test_a_fast_function_is_called_often_enough_for_the_clock():
    timing = timed(lambda: None, lambda: time.sleep(0.002), repeats=3)
    assert timing.calls[0] > 100
    assert timing.calls[1] == 1
    assert 0 < timing.seconds[0] < 1e-4
    assert timing.seconds[1] >= 0.002


def test_an_interruption_does_not_make_a_fast_function_look_slow(monkeypatch):
    class Clock:
        now, calls = 0.0, 0

        def work(self):
            self.calls += 1
            self.now += 0.5 if self.calls == 3 else 1e-6  # half a second goes to somebody else

    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    assert timed(clock.work, repeats=3).calls[0] > 100


def test_the_ratio_survives_a_machine_that_slows_down_and_separate_times_do_not(clock):
    timing = timed(lambda: clock.work(0.03), lambda: clock.work(0.01), repeats=40, warmup=0, least_seconds=0.0)
    ratio = timing.ratio()
    assert ratio.median == pytest.approx(3, rel=0.02)
    assert ratio.low <= ratio.median <= ratio.high
    assert ratio.high < 3.2
    assert max(timing.samples[1]) > 2 * min(timing.samples[1])  # the machine did slow down


def test_three_times_the_work_takes_about_three_times_as_long():
    """31 rounds: it fails by chance only if in 16 of them something else slows one side by half, and not the other."""
    a = torch.randn(192, 192)
    timing = timed(lambda: [a @ a for _ in range(3)], lambda: a @ a, repeats=31)
    assert 2 < timing.ratio().median < 4.5
    assert timing.ratio(1, 0).median == pytest.approx(1 / timing.ratio(0, 1).median, rel=0.2)


def test_seconds_are_medians_and_ratios_are_paired():
    timing = Timing(samples=((1.0, 2.0, 9.0), (2.0, 1.0, 3.0)), calls=(1, 1))
    assert timing.seconds == (2.0, 2.0)
    assert timing.ratio().median == 2.0  # of 0.5, 2, 3
    assert timing.ratio(-1, 0).median == 0.5
    assert timing.ratio(1, 1) == (1.0, 0.0, inf)  # three rounds say nothing at 95 %


@pytest.mark.parametrize("n", range(1, 80))
def test_the_interval_is_the_narrowest_that_holds_the_median_with_95_percent(n):
    def coverage(rank):
        return 1 - 2 * sum(comb(n, below) for below in range(rank)) / 2**n

    rank = _rank(n)
    if rank:
        assert coverage(rank) >= 0.95
    assert coverage(rank + 1) < 0.95
    assert (rank == 0) == (n < 6)


def test_the_interval_is_read_from_the_sorted_ratios():
    timing = Timing(samples=(tuple(float(value) for value in (5, 1, 4, 2, 6, 3)), (1.0,) * 6), calls=(1, 1))
    assert timing.ratio() == (3.5, 1.0, 6.0)


@pytest.mark.usefixtures("as_users_run_it")
def test_wrong_arguments_are_errors_that_say_what_is_allowed():
    with pytest.raises(ValueError, match="at least one function"):
        timed()
    for options in ({"repeats": 0}, {"warmup": -1}, {"least_seconds": -1.0}):
        with pytest.raises(ValueError, match="repeats must be at least 1"):
            timed(lambda: None, **options)
    with pytest.raises(TypeError, match="wrap it in a lambda"):
        timed(3)
    with pytest.raises(ValueError, match="there is no function 2: 2 were timed"):
        timed(lambda: None, lambda: None, repeats=1).ratio(0, 2)


def test_an_error_of_a_timed_function_comes_through():
    with pytest.raises(ZeroDivisionError):
        timed(lambda: 1 / 0)


def test_a_cost_is_bound_by_arithmetic_above_the_ridge_and_by_memory_below():
    peak = Peak(flops_per_second=100e9, bytes_per_second=10e9)
    assert peak.ridge == 10
    assert peak.bound(Cost(flops=10**9, params=0, bytes=10**7)) == 0.01
    assert peak.bound(Cost(flops=10**7, params=0, bytes=10**8)) == 0.01
    assert str(peak) == "100 GFLOP/s · 10 GB/s"


def test_this_machine_multiplies_and_copies_and_is_measured_once():
    peak = machine_peak()
    assert 1e8 < peak.flops_per_second < 1e15
    assert 1e8 < peak.bytes_per_second < 1e14
    assert machine_peak(torch.device("cpu")) is peak
    a = torch.ones(256, 256)
    product = timed(lambda: a @ a, repeats=7).seconds[0]
    assert product > 0.1 * peak.bound(Cost(2 * 256**3, 0, 0))  # nothing is much faster than the peak


def test_a_device_or_dtype_that_cannot_be_is_an_error():
    with pytest.raises(ValueError, match="there is no device 'nonsense'"):
        machine_peak("nonsense")
    with pytest.raises(ValueError, match="floating-point"):
        machine_peak(dtype=torch.int8)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="there is no device 'cuda'"):
            machine_peak("cuda")
