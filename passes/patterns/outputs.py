"""Patterns with several outputs: how the others are found from what the first one matched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.fx import Node

from graphwright.passes.patterns.calls import Call
from graphwright.passes.patterns.expressions import Capture, Expr, Goal

if TYPE_CHECKING:
    from graphwright.passes.patterns.matcher import Search


class OtherOutput(Expr):
    """A further output: some node that is reached upwards from a value the pattern has already bound."""

    def __init__(self, output: Expr) -> None:
        self.output = output

    def attempts(self, value: Any, owner: Node | None, search: Search) -> Iterator[tuple[Goal, ...]]:
        """Try each candidate that is not an output already."""
        if search.is_bound(id(self.output)):
            yield ()
            return
        taken = [search.value(id(output)) for output in search.pattern.outputs]
        candidates = [node for node in reachable(self.output, search) or [] if node not in taken]
        if not candidates:
            search.fail(self.output, lambda: f"no other node matches {search.text(self.output)}", search.root)
        for node in candidates:
            yield ((self.output, node, None),)

    def children(self) -> tuple[Expr, ...]:
        """The output."""
        return (self.output,)


def reachable(expr: Expr, search: Search) -> list[Node] | None:
    """Nodes that might match `expr`, found through users of bound values; None if nothing below it is bound."""
    known = search.value(expr.name if isinstance(expr, Capture) else id(expr))
    if isinstance(known, Node):
        return [known]
    below = [nodes for child in expr.children() if (nodes := reachable(child, search)) is not None]
    if not below:
        return None
    if isinstance(expr, Call):
        found = {user for node in below[0] for user in node.users}
    else:
        found = {node for nodes in below for node in nodes}
    return sorted(node for node in found if expr.accepts(node))


def first_outside_user(outputs: tuple[Node, ...], inside: set[Node]) -> Node | None:
    """The first node in graph order that uses an output from outside the match."""
    users = [user for output in outputs for user in output.users if user not in inside]
    return min(users) if users else None
