"""Tables from ops to the functions that emit them for a target.

    table = EmitterTable()

    @table.register(aten.softmax.int)
    def softmax(builder, self, dim, dtype): ...

An emitter is called with the target's builder and the arguments of the node by schema name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch.fx import Node

from graphwright.lowering.support import Support

Emit = Callable[..., Any]
Validator = Callable[[Node], Support]

F = TypeVar("F", bound=Emit)


@dataclass(frozen=True)
class Emitter:
    """How one op is emitted.

    Args:
        emit: The function that emits it.
        validate: Says whether it can emit a given node; None: every node.
        priority: Of several that can, the one with the largest priority is taken.
    """

    emit: Emit
    validate: Validator | None = None
    priority: int = 0

    def supports(self, node: Node) -> Support:
        """Whether this emitter can emit `node`."""
        return Support.yes() if self.validate is None else self.validate(node)


@dataclass
class EmitterTable:
    """Emitters by op overload or Python function."""

    emitters: dict[Any, list[Emitter]] = field(default_factory=dict)

    def register(self, *targets: Any, validate: Validator | None = None, priority: int = 0) -> Callable[[F], F]:
        """Decorator that makes a function the emitter of `targets` (overloads or Python functions)."""

        def decorate(emit: F) -> F:
            for target in targets:
                found = self.emitters.setdefault(target, [])
                found.append(Emitter(emit, validate, priority))
                found.sort(key=lambda emitter: -emitter.priority)
            return emit

        return decorate

    def find(self, node: Node) -> tuple[Emitter | None, Support]:
        """The emitter for a node, or why there is none."""
        answer = Support.no("no emitter for this op")
        for emitter in self.emitters.get(node.target, ()):
            answer = emitter.supports(node)
            if answer.ok:
                return emitter, answer
        return None, answer
