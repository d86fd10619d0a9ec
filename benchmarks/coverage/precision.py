"""Run anything in float64, whatever precision it asks for on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from graphwright.ir.program import Program

_LOWER = (torch.float32, torch.float16, torch.bfloat16)
_GROUPED = torch.ops.aten._grouped_mm.default


class Float64(TorchDispatchMode):
    """Every floating-point tensor made inside is float64.

    Models upcast to float32 in softmax and norms. In a float64 model that is a loss of precision, which a fused op does
    not repeat; with the cast to float64 as well, both sides compute the same in exact arithmetic, and what is left of
    a difference is an error.
    """

    def __enter__(self) -> Float64:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        torch.set_default_dtype(self._default)
        super().__exit__(*exception)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one op with float64 in place of lower precisions."""
        if func is torch.ops.aten._assert_tensor_metadata.default:
            return None
        kwargs = {name: _raised(value) for name, value in (kwargs or {}).items()}
        args = tuple(_raised(arg) for arg in args)
        result = grouped_product(*args, **kwargs) if func is _GROUPED else func(*args, **kwargs)
        if any(isinstance(arg, torch.Tensor) and arg.is_floating_point() for arg in pytree.tree_leaves((args, kwargs))):
            return result
        return pytree.tree_map_only(torch.Tensor, _double, result)


def grouped_product(
    rows: torch.Tensor, matrices: torch.Tensor, offs: torch.Tensor, bias: Any = None, out_dtype: Any = None
) -> torch.Tensor:
    """The product of each group of rows with its own matrix, which ATen does not have in float64.

    Args:
        rows: [rows, inner].
        matrices: [groups, inner, outer].
        offs: Where each group of rows ends.
        bias: None, the only one there is.
        out_dtype: Not heeded.
    """
    ends = [0, *offs.tolist()]
    result = rows.new_zeros(rows.shape[0], matrices.shape[-1])
    for matrix, start, end in zip(matrices, ends, ends[1:], strict=False):
        result[start:end] = rows[start:end] @ matrix
    return result


def _raised(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _LOWER else value


def _double(value: torch.Tensor) -> torch.Tensor:
    return value.double() if value.dtype in _LOWER else value


def uncached() -> AbstractContextManager[Any]:
    """Let models compute what they would remember from a call in another precision."""
    return patch("transformers.pytorch_utils.is_torchdynamo_compiling", lambda: True)


def double_model(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of the model in float64: parameters, buffers, and tensors that it keeps as plain attributes."""
    copied = copy.deepcopy(model).double()
    for module in copied.modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                setattr(module, name, _double(value))
    return copied


def double_program(program: Program) -> Program:
    """A copy of the program with float64 weights and constants."""
    copied = program.clone()
    for name, value in copied.state.items():
        if isinstance(value, torch.Tensor):
            copied.state[name] = _double(value.detach())
        elif isinstance(value, torch.nn.Module):
            copied.state[name] = copy.deepcopy(value).double()
    return copied


def double_leaves(leaves: list[Any]) -> list[Any]:
    """Inputs in float64 where they are floating point."""
    return [_double(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
