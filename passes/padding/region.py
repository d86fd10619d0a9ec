"""The region of a program that can be computed on packed tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.infer import same_size
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.program import Program
from graphwright.passes.padding.mask import Mask, Unproved, take_apart
from graphwright.passes.padding.rows import Rows, leading_rows, rows_of
from graphwright.passes.patterns.match import Miss

aten = torch.ops.aten
RULE = "RemovePadding"
PATTERN = "unpack(attention(pack(tokens), mask))"
_PARTS = ("mask", "pack(tokens)", "unpack")


@dataclass
class Region:
    """What is packed.

    Attributes:
        keep: [batch, length], boolean: which tokens are real.
        masks: The attentions, and the parts of their masks.
        rows: Where the tokens lie in each value that can be packed.
        entries: Values of `rows` that no row-wise call made: they are packed as they are.
        core: What depends on an attention row by row, in graph order.
    """

    keep: Node
    masks: dict[Node, Mask]
    rows: dict[Node, Rows] = field(default_factory=dict)
    entries: set[Node] = field(default_factory=set)
    core: dict[Node, None] = field(default_factory=dict)

    @property
    def reads_first(self) -> bool:
        """Whether the first token of each row is read by itself."""
        return any(self.is_first(user) for node in self.core for user in node.users if user not in self.core)

    def is_first(self, node: Node) -> bool:
        """Whether a call reads the first token of each row: `x[:, 0]` or `x[:, :1]`."""
        if not is_call(node, aten.select.int, aten.slice.Tensor):
            return False
        arguments = bound(node)
        source, axis = arguments["self"], arguments["dim"] % len(shape_of(arguments["self"]) or (1,))
        if self.rows.get(source) != (0, 1) or axis != 1:
            return False
        if is_call(node, aten.select.int):
            return arguments["index"] == 0
        return arguments["start"] in (0, None) and arguments["end"] == 1 and arguments["step"] == 1

    def readers_of_padding(self) -> list[Node]:
        """Calls outside the region whose result may depend on what is at padded positions; the output is one."""
        users = dict.fromkeys(user for node in self.core for user in node.users if user not in self.core)
        return [user for user in users if not (self.is_first(user) or self._ignores_padding(user))]

    def _ignores_padding(self, user: Node) -> bool:
        if is_call(user, torch.ops.graphwright.zero_padding):
            return user.args[1] is self.keep and self.rows.get(user.args[0]) == (0, 1)  # type: ignore[arg-type]
        return is_call(user, aten.sym_size)


def find_region(program: Program) -> tuple[Region | None, list[Miss]]:
    """The region around all attentions that share one mask of padding; None, with the reasons, where there is none."""
    masks: dict[Node, Mask] = {}
    misses: list[Miss] = []
    keep: Node | None = None
    for node in program.graph.nodes:
        if is_call(node, aten.scaled_dot_product_attention, torch.ops.graphwright.attention):
            try:
                masks[node] = _mask_of(node, program.state)
                (source,) = masks[node].sources
                keep = keep or source
            except Unproved as reason:
                misses.append(miss(node, reason.reason, reason.culprit, "mask"))
    if keep is None:
        return None, misses
    region = Region(keep, masks)
    _grow(region, program, misses)
    return (region, misses) if region.core else (None, misses)


def miss(root: Node, reason: str, culprit: Any, part: str) -> Miss:
    """Why an attention, or all of it, is not packed; `part` is what it concerns in `PATTERN`."""
    blamed = culprit if isinstance(culprit, Node) else root
    start = PATTERN.index(part)
    return Miss(RULE, root, reason, blamed, _PARTS.index(part), PATTERN, (start, start + len(part)))


def _mask_of(node: Node, state: Mapping[str, Any]) -> Mask:
    """The parts of an attention's mask.

    Raises:
        Unproved: It is not the attention of a padded encoder.
    """
    arguments = bound(node)
    mask = arguments.get("attn_mask", arguments.get("bias"))
    if arguments.get("softcap") is not None or arguments.get("sinks") is not None:
        raise Unproved("attention with soft-capping or sinks has no packed form", node)
    if arguments["is_causal"] or arguments["enable_gqa"]:
        raise Unproved("causal and grouped-query attention have no packed form", node)
    if not isinstance(mask, Node):
        raise Unproved("there is no mask of padding", node)
    shape = shape_of(node) or ()
    if len(shape) != 4 or (isinstance(shape[0], int) and shape[0] == 1):
        raise Unproved("a batch of one has no padding to remove", node)
    parts = take_apart(mask, state)
    if len(parts.sources) != 1:
        raise Unproved("there is no mask of padding" if not parts.sources else "there are several masks", mask)
    return parts


def _grow(region: Region, program: Program, misses: list[Miss]) -> None:
    """Fill `rows`, `entries` and `core` in graph order."""
    batch, length = shape_of(region.keep) or ()
    for node in program.graph.nodes:
        if node in region.masks:
            reason = _refusal(region, node)
            if reason is None:
                region.rows[node] = (0, 2)
                region.core[node] = None
                continue
            misses.append(miss(node, reason, node, "pack(tokens)"))
        rows = rows_of(node, region.rows)
        if rows is not None:
            region.rows[node] = rows
            if any(source in region.core for source in node.all_input_nodes if source in region.rows):
                region.core[node] = None
        elif (rows := leading_rows(node, batch, length)) is not None:
            region.rows[node] = rows
            region.entries.add(node)


def _refusal(region: Region, node: Node) -> str | None:
    """Why an attention with a mask of padding cannot be packed all the same."""
    arguments = bound(node)
    operands = [arguments[name] for name in ("query", "key", "value")]
    if region.masks[node].sources != {region.keep}:
        return "another mask than that of the first attention hides padding"
    if any(region.rows.get(operand) != (0, 2) for operand in operands):
        return "queries, keys or values are not computed token by token"
    if region.masks[node].terms and value_of(node).device.type == "cuda" and find_spec("triton") is None:
        return "attention to packed tokens with a bias needs Triton on a GPU"
    batch, length = shape_of(region.keep) or ()
    for operand in operands:
        sizes = shape_of(operand) or ()
        if not same_size(sizes[0], batch) or not same_size(sizes[2], length):
            return "the mask of padding has other sizes than the attention"
    heads = {shape_of(operand)[1] for operand in operands}  # type: ignore[index]
    return None if len(heads) == 1 else "queries, keys and values have different numbers of heads"
