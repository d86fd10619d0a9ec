"""Check a graph with Furiosa's compiler; runs in the environment that `furiosa_env.sh` makes, not in the project's.

    furiosa-python furiosa_check.py graph.pt2 --level ops
    furiosa-python furiosa_check.py graph.pt2 --level compile --edf graph.edf
    furiosa-python furiosa_check.py --ops

Levels: `import` reads the graph (milliseconds), `ops` also compiles each call alone (up to seconds for a call), `lower`
and `compile` take the whole graph (minutes even for a small one). Prints one JSON object; the exit status is 1 if a
step fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import furiosa.torch as furiosa
import numpy
import torch
from furiosa.torch.dryrun import dryrun
from furiosa.torch.export.exported_program import preprocess_exported_program
from torch.export import ExportedProgram

LEVELS = {
    "import": ("import",),
    "ops": ("import", "ops"),
    "lower": ("import", "lower"),
    "compile": ("import", "lower", "compile"),
}


def main() -> int:
    """Run the steps that the command line asks for; returns the exit status."""
    options = _arguments()
    if options.ops:
        print(json.dumps(_op_table(), indent=1))
        return 0
    report: dict[str, Any] = {"graph": str(options.graph), "torch": torch.__version__}
    program = torch.export.load(options.graph)
    ok = _check(program, options, report)
    print(json.dumps(report, indent=1))
    return 0 if ok else 1


def _check(program: ExportedProgram, options: argparse.Namespace, report: dict[str, Any]) -> bool:
    report["calls"] = _histogram(program)
    prepared = _step(report, "preprocess", lambda: preprocess_exported_program(program)[0])
    if prepared is None:
        return False
    report["calls after preprocessing"] = _histogram(prepared)
    if options.inputs:
        _run(prepared, options.inputs, options.outputs)
    steps = {
        "import": lambda: furiosa.compiler.import_dfg(prepared),
        "ops": lambda: _each_op(prepared, report),
        "lower": lambda: furiosa.compiler.lower(prepared),
        "compile": lambda: _compile(prepared, options.edf, report),
    }
    good = all(_step(report, name, steps[name]) is not None for name in LEVELS[options.level])
    return good and not report.get("failing calls")


def _step(report: dict[str, Any], name: str, work: Callable[[], Any]) -> Any:
    """Run one step; its seconds, or the end of its error, go into the report. None if it failed."""
    start = time.perf_counter()
    try:
        result = work()
    except Exception as error:
        report[name] = {"ok": False, "error": f"{type(error).__name__}: {str(error)[-800:]}"}
        return None
    report[name] = {"ok": True, "seconds": round(time.perf_counter() - start, 2)}
    return result


def _each_op(program: ExportedProgram, report: dict[str, Any]) -> bool:
    """Compile each call alone; what failed goes into the report."""
    result = dryrun(program.module(), *_blank_inputs(program), verbose=False)
    counts: Counter[str] = Counter()
    failing = []
    for call in result.reports:
        status = call.report.status.name
        counts[status] += 1
        if status in ("FAIL", "ERROR"):
            error = str(call.report.exception)[-300:]
            failing.append({"node": call.node_name, "op": call.target, "error": error})
    report["calls compiled alone"] = dict(counts)
    report["failing calls"] = failing
    return True


def _compile(program: ExportedProgram, edf: Path | None, report: dict[str, Any]) -> bool:
    binary = furiosa.compiler.compile(program).serialize()
    report["edf bytes"] = len(binary)
    if edf:
        edf.write_bytes(binary)
    return True


def _run(program: ExportedProgram, inputs: Path, outputs: Path) -> None:
    """Run the program on a CPU, on tensors in the order of the program's inputs."""
    arrays = numpy.load(inputs, allow_pickle=False)
    with torch.no_grad():
        results = program.module()(*(torch.from_numpy(arrays[name]) for name in _input_names(program)))
    numpy.savez(outputs, **{f"output_{i}": result.numpy() for i, result in enumerate(results)})


def _input_names(program: ExportedProgram) -> list[str]:
    return list(program.graph_signature.user_inputs)


def _blank_inputs(program: ExportedProgram) -> list[torch.Tensor]:
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return [torch.zeros(values[name].shape, dtype=values[name].dtype) for name in _input_names(program)]


def _histogram(program: ExportedProgram) -> dict[str, int]:
    calls = Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return dict(sorted(calls.items()))


def _op_table() -> dict[str, list[str]]:
    """Names of the ATen overloads that the compiler can import, and of those that it has code for."""
    names = [name.removesuffix(".") for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
    compiler = furiosa.compiler
    return {
        "importable": sorted(name for name in names if compiler.is_importable(name)),
        "supported": sorted(name for name in names if compiler.is_supported_aten(name)),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path, nargs="?", help="an ExportedProgram, such as graph.pt2 of an artifact")
    parser.add_argument("--level", choices=LEVELS, default="import", help="how far to go")
    parser.add_argument("--edf", type=Path, help="where to write the binary")
    parser.add_argument("--inputs", type=Path, help="an npz file of inputs to run the graph on")
    parser.add_argument("--outputs", type=Path, default=Path("outputs.npz"), help="where to write the results")
    parser.add_argument("--ops", action="store_true", help="print what the compiler says of each ATen op, and stop")
    options = parser.parse_args()
    if options.graph is None and not options.ops:
        parser.error("a graph is needed, or --ops")
    return options


if __name__ == "__main__":
    sys.exit(main())
