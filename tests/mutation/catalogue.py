"""Every mutation."""

from __future__ import annotations

from tests.mutation.asked import ASKED
from tests.mutation.changes import CHANGES
from tests.mutation.cuts import CUTS
from tests.mutation.early import EARLY
from tests.mutation.flows import FLOWS
from tests.mutation.frames import FRAMES
from tests.mutation.links import LINKS
from tests.mutation.loop import LOOP
from tests.mutation.metrics import METRICS
from tests.mutation.model import Mutation
from tests.mutation.new_pods import NEW_PODS
from tests.mutation.objects import OBJECTS
from tests.mutation.policy import POLICY
from tests.mutation.proof import PROOF
from tests.mutation.rules import RULES
from tests.mutation.staging import STAGING
from tests.mutation.steps import STEPS
from tests.mutation.told import TOLD

MUTATIONS: tuple[Mutation, ...] = (
    *OBJECTS,
    *POLICY,
    *RULES,
    *STEPS,
    *EARLY,
    *STAGING,
    *LINKS,
    *FRAMES,
    *NEW_PODS,
    *LOOP,
    *ASKED,
    *PROOF,
    *METRICS,
    *FLOWS,
    *TOLD,
    *CHANGES,
    *CUTS,
)
