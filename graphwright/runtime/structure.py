"""Arguments and results as a hashable template and a flat list of tensors, and back.

A template is a tuple whose first item says what it stands for: a tensor, a constant, a container, a cache, or the
n-th cache that the caller passed in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from graphwright.runtime.caches import Unservable, flatten_cache, is_cache, make_cache

Template = tuple[Any, ...]

_TENSOR: Template = ("tensor",)
_CONSTANTS = (bool, int, float, str, type(None), torch.dtype, torch.device)
_TENSOR_TYPES = (torch.Tensor, torch.nn.Parameter)


def flatten(value: Any, tensors: list[torch.Tensor], caches: Sequence[Any] = ()) -> Template:
    """Append the tensors in `value` to `tensors` and return the template of the rest.

    Args:
        value: An argument or a result.
        tensors: Takes the tensors.
        caches: Caches to refer to by position instead of flattening them.

    Raises:
        Unservable: There is something in `value` that is neither a tensor, a constant, a container nor a cache.
    """
    if isinstance(value, _TENSOR_TYPES):
        if type(value) not in _TENSOR_TYPES and not _is_fake(value):
            raise Unservable(f"a tensor is a {type(value).__name__}")
        tensors.append(value)
        return _TENSOR
    if type(value) in _CONSTANTS or value is None:
        return ("constant", type(value), value)
    if type(value) in (tuple, list):
        return ("sequence", type(value), tuple(flatten(item, tensors, caches) for item in value))
    if isinstance(value, dict):
        return _flatten_mapping(value, tensors, caches)
    if is_cache(value):
        for i, cache in enumerate(caches):
            if value is cache:
                return ("given", i)
        return ("cache", flatten_cache(value, tensors))
    raise Unservable(f"a value is a {type(value).__name__}")


def _flatten_mapping(value: dict[str, Any], tensors: list[torch.Tensor], caches: Sequence[Any]) -> Template:
    if type(value) is not dict and not dataclasses.is_dataclass(value):
        raise Unservable(f"a value is a {type(value).__name__}")
    items = tuple(flatten(item, tensors, caches) for item in value.values())
    return ("mapping", type(value), tuple(value), items)


def _is_fake(value: torch.Tensor) -> bool:
    """Whether a tensor is one that torch.export traces with."""
    return isinstance(value, torch._subclasses.FakeTensor) or type(value).__name__ == "FunctionalTensor"


def rebuild(template: Template, tensors: Iterator[torch.Tensor], caches: Sequence[Any] = ()) -> Any:
    """The value that `flatten` took apart, with other tensors; new containers, and new caches unless given."""
    kind = template[0]
    if kind == "tensor":
        return next(tensors)
    if kind == "constant":
        return template[2]
    if kind == "given":
        return caches[template[1]]
    if kind == "cache":
        return make_cache(template[1], tensors)
    if kind == "sequence":
        return template[1](rebuild(item, tensors, caches) for item in template[2])
    items = {key: rebuild(item, tensors, caches) for key, item in zip(template[2], template[3], strict=True)}
    return items if template[1] is dict else template[1](**items)
