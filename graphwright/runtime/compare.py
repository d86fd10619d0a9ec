"""Comparison of a graph's results with those of the original forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Largest accepted difference relative to the largest value: rounding, summed over the layers of a deep model.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def first_difference(
    expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor], narrow: torch.dtype | None = None
) -> str | None:
    """What is different between two lists of tensors, None if nothing beyond rounding, to `narrow` if it is given."""
    if len(expected) != len(actual):
        return f"{len(actual)} tensors instead of {len(expected)}"
    pairs = enumerate(zip(expected, actual, strict=True))
    return next((f"tensor {i} {text}" for i, (want, have) in pairs if (text := difference(want, have, narrow))), None)


def difference(expected: torch.Tensor, actual: torch.Tensor, narrow: torch.dtype | None = None) -> str | None:
    """What is different between two tensors, None if nothing beyond rounding; NaN equals NaN.

    Args:
        expected: The original's.
        actual: The graph's.
        narrow: Dtype of products in the graph, None for that of the tensors.
    """
    if not isinstance(actual, torch.Tensor):
        return f"is a {type(actual).__name__}"
    for name in ("dtype", "shape", "device"):
        want, have = getattr(expected, name), getattr(actual, name)
        if want != have:
            return f"has {name} {have} instead of {want}"
    if torch.equal(expected, actual) or expected.numel() == 0:
        return None
    if not expected.is_floating_point():
        return "has other values"
    wide = torch.promote_types(expected.dtype, torch.float32)
    want, have = expected.detach().to(wide), actual.detach().to(wide)
    if not torch.equal(want.isfinite(), have.isfinite()):
        return "is infinite or NaN in other places"
    finite = want.isfinite()
    largest = want.masked_fill(~finite, 0).abs().max()
    error = (want - have).masked_fill(~finite, 0).abs().max()
    allowed = _TOLERANCE.get(narrow or expected.dtype, 1e-4) * max(float(largest), 1e-6)
    return f"differs by {float(error):.3g} (largest value {float(largest):.3g})" if error > allowed else None
