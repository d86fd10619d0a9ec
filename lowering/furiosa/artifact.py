"""FuriosaArtifact: a program for Furiosa's compiler, which also runs here, by PyTorch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from graphwright.ir.node import op_name
from graphwright.ir.program import Program
from graphwright.ir.snapshot import Snapshot
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.furiosa.export import exported
from graphwright.lowering.furiosa.ops import RELEASE
from graphwright.lowering.interface import Interface

GRAPH, CAPABILITY, COMMAND = "graph.pt2", "capability.json", "compile.sh"

_SCRIPT = f"""#!/usr/bin/env bash
# Compile {GRAPH} to graph.edf, the binary for RNGD: compile.sh [PYTHON]
# PYTHON has {RELEASE}: bin/furiosa-python of the folder that Graphwright's tools/furiosa_env.sh makes.
set -euo pipefail
cd "$(dirname "$0")"
"${{1:-furiosa-python}}" - <<'END'
from pathlib import Path

import furiosa.torch
import torch
from furiosa.torch.export.exported_program import preprocess_exported_program

program, _ = preprocess_exported_program(torch.export.load("{GRAPH}"))
Path("graph.edf").write_bytes(furiosa.torch.compiler.compile(program).serialize())
END
"""


class FuriosaArtifact(Artifact):
    """A legalised program of fixed sizes.

    Args:
        target: Text form of the target that made it.
        program: The program; kept, not copied.
    """

    def __init__(self, target: str, program: Program) -> None:
        calls = {node.name: [op_name(node)] for node in program.graph.nodes if node.op == "call_function"}
        super().__init__(target, Interface.of(program), calls)
        self.program = program
        self.exported: ExportedProgram = exported(program)
        self._module = self.exported.module()

    def snapshot(self) -> Snapshot:
        """Picture of the program."""
        return Snapshot.of(self.program)

    def capability(self) -> dict[str, Any]:
        """How often each op is called, and the release of the compiler that is known to have them all."""
        counts = Counter(op_name(node) for node in self.exported.graph.nodes if node.op == "call_function")
        return {"compiler": RELEASE, "ops": dict(sorted(counts.items()))}

    def description(self) -> dict[str, Any]:
        """Interface and provenance, and the command that finishes the job where the compiler is."""
        return super().description() | {"command": f"./{COMMAND} furiosa-python", "compiler": RELEASE}

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            results = self._module(*(inputs[name] for name in self.input_names))
        return dict(zip(self.output_names, results, strict=True))

    def _write(self, folder: Path) -> None:
        self.program.save(folder / "program")
        torch.export.save(self.exported, folder / GRAPH)
        (folder / COMMAND).write_text(_SCRIPT, encoding="utf-8")
        (folder / COMMAND).chmod(0o755)
        (folder / CAPABILITY).write_text(json.dumps(self.capability(), indent=2) + "\n", encoding="utf-8")
