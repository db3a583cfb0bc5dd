"""Asking the API server something small where it is silent or has failed: whether it is there, and serves."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import urllib3

from agent import log
from agent.kube.model import Kind
from agent.sources.apiserver.answers import ExpiredError
from agent.sources.apiserver.connect import Connection, is_of_configuration
from agent.sources.apiserver.contact import Contact
from agent.sources.apiserver.faults import RequestFailedError, expired, failure, refusal
from agent.sources.apiserver.identity import ClusterIdentity, OtherClusterError
from agent.sources.apiserver.kubeconfig import ConfigurationError
from agent.sources.apiserver.proof import UnprovenError
from agent.sources.apiserver.reflector import Reflector
from agent.sources.apiserver.refusals import FORBIDDEN, FORBIDDEN_SECONDS

_log = log.get(__name__)

CONNECT_SECONDS = 1.5
"""How long the probe waits for a connection: a path that is back is found by the next probe, not by a packet
that is sent again after ever longer pauses."""
READ_SECONDS = 5.0

_QUIET_SECONDS = 10.0
_LOOK_SECONDS = 2.0
_AGAIN_SECONDS = (0.5, 1.0)


class Probe:
    """Probes one server for all that ask it, on the thread that calls ``run``.

    The probe is the question of which cluster answers (:class:`ClusterIdentity`), on a new connection. It is
    put when a request has failed, then about each second until it is answered, and no sooner however many
    fail; and when all open watches have been silent for 10 s. Watches that have been silent for so long are
    dropped where it is not answered.
    """

    def __init__(
        self,
        connection: Connection,
        identity: ClusterIdentity,
        contact: Contact,
        reflectors: Sequence[Reflector],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._identity = identity
        self._contact = contact
        self._reflectors = reflectors
        self._clock = clock
        self._forbidden = 0

    def run(self) -> None:
        """Work until ``contact`` is stopped."""
        answered = 0.0
        while not self._contact.stopped:
            if self._contact.wait_for_trouble(_LOOK_SECONDS):
                self._contact.rest(self._look(silent=False))
                continue
            heard = [reflector.heard for reflector in self._reflectors if reflector.heard]
            if heard and self._clock() - max(*heard, answered) >= _QUIET_SECONDS:
                self._look(silent=True)
                answered = self._clock()

    def _look(self, *, silent: bool) -> float:
        """Probe once; return the seconds to wait before the next that a failed request asks for."""
        pause = random.uniform(*_AGAIN_SECONDS)  # noqa: S311 - spreads load
        try:
            self._identity.verify(self._clock(), CONNECT_SECONDS)
        except OtherClusterError:
            # It is there and serves; that it is the wrong one, each kind says for itself.
            pass
        except RequestFailedError as error:
            if error.code == 401:
                # Whoever renews the credentials is not to have to start the agent anew.
                self._connection.reset()
            self._contact.lost(refusal(Kind.NAMESPACE, "list", error))
            self._forbidden = self._forbidden + 1 if error.code in (403, 404) else 0
            return max(error.retry_after, FORBIDDEN_SECONDS if self._forbidden > FORBIDDEN else pause)
        except (ConfigurationError, UnprovenError, urllib3.exceptions.HTTPError, OSError) as error:
            fault = failure(error, self._connection.address)
            if is_of_configuration(error):
                self._connection.reset()
            self._drop(fault, silent=silent)
            self._contact.lost(fault)
            return pause
        except ExpiredError:
            # Not of a version, since it names none: the server, or what answers in its place, refuses all.
            self._contact.lost(expired(Kind.NAMESPACE, "list"))
            return pause
        except Exception as error:
            _log.exception("the probe failed")
            self._contact.lost(failure(error))
            return pause
        self._forbidden = 0
        self._contact.served()
        return pause

    def _drop(self, fault: str, *, silent: bool) -> None:
        """Drop the watches that have been silent for long, as ``silent`` says of all of them."""
        now = self._clock()
        dropped = [r for r in self._reflectors if silent or (r.heard and now - r.heard >= _QUIET_SECONDS)]
        if dropped and not self._contact.stopped:
            _log.warning("API server silent", fault=fault)
            for reflector in dropped:
                reflector.drop(fault)
