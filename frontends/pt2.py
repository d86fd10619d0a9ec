"""Reading `.pt2` files that torch.export.save wrote, without running code from them."""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from graphwright.frontends.cache_state import find_class
from graphwright.frontends.containers import register_containers
from graphwright.frontends.pt2_check import check_archive
from graphwright.ir.errors import FileFormatError


def load_exported(path: Path) -> ExportedProgram:
    """Load a `.pt2` file.

    Raises:
        FileFormatError: The file is damaged, from another torch, or could run code; see `check_archive`.
    """
    names = set(_type_names(path))
    register_containers(names)
    with torch.serialization.safe_globals(_cache_classes(names)):
        check_archive(path)
        try:
            exported = torch.export.load(path)
        except Exception as error:
            raise FileFormatError(
                "torch cannot read this .pt2 file",
                at=str(path),
                why=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
                remedies=[f"save it again with torch {torch.__version__.split('+')[0]}"],
            ) from error
    exported._guards_code = []  # text that torch would evaluate; Program.run has its own checks
    return exported


def _cache_classes(names: set[str]) -> list[Any]:
    """Cache classes of transformers that may occur in pickled example inputs: data with a class name."""
    if not any(name.startswith("transformers.") for name in names):
        return []
    caches = importlib.import_module("transformers.cache_utils")
    found = [item for item in vars(caches).values() if isinstance(item, type) and item.__module__ == caches.__name__]
    return [*found, *(find_class(name) for name in names if name.startswith("transformers.") and ":" in name)]


def _type_names(path: Path) -> Iterator[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if "/models/" in name and name.endswith(".json"):
                    yield from _types(json.loads(archive.read(name)))
    except (zipfile.BadZipFile, ValueError, KeyError) as error:
        raise FileFormatError("this is not a complete .pt2 file", at=str(path), why=str(error)) from error


def _types(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ("in_spec", "out_spec") and isinstance(value, str) and value:
                yield from _layout_types(json.loads(value)[1])
            else:
                yield from _types(value)
    elif isinstance(content, list):
        for value in content:
            yield from _types(value)


def _layout_types(spec: Any) -> Iterator[str]:
    if spec["type"]:
        yield spec["type"]
    for child in spec["children_spec"]:
        yield from _layout_types(child)
