"""Measure all sizes, each in a process of its own: `python -m benchmarks.sizes [NAME ...]`.

Exit status 1 if a limit is not kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.measurement import Measurement

NAMES = ("import_time", "pipeline_time", "growth", "memory", "eager_speed")
THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


def run(name: str) -> list[Measurement]:
    """Run one benchmark module and read the lines it prints."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    done = subprocess.run(command, env=os.environ | THREADS, stdout=subprocess.PIPE, text=True, check=True)
    return [Measurement(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def main(names: tuple[str, ...]) -> int:
    """Print one line for each benchmark; returns the exit status."""
    kept = True
    for found in (found for name in names for found in run(name)):
        kept &= found.ok
        mark = "ok  " if found.ok else "OVER"
        print(f"{mark} {found.value:6.3f} (limit {found.limit})  {found.name}  [{found.detail}]", flush=True)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or NAMES))
