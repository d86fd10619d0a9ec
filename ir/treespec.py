"""Pytree layouts as JSON, and back without importing anything that a file names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils import _pytree as pytree

from graphwright.ir.containers import provide
from graphwright.ir.encoding import decode, encode, freeze
from graphwright.ir.errors import FileFormatError, GraphwrightError

_BUILTIN: dict[str, type] = {"tuple": tuple, "list": list, "dict": dict}


def spec_to_json(spec: pytree.TreeSpec) -> Any:
    """A layout as `[type name, encoded context, children]`, None for a leaf.

    Raises:
        GraphwrightError: A container's class has no registered name, or its context is more than plain values.
    """
    if spec.is_leaf():
        return None
    try:
        context = encode(spec.context)
    except GraphwrightError as error:
        raise GraphwrightError(f"the layout of a {spec.type.__name__} cannot be written", why=error.what) from None
    return [_type_name(spec.type), context, [spec_to_json(child) for child in spec.children()]]


def spec_from_json(fields: Any) -> pytree.TreeSpec:
    """A layout that `spec_to_json` gave.

    Raises:
        FileFormatError: It is malformed, or a class is not registered as a pytree in this process, and no provider
            of `graphwright.ir.containers` registers it.
    """
    if fields is None:
        return pytree.treespec_leaf()
    name, context, children = fields
    return pytree.TreeSpec(_type_of(name), decode(freeze(context), {}), [spec_from_json(child) for child in children])


def type_names(fields: Any) -> Iterator[str]:
    """Names of the container classes in a layout's JSON, builtin ones left out."""
    if fields is not None:
        name, _, children = fields
        if name not in _BUILTIN:
            yield name
        for child in children:
            yield from type_names(child)


def _type_name(cls: type) -> str:
    if cls in _BUILTIN.values():
        return cls.__name__
    registered = pytree.SUPPORTED_SERIALIZED_TYPES.get(cls)
    name = registered.serialized_type_name if registered else pytree.NO_SERIALIZED_TYPE_NAME_FOUND
    if name == pytree.NO_SERIALIZED_TYPE_NAME_FOUND:
        raise GraphwrightError(
            f"{cls.__module__}.{cls.__qualname__} has no name for files",
            remedies=["register it with torch.utils._pytree.register_pytree_node(..., serialized_type_name=...)"],
        )
    return str(name)


def _type_of(name: str) -> type:
    found = _BUILTIN.get(name) or pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name)
    if found is None:
        provide(name)
        found = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name)
    if found is None:
        raise FileFormatError(
            f"the file uses the container class '{name}', which is not registered as a pytree here",
            remedies=["import the package that defines it, and register it, before loading"],
        )
    return found
