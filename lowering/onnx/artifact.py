"""An ONNX model that runs on ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graphwright.ir.errors import MissingDependencyError
from graphwright.ir.snapshot import Snapshot
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.interface import Interface

MODEL, DATA = "model.onnx", "model.onnx.data"
SMALL_TENSOR = 1024


class OnnxArtifact(Artifact):
    """An ONNX model in memory or in a folder; the ONNX Runtime session starts with the first run.

    Args:
        model: The model as onnx-ir has it; None for one that was loaded.
        path: The file of a model that was loaded.
        external_bytes: Weights of more bytes than this go to a file of their own.
    """

    def __init__(
        self,
        target: str,
        interface: Interface,
        provenance: Mapping[str, Sequence[str]] | None = None,
        *,
        model: Any = None,
        path: Path | None = None,
        external_bytes: int = 0,
    ) -> None:
        super().__init__(target, interface, provenance)
        self.model, self.path, self.external_bytes = model, path, external_bytes
        self.providers: list[Any] = ["CPUExecutionProvider"]
        self.session_options: Any = None
        self._session: Any = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def configure(self, *, providers: Sequence[Any] | None = None, session_options: Any = None) -> OnnxArtifact:
        """Choose ONNX Runtime's execution providers and session options; returns the artifact itself."""
        self.providers = list(providers) if providers else self.providers
        self.session_options = session_options or self.session_options
        self._session = None
        return self

    @property
    def session(self) -> Any:
        """The ONNX Runtime session.

        Raises:
            MissingDependencyError: ONNX Runtime is not installed.
        """
        if self._session is None:
            try:
                import onnxruntime
            except ImportError:
                raise MissingDependencyError("onnxruntime", "onnx", "running an ONNX model") from None
            options = self.session_options or onnxruntime.SessionOptions()
            self._session = onnxruntime.InferenceSession(self._file(), options, providers=self.providers)
        return self._session

    def _file(self) -> Path:
        """The model's file; one in a temporary folder if it was not saved, so that weights are not held twice."""
        if self.path is None:
            self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="graphwright-")
            self.path = write_model(self.model, Path(self._scratch.name), self.external_bytes)
        return self.path

    def snapshot(self) -> Snapshot:
        """Picture of the ONNX model."""
        from graphwright.lowering.onnx.snapshot import onnx_snapshot, read_onnx

        return onnx_snapshot(self.model) if self.path is None else read_onnx(self.path)

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        wanted = {entry.name for entry in self.session.get_inputs()}
        binding = self.session.io_binding()
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in inputs.items() if name in wanted}
        for name, tensor in held.items():
            binding.bind_ortvalue_input(name, _to_ort(tensor))
        for name in self.output_names:
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        return {
            port.name: _from_ort(value, port.torch_dtype())
            for port, value in zip(self.interface.outputs, binding.get_outputs(), strict=True)
        }

    def _write(self, folder: Path) -> None:
        if self.model is None:
            self._copy(folder)
        else:
            write_model(self.model, folder, self.external_bytes)

    def _copy(self, folder: Path) -> None:
        import shutil

        assert self.path is not None
        for name in (MODEL, DATA):
            if (self.path.parent / name).exists():
                shutil.copyfile(self.path.parent / name, folder / name)


def write_model(model: Any, folder: Path, external_bytes: int) -> Path:
    """Write `model.onnx`, and the weights beside it where they take more than `external_bytes`.

    The weights are written one by one from the memory of the model's own tensors.
    """
    import onnx_ir as ir

    weights = [value.const_value for value in model.graph.initializers.values()]
    external = sum(tensor.nbytes for tensor in weights) > external_bytes
    path = folder / MODEL
    options: dict[str, Any] = {"external_data": DATA, "size_threshold_bytes": SMALL_TENSOR} if external else {}
    ir.save(model, path, **options)
    return path


def _to_ort(tensor: torch.Tensor) -> Any:
    """An ONNX Runtime value on the tensor's memory."""
    import onnxruntime

    if tensor.dtype is torch.bfloat16:
        data = tensor.view(torch.uint16).numpy()
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(data, 16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy())


def _from_ort(value: Any, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of its own memory from an ONNX Runtime value."""
    if dtype is torch.bfloat16:
        return torch.utils.dlpack.from_dlpack(value._ortvalue.to_dlpack())
    return torch.from_numpy(value.numpy())
