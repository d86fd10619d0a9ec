"""Layers that are alike: they compute the same with other weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch

_PLAIN = (type(None), bool, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, Enum)
_CODE = (type, FunctionType, BuiltinFunctionType)
_TREE = ("_parameters", "_buffers", "_modules")
_INDEX = ("idx", "index", "layer_id", "layer_number", "block_id")
_POSITION = "the position of the layer"


def kind_of(layer: torch.nn.Module, position: int, count: int) -> Hashable | None:
    """A key that layers share if they are alike; None for a layer that is unlike any other.

    Two layers are alike if their modules have the same names, classes and attributes, and their tensors the same names
    and types. An attribute that tells the layer's position in its list, such as `layer_idx`, is taken to be the same.

    Args:
        layer: An item of a `ModuleList`.
        position: Its place there.
        count: How many items the list has.
    """
    parts: list[Hashable] = [*_settings(layer, position, count)]
    if getattr(layer, "gradient_checkpointing", False):
        return None
    for name, module in layer.named_modules(remove_duplicate=False):
        if "forward" in vars(module) or (has_hooks(module) and module is not layer):
            return None
        parts.append((name, type(module), *_attributes(module, position), *_tensors(module)))
    return tuple(parts)


def is_plain(value: Any) -> bool:
    """Whether a value is immutable and says all by itself."""
    return isinstance(value, (int, *_PLAIN, *_CODE)) and not isinstance(value, torch.nn.Module)


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether something else runs when the module is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _settings(layer: torch.nn.Module, position: int, count: int) -> Iterator[Hashable]:
    """What the configs of a layer say of its position."""
    configs = {id(config): config for module in layer.modules() if (config := vars(module).get("config")) is not None}
    for config in configs.values():
        for name, value in getattr(config, "__dict__", {}).items():
            if isinstance(value, (list, tuple)) and len(value) >= count:
                yield name, _key(value[position])


def _attributes(module: torch.nn.Module, position: int) -> Iterator[Hashable]:
    for name, value in vars(module).items():
        if name not in _TREE and "hooks" not in name:
            tells = type(value) is int and value == position and any(word in name for word in _INDEX)
            own = isinstance(value, MethodType) and value.__self__ is module
            yield name, _POSITION if tells else value.__func__ if own else _key(value)


def _key(value: Any) -> Hashable:
    """What is equal for equal plain values, and otherwise for the same object only."""
    if isinstance(value, partial):
        return partial, _key(value.func), _key(value.args), _key(value.keywords)
    if is_plain(value):
        return type(value), value
    if type(value) in (tuple, list):
        return type(value), tuple(map(_key, value))
    if type(value) is dict:
        return dict, tuple((_key(name), _key(item)) for name, item in value.items())
    return frozenset(value) if type(value) is set else id(value)


def _tensors(module: torch.nn.Module) -> Iterator[Hashable]:
    for group in (module._parameters, module._buffers):
        for name, tensor in group.items():
            if tensor is None:
                yield name, None
            else:
                yield (
                    name,
                    type(tensor),
                    tuple(tensor.shape),
                    tensor.stride(),
                    tensor.dtype,
                    str(tensor.device),
                    (tensor.requires_grad),
                )
