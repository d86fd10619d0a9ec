"""Interfaces as plain data, and back without importing anything that a file names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.ir.signature import Signature
from graphwright.ir.treespec import spec_from_json, spec_to_json
from graphwright.lowering.interface import Constants, DimInfo, Interface, Port

PLAIN = (bool, int, float, str, type(None))


def interface_to_json(interface: Interface) -> dict[str, Any]:
    """Plain data that `interface_from_json` reads."""
    return {
        "inputs": [asdict(port) for port in interface.inputs],
        "outputs": [asdict(port) for port in interface.outputs],
        "dims": {name: asdict(info) for name, info in interface.dims.items()},
        "call": _call_to_json(interface),
    }


def _call_to_json(interface: Interface) -> dict[str, Any] | None:
    """The original call, None if its classes or constants have no plain form."""
    constants = [*interface.fixed_inputs.values(), *interface.fixed_outputs.values()]
    if interface.signature is None or not all(isinstance(value, PLAIN) for value in constants):
        return None
    try:
        specs = {name: spec_to_json(getattr(interface.signature, name)) for name in ("in_spec", "out_spec")}
    except GraphwrightError:
        return None
    return specs | {
        "parameters": list(interface.signature.parameters),
        "positional": interface.positional,
        "fixed_inputs": [list(item) for item in interface.fixed_inputs.items()],
        "fixed_outputs": [list(item) for item in interface.fixed_outputs.items()],
    }


def interface_from_json(data: Mapping[str, Any]) -> Interface:
    """Read what `interface_to_json` made; the original call is left out where its classes are not known here.

    Raises:
        FileFormatError: The data is not well formed.
    """
    try:
        call = data["call"] or {}
        return Interface(
            inputs=tuple(_port(item) for item in data["inputs"]),
            outputs=tuple(_port(item) for item in data["outputs"]),
            dims={
                str(name): DimInfo(**info | {"only": tuple(info.get("only", ()))})
                for name, info in data["dims"].items()
            },
            signature=_signature(call),
            positional=int(call.get("positional", 0)),
            fixed_inputs=_constants(call.get("fixed_inputs", ())),
            fixed_outputs=_constants(call.get("fixed_outputs", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError("the interface in the manifest is not well formed", why=repr(error)) from error


def _signature(call: Mapping[str, Any]) -> Signature | None:
    if not call:
        return None
    try:
        return Signature(tuple(call["parameters"]), spec_from_json(call["in_spec"]), spec_from_json(call["out_spec"]))
    except FileFormatError:  # the package that registers the classes is not imported
        return None


def _dim(info: Mapping[str, Any]) -> DimInfo:
    return DimInfo(**{**info, "only": tuple(info.get("only", ()))})


def _port(item: Mapping[str, Any]) -> Port:
    low_high = tuple(item["range"]) if item.get("range") else None
    return Port(str(item["name"]), str(item["dtype"]), tuple(item["shape"]), int(item["leaf"]), low_high)


def _constants(items: Any) -> Constants:
    return {int(leaf): value for leaf, value in items}
