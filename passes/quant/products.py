"""Which matrix products a device has instructions for."""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether bfloat16 products are faster than float32 ones; PyTorch's fallback on a CPU is far slower."""
    return torch.device(device).type != "cpu" or torch.cpu._is_avx512_bf16_supported()
