"""Binding of call arguments to a program's inputs, and the checks that turn misuse into clear errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from graphwright.ir.errors import InputError
from graphwright.ir.guards import Guard, failed_guard
from graphwright.ir.signature import Example, Signature


def bind_arguments(signature: Signature, example: Example, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Flat leaves for a call, in placeholder order.

    Arguments are bound by position or by name, whichever way the program was captured; arguments that were
    captured without tensors in them (flags, None) may be left out and keep their captured value.

    Raises:
        InputError: An argument is missing, unknown, given twice, or has another structure than the captured one.
    """
    given = _by_name(signature, args, kwargs)
    count = len(example.args)
    captured = dict(zip(signature.parameters[:count], example.args, strict=True)) | dict(example.kwargs)
    for name in given:
        if name not in captured:
            if given[name] is None:
                continue
            raise InputError(
                f"argument '{name}' was not part of the captured call",
                why=f"the program takes {', '.join(captured)}",
                remedies=[f"capture the model again with '{name}' among the inputs"],
            )
    values = {name: given[name] if name in given else _default(name, value) for name, value in captured.items()}
    positional = tuple(values[name] for name in signature.parameters[:count])
    leaves, spec = pytree.tree_flatten((positional, {name: values[name] for name in example.kwargs}))
    if spec != signature.in_spec:
        raise InputError(
            "the arguments have another structure than the captured call",
            why=f"captured {signature.in_spec}, given {spec}",
            remedies=["capture the model again with inputs of this structure"],
        )
    return leaves


def _by_name(signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if len(args) > len(signature.parameters):
        raise InputError(f"{len(args)} positional arguments given, {len(signature.parameters)} expected")
    given = dict(zip(signature.parameters, args, strict=False))
    for name, value in kwargs.items():
        if name in given:
            raise InputError(f"argument '{name}' given twice, by position and by name")
        given[name] = value
    return given


def _default(name: str, captured: Any) -> Any:
    if any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(captured)):
        raise InputError(f"argument '{name}' is missing", remedies=[f"pass '{name}' as in the captured call"])
    return captured


def check_leaves(
    placeholders: Sequence[Node], leaves: Sequence[Any], dims: Sequence[Any], guards: Sequence[Guard] = ()
) -> None:
    """Compare leaves with the recorded types; equal symbols must have equal sizes, and the guards must hold.

    Raises:
        InputError: Names the input and dimension, the size found, and what is allowed.
    """
    if len(placeholders) != len(leaves):
        raise InputError(f"{len(leaves)} flat inputs given, {len(placeholders)} expected")
    ranges = {dim.symbol: dim for dim in dims}
    sizes: dict[str, tuple[int, str]] = {}
    for node, leaf in zip(placeholders, leaves, strict=True):
        expected = node.meta.get("val")
        if isinstance(expected, torch.Tensor):
            _check_tensor(node, expected, leaf, ranges, sizes)
        elif not isinstance(expected, torch.SymInt) and expected != leaf and "val" in node.meta:
            raise InputError(
                f"input '{node.target}' was captured as the constant {expected!r}, given {leaf!r}",
                remedies=["capture the model again with this value"],
            )
    _check_relations({text: size for text, (size, _) in sizes.items()}, sizes, ranges, guards)


def _check_relations(
    found: Mapping[str, int],
    sizes: Mapping[str, tuple[int, str]],
    ranges: Mapping[str, Any],
    guards: Sequence[Guard],
) -> None:
    """Check sizes that are expressions of others (`s11 + s70`), and the conditions on several sizes."""
    from graphwright.ir.symbols import parse_size

    symbols = {text: size for text, size in found.items() if text.isidentifier()}
    for text, (size, what) in sizes.items():
        if not text.isidentifier() and (want := parse_size(text, symbols)) != size:
            raise InputError(f"input {what} is {size}, but must be {want}", why=f"it is {_named(text, ranges)}")
    guard = failed_guard(guards, symbols)
    if guard is not None:
        raise InputError(
            "inputs of these sizes take another path through the model than the captured one",
            at=guard.source or None,
            why=f"captured for {_named(guard.condition, ranges)}",
            remedies=["capture the model again with inputs of these sizes"],
        )


def _named(text: str, ranges: Mapping[str, Any]) -> str:
    """An expression with the names of the dimensions in place of the symbols."""
    return re.sub(r"\w+", lambda found: ranges[found[0]].name if found[0] in ranges else found[0], text)


def _check_tensor(
    node: Node, expected: torch.Tensor, leaf: Any, ranges: Mapping[str, Any], sizes: dict[str, tuple[int, str]]
) -> None:
    name = str(node.target)
    if not isinstance(leaf, torch.Tensor):
        raise InputError(f"input '{name}' must be a tensor, given {type(leaf).__name__}")
    if leaf.dtype != expected.dtype:
        raise InputError(
            f"input '{name}' must have dtype {expected.dtype}, given {leaf.dtype}",
            remedies=[f"pass {name}.to({expected.dtype})"],
        )
    if leaf.dim() != expected.dim():
        raise InputError(f"input '{name}' must have {expected.dim()} dimensions, given {leaf.dim()}")
    for i, (want, have) in enumerate(zip(expected.shape, leaf.shape, strict=True)):
        _check_size(f"'{name}' dimension {i}", want, int(have), ranges, sizes)


def _check_size(what: str, want: Any, have: int, ranges: Mapping[str, Any], sizes: dict[str, tuple[int, str]]) -> None:
    if not isinstance(want, torch.SymInt):
        if want != have:
            raise InputError(
                f"input {what} is {have}, but the program was captured with the fixed size {want}",
                remedies=["capture the model with this dimension dynamic"],
            )
        return
    symbol = str(want.node.expr)
    dim = ranges.get(symbol)
    label = dim.name if dim else symbol
    if dim and (have < dim.min or (dim.max is not None and have > dim.max)):
        top = "any" if dim.max is None else dim.max
        raise InputError(f"input {what} ({label}) is {have}, allowed are {dim.min} to {top}")
    first, where = sizes.setdefault(symbol, (have, what))
    if first != have:
        raise InputError(f"input {what} is {have}, but {where} is {first}: both are the dimension '{label}'")
