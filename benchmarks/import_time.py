"""Seconds that `import graphwright` adds to `import torch`: `python -m benchmarks.import_time`."""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.measurement import Measurement

LIMIT = 0.3
CODE = "import torch, time; start = time.perf_counter(); import graphwright; print(time.perf_counter() - start)"


def measure(runs: int = 7) -> Measurement:
    """Median over fresh processes."""
    times = [
        float(subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout)
        for _ in range(runs)
    ]
    return Measurement("import graphwright, seconds over torch", statistics.median(times), LIMIT, f"{runs} processes")


if __name__ == "__main__":
    measure().print()
