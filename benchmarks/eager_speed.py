"""Latency of the eager artifact against transformers' sdpa, BERT-base: `python -m benchmarks.eager_speed`.

Meant for 2 threads; `benchmarks.sizes` sets OMP_NUM_THREADS=2 and OMP_WAIT_POLICY=PASSIVE.
"""

from __future__ import annotations

from functools import partial

import torch

import graphwright as gw
from benchmarks.measurement import Measurement
from benchmarks.models import bert, tokens
from graphwright.measure import interleaved_medians

LIMIT = 1.0
SHAPES = ((1, 32), (1, 128), (8, 128))


@torch.no_grad()
def measure(rounds: int = 25) -> Measurement:
    """The worst ratio of the median latencies over several shapes, both models taking turns."""
    original, sdpa = bert(), bert(attention="sdpa")
    sdpa.load_state_dict(original.state_dict())
    program = gw.Pipeline("default").run(gw.capture(original, tokens(2, 16))).program
    ours = gw.target("eager").lower(program)
    ratios = {}
    for shape in SHAPES:
        batch = tokens(*shape)
        calls = {"ours": partial(ours, **batch), "sdpa": partial(sdpa, **batch)}
        seconds = interleaved_medians(calls, rounds)
        ratios[f"{shape[0]}x{shape[1]}"] = seconds["ours"] / seconds["sdpa"]
    detail = ", ".join(f"{shape}: {ratio:.3f}" for shape, ratio in ratios.items())
    return Measurement("eager artifact / transformers sdpa, BERT-base", max(ratios.values()), LIMIT, detail)


if __name__ == "__main__":
    measure().print()
