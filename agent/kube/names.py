"""What names, labels and ports may look like in Kubernetes.

Each function returns what is wrong with a value together with the remedy, or "" when it is valid.
The rules are those of ``k8s.io/apimachinery/pkg/util/validation``.
"""

from __future__ import annotations

import re

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PORT_NAME = re.compile(r"[-a-z0-9]+")


def dns_label(value: str) -> str:
    """Check a DNS label (RFC 1123): a namespace's name."""
    if len(value) > 63:
        return f"{value!r} is {len(value)} characters long; shorten it to at most 63"
    if not _LABEL.fullmatch(value):
        return (
            f"{value!r} is not a DNS label; use only lower-case letters, digits and '-', "
            "and begin and end with a letter or digit"
        )
    return ""


def dns_subdomain(value: str) -> str:
    """Check a DNS subdomain (RFC 1123): most objects' names."""
    if len(value) > 253:
        return f"{value!r} is {len(value)} characters long; shorten it to at most 253"
    if not _SUBDOMAIN.fullmatch(value):
        return (
            f"{value!r} is not a DNS name; use only lower-case letters, digits, '-' and '.', "
            "and begin and end each part with a letter or digit"
        )
    return ""


def qualified_name(value: str) -> str:
    """Check a label or annotation key: a name, or a DNS prefix, '/' and a name."""
    prefix, slash, name = value.rpartition("/")
    if slash:
        if not prefix:
            return f"{value!r} has nothing before its '/'; remove the '/' or write a DNS name there"
        if wrong := dns_subdomain(prefix):
            return f"the prefix of {value!r} is wrong: {wrong}"
    if len(name) > 63:
        return f"the name in {value!r} is {len(name)} characters long; shorten it to at most 63"
    if not _QUALIFIED.fullmatch(name):
        return (
            f"{value!r} is not a key; use only letters, digits, '-', '_' and '.', "
            "and begin and end with a letter or digit"
        )
    return ""


def label_value(value: str) -> str:
    """Check a label's value."""
    if len(value) > 63:
        return f"{value!r} is {len(value)} characters long; shorten it to at most 63"
    if value and not _QUALIFIED.fullmatch(value):
        return (
            f"{value!r} is not a label value; use only letters, digits, '-', '_' and '.', "
            "and begin and end with a letter or digit"
        )
    return ""


def port_name(value: str) -> str:
    """Check a port's name (IANA_SVC_NAME, RFC 6335)."""
    if len(value) > 15:
        return f"{value!r} is {len(value)} characters long; a port's name has at most 15"
    if not _PORT_NAME.fullmatch(value):
        return f"{value!r} is not a port's name; use only lower-case letters, digits and '-'"
    if not any("a" <= c <= "z" for c in value):
        remedy = "remove the quotes for a number" if value.isdecimal() else "add a letter"
        return f"{value!r} has no letter, so it is no port's name; {remedy}"
    if "--" in value or value[0] == "-" or value[-1] == "-":
        return f"{value!r} begins or ends with '-' or has two in a row; remove them"
    return ""


def port_number(value: int) -> str:
    """Check a port number."""
    return "" if 1 <= value <= 65535 else f"{value} is no port number; write one from 1 to 65535"
