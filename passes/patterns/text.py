"""Patterns as text, with the span of every sub-expression, so that a miss can point at the part that failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphwright.passes.patterns.expressions import Expr

_WIDTH = 100


class Writer:
    """Collects the text of an expression and where each part of it starts and ends."""

    def __init__(self, repeated: Iterable[int] = ()) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._labels = {expr: f"${i}" for i, expr in enumerate(repeated, 1)}
        self.spans: dict[int, tuple[int, int]] = {}
        self.repeated: dict[int, None] = {}

    def add(self, text: str) -> None:
        """Append text."""
        self._parts.append(text)
        self._length += len(text)

    def expression(self, expr: Expr) -> None:
        """Append an expression; later uses of a shared one are just its label: `add($1=relu(x), exp($1))`."""
        label = self._labels.get(id(expr), "")
        if expr.shared and id(expr) in self.spans:
            self.repeated[id(expr)] = None
            self.add(label)
            return
        self.add(f"{label}=" if label else "")
        start = self._length
        expr.write(self)
        self.spans.setdefault(id(expr), (start, self._length))

    def list(self, items: Iterable[Expr], separator: str = ", ") -> None:
        """Append expressions with a separator between them."""
        for i, item in enumerate(items):
            self.add(separator if i else "")
            self.expression(item)

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._parts)


@dataclass(frozen=True)
class PatternText:
    """A pattern as one line of text; `spans` maps the id of a sub-expression to where it is written."""

    text: str
    spans: dict[int, tuple[int, int]]

    @staticmethod
    def of(outputs: tuple[Expr, ...]) -> PatternText:
        """Write a pattern: once to see what is repeated, and once with labels for that."""
        draft = Writer()
        draft.list(outputs)
        writer = Writer(draft.repeated)
        writer.list(outputs)
        return PatternText(writer.text, writer.spans)

    def span(self, expr: Expr) -> tuple[int, int]:
        """Where an expression is written; all of the pattern for one that is not."""
        return self.spans.get(id(expr), (0, len(self.text)))


def caret(text: str, span: tuple[int, int]) -> str:
    """The line, clipped around `span` where it is long, and a second line that underlines the span."""
    start, end = span
    left = max(0, min(start - _WIDTH // 4, len(text) - _WIDTH))
    right = min(len(text), left + _WIDTH)
    head, tail = "... " if left else "", " ..." if right < len(text) else ""
    marks = "^" * max(1, min(end, right) - start)
    return f"{head}{text[left:right]}{tail}\n{' ' * (len(head) + start - left)}{marks}"
