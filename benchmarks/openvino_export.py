"""OpenVINO exports beside optimum-intel's: `python -m benchmarks.openvino_export PYTHON [NAMES]`.

PYTHON is the interpreter of an environment with `optimum-intel[openvino]`; see `benchmarks/openvino_peer.py`. For each
model: seconds of processor time and peak memory of an export without validation, from a loaded model to the files; size
of the files; the latency of both files on this environment's OpenVINO with one thread, by processor time, taking turns,
as the median of the ratios with either compiled first, in float32 and as the device chooses by itself; and a whole
`generate()` of 64 tokens. A name may say how weights are held, `gpt2:i8` or `t5:u4`; those are compared as the device
chooses, beside 8 or 4 bits of optimum-intel. `... --latencies NAME OURS THEIRS` measures the latency of two folders.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from benchmarks.onnx_export import child, export
from benchmarks.onnx_peer import GENERATE, TASKS, timed_generation

ONE_THREAD = {"INFERENCE_NUM_THREADS": "1"}
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
KINDS = {"float32": EXACT, "as the device chooses": {}}
ENCODERS = {
    "bert": ("openvino_model.xml", {"batch": 1, "length": 128}),
    "vit": ("openvino_model.xml", {"batch": 1}),
    "whisper": ("openvino_encoder_model.xml", {"batch": 1, "length": 3000}),
    "t5": ("openvino_encoder_model.xml", {"batch": 1, "length": 128}),
}
DECODERS = {
    "gpt2": ("openvino_model.xml", 128),
    "llama": ("openvino_model.xml", 128),
    "whisper": ("openvino_decoder_model.xml", 4),
    "t5": ("openvino_decoder_model.xml", 4),
}
STATES = {"whisper": (1500, 384), "t5": (128, 512)}
ROUNDS, STEPS = 15, 24


def request(path: Path, properties: dict[str, str]) -> Any:
    """A request with one thread."""
    compiled = ov.Core().compile_model(path, "CPU", ONE_THREAD | properties)
    return compiled.create_infer_request()


def image_or_text(port: Any, sizes: dict[str, int]) -> np.ndarray:
    """An input of an encoder."""
    random, rank = np.random.default_rng(0), len(port.get_partial_shape())
    if rank == 4:
        return random.standard_normal((sizes["batch"], 3, 224, 224)).astype(np.float32)
    if rank == 3:
        return random.standard_normal((sizes["batch"], 80, sizes["length"])).astype(np.float32)
    if "mask" in port.get_any_name():
        return np.ones((sizes["batch"], sizes["length"]), np.int64)
    return random.integers(0, 2 if "type" in port.get_any_name() else 900, (sizes["batch"], sizes["length"]))


def encoder_call(one: Any, sizes: dict[str, int]) -> Callable[[], np.ndarray]:
    """One run of an encoder, its first output returned."""
    feeds = {port.get_any_name(): image_or_text(port, sizes) for port in one.model_inputs}

    def call() -> np.ndarray:
        return one.infer(feeds, share_inputs=True)[0]

    return call


def decoder_call(one: Any, name: str, prompt: int) -> Callable[[], np.ndarray]:
    """A prompt and then `STEPS` single tokens with the cache inside the model; the last logits returned."""
    names = {port.get_any_name() for port in one.model_inputs}
    ids = np.random.default_rng(0).integers(10, 900, (1, prompt + STEPS))
    length, width = STATES.get(name, (0, 0))
    hidden = np.random.default_rng(1).standard_normal((1, length, width)).astype(np.float32)

    def step(start: int, stop: int) -> np.ndarray:
        known = {
            "input_ids": ids[:, start:stop], "attention_mask": np.ones((1, stop), np.int64),
            "position_ids": np.arange(start, stop)[None], "beam_idx": np.zeros(1, np.int32),
            "encoder_hidden_states": hidden, "encoder_attention_mask": np.ones((1, length), np.int64),
            "cache_position": np.arange(start, stop),
        }  # fmt: skip
        return one.infer({key: value for key, value in known.items() if key in names}, share_inputs=True)[0]

    def call() -> np.ndarray:
        one.reset_state()
        step(0, prompt)
        for place in range(prompt, prompt + STEPS):
            result = step(place, place + 1)
        return result

    return call


def taking_turns(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float, float]:
    """Milliseconds of both, and the median ratio of theirs to ours."""
    a, b = ours(), theirs()
    if a.shape != b.shape or not a.size:
        raise ValueError(f"results of shapes {a.shape} and {b.shape}")
    gap = np.linalg.norm(a - b) / np.linalg.norm(b)
    times: list[list[float]] = [[], []]
    for turn in range(ROUNDS):
        for i in (0, 1) if turn % 2 else (1, 0):
            start = time.process_time()
            (ours, theirs)[i]()
            times[i].append(time.process_time() - start)
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    if not gap <= 0.1:
        print(f"         the results differ by {gap:.2f}", file=sys.stderr)
    return 1e3 * statistics.median(times[0]), 1e3 * statistics.median(times[1]), ratio


def latency(name: str, kind: str, label: str, *folders: str) -> dict[str, Any]:
    """Milliseconds of two folders, in the order in which they are compiled, and the median ratio of second to first."""
    file, make = _cases(name)[label]
    calls = [make(request(Path(folder) / file, KINDS[kind])) for folder in folders]
    first, second, ratio = taking_turns(*calls)
    return {"times": [first, second], "ratio": ratio}


def latencies(name: str, ours: str, theirs: str, kinds: tuple[str, ...] = tuple(KINDS)) -> None:
    """Print the latency of both folders.

    The model that a process compiles first is up to a tenth slower than the same one compiled second, so each order has
    a process of its own, and the ratio is the geometric mean of both.
    """
    me = (sys.executable, "-m", "benchmarks.openvino_export", "--latency", name)
    for kind in kinds:
        for label in _cases(name):
            try:
                runs: list[Any] = [child(*me, kind, label, *pair) for pair in ((ours, theirs), (theirs, ours))]
            except subprocess.CalledProcessError as error:
                print(f"{name:8}   {label:22} {kind:22} the process of both ended with {error.returncode}", flush=True)
                continue
            one, other = runs
            ratio = math.sqrt(one["ratio"] / other["ratio"])
            mine, their = (statistics.mean(pair) for pair in zip(one["times"], other["times"][::-1], strict=True))
            times = f"{mine:8.2f} ms, optimum-intel {their:8.2f} ms ({ratio:.2f}x)"
            print(f"{name:8}   {label:22} {kind:22} {times}", flush=True)


def _cases(name: str) -> dict[str, tuple[str, Callable[[Any], Callable[[], np.ndarray]]]]:
    found: dict[str, Any] = {}
    if name in ENCODERS:
        file, sizes = ENCODERS[name]
        found["one call"] = (file, lambda one: encoder_call(one, sizes))
    if name in DECODERS:
        decoder, prompt = DECODERS[name]
        found[f"prompt and {STEPS} steps"] = (decoder, lambda one: decoder_call(one, name, prompt))
    return found


def generate(name: str, folder: str, exact: str) -> float:
    """Seconds of a `generate()` of ours."""
    import graphwright as gw

    model = gw.load_artifact(folder)
    model.configure(**ONE_THREAD, **(EXACT if exact == "exact" else {}))
    return timed_generation(model, name)


def compare(python: str, case: str, place: Path) -> None:
    """Print the lines of one model."""
    here = Path(__file__).parent
    name, _, weights = case.partition(":")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    source, ours, theirs = (str(place / part) for part in ("source", "ours", "theirs"))
    child(python, str(here / "onnx_peer.py"), "make", name, source, environment=clean)
    me = (sys.executable, "-m", "benchmarks.openvino_export")
    peer = (python, str(here / "openvino_peer.py"))
    a = child(*me, "--export", name, source, ours, weights)
    b = child(*peer, "export", name, source, theirs, {"": "", "i8": "8", "u4": "4"}[weights], environment=clean)
    files = [sum(path.stat().st_size for path in Path(folder).glob("*.bin")) / 1e6 for folder in (ours, theirs)]
    ratio = b["seconds"] / a["seconds"]
    print(
        f"{case:8} export {a['seconds']:.1f} s, optimum-intel {b['seconds']:.1f} s ({ratio:.1f}x); "
        f"peak {a['peak'] / 1e6:.0f} MB, {b['peak'] / 1e6:.0f} MB; weights {files[0]:.2f} MB, {files[1]:.2f} MB",
        flush=True,
    )
    latencies(name, ours, theirs, tuple(KINDS)[1:] if weights else tuple(KINDS))
    for exact in ("exact", "deployed") if name in GENERATE and not weights else ():
        a = child(*me, "--generate", name, ours, exact)
        b = child(*peer, "generate", name, theirs, exact, environment=clean)
        print(
            f"{name:8}   generate, {exact:10} {a['seconds']:.2f} s, optimum-intel {b['seconds']:.2f} s "
            f"({b['seconds'] / a['seconds']:.2f}x)",
            flush=True,
        )


def main() -> None:
    """Measure what the command line names."""
    if sys.argv[1] == "--export":
        name, source, out, *weights = sys.argv[2:]
        target = f"openvino{{weights={weights[0]}}}" if any(weights) else "openvino"
        print(json.dumps(export(name, source, out, target=target)))
    elif sys.argv[1] == "--latency":
        print(json.dumps(latency(*sys.argv[2:])))
    elif sys.argv[1] == "--latencies":
        name, ours, theirs = sys.argv[2:]
        latencies(name, ours, theirs)
    elif sys.argv[1] == "--generate":
        print(json.dumps({"seconds": generate(*sys.argv[2:])}))
    else:
        for name in sys.argv[2:] or TASKS:
            with tempfile.TemporaryDirectory() as folder:
                compare(sys.argv[1], name, Path(folder))


if __name__ == "__main__":
    main()
