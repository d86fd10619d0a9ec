"""What a call costs: seconds of the wall clock and of the process, and memory. Imported by the scripts beside it."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = resource.getpagesize()


def resident() -> float:
    """Memory that the process has now, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


@contextmanager
def cost(name: str) -> Iterator[None]:
    """Print what happens inside as a line of JSON; memory is the highest seen above that at the start."""
    start, wall, cpu, highest, done = resident(), time.perf_counter(), time.process_time(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            highest[0] = max(highest[0], resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done.set()
    thread.join()
    found = {"library": name, "wall_s": wall, "cpu_s": cpu, "extra_mib": highest[0] - start}
    print("COST " + json.dumps({key: round(v, 2) if isinstance(v, float) else v for key, v in found.items()}))
