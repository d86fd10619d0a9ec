"""TFLite artifacts: one file with a signature for each bucket, run by LiteRT's interpreter."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphwright.lowering.artifact import Artifact
from graphwright.lowering.bucketed import BucketedArtifact
from graphwright.lowering.interface import Interface
from graphwright.lowering.tflite.variables import LOAD, STORE

MODEL = "model.tflite"


class TFLiteFile:
    """A `.tflite` file in memory or on disk, and the interpreter of it, made at the first run.

    Args:
        content: The bytes of a file.
        path: Where a file is.
        threads: Threads that kernels use.
        delegate: Whether XNNPACK takes the operators that it has kernels for.
    """

    def __init__(
        self, content: bytes | None = None, path: Path | None = None, threads: int = 1, delegate: bool = True
    ) -> None:
        self._content, self.path, self.threads, self.delegate = content, path, threads, delegate
        self._interpreter: Any = None
        self._lock = threading.Lock()

    @property
    def content(self) -> bytes:
        """The bytes of the file."""
        if self._content is None:
            assert self.path is not None
            self._content = self.path.read_bytes()
        return self._content

    def configure(self, threads: int = 1, delegate: bool = True) -> TFLiteFile:
        """Another interpreter of the same file."""
        return TFLiteFile(self._content, self.path, threads, delegate)

    @property
    def interpreter(self) -> Any:
        """LiteRT's interpreter of the file."""
        if self._interpreter is None:
            self._interpreter = self.make()
        return self._interpreter

    def make(self, **options: Any) -> Any:
        """A new interpreter, with options of `ai_edge_litert.interpreter.Interpreter`."""
        from ai_edge_litert import interpreter as litert

        kind = litert.OpResolverType
        resolver = kind.AUTO if self.delegate else kind.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        where = {"model_content": self._content} if self._content is not None else {"model_path": str(self.path)}
        return litert.Interpreter(
            **where, num_threads=self.threads, experimental_op_resolver_type=resolver, **options
        )  # fmt: skip

    def run(self, signature: str, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Run a signature on tensors by name; returns arrays by name."""
        with self._lock:
            runner = self.interpreter.get_signature_runner(signature)
            return runner(**{name: tensor.detach().cpu().contiguous().numpy() for name, tensor in inputs.items()})


class TFLiteArtifact(Artifact):
    """One signature of a file.

    Args:
        file: The file, shared by all signatures.
        signature: Name of the signature.
        states: Output -> input of the parts of a cache that are variables of the model.
    """

    def __init__(
        self, target: str, interface: Interface, provenance: Mapping[str, Sequence[str]] | None, *, file: TFLiteFile,
        signature: str, states: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(target, interface, provenance)
        self.file, self.signature, self.states = file, signature, dict(states or {})

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        hidden = set(self.states.values())
        if hidden:
            self.file.run(LOAD, {name: tensor for name, tensor in inputs.items() if name in hidden})
        found = self.file.run(self.signature, {name: t for name, t in inputs.items() if name not in hidden})
        if hidden:
            kept = self.file.run(STORE, {})
            found |= {output: kept[source] for output, source in self.states.items()}
        return {
            port.name: torch.from_numpy(np.array(found[port.name])).to(port.torch_dtype())
            for port in self.interface.outputs
        }

    def _write(self, folder: Path) -> None:
        (folder / MODEL).write_bytes(self.file.content)

    def description(self) -> dict[str, Any]:
        """Interface, provenance and signature."""
        return super().description() | {"signature": self.signature, "states": self.states}


class TFLiteBuckets(BucketedArtifact):
    """All signatures of one file."""

    @property
    def file(self) -> TFLiteFile:
        """The file."""
        part = next(iter(self.parts.values()))
        assert isinstance(part, TFLiteArtifact)
        return part.file

    def configure(self, threads: int = 1, delegate: bool = True) -> TFLiteBuckets:
        """Choose the number of threads, and whether XNNPACK is used; returns the artifact itself."""
        file = self.file.configure(threads, delegate)
        for part in self.parts.values():
            part.file = file  # type: ignore[attr-defined]
        return self

    def _write(self, folder: Path) -> None:
        (folder / MODEL).write_bytes(self.file.content)
