"""Ranges of what a graph computes over calibration inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from graphwright.ir.errors import FileFormatError
from graphwright.ir.tensorfile import read_tensors
from graphwright.lowering.interface import Interface, Port
from graphwright.lowering.tflite.artifact import TFLiteFile
from graphwright.lowering.tflite.graph import Graph, Value
from graphwright.lowering.tflite.writer import write

Range = tuple[float, float]


def ranges_of(graph: Graph, batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[Value, Range]:
    """Smallest and largest entry of each float value of a graph, always with zero in between.

    Args:
        graph: In float32; it stays as it is.
        batches: Inputs by name, in the graph's sizes.
    """
    watched = {f"value.{i}": value for i, value in enumerate(graph.values()) if value.is_float and value.data is None}
    known = {*graph.inputs.values()}
    probe = Graph(graph.name, dict(graph.inputs), dict(graph.outputs), graph.operators, graph.decompositions)
    probe.outputs |= {name: value for name, value in watched.items() if value not in known}
    file = TFLiteFile(write([probe]))
    found: dict[Value, Range] = {}
    for batch in batches:
        results = file.run(graph.name, batch)
        results |= {name: batch[port].numpy() for name, value in watched.items() for port in _port(graph, value)}
        for name, value in watched.items():
            low, high = found.get(value, (0.0, 0.0))
            data = np.asarray(results[name], np.float64)
            found[value] = (min(low, float(data.min())), max(high, float(data.max())))
    return found


def samples_in(path: Path, interface: Interface) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of the sizes of an interface from the rows of a file: cut, or filled up with zeros, and rows repeated.

    Args:
        path: A safetensors file with a tensor for each input.
        interface: Of a program of fixed sizes.

    Raises:
        FileFormatError: The file cannot be read, or lacks an input.
    """
    tensors = read_tensors(path)
    missing = [port.name for port in interface.inputs if port.name not in tensors]
    if missing:
        why = f"there are {', '.join(sorted(tensors))}"
        raise FileFormatError(f"the calibration inputs lack '{missing[0]}'", at=str(path), why=why)
    rows = min(len(tensors[port.name]) for port in interface.inputs)
    step = max(int(port.shape[0]) for port in interface.inputs)
    for start in range(0, rows, step):
        chosen = torch.arange(start, start + step) % rows
        yield {port.name: _fitted(tensors[port.name][chosen], port) for port in interface.inputs}


def _fitted(tensor: torch.Tensor, port: Port) -> torch.Tensor:
    """A tensor in the sizes and type of an input."""
    for axis, size in enumerate(map(int, port.shape)):
        extra = size - tensor.shape[axis]
        if extra > 0:
            shape = [*tensor.shape[:axis], extra, *tensor.shape[axis + 1 :]]
            tensor = torch.cat([tensor, tensor.new_zeros(shape)], axis)
        tensor = tensor.narrow(axis, 0, size)
    return tensor.to(port.torch_dtype())


def _port(graph: Graph, value: Value) -> list[str]:
    return [name for name, given in graph.inputs.items() if given is value]
