"""The proof: what the kernel does with every packet of this node's pods, against what the policies say.

For each address of a pod here and each direction, the rules that were read are walked for all peers and ports
at once (:mod:`.walk`), by each way that a packet may come. What passes must be what the specification says.

Three more modules say what no policy does: :mod:`.node` of what the node and its pods send each other,
:mod:`.strange` of addresses that a link's pod does not have, and :mod:`.frames` of what pods write by
themselves, where that is guarded. Not in the statement are packets of discovery,
which IPv6 needs, and those to tunnels of other nodes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from agent.kube.model import Key
from agent.net import Family
from agent.proof import beside, node, strange
from agent.proof.difference import Difference, Result
from agent.proof.expected import Expected
from agent.proof.family import Proof
from agent.proof.frames import prove as frames
from agent.proof.given import Given
from agent.proof.reading import Reading


def prove(given: Given, reading: Reading, pod: Key | None = None) -> Result:
    """Hold what the kernel was read to hold against the specification; ``pod``: of this pod alone."""
    started = time.perf_counter()
    expected = Expected(given)
    found: list[Difference] = []
    addresses: set[int] = set()
    isolated: set[int] = set()
    for family in map(Family, given.families):
        one = Proof(family, given, expected, reading)
        found += one.differences(pod, _others(one, pod))
        for target in expected.targets(family):
            if target.pod is not None and pod in (None, target.pod):
                addresses.add(target.number)
                isolated |= {target.number} if expected.isolating(target) else set()
    links, of_frames = frames.prove(given, reading.frames, pod)
    found += of_frames
    found += beside.differences(given, reading.beside)
    found.sort(key=lambda one: (one.size, one.said))
    wrong = {one.pod for one in found if one.pod}
    everything = any(not one.pod for one in found)
    return Result(
        tuple(found),
        len(addresses),
        len(isolated),
        comparing=time.perf_counter() - started,
        wrong=tuple(sorted(wrong)),
        everything=everything,
        links=links,
        notes=reading.beside.notes,
        proved=() if everything else tuple(map(str, expected.enforced(wrong))),
    )


def _others(proof: Proof, pod: Key | None) -> Iterator[Difference]:
    return itertools.chain(node.differences(proof, pod), strange.differences(proof, pod))
