"""Packed linears: blocked `DequantizeLinear` and a product, or `com.microsoft::MatMulNBits`.

Codes of 2 and 3 bits are stored in 4. Where groups are scattered, columns are stored by group and the input's features
are put into that order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import onnx_ir as ir
import torch
from torch import Tensor
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.node import bound, shape_of
from graphwright.ir.packed import pack_codes, unpack_codes
from graphwright.lowering.onnx.table import Emission, register
from graphwright.lowering.support import Support

_LEAST_BLOCK = 16


def _expressible(node: Node) -> Support:
    arguments = bound(node)
    parts = [arguments[name] for name in ("weight", "scales", "zeros", "group_index") if arguments[name] is not None]
    if not all(isinstance(part, Node) and part.op == "get_attr" for part in parts):
        return Support.no("the packed weight is computed, not stored", remedy="keep it in the state")
    inputs = int((shape_of(arguments["input"]) or (0,))[-1])
    if inputs % arguments["group_size"] or arguments["bits"] not in (2, 3, 4, 8):
        return Support.no("groups are not whole, or the bits are not 2, 3, 4 or 8", remedy="quantize in whole groups")
    return Support.yes()


@register(torch.ops.graphwright.packed_linear.default, validate=_expressible)
def packed_linear(
    b: Emission,
    input: ir.Value,
    weight: ir.Value,
    scales: ir.Value,
    zeros: ir.Value | None,
    group_index: ir.Value | None,
    bias: ir.Value | None,
    bits: int,
    group_size: int,
) -> ir.Value:
    """`input @ dequantize(weight).T + bias`."""
    inputs, dtype = int(b.shape(input)[-1]), b.fake(input).dtype
    order = None
    if group_index is not None:
        order = _data(group_index).argsort(stable=True)
        input = b.op("Gather", input, b.const(order.tolist()), axis=-1)
    codes = lambda: _codes(weight, bits, inputs, order)  # noqa: E731
    width = 8 if bits == 8 else 4
    groups = [b.shape(scales)[0], inputs // group_size]
    middle = torch.full(groups, 2 ** (bits - 1), dtype=torch.uint8)
    points = lambda: middle if zeros is None else _data(zeros)  # noqa: E731
    if b.packed == "matmulnbits" and group_size >= _LEAST_BLOCK:
        own = zeros is not None or bits != width
        scale = _floats(b, scales, dtype, lambda data: data)
        product = _product(b, input, codes(), scale, points() if own else None, width, group_size)
    else:
        point = _stored(b, weight, "zeros", lambda: points().t(), width, groups[::-1])
        grid = _stored(b, weight, "codes", lambda: codes().t(), width, [inputs, groups[0]])
        scale = _floats(b, scales, dtype, lambda data: data.t())
        matrix = b.op("DequantizeLinear", grid, scale, point, dtype=dtype, axis=0, block_size=group_size)
        product = b.op("MatMul", input, matrix)
    return product if bias is None else b.op("Add", product, bias)


def _product(
    b: Emission, input: ir.Value, codes: Tensor, scale: ir.Value, points: Tensor | None, width: int, group_size: int
) -> ir.Value:
    """`MatMulNBits`; activations are not rounded (accuracy level 1)."""
    outputs, inputs = codes.shape
    blocks = pack_codes(codes, width).reshape(outputs, inputs // group_size, -1)
    operands = [_bytes(b, f"{scale.name}.blocks", blocks), scale]
    if points is not None:
        operands.append(_bytes(b, f"{scale.name}.points", pack_codes(points, width)))
    sizes: dict[str, Any] = {"K": inputs, "N": outputs, "bits": width, "block_size": group_size, "accuracy_level": 1}
    return b.op("com.microsoft::MatMulNBits", input, *operands, **sizes)


def _codes(weight: ir.Value, bits: int, inputs: int, order: Tensor | None) -> Tensor:
    """The codes [outputs, inputs], columns in the order of their groups."""
    codes = unpack_codes(_data(weight), bits, inputs)
    return codes if order is None else codes.index_select(1, order)


def _stored(
    b: Emission, source: ir.Value, kind: str, read: Callable[[], Tensor], width: int, shape: list[int]
) -> ir.Value:
    """Unsigned integers of `width` bits as an initializer, made once for all calls that read `source`."""
    dtype = ir.DataType.UINT8 if width == 8 else ir.DataType.UINT4
    name = f"{source.name}.{kind}"

    def make() -> ir.TensorProtocol:
        values = read().contiguous().numpy()
        if width == 8:
            return ir.Tensor(values, dtype=dtype, name=name)
        flat = numpy.pad(values.reshape(-1), (0, values.size % 2))
        return ir.PackedTensor(flat[::2] | flat[1::2] << 4, dtype, shape=ir.Shape(shape), name=name)

    return _initializer(b, name, lambda: ir.LazyTensor(make, dtype=dtype, shape=ir.Shape(shape), name=name))


def _bytes(b: Emission, name: str, values: Tensor) -> ir.Value:
    return _initializer(b, name, lambda: ir.Tensor(values.contiguous().numpy(), name=name))


def _floats(b: Emission, scales: ir.Value, dtype: torch.dtype, read: Callable[[Tensor], Tensor]) -> ir.Value:
    """The scales in the dtype of the product, rearranged by `read`."""
    name = f"{scales.name}.{str(dtype).removeprefix('torch.')}"
    values = lambda: read(_data(scales, b.fake(scales).dtype)).to(dtype).contiguous()  # noqa: E731
    return _initializer(b, name, lambda: ir.tensor_adapters.TorchTensor(values(), name=name))


def _initializer(b: Emission, name: str, make: Callable[[], ir.TensorProtocol]) -> ir.Value:
    """The initializer of this name, made where there is none yet."""
    known = next((value for value in b.initializers if value.name == name), None)
    if known is not None:
        return known
    return b.initializer(make(), torch.empty(0))


def _data(value: ir.Value, dtype: torch.dtype = torch.uint8) -> Tensor:
    """The values of an initializer; those of index tensors are widened."""
    assert value.const_value is not None
    array = numpy.ascontiguousarray(value.const_value.numpy())
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.view(numpy.uint16)).view(torch.bfloat16)
    data = torch.from_numpy(array)
    return data.long() if data.dtype is torch.int32 else data
