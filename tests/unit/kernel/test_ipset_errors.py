"""Numbers of the kernel's ipset, held against another program's list of them."""

from __future__ import annotations

import errno

import pytest
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_IPSET
from pyroute2.netlink.nfnetlink import ipset as uapi

from agent.kernel import ipset
from agent.kernel.ipset_errors import Code, error_of


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.HASH_FULL])
def test_error_numbers_are_the_kernels(code: Code) -> None:
    assert getattr(uapi, f"IPSET_ERR_{code.name}") == code


def test_the_first_number_of_a_type_of_set_is_the_hash_types_full() -> None:
    assert uapi.IPSET_ERR_TYPE_SPECIFIC == Code.HASH_FULL


@pytest.mark.parametrize("command", ["CREATE", "DESTROY", "SWAP", "LIST", "ADD", "DEL"])
def test_commands_are_the_kernels(command: str) -> None:
    assert getattr(uapi, f"IPSET_CMD_{command}") == getattr(ipset, f"CMD_{command}")
    assert ipset.FLAG_LIST_HEADER == uapi.IPSET_FLAG_LIST_HEADER
    assert ipset._SUBSYSTEM == NFNL_SUBSYS_IPSET


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (Code.BUSY, "a rule still refers to the set"),
        (4999, "ipset error 4999"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_each_number_says_something(code: int, said: str) -> None:
    error = error_of("S", code)
    assert str(error) == f"set S: {said}"
    assert error.referenced is (code == Code.BUSY)
