"""State of cache objects as tensors plus a structure of plain JSON values, and back.

Only classes of transformers, or classes that this process encoded itself, are ever made from a structure: one that was
read from a file cannot name anything else.
"""

from __future__ import annotations

import importlib
from collections import UserDict
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from graphwright.ir.errors import FileFormatError

_SIZES = {"cumulative_length": -2, "batch_size": 0}
_REBUILT = "_sliding_window_tensor"
_known: dict[str, type] = {}


def class_path(cls: type) -> str:
    """`module:Class`, which the layout names a class by."""
    return f"{cls.__module__}:{cls.__qualname__}"


class Encoder:
    """Turns one object into plain values; tensors and symbolic numbers are collected in `values`, in `paths` order."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.paths: list[tuple[Any, ...]] = []

    def encode(self, value: Any, path: tuple[Any, ...]) -> Any:
        """The structure of `value`.

        Raises:
            TypeError: There is something in it that neither a tensor nor a plain value can stand for.
        """
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)):
            self.values.append(value)
            self.paths.append(path)
            return {"leaf": len(self.values) - 1}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"device": None}
        if isinstance(value, (list, tuple)):
            return {type(value).__name__: [self.encode(item, (*path, i)) for i, item in enumerate(value)]}
        if isinstance(value, (dict, UserDict)):
            items = [[key, self.encode(item, (*path, key))] for key, item in value.items()]
            return {"items": items} if type(value) is dict else self._named("mapping", type(value), items)
        if isinstance(value, type):
            return self._named("type", value, None)
        if type(value).__module__.startswith("torch") or not hasattr(value, "__dict__") or callable(value):
            raise TypeError(f"a cache that holds a {type(value).__name__} ({'.'.join(map(str, path))}) is not a pytree")
        return self._named("object", type(value), self._state(value, path))

    def _named(self, kind: str, cls: type, state: Any) -> dict[str, Any]:
        _known[class_path(cls)] = cls
        return {kind: class_path(cls), "state": state}

    def _state(self, value: Any, path: tuple[Any, ...]) -> dict[str, Any]:
        """Attributes; sizes that follow from the keys are encoded as such, so that they stay dynamic."""
        state: dict[str, Any] = {}
        keys = getattr(value, "keys", None)
        for name, item in vars(value).items():
            if name == "layer_class_to_replicate" and getattr(value, "layers", None):
                state[name] = None
            elif name == _REBUILT:
                state[name] = {"window": None}
            elif name in _SIZES and _equals_size(item, keys, _SIZES[name]):
                state[name] = {"size": _SIZES[name]}
            else:
                state[name] = self.encode(item, (*path, name))
        return state


def _equals_size(item: Any, keys: Any, dim: int) -> bool:
    if isinstance(item, torch.Tensor) or not isinstance(keys, torch.Tensor) or keys.dim() != 4:
        return False
    return bool(statically_known_true(item == keys.shape[dim]))


class Decoder:
    """Makes the object of a structure again, around the given leaves."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def decode(self, structure: Any) -> Any:
        """The object.

        Raises:
            FileFormatError: The structure names a class that is no cache of transformers.
        """
        if not isinstance(structure, dict):
            return structure
        if "state" in structure:
            kind, path = next(iter(structure.items()))
            return getattr(self, f"_{kind}")(find_class(path), structure["state"])
        ((kind, content),) = structure.items()
        if kind == "leaf":
            return self.values[content]
        if kind == "dtype":
            return _dtype(content)
        if kind == "device":
            return next((leaf.device for leaf in self.values if isinstance(leaf, torch.Tensor)), torch.device("cpu"))
        if kind == "items":
            return {key: self.decode(item) for key, item in content}
        items = [self.decode(item) for item in content]
        return tuple(items) if kind == "tuple" else items

    def _type(self, cls: type, state: None) -> type:
        return cls

    def _mapping(self, cls: type, state: list[Any]) -> Any:
        return cls({key: self.decode(item) for key, item in state})

    def _object(self, cls: type, state: dict[str, Any]) -> Any:
        new: Any = object.__new__(cls)
        derived = {
            name: item for name, item in state.items() if isinstance(item, dict) and {*item} & {"size", "window"}
        }
        for name, item in state.items():
            new.__dict__[name] = None if name in derived else self.decode(item)
        for name, item in derived.items():
            new.__dict__[name] = torch.tensor(new.sliding_window) if "window" in item else new.keys.shape[item["size"]]
        return new


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise FileFormatError(f"a cache layout names the unknown dtype '{name}'")
    return dtype


def find_class(path: str) -> type:
    """The class that `module:Class` names.

    Raises:
        FileFormatError: It is neither a class of transformers nor one that was encoded before.
    """
    if path in _known:
        return _known[path]
    module, _, name = path.partition(":")
    found = None
    if module.startswith("transformers.") and name.isidentifier() and _is_source(module):
        found = getattr(importlib.import_module(module), name, None)
    if not isinstance(found, type) or not name.endswith(("Cache", "Layer", "Dict")):
        raise FileFormatError(f"a cache layout names '{path}', which is not a cache class of transformers")
    return found


def _is_source(module: str) -> bool:
    return module == "transformers.cache_utils" or module.split(".")[-1].startswith("modeling_")
