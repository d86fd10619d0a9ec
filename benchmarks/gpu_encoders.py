"""Latency of encoders on a GPU beside what users have otherwise: `python -m benchmarks.gpu_encoders`.

BERT-base shape with random weights, fp16, milliseconds per call: medians of CUDA events, peers taking turns of a few
calls each. The first call of a turn finds the host's caches full of the other peers; it is told apart. Errors are the
largest ones at real positions, against float32, relative to the largest element.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import graphwright as gw
from benchmarks.gpu_peers import fastpath, hand_packed
from benchmarks.models import bert

CASES = ((64, 128, 0.0), (64, 128, 0.41), (64, 512, 0.43), (1, 128, 0.0))
CALLS = 4  # of a turn
ON_REQUEST = ("ours, launched", "ours, inductor")


def batch(rows: int, length: int, padding: float) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A right-padded batch of evenly spread lengths, and its mask, which is no input where there is no padding."""
    mean = length * (1 - padding)
    spread = min(mean - 1, length - mean)
    lengths = torch.linspace(mean - spread, mean + spread, rows).round().long()
    lengths = lengths[torch.randperm(rows, generator=torch.Generator().manual_seed(0))]
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(5, 30000, (rows, length), generator=torch.Generator().manual_seed(1)) * mask
    inputs = {"input_ids": ids.cuda()} | ({"attention_mask": mask.cuda()} if padding else {})
    return inputs, mask.cuda()


def candidates(wide: Any) -> dict[str, Callable[..., Any]]:
    """Everything that is compared, by name; `wide` is the model in float32."""
    eager, sdpa = copy.deepcopy(wide).half(), copy.deepcopy(wide).half()
    eager.set_attn_implementation("eager")
    return {
        "hf eager": eager,
        "hf sdpa": sdpa,
        "hf sdpa + torch.compile": torch.compile(sdpa),
        "torch fastpath": fastpath(sdpa),
        "hand-packed varlen": hand_packed(sdpa),
        "ours": gw.optimize(copy.deepcopy(sdpa), remove_padding=True, target="eager"),
        "ours, no copies": gw.optimize(copy.deepcopy(sdpa), remove_padding=True),
        "ours, launched": gw.optimize(copy.deepcopy(sdpa), remove_padding=True, target="eager{compile=never}"),
        "ours, inductor": gw.optimize(copy.deepcopy(sdpa), remove_padding=True, target="eager{compile=inductor}"),
    }


def profile(call: Callable[[], Any]) -> dict[str, float]:
    """Microseconds per call of the kernels that take the most time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        for _ in range(5):
            call()
        torch.cuda.synchronize()
    events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
    return {f"{event.key[:70]} x{event.count // 5}": round(event.self_device_time_total / 5) for event in events[:9]}


def milliseconds(call: Callable[[], Any]) -> float:
    """From before a call, with nothing under way, to the end of what it has the GPU do."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def medians(calls: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median milliseconds of each call, all taking turns: of first calls of a turn, and of later ones."""
    turns: dict[str, list[list[float]]] = {name: [] for name in calls}
    for _ in range(rounds + 2):
        for name, call in calls.items():
            turns[name].append([milliseconds(call) for _ in range(CALLS)])
    first = {name: statistics.median(turn[0] for turn in found[2:]) for name, found in turns.items()}
    later = {name: statistics.median(x for turn in found[2:] for x in turn[1:]) for name, found in turns.items()}
    return first, later


def hidden(result: Any) -> torch.Tensor:
    """The last hidden states of whatever a candidate returns."""
    if isinstance(result, torch.Tensor):
        return result
    return result["last_hidden_state"] if "last_hidden_state" in result else next(iter(result.values()))


def error(result: Any, reference: torch.Tensor, mask: torch.Tensor) -> float:
    """Largest error at real positions, relative to the largest element."""
    found = torch.nn.functional.pad(hidden(result), (0, 0, 0, mask.shape[1] - hidden(result).shape[1]))
    difference = (found.float() - reference)[mask == 1].abs().max()
    return float(difference / reference[mask == 1].abs().max())


def parse(case: str) -> tuple[int, int, float]:
    """`64x128x0.41`: rows, length, padding."""
    rows, length, padding = case.split("x")
    return int(rows), int(length), float(padding)


@torch.no_grad()
def main() -> None:
    """Print one line of JSON per case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="", help="candidates, separated by |; by default all but some of ours")
    parser.add_argument("--cases", default="", help="such as 64x128x0.41,1x128x0")
    parser.add_argument("--profile", action="store_true", help="print the kernels that take the most time")
    options = parser.parse_args()
    wide = bert(attention="sdpa").cuda()
    everything = candidates(wide)
    wanted = options.only.split("|") if options.only else [name for name in everything if name not in ON_REQUEST]
    for rows, length, padding in map(parse, options.cases.split(",")) if options.cases else CASES:
        inputs, mask = batch(rows, length, padding)
        calls: dict[str, Callable[[], Any]] = {}
        notes: dict[str, float | str] = {}
        reference = hidden(wide(**inputs))
        for name in wanted:
            begin = time.perf_counter()
            try:
                for _ in range(3):  # the first captures and compares, the second compares, the third records
                    everything[name](**inputs)
                notes[name] = round(error(everything[name](**inputs), reference, mask), 5)
                calls[name] = partial(everything[name], **inputs)
            except Exception as failure:
                notes[name] = f"{type(failure).__name__}: {str(failure)[:300]}"
            torch.cuda.synchronize()
            print(f"  {name}: first calls {time.perf_counter() - begin:.1f} s, error {notes[name]}", flush=True)
        first, later = ({k: round(v, 3) for k, v in times.items()} for times in medians(calls, options.rounds))
        if options.profile:
            print({name: profile(calls[name]) for name in calls if name.startswith("ours")}, flush=True)
        line = {"case": f"{rows}x{length}, {padding:.0%}", "ms": later, "first of a turn": first, "error": notes}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
