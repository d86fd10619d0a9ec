"""Pattern expressions: what a value may look like.

An expression yields, for a value, each way in which it could match: the sub-goals that remain. The matcher
(`graphwright.passes.patterns.matcher`) solves the goals depth first and undoes bindings on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.fx import Node

if TYPE_CHECKING:
    from graphwright.passes.patterns.matcher import Search
    from graphwright.passes.patterns.text import Writer

Goal = tuple["Expr", Any, Node | None]
"""An expression, the value it must match, and the node that has this value as an argument."""


class Axis(int):
    """A non-negative axis that knows the rank it counts against, so that it also equals its negative spelling."""

    rank: int

    @staticmethod
    def of(axis: int, rank: int) -> Axis:
        """The axis `axis` (negative or not) of a tensor of rank `rank`."""
        result = Axis(axis % rank if rank else 0)
        result.rank = rank
        return result


class Expr:
    """Base of pattern expressions; Python operators build the aten calls they stand for in a model's source."""

    shared = False
    """Whether two uses of this very object must match the same value."""

    __iter__ = None  # `__getitem__` would otherwise make every expression an endless sequence

    def attempts(self, value: Any, owner: Node | None, search: Search) -> Iterator[tuple[Goal, ...]]:
        """Yield the sub-goals of each way this could match `value`; report to `search` why it cannot."""
        raise TypeError(f"{type(self).__name__} must define attempts")

    def accepts(self, value: Any) -> bool:
        """Whether a first look at `value` does not rule it out."""
        return True

    def children(self) -> tuple[Expr, ...]:
        """Direct sub-expressions."""
        return ()

    def heads(self) -> tuple[str, ...]:
        """Short names of what a matching value can be, for messages: `softmax`, `dropout`."""
        return tuple(dict.fromkeys(head for child in self.children() for head in child.heads()))

    def targets(self) -> tuple[Any, ...] | None:
        """Call targets that a matching node can have, None where any value might match."""
        return None

    def write(self, writer: Writer) -> None:
        """Append this expression's text."""
        raise TypeError(f"{type(self).__name__} must define write")

    def named(self, name: str) -> Expr:
        """The same expression, whose value a match also offers as `m.<name>`."""
        return Capture(name, self)

    def __getitem__(self, index: int) -> Expr:
        return _call("getitem", self, index)

    def __add__(self, other: Any) -> Expr:
        return _call("add", self, other)

    def __radd__(self, other: Any) -> Expr:
        return _call("add", other, self)

    def __mul__(self, other: Any) -> Expr:
        return _call("mul", self, other)

    def __rmul__(self, other: Any) -> Expr:
        return _call("mul", other, self)

    def __sub__(self, other: Any) -> Expr:
        return _call("sub", self, other)

    def __rsub__(self, other: Any) -> Expr:
        return _call("rsub", self, other)

    def __truediv__(self, other: Any) -> Expr:
        return _call("div", self, other)

    def __matmul__(self, other: Any) -> Expr:
        return _call("matmul", self, other)

    def __pow__(self, other: Any) -> Expr:
        return _call("pow", self, other)

    def __neg__(self) -> Expr:
        return _call("neg", self)


def _call(op: str, *args: Any) -> Expr:
    from graphwright.passes.patterns.proxy import call_operator

    return call_operator(op, *args)


class Capture(Expr):
    """A named value. Every use must be the same node, or an equal literal."""

    def __init__(self, name: str, inner: Expr | None = None) -> None:
        self.name, self.inner = name, inner

    def attempts(self, value: Any, owner: Node | None, search: Search) -> Iterator[tuple[Goal, ...]]:
        """Bind the name, or compare with what it is bound to."""
        value = plain(value)
        if search.is_bound(self.name):
            before = search.value(self.name)
            if not same(before, value):
                search.fail(self, lambda: f"{self.name} is {show(before)} before and {show(value)} here", value, owner)
                return
        else:
            search.bind(self.name, value)
        yield () if self.inner is None else ((self.inner, value, owner),)

    def accepts(self, value: Any) -> bool:
        """Whether the inner expression might match."""
        return self.inner is None or self.inner.accepts(value)

    def children(self) -> tuple[Expr, ...]:
        """The inner expression, if any."""
        return () if self.inner is None else (self.inner,)

    def targets(self) -> tuple[Any, ...] | None:
        """Targets of the inner expression."""
        return None if self.inner is None else self.inner.targets()

    def write(self, writer: Writer) -> None:
        """`x`, or `x=softmax(...)` for a named sub-expression."""
        writer.add(self.name if self.inner is None else f"{self.name}=")
        if self.inner is not None:
            writer.expression(self.inner)


class Anything(Expr):
    """Matches any value without capturing it; written `...` in patterns."""

    def attempts(self, value: Any, owner: Node | None, search: Search) -> Iterator[tuple[Goal, ...]]:
        """Always match."""
        yield ()

    def write(self, writer: Writer) -> None:
        """`...`."""
        writer.add("...")


class Literal(Expr):
    """A number, flag, dtype, list of them, or None. A number also matches a constant 0-d tensor of that value."""

    def __init__(self, value: Any) -> None:
        self.expected = value

    def attempts(self, value: Any, owner: Node | None, search: Search) -> Iterator[tuple[Goal, ...]]:
        """Compare."""
        if self.matches(value, search):
            yield ()
        else:
            search.fail(self, lambda: f"expected {self.expected!r}, found {show(value)}", value, owner)

    def matches(self, value: Any, search: Search) -> bool:
        """Whether `value` equals the literal."""
        if isinstance(value, Node) and isinstance(self.expected, (int, float)):
            value = search.number(value)
        return same(self.expected, value)

    def write(self, writer: Writer) -> None:
        """The literal as Python shows it, floats in six digits."""
        writer.add(f"{self.expected:.6g}" if isinstance(self.expected, float) else show(self.expected))


class ListOf(Expr):
    """A list whose items are expressions, as in `aten.cat([a, b], -1)`."""

    def __init__(self, items: tuple[Expr, ...]) -> None:
        self.items = items

    def attempts(self, value: Any, owner: Node | None, search: Search) -> Iterator[tuple[Goal, ...]]:
        """Match a list of the same length, item by item."""
        if isinstance(value, (list, tuple)) and len(value) == len(self.items):
            yield tuple((item, part, owner) for item, part in zip(self.items, value, strict=True))
        else:
            search.fail(self, lambda: f"expected a list of {len(self.items)}, found {show(value)}", None, owner)

    def children(self) -> tuple[Expr, ...]:
        """The items."""
        return self.items

    def write(self, writer: Writer) -> None:
        """`[a, b]`."""
        writer.add("[")
        writer.list(self.items)
        writer.add("]")


def as_expr(value: Any) -> Expr:
    """An argument of a pattern call as an expression."""
    if isinstance(value, Expr):
        return value
    if value is Ellipsis:
        return Anything()
    if isinstance(value, (list, tuple)) and any(isinstance(item, Expr) or item is Ellipsis for item in value):
        return ListOf(tuple(as_expr(item) for item in value))
    return Literal(value)


def same(expected: Any, value: Any) -> bool:
    """Whether two values are the same node or equal literals; a flag is not a number, an axis may be negative."""
    if isinstance(expected, Node) or isinstance(value, Node):
        return expected is value
    if isinstance(expected, (list, tuple)) and isinstance(value, (list, tuple)):
        return len(expected) == len(value) and all(map(same, expected, value))
    if isinstance(expected, bool) is not isinstance(value, bool):
        return False
    if isinstance(value, Axis) and isinstance(expected, int):
        return -value.rank <= expected < value.rank and expected % value.rank == int(value)
    return (type(expected) is type(value) and expected == value) or _equal_numbers(expected, value)


def _equal_numbers(expected: Any, value: Any) -> bool:
    return isinstance(expected, (int, float)) and isinstance(value, (int, float)) and expected == value


def plain(value: Any) -> Any:
    """The value with every `Axis` turned into an ordinary int."""
    if isinstance(value, Axis):
        return int(value)
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def show(value: Any) -> str:
    """A value for messages: `%node`, `[1, 2]`, `0.5`."""
    if isinstance(value, Node):
        return f"%{value.name}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(show(item) for item in value)}]"
    return repr(plain(value))
