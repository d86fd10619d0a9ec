"""Latency of encoders on one CPU thread beside what users have otherwise: `python -m benchmarks.cpu_encoders`.

BERT-base shape with random weights, milliseconds of process time per call: medians, peers taking turns, so that other
work on the machine slows all of them alike. Peers that are not installed are left out. `floor` is the time of the
linears alone, at the best rate that one linear reaches on this machine. Errors are the largest ones at real positions,
against float64, relative to the largest element.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import graphwright as gw
from benchmarks.models import bert, padded, torch_encoder
from graphwright.lowering.eager.speeds import machine, timed

CASES = ((1, 128, 0.0), (8, 128, 0.0))
OURS = ("linear=mkl", "linear=auto", "linear=packed", "dtype=bfloat16")
Run = Callable[[], torch.Tensor]


class Hidden(torch.nn.Module):
    """The last hidden state of a model, for exporters."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]


def fastpath(model: Any, inputs: dict[str, torch.Tensor]) -> Run:
    """torch's own fused encoder layer, which BetterTransformer called."""
    encoder, mask = torch_encoder(model), inputs["attention_mask"] == 0
    hidden = mask if bool(mask.any()) else None  # without padding a mask would only cost
    return lambda: encoder(model.embeddings(inputs["input_ids"]), src_key_padding_mask=hidden)


def inductor(model: Any, inputs: dict[str, torch.Tensor]) -> Run:
    """torch.compile with frozen weights, which lets Inductor pack them."""
    compiled = torch.compile(Hidden(model).eval(), options={"freezing": True})
    compiled(**inputs)
    return lambda: compiled(**inputs)


def onnxruntime(program: gw.Program, inputs: dict[str, torch.Tensor], folder: Path) -> Run:
    """ONNX Runtime on what the ONNX target emits, with all of its graph optimisations."""
    import onnxruntime as ort

    gw.target("onnx").lower(program).save(folder / "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(folder / "onnx" / "model.onnx"), options, providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in inputs.items()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def openvino(model: Any, inputs: dict[str, torch.Tensor], precision: str | None) -> Run:
    """OpenVINO on its own conversion of the model; without a precision it chooses."""
    import openvino as ov

    converted = ov.convert_model(Hidden(model), example_input=tuple(inputs.values()))
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    options |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    compiled = ov.Core().compile_model(converted, "CPU", options)
    feed = [tensor.numpy() for tensor in inputs.values()]
    return lambda: torch.from_numpy(compiled(feed)[0])


def runs(model: Any, program: gw.Program, inputs: dict[str, torch.Tensor], folder: Path) -> dict[str, Run]:
    """What to call, by label."""
    found: dict[str, Run] = {"transformers sdpa": lambda: model(**inputs)[0]}
    for options in OURS:
        artifact = gw.target(f"eager{{{options}}}").lower(program)
        found[f"graphwright {options}"] = lambda artifact=artifact: artifact(**inputs)[0]
    makers: dict[str, Callable[[], Run]] = {
        "torch fastpath": lambda: fastpath(model, inputs),
        "Inductor, frozen": lambda: inductor(model, inputs),
        "ONNX Runtime": lambda: onnxruntime(program, inputs, folder),
        "OpenVINO f32": lambda: openvino(model, inputs, "f32"),
        "OpenVINO default": lambda: openvino(model, inputs, None),
    }
    for label, make in makers.items():
        try:
            found[label] = make()
        except ImportError as error:
            print(f"without {label}: {error}", flush=True)
    return found


def rate() -> float:
    """Best FLOP/s of one float32 linear on this machine, by either library."""
    x, w = torch.randn(512, 768), torch.randn(3072, 768)
    packed = torch.ops.mkldnn._reorder_linear_weight(w, None)
    seconds = timed(
        {
            "mkl": lambda: torch.nn.functional.linear(x, w),
            "onednn": lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""),
        },
        rounds=30,
        budget=2.0,
    )
    return 2 * 512 * 768 * 3072 / min(seconds.values())


def medians(found: dict[str, Run], seconds: float) -> dict[str, float]:
    """Median milliseconds of process time of each, taking turns for about so long."""
    times: dict[str, list[float]] = {label: [] for label in found}
    begin = time.perf_counter()
    for turn in range(50):
        if turn > 5 and time.perf_counter() - begin > seconds:
            break
        for label, run in found.items():
            start = time.process_time()
            run()
            if turn > 1:
                times[label].append(time.process_time() - start)
    return {label: 1e3 * statistics.median(measured) for label, measured in times.items()}


def error(result: torch.Tensor, exact: torch.Tensor, real: torch.Tensor) -> float:
    """Largest difference at real positions, per unit of the largest element; results may end after the last of them."""
    length = min(result.shape[1], exact.shape[1])
    difference = (result.double()[:, :length] - exact[:, :length])[real[:, :length]]
    return float(difference.abs().max() / exact.abs().max())


@torch.no_grad()
def measure(rows: int, length: int, padding: float, seconds: float) -> dict[str, Any]:
    """One case: milliseconds and errors of all, and the floor."""
    model = bert(attention="sdpa")
    inputs = padded(rows, length, padding)
    program = gw.Pipeline("default").run(gw.capture(model), validate=False).program
    exact = model.double()(**inputs)[0]
    model.float()
    with tempfile.TemporaryDirectory() as folder:
        found = runs(model, program, inputs, Path(folder))
        real = inputs["attention_mask"].bool()
        errors = {label: error(run(), exact, real) for label, run in found.items()}
        times = medians(found, seconds)
    weights = sum(w.numel() for name, w in model.named_parameters() if "encoder" in name and w.dim() == 2)
    flops = 2 * int(real.sum()) * weights
    return {"case": [rows, length, padding], "ms": times, "errors": errors, "floor_ms": 1e3 * flops / rate()}


def show(result: dict[str, Any]) -> None:
    """Print one case as a table."""
    rows, length, padding = result["case"]
    print(f"\n{rows} x {length}, {padding:.0%} padding; floor {result['floor_ms']:.1f} ms")
    sdpa = result["ms"]["transformers sdpa"]
    for label, milliseconds in sorted(result["ms"].items(), key=lambda item: item[1]):
        print(f"  {label:28} {milliseconds:8.1f} ms  {sdpa / milliseconds:5.2f} x  error {result['errors'][label]:.1e}")


def main() -> None:
    """Measure the cases and print them; `--json FILE` keeps the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=float, nargs=3, action="append", metavar=("ROWS", "LENGTH", "PADDING"))
    parser.add_argument("--seconds", type=float, default=60.0, help="for each case")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine()["cpu"], "torch", torch.__version__, flush=True)
    cases = [(int(r), int(n), p) for r, n, p in options.case] if options.case else CASES
    results = []
    for case in cases:
        results.append(measure(*case, seconds=options.seconds))
        show(results[-1])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
