"""How the time of the default pipeline grows from 5,000 to 10,000 nodes: `python -m benchmarks.growth`."""

from __future__ import annotations

import statistics

import graphwright as gw
from benchmarks.measurement import Measurement
from benchmarks.models import bert, tokens
from benchmarks.pipeline_time import timed
from graphwright.ir.program import Program

LIMIT = 2.3
NODES = 10_000


def program_of(layers: int) -> Program:
    """A narrow BERT of so many layers."""
    return gw.capture(bert(layers, hidden=64, vocabulary=1000), tokens(2, 16))


def measure(rounds: int = 3) -> Measurement:
    """Ratio of the times for twice the nodes, scaled to exactly twice where the counts are not."""
    layer = (len(program_of(4).nodes) - len(program_of(2).nodes)) / 2
    layers = round(NODES / layer / 2)
    small, large = program_of(layers), program_of(2 * layers)
    times = [
        [timed(lambda: gw.Pipeline("default").run(each))[0] for each in (small, large)]  # noqa: B023
        for _ in range(rounds + 1)
    ][1:]
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    sizes = len(small.nodes), len(large.nodes)
    detail = f"{sizes[0]} nodes {first:.2f} s, {sizes[1]} nodes {second:.2f} s"
    return Measurement("default pipeline, time for twice the nodes", second / first, LIMIT, detail)


if __name__ == "__main__":
    measure().print()
