"""What the C library does with freed memory: kept for the next step, or given back."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
"""Parameters of glibc's ``mallopt`` (malloc.h)."""
KEPT = 1 << 30
"""Bytes that are kept at most when nothing uses them."""
GROWTH = 64 << 20
LARGE = 1 << 20
"""Bytes of a block that goes back to the system when it is freed."""


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed for the next step; False where the C library is another one.

    By default it maps every block above 32 MB anew and gives it back when it is freed. A step of a state on 128 x 128
    points frees a dozen of them, and the kernel would clear their pages again in every step.
    """
    return _set((MMAP_MAX, 0), (TRIM_THRESHOLD, KEPT), (TOP_PAD, GROWTH))


def give_back_freed_memory() -> bool:
    """Has glibc give every large block back to the system; False where the C library is another one.

    By default each thread keeps up to 64 MB of what it has freed, once a block of 32 MB was among it.
    """
    return _set((MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, LARGE))


def _set(*settings: tuple[int, int]) -> bool:
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)
