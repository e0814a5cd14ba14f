"""Keep freed memory for the next layer, where the C library would hand it back and ask for it again."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# Of glibc's malloc.h.  32 MiB is the most that the first may be; larger blocks still go back when they are freed.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_KEPT_BLOCK = 512 * 2**20, 32 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Let the process keep up to half a GiB of freed memory, in place of zeroed pages from the system at each layer.

    ``benchmarks/first_run.py`` measures what a light backbone gains by that.

    Returns:
        Whether the C library took it: glibc's does, on Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # musl has none
    kept = mallopt(_TRIM_THRESHOLD, _KEPT_BYTES), mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK)
    return all(kept)
