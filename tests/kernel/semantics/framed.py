"""What guards the frames of the stage's pods, for tests."""

from __future__ import annotations

from agent.dataplane.frames.guard import FrameGuard, Guarding
from agent.dataplane.podlinks import LinkFinder, PodLink
from agent.proof.frames.prove import prove
from agent.proof.frames.reading import read
from agent.proof.given import Given
from agent.runtime.linked_pods import owners_of, without_others_addresses
from tests.kernel.semantics.stage import Stage


class OnStage:
    """The guard of the stage's policed node, which tests call as the agent does."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._finder = LinkFinder(senders=True)
        self.guard = FrameGuard()
        self._links: tuple[PodLink, ...] = ()

    def follow(self) -> Guarding:
        """Look for links, and have their frames guarded."""
        stage = self._stage
        with stage.kernel():
            links = self._finder.find(owners_of(stage.engine, of_all=True))
            self._links = without_others_addresses(stage.engine, links)
            done = self.guard.follow(self._links)
        assert not done.faults
        assert self.proved() == []
        return done

    def proved(self) -> list[str]:
        """Return what a proof finds to differ from what the links that were followed may send."""
        holders = {number: tuple(addresses) for number, addresses in self.guard.held.items()}
        given = Given("near", "nft", (4, 6), (), (), (), frames=self._links, holders=holders)
        with self._stage.kernel():
            return [one.said for one in prove(given, read(), None)[1]]

    def again(self) -> None:
        """Begin anew, as a restart does."""
        self.guard.close()
        self._finder, self.guard = LinkFinder(senders=True), FrameGuard()
