"""Packed linears beside half-precision linears: `python -m benchmarks.packed [--device cuda]`.

Several weights take turns, so that they come from memory. A CPU is timed on one thread by process CPU time, a GPU by
events around a CUDA graph; each number is a median.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from graphwright.ir.packed import pack_codes
from graphwright.lowering.eager.packed.cpu import PackedCall
from graphwright.lowering.eager.packed.cuda import CudaPackedCall

Call = Callable[[int], Tensor]
GROUP = 128


def cpu_seconds(calls: dict[str, Call], copies: int, rounds: int) -> dict[str, float]:
    """Seconds of one call of each, interleaved."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            for i in range(copies):
                call(i)
            if turn:
                found[name].append((time.process_time() - start) / copies)
    return {name: statistics.median(times) for name, times in found.items()}


def cuda_seconds(calls: dict[str, Call], copies: int, rounds: int) -> dict[str, float]:
    """Seconds of one call of each, replayed as a CUDA graph."""
    return {name: _replayed(call, copies, rounds) for name, call in calls.items()}


def _replayed(call: Call, copies: int, rounds: int) -> float:
    for i in range(copies):
        call(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(copies):
            call(i)
    times = []
    for _ in range(rounds + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000 / copies)
    return statistics.median(times[1:])


def measure(outputs: int, inputs: int, rows: int, device: str, copies: int) -> str:
    """One line of the table."""
    make = CudaPackedCall if device == "cuda" else lambda bits, size: PackedCall(bits, size, "auto")
    packed = [pack_codes(torch.randint(0, 16, (outputs, inputs), device=device), 4) for _ in range(copies)]
    scales = [torch.rand(outputs, inputs // GROUP, device=device).half() / 100 for _ in range(copies)]
    dense = [torch.randn(outputs, inputs, device=device).bfloat16() for _ in range(copies)]
    runs = [make(4, GROUP) for _ in range(copies)]
    x = torch.randn(rows, inputs, device=device).bfloat16()
    calls: dict[str, Call] = {
        "bfloat16": lambda i: torch.nn.functional.linear(x, dense[i]),
        "packed": lambda i: runs[i](x, packed[i], scales[i], None, None, None),
    }
    seconds = (cuda_seconds if device == "cuda" else cpu_seconds)(calls, copies, 5 if rows > 16 else 11)
    rate = packed[0].nbytes / seconds["packed"] / 1e9
    times = " ".join(f"{name} {value * 1e6:9.1f} us" for name, value in seconds.items())
    return f"{outputs}x{inputs} rows {rows:5d} {times}  {seconds['bfloat16'] / seconds['packed']:.2f}x {rate:6.0f} GB/s"


def main() -> None:
    """Print a table of both, for several numbers of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    device = parser.parse_args().device
    torch.set_num_threads(1)
    shapes = [(14336, 4096), (4096, 14336), (4096, 4096)] if device == "cuda" else [(4096, 4096)]
    with torch.inference_mode():
        for outputs, inputs in shapes:
            for rows in (1, 4, 16, 64, 256, 1024):
                print(measure(outputs, inputs, rows, device, 6 if device == "cuda" else 4), flush=True)


if __name__ == "__main__":
    main()
