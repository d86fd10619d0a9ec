"""Time of the default pipeline against the time of capture, BERT-base: `python -m benchmarks.pipeline_time`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import graphwright as gw
from benchmarks.measurement import Measurement
from benchmarks.models import bert, tokens

LIMIT = 0.15


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of one call, which other work on the machine does not change, and what it returned."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def measure(rounds: int = 3) -> Measurement:
    """Capture and rewrite in turns; the first round, which also imports, does not count."""
    model, pairs = bert(), []
    for _ in range(rounds + 1):
        capture, program = timed(lambda: gw.capture(model, tokens(2, 16)))
        pipeline, _ = timed(lambda: gw.Pipeline("default").run(program))  # noqa: B023
        pairs.append((capture, pipeline))
    capture, pipeline = (statistics.median(times) for times in zip(*pairs[1:], strict=True))
    detail = f"pipeline {pipeline:.2f} s, capture {capture:.2f} s"
    return Measurement("default pipeline / capture, BERT-base", pipeline / capture, LIMIT, detail)


if __name__ == "__main__":
    measure().print()
