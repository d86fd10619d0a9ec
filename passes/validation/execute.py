"""Running both sides of a region and comparing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphwright.ir.encoding import decode
from graphwright.ir.record import NodeRecord
from graphwright.ir.targets import resolve_target

_WIDE = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}
_WIDE_COMPLEX = {torch.complex64: torch.complex128, torch.complex32: torch.complex128}


def widened(value: Any) -> Any:
    """A dtype or tensor in double precision; anything else, integers included, as it is."""
    if isinstance(value, torch.dtype):
        return _WIDE.get(value) or _WIDE_COMPLEX.get(value, value)
    return value.to(widened(value.dtype)) if isinstance(value, torch.Tensor) else value


def run(nodes: Sequence[NodeRecord], leaves: Mapping[str, Any], wide: bool) -> dict[str, Any]:
    """Values by name of nodes in an order that can be executed.

    Args:
        nodes: Calls and state reads; what they read comes before them or is a leaf.
        leaves: Values by name.
        wide: Compute in double precision: every floating-point dtype that an op is given becomes float64, and what it
            makes of integers in the default dtype too.
    """
    values = dict(leaves)
    for node in nodes:
        args = [_argument(value, values, wide) for value in node.args]
        kwargs = {key: _argument(value, values, wide) for key, value in node.kwargs}
        result = resolve_target(node.target)(*args, **kwargs)
        values[node.name] = pytree.tree_map(widened, result) if wide else result
    return values


def _argument(encoded: Any, values: Mapping[str, Any], wide: bool) -> Any:
    value = decode(encoded, values)
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return _widen_dtypes(value) if wide else value


def _widen_dtypes(value: Any) -> Any:
    return widened(value) if isinstance(value, torch.dtype) else value


def mismatch(expected: Any, actual: Any, tolerance: float) -> str | None:
    """Why `actual` may not stand for `expected`, None if it may.

    Where `expected` is NaN, anything may be. An infinity may become finite. A difference may be `tolerance` times the
    largest finite magnitude in `expected`.
    """
    old, new = pytree.tree_leaves(expected), pytree.tree_leaves(actual)
    if len(old) != len(new):
        return f"{len(new)} values instead of {len(old)}"
    reasons = (_mismatch(a, b, tolerance) for a, b in zip(old, new, strict=True))
    return next((reason for reason in reasons if reason), None)


def _mismatch(expected: Any, actual: Any, tolerance: float) -> str | None:
    if not isinstance(expected, torch.Tensor) or not isinstance(actual, torch.Tensor):
        same = bool(expected == actual) if not isinstance(actual, torch.Tensor) else False
        return None if same else f"{actual!r} instead of {expected!r}"
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        kinds = [f"{tensor.dtype}{list(tensor.shape)}" for tensor in (actual, expected)]
        return f"{kinds[0]} instead of {kinds[1]}"
    if not expected.dtype.is_floating_point and not expected.dtype.is_complex:
        wrong = int((expected != actual).sum())
        return f"{wrong} of {expected.numel()} values differ" if wrong else None
    return _float_mismatch(widened(expected), widened(actual), tolerance, torch.finfo(expected.dtype).max)


def _float_mismatch(expected: torch.Tensor, actual: torch.Tensor, tolerance: float, limit: float) -> str | None:
    """Compare; a value in the upper half of its dtype's range may overflow by a rounding."""
    finite = expected.isfinite() & (actual.isfinite() | (expected.abs() < limit / 2))
    if not finite.any():
        return None
    lost = int((finite & ~actual.isfinite()).sum())
    if lost:
        return f"{lost} of {expected.numel()} finite values became NaN or infinite"
    errors = (expected - actual).abs()[finite]
    worst, allowed = float(errors.max()), tolerance * float(expected.abs()[finite].max()) + 1e-12
    return f"largest difference {worst:.3g}, allowed {allowed:.3g}" if worst > allowed else None
