"""Trials: what was tried and what came of it, in a file that a later run goes on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphwright.ir.errors import FileFormatError
from graphwright.ir.program import Program
from graphwright.tuning.choices import Choice


@dataclass(frozen=True)
class Trial:
    """One choice and what it gives.

    Args:
        choice: What was tried.
        score: The metric's value.
        size: Bytes of the program's state.
        seconds: Median time of one call on the example inputs.
    """

    choice: Choice
    score: float
    size: int
    seconds: float


class Trials:
    """Trials by choice; each is one line of a file, if there is one.

    Args:
        path: The file; trials of the same run that it holds already are known.
        run: What identifies the run, from `run_key`.

    Raises:
        FileFormatError: The file is no log of trials.
    """

    def __init__(self, path: Path | None, run: str) -> None:
        self.path, self.run = path, run
        self.known = {trial.choice: trial for trial in self._read()}

    def add(self, trial: Trial) -> Trial:
        """Keep a trial, and write it down."""
        self.known[trial.choice] = trial
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"run": self.run} | asdict(trial)) + "\n")
        return trial

    def _read(self) -> Iterator[Trial]:
        if self.path is None or not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        rest = text[len(whole) :]
        for number, line in enumerate([*whole.splitlines(), *([] if rest.startswith('{"run"') else rest.split())], 1):
            try:
                fields = json.loads(line)
                if fields.pop("run") == self.run:
                    yield _trial(fields)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise FileFormatError(
                    "this is no log of trials",
                    at=f"{self.path}:{number}",
                    why=repr(error),
                    remedies=["name another file, or delete this one"],
                ) from error
        if rest:  # the run was interrupted while it wrote the last line
            self.path.write_text(whole, encoding="utf-8")


def _trial(fields: dict[str, Any]) -> Trial:
    choice = fields["choice"]
    bits = tuple((str(name), int(bits)) for name, bits in choice["bits"])
    return Trial(
        Choice(str(choice["method"]), bits), float(fields["score"]), int(fields["size"]), float(fields["seconds"])
    )


def run_key(program: Program, settings: Any) -> str:
    """A digest of a program, with a sample of each weight, and of what else a score depends on."""
    digest = hashlib.sha256(f"{len(program.nodes)} {settings!r}".encode())
    for name, tensor in sorted(program.tensors().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()
