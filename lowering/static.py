"""StaticTarget: base of targets that take programs of fixed sizes only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphwright.ir.errors import FileFormatError
from graphwright.ir.fixed_sizes import fix_sizes
from graphwright.ir.program import Program
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.bucketed import BucketedArtifact
from graphwright.lowering.buckets import Sizes, buckets
from graphwright.lowering.interface import Interface
from graphwright.lowering.interface_json import interface_from_json
from graphwright.lowering.support import SupportReport
from graphwright.lowering.target import Target


@dataclass(frozen=True)
class StaticTarget(Target):
    """A target whose compiler wants all sizes as numbers.

    A program with dynamic dimensions is lowered once per combination of sizes. A subclass has `emit`, which is given a
    legalised program of fixed sizes, and `load_bucket`; it overrides `emit_buckets` and `join_buckets` to put all
    buckets into one file.

    Args:
        sizes: One or several sizes per dimension, such as `batch:1/sequence:64+128`. A dimension that is not named
            keeps the size it was captured with.
    """

    sizes: str = ""

    def check(self, program: Program) -> SupportReport:
        """Report every call that cannot be lowered in the first bucket where there is one."""
        reports = [self.survey(self.legalize(part)) for part in self.fixed(program).values()]
        return next((report for report in reports if report.unsupported), reports[0])

    def check_and_lower(self, program: Program) -> tuple[SupportReport, Artifact]:
        """The report of the first bucket, and an artifact for all sizes.

        Raises:
            UnsupportedError: Lists every call that this target cannot express.
            InputError: The program is not valid for one of the sizes.
        """
        legal = {name: self.legalize(part) for name, part in self.fixed(program).items()}
        reports = [self.survey(part) for part in legal.values()]
        for report in reports:
            report.raise_if_unsupported()
        interface = Interface.of(program)
        return reports[0], self.join_buckets(interface, self.emit_buckets(legal), buckets(interface, self.sizes))

    def fixed(self, program: Program) -> dict[str, Program]:
        """The program in the sizes of each bucket."""
        found = buckets(Interface.of(program), self.sizes)
        return {name: fix_sizes(program, sizes) for name, sizes in found.items()}

    def emit_buckets(self, programs: Mapping[str, Program]) -> dict[str, Artifact]:
        """Make the artifact of each bucket."""
        return {name: self.emit(program) for name, program in programs.items()}

    def join_buckets(
        self, interface: Interface, parts: Mapping[str, Artifact], sizes: Mapping[str, Sizes]
    ) -> BucketedArtifact:
        """The artifact that chooses among buckets."""
        return BucketedArtifact(str(self), interface, parts, sizes)

    @classmethod
    @abstractmethod
    def load_bucket(cls, folder: Path, entry: Mapping[str, Any]) -> Artifact:
        """Read one bucket; `entry` is what its `description` returned."""

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any]) -> Artifact:
        """Read what `BucketedArtifact` wrote.

        Raises:
            FileFormatError: The manifest does not describe buckets.
        """
        from graphwright.lowering.registry import target

        try:
            entries = {Path(name).name: entry for name, entry in manifest["buckets"].items()}
            sizes = {name: {str(d): int(size) for d, size in e["sizes"].items()} for name, e in entries.items()}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FileFormatError("the manifest does not describe buckets", at=str(folder), why=repr(error)) from error
        parts = {name: cls.load_bucket(folder / name, entry) for name, entry in entries.items()}
        made = target(manifest["target"])
        assert isinstance(made, StaticTarget)
        return made.join_buckets(interface_from_json(manifest["interface"]), parts, sizes)
