"""Op proxies: `aten.softmax(x, -1)` in a pattern, checked against the op's real schemas at once."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphwright.ir.errors import PatternError
from graphwright.ir.node import OpOverload, OpPacket
from graphwright.ir.ops import nearest_ops
from graphwright.passes.patterns.calls import Binding, Call
from graphwright.passes.patterns.expressions import Expr, ListOf, Literal, as_expr

ALIASES: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "aten::softmax": (("_softmax", {"half_to_float": False}),),
    "aten::log_softmax": (("_log_softmax", {"half_to_float": False}),),
    "aten::reshape": (("view", {}), ("_unsafe_view", {})),
}
"""Ops of aten that an op without overload stands for too, with the arguments that make them equal."""


class OpNamespace:
    """`aten`, or `ops.<namespace>`: attribute access gives op proxies."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, op: str) -> OpProxy:
        packet = getattr(getattr(torch.ops, self._name), op, None)
        if not isinstance(packet, OpPacket):
            near = nearest_ops(self._name, op)
            raise PatternError(
                f"there is no op {self._name}.{op}", remedies=[f"did you mean {self._name}.{name}?" for name in near]
            )
        return OpProxy(packet)


class Ops:
    """`ops.<namespace>.<op>`, for ops outside aten."""

    def __getattr__(self, namespace: str) -> OpNamespace:
        return OpNamespace(namespace)


aten = OpNamespace("aten")
ops = Ops()


class OpProxy:
    """An op in a pattern: stands for every overload that binds; `.overload` picks one.

    Raises (when called):
        PatternError: No overload takes these arguments.
    """

    def __init__(self, packet: OpPacket, overloads: Sequence[OpOverload] | None = None, name: str = "") -> None:
        self._packet = packet
        self._overloads = overloads
        self._op = name or str(packet._qualified_op_name).replace("::", ".").removeprefix("aten.")

    def __getattr__(self, overload: str) -> OpProxy:
        if overload not in self._packet.overloads():
            raise PatternError(
                f"{self._packet} has no overload '{overload}'", why=f"it has {', '.join(self._packet.overloads())}"
            )
        return OpProxy(self._packet, [getattr(self._packet, overload)], f"{self._op}.{overload}")

    def __call__(self, *args: Any, **kwargs: Any) -> Call:
        """The call as an expression, bound to every overload that takes these arguments."""
        given = [as_expr(value) for value in args]
        named = {name: as_expr(value) for name, value in kwargs.items()}
        bindings: dict[Any, Binding] = {}
        problems: list[str] = []
        for overload in self._overloads or [getattr(self._packet, name) for name in self._packet.overloads()]:
            bound = bind(overload, given, named)
            if isinstance(bound, str):
                problems.append(f"{overload._schema}: {bound}")
            else:
                bindings[overload] = Binding.of(bound)
        if not bindings:
            raise PatternError(f"{self._packet} cannot be called like this in a pattern", why="; ".join(problems))
        if self._overloads is None:
            bindings |= _aliases(self._packet, given, named)
        return Call(self._op, (*(("", expr) for expr in given), *named.items()), bindings)


def _aliases(packet: OpPacket, args: Sequence[Expr], kwargs: Mapping[str, Expr]) -> dict[Any, Binding]:
    bindings: dict[Any, Binding] = {}
    for alias, fixed in ALIASES.get(packet._qualified_op_name, ()):
        overload = getattr(torch.ops.aten, alias).default
        bound = bind(overload, args, {**kwargs, **{name: Literal(value) for name, value in fixed.items()}})
        if not isinstance(bound, str):
            bindings[overload] = Binding.of(bound)
    return bindings


def bind(overload: OpOverload, args: Sequence[Expr], kwargs: Mapping[str, Expr]) -> dict[str, Expr] | str:
    """Arguments by schema name with defaults filled in, or the reason why the overload cannot take them."""
    arguments = overload._schema.arguments
    positional = [a.name for a in arguments if not a.kwarg_only]
    if len(args) > len(positional):
        return f"takes {len(positional)} positional arguments, given {len(args)}"
    given = dict(zip(positional, args, strict=False))
    for name, expr in kwargs.items():
        if name in given:
            return f"argument '{name}' is given twice"
        given[name] = expr
    unknown = given.keys() - {a.name for a in arguments}
    if unknown:
        return f"has no argument '{min(unknown)}'"
    bound: dict[str, Expr] = {}
    for a in arguments:
        if a.name not in given and not a.has_default_value():
            return f"argument '{a.name}' is missing"
        kind = str(a.type)
        expr = _as_list(given[a.name], kind, getattr(a, "N", None)) if a.name in given else Literal(a.default_value)
        if not _fits(expr, kind):
            return f"argument '{a.name}' is a {kind}"
        bound[a.name] = expr
    return bound


def _as_list(expr: Expr, kind: str, length: int | None) -> Expr:
    """A single int where the schema allows it for a list (`int[1] dim`)."""
    single = isinstance(expr, Literal) and isinstance(expr.expected, int) and length is not None
    return Literal([expr.expected] * length) if single and "List[int]" in kind else expr  # type: ignore[attr-defined,operator]


def _fits(expr: Expr, kind: str) -> bool:
    """Whether an expression could match a value of a schema type; only literals and lists are looked into."""
    if kind.startswith("Optional["):
        return (isinstance(expr, Literal) and expr.expected is None) or _fits(expr, kind[len("Optional[") : -1])
    if isinstance(expr, ListOf):
        return kind.startswith("List[")
    if not isinstance(expr, Literal):
        return True
    value = expr.expected
    if isinstance(value, (list, tuple)):
        return kind.startswith("List[")
    if isinstance(value, str):
        return kind in ("str", "Device", "Dimname")
    if isinstance(value, (bool, int, float, complex)):
        return kind in ("Tensor", "number", "Scalar", "bool", "int", "float", "complex", "SymInt")
    return value is not None and not kind.startswith(("Tensor", "List["))


def call(function: Any, *args: Any, **kwargs: Any) -> Call:
    """A call of a plain Python function, such as `operator.getitem`, with exactly these arguments."""
    given = {f"arg{i}": as_expr(value) for i, value in enumerate(args)}
    named = {name: as_expr(value) for name, value in kwargs.items()}
    written = (*(("", expr) for expr in given.values()), *named.items())
    return Call(function.__name__, written, {function: Binding.of({**given, **named})})


def call_operator(op: str, *args: Any) -> Expr:
    """The call that a Python operator on tensors stands for."""
    if op == "getitem":
        return call(operator.getitem, *args)
    if op == "rsub":
        # `1 - x` is exported as rsub(x, 1) for a number, but as sub(y, x) for a tensor
        from graphwright.passes.patterns.combinators import any_of

        return any_of(aten.rsub(*args), aten.sub(*reversed(args)))
    return getattr(aten, op)(*args)
