"""Very many connections that become denied at once, and those of others meanwhile."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest

from agent.net import Family, Protocol
from tests.kernel.conversation import Conversation
from tests.kernel.guarded import ALLOW_PORT, DENY_ALL, PORT, Guarded
from tests.lab.cluster import http_get, wait_until
from tests.lab.tracked import track

MANY = 30_000


@pytest.mark.guarantee("8.5")
def test_one_pods_many_do_not_keep_anothers_waiting() -> None:
    with Guarded("routed", "nft") as guarded, contextlib.ExitStack() as stack:
        guarded.start("--cut-denied")
        one, out = Family.V4, guarded.out
        other, soon = (
            stack.enter_context(Conversation(out, guarded.client, one, Protocol.TCP, port))
            for port in (2080, 2081)
        )
        kept = stack.enter_context(Conversation(guarded.web, out, one, Protocol.TCP, 2080))
        track(guarded.node.netns, out.v4, guarded.web.v4, 2080, MANY)
        guarded.say("web", DENY_ALL)
        # Both while they are being looked for, and while they are being ended.
        time.sleep(0.3)
        guarded.say("client", ALLOW_PORT.replace("web", "client").replace(str(PORT), "2080"))
        assert soon.is_reset()
        wait_until(lambda: _cuts(guarded)["waiting"] > 0)
        guarded.say("client", DENY_ALL.replace("web", "client"))
        assert other.is_reset()
        wait_until(lambda: _cuts(guarded)["connections"] == MANY + 2, 180)
        assert kept.goes_on()
        # The newest first: the other's had ended while some of the many still waited.
        pods = [one["pod"] for one in _cuts(guarded)["last"]]
        assert set(pods) == {"default/web", "default/client"}
        assert pods[0] == "default/web"


def _cuts(guarded: Guarded) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(http_get(guarded.node, "/status")[1])["cuts"]
    return found
