"""An ONNX file and the ONNX Runtime session on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graphwright.ir.errors import MissingDependencyError

SMALL_TENSOR = 1024


class OnnxFile:
    """A model in memory or in a file; the session starts with the first run.

    Args:
        model: The model as onnx-ir has it; None for one that was loaded.
        path: The file of a model that was loaded.
        external_bytes: Weights of more bytes than this go to a file of their own.
    """

    def __init__(self, model: Any = None, path: Path | None = None, external_bytes: int = 0) -> None:
        self.model, self.path, self.external_bytes = model, path, external_bytes
        self.providers: list[Any] = ["CPUExecutionProvider"]
        self.session_options: Any = None
        self._session: Any = None
        self._wanted: frozenset[str] = frozenset()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def configure(self, providers: Sequence[Any] | None, session_options: Any) -> None:
        """Choose ONNX Runtime's execution providers and session options."""
        self.providers = list(providers) if providers else self.providers
        self.session_options = session_options or self.session_options
        self._session = None

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
            options = self.session_options or _exact(onnxruntime.SessionOptions())
            self._session = onnxruntime.InferenceSession(self.file(), options, providers=self.providers)
            self._wanted = frozenset(entry.name for entry in self._session.get_inputs())
        return self._session

    def file(self) -> Path:
        """The model's file; one in a temporary folder if it was not saved, so that weights are not held twice."""
        if self.path is None:
            self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="graphwright-")
            self.path = write_model(self.model, Path(self._scratch.name) / "model.onnx", self.external_bytes)
        return self.path

    def write(self, path: Path) -> None:
        """Write the model, and its weights beside it where they are many."""
        if self.model is not None:
            write_model(self.model, path, self.external_bytes)
            return
        assert self.path is not None
        for source, copy in ((self.path, path), (data_path(self.path), data_path(path))):
            if source.exists():
                shutil.copyfile(source, copy)

    def run(
        self,
        inputs: Mapping[str, torch.Tensor],
        outputs: Iterable[tuple[str, torch.dtype]],
        into: Mapping[str, torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Run on tensors of this process's memory, which are not copied; inputs that the file does not read are left.

        Args:
            inputs: Tensors by name.
            outputs: Name and element type of what is wanted.
            into: Outputs that are written to these tensors, which may be inputs too; they are not among the results.
        """
        outputs = list(outputs)
        binding = self.session.io_binding()
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in inputs.items() if name in self._wanted}
        for name, tensor in held.items():
            binding.bind_ortvalue_input(name, _to_ort(tensor))
        for name, _ in outputs:
            binding.bind_output(name, "cpu")
        for name, tensor in (into or {}).items():
            binding.bind_ortvalue_output(name, _to_ort(tensor))
        self.session.run_with_iobinding(binding)
        values = binding.get_outputs()[: len(outputs)]
        return [_from_ort(value, dtype) for value, (_, dtype) in zip(values, outputs, strict=True)]


def _exact(options: Any) -> Any:
    """Products with packed weights keep their activations: by default they would be rounded to 8 bits."""
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return options


def data_path(path: Path) -> Path:
    """Where the weights of a file are if they are not in it: `model.onnx.data` beside `model.onnx`."""
    return path.with_name(path.name + ".data")


def write_model(model: Any, path: Path, external_bytes: int) -> Path:
    """Write a model to `path`, and its weights beside it where they take more than `external_bytes`.

    The weights are written one by one from the memory of the model's own tensors.
    """
    import onnx_ir as ir

    weights = [value.const_value for value in model.graph.initializers.values()]
    external = sum(tensor.nbytes for tensor in weights) > external_bytes
    options: dict[str, Any] = {"size_threshold_bytes": SMALL_TENSOR} if external else {}
    ir.save(model, path, external_data=data_path(path).name if external else None, **options)
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
