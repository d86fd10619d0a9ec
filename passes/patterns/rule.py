"""Rule: a pattern, a check, and a rewrite.

    class AddZero(Rule):
        '''x + 0 -> x'''

        def pattern(self, x):
            return aten.add(x, 0)

        def rewrite(self, m, rw):
            return m.x

The pattern is built and checked when the class is defined.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from graphwright.ir.edit import Edit
from graphwright.ir.errors import PassError, PatternError
from graphwright.passes.patterns.calls import Call
from graphwright.passes.patterns.expressions import Capture, Expr
from graphwright.passes.patterns.match import Match
from graphwright.passes.patterns.text import PatternText

_RESERVED = frozenset({"rule", "root", "outputs", "nodes", "captures", "tag", "number", "require", "self"})


@dataclass(frozen=True)
class Pattern:
    """A checked pattern.

    Args:
        outputs: One expression per output, the root first.
        captures: Name -> the expression that captures it.
        calls: All calls in it.
        roots: Call targets that the root can have.
        text: The pattern as text.
    """

    outputs: tuple[Expr, ...]
    captures: dict[str, Expr]
    calls: tuple[Call, ...]
    roots: tuple[Any, ...]
    text: PatternText


class Rule:
    """Base of rewrite rules.

    Class attributes:
        requires: Invariants that the program must have.
        allow_shared: Whether matched inner nodes may have users outside the match.
        budget: Most steps to spend on one root before giving up.
        compiled: The checked pattern, made when the class is defined.
    """

    requires: ClassVar[Any] = frozenset()
    allow_shared: ClassVar[bool] = False
    budget: ClassVar[int] = 5000
    compiled: ClassVar[Pattern]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.requires = frozenset(cls.requires)
        if cls.pattern is not Rule.pattern:
            cls.compiled = compile_pattern(cls)

    @property
    def name(self) -> str:
        """Name for records, misses and reports: the class name."""
        return type(self).__name__

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(type(self)) or "").partition("\n")[0]

    def pattern(self, *captures: Any) -> Any:
        """The expression to find, or a tuple of several outputs; parameters are the captures.

        Called once, when the class is defined, so it may depend on class attributes only.
        """
        raise PatternError(f"rule {type(self).__name__} has no pattern", remedies=["define pattern(self, x, ...)"])

    def check(self, m: Match) -> None:
        """Refuse a match with `m.require(condition, reason, at=...)`."""

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The value that takes the place of the root; a tuple for several outputs."""
        raise PassError(f"rule {self.name} only finds, it has no rewrite", remedies=["define rewrite(self, m, rw)"])


def compile_pattern(cls: type[Rule]) -> Pattern:
    """Build and check the pattern of a rule class.

    Raises:
        PatternError: Names the rule and what is wrong with its pattern.
    """
    names = tuple(inspect.signature(cls.pattern).parameters)[1:]
    reserved = _RESERVED.intersection(names)
    if reserved:
        raise PatternError(f"rule {cls.__name__}: a capture cannot be called '{min(reserved)}'")
    try:
        built = cls.pattern(object.__new__(cls), *(Capture(name) for name in names))
    except PatternError as error:
        raise PatternError(f"rule {cls.__name__}: {error.what}", why=error.why, remedies=error.remedies) from None
    outputs = built if isinstance(built, tuple) else (built,)
    return _checked(cls.__name__, names, outputs)


def _checked(rule: str, names: tuple[str, ...], outputs: tuple[Any, ...]) -> Pattern:
    if not outputs or not all(isinstance(output, Expr) for output in outputs):
        raise PatternError(f"rule {rule}: pattern must return an expression or a tuple of them")
    parts = [dict.fromkeys(walk(output)) for output in outputs]
    every = [part for group in parts for part in group]
    found: dict[str, Expr] = {part.name: part for part in reversed(every) if isinstance(part, Capture)}
    used = {name: found[name] for name in dict.fromkeys((*names, *found)) if name in found}
    unused = [name for name in names if name not in used]
    if unused:
        raise PatternError(f"rule {rule}: capture '{unused[0]}' is not used in the pattern")
    for output in outputs:
        if output.targets() is None:
            raise PatternError(
                f"rule {rule}: the root of a pattern must be an op, not {PatternText.of((output,)).text}",
                why="any node might match it",
            )
    for i, part in enumerate(parts[1:], 1):
        if not any(part.keys() & other.keys() for other in parts[:i]):
            raise PatternError(f"rule {rule}: output {i} shares no capture with the outputs before it")
    calls = tuple(dict.fromkeys(part for part in every if isinstance(part, Call)))
    return Pattern(outputs, used, calls, outputs[0].targets() or (), PatternText.of(outputs))


def walk(expr: Expr, seen: set[int] | None = None) -> Iterator[Expr]:
    """The expression and all below it, each once."""
    seen = set() if seen is None else seen
    if id(expr) not in seen:
        seen.add(id(expr))
        yield expr
        for child in expr.children():
            yield from walk(child, seen)
