"""A decoder's first step and its later steps in one file: `If` around two graphs, each weight once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

from graphwright.lowering.artifact import Artifact
from graphwright.lowering.interface import Port
from graphwright.lowering.onnx.artifact import Branch, OnnxArtifact
from graphwright.lowering.onnx.session import OnnxFile

FIRST, LATER, MERGED = "decoder_model", "decoder_with_past_model", "decoder_model_merged.onnx"
CONDITION = "use_cache_branch"


def merge_decoders(parts: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The parts with both decoders in one file; as they are where there is only one decoder.

    The merged file has the inputs of both, and `use_cache_branch`, a boolean of shape [1]. Where it is false the cache
    inputs are not read, and may be empty. Where it is true, outputs that are inputs unchanged (the keys and values of
    the encoder) are empty, as returning them would copy them at every step.
    """
    first, later = parts.get(FIRST), parts.get(LATER)
    if not (isinstance(first, OnnxArtifact) and isinstance(later, OnnxArtifact)):
        return dict(parts)
    ports = {port.name: port for port in (*later.interface.inputs, *first.interface.inputs)}
    outputs = _ordered(later.interface.outputs)
    model, same = _Merger(first.model, later.model, _ordered(ports.values()), outputs).model()
    file = OnnxFile(model, external_bytes=first.file.external_bytes)
    only_later = {
        port.name: ([size if isinstance(size, int) else 0 for size in port.shape], port.dtype)
        for port in later.interface.inputs
        if port.name not in first.input_names
    }
    merged: dict[str, OnnxArtifact] = {}
    for name, artifact, branch in (
        (FIRST, first, Branch(MERGED, False, unused=only_later)),
        (LATER, later, Branch(MERGED, True, same=same)),
    ):
        merged[name] = OnnxArtifact(artifact.target, artifact.interface, artifact.provenance, file=file, branch=branch)
        merged[name].emulated, merged[name].shared = artifact.emulated, later.shared
    return {**parts, **merged}


def _ordered(ports: Iterable[Port]) -> list[Port]:
    """Caches last, layer by layer: self-attention before cross-attention, key before value."""

    def place(port: Port) -> tuple[Any, ...]:
        head, *path = port.name.split(".")
        return (int(path[0]), *path[1:]) if head in ("past_key_values", "present") and path else (-1,)

    return sorted(ports, key=place)


class _Merger:
    """Moves the nodes of two models into the branches of one."""

    def __init__(self, first: ir.Model, later: ir.Model, inputs: list[Port], outputs: list[Port]) -> None:
        self.first, self.later, self.outputs = first, later, outputs
        known = {value.name: value for model in (first, later) for value in model.graph.inputs}
        self.inputs = {port.name: _like(cast(ir.Value, known[port.name])) for port in inputs if port.name in known}
        self.initializers: dict[Any, ir.Value] = {}

    def model(self) -> tuple[ir.Model, dict[str, str]]:
        """The merged model, and which outputs of the later steps are inputs unchanged."""
        condition = ir.Value(name=CONDITION, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.BOOL))
        same = _unchanged(self.later)
        branches = {
            "then_branch": self._branch(self.later, "later", same),
            "else_branch": self._branch(self.first, "first", {}),
        }
        typed = {value.name: value for value in self.first.graph.outputs}
        outputs = [_like(cast(ir.Value, typed[port.name])) for port in self.outputs]
        attributes = [ir.AttrGraph(name, graph) for name, graph in branches.items()]
        choice = ir.Node("", "If", [condition], attributes, outputs=outputs, name="use_cache")
        graph = ir.Graph(
            [*self.inputs.values(), condition],
            outputs,
            nodes=[choice],
            initializers=list(self.initializers.values()),
            opset_imports=self.later.graph.opset_imports,
            name=self.later.graph.name,
        )
        return ir.Model(graph, ir_version=self.later.ir_version, producer_name="graphwright"), same

    def _branch(self, model: ir.Model, label: str, same: Mapping[str, str]) -> ir.Graph:
        """The nodes of a model as a branch that reads the merged model's inputs and weights."""
        graph = model.clone().graph
        outer = {value: self.inputs[str(value.name)] for value in graph.inputs}
        outer |= {value: self._initializer(value) for value in graph.initializers.values()}
        outputs = {str(value.name): value for value in graph.outputs}
        nodes = list(graph)
        graph.outputs.clear()
        graph.remove(nodes)
        for node in nodes:
            node.name = f"{label}.{node.name}"
            for value in node.outputs:
                value.name = f"{label}.{value.name}" if value.name else None
            for i, source in enumerate(node.inputs):
                if source in outer:
                    node.replace_input_with(i, outer[source])
        empty = {name: _empty(outputs[name], f"{label}.{name}") for name in same}
        nodes = [node for node in nodes if not any(node.outputs[0] is outputs[name] for name in same)]
        nodes += [node for node, _ in empty.values()]
        results = [empty[port.name][1] if port.name in empty else outputs[port.name] for port in self.outputs]
        return ir.Graph([], results, nodes=nodes, name=label)

    def _initializer(self, value: ir.Value) -> ir.Value:
        """The one initializer for these contents: weights go by their memory, constants by their bytes."""
        tensor = cast(ir.TensorProtocol, value.const_value)
        key = _contents(tensor)
        if key not in self.initializers:
            taken = {other.name for other in self.initializers.values()} | {*self.inputs}
            name = str(value.name)
            while name in taken:
                name += "_"
            self.initializers[key] = ir.Value(name=name, shape=value.shape, type=value.type, const_value=tensor)
        return self.initializers[key]


def _like(value: ir.Value) -> ir.Value:
    return ir.Value(name=value.name, shape=value.shape, type=value.type)


def _contents(tensor: Any) -> Any:
    if isinstance(tensor, TorchTensor) and isinstance(tensor.raw, torch.Tensor) and tensor.nbytes > 64:
        raw = tensor.raw
        return raw.data_ptr(), tuple(raw.shape), raw.stride(), raw.dtype
    return tensor.dtype, tuple(tensor.shape), hashlib.sha256(tensor.tobytes()).digest()


def _unchanged(model: ir.Model) -> dict[str, str]:
    """Outputs that are inputs: output name -> input name."""
    found = {}
    for value in model.graph.outputs:
        node = value.producer()
        source = node.inputs[0] if node is not None and node.op_type == "Identity" else None
        if source is not None and source in model.graph.inputs:
            found[str(value.name)] = str(source.name)
    return found


def _empty(value: ir.Value, name: str) -> tuple[ir.Node, ir.Value]:
    """A constant of the value's type and rank without any element."""
    assert value.dtype is not None and value.shape is not None
    sizes = [size if isinstance(size, int) else 0 for size in value.shape]
    data = ir.Tensor(torch.empty(sizes).numpy().astype(value.dtype.numpy()), dtype=value.dtype, name=name)
    result = ir.Value(name=name, shape=ir.Shape(sizes), type=value.type)
    return ir.Node("", "Constant", [], [ir.AttrTensor("value", data)], outputs=[result], name=name), result
