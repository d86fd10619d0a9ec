"""Programs of fixed sizes: dynamic dimensions replaced by numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from graphwright.ir.errors import InputError
from graphwright.ir.guards import failed_guard, renamed
from graphwright.ir.infer import fake_mode_of, inference_scope
from graphwright.ir.node import value_of
from graphwright.ir.program import Dim, Program
from graphwright.ir.signature import Example
from graphwright.ir.symbols import symbols_of

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def fix_sizes(program: Program, sizes: Mapping[str, int]) -> Program:
    """A copy of `program` in which named dimensions have one size; arithmetic on their sizes becomes numbers.

    Args:
        program: Any program; it stays as it is.
        sizes: Dimension name -> size. Dimensions that are not named stay dynamic.

    Raises:
        InputError: A dimension is unknown, or the program is not valid for these sizes.
    """
    chosen = _by_symbol(program, sizes)
    if not chosen:
        return program.clone()
    copy = _Copy(program, chosen)
    return replace(
        program,
        graph=copy.graph,
        state=dict(program.state),
        example=_example(program, copy),
        dims=tuple(dim for dim in program.dims if dim.symbol not in chosen),
        guards=_remaining_guards(program, chosen),
        invariants=program.invariants - {"canonical"},
        _module=None,
    )


def _by_symbol(program: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    dims = {dim.name: dim for dim in program.dims}
    for name, size in sizes.items():
        if name not in dims:
            raise InputError(
                f"the program has no dimension '{name}'", why=f"it has {', '.join(dims) or 'none: all sizes are fixed'}"
            )
        _check_range(dims[name], size)
    chosen = {dims[name].symbol: size for name, size in sizes.items()}
    hints = {info.name: info.hint for info in symbols_of(program)}
    guard = failed_guard(program.guards, hints | chosen) if chosen else None
    if guard is not None:
        text = renamed(guard, program.dim_names()).condition
        raise InputError(
            f"the program is not valid for the sizes {dict(sizes)}",
            at=guard.source or None,
            why=f"it was captured for {text}",
            remedies=["capture the model again with inputs of these sizes"],
        )
    return chosen


def _check_range(dim: Dim, size: int) -> None:
    if size < dim.min or (dim.max is not None and size > dim.max):
        top = "any" if dim.max is None else dim.max
        raise InputError(f"'{dim.name}' cannot be {size}", why=f"the program allows {dim.min} to {top}")


def _remaining_guards(program: Program, chosen: Mapping[str, int]) -> Any:
    """The conditions on what is still dynamic."""
    numbers = {symbol: str(size) for symbol, size in chosen.items()}
    symbols = {dim.symbol for dim in program.dims if dim.symbol not in chosen}
    return tuple(renamed(g, numbers) for g in program.guards if any(s in g.condition for s in symbols))


class _Copy:
    """A graph copied with sizes put in place of symbols."""

    def __init__(self, program: Program, chosen: Mapping[str, int]) -> None:
        self.chosen = dict(chosen)
        self.mode = fake_mode_of(program.graph)
        self.graph = Graph()
        self.graph._codegen = program.graph._codegen
        self.values: dict[Node, Any] = {}
        with inference_scope(self.mode):
            for node in program.graph.nodes:
                self.values[node] = self._copied(node)

    def _copied(self, node: Node) -> Any:
        value = self.fixed(value_of(node)) if "val" in node.meta else None
        if node.op == "call_function" and isinstance(value, (int, float, bool)):
            return value
        if node.op == "output":
            new = self.graph.output(map_arg(node.args[0], self.values.__getitem__))
        else:
            new = self.graph.node_copy(node, self.values.__getitem__)
        new.meta = dict(node.meta)
        if "val" in node.meta:
            new.meta["val"] = value
        return new

    def fixed(self, value: Any) -> Any:
        """A fake value, or a size, with the chosen sizes."""
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self.fixed(item) for item in value)
        return self.size(value) if isinstance(value, SYMBOLIC) else value

    def _tensor(self, fake: torch.Tensor) -> torch.Tensor:
        if not any(isinstance(size, torch.SymInt) for size in fake.shape) or fake.layout is not torch.strided:
            return fake
        shape = [self.size(size) for size in fake.shape]
        strides = [self.size(stride) for stride in fake.stride()]
        return torch.empty_strided(shape, strides, dtype=fake.dtype, device=fake.device)

    def size(self, size: Any) -> Any:
        """A number, or a symbolic size of what is still dynamic."""
        if not isinstance(size, SYMBOLIC):
            return size
        names = {symbol: str(symbol) for symbol in size.node.expr.free_symbols}
        expr = size.node.expr.subs({s: self.chosen[name] for s, name in names.items() if name in self.chosen})
        if expr.free_symbols:
            return size.node.shape_env.create_symintnode(expr, hint=None) if expr != size.node.expr else size
        return {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}[type(size)](expr)


def _example(program: Program, copy: _Copy) -> Example:
    """The captured call with its tensors cut, or repeated from their beginning, to the fixed sizes."""
    hints = {info.name: info.hint for info in symbols_of(program)} | copy.chosen
    pairs = zip(program.placeholders, program.example.leaves(), strict=True)
    leaves = [_resized(leaf, value_of(node), hints) for node, leaf in pairs]
    args, kwargs = pytree.tree_unflatten(leaves, program.signature.in_spec)
    return Example(tuple(args), dict(kwargs))


def _resized(leaf: Any, fake: Any, sizes: Mapping[str, int]) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return _number(fake, sizes) if isinstance(fake, torch.SymInt) else leaf
    for axis, want in enumerate(fake.shape):
        size, have = _number(want, sizes), leaf.shape[axis]
        if size != have:
            if have:
                leaf = leaf.index_select(axis, torch.arange(size, device=leaf.device) % have)
            else:
                leaf = leaf.new_zeros([*leaf.shape[:axis], size, *leaf.shape[axis + 1 :]])
    return leaf


def _number(size: int | torch.SymInt, sizes: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    expr = size.node.expr
    return int(expr.subs({symbol: sizes[str(symbol)] for symbol in expr.free_symbols}))
