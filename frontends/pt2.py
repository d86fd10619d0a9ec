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

from graphwright.frontends.cache import register_caches
from graphwright.frontends.cache_state import find_class
from graphwright.frontends.pt2_check import check_archive
from graphwright.ir.errors import FileFormatError


def load_exported(path: Path) -> ExportedProgram:
    """Load a `.pt2` file.

    Raises:
        FileFormatError: The file is damaged, from another torch, or could run code; see `check_archive`.
    """
    classes = _import_classes(path)
    with torch.serialization.safe_globals(classes):
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


def _import_classes(path: Path) -> list[Any]:
    """Import what transformers defines of the file's container classes; they register themselves.

    Returns:
        Cache classes that may occur in pickled example inputs.
    """
    names = {name for name in _type_names(path) if name.startswith("transformers.")}
    for name in names:
        module, _, leaf = name.replace(":", ".").rpartition(".")
        if module.startswith("transformers.") and ".modeling_" in f".{module}" and leaf.isidentifier():
            importlib.import_module(module)
    if not names:
        return []
    caches = importlib.import_module("transformers.cache_utils")
    register_caches()
    found = [item for item in vars(caches).values() if isinstance(item, type) and item.__module__ == caches.__name__]
    found += [find_class(name) for name in names if ":" in name]
    return [cls for cls in found if not isinstance(cls, torch.nn.Module)]


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
