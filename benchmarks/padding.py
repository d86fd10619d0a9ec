"""Latency of a padded batch on one CPU thread with and without its padding: `python -m benchmarks.padding`.

BERT-base shape with random weights, milliseconds of process time per call, peers taking turns. `possible` is how much
faster than transformers a model would be that took no time at all for padding and was as fast otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

import graphwright as gw
from benchmarks.cpu_encoders import Run, error, fastpath, medians, onnxruntime, openvino
from benchmarks.models import bert, padded
from graphwright.lowering.eager.speeds import machine

CASES = ((8, 128, 0.0), (8, 128, 0.05), (8, 128, 0.29), (8, 128, 0.7), (32, 32, 0.3))
LINEAR = "linear=packed"


def runs(model: Any, program: gw.Program, inputs: dict[str, torch.Tensor], folder: Path) -> dict[str, Run]:
    """What to call, by label."""
    every = gw.target(f"eager{{{LINEAR}}}").lower(program)
    real = gw.target(f"eager{{{LINEAR}}}").lower(gw.Pipeline("remove-padding").run(program, validate=False).program)
    found: dict[str, Run] = {
        "transformers sdpa": lambda: model(**inputs)[0],
        "torch fastpath": fastpath(model, inputs),
        "graphwright": lambda: every(**inputs)[0],
        "graphwright remove-padding": lambda: real(**inputs)[0],
    }
    try:
        found["ONNX Runtime"] = onnxruntime(program, inputs, folder)
        found["OpenVINO f32"] = openvino(model, inputs, "f32")
    except ImportError as missing:
        print(f"without a peer: {missing}", flush=True)
    return found


@torch.no_grad()
def main() -> None:
    """Measure the cases and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=float, nargs=3, action="append", metavar=("ROWS", "LENGTH", "PADDING"))
    parser.add_argument("--seconds", type=float, default=60.0, help="for each case")
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine()["cpu"], "torch", torch.__version__, flush=True)
    model = bert(layers=options.layers, attention="sdpa")
    program = gw.Pipeline("default").run(gw.capture(model), validate=False).program
    for rows, length, padding in options.case or CASES:
        inputs = padded(int(rows), int(length), padding)
        mask, exact = inputs["attention_mask"].bool(), model(**inputs)[0].double()
        with tempfile.TemporaryDirectory() as folder:
            found = runs(model, program, inputs, Path(folder))
            errors = {label: error(run(), exact, mask) for label, run in found.items()}
            times = medians(found, options.seconds)
        share = 1 - float(mask.float().mean())
        print(f"\n{int(rows)} x {int(length)}, {share:.0%} padding; possible {1 / (1 - share):.2f} x", flush=True)
        for label, value in sorted(times.items(), key=lambda item: item[1]):
            ratio = times["transformers sdpa"] / value
            print(f"  {label:28} {value:8.1f} ms  {ratio:5.2f} x  difference {errors[label]:.0e}", flush=True)


if __name__ == "__main__":
    main()
