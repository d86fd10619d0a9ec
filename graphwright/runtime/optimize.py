"""`optimize` and `restore`: a drop-in face of a model, and the way back."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from graphwright.passes.pipeline import Pipeline
from graphwright.runtime.capture import face_class
from graphwright.runtime.dispatch import Dispatcher
from graphwright.runtime.generation.engine import Engine
from graphwright.runtime.generation.mixin import GeneratesFast

Model = TypeVar("Model", bound=nn.Module)


class Optimized:
    """Mixin of optimised models: `forward` goes through a dispatcher.

    An optimised model and its original are two faces of one set of attributes, so weights, mode, config and hooks are
    always the same for both.
    """

    _graphwright_original: nn.Module
    _graphwright_dispatcher: Dispatcher

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return optimize(copy.deepcopy(self._graphwright_original, memo), pipeline=self._graphwright_dispatcher.pipeline)

    def __copy__(self) -> Any:
        return optimize(copy.copy(self._graphwright_original), pipeline=self._graphwright_dispatcher.pipeline)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return optimize, (self._graphwright_original,)


def optimize(model: Model, inputs: Mapping[str, Any] | tuple[Any, ...] | None = None, *, pipeline: Any = None) -> Model:
    """A drop-in for `model` whose calls run captured, optimised and verified graphs.

    The first call of each kind runs the original forward, captures a graph, and compares the two; later calls of
    that kind run the graph. Calls that no graph can serve run the original forward, with one logged sentence.
    The weights are shared with `model`, which stays as it is.

    Args:
        model: A transformers model or any other module.
        inputs: Arguments (keywords as a mapping, or a tuple) to capture now instead of at the first call.
        pipeline: Passes to run, by default `Pipeline("default")`.

    Returns:
        An object of a subclass of the model's class that has the same attributes.
    """
    if isinstance(model, Optimized):
        return model
    if pipeline is None or isinstance(pipeline, str):
        pipeline = Pipeline(pipeline or "default")
    forward = type(model).forward
    dispatcher = Dispatcher(forward, type(model).__name__, pipeline)
    face: Model = object.__new__(_optimized_class(model, dispatcher))
    object.__setattr__(face, "__dict__", vars(model))
    if inputs is not None:
        args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (tuple(inputs), {})
        face(*args, **kwargs)
    return face


def restore(model: Model) -> Model:
    """The object that `optimize` was given, with its present weights; any other model is returned as it is."""
    return model._graphwright_original if isinstance(model, Optimized) else model


def dispatcher_of(model: nn.Module) -> Dispatcher:
    """The dispatcher of an optimised model: it counts captures and served calls and keeps the reasons it gave.

    Raises:
        TypeError: The model is not optimised.
    """
    if not isinstance(model, Optimized):
        raise TypeError(f"this {type(model).__name__} is not optimised; pass what optimize(model) returned")
    return model._graphwright_dispatcher


def _optimized_class(model: nn.Module, dispatcher: Dispatcher) -> type:
    original = type(model).forward

    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        serve = getattr(kwargs.get("past_key_values"), "graphwright_serve", None)
        return dispatcher(self, args, kwargs) if serve is None else serve(self, kwargs)

    forward.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    members: dict[str, Any] = {
        "forward": forward, "_graphwright_original": model, "_graphwright_dispatcher": dispatcher
    }  # fmt: skip
    if not hasattr(type(model), "_sample"):
        return face_class(type(model), members, (Optimized,))
    return face_class(type(model), members | {"_graphwright_engine": Engine(dispatcher)}, (Optimized, GeneratesFast))
