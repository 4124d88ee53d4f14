"""Memory that training frees and takes again at every step, kept by the process instead of given back each time.

glibc returns freed blocks of megabytes to the kernel and asks for them again, zeroed page by page: at every step of a
CPU training that is tens of thousands of page faults. Told to keep them, it makes none: `benchmarks/NOTES.md`.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_NEVER = 2**31 - 1
_PAD = 64 * 2**20  # bytes asked of the kernel at once


def keep_freed_memory() -> bool:
    """Have this process keep what it frees, until it ends; False where the C library is not glibc.

    A process then holds the most it ever needed, which is what a training needs at every step anyhow.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    taken = [mallopt(*setting) for setting in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _PAD))]
    return taken == [1, 1, 1]
