"""Builder of a StableHLO function: typed values, constants, conversions, and what most emitters are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from graphwright.lowering.neuron.xla import chlo, elements, hlo, ir
from graphwright.lowering.values import Value

Number = Any
Shape = Sequence[int]
Out = Any
"""A value of MLIR."""

_ELEMENTS: dict[torch.dtype, Callable[[], Any]] = {
    torch.float32: lambda: ir.F32Type.get(), torch.float64: lambda: ir.F64Type.get(),
    torch.float16: lambda: ir.F16Type.get(), torch.bfloat16: lambda: ir.BF16Type.get(),
    torch.int64: lambda: ir.IntegerType.get_signless(32), torch.int32: lambda: ir.IntegerType.get_signless(32),
    torch.int16: lambda: ir.IntegerType.get_signless(16), torch.int8: lambda: ir.IntegerType.get_signless(8),
    torch.uint8: lambda: ir.IntegerType.get_unsigned(8), torch.bool: lambda: ir.IntegerType.get_signless(1),
}  # fmt: skip
HALF = (torch.float16, torch.bfloat16)
INT32 = torch.iinfo(torch.int32)


def narrow(dtype: torch.dtype) -> torch.dtype:
    """The type that a type of torch has in the module: integers of 64 bits become 32."""
    return torch.int32 if dtype is torch.int64 else dtype


def sizes(out: Out) -> list[int]:
    """Sizes of a value of MLIR."""
    return list(ir.RankedTensorType(out.type).shape)


def element(out: Out) -> Any:
    """Element type of a value of MLIR."""
    return ir.RankedTensorType(out.type).element_type


def is_float(out: Out) -> bool:
    """Whether the elements are floating-point numbers."""
    return not isinstance(element(out), ir.IntegerType)


def longs(values: Sequence[int]) -> Any:
    """Integers as an attribute."""
    return ir.DenseI64ArrayAttr.get([int(value) for value in values])


class Builder:
    """What emitters are called with; operations are added where MLIR's insertion point is.

    Args:
        products: Type that the operands of products of float32 are rounded to, None for no rounding.
        custom_calls: Whether calls that Neuron's compiler has kernels for stay calls.
    """

    def __init__(self, products: torch.dtype | None = None, custom_calls: bool = False) -> None:
        self.node: Node | None = None
        self.products, self.custom_calls = products, custom_calls

    @property
    def result(self) -> torch.Tensor:
        """The fake result of the program node that is being emitted."""
        assert self.node is not None
        return self.node.meta["val"]

    # ---- types and constants -----------------------------------------------------------------

    def element(self, dtype: torch.dtype) -> Any:
        """A type of torch as an element type of MLIR."""
        return _ELEMENTS[dtype]()

    def type(self, shape: Shape, dtype: torch.dtype | Any) -> Any:
        """The type of a tensor; `dtype` is one of torch or of MLIR."""
        kind = self.element(dtype) if isinstance(dtype, torch.dtype) else dtype
        return ir.RankedTensorType.get([int(size) for size in shape], kind)

    def const(self, value: Any, dtype: torch.dtype | Any, shape: Shape = ()) -> Out:
        """A number, throughout a tensor; integers are kept within 32 bits, floats within what their type holds."""
        kind = self.element(dtype) if isinstance(dtype, torch.dtype) else dtype
        if isinstance(kind, ir.IntegerType):
            attribute: Any = ir.IntegerAttr.get(kind, max(INT32.min, min(INT32.max, int(value))))
        else:
            attribute = ir.FloatAttr.get(kind, float(value))
        return hlo.constant(ir.DenseElementsAttr.get_splat(self.type(shape, kind), attribute))

    def dense(self, tensor: torch.Tensor) -> Out:
        """A tensor as a constant."""
        tensor = tensor.detach().cpu().contiguous()
        kind = self.element(tensor.dtype)
        if tensor.dtype is torch.int64:
            tensor = tensor.clamp(INT32.min, INT32.max).int()
        if tensor.dtype in HALF:
            octets = tensor.view(torch.int16).numpy()
            return hlo.constant(elements(octets, type=kind, shape=list(tensor.shape)))
        return hlo.constant(elements(tensor.numpy(), type=kind, shape=list(tensor.shape)))

    # ---- conversions -------------------------------------------------------------------------

    def convert(self, out: Out, kind: Any) -> Out:
        """A value in an element type of MLIR; whatever is not zero is true."""
        if element(out) == kind:
            return out
        if isinstance(kind, ir.IntegerType) and kind.width == 1:
            return self.compare("NE", out, self.const(0, element(out), sizes(out)))
        return hlo.convert(self.type(sizes(out), kind), out)

    def cast(self, value: Value | Out, dtype: torch.dtype) -> Out:
        """A value in a type of torch."""
        return self.convert(value.out if isinstance(value, Value) else value, self.element(dtype))

    def scalar(self, value: Number, dtype: torch.dtype) -> Out:
        """A number or a value as a value of type `dtype`."""
        return self.cast(value, dtype) if isinstance(value, Value) else self.const(value, dtype)

    def promote(self, *values: Number) -> list[Out]:
        """Values of one type, the one that torch computes in, and of one shape."""
        dtype = self.common_dtype(*values)
        return self.together(*(self.scalar(value, dtype) for value in values))

    def together(self, *outs: Out) -> list[Out]:
        """Values broadcast to one shape."""
        shape = list(np.broadcast_shapes(*(tuple(sizes(out)) for out in outs)))
        return [self.broadcast(out, shape) for out in outs]

    def common_dtype(self, *values: Number) -> torch.dtype:
        """The type that torch computes in for these arguments."""
        from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND as Kind
        from torch._prims_common import elementwise_dtypes

        known = [v.fake if isinstance(v, Value) else v for v in values]
        return elementwise_dtypes(*known, type_promotion_kind=Kind.NO_OPMATH)[1]

    # ---- layout ------------------------------------------------------------------------------

    def reshape(self, out: Out, shape: Shape) -> Out:
        """The elements in another shape."""
        shape = [int(size) for size in shape]
        return out if sizes(out) == shape else hlo.reshape(self.type(shape, element(out)), out)

    def transpose(self, out: Out, order: Sequence[int]) -> Out:
        """The dimensions in another order."""
        return out if list(order) == sorted(order) else hlo.transpose(out, longs(order))

    def broadcast(self, out: Out, shape: Shape, dims: Sequence[int] | None = None) -> Out:
        """Broadcast to a shape; `dims` says which of its dimensions are the value's, by default the last ones."""
        have, shape = sizes(out), [int(size) for size in shape]
        if have == shape:
            return out
        dims = range(len(shape) - len(have), len(shape)) if dims is None else dims
        return hlo.broadcast_in_dim(self.type(shape, element(out)), out, longs(dims))

    def unsqueeze(self, out: Out, axis: int) -> Out:
        """A new dimension of size 1."""
        shape = sizes(out)
        return self.reshape(out, [*shape[:axis], 1, *shape[axis:]])

    def concat(self, outs: Sequence[Out], axis: int) -> Out:
        """Values one after another."""
        return outs[0] if len(outs) == 1 else hlo.concatenate(list(outs), axis)

    def slice(self, out: Out, axis: int, start: int, stop: int, step: int = 1) -> Out:
        """A range of entries along one dimension."""
        shape = sizes(out)
        if (start, step) == (0, 1) and stop >= shape[axis]:
            return out
        begins, ends, steps = [0] * len(shape), list(shape), [1] * len(shape)
        begins[axis], ends[axis], steps[axis] = start, min(max(stop, start), shape[axis]), step
        return hlo.slice(out, longs(begins), longs(ends), longs(steps))

    def pad(self, out: Out, low: Shape, high: Shape, value: Number = 0, inner: Shape | None = None) -> Out:
        """Entries added in front, at the end and in between; negative numbers cut off."""
        filler = value if isinstance(value, ir.Value) else self.const(value, element(out))
        return hlo.pad(out, filler, longs(low), longs(high), longs(inner or [0] * len(sizes(out))))

    def iota(self, shape: Shape, axis: int, dtype: torch.dtype) -> Out:
        """Positions along a dimension."""
        return hlo.iota(self.type(shape, dtype), axis)

    # ---- choices -----------------------------------------------------------------------------

    def compare(self, direction: str, left: Out, right: Out) -> Out:
        """`EQ`, `NE`, `LT`, `LE`, `GT` or `GE`."""
        return hlo.compare(left, right, hlo.ComparisonDirectionAttr.get(direction))

    def select(self, condition: Out, yes: Out, no: Out) -> Out:
        """One of two values each; all three are broadcast."""
        condition, yes, no = self.together(condition, yes, no)
        return hlo.select(condition, yes, no)

    def like(self, value: Number, out: Out) -> Out:
        """A number in the type and shape of a value."""
        return self.const(value, element(out), sizes(out))

    def erf(self, out: Out) -> Out:
        """The error function; expanded into arithmetic by `legalize`."""
        return chlo.erf(out)
