"""A program that may have few descriptors from its beginning.

``python -m tests.kernel.limited SOFT HARD MODULE ARGUMENTS...`` becomes ``python -m MODULE ARGUMENTS...``.
"""

from __future__ import annotations

import os
import resource
import sys

if __name__ == "__main__":
    soft, hard, *module = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))
    os.execv(sys.executable, [sys.executable, "-m", *module])  # noqa: S606
