"""Values while an ONNX graph is executed: tensors, and small arrays of numbers that are known.

ONNX computes sizes with tensor operators (`Shape`, `Gather`, `Concat`, ...). Executing those on Python numbers keeps
sizes what they are for torch: ints and SymInts, not data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

SMALL = 64
"""Whole-number constants of at most this many elements are taken for sizes, axes and the like."""


@dataclass(frozen=True, eq=False)
class Known:
    """An array of Python numbers and SymInts.

    Args:
        items: Object array.
        dtype: Element type that the ONNX value has.
    """

    items: np.ndarray
    dtype: torch.dtype

    @staticmethod
    def of(values: Any, dtype: torch.dtype = torch.int64) -> Known:
        """Known numbers from nested lists, an array or one number."""
        if isinstance(values, np.ndarray):
            return Known(values.astype(object), dtype)
        shape: tuple[int, ...] = (len(values),) if isinstance(values, (list, tuple)) else ()
        values = values if isinstance(values, (list, tuple)) else [values]
        items = np.empty(len(values), dtype=object)
        items[:] = values
        return Known(items.reshape(shape), dtype)

    @property
    def is_constant(self) -> bool:
        """Whether no item depends on the sizes of the inputs."""
        return not any(isinstance(item, (torch.SymInt, torch.SymFloat, torch.SymBool)) for item in self.items.flat)

    def tensor(self) -> torch.Tensor:
        """The numbers as a tensor."""
        if self.is_constant:
            return torch.tensor(self.items.tolist(), dtype=self.dtype)
        scalars = [torch.scalar_tensor(item, dtype=self.dtype) for item in self.items.flat]
        return torch.stack(scalars).reshape(self.items.shape)


Value = torch.Tensor | Known | None


def tensor(value: Any) -> torch.Tensor:
    """A value as a tensor."""
    return value.tensor() if isinstance(value, Known) else value


def numbers(value: Any) -> list[Any]:
    """The numbers of a value, flat: ints and SymInts; of a tensor, the symbols for what is in it."""
    if isinstance(value, Known):
        return [item.item() if isinstance(item, np.generic) else item for item in value.items.flat]
    return value.reshape(-1).tolist()


def number(value: Any) -> Any:
    """The single number of a value."""
    return numbers(value)[0]


def dtype_of(value: Any) -> torch.dtype:
    """Element type of a value."""
    return value.dtype


def rank_of(value: Any) -> int:
    """Number of dimensions of a value."""
    return value.items.ndim if isinstance(value, Known) else value.dim()


def is_scalar(value: Any) -> bool:
    """Whether a value is known and has one element."""
    return isinstance(value, Known) and value.items.size == 1
