"""Names of targets: the built-in ones, those registered at run time, and those of other packages.

Another package offers a target through the entry-point group `graphwright.targets`:

    [project.entry-points."graphwright.targets"]
    my-target = "my_package.module:MyTarget"
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from graphwright.ir.errors import GraphwrightError
from graphwright.lowering.target import Target
from graphwright.passes.spec import build, parse_call

GROUP = "graphwright.targets"

BUILT_IN = {
    "eager": "graphwright.lowering.eager.target:EagerTarget",
    "furiosa": "graphwright.lowering.furiosa.target:FuriosaTarget",
    "hpu": "graphwright.lowering.hpu.target:HpuTarget",
    "neuron": "graphwright.lowering.neuron.target:NeuronTarget",
    "onnx": "graphwright.lowering.onnx.target:OnnxTarget",
    "openvino": "graphwright.lowering.openvino.target:OpenVINOTarget",
    "tflite": "graphwright.lowering.tflite.target:TFLiteTarget",
}

_registered: dict[str, type[Target]] = {}

T = TypeVar("T", bound=type[Target])


def register_target(name: str, *, replace: bool = False) -> Callable[[T], T]:
    """Decorator that makes a Target class known by name.

    Raises:
        GraphwrightError: The name is taken by another target.
    """

    def register(cls: T) -> T:
        taken = _registered.get(name)
        if not replace and (name in BUILT_IN or (taken and taken.__qualname__ != cls.__qualname__)):
            raise GraphwrightError(f"a target named '{name}' is registered already", remedies=["choose another name"])
        cls.name = name
        _registered[name] = cls
        return cls

    return register


def target_names() -> list[str]:
    """Names of all targets, sorted."""
    return sorted({*BUILT_IN, *_registered, *(point.name for point in _entry_points())})


def target(spec: str | Target) -> Target:
    """The target that a text such as `onnx{opset=23}` stands for.

    Raises:
        GraphwrightError: No such target; names the nearest ones.
        PipelineError: The text is not well formed, or an option is unknown.
    """
    if isinstance(spec, Target):
        return spec
    call = parse_call(spec)
    return build(find_target(call.name), call)


def find_target(name: str) -> type[Target]:
    """The target class of a name, imported when first asked for.

    Raises:
        GraphwrightError: No such target; names the nearest ones.
    """
    if name in _registered:
        return _registered[name]
    if name in BUILT_IN:
        module, _, cls = BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(module), cls)
    for point in _entry_points():
        if point.name == name:
            return _from_entry_point(point)
    near = difflib.get_close_matches(name, target_names(), n=3, cutoff=0.4)
    raise GraphwrightError(
        f"there is no target named '{name}'",
        why=f"known are {', '.join(target_names())}",
        remedies=[f"did you mean '{other}'?" for other in near],
    )


def _entry_points() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))


def _from_entry_point(point: EntryPoint) -> type[Target]:
    try:
        cls = point.load()
    except Exception as error:
        raise GraphwrightError(
            f"the target '{point.name}' cannot be imported", at=point.value, why=f"{type(error).__name__}: {error}"
        ) from error
    if point.name not in _registered:
        register_target(point.name)(cls)
    return _registered[point.name]
