"""What a solver returns: the integer codes, scales and zero points of one linear."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphwright.ir.errors import PassError


@dataclass(frozen=True, eq=False)
class QuantizedLinear:
    """A weight `[N, K]` as `(codes - zeros) * scales`, one scale and zero point per output and group of inputs.

    Args:
        codes: uint8 `[N, K]`, each in `0 .. 2**bits - 1`.
        scales: Floating point `[N, G]`, in the dtype in which they are stored.
        zeros: uint8 `[N, G]`, or None for the middle code `2**(bits - 1)`.
        group_index: int32 `[K]`, the group of each input, or None for `k // group_size`.
        bits: Bits of a code, 2 to 8.
        group_size: Inputs of a group; K for one group per output.
        error: Relative error of the output on the calibration data, `|(W - Q) X| / |W X|`; None if unknown.
        rtn_error: The same for the plain rounded weight.
        damping: Part of the Hessian's mean diagonal that was added to it.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    group_index: Tensor | None
    bits: int
    group_size: int
    error: float | None = None
    rtn_error: float | None = None
    damping: float = 0.0

    def __post_init__(self) -> None:
        outputs, inputs = self.codes.shape
        groups = -(-inputs // self.group_size)
        expected = {"scales": (self.scales, (outputs, groups)), "zeros": (self.zeros, (outputs, groups))}
        for name, (tensor, shape) in (expected | {"group_index": (self.group_index, (inputs,))}).items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise PassError(f"the {name} of a quantized linear have shape {tuple(tensor.shape)}, not {shape}")

    @property
    def groups(self) -> Tensor:
        """The group of each input, int64 `[K]`."""
        if self.group_index is not None:
            return self.group_index.long()
        return torch.arange(self.codes.shape[1], device=self.codes.device) // self.group_size

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight `[N, K]` that the codes stand for."""
        zeros = 2 ** (self.bits - 1) if self.zeros is None else self.zeros.to(dtype)[:, self.groups]
        return (self.codes.to(dtype) - zeros) * self.scales.to(dtype)[:, self.groups]

    def to(self, device: torch.device | str) -> QuantizedLinear:
        """The same on another device."""
        move = lambda tensor: None if tensor is None else tensor.to(device)  # noqa: E731
        moved: dict[str, Any] = {"zeros": move(self.zeros), "group_index": move(self.group_index)}
        return replace(self, codes=self.codes.to(device), scales=self.scales.to(device), **moved)
