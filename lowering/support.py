"""What a target can and cannot express, node by node, all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphwright.ir.errors import UnsupportedError


@dataclass(frozen=True)
class Support:
    """Whether a target can express one node.

    Args:
        ok: It can.
        reason: Why it cannot.
        at: Where the node is, when it is not the node that was asked about.
        remedy: What the user can try.
    """

    ok: bool
    reason: str = ""
    at: str = ""
    remedy: str = ""

    @staticmethod
    def yes() -> Support:
        """The node can be expressed."""
        return _YES

    @staticmethod
    def no(reason: str, at: str = "", remedy: str = "") -> Support:
        """The node cannot be expressed."""
        return Support(False, reason, at, remedy)


_YES = Support(True)


@dataclass(frozen=True)
class Unsupported:
    """One node that a target cannot express, and where it comes from."""

    node: str
    op: str
    module: str
    source: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.module, self.source) if part)
        return f"%{self.node}" + (f" ({place})" if place else "")


@dataclass(frozen=True)
class SupportReport:
    """All nodes of a program that a target cannot express.

    Args:
        target: The target's text form.
        total: Number of calls that were looked at.
        unsupported: The calls that the target cannot express, in program order.
    """

    target: str
    total: int
    unsupported: tuple[Unsupported, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the whole program can be lowered."""
        return not self.unsupported

    def groups(self) -> dict[tuple[str, str, str], list[Unsupported]]:
        """Unsupported nodes by (op, reason, remedy), the largest group first."""
        groups: dict[tuple[str, str, str], list[Unsupported]] = {}
        for item in self.unsupported:
            groups.setdefault((item.op, item.reason, item.remedy), []).append(item)
        return dict(sorted(groups.items(), key=lambda group: -len(group[1])))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self, shown: int = 4) -> Iterator[str]:
        supported = self.total - len(self.unsupported)
        yield f"{self.target}: {supported} of {self.total} calls supported"
        for (op, reason, remedy), items in self.groups().items():
            yield f"  {op} x{len(items)}: {reason}"
            for item in items[:shown]:
                yield f"    at {item}"
            if len(items) > shown:
                yield f"    and {len(items) - shown} more"
            if remedy:
                yield f"    try: {remedy}"

    def raise_if_unsupported(self) -> None:
        """Do nothing if the whole program is supported.

        Raises:
            UnsupportedError: Lists every unsupported op with its places and remedies.
        """
        if self.ok:
            return
        remedies = dict.fromkeys(item.remedy for item in self.unsupported if item.remedy)
        text = "\n".join(list(self._lines())[1:])
        raise UnsupportedError(
            f"{self.target} cannot express {len(self.unsupported)} of {self.total} calls",
            why="\n" + text,
            remedies=[*remedies, "register an emitter for the op, or replace it with a pass"],
        )
