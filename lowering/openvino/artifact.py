"""An OpenVINO model that runs on one of OpenVINO's devices."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import openvino as ov
import torch

from graphwright.lowering.artifact import Artifact
from graphwright.lowering.interface import Interface
from graphwright.lowering.openvino.builder import TYPES
from graphwright.lowering.openvino.model import Emitted
from graphwright.lowering.openvino.stateful import BEAM

MODEL = "openvino_model.xml"
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Properties for computing in float32 throughout.

By itself the CPU plugin takes bfloat16, and 8 bits for caches and for what is multiplied with compressed weights.
"""


class OpenVINOArtifact(Artifact):
    """An OpenVINO model in memory or in a folder; it is compiled at the first run.

    Args:
        emitted: The model, for one that was just lowered.
        path: The `.xml` file of one that was loaded.
        states: Output -> input of the parts of a cache that are variables of the model.
    """

    def __init__(
        self, target: str, interface: Interface, provenance: Mapping[str, Sequence[str]] | None = None, *,
        emitted: Emitted | None = None, path: Path | None = None, states: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(target, interface, provenance)
        self.emitted, self.path, self.states = emitted, path, dict(states or {})
        self.device = "CPU"
        self.properties: dict[str, Any] = dict(EXACT)
        self._request: Any = None
        self._held: dict[str, Any] = {}

    @property
    def model(self) -> Any:
        """The `openvino.Model`."""
        if self.emitted is None:
            assert self.path is not None
            self.emitted = Emitted(ov.Core().read_model(self.path), self.provenance)
        return self.emitted.model

    def configure(self, device: str = "CPU", **properties: Any) -> OpenVINOArtifact:
        """Choose the device and properties that the model is compiled with; returns the artifact itself.

        Until then it computes in float32 throughout (`EXACT`). `configure()` leaves the choice to the device, which is
        faster and less exact.
        """
        self.device = device
        self.properties = {name: value for name, value in properties.items() if value is not None}
        self._request = None
        return self

    def as_deployed(self) -> OpenVINOArtifact:
        """The same model with the device's own choice of precision."""
        other = copy.copy(self)
        return other.configure(self.device)

    @property
    def request(self) -> Any:
        """The inference request on the compiled model."""
        if self._request is None:
            compiled = ov.Core().compile_model(self.model, self.device, self.properties)
            self._request = compiled.create_infer_request()
        return self._request

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        request, held = self.request, {name: _tensor(value) for name, value in inputs.items()}
        hidden = set(self.states.values())
        if self.states:
            self._set_states(held)
            rows = next(value for name, value in inputs.items() if name not in hidden).shape[0]
            held[BEAM] = _tensor(torch.arange(rows, dtype=torch.int32))
        for name, value in held.items():
            if name not in hidden:
                request.set_tensor(name, value)
        self._held = held  # the request reads this memory, and does not keep it alive
        request.infer()
        ports = {port.name: port.torch_dtype() for port in self.interface.outputs}
        found = {name: _result(request.get_tensor(name), ports[name]) for name in ports if name not in self.states}
        if self.states:
            variables = {state.name: state for state in request.query_state()}
            for output, source in self.states.items():
                found[output] = _result(variables[f"{source}{output}"].state, ports[output])
        return {name: found[name] for name in self.output_names}

    def _set_states(self, held: Mapping[str, Any]) -> None:
        """Put a given cache into the model's variables; an empty one resets them."""
        self.request.reset_state()
        variables = {state.name: state for state in self.request.query_state()}
        for output, source in self.states.items():
            if held[source].get_size():
                variables[f"{source}{output}"].state = held[source]

    # ---- files -------------------------------------------------------------------------------

    def _write(self, folder: Path) -> None:
        self._write_model(folder / MODEL)

    def _write_model(self, path: Path) -> None:
        ov.save_model(self.model, path, compress_to_fp16=False)

    def _save(self, folder: Path) -> dict[str, Any]:
        return super()._save(folder) | {"states": self.states}

    def write_part(self, folder: Path, name: str) -> dict[str, Any]:
        """Write the part's files into the folder itself, under the names that optimum-intel has for them."""
        file = MODEL if name == "model" else f"openvino_{name}.xml"
        self._write_model(folder / file)
        return {"file": file, "states": self.states} | self.description()


def _tensor(value: torch.Tensor) -> Any:
    """An OpenVINO tensor on the memory of a torch tensor."""
    value = value.detach().cpu().contiguous()
    if value.dtype is torch.bfloat16:
        return ov.Tensor(value.view(torch.int16).numpy(), ov.Shape(list(value.shape)), TYPES[value.dtype])
    return ov.Tensor(value.numpy(), shared_memory=bool(value.numel()))


def _result(tensor: Any, dtype: torch.dtype) -> torch.Tensor:
    """A torch tensor of its own memory."""
    if dtype is torch.bfloat16:
        return torch.from_numpy(tensor.data.view("int16").copy()).view(torch.bfloat16).reshape(list(tensor.shape))
    return torch.from_numpy(tensor.data.copy())
