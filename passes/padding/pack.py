"""Writing a region on packed tokens: [batch, ..., length, ...] becomes [1, ..., tokens, ...]."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from graphwright.ir.edit import Edit
from graphwright.ir.errors import PassError
from graphwright.ir.node import bound, is_call, shape_of, value_of, where
from graphwright.passes.padding.mask import Mask
from graphwright.passes.padding.region import Region
from graphwright.passes.padding.rows import SIZED

aten = torch.ops.aten


class Packer:
    """Creates the packed values of a region.

    Args:
        region: The region.
        edit: The transaction; its insertion point is before the first attention.
        least: Smallest fraction of padding that is left out.
        per_row: Smallest number of tokens of padding in a row, on average, that are left out.
    """

    def __init__(self, region: Region, edit: Edit, least: float, per_row: float) -> None:
        self.region, self.edit, self.ops = region, edit, edit.ops("graphwright")
        plan = self.ops.token_plan(region.keep, first=region.reads_first, least=least, per_row=per_row)
        self.plan = [edit.call(operator.getitem, plan, i) for i in range(4)]
        self.tokens, self.offsets, self.keys, _ = self.plan
        self.count = edit.aten.sym_size.int(self.tokens, 0)
        self.batch = edit.aten.sym_size.int(region.keep, 0)
        self.length = edit.aten.sym_size.int(region.keep, 1)
        self._starts = edit.aten.slice.Tensor(self.offsets, 0, 0, -1) if region.reads_first else None
        self._packed: dict[Node, Node] = {}
        self._gathered: dict[tuple[Node, int, int], Node] = {}
        self._biases: dict[Any, Node | None] = {}
        self._places: dict[str, Node] = {}

    def packed(self, node: Node) -> Node:
        """The packed form of a value of the region."""
        if node not in self._packed:
            if node in self.region.entries:
                self._packed[node] = self.ops.pack_tokens(node, self.tokens)
            elif node in self.region.core and node in self.region.masks:
                self._packed[node] = self._attention(node)
            else:
                self._packed[node] = self._call(node)
        return self._packed[node]

    # ---- row-wise calls ------------------------------------------------------------------------

    def _call(self, node: Node) -> Node:
        """The same call on packed operands."""
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda operand: self._operand(operand, node))
        if is_call(node, *SIZED) and isinstance(args[1], (list, tuple)):
            known = shape_of(node) or ()  # a size of -1 cannot be inferred beside a number of tokens that is not known
            sizes = [size if isinstance(size, int) else given for size, given in zip(known, args[1], strict=True)]
            batch_axis, token_axis = self.region.rows[node]
            sizes[batch_axis], sizes[token_axis] = 1, self.count
            args = (args[0], sizes, *args[2:])
        return self.edit.copy(node, args, kwargs)

    def _operand(self, operand: Node, user: Node) -> Any:
        if operand in self.region.rows:
            return self.packed(operand)
        if not isinstance(value_of(operand), torch.Tensor) or not _aligns(user):
            return operand
        return self._aligned(operand, user)

    def _aligned(self, operand: Node, user: Node) -> Node:
        """What an operand that is aligned at the right has for each token."""
        rank, shape = len(shape_of(user) or ()), shape_of(operand) or ()
        batch_axis, token_axis = (axis - rank + len(shape) for axis in self.region.rows[user])
        by_row, by_column = (axis >= 0 and not _is_one(shape[axis]) for axis in (batch_axis, token_axis))
        if not by_row and not by_column:
            return operand
        key = (operand, batch_axis, token_axis)
        if key not in self._gathered:
            self._gathered[key] = self._gather(operand, batch_axis, token_axis, by_row, by_column)
        return self._gathered[key]

    def _gather(self, operand: Node, batch_axis: int, token_axis: int, by_row: bool, by_column: bool) -> Node:
        if not by_row:
            return self.edit.aten.index_select(operand, token_axis, self._place("column"))
        if token_axis < 0:
            raise PassError(f"%{operand.name} has an axis of sequences but none of tokens", at=where(operand))
        if not by_column:
            chosen = self.edit.aten.index_select(operand, batch_axis, self._place("row"))
            return self.edit.aten.transpose.int(chosen, batch_axis, token_axis)
        rest = [i for i in range(len(shape_of(operand) or ())) if i not in (batch_axis, token_axis)]
        order = [batch_axis, token_axis, *rest]
        leading = self.ops.pack_tokens(self.edit.aten.permute(operand, order), self.tokens)
        return self.edit.aten.permute(leading, [order.index(i) for i in range(len(order))])

    def _place(self, kind: str) -> Node:
        """[tokens]: the row or column that each token comes from."""
        if kind not in self._places:
            op = aten.remainder.Scalar if kind == "column" else aten.floor_divide.Scalar
            self._places[kind] = self.edit.call(op, self.tokens, self.length)
        return self._places[kind]

    # ---- attention -----------------------------------------------------------------------------

    def _attention(self, node: Node) -> Node:
        arguments, mask = bound(node), self.region.masks[node]
        query, key, value = (self.packed(arguments[name]) for name in ("query", "key", "value"))
        scale = arguments["scale"]
        if scale is None:
            scale = 1 / math.sqrt((shape_of(query) or ())[-1])
        options: dict[str, Any] = {"uniform": True} if mask.finite else {}
        seed: Node | None = None
        if arguments["dropout_p"]:
            device = value_of(query).device
            seed = self.edit.aten.randint.low(0, 2**62, [], dtype=torch.int64, device=device)
            options |= {"dropout_p": arguments["dropout_p"]}
        bias = self._bias(mask, query)
        return self.ops.varlen_attention(
            query, key, value, *self.plan, bias, seed,
            length=self.length, scale=scale, **options,
        )  # fmt: skip

    def _bias(self, mask: Mask, query: Node) -> Node | None:
        """[1, heads or 1, length, length]: what the mask adds for every sequence alike."""
        dtype = value_of(query).dtype
        if (mask.terms, dtype) not in self._biases:
            total: Node | None = None
            for term in mask.terms:
                part = self._term(term.node, term.inverted, dtype)
                total = part if total is None else self.edit.aten.add(total, part)
            self._biases[mask.terms, dtype] = total if total is None else self._square(total)
        return self._biases[mask.terms, dtype]

    def _term(self, node: Node, inverted: bool, dtype: torch.dtype) -> Node:
        edit = self.edit
        if value_of(node).dtype != torch.bool:
            return node if value_of(node).dtype == dtype else edit.call(aten.to.dtype, node, dtype)
        zero = edit.call(aten.scalar_tensor.default, 0.0, dtype=dtype, device=value_of(node).device)
        if inverted:
            return edit.call(aten.where.ScalarSelf, node, -math.inf, zero)
        return edit.call(aten.where.ScalarOther, node, zero, -math.inf)

    def _square(self, bias: Node) -> Node:
        shape = shape_of(bias) or ()
        for _ in range(4 - len(shape)):
            bias = self.edit.aten.unsqueeze(bias, 0)
        return self.edit.aten.expand(bias, [-1, -1, self.length, self.length])

    # ---- leaving the region --------------------------------------------------------------------

    def left(self, node: Node, user: Node) -> Node:
        """What stands for the result of `user`, a call outside the region that reads `node`, or for `node` itself."""
        if self.region.is_first(user):
            chosen = self.edit.aten.squeeze.dim(self.edit.aten.index_select(self.packed(node), 1, self._starts), 0)
            return chosen if is_call(user, aten.select.int) else self.edit.aten.unsqueeze(chosen, 1)
        return self.ops.unpack_tokens(self.packed(node), self.tokens, self.batch, self.length, self.keys)


def _aligns(user: Node) -> bool:
    """Whether the operands of a row-wise call are aligned with its result."""
    if is_call(user, torch.ops.graphwright.rotary_embedding):
        return True
    weights = (
        aten.linear, aten.matmul, aten.embedding, aten.layer_norm, aten.rms_norm, aten.cat, aten.stack,
    )  # fmt: skip
    return not is_call(user, *weights)


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1
