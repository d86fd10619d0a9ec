"""`optimize` and `restore`: a drop-in face of a model, and the way back."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from graphwright.ir.errors import GraphwrightError
from graphwright.lowering.eager.target import EagerTarget
from graphwright.lowering.registry import target as get_target
from graphwright.passes.padding.remove import RemovePadding
from graphwright.passes.pipeline import Pipeline
from graphwright.runtime.capture import face_class
from graphwright.runtime.dispatch import DEFAULT_TARGET, Dispatcher
from graphwright.runtime.generation.engine import Engine
from graphwright.runtime.generation.mixin import GeneratesFast
from graphwright.runtime.generation.prefill import prefilling

Model = TypeVar("Model", bound=nn.Module)


class Optimized:
    """Mixin of optimised models: `forward` goes through a dispatcher.

    An optimised model and its original are two faces of one set of attributes, so weights, mode, config and hooks are
    always the same for both.
    """

    _graphwright_original: nn.Module
    _graphwright_dispatcher: Dispatcher

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _again(self, copy.deepcopy(self._graphwright_original, memo))

    def __copy__(self) -> Any:
        return _again(self, copy.copy(self._graphwright_original))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return optimize, (self._graphwright_original,)


def _again(optimized: Optimized, model: nn.Module) -> nn.Module:
    """Another model optimised in the same way."""
    dispatcher = optimized._graphwright_dispatcher
    return optimize(model, pipeline=dispatcher.pipeline, target=dispatcher.target)


def optimize(
    model: Model,
    inputs: Mapping[str, Any] | tuple[Any, ...] | None = None,
    *,
    pipeline: Any = None,
    target: str | EagerTarget = DEFAULT_TARGET,
    remove_padding: bool = False,
) -> Model:
    """A drop-in for `model` whose calls run captured, optimised and verified graphs.

    The first call of each kind runs the original forward, captures a graph, and compares the two; later calls of
    that kind run the graph. Calls that no graph can serve run the original forward, with one logged sentence.
    The weights are shared with `model`, which stays as it is.

    Args:
        model: A transformers model or any other module.
        inputs: Arguments (keywords as a mapping, or a tuple) to capture now instead of at the first call.
        pipeline: Passes to run, by default `Pipeline("default")`, and on a GPU those that find what its kernels fuse.
        target: How to run the graphs, such as `eager{linear=packed}`; see `EagerTarget`. By default no weight is kept
            twice. With `fold=all`, which `eager{...}` has, copies are allowed: merged projections on a GPU, weights in
            another order or in half precision on a CPU, if `linear` or `dtype` ask for them.
        remove_padding: Compute real tokens only; results have 0 at padded positions.

    Returns:
        An object of a subclass of the model's class that has the same attributes.

    Raises:
        PipelineError: A pass, or an option of the target, is unknown.
        GraphwrightError: The target is not `eager`.
    """
    if isinstance(model, Optimized):
        return model
    target = _eager(target)
    if pipeline is None:
        pipeline = _default_pipeline(model, target, remove_padding)
    elif remove_padding:
        pipeline = Pipeline([*_pipeline(pipeline).passes, RemovePadding()])
    forward = type(model).forward
    dispatcher = Dispatcher(forward, type(model).__name__, _pipeline(pipeline), target)
    face: Model = object.__new__(_optimized_class(model, dispatcher))
    object.__setattr__(face, "__dict__", vars(model))
    if inputs is not None:
        args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (tuple(inputs), {})
        face(*args, **kwargs)
    return face


def _eager(target: str | EagerTarget) -> EagerTarget:
    found = get_target(target) if isinstance(target, str) else target
    if not isinstance(found, EagerTarget):
        raise GraphwrightError(
            f"optimize cannot run graphs with the target '{found}'",
            why="a drop-in for a module runs on PyTorch",
            remedies=["pass eager{...}", f"lower a program: gw.target('{found}').lower(gw.capture(model))"],
        )
    return found


def _pipeline(steps: Any) -> Pipeline:
    return steps if isinstance(steps, Pipeline) else Pipeline(steps)


def _default_pipeline(model: nn.Module, target: EagerTarget, remove_padding: bool) -> Pipeline:
    """The passes that pay where the model is."""
    weight = next(model.parameters(), None)
    on_gpu = weight is not None and weight.is_cuda
    fused = "fuse-norm,fuse-activation" if on_gpu else "conv1d-to-linear,fuse-activation"
    steps = ["default", fused, "remove-padding" if remove_padding else ""]
    merge = on_gpu and target.fold == "all"  # the merged weights are kept
    return Pipeline(",".join(filter(None, [*steps, "encoder-fastpath" if merge else ""])))


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
        if prefilling.get() and not args:
            return self._graphwright_engine.prefill(self, kwargs)  # type: ignore[union-attr, operator]
        serve = getattr(kwargs.get("past_key_values"), "graphwright_serve", None)
        return dispatcher(self, args, kwargs) if serve is None else serve(self, kwargs)

    forward.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    members: dict[str, Any] = {
        "forward": forward, "_graphwright_original": model, "_graphwright_dispatcher": dispatcher
    }  # fmt: skip
    if not hasattr(type(model), "_sample"):
        return face_class(type(model), members, (Optimized,))
    return face_class(type(model), members | {"_graphwright_engine": Engine(dispatcher)}, (Optimized, GeneratesFast))
