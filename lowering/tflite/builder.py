"""Builder of a TFLite graph: what emitters append operators with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flatbuffers import flexbuffers
from torch.fx import Node

from graphwright.lowering.tflite.graph import Graph, Operator, Shape, Value

Number = Any
TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)

ELEMENTWISE = frozenset(
    ["ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "RELU", "RELU6", "LOGISTIC", "TANH", "GELU", "HARD_SWISH",
     "ABS", "NEG", "SQRT", "RSQRT", "EXP", "LEAKY_RELU", "ELU", "CAST", "SQUARE"]
)  # fmt: skip
"""Operators that a transposition of their inputs may be moved behind."""

MOST_BROADCAST = 4
"""Rank above which kernels of binary operators do not broadcast."""


def type_name(dtype: torch.dtype) -> str:
    """Name of a torch element type, such as `float32`."""
    return str(dtype).removeprefix("torch.")


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's entries; bfloat16 as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).contiguous().numpy()


class Builder:
    """What emitters are called with.

    Equal calls give one value. Transpositions move behind elementwise operators, so that two of opposite convolutions
    meet and vanish; what nobody reads in the end is removed by `Graph.prune`.

    Args:
        graph: What operators are appended to.
        native_packed: Whether packed weights are multiplied as integers, and the input rounded to 8 bits for it.
        composites: Whether attention and RMS norm are composites, which delegates may have kernels for.
    """

    def __init__(self, graph: Graph, native_packed: bool = False, composites: bool = False) -> None:
        self.graph, self.native_packed, self.composites = graph, native_packed, composites
        self.node: Node | None = None
        self.producers: dict[Value, Operator] = {}
        self._known: dict[Any, list[Value]] = {}
        self._constants: dict[Any, Value] = {}

    @property
    def result(self) -> torch.Tensor:
        """The fake result of the program node that is being emitted."""
        assert self.node is not None
        return self.node.meta["val"]

    @property
    def shape(self) -> Shape:
        """Sizes of that result."""
        return tuple(int(size) for size in self.result.shape)

    @property
    def dtype(self) -> str:
        """Element type of that result."""
        return type_name(self.result.dtype)

    # ---- operators ---------------------------------------------------------------------------

    def op(
        self, code: str, inputs: Sequence[Value | None], shape: Sequence[int], dtype: str, version: int = 1,
        **options: Any,
    ) -> Value:  # fmt: skip
        """Append an operator with one result."""
        return self.ops(code, inputs, [(tuple(shape), dtype)], version, **options)[0]

    def ops(
        self, code: str, inputs: Sequence[Value | None], results: Sequence[tuple[Shape, str]], version: int = 1,
        **options: Any,
    ) -> list[Value]:  # fmt: skip
        """Append an operator with several results, each given by sizes and element type."""
        key = (code, tuple(map(id, inputs)), tuple(results), repr(options))
        if key not in self._known:
            outputs = [Value(tuple(map(int, shape)), dtype) for shape, dtype in results]
            origin = "" if self.node is None else self.node.name
            operator = Operator(code, list(inputs), outputs, options, version, origin)
            self.graph.operators.append(operator)
            self.producers.update(dict.fromkeys(outputs, operator))
            self._known[key] = outputs
        return self._known[key]

    def composite(
        self, name: str, inputs: Sequence[Value], attributes: Mapping[str, Any],
        body: Callable[[Builder, Sequence[Value]], Value],
    ) -> Value:  # fmt: skip
        """One operator of a name that a delegate may know, with operators that stand for it where none does.

        Args:
            name: Such as `odml.rms_norm`.
            inputs: Values.
            attributes: Numbers that the name's definition asks for.
            body: Emits what the composite stands for.
        """
        stands = Graph(f"{self.graph.name}.{name}.{len(self.graph.decompositions)}")
        inner = Builder(stands)
        stands.inputs = {f"input_{i}": Value(v.shape, v.dtype) for i, v in enumerate(inputs)}
        result = body(inner, list(stands.inputs.values()))
        stands.outputs = {"output": result}
        stands.prune()
        self.graph.decompositions.append(stands)
        # XNNPACK misreads numbers of 8 bytes; those that are float32 are written in 4
        single = {key: float(np.float32(number)) for key, number in attributes.items()}
        encoded = np.frombuffer(bytes(flexbuffers.Dumps(single)), np.uint8)
        return self.op(
            "STABLEHLO_COMPOSITE", inputs, result.shape, result.dtype, name=name.encode(),
            decomposition=stands.name, compositeAttributes=encoded,
        )  # fmt: skip

    def unary(self, code: str, value: Value, dtype: str | None = None, **options: Any) -> Value:
        """An operator on each element."""
        order = self._order(code, [value])
        if order is None:
            return self.op(code, [value], value.shape, dtype or value.dtype, **options)
        return self.transpose(self.unary(code, self._before(value, order), dtype, **options), order)

    def binary(self, code: str, left: Value, right: Value, dtype: str | None = None) -> Value:
        """An operator on each pair of elements, broadcast."""
        order = self._order(code, [left, right])
        if order is not None:
            return self.transpose(
                self.binary(code, self._before(left, order), self._before(right, order), dtype), order
            )
        shape = np.broadcast_shapes(left.shape, right.shape)
        if len(shape) > MOST_BROADCAST and left.shape != right.shape and left.size > 1 and right.size > 1:
            left, right = self.collapsed(left, right)
            made = self.binary(code, left, right, dtype)
            return self.reshape(made, shape)
        return self.op(code, [left, right], shape, dtype or left.dtype)

    def collapsed(self, *values: Value) -> list[Value]:
        """Values in the lowest rank that broadcasts in the same way: dimensions that all broadcast alike are merged."""
        shape = np.broadcast_shapes(*(value.shape for value in values))
        padded = [(1,) * (len(shape) - value.rank) + value.shape for value in values]
        patterns = [tuple(sizes[i] == 1 and size != 1 for sizes in padded) for i, size in enumerate(shape)]
        groups: list[list[int]] = []
        for i, size in enumerate(shape):
            if groups and (size == 1 or patterns[groups[-1][-1]] == patterns[i]):
                groups[-1].append(i)
            else:
                groups.append([i])
        return [
            self.reshape(value, [int(np.prod([sizes[i] for i in group])) for group in groups])
            for value, sizes in zip(values, padded, strict=True)
        ]

    def _order(self, code: str, values: Sequence[Value]) -> Shape | None:
        """The order of dimensions that all inputs are brought into just before; None where they are not."""
        if code not in ELEMENTWISE:
            return None
        orders = {self.order_of(value) for value in values if value.size > 1}
        (order,) = orders if len(orders) == 1 else (None,)
        return order if order in (TO_CHANNELS_FIRST, TO_CHANNELS_LAST) else None

    def order_of(self, value: Value) -> Shape | None:
        """The order that a transposition gave a value's dimensions, if one did."""
        producer = self.producers.get(value)
        if producer is None or producer.code != "TRANSPOSE":
            return None
        assert producer.inputs[1] is not None and producer.inputs[1].data is not None
        return tuple(int(i) for i in producer.inputs[1].data)

    def _before(self, value: Value, order: Shape) -> Value:
        """What a value was before the transposition; one entry stays one entry."""
        if self.order_of(value) == order:
            source = self.producers[value].inputs[0]
            assert source is not None
            return source
        return self.reshape(value, ())

    # ---- constants and types -----------------------------------------------------------------

    def const(self, value: Any, dtype: str = "int32") -> Value:
        """A constant of numbers, or of an array in its own type; shared by all who ask for the same one."""
        array = np.array(value, dtype=dtype)
        key = (array.tobytes(), array.shape, dtype)
        if key not in self._constants:
            self._constants[key] = Value(tuple(array.shape), dtype, array)
        return self._constants[key]

    def derived(self, value: Value, change: str, function: Callable[[np.ndarray], np.ndarray]) -> Value:
        """A constant computed from another one, once for each `change`."""
        key = (id(value), change)
        if key not in self._constants:
            assert value.data is not None
            data = function(value.data)
            self._constants[key] = Value(tuple(data.shape), value.dtype, data, f"{value.name}.{change}")
        return self._constants[key]

    def cast(self, value: Value, dtype: str) -> Value:
        """A value in another element type; what is cut off a float is its fraction."""
        if value.dtype == dtype:
            return value
        if value.data is not None:
            return self.const(value.data.astype(dtype), dtype)
        if dtype == "bool" and value.dtype != "bool":
            return self.binary("NOT_EQUAL", value, self.const(0, value.dtype), "bool")
        return self.unary("CAST", value, dtype)

    def scalar(self, value: Number, dtype: str) -> Value:
        """A number or a value in the given element type."""
        if isinstance(value, Value):
            return self.cast(value, dtype)
        return self.const(int(value) if "int" in dtype else value, dtype)

    def promote(self, *values: Number) -> list[Value]:
        """Values of one type, the one that torch computes in for these arguments."""
        from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND as Kind
        from torch._prims_common import elementwise_dtypes

        known = [meta(value) if isinstance(value, Value) else value for value in values]
        dtype = type_name(elementwise_dtypes(*known, type_promotion_kind=Kind.NO_OPMATH)[1])
        return [self.scalar(value, dtype) for value in values]

    # ---- shapes ------------------------------------------------------------------------------

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """The same entries in other sizes."""
        shape = tuple(int(size) for size in shape)
        if shape == value.shape:
            return value
        if value.data is not None:
            return self.const(value.data.reshape(shape), value.dtype)
        producer = self.producers.get(value)
        if producer is not None and producer.code == "RESHAPE":
            assert producer.inputs[0] is not None
            return self.reshape(producer.inputs[0], shape)
        return self.op("RESHAPE", [value, self.const(np.array(shape, np.int32))], shape, value.dtype, newShape=shape)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Dimensions in another order."""
        order = tuple(int(dim) for dim in order)
        if order == tuple(range(value.rank)):
            return value
        if value.data is not None:
            return self.const(np.ascontiguousarray(value.data.transpose(order)), value.dtype)
        shape = [value.shape[dim] for dim in order]
        earlier = self.order_of(value)
        if earlier is not None:
            source = self.producers[value].inputs[0]
            assert source is not None
            return self.transpose(source, [earlier[dim] for dim in order])
        if [dim for dim in order if value.shape[dim] > 1] == [d for d in range(value.rank) if value.shape[d] > 1]:
            return self.reshape(value, shape)
        return self.op("TRANSPOSE", [value, self.const(order)], shape, value.dtype)

    def expand(self, value: Value, shape: Sequence[int]) -> Value:
        """Broadcast to larger sizes."""
        shape = tuple(int(size) for size in shape)
        if shape == value.shape:
            return value
        if value.data is not None:
            return self.const(np.ascontiguousarray(np.broadcast_to(value.data, shape)), value.dtype)
        padded = self.reshape(value, (1,) * (len(shape) - value.rank) + value.shape)
        if padded.shape == shape:
            return padded
        return self.op("BROADCAST_TO", [padded, self.const(shape)], shape, value.dtype, 2)

    def slice(self, value: Value, dim: int, start: int, end: int, step: int = 1) -> Value:
        """Entries from `start` up to `end` (not below 0, not beyond the size) along a dimension."""
        count = max(0, -(-(end - start) // step))
        shape = [count if i == dim else size for i, size in enumerate(value.shape)]
        if tuple(shape) == value.shape:
            return value
        begin = [start if i == dim else 0 for i in range(value.rank)]
        if step == 1:
            return self.op("SLICE", [value, self.const(begin), self.const(shape)], shape, value.dtype)
        ends = [end if i == dim else size for i, size in enumerate(value.shape)]
        steps = [step if i == dim else 1 for i in range(value.rank)]
        return self.op(
            "STRIDED_SLICE", [value, self.const(begin), self.const(ends), self.const(steps)], shape, value.dtype
        )

    def concat(self, values: Sequence[Value], dim: int) -> Value:
        """Values one after another along a dimension."""
        if len(values) == 1:
            return values[0]
        shape = list(values[0].shape)
        shape[dim] = sum(value.shape[dim] for value in values)
        return self.op("CONCATENATION", values, shape, values[0].dtype, axis=dim)

    def gather(self, value: Value, indices: Value, dim: int) -> Value:
        """Entries of one dimension chosen by integers, whose dimensions take the place of that one."""
        shape = [*value.shape[:dim], *indices.shape, *value.shape[dim + 1 :]]
        return self.op("GATHER", [value, indices], shape, value.dtype, axis=dim)

    def reduce(self, code: str, value: Value, dims: Sequence[int], keep: bool) -> Value:
        """An operator that reduces dimensions to one entry, or removes them."""
        dims = sorted(dim % value.rank for dim in dims)
        order = self.order_of(value)
        if order in (TO_CHANNELS_FIRST, TO_CHANNELS_LAST) and (not keep or dims == [2, 3]):
            source = self.producers[value].inputs[0]
            assert source is not None
            kept = [dim for dim in range(value.rank) if dim not in dims]
            if [order[dim] for dim in kept] == sorted(order[dim] for dim in kept):
                made = self.reduce(code, source, [order[dim] for dim in dims], False)
                return self.reshape(made, _reduced(value.shape, dims, keep))
        shape = _reduced(value.shape, dims, keep)
        return self.op(code, [value, self.const(dims)], shape, value.dtype, keepDims=keep)

    def select(self, condition: Value, left: Value, right: Value) -> Value:
        """Entries of one of two values, broadcast."""
        shape = np.broadcast_shapes(condition.shape, left.shape, right.shape)
        if len(shape) > MOST_BROADCAST:
            made = self.select(*self.collapsed(condition, left, right))
            return self.reshape(made, shape)
        return self.op("SELECT_V2", [condition, left, right], shape, left.dtype)


def meta(value: Value) -> torch.Tensor:
    """A tensor without data of a value's type and sizes."""
    return torch.empty(value.shape, dtype=getattr(torch, value.dtype), device="meta")


def _reduced(shape: Shape, dims: Sequence[int], keep: bool) -> list[int]:
    return [1 if i in dims else size for i, size in enumerate(shape) if keep or i not in dims]
