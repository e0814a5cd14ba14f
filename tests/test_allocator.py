"""Freed memory stays with the process, so that the next layer need not ask the system for it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Blocks of 16 MiB, which a network's maps are, freed and taken again: each new page is a fault.
FAULTS = """
import resource, sys
import numpy as np
from actionfusion.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [np.ones(2**21) for _ in range(3)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(int(kept), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told")
def test_freed_blocks_are_taken_again_without_page_faults() -> None:
    def run(word: str) -> tuple[int, int]:
        done = subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True)
        kept, faults = map(int, done.stdout.split())
        return kept, faults

    kept, faults = run("keep")

    assert kept == 1
    assert faults < run("plain")[1] / 10
