"""An agent as on Linux before 6.9, where no table of nftables can belong to a program and stay without it."""

from __future__ import annotations

import sys

from agent.commands import cli
from agent.kernel import nf_owned

if __name__ == "__main__":
    nf_owned.flags = lambda *_: 0
    cli.main(sys.argv[1:], prog_name="netpol-agent")
