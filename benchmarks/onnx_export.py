"""ONNX exports beside Optimum's: `python -m benchmarks.onnx_export PYTHON [NAMES]`.

PYTHON is the interpreter of an environment with `optimum-onnx`; see `benchmarks/onnx_peer.py`. For each model: seconds
of processor time and peak memory of an export without validation, from a loaded model to the files; size of the files;
and the latency of both on this environment's ONNX Runtime with one thread, by processor time, taking turns, as the
median of the ratios: of Optimum's float32 export to ours in float32, and to ours with int8 products.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.onnx_peer import TASKS, load

STEP = {"sequence_length": 1, "decoder_sequence_length": 1}
CASES = {
    "bert": [("model.onnx", "128 tokens", {"batch_size": 1, "sequence_length": 128})],
    "gpt2": [
        ("model.onnx", "prompt of 128", {"batch_size": 1, "sequence_length": 128, "past_sequence_length": 0}),
        ("model.onnx", "step after 128", {"batch_size": 1, "sequence_length": 1, "past_sequence_length": 128}),
        ("model.onnx", "step after 900", {"batch_size": 1, "sequence_length": 1, "past_sequence_length": 900}),
    ],
    "vit": [("model.onnx", "one image", {"batch_size": 1, "num_channels": 3, "height": 224, "width": 224})],
    "whisper": [
        ("encoder_model.onnx", "encoder", {"batch_size": 1, "feature_size": 80, "encoder_sequence_length": 3000}),
        ("decoder_model_merged.onnx", "step after 64", {"encoder_sequence_length": 1500, **STEP}),
    ],
    "t5": [
        ("encoder_model.onnx", "encoder, 128 tokens", {"batch_size": 1, "encoder_sequence_length": 128}),
        ("decoder_model_merged.onnx", "step after 64", {"encoder_sequence_length": 128, **STEP}),
    ],
}
CASES["llama"] = CASES["gpt2"]
PAST = {"batch_size": 1, "past_decoder_sequence_length": 64, "past_decoder_sequence_length_out": 64}
ROUNDS = 20


def export(name: str, folder: str, out: str, target: str = "onnx") -> dict[str, float]:
    """Our export, in this process."""
    import onnx_ir  # noqa: F401 - the peer's packages are imported before the clock starts too
    import torch  # noqa: F401

    import graphwright as gw

    model = load(name, folder)
    start = time.process_time()
    gw.export(model, out, target, task=TASKS[name], verify=False)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": time.process_time() - start, "peak": peak}


def session(path: Path):
    """A session with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(model, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Inputs of a session for these sizes."""
    random, inputs = np.random.default_rng(0), {}
    sizes = PAST | {f"{name}_out": size for name, size in sizes.items()} | sizes
    for entry in model.get_inputs():
        shape = [eval(size, {}, sizes) if isinstance(size, str) else size for size in entry.shape]
        if entry.type == "tensor(bool)":
            inputs[entry.name] = np.ones(shape, bool)
        elif "mask" in entry.name:
            inputs[entry.name] = np.ones(shape, np.int64)
        elif entry.name == "position_ids":
            inputs[entry.name] = np.broadcast_to(sizes["past_sequence_length"] + np.arange(shape[1]), shape)
        elif entry.type == "tensor(int64)":
            inputs[entry.name] = random.integers(0, 2 if "type" in entry.name else 900, shape)
        else:
            inputs[entry.name] = random.standard_normal(shape).astype(np.float32) / 2
    return inputs


def latency(ours: Path, theirs: Path, sizes: dict[str, int]) -> tuple[float, float, float]:
    """Milliseconds of both, and the median ratio of theirs to ours.

    Outputs of the encoder's states are left out, as loaders leave them out too.
    """
    sessions = [session(path) for path in (ours, theirs)]
    inputs = feeds(sessions[0], sizes) | feeds(sessions[1], sizes)
    kept = {entry.name for entry in sessions[0].get_outputs()} & {entry.name for entry in sessions[1].get_outputs()}
    names = sorted(name for name in kept if ".encoder." not in name)
    bindings = []
    for one in sessions:
        binding = one.io_binding()
        for entry in one.get_inputs():
            binding.bind_cpu_input(entry.name, np.ascontiguousarray(inputs[entry.name]))
        for name in names:
            binding.bind_output(name, "cpu")
        one.run_with_iobinding(binding)
        bindings.append(binding)
    results = [dict(zip(names, binding.copy_outputs_to_cpu(), strict=True)) for binding in bindings]
    for name in names:
        gap = np.linalg.norm(results[0][name] - results[1][name]) / np.linalg.norm(results[1][name])
        assert gap < 0.2, f"{name} differs by {gap:.2f}"
    times: list[list[float]] = [[], []]
    for turn in range(ROUNDS):
        for i in (0, 1) if turn % 2 else (1, 0):
            start = time.process_time()
            sessions[i].run_with_iobinding(bindings[i])
            times[i].append(time.process_time() - start)
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    return 1e3 * statistics.median(times[0]), 1e3 * statistics.median(times[1]), ratio


def child(*words: str, environment: dict[str, str] | None = None) -> dict[str, float]:
    """Run a measurement in a process of its own."""
    done = subprocess.run(words, env=environment or os.environ, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}


def compare(python: str, name: str, place: Path) -> None:
    """Print the lines of one model."""
    peer = str(Path(__file__).with_name("onnx_peer.py"))
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    source, ours, theirs = (str(place / part) for part in ("source", "ours", "theirs"))
    child(python, peer, "make", name, source, environment=clean)
    a = child(sys.executable, "-m", "benchmarks.onnx_export", "--export", name, source, ours)
    b = child(python, peer, "export", name, source, theirs, environment=clean)
    print(
        f"{name:8} export {a['seconds']:.1f} s, Optimum {b['seconds']:.1f} s ({b['seconds'] / a['seconds']:.1f}x); "
        f"peak {a['peak'] / 1e6:.0f} MB, Optimum {b['peak'] / 1e6:.0f} MB; "
        f"files {size(ours):.0f} MB, Optimum {size(theirs):.0f} MB",
        flush=True,
    )
    child(sys.executable, "-m", "benchmarks.onnx_export", "--export", name, source, f"{ours}8", "onnx{int8=dynamic}")
    for file, label, sizes in CASES[name]:
        for kind, folder in (("float32", ours), ("int8", f"{ours}8")):
            mine, other, ratio = latency(Path(folder) / file, Path(theirs) / file, sizes)
            print(f"{name:8}   {label:20} {kind:8} {mine:8.2f} ms, Optimum {other:8.2f} ms ({ratio:.2f}x)", flush=True)


def size(folder: str) -> float:
    """Megabytes that a loader needs: a merged decoder stands for the two that Optimum also leaves there."""
    unused = ("decoder_model.onnx", "decoder_with_past_model.onnx")
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.name not in unused) / 1e6


def main() -> None:
    """Measure what the command line names."""
    if sys.argv[1] == "--export":
        print(json.dumps(export(*sys.argv[2:])))
        return
    for name in sys.argv[2:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            compare(sys.argv[1], name, Path(folder))


if __name__ == "__main__":
    main()
