"""The linear layer of a quantized model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.packed import PackedWeight


class PackedLinear(nn.Module):
    """A linear on a packed weight: `graphwright::packed_linear`.

    Args:
        packed: The weight.
        bias: [N], None for none.
    """

    packed_weight: Tensor
    scales: Tensor
    zeros: Tensor | None
    group_index: Tensor | None
    bias: Tensor | None

    NAMES = ("packed_weight", "scales", "zeros", "group_index")

    def __init__(self, packed: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.bits, self.group_size = packed.bits, packed.group_size
        self.out_features, self.in_features = packed.scales.shape[0], packed.inputs
        self.register_buffer("packed_weight", packed.weight)
        self.register_buffer("scales", packed.scales)
        self.register_buffer("zeros", packed.zeros)
        self.register_buffer("group_index", packed.group_index)
        self.register_buffer("bias", bias)

    @property
    def packed(self) -> PackedWeight:
        """The weight as it is stored."""
        tensors = (self.packed_weight, self.scales, self.zeros, self.group_index)
        return PackedWeight(*tensors, self.bits, self.group_size, self.in_features)  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor:
        """The weight [N, K] in floating point, computed at each access."""
        return self.packed.dequantize().to(self.scales.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] -> [..., N], in the dtype of `input`."""
        tensors = (self.packed_weight, self.scales, self.zeros, self.group_index, self.bias)
        return torch.ops.graphwright.packed_linear(input, *tensors, self.bits, self.group_size)

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLinear:
        """Move with the model, but keep the dtype of the scales: codes were chosen for it."""
        scales = self.scales
        super()._apply(fn, recurse)
        self.scales = scales.to(self.packed_weight.device)
        return self

    def extra_repr(self) -> str:
        """Sizes for `print(model)`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"
