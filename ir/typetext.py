"""Types of values as text: `f32[batch,12,sequence,64]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

_SHORT = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
    torch.complex64: "c64",
    torch.complex128: "c128",
}
_SYMBOL = re.compile(r"\b[A-Za-z_]\w*\b")
_SYMBOLIC = {torch.SymInt: "int", torch.SymFloat: "float", torch.SymBool: "bool"}


def type_text(value: Any, dim_names: Mapping[str, str]) -> str:
    """Type of a node's value as text.

    Args:
        value: What the node has in `meta["val"]`: a fake tensor, symbolic or plain number, or containers of these.
        dim_names: Symbol -> name of the dynamic dimensions.

    Returns:
        `f32[batch,768]` (`@cuda:0` added off the CPU), `int(past+sequence)` for symbolic numbers,
        `(f32[2], i64[2])` for several values, the Python type's name for other values, and `""` for no value.
    """
    if isinstance(value, torch.Tensor):
        return tensor_text(value, dim_names)
    symbolic = _SYMBOLIC.get(type(value))
    if symbolic:
        return f"{symbolic}({size_text(value, dim_names)})"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(type_text(item, dim_names) for item in value) + ")"
    return "" if value is None else type(value).__name__


def tensor_text(value: torch.Tensor, dim_names: Mapping[str, str]) -> str:
    """`f32[batch,768]`, with the device added unless it is the CPU."""
    sizes = ",".join([str(s) if type(s) is int else size_text(s, dim_names) for s in value.shape])
    device = value.device
    return f"{dtype_text(value.dtype)}[{sizes}]" + ("" if device.type == "cpu" else f"@{device}")


def dtype_text(dtype: torch.dtype) -> str:
    """Short name of a dtype: `f32`, `bf16`, `i64`, `float8_e4m3fn`."""
    return _SHORT.get(dtype) or str(dtype).removeprefix("torch.")


def size_text(size: Any, dim_names: Mapping[str, str]) -> str:
    """A size as an expression of dimension names: `past+sequence`."""
    text = _expression(size.node.expr) if hasattr(size, "node") else str(size)
    return dim_names.get(text) or _SYMBOL.sub(lambda match: dim_names.get(match[0], match[0]), text)


@lru_cache(maxsize=4096)
def _expression(expression: Any) -> str:
    return str(expression).replace(" ", "")
