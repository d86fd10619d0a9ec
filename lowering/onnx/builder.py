"""Builder of an ONNX graph: typed values, shared sub-expressions, provenance of each operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import from_torch_dtype
from torch.fx import Node

from graphwright.ir.node import module_path, source_line

Scalar = int | float | bool
Number = ir.Value | Scalar | torch.SymInt


class Builder:
    """Collects ONNX operators; equal operators on equal inputs are made once.

    Args:
        opset: Version of the default operator set.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.provenance: dict[str, list[str]] = {}
        self.node: Node | None = None
        self._fakes: dict[ir.Value, torch.Tensor] = {}
        self._made: dict[Any, tuple[ir.Value, ...]] = {}
        self._constants: dict[Any, ir.Value] = {}

    # ---- operators ---------------------------------------------------------------------------

    def op(self, kind: str, *inputs: ir.Value | None, dtype: torch.dtype | None = None, **attributes: Any) -> ir.Value:
        """Emit an operator with one output.

        Args:
            kind: Operator name; `domain::name` outside of ONNX's own operators.
            inputs: Values; None for an optional input that is left out.
            dtype: Element type of the output, by default that of the first input.
            attributes: Attributes; None is left out.
        """
        return self.ops(kind, *inputs, dtypes=(dtype,), **attributes)[0]

    def ops(
        self, kind: str, *inputs: ir.Value | None, dtypes: Sequence[torch.dtype | None], **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """Emit an operator with one output per entry of `dtypes`."""
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        attributes = {name: value for name, value in attributes.items() if value is not None}
        key = (kind, inputs, _hashable(attributes), tuple(dtypes))
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._emit(kind, inputs, dtypes, attributes)
        return made

    def _emit(self, kind: str, inputs: Sequence[Any], dtypes: Sequence[Any], attributes: Any) -> tuple[ir.Value, ...]:
        outputs = [ir.Value(type=self._type(dtype, inputs)) for dtype in dtypes]
        domain, _, kind = kind.rpartition("::")
        name, details = self._label(kind)
        attrs = ir.convenience.convert_attributes(attributes)
        node = ir.Node(domain, kind, inputs, attrs, outputs=outputs, name=name, metadata_props=details)
        self.nodes.append(node)
        return tuple(outputs)

    def _type(self, dtype: torch.dtype | None, inputs: Sequence[Any]) -> ir.TensorType:
        if dtype is not None:
            return ir.TensorType(from_torch_dtype(dtype))
        return ir.TensorType(inputs[0].dtype)

    def _label(self, kind: str) -> tuple[str, dict[str, str]]:
        """Unique operator name and metadata that lead back to the program node."""
        source = self.node
        if source is None:
            return f"interface.{kind}.{len(self.nodes)}", {}
        emitted = self.provenance.setdefault(source.name, [])
        name = f"{source.name}.{kind}" + (f".{len(emitted)}" if emitted else "")
        emitted.append(name)
        details = {"graphwright.node": source.name, "namespace": module_path(source), "source": source_line(source)}
        return name, {key: value for key, value in details.items() if value}

    # ---- constants and weights ---------------------------------------------------------------

    def const(self, value: Scalar | Sequence[Scalar], dtype: torch.dtype = torch.int64) -> ir.Value:
        """A constant, shared by all who ask for the same one."""
        key = (repr(value), dtype)
        if key not in self._constants:
            tensor = torch.tensor(value, dtype=dtype)
            name = f"const.{len(self._constants)}"
            self._constants[key] = self.initializer(ir.tensor_adapters.TorchTensor(tensor, name=name), tensor)
        return self._constants[key]

    def initializer(self, data: Any, fake: torch.Tensor) -> ir.Value:
        """A named constant whose data is an onnx-ir tensor; `fake` says its type."""
        value = ir.Value(name=data.name, shape=data.shape, type=ir.TensorType(data.dtype), const_value=data)
        self.initializers.append(value)
        self._fakes[value] = fake
        return value

    def scalar(self, value: Any, dtype: torch.dtype) -> ir.Value:
        """A number or a value as a value of type `dtype`."""
        return self.cast(value, dtype) if isinstance(value, ir.Value) else self.const(value, dtype)

    # ---- types -------------------------------------------------------------------------------

    def annotate(self, value: ir.Value, fake: torch.Tensor) -> None:
        """Remember what torch knows about a value: element type and sizes."""
        self._fakes.setdefault(value, fake)

    def fake(self, value: ir.Value) -> torch.Tensor:
        """The fake tensor that a value stands for; only for values of program nodes, constants and weights."""
        return self._fakes[value]

    def known(self, value: ir.Value) -> torch.Tensor | None:
        """The fake tensor that a value stands for, if it is that of a program node."""
        return self._fakes.get(value)

    def rank(self, value: ir.Value) -> int:
        """Number of dimensions of a program value."""
        return self._fakes[value].dim()

    def shape(self, value: ir.Value) -> tuple[Any, ...]:
        """Sizes of a program value: ints and SymInts."""
        return tuple(self._fakes[value].shape)

    @property
    def result(self) -> torch.Tensor:
        """The fake result of the program node that is being emitted."""
        assert self.node is not None
        return self.node.meta["val"]

    def cast(self, value: ir.Value, dtype: torch.dtype) -> ir.Value:
        """The value as `dtype`; itself if it has that type."""
        wanted = from_torch_dtype(dtype)
        return value if value.dtype == wanted else self.op("Cast", value, dtype=dtype, to=int(wanted))

    def promote(self, *values: Number) -> tuple[ir.Value, ...]:
        """Values of one type, the one that torch computes in for these arguments."""
        dtype = self.common_dtype(*values)
        return tuple(self.scalar(value, dtype) for value in values)

    def common_dtype(self, *values: Number) -> torch.dtype:
        """The type torch computes in for these arguments."""
        from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND as Kind
        from torch._prims_common import elementwise_dtypes

        known = [self._fakes[v] if isinstance(v, ir.Value) else v for v in values]
        return elementwise_dtypes(*known, type_promotion_kind=Kind.NO_OPMATH)[1]


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((name, _hashable(item)) for name, item in sorted(value.items()))
    return tuple(value) if isinstance(value, list) else value
