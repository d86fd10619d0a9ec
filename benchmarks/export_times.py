"""Seconds of exports beside Optimum's, several in turns: `python -m benchmarks.export_times TARGET PYTHON [NAMES]`.

TARGET is `onnx` or `openvino`, PYTHON the interpreter of the environment that `benchmarks.onnx_export` or
`benchmarks.openvino_export` names. Each export has a process of its own, with one thread and with the compiled modules
that an installation has; it is timed by the processor, from a loaded model to the files, without validation. The first
of each side is not counted.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.onnx_export import child
from benchmarks.onnx_peer import TASKS

DRAWS = 3


def exports(target: str, python: str, name: str, place: Path) -> tuple[list[float], list[float]]:
    """Seconds of our exports and of theirs."""
    one = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    clean = {key: value for key, value in one.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    here, source, out = Path(__file__).parent, str(place / "source"), place / "out"
    child(python, str(here / "onnx_peer.py"), "make", name, source, environment=clean)
    ours = (sys.executable, "-m", f"benchmarks.{target}_export", "--export", name, source, str(out))
    theirs = (python, str(here / f"{target}_peer.py"), "export", name, source, str(out))
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(DRAWS + 1):
        for seconds, words, environment in zip(found, (ours, theirs), (one, clean), strict=True):
            seconds.append(child(*words, environment=environment)["seconds"])
            shutil.rmtree(out)
    return found[0][1:], found[1][1:]


def main() -> None:
    """Print a line for each model."""
    target, python, *names = sys.argv[1:]
    for name in names or TASKS:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = exports(target, python, name, Path(folder))
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        times = [f"{statistics.median(side):.2f} s ({min(side):.2f} to {max(side):.2f})" for side in (ours, theirs)]
        print(f"{name:8} {target}: ours {times[0]}, Optimum {times[1]}, {ratio:.2f} times as fast", flush=True)


if __name__ == "__main__":
    main()
