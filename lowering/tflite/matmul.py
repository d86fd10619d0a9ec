"""Products of matrices: `FULLY_CONNECTED` where the right one is a constant, else `BATCH_MATMUL`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphwright.lowering.tflite.builder import Builder, Number
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten


def fully_connected(b: Builder, input: Value, weight: Value, bias: Value | None) -> Value:
    """`input @ weight.T + bias`; the weight is a constant [out, in].

    What only merged dimensions before the last is undone: the product takes any rank, and a reshape is a copy.
    """
    shape = [*input.shape[:-1], weight.shape[0]]
    producer = b.producers.get(input)
    source = producer.inputs[0] if producer is not None and producer.code == "RESHAPE" else None
    if source is not None and source.rank > input.rank and source.shape[-1] == input.shape[-1]:
        return b.reshape(fully_connected(b, source, weight, bias), shape)
    return b.op("FULLY_CONNECTED", [input, weight, bias], shape, input.dtype, keepNumDims=True)


@register(aten.linear.default)
def linear(b: Builder, input: Value, weight: Value, bias: Value | None) -> Value:
    """`input @ weight.T + bias`."""
    if weight.data is None or weight.rank == 1 or input.rank == 1:
        product = multiplied(b, input, b.transpose(weight, range(weight.rank)[::-1]))
        return product if bias is None else b.binary("ADD", product, bias)
    return fully_connected(b, input, weight, bias)


def multiplied(b: Builder, left: Value, right: Value) -> Value:
    """Product as `torch.matmul` has it, of matrices, vectors, or batches of them."""
    if left.rank == 1 or right.rank == 1:
        wide = b.reshape(left, [1, *left.shape]) if left.rank == 1 else left
        tall = b.reshape(right, [*right.shape, 1]) if right.rank == 1 else right
        made = multiplied(b, wide, tall)
        rows = made.shape[:-2] if left.rank == 1 else made.shape[:-1]
        return b.reshape(made, rows if right.rank == 1 else [*rows, made.shape[-1]])
    if right.data is not None and right.rank == 2:
        return fully_connected(b, left, transposed(b, right), None)
    return batch_matmul(b, left, right)


def transposed(b: Builder, weight: Value) -> Value:
    """A constant matrix the other way round; one constant for all who ask."""
    return b.derived(weight, "transposed", lambda data: np.ascontiguousarray(data.T))


def batch_matmul(b: Builder, left: Value, right: Value) -> Value:
    """Product of batches of matrices; a transposition of the right ones becomes an option."""
    swapped = _unswapped(b, right)
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    shape = [*batch, left.shape[-2], right.shape[-1]]
    if len(shape) > 4 and left.shape[:-2] == right.shape[:-2]:
        parts = [b.reshape(part, [int(np.prod(batch)), *part.shape[-2:]]) for part in (left, right)]
        return b.reshape(batch_matmul(b, *parts), shape)
    return b.op("BATCH_MATMUL", [left, swapped or right], shape, left.dtype, adjY=swapped is not None)


def _unswapped(b: Builder, value: Value) -> Value | None:
    """What a value was before its last two dimensions were swapped, or swapped after another transposition."""
    order = b.order_of(value)
    if order is None or order[-1] != len(order) - 2:
        return None
    return b.transpose(value, [*range(value.rank - 2), value.rank - 1, value.rank - 2])


@register(aten.matmul.default, aten.mm.default, aten.bmm.default)
def matmul(b: Builder, self: Value, **others: Value) -> Value:
    """Product of matrices, vectors, or batches of them."""
    return multiplied(b, self, next(iter(others.values())))


@register(aten.mv.default)
def matrix_vector(b: Builder, self: Value, vec: Value) -> Value:
    """Product of a matrix and a vector."""
    return multiplied(b, self, vec)


@register(aten.dot.default)
def dot(b: Builder, self: Value, tensor: Value) -> Value:
    """Product of two vectors."""
    return multiplied(b, self, tensor)


def _plus(b: Builder, self: Value, product: Value, beta: Number, alpha: Number) -> Value:
    if alpha != 1:
        product = b.binary("MUL", product, b.const(alpha, self.dtype))
    if beta == 0:
        return product
    return b.binary("ADD", product, self if beta == 1 else b.binary("MUL", self, b.const(beta, self.dtype)))


@register(aten.addmm.default)
def addmm(b: Builder, self: Value, mat1: Value, mat2: Value, beta: Number, alpha: Number) -> Value:
    """`beta * self + alpha * mat1 @ mat2`."""
    if beta == alpha == 1 and mat2.data is not None and self.data is not None and self.shape == (mat2.shape[1],):
        return fully_connected(b, mat1, transposed(b, mat2), self)
    return _plus(b, self, multiplied(b, mat1, mat2), beta, alpha)


@register(aten.baddbmm.default)
def baddbmm(b: Builder, self: Value, batch1: Value, batch2: Value, beta: Number, alpha: Number) -> Value:
    """`beta * self + alpha * batch1 @ batch2`."""
    return _plus(b, self, multiplied(b, batch1, batch2), beta, alpha)


@register(aten.outer.default)
def outer(b: Builder, self: Value, vec2: Value) -> Value:
    """Products of all pairs of two vectors."""
    return b.binary("MUL", b.reshape(self, [self.size, 1]), b.reshape(vec2, [1, vec2.size]))


def einsum_parts(equation: str) -> tuple[list[str], str]:
    """The letters of each operand and of the result."""
    left, _, right = equation.replace(" ", "").partition("->")
    return left.split(","), right


@register(aten.einsum.default)
def einsum(b: Builder, equation: str, tensors: list[Value], **_: Any) -> Value:
    """Sum of products of two tensors by an equation, as one batched product of matrices."""
    (first, second), result = einsum_parts(equation)
    sizes = {letter: size for names, t in zip((first, second), tensors, strict=True)
             for letter, size in zip(names, t.shape, strict=True)}  # fmt: skip
    batch = [letter for letter in result if letter in first and letter in second]
    rows = [letter for letter in result if letter in first and letter not in second]
    columns = [letter for letter in result if letter in second and letter not in first]
    summed = [letter for letter in first if letter in second and letter not in result]
    count = lambda letters: int(np.prod([sizes[letter] for letter in letters], dtype=np.int64))  # noqa: E731
    left = b.transpose(tensors[0], [first.index(letter) for letter in batch + rows + summed])
    right = b.transpose(tensors[1], [second.index(letter) for letter in batch + summed + columns])
    left = b.reshape(left, [count(batch), count(rows), count(summed)])
    right = b.reshape(right, [count(batch), count(summed), count(columns)])
    product = b.reshape(batch_matmul(b, left, right), [sizes[letter] for letter in batch + rows + columns])
    made = batch + rows + columns
    return b.transpose(product, [made.index(letter) for letter in result])
