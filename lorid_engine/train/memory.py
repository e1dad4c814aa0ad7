"""keep_freed_memory: a pass needs as much memory as the one before; to give it back in between costs page faults."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Has glibc's allocator keep what is freed for the next allocation; returns whether it does.

    Allocations above 32 MiB are always the system's own. Elsewhere than with glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
