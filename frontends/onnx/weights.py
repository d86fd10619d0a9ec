"""Constants of an ONNX model as tensors: external data is mapped, not read, and shared by all its users."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import to_torch_dtype

from graphwright.frontends.onnx.values import SMALL, Known
from graphwright.ir.errors import FileFormatError

_FOUR_BITS = {ir.DataType.INT4: torch.int8, ir.DataType.UINT4: torch.uint8}


@dataclass(frozen=True, eq=False)
class Transposed:
    """A matrix that is only ever the second operand of a product, held as `linear` takes it: [out, in]."""

    weight: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Element type."""
        return self.weight.dtype


def as_known(data: Any) -> Known | None:
    """A constant as known numbers: few whole numbers, or one number; None for all others."""
    if data.dtype in _FOUR_BITS or data.dtype is ir.DataType.STRING:
        return None
    count = int(np.prod([int(n) for n in data.shape], dtype=np.int64)) if len(data.shape) else 1
    whole = data.dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
    if not (count == 1 or (whole and count <= SMALL and len(data.shape) <= 1)):
        return None
    array = np.asarray(data.numpy())
    items = np.empty(array.shape, dtype=object)
    items[...] = array.astype(np.float64 if not whole else array.dtype).tolist()
    return Known(items, to_torch_dtype(data.dtype))


def as_tensor(data: Any) -> torch.Tensor:
    """A constant as a tensor; 4-bit integers get one byte each.

    Raises:
        FileFormatError: The data is outside its folder, missing, or shorter than its type says.
    """
    if isinstance(data, ir.ExternalTensor):
        return _mapped(data)
    array = np.array(data.numpy())
    if data.dtype in _FOUR_BITS:
        return torch.from_numpy(array.astype(np.int8 if data.dtype is ir.DataType.INT4 else np.uint8))
    dtype = to_torch_dtype(data.dtype)
    if array.dtype.kind == "V" or array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        width = np.dtype(f"u{array.dtype.itemsize}")
        return torch.from_numpy(array.view(width)).view(dtype)
    return torch.from_numpy(array)


def _mapped(data: ir.ExternalTensor) -> torch.Tensor:
    """External data, copied only where somebody writes to it."""
    path, shape = external_path(data), [int(n) for n in data.shape.numpy()]
    offset, count = data.offset or 0, data.nbytes
    if path.stat().st_size < offset + count:
        raise FileFormatError(
            f"the data of '{data.name}' is cut short",
            at=str(path),
            why=f"it ends at byte {offset + count}, the file at {path.stat().st_size}",
        )
    if data.dtype in _FOUR_BITS:
        return torch.from_numpy(np.array(data.numpy()).astype(np.int8 if data.dtype is ir.DataType.INT4 else np.uint8))
    dtype = to_torch_dtype(data.dtype)
    if not count:
        return torch.empty(shape, dtype=dtype)
    raw: np.ndarray = np.memmap(path, np.uint8, "c", offset, (count,))
    if offset % dtype.itemsize:
        raw = np.array(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(raw).view(dtype).reshape(shape)


def external_path(data: ir.ExternalTensor) -> Path:
    """The file of external data.

    Raises:
        FileFormatError: It is not there, or not inside the model's folder.
    """
    base = Path(data.base_dir or ".").resolve()
    path = (base / data.location).resolve()
    if not path.is_relative_to(base):
        raise FileFormatError(f"the data of '{data.name}' lies outside the model's folder", at=str(data.location))
    if not path.is_file():
        raise FileFormatError(f"the data of '{data.name}' is missing", at=str(path))
    return path


def only_right_operand(value: ir.Value) -> bool:
    """Whether a matrix is only the second operand of MatMul, or of Gemm untransposed."""
    return bool(value.uses()) and all(
        use.idx == 1
        and use.node.domain == ""
        and (use.node.op_type == "MatMul" or (use.node.op_type == "Gemm" and not _transposed(use.node)))
        for use in value.uses()
    )


def _transposed(node: ir.Node) -> bool:
    attribute = node.attributes.get("transB")
    return attribute is not None and bool(attribute.value)
