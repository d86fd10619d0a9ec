"""Exact, hashable, JSON-able encoding of the arguments that fx nodes take.

An encoded value is None, an int, a string (a reference to a node, by name), or a tuple whose first item is a tag:
`("float", "0.125")`, `("list", 1, 2)`, `("dtype", "float32")`. Tags keep `1`, `1.0` and `True` apart, which Python's
own equality does not. JSON turns the tuples into lists; `freeze` turns them back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node
from torch.fx.immutable_collections import immutable_dict, immutable_list

from graphwright.ir.errors import FileFormatError, GraphwrightError

Encoded = Any

DTYPES = {str(v)[6:]: v for v in vars(torch).values() if isinstance(v, torch.dtype)}
_LAYOUTS = {str(v)[6:]: v for v in vars(torch).values() if isinstance(v, torch.layout)}
_FORMATS = {str(v)[6:]: v for v in vars(torch).values() if isinstance(v, torch.memory_format)}


def encode(value: Any) -> Encoded:
    """Encode one argument of a node.

    Raises:
        GraphwrightError: The value is of a kind that programs cannot hold.
    """
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        raise GraphwrightError(
            f"a {type(value).__name__} cannot be an argument of a node in a program",
            why="nodes take other nodes, numbers, strings, None, slices, dtypes, devices, and containers of these",
            remedies=["pass tensors and objects through the state of the program"],
        )
    return encoder(value)


def _sequence(tag: str) -> Callable[[Any], Encoded]:
    return lambda items: (tag, *[encode(item) for item in items])


def _mapping(items: Mapping[Any, Any]) -> Encoded:
    return ("dict", *[(encode(key), encode(value)) for key, value in items.items()])


def _torch_name(tag: str) -> Callable[[Any], Encoded]:
    return lambda value: (tag, str(value).removeprefix("torch."))


_ENCODERS: dict[type, Callable[[Any], Encoded]] = {
    Node: lambda node: node.name,
    int: lambda value: value,
    type(None): lambda value: None,
    bool: lambda value: ("bool", "true" if value else "false"),
    float: lambda value: ("float", repr(value)),
    complex: lambda value: ("complex", repr(value.real), repr(value.imag)),
    str: lambda value: ("str", value),
    type(...): lambda value: ("ellipsis",),
    list: _sequence("list"),
    immutable_list: _sequence("list"),
    tuple: _sequence("tuple"),
    torch.Size: _sequence("tuple"),
    dict: _mapping,
    immutable_dict: _mapping,
    slice: lambda value: ("slice", encode(value.start), encode(value.stop), encode(value.step)),
    torch.dtype: _torch_name("dtype"),
    torch.layout: _torch_name("layout"),
    torch.memory_format: _torch_name("memory_format"),
    torch.device: lambda value: ("device", str(value)),
}


def decode(encoded: Encoded, nodes: Mapping[str, Any]) -> Any:
    """Decode what `encode` made; references are looked up in `nodes`.

    Raises:
        FileFormatError: The value is malformed or refers to a node that is not in `nodes`.
    """
    if encoded is None or type(encoded) is int:
        return encoded
    if isinstance(encoded, str):
        if encoded not in nodes:
            raise FileFormatError(f"an argument refers to %{encoded}, which is not defined before it")
        return nodes[encoded]
    try:
        tag, *items = encoded
        return _DECODERS[tag](items, nodes)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise FileFormatError(
            f"cannot read the argument {encoded!r}", why=f"{type(error).__name__}: {error}"
        ) from error


def _items(items: list[Encoded], nodes: Mapping[str, Any]) -> list[Any]:
    return [decode(item, nodes) for item in items]


_DECODERS: dict[str, Callable[[list[Encoded], Mapping[str, Any]], Any]] = {
    "bool": lambda items, _: {"true": True, "false": False}[items[0]],
    "float": lambda items, _: float(items[0]),
    "complex": lambda items, _: complex(float(items[0]), float(items[1])),
    "str": lambda items, _: str(items[0]),
    "ellipsis": lambda items, _: ...,
    "list": _items,
    "tuple": lambda items, nodes: tuple(_items(items, nodes)),
    "dict": lambda items, nodes: {decode(key, nodes): decode(value, nodes) for key, value in items},
    "slice": lambda items, nodes: slice(*_items(items, nodes)),
    "dtype": lambda items, _: DTYPES[items[0]],
    "layout": lambda items, _: _LAYOUTS[items[0]],
    "memory_format": lambda items, _: _FORMATS[items[0]],
    "device": lambda items, _: torch.device(items[0]),
}


def freeze(value: Any) -> Encoded:
    """An encoded value as read from JSON, with its lists turned back into tuples."""
    return tuple(freeze(item) for item in value) if isinstance(value, (list, tuple)) else value


def references(encoded: Encoded) -> list[str]:
    """Names of the nodes that an encoded value refers to, in order, repeats included."""
    found: list[str] = []
    _collect(encoded, found)
    return found


def _collect(encoded: Encoded, found: list[str]) -> None:
    if isinstance(encoded, str):
        found.append(encoded)
    elif isinstance(encoded, tuple) and encoded[0] in _CONTAINERS:
        for item in encoded[1:]:
            for part in item if encoded[0] == "dict" else (item,):
                _collect(part, found)


_CONTAINERS = frozenset({"list", "tuple", "dict", "slice"})


def substitute(encoded: Encoded, swap: Callable[[str], Encoded]) -> Encoded:
    """An encoded value with each reference replaced by what `swap` gives for its name."""
    if isinstance(encoded, str):
        return swap(encoded)
    if not isinstance(encoded, tuple) or encoded[0] not in _CONTAINERS:
        return encoded
    if encoded[0] == "dict":
        return ("dict", *[(substitute(k, swap), substitute(v, swap)) for k, v in encoded[1:]])
    return (encoded[0], *[substitute(item, swap) for item in encoded[1:]])
