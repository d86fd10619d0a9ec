"""Packed linears: the weight stays packed in the module, and is unpacked by shifts in front of the product."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.lowering.neuron.builder import Builder, Out, Value, sizes
from graphwright.lowering.neuron.indexing import taken
from graphwright.lowering.neuron.matmul import contracted
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo


@register(torch.ops.graphwright.packed_linear.default)
def packed_linear(
    b: Builder, input: Value, weight: Value, scales: Value, zeros: Value | None, group_index: Value | None,
    bias: Value | None, bits: int, group_size: int,
) -> Any:  # fmt: skip
    """`input @ dequantize(weight).T + bias`."""
    inputs = input.shape[-1]
    codes = b.cast(unpacked(b, weight.out, bits, inputs), torch.float32)
    spread = lambda out: _spread(b, b.cast(out, torch.float32), group_index, group_size, inputs)  # noqa: E731
    zero = b.like(2 ** (bits - 1), codes) if zeros is None else spread(zeros.out)
    matrix = b.cast(hlo.multiply(hlo.subtract(codes, zero), spread(scales.out)), input.dtype)
    out = b.cast(contracted(b, input.out, matrix, (input.rank - 1, 1)), input.dtype)
    return out if bias is None else hlo.add(out, b.broadcast(b.cast(bias, input.dtype), sizes(out)))


def unpacked(b: Builder, weight: Out, bits: int, inputs: int) -> Out:
    """The codes [N, inputs], int32, of packed rows [N, bytes]; shifts are made in 32 bits."""
    octets = b.cast(weight, torch.int32)
    rows, count = sizes(octets)
    if bits == 8:
        return octets
    if 8 % bits == 0:
        parts = [_bits(b, octets, b.like(shift, octets), bits) for shift in range(0, 8, bits)]
        grid = b.concat([b.unsqueeze(part, 2) for part in parts], 2)
        return b.slice(b.reshape(grid, [rows, count * (8 // bits)]), 1, 0, inputs)
    first = torch.arange(inputs) * bits
    low = taken(b, octets, b.dense((first // 8).int()), 1)
    high = taken(b, octets, b.dense((first // 8 + 1).clamp(max=count - 1).int()), 1)
    pair = hlo.or_(low, hlo.shift_left(high, b.like(8, high)))
    return _bits(b, pair, b.broadcast(b.dense((first % 8).int()), sizes(pair)), bits)


def _bits(b: Builder, word: Out, shift: Out, bits: int) -> Out:
    return hlo.and_(hlo.shift_right_logical(word, shift), b.like(2**bits - 1, word))


def _spread(b: Builder, values: Out, group_index: Value | None, group_size: int, inputs: int) -> Out:
    """[N, G] -> [N, inputs]: the value of each input's group."""
    if group_index is not None:
        return taken(b, values, group_index.out, 1)
    rows, groups = sizes(values)
    wide = b.broadcast(values, [rows, groups, group_size], [0, 1])
    return b.slice(b.reshape(wide, [rows, groups * group_size]), 1, 0, inputs)
