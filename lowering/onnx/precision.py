"""Artifacts of lower precision than their program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from graphwright.lowering.interface import Interface, Port
from graphwright.lowering.onnx.artifact import OnnxArtifact
from graphwright.lowering.onnx.calibrate import ranges_of
from graphwright.lowering.onnx.half import KEPT, to_half
from graphwright.lowering.onnx.integers import quantize
from graphwright.lowering.onnx.session import OnnxFile

if TYPE_CHECKING:
    from graphwright.lowering.onnx.target import OnnxTarget

_STATES = ("past_key_values.", "present.")


def reduced(
    target: OnnxTarget, model: ir.Model, interface: Interface, provenance: Mapping[str, Sequence[str]]
) -> OnnxArtifact:
    """The artifact of a float32 model in the precision that the target asks for.

    Raises:
        FileFormatError: The calibration inputs cannot be read.
    """
    if target.int8:
        ranges = ranges_of(model, interface, Path(target.calibration)) if target.int8 == "static" else None
        quantize(model, ranges)
        return _artifact(target, model, interface, provenance)
    dtype = getattr(torch, target.dtype)
    kept = {*KEPT, *filter(None, target.keep.split("+"))}
    emulated = model.clone() if dtype is torch.bfloat16 else None
    to_half(model, dtype, kept)
    artifact = _artifact(target, model, _with_half_states(interface, target.dtype), provenance)
    if emulated is not None:
        to_half(emulated, dtype, kept, emulate=True)
        artifact.emulated = _artifact(target, emulated, interface, provenance)
    return artifact


def _artifact(target: OnnxTarget, model: ir.Model, interface: Interface, provenance: Any) -> OnnxArtifact:
    file = OnnxFile(model, external_bytes=target.external_bytes)
    return OnnxArtifact(str(target), interface, provenance, file=file)


def _with_half_states(interface: Interface, dtype: str) -> Interface:
    """The interface with caches in half precision."""

    def changed(port: Port) -> Port:
        state = port.name.startswith(_STATES) and port.dtype == "float32"
        return replace(port, dtype=dtype) if state else port

    return replace(
        interface,
        inputs=tuple(changed(port) for port in interface.inputs),
        outputs=tuple(changed(port) for port in interface.outputs),
    )
