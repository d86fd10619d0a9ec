"""Capturing one call of a model as a program of plain tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from graphwright.frontends.export import export_program
from graphwright.ir.program import Program
from graphwright.runtime.caches import Unservable, flatten_cache
from graphwright.runtime.call import Call
from graphwright.runtime.structure import Template, flatten

Forward = Callable[..., Any]


class Layouts:
    """What the flat results of a graph stand for: the result's template, then the caches after the call."""

    def __init__(self, result: Template, caches: tuple[Any, ...]) -> None:
        self.result, self.caches = result, caches

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layouts) and (self.result, self.caches) == (other.result, other.caches)

    __hash__ = None  # type: ignore[assignment]


def take_apart(result: Any, caches: list[Any]) -> tuple[list[torch.Tensor], Layouts]:
    """Flat tensors of a result and of the caches the call has filled, and what they stand for."""
    tensors: list[torch.Tensor] = []
    template = flatten(result, tensors, caches)
    return tensors, Layouts(template, tuple(flatten_cache(cache, tensors) for cache in caches))


def capture_call(model: nn.Module, forward: Forward, call: Call) -> tuple[Program, Layouts]:
    """Trace `forward(model, ...)` on the tensors of a call.

    Sizes of at least 2 become dynamic where the traced code allows it; sizes of 1 stay fixed, because models branch on
    them (one new token or several). The model's weights are shared.

    Args:
        model: The model; it is not changed.
        forward: The function to trace; its first argument is the model.
        call: The call to trace.

    Raises:
        Unservable: The result holds something that a graph cannot return.
        CaptureError: torch.export failed.
    """
    names = call.tensor_names()
    found: list[Layouts] = []

    def flat_forward(self: nn.Module, **tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arguments, caches = call.arguments([tensors[name] for name in names])
        results, layouts = take_apart(forward(self, **arguments), caches)
        found.append(layouts)
        return tuple(results)

    kinds = inspect.Parameter
    signature = [kinds("self", kinds.POSITIONAL_ONLY), *(kinds(name, kinds.KEYWORD_ONLY) for name in names)]
    flat_forward.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    with torch.inference_mode(False):
        example = {
            name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
            for name, tensor in zip(names, call.tensors, strict=True)
        }
        program = _export(disguise(model, flat_forward), example)
    return program, found[-1]


def disguise(model: nn.Module, forward: Forward) -> nn.Module:
    """Another face of `model`: the same attributes and the same class name, but another `forward`."""
    cls = type(model)
    face: nn.Module = object.__new__(face_class(cls, {"forward": forward}))
    object.__setattr__(face, "__dict__", vars(model))
    return face


def face_class(cls: type, members: Mapping[str, Any], mixins: tuple[type, ...] = ()) -> type:
    """A subclass that passes for `cls`: same name, module and documentation."""
    disguise = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls)(cls.__name__, (*mixins, cls), disguise | dict(members))


def _export(module: nn.Module, example: dict[str, torch.Tensor]) -> Program:
    """Export on keyword tensors. The front end relates sizes by name, so a name must not promise what does not hold."""
    batch = next(iter(example.values())).shape[:1]
    dynamic: dict[str, dict[int, Any]] = {}
    for name, tensor in example.items():
        dims = [i for i in dynamic_dims(tensor) if i > 0 or tensor.shape[:1] == batch]
        dynamic[name] = dict.fromkeys(dims, torch.export.Dim.AUTO)
    return export_program(module, (), example, dynamic=dynamic, assume=False)  # a call must be served, not refused


def dynamic_dims(tensor: torch.Tensor) -> list[int]:
    """Dimensions to capture as dynamic: all but those of size 1, and of images only the batch.

    Raises:
        Unservable: The tensor is empty.
    """
    if tensor.numel() == 0:
        raise Unservable("a tensor is empty")
    is_image = tensor.is_floating_point() and tensor.dim() in (4, 5) and tensor.shape[1] in (1, 3)
    return [i for i, size in enumerate(tensor.shape) if size > 1 and (i == 0 or not is_image)]
