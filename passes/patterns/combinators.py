"""Alternatives, optional wrappers, constants, predicates: expressions made from expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from graphwright.ir.errors import PatternError
from graphwright.ir.node import tensor_type
from graphwright.ir.ops import is_relayout
from graphwright.passes.patterns.calls import describe
from graphwright.passes.patterns.expressions import Anything, Expr, Goal, as_expr, show
from graphwright.passes.patterns.proxy import OpProxy

if TYPE_CHECKING:
    from graphwright.passes.patterns.matcher import Search
    from graphwright.passes.patterns.text import Writer


class AnyOf(Expr):
    """Alternatives, tried in order; the first that leads to a whole match is taken and remembered under `tag`."""

    shared = True

    def __init__(self, alternatives: dict[Any, Expr], tag: str | None) -> None:
        self.alternatives, self.tag = alternatives, tag

    def attempts(self, value: Any, owner: Node | None, search: Search) -> Iterator[tuple[Goal, ...]]:
        """Try each alternative that a first look does not rule out."""
        possible = [(name, expr) for name, expr in self.alternatives.items() if expr.accepts(value)]
        if not possible:
            search.fail(self, lambda: f"expected {either(self)}, found {describe(value)}", value, owner)
        for name, expr in possible:
            if self.tag:
                search.bind(("tag", self.tag), name)
            yield ((expr, value, owner),)

    def accepts(self, value: Any) -> bool:
        """Whether some alternative might match."""
        return any(expr.accepts(value) for expr in self.alternatives.values())

    def children(self) -> tuple[Expr, ...]:
        """The alternatives."""
        return tuple(self.alternatives.values())

    def targets(self) -> tuple[Any, ...] | None:
        """Targets of all alternatives."""
        targets = [expr.targets() for expr in self.alternatives.values()]
        if any(one is None for one in targets):
            return None
        return tuple(dict.fromkeys(target for one in targets for target in one or ()))

    def write(self, writer: Writer) -> None:
        """`(a | b)`."""
        writer.add("(")
        writer.list(self.children(), " | ")
        writer.add(")")


class Maybe(AnyOf):
    """`op(x)` or `x` itself."""

    def write(self, writer: Writer) -> None:
        """`op(x)?`."""
        writer.expression(self.alternatives[True])
        writer.add("?")


class Guard(Expr):
    """A test on a value, then the inner expression on `view(value)`.

    Args:
        label: How the guard is written: `number`, `tensor`.
        inner: What the value must match besides.
        view: Gives the value to match; raises ValueError with the reason where it is refused.
    """

    def __init__(self, label: str, inner: Expr, view: Callable[[Any, Search], Any]) -> None:
        self.label, self.inner, self.view = label, inner, view

    def attempts(self, value: Any, owner: Node | None, search: Search) -> Iterator[tuple[Goal, ...]]:
        """Test, then go on with the inner expression."""
        try:
            seen = self.view(value, search)
        except ValueError as refusal:
            reason = str(refusal)
            search.fail(self, lambda: reason, value, owner)
            return
        yield ((self.inner, seen, owner),)

    def accepts(self, value: Any) -> bool:
        """Whether the inner expression might match a node as it is."""
        return not isinstance(value, Node) or self.inner.accepts(value)

    def children(self) -> tuple[Expr, ...]:
        """The inner expression."""
        return (self.inner,)

    def targets(self) -> tuple[Any, ...] | None:
        """Targets of the inner expression."""
        return self.inner.targets()

    def write(self, writer: Writer) -> None:
        """`label(inner)`, or just the label around anything."""
        writer.add(self.label)
        if not isinstance(self.inner, Anything):
            writer.add("(")
            writer.expression(self.inner)
            writer.add(")")


class Through(Expr):
    """The inner expression behind any number of ops that only change shape or strides."""

    def __init__(self, inner: Expr, skips: Callable[[Node], bool], label: str) -> None:
        self.inner, self.skips, self.label = inner, skips, label

    def attempts(self, value: Any, owner: Node | None, search: Search) -> Iterator[tuple[Goal, ...]]:
        """Try the value itself, then what lies behind one, two, ... skipped ops."""
        skipped: list[Node] = []
        while True:
            if self.inner.accepts(value):
                for node in skipped:
                    search.skip(node)
                yield ((self.inner, value, owner),)
            if not (isinstance(value, Node) and value.op == "call_function" and self.skips(value)):
                break
            skipped.append(value)
            owner, value = value, value.args[0] if value.args else None
        if not self.inner.accepts(value):
            search.fail(self, lambda: f"expected {either(self)}, found {describe(value)}", value, owner)

    def children(self) -> tuple[Expr, ...]:
        """The inner expression."""
        return (self.inner,)

    def write(self, writer: Writer) -> None:
        """`view_of(inner)`."""
        writer.add(f"{self.label}(")
        writer.expression(self.inner)
        writer.add(")")


def either(expr: Expr) -> str:
    """What an expression can start with: `dropout, to.dtype or softmax`."""
    *most, last = expr.heads() or ("another value",)
    return f"{', '.join(most)} or {last}" if most else last


def any_of(*alternatives: Any, tag: str | None = None, **named: Any) -> Expr:
    """One of several expressions; `m.tag(tag)` is the name, or the position, of the one that matched.

    `any_of(aten.div(x, s), aten.mul(x, s), tag="scale")` gives 0 or 1,
    `any_of(tag="scale", div=aten.div(x, s), mul=aten.mul(x, s))` gives "div" or "mul".
    """
    options: dict[Any, Expr] = {i: as_expr(value) for i, value in enumerate(alternatives)}
    options |= {name: as_expr(value) for name, value in named.items()}
    if len(options) < 2:
        raise PatternError("any_of needs at least two alternatives")
    return AnyOf(options, tag)


def maybe(wrap: Callable[[Any], Expr], inner: Any, tag: str | None = None) -> Expr:
    """`wrap(inner)` or `inner` itself; `m.tag(tag)` is True where the wrapper is there.

    `maybe(lambda x: aten.dropout(x, ..., False), aten.softmax(scores, -1))`
    """
    inner = as_expr(inner)
    return Maybe({True: wrap(inner), False: inner}, tag)


def number(what: Any = None, tolerance: float = 1e-6) -> Expr:
    """A constant number, literal or 0-d constant tensor.

    Args:
        what: The value to be near to, a capture to bind to the number, or None for any number.
        tolerance: Largest relative difference (absolute, where the value is 0).
    """

    def view(value: Any, search: Search) -> Any:
        found = search.number(value)
        if found is None:
            raise ValueError(f"expected a constant number, found {describe(value)}")
        if isinstance(what, (int, float)) and not _near(found, what, tolerance):
            raise ValueError(f"expected the number {what:.6g} within {tolerance:g}, found {found!r}")
        return found

    label = f"number<{what:.6g}>" if isinstance(what, (int, float)) else "number"
    return Guard(label, what if isinstance(what, Expr) else Anything(), view)


def _near(found: float, expected: float, tolerance: float) -> bool:
    return math.isclose(found, expected, rel_tol=tolerance, abs_tol=0.0 if expected else tolerance)


def const(what: Any = None) -> Expr:
    """A literal, a weight, or a constant 0-d tensor; `what` is a capture or expression it must match besides."""

    def view(value: Any, search: Search) -> Any:
        if isinstance(value, Node) and value.op != "get_attr" and search.number(value) is None:
            raise ValueError(f"expected a weight or literal, found {describe(value)}")
        return value

    return Guard("const", Anything() if what is None else as_expr(what), view)


def tensor(what: Any = None, *, rank: int | None = None, dtype: torch.dtype | None = None) -> Expr:
    """A tensor-valued node, of a rank or dtype where given; `what` is what it must match besides."""

    def view(value: Any, search: Search) -> Any:
        kind = tensor_type(value) if isinstance(value, Node) else None
        if kind is None:
            raise ValueError(f"expected a tensor, found {describe(value)}")
        if rank is not None and kind.rank != rank:
            raise ValueError(f"expected a tensor of rank {rank}, %{value.name} has rank {kind.rank}")
        if dtype is not None and kind.dtype != dtype:
            raise ValueError(f"expected a tensor of {dtype}, %{value.name} is {kind.dtype}")
        return value

    return Guard("tensor", Anything() if what is None else as_expr(what), view)


def where(what: Any, test: Callable[[Any], bool], reason: str) -> Expr:
    """`what` where `test(node or literal)` holds; `reason` says what failed otherwise.

    `number(where(n, lambda value: value > 0, "must be positive"))` tests numbers only.
    """

    def view(value: Any, search: Search) -> Any:
        if not test(value):
            raise ValueError(f"{show(value)}: {reason}")
        return value

    return Guard("where", as_expr(what), view)


def view_of(inner: Any) -> Expr:
    """`inner`, seen through any number of reshapes, transposes, expands: ops that move no values."""
    return Through(as_expr(inner), is_relayout, "view_of")


def through(inner: Any, *skipped: OpProxy) -> Expr:
    """`inner`, seen through any number of calls of the given ops along their first argument."""
    packets = {proxy._packet for proxy in skipped}
    return Through(as_expr(inner), lambda node: getattr(node.target, "overloadpacket", None) in packets, "through")
