"""An ONNX model that runs on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphwright.ir.snapshot import Snapshot
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.interface import Interface
from graphwright.lowering.onnx.session import OnnxFile

MODEL = "model.onnx"
PAST, PRESENT = "past_key_values.", "present."


@dataclass(frozen=True)
class Branch:
    """One of the two programs of a merged file.

    Args:
        file: Name of the file.
        condition: The value of `use_cache_branch` that selects this program.
        unused: Inputs that only the other program reads, with the shape and type of an empty stand-in.
        same: Output -> the input that it is equal to, which is not copied by the file.
    """

    file: str
    condition: bool
    unused: dict[str, tuple[list[int], str]] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)


class OnnxArtifact(Artifact):
    """An ONNX model in memory or in a folder; the ONNX Runtime session starts with the first run.

    Args:
        file: Where the model is, and its session, which the branches of a merged file share.
        branch: Which program of a merged file this is; None for a file of its own.
    """

    def __init__(
        self,
        target: str,
        interface: Interface,
        provenance: Mapping[str, Sequence[str]] | None = None,
        *,
        file: OnnxFile,
        branch: Branch | None = None,
    ) -> None:
        super().__init__(target, interface, provenance)
        self.file, self.branch = file, branch
        self.emulated: OnnxArtifact | None = None
        self.in_place = self.shared = False

    @property
    def model(self) -> Any:
        """The model as onnx-ir has it; None for one that was loaded."""
        return self.file.model

    def configure(self, *, providers: Sequence[Any] | None = None, session_options: Any = None) -> OnnxArtifact:
        """Choose ONNX Runtime's execution providers and session options; returns the artifact itself."""
        self.file.configure(providers, session_options)
        return self

    @property
    def session(self) -> Any:
        """The ONNX Runtime session.

        Raises:
            MissingDependencyError: ONNX Runtime is not installed.
        """
        return self.file.session

    def runnable(self) -> OnnxArtifact:
        """The artifact itself, or its emulation in float32 where ONNX Runtime has no kernels for its type here."""
        if self.emulated is None:
            return self
        from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Missing

        try:
            self.file.session  # noqa: B018 - starting the session is the question
            return self
        except Missing:
            return self.emulated

    def snapshot(self) -> Snapshot:
        """Picture of the ONNX model."""
        from graphwright.lowering.onnx.snapshot import onnx_snapshot, read_onnx

        return read_onnx(self.file.path) if self.file.path is not None else onnx_snapshot(self.model)

    def run(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run on tensors by input name; where `shared` is true, an encoder's caches may have a row for several others.

        Raises:
            InputError: An input is missing, unknown, or has a dtype or size the program was not captured for.
        """
        self.interface.check(_as_captured(inputs) if self.shared else inputs)
        return self._run(inputs)

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.in_place and (rows := _rows_apart(inputs)):
            results = [self._run(_row(inputs, i)) for i in range(rows)]
            return {name: torch.cat([result[name] for result in results]) for name in self.output_names}
        branch = self.branch or Branch("", True)
        extra = {name: torch.empty(shape, dtype=getattr(torch, kind)) for name, (shape, kind) in branch.unused.items()}
        if self.branch is not None:
            extra["use_cache_branch"] = torch.tensor([branch.condition])
        ports = [port for port in self.interface.outputs if port.name not in branch.same]
        values = self.file.run({**inputs, **extra}, [(port.name, port.torch_dtype()) for port in ports])
        found = {port.name: value for port, value in zip(ports, values, strict=True)}
        found |= {name: inputs[source] for name, source in branch.same.items()}
        return {name: found[name] for name in self.output_names}

    def step(self, inputs: Mapping[str, torch.Tensor], caches: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run on caches that have room for more than they hold, and append to them; only where `in_place` is true.

        Args:
            inputs: The other inputs; how much the caches hold follows from `attention_mask`.
            caches: By input name, contiguous tensors of [batch, heads, room, size].

        Returns:
            The outputs that are no caches.
        """
        if rows := _rows_apart(inputs):
            results = [self.step(_row(inputs, i), _row(caches, i)) for i in range(rows)]
            return {name: torch.cat([result[name] for result in results]) for name in results[0]}
        ports = [port for port in self.interface.outputs if not port.name.startswith(PRESENT)]
        into = {PRESENT + name.removeprefix(PAST): tensor for name, tensor in caches.items()}
        wanted = [(port.name, port.torch_dtype()) for port in ports]
        values = self.file.run({**inputs, **caches}, wanted, into)
        return {port.name: value for port, value in zip(ports, values, strict=True)}

    def _write(self, folder: Path) -> None:
        self.file.write(folder / MODEL)

    def write_part(self, folder: Path, name: str) -> dict[str, Any]:
        """Write the part's file into the folder itself, under the part's name."""
        file = self.branch.file if self.branch else f"{name}.onnx"
        if not (folder / file).exists():
            self.file.write(folder / file)
        branch = {"branch": asdict(self.branch)} if self.branch else {}
        return {"file": file, **branch} | self.description()

    def description(self) -> dict[str, Any]:
        """Interface, provenance, and what its caches allow."""
        return super().description() | {name: True for name in ("in_place", "shared") if getattr(self, name)}


def _as_captured(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs with an encoder's caches seen as having as many rows as the others, where those are a multiple."""
    rows = inputs["input_ids"].shape[0] if "input_ids" in inputs else 0

    def seen(tensor: torch.Tensor) -> torch.Tensor:
        divides = tensor.dim() and tensor.shape[0] and rows % tensor.shape[0] == 0
        return tensor[:1].expand(rows, *tensor.shape[1:]) if divides else tensor

    return {name: seen(tensor) if ".encoder." in name else tensor for name, tensor in inputs.items()}


def _row(tensors: Mapping[str, torch.Tensor], i: int) -> dict[str, torch.Tensor]:
    return {name: tensor[i : i + 1] for name, tensor in tensors.items()}


def _rows_apart(inputs: Mapping[str, torch.Tensor]) -> int:
    """How many rows have to be run one by one, 0 for none.

    `GroupQueryAttention` takes several new tokens after a cache for one row only.
    """
    rows, new = inputs["input_ids"].shape
    past = inputs["attention_mask"].shape[1] - new
    return rows if past and new > 1 and rows > 1 else 0
