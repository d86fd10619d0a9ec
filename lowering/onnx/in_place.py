"""Caches that are appended to in place: `GroupQueryAttention` of ONNX Runtime.

Its cache inputs may be longer than what they hold. Bound to the same memory as its cache outputs, a step writes its own
keys and values there and copies nothing. How much a cache holds follows from the attention mask alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call
from graphwright.ir.program import Program
from graphwright.lowering.interface import Interface
from graphwright.lowering.onnx.attention_inputs import Appended, appended, flattened
from graphwright.lowering.onnx.sizes import expression
from graphwright.lowering.onnx.table import Emission

aten = torch.ops.aten
PAST = "past_key_values."


@dataclass(frozen=True)
class Caches:
    """A program whose caches can be appended to in place.

    Args:
        mask: The input with one column for each position of the caches and of the new tokens.
        length: How many positions the caches hold, as a size.
    """

    mask: Node
    length: torch.SymInt


def find_caches(program: Program, interface: Interface) -> Caches | None:
    """The caches, if every one of them is read by masked attentions only; None if not, or if there are none."""
    nodes = {port.name: program.placeholders[port.leaf] for port in interface.inputs}
    pasts = [node for name, node in nodes.items() if name.startswith(PAST)]
    mask = nodes.get("attention_mask")
    if mask is None or not pasts or not all(_only_appended(node, pasts) for node in pasts):
        return None
    rooms = [node.meta["val"].shape[2] for node in pasts]
    sizes: dict[Any, torch.SymInt] = {expression(room): room for room in rooms}
    length, size = next(iter(sizes.items()))
    columns = expression(mask.meta["val"].shape[1])
    if len(sizes) != 1 or not length.is_Symbol or length not in columns.free_symbols:
        return None
    return Caches(mask, size)


def _only_appended(past: Node, pasts: list[Node]) -> bool:
    totals = [user for user in past.users if not is_call(user, aten.sym_size)]
    if len(totals) != 1 or (cache := appended(totals[0])) is None or past.meta["val"].dtype != torch.float32:
        return False
    readers = [user for user in cache.total.users if user.op != "output" and not is_call(user, aten.sym_size)]
    return len(readers) == 1 and _suits(readers[0], pasts)


def _suits(node: Node, pasts: list[Node]) -> bool:
    if not is_call(node, aten.scaled_dot_product_attention):
        return False
    arguments = bound(node)
    caches = [appended(arguments[name]) for name in ("key", "value")]
    masked = isinstance(arguments["attn_mask"], Node) and not arguments["is_causal"]
    return masked and all(cache is not None and cache.past in pasts for cache in caches)


def learn_length(b: Emission, caches: Caches) -> None:
    """Take the length of the caches from the mask, before anything else is learned from the inputs."""

    def size(axis: int) -> ir.Value:
        return b.op("Shape", b.value_of(caches.mask), dtype=torch.int64, start=axis, end=axis + 1)

    new = caches.mask.meta["val"].shape[1] - caches.length
    b.total, b.rows = partial(size, 1), partial(size, 0)
    b.sizes.derive(caches.length, lambda: b.op("Sub", size(1), b.sizes.size(new)))


def attend_in_place(
    b: Emission, nodes: list[Node], caches: list[Appended], mask: ir.Value, scale: float | None
) -> ir.Value:
    """Attention of [batch, length, heads * size] that appends to its caches."""
    assert b.total is not None and b.rows is not None
    query, key = (node.meta["val"] for node in nodes[:2])
    values = [flattened(b, node) for node in nodes]
    total = b.cast(b.total(), torch.int32)
    last = b.op("Sub", total, b.const([1], torch.int32))
    lengths = b.op("Expand", last, b.rows())
    inputs: list[Any] = [*values, *(b.value_of(cache.past) for cache in caches), lengths]
    inputs += [b.op("Squeeze", total, b.const([0])), None, None, None, _added(b, mask, query.dtype)]
    heads = {"num_heads": int(query.shape[1]), "kv_num_heads": int(key.shape[1])}
    kind = "com.microsoft::GroupQueryAttention"
    result, *presents = b.ops(kind, *inputs, dtypes=[query.dtype] * 3, scale=scale, **heads)
    for cache, present in zip(caches, presents, strict=True):
        b.stands_for(b.value_of(cache.total), present)
    return result


def _added(b: Emission, mask: ir.Value, dtype: torch.dtype) -> ir.Value:
    """The mask as numbers to add. A row without any key means nothing, but must not become infinite."""
    if mask.dtype != ir.DataType.BOOL:
        return mask
    return b.op("Where", mask, b.const(0, dtype), b.const(torch.finfo(dtype).min / 2, dtype), dtype=dtype)
