"""Timing of alternatives against each other, fair on a machine that is also doing other things."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def interleaved_medians(
    candidates: Mapping[str, Callable[[], Any]], rounds: int = 20, warmup: int = 3, budget: float = 30.0
) -> dict[str, float]:
    """Median seconds of one call of each candidate.

    The candidates take turns, so that whatever slows the machine down slows all of them.

    Args:
        candidates: What to call, by label.
        rounds: How often each is timed at most.
        warmup: How often each is called before.
        budget: Seconds after which no further round begins, though there are at least three.
    """
    begin = time.perf_counter()
    seconds: dict[str, list[float]] = {label: [] for label in candidates}
    for turn in range(warmup + rounds):
        if turn >= warmup + 3 and time.perf_counter() - begin > budget:
            break
        for label, call in candidates.items():
            start = time.perf_counter()
            call()
            if turn >= warmup:
                seconds[label].append(time.perf_counter() - start)
    return {label: statistics.median(times) for label, times in seconds.items()}
