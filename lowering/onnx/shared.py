"""Keys and values of an encoder that several rows of a decoder share, such as the beams of one text.

The caches of cross attention then have one row for each text, and the queries of all rows of a text go to it as one
long sequence: the keys are read once for all beams, not once for each.
"""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call
from graphwright.ir.program import Program
from graphwright.lowering.interface import Interface
from graphwright.lowering.onnx.attention_inputs import flattened, split_heads
from graphwright.lowering.onnx.sizes import same_sizes
from graphwright.lowering.onnx.table import Emission

aten = torch.ops.aten
ROWS = "encoder_batch_size"


def find_shared(program: Program, interface: Interface) -> frozenset[Node]:
    """The caches of cross attention, if all of them are read by attentions only; empty if not."""
    ports = [port for port in interface.inputs if port.name.startswith("past_key_values.") and ".encoder." in port.name]
    caches = frozenset(program.placeholders[port.leaf] for port in ports)
    return caches if all(_only_attended(cache, caches) for cache in caches) else frozenset()


def _only_attended(cache: Node, caches: frozenset[Node]) -> bool:
    readers = [user for user in cache.users if user.op != "output" and not is_call(user, aten.sym_size)]
    return all(_suits(reader, caches) for reader in readers)


def _suits(node: Node, caches: frozenset[Node]) -> bool:
    if not is_call(node, aten.scaled_dot_product_attention):
        return False
    arguments = bound(node)
    query, key, value, mask = (arguments[name] for name in ("query", "key", "value", "attn_mask"))
    if arguments["is_causal"] or key not in caches or value not in caches or query in caches:
        return False
    shape = query.meta["val"].shape
    masked = mask.meta["val"].shape if isinstance(mask, Node) else shape
    return len(masked) == 4 and same_sizes(shape[:2], key.meta["val"].shape[:2]) and same_sizes(masked[:1], shape[:1])


def attend_shared(b: Emission, nodes: list[Node], mask: ir.Value | None, scale: float | None) -> ir.Value:
    """Attention of [batch, heads, length, size] to caches whose rows divide the batch."""
    assert b.node is not None
    key, value = (b.value_of(node) for node in nodes[1:])
    batch, heads, length, size = nodes[0].meta["val"].shape
    texts = b.op("Shape", key, dtype=torch.int64, start=0, end=1)

    def by_text(rows: ir.Value, sizes: list[int]) -> ir.Value:
        """[batch, length, ...] as [texts, ..., all their positions, ...]."""
        shape = b.op("Concat", texts, b.const([-1, *sizes]), axis=0)
        return b.op("Transpose", b.op("Reshape", rows, shape), perm=[0, 2, 1, 3])

    query = by_text(flattened(b, nodes[0]), [int(heads), int(size)])
    if mask is not None:
        kinds = int(bound(b.node)["attn_mask"].meta["val"].shape[1])
        mask = by_text(b.op("Transpose", mask, perm=[0, 2, 1, 3]), [kinds, 0])
    result = b.op("Attention", query, key, value, mask, scale=scale)
    positions = b.op("Transpose", result, perm=[0, 2, 1, 3])
    return split_heads(b, b.op("Reshape", positions, b.sizes.vector([batch, length, int(heads * size)])))
