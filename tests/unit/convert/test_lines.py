"""Lines of a few words: which policy each is, and what is said of those that are none."""

from __future__ import annotations

import pytest

from agent.convert.manifest import UnfitError, document, to_yaml
from agent.convert.read import LinesError, read_line, read_lines
from agent.convert.statement import Statement, of_namespace, one
from agent.convert.words import LineError
from agent.convert.write import CannotSayError, write_line
from agent.kube.address import strict_network
from agent.kube.manifest import read_text
from agent.kube.model import (
    IPBlock,
    NetworkPolicy,
    Operator,
    Peer,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import Direction, Network, Protocol

API, WEB = one("app", "api"), one("app", "web")


def network(text: str) -> Network:
    found = strict_network(text)
    assert isinstance(found, Network)
    return found


def block(cidr: str, *excepts: str) -> Peer:
    return Peer(block=IPBlock(network(cidr), tuple(map(network, excepts))))


def ingress(*rules: Rule, pods: Selector = API) -> NetworkPolicy:
    return NetworkPolicy("shop", "p", pods, rules, None)


def egress(*rules: Rule, pods: Selector = API) -> NetworkPolicy:
    return NetworkPolicy("shop", "p", pods, None, rules)


DNS = Peer(one("k8s-app", "kube-dns"), of_namespace("kube-system"))
DNS_PORTS = (Port(Protocol.UDP, 53), Port(Protocol.TCP, 53))

LINES = {
    "allow shop/api from shop/web on tcp/8080": ingress(Rule((Peer(WEB),), (Port(Protocol.TCP, 8080),))),
    "allow shop/api from */web": ingress(Rule((Peer(WEB, Selector()),))),
    "allow shop/api from */*": ingress(Rule((Peer(None, Selector()),))),
    "allow shop/api from shop/*": ingress(Rule((Peer(Selector()),))),
    "allow shop/api from ops/*, ops/web": ingress(
        Rule((Peer(None, of_namespace("ops")), Peer(WEB, of_namespace("ops"))))
    ),
    "allow shop/api from {team=a}/web": ingress(Rule((Peer(WEB, one("team", "a")),))),
    "allow shop/api from {kubernetes.io/metadata.name=shop}/web": ingress(
        Rule((Peer(WEB, of_namespace("shop")),))
    ),
    "allow shop/api from anyone": ingress(Rule()),
    "allow shop/api from anyone on sctp": ingress(Rule((), (Port(Protocol.SCTP),))),
    "allow shop/api from 172.17.0.0/16|172.17.1.0/24,172.17.2.0/24, 10.0.0.0/8 on tcp/1-5, udp/dns": ingress(
        Rule(
            (block("172.17.0.0/16", "172.17.1.0/24", "172.17.2.0/24"), block("10.0.0.0/8")),
            (Port(Protocol.TCP, 1, 5), Port(Protocol.UDP, "dns")),
        )
    ),
    "allow shop/api to fd00::/8|fd01::/16": egress(Rule((block("fd00::/8", "fd01::/16"),))),
    "allow shop/* to dns": egress(Rule((DNS,), DNS_PORTS), pods=Selector()),
    "allow shop/* to dns; to shop/web": egress(Rule((DNS,), DNS_PORTS), Rule((Peer(WEB),)), pods=Selector()),
    "allow shop/{a,b!=c,d in (e,f),g notin (h,i),!j,k=} from anyone": ingress(
        Rule(),
        pods=Selector(
            (
                Requirement("a", Operator.EXISTS),
                Requirement("b", Operator.NOT_IN, ("c",)),
                Requirement("d", Operator.IN, ("e", "f")),
                Requirement("g", Operator.NOT_IN, ("h", "i")),
                Requirement("j", Operator.DOES_NOT_EXIST),
                Requirement("k", Operator.IN, ("",)),
            )
        ),
    ),
    "deny all ingress to shop": ingress(pods=Selector()),
    "deny all egress from shop/api": egress(),
    "deny all traffic of shop/{!a}": NetworkPolicy(
        "shop", "p", Selector((Requirement("a", Operator.DOES_NOT_EXIST),)), (), ()
    ),
    "allow shop/api from shop/web; to nobody": NetworkPolicy("shop", "p", API, (Rule((Peer(WEB),)),), ()),
    "allow shop/api from nobody; to anyone": NetworkPolicy("shop", "p", API, (), (Rule(),)),
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_its_policy_and_the_policy_its_line(line: str) -> None:
    expected = Statement(LINES[line])
    assert read_line(f"{line} as p") == expected
    assert write_line(expected) == f"{line} as p"
    (found,) = read_text(to_yaml([expected]).encode()).manifests
    assert (found.value, found.problems) == (LINES[line], ())


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (
            "allow  shop/api\tfrom shop/web,ops/web on 8080,tcp/1 ",
            "from shop/web, ops/web on tcp/8080, tcp/1",
        ),
        ("allow shop/{app=api} from shop/{app=web}", "from shop/web"),
        ("allow shop/api to nobody;from shop/web", "from shop/web; to nobody"),
        ("allow shop/api to kube-system/{k8s-app=kube-dns} on udp/53, tcp/53", "to dns"),
        ("allow shop/api from shop/{b,a}", "from shop/{a,b}"),
        ("allow shop/api from 10.0.0.0/8| 10.1.0.0/16", None),
    ],
)
def test_what_may_be_written_in_several_ways_has_one_line(written: str, canonical: str | None) -> None:
    if canonical is None:
        with pytest.raises(LineError, match="column 32"):
            read_line(written)
        return
    assert write_line(read_line(written)) == f"allow shop/api {canonical}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("permit shop/api", "column 1: 'permit': a line begins with 'allow' or 'deny all'"),
        ("allow", "column 6: the end of the line: the pods that it is for are missing"),
        ("allow shop from anyone", "column 7: 'shop': whether it is a namespace or a pod cannot be told"),
        ("allow */api from anyone", "column 7: '*/api': a policy is for pods of one namespace"),
        ("allow Shop/api from anyone", "column 7: 'Shop/api': its namespace is wrong: 'Shop' is not"),
        ("allow shop/ from anyone", "column 12: the end of the line: a name is missing after the slash"),
        ("allow shop/a_ from anyone", "column 12: 'a_' is not a label value"),
        ("allow shop/api for x", "column 16: 'for': a rule is missing here; write 'from' or 'to', and whom"),
        ("allow shop/api from", "column 20: the end of the line: whom it is about is missing"),
        ("allow shop/api from web", "column 21: 'web': is no peer; write pods as NAMESPACE/NAME"),
        ("allow shop/api from 10.0.0.1", "column 21: '10.0.0.1': is no peer; write 10.0.0.1/32"),
        ("allow shop/api from fd00::1", "column 21: 'fd00::1': is no peer; write fd00::1/128"),
        ("allow shop/api from 10.0.0.1/8", "column 21: '10.0.0.1/8' has bits set beyond its prefix length"),
        ("allow shop/api from 10.0.0.0/8|11.0.0.0/9", "column 32: '11.0.0.0/9': is not strictly inside"),
        ("allow shop/api from shop/web on 8080/tcp", "has no protocol before its slash; write tcp/8080"),
        ("allow shop/api from shop/web on icmp/1", "has no protocol before its slash; write tcp, udp or"),
        ("allow shop/api from shop/web on tcp/0", "column 33: 'tcp/0': 0 is no port number"),
        ("allow shop/api from shop/web on tcp/9-8", "column 33: 'tcp/9-8': 8 is less than 9; exchange"),
        ("allow shop/api from shop/web on tcp/a--b", "'a--b' begins or ends with '-' or has two in a row"),
        ("allow shop/api from shop/web on", "column 32: the end of the line: a port is missing"),
        ("allow shop/api from shop/web to dns", "column 30: 'to': belongs to nothing; write ';' before"),
        ("allow shop/api from shop/web, dns", "column 31: 'dns': stands alone after 'from' or 'to'"),
        ("allow shop/api from dns", "column 21: 'dns': stands for the cluster's DNS with its ports"),
        ("allow shop/api from anyone; from nobody", "column 34: 'nobody': 'from nobody' stands for no rule"),
        ("allow shop/api from nobody; from anyone", "column 34: 'anyone': 'from nobody' stands for no rule"),
        ("allow shop/{a=b from anyone", "column 12: '{': is not closed; write '}'"),
        ("allow shop/{a in (b} from anyone", "column 18: '(': is not closed; write ')'"),
        ("allow shop/{a=b,c<d} from anyone", "column 17: 'c<d' is not a key"),
        ("allow shop/{a b} from anyone", "column 13: 'a b': is no part of a selector"),
        ("deny ingress to shop", "column 6: 'ingress': a policy denies all but what others allow"),
        ("deny all to shop", "column 10: 'to': is not expected here; write 'deny all ingress to'"),
        ("deny all ingress shop", "column 18: 'shop': is not expected here"),
        ("deny all ingress to shop as Shop", "column 29: 'Shop': 'as' takes the policy's name"),
        ("deny all ingress to shop mode off", "column 31: 'off': 'mode' takes one of enforce, audit,"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_with_column_word_and_remedy(line: str, message: str) -> None:
    with pytest.raises(LineError) as caught:
        read_line(line)
    assert message in str(caught.value)


def test_a_short_name_is_the_value_of_the_label_that_is_chosen() -> None:
    statement = read_line("allow shop/api from shop/web", "app.kubernetes.io/name")
    assert statement.policy.pod_selector == one("app.kubernetes.io/name", "api")
    assert write_line(statement, "app.kubernetes.io/name") == "allow shop/api from shop/web"
    assert write_line(statement).startswith("allow shop/{app.kubernetes.io/name=api} from")


def test_the_mode_is_the_annotation() -> None:
    statement = read_line("deny all ingress to shop as closed mode audit")
    assert write_line(statement) == "deny all ingress to shop as closed mode audit"
    assert document(statement)["metadata"] == {
        "name": "closed",
        "namespace": "shop",
        "annotations": {"netpol-agent.io/mode": "audit"},
    }


def test_a_name_is_made_of_the_line_and_cut_with_a_hash() -> None:
    assert read_line("deny all ingress to shop").policy.name == "deny-all-ingress-to-shop"
    peers = ", ".join(f"10.0.{n}.0/24" for n in range(20))
    first, second = (read_line(f"allow shop/api {word} {peers}").policy.name for word in ("from", "to"))
    assert len(first) <= 63
    assert first != second
    assert write_line(read_line(f"allow shop/api from {peers}")) == f"allow shop/api from {peers}"


def test_lines_have_comments_and_each_wrong_one_is_named() -> None:
    text = "# the shop\n\ndeny all ingress to shop # closed\nallow x\nallow y\ndeny all ingress to shop\n"
    with pytest.raises(LinesError) as caught:
        read_lines(text.splitlines())
    assert [line.partition(":")[0] for line in caught.value.wrong] == ["line 4", "line 5", "line 6"]
    assert "as that of line 3 is; end it with 'as ANOTHER-NAME'" in caught.value.wrong[2]
    assert [one.policy.name for one in read_lines(text.splitlines()[:3])] == ["deny-all-ingress-to-shop"]


def test_what_no_line_says_is_refused_with_the_reason() -> None:
    without_effect = NetworkPolicy("shop", "p", API, (), None, ignored=(Direction.EGRESS,))
    for statement, why in (
        (Statement(without_effect), "its rules for egress have no effect"),
        (Statement(ingress(Rule((Peer(),)))), "it has a peer that matches nothing"),
        (Statement(NetworkPolicy("shop", "p", API)), "it names no direction"),
        (Statement(ingress(), "perhaps"), "its mode is 'perhaps'"),
        (Statement(ingress(pods=one("a b", "c"))), "a line of it could not be read again"),
        (Statement(ingress(pods=one("a", "b,c"))), "a line of it would mean another policy"),
    ):
        with pytest.raises(CannotSayError, match=why):
            write_line(statement)


def test_a_manifest_that_a_create_would_refuse_is_not_written() -> None:
    with pytest.raises(UnfitError, match=r"shop/p: spec\.podSelector\.matchLabels: 'a b' is not a key"):
        to_yaml([Statement(ingress(pods=one("a b", "c")))])
