"""Memory that a process holds beyond what it uses."""

from __future__ import annotations

import ctypes
import sys


def return_freed() -> None:
    """Give freed memory back to the system, where the C library (glibc) keeps it; elsewhere nothing happens.

    Values of batches are just small enough that it keeps their memory, in pieces that later values rarely fit.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
