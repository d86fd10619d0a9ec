"""The region of a rewrite: what computed its values before, what computes them now, and what both read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

from graphwright.ir.isomorphism import canonical_form
from graphwright.ir.record import NodeRecord, Rewrite

Records = Mapping[str, NodeRecord]


@dataclass(frozen=True)
class Region:
    """One rewrite, closed enough to be run by itself.

    Args:
        rewrite: The rewrite.
        before: Nodes by name that computed the replaced values.
        after: Nodes by name that compute them now.
        shared: Nodes upstream that both sides read, such as how a mask is made.
        leaves: What neither side computes, in order of first use: it becomes an input.
        pairs: (old, new) names of the values that must be equal.
    """

    rewrite: Rewrite
    before: Records
    after: Records
    shared: Records
    leaves: Records
    pairs: tuple[tuple[str, str], ...]

    def key(self, constant: Callable[[str], Hashable]) -> Hashable:
        """Equal for rewrites that do the same somewhere else.

        Args:
            constant: What identifies a tensor of the state by name: its value, or nothing where any value may be tried.
        """
        parts = (self.shared.values(), self.leaves.values(), self.rewrite.removed, self.rewrite.added)
        records = [_anonymous(record) for part in parts for record in part]
        constants = tuple(constant(r.target) for part in parts for r in part if r.op == "get_attr")
        return self.rewrite.rule, tuple(map(len, parts)), constants, canonical_form(records)

    def records(self) -> Iterator[NodeRecord]:
        """All nodes of both sides."""
        yield from (*self.shared.values(), *self.leaves.values(), *self.before.values(), *self.after.values())

    def order(self, side: Records, names: list[str]) -> list[NodeRecord]:
        """The nodes of one side that compute `names`, each after what it reads."""
        found: dict[str, NodeRecord] = {}
        stack = [(name, False) for name in reversed(names)]
        while stack:
            name, done = stack.pop()
            record = side.get(name) or self.shared.get(name)
            if name in found or name in self.leaves or record is None:
                continue
            if done:
                found[name] = record
            else:
                stack.append((name, True))
                stack.extend((source, False) for source in reversed(record.inputs()))
        return list(found.values())


def _anonymous(record: NodeRecord) -> NodeRecord:
    """A record without the module it came from."""
    return replace(record, path="", target="" if record.op == "get_attr" else record.target)


def reached(names: list[str], *sides: Records) -> dict[str, None]:
    """Names that are read, directly or not, by `names`, and that none of `sides` computes; in order of first use."""
    outside: dict[str, None] = {}
    seen: set[str] = set()
    stack = list(reversed(names))
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        record = next((side[name] for side in sides if name in side), None)
        if record is None:
            outside[name] = None
        else:
            stack.extend(reversed(record.inputs()))
    return outside
