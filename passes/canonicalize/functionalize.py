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
from graphwright.ir.invariants import is_mutating, written_root
from graphwright.ir.node import is_call, op_name, shape_of, value_of, where
from graphwright.ir.overload import choose_overload
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.ir.views import is_view, view_root, view_source, views_of
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
            PassError: An op has no functional form, or writes through a view that cannot be scattered back.
        """
        functionalize(program, rewriter)


def functionalize(program: Program, rewriter: Rewriter) -> None:
    """Rewrite in-place ops in graph order, except those that write to inputs and state.

    Raises:
        PassError: An op has no functional form, or writes through a view that cannot be scattered back.
    """
    writes = [node for node in program.graph.nodes if node.op == "call_function" and is_mutating(node)]
    hidden = [node for node in writes if written_root(node) is None]
    for node in hidden:
        if node.args and isinstance(node.args[0], Node):
            views_of(view_root(node.args[0]))  # settles what is a view while the layouts are those of the capture
    for node in hidden:
        with rewriter.site("Functionalize", (node,)) as edit:
            _rewrite(node, edit)


def _rewrite(node: Node, edit: Edit) -> None:
    target: Any = node.args[0] if node.args else None
    if not isinstance(target, Node) or not isinstance(value_of(target), torch.Tensor):
        raise _failure(node, "it does not write to its first argument")
    new = _functional_call(node, target, edit)
    if new is None:
        raise _failure(node, "it has no functional form")
    root = view_root(target)
    new_root = scatter_back(target, root, new, edit)
    if new_root is None:
        raise _failure(node, f"it writes through {op_name(target)}, which cannot be undone")
    if is_view(new_root):  # a tensor of its own keeps chains of views short
        new_root = edit.aten.clone(new_root)
    _move_readers(node, target, root, new_root, edit)
    edit.erase(node)


def _failure(node: Node, reason: str) -> PassError:
    return PassError(f"the in-place op {op_name(node)} cannot be made functional", at=where(node), why=reason)


def _functional_call(node: Node, target: Node, edit: Edit) -> Node | None:
    """The same op without the underscore, on the same arguments, in the type of what was written to."""
    if torch.Tag.inplace_view in getattr(node.target, "tags", ()):
        return edit.aten.detach(target) if is_call(node, aten.detach_) else None
    if is_call(node, aten.copy_):
        source: Any = node.args[1]
        if value_of(source).dtype != value_of(target).dtype:
            source = edit.call(aten.to.dtype, source, value_of(target).dtype)
        if _equal_shape(source, target):
            return edit.aten.clone(source)  # the source may be written to later
        return edit.aten.clone(edit.call(aten.expand.default, source, _sizes(target, edit)))
    if is_call(node, aten.fill_.Scalar, aten.zero_):
        return edit.call(aten.full_like.default, target, node.args[1] if len(node.args) > 1 else 0)
    overload: Any = node.target
    name, variant = overload._schema.name.removeprefix("aten::"), overload._overloadname
    packet = getattr(aten, name.rstrip("_"), None)
    if not name.endswith("_") or packet is None:
        return None
    same_name = variant in packet.overloads()
    functional = getattr(packet, variant) if same_name else choose_overload(packet, node.args, dict(node.kwargs))
    new = edit.call(functional, *node.args, **node.kwargs)
    wanted = value_of(target).dtype
    return new if value_of(new).dtype == wanted else edit.call(aten.to.dtype, new, wanted)


def _equal_shape(a: Node, b: Node) -> bool:
    return same_shape(shape_of(a) or (), shape_of(b) or ())


def _sizes(node: Node, edit: Edit) -> list[Any]:
    """Sizes of a value as numbers and `sym_size` nodes."""
    sizes = shape_of(node) or ()
    return [size if isinstance(size, int) else edit.call(aten.sym_size.int, node, i) for i, size in enumerate(sizes)]


def _move_readers(node: Node, target: Node, root: Node, new_root: Node, edit: Edit) -> None:
    """Later readers of the written tensor, and of every view of it, read the new value."""
    moved: dict[Node, Node] = {root: new_root}
    for alias in [alias for alias in views_of(root) if alias < node and alias not in edit.created_set]:
        if any(node < user for user in alias.users):
            edit.replace(alias, _replay(alias, moved, edit), users=lambda user: node < user)
    if node.users:
        edit.replace(node, _replay(target, moved, edit))


def _replay(alias: Node, moved: dict[Node, Node], edit: Edit) -> Node:
    """The view `alias`, taken of the new value."""
    if alias not in moved:
        source = _replay(view_source(alias), moved, edit)
        moved[alias] = edit.copy(alias, (source, *alias.args[1:]), dict(alias.kwargs))
    return moved[alias]
