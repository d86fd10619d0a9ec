"""ONNX exports beside Optimum's: `python -m benchmarks.onnx_export PYTHON [NAMES]`.

PYTHON is the interpreter of an environment with `optimum-onnx`; see `benchmarks/onnx_peer.py`. For each model: seconds
of processor time and peak memory of an export without validation, from a loaded model to the files; size of the files;
the latency of both on this ONNX Runtime, see `benchmarks.onnx_latency`: of Optimum's float32 export beside
ours in float32, in float32 in the dialect of ONNX Runtime, and with int8 products; and, for models that generate, the
time of a whole `generate()` of 64 tokens by each side's own loader, greedy and with beams. Two more exporters stand
beside ours: `torch.onnx` with ONNX Runtime's transformer optimizer (BERT, ViT), and the builder of onnxruntime-genai
(Llama), which this interpreter runs where it has the package, as it needs a newer transformers than Optimum.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.onnx_latency import CASES, latency
from benchmarks.onnx_peer import BEAMS, GENERATE, TASKS, load, peak, timed_generation

KINDS = {"float32": "onnx", "ort": "onnx{dialect=ort}", "int8": "onnx{int8=dynamic}"}
GAPS = {"float32": 1e-4, "ort": 1e-4, "int8": 0.2}
OTHERS = {"bert": ("torch.onnx", "float32"), "vit": ("torch.onnx", "float32"), "llama": ("genai", "ort")}
TURNS = 3


def export(name: str, folder: str, out: str, target: str = "onnx", last: str = "") -> dict[str, float]:
    """Our export, in this process; with `last`, of a decoder's last logits alone."""
    import onnx_ir  # noqa: F401 - the peer's packages are imported before the clock starts too
    import torch  # noqa: F401

    import graphwright as gw

    model = load(name, folder)
    start = time.process_time()
    keep_last = bool(last) and TASKS[name].startswith("text-generation")
    gw.export(model, out, target, task=TASKS[name], last_logits=keep_last, verify=False)
    return {"seconds": time.process_time() - start, "peak": peak()}


def child(*words: str, environment: dict[str, str] | None = None) -> dict[str, float]:
    """Run a measurement in a process of its own, with the compiled modules that an installation has."""
    variables = {**(environment or os.environ)}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}


def compare(python: str, name: str, place: Path) -> None:
    """Print the lines of one model."""
    peer = str(Path(__file__).with_name("onnx_peer.py"))
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    clean |= {"HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
    source, theirs = str(place / "source"), str(place / "theirs")
    child(python, peer, "make", name, source, environment=clean)
    b = child(python, peer, "export", name, source, theirs, environment=clean)
    for kind, target in KINDS.items():
        ours = place / kind
        a = child(sys.executable, "-m", "benchmarks.onnx_export", "--export", name, source, str(ours), target)
        if kind == "float32":
            print(_exports(name, a, b, size(str(ours)), size(theirs)), flush=True)
        for file, label, sizes in CASES[name]:
            in_place = kind == "ort" and file == "model.onnx" and name in GENERATE
            mine, other, ratio = latency(ours / file, Path(theirs) / file, sizes, (in_place, False), GAPS[kind])
            print(f"{name:8}   {label:20} {kind:8} {mine:8.2f} ms, Optimum {other:8.2f} ms ({ratio:.2f}x)", flush=True)
    if name in OTHERS:
        compare_other(python, name, place, clean)
    if name in GENERATE:
        words = ("--export", name, source, str(place / "last"), KINDS["ort"], "last")
        child(sys.executable, "-m", "benchmarks.onnx_export", *words)
        for beams in (1, BEAMS[name]):
            print(_generations(name, beams, python, peer, place, clean), flush=True)


def compare_other(python: str, name: str, place: Path, environment: dict[str, str]) -> None:
    """Print the lines of the exporter that is neither ours nor Optimum's; its caches are in place as ours are."""
    label, kind = OTHERS[name]
    own = label == "genai" and importlib.util.find_spec("onnxruntime_genai") is not None
    peer, out = str(Path(__file__).with_name("onnx_peer.py")), place / "other"
    words = (sys.executable if own else python, peer, "other", name, str(place / "source"), str(out))
    safe = os.environ | {"PYTHONSAFEPATH": "1"} if own else environment
    try:
        b = child(*words, environment=safe)
    except subprocess.CalledProcessError as error:
        print(f"{name:8} {label}: {error.stderr.strip().splitlines()[-1]}", flush=True)
        return
    print(f"{name:8} {label} {b['seconds']:.1f} s; peak {b['peak'] / 1e6:.0f} MB; files {size(str(out)):.0f} MB")
    for file, case, sizes in CASES[name]:
        mine, other, ratio = latency(place / kind / file, out / file, sizes, (kind == "ort",) * 2, GAPS[kind])
        print(f"{name:8}   {case:20} {kind:8} {mine:8.2f} ms, {label} {other:8.2f} ms ({ratio:.2f}x)", flush=True)


def _exports(name: str, a: dict[str, float], b: dict[str, float], ours: float, theirs: float) -> str:
    return (
        f"{name:8} export {a['seconds']:.1f} s, Optimum {b['seconds']:.1f} s ({b['seconds'] / a['seconds']:.1f}x); "
        f"peak {a['peak'] / 1e6:.0f} MB, Optimum {b['peak'] / 1e6:.0f} MB; files {ours:.0f} MB, Optimum {theirs:.0f} MB"
    )


def _generations(name: str, beams: int, python: str, peer: str, place: Path, environment: dict[str, str]) -> str:
    """Both sides' loaders in processes of their own, in turns."""
    times: list[list[float]] = [[], []]
    for _ in range(TURNS):
        ours = (sys.executable, "-m", "benchmarks.onnx_export", "--generate", name, str(place / "last"), str(beams))
        times[0].append(child(*ours)["seconds"])
        theirs = (python, peer, "generate", name, str(place / "theirs"), str(beams))
        times[1].append(child(*theirs, environment=environment)["seconds"])
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    mine, other = (statistics.median(side) for side in times)
    return f"{name:8}   generate(), {beams} beams  ort      {mine:8.2f} s,  Optimum {other:8.2f} s  ({ratio:.2f}x)"


def generate(name: str, folder: str, beams: str) -> dict[str, float]:
    """Our loader's `generate()`, in this process."""
    import onnxruntime

    import graphwright as gw

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return {"seconds": timed_generation(gw.load_artifact(folder, session_options=options), name, int(beams))}


def size(folder: str) -> float:
    """Megabytes that a loader needs: a merged decoder stands for the two that Optimum also leaves there."""
    unused = ("decoder_model.onnx", "decoder_with_past_model.onnx")
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.name not in unused) / 1e6


def main() -> None:
    """Measure what the command line names."""
    if sys.argv[1] in ("--export", "--generate"):
        print(json.dumps((export if sys.argv[1] == "--export" else generate)(*sys.argv[2:])))
        return
    for name in sys.argv[2:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            compare(sys.argv[1], name, Path(folder))


if __name__ == "__main__":
    main()
