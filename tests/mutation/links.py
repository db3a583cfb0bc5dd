"""Breakages of how isolated pods are judged by their links."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

LINKS = (
    Mutation(
        "an address honest by whichever link it comes",
        "agent.dataplane.iptables.rules.linked:_OneWay.chains",
        "_Leads(goto, allowed, self._by(link))",
        "_Leads(goto, allowed)",
        (Selection.LINKED,),
    ),
    Mutation(
        "what is strange to a link let go on",
        "agent.dataplane.iptables.rules.linked:_OneWay.chains",
        "goto(last, self._unmarked),",
        "",
        (Selection.LINKED,),
    ),
    Mutation(
        "a link that is nobody's for certain left open",
        "agent.dataplane.iptables.rules.linked:_judging",
        "return Judging(())",
        "return None",
        (Selection.LINKED,),
    ),
    Mutation(
        "one name looked for in place of all that begin like it",
        "agent.dataplane.iptables.rules.linked:_OneWay._by_name",
        "f'{start}+',",
        "start,",
        (Selection.LINKED,),
    ),
    Mutation(
        "an open pod's address judged as an isolated one's, where both claim it",
        "agent.dataplane.iptables.rules.linked:_OneWay._into_bridges",
        "all((link in closed for link in its))",
        "any((link in closed for link in its))",
        (Selection.LINKED,),
    ),
    Mutation(
        "whoever claims an address last has the link",
        "agent.dataplane.podlinks:resolve",
        "there and pod not in taken and any((owners.get(address) == pod for address in addresses))",
        "False and any((owners.get(address) == pod for address in addresses))",
        (Selection.PODLINKS,),
    ),
    Mutation(
        "one of two links that claim the same pod believed",
        "agent.dataplane.podlinks:resolve",
        "{indexes[0]: pod for pod, indexes in alone.items() if len(indexes) == 1}",
        "{indexes[0]: pod for pod, indexes in alone.items()}",
        (Selection.PODLINKS,),
    ),
    Mutation(
        "a pod that forwards for others taken for all of them",
        "agent.dataplane.podlinks:resolve",
        "{index: next(iter(pods)) for index, pods in routed.items() if len(pods) == 1}",
        "{index: next(iter(pods)) for index, pods in routed.items()}",
        (Selection.PODLINKS,),
    ),
    Mutation(
        "an address behind a router taken for one on the link",
        "agent.kernel.rtnetlink:route_of",
        "kind in (RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA)",
        "kind in (RTA_MULTIPATH, RTA_VIA)",
        (Selection.RTNETLINK,),
    ),
    Mutation(
        "an address of this host taken for one behind an interface",
        "agent.kernel.rtnetlink:route_of",
        "_ROUTE_REST.unpack_from(message)[3] != RTN_UNICAST",
        "False",
        (Selection.RTNETLINK,),
    ),
    Mutation(
        "what is in another namespace taken for this one's",
        "agent.kernel.rtnetlink:link_of",
        "_number(fields.get(IFLA_LINK_NETNSID))",
        "None",
        (Selection.RTNETLINK,),
    ),
)
