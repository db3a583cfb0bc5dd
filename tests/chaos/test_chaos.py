"""The scenarios of ``make chaos`` that are quick, in their short form."""

from __future__ import annotations

import pytest

from tests.chaos.catalogue import scenarios
from tests.chaos.scenario import Length, Scenario
from tests.conftest import Measured


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("scenario", [s for s in scenarios() if s.short], ids=lambda s: s.title)
def test_promise_holds(scenario: Scenario, measured: Measured) -> None:
    outcome = scenario.run(Length.SHORT)
    measured(f"{scenario.title}: {outcome.flows:,} new flows, {outcome.wrong:,} wrong; {outcome.note}")
    assert outcome.broken == ()
