"""The graph as it was when each rewrite happened, and the regions cut from it."""

from __future__ import annotations

from collections.abc import Iterable

from graphwright.ir.record import NodeRecord, Rewrite
from graphwright.ir.replay import with_inputs
from graphwright.passes.validation.region import Region, reached

_DEPTH = 80
_ROUNDS = 16


class History:
    """Follows the rewrites of a pass from the nodes before it.

    Args:
        nodes: The nodes before the pass.
        parameters: Names of the state that is trained, and so may hold anything.
    """

    def __init__(self, nodes: Iterable[NodeRecord], parameters: Iterable[str]) -> None:
        self._parameters = frozenset(parameters)
        self._known: dict[str, NodeRecord] = {}
        self._renamed: dict[str, str] = {}
        self._derived: dict[str, bool] = {}
        self._readers: dict[str, list[str]] = {}
        for record in nodes:
            self._add(record)

    def advance(self, rewrite: Rewrite) -> None:
        """Take a rewrite into account; call it after `region`."""
        gone = {record.name for record in rewrite.removed}
        self._renamed.update((old, new) for old, new in rewrite.replaced if old in gone and new.isidentifier())
        for name in gone:
            self._known.pop(name, None)
        for record in rewrite.added:
            self._add(record)
        for old, new in rewrite.replaced:
            if self._derived.get(new, False) and not self._derived.get(old, True):
                self._spread(old)

    def _spread(self, name: str) -> None:
        """A value turned out to be derived: so may be those that read it."""
        stack = [name]
        while stack:
            for reader in self._readers.get(stack.pop(), ()):
                record = self._known.get(reader)
                if record is not None and not self._derived[reader] and self._computed_from_indices(record):
                    self._derived[reader] = True
                    stack.append(reader)

    def is_derived(self, name: str) -> bool:
        """Whether a value depends on no parameter and no floating-point input."""
        return self._derived.get(name, False)

    def region(self, rewrite: Rewrite) -> Region | None:
        """The region of the next rewrite; None if it replaces no value."""
        before = {record.name: record for record in rewrite.removed}
        after = {record.name: record for record in rewrite.added}
        pairs = [pair for pair in rewrite.replaced if pair[0] in before or pair[0] in self._known]
        pairs += [(name, name) for name in before if name in after]
        if not pairs:
            return None
        old, new = [pair[0] for pair in pairs], [pair[1] for pair in pairs if pair[1].isidentifier()]
        shared = self._upstream([a for a, b in pairs if b in after and after[b].op == "get_attr"], before)
        self._add_shared(shared, old, new, before, after)
        outside = reached(old, before, shared) | reached(new, after, shared)
        leaves = {name: self._known[name] for name in outside if name in self._known}
        return Region(rewrite, before, after, shared, leaves, tuple(pairs))

    def _upstream(self, names: list[str], before: dict[str, NodeRecord]) -> dict[str, NodeRecord]:
        """All that values which became constants are computed from."""
        shared: dict[str, NodeRecord] = {}
        while added := self._computed(reached(names, before, shared)):
            shared |= added
        return shared

    def _add_shared(
        self,
        shared: dict[str, NodeRecord],
        old: list[str],
        new: list[str],
        before: dict[str, NodeRecord],
        after: dict[str, NodeRecord],
    ) -> None:
        """Add upstream nodes to run as well: masks and positions, and what relates inputs of the two sides."""
        for _ in range(_ROUNDS):
            self._add_derived(shared, old, new, before, after)
            first, second = reached(old, before, shared), reached(new, after, shared)
            extra = [name for name in second if name not in first]
            wanted = [part for name in extra for part in self._path(list(first), name) or [name]]
            # A value that was there before, derived or not, is equal to the old one only by what lies between them.
            existing = [name for name in new if name in shared and name not in after]
            wanted += [part for name in existing for part in self._path(list(first), name)]
            added = {name: record for name, record in self._computed(wanted).items() if name not in shared}
            if not added:
                break
            shared |= added

    def _add_derived(
        self,
        shared: dict[str, NodeRecord],
        old: list[str],
        new: list[str],
        before: dict[str, NodeRecord],
        after: dict[str, NodeRecord],
    ) -> None:
        """Add masks, positions and the like, up to the inputs of the program."""
        while True:
            outside = reached(old, before, shared) | reached(new, after, shared)
            added = self._computed([name for name in outside if self.is_derived(name)])
            if not added:
                return
            shared |= added

    def _computed(self, names: Iterable[str]) -> dict[str, NodeRecord]:
        """Those of the names that a call computes, with their records."""
        return {name: record for name in names if (record := self._current(name)) is not None}

    def _path(self, starts: list[str], goal: str) -> list[str]:
        """Nodes on the way up from one of `starts` to `goal`, without it; empty if it is not upstream of them."""
        below: dict[str, str] = {}
        queue = list(starts)
        while queue and len(below) < _DEPTH * 4:
            name = queue.pop(0)
            record = self._current(name)
            for source in record.inputs() if record else ():
                if source not in below and source not in starts:
                    below[source] = name
                    queue.append(source)
        if goal not in below:
            return []
        path = [below[goal]]
        while path[-1] in below:
            path.append(below[path[-1]])
        return path

    def _add(self, record: NodeRecord) -> None:
        self._known[record.name] = record
        self._derived[record.name] = self._computed_from_indices(record)
        for source in record.inputs():
            self._readers.setdefault(source, []).append(record.name)

    def _computed_from_indices(self, record: NodeRecord) -> bool:
        """Whether a value depends on no parameter and no floating-point input: masks, positions, cosines."""
        if record.op == "get_attr":
            return record.target not in self._parameters
        if _is_size(record):
            return True
        if record.op == "placeholder":
            return not record.type.startswith(("f", "bf", "c"))
        return all(self._derived.get(self._resolve(name), False) for name in record.inputs())

    def _resolve(self, name: str) -> str:
        while name in self._renamed:
            name = self._renamed[name]
        return name

    def _current(self, name: str) -> NodeRecord | None:
        """A computed node with its inputs as they are now; None for inputs, state, sizes, and what is not known."""
        record = self._known.get(name)
        if record is None or record.op != "call_function" or _is_size(record):
            return None
        moved = {source: self._resolve(source) for source in record.inputs() if source in self._renamed}
        return with_inputs(record, moved) if moved else record


def _is_size(record: NodeRecord) -> bool:
    """Whether a value is a size, known once the dimensions are."""
    return record.type.startswith("int(")
