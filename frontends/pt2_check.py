"""Is a `.pt2` file only data? torch.export.load unpickles, evaluates and imports what such a file names."""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from graphwright.ir.errors import FileFormatError

_FOLDERS = ("models/", "data/weights/", "data/constants/", "data/sample_inputs/", "extra/", ".data/")
_LOOSE = ("archive_format", "archive_version", "byteorder", "version")
_OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)(?:\.(\w+))?")
_SIZE_FUNCTION = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)|"
    r"math\.[a-z]\w*|torch\._?sym_[a-z_]+"
)
_NAME = re.compile(r"[\w.\-]*")
_SPECS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_SYMBOLIC = re.compile(
    r"Symbol|Add|Mul|Pow|Integer|Float|Rational|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv|"
    r"FloatTrueDiv|ModularIndexing|TruncToInt|ToFloat|RoundToInt|CeilToInt|FloorToInt|PowByNatural|FloatPow|"
    r"Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|"
    r"IsNonOverlappingAndDenseIndicator|Where|Identity|floor|ceiling|Abs|true|false|True|False|oo|int_oo|None|[suz]\w*\d+"
)


def check_archive(path: Path) -> None:
    """Check that loading the file runs nothing but torch's own reader and operators.

    Call it, and torch.export.load afterwards, inside `torch.serialization.safe_globals`.

    Raises:
        FileFormatError: The file is damaged, of an old kind, or holds pickled objects, compiled code, unknown
            functions, or text that would be evaluated; says which part.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name, part in _parts(archive, path):
                _check_part(path, name, part, partial(archive.read, part))
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, KeyError, EOFError) as error:
        raise FileFormatError("this is not a complete .pt2 file", at=str(path), why=str(error)) from error


def _parts(archive: zipfile.ZipFile, path: Path) -> Iterator[tuple[str, str]]:
    """(name inside the archive's root folder, full name)."""
    names = archive.namelist()
    roots = {name.split("/", 1)[0] for name in names}
    if len(roots) != 1 or not any("/models/" in f"/{name}" for name in names):
        raise _refusal(path, "it was written by an old torch, or not by torch.export.save")
    root = roots.pop()
    for full in names:
        yield full.removeprefix(f"{root}/"), full


def _check_part(path: Path, name: str, full: str, read: Callable[[], bytes]) -> None:
    if not name.startswith(_FOLDERS) and name not in _LOOSE:
        raise _refusal(path, f"'{full}' is code or data of an unknown kind")
    if name.startswith("data/sample_inputs/"):
        _check_pickle(path, full, read())
    elif name.startswith(("data/weights/", "data/constants/")) and name.endswith(".pt"):
        raise _refusal(path, f"'{full}' is a pickle")
    elif name.endswith(".json") and name.startswith(("data/", "models/")):
        for key, value in _entries(json.loads(read())):
            _check_entry(path, key, value)


def _check_pickle(path: Path, name: str, data: bytes) -> None:
    """Whether torch's restricted unpickler reads the example inputs; torch would use the full one otherwise."""
    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        raise _refusal(path, f"the example inputs in '{name}' are pickled objects") from error


def _entries(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of every value in a JSON document; items of a list have the list's key."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _entries(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _entries(value, key)
    else:
        yield key, content


def _check_entry(path: Path, key: str, value: Any) -> None:
    if key == "use_pickle" and value:
        raise _refusal(path, "some of its tensors are pickles")
    if not isinstance(value, str):
        return
    if key in ("target", "as_operator") and not _is_operator(value):
        raise _refusal(path, f"it calls '{value[:80]}', which is not an operator")
    if key == "expr_str" and not is_size_text(value):
        raise _refusal(path, f"'{value[:80]}' is no size")
    if key in ("class_fqn", "path_name") and value.startswith(("custom_obj", "opaque_obj", "__torch__")):
        raise _refusal(path, "it holds pickled objects")
    if (key == "name" or key.endswith("_name") or key == "forward_arg_names") and not _NAME.fullmatch(value):
        raise _refusal(path, f"'{value[:80]}' is no name")
    if key in ("in_spec", "out_spec") and value:
        _check_layout(path, json.loads(value)[1])


def _is_operator(target: str) -> bool:
    """Operators of torch, and arithmetic on sizes; `torch` itself would give access to everything it imports."""
    found = _OPERATOR.fullmatch(target)
    if found is None:
        return bool(_SIZE_FUNCTION.fullmatch(target))
    item: Any = torch.ops
    for part in found.groups():
        item = getattr(item, part, None) if part else item
    return isinstance(item, (torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator))


def is_size_text(text: str) -> bool:
    """Whether a text is an expression over sizes: names, numbers and known functions, no attributes."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    allowed = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp)
    return all((isinstance(node, (*allowed, ast.operator, ast.unaryop)) and _is_plain(node)) for node in ast.walk(tree))


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return bool(_SYMBOLIC.fullmatch(node.id))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return bool(re.fullmatch(r"\w+|-?\d+(\.\d+)?(e-?\d+)?", node.value)) and "__" not in node.value
    return True


def _check_layout(path: Path, spec: Any) -> None:
    """Containers must be builtin, or classes of transformers; enumerations would be imported by name."""
    name = spec["type"]
    if name is not None and name not in _SPECS and not name.startswith("transformers."):
        raise _refusal(path, f"its inputs or outputs hold a {name}")
    if "__enum__" in str(spec["context"]):
        raise _refusal(path, "a layout names an enumeration")
    if name == "builtins.dict" and not all(_NAME.fullmatch(str(key)) for key in json.loads(spec["context"])):
        raise _refusal(path, "a layout has keys that are no names")
    for child in spec["children_spec"]:
        _check_layout(path, child)


def _refusal(path: Path, why: str) -> FileFormatError:
    return FileFormatError(
        "this .pt2 file is not loaded, since it could run code",
        at=str(path),
        why=why,
        remedies=[
            "capture the model itself",
            "if you trust the file: capture(torch.export.load(path), inputs)",
        ],
    )
