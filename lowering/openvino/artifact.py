"""An OpenVINO model that runs on one of OpenVINO's devices."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphwright.lowering.artifact import Artifact
from graphwright.lowering.interface import Interface
from graphwright.lowering.openvino.session import OpenVINOFile, to_openvino, to_torch
from graphwright.lowering.openvino.stateful import BEAM

MODEL = "openvino_model.xml"


@dataclass(frozen=True)
class Variables:
    """How the variables of a stateful model stand for a cache.

    Args:
        inputs: Input of the interface -> variable that it is put into.
        outputs: Output of the interface -> variable that it is read from.
        unread: Inputs of the model that are not in the interface, with the shape (0 stands for the number of rows)
            and type of a stand-in.
    """

    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    unread: dict[str, tuple[list[int], str]] = field(default_factory=dict)


class OpenVINOArtifact(Artifact):
    """An OpenVINO model in memory or in a folder; it is compiled at the first run.

    Args:
        file: The model, which the two steps of a decoder share.
        name: Name of its file, for a model that shares it with another part.
        variables: What its variables stand for; None where the model has none.
    """

    def __init__(
        self, target: str, interface: Interface, provenance: Mapping[str, Sequence[str]] | None = None, *,
        file: OpenVINOFile, name: str = "", variables: Variables | None = None,
    ) -> None:  # fmt: skip
        super().__init__(target, interface, provenance)
        self.file, self.name, self.variables = file, name, variables

    @property
    def model(self) -> Any:
        """The `openvino.Model`."""
        return self.file.model

    @property
    def request(self) -> Any:
        """The inference request on the compiled model."""
        return self.file.request

    def configure(self, device: str = "CPU", **properties: Any) -> OpenVINOArtifact:
        """Choose the device and properties that the model is compiled with; returns the artifact itself.

        Until then it computes in float32 throughout (`EXACT`). `configure()` leaves the choice to the device, which is
        faster and less exact. Both steps of a decoder are one model, and are configured together.
        """
        self.file.configure(device, properties)
        return self

    def as_deployed(self) -> OpenVINOArtifact:
        """The same model with the device's own choice of precision."""
        other = copy.copy(self)
        other.file = self.file.twin()
        return other.configure(self.file.device)

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        ports = {port.name: port.torch_dtype() for port in self.interface.outputs}
        if self.variables is None:
            self.file.infer(inputs)
            return {name: self.file.output(name, dtype) for name, dtype in ports.items()}
        self.restart()
        self._put({self.variables.inputs[name]: inputs[name] for name in self.variables.inputs})
        found = self.step({name: value for name, value in inputs.items() if name not in self.variables.inputs})
        states = self.file.variables()
        cache = {n: to_torch(states[v].state, ports[n]) for n, v in self.variables.outputs.items()}
        return {name: found[name] if name in found else cache[name] for name in self.output_names}

    # ---- steps of a stateful model -----------------------------------------------------------

    @property
    def text(self) -> int:
        """Number of the text whose cache the variables hold."""
        return self.file.text

    def restart(self) -> int:
        """Empty the cache for another text; returns its number."""
        self.request.reset_state()
        self.file.text += 1
        return self.file.text

    def _put(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, state in self.file.variables().items() if values else ():
            if name in values and values[name].numel():
                state.state = to_openvino(values[name])

    def change(self, function: Any) -> None:
        """Replace what is in each variable by a function of (name of the variable, tensor)."""
        for name, state in self.file.variables().items():
            dtype = next(p.torch_dtype() for p in self.interface.outputs if p.torch_dtype().is_floating_point)
            state.state = to_openvino(function(name, to_torch(state.state, dtype)))

    def step(self, inputs: Mapping[str, torch.Tensor], rows: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Go on after what is in the cache.

        Args:
            inputs: The inputs that are no cache.
            rows: int64 [batch], the row of the cache that each row goes on with; by default its own.

        Returns:
            The outputs that are no cache.
        """
        assert self.variables is not None
        batch = next(iter(inputs.values())).shape[0]
        extra = {
            name: torch.zeros([size or batch for size in shape], dtype=getattr(torch, kind))
            for name, (shape, kind) in self.variables.unread.items()
            if name not in inputs
        }
        rows = torch.arange(batch) if rows is None else rows
        self.file.infer({**inputs, **extra, BEAM: rows.to(torch.int32)})
        ports = [port for port in self.interface.outputs if port.name not in self.variables.outputs]
        return {port.name: self.file.output(port.name, port.torch_dtype()) for port in ports}

    # ---- files -------------------------------------------------------------------------------

    def _write(self, folder: Path) -> None:
        self.file.write(folder / MODEL)

    def description(self) -> dict[str, Any]:
        """Interface, provenance, and what the variables stand for."""
        return super().description() | ({"variables": asdict(self.variables)} if self.variables else {})

    def write_part(self, folder: Path, name: str) -> dict[str, Any]:
        """Write the part's files into the folder itself, under the names that optimum-intel has for them."""
        file = self.name or (MODEL if name == "model" else f"openvino_{name}.xml")
        if not (folder / file).exists():
            self.file.write(folder / file)
        return {"file": file} | self.description()
