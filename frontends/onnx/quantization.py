"""ONNX quantization operators; a product by a weight stored in few bits becomes one packed linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from graphwright.frontends.onnx.table import Call, register
from graphwright.frontends.onnx.values import tensor

_RANGES = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-(2**15), 2**15 - 1), torch.uint16: (0, 65535)}


def _along(part: torch.Tensor, x: torch.Tensor, axis: int, block: int) -> torch.Tensor:
    """Scales or zeros in the sizes of the tensor that they are for."""
    if part.dim() == 0 or part.numel() == 1:
        return part.reshape(())
    if block:
        return part.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return part.view([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])


@register("DequantizeLinear")
@register("DequantizeLinear", domain="com.microsoft")
def dequantize(call: Call, x: Any, scale: Any, zero: Any = None) -> torch.Tensor:
    """(x - zero) * scale, for the whole tensor, along an axis, or in blocks of it."""
    codes, axis, block = tensor(x), call.attr("axis", 1), call.attr("block_size", 0)
    scale = tensor(scale)
    dtype = call.dtype("output_dtype", scale.dtype)
    value = codes.to(scale.dtype)
    if zero is not None:
        value = value - _along(tensor(zero), codes, axis, block).to(scale.dtype)
    return (value * _along(scale, codes, axis, block)).to(dtype)


@register("QuantizeLinear")
@register("QuantizeLinear", domain="com.microsoft")
def quantize(call: Call, x: Any, scale: Any, zero: Any = None) -> torch.Tensor:
    """round(x / scale) + zero in the range of the zero point's type."""
    x, axis, block = tensor(x), call.attr("axis", 1), call.attr("block_size", 0)
    dtype = zero.dtype if zero is not None else call.dtype("output_dtype", torch.uint8)
    if dtype not in _RANGES:
        raise call.unsupported(f"quantization to {dtype}")
    steps = torch.round(x / _along(tensor(scale), x, axis, block))
    if zero is not None:
        steps = steps + _along(tensor(zero), x, axis, block).to(steps.dtype)
    return steps.clamp(*_RANGES[dtype]).to(dtype)


@register("DynamicQuantizeLinear")
def dynamic_quantize(call: Call, x: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """8-bit codes, scale and zero point from the tensor's own range."""
    x = tensor(x)
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round(torch.where(scale > 0, -low / scale, 0.0)).clamp(0, 255)
    codes = torch.where(scale > 0, torch.round(x / scale), 0.0) + zero
    return codes.clamp(0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A constant matrix [in, out] in few bits whose only use is as the second operand of products.

    Args:
        weight: Codes [out, in], packed along `in` with low bits first, uint8.
        scales: [out, groups].
        zeros: uint8 codes [out, groups], None for the middle of the range.
        bits: Width of a code.
        group_size: Items along `in` with one scale.
    """

    weight: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    bits: int
    group_size: int

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the matrix."""
        return self.scales.dtype


def packed_product(x: Any, packed: PackedWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The product of a tensor and a packed matrix."""
    operator = torch.ops.graphwright.packed_linear
    return operator(tensor(x), packed.weight, packed.scales, packed.zeros, None, bias, packed.bits, packed.group_size)


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 codes [out, in] packed along the last dimension, low bits first; `bits` is 2, 4 or 8."""
    per = 8 // bits
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % per)).unflatten(-1, (-1, per))
    shifts = torch.arange(per, dtype=torch.uint8) * bits
    return (codes << shifts).sum(-1, dtype=torch.uint8)


def packed_weight(node: ir.Node, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None) -> Any:
    """The packed form of a blocked DequantizeLinear of a constant [in, out] matrix; None where it is another form."""
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    block, axis = attributes.get("block_size", 0), attributes.get("axis", 1)
    if not block or codes.dim() != 2 or axis % 2 != 0 or not scales.is_floating_point():
        return None
    source = node.inputs[0]
    assert source is not None
    signed = codes.dtype is torch.int8
    bits = 4 if source.dtype in (ir.DataType.INT4, ir.DataType.UINT4) else 8
    shift = 1 << (bits - 1) if signed else 0
    stored = torch.zeros_like(scales, dtype=codes.dtype) if zeros is None else zeros
    middle = 1 << (bits - 1)
    points = (stored.to(torch.int16) + shift).to(torch.uint8).t().contiguous()
    packed = pack_codes((codes.to(torch.int16) + shift).to(torch.uint8).t(), bits)
    symmetric = bool((points == middle).all())
    return PackedWeight(packed, scales.t().contiguous(), None if symmetric else points, bits, block)


@register("MatMulNBits", domain="com.microsoft")
def matmul_nbits(
    call: Call, x: Any, codes: Any, scales: Any, zeros: Any = None, group: Any = None, bias: Any = None
) -> torch.Tensor:
    """Product by a matrix [out, blocks, bytes] in few bits."""
    bits, block, columns, rows = (call.attr(name) for name in ("bits", "block_size", "N", "K"))
    if group is not None:
        raise call.unsupported("group indices")
    if bits not in (2, 4, 8) or (rows * bits) % 8:
        raise call.unsupported(f"{bits} bits with {rows} rows")
    weight = tensor(codes).reshape(columns, -1)[:, : rows * bits // 8]
    scales = tensor(scales).reshape(columns, -1)
    points = None if zeros is None else _points(tensor(zeros), columns, scales.shape[1], bits)
    packed = PackedWeight(weight, scales, points, bits, block)
    return packed_product(x, packed, None if bias is None else tensor(bias))


def _points(zeros: torch.Tensor, rows: int, groups: int, bits: int) -> torch.Tensor:
    """Zero points [out, groups], one in each byte."""
    per = 8 // bits
    shifts = torch.arange(per, dtype=torch.uint8) * bits
    mask = (1 << bits) - 1
    return ((zeros.reshape(rows, -1, 1) >> shifts) & mask).flatten(1)[:, :groups].contiguous()
