"""Artifact: a lowered program that runs, and the folder it is saved in.

A folder holds `manifest.json` (target, interface, checksums of the other files, and which emitted operators each
program node became) beside the files of the target.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.ir.snapshot import Snapshot
from graphwright.lowering.interface import Interface
from graphwright.lowering.interface_json import interface_to_json

MANIFEST = "manifest.json"
FORMAT = "graphwright-artifact"
VERSION = 2


class Artifact(ABC):
    """A lowered program.

    Args:
        target: Text form of the target that made it.
        interface: Names, types and order of the inputs and outputs.
        provenance: Program node -> names of the operators it became.
    """

    def __init__(
        self, target: str, interface: Interface, provenance: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.target, self.interface = target, interface
        self.provenance = {node: list(emitted) for node, emitted in (provenance or {}).items()}

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(port.name for port in self.interface.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(port.name for port in self.interface.outputs)

    def run(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run on tensors by input name; returns the outputs by name.

        Raises:
            InputError: An input is missing, unknown, or has a dtype or size the program was not captured for.
        """
        self.interface.check(inputs)
        return self._run(inputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on the arguments of the original `forward`; returns its classes.

        Raises:
            InputError: The arguments do not fit, or the artifact was loaded without the original's signature.
        """
        return self.interface.unflatten(self.run(**self.interface.flatten(*args, **kwargs)))

    def runnable(self) -> Artifact:
        """The artifact itself, or one of the same accuracy where this machine cannot run it."""
        return self

    def snapshot(self) -> Snapshot:
        """Picture of what was emitted, operators under the names that `provenance` has.

        Raises:
            GraphwrightError: This kind of artifact has no graph to show.
        """
        raise GraphwrightError(f"artifacts of {self.target} have no graph that can be compared")

    def as_deployed(self) -> Artifact | None:
        """The artifact as it computes where nobody asks for exactness; None where that is how it computes anyway."""
        return None

    @abstractmethod
    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run on inputs that have been checked."""

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Write the target's files into an empty folder."""

    def save(self, folder: str | Path) -> Path:
        """Write the artifact; an existing artifact in `folder` is replaced in one step.

        Returns:
            The folder.

        Raises:
            FileExistsError: `folder` exists and is not an artifact.
        """
        return save_folder(folder, self._save)

    def _save(self, folder: Path) -> dict[str, Any]:
        self._write(folder)
        return {"target": self.target} | self.description()

    def write_part(self, folder: Path, name: str) -> dict[str, Any]:
        """Write the files of a part of a model, such as its encoder, into a folder that holds other parts too.

        Returns:
            What the manifest says of the part; `Target.load` is given it.
        """
        (folder / name).mkdir()
        self._write(folder / name)
        return {"folder": name} | self.description()

    def description(self) -> dict[str, Any]:
        """Interface and provenance as plain data."""
        return {"interface": interface_to_json(self.interface), "provenance": self.provenance}


def save_folder(folder: str | Path, write: Callable[[Path], dict[str, Any]]) -> Path:
    """Write a folder and its manifest; an existing artifact in `folder` is replaced in one step.

    Args:
        folder: Where to.
        write: Writes the files into an empty folder, and returns what the manifest says beside their checksums.

    Raises:
        FileExistsError: `folder` exists and is not an artifact.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise FileExistsError(f"{folder} exists and is not an artifact; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        manifest = {"format": FORMAT, "version": VERSION} | write(temporary)
        text = json.dumps(manifest | {"files": _checksums(temporary)}, indent=1)
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        temporary.chmod(0o755)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _checksums(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "crc32": _crc32(path)} for path in files
    }


def load_artifact(folder: str | Path) -> Artifact:
    """Read what `Artifact.save` wrote, or a saved `Bundle` of one part.

    Raises:
        FileFormatError: A file is missing, truncated or changed, or the manifest is not one.
        GraphwrightError: The target is not known here, or the folder holds several parts.
    """
    folder = Path(folder)
    manifest = checked_manifest(folder)
    if "parts" in manifest:
        from graphwright.lowering.bundle import load_bundle

        return load_bundle(folder).only
    return load_part(folder, manifest)


def load_part(folder: Path, manifest: Mapping[str, Any]) -> Artifact:
    """One artifact from a folder whose files were checked."""
    from graphwright.lowering.registry import find_target
    from graphwright.passes.spec import parse_call

    return find_target(parse_call(manifest["target"]).name).load(folder, manifest)


def checked_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, after its files were compared with their checksums.

    Raises:
        FileFormatError: As `load_artifact`.
    """
    manifest = read_manifest(folder)
    _check_files(folder, manifest["files"])
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact folder.

    Raises:
        FileFormatError: There is none, or it is not well formed.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileFormatError(
            f"no {MANIFEST} in the folder", at=str(folder), remedies=["name the folder of an artifact"]
        ) from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise FileFormatError("the manifest cannot be read", at=str(path), why=str(error)) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FileFormatError("this is not the manifest of an artifact", at=str(path))
    if manifest.get("version") != VERSION:
        raise FileFormatError(
            f"the artifact has format version {manifest.get('version')}, this release reads {VERSION}", at=str(path)
        )
    kinds = {"parts": dict} if "parts" in manifest else {"interface": dict, "provenance": dict}
    for key, kind in ({"target": str, "files": dict} | kinds).items():
        if not isinstance(manifest.get(key), kind):
            raise FileFormatError(f"'{key}' is missing in the manifest, or is no {kind.__name__}", at=str(path))
    return manifest


def _check_files(folder: Path, files: Mapping[str, Any]) -> None:
    for name, entry in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise FileFormatError("the manifest names a file outside the folder", at=name)
        if not path.is_file():
            raise FileFormatError("a file of the artifact is missing", at=str(path))
        expected = (entry.get("bytes"), entry.get("crc32")) if isinstance(entry, dict) else None
        if (path.stat().st_size, _crc32(path)) != expected:
            raise FileFormatError("a file of the artifact is truncated or was changed", at=str(path))


def _crc32(path: Path) -> int:
    """A checksum against damage; it reads gigabytes, and who wants to deceive could write the manifest too."""
    found, buffer = 0, bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            found = zlib.crc32(memoryview(buffer)[:count], found)
    return found


def _replace(source: Path, folder: Path) -> None:
    """Put `source` in the place of `folder`, so that at no time a half-written folder has that name."""
    if not folder.exists():
        source.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    folder.rename(old)
    source.rename(folder)
    shutil.rmtree(old)
