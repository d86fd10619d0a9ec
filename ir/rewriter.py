"""The one gateway for edits: typed, transactional, and recorded.

A `Rewriter` belongs to one program. `with rewriter.site(rule, nodes) as edit:` opens a transaction; leaving the block
commits it and emits one `Rewrite` record, an exception rolls it back and leaves the graph as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.errors import GraphwrightError, PassError
from graphwright.ir.infer import fake_mode_of
from graphwright.ir.memo import TypeMemo
from graphwright.ir.node import module_path, source_line, where
from graphwright.ir.program import Program
from graphwright.ir.record import NodeRecord, Rewrite, node_record
from graphwright.ir.sizes import symbol_sources

Sink = Callable[[Rewrite], None]


class Rewriter:
    """Edits one program in recorded transactions.

    Args:
        program: The program to edit in place.
        sink: Called with the record of each committed site.
        pass_name: Name of the pass on whose behalf edits are made.

    Attributes:
        notes: Findings of the pass, JSON-able; they become notes of its record in the trace.
    """

    def __init__(self, program: Program, sink: Sink | None = None, pass_name: str = "") -> None:
        self.program = program
        self.pass_name = pass_name
        self.fake_mode = fake_mode_of(program.graph)
        self.types = TypeMemo(self.fake_mode)
        self.names = program.dim_names()
        self.symbols = symbol_sources(program.graph)
        self.notes: dict[str, Any] = {}
        self._sink = sink

    @contextmanager
    def site(self, rule: str, nodes: Iterable[Any]) -> Iterator[Edit]:
        """Open a transaction.

        Args:
            rule: Name of the rule, for the record.
            nodes: The matched nodes. New nodes go before the last of them and inherit its provenance; those that
                are dead when the block ends are removed.

        Raises:
            PassError: The block raised; names rule, module path and source line. The graph is as before.
        """
        matched = [getattr(node, "node", node) for node in nodes]
        edit = Edit(self, rule, matched)
        try:
            yield edit
            edit.check()
        except Exception as error:
            edit.roll_back()
            if isinstance(error, GraphwrightError):
                place = f" at {where(max(matched))}" if matched else ""
                error.add_note(f"in rule {rule} of pass '{self.pass_name}'{place}")
                raise
            raise PassError(
                f"rule {rule} of pass '{self.pass_name}' failed: {type(error).__name__}: {error}",
                at=where(max(matched)) if matched else None,
                remedies=["report it with the reproducer that the pipeline's DumpDir writes"],
            ) from error
        if edit.changed:
            self._commit(edit)

    def _commit(self, edit: Edit) -> None:
        last = edit.anchor
        site, source = edit.path or _site(edit), edit.source or (source_line(last) if last is not None else "")
        removed = self._remove_dead(edit)
        gone = {node.name for node in removed}
        edited = {node: before for node, before in edit.edited.items() if node not in removed}
        added = [node_record(node, self.names) for node in (*edit.created, *edited) if node not in removed]
        record = Rewrite(
            pass_name=self.pass_name,
            rule=edit.rule,
            site=site,
            source=source,
            removed=(*(r for node, r in removed.items() if node not in edit.created_set), *edited.values()),
            added=tuple(added),
            replaced=tuple((old, new) for old, new in edit.replaced if new not in gone),
        )
        if not (record.removed or record.added or record.replaced):
            return
        self.program.touch()
        if self._sink is not None:
            self._sink(record)

    def _remove_dead(self, edit: Edit) -> dict[Node, NodeRecord]:
        """Erase nodes of the site that lost their last user, and what only they used within the site."""
        removed: dict[Node, NodeRecord] = {}
        candidates = sorted({*edit.matched, *edit.created, *edit.doomed}, reverse=True)
        for node in candidates:
            if not node.users and (node in edit.doomed or not is_needed(node)):
                removed[node] = node_record(node, self.names)
                self.program.graph.erase_node(node)
        return dict(reversed(removed.items()))


def _site(edit: Edit) -> str:
    """Path of the module that holds the whole site."""
    if len(edit.matched) > 1:
        stack = edit.stack
        return str(next(reversed(stack.values()))[0]) if stack else ""
    return module_path(edit.anchor) if edit.anchor is not None else ""


def is_needed(node: Node) -> bool:
    """Whether a node without users must stay: inputs, the output, and ops that write to memory.

    A random op without users may go: nobody sees its result.
    """
    return node.is_impure(impure_random=False)
