"""What the tests of answers share."""

import pytest

from tests.graders.harness import teacher
from tools.notebooks import lacking


@pytest.fixture(autouse=True)
def _can_run(request: pytest.FixtureRequest) -> None:
    """A unit whose notebook needs what is not installed here is skipped, with a sentence."""
    given = getattr(request.node, "callspec", None)
    if given is not None:
        unit = given.params.get("unit") or getattr(given.params.get("answer"), "unit", None)
        reason = lacking(teacher(unit)) if unit else None
        if reason:
            pytest.skip(reason)
