"""Memory that a step frees stays with the process for the next step, instead of going back to the system each time."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# glibc's mallopt: numbers of malloc.h, and the largest that it takes.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MOST, LARGEST_MMAP_THRESHOLD = 2**31 - 1, 32 * 2**20


@contextmanager
def kept_memory(device_type: str) -> Iterator[bool]:
    """While it is entered, for training on a CPU; True where the C library can do it (glibc).

    A step frees what the next one needs again. glibc gives much of it back to the system, which then clears every page
    anew. At the end free memory goes back, and glibc does again as it does by itself once large blocks were freed.
    """
    library = ctypes.CDLL(None) if device_type == "cpu" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield False
        return
    library.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)  # first: either one ends that glibc adapts them itself
    library.mallopt(TRIM_THRESHOLD, MOST)
    try:
        yield True
    finally:
        library.mallopt(TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)
        library.malloc_trim(0)
