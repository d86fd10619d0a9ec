"""Fixtures that tests of several folders share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from graphwright.ir.program import Program
from graphwright.ir.signature import Example


def export_program(module: torch.nn.Module, *args: Any, dynamic: tuple[int, ...] = (), **kwargs: Any) -> Program:
    """Export a module; `dynamic` are the dims that stay dynamic in each tensor among the arguments."""

    def dims(value: Any) -> Any:
        return {i: torch.export.Dim.AUTO for i in dynamic if i < value.dim()} if torch.is_tensor(value) else None

    names = list(inspect.signature(module.forward).parameters)
    shapes = pytree.tree_map(dims, dict(zip(names, args, strict=False)) | kwargs)
    exported = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    return Program.from_exported(exported, example=Example(args, kwargs), name=type(module).__name__)


class Function(torch.nn.Module):
    """A function as a module; with state, the function takes the module that holds it first."""

    def __init__(self, function: Callable[..., Any], state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            if isinstance(tensor, torch.nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        self.forward = MethodType(function, self) if state else function


@pytest.fixture(scope="session")
def trace_module() -> Callable[..., Program]:
    """trace_module(module, *args, dynamic=(), **kwargs): the program of a module."""
    return export_program


@pytest.fixture(scope="session")
def trace() -> Callable[..., Program]:
    """trace(function, *args, dynamic=(), **state): the program of a function of tensors."""

    def make(function: Callable[..., Any], *args: Any, dynamic: tuple[int, ...] = (), **state: torch.Tensor) -> Program:
        return export_program(Function(function, state), *args, dynamic=dynamic)

    return make
