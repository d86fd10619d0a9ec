"""StepGraph: one decode step of a model as a lowered program on static buffers."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from graphwright.frontends.export import export_program
from graphwright.ir.program import Program
from graphwright.lowering.eager.target import EagerTarget
from graphwright.passes.pipeline import Pipeline
from graphwright.runtime.caches import Unservable
from graphwright.runtime.call import Call
from graphwright.runtime.capture import Forward, disguise
from graphwright.runtime.generation.caches import Pair
from graphwright.runtime.sizes import SizeGuard

_BEFORE_KERNELS = "canonicalize,fuse-norm,fuse-rotary,fuse-activation,fuse-attention,static-cache"


class StepInputs:
    """All tensors of a step in the order the program takes them.

    Args:
        call: The call without its cache.
        position: Number of tokens in the buffers, [].
        own: Key and value buffers, [batch, heads, capacity, width].
        cross: Keys and values of the cross-attention; empty without one.
        windows: Sliding windows of the layers.
        is_pair: Whether the model has a cross-attention cache.
    """

    def __init__(
        self,
        call: Call,
        position: Tensor,
        own: Sequence[Pair],
        cross: Sequence[Pair],
        windows: tuple[int | None, ...],
        is_pair: bool,
    ) -> None:
        self.call, self.position, self.own, self.cross = call, position, own, cross
        self.windows, self.is_pair = windows, is_pair

    @property
    def tensors(self) -> list[Tensor]:
        """The flat list."""
        pairs = [tensor for pair in (*self.own, *self.cross) for tensor in pair]
        return [*self.call.tensors, self.position, *pairs]

    @property
    def names(self) -> list[str]:
        """Distinct identifiers of the tensors."""
        parts = [f"{kind}_{i}_{part}" for kind, i in self._layers() for part in ("keys", "values")]
        return [*self.call.tensor_names(), "cache_position", *parts]

    def _layers(self) -> list[tuple[str, int]]:
        return [("own", i) for i in range(len(self.own))] + [("cross", i) for i in range(len(self.cross))]

    @property
    def key(self) -> Hashable:
        """Steps with different keys are never served by the same graph."""
        return ("step", self.call.key, self.windows, self.is_pair, len(self.own), self.own[0][0].dtype)

    def dynamic(self) -> dict[str, dict[int, Any]]:
        """Sizes that may change: the batch unless it is 1, the capacity, the encoder's length."""
        auto = torch.export.Dim.AUTO
        batch = self.own[0][0].shape[0]
        result: dict[str, dict[int, Any]] = {}
        for name, tensor in zip(self.names, self.tensors, strict=True):
            free = [i for i, size in enumerate(tensor.shape) if i == 0 and size == batch > 1]
            free += [2] if name.startswith(("own_", "cross_")) and tensor.shape[2] > 1 else []
            free += (
                [1] if name.startswith(("encoder_", "attention_mask", "decoder_att")) and tensor.shape[1] > 1 else []
            )
            result[name] = dict.fromkeys(free, auto)
        return result

    def split(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Any], Tensor, list[Pair], list[Pair]]:
        """Arguments of the model, position and buffers among other tensors in the same order."""
        count = len(self.call.tensors)
        arguments, _ = self.call.arguments(tensors[:count])
        flat = tensors[count + 1 :]
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        return arguments, tensors[count], pairs[: len(self.own)], pairs[len(self.own) :]


class StepGraph:
    """A captured and lowered step.

    Args:
        model: The model.
        forward: Its original forward.
        inputs: Example inputs.
        pipeline: Passes to run before those for static caches.
        target: How the model's other calls run.
        kernels: Whether to use the kernels for steps of one token, on a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        inputs: StepInputs,
        pipeline: Pipeline,
        target: EagerTarget,
        kernels: bool = True,
    ) -> None:
        with torch.inference_mode(False), torch.no_grad():
            program = _capture(model, forward, inputs)
            self.guard = SizeGuard(program, inputs.tensors)
            steps = (*pipeline.passes, *_lowering_passes(kernels and inputs.position.is_cuda))
            lowered = Pipeline(steps).run(program, validate=False).program
        self.artifact = _step_target(target).emit(lowered)
        self.flat = self.artifact.flat
        self.weights = list(lowered.tensors().values())

    def accepts(self, inputs: StepInputs) -> bool:
        """Whether the sizes of a step are among those the graph is valid for."""
        return self.guard.accepts(inputs.tensors)

    def token(self) -> list[tuple[int, int]]:
        """Changes when a weight moves or is written to."""
        return [(weight.data_ptr(), weight._version) for weight in self.weights]


def _step_target(target: EagerTarget) -> EagerTarget:
    """The target of a step: recorded by its caller, and without copies of weights but those that the user allows."""
    return replace(target, compile="never", fold="views" if target.dtype == "float32" else "all")


def _lowering_passes(kernels: bool) -> Sequence[Any]:
    """Passes after those of the user: static caches, and the kernels for steps of one token."""
    if not kernels or find_spec("triton") is None:
        return Pipeline("static-cache").passes
    from graphwright.lowering.eager.kernels.decode_pass import FuseDecodeAttention
    from graphwright.lowering.eager.kernels.gemv_pass import FuseGemv

    return (*Pipeline(_BEFORE_KERNELS).passes, FuseGemv(), FuseDecodeAttention())


def _capture(model: nn.Module, forward: Forward, inputs: StepInputs) -> Program:
    """Trace the step; results are the logits, then all buffers.

    Raises:
        CaptureError: torch.export failed.
        Unservable: The result has no logits.
    """
    names = inputs.names

    def flat_forward(self: nn.Module, **tensors: Tensor) -> tuple[Tensor, ...]:
        from graphwright.runtime.generation.layers import BufferLayer, step_cache

        arguments, position, own, cross = inputs.split([tensors[name] for name in names])
        layers = [BufferLayer(pair, position, window) for pair, window in zip(own, inputs.windows, strict=True)]
        cache = step_cache(layers, cross if inputs.is_pair else None)
        logits = getattr(forward(self, **arguments, past_key_values=cache), "logits", None)
        if not isinstance(logits, Tensor):
            raise Unservable("its result has no logits")
        return (logits, *(tensor for layer in layers for tensor in layer.pair()))

    kinds = inspect.Parameter
    signature = [kinds("self", kinds.POSITIONAL_ONLY), *(kinds(name, kinds.KEYWORD_ONLY) for name in names)]
    flat_forward.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    example = {name: tensor.detach().clone() for name, tensor in zip(names, inputs.tensors, strict=True)}
    return export_program(disguise(model, flat_forward), (), example, dynamic=inputs.dynamic(), assume=False)
