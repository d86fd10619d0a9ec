"""From graphs to the bytes of a `.tflite` file, on the schema that `ai_edge_litert` has."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from graphwright.ir.errors import GraphwrightError
from graphwright.lowering.tflite.graph import TYPES, Graph, Operator, Quantization, Value

IDENTIFIER = b"TFL3"
ALIGNMENT = 16
LIMIT = 2**31 - 2**22
"""Bytes of weights that one flatbuffer can address, with room for the rest."""

_OPTIONS = {
    "BATCH_MATMUL": "BatchMatMul", "CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "CONV_3D": "Conv3D",
    "MAX_POOL_2D": "Pool2D", "AVERAGE_POOL_2D": "Pool2D", "MEAN": "Reducer", "SUM": "Reducer", "PADV2": "PadV2",
    "REDUCE_MAX": "Reducer", "REDUCE_MIN": "Reducer", "REDUCE_PROD": "Reducer", "REDUCE_ANY": "Reducer",
    "REDUCE_ALL": "Reducer", "MAXIMUM": "MaximumMinimum", "MINIMUM": "MaximumMinimum", "TOPK_V2": "TopKV2",
    "GATHER_ND": "GatherNd", "SCATTER_ND": "ScatterNd", "STABLEHLO_COMPOSITE": "StableHLOComposite",
}  # fmt: skip
"""Names of option tables that do not follow from the operator's name."""


def write(graphs: Sequence[Graph], description: str = "graphwright") -> bytes:
    """A model with a subgraph and a signature for each graph, and a subgraph for each decomposition.

    Equal constants are stored once.

    Args:
        graphs: The first is what runs by default.
        description: What the file says of itself.

    Raises:
        GraphwrightError: The weights take more than a flatbuffer holds.
    """
    return _Writer(graphs, description).bytes()


class _Writer:
    """State of one file."""

    def __init__(self, graphs: Sequence[Graph], description: str) -> None:
        inner = [body for graph in graphs for body in graph.decompositions]
        self.positions = {graph.name: position for position, graph in enumerate([*graphs, *inner])}
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = description.encode()
        self.model.buffers = [_Buffer()]  # the format reserves the first for tensors without data
        self.model.operatorCodes = []
        self._buffers: dict[bytes, int] = {}
        self._codes: dict[tuple[str, int], int] = {}
        made = [_Subgraph(self, graph) for graph in (*graphs, *inner)]
        self.model.subgraphs = [subgraph.made for subgraph in made]
        self.model.signatureDefs = [subgraph.signature(graph) for subgraph, graph in zip(made, graphs, strict=False)]

    def bytes(self) -> bytes:
        total = sum(len(buffer.data) for buffer in self.model.buffers if buffer.data is not None)
        if total > LIMIT:
            raise GraphwrightError(
                f"the weights take {total / 2**30:.1f} GiB",
                why="a .tflite file is one flatbuffer, which addresses 2 GiB",
                remedies=["store the weights in fewer bits, such as weights=i8"],
            )
        builder = flatbuffers.Builder(total + 2**20)
        builder.Finish(self.model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def buffer(self, data: np.ndarray, dtype: str) -> int:
        """Position of a buffer with these entries."""
        stored = _packed(data) if dtype == "int4" else np.ascontiguousarray(data)
        octets = stored.reshape(-1).view(np.uint8)
        key = hashlib.blake2b(octets.data, digest_size=16).digest() + len(octets).to_bytes(8, "little")
        if key not in self._buffers:
            self.model.buffers.append(_Buffer(octets))
            self._buffers[key] = len(self.model.buffers) - 1
        return self._buffers[key]

    def code(self, operator: Operator) -> int:
        """Position of an operator's code and version."""
        key = (operator.code, operator.version)
        if key not in self._codes:
            made = schema.OperatorCodeT()
            made.builtinCode = getattr(schema.BuiltinOperator, operator.code)
            made.deprecatedBuiltinCode = min(made.builtinCode, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
            made.version = operator.version
            self.model.operatorCodes.append(made)
            self._codes[key] = len(self.model.operatorCodes) - 1
        return self._codes[key]


class _Subgraph:
    """State of one subgraph; `made` is what the schema calls it."""

    def __init__(self, writer: _Writer, graph: Graph) -> None:
        self.writer, self.indices = writer, dict[Value, int]()
        self.made = schema.SubGraphT()
        self.made.name = graph.name.encode()
        self.made.tensors = []
        for value in graph.values():
            self.index(value)
        self.made.inputs = [self.index(value) for value in graph.inputs.values()]
        self.made.outputs = [self.index(value) for value in graph.outputs.values()]
        self.made.operators = [self.operator(operator) for operator in graph.operators]

    def index(self, value: Value | None) -> int:
        """Position of a value among the tensors, -1 for none."""
        if value is None:
            return -1
        if value not in self.indices:
            made = self.tensor(value)
            self.made.tensors.append(made)
            self.indices[value] = len(self.made.tensors) - 1
        return self.indices[value]

    def tensor(self, value: Value) -> Any:
        """A value as the schema has it."""
        made = schema.TensorT()
        made.shape, made.hasRank = list(value.shape), True
        made.type = getattr(schema.TensorType, TYPES[value.dtype])
        made.name = (value.name or f"t{len(self.made.tensors)}").encode()
        made.buffer = 0 if value.data is None else self.writer.buffer(value.data, value.dtype)
        made.quantization = None if value.quantization is None else self.quantization(value.quantization)
        return made

    def quantization(self, given: Quantization) -> Any:
        """Scales and zero points; the scales of blocks are a tensor of their own."""
        made = schema.QuantizationParametersT()
        made.quantizedDimension = given.axis
        if given.block:
            details = schema.BlockwiseQuantizationT()
            details.scales = self.index(Value(given.scales.shape, "float16", given.scales, "scales"))
            details.zeroPoints, details.blockSize = -1, given.block
            made.details, made.detailsType = details, schema.QuantizationDetails.BlockwiseQuantization
            return made
        assert given.zero_points is not None
        made.scale, made.zeroPoint = given.scales.astype(np.float32), given.zero_points.astype(np.int64)
        return made

    def operator(self, operator: Operator) -> Any:
        """An operator as the schema has it."""
        made = schema.OperatorT()
        made.opcodeIndex = self.writer.code(operator)
        made.inputs = [self.index(value) for value in operator.inputs]
        made.outputs = [self.index(value) for value in operator.outputs]
        fields = {name: value for name, value in operator.options.items() if name != "copy_for"}
        if "decomposition" in fields:
            fields["decompositionSubgraphIndex"] = self.writer.positions[fields.pop("decomposition")]
        name = _OPTIONS.get(operator.code) or "".join(part.capitalize() for part in operator.code.split("_"))
        table = getattr(schema, f"{name}OptionsT", None)
        if table is None:
            return made
        options = table()
        for field, value in fields.items():
            assert hasattr(options, field), f"{operator.code} has no option {field}"
            setattr(options, field, value)
        second = getattr(schema.BuiltinOptions2, f"{name}Options", None)
        if second is not None:
            made.builtinOptions2, made.builtinOptions2Type = options, second
        else:
            made.builtinOptions, made.builtinOptionsType = options, getattr(schema.BuiltinOptions, f"{name}Options")
        return made

    def signature(self, graph: Graph) -> Any:
        """Names of the inputs and outputs."""
        made = schema.SignatureDefT()
        made.signatureKey = graph.name.encode()
        made.subgraphIndex = self.writer.positions[graph.name]
        made.inputs = [self.named(name, value) for name, value in graph.inputs.items()]
        made.outputs = [self.named(name, value) for name, value in graph.outputs.items()]
        return made

    def named(self, name: str, value: Value) -> Any:
        """A name for a tensor."""
        made = schema.TensorMapT()
        made.name, made.tensorIndex = name.encode(), self.index(value)
        return made


class _Buffer(schema.BufferT):
    """A buffer whose data is aligned, as kernels read it in place."""

    def Pack(self, builder: Any) -> int:
        """Write the data in front of the buffer's table."""
        data = None
        if self.data is not None:
            builder.StartVector(1, len(self.data), ALIGNMENT)
            builder.head = builder.head - len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data.tobytes()
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


def _packed(codes: np.ndarray) -> np.ndarray:
    """Two int4 in each byte, the first in the low bits."""
    flat = codes.reshape(-1).astype(np.uint8) & 15
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return flat[::2] | flat[1::2] << 4
