"""One packed linear on a GPU, in half precision.

| rows | what runs |
|---|---|
| 1, bfloat16 | PyTorch's `_weight_int4pack_mm` |
| to 64 | our Triton kernel: codes are unpacked in registers, sums in float32 |
| to 256 | the same with tiles of 256 rows |
| more | our Triton kernel dequantizes, then one product |

The first call of each form is compared with the reference; what differs, or does not run here, is left out with one
logged sentence. Weights that the kernels cannot express run as the reference does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphwright.ir.packed import PackedWeight, packed_linear
from graphwright.lowering.eager.packed.kept import Kept
from graphwright.lowering.eager.packed.layout import int4, int4_size, scales_and_offsets

logger = logging.getLogger("graphwright")
aten = torch.ops.aten

BLOCK = 128
_INNER_TILES = 8
_MOST_TILES = 1 << 16
_TOLERANCE = 2e-2  # of the largest element: scales are rounded to the dtype of the product
_REFUSED: set[str] = set()


class CudaPackedCall:
    """Runs one packed linear on a GPU; what the kernels read is made at the first call and kept.

    Args:
        bits: Bits of a code.
        group_size: Inputs of a group.
    """

    __name__ = "cuda_packed_call"

    def __init__(self, bits: int, group_size: int) -> None:
        self.bits, self.group_size = bits, group_size
        self._kept = Kept()
        self._checked: set[str] = set()

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        group_index: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        """`graphwright::packed_linear` on a GPU; see there for the arguments."""
        reference = lambda: packed_linear(x, weight, scales, zeros, group_index, bias, self.bits, self.group_size)  # noqa: E731
        form = self._form(x, scales)
        if form is None:
            return reference()
        packed = PackedWeight(weight, scales, zeros, group_index, self.bits, self.group_size, x.shape[-1])
        self._kept.refresh(packed)
        if form in self._checked:
            return self._run(form, x, packed, bias)
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return reference()
        return self._first(form, lambda: self._run(form, x, packed, bias), reference)

    def _first(self, form: str, run: Callable[[], Tensor], reference: Callable[[], Tensor]) -> Tensor:
        """The first call of a form, checked."""
        expected = reference()
        try:
            result = run()
            difference = float((result.float() - expected.float()).abs().max())
            if difference <= _TOLERANCE * float(expected.float().abs().max()):
                self._checked.add(form)
                return result
            reason = f"its result differs by {difference:.3g}"
        except Exception as error:  # a compiler, a driver, or a GPU that a kernel does not know
            reason = f"{type(error).__name__}: {str(error)[:200]}"
        _REFUSED.add(form)
        logger.warning("Packed linears run without the form '%s': %s", form, reason)
        return expected

    def _form(self, x: Tensor, scales: Tensor) -> str | None:
        inputs, outputs = x.shape[-1], scales.shape[0]
        rows, size = x.numel() // inputs, int4_size(inputs, self.bits, self.group_size)
        if not rows or x.dtype not in (torch.float16, torch.bfloat16) or inputs % BLOCK or size is None:
            return None
        forms = ["tinygemm"] if rows == 1 and x.dtype is torch.bfloat16 and outputs % 8 == 0 else []
        forms += ["few"] if rows <= 64 else ["many"] if rows <= 256 and size >= 64 else []
        return next((form for form in [*forms, "spread"] if form not in _REFUSED), None)

    def _run(self, form: str, x: Tensor, packed: PackedWeight, bias: Tensor | None) -> Tensor:
        make = _tinygemm if form == "tinygemm" else _blocks
        codes, scales, zeros, size, order = self._kept.get((make, x.dtype), lambda: make(packed, x.dtype))
        rows = (x if order is None else x.index_select(-1, order)).reshape(-1, packed.inputs).contiguous()
        if form == "tinygemm":
            result = aten._weight_int4pack_mm(rows, codes, size, scales)
            result = result if bias is None else result + bias
        else:
            result = self._triton(form, rows, codes, scales, zeros, size, bias)
        return result.unflatten(0, x.shape[:-1]) if x.dim() != 2 else result

    def _triton(
        self, form: str, x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, size: int, bias: Tensor | None
    ) -> Tensor:
        from graphwright.lowering.eager.kernels import packed_linear_triton as kernels

        if form == "spread":
            return torch.nn.functional.linear(x, kernels.spread(codes, scales, zeros, size, x.dtype), bias)
        count, outputs = x.shape[0], codes.shape[0]
        tiles = tile_sizes(count, outputs, codes.shape[1] * 2)
        counts = self._kept.get("counts", lambda: torch.zeros(_MOST_TILES, dtype=torch.int32, device=x.device))
        return kernels.matrix(x, codes, scales, zeros, bias, size, counts, **tiles)


def tile_sizes(rows: int, outputs: int, inputs: int) -> dict[str, Any]:
    """How the Triton kernel divides a product, from what was measured on an H100."""
    if rows > 64:
        split = 1 if outputs >= 8192 else 4
        return {"rows": 128, "columns": 256, "split": split, "late": False, "warps": 8, "stages": 3}
    columns = 16 if rows <= 16 else 32 if rows <= 32 else 64
    if columns > 16:
        return {"rows": 64, "columns": columns, "split": 2 if outputs >= 8192 else 4, "late": False, "warps": 4}
    split = 2 if outputs >= 8192 else 4
    return {"rows": 32, "columns": 16, "split": split if inputs >= 2048 else 1, "late": True, "warps": 2}


def blocks_of(codes: Tensor) -> Tensor:
    """[N, K / 2]: byte `j` of each block of 128 columns holds column `j` and, in its high half, column `64 + j`."""
    halves = codes.reshape(codes.shape[0], -1, 2, BLOCK // 2)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1).contiguous()


def _blocks(packed: PackedWeight, dtype: torch.dtype) -> tuple[Any, ...]:
    """What the Triton kernels read."""
    from graphwright.lowering.eager.kernels.packed_linear_triton import MAGIC

    weight = int4(packed)
    scales = weight.scales.to(dtype)
    zeros = None
    if packed.zeros is not None or packed.bits != 4:
        middle = 8 - weight.offsets / weight.scales.where(weight.scales != 0, 1)
        zeros = (middle.round() + MAGIC[dtype]).to(dtype).t().contiguous()
    return blocks_of(weight.codes), scales.t().contiguous(), zeros, weight.group_size, weight.order


def _tinygemm(packed: PackedWeight, dtype: torch.dtype) -> tuple[Any, ...]:
    """What PyTorch's kernel reads."""
    weight = int4(packed)
    pairs = (weight.codes[:, ::2] << 4 | weight.codes[:, 1::2]).contiguous()  # the first column in the high half
    codes = aten._convert_weight_to_int4pack(pairs, _INNER_TILES)
    return codes, scales_and_offsets(weight, dtype), None, weight.group_size, weight.order
