"""The lines of model source that nodes came from, read while the program is at hand."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphwright.ir.node import source_frame, source_line
from graphwright.ir.program import Program

AROUND = 8
"""Lines that are kept before and after each line that made a node."""


@dataclass
class Sources:
    """Excerpts of source files.

    Args:
        files: Path of each file, as far as it says something to others: without the folder that packages are in.
        lines: Per file, line number -> text.
        places: Source line as records name it (`modeling_bert.py:192`) -> (index of the file, line number).
    """

    files: list[str] = field(default_factory=list)
    lines: list[dict[int, str]] = field(default_factory=list)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    _index: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def collect(self, program: Program) -> None:
        """Add the lines that the nodes of a program came from; files that cannot be read are left out."""
        for node in program.graph.nodes:
            frame, name = source_frame(node), source_line(node)
            if frame is not None and name not in self.places:
                self._add(name, *frame)

    def _add(self, name: str, path: str, line: int) -> None:
        text = linecache.getlines(path)
        if not 0 < line <= len(text):
            return
        if path not in self._index:
            self._index[path] = len(self.files)
            self.files.append(_short(path))
            self.lines.append({})
        self.places[name] = (self._index[path], line)
        kept = self.lines[self._index[path]]
        for number in range(max(1, line - AROUND), min(len(text), line + AROUND) + 1):
            kept[number] = text[number - 1].rstrip()

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        files = [
            {"file": name, "lines": {str(number): lines[number] for number in sorted(lines)}}
            for name, lines in zip(self.files, self.lines, strict=True)
        ]
        return {"files": files, "places": {name: list(place) for name, place in self.places.items()}}

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Sources:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        files = fields["files"]
        return Sources(
            [str(file["file"]) for file in files],
            [{int(number): str(text) for number, text in file["lines"].items()} for file in files],
            {str(name): (int(file), int(line)) for name, (file, line) in fields["places"].items()},
        )


def _short(path: str) -> str:
    """`transformers/models/bert/modeling_bert.py`; the bare name of a file outside of installed packages."""
    _, found, rest = path.replace("\\", "/").rpartition("/site-packages/")
    return rest if found else path.replace("\\", "/").rpartition("/")[2]
