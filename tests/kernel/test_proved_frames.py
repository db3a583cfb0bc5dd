"""The table that guards frames held against what pods may send: what is broken in it is found."""

from __future__ import annotations

import pytest

from tests.kernel.frame_breaks import GuardedNode

pytestmark = pytest.mark.usefixtures("netns")


@pytest.mark.guarantee("7.2")
def test_each_break_of_the_table_is_found() -> None:
    assert GuardedNode().missed() == []
