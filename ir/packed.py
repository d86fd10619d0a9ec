"""Linears whose weight is a string of small integer codes: `graphwright::packed_linear`, and how codes are packed.

Row `n` of a packed weight holds the codes of output `n` as one little-endian string of bits, low bits first: with 4
bits, byte `j` is `code[2j] | code[2j + 1] << 4`; with 3 bits, 8 codes lie in 3 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

_LIBRARY = torch.library.Library("graphwright", "FRAGMENT")
_LIBRARY.define(
    "packed_linear(Tensor input, Tensor weight, Tensor scales, Tensor? zeros, Tensor? group_index, Tensor? bias,"
    " int bits, int group_size) -> Tensor"
)
_LIBRARY.define(
    "unpack_weight(Tensor weight, Tensor scales, Tensor? zeros, Tensor? group_index, int bits, int group_size,"
    " int inputs, ScalarType dtype) -> Tensor"
)


def packed_linear(
    input: Tensor,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    group_index: Tensor | None,
    bias: Tensor | None,
    bits: int,
    group_size: int,
) -> Tensor:
    """`linear(input, W, bias)` with `W[n, k] = (code[n, k] - zeros[n, g]) * scales[n, g]`, `g` the group of input `k`.

    Args:
        input: [..., K], floating point.
        weight: [N, ceil(K * bits / 8)], uint8: the packed codes.
        scales: [N, G], float16, bfloat16 or float32, with G = ceil(K / group_size).
        zeros: [N, G], uint8, one code each; None for the middle code `2**(bits - 1)`.
        group_index: [K], int32, the group of each input; None for `k // group_size`.
        bias: [N].
        bits: Bits of a code, 2 to 8.
        group_size: Inputs of a group.

    Returns:
        [..., N], in the dtype of `input`.
    """
    codes = unpack_codes(weight, bits, input.shape[-1])
    return linear(input, dequantize(codes, scales, zeros, group_index, bits, group_size).to(input.dtype), bias)


def unpack_weight(
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    group_index: Tensor | None,
    bits: int,
    group_size: int,
    inputs: int,
    dtype: torch.dtype,
) -> Tensor:
    """The weight [N, inputs] of a `packed_linear`, in a dtype."""
    return dequantize(unpack_codes(weight, bits, inputs), scales, zeros, group_index, bits, group_size).to(dtype)


_LIBRARY.impl("packed_linear", packed_linear, "CompositeImplicitAutograd")
_LIBRARY.impl("unpack_weight", unpack_weight, "CompositeImplicitAutograd")


def dequantize(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, group_index: Tensor | None, bits: int, group_size: int
) -> Tensor:
    """The float32 weight [N, K] that the codes [N, K] stand for; see `packed_linear`."""
    spread = lambda values: _spread(values.float(), group_index, group_size, codes.shape[1])  # noqa: E731
    return (codes.float() - (2 ** (bits - 1) if zeros is None else spread(zeros))) * spread(scales)


def _spread(values: Tensor, group_index: Tensor | None, group_size: int, inputs: int) -> Tensor:
    """[N, G] -> [N, inputs]: the value of each input's group."""
    if group_index is not None:
        return values.index_select(1, group_index)
    return values.repeat_interleave(group_size, 1)[:, :inputs]


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes [N, K] below `2**bits` as packed rows [N, ceil(K * bits / 8)], uint8."""
    outputs, inputs = codes.shape
    digits = torch.arange(bits, device=codes.device, dtype=torch.int32)
    string = (codes.int().unsqueeze(-1) >> digits & 1).to(torch.uint8).reshape(outputs, -1)
    octets = pad(string, [0, -inputs * bits % 8]).reshape(outputs, -1, 8)
    powers = 1 << torch.arange(8, device=codes.device, dtype=torch.int32)
    return (octets * powers).sum(-1).to(torch.uint8)


def unpack_codes(weight: Tensor, bits: int, inputs: int) -> Tensor:
    """The codes [N, inputs], uint8, of packed rows [N, ceil(inputs * bits / 8)]."""
    if bits == 8:
        return weight
    if 8 % bits == 0:
        parts = [weight >> shift & 2**bits - 1 for shift in range(0, 8, bits)]
        return torch.stack(parts, -1).flatten(1)[:, :inputs]
    first = torch.arange(inputs, device=weight.device) * bits
    low = weight.index_select(1, first // 8).int()
    high = weight.index_select(1, (first // 8 + 1).clamp(max=weight.shape[1] - 1)).int()
    return ((low | high << 8) >> (first % 8) & 2**bits - 1).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """The weight of a `packed_linear`: what the op takes beside its input and bias.

    Args:
        weight: [N, ceil(K * bits / 8)], uint8.
        scales: [N, G].
        zeros: [N, G], uint8, or None.
        group_index: [K], int32, or None.
        bits: Bits of a code.
        group_size: Inputs of a group.
        inputs: K.
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor | None
    group_index: Tensor | None
    bits: int
    group_size: int
    inputs: int

    def codes(self) -> Tensor:
        """The codes [N, K], uint8."""
        return unpack_codes(self.weight, self.bits, self.inputs)

    def dequantize(self) -> Tensor:
        """The weight [N, K], float32."""
        return dequantize(self.codes(), self.scales, self.zeros, self.group_index, self.bits, self.group_size)
