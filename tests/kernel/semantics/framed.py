"""What guards the frames of the stage's pods, for tests."""

from __future__ import annotations

from agent.dataplane.frames.guard import FrameGuard, Guarding
from agent.dataplane.podlinks import LinkFinder
from agent.runtime.linked_pods import owners_of, without_others_addresses
from tests.kernel.semantics.stage import Stage


class OnStage:
    """The guard of the stage's policed node, which tests call as the agent does."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._finder = LinkFinder(senders=True)
        self.guard = FrameGuard()

    def follow(self) -> Guarding:
        """Look for links, and have their frames guarded."""
        stage = self._stage
        with stage.kernel():
            links = self._finder.find(owners_of(stage.engine, of_all=True))
            done = self.guard.follow(without_others_addresses(stage.engine, links))
        assert not done.faults
        return done

    def again(self) -> None:
        """Begin anew, as a restart does."""
        self.guard.close()
        self._finder, self.guard = LinkFinder(senders=True), FrameGuard()
