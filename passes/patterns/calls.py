"""Calls in patterns: arguments are compared after binding them to the op's schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.fx import Node

from graphwright.ir.node import bound, op_name
from graphwright.ir.ops import axis_arguments, axis_rank, swappable_arguments
from graphwright.passes.patterns.expressions import Axis, Expr, Goal, Literal, show

if TYPE_CHECKING:
    from graphwright.passes.patterns.matcher import Search
    from graphwright.passes.patterns.text import Writer


@dataclass(frozen=True)
class Binding:
    """A pattern call bound to one target: the literals and the expressions its arguments must match, by name."""

    literals: tuple[tuple[str, Literal], ...]
    expressions: tuple[tuple[str, Expr], ...]

    @staticmethod
    def of(arguments: Mapping[str, Expr]) -> Binding:
        """Sort arguments into those that are compared at once and those that become goals."""
        literals = tuple((name, e) for name, e in arguments.items() if isinstance(e, Literal))
        return Binding(literals, tuple((name, e) for name, e in arguments.items() if not isinstance(e, Literal)))


class Call(Expr):
    """A call of one of several targets, usually the overloads of one op.

    Args:
        name: The op as the pattern spells it.
        written: Positional and keyword arguments as the pattern spells them.
        bindings: Target -> bound arguments.
    """

    shared = True

    def __init__(self, name: str, written: tuple[tuple[str, Expr], ...], bindings: Mapping[Any, Binding]) -> None:
        self.name, self.written, self.bindings = name, written, dict(bindings)

    def attempts(self, value: Any, owner: Node | None, search: Search) -> Iterator[tuple[Goal, ...]]:
        """Match the node's target, then its arguments, in each order that the op allows."""
        if not self.accepts(value):
            search.fail(self, lambda: f"expected {self.name}, found {describe(value)}", value, owner)
            return
        binding = self.bindings[value.target]
        for arguments in _orders(value):
            wrong = next((p for p in binding.literals if not p[1].matches(arguments[p[0]], search)), None)
            if wrong is None:
                search.claim(value)
                yield tuple((expr, arguments[name], value) for name, expr in binding.expressions)
            else:
                self._fail_literal(wrong, arguments, value, search)

    def _fail_literal(self, wrong: tuple[str, Literal], arguments: dict[str, Any], node: Node, search: Search) -> None:
        name, literal = wrong

        def reason() -> str:
            pair = swappable_arguments(node.target) or ()
            if name in pair:
                operands = " and ".join(show(arguments[one]) for one in pair)
                return f"{self.name} takes {operands}, expected {show(literal.expected)} as one of them"
            return f"argument {name} of {self.name} is {show(arguments[name])}, expected {show(literal.expected)}"

        part = literal if any(literal is expr for _, expr in self.written) else self
        search.fail(part, reason, None, node, found=1)

    def accepts(self, value: Any) -> bool:
        """Whether `value` is a call of one of the targets."""
        return isinstance(value, Node) and value.op == "call_function" and value.target in self.bindings

    def children(self) -> tuple[Expr, ...]:
        """The arguments as written."""
        return tuple(expr for _, expr in self.written)

    def heads(self) -> tuple[str, ...]:
        """The op as the pattern spells it."""
        return (self.name,)

    def targets(self) -> tuple[Any, ...]:
        """The call targets."""
        return tuple(self.bindings)

    def write(self, writer: Writer) -> None:
        """`softmax(x, dim=-1)`."""
        writer.add(f"{self.name}(")
        for i, (name, expr) in enumerate(self.written):
            writer.add(", " if i else "")
            writer.add(f"{name}=" if name else "")
            writer.expression(expr)
        writer.add(")")


def _orders(node: Node) -> Iterator[dict[str, Any]]:
    """Bound arguments as written, then with the two swappable ones exchanged."""
    arguments = bound(node)
    axes = axis_arguments(node.target)
    rank = axis_rank(node) if axes else None
    if rank is not None:
        arguments |= {name: _axis(arguments[name], rank) for name in axes}
    yield arguments
    pair = swappable_arguments(node.target)
    if pair and arguments.get("alpha", 1) == 1 and arguments[pair[0]] is not arguments[pair[1]]:
        first, second = pair
        yield arguments | {first: arguments[second], second: arguments[first]}


def _axis(value: Any, rank: int) -> Any:
    if isinstance(value, (list, tuple)):
        return [_axis(item, rank) for item in value]
    return Axis.of(value, rank) if isinstance(value, int) and not isinstance(value, bool) else value


def describe(value: Any) -> str:
    """What a value is, for messages: `relu`, `the input 'x'`, `the weight 'w'`, `the literal 2`."""
    if not isinstance(value, Node):
        return f"the literal {show(value)}"
    if value.op == "placeholder":
        return f"the input '{value.target}'"
    if value.op == "get_attr":
        return f"the weight '{value.target}'"
    return op_name(value)
