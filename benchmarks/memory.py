"""Peak memory while the default pipeline runs against the model's weights: `python -m benchmarks.memory`.

Linux only: reads and resets the peak of the resident set in /proc. What the process held before (interpreter,
libraries, the captured graph) is not counted, the weights are: 1.0 means that the pipeline needs nothing of its own.
"""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path

import graphwright as gw
from benchmarks.measurement import Measurement
from benchmarks.models import bert, tokens

LIMIT = 1.15


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status: `VmRSS` now, `VmHWM` at the peak."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, field
    return 1024 * int(found[1])


def measure() -> Measurement:
    """Run once to import everything, then measure."""
    gw.Pipeline("default").run(gw.capture(bert(1, hidden=64), tokens(2, 16)))
    program = gw.capture(bert(), tokens(2, 16))
    weights = program.state_bytes()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # gives free pages back, which would hide what the pipeline takes
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    result = gw.Pipeline("default").run(program)
    grown = resident("VmHWM") - before
    detail = f"weights {weights / 2**20:.0f} MiB, grown by {grown / 2**20:.1f} MiB, {len(result.program.nodes)} nodes"
    return Measurement("peak memory of the pipeline / weights, BERT-base", (weights + grown) / weights, LIMIT, detail)


if __name__ == "__main__":
    measure().print()
