"""What pages of lists took is given back to the kernel, though what is kept of them lies between."""

from __future__ import annotations

import subprocess
import sys

PAGES, PAGE = 40, 1 << 20

PROGRAM = f"""
from agent.runtime import heap

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

heap.keep_little()
bytearray({PAGE})
before, kept, pages = resident(), [], []
for _ in range({PAGES}):
    pages.append(bytearray(b"x" * {PAGE}))
    kept.append(bytearray(1000))
full = resident()
pages.clear()
heap.give_back()
print(full - before, resident() - before)
"""


def test_pages_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    full, left = map(int, done.stdout.split())
    assert full > PAGES * PAGE * 0.9
    assert left < PAGES * PAGE * 0.1
