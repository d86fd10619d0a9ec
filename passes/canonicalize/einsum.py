"""Einsum of two tensors becomes a matrix product between transposes."""

from __future__ import annotations

import string
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.infer import same_size
from graphwright.ir.node import shape_of
from graphwright.passes.local import RuleTable

aten = torch.ops.aten
TABLE = RuleTable()


@TABLE.local_rule(aten.einsum)
def einsum_as_matmul(node: Node, edit: Edit) -> Any:
    """`einsum("ibnd,jbnd->bnij", a, b)` is `matmul(a.permute(b,n,i,d), b.permute(b,n,d,j))`.

    Only where each operand has at most one dim of its own and one dim is contracted; others stay as they are.
    """
    terms = _parse(node)
    if terms is None:
        return None
    left, right, result = terms
    operands: Any = node.args[1]
    a, b = operands
    batch = [dim for dim in result if dim in left and dim in right]
    inner = [dim for dim in left if dim in right and dim not in result]
    rows = [dim for dim in result if dim in left and dim not in right]
    columns = [dim for dim in result if dim in right and dim not in left]
    covered = set(left) <= {*batch, *inner, *rows} and set(right) <= {*batch, *inner, *columns}
    if len(inner) != 1 or len(rows) > 1 or len(columns) > 1 or not covered:
        return None
    if not same_size(*((shape_of(operand) or ())[term.index(inner[0])] for operand, term in ((a, left), (b, right)))):
        return None  # a size of 1 would be repeated
    x = _arranged(a, left, [*batch, *rows, *inner], len(rows) == 0, -2, edit)
    y = _arranged(b, right, [*batch, *inner, *columns], len(columns) == 0, -1, edit)
    product = edit.call(aten.matmul.default, x, y)
    if not columns:
        product = edit.call(aten.squeeze.dim, product, len(shape_of(product) or ()) - 1)
    if not rows:
        product = edit.call(aten.squeeze.dim, product, len(batch))
    order = [*batch, *rows, *columns]
    return _permuted(product, [order.index(dim) for dim in result], edit)


def _parse(node: Node) -> tuple[str, str, str] | None:
    """The three index lists of a two-operand equation without repeats; an ellipsis is written out."""
    equation, operands = node.args[0], node.args[1]
    if not isinstance(equation, str) or not isinstance(operands, (list, tuple)) or len(operands) != 2:
        return None
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    left, comma, right = inputs.partition(",")
    if not arrow or not comma:
        return None
    left, right, result = _written_out(left, right, result, operands)
    if "." in left + right + result:
        return None
    repeated = any(len(set(term)) != len(term) for term in (left, right, result))
    return None if repeated else (left, right, result)


def _written_out(left: str, right: str, result: str, operands: Any) -> tuple[str, str, str]:
    """The index lists with `...` replaced by letters, where both operands have it with the same number of dims."""
    ranks = [len(shape_of(operand) or ()) for operand in operands]
    hidden = [rank - len(term.replace("...", "")) for rank, term in zip(ranks, (left, right), strict=True)]
    if not all("..." in term for term in (left, right, result)) or hidden[0] != hidden[1]:
        return left, right, result
    free = [letter for letter in string.ascii_uppercase if letter not in left + right]
    letters = "".join(free[: hidden[0]])
    return left.replace("...", letters), right.replace("...", letters), result.replace("...", letters)


def _arranged(operand: Node, have: str, want: list[str], missing: bool, at: int, edit: Edit) -> Node:
    """The operand with its dims in the wanted order, and a dim of size 1 at `at` if it has none of its own."""
    node = _permuted(operand, [have.index(dim) for dim in want], edit)
    return edit.call(aten.unsqueeze.default, node, at % (len(want) + 1)) if missing else node


def _permuted(node: Node, order: list[int], edit: Edit) -> Node:
    return node if order == sorted(order) else edit.call(aten.permute.default, node, order)
