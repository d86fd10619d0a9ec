"""Half precision: an ONNX model in float16 or bfloat16, with a list of operators that stay in float32.

Weights are converted when the file is written. Caches become half as well; other inputs and outputs keep their type.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype

FLOAT = ir.DataType.FLOAT
KEPT = (
    "Softmax", "LayerNormalization", "RMSNormalization", "InstanceNormalization", "BatchNormalization",
    "LpNormalization", "ReduceMean", "ReduceSum", "ReduceL2", "CumSum", "Range", "Pow", "Exp", "Log", "Sqrt",
    "Reciprocal", "Cos", "Sin", "Resize", "GridSample",
)  # fmt: skip
"""Operators that stay in float32: sums over many values, powers, and functions of large arguments."""

_ANGLES = ("Cos", "Sin")
_STATES = ("past_key_values.", "present.")


def to_half(model: ir.Model, dtype: torch.dtype, kept: Iterable[str] = KEPT, *, emulate: bool = False) -> None:
    """Convert a model in place.

    What angles are computed from stays in float32 too: positions beyond 2048 have no float16.

    Args:
        model: A model in float32.
        dtype: `torch.float16` or `torch.bfloat16`.
        kept: Operators that stay in float32.
        emulate: Keep float32 everywhere, and round the results of the other operators and the weights to `dtype`
            instead: the same accuracy where a runtime has no kernels for the type.
    """
    _Converter(model, dtype, frozenset(kept), emulate).convert()


class _Converter:
    def __init__(self, model: ir.Model, dtype: torch.dtype, kept: frozenset[str], emulate: bool) -> None:
        self.graph, self.dtype, self.emulate = model.graph, dtype, emulate
        self.half = from_torch_dtype(dtype)
        self.nodes = list(model.graph)
        angles = _ancestors(node for node in self.nodes if node.op_type in _ANGLES)
        self.wide = {node for node in self.nodes if node.op_type in kept or node in angles or _makes_float(node)}
        self.made: dict[tuple[ir.Value, Any], ir.Value] = {}

    def convert(self) -> None:
        """Give every operator inputs of its own type, and the graph's outputs their old one."""
        if not self.emulate:
            for value in self.graph.inputs:
                if value.dtype == FLOAT and _is_state(value):
                    value.type = ir.TensorType(self.half)
        for node in self.nodes:
            wanted = FLOAT if node in self.wide else self.half
            for i, source in enumerate(node.inputs):
                if source is not None and source.dtype in (FLOAT, self.half):
                    node.replace_input_with(i, self._as(source, wanted, node))
            for output in node.outputs:
                if output.dtype == FLOAT and node not in self.wide and not self.emulate:
                    output.type = ir.TensorType(self.half)
        self._outputs()
        for value in [v for v in self.graph.initializers.values() if not v.uses()]:
            self.graph.initializers.pop(str(value.name))

    def _as(self, value: ir.Value, wanted: ir.DataType, before: ir.Node) -> ir.Value:
        """The value as `wanted`: another initializer, or a cast in front of its first reader."""
        if value.const_value is not None:
            return value if wanted == FLOAT else self._weight(value)
        if self.emulate:
            return self._rounded(value, before) if wanted != FLOAT else value
        if value.dtype == wanted:
            return value
        if (value, wanted) not in self.made:
            self.made[value, wanted] = self._cast(value, wanted, before)
        return self.made[value, wanted]

    def _weight(self, value: ir.Value) -> ir.Value:
        key = (value, self.half)
        if key not in self.made:
            made = ir.Value(name=f"{value.name}.half", shape=value.shape, type=ir.TensorType(self._stored()))
            made.const_value = _converted(value.const_value, self.dtype, str(made.name), self.emulate)
            self.graph.initializers.add(made)
            self.made[key] = made
        return self.made[key]

    def _stored(self) -> ir.DataType:
        return FLOAT if self.emulate else self.half

    def _rounded(self, value: ir.Value, before: ir.Node) -> ir.Value:
        if (value, self.half) not in self.made:
            low = self._cast(value, self.half, before)
            self.made[value, self.half] = self._cast(low, FLOAT, before)
        return self.made[value, self.half]

    def _cast(self, value: ir.Value, wanted: ir.DataType, before: ir.Node | None) -> ir.Value:
        name = f"{value.name}.{wanted.name.lower()}"
        result = ir.Value(name=name, shape=value.shape, type=ir.TensorType(wanted))
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(wanted))], outputs=[result], name=f"{name}.Cast")
        if before is None:
            self.graph.append(cast)
        else:
            self.graph.insert_before(before, cast)
        return result

    def _outputs(self) -> None:
        """Caches go out as half, everything else as it was declared."""
        for i, value in enumerate(self.graph.outputs):
            wanted = self.half if _is_state(value) and not self.emulate else FLOAT
            if value.dtype not in (FLOAT, self.half) or value.dtype == wanted:
                continue
            name = str(value.name)
            value.name = f"{name}.inner"
            result = self._cast(value, wanted, None)
            result.name = name
            self.graph.outputs[i] = result


def _is_state(value: ir.Value) -> bool:
    return str(value.name).startswith(_STATES)


def _makes_float(node: ir.Node) -> bool:
    """Whether a cast turns whole numbers into floats."""
    value = node.inputs[0] if node.op_type == "Cast" else None
    return value is not None and value.dtype not in (FLOAT, None)


def _ancestors(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    found: set[ir.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [producer for value in node.inputs if value is not None and (producer := value.producer())]
    return found


def _converted(tensor: Any, dtype: torch.dtype, name: str, emulate: bool) -> Any:
    """The tensor in another type, when it is asked for; numbers beyond the type's range become its bounds."""

    def read() -> TorchTensor:
        limit = torch.finfo(dtype).max
        full = tensor.raw.detach() if isinstance(tensor, TorchTensor) else torch.from_numpy(tensor.numpy().copy())
        infinite = full.isinf()
        small = torch.where(infinite, full, full.clamp(-limit, limit)).to(dtype)
        return TorchTensor(small.float() if emulate else small, name=name)

    stored = FLOAT if emulate else from_torch_dtype(dtype)
    return ir.LazyTensor(read, dtype=stored, shape=tensor.shape, name=name)
