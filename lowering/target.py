"""Target: something a program can be lowered to, with its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch.fx import Node

from graphwright.ir.node import module_path, op_name, source_line
from graphwright.ir.program import Program
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.support import Support, SupportReport, Unsupported
from graphwright.passes.spec import print_call


@dataclass(frozen=True)
class Target(ABC):
    """Base of targets: a frozen dataclass whose fields are the options; prints as `name{option=value}`.

    A subclass says which passes make a program fit (`pipeline`), which nodes it can express (`supports`), and how
    to make the artifact (`emit`) and read it back (`load`).
    """

    name: ClassVar[str] = ""

    def pipeline(self) -> str:
        """Passes that make a program fit this target, as pipeline text; empty for none."""
        return ""

    @property
    def precision(self) -> str:
        """Name of a precision below the program's, such as `float16`, which results are judged by; empty for none."""
        return ""

    def supports(self, node: Node) -> Support:
        """Whether this target can express a call; by default everything."""
        return Support.yes()

    @abstractmethod
    def emit(self, program: Program) -> Artifact:
        """Make the artifact from a program that `legalize` returned and `supports` agreed to."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any]) -> Artifact:
        """Read an artifact that `Artifact.save` wrote; the files' checksums have been checked."""

    @classmethod
    def load_parts(cls, folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Artifact]:
        """Read the parts of one model; the entries are what `Artifact.write_part` returned."""
        return {name: cls.load(folder / Path(entry.get("folder", "")).name, entry) for name, entry in entries.items()}

    def join(self, parts: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """The parts of one model as they are saved together; a target may put several into one file."""
        return dict(parts)

    def legalize(self, program: Program) -> Program:
        """A copy of `program` after this target's passes."""
        if not self.pipeline():
            return program.clone()
        from graphwright.passes.pipeline import Pipeline

        return Pipeline(self.pipeline()).run(program).program

    def check(self, program: Program) -> SupportReport:
        """Report every call that cannot be lowered, without lowering anything; `program` stays as it is."""
        return self.survey(self.legalize(program))

    def lower(self, program: Program) -> Artifact:
        """Lower a program; `program` stays as it is.

        Raises:
            UnsupportedError: Lists every call that this target cannot express.
        """
        return self.check_and_lower(program)[1]

    def check_and_lower(self, program: Program) -> tuple[SupportReport, Artifact]:
        """What `check` and `lower` return, with the program made legal once.

        Raises:
            UnsupportedError: Lists every call that this target cannot express.
        """
        legal = self.legalize(program)
        report = self.survey(legal)
        report.raise_if_unsupported()
        return report, self.emit(legal)

    def survey(self, program: Program) -> SupportReport:
        """Ask `supports` about every call of a legalised program."""
        calls = [node for node in program.graph.nodes if node.op == "call_function"]
        found = ((node, self.supports(node)) for node in calls)
        unsupported = tuple(_unsupported(node, answer) for node, answer in found if not answer.ok)
        return SupportReport(str(self), len(calls), unsupported)

    def __str__(self) -> str:
        return print_call(self)


def _unsupported(node: Node, answer: Support) -> Unsupported:
    return Unsupported(
        node=node.name,
        op=op_name(node),
        module=module_path(node),
        source=answer.at or source_line(node),
        reason=answer.reason,
        remedy=answer.remedy,
    )
