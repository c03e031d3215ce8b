"""How a process with a model gets its memory."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Parameters of glibc's ``mallopt`` (malloc.h)."""
KEPT = 1 << 30
"""Bytes that are kept at most when nothing uses them."""
GROWTH = 64 << 20


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed for the next step; False where the C library is another one.

    By default it maps every block above 32 MB anew and gives it back when it is freed. A step of a state on 128 x 128
    points frees a dozen of them, and the kernel would clear their pages again in every step.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((MMAP_MAX, 0), (TRIM_THRESHOLD, KEPT), (TOP_PAD, GROWTH))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)
