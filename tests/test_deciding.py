"""Records and knobs of any kind of layer, on two layers made for it."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dynlib.deciding import check_execution, knob_of, record, recorded, report, setting
from dynlib.inputs import check_whole


class Chosen(NamedTuple):
    kept: int


class Chooser(nn.Module):
    knobs = ("keep", "execution")
    reports = Chosen

    def __init__(self, keep: int) -> None:
        super().__init__()
        self.keep, self.execution = keep, "gathered"
        self.check_knobs()

    def check_knobs(self) -> None:
        check_whole("keep", self.keep, least=1, most=4)
        check_execution(self.execution)

    def forward(self, x: Tensor) -> Tensor:
        self.check_knobs()
        report(self, Chosen(self.keep))
        return x * self.keep


class Outer(nn.Module):
    knobs = ("keep",)
    keep = knob_of("inner.keep")

    def __init__(self, keep: int) -> None:
        super().__init__()
        self.inner = Chooser(keep)

    def check_knobs(self) -> None:
        self.inner.check_knobs()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def model() -> nn.Sequential:
    return nn.Sequential(Chooser(1), nn.Identity(), Chooser(2))


def keeps(given: nn.Sequential) -> list[int]:
    return [layer.keep for layer in given if isinstance(layer, Chooser)]


def test_records_come_by_name_in_the_order_of_the_calls() -> None:
    given = model()
    with record(given, Chooser) as records:
        given(torch.ones(1))
        given[2].keep = 3
        given(torch.ones(1))
    given(torch.ones(1))  # no longer recorded
    assert records == {"0": [Chosen(1), Chosen(1)], "2": [Chosen(2), Chosen(3)]}
    assert not any(recorded(layer) for layer in given)


def test_a_layer_alone_has_the_empty_name() -> None:
    layer = Chooser(2)
    with record(layer, Chooser) as records:
        layer(torch.ones(1))
    assert records == {"": [Chosen(2)]}


def test_a_layer_that_stands_at_two_places_has_one_name_and_both_calls() -> None:
    layer = Chooser(2)
    given = nn.Sequential(layer, layer)
    with record(given, Chooser) as records:
        given(torch.ones(1))
    assert records == {"0": [Chosen(2), Chosen(2)]}


def test_nested_records_collect_each_for_themselves() -> None:
    given = model()
    with record(given, Chooser) as outer:
        given(torch.ones(1))
        with record(given, Chooser) as inner:
            given(torch.ones(1))
        given(torch.ones(1))
    assert [len(outer["0"]), len(inner["0"])] == [3, 1]


def test_recording_ends_after_an_error() -> None:
    given = model()
    with pytest.raises(RuntimeError, match="stop"), record(given, Chooser) as records:
        raise RuntimeError("stop")
    given(torch.ones(1))
    assert records == {"0": [], "2": []}


def test_what_keeps_no_records_or_is_not_there_is_named() -> None:
    with pytest.raises(TypeError, match="Linear keeps no records"), record(model(), nn.Linear):
        pass
    with pytest.raises(ValueError, match="Identity has no Chooser"), record(nn.Identity(), Chooser):
        pass


def test_a_knob_is_set_on_all_layers_and_each_gets_its_own_back() -> None:
    given = model()
    with setting(given, Chooser, keep=4, execution="masked"):
        assert keeps(given) == [4, 4]
        assert given[0].execution == given[2].execution == "masked"
        with setting(given, Chooser, keep=3):
            assert keeps(given) == [3, 3]
        assert keeps(given) == [4, 4]
    assert keeps(given) == [1, 2]
    assert given[0].execution == given[2].execution == "gathered"


def test_a_knob_is_put_back_after_an_error() -> None:
    given = model()
    with pytest.raises(RuntimeError, match="stop"), setting(given, Chooser, keep=4):
        raise RuntimeError("stop")
    assert keeps(given) == [1, 2]


def test_knobs_that_were_not_set_stay_as_they_were_changed_meanwhile() -> None:
    given = model()
    with setting(given, Chooser, keep=4):
        given[0].execution = "masked"
    assert (given[0].keep, given[0].execution) == (1, "masked")


@pytest.mark.parametrize(
    ("knobs", "error", "message"),
    [
        ({"keep": 5}, ValueError, "keep must be 1 … 4; got 5"),
        ({"keep": 2.0}, TypeError, "keep must be an int"),
        ({"keep": True}, TypeError, "keep must be an int"),
        ({"keep": 3, "execution": "fast"}, ValueError, "'gathered' or 'masked'; got 'fast'"),
        ({"width": 1}, TypeError, "knobs of Chooser are keep, execution; got width"),
        ({}, TypeError, "got none"),
    ],
)
def test_nothing_is_changed_where_a_setting_is_refused(knobs: dict[str, object], error, message: str) -> None:
    given = model()
    with pytest.raises(error, match=message), setting(given, Chooser, **knobs):
        pytest.fail("the body ran")
    assert keeps(given) == [1, 2]
    assert given[0].execution == "gathered"


def test_a_setting_needs_a_layer_that_has_the_knob() -> None:
    with pytest.raises(ValueError, match="Identity has no Chooser"), setting(nn.Identity(), Chooser, keep=1):
        pass
    with pytest.raises(TypeError, match=r"Linear are .it has none.; got keep"), setting(model(), nn.Linear, keep=1):
        pass


def test_several_kinds_are_set_at_once() -> None:
    given = nn.Sequential(Chooser(1), Outer(2))
    with setting(given, (Chooser, Outer), keep=3):
        assert [given[0].keep, given[1].inner.keep] == [3, 3]
    assert [given[0].keep, given[1].inner.keep] == [1, 2]


def test_a_knob_of_a_part_is_read_and_set_there() -> None:
    outer = Outer(2)
    outer.keep = 3
    assert (outer.inner.keep, outer.keep) == (3, 3)
    with setting(outer, Outer, keep=4):
        assert outer.inner.keep == 4
    assert outer.keep == 3
    with pytest.raises(ValueError, match="got 9"), setting(outer, Outer, keep=9):
        pass
    assert outer.inner.keep == 3


def test_fused_is_an_execution_only_where_there_is_a_kernel() -> None:
    check_execution("fused", fused=True)
    with pytest.raises(ValueError, match="'gathered' or 'masked'; got 'fused'"):
        check_execution("fused")
    with pytest.raises(ValueError, match="got None"):
        check_execution(None)
