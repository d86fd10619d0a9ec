"""An OpenVINO model in memory or in a file, and the compiled request on it, which several artifacts may share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino as ov
import torch

from graphwright.lowering.openvino.builder import TYPES
from graphwright.lowering.openvino.model import Emitted

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Properties for computing in float32 throughout.

By itself the CPU plugin takes bfloat16, and 8 bits for caches and for what is multiplied with compressed weights.
"""


class OpenVINOFile:
    """A model; it is compiled at the first run.

    Args:
        emitted: The model, for one that was just lowered.
        path: The `.xml` file of one that was loaded.
    """

    def __init__(self, *, emitted: Emitted | None = None, path: Path | None = None) -> None:
        self.emitted, self.path = emitted, path
        self.device = "CPU"
        self.properties: dict[str, Any] = dict(EXACT)
        self.text = 0
        self._request: Any = None
        self._held: dict[str, Any] = {}

    @property
    def model(self) -> Any:
        """The `openvino.Model`."""
        if self.emitted is None:
            assert self.path is not None
            self.emitted = Emitted(ov.Core().read_model(self.path), {})
        return self.emitted.model

    def configure(self, device: str, properties: Mapping[str, Any]) -> None:
        """Compile for a device and its properties from the next run on."""
        self.device = device
        self.properties = {name: value for name, value in properties.items() if value is not None}
        self._request = None

    def twin(self) -> OpenVINOFile:
        """The same model, with settings and a request of its own."""
        other = OpenVINOFile(emitted=self.emitted, path=self.path)
        other.configure(self.device, self.properties)
        return other

    @property
    def request(self) -> Any:
        """The inference request on the compiled model."""
        if self._request is None:
            compiled = ov.Core().compile_model(self.model, self.device, self.properties)
            self._request = compiled.create_infer_request()
        return self._request

    def infer(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Run on inputs by name."""
        held = {name: to_openvino(value) for name, value in inputs.items()}
        for name, value in held.items():
            self.request.set_tensor(name, value)
        self._held = held  # the request reads this memory, and does not keep it alive
        self.request.infer()

    def output(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A result of the last run, in memory of its own."""
        return to_torch(self.request.get_tensor(name), dtype)

    def variables(self) -> dict[str, Any]:
        """The variables of the model by name."""
        return {state.name: state for state in self.request.query_state()}

    def write(self, path: Path) -> None:
        """Write the model and its weights."""
        ov.save_model(self.model, path, compress_to_fp16=False)


def to_openvino(value: torch.Tensor) -> Any:
    """An OpenVINO tensor on the memory of a torch tensor."""
    value = value.detach().cpu().contiguous()
    if value.dtype is torch.bfloat16:
        return ov.Tensor(value.view(torch.int16).numpy(), ov.Shape(list(value.shape)), TYPES[value.dtype])
    return ov.Tensor(value.numpy(), shared_memory=bool(value.numel()))


def to_torch(tensor: Any, dtype: torch.dtype) -> torch.Tensor:
    """A torch tensor of its own memory."""
    if dtype is torch.bfloat16:
        return torch.from_numpy(tensor.data.view("int16").copy()).view(torch.bfloat16).reshape(list(tensor.shape))
    return torch.from_numpy(tensor.data.copy())
