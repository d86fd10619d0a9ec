"""The other side of `benchmarks.openvino_export`, run by the Python of an environment with optimum-intel.

`python openvino_peer.py export NAME FOLDER OUT` exports with optimum-intel from the loaded model and prints seconds and
the peak of resident memory as JSON; `... generate NAME OUT` loads the export with its class and prints the seconds of
a `generate()`.
"""

import json
import resource
import sys
import time
from pathlib import Path

from onnx_peer import GENERATE, TASKS, load, timed_generation

ONE_THREAD = {"INFERENCE_NUM_THREADS": "1"}


def export(name, folder, out):
    """Export with optimum-intel."""
    from optimum.exporters.openvino.convert import export_from_model

    model = load(name, folder)
    start = time.process_time()
    export_from_model(model, Path(out), task=TASKS[name], stateful=True)
    return time.process_time() - start


def generate(name, folder, exact):
    """Generate with optimum-intel's class for the model."""
    import optimum.intel

    config = ONE_THREAD | ({"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"} if exact == "exact" else {})
    cls = getattr(optimum.intel, f"OVModelFor{GENERATE[name]}")
    return timed_generation(cls.from_pretrained(folder, ov_config=config), name)


if __name__ == "__main__":
    action, name, folder, *rest = sys.argv[1:]
    if action == "generate":
        print(json.dumps({"seconds": generate(name, folder, *rest)}))
    else:
        seconds = export(name, folder, *rest)
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"seconds": seconds, "peak": peak}))
