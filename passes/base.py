"""Pass: a named, configured transformation of a program.

A pass is a frozen dataclass whose fields are its options, so it prints, parses, compares and hashes:

    @register_pass("drop-checks")
    @dataclass(frozen=True)
    class DropChecks(Pass):
        requires = frozenset({"functional"})

        def apply(self, program, rewriter):
            ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.spec import print_call

PassFunction = Callable[[Program, Rewriter], Any]


@dataclass(frozen=True)
class Pass:
    """Base of passes.

    Class attributes:
        name: What the pass is called in pipeline text.
        requires: Invariants that must hold before.
        establishes: Invariants that hold afterwards.
        breaks: Invariants that may not hold afterwards.
        approximate: Results may differ by more than rounding, on purpose; rewrites are then not validated.
        rules: Pattern rules that `apply` applies, unless it is overridden.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[frozenset[str]] = frozenset()
    establishes: ClassVar[frozenset[str]] = frozenset()
    breaks: ClassVar[frozenset[str]] = frozenset()
    approximate: ClassVar[bool] = False
    rules: ClassVar[tuple[Any, ...]] = ()

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any] | None:
        """Edit `program` through `rewriter`.

        Returns:
            The misses: what nearly matched and why it did not, or None.
        """
        if not self.rules:
            raise TypeError(f"{type(self).__name__} must have rules or define apply(program, rewriter)")
        from graphwright.passes.patterns.apply import apply_rules

        return apply_rules(self.rules, program, rewriter).misses

    def misses(self, program: Program) -> Iterable[Any]:
        """What nearly matches in `program`, best first, without changing it."""
        scratch = program.clone()
        return self.apply(scratch, Rewriter(scratch, pass_name=self.name)) or ()

    def __str__(self) -> str:
        return print_call(self)


@dataclass(frozen=True)
class FunctionPass(Pass):
    """A plain function `(program, rewriter) -> None` as a pass."""

    function: PassFunction | None = None
    label: str = ""

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any] | None:
        """Call the function."""
        if self.function is None:
            raise TypeError("FunctionPass needs a function")
        result = self.function(program, rewriter)
        return result if isinstance(result, (list, tuple)) else None

    def __str__(self) -> str:
        return self.label or getattr(self.function, "__name__", "function")


@dataclass(frozen=True)
class RulePass(Pass):
    """One pattern rule as a pass."""

    rule: Any = None
    label: str = ""

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any] | None:
        """Apply the rule wherever it matches."""
        from graphwright.passes.patterns.apply import apply_rules

        return apply_rules((self.rule,), program, rewriter).misses

    def __str__(self) -> str:
        return self.label or getattr(self.rule, "__name__", type(self.rule).__name__)


def pass_name(pass_: Pass) -> str:
    """The name that records and messages use."""
    return str(pass_) if isinstance(pass_, (FunctionPass, RulePass)) else type(pass_).name or type(pass_).__name__
