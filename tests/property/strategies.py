"""Random things as Hypothesis strategies."""

from __future__ import annotations

from functools import partial

from tests.property import histories as of
from tests.property import pieces
from tests.property.choices import drawn
from tests.property.words import CORNERS

blocks = drawn(partial(pieces.block, words=CORNERS))
rules = drawn(partial(pieces.rule, words=CORNERS))
policies = drawn(partial(pieces.policy, words=CORNERS))
histories = drawn(of.history)
probes = drawn(of.probe)
budgets = drawn(of.budgets)
member_budgets = drawn(of.member_budgets)
