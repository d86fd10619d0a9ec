"""Weights in fewer bits, rounded to nearest; what is computed stays float32."""

from __future__ import annotations

import numpy as np

from graphwright.lowering.tflite.graph import Graph, Operator, Quantization, Value

SMALL = 1024
"""Number of entries below which a constant stays as it is."""

PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
VERSIONS = {"FULLY_CONNECTED": {"int8": 5, "int4": 12}, "CONV_2D": {"int8": 5}, "DEPTHWISE_CONV_2D": {"int8": 6}}
"""Version of a product of floats with integer weights."""


def compress(graph: Graph, kind: str) -> None:
    """Store the weights of products and of embeddings in fewer bits.

    Args:
        graph: Changed in place.
        kind: `f16`, dequantized when the model is loaded; `i8`, a scale per output; `i4`, a scale per output;
            `i4b32`, `i4b64` or `i4b128`, a scale for each block of inputs. Kernels round the other side of a product
            with integers to 8 bits. What has no kernel for 4 bits takes 8.
    """
    stored: dict[tuple[Value, int], Value] = {}
    if kind == "f16":
        _halve(graph)
        return
    for operator in graph.operators:
        position = _weight_position(operator)
        weight = None if position is None else operator.inputs[position]
        if weight is None or position is None or weight.data is None or not weight.is_float or weight.size < SMALL:
            continue
        axis = 3 if operator.code == "DEPTHWISE_CONV_2D" else 0
        key = (weight, axis)
        if key not in stored:
            stored[key] = quantized_weight(weight, *_bits(operator, weight, kind, graph), axis)
        operator.inputs[position] = stored[key]
        operator.version = VERSIONS.get(operator.code, {}).get(stored[key].dtype, 3)


def _weight_position(operator: Operator) -> int | None:
    return 1 if operator.code in (*PRODUCTS, "EMBEDDING_LOOKUP") else None


def _bits(operator: Operator, weight: Value, kind: str, graph: Graph) -> tuple[int, int]:
    """Bits and block size that a weight can have, for all who read it."""
    readers = {reader.code for reader in graph.operators if weight in reader.inputs}
    if not kind.startswith("i4") or readers != {"FULLY_CONNECTED"}:
        return 8, 0
    block = int(kind.partition("b")[2] or 0)
    return 4, block if block and weight.shape[1] % block == 0 else 0


def quantized_weight(weight: Value, bits: int, block: int, axis: int) -> Value:
    """A weight as signed integers, symmetric, with a scale for each index of `axis` or each block of a row."""
    assert weight.data is not None
    data, top = weight.data.astype(np.float32), 2 ** (bits - 1) - 1
    dtype = "int4" if bits == 4 else "int8"
    if block:
        grid = data.reshape(weight.shape[0], -1, block)
        scales = _scales(np.abs(grid).max(2), top).astype(np.float16)
        codes = np.clip(np.rint(grid / scales.astype(np.float32)[..., None]), -top - 1, top)
        return Value(weight.shape, dtype, codes.reshape(data.shape).astype(np.int8), weight.name,
                     Quantization(scales, block=block))  # fmt: skip
    others = tuple(dim for dim in range(data.ndim) if dim != axis)
    scales = _scales(np.abs(data).max(others), top).astype(np.float32)
    shape = [-1 if dim == axis else 1 for dim in range(data.ndim)]
    codes = np.clip(np.rint(data / scales.reshape(shape)), -top, top).astype(np.int8)
    return Value(weight.shape, dtype, codes, weight.name, Quantization(scales, np.zeros(len(scales), np.int64), axis))


def _scales(largest: np.ndarray, top: int) -> np.ndarray:
    """Scales that are not zero in half precision either."""
    return np.maximum(largest / top, 1e-6)


def _halve(graph: Graph) -> None:
    """Every large float constant in half precision, behind a DEQUANTIZE."""
    wide: dict[Value, Value] = {}
    before: list[Operator] = []
    for operator in graph.operators:
        for position, value in enumerate(operator.inputs):
            if value is None or value.data is None or value.dtype != "float32" or value.size < SMALL:
                continue
            if value not in wide:
                wide[value] = Value(value.shape, "float32", name=f"{value.name}.float32")
                half = Value(value.shape, "float16", _half(value.data), value.name)
                before.append(Operator("DEQUANTIZE", [half], [wide[value]], version=3))
            operator.inputs[position] = wide[value]
    graph.operators[:0] = before


def _half(data: np.ndarray) -> np.ndarray:
    limit = float(np.finfo(np.float16).max)
    return np.clip(data, -limit, limit).astype(np.float16)
