"""What matching gives: a Match with its captures, or a Miss that says why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from graphwright.ir.errors import GraphwrightError
from graphwright.ir.node import TensorType, module_path, source_line, tensor_type
from graphwright.passes.patterns.text import caret


class Rejected(GraphwrightError):
    """A rule's own check refused a match; the matcher turns it into a Miss."""

    def __init__(self, reason: str, culprit: Node | None = None) -> None:
        self.culprit = culprit
        super().__init__(reason)


@dataclass(frozen=True)
class Value:
    """A captured node with its type; pass it to `rw.aten.<op>(...)` as it is."""

    node: Node

    @property
    def type(self) -> TensorType:
        """Type of the tensor; a value that is none rejects the match."""
        found = tensor_type(self.node)
        if found is None:
            raise Rejected(f"%{self.node.name} is not a tensor", self.node)
        return found

    @property
    def shape(self) -> tuple[int | torch.SymInt, ...]:
        """Sizes of the tensor."""
        return self.type.shape

    @property
    def rank(self) -> int:
        """Number of dimensions of the tensor."""
        return self.type.rank

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the tensor."""
        return self.type.dtype

    def __str__(self) -> str:
        return f"%{self.node.name}"


class Match:
    """Where a rule matches. `m.<capture>` is a `Value`, a plain literal, or None where the capture was not reached.

    Attributes:
        rule: Name of the rule.
        root: The node that the pattern's (first) output matched.
        outputs: The nodes of all outputs, in the order the pattern returns them.
        nodes: All matched nodes in graph order.
    """

    def __init__(
        self,
        rule: str,
        outputs: tuple[Node, ...],
        nodes: tuple[Node, ...],
        captures: Mapping[str, Any],
        tags: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> None:
        self.rule, self.root, self.outputs, self.nodes = rule, outputs[0], outputs, nodes
        self._captures, self._tags, self._state = captures, tags, state

    def __getattr__(self, name: str) -> Any:
        captures: Mapping[str, Any] = self.__dict__.get("_captures", {})
        if name not in captures:
            raise AttributeError(f"the pattern has no capture '{name}', it has {', '.join(captures)}")
        value = captures[name]
        return Value(value) if isinstance(value, Node) else value

    def captures(self) -> dict[str, Any]:
        """Name -> node or literal of every capture; None where it was not reached."""
        return dict(self._captures)

    def tag(self, name: str) -> Any:
        """Which alternative matched: its name or position, True or False for `maybe`, None where not reached."""
        return self._tags.get(name)

    def number(self, value: Any) -> float | int | None:
        """The Python number of a literal or constant 0-d tensor, None for anything else."""
        from graphwright.passes.patterns.constants import as_number

        return as_number(getattr(value, "node", value), self._state)

    def require(self, condition: Any, reason: str, at: Any = None) -> None:
        """Reject the match unless `condition` holds.

        Args:
            condition: A flag; a symbolic one must be known to hold for every size.
            reason: What is required, as a sentence.
            at: The capture or node to blame; the root if left out.
        """
        holds = statically_known_true(condition) if isinstance(condition, torch.SymBool) else bool(condition)
        if not holds:
            at = getattr(at, "node", at)
            raise Rejected(reason, at if isinstance(at, Node) else self.root)

    def __repr__(self) -> str:
        return f"Match({self.rule} at %{self.root.name})"


@dataclass(frozen=True)
class Miss:
    """Why a rule does not match at a node; false in conditions.

    Args:
        rule: Name of the rule.
        root: The node where the match was tried.
        reason: One sentence.
        culprit: The node to blame, if there is one.
        score: Number of nodes that did match; the higher, the nearer the miss.
        pattern: The pattern as text.
        span: Start and end, within `pattern`, of the part that failed.
        hint: What may help, if known.
    """

    rule: str
    root: Node
    reason: str
    culprit: Node | None
    score: int
    pattern: str
    span: tuple[int, int]
    hint: str | None = None

    def __bool__(self) -> bool:
        return False

    @property
    def source(self) -> str:
        """Source line of the culprit, `""` where unknown."""
        return source_line(self.culprit or self.root)

    @property
    def module(self) -> str:
        """Module path of the culprit, `""` where unknown."""
        return module_path(self.culprit or self.root)

    @property
    def expected(self) -> str:
        """The part of the pattern that failed."""
        return self.pattern[slice(*self.span)]

    def caret(self) -> str:
        """The pattern with the part that failed underlined: two lines."""
        return caret(self.pattern, self.span)

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.module, self.source) if part)
        return f"{self.rule} at %{self.root.name}: {self.reason}" + (f" ({place})" if place else "")
