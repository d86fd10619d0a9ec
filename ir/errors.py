"""Errors that say what failed, where, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class GraphwrightError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: One sentence: what failed.
        at: The node, file or module path that is to blame.
        why: The reason, where `what` does not already say it.
        remedies: What the user can try, most likely first.
    """

    def __init__(
        self, what: str, *, at: str | None = None, why: str | None = None, remedies: Sequence[str] = ()
    ) -> None:
        self.what, self.at, self.why, self.remedies = what, at, why, tuple(remedies)
        super().__init__(self._text())

    def _text(self) -> str:
        lines = [self.what]
        if self.at:
            lines.append(f"  at: {self.at}")
        if self.why:
            lines.append(f"  why: {self.why}")
        lines += [f"  try {i}: {remedy}" for i, remedy in enumerate(self.remedies, 1)]
        return "\n".join(lines)


class CaptureError(GraphwrightError):
    """A model could not be captured."""


class InputError(GraphwrightError):
    """Arguments do not fit what the program was captured for."""


class FileFormatError(GraphwrightError):
    """A file is truncated, inconsistent, or not what its name says."""


class PatternError(GraphwrightError):
    """A rule's pattern is not well formed; raised when the rule is defined."""


class PipelineError(GraphwrightError):
    """A pipeline's text or order of passes is wrong; raised before anything runs."""


class PassError(GraphwrightError):
    """A pass failed; the program it was given is as it was before the pass."""


class VerifyError(GraphwrightError):
    """A program breaks a rule that every program, or one of its invariants, must keep."""


class UnsupportedError(GraphwrightError):
    """A target cannot express part of a program."""


class MismatchError(GraphwrightError):
    """A result differs from the original by more than the tolerance."""


class MissingDependencyError(GraphwrightError, ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed.",
            remedies=[f'pip install "graphwright[{extra}]"'],
        )
