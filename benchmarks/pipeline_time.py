"""Time of the default pipeline against the time of capture: `python -m benchmarks.pipeline_time`.

BERT-base is validated; a Llama of 32 layers on the meta device has no values to validate with.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import graphwright as gw
from benchmarks.measurement import Measurement
from benchmarks.models import bert, llama, tokens

LIMITS = {"BERT-base": 0.15, "Llama, 32 layers, on meta": 0.10}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of one call, which other work on the machine does not change, and what it returned."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def measure(name: str, model: torch.nn.Module, inputs: dict[str, Any], rounds: int = 3) -> Measurement:
    """Capture and rewrite in turns; the first round, which also imports, does not count."""
    pairs = []
    for _ in range(rounds + 1):
        capture, program = timed(lambda: gw.capture(model, inputs))
        pipeline, _ = timed(lambda: gw.Pipeline("default").run(program))  # noqa: B023
        pairs.append((capture, pipeline))
    capture, pipeline = (statistics.median(times) for times in zip(*pairs[1:], strict=True))
    detail = f"pipeline {pipeline:.2f} s, capture {capture:.2f} s"
    return Measurement(f"default pipeline / capture, {name}", pipeline / capture, LIMITS[name], detail)


def main() -> None:
    """Measure and print both."""
    measure("BERT-base", bert(), tokens(2, 16)).print()
    with torch.device("meta"):
        model = llama()
    inputs = {name: value.to("meta") for name, value in tokens(2, 16).items()} | {"use_cache": False}
    measure("Llama, 32 layers, on meta", model, inputs).print()


if __name__ == "__main__":
    main()
