"""Decoding on LiteRT's `CompiledModel`: the buffers of the cache that a step reads are those that it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from graphwright.ir.errors import GraphwrightError
from graphwright.lowering.interface import Interface, Port
from graphwright.lowering.tflite.artifact import TFLiteArtifact, TFLiteBuckets
from graphwright.lowering.tflite.narrow import narrowed
from graphwright.lowering.tflite.variables import pairs_of


class Session:
    """A decoder with a cache of fixed size that is updated in place, without a copy.

    Args:
        artifact: Lowered with `cache=inputs` and 32-bit integers. All its signatures work on the same cache.
        threads: Threads that kernels use.

    Raises:
        GraphwrightError: The artifact has no cache of fixed size among its inputs.
    """

    def __init__(self, artifact: TFLiteBuckets, threads: int = 1) -> None:
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, HardwareAccelerator, Options

        self.artifact = artifact
        self.interfaces = {name: narrowed(_interface(part)) for name, part in artifact.parts.items()}
        first = next(iter(self.interfaces.values()))
        self.pairs = pairs_of({p.name: p for p in first.inputs}, {p.name: p for p in first.outputs})
        if not self.pairs:
            raise GraphwrightError(
                "there is no cache of fixed size among the inputs",
                remedies=["capture the model with a StaticCache", "lower it with cache=inputs"],
            )
        options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=CpuOptions(num_threads=threads))
        self.model = CompiledModel.from_buffer(artifact.file.content, options=options)
        self.inputs = {name: self._buffers(name, face.inputs) for name, face in self.interfaces.items()}
        self.outputs = {name: self._buffers(name, face.outputs, True) for name, face in self.interfaces.items()}
        self._share(next(iter(self.inputs.values())))
        self.reset()

    def _buffers(self, signature: str, ports: tuple[Port, ...], results: bool = False) -> dict[str, Any]:
        make = self.model.create_output_buffer_by_name if results else self.model.create_input_buffer_by_name
        return {port.name: make(signature, port.name) for port in ports}

    def _share(self, first: Mapping[str, Any]) -> None:
        """Let every signature read the buffers of the first, and write keys and values there.

        The number of tokens so far is read all through a step, and has a buffer of its own to be written to.
        """
        for signature, face in self.interfaces.items():
            for port in face.outputs:
                if port.name in self.pairs:
                    source = self.pairs[port.name]
                    self.inputs[signature][source] = first[source]
                    if port.shape:
                        self.outputs[signature][port.name] = first[source]

    def reset(self) -> None:
        """Forget all tokens."""
        signature, face = next(iter(self.interfaces.items()))
        for port in face.inputs:
            if port.name in self.pairs.values():
                self.inputs[signature][port.name].write(np.zeros(_sizes(port), port.dtype))

    def run(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step on the inputs beside the cache, in the sizes of one of the signatures; returns the other outputs.

        Raises:
            GraphwrightError: No signature has these sizes.
        """
        signature, face = self._signature(inputs)
        for port in face.inputs:
            if port.name in inputs:
                self.inputs[signature][port.name].write(inputs[port.name].numpy().astype(port.dtype))
        self.model.run_by_name(signature, self.inputs[signature], self.outputs[signature])
        for port in face.outputs:
            if port.name in self.pairs and not port.shape:
                self.inputs[signature][self.pairs[port.name]].write(self._read(signature, port).numpy())
        ports = [port for port in face.outputs if port.name not in self.pairs]
        return {port.name: self._read(signature, port) for port in ports}

    def _signature(self, inputs: Mapping[str, torch.Tensor]) -> tuple[str, Interface]:
        for name, face in self.interfaces.items():
            wanted = {port.name: _sizes(port) for port in face.inputs if port.name not in self.pairs.values()}
            if wanted == {key: tuple(tensor.shape) for key, tensor in inputs.items()}:
                return name, face
        given = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        raise GraphwrightError(f"no signature takes {given}", why=f"there are {', '.join(self.interfaces)}")

    def _read(self, signature: str, port: Port) -> torch.Tensor:
        count = int(np.prod(_sizes(port)))
        array = self.outputs[signature][port.name].read(count, np.dtype(port.dtype))
        return torch.from_numpy(np.array(array)).reshape(_sizes(port))


def _interface(part: Any) -> Interface:
    assert isinstance(part, TFLiteArtifact)
    return part.interface


def _sizes(port: Port) -> tuple[int, ...]:
    return tuple(int(size) for size in port.shape)
