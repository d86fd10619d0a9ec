"""`Module.to` in a traced `forward`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch


@contextmanager
def moves_skipped() -> Iterator[None]:
    """Let `Module.to` return at once where nothing would change: torch.export cannot trace it.

    A move that would change a parameter or buffer is as it was.
    """
    original = torch.nn.Module.to

    def to(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        return self if layout is None and _is_there(self, device, dtype) else original(self, *args, **kwargs)

    with patch.object(torch.nn.Module, "to", to):
        yield


def _is_there(module: torch.nn.Module, device: torch.device | None, dtype: torch.dtype | None) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    floating = [tensor for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    return all(device is None or tensor.device == device for tensor in tensors) and all(
        dtype is None or tensor.dtype == dtype for tensor in floating
    )
