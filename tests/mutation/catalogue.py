"""Every mutation."""

from __future__ import annotations

from tests.mutation.dataplane import DATAPLANE
from tests.mutation.links import LINKS
from tests.mutation.model import Mutation
from tests.mutation.policy import POLICY

MUTATIONS: tuple[Mutation, ...] = (*POLICY, *DATAPLANE, *LINKS)
