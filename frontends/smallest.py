"""Down to which sizes a captured graph is the model.

torch.export takes a dynamic size to be at least 2: a `squeeze` or an `if size == 1` of the model is traced as for
longer inputs, and nothing in the graph tells. So the smallest sizes are tried: the model and the program run on the
example, cut down to them. They must give the same result, and each node a tensor of the rank that it is recorded with:
a `squeeze` that begins to work makes what passes know of the graph wrong, even where the result is right.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from graphwright.frontends import axes as ax
from graphwright.frontends.export import argument_names, export_program
from graphwright.frontends.repeated import Copies
from graphwright.frontends.shim import untouched
from graphwright.ir.errors import InputError
from graphwright.ir.guards import failed_guard
from graphwright.ir.program import Dim, Program
from graphwright.ir.signature import Example
from graphwright.ir.symbols import parse_size

logger = logging.getLogger("graphwright")

Sizes = dict[str, int]
Agrees = Callable[[Sizes], bool | None]


def export_checked(
    module: torch.nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Any = "auto",
    suggested: ax.Leaves | None = None,
    name: str | None = None,
    copy: bool = True,
) -> Program:
    """Export as `export_program` does, and correct the smallest size of each dynamic dimension by trying it.

    Layers that repeat are copied rather than traced where `copy` allows it. The program must then compute what the
    model does on the example; if it does not, all layers are traced.

    A dimension of size 1 in the example at which the program is not the model becomes static with `dynamic="auto"`;
    otherwise it is allowed from 2. Dimensions of caches alone are allowed from 0 where that works.

    Raises:
        CaptureError: As `export_program`.
        InputError: As `export_program`.
    """
    example = Example(args, dict(kwargs or {}))
    given = example.leaves()
    hollow = any(_is_hollow(tensor) for tensor in [*module.parameters(), *given])
    copied = Copies() if copy and not hollow else None
    program = export_program(module, args, kwargs, dynamic=dynamic, suggested=suggested, name=name, copied=copied)
    if hollow or not (program.dims or (copied and copied.layers)):
        return program
    agrees = _trials(program, module, given)
    allowed = smallest_sizes(program, given, agrees, dynamic == "auto")
    if copied and copied.layers and not _is_confirmed(program, agrees, allowed):
        logger.info("%s: all layers are traced, as the copied ones might compute something else", program.name)
        return export_checked(module, args, kwargs, dynamic=dynamic, suggested=suggested, name=name, copy=False)
    wrong = {dim.symbol for dim in program.dims if _size_of(dim, program, given) < allowed[dim.symbol]}
    if wrong and dynamic == "auto":
        names = ", ".join(dim.name for dim in program.dims if dim.symbol in wrong)
        logger.warning("%s was captured with %s static: the model treats a size of 1 differently", program.name, names)
        if suggested is None:
            arguments = argument_names(module, args, example.kwargs)
            suggested = ax.automatic(ax.parameter_leaves(arguments, args, example.kwargs))
        fewer = _without(suggested, program, wrong)
        return export_checked(module, args, kwargs, dynamic=dynamic, suggested=fewer, name=name, copy=copy)
    for dim in program.dims:
        if allowed[dim.symbol] > max(dim.min, 1):
            logger.warning("%s: %s is 2 or more: the model treats a size of 1 differently", program.name, dim.name)
    program.dims = tuple(replace(dim, min=allowed[dim.symbol]) for dim in program.dims)
    return program


def _is_confirmed(program: Program, agrees: Agrees, allowed: Sizes) -> bool:
    """Whether a program with copied layers is the model on the smallest batch of the example."""
    captured = {dim.symbol: _size_of(dim, program, program.example.leaves()) for dim in program.dims}
    row = {dim.symbol: allowed[dim.symbol] for dim in program.dims if dim.name == "batch"}
    return agrees(captured | row) is True


def _is_hollow(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_meta or isinstance(value, FakeTensor))


def _without(axes: ax.Leaves, program: Program, symbols: set[str]) -> ax.Leaves:
    """The axes that did not become one of these symbols."""
    shapes = [getattr(node.meta.get("val"), "shape", ()) for node in program.placeholders]
    return [
        {i: axis for i, axis in leaf.items() if str(shape[i]) not in symbols}
        for leaf, shape in zip(axes, shapes, strict=True)
    ]


# ---- trying ----------------------------------------------------------------------------------


def smallest_sizes(program: Program, given: list[Any], agrees: Agrees, may_be_empty: bool) -> Sizes:
    """Symbol -> smallest size: 1 unless the program and the model differ there, 0 for a cache that may be empty.

    Where the model cannot run at a small size, or the program's conditions refuse it, nothing is known and 1 stays.
    """
    captured = {dim.symbol: _size_of(dim, program, program.example.leaves()) for dim in program.dims}
    original = {dim.symbol: _size_of(dim, program, given) for dim in program.dims}
    caches = _only_in_caches(program) if may_be_empty else set()
    open_dims = [dim for dim in program.dims if dim.min <= 1]
    result = {dim.symbol: dim.min for dim in program.dims}
    result |= {dim.symbol: 0 if dim.symbol in caches else 1 for dim in open_dims}
    if captured != original and agrees(original) is False:
        suspects = [dim for dim in open_dims if original[dim.symbol] == 1]
        found = {dim.symbol: _smallest(dim, agrees, captured, {1}) for dim in suspects}
        found = found if max(found.values(), default=1) > 1 else dict.fromkeys(found, 2)
        return result | {dim.symbol: 1 for dim in open_dims} | found
    if agrees(captured | result) is True:
        return result
    for dim in open_dims:
        result[dim.symbol] = _smallest(dim, agrees, captured, {result[dim.symbol], 1})
    if agrees(captured | result) is False:  # only together do they differ
        result |= {dim.symbol: 2 for dim in open_dims if original[dim.symbol] != 1}
    return result


def _trials(program: Program, module: torch.nn.Module, given: list[Any]) -> Agrees:
    """Whether the program is the model at some sizes; each combination is tried once."""
    found: dict[tuple[tuple[str, int], ...], bool | None] = {}

    def agrees(sizes: Sizes) -> bool | None:
        key = tuple(sorted(sizes.items()))
        if key not in found:
            found[key] = _agrees(program, module, given, sizes)
        return found[key]

    return agrees


def _smallest(dim: Dim, agrees: Agrees, captured: Sizes, candidates: set[int]) -> int:
    for size in sorted(candidates):
        verdict = agrees(captured | {dim.symbol: size})
        if verdict or (verdict is None and size == 1):
            return size
    return 2


def _size_of(dim: Dim, program: Program, leaves: list[Any]) -> int:
    for node, leaf in zip(program.placeholders, leaves, strict=True):
        for want, size in zip(getattr(node.meta.get("val"), "shape", ()), getattr(leaf, "shape", ()), strict=True):
            if str(want) == dim.symbol:
                return int(size)
    return max(dim.min, 2)


def _only_in_caches(program: Program) -> set[str]:
    """Symbols of which no input but `past_key_values` has a dimension."""
    count = len(program.example.args)
    captured = [*zip(program.signature.parameters[:count], program.example.args, strict=True)]
    captured += program.example.kwargs.items()
    parameters = [name for name, value in captured for _ in pytree.tree_leaves(value)]
    outside = {
        str(size)
        for parameter, node in zip(parameters, program.placeholders, strict=True)
        for size in getattr(node.meta.get("val"), "shape", ())
        if parameter != "past_key_values"
    }
    return {dim.symbol for dim in program.dims} - outside


def _agrees(program: Program, module: torch.nn.Module, given: list[Any], sizes: Sizes) -> bool | None:
    """Whether the program is the model at these sizes; None where that cannot be told."""
    leaves = _cut(program, given, sizes)
    if leaves is None or failed_guard(program.guards, sizes):
        return None
    with untouched(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _seed()
            args, kwargs = pytree.tree_unflatten(_copies(leaves), program.signature.in_spec)
            expected = pytree.tree_leaves(module(*args, **kwargs), is_leaf=lambda leaf: leaf is None)
        except Exception:
            return None
        try:
            _seed()
            actual = _run(program, leaves)
        except InputError:  # the program refuses these values
            return None
        except Exception:
            return False
    if len(actual) != len(expected):  # what a cache counts is a number in the model, and a size in the program
        actual, expected = (
            [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)] for leaves in (actual, expected)
        )
    return len(actual) == len(expected) and all(map(_same, actual, expected))


def _seed() -> None:
    """The same random numbers for both; a device that is not in use is not woken up."""
    (torch.manual_seed if torch.cuda.is_initialized() else torch.default_generator.manual_seed)(0)


class _RankChanged(Exception):
    """A node gave a tensor of another rank than it is recorded with."""


class _RankChecker(Interpreter):
    def run_node(self, n: Node) -> Any:
        result, recorded = super().run_node(n), n.meta.get("val")
        if isinstance(result, torch.Tensor) and isinstance(recorded, torch.Tensor) and result.dim() != recorded.dim():
            raise _RankChanged(n.name)
        return result


def _run(program: Program, leaves: list[Any]) -> list[Any]:
    result = _RankChecker(program.module).run(*_copies(leaves), enable_io_processing=False)
    return pytree.tree_leaves(result, is_leaf=lambda leaf: leaf is None)


def _cut(program: Program, given: list[Any], sizes: Sizes) -> list[Any] | None:
    """The example at other sizes: the given tensors where they have these, else the first part of the captured ones."""
    leaves = []
    for node, leaf, original in zip(program.placeholders, program.example.leaves(), given, strict=True):
        if isinstance(leaf, torch.Tensor):
            shape = [parse_size(str(size), sizes) for size in node.meta["val"].shape]
            if any(not 0 <= want <= have for want, have in zip(shape, leaf.shape, strict=True)):
                return None
            for i, size in enumerate(shape):
                leaf = leaf.narrow(i, 0, size)
            leaf = original if list(original.shape) == shape else leaf
        leaves.append(leaf)
    return leaves


def _copies(leaves: list[Any]) -> list[Any]:
    return [leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def _same(actual: Any, expected: Any) -> bool:
    """Equal up to rounding: the square root of the precision, relative to the largest value."""
    if not isinstance(expected, torch.Tensor) or not isinstance(actual, torch.Tensor):
        return bool(actual == expected)
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    if not expected.dtype.is_floating_point:
        return torch.equal(actual, expected)
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    finite = expected[expected.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(actual, expected, rtol=tolerance, atol=tolerance * largest, equal_nan=True)
