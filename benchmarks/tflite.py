"""Latency on LiteRT's interpreter: our files against litert-torch's for the same models, interleaved on one thread.

    python benchmarks/tflite.py FOLDER [MODEL ...] [--rounds 40]

FOLDER has the files that `tflite_reference.py` wrote.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert import interpreter as litert

import graphwright as gw
from benchmarks.tflite_models import MODELS, Tensors, build


class Runner:
    """One signature of a file with its inputs in place."""

    def __init__(self, inputs, **source):
        self.interpreter = litert.Interpreter(**source, num_threads=1)
        self.interpreter.allocate_tensors()
        signature = next(iter(self.interpreter._get_full_signature_list().values()))
        details = {one["index"]: one for one in self.interpreter.get_input_details()}
        for name, index in signature["inputs"].items():
            self.interpreter.set_tensor(index, inputs[name].numpy().astype(details[index]["dtype"]))
        self.output = self.interpreter.get_output_details()[0]["index"]

    def seconds(self):
        """Processor time of one run."""
        start = time.process_time()
        self.interpreter.invoke()
        return time.process_time() - start

    def result(self):
        """The first output of the last run."""
        return torch.from_numpy(np.array(self.interpreter.get_tensor(self.output)))


def compared(first, second, rounds):
    """Median times of two runners that take turns, and the median ratio of the second to the first."""
    for runner in (first, second) * 2:
        runner.seconds()
    pairs = []
    for turn in range(rounds):
        times = {runner: runner.seconds() for runner in ((first, second), (second, first))[turn % 2]}
        pairs.append((times[first], times[second]))
    one, other = (statistics.median(part) for part in zip(*pairs, strict=True))
    return one, other, statistics.median(b / a for a, b in pairs)


def measured(name, folder, rounds):
    """One row: median times, the ratio of theirs to ours, and the largest differences from the model.

    The interpreter that is made first is up to a tenth faster, even beside another one of the same file: each is made
    first half of the time, and the ratio is the geometric mean.
    """
    model, inputs = build(name)
    program = gw.capture(Tensors(model).eval(), inputs, dynamic=None)
    content = gw.target("tflite").lower(program).file.content
    makers = {
        "ours": lambda: Runner(inputs, model_content=content),
        "theirs": lambda: Runner(inputs, model_path=str(Path(folder) / f"{name}.tflite")),
    }
    ratios, times, results = [], {"ours": [], "theirs": []}, {}
    for names in (("ours", "theirs"), ("theirs", "ours")) * 2:
        runners = {name: makers[name]() for name in names}
        *seconds, ratio = compared(*runners.values(), rounds // 4)
        for each, second in zip(names, seconds, strict=True):
            times[each].append(second)
        ratios.append(math.log(ratio if names[0] == "ours" else 1 / ratio))
        results = {each: runner.result() for each, runner in runners.items()}
    with torch.no_grad():
        want = Tensors(model)(**inputs)
    gaps = [float((results[each] - want).abs().max() / want.abs().max()) for each in times]
    mine, other = (statistics.median(times[each]) * 1e3 for each in times)
    ratio = math.exp(statistics.mean(ratios))
    return f"{name:12} {mine:9.2f} {other:9.2f} {ratio:8.3f} {gaps[0]:10.1e} {gaps[1]:10.1e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--rounds", type=int, default=80)
    options = parser.parse_args()
    print(f"{'model':12} {'ours ms':>9} {'theirs ms':>9} {'speed-up':>8} {'ours err':>10} {'their err':>10}")
    for name in options.models or MODELS:
        if (Path(options.folder) / f"{name}.tflite").exists():
            print(measured(name, options.folder, options.rounds), flush=True)


if __name__ == "__main__":
    main()
