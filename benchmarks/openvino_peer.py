"""The other side of `benchmarks.openvino_export`, run by the Python of an environment with optimum-intel.

`python openvino_peer.py export NAME FOLDER OUT [BITS]` exports with optimum-intel from the loaded model, with weights
of 8 or 4 bits where asked for, and prints seconds and the peak of resident memory as JSON; `... generate NAME OUT`
loads the export with its class and prints the seconds of a `generate()`.
"""

import json
import resource
import sys
import time
from pathlib import Path

from onnx_peer import GENERATE, TASKS, load, timed_generation

ONE_THREAD = {"INFERENCE_NUM_THREADS": "1"}


def export(name, folder, out, bits=""):
    """Export with optimum-intel."""
    from optimum.exporters.openvino.convert import export_from_model

    model, full = load(name, folder), f"{out}.full" if bits else out
    start = time.process_time()
    export_from_model(model, Path(full), task=TASKS[name], stateful=True)
    if bits:
        compress(name, full, out, int(bits))
    return time.process_time() - start


def compress(name, folder, out, bits):
    """Weights in 8 bits for each row, or in 4 with a zero point for each group of 128, tables and last layer in 8."""
    import optimum.intel

    four = {"sym": False, "group_size": 128, "ratio": 1.0} if bits == 4 else {}
    cls = getattr(optimum.intel, f"OVModelFor{GENERATE[name]}")
    config = optimum.intel.OVWeightQuantizationConfig(bits=bits, **four)
    cls.from_pretrained(folder, quantization_config=config, compile=False).save_pretrained(out)


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
