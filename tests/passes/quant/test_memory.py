"""Memory that quantizing frees goes back to the system."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from graphwright.passes.quant.memory import return_freed

PIECES, SIZE = 2000, 100_000  # below the size from which glibc maps an allocation by itself


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc"
)
def test_pieces_between_values_in_use_are_returned():
    pieces = [torch.zeros(SIZE, dtype=torch.uint8) for _ in range(PIECES)]
    full = resident()
    del pieces[:-1]
    return_freed()
    assert full - resident() > 0.8 * PIECES * SIZE
