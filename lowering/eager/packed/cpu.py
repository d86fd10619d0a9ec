"""One packed linear on a CPU.

| form | what runs | where |
|---|---|---|
| `int4` | `aten::_weight_int4pack_mm_for_cpu` on a reordered copy of the codes | bfloat16, few rows |
| `dense` | oneDNN on the dequantized weight, made when first needed and kept | other rows |
| `unpack` | the weight is dequantized at each call, nothing is kept | instead of `dense`, to save memory |

The int4 kernel is fast for bfloat16 only: with float32 activations PyTorch runs a reference loop, which is never used
here. Its scales are rounded to bfloat16, a relative error of up to 0.4 % of a weight.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from graphwright.ir.packed import PackedWeight, packed_linear
from graphwright.lowering.eager.linear import onednn_linear
from graphwright.lowering.eager.packed.kept import Kept
from graphwright.lowering.eager.packed.layout import int4, int4_size, scales_and_offsets
from graphwright.lowering.eager.speeds import user_speeds

PackedMode = Literal["auto", "small", "exact"]

aten = torch.ops.aten
_FEW_ROWS = 4  # up to here the int4 kernel is taken without measuring: the dense weight is not needed at all
_OUTPUTS = 32  # the int4 kernel wants a multiple of this many outputs


class PackedCall:
    """Runs one packed linear in the form that is the fastest for its number of rows, as measured once.

    Args:
        bits: Bits of a code.
        group_size: Inputs of a group.
        mode: `auto`; `small` keeps no dequantized weight; `exact` does not round scales, so it leaves out `int4`.
    """

    __name__ = "packed_call"

    def __init__(self, bits: int, group_size: int, mode: PackedMode) -> None:
        self.bits, self.group_size, self.mode = bits, group_size, mode
        self._kept = Kept()
        self._chosen: dict[tuple[int, torch.dtype], str] = {}

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        group_index: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        """`graphwright::packed_linear` on a CPU; see there for the arguments."""
        packed = PackedWeight(weight, scales, zeros, group_index, self.bits, self.group_size, x.shape[-1])
        self._kept.refresh(packed)
        rows = x.numel() // x.shape[-1]
        key = (rows.bit_length(), x.dtype)
        form = self._chosen.get(key)
        if form is None:
            form = self._chosen[key] = self._choose(rows, x, packed, bias)
        return self._run(form, x, packed, bias)

    def _choose(self, rows: int, x: Tensor, packed: PackedWeight, bias: Tensor | None) -> str:
        rest = "unpack" if self.mode == "small" else "dense"
        if not self._has_int4(x, packed):
            return rest
        if rows <= _FEW_ROWS:
            return "int4"
        sizes = f"2^{rows.bit_length()}x{packed.inputs}x{packed.scales.shape[0]} g{packed.group_size}"
        forms = {form: lambda form=form: self._run(form, x, packed, bias) for form in ("int4", rest)}
        return user_speeds().fastest(f"packed {x.dtype} {sizes} threads={torch.get_num_threads()}", forms)

    def _has_int4(self, x: Tensor, packed: PackedWeight) -> bool:
        size = int4_size(packed.inputs, self.bits, self.group_size)
        return (
            self.mode != "exact"
            and x.dtype is torch.bfloat16
            and size is not None
            and packed.scales.shape[0] % _OUTPUTS == 0
            and torch.backends.cpu.get_cpu_capability() != "DEFAULT"
        )

    def _run(self, form: str, x: Tensor, packed: PackedWeight, bias: Tensor | None) -> Tensor:
        if form == "unpack":
            parts = (packed.weight, packed.scales, packed.zeros, packed.group_index)
            return packed_linear(x, *parts, bias, self.bits, self.group_size)
        if form == "dense":
            dense = self._kept.get(("dense", x.dtype), lambda: _dense(packed, x.dtype))
            return onednn_linear(x, dense, bias, "none", [], "")
        codes, grid, size, order = self._kept.get(("int4", x.dtype), lambda: _int4(packed))
        rows = x if order is None else x.index_select(-1, order)
        result = aten._weight_int4pack_mm_for_cpu(rows.reshape(-1, packed.inputs), codes, size, grid)
        result = result if bias is None else result.add_(bias)
        return result.unflatten(0, x.shape[:-1]) if x.dim() != 2 else result


def _dense(packed: PackedWeight, dtype: torch.dtype) -> Tensor:
    weight = packed.dequantize().to(dtype)
    return torch.ops.mkldnn._reorder_linear_weight(weight, None) if dtype is torch.bfloat16 else weight


def _int4(packed: PackedWeight) -> tuple[Tensor, Tensor, int, Tensor | None]:
    weight = int4(packed)
    codes = aten._convert_weight_to_int4pack_for_cpu(weight.codes.int(), 1)
    return codes, scales_and_offsets(weight, torch.bfloat16), weight.group_size, weight.order
