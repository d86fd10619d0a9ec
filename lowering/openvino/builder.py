"""Builder of an OpenVINO model: typed values, sizes known at run time, provenance of each operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset16 as op
import sympy
import torch
from openvino import Type
from torch.fx import Node
from torch.utils._sympy import functions

from graphwright.ir.node import module_path
from graphwright.lowering.dims import expression
from graphwright.lowering.values import Value

TYPES: dict[torch.dtype, Type] = {
    torch.float32: Type.f32, torch.float64: Type.f64, torch.float16: Type.f16, torch.bfloat16: Type.bf16,
    torch.int64: Type.i64, torch.int32: Type.i32, torch.int16: Type.i16, torch.int8: Type.i8, torch.uint8: Type.u8,
    torch.bool: Type.boolean,
}  # fmt: skip
Size = int | torch.SymInt
Number = Any

_BINARY: dict[type, Any] = {
    sympy.Add: op.add, sympy.Mul: op.multiply, sympy.Max: op.maximum, sympy.Min: op.minimum,
    functions.Max: op.maximum, functions.Min: op.minimum, functions.Mod: op.floor_mod,
    functions.PythonMod: op.floor_mod,
}  # fmt: skip
_DIVISIONS = (functions.FloorDiv, functions.CleanDiv)


def same(left: Size, right: Size) -> bool:
    """Whether two sizes are equal for all inputs."""
    return expression(left) == expression(right)


def why_not(size: Any) -> str:
    """Why a symbolic number cannot be emitted, `""` if it can."""
    if not isinstance(size, torch.SymInt):
        return "" if isinstance(size, int) else f"a symbolic {type(size).__name__} has no OpenVINO form here"
    for part in sympy.preorder_traversal(expression(size)):
        power = isinstance(part, sympy.Pow) and part.exp.is_Integer and part.exp > 0
        known = part.is_Symbol or part.is_Integer or power or type(part) in _BINARY or type(part) in _DIVISIONS
        if not known:
            return f"the size expression {part} ({type(part).__name__}) has no OpenVINO form"
    return ""


class Builder:
    """What emitters are called with."""

    def __init__(self) -> None:
        self.node: Node | None = None
        self.provenance: dict[str, list[str]] = {}
        self.kept: list[Any] = []
        self._roots: dict[sympy.Symbol, tuple[Value, int, Size]] = {}
        self._known: dict[sympy.Expr, Any] = {}
        self._constants: dict[Any, Any] = {}
        self._labelled: set[str] = set()

    # ---- types -------------------------------------------------------------------------------

    @property
    def result(self) -> torch.Tensor:
        """The fake result of the program node that is being emitted."""
        assert self.node is not None
        return self.node.meta["val"]

    def const(self, value: Any, dtype: torch.dtype = torch.int64) -> Any:
        """A constant, shared by all who ask for the same one."""
        key = (repr(value), dtype)
        if key not in self._constants:
            if dtype in (torch.bfloat16, torch.float16):
                self._constants[key] = op.constant(np.array(value, np.float32), TYPES[dtype]).output(0)
            else:
                self._constants[key] = op.constant(torch.tensor(value, dtype=dtype).numpy()).output(0)
        return self._constants[key]

    def cast(self, value: Any, dtype: torch.dtype) -> Any:
        """A value, or an output whose type OpenVINO knows, as `dtype`."""
        out = value.out if isinstance(value, Value) else value
        if out.get_element_type() == TYPES[dtype]:
            return out
        if dtype is torch.bool and isinstance(value, Value) and value.dtype.is_floating_point:
            return op.not_equal(out, self.const(0, value.dtype)).output(0)
        return op.convert(out, TYPES[dtype]).output(0)

    def scalar(self, value: Any, dtype: torch.dtype) -> Any:
        """A number, a symbolic number or a value as an output of type `dtype`."""
        if isinstance(value, Value):
            return self.cast(value, dtype)
        if isinstance(value, torch.SymInt):
            return self.cast(self.squeezed(self.size(value)), dtype)
        return self.const(value, dtype)

    def only(self, value: Value, number: float) -> bool:
        """Whether a value is stored and one number throughout, as zeros that need not be added are."""
        node = value.out.get_node()
        known = node.get_type_name() == "Constant" and value.dtype in (torch.float32, torch.float16, torch.float64)
        return known and bool((node.data == number).all())

    def promote(self, *values: Number) -> list[Any]:
        """Outputs of one type, the one that torch computes in for these arguments."""
        dtype = self.common_dtype(*values)
        return [self.scalar(value, dtype) for value in values]

    def common_dtype(self, *values: Number) -> torch.dtype:
        """The type torch computes in for these arguments."""
        from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND as Kind
        from torch._prims_common import elementwise_dtypes

        known = [v.fake if isinstance(v, Value) else v for v in values]
        return elementwise_dtypes(*known, type_promotion_kind=Kind.NO_OPMATH)[1]

    def label(self, output: Any) -> None:
        """Name the operators between a result and the operators of other nodes after the program node."""
        assert self.node is not None
        emitted = self.provenance.setdefault(self.node.name, [])
        operator = output.get_node()
        if operator.get_type_name() in ("Parameter", "Constant") or operator.get_name() in self._labelled:
            return
        self._labelled.add(operator.get_name())
        path = module_path(self.node)
        operator.set_friendly_name(f"{path}/{self.node.name}" if path else self.node.name)
        emitted.append(operator.get_friendly_name())

    # ---- sizes -------------------------------------------------------------------------------

    def learn(self, value: Value) -> None:
        """Take unknown symbols from the sizes of a value, such as `s` from a size of `2*s + 1`."""
        for i, size in enumerate(value.shape):
            symbols = expression(size).free_symbols
            if len(symbols) == 1:
                (symbol,) = symbols
                self._roots.setdefault(symbol, (value, i, size))

    def define(self, size: torch.SymInt, output: Any) -> None:
        """Say that a symbolic number that tensors computed is `output`, an i64 of shape [1]."""
        self._known.setdefault(expression(size), output)

    def size(self, size: Size) -> Any:
        """A size as an i64 output of shape [1]."""
        return self._emit(expression(size))

    def squeezed(self, output: Any) -> Any:
        """An output of shape [1] as one of shape []."""
        return op.squeeze(output, self.const([0])).output(0)

    def vector(self, sizes: Sequence[Size]) -> Any:
        """Sizes as one i64 output of shape [len(sizes)]."""
        if all(expression(size).is_Integer for size in sizes):
            return self.const([int(expression(size)) for size in sizes])
        return op.concat([self.size(size) for size in sizes], 0).output(0)

    def _emit(self, expr: sympy.Expr) -> Any:
        if expr not in self._known:
            self._known[expr] = self._make(expr)
        return self._known[expr]

    def _make(self, expr: sympy.Expr) -> Any:
        if expr.is_Integer:
            return self.const([int(expr)])
        if expr.is_Symbol:
            return self._root(expr)
        if isinstance(expr, sympy.Pow):
            return self._chain(op.multiply, [self._emit(expr.base)] * int(expr.exp))
        if isinstance(expr, _DIVISIONS):
            return self._floor_div(*expr.args)
        return self._chain(_BINARY[type(expr)], [self._emit(part) for part in expr.args])

    def _root(self, symbol: sympy.Symbol) -> Any:
        value, i, size = self._roots[symbol]
        shape = op.shape_of(value.out, "i64")
        emitted = op.gather(shape, self.const([i]), self.const(0)).output(0)
        slope = expression(size).coeff(symbol)
        offset = sympy.expand(expression(size) - slope * symbol)
        if offset != 0:
            emitted = op.subtract(emitted, self.const([int(offset)])).output(0)
        return emitted if slope == 1 else op.divide(emitted, self.const([int(slope)])).output(0)

    def _floor_div(self, left: sympy.Expr, right: sympy.Expr) -> Any:
        """OpenVINO divides towards zero: a numerator that may be negative is shifted by its remainder first."""
        a, b = self._emit(left), self._emit(right)
        if left.is_nonnegative is not True:
            a = op.subtract(a, op.floor_mod(a, b)).output(0)
        return op.divide(a, b).output(0)

    def _chain(self, function: Any, outputs: Sequence[Any]) -> Any:
        result = outputs[0]
        for output in outputs[1:]:
            result = function(result, output).output(0)
        return result

    # ---- shapes ------------------------------------------------------------------------------

    def reshape(self, output: Any, before: Sequence[Size] | None, sizes: Sequence[Size]) -> Any:
        """Reshape, with a constant shape where `0` (copy) and one `-1` (infer) are enough."""
        if before is not None and len(before) == len(sizes) and all(map(same, before, sizes)):
            return output
        plan: list[Size] = []
        for i, size in enumerate(sizes):
            copied = before is not None and i < len(before) and not isinstance(size, int) and same(before[i], size)
            plan.append(0 if copied else size)
        unknown = [i for i, size in enumerate(plan) if not expression(size).is_Integer]
        empty = any(isinstance(size, int) and size == 0 for size in sizes)
        if len(unknown) == 1 and not empty:
            plan[unknown[0]] = -1
        return op.reshape(output, self.vector(sizes if empty else plan), not empty).output(0)

    def expand(self, output: Any, before: Sequence[Size], after: Sequence[Size]) -> Any:
        """Broadcast from sizes `before` to sizes `after`."""
        if len(before) == len(after) and all(map(same, before, after)):
            return output
        return op.broadcast(output, self.vector(after), broadcast_spec="BIDIRECTIONAL").output(0)

    def unsqueeze(self, output: Any, dims: int | list[int]) -> Any:
        """New dimensions of size 1."""
        return op.unsqueeze(output, self.const([dims] if isinstance(dims, int) else dims)).output(0)

    def transpose(self, output: Any, order: Sequence[int]) -> Any:
        """Dimensions in another order."""
        if list(order) == sorted(order):
            return output
        return op.transpose(output, self.const(list(order), torch.int32)).output(0)


def constant(tensor: torch.Tensor, kept: list[Any]) -> Any:
    """A tensor as a constant on the tensor's own memory, which the model must not outlive.

    Args:
        tensor: Any strides; what is not contiguous is copied.
        kept: Collects what has to stay alive as long as the model.
    """
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        data = ov.Tensor(tensor.view(torch.int16).numpy(), ov.Shape(list(tensor.shape)), Type.bf16)
        kept.append((tensor, data))
        return op.constant(data).output(0)
    array = tensor.numpy()
    kept.append(array)
    return op.constant(array, shared_memory=bool(array.size)).output(0)


__all__ = ["TYPES", "Builder", "Number", "Size", "Value", "constant", "expression", "op", "same", "why_not"]
