"""How the time of the default pipeline grows from 5,000 to 10,000 nodes: `python -m benchmarks.growth`."""

from __future__ import annotations

import gc
from functools import partial

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


def measure(rounds: int = 6) -> Measurement:
    """Ratio of the shortest times of several turns.

    Objects from before are out of the garbage collector's sight, as one pass over all of torch costs a third of a
    second and falls now into this run, now into that; those that the pipeline makes are not.
    """
    layer = (len(program_of(4).nodes) - len(program_of(2).nodes)) / 2
    layers = round(NODES / layer / 2)
    programs = [program_of(layers), program_of(2 * layers)]
    gc.collect()
    gc.freeze()
    first, second = (min(times) for times in zip(*(turn(programs) for _ in range(rounds)), strict=True))
    sizes = [len(program.nodes) for program in programs]
    detail = f"{sizes[0]} nodes {first:.2f} s, {sizes[1]} nodes {second:.2f} s"
    return Measurement("default pipeline, time for twice the nodes", second / first, LIMIT, detail)


def turn(programs: list[Program]) -> list[float]:
    """Processor seconds that the pipeline takes on each program."""
    times = []
    for program in programs:
        gc.collect()
        times.append(timed(partial(gw.Pipeline("default").run, program))[0])
    return times


if __name__ == "__main__":
    measure().print()
