"""Examine architectures in processes of their own: a crash or a time-out is a row, not the end."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmarks.coverage.architectures import Architecture
from benchmarks.coverage.rows import CRASH, TIMEOUT, Row

_PRELOADED = ["torch", "transformers", "torch.export", "benchmarks.coverage.examine", "graphwright.frontends.export"]


@dataclass(frozen=True)
class Limits:
    """What one architecture may use.

    Args:
        seconds: Time from start to row.
        gigabytes: Address space of the process.
    """

    seconds: float = 120.0
    gigabytes: float = 8.0


@dataclass
class _Job:
    architecture: Architecture
    process: Any
    reader: Connection
    start: float


def examine_all(architectures: Iterable[Architecture], jobs: int, limits: Limits) -> Iterator[Row]:
    """Rows in the order in which they are done.

    Args:
        architectures: What to examine.
        jobs: Processes at a time, one thread each.
        limits: For each process.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    waiting = deque(architectures)
    running: list[_Job] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(context, waiting.popleft(), limits))
            wait([job.reader for job in running], timeout=1.0)
            for job in list(running):
                row = _finished(job, limits)
                if row is not None:
                    running.remove(job)
                    yield row
    finally:
        for job in running:
            job.process.kill()


def _start(context: Any, architecture: Architecture, limits: Limits) -> _Job:
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(architecture, writer, limits), daemon=True)
    process.start()
    writer.close()
    return _Job(architecture, process, reader, time.monotonic())


def _finished(job: _Job, limits: Limits) -> Row | None:
    """The row of a job that is over, None for one that is still at work."""
    row = Row(job.architecture.model_type, job.architecture.class_name, job.architecture.head)
    if job.reader.poll():
        try:
            row = job.reader.recv()
        except EOFError:
            job.process.join(5)
            row.status, row.reason = CRASH, f"the process ended with status {job.process.exitcode}"
    elif time.monotonic() - job.start > limits.seconds:
        row.status, row.reason = TIMEOUT, f"not done after {limits.seconds:.0f} s"
        job.process.kill()
    else:
        return None
    job.process.join(5)
    job.reader.close()
    return row


def _work(architecture: Architecture, writer: Connection, limits: Limits) -> None:
    """In the process: one thread, limited memory, no output."""
    _be_quiet()
    size = int(limits.gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    import torch

    from benchmarks.coverage.examine import examine

    torch.set_num_threads(1)
    writer.send(examine(architecture))
    writer.close()


def _be_quiet() -> None:
    """Models print and warn about defaults; what matters is in the row."""
    import logging

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    logging.disable(logging.WARNING)
