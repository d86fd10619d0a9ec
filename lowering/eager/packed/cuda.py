"""Packed linears on a GPU, in half precision.

| rows | what runs |
|---|---|
| 1 | our Triton kernel for a row, alone or together with what is around it |
| to 64 | our Triton kernel: codes are unpacked in registers, sums in float32 |
| to 512 | the same with larger tiles |
| more | our Triton kernel dequantizes, then one product |

The first call of each form and tile is compared with the reference; a form that differs, or does not run here, is left
out with one logged sentence. Weights that the kernels cannot express run as the reference does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphwright.ir.packed import PackedWeight, packed_linear
from graphwright.lowering.eager.kernels.gemv import reference
from graphwright.lowering.eager.packed.blocks import BLOCK, Blocks, blocks
from graphwright.lowering.eager.packed.kept import Kept
from graphwright.lowering.eager.packed.layout import int4_size

logger = logging.getLogger("graphwright")

_MOST_TILES = 1 << 16
_TOLERANCE = 2e-2  # of the largest element: scales are rounded to the dtype of the product
_REFUSED: set[str] = set()

Run = Callable[[], Tensor]


class Checked:
    """Runs forms, each checked at the first call of every kernel that it has."""

    def __init__(self) -> None:
        self._checked: set[tuple[str, Any]] = set()

    def __call__(self, form: str, run: Run, reference: Run, x: Tensor, kernel: Any = None) -> Tensor:
        """What `run` gives; at the first call, and while a graph is captured before it, what `reference` gives."""
        if (form, kernel) in self._checked:
            return run()
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return reference()
        expected = reference()
        try:
            result = run()
            difference = float((result.float() - expected.float()).abs().max())
            if difference <= _TOLERANCE * float(expected.float().abs().max()):
                self._checked.add((form, kernel))
                return result
            reason = f"its result differs by {difference:.3g}"
        except Exception as error:  # a compiler, a driver, or a GPU that a kernel does not know
            reason = f"{type(error).__name__}: {str(error)[:200]}"
        _REFUSED.add(form)
        logger.warning("Packed linears run without the form '%s': %s", form, reason)
        return expected


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
        self._checked = Checked()

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
        form = form_of(x, self.bits, self.group_size)
        if form is None:
            return reference()
        run = lambda: self._run(form, x, weight, scales, zeros, group_index, bias)  # noqa: E731
        rows, inputs = x.numel() // x.shape[-1], x.shape[-1]
        kernel = tuple(tile_sizes(rows, len(scales), inputs).values()) if form in ("few", "many") else None
        return self._checked(form, run, reference, x, kernel)

    def blocks(
        self, x: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor | None, group_index: Tensor | None = None
    ) -> Blocks:
        """The weight as the kernels read it, made once."""
        packed = PackedWeight(weight, scales, zeros, group_index, self.bits, self.group_size, x.shape[-1])
        self._kept.refresh(packed)
        return self._kept.get(("blocks", x.dtype), lambda: blocks(packed, x.dtype))

    def _run(
        self,
        form: str,
        x: Tensor,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        group_index: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        stored = self.blocks(x, weight, scales, zeros, group_index)
        rows = (x if stored.order is None else x.index_select(-1, stored.order)).reshape(-1, x.shape[-1]).contiguous()
        return self._multiply(form, rows, stored, bias).reshape(*x.shape[:-1], -1)

    def _multiply(self, form: str, x: Tensor, stored: Blocks, bias: Tensor | None) -> Tensor:
        from graphwright.lowering.eager.kernels import packed_linear_gemv_triton, packed_linear_triton

        codes, scales, zeros, size = stored.codes, stored.scales, stored.zeros, stored.group_size
        if form == "row":
            return packed_linear_gemv_triton.launch(x, [codes], [scales], [zeros], [bias], size)
        if form == "spread":
            weight = packed_linear_triton.spread(codes, scales, zeros, size, x.dtype)
            return torch.nn.functional.linear(x, weight, bias)
        tiles = tile_sizes(x.shape[0], codes.shape[0], codes.shape[1] * 2)
        counts = self._kept.get("counts", lambda: torch.zeros(_MOST_TILES, dtype=torch.int32, device=x.device))
        return packed_linear_triton.matrix(x, codes, scales, zeros, bias, size, counts, **tiles)


class CudaPackedGemv:
    """Runs `graphwright::packed_gemv` on a GPU: one kernel for a row, the kernels of linears for more.

    Args:
        bits: Bits of a code.
        group_size: Inputs of a group.
        count: How many weights there are.
    """

    __name__ = "cuda_packed_gemv"

    def __init__(self, bits: int, group_size: int, count: int) -> None:
        self.bits, self.group_size = bits, group_size
        self._calls = [CudaPackedCall(bits, group_size) for _ in range(count)]
        self._checked = Checked()

    def __call__(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        scales: Sequence[Tensor],
        zeros: Sequence[Tensor | None],
        biases: Sequence[Tensor | None],
        *_: int,
        **options: Any,
    ) -> Tensor:
        """`graphwright::packed_gemv` on a GPU; see there for the arguments."""
        parts = list(zip(self._calls, weights, scales, zeros, strict=True))

        def apart() -> Tensor:
            return reference(x, parts, biases, linear=_linear, **options)

        def together() -> Tensor:
            from graphwright.lowering.eager.kernels.packed_linear_gemv_triton import launch

            stored = [call.blocks(x, weight, scale, zero) for call, weight, scale, zero in parts]
            codes, scales, zeros = ([getattr(item, name) for item in stored] for name in ("codes", "scales", "zeros"))
            return launch(x.contiguous(), codes, scales, zeros, biases, stored[0].group_size, **options)

        one = form_of(x, self.bits, self.group_size) == "row"
        return self._checked("row", together, apart, x) if one else apart()


def _linear(x: Tensor, part: tuple[Any, ...], bias: Tensor | None) -> Tensor:
    call, *tensors = part
    return call(x, *tensors, None, bias)


def form_of(x: Tensor, bits: int, group_size: int) -> str | None:
    """Name of what multiplies this input with a packed weight; None for the reference."""
    inputs = x.shape[-1]
    rows, size = x.numel() // inputs, int4_size(inputs, bits, group_size)
    if not rows or x.dtype not in (torch.float16, torch.bfloat16) or inputs % BLOCK or size is None:
        return None
    forms = ["row"] if rows == 1 and size >= BLOCK else []
    forms += ["few"] if rows <= 64 else ["many"] if rows <= 512 and size >= 64 else []
    return next((form for form in [*forms, "spread"] if form not in _REFUSED), None)


def tile_sizes(rows: int, outputs: int, inputs: int) -> dict[str, Any]:
    """How the Triton kernel divides a product, the best of `benchmarks.packed_tiles` on an H100."""
    wide, deep = outputs >= 8192, inputs >= 8192
    if rows <= 16:
        split = 4 if wide or not deep else 8
        return {"rows": 64, "columns": 16, "split": split if inputs >= 2048 else 1, "late": True, "warps": 4}
    columns, split, warps = _wide_tile(rows) if wide else _narrow_tile(rows, deep)
    stages = 3 if columns > 64 else 4
    return {"rows": 128, "columns": columns, "split": split, "late": False, "warps": warps, "stages": stages}


def _wide_tile(rows: int) -> tuple[int, int, int]:
    """(rows of a tile, programs for a tile, warps) where outputs alone fill the GPU."""
    if rows <= 64:
        return (32 if rows <= 32 else 64), 2, 8
    return 128, 1, 8 if rows <= 128 else 4


def _narrow_tile(rows: int, deep: bool) -> tuple[int, int, int]:
    """The same where inputs must be divided too; `deep` means that there are many."""
    if rows <= 128:
        return (32 if rows <= 64 else 64), 4, 8
    if rows <= 256:
        return (128, 4, 4) if deep else (128, 2, 8)
    return 128, 1, 8
