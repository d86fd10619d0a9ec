"""Modules for Neuron, which XLA's CPU client runs here: one per bucket, with weights that the buckets share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from graphwright.ir.errors import FileFormatError
from graphwright.ir.record import NodeRecord
from graphwright.ir.snapshot import Snapshot
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.bucketed import BucketedArtifact
from graphwright.lowering.buckets import Sizes
from graphwright.lowering.interface import Interface
from graphwright.lowering.neuron import hlo
from graphwright.lowering.neuron.builder import narrow
from graphwright.lowering.neuron.calls import with_bodies
from graphwright.lowering.neuron.compile import HLO, compile_here, write_script
from graphwright.lowering.neuron.model import Emitted
from graphwright.lowering.neuron.xla import Executable, hlo_proto, parse, tensor_of

WEIGHTS, MODULE, TEXT = "weights.safetensors", "model.mlirbc", "model.stablehlo.mlir"


class NeuronArtifact(Artifact):
    """One module.

    Args:
        emitted: The module, its weights and its aliases.
    """

    def __init__(self, target: str, interface: Interface, emitted: Emitted) -> None:
        self.emitted = emitted
        self.proto = hlo.renumbered(hlo_proto(emitted.bytecode))
        super().__init__(target, interface, hlo.provenance(hlo.read(self.proto)))
        self._executable: Executable | None = None

    @property
    def executable(self) -> Executable:
        """The module on XLA's CPU client, with the bodies of custom calls in their places."""
        if self._executable is None:
            weights = list(self.emitted.weights.values())
            self._executable = Executable(with_bodies(self.emitted.bytecode), weights)
        return self._executable

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        run, ports = self.executable, self.interface.inputs
        found = run([run.buffer(inputs[p.name].to(narrow(p.torch_dtype()))) for p in ports])
        outputs = zip(self.interface.outputs, found, strict=True)
        return {port.name: tensor_of(buffer).to(port.torch_dtype()) for port, buffer in outputs}

    def snapshot(self) -> Snapshot:
        """The instructions of the entry computation."""
        found = hlo.entry_instructions(hlo.read(self.proto))
        nodes = (NodeRecord(i.name, "call_function", i.opcode, (), (), "", i.node, "") for i in found)
        return Snapshot(self.target, tuple(nodes))

    # ---- files -------------------------------------------------------------------------------

    def _write(self, folder: Path) -> None:
        self.write(folder, frozenset())

    def write(self, folder: Path, elsewhere: Set[str]) -> None:
        """Write the module, and its weights but for those that are stored elsewhere."""
        (folder / HLO).write_bytes(self.proto)
        (folder / MODULE).write_bytes(self.emitted.bytecode)
        context, module = parse(self.emitted.bytecode)
        with context:
            (folder / TEXT).write_text(str(module), encoding="utf-8")
        own = {name: value for name, value in self.emitted.weights.items() if name not in elsewhere}
        if own:
            save_file(_apart(own), folder / WEIGHTS)

    def description(self) -> dict[str, Any]:
        """Interface, provenance, the order of the parameters, and which outputs take the memory of which inputs."""
        order = {"parameters": [*self.input_names, *self.emitted.weights], "aliases": self.emitted.aliases}
        return super().description() | order

    @classmethod
    def read(cls, folder: Path, entry: Mapping[str, Any], interface: Interface) -> NeuronArtifact:
        """Read what `_write` wrote, and the weights that all buckets share, which are a folder above.

        Raises:
            FileFormatError: A weight is missing.
        """
        files = [path for path in (folder.parent / WEIGHTS, folder / WEIGHTS) if path.exists()]
        known = {name: tensor for path in files for name, tensor in load_file(path).items()}
        names = entry["parameters"][len(interface.inputs) :]
        missing = [name for name in names if name not in known]
        if missing:
            raise FileFormatError(f"the weight '{missing[0]}' is missing", at=str(folder))
        weights = {name: known[name] for name in names}
        emitted = Emitted((folder / MODULE).read_bytes(), weights, dict(entry["aliases"]))
        return cls(entry["target"], interface, emitted)


class NeuronBuckets(BucketedArtifact):
    """Modules for several sizes.

    Args:
        flags: Arguments of Neuron's compiler.
    """

    def __init__(
        self, target: str, interface: Interface, parts: Mapping[str, Artifact], sizes: Mapping[str, Sizes],
        flags: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(target, interface, parts, sizes)
        self.flags = list(flags)

    def as_deployed(self) -> Artifact | None:
        """None: how the device rounds is not known here."""
        return None

    def compile(self, folder: str | Path) -> dict[str, Path]:
        """Save into a folder and compile there, through `torch_neuronx`.

        Returns:
            Bucket -> its NEFF.

        Raises:
            GraphwrightError: `torch_neuronx` is not installed; the folder is written, and holds the script to run.
            FileExistsError: The folder exists and is not an artifact.
        """
        return compile_here(self.save(folder), self.parts, self.flags)

    def _write(self, folder: Path) -> None:
        parts = {name: part for name, part in self.parts.items() if isinstance(part, NeuronArtifact)}
        shared = _common([part.emitted.weights for part in parts.values()])
        for name, part in parts.items():
            (folder / name).mkdir()
            part.write(folder / name, shared.keys())
        if shared:
            save_file(_apart(shared), folder / WEIGHTS)
        write_script(folder, self.parts, self.flags)


def _common(weights: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors that all have; those that were computed for the sizes of a bucket differ."""
    first, *others = weights
    return {name: one for name, one in first.items() if all(_same(one, other.get(name)) for other in others)}


def _same(left: torch.Tensor, right: torch.Tensor | None) -> bool:
    if right is None or left.shape != right.shape or left.dtype != right.dtype:
        return False
    return left.data_ptr() == right.data_ptr() or torch.equal(left, right)


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that share no memory, as safetensors wants them."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
