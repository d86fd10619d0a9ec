"""Conditions on sizes under which a captured graph is the model: the branches that its source took while traced."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Graph

from graphwright.ir.errors import FileFormatError

_TORCH = torch.__path__[0]
_BRANCHING = (f"{_TORCH}/nn/", f"{_TORCH}/_tensor.py")
_SLICES = "_compute_slice_index"


@dataclass(frozen=True)
class Guard:
    """One condition.

    Args:
        condition: Over symbols, such as `s11 + s70 < 31`.
        source: `file:line` of the branch, empty where it is inside torch.
    """

    condition: str
    source: str


def guards_of(graph: Graph) -> tuple[Guard, ...]:
    """Conditions that the model's own branches and slices left while traced.

    Those of torch's internals (is a tensor contiguous, is a size 1) choose between equal ways to compute a value, and
    bounds of a single symbol are in its range: neither is kept. But a size that torch fixes at one value, such as the
    steps of `linspace`, is a number in the graph.
    """
    env, symbols = _environment(graph)
    found: dict[str, Guard] = {}
    for guard in env.guards if env is not None else ():
        condition = env.replace(guard.expr)
        location = guard.sloc.framework_loc
        if condition not in (True, False) and condition.free_symbols <= symbols:
            text = str(condition.reversedsign if condition.is_Relational and condition.rhs.is_negative else condition)
            if (
                not _is_bound(condition)
                and (_is_branch(location) or _is_fixed(condition))
                and _is_readable(text, symbols)
            ):
                found.setdefault(text, Guard(text, _source(location)))
    return tuple(found.values())


def _environment(graph: Graph) -> tuple[Any, set[Any]]:
    env: Any = None
    symbols: set[Any] = set()
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor):
            for size in value.shape:
                if isinstance(size, torch.SymInt):
                    env = size.node.shape_env
                    symbols |= size.node.expr.free_symbols
    return env, symbols


def _is_bound(condition: Any) -> bool:
    sides = sorted(condition.args, key=lambda side: bool(side.is_Symbol)) if len(condition.args) == 2 else []
    return condition.is_Relational and len(sides) == 2 and sides[1].is_Symbol and sides[0].is_Integer


def _is_fixed(condition: Any) -> bool:
    """Whether a condition leaves a computed size one value."""
    sides = condition.args if getattr(condition, "rel_op", "") == "==" else ()
    return any(side.is_Integer and side > 1 for side in sides)


def _is_branch(location: Any) -> bool:
    """Whether a guard comes from the model's source rather than from inside an op."""
    file, name = str(getattr(location, "filename", "")), getattr(location, "name", "")
    return name == _SLICES or not file.startswith(_TORCH) or file.startswith(_BRANCHING)


def _source(location: Any) -> str:
    file = str(getattr(location, "filename", _TORCH))
    return "" if file.startswith(_TORCH) else f"{file.rsplit('/', 1)[-1]}:{location.lineno}"


def _is_readable(text: str, symbols: Iterable[Any]) -> bool:
    try:
        holds(text, {str(symbol): 2 for symbol in symbols})
    except (ValueError, ZeroDivisionError):
        return True
    except Exception:
        return False
    return True


def holds(condition: str, sizes: Mapping[str, int]) -> bool:
    """Whether a condition is true for these sizes; the text is never evaluated as Python.

    Raises:
        FileFormatError: The text is no condition over these names.
    """
    return bool(_truth(ast.parse(condition, mode="eval").body, sizes))


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_CALLS: dict[str, Callable[[Any, Any], bool]] = {"Eq": operator.eq, "Ne": operator.ne}


def _truth(tree: ast.expr, sizes: Mapping[str, int]) -> bool:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, (ast.BitAnd, ast.BitOr)):
        combine = operator.and_ if isinstance(tree.op, ast.BitAnd) else operator.or_
        return combine(_truth(tree.left, sizes), _truth(tree.right, sizes))
    left, right, compare = _sides(tree)
    return compare(*_values((left, right), sizes))


def _sides(tree: ast.expr) -> tuple[ast.expr, ast.expr, Callable[[Any, Any], bool]]:
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1 and type(tree.ops[0]) in _COMPARISONS:
        return tree.left, tree.comparators[0], _COMPARISONS[type(tree.ops[0])]
    if (
        isinstance(tree, ast.Call)
        and isinstance(tree.func, ast.Name)
        and tree.func.id in _CALLS
        and len(tree.args) == 2
    ):
        return tree.args[0], tree.args[1], _CALLS[tree.func.id]
    raise FileFormatError(f"'{ast.unparse(tree)[:80]}' is no condition on sizes")


def _values(sides: Iterable[ast.expr], sizes: Mapping[str, int]) -> Iterator[int]:
    from graphwright.ir.symbols import parse_size

    return (parse_size(ast.unparse(side), sizes) for side in sides)


def renamed(guard: Guard, symbols: Mapping[str, str]) -> Guard:
    """The same condition with other names for its symbols; all are replaced at once."""
    return replace(
        guard, condition=re.sub(r"[A-Za-z_]\w*", lambda found: symbols.get(found[0], found[0]), guard.condition)
    )


def failed_guard(guards: Iterable[Guard], sizes: Mapping[str, int]) -> Guard | None:
    """The first condition that these sizes do not meet."""
    return next((guard for guard in guards if not holds(guard.condition, sizes)), None)
