"""Local rules: rewrites of a single node, found by its op.

A local rule looks at one node and returns the value to use instead, or None to leave it:

    @local_rule(aten.dropout)
    def inactive_dropout(node, edit):
        return None if bound(node)["train"] else bound(node)["input"]

They cost a dictionary lookup per node, which is why canonicalization is written in them; whatever spans several nodes
and should explain its misses is a `graphwright.passes.patterns.Rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.ir.views import view_root, views_of

LocalRule = Callable[[Node, Edit], Any]


class RuleTable(dict[Any, list[tuple[str, LocalRule]]]):
    """Local rules by the op (packet, overload or Python function) that they look at."""

    def local_rule(self, *targets: Any) -> Callable[[LocalRule], LocalRule]:
        """Decorator that adds a rule for calls of `targets`."""

        def add(rule: LocalRule) -> LocalRule:
            name = "".join(part.capitalize() for part in rule.__name__.split("_"))
            for target in targets:
                self.setdefault(target, []).append((name, rule))
            return rule

        return add

    def rules_for(self, node: Node) -> list[tuple[str, LocalRule]]:
        """The rules that look at this node."""
        packet = getattr(node.target, "overloadpacket", None)
        return [*self.get(node.target, ()), *(self.get(packet, ()) if packet is not None else ())]


def merge_tables(tables: Iterable[RuleTable]) -> RuleTable:
    """One table with the rules of all, in order."""
    merged = RuleTable()
    for table in tables:
        for target, rules in table.items():
            merged.setdefault(target, []).extend(rules)
    return merged


def sweep(
    table: RuleTable, program: Program, rewriter: Rewriter, *, rounds: int = 10, skip: Collection[Node] = frozenset()
) -> int:
    """Apply the rules of `table` in graph order until nothing changes; returns the number of rewrites.

    Nodes in `skip`, and those that read them, are left alone.
    """
    total = 0
    for _ in range(rounds):
        changed = sum(
            _apply_first(table, node, rewriter)
            for node in list(program.graph.nodes)
            if not (skip and (node in skip or any(source in skip for source in node.all_input_nodes)))
        )
        total += changed
        if not changed:
            break
    return total


def _apply_first(table: RuleTable, node: Node, rewriter: Rewriter) -> bool:
    """Apply the first rule that fires on a node that is still in the graph."""
    if node.op != "call_function" or node._erased:
        return False
    for name, rule in table.rules_for(node):
        with rewriter.site(name, (node,)) as edit:
            new = rule(node, edit)
            fires = new is not None and not _leaks(node, new)
            if fires:
                edit.replace(node, new)
                edit.erase(node)
        if fires:
            return True
    return False


def _leaks(node: Node, new: Any) -> bool:
    """Whether the program would return one of its inputs or weights where it returned a copy."""
    root = view_root(new) if isinstance(new, Node) else None
    if root is None or root.op == "call_function" or view_root(node) is root:
        return False
    return any(user.op == "output" for view in views_of(node) for user in view.users)
