"""Ranges of activations over calibration inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import torch

from graphwright.ir.errors import FileFormatError
from graphwright.ir.tensorfile import read_tensors
from graphwright.lowering.interface import Interface
from graphwright.lowering.onnx.integers import Range, products
from graphwright.lowering.onnx.session import OnnxFile

ROWS = 4
"""Rows of the calibration inputs that are run at once."""


def ranges_of(model: ir.Model, interface: Interface, path: Path) -> dict[str, Range]:
    """Smallest and largest value of each product's input over the calibration inputs.

    Args:
        model: The model in float32; it stays as it is.
        interface: Its inputs.
        path: A safetensors file with a tensor for each input, their rows being the samples.

    Raises:
        FileFormatError: The file cannot be read, or lacks an input.
    """
    watched = model.clone()
    values = {str(node.inputs[0].name): node.inputs[0] for node in products(watched) if node.inputs[0] is not None}
    known = {value.name for value in (*watched.graph.outputs, *watched.graph.inputs)}
    watched.graph.outputs.extend(value for name, value in values.items() if name not in known)
    file = OnnxFile(watched, external_bytes=1 << 20)
    found: dict[str, Range] = {}
    names = [name for name in values if name not in {value.name for value in watched.graph.inputs}]
    for inputs in _batches(interface, path):
        for name, tensor in zip(names, file.run(inputs, [(name, torch.float32) for name in names]), strict=True):
            low, high = found.get(name, (0.0, 0.0))
            found[name] = (min(low, float(tensor.min())), max(high, float(tensor.max())))
    return found


def _batches(interface: Interface, path: Path) -> Iterator[dict[str, torch.Tensor]]:
    tensors = read_tensors(path)
    missing = [port.name for port in interface.inputs if port.name not in tensors]
    if missing:
        raise FileFormatError(
            f"the calibration inputs lack '{missing[0]}'", at=str(path), why=f"there are {', '.join(sorted(tensors))}"
        )
    rows = min(len(tensors[port.name]) for port in interface.inputs)
    for start in range(0, rows, ROWS):
        yield {port.name: tensors[port.name][start : start + ROWS].to(port.torch_dtype()) for port in interface.inputs}
