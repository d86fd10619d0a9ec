"""In-place ops become functional: `y = x.add_(1)` is `y = x + 1`, and later readers of x and its views read y.

A write to a view is scattered back into the tensor it looks into. Writes to inputs and buffers stay: they are effects
that the caller can see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.errors import PassError
from graphwright.ir.infer import same_shape
from graphwright.ir.invariants import is_mutating
from graphwright.ir.node import is_call, op_name, shape_of, value_of, where
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.ir.views import view_root, view_source, views_of
from graphwright.passes.base import Pass
from graphwright.passes.canonicalize.scatter import scatter_back

aten = torch.ops.aten


@dataclass(frozen=True)
class Functionalize(Pass):
    """Replace in-place ops by functional ones."""

    name = "functionalize"
    establishes = frozenset({"functional"})

    def apply(self, program: Program, rewriter: Rewriter) -> None:
        """Rewrite every in-place op.

        Raises:
            PassError: An op writes to an input or buffer, or through a view that cannot be scattered back.
        """
        blocked = functionalize(program, rewriter)
        if blocked:
            raise PassError("an in-place op cannot be made functional", at=where(blocked[0][0]), why=blocked[0][1])


def functionalize(program: Program, rewriter: Rewriter) -> list[tuple[Node, str]]:
    """Rewrite in-place ops in graph order; returns those that must stay, with the reason."""
    blocked = []
    for node in [node for node in program.graph.nodes if node.op == "call_function" and is_mutating(node)]:
        with rewriter.site("Functionalize", (node,)) as edit:
            reason = _rewrite(node, edit)
        if reason:
            blocked.append((node, reason))
    return blocked


def _rewrite(node: Node, edit: Edit) -> str | None:
    """Rewrite one in-place op; returns why not."""
    target: Any = node.args[0] if node.args else None
    if not isinstance(target, Node) or not isinstance(value_of(target), torch.Tensor):
        return f"{op_name(node)} does not write to its first argument"
    root = view_root(target)
    if root.op in ("placeholder", "get_attr"):
        return f"it writes to '{root.target}', which the caller can see"
    new = _functional_call(node, target, edit)
    if new is None:
        return f"{op_name(node)} has no functional form"
    new_root = scatter_back(target, root, new, edit)
    if new_root is None:
        return f"{op_name(node)} writes through a view that cannot be scattered back"
    _move_readers(node, target, root, new, new_root, edit)
    edit.replace(node, new)
    edit.erase(node)
    return None


def _functional_call(node: Node, target: Node, edit: Edit) -> Node | None:
    """The same op without the underscore, on the same arguments, in the type of what was written to."""
    if is_call(node, aten.detach_):
        return edit.aten.detach(target)
    if is_call(node, aten.copy_):
        source: Any = node.args[1]
        if value_of(source).dtype != value_of(target).dtype:
            source = edit.call(aten.to.dtype, source, value_of(target).dtype)
        return source if _equal_shape(source, target) else edit.call(aten.expand.default, source, _sizes(target, edit))
    if is_call(node, aten.fill_, aten.zero_):
        return edit.call(aten.full_like.default, target, node.args[1] if len(node.args) > 1 else 0)
    overload: Any = node.target
    name, variant = overload._schema.name.removeprefix("aten::"), overload._overloadname
    packet = getattr(aten, name.rstrip("_"), None)
    if not name.endswith("_") or packet is None or variant not in packet.overloads():
        return None
    new = edit.call(getattr(packet, variant), *node.args, **node.kwargs)
    wanted = value_of(target).dtype
    return new if value_of(new).dtype == wanted else edit.call(aten.to.dtype, new, wanted)


def _equal_shape(a: Node, b: Node) -> bool:
    return same_shape(shape_of(a) or (), shape_of(b) or ())


def _sizes(node: Node, edit: Edit) -> list[Any]:
    """Sizes of a value as numbers and `sym_size` nodes."""
    sizes = shape_of(node) or ()
    return [size if isinstance(size, int) else edit.call(aten.sym_size.int, node, i) for i, size in enumerate(sizes)]


def _move_readers(node: Node, target: Node, root: Node, new: Node, new_root: Node, edit: Edit) -> None:
    """Later readers of the written tensor, and of every view of it, read the new value."""
    for alias in views_of(root):
        if alias is node or alias in edit.created_set or not any(node < user for user in alias.users):
            continue
        if alias is root:
            replacement = new_root
        elif alias is target:
            replacement = new
        else:
            replacement = _replay(alias, root, new_root, edit)
        edit.replace(alias, replacement, users=lambda user: node < user)


def _replay(alias: Node, root: Node, new_root: Node, edit: Edit) -> Node:
    """The view `alias` of `root`, taken of `new_root`."""
    if alias is root:
        return new_root
    source = _replay(view_source(alias), root, new_root, edit)
    return edit.copy(alias, (source, *alias.args[1:]), dict(alias.kwargs))
