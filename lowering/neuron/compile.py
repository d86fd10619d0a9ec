"""The commands of Neuron's compiler: as a script beside the HLO, and through `torch_neuronx` where it is installed."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from graphwright.ir.errors import GraphwrightError

HLO, NEFF, SCRIPT = "model.hlo.pb", "model.neff", "compile.sh"

_SCRIPT = """#!/bin/sh
# Compiles what was exported into NEFF files. Needs neuronx-cc, from the Neuron repository of AWS; runs on any host.
# The parameters of each model are its inputs, then the tensors of weights.safetensors, in the order of manifest.json.
set -eu
cd "$(dirname "$0")"
for bucket in {buckets}; do
  neuronx-cc compile "$bucket/{hlo}" --framework XLA --output "$bucket/{neff}" {flags} \\
    --logfile "$bucket/neuronx-cc.log"
done
"""


def flags(device: str, kind: str, auto_cast: str, level: int) -> list[str]:
    """Arguments of `neuronx-cc compile` beside the files.

    Args:
        device: `--target`.
        kind: `--model-type`: `transformer` or `generic`.
        auto_cast: `none`, or what the compiler computes in bfloat16: `matmult`, `all`.
        level: Optimization level, 1 to 3.
    """
    cast = [] if auto_cast == "none" else ["--auto-cast-type", "bf16"]
    return ["--target", device, "--model-type", kind, "--auto-cast", auto_cast, *cast, f"-O{level}"]


def write_script(folder: Path, buckets: Iterable[str], arguments: Sequence[str]) -> None:
    """Write `compile.sh`, which compiles every bucket."""
    names = " ".join(shlex.quote(name) for name in buckets)
    path = folder / SCRIPT
    path.write_text(_SCRIPT.format(buckets=names, hlo=HLO, neff=NEFF, flags=shlex.join(arguments)), encoding="utf-8")
    path.chmod(0o755)


def compile_here(folder: Path, buckets: Iterable[str], arguments: Sequence[str]) -> dict[str, Path]:
    """Compile the buckets in a folder through `torch_neuronx`.

    Returns:
        Bucket -> its NEFF.

    Raises:
        GraphwrightError: `torch_neuronx` is not installed; names the script to run elsewhere.
    """
    if importlib.util.find_spec("torch_neuronx") is None:
        raise GraphwrightError(
            "compiling needs torch_neuronx and neuronx-cc, which are not installed",
            why="AWS offers them in the Neuron repository, not on PyPI",
            remedies=[f"copy {folder} to a machine with neuronx-cc, and run {SCRIPT} there"],
        )
    from torch_neuronx.xla_impl.trace import hlo_compile

    return {name: Path(hlo_compile(str(folder / name / HLO), str(folder / name), list(arguments))) for name in buckets}
