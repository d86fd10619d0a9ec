"""Operators of Intel Gaudi's PyTorch bridge: what is published of them, and how to call what is installed.

Needs torch only, and lies beside every exported module. Where `habana_frameworks` is installed, its operators are used;
newer releases added arguments to the published ones, so `find` reads the installed schema and fits the call to it.
Elsewhere the published schemas are registered here with reference kernels for the CPU, made of ATen ops, so that
modules run and can be compared on any machine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from graphwright.lowering.hpu.hpu_kernels import KERNELS, SCHEMAS

NEUTRAL: dict[str, Any] = {"window_size": (-1, -1), "return_dropout_mask": False, "return_attn_probs": False}
"""Values of arguments that were added without a default, by name; an optional one is left out."""

_LIBRARY = torch.library.Library("hpu", "FRAGMENT")


class SchemaError(RuntimeError):
    """An installed operator cannot be called as the published one."""


# ---- calls ---------------------------------------------------------------------------------------


def find(name: str) -> Callable[..., Any]:
    """The operator `name`, to be called with the positional arguments of its published schema.

    Arguments that newer releases added are passed as keywords.

    Raises:
        SchemaError: The installed operator asks for something that no neutral value is known for.
    """
    operator = overload(name)
    if _places(name) == tuple((i, None) for i in range(len(_places(name)))):
        return operator

    def call(*arguments: Any, **added: Any) -> Any:
        return operator(*fitted(name, arguments, added))

    return call


def fitted(name: str, arguments: Sequence[Any], added: Mapping[str, Any] | None = None) -> list[Any]:
    """Positional arguments of the published schema, and added ones by name, as the installed operator takes them.

    Raises:
        SchemaError: See `find`.
    """
    named = zip(_places(name), overload(name)._schema.arguments, strict=True)
    given = added or {}
    return [given.get(one.name, value) if i is None else arguments[i] for (i, value), one in named]


def unfitted(name: str, arguments: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The opposite of `fitted`; added arguments that change nothing are left out."""
    found: dict[int, Any] = {}
    added: dict[str, Any] = {}
    for (i, value), one, given in zip(_places(name), overload(name)._schema.arguments, arguments, strict=False):
        if i is not None:
            found[i] = given
        elif given is not value and given != value:
            added[one.name] = given
    return [found[i] for i in sorted(found)], added


def takes(name: str, argument: str) -> bool:
    """Whether the installed operator has an argument of this name."""
    return any(one.name == argument for one in overload(name)._schema.arguments)


def overload(name: str) -> Any:
    """The installed overload.

    Raises:
        SchemaError: There is none.
    """
    base, _, kind = name.partition(".")
    packet = getattr(torch.ops.hpu, base, None)
    if packet is None or (kind or "default") not in packet.overloads():
        raise SchemaError(f"the installed bridge has no operator hpu::{name}")
    return getattr(packet, kind or "default")


@cache
def _places(name: str) -> tuple[tuple[int | None, Any], ...]:
    """For each installed argument its place among the published ones, or None and a value."""
    return places(torch._C.parse_schema(f"hpu::{SCHEMAS[name]}"), overload(name)._schema)


def places(published: Any, installed: Any) -> tuple[tuple[int | None, Any], ...]:
    """For each argument of one schema its place in another, or None and the value to pass.

    An argument of another name is the same one if place and type are.

    Raises:
        SchemaError: An argument has no place, or no value is known.
    """
    known = {argument.name: i for i, argument in enumerate(published.arguments)}
    names = {argument.name for argument in installed.arguments}
    found: list[tuple[int | None, Any]] = []
    for i, argument in enumerate(installed.arguments):
        before = published.arguments[i] if i < len(published.arguments) else None
        if argument.name in known:
            found.append((known[argument.name], None))
        elif before is not None and before.name not in names and str(before.type) == str(argument.type):
            found.append((i, None))
        else:
            found.append((None, _neutral(argument, installed)))
    lost = [known[name] for name in known if known[name] not in {i for i, _ in found}]
    if lost:
        raise SchemaError(f"{installed} does not take '{published.arguments[lost[0]].name}'")
    return tuple(found)


def _neutral(argument: Any, schema: Any) -> Any:
    if argument.has_default_value():
        return argument.default_value
    if str(argument.type).startswith("Optional"):
        return None
    if argument.name in NEUTRAL:
        return NEUTRAL[argument.name]
    raise SchemaError(f"'{argument.name}' of {schema} is new, and no value is known that changes nothing")


# ---- registration --------------------------------------------------------------------------------


def is_vendor() -> bool:
    """Whether Gaudi's own PyTorch bridge is installed."""
    return importlib.util.find_spec("habana_frameworks") is not None


def install() -> None:
    """Import the vendor's bridge where there is one, and register what it does not have for the CPU."""
    if is_vendor():
        importlib.import_module("habana_frameworks.torch.core")
    for name, kernel in KERNELS.items():
        try:
            overload(name)
        except SchemaError:
            if is_vendor():
                continue  # an operator that this release lacks must not seem to be there
            _LIBRARY.define(SCHEMAS[name])
            _LIBRARY.impl(name, kernel, "CPU")
            torch.library.register_fake(f"hpu::{name}", kernel, lib=_LIBRARY)


install()
