"""One packed linear on a CPU.

| form | what runs | where |
|---|---|---|
| `int4` | `aten::_weight_int4pack_mm_for_cpu` on a reordered copy of the codes | bfloat16, few rows |
| `int8` | `aten::_weight_int8pack_mm`, scales afterwards in float32 | bfloat16, few rows, one scale for each output |
| `dense` | oneDNN on the dequantized weight, made when first needed and kept | other rows |
| `unpack` | the weight is dequantized at each call, nothing is kept | instead of `dense`, to save memory |

Both kernels are fast for bfloat16 only: with float32 activations PyTorch runs a reference loop, which is never used
here. The scales of `int4` are rounded to bfloat16, a relative error of up to 0.4 % of a weight.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from graphwright.ir.packed import PackedWeight, packed_linear
from graphwright.lowering.eager.linear import onednn_linear
from graphwright.lowering.eager.packed.kept import Kept
from graphwright.lowering.eager.packed.layout import Int8, int4, int4_size, int8, is_int8, scales_and_offsets
from graphwright.lowering.eager.speeds import user_speeds

PackedMode = Literal["auto", "small", "exact"]

aten = torch.ops.aten
_FEW_ROWS = 4  # up to here the kernel for codes is taken without measuring: the dense weight is not needed at all
_OUTPUTS = 32  # the int4 kernel wants a multiple of this many outputs; others are filled up


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
        own = self._kernel(x, packed)
        if own is None:
            return rest
        if rows <= _FEW_ROWS:
            return own
        sizes = f"2^{rows.bit_length()}x{packed.inputs}x{packed.scales.shape[0]} g{packed.group_size}"
        forms = {form: lambda form=form: self._run(form, x, packed, bias) for form in (own, rest)}
        return user_speeds().fastest(f"packed {x.dtype} {sizes} threads={torch.get_num_threads()}", forms)

    def _kernel(self, x: Tensor, packed: PackedWeight) -> str | None:
        """The kernel that multiplies with codes, None where there is none."""
        if x.dtype is not torch.bfloat16 or torch.backends.cpu.get_cpu_capability() == "DEFAULT":
            return None
        if is_int8(packed.inputs, self.bits, self.group_size):
            return "int8"
        size = int4_size(packed.inputs, self.bits, self.group_size)
        return "int4" if size is not None and self.mode != "exact" else None

    def _run(self, form: str, x: Tensor, packed: PackedWeight, bias: Tensor | None) -> Tensor:
        if form == "unpack":
            parts = (packed.weight, packed.scales, packed.zeros, packed.group_index)
            return packed_linear(x, *parts, bias, self.bits, self.group_size)
        if form == "dense":
            dense = self._kept.get(("dense", x.dtype), lambda: _dense(packed, x.dtype))
            return onednn_linear(x, dense, bias, "none", [], "")
        if form == "int8":
            return _int8_linear(x, self._kept.get(("int8", x.dtype), lambda: int8(packed)), bias)
        codes, grid, size, order = self._kept.get(("int4", x.dtype), lambda: _int4(packed))
        rows = x if order is None else x.index_select(-1, order)
        result = aten._weight_int4pack_mm_for_cpu(rows.reshape(-1, packed.inputs), codes, size, grid)
        result = result[:, : packed.scales.shape[0]].contiguous()
        result = result if bias is None else result.add_(bias)
        return result.unflatten(0, x.shape[:-1]) if x.dim() != 2 else result


def _dense(packed: PackedWeight, dtype: torch.dtype) -> Tensor:
    weight = packed.dequantize().to(dtype)
    return torch.ops.mkldnn._reorder_linear_weight(weight, None) if dtype is torch.bfloat16 else weight


def _int4(packed: PackedWeight) -> tuple[Tensor, Tensor, int, Tensor | None]:
    weight = int4(packed)
    missing = -len(weight.codes) % _OUTPUTS
    filled = torch.nn.functional.pad(weight.codes.int(), (0, 0, 0, missing))
    grid = torch.nn.functional.pad(scales_and_offsets(weight, torch.bfloat16), (0, 0, 0, missing))
    return aten._convert_weight_to_int4pack_for_cpu(filled, 1), grid, weight.group_size, weight.order


def _int8_linear(x: Tensor, weight: Int8, bias: Tensor | None) -> Tensor:
    """Scales and offsets are applied to the sums, in float32."""
    rows = x.reshape(-1, x.shape[-1])
    result = aten._weight_int8pack_mm(rows, weight.codes, weight.ones).mul(weight.scales)
    if weight.offsets is not None:
        result = torch.addcmul(result, rows.sum(-1, keepdim=True, dtype=torch.float32), weight.offsets)
    result = result if bias is None else result.add_(bias)
    return result.to(x.dtype).unflatten(0, x.shape[:-1]) if x.dim() != 2 else result.to(x.dtype)
