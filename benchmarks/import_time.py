"""Seconds that `import graphwright` adds to `import torch`: `python -m benchmarks.import_time`."""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.measurement import Measurement

LIMIT = 0.3
NAMED = "import torch, time; start = time.perf_counter(); import graphwright; "
PRINT = "print(time.perf_counter() - start)"
EVERYTHING = NAMED + "[getattr(graphwright, name) for name in graphwright.__all__]; " + PRINT


def seconds(code: str, runs: int) -> float:
    """Median over fresh processes of the seconds that `code` prints."""
    command = [sys.executable, "-c", code]
    return statistics.median(
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(runs)
    )


def measure(runs: int = 7) -> Measurement:
    """The import alone; since names are imported when first used, the detail says what using all of them costs."""
    detail = f"{runs} processes; {seconds(EVERYTHING, runs):.2f} s with every public name used"
    return Measurement("import graphwright, seconds over torch", seconds(NAMED + PRINT, runs), LIMIT, detail)


if __name__ == "__main__":
    measure().print()
