"""Memory that encoders take on a GPU: `python -m benchmarks.gpu_memory`, BERT-base shape, float16.

Each model runs in a process of its own. What counts is what PyTorch has reserved at the peak of a later call, memory
of recordings included, in MiB.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch

import graphwright as gw
from benchmarks.gpu_encoders import CASES, batch, parse
from benchmarks.models import bert

OPTIONS: dict[str, dict[str, Any]] = {
    "hf sdpa": {},
    "ours": {"remove_padding": True},
    "ours, copies allowed": {"remove_padding": True, "target": "eager"},
}


@torch.no_grad()
def measure(name: str, case: str) -> float:
    """MiB at the peak of a call."""
    model = bert(attention="sdpa").half().cuda()
    model = gw.optimize(model, **OPTIONS[name]) if OPTIONS[name] else model
    inputs, _ = batch(*parse(case))
    for _ in range(4):
        model(**inputs)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        model(**inputs)
    return torch.cuda.max_memory_reserved() / 2**20


def main() -> None:
    """Print a line for each case, or the one number that a process was started for."""
    if len(sys.argv) == 3:
        print(measure(sys.argv[1], sys.argv[2]))
        return
    cases = ["x".join(map(str, case)) for case in CASES]
    running = {(case, name): _start(name, case) for case in cases for name in OPTIONS}
    found = {key: float(process.communicate()[0].split()[-1]) for key, process in running.items()}
    for case in cases:
        print(case, {name: round(found[case, name]) for name in OPTIONS}, flush=True)


def _start(name: str, case: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "benchmarks.gpu_memory", name, case], stdout=subprocess.PIPE)


if __name__ == "__main__":
    main()
