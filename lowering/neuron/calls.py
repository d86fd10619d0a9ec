"""Calls that Neuron's compiler has kernels for, and what each computes in plain operations.

An emitter asks for such a call by `fused`. In the `neuron` variant of a module it stays a custom call; in the
`reference` variant, which XLA's CPU client can run, its body takes its place. `with_bodies` makes the second of the
first.

| call | operands | configuration |
|---|---|---|
| `AwsNeuronSoftmax` | x | dimension |
| `AwsNeuronRmsNorm` | x, weight, eps | dimension |
| `AwsNeuronGelu`, `AwsNeuronGeluApprxTanh`, `AwsNeuronSilu` | x | |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from graphwright.lowering.neuron.builder import Builder, Out, sizes
from graphwright.lowering.neuron.reduce import mean, softmax, wide
from graphwright.lowering.neuron.xla import hlo, ir, parse, with_locations

Body = Callable[[Builder, Sequence[Out], str], Out]


def _softmax(b: Builder, operands: Sequence[Out], config: str) -> Out:
    return softmax(b, operands[0], int(config))


def _rms_norm(b: Builder, operands: Sequence[Out], config: str) -> Out:
    x, weight, eps = operands
    data = wide(b, x)
    square = mean(b, hlo.multiply(data, data), [int(config)], True)
    inverse = hlo.rsqrt(hlo.add(square, b.broadcast(b.convert(eps, square.type.element_type), sizes(square))))
    normal = hlo.multiply(data, b.broadcast(inverse, sizes(data)))
    return hlo.multiply(b.convert(normal, x.type.element_type), b.broadcast(weight, sizes(x)))


def _gelu(b: Builder, operands: Sequence[Out], config: str) -> Out:
    x = wide(b, operands[0])
    gate = b.erf(hlo.multiply(x, b.like(math.sqrt(0.5), x)))
    return _gated(b, x, gate, operands[0])


def _gelu_tanh(b: Builder, operands: Sequence[Out], config: str) -> Out:
    x = wide(b, operands[0])
    cube = hlo.multiply(hlo.multiply(x, x), x)
    inner = hlo.add(x, hlo.multiply(cube, b.like(0.044715, x)))
    gate = hlo.tanh(hlo.multiply(inner, b.like(math.sqrt(2 / math.pi), x)))
    return _gated(b, x, gate, operands[0])


def _gated(b: Builder, x: Out, gate: Out, given: Out) -> Out:
    half = hlo.multiply(x, b.like(0.5, x))
    return b.convert(hlo.multiply(half, hlo.add(gate, b.like(1, x))), given.type.element_type)


def _silu(b: Builder, operands: Sequence[Out], config: str) -> Out:
    x = wide(b, operands[0])
    return b.convert(hlo.multiply(x, hlo.logistic(x)), operands[0].type.element_type)


BODIES: dict[str, Body] = {
    "AwsNeuronSoftmax": _softmax, "AwsNeuronRmsNorm": _rms_norm, "AwsNeuronGelu": _gelu,
    "AwsNeuronGeluApprxTanh": _gelu_tanh, "AwsNeuronSilu": _silu,
}  # fmt: skip


def fused(b: Builder, name: str, operands: Sequence[Out], config: str = "") -> Out:
    """A call of one of `BODIES` on operands, of the type of the first; or its body."""
    if not b.custom_calls:
        return BODIES[name](b, operands, config)
    text = ir.StringAttr.get(config)
    return hlo.custom_call([operands[0].type], list(operands), name, backend_config=text)


def with_bodies(bytecode: bytes) -> bytes:
    """A module with the body of every custom call in its place."""
    context, module = parse(bytecode)
    with context, ir.Location.unknown():
        for call in [op for op in _operations(module) if op.name == "stablehlo.custom_call"]:
            _expand(call)
        module.operation.verify()
        return with_locations(module)


def _operations(module: Any) -> list[Any]:
    functions = [operation for operation in module.body.operations]
    return [op.operation for function in functions for block in function.regions[0] for op in block]


def _expand(call: Any) -> None:
    name = ir.StringAttr(call.attributes["call_target_name"]).value
    config = ir.StringAttr(call.attributes["backend_config"]).value
    with ir.InsertionPoint(call), call.location:
        result = BODIES[name](Builder(), list(call.operands), config)
    call.results[0].replace_all_uses_with(result)
    call.erase()
