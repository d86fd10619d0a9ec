"""A program of the vendor's operators, one module per bucket of sizes, and the folder that runs without Graphwright."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graphwright.ir.fixed_sizes import fix_sizes
from graphwright.ir.node import op_name
from graphwright.ir.program import Program
from graphwright.ir.snapshot import Snapshot
from graphwright.ir.tensorfile import save_tensors
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.bucketed import BucketedArtifact
from graphwright.lowering.buckets import Sizes
from graphwright.lowering.hpu import hpu_kernels, hpu_ops, run
from graphwright.lowering.hpu.flat import flat_graph, flat_module, identifiers
from graphwright.lowering.hpu.writer import module_text
from graphwright.lowering.interface import Interface

COMMAND = "PT_HPU_LAZY_MODE=0 python run.py --device hpu --backend hpu_backend"
"""What finishes the job on a machine with Gaudi."""


class HpuBucket(Artifact):
    """A program of fixed sizes; it runs eagerly on the CPU until `configure` says otherwise."""

    def __init__(self, target: str, program: Program) -> None:
        calls = {node.name: [op_name(node)] for node in program.graph.nodes if node.op == "call_function"}
        super().__init__(target, Interface.of(program), calls)
        self.program, self.device, self.backend = program, "cpu", ""
        self._function: Any = None

    @property
    def function(self) -> Any:
        """The flat module, compiled if a backend was chosen."""
        if self._function is None:
            module = flat_module(self.program, self.interface, self.device).eval()
            self._function = torch.compile(module, backend=self.backend, dynamic=False) if self.backend else module
        return self._function

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            results = self.function(*(inputs[name].to(self.device) for name in self.input_names))
        return {name: torch.as_tensor(r).cpu() for name, r in zip(self.output_names, results, strict=True)}

    def snapshot(self) -> Snapshot:
        """Picture of the program."""
        return Snapshot.of(self.program)

    def _write(self, folder: Path) -> None:
        self.program.save(folder / "program")


class HpuArtifact(BucketedArtifact):
    """One program, and its form for each bucket; weights are shared.

    Args:
        target: Text form of the target.
        program: A legalised program, with its dynamic dimensions.
        sizes: Bucket -> size of each dimension.
    """

    def __init__(self, target: str, program: Program, sizes: Mapping[str, Sizes]) -> None:
        parts = {name: HpuBucket(target, fix_sizes(program, one)) for name, one in sizes.items()}
        super().__init__(target, Interface.of(program), parts, sizes)
        self.program = program

    def configure(self, device: str = "cpu", backend: str = "") -> HpuArtifact:
        """Choose where to run, and what `torch.compile` is given; returns the artifact itself.

        Args:
            device: `hpu` on a machine with Gaudi.
            backend: `hpu_backend` there; empty runs operator by operator.
        """
        for part in self.parts.values():
            assert isinstance(part, HpuBucket)
            part.device, part.backend, part._function = device, backend, None
        return self

    # ---- files -------------------------------------------------------------------------------

    def _write(self, folder: Path) -> None:
        self.program.save(folder / "program")
        for shipped in (hpu_kernels, hpu_ops, run):
            source = Path(str(shipped.__file__))
            text = source.read_text(encoding="utf-8").replace(f"from {__package__}.", "from ")
            (folder / source.name).write_text(text, encoding="utf-8")
        (folder / "modules").mkdir()
        fields = json.loads((folder / "program" / "program.json").read_text(encoding="utf-8"))
        for name, part in self.parts.items():
            assert isinstance(part, HpuBucket)
            text = self._module(part, ", ".join(f"{d} {n}" for d, n in self.sizes[name].items()), fields["weights"])
            (folder / "modules" / f"{name}.py").write_text(text, encoding="utf-8")
        save_tensors(self._checks(), folder / "check.safetensors")
        (folder / "run.json").write_text(json.dumps(self._facts(), indent=1), encoding="utf-8")

    def _module(self, part: HpuBucket, sizes: str, layout: Mapping[str, Any]) -> str:
        graph = flat_graph(part.program, part.interface)
        used = {node.target for node in graph.nodes if node.op == "get_attr"}
        names = {local: name for name, local in identifiers(part.program.state).items() if local in used}
        return module_text(
            graph, part.program.name, sizes, {local: _key(name, layout) for local, name in names.items()}
        )

    def _checks(self) -> dict[str, torch.Tensor]:
        """Inputs and results of each bucket."""
        found: dict[str, torch.Tensor] = {}
        for name, part in self.parts.items():
            assert isinstance(part, HpuBucket)
            leaves = part.program.example.leaves()
            inputs = {port.name: leaves[port.leaf] for port in part.interface.inputs}
            found |= {f"{name}/in/{key}": value.clone().contiguous() for key, value in inputs.items()}
            results = part.run(**{key: value.clone() for key, value in inputs.items()})
            found |= {f"{name}/out/{key}": value.clone().contiguous() for key, value in results.items()}
        return found

    def description(self) -> dict[str, Any]:
        """Interface, provenance, buckets, and the command for the vendor's machine."""
        buckets = {name: {"sizes": sizes} for name, sizes in self.sizes.items()}
        return Artifact.description(self) | {"buckets": buckets, "command": COMMAND}

    def _facts(self) -> dict[str, Any]:
        """What `run.py` reads."""
        padding = {side: sorted(getattr(self.padding, side)) for side in ("rows", "front", "end")}
        ports = {"inputs": self.interface.inputs, "outputs": self.interface.outputs}
        named = {side: [{"name": one.name, "shape": one.shape} for one in found] for side, found in ports.items()}
        return named | {"buckets": self.sizes, "padding": padding}


def _key(name: str, layout: Mapping[str, Any]) -> str:
    """Under which name a tensor lies in the file of weights."""
    entry = layout[name]
    return str(layout[entry["same_as"]]["blob"] if "same_as" in entry else entry["blob"])
