"""Programs in folders: `program.json`, `weights.safetensors` and `example.safetensors`.

Nothing in the files is executed when they are read: the graph is data, names of ops are looked up among the registered
ones, and sizes are parsed as arithmetic.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

import graphwright.ir.library  # noqa: F401  registers the ops that a file may name
from graphwright.ir.encoding import decode, encode, freeze
from graphwright.ir.errors import FileFormatError
from graphwright.ir.graphfile import GraphWriter
from graphwright.ir.graphreader import GraphReader, is_name
from graphwright.ir.guards import Guard, holds, renamed
from graphwright.ir.program import Dim, Program
from graphwright.ir.signature import Example, Signature
from graphwright.ir.symbols import SymbolInfo, make_symbols, symbols_of
from graphwright.ir.tensorfile import load_tensors, save_tensors
from graphwright.ir.treespec import spec_from_json, spec_to_json, type_names

FORMAT, VERSION = "graphwright-program", 1
PROGRAM, WEIGHTS, EXAMPLE = "program.json", "weights.safetensors", "example.safetensors"


def save_program(program: Program, folder: Path) -> Path:
    """Write a program into a folder, made if absent; other files in it stay.

    All files are written beside the folder first, so that a failure leaves what was there before.

    Returns:
        The folder.

    Raises:
        GraphwrightError: The program holds something that a file cannot hold; names it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(program, scratch)
        if folder.exists():
            for name in (WEIGHTS, EXAMPLE, PROGRAM):
                os.replace(scratch / name, folder / name)
        else:
            scratch.chmod(0o755)
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _write(program: Program, folder: Path) -> None:
    writer = GraphWriter(program.dim_names())
    graph = writer.graph(program.graph, program.state)
    leaves = program.example.leaves()
    tensors = {str(i): leaf for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)}
    info = getattr(program.graph._codegen, "pytree_info", None)
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "name": program.name,
        "training": program.training,
        "invariants": sorted(program.invariants),
        "dims": [asdict(dim) for dim in program.dims],
        "symbols": [asdict(symbol) for symbol in symbols_of(program)],
        "guards": [asdict(guard) for guard in program.guards],
        "parameters": program.signature.parameters,
        "in_spec": spec_to_json(program.signature.in_spec),
        "out_spec": spec_to_json(program.signature.out_spec),
        "forward": list(info.orig_args) if info else None,
        "example": [None if str(i) in tensors else encode(leaf) for i, leaf in enumerate(leaves)],
        "graph": graph,
        "stacks": writer.stacks,
        "weights": save_tensors(writer.tensors, folder / WEIGHTS),
        "example_tensors": save_tensors(tensors, folder / EXAMPLE),
    }
    (folder / PROGRAM).write_text(json.dumps(fields, indent=None, separators=(",", ":")), encoding="utf-8")


def load_program(folder: Path) -> Program:
    """Read a program that `save_program` wrote.

    Raises:
        FileFormatError: A file is missing, truncated, changed, or not a program; names file and node.
    """
    fields = _read(folder / PROGRAM)
    try:
        return _build(fields, folder)
    except FileFormatError as error:
        at = f"{folder}: {error.at}" if error.at and str(folder) not in error.at else error.at or str(folder)
        raise FileFormatError(error.what, at=at, why=error.why, remedies=error.remedies) from error
    except Exception as error:  # whatever a damaged file provokes
        raise FileFormatError(
            "the files are not a valid program", at=str(folder), why=f"{type(error).__name__}: {error}"
        ) from error


def required_types(folder: Path) -> list[str]:
    """Names of the container classes that must be registered as pytrees before a program can be loaded.

    Raises:
        FileFormatError: The file is missing, truncated, or not a program.
    """
    fields = _read(folder / PROGRAM)
    try:
        return sorted({*type_names(fields["in_spec"]), *type_names(fields["out_spec"])})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileFormatError("not a program", at=str(folder / PROGRAM), why=str(error)) from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError("cannot read the program", at=str(path), why=str(error)) from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise FileFormatError("the file is not a program", at=str(path), why=f"its format is not '{FORMAT}'")
    if fields.get("version") != VERSION:
        raise FileFormatError(
            f"the program has the file version {fields.get('version')}, known is {VERSION}",
            at=str(path),
            remedies=["use the version of graphwright that wrote it"],
        )
    return fields


def _build(fields: Mapping[str, Any], folder: Path) -> Program:
    in_spec, out_spec = spec_from_json(fields["in_spec"]), spec_from_json(fields["out_spec"])
    mode, symbols = make_symbols([SymbolInfo(**info) for info in fields["symbols"]])
    dims = tuple(_dim(info, symbols) for info in fields["dims"])
    names = {str(size.node.expr): name for name, size in symbols.items()} | {dim.symbol: dim.name for dim in dims}
    sizes = symbols | {dim["name"]: symbols[dim["symbol"]] for dim in fields["dims"]}
    weights = load_tensors(fields["weights"], folder / WEIGHTS)
    graph, state = GraphReader(mode, sizes, names, weights, fields["stacks"]).graph(fields["graph"])
    if fields["forward"] is not None:
        graph._codegen = _PyTreeCodeGen(_PyTreeInfo(_names(fields["forward"]), in_spec, out_spec))
    graph.lint()
    return Program(
        graph=graph,
        state=state,
        signature=Signature(tuple(_names(fields["parameters"])), in_spec, out_spec),
        example=_example(fields, in_spec, folder),
        dims=dims,
        guards=tuple(_guard(info, symbols) for info in fields.get("guards", ())),
        invariants=frozenset(map(str, fields["invariants"])),
        name=str(fields["name"]),
        training=bool(fields["training"]),
    )


def _dim(info: Mapping[str, Any], symbols: Mapping[str, torch.SymInt]) -> Dim:
    symbol = str(symbols[info["symbol"]].node.expr)
    return Dim(str(info["name"]), symbol, int(info["min"]), None if info["max"] is None else int(info["max"]))


def _guard(info: Mapping[str, Any], symbols: Mapping[str, torch.SymInt]) -> Guard:
    """A condition over the symbols of this process; one that says nothing about them is refused."""
    guard = Guard(str(info["condition"]), str(info["source"]))
    guard = renamed(guard, {name: str(size.node.expr) for name, size in symbols.items()})
    with contextlib.suppress(ZeroDivisionError):
        holds(guard.condition, {str(size.node.expr): 2 for size in symbols.values()})
    return guard


def _names(texts: Any) -> list[str]:
    if not all(is_name(text) for text in texts):
        raise FileFormatError("an argument of the program has a name that is not valid")
    return list(texts)


def _example(fields: Mapping[str, Any], in_spec: pytree.TreeSpec, folder: Path) -> Example:
    tensors = load_tensors(fields["example_tensors"], folder / EXAMPLE)
    leaves = [
        tensors[str(i)] if str(i) in tensors else decode(freeze(value), {}) for i, value in enumerate(fields["example"])
    ]
    args, kwargs = pytree.tree_unflatten(leaves, in_spec)
    return Example(tuple(args), dict(kwargs))
